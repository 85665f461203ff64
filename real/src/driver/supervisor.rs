//! The supervisor: the control device, the worker process, and the links to it, to the launcher and to the operator.

use std::fmt;
use std::io;
use std::ops::ControlFlow;
use std::os::fd::{AsFd, OwnedFd};

use blkproof_engine::control::{Command, Reply};
use blkproof_engine::link::{FromWorker, Link, News, Order, Received, ToWorker, Verdict};
use blkproof_engine::sys::{
    Call, ControlIo, Cqe, DeviceGeometry, Exit, Ret, Ring, RingSpec, Sqe, SupervisorIo, Token,
    WorkerExit,
};
use blkproof_engine::uapi::Errno;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::process::{Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, WaitIdStatus};

use super::{Driver, Push, cqe, done, from_rustix, misplaced, sleep, submitted, take_signal};
use crate::control::Control;
use crate::peer::Peer;
use crate::process::{self, Process};
use crate::supervisor_process::LOG_PREFIX;
use crate::{orders, os};

/// A worker process that was just started.
#[derive(Debug)]
pub struct Spawned {
    /// The process.
    pub process: Process,
    /// A hold on it.
    pub pidfd: OwnedFd,
    /// The link to it.
    pub link: Peer,
}

/// Starts the worker of a device.
pub type Spawn = Box<dyn FnMut(DeviceGeometry, bool) -> io::Result<Spawned>>;
/// What a supervisor does for its device beside the driver's commands.
pub struct Keeper {
    /// Starts the worker of a device, of the newest program if so asked.
    pub spawn: Spawn,
    /// Gives the store a size in sectors.
    pub fit: Box<dyn FnMut(u64) -> io::Result<()>>,
    /// Hears what is noted down.
    pub hear: Box<dyn FnMut(News)>,
}

impl Keeper {
    /// One that keeps no device.
    fn nobody() -> Self {
        Self {
            spawn: Box::new(|_, _| Err(io::ErrorKind::Unsupported.into())),
            fit: Box::new(|_| Err(io::ErrorKind::Unsupported.into())),
            hear: Box::new(drop),
        }
    }
}

/// Carries out the calls of a [`Supervisor`](blkproof_engine::supervisor::Supervisor).
pub struct SupervisorDriver {
    ring: Option<Control>,
    /// Where SIGTERM, SIGINT and SIGHUP arrive.
    operator: OwnedFd,
    launcher: Option<Peer>,
    keeper: Keeper,
    /// The worker of the device to adopt, as a state file names it.
    known_worker: Option<Process>,
    worker: Option<Worker>,
    /// The supervisor of the device to delete, as a state file names it.
    known_supervisor: Option<Process>,
    supervisor: Option<OwnedFd>,
}

#[derive(Debug)]
struct Worker {
    pidfd: OwnedFd,
    /// None for an adopted worker.
    link: Option<Peer>,
}

impl SupervisorDriver {
    /// A driver for a device that `keeper` keeps.
    pub fn new(operator: OwnedFd, launcher: Peer, keeper: Keeper) -> Self {
        Self {
            ring: None,
            operator,
            launcher: Some(launcher),
            keeper,
            known_worker: None,
            worker: None,
            known_supervisor: None,
            supervisor: None,
        }
    }

    /// A driver that deletes a device, or has it recovered, whose worker and supervisor a state file may name.
    pub fn of_others(
        operator: OwnedFd,
        known_worker: Option<Process>,
        known_supervisor: Option<Process>,
    ) -> Self {
        Self {
            ring: None,
            operator,
            launcher: None,
            keeper: Keeper::nobody(),
            known_worker,
            worker: None,
            known_supervisor,
            supervisor: None,
        }
    }

    fn ring(&self) -> &Control {
        self.ring.as_ref().expect("I1: a machine sets its ring up before it uses it")
    }

    fn ring_mut(&mut self) -> &mut Control {
        self.ring.as_mut().expect("I1: a machine sets its ring up before it uses it")
    }

    fn setup_ring(&mut self, spec: RingSpec) -> Result<(), Errno> {
        self.ring = Some(Control::open(spec)?);
        Ok(())
    }

    fn spawn_worker(&mut self, device: DeviceGeometry, renewed: bool) -> Result<u32, Errno> {
        let spawned = (self.keeper.spawn)(device, renewed).map_err(|error| os::errno(&error))?;
        let pid = spawned.process.pid;
        self.worker = Some(Worker { pidfd: spawned.pidfd, link: Some(spawned.link) });
        Ok(pid)
    }

