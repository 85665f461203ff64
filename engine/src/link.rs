//! Links: the bounded FIFO channels between supervisor, worker, queues, operator and launcher.

use crate::cause::{Cause, Step};
use crate::uapi::{DevId, QueueId};

/// One end of a link, named by who is at the other end.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum Link {
    /// To the supervisor (worker's end).
    Supervisor,
    /// To the worker (supervisor's end, and each queue's end).
    Worker,
    /// From all queues (worker's receiving end).
    Queues,
    /// To one queue (worker's sending end).
    Queue(QueueId),
    /// From the operator: a signal, or a request on the command line (supervisor's receiving end).
    Operator,
    /// To whoever launched the supervisor and waits for the verdict (supervisor's sending end).
    Launcher,
}

impl Link {
    /// A number for `user_data`.
    pub const fn encode(self) -> u32 {
        match self {
            Self::Supervisor => 0,
            Self::Worker => 1,
            Self::Queues => 2,
            Self::Operator => 3,
            Self::Launcher => 4,
            Self::Queue(queue) => 0x1_0000 | queue.0 as u32,
        }
    }

    /// The inverse of [`Link::encode`].
    pub const fn decode(number: u32) -> Option<Self> {
        match number {
            0 => Some(Self::Supervisor),
            1 => Some(Self::Worker),
            2 => Some(Self::Queues),
            3 => Some(Self::Operator),
            4 => Some(Self::Launcher),
            0x1_0000..=0x1_ffff => Some(Self::Queue(QueueId(number as u16))),
            _ => None,
        }
    }
}

/// What travels on a link.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Message {
    /// Queue to worker: every FETCH of this queue was accepted.
    QueuePrimed(QueueId),
    /// Queue to worker: this queue cannot serve.
    QueueFailed(QueueId, Cause),
    /// Queue to worker: this queue's thread is about to exit, owing nothing.
    QueueEnded(QueueId),
    /// Worker to supervisor: every queue is primed.
    Primed,
    /// Worker to supervisor: the worker gives up.
    Failed(Cause),
    /// Worker to supervisor: every queue ended in good order.
    Ended,
    /// Supervisor to worker: the device is LIVE. From here on the worker outlives its supervisor.
    Live,
    /// Supervisor to worker, worker to queue: finish what you hold, then exit.
    Quit,
    /// Operator to supervisor: stop and delete the device.
    Stop,
    /// Supervisor to launcher: the device is LIVE under this number.
    Up(DevId),
    /// Supervisor to launcher: the device is not up.
    Down {
        /// The first cause.
        cause: Cause,
        /// The step of the unwinding that did not finish, if one did not: the device was left behind.
        stuck: Option<Step>,
    },
}

/// Why a message could not be sent.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum SendError {
    /// The link holds its maximum of messages.
    Full,
    /// Nobody is at the other end any more.
    Closed,
}

/// What a receive found.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Received {
    /// The oldest message.
    Message(Message),
    /// Nothing now; the other end is still there.
    Empty,
    /// Nothing, and nothing will come.
    Closed,
}
