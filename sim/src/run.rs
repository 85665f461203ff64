//! One run: a configuration and a source of choices in, an outcome out.
//!
//! A run is a sequence of atomic steps. At each, the steps that can be taken are collected in a fixed order and one of them is
//! chosen. Choice 0 is always the harmless one: the first step of the list, no fault. After half of
//! [`Config::steps_max`] steps without progress the run turns *calm*: no more faults, and whoever waited longest moves next, so
//! that what is then called a livelock is one under fair scheduling.

mod contained;
pub(crate) mod rest;
pub(crate) mod steps;
mod waits;
mod watched;

use std::cell::{Cell, RefCell};
use std::hash::Hasher;

use blkproof_engine::data::Place;
use blkproof_engine::supervisor::{Plan, Recovery, Wanted};
use blkproof_engine::sys::{Exit, MemoryOp};
use blkproof_engine::worker::QUIT_MS;
use siphasher::sip128::SipHasher13;

use crate::choices::{Choices, Site};
use crate::clients::{RECOVERIES_MAX, lent};
use crate::config::{Commands, Config, Subject};
use crate::kernel::process::{ProcessState, describe};
use crate::kernel::ring::RingState;
use crate::kernel::udev::Probe;
use crate::outcome::{Actor, Outcome, Record, Verdict};
use crate::server::target;
use crate::specimens::start_process;
use crate::world::{BUFFER_SECTORS, SECTOR, ThreadId, World};
use steps::Step;

/// How long a start-up may take, in virtual time.
pub const START_UP_BOUND_US: u64 = 10_000_000;
/// A timer may fire before others have moved if it is due within this time: a thread can be late by that much.
const LATENESS_MAX_US: u64 = 250_000;
/// Timers that may fire in a row while something else could move.
const EARLY_MAX: u8 = 4;
/// What a worker bears at least while udev is at work: it tries to open for some 5 s.
const PATIENCE_US: u64 = 4_500_000;
/// What pauses may come to before a deadline can pass. The engine's shortest is a worker's for its queues.
const PAUSES_BEARABLE_US: u64 = QUIT_MS as u64 * 1000;
/// The number by which the engine's device is known again.
pub(crate) const IDENTITY: u64 = 0x626c_6b70;
/// Steps of a run in units of `steps_max`, progress or not.
const RUNS_MAX: u64 = 64;