    /// Gets hold of a process, then makes sure that it is the worker: in this order, the descriptor cannot come to mean another process.
    fn attach_worker(&mut self, pid: u32) -> Result<(), Errno> {
        let pidfd = open_pidfd(pid)?;
        let same = match self.known_worker {
            Some(known) if known.pid == pid => known.is_running(),
            _ => process::comm(pid).is_some_and(|comm| comm == process::WORKER_COMM),
        };
        if !same {
            return Err(Errno::ESRCH);
        }
        self.worker = Some(Worker { pidfd, link: None });
        Ok(())
    }

    fn kill_worker(&self) -> Result<(), Errno> {
        let worker = self.worker.as_ref().expect("I1: a supervisor kills the worker it has");
        rustix::process::pidfd_send_signal(&worker.pidfd, Signal::KILL).map_err(from_rustix)
    }

    /// In the same order, for the same reason.
    fn attach_supervisor(&mut self, pid: u32) -> Result<(), Errno> {
        let pidfd = open_pidfd(pid)?;
        if !self.known_supervisor.is_some_and(|known| known.pid == pid && known.is_running()) {
            return Err(Errno::ESRCH);
        }
        self.supervisor = Some(pidfd);
        Ok(())
    }

    fn signal_supervisor(&self, signal: Signal) -> Result<(), Errno> {
        let pidfd = self.supervisor.as_ref().expect("I1: a supervisor asks the one it has");
        rustix::process::pidfd_send_signal(pidfd, signal).map_err(from_rustix)
    }

    fn order_supervisor(&self, order: Order) -> Result<(), Errno> {
        let pidfd = self.supervisor.as_ref().expect("I1: a supervisor asks the one it has");
        let (signal, value) = orders::signal(order);
        os::signal_with_value(pidfd.as_fd(), signal, value)
    }

    fn reap_worker(&self) -> Ret {
        let worker = self.worker.as_ref().expect("I1: a supervisor reaps the worker it has");
        let id = WaitId::PidFd(worker.pidfd.as_fd());
        match rustix::process::waitid(id, WaitIdOptions::EXITED | WaitIdOptions::NOHANG) {
            Ok(Some(status)) => Ret::Exited(worker_exit(&status)),
            Ok(None) => Ret::Running,
            // Not our child: its status is another's to know, its end anybody's.
            Err(_) if has_ended(&worker.pidfd) => Ret::Exited(WorkerExit::Unknown),
            Err(_) => Ret::Running,
        }
    }

    /// The link to the worker, if it is our own.
    fn link(&self) -> Option<&Peer> {
        self.worker.as_ref()?.link.as_ref()
    }
}

/// Whether a process has exited.
fn has_ended(pidfd: &OwnedFd) -> bool {
    let mut fds = [PollFd::new(pidfd, PollFlags::IN)];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    rustix::event::poll(&mut fds, Some(&now)).is_ok_and(|ready| ready > 0)
}

fn worker_exit(status: &WaitIdStatus) -> WorkerExit {
    if let Some(code) = status.exit_status() {
        WorkerExit::Code(code as u8)
    } else if let Some(signal) = status.terminating_signal() {
        WorkerExit::Signal(signal as u8)
    } else {
        WorkerExit::Unknown
    }
}

fn open_pidfd(pid: u32) -> Result<OwnedFd, Errno> {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or(Errno::ESRCH)?;
    rustix::process::pidfd_open(pid, PidfdFlags::empty()).map_err(from_rustix)
}

impl Driver for SupervisorDriver {
    fn call(&mut self, call: Call) -> ControlFlow<Exit, Ret> {
        ControlFlow::Continue(match call {
            Call::SetupRing(spec) => done(self.setup_ring(spec)),
            Call::Enter { submit, wait } => submitted(self.ring_mut().enter(submit, wait)),
            Call::Sleep { ms } => sleep(ms),
            Call::SpawnWorker { device, renewed } => {
                self.spawn_worker(device, renewed).map_or_else(Ret::Failed, Ret::Spawned)
            }
            Call::AttachWorker { pid } => done(self.attach_worker(pid)),
            Call::KillWorker => done(self.kill_worker()),
            Call::ReapWorker => self.reap_worker(),
            Call::AttachSupervisor { pid } => done(self.attach_supervisor(pid)),
            Call::StopSupervisor => done(self.signal_supervisor(Signal::TERM)),
            Call::AskSupervisor { order } => done(self.order_supervisor(order)),
            Call::FitStore { sectors } => {
                done((self.keeper.fit)(sectors).map_err(|error| os::errno(&error)))
            }
            Call::Exit(exit) => return ControlFlow::Break(exit),
            Call::OpenChar
            | Call::SpawnQueue { .. }
            | Call::MapQueue { .. }
            | Call::FindNode { .. } => misplaced(&call),
        })
    }
}

