//! The page cache of the disk, which only clients of scripts use: pages that were read or written, writing them back, and who hears of an error.

use crate::choices::Site;
use crate::kernel::block::{BlockOp, Issuer, Phase, Request};
use crate::kernel::device::Gendisk;
use crate::run::Run;
use crate::world::{PAGE_SECTORS, RequestId, World};

/// What the cache holds, and what is done about it.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub(crate) struct Cache {
    /// In the order of their sectors.
    pages: Vec<Page>,
    /// Those who write back, in the order in which they began.
    passes: Vec<Pass>,
    /// Failures to write back that somebody may still hear of (`wb_err`).
    errors: Errors,
    /// One that the next direct request hears of (`AS_EIO`).
    failed: bool,
}

/// A page.
#[expect(clippy::struct_excessive_bools, reason = "each is one independent fact")]
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Page {
    first: u16,
    /// The folio that it belongs to, from which sector to which: one page, or all those that were written together when none of them was there.
    folio: (u16, u16),
    /// The byte that all of it is.
    pub(crate) byte: Option<u8>,
    /// It was read or written.
    filled: bool,
    /// It is to be written back.
    dirty: bool,
    /// Requests under way that read it, or write it back.
    left: u8,
    /// A part of it came.
    heard: bool,
    /// A part of it could not be read.
    failed: bool,
}

/// A number that grows when something fails after the last failure was told (`errseq_t`).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
struct Errors {
    number: u8,
    told: bool,
}

/// Who writes back, and waits until that is done.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Writer {
    /// An actor of a script, in this step.
    Step(u16),
    /// Whoever removes the disk, under `ub->mutex`.
    Removal,
}

/// Somebody who writes back what is dirty in a range.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct Pass {
    by: Writer,
    first: u16,
    end: u16,
    queue: u16,
    /// The pages that were dirty when it began, the last one first.
    todo: Vec<u16>,
}

impl Request {
    fn is_cached_write(&self) -> bool {
        self.issuer == Issuer::Cache && self.asked != BlockOp::Read
    }
}

impl Page {
    /// An empty page.
    const fn new(first: u16) -> Self {
        let folio = (first, first + PAGE_SECTORS);
        let (filled, dirty, heard, failed) = (false, false, false, false);
        Self { first, folio, byte: None, filled, dirty, left: 0, heard, failed }
    }

    /// Whether a range has a part of it.
    const fn is_within(&self, (first, count): (u16, u16)) -> bool {
        self.first < first + count && self.first + PAGE_SECTORS > first
    }

    /// Whether a range has a part of its folio, which is written back and thrown away as a whole.
    const fn is_touched(&self, (first, count): (u16, u16)) -> bool {
        let (begin, end) = self.folio;
        begin < first + count && end > first
    }

    const fn is_under_way(&self) -> bool {
        self.left > 0
    }

    const fn is_read(&self) -> bool {
        self.left > 0 && !self.filled
    }

    const fn is_written(&self) -> bool {
        self.left > 0 && self.filled
    }
}

impl Errors {
    const fn happens(&mut self) {
        if self.number == 0 || self.told {
            (self.number, self.told) = (self.number + 1, false);
        }
    }

    /// What a file that is opened now has heard of: not of what nobody was told.
    const fn known(self) -> u8 {
        if self.told { self.number } else { 0 }
    }
}

impl Cache {
    fn page(&self, first: u16) -> Option<&Page> {
        self.pages.iter().find(|page| page.first == first)
    }

    fn page_mut(&mut self, first: u16) -> Option<&mut Page> {
        self.pages.iter_mut().find(|page| page.first == first)
    }

    /// Pages of the folios that a range touches.
    fn within(&self, range: (u16, u16)) -> impl Iterator<Item = &Page> {
        self.pages.iter().filter(move |page| page.is_touched(range))
    }

    /// Pages are about to be written together. Those that are not there become one folio, as large as the place allows (`__filemap_get_folio`
    /// with an order, since the block device's page cache has large folios: 6.15).
    pub(crate) fn fill_together(&mut self, (first, count): (u16, u16)) {
        let end = first + count;
        let mut at = first;
        while at < end {
            let mut size = PAGE_SECTORS;
            let fits = |size: u16| at.is_multiple_of(size) && at + size <= end;
            while fits(2 * size) && !self.pages.iter().any(|page| page.is_within((at, 2 * size))) {
                size *= 2;
            }
            if size > PAGE_SECTORS {
                for page in (at..at + size).step_by(usize::from(PAGE_SECTORS)) {
                    self.page_or_new(page).folio = (at, at + size);
                }
            }
            at += size;
        }
    }

