//! Runs that end in a hazard of their kernel which no server can avoid.
//!
//! Before 7.3 a device may be started over commands that are gone (H07, H26), and 6.12 may wait for ever in the partition scan (H67): see
//! `docs/protocol.md`. Every kernel has a moment in which a server that is killed is kept for good (H69, H70). Hunts meet them whatever the engine does. Which one a run met is read from its story, and narrowly: a rule
//! that is broken in another way than the hazard breaks it, or that the engine could have kept, stays a finding.

use std::fmt;

use blkproof_engine::supervisor::Recovery;
use blkproof_engine::uapi::KernelSeries;

use crate::config::{Config, Subject};
use crate::drivers::{Choice, Player};
use crate::outcome::Outcome;
use crate::run::run;

/// A hazard of a kernel.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum Hazard {
    /// The server is killed while START_DEV or END_USER_RECOVERY is under way, which starts the disk over dead commands.
    H07,
    /// Another program's STOP_DEV or DEL_DEV cancels what is fetched, and START_DEV starts over it.
    H26,
    /// The server is killed while START_DEV of 6.12 scans for partitions, and the device waits for the next one.
    H67,
    /// 7.3: the server is killed while a FETCH of it waits for a STOP_DEV that waits for a request of it.
    H69,
    /// The server is killed between its first FETCH and its last: 6.18 in recovery, 6.12 at any time.
    H70,
}

impl Hazard {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::H07, Self::H26, Self::H67, Self::H69, Self::H70];

    /// Its id in `docs/protocol.md`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::H07 => "H07",
            Self::H26 => "H26",
            Self::H67 => "H67",
            Self::H69 => "H69",
            Self::H70 => "H70",
        }
    }

    /// The hazard that a run of the engine met, if that is what it ended with. The run is repeated, for its story.
    pub fn met(config: &Config, choices: &[Choice], outcome: &Outcome) -> Option<Self> {
        if !["K5", "K11", "K12", "K13"].contains(&outcome.oracle.as_str()) {
            return None;
        }
        let config = Config { timeline: true, ..config.clone() };
        Self::told(&config, &run(&config, &mut Player::new(choices)))
    }

    /// The same of a run that has its story ([`Config::timeline`]).
    pub fn told(config: &Config, outcome: &Outcome) -> Option<Self> {
        if config.subject != Subject::Engine {
            return None;
        }
        let last = outcome.timeline.len();
        match (outcome.oracle.as_str(), config.kernel) {
            ("K12", KernelSeries::V6_12 | KernelSeries::V6_18) => {
                return is_killed(outcome, 0..last).then_some(Self::H70);
            }
            ("K13", KernelSeries::V7_3) => return is_killed(outcome, 0..last).then_some(Self::H69),
            (_, KernelSeries::V7_3) => return None,
            (_, KernelSeries::V6_12 | KernelSeries::V6_18) => {}
        }
        Story::of(outcome)?.hazard(config, &outcome.oracle)
    }
}

/// The last start of a device in a story: by START_DEV, or by END_USER_RECOVERY, which is no different.
struct Story<'a> {
    outcome: &'a Outcome,
    /// Where its server begins.
    server: usize,
    /// Where the engine asks for the start.
    asked: usize,
    /// Where it happens.
    started: usize,
}

impl<'a> Story<'a> {
    fn of(outcome: &'a Outcome) -> Option<Self> {
        let last = |texts: &[&str], before: usize| {
            let told = &outcome.timeline[..before];
            told.iter().rposition(|one| texts.iter().any(|text| one.text.starts_with(text)))
        };
        let starts = ["SD: every tag is fetched", "the device has another server"];
        let started = last(&starts, outcome.timeline.len())?;
        let asked = last(&["submits START_DEV", "submits END_USER_RECOVERY"], started)?;
        let server = last(&["starts the worker"], asked)?;
        Some(Self { outcome, server, asked, started })
    }

    /// Whether the actor does that between two steps.
    fn says(&self, actor: &str, text: &str, steps: std::ops::Range<usize>) -> bool {
        self.outcome.timeline[steps].iter().any(|one| {
            self.outcome.actors[one.actor].name.starts_with(actor) && one.text.starts_with(text)
        })
    }

    /// Whether a worker dies before that step, and not because it ends by itself.
    fn loses_its_server(&self, before: usize) -> bool {
        // A worker that is stopped (SIGSTOP) is killed by its own supervisor in the end.
        let operator = |text: &str| self.says("operator", text, self.server..before);
        ["SIGKILL", "SIGSTOP"].into_iter().any(operator)
            && is_killed(self.outcome, self.server..before)
    }

    fn hazard(&self, config: &Config, oracle: &str) -> Option<Hazard> {
        // What it has been told of, or has done itself, the engine must not start over.
        let engine = |text: &str| self.says("supervisor", text, self.server..self.asked);
        if ["reaps the worker", "submits STOP_DEV", "submits DEL_DEV"].into_iter().any(engine) {
            return None;
        }
        let taken = self.says("operator", "runs `del", 0..self.started)
            && self.says("kernel", "ST1: ", 0..self.started);
        let scans = config.kernel == KernelSeries::V6_12 && config.recovery != Recovery::None;
        match oracle {
            "K11" if scans && self.loses_its_server(self.outcome.timeline.len()) => {
                Some(Hazard::H67)
            }
            "K5" if self.loses_its_server(self.started) => Some(Hazard::H07),
            "K5" | "K11" if taken => Some(Hazard::H26),
            _ => None,
        }
    }
}

/// Whether between two steps a worker dies, and not because it ends by itself.
fn is_killed(outcome: &Outcome, steps: std::ops::Range<usize>) -> bool {
    let story = &outcome.timeline[steps];
    let dies = |at: usize| {
        let actor = story[at].actor;
        let by_itself =
            || story[..at].iter().any(|one| one.actor == actor && one.text.starts_with("exits"));
        outcome.actors[actor].name.starts_with("worker")
            && story[at].text.starts_with("D1: dead")
            && !by_itself()
    };
    (0..story.len()).any(dies)
}

impl fmt::Display for Hazard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
