//! Changing a device that is served: its worker (`handover`), and its size (`resize`). Its own supervisor does it.

use std::path::PathBuf;

use blkproof_engine::cause::{Cause, Problem, Step};
use blkproof_engine::supervisor::{Deadlines, Errand, Plan, Supervisor};
use blkproof_engine::sys::Exit;
use blkproof_engine::uapi::DevId;

use crate::board::{Board, Name};
use crate::driver::{self, SupervisorDriver};
use crate::error::{Attempt, Error, Result};
use crate::recovery::not_ours;
use crate::state_file::{RunDir, StateFile};
use crate::task::{SECTOR, TargetSpec};
use crate::{devices, os, store};

/// Has a device handed over to another worker. The block device's path.
///
/// # Errors
/// Why the worker is still the same, or gone.
pub fn hand_over(run_dir: &RunDir, id: u32) -> Result<PathBuf> {
    let state = supervised(run_dir, id, Step::Handover)?;
    ask(run_dir, &state, Errand::Handover)?;
    Ok(devices::block_path(DevId(id)))
}

/// Gives a device another size: this one, or with none that of its file.
///
/// # Errors
/// Why its size is the same.
pub fn resize(run_dir: &RunDir, id: u32, bytes: Option<u64>) -> Result<u64> {
    let state = supervised(run_dir, id, Step::Resize)?;
    let bytes = match (&state.target, bytes) {
        (TargetSpec::Loop { file, logical_bs_shift, .. }, wanted) => {
            let most = store::file_bytes(file, *logical_bs_shift)?;
            if let Some(wanted) = wanted.filter(|wanted| *wanted > most) {
                let reason = format!("{} holds {most} bytes, less than {wanted}", file.display());
                return Err(Error::new(Step::Resize.to_string(), reason)
                    .advice("make the file larger first: truncate -s SIZE FILE"));
            }
            wanted.unwrap_or(most)
        }
        (TargetSpec::Null { .. } | TargetSpec::Mem { .. }, Some(wanted)) => wanted,
        (TargetSpec::Null { .. } | TargetSpec::Mem { .. }, None) => {
            return Err(Error::new(
                Step::Resize.to_string(),
                "only a device in a file has a size by itself",
            )
            .advice("say how large: --size 2G"));
        }
    };
    let block = match state.target {
        TargetSpec::Loop { logical_bs_shift, .. } => 1 << logical_bs_shift,
        TargetSpec::Null { .. } | TargetSpec::Mem { .. } => SECTOR,
    };
    if bytes == 0 || !bytes.is_multiple_of(block) {
        let reason =
            format!("{bytes} bytes are no multiple of the device's block, {block}, or none at all");
        return Err(Error::new(Step::Resize.to_string(), reason));
    }
    ask(run_dir, &state, Errand::Resize { sectors: bytes / SECTOR })?;
    Ok(bytes)
}

/// What is written down of a device whose supervisor runs.
fn supervised(run_dir: &RunDir, id: u32, step: Step) -> Result<StateFile> {
    let Some(state) = run_dir.read(id) else { return Err(not_ours(run_dir, id, step)) };
    if state.supervisor.is_running() {
        return Ok(state);
    }
    let reason = format!("its supervisor, process {}, is gone", state.supervisor.pid);
    Err(Error::new(step.to_string(), reason).advice(format!(
        "kill its worker, process {}, then `blkproof recover {id}`: that starts both anew (only with --recovery)",
        state.worker.pid
    )))
}

/// Has a device's own supervisor do something: it keeps what the target needs.
///
/// # Errors
/// Why it is not done.
pub fn ask(run_dir: &RunDir, state: &StateFile, errand: Errand) -> Result<()> {
    let id = DevId(state.id);
    let operator = os::signal_fd(&[]).attempting(|| "preparing to wait".into())?;
    let (worker, supervisor) = (Some(state.worker), Some(state.supervisor));
    let mut driver = SupervisorDriver::of_others(operator, worker, supervisor);
    let plan = Plan::Ask { errand, id, identity: state.identity, supervisor: state.supervisor.pid };
    let mut asker = Supervisor::new(plan, Deadlines::DEFAULT);
    let mut publisher = Board::default().publisher(Name::Supervisor);
    let log = run_dir.log(state.id);
    match driver::run(&mut asker, &mut driver, &mut publisher) {
        Exit::Finished => Ok(()),
        Exit::Failed(
            cause @ (Cause { step: Step::AttachSupervisor, .. }
            | Cause { problem: Problem::LinkClosed, .. }),
        ) => Err(Error::from(cause).advice("its supervisor has just gone: run this again")),
        Exit::Failed(cause @ Cause { problem: Problem::Deadline, .. }) => Err(Error::from(cause)
            .advice(format!(
                "{} says what failed, `blkproof dump {}` what its supervisor waits for",
                log.display(),
                state.id
            ))),
        Exit::Failed(cause) | Exit::Stuck { cause, step: _ } => Err(cause.into()),
    }
}
