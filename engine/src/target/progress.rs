//! How far the backend has come with one request.

use super::SECTOR_BYTES;
use crate::uapi::Errno;

/// How often one operation is tried again after EINTR or EAGAIN before the client is told EIO.
pub const RETRIES_MAX: u8 = 16;

/// How far one request has come.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Progress {
    /// Bytes done so far.
    pub(super) done: u32,
    /// Attempts since the last progress.
    retries: u8,
}

/// What an operation's result means for its request.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) enum Outcome {
    /// All of it is done.
    Complete,
    /// The rest is to be tried.
    Continue,
    /// It failed.
    Failed(Errno),
}

impl Progress {
    /// An operation that moves the rest of `len` bytes gave `res`.
    pub(super) fn moved(&mut self, len: u32, res: i32) -> Outcome {
        if res < 0 {
            return self.failed(res);
        }
        let left = len - self.done;
        let moved = res.unsigned_abs();
        // Nothing moved is end of file or a full disk that does not say so; more than asked is nonsense.
        if moved == 0 || moved > left {
            return Outcome::Failed(Errno::EIO);
        }
        if moved == left {
            return Outcome::Complete;
        }
        // A short result: continue at a sector boundary, so that direct I/O stays aligned.
        let whole = moved - moved % SECTOR_BYTES;
        if whole == 0 {
            return self.again();
        }
        self.done += whole;
        self.retries = 0;
        Outcome::Continue
    }

    /// An operation failed with `res`.
    pub(super) fn failed(&mut self, res: i32) -> Outcome {
        let errno = Errno::from_result(res);
        if errno == Errno::EINTR || errno == Errno::EAGAIN {
            return self.again();
        }
        Outcome::Failed(errno)
    }

    const fn again(&mut self) -> Outcome {
        if self.retries == RETRIES_MAX {
            return Outcome::Failed(Errno::EIO);
        }
        self.retries += 1;
        Outcome::Continue
    }
}
