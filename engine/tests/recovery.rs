//! The supervisor's recovery: a worker that is gone is replaced, and a failure at any step leaves the device as it was.

use std::collections::VecDeque;

use blkproof_engine::cause::{Cause, Problem, Step};
use blkproof_engine::control::{Command, Kind, Reply};
use blkproof_engine::data::DataMode;
use blkproof_engine::link::{FromWorker, Link, News, Order, Received, ToWorker, Verdict};
use blkproof_engine::pending::{Awaits, Otherwise, Owner, Pending};
use blkproof_engine::supervisor::{
    Deadlines, Errand, LOOK_PAUSE_MAX_MS, LOOKS_MAX, Plan, RESTARTS_MAX, Recovery, Stage,
    Supervisor, WATCH_MS, Wanted,
};
use blkproof_engine::sys::{
    Call, ControlIo, Cqe, Exit, Ret, Ring, SqFull, Sqe, SupervisorIo, Token, WorkerExit,
};
use blkproof_engine::target::{Null, Target};
use blkproof_engine::uapi::{DevId, DevInfo, DeviceState, Errno, Features};

const ID: DevId = DevId(3);
const IDENTITY: u64 = 42;
const SECTORS: u64 = 2048;
const SUPERVISOR: u32 = 99;

/// What a worker does once it was started.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Fate {
    /// Primes, and serves.
    Serves,
    /// Is not even started.
    NotStarted,
    /// Dies before it is primed.
    Dies,
    /// Says why it cannot serve, and exits.
    Fails,
    /// Says nothing, and ignores what it is told.
    Hangs,
}

/// The kernel and the processes around a supervisor.
struct System {
    state: DeviceState,
    flags: Features,
    identity: u64,
    /// The server that the kernel names.
    server: Option<u32>,
    worker: Option<u32>,
    workers: u32,
    fates: VecDeque<Fate>,
    /// Looks that it takes until the kernel has noticed that the server is gone.
    slow: u32,
    /// What the next commands of a kind are answered with.
    errnos: VecDeque<(Kind, Errno)>,
    /// A command of this kind is not answered, unless it is cancelled.
    silent: Option<Kind>,
    hanging: Option<u32>,
    sq: VecDeque<(Option<u32>, Option<Command>, Option<Sqe>)>,
    cq: VecDeque<Cqe>,
    reply: Reply,
    commands: Vec<Command>,
    orders: VecDeque<Order>,
    said: VecDeque<FromWorker>,
    told: Vec<ToWorker>,
    verdicts: Vec<Verdict>,
    news: Vec<News>,
    links: Vec<Link>,
    watches: Vec<Token>,
    timers: Vec<(u32, u32)>,
    pauses: Vec<u32>,
    asked: u32,
    resident: bool,
}

impl System {
    fn new(recovery: Recovery) -> Self {
        Self {
            state: DeviceState::Dead,
            flags: recovery.features(),
            identity: IDENTITY,
            server: None,
            worker: None,
            workers: 0,
            fates: VecDeque::new(),
            slow: 0,
            errnos: VecDeque::new(),
            silent: None,
            hanging: None,
            sq: VecDeque::new(),
            cq: VecDeque::new(),
            reply: Reply::Nothing,
            commands: Vec::new(),
            orders: VecDeque::new(),
            said: VecDeque::new(),
            told: Vec::new(),
            verdicts: Vec::new(),
            news: Vec::new(),
            links: Vec::new(),
            watches: Vec::new(),
            timers: Vec::new(),
            pauses: Vec::new(),
            asked: 0,
            resident: true,
        }
    }

    /// A device that has lost its server.
    fn quiesced(recovery: Recovery) -> Self {
        Self { state: DeviceState::Quiesced, server: Some(1), ..Self::new(recovery) }
    }

    fn complete(&mut self, token: Token, res: i32) {
        self.cq.push_back(Cqe { token, res });
    }

