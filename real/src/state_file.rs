//! State files: what a supervisor wrote down of its device, for the commands that come after it.
//!
//! They are hints. Whether a device exists, and in which state, only the kernel knows; whether a process is the one that was
//! written down is checked by its start time. A file that cannot be read is as good as none.

use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use blkproof_engine::supervisor::Recovery;
use blkproof_engine::sys::DeviceGeometry;
use rustix::fs::FlockOperation;
use serde::{Deserialize, Serialize};

use crate::process::Process;
use crate::task::{SECTOR, SharedSpec, TargetSpec, Task};

/// The variable that names another run directory.
pub const RUN_DIR_VARIABLE: &str = "BLKPROOF_RUN_DIR";
const DEFAULT_RUN_DIR: &str = "/run/blkproof";
/// The format's version.
const VERSION: u32 = 2;
/// How long another process may keep the lock: it does so for as long as it takes to start a worker.
const LOCK_PATIENCE: Duration = Duration::from_secs(2);
const LOCK_POLL_INTERVAL: Duration = Duration::from_millis(10);

/// A device of ours.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct StateFile {
    /// The format's version.
    pub version: u32,
    /// The device's number.
    pub id: u32,
    /// Where its bytes are.
    pub target: TargetSpec,
    /// Its size.
    pub size_bytes: u64,
    /// Hardware queues granted.
    pub queues: u16,
    /// Tags of each queue.
    pub depth: u16,
    /// What becomes of it without a worker.
    pub recovery: Recovery,
    /// Whether its supervisor replaces a worker that is gone.
    pub restart: bool,
    /// The number by which it is known again, as the kernel keeps it.
    pub identity: u64,
    /// What clients share with its worker.
    #[serde(default)]
    pub shared: Option<SharedSpec>,
    /// The process that brought it up, or back.
    pub supervisor: Process,
    /// The process that serves it.
    pub worker: Process,
}

impl StateFile {
    /// A state file of the current version.
    pub fn new(device: DeviceGeometry, task: &Task, supervisor: Process, worker: Process) -> Self {
        Self {
            version: VERSION,
            id: device.id.0,
            target: task.target.resized(device.sectors * SECTOR),
            size_bytes: device.sectors * SECTOR,
            queues: device.queues,
            depth: device.depth,
            recovery: task.recovery,
            restart: task.restart,
            identity: task.identity,
            shared: task.shared.clone().filter(|_| device.shared_bytes > 0),
            supervisor,
            worker,
        }
    }
}

/// The directory of state files, logs and sockets.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RunDir(PathBuf);

/// Files change hands only while this is held. Given back when it is dropped.
#[derive(Debug)]
pub struct Lock {
    _directory: fs::File,
}

/// Which process of a device.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Role {
    /// The supervisor.
    Supervisor,
    /// The worker.
    Worker,
}

impl RunDir {
    /// The directory named by the environment, or the usual one. A process is told its parent's, as it may work elsewhere.
    pub fn from_environment() -> Self {
        let named = std::env::var_os(RUN_DIR_VARIABLE).filter(|named| !named.is_empty());
        Self::at(named.map_or_else(|| DEFAULT_RUN_DIR.into(), PathBuf::from))
    }

    /// This directory, named so that it means the same from every working directory.
    pub fn at(path: impl AsRef<Path>) -> Self {
        let path = path.as_ref();
        // Without a working directory there is nothing to make of it: whatever uses it will say that it is not there.
        Self(std::path::absolute(path).unwrap_or_else(|_| path.to_owned()))
    }

