//! The catalogue of servers that are written by hand.

#![expect(
    clippy::needless_pass_by_value,
    reason = "a setting changes a configuration, and is a function pointer"
)]

use blkproof_engine::sys::RingMode;
use blkproof_engine::uapi::KernelSeries;

use super::queue_thread::Habit;
use super::{EVERY_KERNEL, Exhibit, Nature};
use super::{async_init, blocking_log, prime_elsewhere, unpublished_sqe};
use crate::config::{Config, Faults};

const DEADLOCK: &[&str] = &["deadlock"];
const BEFORE_6_18: &[KernelSeries] = &[KernelSeries::V6_12];
const SINCE_6_18: &[KernelSeries] = &[KernelSeries::V6_18, KernelSeries::V7_3];

/// No adversity.
const fn calm(config: Config) -> Config {
    config
}

const fn with(faults: Faults, config: Config) -> Config {
    Config { faults, ..config }
}

/// The operator stops the device while it is used.
const fn stopped(config: Config) -> Config {
    with(Faults { stop: 24, ..Faults::NONE }, config)
}

const fn killed(config: Config) -> Config {
    with(Faults { kill: 8, ..Faults::NONE }, config)
}

const fn scarce(config: Config) -> Config {
    with(Faults { resource: 32, ..Faults::NONE }, config)
}

const fn interrupted(config: Config) -> Config {
    with(Faults { signal: 32, ..Faults::NONE }, config)
}

const fn two_queues(config: Config) -> Config {
    Config { queues: 2, requests: 8, ..config }
}

const fn one_tag(config: Config) -> Config {
    Config { depth: 1, ..config }
}