    fn info(&self) -> DevInfo {
        DevInfo {
            nr_hw_queues: 2,
            queue_depth: 64,
            state: self.state,
            max_io_buf_bytes: 64 << 10,
            dev_id: ID,
            ublksrv_pid: self.server.map_or(-1, |pid| pid as i32),
            flags: self.flags,
            ublksrv_flags: self.identity,
            ..DevInfo::default()
        }
    }

    fn kinds(&self) -> Vec<Kind> {
        self.commands.iter().map(Command::kind).collect()
    }

    /// The worker is gone; the kernel notices after `slow` looks.
    fn worker_dies(&mut self, slow: u32) {
        self.worker = None;
        self.slow = slow;
        self.notices();
        if let Some(at) = self.watches.iter().position(|token| *token == Token::Worker) {
            self.watches.remove(at);
            self.complete(Token::Worker, 1);
        }
    }

    fn notices(&mut self) {
        if self.slow == 0 && self.state == DeviceState::Live && self.worker.is_none() {
            self.state = DeviceState::Quiesced;
        }
    }

    fn control(&mut self, sequence: u32, command: &Command) {
        let kind = command.kind();
        self.commands.push(command.clone());
        if self.silent == Some(kind) {
            self.silent = None;
            self.hanging = Some(sequence);
            return;
        }
        if let Some((planted, errno)) = self.errnos.front().copied()
            && planted == kind
        {
            self.errnos.pop_front();
            self.complete(Token::Control(sequence), -i32::from(errno.0));
            return;
        }
        let mut res = 0;
        match *command {
            Command::GetFeatures => self.reply = Reply::Features(Features(u64::MAX)),
            Command::AddDev(info) => {
                assert_eq!(info.ublksrv_flags, IDENTITY);
                self.flags = self.flags.union(info.flags);
                self.reply = Reply::DevInfo(self.info());
            }
            Command::SetParams(..) => {}
            Command::StartDev(_, pid) => {
                assert_eq!(Some(pid), self.worker);
                (self.state, self.server) = (DeviceState::Live, Some(pid));
            }
            Command::StopDev(_) => {
                self.state = DeviceState::Dead;
                if self.worker.is_some() {
                    self.said.push_back(FromWorker::Ended);
                    self.worker_dies(0);
                }
            }
            Command::DelDev(_) => {}
            Command::GetDevInfo(_) => {
                self.slow = self.slow.saturating_sub(1);
                self.notices();
                self.reply = Reply::DevInfo(self.info());
            }
            Command::StartRecovery(_) => {
                assert_eq!(self.worker, None, "I13: the last worker is gone");
                assert_eq!(self.state, DeviceState::Quiesced);
            }
            Command::EndRecovery(_, pid) => {
                assert_eq!(Some(pid), self.worker, "END_USER_RECOVERY names the new worker");
                res = if self.state == DeviceState::Quiesced { 0 } else { -16 };
                (self.state, self.server) = (DeviceState::Live, Some(pid));
            }
            Command::GetParams(_) => {
                let params = Null { sectors: SECTORS }.geometry().params(64 << 10);
                self.reply = params.basic.map_or(Reply::Nothing, Reply::Params);
            }
            Command::QuiesceDev(_) | Command::UpdateSize(..) | Command::TryStopDev(_) => {
                panic!("nobody asked for that")
            }
        }
        self.complete(Token::Control(sequence), res);
    }

