//! The museum: known-bad servers. Each names its source, and what must be found.

mod async_init;
mod base;
mod blocking_log;
mod eintr_lost;
mod prime_elsewhere;
mod queue_thread;
mod serial_prime;
mod start_before_fetch;
mod unpublished_sqe;

use blkproof_engine::data::DataMode;
use blkproof_engine::supervisor::{Deadlines, Recovery};
use blkproof_engine::sys::{Ret, RingMode};
use blkproof_engine::uapi::KernelSeries;

pub(crate) use base::{Act, STOP_CELL, Sys};

use crate::config::{Commands, Config, Faults, Memory, Subject, TargetKind};
use crate::outcome::Verdict;
use crate::run::Run;
use crate::world::World;

/// A known-bad server.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum Specimen {
    /// Serving threads poll for an initialisation that has already failed.
    AsyncInit,
    /// START_DEV is sent, under a lock, before the FETCHes that need the lock are submitted.
    StartBeforeFetch,
    /// Tags are fetched by another thread than the one that serves and commits.
    PrimeOnAnotherThread,
    /// A serving thread takes EINTR for the end of its work.
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
            Self::EintrLost => "go-ublk cba6776; libublk 23a14a1 (a command orphaned by EINTR)",
            Self::UnpublishedSqe => "go-ublk f640002, b06b276 (no barrier before the tail)",
            Self::BlockingLog => {
                "go-ublk b451b7d (threads of the rings blocked on a synchronous log)"
            }
            Self::SerialPrime => {
                "go-ublk 339808f (start-up takes depth x 250 ms, one FETCH after another)"
            }
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
                "a queue says that it is ready before its fetches are submitted, and START_DEV holds the lock they need"
            }
            Self::PrimeOnAnotherThread => {
                "the tags are fetched by the main thread, so the kernel refuses the commits of the serving thread"
            }
            Self::EintrLost => {
                "a signal interrupts io_uring_enter, and the serving thread leaves its loop with its ring open"
            }
            Self::UnpublishedSqe => {
                "the tail is stored before the entry, and another thread enters in between"
            }
            Self::BlockingLog => {
                "the serving thread waits for room in the log while it holds the lock that the log writer wants"
            }
            Self::SerialPrime => "a pause of 250 ms after each FETCH makes start-up miss its bound",
        }
    }

    /// A configuration in which it is found quickly: the adversity it needs and no other.
    pub const fn config(self) -> Config {
        let faults = Faults::NONE;
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
            kernel: KernelSeries::V7_3,
            queues: 1,
            depth,
            requests: 4,
            mode: RingMode::Default,
            target: TargetKind::Null,
            data: DataMode::Copy,
            commands: Commands::Single,
            memory: Memory::Own,
            recovery: Recovery::None,
            restart: false,
            deadlines: Deadlines::NONE,
            faults,
            steps_max: 20_000,
            timeline: false,
            quiet: false,
            cpus: 4,
        }
    }
}

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

/// Sets the stage for a specimen.
pub(crate) fn start(world: &mut World, run: &mut Run<'_>, specimen: Specimen) {
    let repaired = run.repaired;
    let main = match specimen {
        Specimen::AsyncInit => async_init::main(repaired),
        Specimen::StartBeforeFetch => start_before_fetch::main(repaired),
        Specimen::PrimeOnAnotherThread => prime_elsewhere::main(repaired),
        Specimen::EintrLost => eintr_lost::main(repaired),
        Specimen::UnpublishedSqe => unpublished_sqe::main(repaired),
        Specimen::BlockingLog => blocking_log::main(repaired),
        Specimen::SerialPrime => serial_prime::main(repaired),
    };
    base::start_process(world, run, main);
}
