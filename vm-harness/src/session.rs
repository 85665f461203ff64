//! One kernel's run: boot a pristine guest, watch it, and boot another for the steps that a hang left undone.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::RecvTimeoutError;
use std::time::{Duration, Instant};

use crate::error::{Error, Result};
use crate::image::{self, Contents};
use crate::kernel::Kernel;
use crate::modules;
use crate::plan::{Action, Step};
use crate::protocol::{Event, Job, Outcome, StepRecord};
use crate::qemu::{self, Accelerator, Guest, Line, Machine, Traces};
use crate::tools::{self, Tool};
use crate::verdict::{HangFacts, judge};

/// Longest boot to the runner's hello.
const BOOT: Duration = Duration::from_secs(120);
/// Longest boot under KVM that still counts as working.
const PROBE: Duration = Duration::from_secs(10);
/// What the guest may take, beyond a step's deadline, to collect evidence and clean up.
const GRACE: Duration = Duration::from_secs(150);
/// Guests per kernel, before the remaining steps are skipped.
const GUESTS: usize = 4;

/// Set by Ctrl-C.
pub static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// Where a run tells how it goes.
pub trait Progress {
    /// A guest is about to boot, or has booted.
    fn note(&self, text: &str);
    /// A step begins.
    fn started(&self, name: &str);
    /// A step ended.
    fn ended(&self, record: &StepRecord);
}

/// Everything the sessions of one invocation share.
#[derive(Debug)]
pub struct Setup {
    /// This program, which is also the guest's.
    pub runner: PathBuf,
    /// The program under test. Without it only the control experiment can run.
    pub blkproof: Option<PathBuf>,
    /// Factor on every deadline.
    pub patience: f64,
    /// Where consoles and other traces go.
    pub out: PathBuf,
}

/// A kernel with its modules unpacked, ready for any number of guests.
#[derive(Debug)]
pub struct Session<'a> {
    setup: &'a Setup,
    kernel: &'a Kernel,
    modules: Vec<modules::Module>,
    accelerator: Accelerator,
    dir: PathBuf,
    guests: usize,
}

/// How one guest ended.
enum GuestEnd {
    /// It did all its steps.
    Finished,
    /// It left steps undone because it can no longer be trusted.
    Spoiled,
    /// Ctrl-C.
    Interrupted,
}

impl<'a> Session<'a> {
    /// Prepares a kernel. `dir` receives the traces.
    pub fn new(
        setup: &'a Setup,
        kernel: &'a Kernel,
        accelerator: Accelerator,
        dir: PathBuf,
    ) -> Result<Self> {
        fs::create_dir_all(&dir)
            .map_err(|e| Error::environment(format!("create {}", dir.display())).answer(e))?;
        Ok(Self {
            setup,
            kernel,
            modules: modules::for_guest(&kernel.modules)?,
            accelerator,
            dir,
            guests: 0,
        })
    }

    /// Executes code this way from now on.
    pub fn set_accelerator(&mut self, accelerator: Accelerator) {
        self.accelerator = accelerator;
    }

    /// Carries out the steps, in as many guests as it takes. One record per step, in order.
    pub fn run(&mut self, steps: &[Step], progress: &dyn Progress) -> Result<Vec<StepRecord>> {
        let mut records: Vec<StepRecord> = Vec::new();
        let mut canary_passed = false;
        while records.len() < steps.len() {
            let rest = &steps[records.len()..];
            if self.guests == GUESTS || INTERRUPTED.load(Ordering::Relaxed) {
                let why = if self.guests == GUESTS {
                    "too many guests were spoiled before"
                } else {
                    "interrupted"
                };
                records.extend(
                    rest.iter().map(|s| StepRecord::new(&s.name, Outcome::Skipped, 0.0, why)),
                );
                break;
            }
            let before = records.len();
            let job = Job {
                steps: rest.to_vec(),
                patience: self.setup.patience,
                canary_passed,
                shell: false,
            };
            let end = self.guest(&job, &mut records, progress)?;
            for (record, step) in records.iter().zip(steps) {
                canary_passed |= step.action == Action::Canary && record.outcome == Outcome::Passed;
            }
            let broken = records.iter().any(|r| r.outcome == Outcome::Environment);
            if broken && !canary_passed {
                // A guest without a passing control experiment can tell nothing: spare the rest.
                records.extend(steps[records.len()..].iter().map(|s| {
                    StepRecord::new(&s.name, Outcome::Skipped, 0.0, "the environment is broken")
                }));
                break;
            }
            match end {
                GuestEnd::Finished | GuestEnd::Interrupted => {}
                GuestEnd::Spoiled => progress.note("a fresh guest for the remaining steps"),
            }
            if records.len() == before && !INTERRUPTED.load(Ordering::Relaxed) {
                return Err(Error::environment("make a guest do anything")
                    .answer("it finished without doing its steps"));
            }
        }
        Ok(records)
    }