    fn enter(&mut self, wait: u32) {
        while let Some((sequence, command, sqe)) = self.sq.pop_front() {
            match (sequence, command, sqe) {
                (Some(sequence), Some(command), _) => self.control(sequence, &command),
                (_, _, Some(Sqe::Watch { link })) => self.links.push(link),
                (_, _, Some(Sqe::WatchWorker)) if self.worker.is_none() => {
                    self.complete(Token::Worker, 1);
                }
                (_, _, Some(Sqe::WatchWorker)) => self.watches.push(Token::Worker),
                (_, _, Some(Sqe::WatchSupervisor)) => self.watches.push(Token::Supervisor),
                (_, _, Some(Sqe::Timer { generation, ms })) => self.timers.push((generation, ms)),
                (_, _, Some(Sqe::CancelControl { sequence })) => {
                    self.complete(Token::Cancel, 0);
                    if self.hanging.take() == Some(sequence) {
                        self.complete(Token::Control(sequence), -4);
                    }
                }
                other => panic!("a supervisor never submits {other:?}"),
            }
        }
        for link in std::mem::take(&mut self.links) {
            let ready = match link {
                Link::Worker => !self.said.is_empty() || self.worker.is_none(),
                Link::Operator => !self.orders.is_empty(),
                Link::Supervisor | Link::Queues => panic!("not a supervisor's to watch"),
            };
            if ready {
                self.complete(Token::Link(link), 1);
            } else {
                self.links.push(link);
            }
        }
        if !self.resident
            && let Some(at) = self.watches.iter().position(|token| *token == Token::Supervisor)
        {
            self.watches.remove(at);
            self.complete(Token::Supervisor, 1);
        }
        if wait > 0 && self.cq.is_empty() {
            // Time passes only when nothing else can happen; only the newest timer is anybody's.
            let (generation, ms) = self.timers.pop().expect("a deadlock");
            self.timers.clear();
            self.pauses.push(ms);
            self.complete(Token::Timer(generation), -62);
        }
    }

    fn spawn(&mut self) -> Ret {
        let fate = self.fates.pop_front().unwrap_or(Fate::Serves);
        if fate == Fate::NotStarted {
            return Ret::Failed(Errno::EAGAIN);
        }
        assert_eq!(self.worker, None, "I13: one worker at a time");
        self.workers += 1;
        self.said.clear();
        let pid = 100 + self.workers;
        self.worker = Some(pid);
        match fate {
            Fate::Serves => self.said.push_back(FromWorker::Primed),
            Fate::Dies => self.worker = None,
            Fate::Fails => {
                let cause = Cause::errno(Step::OpenChar, Errno::EACCES);
                self.said.push_back(FromWorker::Failed(cause));
                self.worker = None;
            }
            Fate::Hangs | Fate::NotStarted => {}
        }
        Ret::Spawned(pid)
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
        self.sq.push_back((None, None, Some(sqe)));
        Ok(())
    }
    fn reap(&mut self) -> Option<Cqe> {
        self.cq.pop_front()
    }
}

impl ControlIo for System {
    fn push_control(&mut self, sequence: u32, command: &Command) -> Result<(), SqFull> {
        assert_eq!(self.hanging, None, "I10: one control command at a time");
        self.sq.push_back((Some(sequence), Some(command.clone()), None));
        Ok(())
    }
    fn reply(&self) -> Reply {
        self.reply
    }
}

impl SupervisorIo for System {
    fn hear_operator(&mut self) -> Received<Order> {
        self.orders.pop_front().map_or(Received::Empty, Received::Message)
    }
    fn hear_worker(&mut self) -> Received<FromWorker> {
        match self.said.pop_front() {
            Some(message) => Received::Message(message),
            None if self.worker.is_none() => Received::Closed,
            None => Received::Empty,
        }
    }
    fn tell_worker(&mut self, message: ToWorker) {
        self.told.push(message);
    }
    fn tell_launcher(&mut self, verdict: Verdict) {
        self.verdicts.push(verdict);
    }
    fn note(&mut self, news: News) {
        self.news.push(news);
    }
}

/// A supervisor and its system.
struct Bench {
    supervisor: Supervisor,
    system: System,
    call: Call,
}

impl Bench {
    fn new(plan: Plan, system: System) -> Self {
        let mut system = system;
        let mut supervisor = Supervisor::new(plan, Deadlines::DEFAULT);
        let call = supervisor.resume(Ret::Start, &mut system);
        Self { supervisor, system, call }
    }

