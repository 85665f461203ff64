//! A model of the kernel, profiles 6.12, 6.18 and 7.3.
//!
//! The steps, defined in docs/protocol.md: Q (admission), TW (task work), C (commit), F (fetch), X1 and X2 (cancel),
//! RE (ring freed), CL (last reference to the character device), `RWb`..`RWe` (release work), ST1..ST7 (STOP), SD (START),
//! D1..D5 (death).
//!
//! # Differences from the real kernel
//!
//! * One device that is served (others are added and deleted, in scripts only), one backing file. Larger descriptors are flags and parameters only.
//! * Integrity metadata is one byte, which all of it is, or unknown; no client brings its own.
//! * A user copy is one step, and so is a script's operation on a registered buffer.
//! * The page cache holds whole pages, for scripts only; nothing is written back by itself, nor read ahead.
//! * The pages of shared memory are neighbours, whatever they are in the machine.
//! * Requests of one queue are admitted in any order, but for the parts of one client's operation. Only those of scripts have a place in line, may be merged
//!   and meet a scheduler, whose deadlines may pass at any time.
//! * A flush that waits for a durable write waits as long as that takes, and not for 5 s at the most.
//! * One queue's readiness and the clearing of its `canceling` are one step, as are X1 over all queues and RWc over all tags.
//! * Polls, timeouts, backend operations and aborts complete by task work; control commands post their completion directly.
//! * COOP task work runs where default task work does. An exec is one step, and so is the death of an SQPOLL thread.
//! * An interruptible wait of an io-wq worker may be interrupted under the fault *signal*, although only SIGKILL and task work reach such a worker.
//! * Memory is sequentially consistent; what a weaker order would allow has to be spelled out by a specimen.
//! * Copies never fault, but for user copies and those of announced writes under the fault `disk`; buffers are pinned.
//! * GET_FEATURES and GET_DEV_INFO run inline. The request timer (30 s) is there only where it does something (H50, H55).
//! * A request holds exactly one version for all its sectors: a torn write is seen only at the sectors where a short one ended.

pub(crate) mod add;
pub(crate) mod ask;
pub(crate) mod batch;
pub(crate) mod block;
pub(crate) mod cache;
pub(crate) mod control;
pub(crate) mod data;
pub(crate) mod deadline;
pub(crate) mod device;
pub(crate) mod flush;
pub(crate) mod heirs;
pub(crate) mod idle;
pub(crate) mod kill;
pub(crate) mod limits;
pub(crate) mod merge;
pub(crate) mod metadata;
pub(crate) mod params;
pub(crate) mod pause;
pub(crate) mod permission;
pub(crate) mod plugs;
pub(crate) mod poller;
pub(crate) mod process;
pub(crate) mod release;
pub(crate) mod resize;
pub(crate) mod ring;
pub(crate) mod scan;
pub(crate) mod shmem;
pub(crate) mod tags;
pub(crate) mod udev;
mod unreleased;
pub(crate) mod zones;

/// Error numbers, positive.
pub(crate) mod errno {
    pub(crate) const EPERM: i32 = 1;
    pub(crate) const ENOENT: i32 = 2;
    pub(crate) const ESRCH: i32 = 3;
    pub(crate) const EINTR: i32 = 4;
    pub(crate) const EIO: i32 = 5;
    pub(crate) const ENXIO: i32 = 6;
    pub(crate) const E2BIG: i32 = 7;
    pub(crate) const EBADF: i32 = 9;
    pub(crate) const EAGAIN: i32 = 11;
    pub(crate) const ENOMEM: i32 = 12;
    pub(crate) const EACCES: i32 = 13;
    pub(crate) const EFAULT: i32 = 14;
    pub(crate) const EBUSY: i32 = 16;
    pub(crate) const EEXIST: i32 = 17;
    pub(crate) const ENODEV: i32 = 19;
    pub(crate) const EINVAL: i32 = 22;
    pub(crate) const EMFILE: i32 = 24;
    pub(crate) const ENOTTY: i32 = 25;
    pub(crate) const ENOSPC: i32 = 28;
    pub(crate) const ETIME: i32 = 62;
    pub(crate) const EOPNOTSUPP: i32 = 95;
    pub(crate) const EILSEQ: i32 = 84;
    pub(crate) const EALREADY: i32 = 114;
    pub(crate) const ENOBUFS: i32 = 105;
    pub(crate) const EREMOTEIO: i32 = 121;
    pub(crate) const ECANCELED: i32 = 125;
}
