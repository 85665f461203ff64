//! `sim demo`: a start-up deadlock, found, explained and replayed; then the engine through the same adversity.

use std::time::Instant;

use blkproof_engine::supervisor::Deadlines;

use super::hunt::{hunt_with_progress, jobs};
use super::print::print;
use super::{Failure, INTERRUPTED, MINIMISE_ATTEMPTS, layout};
use crate::config::Config;
use crate::drivers::Player;
use crate::hunt::{Extent, Hunt};
use crate::minimise::minimise;
use crate::outcome::{Outcome, Verdict};
use crate::report::{self, wrap};
use crate::run::run;
use crate::specimens::Specimen;

/// Lines that the story may take, with what was found and who waits for whom.
const STORY_LINES: usize = 30;
/// Lines of the timeline that are shown however much the rest takes.
const TIMELINE_LINES_MIN: usize = 8;
/// Seeds after which the specimen must have been found.
const SEEDS_MAX: u64 = 100_000;

/// The story and what explains it, in [`STORY_LINES`].
fn story(outcome: &Outcome) -> String {
    let layout = layout(usize::MAX);
    let mut end = wrap(&report::headline(outcome, layout), "\n   ", "   ", layout.width);
    end.push_str(&report::waits(outcome, layout));
    let lines_max = STORY_LINES.saturating_sub(end.lines().count()).max(TIMELINE_LINES_MIN);
    report::story(outcome, report::Layout { lines_max, ..layout }) + &end
}

/// Shows it all. `engine_seeds` are shared between the engine's two configurations.
pub(super) fn demo(engine_seeds: u64) -> Result<u8, Failure> {
    let started = Instant::now();
    let specimen = Specimen::named("async-init");
    let width = layout(0).width;
    let hunting = format!("Hunting {}: {}.", specimen.name(), specimen.exhibit().summary);
    print(&wrap(&hunting, "1. ", "   ", width))?;
    print(&format!("   Source: {}\n\n", specimen.exhibit().source))?;
    let jobs = jobs(None);
    let config = specimen.config();
    let what = Hunt { jobs, ..Hunt::new(config.clone(), Extent::Seeds(SEEDS_MAX)) };
    let bag = hunt_with_progress(&what);
    let Some(finding) = bag.findings.first() else {
        if bag.interrupted {
            return interrupted();
        }
        print(&format!("   NOT found in {} schedules: this is a bug in sim.\n", bag.schedules))?;
        return Ok(1);
    };
    print(&format!(
        "2. Found with seed {} after {} schedule(s), and made short:\n\n",
        finding.seed, bag.schedules
    ))?;
    let short = minimise(&config, &finding.choices, MINIMISE_ATTEMPTS);
    print(&story(&short.outcome))?;

    let mut player = Player::new(&short.choices);
    let again = run(&Config { timeline: true, ..config.clone() }, &mut player);
    let same = player.misaligned().is_none() && player.left_over() == 0 && again == short.outcome;
    print(&format!(
        "\n3. Replayed: {} (hash {:016x}, {} steps).\n\n",
        if same { "the same run, step by step" } else { "NOT the same run: this is a bug in sim" },
        again.hash,
        again.steps
    ))?;

    let engine =
        "The real engine through the same adversity (the device node late, closed or held open):";
    print(&wrap(engine, "4. ", "   ", width))?;
    let mut survived = true;
    for (deadlines, words) in
        [(Deadlines::DEFAULT, "with its deadlines"), (Deadlines::NONE, "waiting for ever")]
    {
        let config = Config { faults: config.faults, deadlines, ..Config::engine() };
        let extent = Extent::Seeds(engine_seeds.div_ceil(2));
        let what = Hunt { jobs, ..Hunt::new(config, extent) };
        let bag = hunt_with_progress(&what);
        if let Some(finding) = bag.findings.first() {
            survived = false;
            let headline = report::headline(&finding.outcome, layout(0));
            let line = format!("{words}, it is NOT clean with seed {}: {headline}", finding.seed);
            print(&wrap(&line, "   ", "   ", width))?;
        } else if bag.interrupted {
            print(&format!("   {words}, it survived {} schedules so far.\n", bag.schedules))?;
            return interrupted();
        } else {
            print(&format!("   {words}, it survived all {} schedules.\n", bag.schedules))?;
        }
    }
    if survived {
        print("   Every schedule ended with the device deleted and nothing left behind.\n")?;
    }
    print(&format!(
        "\nDone in {:.1} s.\nReplay it yourself: cargo run --release -p sim -- run --specimen {} --seed {}\n",
        started.elapsed().as_secs_f64(),
        specimen.name(),
        finding.seed
    ))?;
    Ok(u8::from(!(short.outcome.verdict == Verdict::Deadlock && same && survived)))
}

fn interrupted() -> Result<u8, Failure> {
    print("   Interrupted: nothing is shown by this run.\n")?;
    Ok(INTERRUPTED)
}
