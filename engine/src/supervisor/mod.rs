//! The supervisor: every control command of one device, from ADD_DEV to DEL_DEV, its recovery when the worker is gone, and the
//! unwinding from a failure at any step. It never opens the character device (H01).
//!
//! The machine is driven by its goal. Going *up*, each success leads to the next stage. Going *down*, the next
//! stage follows from what exists: a command in flight is awaited or cancelled, a started device is
//! stopped, a living worker is told to quit and then killed, an added device is deleted. So a failure
//! anywhere unwinds through one and the same code. A recovery that fails goes *back*: to a device that waits without a worker.

mod ask;
mod back;
mod change;
mod down;
mod recovery;
mod up;

pub use ask::{ERRAND_LOOKS_MAX, Errand};
pub use back::{LOOK_PAUSE_MAX_MS, LOOK_PAUSE_MS, LOOKS_MAX, RESTARTS_MAX, WATCH_MS};
pub use recovery::Recovery;

use crate::cause::{Cause, Problem, Step};
use crate::control::{Command, Kind};
use crate::data::DataMode;
use crate::link::Link;
use crate::pending::{Awaits, Otherwise, Owner, Pending, PendingSink};
use crate::pump::Pump;
use crate::sys::{
    Call, Cqe, Ret, RingMode, RingSpec, Sqe, SupervisorIo, Token, WorkerExit, mismatch,
};
use crate::target::Target;
use crate::uapi::{DevId, DevInfo, Errno, Features, Params, ShmemBufReg};

/// How often a command that EINTR left without effect is sent again.
pub const INTERRUPTS_MAX: u8 = 32;
/// Entries of the supervisor's ring.
const RING_ENTRIES: u32 = 16;
/// The most entries that handling one completion pushes: a watch renewed, a command, a cancellation and its deadline.
const PUSHES_PER_COMPLETION_MAX: u8 = 4;

/// How long each wait of launcher and supervisor may take, in milliseconds; `None` waits for ever (the simulator certifies both).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Deadlines {
    /// A control command that waits for nobody: GET_FEATURES, ADD_DEV, SET_PARAMS, GET_DEV_INFO.
    pub command_ms: Option<u32>,
    /// From the start of the worker until every queue is primed.
    pub prime_ms: Option<u32>,
    /// What a worker holds when its device is handed over. Then it is killed.
    pub finish_ms: Option<u32>,
    /// START_DEV.
    pub start_ms: Option<u32>,
    /// STOP_DEV, and again after the worker was killed for it.
    pub stop_ms: Option<u32>,
    /// The worker's exit after Quit, and again after SIGKILL; and a supervisor's, when it has nothing left to do.
    pub exit_ms: Option<u32>,
    /// DEL_DEV, which waits for the last reference to the device.
    pub delete_ms: Option<u32>,
    /// Service without an incident, after which restarts are counted anew.
    pub steady_ms: Option<u32>,
    /// The exit of the device's own supervisor after it was asked to stop: its whole way down.
    pub supervisor_ms: Option<u32>,
    /// The launcher: the supervisor's verdict. Longer than all of its deadlines on its way up and down again together.
    pub verdict_ms: Option<u32>,
}

impl Deadlines {
    /// What `blkproof` uses.
    pub const DEFAULT: Self = Self {
        command_ms: Some(10_000),
        prime_ms: Some(15_000),
        finish_ms: Some(20_000),
        start_ms: Some(30_000),
        stop_ms: Some(15_000),
        exit_ms: Some(5_000),
        delete_ms: Some(15_000),
        steady_ms: Some(60_000),
        supervisor_ms: Some(60_000),
        verdict_ms: Some(180_000),
    };
    /// No deadlines at all.
    pub const NONE: Self = Self {
        command_ms: None,
        prime_ms: None,
        finish_ms: None,
        start_ms: None,
        stop_ms: None,
        exit_ms: None,
        delete_ms: None,
        steady_ms: None,
        supervisor_ms: None,
        verdict_ms: None,
    };
}

