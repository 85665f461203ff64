//! The world of a trace: what the kernel and its clients do by themselves between two records.

use std::cell::RefCell;

use blkproof_engine::link::Link;
use blkproof_engine::sys::{BackendOp, Cqe, Ret, RingMode, Sqe, Token, WorkerExit};
use blkproof_engine::uapi::{ControlOp, IoDesc, RequestOp, Tag};

use crate::choices::{Choices, Site};
use crate::config::{Config, TargetKind};
use crate::kernel::block::{BlockOp, Issuer, Phase};
use crate::kernel::control::{Asked, Control, Pc};
use crate::kernel::errno;
use crate::kernel::process::{ProcessState, ThreadState, Work};
use crate::kernel::tags::{TagSlot, TagState};
use crate::run::Run;
use crate::run::steps::{self, Step};
use crate::world::{ProcessId, RequestId, RingId, SECTOR, ThreadId, TimerKind, World};

/// Sectors of every request with data: one part of it can be done, and all of it.
const SECTORS: u16 = 2;

/// Answers as if there were no adversity; nothing that a trace leaves open is asked.
pub(super) struct Calm;

impl Choices for Calm {
    fn choose(&mut self, _site: Site, _n: u32) -> u32 {
        0
    }
}

/// The configuration of a world that a trace is held against.
pub(super) fn config(kernel: blkproof_engine::uapi::KernelSeries, cpus: u16) -> Config {
    Config {
        kernel,
        cpus,
        requests: 0,
        quiet: true,
        timeline: true,
        // Nobody remembers data.
        target: TargetKind::Null,
        ..Config::engine()
    }
}

/// A completion that a thread is going to reap, and the request that it says was delivered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Want {
    pub(super) cqe: Cqe,
    pub(super) desc: Option<IoDesc>,
    /// Which of the player's lists of tags it tells of.
    pub(super) told: Option<usize>,
}

/// A recorded thread inside the world.
#[derive(Clone, Debug)]
pub(super) struct Player {
    pub(super) thread: ThreadId,
    /// Its completions are posted by itself alone, inside `enter`.
    pub(super) defers: bool,
    /// What it is going to reap before it enters again.
    pub(super) wants: Vec<Want>,
    /// The tags, and their requests, that completions among them tell of.
    pub(super) told: Vec<Vec<(u16, IoDesc)>>,
    /// How many of them were posted.
    pub(super) posted: usize,
    /// How many of them it has reaped.
    pub(super) reaped: usize,
    /// What the `enter` that it is in returned; `None`: it never did.
    pub(super) returns: Option<Ret>,
    /// It is inside `enter`.
    pub(super) entered: bool,
}

/// A process that ends once its trace is over.
#[derive(Clone, Copy, Debug)]
pub(super) struct Leaver {
    pub(super) process: ProcessId,
    pub(super) exit: WorkerExit,
    /// All its records were taken.
    pub(super) over: bool,
    pub(super) gone: bool,
}

/// The world, and who plays in it.
pub(super) struct Stage<'c> {
    pub(super) world: World,
    pub(super) run: RefCell<Run<'c>>,
    pub(super) players: Vec<Player>,
    pub(super) leavers: Vec<Leaver>,
    /// The descriptor of each request, by its slot.
    descs: Vec<IoDesc>,
    /// What threads are going to be given on tags that are armed: QUIESCE_DEV finds it on its way.
    pub(super) on_its_way: Vec<(ThreadId, u16, Option<IoDesc>)>,
    /// Tags that threads are going to hear the abort of: QUIESCE_DEV passes over all others, which were with the server when it came by.
    pub(super) due: Vec<(ThreadId, u16)>,
    /// Steps that the kernel took by itself.
    pub(super) steps: u64,
}

impl<'c> Stage<'c> {
    pub(super) fn new(config: &Config, run: Run<'c>) -> Self {
        let mut world = World::new(config);
        world.clients.clear();
        Self {
            world,
            run: RefCell::new(run),
            players: Vec::new(),
            leavers: Vec::new(),
            descs: Vec::new(),
            on_its_way: Vec::new(),
            due: Vec::new(),
            steps: 0,
        }
    }

    /// What is outside the trace settles after every step.
    fn settle(&mut self) {
        self.steps += 1;
        self.world.settle_device(self.run.get_mut());
        // What a client hears is nobody's business here.
        self.world.script_events.clear();
    }

