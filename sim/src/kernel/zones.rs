//! Zoned devices: START_DEV asks the server for the zones, and waits for the answer under `ub->mutex` (H58); clients open, close, finish and
//! reset them. What may be written where, the block layer knows (its write plugs), and this model does not.

use blkproof_engine::uapi::{Features, KernelSeries, RequestOp};

use crate::kernel::block::{BlockOp, Issuer, Request};
use crate::kernel::control::{Next, Pc};
use crate::kernel::device::{Device, Gendisk, State};
use crate::kernel::errno;
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
}

/// How far START_DEV is with the zones.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub(crate) struct Zones {
    /// Those that the server has told of.
    known: u16,
    /// It was asked, and has not answered.
    asked: bool,
    /// Why they cannot be had.
    failed: Option<i32>,
}

impl Device {
    pub(crate) const fn is_zoned(&self) -> bool {
        self.info.flags.contains(Features::ZONED)
    }

    /// Sectors of a zone.
    fn zone_sectors(&self) -> Option<u16> {
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
        of: u16,
    ) -> Result<i32, i32> {
        let (id, _, said) = self.may_copy(thread, tag, (0, 1), true)?;
        let size = self.device.as_ref().and_then(Device::zone_sectors).unwrap_or(0);
        let Some(request) = &mut self.requests[id.index()] else { return Err(errno::EINVAL) };
        let right = of == size && first * size == request.start;
        let zones = if right { count } else { 0 };
        request.report = Report { zones, wrong: zones < count };
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

    /// A REPORT_ZONES is done.
    pub(crate) fn zones_heard(&mut self, request: &Request, status: Result<(), i32>) {
        let Some(disk) = self.disk_mut() else {
            return;
        };
        disk.zones.asked = false;
        disk.zones.known += request.report.zones;
        disk.zones.failed = match status {
            Err(errno) => Some(errno),
            Ok(()) if request.report.wrong => Some(errno::ENODEV),
            Ok(()) => None,
        };
    }
}
