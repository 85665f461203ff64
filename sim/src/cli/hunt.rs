//! `sim hunt`.

use std::io::{self, IsTerminal as _};
use std::thread;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::json;

use super::args::HuntArgs;
use super::print::print;
use super::{Failure, INTERRUPTED, STOP, finding_text, how, keep, print_json, summary};
use crate::describe::subject_name;
use crate::hunt::{Bag, Extent, Finding, Hunt, hunt_telling};

/// A progress bar on standard error, if that is a terminal.
fn bar(what: &Hunt) -> ProgressBar {
    let (bar, template) = match what.extent {
        Extent::Seeds(seeds) => (
            ProgressBar::new(what.shard.seeds(seeds)),
            "{spinner} {human_pos}/{human_len} schedules  {per_sec}  about {eta} left  {msg}",
        ),
        Extent::Time(_) => (
            ProgressBar::new_spinner(),
            "{spinner} {human_pos} schedules  {per_sec}  {elapsed} of {prefix}  {msg}",
        ),
    };
    if !io::stderr().is_terminal() {
        bar.set_draw_target(ProgressDrawTarget::hidden());
    }
    if let Extent::Time(time) = what.extent {
        bar.set_prefix(format!("{}s", time.as_secs()));
    }
    bar.set_style(
        ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()),
    );
    bar.enable_steady_tick(Duration::from_millis(100));
    bar
}

/// Hunts with a progress bar.
pub(super) fn hunt_with_progress(what: &Hunt) -> Bag {
    hunt_with(what, &|_| {})
}

fn hunt_with(what: &Hunt, tell: &(dyn Fn(&Finding) + Sync)) -> Bag {
    let bar = bar(what);
    let told = |finding: &Finding| {
        bar.set_message(format!("not clean: {}", finding.outcome.oracle));
        tell(finding);
    };
    let bag = hunt_telling(what, &STOP, &|runs| bar.set_position(runs), &told);
    bar.finish_and_clear();
    bag
}

/// Threads, as asked for or one for each CPU.
fn jobs(args: &HuntArgs) -> usize {
    match args.jobs {
        Some(jobs) => jobs.get().into(),
        None => thread::available_parallelism().map_or(1, std::num::NonZero::get),
    }
}

/// Hunts, keeps what was found, and prints it.
pub(super) fn hunt(args: &HuntArgs) -> Result<u8, Failure> {
    let config = args.what.config()?;
    let extent = args.time.map_or(Extent::Seeds(args.seeds), Extent::Time);
    if args.time.is_none() && args.first_seed.checked_add(args.seeds - 1).is_none() {
        return Err(Failure(format!(
            "hunting {} seeds from {} failed: the largest seed is {}. Ask for fewer with --seeds.",
            args.seeds,
            args.first_seed,
            u64::MAX
        )));
    }
    let (swarm, driver) = how(&args.what, &args.how);
    let what = Hunt {
        strategy: args.how.driver,
        swarm,
        first_seed: args.first_seed,
        jobs: jobs(args),
        keep_going: args.keep_going,
        ..Hunt::new(config, extent)
    };
    let bag = hunt_with_progress(&what);
    let stopped = bag.interrupted && bag.findings.is_empty();
    let mut code = if stopped { INTERRUPTED } else { 0 };
    let mut kept = Vec::new();
    for finding in &bag.findings {
        code = code.max(finding.outcome.verdict.exit_code());
        kept.push((finding, keep(finding, &driver, &args.output.findings)?));
    }
    if args.output.json {
        let first = kept.first();
        let outcomes: Vec<_> = kept
            .iter()
            .map(|(finding, (story, tape))| {
                let (config, seed) = (&finding.config, Some(finding.seed));
                summary(config, seed, bag.schedules, Some(tape), &story.outcome)
            })
            .collect();
        print_json(&json!({
            "verdict": first.map_or("clean", |(_, (story, _))| story.outcome.verdict.name()),
            "seed": first.map(|(finding, _)| finding.seed),
            "driver": args.how.driver.to_string(),
            "swarm": what.swarm.as_ref().map(ToString::to_string),
            "schedules": bag.schedules,
            "steps": bag.steps,
            "found": bag.found,
            "interrupted": bag.interrupted,
            "tape": first.map(|(_, (_, tape))| tape.display().to_string()),
            "findings": outcomes,
        }))?;
        return Ok(code);
    }
    let interrupted = if bag.interrupted { ", interrupted" } else { "" };
    let mut text = format!(
        "{}: {} schedules, {} not clean{interrupted}\n",
        subject_name(what.config.subject),
        bag.schedules,
        bag.found
    );
    for (finding, (story, tape)) in &kept {
        text.push('\n');
        text.push_str(&finding_text(finding, &driver, story, tape));
    }
    print(&text)?;
    Ok(code)
}
