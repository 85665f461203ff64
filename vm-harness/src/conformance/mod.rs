//! The subcommand `conformance`: is the model the kernel?
//!
//! The same scripts are carried out by real kernels, in guests, and by the model. What a kernel does must be among what the model allows.

mod shrink;

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use blkproof_engine::uapi::KernelSeries;
use blkproof_sim::run::Sabotage;
use blkproof_sim::script::generate::generate;
use blkproof_sim::script::model::{Difference, check_planted, is_dangerous};
use blkproof_sim::script::{Script, Trace};
use sha2::{Digest, Sha256};

use self::shrink::Shrink;
use crate::cli::ConformanceArgs;
use crate::error::{Attempt, Error, Result};
use crate::fetch::Store;
use crate::kernel::{Kernel, KernelChoice};
use crate::plan::{Action, Step};
use crate::protocol::{Outcome, StepRecord};
use crate::qemu::{self, Accelerator};
use crate::report::RunReport;
use crate::run::{
    INTERRUPTED_CODE, Narrator, catch_ctrl_c, decide, finish, is_usage, kernel_report, resolve,
    setup, target_dir,
};
use crate::session::{INTERRUPTED, Progress, Ran, Session};
use crate::tools;

/// The written scripts.
const SCRIPTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts");
/// Longest time for one script, in seconds.
const DEADLINE: u32 = 90;

/// Scripts that differ and are carried out once more: of many, chance is not the cause.
const DOUBTS_MAX: usize = 8;
/// The same for one that a guest need not survive.
const DEADLINE_ALONE: u32 = 30;

/// The model that a kernel is held against.
#[derive(Clone, Copy)]
struct Model {
    series: KernelSeries,
    /// What is wrong with it, on purpose.
    planted: Option<Sabotage>,
}

/// A script with its name.
struct Named {
    name: String,
    script: Script,
}

