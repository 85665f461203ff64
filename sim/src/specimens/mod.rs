//! The museum: known-bad servers. Each names its source, and what must be found.
//!
//! There are two kinds. A *server* is written by hand out of system calls, shared cells, locks and sleeps, as the real one was. A *mutant* is the
//! engine itself with one rule broken between it and the kernel.

mod async_init;
mod base;
mod blocking_log;
mod mutants;
mod prime_elsewhere;
mod queue_thread;
mod servers;
mod threads;
mod unpublished_sqe;

use blkproof_engine::supervisor::Deadlines;
use blkproof_engine::sys::RingMode;
use blkproof_engine::uapi::KernelSeries;

pub(crate) use base::{Act, STOP_CELL, Sys, start_process};
use queue_thread::Habit;
pub(crate) use threads::Server;

use crate::config::{Config, Subject, TargetKind};
use crate::outcome::{Outcome, Verdict};
use crate::run::Sabotage;

/// A known-bad server, or the engine with one rule broken: which exhibit of the museum.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct Specimen(u8);

/// What the museum says of a specimen.
#[derive(Clone, Copy, Debug)]
pub struct Exhibit {
    /// Its name on the command line.
    pub name: &'static str,
    /// The hazards (`H14`) and the classes of bugs (`S20`) that it stands for, as docs/specimens.md lists them.
    pub classes: &'static [&'static str],
    /// Where it was seen: project, commit or thread, in one line; for a hazard that nobody has reported yet, what of the kernel makes it one.
    pub source: &'static str,
    /// What is wrong with it, in one sentence.
    pub summary: &'static str,
    /// What finds it: the name of a rule or condition. Where several stand, the schedule decides which of them is first.
    pub oracles: &'static [&'static str],
    /// The kernels on which it is found. The last is the one it is hunted on.
    pub kernels: &'static [KernelSeries],
    nature: Nature,
    /// The adversity that it needs, and no other.
    setting: fn(Config) -> Config,
}

/// How a specimen is made.
#[derive(Clone, Copy, Debug)]
enum Nature {
    /// Its main thread, with its defect or (`true`) without.
    Server(fn(bool) -> Server),
    /// A server that does everything right but for this.
    Habit(Habit),
    /// A server that does everything right, in one process. Without that defect it is the engine.
    OneProcess,
    /// The engine, and the rule that is broken.
    Mutant(Sabotage),
}

const EVERY_KERNEL: &[KernelSeries] = &KernelSeries::ALL;

impl Specimen {
    /// Every specimen, in the order of the catalogue.
    pub fn all() -> impl ExactSizeIterator<Item = Self> {
        (0..(servers::SERVERS.len() + mutants::MUTANTS.len()) as u8).map(Self)
    }

    /// What the museum says of it.
    pub fn exhibit(self) -> &'static Exhibit {
        let index = usize::from(self.0);
        match servers::SERVERS.get(index) {
            Some(exhibit) => exhibit,
            None => &mutants::MUTANTS[index - servers::SERVERS.len()],
        }
    }

    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        self.exhibit().name
    }

    /// The specimen of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::all().find(|specimen| specimen.name() == name)
    }

    /// The specimen of that name, which is known to be there.
    ///
    /// # Panics
    /// If there is none.
    pub fn named(name: &str) -> Self {
        Self::from_name(name).unwrap_or_else(|| panic!("the museum has no {name:?}"))
    }

    /// The rule of the engine that is broken, if it is a mutant of the engine.
    pub(crate) fn broken_rule(self) -> Option<Sabotage> {
        match self.exhibit().nature {
            Nature::Mutant(rule) => Some(rule),
            Nature::Server(_) | Nature::Habit(_) | Nature::OneProcess => None,
        }
    }

    /// The main thread of its process; `None` if it is the engine that runs. `repaired`: without its defect.
    pub(crate) fn main(self, repaired: bool) -> Option<Server> {
        match self.exhibit().nature {
            Nature::Server(main) => Some(main(repaired)),
            Nature::Habit(_) if repaired => Some(queue_thread::main(Habit::Right)),
            Nature::Habit(habit) => Some(queue_thread::main(habit)),
            Nature::OneProcess if repaired => None,
            Nature::OneProcess => Some(queue_thread::main(Habit::Right)),
            Nature::Mutant(_) => None,
        }
    }

    /// Whether it is a mutant of the engine.
    pub fn is_mutant(self) -> bool {
        self.broken_rule().is_some()
    }

    /// The verdict that its usual finding is.
    pub fn expected(self) -> Verdict {
        Verdict::of(self.exhibit().oracles[0])
    }

    /// Whether a run came to what must be found.
    pub fn is_found_by(self, outcome: &Outcome) -> bool {
        self.exhibit().oracles.contains(&outcome.oracle.as_str())
    }

    /// A configuration in which it is found quickly: the adversity it needs and no other.
    pub fn config(self) -> Config {
        let Exhibit { kernels, setting, .. } = self.exhibit();
        let mut config = Config {
            subject: Subject::Specimen(self),
            deadlines: Deadlines::NONE,
            kernel: *kernels.last().expect("a specimen names its kernels"),
            ..Config::engine()
        };
        if self.is_mutant() {
            (config.requests, config.steps_max) = (8, 2_000);
        } else {
            (config.queues, config.requests) = (1, 4);
            (config.mode, config.target) = (RingMode::Default, TargetKind::Null);
        }
        setting(config)
    }
}
