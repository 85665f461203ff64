//! What a run is about.

use blkproof_engine::supervisor::Deadlines;
use blkproof_engine::sys::RingMode;

use crate::specimens::Specimen;

/// Whose server runs.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Subject {
    /// The engine: the very types that serve real devices.
    Engine,
    /// A known-bad server of the museum.
    Specimen(Specimen),
}

/// The configuration of a run. With the choices it determines the run completely.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Config {
    /// Whose server.
    pub subject: Subject,
    /// Queues asked for, 1..=4 (the simulated machine has 4 CPUs).
    pub queues: u16,
    /// Tags in each queue, 1..=128.
    pub depth: u16,
    /// Requests that the clients issue in all.
    pub requests: u32,
    /// How the queues' rings run task work.
    pub mode: RingMode,
    /// The target behind the device.
    pub target: TargetKind,
    /// The supervisor's deadlines.
    pub deadlines: Deadlines,
    /// What adversity the run may meet.
    pub faults: Faults,
    /// Steps after which a run without progress counts as a livelock.
    pub steps_max: u64,
    /// Whether to keep a timeline.
    pub timeline: bool,
}

/// The target behind the simulated device.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum TargetKind {
    /// Null.
    Null,
    /// Mem.
    Mem,
    /// Loop, on the simulated disk.
    File,
}

/// What adversity a run may meet. Each is the chance of the fault at each opportunity, in 1/256.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Faults {
    /// A signal interrupts an interruptible wait (EINTR).
    pub signal: u8,
    /// `enter` takes fewer entries than offered, or refuses with EAGAIN or EBUSY.
    pub submit: u8,
    /// A fallible call fails: ring, map, thread or process creation, open.
    pub resource: u8,
    /// A process is killed with SIGKILL.
    pub kill: u8,
    /// The backing file answers short, EINTR, EAGAIN or EIO.
    pub disk: u8,
    /// The operator asks to stop at any moment, not only at the end.
    pub stop: u8,
    /// udev keeps the node away, without permission, or open.
    pub udev: u8,
}
