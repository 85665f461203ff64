//! The museum: known-bad servers. Each names its source, and what must be found.

mod async_init;
mod base;

use blkproof_engine::supervisor::Deadlines;
use blkproof_engine::sys::{Ret, RingMode};

pub(crate) use base::{Act, STOP_CELL, Sys};

use crate::config::{Config, Faults, Subject, TargetKind};
use crate::outcome::Verdict;
use crate::run::Run;
use crate::world::World;

/// A known-bad server.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum Specimen {
    /// Serving threads poll for an initialisation that has already failed.
    AsyncInit,
    /// START_DEV is sent, and waited for, by the thread that would have to fetch first.
    StartBeforeFetch,
    /// Tags are fetched by another thread than the one that serves and commits.
    PrimeOnAnotherThread,
    /// A commit is lost when `enter` answers EINTR.
    EintrLost,
    /// The submission queue's tail becomes visible before the entry is written.
    UnpublishedSqe,
    /// The serving thread waits for a log writer that waits for the serving thread.
    BlockingLog,
    /// One FETCH every 250 ms.
    SerialPrime,
}

impl Specimen {
    /// Every specimen.
    pub const fn all() -> &'static [Self] {
        &[
            Self::AsyncInit,
            Self::StartBeforeFetch,
            Self::PrimeOnAnotherThread,
            Self::EintrLost,
            Self::UnpublishedSqe,
            Self::BlockingLog,
            Self::SerialPrime,
        ]
    }

    /// Its name on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::AsyncInit => "async-init",
            Self::StartBeforeFetch => "start-before-fetch",
            Self::PrimeOnAnotherThread => "prime-on-another-thread",
            Self::EintrLost => "eintr-lost",
            Self::UnpublishedSqe => "unpublished-sqe",
            Self::BlockingLog => "blocking-log",
            Self::SerialPrime => "serial-prime",
        }
    }

    /// The specimen of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::all().iter().copied().find(|specimen| specimen.name() == name)
    }

    /// Where it was seen: project, commit or thread, in one line.
    pub const fn source(self) -> &'static str {
        match self {
            Self::AsyncInit => {
                "go-ublk 8553d32 (CRISIS_DISCOVERY.md, 2025-09-28; undone by e55b892)"
            }
            Self::StartBeforeFetch => "ublk-go e98e38a, 94c53e7, c30be57, 18cb5c7; go-ublk 2424101",
            Self::PrimeOnAnotherThread => "go-ublk 9789eb3 (prime on the thread that serves)",
            Self::EintrLost => "ublk-go 8f2a561, then b3a8815 (the first fix was incomplete)",
            Self::UnpublishedSqe => "go-ublk f640002, b06b276 (no barrier before the tail)",
            Self::BlockingLog => "go-ublk: a log write that blocks the serving thread",
            Self::SerialPrime => "go-ublk: a pause of 250 ms after each FETCH",
        }
    }

    /// What must be found.
    pub const fn expected(self) -> Verdict {
        match self {
            Self::AsyncInit
            | Self::StartBeforeFetch
            | Self::PrimeOnAnotherThread
            | Self::EintrLost
            | Self::UnpublishedSqe
            | Self::BlockingLog => Verdict::Deadlock,
            Self::SerialPrime => Verdict::Livelock,
        }
    }

    /// What is wrong with it, in one sentence.
    pub const fn summary(self) -> &'static str {
        match self {
            Self::AsyncInit => {
                "the serving threads poll every 10 ms for a data plane whose initialisation failed without telling anybody"
            }
            Self::StartBeforeFetch => {
                "the fetches are queued but not submitted when the same thread waits for START_DEV"
            }
            Self::PrimeOnAnotherThread => {
                "the tags are fetched by the main thread, so the kernel refuses the commits of the serving thread"
            }
            Self::EintrLost => {
                "a signal interrupts io_uring_enter, and what was to be submitted is thought submitted"
            }
            Self::UnpublishedSqe => {
                "the tail is stored before the entry, and another thread enters in between"
            }
            Self::BlockingLog => {
                "the serving thread blocks on a full log pipe, whose reader writes to the device being served"
            }
            Self::SerialPrime => "a pause of 250 ms after each FETCH makes start-up miss its bound",
        }
    }

    /// A configuration in which it is found quickly: the adversity it needs and no other.
    pub const fn config(self) -> Config {
        let faults = Faults { signal: 0, submit: 0, resource: 0, kill: 0, disk: 0, stop: 0, udev: 0 };
        let faults = match self {
            Self::AsyncInit => Faults { udev: 96, ..faults },
            Self::EintrLost => Faults { signal: 32, ..faults },
            Self::StartBeforeFetch
            | Self::PrimeOnAnotherThread
            | Self::UnpublishedSqe
            | Self::BlockingLog
            | Self::SerialPrime => faults,
        };
        let depth = match self {
            Self::SerialPrime => 64,
            _ => 2,
        };
        Config {
            subject: Subject::Specimen(self),
            queues: 1,
            depth,
            requests: 4,
            mode: RingMode::Default,
            target: TargetKind::Null,
            deadlines: Deadlines::NONE,
            faults,
            steps_max: 20_000,
            timeline: false,
        }
    }
}

