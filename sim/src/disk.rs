//! The disk behind a loop target: completes in any order, and fails when told to.

use blkproof_engine::data::Place;
use blkproof_engine::sys::BackendOp;

use crate::choices::Site;
use crate::crash::Volatile;
use crate::kernel::errno;
use crate::kernel::process::ProcessState;
use crate::oracle::{ANY, Allowed};
use crate::run::{Run, Sabotage};
use crate::world::{
    BUFFER_SECTORS, DEVICE_SECTORS, RequestId, RingId, SECTOR, SECTORS_MAX, ThreadId, TimerKind,
    Version, World,
};
use blkproof_engine::sys::{Cqe, Token};
use blkproof_engine::uapi::Tag;

/// How long an operation may take, in milliseconds.
const LATE_MS: [u64; 3] = [2, 50, 700];

/// The file.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Disk {
    pub(crate) sectors: Vec<Version>,
    /// What of it a crash of the host would leave at least.
    pub(crate) durable: Vec<Version>,
    /// What it may leave besides that.
    pub(crate) volatile: Volatile,
    /// Operations under way.
    pub(crate) in_flight: Vec<Operation>,
}

/// One operation.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Operation {
    pub(crate) ring: RingId,
    pub(crate) thread: ThreadId,
    pub(crate) queue: u16,
    pub(crate) tag: u16,
    /// Where the request's data is.
    pub(crate) place: Place,
    pub(crate) op: BackendOp,
    /// The request whose pages it uses in place; otherwise it uses the tag's buffer.
    pub(crate) pages: Option<RequestId>,
    /// It takes its time: until a timer fires.
    pub(crate) late: bool,
    /// Its process is gone: what its buffer held then. The operation goes on all the same.
    pub(crate) orphan: Option<[Version; BUFFER_SECTORS]>,
}

impl Disk {
    pub(crate) fn new() -> Self {
        let blank = vec![0; DEVICE_SECTORS];
        Self {
            sectors: blank.clone(),
            durable: blank,
            volatile: Volatile::new(),
            in_flight: Vec::new(),
        }
    }

    /// Gives the file at least this size.
    pub(crate) fn grow(&mut self, sectors: usize) {
        if self.sectors.len() < sectors {
            self.sectors.resize(sectors, 0);
            self.durable.resize(sectors, 0);
            self.volatile.grow(sectors);
        }
    }
}

impl World {
    /// A ring is closed with operations under way: nobody will hear of them, and nothing stops them.
    pub(crate) fn orphan_operations(&mut self, ring: RingId) {
        for index in 0..self.disk.in_flight.len() {
            let Operation { ring: of, queue, tag, orphan, .. } = &self.disk.in_flight[index];
            if *of == ring && orphan.is_none() {
                let buffer = self.buffers.get(self.buffer_index(*queue, *tag)).copied();
                self.disk.in_flight[index].orphan = Some(buffer.unwrap_or([0; BUFFER_SECTORS]));
            }
        }
    }

    /// Whether an operation that begins will take its time.
    pub(crate) fn disk_is_late(&mut self, run: &mut Run<'_>) -> bool {
        let late = self.budget.lates > 0 && run.fault(run.config.faults.disk);
        if late {
            self.budget.lates -= 1;
            let which = run.choose(Site::Delay, LATE_MS.len() as u32);
            self.arm(LATE_MS[which as usize] * 1000, TimerKind::Disk);
        }
        late
    }

    /// The oldest operation that takes its time has done so.
    pub(crate) fn disk_timer(&mut self) {
        if let Some(operation) = self.disk.in_flight.iter_mut().find(|one| one.late) {
            operation.late = false;
        }
    }

    /// What clients were told to be durable is: what a crash of the host would leave of these sectors is allowed (O6).
    pub(crate) fn promised(&mut self, run: &mut Run<'_>, start: usize, allowed: &Allowed) {
        if let Some(promises) = &mut self.promises {
            promises.are_given(start, allowed);
        }
        for (index, allowed) in allowed.iter().enumerate() {
            let sector = start + index;
            let left = self.disk.durable.get(sector).copied().unwrap_or(0);
            if !allowed.contains(&left) && !allowed.contains(&ANY) {
                let text = format!(
                    "sector {sector} was said to be durable as one of {allowed:?}; a crash of the host now would leave version {left}"
                );
                // A host that may lose power is to show it; what it does not show is told at the end.
                if self.promises.is_some() {
                    run.owed.get_or_insert(text);
                } else {
                    run.violate("O6", text);
                }
                return;
            }
        }
    }

    /// What a write writes, by sector: the request's own pages, shared memory, or a buffer, as it is now. Nothing if that is gone.
    pub(crate) fn written_by(&self, operation: &Operation) -> Vec<Version> {
        let BackendOp::Write { buffer, len, .. } = operation.op else { return Vec::new() };
        let (from, n) = ((u64::from(buffer) / SECTOR) as usize, (u64::from(len) / SECTOR) as usize);
        let request = operation.pages.and_then(|id| self.requests[id.index()].as_ref());
        if let Some(at) = self.lent_at(operation.place) {
            return self.shared[at + from..][..n].to_vec();
        }
        if let Some(request) = request {
            return vec![request.version; n];
        }
        let buffer = self.buffer_index(operation.queue, operation.tag);
        let source = operation.orphan.as_ref().or(self.buffers.get(buffer));
        source.map_or(Vec::new(), |source| source[from..from + n].to_vec())
    }

