//! Scripts executed by the model: the set of all that may be observed, step by step.

use std::collections::BTreeMap;
use std::fmt;

use blkproof_engine::control::Command;
use blkproof_engine::sys::{Call, Cqe, Exit, Ret, RingMode, RingSpec, Token};
use blkproof_engine::uapi::{ControlOp, DevId, DevInfo, KernelSeries, Params, RequestFlags};

use super::{
    CONTROLLER, Delivered, Event, Header, Job, Observation, Op, RingKind, SHARED_SECTORS, Script,
    Site, State, Step, Trace,
};
use crate::config::{Config, TargetKind};
use crate::kernel::batch::addr_of;
use crate::kernel::block::BlockOp;
use crate::kernel::control::{Asked, Pc};
use crate::kernel::device::{self, Device};
use crate::kernel::errno;
use crate::kernel::limits::Limits;
use crate::kernel::process::{SIGKILL, ThreadState};
use crate::kernel::shmem::Given;
use crate::kernel::tags::{By, TagState};
use crate::run::{Run, Sabotage, rest};
use crate::server::Program;
use crate::world::{BUFFER_SECTORS, RingId, SECTOR, ThreadId, Version, World};

/// Worlds that one step may lead through.
const WORLDS_MAX: usize = 200_000;
/// Entries of an actor's rings: more than a script submits at once.
pub(super) const RING_ENTRIES: u32 = 64;
/// Bytes of each tag's buffer, as ADD_DEV asks for them.
pub const BUFFER_BYTES: u32 = 64 * 1024;

/// A thread that does what a script says.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
#[expect(clippy::struct_excessive_bools, reason = "each says one thing of the step that it is at")]
pub(crate) struct Actor {
    /// The step that it is at.
    pub(super) step: u16,
    /// The call's own result is that of the step.
    pub(super) answers: bool,
    /// The number of entries that were taken is.
    pub(super) counts: bool,
    /// What it submits stays in the queue.
    pub(super) holds: bool,
    /// The ring that it put aside.
    spare: Option<RingId>,
    /// It enters its ring for completions.
    pub(crate) reaps: bool,
    /// Queues whose descriptors it has mapped, and the one that it is mapping.
    maps: Vec<u16>,
    mapping: Option<u16>,
    /// Its ring for control commands.
    control: Option<RingId>,
    /// It has the disk open.
    pub(crate) disk: bool,
    /// Failures to write back that the open disk has told.
    pub(super) errors: u8,
    /// What is different in the header of the command that it is about to submit.
    header: Option<Box<Header>>,
}

impl Actor {
    /// A call returned.
    pub(crate) fn returned(&mut self, ret: Ret) -> Option<Event> {
        self.reaps = false;
        let counts = std::mem::take(&mut self.counts);
        let result = match ret {
            Ret::Submitted(taken) if counts => taken as i32,
            Ret::Failed(errno) => -i32::from(errno.0),
            Ret::Start
            | Ret::Done
            | Ret::Submitted(_)
            | Ret::Spawned(_)
            | Ret::Exited(_)
            | Ret::Running => 0,
        };
        self.maps.extend(self.mapping.take().filter(|_| result == 0));
        std::mem::take(&mut self.answers).then(|| event(self.step, result))
    }
}

pub(super) const fn event(step: u16, result: i32) -> Event {
    Event { step, result, request: None, data: None, told: String::new() }
}

/// A real kernel did what the model does not allow.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Difference {
    /// The step after which it was observed.
    pub step: u16,
    /// What was observed.
    pub observed: Observation,
    /// What the model allows there.
    pub allowed: Vec<Observation>,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "after step {}, the kernel:\n{}", self.step, self.observed)?;
        for allowed in &self.allowed {
            writeln!(f, "  the model allows:\n{allowed}")?;
        }
        Ok(())
    }
}

/// Whether the model allows what was observed, as far as the step after which a kernel may crash.
///
/// # Errors
/// The first observation that it does not.
pub fn check(script: &Script, kernel: KernelSeries, trace: &Trace) -> Result<(), Difference> {
    check_planted(script, kernel, trace, None)
}

/// As [`check`], with an error planted in the model.
///
/// # Errors
/// As [`check`].
pub fn check_planted(
    script: &Script,
    kernel: KernelSeries,
    trace: &Trace,
    planted: Option<Sabotage>,
) -> Result<(), Difference> {
    let mut model = Model { planted, ..Model::new(kernel) };
    for ((observed, step), number) in trace.observations.iter().zip(&script.steps).zip(1..) {
        let mut allowed = model.step(number, step);
        if allowed.values().flatten().any(|world| world.doomed) {
            return Ok(());
        }
        let mut equal = observed.clone();
        equal.exchange(&model.commands);
        let Some(worlds) = allowed.remove(&equal) else {
            let allowed = allowed.into_keys().collect();
            return Err(Difference { step: number, observed: observed.clone(), allowed });
        };
        model.worlds = worlds;
    }
    Ok(())
}

/// What a model with an error planted does: one of its ways.
#[cfg(test)]
pub(super) fn played(script: &Script, kernel: KernelSeries, planted: Sabotage) -> Trace {
    let mut model = Model { planted: Some(planted), ..Model::new(kernel) };
    let mut trace = Trace::default();
    for (number, step) in (1..).zip(&script.steps) {
        let Some((observation, worlds)) = model.step(number, step).pop_first() else { break };
        trace.observations.push(observation);
        model.worlds = worlds;
    }
    trace
}