    /// The directory itself.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Creates the directory, for its owner only.
    ///
    /// # Errors
    /// What the system answered.
    pub fn create(&self) -> io::Result<()> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.0)
    }

    /// Where the state of a device is.
    pub fn state(&self, id: u32) -> PathBuf {
        self.0.join(format!("{id}.json"))
    }

    /// Where the log of a device's processes is.
    pub fn log(&self, id: u32) -> PathBuf {
        self.0.join(format!("{id}.log"))
    }

    /// The log of a supervisor whose device has no number yet.
    pub fn starting_log(&self) -> PathBuf {
        self.0.join(format!("starting-{}.log", std::process::id()))
    }

    /// Where a device's process answers `dump`.
    pub fn socket(&self, id: u32, role: Role) -> PathBuf {
        let role = match role {
            Role::Supervisor => "sup",
            Role::Worker => "work",
        };
        self.0.join(format!("{id}.{role}.sock"))
    }

    /// Writes a state file: it is there whole, or not at all.
    ///
    /// # Errors
    /// What the system answered.
    pub fn write(&self, state: &StateFile) -> io::Result<()> {
        let path = self.state(state.id);
        let partial = path.with_extension(format!("json.{}", std::process::id()));
        let text = serde_json::to_vec_pretty(state)?;
        let written = fs::write(&partial, text).and_then(|()| fs::rename(&partial, path));
        if written.is_err() {
            let _ = fs::remove_file(partial);
        }
        written
    }

    /// Reads the state file of a device. `None` if there is none that makes sense.
    pub fn read(&self, id: u32) -> Option<StateFile> {
        let bytes = fs::read(self.state(id)).ok()?;
        let state: StateFile = serde_json::from_slice(&bytes).ok()?;
        (state.version == VERSION && state.id == id).then_some(state)
    }

    /// The numbers of all devices that have a file with a state file's name.
    pub fn ids(&self) -> Vec<u32> {
        let Ok(entries) = fs::read_dir(&self.0) else { return Vec::new() };
        entries
            .flatten()
            .filter_map(|entry| entry.file_name().to_str()?.strip_suffix(".json")?.parse().ok())
            .collect()
    }

    /// Keeps other processes from making and removing the files of a device. `None` if the directory is not there, or if another
    /// process, one that was stopped perhaps, keeps it locked for too long.
    pub fn lock(&self) -> Option<Lock> {
        let directory = fs::File::open(&self.0).ok()?;
        let deadline = Instant::now() + LOCK_PATIENCE;
        loop {
            match rustix::fs::flock(&directory, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => return Some(Lock { _directory: directory }),
                Err(rustix::io::Errno::WOULDBLOCK) if Instant::now() < deadline => {
                    thread::sleep(LOCK_POLL_INTERVAL);
                }
                Err(_) => return None,
            }
        }
    }

    /// Removes everything that belongs to a device, unless its number belongs to another supervisor by now: it may be granted anew as
    /// soon as the device is gone. `supervisor` is the one that was written down, if that could be read.
    ///
    /// Whoever is granted a number holds the lock from removing what is left there to writing its own state file. So while
    /// we hold it, files without a state file are nobody's.
    pub fn remove_if(&self, id: u32, supervisor: Option<Process>) {
        let Some(_lock) = self.lock() else { return };
        let written = self.read(id).map(|state| state.supervisor);
        if written == supervisor || !self.state(id).exists() {
            self.remove(id);
        }
    }

    /// Removes everything that belongs to a device. Right only under the lock, for a process that was just granted the number.
    pub fn remove(&self, id: u32) {
        let files = [
            self.state(id),
            self.log(id),
            self.socket(id, Role::Supervisor),
            self.socket(id, Role::Worker),
        ];
        for file in files {
            // What is not there need not be removed; what cannot be removed is no reason to fail a deletion that succeeded.
            let _ = fs::remove_file(file);
        }
    }
}

