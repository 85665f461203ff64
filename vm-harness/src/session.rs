//! One kernel's run: a pristine guest, watched, and another for the steps that a hang left undone.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::RecvTimeoutError;
use std::time::{Duration, Instant};

use crate::error::{Attempt, Error, Result};
use crate::facts::HangFacts;
use crate::frozen::{Frozen, freeze};
use crate::image::{self, Contents};
use crate::kernel::Kernel;
use crate::modules;
use crate::plan::{Action, Step};
use crate::protocol::{Event, Hello, Job, Outcome, StepRecord};
use crate::qemu::{self, Accelerator, Guest, Line, Machine, Traces};
use crate::tools::{self, Tool};
use crate::verdict::{Owner, judge};

/// Longest boot to the runner's hello.
const BOOT: Duration = Duration::from_secs(60);
/// Boots that may fail before the kernel counts as not bootable: an emulator that stumbles during boot says nothing about anything.
const BOOTS: usize = 3;
/// Steps in a row that the environment spoils before it counts as broken, where no control experiment says so.
const SPOILED: usize = 3;
/// Longest silence of a runner that should say every two seconds that it is alive.
const SILENCE: Duration = Duration::from_secs(30);
/// Longest boot under KVM that still counts as working.
const PROBE: Duration = Duration::from_secs(10);
/// What the guest may take, beyond a step's deadline, to collect evidence and clean up.
const GRACE: Duration = Duration::from_secs(150);
/// Guests per kernel, before the remaining steps are skipped.
pub const GUESTS: usize = 4;

/// Set by Ctrl-C.
pub static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// Where a run tells how it goes.
pub trait Progress {
    /// A guest is about to boot, or has booted.
    fn note(&self, text: &str);
    /// A step begins.
    fn started(&self, name: &str);
    /// Decides about a step from what its guest recorded, where that is not for the guest to do.
    fn judge(&self, _record: &mut StepRecord) {}
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
    /// Guests booted so far: their traces are numbered.
    guests: usize,
    /// Repeat, once, a step in which the guest as a whole broke for no reason that its kernel gave.
    second_chance: bool,
    /// Guests that may be used up.
    guests_max: usize,
    /// What the guest may take beyond a step's deadline.
    grace: Duration,
    /// What its guests go on from, instead of booting.
    frozen: Option<Arc<Frozen>>,
}

/// What came of the steps on one kernel.
#[derive(Debug, Default)]
pub struct Ran {
    /// One per step, in order.
    pub records: Vec<StepRecord>,
    /// Why steps were skipped for want of a guest.
    pub error: Option<Error>,
}

impl Ran {
    /// This, then that.
    #[must_use]
    pub fn and(mut self, then: Self) -> Self {
        self.records.extend(then.records);
        self.error = self.error.or(then.error);
        self
    }
}

