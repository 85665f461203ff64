//! Reports: a story with a lane for each actor, who waits for whom, and the same as JSON.

mod chain;
mod wrap;

use std::fmt::Write as _;

use anstyle::{AnsiColor, Color, Style};
use serde::Serialize;

use crate::config::Config;
use crate::describe::config_lines;
use crate::outcome::{Outcome, Verdict};

pub use chain::{Chain, End, chain};
pub(crate) use wrap::wrap;

/// How a report is laid out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Layout {
    /// Columns of the terminal, at least 60.
    pub width: usize,
    /// The most lines of the story; what exceeds them is left out in the middle, and said.
    pub lines_max: usize,
    /// Whether to colour.
    pub colour: bool,
}

impl Layout {
    /// For files: wide, complete, plain.
    pub const FILE: Self = Self { width: 140, lines_max: usize::MAX, colour: false };

    fn paint(&self, text: &str, style: Style) -> String {
        if self.colour { format!("{style}{text}{style:#}") } else { text.to_owned() }
    }
}

const STRONG: Style = Style::new().bold();
const DIM: Style = Style::new().dimmed();
const BAD: Style = Style::new().bold().fg_color(Some(Color::Ansi(AnsiColor::Red)));

/// Columns that the steps' texts need beside the lanes. With less, lanes are named by numbers.
const ROOM_MIN: usize = 40;

/// A line of the story: a step, or several equal ones in a row.
struct Line<'a> {
    time_us: u64,
    actor: usize,
    text: &'a str,
    repeats: usize,
}

/// The story: one lane for each actor that acts or waits, a mark where it acts, and what it does.
pub fn story(outcome: &Outcome, layout: Layout) -> String {
    let mut shown: Vec<usize> = outcome.timeline.iter().map(|record| record.actor).collect();
    shown.extend(
        outcome.waits.iter().flat_map(|wait| std::iter::once(wait.actor).chain(wait.owner)),
    );
    shown.sort_unstable();
    shown.dedup();
    let names: Vec<&str> = shown.iter().map(|actor| outcome.actors[*actor].name.as_str()).collect();
    let mut lines: Vec<Line<'_>> = Vec::new();
    for record in &outcome.timeline {
        match lines.last_mut() {
            Some(last) if last.actor == record.actor && last.text == record.text => {
                last.repeats += 1;
            }
            _ => lines.push(Line {
                time_us: record.time_us,
                actor: record.actor,
                text: &record.text,
                repeats: 1,
            }),
        }
    }
    let lanes = |labels: &[String]| -> usize {
        12 + labels.iter().map(|label| label.chars().count() + 2).sum::<usize>()
    };
    let mut text = String::new();
    let mut labels: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    if lanes(&labels) + ROOM_MIN > layout.width {
        labels = (1..=names.len()).map(|number| number.to_string()).collect();
        let legend: Vec<String> =
            labels.iter().zip(&names).map(|(label, name)| format!("{label} {name}")).collect();
        text = wrap(&legend.join(", "), "", "", layout.width);
    }
    let _ = write!(text, "{:>10}  ", "time");
    for label in &labels {
        let _ = write!(text, "{}  ", layout.paint(label, STRONG));
    }
    text.truncate(text.trim_end().len());
    text.push('\n');
    let room = layout.width.saturating_sub(lanes(&labels)).max(20);
    // The end matters most, the beginning next: what does not fit is left out between them.
    let body = layout.lines_max.saturating_sub(text.lines().count());
    let (head, tail) = if lines.len() <= body {
        (lines.len(), lines.len())
    } else {
        let head = body / 3;
        (head, lines.len() - (body - head).saturating_sub(1))
    };
    for (number, line) in lines.iter().enumerate() {
        if number == head && head < tail {
            let _ = writeln!(
                text,
                "{:>10}  {}",
                "",
                layout.paint(
                    &format!("… {} more steps; all of them are in the report …", tail - head),
                    DIM
                )
            );
        }
        if (head..tail).contains(&number) {
            continue;
        }
        let _ = write!(text, "{:>10}  ", time(line.time_us));
        for (actor, label) in shown.iter().zip(&labels) {
            let mark = if *actor == line.actor {
                layout.paint("●", STRONG)
            } else {
                layout.paint("│", DIM)
            };
            let _ = write!(text, "{mark}{:width$}", "", width = label.chars().count() + 1);
        }
        let times = if line.repeats > 1 { format!(" (×{})", line.repeats) } else { String::new() };
        let _ = writeln!(text, "{}", clip(&format!("{}{times}", line.text), room));
    }
    text
}

