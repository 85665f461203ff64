//! What is on the other side of a machine: calls, submissions and completions.

use std::collections::VecDeque;

use blkproof_engine::cause::{Cause, Problem, Step};
use blkproof_engine::control::Command;
use blkproof_engine::link::{Link, Order, Received};
use blkproof_engine::sys::{Call, Cqe, Ret, Ring, SqFull, Sqe, Token, WorkerExit};
use blkproof_engine::uapi::Errno;

/// Results that a submission may have.
pub(super) const RESULTS: [i32; 16] =
    [0, 0, 0, 1, 512, 4_096, i32::MAX, -4, -5, -11, -16, -19, -22, -62, -125, i32::MIN + 1];

/// An input, byte by byte; after its end, 0.
pub(super) struct Input<'a>(pub(super) &'a [u8]);

impl Input<'_> {
    pub(super) fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *first
    }

    pub(super) fn below(&mut self, n: usize) -> usize {
        usize::from(self.byte()) % n
    }

    /// Which message there is, if the input goes on: links do not hold any number of them.
    pub(super) fn message(&mut self, n: usize) -> Option<usize> {
        (!self.0.is_empty()).then(|| self.below(n))
    }

    pub(super) fn number(&mut self) -> u32 {
        u32::from_le_bytes([self.byte(), self.byte(), self.byte(), self.byte()])
    }

    pub(super) fn errno(&mut self) -> Errno {
        Errno(1 + u16::from(self.byte()))
    }

    pub(super) fn cause(&mut self) -> Cause {
        Cause::new(Step::Worker, Problem::Errno(self.errno()))
    }
}

/// The other side of everything.
#[expect(clippy::struct_excessive_bools, reason = "each is one independent fact")]
pub(super) struct Kernel<'a> {
    pub(super) input: Input<'a>,
    pub(super) entries: usize,
    pub(super) sq: VecDeque<Token>,
    pub(super) flight: Vec<Token>,
    pub(super) cq: VecDeque<(Cqe, bool)>,
    /// Of the fetch whose completion was reaped last: whether it goes on.
    pub(super) goes_on: bool,
    /// The command in flight, or completed last, and what it carried.
    pub(super) command: Option<Command>,
    /// The size that the peer was told of, or tells of, and that is not answered.
    pub(super) resizes: bool,
    /// A queue was told to fetch.
    pub(super) to_prime: bool,
    /// Who is asked for messages will hear no more.
    pub(super) closed: bool,
    /// What each queue has said.
    pub(super) queues: Vec<Said>,
    pub(super) depth: u16,
    /// What the machine came to do, so that a test sees whether inputs get anywhere.
    pub(super) did: Did,
}

/// How often a machine did what it is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Did {
    pub(super) commits: u32,
    pub(super) starts: u32,
    pub(super) deletions: u32,
    pub(super) queues: u32,
}

/// Whether a queue's thread can say something.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Life {
    #[default]
    Unborn,
    Runs,
    Over,
}

/// How far a queue is with its tags.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Primes {
    #[default]
    Unready,
    Ready,
    Told,
    Primed,
}

/// What a queue has said so far.
#[derive(Clone, Copy, Default)]
pub(super) struct Said {
    pub(super) life: Life,
    pub(super) primes: Primes,
    pub(super) resizes: bool,
}

impl<'a> Kernel<'a> {
    pub(super) fn new(input: Input<'a>, entries: u32, queues: u16, depth: u16) -> Self {
        Self {
            input,
            entries: entries as usize,
            sq: VecDeque::new(),
            flight: Vec::new(),
            cq: VecDeque::new(),
            goes_on: true,
            command: None,
            resizes: false,
            to_prime: false,
            closed: false,
            queues: vec![Said::default(); usize::from(queues)],
            depth,
            did: Did::default(),
        }
    }