/// What the supervisor is to do.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Plan {
    /// Bring a device up, and take it down when asked.
    Serve {
        /// The device wanted.
        info: DevInfo,
        /// Its parameters; `max_sectors` is lowered to what the granted buffers hold.
        params: Params,
        /// Whether a device that can be recovered is, at once, when its worker is gone.
        restart: bool,
        /// Memory of this process that clients share with the server.
        shared: Option<ShmemBufReg>,
    },
    /// Bring back a device whose worker and supervisor are gone; then as [`Plan::Serve`]. A failure leaves it as it was.
    Recover {
        /// The device.
        id: DevId,
        /// What its [`Wanted::identity`] was.
        identity: u64,
        /// As in [`Plan::Serve`].
        restart: bool,
        /// Bytes of the memory that was registered for it. The registration lasts as long as the device.
        shared_bytes: u64,
    },
    /// Have something done by a device's own supervisor.
    Ask {
        /// What.
        errand: Errand,
        /// The device.
        id: DevId,
        /// What its [`Wanted::identity`] was.
        identity: u64,
        /// Its supervisor.
        supervisor: u32,
    },
    /// Take down and delete a device that exists, whoever brought it up.
    Delete {
        /// The device.
        id: DevId,
        /// The worker, if a state file names one. A started device names it itself.
        worker: Option<u32>,
        /// The supervisor that brought it up, if a state file names one. It is asked first: two that command one device get into
        /// each other's way.
        supervisor: Option<u32>,
        /// Only if nobody has the block device open.
        if_unused: bool,
    },
}

/// The device that is wanted. The kernel may grant fewer queues and smaller buffers.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Wanted {
    /// Its number; `None` lets the kernel choose.
    pub id: Option<DevId>,
    /// Hardware queues, 1..=4096.
    pub queues: u16,
    /// Tags in each queue, 1..=4096.
    pub depth: u16,
    /// The largest request in bytes, and the size of a tag's buffer.
    pub buffer_bytes: u32,
    /// How data is to move. A kernel without automatic buffers grants copy mode for [`DataMode::ZeroCopy`].
    pub data: DataMode,
    /// Whether commands are to be about many tags at a time. A kernel without batches, or with a single tag, grants a command for each.
    pub batch: bool,
    /// What becomes of it without a worker.
    pub recovery: Recovery,
    /// A number that no other device has. The kernel keeps it, and so a recovery knows the device again.
    pub identity: u64,
    /// Memory of the supervisor's process that clients share with the server. A kernel without `UBLK_F_SHMEM_ZC` makes no use of it.
    pub shared: Option<ShmemBufReg>,
}

impl Plan {
    /// To bring up a device with `target` behind it. With `restart` its worker is replaced when it is gone.
    ///
    /// # Panics
    /// If the target cannot serve in this data mode ([`Target::serves_in`]), or no memory can be shared in it ([`DataMode::shares`]).
    pub fn serve(wanted: Wanted, restart: bool, target: &impl Target) -> Self {
        assert!(target.serves_in(wanted.data), "a target that can serve in the device's mode");
        assert!(
            wanted.shared.is_none() || wanted.data.shares(),
            "a mode in which memory is shared"
        );
        let batch = if wanted.batch { Features::BATCH_IO } else { Features::NONE };
        let shared = wanted.shared.map_or(Features::NONE, |_| Features::SHMEM_ZC);
        let flags = wanted.data.features().union(wanted.recovery.features());
        let info = DevInfo {
            flags: flags.union(batch).union(shared),
            ublksrv_flags: wanted.identity,
            nr_hw_queues: wanted.queues,
            queue_depth: wanted.depth,
            max_io_buf_bytes: wanted.buffer_bytes,
            dev_id: wanted.id.unwrap_or(DevId::AUTO),
            ..DevInfo::default()
        };
        let params = target.geometry().params(wanted.buffer_bytes);
        Self::Serve { info, params, restart, shared: wanted.shared }
    }

