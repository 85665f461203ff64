//! What a run is about.

use blkproof_engine::data::DataMode;
use blkproof_engine::supervisor::{Deadlines, Recovery};
use blkproof_engine::sys::RingMode;
use blkproof_engine::uapi::KernelSeries;

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
    /// Which kernel.
    pub kernel: KernelSeries,
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
    /// How the engine asks data to move.
    pub data: DataMode,
    /// What the engine asks commands to be about.
    pub commands: Commands,
    /// Where clients have their data.
    pub memory: Memory,
    /// What becomes of the device without a worker.
    pub recovery: Recovery,
    /// Whether the supervisor replaces a worker that is gone by itself; else an operator has to ask for it.
    pub restart: bool,
    /// The supervisor's deadlines.
    pub deadlines: Deadlines,
    /// What adversity the run may meet.
    pub faults: Faults,
    /// Steps after which a run without progress counts as a livelock.
    pub steps_max: u64,
    /// Whether to keep a timeline.
    pub timeline: bool,
    /// No udev, and a partition scan only where a script asks for one: nobody else looks at a new disk but the clients.
    pub quiet: bool,
    /// CPUs of the machine: the driver clamps queues to them.
    pub cpus: u16,
}

/// What a command of the engine is about.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum Commands {
    /// One tag.
    Single,
    /// Many of them (`UBLK_F_BATCH_IO`), where the kernel can.
    Batched,
}

/// Where clients have their data.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum Memory {
    /// Each in its own memory.
    Own,
    /// Now and then in memory that all processes share, and which the engine registers in part (`UBLK_F_SHMEM_ZC`), where the kernel can.
    Shared,
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
    /// A fallible call fails: ring, map, thread or process creation, open, a registration of pages.
    pub resource: u8,
    /// A process is killed with SIGKILL.
    pub kill: u8,
    /// The backing file answers short, EINTR, EAGAIN or EIO, or takes its time; a user copy ends early or fails.
    pub disk: u8,
    /// The operator asks to stop at any moment, not only at the end.
    pub stop: u8,
    /// udev keeps the node away, without permission, or open.
    pub udev: u8,
    /// The machine stalls: the next timer fires before anything else has moved, however far off it was.
    pub stall: u8,
    /// Another command runs beside the device's own supervisor: `list`, or `del`.
    pub rival: u8,
    /// The operator has the supervisor recover a device as soon as anybody can see that its worker is gone.
    pub haste: u8,
    /// The operator has a device that is served handed over to another worker.
    pub handover: u8,
    /// The operator gives a device that is served another size.
    pub resize: u8,
    /// A process is stopped with SIGSTOP, and goes on some time later.
    pub pause: u8,
    /// Worker and supervisor are killed in the same moment.
    pub kill_both: u8,
    /// Somebody keeps the block device open, also while it is stopped and deleted.
    pub hold: u8,
    /// The host loses power, which ends the run: its disk keeps what is durable, and any part of what is not.
    pub crash: u8,
}

impl Subject {
    /// Whether it is the engine that is judged, be it with a rule broken: whatever is not explained is its fault.
    pub fn is_engine(self) -> bool {
        match self {
            Self::Engine => true,
            Self::Specimen(specimen) => specimen.is_mutant(),
        }
    }
}

impl Config {
    /// The engine under no adversity: two queues of two tags, mem, deadlines as `blkproof` uses them.
    pub const fn engine() -> Self {
        Self {
            subject: Subject::Engine,
            kernel: KernelSeries::V7_3,
            queues: 2,
            depth: 2,
            requests: 6,
            mode: RingMode::DeferTaskrun,
            target: TargetKind::Mem,
            data: DataMode::Copy,
            commands: Commands::Single,
            memory: Memory::Own,
            recovery: Recovery::None,
            restart: false,
            deadlines: Deadlines::DEFAULT,
            faults: Faults::NONE,
            steps_max: 20_000,
            timeline: false,
            quiet: false,
            cpus: 4,
        }
    }
}

impl Faults {
    /// No adversity.
    pub const NONE: Self = Self {
        signal: 0,
        submit: 0,
        resource: 0,
        kill: 0,
        disk: 0,
        stop: 0,
        udev: 0,
        stall: 0,
        rival: 0,
        haste: 0,
        handover: 0,
        resize: 0,
        pause: 0,
        kill_both: 0,
        hold: 0,
        crash: 0,
    };
    /// Every kind, each at a rate that lets most runs get somewhere.
    pub const ALL: Self = Self {
        signal: 16,
        submit: 16,
        resource: 6,
        kill: 3,
        disk: 24,
        stop: 4,
        udev: 96,
        stall: 2,
        rival: 2,
        haste: 24,
        handover: 2,
        resize: 2,
        pause: 2,
        kill_both: 1,
        hold: 3,
        crash: 3,
    };

    /// Whether a process may be killed.
    pub const fn kills(&self) -> bool {
        self.kill > 0 || self.kill_both > 0
    }

    /// Name and rate of each kind, in the order of the fields.
    pub const fn rates(&self) -> [(&'static str, u8); 16] {
        [
            ("signal", self.signal),
            ("submit", self.submit),
            ("resource", self.resource),
            ("kill", self.kill),
            ("disk", self.disk),
            ("stop", self.stop),
            ("udev", self.udev),
            ("stall", self.stall),
            ("rival", self.rival),
            ("haste", self.haste),
            ("handover", self.handover),
            ("resize", self.resize),
            ("pause", self.pause),
            ("kill-both", self.kill_both),
            ("hold", self.hold),
            ("crash", self.crash),
        ]
    }

    /// The rate of a kind.
    pub fn rate_mut(&mut self, name: &str) -> Option<&mut u8> {
        Some(match name {
            "signal" => &mut self.signal,
            "submit" => &mut self.submit,
            "resource" => &mut self.resource,
            "kill" => &mut self.kill,
            "disk" => &mut self.disk,
            "stop" => &mut self.stop,
            "udev" => &mut self.udev,
            "stall" => &mut self.stall,
            "rival" => &mut self.rival,
            "haste" => &mut self.haste,
            "handover" => &mut self.handover,
            "resize" => &mut self.resize,
            "pause" => &mut self.pause,
            "kill-both" => &mut self.kill_both,
            "hold" => &mut self.hold,
            "crash" => &mut self.crash,
            _ => return None,
        })
    }
}
