//! Batch I/O (7.3): tags are armed and committed many at a time, and delivered through a pool of multishot fetch commands.

use std::collections::VecDeque;

use blkproof_engine::batch::{BatchOp, Element};
use blkproof_engine::sys::{Cqe, Token};
use blkproof_engine::uapi::{AutoBufReg, FETCH_BATCH_TAG_BYTES, Features, KernelSeries};

use crate::choices::Site;
use crate::kernel::device::Device;
use crate::kernel::errno;
use crate::kernel::process::Work;
use crate::kernel::tags::{By, TagSlot, TagState};
use crate::run::{Run, actor};
use crate::script::Addr;
use crate::world::{RequestId, RingId, ThreadId, World};

/// Bytes of an element without a buffer's address, and of one with it.
const ELEMENT_BYTES: [i32; 2] = [8, 16];
/// Bytes of a tag in a provided buffer.
const TAG_BYTES: i32 = FETCH_BATCH_TAG_BYTES as i32;
/// Tags that fit into a provided buffer.
pub(crate) const TAGS_PER_BUFFER: usize = 32;

/// What an engine's ring has for batches.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub(crate) struct TagLists {
    /// Tags that fit into one of its buffers.
    pub(crate) each: u16,
    /// The tags that each completion names which was not reaped.
    pub(crate) told: VecDeque<Vec<u16>>,
    /// Those of the one that was reaped last, until its buffer is given back.
    pub(crate) last: Option<Vec<u16>>,
    /// Bytes of the elements that were sent last.
    pub(crate) sent: i32,
    /// It was fetched with.
    pub(crate) fetched: bool,
}

/// A multishot fetch command.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Fetcher {
    /// The task that submitted it, which will deliver.
    pub(crate) task: ThreadId,
    pub(crate) ring: RingId,
    pub(crate) token: Token,
}

/// What a queue of a batch device has besides its tags.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub(crate) struct Batch {
    /// Tags with a started request that nobody was told of, in order.
    pub(crate) fifo: VecDeque<u16>,
    /// Commands that wait.
    pub(crate) pool: Vec<Fetcher>,
    /// The command that delivers, or will as soon as its task runs its work.
    pub(crate) active: Option<Fetcher>,
    /// A command was aborted in this round.
    pub(crate) aborted: bool,
}

impl Device {
    /// Tags are armed without a command.
    pub(crate) const fn batches(&self) -> bool {
        self.info.flags.contains(Features::BATCH_IO)
    }

    /// Whether what goes with a batch is not for the device's mode.
    fn refuses_batch(&self, addr: Addr) -> bool {
        let automatic = self.info.flags.contains(Features::AUTO_BUF_REG);
        let fallback = matches!(addr, Addr::Auto(AutoBufReg { fallback: true, .. }));
        addr == Addr::Buffer && !self.copies() || fallback && !automatic
    }

    /// Whether an element lacks its buffer.
    fn lacks_buffer(&self, addr: Addr) -> bool {
        self.copies() && addr != Addr::Buffer
    }

    /// A fetch command of a ring that an exit can cancel: its queue, and its place in the pool.
    pub(crate) fn fetcher_of(&self, ring: RingId) -> Option<(usize, usize)> {
        self.hw.iter().enumerate().find_map(|(queue, hw)| {
            let at = hw.batch.pool.iter().position(|fetcher| fetcher.ring == ring)?;
            Some((queue, at))
        })
    }
}

/// What goes with the `nth` tag of a script's batch.
pub(crate) fn addr_of(addr: Addr, nth: usize) -> Addr {
    match addr {
        Addr::Buffer | Addr::Bare => addr,
        Addr::Auto(AutoBufReg { index, fallback }) => {
            Addr::Auto(AutoBufReg { index: index + nth as u16, fallback })
        }
    }
}

/// What goes with the first tag of an engine's batch.
pub(super) fn first_addr(elements: &[Element]) -> Addr {
    elements.first().map_or(Addr::Bare, |element| element.address.into())
}

