//! The engine survives every schedule tried, without adversity and under each kind of it.

mod support;

use blkproof_engine::data::DataMode;
use blkproof_engine::uapi::KernelSeries;
use blkproof_sim::config::{Commands, Config, Faults, Memory, TargetKind};
use blkproof_sim::testing::for_each_seed;
use support::{clean, engine, engine_in};

/// Schedules for each kind of adversity.
const SEEDS: u64 = 2_880;

fn survives(name: &str, faults: Faults) {
    for_each_seed(name, 0..SEEDS, |seed| {
        clean(&engine(seed, faults), seed);
    });
}

#[test]
fn nothing_hinders_it() {
    survives("nothing_hinders_it", Faults::NONE);
}

#[test]
fn signals_interrupt_its_waits() {
    survives("signals_interrupt_its_waits", Faults { signal: 64, ..Faults::NONE });
}

#[test]
fn enter_takes_less_or_refuses() {
    survives("enter_takes_less_or_refuses", Faults { submit: 64, ..Faults::NONE });
}

#[test]
fn resources_run_out() {
    survives("resources_run_out", Faults { resource: 48, ..Faults::NONE });
}

#[test]
fn worker_or_supervisor_is_killed() {
    survives("worker_or_supervisor_is_killed", Faults { kill: 3, ..Faults::NONE });
}

#[test]
fn the_disk_fails() {
    for_each_seed("the_disk_fails", 0..SEEDS, |seed| {
        let config = engine(seed, Faults { disk: 64, ..Faults::NONE });
        clean(&Config { target: TargetKind::File, ..config }, seed);
    });
}

#[test]
fn it_is_stopped_at_any_moment() {
    survives("it_is_stopped_at_any_moment", Faults { stop: 4, ..Faults::NONE });
}

#[test]
fn udev_is_slow() {
    survives("udev_is_slow", Faults { udev: 96, ..Faults::NONE });
}

#[test]
fn another_command_runs_beside_it() {
    survives("another_command_runs_beside_it", Faults { rival: 8, ..Faults::NONE });
}

#[test]
fn the_machine_stalls() {
    survives("the_machine_stalls", Faults { stall: 3, ..Faults::NONE });
}

#[test]
fn everything_at_once() {
    survives("everything_at_once", Faults::ALL);
}

#[test]
fn user_copy_moves_the_data() {
    for_each_seed("user_copy_moves_the_data", 0..SEEDS, |seed| {
        clean(&engine_in(DataMode::UserCopy, seed, Faults::NONE), seed);
    });
}

#[test]
fn user_copy_moves_the_data_on_older_kernels() {
    for_each_seed("user_copy_moves_the_data_on_older_kernels", 0..SEEDS, |seed| {
        let kernel = [KernelSeries::V6_12, KernelSeries::V6_18][(seed % 2) as usize];
        let config = engine_in(DataMode::UserCopy, seed / 2, Faults::NONE);
        clean(&Config { kernel, ..config }, seed);
    });
}

#[test]
fn user_copy_survives_everything_at_once() {
    for_each_seed("user_copy_survives_everything_at_once", 0..SEEDS, |seed| {
        clean(&engine_in(DataMode::UserCopy, seed, Faults::ALL), seed);
    });
}

#[test]
fn user_copies_end_early() {
    for_each_seed("user_copies_end_early", 0..SEEDS, |seed| {
        clean(&engine_in(DataMode::UserCopy, seed, Faults { disk: 64, ..Faults::NONE }), seed);
    });
}

#[test]
fn announced_writes_are_asked_for() {
    for_each_seed("announced_writes_are_asked_for", 0..SEEDS, |seed| {
        let kernel = KernelSeries::ALL[(seed % 3) as usize];
        let config = engine_in(DataMode::GetData, seed / 3, Faults::NONE);
        clean(&Config { kernel, ..config }, seed);
    });
}

#[test]
fn a_part_of_an_announced_write_is_not_acknowledged() {
    for_each_seed("a_part_of_an_announced_write_is_not_acknowledged", 0..SEEDS, |seed| {
        let kernel = KernelSeries::ALL[(seed % 3) as usize];
        let config = engine_in(DataMode::GetData, seed / 3, Faults { disk: 64, ..Faults::NONE });
        clean(&Config { kernel, ..config }, seed);
    });
}

#[test]
fn announced_writes_survive_everything_at_once() {
    for_each_seed("announced_writes_survive_everything_at_once", 0..SEEDS, |seed| {
        clean(&engine_in(DataMode::GetData, seed, Faults::ALL), seed);
    });
}

#[test]
fn zero_copy_uses_the_pages_in_place() {
    for_each_seed("zero_copy_uses_the_pages_in_place", 0..SEEDS, |seed| {
        let kernel = [KernelSeries::V7_3, KernelSeries::V6_18][(seed % 2) as usize];
        let config = engine_in(DataMode::ZeroCopy, seed / 2, Faults::NONE);
        clean(&Config { kernel, ..config }, seed);
    });
}

