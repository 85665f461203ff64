//! The devices of this machine, ours and others'.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use blkproof_engine::cause::{Cause, Problem, Step};
use blkproof_engine::control::{Command, Reply};
use blkproof_engine::data::DataMode;
use blkproof_engine::supervisor::Recovery;
use blkproof_engine::uapi::{DevId, DevInfo, Errno, Features};
use serde::Serialize;

use crate::error::Result;
use crate::process::Process;
use crate::query;
use crate::state_file::{RunDir, StateFile};
use crate::task::SECTOR;

const CHAR_PREFIX: &str = "ublkc";
/// Places where every device shows, whoever made it: `/dev` may be private to a container, `/sys` may not be mounted.
const CHAR_DIRECTORIES: [&str; 2] = ["/dev", "/sys/class/ublk-char"];
/// The target shown for a device of another server.
const NO_TARGET: &str = "unknown";
/// The state shown for a device that only a state file remembers.
const GONE: &str = "GONE";
/// The state shown for a device that the driver does not tell us of.
const UNKNOWN: &str = "UNKNOWN";

/// The character device.
pub fn char_path(id: DevId) -> PathBuf {
    PathBuf::from(format!("/dev/{CHAR_PREFIX}{}", id.0))
}

/// The block device.
pub fn block_path(id: DevId) -> PathBuf {
    PathBuf::from(format!("/dev/ublkb{}", id.0))
}

/// One line of `blkproof list`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Listed {
    /// Its number.
    pub id: u32,
    /// The kernel's state, or `GONE`, or `UNKNOWN`.
    pub state: &'static str,
    /// What it is made of; `unknown` for another server's device.
    pub target: &'static str,
    /// The block device.
    pub path: PathBuf,
    /// The character device.
    pub char_path: PathBuf,
    /// Its size; 0 while nobody tells: another server's device is not started.
    pub size_bytes: u64,
    /// Hardware queues; 0 while nobody tells.
    pub queues: u16,
    /// Tags of each queue; 0 while nobody tells.
    pub depth: u16,
    /// How its data moves, if the kernel tells and it is one of our modes.
    pub data: Option<DataMode>,
    /// Whether commands are about many tags at a time; none while the kernel does not tell.
    pub batch: Option<bool>,
    /// What becomes of it without a worker: `none`, `requeue`, `reissue` or `fail-io`; none while nobody tells.
    pub recovery: Option<&'static str>,
    /// The process that serves it, if it runs.
    pub worker_pid: Option<u32>,
    /// The process that looks after it, if it is ours and runs.
    pub supervisor_pid: Option<u32>,
    /// Why its state is `UNKNOWN`.
    pub error: Option<String>,
}

/// The numbers of all devices.
pub fn ids(run_dir: &RunDir) -> BTreeSet<u32> {
    let in_directory = |directory| {
        let entries = fs::read_dir(directory).into_iter().flatten().flatten();
        entries
            .filter_map(|entry| entry.file_name().to_str()?.strip_prefix(CHAR_PREFIX)?.parse().ok())
    };
    CHAR_DIRECTORIES.into_iter().flat_map(in_directory).chain(run_dir.ids()).collect()
}

/// Looks at a device. `None` if there is no trace of it.
///
/// # Errors
/// What the driver answered, unless that is that it does not tell us of this device.
pub fn look(run_dir: &RunDir, id: u32) -> Result<Option<Listed>> {
    let state = run_dir.read(id);
    match query::ask(Command::GetDevInfo(DevId(id))) {
        Ok(Reply::DevInfo(info)) => Ok(Some(listed(&info, state.as_ref()))),
        Ok(Reply::Nothing | Reply::Features(_) | Reply::Params(_)) => Ok(None),
        Err(Cause { problem: Problem::Errno(Errno::ENODEV), .. }) => {
            Ok(state.as_ref().map(remembered))
        }
        Err(cause) if is_refusal(cause) => Ok(Some(untold(id, state.as_ref(), cause))),
        Err(cause) => Err(cause.into()),
    }
}

/// How the data of a device moves, and whether in batches, as the kernel tells.
pub fn granted(id: DevId) -> Option<(DataMode, bool, bool)> {
    match query::ask(Command::GetDevInfo(id)) {
        Ok(Reply::DevInfo(info)) => {
            let has = |feature| info.flags.contains(feature);
            Some((DataMode::of(info.flags)?, has(Features::BATCH_IO), has(Features::SHMEM_ZC)))
        }
        Ok(Reply::Nothing | Reply::Features(_) | Reply::Params(_)) | Err(_) => None,
    }
}

/// The size of a device's disk, as its parameters say.
pub fn size_bytes(id: DevId) -> Option<u64> {
    match query::ask(Command::GetParams(id)) {
        Ok(Reply::Params(params)) => params.dev_sectors.checked_mul(SECTOR),
        Ok(Reply::Nothing | Reply::Features(_) | Reply::DevInfo(_)) | Err(_) => None,
    }
}