    /// What a new file has heard of.
    pub(crate) const fn errors_known(&self) -> u8 {
        self.errors.known()
    }

    /// Whether something failed that a file has not heard of; from now on it has (`file_check_and_advance_wb_err`).
    pub(crate) const fn errors_since(&mut self, known: &mut u8) -> bool {
        if *known == self.errors.number {
            return false;
        }
        (self.errors.told, self.failed) = (true, false);
        *known = self.errors.number;
        true
    }

    /// Whether something failed that no direct request, nor any file, has heard of (`filemap_check_errors`).
    pub(crate) const fn take_failure(&mut self) -> bool {
        std::mem::replace(&mut self.failed, false)
    }

    /// Whether anything is dirty, or being written.
    pub(crate) fn is_to_be_written(&self) -> bool {
        self.pages.iter().any(|page| page.dirty || page.is_written())
    }

    /// Whether a page is under way in a range.
    pub(crate) fn is_under_way(&self, range: (u16, u16)) -> bool {
        self.within(range).any(Page::is_under_way)
    }

    /// Whether a page is being read in a range.
    pub(crate) fn is_read(&self, range: (u16, u16)) -> bool {
        self.within(range).any(Page::is_read)
    }

    /// A page with something in it.
    pub(crate) fn get(&self, first: u16) -> Option<&Page> {
        self.page(first).filter(|page| page.filled)
    }

    /// Whether a page is there, if only empty.
    pub(crate) fn has(&self, first: u16) -> bool {
        self.page(first).is_some()
    }

    /// A page that is there, if only empty from now on.
    fn page_or_new(&mut self, first: u16) -> &mut Page {
        let at = self.pages.partition_point(|page| page.first < first);
        if self.pages.get(at).is_none_or(|page| page.first != first) {
            self.pages.insert(at, Page::new(first));
        }
        &mut self.pages[at]
    }

    /// A page is written in memory.
    fn put(&mut self, first: u16, byte: u8) {
        let page = self.page_or_new(first);
        (page.byte, page.filled, page.dirty) = (Some(byte), true, true);
    }

    /// The folios that a range touches are thrown away (`invalidate_inode_pages2_range`).
    pub(crate) fn drop_folios(&mut self, range: (u16, u16)) {
        self.pages.retain(|page| !page.is_touched(range));
    }

    /// A range is thrown away, whether or not it is dirty (`truncate_bdev_range`).
    pub(crate) fn drop_range(&mut self, range: (u16, u16)) {
        self.pages.retain(|page| !page.is_within(range));
        // What is left of a folio is split (`truncate_inode_partial_folio`).
        for page in self.pages.iter_mut().filter(|page| page.is_touched(range)) {
            page.folio = (page.first, page.first + PAGE_SECTORS);
        }
    }

    /// What is neither dirty nor under way is thrown away (`invalidate_bdev`).
    pub(crate) fn drop_clean(&mut self) {
        self.drop_clean_of((0, u16::MAX));
    }

    /// The same within a range.
    pub(crate) fn drop_clean_of(&mut self, range: (u16, u16)) {
        let busy = |page: &&Page| page.dirty || page.is_under_way();
        let kept: Vec<_> = self.pages.iter().filter(busy).map(|page| page.folio).collect();
        self.pages.retain(|page| !page.is_touched(range) || kept.contains(&page.folio));
    }

    /// Nobody has the disk open any more.
    pub(crate) fn drop_all(&mut self) {
        self.pages.clear();
    }

    /// Whether somebody is still writing back.
    pub(crate) fn writes(&self, by: Writer) -> bool {
        self.passes.iter().any(|pass| pass.by == by)
    }
}

impl Gendisk {
    /// It is about to be removed: nobody opens it any more. False: there is nothing to be written back before.
    pub(crate) fn hides_what_is_to_be_written(&mut self) -> bool {
        self.hidden = self.cache.is_to_be_written();
        self.hidden
    }
}

impl World {
    /// The page cache of the disk.
    pub(crate) fn cache(&mut self) -> Option<&mut Cache> {
        let disk = self.disk_mut();
        disk.map(|disk| &mut disk.cache)
    }

    /// A client writes a page in memory. What is on its way to the server and was not copied yet is written too.
    pub(crate) fn store_page(&mut self, first: u16, byte: u8) {
        let Some(cache) = self.cache() else { return };
        cache.put(first, byte);
        for request in self.requests.iter_mut().flatten() {
            let within = (first..first + PAGE_SECTORS).contains(&request.start);
            if request.is_cached_write() && within {
                request.version = byte.into();
            }
        }
    }

