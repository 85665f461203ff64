//! The launcher: starts a supervisor, waits for its verdict, and tells the user.

use std::fs;
use std::io::{self, Read, Seek};
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;

use blkproof_engine::cause::{Cause, Problem, Step};
use blkproof_engine::data::DataMode;
use blkproof_engine::launcher::Launcher;
use blkproof_engine::supervisor::Deadlines;
use blkproof_engine::sys::{Exit, WorkerExit};
use blkproof_engine::uapi::DevId;
use rustix::fs::FlockOperation;

use crate::board::{Board, Name};
use crate::driver::{self, LauncherDriver};
use crate::error::{Attempt, Class, Error, Result};
use crate::peer::Peer;
use crate::state_file::{RUN_DIR_VARIABLE, RunDir};
use crate::task::Task;
use crate::{devices, orders, os, store, supervisor_process, worker_process};

/// Brings a device up and leaves it to a detached supervisor. The block device's path.
///
/// # Errors
/// Why there is no device; nothing is left behind, unless the error says so.
pub fn detach(mut task: Task, store: Option<&OwnedFd>) -> Result<PathBuf> {
    let attempt = || "starting the supervisor process".to_owned();
    let run_dir = RunDir::from_environment();
    create(&run_dir)?;
    let path = run_dir.starting_log();
    let mut log = fs::File::create(&path)
        .and_then(|_| fs::File::options().read(true).append(true).open(&path))
        .attempting(|| format!("creating {}", path.display()))?;
    task.log = Some(path.clone());
    // Before the supervisor starts, so that a signal handed on to it waits until it listens.
    os::block(&orders::STOP_SIGNALS).attempting(attempt)?;
    let up = start(&task, store, &log, &run_dir)
        .attempting(attempt)
        .and_then(|(peer, child)| await_up(peer, Some(&child), Some(asked(&task))));
    match up {
        Ok(path) => Ok(path),
        Err(error) => {
            show(&mut log, 0);
            // There, if it failed before the device had a number.
            let _ = fs::remove_file(path);
            Err(error)
        }
    }
}

/// Brings back a device that has lost both its processes, and leaves it to a detached supervisor. The block device's path.
///
/// # Errors
/// Why it is not back; it is as it was, unless the error says that it still may come.
pub fn bring_back(task: &Task, store: Option<&OwnedFd>) -> Result<PathBuf> {
    let attempt = || Step::Recover.to_string();
    let run_dir = RunDir::from_environment();
    create(&run_dir)?;
    let path = run_dir.log(task.id.unwrap_or_default());
    let mut log = fs::File::options()
        .read(true)
        .append(true)
        .create(true)
        .open(&path)
        .attempting(|| format!("opening {}", path.display()))?;
    // Whoever inherits the open file keeps the lock: the supervisor and its worker.
    rustix::fs::flock(&log, FlockOperation::NonBlockingLockExclusive).map_err(|_| {
        Error::new(
            attempt(),
            "another process is bringing it back, or a worker of its is not gone yet",
        )
        .advice("`blkproof list` shows the device; run this again if it is not LIVE")
    })?;
    let said = log.seek(io::SeekFrom::End(0)).unwrap_or_default();
    os::block(&orders::STOP_SIGNALS).attempting(attempt)?;
    let up = start(task, store, &log, &run_dir)
        .attempting(attempt)
        .and_then(|(peer, child)| await_up(peer, Some(&child), None));
    up.inspect_err(|_| show(&mut log, said))
}

/// Brings a device up and looks after it in this process, until a signal asks to stop or the worker ends.
///
/// # Errors
/// Why there is no device any more.
pub fn foreground(task: Task, store: Option<OwnedFd>, up: fn(&Path)) -> Result<()> {
    let attempt = || "starting the supervisor".to_owned();
    create(&RunDir::from_environment())?;
    // Before the thread starts, so that it leaves the signals to the supervisor.
    os::block(&orders::signals()).attempting(attempt)?;
    let (ours, theirs) = Peer::pair().attempting(attempt)?;
    let asked = Some(asked(&task));
    let announce = thread::spawn(move || await_up(ours, None, asked).map(|path| up(&path)));
    let exit = supervisor_process::serve(task, store, theirs).attempting(attempt)?;
    let announced = announce.join().map_err(|_| Error::new(attempt(), "a thread panicked"))?;
    match exit {
        Exit::Finished => Ok(()),
        Exit::Failed(cause) => {
            announced?;
            let class = match cause.problem {
                Problem::WorkerExited(WorkerExit::Signal(signal)) => Class::Killed(signal),
                _ => Class::Failed,
            };
            Err(Error::from(cause)
                .advice("the device stays as the kernel left it: `blkproof list`, `blkproof del`")
                .class(class))
        }
        Exit::Stuck { cause, step } => Err(left_behind(cause, step)),
    }
}

