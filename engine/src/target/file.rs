//! The loop target: a device kept in a file or on another block device.

use super::progress::{Outcome, Progress};
use super::{Geometry, Op, Request, Step, Target};
use crate::data::TagMemory;
use crate::sys::BackendOp;

/// A device whose bytes are a file's bytes, at the same offsets.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct File {
    /// Size in 512-byte sectors: the file's size, rounded down to the logical block.
    pub sectors: u64,
    /// log2 of the logical block size, at least what the file needs for direct I/O.
    pub logical_bs_shift: u8,
    /// Whether the file system can punch holes.
    pub discard: bool,
    /// Whether it can also write zeroes and keep the space (FALLOC_FL_ZERO_RANGE).
    pub write_zeroes: bool,
}

impl File {
    /// The operation for what is left of a request.
    fn rest(request: &Request, job: Progress) -> BackendOp {
        let offset = request.offset + u64::from(job.done);
        let len = request.len - job.done;
        match request.op {
            Op::Read => BackendOp::Read { offset, buffer: job.done, len },
            Op::Write { fua } => BackendOp::Write { offset, buffer: job.done, len, durable: fua },
            Op::Flush => BackendOp::Sync,
            Op::Discard | Op::WriteZeroes { unmap: true } => {
                BackendOp::PunchHole { offset, len: u64::from(len) }
            }
            Op::WriteZeroes { unmap: false } => {
                BackendOp::ZeroRange { offset, len: u64::from(len) }
            }
        }
    }
}

impl Target for File {
    type Job = Progress;

    fn geometry(&self) -> Geometry {
        Geometry {
            sectors: self.sectors,
            logical_bs_shift: self.logical_bs_shift,
            physical_bs_shift: self.logical_bs_shift.max(12),
            volatile_cache: true,
            discard: self.discard,
            write_zeroes: self.write_zeroes,
        }
    }

    fn has_backend(&self) -> bool {
        true
    }

    fn reaches_slots(&self) -> bool {
        true
    }

    fn begin(&self, request: &Request, _memory: TagMemory) -> (Progress, Step) {
        let job = Progress::default();
        (job, Step::Backend(Self::rest(request, job)))
    }

    fn resume(&self, request: &Request, job: &mut Progress, res: i32) -> Step {
        let outcome = match request.op {
            Op::Read | Op::Write { .. } => job.moved(request.len, res),
            Op::Flush | Op::Discard | Op::WriteZeroes { .. } if res < 0 => job.failed(res),
            Op::Flush | Op::Discard | Op::WriteZeroes { .. } => Outcome::Complete,
        };
        match outcome {
            Outcome::Complete => Step::Done(Ok(())),
            Outcome::Continue => Step::Backend(Self::rest(request, *job)),
            Outcome::Failed(errno) => Step::Done(Err(errno)),
        }
    }
}
