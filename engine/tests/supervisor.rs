//! The supervisor's unwinding: a failure at every step, one after another, leaves nothing behind.

use std::collections::VecDeque;

use blkproof_engine::cause::{Cause, Problem, Step};
use blkproof_engine::control::{Command, Kind, Reply};
use blkproof_engine::data::DataMode;
use blkproof_engine::link::{FromWorker, Link, News, Order, Received, ToWorker, Verdict};
use blkproof_engine::pump::REFUSALS_MAX;
use blkproof_engine::supervisor::{Deadlines, Plan, Recovery, Stage, Supervisor};
use blkproof_engine::sys::{
    Call, ControlIo, Cqe, Exit, Ret, Ring, SqFull, Sqe, SupervisorIo, Token, WorkerExit,
};
use blkproof_engine::uapi::{
    BasicParams, DevId, DevInfo, DeviceState, Errno, Features, Params, ShmemBufReg,
};

const PID: u32 = 4711;
const ID: DevId = DevId(3);
/// What clients share with the server.
const MEMORY: ShmemBufReg = ShmemBufReg { addr: 1 << 20, len: 1 << 16, read_only: false };

/// What goes wrong, and when.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Plant {
    Nothing,
    /// This call fails.
    Call(Step, Errno),
    /// This command is answered with an errno, the first time.
    Command(Kind, Errno),
    /// This command is never answered, unless it is cancelled or the worker is killed.
    Silence(Kind),
    /// The worker reports a failure instead of being primed, and exits.
    WorkerFails,
    /// The worker dies instead of being primed.
    WorkerDies,
    /// The worker reports that it is primed, and dies.
    WorkerPrimesAndDies,
    /// The worker never says anything and ignores Quit.
    WorkerHangs,
    /// The worker of a LIVE device says that it ended, and does not exit.
    WorkerLingers,
    /// As [`Plant::WorkerLingers`], and it may not be killed.
    WorkerMayNotBeKilled,
    /// ADD_DEV grants this.
    Grants(u16, u16, u32),
    /// This many watches on the worker fail, one after the other.
    DeafToWorker(u16),
    /// The supervisor that had brought the device up does not exit.
    SupervisorHangs,
    /// The operator asks to stop while this command is in flight.
    StopDuring(Kind),
}

/// The system around a supervisor.
#[expect(clippy::struct_excessive_bools, reason = "a test double: plain facts")]
struct System {
    plant: Plant,
    sq: VecDeque<Entry>,
    cq: VecDeque<Cqe>,
    reply: Reply,
    /// A device exists; its block device is up.
    exists: bool,
    live: bool,
    worker: Option<bool>,
    worker_inbox: Vec<ToWorker>,
    from_worker: VecDeque<FromWorker>,
    from_operator: VecDeque<Order>,
    to_launcher: Vec<Verdict>,
    watches: Vec<Link>,
    watches_worker: bool,
    timers: Vec<u32>,
    /// A command without an answer.
    silent: Option<(Kind, u32)>,
    commands: Vec<Kind>,
    killed: bool,
    /// What GET_FEATURES tells of.
    features: Features,
    /// What ADD_DEV asked for, and what of it the kernel clears and says nothing.
    asked: Features,
    clears: Features,
    /// What the worker was told of how data moves, and of shared memory.
    data: Option<DataMode>,
    shared_bytes: u64,
    /// What REG_BUF answers.
    index: i32,
}

enum Entry {
    Sqe(Sqe),
    Control(u32, Command),
}

impl System {
    fn new(plant: Plant) -> Self {
        Self {
            plant,
            sq: VecDeque::new(),
            cq: VecDeque::new(),
            reply: Reply::Nothing,
            exists: false,
            live: false,
            worker: None,
            worker_inbox: Vec::new(),
            from_worker: VecDeque::new(),
            from_operator: VecDeque::new(),
            to_launcher: Vec::new(),
            watches: Vec::new(),
            watches_worker: false,
            timers: Vec::new(),
            silent: None,
            commands: Vec::new(),
            killed: false,
            features: Features(u64::MAX),
            asked: Features::NONE,
            clears: Features::NONE,
            data: None,
            shared_bytes: 0,
            index: 0,
        }
    }

    fn complete(&mut self, token: Token, res: i32) {
        self.cq.push_back(Cqe { token, res });
    }

