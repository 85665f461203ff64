//! Data modes other than copy: the server moves the data itself, and what it holds of a request keeps it from completing.

use blkproof_engine::data::Place;
use blkproof_engine::sys::{BackendOp, Cqe};
use blkproof_engine::uapi::{AutoBufReg, Features, KernelSeries};

use crate::kernel::block::{BlockOp, Request};
use crate::kernel::device::{Device, State};
use crate::kernel::errno;
use crate::kernel::tags::TagState;
use crate::run::Run;
use crate::script::{Addr, uniform};
use crate::world::{RequestId, RingId, SECTOR, ThreadId, Version, World};

impl Device {
    const fn has(&self, flag: Features) -> bool {
        self.info.flags.contains(flag)
    }

    /// Copy mode: the kernel moves the data by way of the tag's buffer.
    pub(crate) const fn copies(&self) -> bool {
        !self.has(Features::USER_COPY)
            && !self.has(Features::SUPPORT_ZERO_COPY)
            && !self.has(Features::AUTO_BUF_REG)
    }

    /// Writes are announced first.
    pub(crate) const fn announces(&self) -> bool {
        self.has(Features::NEED_GET_DATA)
    }

    /// Whether the address that comes with a command does not fit the mode. `reads`: of a COMMIT, whether it completes a read.
    pub(crate) const fn refuses_addr(&self, addr: Addr, reads: Option<bool>) -> bool {
        let buffer = matches!(addr, Addr::Buffer);
        if self.copies() {
            !buffer && (!self.announces() || matches!(reads, Some(true)))
        } else {
            buffer
        }
    }

    /// Where a request's pages are to be registered, in a device that does it by itself.
    pub(crate) const fn registers(&self, addr: Addr) -> Option<AutoBufReg> {
        match addr {
            _ if !self.has(Features::AUTO_BUF_REG) => None,
            Addr::Auto(register) => Some(register),
            Addr::Bare | Addr::Buffer => Some(AutoBufReg { index: 0, fallback: false }),
        }
    }
}

impl Request {
    const fn has_data(&self) -> bool {
        self.op.moves_data()
    }

    const fn sectors_left(&self) -> u16 {
        self.sectors - self.done
    }
}

/// What the engine copies, sector by sector from the beginning of a request's data.
pub(crate) enum Copied<'a> {
    /// `pwrite`: into a read.
    To(&'a [Version]),
    /// `pread`: out of a write.
    From(&'a mut [Version]),
}

impl Copied<'_> {
    pub(crate) const fn sectors(&self) -> u16 {
        match self {
            Self::To(data) => data.len() as u16,
            Self::From(data) => data.len() as u16,
        }
    }
}

/// Sectors of a request's data, in units of 512 bytes from where the descriptor says it begins.
pub(crate) type Part = (u16, u16);

impl World {
    /// Puts a request's pages into a ring's table, and holds the request.
    pub(crate) fn register_pages(
        &mut self,
        ring: RingId,
        index: u16,
        id: RequestId,
    ) -> Result<(), i32> {
        let table = &mut self.rings[ring.index()].table;
        match table.get_mut(usize::from(index)) {
            None => Err(errno::EINVAL),
            Some(Some(_)) => Err(errno::EBUSY),
            Some(slot) => {
                *slot = Some(id);
                if let Some(request) = &mut self.requests[id.index()] {
                    request.holders += 1;
                }
                Ok(())
            }
        }
    }

    /// Empties a slot of a ring's table: with the last holder, a request that was committed completes.
    pub(crate) fn unregister_pages(
        &mut self,
        run: &mut Run<'_>,
        ring: RingId,
        index: u16,
    ) -> Result<(), i32> {
        let slot = self.rings[ring.index()].table.get_mut(usize::from(index));
        let id = slot.and_then(Option::take).ok_or(errno::EINVAL)?;
        self.let_go(run, id);
        Ok(())
    }

