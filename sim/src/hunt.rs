//! Hunting: many seeds of one configuration, on as many threads as there are, each run by itself single-threaded.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::config::Config;
use crate::drivers::{Choice, Random, Recorder};
use crate::outcome::{Outcome, Verdict};
use crate::run::run;

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
    /// The first seed.
    pub first_seed: u64,
    /// How far.
    pub extent: Extent,
    /// Threads, at least 1.
    pub jobs: usize,
    /// Whether to go on after the first finding.
    pub keep_going: bool,
}

/// A run that was not clean.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Finding {
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
    /// How many runs were not clean.
    pub found: u64,
    /// Ended by the stop flag.
    pub interrupted: bool,
}

/// Hunts, up to the largest seed there is. `progress` is told the runs so far, from time to time; `stop` ends the hunt early. For a number of seeds
/// the findings do not depend on `jobs`: the lowest seed counts.
pub fn hunt(hunt: &Hunt, stop: &AtomicBool, progress: &(dyn Fn(u64) + Sync)) -> Bag {
    let started = Instant::now();
    let next = AtomicU64::new(0);
    let done = AtomicU64::new(0);
    // The lowest offset with a finding so far; offsets beyond it need not be run.
    let lowest = AtomicU64::new(u64::MAX);
    let results: Mutex<BTreeMap<(Verdict, String), Finding>> = Mutex::new(BTreeMap::new());
    let found = AtomicU64::new(0);
    let steps = AtomicU64::new(0);
    let limit = match hunt.extent {
        Extent::Seeds(seeds) => seeds,
        Extent::Time(_) => u64::MAX,
    }
    // Seeds end with the largest; they do not begin again at 0, or the lowest would not be the first.
    .min((u64::MAX - hunt.first_seed).saturating_add(1));
    let config = Config { timeline: false, ..hunt.config.clone() };
    let work = || {
        let mut own_steps = 0;
        loop {
            let offset = next.fetch_add(1, Ordering::Relaxed);
            let out_of_time =
                matches!(hunt.extent, Extent::Time(time) if started.elapsed() >= time);
            if offset >= limit
                || out_of_time
                || stop.load(Ordering::Relaxed)
                || (!hunt.keep_going && offset > lowest.load(Ordering::Relaxed))
            {
                break;
            }
            let seed = hunt.first_seed + offset;
            let mut recorder = Recorder::new(Random::new(seed));
            let outcome = run(&config, &mut recorder);
            own_steps += outcome.steps;
            let runs = done.fetch_add(1, Ordering::Relaxed) + 1;
            if runs.is_multiple_of(64) {
                progress(runs);
            }
            if outcome.verdict == Verdict::Clean {
                continue;
            }
            found.fetch_add(1, Ordering::Relaxed);
            lowest.fetch_min(offset, Ordering::Relaxed);
            let key = (outcome.verdict, outcome.oracle.clone());
            let mut results = results.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            let better = results.get(&key).is_none_or(|known| seed < known.seed);
            if better {
                results.insert(key, Finding { seed, choices: recorder.choices, outcome });
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
        interrupted: stop.load(Ordering::Relaxed),
    };
    if !hunt.keep_going {
        bag.findings.truncate(1);
        if let Some(first) = bag.findings.first() {
            bag.schedules = (first.seed - hunt.first_seed).saturating_add(1);
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
        let what = Hunt {
            config: Specimen::SerialPrime.config(),
            first_seed,
            extent: Extent::Seeds(seeds),
            jobs,
            keep_going: false,
        };
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
    fn a_stop_before_the_first_run_shows_nothing() {
        let bag = bag(0, 50, 2, true);
        assert_eq!((bag.interrupted, bag.schedules, bag.findings.len()), (true, 0, 0));
    }
}
