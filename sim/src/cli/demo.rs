//! `sim demo`: a start-up deadlock, found, explained and replayed; then the engine through the same adversity.

use std::time::Instant;

use blkproof_engine::supervisor::Deadlines;

use super::{MINIMISE_ATTEMPTS, hunt_with_progress, layout};
use crate::config::Config;
use crate::drivers::Player;
use crate::hunt::{Extent, Hunt};
use crate::minimise::minimise;
use crate::outcome::Verdict;
use crate::report;
use crate::run::run;
use crate::specimens::Specimen;

/// Lines that the story may take, with its table of waits.
const STORY_LINES: usize = 22;
/// Seeds after which the specimen must have been found.
const SEEDS_MAX: u64 = 100_000;

pub(super) fn demo(engine_seeds: u64) -> u8 {
    let started = Instant::now();
    let specimen = Specimen::AsyncInit;
    let layout = layout(STORY_LINES);
    println!("1. Hunting {}: {}.", specimen.name(), specimen.summary());
    println!("   Source: {}\n", specimen.source());
    let jobs = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let config = specimen.config();
    let what = Hunt {
        config: config.clone(),
        first_seed: 0,
        extent: Extent::Seeds(SEEDS_MAX),
        jobs,
        keep_going: false,
    };
    let bag = hunt_with_progress(&what);
    let Some(finding) = bag.findings.first() else {
        println!("   NOT found in {} schedules: this is a bug in sim.", bag.schedules);
        return 1;
    };
    println!(
        "2. Found with seed {} after {} schedule(s), and made short:\n",
        finding.seed, bag.schedules
    );
    let story = minimise(&config, &finding.choices, MINIMISE_ATTEMPTS);
    print!("{}", report::story(&story.outcome, layout));
    println!("\n   {}", report::headline(&story.outcome, layout));
    print!("{}", report::waits(&story.outcome, layout));

    let mut player = Player::new(&story.choices);
    let again = run(&Config { timeline: true, ..config.clone() }, &mut player);
    let same = player.misaligned().is_none() && again == story.outcome;
    println!(
        "\n3. Replayed: {} (hash {:016x}, {} steps).",
        if same { "the same run, step by step" } else { "NOT the same run: this is a bug in sim" },
        again.hash,
        again.steps
    );

    println!(
        "\n4. The real engine through the same adversity (the device node late, closed or held open):"
    );
    let mut survived = true;
    for (deadlines, words) in
        [(Deadlines::DEFAULT, "with its deadlines"), (Deadlines::NONE, "waiting for ever")]
    {
        let what = Hunt {
            config: Config { faults: config.faults, deadlines, ..Config::engine() },
            first_seed: 0,
            extent: Extent::Seeds(engine_seeds / 2),
            jobs,
            keep_going: false,
        };
        let bag = hunt_with_progress(&what);
        match bag.findings.first() {
            None => println!("   {words}, it survived all {} schedules.", bag.schedules),
            Some(finding) => {
                survived = false;
                let headline = report::headline(&finding.outcome, layout);
                println!("   {words}, it is NOT clean with seed {}: {headline}", finding.seed);
            }
        }
    }
    if survived {
        println!("   Every schedule ended with the device deleted and nothing left behind.");
    }
    println!("\nDone in {:.1} s.", started.elapsed().as_secs_f64());
    println!(
        "Replay it yourself: cargo run --release -p sim -- run --specimen {} --seed {}",
        specimen.name(),
        finding.seed
    );
    u8::from(!(story.outcome.verdict == Verdict::Deadlock && same && survived))
}
