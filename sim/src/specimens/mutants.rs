//! The catalogue of mutants: the engine with one rule broken between it and the kernel.
//!
//! What the rule is for shows in what finds its absence. The configurations are as small as they can be: the data mode, the recovery and the
//! adversity in which the rule matters.

#![expect(
    clippy::needless_pass_by_value,
    reason = "a setting changes a configuration, and is a function pointer"
)]

use blkproof_engine::data::DataMode;
use blkproof_engine::supervisor::Recovery;
use blkproof_engine::uapi::KernelSeries;

use super::{EVERY_KERNEL, Exhibit, Nature};
use crate::config::{Commands, Config, Faults, Memory, TargetKind};
use crate::run::Sabotage;

const SINCE_6_18: &[KernelSeries] = &[KernelSeries::V6_18, KernelSeries::V7_3];
const ONLY_7_3: &[KernelSeries] = &[KernelSeries::V7_3];

const DEADLOCK: &[&str] = &["deadlock"];
/// Where a sector was zeroed before, O8 says it.
const DATA: &[&str] = &["O5", "O8"];

/// As [`DATA`], of a file: what is durable may be the first that shows it.
const STORED_DATA: &[&str] = &["O5", "O8", "O6"];

/// Memory, and no adversity.
const fn calm(config: Config) -> Config {
    config
}

/// A file, and no adversity.
const fn file(config: Config) -> Config {
    Config { target: TargetKind::File, ..config }
}

/// A file on a disk that answers short, late, or not at all.
const fn bad_disk(config: Config) -> Config {
    Config { faults: Faults { disk: 64, ..Faults::NONE }, ..file(config) }
}

const fn get_data(config: Config) -> Config {
    Config { data: DataMode::GetData, ..config }
}

const fn user_copy(config: Config) -> Config {
    Config { data: DataMode::UserCopy, ..config }
}

const fn zero_copy(config: Config) -> Config {
    Config { data: DataMode::ZeroCopy, ..file(config) }
}

/// Registrations fail now and then, so that the engine registers by hand.
const fn scarce_pages(config: Config) -> Config {
    Config { faults: Faults { resource: 16, ..Faults::NONE }, ..zero_copy(config) }
}

/// One queue of four tags, and batches that are taken in part.
const fn batched(config: Config) -> Config {
    Config {
        commands: Commands::Batched,
        queues: 1,
        depth: 4,
        requests: 16,
        faults: Faults { submit: 64, ..Faults::NONE },
        ..config
    }
}

const fn shared(config: Config) -> Config {
    Config { memory: Memory::Shared, requests: 12, ..config }
}

/// Workers are killed, and others take their place.
const fn recovered(config: Config) -> Config {
    Config {
        recovery: Recovery::Reissue,
        requests: 40,
        steps_max: 4_000,
        faults: Faults { kill: 4, disk: 48, ..Faults::NONE },
        ..file(config)
    }
}

/// A device in use, of which something changes.
const fn changed(faults: Faults, config: Config) -> Config {
    Config { recovery: Recovery::Requeue, requests: 24, steps_max: 8_000, faults, ..config }
}

const fn handed_over(config: Config) -> Config {
    changed(Faults { handover: 8, ..Faults::NONE }, config)
}

const fn resized(config: Config) -> Config {
    changed(Faults { resize: 8, ..Faults::NONE }, config)
}

