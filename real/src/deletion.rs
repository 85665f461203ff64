//! Taking a device down, in whatever state it and its processes are.

use blkproof_engine::cause::{Cause, Problem, Step};
use blkproof_engine::supervisor::{Deadlines, Plan, Supervisor};
use blkproof_engine::sys::Exit;
use blkproof_engine::uapi::{DevId, Errno};

use crate::board::{Board, Name};
use crate::driver::{self, SupervisorDriver};
use crate::error::{Attempt, Error, Result};
use crate::state_file::RunDir;
use crate::{openers, os};

/// What became of the device.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Deleted {
    /// It was there, and is gone.
    Deleted,
    /// It had gone before; only its files were left.
    WasGone,
}

/// Stops and deletes a device (with `if_unused` only one that nobody has open), whoever brought it up, and removes what was written down of it.
///
/// # Errors
/// Why the device, or a process of its, is still there.
pub fn delete(run_dir: &RunDir, id: u32, if_unused: bool) -> Result<Deleted> {
    let state = run_dir.read(id);
    let worker = state.as_ref().map(|state| state.worker);
    let resident = state.as_ref().map(|state| state.supervisor);
    // An interrupt ends this process like any other: the kernel takes an unfinished command back, and `del` can be run again.
    let operator = os::signal_fd(&[]).attempting(|| "preparing to wait".into())?;
    let mut driver = SupervisorDriver::of_others(operator, worker, resident);
    let plan = Plan::Delete {
        id: DevId(id),
        worker: worker.map(|worker| worker.pid),
        supervisor: resident.map(|resident| resident.pid),
        if_unused,
    };
    let mut supervisor = Supervisor::new(plan, Deadlines::DEFAULT);
    let mut publisher = Board::default().publisher(Name::Supervisor);
    let deleted = match driver::run(&mut supervisor, &mut driver, &mut publisher) {
        Exit::Finished => Deleted::Deleted,
        Exit::Failed(Cause { step: Step::GetDevInfo, problem: Problem::Errno(Errno::ENODEV) })
            if run_dir.ids().contains(&id) =>
        {
            Deleted::WasGone
        }
        Exit::Failed(cause @ Cause { step: Step::SupervisorExit, .. }) => {
            let pid = resident.map_or(0, |resident| resident.pid);
            return Err(Error::from(cause).advice(format!(
                "the device is deleted, but its supervisor process is still there: kill {pid}, then run this again"
            )));
        }
        Exit::Failed(cause @ Cause { problem: Problem::InUse, .. }) => {
            let error = Error::from(cause);
            let users = openers::of(DevId(id));
            return Err(if users.is_empty() {
                error.advice("nobody shows in /proc who has it open: another namespace, or it has been closed since")
            } else {
                error.advice(format!("it is in use by {}", users.join(", ")))
            });
        }
        Exit::Failed(cause) => return Err(cause.into()),
        Exit::Stuck { cause, step } => {
            return Err(Error::stuck(cause, step).advice(
                "a client may hold the device open: unmount it, close it (fuser -v shows by whom), then run this again",
            ));
        }
    };
    run_dir.remove_if(id, resident);
    Ok(deleted)
}
