//! Who is next: the software queue of a CPU, the requeue list, and the scheduler mq-deadline (`block/mq-deadline.c`), which scripts load.

use crate::choices::Site;
use crate::kernel::block::{BlockOp, Phase, Request};
use crate::kernel::merge::Side;
use crate::run::{Run, Sabotage};
use crate::world::{RequestId, World};

/// Requests in the order of their sectors before the other direction is looked at (`fifo_batch`).
const BATCH: u8 = 16;
/// How often reads go first while a write waits (`writes_starved`).
const STARVED: u8 = 2;

/// Reads, and everything else.
const READ: usize = 0;
const WRITE: usize = 1;

/// mq-deadline on a disk with one hardware queue.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub(crate) struct Deadline {
    /// `hctx->dispatch`: the scheduler gave it away, and there was no tag. Flushes go by way of it, too.
    given: Vec<RequestId>,
    /// What went back, the last one first.
    front: Vec<RequestId>,
    /// What waits in each direction, in the order in which it came.
    waiting: [Vec<RequestId>; 2],
    /// Where the last one of each direction began.
    position: [u16; 2],
    /// The direction of the last one.
    last: usize,
    batch: u8,
    starved: u8,
    /// The one that others are first compared with.
    hint: Option<RequestId>,
}

/// Why a request is next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Pick {
    Given,
    Front,
    /// The batch goes on.
    Batch(usize),
    /// A batch begins, and a write was passed over or not.
    Begins(usize, bool),
}

impl Request {
    fn direction(&self) -> usize {
        match self.op {
            BlockOp::Read | BlockOp::Flush | BlockOp::ReportZones(_) => READ,
            _ => WRITE,
        }
    }
}

impl Deadline {
    /// The next one in the order of sectors, from where the last one of that direction began.
    fn sorted(&self, requests: &[Option<Request>], direction: usize) -> Option<RequestId> {
        let ahead = self.waiting[direction].iter().filter_map(|id| {
            let request = requests[id.index()].as_ref()?;
            (request.position() >= self.position[direction]).then_some((request.position(), *id))
        });
        ahead.min_by_key(|(position, _)| *position).map(|(_, id)| id)
    }

    /// Which may be next (`__dd_dispatch_request`). Where a deadline may have passed, the one that came first may be, too.
    fn picks(&self, requests: &[Option<Request>], fifo: bool) -> Vec<(RequestId, Pick)> {
        if let Some(first) = self.given.first() {
            return vec![(*first, Pick::Given)];
        }
        if let Some(first) = self.front.first() {
            return vec![(*first, Pick::Front)];
        }
        if fifo {
            let all = self.waiting.iter().enumerate().rev();
            let first =
                all.filter_map(|(at, line)| Some((*line.first()?, Pick::Begins(at, false))));
            return first.take(1).collect();
        }
        if let Some(next) = self.sorted(requests, self.last).filter(|_| self.batch < BATCH) {
            return vec![(next, Pick::Batch(self.last))];
        }
        let [reads, writes] = &self.waiting;
        let passes = !reads.is_empty() && !writes.is_empty();
        let direction = match (reads.is_empty(), passes && self.starved >= STARVED) {
            (false, false) => READ,
            _ => WRITE,
        };
        let Some(first) = self.waiting[direction].first() else { return Vec::new() };
        let pick = Pick::Begins(direction, passes);
        let mut picks = vec![(*first, pick)];
        let next = self.sorted(requests, direction).filter(|next| next != first);
        picks.extend(next.map(|next| (next, pick)));
        picks
    }

    /// It goes.
    fn take(&mut self, id: RequestId, pick: Pick, position: u16, direction: usize) {
        match pick {
            Pick::Given => {
                self.given.remove(0);
                return;
            }
            Pick::Front => {
                self.front.remove(0);
            }
            Pick::Batch(_) => self.batch += 1,
            Pick::Begins(READ, passes) => {
                self.starved = self.starved.saturating_add(u8::from(passes));
                (self.last, self.batch) = (READ, 1);
            }
            Pick::Begins(direction, _) => {
                (self.starved, self.last, self.batch) = (0, direction, 1);
            }
        }
        self.forget(id);
        self.position[direction] = position;
    }

