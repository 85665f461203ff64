//! Bringing back a device whose worker is gone.

use std::path::PathBuf;

use blkproof_engine::cause::{Cause, Problem, Step};
use blkproof_engine::control::{Command, Reply};
use blkproof_engine::data::DataMode;
use blkproof_engine::supervisor::{Deadlines, Plan, Recovery, Supervisor};
use blkproof_engine::sys::Exit;
use blkproof_engine::uapi::{DevId, DeviceState, Errno};

use crate::board::{Board, Name};
use crate::cli::unknown;
use crate::driver::{self, SupervisorDriver};
use crate::error::{Attempt, Error, Result};
use crate::state_file::{RunDir, StateFile};
use crate::task::{TargetSpec, Task};
use crate::{devices, launcher, os, query, store};

/// Has a device recovered by its own supervisor, or by a new one if that is gone too. The block device's path.
///
/// # Errors
/// Why the device is not LIVE again.
pub fn recover(run_dir: &RunDir, id: u32) -> Result<PathBuf> {
    let Some(state) = run_dir.read(id) else { return Err(not_ours(run_dir, id)) };
    if state.recovery == Recovery::None {
        return Err(Cause::new(Step::Recover, Problem::NoRecovery).into());
    }
    if state.supervisor.is_running() {
        return ask(run_dir, &state);
    }
    if let TargetSpec::Mem { .. } = state.target {
        return Err(Error::new(
            Step::Recover.to_string(),
            format!("its contents were kept by its supervisor, process {}, which is gone", state.supervisor.pid),
        )
        .advice(format!("`blkproof del {id}`, then add it again: a device in memory does not survive its supervisor")));
    }
    let task = Task {
        id: Some(id),
        queues: state.queues,
        depth: state.depth,
        // The kernel tells these two.
        buffer_bytes: 0,
        data: DataMode::default(),
        target: state.target.clone(),
        recovery: state.recovery,
        restart: state.restart,
        identity: state.identity,
        log: None,
        comes_back: true,
        record: None,
    };
    let back = store::reopen(&state.target)
        .and_then(|store| launcher::bring_back(&task, store.as_ref()));
    back.map_err(|error| {
        if is_served(&state) { Cause::new(Step::Recover, Problem::Served).into() } else { error }
    })
}

/// The device's own supervisor is there: it keeps what the target needs.
fn ask(run_dir: &RunDir, state: &StateFile) -> Result<PathBuf> {
    let id = DevId(state.id);
    let operator = os::signal_fd(&[]).attempting(|| "preparing to wait".into())?;
    let (worker, supervisor) = (Some(state.worker), Some(state.supervisor));
    let mut driver = SupervisorDriver::of_others(operator, worker, supervisor);
    let plan = Plan::Ask { id, identity: state.identity, supervisor: state.supervisor.pid };
    let mut asker = Supervisor::new(plan, Deadlines::DEFAULT);
    let mut publisher = Board::default().publisher(Name::Supervisor);
    let log = run_dir.log(state.id);
    match driver::run(&mut asker, &mut driver, &mut publisher) {
        Exit::Finished => Ok(devices::block_path(id)),
        Exit::Failed(
            cause @ (Cause { step: Step::AttachSupervisor, .. }
            | Cause { step: Step::Recover, problem: Problem::LinkClosed }),
        ) => Err(Error::from(cause).advice("its supervisor has just gone: run this again")),
        Exit::Failed(cause @ Cause { step: Step::Recover, problem: Problem::Deadline }) => {
            Err(Error::from(cause).advice(format!(
                "{} says what failed, `blkproof dump {}` what its supervisor waits for",
                log.display(),
                state.id
            )))
        }
        Exit::Failed(cause) | Exit::Stuck { cause, step: _ } => Err(cause.into()),
    }
}

/// The device is LIVE, and its worker runs: whatever stood in the way did so with reason.
fn is_served(state: &StateFile) -> bool {
    let live = matches!(
        query::ask(Command::GetDevInfo(DevId(state.id))),
        Ok(Reply::DevInfo(info)) if info.state == DeviceState::Live
    );
    live && state.worker.is_running()
}

/// Nothing is written down of the device.
fn not_ours(run_dir: &RunDir, id: u32) -> Error {
    match query::ask(Command::GetDevInfo(DevId(id))) {
        Err(Cause { problem: Problem::Errno(Errno::ENODEV), .. }) => unknown(id),
        Err(cause) => cause.into(),
        Ok(_) => Error::new(
            Step::Recover.to_string(),
            format!("{} does not say what it is made of", run_dir.state(id).display()),
        )
        .advice("a device of another server only that server can bring back"),
    }
}
