//! Rings: submission entry by entry, task work, the wait, and ring exit (X1, X2, RE).

use std::collections::VecDeque;

use blkproof_engine::batch::{BatchOp, Element};
use blkproof_engine::control::{Command, Reply};
use blkproof_engine::link::Link;
use blkproof_engine::sys::{Cqe, Ret, RingMode, RingSpec, Sqe, Token};
use blkproof_engine::uapi::{Errno, KernelSeries};

use crate::choices::Site;
use crate::disk::Operation;
use crate::kernel::batch::{TagLists, first_addr};
use crate::kernel::device::HwQueue;
use crate::kernel::errno;
use crate::kernel::process::{ThreadState, Work};
use crate::kernel::release::ReleaseStep;
use crate::kernel::tags::TagState;
use crate::run::{Run, Sabotage, actor};
use crate::script::{Addr, Op};
use crate::server::Program;
use crate::world::{ProcessId, RequestId, RingId, ThreadId, TimerKind, World};

/// Pieces of task work after which an `enter` may leave the rest to the next one (`IO_LOCAL_TW_DEFAULT_MAX`).
const TASK_WORK_BATCH: usize = 20;
/// What the block layer gives a request before it asks the driver about it, in microseconds.
const REQUEST_TIMEOUT_US: u64 = 30_000_000;

/// A submission queue entry.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Entry {
    /// As the engine means it.
    Plain(Sqe),
    /// A command about many tags.
    Batch(BatchOp, Vec<Element>),
    /// A control command with its sequence number.
    Control(u32, Command),
    /// What an actor of a script submits, known by its step.
    Script(u16, Op),
    /// The tail was moved, and the entry is not written: the slot's old contents, a no-op.
    Unwritten,
}

/// An io_uring instance.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Ring {
    /// The thread that created it.
    pub(crate) owner: ThreadId,
    pub(crate) process: ProcessId,
    pub(crate) mode: RingMode,
    pub(crate) entries: u32,
    pub(crate) state: RingState,
    pub(crate) sq: VecDeque<Entry>,
    pub(crate) cq: VecDeque<Cqe>,
    /// How many completions the queue holds; what comes beyond waits in the backlog until a thread enters for completions.
    pub(crate) cq_entries: u32,
    pub(crate) backlog: VecDeque<Cqe>,
    /// The kernel's thread that submits (SQPOLL).
    pub(crate) poller: Option<ThreadId>,
    /// An entry that is none does not end a submission (`IORING_SETUP_SUBMIT_ALL`).
    pub(crate) submits_all: bool,
    /// Links with a poll armed.
    pub(crate) watches: Vec<Link>,
    /// The processes whose pidfds are polled, each with what its completion carries.
    pub(crate) watches_processes: Vec<(ProcessId, Token)>,
    /// Registered buffers: each holds the request whose pages it is.
    pub(crate) table: Vec<Option<RequestId>>,
    /// Provided buffers that are left.
    pub(crate) provided: u16,
    /// The tags that each completion of a batch fetch names: step, queue, tags.
    pub(crate) told: VecDeque<(u16, u16, Vec<u16>)>,
    /// What an engine's batches have.
    pub(crate) lists: TagLists,
    /// What a script's operations on them saw, by step.
    pub(crate) moved: Vec<(u16, u8)>,
    /// Scripts: the requests that it brought since it was asked for them, in that order.
    pub(crate) brought: Option<Vec<(u64, u32)>>,
    /// What the last completed control command wrote.
    pub(crate) reply: Reply,
    /// The character device is registered in it, and stays open until it is freed (H66).
    pub(crate) holds_file: bool,
    /// Processes that inherited its file.
    pub(crate) heirs: Vec<ProcessId>,
    /// Its own process has closed it.
    pub(crate) left: bool,
}

/// Where a ring is in its life.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub(crate) enum RingState {
    /// In use.
    Open,
    /// Its file is closed; a kworker cancels what it holds.
    Exiting,
    /// Freed.
    Gone,
}

impl Ring {
    pub(crate) fn is_open(&self) -> bool {
        self.state == RingState::Open
    }

