//! The engine changes devices that are in use: their worker, and their size.

mod support;

use std::cell::Cell;

use blkproof_engine::supervisor::{Deadlines, Recovery};
use blkproof_engine::uapi::KernelSeries;
use blkproof_sim::config::{Commands, Config, Faults, TargetKind};
use blkproof_sim::drivers::Random;
use blkproof_sim::outcome::Verdict;
use blkproof_sim::run::{Sabotage, run_sabotaged};
use blkproof_sim::testing::{for_each_seed, replaying};

use support::{clean, engine};

const SEEDS: u64 = 400;
const HANDOVERS: Faults = Faults { handover: 8, ..Faults::NONE };
const RESIZES: Faults = Faults { resize: 8, ..Faults::NONE };
const BOTH: Faults = Faults { resize: 8, ..HANDOVERS };
const RECOVERIES: [Recovery; 3] = [Recovery::Requeue, Recovery::Reissue, Recovery::FailIo];

/// A device that can be changed, on a kernel that can do it.
fn changing(seed: u64, faults: Faults) -> Config {
    let nth = seed as usize;
    Config {
        recovery: RECOVERIES[nth % 3],
        kernel: [KernelSeries::V7_3, KernelSeries::V6_18][nth / 3 % 2],
        requests: 24,
        ..engine(seed, faults)
    }
}

/// L3 holds of both: nothing but the change itself happens.
#[test]
fn a_device_in_use_is_handed_over_and_resized() {
    let (handed, resized) = (Cell::new(0), Cell::new(0));
    for_each_seed("a_device_in_use_is_handed_over_and_resized", 0..SEEDS, |seed| {
        let config = Config { timeline: true, ..changing(seed, BOTH) };
        let outcome = clean(&config, seed);
        let said = |text: &str| outcome.timeline.iter().any(|record| record.text.contains(text));
        handed
            .set(handed.get() + u64::from(said("notes: HandingOver") && said("notes: Recovered")));
        resized.set(resized.get() + u64::from(said("notes: Resized")));
    });
    println!("handed over, resized: {} and {} of {SEEDS}", handed.get(), resized.get());
    assert!(handed.get() > SEEDS / 10 && resized.get() > SEEDS / 10 || replaying());
}

/// A device served in batches is resized like any other. Handed over, its requests would fail (H45): that is refused.
#[test]
fn a_device_served_in_batches_is_resized_and_not_handed_over() {
    let (refused, resized) = (Cell::new(0), Cell::new(0));
    for_each_seed("a_device_served_in_batches_is_resized", 0..SEEDS, |seed| {
        let faults = if seed % 2 == 0 { BOTH } else { Faults { kill: 3, ..BOTH } };
        let changing = changing(seed, faults);
        let config = Config {
            kernel: KernelSeries::V7_3,
            commands: Commands::Batched,
            depth: changing.depth.max(2),
            timeline: true,
            ..changing
        };
        let outcome = clean(&config, seed);
        let said = |text: &str| outcome.timeline.iter().any(|record| record.text.contains(text));
        assert!(!said("notes: HandingOver"), "{seed}");
        refused.set(refused.get() + u64::from(said("served in batches") || said("Batched")));
        resized.set(resized.get() + u64::from(said("notes: Resized")));
    });
    println!("refused, resized: {} and {} of {SEEDS}", refused.get(), resized.get());
    assert!(refused.get() > SEEDS / 10 && resized.get() > SEEDS / 10 || replaying());
}

#[test]
fn changes_survive_adversity() {
    for_each_seed("changes_survive_adversity", 0..SEEDS, |seed| {
        for faults in [
            Faults { kill: 3, ..BOTH },
            Faults { signal: 16, stop: 2, ..BOTH },
            Faults { stall: 2, disk: 8, ..BOTH },
        ] {
            clean(&changing(seed, faults), seed);
        }
    });
}

/// Runs until the bug is caught by that oracle; every catch is by one of these. Without the change the bug does nothing.
fn caught(config: &Config, sabotage: Sabotage, caught_by: &[&str]) {
    let times = Cell::new(0);
    for_each_seed("changes", 0..500, |seed| {
        let outcome = run_sabotaged(config, &mut Random::new(seed), Some(sabotage));
        if outcome.verdict == Verdict::Clean {
            return;
        }
        let oracle = outcome.oracle.as_str();
        assert!(caught_by.contains(&oracle), "{sabotage:?} {seed}: {oracle} {}", outcome.finding);
        times.set(times.get() + u32::from(oracle == caught_by[0]));
    });
    println!("{sabotage:?}: {} of 500", times.get());
    assert!(times.get() > 0 || replaying(), "{sabotage:?} was not caught");
    let config = Config { faults: Faults::NONE, ..config.clone() };
    for_each_seed("unchanged", 0..50, |seed| {
        let outcome = run_sabotaged(&config, &mut Random::new(seed), Some(sabotage));
        assert_eq!(outcome.verdict, Verdict::Clean, "{sabotage:?} {seed}: {}", outcome.finding);
    });
}

fn in_use(target: TargetKind, faults: Faults) -> Config {
    Config {
        target,
        recovery: Recovery::Requeue,
        deadlines: Deadlines::NONE,
        requests: 24,
        steps_max: 8_000,
        faults,
        ..Config::engine()
    }
}

#[test]
fn l3_sees_a_queue_that_waits_for_every_abort() {
    caught(&in_use(TargetKind::Mem, HANDOVERS), Sabotage::WaitForAborts, &["L3"]);
}

#[test]
fn l1_sees_a_queue_that_was_not_told_of_a_size() {
    caught(&in_use(TargetKind::Mem, RESIZES), Sabotage::SizeUntold, &["L1", "O8"]);
}

#[test]
fn a_store_that_did_not_grow_is_seen() {
    caught(&in_use(TargetKind::Mem, RESIZES), Sabotage::StoreUntold, &["O8"]);
}

#[test]
fn k5_sees_a_recovery_that_was_quiesced() {
    caught(&in_use(TargetKind::Mem, HANDOVERS), Sabotage::QuiesceUnserved, &["K5", "L3"]);
}

#[test]
fn l3_sees_a_handover_that_is_refused_without_need() {
    caught(&in_use(TargetKind::Mem, HANDOVERS), Sabotage::NoQuiesce, &["L3"]);
}