impl World {
    /// What every batch command is asked first, before any tag, and any mutex, is looked at.
    pub(super) fn batch_refused(&self, queue: u16, tags: usize, addr: Addr) -> Option<i32> {
        let Some(device) = &self.device else { return Some(errno::ENODEV) };
        if device.kernel < KernelSeries::V7_3 || !device.batches() {
            return Some(errno::EOPNOTSUPP);
        }
        if queue >= device.queues {
            return Some(errno::EINVAL);
        }
        if tags > usize::from(device.depth) {
            return Some(errno::E2BIG);
        }
        device.refuses_batch(addr).then_some(errno::EINVAL)
    }

    /// PREP_IO_CMDS: all of the tags, or none.
    pub(crate) fn prep(
        &mut self,
        run: &mut Run<'_>,
        thread: ThreadId,
        (queue, tags): (u16, &[u16]),
        addr: Addr,
    ) -> i32 {
        if let Some(errno) = self.batch_refused(queue, tags.len(), addr) {
            return -errno;
        }
        let admin = self.process_of(thread).admin;
        let Some(device) = &mut self.device else { return -errno::ENODEV };
        if device.lacks_buffer(addr) {
            return -errno::EINVAL;
        }
        let before = (device.tags.clone(), device.hw.clone(), device.completed);
        for (nth, &tag) in tags.iter().enumerate() {
            if let Err(errno) = device.prep_one((queue, tag), addr_of(addr, nth), admin) {
                (device.tags, device.hw, device.completed) = before;
                return -errno;
            }
        }
        run.progress();
        0
    }

    /// COMMIT_IO_CMDS: as far as the first element that is refused.
    pub(crate) fn commit_batch(
        &mut self,
        run: &mut Run<'_>,
        ring: RingId,
        queue: u16,
        results: &[(u16, i32)],
        addrs: impl Fn(usize) -> Addr,
    ) -> i32 {
        let addr = if results.is_empty() { Addr::Bare } else { addrs(0) };
        if let Some(errno) = self.batch_refused(queue, results.len(), addr) {
            return -errno;
        }
        let bytes = ELEMENT_BYTES[usize::from(addr == Addr::Buffer)];
        let mut results = results;
        let all = results.len();
        if all > 1 && self.budget.submits > 0 && run.fault(run.config.faults.submit) {
            self.budget.submits -= 1;
            results = &results[..=run.choose(Site::Submit, all as u32 - 1) as usize];
            run.kernel(|| format!("{} of {all} elements of a batch are consumed", results.len()));
        }
        for (nth, &(tag, result)) in results.iter().enumerate() {
            match self.may_commit_batch(queue, tag, addr) {
                Ok(request) => {
                    if let Some(device) = &mut self.device {
                        let slot = device.slot(queue, tag);
                        device.tags[slot].addr = addrs(nth);
                    }
                    self.committed(run, ring, (queue, tag), request, result);
                }
                Err(errno) => {
                    self.objects(run, (queue, tag), errno);
                    return if nth == 0 { -errno } else { bytes * nth as i32 };
                }
            }
        }
        bytes * results.len() as i32
    }

    /// A commit that no engine may send.
    fn objects(&self, run: &Run<'_>, (queue, tag): (u16, u16), errno: i32) {
        if !run.config.subject.is_engine() {
            return;
        }
        let state = self.device.as_ref().filter(|device| tag < device.depth);
        let state = state.map(|device| device.tags[device.slot(queue, tag)].state);
        let rule = if state == Some(TagState::Cancelled) { "O11" } else { "O1" };
        let text =
            format!("COMMIT of queue {queue} tag {tag}, which the server does not own ({errno})");
        run.violate(rule, text);
    }

    /// An engine's command about many tags is submitted.
    pub(crate) fn submit_batch(
        &mut self,
        run: &mut Run<'_>,
        (thread, ring, queue): (ThreadId, RingId, u16),
        op: BatchOp,
        elements: &[Element],
    ) {
        let addr = first_addr(elements);
        let (token, res) = match op {
            BatchOp::Prep => {
                let tags: Vec<u16> = elements.iter().map(|element| element.tag.0).collect();
                (Token::Prep, self.prep(run, thread, (queue, &tags), addr))
            }
            BatchOp::Commit => {
                let results: Vec<_> =
                    elements.iter().map(|element| (element.tag.0, element.result)).collect();
                for (tag, result) in &results {
                    run.seen(u64::from(*tag) << 32 | u64::from(*result as u32));
                }
                let addr = |nth: usize| elements[nth].address.into();
                (Token::Commits, self.commit_batch(run, ring, queue, &results, addr))
            }
        };
        let count = elements.len();
        run.note(actor::thread(thread), || format!("{op:?} of {count} tag(s): {res}"));
        self.post(ring, Cqe { token, res });
    }

