//! Swarm testing: each run gets a configuration of its own, drawn from its seed.
//!
//! Groce, Zhang, Eide, Chen and Regehr, *Swarm Testing* (ISSTA 2012): a random subset of the features finds more than all of
//! them at once, because some hide what others would show. A kind of fault that is drawn gets a random weight too, as in
//! TigerBeetle's VOPR.

use std::fmt;
use std::ops::Range;

use blkproof_engine::data::DataMode;
use blkproof_engine::supervisor::Recovery;
use blkproof_engine::sys::RingMode;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

use crate::config::{Commands, Config, Faults, Memory, TargetKind};
use crate::describe::validate;

/// The stream of a seed that configurations are drawn from; the sites of choices have those from 0.
const STREAM: u64 = 1 << 32;
/// The stream of those kinds of fault that came later: what a seed draws besides them stays as it was.
const STREAM_OF_LATER_KINDS: u64 = STREAM + 1;
/// The kinds of fault that came first.
const FIRST_KINDS: usize = 12;
/// Draws after which the configuration is left as it is, but for its faults.
const DRAWS_MAX: u32 = 256;
/// How much more often than its usual rate a fault may strike.
const WEIGHT_MAX: u32 = 3;

/// A dimension of configurations that a swarm can vary.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum Dimension {
    /// 1 to 4.
    Queues,
    /// 1 to 8.
    Depth,
    /// 1 to 12.
    Requests,
    /// Every target.
    Target,
    /// Every data mode.
    Data,
    /// Commands about one tag, or many.
    Batch,
    /// Clients' own memory, or shared memory too.
    Shared,
    /// Every kind of recovery, with `restart` or without.
    Recovery,
    /// Both ring modes of queues.
    Mode,
}

impl Dimension {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::Queues,
        Self::Depth,
        Self::Requests,
        Self::Target,
        Self::Data,
        Self::Batch,
        Self::Shared,
        Self::Recovery,
        Self::Mode,
    ];

    /// The name of the option that fixes it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Queues => "queues",
            Self::Depth => "depth",
            Self::Requests => "requests",
            Self::Target => "target",
            Self::Data => "data",
            Self::Batch => "batch",
            Self::Shared => "shared",
            Self::Recovery => "recovery",
            Self::Mode => "mode",
        }
    }
}

/// What a swarm varies besides the faults: those that the configuration names, in subsets and with weights.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct Swarm {
    /// In the order in which they are drawn.
    pub free: Vec<Dimension>,
}

impl fmt::Display for Swarm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("faults")?;
        self.free.iter().try_for_each(|dimension| write!(f, ",{}", dimension.name()))
    }
}

impl Swarm {
    /// The configuration of a run. It is valid if `base` is.
    pub fn draw(&self, base: &Config, seed: u64) -> Config {
        let mut dice = Dice::new(seed, STREAM);
        let (first, later) = (0..FIRST_KINDS, FIRST_KINDS..usize::MAX);
        let mut faults = Faults::NONE;
        dice.faults(&base.faults, first, &mut faults);
        Dice::new(seed, STREAM_OF_LATER_KINDS).faults(&base.faults, later, &mut faults);
        for _ in 0..DRAWS_MAX {
            let mut config = Config { faults, ..base.clone() };
            for dimension in &self.free {
                dice.set(&mut config, *dimension);
            }
            if validate(&config).is_ok() {
                return config;
            }
        }
        Config { faults, ..base.clone() }
    }
}

struct Dice(ChaCha8Rng);

impl Dice {
    fn new(seed: u64, stream: u64) -> Self {
        let mut key = [0; 32];
        key[..8].copy_from_slice(&seed.to_le_bytes());
        let mut generator = ChaCha8Rng::from_seed(key);
        generator.set_stream(stream);
        Self(generator)
    }

    /// A number in `0..n`.
    fn below(&mut self, n: u32) -> u32 {
        ((u64::from(self.0.next_u32()) * u64::from(n)) >> 32) as u32
    }

