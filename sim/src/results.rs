//! Results of hunts as JSON lines, and merging those of many machines.
//!
//! A hunt appends a *section*: a header line (what was hunted, which part of it), a line for each finding as soon as it is found, a
//! line for each tape that was kept, and a summary line. Each line is written and synced as one, so that a machine which
//! dies leaves a section without a summary, and at worst a last line that is cut off.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::config::Config;
use crate::describe::config_lines;
use crate::hunt::{Extent, Finding, Hunt};
use crate::nth::Loop;

/// The format of the lines.
const FORMAT: &str = "blkproof-results: 1";
/// Bytes of a file that can be results.
const FILE_MAX: u64 = 1 << 30;

fn lines(config: &Config) -> BTreeMap<String, String> {
    config_lines(config).into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
}

/// What was hunted, and which part of it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Header {
    format: String,
    /// The version of blkproof.
    pub version: String,
    /// The configuration, as in a tape's header.
    pub config: BTreeMap<String, String>,
    /// How schedules were chosen.
    pub driver: String,
    /// What each run's configuration varied in, if it did.
    pub swarm: Option<String>,
    /// The first seed of the whole hunt.
    pub first_seed: u64,
    /// How far the whole hunt goes.
    pub extent: String,
    /// Whether it goes on after a finding.
    pub keep_going: bool,
    /// Whether hazards of the kernel are counted apart.
    #[serde(default)]
    pub known_hazards: bool,
    /// The part, counted from 1.
    pub shard: u64,
    /// Of how many.
    pub shards: u64,
}

impl Header {
    /// The header of a hunt.
    pub fn of(what: &Hunt) -> Self {
        Self {
            format: FORMAT.to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            config: lines(&what.config),
            driver: what.strategy.to_string(),
            swarm: what.swarm.as_ref().map(ToString::to_string),
            first_seed: what.first_seed,
            extent: match what.extent {
                Extent::Seeds(seeds) => format!("{seeds} seeds"),
                Extent::Time(time) => format!("{} s", time.as_secs()),
            },
            keep_going: what.keep_going,
            known_hazards: what.known_hazards,
            shard: what.shard.index(),
            shards: what.shard.count(),
        }
    }

    /// The header of a loop through all faults.
    pub fn of_loop(what: &Loop) -> Self {
        let time = what.time.map_or(String::new(), |time| format!(", {} s", time.as_secs()));
        Self {
            format: FORMAT.to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            config: lines(&what.config),
            driver: format!("nth-fault={}", 1 + u8::from(what.pairs)),
            swarm: None,
            first_seed: what.first_seed,
            extent: format!("{} seeds{time}", what.seeds),
            keep_going: what.keep_going,
            known_hazards: false,
            shard: what.shard.index(),
            shards: what.shard.count(),
        }
    }

    /// In what two headers differ that cannot be of one hunt.
    fn differs(&self, other: &Self) -> Option<String> {
        let said = |what: &str, one: &str, two: &str| Some(format!("{what}: {one} and {two}"));
        if self.version != other.version {
            return said("version", &self.version, &other.version);
        }
        for key in self.config.keys().chain(other.config.keys()) {
            let of = |header: &Self| header.config.get(key).cloned().unwrap_or_default();
            if of(self) != of(other) {
                return said(key, &of(self), &of(other));
            }
        }
        let rest = |header: &Self| {
            [
                ("driver", header.driver.clone()),
                ("swarm", header.swarm.clone().unwrap_or_else(|| "none".to_owned())),
                ("first seed", header.first_seed.to_string()),
                ("extent", header.extent.clone()),
                ("keep going", header.keep_going.to_string()),
                ("known hazards", header.known_hazards.to_string()),
                ("number of shards", header.shards.to_string()),
            ]
        };
        let pair = rest(self).into_iter().zip(rest(other)).find(|(one, two)| one != two);
        pair.and_then(|((what, one), (_, two))| said(what, &one, &two))
    }
}

/// A finding, in a line.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Found {
    /// Its seed.
    pub seed: u64,
    /// The verdict's name.
    pub verdict: String,
    /// The rule that was broken, or the condition.
    pub oracle: String,
    /// What was found, in a sentence.
    pub finding: String,
    /// The rolling hash of the run.
    pub hash: String,
    /// The run's configuration.
    pub config: BTreeMap<String, String>,
    /// Where its tape is, on the machine that found it; known once the hunt is over.
    #[serde(default)]
    pub tape: Option<PathBuf>,
}

