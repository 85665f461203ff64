//! The launcher: a verdict, an interrupt, a silence, and a node that comes late.

use std::collections::VecDeque;

use blkproof_engine::cause::{Cause, Problem, Step};
use blkproof_engine::launcher::{Launcher, NODE_ATTEMPTS_MAX, Stage};
use blkproof_engine::link::{Link, Order, Received, Verdict};
use blkproof_engine::supervisor::Deadlines;
use blkproof_engine::sys::{Call, Cqe, Exit, LauncherIo, Ret, Ring, SqFull, Sqe, Token};
use blkproof_engine::uapi::{DevId, Errno};

const ID: DevId = DevId(5);

/// The system around a launcher.
#[derive(Default)]
struct System {
    sq: VecDeque<Sqe>,
    cq: VecDeque<Cqe>,
    said: VecDeque<Verdict>,
    closed: bool,
    orders: u8,
    /// The supervisor was asked to stop.
    stopped: bool,
    watches: Vec<Link>,
    timers: Vec<u32>,
}

impl System {
    fn enter(&mut self, wait: u32) {
        while let Some(sqe) = self.sq.pop_front() {
            match sqe {
                Sqe::Watch { link } => self.watches.push(link),
                Sqe::Timer { generation, .. } => self.timers.push(generation),
                other => panic!("a launcher never submits {other:?}"),
            }
        }
        for link in std::mem::take(&mut self.watches) {
            let ready = match link {
                Link::Supervisor => !self.said.is_empty() || self.closed,
                Link::Operator => self.orders > 0,
                Link::Worker | Link::Queues => panic!("a launcher never watches {link:?}"),
            };
            if ready {
                self.cq.push_back(Cqe { token: Token::Link(link), res: 1 });
            } else {
                self.watches.push(link);
            }
        }
        if wait > 0 && self.cq.is_empty() {
            let generation = self.timers.pop().expect("no wait without a deadline");
            self.timers.clear();
            self.cq.push_back(Cqe { token: Token::Timer(generation), res: -62 });
        }
    }
}

impl Ring for System {
    fn sq_space(&self) -> u32 {
        8 - self.sq.len() as u32
    }
    fn sq_ready(&self) -> u32 {
        self.sq.len() as u32
    }
    fn push(&mut self, sqe: Sqe) -> Result<(), SqFull> {
        assert!(self.sq.len() < 8, "I3");
        self.sq.push_back(sqe);
        Ok(())
    }
    fn reap(&mut self) -> Option<Cqe> {
        self.cq.pop_front()
    }
}

impl LauncherIo for System {
    fn hear_operator(&mut self) -> Received<Order> {
        if self.orders == 0 {
            return Received::Empty;
        }
        self.orders -= 1;
        Received::Message(Order::Stop)
    }
    fn hear_supervisor(&mut self) -> Received<Verdict> {
        match self.said.pop_front() {
            Some(verdict) => Received::Message(verdict),
            None if self.closed => Received::Closed,
            None => Received::Empty,
        }
    }
}

/// Runs a launcher whose device's node appears at the look of that number. A supervisor that is asked to stop says so.
fn run(system: &mut System, node_at: u16) -> (Exit, Launcher) {
    let mut launcher = Launcher::new(Deadlines::DEFAULT);
    let (mut ret, mut looks) = (Ret::Start, 0);
    for _ in 0..10_000 {
        ret = match launcher.resume(ret, system) {
            Call::SetupRing(_) => Ret::Done,
            Call::Enter { submit, wait } => {
                system.enter(wait);
                Ret::Submitted(submit)
            }
            Call::StopSupervisor => {
                system.stopped = true;
                let cause = Cause::new(Step::Prime, Problem::Stopped);
                system.said.push_back(Verdict::Down { cause, stuck: None });
                system.closed = true;
                Ret::Done
            }
            Call::FindNode { device } => {
                assert_eq!(device, ID);
                looks += 1;
                if looks >= node_at { Ret::Done } else { Ret::Failed(Errno::ENOENT) }
            }
            Call::Exit(exit) => {
                assert_eq!(launcher.stage(), Stage::Ended);
                return (exit, launcher);
            }
            other => panic!("a launcher never asks for {other:?}"),
        };
    }
    panic!("the launcher did not end")
}

#[test]
fn a_device_that_is_up_is_told_when_its_node_is_there() {
    for (node_at, found) in [(1, true), (7, true), (NODE_ATTEMPTS_MAX + 1, false)] {
        let mut system = System { said: [Verdict::Up(ID)].into(), ..System::default() };
        let (exit, launcher) = run(&mut system, node_at);
        assert_eq!(exit, Exit::Finished);
        assert_eq!((launcher.device(), launcher.found_node()), (Some(ID), found));
    }
}

#[test]
fn a_device_that_is_down_is_told_with_its_cause_whether_or_not_the_supervisor_exits() {
    let cause = Cause::errno(Step::OpenChar, Errno::EACCES);
    for closed in [true, false] {
        for (stuck, expected) in [
            (None, Exit::Failed(cause)),
            (Some(Step::DelDev), Exit::Stuck { cause, step: Step::DelDev }),
        ] {
            let said = [Verdict::Down { cause, stuck }].into();
            let mut system = System { said, closed, ..System::default() };
            assert_eq!(run(&mut system, 1).0, expected);
        }
    }
}

#[test]
fn an_interrupt_is_handed_on_and_the_verdict_still_heard() {
    let mut system = System { orders: 2, ..System::default() };
    let (exit, launcher) = run(&mut system, 1);
    assert!(system.stopped);
    assert_eq!(exit, Exit::Failed(Cause::new(Step::Prime, Problem::Stopped)));
    assert_eq!(launcher.device(), None);
}

#[test]
fn an_end_without_a_word_and_a_silence_are_told_apart() {
    for (closed, problem) in [(true, Problem::LinkClosed), (false, Problem::Deadline)] {
        let mut system = System { closed, ..System::default() };
        let (exit, _) = run(&mut system, 1);
        assert_eq!(exit, Exit::Failed(Cause::new(Step::Verdict, problem)));
    }
}

#[test]
fn a_supervisor_that_cannot_be_waited_for_is_stopped() {
    let mut system = System::default();
    let mut launcher = Launcher::new(Deadlines::DEFAULT);
    assert!(matches!(launcher.resume(Ret::Start, &mut system), Call::SetupRing(_)));
    let refused = Ret::Failed(Errno::ENOMEM);
    assert_eq!(launcher.resume(refused, &mut system), Call::StopSupervisor);
    let exit = Exit::Failed(Cause::errno(Step::LauncherRing, Errno::ENOMEM));
    assert_eq!(launcher.resume(Ret::Done, &mut system), Call::Exit(exit));
}
