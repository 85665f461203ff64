//! The driver's variables for one device.

use blkproof_engine::uapi::{DevId, DevInfo, Features, KernelSeries};

use crate::kernel::batch::Batch;
use crate::kernel::cache::Cache;
use crate::kernel::deadline::Deadline;
use crate::kernel::limits::Limits;
use crate::kernel::params::Stored;
use crate::kernel::release::ReleaseStep;
use crate::kernel::shmem::Registration;
use crate::kernel::tags::{TagSlot, TagState};
use crate::kernel::zones::Zones;
use crate::run::{Run, Sabotage};
use crate::server::Program;
use crate::world::{ControlId, ProcessId, RequestId, RingId, ThreadId, World};

/// The states of `ublksrv_ctrl_dev_info` (K10).
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub(crate) enum State {
    /// Added and not started, or stopped.
    Dead,
    /// Started.
    Live,
    /// No server; requests wait for the next one.
    Quiesced,
    /// No server; requests fail.
    FailIo,
}

/// Who holds `ub->mutex`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Holder {
    /// A control command.
    Control(ControlId),
    /// The release work.
    Release,
}

/// A device whose number is allocated.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "they are the driver's own flags")]
pub(crate) struct Device {
    pub(crate) kernel: KernelSeries,
    pub(crate) id: DevId,
    pub(crate) queues: u16,
    pub(crate) depth: u16,
    /// As ADD_DEV answered it.
    pub(crate) info: DevInfo,
    pub(crate) params: Stored,
    /// What they were when the last START_DEV began. The limits are those, whatever is set while it waits; the size is what is set then.
    pub(crate) started_with: Stored,
    pub(crate) state: State,
    /// The server's thread group while started.
    pub(crate) pid: Option<u32>,
    /// `ub->mutex`.
    pub(crate) mutex: Option<Holder>,
    /// `/dev/ublkcN` is registered: not deleted yet.
    pub(crate) cdev: bool,
    /// Whose `/dev/ublkcN` is.
    pub(crate) owner: u32,
    /// TRY_STOP_DEV once found the disk unused: nobody but root opens it any more (H53).
    pub(crate) block_open: bool,
    /// OPEN: the character device is held, or its release is not finished.
    pub(crate) open: bool,
    /// Who opened it in this round.
    pub(crate) tgid: Option<ProcessId>,
    /// Whose memory the first mapping of the round was made in. 6.12 never forgets, 6.18 only after a start.
    pub(crate) mm: Option<ProcessId>,
    /// References to the open file: descriptor tables, mappings, a STOP between ST6 and ST7. Armed commands are counted apart.
    pub(crate) file_refs: u16,
    /// Tags with an armed command; each holds the file.
    pub(crate) armed: u16,
    /// STOPPING: set by STOP, cleared by the release. 7.3 only.
    pub(crate) stopping: bool,
    /// Every tag was fetched once. Before 7.3 START_DEV waits for no more than that, whatever happened since (H25, H26).
    pub(crate) completed: bool,
    /// A cancel happened in this round: readiness does not clear `canceling` any more.
    pub(crate) poisoned: bool,
    /// 6.18: readiness made the driver forget that it had cancelled a command.
    pub(crate) forgot: bool,
    /// The last tag of some queue was fetched without CAP_SYS_ADMIN: its disk is not scanned for partitions.
    pub(crate) unprivileged: bool,
    /// The block layer admits nothing: 6.12 while QUIESCED, and every kernel while it is about to force aborts.
    pub(crate) quiesced: bool,
    /// A control command waits until no request is inside the block layer; new ones wait outside.
    pub(crate) frozen: bool,
    pub(crate) hw: Vec<HwQueue>,
    pub(crate) tags: Vec<TagSlot>,
    /// Requests that went back, in that order, and wait until the list is kicked.
    pub(crate) requeued: Vec<RequestId>,
    /// What REG_BUF registered, by index.
    pub(crate) shmem: Vec<Option<Registration>>,
    pub(crate) disk: Option<Gendisk>,
    pub(crate) release: Option<ReleaseStep>,
}

/// One hardware queue.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) struct HwQueue {
    /// Tags fetched in this round.
    pub(crate) ready: u16,
    /// Tags that a started request holds.
    pub(crate) busy: u16,
    pub(crate) canceling: bool,
    /// The device is stopped: requests that would wait for a server fail.
    pub(crate) force_abort: bool,
    /// FAIL_IO and no server: requests fail.
    pub(crate) fail_io: bool,
    /// 6.12: the task that fetched the queue's last tag serves all of it.
    pub(crate) daemon: Option<ThreadId>,
    /// What waits in the software queue of the CPU that scripts use, in order. Each has a tag.
    pub(crate) line: Vec<RequestId>,
    /// Of a batch device.
    pub(crate) batch: Batch,
}

impl HwQueue {
    /// A server is there.
    const fn serves(&mut self) {
        (self.canceling, self.force_abort, self.fail_io) = (false, false, false);
    }
}

