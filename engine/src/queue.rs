//! One queue: map, prime, serve, drain. One thread and one ring each.

use alloc::boxed::Box;
use alloc::vec;

use crate::batch::{Batch, Element};
use crate::cause::{Cause, Problem, Step as Attempt};
use crate::data::{DataMode, Place, TagMemory};
use crate::link::{FromQueue, Link, Received, ToQueue};
use crate::pending::{Awaits, Otherwise, Owner, Pending, PendingSink};
use crate::pump::Pump;
use crate::sys::{
    Call, Cqe, Exit, MemoryOp, QueueIo, Ret, RingMode, RingSpec, Sqe, Token, mismatch,
};
use crate::tag::{Sent, TagAction, TagEvent, TagState};
use crate::target::{Op, Request, Step, Target};
use crate::uapi::{Errno, FetchResult, IoDesc, QueueId, RequestFlags, RequestOp, Tag};

mod batches;

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
    /// The largest request in bytes, and the size of a tag's buffer.
    pub buffer_bytes: u32,
    /// Size of the device in sectors.
    pub sectors: u64,
    /// Entries of its ring; at least 2. [`QueueConfig::ring_entries`] never fills up. In batches twice as many must hold a completion for each tag and
    /// three more: one that has no room costs a buffer.
    pub entries: u32,
    /// How its ring runs task work.
    pub mode: RingMode,
    /// How data moves.
    pub data: DataMode,
    /// Buffers for the tags that the kernel tells of in batches; 0: a command for each tag. As many as tags never run out.
    #[cfg_attr(feature = "serde", serde(default))]
    pub buffers: u16,
    /// Bytes of memory that clients share with the server.
    #[cfg_attr(feature = "serde", serde(default))]
    pub shared_bytes: u64,
}

