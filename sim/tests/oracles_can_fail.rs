//! Every oracle sees what it is there for: a bug planted between server and kernel is caught by the one named.

mod support;

use std::cell::Cell;

use blkproof_engine::data::DataMode;
use blkproof_engine::supervisor::Deadlines;
use blkproof_sim::config::{Commands, Config, Faults, Memory, TargetKind};
use blkproof_sim::drivers::Random;
use blkproof_sim::outcome::Verdict;
use blkproof_sim::run::{Sabotage, run_sabotaged};
use blkproof_sim::specimens::Specimen;
use blkproof_sim::testing::{for_each_seed, replaying};

/// Runs until the bug is caught; every catch must be by that oracle.
fn caught(sabotage: Sabotage, verdict: Verdict, oracle: &str) {
    caught_in(&patient(TargetKind::Mem, 8), sabotage, verdict, oracle);
}

/// The engine without deadlines.
fn patient(target: TargetKind, requests: u32) -> Config {
    Config { target, deadlines: Deadlines::NONE, requests, steps_max: 2_000, ..Config::engine() }
}

fn caught_in(config: &Config, sabotage: Sabotage, verdict: Verdict, oracle: &str) {
    let times = Cell::new(0);
    for_each_seed("oracles", 0..500, |seed| {
        let outcome = run_sabotaged(config, &mut Random::new(seed), Some(sabotage));
        if outcome.verdict == Verdict::Clean {
            return;
        }
        times.set(times.get() + 1);
        assert_eq!(
            (outcome.verdict, outcome.oracle.as_str()),
            (verdict, oracle),
            "{sabotage:?} seed {seed}: {}",
            outcome.finding
        );
    });
    println!("{sabotage:?}: {} of 500", times.get());
    assert!(times.get() > 0 || replaying(), "{sabotage:?} was not caught");
}

#[test]
fn a_dropped_commit_is_a_deadlock() {
    caught(Sabotage::DropCommit, Verdict::Deadlock, "deadlock");
}

#[test]
fn o1_sees_a_double_commit() {
    caught(Sabotage::DoubleCommit, Verdict::Safety, "O1");
}

#[test]
fn o3_sees_a_short_commit() {
    caught(Sabotage::ShortCommit, Verdict::Safety, "O3");
}

#[test]
fn o1_sees_a_descriptor_read_late() {
    caught(Sabotage::LateDescriptor, Verdict::Safety, "O1");
}

#[test]
fn o5_sees_a_lost_write() {
    caught(Sabotage::LoseWrite, Verdict::DataLoss, "O5");
}

#[test]
fn o8_sees_lost_zeroes() {
    let config = Config { depth: 1, requests: 40, steps_max: 4_000, ..Config::engine() };
    let times = Cell::new(0);
    for_each_seed("oracles", 0..2_000, |seed| {
        let outcome = run_sabotaged(&config, &mut Random::new(seed), Some(Sabotage::LoseZeroes));
        if outcome.verdict == Verdict::Clean {
            return;
        }
        assert_eq!(outcome.verdict, Verdict::DataLoss, "seed {seed}: {}", outcome.finding);
        // O5 where something else was written as well.
        times.set(times.get() + u32::from(outcome.oracle == "O8"));
    });
    assert!(times.get() > 0 || replaying(), "zeroes that were lost were not seen");
}

#[test]
fn an_ignored_abort_is_a_deadlock() {
    // The engine is told to quit as well, and needs no abort. A server that ends with its last abort does.
    let config = Config { depth: 2, ..Specimen::named("serial-prime").config() };
    caught_in(&config, Sabotage::IgnoreAbort, Verdict::Deadlock, "deadlock");
}

#[test]
fn o6_sees_what_a_crash_would_lose() {
    for sabotage in [Sabotage::SkipFlush, Sabotage::SkipFua, Sabotage::HideCache] {
        caught_in(&patient(TargetKind::File, 24), sabotage, Verdict::DataLoss, "O6");
    }
}

#[test]
fn o11_sees_a_commit_after_an_abort() {
    caught(Sabotage::CommitAfterAbort, Verdict::Safety, "O11");
}

#[test]
fn a_dropped_wake_up_is_a_deadlock() {
    caught(Sabotage::DropWakeUp, Verdict::Deadlock, "deadlock");
}

#[test]
fn o4_sees_a_buffer_touched_late() {
    caught(Sabotage::LateBuffer, Verdict::Safety, "O4");
}

/// What is caught of a bug in user copy.
fn caught_in_user_copy(target: TargetKind, sabotage: Sabotage, verdict: Verdict, oracle: &str) {
    let config = Config {
        target,
        data: DataMode::UserCopy,
        deadlines: Deadlines::NONE,
        requests: 8,
        steps_max: 2_000,
        ..Config::engine()
    };
    caught_in(&config, sabotage, verdict, oracle);
}

#[test]
fn o4_sees_a_user_copy_after_the_commit() {
    caught_in_user_copy(TargetKind::Mem, Sabotage::LateCopy, Verdict::Safety, "O4");
}

#[test]
fn o5_sees_a_user_copy_that_did_not_happen() {
    for target in [TargetKind::Mem, TargetKind::File] {
        caught_in_user_copy(target, Sabotage::LoseCopy, Verdict::DataLoss, "O5");
    }
}

