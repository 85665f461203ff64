//! Bringing back a device whose worker is gone.

use std::path::PathBuf;

use blkproof_engine::cause::{Cause, Problem, Step};
use blkproof_engine::control::{Command, Reply};
use blkproof_engine::data::DataMode;
use blkproof_engine::supervisor::{Errand, Recovery};
use blkproof_engine::uapi::{DevId, DeviceState, Errno};

use crate::change::ask;
use crate::cli::unknown;
use crate::error::{Error, Result};
use crate::state_file::{RunDir, StateFile};
use crate::task::{TargetSpec, Task};
use crate::{devices, launcher, query, store};

/// Has a device recovered by its own supervisor, or by a new one if that is gone too. The block device's path.
///
/// # Errors
/// Why the device is not LIVE again.
pub fn recover(run_dir: &RunDir, id: u32) -> Result<PathBuf> {
    let Some(state) = run_dir.read(id) else { return Err(not_ours(run_dir, id, Step::Recover)) };
    if state.recovery == Recovery::None {
        return Err(Cause::new(Step::Recover, Problem::NoRecovery).into());
    }
    if state.supervisor.is_running() {
        ask(run_dir, &state, Errand::Recover)?;
        return Ok(devices::block_path(DevId(id)));
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
        batch: false,
        // Its size may have changed since that was written down.
        target: devices::size_bytes(DevId(id))
            .map_or_else(|| state.target.clone(), |bytes| state.target.resized(bytes)),
        recovery: state.recovery,
        restart: state.restart,
        identity: state.identity,
        log: None,
        comes_back: true,
        record: None,
        shared: state.shared.clone(),
    };
    let back =
        store::reopen(&task.target).and_then(|store| launcher::bring_back(&task, store.as_ref()));
    back.map_err(|error| {
        if is_served(&state) { Cause::new(Step::Recover, Problem::Served).into() } else { error }
    })
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
pub(crate) fn not_ours(run_dir: &RunDir, id: u32, step: Step) -> Error {
    match query::ask(Command::GetDevInfo(DevId(id))) {
        Err(Cause { problem: Problem::Errno(Errno::ENODEV), .. }) => unknown(id),
        Err(cause) => cause.into(),
        Ok(_) => Error::new(
            step.to_string(),
            format!("{} does not say what it is made of", run_dir.state(id).display()),
        )
        .advice("what is to be done with a device of another server only that server can do"),
    }
}