    /// The request whose pages an operation of the engine uses in place; it holds them until it is over. `None`: it uses the tag's buffer, or shared memory.
    pub(crate) fn pages_for(
        &mut self,
        ring: RingId,
        slot: u16,
        place: Place,
        op: &BackendOp,
    ) -> Result<Option<RequestId>, i32> {
        let reads = match op {
            BackendOp::Read { .. } => true,
            BackendOp::Write { .. } => false,
            BackendOp::Sync | BackendOp::PunchHole { .. } | BackendOp::ZeroRange { .. } => {
                return Ok(None);
            }
        };
        let registers = self.device.as_ref().is_some_and(|one| one.has(Features::AUTO_BUF_REG));
        if !registers || place != Place::Tag {
            return Ok(None);
        }
        let slot = self.rings[ring.index()].table.get(usize::from(slot));
        let id = slot.copied().flatten().ok_or(errno::EFAULT)?;
        let Some(request) = &mut self.requests[id.index()] else { return Err(errno::EFAULT) };
        if reads != (request.op == BlockOp::Read) {
            return Err(errno::EFAULT);
        }
        request.holders += 1;
        Ok(Some(id))
    }

    /// A slot, or an operation, holds a request no longer.
    pub(crate) fn let_go(&mut self, run: &mut Run<'_>, id: RequestId) {
        let Some(request) = &mut self.requests[id.index()] else { return };
        request.holders -= 1;
        if request.holders > 0 {
            return;
        }
        let lingers = self.device.as_mut().and_then(|device| {
            let at = device
                .tags
                .iter()
                .position(|slot| matches!(slot.state, TagState::Lingering(_, of, _) if of == id))?;
            let TagState::Lingering(ring, _, result) = device.tags[at].state else { return None };
            device.tags[at].state = device.armed_by(ring);
            Some(result)
        });
        if let Some(result) = lingers {
            run.kernel(|| "the last holder of a committed request lets go".into());
            self.completed(run, id, result);
        }
    }

    /// Everything in the table of a ring that is freed.
    pub(crate) fn free_table(&mut self, run: &mut Run<'_>, ring: RingId) {
        for index in 0..self.rings[ring.index()].table.len() {
            // An empty slot is none to empty.
            let _ = self.unregister_pages(run, ring, index as u16);
        }
    }

    /// Whether somebody holds a request that a server was given.
    pub(crate) fn any_held(&self) -> bool {
        self.requests.iter().flatten().any(|request| request.holders > 0)
    }

    /// REGISTER_IO_BUF.
    pub(crate) fn register(
        &mut self,
        thread: ThreadId,
        ring: RingId,
        tag: (u16, u16),
        index: u16,
    ) -> i32 {
        let registered = self
            .may_register(thread, tag)
            .and_then(|request| self.register_pages(ring, index, request));
        registered.map_or_else(|errno| -errno, |()| 0)
    }

    fn may_register(&self, thread: ThreadId, (queue, tag): (u16, u16)) -> Result<RequestId, i32> {
        let Some(device) = &self.device else { return Err(errno::ENODEV) };
        if queue >= device.queues || tag >= device.depth {
            return Err(errno::EINVAL);
        }
        let slot = device.tags[device.slot(queue, tag)];
        if device.kernel == KernelSeries::V6_12 {
            // An unknown command, which only armed tags refuse otherwise.
            let daemon = device.hw[usize::from(queue)].daemon;
            let other = daemon.is_some_and(|daemon| daemon != thread);
            let armed = matches!(
                slot.state,
                TagState::Armed(_) | TagState::Queued(..) | TagState::Cancelled
            );
            return Err(if armed && !other { errno::EBUSY } else { errno::EINVAL });
        }
        let own = slot.task == Some(thread);
        let request = match slot.state {
            TagState::Served(request) => request,
            TagState::Lingering(_, request, _) if !own => request,
            TagState::Announced(_) | TagState::Unfetched => return Err(errno::EINVAL),
            _ if own => return Err(errno::EBUSY),
            TagState::Lingering(..)
            | TagState::Armed(_)
            | TagState::Prepared
            | TagState::Queued(..)
            | TagState::Listed(_)
            | TagState::Cancelled => return Err(errno::EINVAL),
        };
        let data = self.requests[request.index()].as_ref().is_some_and(Request::has_data);
        let may = data && device.has(Features::SUPPORT_ZERO_COPY);
        may.then_some(request).ok_or(errno::EINVAL)
    }