/// Carries out scripts and compares. Returns the exit code.
pub fn run(args: &ConformanceArgs) -> Result<u8> {
    tools::require(&tools::FOR_A_RUN)?;
    let written = written(Path::new(SCRIPTS))?;
    let target = target_dir();
    let setup = setup(&args.guest, &target, &[])?;
    let begun = Instant::now();
    catch_ctrl_c()?;
    let store = Store::new(&target.join("vm"), args.kernels.mirror.clone());
    let kernels = resolve(&store, &args.kernels.kernel, args.kernels.modules.as_deref());
    if let Some(Err(error)) = kernels.iter().find(|k| is_usage(k)) {
        return Err(error.clone());
    }
    let journal = Journal::open(args.resume.as_deref())?;
    let mut accelerator = None;
    let mut reports = Vec::new();
    for (choice, kernel) in args.kernels.kernel.iter().zip(kernels) {
        let began = Instant::now();
        let done = kernel.and_then(|kernel| {
            let series = series(choice, &kernel)?;
            let mut scripts = choose(&written, series, args)?;
            let all = scripts.len();
            scripts.retain(|named| !journal.has(&kernel.release, named));
            if scripts.is_empty() {
                println!("{series}: {all} of {all} scripts are known to agree with the model");
                return Ok((kernel, Ran { records: Vec::new(), error: None }));
            }
            let steps: Vec<Step> = scripts.iter().map(step).collect();
            let dir = setup.out.join("conformance").join(&kernel.release);
            let session = |accelerator, number: u16| {
                Session::new(&setup, &kernel, accelerator, dir.join(number.to_string()))
                    .map(|session| session.with_guests(scripts.len() + 1))
            };
            let mut first = session(Accelerator::Tcg, 0)?;
            let accelerator =
                *accelerator.get_or_insert_with(|| decide(args.guest.accel, &target, &mut first));
            println!(
                "Linux {} ({}), {}: {} scripts against the model of {series}",
                kernel.release,
                kernel.origin,
                accelerator.name(),
                scripts.len()
            );
            if scripts.len() < all {
                println!(
                    "       {} of {all} are known to agree: they are left out",
                    all - scripts.len()
                );
            }
            let model = Model { series, planted: args.plant.map(Into::into) };
            let judge = Judge {
                narrator: Narrator::new(&kernel.release),
                release: &kernel.release,
                model,
                scripts: &scripts,
                journal: &journal,
            };
            first.set_accelerator(accelerator);
            // One boot for all of its guests. Where that cannot be had, each boots by itself.
            let frozen = match first.freeze(&judge) {
                Ok(frozen) => Some(Arc::new(frozen)),
                Err(error) => {
                    judge.note(&format!("every guest boots by itself: {error}"));
                    None
                }
            };
            let session = |accelerator, number| {
                session(accelerator, number).map(|session| session.going_on(frozen.clone()))
            };
            let calm = scripts.iter().filter(|named| !is_dangerous(&named.script, series)).count();
            let (steps, dangerous) = steps.split_at(calm);
            let sessions = (1..=args.jobs).map(|number| session(accelerator, number));
            let sessions: Vec<Session<'_>> = sessions.collect::<Result<_>>()?;
            let Ran { mut records, mut error } =
                share(steps, sessions, |session, share| session.run(share, &judge));
            // Not where the frozen guest lies.
            let apart = args.jobs + 1;
            let doubtful: Vec<usize> = (0..records.len())
                .filter(|index| records[*index].outcome == Outcome::Failed)
                .collect();
            if (1..=DOUBTS_MAX).contains(&doubtful.len()) && !INTERRUPTED.load(Ordering::Relaxed) {
                judge.note("once more what differs: on a busy host a kernel worker may be late");
                let again: Vec<Step> = doubtful.iter().map(|index| steps[*index].clone()).collect();
                let ran = session(accelerator, apart)?.run(&again, &judge);
                for (index, mut record) in doubtful.into_iter().zip(ran.records) {
                    if record.outcome == Outcome::Passed {
                        record.detail =
                            format!("{}; differed at first, and not again", record.detail);
                    }
                    records[index] = record;
                }
                error = error.or(ran.error);
            }
            let sessions = (1..=args.jobs).map(|number| session(accelerator, apart + number));
            let sessions: Vec<Session<'_>> =
                sessions.map(|one| Ok(one?.expendable())).collect::<Result<_>>()?;
            let ran = share(dangerous, sessions, |session, share| {
                // Each in a guest of its own.
                let ran = share.iter().map(|step| {
                    let step = Step { deadline_s: DEADLINE_ALONE, ..step.clone() };
                    session.run(&[step], &judge)
                });
                ran.reduce(Ran::and).unwrap_or_default()
            });
            records.extend(ran.records);
            error = error.or(ran.error);
            for (record, script) in records.iter().zip(&scripts) {
                if let Some(dir) = &args.record
                    && !is_dangerous(&script.script, series)
                {
                    keep(&dir.join(series.to_string()), script, record)?;
                }
            }
            let differs = scripts.iter().zip(&records).find_map(|(named, record)| {
                let differs = record.outcome == Outcome::Failed;
                Some((named, model.differs(named, record).filter(|_| differs)?))
            });
            if let Some((named, at)) = differs.filter(|_| args.shrink > 0) {
                let shrink = Shrink {
                    model,
                    session: |number| session(accelerator, number),
                    jobs: args.jobs,
                    time: Duration::from_secs(args.shrink),
                    dir: dir.join("shorter"),
                    kernel: &choice.to_string(),
                };
                shrink.run(named, at)?;
            }
            let agree = records.iter().filter(|r| r.outcome == Outcome::Passed).count();
            let known = all - scripts.len();
            println!(
                "{series}: {} of {} scripts agree with the model",
                known + agree,
                known + records.len()
            );
            Ok((kernel, Ran { records, error }))
        });
        reports.push(kernel_report(choice, done, began.elapsed()));
        if INTERRUPTED.load(Ordering::Relaxed) {
            break;
        }
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

/// Carries out the steps in several sessions at a time, a share each.
fn share<'s>(
    steps: &[Step],
    sessions: Vec<Session<'s>>,
    carry_out: impl Fn(&mut Session<'s>, &[Step]) -> Ran + Sync,
) -> Ran {
    let jobs = sessions.len();
    let carry_out = &carry_out;
    let shares: Vec<Ran> = thread::scope(|scope| {
        let running: Vec<_> = (0..jobs)
            .zip(sessions)
            .map(|(first, mut session)| {
                let share: Vec<Step> = steps.iter().skip(first).step_by(jobs).cloned().collect();
                scope.spawn(move || carry_out(&mut session, &share))
            })
            .collect();
        running
            .into_iter()
            .map(|one| one.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            .collect()
    });
    let (mut records, errors): (Vec<_>, Vec<_>) =
        shares.into_iter().map(|ran| (ran.records.into_iter(), ran.error)).unzip();
    let in_order = (0..steps.len()).filter_map(|index| records[index % jobs].next());
    Ran { records: in_order.collect(), error: errors.into_iter().flatten().next() }
}

/// The written scripts, by name.
fn written(dir: &Path) -> Result<Vec<Named>> {
    let reading = || format!("read the scripts in {}", dir.display());
    let mut files: Vec<PathBuf> =
        fs::read_dir(dir).attempting(reading)?.flatten().map(|entry| entry.path()).collect();
    files.retain(|file| file.extension().is_some_and(|extension| extension == "script"));
    files.sort();
    files.iter().map(|file| read(file)).collect()
}

/// A script in a file, named after it.
fn read(file: &Path) -> Result<Named> {
    let text = fs::read_to_string(file).attempting(|| format!("read {}", file.display()))?;
    let script = text.parse().attempting(|| format!("understand {}", file.display()))?;
    let name = file.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    Ok(Named { name, script })
}

/// The scripts for a kernel: written, then made from seeds.
fn choose(written: &[Named], series: KernelSeries, args: &ConformanceArgs) -> Result<Vec<Named>> {
    let generated = |seed| Named { name: format!("seed-{seed}"), script: generate(series, seed) };
    let fits = |one: &&Named| one.script.kernels.contains(&series);
    if !args.only.is_empty() {
        let find = |name: &String| {
            if name.ends_with(".script") {
                return read(Path::new(name));
            }
            let seed = name.strip_prefix("seed-").and_then(|seed| seed.parse().ok());
            let known = written.iter().find(|one| one.name == *name);
            let known = known.map(|one| Named { name: name.clone(), script: one.script.clone() });
            known.or_else(|| seed.map(generated)).ok_or_else(|| {
                Error::usage(format!("carry out only `{name}`"))
                    .answer("there is no such script")
                    .advice(format!(
                        "the written ones are in {SCRIPTS}; others are seed-7, or a file x.script"
                    ))
            })
        };
        let found: Vec<Named> = args.only.iter().map(find).collect::<Result<_>>()?;
        return Ok(in_order(found.into_iter().filter(|one| fits(&one)).collect(), series));
    }
    let written = written
        .iter()
        .filter(fits)
        .map(|one| Named { name: one.name.clone(), script: one.script.clone() });
    let seeds = args.seed..args.seed + u64::from(args.scripts);
    Ok(in_order(written.chain(seeds.map(generated)).collect(), series))
}

/// Those that a kernel may not survive come last.
fn in_order(mut scripts: Vec<Named>, series: KernelSeries) -> Vec<Named> {
    scripts.sort_by_key(|named| is_dangerous(&named.script, series));
    scripts
}

fn step(named: &Named) -> Step {
    Step {
        name: format!("script/{}", named.name),
        action: Action::Script(named.script.to_string()),
        deadline_s: DEADLINE,
    }
}

/// What a campaign has carried out, so that another run can go on with it: one line for each script that agrees.
struct Journal {
    known: BTreeSet<String>,
    file: Option<Mutex<File>>,
}

impl Journal {
    fn open(path: Option<&Path>) -> Result<Self> {
        let Some(path) = path else { return Ok(Self { known: BTreeSet::new(), file: None }) };
        let opening = || format!("go on with the campaign in {}", path.display());
        let mut file =
            File::options().create(true).read(true).append(true).open(path).attempting(opening)?;
        let mut text = String::new();
        file.read_to_string(&mut text).attempting(opening)?;
        let known = text.lines().map(ToOwned::to_owned).collect();
        Ok(Self { known, file: Some(Mutex::new(file)) })
    }

    /// The version of the program stands for that of the model.
    fn line(release: &str, named: &Named) -> String {
        let digest = Sha256::digest(named.script.to_string());
        let digest = digest.iter().take(8).fold(0, |number, byte| number << 8 | u64::from(*byte));
        format!("{release} {} {} {digest:016x}", env!("CARGO_PKG_VERSION"), named.name)
    }

    fn has(&self, release: &str, named: &Named) -> bool {
        self.known.contains(&Self::line(release, named))
    }

    fn add(&self, release: &str, named: &Named) {
        if let Some(file) = &self.file {
            let mut file = file.lock().unwrap_or_else(PoisonError::into_inner);
            // Without the line the script is carried out again, and nothing worse.
            let _ = writeln!(file, "{}", Self::line(release, named));
        }
    }
}

/// Compares as the records come in.
struct Judge<'a> {
    narrator: Narrator,
    release: &'a str,
    model: Model,
    scripts: &'a [Named],
    journal: &'a Journal,
}

impl Progress for Judge<'_> {
    fn note(&self, text: &str) {
        self.narrator.note(text);
    }

    fn started(&self, name: &str) {
        self.narrator.started(name);
    }

    fn judge(&self, record: &mut StepRecord) {
        let script = self.scripts.iter().find(|script| step(script).name == record.name);
        if let Some(script) = script {
            self.model.judge(script, record);
            if record.outcome == Outcome::Passed {
                self.journal.add(self.release, script);
            }
        }
    }

    fn ended(&self, record: &StepRecord) {
        self.narrator.ended(record);
    }
}

impl Model {
    /// Turns a record of what was observed into one of whether the model allows it.
    fn judge(self, named: &Named, record: &mut StepRecord) {
        let dangerous = is_dangerous(&named.script, self.series);
        if dangerous && record.outcome == Outcome::Hung {
            *record = StepRecord::new(&record.name, Outcome::Passed, record.seconds, "");
            record.detail = "the guest did not survive it, which the model expects".into();
            return;
        }
        let Some(text) = &record.trace else { return };
        if record.outcome != Outcome::Passed {
            return;
        }
        let difference = match text.parse::<Trace>() {
            Ok(trace) => match self.check(named, &trace) {
                Ok(()) if dangerous || trace.observations.len() == named.script.steps.len() => {
                    return;
                }
                Ok(()) => {
                    record.outcome = Outcome::Failed;
                    record.detail = "the script could not be carried out to its end".into();
                    return;
                }
                Err(difference) => {
                    let so_far = Trace {
                        observations: trace.observations[..usize::from(difference.step)].to_vec(),
                    };
                    format!("{}\n{difference}", so_far.with(&named.script))
                }
            },
            Err(error) => format!("the trace makes no sense: {error}"),
        };
        record.outcome = Outcome::Failed;
        record.detail = "the kernel does what the model does not allow".into();
        let notes = std::mem::take(&mut record.evidence);
        record.evidence = difference.lines().map(ToOwned::to_owned).chain(notes).collect();
    }

    /// The step, counted from 1, after which the kernel did what the model does not allow.
    fn differs(self, named: &Named, record: &StepRecord) -> Option<u16> {
        let trace = record.trace.as_ref()?.parse().ok()?;
        self.check(named, &trace).err().map(|difference| difference.step)
    }

    fn check(self, named: &Named, trace: &Trace) -> Result<(), Difference> {
        check_planted(&named.script, self.series, trace, self.planted)
    }
}

fn keep(dir: &Path, named: &Named, record: &StepRecord) -> Result<()> {
    let Some(trace) = &record.trace else { return Ok(()) };
    let writing = || format!("write to {}", dir.display());
    fs::create_dir_all(dir).attempting(writing)?;
    let trace: Trace = trace.parse().attempting(writing)?;
    let text = format!("# {}\n{}", named.name, trace.with(&named.script));
    fs::write(dir.join(format!("{}.trace", named.name)), text).attempting(writing)
}

/// The model for a kernel.
fn series(choice: &KernelChoice, kernel: &Kernel) -> Result<KernelSeries> {
    let known = |text: &str| {
        KernelSeries::ALL.into_iter().find(|series| {
            let series = series.to_string();
            text.strip_prefix(&series)
                .is_some_and(|rest| !rest.starts_with(|c: char| c.is_ascii_digit()))
        })
    };
    known(&choice.to_string()).or_else(|| known(&kernel.release)).ok_or_else(|| {
        let names: Vec<String> = KernelSeries::ALL.iter().map(ToString::to_string).collect();
        Error::usage(format!("compare Linux {} with a model", kernel.release))
            .answer(format!("there are models of {}", names.join(", ")))
    })
}
