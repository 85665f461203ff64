//! What clients of a script ask of the disk: it becomes one request or several, one after another where the kernel does it so.

use blkproof_engine::uapi::KernelSeries;

use super::model::{event, uniform};
use super::{Actor, Event};
use crate::choices::Site;
use crate::kernel::block::{BlockOp, Issuer, Request};
use crate::kernel::cache::Writer;
use crate::kernel::device::Device;
use crate::kernel::errno;
use crate::kernel::process::ProcessState;
use crate::run::Run;
use crate::server::Program;
use crate::world::{PAGE_SECTORS, SECTOR, ThreadId, Version, World};

/// What an actor waits for.
#[expect(clippy::struct_excessive_bools, reason = "each is one independent fact")]
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Job {
    /// The step that asked for it.
    pub(crate) step: u16,
    op: BlockOp,
    pub(super) first: u16,
    count: u16,
    queue: u16,
    way: Way,
    at: At,
    /// Where its data is in the memory that all processes share.
    pub(super) shared: Option<u16>,
    /// It discards or writes zeroes: it alone holds the lock of the disk's node while it lasts.
    excludes: bool,
    /// A flush follows a write (`generic_write_sync`).
    syncs: bool,
    /// Nobody hears of it.
    mute: bool,
    /// Requests under way.
    left: u16,
    status: Result<(), i32>,
    /// The byte that all data read so far is.
    read: Option<u8>,
    /// Some was.
    heard: bool,
}

/// How it is done.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum Way {
    /// By requests of its own; what the page cache has of the range is written back before.
    Direct,
    /// By way of the page cache.
    Cached,
    /// The disk is closed.
    Close,
}

