//! What scripts do to rings: kinds, a second ring, entries that are held back, the registered file.

use blkproof_engine::sys::{RingMode, RingSpec};

use super::model::{RING_ENTRIES, event};
use super::{Delivered, Event, RingAsked, RingKind, told};
use crate::kernel::errno;
use crate::kernel::process::ThreadState;
use crate::kernel::ring::Entry;
use crate::run::Run;
use crate::script::Op;
use crate::server::Program;
use crate::world::{RingId, ThreadId, World};

impl World {
    /// In which order the actor's ring brought requests since it was last asked.
    pub(super) fn tells_order(&mut self, thread: ThreadId, step: u16) {
        let Some(ring) = self.threads[thread.index()].ring else {
            return self.answer(step, -errno::EBADF);
        };
        let brought = self.rings[ring.index()].brought.replace(Vec::new()).unwrap_or_default();
        let event = Event { told: told::order(&brought), ..event(step, brought.len() as i32) };
        self.script_events.push(event);
    }

    /// A ring brought a request.
    pub(super) fn remembers_order(&mut self, ring: RingId, request: &Delivered) {
        if let Some(brought) = &mut self.rings[ring.index()].brought {
            brought.push((request.first, request.count));
        }
    }

    /// A ring as a script asks for it, in place of the actor's own.
    pub(super) fn create_ring(&mut self, run: &mut Run<'_>, thread: ThreadId, asked: RingAsked) {
        self.leave_ring(thread);
        let RingAsked { kind, cq, all } = asked;
        let mode = match kind {
            RingKind::Defer => RingMode::DeferTaskrun,
            // A thread of a script sleeps where COOP task work wakes it, too.
            RingKind::Default | RingKind::Coop | RingKind::Sqpoll => RingMode::Default,
        };
        self.setup_ring(thread, RingSpec { entries: cq.map_or(RING_ENTRIES, u32::from), mode });
        let Some(id) = self.threads[thread.index()].ring else { return };
        let ring = &mut self.rings[id.index()];
        ring.submits_all = all;
        if let Some(cq) = cq {
            ring.cq_entries = u32::from(cq);
        }
        if kind == RingKind::Sqpoll {
            self.start_poller(run, id);
        }
    }

    /// The actor gives up its ring. False: it has none.
    pub(super) fn leave_ring(&mut self, thread: ThreadId) -> bool {
        let ring = self.threads[thread.index()].ring.take();
        if let Some(ring) = ring {
            self.let_go_of_ring(ring, self.threads[thread.index()].process);
        }
        ring.is_some()
    }

    /// An actor submits an entry, or leaves it in the queue.
    pub(super) fn submit(&mut self, thread: ThreadId, step: u16, op: &Op) {
        let Some(ring) = self.threads[thread.index()].ring else {
            self.answer(step, -errno::EBADF);
            return;
        };
        let held = self.rings[ring.index()].sq.len() as u32;
        if held == self.rings[ring.index()].entries {
            self.answer(step, -errno::EBUSY);
            return;
        }
        self.rings[ring.index()].sq.push_back(Entry::Script(step, op.clone()));
        if !self.actor(thread).holds {
            self.enters_for(thread, ring, 1);
        }
    }

    /// An actor enters its ring for what it held back.
    pub(super) fn submit_held(&mut self, thread: ThreadId, step: u16, count: u16) {
        self.actor(thread).holds = false;
        let Some(ring) = self.threads[thread.index()].ring else {
            self.answer(step, -errno::EBADF);
            return;
        };
        let actor = self.actor(thread);
        (actor.answers, actor.counts) = (true, true);
        self.enters_for(thread, ring, u32::from(count));
    }

    /// `io_uring_enter` for so many entries; where another thread submits, it is woken for all.
    fn enters_for(&mut self, thread: ThreadId, ring: RingId, left: u32) {
        let Some(poller) = self.rings[ring.index()].poller else {
            self.threads[thread.index()].state = ThreadState::Submitting { done: 0, left, wait: 0 };
            return;
        };
        let left = self.rings[ring.index()].sq.len() as u32;
        let state = &mut self.threads[poller.index()].state;
        match state {
            ThreadState::Dead => {}
            ThreadState::Submitting { left: more, .. } => *more = left,
            ThreadState::Ready(_)
            | ThreadState::Calling(_)
            | ThreadState::Waiting { .. }
            | ThreadState::Sleeping
            | ThreadState::Awaiting(_)
            | ThreadState::Locking(_)
            | ThreadState::Opening => {
                *state = ThreadState::Submitting { done: 0, left, wait: 0 };
            }
        }
    }

    /// `fixfile`: its result.
    pub(super) fn fix_file(&mut self, thread: ThreadId, opened: bool) -> i32 {
        let Some(ring) = self.threads[thread.index()].ring.filter(|_| opened) else {
            return -errno::EBADF;
        };
        if std::mem::replace(&mut self.rings[ring.index()].holds_file, true) {
            return -errno::EBUSY;
        }
        if let Some(device) = &mut self.device {
            device.file_refs += 1;
        }
        0
    }

    /// `unfixfile`: its result.
    pub(super) fn unfix_file(&mut self, run: &mut Run<'_>, thread: ThreadId) -> i32 {
        match self.threads[thread.index()].ring {
            None => -errno::EBADF,
            Some(ring) if !self.rings[ring.index()].holds_file => -errno::ENXIO,
            Some(ring) => {
                self.let_go_of_file(run, ring);
                0
            }
        }
    }

    /// Whether an actor's commands reach the device: by its process's descriptor, or by the ring's registered file.
    pub(super) fn reaches_device(&self, thread: ThreadId, opened: bool) -> bool {
        let ring = self.threads[thread.index()].ring;
        opened || ring.is_some_and(|ring| self.rings[ring.index()].holds_file)
    }

    /// Whether a thread is the kernel's own, which submits for a ring.
    pub(crate) fn is_poller(&self, thread: ThreadId) -> bool {
        matches!(self.threads[thread.index()].program.as_deref(), Some(Program::Poller))
    }
}
