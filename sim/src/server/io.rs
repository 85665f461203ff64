//! What the engine's machines are offered beside calls: rings, links, descriptors, memory.

use blkproof_engine::batch::{BatchOp, Element};
use blkproof_engine::control::{Command, Reply};
use blkproof_engine::data::{Address, Place};
use blkproof_engine::link::{
    FromQueue, FromWorker, Link, News, Order, Received, TO_QUEUE_MESSAGES_MAX, ToQueue, ToWorker,
    Verdict, WORKER_MESSAGES_MAX, from_queues_messages_max,
};
use blkproof_engine::sys::{
    BackendOp, ControlIo, Cqe, LauncherIo, MemoryOp, QueueIo, Ring, SqFull, Sqe, SupervisorIo,
    Token, WorkerIo,
};
use blkproof_engine::uapi::{IoDesc, ParamAttrs, QueueId, RequestFlags, RequestOp, Tag};

use crate::choices::Site;
use crate::kernel::data::Copied;
use crate::kernel::device::Device;
use crate::kernel::errno;
use crate::kernel::ring::Entry;
use crate::kernel::tags::TagState;
use crate::run::{Run, Sabotage, actor};
use crate::world::{BUFFER_SECTORS, PAGE_SECTORS, RingId, SECTOR, ThreadId, Version, World};

/// Which machine a thread is, as far as rings and links are concerned.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Role {
    Launcher,
    Supervisor,
    Worker,
    Queue(u16),
}

/// What a machine's driver offers, under the simulator.
pub(super) struct Io<'w, 'r, 'c> {
    pub(super) world: &'w mut World,
    pub(super) run: &'r mut Run<'c>,
    pub(super) thread: ThreadId,
    pub(super) role: Role,
}

impl World {
    /// Whether a poll on a link would find something.
    pub(crate) fn readable(&self, thread: ThreadId, link: Link) -> bool {
        let down = |other: Option<ThreadId>| {
            other.is_some_and(|other| self.process_of(other).state.is_down())
        };
        match link {
            Link::Worker if self.links.supervisor == Some(thread) => {
                !self.links.up.is_empty() || down(self.links.worker)
            }
            Link::Worker => {
                let queue = usize::from(self.threads[thread.index()].queue);
                self.links.mail.get(queue).is_some_and(|mail| !mail.is_empty())
            }
            Link::Supervisor if self.links.launcher == Some(thread) => {
                !self.links.verdicts.is_empty() || down(self.links.commanded)
            }
            Link::Supervisor => !self.links.down.is_empty() || down(self.links.supervisor),
            Link::Queues => !self.links.reports.is_empty(),
            Link::Operator if self.links.launcher == Some(thread) => {
                !self.links.interrupts.is_empty()
            }
            Link::Operator => self.links.commanded == Some(thread) && !self.links.orders.is_empty(),
        }
    }
}