    /// It waits no more.
    fn forget(&mut self, id: RequestId) {
        for line in &mut self.waiting {
            line.retain(|one| *one != id);
        }
        self.hint = self.hint.filter(|one| *one != id);
    }

    /// What a new request adjoins (`elv_merge`).
    fn neighbour(&self, requests: &[Option<Request>], new: &Request) -> Option<(RequestId, Side)> {
        let adjoins = |id: RequestId| Some((id, requests[id.index()].as_ref()?.adjoins(new)?));
        if let Some(found) = self.hint.and_then(adjoins) {
            return Some(found);
        }
        let of = |side: Side| {
            let line = self.waiting[new.direction()].iter();
            line.filter_map(|id| adjoins(*id)).find(|(_, one)| *one == side)
        };
        of(Side::Back).or_else(|| of(Side::Front))
    }
}

impl World {
    fn deadline(&mut self) -> Option<&mut Deadline> {
        self.disk_mut()?.scheduler.as_mut()
    }

    /// Whether the disk has a scheduler.
    pub(super) fn is_scheduled(&self) -> bool {
        self.disk().is_some_and(|disk| disk.scheduler.is_some())
    }

    /// Whether a request that waits may go on, on a disk with a scheduler: it takes one of the scheduler's tags, or it is the next one and there
    /// is a tag for it, or none and it waits for that in front of the driver.
    pub(super) fn scheduler_admits(&self, id: RequestId, request: &Request) -> bool {
        let Some(device) = &self.device else { return false };
        if !request.scheduled {
            // `blk_mq_default_nr_requests`
            let taken = self.requests.iter().flatten().filter(|one| one.scheduled).count();
            return taken < 2 * usize::from(device.depth);
        }
        let Some(deadline) = self.disk().and_then(|disk| disk.scheduler.as_ref()) else {
            return false;
        };
        let free = device.hw[0].busy < device.depth;
        let picks = deadline.picks(&self.requests, false);
        !device.quiesced
            && picks.iter().any(|(one, pick)| *one == id && (free || *pick != Pick::Given))
    }

    /// A request has one of the scheduler's tags, or becomes part of another one.
    pub(super) fn enters_scheduler(&mut self, run: &mut Run<'_>, id: RequestId) {
        if self.joins_what_is_scheduled(run, id) {
            return;
        }
        let Some(request) = &mut self.requests[id.index()] else { return };
        request.scheduled = true;
        if request.op == BlockOp::Flush {
            request.phase = Phase::Pending;
            let queue = request.queue;
            self.kick_flush(run, queue);
            return;
        }
        let direction = request.direction();
        let merges = request.merges();
        if let Some(deadline) = self.deadline() {
            deadline.waiting[direction].push(id);
            if merges {
                deadline.hint.get_or_insert(id);
            }
        }
        run.progress();
    }

    /// `blk_mq_sched_try_merge`: and then it may adjoin another one.
    pub(super) fn joins_what_is_scheduled(&mut self, run: &mut Run<'_>, id: RequestId) -> bool {
        let neighbour = |world: &Self| {
            let deadline = world.disk()?.scheduler.as_ref()?;
            deadline.neighbour(&world.requests, world.requests[id.index()].as_ref()?)
        };
        let Some((into, side)) = neighbour(self) else { return false };
        if !self.absorb(run, into, id, side) {
            return false;
        }
        let (mut kept, mut next) = (into, None);
        if let (Some(deadline), Some(grown)) =
            (self.disk().and_then(|disk| disk.scheduler.as_ref()), &self.requests[into.index()])
        {
            let others = deadline.waiting[grown.direction()].iter();
            next = others.copied().find(|other| {
                let other = self.requests[other.index()].as_ref();
                other.and_then(|other| grown.adjoins(other)) == Some(side)
            });
        }
        if let Some(other) = next {
            // The one with the lower sectors stays, in the place of whichever came first.
            let (first, second) = if side == Side::Back { (into, other) } else { (other, into) };
            if self.absorb(run, first, second, Side::Back) {
                kept = first;
                if let Some(deadline) = self.deadline() {
                    for line in &mut deadline.waiting {
                        let at = line.iter().position(|one| *one == first || *one == second);
                        line.retain(|one| *one != first && *one != second);
                        if let Some(at) = at {
                            line.insert(at, first);
                        }
                    }
                }
            }
        }
        if let Some(deadline) = self.deadline() {
            deadline.hint = Some(kept);
        }
        true
    }