/// All that the model allows to be observed after each step, whatever was observed before; as far as the step after which
/// a kernel may crash.
pub fn allowed(script: &Script, kernel: KernelSeries) -> Vec<Vec<Observation>> {
    let mut model = Model::new(kernel);
    let mut allowed = Vec::new();
    for (number, step) in (1..).zip(&script.steps) {
        if model.doomed() {
            break;
        }
        allowed.push(model.step_all(number, step));
    }
    allowed
}

/// Whether the script may crash a kernel of this series: then it is to be run in a guest of its own, or not at all.
pub fn is_dangerous(script: &Script, kernel: KernelSeries) -> bool {
    let mut model = Model::new(kernel);
    (1..).zip(&script.steps).any(|(number, step)| {
        model.step_all(number, step);
        model.worlds.iter().any(|world| world.doomed || world.haunted)
    })
}

/// The rule by which, at the end of the script, a kernel of this series still keeps a server that is dead (K12, K13).
#[cfg(test)]
pub(crate) fn keeps_a_dead_server(script: &Script, kernel: KernelSeries) -> Option<&'static str> {
    let mut model = Model::new(kernel);
    for (number, step) in (1..).zip(&script.steps) {
        model.step_all(number, step);
    }
    model.worlds.iter().find_map(World::unreleased)
}

/// The model in the middle of a script.
pub(super) struct Model {
    config: Config,
    /// What is wrong with it.
    planted: Option<Sabotage>,
    /// Every world that agrees with what was observed so far.
    worlds: Vec<World>,
    /// The same threads have the same numbers in all of them.
    cast: BTreeMap<String, ThreadId>,
    threads: u16,
    /// Control commands so far, by step.
    commands: BTreeMap<u16, Op>,
}

impl Model {
    pub(super) fn new(kernel: KernelSeries) -> Self {
        let config = Config {
            kernel,
            requests: 0,
            quiet: true,
            target: TargetKind::Mem,
            ..Config::engine()
        };
        let mut world = World::new(&config);
        world.clients.clear();
        world.shared = vec![0; usize::from(SHARED_SECTORS)];
        let mut model = Self {
            config,
            planted: None,
            worlds: vec![world],
            cast: BTreeMap::new(),
            threads: 0,
            commands: BTreeMap::new(),
        };
        model.process(CONTROLLER, false);
        model
    }

    /// Does something to every world.
    fn act(&mut self, act: impl Fn(&mut World, &mut Run<'_>)) {
        let worlds = std::mem::take(&mut self.worlds);
        let next = worlds
            .iter()
            .flat_map(|world| rest::outcomes(world, (&self.config, self.planted), &act));
        self.worlds = next.collect();
    }

    fn enters(&mut self, name: &str) -> ThreadId {
        let thread = ThreadId(self.threads);
        self.threads += 1;
        self.cast.insert(name.to_owned(), thread);
        thread
    }

    fn process(&mut self, name: &str, admin: bool) {
        let thread = self.enters(name);
        self.act(|world, run| {
            let actor = Program::Script(Actor::default());
            let process = world.spawn_process(run, None, name, actor);
            world.processes[process.index()].admin = admin;
            world.threads[thread.index()].state = ThreadState::Sleeping;
        });
    }

    /// How many worlds agree with what was observed so far.
    pub(super) fn worlds(&self) -> usize {
        self.worlds.len()
    }

    /// Whether a kernel may have crashed.
    pub(super) fn doomed(&self) -> bool {
        self.worlds.iter().any(|world| world.doomed)
    }

    /// The actors that are in the middle of a step, in some world.
    pub(super) fn busy(&self) -> Vec<String> {
        let is_busy = |thread: ThreadId| {
            self.worlds.iter().any(|world| {
                let state = world.threads[thread.index()].state;
                let step = world.step_of(thread);
                state != ThreadState::Sleeping
                    || world.jobs.iter().any(|job| Some(job.step) == step)
            })
        };
        let busy = self.cast.iter().filter(|(_, thread)| is_busy(**thread));
        busy.map(|(name, _)| name.clone()).collect()
    }

    /// What may be observed after a step. Every world is kept.
    pub(super) fn step_all(&mut self, number: u16, step: &Step) -> Vec<Observation> {
        let (observations, worlds): (Vec<_>, Vec<_>) = self.step(number, step).into_iter().unzip();
        self.worlds = worlds.into_iter().flatten().collect();
        observations
    }

    /// What may be observed after a step, each with the worlds that show it.
    fn step(&mut self, number: u16, step: &Step) -> BTreeMap<Observation, Vec<World>> {
        match step {
            Step::Process { name, admin } => self.process(name, *admin),
            Step::Thread { name, of } => {
                let of = self.cast[of.as_str()];
                let thread = self.enters(name);
                self.act(|world, run| {
                    let process = world.threads[of.index()].process;
                    let program = Program::Script(Actor::default());
                    world.spawn_thread(run, process, name, 0, program);
                    world.threads[thread.index()].state = ThreadState::Sleeping;
                });
            }
            Step::Kill { actor } => {
                let thread = self.cast[actor.as_str()];
                self.act(|world, _| {
                    let process = world.threads[thread.index()].process;
                    let signal = blkproof_engine::sys::WorkerExit::Signal(SIGKILL);
                    world.begin_exit(process, signal);
                });
            }
            Step::Fork { name, of, map } => {
                let of = self.cast[of.as_str()];
                let thread = self.enters(name);
                self.act(|world, run| {
                    world.fork(run, of, name);
                    match map {
                        None => world.answer(number, 0),
                        Some(queue) => {
                            let op = Op::Map { queue: *queue };
                            world.perform(run, thread, number, &op, None);
                        }
                    }
                });
            }
            Step::Exec { actor } => {
                let thread = self.cast[actor.as_str()];
                self.act(|world, run| {
                    world.exec(run, thread);
                    *world.actor(thread) = Actor::default();
                });
            }
            Step::Halt { actor } | Step::Continue { actor } => {
                let thread = self.cast[actor.as_str()];
                let halted = matches!(step, Step::Halt { .. });
                self.act(|world, _| {
                    let process = world.threads[thread.index()].process;
                    world.processes[process.index()].halted = halted;
                });
            }
            Step::Do { actor, op } => {
                let thread = self.cast[actor.as_str()];
                if op.is_control() {
                    self.commands.insert(number, op.clone());
                }
                if matches!(op, Op::Ring(asked) if asked.kind == RingKind::Sqpoll) {
                    // Its thread has a number too.
                    self.threads += 1;
                }
                let server = match op.bare() {
                    Op::Start { server: Some(server) }
                    | Op::EndRecovery { server: Some(server) } => Some(self.cast[server.as_str()]),
                    _ => None,
                };
                self.act(|world, run| world.perform(run, thread, number, op, server));
            }
            Step::Sleep { ms } => self.act(|world, _| world.sleeps_on(*ms)),
            Step::Scheduler => self.act(|world, _| world.deadline = true),
        }
        let from = std::mem::take(&mut self.worlds);
        let worlds = rest::at_rest(from, (&self.config, self.planted), WORLDS_MAX);
        let mut observed: BTreeMap<Observation, Vec<World>> = BTreeMap::new();
        for mut world in worlds {
            let mut observation = world.observe();
            observation.exchange(&self.commands);
            observed.entry(observation).or_default().push(world);
        }
        observed
    }
}

impl World {
    pub(super) fn actor(&mut self, thread: ThreadId) -> &mut Actor {
        match self.threads[thread.index()].program.as_deref_mut() {
            Some(Program::Script(actor)) => actor,
            Some(_) | None => unreachable!("every thread of a script is an actor"),
        }
    }