    /// A LIVE device.
    fn live(recovery: Recovery, restart: bool) -> Self {
        let mut bench = Self::new(serve(recovery, restart), System::new(recovery));
        bench.until(Stage::Live);
        bench
    }

    /// One call.
    fn step(&mut self) -> Option<Exit> {
        let ret = match self.call {
            Call::SetupRing(_) | Call::Sleep { .. } => Ret::Done,
            Call::Enter { submit, wait } => {
                self.system.enter(wait);
                Ret::Submitted(submit)
            }
            Call::SpawnWorker { device, renewed: _ } => {
                assert_eq!((device.queues, device.depth, device.sectors), (2, 64, SECTORS));
                assert_eq!(Some(device.data), DataMode::of(self.system.flags));
                self.system.spawn()
            }
            Call::AttachWorker { pid } if self.system.worker == Some(pid) => Ret::Done,
            Call::AttachWorker { .. } => Ret::Failed(Errno::ESRCH),
            Call::AttachSupervisor { pid } => {
                assert_eq!(pid, SUPERVISOR);
                if self.system.resident { Ret::Done } else { Ret::Failed(Errno::ESRCH) }
            }
            Call::AskSupervisor { order } => {
                assert_eq!(order, Order::Recover);
                self.system.asked += 1;
                Ret::Done
            }
            Call::KillWorker => {
                self.system.worker_dies(0);
                Ret::Done
            }
            Call::ReapWorker => Ret::Exited(WorkerExit::Signal(9)),
            Call::Exit(exit) => return Some(exit),
            other => panic!("a supervisor never asks for {other:?}"),
        };
        self.call = self.supervisor.resume(ret, &mut self.system);
        None
    }

    fn until(&mut self, stage: Stage) {
        for _ in 0..10_000 {
            if self.supervisor.stage() == stage {
                return;
            }
            assert_eq!(
                self.step(),
                None,
                "it ended on its way to {stage:?}: {:?}",
                self.system.news
            );
        }
        panic!("never at {stage:?}: {:#?}", self.supervisor);
    }

    fn end(&mut self) -> Exit {
        for _ in 0..10_000 {
            if let Some(exit) = self.step() {
                return exit;
            }
        }
        panic!("it did not end: {:#?}", self.supervisor);
    }

    /// The worker dies, and the supervisor hears of it.
    fn loses_worker(&mut self, slow: u32) {
        self.system.worker_dies(slow);
        while self.supervisor.stage() == Stage::Live {
            assert_eq!(self.step(), None);
        }
    }

    fn order(&mut self, order: Order) {
        self.system.orders.push_back(order);
        let stage = self.supervisor.stage();
        while !self.system.orders.is_empty() {
            assert_eq!(self.step(), None, "at {stage:?}");
        }
    }
}

fn serve(recovery: Recovery, restart: bool) -> Plan {
    serve_in(DataMode::Copy, recovery, restart)
}

fn serve_in(data: DataMode, recovery: Recovery, restart: bool) -> Plan {
    let wanted = Wanted {
        id: Some(ID),
        queues: 2,
        depth: 64,
        buffer_bytes: 64 << 10,
        data,
        recovery,
        identity: IDENTITY,
    };
    Plan::serve(wanted, restart, &Null { sectors: SECTORS })
}

const LOST: News =
    News::WorkerLost(Cause::new(Step::Worker, Problem::WorkerExited(WorkerExit::Signal(9))));

#[test]
fn restart_replaces_a_worker_at_once() {
    for slow in [0, 1, 5] {
        let mut bench = Bench::live(Recovery::Reissue, true);
        let before = bench.system.commands.len();
        bench.loses_worker(slow);
        bench.until(Stage::Live);
        let system = &bench.system;
        let after = &system.kinds()[before..];
        let looks = after.iter().filter(|kind| **kind == Kind::GetDevInfo).count();
        assert_eq!(looks as u32, slow.max(1));
        assert_eq!(after[looks..], [Kind::StartRecovery, Kind::EndRecovery]);
        assert_eq!(system.told, [ToWorker::Live, ToWorker::Live]);
        assert_eq!(system.verdicts, [Verdict::Up(ID)], "said once");
        assert_eq!(system.news, [LOST, News::Recovered]);
        assert_eq!(bench.supervisor.worker_pid(), Some(102));
    }
}

