//! Shared-memory zero copy (`UBLK_F_SHMEM_ZC`): REG_BUF and UNREG_BUF, and the requests whose data lies in registered memory.
//!
//! The memory is that which all processes of a script share. The kernel compares pages, so it does not matter who registered them, nor
//! who asks for a request: it is looked up whenever its descriptor is written.

use blkproof_engine::data::Place;
use blkproof_engine::uapi::{ControlOp, ShmemAddr, ShmemBufReg};

use crate::kernel::block::{BlockOp, Phase, Request};
use crate::kernel::control::{Asked, Control, Pc};
use crate::kernel::device::{Device, Holder};
use crate::kernel::errno;
use crate::run::Run;
use crate::script::InPlace;
use crate::world::{BUFFER_SECTORS, ControlId, PAGE_SECTORS, RequestId, SECTOR, Version, World};

/// Registrations of a device at most.
const INDICES: u64 = 1 << 16;
/// A `struct ublk_shmem_buf_reg` that is shorter has no length.
const LEN_ENDS: u16 = 10;

/// Pages that are registered with a device, until it is gone.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Registration {
    first: u16,
    count: u16,
    /// Nothing is to be written there: reads never lie in it.
    read_only: bool,
}

/// What REG_BUF is given, packed into the word of a plain command.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Given {
    /// First page.
    pub(crate) first: u16,
    /// Pages.
    pub(crate) count: u16,
    /// `UBLK_SHMEM_BUF_READ_ONLY`.
    pub(crate) read_only: bool,
    /// They are named by a mapping that cannot be written.
    pub(crate) unwritable: bool,
}

impl From<ShmemBufReg> for Given {
    fn from(memory: ShmemBufReg) -> Self {
        let pages = |bytes: u64| (bytes / (u64::from(PAGE_SECTORS) * SECTOR)) as u16;
        Self {
            first: pages(memory.addr),
            count: pages(memory.len),
            read_only: memory.read_only,
            unwritable: false,
        }
    }
}

impl Given {
    pub(crate) const fn word(self) -> u64 {
        (self.unwritable as u64) << 33
            | (self.read_only as u64) << 32
            | (self.first as u64) << 16
            | self.count as u64
    }

    const fn of(word: u64) -> Self {
        Self {
            first: (word >> 16) as u16,
            count: word as u16,
            read_only: word >> 32 & 1 != 0,
            unwritable: word >> 33 & 1 != 0,
        }
    }
}

impl Registration {
    const fn overlaps(self, other: Self) -> bool {
        self.first < other.first + other.count && other.first < self.first + self.count
    }

    /// Where in it a range of sectors lies, if all of it does.
    fn place(self, index: usize, (first, end): (u16, u16)) -> Option<ShmemAddr> {
        let begin = self.first * PAGE_SECTORS;
        let inside = begin <= first && end <= begin + self.count * PAGE_SECTORS;
        let offset = u32::from(first.wrapping_sub(begin)) * SECTOR as u32;
        inside.then_some(ShmemAddr { index: index as u16, offset })
    }
}

impl Device {
    /// Where in registered memory the data of a request lies (`ublk_try_buf_match`): all of it, and in one registration.
    fn place(&self, request: &Request) -> Option<ShmemAddr> {
        let memory = request.memory?;
        let range = (memory + request.done, memory + request.sectors);
        let reads = request.op == BlockOp::Read;
        let registered = self.shmem.iter().enumerate();
        let usable = registered.filter_map(|(index, one)| Some((index, (*one)?)));
        let mut usable = usable.filter(|(_, one)| !(one.read_only && reads));
        usable.find_map(|(index, one)| one.place(index, range))
    }
}

impl World {
    /// What is wrong with the argument, before any lock is taken: the pages are pinned first.
    pub(crate) fn shmem_refused(control: &Control) -> Option<i32> {
        match control.command {
            Asked::Plain(ControlOp::RegBuf, _, word) => {
                let bytes = control.bytes(ShmemBufReg::SIZE as u16);
                if bytes > 0 && !(control.has_memory() && control.readable()) {
                    return Some(errno::EFAULT);
                }
                let Given { count, read_only, unwritable, .. } = Given::of(word);
                // What is missing at its end is zero; so many bytes hold the length of less than 16 pages.
                if count == 0 || bytes < LEN_ENDS {
                    return Some(errno::EINVAL);
                }
                (unwritable && !read_only).then_some(errno::EFAULT)
            }
            Asked::Plain(ControlOp::UnregBuf, _, index) if index >= INDICES => Some(errno::EINVAL),
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
    pub(crate) fn shmem_done(&mut self, run: &mut Run<'_>, asked: &Asked) -> i32 {
        run.progress();
        let Some(device) = &mut self.device else { return -errno::ENODEV };
        (device.mutex, device.frozen) = (None, false);
        let Asked::Plain(op, _, word) = asked else { return -errno::EINVAL };
        if *op == ControlOp::UnregBuf {
            let slot = device.shmem.get_mut(*word as usize).and_then(Option::take);
            return if slot.is_some() { 0 } else { -errno::ENOENT };
        }
        let Given { first, count, read_only, .. } = Given::of(*word);
        let new = Registration { first, count, read_only };
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

    /// The sector of the memory of all processes that a server means by a place.
    pub(crate) fn lent_at(&self, place: Place) -> Option<usize> {
        let Place::Shared(offset) = place else { return None };
        let registered = self.device.as_ref()?.shmem.first().copied().flatten()?;
        let begin = usize::from(registered.first) * usize::from(PAGE_SECTORS);
        Some(begin + offset as usize / SECTOR as usize)
    }

    /// The sector of it where the data is of the request on a tag, or of what is left of that.
    pub(crate) fn lies_at(&self, queue: u16, tag: u16) -> Option<usize> {
        let request = self.requests[self.request_of(queue, tag)?.index()].as_ref()?;
        Some(usize::from(request.memory? + request.done))
    }

    /// A descriptor is written: does the request's data lie in registered memory?
    pub(crate) fn look_up(&mut self, id: RequestId) {
        let (Some(device), Some(request)) = (&self.device, &mut self.requests[id.index()]) else {
            return;
        };
        request.in_place = device.place(request).map(InPlace::At);
    }

    /// NEED_GET_DATA of a write whose data lies in registered memory: the buffer's address takes the place of where it is, and nothing is
    /// copied. False: it lies elsewhere.
    pub(crate) fn forgets_place(&mut self, id: RequestId) -> bool {
        let request = self.requests[id.index()].as_mut();
        let Some(place) = request.and_then(|request| request.in_place.as_mut()) else {
            return false;
        };
        *place = InPlace::Buffer;
        true
    }

    /// What a write writes, from where its rest begins: what is in the client's memory now.
    pub(crate) fn written(&self, request: &Request) -> [Version; BUFFER_SECTORS] {
        let mut data = [request.version; BUFFER_SECTORS];
        if let Some(memory) = request.memory {
            let left = usize::from(request.sectors - request.done);
            let from = usize::from(memory + request.done);
            data[..left].copy_from_slice(&self.shared[from..][..left]);
        }
        request.written_by_members(&mut data);
        data
    }

    /// What was put into a read's data is in the client's memory at once.
    pub(crate) fn reaches_memory(&mut self, id: RequestId, (first, count): (usize, usize)) {
        let Some(request) = &self.requests[id.index()] else { return };
        if let Some(memory) = request.memory {
            let into = usize::from(memory) + first;
            self.shared[into..][..count].copy_from_slice(&request.data[first..][..count]);
        }
    }
}