    /// Bytes of the memory that clients share with the server, where the kernel has that.
    fn shared_bytes(&self) -> u64 {
        match self {
            Self::Serve { shared, .. } => shared.map_or(0, |memory| memory.len),
            Self::Recover { shared_bytes, .. } => *shared_bytes,
            Self::Ask { .. } | Self::Delete { .. } => 0,
        }
    }

    /// Whether a worker that is gone is replaced without being asked.
    const fn restarts(&self) -> bool {
        match self {
            Self::Serve { restart, .. } | Self::Recover { restart, .. } => *restart,
            Self::Ask { .. } | Self::Delete { .. } => false,
        }
    }
}

/// What the supervisor is at.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum Stage {
    /// Not resumed yet.
    Boot,
    /// The control ring is being created.
    SettingUp,
    /// A control command is in flight.
    Commanding(Kind),
    /// The worker process is being started.
    Spawning,
    /// A running worker process is being got hold of.
    Attaching,
    /// Waiting for the worker to have every queue primed.
    Priming,
    /// The device is LIVE and served.
    Live,
    /// What is behind a LIVE device is being given another size.
    Fitting,
    /// Waiting for the worker of a LIVE device to know its new size.
    Resizing,
    /// The device has no worker, and waits for somebody to ask for one.
    Unserved,
    /// Waiting before the next look at a device without a worker.
    Pausing,
    /// A device that is to be recovered names a worker that runs; waiting whether it exits.
    Watching,
    /// The device's own supervisor is being asked to recover it.
    AskingSupervisor,
    /// Waiting for the worker to exit.
    AwaitingExit,
    /// The worker is being killed.
    Killing,
    /// The worker's exit status is being collected.
    Reaping,
    /// The device's own supervisor is being got hold of.
    AttachingSupervisor,
    /// It is being asked to stop.
    StoppingSupervisor,
    /// Waiting for it to exit.
    AwaitingSupervisor,
    /// The supervisor has exited.
    Ended,
}

/// What is known of the worker process.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
enum WorkerState {
    /// There is none.
    None,
    /// It runs.
    Alive,
    /// It runs, and has another supervisor, or none: it cannot be told anything, and ends when its device goes.
    Adopted,
    /// It was told to quit.
    Told,
    /// It was sent SIGKILL.
    Killed,
    /// It is gone.
    Gone,
}

/// What is known of the device's own supervisor, to one that deletes the device.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
enum Resident {
    /// There is none, or not any more.
    None,
    /// It was asked to stop, and runs.
    Asked,
    /// It was asked to stop, and did.
    Stopped,
}

/// Where the supervisor is going.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
enum Way {
    /// To a device that is LIVE, and staying there.
    Up,
    /// To a device without a worker: a recovery failed.
    Back,
    /// To no device.
    Down,
}

/// Why the device is being looked at.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
enum Inquiry {
    /// A command that was to make it LIVE may have done so.
    Doubt,
    /// It is to be deleted.
    Deletion,
    /// It has no worker, and needs one.
    Recovery,
    /// Its own supervisor is to do something.
    Asking,
    /// It is to be deleted, if nobody uses it.
    Unused,
}

/// A control command in flight.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
struct InFlight {
    op: Kind,
    sequence: u32,
    cancelled: bool,
}