    fn info(&self) -> DevInfo {
        let (nr_hw_queues, queue_depth, max_io_buf_bytes) = match self.plant {
            Plant::Grants(queues, depth, bytes) => (queues, depth, bytes),
            _ => (2, 64, 512 * 1024),
        };
        DevInfo {
            nr_hw_queues,
            queue_depth,
            state: if self.live { DeviceState::Live } else { DeviceState::Dead },
            max_io_buf_bytes,
            dev_id: ID,
            ublksrv_pid: if self.live { PID as i32 } else { -1 },
            flags: self.asked.difference(self.clears),
            ..DevInfo::default()
        }
    }

    fn worker_exits(&mut self) {
        self.worker = Some(false);
        self.live = false;
        if self.watches_worker {
            self.complete(Token::Worker, 1);
        }
        if let Some((kind, sequence)) = self.silent.take() {
            // What hung on a request of the worker's is released by its death.
            if kind == Kind::StopDev {
                self.complete(Token::Control(sequence), 0);
            } else {
                self.silent = Some((kind, sequence));
            }
        }
    }

    fn control(&mut self, sequence: u32, command: &Command) {
        let kind = command.kind();
        self.commands.push(kind);
        if self.plant == Plant::StopDuring(kind) {
            self.from_operator.push_back(Order::Stop);
        }
        if self.plant == Plant::Silence(kind) {
            self.silent = Some((kind, sequence));
            return;
        }
        let mut res = 0;
        if let Plant::Command(planted, errno) = self.plant
            && planted == kind
        {
            self.plant = Plant::Nothing;
            self.complete(Token::Control(sequence), -i32::from(errno.0));
            return;
        }
        match command {
            Command::GetFeatures => self.reply = Reply::Features(self.features),
            Command::AddDev(info) => {
                assert!(!self.exists);
                self.exists = true;
                self.asked = info.flags;
                self.reply = Reply::DevInfo(self.info());
            }
            Command::SetParams(id, params) => {
                assert_eq!(*id, ID);
                assert_eq!(params.basic.unwrap().max_sectors, 1024, "capped by the granted buffer");
            }
            Command::RegBuf(id, memory) => {
                assert_eq!((*id, *memory), (ID, MEMORY));
                assert!(
                    !self.live && self.worker.is_none(),
                    "H12: with a disk it would drain its queue"
                );
                res = self.index;
            }
            Command::StartDev(id, pid) => {
                assert_eq!((*id, *pid), (ID, PID));
                self.live = true;
            }
            Command::StopDev(_) | Command::TryStopDev(_) => {
                self.live = false;
                if self.worker == Some(true) && self.plant != Plant::WorkerHangs {
                    self.from_worker.push_back(FromWorker::Ended);
                    self.worker_exits();
                }
            }
            Command::DelDev(_) => {
                if self.worker == Some(true) && self.plant != Plant::WorkerHangs {
                    assert!(
                        !self.commands.contains(&Kind::AddDev),
                        "the own worker is gone before DEL_DEV waits for it"
                    );
                    // Its tags are aborted: a worker that has another supervisor, or none, ends.
                    self.worker_exits();
                }
                res = if self.exists { 0 } else { -19 };
                self.exists = false;
            }
            Command::GetDevInfo(_) if !self.exists => res = -19,
            Command::GetDevInfo(_) => self.reply = Reply::DevInfo(self.info()),
            Command::StartRecovery(_) | Command::EndRecovery(..) => {
                panic!("a device without recovery is not recovered")
            }
            Command::GetParams(_) | Command::QuiesceDev(_) | Command::UpdateSize(..) => {
                panic!("nobody asked for a change")
            }
        }
        self.complete(Token::Control(sequence), res);
    }

