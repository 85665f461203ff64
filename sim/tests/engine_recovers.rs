//! The engine with recovery: workers and supervisors die at any step, clients write and read, and the device comes back.

mod support;

use std::cell::Cell;

use blkproof_engine::data::DataMode;
use blkproof_engine::supervisor::{Deadlines, Recovery};
use blkproof_engine::sys::RingMode;
use blkproof_engine::uapi::KernelSeries;
use blkproof_sim::config::{Commands, Config, Faults, Memory, TargetKind};
use blkproof_sim::drivers::Random;
use blkproof_sim::outcome::Verdict;
use blkproof_sim::run::{Sabotage, run_sabotaged};
use blkproof_sim::testing::{for_each_seed, replaying};
use support::{breaks_by_itself, engine_in, unblamed};

/// Schedules for each kind of adversity.
const SEEDS: u64 = 2_880;

/// One of the 72 configurations of [`engine`], with and without `--restart`, on a kernel that recovers.
fn recovering(seed: u64, recovery: Recovery, faults: Faults) -> Config {
    recovering_in(DataMode::Copy, seed, recovery, faults)
}

/// One of those, in a data mode.
fn recovering_in(data: DataMode, seed: u64, recovery: Recovery, faults: Faults) -> Config {
    let one = seed / 72;
    let kernel = [KernelSeries::V7_3, KernelSeries::V6_18][one as usize / 2 % 2];
    let config = engine_in(data, seed, faults);
    Config { recovery, restart: one % 2 == 1, kernel, requests: 24, ..config }
}

fn survives(name: &str, recovery: Recovery, faults: Faults) {
    for_each_seed(name, 0..SEEDS, |seed| {
        unblamed(&recovering(seed, recovery, faults), seed);
    });
}

const KILLS: Faults = Faults { kill: 3, ..Faults::NONE };

#[test]
fn no_request_is_lost_with_reissue() {
    survives("no_request_is_lost_with_reissue", Recovery::Reissue, KILLS);
}

/// Of runs that lose processes, many must get as far as a device with another worker, by each of the three ways.
#[test]
fn devices_do_come_back() {
    let (restarted, asked, brought) = (Cell::new(0), Cell::new(0), Cell::new(0));
    for_each_seed("devices_do_come_back", 0..SEEDS / 4, |seed| {
        let config = recovering(seed, Recovery::Reissue, KILLS);
        let outcome = unblamed(&Config { timeline: true, ..config.clone() }, seed);
        let said = |text: &str| outcome.timeline.iter().any(|record| record.text.contains(text));
        let back = u64::from(said("notes: Recovered"));
        restarted.set(restarted.get() + back * u64::from(!said("runs `recover`")));
        asked.set(asked.get() + back * u64::from(said("which asks")));
        let brings = outcome.timeline.iter().any(|record| record.text == "runs `recover`");
        brought.set(brought.get() + back * u64::from(brings));
    });
    let counts = [restarted.get(), asked.get(), brought.get()];
    println!("restarted, asked, brought back: {counts:?} of {}", SEEDS / 4);
    assert!(counts.iter().all(|count| *count > 15) || replaying(), "{counts:?}");
}

#[test]
fn only_what_the_dead_held_fails_with_requeue() {
    survives("only_what_the_dead_held_fails_with_requeue", Recovery::Requeue, KILLS);
}

#[test]
fn requests_fail_and_the_device_comes_back_with_fail_io() {
    survives("requests_fail_and_the_device_comes_back_with_fail_io", Recovery::FailIo, KILLS);
}

#[test]
fn nothing_hinders_a_device_that_could_be_recovered() {
    for recovery in Recovery::ALL {
        let name = "nothing_hinders_a_device_that_could_be_recovered";
        for_each_seed(name, 0..SEEDS / 4, |seed| {
            unblamed(&recovering(seed, recovery, Faults::NONE), seed);
        });
    }
}

#[test]
fn a_recovery_meets_signals_refusals_and_want() {
    let faults = Faults { signal: 48, submit: 32, resource: 24, ..KILLS };
    survives("a_recovery_meets_signals_refusals_and_want", Recovery::Reissue, faults);
}

#[test]
fn a_dead_worker_leaves_the_disk_at_work() {
    for recovery in [Recovery::Requeue, Recovery::Reissue, Recovery::FailIo] {
        for_each_seed("a_dead_worker_leaves_the_disk_at_work", 0..SEEDS, |seed| {
            let config = recovering(seed, recovery, Faults { disk: 48, ..KILLS });
            unblamed(&Config { target: TargetKind::File, ..config }, seed);
        });
    }
}