/// Where it is.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum At {
    /// It waits for the lock.
    Lock,
    /// What was there before is written back.
    WriteBack,
    /// At this page of the cache, for which it asked in vain or not.
    Page(u16, bool),
    /// Its requests are under way.
    Requests,
    /// They are done, and the page cache is to forget what it read meanwhile.
    Forget,
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
            way: Way::Direct,
            at: At::Lock,
            shared: None,
            excludes,
            syncs,
            mute: false,
            left: 0,
            status: Ok(()),
            read: None,
            heard: false,
        }
    }

    /// With its data in the memory that all processes share, from this sector on.
    pub(super) fn with_shared(self, shared: Option<u16>) -> Self {
        Self { shared, ..self }
    }

    /// Zeroes for a disk that has no command for that: they are written.
    pub(super) fn of_zeroes(step: u16, range: (u16, u16), queue: u16) -> Self {
        let op = BlockOp::Write { fua: false };
        Self { excludes: true, ..Self::new(step, op, range, queue) }
    }

    /// By way of the page cache.
    pub(super) fn cached(step: u16, op: BlockOp, range: (u16, u16), queue: u16) -> Self {
        Self { way: Way::Cached, ..Self::new(step, op, range, queue) }
    }

    /// Whether a signal that kills ends it.
    pub(super) fn is_killable(&self) -> bool {
        self.way == Way::Cached && self.op == BlockOp::Read
    }

    /// Whether it changes what is on the disk.
    const fn moves_in(&self) -> bool {
        !matches!(self.op, BlockOp::Read | BlockOp::Flush)
    }

    /// Whether another job waits for its end: what discards or writes zeroes keeps others of its kind out, and whatever goes by way of the cache.
    fn bars(&self, other: &Self) -> bool {
        let cached = |job: &Self| job.way == Way::Cached;
        self.excludes && (other.excludes || cached(other)) || cached(self) && other.excludes
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
            (Ok(()), BlockOp::ReportZones(_)) => self.count as i32,
            (Ok(()), _) => 0,
        }
    }

    /// What is written back before it begins.
    const fn touches(&self) -> (u16, u16) {
        match (self.way, self.op) {
            (Way::Close, _) | (_, BlockOp::Flush) => (0, u16::MAX),
            _ => (self.first, self.count),
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
        self.jobs.push(job);
        self.jobs_take_the_lock(run);
    }

    /// Whoever comes first has the lock of the disk's node, and shares it with those that may (`inode_lock`).
    fn jobs_take_the_lock(&mut self, run: &mut Run<'_>) {
        let free = |jobs: &[Job]| {
            let at = (0..jobs.len()).find(|at| {
                jobs[*at].at == At::Lock && !jobs[..*at].iter().any(|one| one.bars(&jobs[*at]))
            });
            at.map(|at| jobs[at].step)
        };
        while let Some(step) = free(&self.jobs) {
            self.job_begins(run, step);
        }
    }

    /// A thread is gone, or executes another program: it closes the disk if it has it open, and nobody hears of that.
    pub(crate) fn leaves_disk(&mut self, run: &mut Run<'_>, thread: ThreadId) {
        if let Some(Program::Script(actor)) = self.threads[thread.index()].program.as_deref_mut()
            && std::mem::take(&mut actor.disk)
        {
            let step = actor.step;
            self.closes_disk(run, step, true);
        }
    }

    /// Whoever is the last to close the disk writes back what is dirty (`bdev_release`).
    pub(super) fn closes_disk(&mut self, run: &mut Run<'_>, step: u16, mute: bool) {
        let op = BlockOp::Write { fua: false };
        // It results in nothing.
        let job = Job { way: Way::Close, mute, ..Job::new(step, op, (0, 0), 0) };
        self.client(run, job);
    }

    /// It has the lock, if it needs one.
    fn job_begins(&mut self, run: &mut Run<'_>, step: u16) {
        let openers = self.disk().map_or(0, |disk| disk.openers);
        let Some(job) = self.jobs.iter_mut().find(|job| job.step == step) else { return };
        job.at = match job.way {
            Way::Direct if job.excludes => At::Page(job.first, false),
            Way::Cached => At::Page(job.first, false),
            Way::Direct | Way::Close => At::WriteBack,
        };
        if job.at == At::WriteBack && (job.way == Way::Direct || openers == 1) {
            let (range, queue) = (job.touches(), job.queue);
            self.write_back(run, Writer::Step(step), range, queue);
        } else {
            self.jobs_go_on(run);
        }
    }

    /// Every job goes on that waits for the page cache and need not any more.
    pub(crate) fn jobs_go_on(&mut self, run: &mut Run<'_>) {
        loop {
            let able = self.jobs.iter().filter(|job| self.job_can_go_on(job));
            let able: Vec<u16> = able.map(|job| job.step).collect();
            let which = match able.len() {
                0 => return,
                1 => 0,
                several => run.choose(Site::Client, several as u32) as usize,
            };
            self.job_goes_on(run, able[which]);
        }
    }

    fn job_can_go_on(&self, job: &Job) -> bool {
        let disk = self.disk();
        let Some(cache) = disk.map(|disk| &disk.cache) else { return false };
        let range = (job.first, job.count);
        match job.at {
            At::Lock | At::Requests => false,
            // Then a write throws the pages of its range away, and has to lock each (`invalidate_inode_pages2_range`).
            At::WriteBack => {
                let locked = job.way == Way::Direct && job.moves_in() && cache.is_read(range);
                !cache.writes(Writer::Step(job.step)) && !locked
            }
            At::Forget => !cache.is_read(range),
            At::Page(..) if job.excludes => !cache.is_under_way(range),
            At::Page(next, _) if job.op == BlockOp::Read => !cache.is_read((next, PAGE_SECTORS)),
            At::Page(..) => !cache.is_read(range),
        }
    }

    fn job_goes_on(&mut self, run: &mut Run<'_>, step: u16) {
        let Some(index) = self.jobs.iter().position(|job| job.step == step) else { return };
        let job = self.jobs[index].clone();
        let range = (job.first, job.count);
        match (job.at, job.way) {
            (At::WriteBack, Way::Close) => {
                self.close_block();
                self.jobs[index].count = 0;
                self.job_ends(run, index);
            }
            (At::WriteBack, _) if job.op == BlockOp::Flush => {
                if self.hears_of_errors(step) || self.has_write_cache() && !self.has_living_disk() {
                    self.jobs[index].status = Err(errno::EIO);
                    self.job_ends(run, index);
                } else if self.has_write_cache() {
                    self.job_asks(run, step);
                } else {
                    self.job_ends(run, index);
                }
            }
            (At::WriteBack, _) => {
                let Some(cache) = self.cache() else { return };
                if cache.take_failure() {
                    self.jobs[index].status = Err(errno::EIO);
                    self.job_ends(run, index);
                    return;
                }
                if job.op != BlockOp::Read {
                    cache.drop_folios(range);
                }
                self.job_asks(run, step);
            }
            (At::Page(..), Way::Direct) => {
                if let Some(cache) = self.cache() {
                    cache.drop_range(range);
                }
                self.job_asks(run, step);
            }
            (At::Page(next, asked), _) if job.op == BlockOp::Read => {
                self.loads(run, index, next, asked);
            }
            (At::Page(..), _) => {
                let large =
                    self.device.as_ref().is_some_and(|one| one.kernel >= KernelSeries::V6_18);
                if let (true, Some(cache)) = (large, self.cache()) {
                    cache.fill_together(range);
                }
                for page in (job.first..job.first + job.count).step_by(usize::from(PAGE_SECTORS)) {
                    self.store_page(page, step as u8);
                }
                self.job_ends(run, index);
            }
            (At::Forget, _) => self.job_is_done(run, index),
            (At::Lock | At::Requests, _) => {}
        }
    }

    /// One page of a buffered read.
    fn loads(&mut self, run: &mut Run<'_>, index: usize, next: u16, asked: bool) {
        let alive = self.has_living_disk();
        let cached = self.cache().and_then(|cache| Some(cache.get(next)?.byte));
        let job = &mut self.jobs[index];
        let done = next - job.first;
        // What was read before counts, and a disk that is gone has no size.
        if !alive || done == job.count || cached.is_none() && asked {
            if alive && done == 0 {
                job.status = Err(errno::EIO);
            }
            job.count = done;
            self.job_ends(run, index);
            return;
        }
        if let Some(byte) = cached {
            job.read = if done == 0 || job.read == byte { byte } else { None };
            job.at = At::Page(next + PAGE_SECTORS, false);
            return;
        }
        // Readahead brings a page that is not there, and nobody hears how that went. One that is there and empty is read once.
        let asked = self.cache().is_some_and(|cache| cache.has(next));
        self.jobs[index].at = At::Page(next, asked);
        let queue = self.jobs[index].queue;
        self.read_page(run, next, queue);
    }

    /// All requests of a job are submitted.
    fn job_asks(&mut self, run: &mut Run<'_>, step: u16) {
        let Some(index) = self.jobs.iter().position(|job| job.step == step) else { return };
        let Job { op, first, count, queue, .. } = self.jobs[index];
        let range = (first, count);
        if let BlockOp::ReportZones(all) = op {
            return self.job_asks_for_zones(run, index, all);
        }
        let parts = self.disk().map_or_else(|| vec![range], |disk| disk.limits.split(op, range));
        (self.jobs[index].at, self.jobs[index].left) = (At::Requests, parts.len() as u16);
        for part in parts {
            if self.issue(run, Issuer::Script(step), op, part, queue).is_err() {
                self.job_heard(run, step, part, Err(errno::EIO), None);
            }
        }
    }

    /// It asks for the zones that it has not been told of (`ublk_report_zones`).
    fn job_asks_for_zones(&mut self, run: &mut Run<'_>, index: usize, all: u16) {
        let size = self.device.as_ref().and_then(Device::zone_sectors).unwrap_or(1);
        let Job { step, count: known, queue, .. } = self.jobs[index];
        self.jobs[index].at = At::Requests;
        let (op, from) = (BlockOp::ReportZones(all - known), known * size);
        if known == all {
            self.job_ends(run, index);
        } else if self.issue(run, Issuer::Script(step), op, (from, 1), queue).is_err() {
            self.jobs[index].status = Err(errno::ENODEV);
            self.job_ends(run, index);
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
        if let BlockOp::ReportZones(_) = request.asked {
            let told = if status.is_ok() { self.zones_told(run, request) } else { 0 };
            let Some(index) = self.jobs.iter().position(|job| job.step == step) else { return };
            let job = &mut self.jobs[index];
            (job.status, job.count) = (status, job.count + told);
            match job.op {
                BlockOp::ReportZones(all) if status.is_ok() => {
                    self.job_asks_for_zones(run, index, all);
                }
                _ => self.job_ends(run, index),
            }
            return;
        }
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
        job.read = if job.heard && job.read != data { None } else { data };
        job.heard = true;
        job.left -= 1;
        if job.left > 0 {
            return;
        }
        // Whoever reads by way of the cache may have begun anew (`kiocb_invalidate_post_direct_write`).
        let wrote = sectors > 0 && matches!(job.op, BlockOp::Write { .. }) && job.status.is_ok();
        let (direct, range) = (job.way == Way::Direct, (job.first, job.count));
        if wrote && direct && self.disk().is_some_and(|disk| disk.cache.is_read(range)) {
            self.jobs[at].at = At::Forget;
            return;
        }
        self.job_is_done(run, at);
    }

    /// Its requests are done; a flush may follow.
    fn job_is_done(&mut self, run: &mut Run<'_>, at: usize) {
        let (step, job) = (self.jobs[at].step, &mut self.jobs[at]);
        job.at = At::Requests;
        if std::mem::take(&mut job.syncs) && job.status.is_ok() && self.has_write_cache() {
            let queue = self.jobs[at].queue;
            self.jobs[at].left = 1;
            if self.issue(run, Issuer::Script(step), BlockOp::Flush, (0, 0), queue).is_err() {
                self.job_heard(run, step, (0, 0), Err(errno::EIO), None);
            }
            return;
        }
        self.job_ends(run, at);
    }

    /// A job is done, and the next one has the lock.
    fn job_ends(&mut self, run: &mut Run<'_>, index: usize) {
        let job = self.jobs.remove(index);
        if job.way == Way::Direct
            && matches!(job.op, BlockOp::Write { .. })
            && let Some(cache) = self.cache()
        {
            cache.drop_clean_of((job.first, job.count));
        }
        let read = job.op == BlockOp::Read && job.status.is_ok() && job.count > 0;
        let read_into =
            |at: u16| uniform(&self.shared[usize::from(at)..][..usize::from(job.count)]);
        let data = job.shared.map_or(job.read, read_into).filter(|_| read);
        if !job.mute && self.is_heard(job.step) {
            self.script_events.push(Event { data, ..event(job.step, job.result()) });
        }
        self.jobs_take_the_lock(run);
    }
}

impl World {
    /// How many of so many sectors there are.
    pub(super) fn up_to_the_end(&self, first: u16, count: u16) -> u16 {
        let params = self.device.as_ref().and_then(|device| device.params.parts().basic);
        let sectors = params.map_or(0, |basic| basic.dev_sectors);
        let left = sectors.saturating_sub(first.into());
        u16::try_from(left).map_or(count, |left| count.min(left))
    }

    /// The actor that is at this step.
    fn actor_at(&mut self, step: u16) -> Option<(ThreadId, &mut Actor)> {
        self.threads.iter_mut().enumerate().find_map(|(index, thread)| {
            match thread.program.as_deref_mut() {
                Some(Program::Script(actor)) if actor.step == step => {
                    Some((ThreadId::from_index(index), actor))
                }
                Some(_) | None => None,
            }
        })
    }

    /// The process that waits for a step's result is there to tell it.
    fn is_heard(&mut self, step: u16) -> bool {
        let Some((thread, _)) = self.actor_at(step) else { return false };
        self.process_of(thread).state == ProcessState::Running
    }

    /// Whether an fsync tells of a failure that its file has not told before.
    fn hears_of_errors(&mut self, step: u16) -> bool {
        let Some((thread, actor)) = self.actor_at(step) else { return false };
        let mut known = actor.errors;
        let told = self.cache().is_some_and(|cache| cache.errors_since(&mut known));
        self.actor(thread).errors = known;
        told
    }

    /// Whether a thread is in the middle of what it asked of the disk, which no signal ends.
    pub(crate) fn is_at_the_disk(&self, thread: ThreadId) -> bool {
        !self.jobs.is_empty() && {
            let step = self.step_of(thread);
            self.jobs.iter().any(|job| Some(job.step) == step && !job.is_killable())
        }
    }
}