/// A state file for tests: a mem device of a page, whose processes are the one given.
#[cfg(test)]
pub(crate) fn state_of(id: u32, process: Process) -> StateFile {
    StateFile {
        version: VERSION,
        id,
        target: TargetSpec::Mem { bytes: 4096 },
        size_bytes: 4096,
        queues: 2,
        depth: 64,
        recovery: Recovery::FailIo,
        restart: true,
        identity: u64::MAX,
        shared: None,
        supervisor: process,
        worker: process,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(id: u32) -> StateFile {
        let process = Process { pid: 1, started: 2 };
        state_of(id, process)
    }

    #[test]
    fn what_was_written_is_read_and_removed() {
        let temporary = tempfile::tempdir().expect("a directory");
        let run = RunDir::at(temporary.path().join("run"));
        assert_eq!(run.read(3), None);
        run.create().expect("created");
        run.write(&state(3)).expect("written");
        assert_eq!(run.read(3), Some(state(3)));
        assert_eq!(run.ids(), [3]);
        run.remove(3);
        assert_eq!(run.read(3), None);
        assert_eq!(fs::read_dir(run.path()).expect("it exists").count(), 0);
    }

    #[test]
    fn a_relative_directory_is_the_same_from_every_working_directory() {
        let here = std::env::current_dir().expect("a working directory");
        assert_eq!(RunDir::at("run/x").path(), here.join("run/x"));
        assert_eq!(RunDir::at("/run/x").path(), Path::new("/run/x"));
    }

    #[test]
    fn a_state_file_that_cannot_be_written_leaves_nothing() {
        let temporary = tempfile::tempdir().expect("a directory");
        let run = RunDir::at(temporary.path());
        fs::create_dir(run.state(3)).expect("a directory");
        run.write(&state(3)).expect_err("a file does not replace a directory");
        assert_eq!(fs::read_dir(run.path()).expect("it exists").count(), 1);
    }

    #[test]
    fn the_files_of_a_number_that_was_granted_anew_stay() {
        let temporary = tempfile::tempdir().expect("a directory");
        let run = RunDir::at(temporary.path());
        let us = Process { pid: 1, started: 2 };
        let another = Process { started: 3, ..us };
        let left = |run: &RunDir| [run.state(3), run.log(3)].map(|path| path.exists());

        for other in [None, Some(another)] {
            run.write(&state(3)).expect("written");
            fs::write(run.log(3), "").expect("written");
            run.remove_if(3, other);
            assert_eq!(left(&run), [true, true], "{other:?}");
        }
        run.remove_if(3, Some(us));
        assert_eq!(left(&run), [false, false]);

        // A state file that was never written, or cannot be read.
        fs::write(run.log(3), "").expect("written");
        run.remove_if(3, Some(us));
        assert_eq!(left(&run), [false, false]);
        fs::write(run.state(3), "{").expect("written");
        run.remove_if(3, Some(us));
        assert_eq!(left(&run), [true, false], "it may be another's");
        run.remove_if(3, None);
        assert_eq!(left(&run), [false, false]);
    }

    #[test]
    fn nothing_is_removed_while_a_number_changes_hands() {
        let temporary = tempfile::tempdir().expect("a directory");
        let run = RunDir::at(temporary.path());
        let us = Process { pid: 1, started: 2 };
        run.write(&state(3)).expect("written");
        let lock = run.lock().expect("free");
        thread::scope(|scope| {
            scope.spawn(|| run.remove_if(3, Some(us)));
            thread::sleep(Duration::from_millis(50));
            run.remove(3);
            fs::write(run.log(3), "").expect("written");
            run.write(&StateFile { supervisor: Process { started: 3, ..us }, ..state(3) })
                .expect("written");
            drop(lock);
        });
        assert!(run.state(3).exists() && run.log(3).exists());
    }

    #[test]
    fn corrupt_foreign_and_newer_files_are_as_good_as_none() {
        let temporary = tempfile::tempdir().expect("a directory");
        let run = RunDir::at(temporary.path());
        let newer = serde_json::to_string(&StateFile { version: VERSION + 1, ..state(3) });
        let other = serde_json::to_string(&state(4));
        for text in ["", "{", "[]", "\u{0}", &newer.expect("json"), &other.expect("json")] {
            fs::write(run.state(3), text).expect("written");
            assert_eq!(run.read(3), None, "{text:?}");
        }
        fs::write(temporary.path().join("x.json"), "").expect("written");
        fs::write(temporary.path().join("-1.json"), "").expect("written");
        assert_eq!(run.ids(), [3]);
    }
}
