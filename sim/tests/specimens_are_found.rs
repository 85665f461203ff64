//! Every specimen of the museum is found, with the verdict and by the rule that it states; without its one defect it is clean.

mod support;

use std::cell::Cell;

use blkproof_sim::config::Config;
use blkproof_sim::drivers::Random;
use blkproof_sim::outcome::Verdict;
use blkproof_sim::run::run_repaired;
use blkproof_sim::specimens::Specimen;
use blkproof_sim::testing::{for_each_seed, replaying};
use support::{breaks_by_itself, report, run};

const SEEDS: u64 = 400;

/// How often it is found. Every finding must be the one that is stated.
fn found(specimen: Specimen, config: &Config) -> u64 {
    let found = Cell::new(0);
    for_each_seed("specimens", 0..SEEDS, |seed| {
        let outcome = run(config, seed);
        let wanted = specimen.is_found_by(&outcome);
        let unavoidable = breaks_by_itself(config.kernel, &outcome.oracle) && !wanted;
        if outcome.verdict == Verdict::Clean || unavoidable {
            return;
        }
        let name = specimen.name();
        assert!(wanted, "{name} seed {seed}: {}", report(config, seed));
        found.set(found.get() + 1);
        let waits = !outcome.waits.is_empty() || outcome.verdict != Verdict::Deadlock;
        assert!(waits, "{name} says who waits");
        assert!(!outcome.finding.is_empty());
    });
    found.get()
}

#[test]
fn every_specimen_is_found_on_every_kernel_that_it_names() {
    for specimen in Specimen::all() {
        for &kernel in specimen.exhibit().kernels {
            let config = Config { kernel, ..specimen.config() };
            let count = found(specimen, &config);
            println!("{} on {kernel}: {count} of {SEEDS}", specimen.name());
            assert!(count > 0 || replaying(), "{} was not found on {kernel}", specimen.name());
        }
    }
}

#[test]
fn without_its_defect_every_specimen_is_clean() {
    for specimen in Specimen::all() {
        for_each_seed("without_its_defect", 0..SEEDS, |seed| {
            let config = specimen.config();
            let outcome = run_repaired(&config, &mut Random::new(seed));
            // Whoever is killed before the device is up: 6.12 may crash or wait for ever whatever is done (H07, H67, H70).
            let unavoidable = breaks_by_itself(config.kernel, &outcome.oracle);
            let (name, finding) = (specimen.name(), &outcome.finding);
            let clean = outcome.verdict == Verdict::Clean || unavoidable;
            assert!(clean, "repaired {name} seed {seed}: {finding}");
        });
    }
}

/// A specimen that is found by every schedule says nothing of orderings.
#[test]
fn what_is_a_matter_of_ordering_works_most_of_the_time() {
    for name in
        ["async-init", "start-before-fetch", "eintr-lost", "unpublished-sqe", "blocking-log"]
    {
        let specimen = Specimen::named(name);
        assert!(found(specimen, &specimen.config()) < SEEDS, "{name} is always found");
    }
}

#[test]
fn with_few_tags_serial_prime_is_only_slow() {
    let specimen = Specimen::named("serial-prime");
    let few = Config { depth: 8, ..specimen.config() };
    assert_eq!(found(specimen, &few), 0);
}

#[test]
fn two_queues_as_well() {
    for name in [
        "async-init",
        "start-before-fetch",
        "prime-on-another-thread",
        "eintr-lost",
        "unpublished-sqe",
        "blocking-log",
    ] {
        let specimen = Specimen::named(name);
        let config = Config { queues: 2, ..specimen.config() };
        assert!(found(specimen, &config) > 0 || replaying(), "{name} with two queues");
    }
}
