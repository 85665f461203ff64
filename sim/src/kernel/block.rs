//! Requests: admission (step Q), abort, completion.

use blkproof_engine::uapi::{Errno, IoDesc, RequestFlags, RequestOp};

use crate::choices::Site;
use crate::config::TargetKind;
use crate::kernel::errno;
use crate::kernel::merge::Member;
use crate::kernel::process::Work;
use crate::kernel::tags::TagState;
use crate::kernel::zones::{Report, ZoneAct};
use crate::oracle::{Allowed, Mismatch};
use crate::run::{Run, Sabotage, actor};
use crate::script::InPlace;
use crate::world::{BUFFER_SECTORS, PAGE_SECTORS, RequestId, Version, World};

/// What is in a client's memory before a read: nothing that any write wrote, nor zeroes.
const STALE: Version = Version::MAX;

/// What is asked of the device.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum BlockOp {
    /// Device to client.
    Read,
    /// Client to device.
    Write {
        /// Durable at completion.
        fua: bool,
    },
    /// Make completed writes durable.
    Flush,
    /// What is there is needed no longer.
    Discard,
    /// Zeroes are to be there.
    WriteZeroes {
        /// Their space may be given back.
        unmap: bool,
    },
    /// What so many zones are like, from one on (`ublk_report_zones`).
    ReportZones(u16),
    /// Something is done with a zone.
    Zone(ZoneAct),
    /// Every zone is reset.
    ResetZones,
}

impl BlockOp {
    /// The name in the timeline.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Read => "READ",
            Self::Write { fua: false } => "WRITE",
            Self::Write { fua: true } => "WRITE+FUA",
            Self::Flush => "FLUSH",
            Self::Discard => "DISCARD",
            Self::WriteZeroes { unmap: true } => "WRITE_ZEROES",
            Self::WriteZeroes { unmap: false } => "WRITE_ZEROES+NOUNMAP",
            Self::ReportZones(_) => "REPORT_ZONES",
            Self::Zone(ZoneAct::Open) => "ZONE_OPEN",
            Self::Zone(ZoneAct::Close) => "ZONE_CLOSE",
            Self::Zone(ZoneAct::Finish) => "ZONE_FINISH",
            Self::Zone(ZoneAct::Reset) => "ZONE_RESET",
            Self::ResetZones => "ZONE_RESET_ALL",
        }
    }

    /// Whether data goes with it.
    pub(crate) const fn moves_data(self) -> bool {
        match self {
            Self::Read | Self::Write { .. } | Self::ReportZones(_) => true,
            Self::Flush
            | Self::Discard
            | Self::WriteZeroes { .. }
            | Self::Zone(_)
            | Self::ResetZones => false,
        }
    }

    /// Whether the data goes from the server to whoever asked.
    pub(crate) const fn brings_data(self) -> bool {
        matches!(self, Self::Read | Self::ReportZones(_))
    }
}

/// Who issued a request, and hears of its completion.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Issuer {
    /// A client.
    Client(u8),
    /// udev's probe.
    Udev,
    /// The partition scan.
    Scan,
    /// START_DEV, which asks for the zones.
    Zones,
    /// An actor of a script, in this step.
    Script(u16),
    /// The page cache.
    Cache,
}

/// Where a request is (K2).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Phase {
    /// Before the block layer, whose queue is frozen.
    Entering,
    /// In the block layer, without a tag.
    Waiting,
    /// Started: on a tag.
    Started,
    /// On the requeue list, which nobody has kicked.
    Parked,
    /// It has a tag, and waits for a flush that cannot begin yet.
    Pending,
    /// It has a tag, and another request's flush is its own.
    Riding,
    /// It waits, without a tag, for a write to its zone that is under way.
    Plugged,
}