impl Ring for Io<'_, '_, '_> {
    fn sq_space(&self) -> u32 {
        let Some(ring) = self.ring() else { return 0 };
        let ring = &self.world.rings[ring.index()];
        ring.entries - ring.sq.len() as u32
    }

    fn sq_ready(&self) -> u32 {
        self.ring().map_or(0, |ring| self.world.rings[ring.index()].sq.len() as u32)
    }

    fn push(&mut self, sqe: Sqe) -> Result<(), SqFull> {
        let Some(ring) = self.ring() else { return Err(SqFull) };
        if self.sq_space() == 0 {
            return Err(SqFull);
        }
        let mut sqe = sqe;
        if let Sqe::Commit { tag, result, address } = sqe {
            match self.run.sabotage {
                Some(Sabotage::DropCommit | Sabotage::EndlessWakeUps) if self.run.strikes() => {
                    return Ok(());
                }
                Some(Sabotage::DoubleCommit) if self.run.strikes() => {
                    self.world.rings[ring.index()].sq.push_back(Entry::Plain(sqe));
                }
                Some(Sabotage::ShortCommit) if result > 512 && self.run.strikes() => {
                    sqe = Sqe::Commit { tag, result: result - 512, address };
                }
                Some(Sabotage::CommitNothing) if self.asks(tag, RequestOp::Write) => {
                    sqe = Sqe::Commit { tag, result: 0, address };
                }
                Some(Sabotage::RotateBuffers) if self.asks(tag, RequestOp::Read) => {
                    self.rotate_buffers(tag);
                }
                Some(_) | None => {}
            }
        }
        match (&mut sqe, self.run.sabotage) {
            (
                Sqe::Backend { place, op: BackendOp::Write { .. }, .. },
                Some(Sabotage::IgnorePlace),
            ) => *place = Place::Tag,
            (Sqe::Unregister { .. }, Some(Sabotage::KeepPages)) => {
                let cqe = Cqe { token: sqe.token(), res: 0 };
                self.world.post(ring, cqe);
                return Ok(());
            }
            (
                Sqe::Fetch { address: Address::Slot(register), .. }
                | Sqe::Commit { address: Address::Slot(register), .. },
                Some(Sabotage::ShareSlot),
            ) => register.index = 0,
            _ => {}
        }
        if sqe == Sqe::FetchTags {
            let fetched = &mut self.world.rings[ring.index()].lists.fetched;
            if std::mem::replace(fetched, true) && self.run.sabotage == Some(Sabotage::NoRenewal) {
                return Ok(());
            }
        }
        if let (Sqe::GetData { .. }, Some(Sabotage::DropGetData)) = (sqe, self.run.sabotage)
            && self.run.strikes()
        {
            return Ok(());
        }
        self.world.rings[ring.index()].sq.push_back(Entry::Plain(sqe));
        Ok(())
    }

    fn reap(&mut self) -> Option<Cqe> {
        let ring = self.ring()?;
        if self.role == Role::Supervisor
            && self.run.sabotage == Some(Sabotage::StrayCompletion)
            && self.run.strikes()
        {
            return Some(Cqe { token: Token::Io(Tag(0)), res: 0 });
        }
        let mut cqe = self.world.rings[ring.index()].cq.pop_front()?;
        let lists = &mut self.world.rings[ring.index()].lists;
        match cqe.token {
            Token::Tags if cqe.res >= 0 => lists.last = lists.told.pop_front(),
            Token::Backend(_)
                if cqe.res == -errno::EIO && self.run.sabotage == Some(Sabotage::SwallowError) =>
            {
                return self.reap();
            }
            Token::Backend(_)
                if cqe.res == -errno::EAGAIN
                    && self.run.sabotage == Some(Sabotage::PassOnAgain) =>
            {
                cqe.res = -errno::EIO;
            }
            Token::Backend(tag) if self.run.sabotage == Some(Sabotage::WakeAnother) => {
                let other = self.world.disk.in_flight.iter().find(|other| other.ring == ring);
                cqe.token = Token::Backend(other.map_or(tag, |other| Tag(other.tag)));
            }
            Token::Commits
                if cqe.res > 0 && self.run.sabotage == Some(Sabotage::ForgetUnconsumed) =>
            {
                cqe.res = lists.sent;
            }
            _ => {}
        }
        let abort = cqe.res == -errno::ENODEV && matches!(cqe.token, Token::Io(_));
        if abort {
            match self.run.sabotage {
                Some(Sabotage::WaitForAborts) if self.more_to_abort() => return self.reap(),
                Some(Sabotage::IgnoreAbort) if self.run.strikes() => return self.reap(),
                Some(Sabotage::CommitAfterAbort) if self.run.strikes() => {
                    if let Token::Io(tag) = cqe.token {
                        let address = self.run.config.data.address(tag);
                        let sqe = Sqe::Commit { tag, result: 0, address };
                        self.world.rings[ring.index()].sq.push_back(Entry::Plain(sqe));
                    }
                }
                Some(_) | None => {}
            }
        }
        Some(cqe)
    }
}