    /// Whether the next completion has no room: in the queue, or behind those that had none (`io_cqe_cache_refill`).
    pub(crate) fn overflows(&self) -> bool {
        !self.backlog.is_empty() || self.cq.len() as u32 >= self.cq_entries
    }

    /// Completions that are there, or will be when somebody enters for them.
    fn completed(&self) -> usize {
        self.cq.len() + self.backlog.len()
    }

    /// The backlog moves into the queue, as far as there is room (`__io_cqring_overflow_flush`). How much of it.
    fn flush(&mut self) -> usize {
        let before = self.backlog.len();
        while (self.cq.len() as u32) < self.cq_entries
            && let Some(cqe) = self.backlog.pop_front()
        {
            self.cq.push_back(cqe);
        }
        before - self.backlog.len()
    }
}

impl World {
    /// Creates a ring and makes it the thread's own.
    pub(crate) fn setup_ring(&mut self, thread: ThreadId, spec: RingSpec) {
        let ring = RingId::from_index(self.rings.len());
        let process = self.threads[thread.index()].process;
        let entries = spec.entries.next_power_of_two();
        self.rings.push(Ring {
            owner: thread,
            process,
            mode: spec.mode,
            entries,
            state: RingState::Open,
            sq: VecDeque::with_capacity(spec.entries as usize),
            cq: VecDeque::with_capacity(spec.entries as usize),
            cq_entries: 2 * entries,
            backlog: VecDeque::new(),
            poller: None,
            submits_all: false,
            watches: Vec::new(),
            watches_processes: Vec::new(),
            table: Vec::new(),
            provided: 0,
            told: VecDeque::new(),
            lists: TagLists::default(),
            moved: Vec::new(),
            brought: None,
            reply: Reply::Nothing,
            holds_file: false,
            heirs: Vec::new(),
            left: false,
        });
        self.threads[thread.index()].ring = Some(ring);
    }

    /// The thread calls `enter`.
    pub(crate) fn enter(&mut self, run: &mut Run<'_>, thread: ThreadId, submit: u32, wait: u32) {
        let mut left = submit;
        let mut wait = wait;
        if submit > 0 && self.budget.submits > 0 && run.fault(run.config.faults.submit) {
            self.budget.submits -= 1;
            let refusal = match run.choose(Site::Fault, 3) {
                0 => Some(errno::EAGAIN),
                1 => Some(errno::EBUSY),
                _ => None,
            };
            if let Some(refusal) = refusal {
                run.note(actor::thread(thread), || format!("enter refused (errno {refusal})"));
                self.threads[thread.index()].state =
                    ThreadState::Ready(Ret::Failed(Errno(refusal as u16)));
                return;
            }
            // Fewer taken than offered: then the kernel does not wait.
            left = run.choose(Site::Submit, submit);
            wait = 0;
            run.note(actor::thread(thread), || format!("enter takes {left} of {submit}"));
        }
        self.threads[thread.index()].state = ThreadState::Submitting { done: 0, left, wait };
        self.submit_invisible(run, thread);
    }

    /// The next entry that a submitting thread will hand over.
    fn head(&self, thread: ThreadId) -> Option<&Entry> {
        let ring = self.threads[thread.index()].ring?;
        self.rings[ring.index()].sq.front()
    }

    /// Whether a submitting thread is stuck in the submission of a FETCH or PREP, uninterruptibly, on `ub->mutex`.
    pub(crate) fn fetch_blocked(&self, thread: ThreadId) -> bool {
        if self.device.as_ref().is_none_or(|device| device.mutex.is_none()) {
            return false;
        }
        let own = self.threads[thread.index()].queue;
        let (tag, addr) = match self.head(thread) {
            Some(Entry::Plain(Sqe::Fetch { tag, address })) => ((own, tag.0), Addr::from(*address)),
            Some(Entry::Script(_, Op::Fetch { queue, tag, addr })) => ((*queue, *tag), *addr),
            Some(Entry::Script(_, Op::Prep { queue, tags, addr })) => {
                return self.batch_refused(*queue, tags.len(), *addr).is_none();
            }
            Some(Entry::Batch(BatchOp::Prep, elements)) => {
                let addr = first_addr(elements);
                return self.batch_refused(own, elements.len(), addr).is_none();
            }
            Some(_) | None => return false,
        };
        self.refuses_fetch(thread, tag, addr).is_none()
    }

