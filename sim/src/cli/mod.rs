//! The command line of `sim`.

mod args;
mod demo;

use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use std::{fs, thread};

use clap::Parser as _;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::json;

use crate::config::Config;
use crate::describe::{config_lines, subject_name};
use crate::drivers::{Player, Random, Recorder};
use crate::findings;
use crate::hunt::{Bag, Extent, Finding, Hunt, hunt};
use crate::minimise::{Story, minimise};
use crate::outcome::{Outcome, Verdict};
use crate::report::{self, Layout};
use crate::run::run;
use crate::specimens::Specimen;
use crate::tape::Tape;
use args::{Args, Command, HuntArgs, RunArgs};

/// Usage errors, unreadable and unwritable files, tapes that do not fit this version.
const USAGE: u8 = 2;
/// Runs spent on making a finding's story short.
const MINIMISE_ATTEMPTS: u32 = 4_000;

/// Set by Ctrl-C.
static STOP: AtomicBool = AtomicBool::new(false);

/// An error for the user: what was attempted, what the system answered, what to do next.
struct Failure(String);

impl<E: std::error::Error> From<E> for Failure {
    fn from(error: E) -> Self {
        Self(error.to_string())
    }
}

/// Runs the program.
pub fn main() -> ExitCode {
    let args = Args::parse();
    let interrupt = || {
        if STOP.swap(true, Ordering::Relaxed) {
            std::process::exit(130);
        }
    };
    // Without the handler Ctrl-C ends the program at once, which loses nothing but the summary.
    let _ = ctrlc::set_handler(interrupt);
    let result = match args.command {
        Command::Demo { seeds } => Ok(demo::demo(seeds)),
        Command::List { json } => {
            list(json);
            Ok(0)
        }
        Command::Run(args) => run_one(&args),
        Command::Hunt(args) => run_hunt(&args),
        Command::Replay { tape, json } => replay(&tape, json),
    };
    match result {
        Ok(code) => ExitCode::from(code),
        Err(Failure(text)) => {
            eprintln!("sim: {text}");
            ExitCode::from(USAGE)
        }
    }
}

/// The layout for standard output.
fn layout(lines_max: usize) -> Layout {
    let (_, columns) = console::Term::stdout().size();
    let terminal = std::io::stdout().is_terminal();
    let width = if terminal { usize::from(columns).max(60) } else { Layout::FILE.width };
    let colour = terminal && std::env::var_os("NO_COLOR").is_none();
    Layout { width, lines_max, colour }
}

/// Prints one JSON object, alone on standard output.
fn print_json(value: &serde_json::Value) {
    println!("{value}");
}

fn list(json: bool) {
    if json {
        let all: Vec<_> = Specimen::all()
            .iter()
            .map(|specimen| {
                json!({
                    "name": specimen.name(),
                    "expected": specimen.expected().name(),
                    "source": specimen.source(),
                    "summary": specimen.summary(),
                })
            })
            .collect();
        print_json(&json!({ "specimens": all }));
        return;
    }
    println!("Known-bad servers. Hunt one with: sim hunt --specimen NAME --seeds 10000\n");
    for specimen in Specimen::all() {
        println!("{:<24} {}", specimen.name(), specimen.summary());
        println!(
            "{:<24} found as {}; source: {}\n",
            "",
            specimen.expected().name(),
            specimen.source()
        );
    }
}

/// A progress bar on standard error, if that is a terminal.
fn bar(extent: Extent) -> ProgressBar {
    let (bar, template) = match extent {
        Extent::Seeds(seeds) => (
            ProgressBar::new(seeds),
            "{spinner} {human_pos}/{human_len} schedules  {per_sec}  about {eta} left",
        ),
        Extent::Time(_) => {
            (ProgressBar::new_spinner(), "{spinner} {human_pos} schedules  {per_sec}  {elapsed}")
        }
    };
    if !std::io::stderr().is_terminal() {
        bar.set_draw_target(ProgressDrawTarget::hidden());
    }
    bar.set_style(
        ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()),
    );
    bar.enable_steady_tick(Duration::from_millis(100));
    bar
}

fn hunt_with_progress(what: &Hunt) -> Bag {
    let bar = bar(what.extent);
    let bag = hunt(what, &STOP, &|runs| bar.set_position(runs));
    bar.finish_and_clear();
    bag
}

/// The tape of a run.
fn tape_of(config: &Config, seed: Option<u64>, outcome: &Outcome, story: &Story) -> Tape {
    Tape {
        config: config.clone(),
        seed,
        verdict: outcome.verdict.name().to_owned(),
        hash: story.outcome.hash,
        choices: story.choices.clone(),
    }
}

/// Shortens a finding and keeps it on disk. Returns the story and the tape's path.
fn keep(config: &Config, finding: &Finding, dir: &Path) -> Result<(Story, PathBuf), Failure> {
    let story = minimise(config, &finding.choices, MINIMISE_ATTEMPTS);
    let tape = tape_of(config, Some(finding.seed), &finding.outcome, &story);
    let path = findings::write(dir, &tape, config, &story.outcome).map_err(|(path, error)| {
        Failure(format!(
            "writing the finding to {} failed: {error}. Name a writable directory with --findings DIR.",
            path.display()
        ))
    })?;
    Ok((story, path))
}