impl Io<'_, '_, '_> {
    /// Whether the request that this queue has under a tag is such a one.
    fn asks(&self, tag: Tag, op: RequestOp) -> bool {
        let Role::Queue(queue) = self.role else { return false };
        let request = self.world.request_of(queue, tag.0);
        let request = request.and_then(|id| self.world.requests[id.index()].as_ref());
        request.is_some_and(|request| World::describe_request(request).op() == Some(op))
    }

    /// The buffer of a tag and that of the next change places.
    fn rotate_buffers(&mut self, tag: Tag) {
        let Role::Queue(queue) = self.role else { return };
        let depth = self.run.config.depth;
        let one = self.world.buffer_index(queue, tag.0);
        let other = self.world.buffer_index(queue, (tag.0 + 1) % depth);
        self.world.buffers.swap(one, other);
    }

    fn ring(&self) -> Option<RingId> {
        self.world.threads[self.thread.index()].ring
    }

    /// Whether a tag of this queue was not aborted yet.
    fn more_to_abort(&self) -> bool {
        let (Role::Queue(queue), Some(device)) = (self.role, &self.world.device) else {
            return false;
        };
        let first = usize::from(queue) * usize::from(device.depth);
        let tags = &device.tags[first..][..usize::from(device.depth)];
        tags.iter().any(|tag| tag.state != TagState::Cancelled)
    }

    fn is_down(&self, thread: Option<ThreadId>) -> bool {
        thread.is_none_or(|thread| self.world.process_of(thread).state.is_down())
    }

    /// Wakes who polls a link, unless the wake-up is lost.
    fn notify(&mut self, thread: Option<ThreadId>, link: Link) {
        let watched = thread
            .and_then(|thread| self.world.threads[thread.index()].ring)
            .is_some_and(|ring| self.world.rings[ring.index()].watches.contains(&link));
        if watched && self.run.sabotage == Some(Sabotage::DropWakeUp) && self.run.strikes() {
            return;
        }
        self.world.notify(thread, link);
    }
}

impl Io<'_, '_, '_> {
    fn note(&mut self, text: impl FnOnce() -> String) {
        self.run.note(actor::thread(self.thread), text);
    }

    /// Whether the link between this supervisor and the worker is its own.
    fn owns_worker(&self) -> bool {
        self.world.links.supervisor == Some(self.thread)
    }

    /// What hearing finds, once the oldest message was taken.
    fn found<M>(&self, message: Option<M>, peer: Option<ThreadId>) -> Received<M> {
        match message {
            Some(message) => Received::Message(message),
            None if self.is_down(peer) => Received::Closed,
            None => Received::Empty,
        }
    }

    /// A message is on its way.
    fn told(&mut self, receiver: Option<ThreadId>, link: Link) {
        if !self.is_down(receiver) {
            self.run.progress();
            self.notify(receiver, link);
        }
    }

    fn roomy(len: usize, max: usize) {
        assert!(len < max, "I9: a link has room for all that its senders may ever say");
    }
}

impl SupervisorIo for Io<'_, '_, '_> {
    fn hear_operator(&mut self) -> Received<Order> {
        if self.world.links.commanded != Some(self.thread) {
            return Received::Empty;
        }
        match self.world.links.orders.pop_front() {
            Some(Order::Recover)
                if self.run.sabotage == Some(Sabotage::LoseOrder) && self.run.strikes() =>
            {
                Received::Empty
            }
            order => order.map_or(Received::Empty, Received::Message),
        }
    }

    fn hear_worker(&mut self) -> Received<FromWorker> {
        if !self.owns_worker() {
            return Received::Closed;
        }
        let message = self.world.links.up.pop_front();
        self.found(message, self.world.links.worker)
    }

    fn tell_worker(&mut self, message: ToWorker) {
        if self.owns_worker() {
            self.note(|| format!("tells the worker: {message:?}"));
            match (self.run.sabotage, message) {
                (Some(Sabotage::WaitForAborts), ToWorker::Finish | ToWorker::Quit) => return,
                (Some(Sabotage::SizeUntold), ToWorker::Resize { sectors }) => {
                    self.world.links.up.push_back(FromWorker::Resized { sectors });
                    let supervisor = self.world.links.supervisor;
                    self.told(supervisor, Link::Worker);
                    return;
                }
                (Some(_) | None, _) => {}
            }
            Self::roomy(self.world.links.down.len(), WORKER_MESSAGES_MAX);
            self.world.links.down.push_back(message);
            self.told(self.world.links.worker, Link::Supervisor);
        }
    }

    fn tell_launcher(&mut self, verdict: Verdict) {
        if self.world.links.commanded == Some(self.thread) {
            self.note(|| format!("tells the launcher: {verdict:?}"));
            Self::roomy(self.world.links.verdicts.len(), 1);
            self.world.links.verdicts.push_back(verdict);
            self.told(self.world.links.launcher, Link::Supervisor);
        }
    }

    fn note(&mut self, news: News) {
        self.tell_news(news);
    }
}