    /// One `enter`; false when nobody will ever complete anything.
    fn enter(&mut self, wait: u32) -> bool {
        while let Some(entry) = self.sq.pop_front() {
            match entry {
                Entry::Control(sequence, command) => self.control(sequence, &command),
                Entry::Sqe(Sqe::Watch { link }) => self.watches.push(link),
                Entry::Sqe(Sqe::WatchWorker) => match &mut self.plant {
                    Plant::DeafToWorker(left) if *left > 0 => {
                        *left -= 1;
                        self.complete(Token::Worker, -12);
                    }
                    _ => self.watches_worker = true,
                },
                Entry::Sqe(Sqe::WatchSupervisor) => {
                    // It does what it is asked to, if it does anything.
                    if self.plant != Plant::SupervisorHangs {
                        self.exists = false;
                        self.complete(Token::Supervisor, 1);
                    }
                }
                Entry::Sqe(Sqe::Timer { generation, .. }) => self.timers.push(generation),
                Entry::Sqe(Sqe::CancelControl { sequence }) => {
                    self.complete(Token::Cancel, 0);
                    if let Some((kind, silent)) = self.silent
                        && silent == sequence
                        && matches!(kind, Kind::StartDev | Kind::DelDev)
                    {
                        self.silent = None;
                        self.complete(Token::Control(sequence), -4);
                    }
                }
                Entry::Sqe(other) => panic!("a supervisor never submits {other:?}"),
            }
        }
        let ready: Vec<Link> = self
            .watches
            .iter()
            .copied()
            .filter(|link| match link {
                Link::Worker => !self.from_worker.is_empty() || self.worker == Some(false),
                Link::Operator => !self.from_operator.is_empty(),
                _ => panic!("a supervisor never watches {link:?}"),
            })
            .collect();
        for link in ready {
            self.watches.retain(|watched| *watched != link);
            self.complete(Token::Link(link), 1);
        }
        if wait > 0 && self.cq.is_empty() {
            // Time passes only when nothing else can happen.
            let Some(generation) = self.timers.pop() else { return false };
            self.timers.clear();
            self.complete(Token::Timer(generation), -62);
        }
        true
    }
}

impl Ring for System {
    fn sq_space(&self) -> u32 {
        16 - self.sq.len() as u32
    }
    fn sq_ready(&self) -> u32 {
        self.sq.len() as u32
    }
    fn push(&mut self, sqe: Sqe) -> Result<(), SqFull> {
        assert!(self.sq.len() < 16, "I3");
        self.sq.push_back(Entry::Sqe(sqe));
        Ok(())
    }
    fn reap(&mut self) -> Option<Cqe> {
        self.cq.pop_front()
    }
}

impl SupervisorIo for System {
    fn hear_operator(&mut self) -> Received<Order> {
        self.from_operator.pop_front().map_or(Received::Empty, Received::Message)
    }
    fn hear_worker(&mut self) -> Received<FromWorker> {
        match self.from_worker.pop_front() {
            Some(message) => Received::Message(message),
            None if self.worker == Some(false) => Received::Closed,
            None => Received::Empty,
        }
    }
    fn tell_worker(&mut self, message: ToWorker) {
        self.worker_inbox.push(message);
        if message == ToWorker::Quit
            && self.worker == Some(true)
            && self.plant != Plant::WorkerHangs
        {
            self.from_worker.push_back(FromWorker::Ended);
            self.worker_exits();
        }
    }
    fn tell_launcher(&mut self, verdict: Verdict) {
        self.to_launcher.push(verdict);
    }
    fn note(&mut self, news: News) {
        panic!("without recovery there is no news such as {news:?}");
    }
}

impl ControlIo for System {
    fn push_control(&mut self, sequence: u32, command: &Command) -> Result<(), SqFull> {
        assert!(self.silent.is_none(), "I10: one control command at a time");
        self.sq.push_back(Entry::Control(sequence, command.clone()));
        Ok(())
    }
    fn reply(&self) -> Reply {
        self.reply
    }
}

fn plan() -> Plan {
    Plan::Serve {
        info: DevInfo {
            nr_hw_queues: 4,
            queue_depth: 64,
            max_io_buf_bytes: 512 * 1024,
            dev_id: DevId::AUTO,
            ..DevInfo::default()
        },
        params: Params {
            basic: Some(BasicParams {
                dev_sectors: 2048,
                max_sectors: 4096,
                ..BasicParams::default()
            }),
            ..Params::default()
        },
        restart: false,
        shared: None,
    }
}

