//! The mem target: a device in memory.

use super::{Geometry, Op, Request, Step, Target};
use crate::data::TagMemory;
use crate::sys::MemoryOp;

/// A device of a given size kept in a memory store that all queues share.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Mem {
    /// Size in 512-byte sectors.
    pub sectors: u64,
}

impl Target for Mem {
    type Job = ();

    fn geometry(&self) -> Geometry {
        Geometry::in_memory(self.sectors)
    }

    fn has_backend(&self) -> bool {
        false
    }

    fn reaches_slots(&self) -> bool {
        false
    }

    fn begin(&self, request: &Request, _memory: TagMemory) -> ((), Step) {
        let Request { op, offset, len, place: _ } = *request;
        let step = match op {
            Op::Read => Step::Memory(MemoryOp::Load { offset, len }),
            Op::Write { .. } => Step::Memory(MemoryOp::Store { offset, len }),
            Op::Flush => Step::Done(Ok(())),
            Op::Discard | Op::WriteZeroes { .. } => {
                Step::Memory(MemoryOp::Zero { offset, len: u64::from(len) })
            }
        };
        ((), step)
    }

    fn resume(&self, _request: &Request, (): &mut (), _res: i32) -> Step {
        Step::Done(Ok(()))
    }
}