    /// The step that an actor is at, or was at last.
    pub(crate) fn step_of(&self, thread: ThreadId) -> Option<u16> {
        match self.threads[thread.index()].program.as_deref() {
            Some(Program::Script(actor)) => Some(actor.step),
            Some(_) | None => None,
        }
    }

    /// It has `open_mutex`.
    pub(crate) fn opens_disk(&mut self, thread: ThreadId) {
        self.threads[thread.index()].state = ThreadState::Sleeping;
        let (had, step) = (self.actor(thread).disk, self.actor(thread).step);
        let opened = self.open_block();
        if opened && had {
            self.close_block();
        }
        if opened {
            let known = self.cache().map_or(0, |cache| cache.errors_known());
            let actor = self.actor(thread);
            (actor.disk, actor.errors) = (true, known);
        }
        // The node of a disk that waits for its last requests is still there, but on 6.12; that of one which is written back always is.
        let leaves = self.device.as_ref().is_some_and(|device| {
            let disk = device.disk.as_ref().filter(|disk| disk.attached);
            disk.is_some_and(|disk| device.kernel > KernelSeries::V6_12 || !disk.dead)
        });
        let refusal = if leaves { errno::ENXIO } else { errno::ENOENT };
        self.answer(step, if opened { 0 } else { -refusal });
    }

    /// The step's result is known at once.
    pub(super) fn answer(&mut self, step: u16, result: i32) {
        self.script_events.push(event(step, result));
    }