/// Workers die while they copy, and with the pages of requests in their rings' tables.
#[test]
fn a_device_comes_back_in_its_own_data_mode() {
    for data in [DataMode::GetData, DataMode::UserCopy, DataMode::ZeroCopy] {
        for recovery in [Recovery::Requeue, Recovery::Reissue, Recovery::FailIo] {
            for_each_seed("a_device_comes_back_in_its_own_data_mode", 0..SEEDS, |seed| {
                let faults = Faults { disk: 48, resource: 12, ..KILLS };
                unblamed(&recovering_in(data, seed, recovery, faults), seed);
            });
        }
    }
}

#[test]
fn a_device_comes_back_with_batches() {
    for data in [DataMode::Copy, DataMode::UserCopy, DataMode::ZeroCopy] {
        for recovery in [Recovery::Requeue, Recovery::Reissue, Recovery::FailIo] {
            for faults in [Faults { disk: 48, submit: 48, ..KILLS }, Faults::ALL] {
                for_each_seed("a_device_comes_back_with_batches", 0..SEEDS, |seed| {
                    let config = recovering_in(data, seed, recovery, faults);
                    let kernel = KernelSeries::V7_3;
                    unblamed(&Config { kernel, commands: Commands::Batched, ..config }, seed);
                });
            }
        }
    }
}

/// The registration lasts; a dead worker's last operation does not write to memory that the client uses for something else by then (O9).
#[test]
fn a_device_comes_back_with_shared_memory() {
    for data in [DataMode::Copy, DataMode::UserCopy, DataMode::ZeroCopy] {
        for recovery in [Recovery::Requeue, Recovery::Reissue, Recovery::FailIo] {
            for_each_seed("a_device_comes_back_with_shared_memory", 0..SEEDS, |seed| {
                let faults = Faults { disk: 48, resource: 12, ..KILLS };
                let config = recovering_in(data, seed, recovery, faults);
                let kernel = KernelSeries::V7_3;
                unblamed(&Config { kernel, memory: Memory::Shared, ..config }, seed);
            });
        }
    }
}

#[test]
fn a_recovery_is_stopped_at_any_moment() {
    let faults = Faults { stop: 3, ..KILLS };
    survives("a_recovery_is_stopped_at_any_moment", Recovery::Reissue, faults);
}

/// Whoever asks may have seen that the worker is gone before the supervisor has, or while it finds out what became of the device.
#[test]
fn who_asks_in_haste_is_heard() {
    for recovery in [Recovery::Requeue, Recovery::Reissue, Recovery::FailIo] {
        survives("who_asks_in_haste_is_heard", recovery, Faults { haste: 64, ..KILLS });
    }
}

#[test]
fn other_commands_run_beside_a_recovery() {
    // Before 7.3 a `del` that knows of no supervisor to ask may start a device over aborted commands (H26).
    for_each_seed("other_commands_run_beside_a_recovery", 0..SEEDS, |seed| {
        let config = recovering(seed, Recovery::Reissue, Faults { rival: 8, ..KILLS });
        unblamed(&Config { kernel: KernelSeries::V7_3, ..config }, seed);
    });
}

#[test]
fn everything_at_once() {
    for recovery in [Recovery::Requeue, Recovery::Reissue, Recovery::FailIo] {
        for_each_seed("everything_at_once", 0..SEEDS, |seed| {
            for data in DataMode::ALL {
                let config = recovering_in(data, seed, recovery, Faults::ALL);
                unblamed(&Config { kernel: KernelSeries::V7_3, ..config }, seed);
            }
        });
    }
}

/// How a schedule with lost workers ends on 6.12. Before its server is up, 6.12 may crash or wait for ever whatever is done (H07, H67): that is no finding.
fn on_6_12(recovery: Recovery, seed: u64, sabotage: Option<Sabotage>) -> Option<String> {
    let config = recovering(seed, recovery, KILLS);
    let config = Config { kernel: KernelSeries::V6_12, target: TargetKind::File, ..config };
    let outcome = run_sabotaged(&config, &mut Random::new(seed), sabotage);
    let clean =
        outcome.verdict == Verdict::Clean || breaks_by_itself(KernelSeries::V6_12, &outcome.oracle);
    (!clean).then(|| format!("{}: {}", outcome.oracle, outcome.finding))
}