    /// Submits one entry that others can see, and then those that nobody can.
    pub(crate) fn submit_step(&mut self, run: &mut Run<'_>, thread: ThreadId) {
        self.submit_one(run, thread);
        self.submit_invisible(run, thread);
    }

    fn submit_invisible(&mut self, run: &mut Run<'_>, thread: ThreadId) {
        loop {
            let ThreadState::Submitting { done, left, wait } = self.threads[thread.index()].state
            else {
                return;
            };
            if left == 0 {
                self.begin_wait(run, thread, done, wait);
                return;
            }
            match self.head(thread) {
                None => {
                    self.begin_wait(run, thread, done, wait);
                    return;
                }
                Some(
                    Entry::Plain(
                        Sqe::Fetch { .. }
                        | Sqe::Commit { .. }
                        | Sqe::GetData { .. }
                        | Sqe::FetchTags
                        | Sqe::Register { .. }
                        | Sqe::Unregister { .. },
                    )
                    | Entry::Batch(..)
                    | Entry::Control(..)
                    | Entry::Script(..),
                ) => return,
                Some(Entry::Plain(_) | Entry::Unwritten) => self.submit_one(run, thread),
            }
        }
    }

    fn submit_one(&mut self, run: &mut Run<'_>, thread: ThreadId) {
        let ThreadState::Submitting { done, left, wait } = self.threads[thread.index()].state
        else {
            return;
        };
        let (Some(ring), queue) =
            (self.threads[thread.index()].ring, self.threads[thread.index()].queue)
        else {
            return;
        };
        let entry = self.rings[ring.index()].sq.pop_front();
        self.threads[thread.index()].state =
            ThreadState::Submitting { done: done + 1, left: left - 1, wait };
        match entry {
            // More was asked for than there is.
            None => {
                self.threads[thread.index()].state =
                    ThreadState::Submitting { done, left: 0, wait };
            }
            Some(Entry::Unwritten) => {}
            Some(Entry::Script(step, Op::Junk)) => {
                let token = Token::Control(u32::from(step));
                self.post(ring, Cqe { token, res: -errno::EINVAL });
                // It was taken, and nothing after it.
                if !self.rings[ring.index()].submits_all {
                    self.threads[thread.index()].state =
                        ThreadState::Submitting { done: done + 1, left: 0, wait };
                }
            }
            Some(Entry::Control(sequence, command)) => {
                self.submit_control(run, thread, ring, sequence, command);
            }
            Some(Entry::Batch(op, elements)) => {
                self.submit_batch(run, (thread, ring, queue), op, &elements);
            }
            Some(Entry::Script(step, op)) => self.script_submits(run, thread, ring, step, &op),
            Some(Entry::Plain(sqe)) => match sqe {
                Sqe::Fetch { tag, address } => {
                    let by = (thread, ring, sqe.token());
                    self.fetch(run, by, (queue, tag.0), address.into());
                }
                Sqe::Commit { tag, result, address } => {
                    let by = (thread, ring, sqe.token());
                    self.commit(run, by, (queue, tag.0), result, address.into());
                }
                Sqe::FetchTags => self.fetch_tags(run, (thread, ring, sqe.token()), queue),
                Sqe::GetData { tag, address: _ } => {
                    let by = (thread, ring, sqe.token());
                    self.get_data(run, by, (queue, tag.0));
                }
                Sqe::Register { tag } => {
                    let res = if self.refuse(run) {
                        // The request must then fail.
                        run.disk_failed = true;
                        -errno::ENOMEM
                    } else {
                        self.register(thread, ring, (queue, tag.0), tag.0)
                    };
                    run.note(actor::thread(thread), || format!("registers tag {}: {res}", tag.0));
                    self.post(ring, Cqe { token: sqe.token(), res });
                }
                Sqe::Unregister { tag } => {
                    let res = self.unregister(run, thread, ring, (queue, tag.0), tag.0);
                    run.note(actor::thread(thread), || format!("unregisters tag {}: {res}", tag.0));
                    self.post(ring, Cqe { token: sqe.token(), res });
                }
                Sqe::Backend { tag, place, op } => {
                    run.note(actor::thread(thread), || {
                        format!("backend {} for tag {}", crate::disk::name(&op), tag.0)
                    });
                    match self.pages_for(ring, tag.0, place, &op) {
                        Ok(pages) => {
                            let tag = tag.0;
                            let late = self.disk_is_late(run);
                            let orphan = None;
                            let operation = Operation {
                                ring,
                                thread,
                                queue,
                                tag,
                                place,
                                op,
                                pages,
                                late,
                                orphan,
                            };
                            self.disk.in_flight.push(operation);
                            self.disk_changes();
                        }
                        Err(errno) => self.post(ring, Cqe { token: sqe.token(), res: -errno }),
                    }
                }
                Sqe::Watch { .. } | Sqe::WatchWorker | Sqe::WatchSupervisor if self.refuse(run) => {
                    run.note(actor::thread(thread), || "a watch fails: ENOMEM".into());
                    let cqe = Cqe { token: sqe.token(), res: -errno::ENOMEM };
                    self.post_by_task_work(thread, ring, cqe);
                }
                Sqe::Watch { link } => {
                    let endless = run.sabotage == Some(Sabotage::EndlessWakeUps)
                        && link == Link::Worker
                        && self.links.supervisor != Some(thread);
                    if endless || self.readable(thread, link) {
                        let cqe = Cqe { token: Token::Link(link), res: 1 };
                        self.post_by_task_work(thread, ring, cqe);
                    } else {
                        self.rings[ring.index()].watches.push(link);
                    }
                }
                Sqe::WatchWorker => {
                    let worker = self.process_of(thread).attached;
                    self.watch_process(thread, ring, worker, Token::Worker);
                }
                Sqe::WatchSupervisor => {
                    let supervisor = self.process_of(thread).attached_supervisor;
                    self.watch_process(thread, ring, supervisor, Token::Supervisor);
                }
                Sqe::Timer { generation, ms } => {
                    self.arm(u64::from(ms) * 1000, TimerKind::Ring(ring, generation));
                }
                Sqe::CancelControl { sequence } => {
                    let res = self.cancel_control(run, ring, sequence);
                    self.post(ring, Cqe { token: Token::Cancel, res });
                }
            },
        }
    }