/// Runs a supervisor to its exit. `stop_when_live` lets the operator ask for the stop once it is up.
fn run(plan: Plan, system: &mut System, stop_when_live: bool) -> Exit {
    let mut supervisor = Supervisor::new(plan, Deadlines::DEFAULT);
    let mut ret = Ret::Start;
    for _ in 0..10_000 {
        if supervisor.stage() == Stage::Live {
            if stop_when_live && system.from_operator.is_empty() {
                system.from_operator.push_back(Order::Stop);
            }
            if matches!(system.plant, Plant::WorkerLingers | Plant::WorkerMayNotBeKilled) {
                system.from_worker.push_back(FromWorker::Ended);
                system.watches.retain(|link| *link != Link::Worker);
                system.complete(Token::Link(Link::Worker), 1);
            }
        }
        let plant = system.plant;
        let fails = |step| match plant {
            Plant::Call(planted, errno) if planted == step => Some(Ret::Failed(errno)),
            _ => None,
        };
        ret = match supervisor.resume(ret, system) {
            Call::SetupRing(_) => fails(Step::ControlRing).unwrap_or(Ret::Done),
            Call::SpawnWorker { device, renewed: false } => {
                assert_eq!((device.queues, device.depth), (2, 64), "what the kernel granted");
                (system.data, system.shared_bytes) = (Some(device.data), device.shared_bytes);
                fails(Step::SpawnWorker).unwrap_or_else(|| {
                    system.worker = Some(true);
                    match system.plant {
                        Plant::WorkerHangs => {}
                        Plant::WorkerDies => system.worker = Some(false),
                        Plant::WorkerPrimesAndDies => {
                            system.from_worker.push_back(FromWorker::Primed);
                            system.worker = Some(false);
                        }
                        Plant::WorkerFails => {
                            let cause = Cause::errno(Step::OpenChar, Errno::EACCES);
                            system.from_worker.push_back(FromWorker::Failed(cause));
                            system.worker = Some(false);
                        }
                        _ => system.from_worker.push_back(FromWorker::Primed),
                    }
                    Ret::Spawned(PID)
                })
            }
            Call::AttachWorker { pid } => {
                assert_eq!(pid, PID);
                if system.worker == Some(true) { Ret::Done } else { Ret::Failed(Errno::ESRCH) }
            }
            Call::KillWorker if system.plant == Plant::WorkerMayNotBeKilled => {
                Ret::Failed(Errno::EPERM)
            }
            Call::KillWorker => {
                system.killed = true;
                system.worker_exits();
                Ret::Done
            }
            Call::AttachSupervisor { pid } => {
                assert_eq!(pid, PID + 1);
                Ret::Done
            }
            Call::StopSupervisor => Ret::Done,
            Call::Sleep { .. } => Ret::Done,
            Call::ReapWorker => {
                Ret::Exited(if system.killed { WorkerExit::Signal(9) } else { WorkerExit::Code(0) })
            }
            Call::Enter { submit, wait } => {
                if system.watches_worker && system.worker == Some(false) {
                    system.watches_worker = false;
                    if !system.cq.iter().any(|cqe| cqe.token == Token::Worker) {
                        system.complete(Token::Worker, 1);
                    }
                }
                // A worker that was dead before it was watched.
                let fresh = system.sq.iter().any(|e| matches!(e, Entry::Sqe(Sqe::WatchWorker)));
                if fresh && system.worker == Some(false) {
                    system.complete(Token::Worker, 1);
                }
                assert!(system.enter(wait), "a deadlock: {supervisor:#?}");
                Ret::Submitted(submit)
            }
            Call::Exit(exit) => return exit,
            other => panic!("a supervisor never asks for {other:?}"),
        };
    }
    panic!("the supervisor did not end")
}

#[test]
fn brings_a_device_up_and_takes_it_down() {
    let mut system = System::new(Plant::Nothing);
    assert_eq!(run(plan(), &mut system, true), Exit::Finished);
    assert_eq!(system.to_launcher, [Verdict::Up(ID)]);
    assert_eq!(
        system.commands,
        [
            Kind::GetFeatures,
            Kind::AddDev,
            Kind::SetParams,
            Kind::StartDev,
            Kind::StopDev,
            Kind::DelDev
        ]
    );
    assert_eq!(system.worker_inbox, [ToWorker::Live]);
    assert!(!system.exists && !system.killed);
}