/// A bug planted in the machinery between server and kernel, to show that the oracle named sees it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum Sabotage {
    /// A commit is not submitted: deadlock.
    DropCommit,
    /// Scripts: the kernel copies a read's data although it lies in registered memory.
    CopyInPlace,
    /// The server takes the tag's buffer for the data of a write that lies in shared memory: O5.
    IgnorePlace,
    /// The server misses by a sector where in shared memory a request's data is: O4.
    MissPlace,
    /// A commit is submitted twice: O1.
    DoubleCommit,
    /// A commit carries 512 bytes less than were asked for: O3.
    ShortCommit,
    /// A descriptor is read after the commit: O1.
    LateDescriptor,
    /// A write does not reach the store: O5.
    LoseWrite,
    /// What a failed backend operation came to is not looked at: deadlock (S20).
    SwallowError,
    /// EAGAIN of the backend is passed on as an error: L1 (S23, H23).
    PassOnAgain,
    /// A short write of the backend is taken for a whole one: O5 (S22, H21).
    TakeShortForWhole,
    /// A flush does not reach the disk: O6 (S34).
    SkipFlush,
    /// A write with FUA is written as any other: O6.
    SkipFua,
    /// The disk is said to have no volatile cache: O6.
    HideCache,
    /// What a worker holds in memory goes with it: O5 (H37).
    StoreInProcess,
    /// A commit names the buffer that the next request is to use: O5 (H17).
    RotateBuffers,
    /// While a thread waits, pages of its buffers are given back: O5 (S24).
    DropIdlePages,
    /// A completion of the backend is taken for that of another request: O4 (S26).
    WakeAnother,
    /// A write is committed with 0: O3 (H22).
    CommitNothing,
    /// Sector numbers lose their upper bits: O5 (S35).
    TruncateSector,
    /// Every queue reads the descriptors of the first: O1 (S12).
    OneStride,
    /// The descriptor does not say that the pages are not registered: L1 (S33).
    IgnoreFallback,
    /// A helper process inherits the character device, and lives: deadlock (H29).
    LeakFile,
    /// Zeroes do not reach the store: O8.
    LoseZeroes,
    /// An abort is not seen: deadlock.
    IgnoreAbort,
    /// A tag is committed after its abort: O11.
    CommitAfterAbort,
    /// A message arrives, and nobody is woken: deadlock.
    DropWakeUp,
    /// A buffer is touched after the commit: O4.
    LateBuffer,
    /// A write's user copy happens after the commit: O4.
    LateCopy,
    /// A user copy is said to have happened, and did not: O5.
    LoseCopy,
    /// What a batch of commits did not consume is said to be consumed: deadlock (H44).
    ForgetUnconsumed,
    /// A fetch that ended is not renewed: deadlock (H43).
    NoRenewal,
    /// A NEED_GET_DATA is not submitted: deadlock.
    DropGetData,
    /// The descriptor does not tell that a part of a write could not be copied: O5 (H20).
    StaleDescriptor,
    /// Pages are said to have been given back, and were not: deadlock (H11).
    KeepPages,
    /// Every tag names the same slot: L1 (H41).
    ShareSlot,
    /// The kernel fails a request for no reason: L1.
    FailRequest,
    /// START_DEV is refused for no reason: L0.
    RefuseStart,
    /// DEL_DEV is refused for no reason: L2.
    RefuseDelete,
    /// The supervisor gets a completion of something it never submitted: I1.
    StrayCompletion,
    /// A ring does not hold the character device: a dead worker's write lands after the next worker's. O9.
    NoFence,
    /// END_USER_RECOVERY names the first worker, always: L3.
    EndForFirstWorker,
    /// What somebody asked of a supervisor is lost before it hears it: L3.
    LoseOrder,
    /// A request that went back is not brought to the next worker: deadlock.
    ForgetRequeued,
    /// A commit is lost, and a queue is woken for nothing, again and again: livelock.
    EndlessWakeUps,
    /// Nobody tells the worker of a quiesce, and a queue takes only the abort of its last tag for the end: L3 (H09).
    WaitForAborts,
    /// The supervisor is told that a new size is known, and no queue was told of it: L1 (H60).
    SizeUntold,
    /// A size that the store was not given: O8 (H60).
    StoreUntold,
    /// The armed tags of a device that is being recovered are aborted, as QUIESCE_DEV does then: K5 (H08).
    QuiesceUnserved,
    /// The driver says that it has no QUIESCE, and so every handover is refused: L3.
    NoQuiesce,
    /// 6.12: no request timer fires: a server that died with every tag in its hands is never noticed.
    NoRequestTimer,
    /// The model answers a FETCH of an armed tag with EBUSY: conformance.
    WrongErrno,
    /// The model lets any task commit: conformance.
    AnyoneCommits,
    /// The model merges nothing: conformance.
    KeepApart,
    /// What goes back is delivered again in the order in which it went: conformance.
    RequeueInOrder,
    /// The rest of a short read releases nothing else that waits: conformance.
    RestGoesAlone,
    /// The scheduler's next request is the one that came first: conformance.
    FirstComeFirst,
    /// The model shows an abort on a ring that was not entered: conformance.
    EagerAbort,
    /// The model takes a read for right whatever its integrity metadata is: conformance.
    TrustMetadata,
    /// The model gives several writes of one zone to a server at once: conformance.
    NoPlugs,
    /// The model gives a write to a server that is not at its zone's write pointer: conformance.
    WriteAnywhere,
}

/// A rule that was broken.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Violation {
    oracle: &'static str,
    text: String,
}

