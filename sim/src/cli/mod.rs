//! The command line of `sim`.

mod args;
mod demo;
mod hunt;
mod merge;
mod museum;
mod nth;
mod print;
mod progress;

use std::ffi::OsString;
use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, IsTerminal as _, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};

use blkproof_engine::uapi::KernelSeries;
use clap::Parser as _;
use serde_json::json;

use crate::config::Config;
use crate::describe::{config_lines, subject_name};
use crate::drivers::{Player, Recorder};
use crate::findings;
use crate::hunt::Finding;
use crate::minimise::{Story, minimise};
use crate::outcome::{Outcome, Verdict};
use crate::report::{self, Layout};
use crate::run::run;
use crate::script::generate::generate;
use crate::script::{Script, model};
use crate::specimens::{Exhibit, Specimen};
use crate::strategy::Strategy;
use crate::swarm::Swarm;
use crate::tape::Tape;
use crate::trace::{self, Recording};
use args::{Args, Command, How, RunArgs, What};
use print::print;

/// Usage errors, unreadable and unwritable files, tapes that do not fit this version.
const USAGE: u8 = 2;
/// Ended by Ctrl-C before anything was found; a shell says the same of a program that SIGINT killed.
const INTERRUPTED: u8 = 130;
/// Bytes of a file that can be a tape.
const TAPE_MAX: u64 = 64 << 20;
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
            std::process::exit(INTERRUPTED.into());
        }
    };
    // Without the handler Ctrl-C ends the program at once, which loses nothing but the summary.
    let _ = ctrlc::set_handler(interrupt);
    let result = match args.command {
        Command::Demo { seeds } => demo::demo(seeds),
        Command::List { json } => list(json).map(|()| 0),
        Command::Museum(args) => museum::museum(&args),
        Command::Run(args) => run_one(&args),
        Command::Hunt(args) => hunt::hunt(&args),
        Command::Merge { files, json } => merge::merge(&files, json),
        Command::Replay { tape, json } => replay(&tape, json),
        Command::CheckTrace { files, kernel, json } => check_trace(&files, kernel, json),
        Command::Script { file: Some(file), .. } => script(&file).map(|()| 0),
        Command::Script { file: None, seed, kernel } => {
            let seed = seed.unwrap_or_default();
            print(&generate(kernel, seed).to_string()).map(|()| 0)
        }
    };
    match result {
        Ok(code) => ExitCode::from(code),
        Err(Failure(text)) => {
            // With standard error gone too, the exit code is all that is left to say it.
            let _ = writeln!(io::stderr(), "sim: {text}");
            ExitCode::from(USAGE)
        }
    }
}

/// Reads a command line as the program does, and does nothing.
///
/// # Errors
/// What is wrong with it, for people; also for `--help` and `--version`, which end the program.
pub fn understand(arguments: impl IntoIterator<Item = OsString>) -> Result<(), String> {
    let args = Args::try_parse_from(arguments).map_err(|error| error.to_string())?;
    let what = match &args.command {
        Command::Run(args) => &args.what,
        Command::Hunt(args) => &args.what,
        Command::Demo { .. }
        | Command::List { .. }
        | Command::Merge { .. }
        | Command::Museum(_)
        | Command::Replay { .. }
        | Command::CheckTrace { .. }
        | Command::Script { .. } => return Ok(()),
    };
    what.config().map(|_| ()).map_err(|unknown| unknown.to_string())
}

/// The layout for standard output.
fn layout(lines_max: usize) -> Layout {
    let (_, columns) = console::Term::stdout().size();
    let terminal = io::stdout().is_terminal();
    let width = if terminal { usize::from(columns).max(60) } else { Layout::FILE.width };
    let plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let colour = terminal && !plain;
    Layout { width, lines_max, colour }
}

/// Prints one JSON object, alone on standard output.
fn print_json(value: &serde_json::Value) -> Result<(), Failure> {
    print(&format!("{value}\n"))
}

