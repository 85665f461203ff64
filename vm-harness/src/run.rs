//! The subcommands `run`, `fetch` and `selftest`.

use std::collections::BTreeMap;
use std::env;
use std::fs;
use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use crate::cli::{AcceleratorChoice, FetchArgs, GuestArgs, RunArgs, SelftestArgs};
use crate::error::{Attempt, Error, ErrorKind, Result};
use crate::fetch::Store;
use crate::kernel::{Kernel, KernelChoice, Series};
use crate::plan::{self, Action, Step};
use crate::protocol::{Outcome, StepRecord};
use crate::qemu::{self, Accelerator};
use crate::report::{self, KernelReport, RunReport};
use crate::selftest;
use crate::session::{INTERRUPTED, Progress, Ran, Session, Setup};
use crate::tools;
use crate::verdict::{self, Verdict};

/// Exit code after Ctrl-C.
pub const INTERRUPTED_CODE: u8 = 130;

/// Boots kernels and runs scenarios. Returns the exit code.
pub fn run(args: &RunArgs) -> Result<u8> {
    let steps = plan::select(plan::steps(args.full), &args.only).map_err(|unknown| {
        Error::usage(format!("run only `{unknown}`"))
            .answer("there is no such scenario or step")
            .advice("vm-harness run --list shows them all")
    })?;
    if args.list {
        list(&steps);
        return Ok(0);
    }
    if args.keep_console && args.kernels.kernel.len() != 1 {
        return Err(Error::usage("give you the console of several kernels at once")
            .advice("name one kernel: --kernel 7.3"));
    }
    tools::require(&tools::FOR_A_RUN)?;
    if args.keep_console {
        tools::require(&[tools::BUSYBOX])?;
    }
    let target = target_dir();
    let setup = setup(&args.guest, &target, &steps)?;
    let begun = Instant::now();
    catch_ctrl_c()?;

    let store = Store::new(&target.join("vm"), args.kernels.mirror.clone());
    let kernels = resolve(&store, &args.kernels.kernel, args.kernels.modules.as_deref());
    if let Some(Err(error)) = kernels.iter().find(|k| is_usage(k)) {
        return Err(error.clone());
    }
    let mut accelerator = None;
    let mut reports = Vec::new();
    for (choice, kernel) in args.kernels.kernel.iter().zip(kernels) {
        let began = Instant::now();
        let done = kernel.and_then(|kernel| {
            let dir = setup.out.join(&kernel.release);
            let mut session = Session::new(&setup, &kernel, Accelerator::Tcg, dir)?;
            let accelerator =
                *accelerator.get_or_insert_with(|| decide(args.guest.accel, &target, &mut session));
            session.set_accelerator(accelerator);
            println!("Linux {} ({}), {}", kernel.release, kernel.origin, accelerator.name());
            if args.keep_console {
                let events = session.interactive(&steps)?;
                println!("events of the guest: {}", events.display());
                return Ok((kernel, Ran { records: Vec::new(), error: None }));
            }
            let narrator = Narrator::new(&kernel.release);
            let ran = session.run(&steps, &narrator);
            Ok((kernel, ran))
        });
        reports.push(kernel_report(choice, done, began.elapsed()));
        if INTERRUPTED.load(Ordering::Relaxed) {
            break;
        }
    }
    if args.keep_console {
        return Ok(reports.first().map_or(0, |r| r.verdict.exit_code()));
    }
    let mut report = RunReport::new(reports, begun.elapsed().as_secs_f64());
    report.qemu = qemu::version();
    report.accelerator = accelerator;
    report.interrupted = INTERRUPTED.load(Ordering::Relaxed);
    if report.interrupted {
        report.exit_code = INTERRUPTED_CODE;
    }
    finish(&report, &setup.out, args.json.as_deref(), args.junit.as_deref())?;
    Ok(report.exit_code)
}

/// Downloads kernels. Returns the exit code.
pub fn fetch(args: &FetchArgs) -> Result<u8> {
    let store = Store::new(&target_dir().join("vm"), args.mirror.clone());
    let mut code = 0;
    for (series, fetched) in args.series.iter().zip(store.fetch(&args.series, &say)) {
        match fetched {
            Ok(kernel) => println!("{series}: {} ({})", kernel.release, kernel.origin),
            Err(error) if error.kind() == ErrorKind::MissingPrograms => return Err(error),
            Err(error) => {
                eprintln!("{series}: {error}");
                code = verdict_of(&error).exit_code();
            }
        }
    }
    Ok(code)
}

