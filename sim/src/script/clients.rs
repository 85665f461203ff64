//! What clients of a script ask of the disk: it becomes one request or several, one after another where the kernel does it so.

use super::Event;
use super::model::{event, uniform};
use crate::kernel::block::{BlockOp, Issuer, Request};
use crate::kernel::errno;
use crate::run::Run;
use crate::world::{SECTOR, Version, World};

/// What an actor waits for.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Job {
    /// The step that asked for it.
    pub(crate) step: u16,
    op: BlockOp,
    first: u16,
    count: u16,
    queue: u16,
    /// It discards or writes zeroes: it holds the lock of the disk's page cache while it lasts (`filemap_invalidate_lock`).
    excludes: bool,
    /// It waits for that lock.
    waits: bool,
    /// A flush follows a write (`generic_write_sync`).
    syncs: bool,
    /// Requests under way.
    left: u16,
    status: Result<(), i32>,
    /// The byte that all data read so far is.
    read: Option<u8>,
}

impl Job {
    /// A request of what the actor asks for, to be split where it is too large.
    pub(super) fn new(step: u16, op: BlockOp, (first, count): (u16, u16), queue: u16) -> Self {
        let excludes = matches!(op, BlockOp::Discard | BlockOp::WriteZeroes { .. });
        let syncs = op == BlockOp::Write { fua: true };
        Self {
            step,
            op,
            first,
            count,
            queue,
            excludes,
            waits: false,
            syncs,
            left: 0,
            status: Ok(()),
            read: None,
        }
    }

    /// Zeroes for a disk that has no command for that: they are written.
    pub(super) fn of_zeroes(step: u16, range: (u16, u16), queue: u16) -> Self {
        let op = BlockOp::Write { fua: false };
        Self { excludes: true, ..Self::new(step, op, range, queue) }
    }

    /// What its step results in.
    const fn result(&self) -> i32 {
        match (self.status, self.op) {
            // `blk_ioctl_discard`: it was only advice.
            (Err(errno::EOPNOTSUPP), BlockOp::Discard) => 0,
            (Err(errno), _) => -errno,
            (Ok(()), BlockOp::Read | BlockOp::Write { .. }) if !self.excludes => {
                self.count as i32 * SECTOR as i32
            }
            (Ok(()), _) => 0,
        }
    }
}

impl World {
    /// What a script's write writes.
    pub(crate) fn script_writes(&self, step: u16) -> Version {
        let zeroes = self.jobs.iter().any(|job| job.step == step && job.excludes);
        if zeroes { 0 } else { Version::from(step) }
    }

    /// A client asks. What discards or zeroes waits for whatever else does.
    pub(super) fn client(&mut self, run: &mut Run<'_>, mut job: Job) {
        let queues = self.device.as_ref().map_or(1, |device| device.queues);
        job.queue = job.queue.min(queues - 1);
        job.waits = job.excludes && self.jobs.iter().any(|other| other.excludes);
        let step = job.step;
        let waits = job.waits;
        self.jobs.push(job);
        if !waits {
            self.job_begins(run, step);
        }
    }

    /// All requests of a job are submitted.
    fn job_begins(&mut self, run: &mut Run<'_>, step: u16) {
        let Some(job) = self.jobs.iter_mut().find(|job| job.step == step) else { return };
        job.waits = false;
        let (op, range, queue) = (job.op, (job.first, job.count), job.queue);
        let disk = self.device.as_ref().and_then(|device| device.disk.as_ref());
        let parts = disk.map_or_else(|| vec![range], |disk| disk.limits.split(op, range));
        job.left = parts.len() as u16;
        for part in parts {
            if self.issue(run, Issuer::Script(step), op, part, queue).is_err() {
                self.job_heard(run, step, part, Err(errno::EIO), None);
            }
        }
    }

    /// A client's request is done.
    pub(crate) fn script_heard(
        &mut self,
        run: &mut Run<'_>,
        step: u16,
        request: &Request,
        status: Result<(), i32>,
    ) {
        let read = request.asked == BlockOp::Read && status.is_ok();
        let sectors = if read { usize::from(request.sectors) } else { 0 };
        let part = (request.start, request.sectors);
        self.job_heard(run, step, part, status, uniform(&request.data[..sectors]));
    }

    fn job_heard(
        &mut self,
        run: &mut Run<'_>,
        step: u16,
        (start, sectors): (u16, u16),
        status: Result<(), i32>,
        data: Option<u8>,
    ) {
        let Some(at) = self.jobs.iter().position(|job| job.step == step) else { return };
        let job = &mut self.jobs[at];
        // The last part is what the others were split from: its own error outweighs theirs (`bio_endio`).
        let last = start + sectors == job.first + job.count;
        if status.is_err() && (last || job.status.is_ok()) {
            job.status = status;
        }
        job.read = if start == job.first || job.read == data { data } else { None };
        job.left -= 1;
        if job.left > 0 {
            return;
        }
        if std::mem::take(&mut job.syncs) && job.status.is_ok() && self.has_write_cache() {
            let queue = self.jobs[at].queue;
            self.jobs[at].left = 1;
            if self.issue(run, Issuer::Script(step), BlockOp::Flush, (0, 0), queue).is_err() {
                self.job_heard(run, step, (0, 0), Err(errno::EIO), None);
            }
            return;
        }
        let job = self.jobs.remove(at);
        let read = job.op == BlockOp::Read && job.status.is_ok();
        let data = job.read.filter(|_| read);
        self.script_events.push(Event { data, ..event(step, job.result()) });
        let next = self.jobs.iter().find(|job| job.waits).map(|job| job.step);
        if let Some(next) = next.filter(|_| job.excludes) {
            self.job_begins(run, next);
        }
    }
}
