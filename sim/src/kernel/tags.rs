//! The states of a tag, and what is legal in each.

use blkproof_engine::sys::{Cqe, Token};

use blkproof_engine::uapi::{Errno, KernelSeries};

use crate::choices::Site;
use crate::kernel::block::BlockOp;
use crate::kernel::device::Device;
use crate::kernel::errno;
use crate::run::{Run, Sabotage, actor};
use crate::script::Addr;
use crate::world::{RequestId, RingId, SECTOR, ThreadId, World};

/// Where a tag is (K1: exactly one of these).
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub(crate) enum TagState {
    /// U: never fetched in this round.
    Unfetched,
    /// A: a command waits for a request.
    Armed(RingId),
    /// A, batch: armed, without a command of its own.
    Prepared,
    /// AQ: a request picked the tag; its dispatch has not run.
    Queued(RingId, RequestId),
    /// AQ, batch: in the queue's list of tags to be told.
    Listed(RequestId),
    /// S: delivered; the server must commit.
    Served(RequestId),
    /// G: the server knows of a write, and must ask for its data.
    Announced(RequestId),
    /// AL: committed with a result, and somebody still holds the request's pages.
    Lingering(RingId, RequestId, i32),
    /// C: aborted.
    Cancelled,
}

/// A tag.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct TagSlot {
    pub(crate) state: TagState,
    /// The task that fetched it: the only one that may commit.
    pub(crate) task: Option<ThreadId>,
    /// What the completion of the armed command carries.
    pub(crate) token: Token,
    /// What came with that command, or with the one before if a request is served.
    pub(crate) addr: Addr,
    /// Where the driver itself registered the request's pages.
    pub(crate) registered: Option<(RingId, u16)>,
    /// 6.18: an abort of the tag leaves a mark (`UBLK_IO_FLAG_CANCELED`), which stays when the round is reset, until all tags are fetched. With it a command
    /// is taken for one that was cancelled already (H70).
    pub(crate) marked: bool,
}

/// `UBLK_IO_RES_NEED_GET_DATA`.
const NEED_GET_DATA: i32 = 1;

impl TagSlot {
    pub(crate) const UNFETCHED: Self = Self {
        state: TagState::Unfetched,
        task: None,
        token: Token::Cancel,
        addr: Addr::Bare,
        registered: None,
        marked: false,
    };

    /// Whether its command can be aborted.
    pub(crate) const fn can_be_aborted(&self) -> bool {
        matches!(self.state, TagState::Armed(_)) && !self.marked
    }

    /// The request that the server holds.
    pub(crate) const fn served(&self) -> Option<RequestId> {
        match self.state {
            TagState::Served(request) | TagState::Announced(request) => Some(request),
            TagState::Unfetched
            | TagState::Armed(_)
            | TagState::Prepared
            | TagState::Queued(..)
            | TagState::Listed(_)
            | TagState::Lingering(..)
            | TagState::Cancelled => None,
        }
    }

    /// Whether a started request is on the tag.
    pub(crate) const fn carries(&self) -> bool {
        match self.state {
            TagState::Unfetched | TagState::Armed(_) | TagState::Prepared | TagState::Cancelled => {
                false
            }
            TagState::Queued(..)
            | TagState::Listed(_)
            | TagState::Served(_)
            | TagState::Announced(_)
            | TagState::Lingering(..) => true,
        }
    }
}

/// Who submits, on which ring, and what the completion will carry.
pub(crate) type By = (ThreadId, RingId, Token);

impl World {
    /// Step F. The submitter was not blocked: `ub->mutex` is free.
    pub(crate) fn fetch(
        &mut self,
        run: &mut Run<'_>,
        by: By,
        (queue, tag): (u16, u16),
        addr: Addr,
    ) {
        let (thread, ring, token) = by;
        let actor = actor::thread(thread);
        let res = self.try_fetch(run, by, (queue, tag), addr);
        run.seen(u64::from(tag) << 32 | u64::from(res.unsigned_abs()));
        if res == 0 {
            run.progress();
            run.note(actor, || format!("F: fetches tag {tag} of queue {queue}"));
        } else {
            run.note(actor, || format!("F: FETCH of tag {tag} of queue {queue} refused ({res})"));
            self.post(ring, Cqe { token, res });
        }
    }

