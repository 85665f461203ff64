//! One queue: map, prime, serve, drain. One thread and one ring each.

use alloc::boxed::Box;
use alloc::vec;

use crate::cause::{Cause, Problem, Step as Attempt};
use crate::link::{FromQueue, Link, Received, ToQueue};
use crate::pending::{Awaits, Otherwise, Owner, Pending, PendingSink};
use crate::pump::Pump;
use crate::sys::{Call, Cqe, Exit, QueueIo, Ret, RingMode, RingSpec, Sqe, Token, mismatch};
use crate::tag::{TagAction, TagEvent, TagState};
use crate::target::{Request, Step, Target};
use crate::uapi::{Errno, FetchResult, QueueId, Tag};

/// The most entries that handling one completion pushes: a commit, a backend operation, or a watch renewed.
const PUSHES_PER_COMPLETION_MAX: u8 = 1;

/// Memory operations in a row that a target may ask for on behalf of one request; then the client is answered EIO.
pub const MEMORY_STEPS_MAX: u16 = 1024;

/// What a queue is told when its thread starts.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct QueueConfig {
    /// Its number.
    pub id: QueueId,
    /// Its tags, 1..=4096.
    pub depth: u16,
    /// Bytes of each tag's buffer.
    pub buffer_bytes: u32,
    /// Size of the device in sectors.
    pub sectors: u64,
    /// Entries of its ring; at least 2. [`QueueConfig::ring_entries`] never fills up.
    pub entries: u32,
    /// How its ring runs task work.
    pub mode: RingMode,
}

impl QueueConfig {
    /// Ring entries that leave room for a command of every tag and the watch on the worker.
    pub const fn ring_entries(depth: u16) -> u32 {
        (depth as u32 + 2).next_power_of_two()
    }
}

/// Where the queue is in its life.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum Phase {
    /// Not resumed yet.
    Boot,
    /// The ring is being created.
    SettingUp,
    /// Descriptors are being mapped and buffers obtained.
    Mapping,
    /// Tags below `armed` were given a FETCH.
    Priming {
        /// The next tag to arm.
        armed: u16,
    },
    /// Every FETCH was accepted.
    Serving,
    /// The thread has exited.
    Ended,
}

/// A request that the backend works on, and its progress.
type InHand<T> = (Request, <T as Target>::Job);

/// The machine of one queue's thread.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Queue<T: Target> {
    config: QueueConfig,
    target: T,
    phase: Phase,
    pump: Pump,
    tags: Box<[TagState]>,
    /// The request and its progress while the backend works on it.
    jobs: Box<[Option<InHand<T>>]>,
    /// Tags the server owns.
    owned: u16,
    /// Tags the kernel aborted.
    dead: u16,
    /// Told to finish what it holds and exit.
    quitting: bool,
}

impl<T: Target> Queue<T> {
    /// A queue that has not started. Allocates everything it will ever need (I8).
    ///
    /// # Panics
    /// If `depth` is 0 or `entries` is below 2.
    pub fn new(config: QueueConfig, target: T) -> Self {
        assert!(config.depth > 0, "a queue has at least one tag");
        assert!(config.entries >= 2, "a ring holds a command and a watch");
        let depth = usize::from(config.depth);
        Self {
            config,
            target,
            phase: Phase::Boot,
            pump: Pump::new(PUSHES_PER_COMPLETION_MAX),
            tags: vec![TagState::Idle; depth].into_boxed_slice(),
            jobs: vec![None; depth].into_boxed_slice(),
            owned: 0,
            dead: 0,
            quitting: false,
        }
    }

    /// Where it is in its life.
    pub const fn phase(&self) -> Phase {
        self.phase
    }

    /// Its number.
    pub const fn id(&self) -> QueueId {
        self.config.id
    }

    /// The state of each of its tags.
    pub fn tags(&self) -> &[TagState] {
        &self.tags
    }

    /// Goes on after the last call returned `ret`. O(1) per completion and per tag primed.
    pub fn resume(&mut self, ret: Ret, io: &mut impl QueueIo) -> Call {
        let id = self.config.id;
        match self.phase {
            Phase::Boot => {
                self.phase = Phase::SettingUp;
                Call::SetupRing(RingSpec { entries: self.config.entries, mode: self.config.mode })
            }
            Phase::SettingUp => match ret {
                Ret::Failed(errno) => self.fail(Cause::errno(Attempt::QueueRing(id), errno), io),
                Ret::Done => {
                    self.phase = Phase::Mapping;
                    Call::MapQueue { queue: id }
                }
                Ret::Start
                | Ret::Submitted(_)
                | Ret::Spawned(_)
                | Ret::Exited(_)
                | Ret::Running => mismatch("a ring's setup", ret),
            },
            Phase::Mapping => match ret {
                Ret::Failed(errno) => self.fail(Cause::errno(Attempt::MapQueue(id), errno), io),
                Ret::Done => {
                    self.phase = Phase::Priming { armed: 0 };
                    push(io, Sqe::Watch { link: Link::Worker });
                    self.turn(Ret::Done, io)
                }
                Ret::Start
                | Ret::Submitted(_)
                | Ret::Spawned(_)
                | Ret::Exited(_)
                | Ret::Running => mismatch("a map", ret),
            },
            Phase::Priming { .. } | Phase::Serving => self.turn(ret, io),
            Phase::Ended => unreachable!("I1: a thread that exited was resumed"),
        }
    }

