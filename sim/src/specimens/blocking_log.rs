//! `blocking-log`: the serving thread writes a line for each request to a bounded log, while it holds the queue's lock. The log
//! writer takes that lock to add the queue's counters to each line. When the log is full, each waits for the other.

use blkproof_engine::sys::{Call, Ret};
use blkproof_engine::uapi::Tag;

use crate::specimens::Server;
use crate::specimens::base::{
    self, Act, JOINED, Loop, Main, OWN, OpenAndSpawn, PRIMED, Prepare, Prepared, READY, SetUp, Sys,
};

/// Lines in the log.
const LINES: usize = OWN;
/// There is a line.
const SOME: usize = OWN + 1;
/// There is room.
const ROOM: usize = OWN + 2;
/// Lines that the log holds.
const LINES_MAX: u64 = 2;
/// The queue's lock.
const QUEUE_LOCK: u8 = 0;

/// Opens, and starts the threads.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Spawn {
    open: OpenAndSpawn,
    repaired: bool,
    writer: bool,
}

/// The main thread.
pub(crate) fn main(repaired: bool) -> Server {
    Server::BlockingLog(Main::new(Spawn { open: OpenAndSpawn::new(), repaired, writer: false }))
}

fn update(sys: &mut Sys<'_, '_>, lines: u64) {
    sys.set(LINES, lines);
    sys.set(SOME, u64::from(lines > 0));
    sys.set(ROOM, u64::from(lines < LINES_MAX));
}

impl Prepare for Spawn {
    fn step(&mut self, ret: Ret, sys: &mut Sys<'_, '_>) -> Prepared {
        let repaired = self.repaired;
        let thread = |queue| Server::Logging(Logging::new(queue, repaired));
        if let Some(act) = self.open.step(ret, sys, |sys| base::one_for_each(sys, thread)) {
            return Prepared::Act(act);
        }
        if !self.writer {
            self.writer = true;
            update(sys, 0);
            sys.spawn("log writer", 0, Server::LogWriter(LogWriter { stage: Line::Wait }));
        }
        base::await_ready(sys)
    }
}

/// The serving thread.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Logging {
    queue: u16,
    set_up: SetUp,
    stage: Stage,
    served: Loop,
    repaired: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum Stage {
    Fetch,
    Report,
    Reap,
    /// Holds the lock; writes the line.
    Log(Tag),
    /// Line written; commits and gives the lock back.
    Commit(Tag),
}

impl Logging {
    const fn new(queue: u16, repaired: bool) -> Self {
        Self { queue, set_up: SetUp::Ring, stage: Stage::Fetch, served: Loop::new(), repaired }
    }

    pub(crate) const fn awaits(&self) -> &'static str {
        match self.stage {
            Stage::Fetch | Stage::Report => "is about to serve",
            Stage::Reap => "waits for a request",
            Stage::Log(_) => "waits for room in the log, holding the queue's lock",
            Stage::Commit(_) => "is about to commit",
        }
    }

    /// Whether it waits for the log.
    pub(crate) const fn is_blocked(&self) -> bool {
        matches!(self.stage, Stage::Log(_))
    }

    pub(crate) fn step(&mut self, _ret: Ret, sys: &mut Sys<'_, '_>) -> Act {
        if let Some(act) = self.set_up.step(sys, self.queue) {
            return act;
        }
        loop {
            match self.stage {
                Stage::Fetch => {
                    for tag in 0..sys.depth() {
                        sys.push(base::fetch(tag));
                    }
                    self.stage = Stage::Report;
                    return Act::Call(Call::Enter { submit: sys.unsubmitted(), wait: 0 });
                }
                Stage::Report => {
                    sys.count(PRIMED, READY);
                    self.stage = Stage::Reap;
                }
                Stage::Reap => {
                    if let Some(tag) = self.served.next(sys) {
                        self.stage = Stage::Log(tag);
                        return Act::Lock(QUEUE_LOCK);
                    }
                    if self.served.is_over(sys) {
                        return base::end(sys);
                    }
                    return base::enter(sys);
                }
                Stage::Log(tag) => {
                    let lines = sys.get(LINES);
                    if lines == LINES_MAX && !self.repaired {
                        return Act::Await(ROOM as u8);
                    }
                    // The repaired twin drops a line that finds no room.
                    update(sys, (lines + 1).min(LINES_MAX));
                    self.stage = Stage::Commit(tag);
                }
                Stage::Commit(tag) => {
                    let commit = sys.serve(self.queue, tag);
                    sys.push(commit);
                    self.stage = Stage::Reap;
                    return Act::Unlock(QUEUE_LOCK);
                }
            }
        }
    }
}

/// The log writer.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) struct LogWriter {
    stage: Line,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum Line {
    Wait,
    Take,
    Locked,
    Written,
}

impl LogWriter {
    pub(crate) const fn awaits(&self) -> &'static str {
        match self.stage {
            Line::Wait => "waits for a line",
            Line::Take => "is about to take a line",
            Line::Locked => "waits for the queue's lock, to read its counters",
            Line::Written => "writes a line",
        }
    }

    /// Whether it waits for the lock.
    pub(crate) const fn is_blocked(&self) -> bool {
        matches!(self.stage, Line::Locked)
    }

    pub(crate) fn step(&mut self, _ret: Ret, sys: &mut Sys<'_, '_>) -> Act {
        match self.stage {
            Line::Wait => {
                if sys.get(JOINED) != 0 {
                    return Act::Exit;
                }
                self.stage = Line::Take;
                Act::Await(SOME as u8)
            }
            Line::Take => {
                self.stage = Line::Locked;
                Act::Lock(QUEUE_LOCK)
            }
            Line::Locked => {
                self.stage = Line::Written;
                let lines = sys.get(LINES).saturating_sub(1);
                update(sys, lines);
                Act::Unlock(QUEUE_LOCK)
            }
            Line::Written => {
                self.stage = Line::Wait;
                Act::Yield
            }
        }
    }
}
