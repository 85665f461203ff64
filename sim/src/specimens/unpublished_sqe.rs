//! `unpublished-sqe`: the tail of the submission queue becomes visible before the entry.
//!
//! A handler thread prepares the commits, the ring's own thread submits whatever the tail says. Between the
//! handler's two stores the kernel takes the slot's old contents, a no-op, and the commit is lost.

use std::collections::VecDeque;

use blkproof_engine::sys::{Call, Ret};

use crate::kernel::ring::Entry;
use crate::specimens::Server;
use crate::specimens::base::{
    self, Act, Loop, Main, OWN, OpenAndSpawn, PRIMED, Prepare, Prepared, READY, SetUp, Sys,
};
use crate::world::RingId;

/// For each queue: its ring's number and 1.
const RINGS: usize = OWN;
/// For each queue: a tag handed to the handler, and 1.
const HANDED: usize = OWN + 4;
/// For each queue: the handler is to end.
const QUIT: usize = OWN + 8;

/// Opens, and starts the threads.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Spawn {
    open: OpenAndSpawn,
    repaired: bool,
    handlers: bool,
}

/// The main thread.
pub(crate) fn main(repaired: bool) -> Server {
    Server::Unpublished(Main::new(Spawn { open: OpenAndSpawn::new(), repaired, handlers: false }))
}

impl Prepare for Spawn {
    fn step(&mut self, ret: Ret, sys: &mut Sys<'_, '_>) -> Prepared {
        let thread = |queue| Server::Submitter(Submitter::new(queue));
        if let Some(act) = self.open.step(ret, sys, |sys| base::one_for_each(sys, thread)) {
            return Prepared::Act(act);
        }
        if !self.handlers {
            self.handlers = true;
            for queue in 0..sys.queues() {
                let handler = Handler { queue, repaired: self.repaired, commit: None };
                sys.spawn(&format!("handler {queue}"), queue, Server::Handler(handler));
            }
        }
        base::await_ready(sys)
    }
}

/// The thread that owns the ring: submits, reaps, hands requests over.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Submitter {
    queue: u16,
    set_up: SetUp,
    served: Loop,
    primed: bool,
    reported: bool,
    /// Requests not handed over yet.
    backlog: VecDeque<u16>,
}

impl Submitter {
    const fn new(queue: u16) -> Self {
        Self {
            queue,
            set_up: SetUp::Ring,
            served: Loop::new(),
            primed: false,
            reported: false,
            backlog: VecDeque::new(),
        }
    }

    pub(crate) fn step(&mut self, _ret: Ret, sys: &mut Sys<'_, '_>) -> Act {
        if let Some(act) = self.set_up.step(sys, self.queue) {
            return act;
        }
        let queue = usize::from(self.queue);
        if !self.primed {
            self.primed = true;
            for tag in 0..sys.depth() {
                sys.push(base::fetch(tag));
            }
            return Act::Call(Call::Enter { submit: sys.unsubmitted(), wait: 0 });
        }
        if !self.reported {
            self.reported = true;
            let ring = u64::from(sys.ring().0);
            sys.set(RINGS + queue, ring + 1);
            sys.count(PRIMED, READY);
        }
        while let Some(tag) = self.served.next(sys) {
            self.backlog.push_back(tag.0);
        }
        if self.served.is_over(sys) {
            sys.set(QUIT + queue, 1);
            // Wakes the handler, which looks at QUIT first.
            sys.set(HANDED + queue, 1);
            return base::end(sys);
        }
        if sys.get(HANDED + queue) == 0
            && let Some(tag) = self.backlog.pop_front()
        {
            sys.set(HANDED + queue, u64::from(tag) + 1);
        }
        if sys.unsubmitted() > 0 {
            return Act::Call(Call::Enter { submit: sys.unsubmitted(), wait: 0 });
        }
        Act::Sleep { ms: 1 }
    }
}

/// The thread that handles requests.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Handler {
    queue: u16,
    repaired: bool,
    /// The commit whose slot is published and not written.
    commit: Option<Entry>,
}

impl Handler {
    pub(crate) fn step(&mut self, _ret: Ret, sys: &mut Sys<'_, '_>) -> Act {
        let queue = usize::from(self.queue);
        if let Some(commit) = self.commit.take() {
            sys.say("writes the entry");
            sys.write_published(commit);
            sys.set(HANDED + queue, 0);
            return Act::Await((HANDED + queue) as u8);
        }
        if sys.get(QUIT + queue) != 0 {
            return Act::Exit;
        }
        let Some(tag) = sys.get(HANDED + queue).checked_sub(1) else {
            return Act::Await((HANDED + queue) as u8);
        };
        let ring = sys.get(RINGS + queue) - 1;
        sys.use_ring(RingId(ring as u16));
        let commit = sys.serve(self.queue, blkproof_engine::uapi::Tag(tag as u16));
        if self.repaired {
            sys.push(commit);
            sys.set(HANDED + queue, 0);
            return Act::Await((HANDED + queue) as u8);
        }
        sys.say("moves the tail");
        sys.publish();
        self.commit = Some(commit);
        Act::Yield
    }
}
