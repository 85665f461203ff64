//! Every specimen of the museum is found, with the verdict it states; without its one defect it is clean.

mod support;

use std::cell::Cell;

use blkproof_sim::config::Config;
use blkproof_sim::drivers::Random;
use blkproof_sim::outcome::Verdict;
use blkproof_sim::run::run_repaired;
use blkproof_sim::specimens::Specimen;
use blkproof_sim::testing::{for_each_seed, replaying};
use support::{report, run};

const SEEDS: u64 = 1_000;

/// How often it is found. Every finding must be the one that is stated.
fn found(specimen: Specimen, config: &Config) -> u64 {
    let found = Cell::new(0);
    for_each_seed("specimens", 0..SEEDS, |seed| {
        let outcome = run(config, seed);
        match outcome.verdict {
            Verdict::Clean => {}
            verdict if verdict == specimen.expected() => {
                found.set(found.get() + 1);
                assert!(!outcome.waits.is_empty(), "{} says who waits", specimen.name());
                assert!(!outcome.finding.is_empty());
            }
            _ => panic!("{} seed {seed}: {}", specimen.name(), report(config, seed)),
        }
    });
    found.get()
}

fn is_found(specimen: Specimen) -> u64 {
    let count = found(specimen, &specimen.config());
    println!("{}: {count} of {SEEDS}", specimen.name());
    assert!(count > 0 || replaying(), "{} was not found", specimen.name());
    for_each_seed("specimens", 0..SEEDS, |seed| {
        let outcome = run_repaired(&specimen.config(), &mut Random::new(seed));
        assert_eq!(
            outcome.verdict,
            Verdict::Clean,
            "repaired {} seed {seed}: {}",
            specimen.name(),
            outcome.finding
        );
    });
    count
}

#[test]
fn async_init() {
    assert!(is_found(Specimen::AsyncInit) < SEEDS, "it works most of the time");
}

#[test]
fn start_before_fetch() {
    assert!(is_found(Specimen::StartBeforeFetch) < SEEDS, "it works most of the time");
}

#[test]
fn prime_on_another_thread() {
    is_found(Specimen::PrimeOnAnotherThread);
}

#[test]
fn eintr_lost() {
    assert!(is_found(Specimen::EintrLost) < SEEDS, "without a signal it works");
}

#[test]
fn unpublished_sqe() {
    assert!(is_found(Specimen::UnpublishedSqe) < SEEDS, "it works when nobody looks in between");
}

#[test]
fn blocking_log() {
    assert!(is_found(Specimen::BlockingLog) < SEEDS, "it works while the log has room");
}

#[test]
fn serial_prime() {
    is_found(Specimen::SerialPrime);
    let few = Config { depth: 8, ..Specimen::SerialPrime.config() };
    assert_eq!(found(Specimen::SerialPrime, &few), 0, "with few tags it is only slow");
}

#[test]
fn two_queues_as_well() {
    for specimen in [
        Specimen::AsyncInit,
        Specimen::StartBeforeFetch,
        Specimen::PrimeOnAnotherThread,
        Specimen::EintrLost,
        Specimen::UnpublishedSqe,
        Specimen::BlockingLog,
    ] {
        let config = Config { queues: 2, ..specimen.config() };
        assert!(found(specimen, &config) > 0 || replaying(), "{} with two queues", specimen.name());
    }
}
