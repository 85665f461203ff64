//! Priorities and swarms: the engine survives them, and the known-bad servers do not.

mod support;

use std::sync::atomic::AtomicBool;

use blkproof_sim::config::{Config, Faults};
use blkproof_sim::drivers::Recorder;
use blkproof_sim::hunt::{Extent, Hunt, hunt};
use blkproof_sim::outcome::Verdict;
use blkproof_sim::specimens::Specimen;
use blkproof_sim::strategy::Strategy;
use blkproof_sim::swarm::{Dimension, Swarm};
use blkproof_sim::testing::for_each_seed;

fn engine_survives(name: &str, seeds: u64, strategy: Strategy, swarm: Option<&Swarm>) {
    let base = Config { faults: Faults::ALL, ..Config::engine() };
    let prepared = strategy.prepare(&base);
    for_each_seed(name, 0..seeds, |seed| {
        let config = swarm.map_or_else(|| base.clone(), |swarm| swarm.draw(&base, seed));
        let mut recorder = Recorder::new(prepared.source(seed));
        let outcome = blkproof_sim::run(&config, &mut recorder);
        let (oracle, finding) = (&outcome.oracle, &outcome.finding);
        assert_eq!(outcome.verdict, Verdict::Clean, "{oracle}: {finding} in {config:?}");
    });
}

#[test]
fn the_engine_survives_priorities() {
    for depth in [1, 2, 3, 6] {
        let strategy = Strategy::Pct { depth };
        engine_survives("the_engine_survives_priorities", 1_000, strategy, None);
    }
}

#[test]
fn the_engine_survives_swarms() {
    let swarm = Swarm { free: Dimension::ALL.to_vec() };
    let name = "the_engine_survives_swarms";
    engine_survives(name, 4_000, Strategy::Random, Some(&swarm));
    engine_survives(name, 2_000, Strategy::Pct { depth: 3 }, Some(&swarm));
}

/// By priorities too and with what it states, as far as that does not take many of a kind in turn.
#[test]
fn priorities_find_the_specimens() {
    for specimen in Specimen::all() {
        let what = Hunt {
            strategy: Strategy::Pct { depth: 3 },
            ..Hunt::new(specimen.config(), Extent::Seeds(3_000))
        };
        let bag = hunt(&what, &AtomicBool::new(false), &|_| {});
        let first = bag.findings.first().unwrap_or_else(|| panic!("{}", specimen.name()));
        println!("{}: after {} schedules", specimen.name(), bag.schedules);
        let oracle = &first.outcome.oracle;
        assert!(specimen.is_found_by(&first.outcome), "{}: {oracle}", specimen.name());
    }
}
