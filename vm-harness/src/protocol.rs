//! What host and guest say to each other, as lines of JSON on a port of their own: the guest says hello, the host gives it its job, and events come out.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::facts::HangFacts;
use crate::plan::Step;
use crate::verdict::Judgement;

/// Name of the virtio port that carries the events.
pub const PORT: &str = "org.blkproof.vm-harness";

/// How often a runner says that it is alive.
pub const HEARTBEAT: Duration = Duration::from_secs(2);

/// What a guest shall do. It is given after the hello; an interactive guest, to whose port nobody writes, finds it in its image.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Job {
    /// The steps, in order. None: say hello and power off.
    pub steps: Vec<Step>,
    /// Factor on every deadline.
    pub patience: f64,
    /// Whether an earlier guest of this kernel passed the control experiment already.
    pub canary_passed: bool,
    /// Open a shell on the console instead of powering off.
    pub shell: bool,
}

/// One line from the guest.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// The runner is up, and waits for its job.
    Hello(Hello),
    /// The runner is alive. Sent every few seconds, whatever a step does.
    Alive,
    /// A step begins.
    StepStarted {
        /// The step's name.
        name: String,
        /// When the guest itself will call it hung, in seconds from now.
        deadline_s: f64,
    },
    /// A step ended, one way or another.
    StepEnded(StepRecord),
    /// The guest cannot even begin.
    SetupFailed {
        /// What failed.
        detail: String,
    },
    /// Nothing more will come: either all steps are done, or this guest can no longer be trusted to do the rest.
    Finished,
}

/// Who says hello.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Hello {
    /// `uname -r`.
    pub release: String,
    /// Number of CPUs online.
    pub cpus: usize,
    /// Kernel time since boot, in seconds.
    pub uptime_s: f64,
}

/// How a step ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// All assertions held.
    Passed,
    /// An assertion did not hold.
    Failed,
    /// The step did not end; [`StepRecord::judgement`] says who owes what.
    Hung,
    /// The control experiment failed: the step says nothing about the engine.
    Environment,
    /// Not run.
    Skipped,
}

/// The result of one step.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StepRecord {
    /// The step's name.
    pub name: String,
    /// How it ended.
    pub outcome: Outcome,
    /// Duration in seconds, by the guest's clock.
    pub seconds: f64,
    /// What was measured, or what went wrong.
    pub detail: String,
    /// Lines of evidence: output of commands, kernel messages.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub evidence: Vec<String>,
    /// What was observed of a script.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trace: Option<String>,
    /// What was found when the step hung.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub facts: Option<Box<HangFacts>>,
    /// The verdict on a hang.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub judgement: Option<Judgement>,
}

impl StepRecord {
    /// A record without evidence.
    pub fn new(
        name: impl Into<String>,
        outcome: Outcome,
        seconds: f64,
        detail: impl Into<String>,
    ) -> Self {
        Self {
            name: name.into(),
            outcome,
            seconds,
            detail: detail.into(),
            evidence: Vec::new(),
            trace: None,
            facts: None,
            judgement: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_survive_the_line() {
        let events = [
            Event::Hello(Hello { release: "7.3.4".into(), cpus: 4, uptime_s: 3.5 }),
            Event::StepEnded(StepRecord::new("io/x", Outcome::Passed, 1.0, "line\nbreak")),
            Event::Finished,
        ];
        for event in events {
            let line = serde_json::to_string(&event).expect("json");
            assert!(!line.contains('\n'));
            assert_eq!(serde_json::from_str::<Event>(&line).expect("an event"), event);
        }
    }
}