/// The machine of the supervisor.
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is one independent fact about the device or the wait"
)]
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Supervisor {
    plan: Plan,
    deadlines: Deadlines,
    stage: Stage,
    /// Where to go on after a call that interrupts a stage (kill, reap).
    resume_at: Stage,
    pump: Pump,
    /// Where the control command in flight stands; at most one.
    flight: Option<InFlight>,
    sequence: u32,
    interrupts: u8,
    /// START_DEV or END_USER_RECOVERY was interrupted or cancelled once, so that EEXIST or EBUSY may be our own success.
    start_in_doubt: bool,
    generation: u32,
    way: Way,
    inquiry: Inquiry,
    first: Option<Cause>,
    /// The device, once added.
    device: Option<DevInfo>,
    /// START_DEV was sent, or the device was found started.
    started: bool,
    /// It is LIVE with a worker of ours, as far as is known, and to stay so.
    live: bool,
    /// Its size in 512-byte sectors, once known.
    sectors: u64,
    /// log2 of its logical block in bytes, once known.
    block_shift: u8,
    /// Another worker was asked for, and is not on its way yet.
    handover_asked: bool,
    /// The worker is being replaced because somebody asked for that.
    handing: bool,
    /// Another size was asked for, and is not on its way yet.
    size_asked: Option<u64>,
    /// The size that the device is being given.
    resizing: Option<u64>,
    /// The worker said that it knows that size.
    size_known: bool,
    /// The worker was told a size, and has not answered.
    size_told: bool,
    /// The device is started and has no server, or none yet.
    recovering: bool,
    /// Somebody, or `restart`, wants it to have one.
    wanted: bool,
    /// Recoveries that were begun by `restart` in quick succession.
    restarts: u8,
    /// Looks at a device in the course of one recovery.
    attempts: u8,
    /// The worker that is known to be gone, to one that asks for a recovery.
    gone: Option<u32>,
    /// A watch on the link from the worker is armed, or its completion is on its way.
    hearing: bool,
    worker: WorkerState,
    worker_pid: Option<u32>,
    worker_exit: Option<WorkerExit>,
    resident: Resident,
    /// The device was looked at (a deletion), this often.
    looks: u8,
    /// The worker said that every queue is primed.
    primed: bool,
    /// The worker said `Ended`.
    worker_ended: bool,
    /// The deadline of the current stage passed once already.
    overdue: bool,
    /// The launcher was told that the device is up.
    announced: bool,
}

/// What a stage leads to: another call, or another look at the goal.
enum Next {
    Call(Call),
    Park,
}

impl Supervisor {
    /// A supervisor that has not started.
    pub fn new(plan: Plan, deadlines: Deadlines) -> Self {
        let (way, inquiry) = match &plan {
            Plan::Serve { .. } => (Way::Up, Inquiry::Doubt),
            Plan::Recover { .. } => (Way::Up, Inquiry::Recovery),
            Plan::Ask { .. } => (Way::Up, Inquiry::Asking),
            Plan::Delete { .. } => (Way::Down, Inquiry::Deletion),
        };
        Self {
            plan,
            deadlines,
            stage: Stage::Boot,
            resume_at: Stage::Boot,
            pump: Pump::new(PUSHES_PER_COMPLETION_MAX),
            flight: None,
            sequence: 0,
            interrupts: 0,
            start_in_doubt: false,
            generation: 0,
            way,
            inquiry,
            first: None,
            device: None,
            started: false,
            live: false,
            sectors: 0,
            block_shift: 0,
            handover_asked: false,
            handing: false,
            size_asked: None,
            resizing: None,
            size_known: false,
            size_told: false,
            recovering: false,
            wanted: false,
            restarts: 0,
            attempts: 0,
            gone: None,
            hearing: false,
            worker: WorkerState::None,
            worker_pid: None,
            worker_exit: None,
            resident: Resident::None,
            looks: 0,
            primed: false,
            worker_ended: false,
            overdue: false,
            announced: false,
        }
    }

    /// What it is at.
    pub const fn stage(&self) -> Stage {
        self.stage
    }

    /// Recoveries that `restart` began in quick succession, 0..=[`RESTARTS_MAX`].
    pub const fn restarts(&self) -> u8 {
        self.restarts
    }

    /// The device as the kernel granted it.
    pub const fn device(&self) -> Option<&DevInfo> {
        self.device.as_ref()
    }