impl Found {
    /// The line for a finding.
    pub fn of(finding: &Finding) -> Self {
        Self {
            seed: finding.seed,
            verdict: finding.outcome.verdict.name().to_owned(),
            oracle: finding.outcome.oracle.clone(),
            finding: finding.outcome.finding.clone(),
            hash: format!("{:016x}", finding.outcome.hash),
            config: lines(&finding.config),
            tape: None,
        }
    }
}

/// A line.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(tag = "line", rename_all = "lowercase")]
pub enum Line {
    /// Begins a section.
    Header(Header),
    /// A finding, as soon as it is found.
    Finding(Found),
    /// Where the tape of the finding with that seed is.
    Tape {
        /// The seed.
        seed: u64,
        /// The path.
        tape: PathBuf,
    },
    /// Ends a section.
    Summary {
        /// Runs made.
        schedules: u64,
        /// Steps of all of them.
        steps: u64,
        /// Runs that were not clean, without those of `hazards`.
        found: u64,
        /// How many runs met which hazard of the kernel, where those are counted apart.
        #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
        hazards: BTreeMap<String, u64>,
        /// Ended by a signal.
        interrupted: bool,
    },
}

/// A file that results are appended to.
#[derive(Debug)]
pub struct Writer(File);

impl Writer {
    /// Opens it, or makes it. A last line that was cut off is ended, and stays.
    ///
    /// # Errors
    /// What the system answers.
    pub fn open(path: &Path) -> io::Result<Self> {
        let mut file = OpenOptions::new().read(true).append(true).create(true).open(path)?;
        if file.seek(SeekFrom::End(0))? > 0 {
            file.seek(SeekFrom::End(-1))?;
            let mut last = [0];
            file.read_exact(&mut last)?;
            if last != *b"\n" {
                file.write_all(b"\n")?;
            }
        }
        Ok(Self(file))
    }

    /// Appends a line, and returns once it is on the disk.
    ///
    /// # Errors
    /// What the system answers.
    pub fn put(&mut self, line: &Line) -> io::Result<()> {
        let mut text = serde_json::to_string(line)?;
        text.push('\n');
        self.0.write_all(text.as_bytes())?;
        self.0.sync_data()
    }
}

/// How a part of a hunt ended. In the order of how much it says.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Ended {
    /// By itself, and not by a signal.
    pub finished: bool,
    /// Runs made.
    pub schedules: u64,
    /// Runs that were not clean.
    pub found: u64,
    /// Runs that met a hazard of the kernel.
    pub hazards: BTreeMap<String, u64>,
}

/// A part of a hunt, as a file has it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Section {
    /// The file.
    pub file: PathBuf,
    /// What was hunted.
    pub header: Header,
    /// What was found, in the order of the lines.
    pub found: Vec<Found>,
    /// How it ended; nothing if there is no summary.
    pub summary: Option<Ended>,
}

impl Section {
    fn finished(&self) -> bool {
        self.summary.as_ref().is_some_and(|ended| ended.finished)
    }
}

/// Reads the sections of a file.
///
/// # Errors
/// The file cannot be read, or names the line that is not one of results. A line that was cut off, the last one or before a header, is
/// none.
pub fn read(path: &Path) -> Result<Vec<Section>, String> {
    let failed = |problem: &str| {
        format!(
            "reading the results {} failed: {problem}. Name files that `sim hunt --results` wrote.",
            path.display()
        )
    };
    let mut text = String::new();
    File::open(path)
        .and_then(|file| file.take(FILE_MAX).read_to_string(&mut text))
        .map_err(|error| failed(&error.to_string()))?;
    let mut sections: Vec<Section> = Vec::new();
    let mut cut: Option<String> = None;
    for (number, line) in (1..).zip(text.lines()).filter(|(_, line)| !line.is_empty()) {
        let read = serde_json::from_str::<Line>(line);
        let section = sections.last_mut().filter(|section| section.summary.is_none());
        if !matches!(read, Ok(Line::Header(_)))
            && let Some(problem) = cut.take()
        {
            return Err(failed(&problem));
        }
        match (read, section) {
            (Ok(Line::Header(header)), _) => {
                if header.format != FORMAT {
                    let problem = format!("line {number}: unknown format {:?}", header.format);
                    return Err(failed(&problem));
                }
                cut = None;
                let file = path.to_owned();
                sections.push(Section { file, header, found: Vec::new(), summary: None });
            }
            (Ok(Line::Finding(found)), Some(section)) => section.found.push(found),
            (Ok(Line::Tape { seed, tape }), Some(section)) => {
                let found = section.found.iter_mut().filter(|found| found.seed == seed);
                found.for_each(|found| found.tape = Some(tape.clone()));
            }
            (
                Ok(Line::Summary { schedules, steps: _, found, hazards, interrupted }),
                Some(section),
            ) => {
                section.summary = Some(Ended { finished: !interrupted, schedules, found, hazards });
            }
            (Ok(Line::Finding(_) | Line::Tape { .. } | Line::Summary { .. }), None) => {
                return Err(failed(&format!("line {number}: no header stands before it")));
            }
            (Err(error), _) => cut = Some(format!("line {number}: {error}")),
        }
    }
    match cut {
        // Cut off while it was written; without any section it is another file.
        Some(problem) if sections.is_empty() => Err(failed(&problem)),
        Some(_) | None if sections.is_empty() => Err(failed("it is empty")),
        Some(_) | None => Ok(sections),
    }
}