/// A request inside the block layer.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each says one thing of a request, whatever the others say"
)]
pub(crate) struct Request {
    /// What the driver is asked.
    pub(crate) op: BlockOp,
    /// What the issuer asked: a write may become a flush.
    pub(crate) asked: BlockOp,
    /// A write that is to be durable, of a driver that knows no FUA: a flush follows it.
    pub(crate) flushes: bool,
    pub(crate) start: u16,
    pub(crate) sectors: u16,
    pub(crate) queue: u16,
    pub(crate) issuer: Issuer,
    /// What a write writes.
    pub(crate) version: Version,
    /// What a read brought.
    pub(crate) data: [Version; BUFFER_SECTORS],
    /// What a read may bring.
    pub(crate) allowed: Allowed,
    pub(crate) phase: Phase,
    /// The tag that it took once. Without an I/O scheduler it keeps it when it goes back.
    pub(crate) tag: Option<u16>,
    /// It has one of the scheduler's tags, and keeps that.
    pub(crate) scheduled: bool,
    /// Who asked for which part of it, where it was merged of several.
    pub(crate) members: Vec<Member>,
    /// Sectors that are done: a short commit redelivers the rest.
    pub(crate) done: u16,
    /// Sectors at its end that the kernel could not copy (H20): a descriptor leaves them out.
    pub(crate) lost: u16,
    /// Slots of buffer tables that its pages are in.
    pub(crate) holders: u8,
    /// The driver was to register its pages and could not.
    pub(crate) unregistered: bool,
    /// Another write of the page cache has to be over before it is admitted.
    pub(crate) throttled: bool,
    /// Where its data is in the memory that all processes of a script share, as a sector of that.
    pub(crate) memory: Option<u16>,
    /// Its data lies in registered memory: what its descriptor says of that.
    pub(crate) in_place: Option<InPlace>,
    /// The disk's end came to lie before its own: the server may refuse it (H60).
    pub(crate) beyond: bool,
    /// What the server said of zones.
    pub(crate) report: Report,
    /// The zone whose writes wait for this one.
    pub(crate) plugs: Option<u16>,
    /// What a server filled its integrity metadata with.
    pub(crate) metadata: Option<u8>,
}

impl World {
    /// A request enters the block layer. `Err` when the disk is gone.
    pub(crate) fn issue(
        &mut self,
        run: &mut Run<'_>,
        issuer: Issuer,
        op: BlockOp,
        (start, sectors): (u16, u16),
        queue: u16,
    ) -> Result<(), ()> {
        let alive = self.disk();
        if alive.is_none_or(|disk| disk.dead) {
            return Err(());
        }
        let (cache, knows_fua) = alive.map_or((false, false), |disk| (disk.write_cache, disk.fua));
        let frozen = self.device.as_ref().is_some_and(|device| device.frozen);
        let (first, count) = (usize::from(start), usize::from(sectors));
        // What a client is promised to be durable: by a file only.
        let promises = run.config.target == TargetKind::File && matches!(issuer, Issuer::Client(_));
        let (mut version, mut allowed) = (0, Allowed::new());
        match (op, issuer) {
            // Nothing remembers what scripts write: they look themselves.
            (BlockOp::Write { .. }, Issuer::Script(step)) => version = self.script_writes(step),
            (BlockOp::Write { .. }, Issuer::Cache) => version = self.cached_byte(start).into(),
            (_, Issuer::Script(_) | Issuer::Cache) => {}
            (BlockOp::Flush, _) if !promises => {}
            (BlockOp::Flush, _) => {
                allowed = self.register.read_begins(0, self.capacity() as usize);
            }
            (BlockOp::Read, Issuer::Scan) if run.config.quiet => {}
            (BlockOp::ReportZones(_) | BlockOp::Zone(_) | BlockOp::ResetZones, _) => {}
            (BlockOp::Write { .. }, _) => {
                version = self.register.write_begins(first, count, false);
                self.reads_may_see(version, start, sectors);
            }
            (BlockOp::Discard | BlockOp::WriteZeroes { .. }, _) => {
                version = self.register.write_begins(first, count, true);
                self.reads_may_see(0, start, sectors);
            }
            (BlockOp::Read, _) => allowed = self.register.read_begins(first, count),
        }
        // Without a cache every write is durable; without FUA a flush makes it so (`blk_insert_flush`).
        let (asked, fua) = (op, op == BlockOp::Write { fua: true });
        let writes = matches!(op, BlockOp::Write { .. } | BlockOp::WriteZeroes { .. });
        if writes && promises && (fua || !cache) {
            allowed = self.register.durable_write_begins(first, count);
        }
        let op = if fua { BlockOp::Write { fua: cache && knows_fua } } else { op };
        run.seen(u64::from(start) << 32 | u64::from(sectors) << 16 | u64::from(queue));
        let stale = match issuer {
            // They clear their memory.
            Issuer::Script(_) | Issuer::Cache => 0,
            Issuer::Scan if run.config.quiet => 0,
            Issuer::Client(_) | Issuer::Udev | Issuer::Scan | Issuer::Zones => STALE,
        };
        let memory = match issuer {
            Issuer::Script(step) if op.moves_data() => self.script_memory(step, start),
            Issuer::Client(index) if op.moves_data() => {
                self.client_memory(run, usize::from(index), sectors)
            }
            Issuer::Script(_)
            | Issuer::Client(_)
            | Issuer::Udev
            | Issuer::Scan
            | Issuer::Cache
            | Issuer::Zones => None,
        };
        if let (Issuer::Client(_), Some(memory)) = (issuer, memory) {
            let there = if op == BlockOp::Read { stale } else { version };
            self.fill_shared((memory, sectors), there);
        }
        let request = Request {
            op,
            asked,
            flushes: fua && cache && !knows_fua,
            start,
            sectors,
            queue,
            issuer,
            version,
            data: [stale; BUFFER_SECTORS],
            allowed,
            phase: if frozen { Phase::Entering } else { Phase::Waiting },
            tag: None,
            scheduled: false,
            members: Vec::new(),
            done: 0,
            lost: 0,
            holders: 0,
            unregistered: false,
            throttled: false,
            memory,
            in_place: None,
            beyond: false,
            report: Report::default(),
            plugs: None,
            metadata: None,
        };
        run.note(actor::issuer(issuer), || {
            format!("{} {start}+{sectors} on queue {queue}", op.name())
        });
        self.requests_live += 1;
        let free = self.requests.iter().position(Option::is_none);
        let index = free.unwrap_or(self.requests.len());
        match free {
            Some(index) => self.requests[index] = Some(request),
            None => self.requests.push(Some(request)),
        }
        let id = RequestId::from_index(index);
        if !frozen && self.plug(run, id) {
            self.arrives(run, id);
        }
        Ok(())
    }

