//! For tests over many seeds: a failure prints its seed and the command that replays it.

use std::env;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

/// The variable that selects one seed.
pub const SEED_VARIABLE: &str = "SIM_SEED";

/// Whether one seed is being replayed, so that counts over many seeds mean nothing.
pub fn replaying() -> bool {
    env::var_os(SEED_VARIABLE).is_some()
}

/// Runs `test` with each seed; with `SIM_SEED` set, with that seed only. `name` selects the
/// test in the command, where the test's thread has no name of its own.
///
/// # Panics
/// As `test` does, after printing the seed and the command that replays it.
pub fn for_each_seed(name: &str, seeds: Range<u64>, test: impl Fn(u64)) {
    let seeds = if let Ok(seed) = env::var(SEED_VARIABLE) {
        let seed = seed.parse().unwrap_or_else(|error| {
            panic!("reading {SEED_VARIABLE}={seed:?} failed: {error}; set it to a number")
        });
        seed..=seed
    } else {
        assert!(!seeds.is_empty(), "{name} tries no seed at all");
        seeds.start..=seeds.end - 1
    };
    for seed in seeds {
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| test(seed))) {
            let thread = std::thread::current();
            let name = thread.name().filter(|thread| *thread != "main").unwrap_or(name);
            eprintln!("{SEED_VARIABLE}={seed}");
            eprintln!("replay with: {SEED_VARIABLE}={seed} cargo test -p sim {name}");
            resume_unwind(panic);
        }
    }
}