    /// The worker's process id.
    pub const fn worker_pid(&self) -> Option<u32> {
        self.worker_pid
    }

    /// The worker's exit status, once collected.
    pub const fn worker_exit(&self) -> Option<WorkerExit> {
        self.worker_exit
    }

    /// Goes on after the last call returned `ret`. O(1) per completion.
    pub fn resume(&mut self, ret: Ret, io: &mut impl SupervisorIo) -> Call {
        let next = match self.stage {
            Stage::Boot => {
                self.stage = Stage::SettingUp;
                Next::Call(Call::SetupRing(RingSpec {
                    entries: RING_ENTRIES,
                    mode: RingMode::Control,
                }))
            }
            Stage::SettingUp => match ret {
                Ret::Failed(errno) => {
                    // Without a ring there is nothing to wait on; and nothing was set up yet.
                    self.fail(Cause::errno(Step::ControlRing, errno));
                    self.end(io)
                }
                Ret::Start
                | Ret::Submitted(_)
                | Ret::Spawned(_)
                | Ret::Exited(_)
                | Ret::Running => mismatch("a ring's setup", ret),
                Ret::Done => {
                    push(io, Sqe::Watch { link: Link::Operator });
                    match self.plan {
                        Plan::Serve { .. } => self.command(&Command::GetFeatures, io),
                        Plan::Recover { .. } => self.begin(io),
                        Plan::Ask { supervisor, .. } => self.attach_supervisor(supervisor),
                        Plan::Delete { if_unused: true, .. } => self.inquire(Inquiry::Unused, io),
                        Plan::Delete { id, supervisor, .. } => self.delete(id, supervisor, io),
                    }
                }
            },
            Stage::Spawning => match ret {
                Ret::Spawned(pid) => {
                    self.worker = WorkerState::Alive;
                    self.worker_pid = Some(pid);
                    if !self.hearing {
                        self.hearing = true;
                        push(io, Sqe::Watch { link: Link::Worker });
                    }
                    push(io, Sqe::WatchWorker);
                    self.enter_stage(Stage::Priming, self.deadlines.prime_ms, io);
                    Next::Park
                }
                Ret::Failed(errno) => {
                    self.fail(Cause::errno(Step::SpawnWorker, errno));
                    self.descend(io)
                }
                Ret::Start | Ret::Done | Ret::Submitted(_) | Ret::Exited(_) | Ret::Running => {
                    mismatch("a process's start", ret)
                }
            },
            Stage::Attaching => match ret {
                Ret::Done => {
                    self.worker = WorkerState::Adopted;
                    push(io, Sqe::WatchWorker);
                    if self.inquiry == Inquiry::Deletion {
                        self.descend(io)
                    } else {
                        self.watch(io)
                    }
                }
                Ret::Failed(Errno::ESRCH) => {
                    self.worker = WorkerState::Gone;
                    if self.inquiry == Inquiry::Deletion {
                        self.descend(io)
                    } else {
                        self.unserved_after_all(io)
                    }
                }
                Ret::Failed(errno) => {
                    self.fail(Cause::errno(Step::AttachWorker, errno));
                    self.descend(io)
                }
                Ret::Start
                | Ret::Submitted(_)
                | Ret::Spawned(_)
                | Ret::Exited(_)
                | Ret::Running => mismatch("a search for a process", ret),
            },
            Stage::Killing => {
                match ret {
                    // ESRCH: it was faster. Its exit is still reported by the watch.
                    Ret::Done | Ret::Failed(Errno::ESRCH) => self.worker = WorkerState::Killed,
                    Ret::Failed(errno) => {
                        self.first.get_or_insert(Cause::errno(Step::KillWorker, errno));
                    }
                    Ret::Start
                    | Ret::Submitted(_)
                    | Ret::Spawned(_)
                    | Ret::Exited(_)
                    | Ret::Running => mismatch("a kill", ret),
                }
                self.stage = self.resume_at;
                Next::Park
            }
            Stage::Reaping => match ret {
                Ret::Exited(exit) => {
                    self.worker_exit = Some(exit);
                    self.worker = WorkerState::Gone;
                    self.stage = self.resume_at;
                    self.worker_gone(exit, io)
                }
                Ret::Running => {
                    push(io, Sqe::WatchWorker);
                    self.stage = self.resume_at;
                    Next::Park
                }
                Ret::Start | Ret::Done | Ret::Submitted(_) | Ret::Spawned(_) | Ret::Failed(_) => {
                    mismatch("a reaping", ret)
                }
            },
            Stage::AttachingSupervisor => match ret {
                Ret::Done => {
                    push(io, Sqe::WatchSupervisor);
                    self.resident = Resident::Asked;
                    if self.inquiry == Inquiry::Asking {
                        self.inquire(Inquiry::Asking, io)
                    } else {
                        self.stage = Stage::StoppingSupervisor;
                        Next::Call(Call::StopSupervisor)
                    }
                }
                Ret::Failed(errno) if self.inquiry == Inquiry::Asking => {
                    self.break_off_errno(Step::AttachSupervisor, errno, io)
                }
                // Without it, then.
                Ret::Failed(_) => self.go_on(io),
                Ret::Start
                | Ret::Submitted(_)
                | Ret::Spawned(_)
                | Ret::Exited(_)
                | Ret::Running => mismatch("a search for a process", ret),
            },
            Stage::StoppingSupervisor => match ret {
                // A failure: it is about to exit by itself, or its deadline passes.
                Ret::Done | Ret::Failed(_) => {
                    let deadline = self.deadlines.supervisor_ms;
                    self.enter_stage(Stage::AwaitingSupervisor, deadline, io);
                    Next::Park
                }
                Ret::Start
                | Ret::Submitted(_)
                | Ret::Spawned(_)
                | Ret::Exited(_)
                | Ret::Running => mismatch("a stop", ret),
            },
            Stage::AskingSupervisor => match ret {
                // A failure: it is about to exit, which is heard.
                Ret::Done | Ret::Failed(_) => {
                    self.pause(io);
                    Next::Park
                }
                Ret::Start
                | Ret::Submitted(_)
                | Ret::Spawned(_)
                | Ret::Exited(_)
                | Ret::Running => mismatch("a request", ret),
            },
            Stage::Fitting => self.fitted(ret, io),
            Stage::Commanding(_)
            | Stage::Priming
            | Stage::Live
            | Stage::Resizing
            | Stage::Unserved
            | Stage::Pausing
            | Stage::Watching
            | Stage::AwaitingExit
            | Stage::AwaitingSupervisor => {
                if let Err(errno) = self.pump.turn(ret) {
                    return self.stuck_in_enter(errno, io);
                }
                Next::Park
            }
            Stage::Ended => unreachable!("I1: a supervisor that exited was resumed"),
        };
        match next {
            Next::Call(call) => call,
            Next::Park => self.work(io),
        }
    }