    /// What a call comes to. `None` when the machine waits for what will never come, or has ended.
    pub(super) fn call(&mut self, call: Call) -> Option<Ret> {
        let fails = self.input.below(8) == 7;
        let failed = |input: &mut Input<'_>| Some(Ret::Failed(input.errno()));
        match call {
            Call::Exit(_) => None,
            Call::Enter { submit, wait } => self.enter(submit, wait),
            Call::Sleep { .. } => Some(Ret::Done),
            Call::SetupRing(spec) => {
                self.entries = spec.entries as usize;
                if fails { failed(&mut self.input) } else { Some(Ret::Done) }
            }
            Call::SpawnWorker { .. } if fails => failed(&mut self.input),
            Call::SpawnWorker { .. } => {
                (self.closed, self.resizes) = (false, false);
                Some(Ret::Spawned(2 + u32::from(self.input.byte())))
            }
            Call::ReapWorker => Some(match self.input.below(4) {
                0 => Ret::Exited(WorkerExit::Code(self.input.byte())),
                1 => Ret::Exited(WorkerExit::Signal(self.input.byte())),
                2 => Ret::Exited(WorkerExit::Unknown),
                _ => Ret::Running,
            }),
            Call::KillWorker
            | Call::AttachWorker { .. }
            | Call::AttachSupervisor { .. }
            | Call::StopSupervisor
            | Call::AskSupervisor { .. } => {
                Some(if fails { Ret::Failed(Errno::ESRCH) } else { Ret::Done })
            }
            Call::FindNode { .. } => {
                Some(if fails { Ret::Failed(Errno::ENOENT) } else { Ret::Done })
            }
            Call::SpawnQueue { config } if !fails => {
                self.queues[usize::from(config.id.0)].life = Life::Runs;
                self.did.queues += 1;
                Some(Ret::Done)
            }
            Call::OpenChar
            | Call::FitStore { .. }
            | Call::MapQueue { .. }
            | Call::SpawnQueue { .. } => {
                if fails {
                    failed(&mut self.input)
                } else {
                    Some(Ret::Done)
                }
            }
        }
    }

    fn enter(&mut self, submit: u32, wait: u32) -> Option<Ret> {
        let ready = self.sq.len().min(submit as usize);
        let how = self.input.below(8);
        if how == 7 {
            return Some(Ret::Failed(self.input.errno()));
        }
        let taken = if how == 6 { self.input.below(ready + 1) } else { ready };
        self.flight.extend(self.sq.drain(..taken));
        let mut completed = self.input.below(4);
        if wait > 0 && self.cq.is_empty() && completed == 0 {
            completed = 1;
        }
        for _ in 0..completed {
            self.complete();
        }
        let stuck = wait > 0 && self.cq.is_empty() && taken == 0;
        (!stuck).then_some(Ret::Submitted(taken as u32))
    }

    /// One of the submissions in flight completes.
    fn complete(&mut self) {
        if self.flight.is_empty() {
            return;
        }
        let mut which = self.input.below(self.flight.len());
        if matches!(self.flight[which], Token::Timer(_)) && self.input.below(4) > 0 {
            // Deadlines pass now and then, not before everything else.
            which = (which + 1) % self.flight.len();
        }
        let token = self.flight[which];
        let mut res = RESULTS[self.input.below(RESULTS.len())];
        if matches!(token, Token::Control(_)) && self.input.below(8) > 0 {
            // A start takes a dozen commands: most succeed, or none would be tried.
            res = 0;
        }
        let goes_on = token == Token::Tags && self.input.below(4) > 0;
        if token == Token::Tags {
            // Tags that are told of are as many as the queue has, at most.
            res = res.min(i32::from(self.depth));
        }
        if !goes_on {
            self.flight.swap_remove(which);
        }
        self.cq.push_back((Cqe { token, res }, goes_on));
    }

    pub(super) fn order(&mut self) -> Received<Order> {
        let Some(what) = self.input.message(64) else { return Received::Empty };
        match what {
            0 => Received::Message(Order::Stop),
            1 => Received::Message(Order::Recover),
            2 => Received::Message(Order::Handover),
            3 => Received::Message(Order::Resize { sectors: self.input.number().into() }),
            _ => Received::Empty,
        }
    }
}

impl Ring for Kernel<'_> {
    fn sq_space(&self) -> u32 {
        (self.entries - self.sq.len()) as u32
    }

    fn sq_ready(&self) -> u32 {
        self.sq.len() as u32
    }

    fn push(&mut self, sqe: Sqe) -> Result<(), SqFull> {
        assert!(self.sq.len() < self.entries, "I3: a push never fails: {sqe:?}");
        self.did.commits += u32::from(matches!(sqe, Sqe::Commit { .. }));
        // The word to fetch comes at once: noise alone would rarely get past it.
        if matches!(sqe, Sqe::Watch { link: Link::Worker }) && !self.to_prime {
            self.cq.push_back((Cqe { token: sqe.token(), res: 1 }, true));
            return Ok(());
        }
        self.sq.push_back(sqe.token());
        Ok(())
    }

    fn reap(&mut self) -> Option<Cqe> {
        let (cqe, goes_on) = self.cq.pop_front()?;
        if cqe.token == Token::Tags {
            self.goes_on = goes_on;
        }
        Some(cqe)
    }
}
