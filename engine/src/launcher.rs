//! The launcher: waits for a supervisor's verdict, hands an interrupt of `add` on to it, and waits for the device's node.

use crate::cause::{Cause, Problem, Step};
use crate::link::{Link, Order, Received, Verdict};
use crate::pending::{Awaits, Otherwise, Owner, Pending, PendingSink};
use crate::pump::Pump;
use crate::supervisor::Deadlines;
use crate::sys::{Call, Cqe, Exit, LauncherIo, Ret, RingMode, RingSpec, Sqe, Token, mismatch};
use crate::uapi::DevId;

/// The pause between two looks for the node, in milliseconds.
pub const NODE_RETRY_MS: u32 = 10;
/// How often the launcher looks for the node: some 5 seconds.
pub const NODE_ATTEMPTS_MAX: u16 = 500;
/// Entries of the launcher's ring: two watches and a timer.
const RING_ENTRIES: u32 = 8;
/// The most entries that handling one completion pushes: a watch renewed, and a timer.
const PUSHES_PER_COMPLETION_MAX: u8 = 2;

/// What the launcher is at.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum Stage {
    /// Not resumed yet.
    Boot,
    /// The ring is being created.
    SettingUp,
    /// Waiting for the verdict.
    Waiting,
    /// The supervisor is being asked to stop.
    Stopping,
    /// The device is up; looking for its node.
    Finding,
    /// The node was not there; waiting before the next look.
    Pausing,
    /// The device is down; waiting for the supervisor to have tidied up.
    Closing,
    /// The launcher has exited.
    Ended,
}

/// The machine of the launcher.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Launcher {
    stage: Stage,
    deadlines: Deadlines,
    pump: Pump,
    /// The current timer's generation.
    generation: u32,
    /// Looks for the node so far.
    attempts: u16,
    /// There is something to wait on.
    ring: bool,
    /// The device was there before: an interrupt ends the wait, and nothing else.
    recovery: bool,
    up: Option<DevId>,
    node: bool,
    end: Exit,
}

impl Launcher {
    /// A launcher whose supervisor has just been started.
    pub const fn new(deadlines: Deadlines) -> Self {
        Self {
            stage: Stage::Boot,
            deadlines,
            pump: Pump::new(PUSHES_PER_COMPLETION_MAX),
            generation: 0,
            attempts: 0,
            ring: false,
            recovery: false,
            up: None,
            node: false,
            end: Exit::Finished,
        }
    }

    /// A launcher whose supervisor has just been started to recover a device. An interrupt must not delete it, so the supervisor
    /// hears nothing of it.
    pub const fn of_recovery(deadlines: Deadlines) -> Self {
        let mut launcher = Self::new(deadlines);
        launcher.recovery = true;
        launcher
    }

    /// What it is at.
    pub const fn stage(&self) -> Stage {
        self.stage
    }

    /// The device, once it is LIVE.
    pub const fn device(&self) -> Option<DevId> {
        self.up
    }

    /// Whether the block device's node was seen.
    pub const fn found_node(&self) -> bool {
        self.node
    }

    /// Goes on after the last call returned `ret`. O(1) per completion.
    pub fn resume(&mut self, ret: Ret, io: &mut impl LauncherIo) -> Call {
        match self.stage {
            Stage::Boot => {
                self.stage = Stage::SettingUp;
                Call::SetupRing(RingSpec { entries: RING_ENTRIES, mode: RingMode::Default })
            }
            Stage::SettingUp => match ret {
                Ret::Done => {
                    self.ring = true;
                    push(io, Sqe::Watch { link: Link::Supervisor });
                    push(io, Sqe::Watch { link: Link::Operator });
                    self.arm(self.deadlines.verdict_ms, io);
                    self.stage = Stage::Waiting;
                    self.turn(Ret::Done, io)
                }
                Ret::Failed(errno) => {
                    // It cannot be waited for, so it shall not go on unseen.
                    self.end = Exit::Failed(Cause::errno(Step::LauncherRing, errno));
                    self.stop()
                }
                Ret::Start
                | Ret::Submitted(_)
                | Ret::Spawned(_)
                | Ret::Exited(_)
                | Ret::Running => mismatch("a ring's setup", ret),
            },
            Stage::Stopping => match ret {
                // ESRCH: it has ended by itself. Then the link says so.
                Ret::Done | Ret::Failed(_) if self.ring => {
                    self.stage = Stage::Waiting;
                    self.turn(Ret::Done, io)
                }
                Ret::Done | Ret::Failed(_) => self.exit(),
                Ret::Start
                | Ret::Submitted(_)
                | Ret::Spawned(_)
                | Ret::Exited(_)
                | Ret::Running => mismatch("a stop", ret),
            },
            Stage::Finding => match ret {
                Ret::Done => {
                    self.node = true;
                    self.exit()
                }
                Ret::Failed(_) if self.attempts == NODE_ATTEMPTS_MAX => self.exit(),
                Ret::Failed(_) => {
                    self.arm(Some(NODE_RETRY_MS), io);
                    self.stage = Stage::Pausing;
                    self.turn(Ret::Done, io)
                }
                Ret::Start
                | Ret::Submitted(_)
                | Ret::Spawned(_)
                | Ret::Exited(_)
                | Ret::Running => mismatch("a look for the node", ret),
            },
            Stage::Waiting | Stage::Pausing | Stage::Closing => self.turn(ret, io),
            Stage::Ended => unreachable!("I1: a launcher that exited was resumed"),
        }
    }

