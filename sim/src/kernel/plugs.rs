//! Zone write plugs (`block/blk-zoned.c`): of what is written to one zone, one request at a time gets to the driver, and what does not begin
//! where the block layer takes the write pointer to be fails before. It learns of a zone with the first write to it, wherever that is.

use std::collections::VecDeque;

use blkproof_engine::uapi::KernelSeries;

use crate::choices::Site;
use crate::kernel::block::{BlockOp, Phase, Request};
use crate::kernel::errno;
use crate::kernel::zones::ZoneAct;
use crate::run::{Run, Sabotage};
use crate::world::{RequestId, World};

/// What the block layer knows of a zone (`struct blk_zone_wplug`).
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Plug {
    zone: u16,
    /// Where it takes the write pointer to be: sectors from the beginning of the zone.
    at: u16,
    /// The next write waits for one that is under way (`BLK_ZONE_WPLUG_PLUGGED`).
    busy: bool,
    /// But on 6.18: the zone was found full with a write under way, and takes no more.
    dead: bool,
    /// Writes under way: more than one where a reset made the others fail.
    under_way: u16,
    /// A write failed, and nobody told since where the write pointer is (`BLK_ZONE_WPLUG_NEED_WP_UPDATE`).
    lost: bool,
    /// Writes that wait for the one under way.
    waiting: VecDeque<RequestId>,
}

impl Plug {
    /// Whether a write is one that can succeed (`blk_zone_wplug_prepare_bio`). The write pointer moves at once.
    fn takes(&mut self, size: u16, offset: u16, sectors: u16, anywhere: bool) -> bool {
        let fits = !self.lost && self.at < size && self.at == offset;
        if fits || anywhere {
            self.at = offset + sectors;
        }
        fits || anywhere
    }

    /// There is nothing to be known of an empty or a full zone.
    const fn is_idle(&self, size: u16) -> bool {
        self.under_way == 0 && (self.at == 0 || self.at >= size)
    }
}

impl Request {
    /// It has to be written in order (`blk_zone_plug_bio`).
    const fn is_ordered(&self) -> bool {
        matches!(self.asked, BlockOp::Write { .. } | BlockOp::WriteZeroes { .. })
    }
}

impl World {
    /// Sectors of a zone of the disk.
    fn zone_size(&self) -> Option<u16> {
        self.device.as_ref()?.zone_sectors()
    }

    fn plug_mut(&mut self, zone: u16) -> Option<&mut Plug> {
        self.disk_mut()?.zones.plugs.iter_mut().find(|plug| plug.zone == zone)
    }

    /// The zone, and where in it a request begins and how long it is.
    fn in_zone(&self, id: RequestId) -> Option<(u16, u16, u16)> {
        let (size, request) = (self.zone_size()?, self.requests[id.index()].as_ref()?);
        let (start, sectors) = (request.start, request.sectors);
        request.is_ordered().then_some((start / size, start % size, sectors))
    }

    /// Begins with nothing known, but where the write pointer is.
    pub(crate) fn knows_pointer(&mut self, zone: u16, at: u16) {
        let plugs = self.disk_mut().map(|disk| &mut disk.zones.plugs);
        if let Some(plugs) = plugs
            && let Err(index) = plugs.binary_search_by_key(&zone, |plug| plug.zone)
        {
            let plug = Plug {
                zone,
                at,
                busy: false,
                dead: false,
                under_way: 0,
                lost: false,
                waiting: VecDeque::new(),
            };
            plugs.insert(index, plug);
        }
    }

    /// A request is inside the block layer, and has no tag yet. False: it waits for a write to its zone, or has failed.
    pub(crate) fn plug(&mut self, run: &mut Run<'_>, id: RequestId) -> bool {
        let size = self.zone_size().unwrap_or(0);
        let Some((zone, offset, sectors)) = self.in_zone(id) else { return true };
        self.knows_pointer(zone, offset);
        let anywhere = run.sabotage == Some(Sabotage::WriteAnywhere);
        let at_once = run.sabotage == Some(Sabotage::NoPlugs);
        let Some(plug) = self.plug_mut(zone) else { return true };
        if plug.dead {
            self.end_request(run, id, Err(errno::EIO));
        } else if plug.busy && !at_once {
            plug.waiting.push_back(id);
            if let Some(request) = &mut self.requests[id.index()] {
                request.phase = Phase::Plugged;
            }
            run.kernel(|| format!("a write waits for another one to zone {zone}"));
        } else if plug.takes(size, offset, sectors, anywhere) {
            (plug.busy, plug.under_way) = (true, plug.under_way + 1);
            if let Some(request) = &mut self.requests[id.index()] {
                request.plugs = Some(zone);
            }
            return true;
        } else {
            // It ends as one that failed under way would (`blk_zone_write_plug_bio_endio`).
            plug.lost = true;
            run.kernel(|| format!("a write to zone {zone} is not where its pointer is"));
            self.end_request(run, id, Err(errno::EIO));
        }
        false
    }

