//! `sim museum`: every specimen is hunted, and the table says what it took.

use std::fmt::Write as _;
use std::sync::atomic::Ordering;
use std::time::Duration;

use indicatif::ProgressBar;
use serde_json::{Value, json};

use super::args::MuseumArgs;
use super::hunt::{jobs, shown as shown_bar};
use super::print::print;
use super::{Failure, INTERRUPTED, STOP, print_json};
use crate::museum::{DRIVERS, Hunted, Search, Shown, round};
use crate::specimens::Specimen;

/// A specimen was not found, or something else was.
const MISSED: u8 = 1;

/// Hunts the specimens, prints what came of it, and returns the exit code.
pub(super) fn museum(args: &MuseumArgs) -> Result<u8, Failure> {
    let specimens: Vec<Specimen> =
        if args.only.is_empty() { Specimen::all().collect() } else { args.only.clone() };
    let budget = Duration::from_secs(args.seconds.into());
    let bar = ProgressBar::new(specimens.len() as u64);
    let bar = shown_bar(bar, "{spinner} {pos}/{len} specimens  {elapsed}");
    let shown = round(&specimens, budget, jobs(args.jobs), &STOP, &|_| bar.inc(1));
    bar.finish_and_clear();
    let found = shown.iter().filter(|one| one.is_found()).count();
    if args.json {
        let shown: Vec<Value> = shown.iter().map(describe).collect();
        let object = json!({
            "specimens": specimens.len(),
            "found": found,
            "interrupted": STOP.load(Ordering::Relaxed),
            "shown": shown,
        });
        print_json(&object)?;
    } else {
        print(&table(&shown))?;
        let of = specimens.len();
        print(&format!("\n{found} of {of} specimens found.\n"))?;
    }
    Ok(match found == specimens.len() {
        true => 0,
        false if STOP.load(Ordering::Relaxed) => INTERRUPTED,
        false => MISSED,
    })
}

fn describe(shown: &Shown) -> Value {
    let exhibit = shown.specimen.exhibit();
    let hunts: Vec<Value> = shown.hunts.iter().map(describe_hunts).collect();
    json!({
        "name": exhibit.name,
        "classes": exhibit.classes,
        "expected": shown.specimen.expected().name(),
        "oracles": exhibit.oracles,
        "found": shown.is_found(),
        "hunts": hunts,
    })
}

fn describe_hunts(hunted: &Hunted) -> Value {
    let searches: Vec<Value> = hunted
        .searches
        .iter()
        .map(|search| match search {
            Search::Found { seed, schedules, time } => json!({
                "found": true, "seed": seed, "schedules": schedules, "seconds": time.as_secs_f64(),
            }),
            Search::Missed { schedules } => json!({ "found": false, "schedules": schedules }),
            Search::Stray { seed, verdict, oracle, finding } => json!({
                "found": false, "seed": seed, "verdict": verdict.name(), "oracle": oracle, "finding": finding,
            }),
        })
        .collect();
    json!({
        "driver": hunted.driver.to_string(),
        "kernel": hunted.kernel.to_string(),
        "searches": searches,
    })
}

/// One line for each specimen, and what went wrong below it.
fn table(shown: &[Shown]) -> String {
    let mut text = String::new();
    let line = |cells: [&str; 4]| {
        let [name, classes, oracle, kernels] = cells;
        format!("{name:<33} {classes:<9} {oracle:<18} {kernels:<13}")
    };
    text.push_str(&line(["specimen", "stands for", "found as", "kernels"]));
    for driver in DRIVERS {
        let _ = write!(text, " {:>16}", driver.to_string());
    }
    text.push('\n');
    for one in shown {
        let exhibit = one.specimen.exhibit();
        let kernels: Vec<String> = exhibit.kernels.iter().map(ToString::to_string).collect();
        let (classes, oracles) = (exhibit.classes.join(" "), exhibit.oracles.join("/"));
        text.push_str(&line([exhibit.name, &classes, &oracles, &kernels.join(" ")]));
        for hunted in one.at_home() {
            let what = match hunted.median() {
                Some(Search::Found { schedules, time, .. }) => {
                    format!("{schedules} in {}", milliseconds(*time))
                }
                Some(_) | None => "not found".to_owned(),
            };
            let _ = write!(text, " {what:>16}");
        }
        text.push('\n');
        for hunted in &one.hunts {
            missed(&mut text, hunted);
        }
    }
    text
}

/// What other than the specimen its hunts came to.
fn missed(text: &mut String, hunted: &Hunted) {
    let (driver, kernel) = (hunted.driver, hunted.kernel);
    for search in &hunted.searches {
        let what = match search {
            Search::Found { .. } => continue,
            Search::Missed { schedules } => format!("{schedules} schedules were clean"),
            Search::Stray { seed, verdict, oracle, finding } => {
                format!("seed {seed} is {} ({oracle}): {finding}", verdict.name())
            }
        };
        let _ = writeln!(text, "    not found by {driver} on {kernel}: {what}");
    }
}

fn milliseconds(time: Duration) -> String {
    let ms = time.as_secs_f64() * 1e3;
    if ms < 10.0 { format!("{ms:.1} ms") } else { format!("{ms:.0} ms") }
}