    /// A write begins: reads in flight on the same sectors may see it.
    fn reads_may_see(&mut self, version: Version, start: u16, sectors: u16) {
        if let Some(promises) = &mut self.promises {
            promises.write_begins(version, usize::from(start), usize::from(sectors));
        }
        if !self.register.remembers() {
            return;
        }
        for request in self.requests.iter_mut().flatten() {
            for (index, allowed) in request.allowed.iter_mut().enumerate() {
                let sector = request.start + index as u16;
                if (start..start + sectors).contains(&sector) {
                    allowed.push(version);
                }
            }
        }
    }

    /// Whether a waiting request can be admitted: its queue has a free tag.
    pub(crate) fn can_admit(&self, id: RequestId, request: &Request) -> bool {
        if request.phase == Phase::Entering {
            return self.device.as_ref().is_some_and(|device| !device.frozen);
        }
        request.phase == Phase::Waiting
            && !(request.throttled && self.another_is_cached())
            && (request.is_submitted() || !self.comes_after_another(request))
            && self.device.as_ref().is_some_and(|device| {
                if self.is_scheduled() {
                    return self.scheduler_admits(id, request);
                }
                let hw = &device.hw[usize::from(request.queue)];
                let free = request.tag.is_some() || hw.busy < device.depth;
                match hw.line.iter().position(|one| *one == id) {
                    Some(place) => place == 0 && !device.quiesced,
                    // It gets a tag, and waits with it.
                    None => free && (!device.quiesced || request.is_in_order()),
                }
            })
    }

    /// A request is there, and adjoins one that waits or not. One part of something after another is.
    fn arrives(&mut self, run: &mut Run<'_>, id: RequestId) {
        let Some(request) = &self.requests[id.index()] else { return };
        if self.comes_after_another(request) {
            return;
        }
        if self.is_scheduled() {
            self.joins_what_is_scheduled(run, id);
        } else {
            self.joins_the_line(run, id);
        }
    }

    /// Whether it is a part of something whose earlier parts have no tag yet: they are submitted in order, and the submitter
    /// sleeps for each one's tag. Parts of a discard come one after another.
    fn comes_after_another(&self, request: &Request) -> bool {
        if !matches!(request.issuer, Issuer::Script(_) | Issuer::Cache) {
            return false;
        }
        let discard = request.op == BlockOp::Discard;
        self.requests.iter().flatten().any(|other| {
            let same_page = request.start / PAGE_SECTORS == other.start / PAGE_SECTORS;
            other.issuer == request.issuer
                && (request.issuer != Issuer::Cache || same_page)
                && other.start < request.start
                && (discard || !other.is_submitted())
        })
    }