/// H55: the request timer alone tells 6.12 that a worker is gone which had everything in its hands.
#[test]
fn linux_6_12_notices_late_and_gives_the_device_back() {
    for recovery in [Recovery::Requeue, Recovery::Reissue] {
        for_each_seed("linux_6_12_notices_late_and_gives_the_device_back", 0..SEEDS, |seed| {
            assert_eq!(on_6_12(recovery, seed, None), None, "{recovery:?} seed {seed}");
        });
    }
}

/// H67: the model shows what real kernels do (`scan-never-ends`).
#[test]
fn a_worker_lost_in_the_partition_scan_of_6_12_is_reported() {
    let found = (0..3_000).any(|seed| {
        let config = recovering(seed, Recovery::Requeue, KILLS);
        let config = Config { kernel: KernelSeries::V6_12, ..config };
        run_sabotaged(&config, &mut Random::new(seed), None).oracle == "K11"
    });
    assert!(found);
}

/// H70: likewise (`next-server-dies-half-primed`). Without a kill no engine gets there.
#[test]
fn a_worker_lost_while_it_fetches_again_is_reported_on_6_18() {
    let oracle = |seed: u64, faults| {
        let config = recovering(seed, Recovery::Requeue, faults);
        let config = Config { kernel: KernelSeries::V6_18, queues: 2, depth: 4, ..config };
        run_sabotaged(&config, &mut Random::new(seed), None).oracle
    };
    assert!((0..3_000).any(|seed| oracle(seed, KILLS) == "K12"));
    let others =
        Faults { kill: 0, handover: 4, resource: 24, signal: 48, submit: 32, ..Faults::NONE };
    for_each_seed("a_worker_lost_while_it_fetches", 0..SEEDS, |seed| {
        assert_eq!(oracle(seed, others), "", "seed {seed}");
    });
}

#[test]
fn a_6_12_that_never_notices_is_found() {
    let planted = Some(Sabotage::NoRequestTimer);
    let found = (0..300).filter_map(|seed| on_6_12(Recovery::Reissue, seed, planted));
    assert!(found.count() > 10);
}

/// Loses workers until the planted bug is caught; every catch must be by that oracle.
fn caught(sabotage: Sabotage, verdict: Verdict, oracle: &str) {
    let times = catches(DataMode::Copy, sabotage, verdict, oracle);
    assert!(times > 0 || replaying(), "{sabotage:?} was not caught");
}

/// How many of 2000 schedules show the planted bug.
fn catches(data: DataMode, sabotage: Sabotage, verdict: Verdict, oracle: &str) -> u32 {
    let config = Config {
        data,
        target: TargetKind::File,
        recovery: Recovery::Reissue,
        mode: RingMode::DeferTaskrun,
        deadlines: Deadlines::NONE,
        faults: Faults { disk: 48, ..KILLS },
        requests: 40,
        steps_max: 4_000,
        ..Config::engine()
    };
    let times = Cell::new(0);
    for_each_seed("planted", 0..2_000, |seed| {
        let outcome = run_sabotaged(&config, &mut Random::new(seed), Some(sabotage));
        if outcome.verdict == Verdict::Clean {
            return;
        }
        // It may also come after the next worker, and before the one after that: then its effect is what is seen.
        if sabotage == Sabotage::NoFence && outcome.verdict == Verdict::DataLoss {
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
    println!("{sabotage:?}: {} of 2000 in {}", times.get(), data.name());
    times.get()
}

#[test]
fn o9_sees_a_write_of_a_dead_worker_that_nobody_waited_for() {
    // In zero copy the kernel itself is a fence for data: it has a request again when nothing uses its pages any more. Discards and
    // zeroes have no pages.
    for data in [DataMode::Copy, DataMode::UserCopy, DataMode::ZeroCopy] {
        let times = catches(data, Sabotage::NoFence, Verdict::Safety, "O9");
        assert!(times > 0 || replaying(), "{data:?}: a write that came late was not caught");
    }
}

#[test]
fn l3_sees_a_recovery_that_names_the_worker_before() {
    caught(Sabotage::EndForFirstWorker, Verdict::Safety, "L3");
}

#[test]
fn l3_sees_a_supervisor_that_is_asked_and_does_nothing() {
    caught(Sabotage::LoseOrder, Verdict::Safety, "L3");
}

#[test]
fn a_request_that_is_not_brought_to_the_next_worker_is_a_deadlock() {
    caught(Sabotage::ForgetRequeued, Verdict::Deadlock, "deadlock");
}
