//! Hunting: many seeds of one configuration, on as many threads as there are, each run by itself single-threaded.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::config::Config;
use crate::drivers::{Choice, Recorder};
use crate::hazards::Hazard;
use crate::outcome::{Outcome, Verdict};
use crate::run::run;
use crate::shard::Shard;
use crate::strategy::Strategy;
use crate::swarm::Swarm;

/// How far to hunt.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Extent {
    /// This many seeds.
    Seeds(u64),
    /// As many seeds as fit into this time.
    Time(Duration),
}

/// What to hunt, and how.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Hunt {
    /// The configuration; its `timeline` is not looked at.
    pub config: Config,
    /// How schedules are chosen.
    pub strategy: Strategy,
    /// Whether each run gets a configuration of its own, and what it may vary.
    pub swarm: Option<Swarm>,
    /// The first seed.
    pub first_seed: u64,
    /// How far.
    pub extent: Extent,
    /// Which of the seeds are hunted here. With [`Extent::Seeds`] all shards together hunt that many.
    pub shard: Shard,
    /// Threads, at least 1.
    pub jobs: usize,
    /// Whether to go on after the first finding.
    pub keep_going: bool,
    /// Whether runs that met a hazard of their kernel ([`Hazard`]) are counted apart, and are no findings.
    pub known_hazards: bool,
}

impl Hunt {
    /// Random choices from seed 0 on, on one thread, until something is found.
    pub const fn new(config: Config, extent: Extent) -> Self {
        Self {
            config,
            strategy: Strategy::Random,
            swarm: None,
            first_seed: 0,
            extent,
            shard: Shard::WHOLE,
            jobs: 1,
            keep_going: false,
            known_hazards: false,
        }
    }
}

/// A run that was not clean.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Finding {
    /// Its configuration.
    pub config: Config,
    /// Its seed.
    pub seed: u64,
    /// Its choices.
    pub choices: Vec<Choice>,
    /// What it came to, without a timeline.
    pub outcome: Outcome,
}

/// What a hunt came to.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Bag {
    /// Runs made. With a finding and without `keep_going`: the runs of the seeds up to the finding's, whatever the jobs.
    pub schedules: u64,
    /// Steps of every run made, also of those that other threads were in when the finding came.
    pub steps: u64,
    /// The finding with the lowest seed of each verdict and oracle, by seed.
    pub findings: Vec<Finding>,
    /// How many runs were not clean, without those of `hazards`.
    pub found: u64,
    /// How many runs met which hazard, where those are counted apart. Without `keep_going` also of seeds beyond the finding's.
    pub hazards: BTreeMap<Hazard, u64>,
    /// Ended by the stop flag.
    pub interrupted: bool,
}

/// Hunts, up to the largest seed there is. `progress` is told the runs so far, from time to time; `stop` ends the hunt early. For a number of seeds
/// the findings do not depend on `jobs`: the lowest seed counts.
pub fn hunt(hunt: &Hunt, stop: &AtomicBool, progress: &(dyn Fn(u64) + Sync)) -> Bag {
    hunt_telling(hunt, stop, progress, &|_| {})
}