/// How one guest ended.
#[derive(Debug, PartialEq, Eq)]
enum GuestEnd {
    /// It did all its steps, or left some undone because it can no longer be trusted.
    Done,
    /// It never got as far as its first step.
    Unfit(Error),
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
            second_chance: true,
            guests_max: GUESTS,
            grace: GRACE,
            frozen: None,
        })
    }

    /// Executes code this way from now on.
    pub fn set_accelerator(&mut self, accelerator: Accelerator) {
        self.accelerator = accelerator;
    }

    /// Reports a broken guest at the first time.
    #[must_use]
    pub fn without_second_chance(mut self) -> Self {
        self.second_chance = false;
        self
    }

    /// Steps that a guest need not survive: one guest, no second chance, and nothing is waited for when it is over.
    #[must_use]
    pub fn expendable(mut self) -> Self {
        (self.guests_max, self.second_chance, self.grace) = (1, false, Duration::ZERO);
        self
    }

    /// Lets up to this many guests be used up.
    #[must_use]
    pub fn with_guests(mut self, guests_max: usize) -> Self {
        self.guests_max = guests_max;
        self
    }

    /// Lets its guests go on from one that has booted.
    #[must_use]
    pub fn going_on(mut self, from: Option<Arc<Frozen>>) -> Self {
        self.frozen = from;
        self
    }

    /// Boots a guest for any steps but interactive ones, and keeps it.
    pub fn freeze(&mut self, progress: &dyn Progress) -> Result<Frozen> {
        let traces = self.next_traces();
        let dir = tempfile::tempdir().attempting(|| "make a temporary directory".into())?;
        let orders = dir.path().join("qmp");
        progress.started("boot");
        let begun = Instant::now();
        let mut guest = self.boot(&Job::default(), &traces, None, Some(&orders))?;
        let Some(hello) = await_hello(&guest, BOOT.mul_f64(self.setup.patience)) else {
            let complaints = guest.complaints();
            return Err(self.no_boot(&traces, &format!("no hello {complaints}")));
        };
        progress.note(&is_up(&hello, begun));
        let state = traces.initramfs.with_extension("state");
        let frozen = Frozen { initramfs: traces.initramfs.clone(), state };
        freeze(&orders, &frozen.state)?;
        drop(guest);
        let _ = fs::remove_file(&traces.scratch);
        Ok(frozen)
    }

    /// Carries out the steps, in as many guests as it takes. Every step gets a record; what was learnt before an error is kept.
    pub fn run(&mut self, steps: &[Step], progress: &dyn Progress) -> Ran {
        let mut records: Vec<StepRecord> = Vec::new();
        let error = self.run_into(&mut records, steps, progress).err();
        let undone = &steps[records.len().min(steps.len())..];
        let skipped = undone.iter().map(|s| {
            StepRecord::new(&s.name, Outcome::Skipped, 0.0, "no guest could be used for it")
        });
        records.extend(skipped);
        Ran { records, error }
    }

    fn run_into(
        &mut self,
        records: &mut Vec<StepRecord>,
        steps: &[Step],
        progress: &dyn Progress,
    ) -> Result<()> {
        let mut canary_passed = false;
        let mut chances = usize::from(self.second_chance);
        let mut failures = 0;
        let mut used = 0;
        while records.len() < steps.len() {
            let rest = &steps[records.len()..];
            let broken = is_broken(steps, records);
            let reason = if INTERRUPTED.load(Ordering::Relaxed) {
                Some("interrupted")
            } else if used == self.guests_max {
                Some("too many guests were spoiled before")
            } else if broken && !canary_passed {
                // Without a passing control experiment no guest can tell anything: spare the rest.
                Some("the environment is broken")
            } else {
                None
            };
            if let Some(reason) = reason {
                let skipped =
                    rest.iter().map(|s| StepRecord::new(&s.name, Outcome::Skipped, 0.0, reason));
                records.extend(skipped);
                return Ok(());
            }
            let before = records.len();
            let job = Job {
                steps: rest.to_vec(),
                patience: self.setup.patience,
                canary_passed,
                shell: false,
            };
            match self.guest(&job, records, progress)? {
                GuestEnd::Done => used += 1,
                GuestEnd::Interrupted => {}
                GuestEnd::Unfit(error) => {
                    failures += 1;
                    if failures == BOOTS {
                        return Err(error);
                    }
                    progress.note("the guest did not get as far as its first step: trying again");
                    continue;
                }
            }
            for (record, step) in records.iter().zip(steps) {
                canary_passed |= step.action == Action::Canary && record.outcome == Outcome::Passed;
            }
            if chances > 0 && records.last().is_some_and(is_of_this_guest) {
                chances -= 1;
                records.pop();
                progress.note(
                    "this guest is broken as a whole and its kernel gives no reason: the step is repeated once",
                );
            } else if records.len() == before && !INTERRUPTED.load(Ordering::Relaxed) {
                return Err(Error::environment("make a guest do anything")
                    .answer("it finished without doing its steps"));
            } else if records.len() < steps.len() && !INTERRUPTED.load(Ordering::Relaxed) {
                progress.note("a fresh guest for the remaining steps");
            }
        }
        Ok(())
    }

    /// Boots to the hello, under KVM, and says whether that worked.
    pub fn boots_under_kvm(&mut self) -> bool {
        let accelerator = std::mem::replace(&mut self.accelerator, Accelerator::Kvm);
        let job = Job::default();
        let traces = Traces::new(&self.dir, 0);
        let booted = self.boot(&job, &traces, None, None);
        let booted = booted.is_ok_and(|guest| await_hello(&guest, PROBE).is_some());
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
        let guest = self.boot(&job, &traces, Some(&traces.events), None)?;
        guest.wait();
        traces.clean();
        Ok(traces.events)
    }

    fn next_traces(&mut self) -> Traces {
        self.guests += 1;
        Traces::new(&self.dir, self.guests)
    }

    fn boot(
        &self,
        job: &Job,
        traces: &Traces,
        interactive: Option<&Path>,
        orders: Option<&Path>,
    ) -> Result<Guest> {
        let mut programs: Vec<(&str, PathBuf)> = Vec::new();
        let mut add = |tool: Tool| {
            if let Some(path) = tools::find(tool.program) {
                programs.push((tool.program, path));
            }
        };
        for tool in [tools::FIO, tools::MKFS, tools::FSCK] {
            add(tool);
        }
        if job.steps.iter().any(|s| matches!(s.action, Action::Plant(_))) {
            add(tools::FSFREEZE);
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
                job: interactive.is_some().then_some(job),
            },
        )?;
        Machine { interactive, orders, ..self.machine(&traces.initramfs, traces) }.boot()
    }

    fn machine<'t>(&'t self, initramfs: &'t Path, traces: &'t Traces) -> Machine<'t> {
        Machine {
            kernel: &self.kernel.image,
            initramfs,
            scratch: &traces.scratch,
            console: &traces.console,
            accelerator: self.accelerator,
            interactive: None,
            state: None,
            orders: None,
        }
    }

    /// Runs one guest. Appends a record for every step that began.
    fn guest(
        &mut self,
        job: &Job,
        records: &mut Vec<StepRecord>,
        progress: &dyn Progress,
    ) -> Result<GuestEnd> {
        let traces = self.next_traces();
        let begun = Instant::now();
        let mut guest = if let Some(frozen) = &self.frozen {
            let machine = self.machine(&frozen.initramfs, &traces);
            let guest = Machine { state: Some(&frozen.state), ..machine }.boot()?;
            guest.give(job)?;
            guest
        } else {
            progress.started("boot");
            self.boot(job, &traces, None, None)?
        };
        let end = self.watch(&mut guest, &traces, job, records, progress, begun);
        drop(guest);
        traces.clean();
        Ok(end)
    }

    fn watch(
        &self,
        guest: &mut Guest,
        traces: &Traces,
        job: &Job,
        records: &mut Vec<StepRecord>,
        progress: &dyn Progress,
        begun: Instant,
    ) -> GuestEnd {
        let patient = |duration: Duration| duration.mul_f64(self.setup.patience);
        // One that goes on said its hello before.
        let mut up = self.frozen.is_some();
        let mut current: Option<(String, Instant)> = None;
        let mut quiet_until = begun + patient(BOOT);
        let mut step_until: Option<Instant> = None;
        let silence = loop {
            if INTERRUPTED.load(Ordering::Relaxed) {
                return GuestEnd::Interrupted;
            }
            let now = Instant::now();
            if now >= quiet_until {
                break "no sign of life any more".to_owned();
            }
            if step_until.is_some_and(|until| now >= until) {
                break "alive, but without a result long after the deadline".to_owned();
            }
            let line = match guest.events().recv_timeout(Duration::from_millis(200)) {
                Ok(line) => line,
                Err(RecvTimeoutError::Timeout) => continue,
                Err(RecvTimeoutError::Disconnected) => Line::End,
            };
            quiet_until = Instant::now() + patient(if up { SILENCE } else { BOOT });
            match line {
                Line::Event(Event::Hello(hello)) => {
                    up = true;
                    progress.note(&is_up(&hello, begun));
                    if let Err(error) = guest.give(job) {
                        return GuestEnd::Unfit(error);
                    }
                }
                Line::Event(Event::Alive) => {}
                Line::Event(Event::StepStarted { name, deadline_s }) => {
                    progress.started(&name);
                    let now = Instant::now();
                    step_until =
                        Some(now + Duration::from_secs_f64(deadline_s) + patient(self.grace));
                    current = Some((name, now));
                }
                Line::Event(Event::StepEnded(mut record)) => {
                    progress.judge(&mut record);
                    progress.ended(&record);
                    records.push(record);
                    current = None;
                    step_until = None;
                }
                Line::Event(Event::SetupFailed { detail }) => {
                    let error = Error::environment("prepare the guest")
                        .answer(detail)
                        .advice(format!("its console is in {}", traces.console.display()));
                    return GuestEnd::Unfit(error);
                }
                Line::Event(Event::Finished) => return GuestEnd::Done,
                Line::Garbage(text) => progress.note(&format!("not an event: {text}")),
                Line::End => break format!("QEMU ended {}", guest.complaints()).trim().to_owned(),
            }
        };
        if !up {
            return GuestEnd::Unfit(self.no_boot(traces, &silence));
        }
        let (name, since) = current.unwrap_or_else(|| (next_step(job, records), Instant::now()));
        let facts = HangFacts {
            waiting_for: "the guest".into(),
            canary_before: if job.canary_passed { Some(true) } else { canary_outcome(records) },
            guest_silent: true,
            console: qemu::last_words(&traces.console),
            ..HangFacts::default()
        };
        let mut record = StepRecord {
            judgement: Some(judge(&facts)),
            facts: Some(Box::new(facts)),
            ..StepRecord::new(
                name,
                Outcome::Hung,
                since.elapsed().as_secs_f64(),
                format!("{silence}; console: {}", traces.console.display()),
            )
        };
        progress.judge(&mut record);
        progress.ended(&record);
        records.push(record);
        GuestEnd::Done
    }

    fn no_boot(&self, traces: &Traces, how: &str) -> Error {
        let mut answer = qemu::console_tail(&traces.console, 8);
        answer.push(how.to_owned());
        Error::environment(format!("boot {}", self.kernel.release))
            .answer(answer.join("\n"))
            .advice(format!(
                "read {}; if KVM was in use, try --accel tcg",
                traces.console.display()
            ))
    }
}

