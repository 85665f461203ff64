//! The worker: the process that serves. Opens the character device once, starts the queues' threads, has them fetch once all of them can,
//! tells the supervisor when all of them are primed, and ends when they have ended.

use alloc::boxed::Box;
use alloc::vec;

use crate::cause::{Cause, Problem, Step};
use crate::link::{FromQueue, FromWorker, Link, Received, ToQueue, ToWorker};
use crate::pending::{Awaits, Otherwise, Owner, Pending, PendingSink};
use crate::pump::Pump;
use crate::queue::QueueConfig;
use crate::sys::{
    Call, Cqe, DeviceGeometry, Exit, Ret, RingMode, RingSpec, Sqe, Token, WorkerIo, mismatch,
};
use crate::uapi::{Errno, QueueId};

/// The pause between two attempts to open the character device, in milliseconds.
pub const OPEN_RETRY_MS: u32 = 100;
/// How often the open is attempted before the worker gives up: some 5 seconds for udev and for a previous server's release.
pub const OPEN_ATTEMPTS_MAX: u16 = 50;
/// How long queues may take to end after they were told to quit, in milliseconds. Then the process exits over their heads.
pub const QUIT_MS: u32 = 1_000;
/// How the queues' rings run task work: only where the thread waits, so that nothing interrupts it while it serves.
pub const RING_MODE: RingMode = RingMode::DeferTaskrun;
/// Entries of the worker's ring: two watches and a timer.
const RING_ENTRIES: u32 = 8;
/// The most entries that handling one completion pushes: a watch renewed, and a timer.
const PUSHES_PER_COMPLETION_MAX: u8 = 2;

/// Where the worker is in its life.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum Phase {
    /// Not resumed yet.
    Boot,
    /// The ring is being created.
    SettingUp,
    /// The character device is being opened.
    Opening,
    /// The open failed in a way that passes; waiting before the next attempt.
    Pausing,
    /// The thread of this queue is being started.
    Spawning(QueueId),
    /// All threads run; waiting for their reports, and for the supervisor.
    Running,
    /// What is behind the device is being reached as far as the device will.
    Fitting {
        /// In 512-byte sectors.
        sectors: u64,
    },
    /// About to quit, and waiting until every queue has all its tags armed, or has ended. The kernel may hold up a FETCH until a request of another queue
    /// is answered, and a process with a thread in a FETCH cannot exit (H69); and 6.18 never releases a device of which only a part was fetched (H70).
    Settling,
    /// Telling the queues to quit, and waiting for them to end.
    Quitting,
    /// The process has exited.
    Ended,
}

/// The machine of the worker's main thread.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Worker {
    device: DeviceGeometry,
    /// How the queues' rings run task work.
    mode: RingMode,
    phase: Phase,
    pump: Pump,
    /// Attempts to open so far.
    attempts: u16,
    /// Threads started.
    spawned: u16,
    /// Queues that reported being ready. When all are, they are told to fetch.
    ready: u16,
    /// Queues that reported being primed.
    primed: u16,
    /// Which queues have reported being primed, or their end.
    settled: Box<[bool]>,
    /// Queues that reported their end.
    ended: u16,
    /// The supervisor said that the device is LIVE.
    live: bool,
    /// The supervisor is about to hold requests back.
    handover: bool,
    /// The size that the device is to have.
    resize: Option<u64>,
    /// Queues that have still to say that they know it.
    unaware: u16,
    /// Quitting has a deadline.
    hurries: bool,
    /// The current timer's generation.
    generation: u32,
    first: Option<Cause>,
}

impl Worker {
    /// A worker for a device, whose queues' rings run task work as `mode` says.
    ///
    /// # Panics
    /// If the device has no queue.
    pub fn new(device: DeviceGeometry, mode: RingMode) -> Self {
        assert!(device.queues > 0, "a device has at least one queue");
        Self {
            device,
            mode,
            phase: Phase::Boot,
            pump: Pump::new(PUSHES_PER_COMPLETION_MAX),
            attempts: 0,
            spawned: 0,
            ready: 0,
            primed: 0,
            settled: vec![false; usize::from(device.queues)].into_boxed_slice(),
            ended: 0,
            live: false,
            handover: false,
            resize: None,
            unaware: 0,
            hurries: false,
            generation: 0,
            first: None,
        }
    }

    /// Where it is in its life.
    pub const fn phase(&self) -> Phase {
        self.phase
    }

    /// Whether the supervisor said that the device is LIVE.
    pub const fn is_live(&self) -> bool {
        self.live
    }