/// Everything of a run that is not the world: choices, clock, rolling hash, timeline.
#[expect(clippy::struct_excessive_bools, reason = "each records that something happened once")]
pub(crate) struct Run<'c> {
    pub(crate) config: &'c Config,
    choices: &'c mut dyn Choices,
    pub(crate) sabotage: Option<Sabotage>,
    /// The specimen's repaired twin runs.
    pub(crate) repaired: bool,
    struck: Cell<bool>,
    /// A descriptor to be read late.
    pub(crate) late: Option<(u16, u16)>,
    hasher: SipHasher13,
    time_us: u64,
    step: u64,
    /// How often time has passed.
    fired: u64,
    /// The step at which something last got on.
    progress_at: u64,
    calm: bool,
    /// A process was killed.
    pub(crate) killed: bool,
    /// A worker was killed, or lost its supervisor before it was told that the device is LIVE.
    pub(crate) worker_killed: bool,
    /// Something was killed before the device was up.
    pub(crate) killed_early: bool,
    /// The operator asked to stop, or deletes: requests that wait for a worker fail.
    pub(crate) abandoned: bool,
    /// The kernel fails what a dead server held.
    pub(crate) aborting: bool,
    /// A device was quiesced while it was LIVE.
    pub(crate) quiesced: bool,
    /// A `del` was run beside the device's own supervisor.
    pub(crate) rivalled: bool,
    /// The disk answered EIO, or a user copy was not all of it. Anything less the server must cope with.
    pub(crate) disk_failed: bool,
    /// How long udev keeps the character device's node away, in all.
    pub(crate) node_delay_us: u64,
    /// The host lost power.
    pub(crate) crashed: bool,
    /// A promise of durability that was not kept when it was given, in a run that is to show what comes of it.
    pub(crate) owed: Option<String>,
    /// How long processes are stopped, in all.
    pub(crate) paused_us: u64,
    /// How long somebody keeps the block device open, in all.
    pub(crate) held_us: u64,
    /// Fingerprints of the world at moments when only timers could move, since the last progress.
    idle: Vec<u128>,
    violation: RefCell<Option<Violation>>,
    actors: Vec<Actor>,
    timeline: Vec<Record>,
    /// The thread whose program runs right now.
    in_user_code: Cell<Option<ThreadId>>,
    /// When each mover last moved; only kept while calm.
    last_moved: Vec<(Step, u64)>,
}

/// Indices of the actors: those that every run has, then the threads in the order in which they were started.
pub(crate) mod actor {
    use crate::kernel::block::Issuer;
    use crate::world::ThreadId;

    pub(crate) const UDEV: usize = 2;
    pub(crate) const KERNEL: usize = 3;
    pub(crate) const OPERATOR: usize = 4;
    pub(crate) const THREADS: usize = 5;

    pub(crate) const fn thread(thread: ThreadId) -> usize {
        THREADS + thread.0 as usize
    }

    pub(crate) const fn issuer(issuer: Issuer) -> usize {
        match issuer {
            Issuer::Client(index) => index as usize,
            Issuer::Udev => UDEV,
            Issuer::Scan | Issuer::Zones | Issuer::Script(_) | Issuer::Cache => KERNEL,
        }
    }
}

impl<'c> Run<'c> {
    pub(crate) fn new(
        config: &'c Config,
        choices: &'c mut dyn Choices,
        sabotage: Option<Sabotage>,
    ) -> Self {
        let names = ["client 0", "client 1", "udev", "kernel", "operator"];
        Self {
            config,
            choices,
            sabotage,
            repaired: false,
            struck: Cell::new(false),
            late: None,
            hasher: SipHasher13::new_with_keys(0x0073_696d, 0x7374_6570),
            time_us: 0,
            step: 0,
            fired: 0,
            progress_at: 0,
            calm: false,
            killed: false,
            worker_killed: false,
            killed_early: false,
            abandoned: false,
            aborting: false,
            rivalled: false,
            quiesced: false,
            disk_failed: false,
            node_delay_us: 0,
            crashed: false,
            owed: None,
            paused_us: 0,
            held_us: 0,
            idle: Vec::new(),
            violation: RefCell::new(None),
            actors: names.iter().map(|name| Actor { name: (*name).into() }).collect(),
            timeline: Vec::new(),
            in_user_code: Cell::new(None),
            last_moved: Vec::new(),
        }
    }

    /// How far the run is, to go [back to](Self::back_to).
    pub(crate) fn mark(&self) -> (usize, bool) {
        (self.timeline.len(), self.struck.get())
    }

    /// What was done since the mark is undone: it is not told, and a planted fault may strike again.
    pub(crate) fn back_to(&mut self, (told, struck): (usize, bool)) {
        self.timeline.truncate(told);
        self.struck.set(struck);
    }

