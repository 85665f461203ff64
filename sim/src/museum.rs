//! The museum's round: every specimen is hunted, by every driver, and must be found as it states.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use blkproof_engine::uapi::KernelSeries;

use crate::config::Config;
use crate::hunt::{Extent, Finding, Hunt, hunt};
use crate::outcome::{Outcome, Verdict};
use crate::specimens::Specimen;
use crate::strategy::Strategy;

/// Hunts of one specimen with one driver on its home kernel; the median of them counts.
pub const REPETITIONS: usize = 5;
/// The first seed of a repetition is that many times its number.
const SEEDS_APART: u64 = 1_000_000_000;

/// The drivers: where the choices of a hunt come from.
pub const DRIVERS: [Strategy; 2] = [Strategy::Random, Strategy::Pct { depth: 3 }];

/// What one hunt came to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Search {
    /// The specimen was found.
    Found {
        /// In the schedule of this seed.
        seed: u64,
        /// The how many-th it was.
        schedules: u64,
        /// How long that took.
        time: Duration,
    },
    /// The time was up.
    Missed {
        /// So many schedules were clean.
        schedules: u64,
    },
    /// Something else was found.
    Stray {
        /// In the schedule of this seed.
        seed: u64,
        /// What.
        verdict: Verdict,
        /// By which rule.
        oracle: String,
        /// In words.
        finding: String,
    },
}

impl Search {
    const fn schedules(&self) -> Option<u64> {
        match self {
            Self::Found { schedules, .. } => Some(*schedules),
            Self::Missed { .. } | Self::Stray { .. } => None,
        }
    }
}

/// The hunts of one specimen with one driver on one kernel.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Hunted {
    /// The driver.
    pub driver: Strategy,
    /// The kernel.
    pub kernel: KernelSeries,
    /// What each came to: [`REPETITIONS`] on its home kernel, one elsewhere.
    pub searches: Vec<Search>,
}

impl Hunted {
    /// Whether every hunt found it.
    pub fn is_found(&self) -> bool {
        self.searches.iter().all(|search| search.schedules().is_some())
    }

    /// The hunt in the middle, by the schedules needed, if all found it.
    pub fn median(&self) -> Option<&Search> {
        let mut searches: Vec<_> = self.searches.iter().collect();
        searches.sort_by_key(|search| search.schedules());
        self.is_found().then(|| searches[searches.len() / 2])
    }
}

/// All hunts of one specimen.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Shown {
    /// Which.
    pub specimen: Specimen,
    /// On its home kernel by each driver, then on its other kernels.
    pub hunts: Vec<Hunted>,
}

impl Shown {
    /// The hunts on its home kernel.
    pub fn at_home(&self) -> impl Iterator<Item = &Hunted> {
        let home = self.specimen.config().kernel;
        self.hunts.iter().filter(move |hunted| hunted.kernel == home)
    }

    /// Whether some driver found it every time at home, every hunt elsewhere found it, and nothing else was found.
    pub fn is_found(&self) -> bool {
        let home = self.specimen.config().kernel;
        self.at_home().any(Hunted::is_found)
            && self.hunts.iter().all(|one| one.kernel == home || one.is_found())
            && self.strays().next().is_none()
    }

    /// Hunts that found something else.
    pub fn strays(&self) -> impl Iterator<Item = &Search> {
        let searches = self.hunts.iter().flat_map(|hunted| &hunted.searches);
        searches.filter(|search| matches!(search, Search::Stray { .. }))
    }
}

/// Hunts a specimen from a seed on, until it is found or the time is up.
fn search(
    specimen: Specimen,
    (driver, kernel): (Strategy, KernelSeries),
    first_seed: u64,
    (budget, stop): (Duration, &AtomicBool),
) -> Search {
    let config = Config { kernel, ..specimen.config() };
    let what = Hunt { strategy: driver, first_seed, ..Hunt::new(config, Extent::Time(budget)) };
    let started = Instant::now();
    let bag = hunt(&what, stop, &|_| {});
    let (schedules, time) = (bag.schedules, started.elapsed());
    let Some(Finding { seed, outcome, .. }) = bag.findings.into_iter().next() else {
        return Search::Missed { schedules };
    };
    if specimen.is_found_by(&outcome) {
        return Search::Found { seed, schedules, time };
    }
    let Outcome { verdict, oracle, finding, .. } = outcome;
    Search::Stray { seed, verdict, oracle, finding }
}

fn show(specimen: Specimen, budget: Duration, stop: &AtomicBool) -> Shown {
    let home = specimen.config().kernel;
    let mut hunts = Vec::new();
    for driver in DRIVERS {
        let from = |nth: usize| nth as u64 * SEEDS_APART;
        let searches = (0..REPETITIONS)
            .map(|nth| search(specimen, (driver, home), from(nth), (budget, stop)))
            .collect();
        hunts.push(Hunted { driver, kernel: home, searches });
    }
    for &kernel in specimen.exhibit().kernels {
        if kernel != home {
            let driver = Strategy::Random;
            let searches = vec![search(specimen, (driver, kernel), 0, (budget, stop))];
            hunts.push(Hunted { driver, kernel, searches });
        }
    }
    Shown { specimen, hunts }
}

/// Hunts these specimens, each for at most `budget` a hunt. `told` hears of each that is done. Ends early when `stop` is set: what was not
/// begun by then is left out.
pub fn round(
    specimens: &[Specimen],
    budget: Duration,
    jobs: usize,
    stop: &AtomicBool,
    told: &(dyn Fn(&Shown) + Sync),
) -> Vec<Shown> {
    let next = AtomicUsize::new(0);
    let shown = Mutex::new(Vec::new());
    let work = || {
        while let Some(&specimen) = specimens.get(next.fetch_add(1, Ordering::Relaxed)) {
            if stop.load(Ordering::Relaxed) {
                break;
            }
            let one = show(specimen, budget, stop);
            told(&one);
            shown.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(one);
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..jobs.max(1) {
            scope.spawn(work);
        }
    });
    let mut shown = shown.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    shown.sort_by_key(|one| one.specimen);
    shown
}