impl Ring for SupervisorDriver {
    fn sq_space(&self) -> u32 {
        self.ring().sq_space()
    }

    fn sq_ready(&self) -> u32 {
        self.ring().sq_ready()
    }

    fn push(&mut self, sqe: Sqe) -> Push {
        let user_data = sqe.token().encode();
        let ring = self.ring.as_mut().expect("I1: a machine sets its ring up before it uses it");
        let worker = self.worker.as_ref();
        match sqe {
            Sqe::Watch { link: Link::Operator } => ring.push_poll(self.operator.as_fd(), user_data),
            Sqe::Watch { link: Link::Worker } => {
                let link = worker.and_then(|worker| worker.link.as_ref());
                let link = link.expect("I1: a link is watched while it exists");
                ring.push_poll(link.as_fd(), user_data)
            }
            Sqe::WatchWorker => {
                let worker = worker.expect("I1: a supervisor watches the worker it has");
                ring.push_poll(worker.pidfd.as_fd(), user_data)
            }
            Sqe::WatchSupervisor => {
                let pidfd =
                    self.supervisor.as_ref().expect("I1: a supervisor watches the one it has");
                ring.push_poll(pidfd.as_fd(), user_data)
            }
            Sqe::Timer { generation: _, ms } => ring.push_timer(ms, user_data),
            Sqe::CancelControl { sequence } => {
                let target = Token::Control(sequence).encode();
                ring.push_cancel(target, user_data)
            }
            Sqe::Watch { .. }
            | Sqe::Fetch { .. }
            | Sqe::Commit { .. }
            | Sqe::GetData { .. }
            | Sqe::FetchTags
            | Sqe::Register { .. }
            | Sqe::Unregister { .. }
            | Sqe::Backend { .. } => misplaced(&sqe),
        }
    }

    fn reap(&mut self) -> Option<Cqe> {
        self.ring_mut().reap().map(cqe)
    }
}

impl SupervisorIo for SupervisorDriver {
    fn hear_operator(&mut self) -> Received<Order> {
        take_signal(&self.operator)
    }

    fn hear_worker(&mut self) -> Received<FromWorker> {
        self.link().map_or(Received::Closed, Peer::hear)
    }

    fn tell_worker(&mut self, message: ToWorker) {
        if let Some(link) = self.link() {
            link.tell(&message);
        }
    }

    fn tell_launcher(&mut self, verdict: Verdict) {
        if let Some(launcher) = &self.launcher {
            launcher.tell(&verdict);
        }
    }

    fn note(&mut self, news: News) {
        let text = match news {
            News::WorkerLost(cause) => format!("the device has lost its worker: {cause}"),
            News::WorkerEnded => "the worker ended, though nobody had asked it to".into(),
            News::Recovered => "the device is LIVE again, with another worker".into(),
            News::RecoveryFailed(cause) => format!("the device could not be recovered: {cause}"),
            News::HandingOver => "the worker is being replaced by another one".into(),
            News::Resized(sectors) => format!("the device has {sectors} sectors of 512 bytes"),
            News::Refused(cause) => format!("refused: {cause}"),
            News::Unserved => "the device has no worker; `blkproof recover` gives it one".into(),
        };
        process::report(&format!("{LOG_PREFIX}{text}"));
        (self.keeper.hear)(news);
    }
}

impl ControlIo for SupervisorDriver {
    fn push_control(&mut self, sequence: u32, command: &Command) -> Push {
        self.ring_mut().push(Token::Control(sequence), command)
    }

    fn reply(&self) -> Reply {
        self.ring().reply()
    }
}

impl fmt::Debug for SupervisorDriver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SupervisorDriver").field("worker", &self.worker).finish_non_exhaustive()
    }
}
