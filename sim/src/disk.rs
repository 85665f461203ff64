//! The disk behind a loop target: completes in any order, and fails when told to.

use blkproof_engine::sys::BackendOp;

use crate::kernel::errno;
use crate::run::Run;
use crate::world::{DEVICE_SECTORS, RequestId, RingId, SECTOR, ThreadId, Version, World};
use blkproof_engine::sys::{Cqe, Token};
use blkproof_engine::uapi::Tag;

/// The file.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Disk {
    pub(crate) sectors: Vec<Version>,
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
    pub(crate) op: BackendOp,
    /// The request whose pages it uses in place; otherwise it uses the tag's buffer.
    pub(crate) pages: Option<RequestId>,
}

impl Disk {
    pub(crate) fn new() -> Self {
        Self { sectors: vec![0; DEVICE_SECTORS], in_flight: Vec::new() }
    }
}

impl World {
    /// An operation completes. Its effect and its completion are one step; until then it has had no effect.
    pub(crate) fn disk_step(&mut self, run: &mut Run<'_>, index: usize) {
        let Operation { ring, thread, queue, tag, op, pages } = self.disk.in_flight.remove(index);
        let alive = self.rings[ring.index()].is_open();
        let buffer_index = self.buffer_index(queue, tag);
        let touches_buffer = matches!(op, BackendOp::Read { .. } | BackendOp::Write { .. });
        if alive && touches_buffer && !self.server_owns(queue, tag) {
            run.violate(
                "O4",
                format!(
                    "{op:?} ended on the buffer of queue {queue} tag {tag}, which the kernel owns"
                ),
            );
            return;
        }
        let mut verdict = None;
        if self.budget.disks > 0 && run.fault(run.config.faults.disk) {
            self.budget.disks -= 1;
            verdict = Some(run.choose(crate::choices::Site::Fault, 4));
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
                let request = pages.and_then(|id| self.requests[id.index()].as_mut());
                if let Some(request) = request {
                    let to = to + usize::from(request.done);
                    request.data[to..to + n].copy_from_slice(&self.disk.sectors[from..from + n]);
                } else if let Some(target) = self.buffers.get_mut(buffer_index) {
                    target[to..to + n].copy_from_slice(&self.disk.sectors[from..from + n]);
                }
                len as i32
            }
            (_, BackendOp::Write { offset, buffer, len, durable: _ }) => {
                let len = short(verdict, len);
                let (to, from, n) =
                    (sector(offset), sector(u64::from(buffer)), sector(u64::from(len)));
                let request = pages.and_then(|id| self.requests[id.index()].as_ref());
                if let Some(request) = request {
                    self.disk.sectors[to..to + n].fill(request.version);
                } else if let Some(source) = self.buffers.get(buffer_index) {
                    self.disk.sectors[to..to + n].copy_from_slice(&source[from..from + n]);
                }
                len as i32
            }
            (_, BackendOp::Sync) => 0,
            (_, BackendOp::PunchHole { offset, len } | BackendOp::ZeroRange { offset, len }) => {
                self.disk.sectors[sector(offset)..sector(offset + len)].fill(0);
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
