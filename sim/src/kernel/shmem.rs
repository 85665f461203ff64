//! Shared-memory zero copy (`UBLK_F_SHMEM_ZC`): REG_BUF and UNREG_BUF. That a request's data lies in registered memory is not modelled.

use blkproof_engine::uapi::ControlOp;

use crate::kernel::block::Phase;
use crate::kernel::control::{Asked, Pc};
use crate::kernel::device::Holder;
use crate::kernel::errno;
use crate::run::Run;
use crate::world::{ControlId, ProcessId, World};

/// Registrations of a device at most.
const INDICES: u64 = 1 << 16;

/// Pages of a process that are registered with a device, until it is gone.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Registration {
    pub(crate) process: ProcessId,
    pub(crate) first: u16,
    pub(crate) count: u16,
}

/// What REG_BUF is given, as the word of a plain command.
pub(crate) const fn word(first: u16, count: u16) -> u64 {
    (first as u64) << 16 | count as u64
}

impl Registration {
    fn of(process: ProcessId, word: u64) -> Self {
        Self { process, first: (word >> 16) as u16, count: word as u16 }
    }

    fn overlaps(self, other: Self) -> bool {
        self.process == other.process
            && self.first < other.first + other.count
            && other.first < self.first + self.count
    }
}

impl World {
    /// What is wrong with the argument, before any lock is taken.
    pub(crate) fn shmem_refused(asked: &Asked) -> Option<i32> {
        match asked {
            Asked::Plain(ControlOp::RegBuf, _, word) if *word as u16 == 0 => Some(errno::EINVAL),
            Asked::Plain(ControlOp::UnregBuf, _, index) if *index >= INDICES => Some(errno::EINVAL),
            _ => None,
        }
    }

    /// Under the mutex: with a disk, no request may be inside the block layer.
    pub(crate) fn shmem_locked(&mut self, run: &mut Run<'_>, id: ControlId) -> Pc {
        let inside = self.requests_live;
        if let Some(device) = &mut self.device {
            device.mutex = Some(Holder::Control(id));
            device.frozen = device.disk.as_ref().is_some_and(|disk| disk.attached);
            if device.frozen {
                run.kernel(|| format!("the queue is frozen, {inside} request(s) are inside"));
            }
        }
        Pc::ShmemFrozen
    }

    /// Whether a freeze has come to its end.
    pub(crate) fn is_drained(&self) -> bool {
        let frozen = self.device.as_ref().is_some_and(|device| device.frozen);
        !frozen || self.requests.iter().flatten().all(|request| request.phase == Phase::Entering)
    }

    /// Nothing is inside: the pages are registered, or let go, and whoever waits may enter by and by. The result.
    pub(crate) fn shmem_done(&mut self, run: &mut Run<'_>, by: ProcessId, asked: &Asked) -> i32 {
        run.progress();
        let Some(device) = &mut self.device else { return -errno::ENODEV };
        (device.mutex, device.frozen) = (None, false);
        let Asked::Plain(op, _, word) = asked else { return -errno::EINVAL };
        if *op == ControlOp::UnregBuf {
            let slot = device.shmem.get_mut(*word as usize).and_then(Option::take);
            return if slot.is_some() { 0 } else { -errno::ENOENT };
        }
        let new = Registration::of(by, *word);
        if device.shmem.iter().flatten().any(|one| one.overlaps(new)) {
            return -errno::EEXIST;
        }
        let free = device.shmem.iter().position(Option::is_none);
        let index = free.unwrap_or(device.shmem.len());
        if index == device.shmem.len() {
            device.shmem.push(None);
        }
        device.shmem[index] = Some(new);
        index as i32
    }
}
