//! Links: the bounded FIFO channels between launcher, supervisor, worker, queues and operator.
//!
//! Each direction has a message type of its own, so that a message which a link never carries cannot be sent on it (I9).
//! Telling never waits and never fails: each link has room for all that its senders may ever say, and a peer that is gone
//! needs no telling.

use crate::cause::{Cause, Step};
use crate::uapi::{DevId, QueueId};

/// A link that a thread hears, named by who is at the other end.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum Link {
    /// The supervisor (heard by launcher and worker).
    Supervisor,
    /// The worker (heard by the supervisor, and by each queue).
    Worker,
    /// All queues (heard by the worker).
    Queues,
    /// The operator: a signal (heard by launcher and supervisor).
    Operator,
}

impl Link {
    /// A number for `user_data`.
    pub const fn encode(self) -> u32 {
        match self {
            Self::Supervisor => 0,
            Self::Worker => 1,
            Self::Queues => 2,
            Self::Operator => 3,
        }
    }

    /// The inverse of [`Link::encode`].
    pub const fn decode(number: u32) -> Option<Self> {
        match number {
            0 => Some(Self::Supervisor),
            1 => Some(Self::Worker),
            2 => Some(Self::Queues),
            3 => Some(Self::Operator),
            _ => None,
        }
    }
}

/// Operator to launcher, operator to supervisor. Any number of the same counts as one.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum Order {
    /// Stop and delete the device.
    Stop,
    /// Give the device another worker, as soon as it has none.
    Recover,
    /// Give the device another worker in the place of the one that serves it.
    Handover,
    /// Give the device another size.
    Resize {
        /// In 512-byte sectors.
        sectors: u64,
    },
}

/// What a supervisor has to say that nobody waits for.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum News {
    /// The worker of a LIVE device is gone.
    WorkerLost(Cause),
    /// The worker of a LIVE device ended in good order, and nobody had asked for it.
    WorkerEnded,
    /// Another worker serves the device.
    Recovered,
    /// The device could not be given another worker.
    RecoveryFailed(Cause),
    /// The device is left without a worker until somebody asks for one.
    Unserved,
    /// The worker of a LIVE device is being replaced, as somebody asked.
    HandingOver,
    /// The device has this size, in 512-byte sectors.
    Resized(u64),
    /// What an operator asked for was not done.
    Refused(Cause),
}

/// Supervisor to launcher: at most one.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum Verdict {
    /// The device is LIVE under this number.
    Up(DevId),
    /// The device is not up.
    Down {
        /// The first cause.
        cause: Cause,
        /// The step of the unwinding that did not finish, if one did not: the device was left behind.
        stuck: Option<Step>,
    },
}

/// Supervisor to worker.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum ToWorker {
    /// The device is LIVE. From here on the worker outlives its supervisor.
    Live,
    /// Finish what you hold, then exit. The worker has a deadline for that.
    Quit,
    /// The device is about to be quiesced: from here on the worker does not outlive its supervisor.
    Handover,
    /// As [`ToWorker::Quit`], but take all the time that it takes: the deadline is the supervisor's.
    Finish,
    /// The device is to have this size, or has it already. At most one that is not answered.
    Resize {
        /// In 512-byte sectors.
        sectors: u64,
    },
}

/// Worker to supervisor.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum FromWorker {
    /// Every queue is primed.
    Primed,
    /// The worker gives up, and exits.
    Failed(Cause),
    /// Every queue ended in good order; the worker exits.
    Ended,
    /// Every queue knows the size.
    Resized {
        /// In 512-byte sectors.
        sectors: u64,
    },
    /// The worker cannot serve a device of that size, and goes on with the one before.
    NotResized(Cause),
}

/// Worker to queue.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum ToQueue {
    /// Fetch every tag.
    Prime,
    /// Finish what you hold, then exit.
    Quit,
    /// The device has another size. At most one that is not answered.
    Resize {
        /// In 512-byte sectors.
        sectors: u64,
    },
}

/// Queue to worker.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum FromQueue {
    /// Ring, mapping and buffers are there, and nothing is fetched.
    Ready(QueueId),
    /// Every FETCH of this queue was accepted.
    Primed(QueueId),
    /// This queue cannot serve; its thread exits.
    Failed(QueueId, Cause),
    /// This queue's thread exits, owing nothing.
    Ended(QueueId),
    /// This queue knows the device's new size.
    Resized(QueueId),
}

/// Messages that a link to or from the worker holds: one of each kind at the most.
pub const WORKER_MESSAGES_MAX: usize = 5;
/// Messages that a link to a queue holds: likewise.
pub const TO_QUEUE_MESSAGES_MAX: usize = 3;

/// Messages that the link from a worker's `queues` queues holds: [`FromQueue::Ready`], [`FromQueue::Primed`], [`FromQueue::Resized`] and an end of each.
pub const fn from_queues_messages_max(queues: u16) -> usize {
    4 * queues as usize
}

/// What hearing a link found.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Received<M> {
    /// The oldest message.
    Message(M),
    /// Nothing now; the other end is still there.
    Empty,
    /// Nothing, and nothing will come.
    Closed,
}
