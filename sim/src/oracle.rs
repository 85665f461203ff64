//! The data oracle (O5): every sector is a linearizable register of versions.
//!
//! A write takes effect at some moment between its issue and its completion; one that failed may have taken effect or
//! not. So a sector has a set of versions that a read may return. A completed write removes what was
//! complete before it was issued; so does a read that returns it.

use crate::config::TargetKind;
use crate::world::{BUFFER_SECTORS, DEVICE_SECTORS, Version};

/// A version that a sector may hold.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct Candidate {
    version: Version,
    /// Its write is not complete.
    pending: bool,
    /// What was complete when it was issued: overwritten as soon as this one is known to have taken effect.
    before: Vec<Version>,
}

/// What each sector of the device may hold.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Register {
    sectors: Vec<Vec<Candidate>>,
    last: Version,
    /// The target forgets writes: only zeroes may be read.
    forgets: bool,
}

/// For each sector of a read, what it may return.
pub(crate) type Allowed = Vec<Vec<Version>>;

impl Register {
    pub(crate) fn new(target: TargetKind) -> Self {
        let blank = Candidate { version: 0, pending: false, before: Vec::new() };
        Self {
            sectors: vec![vec![blank]; DEVICE_SECTORS],
            last: 0,
            forgets: target == TargetKind::Null,
        }
    }

    /// A write is issued. Returns its version.
    pub(crate) fn write_begins(&mut self, start: usize, sectors: usize) -> Version {
        self.last += 1;
        let version = self.last;
        if !self.forgets {
            for sector in &mut self.sectors[start..start + sectors] {
                let before = sector
                    .iter()
                    .filter(|candidate| !candidate.pending)
                    .map(|candidate| candidate.version)
                    .collect();
                sector.push(Candidate { version, pending: true, before });
            }
        }
        version
    }

    /// A write is complete.
    pub(crate) fn write_ends(&mut self, version: Version, start: usize, sectors: usize, ok: bool) {
        if self.forgets {
            return;
        }
        for sector in &mut self.sectors[start..start + sectors] {
            if let Some(candidate) = sector.iter_mut().find(|one| one.version == version) {
                candidate.pending = false;
            }
            if ok {
                settle(sector, version);
            }
        }
    }

    /// A read is issued.
    pub(crate) fn read_begins(&self, start: usize, sectors: usize) -> Allowed {
        self.sectors[start..start + sectors]
            .iter()
            .map(|sector| sector.iter().map(|candidate| candidate.version).collect())
            .collect()
    }

    /// Whether writes matter to reads at all.
    pub(crate) const fn remembers(&self) -> bool {
        !self.forgets
    }

    /// A read is complete. On a mismatch: the sector, what was read, what would have been right.
    pub(crate) fn read_ends(
        &mut self,
        allowed: &Allowed,
        start: usize,
        data: &[Version; BUFFER_SECTORS],
    ) -> Result<(), (usize, Version, Vec<Version>)> {
        for (index, (allowed, got)) in allowed.iter().zip(data).enumerate() {
            if !allowed.contains(got) {
                return Err((start + index, *got, allowed.clone()));
            }
            settle(&mut self.sectors[start + index], *got);
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
        let first = register.write_begins(0, 1);
        register.write_ends(first, 0, 1, true);
        let allowed = register.read_begins(0, 1);
        assert!(register.read_ends(&allowed, 0, &data(first)).is_ok());
        assert!(register.read_ends(&allowed, 0, &data(0)).is_err());
    }

    #[test]
    fn concurrent_writes_may_land_in_any_order_until_one_is_seen() {
        let mut register = Register::new(TargetKind::Mem);
        let first = register.write_begins(0, 1);
        let second = register.write_begins(0, 1);
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
        let first = register.write_begins(0, 1);
        register.write_ends(first, 0, 1, false);
        let allowed = register.read_begins(0, 1);
        assert!(register.clone().read_ends(&allowed, 0, &data(0)).is_ok());
        assert!(register.read_ends(&allowed, 0, &data(first)).is_ok());
        let allowed = register.read_begins(0, 1);
        assert!(register.read_ends(&allowed, 0, &data(0)).is_err(), "it was seen already");
    }
}