/// The gendisk: ours, or deleted and still open by a client (USED).
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "they are the block layer's own flags")]
pub(crate) struct Gendisk {
    /// Not detached yet.
    pub(crate) attached: bool,
    /// `del_gendisk` began: nobody opens it any more.
    pub(crate) hidden: bool,
    /// New requests fail.
    pub(crate) dead: bool,
    /// Writes are durable only after a flush (BLK_FEAT_WRITE_CACHE).
    pub(crate) write_cache: bool,
    /// The driver itself can make a write durable (BLK_FEAT_FUA).
    pub(crate) fua: bool,
    pub(crate) limits: Limits,
    /// Who says which request is next.
    pub(crate) scheduler: Option<Deadline>,
    /// Whose `/dev/ublkbN` is.
    pub(crate) owner: u32,
    /// How long a request may take before its timer looks after it, in milliseconds.
    pub(crate) timeout_ms: u32,
    /// Open files on `/dev/ublkbN`.
    pub(crate) openers: u16,
    /// `disk->open_mutex` is held by the partition scan.
    pub(crate) open_mutex: bool,
    pub(crate) scan: Scan,
    /// Those that have looked for a partition table.
    pub(crate) scanned: u8,
    /// Its capacity.
    pub(crate) sectors: u64,
    pub(crate) cache: Cache,
    pub(crate) zones: Zones,
}

/// The work that scans for partitions.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub(crate) enum Scan {
    /// Add_disk is not through.
    None,
    /// Queued.
    Scheduled,
    /// Its read is under way, and it holds `open_mutex`.
    Reading,
    /// Its read is complete.
    Read,
    /// Through.
    Done,
}

impl Device {
    pub(crate) fn new(kernel: KernelSeries, info: DevInfo) -> Self {
        let (queues, depth) = (info.nr_hw_queues, info.queue_depth);
        let tags = usize::from(queues) * usize::from(depth);
        // Before there was a server to cancel, 6.12 cancels nothing.
        let canceling = kernel > KernelSeries::V6_12 && !info.flags.contains(Features::BATCH_IO);
        let hw = HwQueue {
            ready: 0,
            busy: 0,
            canceling,
            force_abort: false,
            fail_io: false,
            daemon: None,
            line: Vec::new(),
            batch: Batch::default(),
        };
        Self {
            kernel,
            id: info.dev_id,
            queues,
            depth,
            info,
            params: Stored::NOTHING,
            started_with: Stored::NOTHING,
            state: State::Dead,
            pid: None,
            mutex: None,
            cdev: true,
            owner: 0,
            block_open: false,
            open: false,
            tgid: None,
            mm: None,
            file_refs: 0,
            armed: 0,
            stopping: false,
            completed: false,
            poisoned: false,
            forgot: false,
            unprivileged: false,
            quiesced: false,
            frozen: false,
            hw: vec![hw; usize::from(queues)],
            tags: vec![TagSlot::UNFETCHED; tags],
            requeued: Vec::new(),
            shmem: Vec::new(),
            disk: None,
            release: None,
        }
    }

    /// One more tag of a queue was fetched, with CAP_SYS_ADMIN or without. True with the queue's last one.
    pub(crate) fn fetched(&mut self, queue: u16, admin: bool) -> bool {
        let hw = &mut self.hw[usize::from(queue)];
        hw.ready += 1;
        let whole = hw.ready == self.depth;
        self.unprivileged |= whole && !admin;
        let ready = self.ready();
        self.completed |= ready;
        match self.kernel {
            KernelSeries::V7_3 => {
                if whole && !self.poisoned {
                    self.hw[usize::from(queue)].serves();
                }
            }
            // Whatever was cancelled meanwhile (H06), and it forgets that it was.
            KernelSeries::V6_18 if ready => {
                self.forgot = self.tags.iter().any(|slot| slot.state == TagState::Cancelled);
                self.poisoned = false;
                self.tags.iter_mut().for_each(|slot| slot.marked = false);
                self.hw.iter_mut().for_each(HwQueue::serves);
            }
            KernelSeries::V6_12 | KernelSeries::V6_18 => {}
        }
        whole
    }

    /// The state of a tag that is armed again by a COMMIT on this ring.
    pub(crate) const fn armed_by(&self, ring: RingId) -> TagState {
        if self.batches() { TagState::Prepared } else { TagState::Armed(ring) }
    }

    /// Every tag of every queue was fetched in this round.
    pub(crate) fn ready(&self) -> bool {
        self.hw.iter().all(|queue| queue.ready == self.depth)
    }

    /// The disk outlives its server.
    pub(crate) const fn recovers(&self) -> bool {
        self.info.flags.contains(Features::USER_RECOVERY)
    }

    /// Without a server requests wait (`ublk_nosrv_dev_should_queue_io`).
    pub(crate) const fn queues_io(&self) -> bool {
        self.recovers() && !self.info.flags.contains(Features::USER_RECOVERY_FAIL_IO)
    }

