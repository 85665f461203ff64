//! What a run leaves for people (text), for programs (JSON) and for CI (JUnit XML).

use std::fmt::Write;
use std::time::Duration;

use quick_junit::{NonSuccessKind, Property, TestCase, TestCaseStatus, TestSuite};
use serde::{Deserialize, Serialize};

use crate::protocol::{Outcome, StepRecord};
use crate::qemu::Accelerator;
use crate::verdict::{self, Verdict};

/// The outcome of one kernel.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct KernelReport {
    /// What was asked for: `7.3`, `host`, a path.
    pub requested: String,
    /// `uname -r`, once known.
    pub release: String,
    /// Where the kernel came from.
    pub origin: String,
    /// The verdict.
    pub verdict: Verdict,
    /// Why there are no steps, or not all of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Wall time in seconds.
    pub seconds: f64,
    /// Every step of the plan.
    pub steps: Vec<StepRecord>,
}

/// The outcome of a run.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RunReport {
    /// Version of this layout.
    pub schema: u32,
    /// The worst verdict of all kernels.
    pub verdict: Verdict,
    /// The process exit code that goes with it.
    pub exit_code: u8,
    /// The run was cut short by Ctrl-C.
    pub interrupted: bool,
    /// How guest code was executed; absent if none was.
    pub accelerator: Option<Accelerator>,
    /// QEMU's own version line.
    pub qemu: String,
    /// Wall time in seconds.
    pub seconds: f64,
    /// One per kernel, in the order asked.
    pub kernels: Vec<KernelReport>,
}

impl RunReport {
    /// Sums up.
    pub fn new(kernels: Vec<KernelReport>, seconds: f64) -> Self {
        let verdict = kernels.iter().map(|k| k.verdict).max().unwrap_or(Verdict::Pass);
        Self {
            schema: 1,
            verdict,
            exit_code: verdict.exit_code(),
            interrupted: false,
            accelerator: None,
            qemu: String::new(),
            seconds,
            kernels,
        }
    }
}

/// One line on a step.
pub fn step_line(record: &StepRecord) -> String {
    let mark = match record.outcome {
        Outcome::Passed => "ok  ",
        Outcome::Failed => "FAIL",
        Outcome::Hung => "HANG",
        Outcome::Environment => "ENV ",
        Outcome::Skipped => "skip",
    };
    format!("  {mark} {:<30} {:>6.1} s  {}", record.name, record.seconds, record.detail)
        .trim_end()
        .to_owned()
}

/// What else there is to say about a step that did not pass.
pub fn step_evidence(record: &StepRecord) -> Vec<String> {
    let mut lines = Vec::new();
    if let Some(judgement) = &record.judgement {
        lines.push(format!("verdict: {judgement}"));
        lines.extend(judgement.because.iter().skip(1).map(|b| format!("also: {b}")));
    }
    if let Some(facts) = &record.facts {
        if let Some(canary) = &facts.canary_now {
            let word = if canary.passed { "passes" } else { "fails" };
            lines.push(format!("control experiment now {word}: {}", canary.detail));
        }
        for device in &facts.devices {
            for machine in &device.machines {
                for pending in &machine.pending {
                    lines.push(format!(
                        "device {} {}: waits for {}, owed by {}",
                        device.id, machine.name, pending.waits_for, pending.owner
                    ));
                }
            }
        }
        for task in facts.tasks.iter().filter(|t| matches!(t.state, 'D' | 'T' | 't')).take(8) {
            lines.push(format!(
                "task {} {} ({}): state {}",
                task.tid, task.comm, task.wchan, task.state
            ));
            lines.extend(task.stack.iter().take(12).map(|f| format!("    {f}")));
        }
        lines.extend(facts.console.iter().take(25).map(|l| format!("console: {l}")));
    }
    lines.extend(record.evidence.iter().cloned());
    lines
}

/// The closing table: one line per kernel, then the verdict.
pub fn summary(report: &RunReport) -> String {
    let mut text = String::new();
    let count = |kernel: &KernelReport, wanted: Outcome| -> String {
        kernel.steps.iter().filter(|s| s.outcome == wanted).count().to_string()
    };
    let header =
        ["kernel", "release", "passed", "failed", "hung", "env", "skip", "time", "verdict"];
    let mut rows = vec![header.map(str::to_owned)];
    rows.extend(report.kernels.iter().map(|k| {
        [
            k.requested.clone(),
            k.release.clone(),
            count(k, Outcome::Passed),
            count(k, Outcome::Failed),
            count(k, Outcome::Hung),
            count(k, Outcome::Environment),
            count(k, Outcome::Skipped),
            format!("{:.1} s", k.seconds),
            k.verdict.text().to_owned(),
        ]
    }));
    let width = |column: usize| rows.iter().map(|r| r[column].chars().count()).max().unwrap_or(0);
    for row in &rows {
        let cells = row.iter().enumerate().map(|(column, cell)| match column {
            2..=7 => format!("{cell:>width$}", width = width(column)),
            _ => format!("{cell:<width$}", width = width(column)),
        });
        let _ = writeln!(text, "{}", cells.collect::<Vec<_>>().join("  ").trim_end());
    }
    let _ = write!(
        text,
        "{}: {} in {:.0} s, exit code {}",
        if report.interrupted { "interrupted; until then" } else { "all kernels" },
        report.verdict.text(),
        report.seconds,
        report.exit_code
    );
    text
}