    /// One turn of the pump.
    fn turn(&mut self, ret: Ret, io: &mut impl QueueIo) -> Call {
        if let Err(errno) = self.pump.turn(ret) {
            return self.fail(Cause::errno(Attempt::Enter, errno), io);
        }
        while let Some(cqe) = self.pump.next(io) {
            if let Err(cause) = self.complete(cqe, io) {
                return self.fail(cause, io);
            }
        }
        let more = self.prime(io);
        self.check();
        if self.may_end() {
            if io.sq_ready() == 0 {
                self.phase = Phase::Ended;
                io.tell_worker(FromQueue::Ended(self.config.id));
                return Call::Exit(Exit::Finished);
            }
            // The last commits must reach the kernel, and nothing is to be waited for behind them.
            return self.pump.park(io, true);
        }
        self.pump.park(io, more)
    }

    /// Arms tags while there is room, and reports once all are accepted. Says whether there is more to do without waiting.
    fn prime(&mut self, io: &mut impl QueueIo) -> bool {
        let Phase::Priming { mut armed } = self.phase else { return false };
        if self.quitting {
            return false;
        }
        while armed < self.config.depth && io.sq_space() > 0 {
            match self.tags[usize::from(armed)].handle(TagEvent::Prime) {
                TagAction::Fetch => push(io, Sqe::Fetch { tag: Tag(armed) }),
                TagAction::Serve
                | TagAction::Commit { .. }
                | TagAction::Retire
                | TagAction::Fail(_)
                | TagAction::Violation => unreachable!("I4: every tag is primed once, when idle"),
            }
            armed += 1;
        }
        self.phase = Phase::Priming { armed };
        // Until the kernel took every FETCH, and every completion it posted meanwhile was handled: a refusal would have been seen.
        if armed < self.config.depth || io.sq_ready() > 0 || !self.pump.drained() {
            return true;
        }
        self.phase = Phase::Serving;
        io.tell_worker(FromQueue::Primed(self.config.id));
        false
    }

    /// Handles one completion. At most [`PUSHES_PER_COMPLETION_MAX`] pushes.
    fn complete(&mut self, cqe: Cqe, io: &mut impl QueueIo) -> Result<(), Cause> {
        let Cqe { token, res } = cqe;
        match token {
            Token::Io(tag) => {
                let event = match FetchResult::from_result(res) {
                    FetchResult::Request => TagEvent::Delivered,
                    FetchResult::Abort => TagEvent::Aborted,
                    FetchResult::Error(errno) => TagEvent::Refused(errno),
                    // Never negotiated in copy mode.
                    FetchResult::NeedGetData => return Err(self.violation()),
                };
                self.advance(tag, event, io)
            }
            Token::Backend(tag) => {
                let Some((request, mut job)) =
                    self.jobs.get_mut(usize::from(tag.0)).and_then(Option::take)
                else {
                    return Err(self.violation());
                };
                let step = self.target.resume(&request, &mut job, res);
                self.carry(tag, request, job, step, io)
            }
            Token::Link(Link::Worker) => {
                self.listen(io);
                Ok(())
            }
            Token::Link(Link::Supervisor | Link::Queues | Link::Operator)
            | Token::Worker
            | Token::Supervisor
            | Token::Timer(_)
            | Token::Control(_)
            | Token::Cancel => Err(self.violation()),
        }
    }

    /// Moves a tag on and does what it says.
    fn advance(&mut self, tag: Tag, event: TagEvent, io: &mut impl QueueIo) -> Result<(), Cause> {
        let Some(state) = self.tags.get_mut(usize::from(tag.0)) else {
            return Err(self.violation());
        };
        let was_armed_by_fetch = *state == TagState::Armed(crate::tag::Sent::Fetch);
        match state.handle(event) {
            TagAction::Serve => {
                self.owned += 1;
                // I2: the descriptor is read here, where the server has just become the tag's owner, and nowhere else.
                let desc = io.descriptor(tag);
                match Request::parse(&desc, self.config.sectors, self.config.buffer_bytes) {
                    Ok(request) => {
                        let (job, step) = self.target.begin(&request);
                        self.carry(tag, request, job, step, io)
                    }
                    Err(errno) => self.finish(tag, errno.to_result(), io),
                }
            }
            TagAction::Commit { result } => {
                push(io, Sqe::Commit { tag, result });
                Ok(())
            }
            TagAction::Retire => {
                self.dead += 1;
                Ok(())
            }
            TagAction::Fail(errno) => {
                let queue = self.config.id;
                let attempt =
                    if was_armed_by_fetch { Attempt::Fetch(queue) } else { Attempt::Serve(queue) };
                Err(Cause::errno(attempt, errno))
            }
            TagAction::Fetch | TagAction::Violation => Err(self.violation()),
        }
    }