    /// Boots to the hello, under KVM, and says whether that worked.
    pub fn boots_under_kvm(&mut self) -> bool {
        let accelerator = std::mem::replace(&mut self.accelerator, Accelerator::Kvm);
        let job = Job::default();
        let traces = Traces::new(&self.dir, 0);
        let booted = self.boot(&job, &traces, None).is_ok_and(|guest| {
            let until = Instant::now() + PROBE;
            while let Some(left) = until.checked_duration_since(Instant::now()) {
                match guest.events().recv_timeout(left) {
                    Ok(Line::Event(Event::Hello { .. })) => return true,
                    Ok(Line::End) | Err(_) => return false,
                    Ok(_) => {}
                }
            }
            false
        });
        traces.clean();
        let _ = fs::remove_file(&traces.console);
        self.accelerator = accelerator;
        booted
    }

    /// Gives the user a guest's console: the steps run first, then a shell.
    pub fn interactive(&mut self, steps: &[Step]) -> Result<PathBuf> {
        let traces = self.next_traces();
        let job = Job {
            steps: steps.to_vec(),
            patience: self.setup.patience,
            canary_passed: false,
            shell: true,
        };
        let guest = self.boot(&job, &traces, Some(&traces.events))?;
        guest.wait();
        traces.clean();
        Ok(traces.events)
    }

    fn next_traces(&mut self) -> Traces {
        self.guests += 1;
        Traces::new(&self.dir, self.guests)
    }

    fn boot(&self, job: &Job, traces: &Traces, interactive: Option<&Path>) -> Result<Guest> {
        let mut programs: Vec<(&str, PathBuf)> = Vec::new();
        let mut add = |tool: Tool| {
            if let Some(path) = tools::find(tool.program) {
                programs.push((tool.program, path));
            }
        };
        for tool in [tools::FIO, tools::MKFS, tools::FSCK] {
            add(tool);
        }
        if job.shell {
            add(tools::BUSYBOX);
        }
        if let Some(blkproof) = &self.setup.blkproof {
            programs.push(("blkproof", blkproof.clone()));
        }
        image::write(
            &traces.initramfs,
            &Contents {
                runner: &self.setup.runner,
                programs: &programs,
                modules: &self.modules,
                job,
            },
        )?;
        Machine {
            kernel: &self.kernel.image,
            initramfs: &traces.initramfs,
            scratch: &traces.scratch,
            console: &traces.console,
            accelerator: self.accelerator,
            interactive,
        }
        .boot()
    }

    /// Runs one guest. Appends a record for every step that began.
    fn guest(
        &mut self,
        job: &Job,
        records: &mut Vec<StepRecord>,
        progress: &dyn Progress,
    ) -> Result<GuestEnd> {
        let traces = self.next_traces();
        progress.started("boot");
        let begun = Instant::now();
        let mut guest = self.boot(job, &traces, None)?;
        let end = self.watch(&mut guest, &traces, job, records, progress, begun);
        drop(guest);
        traces.clean();
        end
    }

