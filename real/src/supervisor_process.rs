//! The supervisor process: what surrounds its machine.

use std::cell::{Cell, RefCell};
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::rc::Rc;

use blkproof_engine::link::News;
use blkproof_engine::record::{Recorded, Thread};
use blkproof_engine::supervisor::{Deadlines, Supervisor};
use blkproof_engine::sys::{DeviceGeometry, Exit};
use blkproof_engine::uapi::DevId;

use crate::board::{Board, Name};
use crate::driver::{self, Keeper, Spawned, SupervisorDriver};
use crate::os::{self, Store};
use crate::peer::Peer;
use crate::process::{self, Process, SUPERVISOR_COMM};
use crate::state_file::{Role, RunDir, StateFile};
use crate::tap::{Shape, Tap, WorkerSpool};
use crate::task::{SECTOR, TargetSpec, Task};
use crate::{dump, inherit, orders, shared, store, worker_process};

/// The hidden subcommand.
pub const SUBCOMMAND: &str = "__supervise";
/// How a line of the supervisor's own begins in the log.
pub const LOG_PREFIX: &str = "blkproof supervisor: ";

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
    let signals = orders::signals();
    os::block(&signals)?;
    let operator = os::signal_fd(&signals)?;
    let board = Board::default();
    let mut publisher = board.publisher(Name::Supervisor);
    let run_dir = RunDir::from_environment();
    // Mapped for as long as this process lives. A device that comes back has it registered.
    let shared = task.shared.as_ref().filter(|_| !task.comes_back);
    let shared = shared.map(shared::map).transpose()?;
    let plan = task.plan(shared.as_ref().map(Store::registration));

    let shape = Shape { device: task.id.map(DevId), queues: task.queues, depth: task.depth };
    let tap = task.record.as_ref().map(|record| Tap::supervisor(record, shape)).transpose()?;
    let spools = Rc::new(RefCell::new(Vec::new()));
    let known_id = Rc::new(Cell::new(None));
    let programs = Rc::new(RefCell::new(Programs::new()));
    let task = Rc::new(RefCell::new(task));
    let store = Rc::new(store);
    let hear = {
        let (known_id, run_dir) = (Rc::clone(&known_id), run_dir.clone());
        let (programs, task) = (Rc::clone(&programs), Rc::clone(&task));
        move |news: News| match news {
            News::Recovered => programs.borrow_mut().keep(),
            News::Resized(sectors) => {
                let mut task = task.borrow_mut();
                task.target = task.target.resized(sectors * SECTOR);
                if let Some(id) = known_id.get() {
                    write_down_size(&run_dir, id, &task.target);
                }
            }
            News::WorkerLost(_)
            | News::WorkerEnded
            | News::RecoveryFailed(_)
            | News::Unserved
            | News::HandingOver
            | News::Refused(_) => {}
        }
    };
    let fit = {
        let (store, task) = (Rc::clone(&store), Rc::clone(&task));
        move |sectors: u64| store::fit(&task.borrow().target, (*store).as_ref(), sectors * SECTOR)
    };
    let spawn = {
        let (known_id, run_dir) = (Rc::clone(&known_id), run_dir.clone());
        let spools = Rc::clone(&spools);
        move |device: DeviceGeometry, renewed: bool| {
            let task = task.borrow();
            let program = programs.borrow_mut().choose(renewed);
            let first = known_id.replace(Some(device.id.0)).is_none();
            let spool = task.record.as_ref().map(Tap::for_worker).transpose()?;
            let board = first.then_some(&board);
            let spawned = start_worker(
                device,
                &task,
                (&program, (*store).as_ref()),
                &run_dir,
                board,
                spool.as_ref(),
            );
            spools.borrow_mut().extend(spool);
            spawned
        }
    };
    let keeper = Keeper { spawn: Box::new(spawn), fit: Box::new(fit), hear: Box::new(hear) };
    let mut driver = SupervisorDriver::new(operator, launcher, keeper);
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
    (program, store): (&Path, Option<&OwnedFd>),
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
    let what = (&task.target, task.shared.as_ref());
    let spawned = worker_process::spawn(device, what, (program, store), run_dir, order)?;
    let state = StateFile::new(device, task, Process::current(), spawned.process);
    if let Err(error) = run_dir.write(&state) {
        // The worker runs, so it must be known to the machine. `del` finds it by the pid that the kernel knows.
        let path = run_dir.state(id);
        process::report(&format!("blkproof: writing {}: {error}", path.display()));
    }
    Ok(spawned)
}

/// The device has another size: the commands that come later are to know it.
fn write_down_size(run_dir: &RunDir, id: u32, target: &TargetSpec) {
    let _lock = run_dir.lock();
    let Some(state) = run_dir.read(id).filter(|state| state.supervisor == Process::current())
    else {
        return;
    };
    let state = StateFile { target: target.clone(), size_bytes: target.bytes(), ..state };
    if let Err(error) = run_dir.write(&state) {
        // The kernel knows it too, and is asked first.
        process::report(&format!("blkproof: writing {}: {error}", run_dir.state(id).display()));
    }
}

/// The programs that workers are started from: the supervisor's own; or, after a handover that went well, what was found then in its place.
struct Programs {
    /// Where the supervisor's own was found.
    path: Option<PathBuf>,
    /// What the worker that serves was renewed from, kept open: a file that is replaced once more stays what it is.
    kept: Option<File>,
    /// What the worker that is being started was renewed from.
    tried: Option<File>,
}

impl Programs {
    fn new() -> Self {
        Self { path: std::env::current_exe().ok(), kept: None, tried: None }
    }

    /// The program of the next worker.
    fn choose(&mut self, renewed: bool) -> PathBuf {
        self.tried =
            if renewed { self.path.as_ref().and_then(|path| File::open(path).ok()) } else { None };
        match self.tried.as_ref().or(self.kept.as_ref()) {
            Some(file) => format!("/proc/self/fd/{}", file.as_raw_fd()).into(),
            None => worker_process::THIS_PROGRAM.into(),
        }
    }

    /// The last one works.
    fn keep(&mut self) {
        self.kept = self.tried.take().or(self.kept.take());
    }
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
            batch: false,
            target: TargetSpec::Null { bytes: 4096 },
            recovery: Recovery::None,
            restart: false,
            identity: 0,
            log: None,
            comes_back: false,
            record: None,
            shared: None,
        };
        let device = DeviceGeometry {
            id: DevId(3),
            queues: 1,
            depth: 1,
            buffer_bytes: 4096,
            sectors: 8,
            data,
            batch: false,
            shared_bytes: 0,
        };

        // The program is this test's, which has no test of the name that a worker is called by.
        let spawned = start_worker(
            device,
            &task,
            (Path::new(worker_process::THIS_PROGRAM), None),
            &run_dir,
            Some(&Board::default()),
            None,
        );
        let spawned = spawned.expect("a process");
        let worker = WaitId::PidFd(spawned.pidfd.as_fd());
        let ended = waitid(worker, WaitIdOptions::EXITED).expect("our child").expect("a status");
        assert_eq!(ended.exit_status(), Some(0));
        assert_eq!(run_dir.read(3), None);
    }
}
