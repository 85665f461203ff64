//! The data oracle (O5): every sector is a linearizable register of versions.
//!
//! A write takes effect at some moment between its issue and its completion; one that failed may have taken effect or
//! not. So a sector has a set of versions that a read may return. A completed write removes what was
//! complete before it was issued; so does a read that returns it.

use crate::config::TargetKind;
use crate::world::{BUFFER_SECTORS, SECTORS_MAX, Version};

/// What a read may bring of a sector that nobody knows: anything.
pub(crate) const ANY: Version = Version::MAX - 1;

/// A write whose contents a sector may hold.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct Candidate {
    /// Which write.
    version: Version,
    /// What it writes: its version, or zeroes.
    holds: Version,
    /// Its write is not complete.
    pending: bool,
    /// What was complete when it was issued: overwritten as soon as this one is known to have taken effect.
    before: Vec<Version>,
}

/// What each sector of the device may hold.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Register {
    sectors: Vec<Vec<Candidate>>,
    /// Sectors that were outside the device meanwhile: no version later than this was written since.
    unknown: Vec<Option<Version>>,
    last: Version,
    /// The target forgets writes: only zeroes may be read.
    forgets: bool,
}

/// For each sector of a read, what it may return.
pub(crate) type Allowed = Vec<Vec<Version>>;

/// A sector was read as what it cannot have been.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Mismatch {
    pub(crate) sector: usize,
    pub(crate) got: Version,
    pub(crate) allowed: Vec<Version>,
    /// Zeroes were written to it, and nothing since (O8).
    pub(crate) zeroed: bool,
}

impl Register {
    pub(crate) fn new(target: TargetKind) -> Self {
        let blank = Candidate { version: 0, holds: 0, pending: false, before: Vec::new() };
        Self {
            sectors: vec![vec![blank]; SECTORS_MAX],
            unknown: vec![None; SECTORS_MAX],
            last: 0,
            forgets: target == TargetKind::Null,
        }
    }

    /// A write is issued, or something that leaves zeroes. Returns its version.
    pub(crate) fn write_begins(&mut self, start: usize, sectors: usize, zeroes: bool) -> Version {
        self.last += 1;
        let version = self.last;
        let holds = if zeroes { 0 } else { version };
        if !self.forgets {
            for sector in &mut self.sectors[start..start + sectors] {
                let before = sector
                    .iter()
                    .filter(|candidate| !candidate.pending)
                    .map(|candidate| candidate.version)
                    .collect();
                sector.push(Candidate { version, holds, pending: true, before });
            }
        }
        version
    }

    /// A write is complete.
    pub(crate) fn write_ends(&mut self, version: Version, start: usize, sectors: usize, ok: bool) {
        if self.forgets {
            return;
        }
        for index in start..start + sectors {
            let sector = &mut self.sectors[index];
            let Some(candidate) = sector.iter_mut().find(|one| one.version == version) else {
                continue;
            };
            candidate.pending = false;
            if ok {
                self.unknown[index] = self.unknown[index].filter(|since| *since >= version);
                settle(sector, version);
            }
        }
    }

    /// What was begun and must be durable when it is complete: for each sector, what a crash may leave then (O6). Itself, and what is under way
    /// beside it; what begins until then comes to it as to a read.
    pub(crate) fn durable_write_begins(&self, start: usize, sectors: usize) -> Allowed {
        let under_way = |index: usize| {
            let pending = self.sectors[index].iter().filter(|candidate| candidate.pending);
            pending.map(|candidate| candidate.holds).collect()
        };
        (start..start + sectors).map(under_way).collect()
    }

    /// A read is issued.
    pub(crate) fn read_begins(&self, start: usize, sectors: usize) -> Allowed {
        (start..start + sectors)
            .map(|index| {
                let known = self.sectors[index].iter().map(|candidate| candidate.holds);
                known.chain(self.unknown[index].map(|_| ANY)).collect()
            })
            .collect()
    }

    /// The sectors from here on are outside the device, and what they hold is forgotten. Writes under way there may yet land.
    pub(crate) fn forget_from(&mut self, first: usize) {
        for index in first.min(SECTORS_MAX)..SECTORS_MAX {
            self.unknown[index] = Some(self.last);
            self.sectors[index].retain(|candidate| candidate.pending);
        }
    }

    /// Whether writes matter to reads at all.
    pub(crate) const fn remembers(&self) -> bool {
        !self.forgets
    }