fn list(json: bool) -> Result<(), Failure> {
    if json {
        let all: Vec<_> = Specimen::all()
            .map(|specimen| {
                let exhibit = specimen.exhibit();
                let kernels: Vec<_> = exhibit.kernels.iter().map(ToString::to_string).collect();
                json!({
                    "name": exhibit.name,
                    "classes": exhibit.classes,
                    "kernels": kernels,
                    "engine": specimen.is_mutant(),
                    "expected": specimen.expected().name(),
                    "oracles": exhibit.oracles,
                    "source": exhibit.source,
                    "summary": exhibit.summary,
                })
            })
            .collect();
        return print_json(&json!({ "specimens": all }));
    }
    let mut text = "Known-bad servers, and the engine with one rule broken. Hunt one with: sim hunt --specimen NAME\n".to_owned();
    for specimen in Specimen::all() {
        let Exhibit { name, classes, source, summary, oracles, .. } = specimen.exhibit();
        let _ = writeln!(text, "\n{name:<33} {summary}");
        let (found, classes) = (oracles.join(" or "), classes.join(", "));
        let _ = writeln!(
            text,
            "{:<33} {classes}; found as {} ({found}); source: {source}",
            "",
            specimen.expected().name()
        );
    }
    print(&text)
}

fn script(file: &Path) -> Result<(), Failure> {
    let text = std::fs::read_to_string(file)
        .map_err(|error| Failure(format!("reading {} failed: {error}", file.display())))?;
    let script: Script = text
        .parse()
        .map_err(|error| Failure(format!("{} is not a script: {error}", file.display())))?;
    for &kernel in &script.kernels {
        let mut text = format!("On {kernel} may be observed:\n");
        let allowed = model::allowed(&script, kernel);
        for ((number, step), allowed) in (1..).zip(&script.steps).zip(&allowed) {
            let _ = writeln!(text, "{number:2}. {step}");
            for (nth, observation) in allowed.iter().enumerate() {
                let or = if nth == 0 { "" } else { "  or\n" };
                let _ = write!(text, "{or}{observation}");
            }
        }
        if allowed.len() < script.steps.len() {
            text.push_str("  here a kernel may crash\n");
        }
        print(&text)?;
    }
    Ok(())
}

fn check_trace(files: &[PathBuf], kernel: Option<KernelSeries>, json: bool) -> Result<u8, Failure> {
    let recording = Recording::open(files)
        .map_err(|error| Failure(format!("reading the recording failed: {error}")))?;
    let header = recording.header();
    let Some(kernel) = kernel.or_else(|| recording.kernel()) else {
        return Err(Failure(format!(
            "there is no model of Linux {}. Choose the nearest one with --kernel 6.12, 6.18 or 7.3.",
            header.release
        )));
    };
    let result = trace::check(&recording, kernel);
    if json {
        print_json(&json!({
            "ok": result.is_ok(),
            "kernel": kernel.to_string(),
            "release": header.release,
            "records": recording.records(),
            "requests": result.as_ref().map_or(None, |checked| Some(checked.requests)),
            "steps": result.as_ref().map_or(None, |checked| Some(checked.steps)),
            "cut": result.as_ref().map_or(&[][..], |checked| &checked.cut),
            "refused": result.as_ref().err().map(|refused| json!({
                "file": refused.file,
                "line": refused.line,
                "record": refused.record,
                "why": refused.why,
                "allowed": refused.allowed,
                "story": refused.story,
            })),
        }))?;
        return Ok(u8::from(result.is_err()));
    }
    match result {
        Ok(checked) => {
            let mut text = format!(
                "a run of the model of {kernel}, consumed to the end: {} records, {} requests, {} steps of the model\n",
                checked.records, checked.requests, checked.steps
            );
            for name in &checked.cut {
                let _ = writeln!(text, "{name} ends in the middle: its process was killed");
            }
            print(&text).map(|()| 0)
        }
        Err(refused) => print(&refused.to_string()).map(|()| 1),
    }
}

/// The tape of a run.
fn tape_of(finding: &Finding, driver: &str, story: &Story) -> Tape {
    Tape {
        config: finding.config.clone(),
        seed: Some(finding.seed),
        driver: driver.to_owned(),
        version: format!("blkproof {}", env!("CARGO_PKG_VERSION")),
        verdict: story.outcome.verdict,
        hash: story.outcome.hash,
        choices: story.choices.clone(),
    }
}

/// Shortens a finding and keeps it on disk. Returns the story and the tape's path. `driver` is for the tape's header.
fn keep(finding: &Finding, driver: &str, dir: &Path) -> Result<(Story, PathBuf), Failure> {
    let config = &finding.config;
    let story = minimise(config, &finding.choices, MINIMISE_ATTEMPTS);
    let tape = tape_of(finding, driver, &story);
    let path = findings::write(dir, &tape, config, &story.outcome).map_err(|(path, error)| {
        Failure(format!(
            "writing the finding to {} failed: {error}. Name a writable directory with --findings DIR.",
            path.display()
        ))
    })?;
    Ok((story, path))
}