/// Every failure on the way up, and the cause the launcher must hear.
fn failures() -> Vec<(Plant, Step)> {
    let mut all = vec![
        (Plant::Call(Step::ControlRing, Errno::ENOMEM), Step::ControlRing),
        (Plant::Call(Step::SpawnWorker, Errno::EAGAIN), Step::SpawnWorker),
        (Plant::WorkerFails, Step::OpenChar),
        (Plant::WorkerDies, Step::Prime),
        (Plant::WorkerHangs, Step::Prime),
        (Plant::Silence(Kind::StartDev), Step::StartDev),
    ];
    for (kind, step) in [
        (Kind::GetFeatures, Step::GetFeatures),
        (Kind::AddDev, Step::AddDev),
        (Kind::SetParams, Step::SetParams),
        (Kind::StartDev, Step::StartDev),
    ] {
        all.push((Plant::Command(kind, Errno::EINVAL), step));
        // A stop during START_DEV may find the device up: then it is an ordinary stop.
        if kind != Kind::StartDev {
            all.push((Plant::StopDuring(kind), step));
        }
    }
    all
}

#[test]
fn a_failure_at_any_step_leaves_nothing_behind_and_reports_the_first_cause() {
    for (plant, step) in failures() {
        let mut system = System::new(plant);
        let exit = run(plan(), &mut system, false);
        let Exit::Failed(cause) = exit else { panic!("{plant:?}: {exit:?}") };
        if matches!(plant, Plant::StopDuring(_)) {
            // The command's answer may be heard before the operator is.
            assert_eq!(cause.problem, Problem::Stopped, "{plant:?}");
        } else {
            assert_eq!(cause.step, step, "{plant:?}");
        }
        assert!(!system.exists, "{plant:?}: the device was left behind");
        assert_ne!(system.worker, Some(true), "{plant:?}: the worker was left behind");
        assert_eq!(system.to_launcher, [Verdict::Down { cause, stuck: None }], "{plant:?}");
    }
}

#[test]
fn a_worker_that_died_is_not_started() {
    let mut system = System::new(Plant::WorkerPrimesAndDies);
    let exit = run(plan(), &mut system, false);
    assert!(matches!(exit, Exit::Failed(_)), "{exit:?}");
    assert!(!system.commands.contains(&Kind::StartDev), "{:?}", system.commands);
    assert!(!system.exists);
}

/// Brings a device up and down on a kernel with these features that clears those. What was asked for, and what became of it.
fn data_mode(
    wanted: DataMode,
    features: Features,
    clears: Features,
) -> (Exit, Features, Option<DataMode>) {
    let mut plan = plan();
    if let Plan::Serve { info, .. } = &mut plan {
        info.flags = wanted.features();
    }
    let mut system = System { features, clears, ..System::new(Plant::Nothing) };
    let exit = run(plan, &mut system, true);
    (exit, system.asked, system.data)
}

#[test]
fn data_moves_as_the_kernel_grants_it() {
    let all = Features(u64::MAX);
    // Every device is to be one that can be resized.
    let resizable = |flags: Features| flags.union(Features::UPDATE_SIZE);
    for mode in [DataMode::Copy, DataMode::UserCopy, DataMode::ZeroCopy] {
        let served = data_mode(mode, all, Features::NONE);
        assert_eq!(served, (Exit::Finished, resizable(mode.features()), Some(mode)));
    }
    // 6.12 has no automatic buffers: they are not even asked for.
    let without = all.difference(Features::AUTO_BUF_REG);
    let served = data_mode(DataMode::ZeroCopy, without, Features::NONE);
    assert_eq!(served, (Exit::Finished, resizable(Features::NONE), Some(DataMode::Copy)));
    // A kernel that clears what it said it had.
    let asked = DataMode::ZeroCopy.features();
    let served = data_mode(DataMode::ZeroCopy, all, asked);
    assert_eq!(served, (Exit::Finished, resizable(asked), Some(DataMode::Copy)));
    // But not what becomes of the device.
    let mut plan = plan();
    if let Plan::Serve { info, .. } = &mut plan {
        info.flags = asked.union(Recovery::Reissue.features());
    }
    let clears = asked.union(Features::USER_RECOVERY_REISSUE);
    let mut system = System { clears, ..System::new(Plant::Nothing) };
    let refused = Exit::Failed(Cause::new(Step::AddDev, Problem::Unsupported));
    assert_eq!(run(plan, &mut system, true), refused);
    // Half of it is a mode that nobody serves.
    let (exit, _, data) = data_mode(DataMode::ZeroCopy, all, Features::SUPPORT_ZERO_COPY);
    assert_eq!((exit, data), (refused, None));
}

