//! The memory that all processes of a script share: what clients read into and write from, and what servers reach without the kernel.

use super::Event;
use super::model::{event, uniform};
use crate::world::{PAGE_SECTORS, SECTOR, Version, World};

/// Its pages.
pub const SHARED_PAGES: u16 = 16;
/// Its sectors of 512 bytes.
pub const SHARED_SECTORS: u16 = SHARED_PAGES * PAGE_SECTORS;

impl World {
    /// An actor looks at it.
    pub(super) fn reads_shared(&mut self, step: u16, (first, count): (u16, u16)) {
        let data = uniform(&self.shared[usize::from(first)..][..usize::from(count)]);
        self.script_events.push(Event { data, ..event(step, bytes(count)) });
    }

    /// An actor fills a part of it.
    pub(super) fn writes_shared(&mut self, step: u16, range: (u16, u16), byte: u8) {
        self.fill_shared(range, Version::from(byte));
        self.answer(step, bytes(range.1));
    }

    /// A part of it gets another content.
    pub(crate) fn fill_shared(&mut self, (first, count): (u16, u16), version: Version) {
        self.shared[usize::from(first)..][..usize::from(count)].fill(version);
    }

    /// Where in it the data of a client's request begins, which begins at this sector of the disk.
    pub(crate) fn script_memory(&self, step: u16, start: u16) -> Option<u16> {
        let job = self.jobs.iter().find(|job| job.step == step)?;
        Some(job.shared? + start - job.first)
    }
}

const fn bytes(sectors: u16) -> i32 {
    sectors as i32 * SECTOR as i32
}