/// Who waits for whom: each wait with why its owner does not deliver, then the chain they make.
pub fn waits(outcome: &Outcome, layout: Layout) -> String {
    let mut text = String::new();
    for wait in &outcome.waits {
        let actor = &outcome.actors[wait.actor].name;
        let owner = wait.owner.map_or("nobody", |owner| outcome.actors[owner].name.as_str());
        let mut line = format!(
            "{} waits for {}: {}",
            layout.paint(actor, STRONG),
            layout.paint(owner, if wait.owner.is_some() { STRONG } else { BAD }),
            wait.awaits.strip_prefix("waits for ").unwrap_or(&wait.awaits)
        );
        if !wait.because.is_empty() {
            let _ = write!(line, " — {}", wait.because);
        }
        text.push_str(&wrap(&line, "  ", "      ", layout.width));
    }
    if let Some(chain) = chain(outcome) {
        let mut names: Vec<String> = chain
            .actors
            .iter()
            .map(|actor| layout.paint(&outcome.actors[*actor].name, STRONG))
            .collect();
        let end = match &chain.end {
            End::Cycle => "a cycle".to_owned(),
            End::Debtor(because) => because.clone(),
            End::Nobody(awaits) => {
                names.push(layout.paint("nobody", BAD));
                awaits.clone()
            }
        };
        let arrows = names.join(" → ");
        let line = if end.is_empty() { arrows } else { format!("{arrows}: {end}") };
        text.push_str(&wrap(&line, "  in short: ", "      ", layout.width));
    }
    text
}

/// One line that says what was found.
pub fn headline(outcome: &Outcome, layout: Layout) -> String {
    let verdict = outcome.verdict.name().to_uppercase();
    match outcome.verdict {
        Verdict::Clean => layout.paint(&verdict, STRONG),
        Verdict::Safety | Verdict::Deadlock | Verdict::Livelock | Verdict::DataLoss => {
            let verdict = layout.paint(&verdict, BAD);
            if outcome.oracle.is_empty() || outcome.oracle == outcome.verdict.name() {
                format!("{verdict}: {}", outcome.finding)
            } else {
                format!("{verdict} ({}): {}", outcome.oracle, outcome.finding)
            }
        }
    }
}

/// The whole report as text.
pub fn text(config: &Config, outcome: &Outcome, layout: Layout) -> String {
    let mut text = wrap(&headline(outcome, layout), "", "  ", layout.width);
    text.push('\n');
    for (key, value) in config_lines(config) {
        let _ = writeln!(text, "{key}: {value}");
    }
    let _ = writeln!(text, "hash: {:016x}\n", outcome.hash);
    text.push_str(&story(outcome, layout));
    if !outcome.waits.is_empty() {
        let _ = writeln!(text, "\nWho waits for whom\n{}", waits(outcome, layout));
    }
    text
}

/// A report as JSON.
#[derive(Serialize)]
struct Json<'a> {
    verdict: &'a str,
    oracle: &'a str,
    finding: &'a str,
    config: std::collections::BTreeMap<&'a str, String>,
    hash: String,
    steps: u64,
    time_us: u64,
    timeline: Vec<JsonStep<'a>>,
    waits: Vec<JsonWait<'a>>,
    chain: Option<JsonChain<'a>>,
}

#[derive(Serialize)]
struct JsonStep<'a> {
    step: u64,
    time_us: u64,
    actor: &'a str,
    text: &'a str,
}

#[derive(Serialize)]
struct JsonWait<'a> {
    actor: &'a str,
    awaits: &'a str,
    owner: Option<&'a str>,
    because: &'a str,
}

#[derive(Serialize)]
struct JsonChain<'a> {
    actors: Vec<&'a str>,
    cycle: bool,
}