/// To bring up a device whose clients share memory.
fn sharing() -> Plan {
    let mut plan = plan();
    if let Plan::Serve { info, shared, .. } = &mut plan {
        info.flags = Features::SHMEM_ZC;
        *shared = Some(MEMORY);
    }
    plan
}

#[test]
fn shared_memory_is_registered_before_there_is_a_disk() {
    let mut system = System::new(Plant::Nothing);
    assert_eq!(run(sharing(), &mut system, true), Exit::Finished);
    let up = [Kind::GetFeatures, Kind::AddDev, Kind::SetParams, Kind::RegBuf, Kind::StartDev];
    assert_eq!(system.commands[..5], up);
    assert_eq!(system.shared_bytes, MEMORY.len);
    // Interrupted, it is sent again.
    let mut system = System::new(Plant::Command(Kind::RegBuf, Errno::EINTR));
    assert_eq!(run(sharing(), &mut system, true), Exit::Finished);
    // A kernel that has none of it, and one that clears what it said it had.
    let without = Features(u64::MAX).difference(Features::SHMEM_ZC);
    for (features, clears) in [(without, Features::NONE), (Features(u64::MAX), Features::SHMEM_ZC)]
    {
        let mut system = System { features, clears, ..System::new(Plant::Nothing) };
        let exit = run(sharing(), &mut system, true);
        if clears == Features::NONE {
            assert_eq!(exit, Exit::Finished);
        } else {
            assert_eq!(exit, Exit::Failed(Cause::new(Step::AddDev, Problem::Unsupported)));
        }
        assert!(!system.commands.contains(&Kind::RegBuf) && system.shared_bytes == 0);
    }
}

#[test]
fn memory_that_cannot_be_registered_is_no_device() {
    let mut system = System::new(Plant::Command(Kind::RegBuf, Errno::ENOMEM));
    let exit = run(sharing(), &mut system, false);
    assert_eq!(exit, Exit::Failed(Cause::errno(Step::ShareMemory, Errno::ENOMEM)));
    assert!(!system.exists);
    // The queues would take every request for one of another registration.
    let mut system = System { index: 1, ..System::new(Plant::Nothing) };
    let exit = run(sharing(), &mut system, false);
    assert_eq!(exit, Exit::Failed(Cause::new(Step::ShareMemory, Problem::Protocol)));
    assert!(!system.exists);
}

#[test]
fn what_cannot_be_served_is_not_served() {
    let full = 512 * 1024;
    for (queues, depth, bytes) in
        [(0, 64, full), (5, 64, full), (2, 0, full), (2, 65, full), (2, 64, 0), (2, 64, full + 1)]
    {
        let mut system = System::new(Plant::Grants(queues, depth, bytes));
        let exit = run(plan(), &mut system, false);
        assert_eq!(exit, Exit::Failed(Cause::new(Step::AddDev, Problem::Unsupported)));
        assert!(!system.exists, "what was granted is given back");
    }
}

#[test]
fn a_worker_that_said_its_last_word_and_stays_is_killed() {
    let mut system = System::new(Plant::WorkerLingers);
    let exit = run(plan(), &mut system, false);
    // It said `Ended`: stopped by another hand.
    assert_eq!(exit, Exit::Finished);
    assert!(system.killed && system.exists);

    let mut system = System::new(Plant::WorkerMayNotBeKilled);
    let exit = run(plan(), &mut system, false);
    let cause = Cause::errno(Step::KillWorker, Errno::EPERM);
    assert_eq!(exit, Exit::Stuck { cause, step: Step::WorkerExit });
}

#[test]
fn a_watch_that_fails_is_renewed() {
    let mut system = System::new(Plant::DeafToWorker(20));
    assert_eq!(run(plan(), &mut system, true), Exit::Finished);
    assert!(!system.exists && !system.killed);

    let mut system = System::new(Plant::DeafToWorker(2 * REFUSALS_MAX));
    let exit = run(plan(), &mut system, false);
    assert!(
        matches!(exit, Exit::Stuck { cause, .. } if cause == Cause::errno(Step::Enter, Errno::ENOMEM)),
        "{exit:?}"
    );
}

