//! The complete loop: the n-th opportunity of every kind of fault strikes, for every n, alone or followed by a second one.
//!
//! Random faults leave to chance which call of many fails. Here a run of one seed is repeated, and each time one opportunity more goes
//! by before the fault strikes, until a run has no more of them (as SQLite's tests do with allocations and I/O). The prefix of all
//! these runs is the same, so nothing is left out.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::choices::{Choices, Site};
use crate::config::{Config, Faults};
use crate::drivers::{Random, Recorder};
use crate::hunt::Finding;
use crate::outcome::Verdict;
use crate::run::run;
use crate::shard::Shard;

/// The rates of the first fault and of the second. A source of choices knows an opportunity's kind by its rate, and whoever answers with the
/// last alternative strikes at either.
const RATES: [u8; 2] = [255, 254];

/// What to go through.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Loop {
    /// The configuration. Of its faults, every kind that has a rate is gone through; the rates mean nothing.
    pub config: Config,
    /// Whether a second fault follows the first.
    pub pairs: bool,
    /// The first seed.
    pub first_seed: u64,
    /// How many seeds: each is all other choices of a run.
    pub seeds: u64,
    /// After which time to stop, complete or not.
    pub time: Option<Duration>,
    /// Which of the parts are gone through here.
    pub shard: Shard,
    /// Threads, at least 1.
    pub jobs: usize,
    /// Whether to go on after the first finding.
    pub keep_going: bool,
}

/// One part: a seed, and one kind of fault or two.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Part {
    /// The seed.
    pub seed: u64,
    /// The kind that strikes first.
    pub first: &'static str,
    /// The kind that follows.
    pub second: Option<&'static str>,
    /// Opportunities of the first kind that were struck at, one in each run.
    pub opportunities: u64,
    /// Runs in which all of its faults struck. With one kind: each opportunity, times the ways in which the fault can strike there. With
    /// two: each opportunity of the first, times those of the second that come after it.
    pub runs: u64,
    /// All opportunities were gone through.
    pub complete: bool,
}

/// A run that was not clean, and which faults struck in it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Struck {
    /// The run.
    pub finding: Finding,
    /// Which opportunities, in words.
    pub by: String,
}

/// What it came to.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Covered {
    /// Every part of this shard, in order, begun or not.
    pub parts: Vec<Part>,
    /// Runs made.
    pub schedules: u64,
    /// Steps of all of them.
    pub steps: u64,
    /// The first finding of each verdict and oracle, in the order of the parts.
    pub findings: Vec<Struck>,
    /// How many runs were not clean.
    pub found: u64,
    /// Ended by the stop flag.
    pub interrupted: bool,
}

impl Covered {
    /// Whether every opportunity of every part was gone through.
    pub fn complete(&self) -> bool {
        self.parts.iter().all(|part| part.complete)
    }
}

/// A fault of the plan.
#[derive(Clone, Copy, Debug)]
struct Strike {
    rate: u8,
    /// Opportunities that go by before, since the fault before it or the start.
    nth: u64,
}

/// Strikes where it was told, and nowhere else; every other choice is the seed's.
#[derive(Clone, Debug)]
struct Striker {
    random: Random,
    plan: Vec<Strike>,
    struck: usize,
    passed: u64,
    /// In which way a fault strikes, if a choice of that follows at once; otherwise the seed says.
    way: Option<u32>,
    /// A fault has just struck.
    just: bool,
    /// In how many ways the last one could.
    ways: u32,
}

impl Striker {
    fn new(seed: u64, plan: Vec<Strike>, way: Option<u32>) -> Self {
        let random = Random::new(seed);
        Self { random, plan, struck: 0, passed: 0, way, just: false, ways: 1 }
    }
}

impl Choices for Striker {
    fn choose(&mut self, site: Site, n: u32) -> u32 {
        let drawn = self.random.choose(site, n);
        let how = matches!(site, Site::Fault | Site::Submit | Site::Delay);
        if std::mem::take(&mut self.just) && how {
            self.ways = n;
            return self.way.map_or(drawn, |way| way.min(n - 1));
        }
        drawn
    }