/// As [`hunt`]; `found` is told at once of every finding that is the first of its verdict and oracle, or has a lower seed than those before.
pub fn hunt_telling(
    hunt: &Hunt,
    stop: &AtomicBool,
    progress: &(dyn Fn(u64) + Sync),
    tell: &(dyn Fn(&Finding) + Sync),
) -> Bag {
    let started = Instant::now();
    let next = AtomicU64::new(0);
    let done = AtomicU64::new(0);
    // The lowest of this shard's seeds with a finding so far, counted from 0; those beyond it need not be run.
    let lowest = AtomicU64::new(u64::MAX);
    let results: Mutex<BTreeMap<(Verdict, String), Finding>> = Mutex::new(BTreeMap::new());
    let found = AtomicU64::new(0);
    let hazards: Mutex<BTreeMap<Hazard, u64>> = Mutex::default();
    let steps = AtomicU64::new(0);
    let limit = match hunt.extent {
        Extent::Seeds(seeds) => hunt.shard.seeds(seeds),
        Extent::Time(_) => u64::MAX,
    };
    // Seeds end with the largest; they do not begin again at 0, or the lowest would not be the first.
    let seed_of = |nth: u64| hunt.first_seed.checked_add(hunt.shard.offset(nth)?);
    let base = Config { timeline: false, ..hunt.config.clone() };
    let prepared = hunt.strategy.prepare(&base);
    let work = || {
        let mut own_steps = 0;
        loop {
            let nth = next.fetch_add(1, Ordering::Relaxed);
            let out_of_time =
                matches!(hunt.extent, Extent::Time(time) if started.elapsed() >= time);
            if nth >= limit
                || out_of_time
                || stop.load(Ordering::Relaxed)
                || (!hunt.keep_going && nth > lowest.load(Ordering::Relaxed))
            {
                break;
            }
            let Some(seed) = seed_of(nth) else { break };
            let drawn = hunt.swarm.as_ref().map(|swarm| swarm.draw(&base, seed));
            let config = drawn.as_ref().unwrap_or(&base);
            let mut recorder = Recorder::new(prepared.source(seed));
            let outcome = run(config, &mut recorder);
            own_steps += outcome.steps;
            let runs = done.fetch_add(1, Ordering::Relaxed) + 1;
            if runs.is_multiple_of(64) {
                progress(runs);
            }
            if outcome.verdict == Verdict::Clean {
                continue;
            }
            if hunt.known_hazards
                && let Some(hazard) = Hazard::met(config, &recorder.choices, &outcome)
            {
                let mut hazards = hazards.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                *hazards.entry(hazard).or_default() += 1;
                continue;
            }
            found.fetch_add(1, Ordering::Relaxed);
            lowest.fetch_min(nth, Ordering::Relaxed);
            let key = (outcome.verdict, outcome.oracle.clone());
            let mut results = results.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            let better = results.get(&key).is_none_or(|known| seed < known.seed);
            if better {
                let (config, choices) = (config.clone(), recorder.choices);
                let finding = Finding { config, seed, choices, outcome };
                tell(&finding);
                results.insert(key, finding);
            }
        }
        steps.fetch_add(own_steps, Ordering::Relaxed);
    };
    std::thread::scope(|scope| {
        for _ in 0..hunt.jobs.max(1) {
            scope.spawn(work);
        }
    });
    let results = results.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    let mut findings: Vec<Finding> = results.into_values().collect();
    findings.sort_by_key(|finding| finding.seed);
    let mut bag = Bag {
        schedules: done.into_inner(),
        steps: steps.into_inner(),
        findings,
        found: found.into_inner(),
        hazards: hazards.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner),
        interrupted: stop.load(Ordering::Relaxed),
    };
    if !hunt.keep_going {
        bag.findings.truncate(1);
        if !bag.findings.is_empty() {
            bag.schedules = lowest.into_inner().saturating_add(1);
            bag.found = 1;
        }
    }
    bag
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::specimens::Specimen;

    fn bag(first_seed: u64, seeds: u64, jobs: usize, stop: bool) -> Bag {
        let config = Specimen::named("serial-prime").config();
        let what = Hunt { first_seed, jobs, ..Hunt::new(config, Extent::Seeds(seeds)) };
        hunt(&what, &AtomicBool::new(stop), &|_| {})
    }

    #[test]
    fn seeds_end_with_the_largest() {
        for jobs in [1, 4] {
            let bag = bag(u64::MAX - 2, 50, jobs, false);
            let first = bag.findings.first().expect("every seed of it is found");
            assert_eq!((first.seed, bag.schedules), (u64::MAX - 2, 1));
        }
    }

    #[test]
    fn shards_hunt_all_seeds_once() {
        let config = Specimen::named("async-init").config();
        let shards = [1, 2, 3].map(|index| Shard::new(index, 3).expect("a shard"));
        let seeds = Mutex::new(Vec::new());
        let whole = Hunt { keep_going: true, ..Hunt::new(config, Extent::Seeds(500)) };
        let all = hunt(&whole, &AtomicBool::new(false), &|_| {});
        let mut schedules = 0;
        for shard in shards {
            let part = Hunt { shard, ..whole.clone() };
            let tell =
                |finding: &Finding| seeds.lock().expect("no test has failed").push(finding.seed);
            let bag = hunt_telling(&part, &AtomicBool::new(false), &|_| {}, &tell);
            schedules += bag.schedules;
        }
        let lowest = seeds.into_inner().expect("no test has failed").into_iter().min();
        assert_eq!((schedules, lowest), (500, all.findings.first().map(|first| first.seed)));
    }

    #[test]
    fn a_stop_before_the_first_run_shows_nothing() {
        let bag = bag(0, 50, 2, true);
        assert_eq!((bag.interrupted, bag.schedules, bag.findings.len()), (true, 0, 0));
    }
}
