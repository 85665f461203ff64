//! The serving thread that several specimens share: one thread and one ring for each queue, done right.

use blkproof_engine::sys::{Call, Ret};

use crate::specimens::Server;
use crate::specimens::base::{
    self, Act, Loop, OpenAndSpawn, PRIMED, Prepare, Prepared, READY, SetUp, Sys,
};

/// Opens the device and starts the queues' threads, then waits until they are primed.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Spawn {
    open: OpenAndSpawn,
    habits: Habits,
}

/// What a serving thread does differently.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub(crate) struct Habits {
    /// Milliseconds to sleep after each FETCH.
    pub(crate) pause_ms: u32,
    /// Takes EINTR for the end of its work.
    pub(crate) gives_up_on_eintr: bool,
    /// Says that it is ready before its FETCHes are submitted, and takes the device lock to submit them.
    pub(crate) early_word: bool,
}

/// The lock under which the early word is given and START_DEV is sent.
const DEVICE_LOCK: u8 = 0;

impl Spawn {
    pub(crate) const fn new(habits: Habits) -> Self {
        Self { open: OpenAndSpawn::new(), habits }
    }
}

impl Prepare for Spawn {
    fn step(&mut self, ret: Ret, sys: &mut Sys<'_, '_>) -> Prepared {
        let habits = self.habits;
        let thread = |queue| Server::Queue(QueueThread::new(queue, habits));
        match self.open.step(ret, sys, thread) {
            Some(act) => Prepared::Act(act),
            None => base::await_ready(sys),
        }
    }

    fn start_lock(&self) -> Option<u8> {
        self.habits.early_word.then_some(DEVICE_LOCK)
    }
}

/// A serving thread.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) struct QueueThread {
    queue: u16,
    habits: Habits,
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
    /// Was interrupted, and left its loop.
    GaveUp,
}

impl QueueThread {
    pub(crate) const fn new(queue: u16, habits: Habits) -> Self {
        Self { queue, habits, set_up: SetUp::Ring, stage: Stage::Fetching(0), served: Loop::new() }
    }

    pub(crate) const fn awaits(&self) -> &'static str {
        match self.stage {
            Stage::Fetching(_) => "is about to fetch",
            Stage::Pausing(_) => "sleeps between two FETCHes",
            Stage::Locking => "waits for the device lock, which is held around START_DEV",
            Stage::Submitting | Stage::Unlocking | Stage::Primed | Stage::Submitted => {
                "is about to serve"
            }
            Stage::Waiting => "waits for a request",
            Stage::GaveUp => "has left its loop after EINTR and waits for the end",
        }
    }

    /// Whether it waits for the device lock.
    pub(crate) const fn wants_lock(&self) -> bool {
        matches!(self.stage, Stage::Locking)
    }

    pub(crate) fn step(&mut self, ret: Ret, sys: &mut Sys<'_, '_>) -> Act {
        if let Some(act) = self.set_up.step(sys, self.queue) {
            return act;
        }
        loop {
            match self.stage {
                Stage::Fetching(tag) if tag == sys.depth() => self.stage = Stage::Primed,
                Stage::Fetching(_) if self.habits.early_word => {
                    for tag in 0..sys.depth() {
                        sys.push(base::fetch(tag));
                    }
                    sys.say("says that it is ready; its FETCHes are not submitted yet");
                    sys.count(PRIMED, READY);
                    self.stage = Stage::Locking;
                    return Act::Lock(DEVICE_LOCK);
                }
                Stage::Fetching(tag) => {
                    sys.push(base::fetch(tag));
                    self.stage = Stage::Pausing(tag + 1);
                    return Act::Call(Call::Enter { submit: sys.unsubmitted(), wait: 0 });
                }
                Stage::Pausing(next) => {
                    self.stage = Stage::Fetching(next);
                    if self.habits.pause_ms > 0 {
                        return Act::Sleep { ms: self.habits.pause_ms };
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
                }
                Stage::Submitted => {
                    while let Some(tag) = self.served.next(sys) {
                        let commit = sys.serve(self.queue, tag);
                        sys.push(commit);
                    }
                    if self.served.is_over(sys) {
                        return base::end(sys);
                    }
                    if sys.unsubmitted() > 0 {
                        return Act::Call(Call::Enter { submit: sys.unsubmitted(), wait: 0 });
                    }
                    self.stage = Stage::Waiting;
                    return Act::Call(Call::Enter { submit: 0, wait: 1 });
                }
                Stage::Waiting => {
                    self.stage = Stage::Submitted;
                    if self.habits.gives_up_on_eintr && matches!(ret, Ret::Failed(_)) {
                        sys.say("leaves its loop after EINTR; its ring stays open");
                        self.stage = Stage::GaveUp;
                    }
                }
                Stage::GaveUp => {
                    if sys.get(base::JOINED) == 0 {
                        return Act::Await(base::JOINED as u8);
                    }
                    return Act::Exit;
                }
            }
        }
    }
}
