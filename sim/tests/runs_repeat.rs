//! The same configuration and the same seed are the same run.

mod support;

use std::collections::BTreeSet;

use blkproof_sim::config::{Config, Faults};
use blkproof_sim::drivers::{Player, Recorder};
use blkproof_sim::specimens::Specimen;
use blkproof_sim::strategy::Strategy;
use blkproof_sim::testing::for_each_seed;
use support::{engine, run};

#[test]
fn a_thousand_seeds_give_the_same_hash_twice() {
    let hashes = std::cell::RefCell::new(BTreeSet::new());
    for_each_seed("a_thousand_seeds_give_the_same_hash_twice", 0..1_000, |seed| {
        let config = engine(seed, Faults::ALL);
        let first = run(&config, seed);
        let second = run(&config, seed);
        assert_eq!(first.hash, second.hash, "hash of seed {seed}");
        assert_eq!(first, second, "seed {seed}");
        hashes.borrow_mut().insert(first.hash);
    });
    if std::env::var_os("SIM_SEED").is_none() {
        assert!(hashes.borrow().len() > 990, "different seeds are different runs");
    }
}

#[test]
fn a_timeline_changes_nothing() {
    for_each_seed("a_timeline_changes_nothing", 0..200, |seed| {
        let config = engine(seed, Faults::ALL);
        let silent = run(&config, seed);
        let told = run(&Config { timeline: true, ..config }, seed);
        assert_eq!((silent.hash, silent.steps), (told.hash, told.steps), "seed {seed}");
        assert!(silent.timeline.is_empty() && !told.timeline.is_empty(), "seed {seed}");
    });
}

#[test]
fn specimens_repeat_too() {
    for specimen in Specimen::all() {
        let config = specimen.config();
        for_each_seed("specimens_repeat_too", 0..50, |seed| {
            assert_eq!(run(&config, seed), run(&config, seed), "{} {seed}", specimen.name());
        });
    }
}

/// A strategy is only another way of choosing: what it chose is a tape like any other.
#[test]
fn a_schedule_of_priorities_replays_as_an_ordinary_tape() {
    let strategy = Strategy::Pct { depth: 3 };
    let mut specimens = Specimen::all().map(Specimen::config).collect::<Vec<_>>();
    specimens.push(Config { faults: Faults::ALL, ..Config::engine() });
    for config in specimens {
        let prepared = strategy.prepare(&config);
        assert_eq!(prepared, strategy.prepare(&config));
        for_each_seed("a_schedule_of_priorities_replays", 0..30, |seed| {
            let mut recorder = Recorder::new(prepared.source(seed));
            let outcome = blkproof_sim::run(&config, &mut recorder);
            let mut player = Player::new(&recorder.choices);
            assert_eq!(blkproof_sim::run(&config, &mut player), outcome, "seed {seed}");
            assert_eq!((player.misaligned(), player.left_over()), (None, 0), "seed {seed}");
        });
    }
}