    /// An operation completes. Its effect and its completion are one step; until then it has had no effect.
    pub(crate) fn disk_step(&mut self, run: &mut Run<'_>, index: usize) {
        let operation = self.disk.in_flight.remove(index);
        let Operation { ring, thread, queue, tag, place, op, pages, orphan, late: _ } = operation;
        self.disk_changes();
        let alive = self.rings[ring.index()].is_open();
        // What a dying worker still reads or writes in its own memory harms nobody.
        let runs = alive && self.process_of(thread).state == ProcessState::Running;
        let buffer_index = self.buffer_index(queue, tag);
        let touches_buffer = matches!(op, BackendOp::Read { .. } | BackendOp::Write { .. });
        if runs && touches_buffer && !self.server_owns(queue, tag) {
            run.violate(
                "O4",
                format!(
                    "{op:?} ended on the buffer of queue {queue} tag {tag}, which the kernel owns"
                ),
            );
            return;
        }
        // A read changes what others have only where it goes to a client's memory.
        let reads = matches!(op, BackendOp::Read { .. } | BackendOp::Sync);
        let changes = !reads || place != Place::Tag;
        if orphan.is_some() && changes && self.processes.iter().any(|process| process.char_open) {
            run.violate(
                "O9",
                format!("{op:?} of a worker that is gone lands while another one serves"),
            );
            return;
        }
        let mut verdict = None;
        if self.budget.disks > 0 && run.fault(run.config.faults.disk) {
            self.budget.disks -= 1;
            verdict = Some(run.choose(Site::Fault, 4));
            run.disk_failed |= verdict == Some(3);
        }
        let sector = |bytes: u64| (bytes / SECTOR) as usize;
        let res = match (verdict, op) {
            (Some(1), _) => -errno::EINTR,
            (Some(2), _) => -errno::EAGAIN,
            (Some(3), _) => -errno::EIO,
            (_, BackendOp::Read { offset, buffer, len }) => {
                let len = short(verdict, len);
                let (from, to, n) =
                    (sector(offset), sector(u64::from(buffer)), sector(u64::from(len)));
                let lent = self.lent_at(place);
                let request = pages.and_then(|id| self.requests[id.index()].as_mut());
                if let Some(at) = lent {
                    let data = &self.disk.sectors[from..from + n];
                    self.shared[at + to..][..n].copy_from_slice(data);
                } else if let Some(request) = request {
                    let to = to + usize::from(request.done);
                    request.data[to..to + n].copy_from_slice(&self.disk.sectors[from..from + n]);
                } else if let (None, Some(target)) = (orphan, self.buffers.get_mut(buffer_index)) {
                    target[to..to + n].copy_from_slice(&self.disk.sectors[from..from + n]);
                }
                len as i32
            }
            (_, BackendOp::Write { offset, buffer: _, len: whole, durable }) => {
                let len = short(verdict, whole);
                let (to, n) = (sector(offset), sector(u64::from(len)));
                let data = self.written_by(&operation);
                let written = &data[..n.min(data.len())];
                self.disk.sectors[to..to + written.len()].copy_from_slice(written);
                self.disk.volatile.written(to, written);
                if durable && run.sabotage != Some(Sabotage::SkipFua) {
                    let written = &self.disk.sectors[to..to + n];
                    self.disk.durable[to..to + n].copy_from_slice(written);
                    self.disk.volatile.durable(to, n);
                }
                if run.sabotage == Some(Sabotage::TakeShortForWhole) {
                    whole as i32
                } else {
                    len as i32
                }
            }
            (_, BackendOp::Sync) => {
                if run.sabotage != Some(Sabotage::SkipFlush) {
                    self.disk.durable.clone_from(&self.disk.sectors);
                    self.disk.volatile.durable(0, self.disk.sectors.len());
                }
                0
            }
            (_, BackendOp::PunchHole { offset, len } | BackendOp::ZeroRange { offset, len }) => {
                let (from, to) = (sector(offset), sector(offset + len));
                self.disk.sectors[from..to].fill(0);
                self.disk.volatile.written(from, &[0; SECTORS_MAX][..to - from]);
                0
            }
        };
        if let Some(id) = pages {
            self.let_go(run, id);
        }
        run.seen(res as u64);
        run.kernel(|| format!("disk: {} of queue {queue} tag {tag} = {res}", name(&op)));
        if alive {
            let cqe = Cqe { token: Token::Backend(Tag(tag)), res };
            self.post_by_task_work(thread, ring, cqe);
        }
    }
}

/// The length moved under a short result: the first half, in whole sectors, at least one.
fn short(verdict: Option<u32>, len: u32) -> u32 {
    match verdict {
        Some(_) if len >= 1024 => len / 2 / 512 * 512,
        Some(_) | None => len,
    }
}

/// The operation's name.
pub(crate) const fn name(op: &BackendOp) -> &'static str {
    match op {
        BackendOp::Read { .. } => "READ",
        BackendOp::Write { .. } => "WRITE",
        BackendOp::Sync => "FSYNC",
        BackendOp::PunchHole { .. } => "PUNCH_HOLE",
        BackendOp::ZeroRange { .. } => "ZERO_RANGE",
    }
}