impl QueueConfig {
    /// Ring entries that leave room for a command of every tag, the watch on the worker, and the two commands of a batch.
    pub const fn ring_entries(depth: u16) -> u32 {
        (depth as u32 + 4).next_power_of_two()
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
    /// Waiting for the word to fetch.
    Ready,
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

/// A request that the backend works on, and its progress; none while its pages are being registered by hand.
type InHand<T> = (Request, Option<<T as Target>::Job>);

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
    /// Those of them whose pages the kernel is asked to register or to give back.
    slots: u16,
    /// Those of them that carry an announced write, whose data the kernel is asked for.
    announced: u16,
    /// Tags the kernel aborted.
    dead: u16,
    /// To finish what it holds and exit: it was told to, or a tag was aborted.
    quitting: bool,
    /// What a batch device needs.
    batch: Option<Batch>,
}

impl<T: Target> Queue<T> {
    /// A queue that has not started. Allocates everything it will ever need (I8).
    ///
    /// # Panics
    /// If `depth` is 0, `entries` is below 2, or the target cannot serve in this data mode.
    pub fn new(config: QueueConfig, target: T) -> Self {
        assert!(config.depth > 0, "a queue has at least one tag");
        assert!(config.entries >= 2, "a ring holds a command and a watch");
        assert!(target.serves_in(config.data), "a target that can serve in the device's mode");
        let depth = usize::from(config.depth);
        Self {
            config,
            target,
            phase: Phase::Boot,
            pump: Pump::new(PUSHES_PER_COMPLETION_MAX),
            tags: vec![TagState::Idle; depth].into_boxed_slice(),
            jobs: vec![None; depth].into_boxed_slice(),
            owned: 0,
            slots: 0,
            announced: 0,
            dead: 0,
            quitting: false,
            batch: (config.buffers > 0).then(|| Batch::new(config.depth)),
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
                    Call::MapQueue {
                        queue: id,
                        memory: self.tag_memory(),
                        buffers: self.config.buffers,
                    }
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
                    self.phase = Phase::Ready;
                    push(io, Sqe::Watch { link: Link::Worker });
                    io.tell_worker(FromQueue::Ready(id));
                    self.turn(Ret::Done, io)
                }
                Ret::Start
                | Ret::Submitted(_)
                | Ret::Spawned(_)
                | Ret::Exited(_)
                | Ret::Running => mismatch("a map", ret),
            },
            Phase::Ready | Phase::Priming { .. } | Phase::Serving => self.turn(ret, io),
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
        let mut more = match self.work_off(io) {
            Ok(more) => more,
            Err(cause) => return self.fail(cause, io),
        };
        more |= self.prime(io);
        self.check();
        if self.may_end() {
            // Nothing is left behind that was delivered already: it would fail where only what waits is kept for the next server.
            if io.sq_ready() == 0 && self.pump.is_quiet() {
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
        if self.batch.is_some() {
            return self.prepare(io);
        }
        while armed < self.config.depth && io.sq_space() > 0 {
            match self.tags[usize::from(armed)].handle(TagEvent::Prime) {
                TagAction::Fetch => {
                    let tag = Tag(armed);
                    push(io, Sqe::Fetch { tag, address: self.config.data.address(tag) });
                }
                TagAction::GetData
                | TagAction::Serve
                | TagAction::Register
                | TagAction::Begin
                | TagAction::Unregister
                | TagAction::Commit { .. }
                | TagAction::Retire
                | TagAction::Fail(_)
                | TagAction::Violation => unreachable!("I4: every tag is primed once, when idle"),
            }
            armed += 1;
        }
        self.phase = Phase::Priming { armed };
        self.primed(armed, io)
    }

    /// Whether there is more to do before all tags, of which so many were given to the kernel, are known to be armed.
    fn primed(&mut self, armed: u16, io: &mut impl QueueIo) -> bool {
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
            Token::Io(_) if self.batch.is_some() => Err(self.violation()),
            Token::Io(tag) => {
                let event = match FetchResult::from_result(res) {
                    FetchResult::Request => TagEvent::Delivered,
                    FetchResult::Abort => TagEvent::Aborted,
                    FetchResult::Error(errno) => TagEvent::Refused(errno),
                    FetchResult::NeedGetData => self.announcement(tag, io)?,
                };
                self.advance(tag, event, io)
            }
            Token::Backend(tag) => {
                let Some((request, Some(mut job))) =
                    self.jobs.get_mut(usize::from(tag.0)).and_then(Option::take)
                else {
                    return Err(self.violation());
                };
                let step = self.target.resume(&request, &mut job, res);
                self.carry(tag, request, job, step, io)
            }
            Token::Prep => self.prepared(res),
            Token::Commits => self.committed(res, io),
            Token::Tags => self.hear_of(res, io),
            Token::Slot(tag) => {
                let event = if res < 0 {
                    TagEvent::SlotRefused(Errno::from_result(res))
                } else {
                    TagEvent::SlotDone
                };
                self.advance(tag, event, io)
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
        let before = *state;
        let action = state.handle(event);
        let after = *state;
        self.owned += u16::from(after.is_owned());
        self.owned -= u16::from(before.is_owned());
        self.slots += u16::from(after.awaits_slot());
        self.slots -= u16::from(before.awaits_slot());
        self.announced += u16::from(after.awaits_data());
        self.announced -= u16::from(before.awaits_data());
        match action {
            TagAction::GetData => {
                push(io, Sqe::GetData { tag, address: self.config.data.address(tag) });
                Ok(())
            }
            TagAction::Serve => {
                // I2: the server has just become the tag's owner, or has got the data that it asked for.
                let desc = io.descriptor(tag);
                if let TagState::Announced { sectors, refused: _ } = before
                    && desc.op() == Some(RequestOp::Write)
                    && desc.nr_sectors != sectors
                {
                    // A page of the buffer was not there. What is left must not be taken for the whole write (H20).
                    return self.finish(tag, Errno::EIO.to_result(), io);
                }
                let QueueConfig { sectors, buffer_bytes, shared_bytes, .. } = self.config;
                match Request::parse(&desc, sectors, buffer_bytes, shared_bytes) {
                    Ok(request) if self.is_unregistered(&desc, &request) => {
                        self.jobs[usize::from(tag.0)] = Some((request, None));
                        self.advance(tag, TagEvent::NotRegistered, io)
                    }
                    Ok(request) => self.begin(tag, request, io),
                    Err(errno) => self.finish(tag, errno.to_result(), io),
                }
            }
            TagAction::Register => {
                push(io, Sqe::Register { tag });
                Ok(())
            }
            TagAction::Begin => match self.jobs[usize::from(tag.0)].take() {
                Some((request, None)) => self.begin(tag, request, io),
                Some((_, Some(_))) | None => Err(self.violation()),
            },
            TagAction::Unregister => {
                push(io, Sqe::Unregister { tag });
                Ok(())
            }
            TagAction::Commit { result } => {
                self.jobs[usize::from(tag.0)] = None;
                let address = self.config.data.address(tag);
                match &mut self.batch {
                    Some(batch) => batch.finished(Element { tag, result, address }),
                    None => push(io, Sqe::Commit { tag, result, address }),
                }
                Ok(())
            }
            TagAction::Retire => {
                self.dead += 1;
                // The first abort is the end: tags that the server held when the device was quiesced are never aborted (H09).
                self.quitting = true;
                Ok(())
            }
            TagAction::Fail(errno) => {
                let queue = self.config.id;
                let fetched = before == TagState::Armed(Sent::Fetch);
                let attempt = if fetched { Attempt::Fetch(queue) } else { Attempt::Serve(queue) };
                Err(Cause::errno(attempt, errno))
            }
            TagAction::Fetch | TagAction::Violation => Err(self.violation()),
        }
    }

    /// What the kernel announced on a tag.
    fn announcement(&self, tag: Tag, io: &impl QueueIo) -> Result<TagEvent, Cause> {
        match self.config.data {
            DataMode::GetData if tag.0 < self.config.depth => {
                // I2: the server has just become the tag's owner.
                Ok(TagEvent::Announced { sectors: io.descriptor(tag).nr_sectors })
            }
            // Never negotiated.
            DataMode::GetData | DataMode::Copy | DataMode::UserCopy | DataMode::ZeroCopy => {
                Err(self.violation())
            }
        }
    }

    /// What each tag has.
    fn tag_memory(&self) -> TagMemory {
        self.config.data.tag_memory(self.target.has_backend())
    }

    /// Whether the driver was to register a request's pages and could not.
    fn is_unregistered(&self, desc: &IoDesc, request: &Request) -> bool {
        match self.config.data {
            DataMode::Copy | DataMode::GetData | DataMode::UserCopy => false,
            DataMode::ZeroCopy => {
                request.op.carries_data()
                    && request.place == Place::Tag
                    && desc.flags().contains(RequestFlags::NEED_REG_BUF)
            }
        }
    }

    /// Whether a request's data passes through the tag's buffer because the backend cannot reach the request's own.
    fn bounces(&self, request: &Request) -> bool {
        match (self.config.data, request.place) {
            (DataMode::Copy | DataMode::GetData | DataMode::ZeroCopy, _)
            | (DataMode::UserCopy, Place::Shared(_)) => false,
            (DataMode::UserCopy, Place::Tag) => self.target.has_backend(),
        }
    }

    /// Begins a request, with a write's data in the buffer if the backend is to find it there.
    fn begin(&mut self, tag: Tag, request: Request, io: &mut impl QueueIo) -> Result<(), Cause> {
        let writes = match request.op {
            Op::Write { fua: _ } => true,
            Op::Read | Op::Flush | Op::Discard | Op::WriteZeroes { unmap: _ } => false,
        };
        let copy = MemoryOp::CopyIn { len: request.len };
        if writes && self.bounces(&request) && !moves(tag, request.place, copy, io) {
            return self.finish(tag, Errno::EIO.to_result(), io);
        }
        let memory = match request.place {
            Place::Tag => self.tag_memory(),
            Place::Shared(_) => TagMemory::Buffer,
        };
        let (job, step) = self.target.begin(&request, memory);
        self.carry(tag, request, job, step, io)
    }

    /// The result of a request that the target completed, with a read's data where the kernel will look for it.
    fn result(&self, tag: Tag, request: &Request, io: &mut impl QueueIo) -> i32 {
        let reads = match request.op {
            Op::Read => true,
            Op::Write { fua: _ } | Op::Flush | Op::Discard | Op::WriteZeroes { unmap: _ } => false,
        };
        let copy = MemoryOp::CopyOut { len: request.len };
        if reads && self.bounces(request) && !moves(tag, request.place, copy, io) {
            return Errno::EIO.to_result();
        }
        request.complete()
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
                    if !moves(tag, request.place, op, io) {
                        return self.finish(tag, Errno::EIO.to_result(), io);
                    }
                    step = self.target.resume(&request, &mut job, op.bytes() as i32);
                }
                Step::Backend(op) => {
                    self.jobs[usize::from(tag.0)] = Some((request, Some(job)));
                    push(io, Sqe::Backend { tag, place: request.place, op });
                    return Ok(());
                }
                Step::Done(outcome) => {
                    let result = match outcome {
                        Ok(()) => self.result(tag, &request, io),
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
        self.advance(tag, TagEvent::Finished { result }, io)
    }

    /// Reads the mailbox.
    fn listen(&mut self, io: &mut impl QueueIo) {
        loop {
            match io.hear_worker() {
                Received::Message(ToQueue::Prime) => {
                    if self.phase == Phase::Ready {
                        self.phase = Phase::Priming { armed: 0 };
                    }
                }
                Received::Message(ToQueue::Quit) => self.quitting = true,
                Received::Message(ToQueue::Resize { sectors }) => {
                    // Requests are judged by it as they arrive. What is under way beyond a new end comes to its own.
                    self.config.sectors = sectors;
                    io.tell_worker(FromQueue::Resized(self.config.id));
                }
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

    /// Whether nothing is owed any more: a tag was aborted, or the worker said so, and nothing is in hand.
    fn may_end(&self) -> bool {
        // A commit that the kernel has not confirmed may have to be sent again (H44).
        let batched = self.batch.as_ref().map_or(0, |batch| batch.told() + batch.uncommitted());
        self.quitting && self.owned + batched == 0
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
            assert_eq!(count(|tag| tag.is_owned()), usize::from(self.owned), "I5: owned tags");
            assert_eq!(
                count(|tag| tag.awaits_slot()),
                usize::from(self.slots),
                "I5: tags whose slot changes"
            );
            assert_eq!(
                count(|tag| tag.awaits_data()),
                usize::from(self.announced),
                "I5: announced writes"
            );
            assert_eq!(
                count(|tag| *tag == TagState::Dead),
                usize::from(self.dead),
                "I5: dead tags"
            );
            for (tag, job) in self.tags.iter().zip(&self.jobs) {
                assert!(job.is_none() || tag.is_owned(), "I6: only an owned tag has a job");
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
            Phase::Ready => add(Awaits::WordToFetch, Owner::Engine, Otherwise::PeerUnwinds),
            Phase::Priming { armed: _ } => {
                add(Awaits::Submission(self.config.depth), Owner::Kernel, Otherwise::PeerUnwinds);
            }
            Phase::Serving => {
                let armed = self.config.depth - self.owned - self.dead;
                let (told, uncommitted) =
                    self.batch.as_ref().map_or((0, 0), |batch| (batch.told(), batch.uncommitted()));
                let armed = armed.saturating_sub(told + uncommitted);
                let otherwise =
                    if self.quitting { Otherwise::PeerUnwinds } else { Otherwise::WaitOn };
                if self.slots > 0 {
                    add(Awaits::Registrations(self.slots), Owner::Kernel, otherwise);
                }
                if self.announced > 0 {
                    add(Awaits::WriteData(self.announced), Owner::Kernel, otherwise);
                }
                let backend = self.owned - self.slots - self.announced;
                if backend > 0 {
                    add(Awaits::BackendResults(backend), Owner::Backend, otherwise);
                }
                if uncommitted > 0 {
                    add(Awaits::Commits(uncommitted), Owner::Kernel, otherwise);
                }
                // Told to quit, it ends as soon as it holds nothing, whatever is armed.
                let armed = if self.quitting { 0 } else { armed };
                if armed > 0 {
                    add(Awaits::Requests(armed), Owner::Client, Otherwise::WaitOn);
                }
            }
            Phase::Ended => {}
        }
    }
}

/// Carries out a memory operation. False if it failed, or moved anything but all of it: then the request fails, and nothing is committed short (O3).
fn moves(tag: Tag, place: Place, op: MemoryOp, io: &mut impl QueueIo) -> bool {
    u64::try_from(io.memory(tag, place, op)) == Ok(op.bytes())
}

/// Pushes an entry that has room by I3.
fn push(io: &mut impl QueueIo, sqe: Sqe) {
    io.push(sqe).expect("I3: a push has room, because the pump looked first");
}