/// What the sections of one hunt come to.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Merged {
    /// What was hunted; the shard is one of them.
    pub header: Option<Header>,
    /// Runs of the shards that ended or were interrupted, each shard once.
    pub schedules: u64,
    /// Runs that were not clean, of the same.
    pub found: u64,
    /// Runs that met a hazard of the kernel, of the same, where those are counted apart.
    pub hazards: BTreeMap<String, u64>,
    /// The finding with the lowest seed of each verdict and oracle, by seed; of shards without an end too.
    pub findings: Vec<Found>,
    /// Shards of which there is nothing.
    pub missing: Vec<u64>,
    /// Shards that began and did not end.
    pub unfinished: Vec<u64>,
    /// Shards that were interrupted.
    pub interrupted: Vec<u64>,
    /// Shards that ended more than once. One of them counts.
    pub doubled: Vec<u64>,
}

impl Merged {
    /// Whether every shard ended.
    pub fn complete(&self) -> bool {
        self.missing.is_empty() && self.unfinished.is_empty() && self.interrupted.is_empty()
    }
}

/// Shards of which missing ones are listed; a header that claims more is not believed.
const SHARDS_MAX: u64 = 1_000_000;

/// Merges the sections of one hunt.
///
/// # Errors
/// They are not of one hunt: names two files, and what differs first.
pub fn merge(sections: &[Section]) -> Result<Merged, String> {
    let Some(first) = sections.first() else { return Ok(Merged::default()) };
    for other in sections {
        if let Some(difference) = first.header.differs(&other.header) {
            return Err(format!(
                "merging {} and {} failed: they are not parts of one hunt ({difference}). Merge the files of one hunt.",
                first.file.display(),
                other.file.display()
            ));
        }
        let Header { shard, shards, .. } = other.header;
        if shard == 0 || shard > shards || shards > SHARDS_MAX {
            return Err(format!(
                "merging {} failed: there is no shard {shard}/{shards}. Merge files that `sim hunt --results` wrote.",
                other.file.display()
            ));
        }
    }
    let mut merged = Merged { header: Some(first.header.clone()), ..Merged::default() };
    for shard in 1..=first.header.shards {
        let of_it = || sections.iter().filter(|section| section.header.shard == shard);
        match of_it().filter(|section| section.finished()).count() {
            0 if of_it().next().is_none() => merged.missing.push(shard),
            0 if of_it().any(|section| section.summary.is_some()) => {
                merged.interrupted.push(shard);
            }
            0 => merged.unfinished.push(shard),
            1 => {}
            _ => merged.doubled.push(shard),
        }
        // Of several the one that got furthest, an ended one first.
        if let Some(best) = of_it().filter_map(|section| section.summary.as_ref()).max() {
            merged.schedules += best.schedules;
            merged.found += best.found;
            for (hazard, count) in &best.hazards {
                *merged.hazards.entry(hazard.clone()).or_default() += count;
            }
        }
    }
    let mut kinds: BTreeMap<(&str, &str), &Found> = BTreeMap::new();
    for found in sections.iter().flat_map(|section| &section.found) {
        let kept = kinds.entry((&found.verdict, &found.oracle)).or_insert(found);
        if (found.seed, found.tape.is_none()) < (kept.seed, kept.tape.is_none()) {
            *kept = found;
        }
    }
    merged.findings = kinds.into_values().cloned().collect();
    merged.findings.sort_by_key(|found| found.seed);
    Ok(merged)
}
