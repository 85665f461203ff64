//! `prime-on-another-thread`: the main thread fetches the tags on each queue's ring, the queue's thread serves.
//!
//! The driver takes commits only from the task that fetched. The serving thread's commits are refused with
//! EINVAL; it does not know that result, and the requests stay where they are.

use blkproof_engine::sys::{Call, Ret};

use crate::specimens::Server;
use crate::specimens::base::{
    self, Act, Loop, Main, OWN, OpenAndSpawn, PRIMED, Prepare, Prepared, READY, SetUp, Sys,
};
use crate::world::RingId;

/// For each queue, its ring's number and 1.
const RINGS: usize = OWN;

/// Opens, starts the threads, and fetches for them.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Fetch {
    open: OpenAndSpawn,
    repaired: bool,
    /// The next queue to fetch for, and its ring while the FETCHes are being submitted.
    next: u16,
    own: Option<RingId>,
}

/// The main thread.
pub(crate) fn main(repaired: bool) -> Server {
    let fetch = Fetch { open: OpenAndSpawn::new(), repaired, next: 0, own: None };
    Server::PrimeElsewhere(Main::new(fetch))
}

impl Prepare for Fetch {
    fn step(&mut self, ret: Ret, sys: &mut Sys<'_, '_>) -> Prepared {
        let repaired = self.repaired;
        let thread = |queue| Server::PrimedElsewhere(Served::new(queue, repaired));
        if let Some(act) = self.open.step(ret, sys, |sys| base::one_for_each(sys, thread)) {
            return Prepared::Act(act);
        }
        if self.repaired {
            return base::await_ready(sys);
        }
        // Back from submitting on a queue's ring.
        let own = *self.own.get_or_insert_with(|| sys.ring());
        if sys.ring() != own && sys.unsubmitted() == 0 {
            sys.use_ring(own);
            sys.count(PRIMED, READY);
        }
        if self.next == sys.queues() {
            return base::await_ready(sys);
        }
        let cell = RINGS + usize::from(self.next);
        let Some(ring) = sys.get(cell).checked_sub(1) else {
            return Prepared::Act(Act::Await(cell as u8));
        };
        sys.use_ring(RingId(ring as u16));
        sys.use_queue(self.next);
        self.next += 1;
        for tag in 0..sys.depth() {
            sys.push(base::fetch(tag));
        }
        Prepared::Act(Act::Call(Call::Enter { submit: sys.unsubmitted(), wait: 0 }))
    }
}

/// The serving thread.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Served {
    queue: u16,
    set_up: SetUp,
    requests: Loop,
    repaired: bool,
    shown: bool,
    reported: bool,
}

impl Served {
    const fn new(queue: u16, repaired: bool) -> Self {
        Self {
            queue,
            set_up: SetUp::Ring,
            requests: Loop::new(),
            repaired,
            shown: false,
            reported: false,
        }
    }

    pub(crate) fn step(&mut self, _ret: Ret, sys: &mut Sys<'_, '_>) -> Act {
        if let Some(act) = self.set_up.step(sys, self.queue) {
            return act;
        }
        if !self.shown {
            self.shown = true;
            if self.repaired {
                for tag in 0..sys.depth() {
                    sys.push(base::fetch(tag));
                }
                return Act::Call(Call::Enter { submit: sys.unsubmitted(), wait: 0 });
            }
            let ring = u64::from(sys.ring().0);
            sys.set(RINGS + usize::from(self.queue), ring + 1);
        }
        if self.repaired && !self.reported {
            self.reported = true;
            sys.count(PRIMED, READY);
        }
        while let Some(tag) = self.requests.next(sys) {
            let commit = sys.serve(self.queue, tag);
            sys.push(commit);
        }
        if self.requests.is_over(sys) {
            return base::end(sys);
        }
        base::enter(sys)
    }
}