    fn watch(
        &self,
        guest: &mut Guest,
        traces: &Traces,
        job: &Job,
        records: &mut Vec<StepRecord>,
        progress: &dyn Progress,
        begun: Instant,
    ) -> Result<GuestEnd> {
        let mut current: Option<String> = None;
        let mut current_since = begun;
        let mut until = begun + BOOT.mul_f64(self.setup.patience);
        loop {
            if INTERRUPTED.load(Ordering::Relaxed) {
                return Ok(GuestEnd::Interrupted);
            }
            let left = until.saturating_duration_since(Instant::now());
            let line = match guest.events().recv_timeout(left.min(Duration::from_millis(200))) {
                Ok(line) => line,
                Err(RecvTimeoutError::Timeout) if !left.is_zero() => continue,
                Err(_) => {
                    return self.silent(
                        current,
                        current_since,
                        traces,
                        job,
                        records,
                        progress,
                        "no answer any more",
                    );
                }
            };
            match line {
                Line::Event(Event::Hello { release, cpus, uptime_s }) => {
                    progress.note(&format!(
                        "{release} is up after {:.1} s ({uptime_s:.1} s by its own clock), {cpus} CPUs",
                        begun.elapsed().as_secs_f64()
                    ));
                    until = Instant::now() + BOOT;
                }
                Line::Event(Event::StepStarted { name, deadline_s }) => {
                    progress.started(&name);
                    current_since = Instant::now();
                    until = current_since
                        + Duration::from_secs_f64(deadline_s)
                        + GRACE.mul_f64(self.setup.patience);
                    current = Some(name);
                }
                Line::Event(Event::StepEnded(record)) => {
                    progress.ended(&record);
                    records.push(record);
                    current = None;
                    until = Instant::now() + GRACE;
                }
                Line::Event(Event::SetupFailed { detail }) => {
                    return Err(Error::environment("prepare the guest")
                        .answer(detail)
                        .advice(format!("its console is in {}", traces.console.display())));
                }
                Line::Event(Event::Finished { spoiled: false }) => return Ok(GuestEnd::Finished),
                Line::Event(Event::Finished { spoiled: true }) => return Ok(GuestEnd::Spoiled),
                Line::Garbage(text) => progress.note(&format!("not an event: {text}")),
                Line::End => {
                    let said = guest.complaints();
                    if current.is_none() && records.is_empty() {
                        return Err(self.no_boot(traces, &said));
                    }
                    return self.silent(
                        current,
                        current_since,
                        traces,
                        job,
                        records,
                        progress,
                        "QEMU ended",
                    );
                }
            }
        }
    }

    fn no_boot(&self, traces: &Traces, qemu_said: &str) -> Error {
        let mut answer = qemu::console_tail(&traces.console, 8);
        if !qemu_said.is_empty() {
            answer.push(format!("QEMU: {qemu_said}"));
        }
        Error::environment(format!("boot {}", self.kernel.release))
            .answer(if answer.is_empty() {
                "nothing on its console".to_owned()
            } else {
                answer.join("\n")
            })
            .advice(format!(
                "read {}; if KVM was in use, try --accel tcg",
                traces.console.display()
            ))
    }

    /// The guest as a whole does not answer: the host judges from what the console says.
    #[expect(clippy::too_many_arguments, reason = "the state of one watch, used once")]
    fn silent(
        &self,
        current: Option<String>,
        since: Instant,
        traces: &Traces,
        job: &Job,
        records: &mut Vec<StepRecord>,
        progress: &dyn Progress,
        how: &str,
    ) -> Result<GuestEnd> {
        let Some(name) = current else {
            return Err(self.no_boot(traces, how));
        };
        let facts = HangFacts {
            waiting_for: "the guest".into(),
            canary_before: if job.canary_passed { Some(true) } else { canary_outcome(records) },
            guest_silent: true,
            console: qemu::console_tail(&traces.console, 40),
            ..HangFacts::default()
        };
        let record = StepRecord {
            judgement: Some(judge(&facts)),
            facts: Some(Box::new(facts)),
            ..StepRecord::new(
                name,
                Outcome::Hung,
                since.elapsed().as_secs_f64(),
                format!("{how}; console: {}", traces.console.display()),
            )
        };
        progress.ended(&record);
        records.push(record);
        Ok(GuestEnd::Spoiled)
    }
}

fn canary_outcome(records: &[StepRecord]) -> Option<bool> {
    records.iter().find(|r| r.name.starts_with("canary")).map(|r| r.outcome == Outcome::Passed)
}