    /// The queue that a thread of the kernel asks, which runs on any CPU.
    pub(crate) fn queue_of_any_worker(&self, run: &mut Run<'_>) -> u16 {
        let queues = self.device.as_ref().map_or(1, |device| device.queues);
        run.choose(Site::Client, u32::from(queues)) as u16
    }

    /// Whether somebody is still writing back.
    pub(crate) fn is_writing_back(&self, by: Writer) -> bool {
        let disk = self.disk();
        disk.is_some_and(|disk| disk.cache.writes(by))
    }

    /// Somebody begins to write back what is dirty in a range, page by page, and to wait until it is written.
    pub(crate) fn write_back(
        &mut self,
        run: &mut Run<'_>,
        by: Writer,
        (first, count): (u16, u16),
        queue: u16,
    ) {
        let Some(cache) = self.cache() else { return };
        let (mut begin, mut end) = (first, first.saturating_add(count));
        for page in cache.within((first, count)) {
            (begin, end) = (begin.min(page.folio.0), end.max(page.folio.1));
        }
        let dirty = cache.within((first, count)).filter(|page| page.dirty);
        let mut todo: Vec<u16> = dirty.map(|page| page.first).collect();
        todo.reverse();
        cache.passes.push(Pass { by, first: begin, end, queue, todo });
        self.settle_cache(run);
    }

    /// A page is read.
    pub(crate) fn read_page(&mut self, run: &mut Run<'_>, first: u16, queue: u16) {
        if let Some(cache) = self.cache() {
            cache.page_or_new(first);
        }
        self.transfer(run, first, BlockOp::Read, queue);
    }

    /// The requests that read a page, or write it back.
    fn transfer(&mut self, run: &mut Run<'_>, first: u16, op: BlockOp, queue: u16) {
        let Some(disk) = self.disk_mut() else {
            return;
        };
        let parts = disk.limits.split(op, (first, PAGE_SECTORS));
        if let Some(page) = disk.cache.page_mut(first) {
            (page.left, page.heard, page.failed) = (parts.len() as u8, false, false);
        }
        for part in parts {
            if self.issue(run, Issuer::Cache, op, part, queue).is_err() {
                self.page_heard(part, op, Err(()));
            }
        }
    }

    /// The byte of a page that is to be written back.
    pub(crate) fn cached_byte(&self, sector: u16) -> u8 {
        let disk = self.disk();
        let page = disk.and_then(|disk| disk.cache.page(sector - sector % PAGE_SECTORS));
        page.and_then(|page| page.byte).unwrap_or(0)
    }

    /// A request for a page is done.
    pub(crate) fn cache_heard(&mut self, run: &mut Run<'_>, request: &Request, ok: bool) {
        let data = crate::script::uniform(&request.data[..usize::from(request.sectors)]);
        let part = (request.start, request.sectors);
        self.page_heard(part, request.asked, if ok { Ok(data) } else { Err(()) });
        self.settle_cache(run);
    }

    fn page_heard(&mut self, (start, _): (u16, u16), op: BlockOp, data: Result<Option<u8>, ()>) {
        let Some(cache) = self.cache() else { return };
        if data.is_err() && op != BlockOp::Read {
            cache.errors.happens();
            cache.failed = true;
        }
        let first = start - start % PAGE_SECTORS;
        let Some(page) = cache.page_mut(first) else { return };
        page.left -= 1;
        if op != BlockOp::Read {
            return;
        }
        match data {
            // It stays, empty.
            Err(()) => page.failed = true,
            Ok(byte) if page.heard && page.byte != byte => page.byte = None,
            Ok(byte) => (page.byte, page.heard) = (byte, true),
        }
        page.filled = page.left == 0 && !page.failed;
    }

    /// Whoever writes back goes on as far as possible, and whoever waited for that or for a page, too.
    pub(crate) fn settle_cache(&mut self, run: &mut Run<'_>) {
        let mut index = 0;
        while let Some(pass) = self.cache().and_then(|cache| cache.passes.get(index)).cloned() {
            if self.pass_goes_on(run, index, pass) {
                index = 0;
            } else {
                index += 1;
            }
        }
        self.jobs_go_on(run);
    }

