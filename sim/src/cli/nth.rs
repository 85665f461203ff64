//! `sim hunt --nth-fault`.

use std::fmt::Write as _;

use serde_json::json;

use super::args::HuntArgs;
use super::hunt::{Campaign, add_findings, bar, exit_code, findings_json, jobs};
use super::print::print;
use super::progress::Lines;
use super::{Failure, STOP, print_json};
use crate::config::{Config, Faults};
use crate::describe::subject_name;
use crate::hunt::Finding;
use crate::nth::{Covered, Loop, go_through};
use crate::results::{Header, Line};
use crate::shard::Assigned;

/// Goes through every opportunity of every kind of fault, keeps what was found, and prints what was covered.
pub(super) fn hunt(
    args: &HuntArgs,
    mut config: Config,
    part: Assigned,
    faults: u8,
) -> Result<u8, Failure> {
    if config.faults == Faults::NONE {
        config.faults = Faults::ALL;
    }
    let what = Loop {
        config,
        pairs: faults == 2,
        first_seed: args.first_seed,
        seeds: args.seeds.unwrap_or(1),
        time: args.time,
        shard: part.shard,
        jobs: jobs(args.jobs),
        keep_going: args.keep_going,
    };
    let campaign = Campaign::begin(args, part, Header::of_loop(&what))?;
    let bar = bar(None, args.time);
    let lines = Lines::new(args.part.results.is_some(), None);
    let progress = |runs| {
        bar.set_position(runs);
        lines.tell(runs);
    };
    let tell = |finding: &Finding| {
        bar.set_message(format!("not clean: {}", finding.outcome.oracle));
        campaign.tell(finding);
    };
    let covered = go_through(&what, &STOP, &progress, &tell);
    bar.finish_and_clear();
    let findings: Vec<_> =
        covered.findings.iter().map(|one| (&one.finding, one.by.clone())).collect();
    let kept = campaign.keep(&findings)?;
    let code = exit_code(covered.interrupted, &kept);
    campaign.end(&Line::Summary {
        schedules: covered.schedules,
        steps: covered.steps,
        found: covered.found,
        hazards: std::collections::BTreeMap::new(),
        // Out of time is no end either: what was left out is not covered.
        interrupted: !covered.complete(),
    });
    if args.output.json {
        print_json(&json!({
            "verdict": kept.first().map_or("clean", |(_, story, ..)| story.outcome.verdict.name()),
            "nth_fault": faults,
            "shard": campaign.shard_json(),
            "complete": covered.complete(),
            "schedules": covered.schedules,
            "steps": covered.steps,
            "found": covered.found,
            "interrupted": covered.interrupted,
            "covered": covered.parts.iter().map(|part| json!({
                "seed": part.seed,
                "first": part.first,
                "second": part.second,
                "opportunities": part.opportunities,
                "runs": part.runs,
                "complete": part.complete,
            })).collect::<Vec<_>>(),
            "findings": findings_json(&kept, covered.schedules),
        }))?;
    } else {
        let mut text = campaign.shard_text();
        text.push_str(&table(&what, &covered));
        add_findings(&mut text, &kept);
        print(&text)?;
    }
    campaign.close()?;
    Ok(code)
}

/// What was covered, a line for each kind of fault that strikes first; sums over seeds and second kinds.
fn table(what: &Loop, covered: &Covered) -> String {
    let mut text = String::new();
    let subject = subject_name(what.config.subject);
    let two = if what.pairs { "every two faults" } else { "every fault" };
    let _ = writeln!(
        text,
        "{subject}: {two}, {} seed(s) from {}: {} schedules, {} not clean",
        what.seeds, what.first_seed, covered.schedules, covered.found
    );
    let second = if what.pairs { "  seconds" } else { "" };
    let _ = writeln!(text, "\n{:<10}{:>14}{:>12}{second}", "fault", "opportunities", "runs");
    for (kind, rate) in what.config.faults.rates() {
        let of_it = || covered.parts.iter().filter(|part| part.first == kind);
        if rate == 0 || of_it().next().is_none() {
            continue;
        }
        let seeds: std::collections::BTreeMap<u64, u64> = of_it()
            .map(|part| (part.seed, part.opportunities))
            .fold(std::collections::BTreeMap::new(), |mut most, (seed, opportunities)| {
                let known = most.entry(seed).or_insert(0);
                *known = opportunities.max(*known);
                most
            });
        let opportunities: u64 = seeds.values().sum();
        let runs: u64 = of_it().map(|part| part.runs).sum();
        let _ = write!(text, "{kind:<10}{opportunities:>14}{runs:>12}");
        if what.pairs {
            let kinds = of_it().filter(|part| part.runs > 0).count();
            let _ = write!(text, "{kinds:>9}");
        }
        let open = of_it().filter(|part| !part.complete).count();
        let note = if open > 0 { format!("  NOT complete: {open} part(s)") } else { String::new() };
        let _ = writeln!(text, "{note}");
    }
    let open = covered.parts.iter().filter(|part| !part.complete).count();
    if open == 0 {
        let _ = writeln!(text, "\ncomplete: every opportunity of these kinds");
    } else {
        let _ = writeln!(
            text,
            "\nNOT complete: {open} of {} parts were not gone through to their end",
            covered.parts.len()
        );
    }
    text
}