    fn one_of<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.below(all.len() as u32) as usize]
    }

    /// Each of these kinds that there is, or not; with a rate between 1 and [`WEIGHT_MAX`] times its own.
    fn faults(&mut self, of: &Faults, kinds: Range<usize>, faults: &mut Faults) {
        for (name, rate) in of.rates().into_iter().skip(kinds.start).take(kinds.len()) {
            let (in_it, weight) =
                (self.below(2) == 1, 1 + self.below((u32::from(rate) * WEIGHT_MAX).clamp(1, 255)));
            if rate > 0 && in_it {
                *faults.rate_mut(name).expect("rates() names every kind") = weight as u8;
            }
        }
    }

    fn set(&mut self, config: &mut Config, dimension: Dimension) {
        match dimension {
            Dimension::Queues => config.queues = 1 + self.below(4) as u16,
            Dimension::Depth => config.depth = self.one_of(&[1, 2, 3, 4, 8]),
            Dimension::Requests => config.requests = 1 + self.below(12),
            Dimension::Target => {
                config.target = self.one_of(&[TargetKind::Null, TargetKind::Mem, TargetKind::File]);
            }
            Dimension::Data => {
                config.data = self.one_of(&[
                    DataMode::Copy,
                    DataMode::GetData,
                    DataMode::UserCopy,
                    DataMode::ZeroCopy,
                ]);
            }
            Dimension::Batch => {
                config.commands = self.one_of(&[Commands::Single, Commands::Batched]);
            }
            Dimension::Shared => config.memory = self.one_of(&[Memory::Own, Memory::Shared]),
            Dimension::Recovery => {
                config.recovery = self.one_of(&Recovery::ALL);
                // What was asked for stays, and rules out that there is none.
                config.restart |= self.below(2) == 1 && config.recovery != Recovery::None;
            }
            Dimension::Mode => {
                config.mode = self.one_of(&[RingMode::Default, RingMode::DeferTaskrun]);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::describe::config_lines;
    use std::collections::BTreeMap;

    #[test]
    fn every_configuration_is_valid_and_every_value_comes_up() {
        let base = Config { faults: Faults::ALL, ..Config::engine() };
        let swarm = Swarm { free: Dimension::ALL.to_vec() };
        let mut values: BTreeMap<&str, BTreeMap<String, u32>> = BTreeMap::new();
        let mut kinds: BTreeMap<&str, u32> = BTreeMap::new();
        for seed in 0..2_000 {
            let config = swarm.draw(&base, seed);
            assert_eq!(validate(&config), Ok(()), "seed {seed}");
            assert_eq!(config, swarm.draw(&base, seed), "the same seed draws the same");
            for (key, value) in config_lines(&config) {
                *values.entry(key).or_default().entry(value).or_default() += 1;
            }
            for (name, rate) in config.faults.rates() {
                *kinds.entry(name).or_default() += u32::from(rate > 0);
            }
        }
        for (name, count) in kinds {
            assert!((900..1_100).contains(&count), "{name} in {count} of 2000");
        }
        let counts = |key| values[key].len();
        let all = ["queues", "depth", "requests", "target", "data", "batch", "shared", "recovery"];
        assert_eq!(all.map(counts), [4, 5, 12, 3, 4, 2, 2, 4], "{values:?}");
        assert_eq!(["mode", "restart", "kernel", "deadlines"].map(counts), [2, 2, 1, 1]);
    }

    #[test]
    fn a_kind_that_came_later_changes_nothing_else() {
        let with = Config { faults: Faults::ALL, ..Config::engine() };
        let first = |faults: Faults| Faults { pause: 0, kill_both: 0, hold: 0, crash: 0, ..faults };
        let without = Config { faults: first(with.faults), ..with.clone() };
        let swarm = Swarm { free: Dimension::ALL.to_vec() };
        for seed in 0..100 {
            let (one, other) = (swarm.draw(&with, seed), swarm.draw(&without, seed));
            let faults = first(one.faults);
            assert_eq!(Config { faults, ..one }, other, "seed {seed}");
        }
    }

    #[test]
    fn what_is_fixed_stays_and_what_was_not_named_never_strikes() {
        let faults = Faults { kill: 3, ..Faults::NONE };
        let (recovery, restart) = (Recovery::Reissue, true);
        let base = Config { recovery, restart, faults, ..Config::engine() };
        for seed in 0..100 {
            let one = Swarm::default().draw(&base, seed);
            assert_eq!(Config { faults, ..one.clone() }, base);
            assert_eq!(Faults { kill: 0, ..one.faults }, Faults::NONE);
            let free = vec![Dimension::Recovery];
            assert!(Swarm { free }.draw(&base, seed).restart, "what was asked for stays");
        }
    }
}
