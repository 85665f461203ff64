//! A supervisor of a device that outlives its workers, with the kernel and the processes around it.

use std::collections::VecDeque;

use blkproof_engine::cause::{Cause, Step};
use blkproof_engine::control::{Command, Kind, Reply};
use blkproof_engine::data::DataMode;
use blkproof_engine::link::{FromWorker, Link, News, Order, Received, ToWorker, Verdict};
use blkproof_engine::supervisor::{Deadlines, Plan, Recovery, Stage, Supervisor, Wanted};
use blkproof_engine::sys::{
    Call, ControlIo, Cqe, Exit, Ret, Ring, SqFull, Sqe, SupervisorIo, Token, WorkerExit,
};
use blkproof_engine::target::{Null, Target};
use blkproof_engine::uapi::{DevId, DevInfo, DeviceState, Errno, Features};

pub(crate) const ID: DevId = DevId(3);
pub(crate) const IDENTITY: u64 = 42;
pub(crate) const SECTORS: u64 = 2048;
pub(crate) const SUPERVISOR: u32 = 99;

/// What a worker does once it was started.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Fate {
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

/// Something that happens to a system.
pub(crate) type Incident = Box<dyn FnOnce(&mut System)>;

/// The kernel and the processes around a supervisor.
pub(crate) struct System {
    pub(crate) state: DeviceState,
    pub(crate) flags: Features,
    /// The device's size, as its parameters say.
    pub(crate) sectors: u64,
    /// What the worker says to a size that it is told; None: nothing.
    pub(crate) on_size: Option<Result<(), Cause>>,
    /// A worker that is to finish ends in good order.
    pub(crate) finishes: bool,
    /// How it ended.
    pub(crate) exit: WorkerExit,
    /// What is behind the device was given these sizes.
    pub(crate) fitted: Vec<u64>,
    /// It cannot be given the next one.
    pub(crate) fit_errno: Option<Errno>,
    /// Requests are held back.
    pub(crate) held_back: bool,
    pub(crate) identity: u64,
    /// The server that the kernel names.
    pub(crate) server: Option<u32>,
    pub(crate) worker: Option<u32>,
    pub(crate) workers: u32,
    pub(crate) fates: VecDeque<Fate>,
    /// Whether each worker was started from the program as it is now.
    pub(crate) renewed: Vec<bool>,
    /// Looks that it takes until the kernel has noticed that the server is gone.
    pub(crate) slow: u32,
    /// What the next commands of a kind are answered with.
    pub(crate) errnos: VecDeque<(Kind, Errno)>,
    /// A command of this kind is not answered, unless it is cancelled.
    pub(crate) silent: Option<Kind>,
    pub(crate) hanging: Option<u32>,
    /// What happens while it is in flight.
    pub(crate) meanwhile: Option<Incident>,
    /// What it is answered with, once nothing else can happen.
    pub(crate) late: Option<i32>,
    pub(crate) sq: VecDeque<(Option<u32>, Option<Command>, Option<Sqe>)>,
    pub(crate) cq: VecDeque<Cqe>,
    pub(crate) reply: Reply,
    pub(crate) commands: Vec<Command>,
    pub(crate) orders: VecDeque<Order>,
    pub(crate) said: VecDeque<FromWorker>,
    pub(crate) told: Vec<ToWorker>,
    pub(crate) verdicts: Vec<Verdict>,
    pub(crate) news: Vec<News>,
    pub(crate) links: Vec<Link>,
    pub(crate) watches: Vec<Token>,
    pub(crate) timers: Vec<(u32, u32)>,
    pub(crate) pauses: Vec<u32>,
    pub(crate) asked: u32,
    pub(crate) asked_for: Option<Order>,
    pub(crate) resident: bool,
}

impl System {
    pub(crate) fn new(recovery: Recovery) -> Self {
        Self {
            state: DeviceState::Dead,
            flags: recovery.features(),
            sectors: SECTORS,
            on_size: Some(Ok(())),
            finishes: true,
            exit: WorkerExit::Signal(9),
            fitted: Vec::new(),
            fit_errno: None,
            held_back: false,
            identity: IDENTITY,
            server: None,
            worker: None,
            workers: 0,
            fates: VecDeque::new(),
            renewed: Vec::new(),
            slow: 0,
            errnos: VecDeque::new(),
            silent: None,
            hanging: None,
            meanwhile: None,
            late: None,
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
            asked_for: None,
            resident: true,
        }
    }