    /// UNREGISTER_IO_BUF: queue, tag and state are of no interest.
    pub(crate) fn unregister(
        &mut self,
        run: &mut Run<'_>,
        thread: ThreadId,
        ring: RingId,
        tag: (u16, u16),
        index: u16,
    ) -> i32 {
        let Some(device) = &self.device else { return -errno::ENODEV };
        if device.kernel == KernelSeries::V6_12 {
            return self.register(thread, ring, tag, index);
        }
        if !device.has(Features::SUPPORT_ZERO_COPY) {
            return -errno::EINVAL;
        }
        self.unregister_pages(run, ring, index).map_or_else(|errno| -errno, |()| 0)
    }

    /// A read or write of registered pages. `put`: what is put into them.
    pub(crate) fn move_registered(
        &mut self,
        ring: RingId,
        index: u16,
        part: Part,
        put: Option<u8>,
    ) -> Result<Option<u8>, i32> {
        let slot = self.rings[ring.index()].table.get(usize::from(index));
        let id = slot.copied().flatten().ok_or(errno::EFAULT)?;
        let Some(request) = &self.requests[id.index()] else { return Err(errno::EFAULT) };
        if part.0 + part.1 > request.sectors_left()
            || put.is_some() != (request.op == BlockOp::Read)
        {
            return Err(errno::EFAULT);
        }
        Ok(self.move_data(id, part, put))
    }

    /// `pread` and `pwrite` of the character device. `put`: what is put into a read's data.
    pub(crate) fn user_copy(
        &mut self,
        thread: ThreadId,
        tag: (u16, u16),
        (first, count): Part,
        put: Option<u8>,
    ) -> Result<(i32, Option<u8>), i32> {
        let (id, there, said) = self.may_copy(thread, tag, (first, count), put.is_some())?;
        let data = self.move_data(id, (first, there), put);
        let data = data.filter(|_| said == there);
        Ok(((u64::from(said) * SECTOR) as i32, data))
    }

    /// The same for the engine: `count` sectors from the first on.
    pub(crate) fn user_copy_of(
        &mut self,
        thread: ThreadId,
        tag: (u16, u16),
        count: u16,
        data: Copied<'_>,
    ) -> i32 {
        let puts = matches!(data, Copied::To(_));
        let (id, there, said) = match self.may_copy(thread, tag, (0, count), puts) {
            Ok(copy) => copy,
            Err(errno) => return -errno,
        };
        let Some(request) = &mut self.requests[id.index()] else { return -errno::EINVAL };
        let (done, n) = (usize::from(request.done), usize::from(there));
        match data {
            Copied::To(data) => request.data[done..done + n].copy_from_slice(&data[..n]),
            Copied::From(data) => data[..n].fill(request.version),
        }
        (u64::from(said) * SECTOR) as i32
    }

    /// The request, the sectors that are copied, and the sectors that are said to be.
    pub(crate) fn may_copy(
        &self,
        thread: ThreadId,
        tag: (u16, u16),
        (first, count): Part,
        puts: bool,
    ) -> Result<(RequestId, u16, u16), i32> {
        let id = self.copies_of(thread, tag, false)?;
        let Some(request) = &self.requests[id.index()] else { return Err(errno::EINVAL) };
        let left = request.sectors_left();
        if first > left {
            return Err(errno::EINVAL);
        }
        if puts != request.op.brings_data() {
            return Err(errno::EACCES);
        }
        let there = count.min(left - first);
        let new = self.device.as_ref().is_some_and(|device| device.kernel >= KernelSeries::V7_3);
        // Before 7.3 the driver counts the memory it pinned for the copy, and not what was copied.
        let said = if new || there == 0 { there } else { count };
        Ok((id, there, said))
    }