    /// An actor begins what its step says.
    fn perform(
        &mut self,
        run: &mut Run<'_>,
        thread: ThreadId,
        step: u16,
        op: &Op,
        server: Option<ThreadId>,
    ) {
        let process = self.threads[thread.index()].process;
        let opened = self.processes[process.index()].char_open;
        let id = self.device.as_ref().map_or(DevId(0), |device| device.id);
        self.actor(thread).step = step;
        let call = |world: &mut Self, call| {
            world.actor(thread).answers = true;
            world.threads[thread.index()].state = ThreadState::Calling(call);
        };
        match *op {
            Op::Ring(asked) => {
                self.create_ring(run, thread, asked);
                self.answer(step, 0);
            }
            Op::CloseRing => {
                let had = self.leave_ring(thread);
                self.answer(step, if had { 0 } else { -errno::EBADF });
            }
            Op::Spare => {
                let ring = self.threads[thread.index()].ring;
                self.threads[thread.index()].ring =
                    std::mem::replace(&mut self.actor(thread).spare, ring);
                self.answer(step, 0);
            }
            Op::Hold if self.threads[thread.index()].ring.is_none() => {
                self.answer(step, -errno::EBADF);
            }
            Op::Hold => {
                self.actor(thread).holds = true;
                self.answer(step, 0);
            }
            Op::Submit { count } => self.submit_held(thread, step, count),
            Op::FixFile => {
                let result = self.fix_file(thread, opened);
                self.answer(step, result);
            }
            Op::UnfixFile => {
                let result = self.unfix_file(run, thread);
                self.answer(step, result);
            }
            Op::Open | Op::OpenKept if self.may_not_open(thread) => {
                self.answer(step, -errno::EACCES);
            }
            Op::Open => call(self, Call::OpenChar),
            Op::OpenKept => {
                self.processes[process.index()].char_kept = true;
                call(self, Call::OpenChar);
            }
            Op::Close if !opened => self.answer(step, -errno::EBADF),
            Op::Close => {
                self.close_char(run, process);
                self.answer(step, 0);
            }
            Op::Map { .. }
            | Op::Pread { .. }
            | Op::Pwrite { .. }
            | Op::MetaRead { .. }
            | Op::MetaWrite { .. }
            | Op::Zones { .. }
                if !opened =>
            {
                self.answer(step, -errno::EBADF);
            }
            Op::Fetch { .. }
            | Op::Commit { .. }
            | Op::GetData { .. }
            | Op::Register { .. }
            | Op::Unregister { .. }
            | Op::Prep { .. }
            | Op::Commits { .. }
            | Op::FetchTags { .. }
                if !self.reaches_device(thread, opened) =>
            {
                self.answer(step, -errno::EBADF);
            }
            Op::Map { queue } => {
                self.actor(thread).mapping = Some(queue);
                let queue = blkproof_engine::uapi::QueueId(queue);
                call(
                    self,
                    Call::MapQueue {
                        queue,
                        memory: blkproof_engine::data::TagMemory::Nothing,
                        buffers: 0,
                    },
                );
            }
            Op::Unmap { queue } if !self.actor(thread).maps.contains(&queue) => {
                self.answer(step, -errno::EINVAL);
            }
            Op::Unmap { queue } => {
                let maps = &mut self.actor(thread).maps;
                let at = maps.iter().position(|one| *one == queue);
                at.map(|at| maps.remove(at));
                self.unmap_some(run, thread, 1);
                self.answer(step, 0);
            }
            Op::Commit { queue, tag, data: Some(data), .. } => {
                self.fill((queue, tag), data);
                self.submit(thread, step, op);
            }
            Op::Commits { queue, ref results, data: Some(data), .. } => {
                for (tag, _) in results {
                    self.fill((queue, *tag), data);
                }
                self.submit(thread, step, op);
            }
            Op::Fetch { .. }
            | Op::Commit { .. }
            | Op::GetData { .. }
            | Op::Register { .. }
            | Op::Unregister { .. }
            | Op::BufRead { .. }
            | Op::BufWrite { .. }
            | Op::Prep { .. }
            | Op::Commits { .. }
            | Op::FetchTags { .. }
            | Op::Junk => self.submit(thread, step, op),
            Op::Pread { queue, tag, first, count } => {
                let copied = self.user_copy(thread, (queue, tag), (first, count), None);
                self.copied(step, copied);
            }
            Op::Pwrite { queue, tag, first, count, byte } => {
                let copied = self.user_copy(thread, (queue, tag), (first, count), Some(byte));
                self.copied(step, copied);
            }
            Op::MetaRead { queue, tag, first, count } => {
                let copied = self.copies_metadata(thread, (queue, tag), (first, count), None);
                self.copied(step, copied);
            }
            Op::MetaWrite { queue, tag, first, count, byte } => {
                let copied = self.copies_metadata(thread, (queue, tag), (first, count), Some(byte));
                self.copied(step, copied);
            }
            Op::Zones { queue, tag, first, count, of, pointer } => {
                let zones = (first, count);
                let told = self.tells_of_zones(thread, (queue, tag), zones, (of, pointer));
                self.copied(step, told.map(|bytes| (bytes, None)));
            }
            Op::Provide { count } => {
                let ring = self.threads[thread.index()].ring;
                if let Some(ring) = ring {
                    self.rings[ring.index()].provided += count;
                }
                self.answer(step, if ring.is_some() { 0 } else { -errno::EBADF });
            }
            Op::Table { slots } => {
                let result = match self.threads[thread.index()].ring {
                    None => -errno::EBADF,
                    Some(ring) if !self.rings[ring.index()].table.is_empty() => -errno::EBUSY,
                    Some(ring) => {
                        self.rings[ring.index()].table = vec![None; usize::from(slots)];
                        0
                    }
                };
                self.answer(step, result);
            }
            Op::Reap if self.threads[thread.index()].ring.is_none() => {
                self.answer(step, -errno::EBADF);
            }
            Op::Reap => {
                let actor = self.actor(thread);
                (actor.answers, actor.reaps) = (true, true);
                self.threads[thread.index()].state =
                    ThreadState::Waiting { done: 0, wait: 0, interrupted: false };
            }
            Op::Order => self.tells_order(thread, step),
            Op::Exit => self.thread_exits(run, thread, Exit::Finished),
            Op::Add { .. } => {
                if let Some(info) = added(op) {
                    self.control(run, thread, step, Command::AddDev(info));
                }
            }
            Op::Params(ref parameters) => {
                self.control(run, thread, step, Asked::Params(id, parameters.clone()));
            }
            Op::GetParams { bytes } => {
                let asked = Asked::Plain(ControlOp::GetParams, id, u64::from(bytes));
                self.control(run, thread, step, asked);
            }
            Op::Features => {
                let asked = Asked::Plain(ControlOp::GetFeatures, DevId::AUTO, 0);
                self.control(run, thread, step, asked);
            }
            Op::Affinity { queue } => {
                let asked = Asked::Plain(ControlOp::GetQueueAffinity, id, u64::from(queue));
                self.control(run, thread, step, asked);
            }
            Op::Details => {
                self.control(run, thread, step, Asked::Plain(ControlOp::GetDevInfo, id, 0));
            }
            Op::Details2 => {
                self.control(run, thread, step, Asked::Plain(ControlOp::GetDevInfo2, id, 0));
            }
            Op::With(..) if !op.is_control() && !opened => self.answer(step, -errno::EBADF),
            Op::With(..) if !op.is_control() => self.submit(thread, step, op),
            Op::With(ref header, ref op) => {
                self.actor(thread).header = Some(header.clone());
                self.perform(run, thread, step, op, server);
                self.actor(thread).header = None;
            }
            Op::Start { .. } => {
                let pid = server.map_or(0, |server| self.process_of(server).pid);
                self.control(run, thread, step, Command::StartDev(id, pid));
            }
            Op::StartRecovery => {
                let asked = Asked::Plain(ControlOp::StartUserRecovery, id, 0);
                self.control(run, thread, step, asked);
            }
            Op::EndRecovery { .. } => {
                let pid = server.map_or(0, |server| self.process_of(server).pid);
                let asked = Asked::Plain(ControlOp::EndUserRecovery, id, u64::from(pid));
                self.control(run, thread, step, asked);
            }
            Op::Resize { sectors } => {
                self.control(run, thread, step, Asked::Plain(ControlOp::UpdateSize, id, sectors));
            }
            Op::Quiesce { ms } => {
                let asked = Asked::Plain(ControlOp::QuiesceDev, id, u64::from(ms));
                self.control(run, thread, step, asked);
            }
            Op::RegBuf { first, count, read_only, unwritable } => {
                let given = Given { first, count, read_only, unwritable };
                let asked = Asked::Plain(ControlOp::RegBuf, id, given.word());
                self.control(run, thread, step, asked);
            }
            Op::MemRead { first, count } => self.reads_shared(step, (first, count)),
            Op::MemWrite { first, count, byte } => self.writes_shared(step, (first, count), byte),
            Op::UnregBuf { index } => {
                let asked = Asked::Plain(ControlOp::UnregBuf, id, u64::from(index));
                self.control(run, thread, step, asked);
            }
            Op::TryStop => {
                self.control(run, thread, step, Asked::Plain(ControlOp::TryStopDev, id, 0));
            }
            Op::DelAsync => {
                self.control(run, thread, step, Asked::Plain(ControlOp::DelDevAsync, id, 0));
            }
            Op::Stop => self.control(run, thread, step, Command::StopDev(id)),
            Op::Del => self.control(run, thread, step, Command::DelDev(id)),
            Op::Info => self.control(run, thread, step, Command::GetDevInfo(id)),
            Op::Cancel { step: of } => {
                if let Some(ring) = self.actor(thread).control {
                    self.cancel_control(run, ring, u32::from(of));
                }
            }
            Op::User { user } => self.becomes(thread, step, user),
            Op::Own { user } => self.gives_away(thread, step, user),
            Op::Timeout { ms } => self.sets_timeout(thread, step, ms),
            Op::OpenDisk if let Some(errno) = self.may_not_open_disk(thread) => {
                self.answer(step, -errno);
            }
            Op::OpenDisk => self.threads[thread.index()].state = ThreadState::Opening,
            ref op if (op.uses_disk() || *op == Op::CloseDisk) && !self.actor(thread).disk => {
                self.answer(step, -errno::EBADF);
            }
            Op::CloseDisk => {
                self.actor(thread).disk = false;
                self.closes_disk(run, step, false);
            }
            Op::Write { count, shared: Some(shared), .. } if !self.has_living_disk() => {
                self.fill_shared((shared, count), Version::from(step));
                self.answer(step, -errno::ENOSPC);
            }
            // A disk that is gone has no capacity.
            Op::Read { .. } | Op::Load { .. } if !self.has_living_disk() => self.answer(step, 0),
            Op::Write { .. } | Op::Store { .. } if !self.has_living_disk() => {
                self.answer(step, -errno::ENOSPC);
            }
            Op::Load { first, .. } if self.ends_before(first + 1) => self.answer(step, 0),
            Op::Store { first, .. } if self.ends_before(first + 1) => {
                self.answer(step, -errno::ENOSPC);
            }
            Op::Load { first, count, queue } => {
                let range = (first, self.up_to_the_end(first, count));
                self.client(run, Job::cached(step, BlockOp::Read, range, queue));
            }
            Op::Store { first, count, queue } => {
                let range = (first, self.up_to_the_end(first, count));
                self.client(run, Job::cached(step, BlockOp::Write { fua: false }, range, queue));
            }
            Op::Discard { .. } if self.limits().discard == 0 => {
                self.answer(step, -errno::EOPNOTSUPP);
            }
            Op::Discard { first, count, .. } | Op::Zeroes { first, count, .. }
                if !self.has_living_disk() || self.ends_before(first + count) =>
            {
                self.answer(step, -errno::EINVAL);
            }
            Op::Zeroes { keep: false, .. } if self.limits().zeroes == 0 => {
                self.answer(step, -errno::EOPNOTSUPP);
            }
            Op::Zeroes { first, count, queue, .. } if self.limits().zeroes == 0 => {
                self.client(run, Job::of_zeroes(step, (first, count), queue));
            }
            Op::Zeroes { first, count, queue, keep } => {
                let op = BlockOp::WriteZeroes { unmap: !keep };
                self.client(run, Job::new(step, op, (first, count), queue));
            }
            Op::Discard { first, count, queue } => {
                self.client(run, Job::new(step, BlockOp::Discard, (first, count), queue));
            }
            Op::Zone { act, first, count, queue } => match self.zones_of((first, count), act) {
                Ok(op) => self.client(run, Job::new(step, op, (first, count), queue)),
                Err(errno) => self.answer(step, -errno),
            },
            Op::ReportZones { queue } => match self.all_zones() {
                Ok(0) => self.answer(step, 0),
                Ok(zones) => {
                    let op = BlockOp::ReportZones(zones);
                    self.client(run, Job::new(step, op, (0, 0), queue));
                }
                Err(errno) => self.answer(step, -errno),
            },
            Op::Sync { queue } => self.client(run, Job::new(step, BlockOp::Flush, (0, 0), queue)),
            Op::Read { first, count, queue, shared } => {
                let job = Job::new(step, BlockOp::Read, (first, count), queue);
                self.client(run, job.with_shared(shared));
            }
            Op::Write { first, count, queue, shared, fua } => {
                if let Some(shared) = shared {
                    self.fill_shared((shared, count), Version::from(step));
                }
                let op = BlockOp::Write { fua };
                let job = Job::new(step, op, (first, count), queue);
                self.client(run, job.with_shared(shared));
            }
        }
    }