/// Plants faults and checks that each gets its verdict. Returns the exit code.
pub fn selftest(args: &SelftestArgs) -> Result<u8> {
    tools::require(&tools::FOR_A_RUN)?;
    tools::require(&[tools::FSFREEZE])?;
    let target = target_dir();
    let cases = selftest::cases();
    let all: Vec<Step> = cases.iter().flat_map(|c| c.steps.clone()).collect();
    let setup = setup(&args.guest, &target, &all)?;
    catch_ctrl_c()?;
    let store = Store::new(&target.join("vm"), None);
    let kernel = resolve(&store, std::slice::from_ref(&args.kernel), args.modules.as_deref())
        .pop()
        .unwrap_or_else(|| Err(Error::usage("test without a kernel")))?;
    let mut session = Session::new(&setup, &kernel, Accelerator::Tcg, setup.out.join("selftest"))?
        .without_second_chance();
    let accelerator = decide(args.guest.accel, &target, &mut session);
    session.set_accelerator(accelerator);
    println!("Linux {} ({}), {}", kernel.release, kernel.origin, accelerator.name());
    let mut wrong = 0;
    for case in &cases {
        let narrator = Narrator::new("selftest");
        let Ran { records, error } = session.run(&case.steps, &narrator);
        if let Some(error) = error {
            eprintln!("{error}");
        }
        if INTERRUPTED.load(Ordering::Relaxed) {
            return Ok(INTERRUPTED_CODE);
        }
        for (name, expected) in &case.expected {
            let found = records.iter().find(|r| r.name == *name);
            let verdict = found.map(verdict::of_step);
            let right = verdict == Some(*expected);
            wrong += usize::from(!right);
            println!(
                "{} planted {name}: expected {}, got {}",
                if right { "alarm rings " } else { "ALARM IS DEAD" },
                expected.text(),
                verdict.map_or("nothing", Verdict::text)
            );
        }
    }
    println!("{}", if wrong == 0 { "every alarm rings" } else { "not every alarm rings" });
    Ok(u8::from(wrong != 0))
}

fn list(steps: &[Step]) {
    let mut out = io::stdout().lock();
    for step in steps {
        let written = writeln!(out, "{:<32} {:>4} s", step.name, step.deadline_s);
        if written.is_err() {
            break;
        }
    }
}

fn say(text: &str) {
    eprintln!("{text}");
}

/// Cargo's target directory: named by the environment, or the one this program was built into, or `target` here.
pub(crate) fn target_dir() -> PathBuf {
    if let Some(dir) = env::var_os("CARGO_TARGET_DIR") {
        return dir.into();
    }
    let program = env::current_exe().unwrap_or_default();
    program
        .ancestors()
        .find(|dir| dir.join("CACHEDIR.TAG").is_file())
        .map_or_else(|| PathBuf::from("target"), Path::to_path_buf)
}

pub(crate) fn setup(args: &GuestArgs, target: &Path, steps: &[Step]) -> Result<Setup> {
    let runner = env::current_exe().attempting(|| "find this program's own file".into())?;
    let beside = runner.with_file_name("blkproof");
    let blkproof = args.blkproof.clone().unwrap_or(beside);
    let needed = steps
        .iter()
        .any(|s| !matches!(s.action, Action::Canary | Action::KernelLog | Action::Script(_)));
    if needed && !blkproof.is_file() {
        return Err(Error::usage(format!("test {}", blkproof.display()))
            .answer("no such file")
            .advice("cargo build --release -p real, or name it: --blkproof FILE"));
    }
    let out = args.out.clone().unwrap_or_else(|| target.join("vm/results"));
    fs::create_dir_all(&out).attempting(|| format!("create {}", out.display()))?;
    Ok(Setup {
        runner,
        blkproof: blkproof.is_file().then_some(blkproof),
        patience: args.patience,
        out: fs::canonicalize(&out).unwrap_or(out),
    })
}

/// Finds every kernel asked for; those of the archive together, so that its index is read at most once.
pub(crate) fn resolve(
    store: &Store,
    choices: &[KernelChoice],
    modules: Option<&Path>,
) -> Vec<Result<Kernel>> {
    let absent: Vec<Series> = choices
        .iter()
        .filter_map(|c| match c {
            KernelChoice::Series(series) if store.cached(*series).is_none() => Some(*series),
            _ => None,
        })
        .collect();
    let mut fetched: BTreeMap<Series, Result<Kernel>> = if absent.is_empty() {
        BTreeMap::new()
    } else {
        absent.iter().copied().zip(store.fetch(&absent, &say)).collect()
    };
    choices
        .iter()
        .map(|choice| match choice {
            KernelChoice::Host => Kernel::host(),
            KernelChoice::Path(path) => Kernel::from_path(path, modules),
            KernelChoice::Series(series) => store.cached(*series).map_or_else(
                || {
                    fetched.remove(series).unwrap_or_else(|| {
                        Err(Error::new(
                            ErrorKind::KernelUnavailable,
                            format!("find kernel {series}"),
                        ))
                    })
                },
                Ok,
            ),
        })
        .collect()
}