    /// The request on a tag whose data, or integrity metadata, is to be copied.
    pub(crate) fn copies_of(
        &self,
        thread: ThreadId,
        (queue, tag): (u16, u16),
        metadata: bool,
    ) -> Result<RequestId, i32> {
        let Some(device) = &self.device else { return Err(errno::ENODEV) };
        if device.state == State::Dead {
            return Err(errno::EACCES);
        }
        if metadata && !device.has(Features::INTEGRITY) {
            return Err(errno::EINVAL);
        }
        if queue >= device.queues {
            return Err(errno::EINVAL);
        }
        let old = device.kernel == KernelSeries::V6_12;
        let copies = device.has(Features::USER_COPY);
        if !copies && !old {
            return Err(errno::EACCES);
        }
        if tag >= device.depth {
            return Err(errno::EINVAL);
        }
        let slot = device.tags[device.slot(queue, tag)];
        // Since 7.3 the daemon itself takes no reference, and must own the tag.
        let new = device.kernel >= KernelSeries::V7_3;
        let own = new && slot.task == Some(thread);
        let id = match slot.state {
            TagState::Served(request) => request,
            TagState::Lingering(_, request, _) if !own => request,
            TagState::Announced(_)
            | TagState::Lingering(..)
            | TagState::Unfetched
            | TagState::Armed(_)
            | TagState::Prepared
            | TagState::Queued(..)
            | TagState::Listed(_)
            | TagState::Cancelled => return Err(errno::EINVAL),
        };
        let Some(request) = &self.requests[id.index()] else { return Err(errno::EINVAL) };
        // Before 7.3 a device of another mode has no references to take.
        if !copies || !request.has_data() {
            return Err(errno::EINVAL);
        }
        Ok(id)
    }

    /// A device that registers by itself does so at the delivery. False: the request fails.
    pub(crate) fn registers_at_delivery(
        &mut self,
        run: &mut Run<'_>,
        ring: RingId,
        (queue, tag): (u16, u16),
    ) -> bool {
        let Some(device) = &mut self.device else { return false };
        let at = device.slot(queue, tag);
        let slot = device.tags[at];
        let (Some(register), Some(id)) = (device.registers(slot.addr), slot.served()) else {
            return true;
        };
        if !self.requests[id.index()].as_ref().is_some_and(Request::has_data) {
            return true;
        }
        if !self.refuse(run) && self.register_pages(ring, register.index, id).is_ok() {
            if let Some(device) = &mut self.device {
                device.tags[at].registered = Some((ring, register.index));
            }
            return true;
        }
        if let Some(request) = &mut self.requests[id.index()] {
            request.unregistered = true;
        }
        register.fallback
    }

    /// A COMMIT: what was registered by itself goes from the table again, if it is the same ring's.
    pub(crate) fn unregisters_at_commit(
        &mut self,
        run: &mut Run<'_>,
        ring: RingId,
        registered: Option<(RingId, u16)>,
    ) {
        if let Some((by, index)) = registered
            && by == ring
        {
            // The server may have emptied the slot before.
            let _ = self.unregister_pages(run, ring, index);
        }
    }

    /// Completes a script's own operation on a ring: at once when it fails, by task work otherwise.
    pub(crate) fn finish_move(&mut self, thread: ThreadId, ring: RingId, cqe: Cqe) {
        if cqe.res < 0 {
            self.post(ring, cqe);
        } else {
            self.post_by_task_work(thread, ring, cqe);
        }
    }

    /// Moves a part of a request's data, and says what byte it is.
    fn move_data(&mut self, id: RequestId, (first, count): Part, put: Option<u8>) -> Option<u8> {
        let (from, count) = (usize::from(first), usize::from(count));
        let Some(byte) = put else {
            let request = self.requests[id.index()].as_ref()?;
            return uniform(&self.written(request)[from..][..count]);
        };
        let request = self.requests[id.index()].as_mut()?;
        let start = usize::from(request.done) + from;
        request.data[start..][..count].fill(Version::from(byte));
        self.reaches_memory(id, (start, count));
        None
    }
}
