//! `sim hunt`.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{self, IsTerminal as _};
use std::num::NonZero;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::thread;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::json;

use super::args::HuntArgs;
use super::print::print;
use super::progress::Lines;
use super::{Failure, INTERRUPTED, STOP, finding_text, how, keep, print_json, summary};
use crate::config::Config;
use crate::describe::subject_name;
use crate::hunt::{Bag, Extent, Finding, Hunt, hunt_telling};
use crate::minimise::Story;
use crate::results::{Found, Header, Line, Writer};
use crate::shard::{Assigned, Shard, assigned};

/// Seeds of a hunt that says neither how many nor how long.
const SEEDS: u64 = 10_000;

/// A progress bar for schedules.
pub(super) fn bar(total: Option<u64>, time: Option<Duration>) -> ProgressBar {
    let (bar, template) = match (total, time) {
        (Some(total), _) => (
            ProgressBar::new(total),
            "{spinner} {human_pos}/{human_len} schedules  {per_sec}  about {eta} left  {msg}",
        ),
        (None, Some(_)) => (
            ProgressBar::new_spinner(),
            "{spinner} {human_pos} schedules  {per_sec}  {elapsed} of {prefix}  {msg}",
        ),
        (None, None) => (
            ProgressBar::new_spinner(),
            "{spinner} {human_pos} schedules  {per_sec}  {elapsed}  {msg}",
        ),
    };
    if let Some(time) = time {
        bar.set_prefix(format!("{}s", time.as_secs()));
    }
    shown(bar, template)
}

/// The bar, on standard error if that is a terminal.
pub(super) fn shown(bar: ProgressBar, template: &str) -> ProgressBar {
    if !io::stderr().is_terminal() {
        bar.set_draw_target(ProgressDrawTarget::hidden());
    }
    bar.set_style(
        ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()),
    );
    bar.enable_steady_tick(Duration::from_millis(100));
    bar
}

/// Hunts with a progress bar.
pub(super) fn hunt_with_progress(what: &Hunt) -> Bag {
    hunt_with(what, false, &|_| {})
}

/// Hunts with a progress bar or, if `logged` and there is no terminal, lines.
fn hunt_with(what: &Hunt, logged: bool, tell: &(dyn Fn(&Finding) + Sync)) -> Bag {
    let (total, time) = match what.extent {
        Extent::Seeds(seeds) => (Some(what.shard.seeds(seeds)), None),
        Extent::Time(time) => (None, Some(time)),
    };
    let (bar, lines) = (bar(total, time), Lines::new(logged, total));
    let progress = |runs| {
        bar.set_position(runs);
        lines.tell(runs);
    };
    let told = |finding: &Finding| {
        bar.set_message(format!("not clean: {}", finding.outcome.oracle));
        tell(finding);
    };
    let bag = hunt_telling(what, &STOP, &progress, &told);
    bar.finish_and_clear();
    bag
}

/// Threads, as asked for or one for each CPU.
pub(super) fn jobs(asked: Option<NonZero<u8>>) -> usize {
    match asked {
        Some(jobs) => jobs.get().into(),
        None => thread::available_parallelism().map_or(1, NonZero::get),
    }
}

/// The part that is this process's, and who said so; all of it if nobody did.
fn shard(args: &HuntArgs) -> Result<Assigned, Failure> {
    if let Some(shard) = args.part.shard {
        return Ok(Assigned { shard, from: "--shard".to_owned() });
    }
    let variable =
        |name: &str| std::env::var_os(name).map(|value| value.to_string_lossy().into_owned());
    let given = assigned(variable, args.part.shards).map_err(|problem| {
        Failure(format!("finding out which shard of the hunt this is failed: {problem}"))
    })?;
    Ok(given.unwrap_or(Assigned { shard: Shard::WHOLE, from: String::new() }))
}

/// Where results are appended, if they are. The first failure is kept: a hunt goes on without them, and then says so.
struct Results {
    path: PathBuf,
    writer: Mutex<Result<Writer, Failure>>,
}

impl Results {
    fn open(path: &Path, header: Header) -> Result<Self, Failure> {
        let writer = Writer::open(path).map_err(|error| failed(path, &error))?;
        let results = Self { path: path.to_owned(), writer: Mutex::new(Ok(writer)) };
        results.put(&Line::Header(header));
        Ok(results)
    }

    fn put(&self, line: &Line) {
        let mut writer = self.writer.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Ok(open) = &mut *writer
            && let Err(error) = open.put(line)
        {
            *writer = Err(failed(&self.path, &error));
        }
    }

    fn close(self) -> Result<(), Failure> {
        let writer = self.writer.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
        writer.map(|_| ())
    }
}

fn failed(path: &Path, error: &io::Error) -> Failure {
    Failure(format!(
        "writing the results to {} failed: {error}. Name a writable file with --results FILE.",
        path.display()
    ))
}

/// A finding that was kept, with its story and its tape.
pub(super) type Kept<'a> = (&'a Finding, Story, PathBuf, String);

/// What is the same for all that hunts: shard, threads, results, findings.
pub(super) struct Campaign<'a> {
    args: &'a HuntArgs,
    pub(super) part: Assigned,
    results: Option<Results>,
}

impl<'a> Campaign<'a> {
    pub(super) fn begin(
        args: &'a HuntArgs,
        part: Assigned,
        header: Header,
    ) -> Result<Self, Failure> {
        let open = |path: &PathBuf| Results::open(path, header);
        let results = args.part.results.as_ref().map(open).transpose()?;
        Ok(Self { args, part, results })
    }

    pub(super) fn tell(&self, finding: &Finding) {
        if let Some(results) = &self.results {
            results.put(&Line::Finding(Found::of(finding)));
        }
    }