    /// One page of a pass. False: it can do nothing now.
    fn pass_goes_on(&mut self, run: &mut Run<'_>, index: usize, mut pass: Pass) -> bool {
        // A writer sleeps until the request that it submits has a tag.
        let submits = |request: &Request| {
            request.is_cached_write()
                && (pass.first..pass.end).contains(&request.start)
                && !request.is_submitted()
        };
        if self.requests.iter().flatten().any(submits) {
            return false;
        }
        let Some(disk) = self.disk_mut() else {
            return false;
        };
        let (dead, cache) = (disk.dead, &mut disk.cache);
        let Some(&first) = pass.todo.last() else {
            let range = (pass.first, pass.end - pass.first);
            if cache.within(range).any(Page::is_written) {
                return false;
            }
            cache.passes.remove(index);
            return true;
        };
        let page = cache.page_mut(first).filter(|page| page.dirty);
        if page.as_ref().is_some_and(|page| page.is_under_way()) {
            return false;
        }
        pass.todo.pop();
        let queue = pass.queue;
        let writes = page.map(|page| page.dirty = false).is_some();
        cache.passes[index] = pass;
        // Beyond the end of a disk that has no capacity any more: nobody is told (`block_write_full_folio`).
        if writes && !dead {
            self.transfer(run, first, BlockOp::Write { fua: false }, queue);
        }
        true
    }

    /// Whether a write of the page cache has a tag.
    pub(crate) fn another_is_cached(&self) -> bool {
        let mut others = self.requests.iter().flatten();
        others.any(|other| other.is_cached_write() && other.is_submitted())
    }

    /// Once reads were slow, one write of the page cache waits for another (`blk-wbt`).
    pub(crate) fn is_throttled(&mut self, run: &mut Run<'_>, id: RequestId) -> bool {
        let request = self.requests[id.index()].as_ref();
        let may = request.is_some_and(|request| {
            let waits = request.phase == Phase::Waiting && !request.is_submitted();
            request.is_cached_write() && waits && !request.throttled
        });
        if !may || !self.another_is_cached() || run.choose(Site::Delay, 2) == 0 {
            return false;
        }
        if let Some(request) = &mut self.requests[id.index()] {
            request.throttled = true;
        }
        true
    }

    /// A request was admitted: a writer that slept until then goes on.
    pub(crate) fn cache_admitted(&mut self, run: &mut Run<'_>, id: RequestId) {
        let request = self.requests[id.index()].as_ref();
        if request.is_some_and(|request| request.issuer == Issuer::Cache) {
            self.settle_cache(run);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_is_told_once_by_each_file_and_to_one_opened_later_if_nobody_was_told() {
        let mut cache = Cache::default();
        let (mut first, mut second) = (cache.errors_known(), cache.errors_known());
        assert!(!cache.errors_since(&mut first));
        cache.errors.happens();
        cache.errors.happens();
        let mut later = cache.errors_known();
        assert!(cache.errors_since(&mut first) && !cache.errors_since(&mut first));
        let mut last = cache.errors_known();
        assert!(cache.errors_since(&mut second) && cache.errors_since(&mut later));
        assert!(!cache.errors_since(&mut last));
        cache.errors.happens();
        assert!(cache.errors_since(&mut last) && cache.errors_since(&mut first));
    }

    #[test]
    fn what_is_written_together_is_one_folio() {
        let mut cache = Cache::default();
        cache.put(24, 1);
        cache.fill_together((0, 32));
        let folios: Vec<_> = cache.pages.iter().map(|page| page.folio).collect();
        assert_eq!(folios, [(0, 16), (0, 16), (24, 32)], "none over what was there");
        cache.fill_together((8, 8));
        assert_eq!(cache.within((0, 4)).count(), 2);
        cache.drop_range((0, 8));
        assert!(
            !cache.has(0) && cache.within((8, 1)).count() == 1 && cache.within((0, 8)).count() == 0
        );
        cache.fill_together((32, 16));
        cache.drop_folios((40, 1));
        assert!(!cache.has(32) && !cache.has(40));
    }

    #[test]
    fn only_what_is_clean_is_thrown_away_but_for_a_range_that_is_written_anew() {
        let mut cache = Cache::default();
        cache.put(8, 1);
        cache.put(0, 2);
        cache.put(16, 3);
        cache.pages[1].dirty = false;
        assert_eq!(cache.pages.iter().map(|page| page.first).collect::<Vec<_>>(), [0, 8, 16]);
        cache.drop_clean();
        assert!(cache.has(0) && !cache.has(8) && cache.has(16));
        cache.drop_range((4, 12));
        assert!(!cache.has(0) && cache.has(16) && cache.is_to_be_written());
    }
}