    /// A request is over: the next write to its zone is due, or all that wait for it fail with it.
    pub(crate) fn unplug(&mut self, run: &mut Run<'_>, request: &Request, ok: bool) {
        let (Some(zone), Some(size)) = (request.plugs, self.zone_size()) else { return };
        let Some(plug) = self.plug_mut(zone) else { return };
        (plug.busy, plug.under_way) = (false, plug.under_way - 1);
        if !ok {
            plug.lost = true;
            self.fail_plugged(run, zone);
        }
        let waited = self.plug_mut(zone).is_some_and(|plug| !plug.waiting.is_empty());
        let anywhere = run.sabotage == Some(Sabotage::WriteAnywhere);
        while let Some(id) = self.plug_mut(zone).and_then(|plug| plug.waiting.pop_front()) {
            let Some((_, offset, sectors)) = self.in_zone(id) else { continue };
            let Some(plug) = self.plug_mut(zone) else { return };
            if !plug.takes(size, offset, sectors, anywhere) {
                self.end_request(run, id, Err(errno::EIO));
                continue;
            }
            (plug.busy, plug.under_way) = (true, plug.under_way + 1);
            // A work of the CPU that completed the one before submits it.
            let queues = self.device.as_ref().map_or(1, |device| device.queues);
            let queue = run.choose(Site::Tag, queues.into()) as u16;
            if let Some(next) = &mut self.requests[id.index()] {
                (next.phase, next.plugs, next.queue) = (Phase::Waiting, Some(zone), queue);
            }
            run.kernel(|| format!("the next write to zone {zone} is due"));
            return;
        }
        // The work that submits the next one, and finds none, does not look on 6.18.
        if !(waited && self.is_6_18()) {
            self.forget_plug(zone);
        }
    }

    fn is_6_18(&self) -> bool {
        self.device.as_ref().is_some_and(|device| device.kernel == KernelSeries::V6_18)
    }

    /// An empty or full zone is as good as one that nothing was written to.
    fn forget_plug(&mut self, zone: u16) {
        let size = self.zone_size().unwrap_or(0);
        let told = !self.is_6_18();
        if let Some(plug) = self.plug_mut(zone) {
            plug.dead = told && plug.at >= size;
        }
        if let Some(disk) = self.disk_mut() {
            disk.zones.plugs.retain(|plug| plug.zone != zone || !plug.is_idle(size));
        }
    }

    /// Those that wait for a write to a zone fail, and then nothing has to wait for it any more (`disk_zone_wplug_abort`).
    fn fail_plugged(&mut self, run: &mut Run<'_>, zone: u16) {
        while let Some(plug) = self.plug_mut(zone)
            && let Some(id) = plug.waiting.pop_front()
        {
            plug.busy = false;
            self.end_request(run, id, Err(errno::EIO));
        }
    }

    /// A request has succeeded: the reset or finish of a zone says where its write pointer is (`blk_zone_mgmt_bio_endio`).
    pub(crate) fn sets_pointers(&mut self, run: &mut Run<'_>, request: &Request) {
        let Some(size) = self.zone_size() else { return };
        let zone = request.start / size;
        match request.asked {
            BlockOp::Zone(ZoneAct::Reset) => self.set_pointer(run, zone, 0),
            BlockOp::Zone(ZoneAct::Finish) => self.set_pointer(run, zone, size),
            BlockOp::ResetZones => {
                let plugs = self.disk().map(|disk| &disk.zones.plugs);
                let zones: Vec<u16> = plugs.into_iter().flatten().map(|plug| plug.zone).collect();
                for zone in zones {
                    self.set_pointer(run, zone, 0);
                }
            }
            BlockOp::Zone(ZoneAct::Open | ZoneAct::Close)
            | BlockOp::Read
            | BlockOp::Write { .. }
            | BlockOp::Flush
            | BlockOp::Discard
            | BlockOp::WriteZeroes { .. }
            | BlockOp::ReportZones(_) => {}
        }
    }

    /// It is known again where a zone's write pointer is; whoever waits to write there fails (`disk_zone_wplug_set_wp_offset`).
    fn set_pointer(&mut self, run: &mut Run<'_>, zone: u16, at: u16) {
        let Some(plug) = self.plug_mut(zone) else { return };
        (plug.at, plug.lost) = (at, false);
        self.fail_plugged(run, zone);
        self.forget_plug(zone);
    }

    /// Somebody was told where a zone's write pointer is, and the block layer heard it.
    pub(crate) fn hears_of_pointer(&mut self, run: &mut Run<'_>, zone: u16, at: u16) {
        if self.plug_mut(zone).is_some_and(|plug| plug.lost) {
            self.set_pointer(run, zone, at);
        }
    }
}