    fn may_commit_batch(&self, queue: u16, tag: u16, addr: Addr) -> Result<RequestId, i32> {
        let Some(device) = &self.device else { return Err(errno::ENODEV) };
        if tag >= device.depth {
            return Err(errno::EINVAL);
        }
        match device.tags[device.slot(queue, tag)].state {
            TagState::Served(_) if device.lacks_buffer(addr) => Err(errno::EINVAL),
            TagState::Served(request) => Ok(request),
            TagState::Announced(_)
            | TagState::Lingering(..)
            | TagState::Unfetched
            | TagState::Armed(_)
            | TagState::Prepared
            | TagState::Queued(..)
            | TagState::Listed(_)
            | TagState::Cancelled => Err(errno::EBUSY),
        }
    }

    /// FETCH_IO_CMDS: joins the pool; what is listed already is delivered at once.
    pub(crate) fn fetch_tags(&mut self, run: &mut Run<'_>, by: By, queue: u16) {
        let (task, ring, token) = by;
        let refused = match &self.device {
            None => Some(errno::ENODEV),
            Some(device) if !device.batches() => Some(errno::EINVAL),
            Some(device) if queue >= device.queues => Some(errno::EINVAL),
            Some(device) => {
                let hw = &device.hw[usize::from(queue)];
                if hw.batch.aborted && run.config.subject.is_engine() {
                    run.violate("O11", format!("queue {queue} is fetched after its abort"));
                }
                (hw.canceling || hw.force_abort).then_some(errno::ENODEV)
            }
        };
        if let Some(errno) = refused {
            self.post(ring, Cqe { token, res: -errno });
            return;
        }
        if let Some(device) = &mut self.device {
            device.armed += 1;
            let batch = &mut device.hw[usize::from(queue)].batch;
            batch.pool.push(Fetcher { task, ring, token });
            if batch.fifo.is_empty() || batch.active.is_some() {
                return;
            }
        }
        self.activate(run, queue);
        self.drain(run, queue);
    }

    /// A tag was listed: a command of the pool is to deliver it.
    pub(crate) fn listed(&mut self, run: &mut Run<'_>, queue: u16) {
        if let Some(fetcher) = self.activate(run, queue) {
            self.threads[fetcher.task.index()]
                .work
                .push_back(Work::Drain { ring: fetcher.ring, queue });
        }
    }

    /// Makes a command of the pool the active one, unless there is one.
    fn activate(&mut self, run: &mut Run<'_>, queue: u16) -> Option<Fetcher> {
        let batch = &mut self.device.as_mut()?.hw[usize::from(queue)].batch;
        if batch.active.is_some() || batch.pool.is_empty() {
            return None;
        }
        let nth = run.choose(Site::Tag, batch.pool.len() as u32);
        let fetcher = batch.pool.remove(nth as usize);
        batch.active = Some(fetcher);
        Some(fetcher)
    }

    /// The active command delivers all that is listed, as many tags at a time as a provided buffer holds.
    pub(crate) fn drain(&mut self, run: &mut Run<'_>, queue: u16) {
        loop {
            let Some(device) = &mut self.device else { return };
            let batch = &mut device.hw[usize::from(queue)].batch;
            let Some(fetcher) = batch.active else { return };
            if batch.fifo.is_empty() {
                batch.active = None;
                batch.pool.push(fetcher);
                return;
            }
            let listed = batch.fifo.len();
            let ring = &mut self.rings[fetcher.ring.index()];
            if ring.provided == 0 || ring.overflows() {
                // What it took before there was no room is lost: no completion names it.
                ring.provided -= u16::from(ring.provided > 0 && ring.overflows());
                run.kernel(|| format!("queue {queue}: a fetch ends, {listed} tag(s) stay listed"));
                batch.active = None;
                device.armed -= 1;
                self.post(fetcher.ring, Cqe { token: fetcher.token, res: -errno::ENOBUFS });
                self.file_dropped(run);
                return;
            }
            let each = match fetcher.token {
                Token::Tags => usize::from(ring.lists.each),
                _ => TAGS_PER_BUFFER,
            };
            let count = listed.min(each);
            let listed: Vec<u16> = batch.fifo.drain(..count).collect();
            let told: Vec<u16> = listed
                .into_iter()
                .filter(|tag| self.deliver(run, fetcher.ring, queue, *tag))
                .collect();
            if !told.is_empty() {
                let res = TAG_BYTES * told.len() as i32;
                run.kernel(|| format!("queue {queue}: tells of tags {told:?}"));
                let ring = &mut self.rings[fetcher.ring.index()];
                // If all of them failed, it is left for the next ones.
                ring.provided -= 1;
                match fetcher.token {
                    Token::Control(step) => ring.told.push_back((step as u16, queue, told)),
                    _ => ring.lists.told.push_back(told),
                }
                self.post(fetcher.ring, Cqe { token: fetcher.token, res });
            }
        }
    }