    fn fault(&mut self, rate: u8) -> u32 {
        self.just = false;
        let Some(next) = self.plan.get(self.struck).filter(|next| next.rate == rate) else {
            return 0;
        };
        if self.passed < next.nth {
            self.passed += 1;
            return 0;
        }
        (self.struck, self.passed) = (self.struck + 1, 0);
        (self.just, self.ways) = (true, 1);
        255
    }
}

/// What all threads share.
struct Work<'a> {
    what: &'a Loop,
    stop: &'a AtomicBool,
    progress: &'a (dyn Fn(u64) + Sync),
    tell: &'a (dyn Fn(&Finding) + Sync),
    started: Instant,
    /// The first part with a finding so far; later ones need not be run.
    lowest: AtomicUsize,
    schedules: AtomicU64,
    steps: AtomicU64,
    found: AtomicU64,
    findings: Mutex<BTreeMap<(Verdict, String), (usize, Struck)>>,
}

/// Whether to go on.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Next {
    On,
    End,
}

impl Work<'_> {
    fn over(&self, index: usize) -> bool {
        self.stop.load(Ordering::Relaxed)
            || self.what.time.is_some_and(|time| self.started.elapsed() >= time)
            || (!self.what.keep_going && self.lowest.load(Ordering::Relaxed) < index)
    }

    /// One run. How many of the plan's faults struck, and in how many ways the last of them could have.
    fn run(
        &self,
        (index, part): (usize, &Part),
        config: &Config,
        plan: &[Strike],
        way: Option<u32>,
    ) -> (usize, u32, Next) {
        let mut recorder = Recorder::new(Striker::new(part.seed, plan.to_vec(), way));
        let outcome = run(config, &mut recorder);
        let runs = self.schedules.fetch_add(1, Ordering::Relaxed) + 1;
        if runs.is_multiple_of(64) {
            (self.progress)(runs);
        }
        self.steps.fetch_add(outcome.steps, Ordering::Relaxed);
        let clean = outcome.verdict == Verdict::Clean;
        if !clean {
            self.found.fetch_add(1, Ordering::Relaxed);
            self.lowest.fetch_min(index, Ordering::Relaxed);
            let key = (outcome.verdict, outcome.oracle.clone());
            let mut findings =
                self.findings.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            if findings.get(&key).is_none_or(|(known, _)| index < *known) {
                let (config, choices) = (config.clone(), recorder.choices.clone());
                let finding = Finding { config, seed: part.seed, choices, outcome };
                (self.tell)(&finding);
                let by = part.words(plan, way);
                findings.insert(key, (index, Struck { finding, by }));
            }
        }
        let striker = recorder.into_source();
        let next = if clean || self.what.keep_going { Next::On } else { Next::End };
        (striker.struck, striker.ways, next)
    }

    fn go_through(&self, index: usize, part: &mut Part) {
        let mut faults = Faults::NONE;
        let kinds = [Some(part.first), part.second.filter(|second| *second != part.first)];
        for (kind, rate) in kinds.into_iter().zip(RATES) {
            if let Some(slot) = kind.and_then(|kind| faults.rate_mut(kind)) {
                *slot = rate;
            }
        }
        let config = Config { faults, timeline: false, ..self.what.config.clone() };
        match part.second {
            None => self.alone(index, part, &config),
            Some(second) => {
                let rate = if second == part.first { RATES[0] } else { RATES[1] };
                self.followed(index, part, &config, rate);
            }
        }
    }

    /// Every opportunity, in every way.
    fn alone(&self, index: usize, part: &mut Part, config: &Config) {
        for nth in 0.. {
            let plan = [Strike { rate: RATES[0], nth }];
            let mut way = 0;
            loop {
                if self.over(index) {
                    return;
                }
                let (struck, ways, next) = self.run((index, part), config, &plan, Some(way));
                if struck == 0 {
                    part.complete = true;
                    return;
                }
                part.runs += 1;
                way += 1;
                if next == Next::End {
                    return;
                }
                if way >= ways {
                    break;
                }
            }
            part.opportunities += 1;
        }
    }

    /// Every opportunity, and after it every one of the second kind.
    fn followed(&self, index: usize, part: &mut Part, config: &Config, rate: u8) {
        for nth in 0.. {
            for after in 0.. {
                if self.over(index) {
                    return;
                }
                let plan = [Strike { rate: RATES[0], nth }, Strike { rate, nth: after }];
                let (struck, _, next) = self.run((index, part), config, &plan, None);
                if struck == 0 {
                    part.complete = true;
                    return;
                }
                part.runs += u64::from(struck == 2);
                if next == Next::End {
                    return;
                }
                if struck == 1 {
                    break;
                }
            }
            part.opportunities += 1;
        }
    }
}