    /// Goes on after the last call returned `ret`. O(1) per completion, and O(queues) where it tells all of them something or waits for all to settle.
    pub fn resume(&mut self, ret: Ret, io: &mut impl WorkerIo) -> Call {
        match self.phase {
            Phase::Boot => {
                self.phase = Phase::SettingUp;
                Call::SetupRing(RingSpec { entries: RING_ENTRIES, mode: RingMode::Default })
            }
            Phase::SettingUp => match ret {
                Ret::Failed(errno) => {
                    // Without a ring there is nothing to wait on; and nothing was set up yet.
                    self.first = Some(Cause::errno(Step::WorkerRing, errno));
                    self.exit(io)
                }
                Ret::Done => {
                    push(io, Sqe::Watch { link: Link::Supervisor });
                    push(io, Sqe::Watch { link: Link::Queues });
                    self.open()
                }
                Ret::Start
                | Ret::Submitted(_)
                | Ret::Spawned(_)
                | Ret::Exited(_)
                | Ret::Running => mismatch("a ring's setup", ret),
            },
            Phase::Opening => self.opened(ret, io),
            Phase::Spawning(queue) => self.spawned(queue, ret, io),
            Phase::Fitting { sectors } => self.fitted(sectors, ret, io),
            Phase::Pausing | Phase::Running | Phase::Settling | Phase::Quitting => {
                self.turn(ret, io)
            }
            Phase::Ended => unreachable!("I1: a process that exited was resumed"),
        }
    }

    fn open(&mut self) -> Call {
        self.phase = Phase::Opening;
        self.attempts += 1;
        Call::OpenChar
    }

    fn opened(&mut self, ret: Ret, io: &mut impl WorkerIo) -> Call {
        match ret {
            Ret::Failed(errno) => {
                // The node appears late, or with its final owner later; a previous server's release may still be under way.
                let passes =
                    matches!(errno, Errno::ENOENT | Errno::EACCES | Errno::EBUSY | Errno::EINTR);
                if passes && self.attempts < OPEN_ATTEMPTS_MAX {
                    self.phase = Phase::Pausing;
                    self.arm(OPEN_RETRY_MS, io);
                    return self.turn(Ret::Done, io);
                }
                self.quit(Some(Cause::errno(Step::OpenChar, errno)), io);
                self.turn(Ret::Done, io)
            }
            Ret::Done => self.spawn(QueueId(0)),
            Ret::Start | Ret::Submitted(_) | Ret::Spawned(_) | Ret::Exited(_) | Ret::Running => {
                mismatch("an open", ret)
            }
        }
    }

    fn spawn(&mut self, queue: QueueId) -> Call {
        self.phase = Phase::Spawning(queue);
        let DeviceGeometry { depth, buffer_bytes, sectors, data, batch, shared_bytes, .. } =
            self.device;
        let entries = QueueConfig::ring_entries(depth);
        let buffers = if batch { depth } else { 0 };
        let mode = self.mode;
        let config = QueueConfig {
            id: queue,
            depth,
            buffer_bytes,
            sectors,
            entries,
            mode,
            data,
            buffers,
            shared_bytes,
        };
        Call::SpawnQueue { config }
    }

    fn spawned(&mut self, queue: QueueId, ret: Ret, io: &mut impl WorkerIo) -> Call {
        match ret {
            Ret::Failed(errno) => {
                self.quit(Some(Cause::errno(Step::SpawnQueue(queue), errno)), io);
                self.turn(Ret::Done, io)
            }
            Ret::Done => {
                self.spawned += 1;
                if self.spawned < self.device.queues {
                    return self.spawn(QueueId(self.spawned));
                }
                self.phase = Phase::Running;
                self.turn(Ret::Done, io)
            }
            Ret::Start | Ret::Submitted(_) | Ret::Spawned(_) | Ret::Exited(_) | Ret::Running => {
                mismatch("a thread's start", ret)
            }
        }
    }

    /// The device is to have another size: what is behind it can be reached, or not.
    fn fitted(&mut self, sectors: u64, ret: Ret, io: &mut impl WorkerIo) -> Call {
        self.phase = Phase::Running;
        match ret {
            Ret::Failed(errno) => {
                let cause = Cause::errno(Step::FitStore, errno);
                io.tell_supervisor(FromWorker::NotResized(cause));
            }
            Ret::Done => {
                self.device.sectors = sectors;
                self.unaware = self.device.queues;
                self.tell_queues(ToQueue::Resize { sectors }, io);
            }
            Ret::Start | Ret::Submitted(_) | Ret::Spawned(_) | Ret::Exited(_) | Ret::Running => {
                mismatch("the fitting of a store", ret)
            }
        }
        self.turn(Ret::Done, io)
    }