pub(super) static MUTANTS: &[Exhibit] = &[
    Exhibit {
        name: "commit-lost",
        classes: &["H14", "S20"],
        source: "libublk 23a14a1 (a full submission queue disarms the tag without a word)",
        summary: "one COMMIT is not submitted; nothing in the kernel ever asks for it",
        oracles: DEADLOCK,
        kernels: EVERY_KERNEL,
        nature: Nature::Mutant(Sabotage::DropCommit),
        setting: calm,
    },
    Exhibit {
        name: "error-path-forgets-commit",
        classes: &["S20"],
        source: "ubiblk#486 (libublk 0.4.6: `_ => {}`); ublksrv's ublk.loop.cpp, which only logs",
        summary: "an operation of the backend failed, which is noticed, and nothing is committed",
        oracles: DEADLOCK,
        kernels: EVERY_KERNEL,
        nature: Nature::Mutant(Sabotage::SwallowError),
        setting: bad_disk,
    },
    Exhibit {
        name: "commit-twice",
        classes: &["H15"],
        source: "the kernel: EINVAL of a COMMIT says nothing of the request that is there by now",
        summary: "a COMMIT is submitted twice",
        oracles: &["O1", "L1", "L2"],
        kernels: EVERY_KERNEL,
        nature: Nature::Mutant(Sabotage::DoubleCommit),
        setting: calm,
    },
    Exhibit {
        name: "short-result-committed",
        classes: &["H21", "S22"],
        source: "rublk loop, ublksrv loop, kublk loop, libublk's loop example: the raw result is committed",
        summary: "a COMMIT carries less than was asked for, which 7.3 takes for all of it",
        oracles: &["O3"],
        kernels: EVERY_KERNEL,
        nature: Nature::Mutant(Sabotage::ShortCommit),
        setting: calm,
    },
    Exhibit {
        name: "short-write-taken-for-whole",
        classes: &["H21", "S22"],
        source: "go-ublk (ignores the count); ubiblk#501",
        summary: "the backend wrote a part, and the request is said to be done",
        oracles: STORED_DATA,
        kernels: EVERY_KERNEL,
        nature: Nature::Mutant(Sabotage::TakeShortForWhole),
        setting: |config| Config { requests: 24, ..bad_disk(config) },
    },
    Exhibit {
        name: "zero-result",
        classes: &["H22"],
        source: "the kernel: before 7.3 a write that did nothing is delivered again, at the speed of the CPU",
        summary: "a write is committed with 0",
        oracles: &["O3"],
        kernels: EVERY_KERNEL,
        nature: Nature::Mutant(Sabotage::CommitNothing),
        setting: calm,
    },
    Exhibit {
        name: "again-passed-on",
        classes: &["H23", "S23"],
        source: "libublk 2bcf7ae, 1c14973; ublkpp b2418fd; rublk (gives up after four tries)",
        summary: "EAGAIN of the backend becomes an error that clients see",
        oracles: &["L1"],
        kernels: EVERY_KERNEL,
        nature: Nature::Mutant(Sabotage::PassOnAgain),
        setting: bad_disk,
    },
    Exhibit {
        name: "descriptor-read-late",
        classes: &["S29"],
        source: "the kernel: the descriptor is the next request's as soon as the tag is committed",
        summary: "the descriptor of a tag is read after its COMMIT",
        oracles: &["O1"],
        kernels: EVERY_KERNEL,
        nature: Nature::Mutant(Sabotage::LateDescriptor),
        setting: calm,
    },
    Exhibit {
        name: "buffer-used-late",
        classes: &["H18", "S29"],
        source: "libublk e8719be, 9af6caf (buffers are freed with operations under way)",
        summary: "the buffer of a tag is touched after its COMMIT",
        oracles: &["O4"],
        kernels: EVERY_KERNEL,
        nature: Nature::Mutant(Sabotage::LateBuffer),
        setting: calm,
    },
    Exhibit {
        name: "buffer-rotated",
        classes: &["H17"],
        source: "the kernel: a read's data is taken from the buffer that its COMMIT names",
        summary: "a COMMIT names the buffer for the next request, and the read's data is in another one",
        oracles: DATA,
        kernels: EVERY_KERNEL,
        nature: Nature::Mutant(Sabotage::RotateBuffers),
        setting: |config| Config { requests: 24, ..config },
    },
    Exhibit {
        name: "idle-pages-dropped",
        classes: &["S24"],
        source: "libublk a168470 (#48); ublksrv 7ebf75f, d031e92 (removed at last)",
        summary: "a thread that is about to wait gives its buffers' pages back, with an operation under way on them",
        oracles: STORED_DATA,
        kernels: EVERY_KERNEL,
        nature: Nature::Mutant(Sabotage::DropIdlePages),
        setting: |config| Config { requests: 24, ..file(config) },
    },
    Exhibit {
        name: "another-request-woken",
        classes: &["S25", "S26"],
        source: "libublk df42eec, dcce9bf (a completion wakes the wrong future); ublkpp e27163e",
        summary: "the completion of one request's operation is taken for another's",
        oracles: &["L1", "L2", "O4", "O5", "O8", "O6"],
        kernels: EVERY_KERNEL,
        nature: Nature::Mutant(Sabotage::WakeAnother),
        setting: |config| Config { requests: 24, ..file(config) },
    },
    Exhibit {
        name: "flush-not-durable",
        classes: &["S34"],
        source: "ublksrv 056333c to 23f4eaf (sync_file_range); rublk 9c1f58f; libublk's examples/loop.rs",
        summary: "a flush is answered, and nothing was made durable",
        oracles: &["O6"],
        kernels: EVERY_KERNEL,
        nature: Nature::Mutant(Sabotage::SkipFlush),
        setting: |config| Config { requests: 24, ..file(config) },
    },
    Exhibit {
        name: "fua-not-durable",
        classes: &["S34"],
        source: "the kernel: a device with FUA gets no flush after a write that wants one",
        summary: "a write with FUA is written as any other",
        oracles: &["O6"],
        kernels: EVERY_KERNEL,
        nature: Nature::Mutant(Sabotage::SkipFua),
        setting: |config| Config { requests: 24, ..file(config) },
    },
    Exhibit {
        name: "cache-not-told",
        classes: &["S34", "H37"],
        source: "ublkpp (FLUSH=0); the kernel sends no flush to a device that says it has no cache",
        summary: "SET_PARAMS does not say that there is a volatile cache",
        oracles: &["O6"],
        kernels: EVERY_KERNEL,
        nature: Nature::Mutant(Sabotage::HideCache),
        setting: file,
    },
    Exhibit {
        name: "store-in-the-process",
        classes: &["H37", "S62"],
        source: "the kernel: it does not say on recovery that a cache was lost",
        summary: "what was written lives in the worker's memory, and dies with it",
        oracles: DATA,
        kernels: ONLY_7_3,
        nature: Nature::Mutant(Sabotage::StoreInProcess),
        setting: |config| Config { target: TargetKind::Mem, ..recovered(config) },
    },
    Exhibit {
        name: "sector-truncated",
        classes: &["S35"],
        source: "ublksrv 2bf2b57 (32 bits); go-ublk 2e38a4f (units)",
        summary: "sector numbers lose their upper bits, so that two sectors are one",
        oracles: DATA,
        kernels: EVERY_KERNEL,
        nature: Nature::Mutant(Sabotage::TruncateSector),
        setting: |config| Config { requests: 24, ..config },
    },
    Exhibit {
        name: "one-stride-for-all-queues",
        classes: &["S12"],
        source: "go-ublk's mmapQueues; zig-ublk's queue.zig:89 (queues 1 and up alias queue 0)",
        summary: "every queue reads the descriptors of the first one",
        oracles: &["O1", "O3", "O5", "O8"],
        kernels: EVERY_KERNEL,
        nature: Nature::Mutant(Sabotage::OneStride),
        setting: calm,
    },
    Exhibit {
        name: "write-acked-and-lost",
        classes: &["S38"],
        source: "ublkpp fe26106, b6e9eca (acknowledged before it is anywhere)",
        summary: "a write is acknowledged, and does not reach the store",
        oracles: DATA,
        kernels: EVERY_KERNEL,
        nature: Nature::Mutant(Sabotage::LoseWrite),
        setting: |config| Config { requests: 16, ..config },
    },
    Exhibit {
        name: "zeroes-taken-for-a-discard",
        classes: &["S35"],
        source: "the kernel: after WRITE_ZEROES the range reads as zeroes, after DISCARD as anything",
        summary: "WRITE_ZEROES is answered, and does nothing",
        oracles: DATA,
        kernels: EVERY_KERNEL,
        nature: Nature::Mutant(Sabotage::LoseZeroes),
        setting: |config| Config { depth: 1, requests: 40, steps_max: 4_000, ..config },
    },
    Exhibit {
        name: "wake-up-lost",
        classes: &["S27", "S06"],
        source: "libublk 690a392, 9c50cfc; ublkpp bcaba92, d223c4a",
        summary: "a message is there, and who waits for it is not woken",
        oracles: DEADLOCK,
        kernels: EVERY_KERNEL,
        nature: Nature::Mutant(Sabotage::DropWakeUp),
        setting: calm,
    },
    Exhibit {
        name: "commit-after-abort",
        classes: &["S28"],
        source: "libublk 945c311 (a stale abort meets a new round)",
        summary: "a tag is committed after its abort",
        oracles: &["O11", "L2"],
        kernels: EVERY_KERNEL,
        nature: Nature::Mutant(Sabotage::CommitAfterAbort),
        setting: calm,
    },
    Exhibit {
        name: "announced-write-parked",
        classes: &["S09"],
        source: "libublk aa709f0 (the flag is accepted, the protocol is missing)",
        summary: "a write is announced, and nobody asks for its data",
        oracles: DEADLOCK,
        kernels: EVERY_KERNEL,
        nature: Nature::Mutant(Sabotage::DropGetData),
        setting: get_data,
    },
    Exhibit {
        name: "faulted-write-believed",
        classes: &["H20"],
        source: "the kernel: a write whose data could be copied in part says so in nr_sectors alone",
        summary: "only a part of a write's data came, and all of the buffer is written",
        oracles: DATA,
        kernels: EVERY_KERNEL,
        nature: Nature::Mutant(Sabotage::StaleDescriptor),
        setting: |config| Config {
            faults: Faults { disk: 64, ..Faults::NONE },
            ..get_data(config)
        },
    },
    Exhibit {
        name: "user-copy-after-commit",
        classes: &["H54"],
        source: "the kernel: pread of a tag finds the request that is there by then",
        summary: "a write's data is fetched after its COMMIT",
        oracles: &["O4"],
        kernels: EVERY_KERNEL,
        nature: Nature::Mutant(Sabotage::LateCopy),
        setting: user_copy,
    },
    Exhibit {
        name: "user-copy-forgotten",
        classes: &["S29"],
        source: "the kernel: without copy mode a read that nobody filled is complete all the same",
        summary: "a request is committed without its user copy",
        oracles: DATA,
        kernels: EVERY_KERNEL,
        nature: Nature::Mutant(Sabotage::LoseCopy),
        setting: user_copy,
    },
    Exhibit {
        name: "commit-before-unregister",
        classes: &["H11"],
        source: "the kernel: a request completes when its last reference goes, and this one stays",
        summary: "pages are said to have been given back, and were not",
        oracles: DEADLOCK,
        kernels: ONLY_7_3,
        nature: Nature::Mutant(Sabotage::KeepPages),
        setting: scarce_pages,
    },
    Exhibit {
        name: "slots-collide",
        classes: &["H41"],
        source: "the kernel: the second registration of an index fails, and the request with it",
        summary: "every tag names the same slot of the ring's table",
        oracles: &["L1"],
        kernels: ONLY_7_3,
        nature: Nature::Mutant(Sabotage::ShareSlot),
        setting: zero_copy,
    },
    Exhibit {
        name: "fallback-flag-ignored",
        classes: &["S33"],
        source: "kublk ae97674 (a test that was wrong since the day it was added)",
        summary: "the driver could not register the pages and says so; the server uses the empty slot",
        oracles: &["L1"],
        kernels: ONLY_7_3,
        nature: Nature::Mutant(Sabotage::IgnoreFallback),
        setting: scarce_pages,
    },
    Exhibit {
        name: "fetch-not-renewed",
        classes: &["H43", "S37"],
        source: "libublk e378c25 (buffers that ran out)",
        summary: "the multishot fetch ended with ENOBUFS, and is not sent again",
        oracles: DEADLOCK,
        kernels: ONLY_7_3,
        nature: Nature::Mutant(Sabotage::NoRenewal),
        setting: batched,
    },
    Exhibit {
        name: "batch-taken-in-part",
        classes: &["H44", "S37"],
        source: "libublk e378c25 (the state of a failed commit)",
        summary: "the driver took a part of a batch, and the rest is not sent again",
        oracles: DEADLOCK,
        kernels: ONLY_7_3,
        nature: Nature::Mutant(Sabotage::ForgetUnconsumed),
        setting: batched,
    },
    Exhibit {
        name: "shared-data-looked-for-elsewhere",
        classes: &["S09"],
        source: "the kernel: with SHMEM_ZC the buffer of a flagged request holds nothing",
        summary: "a write's data lies in shared memory, and the buffer is written",
        oracles: DATA,
        kernels: ONLY_7_3,
        nature: Nature::Mutant(Sabotage::IgnorePlace),
        setting: shared,
    },
    Exhibit {
        name: "shared-offset-wrong",
        classes: &["S36"],
        source: "go-ublk's DefaultParams (a request reaches into its neighbours' memory)",
        summary: "what is touched in shared memory is another request's",
        oracles: &["O4"],
        kernels: ONLY_7_3,
        nature: Nature::Mutant(Sabotage::MissPlace),
        setting: |config| shared(user_copy(config)),
    },
    Exhibit {
        name: "stale-instance-writes",
        classes: &["H36", "S68"],
        source: "ydb nbs#7070 (a write that stalled overwrites newer data)",
        summary: "a write of the dead worker is still under way, and lands after one of the next worker",
        oracles: &["O9", "O6"],
        kernels: ONLY_7_3,
        nature: Nature::Mutant(Sabotage::NoFence),
        setting: recovered,
    },
    Exhibit {
        name: "first-worker-for-ever",
        classes: &["H47", "S67"],
        source: "ublkpp 8a3a9bc (a recovery that failed is gone on with)",
        summary: "END_USER_RECOVERY names the worker that is gone",
        oracles: &["L3"],
        kernels: SINCE_6_18,
        nature: Nature::Mutant(Sabotage::EndForFirstWorker),
        setting: recovered,
    },
    Exhibit {
        name: "order-lost",
        classes: &["S06"],
        source: "libublk 4c9cac2 (an eventfd that cannot carry what was said)",
        summary: "the supervisor is asked to recover, and does not hear it",
        oracles: &["L3"],
        kernels: ONLY_7_3,
        nature: Nature::Mutant(Sabotage::LoseOrder),
        setting: recovered,
    },
    Exhibit {
        name: "quiesce-waits-for-aborts",
        classes: &["H09", "S63"],
        source: "the kernel: a tag that is served while QUIESCE_DEV runs is never aborted",
        summary: "a worker that is to hand over waits until its last tag is aborted, and is told nothing else",
        oracles: &["L3"],
        kernels: SINCE_6_18,
        nature: Nature::Mutant(Sabotage::WaitForAborts),
        setting: handed_over,
    },
    Exhibit {
        name: "quiesced-while-recovered",
        classes: &["H08", "S64"],
        source: "the kernel: QUIESCE_DEV of a device that is not LIVE aborts the next worker's tags and says 0",
        summary: "the armed tags of a device that is being recovered are aborted, and END_USER_RECOVERY brings it up",
        oracles: &["K5", "L3"],
        kernels: SINCE_6_18,
        nature: Nature::Mutant(Sabotage::QuiesceUnserved),
        setting: handed_over,
    },
    Exhibit {
        name: "size-not-told",
        classes: &["H60"],
        source: "the kernel: UPDATE_SIZE says nothing to the server",
        summary: "the device grew, and the queues refuse what lies beyond its old end",
        oracles: &["L1", "O8"],
        kernels: ONLY_7_3,
        nature: Nature::Mutant(Sabotage::SizeUntold),
        setting: resized,
    },
    Exhibit {
        name: "device-grows-before-store",
        classes: &["H60"],
        source: "the kernel: requests beyond the old end come as soon as UPDATE_SIZE returns",
        summary: "the device grew, and what stands behind it did not",
        oracles: &["O8"],
        kernels: ONLY_7_3,
        nature: Nature::Mutant(Sabotage::StoreUntold),
        setting: resized,
    },
    Exhibit {
        name: "file-leaked-to-a-helper",
        classes: &["H29", "S50"],
        source: "the kernel: ublkc is released with its last descriptor, also one that a child inherited",
        summary: "a helper process has inherited the device, and DEL_DEV waits for it",
        oracles: DEADLOCK,
        kernels: EVERY_KERNEL,
        nature: Nature::Mutant(Sabotage::LeakFile),
        setting: calm,
    },
];