impl Io<'_, '_, '_> {
    fn tell_news(&mut self, news: News) {
        self.note(|| format!("notes: {news:?}"));
        match news {
            News::Recovered => self.run.progress(),
            News::RecoveryFailed(_) => self.world.operator.recovery_hindered = true,
            _ => {}
        }
    }
}

impl WorkerIo for Io<'_, '_, '_> {
    fn hear_supervisor(&mut self) -> Received<ToWorker> {
        let message = self.world.links.down.pop_front();
        self.found(message, self.world.links.supervisor)
    }

    fn tell_supervisor(&mut self, message: FromWorker) {
        self.note(|| format!("tells the supervisor: {message:?}"));
        Self::roomy(self.world.links.up.len(), WORKER_MESSAGES_MAX);
        self.world.links.up.push_back(message);
        self.told(self.world.links.supervisor, Link::Worker);
    }

    fn hear_queues(&mut self) -> Received<FromQueue> {
        self.world.links.reports.pop_front().map_or(Received::Empty, Received::Message)
    }

    fn tell_queue(&mut self, queue: QueueId, message: ToQueue) {
        self.note(|| format!("tells queue {}: {message:?}", queue.0));
        let mail = &mut self.world.links.mail[usize::from(queue.0)];
        Self::roomy(mail.len(), TO_QUEUE_MESSAGES_MAX);
        mail.push_back(message);
        self.told(self.world.links.queues[usize::from(queue.0)], Link::Worker);
    }
}

impl LauncherIo for Io<'_, '_, '_> {
    fn hear_operator(&mut self) -> Received<Order> {
        self.world.links.interrupts.pop_front().map_or(Received::Empty, Received::Message)
    }

    fn hear_supervisor(&mut self) -> Received<Verdict> {
        let verdict = self.world.links.verdicts.pop_front();
        self.found(verdict, self.world.links.commanded)
    }
}

impl ControlIo for Io<'_, '_, '_> {
    fn push_control(&mut self, sequence: u32, command: &Command) -> Result<(), SqFull> {
        let Some(ring) = self.ring() else { return Err(SqFull) };
        if self.sq_space() == 0 {
            return Err(SqFull);
        }
        let mut command = command.clone();
        if let (Command::SetParams(_, params), Some(Sabotage::HideCache)) =
            (&mut command, self.run.sabotage)
            && let Some(basic) = &mut params.basic
        {
            basic.attrs = ParamAttrs(basic.attrs.0 & !ParamAttrs::VOLATILE_CACHE.0);
        }
        let entry = Entry::Control(sequence, command);
        self.world.rings[ring.index()].sq.push_back(entry);
        Ok(())
    }

    fn reply(&self) -> Reply {
        self.ring().map_or(Reply::Nothing, |ring| self.world.rings[ring.index()].reply)
    }
}