    /// The kernel takes what an actor submitted.
    pub(crate) fn script_submits(
        &mut self,
        run: &mut Run<'_>,
        thread: ThreadId,
        ring: RingId,
        step: u16,
        op: &Op,
    ) {
        let token = Token::Control(u32::from(step));
        let by = (thread, ring, token);
        let res = match *op {
            Op::With(ref header, ref op) => match self.refuses_code(thread, header, op) {
                Some(errno) => -errno,
                None => return self.script_submits(run, thread, ring, step, op),
            },
            Op::Fetch { queue, tag, .. }
            | Op::Commit { queue, tag, .. }
            | Op::GetData { queue, tag }
                if self.device.as_ref().is_some_and(Device::batches) =>
            {
                let there = self
                    .device
                    .as_ref()
                    .is_some_and(|device| queue < device.queues && tag < device.depth);
                if there { -errno::EOPNOTSUPP } else { -errno::EINVAL }
            }
            Op::Prep { queue, ref tags, addr } => self.prep(run, thread, (queue, tags), addr),
            Op::Commits { queue, ref results, addr, .. } => {
                let addr = |nth| addr_of(addr, nth);
                self.commit_batch(run, ring, queue, results, addr)
            }
            Op::FetchTags { queue } => return self.fetch_tags(run, by, queue),
            Op::Fetch { queue, tag, addr } => return self.fetch(run, by, (queue, tag), addr),
            Op::Commit { queue, tag, result, addr, .. } => {
                return self.commit(run, by, (queue, tag), result, addr);
            }
            Op::GetData { queue, tag } => return self.get_data(run, by, (queue, tag)),
            Op::Register { queue, tag, index } => self.register(thread, ring, (queue, tag), index),
            Op::Unregister { queue, tag, index } => {
                self.unregister(run, thread, ring, (queue, tag), index)
            }
            Op::BufRead { index, first, count } => {
                let moved = self.move_registered(ring, index, (first, count), None);
                return self.moved(by, count, moved);
            }
            Op::BufWrite { index, first, count, byte } => {
                let moved = self.move_registered(ring, index, (first, count), Some(byte));
                return self.moved(by, count, moved);
            }
            _ => unreachable!("a script submits nothing else"),
        };
        self.post(ring, Cqe { token, res });
    }

