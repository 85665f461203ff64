//! Who sleeps, and where: samples of `/proc`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use blkproof_sim::script::{Op, Site};

/// A task as it was sampled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Task {
    pub(super) tid: i32,
    pub(super) name: String,
    /// R, S, D, Z, X …
    pub(super) state: char,
}

impl Task {
    fn read(dir: &Path, tid: i32) -> Option<Self> {
        Self::parse(&fs::read_to_string(dir.join("stat")).ok()?, tid)
    }

    fn parse(stat: &str, tid: i32) -> Option<Self> {
        // The name is in parentheses and may itself contain them.
        let (head, rest) = stat.rsplit_once(") ")?;
        let name = head.split_once('(')?.1.to_owned();
        Some(Self { tid, name, state: rest.chars().next()? })
    }

    pub(super) fn sleeps(&self) -> bool {
        matches!(self.state, 'S' | 'D')
    }

    /// Stopped by a signal.
    pub(super) fn is_stopped(&self) -> bool {
        self.state == 'T'
    }

    pub(super) fn is_dead(&self) -> bool {
        matches!(self.state, 'Z' | 'X')
    }
}

/// The threads of a process, and the kernel's that work for it.
pub(super) fn tasks(pid: i32) -> Vec<Task> {
    let dir = PathBuf::from(format!("/proc/{pid}/task"));
    numbers(&dir)
        .into_iter()
        .filter_map(|tid| Task::read(&dir.join(tid.to_string()), tid))
        .collect()
}

fn numbers(dir: &Path) -> Vec<i32> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

/// What a file of `/proc` says now. It need not be opened and closed for that each time, which is most of what it costs.
fn reread(file: &File) -> io::Result<String> {
    // What is read is shorter by far.
    let mut bytes = [0; 1024];
    let read = file.read_at(&mut bytes, 0)?;
    Ok(String::from_utf8_lossy(&bytes[..read]).into_owned())
}

/// Notices that there is a task that was not there before, anywhere: only then must be looked for it.
#[derive(Debug)]
pub(super) struct Births {
    loadavg: File,
    youngest: Option<String>,
}

impl Births {
    pub(super) fn watch() -> io::Result<Self> {
        Ok(Self { loadavg: File::open("/proc/loadavg")?, youngest: None })
    }

    /// Whether there was one since the last time.
    pub(super) fn any(&mut self) -> bool {
        // The last number is that of the youngest task. What cannot be read may have changed.
        let text = reread(&self.loadavg).unwrap_or_default();
        let youngest = text.split_whitespace().nth(4).map(ToOwned::to_owned);
        let same = youngest.is_some() && youngest == self.youngest;
        self.youngest = youngest;
        !same
    }
}

/// The threads of a process, with what the kernel says of each.
#[derive(Debug)]
pub(super) struct Threads {
    dir: PathBuf,
    stats: BTreeMap<i32, File>,
}

impl Threads {
    pub(super) fn of(pid: i32) -> Self {
        Self { dir: PathBuf::from(format!("/proc/{pid}/task")), stats: BTreeMap::new() }
    }

    /// What they do now. New ones are looked for where there may be any.
    pub(super) fn sample(&mut self, born: bool) -> impl Iterator<Item = Task> {
        if born {
            for tid in numbers(&self.dir) {
                if !self.stats.contains_key(&tid)
                    && let Ok(file) = File::open(self.dir.join(format!("{tid}/stat")))
                {
                    self.stats.insert(tid, file);
                }
            }
        }
        let mut found = Vec::with_capacity(self.stats.len());
        // One that is gone can no longer be read.
        self.stats.retain(|tid, file| {
            let task = reread(file).ok().and_then(|stat| Task::parse(&stat, *tid));
            let lives = task.is_some();
            found.extend(task);
            lives
        });
        found.into_iter()
    }
}

/// Watches the kernel's workers.
#[derive(Debug)]
pub(super) struct Workers {
    births: Births,
    /// Their names, which say what they do.
    names: BTreeMap<i32, File>,
    /// Processes that are something else, for as long as they live: they need not be asked again.
    others: BTreeSet<i32>,
}

impl Workers {
    pub(super) fn watch() -> io::Result<Self> {
        let births = Births::watch()?;
        Ok(Self { births, names: BTreeMap::new(), others: BTreeSet::new() })
    }