    /// Polls a pidfd.
    fn watch_process(
        &mut self,
        thread: ThreadId,
        ring: RingId,
        process: Option<ProcessId>,
        token: Token,
    ) {
        match process {
            Some(process) if !self.processes[process.index()].state.is_down() => {
                self.rings[ring.index()].watches_processes.push((process, token));
            }
            Some(_) | None => self.post_by_task_work(thread, ring, Cqe { token, res: 1 }),
        }
    }

    fn begin_wait(&mut self, run: &mut Run<'_>, thread: ThreadId, done: u32, wait: u32) {
        if self.is_poller(thread) {
            self.threads[thread.index()].state = ThreadState::Sleeping;
            return;
        }
        let mut interrupted = wait > 0 && self.is_paused(thread);
        if wait > 0 && self.budget.signals > 0 && run.fault(run.config.faults.signal) {
            self.budget.signals -= 1;
            interrupted = true;
        }
        if let Some(Program::Script(actor)) = self.threads[thread.index()].program.as_deref()
            && !actor.reaps
        {
            // Entered without GETEVENTS: back at once, and deferred task work does not run.
            self.threads[thread.index()].state = ThreadState::Ready(Ret::Submitted(done));
            return;
        }
        self.threads[thread.index()].state = ThreadState::Waiting { done, wait, interrupted };
    }

    /// Whether a waiting thread can return: enough completions are there, and its task work is done, or as much as one `enter` does.
    pub(crate) fn can_return(&self, thread: ThreadId, wait: u32, interrupted: bool) -> bool {
        let state = &self.threads[thread.index()];
        let there = state.ring.map_or(0, |ring| self.rings[ring.index()].completed());
        // Before 6.18 all of it. Each piece posts a completion, and nobody reaps meanwhile.
        let batches =
            state.ring.is_some_and(|ring| self.rings[ring.index()].mode == RingMode::DeferTaskrun)
                && self.device.as_ref().is_some_and(|device| device.kernel > KernelSeries::V6_12);
        let done = self.next_work(thread).is_none() || batches && there >= TASK_WORK_BATCH;
        done && (interrupted || there >= wait as usize)
    }

