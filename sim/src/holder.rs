//! Somebody who keeps the block device open, as a mounted file system does, and lets go of it in his own time.
//!
//! Nothing that stops a device waits for him: his file stays, and only answers EIO. But the gendisk, and with it the device's number, lives as long
//! as he has it open: DEL_DEV waits (H30), and a new START_DEV gets EEXIST. `del --if-unused` is to leave such a device alone.

use crate::choices::Site;
use crate::kernel::device::Scan;
use crate::run::{Run, actor};
use crate::world::{TimerKind, World};

/// How long he keeps it, in milliseconds. What is shorter than a thread may be late by ends at any step; the longest outlast the deadline of
/// DEL_DEV.
const HOLDS_MS: [u64; 5] = [1, 500, 5_000, 20_000, 40_000];

impl World {
    /// Whether somebody can come who opens the block device and keeps it.
    pub(crate) fn can_be_held(&self) -> bool {
        let open = |disk: &crate::kernel::device::Gendisk| {
            disk.scan != Scan::None && !disk.open_mutex && !disk.hidden && !disk.dead
        };
        self.budget.holds > 0 && !self.held && self.disk().is_some_and(open)
    }

    /// He comes; and maybe the operator runs `del --if-unused` then.
    pub(crate) fn is_held(&mut self, run: &mut Run<'_>) {
        self.budget.holds -= 1;
        let ways = 2 * HOLDS_MS.len();
        let way = run.choose(Site::Fault, ways as u32) as usize;
        self.held = self.open_block();
        let ms = HOLDS_MS[way % HOLDS_MS.len()];
        run.held_us += ms * 1000;
        run.note(actor::OPERATOR, || format!("somebody opens ublkb, and keeps it for {ms} ms"));
        self.arm(ms * 1000, TimerKind::LetGo);
        if way >= HOLDS_MS.len() && self.unused_can_be_deleted(run) {
            self.delete(run, true);
        }
    }

    /// He lets go.
    pub(crate) fn lets_go(&mut self, run: &mut Run<'_>) {
        if std::mem::take(&mut self.held) {
            run.note(actor::OPERATOR, || "who kept ublkb lets go of it".into());
            self.close_block();
        }
    }
}