fn run_one(args: &RunArgs) -> Result<u8, Failure> {
    let base = args.what.config()?;
    let (swarm, driver) = how(&args.what, &args.how);
    let config = swarm.map_or_else(|| base.clone(), |swarm| swarm.draw(&base, args.seed));
    let mut recorder = Recorder::new(args.how.driver.prepare(&base).source(args.seed));
    let outcome = run(&config, &mut recorder);
    let clean = outcome.verdict == Verdict::Clean;
    let (seed, choices) = (args.seed, recorder.choices);
    let finding = Finding { config: config.clone(), seed, choices, outcome };
    if clean {
        if args.output.json {
            print_json(&summary(&config, Some(args.seed), 1, None, &finding.outcome))?;
        } else {
            print(&format!(
                "clean: seed {}, {} steps, {} us of virtual time, hash {:016x}\n",
                args.seed, finding.outcome.steps, finding.outcome.time_us, finding.outcome.hash
            ))?;
        }
        return Ok(0);
    }
    let (story, tape) = keep(&finding, &driver, &args.output.findings)?;
    if args.output.json {
        print_json(&summary(&config, Some(args.seed), 1, Some(&tape), &story.outcome))?;
    } else {
        print(&finding_text(&finding, &driver, &story, &tape))?;
    }
    Ok(story.outcome.verdict.exit_code())
}

/// What each run may vary, and for a tape's header what else than random choices in the given configuration a seed stands for.
fn how(what: &What, how: &How) -> (Option<Swarm>, String) {
    let swarm = how.swarm.then(|| what.swarm());
    let mut driver = String::new();
    if how.driver != Strategy::Random || swarm.is_some() {
        driver = how.driver.to_string();
    }
    if let Some(swarm) = &swarm {
        let _ = write!(driver, ", swarm of {swarm}");
    }
    (swarm, driver)
}

fn finding_text(finding: &Finding, driver: &str, story: &Story, tape: &Path) -> String {
    let layout = layout(40);
    let headline = report::headline(&story.outcome, layout);
    let mut text = report::wrap(&headline, "", "  ", layout.width);
    let by = if driver.is_empty() { String::new() } else { format!(" of {driver}") };
    let subject = subject_name(finding.config.subject);
    let _ = writeln!(text, "{subject}, seed {}{by}\n", finding.seed);
    text.push_str(&report::story(&story.outcome, layout));
    if !story.outcome.waits.is_empty() {
        text.push_str("\nWho waits for whom\n");
        text.push_str(&report::waits(&story.outcome, layout));
    }
    let _ = writeln!(
        text,
        "\nThe tape and the whole report:\n{}\nReplay with:",
        tape.with_file_name("").display()
    );
    let _ = writeln!(text, "cargo run --release -p sim -- replay {}", shell_word(tape));
    text
}

/// The path as one word of a shell.
fn shell_word(path: &Path) -> String {
    let path = path.display().to_string();
    let plain = |c: char| c.is_alphanumeric() || "/._-+=:,@%".contains(c);
    if path.chars().all(plain) { path } else { format!("'{}'", path.replace('\'', r"'\''")) }
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

/// Reads a file that may be anything, even endless.
fn read_tape(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    File::open(path)?.take(TAPE_MAX + 1).read_to_string(&mut text)?;
    if text.len() as u64 > TAPE_MAX {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, "longer than any tape"));
    }
    Ok(text)
}

fn replay(path: &Path, json: bool) -> Result<u8, Failure> {
    let text = read_tape(path).map_err(|error| {
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
            "the tape {} does not fit this version: {astray}. {} recorded it, with other rules than those of this one, blkproof {}; hunt again, or replay at the commit that recorded it.",
            path.display(),
            if tape.version.is_empty() { "A version that does not say so" } else { &tape.version },
            env!("CARGO_PKG_VERSION")
        )));
    }
    let same = (outcome.hash, outcome.verdict) == (tape.hash, tape.verdict);
    if json {
        let mut value = summary(&config, tape.seed, 1, Some(path), &outcome);
        value["same"] = same.into();
        print_json(&value)?;
    } else {
        let mut text = report::text(&config, &outcome, layout(usize::MAX));
        let word = if same { "the same run" } else { "NOT the same run" };
        let _ = writeln!(
            text,
            "{word}: recorded {} with hash {:016x}, replayed {} with hash {:016x}",
            tape.verdict.name(),
            tape.hash,
            outcome.verdict.name(),
            outcome.hash
        );
        print(&text)?;
    }
    if same { Ok(outcome.verdict.exit_code()) } else { Ok(USAGE) }
}