    /// What becomes of an I/O command with another code; None if it is as good as the right one.
    fn refuses_code(&self, thread: ThreadId, header: &Header, op: &Op) -> Option<i32> {
        let (Op::Fetch { queue, tag, .. }
        | Op::Commit { queue, tag, .. }
        | Op::GetData { queue, tag }
        | Op::Register { queue, tag, .. }
        | Op::Unregister { queue, tag, .. }) = *op
        else {
            return Some(errno::EOPNOTSUPP);
        };
        let Some(device) = &self.device else { return Some(errno::ENODEV) };
        let foreign = header.kind.is_some_and(|kind| kind != 0 && kind != b'u');
        let there = queue < device.queues && tag < device.depth;
        if device.batches() {
            // It compares whole codes.
            return Some(if there { errno::EOPNOTSUPP } else { errno::EINVAL });
        }
        if header.nr.is_none() && !foreign {
            return None;
        }
        let old = device.kernel == KernelSeries::V6_12;
        if !old && foreign {
            return Some(errno::EOPNOTSUPP);
        }
        if !there {
            return Some(errno::EINVAL);
        }
        let slot = &device.tags[device.slot(queue, tag)];
        if old {
            let daemon = device.hw[usize::from(queue)].daemon;
            if daemon.is_some_and(|daemon| daemon != thread) {
                return Some(errno::EINVAL);
            }
            return Some(match slot.state {
                TagState::Armed(_) | TagState::Queued(..) | TagState::Lingering(..) => errno::EBUSY,
                TagState::Announced(_) => errno::EINVAL,
                _ if foreign => errno::EOPNOTSUPP,
                _ => errno::EINVAL,
            });
        }
        Some(match slot.state {
            _ if slot.task != Some(thread) => errno::EINVAL,
            TagState::Served(_) | TagState::Announced(_) => errno::EINVAL,
            _ => errno::EBUSY,
        })
    }