    /// One turn of the pump.
    fn turn(&mut self, ret: Ret, io: &mut impl WorkerIo) -> Call {
        if let Err(errno) = self.pump.turn(ret) {
            self.first.get_or_insert(Cause::errno(Step::Enter, errno));
            return self.exit(io);
        }
        let mut retry = false;
        while let Some(Cqe { token, res: _ }) = self.pump.next(io) {
            match token {
                Token::Link(Link::Supervisor) => self.hear_supervisor(io),
                Token::Link(Link::Queues) => self.hear_queues(io),
                Token::Timer(generation) if generation == self.generation => match self.phase {
                    Phase::Pausing => retry = true,
                    Phase::Quitting => {
                        self.first.get_or_insert(Cause::new(Step::QueuesEnd, Problem::Deadline));
                        return self.exit(io);
                    }
                    Phase::Boot
                    | Phase::SettingUp
                    | Phase::Opening
                    | Phase::Spawning(_)
                    | Phase::Running
                    | Phase::Settling
                    | Phase::Fitting { .. }
                    | Phase::Ended => {}
                },
                // The expiry of a wait that is over.
                Token::Timer(_) => {}
                Token::Link(Link::Worker | Link::Operator)
                | Token::Io(_)
                | Token::Backend(_)
                | Token::Slot(_)
                | Token::Prep
                | Token::Commits
                | Token::Tags
                | Token::Worker
                | Token::Supervisor
                | Token::Control(_)
                | Token::Cancel => unreachable!("I1: a completion of something never submitted"),
            }
        }
        if self.phase == Phase::Settling && self.unsettled() == 0 {
            self.tell_to_quit(io);
        }
        if self.ended == self.spawned
            && (self.phase == Phase::Quitting || self.phase == Phase::Running)
        {
            return self.exit(io);
        }
        if retry && self.phase == Phase::Pausing {
            return self.open();
        }
        if let (Some(sectors), Phase::Running) = (self.resize, self.phase) {
            self.resize = None;
            self.phase = Phase::Fitting { sectors };
            return Call::FitStore { sectors };
        }
        self.pump.park(io, false)
    }

    fn hear_supervisor(&mut self, io: &mut impl WorkerIo) {
        loop {
            match io.hear_supervisor() {
                Received::Message(ToWorker::Live) => self.live = true,
                Received::Message(ToWorker::Quit) => self.quit(None, io),
                // Once requests are held back, a worker without a supervisor would keep them waiting for ever: then its end lets somebody
                // else recover the device.
                Received::Message(ToWorker::Handover) => self.handover = true,
                Received::Message(ToWorker::Finish) => self.finish(io),
                Received::Message(ToWorker::Resize { sectors }) => self.resize = Some(sectors),
                Received::Empty => {
                    push(io, Sqe::Watch { link: Link::Supervisor });
                    return;
                }
                Received::Closed => {
                    // A device that nobody will ever start must not be served; a LIVE one must be.
                    if self.handover {
                        self.finish(io);
                    } else if !self.live {
                        self.quit(Some(Cause::new(Step::StartDev, Problem::LinkClosed)), io);
                    }
                    return;
                }
            }
        }
    }

    fn hear_queues(&mut self, io: &mut impl WorkerIo) {
        loop {
            match io.hear_queues() {
                Received::Message(FromQueue::Ready(_)) => {
                    self.ready += 1;
                    if self.primes() && self.phase == Phase::Running {
                        self.tell_queues(ToQueue::Prime, io);
                    }
                }
                Received::Message(FromQueue::Primed(queue)) => {
                    self.settles(queue);
                    self.primed += 1;
                    if self.primed == self.device.queues && self.phase == Phase::Running {
                        io.tell_supervisor(FromWorker::Primed);
                    }
                }
                Received::Message(FromQueue::Failed(queue, cause)) => {
                    self.settles(queue);
                    self.ended += 1;
                    self.quit(Some(cause), io);
                }
                Received::Message(FromQueue::Ended(queue)) => {
                    self.settles(queue);
                    self.ended += 1;
                    // By itself: its tags were aborted. A queue that held all of its own then is never told (H09).
                    self.finish(io);
                }
                Received::Message(FromQueue::Resized(_)) => {
                    self.unaware -= 1;
                    if self.unaware == 0 {
                        let sectors = self.device.sectors;
                        io.tell_supervisor(FromWorker::Resized { sectors });
                    }
                }
                Received::Empty => {
                    push(io, Sqe::Watch { link: Link::Queues });
                    return;
                }
                Received::Closed => {
                    unreachable!("I9: the worker outlives its queues' threads")
                }
            }
        }
    }