/// Whether the device is not ours to ask. An unprivileged device (`UBLK_F_UNPRIVILEGED_DEV`) answers to whoever names its character
/// device and may open it; to a question without that name, even root's, it answers EINVAL.
fn is_refusal(cause: Cause) -> bool {
    cause.step == Step::GetDevInfo
        && matches!(cause.problem, Problem::Errno(Errno::EINVAL | Errno::EPERM | Errno::EACCES))
}

/// A device that exists, and what can be seen of it from outside.
fn untold(id: u32, state: Option<&StateFile>, cause: Cause) -> Listed {
    let known = state.map_or_else(|| unseen(DevId(id)), remembered);
    Listed {
        state: UNKNOWN,
        size_bytes: disk_bytes(DevId(id)).unwrap_or(known.size_bytes),
        error: Some(format!("{cause}; it is an unprivileged device, or not this user's to ask")),
        ..known
    }
}

fn unseen(id: DevId) -> Listed {
    Listed {
        id: id.0,
        state: UNKNOWN,
        target: NO_TARGET,
        path: block_path(id),
        char_path: char_path(id),
        size_bytes: 0,
        queues: 0,
        depth: 0,
        data: None,
        batch: None,
        recovery: None,
        worker_pid: None,
        supervisor_pid: None,
        error: None,
    }
}

fn listed(info: &DevInfo, state: Option<&StateFile>) -> Listed {
    let id = info.dev_id;
    Listed {
        id: id.0,
        state: info.state.name(),
        target: state.map_or(NO_TARGET, |state| state.target.name()),
        path: block_path(id),
        char_path: char_path(id),
        size_bytes: disk_bytes(id).or(state.map(|state| state.size_bytes)).unwrap_or(0),
        queues: info.nr_hw_queues,
        depth: info.queue_depth,
        data: DataMode::of(info.flags),
        batch: Some(info.flags.contains(Features::BATCH_IO)),
        recovery: Some(recovery(info.flags).name()),
        // The kernel names a server until there is another one.
        worker_pid: u32::try_from(info.ublksrv_pid)
            .ok()
            .filter(|pid| *pid > 0 && Process::find(*pid).is_some())
            .or_else(|| {
                state.filter(|state| state.worker.is_running()).map(|state| state.worker.pid)
            }),
        supervisor_pid: state
            .filter(|state| state.supervisor.is_running())
            .map(|state| state.supervisor.pid),
        error: None,
    }
}

fn remembered(state: &StateFile) -> Listed {
    let id = DevId(state.id);
    let running = |process: Process| process.is_running().then_some(process.pid);
    Listed {
        id: state.id,
        state: GONE,
        target: state.target.name(),
        path: block_path(id),
        char_path: char_path(id),
        size_bytes: state.size_bytes,
        queues: state.queues,
        depth: state.depth,
        data: None,
        batch: None,
        recovery: Some(state.recovery.name()),
        worker_pid: running(state.worker),
        supervisor_pid: running(state.supervisor),
        error: None,
    }
}

/// The kind of recovery that a device's flags mean.
fn recovery(flags: Features) -> Recovery {
    let mut kinds = Recovery::ALL.into_iter().rev();
    kinds.find(|kind| flags.contains(kind.features())).unwrap_or_default()
}

/// The size of the disk, while there is one.
fn disk_bytes(id: DevId) -> Option<u64> {
    let name = block_path(id);
    let size = Path::new("/sys/block").join(name.file_name()?).join("size");
    let sectors: u64 = fs::read_to_string(size).ok()?.trim().parse().ok()?;
    sectors.checked_mul(SECTOR)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state_file::state_of;

    /// A number that no device has.
    const ID: u32 = 1 << 30;

    #[test]
    fn a_device_that_is_not_ours_to_ask_is_listed_with_the_reason() {
        let cause = Cause::errno(Step::GetDevInfo, Errno::EINVAL);
        let listed = untold(ID, None, cause);
        assert_eq!((listed.state, listed.target, listed.size_bytes), ("UNKNOWN", "unknown", 0));
        let error = listed.error.expect("a reason");
        assert!(error.contains(&cause.to_string()), "{error}");

        let nobody = Process { pid: u32::MAX, started: 0 };
        let state = state_of(ID, nobody);
        let listed = untold(ID, Some(&state), cause);
        assert_eq!((listed.state, listed.target, listed.size_bytes), ("UNKNOWN", "mem", 4096));
    }

    #[test]
    fn what_is_not_about_the_device_is_no_refusal() {
        for errno in [Errno::EPERM, Errno::EACCES, Errno::EINVAL] {
            assert!(is_refusal(Cause::errno(Step::GetDevInfo, errno)), "{errno}");
            assert!(!is_refusal(Cause::errno(Step::ControlRing, errno)), "{errno}");
        }
        assert!(!is_refusal(Cause::errno(Step::GetDevInfo, Errno::EIO)));
        assert!(!is_refusal(Cause::new(Step::GetDevInfo, Problem::Deadline)));
    }
}