    /// A server fills a tag's buffer.
    fn fill(&mut self, (queue, tag): (u16, u16), data: u8) {
        let mut device = self.device.iter();
        if device.any(|device| queue < device.queues && tag < device.depth) {
            let index = self.buffer_index(queue, tag);
            self.buffers[index] = [Version::from(data); BUFFER_SECTORS];
        }
    }

    /// What user copy came to.
    fn copied(&mut self, step: u16, copied: Result<(i32, Option<u8>), i32>) {
        let (result, data) = copied.unwrap_or_else(|errno| (-errno, None));
        self.script_events.push(Event { data, ..event(step, result) });
    }

    /// What an operation on a registered buffer came to. The data is seen with its completion.
    fn moved(&mut self, (thread, ring, token): By, count: u16, data: Result<Option<u8>, i32>) {
        let res = data.map_or_else(|errno| -errno, |_| (u64::from(count) * SECTOR) as i32);
        if let (Token::Control(step), Ok(Some(byte))) = (token, data) {
            self.rings[ring.index()].moved.push((step as u16, byte));
        }
        self.finish_move(thread, ring, Cqe { token, res });
    }

    /// Submits a control command on the actor's own ring for them.
    fn control(
        &mut self,
        run: &mut Run<'_>,
        thread: ThreadId,
        step: u16,
        command: impl Into<Asked>,
    ) {
        let known = self.actor(thread).control;
        let ring = known.unwrap_or_else(|| {
            let other = self.threads[thread.index()].ring;
            self.setup_ring(thread, RingSpec { entries: RING_ENTRIES, mode: RingMode::Control });
            let ring = std::mem::replace(&mut self.threads[thread.index()].ring, other);
            ring.unwrap_or_else(|| unreachable!("it was just created"))
        });
        self.actor(thread).control = Some(ring);
        let header = self.actor(thread).header.take();
        self.submit_bent(run, (thread, ring, u32::from(step)), command.into(), header);
    }

    /// Whether the disk is smaller than so many sectors.
    fn ends_before(&self, end: u16) -> bool {
        let params = self.device.as_ref().and_then(|device| device.params.parts().basic);
        params.is_some_and(|basic| basic.dev_sectors < u64::from(end))
    }

    fn limits(&self) -> Limits {
        let disk = self.disk();
        disk.map_or_else(|| Limits::new(&Params::default()), |disk| disk.limits)
    }

    pub(super) fn has_write_cache(&self) -> bool {
        let disk = self.disk();
        disk.is_some_and(|disk| disk.write_cache)
    }

    pub(super) fn has_living_disk(&self) -> bool {
        let disk = self.disk();
        disk.is_some_and(|disk| !disk.dead)
    }

    /// What there is to see; what was seen is not seen again.
    fn observe(&mut self) -> Observation {
        let mut observation = Observation::default();
        std::mem::swap(&mut observation.events, &mut self.script_events);
        for index in 0..self.rings.len() {
            // Nobody who could tell looks at it, or not now.
            let ring = &self.rings[index];
            if ring.left || self.processes[ring.process.index()].halted {
                continue;
            }
            while let Some(Cqe { token, res }) = self.rings[index].cq.pop_front() {
                let Token::Control(step) = token else { continue };
                let mut event = event(step as u16, res);
                let told = self.script_told.iter().position(|(of, _)| *of == event.step);
                if let Some(at) = told {
                    event.told = self.script_told.swap_remove(at).1;
                }
                let ring = RingId::from_index(index);
                let moved = &self.rings[index].moved;
                event.data = moved.iter().find(|(of, _)| u32::from(*of) == step).map(|(_, b)| *b);
                let mut told = self.rings[index].told.iter();
                let batch = told.position(|(of, _, _)| u32::from(*of) == step && res > 0);
                if let Some((_, queue, tags)) =
                    batch.and_then(|at| self.rings[index].told.remove(at))
                {
                    for tag in tags {
                        let mut event = event.clone();
                        self.describe(&mut event, ring, (queue, tag));
                        if let Some(request) = &mut event.request {
                            request.tag = Some(tag);
                            self.remembers_order(ring, request);
                        }
                        observation.events.push(event);
                    }
                    continue;
                }
                if let Some(tag) = self.delivered(ring, token) {
                    self.describe(&mut event, ring, tag);
                }
                if let Some(request) = &event.request {
                    self.remembers_order(ring, request);
                }
                observation.events.push(event);
            }
        }
        for control in self.controls.iter().flatten() {
            observation.waits.push((control.sequence as u16, site(control.pc)));
        }
        for thread in &self.threads {
            if let (ThreadState::Submitting { .. }, Some(Program::Script(actor))) =
                (thread.state, thread.program.as_deref())
            {
                observation.waits.push((actor.step, Site::DeviceMutex));
            }
            if let (ThreadState::Opening, Some(Program::Script(actor))) =
                (thread.state, thread.program.as_deref())
            {
                observation.waits.push((actor.step, Site::OpenMutex));
            }
        }
        let seen = self.device.as_ref().or_else(|| self.numbered(DevId(0)));
        observation.state = match seen.map(|device| device.state) {
            None => State::None,
            Some(device::State::Dead) => State::Dead,
            Some(device::State::Live) => State::Live,
            Some(device::State::Quiesced) => State::Quiesced,
            Some(device::State::FailIo) => State::FailIo,
        };
        observation.sort();
        observation
    }