pub(super) static SERVERS: &[Exhibit] = &[
    Exhibit {
        name: "async-init",
        classes: &["S05"],
        source: "go-ublk 8553d32 (CRISIS_DISCOVERY.md, 2025-09-28; undone by e55b892)",
        summary: "the serving threads poll every 10 ms for a data plane whose initialisation failed without telling anybody",
        oracles: DEADLOCK,
        kernels: EVERY_KERNEL,
        nature: Nature::Server(async_init::main),
        setting: |config| with(Faults { udev: 96, ..Faults::NONE }, config),
    },
    Exhibit {
        name: "start-before-fetch",
        classes: &["S01"],
        source: "ublk-go e98e38a, 94c53e7, c30be57, 18cb5c7; go-ublk 2424101",
        summary: "a queue says that it is ready before its fetches are submitted, and START_DEV holds the lock they need",
        oracles: DEADLOCK,
        kernels: EVERY_KERNEL,
        nature: Nature::Habit(Habit::EarlyWord),
        setting: calm,
    },
    Exhibit {
        name: "prime-on-another-thread",
        classes: &["H16", "S30"],
        source: "go-ublk 9789eb3 (prime on the thread that serves)",
        summary: "the tags are fetched by the main thread, so the kernel refuses the commits of the serving thread",
        oracles: DEADLOCK,
        kernels: EVERY_KERNEL,
        nature: Nature::Server(prime_elsewhere::main),
        setting: calm,
    },
    Exhibit {
        name: "eintr-lost",
        classes: &["S31"],
        source: "go-ublk cba6776; libublk 23a14a1 (a command orphaned by EINTR)",
        summary: "a signal interrupts io_uring_enter, and the serving thread leaves its loop with its ring open",
        oracles: DEADLOCK,
        kernels: EVERY_KERNEL,
        nature: Nature::Habit(Habit::GivesUpOnEintr),
        setting: interrupted,
    },
    Exhibit {
        name: "unpublished-sqe",
        classes: &["S30"],
        source: "go-ublk f640002, b06b276 (no barrier before the tail)",
        summary: "the tail is stored before the entry, and another thread enters in between",
        oracles: DEADLOCK,
        kernels: EVERY_KERNEL,
        nature: Nature::Server(unpublished_sqe::main),
        setting: calm,
    },
    Exhibit {
        name: "blocking-log",
        classes: &["S25"],
        source: "go-ublk b451b7d (threads of the rings blocked on a synchronous log)",
        summary: "the serving thread waits for room in the log while it holds the lock that the log writer wants",
        oracles: DEADLOCK,
        kernels: EVERY_KERNEL,
        nature: Nature::Server(blocking_log::main),
        setting: calm,
    },
    Exhibit {
        name: "serial-prime",
        classes: &["S05"],
        source: "go-ublk 339808f (start-up takes depth x 250 ms, one FETCH after another)",
        summary: "a pause of 250 ms after each FETCH makes start-up miss its bound",
        oracles: &["start-up bound"],
        kernels: EVERY_KERNEL,
        nature: Nature::Habit(Habit::Pauses),
        setting: |config| Config { depth: 64, ..config },
    },
    Exhibit {
        name: "stop-from-inside",
        classes: &["H01"],
        source: "the kernel: del_gendisk in an io-wq worker of the process whose exit it waits for",
        summary: "the server sends STOP_DEV on a ring of its own and is killed: its exit waits for the command, the command for a request, the request for its exit",
        oracles: DEADLOCK,
        kernels: EVERY_KERNEL,
        nature: Nature::OneProcess,
        setting: |config| Config {
            faults: Faults { kill: 8, stop: 48, ..Faults::NONE },
            requests: 12,
            ..config
        },
    },
    Exhibit {
        name: "start-from-inside",
        classes: &["H02"],
        source: "xnvme's ublk server on Debian trixie (6.12)",
        summary: "the server sends START_DEV on a ring of its own and is killed while the partition scan waits for it",
        oracles: DEADLOCK,
        kernels: BEFORE_6_18,
        nature: Nature::OneProcess,
        setting: |config| Config { requests: 0, ..killed(config) },
    },
    Exhibit {
        name: "serve-after-start",
        classes: &["H03"],
        source: "the kernel: until 6.18 START_DEV reads the partition table before it returns",
        summary: "requests are served only when START_DEV has returned, which waits for one",
        oracles: DEADLOCK,
        kernels: BEFORE_6_18,
        nature: Nature::Habit(Habit::ServesAfterStart),
        setting: calm,
    },
    Exhibit {
        name: "panic-in-handler",
        classes: &["H04", "S21"],
        source: "rublk#15; qcow2-rs#10 (a panic of one thread leaves clients in D state)",
        summary: "a handler panics: its thread is gone, the process lives, and its ring stays open",
        oracles: DEADLOCK,
        kernels: EVERY_KERNEL,
        nature: Nature::Habit(Habit::PanicsAtAWrite),
        setting: one_tag,
    },
    Exhibit {
        name: "ring-closed-alone",
        classes: &["H05"],
        source: "the kernel: ublk_uring_cmd_cancel_fn aborts every queue for one ring that closes",
        summary: "one thread fails and its destructor closes its ring; every queue of the device is dead, and the other threads see nothing",
        oracles: &["L1", "deadlock"],
        kernels: EVERY_KERNEL,
        nature: Nature::Habit(Habit::ClosesItsRing),
        setting: two_queues,
    },
    Exhibit {
        name: "fetch-and-leave",
        classes: &["H06"],
        source: "go-ublk 9789eb3; the kernel: a cancelled FETCH still counts as ready",
        summary: "the thread that fetched ends and takes its ring with it; START_DEV brings a device up that nobody serves",
        oracles: &["L1", "K5", "deadlock"],
        kernels: EVERY_KERNEL,
        nature: Nature::Habit(Habit::FetchesAndLeaves),
        setting: calm,
    },
    Exhibit {
        name: "stop-serving-to-stop",
        classes: &["H32", "S53"],
        source: "ublk-go d49c520, edfc5c8 (order of the shutdown); ublkpp caec44b",
        summary: "the serving threads leave when the server is to stop; STOP_DEV waits for what they hold",
        oracles: DEADLOCK,
        kernels: EVERY_KERNEL,
        nature: Nature::Habit(Habit::StopsServing),
        setting: stopped,
    },
    Exhibit {
        name: "one-completion-a-turn",
        classes: &["S26"],
        source: "libublk 14c4d39 (a filter drops completions); ublksrv PR#201",
        summary: "of the completions that come together one is handled and the others are thrown away",
        oracles: DEADLOCK,
        kernels: EVERY_KERNEL,
        nature: Nature::Habit(Habit::HandlesOne),
        setting: calm,
    },
    Exhibit {
        name: "fetch-again",
        classes: &["H13"],
        source: "the kernel: a FETCH waits for the mutex that STOP_DEV holds while it waits for the thread's tag",
        summary: "a tag whose command was aborted is fetched again",
        oracles: &["deadlock", "livelock"],
        kernels: EVERY_KERNEL,
        nature: Nature::Habit(Habit::FetchesAgain),
        setting: stopped,
    },
    Exhibit {
        name: "poll-without-enter",
        classes: &["H40", "S52"],
        source: "ublk-go a0d6d02, 00f7780; io_uring_setup(2): DEFER_TASKRUN runs task work in io_uring_enter only",
        summary: "the serving thread polls its completion queue and never enters, so no task work ever runs",
        oracles: DEADLOCK,
        kernels: EVERY_KERNEL,
        nature: Nature::Habit(Habit::PollsQueue),
        setting: |config| Config { mode: RingMode::DeferTaskrun, ..config },
    },
    Exhibit {
        name: "wait-before-submit",
        classes: &["S04"],
        source: "libublk e9b911a (waits for a registration before its fetches are prepared)",
        summary: "the first wait for a completion comes before anything was submitted",
        oracles: DEADLOCK,
        kernels: EVERY_KERNEL,
        nature: Nature::Habit(Habit::WaitsFirst),
        setting: calm,
    },
    Exhibit {
        name: "ring-outlives-device",
        classes: &["H66", "S50"],
        source: "ublksrv#52; ublk churn-repro 2a77545 (a fixed file outlives close)",
        summary: "the threads end well and keep their rings, which hold the device's file; DEL_DEV waits for it",
        oracles: DEADLOCK,
        kernels: EVERY_KERNEL,
        nature: Nature::Habit(Habit::KeepsRing),
        setting: calm,
    },
    Exhibit {
        name: "set-up-failure-swallowed",
        classes: &["S03"],
        source: "libublk 405b549, 88ee208; ublkpp af36344",
        summary: "a queue's thread cannot be set up and ends; the main thread waits for its word for ever",
        oracles: DEADLOCK,
        kernels: EVERY_KERNEL,
        nature: Nature::Habit(Habit::SwallowsFailure),
        setting: scarce,
    },
    Exhibit {
        name: "open-leaked",
        classes: &["S07"],
        source: "libublk a7f9a28 (a constructor that fails leaves its registrations behind)",
        summary: "setting up fails and begins again with the device still open, which can be opened once",
        oracles: DEADLOCK,
        kernels: EVERY_KERNEL,
        nature: Nature::Habit(Habit::OpensTwice),
        setting: scarce,
    },
    Exhibit {
        name: "split-queue",
        classes: &["H24"],
        source: "the kernel: on 6.12 a queue has one daemon, the thread that fetched last",
        summary: "two threads fetch the tags of one queue; before 6.18 the requests of one of them are aborted",
        oracles: &["L1"],
        kernels: BEFORE_6_18,
        nature: Nature::Habit(Habit::SplitsQueue),
        setting: calm,
    },
    Exhibit {
        name: "delete-own-device",
        classes: &["H28", "S50"],
        source: "ublksrv#52; ublkpp 13f2826 (del_dev blocks)",
        summary: "DEL_DEV is sent by the process that has the device open, and waits for it to close it",
        oracles: DEADLOCK,
        kernels: EVERY_KERNEL,
        nature: Nature::Habit(Habit::DeletesItsOwn),
        setting: calm,
    },
    Exhibit {
        name: "wrong-pid",
        classes: &["H47", "S10"],
        source: "ublk-go 6c41b5b (of seven ABI mistakes, the missing pid)",
        summary: "START_DEV names another process than the one that opened the device, and is refused after all was fetched",
        oracles: &["L0"],
        kernels: SINCE_6_18,
        nature: Nature::Habit(Habit::WrongPid),
        setting: calm,
    },
    Exhibit {
        name: "queues-clamped",
        classes: &["H48", "S13"],
        source: "kublk's __cmd_dev_add; go-ublk (runtime.NumCPU, not what ADD_DEV granted)",
        summary: "the server waits for the threads of queues that the kernel did not grant",
        oracles: DEADLOCK,
        kernels: EVERY_KERNEL,
        nature: Nature::Habit(Habit::TrustsRequest),
        setting: |config| Config { cpus: 1, ..two_queues(config) },
    },
    Exhibit {
        name: "start-sent-twice",
        classes: &["H62", "S31"],
        source: "ublksrv 8f2a561, b3a8815 (a command that was submitted is submitted again after EINTR)",
        summary: "a signal interrupts the wait for START_DEV, which is sent again, and the refusal of the second is believed",
        oracles: &["L0", "deadlock"],
        kernels: EVERY_KERNEL,
        nature: Nature::Habit(Habit::StartsTwice),
        setting: interrupted,
    },
];