/// Whether no guest can tell anything, so that the rest is spared, unless a control experiment passes.
fn is_broken(steps: &[Step], records: &[StepRecord]) -> bool {
    let spoiled = |record: &StepRecord| record.outcome == Outcome::Environment;
    if steps.iter().any(|step| step.action == Action::Canary) {
        return records.iter().any(spoiled);
    }
    // Without a control experiment one such step may be its own fault, so many in a row are not.
    records.len() >= SPOILED && records.iter().rev().take(SPOILED).all(spoiled)
}

/// A guest's hello, if it says that in time.
fn await_hello(guest: &Guest, within: Duration) -> Option<Hello> {
    let until = Instant::now() + within;
    while let Some(left) = until.checked_duration_since(Instant::now()) {
        match guest.events().recv_timeout(left) {
            Ok(Line::Event(Event::Hello(hello))) => return Some(hello),
            Ok(Line::End) | Err(_) => return None,
            Ok(Line::Event(_) | Line::Garbage(_)) => {}
        }
    }
    None
}

/// A guest's hello, for people.
fn is_up(hello: &Hello, begun: Instant) -> String {
    let Hello { release, cpus, uptime_s } = hello;
    let after = begun.elapsed().as_secs_f64();
    format!("{release} is up after {after:.1} s ({uptime_s:.1} s by its own clock), {cpus} CPUs")
}