/// The whole report as JSON.
pub fn json(config: &Config, outcome: &Outcome) -> serde_json::Value {
    let name = |actor: usize| outcome.actors[actor].name.as_str();
    let report = Json {
        verdict: outcome.verdict.name(),
        oracle: &outcome.oracle,
        finding: &outcome.finding,
        config: config_lines(config).into_iter().collect(),
        hash: format!("{:016x}", outcome.hash),
        steps: outcome.steps,
        time_us: outcome.time_us,
        timeline: outcome
            .timeline
            .iter()
            .map(|record| JsonStep {
                step: record.step,
                time_us: record.time_us,
                actor: name(record.actor),
                text: &record.text,
            })
            .collect(),
        waits: outcome
            .waits
            .iter()
            .map(|wait| JsonWait {
                actor: name(wait.actor),
                awaits: &wait.awaits,
                owner: wait.owner.map(name),
                because: &wait.because,
            })
            .collect(),
        chain: chain(outcome).map(|chain| JsonChain {
            cycle: chain.end == End::Cycle,
            actors: chain.actors.into_iter().map(name).collect(),
        }),
    };
    serde_json::to_value(report).expect("a report has string keys only")
}

/// Virtual time, readable.
fn time(us: u64) -> String {
    if us >= 1_000_000 {
        format!("{}.{:03} s", us / 1_000_000, us / 1_000 % 1_000)
    } else if us >= 1_000 {
        format!("{}.{:03} ms", us / 1_000, us % 1_000)
    } else {
        format!("{us} us")
    }
}

/// At most `room` characters.
fn clip(text: &str, room: usize) -> String {
    if text.chars().count() <= room {
        return text.to_owned();
    }
    let mut clipped: String = text.chars().take(room - 1).collect();
    clipped.push('…');
    clipped
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outcome::{Actor, Record, Wait};

    fn outcome() -> Outcome {
        let record = |step, time_us, actor, text: &str| Record {
            step,
            time_us,
            actor,
            text: text.to_owned(),
        };
        let mut timeline = vec![record(1, 0, 0, "ADD_DEV"), record(2, 40, 1, "ADD_DEV answers 0")];
        timeline.extend((0..9).map(|n| record(3 + n, 10_000 * n, 2, "sleeps 10 ms")));
        timeline.push(record(
            12,
            2_000_500,
            0,
            "gives up on a text that is far too long for the column it has to stand in, really",
        ));
        Outcome {
            verdict: Verdict::Deadlock,
            oracle: "deadlock".to_owned(),
            finding: "nobody can move".to_owned(),
            steps: 12,
            time_us: 2_000_500,
            hash: 0xfeed,
            actors: ["main", "kernel", "io loop", "udev"]
                .map(|name| Actor { name: name.to_owned() })
                .to_vec(),
            timeline,
            waits: vec![
                Wait {
                    actor: 0,
                    awaits: "the start".to_owned(),
                    owner: Some(2),
                    because: "it polls".to_owned(),
                },
                Wait { actor: 2, awaits: "a flag".to_owned(), owner: None, because: String::new() },
            ],
        }
    }

    #[test]
    fn a_report_reads_like_this() {
        let layout = Layout { width: 80, ..Layout::FILE };
        insta::assert_snapshot!(text(&Config::engine(), &outcome(), layout));
    }

    #[test]
    fn a_narrow_terminal_gets_numbered_lanes_and_broken_lines() {
        let mut outcome = outcome();
        outcome.finding = "nobody can move, and a sentence that says so at length".to_owned();
        let layout = Layout { width: 60, ..Layout::FILE };
        let text = text(&Config::engine(), &outcome, layout);
        assert!(text.lines().all(|line| line.chars().count() <= 60), "{text}");
        insta::assert_snapshot!(text);
    }

    #[test]
    fn a_long_story_keeps_its_beginning_and_its_end() {
        let mut outcome = outcome();
        for (number, record) in outcome.timeline.iter_mut().enumerate() {
            record.text = format!("step {number}");
        }
        let layout = Layout { width: 80, lines_max: 8, colour: false };
        let text = story(&outcome, layout);
        assert_eq!(text.lines().count(), 8, "{text}");
        assert!(
            text.contains("step 0") && text.contains("step 11") && text.contains("more steps"),
            "{text}"
        );
    }

    #[test]
    fn json_names_actors() {
        let json = json(&Config::engine(), &outcome());
        assert_eq!(json["waits"][0]["owner"], "io loop");
        assert_eq!(json["waits"][1]["owner"], serde_json::Value::Null);
        assert_eq!(json["verdict"], "deadlock");
        assert_eq!(json["chain"]["actors"], serde_json::json!(["main", "io loop"]));
        assert_eq!(json["chain"]["cycle"], false);
    }
}