#[test]
fn without_restart_the_device_waits_for_an_operator() {
    let mut bench = Bench::live(Recovery::Requeue, false);
    bench.loses_worker(0);
    bench.until(Stage::Unserved);
    let mut pending = Vec::new();
    bench.supervisor.pending(&mut pending);
    let operator = Pending {
        awaits: Awaits::RecoveryRequest,
        owner: Owner::Operator,
        otherwise: Otherwise::WaitOn,
    };
    assert_eq!(pending, [operator]);
    assert_eq!(bench.system.state, DeviceState::Quiesced);
    bench.order(Order::Recover);
    bench.until(Stage::Live);
    assert_eq!(bench.system.news, [LOST, News::Unserved, News::Recovered]);
}

#[test]
fn who_asks_before_the_supervisor_has_noticed_is_not_forgotten() {
    let mut bench = Bench::live(Recovery::FailIo, false);
    bench.order(Order::Recover);
    assert_eq!(bench.supervisor.stage(), Stage::Live);
    bench.loses_worker(0);
    bench.until(Stage::Live);
    assert_eq!(bench.system.news, [LOST, News::Recovered]);
    // It counted for that one.
    bench.loses_worker(0);
    bench.until(Stage::Unserved);
}

#[test]
fn without_recovery_nobody_can_ask() {
    let mut bench = Bench::live(Recovery::None, false);
    bench.order(Order::Recover);
    bench.system.worker_dies(0);
    let killed = Problem::WorkerExited(WorkerExit::Signal(9));
    assert_eq!(bench.end(), Exit::Failed(Cause::new(Step::Worker, killed)));
}

#[test]
fn a_kernel_that_is_busy_is_asked_again_with_growing_pauses_and_not_for_ever() {
    let mut bench = Bench::live(Recovery::Reissue, false);
    bench.loses_worker(0);
    bench.until(Stage::Unserved);
    let busy = (Kind::StartRecovery, Errno::EBUSY);
    bench.system.errnos = [busy; 10].into();
    bench.order(Order::Recover);
    bench.until(Stage::Live);
    assert_eq!(bench.system.pauses[..8], [10, 20, 40, 80, 160, 320, 640, LOOK_PAUSE_MAX_MS]);

    bench.loses_worker(0);
    bench.until(Stage::Unserved);
    bench.system.errnos = vec![busy; 2 * usize::from(LOOKS_MAX)].into();
    bench.system.pauses.clear();
    bench.order(Order::Recover);
    bench.until(Stage::Unserved);
    assert_eq!(bench.system.pauses.len(), usize::from(LOOKS_MAX));
    let total: u32 = bench.system.pauses.iter().sum();
    assert!((60_000..90_000).contains(&total), "6.12 takes a minute at most: {total} ms");
    let failed = News::RecoveryFailed(Cause::new(Step::StartRecovery, Problem::Deadline));
    assert_eq!(bench.system.news[bench.system.news.len() - 2..], [failed, News::Unserved]);
}