    /// What `enter` returns.
    pub(crate) fn returns(
        &mut self,
        run: &mut Run<'_>,
        thread: ThreadId,
        done: u32,
        wait: u32,
    ) -> Ret {
        let ring = self.threads[thread.index()].ring;
        if let Some(ring) = ring {
            let left = self.rings[ring.index()].flush();
            if left > 0 {
                run.note(actor::thread(thread), || {
                    format!("{left} completion(s) leave the backlog")
                });
            }
        }
        let there = ring.map_or(0, |ring| self.rings[ring.index()].cq.len());
        if there < wait as usize && done == 0 {
            run.note(actor::thread(thread), || "enter interrupted (EINTR)".into());
            return Ret::Failed(Errno(errno::EINTR as u16));
        }
        Ret::Submitted(done)
    }

    /// The first of a thread's task work that belongs to such a ring.
    fn work_of(&self, thread: ThreadId, fits: impl Fn(RingId, &Ring) -> bool) -> Option<usize> {
        self.threads[thread.index()].work.iter().position(|work| {
            let (Work::Dispatch { ring, .. } | Work::Drain { ring, .. } | Work::Complete(ring, _)) =
                work;
            fits(*ring, &self.rings[ring.index()])
        })
    }

    /// The task work that a thread may run now: which, depends on the rings' modes.
    fn next_work(&self, thread: ThreadId) -> Option<usize> {
        let state = &self.threads[thread.index()];
        if state.work.is_empty() || self.process_of(thread).halted {
            return None;
        }
        let entered = match state.state {
            ThreadState::Waiting { .. } => state.ring,
            ThreadState::Ready(_)
            | ThreadState::Calling(_)
            | ThreadState::Sleeping
            | ThreadState::Awaiting(_)
            | ThreadState::Locking(_)
            | ThreadState::Opening => None,
            ThreadState::Submitting { .. } | ThreadState::Dead => return None,
        };
        // What was deferred runs where its own ring is entered.
        self.work_of(thread, |id, ring| ring.mode != RingMode::DeferTaskrun || entered == Some(id))
    }

    /// Whether a thread may run task work now.
    pub(crate) fn can_run_task_work(&self, thread: ThreadId) -> bool {
        self.next_work(thread).is_some()
    }

    /// Step TW.
    pub(crate) fn task_work(&mut self, run: &mut Run<'_>, thread: ThreadId) {
        let next = self.next_work(thread);
        self.run_work(run, thread, next.unwrap_or(0));
    }

    /// A piece of a thread's task work runs.
    pub(crate) fn run_work(&mut self, run: &mut Run<'_>, thread: ThreadId, nth: usize) {
        match self.threads[thread.index()].work.remove(nth) {
            Some(Work::Dispatch { queue, tag, .. }) => self.dispatch(run, thread, queue, tag),
            Some(Work::Drain { queue, .. }) => self.drain(run, queue),
            Some(Work::Complete(ring, cqe)) => self.post(ring, cqe),
            None => {}
        }
    }

    /// Whether a kworker runs the task work of a thread that no longer can.
    pub(crate) fn can_run_fallback(&self, thread: ThreadId) -> bool {
        self.next_fallback(thread).is_some()
    }

    fn next_fallback(&self, thread: ThreadId) -> Option<usize> {
        let dead = self.threads[thread.index()].state == ThreadState::Dead;
        // A DEFER_TASKRUN ring keeps its work until the ring itself exits (H04).
        self.work_of(thread, |_, ring| {
            !ring.is_open() || (dead && ring.mode != RingMode::DeferTaskrun)
        })
    }