    /// Handles what has arrived, until a call is due.
    fn work(&mut self, io: &mut impl SupervisorIo) -> Call {
        while let Some(cqe) = self.pump.next(io) {
            if let Next::Call(call) = self.complete(cqe, io) {
                return call;
            }
        }
        // Only now: among the completions may have been the worker's exit, and older kernels would start the device over dead commands (H07).
        if self.primed && self.stage == Stage::Priming && self.worker == WorkerState::Alive {
            self.start(io);
        }
        // Likewise: what is asked of a LIVE device is begun only with a worker that is not known to be gone (H08).
        if let Next::Call(call) = self.take_up(io) {
            return call;
        }
        self.pump.park(io, false)
    }

    fn complete(&mut self, cqe: Cqe, io: &mut impl SupervisorIo) -> Next {
        match cqe.token {
            Token::Control(sequence) => match self.flight {
                Some(flight) if flight.sequence == sequence => {
                    self.flight = None;
                    self.answered(flight, cqe.res, io)
                }
                Some(_) | None => unreachable!("I10: one control command at a time"),
            },
            Token::Cancel => Next::Park,
            Token::Timer(generation) if generation == self.generation => self.expired(io),
            // The expiry of a wait that is over.
            Token::Timer(_) => Next::Park,
            Token::Worker => {
                // What it said last is the better cause.
                if let Next::Call(call) = self.hear_worker(false, io) {
                    return Next::Call(call);
                }
                self.resume_at = self.stage;
                self.stage = Stage::Reaping;
                Next::Call(Call::ReapWorker)
            }
            Token::Supervisor => {
                self.resident = Resident::Stopped;
                if self.inquiry == Inquiry::Asking && self.way == Way::Up {
                    return self.break_off(self.errand_step(), Problem::LinkClosed, io);
                }
                if self.stage == Stage::AwaitingSupervisor { self.go_on(io) } else { Next::Park }
            }
            Token::Link(Link::Worker) => self.hear_worker(true, io),
            Token::Link(Link::Operator) => self.hear_operator(io),
            Token::Link(Link::Supervisor | Link::Queues)
            | Token::Io(_)
            | Token::Backend(_)
            | Token::Slot(_)
            | Token::Prep
            | Token::Commits
            | Token::Tags => {
                unreachable!("I1: a completion of something never submitted")
            }
        }
    }