    /// Whether the process that a ring belongs to can read the descriptors of a queue.
    fn has_mapped(&self, ring: RingId, queue: u16) -> bool {
        let process = self.rings[ring.index()].process;
        let mut own = self.threads.iter().filter(|thread| thread.process == process);
        own.any(|thread| {
            matches!(thread.program.as_deref(), Some(Program::Script(actor)) if actor.maps.contains(&queue))
        })
    }

    /// What an actor reads in a tag's descriptor and buffer when it was given a request.
    fn describe(&self, event: &mut Event, ring: RingId, (queue, tag): (u16, u16)) {
        let Some(device) = &self.device else { return };
        let request = device.tags[device.slot(queue, tag)].served();
        let Some(request) = request.and_then(|id| self.requests[id.index()].as_ref()) else {
            return;
        };
        if !self.has_mapped(ring, queue) {
            return;
        }
        let desc = Self::describe_request(request);
        event.request = Some(Delivered {
            op: desc.op().map_or(u8::MAX, blkproof_engine::uapi::RequestOp::encode),
            first: desc.start_sector,
            count: desc.nr_sectors,
            tag: None,
            unregistered: desc.flags().contains(RequestFlags::NEED_REG_BUF),
            fua: desc.flags().contains(RequestFlags::FUA),
            nounmap: desc.flags().contains(RequestFlags::NOUNMAP),
            integrity: self.metadata_of(request).is_some(),
            in_place: request.in_place,
        });
        let state = device.tags[device.slot(queue, tag)].state;
        let announced = matches!(state, TagState::Announced(_));
        let copied = device.copies() && request.in_place.is_none() && !announced;
        if copied && matches!(request.op, BlockOp::Write { .. }) {
            let buffer = self.buffers[self.buffer_index(queue, tag)];
            event.data = uniform(&buffer[..desc.nr_sectors as usize]);
        }
    }

    /// The tag that the command with this token was completed with.
    fn delivered(&self, ring: RingId, token: Token) -> Option<(u16, u16)> {
        let device = self.device.as_ref()?;
        let index = device.tags.iter().position(|slot| {
            slot.served().is_some()
                && slot.token == token
                && slot.task.is_some_and(|task| {
                    self.threads[task.index()].process == self.rings[ring.index()].process
                })
        })?;
        let depth = usize::from(device.depth);
        Some(((index / depth) as u16, (index % depth) as u16))
    }
}

/// The value that all sectors have.
pub(crate) fn uniform(sectors: &[Version]) -> Option<u8> {
    let first = sectors.first()?;
    (sectors.iter().all(|sector| sector == first)).then_some(*first as u8)
}

/// Where a control command that cannot move waits.
fn site(pc: Pc) -> Site {
    match pc {
        Pc::StartWait | Pc::RecoverWait => Site::Ready,
        Pc::StartZones => Site::Zones,
        Pc::StartScan => Site::Scan,
        Pc::SetParams
        | Pc::GetParams
        | Pc::StartLocked
        | Pc::StopLock
        | Pc::RecoverLocked
        | Pc::RecoverBegin
        | Pc::Resize
        | Pc::Quiesce
        | Pc::ShmemLock => Site::DeviceMutex,
        Pc::Add | Pc::DelLock => Site::GlobalMutex,
        Pc::StopMark | Pc::StopDead | Pc::TryStop => Site::OpenMutex,
        Pc::StopSync => Site::Writeback,
        Pc::StopIdle | Pc::StopDrain | Pc::ShmemFrozen => Site::Requests,
        Pc::DelWait => Site::Number,
        Pc::Queued
        | Pc::StartPublish
        | Pc::StopScan
        | Pc::StopPin
        | Pc::StopCancel
        | Pc::DelRemove => Site::Elsewhere,
    }
}

/// What `add` asks for.
pub fn added(op: &Op) -> Option<DevInfo> {
    let Op::Add { queues, depth, id, flags, more } = *op else { return None };
    Some(DevInfo {
        nr_hw_queues: queues,
        queue_depth: depth,
        state: more.state,
        io_desc_size: more.desc,
        max_io_buf_bytes: more.buffer.unwrap_or(BUFFER_BYTES),
        dev_id: id.map_or(DevId::AUTO, DevId),
        flags,
        ..DevInfo::default()
    })
}
