//! Every single fault at every opportunity, and in a small configuration every two of them.

mod support;

use std::sync::atomic::AtomicBool;

use blkproof_engine::supervisor::Recovery;
use blkproof_sim::config::{Config, Faults, TargetKind};
use blkproof_sim::drivers::Player;
use blkproof_sim::nth::{Covered, Loop, go_through};
use blkproof_sim::shard::Shard;
use blkproof_sim::specimens::Specimen;

/// Every fault of those kinds.
fn all(faults: Faults, config: &Config) -> Loop {
    Loop {
        config: Config { faults, ..config.clone() },
        pairs: false,
        first_seed: 0,
        seeds: 1,
        time: None,
        shard: Shard::WHOLE,
        jobs: 2,
        keep_going: true,
    }
}

fn covered(what: &Loop) -> Covered {
    go_through(what, &AtomicBool::new(false), &|_| {}, &|_| {})
}

fn survives(what: &Loop) -> Covered {
    let covered = covered(what);
    let found: Vec<_> = covered
        .findings
        .iter()
        .map(|one| {
            format!("{} {}: {}", one.by, one.finding.outcome.oracle, one.finding.outcome.finding)
        })
        .collect();
    assert!(found.is_empty(), "{found:#?}");
    assert!(covered.complete());
    covered
}

#[test]
fn the_engine_survives_every_single_fault() {
    let small = Config { queues: 1, requests: 3, target: TargetKind::File, ..Config::engine() };
    let recovers = Config { recovery: Recovery::Reissue, restart: true, ..small.clone() };
    for config in [small, recovers] {
        let covered = survives(&Loop { seeds: 3, ..all(Faults::ALL, &config) });
        for part in &covered.parts {
            println!("{part}: {} opportunities, {} runs", part.opportunities, part.runs);
            // A worker must be gone before `recover` can be run in haste: that takes two faults.
            assert_eq!(part.opportunities == 0, part.first == "haste", "{part}");
        }
        assert!(covered.schedules > 1_000, "{} runs", covered.schedules);
    }
}

#[test]
fn the_engine_survives_every_two_faults() {
    let small = Config { queues: 1, depth: 1, requests: 1, ..Config::engine() };
    let recovers = Config { recovery: Recovery::Reissue, restart: true, ..small.clone() };
    let faults = Faults { signal: 1, submit: 1, resource: 1, kill: 1, ..Faults::NONE };
    let gone = Faults { kill: 1, haste: 1, ..Faults::NONE };
    for (faults, config, parts) in [(faults, small, 16), (gone, recovers, 4)] {
        let covered = survives(&Loop { pairs: true, ..all(faults, &config) });
        assert_eq!(covered.parts.len(), parts);
        for part in &covered.parts {
            println!("{part}: {} opportunities, {} runs", part.opportunities, part.runs);
            assert!(part.first == "haste" || part.runs > part.opportunities, "{part}");
        }
    }
}

/// What is wrong with this server is that one signal at one moment ends it; it is found without any luck, and is a tape like any other.
#[test]
fn the_one_fault_that_matters_is_found() {
    let faults = Faults { signal: 1, ..Faults::NONE };
    let what = Loop { keep_going: false, ..all(faults, &Specimen::named("eintr-lost").config()) };
    let covered = covered(&what);
    let struck = covered.findings.first().expect("a finding");
    assert_eq!(struck.finding.outcome.verdict, Specimen::named("eintr-lost").expected());
    println!("{} after {} runs", struck.by, covered.schedules);
    let mut player = Player::new(&struck.finding.choices);
    let again = blkproof_sim::run(&struck.finding.config, &mut player);
    assert_eq!((again, player.misaligned()), (struck.finding.outcome.clone(), None));
}

#[test]
fn shards_go_through_all_parts_once() {
    let small = Config { queues: 1, depth: 1, requests: 1, ..Config::engine() };
    let faults = Faults { signal: 1, resource: 1, udev: 1, ..Faults::NONE };
    let what = Loop { seeds: 2, ..all(faults, &small) };
    let whole = covered(&what);
    let shards = [1, 2].map(|index| Shard::new(index, 2).expect("a shard"));
    let parts_of = |shard| covered(&Loop { shard, ..what.clone() }).parts;
    let mut parts: Vec<_> = shards.into_iter().flat_map(parts_of).collect();
    parts.sort_by_key(|part| whole.parts.iter().position(|one| one == part));
    assert_eq!(parts, whole.parts);
}

#[test]
fn what_was_not_gone_through_is_not_said_to_be() {
    let what = all(Faults::ALL, &Config::engine());
    let stopped = go_through(&what, &AtomicBool::new(true), &|_| {}, &|_| {});
    assert!(!stopped.complete() && stopped.interrupted && stopped.schedules == 0);
}
