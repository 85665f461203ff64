//! The supervisor process: what surrounds its machine.

use std::cell::{Cell, RefCell};
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::process::ExitCode;
use std::rc::Rc;

use blkproof_engine::record::{Recorded, Thread};
use blkproof_engine::supervisor::{Deadlines, Supervisor};
use blkproof_engine::sys::{DeviceGeometry, Exit};
use blkproof_engine::uapi::DevId;

use crate::board::{Board, Name};
use crate::driver::{self, Spawned, SupervisorDriver};
use crate::os;
use crate::peer::Peer;
use crate::process::{self, Process, SUPERVISOR_COMM};
use crate::state_file::{Role, RunDir, StateFile};
use crate::tap::{Shape, Tap, WorkerSpool};
use crate::task::Task;
use crate::{dump, inherit, worker_process};

/// The hidden subcommand.
pub const SUBCOMMAND: &str = "__supervise";
/// How a line of the supervisor's own begins in the log.
pub const LOG_PREFIX: &str = "blkproof supervisor: ";
/// The signals that ask a supervisor to stop.
pub const STOP_SIGNALS: [i32; 3] = [libc::SIGTERM, libc::SIGINT, libc::SIGHUP];
/// The signal that asks a supervisor to recover its device.
pub const RECOVER_SIGNAL: i32 = libc::SIGUSR1;
/// All that it listens to.
pub const ORDER_SIGNALS: [i32; 4] = [libc::SIGTERM, libc::SIGINT, libc::SIGHUP, RECOVER_SIGNAL];

/// Runs a detached supervisor to its end.
pub fn main(task: &str) -> ExitCode {
    match supervise(task) {
        Ok(Exit::Finished) => ExitCode::SUCCESS,
        Ok(Exit::Failed(cause)) => {
            process::report(&format!("{LOG_PREFIX}{cause}"));
            ExitCode::FAILURE
        }
        Ok(Exit::Stuck { cause, step }) => {
            process::report(&format!("{LOG_PREFIX}{cause}; stuck: {step}"));
            ExitCode::FAILURE
        }
        Err(error) => {
            // Not with the prefix: the launcher does not know this yet.
            process::report(&format!("blkproof: the supervisor cannot start: {error}"));
            ExitCode::FAILURE
        }
    }
}

fn supervise(task: &str) -> io::Result<Exit> {
    let task: Task = serde_json::from_str(task)?;
    let (launcher, store) = inherit::take()?;
    // No terminal, no process group of the launcher's.
    rustix::process::setsid()?;
    let _ = rustix::thread::set_name(&std::ffi::CString::new(SUPERVISOR_COMM)?);
    serve(task, Some(store), launcher.into())
}

/// Brings a device up, keeps it, and takes it down when a signal asks for it. The calling process becomes the supervisor.
///
/// # Errors
/// What the system answered before there was a machine to tell.
pub fn serve(task: Task, store: Option<OwnedFd>, launcher: Peer) -> io::Result<Exit> {
    os::block(&ORDER_SIGNALS)?;
    let operator = os::signal_fd(&ORDER_SIGNALS)?;
    let board = Board::default();
    let mut publisher = board.publisher(Name::Supervisor);
    let run_dir = RunDir::from_environment();
    let plan = task.plan();

    let shape = Shape { device: task.id.map(DevId), queues: task.queues, depth: task.depth };
    let tap = task.record.as_ref().map(|record| Tap::supervisor(record, shape)).transpose()?;
    let spools = Rc::new(RefCell::new(Vec::new()));
    let known_id = Rc::new(Cell::new(None));
    let spawn = {
        let (known_id, run_dir) = (Rc::clone(&known_id), run_dir.clone());
        let spools = Rc::clone(&spools);
        move |device: DeviceGeometry| {
            let first = known_id.replace(Some(device.id.0)).is_none();
            let spool = task.record.as_ref().map(Tap::for_worker).transpose()?;
            let board = first.then_some(&board);
            let spawned =
                start_worker(device, &task, store.as_ref(), &run_dir, board, spool.as_ref());
            spools.borrow_mut().extend(spool);
            spawned
        }
    };
    let mut driver = SupervisorDriver::new(operator, launcher, Box::new(spawn));
    let mut supervisor = Supervisor::new(plan, Deadlines::DEFAULT);
    let exit = match &tap {
        None => driver::run(&mut supervisor, &mut driver, &mut publisher),
        Some(tap) => {
            let mut driver = Recorded::new(driver, tap.recorder(Thread::Main));
            driver::run(&mut supervisor, &mut driver, &mut publisher)
        }
    };
    if let Some(tap) = tap {
        spools.borrow().iter().for_each(WorkerSpool::rescue);
        tap.finish();
    }

    // What is written down describes a device: it goes when the device is gone.
    if let (Some(id), None) = (known_id.get(), supervisor.device()) {
        run_dir.remove_if(id, Some(Process::current()));
    }
    Ok(exit)
}

