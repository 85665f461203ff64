//! `IORING_SETUP_SQPOLL`: a thread of the kernel submits what is in the queue. It fetches and commits, so it is the tags' server; requests are
//! delivered by its task work, whether or not the thread that created the ring is still there.

use crate::kernel::process::ThreadState;
use crate::run::Run;
use crate::server::Program;
use crate::world::{RingId, ThreadId, World};

impl World {
    /// A ring gets the thread that submits for it.
    pub(crate) fn start_poller(&mut self, run: &mut Run<'_>, ring: RingId) {
        let process = self.rings[ring.index()].process;
        let poller = self.spawn_thread(run, process, "iou-sqp", 0, Program::Poller);
        let thread = &mut self.threads[poller.index()];
        (thread.ring, thread.state) = (Some(ring), ThreadState::Sleeping);
        self.rings[ring.index()].poller = Some(poller);
    }

    /// D1 of such a thread: before it exits it delivers what is queued, and cancels what its ring holds (`io_uring_cancel_generic`). A
    /// plain thread does not.
    pub(crate) fn poller_dies(&mut self, run: &mut Run<'_>, poller: ThreadId) {
        let Some(ring) = self.threads[poller.index()].ring else { return };
        self.works_off(run, poller);
        while self.cancel_one(run, ring) {}
        self.works_off(run, poller);
    }

    /// A thread runs all of its task work.
    pub(crate) fn works_off(&mut self, run: &mut Run<'_>, thread: ThreadId) {
        while !self.threads[thread.index()].work.is_empty() {
            self.run_work(run, thread, 0);
        }
    }

    /// The ring is freed, and its thread with it.
    pub(crate) fn end_poller(&mut self, ring: RingId) {
        if let Some(poller) = self.rings[ring.index()].poller {
            self.threads[poller.index()].state = ThreadState::Dead;
        }
    }
}