impl QueueIo for Io<'_, '_, '_> {
    fn hear_worker(&mut self) -> Received<ToQueue> {
        let Role::Queue(queue) = self.role else { return Received::Closed };
        let mail = &mut self.world.links.mail[usize::from(queue)];
        mail.pop_front().map_or(Received::Empty, Received::Message)
    }

    fn tell_worker(&mut self, message: FromQueue) {
        self.note(|| format!("tells the worker: {message:?}"));
        let queues = self.world.links.queues.len() as u16;
        Self::roomy(self.world.links.reports.len(), from_queues_messages_max(queues));
        self.world.links.reports.push_back(message);
        self.told(self.world.links.worker, Link::Queues);
    }

    fn push_batch(&mut self, op: BatchOp, elements: &[Element]) -> Result<(), SqFull> {
        let Some(ring) = self.ring() else { return Err(SqFull) };
        if self.sq_space() == 0 {
            return Err(SqFull);
        }
        let mut elements = elements.to_vec();
        let sent: u16 = elements.iter().map(Element::bytes).sum();
        if op == BatchOp::Commit {
            match self.run.sabotage {
                Some(Sabotage::DropCommit | Sabotage::EndlessWakeUps) if self.run.strikes() => {
                    elements.pop();
                    if elements.is_empty() {
                        return Ok(());
                    }
                }
                Some(Sabotage::DoubleCommit) if self.run.strikes() => {
                    self.world.rings[ring.index()].sq.push_back(Entry::Batch(op, elements.clone()));
                }
                Some(Sabotage::ShortCommit) if elements[0].result > 512 && self.run.strikes() => {
                    elements[0].result -= 512;
                }
                Some(_) | None => {}
            }
        }
        let ring = &mut self.world.rings[ring.index()];
        ring.lists.sent = i32::from(sent);
        ring.sq.push_back(Entry::Batch(op, elements));
        Ok(())
    }

    fn told(&self, nth: u16) -> Tag {
        let ring = self.ring().map(|ring| &self.world.rings[ring.index()]);
        let last = ring.and_then(|ring| ring.lists.last.as_ref());
        Tag(last.expect("I1: tags are read before their buffer is given back")[usize::from(nth)])
    }

    fn give_back(&mut self) {
        let Some(ring) = self.ring() else { return };
        let ring = &mut self.world.rings[ring.index()];
        ring.provided += u16::from(ring.lists.last.take().is_some());
    }

    // A completion that names tags is never the last of its command here.
    fn goes_on(&self) -> bool {
        true
    }

    fn descriptor(&self, tag: Tag) -> IoDesc {
        let Role::Queue(queue) = self.role else { return IoDesc::default() };
        let queue = if self.run.sabotage == Some(Sabotage::OneStride) { 0 } else { queue };
        let mut desc = self.world.descriptor(self.run, queue, tag.0);
        match self.run.sabotage {
            Some(Sabotage::TruncateSector) => desc.start_sector &= u64::from(PAGE_SECTORS) - 1,
            Some(Sabotage::IgnoreFallback) => desc.op_flags &= !RequestFlags::NEED_REG_BUF.0,
            Some(_) | None => {}
        }
        desc
    }

    fn memory(&mut self, tag: Tag, place: Place, op: MemoryOp) -> i32 {
        let Role::Queue(queue) = self.role else { return -errno::EINVAL };
        let mut place = place;
        match self.run.sabotage {
            Some(Sabotage::IgnorePlace) if matches!(op, MemoryOp::Store { .. }) => {
                place = Place::Tag;
            }
            Some(Sabotage::MissPlace) => {
                if let Place::Shared(offset) = &mut place {
                    *offset ^= SECTOR as u32;
                }
            }
            Some(Sabotage::LateDescriptor | Sabotage::LateBuffer) => {
                self.run.late = Some((queue, tag.0));
            }
            Some(Sabotage::LateCopy)
                if self.run.late.is_none() && matches!(op, MemoryOp::Store { .. }) =>
            {
                self.run.late = Some((queue, tag.0));
                return op.bytes() as i32;
            }
            Some(Sabotage::LoseCopy) if self.run.strikes() => return op.bytes() as i32,
            Some(_) | None => {}
        }
        self.world.memory(self.run, self.thread, (queue, tag.0), place, op)
    }
}

impl World {
    /// A server reads a descriptor: only while it owns the tag.
    pub(crate) fn descriptor(&self, run: &Run<'_>, queue: u16, tag: u16) -> IoDesc {
        let request = self.request_of(queue, tag);
        if let Some(request) = request.and_then(|request| self.requests[request.index()].as_ref()) {
            let mut desc = Self::describe_request(request);
            if run.sabotage == Some(Sabotage::StaleDescriptor) {
                desc.nr_sectors += u32::from(request.lost);
            }
            desc
        } else {
            run.violate(
                "O1",
                format!(
                    "the descriptor of queue {queue} tag {tag} is read while the kernel owns it"
                ),
            );
            IoDesc::default()
        }
    }

