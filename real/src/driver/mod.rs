//! The drivers: a thread is *resume the machine, make the call it asks for, resume it with the answer*.

mod launcher;
mod queue;
mod supervisor;
mod worker;

pub use launcher::LauncherDriver;
pub use queue::QueueDriver;
pub use supervisor::{Keeper, Spawn, Spawned, SupervisorDriver};
pub use worker::WorkerDriver;

use std::ops::ControlFlow;
use std::os::fd::OwnedFd;

use blkproof_engine::launcher::Launcher;
use blkproof_engine::link::{Order, Received};
use blkproof_engine::query::Query;
use blkproof_engine::queue::Queue;
use blkproof_engine::record::{Recorded, Sink};
use blkproof_engine::supervisor::Supervisor;
use blkproof_engine::sys::{
    Call, ControlIo, Cqe, Exit, LauncherIo, QueueIo, Ret, SqFull, SupervisorIo, Token, WorkerIo,
};
use blkproof_engine::target::Target;
use blkproof_engine::uapi::Errno;
use blkproof_engine::worker::Worker;

use crate::board::{Publisher, State, View};
use crate::orders;
use crate::os::Completion;

/// Carries out calls.
pub trait Driver {
    /// Makes a call; breaks when the call was the thread's last.
    fn call(&mut self, call: Call) -> ControlFlow<Exit, Ret>;
}

/// A machine of the engine, driven by a `D`.
pub trait Machine<D> {
    /// See the machines' own `resume`.
    fn resume(&mut self, ret: Ret, driver: &mut D) -> Call;
    /// What it is at, and what it waits for.
    fn view(&self) -> View;
}

/// Runs a machine to its end.
pub fn run<D: Driver, M: Machine<D>>(
    machine: &mut M,
    driver: &mut D,
    publisher: &mut Publisher,
) -> Exit {
    let mut ret = Ret::Start;
    loop {
        let call = machine.resume(ret, driver);
        publisher.publish(machine.view());
        match driver.call(call) {
            ControlFlow::Continue(answer) => ret = answer,
            ControlFlow::Break(exit) => return exit,
        }
    }
}

/// The call is on record before it is made, and its result once it is there.
impl<D: Driver, S: Sink> Driver for Recorded<D, S> {
    fn call(&mut self, call: Call) -> ControlFlow<Exit, Ret> {
        self.begins(call);
        let answer = self.driver().call(call);
        if let ControlFlow::Continue(ret) = answer {
            self.ends(ret);
        }
        answer
    }
}

impl<T: Target, D: QueueIo> Machine<D> for Queue<T> {
    fn resume(&mut self, ret: Ret, driver: &mut D) -> Call {
        self.resume(ret, driver)
    }

    fn view(&self) -> View {
        let mut view = View::new(State::Queue(self.phase()));
        self.pending(&mut view);
        view
    }
}

impl<D: WorkerIo> Machine<D> for Worker {
    fn resume(&mut self, ret: Ret, driver: &mut D) -> Call {
        self.resume(ret, driver)
    }

    fn view(&self) -> View {
        let mut view = View::new(State::Worker(self.phase()));
        self.pending(&mut view);
        view
    }
}

impl<D: SupervisorIo> Machine<D> for Supervisor {
    fn resume(&mut self, ret: Ret, driver: &mut D) -> Call {
        self.resume(ret, driver)
    }

    fn view(&self) -> View {
        let mut view = View::new(State::Supervisor(self.stage()));
        self.pending(&mut view);
        view
    }
}

impl<D: LauncherIo> Machine<D> for Launcher {
    fn resume(&mut self, ret: Ret, driver: &mut D) -> Call {
        self.resume(ret, driver)
    }

    fn view(&self) -> View {
        let mut view = View::new(State::Launcher(self.stage()));
        self.pending(&mut view);
        view
    }
}

impl<D: ControlIo> Machine<D> for Query {
    fn resume(&mut self, ret: Ret, driver: &mut D) -> Call {
        self.resume(ret, driver)
    }

    fn view(&self) -> View {
        let mut view = View::new(State::Query(self.stage()));
        self.pending(&mut view);
        view
    }
}

/// What a system call answered, as the machine wants it.
fn done(result: Result<(), Errno>) -> Ret {
    result.map_or_else(Ret::Failed, |()| Ret::Done)
}

/// What an `enter` answered.
fn submitted(result: Result<u32, Errno>) -> Ret {
    result.map_or_else(Ret::Failed, Ret::Submitted)
}

fn sleep(ms: u32) -> Ret {
    std::thread::sleep(std::time::Duration::from_millis(u64::from(ms)));
    Ret::Done
}

fn from_rustix(errno: rustix::io::Errno) -> Errno {
    Errno::from_result(-errno.raw_os_error())
}

/// What the signal that the descriptor reports asks for: in `signalfd_siginfo` its number is `ssi_signo`, its value `ssi_ptr`.
fn take_signal(operator: &OwnedFd) -> Received<Order> {
    const SIGNAL_INFO_BYTES: usize = 128;
    const VALUE: usize = 48;
    let mut info = [0_u8; SIGNAL_INFO_BYTES];
    match rustix::io::read(operator, &mut info[..]) {
        Ok(_) => {
            let number = info.first_chunk().map_or(0, |bytes| i32::from_ne_bytes(*bytes));
            let value = info[VALUE..].first_chunk().map_or(0, |bytes| u64::from_ne_bytes(*bytes));
            Received::Message(orders::order(number, value))
        }
        Err(_) => Received::Empty,
    }
}

fn cqe(completion: Completion) -> Cqe {
    let token =
        Token::decode(completion.user_data).expect("the kernel echoes the user_data of an entry");
    Cqe { token, res: completion.res }
}

/// What a driver's own wiring must have prevented.
fn misplaced(what: &dyn std::fmt::Debug) -> ! {
    unreachable!("I1: no machine of this kind asks for {what:?}")
}

/// The result of a push.
type Push = Result<(), SqFull>;
