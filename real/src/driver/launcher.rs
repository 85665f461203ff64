//! The launcher: the link to the supervisor, the operator's signals, and the device's node.

use std::ops::ControlFlow;
use std::os::fd::{AsFd, OwnedFd};

use blkproof_engine::link::{Link, Order, Received, Verdict};
use blkproof_engine::sys::{Call, Cqe, Exit, LauncherIo, Ret, Ring, Sqe};
use blkproof_engine::uapi::{DevId, Errno};
use rustix::process::{Pid, Signal};

use super::{Driver, Push, cqe, done, from_rustix, misplaced, sleep, submitted, take_signal};
use crate::devices;
use crate::os::{Entry64, PlainRing};
use crate::peer::Peer;

/// Carries out the calls of a [`Launcher`](blkproof_engine::launcher::Launcher).
#[derive(Debug)]
pub struct LauncherDriver {
    ring: Option<PlainRing<Entry64>>,
    /// Where SIGTERM, SIGINT and SIGHUP arrive.
    operator: OwnedFd,
    supervisor: Peer,
    /// The supervisor, unless it is this very process.
    pid: Option<u32>,
}

impl LauncherDriver {
    /// A driver that hears the supervisor on `supervisor`, and hands signals on to the process `pid`.
    pub const fn new(operator: OwnedFd, supervisor: Peer, pid: Option<u32>) -> Self {
        Self { ring: None, operator, supervisor, pid }
    }

    fn ring(&self) -> &PlainRing<Entry64> {
        self.ring.as_ref().expect("I1: a machine sets its ring up before it uses it")
    }

    fn ring_mut(&mut self) -> &mut PlainRing<Entry64> {
        self.ring.as_mut().expect("I1: a machine sets its ring up before it uses it")
    }

    /// The supervisor is a child that nobody reaps before this: its number cannot have come to mean another process.
    fn stop_supervisor(&self) -> Result<(), Errno> {
        let pid = self.pid.and_then(|pid| Pid::from_raw(pid.cast_signed())).ok_or(Errno::ESRCH)?;
        rustix::process::kill_process(pid, Signal::TERM).map_err(from_rustix)
    }
}

fn find_node(device: DevId) -> Result<(), Errno> {
    rustix::fs::stat(devices::block_path(device)).map(drop).map_err(from_rustix)
}

impl Driver for LauncherDriver {
    fn call(&mut self, call: Call) -> ControlFlow<Exit, Ret> {
        ControlFlow::Continue(match call {
            Call::SetupRing(spec) => done(PlainRing::new(spec).map(|ring| self.ring = Some(ring))),
            Call::Enter { submit, wait } => submitted(self.ring_mut().enter(submit, wait)),
            Call::Sleep { ms } => sleep(ms),
            Call::StopSupervisor => done(self.stop_supervisor()),
            Call::FindNode { device } => done(find_node(device)),
            Call::Exit(exit) => return ControlFlow::Break(exit),
            Call::SpawnWorker { .. }
            | Call::AttachWorker { .. }
            | Call::KillWorker
            | Call::ReapWorker
            | Call::AttachSupervisor { .. }
            | Call::AskSupervisor { .. }
            | Call::FitStore { .. }
            | Call::OpenChar
            | Call::SpawnQueue { .. }
            | Call::MapQueue { .. } => misplaced(&call),
        })
    }
}

impl Ring for LauncherDriver {
    fn sq_space(&self) -> u32 {
        self.ring().sq_space()
    }

    fn sq_ready(&self) -> u32 {
        self.ring().sq_ready()
    }

    fn push(&mut self, sqe: Sqe) -> Push {
        let user_data = sqe.token().encode();
        let ring = self.ring.as_mut().expect("I1: a machine sets its ring up before it uses it");
        match sqe {
            Sqe::Watch { link: Link::Supervisor } => {
                ring.push_poll(self.supervisor.as_fd(), user_data)
            }
            Sqe::Watch { link: Link::Operator } => ring.push_poll(self.operator.as_fd(), user_data),
            Sqe::Timer { generation: _, ms } => ring.push_timer(ms, user_data),
            Sqe::Watch { link: Link::Worker | Link::Queues }
            | Sqe::Fetch { .. }
            | Sqe::Commit { .. }
            | Sqe::GetData { .. }
            | Sqe::FetchTags
            | Sqe::Register { .. }
            | Sqe::Unregister { .. }
            | Sqe::Backend { .. }
            | Sqe::WatchWorker
            | Sqe::WatchSupervisor
            | Sqe::CancelControl { .. } => misplaced(&sqe),
        }
    }

    fn reap(&mut self) -> Option<Cqe> {
        self.ring_mut().reap().map(cqe)
    }
}

impl LauncherIo for LauncherDriver {
    fn hear_operator(&mut self) -> Received<Order> {
        take_signal(&self.operator)
    }

    fn hear_supervisor(&mut self) -> Received<Verdict> {
        self.supervisor.hear()
    }
}
