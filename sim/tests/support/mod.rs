//! Seeds, configurations and failure reports for the tests.
#![allow(dead_code, reason = "each test uses a part")]

use blkproof_engine::supervisor::Deadlines;
use blkproof_engine::sys::RingMode;
use blkproof_sim::choices::{Choices, Site};
use blkproof_sim::config::{Config, Faults, Subject, TargetKind};
use blkproof_sim::outcome::{Outcome, Verdict};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

/// Uniform choices from a seed.
pub(crate) struct Seeded(ChaCha8Rng);

impl Seeded {
    pub(crate) fn new(seed: u64) -> Self {
        Self(ChaCha8Rng::seed_from_u64(seed))
    }
}

impl Choices for Seeded {
    fn choose(&mut self, _site: Site, n: u32) -> u32 {
        ((u64::from(self.0.next_u32()) * u64::from(n)) >> 32) as u32
    }
}

/// The engine, in its simplest configuration.
pub(crate) fn engine() -> Config {
    Config {
        subject: Subject::Engine,
        queues: 1,
        depth: 2,
        requests: 4,
        mode: RingMode::DeferTaskrun,
        target: TargetKind::Mem,
        deadlines: Deadlines::NONE,
        faults: Faults::NONE,
        steps_max: 20_000,
        timeline: false,
    }
}

/// The seeds of a test: `0..count`, or the one in `SIM_SEED`.
pub(crate) fn seeds(count: u64) -> Vec<u64> {
    match std::env::var("SIM_SEED") {
        Ok(seed) => vec![seed.parse().expect("SIM_SEED is a number")],
        Err(_) => (0..count).collect(),
    }
}

/// Fails the test `name`, saying how to repeat it.
pub(crate) fn fail(name: &str, seed: u64, config: &Config, outcome: &Outcome) -> ! {
    panic!("{}", report(name, seed, config, outcome))
}

/// What happened, and how to repeat it.
pub(crate) fn report(name: &str, seed: u64, config: &Config, outcome: &Outcome) -> String {
    let detailed =
        blkproof_sim::run(&Config { timeline: true, ..config.clone() }, &mut Seeded::new(seed));
    let mut text = format!(
        "SIM_SEED={seed}\nSIM_SEED={seed} cargo test -p sim {name}\n{:?} {}: {}\n{config:?}\n",
        outcome.verdict, outcome.oracle, outcome.finding
    );
    let shown = detailed.timeline.len().saturating_sub(120);
    for record in &detailed.timeline[shown..] {
        let actor = &detailed.actors[record.actor].name;
        text += &format!(
            "{:5} {:9.3} ms  {actor:12} {}\n",
            record.step,
            record.time_us as f64 / 1000.0,
            record.text
        );
    }
    for wait in &outcome.waits {
        let owner = wait.owner.map_or("-", |owner| &outcome.actors[owner].name);
        text += &format!(
            "  {} {} [owes it: {owner}] {}\n",
            outcome.actors[wait.actor].name, wait.awaits, wait.because
        );
    }
    text
}

/// Runs a configuration under many seeds; every run must be clean.
pub(crate) fn must_be_clean(name: &str, config: &Config, count: u64) {
    for seed in seeds(count) {
        let outcome = blkproof_sim::run(config, &mut Seeded::new(seed));
        if outcome.verdict != Verdict::Clean {
            fail(name, seed, config, &outcome);
        }
    }
}