/// The engine, and clients that share memory with it.
fn sharing(data: DataMode, target: TargetKind) -> Config {
    Config {
        target,
        data,
        memory: Memory::Shared,
        deadlines: Deadlines::NONE,
        requests: 12,
        steps_max: 2_000,
        ..Config::engine()
    }
}

/// As O8, where the sector was zeroed before.
#[test]
fn o5_sees_data_that_was_looked_for_elsewhere() {
    for target in [TargetKind::Mem, TargetKind::File] {
        let (config, times) = (sharing(DataMode::Copy, target), Cell::new(0));
        for_each_seed("oracles", 0..500, |seed| {
            let planted = Some(Sabotage::IgnorePlace);
            let outcome = run_sabotaged(&config, &mut Random::new(seed), planted);
            if outcome.verdict != Verdict::Clean {
                assert_eq!(outcome.verdict, Verdict::DataLoss, "seed {seed}: {}", outcome.finding);
                times.set(times.get() + u64::from(outcome.oracle == "O5"));
            }
        });
        // Of a file it may be a flush that shows it first (O6).
        assert!(times.get() > 5 || replaying(), "{target:?}: {} of 500", times.get());
    }
}

#[test]
fn o4_sees_a_place_that_is_another_request_s() {
    let config = sharing(DataMode::UserCopy, TargetKind::Mem);
    caught_in(&config, Sabotage::MissPlace, Verdict::Safety, "O4");
}

/// What is caught of a bug in what follows an announcement.
fn caught_in_get_data(sabotage: Sabotage, faults: Faults, verdict: Verdict, oracle: &str) {
    let config = Config {
        data: DataMode::GetData,
        deadlines: Deadlines::NONE,
        requests: 8,
        steps_max: 2_000,
        faults,
        ..Config::engine()
    };
    caught_in(&config, sabotage, verdict, oracle);
}

#[test]
fn an_announced_write_that_nobody_asks_for_is_a_deadlock() {
    caught_in_get_data(Sabotage::DropGetData, Faults::NONE, Verdict::Deadlock, "deadlock");
}

#[test]
fn o5_sees_a_write_of_which_only_a_part_came() {
    let faults = Faults { disk: 64, ..Faults::NONE };
    caught_in_get_data(Sabotage::StaleDescriptor, faults, Verdict::DataLoss, "O5");
}

/// What is caught of a bug where batches are used.
fn caught_in_batches(sabotage: Sabotage, faults: Faults, verdict: Verdict, oracle: &str) {
    let config = Config {
        commands: Commands::Batched,
        depth: 4,
        queues: 1,
        deadlines: Deadlines::NONE,
        requests: 16,
        steps_max: 2_000,
        faults,
        ..Config::engine()
    };
    caught_in(&config, sabotage, verdict, oracle);
}

const PARTS: Faults = Faults { submit: 64, ..Faults::NONE };

#[test]
fn what_a_batch_did_not_consume_and_nobody_sends_again_is_a_deadlock() {
    caught_in_batches(Sabotage::ForgetUnconsumed, PARTS, Verdict::Deadlock, "deadlock");
}

#[test]
fn a_fetch_that_is_not_renewed_is_a_deadlock() {
    caught_in_batches(Sabotage::NoRenewal, PARTS, Verdict::Deadlock, "deadlock");
}

#[test]
fn oracles_that_speak_of_tags_see_those_of_batches() {
    caught_in_batches(Sabotage::DoubleCommit, Faults::NONE, Verdict::Safety, "O1");
    caught_in_batches(Sabotage::ShortCommit, Faults::NONE, Verdict::Safety, "O3");
    caught_in_batches(Sabotage::LateDescriptor, Faults::NONE, Verdict::Safety, "O1");
    caught_in_batches(Sabotage::LateBuffer, Faults::NONE, Verdict::Safety, "O4");
    caught_in_batches(Sabotage::DropCommit, Faults::NONE, Verdict::Deadlock, "deadlock");
}

fn zero_copy(faults: Faults) -> Config {
    Config {
        target: TargetKind::File,
        data: DataMode::ZeroCopy,
        deadlines: Deadlines::NONE,
        requests: 8,
        steps_max: 2_000,
        faults,
        ..Config::engine()
    }
}

#[test]
fn pages_that_are_kept_over_the_commit_are_a_deadlock() {
    let faults = Faults { resource: 16, ..Faults::NONE };
    caught_in(&zero_copy(faults), Sabotage::KeepPages, Verdict::Deadlock, "deadlock");
}

#[test]
fn l1_sees_tags_that_share_a_slot() {
    caught_in(&zero_copy(Faults::NONE), Sabotage::ShareSlot, Verdict::Safety, "L1");
}

#[test]
fn l1_sees_a_request_that_fails_for_no_reason() {
    caught(Sabotage::FailRequest, Verdict::Safety, "L1");
}

#[test]
fn l0_sees_a_device_that_never_comes_up() {
    caught(Sabotage::RefuseStart, Verdict::Safety, "L0");
}

#[test]
fn l2_sees_a_device_left_behind() {
    caught(Sabotage::RefuseDelete, Verdict::Safety, "L2");
}

#[test]
fn a_panic_of_the_engine_is_an_outcome() {
    caught(Sabotage::StrayCompletion, Verdict::Safety, "I1");
}

#[test]
fn steps_without_progress_are_a_livelock() {
    caught(Sabotage::EndlessWakeUps, Verdict::Livelock, "livelock");
}
