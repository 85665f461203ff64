//! The worker process: what surrounds its machine.

use std::backtrace::{Backtrace, BacktraceStatus};
use std::fmt::Write as _;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::panic::PanicHookInfo;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::sync::Arc;
use std::{fs, io, thread};

use blkproof_engine::data::DataMode;
use blkproof_engine::record::{Recorded, Thread};
use blkproof_engine::sys::{DeviceGeometry, Exit};
use blkproof_engine::worker::{self, Worker};
use rustix::mm::MlockAllFlags;
use rustix::process::{Pid, PidfdFlags, Resource, Rlimit, pidfd_open};

use crate::board::{Board, Name};
use crate::driver::{self, Spawned, WorkerDriver};
use crate::os::{self, Backend, Store};
use crate::peer::Peer;
use crate::process::{self, Process, WORKER_COMM};
use crate::state_file::{RUN_DIR_VARIABLE, Role, RunDir};
use crate::tap::{Shape, Tap, WorkerRecording};
use crate::task::{SECTOR, SharedSpec, TargetSpec, WorkOrder};
use crate::{dump, inherit, shared, store};

/// The hidden subcommand.
pub const SUBCOMMAND: &str = "__work";
/// How a line about the worker's end begins in the log.
pub const LOG_PREFIX: &str = "blkproof worker: ";
/// The program, whatever its file is called by now.
pub const THIS_PROGRAM: &str = "/proc/self/exe";

/// Starts a worker process, in a process group of its own: an interrupt typed at a terminal is for the supervisor alone.
///
/// # Errors
/// What the system answered.
pub fn spawn(
    device: DeviceGeometry,
    (target, shared): (&TargetSpec, Option<&SharedSpec>),
    (program, store): (&Path, Option<&OwnedFd>),
    run_dir: &RunDir,
    record: Option<WorkerRecording>,
) -> io::Result<Spawned> {
    let (link, child_link) = Peer::pair()?;
    let (target, shared) = (target.clone(), shared.cloned());
    let order = serde_json::to_string(&WorkOrder { device, target, shared, record })?;
    let mut child = Command::new(program)
        .arg0("blkproof")
        .args([SUBCOMMAND, &order])
        .env(RUN_DIR_VARIABLE, run_dir.path())
        .stdin(OwnedFd::from(child_link))
        .stdout(store::share(store)?.map_or_else(Stdio::null, Stdio::from))
        .current_dir("/")
        .process_group(0)
        .spawn()?;
    // Whoever cannot be awaited must not run.
    let pidfd = pidfd_open(Pid::from_child(&child), PidfdFlags::empty()).inspect_err(|_| {
        let _ = child.kill().and_then(|()| child.wait());
    })?;
    let process = Process::find(child.id()).unwrap_or(Process { pid: child.id(), started: 0 });
    Ok(Spawned { process, pidfd, link })
}

/// Runs a worker to its end. Never returns to `main`'s caller with threads still running: the exit code ends the process.
pub fn main(order: &str) -> ExitCode {
    match work(order) {
        Ok(Exit::Finished) => ExitCode::SUCCESS,
        Ok(Exit::Failed(cause) | Exit::Stuck { cause, step: _ }) => {
            process::report(&format!("{LOG_PREFIX}{cause}"));
            ExitCode::FAILURE
        }
        Err(error) => {
            // Not with the prefix: the supervisor cannot know this.
            process::report(&format!("blkproof: the worker cannot start: {error}"));
            ExitCode::FAILURE
        }
    }
}

fn work(order: &str) -> io::Result<Exit> {
    let order: WorkOrder = serde_json::from_str(order)?;
    let (link, file) = inherit::take()?;
    harden()?;
    let device = order.device;
    let backend = match &order.target {
        TargetSpec::Null { .. } if device.data == DataMode::ZeroCopy => {
            Backend::Zeroes(Arc::new(fs::File::open("/dev/zero")?.into()))
        }
        TargetSpec::Null { .. } => Backend::Nothing,
        TargetSpec::Mem { .. } => {
            let store = Store::map(file, device.sectors * SECTOR)
                .map_err(|errno| io::Error::from_raw_os_error(i32::from(errno.0)))?;
            Backend::Memory(Arc::new(store))
        }
        TargetSpec::Loop { .. } => Backend::File(Arc::new(file)),
    };
    let shared = order.shared.as_ref().filter(|_| device.shared_bytes > 0);
    let shared = shared.map(shared::map).transpose()?.map(Arc::new);
    let board = Board::default();
    let mut publisher = board.publisher(Name::Worker);
    let socket = RunDir::from_environment().socket(device.id.0, Role::Worker);
    dump::serve(&socket, board.clone());
    let shape = Shape { device: Some(device.id), queues: device.queues, depth: device.depth };
    let tap = order.record.as_ref().map(|record| Tap::worker(record, shape)).transpose()?;
    let tap = tap.map(Arc::new);
    let target = order.target.target();
    let means = (backend, shared);
    let mut driver = WorkerDriver::new(device, target, means, link.into(), board, tap.clone())?;
    let mut worker = Worker::new(device, worker::RING_MODE);
    let exit = match &tap {
        None => {
            let exit = driver::run(&mut worker, &mut driver, &mut publisher);
            // The rings are closed by the end of the process, all at once.
            std::mem::forget(driver);
            exit
        }
        Some(tap) => {
            let mut driver = Recorded::new(driver, tap.recorder(Thread::Main));
            let exit = driver::run(&mut worker, &mut driver, &mut publisher);
            std::mem::forget(driver);
            tap.finish();
            exit
        }
    };
    Ok(exit)
}

/// What a process that serves block I/O must not do: die slowly, alone, or of its own memory.
fn harden() -> io::Result<()> {
    // A thread that dies alone leaves its tags armed and its clients waiting (H04).
    std::panic::set_hook(Box::new(|panic| {
        process::report(&describe(panic));
        std::process::abort();
    }));
    // It ends when its supervisor or the kernel says so. A signal meant for the supervisor, or sent to every process at shutdown,
    // must not take a device away that is still mounted.
    os::block(&[libc::SIGTERM, libc::SIGINT, libc::SIGHUP])?;
    // The rest is best effort: an unprivileged worker works without.
    let _ = rustix::thread::set_name(&std::ffi::CString::new(WORKER_COMM)?);
    // A core dump keeps the device's files open until it is written (H38).
    let none = Rlimit { current: Some(0), maximum: Some(0) };
    let _ = rustix::process::setrlimit(Resource::Core, none);
    // Memory that is reclaimed through our own device would wait for us (H51).
    let _ = rustix::process::configure_io_flusher_behavior(true);
    if rustix::process::geteuid().is_root() {
        let all = MlockAllFlags::CURRENT | MlockAllFlags::FUTURE | MlockAllFlags::ONFAULT;
        let _ = rustix::mm::mlockall(all);
    }
    Ok(())
}

/// What the standard library's own report says; that one would wait for its reader.
fn describe(panic: &PanicHookInfo<'_>) -> String {
    let thread = thread::current();
    let mut text = format!("thread '{}' {panic}", thread.name().unwrap_or("unnamed"));
    let backtrace = Backtrace::capture();
    if backtrace.status() == BacktraceStatus::Captured {
        let _ = write!(text, "\n{backtrace}");
    }
    text
}