#[test]
fn zero_copy_becomes_copy_mode_where_the_kernel_has_none() {
    for_each_seed("zero_copy_becomes_copy_mode", 0..SEEDS / 4, |seed| {
        let config = engine_in(DataMode::ZeroCopy, seed, Faults::NONE);
        clean(&Config { kernel: KernelSeries::V6_12, ..config }, seed);
    });
}

#[test]
fn zero_copy_survives_registrations_that_fail() {
    for_each_seed("zero_copy_survives_registrations_that_fail", 0..SEEDS, |seed| {
        let faults = Faults { resource: 24, ..Faults::NONE };
        clean(&engine_in(DataMode::ZeroCopy, seed, faults), seed);
    });
}

#[test]
fn zero_copy_survives_everything_at_once() {
    for_each_seed("zero_copy_survives_everything_at_once", 0..SEEDS, |seed| {
        clean(&engine_in(DataMode::ZeroCopy, seed, Faults::ALL), seed);
    });
}

/// Data modes that batches go with.
const BATCHED: [DataMode; 3] = [DataMode::Copy, DataMode::UserCopy, DataMode::ZeroCopy];

fn batches_survive(name: &str, faults: Faults) {
    for data in BATCHED {
        for_each_seed(name, 0..SEEDS, |seed| {
            let config = Config { commands: Commands::Batched, ..engine_in(data, seed, faults) };
            clean(&config, seed);
        });
    }
}

#[test]
fn nothing_hinders_batches() {
    batches_survive("nothing_hinders_batches", Faults::NONE);
}

#[test]
fn batches_meet_signals_and_want() {
    let faults = Faults { signal: 48, resource: 24, ..Faults::NONE };
    batches_survive("batches_meet_signals_and_want", faults);
}

#[test]
fn batches_are_consumed_in_part_and_fetches_end() {
    let faults = Faults { submit: 96, ..Faults::NONE };
    batches_survive("batches_are_consumed_in_part_and_fetches_end", faults);
}

#[test]
fn a_worker_with_batches_is_killed_or_stopped() {
    let faults = Faults { kill: 3, stop: 3, disk: 32, ..Faults::NONE };
    batches_survive("a_worker_with_batches_is_killed_or_stopped", faults);
}

#[test]
fn batches_survive_everything_at_once() {
    batches_survive("batches_survive_everything_at_once", Faults::ALL);
}

#[test]
fn batches_become_commands_for_each_tag_where_the_kernel_has_none() {
    for_each_seed("batches_become_commands_for_each_tag", 0..SEEDS / 2, |seed| {
        let kernel = [KernelSeries::V6_12, KernelSeries::V6_18][(seed % 2) as usize];
        let config = engine_in(DataMode::Copy, seed / 2, Faults::NONE);
        clean(&Config { kernel, commands: Commands::Batched, ..config }, seed);
    });
}

#[test]
fn many_tags_and_requests() {
    for_each_seed("many_tags_and_requests", 0..60, |seed| {
        let config = Config { queues: 4, depth: 64, requests: 200, ..engine(seed, Faults::NONE) };
        clean(&config, seed);
        clean(&Config { commands: Commands::Batched, ..config }, seed);
    });
}

/// Data modes in which memory is shared, and what commands are about.
const SHARING: [(DataMode, Commands); 4] = [
    (DataMode::Copy, Commands::Single),
    (DataMode::UserCopy, Commands::Single),
    (DataMode::ZeroCopy, Commands::Single),
    (DataMode::Copy, Commands::Batched),
];

fn sharing_survives(name: &str, faults: Faults) {
    for_each_seed(name, 0..SEEDS / 2, |seed| {
        for (data, commands) in SHARING {
            let config = engine_in(data, seed, faults);
            let depth =
                if commands == Commands::Batched { config.depth.max(2) } else { config.depth };
            clean(
                &Config { memory: Memory::Shared, commands, depth, requests: 12, ..config },
                seed,
            );
        }
    });
}

#[test]
fn data_is_served_in_shared_memory() {
    sharing_survives("data_is_served_in_shared_memory", Faults::NONE);
}

#[test]
fn sharing_meets_want_and_a_disk_that_fails() {
    let faults = Faults { signal: 32, submit: 16, resource: 16, disk: 48, ..Faults::NONE };
    sharing_survives("sharing_meets_want_and_a_disk_that_fails", faults);
}

#[test]
fn sharing_survives_everything_at_once() {
    sharing_survives("sharing_survives_everything_at_once", Faults::ALL);
}

#[test]
fn memory_is_not_shared_where_the_kernel_cannot() {
    for_each_seed("memory_is_not_shared_where_the_kernel_cannot", 0..SEEDS / 4, |seed| {
        for kernel in [KernelSeries::V6_12, KernelSeries::V6_18] {
            let config = engine(seed, Faults::NONE);
            clean(&Config { memory: Memory::Shared, kernel, ..config }, seed);
        }
    });
}