    /// The errno of what is checked of a FETCH before `ub->mutex` is taken.
    pub(crate) fn refuses_fetch(
        &self,
        thread: ThreadId,
        (queue, tag): (u16, u16),
        addr: Addr,
    ) -> Option<i32> {
        let Some(device) = &self.device else { return Some(errno::ENODEV) };
        if queue >= device.queues {
            return Some(errno::EINVAL);
        }
        let old = device.kernel == KernelSeries::V6_12;
        let hw = &device.hw[usize::from(queue)];
        if tag >= device.depth || old && hw.daemon.is_some_and(|daemon| daemon != thread) {
            return Some(errno::EINVAL);
        }
        if old {
            let state = device.tags[device.slot(queue, tag)].state;
            if matches!(state, TagState::Announced(_)) {
                return Some(errno::EINVAL);
            }
            let active = matches!(
                state,
                TagState::Armed(_)
                    | TagState::Queued(..)
                    | TagState::Lingering(..)
                    | TagState::Cancelled
            );
            if active || hw.ready == device.depth {
                return Some(errno::EBUSY);
            }
        }
        device.refuses_addr(addr, None).then_some(errno::EINVAL)
    }

    fn try_fetch(
        &mut self,
        run: &mut Run<'_>,
        (thread, ring, token): By,
        (queue, tag): (u16, u16),
        addr: Addr,
    ) -> i32 {
        if let Some(errno) = self.refuses_fetch(thread, (queue, tag), addr) {
            return -errno;
        }
        let admin = self.process_of(thread).admin;
        let Some(device) = &mut self.device else { return -errno::ENODEV };
        let slot = device.slot(queue, tag);
        if device.stopping {
            return -errno::ENODEV;
        }
        if device.ready() {
            return -errno::EBUSY;
        }
        match device.tags[slot].state {
            TagState::Unfetched => {}
            TagState::Armed(_)
            | TagState::Prepared
            | TagState::Queued(..)
            | TagState::Listed(_)
            | TagState::Lingering(..) => {
                let wrong = run.sabotage == Some(Sabotage::WrongErrno);
                return if wrong { -errno::EBUSY } else { -errno::EINVAL };
            }
            TagState::Cancelled => {
                run.violate("O11", format!("FETCH of queue {queue} tag {tag} after its abort"));
                return -errno::EINVAL;
            }
            TagState::Served(_) | TagState::Announced(_) => {
                run.violate(
                    "O1",
                    format!("FETCH of queue {queue} tag {tag}, which holds a request: the kernel warns and loses it"),
                );
                return -errno::EINVAL;
            }
        }
        device.tags[slot] = TagSlot {
            state: TagState::Armed(ring),
            task: Some(thread),
            token,
            addr,
            registered: None,
            marked: device.tags[slot].marked,
        };
        device.armed += 1;
        if device.fetched(queue, admin) {
            device.hw[usize::from(queue)].daemon = Some(thread);
        }
        0
    }

    /// Step C: COMMIT_AND_FETCH.
    pub(crate) fn commit(
        &mut self,
        run: &mut Run<'_>,
        (thread, ring, token): By,
        (queue, tag): (u16, u16),
        result: i32,
        addr: Addr,
    ) {
        let actor = actor::thread(thread);
        run.seen(u64::from(tag) << 32 | u64::from(result as u32));
        let may = self.may_commit(run, thread, queue, tag);
        let refusal = match may.and_then(|request| self.fits(request, addr)) {
            Ok(request) => {
                run.note(actor, || format!("C: commits tag {tag} of queue {queue} ({result})"));
                if let Some(device) = &mut self.device {
                    let slot = device.slot(queue, tag);
                    let slot = &mut device.tags[slot];
                    (slot.token, slot.addr) = (token, addr);
                }
                self.committed(run, ring, (queue, tag), request, result);
                return;
            }
            Err(errno) => -errno,
        };
        run.note(actor, || format!("C: COMMIT of tag {tag} of queue {queue} refused ({refusal})"));
        self.post(ring, Cqe { token, res: refusal });
    }

    /// Whether a COMMIT's address fits the device's mode.
    fn fits(&self, id: RequestId, addr: Addr) -> Result<RequestId, i32> {
        let reads =
            self.requests[id.index()].as_ref().is_some_and(|request| request.op == BlockOp::Read);
        let fits =
            self.device.as_ref().is_some_and(|device| !device.refuses_addr(addr, Some(reads)));
        fits.then_some(id).ok_or(errno::EINVAL)
    }