    /// A server touches a request's data: only while it owns the tag.
    pub(crate) fn memory(
        &mut self,
        run: &mut Run<'_>,
        thread: ThreadId,
        (queue, tag): (u16, u16),
        place: Place,
        op: MemoryOp,
    ) -> i32 {
        if !self.server_owns(queue, tag) {
            run.violate(
                "O4",
                format!("the data of queue {queue} tag {tag} is touched while the kernel owns it"),
            );
            return -errno::EINVAL;
        }
        if place != Place::Tag && self.lent_at(place) != self.lies_at(queue, tag) {
            run.violate(
                "O4",
                format!("the data of queue {queue} tag {tag} is not {place:?} in shared memory"),
            );
            return -errno::EINVAL;
        }
        let index = self.buffer_index(queue, tag);
        let sectors = |bytes: u64| (bytes / SECTOR) as usize;
        let n = sectors(op.bytes());
        let inside = |offset: u64| sectors(offset) + n <= self.store.len();
        match op {
            MemoryOp::Load { offset, .. }
            | MemoryOp::Store { offset, .. }
            | MemoryOp::Zero { offset, .. }
                if !inside(offset) =>
            {
                run.violate("O8", format!("{op:?} reaches beyond the store"));
                -errno::EINVAL
            }
            MemoryOp::Load { offset, len: _ } => {
                let mut data = [0; BUFFER_SECTORS];
                data[..n].copy_from_slice(&self.store[sectors(offset)..][..n]);
                self.puts(run, thread, (queue, tag), place, &data[..n])
            }
            MemoryOp::Store { offset, len } => {
                let mut data = [0; BUFFER_SECTORS];
                let res = self.takes(run, thread, (queue, tag), place, &mut data[..n]);
                if run.sabotage == Some(Sabotage::LoseWrite) && run.strikes() {
                    return len as i32;
                }
                let got = sectors(u64::try_from(res).unwrap_or(0));
                self.store[sectors(offset)..][..got].copy_from_slice(&data[..got]);
                res
            }
            MemoryOp::Zero { len, .. } if run.sabotage == Some(Sabotage::LoseZeroes) => len as i32,
            MemoryOp::Zero { offset, len } => {
                self.store[sectors(offset)..sectors(offset + len)].fill(0);
                len as i32
            }
            MemoryOp::Clear { len: _ } => {
                self.puts(run, thread, (queue, tag), place, &[0; BUFFER_SECTORS][..n])
            }
            MemoryOp::CopyIn { len: _ } => {
                let mut data = self.buffers[index];
                let res = self.user_copies(run, thread, (queue, tag), Copied::From(&mut data[..n]));
                self.buffers[index] = data;
                res
            }
            MemoryOp::CopyOut { len: _ } => {
                let data = self.buffers[index];
                self.user_copies(run, thread, (queue, tag), Copied::To(&data[..n]))
            }
        }
    }

    /// Data goes to where the server finds room for it: the tag's buffer, shared memory, or the request itself.
    fn puts(
        &mut self,
        run: &mut Run<'_>,
        thread: ThreadId,
        (queue, tag): (u16, u16),
        place: Place,
        data: &[Version],
    ) -> i32 {
        if let Some(at) = self.lent_at(place) {
            self.shared[at..][..data.len()].copy_from_slice(data);
            return (data.len() as u64 * SECTOR) as i32;
        }
        if !self.device.as_ref().is_some_and(Device::copies) {
            return self.user_copies(run, thread, (queue, tag), Copied::To(data));
        }
        let index = self.buffer_index(queue, tag);
        self.buffers[index][..data.len()].copy_from_slice(data);
        (data.len() as u64 * SECTOR) as i32
    }

    /// Data comes from where the server finds it.
    fn takes(
        &mut self,
        run: &mut Run<'_>,
        thread: ThreadId,
        (queue, tag): (u16, u16),
        place: Place,
        data: &mut [Version],
    ) -> i32 {
        if let Some(at) = self.lent_at(place) {
            data.copy_from_slice(&self.shared[at..][..data.len()]);
            return (data.len() as u64 * SECTOR) as i32;
        }
        if !self.device.as_ref().is_some_and(Device::copies) {
            return self.user_copies(run, thread, (queue, tag), Copied::From(data));
        }
        let index = self.buffer_index(queue, tag);
        data.copy_from_slice(&self.buffers[index][..data.len()]);
        (data.len() as u64 * SECTOR) as i32
    }

    /// `pread` or `pwrite` of the character device from a request's first byte on, which may end early: a page may not be there.
    fn user_copies(
        &mut self,
        run: &mut Run<'_>,
        thread: ThreadId,
        (queue, tag): (u16, u16),
        data: Copied<'_>,
    ) -> i32 {
        let mut count = data.sectors();
        if self.budget.disks > 0 && run.fault(run.config.faults.disk) {
            self.budget.disks -= 1;
            run.disk_failed = true;
            count = if run.choose(Site::Fault, 2) == 1 { count / 2 } else { 0 };
            run.kernel(|| format!("a copy of queue {queue} tag {tag} ends after {count} sectors"));
            if count == 0 {
                return -errno::EFAULT;
            }
        }
        let res = self.user_copy_of(thread, (queue, tag), count, data);
        run.seen(u64::from(res.unsigned_abs()));
        res
    }
}