fn create(run_dir: &RunDir) -> Result<()> {
    run_dir.create().map_err(|error| {
        Error::new(format!("creating {}", run_dir.path().display()), error)
            .advice("run as root, or name a directory of your own in BLKPROOF_RUN_DIR")
    })
}

fn start(
    task: &Task,
    store: Option<&OwnedFd>,
    log: &fs::File,
    run_dir: &RunDir,
) -> io::Result<(Peer, Child)> {
    let (ours, theirs) = Peer::pair()?;
    let child = Command::new(worker_process::THIS_PROGRAM)
        .arg0("blkproof")
        .args([supervisor_process::SUBCOMMAND, &serde_json::to_string(task)?])
        .stdin(OwnedFd::from(theirs))
        .stdout(store::share(store)?.map_or_else(Stdio::null, Stdio::from))
        .stderr(log.try_clone()?)
        // A relative one would mean another place there.
        .env(RUN_DIR_VARIABLE, run_dir.path())
        .current_dir("/")
        .spawn()?;
    Ok((ours, child))
}

/// Waits for the verdict and for the device's node. An interrupt is handed on to the supervisor, which then unwinds and says so.
/// `asked`: what of the device the kernel may grant or not, if it is new; otherwise it is brought back as it was.
fn await_up(peer: Peer, supervisor: Option<&Child>, asked: Option<Asked>) -> Result<PathBuf> {
    let stop = supervisor.map_or(&[][..], |_| &orders::STOP_SIGNALS);
    let signals = os::signal_fd(stop).attempting(|| "waiting for the supervisor".into())?;
    let mut driver = LauncherDriver::new(signals, peer, supervisor.map(Child::id));
    let launcher = if asked.is_some() { Launcher::new } else { Launcher::of_recovery };
    let mut launcher = launcher(Deadlines::DEFAULT);
    let mut publisher = Board::default().publisher(Name::Launcher);
    let exit = driver::run(&mut launcher, &mut driver, &mut publisher);
    if let Some(id) = launcher.device() {
        let path = devices::block_path(id);
        if !launcher.found_node() {
            eprintln!(
                "blkproof: the device is LIVE, but {} has not appeared: is devtmpfs or udev at work?",
                path.display()
            );
        }
        if let Some(asked) = asked {
            tell_granted(id, asked);
        }
        return Ok(path);
    }
    Err(match exit {
        Exit::Stuck { cause, step } => left_behind(cause, step),
        Exit::Failed(Cause { step: Step::Verdict, problem }) => {
            let attempt = Step::Verdict.to_string();
            if problem == Problem::Deadline {
                Error::new(attempt, "it said nothing for too long")
                    .advice("`blkproof list`, then `blkproof dump ID` shows what it waits for")
            } else if problem == Problem::Stopped {
                Error::new(attempt, "interrupted; the recovery itself goes on")
                    .advice("`blkproof list` shows whether the device is LIVE")
            } else {
                Error::new(attempt, "it ended without a word")
                    .advice("`blkproof list` shows whether it left a device behind")
            }
        }
        Exit::Failed(cause) => cause.into(),
        Exit::Finished => unreachable!("a launcher finishes with a device"),
    })
}

/// How data is to move, whether in batches, and whether it may lie in shared memory.
type Asked = (DataMode, bool, bool);

const fn asked(task: &Task) -> Asked {
    (task.data, task.batch, task.shared.is_some())
}

/// Says so if the kernel granted something else than was asked for.
fn tell_granted(id: DevId, (asked, batch, share): Asked) {
    let Some((granted, batches, shares)) = devices::granted(id) else { return };
    let path = devices::block_path(id);
    if granted != asked {
        eprintln!(
            "blkproof: this kernel has no {}: {} is served in {} mode",
            asked.name(),
            path.display(),
            granted.name()
        );
    }
    if batch && !batches {
        eprintln!(
            "blkproof: there are no batches, for want of them in this kernel or of a second tag: {} is served with a command for each tag",
            path.display()
        );
    }
    if share && !shares {
        eprintln!(
            "blkproof: this kernel shares no memory with clients: {} is served without",
            path.display()
        );
    }
}

fn left_behind(cause: Cause, step: Step) -> Error {
    Error::stuck(cause, step)
        .advice("`blkproof list` shows what is left; `blkproof del ID` tries again")
}

/// What the processes had to say beyond the cause that the supervisor told us: a panic, for example.
fn show(log: &mut fs::File, from: u64) {
    let mut text = String::new();
    // The processes wrote through the same open file: its position is at the end.
    let _ = log.seek(io::SeekFrom::Start(from)).and_then(|_| log.read_to_string(&mut text));
    let known = [supervisor_process::LOG_PREFIX, worker_process::LOG_PREFIX];
    for line in text.lines().filter(|line| !known.iter().any(|prefix| line.starts_with(prefix))) {
        eprintln!("{line}");
    }
}
