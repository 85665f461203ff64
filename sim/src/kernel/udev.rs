//! udev: makes the character device's node appear, gives it its owner, and probes the new block device.

use crate::choices::Site;
use crate::kernel::block::{BlockOp, Issuer};
use crate::run::{Run, actor};
use crate::world::{TimerKind, World};

/// The node `/dev/ublkcN`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub(crate) enum Node {
    /// Not there: `ENOENT`.
    Absent,
    /// There, not ours yet: `EACCES`.
    Denied,
    /// Ours.
    Ready,
}

/// The probe of a new block device.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub(crate) enum Probe {
    /// Nothing to probe.
    Idle,
    /// The uevent is there.
    Called,
    /// A read is under way.
    Reading,
    /// The read is complete.
    Read,
    /// Keeps the device open for a while.
    Holding,
    /// About to close.
    Closing,
}

/// udev.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Udev {
    pub(crate) node: Node,
    pub(crate) probe: Probe,
}

/// How long udev takes, in milliseconds.
const DELAYS_MS: [u64; 6] = [1, 20, 120, 500, 2_000, 4_500];

impl Udev {
    pub(crate) fn new() -> Self {
        Self { node: Node::Absent, probe: Probe::Idle }
    }
}

impl World {
    /// ADD_DEV registered the character device.
    pub(crate) fn udev_sees_char(&mut self, run: &mut Run<'_>) {
        self.udev.node = Node::Ready;
        if run.fault(run.config.faults.udev) {
            let which = run.choose(Site::Delay, DELAYS_MS.len() as u32);
            self.udev.node =
                if run.choose(Site::Delay, 2) == 0 { Node::Denied } else { Node::Absent };
            run.node_delay_us += DELAYS_MS[which as usize] * 1000;
            self.arm(DELAYS_MS[which as usize] * 1000, TimerKind::Udev);
        }
    }

    /// udev's timer fired.
    pub(crate) fn udev_timer(&mut self, run: &mut Run<'_>) {
        match (self.udev.node, self.udev.probe) {
            (_, Probe::Holding) => self.udev.probe = Probe::Closing,
            (Node::Absent, _) if run.fault(run.config.faults.udev) => {
                let which = run.choose(Site::Delay, DELAYS_MS.len() as u32);
                self.udev.node = Node::Denied;
                run.node_delay_us += DELAYS_MS[which as usize] * 1000;
                run.note(actor::UDEV, || "creates the node, mode 0600".into());
                self.arm(DELAYS_MS[which as usize] * 1000, TimerKind::Udev);
            }
            (Node::Absent | Node::Denied | Node::Ready, _) => {
                self.udev.node = Node::Ready;
                run.note(actor::UDEV, || "the node is there, with its owner".into());
            }
        }
    }

    /// Whether udev can move.
    pub(crate) fn udev_can_move(&self) -> bool {
        match self.udev.probe {
            Probe::Idle | Probe::Reading | Probe::Holding => false,
            Probe::Called => self.open_mutex_free(),
            Probe::Read | Probe::Closing => true,
        }
    }

    /// `disk->open_mutex` is free.
    pub(crate) fn open_mutex_free(&self) -> bool {
        !self
            .device
            .as_ref()
            .and_then(|device| device.disk.as_ref())
            .is_some_and(|disk| disk.open_mutex)
    }

    /// One step of the probe.
    pub(crate) fn udev_step(&mut self, run: &mut Run<'_>) {
        match self.udev.probe {
            Probe::Idle | Probe::Reading | Probe::Holding => {}
            Probe::Called => {
                self.udev.probe = Probe::Idle;
                if self.open_block() {
                    run.note(actor::UDEV, || "opens ublkb".into());
                    let read = self.issue(run, Issuer::Udev, BlockOp::Read, (0, 8), 0);
                    self.udev.probe = if read.is_ok() { Probe::Reading } else { Probe::Closing };
                }
            }
            Probe::Read => {
                self.udev.probe = Probe::Closing;
                if run.fault(run.config.faults.udev) {
                    let which = run.choose(Site::Delay, DELAYS_MS.len() as u32);
                    self.udev.probe = Probe::Holding;
                    self.arm(DELAYS_MS[which as usize] * 1000, TimerKind::Udev);
                }
            }
            Probe::Closing => {
                self.udev.probe = Probe::Idle;
                run.note(actor::UDEV, || "closes ublkb".into());
                self.close_block();
            }
        }
    }

    /// Opens `/dev/ublkbN`. Says whether there is a disk to open.
    pub(crate) fn open_block(&mut self) -> bool {
        match self.disk_mut() {
            Some(disk) if !disk.dead && !disk.hidden => {
                disk.openers += 1;
                true
            }
            Some(_) | None => false,
        }
    }

    /// Closes `/dev/ublkbN`.
    pub(crate) fn close_block(&mut self) {
        if let Some(disk) = self.disk_mut() {
            disk.openers -= 1;
            if disk.openers == 0 {
                disk.cache.drop_all();
            }
        }
    }
}