    /// Whether one is in the middle of something, such as taking down a ring.
    pub(super) fn are_busy(&mut self) -> bool {
        if self.births.any() {
            let pids = numbers(Path::new("/proc"));
            self.others = pids.iter().copied().filter(|pid| self.others.contains(pid)).collect();
            for pid in pids {
                if self.others.contains(&pid) || self.names.contains_key(&pid) {
                    continue;
                }
                let Ok(name) = File::open(format!("/proc/{pid}/comm")) else { continue };
                if reread(&name).is_ok_and(|name| name.starts_with("kworker/")) {
                    self.names.insert(pid, name);
                } else {
                    self.others.insert(pid);
                }
            }
        }
        let mut busy = false;
        // A plus stands before the queue that is worked on, a minus before the last one.
        self.names.retain(|_, file| {
            let name = reread(file);
            busy |= name.as_ref().is_ok_and(|name| name.contains('+'));
            name.is_ok()
        });
        busy
    }
}

/// Where a task sleeps.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Sleep {
    tid: i32,
    /// Not for signals to end: what `mutex_lock` does.
    uninterruptible: bool,
    /// The functions that it is in, the innermost first. Those that only wait are not among them.
    stack: Vec<String>,
}

impl Sleep {
    /// Where this thread of a process sleeps.
    pub(super) fn of(pid: i32, tid: i32) -> Self {
        let dir = PathBuf::from(format!("/proc/{pid}/task/{tid}"));
        let text = fs::read_to_string(dir.join("stack")).unwrap_or_default();
        let uninterruptible = Task::read(&dir, tid).is_some_and(|task| task.state == 'D');
        Self { tid, uninterruptible, stack: stack(&text) }
    }

    /// Where a kernel thread sleeps that carries out a control command of this thread.
    pub(super) fn of_command(pid: i32, submitter: i32, op: &Op, taken: &[(u16, Self, Op)]) -> Self {
        let name = format!("iou-wrk-{submitter}");
        let candidates = tasks(pid)
            .into_iter()
            .filter(|task| {
                task.name == name && !taken.iter().any(|(_, one, _)| one.tid == task.tid)
            })
            .map(|task| Self::of(pid, task.tid))
            .filter(|sleep| sleep.has("ublk_"));
        candidates.min_by_key(|sleep| (!sleep.speaks_of(op), sleep.tid)).unwrap_or_default()
    }

    fn has(&self, function: &str) -> bool {
        self.stack.iter().any(|frame| frame.starts_with(function))
    }

    fn is_in(&self, function: &str) -> bool {
        self.stack.first().is_some_and(|frame| frame.starts_with(function))
    }

    /// Whether it is in such a command.
    fn speaks_of(&self, op: &Op) -> bool {
        let deletes = self.has("ublk_ctrl_del_dev");
        match op.bare() {
            Op::Add { .. } => self.has("ublk_ctrl_add_dev"),
            Op::Params(_) => self.has("ublk_ctrl_set_params"),
            Op::GetParams { .. } => self.has("ublk_ctrl_get_params"),
            Op::Start { .. } => self.has("ublk_ctrl_start_dev"),
            Op::Stop => self.has("ublk_ctrl_stop_dev") || self.has("ublk_stop_dev") && !deletes,
            Op::TryStop => !deletes,
            Op::RegBuf { .. } | Op::UnregBuf { .. } => {
                self.has("ublk_ctrl_reg_buf") || self.has("ublk_ctrl_unreg_buf")
            }
            Op::EndRecovery { .. } => self.has("ublk_ctrl_end_recovery"),
            Op::Del | Op::DelAsync => deletes,
            // What these are in is inlined.
            _ => self.is_in("ublk_ctrl_uring_cmd"),
        }
    }

    /// What it waits for. The functions that wait (`mutex_lock`, `wait_for_completion`) do not show, only their callers.
    pub(super) fn site(&self, op: &Op) -> Site {
        let in_one_of = |functions: &[&str]| functions.iter().any(|one| self.is_in(one));
        if self.has("bdev_mark_dead") {
            Site::Writeback
        } else if self.has("blk_mq_freeze_queue_wait") || self.is_in("msleep") {
            Site::Requests
        } else if self.uninterruptible {
            if self.has("ublk_report_zones") {
                Site::Zones
            } else if self.has("bdev_disk_changed") {
                Site::Scan
            } else if in_one_of(&["del_gendisk", "__del_gendisk", "bdev_open"]) {
                Site::OpenMutex
            } else if in_one_of(&["ublk_ctrl_add_dev", "ublk_ctrl_del_dev"])
                // ADD_DEV of 6.12 and 6.18, inlined.
                || matches!(op.bare(), Op::Add { .. }) && self.is_in("ublk_ctrl_uring_cmd")
            {
                Site::GlobalMutex
            } else if self.is_in("ublk_") {
                Site::DeviceMutex
            } else {
                Site::Elsewhere
            }
        } else if in_one_of(&[
            "ublk_ctrl_start_dev",
            "ublk_ctrl_end_recovery",
            "ublk_wait_dev_ready_and_lock",
            // END_USER_RECOVERY of 6.12 and 6.18, inlined.
            "ublk_ctrl_uring_cmd",
        ]) {
            Site::Ready
        } else if self.is_in("ublk_ctrl_del_dev") {
            Site::Number
        } else {
            Site::Elsewhere
        }
    }
}

