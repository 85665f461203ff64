//! Which process it is: a pid alone is reused, a pid with its start time is not. And how a process says its last words.

use std::os::fd::AsFd;
use std::{fs, io};

use rustix::event::{PollFd, PollFlags, Timespec};
use serde::{Deserialize, Serialize};

/// The name that a worker's threads' process bears (`/proc/PID/comm`).
pub const WORKER_COMM: &str = "blkproof-work";
/// The name of a supervisor.
pub const SUPERVISOR_COMM: &str = "blkproof-sup";

/// A process.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Process {
    /// Its id, in our namespace.
    pub pid: u32,
    /// When it started, in clock ticks since boot.
    pub started: u64,
}

impl Process {
    /// The process that has this id now.
    pub fn find(pid: u32) -> Option<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        Some(Self { pid, started: start_time(&stat)? })
    }

    /// The calling process.
    pub fn current() -> Self {
        let pid = std::process::id();
        Self::find(pid).unwrap_or(Self { pid, started: 0 })
    }

    /// Whether it has neither ended nor been replaced by another one with the same id.
    pub fn is_running(&self) -> bool {
        Self::find(self.pid).is_some_and(|found| found.started == self.started)
    }
}

/// The name of a process.
pub fn comm(pid: u32) -> Option<String> {
    Some(fs::read_to_string(format!("/proc/{pid}/comm")).ok()?.trim_end().to_owned())
}

/// Says something on standard error, if that takes it at once.
///
/// A process that others wait for must not wait for whoever reads what it says: a pipe that nobody empties would keep it from
/// its end. No lock is taken, so a thread that is stuck in a write does not matter either.
pub fn report(text: &str) {
    // There is nobody left to tell.
    let _ = offer(io::stderr(), text);
}

/// Writes a text and a newline, without waiting. Cut to what a pipe that has room takes whole.
fn offer(fd: impl AsFd, text: &str) -> io::Result<()> {
    const PIPE_BUF: usize = 4096;
    const AT_ONCE: Timespec = Timespec { tv_sec: 0, tv_nsec: 0 };
    let mut polled = [PollFd::new(&fd, PollFlags::OUT)];
    rustix::event::poll(&mut polled, Some(&AT_ONCE))?;
    if !polled[0].revents().contains(PollFlags::OUT) {
        return Err(io::ErrorKind::WouldBlock.into());
    }
    let mut bytes = text.as_bytes().to_vec();
    bytes.truncate(PIPE_BUF - 1);
    bytes.push(b'\n');
    rustix::io::write(fd, &bytes)?;
    Ok(())
}

/// Field 22 of `/proc/PID/stat`; none for a process that has ended and only waits to be reaped. The name in field 2 may hold anything,
/// but ends at the last parenthesis.
fn start_time(stat: &str) -> Option<u64> {
    const FIELD: usize = 22;
    let (_, after_name) = stat.rsplit_once(')')?;
    let mut fields = after_name.split_ascii_whitespace();
    if matches!(fields.next()?, "Z" | "X") {
        return None;
    }
    fields.nth(FIELD - 4)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_spaces_and_parentheses_does_not_shift_the_fields() {
        let stat = "7 (a) b (c)) S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 4242 20";
        assert_eq!(start_time(stat), Some(4242));
        assert_eq!(start_time("7 (short) S 1"), None);
        assert_eq!(start_time(&stat.replace(") S", ") Z")), None, "it has ended");
    }

    #[test]
    fn a_full_pipe_is_left_alone_and_an_empty_one_takes_a_long_text_cut() {
        use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
        use std::io::{Read, Write};

        let (mut reader, mut writer) = io::pipe().expect("a pipe");
        let blocking = fcntl_getfl(&writer).expect("flags");
        fcntl_setfl(&writer, blocking | OFlags::NONBLOCK).expect("flags");
        let mut filled = 0;
        while let Ok(written) = writer.write(&[b'x'; 4096]) {
            filled += written;
        }
        fcntl_setfl(&writer, blocking).expect("flags");

        let refused = offer(&writer, "last words").expect_err("it is full");
        assert_eq!(refused.kind(), io::ErrorKind::WouldBlock);
        reader.read_exact(&mut vec![0; filled]).expect("read");
        offer(&writer, "last words").expect("room");
        offer(&writer, &"y".repeat(9000)).expect("room");
        drop(writer);
        let mut text = String::new();
        reader.read_to_string(&mut text).expect("text");
        assert_eq!(text, format!("last words\n{}\n", "y".repeat(4095)));
    }

    #[test]
    fn this_process_runs_and_one_started_at_another_time_does_not() {
        let current = Process::current();
        assert!(current.is_running());
        assert!(!Process { started: current.started + 1, ..current }.is_running());
    }
}
