//! The null target: reads as zeroes, forgets writes.

use super::progress::{Outcome, Progress};
use super::{Geometry, Op, Request, Step, Target};
use crate::data::TagMemory;
use crate::sys::{BackendOp, MemoryOp};

/// A device of a given size that stores nothing.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Null {
    /// Size in 512-byte sectors.
    pub sectors: u64,
}

impl Null {
    /// The zeroes of what is left of a read, from a backend that has nothing else.
    fn rest(request: &Request, job: Progress) -> Step {
        Step::Backend(BackendOp::Read { offset: 0, buffer: job.done, len: request.len - job.done })
    }
}

impl Target for Null {
    type Job = Progress;

    fn geometry(&self) -> Geometry {
        Geometry::in_memory(self.sectors)
    }

    fn has_backend(&self) -> bool {
        false
    }

    fn reaches_slots(&self) -> bool {
        true
    }

    fn begin(&self, request: &Request, memory: TagMemory) -> (Progress, Step) {
        let job = Progress::default();
        let step = match (request.op, memory) {
            // The request's pages, or the tag's buffer, still hold what was there before: clear it, or the client reads foreign bytes.
            (Op::Read, TagMemory::Nothing | TagMemory::Buffer) => {
                Step::Memory(MemoryOp::Clear { len: request.len })
            }
            (Op::Read, TagMemory::Slot) => Self::rest(request, job),
            (Op::Write { .. } | Op::Flush | Op::Discard | Op::WriteZeroes { .. }, _) => {
                Step::Done(Ok(()))
            }
        };
        (job, step)
    }

    fn resume(&self, request: &Request, job: &mut Progress, res: i32) -> Step {
        match job.moved(request.len, res) {
            Outcome::Complete => Step::Done(Ok(())),
            Outcome::Continue => Self::rest(request, *job),
            Outcome::Failed(errno) => Step::Done(Err(errno)),
        }
    }
}