/// What goes wrong, how that is planted, and the cause that is noted.
type Failure = (&'static str, fn(&mut System), Cause);

/// Everything that can go wrong with a recovery.
fn failures() -> Vec<Failure> {
    let exited = Problem::WorkerExited(WorkerExit::Signal(9));
    vec![
        (
            "the worker cannot be started",
            |system| system.fates = [Fate::NotStarted].into(),
            Cause::errno(Step::SpawnWorker, Errno::EAGAIN),
        ),
        (
            "the worker dies before it is primed",
            |system| system.fates = [Fate::Dies].into(),
            Cause::new(Step::Prime, exited),
        ),
        (
            "the worker fails",
            |system| system.fates = [Fate::Fails].into(),
            Cause::errno(Step::OpenChar, Errno::EACCES),
        ),
        (
            "the worker hangs",
            |system| system.fates = [Fate::Hangs].into(),
            Cause::new(Step::Prime, Problem::Deadline),
        ),
        (
            "the kernel refuses the end",
            |system| {
                system.fates = [Fate::Serves].into();
                system.errnos = [(Kind::EndRecovery, Errno::EINVAL)].into();
            },
            Cause::errno(Step::EndRecovery, Errno::EINVAL),
        ),
        (
            "the end never comes",
            |system| system.silent = Some(Kind::EndRecovery),
            Cause::new(Step::EndRecovery, Problem::Deadline),
        ),
        (
            "the kernel does not tell",
            |system| system.errnos = [(Kind::GetDevInfo, Errno::EIO)].into(),
            Cause::errno(Step::GetDevInfo, Errno::EIO),
        ),
    ]
}

#[test]
fn a_recovery_that_fails_leaves_the_device_waiting_and_can_be_repeated() {
    for (what, plant, cause) in failures() {
        let mut bench = Bench::live(Recovery::Reissue, false);
        bench.loses_worker(0);
        bench.until(Stage::Unserved);
        plant(&mut bench.system);
        bench.order(Order::Recover);
        // A worker that did not die is told to quit, and killed if it does not.
        bench.until(Stage::Unserved);
        let news = &bench.system.news;
        assert_eq!(news[2..], [News::RecoveryFailed(cause), News::Unserved], "{what}");
        assert_eq!(bench.system.worker, None, "{what}");
        assert_eq!(bench.system.state, DeviceState::Quiesced, "{what}");
        bench.order(Order::Recover);
        bench.until(Stage::Live);
        let sent = bench.system.kinds();
        assert!(!sent.contains(&Kind::StopDev) && !sent.contains(&Kind::DelDev), "{what}");
    }
}

#[test]
fn restarts_in_quick_succession_are_bounded() {
    let mut bench = Bench::live(Recovery::Reissue, true);
    bench.system.fates = [Fate::Dies; 100].into();
    bench.loses_worker(0);
    bench.until(Stage::Unserved);
    assert_eq!(bench.system.workers, 1 + u32::from(RESTARTS_MAX));
    // Asked for, they count anew.
    bench.order(Order::Recover);
    bench.until(Stage::Unserved);
    assert_eq!(bench.system.workers, 2 + 2 * u32::from(RESTARTS_MAX));
    bench.system.fates.clear();
    bench.order(Order::Recover);
    bench.until(Stage::Live);
}

#[test]
fn a_minute_of_service_makes_up_for_restarts() {
    let mut bench = Bench::live(Recovery::Reissue, true);
    for _ in 0..3 * RESTARTS_MAX {
        bench.loses_worker(0);
        bench.until(Stage::Live);
        // The timer is the only thing that can happen.
        let before = bench.system.pauses.len();
        while bench.system.pauses.len() == before {
            assert_eq!(bench.step(), None);
        }
        assert_eq!(bench.system.pauses.last(), Some(&60_000));
    }
    for _ in 0..RESTARTS_MAX {
        bench.loses_worker(0);
        bench.until(Stage::Live);
    }
    bench.loses_worker(0);
    bench.until(Stage::Unserved);
}

#[test]
fn a_stop_ends_well_at_every_step_of_a_recovery() {
    for steps in 0..40 {
        let mut bench = Bench::live(Recovery::Reissue, true);
        bench.system.worker_dies(2);
        for _ in 0..steps {
            if bench.system.news.contains(&News::Recovered) {
                break;
            }
            assert_eq!(bench.step(), None);
        }
        bench.system.orders.push_back(Order::Stop);
        let exit = bench.end();
        assert_eq!(exit, Exit::Finished, "after {steps} steps: {:?}", bench.system.news);
        assert_eq!(bench.system.kinds().last(), Some(&Kind::DelDev), "after {steps} steps");
        assert_eq!(bench.system.worker, None, "after {steps} steps");
    }
}

#[test]
fn a_recovery_whose_end_was_interrupted_may_have_succeeded() {
    let mut bench = Bench::live(Recovery::Reissue, true);
    bench.system.errnos =
        [(Kind::EndRecovery, Errno::EINTR), (Kind::EndRecovery, Errno::EBUSY)].into();
    bench.system.worker_dies(0);
    bench.until(Stage::Priming);
    // It took effect, and said EINTR all the same.
    (bench.system.state, bench.system.server) = (DeviceState::Live, Some(102));
    bench.until(Stage::Live);
    assert_eq!(bench.system.news, [LOST, News::Recovered]);
}

#[test]
fn what_another_hand_stopped_is_not_recovered() {
    let mut bench = Bench::live(Recovery::Reissue, true);
    bench.system.state = DeviceState::Dead;
    bench.system.worker_dies(0);
    assert_eq!(bench.end(), Exit::Finished);
    assert_eq!(bench.system.workers, 1);
}

fn recover() -> Plan {
    Plan::Recover { id: ID, identity: IDENTITY, restart: false }
}

fn ask() -> Plan {
    Plan::Ask { errand: Errand::Recover, id: ID, identity: IDENTITY, supervisor: SUPERVISOR }
}

#[test]
fn a_device_without_supervisor_is_brought_back_and_looked_after() {
    let mut bench = Bench::new(recover(), System::quiesced(Recovery::Requeue));
    bench.until(Stage::Live);
    let expected = [Kind::GetDevInfo, Kind::StartRecovery, Kind::GetParams, Kind::EndRecovery];
    assert_eq!(bench.system.kinds(), expected);
    assert_eq!(bench.system.verdicts, [Verdict::Up(ID)]);
    bench.loses_worker(0);
    bench.until(Stage::Unserved);
    bench.order(Order::Stop);
    assert_eq!(bench.end(), Exit::Finished);
    assert_eq!(bench.system.kinds().last(), Some(&Kind::DelDev));
}

#[test]
fn the_next_worker_serves_in_the_mode_that_the_device_has() {
    for data in [DataMode::Copy, DataMode::UserCopy, DataMode::ZeroCopy] {
        let mut bench = Bench::new(recover(), System::quiesced(Recovery::Reissue));
        bench.system.flags = bench.system.flags.union(data.features());
        bench.until(Stage::Live);
        assert_eq!(bench.system.workers, 1);
    }
}

#[test]
fn a_device_in_an_unknown_mode_is_left_as_it_was() {
    let mut bench = Bench::new(recover(), System::quiesced(Recovery::Reissue));
    bench.system.flags = bench.system.flags.union(Features::SUPPORT_ZERO_COPY);
    let cause = Cause::new(Step::SpawnWorker, Problem::Unsupported);
    assert_eq!(bench.end(), Exit::Failed(cause));
    assert_eq!((bench.system.state, bench.system.workers), (DeviceState::Quiesced, 0));
}

#[test]
fn a_device_is_asked_for_with_its_mode_and_its_recovery() {
    for data in [DataMode::Copy, DataMode::UserCopy, DataMode::ZeroCopy] {
        let Plan::Serve { info, .. } = serve_in(data, Recovery::Reissue, false) else {
            unreachable!("a plan to serve")
        };
        assert_eq!(info.flags, data.features().union(Recovery::Reissue.features()));
    }
}

#[test]
fn linux_6_12_says_einval_when_it_was_told_before() {
    let mut bench = Bench::new(recover(), System::quiesced(Recovery::Requeue));
    bench.system.errnos = [(Kind::StartRecovery, Errno::EINVAL)].into();
    bench.until(Stage::Live);
}

#[test]
fn a_device_that_cannot_be_brought_back_is_left_as_it_was() {
    for (what, plant, cause) in failures() {
        let mut bench = Bench::new(recover(), System::quiesced(Recovery::Reissue));
        plant(&mut bench.system);
        assert_eq!(bench.end(), Exit::Failed(cause), "{what}");
        assert_eq!(bench.system.verdicts, [Verdict::Down { cause, stuck: None }], "{what}");
        assert_eq!(bench.system.worker, None, "{what}");
        let sent = bench.system.kinds();
        assert!(!sent.contains(&Kind::StopDev) && !sent.contains(&Kind::DelDev), "{what}");
    }
}

#[test]
fn what_is_not_to_be_recovered_is_told_apart() {
    let quiesced = || System::quiesced(Recovery::Reissue);
    let served = System {
        state: DeviceState::Live,
        server: Some(7),
        worker: Some(7),
        ..System::new(Recovery::Reissue)
    };
    for (mut system, problem) in [
        (System::quiesced(Recovery::None), Problem::NoRecovery),
        (System { identity: 7, ..quiesced() }, Problem::Foreign),
        (System::new(Recovery::Reissue), Problem::Dead),
        (served, Problem::Served),
    ] {
        for plan in [recover(), ask()] {
            let mut bench = Bench::new(plan, system);
            assert_eq!(bench.end(), Exit::Failed(Cause::new(Step::Recover, problem)));
            assert_eq!((bench.system.asked, bench.system.workers), (0, 0));
            if problem == Problem::Served {
                assert_eq!(bench.system.pauses, [WATCH_MS]);
            }
            system = bench.system;
            system.cq.clear();
            system.sq.clear();
            system.timers.clear();
            system.pauses.clear();
            system.links.clear();
        }
    }
}

#[test]
fn a_worker_that_is_about_to_exit_is_waited_for() {
    for plan in [recover(), ask()] {
        let asks = matches!(plan, Plan::Ask { .. });
        let live = System {
            state: DeviceState::Live,
            server: Some(7),
            worker: Some(7),
            ..System::new(Recovery::Reissue)
        };
        let mut bench = Bench::new(plan, live);
        bench.until(Stage::Watching);
        bench.system.worker_dies(3);
        if asks {
            bench.until(Stage::AskingSupervisor);
            (bench.system.state, bench.system.server) = (DeviceState::Live, Some(8));
            bench.system.worker = Some(8);
            assert_eq!(bench.end(), Exit::Finished);
            assert_eq!(bench.system.asked, 1);
        } else {
            bench.until(Stage::Live);
        }
    }
}

#[test]
fn the_supervisor_of_a_device_is_asked_once_and_the_device_looked_at_until_it_is_live() {
    let mut bench = Bench::new(ask(), System::quiesced(Recovery::Reissue));
    for _ in 0..3 {
        bench.until(Stage::Pausing);
        bench.until(Stage::Commanding(Kind::GetDevInfo));
    }
    (bench.system.state, bench.system.server) = (DeviceState::Live, Some(8));
    bench.system.worker = Some(8);
    assert_eq!(bench.end(), Exit::Finished);
    assert_eq!(bench.system.asked, 1);
    assert!(bench.system.kinds().iter().all(|kind| *kind == Kind::GetDevInfo));

    let mut bench = Bench::new(ask(), System::quiesced(Recovery::Reissue));
    assert_eq!(bench.end(), Exit::Failed(Cause::new(Step::Recover, Problem::Deadline)));

    let mut bench = Bench::new(ask(), System::quiesced(Recovery::Reissue));
    bench.until(Stage::Pausing);
    bench.system.resident = false;
    assert_eq!(bench.end(), Exit::Failed(Cause::new(Step::Recover, Problem::LinkClosed)));

    let gone = System { resident: false, ..System::quiesced(Recovery::Reissue) };
    let exit = Bench::new(ask(), gone).end();
    assert_eq!(exit, Exit::Failed(Cause::errno(Step::AttachSupervisor, Errno::ESRCH)));
}
