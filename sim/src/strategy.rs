//! Which source of choices a seed stands for.

use std::fmt;
use std::str::FromStr;

use crate::choices::{Choices, Site};
use crate::config::Config;
use crate::drivers::{Random, Recorder};
use crate::pct::Pct;
use crate::run::run;

/// The depth of [`Strategy::Pct`] if none is named: most bugs take two orderings or three.
const DEPTH: u8 = 3;
/// The largest depth: beyond it the strategy is a slow way of choosing at random.
const DEPTH_MAX: u8 = 32;
/// Runs that tell how long a run of a configuration is.
const PROBES: u64 = 8;

/// How schedules are chosen.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum Strategy {
    /// Each choice by itself, from the seed.
    #[default]
    Random,
    /// Priorities that change `depth - 1` times; see [`Pct`].
    Pct {
        /// Orderings that a bug takes, at least 1.
        depth: u8,
    },
}

impl fmt::Display for Strategy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Random => f.write_str("random"),
            Self::Pct { depth } => write!(f, "pct={depth}"),
        }
    }
}

impl FromStr for Strategy {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let expected = || format!("expected random, pct, or pct=1 to pct={DEPTH_MAX}");
        match text.split_once('=') {
            None if text == "random" => Ok(Self::Random),
            None if text == "pct" => Ok(Self::Pct { depth: DEPTH }),
            Some(("pct", depth)) => match depth.parse() {
                Ok(depth) if (1..=DEPTH_MAX).contains(&depth) => Ok(Self::Pct { depth }),
                Ok(_) | Err(_) => Err(expected()),
            },
            None | Some(_) => Err(expected()),
        }
    }
}

/// A strategy for the runs of one configuration.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Prepared {
    strategy: Strategy,
    /// Decisions about who moves next, in a run; at least 1. Only looked at by strategies that change something within it.
    length: u64,
}

impl Strategy {
    /// Prepares for runs of this configuration. The same configuration gives the same seeds the same meaning: how long a run is, is estimated
    /// from runs of it with fixed seeds, not from whatever a hunt has run before.
    pub fn prepare(self, config: &Config) -> Prepared {
        let length = match self {
            Self::Random => 1,
            Self::Pct { .. } => decisions(config),
        };
        Prepared { strategy: self, length }
    }
}

/// The decisions about who moves next in the longest of a few random runs.
fn decisions(config: &Config) -> u64 {
    let config = Config { timeline: false, ..config.clone() };
    let of = |seed| {
        let mut recorder = Recorder::new(Random::new(seed));
        run(&config, &mut recorder);
        let schedule = |choice: &&crate::drivers::Choice| choice.site == Site::Schedule;
        recorder.choices.iter().filter(schedule).count() as u64
    };
    (0..PROBES).map(of).max().unwrap_or(1).max(1)
}

impl Prepared {
    /// The choices of a seed.
    pub fn source(&self, seed: u64) -> Source {
        match self.strategy {
            Strategy::Random => Source::Random(Random::new(seed)),
            Strategy::Pct { depth } => Source::Pct(Pct::new(seed, depth, self.length)),
        }
    }
}

/// The choices of a seed under a strategy.
#[derive(Clone, Debug)]
pub enum Source {
    /// Of [`Strategy::Random`].
    Random(Random),
    /// Of [`Strategy::Pct`].
    Pct(Pct),
}

impl Choices for Source {
    fn choose(&mut self, site: Site, n: u32) -> u32 {
        match self {
            Self::Random(source) => source.choose(site, n),
            Self::Pct(source) => source.choose(site, n),
        }
    }

    fn schedule(&mut self, n: u32, source: &dyn Fn(u32) -> u64) -> u32 {
        match self {
            Self::Random(random) => random.schedule(n, source),
            Self::Pct(pct) => pct.schedule(n, source),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_read_back() {
        for strategy in [Strategy::Random, Strategy::Pct { depth: 1 }, Strategy::Pct { depth: 32 }]
        {
            assert_eq!(strategy.to_string().parse(), Ok(strategy));
        }
        assert_eq!("pct".parse(), Ok(Strategy::Pct { depth: DEPTH }));
        for wrong in ["", "Random", "pct=", "pct=0", "pct=33", "pct=-1", "random=1", "pct 3"] {
            assert!(wrong.parse::<Strategy>().is_err(), "{wrong}");
        }
    }
}