    /// A number in `0..n`.
    pub(crate) fn choose(&mut self, site: Site, n: u32) -> u32 {
        if n <= 1 {
            return 0;
        }
        let value = self.choices.choose(site, n);
        self.chosen(site, n, value)
    }

    /// One of the steps that can be taken.
    fn choose_step(&mut self, world: &World, enabled: &[Step]) -> Step {
        let n = enabled.len() as u32;
        if n == 1 {
            return enabled[0];
        }
        let fired = self.fired;
        let source = |index: u32| enabled[index as usize].source(world, fired);
        let value = self.choices.schedule(n, &source);
        enabled[self.chosen(Site::Schedule, n, value) as usize]
    }

    fn chosen(&mut self, site: Site, n: u32, value: u32) -> u32 {
        assert!(value < n, "a source of choices answered {value} for {n} at {site:?}");
        self.seen(u64::from(n) << 32 | u64::from(value));
        value
    }

    /// Whether a fault of that rate (in 1/256) strikes here. Choice 0 is *no*.
    pub(crate) fn fault(&mut self, rate: u8) -> bool {
        if rate == 0 || self.calm {
            return false;
        }
        let value = self.choices.fault(rate);
        self.chosen(Site::Fault, 256, value) >= 256 - u32::from(rate)
    }

    /// Whether the planted bug strikes here: once, at the first opportunity.
    pub(crate) fn strikes(&self) -> bool {
        !self.struck.replace(true)
    }

    /// Something that a repetition must repeat.
    pub(crate) fn seen(&mut self, value: u64) {
        self.hasher.write(&value.to_le_bytes());
    }

    /// Something got on.
    pub(crate) fn progress(&mut self) {
        self.progress_at = self.step;
        self.idle.clear();
    }

    /// A rule is broken. The first one counts.
    pub(crate) fn violate(&self, oracle: &'static str, text: String) {
        self.violation.borrow_mut().get_or_insert(Violation { oracle, text });
    }

    /// Whether the faults of this run explain that a client's request fails. A killed supervisor alone does not; and with recovery
    /// a killed worker explains only what the kernel does not promise.
    pub(crate) fn errors_expected(&self) -> bool {
        let lost = match self.config.recovery {
            Recovery::None => self.worker_killed,
            // Requests fail while there is no server, however good the reason.
            Recovery::FailIo => self.killed || self.quiesced,
            Recovery::Requeue => {
                self.killed_early || self.abandoned || (self.killed && self.aborting)
            }
            Recovery::Reissue => self.killed_early || self.abandoned,
        };
        // After a stall the supervisor may kill a worker whose stop seems to take too long.
        lost || self.rivalled
            || self.disk_failed
            || self.may_be_late()
            || (!self.config.subject.is_engine() && (self.killed || self.abandoned))
    }

    /// Whether somebody's deadline may pass through no fault of his: the machine stalls, or processes were stopped for long enough.
    pub(crate) fn may_be_late(&self) -> bool {
        self.config.faults.stall > 0 || self.paused_us >= PAUSES_BEARABLE_US
    }

    /// Whether the block device was kept open long enough for a DEL_DEV to be given up.
    pub(crate) fn held_too_long(&self) -> bool {
        let patience = self.config.deadlines.delete_ms;
        patience.is_some_and(|ms| self.held_us >= u64::from(ms) * 1000)
    }

    pub(crate) fn add_actor(&mut self, name: &str) {
        self.actors.push(Actor { name: name.into() });
    }

    /// Something visible, for the timeline.
    pub(crate) fn note(&mut self, actor: usize, text: impl FnOnce() -> String) {
        if self.config.timeline {
            let record = Record { step: self.step, time_us: self.time_us, actor, text: text() };
            self.timeline.push(record);
        }
    }

    /// Something visible that the kernel did.
    pub(crate) fn kernel(&mut self, text: impl FnOnce() -> String) {
        self.note(actor::KERNEL, text);
    }

    /// A thread's program is about to run.
    pub(crate) fn user_code(&self, thread: ThreadId) {
        self.in_user_code.set(Some(thread));
    }

    /// The model is running again.
    pub(crate) fn kernel_code(&self) {
        self.in_user_code.set(None);
    }

