//! The guest's runner: takes the job, carries out its steps under a watch, reports every event to the host.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::mount::{MountFlags, mount};

use super::kmsg::{KernelLog, complaints};
use super::program::{Checked, Trouble, bounded, run as run_program};
use super::scenario::{Doing, Done, perform};
use super::{blkproof, evidence, init};
use crate::kmsg::Complaint;
use crate::plan::{Action, Step};
use crate::protocol::{Event, HEARTBEAT, Hello, Job, Outcome, PORT, StepRecord};
use crate::verdict::judge;

const CLEAN_UP: Duration = Duration::from_secs(60);

/// Carries out the job of this guest's image. Called in the guest, by its init.
pub fn run() -> ExitCode {
    let port = match open_port() {
        Ok(port) => port,
        Err(error) => {
            eprintln!("vm-harness guest: no port to report to: {error}");
            return ExitCode::FAILURE;
        }
    };
    let reader = port.try_clone();
    let report = Report::new(port);
    report.send(&hello());
    let job = match reader.and_then(take_job) {
        Ok(job) => job,
        Err(error) => {
            report.send(&Event::SetupFailed { detail: format!("no job: {error}") });
            return ExitCode::FAILURE;
        }
    };
    let heart = report.clone();
    thread::spawn(move || {
        loop {
            thread::sleep(HEARTBEAT);
            heart.send(&Event::Alive);
        }
    });
    Runner::new(report, job).run();
    ExitCode::SUCCESS
}

/// The way to the host.
#[derive(Clone)]
struct Report(Arc<Mutex<File>>);

impl Report {
    fn new(port: File) -> Self {
        Self(Arc::new(Mutex::new(port)))
    }

    fn send(&self, event: &Event) {
        if let Ok(mut line) = serde_json::to_vec(event) {
            line.push(b'\n');
            let sent = self.0.lock().unwrap_or_else(PoisonError::into_inner).write_all(&line);
            if let Err(error) = sent {
                eprintln!("vm-harness guest: cannot report: {error}");
            }
        }
    }
}

fn open_port() -> io::Result<File> {
    let begun = Instant::now();
    loop {
        if let Some(path) = port_path() {
            return File::options().read(true).write(true).open(path);
        }
        if begun.elapsed() > Duration::from_secs(10) {
            return Err(io::Error::other("no such virtio port"));
        }
        thread::sleep(Duration::from_millis(20));
    }
}

fn port_path() -> Option<PathBuf> {
    fs::read_dir("/sys/class/virtio-ports").ok()?.flatten().find_map(|entry| {
        let name = fs::read_to_string(entry.path().join("name")).ok()?;
        let path = Path::new("/dev").join(entry.file_name());
        (name.trim() == PORT && path.exists()).then_some(path)
    })
}

fn hello() -> Event {
    let uptime = fs::read_to_string("/proc/uptime").unwrap_or_default();
    Event::Hello(Hello {
        release: rustix::system::uname().release().to_string_lossy().into_owned(),
        cpus: thread::available_parallelism().map_or(0, Into::into),
        uptime_s: uptime.split_whitespace().next().and_then(|s| s.parse().ok()).unwrap_or(0.0),
    })
}

/// The job that the host gives, or that is in the image.
fn take_job(port: File) -> io::Result<Job> {
    if let Some(job) = init::job() {
        return Ok(job);
    }
    let mut reader = BufReader::new(port);
    let mut line = String::new();
    if reader.read_line(&mut line)? == 0 {
        init::power_off();
    }
    thread::spawn(move || end_with_the_host(reader));
    serde_json::from_str(&line).map_err(io::Error::other)
}

/// The host writes nothing but the job; when it is gone, reading ends, and so must the guest.
fn end_with_the_host(mut reader: impl Read) {
    let mut byte = [0];
    loop {
        match reader.read(&mut byte) {
            Ok(0) => {
                init::power_off();
                return;
            }
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => return,
        }
    }
}

/// How a step ended, seen from outside.
enum Ending {
    Passed(Done),
    Trouble(Trouble),
    /// It did not; what it was waiting for.
    Hung(String),
}

struct Runner {
    report: Report,
    job: Job,
    log: KernelLog,
    canary_before: Option<bool>,
    /// Complaints of the kernel since the first control experiment, with the step they came in.
    complaints: Vec<(Complaint, String)>,
}

impl Runner {
    fn new(report: Report, job: Job) -> Self {
        Self {
            report,
            canary_before: job.canary_passed.then_some(true),
            job,
            log: KernelLog::open(),
            complaints: Vec::new(),
        }
    }

    fn run(&mut self) {
        if self.job.steps.is_empty() {
            self.report.send(&Event::Finished);
            return;
        }
        let scripts_only = self.job.steps.iter().all(|s| matches!(s.action, Action::Script(_)));
        if !scripts_only && let Err(trouble) = prepare_scratch() {
            self.report.send(&Event::SetupFailed { detail: trouble.detail().to_owned() });
            return;
        }
        // What the kernel said while it booted is nobody's fault here.
        self.log.news();
        for step in self.job.steps.clone() {
            let spoiled = self.step(&step);
            if spoiled {
                self.report.send(&Event::Finished);
                return;
            }
        }
        self.report.send(&Event::Finished);
    }

