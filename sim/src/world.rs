//! The world: everything whose state decides what can happen next, as one value.
//!
//! What only describes a run (clock, rolling hash, timeline, choices) is in [`crate::run`]. Timers hold the time that is
//! left, ids take the lowest free number, and nothing here counts without bound except what the
//! machines under test count themselves, so that equal situations are equal values.

use std::hash::Hash;

use blkproof_engine::supervisor::Recovery;
use blkproof_engine::uapi::DeviceState;
use siphasher::sip128::{Hasher128, SipHasher13};

use crate::clients::{Client, Operator};
use crate::config::{Config, Memory};
use crate::crash::Promises;
use crate::disk::Disk;
use crate::kernel::block::{Phase, Request};
use crate::kernel::control::Control;
use crate::kernel::device::{Device, State};
use crate::kernel::process::{Links, Process, Thread};
use crate::kernel::ring::Ring;
use crate::kernel::tags::TagState;
use crate::kernel::udev::Udev;
use crate::oracle::Register;
use crate::script::SHARED_SECTORS;
use crate::world_hash::StableHasher;

/// What a sector holds: the number of the write that wrote it. 0 is a sector of zeroes.
pub(crate) type Version = u32;

/// Sectors in a tag's buffer: the smallest that SET_PARAMS accepts, one page.
pub(crate) const BUFFER_SECTORS: usize = 8;
/// Sectors of the simulated device, when it is added.
pub(crate) const DEVICE_SECTORS: usize = 16;
/// The most that it is ever given.
pub(crate) const SECTORS_MAX: usize = 24;
/// Bytes in a sector.
pub(crate) const SECTOR: u64 = 512;
/// Sectors in a page.
pub(crate) const PAGE_SECTORS: u16 = 8;

macro_rules! ids {
    ($($(#[$doc:meta])* $name:ident),*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
        pub(crate) struct $name(pub(crate) u16);
        impl $name {
            pub(crate) fn from_index(index: usize) -> Self {
                Self(u16::try_from(index).expect("a simulated world is small"))
            }
            pub(crate) fn index(self) -> usize {
                usize::from(self.0)
            }
        }
    )*};
}

ids! {
    /// A process.
    ProcessId,
    /// A thread.
    ThreadId,
    /// A ring.
    RingId,
    /// A control command that the kernel works on.
    ControlId,
    /// A block request.
    RequestId
}

/// What is left of the adversity a run may meet, so that every run ends.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Budget {
    pub(crate) signals: u8,
    pub(crate) submits: u8,
    pub(crate) resources: u8,
    pub(crate) kills: u8,
    pub(crate) disks: u8,
    pub(crate) lates: u8,
    pub(crate) stalls: u8,
    pub(crate) rivals: u8,
    pub(crate) hastes: u8,
    pub(crate) handovers: u8,
    pub(crate) resizes: u8,
    pub(crate) pauses: u8,
    pub(crate) kills_of_both: u8,
    pub(crate) holds: u8,
}

/// A timer.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Timer {
    /// Microseconds left.
    pub(crate) left_us: u64,
    /// What it does.
    pub(crate) what: TimerKind,
}

/// What a timer does when it fires.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum TimerKind {
    /// A thread's sleep ends.
    Sleep(ThreadId),
    /// `IORING_OP_TIMEOUT` completes.
    Ring(RingId, u32),
    /// udev moves on.
    Udev,
    /// The disk is through with an operation.
    Disk,
    /// 6.12: the block layer finds that requests of this hardware queue take long (`ublk_timeout`).
    Requests(u16),
    /// SIGCONT reaches a process.
    Continue(ProcessId),
    /// Whoever keeps the block device open lets go of it.
    LetGo,
}

/// The world.
#[expect(clippy::struct_excessive_bools, reason = "each is one independent fact")]
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) struct World {
    pub(crate) processes: Vec<Process>,
    pub(crate) threads: Vec<Thread>,
    pub(crate) rings: Vec<Ring>,
    pub(crate) links: Links,
    /// Commands on io-wq workers. A slot is free when `None`.
    pub(crate) controls: Vec<Option<Control>>,
    /// `ublk_ctl_mutex`.
    pub(crate) global_mutex: Option<ControlId>,
    /// The device whose number is allocated.
    pub(crate) device: Option<Device>,
    /// Requests inside the block layer. A slot is free when `None`.
    pub(crate) requests: Vec<Option<Request>>,
    /// How many slots of `requests` are taken.
    pub(crate) requests_live: u16,
    /// The tags' buffers, by queue and tag.
    pub(crate) buffers: Vec<[Version; BUFFER_SECTORS]>,
    /// mq-deadline is loaded: disks with one hardware queue have it from then on.
    pub(crate) deadline: bool,
    /// Memory that all processes share, by sector; in scripts, and where the configuration says so.
    pub(crate) shared: Vec<Version>,
    /// The memory behind a mem target.
    pub(crate) store: Vec<Version>,
    /// The file behind a loop target.
    pub(crate) disk: Disk,
    /// Ordered by time left, then by age.
    pub(crate) timers: Vec<Timer>,
    /// Timers that fired in a row although something else could have moved.
    pub(crate) early: u8,
    pub(crate) clients: Vec<Client>,
    /// Requests that the clients have still to issue.
    pub(crate) requests_left: u32,
    pub(crate) udev: Udev,
    /// Somebody else has the block device open.
    pub(crate) held: bool,
    pub(crate) operator: Operator,
    pub(crate) register: Register,
    /// What a crash of the host may leave; where that may crash.
    pub(crate) promises: Option<Promises>,
    pub(crate) budget: Budget,
    /// Devices that are not served; in scripts only.
    pub(crate) idle: Vec<Device>,
    /// What clients of a script wait for.
    pub(crate) jobs: Vec<crate::script::Job>,
    /// What finished in a script, apart from completions.
    pub(crate) script_events: Vec<crate::script::Event>,
    /// What control commands of a script told, by step.
    pub(crate) script_told: Vec<(u16, String)>,
    /// The kernel touched a command that is gone: from here on anything may happen (H06, H26).
    pub(crate) doomed: bool,
    /// A timer of memory that was given back is armed: within seconds the kernel may crash, whatever is done (H68).
    pub(crate) haunted: bool,
}