    /// A device that has lost its server.
    pub(crate) fn quiesced(recovery: Recovery) -> Self {
        Self { state: DeviceState::Quiesced, server: Some(1), ..Self::new(recovery) }
    }

    pub(crate) fn complete(&mut self, token: Token, res: i32) {
        self.cq.push_back(Cqe { token, res });
    }

    pub(crate) fn info(&self) -> DevInfo {
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

    pub(crate) fn kinds(&self) -> Vec<Kind> {
        self.commands.iter().map(Command::kind).collect()
    }

    /// The worker is gone; the kernel notices after `slow` looks.
    pub(crate) fn worker_dies(&mut self, slow: u32) {
        self.worker = None;
        self.exit = WorkerExit::Signal(9);
        self.slow = slow;
        self.notices();
        if let Some(at) = self.watches.iter().position(|token| *token == Token::Worker) {
            self.watches.remove(at);
            self.complete(Token::Worker, 1);
        }
    }

    pub(crate) fn notices(&mut self) {
        if self.slow == 0 && self.state == DeviceState::Live && self.worker.is_none() {
            self.state = DeviceState::Quiesced;
        }
    }

    pub(crate) fn control(&mut self, sequence: u32, command: &Command) {
        let kind = command.kind();
        self.commands.push(command.clone());
        if self.silent == Some(kind) {
            self.silent = None;
            self.hanging = Some(sequence);
            if let Some(happens) = self.meanwhile.take() {
                happens(self);
            }
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
                self.held_back = false;
            }
            Command::GetParams(_) => {
                let params = Null { sectors: self.sectors }.geometry().params(64 << 10);
                self.reply = params.basic.map_or(Reply::Nothing, Reply::Params);
            }
            Command::QuiesceDev(_) => {
                // From now on the device has nobody but its worker to bring it back, who must not outlive its supervisor.
                assert_eq!(self.told.last(), Some(&ToWorker::Handover));
                assert_eq!((self.state, self.held_back), (DeviceState::Live, false));
                self.held_back = true;
            }
            Command::UpdateSize(_, sectors) => self.sectors = sectors,
            Command::TryStopDev(_) | Command::RegBuf(..) => panic!("nobody asked for that"),
        }
        self.complete(Token::Control(sequence), res);
    }

    pub(crate) fn enter(&mut self, wait: u32) {
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
        if wait > 0
            && self.cq.is_empty()
            && let Some(res) = self.late.take_if(|_| self.hanging.is_some())
            && let Some(sequence) = self.hanging.take()
        {
            self.complete(Token::Control(sequence), res);
        }
        if wait > 0 && self.cq.is_empty() {
            // Time passes only when nothing else can happen; only the newest timer is anybody's.
            let timer = self.timers.pop();
            let (generation, ms) = timer.unwrap_or_else(|| panic!("a deadlock: {:?}", self.news));
            self.timers.clear();
            self.pauses.push(ms);
            self.complete(Token::Timer(generation), -62);
        }
    }

    pub(crate) fn spawn(&mut self) -> Ret {
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
        match (message, self.on_size) {
            (ToWorker::Finish, _) if self.finishes => {
                self.worker_dies(0);
                self.exit = WorkerExit::Code(0);
                self.said.push_back(FromWorker::Ended);
            }
            (ToWorker::Resize { sectors }, Some(Ok(()))) => {
                self.said.push_back(FromWorker::Resized { sectors });
            }
            (ToWorker::Resize { .. }, Some(Err(cause))) => {
                self.said.push_back(FromWorker::NotResized(cause));
            }
            _ => {}
        }
    }
    fn tell_launcher(&mut self, verdict: Verdict) {
        self.verdicts.push(verdict);
    }
    fn note(&mut self, news: News) {
        self.news.push(news);
    }
}

/// A supervisor and its system.
pub(crate) struct Bench {
    pub(crate) supervisor: Supervisor,
    pub(crate) system: System,
    pub(crate) call: Call,
}

impl Bench {
    pub(crate) fn new(plan: Plan, system: System) -> Self {
        let mut system = system;
        let mut supervisor = Supervisor::new(plan, Deadlines::DEFAULT);
        let call = supervisor.resume(Ret::Start, &mut system);
        Self { supervisor, system, call }
    }