    /// First failing check wins.
    fn may_commit(
        &self,
        run: &mut Run<'_>,
        thread: ThreadId,
        queue: u16,
        tag: u16,
    ) -> Result<RequestId, i32> {
        let Some(device) = &self.device else { return Err(errno::ENODEV) };
        if queue >= device.queues || tag >= device.depth {
            return Err(errno::EINVAL);
        }
        let slot = device.tags[device.slot(queue, tag)];
        if device.kernel == KernelSeries::V6_12 {
            let daemon = device.hw[usize::from(queue)].daemon;
            return match slot.state {
                _ if daemon.is_some_and(|daemon| daemon != thread) => Err(errno::EINVAL),
                TagState::Served(request) => Ok(request),
                TagState::Unfetched | TagState::Announced(_) => Err(errno::EINVAL),
                TagState::Armed(_)
                | TagState::Prepared
                | TagState::Queued(..)
                | TagState::Listed(_)
                | TagState::Lingering(..)
                | TagState::Cancelled => Err(errno::EBUSY),
            };
        }
        match slot.state {
            TagState::Served(request)
                if slot.task == Some(thread) || run.sabotage == Some(Sabotage::AnyoneCommits) =>
            {
                Ok(request)
            }
            TagState::Served(_) | TagState::Announced(_) => Err(errno::EINVAL),
            TagState::Cancelled => {
                run.violate("O11", format!("COMMIT of queue {queue} tag {tag} after its abort"));
                Err(if slot.task == Some(thread) { errno::EBUSY } else { errno::EINVAL })
            }
            TagState::Unfetched
            | TagState::Armed(_)
            | TagState::Prepared
            | TagState::Queued(..)
            | TagState::Listed(_)
            | TagState::Lingering(..) => {
                run.violate(
                    "O1",
                    format!("COMMIT of queue {queue} tag {tag}, which the server does not own"),
                );
                Err(if slot.task == Some(thread) { errno::EBUSY } else { errno::EINVAL })
            }
        }
    }

    /// The request is completed inline, or by the last who holds its pages; the tag waits for the next one.
    pub(crate) fn committed(
        &mut self,
        run: &mut Run<'_>,
        ring: RingId,
        (queue, tag): (u16, u16),
        request: RequestId,
        result: i32,
    ) {
        let buffer = self.buffers[self.buffer_index(queue, tag)];
        let Some(device) = &mut self.device else { return };
        let copies = device.copies();
        let slot = device.slot(queue, tag);
        let registered = device.tags[slot].registered.take();
        device.tags[slot].state = TagState::Lingering(ring, request, result);
        device.armed += u16::from(!device.batches());
        let armed = device.armed_by(ring);
        let Some(req) = self.requests[request.index()].as_mut() else { return };
        let in_place = req.in_place.is_some() && run.sabotage != Some(Sabotage::CopyInPlace);
        let free = req.holders == 0;
        if copies && req.op == BlockOp::Read && !in_place {
            let done = usize::from(req.done);
            let bytes = u64::from(result.unsigned_abs());
            let sectors = if result < 0 { 0 } else { (bytes / SECTOR) as usize };
            let sectors = sectors.min(usize::from(req.sectors - req.done));
            req.data[done..done + sectors].copy_from_slice(&buffer[..sectors]);
            self.reaches_memory(request, (done, sectors));
        }
        let Some(device) = &mut self.device else { return };
        if free {
            device.tags[slot].state = armed;
            self.completed(run, request, result);
        } else {
            self.unregisters_at_commit(run, ring, registered);
        }
    }

    /// A request that was committed, and that nobody holds any more.
    pub(crate) fn completed(&mut self, run: &mut Run<'_>, request: RequestId, result: i32) {
        let copies = self.device.as_ref().is_some_and(Device::copies);
        let Some(req) = self.requests[request.index()].as_mut() else { return };
        let bytes = (u64::from(req.sectors - req.done) * SECTOR) as i32;
        match req.op {
            BlockOp::Read | BlockOp::Write { .. } => {
                if result >= 0 && result != bytes {
                    run.violate(
                        "O3",
                        format!("{} of {bytes} bytes committed with {result}", req.op.name()),
                    );
                }
                let read = req.op == BlockOp::Read;
                // 7.3: any non-negative result of a write completes all of it, and any positive one of a read whose data the server
                // moved, or found in its own memory. Before, a write is like a read, and one of which nothing is done comes back whole.
                let old = run.config.kernel < KernelSeries::V7_3;
                let short = if read { 1..bytes } else { 0..bytes };
                if (read && copies && req.in_place.is_none() || old) && short.contains(&result) {
                    // The rest is delivered again; the oracle has spoken already.
                    let sectors = (u64::from(result.unsigned_abs()) / SECTOR) as u16;
                    self.requeue_rest(run, request, sectors);
                    return;
                }
                let status = if result == 0 && read { Err(errno::EIO) } else { status(result) };
                let status = status.and_then(|()| self.verifies(run, request));
                self.end_request(run, request, status);
            }
            // Before 7.3 a part of the memory may be told to be written, and the rest is asked for.
            BlockOp::ReportZones(_)
                if run.config.kernel < KernelSeries::V7_3 && (0..bytes).contains(&result) =>
            {
                self.requeue_rest(run, request, 0);
            }
            BlockOp::Flush
            | BlockOp::Discard
            | BlockOp::WriteZeroes { .. }
            | BlockOp::ReportZones(_)
            | BlockOp::Zone(_)
            | BlockOp::ResetZones => {
                self.end_request(run, request, status(result));
            }
        }
    }

