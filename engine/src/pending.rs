//! No wait without an owner: what a machine waits for, who owes it, and what happens if it never comes.

use core::fmt;

/// One thing a machine waits for.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Pending {
    /// What is awaited.
    pub awaits: Awaits,
    /// Who owes it.
    pub owner: Owner,
    /// What the machine does if it never comes.
    pub otherwise: Otherwise,
}

/// What can be awaited.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum Awaits {
    /// The return of a system call that was just made.
    CallReturn,
    /// The completion of a control command, named as the kernel names it.
    Control(&'static str),
    /// A request of a client, on so many armed tags.
    Requests(u16),
    /// The answers to so many commands that register a request's pages or give them back.
    Registrations(u16),
    /// The data of so many announced writes.
    WriteData(u16),
    /// The kernel consuming so many finished requests of a batch.
    Commits(u16),
    /// The results of so many backend operations.
    BackendResults(u16),
    /// The kernel taking so many prepared entries.
    Submission(u16),
    /// So many queues reporting that they could fetch.
    QueuesReady(u16),
    /// The worker saying that every queue is ready to fetch.
    WordToFetch,
    /// So many queues reporting that they are primed.
    QueuesPrimed(u16),
    /// So many queues ending.
    QueuesEnded(u16),
    /// The worker reporting that every queue is primed.
    WorkerPrimed,
    /// The worker reporting that every queue knows the device's new size.
    WorkerResized,
    /// So many queues reporting that they know it.
    QueuesResized(u16),
    /// The worker process exiting.
    WorkerExit,
    /// The supervisor starting the device.
    DeviceLive,
    /// The supervisor process exiting.
    SupervisorExit,
    /// The kernel cleaning up behind a worker that is gone.
    Release,
    /// Somebody asking for the recovery of a device that has no worker.
    RecoveryRequest,
    /// The device's own supervisor bringing it back.
    Recovery,
    /// The device's own supervisor doing what it was asked for.
    Errand,
    /// The supervisor saying whether the device is up.
    Verdict,
    /// The node of the block device.
    Node,
    /// The operator asking to stop.
    StopRequest,
    /// A pause before the next attempt.
    Retry,
}

/// Who owes it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum Owner {
    /// The kernel.
    Kernel,
    /// Another machine of the engine.
    Engine,
    /// The backing store.
    Backend,
    /// A client of the block device: nothing is wrong while it does not come.
    Client,
    /// The operator: likewise.
    Operator,
}

/// What happens if it never comes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum Otherwise {
    /// Nothing: waiting is the machine's normal state.
    WaitOn,
    /// A deadline expires and the device is unwound.
    Unwind,
    /// A deadline expires and the worker is killed.
    KillWorker,
    /// A deadline expires and the machine gives up, saying what it leaves behind.
    GiveUp,
    /// The peer's own deadline covers it.
    PeerUnwinds,
    /// Nothing: the call waits for no other party, and the kernel is trusted to return from it.
    Trusted,
}

impl Owner {
    /// The name used in dumps and reports.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Kernel => "kernel",
            Self::Engine => "engine",
            Self::Backend => "backend",
            Self::Client => "client",
            Self::Operator => "operator",
        }
    }
}

impl fmt::Display for Awaits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CallReturn => f.write_str("the return of a system call"),
            Self::Control(name) => write!(f, "the completion of {name}"),
            Self::Requests(n) => write!(f, "a request on {n} armed tag(s)"),
            Self::Registrations(n) => write!(f, "{n} registration(s) of pages"),
            Self::WriteData(n) => write!(f, "the data of {n} announced write(s)"),
            Self::Commits(n) => write!(f, "the commit of {n} finished request(s)"),
            Self::BackendResults(n) => write!(f, "{n} backend result(s)"),
            Self::Submission(n) => write!(f, "the submission of {n} entr(ies)"),
            Self::QueuesReady(n) => write!(f, "{n} queue(s) to be ready to fetch"),
            Self::WordToFetch => f.write_str("the word to fetch"),
            Self::QueuesPrimed(n) => write!(f, "{n} queue(s) to be primed"),
            Self::QueuesEnded(n) => write!(f, "{n} queue(s) to end"),
            Self::WorkerPrimed => f.write_str("the worker to have every queue primed"),
            Self::WorkerResized => f.write_str("the worker to know the device's new size"),
            Self::QueuesResized(n) => write!(f, "{n} queue(s) to know the device's new size"),
            Self::WorkerExit => f.write_str("the worker process to exit"),
            Self::DeviceLive => f.write_str("the supervisor to start the device"),
            Self::SupervisorExit => f.write_str("the supervisor process to exit"),
            Self::Release => f.write_str("the kernel to have cleaned up behind the last worker"),
            Self::RecoveryRequest => f.write_str("a request to recover, or to stop"),
            Self::Recovery => f.write_str("the device's own supervisor to recover it"),
            Self::Errand => f.write_str("the device's own supervisor to do what it was asked for"),
            Self::Verdict => f.write_str("the supervisor to say whether the device is up"),
            Self::Node => f.write_str("the node of the block device"),
            Self::StopRequest => f.write_str("a request to stop"),
            Self::Retry => f.write_str("a pause before the next attempt"),
        }
    }
}

impl fmt::Display for Otherwise {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::WaitOn => "waits on",
            Self::Unwind => "unwinds at its deadline",
            Self::KillWorker => "kills the worker at its deadline",
            Self::GiveUp => "gives up at its deadline",
            Self::PeerUnwinds => "is unwound by its peer",
            Self::Trusted => "nothing: it is trusted to return",
        })
    }
}

impl fmt::Display for Pending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "waits for {} ({} owes it; otherwise {})",
            self.awaits,
            self.owner.name(),
            self.otherwise
        )
    }
}

/// Receives what a machine waits for.
pub trait PendingSink {
    /// One more.
    fn pending(&mut self, pending: Pending);
}

impl PendingSink for alloc::vec::Vec<Pending> {
    fn pending(&mut self, pending: Pending) {
        self.push(pending);
    }
}