impl std::fmt::Display for Sleep {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let state = if self.uninterruptible { 'D' } else { 'S' };
        write!(f, "{state} {}", self.stack.join(" < "))
    }
}

/// The functions of `/proc/…/stack`.
fn stack(text: &str) -> Vec<String> {
    text.lines()
        .filter_map(|line| line.split_whitespace().nth(1))
        .map(|frame| frame.split(['+', '.']).next().unwrap_or(frame).to_owned())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What `/proc/…/stack` shows on kernels 6.12 and 7.3.
    fn sleep(state: char, frames: &str) -> Sleep {
        let frames: Vec<String> =
            frames.split(' ').map(|frame| format!("[<0>] {frame}+0x1/0x2 [ublk_drv]")).collect();
        let text = frames.join("\n");
        Sleep { tid: 1, uninterruptible: state == 'D', stack: stack(&text) }
    }

    #[test]
    fn real_stacks_name_their_sites() {
        for (state, frames, site) in [
            ('D', "blk_mq_freeze_queue_wait del_gendisk ublk_stop_dev ublk_remove", Site::Requests),
            ('D', "blk_mq_freeze_queue_wait elevator_change __del_gendisk", Site::Requests),
            ('S', "ublk_ctrl_del_dev.isra.0 ublk_ctrl_uring_cmd io_uring_cmd", Site::Number),
            ('D', "ublk_ctrl_del_dev.isra.0 ublk_ctrl_uring_cmd io_uring_cmd", Site::GlobalMutex),
            ('S', "ublk_ctrl_start_dev ublk_ctrl_uring_cmd io_uring_cmd", Site::Ready),
            ('S', "ublk_wait_dev_ready_and_lock ublk_ctrl_start_dev.isra.0", Site::Ready),
            ('D', "ublk_wait_dev_ready_and_lock ublk_ctrl_start_dev.isra.0", Site::DeviceMutex),
            ('D', "ublk_stop_dev ublk_remove ublk_ctrl_del_dev", Site::DeviceMutex),
            ('D', "__del_gendisk del_gendisk ublk_stop_dev", Site::OpenMutex),
            ('S', "ublk_ctrl_uring_cmd io_uring_cmd io_issue_sqe", Site::Ready),
            ('D', "msleep ublk_stop_dev_unlocked ublk_stop_dev", Site::Requests),
            (
                'D',
                "folio_wait_writeback filemap_write_and_wait_range bdev_mark_dead del_gendisk",
                Site::Writeback,
            ),
            ('D', "blk_mq_get_tag blkdev_writepages bdev_mark_dead", Site::Writeback),
            ('D', "blk_execute_rq ublk_report_zones blk_revalidate_disk_zones", Site::Zones),
            ('S', "futex_do_wait futex_wait", Site::Elsewhere),
        ] {
            assert_eq!(sleep(state, frames).site(&Op::Stop), site, "{state} {frames}");
        }
    }

    #[test]
    fn this_thread_is_a_task() {
        let pid = std::process::id() as i32;
        assert!(tasks(pid).iter().any(|task| task.tid == pid && !task.is_dead()));
    }

    #[test]
    fn a_thread_is_noticed_when_it_is_born_and_when_it_is_gone() {
        let mut births = Births::watch().unwrap();
        let mut threads = Threads::of(std::process::id() as i32);
        let (end, ended) = std::sync::mpsc::channel::<()>();
        assert!(births.any());
        let (tell, told) = std::sync::mpsc::channel();
        let thread = std::thread::spawn(move || {
            tell.send(rustix::thread::gettid().as_raw_nonzero().get()).unwrap();
            let _ = ended.recv();
        });
        let tid = told.recv().unwrap();
        let mut sees = |born| threads.sample(born).any(|task| task.tid == tid);
        assert!(births.any());
        assert!(!sees(false));
        assert!(sees(true) && sees(false));
        drop(end);
        thread.join().unwrap();
        // It is gone soon after it was joined.
        assert!((0..1000).any(|_| {
            std::thread::sleep(std::time::Duration::from_millis(1));
            !sees(false)
        }));
    }
}
