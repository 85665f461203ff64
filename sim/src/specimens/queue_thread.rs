//! The serving thread that most servers of the museum share: one thread and one ring for each queue, done right but for one habit.

use blkproof_engine::sys::{Call, Ret};

use crate::specimens::Server;
use crate::specimens::base::{
    self, Act, FAILED, Loop, Main, NEVER, OpenAndSpawn, PRIMED, Prepare, Prepared, READY,
    STOP_CELL, SetUp, Sys,
};

/// What a server does wrong.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Habit {
    /// Nothing.
    Right,
    /// A pause after each FETCH. Nothing is wrong but the time it takes.
    Pauses,
    /// A signal interrupts the wait, and the thread takes that for the end of its work. Its ring stays open, so the kernel goes on delivering.
    GivesUpOnEintr,
    /// It says that it is ready before its FETCHes are submitted, and takes the device lock to submit them; START_DEV is sent under that lock.
    EarlyWord,
    /// It waits for a completion before its FETCHes are submitted.
    WaitsFirst,
    /// It serves only when START_DEV has returned (H03).
    ServesAfterStart,
    /// Its handler panics at the first write: the thread is gone, its ring is open (H04).
    PanicsAtAWrite,
    /// Its handler fails at the first write: the thread ends, and closes its ring on the way (H05).
    ClosesItsRing,
    /// Another thread fetches, and ends (H06).
    FetchesAndLeaves,
    /// It leaves its loop when the server is asked to stop, not when its tags are aborted (H32).
    StopsServing,
    /// Of the completions that it finds it handles one.
    HandlesOne,
    /// It fetches a tag again whose command failed, whatever the error (H13).
    FetchesAgain,
    /// It polls its completion queue, and never enters (H40).
    PollsQueue,
    /// It ends well and keeps its ring, which holds the device's file (H66).
    KeepsRing,
    /// Its setting up fails, and it ends without a word.
    SwallowsFailure,
    /// Its setting up fails, and the server begins again without closing what it had opened.
    OpensTwice,
    /// Two threads fetch the tags of one queue (H24).
    SplitsQueue,
    /// The main thread sends DEL_DEV with the device still open (H28).
    DeletesItsOwn,
    /// The main thread names another process than its own in START_DEV (H47).
    WrongPid,
    /// The main thread believes in as many queues as it asked for (H48).
    TrustsRequest,
    /// The main thread sends START_DEV once more when a signal interrupts its wait.
    StartsTwice,
}

/// Milliseconds of [`Habit::Pauses`].
const PAUSE_MS: u32 = 250;
/// Milliseconds between two looks of [`Habit::PollsQueue`].
const POLL_MS: u32 = 1;
/// The lock under which the early word is given and START_DEV is sent.
const DEVICE_LOCK: u8 = 0;

/// A server with that habit.
pub(super) fn main(habit: Habit) -> Server {
    Server::Plain(Main::new(Spawn { open: OpenAndSpawn::new(), habit }))
}

/// Opens the device and starts the queues' threads, then waits until they are primed.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Spawn {
    open: OpenAndSpawn,
    habit: Habit,
}

impl Habit {
    /// Starts the threads of a server with this habit.
    fn spawn(self, sys: &mut Sys<'_, '_>) {
        let parts = if self == Self::SplitsQueue { 2 } else { 1 };
        let queues = if self == Self::TrustsRequest { sys.queues_asked() } else { sys.queues() };
        for queue in 0..queues {
            for part in 0..parts {
                let name = match part {
                    0 => format!("queue {queue}"),
                    _ => format!("queue {queue}, part {part}"),
                };
                let tags = Tags { first: part, step: parts };
                sys.spawn(&name, queue, Server::Queue(QueueThread::new(queue, tags, self)));
            }
        }
        sys.expect(queues * parts);
    }
}

impl Prepare for Spawn {
    fn step(&mut self, ret: Ret, sys: &mut Sys<'_, '_>) -> Prepared {
        let habit = self.habit;
        if let Some(act) = self.open.step(ret, sys, |sys| habit.spawn(sys)) {
            return Prepared::Act(act);
        }
        if sys.get(FAILED) == 0 {
            return base::await_ready(sys);
        }
        sys.say("a queue could not be set up: begins again");
        for cell in [FAILED, PRIMED, READY] {
            sys.set(cell, 0);
        }
        if self.habit != Habit::OpensTwice {
            sys.close_char();
        }
        self.open = OpenAndSpawn::new();
        Prepared::Act(Act::Yield)
    }

