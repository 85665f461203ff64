//! `async-init`: the initialisation deadlock of the crisis document.
//!
//! One thread opens the character device and publishes it in a shared cell. The serving threads look at that cell every 10 ms.
//! When the open fails for good, in the moment in which udev has created the node and not yet given it
//! away, the opening thread returns; nobody tells the pollers, and the main thread waits for them for ever.

use blkproof_engine::sys::{Call, Ret};

use crate::kernel::errno;
use crate::specimens::Server;
use crate::specimens::base::{
    self, Act, Loop, Main, OWN, PRIMED, Prepare, Prepared, READY, SetUp, Sys,
};

/// The descriptor of the character device is there.
const CHAR_FD: usize = OWN;
/// How often the node is looked for, every 20 ms.
const ATTEMPTS_MAX: u8 = 50;

/// Before START_DEV.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Plane {
    spawned: bool,
    repaired: bool,
}

impl Prepare for Plane {
    fn step(&mut self, _ret: Ret, sys: &mut Sys<'_, '_>) -> Prepared {
        if !self.spawned {
            self.spawned = true;
            sys.say("starts the threads, and waits until every queue is ready");
            let opener = Opener { attempts: 0, asked: false, repaired: self.repaired };
            sys.spawn("data plane", 0, Server::AsyncInitOpener(opener));
            for queue in 0..sys.queues() {
                let poller = Poller {
                    queue,
                    set_up: SetUp::Ring,
                    served: Loop::new(),
                    primed: false,
                    reported: false,
                    looked: false,
                };
                sys.spawn(&format!("io loop {queue}"), queue, Server::AsyncInitPoller(poller));
            }
        }
        base::await_ready(sys)
    }
}

/// The main thread.
pub(crate) fn main(repaired: bool) -> Server {
    Server::AsyncInitMain(Main::new(Plane { spawned: false, repaired }))
}

/// The thread that opens the character device.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Opener {
    attempts: u8,
    asked: bool,
    repaired: bool,
}

impl Opener {
    pub(crate) fn step(&mut self, ret: Ret, sys: &mut Sys<'_, '_>) -> Act {
        if !self.asked {
            self.asked = true;
            return Act::Call(Call::OpenChar);
        }
        match ret {
            Ret::Failed(errno) => {
                let absent = i32::from(errno.0) == errno::ENOENT;
                if self.repaired || (absent && self.attempts < ATTEMPTS_MAX) {
                    self.attempts = if self.repaired { 0 } else { self.attempts + 1 };
                    self.asked = false;
                    return Act::Sleep { ms: 20 };
                }
                // Returns an error to nobody.
                sys.say("the data plane failed: returns, and cancels nothing");
                Act::Exit
            }
            Ret::Start
            | Ret::Done
            | Ret::Submitted(_)
            | Ret::Spawned(_)
            | Ret::Exited(_)
            | Ret::Running => {
                sys.set(CHAR_FD, 1);
                Act::Exit
            }
        }
    }
}

/// A serving thread.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Poller {
    queue: u16,
    set_up: SetUp,
    served: Loop,
    primed: bool,
    reported: bool,
    looked: bool,
}

impl Poller {
    pub(crate) fn step(&mut self, _ret: Ret, sys: &mut Sys<'_, '_>) -> Act {
        if sys.get(CHAR_FD) == 0 {
            if !self.looked {
                self.looked = true;
                sys.say("looks for the character device; will look again every 10 ms");
            }
            return Act::Sleep { ms: 10 };
        }
        if let Some(act) = self.set_up.step(sys, self.queue) {
            return act;
        }
        if !self.primed {
            self.primed = true;
            for tag in 0..sys.depth() {
                sys.push(base::fetch(tag));
            }
            return Act::Call(Call::Enter { submit: sys.unsubmitted(), wait: 0 });
        }
        if !self.reported {
            self.reported = true;
            sys.count(PRIMED, READY);
        }
        while let Some(tag) = self.served.next(sys) {
            let commit = sys.serve(self.queue, tag);
            sys.push(commit);
        }
        if self.served.is_over(sys) {
            return base::end(sys);
        }
        base::enter(sys)
    }

    /// Whether it still polls.
    pub(crate) const fn polls(&self) -> bool {
        matches!(self.set_up, SetUp::Ring)
    }
}