    /// Step TW, the part of a dispatch: the request becomes the server's.
    pub(crate) fn dispatch(&mut self, run: &mut Run<'_>, thread: ThreadId, queue: u16, tag: u16) {
        let Some(device) = &mut self.device else { return };
        let slot = device.slot(queue, tag);
        let TagState::Queued(ring, request) = device.tags[slot].state else {
            run.violate(
                "K5",
                format!("dispatch on queue {queue} tag {tag}, which holds no request"),
            );
            return;
        };
        let daemon = device.hw[usize::from(queue)].daemon;
        if device.kernel == KernelSeries::V6_12 && daemon != Some(thread) {
            // Another task fetched the queue's last tag: this one never delivers (H24).
            self.dispatch_fails(run, queue, tag);
            return;
        }
        let token = device.tags[slot].token;
        let (copies, announces) = (device.copies(), device.announces());
        device.tags[slot].state = TagState::Served(request);
        let Some(req) = &mut self.requests[request.index()] else { return };
        (req.unregistered, req.lost) = (false, 0);
        self.look_up(request);
        if !self.registers_at_delivery(run, ring, (queue, tag)) {
            if let Some(device) = &mut self.device {
                device.tags[slot].state = TagState::Armed(ring);
            }
            run.kernel(|| format!("TW: tag {tag} of queue {queue} has no room for a buffer"));
            self.end_request(run, request, Err(errno::EIO));
            return;
        }
        let (Some(device), Some(req)) = (&mut self.device, &self.requests[request.index()]) else {
            return;
        };
        device.armed -= 1;
        let mut res = 0;
        if announces && matches!(req.op, BlockOp::Write { .. }) {
            device.tags[slot].state = TagState::Announced(request);
            res = NEED_GET_DATA;
        }
        if copies && res == 0 {
            self.fill_buffer(queue, tag, request);
        }
        let Some(req) = &self.requests[request.index()] else { return };
        let what = req.op.name();
        run.note(actor::thread(thread), || {
            format!("TW: {what} delivered on tag {tag} of queue {queue}")
        });
        self.post(ring, Cqe { token, res });
        self.file_dropped(run);
    }

    /// Copy mode: a write's data goes into the tag's buffer.
    pub(crate) fn fill_buffer(&mut self, queue: u16, tag: u16, request: RequestId) {
        let index = self.buffer_index(queue, tag);
        if let Some(req) = &self.requests[request.index()]
            && matches!(req.op, BlockOp::Write { .. })
            && req.in_place.is_none()
        {
            let (sectors, data) = (usize::from(req.sectors), self.written(req));
            self.buffers[index][..sectors].copy_from_slice(&data[..sectors]);
        }
    }

    /// NEED_GET_DATA: the data of a write that was announced. It completes at once, before 6.18 by task work.
    pub(crate) fn get_data(
        &mut self,
        run: &mut Run<'_>,
        (thread, ring, token): By,
        (queue, tag): (u16, u16),
    ) {
        let res = match self.may_get_data(thread, queue, tag) {
            Err(errno) => {
                if run.config.subject.is_engine() {
                    let text =
                        format!("NEED_GET_DATA of queue {queue} tag {tag} refused ({errno})");
                    run.violate("O1", text);
                }
                -errno
            }
            Ok(request) => {
                let in_place = self.forgets_place(request);
                let lost = if in_place { 0 } else { self.copy_fails(run, request) };
                let index = self.buffer_index(queue, tag);
                let mut none = false;
                if let Some(req) = self.requests[request.index()].as_ref().filter(|_| !in_place) {
                    let whole = usize::from(req.sectors - req.done);
                    let (copied, data) = (whole - usize::from(lost), self.written(req));
                    self.buffers[index][..copied].copy_from_slice(&data[..copied]);
                    none = copied == 0;
                }
                if let Some(req) = &mut self.requests[request.index()] {
                    req.lost = lost;
                }
                run.note(actor::thread(thread), || {
                    format!("gets the data of tag {tag} of queue {queue}, but for {lost} sector(s)")
                });
                if let Some(device) = &mut self.device {
                    let slot = device.slot(queue, tag);
                    let slot = &mut device.tags[slot];
                    (slot.state, slot.token) = (TagState::Served(request), token);
                    if none {
                        // The request goes back, and the tag waits for one as after a FETCH (H19).
                        slot.state = TagState::Armed(ring);
                        device.armed += 1;
                        self.requeue_rest(run, request, 0);
                        return;
                    }
                    if device.kernel == KernelSeries::V6_12 {
                        self.post_by_task_work(thread, ring, Cqe { token, res: 0 });
                        return;
                    }
                }
                0
            }
        };
        run.seen(u64::from(res.unsigned_abs()));
        self.post(ring, Cqe { token, res });
    }