    /// Carries out a target's steps until one leaves the pump.
    fn carry(
        &mut self,
        tag: Tag,
        request: Request,
        mut job: T::Job,
        mut step: Step,
        io: &mut impl QueueIo,
    ) -> Result<(), Cause> {
        for _ in 0..MEMORY_STEPS_MAX {
            match step {
                Step::Memory(op) => {
                    io.memory(tag, op);
                    step = self.target.resume(&request, &mut job, 0);
                }
                Step::Backend(op) => {
                    self.jobs[usize::from(tag.0)] = Some((request, job));
                    push(io, Sqe::Backend { tag, op });
                    return Ok(());
                }
                Step::Done(outcome) => {
                    let result = match outcome {
                        Ok(()) => request.complete(),
                        Err(errno) => errno.to_result(),
                    };
                    return self.finish(tag, result, io);
                }
            }
        }
        // A target that never ends would keep this thread from all other requests.
        self.finish(tag, Errno::EIO.to_result(), io)
    }

    /// The target is done with a tag's request.
    fn finish(&mut self, tag: Tag, result: i32, io: &mut impl QueueIo) -> Result<(), Cause> {
        self.owned -= 1;
        self.advance(tag, TagEvent::Finished { result }, io)
    }

    /// Reads the mailbox.
    fn listen(&mut self, io: &mut impl QueueIo) {
        loop {
            match io.hear_worker() {
                Received::Message(ToQueue::Quit) => self.quitting = true,
                Received::Empty => {
                    push(io, Sqe::Watch { link: Link::Worker });
                    return;
                }
                Received::Closed => {
                    self.quitting = true;
                    return;
                }
            }
        }
    }

    /// Whether nothing is owed any more: every tag dead, or told to quit and nothing in hand.
    fn may_end(&self) -> bool {
        self.owned == 0 && (self.quitting || self.dead == self.config.depth)
    }

    /// Tells the worker, and exits.
    fn fail(&mut self, cause: Cause, io: &mut impl QueueIo) -> Call {
        self.phase = Phase::Ended;
        io.tell_worker(FromQueue::Failed(self.config.id, cause));
        Call::Exit(Exit::Failed(cause))
    }

    const fn violation(&self) -> Cause {
        Cause::new(Attempt::Serve(self.config.id), Problem::Protocol)
    }

    /// I5: the counters agree with the tags. O(depth), so only in debug builds.
    fn check(&self) {
        if cfg!(debug_assertions) {
            let count =
                |want: fn(&TagState) -> bool| self.tags.iter().filter(|tag| want(tag)).count();
            assert_eq!(
                count(|tag| *tag == TagState::Owned),
                usize::from(self.owned),
                "I5: owned tags"
            );
            assert_eq!(
                count(|tag| *tag == TagState::Dead),
                usize::from(self.dead),
                "I5: dead tags"
            );
            for (tag, job) in self.tags.iter().zip(&self.jobs) {
                assert!(
                    job.is_none() || *tag == TagState::Owned,
                    "I6: only an owned tag has a job"
                );
            }
        }
    }

    /// What it waits for, and who owes it.
    pub fn pending(&self, sink: &mut impl PendingSink) {
        let mut add = |awaits, owner, otherwise| sink.pending(Pending { awaits, owner, otherwise });
        match self.phase {
            Phase::Boot | Phase::SettingUp | Phase::Mapping => {
                add(Awaits::CallReturn, Owner::Kernel, Otherwise::PeerUnwinds);
            }
            Phase::Priming { armed: _ } => {
                add(Awaits::Submission(self.config.depth), Owner::Kernel, Otherwise::PeerUnwinds);
            }
            Phase::Serving => {
                let armed = self.config.depth - self.owned - self.dead;
                if self.owned > 0 {
                    let otherwise =
                        if self.quitting { Otherwise::PeerUnwinds } else { Otherwise::WaitOn };
                    add(Awaits::BackendResults(self.owned), Owner::Backend, otherwise);
                }
                // Told to quit, it ends as soon as it holds nothing, whatever is armed.
                let armed = if self.quitting { 0 } else { armed };
                if armed > 0 && self.dead > 0 {
                    add(Awaits::Aborts(armed), Owner::Kernel, Otherwise::PeerUnwinds);
                } else if armed > 0 {
                    add(Awaits::Requests(armed), Owner::Client, Otherwise::WaitOn);
                }
            }
            Phase::Ended => {}
        }
    }
}

/// Pushes an entry that has room by I3.
fn push(io: &mut impl QueueIo, sqe: Sqe) {
    io.push(sqe).expect("I3: a push has room, because the pump looked first");
}