    /// One turn of the pump.
    fn turn(&mut self, ret: Ret, io: &mut impl LauncherIo) -> Call {
        if let Err(errno) = self.pump.turn(ret) {
            return self.fail(Problem::Errno(errno));
        }
        while let Some(Cqe { token, res: _ }) = self.pump.next(io) {
            let call = match token {
                Token::Link(Link::Supervisor) => self.hear_supervisor(io),
                Token::Link(Link::Operator) => self.hear_operator(io),
                Token::Timer(generation) if generation == self.generation => self.expired(),
                // The expiry of a wait that is over.
                Token::Timer(_) => None,
                Token::Link(Link::Worker | Link::Queues)
                | Token::Io(_)
                | Token::Backend(_)
                | Token::Slot(_)
                | Token::Prep
                | Token::Commits
                | Token::Tags
                | Token::Worker
                | Token::Supervisor
                | Token::Control(_)
                | Token::Cancel => unreachable!("I1: a completion of something never submitted"),
            };
            if let Some(call) = call {
                return call;
            }
        }
        self.pump.park(io, false)
    }

    fn hear_supervisor(&mut self, io: &mut impl LauncherIo) -> Option<Call> {
        loop {
            match io.hear_supervisor() {
                Received::Message(Verdict::Up(device)) => {
                    self.up = Some(device);
                    return Some(self.find(device));
                }
                Received::Message(Verdict::Down { cause, stuck }) => {
                    self.end =
                        stuck.map_or(Exit::Failed(cause), |step| Exit::Stuck { cause, step });
                    self.stage = Stage::Closing;
                    self.arm(self.deadlines.exit_ms, io);
                }
                Received::Empty => {
                    push(io, Sqe::Watch { link: Link::Supervisor });
                    return None;
                }
                Received::Closed => {
                    return match self.stage {
                        Stage::Closing => Some(self.exit()),
                        // It is LIVE, and what becomes of it is not the launcher's to say.
                        Stage::Finding | Stage::Pausing => None,
                        Stage::Boot
                        | Stage::SettingUp
                        | Stage::Waiting
                        | Stage::Stopping
                        | Stage::Ended => Some(self.fail(Problem::LinkClosed)),
                    };
                }
            }
        }
    }

    fn hear_operator(&mut self, io: &mut impl LauncherIo) -> Option<Call> {
        let mut stop = false;
        loop {
            match io.hear_operator() {
                Received::Message(Order::Stop) => stop = true,
                // Nobody asks a launcher for these.
                Received::Message(Order::Recover | Order::Handover | Order::Resize { .. }) => {}
                Received::Empty => {
                    push(io, Sqe::Watch { link: Link::Operator });
                    break;
                }
                Received::Closed => break,
            }
        }
        // A device that is up is there to stay, and one that is down needs no stopping.
        (stop && self.stage == Stage::Waiting)
            .then(|| if self.recovery { self.fail(Problem::Stopped) } else { self.stop() })
    }

    fn expired(&mut self) -> Option<Call> {
        match self.stage {
            Stage::Waiting => Some(self.fail(Problem::Deadline)),
            Stage::Pausing => self.up.map(|device| self.find(device)),
            // It said what there is to say.
            Stage::Closing => Some(self.exit()),
            Stage::Boot | Stage::SettingUp | Stage::Stopping | Stage::Finding | Stage::Ended => {
                None
            }
        }
    }

    fn stop(&mut self) -> Call {
        self.stage = Stage::Stopping;
        Call::StopSupervisor
    }

    fn find(&mut self, device: DevId) -> Call {
        self.stage = Stage::Finding;
        self.attempts += 1;
        Call::FindNode { device }
    }

    fn arm(&mut self, ms: Option<u32>, io: &mut impl LauncherIo) {
        self.generation += 1;
        if let Some(ms) = ms {
            push(io, Sqe::Timer { generation: self.generation, ms });
        }
    }

    fn fail(&mut self, problem: Problem) -> Call {
        // A device that is LIVE is no failure of the launcher's.
        if self.up.is_none() && self.end == Exit::Finished {
            self.end = Exit::Failed(Cause::new(Step::Verdict, problem));
        }
        self.exit()
    }

    fn exit(&mut self) -> Call {
        self.stage = Stage::Ended;
        Call::Exit(self.end)
    }

    /// What it waits for, and who owes it.
    pub fn pending(&self, sink: &mut impl PendingSink) {
        let (awaits, owner) = match self.stage {
            Stage::Boot | Stage::SettingUp | Stage::Stopping => (Awaits::CallReturn, Owner::Kernel),
            Stage::Waiting => (Awaits::Verdict, Owner::Engine),
            Stage::Finding | Stage::Pausing => (Awaits::Node, Owner::Kernel),
            Stage::Closing => (Awaits::SupervisorExit, Owner::Engine),
            Stage::Ended => return,
        };
        sink.pending(Pending { awaits, owner, otherwise: Otherwise::GiveUp });
    }
}

fn push(io: &mut impl LauncherIo, sqe: Sqe) {
    io.push(sqe).expect("I3: the launcher's ring has room for all it ever has in flight");
}
