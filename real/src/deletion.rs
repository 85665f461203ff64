//! Taking a device down, in whatever state it and its processes are.

use std::thread;
use std::time::{Duration, Instant};

use blkproof_engine::cause::{Cause, Problem, Step};
use blkproof_engine::supervisor::{Deadlines, Plan, Supervisor};
use blkproof_engine::sys::Exit;
use blkproof_engine::uapi::{DevId, Errno};

use crate::board::{Board, Name};
use crate::driver::{self, SupervisorDriver};
use crate::error::{Attempt, Error, Result};
use crate::os;
use crate::process::Process;
use crate::state_file::RunDir;

/// How long a resident supervisor may take to notice that its device is gone.
const SUPERVISOR_PATIENCE: Duration = Duration::from_secs(5);
const POLL_INTERVAL: Duration = Duration::from_millis(10);

/// What became of the device.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Deleted {
    /// It was there, and is gone.
    Deleted,
    /// It had gone before; only its files were left.
    WasGone,
}

/// Stops and deletes a device, whoever brought it up, and removes what was written down of it.
///
/// # Errors
/// Why the device, or a process of its, is still there.
pub fn delete(run_dir: &RunDir, id: u32) -> Result<Deleted> {
    let state = run_dir.read(id);
    let worker = state.as_ref().map(|state| state.worker);
    // An interrupt ends this process like any other: the kernel takes an unfinished command back, and `del` can be run again.
    let operator = os::signal_fd(&[]).attempting(|| "preparing to wait".into())?;
    let mut driver = SupervisorDriver::for_deletion(operator, worker);
    let plan = Plan::Delete { id: DevId(id), worker: worker.map(|worker| worker.pid) };
    let mut supervisor = Supervisor::new(plan, Deadlines::DEFAULT);
    let mut publisher = Board::default().publisher(Name::Supervisor);
    let deleted = match driver::run(&mut supervisor, &mut driver, &mut publisher) {
        Exit::Finished => Deleted::Deleted,
        Exit::Failed(Cause { step: Step::GetDevInfo, problem: Problem::Errno(Errno::ENODEV) })
            if run_dir.ids().contains(&id) =>
        {
            Deleted::WasGone
        }
        Exit::Failed(cause) => return Err(cause.into()),
        Exit::Stuck { cause, step } => {
            return Err(Error::stuck(cause, step).advice(
                "a client may hold the device open: unmount it, close it (fuser -v shows by whom), then run this again",
            ));
        }
    };
    if let Some(state) = state {
        await_exit(state.supervisor)?;
    }
    run_dir.remove(id);
    Ok(deleted)
}

/// Waits for the resident supervisor, which the worker's end tells that its device is gone.
fn await_exit(supervisor: Process) -> Result<()> {
    let deadline = Instant::now() + SUPERVISOR_PATIENCE;
    while supervisor.is_running() {
        if Instant::now() > deadline {
            let attempt = format!("waiting for the supervisor process {}", supervisor.pid);
            return Err(Error::new(attempt, "the device is deleted, but the process has not ended")
                .advice(format!("kill {}, then run this again", supervisor.pid)));
        }
        thread::sleep(POLL_INTERVAL);
    }
    Ok(())
}
