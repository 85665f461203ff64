//! Faults of a bad day: a process that is stopped for a while, worker and supervisor that are killed together, a block device that
//! somebody keeps open. The engine survives each, and each finds what only it can.

mod support;

use blkproof_engine::supervisor::Recovery;
use blkproof_sim::config::{Config, Faults, TargetKind};
use blkproof_sim::drivers::Random;
use blkproof_sim::outcome::Verdict;
use blkproof_sim::run::{Sabotage, run_sabotaged};
use blkproof_sim::specimens::Specimen;
use blkproof_sim::testing::for_each_seed;
use support::{clean, engine, run};

/// Schedules for each of them.
const SEEDS: u64 = 2_880;

/// One of the 72 configurations of [`engine`], with every kind of recovery.
fn recovering(seed: u64, faults: Faults) -> Config {
    let recovery = Recovery::ALL[(seed / 72) as usize % Recovery::ALL.len()];
    let restart = recovery != Recovery::None && (seed / 288).is_multiple_of(2);
    Config { recovery, restart, requests: 12, ..engine(seed, faults) }
}

fn survives(name: &str, faults: Faults) {
    for_each_seed(name, 0..SEEDS, |seed| {
        clean(&recovering(seed, faults), seed);
    });
}

#[test]
fn processes_are_stopped_for_a_while() {
    survives("processes_are_stopped_for_a_while", Faults { pause: 6, ..Faults::NONE });
}

#[test]
fn stopped_processes_are_killed_and_replaced() {
    let faults = Faults { pause: 6, kill: 3, stop: 2, haste: 24, ..Faults::NONE };
    survives("stopped_processes_are_killed_and_replaced", faults);
}

#[test]
fn worker_and_supervisor_are_killed_at_once() {
    let faults = Faults { kill_both: 4, ..Faults::NONE };
    survives("worker_and_supervisor_are_killed_at_once", faults);
    let faults = Faults { kill_both: 3, kill: 3, haste: 24, resource: 6, ..Faults::NONE };
    survives("worker_and_supervisor_are_killed_at_once", faults);
}

#[test]
fn somebody_keeps_the_block_device_open() {
    survives("somebody_keeps_the_block_device_open", Faults { hold: 16, ..Faults::NONE });
    let faults = Faults { hold: 16, stop: 4, kill: 3, rival: 4, ..Faults::NONE };
    survives("somebody_keeps_the_block_device_open", faults);
}

/// Nothing but a `recover` that becomes the supervisor brings such a device back, and with it what the dead worker held.
#[test]
fn the_loss_of_both_finds_a_request_that_is_not_brought_to_the_next_worker() {
    let config = Config {
        recovery: Recovery::Reissue,
        target: TargetKind::File,
        requests: 24,
        faults: Faults { kill_both: 4, ..Faults::NONE },
        ..Config::engine()
    };
    let planted = Some(Sabotage::ForgetRequeued);
    let found = |seed: &u64| {
        let outcome = run_sabotaged(&config, &mut Random::new(*seed), planted);
        outcome.verdict == Verdict::Deadlock
    };
    let found = (0..500).filter(found).count();
    println!("{found} of 500");
    assert!(found > 0);
}

/// A stop is a signal, too: it ends a wait that nothing else ends.
#[test]
fn a_stop_finds_who_takes_an_interruption_for_the_end() {
    let specimen = Specimen::named("eintr-lost");
    let faults = Faults { pause: 6, ..Faults::NONE };
    let config = Config { faults, ..specimen.config() };
    let found = (0..300).filter(|seed| run(&config, *seed).verdict == specimen.expected()).count();
    println!("{found} of 300");
    assert!(found > 0);
}