    /// Carries out one step and reports it. True if this guest is not fit for another step.
    fn step(&mut self, step: &Step) -> bool {
        let deadline = Duration::from_secs(u64::from(step.deadline_s)).mul_f64(self.job.patience);
        self.report.send(&Event::StepStarted {
            name: step.name.clone(),
            deadline_s: deadline.as_secs_f64(),
        });
        let begun = Instant::now();
        let ending = watch(step.action.clone(), deadline);
        let seconds = begun.elapsed().as_secs_f64();
        let messages = self.log.news();
        self.complaints.extend(
            complaints(&messages)
                .into_iter()
                .map(|(class, text)| (class, format!("during {}: {text}", step.name))),
        );
        let mut spoiled = false;
        let mut record = match ending {
            Ending::Passed(_) if step.action == Action::KernelLog => self.judge_log(&step.name),
            Ending::Passed(done) => {
                spoiled = done.spoiled;
                StepRecord {
                    evidence: done.notes,
                    trace: done.trace,
                    ..StepRecord::new(&step.name, Outcome::Passed, seconds, done.detail)
                }
            }
            Ending::Trouble(Trouble::Failed { detail, evidence }) => StepRecord {
                evidence,
                ..StepRecord::new(&step.name, Outcome::Failed, seconds, detail)
            },
            Ending::Trouble(Trouble::Environment { detail, evidence }) => StepRecord {
                evidence,
                ..StepRecord::new(&step.name, Outcome::Environment, seconds, detail)
            },
            Ending::Hung(waiting_for) => {
                spoiled = true;
                let facts = evidence::collect(
                    waiting_for.clone(),
                    self.canary_before,
                    messages.clone(),
                    &mut self.log,
                );
                StepRecord {
                    judgement: Some(judge(&facts)),
                    facts: Some(Box::new(facts)),
                    ..StepRecord::new(
                        &step.name,
                        Outcome::Hung,
                        seconds,
                        format!(
                            "waited for {waiting_for}, {:.0} s are over",
                            deadline.as_secs_f64()
                        ),
                    )
                }
            }
        };
        if step.action == Action::Canary && self.canary_before.is_none() {
            self.canary_before = Some(record.outcome == Outcome::Passed);
        }
        if record.outcome == Outcome::Failed || record.outcome == Outcome::Environment {
            record.evidence.extend(messages.into_iter().take(40).map(|m| format!("kernel: {m}")));
            if matches!(step.action, Action::Script(_)) {
                spoiled = true;
            } else if !matches!(step.action, Action::Canary | Action::KernelLog) {
                spoiled = !matches!(bounded(CLEAN_UP, blkproof::clean_up), Some(Ok(())));
                if spoiled {
                    record
                        .evidence
                        .push("what the step left behind could not be cleaned up".into());
                }
            }
        }
        self.report.send(&Event::StepEnded(record));
        spoiled
    }

    fn judge_log(&self, name: &str) -> StepRecord {
        let faults: Vec<&String> = self
            .complaints
            .iter()
            .filter(|(class, _)| *class != Complaint::Starvation)
            .map(|(_, text)| text)
            .collect();
        if faults.is_empty() {
            let starved = self.complaints.len();
            let detail = match starved {
                0 => "no complaint".to_owned(),
                _ => format!(
                    "{starved} complaints of starved CPUs, which is the host's load, and no other"
                ),
            };
            return StepRecord::new(name, Outcome::Passed, 0.0, detail);
        }
        StepRecord {
            evidence: faults.iter().map(|&f| f.clone()).collect(),
            ..StepRecord::new(
                name,
                Outcome::Failed,
                0.0,
                format!("{} complaints of the kernel", faults.len()),
            )
        }
    }
}

/// Runs a step on a thread of its own: if that thread gets stuck in the kernel, this one still reports.
fn watch(action: Action, deadline: Duration) -> Ending {
    let doing = Doing::default();
    let (done, result) = mpsc::channel();
    let inner = doing.clone();
    thread::spawn(move || {
        let _ = done.send(perform(&action, &inner));
    });
    match result.recv_timeout(deadline) {
        Ok(Ok(detail)) => Ending::Passed(detail),
        Ok(Err(trouble)) => Ending::Trouble(trouble),
        Err(RecvTimeoutError::Timeout) => Ending::Hung(doing.what()),
        Err(RecvTimeoutError::Disconnected) => Ending::Trouble(Trouble::Environment {
            detail: format!("the harness itself failed while it did: {}", doing.what()),
            evidence: Vec::new(),
        }),
    }
}

/// A real file system on a real disk, for backing files.
fn prepare_scratch() -> Checked {
    run_program("mkfs.ext4", &["-q", "-F", "-O", "^has_journal", "/dev/vda"])
        .map_err(Trouble::of_environment)?;
    match mount("/dev/vda", "/scratch", "ext4", MountFlags::empty(), None) {
        Ok(()) => Ok(()),
        Err(error) => super::program::broken(format!("mount the scratch disk: {error}")),
    }
}
