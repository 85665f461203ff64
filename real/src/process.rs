//! Which process it is: a pid alone is reused, a pid with its start time is not.

use std::fs;

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
    fn this_process_runs_and_one_started_at_another_time_does_not() {
        let current = Process::current();
        assert!(current.is_running());
        assert!(!Process { started: current.started + 1, ..current }.is_running());
    }
}
