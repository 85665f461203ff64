//! Configurations and failure reports for the tests.
#![allow(dead_code, reason = "each test file uses a part")]

use std::fmt::Write as _;

use blkproof_engine::data::DataMode;
use blkproof_engine::supervisor::Deadlines;
use blkproof_engine::sys::RingMode;
use blkproof_engine::uapi::KernelSeries;
use blkproof_sim::config::{Config, Faults, TargetKind};
use blkproof_sim::drivers::Random;
use blkproof_sim::hazards::Hazard;
use blkproof_sim::outcome::{Outcome, Verdict};

/// The engine in one of 72 small configurations: 1 or 2 queues of 1, 2 or 4 tags, both ring modes, every target, without and
/// with deadlines. Which one, the seed says, so that the seed alone repeats a run.
pub(crate) fn engine(seed: u64, faults: Faults) -> Config {
    let mut rest = seed as usize;
    let mut pick = |n: usize| {
        let which = rest % n;
        rest /= n;
        which
    };
    Config {
        queues: [1, 2][pick(2)],
        depth: [1, 2, 4][pick(3)],
        mode: [RingMode::Default, RingMode::DeferTaskrun][pick(2)],
        target: [TargetKind::Null, TargetKind::Mem, TargetKind::File][pick(3)],
        deadlines: [Deadlines::NONE, Deadlines::DEFAULT][pick(2)],
        faults,
        ..Config::engine()
    }
}

/// The engine in one of those, in another data mode than copy.
pub(crate) fn engine_in(data: DataMode, seed: u64, faults: Faults) -> Config {
    let config = engine(seed, faults);
    let target = match (data, config.target) {
        (DataMode::ZeroCopy, TargetKind::Mem) => TargetKind::File,
        (_, target) => target,
    };
    Config { data, target, ..config }
}

/// Runs one seed.
pub(crate) fn run(config: &Config, seed: u64) -> Outcome {
    blkproof_sim::run(config, &mut Random::new(seed))
}

/// Runs one seed, which must be clean.
pub(crate) fn clean(config: &Config, seed: u64) -> Outcome {
    let outcome = run(config, seed);
    assert_eq!(outcome.verdict, Verdict::Clean, "{}", report(config, seed));
    outcome
}

/// Runs one seed, which must be clean as far as a server can see to that.
pub(crate) fn unblamed(config: &Config, seed: u64) -> Outcome {
    let outcome = run(config, seed);
    let clean = outcome.verdict == Verdict::Clean || is_a_hazard(config, seed);
    assert!(clean, "{}", report(config, seed));
    outcome
}

/// Whether a seed ends in a hazard of its kernel.
pub(crate) fn is_a_hazard(config: &Config, seed: u64) -> bool {
    let config = Config { timeline: true, ..config.clone() };
    Hazard::told(&config, &run(&config, seed)).is_some()
}

/// Whether a rule is one that a kernel breaks by itself when a server is killed (H07, H67, H70).
pub(crate) fn breaks_by_itself(kernel: KernelSeries, oracle: &str) -> bool {
    match kernel {
        KernelSeries::V6_12 => ["K5", "K11", "K12"].contains(&oracle),
        KernelSeries::V6_18 => oracle == "K12",
        KernelSeries::V7_3 => oracle == "K13",
    }
}

/// What happened in a run, step by step.
pub(crate) fn report(config: &Config, seed: u64) -> String {
    let outcome = run(&Config { timeline: true, ..config.clone() }, seed);
    let mut text = format!("{} {}\n{config:?}\n", outcome.oracle, outcome.finding);
    let shown = outcome.timeline.len().saturating_sub(120);
    for record in &outcome.timeline[shown..] {
        let actor = &outcome.actors[record.actor].name;
        let (step, us) = (record.step, record.time_us);
        let _ = writeln!(text, "{step:5} {us:10} us  {actor:12} {}", record.text);
    }
    for wait in &outcome.waits {
        let owner = wait.owner.map_or("nobody", |owner| &outcome.actors[owner].name);
        let who = &outcome.actors[wait.actor].name;
        let _ = writeln!(text, "  {who}: {} (owed by {owner}) {}", wait.awaits, wait.because);
    }
    text
}