    /// What a dead server held is given to the next one.
    pub(crate) const fn reissues(&self) -> bool {
        self.recovers() && self.info.flags.contains(Features::USER_RECOVERY_REISSUE)
    }

    /// How many tags of a queue are still to be fetched.
    pub(crate) fn missing(&self, queue: u16) -> u16 {
        self.depth - self.hw[usize::from(queue)].ready
    }

    /// Whether the driver leaves the command of an armed tag alone when its ring exits: 6.12 that of a queue of which no server has fetched all, 6.18 that of a
    /// tag which was aborted in an earlier round (H70).
    pub(crate) fn is_deaf_to_cancel(&self, slot: usize) -> bool {
        let queue = slot / usize::from(self.depth);
        let headless = self.kernel == KernelSeries::V6_12 && self.hw[queue].daemon.is_none();
        headless || self.tags[slot].marked
    }

    /// The index of a tag in the table.
    pub(crate) fn slot(&self, queue: u16, tag: u16) -> usize {
        usize::from(queue) * usize::from(self.depth) + usize::from(tag)
    }

    /// 6.12: this thread serves the queue, and every one of its tags is in its hands.
    pub(crate) fn is_forgotten(&self, queue: u16, server: ThreadId) -> bool {
        let first = self.slot(queue, 0);
        self.kernel == KernelSeries::V6_12
            && self.hw[usize::from(queue)].daemon == Some(server)
            && self.tags[first..][..usize::from(self.depth)]
                .iter()
                .all(|slot| slot.served().is_some())
    }

    /// The file is open: somebody references it.
    pub(crate) const fn file_open(&self) -> bool {
        self.file_refs > 0 || self.armed > 0
    }
}

impl World {
    /// The disk of the device that is served.
    pub(crate) fn disk(&self) -> Option<&Gendisk> {
        self.device.as_ref()?.disk.as_ref()
    }

    pub(crate) fn disk_mut(&mut self) -> Option<&mut Gendisk> {
        self.device.as_mut()?.disk.as_mut()
    }

    /// A reference to the character device's file was dropped: the last one schedules the release work (CL).
    pub(crate) fn file_dropped(&mut self, run: &mut Run<'_>) {
        let Some(device) = &mut self.device else { return };
        if device.open && device.kernel == KernelSeries::V6_12 {
            // Nothing but the descriptor is released; the round goes on.
            device.open = device.file_open();
            if !device.open {
                self.scan_loses_its_server(run);
            }
            return;
        }
        if device.open && device.release.is_none() && !device.file_open() {
            device.release = Some(ReleaseStep::Abort);
            run.kernel(|| "CL: last reference to ublkc dropped, release work queued".into());
        }
    }

    /// An engine's queue registers the character device in its own ring.
    pub(crate) fn hold_by_ring(&mut self, run: &Run<'_>, thread: ThreadId) {
        let queue =
            matches!(self.threads[thread.index()].program.as_deref(), Some(Program::Queue(_)));
        let (Some(device), Some(ring)) = (&mut self.device, self.threads[thread.index()].ring)
        else {
            return;
        };
        if queue && run.sabotage != Some(Sabotage::NoFence) {
            self.rings[ring.index()].holds_file = true;
            device.file_refs += 1;
        }
    }

    /// A ring is freed, and with it its registered files.
    pub(crate) fn let_go_of_file(&mut self, run: &mut Run<'_>, ring: RingId) {
        if std::mem::take(&mut self.rings[ring.index()].holds_file) {
            if let Some(device) = &mut self.device {
                device.file_refs -= 1;
            }
            self.file_dropped(run);
        }
    }

    /// Frees the device's number when nothing references it any more.
    pub(crate) fn settle_device(&mut self, run: &mut Run<'_>) {
        let Some(device) = &mut self.device else { return };
        if let Some(disk) = &device.disk
            && !disk.attached
            && disk.openers == 0
            && disk.scan != Scan::Reading
        {
            device.disk = None;
        }
        let referenced = device.cdev
            || device.open
            || device.release.is_some()
            || device.disk.is_some()
            || device.mutex.is_some();
        let named = Some(device.id);
        let mut controls = self.controls.iter().flatten();
        if referenced || controls.any(|it| it.holds_device() && it.named() == named) {
            return;
        }
        let id = device.id.0;
        self.device = None;
        run.progress();
        run.kernel(|| format!("device number {id} is free"));
    }

    /// Whether the server owns a tag.
    pub(crate) fn server_owns(&self, queue: u16, tag: u16) -> bool {
        self.request_of(queue, tag).is_some()
    }

    /// The request that the server holds on a tag.
    pub(crate) fn request_of(&self, queue: u16, tag: u16) -> Option<RequestId> {
        let device = self.device.as_ref()?;
        if queue >= device.queues || tag >= device.depth {
            return None;
        }
        device.tags[device.slot(queue, tag)].served()
    }
}