    /// Step TWX.
    pub(crate) fn fallback(&mut self, run: &mut Run<'_>, thread: ThreadId) {
        let Some(nth) = self.next_fallback(thread) else { return };
        match self.threads[thread.index()].work.remove(nth) {
            // 6.12: a thread that still can delivers, to a ring that is not there any more.
            Some(Work::Dispatch { queue, tag, .. })
                if run.config.kernel == KernelSeries::V6_12
                    && self.threads[thread.index()].state != ThreadState::Dead =>
            {
                self.dispatch(run, thread, queue, tag);
            }
            Some(Work::Dispatch { queue, tag, .. }) => self.dispatch_fails(run, queue, tag),
            Some(Work::Drain { queue, .. }) => self.drain_fails(run, queue),
            Some(Work::Complete(..)) | None => {}
        }
    }

    /// A completion becomes visible.
    pub(crate) fn post(&mut self, ring: RingId, cqe: Cqe) {
        let ring = &mut self.rings[ring.index()];
        if ring.is_open() {
            if ring.overflows() {
                ring.backlog.push_back(cqe);
            } else {
                ring.cq.push_back(cqe);
            }
        }
    }

    /// A completion that the thread itself will post, when it runs its task work.
    pub(crate) fn post_by_task_work(&mut self, thread: ThreadId, ring: RingId, cqe: Cqe) {
        if self.rings[ring.index()].is_open() {
            self.threads[thread.index()].work.push_back(Work::Complete(ring, cqe));
        }
    }

    /// The last reference to a ring's file is gone (D3).
    pub(crate) fn close_ring(&mut self, ring: RingId) {
        let state = &mut self.rings[ring.index()];
        if state.state != RingState::Open {
            return;
        }
        state.state = RingState::Exiting;
        state.sq.clear();
        state.cq.clear();
        state.backlog.clear();
        state.watches.clear();
        state.watches_processes.clear();
        self.timers.retain(|timer| !matches!(timer.what, TimerKind::Ring(of, _) if of == ring));
        self.orphan_operations(ring);
    }

    /// The first tag whose command an exiting ring can cancel.
    fn cancelable(&self, ring: RingId) -> Option<usize> {
        let device = self.device.as_ref()?;
        if device.armed == 0 {
            return None;
        }
        device.tags.iter().enumerate().position(|(slot, tag)| {
            // The first of a round makes every queue cancel, whatever becomes of its own command.
            let poisons = device.kernel == KernelSeries::V6_18 && !device.poisoned;
            tag.state == TagState::Armed(ring) && (poisons || !device.is_deaf_to_cancel(slot))
        })
    }

    /// Whether a dispatch that is still queued, a command that cannot be cancelled, or a backend operation keeps an exiting ring.
    fn ring_is_busy(&self, ring: RingId) -> bool {
        self.disk.in_flight.iter().any(|operation| operation.ring == ring)
            || self.device.as_ref().is_some_and(|device| {
                let delivers = |hw: &HwQueue| hw.batch.active.is_some_and(|one| one.ring == ring);
                device.hw.iter().any(delivers)
            })
            || self.device.as_ref().is_some_and(|device| {
                device.armed > 0
                    && device
                        .tags
                        .iter()
                        .any(|slot| !device.batches() && matches!(slot.state, TagState::Queued(of, _) | TagState::Armed(of) | TagState::Lingering(of, ..) if of == ring))
            })
    }

    /// 6.12: the first cancel of a queue aborts what its server holds, and has the device stopped.
    fn abandon_queue(&mut self, run: &mut Run<'_>, slot: usize) -> bool {
        let Some(device) = &mut self.device else { return false };
        let queue = slot / usize::from(device.depth);
        if device.hw[queue].canceling || !device.disk.as_ref().is_some_and(|disk| disk.attached) {
            return false;
        }
        device.hw[queue].canceling = true;
        // Work that is under way finds nothing to do when it runs again.
        device.release.get_or_insert(ReleaseStep::Lock);
        let mut held = Vec::new();
        let depth = usize::from(device.depth);
        for slot in device.tags.iter_mut().skip(queue * depth).take(depth) {
            if let Some(request) = slot.served() {
                slot.state = TagState::Cancelled;
                held.push(request);
            }
        }
        let waits = device.reissues();
        run.kernel(|| format!("X1: queue {queue} is canceling, {} request(s) held", held.len()));
        for request in held {
            self.abort_request(run, request, waits);
        }
        true
    }