    fn start_lock(&self) -> Option<u8> {
        (self.habit == Habit::EarlyWord).then_some(DEVICE_LOCK)
    }

    fn habit(&self) -> Habit {
        self.habit
    }
}

/// The tags of a queue that a thread serves: every `step`th from `first` on.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
struct Tags {
    first: u16,
    step: u16,
}

/// A serving thread.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) struct QueueThread {
    queue: u16,
    tags: Tags,
    habit: Habit,
    set_up: SetUp,
    stage: Stage,
    served: Loop,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum Stage {
    /// The next tag to fetch.
    Fetching(u16),
    /// A FETCH was submitted; the pause.
    Pausing(u16),
    /// Takes the device lock.
    Locking,
    /// Submits the FETCHes under it.
    Submitting,
    /// Gives it back.
    Unlocking,
    Primed,
    /// Has just submitted.
    Submitted,
    /// Waits.
    Waiting,
    /// Has left its loop, and keeps its ring.
    Left,
}

impl QueueThread {
    const fn new(queue: u16, tags: Tags, habit: Habit) -> Self {
        let (set_up, stage) = (SetUp::Ring, Stage::Fetching(tags.first));
        Self { queue, tags, habit, set_up, stage, served: Loop::new() }
    }

    pub(crate) const fn awaits(&self) -> &'static str {
        match self.stage {
            Stage::Fetching(_) => "is about to fetch",
            Stage::Pausing(_) if matches!(self.habit, Habit::WaitsFirst) => {
                "waits for a completion; its FETCHes are not submitted"
            }
            Stage::Pausing(_) => "sleeps between two FETCHes",
            Stage::Locking => "waits for the device lock, which is held around START_DEV",
            Stage::Submitted if matches!(self.habit, Habit::ServesAfterStart) => {
                "waits until START_DEV has returned, and serves nobody"
            }
            Stage::Submitting | Stage::Unlocking | Stage::Primed | Stage::Submitted => {
                "is about to serve"
            }
            Stage::Waiting if matches!(self.habit, Habit::PollsQueue) => {
                "polls its completion queue and never enters: no task work runs"
            }
            Stage::Waiting => "waits for a request",
            Stage::Left => "has left its loop and waits for the end, its ring open",
        }
    }

    /// Whether it waits for the device lock.
    pub(crate) const fn wants_lock(&self) -> bool {
        matches!(self.stage, Stage::Locking)
    }

    fn fetch_all(&self, sys: &mut Sys<'_, '_>) {
        for tag in (self.tags.first..sys.depth()).step_by(usize::from(self.tags.step)) {
            sys.push(base::fetch(tag));
        }
    }

    /// Setting up did not succeed: what the thread does then.
    fn fails(&self, sys: &mut Sys<'_, '_>) -> Act {
        match self.habit {
            Habit::SwallowsFailure => sys.say("could not be set up: ends, and tells nobody"),
            Habit::TrustsRequest => {
                sys.say("cannot map its queue, which is not there, and waits for requests");
                sys.count(PRIMED, READY);
                return Act::Await(NEVER as u8);
            }
            _ => {
                sys.set(FAILED, 1);
                sys.set(READY, 1);
            }
        }
        Act::Exit
    }

    pub(crate) fn step(&mut self, ret: Ret, sys: &mut Sys<'_, '_>) -> Act {
        if self.set_up.has_failed(ret) {
            return self.fails(sys);
        }
        if let Some(act) = self.set_up.step(sys, self.queue) {
            return act;
        }
        loop {
            match self.stage {
                Stage::Fetching(tag) if tag >= sys.depth() => self.stage = Stage::Primed,
                Stage::Fetching(_) if self.habit == Habit::EarlyWord => {
                    self.fetch_all(sys);
                    sys.say("says that it is ready; its FETCHes are not submitted yet");
                    sys.count(PRIMED, READY);
                    self.stage = Stage::Locking;
                    return Act::Lock(DEVICE_LOCK);
                }
                Stage::Fetching(_) if self.habit == Habit::WaitsFirst => {
                    self.fetch_all(sys);
                    self.stage = Stage::Pausing(sys.depth());
                    return Act::Call(Call::Enter { submit: 0, wait: 1 });
                }
                Stage::Fetching(tag) => {
                    sys.push(base::fetch(tag));
                    self.stage = Stage::Pausing(tag + self.tags.step);
                    return Act::Call(Call::Enter { submit: sys.unsubmitted(), wait: 0 });
                }
                Stage::Pausing(next) => {
                    self.stage = Stage::Fetching(next);
                    if self.habit == Habit::Pauses {
                        return Act::Sleep { ms: PAUSE_MS };
                    }
                }
                Stage::Locking => {
                    self.stage = Stage::Submitting;
                    return Act::Call(Call::Enter { submit: sys.unsubmitted(), wait: 0 });
                }
                Stage::Submitting => {
                    self.stage = Stage::Unlocking;
                    return Act::Unlock(DEVICE_LOCK);
                }
                Stage::Unlocking => self.stage = Stage::Submitted,
                Stage::Primed => {
                    sys.count(PRIMED, READY);
                    self.stage = Stage::Submitted;
                    if self.habit == Habit::KeepsRing {
                        sys.register_file();
                    }
                    if self.habit == Habit::FetchesAndLeaves {
                        sys.say("has fetched for the thread that serves, and ends");
                        return base::end(sys);
                    }
                }
                Stage::Submitted => return self.serve(sys),
                Stage::Waiting => {
                    self.stage = Stage::Submitted;
                    if self.habit == Habit::GivesUpOnEintr && matches!(ret, Ret::Failed(_)) {
                        sys.say("leaves its loop after EINTR; its ring stays open");
                        self.stage = Stage::Left;
                    }
                }
                Stage::Left => return Act::Await(NEVER as u8),
            }
        }
    }

    /// One turn of the serving loop.
    fn serve(&mut self, sys: &mut Sys<'_, '_>) -> Act {
        if self.habit == Habit::ServesAfterStart && sys.get(base::STARTED) == 0 {
            return Act::Await(base::STARTED as u8);
        }
        while let Some(tag) = self.served.next(sys) {
            match self.habit {
                Habit::PanicsAtAWrite if sys.is_write(self.queue, tag) => {
                    sys.say("panics; nobody notices, and its ring stays open");
                    return Act::Vanish;
                }
                Habit::ClosesItsRing if sys.is_write(self.queue, tag) => {
                    sys.say("fails; its destructor closes its ring");
                    return base::end(sys);
                }
                _ => {}
            }
            let commit = sys.serve(self.queue, tag);
            sys.push(commit);
            if self.habit == Habit::HandlesOne {
                while let Some(dropped) = self.served.next(sys) {
                    let _ = dropped;
                    sys.say("drops a completion that came with another one");
                }
            }
        }
        match self.habit {
            Habit::FetchesAgain => {
                while let Some(tag) = self.served.failed_tag() {
                    sys.push(base::fetch(tag));
                }
            }
            Habit::StopsServing if sys.get(STOP_CELL) != 0 => {
                sys.say("leaves its loop: the server is to stop");
                sys.count(base::ENDED, base::JOINED);
                self.stage = Stage::Left;
                return Act::Yield;
            }
            _ => {}
        }
        let own = (sys.depth() - self.tags.first).div_ceil(self.tags.step);
        if self.served.dead() >= own {
            if self.habit == Habit::KeepsRing {
                sys.count(base::ENDED, base::JOINED);
                sys.unmap();
                return Act::Await(NEVER as u8);
            }
            return base::end(sys);
        }
        if sys.unsubmitted() > 0 {
            return Act::Call(Call::Enter { submit: sys.unsubmitted(), wait: 0 });
        }
        self.stage = Stage::Waiting;
        if self.habit == Habit::PollsQueue {
            return Act::Sleep { ms: POLL_MS };
        }
        Act::Call(Call::Enter { submit: 0, wait: 1 })
    }
}