/// A thread of a specimen.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Server {
    AsyncInitMain(base::Main<async_init::Plane>),
    AsyncInitOpener(async_init::Opener),
    AsyncInitPoller(async_init::Poller),
}

impl Server {
    /// One step.
    pub(crate) fn step(&mut self, ret: Ret, sys: &mut Sys<'_, '_>) -> Act {
        match self {
            Self::AsyncInitMain(thread) => thread.step(ret, sys),
            Self::AsyncInitOpener(thread) => thread.step(ret, sys),
            Self::AsyncInitPoller(thread) => thread.step(ret, sys),
        }
    }

    /// Whether it is the thread that serves its queue.
    pub(crate) const fn serves(&self) -> bool {
        match self {
            Self::AsyncInitPoller(_) => true,
            Self::AsyncInitMain(_) | Self::AsyncInitOpener(_) => false,
        }
    }

    /// What it waits for, if it says.
    pub(crate) fn awaits(&self) -> Option<&'static str> {
        match self {
            Self::AsyncInitMain(thread) => Some(thread.awaits()),
            Self::AsyncInitOpener(_) => Some("opens the character device"),
            Self::AsyncInitPoller(thread) if thread.polls() => {
                Some("polls every 10 ms for the character device")
            }
            Self::AsyncInitPoller(_) => None,
        }
    }

    /// Who owes it: the name of a thread.
    pub(crate) fn owner(&self) -> Option<&'static str> {
        match self {
            Self::AsyncInitMain(thread) if thread.is_preparing() => Some("io loop 0"),
            Self::AsyncInitPoller(thread) if thread.polls() => Some("data plane"),
            Self::AsyncInitMain(_) | Self::AsyncInitOpener(_) | Self::AsyncInitPoller(_) => None,
        }
    }

    /// Why the owner does not deliver.
    pub(crate) fn because(&self) -> &'static str {
        match self {
            Self::AsyncInitPoller(thread) if thread.polls() => {
                "its initialisation failed and it returned, telling nobody"
            }
            Self::AsyncInitMain(thread) if thread.is_preparing() => {
                "it polls a cell that nobody will ever set"
            }
            Self::AsyncInitMain(_) | Self::AsyncInitOpener(_) | Self::AsyncInitPoller(_) => "",
        }
    }
}

/// Sets the stage for a specimen.
pub(crate) fn start(world: &mut World, run: &mut Run<'_>, specimen: Specimen) {
    let repaired = run.repaired;
    let main = match specimen {
        Specimen::AsyncInit => async_init::main(repaired),
        _ => async_init::main(repaired),
    };
    base::start_process(world, run, main);
}
