//! The host loses power: what the file behind the device then holds, and what it must hold (O6).
//!
//! At every promise O6 looks at what a crash in that moment would surely leave. Here the crash happens, at some later moment, and leaves what a
//! real one may: of each sector what is durable, or anything that was written to it since, or is on its way to it. A write is
//! torn where a part of its sectors got there. What the file may hold is known from the clients alone: they are told by completions what is
//! durable, and whatever they began to write since may be there as well. Nothing of the server or of the disk's bookkeeping goes into it.
//!
//! The run ends with the crash.

use blkproof_engine::sys::BackendOp;

use crate::choices::Site;
use crate::config::{Config, TargetKind};
use crate::disk::Operation;
use crate::oracle::{ANY, Allowed};
use crate::run::{Run, actor};
use crate::world::{DEVICE_SECTORS, SECTOR, SECTORS_MAX, Version, World};

/// What a crash may leave, as the clients know it.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Promises {
    /// For each sector: one of these, [`ANY`] for anything.
    sectors: Vec<Vec<Version>>,
    /// What a crash leaves, or may leave, is not what it was when one could last happen.
    changed: bool,
}

impl Promises {
    /// Of a run whose host may lose power, with a file behind its device. It is all zeroes, and durable.
    pub(crate) fn new(config: &Config) -> Option<Self> {
        let crashes = config.faults.crash > 0 && config.target == TargetKind::File;
        crashes.then(|| Self { sectors: vec![vec![0]; SECTORS_MAX], changed: false })
    }

    /// A client begins to write this to these sectors: from here on a crash may leave it.
    pub(crate) fn write_begins(&mut self, version: Version, start: usize, sectors: usize) {
        for sector in &mut self.sectors[start..start + sectors] {
            if !sector.contains(&version) {
                sector.push(version);
            }
        }
    }

    /// Clients were told that these sectors are durable, each as one of what is allowed of it.
    pub(crate) fn are_given(&mut self, start: usize, allowed: &Allowed) {
        self.changed |= !allowed.is_empty();
        for (sector, allowed) in self.sectors[start..].iter_mut().zip(allowed) {
            if allowed.contains(&ANY) {
                continue;
            }
            if sector.contains(&ANY) {
                sector.clone_from(allowed);
            } else {
                sector.retain(|version| allowed.contains(version));
            }
        }
    }

    /// The sectors from here on are outside the device: nobody knows what they hold.
    pub(crate) fn forget_from(&mut self, first: usize) {
        for sector in self.sectors.iter_mut().skip(first) {
            *sector = vec![ANY];
        }
    }

    fn allow(&self, sector: usize, version: Version) -> bool {
        self.sectors[sector].contains(&version) || self.sectors[sector].contains(&ANY)
    }
}

/// What was written to the sectors of a file and is not durable yet.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Volatile(Vec<Vec<Version>>);

impl Volatile {
    pub(crate) fn new() -> Self {
        Self(vec![Vec::new(); DEVICE_SECTORS])
    }

    pub(crate) fn grow(&mut self, sectors: usize) {
        self.0.resize(self.0.len().max(sectors), Vec::new());
    }

    /// These were written from a sector on.
    pub(crate) fn written(&mut self, start: usize, data: &[Version]) {
        for (sector, version) in self.0[start..].iter_mut().zip(data) {
            if !sector.contains(version) {
                sector.push(*version);
            }
        }
    }

    /// So many sectors are durable as they are.
    pub(crate) fn durable(&mut self, start: usize, sectors: usize) {
        self.0[start..start + sectors].iter_mut().for_each(Vec::clear);
    }
}

impl World {
    /// Something happened to the disk, or is about to.
    pub(crate) fn disk_changes(&mut self) {
        if let Some(promises) = &mut self.promises {
            promises.changed = true;
        }
    }

    /// Whether a loss of power would find something that the last opportunity did not.
    pub(crate) fn power_can_fail(&mut self) -> bool {
        self.promises.as_mut().is_some_and(|promises| std::mem::take(&mut promises.changed))
    }

    /// The host loses power. Nothing is left but the disk.
    pub(crate) fn power_fails(&mut self, run: &mut Run<'_>) {
        run.note(actor::KERNEL, || "the machine loses power".into());
        run.crashed = true;
        for sector in 0..self.disk.sectors.len() {
            let may = self.may_be_left(sector);
            let left = may[run.choose(Site::Fault, may.len() as u32) as usize];
            let Some(promises) = &self.promises else { return };
            if !promises.allow(sector, left) {
                let text = format!(
                    "the machine lost power, and sector {sector} holds version {left}; clients were told that it is durable as one of {:?}",
                    promises.sectors[sector]
                );
                run.violate("O6", text);
                return;
            }
        }
    }

    /// What a crash may leave of a sector; first what is durable.
    fn may_be_left(&self, sector: usize) -> Vec<Version> {
        let mut may = vec![self.disk.durable[sector]];
        may.extend(&self.disk.volatile.0[sector]);
        may.extend(self.disk.in_flight.iter().filter_map(|one| self.on_its_way(one, sector)));
        let mut different = Vec::with_capacity(may.len());
        for version in may {
            if !different.contains(&version) {
                different.push(version);
            }
        }
        different
    }

    /// What an operation that is under way is about to write to a sector.
    fn on_its_way(&self, operation: &Operation, sector: usize) -> Option<Version> {
        let at = sector as u64 * SECTOR;
        match operation.op {
            BackendOp::Write { offset, len, .. } => {
                let within = (at >= offset).then(|| at - offset)?;
                (within < u64::from(len)).then_some(())?;
                self.written_by(operation).get((within / SECTOR) as usize).copied()
            }
            BackendOp::PunchHole { offset, len } | BackendOp::ZeroRange { offset, len } => {
                (offset..offset + len).contains(&at).then_some(0)
            }
            BackendOp::Read { .. } | BackendOp::Sync => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Faults;

    fn promises() -> Promises {
        let faults = Faults { crash: 1, ..Faults::NONE };
        let config = Config { target: TargetKind::File, faults, ..Config::engine() };
        Promises::new(&config).expect("a file whose host may lose power")
    }

    #[test]
    fn what_was_not_promised_may_be_lost_and_what_was_not_written_is_never_there() {
        let mut promises = promises();
        promises.write_begins(1, 3, 2);
        for (version, allowed) in [(0, true), (1, true), (2, false)] {
            assert_eq!(promises.allow(3, version), allowed, "version {version}");
        }
        assert!(!promises.allow(5, 1), "it was written elsewhere");
    }

    #[test]
    fn a_promise_holds_until_something_else_is_written() {
        let mut promises = promises();
        promises.write_begins(1, 0, 1);
        promises.are_given(0, &vec![vec![1]]);
        assert!(promises.allow(0, 1) && !promises.allow(0, 0));
        promises.write_begins(2, 0, 1);
        assert!(promises.allow(0, 1) && promises.allow(0, 2) && !promises.allow(0, 0));
        // An older flush that allowed more takes nothing back.
        promises.are_given(0, &vec![vec![0, 1, 2]]);
        assert!(!promises.allow(0, 0));
    }

    #[test]
    fn outside_the_device_anything_may_be() {
        let mut promises = promises();
        promises.forget_from(8);
        assert!(promises.allow(8, 77) && !promises.allow(7, 77));
        promises.are_given(0, &vec![vec![0, 3]; 9]);
        assert!(!promises.allow(8, 77) && promises.allow(8, 3));
    }
}
