//! The partition scan: reads of the kernel's own, which the server has to answer.
//!
//! 6.12 scans within `add_disk`, and START_DEV holds `ub->mutex` meanwhile; later kernels in a work of its own, after START_DEV. All hold
//! `disk->open_mutex` as long as it lasts (`bdev_disk_changed`).

use blkproof_engine::uapi::Features;

use crate::kernel::block::{BlockOp, Issuer};
use crate::kernel::control::Control;
use crate::kernel::device::{Device, Scan};
use crate::run::Run;
use crate::world::{PAGE_SECTORS, World};

/// Who looks for a table: GPT's protective record and DOS's table are in the first page. Each reads that for itself if the other could not
/// (`check_partition`). Kernels with more parsers look at more.
const PARSERS: u8 = 2;

impl Device {
    /// From now on the disk is scanned, unless it is not to be.
    pub(crate) fn schedule_scan(&mut self) {
        let scans = !self.unprivileged && !self.info.flags.contains(Features::NO_AUTO_PART_SCAN);
        if let Some(disk) = &mut self.disk {
            disk.scan = if scans { Scan::Scheduled } else { Scan::Done };
        }
    }
}

impl World {
    /// Whether the partition scan can move.
    pub(crate) fn scan_can_move(&self) -> bool {
        let disk = self.disk();
        disk.is_some_and(|disk| match disk.scan {
            Scan::None | Scan::Reading | Scan::Done => false,
            Scan::Scheduled => !disk.open_mutex,
            Scan::Read => true,
        })
    }

    /// One step of the partition scan.
    pub(crate) fn scan_step(&mut self, run: &mut Run<'_>) {
        let Some(disk) = self.disk_mut() else {
            return;
        };
        let sectors = u64::from(PAGE_SECTORS).min(disk.sectors) as u16;
        if disk.scanned == PARSERS || disk.dead || sectors == 0 {
            disk.scan = Scan::Done;
            disk.open_mutex = false;
            run.kernel(|| "partition scan is through".into());
            return;
        }
        disk.scan = Scan::Reading;
        disk.open_mutex = true;
        if self.issue(run, Issuer::Scan, BlockOp::Read, (0, sectors), 0).is_err() {
            unreachable!("the disk was alive a moment ago");
        }
    }

    /// 6.12: the server of a device that waits for another one is gone, and START_DEV keeps others from bringing one (H67).
    pub(crate) fn scan_loses_its_server(&self, run: &mut Run<'_>) {
        let Some(device) = self.device.as_ref().filter(|device| device.queues_io()) else { return };
        let reads = device.disk.as_ref().is_some_and(|disk| match disk.scan {
            Scan::Scheduled | Scan::Reading => true,
            Scan::Read => disk.scanned < PARSERS,
            Scan::None | Scan::Done => false,
        });
        if reads && self.controls.iter().flatten().any(Control::is_scanning) && !run.config.quiet {
            let text = "START_DEV waits for what its partition scan reads, that for a server, and every server for START_DEV";
            run.violate("K11", text.into());
        }
    }

    /// A read of the partition scan is done. What could be read is kept in the page cache, for all who look.
    pub(crate) fn scan_heard(&mut self, run: &mut Run<'_>, ok: bool) {
        if let Some(disk) = self.disk_mut() {
            disk.scan = Scan::Read;
            disk.scanned = if ok { PARSERS } else { disk.scanned + 1 };
        } else {
            run.violate("K4", "a request completed after its disk was gone".into());
        }
    }
}