    fn command(&mut self, command: &Command, io: &mut impl SupervisorIo) -> Next {
        let op = command.kind();
        self.sequence += 1;
        assert!(self.flight.is_none(), "I10: one control command at a time");
        self.flight = Some(InFlight { op, sequence: self.sequence, cancelled: false });
        io.push_control(self.sequence, command).expect("I3: the supervisor's ring has room");
        let deadline = match op {
            // START_USER_RECOVERY may have to wait for the kernel's own work.
            // So may these, as they need the device's mutex. REG_BUF faults all of the memory in.
            Kind::StartDev
            | Kind::RegBuf
            | Kind::StartRecovery
            | Kind::EndRecovery
            | Kind::QuiesceDev
            | Kind::UpdateSize
            | Kind::GetParams => self.deadlines.start_ms,
            Kind::StopDev | Kind::TryStopDev => self.deadlines.stop_ms,
            Kind::DelDev => self.deadlines.delete_ms,
            Kind::GetFeatures | Kind::AddDev | Kind::SetParams | Kind::GetDevInfo => {
                self.deadlines.command_ms
            }
        };
        self.enter_stage(Stage::Commanding(op), deadline, io);
        Next::Park
    }

    fn enter_stage(&mut self, stage: Stage, deadline_ms: Option<u32>, io: &mut impl SupervisorIo) {
        self.stage = stage;
        self.overdue = false;
        self.arm(deadline_ms, io);
    }

    /// Starts a new deadline; the previous one, if it still runs, will expire unheard.
    fn arm(&mut self, deadline_ms: Option<u32>, io: &mut impl SupervisorIo) {
        self.generation += 1;
        if let Some(ms) = deadline_ms {
            push(io, Sqe::Timer { generation: self.generation, ms });
        }
    }

    /// The current stage, as a step for a cause.
    const fn step(&self) -> Step {
        let stage = match self.stage {
            Stage::Killing | Stage::Reaping => self.resume_at,
            other => other,
        };
        match stage {
            Stage::Boot | Stage::SettingUp => Step::ControlRing,
            Stage::Commanding(op) => op.step(),
            Stage::Spawning => Step::SpawnWorker,
            Stage::Attaching => Step::AttachWorker,
            Stage::Priming => Step::Prime,
            Stage::Live => Step::Worker,
            Stage::Fitting => Step::FitStore,
            Stage::Resizing => Step::Resize,
            Stage::Unserved | Stage::Pausing | Stage::Watching | Stage::AskingSupervisor => {
                Step::Recover
            }
            Stage::AwaitingExit | Stage::Killing | Stage::Reaping => Step::WorkerExit,
            Stage::AttachingSupervisor | Stage::StoppingSupervisor | Stage::AwaitingSupervisor => {
                Step::SupervisorExit
            }
            Stage::Ended => Step::Enter,
        }
    }