    /// It is the next one. None: there is no tag, and it waits in front of the driver.
    pub(super) fn dispatches(&mut self, run: &mut Run<'_>, id: RequestId) -> Option<RequestId> {
        let free = self.device.as_ref().is_some_and(|device| device.hw[0].busy < device.depth);
        let fifo = run.sabotage == Some(Sabotage::FirstComeFirst);
        let picks = self.disk()?.scheduler.as_ref()?.picks(&self.requests, fifo);
        let (id, pick) = picks.into_iter().find(|(one, _)| fifo || *one == id)?;
        let request = self.requests[id.index()].as_ref()?;
        let (position, direction) = (request.position(), request.direction());
        let deadline = self.deadline()?;
        deadline.take(id, pick, position, direction);
        if free {
            return Some(id);
        }
        deadline.given.push(id);
        run.kernel(|| "the scheduler's next request waits for a tag".into());
        None
    }

    /// A request that was started goes to the requeue list. With a scheduler it gives its tag back.
    pub(super) fn goes_back(&mut self, id: RequestId) {
        let scheduled = self.is_scheduled();
        let (Some(device), Some(request)) = (&mut self.device, &mut self.requests[id.index()])
        else {
            return;
        };
        request.phase = Phase::Parked;
        if scheduled {
            let busy = request.tag.take().is_some();
            device.hw[usize::from(request.queue)].busy -= u16::from(busy);
        }
        if scheduled || request.is_in_order() {
            device.requeued.push(id);
        }
    }

    /// `blk_mq_requeue_work`: each request of the list is put before what waits, so that the last one is the first.
    pub(super) fn requeue_work(&mut self, run: &mut Run<'_>) {
        if self.device.as_ref().is_some_and(|device| !device.requeued.is_empty()) {
            self.some_were_faster(run);
        }
        for request in self.requests.iter_mut().flatten() {
            if request.phase == Phase::Parked {
                request.phase = Phase::Waiting;
            }
        }
        let Some(device) = &mut self.device else { return };
        let mut list = std::mem::take(&mut device.requeued);
        if run.sabotage == Some(Sabotage::RequeueInOrder) {
            list.reverse();
        }
        if let Some(deadline) = device.disk.as_mut().and_then(|disk| disk.scheduler.as_mut()) {
            for id in list {
                let flush =
                    self.requests[id.index()].as_ref().is_some_and(|it| it.op == BlockOp::Flush);
                if flush { &mut deadline.given } else { &mut deadline.front }.insert(0, id);
            }
            return;
        }
        for (queue, hw) in (0..).zip(&mut device.hw) {
            let of = |id: &&RequestId| {
                let request = self.requests[id.index()].as_ref();
                request.is_some_and(|request| request.queue == queue)
            };
            let mut back: Vec<RequestId> = list.iter().filter(of).rev().copied().collect();
            let both = !device.quiesced && !hw.line.is_empty() && !back.is_empty();
            // What waited in a queue that is quiesced no more may have been faster than this work.
            if both && run.choose(Site::Delay, 2) == 1 {
                hw.line.append(&mut back);
            } else {
                back.append(&mut hw.line);
                hw.line = back;
            }
        }
    }

    /// A queue that is quiesced no more is run while the requeue list is emptied: some of what the scheduler has may go before.
    fn some_were_faster(&mut self, run: &mut Run<'_>) {
        while self.is_scheduled() {
            let waiting = self.requests.iter().enumerate().filter_map(|(index, request)| {
                let (id, request) = (RequestId::from_index(index), request.as_ref()?);
                let goes = request.phase == Phase::Waiting && request.scheduled;
                (goes && self.scheduler_admits(id, request)).then_some(id)
            });
            let waiting: Vec<RequestId> = waiting.collect();
            match run.choose(Site::Delay, waiting.len() as u32 + 1) {
                0 => return,
                nth => self.admit(run, waiting[nth as usize - 1]),
            }
        }
    }

    /// A flush is to be handed to the driver: with a scheduler, before everything else.
    pub(super) fn flush_goes_first(&mut self, id: RequestId) {
        if let Some(deadline) = self.deadline() {
            deadline.given.insert(0, id);
        }
    }
}
