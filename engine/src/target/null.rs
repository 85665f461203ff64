//! The null target: reads as zeroes, forgets writes.

use super::{Geometry, Op, Request, Step, Target};
use crate::sys::MemoryOp;

/// A device of a given size that stores nothing.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Null {
    /// Size in 512-byte sectors.
    pub sectors: u64,
}

impl Target for Null {
    type Job = ();

    fn geometry(&self) -> Geometry {
        Geometry::in_memory(self.sectors)
    }

    fn has_backend(&self) -> bool {
        false
    }

    fn begin(&self, request: &Request) -> ((), Step) {
        let step = match request.op {
            // The tag's buffer still holds an earlier write: clear it, or the client reads foreign bytes.
            Op::Read => Step::Memory(MemoryOp::Clear { len: request.len }),
            Op::Write { .. } | Op::Flush | Op::Discard | Op::WriteZeroes { .. } => {
                Step::Done(Ok(()))
            }
        };
        ((), step)
    }

    fn resume(&self, _request: &Request, (): &mut (), _res: i32) -> Step {
        Step::Done(Ok(()))
    }
}