    fn outcome(
        self,
        verdict: Verdict,
        oracle: &str,
        finding: String,
        waits: Vec<crate::outcome::Wait>,
    ) -> Outcome {
        Outcome {
            verdict,
            oracle: oracle.into(),
            finding,
            steps: self.step,
            time_us: self.time_us,
            hash: self.hasher_finish(),
            actors: self.actors,
            timeline: self.timeline,
            waits,
        }
    }

    fn hasher_finish(&self) -> u64 {
        let mut hasher = self.hasher;
        hasher.write(&self.step.to_le_bytes());
        hasher.write(&self.time_us.to_le_bytes());
        hasher.finish()
    }
}

/// What a run came to, before it is reported.
struct End {
    verdict: Verdict,
    oracle: &'static str,
    finding: String,
}

impl End {
    const fn clean() -> Self {
        Self { verdict: Verdict::Clean, oracle: "", finding: String::new() }
    }

    fn new(verdict: Verdict, oracle: &'static str, finding: String) -> Self {
        Self { verdict, oracle, finding }
    }
}

/// Runs one schedule to its end. The same configuration and the same choices give the same outcome.
///
/// # Panics
/// If the configuration is out of range, the choices are, or the model itself is broken. A panic of the server under
/// test is not one of them: it is an outcome.
pub fn run(config: &Config, choices: &mut dyn Choices) -> Outcome {
    run_sabotaged(config, choices, None)
}

/// As [`run`], with a bug planted in the machinery.
pub fn run_sabotaged(
    config: &Config,
    choices: &mut dyn Choices,
    sabotage: Option<Sabotage>,
) -> Outcome {
    run_with(config, choices, sabotage, false)
}

/// As [`run`], with the repaired twin of a specimen: the same server without its one defect.
pub fn run_repaired(config: &Config, choices: &mut dyn Choices) -> Outcome {
    run_with(config, choices, None, true)
}

fn run_with(
    config: &Config,
    choices: &mut dyn Choices,
    sabotage: Option<Sabotage>,
    repaired: bool,
) -> Outcome {
    assert!((1..=4).contains(&config.queues), "the simulated machine has 4 CPUs");
    assert!((1..=128).contains(&config.depth), "a queue has 1 to 128 tags");
    let broken_rule = match config.subject {
        Subject::Specimen(specimen) if !repaired => specimen.broken_rule(),
        Subject::Specimen(_) | Subject::Engine => None,
    };
    let mut run = Run::new(config, choices, sabotage.or(broken_rule));
    run.repaired = repaired;
    let mut world = World::new(config);
    let end = match contained::contain(|| drive(&mut world, &mut run)) {
        Ok(end) => end,
        Err(payload) => match run.in_user_code.get() {
            Some(_) => {
                let text = contained::message(payload.as_ref());
                End::new(Verdict::Safety, contained::invariant(&text), text)
            }
            // A bug of the model, not of the server.
            None => panic!("the model itself is broken: {}", contained::message(payload.as_ref())),
        },
    };
    let waits =
        if end.verdict == Verdict::Clean { Vec::new() } else { waits::collect(&world, &run) };
    run.outcome(end.verdict, end.oracle, end.finding, waits)
}

/// Sets the stage.
fn begin(world: &mut World, run: &mut Run<'_>) {
    let main = match run.config.subject {
        Subject::Engine => None,
        Subject::Specimen(specimen) => specimen.main(run.repaired),
    };
    match main {
        None => {
            let buffer_bytes = (BUFFER_SECTORS as u64 * SECTOR) as u32;
            let wanted = Wanted {
                id: None,
                queues: run.config.queues,
                depth: run.config.depth,
                buffer_bytes,
                data: run.config.data,
                batch: run.config.commands == Commands::Batched,
                recovery: run.config.recovery,
                identity: IDENTITY,
                shared: lent(run.config),
            };
            let plan = Plan::serve(wanted, run.config.restart, &target(run.config.target));
            world.bring(run, plan);
        }
        Some(main) => start_process(world, run, main),
    }
}