    /// Step Q.
    pub(crate) fn admit(&mut self, run: &mut Run<'_>, id: RequestId) {
        self.admit_one(run, id);
        self.cache_admitted(run, id);
    }

    fn admit_one(&mut self, run: &mut Run<'_>, mut id: RequestId) {
        if self.is_throttled(run, id) {
            return;
        }
        let scheduled = self.is_scheduled();
        let (Some(device), Some(request)) = (&mut self.device, &mut self.requests[id.index()])
        else {
            return;
        };
        let (queue, what) = (request.queue, request.op.name());
        if request.phase == Phase::Entering {
            let gone = device.disk.as_ref().is_none_or(|disk| disk.dead);
            request.phase = Phase::Waiting;
            run.kernel(|| format!("{what} enters the block layer"));
            if gone {
                self.end_request(run, id, Err(errno::EIO));
            } else {
                self.plug(run, id);
            }
            return;
        }
        if scheduled && !request.scheduled {
            self.enters_scheduler(run, id);
            return;
        }
        if scheduled {
            let Some(next) = self.dispatches(run, id) else { return };
            id = next;
        } else if request.op == BlockOp::Flush {
            if request.tag.is_none() && !self.begins_flush(run, id) {
                return;
            }
        } else if device.hw[usize::from(queue)].line.first() == Some(&id) {
            device.hw[usize::from(queue)].line.remove(0);
        } else if device.quiesced {
            self.waits_in_line(run, id);
            return;
        }
        let Some(device) = &mut self.device else { return };
        let hw = &device.hw[usize::from(queue)];
        if hw.fail_io {
            run.kernel(|| format!("Q: no server, {what} fails"));
            self.end_request(run, id, Err(errno::EREMOTEIO));
            return;
        }
        if hw.force_abort && device.queues_io() {
            run.kernel(|| format!("Q: the device is stopped, {what} aborted"));
            self.end_request(run, id, Err(errno::EIO));
            return;
        }
        if hw.canceling {
            if device.queues_io() {
                let tag = if scheduled { None } else { self.take_tag(run, id) };
                if let Some(request) = &mut self.requests[id.index()] {
                    request.tag = tag;
                }
                self.goes_back(id);
                run.kernel(|| format!("Q: queue {queue} is canceling, {what} waits"));
                return;
            }
            run.kernel(|| format!("Q: queue {queue} is canceling, {what} aborted"));
            self.end_request(run, id, Err(errno::EIO));
            return;
        }
        if run.sabotage == Some(Sabotage::FailRequest) && run.strikes() {
            self.end_request(run, id, Err(errno::EIO));
            return;
        }
        let tag = self.take_tag(run, id);
        let (Some(device), Some(request), Some(tag)) =
            (&mut self.device, &mut self.requests[id.index()], tag)
        else {
            return;
        };
        request.tag = Some(tag);
        let slot = device.slot(queue, tag);
        let slot = &mut device.tags[slot];
        if slot.state == TagState::Prepared {
            slot.state = TagState::Listed(id);
            request.phase = Phase::Started;
            device.hw[usize::from(queue)].batch.fifo.push_back(tag);
            run.kernel(|| format!("Q: {what} on tag {tag} of queue {queue}, listed"));
            self.listed(run, queue);
            return;
        }
        let (TagState::Armed(ring), Some(task)) = (slot.state, slot.task) else {
            self.doomed = true;
            run.violate(
                "K5",
                format!("a request is dispatched on queue {queue} tag {tag}, which has no command"),
            );
            return;
        };
        slot.state = TagState::Queued(ring, id);
        request.phase = Phase::Started;
        run.kernel(|| format!("Q: {what} on tag {tag} of queue {queue}"));
        self.threads[task.index()].work.push_back(Work::Dispatch { ring, queue, tag });
    }

    /// The queue is quiesced: it gets a tag, and waits in the software queue of its CPU.
    fn waits_in_line(&mut self, run: &mut Run<'_>, id: RequestId) {
        if self.joins_the_line(run, id) {
            return;
        }
        let tag = self.take_tag(run, id);
        let (Some(device), Some(request)) = (&mut self.device, &mut self.requests[id.index()])
        else {
            return;
        };
        request.tag = tag;
        device.hw[usize::from(request.queue)].line.push(id);
        run.progress();
        let what = request.op.name();
        run.kernel(|| format!("the queue is quiesced, {what} waits in line"));
    }