/// JUnit XML: a suite per kernel, a case per step.
pub fn junit(report: &RunReport) -> String {
    let mut document = quick_junit::Report::new("vm-harness");
    document.set_time(Duration::from_secs_f64(report.seconds));
    for kernel in &report.kernels {
        let mut suite = TestSuite::new(format!("linux-{}", kernel.requested));
        suite.set_time(Duration::from_secs_f64(kernel.seconds));
        suite.add_property(Property::new("release", kernel.release.as_str()));
        suite.add_property(Property::new("origin", kernel.origin.as_str()));
        suite.add_property(Property::new("verdict", kernel.verdict.text()));
        if let Some(error) = &kernel.error {
            let mut status = TestCaseStatus::non_success(NonSuccessKind::Error);
            status.set_type(kernel.verdict.text()).set_message(error.as_str());
            suite.add_test_case(TestCase::new("kernel", status));
        }
        for step in &kernel.steps {
            suite.add_test_case(case(kernel, step));
        }
        document.add_test_suite(suite);
    }
    document.to_string().unwrap_or_default()
}

fn case(kernel: &KernelReport, step: &StepRecord) -> TestCase {
    let mut status = match step.outcome {
        Outcome::Passed => TestCaseStatus::success(),
        Outcome::Skipped => TestCaseStatus::skipped(),
        Outcome::Failed | Outcome::Hung => TestCaseStatus::non_success(NonSuccessKind::Failure),
        Outcome::Environment => TestCaseStatus::non_success(NonSuccessKind::Error),
    };
    if step.outcome != Outcome::Passed {
        status.set_message(step.detail.as_str());
    }
    if !matches!(step.outcome, Outcome::Passed | Outcome::Skipped) {
        status.set_type(verdict::of_step(step).text());
        status.set_description(step_evidence(step).join("\n"));
    }
    let mut case = TestCase::new(step.name.as_str(), status);
    case.set_classname(format!("linux-{}", kernel.requested));
    case.set_time(Duration::from_secs_f64(step.seconds));
    if step.outcome == Outcome::Passed {
        case.set_system_out(step.detail.as_str());
    }
    case
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::facts::{CanaryResult, HangFacts, Role, TaskFacts};
    use crate::verdict::judge;

    fn sample() -> RunReport {
        let facts = HangFacts {
            waiting_for: "a read from /dev/ublkb0".into(),
            canary_before: Some(true),
            canary_now: Some(CanaryResult {
                passed: true,
                detail: "null_blk: 8192 KiB verified in 0.9 s".into(),
            }),
            tasks: vec![TaskFacts {
                pid: 7,
                tid: 7,
                comm: "fio".into(),
                role: Role::Client,
                state: 'D',
                syscall: Some(0),
                wchan: "folio_wait_bit_common".into(),
                recent_ticks: 0,
                stack: vec!["folio_wait_bit_common+0x1/0x2".into()],
            }],
            ..HangFacts::default()
        };
        let hung = StepRecord {
            judgement: Some(judge(&facts)),
            facts: Some(Box::new(facts)),
            ..StepRecord::new(
                "io/mem-q4-d64-rand-4k",
                Outcome::Hung,
                60.0,
                "waited for fio, 60 s are over",
            )
        };
        let kernel = |requested: &str, release: &str, steps: Vec<StepRecord>| KernelReport {
            requested: requested.into(),
            release: release.into(),
            origin: "Debian".into(),
            verdict: verdict::of_steps(&steps),
            error: None,
            seconds: 61.5,
            steps,
        };
        let mut gone = kernel("7.3", "", vec![]);
        gone.verdict = Verdict::KernelUnavailable;
        gone.error = Some("cannot fetch a kernel of series 7.3".into());
        RunReport::new(
            vec![
                kernel(
                    "6.12",
                    "6.12.107+deb13-cloud-amd64",
                    vec![StepRecord::new("canary/before", Outcome::Passed, 2.0, "fine"), hung],
                ),
                kernel(
                    "6.18",
                    "6.18.15+deb13-cloud-amd64",
                    vec![
                        StepRecord::new(
                            "features",
                            Outcome::Failed,
                            0.1,
                            "`features --json` is not JSON",
                        ),
                        StepRecord::new("canary/after", Outcome::Skipped, 0.0, "interrupted"),
                    ],
                ),
                gone,
            ],
            130.0,
        )
    }

    #[test]
    fn the_text() {
        let report = sample();
        let mut text = String::new();
        for step in report.kernels.iter().flat_map(|k| &k.steps) {
            let _ = writeln!(text, "{}", step_line(step));
            for line in step_evidence(step) {
                let _ = writeln!(text, "         {line}");
            }
        }
        let _ = writeln!(text, "{}", summary(&report));
        insta::assert_snapshot!(text);
    }

    #[test]
    fn the_junit_xml() {
        insta::assert_snapshot!(junit(&sample()));
    }

    #[test]
    fn the_json_can_be_read_back() {
        let report = sample();
        let text = serde_json::to_string(&report).expect("json");
        let again: RunReport = serde_json::from_str(&text).expect("a report");
        assert_eq!(again.verdict, Verdict::Fail);
        assert_eq!(again.exit_code, 1);
        assert_eq!(again.kernels[0].steps, report.kernels[0].steps);
    }
}
