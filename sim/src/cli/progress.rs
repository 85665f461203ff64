//! How far a hunt is, for a log: where standard error is no terminal, a bar shows nothing.

use std::io::{self, IsTerminal as _, Write as _};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{HumanCount, HumanDuration};

/// Between two lines.
const INTERVAL: Duration = Duration::from_secs(30);

/// Writes a line now and then.
pub(super) struct Lines {
    started: Instant,
    total: Option<u64>,
    /// When the last line was written; nothing if none are wanted.
    last: Option<Mutex<Instant>>,
}

impl Lines {
    /// Lines of a hunt over `total` schedules, or one that ends with its time; if `wanted` and standard error is no terminal.
    pub(super) fn new(wanted: bool, total: Option<u64>) -> Self {
        let started = Instant::now();
        let wanted = wanted && !io::stderr().is_terminal();
        Self { started, total, last: wanted.then(|| Mutex::new(started)) }
    }

    /// So many schedules are done.
    pub(super) fn tell(&self, done: u64) {
        let Some(last) = &self.last else { return };
        let now = Instant::now();
        {
            let mut last = last.lock().unwrap_or_else(PoisonError::into_inner);
            if now.duration_since(*last) < INTERVAL {
                return;
            }
            *last = now;
        }
        // A log that cannot be written is no reason to end.
        let _ = writeln!(io::stderr(), "sim: {}", line(done, self.total, now - self.started));
    }
}

/// How far, how fast, and how long it may still take.
fn line(done: u64, total: Option<u64>, elapsed: Duration) -> String {
    let millis = elapsed.as_millis().max(1);
    let rate = u128::from(done) * 1_000 / millis;
    let speed = HumanCount(u64::try_from(rate).unwrap_or(u64::MAX));
    match total {
        Some(total) => {
            let left = u128::from(total.saturating_sub(done)) * millis / u128::from(done.max(1));
            let left = Duration::from_millis(u64::try_from(left).unwrap_or(u64::MAX));
            let (done, total, left) = (HumanCount(done), HumanCount(total), HumanDuration(left));
            format!("{done} of {total} schedules, {speed}/s, about {left} left")
        }
        None => format!("{} schedules, {speed}/s, {}", HumanCount(done), HumanDuration(elapsed)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_has_rate_and_estimate() {
        let minute = Duration::from_secs(60);
        let text = line(120_000, Some(1_200_000), minute);
        assert_eq!(text, "120,000 of 1,200,000 schedules, 2,000/s, about 9 minutes left");
        assert_eq!(line(6_000, None, minute), "6,000 schedules, 100/s, 60 seconds");
        let early = line(0, Some(u64::MAX), Duration::ZERO);
        assert!(early.contains("0/s"), "{early}");
    }
}
