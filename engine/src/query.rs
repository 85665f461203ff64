//! One question to the driver: a control command that changes nothing, under a deadline.

use crate::cause::{Cause, Problem, Step};
use crate::control::{Command, Reply};
use crate::pending::{Awaits, Otherwise, Owner, Pending, PendingSink};
use crate::pump::Pump;
use crate::sys::{Call, ControlIo, Cqe, Exit, Ret, RingMode, RingSpec, Sqe, Token};
use crate::uapi::Errno;

/// How long an answer may take, in milliseconds: the driver answers at once, whatever state its devices are in.
pub const DEADLINE_MS: u32 = 5_000;
/// Only one command is ever sent.
const SEQUENCE: u32 = 1;
/// The command and its deadline.
const RING_ENTRIES: u32 = 4;

/// Where the question stands.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum Stage {
    /// Not resumed yet.
    Boot,
    /// The ring is being created.
    SettingUp,
    /// The command is in flight.
    Waiting,
    /// Answered, or given up.
    Ended,
}

/// The machine that asks.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Query {
    command: Command,
    stage: Stage,
    pump: Pump,
    reply: Option<Reply>,
}

impl Query {
    /// A question that was not asked yet.
    pub const fn new(command: Command) -> Self {
        Self { command, stage: Stage::Boot, pump: Pump::new(0), reply: None }
    }

    /// Where it stands.
    pub const fn stage(&self) -> Stage {
        self.stage
    }

    /// The answer, once it has ended well.
    pub const fn reply(&self) -> Option<Reply> {
        self.reply
    }

    fn end(&mut self, exit: Exit) -> Call {
        self.stage = Stage::Ended;
        Call::Exit(exit)
    }

    fn fail(&mut self, problem: Problem) -> Call {
        let step = self.command.kind().step();
        self.end(Exit::Failed(Cause::new(step, problem)))
    }

    /// Goes on after the last call returned `ret`. O(1).
    pub fn resume(&mut self, ret: Ret, io: &mut impl ControlIo) -> Call {
        match self.stage {
            Stage::Boot => {
                self.stage = Stage::SettingUp;
                return Call::SetupRing(RingSpec {
                    entries: RING_ENTRIES,
                    mode: RingMode::Control,
                });
            }
            Stage::SettingUp => {
                if let Ret::Failed(errno) = ret {
                    return self.end(Exit::Failed(Cause::errno(Step::ControlRing, errno)));
                }
                self.stage = Stage::Waiting;
                let timer = Sqe::Timer { generation: SEQUENCE, ms: DEADLINE_MS };
                let pushed = io.push_control(SEQUENCE, &self.command).and_then(|()| io.push(timer));
                pushed.expect("I3: the ring has room for a command and its deadline");
            }
            Stage::Waiting => {
                if let Err(errno) = self.pump.turn(ret) {
                    return self.fail(Problem::Errno(errno));
                }
            }
            Stage::Ended => unreachable!("I1: a question that was answered was resumed"),
        }
        match self.pump.next(io) {
            Some(Cqe { token: Token::Control(SEQUENCE), res }) if res < 0 => {
                self.fail(Problem::Errno(Errno::from_result(res)))
            }
            Some(Cqe { token: Token::Control(SEQUENCE), res: _ }) => {
                self.reply = Some(io.reply());
                self.end(Exit::Finished)
            }
            Some(Cqe { token: Token::Timer(_), res: _ }) => self.fail(Problem::Deadline),
            Some(Cqe {
                token:
                    Token::Io(_)
                    | Token::Backend(_)
                    | Token::Slot(_)
                    | Token::Prep
                    | Token::Commits
                    | Token::Tags
                    | Token::Link(_)
                    | Token::Worker
                    | Token::Supervisor
                    | Token::Control(_)
                    | Token::Cancel,
                res: _,
            }) => unreachable!("I1: a completion of something never submitted"),
            None => self.pump.park(io, false),
        }
    }

    /// What it waits for, and who owes it.
    pub fn pending(&self, sink: &mut impl PendingSink) {
        let awaits = match self.stage {
            Stage::Boot | Stage::SettingUp => Awaits::CallReturn,
            Stage::Waiting => Awaits::Control(self.command.kind().uapi().name()),
            Stage::Ended => return,
        };
        sink.pending(Pending { awaits, owner: Owner::Kernel, otherwise: Otherwise::GiveUp });
    }
}