    /// As [`Worker::finish`], and once all queues are told to quit they have a time for it. The first cause is kept.
    fn quit(&mut self, cause: Option<Cause>, io: &mut impl WorkerIo) {
        if self.hurries {
            return;
        }
        self.hurries = true;
        self.first = self.first.or(cause);
        if self.phase == Phase::Quitting {
            self.arm(QUIT_MS, io);
        } else {
            self.finish(io);
        }
    }

    /// Has every queue finish what it holds and exit.
    fn finish(&mut self, io: &mut impl WorkerIo) {
        if self.phase == Phase::Settling || self.phase == Phase::Quitting {
            return;
        }
        if self.primes() && self.unsettled() > 0 {
            self.phase = Phase::Settling;
        } else {
            self.tell_to_quit(io);
        }
    }

    fn tell_to_quit(&mut self, io: &mut impl WorkerIo) {
        self.phase = Phase::Quitting;
        self.tell_queues(ToQueue::Quit, io);
        if self.hurries {
            self.arm(QUIT_MS, io);
        }
    }

    /// Whether the queues were told to fetch.
    const fn primes(&self) -> bool {
        self.ready == self.device.queues
    }

    fn tell_queues(&self, message: ToQueue, io: &mut impl WorkerIo) {
        for queue in 0..self.spawned {
            io.tell_queue(QueueId(queue), message);
        }
    }

    /// A queue has all its tags armed, or has ended.
    fn settles(&mut self, queue: QueueId) {
        self.settled[usize::from(queue.0)] = true;
    }

    /// How many queues have not said either. O(queues).
    fn unsettled(&self) -> u16 {
        self.settled.iter().map(|settled| u16::from(!settled)).sum()
    }

    fn arm(&mut self, ms: u32, io: &mut impl WorkerIo) {
        self.generation += 1;
        push(io, Sqe::Timer { generation: self.generation, ms });
    }

    /// Reports, and exits: the process with all its threads, rings and files.
    fn exit(&mut self, io: &mut impl WorkerIo) -> Call {
        self.phase = Phase::Ended;
        if let Some(cause) = self.first {
            io.tell_supervisor(FromWorker::Failed(cause));
            Call::Exit(Exit::Failed(cause))
        } else {
            io.tell_supervisor(FromWorker::Ended);
            Call::Exit(Exit::Finished)
        }
    }

    /// What it waits for, and who owes it.
    pub fn pending(&self, sink: &mut impl PendingSink) {
        let mut add = |awaits, owner, otherwise| sink.pending(Pending { awaits, owner, otherwise });
        match self.phase {
            Phase::Boot
            | Phase::SettingUp
            | Phase::Opening
            | Phase::Spawning(_)
            | Phase::Fitting { .. } => {
                add(Awaits::CallReturn, Owner::Kernel, Otherwise::PeerUnwinds);
            }
            Phase::Pausing => add(Awaits::Retry, Owner::Kernel, Otherwise::Unwind),
            Phase::Running if !self.primes() => {
                let missing = Awaits::QueuesReady(self.device.queues - self.ready);
                add(missing, Owner::Engine, Otherwise::PeerUnwinds);
            }
            Phase::Running if self.primed < self.device.queues => {
                let missing = self.device.queues - self.primed;
                add(Awaits::QueuesPrimed(missing), Owner::Engine, Otherwise::PeerUnwinds);
            }
            Phase::Running if !self.live => {
                add(Awaits::DeviceLive, Owner::Engine, Otherwise::PeerUnwinds);
            }
            Phase::Running if self.unaware > 0 => {
                let unaware = Awaits::QueuesResized(self.unaware);
                add(unaware, Owner::Engine, Otherwise::PeerUnwinds);
            }
            Phase::Running => {
                add(
                    Awaits::QueuesEnded(self.device.queues - self.ended),
                    Owner::Operator,
                    Otherwise::WaitOn,
                );
            }
            Phase::Settling => {
                add(Awaits::QueuesPrimed(self.unsettled()), Owner::Kernel, Otherwise::PeerUnwinds);
            }
            Phase::Quitting => {
                let otherwise =
                    if self.hurries { Otherwise::GiveUp } else { Otherwise::PeerUnwinds };
                add(Awaits::QueuesEnded(self.spawned - self.ended), Owner::Engine, otherwise);
            }
            Phase::Ended => {}
        }
    }
}

fn push(io: &mut impl WorkerIo, sqe: Sqe) {
    io.push(sqe).expect("I3: the worker's ring has room for all it ever has in flight");
}