    /// How many sectors at the end of an announced write cannot be copied: pages of the buffer that are not there. All the buffers of the engine are
    /// pinned, so this is adversity beyond what it can meet.
    fn copy_fails(&mut self, run: &mut Run<'_>, request: RequestId) -> u16 {
        if self.budget.disks == 0 || !run.fault(run.config.faults.disk) {
            return 0;
        }
        self.budget.disks -= 1;
        let whole = self.requests[request.index()].as_ref().map_or(0, |req| req.sectors - req.done);
        if run.choose(Site::Fault, 2) == 0 {
            return whole;
        }
        // The request must then fail.
        run.disk_failed = true;
        whole.div_ceil(2)
    }

    fn may_get_data(&self, thread: ThreadId, queue: u16, tag: u16) -> Result<RequestId, i32> {
        let Some(device) = &self.device else { return Err(errno::ENODEV) };
        if queue >= device.queues || tag >= device.depth {
            return Err(errno::EINVAL);
        }
        let slot = device.tags[device.slot(queue, tag)];
        let own = if device.kernel == KernelSeries::V6_12 {
            device.hw[usize::from(queue)].daemon.is_none_or(|daemon| daemon == thread)
        } else {
            slot.task == Some(thread)
        };
        match slot.state {
            _ if !own => Err(errno::EINVAL),
            TagState::Announced(request) => Ok(request),
            TagState::Unfetched | TagState::Served(_) => Err(errno::EINVAL),
            TagState::Armed(_)
            | TagState::Prepared
            | TagState::Queued(..)
            | TagState::Listed(_)
            | TagState::Lingering(..)
            | TagState::Cancelled => Err(errno::EBUSY),
        }
    }

    /// A dispatch that runs where it cannot deliver: the request is aborted, the command stays armed.
    pub(crate) fn dispatch_fails(&mut self, run: &mut Run<'_>, queue: u16, tag: u16) {
        let Some(device) = &mut self.device else { return };
        let slot = device.slot(queue, tag);
        let TagState::Queued(ring, request) = device.tags[slot].state else {
            run.violate(
                "K5",
                format!("dispatch on queue {queue} tag {tag}, which holds no request"),
            );
            return;
        };
        device.tags[slot].state = TagState::Armed(ring);
        let waits = device.queues_io();
        run.kernel(|| format!("TWX: dispatch on tag {tag} of queue {queue} aborted"));
        self.abort_request(run, request, waits);
    }

    /// Step X2: an armed tag is cancelled. Started requests are skipped.
    pub(crate) fn cancel(&mut self, run: &mut Run<'_>, slot: usize) {
        let Some(device) = &mut self.device else { return };
        let TagState::Armed(ring) = device.tags[slot].state else { return };
        device.tags[slot].state = TagState::Cancelled;
        device.tags[slot].marked = device.kernel == KernelSeries::V6_18;
        let (token, task) = (device.tags[slot].token, device.tags[slot].task);
        device.armed -= 1;
        let tag = (slot % usize::from(device.depth)) as u16;
        let queue = slot / usize::from(device.depth);
        run.kernel(|| format!("X2: tag {tag} of queue {queue} aborted"));
        // From another task's context: it is the task's own to post (io_uring_cmd_done).
        if run.sabotage == Some(Sabotage::EagerAbort) {
            self.post(ring, Cqe { token, res: -errno::ENODEV });
        } else if let Some(task) = task {
            self.post_by_task_work(task, ring, Cqe { token, res: -errno::ENODEV });
        }
        self.file_dropped(run);
    }
}

/// What the block layer makes of a committed result: not every errno reaches the client.
fn status(result: i32) -> Result<(), i32> {
    if result >= 0 { Ok(()) } else { Err(i32::from(Errno::from_result(result).seen_by_client().0)) }
}