    /// A request's own tag, or any that is free.
    pub(crate) fn take_tag(&mut self, run: &mut Run<'_>, id: RequestId) -> Option<u16> {
        let (device, request) = (self.device.as_mut()?, self.requests[id.index()].as_ref()?);
        if request.tag.is_some() {
            return request.tag;
        }
        let queue = request.queue;
        let hw = &mut device.hw[usize::from(queue)];
        let nth = run.choose(Site::Tag, u32::from(device.depth - hw.busy));
        hw.busy += 1;
        let taken = |tag: u16| {
            let mut requests = self.requests.iter().flatten();
            requests.any(|one| (one.queue, one.tag) == (queue, Some(tag)))
        };
        let tag = (0..device.depth).filter(|tag| !taken(*tag)).nth(nth as usize);
        assert!(tag.is_some(), "K1: a queue has as many free tags as are not busy");
        tag
    }

    /// A request is complete, or failed with an errno; its issuer hears of it at once (K4: exactly once).
    pub(crate) fn end_request(
        &mut self,
        run: &mut Run<'_>,
        id: RequestId,
        status: Result<(), i32>,
    ) {
        if status.is_ok() && self.goes_on_to_flush(run, id) {
            return;
        }
        let Some(request) = self.requests[id.index()].take() else {
            run.violate("K4", format!("request {} was completed twice", id.0));
            return;
        };
        let (flush, flushes, queue) =
            (request.op == BlockOp::Flush, request.flushes, request.queue);
        self.conclude(run, id, &request, status);
        if flush {
            self.end_riders(run, queue, status);
        }
        if flush || flushes {
            self.kick_flush(run, queue);
        }
    }

    /// A request is over, and no longer among the others.
    pub(crate) fn conclude(
        &mut self,
        run: &mut Run<'_>,
        id: RequestId,
        request: &Request,
        status: Result<(), i32>,
    ) {
        let ok = status.is_ok();
        self.requests_live -= 1;
        if request.tag.is_some()
            && let Some(device) = &mut self.device
        {
            device.hw[usize::from(request.queue)].busy -= 1;
        }
        run.seen(u64::from(id.0) << 1 | u64::from(ok));
        run.progress();
        if ok {
            self.sets_pointers(run, request);
        }
        self.unplug(run, request, ok);
        let actor = actor::issuer(request.issuer);
        let what = request.asked.name();
        run.note(actor, || {
            let how = match status {
                Ok(()) => "done".into(),
                Err(errno) => {
                    format!("failed ({})", Errno(errno as u16).name().unwrap_or("errno"))
                }
            };
            format!("{what} {}+{} {how}", request.start, request.sectors)
        });
        if !ok && !request.beyond && !run.errors_expected() {
            run.violate(
                "L1",
                format!("a {what} failed although no fault was injected that explains it"),
            );
        }
        if !request.members.is_empty() {
            for part in request.parts() {
                self.heard_of(run, &part, status);
            }
            return;
        }
        self.heard_of(run, request, status);
    }

    /// Whoever asked for a request, or for this part of one, hears how it went.
    pub(super) fn heard_of(
        &mut self,
        run: &mut Run<'_>,
        request: &Request,
        status: Result<(), i32>,
    ) {
        let ok = status.is_ok();
        match request.issuer {
            Issuer::Script(step) => return self.script_heard(run, step, request, status),
            Issuer::Cache => return self.cache_heard(run, request, ok),
            Issuer::Zones => return self.zones_heard(request, status),
            Issuer::Client(_) | Issuer::Udev | Issuer::Scan => {}
        }
        let (start, sectors) = (usize::from(request.start), usize::from(request.sectors));
        let mut read = request.data;
        if let (Some(memory), Some(InPlace::At(_))) = (request.memory, request.in_place) {
            // Nobody copied it: the client finds what the server put there.
            read[..sectors].copy_from_slice(&self.shared[usize::from(memory)..][..sectors]);
        }
        match request.asked {
            BlockOp::Write { .. } | BlockOp::WriteZeroes { .. } => {
                self.register.write_ends(request.version, start, sectors, ok);
                if ok {
                    self.promised(run, start, &request.allowed);
                }
            }
            BlockOp::Flush if ok => self.promised(run, 0, &request.allowed),
            // It may have done nothing, and be right.
            BlockOp::Discard => self.register.write_ends(request.version, start, sectors, false),
            BlockOp::Read if ok => {
                if let Err(wrong) = self.register.read_ends(&request.allowed, start, &read) {
                    let Mismatch { sector, got, allowed, zeroed } = wrong;
                    run.violate(
                        if zeroed { "O8" } else { "O5" },
                        format!(
                            "sector {sector} was read as version {got}; a linearizable register allows {allowed:?}"
                        ),
                    );
                }
            }
            BlockOp::Read
            | BlockOp::Flush
            | BlockOp::ReportZones(_)
            | BlockOp::Zone(_)
            | BlockOp::ResetZones => {}
        }
        self.heard(run, request.issuer, ok);
    }