pub(crate) fn decide(
    choice: AcceleratorChoice,
    target: &Path,
    session: &mut Session<'_>,
) -> Accelerator {
    match choice {
        AcceleratorChoice::Kvm => Accelerator::Kvm,
        AcceleratorChoice::Tcg => Accelerator::translation(&qemu::version()),
        AcceleratorChoice::Auto => qemu::probe(&target.join("vm/accelerator.json"), || {
            eprintln!("probing KVM with a short boot");
            session.boots_under_kvm()
        }),
    }
}

pub(crate) fn is_usage<T>(result: &Result<T>) -> bool {
    result.as_ref().is_err_and(|e| e.kind() == ErrorKind::Usage)
}

fn verdict_of(error: &Error) -> Verdict {
    match error.kind() {
        ErrorKind::KernelUnavailable => Verdict::KernelUnavailable,
        _ => Verdict::Environment,
    }
}

pub(crate) fn kernel_report(
    choice: &KernelChoice,
    done: Result<(Kernel, Ran)>,
    took: Duration,
) -> KernelReport {
    let seconds = took.as_secs_f64();
    let requested = match choice {
        // A path is too long for a table.
        KernelChoice::Path(path) => {
            path.file_name().unwrap_or_default().to_string_lossy().into_owned()
        }
        other => other.to_string(),
    };
    match done {
        Ok((kernel, Ran { records, error })) => {
            let of_steps = verdict::of_steps(&records);
            if let Some(error) = &error {
                eprintln!("{error}");
            }
            KernelReport {
                requested,
                release: kernel.release,
                origin: kernel.origin,
                verdict: error.as_ref().map_or(of_steps, |e| of_steps.max(verdict_of(e))),
                error: error.map(|e| e.to_string()),
                seconds,
                steps: records,
            }
        }
        Err(error) => {
            eprintln!("{error}");
            KernelReport {
                requested,
                release: String::new(),
                origin: String::new(),
                verdict: verdict_of(&error),
                error: Some(error.to_string()),
                seconds,
                steps: Vec::new(),
            }
        }
    }
}

pub(crate) fn finish(
    report: &RunReport,
    out: &Path,
    json: Option<&Path>,
    junit: Option<&Path>,
) -> Result<()> {
    let json_text =
        serde_json::to_vec_pretty(report).attempting(|| "write the report as JSON".into())?;
    let junit_text = report::junit(report);
    let files = [
        (out.join("results.json"), json_text.as_slice()),
        (out.join("junit.xml"), junit_text.as_bytes()),
    ];
    for (file, bytes) in &files {
        fs::write(file, bytes).attempting(|| format!("write {}", file.display()))?;
    }
    for (file, bytes) in [(json, files[0].1), (junit, files[1].1)] {
        if let Some(file) = file {
            fs::write(file, bytes).attempting(|| format!("write {}", file.display()))?;
        }
    }
    println!("\n{}", report::summary(report));
    println!("results: {} and {}", files[0].0.display(), files[1].0.display());
    Ok(())
}

pub(crate) fn catch_ctrl_c() -> Result<()> {
    ctrlc::set_handler(|| {
        if INTERRUPTED.swap(true, Ordering::Relaxed) {
            // The second time at once. The guest powers itself off when its port closes.
            std::process::exit(i32::from(INTERRUPTED_CODE));
        }
        eprintln!("\ninterrupted: ending the guest (again to leave at once)");
    })
    .attempting(|| "catch Ctrl-C".into())
}

/// Tells the user how a kernel's run goes: a line per step, and on a terminal what is being done right now.
pub(crate) struct Narrator {
    bar: Option<ProgressBar>,
    kernel: String,
}

impl Narrator {
    pub(crate) fn new(kernel: &str) -> Self {
        let bar = io::stdout().is_terminal().then(|| {
            let style = ProgressStyle::with_template("  {spinner} {msg} {elapsed}")
                .unwrap_or_else(|_| ProgressStyle::default_spinner());
            let bar = ProgressBar::new_spinner().with_style(style);
            bar.enable_steady_tick(Duration::from_millis(120));
            bar
        });
        Self { bar, kernel: kernel.to_owned() }
    }

    fn line(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| println!("{text}")),
            None => println!("{text}"),
        }
    }
}

impl Progress for Narrator {
    fn note(&self, text: &str) {
        self.line(&format!("       {text}"));
    }

    fn started(&self, name: &str) {
        if let Some(bar) = &self.bar {
            bar.set_message(format!("{} {name}", self.kernel));
            bar.reset_elapsed();
        }
    }

    fn ended(&self, record: &StepRecord) {
        // All at once: steps of several guests do not mix.
        let mut lines = vec![report::step_line(record)];
        if !matches!(record.outcome, Outcome::Passed | Outcome::Skipped) {
            let evidence = report::step_evidence(record);
            lines.extend(evidence.into_iter().map(|line| format!("         {line}")));
        }
        self.line(&lines.join("\n"));
    }
}

impl Drop for Narrator {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