/// The device has a number now: everything that is named after it can be made, with the first worker (`board`).
fn start_worker(
    device: DeviceGeometry,
    task: &Task,
    store: Option<&OwnedFd>,
    run_dir: &RunDir,
    board: Option<&Board>,
    spool: Option<&WorkerSpool>,
) -> io::Result<Spawned> {
    let id = device.id.0;
    // Whoever had the number before may be tidying up only now: until ours is written down, what it would remove are our files.
    let _lock = run_dir.lock();
    if let Some(board) = board {
        if !task.comes_back {
            run_dir.remove(id);
        }
        if let Some(log) = &task.log {
            // Only its name is lost if this fails.
            let _ = fs::rename(log, run_dir.log(id));
        }
        dump::serve(&run_dir.socket(id, Role::Supervisor), board.clone());
    }
    let order = spool.map(|spool| spool.order().clone());
    let spawned = worker_process::spawn(device, &task.target, store, run_dir, order)?;
    let state = StateFile::new(device, task, Process::current(), spawned.process);
    if let Err(error) = run_dir.write(&state) {
        // The worker runs, so it must be known to the machine. `del` finds it by the pid that the kernel knows.
        let path = run_dir.state(id);
        process::report(&format!("blkproof: writing {}: {error}", path.display()));
    }
    Ok(spawned)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::task::TargetSpec;
    use blkproof_engine::data::DataMode;
    use blkproof_engine::supervisor::Recovery;
    use rustix::process::{WaitId, WaitIdOptions, waitid};
    use std::os::fd::AsFd;

    #[test]
    fn a_worker_that_cannot_be_written_down_is_held_all_the_same() {
        let temporary = tempfile::tempdir().expect("a directory");
        let run_dir = RunDir::at(temporary.path());
        fs::create_dir(run_dir.state(3)).expect("a directory where the file should be");
        let data = DataMode::Copy;
        let task = Task {
            id: None,
            queues: 1,
            depth: 1,
            buffer_bytes: 4096,
            data,
            target: TargetSpec::Null { bytes: 4096 },
            recovery: Recovery::None,
            restart: false,
            identity: 0,
            log: None,
            comes_back: false,
            record: None,
        };
        let device = DeviceGeometry {
            id: DevId(3),
            queues: 1,
            depth: 1,
            buffer_bytes: 4096,
            sectors: 8,
            data,
        };

        // The program is this test's, which has no test of the name that a worker is called by.
        let spawned = start_worker(device, &task, None, &run_dir, Some(&Board::default()), None);
        let spawned = spawned.expect("a process");
        let worker = WaitId::PidFd(spawned.pidfd.as_fd());
        let ended = waitid(worker, WaitIdOptions::EXITED).expect("our child").expect("a status");
        assert_eq!(ended.exit_status(), Some(0));
        assert_eq!(run_dir.read(3), None);
    }
}