#[test]
fn a_deletion_asks_the_device_s_own_supervisor_first() {
    let hangs = Exit::Failed(Cause::new(Step::SupervisorExit, Problem::Deadline));
    let itself = [Kind::GetDevInfo, Kind::DelDev];
    for (plant, expected, commands) in [
        (Plant::Nothing, Exit::Finished, &itself[..1]),
        (Plant::SupervisorHangs, hangs, &itself[..]),
    ] {
        let mut system = System::new(plant);
        system.exists = true;
        let plan =
            Plan::Delete { id: ID, worker: None, supervisor: Some(PID + 1), if_unused: false };
        assert_eq!(run(plan, &mut system, false), expected);
        assert!(!system.exists);
        assert_eq!(system.commands, commands);
    }
}

#[test]
fn a_deletion_of_what_nobody_uses_tries_first() {
    let refused = |problem| Exit::Failed(Cause::new(Step::TryStopDev, problem));
    for (live, errno, expected) in [
        (true, None, Exit::Finished),
        (true, Some(Errno::EBUSY), refused(Problem::InUse)),
        (true, Some(Errno::EOPNOTSUPP), refused(Problem::NoTryStop)),
        (true, Some(Errno::EIO), Exit::Failed(Cause::errno(Step::TryStopDev, Errno::EIO))),
        // It has no disk that anybody could use, or has none any more.
        (true, Some(Errno::ENODEV), Exit::Finished),
        (false, None, Exit::Finished),
    ] {
        let plant = errno.map_or(Plant::Nothing, |e| Plant::Command(Kind::TryStopDev, e));
        let mut system = System::new(plant);
        (system.exists, system.live) = (true, live);
        let plan = Plan::Delete { id: ID, worker: None, supervisor: None, if_unused: true };
        assert_eq!(run(plan, &mut system, false), expected, "{live} {errno:?}");
        assert_eq!(system.exists, expected != Exit::Finished, "{live} {errno:?}");
        assert_eq!(system.commands.contains(&Kind::TryStopDev), live);
        if system.exists {
            let asked = [Kind::GetDevInfo, Kind::TryStopDev];
            assert_eq!(system.commands, asked, "what is used is left alone: {errno:?}");
            assert!(!system.killed);
        }
    }
}

#[test]
fn an_interrupted_command_is_sent_again() {
    for kind in [
        Kind::GetFeatures,
        Kind::AddDev,
        Kind::SetParams,
        Kind::StartDev,
        Kind::StopDev,
        Kind::DelDev,
    ] {
        let mut system = System::new(Plant::Command(kind, Errno::EINTR));
        assert_eq!(run(plan(), &mut system, true), Exit::Finished, "{kind:?}");
        assert_eq!(system.commands.iter().filter(|sent| **sent == kind).count(), 2, "{kind:?}");
        assert!(!system.exists);
    }
}

#[test]
fn a_stop_that_hangs_on_a_request_kills_the_worker() {
    let mut system = System::new(Plant::Silence(Kind::StopDev));
    assert_eq!(run(plan(), &mut system, true), Exit::Finished);
    assert!(system.killed && !system.exists);
}

#[test]
fn a_delete_that_hangs_is_reported_as_stuck() {
    let mut system = System::new(Plant::Silence(Kind::DelDev));
    let exit = run(plan(), &mut system, true);
    let cause = Cause::new(Step::DelDev, Problem::Deadline);
    assert_eq!(exit, Exit::Stuck { cause, step: Step::DelDev });
}

#[test]
fn a_command_the_kernel_never_answers_is_reported_as_stuck() {
    for kind in [Kind::GetFeatures, Kind::AddDev, Kind::SetParams] {
        let mut system = System::new(Plant::Silence(kind));
        let exit = run(plan(), &mut system, false);
        assert!(matches!(exit, Exit::Stuck { .. }), "{kind:?}: {exit:?}");
        assert!(matches!(system.to_launcher[..], [Verdict::Down { stuck: Some(_), .. }]));
    }
}