    /// One tag becomes the server's. False: its request failed instead.
    fn deliver(&mut self, run: &mut Run<'_>, ring: RingId, queue: u16, tag: u16) -> bool {
        let Some(device) = &mut self.device else { return false };
        let slot = device.slot(queue, tag);
        let TagState::Listed(request) = device.tags[slot].state else { return false };
        device.tags[slot].state = TagState::Served(request);
        if let Some(req) = &mut self.requests[request.index()] {
            (req.unregistered, req.lost) = (false, 0);
        }
        self.look_up(request);
        if !self.registers_at_delivery(run, ring, (queue, tag)) {
            if let Some(device) = &mut self.device {
                device.tags[slot].state = TagState::Prepared;
            }
            self.end_request(run, request, Err(errno::EIO));
            return false;
        }
        self.fill_buffer(queue, tag, request);
        true
    }

    /// Where the active command can no longer deliver: it is cancelled, the tags stay listed.
    pub(crate) fn drain_fails(&mut self, run: &mut Run<'_>, queue: u16) {
        let Some(device) = &mut self.device else { return };
        let batch = &mut device.hw[usize::from(queue)].batch;
        if let Some(fetcher) = batch.active.take() {
            // It waits to be cancelled like the others.
            batch.pool.push(fetcher);
        }
        run.kernel(|| format!("queue {queue}: nobody delivers"));
    }

    /// Cancels one waiting fetch command.
    pub(crate) fn cancel_fetcher(&mut self, run: &mut Run<'_>, queue: usize, at: usize) {
        let Some(device) = &mut self.device else { return };
        let fetcher = device.hw[queue].batch.pool.remove(at);
        device.hw[queue].batch.aborted = true;
        device.armed -= 1;
        let cqe = Cqe { token: fetcher.token, res: -errno::ENODEV };
        self.post_by_task_work(fetcher.task, fetcher.ring, cqe);
        self.file_dropped(run);
    }

    /// STOP_DEV and QUIESCE_DEV: the first waiting fetch command of any queue. The queue aborts what comes from now on.
    pub(crate) fn cancel_first_fetcher(&mut self, run: &mut Run<'_>) -> bool {
        let Some(device) = self.device.as_mut().filter(|device| device.batches()) else {
            return false;
        };
        for hw in &mut device.hw {
            hw.force_abort = true;
        }
        let queue = device.hw.iter().position(|hw| !hw.batch.pool.is_empty());
        if let Some(queue) = queue {
            self.cancel_fetcher(run, queue, 0);
        }
        queue.is_some()
    }
}

impl Device {
    fn prep_one(&mut self, (queue, tag): (u16, u16), addr: Addr, admin: bool) -> Result<(), i32> {
        if tag >= self.depth {
            return Err(errno::EINVAL);
        }
        if self.stopping {
            return Err(errno::ENODEV);
        }
        if self.ready() {
            return Err(errno::EBUSY);
        }
        let slot = self.slot(queue, tag);
        if self.tags[slot].state != TagState::Unfetched {
            return Err(errno::EINVAL);
        }
        self.tags[slot] = TagSlot { state: TagState::Prepared, addr, ..TagSlot::UNFETCHED };
        self.fetched(queue, admin);
        Ok(())
    }
}