    /// 6.12: a thread is gone. Where it was the server of a queue and has every tag in its hands, no command is left that could be cancelled.
    pub(crate) fn requests_are_forgotten(&mut self, thread: ThreadId) {
        let Some(device) = self.device.as_ref() else { return };
        let forgotten = (0..device.queues).filter(|queue| device.is_forgotten(*queue, thread));
        for queue in forgotten.collect::<Vec<_>>() {
            self.arm(REQUEST_TIMEOUT_US, TimerKind::Requests(queue));
        }
    }

    /// 6.12: the request timer of a queue fires (`ublk_timeout`).
    pub(crate) fn requests_take_long(&mut self, run: &mut Run<'_>, queue: u16) {
        let Some(device) = self.device.as_ref() else { return };
        let daemon = device.hw[usize::from(queue)].daemon;
        let dead = |thread: ThreadId| self.threads[thread.index()].state == ThreadState::Dead;
        let forgotten =
            daemon.filter(|daemon| dead(*daemon) && device.is_forgotten(queue, *daemon));
        if forgotten.is_some() && run.sabotage != Some(Sabotage::NoRequestTimer) {
            let slot = device.slot(queue, 0);
            run.kernel(|| format!("the request timer of queue {queue} fires"));
            self.abandon_queue(run, slot);
        }
    }

    /// X1: the round's first cancel. False: it was not the first.
    fn poison(&mut self, run: &mut Run<'_>) -> bool {
        let Some(device) = self.device.as_mut().filter(|device| !device.poisoned) else {
            return false;
        };
        device.poisoned = true;
        for hw in &mut device.hw {
            hw.canceling = true;
        }
        run.kernel(|| "X1: a ring with armed tags exits, every queue is canceling".into());
        true
    }

    /// Whether the kworker that tears a ring down can move.
    pub(crate) fn ring_exit_can_move(&self, ring: RingId) -> bool {
        self.rings[ring.index()].state == RingState::Exiting
            && (self.cancelable(ring).is_some()
                || self.delivered_late(ring).is_some()
                || self.device.as_ref().is_some_and(|device| device.fetcher_of(ring).is_some())
                || !self.ring_is_busy(ring))
    }

    /// One step of ring exit: X1, X2 or RE.
    pub(crate) fn ring_exit_step(&mut self, run: &mut Run<'_>, ring: RingId) {
        if self.cancel_one(run, ring) {
            return;
        }
        self.rings[ring.index()].state = RingState::Gone;
        self.free_table(run, ring);
        self.end_poller(ring);
        run.kernel(|| format!("RE: ring {} freed", ring.0));
        self.let_go_of_file(run, ring);
    }

    /// 6.12: a tag of an exiting ring whose request a living thread is about to deliver. Its queue is abandoned all the same.
    fn delivered_late(&self, ring: RingId) -> Option<usize> {
        let device = self.device.as_ref().filter(|it| it.kernel == KernelSeries::V6_12)?;
        let alive = |task: ThreadId| self.threads[task.index()].state != ThreadState::Dead;
        let depth = usize::from(device.depth);
        device.tags.iter().enumerate().position(|(slot, tag)| {
            matches!(tag.state, TagState::Queued(of, _) if of == ring)
                && tag.task.is_some_and(alive)
                && device.hw[slot / depth].daemon.is_some()
                && !device.hw[slot / depth].canceling
                && device.disk.as_ref().is_some_and(|disk| disk.attached)
        })
    }

    /// X1, or X2 of one command of a ring. False: there is none that can be cancelled.
    pub(crate) fn cancel_one(&mut self, run: &mut Run<'_>, ring: RingId) -> bool {
        if let Some(slot) = self.delivered_late(ring) {
            self.abandon_queue(run, slot);
            return true;
        }
        let fetcher = self.device.as_ref().and_then(|device| device.fetcher_of(ring));
        if let Some((queue, at)) = fetcher {
            if !self.poison(run) {
                self.cancel_fetcher(run, queue, at);
            }
            return true;
        }
        if let Some(slot) = self.cancelable(ring) {
            let old = self.device.as_ref().is_some_and(|it| it.kernel == KernelSeries::V6_12);
            if old && self.abandon_queue(run, slot) || !old && self.poison(run) {
                return true;
            }
            self.cancel(run, slot);
            return true;
        }
        false
    }
}