    /// Does something to the world.
    pub(super) fn act<T>(&mut self, act: impl FnOnce(&mut World, &mut Run<'c>) -> T) -> T {
        let result = act(&mut self.world, self.run.get_mut());
        self.settle();
        result
    }

    pub(super) fn ring(&self, thread: ThreadId) -> Option<RingId> {
        self.world.threads[thread.index()].ring
    }

    /// Completions that a thread could reap now.
    pub(super) fn ready(&self, thread: ThreadId) -> impl ExactSizeIterator<Item = &Cqe> {
        let none = const { &std::collections::VecDeque::new() };
        self.ring(thread).map_or(none, |ring| &self.world.rings[ring.index()].cq).iter()
    }

    /// Everybody does what can be done without the kernel's own work: submits, is served by clients, disk and others, returns.
    pub(super) fn pump(&mut self) {
        while (0..self.players.len()).any(|player| self.pump_one(player)) {}
    }

    fn pump_one(&mut self, player: usize) -> bool {
        let mut moved = false;
        while self.pump_step(player) {
            moved = true;
        }
        moved
    }

    fn pump_step(&mut self, player: usize) -> bool {
        let Player { thread, defers, entered, .. } = self.players[player];
        match self.world.threads[thread.index()].state {
            ThreadState::Submitting { .. } if self.world.fetch_blocked(thread) => false,
            ThreadState::Submitting { .. } => {
                self.act(|world, run| world.submit_step(run, thread));
                true
            }
            ThreadState::Waiting { .. } if defers => self.deferring(player),
            ThreadState::Waiting { done, wait, .. } => {
                let there = self.ready(thread).len();
                if self.take_work(thread) {
                    true
                } else if there < wait as usize {
                    self.next_missing(player).is_some_and(|want| self.supply(player, want))
                } else {
                    entered && self.leave(player, done, wait)
                }
            }
            _ if !defers => self.take_work(thread),
            _ => false,
        }
    }

    /// A thread that does its own task work, and only where it waits.
    fn deferring(&mut self, player: usize) -> bool {
        let Player { thread, reaped, .. } = self.players[player];
        let posted = reaped + self.ready(thread).len();
        self.players[player].posted = posted;
        let ThreadState::Waiting { done, wait, .. } = self.world.threads[thread.index()].state
        else {
            return false;
        };
        let wants = self.players[player].wants.len();
        if posted >= wants
            && self.players[player].returns.is_some()
            && self.leave(player, done, wait)
        {
            return true;
        }
        let want = self.players[player].wants.get(posted).copied();
        if let Some(want) = want.filter(|want| self.came_before(thread, *want)) {
            let supplied = self.supply(player, want);
            if supplied {
                self.world.threads[thread.index()].work.rotate_right(1);
            }
            return supplied || self.take_work(thread);
        }
        if self.take_work(thread) {
            return true;
        }
        want.is_some_and(|want| self.supply(player, want))
    }

    /// Before 6.18 the answer to NEED_GET_DATA is task work, too. Whether a request is delivered before it, because it arrived before that was
    /// submitted; here it only arrives when it is wanted.
    fn came_before(&self, thread: ThreadId, want: Want) -> bool {
        let work = &self.world.threads[thread.index()].work;
        let Token::Io(Tag(wanted)) = want.cqe.token else { return false };
        let is_wanted = |work: &Work| match *work {
            Work::Dispatch { tag, .. } => tag == wanted,
            Work::Complete(_, cqe) => cqe.token == want.cqe.token,
            Work::Drain { .. } => false,
        };
        let answer = |work: &Work| matches!(work, Work::Complete(_, cqe) if cqe.res == 0 && matches!(cqe.token, Token::Io(_)));
        work.front().is_some_and(answer) && !work.iter().any(is_wanted)
    }

    /// Runs one piece of a thread's task work.
    fn take_work(&mut self, thread: ThreadId) -> bool {
        let can = self.world.can_run_task_work(thread);
        if can {
            self.act(|world, run| world.task_work(run, thread));
        }
        can
    }

    /// The `enter` returns, if it can return what it did.
    fn leave(&mut self, player: usize, done: u32, wait: u32) -> bool {
        let Player { thread, returns, entered, .. } = self.players[player];
        let (Some(returns), true) = (returns, entered) else { return false };
        let interrupted = returns == Ret::Failed(blkproof_engine::uapi::Errno::EINTR)
            || self.players[player].wants.is_empty() && done > 0;
        if let ThreadState::Waiting { interrupted: known, .. } =
            &mut self.world.threads[thread.index()].state
        {
            *known |= interrupted;
        }
        let ThreadState::Waiting { interrupted, .. } = self.world.threads[thread.index()].state
        else {
            return false;
        };
        if !self.world.can_return(thread, wait, interrupted) {
            return false;
        }
        let ret = self.world.returns(self.run.get_mut(), thread, done, wait);
        self.world.threads[thread.index()].state = ThreadState::Ready(ret);
        self.players[player].entered = false;
        true
    }

    /// The first completion that a thread is going to reap and that is not there.
    fn next_missing(&self, player: usize) -> Option<Want> {
        let Player { thread, wants, reaped, .. } = &self.players[player];
        let wants = &wants[(*reaped).min(wants.len())..];
        let missing = |want: &&Want| {
            let token = want.cqe.token;
            let there = self.ready(*thread).any(|cqe| cqe.token == token);
            !there && !self.has_work(*thread, token)
        };
        wants.iter().find(missing).copied()
    }

    /// Whether the completion is among a thread's task work.
    fn has_work(&self, thread: ThreadId, token: Token) -> bool {
        self.world.threads[thread.index()]
            .work
            .iter()
            .any(|work| matches!(work, Work::Complete(_, cqe) if cqe.token == token))
    }

    /// Somebody outside the kernel does what leads to a completion: a client, the disk, a peer, the clock.
    pub(super) fn supply(&mut self, player: usize, want: Want) -> bool {
        let Player { thread, .. } = self.players[player];
        let Some(ring) = self.ring(thread) else { return false };
        let Want { cqe, desc, told } = want;
        match cqe.token {
            // 1: a write is announced.
            Token::Io(tag) if (0..=1).contains(&cqe.res) => self.deliver(thread, tag.0, desc),
            Token::Tags if cqe.res > 0 => {
                let list = told.map(|at| self.players[player].told[at].clone());
                list.is_some_and(|list| self.deliver_all(thread, &list))
            }
            Token::Prep
            | Token::Commits
            | Token::Tags
            | Token::Io(_)
            | Token::Slot(_)
            | Token::Worker
            | Token::Control(_)
            | Token::Cancel => false,
            Token::Backend(tag) => {
                let under_way = &mut self.world.disk.in_flight;
                let at = under_way.iter().position(|one| {
                    (one.ring, one.tag) == (ring, tag.0) && may_return(&one.op, cqe.res)
                });
                let Some(at) = at else { return false };
                let done = under_way.remove(at);
                self.act(|world, run| {
                    if let Some(request) = done.pages {
                        world.let_go(run, request);
                    }
                    world.post_by_task_work(thread, ring, cqe);
                });
                true
            }
            Token::Link(link) => {
                let watches = &mut self.world.rings[ring.index()].watches;
                let at = watches.iter().position(|one| *one == link);
                self.fires(at, thread, ring, cqe, |ring, at| {
                    ring.watches.remove(at);
                })
            }
            Token::Supervisor => {
                let watches = &self.world.rings[ring.index()].watches_processes;
                let at = watches.iter().position(|(_, token)| *token == cqe.token);
                self.fires(at, thread, ring, cqe, |ring, at| {
                    ring.watches_processes.remove(at);
                })
            }
            Token::Timer(generation) => {
                let what = TimerKind::Ring(ring, generation);
                let at = self.world.timers.iter().position(|timer| timer.what == what);
                let Some(at) = at.filter(|_| cqe.res == -errno::ETIME) else { return false };
                self.world.timers.remove(at);
                self.act(|world, _| world.post_by_task_work(thread, ring, cqe));
                true
            }
        }
    }

    fn fires(
        &mut self,
        at: Option<usize>,
        thread: ThreadId,
        ring: RingId,
        cqe: Cqe,
        remove: impl FnOnce(&mut crate::kernel::ring::Ring, usize),
    ) -> bool {
        let Some(at) = at else { return false };
        remove(&mut self.world.rings[ring.index()], at);
        self.act(|world, _| world.post_by_task_work(thread, ring, cqe));
        true
    }

    /// A client asks for what the trace is about to deliver on this tag. Not while the kernel could not take it.
    fn deliver(&mut self, thread: ThreadId, tag: u16, desc: Option<IoDesc>) -> bool {
        let queue = self.world.threads[thread.index()].queue;
        let Some(device) = &self.world.device else { return false };
        if queue >= device.queues || tag >= device.depth {
            return false;
        }
        let hw = &device.hw[usize::from(queue)];
        let open = device.disk.as_ref().is_some_and(|disk| disk.attached)
            && !(device.quiesced || hw.canceling || hw.force_abort || hw.fail_io);
        let state = device.tags[device.slot(queue, tag)].state;
        let armed = matches!(state, TagState::Armed(_) | TagState::Prepared);
        if !open || !armed {
            return false;
        }
        let desc = desc.unwrap_or_default();
        let Some(id) = self.waiting(queue, tag, &desc).or_else(|| self.issue(queue, tag, desc))
        else {
            return false;
        };
        self.act(|world, run| world.admit(run, id));
        true
    }

    /// Clients ask for what one completion is about to tell of. Not while nobody could be told.
    fn deliver_all(&mut self, thread: ThreadId, list: &[(u16, IoDesc)]) -> bool {
        let queue = self.world.threads[thread.index()].queue;
        let Some(device) = self.world.device.as_ref().filter(|device| queue < device.queues) else {
            return false;
        };
        let free = |(tag, _): &(u16, IoDesc)| {
            *tag < device.depth && device.tags[device.slot(queue, *tag)].state == TagState::Prepared
        };
        if device.hw[usize::from(queue)].batch.pool.is_empty() || !list.iter().all(free) {
            return false;
        }
        list.iter().all(|(tag, desc)| self.deliver(thread, *tag, Some(*desc)))
    }

    /// A request that was delivered before, and is to be delivered again.
    fn waiting(&mut self, queue: u16, tag: u16, desc: &IoDesc) -> Option<RequestId> {
        let descs = &self.descs;
        let at = self.world.requests.iter().enumerate().position(|(at, request)| {
            request.as_ref().is_some_and(|request| {
                request.phase == Phase::Waiting
                    && request.queue == queue
                    && request.tag.is_none_or(|own| own == tag)
                    && descs.get(at).is_some_and(|known| same_request(known, desc))
            })
        })?;
        // Its data has another address with the next worker.
        self.descs[at] = *desc;
        Some(RequestId::from_index(at))
    }

    /// A request enters the block layer, and takes this tag.
    fn issue(&mut self, queue: u16, tag: u16, desc: IoDesc) -> Option<RequestId> {
        let requests = &self.world.requests;
        let taken = requests.iter().flatten().any(|one| (one.queue, one.tag) == (queue, Some(tag)));
        if taken {
            return None;
        }
        let at = requests.iter().position(Option::is_none).unwrap_or(requests.len());
        let (op, sectors) = match desc.op() {
            Some(RequestOp::Read) => (BlockOp::Read, SECTORS),
            Some(RequestOp::Write) => (BlockOp::Write { fua: false }, SECTORS),
            // No data that the kernel moves: whatever is not negative completes it.
            _ => (BlockOp::Flush, 0),
        };
        let run = self.run.get_mut();
        self.world.issue(run, Issuer::Script(0), op, (0, sectors), queue).ok()?;
        let (Some(request), Some(device)) = (&mut self.world.requests[at], &mut self.world.device)
        else {
            return None;
        };
        request.tag = Some(tag);
        device.hw[usize::from(queue)].busy += 1;
        if self.descs.len() <= at {
            self.descs.resize(at + 1, IoDesc::default());
        }
        self.descs[at] = desc;
        Some(RequestId::from_index(at))
    }

    /// The descriptor of the request that the server holds on a tag.
    pub(super) fn described(&self, queue: u16, tag: u16) -> Option<IoDesc> {
        let request = self.world.request_of(queue, tag)?;
        self.descs.get(request.index()).copied()
    }

    /// A commit as the model means it: nothing, a part, all of the request, or more.
    pub(super) fn commit(&self, queue: u16, sqe: Sqe) -> Sqe {
        let Sqe::Commit { tag, result, address } = sqe else { return sqe };
        Sqe::Commit { tag, result: self.result(queue, tag.0, result), address }
    }

    /// The same of a result.
    pub(super) fn result(&self, queue: u16, tag: u16, result: i32) -> i32 {
        let Some(desc) = self.described(queue, tag) else { return result };
        let data = matches!(desc.op(), Some(RequestOp::Read | RequestOp::Write));
        let bytes = i64::from(desc.nr_sectors) * SECTOR as i64;
        let (part, all) = (SECTOR as i32, i32::from(SECTORS) * SECTOR as i32);
        match i64::from(result) {
            _ if !data => result,
            ..=0 => result,
            same if same == bytes => all,
            less if less < bytes => part,
            _ => all + part,
        }
    }

    /// One step of the kernel's own, or the end of a process whose trace is over. The command of `prefer` comes first.
    pub(super) fn advance(&mut self, prefer: Option<u32>) -> bool {
        let mut enabled = Vec::new();
        steps::collect(&self.world, &mut enabled);
        let sequence = |step: &Step| match step {
            Step::Control(id) => {
                self.world.controls[id.index()].as_ref().map(|control| control.sequence)
            }
            _ => None,
        };
        let rank = |step: &Step| match step {
            Step::Control(_) if prefer.is_some() && sequence(step) == prefer => Some(0),
            Step::Control(_) => Some(1),
            Step::Release => Some(2),
            Step::Admit(id) if self.fails(*id) => Some(3),
            Step::Fallback(_) => Some(4),
            Step::RingExit(_) => Some(5),
            Step::Die(_) => Some(6),
            Step::Disk(index) if self.nobody_hears(usize::from(*index)) => Some(7),
            // Of recorded threads, and of clients, that is not the kernel's to say.
            Step::Thread(_)
            | Step::TaskWork(_)
            | Step::Admit(_)
            | Step::Scan
            | Step::Disk(_)
            | Step::Client(_)
            | Step::Udev
            | Step::Operator
            | Step::Clock => None,
        };
        let mut ranked: Vec<_> =
            enabled.iter().filter_map(|step| Some((rank(step)?, *step))).collect();
        ranked.sort_by_key(|(rank, _)| *rank);
        for (_, step) in ranked {
            if self.takes(step) {
                self.pump();
                return true;
            }
        }
        let long =
            self.world.timers.iter().position(|one| matches!(one.what, TimerKind::Requests(_)));
        if let Some(at) = long {
            if let TimerKind::Requests(queue) = self.world.timers.remove(at).what {
                self.act(|world, run| world.requests_take_long(run, queue));
            }
            self.pump();
            return true;
        }
        let leaver = self.leavers.iter_mut().find(|one| one.over && !one.gone);
        let Some(leaver) = leaver else { return false };
        leaver.gone = true;
        let Leaver { process, exit, .. } = *leaver;
        self.act(|world, _| world.begin_exit(process, exit));
        true
    }

    /// Takes a step, unless a command would complete with another result than it did: then something else comes before it.
    fn takes(&mut self, step: Step) -> bool {
        let Step::Control(id) = step else {
            if let Step::Disk(index) = step {
                let done = self.world.disk.in_flight.remove(usize::from(index));
                self.act(|world, run| done.pages.map(|request| world.let_go(run, request)));
            } else {
                self.act(|world, run| steps::take(world, run, step));
            }
            return true;
        };
        let before = (self.world.clone(), self.run.get_mut().mark());
        let control = before.0.controls[id.index()].as_ref();
        let of = control.map(|one| (one.thread, one.sequence));
        match control.filter(|control| quiesces(control)).map(|control| control.pc) {
            None => self.act(|world, run| steps::take(world, run, step)),
            Some(Pc::Quiesce) => {
                for (thread, tag, desc) in std::mem::take(&mut self.on_its_way) {
                    self.deliver(thread, tag, desc);
                }
                self.act(|world, run| steps::take(world, run, step));
            }
            Some(_) if self.aborts_due() => return true,
            // They are with the server, and will be armed when their turn comes.
            Some(_) if self.slots_due().any(TagSlot::carries) => return false,
            Some(_) => self.passes_over(step),
        }
        let wrong = of.is_some_and(|(thread, sequence)| {
            let token = Token::Control(sequence);
            let told = self.players.iter().filter(|one| one.thread == thread);
            let told = told.flat_map(|one| &one.wants).find(|want| want.cqe.token == token);
            told.is_some_and(|told| {
                let other = |cqe: &Cqe| cqe.token == token && cqe.res != told.cqe.res;
                self.ready(thread).any(other)
                    || self.world.threads[thread.index()]
                        .work
                        .iter()
                        .any(|work| matches!(work, Work::Complete(_, cqe) if other(cqe)))
            })
        });
        if wrong {
            self.back_to(before);
        }
        !wrong
    }

    /// QUIESCE_DEV is about to hold back what is not on its way to a server, or to abort tags.
    pub(super) fn is_quiescing(&self) -> bool {
        self.world.controls.iter().flatten().any(quiesces)
    }

    /// The tags that QUIESCE_DEV aborts.
    fn slots_due(&self) -> impl Iterator<Item = &TagSlot> {
        let slots = self.world.device.iter().flat_map(|device| &device.tags);
        slots.enumerate().filter(|(at, _)| self.is_due(*at)).map(|(_, slot)| slot)
    }

    fn is_due(&self, at: usize) -> bool {
        self.world.device.as_ref().is_some_and(|device| {
            let tag = (at % usize::from(device.depth)) as u16;
            let task = device.tags[at].task;
            task.is_some_and(|task| self.due.contains(&(task, tag)))
        })
    }

    /// QUIESCE_DEV aborts one of them, if one is armed.
    fn aborts_due(&mut self) -> bool {
        let slots = self.world.device.iter().flat_map(|device| &device.tags);
        let armed = |slot: &TagSlot| matches!(slot.state, TagState::Armed(_));
        let mut slots = slots.enumerate();
        let next = slots.find(|(at, slot)| armed(slot) && self.is_due(*at));
        let Some(at) = next.map(|(at, _)| at) else { return false };
        self.act(|world, run| world.cancel(run, at));
        true
    }

    /// QUIESCE_DEV comes to its end, and leaves all tags that are armed now as they are.
    fn passes_over(&mut self, step: Step) {
        let mut passed = Vec::new();
        let slots = self.world.device.iter_mut().flat_map(|device| &mut device.tags);
        for (at, slot) in slots.enumerate() {
            if matches!(slot.state, TagState::Armed(_)) {
                passed.push((at, slot.state));
                slot.state = TagState::Unfetched;
            }
        }
        self.act(|world, run| steps::take(world, run, step));
        if let Some(device) = &mut self.world.device {
            for (at, state) in passed {
                device.tags[at].state = state;
            }
        }
    }

    /// What was done since is undone.
    pub(super) fn back_to(&mut self, (world, mark): (World, (usize, bool))) {
        self.world = world;
        self.run.get_mut().back_to(mark);
    }

    /// Whether whoever began an operation on the disk is gone: no record will tell how it ended.
    fn nobody_hears(&self, index: usize) -> bool {
        let thread = self.world.disk.in_flight[index].thread;
        self.world.threads[thread.index()].state == ThreadState::Dead
            || self.world.process_of(thread).state != ProcessState::Running
    }

    /// Whether a request that waits is going to fail.
    fn fails(&self, id: RequestId) -> bool {
        let request = self.world.requests[id.index()].as_ref();
        let device = self.world.device.as_ref();
        request.zip(device).is_some_and(|(request, device)| {
            let hw = &device.hw[usize::from(request.queue)];
            hw.fail_io || hw.force_abort || hw.canceling
        })
    }

    /// What could explain that nothing more happens: what each control command waits for.
    pub(super) fn waits(&self) -> Vec<String> {
        self.world
            .controls
            .iter()
            .flatten()
            .map(|control| self.world.control_awaits(control))
            .collect()
    }
}

/// Whether a command is QUIESCE_DEV, and at work.
const fn quiesces(control: &Control) -> bool {
    matches!(control.command, Asked::Plain(ControlOp::QuiesceDev, ..))
        && matches!(control.pc, Pc::Quiesce | Pc::StopCancel)
}

/// Whether two descriptors are of the same request.
fn same_request(one: &IoDesc, other: &IoDesc) -> bool {
    (one.op_flags, one.nr_sectors, one.start_sector)
        == (other.op_flags, other.nr_sectors, other.start_sector)
}

/// Whether a backend operation may have this result.
fn may_return(op: &BackendOp, res: i32) -> bool {
    res < 0
        || match *op {
            BackendOp::Read { len, .. } | BackendOp::Write { len, .. } => res.unsigned_abs() <= len,
            BackendOp::Sync | BackendOp::PunchHole { .. } | BackendOp::ZeroRange { .. } => res == 0,
        }
}

/// Whether a ring's task work waits for its thread.
pub(super) fn defers(mode: RingMode) -> bool {
    match mode {
        RingMode::Control | RingMode::Default => false,
        RingMode::DeferTaskrun => true,
    }
}

/// Whether a completion of this kind comes from outside the kernel, whenever that likes.
pub(super) fn is_outside(token: Token) -> bool {
    matches!(token, Token::Link(Link::Supervisor | Link::Worker | Link::Queues | Link::Operator))
}