/// The step that a guest owes next: it fell silent between two.
fn next_step(job: &Job, records: &[StepRecord]) -> String {
    job.steps
        .iter()
        .find(|s| !records.iter().any(|r| r.name == s.name))
        .map_or_else(|| "the end".to_owned(), |s| s.name.clone())
}

/// A hang that only this one guest had: all of it stood still, or its control experiment, which had passed before, fails now.
fn is_of_this_guest(record: &StepRecord) -> bool {
    record.outcome == Outcome::Hung
        && record.judgement.as_ref().is_some_and(|j| j.owner == Owner::Environment)
}

fn canary_outcome(records: &[StepRecord]) -> Option<bool> {
    records.iter().find(|r| r.name.starts_with("canary")).map(|r| r.outcome == Outcome::Passed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(action: Action) -> Step {
        Step { name: String::new(), action, deadline_s: 1 }
    }

    fn records(spoiled: &[bool]) -> Vec<StepRecord> {
        let outcome = |spoiled| if spoiled { Outcome::Environment } else { Outcome::Passed };
        spoiled.iter().map(|&spoiled| StepRecord::new("", outcome(spoiled), 0.0, "")).collect()
    }

    #[test]
    fn one_script_that_cannot_be_carried_out_does_not_end_all_others() {
        let scripts = [step(Action::Script(String::new()))];
        for (spoiled, broken) in [
            (&[true] as &[bool], false),
            (&[true, true, false, true], false),
            (&[false, true, true, true], true),
        ] {
            assert_eq!(is_broken(&scripts, &records(spoiled)), broken, "{spoiled:?}");
        }
        let scenario = [step(Action::Canary), step(Action::KernelLog)];
        assert!(is_broken(&scenario, &records(&[false, true])));
    }
}