#[test]
fn a_dead_worker_of_a_live_device_leaves_the_device_as_the_kernel_left_it() {
    let mut system = System::new(Plant::Nothing);
    let mut supervisor = Supervisor::new(plan(), Deadlines::DEFAULT);
    let mut ret = Ret::Start;
    let exit = loop {
        if supervisor.stage() == Stage::Live && system.worker == Some(true) {
            system.worker_exits();
            system.watches_worker = false;
        }
        ret = match supervisor.resume(ret, &mut system) {
            Call::SetupRing(_) => Ret::Done,
            Call::SpawnWorker { .. } => {
                system.worker = Some(true);
                system.from_worker.push_back(FromWorker::Primed);
                Ret::Spawned(PID)
            }
            Call::ReapWorker => Ret::Exited(WorkerExit::Signal(9)),
            Call::Enter { submit, wait } => {
                assert!(system.enter(wait));
                Ret::Submitted(submit)
            }
            Call::Exit(exit) => break exit,
            other => panic!("{other:?}"),
        };
    };
    let killed = Problem::WorkerExited(WorkerExit::Signal(9));
    assert_eq!(exit, Exit::Failed(Cause::new(Step::Worker, killed)));
    assert!(system.exists, "`del` or `recover` decides");
    assert!(!system.commands.contains(&Kind::DelDev));
}

#[test]
fn deletes_a_device_whose_supervisor_is_gone() {
    for (live, worker) in [(true, Some(true)), (true, None), (false, None), (false, Some(true))] {
        let mut system = System::new(Plant::Nothing);
        system.exists = true;
        system.live = live;
        system.worker = worker;
        let plan = Plan::Delete {
            id: ID,
            worker: worker.map(|_| PID),
            supervisor: None,
            if_unused: false,
        };
        assert_eq!(run(plan, &mut system, false), Exit::Finished, "live {live}, worker {worker:?}");
        assert!(!system.exists);
        assert_ne!(system.worker, Some(true));
    }
}

#[test]
fn a_worker_that_holds_a_deletion_up_is_killed() {
    for live in [true, false] {
        let mut system = System::new(Plant::Silence(Kind::DelDev));
        system.exists = true;
        system.live = live;
        system.worker = Some(true);
        let plan = Plan::Delete { id: ID, worker: Some(PID), supervisor: None, if_unused: false };
        let exit = run(plan, &mut system, false);
        assert!(matches!(exit, Exit::Stuck { step: Step::DelDev, .. }), "{exit:?}");
        assert_eq!(system.killed, !live, "STOP_DEV ended the worker of a LIVE device");
    }
}

#[test]
fn deleting_what_does_not_exist_says_so() {
    let mut system = System::new(Plant::Command(Kind::GetDevInfo, Errno::ENODEV));
    let exit = run(
        Plan::Delete { id: ID, worker: None, supervisor: None, if_unused: false },
        &mut system,
        false,
    );
    assert_eq!(exit, Exit::Failed(Cause::errno(Step::GetDevInfo, Errno::ENODEV)));
}

#[test]
fn a_question_is_answered_refused_or_given_up() {
    use blkproof_engine::query::Query;
    for (plant, expected) in [
        (Plant::Nothing, Ok(())),
        (
            Plant::Command(Kind::GetFeatures, Errno::EPERM),
            Err(Cause::errno(Step::GetFeatures, Errno::EPERM)),
        ),
        (Plant::Silence(Kind::GetFeatures), Err(Cause::new(Step::GetFeatures, Problem::Deadline))),
        (
            Plant::Call(Step::ControlRing, Errno::ENOMEM),
            Err(Cause::errno(Step::ControlRing, Errno::ENOMEM)),
        ),
    ] {
        let mut system = System::new(plant);
        let mut query = Query::new(Command::GetFeatures);
        let mut ret = Ret::Start;
        let exit = loop {
            ret = match query.resume(ret, &mut system) {
                Call::SetupRing(_) => match plant {
                    Plant::Call(_, errno) => Ret::Failed(errno),
                    _ => Ret::Done,
                },
                Call::Enter { submit, wait } => {
                    assert!(system.enter(wait), "a deadlock: {query:?}");
                    Ret::Submitted(submit)
                }
                Call::Exit(exit) => break exit,
                other => panic!("a question never asks for {other:?}"),
            };
        };
        match expected {
            Ok(()) => {
                assert_eq!(exit, Exit::Finished);
                assert_eq!(query.reply(), Some(Reply::Features(Features(u64::MAX))));
            }
            Err(cause) => assert_eq!(exit, Exit::Failed(cause)),
        }
    }
}
