//! Zoned devices: START_DEV asks the server for the zones, and waits for the answer under `ub->mutex` (H58); clients open, close, finish and
//! reset them, or ask for them too. What may be written where: `plugs.rs`.

use blkproof_engine::uapi::{Features, KernelSeries, RequestOp};

use crate::kernel::block::{BlockOp, Issuer, Request};
use crate::kernel::control::{Next, Pc};
use crate::kernel::device::{Device, Gendisk, State};
use crate::kernel::errno;
use crate::kernel::plugs::Plug;
use crate::run::Run;
use crate::world::{SECTOR, ThreadId, World};

/// What a client has done with zones.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum ZoneAct {
    /// BLKOPENZONE.
    Open,
    /// BLKCLOSEZONE.
    Close,
    /// BLKFINISHZONE.
    Finish,
    /// BLKRESETZONE.
    Reset,
}

impl ZoneAct {
    /// What a server is asked for each zone.
    pub(crate) const fn request(self) -> RequestOp {
        match self {
            Self::Open => RequestOp::ZoneOpen,
            Self::Close => RequestOp::ZoneClose,
            Self::Finish => RequestOp::ZoneFinish,
            Self::Reset => RequestOp::ZoneReset,
        }
    }

    /// What it is called in scripts, before `zone`.
    pub(crate) const fn word(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Close => "close",
            Self::Finish => "finish",
            Self::Reset => "reset",
        }
    }
}

/// What a server wrote into the memory of a REPORT_ZONES.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub(crate) struct Report {
    /// So many zones, one after another from the one asked for.
    pub(crate) zones: u16,
    /// And then one that is not what it should be.
    pub(crate) wrong: bool,
    /// Where the write pointer of the first is: sectors from its beginning. The others are empty.
    pub(crate) pointer: u16,
}

/// How far START_DEV is with the zones.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub(crate) struct Zones {
    /// Those that the server has told of.
    known: u16,
    /// It was asked, and has not answered.
    asked: bool,
    /// Why they cannot be had.
    failed: Option<i32>,
    /// What is known of zones that are written to, by zone.
    pub(crate) plugs: Vec<Plug>,
}

impl Device {
    pub(crate) const fn is_zoned(&self) -> bool {
        self.info.flags.contains(Features::ZONED)
    }

    /// Sectors of a zone.
    pub(crate) fn zone_sectors(&self) -> Option<u16> {
        let params = self.params.parts();
        let chunk = params.basic.map_or(0, |basic| basic.chunk_sectors);
        (self.is_zoned() && chunk > 0).then(|| u16::try_from(chunk).unwrap_or(u16::MAX))
    }
}

impl Gendisk {
    /// START_DEV waits for the server to tell of zones.
    pub(crate) const fn awaits_zones(&self) -> bool {
        self.zones.asked
    }
}

impl World {
    /// START_DEV: every zone is to be told of before the disk is there.
    pub(super) fn start_zones(&mut self, run: &mut Run<'_>) -> Next {
        let Some(device) = &mut self.device else { return Next::error(errno::ENODEV) };
        let size = device.zone_sectors();
        let (Some(size), Some(disk)) = (size, &mut device.disk) else { return self.adds_disk() };
        if let Some(errno) = disk.zones.failed {
            (device.disk, device.state, device.mutex) = (None, State::Dead, None);
            self.haunted |= device.kernel == KernelSeries::V6_18;
            run.kernel(|| "SD: the zones cannot be had, no disk".into());
            return Next::error(errno);
        }
        let all = (disk.sectors / u64::from(size)) as u16;
        let known = disk.zones.known;
        if known >= all {
            return self.adds_disk();
        }
        disk.zones.asked = true;
        let op = BlockOp::ReportZones(all - known);
        if self.issue(run, Issuer::Zones, op, (known * size, 1), 0).is_err() {
            unreachable!("the disk was alive a moment ago");
        }
        Next::Go(Pc::StartZones)
    }

    /// A server writes records of zones into the memory of a request, by user copy. Bytes.
    pub(crate) fn tells_of_zones(
        &mut self,
        thread: ThreadId,
        tag: (u16, u16),
        (first, count): (u16, u16),
        (of, pointer): (u16, u16),
    ) -> Result<i32, i32> {
        let (id, _, said) = self.may_copy(thread, tag, (0, 1), true)?;
        let size = self.device.as_ref().and_then(Device::zone_sectors).unwrap_or(0);
        let Some(request) = &mut self.requests[id.index()] else { return Err(errno::EINVAL) };
        let right = of == size && first * size == request.start;
        let zones = if right { count } else { 0 };
        request.report = Report { zones, wrong: zones < count, pointer };
        Ok(i32::from(said) * SECTOR as i32)
    }

    /// What is done with the zones of a range that a client names (`blkdev_zone_mgmt`).
    pub(crate) fn zones_of(
        &self,
        (first, count): (u16, u16),
        act: ZoneAct,
    ) -> Result<BlockOp, i32> {
        let device = self.device.as_ref();
        let size = device.and_then(Device::zone_sectors).ok_or(errno::ENOTTY)?;
        let disk = device.and_then(|device| device.disk.as_ref()).ok_or(errno::ENOTTY)?;
        let end = u64::from(first) + u64::from(count);
        // A disk that is gone has no capacity.
        let sectors = if disk.dead { 0 } else { disk.sectors };
        let begins = |sector: u64| sector.is_multiple_of(size.into());
        if count == 0 || end > sectors || !begins(first.into()) || !begins(end) && end != sectors {
            return Err(errno::EINVAL);
        }
        let whole = u64::from(count) == sectors;
        Ok(if act == ZoneAct::Reset && whole { BlockOp::ResetZones } else { BlockOp::Zone(act) })
    }

    /// How many zones a disk has that is there.
    pub(crate) fn all_zones(&self) -> Result<u16, i32> {
        let size = self.device.as_ref().and_then(Device::zone_sectors).ok_or(errno::ENOTTY)?;
        let disk = self.disk().filter(|disk| !disk.dead);
        Ok(disk.map_or(0, |disk| (disk.sectors / u64::from(size)) as u16))
    }

    /// A REPORT_ZONES of START_DEV is done.
    pub(crate) fn zones_heard(&mut self, request: &Request, status: Result<(), i32>) {
        let size = self.device.as_ref().and_then(Device::zone_sectors).unwrap_or(1);
        let Some(disk) = self.disk_mut() else {
            return;
        };
        let report = request.report;
        disk.zones.asked = false;
        disk.zones.known += report.zones;
        disk.zones.failed = match status {
            Err(errno) => Some(errno),
            Ok(()) if report.wrong => Some(errno::ENODEV),
            Ok(()) => None,
        };
        let partly = status.is_ok() && report.zones > 0 && (1..size).contains(&report.pointer);
        if partly && self.device.as_ref().is_some_and(|it| it.kernel == KernelSeries::V7_3) {
            self.knows_pointer(request.start / size, report.pointer);
        }
    }

    /// A client's REPORT_ZONES is done. How many zones it was told of.
    pub(crate) fn zones_told(&mut self, run: &mut Run<'_>, request: &Request) -> u16 {
        let size = self.device.as_ref().and_then(Device::zone_sectors).unwrap_or(1);
        let (first, Report { zones, pointer, .. }) = (request.start / size, request.report);
        for zone in first..first + zones {
            self.hears_of_pointer(run, zone, if zone == first { pointer } else { 0 });
        }
        zones
    }
}