    /// A LIVE device.
    pub(crate) fn live(recovery: Recovery, restart: bool) -> Self {
        let mut bench = Self::new(serve(recovery, restart), System::new(recovery));
        bench.until(Stage::Live);
        bench
    }

    /// One call.
    pub(crate) fn step(&mut self) -> Option<Exit> {
        let ret = match self.call {
            Call::SetupRing(_) | Call::Sleep { .. } => Ret::Done,
            Call::Enter { submit, wait } => {
                self.system.enter(wait);
                Ret::Submitted(submit)
            }
            Call::SpawnWorker { device, renewed } => {
                self.system.renewed.push(renewed);
                let geometry = (device.queues, device.depth, device.sectors);
                assert_eq!(geometry, (2, 64, self.system.sectors));
                assert_eq!(Some(device.data), DataMode::of(self.system.flags));
                assert_eq!(device.batch, self.system.flags.contains(Features::BATCH_IO));
                self.system.spawn()
            }
            Call::AttachWorker { pid } if self.system.worker == Some(pid) => Ret::Done,
            Call::AttachWorker { .. } => Ret::Failed(Errno::ESRCH),
            Call::AttachSupervisor { pid } => {
                assert_eq!(pid, SUPERVISOR);
                if self.system.resident { Ret::Done } else { Ret::Failed(Errno::ESRCH) }
            }
            Call::AskSupervisor { order } => {
                self.system.asked += 1;
                self.system.asked_for = Some(order);
                Ret::Done
            }
            Call::KillWorker => {
                self.system.worker_dies(0);
                Ret::Done
            }
            Call::ReapWorker => Ret::Exited(self.system.exit),
            Call::FitStore { sectors } => {
                let failed = self.system.fit_errno.take();
                if failed.is_none() {
                    self.system.fitted.push(sectors);
                }
                failed.map_or(Ret::Done, Ret::Failed)
            }
            Call::Exit(exit) => return Some(exit),
            other => panic!("a supervisor never asks for {other:?}"),
        };
        self.call = self.supervisor.resume(ret, &mut self.system);
        None
    }

    pub(crate) fn until(&mut self, stage: Stage) {
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

    pub(crate) fn end(&mut self) -> Exit {
        for _ in 0..10_000 {
            if let Some(exit) = self.step() {
                return exit;
            }
        }
        panic!("it did not end: {:#?}", self.supervisor);
    }

    /// The worker dies, and the supervisor hears of it.
    pub(crate) fn loses_worker(&mut self, slow: u32) {
        self.system.worker_dies(slow);
        while self.supervisor.stage() == Stage::Live {
            assert_eq!(self.step(), None);
        }
    }

    /// Orders something; while a command of it is in flight, something else happens, and only then it is answered.
    pub(crate) fn order_slowly(
        &mut self,
        order: Order,
        kind: Kind,
        meanwhile: impl FnOnce(&mut System) + 'static,
        res: i32,
    ) {
        self.system.silent = Some(kind);
        self.system.meanwhile = Some(Box::new(meanwhile));
        self.system.late = Some(res);
        self.system.orders.push_back(order);
        while self.system.late.is_some() {
            assert_eq!(self.step(), None, "before {kind:?} is answered");
        }
    }

    pub(crate) fn order(&mut self, order: Order) {
        self.system.orders.push_back(order);
        let stage = self.supervisor.stage();
        while !self.system.orders.is_empty() {
            assert_eq!(self.step(), None, "at {stage:?}");
        }
    }
}

pub(crate) fn serve(recovery: Recovery, restart: bool) -> Plan {
    serve_in(DataMode::Copy, recovery, restart)
}

pub(crate) fn serve_in(data: DataMode, recovery: Recovery, restart: bool) -> Plan {
    let wanted = Wanted {
        id: Some(ID),
        queues: 2,
        depth: 64,
        buffer_bytes: 64 << 10,
        data,
        batch: false,
        recovery,
        identity: IDENTITY,
        shared: None,
    };
    Plan::serve(wanted, restart, &Null { sectors: SECTORS })
}

pub(crate) fn recover() -> Plan {
    Plan::Recover { id: ID, identity: IDENTITY, restart: false, shared_bytes: 0 }
}
