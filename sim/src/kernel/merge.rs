//! Neighbours that become one request (`block/blk-merge.c`), and what each of those who asked for it hears. In scripts only.

use crate::kernel::block::{BlockOp, Issuer, Phase, Request};
use crate::run::{Run, Sabotage};
use crate::world::{BUFFER_SECTORS, RequestId, Version, World};

/// Requests of a software queue that a new one is compared with (`blk_bio_list_merge`).
const COMPARED: usize = 8;

/// What one of several asked for that became one request.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Member {
    issuer: Issuer,
    start: u16,
    sectors: u16,
    version: Version,
}

/// Which end of a request that waits a new one adjoins.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Side {
    /// It goes on where the other ends.
    Back,
    /// It ends where the other begins.
    Front,
}

impl Request {
    /// Where what is left of it begins.
    pub(super) const fn position(&self) -> u16 {
        self.start + self.done
    }

    /// Where it ends.
    pub(super) const fn end(&self) -> u16 {
        self.start + self.sectors
    }

    /// Whether it may become a part of another one, or another one a part of it. What a flush follows or FUA makes durable may not; zeroes and zones
    /// may not either; discards never wait side by side.
    pub(super) fn merges(&self) -> bool {
        matches!(self.issuer, Issuer::Script(_))
            && matches!(self.op, BlockOp::Read | BlockOp::Write { fua: false })
            && !self.flushes
            && self.done == 0
            && self.memory.is_none()
            && self.plugs.is_none()
    }

    /// Where a new one adjoins it.
    pub(super) fn adjoins(&self, new: &Self) -> Option<Side> {
        if self.op != new.op || self.queue != new.queue || !self.merges() || !new.merges() {
            None
        } else if self.end() == new.start {
            Some(Side::Back)
        } else if new.end() == self.start {
            Some(Side::Front)
        } else {
            None
        }
    }

    /// What a merged write writes, from where its rest begins.
    pub(super) fn written_by_members(&self, data: &mut [Version; BUFFER_SECTORS]) {
        for (sector, version) in (self.position()..self.end()).zip(data) {
            let holds = |one: &&Member| (one.start..one.start + one.sectors).contains(&sector);
            *version = self.members.iter().find(holds).map_or(*version, |one| one.version);
        }
    }

    /// The request as each of those sees it who asked for a part of it.
    pub(super) fn parts(&self) -> Vec<Self> {
        let part = |one: &Member| {
            let from = usize::from(one.start - self.start);
            let mut data = self.data;
            data.copy_within(from.., 0);
            let Member { issuer, start, sectors, version } = *one;
            Self { issuer, start, sectors, version, data, members: Vec::new(), ..self.clone() }
        };
        self.members.iter().map(part).collect()
    }

    /// Itself as a part of something larger.
    fn into_members(self) -> Vec<Member> {
        if !self.members.is_empty() {
            return self.members;
        }
        let Self { issuer, start, sectors, version, .. } = self;
        vec![Member { issuer, start, sectors, version }]
    }
}

impl World {
    /// Whether two neighbours are not too much for one request.
    fn one_is_enough(&self, first: &Request, second: &Request) -> bool {
        let most = self.disk().map_or(0, |disk| disk.limits.whole(first.position()));
        first.sectors + second.sectors <= most
    }

    /// Makes one request of two, if that is not too large: `new` is no more.
    pub(super) fn absorb(
        &mut self,
        run: &mut Run<'_>,
        into: RequestId,
        new: RequestId,
        side: Side,
    ) -> bool {
        let (Some(old), Some(other)) = (&self.requests[into.index()], &self.requests[new.index()])
        else {
            return false;
        };
        let (first, second) = if side == Side::Back { (old, other) } else { (other, old) };
        if !self.one_is_enough(first, second) || run.sabotage == Some(Sabotage::KeepApart) {
            return false;
        }
        let (start, sectors) = (first.start, first.sectors + second.sectors);
        let what = old.op.name();
        let mut members = first.clone().into_members();
        members.extend(second.clone().into_members());
        self.requests[new.index()] = None;
        self.requests_live -= 1;
        if let Some(old) = &mut self.requests[into.index()] {
            (old.start, old.sectors, old.members) = (start, sectors, members);
        }
        run.progress();
        run.kernel(|| format!("two neighbours are one {what} {start}+{sectors}"));
        true
    }

    /// A new request adjoins one that waits in the software queue of its CPU, which is quiesced (`blk_mq_sched_bio_merge`). True: it is a part of
    /// that.
    pub(super) fn joins_the_line(&mut self, run: &mut Run<'_>, id: RequestId) -> bool {
        let (Some(device), Some(new)) = (&self.device, &self.requests[id.index()]) else {
            return false;
        };
        if !device.quiesced || !new.is_in_order() {
            return false;
        }
        let line = &device.hw[usize::from(new.queue)].line;
        let found = line.iter().rev().take(COMPARED).find_map(|other| {
            let side = self.requests[other.index()].as_ref()?.adjoins(new)?;
            Some((*other, side))
        });
        found.is_some_and(|(other, side)| self.absorb(run, other, id, side))
    }

    /// So many sectors of a request are done: those who asked for no more hear of it.
    pub(super) fn parts_are_done(&mut self, run: &mut Run<'_>, id: RequestId) {
        let Some(request) = &mut self.requests[id.index()] else { return };
        let done = request.position();
        let over = |start: u16, sectors: u16| start + sectors <= done;
        let parts = request.parts();
        request.members.retain(|one| !over(one.start, one.sectors));
        for part in parts.into_iter().filter(|part| over(part.start, part.sectors)) {
            self.heard_of(run, &part, Ok(()));
        }
    }
}

impl Request {
    /// Whether it has a place among others of its CPU: what scripts ask of one hardware queue they ask on one CPU. Flushes go their own way.
    pub(super) fn is_in_order(&self) -> bool {
        matches!(self.issuer, Issuer::Script(_)) && self.op != BlockOp::Flush
    }

    /// It has a tag of the driver's or of the scheduler's: whoever submitted it sleeps no more.
    pub(crate) const fn is_submitted(&self) -> bool {
        self.tag.is_some()
            || self.scheduled
            || !matches!(self.phase, Phase::Entering | Phase::Waiting)
    }
}