impl World {
    /// A world in which nothing has happened.
    pub(crate) fn new(config: &Config) -> Self {
        Self {
            processes: Vec::with_capacity(4),
            threads: Vec::with_capacity(8),
            rings: Vec::with_capacity(8),
            links: Links::default(),
            controls: Vec::with_capacity(2),
            global_mutex: None,
            device: None,
            requests: Vec::with_capacity(8),
            requests_live: 0,
            buffers: Vec::new(),
            deadline: false,
            shared: match config.memory {
                Memory::Own => Vec::new(),
                Memory::Shared => vec![0; usize::from(SHARED_SECTORS)],
            },
            store: vec![0; DEVICE_SECTORS],
            disk: Disk::new(),
            timers: Vec::with_capacity(8),
            early: 0,
            clients: vec![Client::new(), Client::new()],
            requests_left: config.requests,
            udev: Udev::new(),
            held: false,
            operator: Operator::new(),
            register: Register::new(config.target),
            promises: Promises::new(config),
            budget: Budget {
                signals: 8,
                submits: 8,
                resources: 3,
                kills: if config.recovery == Recovery::None { 2 } else { 4 },
                disks: 8,
                lates: 4,
                stalls: 3,
                rivals: 2,
                hastes: 4,
                handovers: 3,
                resizes: 4,
                pauses: 3,
                kills_of_both: 2,
                holds: 3,
            },
            idle: Vec::new(),
            jobs: Vec::new(),
            script_events: Vec::new(),
            script_told: Vec::new(),
            doomed: false,
            haunted: false,
        }
    }

    /// A fingerprint of the whole world.
    pub(crate) fn fingerprint(&self) -> u128 {
        let mut hasher = StableHasher(SipHasher13::new_with_keys(0x626c_6b70, 0x726f_6f66));
        self.hash(&mut hasher);
        hasher.0.finish128().as_u128()
    }

    /// Starts a timer.
    pub(crate) fn arm(&mut self, left_us: u64, what: TimerKind) {
        let at = self.timers.partition_point(|timer| timer.left_us <= left_us);
        self.timers.insert(at, Timer { left_us, what });
    }

    /// The model's own invariants (K2, K3, K4, K7, K8; K1 is the type of a tag's state). A violation is a bug of the model.
    ///
    /// # Panics
    /// If one does not hold.
    pub(crate) fn check(&self) {
        let live = self.requests.iter().flatten().count();
        assert_eq!(live, usize::from(self.requests_live), "K2: requests inside the block layer");
        let Some(device) = &self.device else {
            assert_eq!(live, 0, "K4: no request without a device");
            return;
        };
        let mut started = 0;
        let mut armed = 0;
        for (queue, hw) in device.hw.iter().enumerate() {
            let tags =
                &device.tags[queue * usize::from(device.depth)..][..usize::from(device.depth)];
            let fetched = tags.iter().filter(|tag| tag.state != TagState::Unfetched).count();
            assert_eq!(fetched, usize::from(hw.ready), "K7: fetched tags of queue {queue}");
            let holders = self.requests.iter().flatten();
            let busy =
                holders.filter(|one| one.tag.is_some() && usize::from(one.queue) == queue).count();
            assert_eq!(busy, usize::from(hw.busy), "K2: busy tags of queue {queue}");
            started += tags.iter().filter(|tag| tag.carries()).count();
            armed += hw.batch.pool.len() + usize::from(hw.batch.active.is_some());
            armed += tags
                .iter()
                .filter(|_| !device.batches())
                .filter(|tag| {
                    matches!(
                        tag.state,
                        TagState::Armed(_) | TagState::Queued(..) | TagState::Lingering(..)
                    )
                })
                .count();
        }
        assert_eq!(armed, usize::from(device.armed), "K3: armed commands");
        let on_tags = self
            .requests
            .iter()
            .flatten()
            .filter(|request| request.phase == Phase::Started)
            .count();
        assert_eq!(started, on_tags, "K2: every started request is on one tag");
        let exists = device.disk.as_ref().is_some_and(|disk| disk.attached);
        let believed = device.info.state != DeviceState::Dead;
        assert!(
            believed || exists == (device.state != State::Dead),
            "K8: started with a disk, or neither"
        );
        if device.file_open() {
            assert!(device.open, "K8: an open file keeps OPEN");
        }
    }

    /// The buffer of a tag.
    pub(crate) fn buffer_index(&self, queue: u16, tag: u16) -> usize {
        let depth = self.device.as_ref().map_or(0, |device| device.depth);
        usize::from(queue) * usize::from(depth) + usize::from(tag)
    }
}
