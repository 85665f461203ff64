//! What every machine of a process is at and waits for, readable by another thread while the machine's own thread is blocked.
//!
//! A thread publishes before each call, if something changed. It copies plain values: no allocation, no formatting, and never
//! a wait for the reader.

use std::fmt;

use blkproof_engine::pending::{Pending, PendingSink};
use blkproof_engine::uapi::QueueId;
use blkproof_engine::{launcher, query, queue, supervisor, worker};

use crate::sync::atomic::{AtomicUsize, Ordering};
use crate::sync::{Arc, Mutex};

/// The most things that one machine waits for at a time.
const PENDING_MAX: usize = 4;

/// Which machine.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Name {
    /// The launcher.
    Launcher,
    /// The supervisor.
    Supervisor,
    /// The worker's main thread.
    Worker,
    /// The thread of a queue.
    Queue(QueueId),
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Launcher => f.write_str("launcher"),
            Self::Supervisor => f.write_str("supervisor"),
            Self::Worker => f.write_str("worker"),
            Self::Queue(queue) => write!(f, "queue {}", queue.0),
        }
    }
}

/// What a machine is at.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum State {
    /// Not resumed yet.
    Boot,
    /// A launcher.
    Launcher(launcher::Stage),
    /// A supervisor.
    Supervisor(supervisor::Stage),
    /// A worker's main thread.
    Worker(worker::Phase),
    /// The thread of a queue.
    Queue(queue::Phase),
    /// A question.
    Query(query::Stage),
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Boot => f.write_str("Boot"),
            Self::Launcher(stage) => write!(f, "{stage:?}"),
            Self::Supervisor(stage) => write!(f, "{stage:?}"),
            Self::Worker(phase) => write!(f, "{phase:?}"),
            Self::Queue(phase) => write!(f, "{phase:?}"),
            Self::Query(stage) => write!(f, "{stage:?}"),
        }
    }
}

/// A machine, seen from outside.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct View {
    /// What it is at.
    pub state: State,
    pending: [Option<Pending>; PENDING_MAX],
}

impl View {
    /// A view of a machine that waits for nothing yet.
    pub const fn new(state: State) -> Self {
        Self { state, pending: [None; PENDING_MAX] }
    }

    /// What it waits for.
    pub fn pending(&self) -> impl Iterator<Item = &Pending> {
        self.pending.iter().flatten()
    }
}

impl PendingSink for View {
    fn pending(&mut self, pending: Pending) {
        if let Some(free) = self.pending.iter_mut().find(|slot| slot.is_none()) {
            *free = Some(pending);
        }
    }
}

/// Two copies of a view, so that the writer always finds one that the (only) reader does not hold.
#[derive(Debug)]
struct Slot {
    copies: [Mutex<View>; 2],
    latest: AtomicUsize,
}

impl Slot {
    fn write(&self, view: View) {
        let latest = self.latest.load(Ordering::Relaxed);
        if let Some(mut copy) = self.copies[1 - latest].try_lock() {
            *copy = view;
            self.latest.store(1 - latest, Ordering::Release);
        } else if let Some(mut copy) = self.copies[latest].try_lock() {
            *copy = view;
        }
    }

    fn read(&self) -> View {
        *self.copies[self.latest.load(Ordering::Acquire)].lock()
    }
}

/// All machines of a process.
#[derive(Clone, Debug, Default)]
pub struct Board(Arc<Mutex<Vec<Entry>>>);

type Entry = (Name, Arc<Slot>);

impl Board {
    /// Adds a machine.
    pub fn publisher(&self, name: Name) -> Publisher {
        let last = View::new(State::Boot);
        let slot = Arc::new(Slot {
            copies: [Mutex::new(last), Mutex::new(last)],
            latest: AtomicUsize::new(0),
        });
        self.0.lock().push((name, Arc::clone(&slot)));
        Publisher { slot, last }
    }

    /// Every machine's latest view. To be called by one thread at a time.
    pub fn views(&self) -> Vec<(Name, View)> {
        self.0.lock().iter().map(|(name, slot)| (*name, slot.read())).collect()
    }
}

/// The writing end of one machine's place on the board.
#[derive(Debug)]
pub struct Publisher {
    slot: Arc<Slot>,
    last: View,
}

impl Publisher {
    /// Publishes a view, if it is new.
    pub fn publish(&mut self, view: View) {
        if view != self.last {
            self.last = view;
            self.slot.write(view);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use blkproof_engine::pending::{Awaits, Otherwise, Owner};

    #[test]
    fn a_reader_sees_the_latest_view_even_while_it_holds_one() {
        let board = Board::default();
        let mut publisher = board.publisher(Name::Worker);
        let view = |queues| {
            let mut view = View::new(State::Worker(worker::Phase::Running));
            PendingSink::pending(
                &mut view,
                Pending {
                    awaits: Awaits::QueuesEnded(queues),
                    owner: Owner::Operator,
                    otherwise: Otherwise::WaitOn,
                },
            );
            view
        };
        publisher.publish(view(1));
        assert_eq!(board.views(), [(Name::Worker, view(1))]);
        let slot = Arc::clone(&publisher.slot);
        let held = slot.copies[slot.latest.load(Ordering::Acquire)].lock();
        publisher.publish(view(2));
        drop(held);
        assert_eq!(board.views(), [(Name::Worker, view(2))]);
        // A reader that was slow between its look at `latest` and its lock.
        let held = slot.copies[1 - slot.latest.load(Ordering::Acquire)].lock();
        publisher.publish(view(3));
        drop(held);
        assert_eq!(board.views(), [(Name::Worker, view(3))]);
    }
}