fn drive(world: &mut World, run: &mut Run<'_>) -> End {
    begin(world, run);
    let mut enabled = Vec::with_capacity(32);
    loop {
        if let Some(violation) = run.violation.borrow_mut().take() {
            let oracle = explained(world, violation.oracle);
            return End::new(Verdict::of(oracle), oracle, violation.text);
        }
        if run.crashed {
            return durable(run);
        }
        if let Some(end) = goal(world, run) {
            return end;
        }
        if let Some(end) = overdue(world, run) {
            return end;
        }
        strike(world, run);
        if run.crashed {
            continue;
        }
        steps::collect(world, &mut enabled);
        let alone = enabled.is_empty();
        if let Some(timer) = world.timers.first() {
            let late = timer.left_us <= LATENESS_MAX_US && world.early < EARLY_MAX;
            let stalls =
                !alone && !late && world.budget.stalls > 0 && run.fault(run.config.faults.stall);
            world.budget.stalls -= u8::from(stalls);
            if stalls {
                enabled.clear();
            }
            if alone || late || stalls {
                enabled.push(Step::Clock);
            }
        }
        if enabled.is_empty() {
            return stuck(world, run, "deadlock", "nobody can move");
        }
        if alone {
            let fingerprint = world.fingerprint();
            if run.idle.contains(&fingerprint) {
                let what = "only loops that poll can move, and what they see never changes";
                return stuck(world, run, "deadlock", what);
            }
            run.idle.push(fingerprint);
        }
        let step = pick(world, run, &enabled);
        run.step += 1;
        run.seen(step.code());
        if step == Step::Clock {
            world.early = if alone { 0 } else { world.early + 1 };
            run.fired += 1;
            run.time_us += steps::advance(world, run);
        } else {
            world.early = 0;
            steps::take(world, run, step);
        }
        if let Some((queue, tag)) = run.late
            && !world.server_owns(queue, tag)
        {
            run.late = None;
            if run.sabotage == Some(Sabotage::LateDescriptor) {
                let _ = world.descriptor(run, queue, tag);
            } else if let Some(thread) = world.links.queues[usize::from(queue)] {
                let clear = MemoryOp::Clear { len: SECTOR as u32 };
                world.memory(run, thread, (queue, tag), Place::Tag, clear);
            }
        }
        world.settle_device(run);
        if cfg!(debug_assertions) {
            world.check();
        }
    }
}

/// Adversity that may strike at any moment.
fn strike(world: &mut World, run: &mut Run<'_>) {
    if world.budget.kills > 0 && run.fault(run.config.faults.kill) {
        world.kill_someone(run);
    }
    // Nobody stops every recovery of a device and wonders that it does not come back.
    let weary = world.operator.recoveries > RECOVERIES_MAX / 2;
    if !weary && world.stop_can_be_asked() && run.fault(run.config.faults.stop) {
        world.ask_to_stop(run);
    }
    if run.config.faults.rival > 0 && world.rival_can_come() && run.fault(run.config.faults.rival) {
        world.rival_comes(run);
    }
    if run.config.faults.haste > 0
        && world.budget.hastes > 0
        && world.recovery_can_be_asked()
        && run.fault(run.config.faults.haste)
    {
        world.recover_in_haste(run);
    }
    if run.config.faults.handover > 0
        && world.change_can_be_asked()
        && world.budget.handovers > 0
        && run.fault(run.config.faults.handover)
    {
        world.ask_for_handover(run);
    }
    if run.config.faults.resize > 0
        && world.change_can_be_asked()
        && world.budget.resizes > 0
        && run.fault(run.config.faults.resize)
    {
        world.ask_for_resize(run);
    }
    if world.budget.pauses > 0 && run.fault(run.config.faults.pause) {
        world.pause_someone(run);
    }
    if run.config.faults.kill_both > 0
        && world.both_can_be_killed()
        && run.fault(run.config.faults.kill_both)
    {
        world.kill_both(run);
    }
    if run.config.faults.hold > 0 && world.can_be_held() && run.fault(run.config.faults.hold) {
        world.is_held(run);
    }
    // Last, as nothing happens after it.
    if world.power_can_fail() && run.fault(run.config.faults.crash) {
        world.power_fails(run);
    }
}

