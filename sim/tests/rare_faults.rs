//! Faults of a bad day: a process that is stopped for a while, worker and supervisor that are killed together, a block device that
//! somebody keeps open, a host that loses power. The engine survives each, and each finds what only it can.

mod support;

use blkproof_engine::data::DataMode;
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

/// A file in every data mode, with every kind of recovery, on a host that loses power.
fn on_a_file(seed: u64, faults: Faults) -> Config {
    let data = DataMode::ALL[(seed % DataMode::ALL.len() as u64) as usize];
    Config { data, target: TargetKind::File, ..recovering(seed, faults) }
}

#[test]
fn the_host_loses_power() {
    let crash = Faults { crash: 48, ..Faults::NONE };
    for faults in [crash, Faults { disk: 48, kill: 3, resize: 3, stop: 2, ..crash }] {
        for_each_seed("the_host_loses_power", 0..SEEDS, |seed| {
            clean(&on_a_file(seed, faults), seed);
        });
    }
}

/// How many of 500 schedules with such a bug end with a disk that shows it, and how many with a promise that was not kept but did no harm.
fn after_a_crash(sabotage: Sabotage) -> (usize, usize) {
    let faults = Faults { crash: 32, ..Faults::NONE };
    let config = Config { target: TargetKind::File, requests: 12, faults, ..Config::engine() };
    let findings: Vec<_> = (0..500)
        .map(|seed| run_sabotaged(&config, &mut Random::new(seed), Some(sabotage)))
        .filter(|outcome| outcome.verdict != Verdict::Clean)
        .inspect(|outcome| assert_eq!(outcome.oracle, "O6", "{sabotage:?}: {}", outcome.finding))
        .map(|outcome| outcome.finding.contains("lost power"))
        .collect();
    let shown = findings.iter().filter(|shown| **shown).count();
    println!("{sabotage:?}: {shown} shown, {} only told", findings.len() - shown);
    (shown, findings.len() - shown)
}

/// The disk after the crash is a witness of its own: it alone shows a promise that was broken, before anybody else says so.
#[test]
fn a_loss_of_power_finds_what_was_promised_and_is_not_there() {
    for sabotage in [Sabotage::SkipFlush, Sabotage::SkipFua, Sabotage::HideCache] {
        let (shown, told) = after_a_crash(sabotage);
        assert!(shown > 0 && told > 0, "{sabotage:?}: {shown} shown, {told} told");
    }
}

#[test]
fn a_loss_of_power_finds_a_museum_piece() {
    let specimen = Specimen::named("flush-not-durable");
    let faults = Faults { crash: 32, ..specimen.config().faults };
    let config = Config { faults, ..specimen.config() };
    let shows = |seed: &u64| run(&config, *seed).finding.contains("lost power");
    let found = (0..500).filter(shows).count();
    println!("{found} of 500");
    assert!(found > 0);
}