    /// Keeps what was found: each finding with what made its choices.
    pub(super) fn keep<'f>(
        &self,
        found: &[(&'f Finding, String)],
    ) -> Result<Vec<Kept<'f>>, Failure> {
        let mut kept = Vec::new();
        for (finding, driver) in found {
            let (story, tape) = keep(finding, driver, &self.args.output.findings)?;
            if let Some(results) = &self.results {
                results.put(&Line::Tape { seed: finding.seed, tape: tape.clone() });
            }
            kept.push((*finding, story, tape, driver.clone()));
        }
        Ok(kept)
    }

    /// Before anything is printed: standard output may be closed, and what was hunted is what it is.
    pub(super) fn end(&self, summary: &Line) {
        if let Some(results) = &self.results {
            results.put(summary);
        }
    }

    pub(super) fn close(self) -> Result<(), Failure> {
        self.results.map_or(Ok(()), Results::close)
    }

    pub(super) fn shard_json(&self) -> serde_json::Value {
        if self.part.from.is_empty() {
            return serde_json::Value::Null;
        }
        let shard = self.part.shard;
        json!({ "index": shard.index(), "count": shard.count(), "from": self.part.from })
    }

    pub(super) fn shard_text(&self) -> String {
        if self.part.from.is_empty() {
            return String::new();
        }
        format!("shard {} (from {})\n", self.part.shard, self.part.from)
    }
}

/// What was counted apart: `; what no server can avoid: H07 in 3`. Nothing if nothing was.
pub(super) fn hazards_text(hazards: &BTreeMap<String, u64>) -> String {
    if hazards.is_empty() {
        return String::new();
    }
    let each: Vec<_> =
        hazards.iter().map(|(hazard, count)| format!("{hazard} in {count}")).collect();
    format!("; what no server can avoid: {}", each.join(", "))
}

pub(super) fn exit_code(interrupted: bool, kept: &[Kept<'_>]) -> u8 {
    let none = if interrupted { INTERRUPTED } else { 0 };
    let codes = kept.iter().map(|(finding, ..)| finding.outcome.verdict.exit_code());
    codes.max().unwrap_or(none)
}

pub(super) fn findings_json(kept: &[Kept<'_>], schedules: u64) -> Vec<serde_json::Value> {
    let one = |(finding, story, tape, _): &Kept<'_>| {
        summary(&finding.config, Some(finding.seed), schedules, Some(tape), &story.outcome)
    };
    kept.iter().map(one).collect()
}

pub(super) fn add_findings(text: &mut String, kept: &[Kept<'_>]) {
    for (finding, story, tape, driver) in kept {
        text.push('\n');
        text.push_str(&finding_text(finding, driver, story, tape));
    }
}

/// Hunts, keeps what was found, and prints it.
pub(super) fn hunt(args: &HuntArgs) -> Result<u8, Failure> {
    let config = args.what.config()?;
    let part = shard(args)?;
    if let Some(faults) = args.nth_fault {
        return super::nth::hunt(args, config, part, faults);
    }
    seeds(args, config, part)
}

fn seeds(args: &HuntArgs, config: Config, part: Assigned) -> Result<u8, Failure> {
    let seeds = args.seeds.unwrap_or(SEEDS);
    let extent = args.time.map_or(Extent::Seeds(seeds), Extent::Time);
    if args.time.is_none() && args.first_seed.checked_add(seeds - 1).is_none() {
        return Err(Failure(format!(
            "hunting {seeds} seeds from {} failed: the largest seed is {}. Ask for fewer with --seeds.",
            args.first_seed,
            u64::MAX
        )));
    }
    let (swarm, driver) = how(&args.what, &args.how);
    let what = Hunt {
        strategy: args.how.driver,
        swarm,
        first_seed: args.first_seed,
        shard: part.shard,
        jobs: jobs(args.jobs),
        keep_going: args.keep_going,
        known_hazards: args.known_hazards,
        ..Hunt::new(config, extent)
    };
    let campaign = Campaign::begin(args, part, Header::of(&what))?;
    let bag = hunt_with(&what, args.part.results.is_some(), &|finding| campaign.tell(finding));
    let findings: Vec<_> = bag.findings.iter().map(|finding| (finding, driver.clone())).collect();
    let kept = campaign.keep(&findings)?;
    let code = exit_code(bag.interrupted, &kept);
    let Bag { schedules, steps, found, interrupted, hazards, findings: _ } = bag;
    let hazards: BTreeMap<String, u64> =
        hazards.into_iter().map(|(hazard, count)| (hazard.name().to_owned(), count)).collect();
    campaign.end(&Line::Summary { schedules, steps, found, hazards: hazards.clone(), interrupted });
    if args.output.json {
        let first = kept.first();
        print_json(&json!({
            "verdict": first.map_or("clean", |(_, story, ..)| story.outcome.verdict.name()),
            "seed": first.map(|(finding, ..)| finding.seed),
            "driver": args.how.driver.to_string(),
            "swarm": what.swarm.as_ref().map(ToString::to_string),
            "shard": campaign.shard_json(),
            "schedules": schedules,
            "steps": steps,
            "found": found,
            "hazards": hazards,
            "interrupted": interrupted,
            "tape": first.map(|(_, _, tape, _)| tape.display().to_string()),
            "findings": findings_json(&kept, schedules),
        }))?;
    } else {
        let interrupted = if interrupted { ", interrupted" } else { "" };
        let mut text = campaign.shard_text();
        let subject = subject_name(what.config.subject);
        let hazards = hazards_text(&hazards);
        let _ = writeln!(
            text,
            "{subject}: {schedules} schedules, {found} not clean{hazards}{interrupted}"
        );
        add_findings(&mut text, &kept);
        print(&text)?;
    }
    campaign.close()?;
    Ok(code)
}