/// Chooses among the steps that can be taken.
fn pick(world: &World, run: &mut Run<'_>, enabled: &[Step]) -> Step {
    if !run.calm {
        return run.choose_step(world, enabled);
    }
    let moved = |step: &Step| {
        run.last_moved.iter().find(|(mover, _)| mover == step).map_or(0, |(_, when)| *when)
    };
    let step = *enabled.iter().min_by_key(|step| moved(step)).expect("something is enabled");
    let now = run.step + 1;
    match run.last_moved.iter_mut().find(|(mover, _)| *mover == step) {
        Some((_, when)) => *when = now,
        None => run.last_moved.push((step, now)),
    }
    step
}

/// The goal: the number is free, every process gone, every request answered.
fn goal(world: &World, run: &Run<'_>) -> Option<End> {
    if world.device.is_some()
        || world.requests_live > 0
        || world.processes.iter().any(|process| process.state != ProcessState::Reaped)
        || world.udev.probe != Probe::Idle
        || !world.disk.in_flight.is_empty()
        || world.rings.iter().any(|ring| ring.state == RingState::Exiting)
        || !world.clients_done()
    {
        return None;
    }
    let faults = &run.config.faults;
    let must_succeed = !faults.kills()
        && faults.resource == 0
        && faults.stop == 0
        && run.node_delay_us < PATIENCE_US
        && !run.may_be_late()
        && faults.rival == 0
        && !run.rivalled;
    if must_succeed {
        if !world.is_up() {
            let why = world.links.down_told.map_or(String::new(), |told| format!(": {told}"));
            let text = format!("the device never came up although nothing hindered it{why}");
            return Some(End::new(Verdict::Safety, "L0", text));
        }
        let failed = world.operator.last_exit.filter(|exit| *exit != Exit::Finished);
        if let Some(exit) = failed.filter(|_| !run.held_too_long()) {
            let text = format!("the supervisor did not end well: {}", describe(&exit));
            return Some(End::new(Verdict::Safety, "L2", text));
        }
    }
    Some(durable(run))
}

/// A run that is clean, unless a promise of durability was found broken on the way (O6).
fn durable(run: &Run<'_>) -> End {
    run.owed
        .as_ref()
        .map_or_else(End::clean, |text| End::new(Verdict::of("O6"), "O6", text.clone()))
}

/// Bounds on steps and on virtual time.
fn overdue(world: &World, run: &mut Run<'_>) -> Option<End> {
    let idle = run.step - run.progress_at;
    run.calm |= idle > run.config.steps_max / 2;
    if idle > run.config.steps_max || run.step > run.config.steps_max.saturating_mul(RUNS_MAX) {
        let what = "steps go on, and nothing gets on";
        let oracle = explained(world, "livelock");
        return Some(End::new(Verdict::of(oracle), oracle, summary(world, run, what)));
    }
    let starting = run.config.faults.stall == 0
        && !world.is_up()
        && world.links.down_told.is_none()
        && !run.killed
        // What somebody deletes on its way up may wait as long as a deletion does.
        && !run.rivalled
        && world
            .operator
            .server
            .is_some_and(|server| world.processes[server.index()].state == ProcessState::Running);
    if starting && run.time_us > START_UP_BOUND_US + run.paused_us + run.held_us {
        let what = "the start-up takes longer than 10 s";
        return Some(End::new(Verdict::Livelock, "start-up bound", summary(world, run, what)));
    }
    None
}

fn stuck(world: &World, run: &Run<'_>, oracle: &'static str, what: &str) -> End {
    let oracle = explained(world, oracle);
    End::new(Verdict::Deadlock, oracle, summary(world, run, what))
}

/// The rule to name where something does not come about: the kernel's, if it never lets go of a server that is dead.
fn explained(world: &World, oracle: &'static str) -> &'static str {
    match oracle {
        "L2" | "L3" | "deadlock" | "livelock" => world.unreleased().unwrap_or(oracle),
        _ => oracle,
    }
}

/// One sentence: what was found, and the wait that matters most.
fn summary(world: &World, run: &Run<'_>, what: &str) -> String {
    let waits = waits::collect(world, run);
    let most = waits.iter().find(|wait| wait.owner.is_some()).or(waits.first());
    match most {
        Some(wait) => {
            let who = &run.actors[wait.actor].name;
            let because =
                if wait.because.is_empty() { String::new() } else { format!(", {}", wait.because) };
            format!("{what}: {who}: {}{because}", wait.awaits)
        }
        None => what.into(),
    }
}