    /// A started request goes to the requeue list and waits for a server, or fails where none is waited for.
    pub(crate) fn abort_request(&mut self, run: &mut Run<'_>, id: RequestId, waits: bool) {
        if !waits {
            run.aborting = true;
            self.end_request(run, id, Err(errno::EIO));
            run.aborting = false;
            return;
        }
        self.goes_back(id);
        let what = self.requests[id.index()].as_ref().map_or("", |request| request.op.name());
        run.kernel(|| format!("{what} goes back and waits for a server"));
    }

    /// The requeue list is kicked.
    pub(crate) fn kick_requeue_list(&mut self, run: &mut Run<'_>) {
        if run.sabotage != Some(Sabotage::ForgetRequeued) {
            self.requeue_work(run);
        }
    }

    /// Whether a request is started.
    pub(crate) fn any_started(&self) -> bool {
        self.requests.iter().flatten().any(|request| request.phase == Phase::Started)
    }

    /// The first sectors of a read (before 7.3: or of a write) are done: the rest goes back to the queue, and with it whatever waits for a server.
    pub(crate) fn requeue_rest(&mut self, run: &mut Run<'_>, id: RequestId, sectors: u16) {
        let Some(request) = &mut self.requests[id.index()] else { return };
        request.done += sectors;
        request.lost = 0;
        self.parts_are_done(run, id);
        self.goes_back(id);
        if run.sabotage == Some(Sabotage::RestGoesAlone)
            && let (Some(device), Some(request)) =
                (&mut self.device, &mut self.requests[id.index()])
        {
            device.requeued.retain(|one| *one != id);
            request.phase = Phase::Waiting;
            return;
        }
        self.requeue_work(run);
    }

    /// The descriptor of a request, as the kernel writes it at dispatch.
    pub(crate) fn describe_request(request: &Request) -> IoDesc {
        let left = u32::from(request.sectors - request.done);
        let start = u64::from(request.start + request.done);
        let (op, nr_sectors, start_sector) = match request.op {
            BlockOp::Read => (RequestOp::Read, left, start),
            BlockOp::Write { .. } => (RequestOp::Write, left - u32::from(request.lost), start),
            BlockOp::Flush => (RequestOp::Flush, 0, u64::MAX),
            BlockOp::Discard => (RequestOp::Discard, left, start),
            BlockOp::WriteZeroes { .. } => (RequestOp::WriteZeroes, left, start),
            BlockOp::ReportZones(zones) => (RequestOp::ReportZones, u32::from(zones), start),
            BlockOp::Zone(act) => (act.request(), 0, start),
            BlockOp::ResetZones => (RequestOp::ZoneResetAll, 0, start),
        };
        let flags = [
            (request.op == BlockOp::Write { fua: true }, RequestFlags::FUA),
            (request.op == BlockOp::WriteZeroes { unmap: false }, RequestFlags::NOUNMAP),
            (request.unregistered, RequestFlags::NEED_REG_BUF),
            (request.in_place.is_some(), RequestFlags::SHMEM_ZC),
        ];
        let flags = flags.iter().filter(|(is_set, _)| *is_set);
        let op_flags = flags.fold(u32::from(op.encode()), |all, (_, flag)| all | flag.0);
        let addr = match request.in_place {
            Some(InPlace::At(place)) => place.encode(),
            // Buffers have no addresses here.
            Some(InPlace::Buffer | InPlace::Elsewhere) | None => 0,
        };
        IoDesc { op_flags, nr_sectors, start_sector, addr }
    }
}