    /// A read is complete.
    pub(crate) fn read_ends(
        &mut self,
        allowed: &Allowed,
        start: usize,
        data: &[Version; BUFFER_SECTORS],
    ) -> Result<(), Mismatch> {
        for (index, (allowed, &got)) in allowed.iter().zip(data).enumerate() {
            if allowed.contains(&ANY) && got < ANY {
                continue;
            }
            let sector = &mut self.sectors[start + index];
            if !allowed.contains(&got) {
                let mut complete = sector.iter().filter(|one| !one.pending);
                let zeroed = complete.all(|one| one.holds == 0 && one.version > 0);
                let (sector, allowed) = (start + index, allowed.clone());
                return Err(Mismatch { sector, got, allowed, zeroed });
            }
            // Zeroes may be those of several, and some of these be overwritten since the read was issued.
            let sources = allowed.iter().filter(|one| **one == got).count();
            let seen = sector.iter().find(|one| one.holds == got).map(|one| one.version);
            if let (Some(version), 1) = (seen, sources) {
                settle(sector, version);
            }
        }
        Ok(())
    }
}

/// `version` is known to have taken effect.
fn settle(sector: &mut Vec<Candidate>, version: Version) {
    let Some(candidate) = sector.iter_mut().find(|one| one.version == version) else { return };
    if candidate.before.is_empty() {
        return;
    }
    let before = std::mem::take(&mut candidate.before);
    sector.retain(|one| !before.contains(&one.version));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn data(version: Version) -> [Version; BUFFER_SECTORS] {
        [version; BUFFER_SECTORS]
    }

    #[test]
    fn a_completed_write_hides_what_was_complete_before_it() {
        let mut register = Register::new(TargetKind::Mem);
        let first = register.write_begins(0, 1, false);
        register.write_ends(first, 0, 1, true);
        let allowed = register.read_begins(0, 1);
        assert!(register.read_ends(&allowed, 0, &data(first)).is_ok());
        assert!(register.read_ends(&allowed, 0, &data(0)).is_err());
    }

    #[test]
    fn concurrent_writes_may_land_in_any_order_until_one_is_seen() {
        let mut register = Register::new(TargetKind::Mem);
        let first = register.write_begins(0, 1, false);
        let second = register.write_begins(0, 1, false);
        register.write_ends(second, 0, 1, true);
        register.write_ends(first, 0, 1, true);
        for version in [first, second] {
            let allowed = register.read_begins(0, 1);
            assert!(register.clone().read_ends(&allowed, 0, &data(version)).is_ok());
            assert!(register.clone().read_ends(&allowed, 0, &data(0)).is_err());
        }
    }

    #[test]
    fn a_failed_write_may_be_seen_and_then_stays() {
        let mut register = Register::new(TargetKind::Mem);
        let first = register.write_begins(0, 1, false);
        register.write_ends(first, 0, 1, false);
        let allowed = register.read_begins(0, 1);
        assert!(register.clone().read_ends(&allowed, 0, &data(0)).is_ok());
        assert!(register.read_ends(&allowed, 0, &data(first)).is_ok());
        let allowed = register.read_begins(0, 1);
        assert!(register.read_ends(&allowed, 0, &data(0)).is_err(), "it was seen already");
    }

    #[test]
    fn zeroes_that_were_there_before_say_nothing_of_those_that_are_under_way() {
        let mut register = Register::new(TargetKind::Mem);
        let write = register.write_begins(0, 1, false);
        let mut allowed = register.read_begins(0, 1);
        register.write_ends(write, 0, 1, true);
        let zeroes = register.write_begins(0, 1, true);
        allowed[0].push(0);
        assert!(register.read_ends(&allowed, 0, &data(0)).is_ok(), "from before the write");
        for version in [0, write] {
            let allowed = register.read_begins(0, 1);
            assert!(register.clone().read_ends(&allowed, 0, &data(version)).is_ok());
        }
        register.write_ends(zeroes, 0, 1, true);
        let allowed = register.read_begins(0, 1);
        assert!(register.read_ends(&allowed, 0, &data(write)).is_err());
    }

    #[test]
    fn zeroes_hide_what_was_there_and_a_discard_may_leave_it() {
        let mut register = Register::new(TargetKind::Mem);
        let first = register.write_begins(0, 1, false);
        register.write_ends(first, 0, 1, true);
        let mut discarded = register.clone();
        let zeroes = register.write_begins(0, 1, true);
        register.write_ends(zeroes, 0, 1, true);
        let allowed = register.read_begins(0, 1);
        assert!(register.clone().read_ends(&allowed, 0, &data(0)).is_ok());
        let wrong = register.read_ends(&allowed, 0, &data(first)).expect_err("it was overwritten");
        assert!(wrong.zeroed, "{wrong:?}");
        let discard = discarded.write_begins(0, 1, true);
        discarded.write_ends(discard, 0, 1, false);
        for version in [0, first] {
            let allowed = discarded.read_begins(0, 1);
            assert!(discarded.clone().read_ends(&allowed, 0, &data(version)).is_ok());
        }
    }
}
