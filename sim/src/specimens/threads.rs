//! The threads that the hand-written servers are made of, and what each waits for.

use blkproof_engine::sys::Ret;

use super::base::{self, Act, Sys};
use super::{async_init, blocking_log, prime_elsewhere, queue_thread, unpublished_sqe};

/// A thread of a specimen.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Server {
    AsyncInitMain(base::Main<async_init::Plane>),
    AsyncInitOpener(async_init::Opener),
    AsyncInitPoller(async_init::Poller),
    Plain(base::Main<queue_thread::Spawn>),
    Queue(queue_thread::QueueThread),
    PrimeElsewhere(base::Main<prime_elsewhere::Fetch>),
    PrimedElsewhere(prime_elsewhere::Served),
    Unpublished(base::Main<unpublished_sqe::Spawn>),
    Submitter(unpublished_sqe::Submitter),
    Handler(unpublished_sqe::Handler),
    BlockingLog(base::Main<blocking_log::Spawn>),
    Logging(blocking_log::Logging),
    LogWriter(blocking_log::LogWriter),
}

/// What a thread waits for: what, the name of the thread that owes it, and why that does not deliver.
pub(crate) struct Waits {
    pub(crate) what: &'static str,
    pub(crate) owner: Option<&'static str>,
    pub(crate) because: &'static str,
}

impl Server {
    /// One step.
    pub(crate) fn step(&mut self, ret: Ret, sys: &mut Sys<'_, '_>) -> Act {
        match self {
            Self::AsyncInitMain(thread) => thread.step(ret, sys),
            Self::AsyncInitOpener(thread) => thread.step(ret, sys),
            Self::AsyncInitPoller(thread) => thread.step(ret, sys),
            Self::Plain(thread) => thread.step(ret, sys),
            Self::Queue(thread) => thread.step(ret, sys),
            Self::PrimeElsewhere(thread) => thread.step(ret, sys),
            Self::PrimedElsewhere(thread) => thread.step(ret, sys),
            Self::Unpublished(thread) => thread.step(ret, sys),
            Self::Submitter(thread) => thread.step(ret, sys),
            Self::Handler(thread) => thread.step(ret, sys),
            Self::BlockingLog(thread) => thread.step(ret, sys),
            Self::Logging(thread) => thread.step(ret, sys),
            Self::LogWriter(thread) => thread.step(ret, sys),
        }
    }

    /// Whether it is the thread that serves its queue.
    pub(crate) const fn serves(&self) -> bool {
        match self {
            Self::AsyncInitPoller(_)
            | Self::Queue(_)
            | Self::PrimedElsewhere(_)
            | Self::Submitter(_)
            | Self::Logging(_) => true,
            Self::AsyncInitMain(_)
            | Self::AsyncInitOpener(_)
            | Self::Plain(_)
            | Self::PrimeElsewhere(_)
            | Self::Unpublished(_)
            | Self::Handler(_)
            | Self::BlockingLog(_)
            | Self::LogWriter(_) => false,
        }
    }

    /// What it waits for.
    pub(crate) fn waits(&self) -> Waits {
        let nobody = |what| Waits { what, owner: None, because: "" };
        match self {
            Self::AsyncInitMain(thread) if thread.is_preparing() => Waits {
                what: thread.awaits(),
                owner: Some("io loop 0"),
                because: "it polls a cell that nobody will ever set",
            },
            Self::AsyncInitMain(thread) => nobody(thread.awaits()),
            Self::AsyncInitOpener(_) => nobody("opens the character device"),
            Self::AsyncInitPoller(thread) if thread.polls() => Waits {
                what: "polls every 10 ms for the character device",
                owner: Some("data plane"),
                because: "its initialisation failed and it returned, telling nobody",
            },
            Self::AsyncInitPoller(_) => nobody("waits for a request"),
            Self::Plain(thread) if thread.is_preparing() => Waits {
                what: thread.awaits(),
                owner: Some("queue 0"),
                because: "it has not said that it is ready",
            },
            Self::Plain(thread) => nobody(thread.awaits()),
            Self::Queue(thread) => Waits {
                what: thread.awaits(),
                owner: thread.wants_lock().then_some("main"),
                because: if thread.wants_lock() {
                    "it holds the lock until START_DEV ends"
                } else {
                    ""
                },
            },
            Self::PrimeElsewhere(thread) => nobody(thread.awaits()),
            Self::PrimedElsewhere(_) => {
                nobody("waits for a request; its commits were refused, and it did not look")
            }
            Self::Unpublished(thread) => nobody(thread.awaits()),
            Self::Submitter(_) => nobody("polls every 1 ms for completions and entries"),
            Self::Handler(_) => nobody("waits for a request"),
            Self::BlockingLog(thread) => nobody(thread.awaits()),
            Self::Logging(thread) => Waits {
                what: thread.awaits(),
                owner: thread.is_blocked().then_some("log writer"),
                because: if thread.is_blocked() { "it wants the queue's lock first" } else { "" },
            },
            Self::LogWriter(thread) => Waits {
                what: thread.awaits(),
                owner: thread.is_blocked().then_some("queue 0"),
                because: if thread.is_blocked() {
                    "it holds the lock while the log is full"
                } else {
                    ""
                },
            },
        }
    }
}