fn run_one(args: &RunArgs) -> Result<u8, Failure> {
    let config = args.what.config()?;
    let mut recorder = Recorder::new(Random::new(args.seed));
    let outcome = run(&config, &mut recorder);
    let clean = outcome.verdict == Verdict::Clean;
    let finding = Finding { seed: args.seed, choices: recorder.choices, outcome };
    if clean {
        if args.output.json {
            print_json(&summary(&config, Some(args.seed), 1, None, &finding.outcome));
        } else {
            println!(
                "clean: seed {}, {} steps, {} us of virtual time, hash {:016x}",
                args.seed, finding.outcome.steps, finding.outcome.time_us, finding.outcome.hash
            );
        }
        return Ok(0);
    }
    let (story, tape) = keep(&config, &finding, &args.output.findings)?;
    if args.output.json {
        print_json(&summary(&config, Some(args.seed), 1, Some(&tape), &story.outcome));
    } else {
        print_finding(&config, args.seed, &story, &tape);
    }
    Ok(story.outcome.verdict.exit_code())
}

fn print_finding(config: &Config, seed: u64, story: &Story, tape: &Path) {
    let layout = layout(40);
    println!("{}", report::headline(&story.outcome, layout));
    println!("{}, seed {seed}\n", subject_name(config.subject));
    print!("{}", report::story(&story.outcome, layout));
    if !story.outcome.waits.is_empty() {
        println!("\nWho waits for whom");
        print!("{}", report::waits(&story.outcome, layout));
    }
    println!(
        "\nThe tape and the whole report are in {}. Replay with:",
        tape.with_file_name("").display()
    );
    println!("cargo run --release -p sim -- replay {}", tape.display());
}

/// What every `--json` prints.
fn summary(
    config: &Config,
    seed: Option<u64>,
    schedules: u64,
    tape: Option<&Path>,
    outcome: &Outcome,
) -> serde_json::Value {
    let config: serde_json::Map<_, _> = config_lines(config)
        .into_iter()
        .map(|(key, value)| (key.to_owned(), value.into()))
        .collect();
    json!({
        "verdict": outcome.verdict.name(),
        "oracle": outcome.oracle,
        "finding": outcome.finding,
        "seed": seed,
        "schedules": schedules,
        "steps": outcome.steps,
        "hash": format!("{:016x}", outcome.hash),
        "tape": tape.map(|tape| tape.display().to_string()),
        "config": config,
    })
}

fn run_hunt(args: &HuntArgs) -> Result<u8, Failure> {
    let config = args.what.config()?;
    let extent = args.time.map_or(Extent::Seeds(args.seeds), Extent::Time);
    let jobs = match args.jobs {
        Some(jobs) => jobs.get().into(),
        None => thread::available_parallelism().map_or(1, std::num::NonZero::get),
    };
    let what = Hunt {
        config: config.clone(),
        first_seed: args.first_seed,
        extent,
        jobs,
        keep_going: args.keep_going,
    };
    let bag = hunt_with_progress(&what);
    let mut code = 0;
    let mut kept = Vec::new();
    for finding in &bag.findings {
        code = code.max(finding.outcome.verdict.exit_code());
        kept.push((finding, keep(&config, finding, &args.output.findings)?));
    }
    if args.output.json {
        let first = kept.first();
        let outcomes: Vec<_> = kept
            .iter()
            .map(|(finding, (story, tape))| {
                summary(&config, Some(finding.seed), bag.schedules, Some(tape), &story.outcome)
            })
            .collect();
        print_json(&json!({
            "verdict": first.map_or("clean", |(_, (story, _))| story.outcome.verdict.name()),
            "seed": first.map(|(finding, _)| finding.seed),
            "schedules": bag.schedules,
            "steps": bag.steps,
            "found": bag.found,
            "interrupted": bag.interrupted,
            "tape": first.map(|(_, (_, tape))| tape.display().to_string()),
            "findings": outcomes,
        }));
        return Ok(code);
    }
    let interrupted = if bag.interrupted { ", interrupted" } else { "" };
    println!(
        "{}: {} schedules, {} not clean{interrupted}",
        subject_name(config.subject),
        bag.schedules,
        bag.found
    );
    for (finding, (story, tape)) in &kept {
        println!();
        print_finding(&config, finding.seed, story, tape);
    }
    Ok(code)
}

fn replay(path: &Path, json: bool) -> Result<u8, Failure> {
    let text = fs::read_to_string(path).map_err(|error| {
        Failure(format!(
            "reading the tape {} failed: {error}. Check the path; `sim hunt` prints where it wrote one.",
            path.display()
        ))
    })?;
    let tape = Tape::from_text(&text)
        .map_err(|error| Failure(format!("{} is not a tape: {error}", path.display())))?;
    let config = Config { timeline: true, ..tape.config.clone() };
    let mut player = Player::new(&tape.choices);
    let outcome = run(&config, &mut player);
    let astray = match (player.misaligned(), player.left_over()) {
        (Some(misaligned), _) => Some(misaligned.to_string()),
        (None, 0) => None,
        (None, left) => Some(format!("the run ended with {left} choices of the tape left over")),
    };
    if let Some(astray) = astray {
        return Err(Failure(format!(
            "the tape {} does not fit this version: {astray}. It was recorded with other rules; hunt again, or replay at the commit that recorded it.",
            path.display()
        )));
    }
    let same = outcome.hash == tape.hash;
    if json {
        let mut value = summary(&config, tape.seed, 1, Some(path), &outcome);
        value["same"] = same.into();
        print_json(&value);
    } else {
        print!("{}", report::text(&config, &outcome, layout(usize::MAX)));
        let word = if same { "the same run" } else { "NOT the same run" };
        println!("{word}: recorded hash {:016x}, replayed hash {:016x}", tape.hash, outcome.hash);
    }
    if same { Ok(outcome.verdict.exit_code()) } else { Ok(USAGE) }
}