    /// What it waits for, and who owes it.
    pub fn pending(&self, sink: &mut impl PendingSink) {
        let mut add = |awaits, owner, otherwise| sink.pending(Pending { awaits, owner, otherwise });
        match self.stage {
            Stage::Boot
            | Stage::SettingUp
            | Stage::Spawning
            | Stage::Attaching
            | Stage::Fitting
            | Stage::Killing
            | Stage::Reaping
            | Stage::AttachingSupervisor
            | Stage::AskingSupervisor
            | Stage::StoppingSupervisor => {
                add(Awaits::CallReturn, Owner::Kernel, Otherwise::Trusted);
            }
            Stage::Commanding(op) => {
                let otherwise = match op {
                    Kind::StartDev | Kind::EndRecovery if self.way == Way::Up => Otherwise::Unwind,
                    Kind::StopDev | Kind::DelDev if self.worker_lives() && !self.overdue => {
                        Otherwise::KillWorker
                    }
                    Kind::GetFeatures
                    | Kind::AddDev
                    | Kind::SetParams
                    | Kind::RegBuf
                    | Kind::StartDev
                    | Kind::StopDev
                    | Kind::DelDev
                    | Kind::GetDevInfo
                    | Kind::StartRecovery
                    | Kind::EndRecovery
                    | Kind::GetParams
                    | Kind::QuiesceDev
                    | Kind::UpdateSize
                    | Kind::TryStopDev => Otherwise::GiveUp,
                };
                add(Awaits::Control(op.uapi().name()), Owner::Kernel, otherwise);
            }
            Stage::Priming => add(Awaits::WorkerPrimed, Owner::Engine, Otherwise::Unwind),
            Stage::Live => add(Awaits::StopRequest, Owner::Operator, Otherwise::WaitOn),
            Stage::Resizing => add(Awaits::WorkerResized, Owner::Engine, Otherwise::GiveUp),
            Stage::Unserved => add(Awaits::RecoveryRequest, Owner::Operator, Otherwise::WaitOn),
            Stage::Pausing if self.inquiry == Inquiry::Asking => {
                let what = if self.errand_step() == Step::Recover {
                    Awaits::Recovery
                } else {
                    Awaits::Errand
                };
                add(what, Owner::Engine, Otherwise::GiveUp);
            }
            Stage::Pausing => add(Awaits::Release, Owner::Kernel, Otherwise::Unwind),
            Stage::Watching => add(Awaits::WorkerExit, Owner::Kernel, Otherwise::GiveUp),
            Stage::AwaitingExit => {
                let (owner, otherwise) = match self.worker {
                    WorkerState::Alive | WorkerState::Adopted | WorkerState::Told
                        if !self.overdue =>
                    {
                        (Owner::Engine, Otherwise::KillWorker)
                    }
                    WorkerState::None
                    | WorkerState::Alive
                    | WorkerState::Adopted
                    | WorkerState::Told
                    | WorkerState::Killed
                    | WorkerState::Gone => (Owner::Kernel, Otherwise::GiveUp),
                };
                add(Awaits::WorkerExit, owner, otherwise);
            }
            Stage::AwaitingSupervisor => {
                add(Awaits::SupervisorExit, Owner::Engine, Otherwise::GiveUp);
            }
            Stage::Ended => {}
        }
    }
}

fn push(io: &mut impl SupervisorIo, sqe: Sqe) {
    io.push(sqe).expect("I3: the supervisor's ring has room for all it ever has in flight");
}