impl Part {
    fn words(&self, plan: &[Strike], way: Option<u32>) -> String {
        let mut text = format!("fault {} at its opportunity {}", self.first, plan[0].nth + 1);
        if let Some(way) = way {
            let _ = write!(text, " (way {})", way + 1);
        }
        if let (Some(second), Some(strike)) = (self.second, plan.get(1)) {
            let _ = write!(text, ", then {second} at its opportunity {}", strike.nth + 1);
        }
        text
    }
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.first)?;
        self.second.map_or(Ok(()), |second| write!(f, ", then {second}"))
    }
}

/// The parts of this shard.
fn parts(what: &Loop) -> Vec<Part> {
    let rates = what.config.faults.rates().into_iter().filter(|(_, rate)| *rate > 0);
    let kinds: Vec<&'static str> = rates.map(|(name, _)| name).collect();
    let seconds: Vec<Option<&'static str>> =
        if what.pairs { kinds.iter().copied().map(Some).collect() } else { vec![None] };
    let mut parts = Vec::new();
    let mut nth = 0;
    for offset in 0..what.seeds {
        let Some(seed) = what.first_seed.checked_add(offset) else { break };
        for first in &kinds {
            for second in &seconds {
                if nth % what.shard.count() == what.shard.index() - 1 {
                    let (first, second) = (*first, *second);
                    let (opportunities, runs, complete) = (0, 0, false);
                    parts.push(Part { seed, first, second, opportunities, runs, complete });
                }
                nth += 1;
            }
        }
    }
    parts
}

/// Goes through all of it. `progress` is told the runs so far, from time to time; `tell` of every finding that is the first of its verdict and
/// oracle so far; `stop` ends it early.
pub fn go_through(
    what: &Loop,
    stop: &AtomicBool,
    progress: &(dyn Fn(u64) + Sync),
    tell: &(dyn Fn(&Finding) + Sync),
) -> Covered {
    let work = Work {
        what,
        stop,
        progress,
        tell,
        started: Instant::now(),
        lowest: AtomicUsize::new(usize::MAX),
        schedules: AtomicU64::new(0),
        steps: AtomicU64::new(0),
        found: AtomicU64::new(0),
        findings: Mutex::new(BTreeMap::new()),
    };
    let parts: Vec<Mutex<Part>> = parts(what).into_iter().map(Mutex::new).collect();
    let next = AtomicUsize::new(0);
    let job = || {
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            let Some(part) = parts.get(index) else { break };
            let mut part = part.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            work.go_through(index, &mut part);
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..what.jobs.max(1) {
            scope.spawn(job);
        }
    });
    let inner = std::sync::PoisonError::into_inner;
    let mut findings: Vec<(usize, Struck)> =
        work.findings.into_inner().unwrap_or_else(inner).into_values().collect();
    findings.sort_by_key(|(index, _)| *index);
    if !what.keep_going {
        findings.truncate(1);
    }
    let parts = parts
        .into_iter()
        .map(|part| part.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner))
        .collect();
    Covered {
        parts,
        schedules: work.schedules.into_inner(),
        steps: work.steps.into_inner(),
        findings: findings.into_iter().map(|(_, struck)| struck).collect(),
        found: work.found.into_inner(),
        interrupted: stop.load(Ordering::Relaxed),
    }
}
