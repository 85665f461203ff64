//! The loop target: a device kept in a file or on another block device.

use super::{Geometry, Op, Request, SECTOR_BYTES, Step, Target};
use crate::sys::BackendOp;
use crate::uapi::Errno;

/// How often one operation is tried again after EINTR or EAGAIN before the client is told EIO.
pub const RETRIES_MAX: u8 = 16;

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

/// How far one request has come.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct FileJob {
    /// Bytes done so far.
    done: u32,
    /// Attempts since the last progress.
    retries: u8,
}

impl File {
    /// The operation for what is left of a request.
    fn rest(request: &Request, job: FileJob) -> BackendOp {
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
    type Job = FileJob;

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

    fn begin(&self, request: &Request) -> (FileJob, Step) {
        let job = FileJob { done: 0, retries: 0 };
        (job, Step::Backend(Self::rest(request, job)))
    }

    fn resume(&self, request: &Request, job: &mut FileJob, res: i32) -> Step {
        if res < 0 {
            let errno = Errno::from_result(res);
            let again = errno == Errno::EINTR || errno == Errno::EAGAIN;
            if !again {
                return Step::Done(Err(errno));
            }
            if job.retries == RETRIES_MAX {
                return Step::Done(Err(Errno::EIO));
            }
            job.retries += 1;
            return Step::Backend(Self::rest(request, *job));
        }
        match request.op {
            Op::Flush | Op::Discard | Op::WriteZeroes { .. } => Step::Done(Ok(())),
            Op::Read | Op::Write { .. } => {
                let left = request.len - job.done;
                let moved = res.unsigned_abs();
                // Nothing moved is end of file or a full disk that does not say so; more than asked is nonsense.
                if moved == 0 || moved > left {
                    return Step::Done(Err(Errno::EIO));
                }
                if moved == left {
                    return Step::Done(Ok(()));
                }
                // A short result: continue at a sector boundary, so that direct I/O stays aligned.
                let whole = moved - moved % SECTOR_BYTES;
                if whole == 0 {
                    if job.retries == RETRIES_MAX {
                        return Step::Done(Err(Errno::EIO));
                    }
                    job.retries += 1;
                } else {
                    job.done += whole;
                    job.retries = 0;
                }
                Step::Backend(Self::rest(request, *job))
            }
        }
    }
}
