//! Record by record: what the server did is done, and what it was answered is compared.

use std::collections::BTreeMap;
use std::fmt;

use blkproof_engine::control::{Command, Reply};
use blkproof_engine::record::{Event, Record, Role, Thread};
use blkproof_engine::sys::{Call, Cqe, Exit, Ret, Sqe, Token, WorkerExit};
use blkproof_engine::uapi::{DevId, DevInfo, Errno, Features, IoDesc, KernelSeries, Tag};

use super::read::{Close, Process, Recording};
use super::stage::{self, Calm, Leaver, Player, Stage, Want};
use crate::kernel::control::Pc;
use crate::kernel::errno;
use crate::kernel::process::{SIGKILL, ThreadState};
use crate::kernel::ring::Entry;
use crate::run::{Run, Sabotage};
use crate::script::Actor as Recorded;
use crate::server::Program;
use crate::world::{ThreadId, World};

/// Steps of the story before a record that is refused.
const STORY: usize = 24;
/// A process that is not in the world.
const NOBODY: u32 = u32::MAX;

/// A trace that is a run of the model, consumed to its end.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Checked {
    /// The profile that it was held against.
    pub kernel: KernelSeries,
    /// Records, all of which were taken.
    pub records: usize,
    /// Requests that were delivered.
    pub requests: u64,
    /// Steps that the model took.
    pub steps: u64,
    /// The processes whose traces end in the middle: they were killed, and the traces are beginnings.
    pub cut: Vec<String>,
}

/// A record that the model does not allow.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Refused {
    /// The file.
    pub file: String,
    /// The line in it; 0 when it is what is missing at the end.
    pub line: usize,
    /// What stands there.
    pub record: String,
    /// Why not.
    pub why: String,
    /// What the model allows there.
    pub allowed: Vec<String>,
    /// The last visible steps before.
    pub story: Vec<String>,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}, line {}: not a run of the model: {}", self.file, self.line, self.why)?;
        writeln!(f, "  the record:\n    {}", self.record)?;
        if !self.allowed.is_empty() {
            writeln!(f, "  the model allows:")?;
            self.allowed.iter().try_for_each(|one| writeln!(f, "    {one}"))?;
        }
        writeln!(f, "  the last steps of the model:")?;
        self.story.iter().try_for_each(|one| writeln!(f, "    {one}"))
    }
}

impl std::error::Error for Refused {}

/// Whether a recording is a run of the model of this kernel.
///
/// # Errors
/// The first record that is not.
pub fn check(recording: &Recording, kernel: KernelSeries) -> Result<Checked, Box<Refused>> {
    check_planted(recording, kernel, None)
}

/// As [`check`], with an error planted in the model.
///
/// # Errors
/// As [`check`].
pub fn check_planted(
    recording: &Recording,
    kernel: KernelSeries,
    planted: Option<Sabotage>,
) -> Result<Checked, Box<Refused>> {
    let cpus = recording.header().cpus;
    let config = stage::config(kernel, if cpus == 0 { u16::MAX } else { cpus });
    let mut calm = Calm;
    let run = Run::new(&config, &mut calm, planted);
    Checker::new(recording, Stage::new(&config, run)).run(kernel)
}

/// A thread's records, and how far they were taken.
struct Stream<'t> {
    process: usize,
    thread: Thread,
    records: &'t [(usize, Record)],
    at: usize,
    /// Which player of the stage it is, once it was started.
    player: Option<usize>,
    /// The call that it is in.
    call: Option<Call>,
}

/// Why a record is refused.
struct Objection {
    why: String,
    allowed: Vec<String>,
}

impl Objection {
    fn new(why: impl Into<String>) -> Self {
        Self { why: why.into(), allowed: Vec::new() }
    }

    fn but(why: impl Into<String>, allowed: impl Into<Vec<String>>) -> Self {
        Self { why: why.into(), allowed: allowed.into() }
    }
}

type Verdict = Result<(), Objection>;

struct Checker<'t, 'c> {
    recording: &'t Recording,
    streams: Vec<Stream<'t>>,
    stage: Stage<'c>,
    /// The worker processes that were started.
    workers: usize,
    /// The world's process of each recorded one.
    leavers: BTreeMap<usize, usize>,
    /// Recorded process ids, and the world's.
    pids: BTreeMap<u32, u32>,
    requests: u64,
}

impl<'t, 'c> Checker<'t, 'c> {
    fn new(recording: &'t Recording, stage: Stage<'c>) -> Self {
        let mut streams = Vec::new();
        for (process, one) in recording.processes.iter().enumerate() {
            for (thread, records) in &one.threads {
                let (thread, records) = (*thread, records.as_slice());
                streams.push(Stream { process, thread, records, at: 0, player: None, call: None });
            }
        }
        Self {
            recording,
            streams,
            stage,
            workers: 0,
            leavers: BTreeMap::new(),
            pids: BTreeMap::new(),
            requests: 0,
        }
    }

    fn run(mut self, kernel: KernelSeries) -> Result<Checked, Box<Refused>> {
        self.complete()?;
        self.started(0, 0, self.recording.header().pid);
        while let Some(stream) = self.next() {
            let taken = self.take(stream).and_then(|()| self.sound());
            if let Err(objection) = taken {
                return Err(Box::new(self.refused(stream, objection)));
            }
            self.streams[stream].at += 1;
            self.over(self.streams[stream].process);
            self.stage.run.get_mut().forget_all_but(STORY);
        }
        self.end()?;
        let cut = self.recording.processes.iter().filter(|one| one.close == Close::Cut);
        Ok(Checked {
            kernel,
            records: self.recording.records(),
            requests: self.requests,
            steps: self.stage.steps,
            cut: cut.map(|one| one.name.clone()).collect(),
        })
    }

    /// A process's trace as a whole is refused.
    fn complain(&self, process: &Process, why: impl Into<String>) -> Refused {
        Refused {
            file: process.name.clone(),
            line: 0,
            record: "the end".into(),
            why: why.into(),
            allowed: Vec::new(),
            story: self.stage.run.borrow().last_steps(STORY),
        }
    }

    /// Nothing that was to be recorded may be missing.
    fn complete(&self) -> Result<(), Box<Refused>> {
        for process in &self.recording.processes {
            if let Close::Gap(why) = &process.close {
                return Err(self
                    .complain(process, format!("the trace is incomplete: {why}"))
                    .into());
            }
        }
        Ok(())
    }

    /// Everything must have been taken, and nothing may be missing.
    fn end(&self) -> Result<(), Box<Refused>> {
        let consumed: usize = self.streams.iter().map(|stream| stream.at).sum();
        assert_eq!(consumed, self.recording.records(), "a trace is consumed to its end");
        for (index, process) in self.recording.processes.iter().enumerate() {
            if !self.leavers.contains_key(&index) {
                return Err(self.complain(process, "nobody started this process").into());
            }
            let last = self
                .streams
                .iter()
                .find(|stream| stream.process == index && stream.thread == Thread::Main);
            let exits = |stream: &&Stream<'_>| {
                matches!(stream.records.last(), Some((_, Record(.., Event::Begin(Call::Exit(_))))))
            };
            if process.close == Close::Ended && last.as_ref().is_none_or(|one| !exits(one)) {
                return Err(self.complain(process, "the process ended without saying so").into());
            }
        }
        Ok(())
    }

    /// The thread whose record is next: the earliest, and what begins before what ends.
    fn next(&self) -> Option<usize> {
        let ends = |event: &Event| match event {
            Event::Begin(_)
            | Event::Sqe(_)
            | Event::Batch { .. }
            | Event::GaveBack
            | Event::Control { .. }
            | Event::Told { .. } => false,
            Event::End(_)
            | Event::Cqe(_)
            | Event::Empty
            | Event::Tag(_)
            | Event::GoesOn(_)
            | Event::Reply(_)
            | Event::Descriptor { .. }
            | Event::Heard { .. } => true,
        };
        let streams = self.streams.iter().enumerate();
        let heads = streams.filter_map(|(index, stream)| {
            let head = stream.records.get(stream.at).map(|(_, record)| record);
            head.map(|Record(at, _, event)| (*at, ends(event), index))
        });
        heads.min().map(|(.., index)| index)
    }

    /// No rule may be broken, by the server or by what the model makes of it.
    fn sound(&self) -> Verdict {
        match self.stage.run.borrow().broken() {
            None => Ok(()),
            Some((oracle, text)) => Err(Objection::new(format!("{oracle}: {text}"))),
        }
    }

    fn refused(&self, stream: usize, objection: Objection) -> Refused {
        let stream = &self.streams[stream];
        let (line, record) = &stream.records[stream.at];
        Refused {
            file: self.recording.processes[stream.process].name.clone(),
            line: *line,
            record: serde_json::to_string(record).unwrap_or_default(),
            why: objection.why,
            allowed: objection.allowed,
            story: self.stage.run.borrow().last_steps(STORY),
        }
    }

    // Who is there.

    /// A recorded process runs.
    fn started(&mut self, process: usize, parent_process: usize, pid: u32) {
        let parent = self.leavers.get(&parent_process).copied();
        let parent = parent.map(|leaver| self.stage.leavers[leaver].process);
        let name = match self.recording.processes[process].header.process {
            Role::Supervisor => "supervisor",
            Role::Worker => "worker",
        };
        let id = self.stage.act(|world, run| {
            let id = world.spawn_process(run, parent, name, recorded());
            // What a scan reads was recorded like all other requests.
            world.processes[id.index()].admin = false;
            id
        });
        self.pids.insert(pid, self.stage.world.processes[id.index()].pid);
        self.leavers.insert(process, self.stage.leavers.len());
        let exit = WorkerExit::Signal(SIGKILL);
        self.stage.leavers.push(Leaver { process: id, exit, over: false, gone: false });
        self.plays(process, Thread::Main);
        self.over(process);
    }

    /// The thread that the world has just got is a recorded one.
    fn plays(&mut self, process: usize, thread: Thread) {
        let id = ThreadId::from_index(self.stage.world.threads.len() - 1);
        let player = self.stage.players.len();
        self.stage.players.push(Player {
            thread: id,
            defers: false,
            wants: Vec::new(),
            told: Vec::new(),
            posted: 0,
            reaped: 0,
            returns: None,
            entered: false,
        });
        let same = |stream: &&mut Stream<'_>| (stream.process, stream.thread) == (process, thread);
        if let Some(stream) = self.streams.iter_mut().find(same) {
            stream.player = Some(player);
        }
    }

    /// Once all its records were taken, a process may end.
    fn over(&mut self, process: usize) {
        let mut own = self.streams.iter().filter(|stream| stream.process == process);
        if own.any(|stream| stream.at < stream.records.len()) {
            return;
        }
        let Some(&leaver) = self.leavers.get(&process) else { return };
        let main =
            self.streams.iter().find(|one| (one.process, one.thread) == (process, Thread::Main));
        let last = main.and_then(|stream| stream.records.last());
        let exit = match (&self.recording.processes[process].close, last) {
            (Close::Ended, Some((_, Record(.., Event::Begin(Call::Exit(exit)))))) => match exit {
                Exit::Finished => WorkerExit::Code(0),
                Exit::Failed(_) | Exit::Stuck { .. } => WorkerExit::Code(1),
            },
            _ => WorkerExit::Signal(self.signal()),
        };
        let leaver = &mut self.stage.leavers[leaver];
        (leaver.exit, leaver.over) = (exit, true);
    }

    /// The signal that ended a worker, as the supervisor was told.
    fn signal(&self) -> u8 {
        let supervisor = self.streams.iter().filter(|stream| stream.process == 0);
        let told =
            supervisor.flat_map(|stream| stream.records).find_map(|(_, record)| match record.2 {
                Event::End(Ret::Exited(WorkerExit::Signal(signal))) => Some(signal),
                _ => None,
            });
        told.unwrap_or(SIGKILL)
    }

    // The records.

    fn take(&mut self, stream: usize) -> Verdict {
        let one = &self.streams[stream];
        let record = &one.records[one.at].1;
        let Some(player) = one.player else {
            return Err(Objection::new("nobody started this thread"));
        };
        match &record.2 {
            Event::Begin(call) => self.begins(stream, player, *call),
            Event::End(ret) => self.ends(stream, player, *ret),
            Event::Sqe(sqe) => self.pushes(player, *sqe),
            Event::Control { sequence, command } => {
                self.commands(stream, player, *sequence, command)
            }
            Event::Batch { op, elements } => {
                let thread = self.stage.players[player].thread;
                let queue = self.stage.world.threads[thread.index()].queue;
                let mut elements = elements.clone();
                for element in &mut elements {
                    let (tag, result) = (element.tag, element.result);
                    element.result = self.stage.result(queue, tag.0, result);
                }
                self.push(thread, Entry::Batch(*op, elements))
            }
            Event::Tag(tag) => self.is_told(player, *tag),
            Event::GaveBack => {
                let thread = self.stage.players[player].thread;
                if let Some(ring) = self.stage.ring(thread) {
                    self.stage.world.rings[ring.index()].provided += 1;
                }
                Ok(())
            }
            Event::GoesOn(true) => Ok(()),
            Event::GoesOn(false) => {
                Err(Objection::new("a completion that tells of tags never ends its command"))
            }
            Event::Cqe(cqe) => self.reaps(player, *cqe),
            Event::Empty => self.finds_nothing(player),
            Event::Reply(reply) => self.reads_reply(player, *reply),
            Event::Descriptor { tag, desc } => {
                self.requests += 1;
                let thread = self.stage.players[player].thread;
                let queue = self.stage.world.threads[thread.index()].queue;
                let known = self.stage.described(queue, tag.0);
                if known == Some(*desc) {
                    return Ok(());
                }
                let allowed = known.map(|known| format!("{known:?}"));
                Err(Objection::but(
                    format!("tag {} of queue {queue} does not hold this request", tag.0),
                    allowed.into_iter().collect::<Vec<_>>(),
                ))
            }
            // Of what processes say to each other the kernel knows nothing.
            Event::Heard { .. } | Event::Told { .. } => Ok(()),
        }
    }

    /// The records of a stream that are still to come, after the present one.
    fn ahead(&self, stream: usize) -> impl Iterator<Item = &'t Event> + Clone + use<'t, 'c> {
        let Stream { records, at, .. } = self.streams[stream];
        records[at + 1..].iter().map(|(_, record)| &record.2)
    }

    fn begins(&mut self, stream: usize, player: usize, call: Call) -> Verdict {
        if self.streams[stream].call.replace(call).is_some() {
            return Err(Objection::new("the thread is in another call"));
        }
        let thread = self.stage.players[player].thread;
        let answer = self.ahead(stream).find_map(|event| match event {
            Event::End(ret) => Some(*ret),
            _ => None,
        });
        let process = self.streams[stream].process;
        match call {
            Call::Enter { submit, wait } => {
                self.enters(stream, player, (submit, wait), answer);
                return Ok(());
            }
            Call::SetupRing(spec) => {
                if answer == Some(Ret::Done) {
                    self.stage.players[player].defers = stage::defers(spec.mode);
                    self.stage.act(|world, _| world.setup_ring(thread, spec));
                }
                return Ok(());
            }
            Call::SpawnWorker { .. } => {
                let Some(Ret::Spawned(pid)) = answer else { return Ok(()) };
                let next = self.recording.processes.iter().enumerate();
                let mut next = next.filter(|(_, one)| one.header.process == Role::Worker);
                let Some((worker, _)) = next.find(|(_, one)| one.header.pid == pid) else {
                    return Err(Objection::new(format!("there is no trace of worker {pid}")));
                };
                self.workers += 1;
                self.started(worker, process, pid);
                let parent = self.stage.world.threads[thread.index()].process;
                let child = self.stage.leavers[self.leavers[&worker]].process;
                self.stage.world.processes[parent.index()].attached = Some(child);
                return Ok(());
            }
            Call::SpawnQueue { config } => {
                if answer == Some(Ret::Done) {
                    let process_id = self.stage.world.threads[thread.index()].process;
                    let name = format!("queue {}", config.id.0);
                    self.stage.act(|world, run| {
                        world.spawn_thread(run, process_id, &name, config.id.0, recorded());
                    });
                    self.plays(process, Thread::Queue(config.id));
                }
                return Ok(());
            }
            // The process ends when all of its threads' records were taken.
            Call::Exit(_) if self.streams[stream].thread == Thread::Main => return Ok(()),
            Call::Exit(exit) => {
                self.stage.act(|world, run| world.thread_exits(run, thread, exit));
                return Ok(());
            }
            Call::Sleep { .. } => return Ok(()),
            Call::AttachWorker { .. }
            | Call::KillWorker
            | Call::ReapWorker
            | Call::AttachSupervisor { .. }
            | Call::StopSupervisor
            | Call::AskSupervisor { .. }
            | Call::FitStore { .. }
            | Call::FindNode { .. }
            | Call::OpenChar
            | Call::MapQueue { .. } => {}
        }
        let call = match call {
            Call::AttachWorker { pid } => Call::AttachWorker { pid: self.pid(pid) },
            Call::AttachSupervisor { pid } => Call::AttachSupervisor { pid: self.pid(pid) },
            same => same,
        };
        self.stage.world.threads[thread.index()].state = ThreadState::Calling(call);
        Ok(())
    }

    /// One step of the kernel's own, or of what ends. That of `prefer` comes first.
    fn advance(&mut self, prefer: Option<u32>) -> bool {
        if self.stage.is_quiescing() {
            self.foresees();
        }
        self.stage.advance(prefer)
    }

    /// What queues are given next, tag by tag, before they hear of its abort; and of which tags they hear that.
    fn foresees(&mut self) {
        let (mut given, mut due) = (Vec::new(), Vec::new());
        for stream in &self.streams {
            let Some(player) = stream.player else { continue };
            let thread = self.stage.players[player].thread;
            let mut tags = Vec::new();
            let mut last = None;
            for (_, Record(.., event)) in &stream.records[stream.at..] {
                match event {
                    Event::Cqe(Cqe { token: Token::Io(tag), res }) => {
                        if *res == -errno::ENODEV {
                            due.push((thread, tag.0));
                        }
                        last = None;
                        if (0..=1).contains(res) && !tags.contains(tag) {
                            last = Some(given.len());
                            given.push((thread, tag.0, None));
                        }
                        tags.push(*tag);
                    }
                    Event::Descriptor { desc, .. } => {
                        if let Some(at) = last.take() {
                            given[at].2 = Some(*desc);
                        }
                    }
                    _ => {}
                }
            }
        }
        (self.stage.on_its_way, self.stage.due) = (given, due);
    }

    fn pid(&self, recorded: u32) -> u32 {
        self.pids.get(&recorded).copied().unwrap_or(NOBODY)
    }

    fn enters(
        &mut self,
        stream: usize,
        player: usize,
        (submit, wait): (u32, u32),
        answer: Option<Ret>,
    ) {
        let (wants, told) = self.wants(stream);
        let one = &mut self.stage.players[player];
        let thread = one.thread;
        (one.wants, one.reaped, one.returns, one.entered) = (wants, 0, answer, true);
        one.told = told;
        let (left, wait) = match answer {
            Some(Ret::Submitted(taken)) if taken < submit => (taken, 0),
            Some(Ret::Failed(_)) => (0, wait),
            _ => (submit, wait),
        };
        let refused = matches!(answer, Some(Ret::Failed(errno)) if errno != Errno::EINTR);
        if refused {
            // The kernel may refuse any `enter` before it looks at what is submitted.
            self.stage.players[player].entered = false;
            self.stage.world.threads[thread.index()].state =
                ThreadState::Ready(answer.unwrap_or(Ret::Done));
            return;
        }
        self.before_cancel(player);
        self.before_info(stream, player);
        self.stage.act(|world, run| world.enter(run, thread, left, wait));
        self.stage.pump();
    }

    /// What a thread is going to reap before it enters again.
    fn wants(&self, stream: usize) -> (Vec<Want>, Vec<Vec<(u16, IoDesc)>>) {
        let mut wants = Vec::<Want>::new();
        let mut told = Vec::new();
        let mut returned = false;
        for (nth, event) in self.ahead(stream).enumerate() {
            match event {
                Event::End(_) => returned = true,
                Event::Begin(Call::Enter { .. }) if returned => break,
                Event::Cqe(cqe) if cqe.token == Token::Tags && cqe.res > 0 => {
                    wants.push(Want { cqe: *cqe, desc: None, told: Some(told.len()) });
                    told.push(Vec::new());
                }
                Event::Cqe(cqe) => wants.push(Want { cqe: *cqe, desc: None, told: None }),
                Event::Tag(tag) => {
                    let later = self.ahead(stream).skip(nth + 1);
                    let desc = later.clone().find_map(|event| match event {
                        Event::Descriptor { tag: of, desc } if of == tag => Some(*desc),
                        _ => None,
                    });
                    if let Some(list) = told.last_mut() {
                        list.push((tag.0, desc.unwrap_or_default()));
                    }
                }
                Event::Descriptor { tag, desc } => {
                    let own = |want: &&mut Want| want.cqe.token == Token::Io(*tag);
                    if let Some(want) = wants.last_mut().filter(|want| own(want)) {
                        want.desc = Some(*desc);
                    }
                }
                _ => {}
            }
        }
        (wants, told)
    }

    /// How far a command is when it is cancelled, the answer to the cancellation tells.
    fn before_cancel(&mut self, player: usize) {
        let Player { thread, ref wants, .. } = self.stage.players[player];
        let cancelled = wants.iter().find(|want| want.cqe.token == Token::Cancel);
        let Some(res) = cancelled.map(|want| want.cqe.res) else { return };
        let Some(ring) = self.stage.ring(thread) else { return };
        let sequence =
            self.stage.world.rings[ring.index()].sq.iter().find_map(|entry| match entry {
                Entry::Plain(Sqe::CancelControl { sequence }) => Some(*sequence),
                _ => None,
            });
        let at = |world: &World| {
            let mut controls = world.controls.iter().flatten();
            let own = controls.find(|one| one.ring == ring && Some(one.sequence) == sequence);
            own.map(|control| control.pc)
        };
        let far_enough = |world: &World| match at(world) {
            None => true,
            Some(pc) => res == 0 || (res == -errno::EALREADY && pc != Pc::Queued),
        };
        while !far_enough(&self.stage.world) && self.advance(sequence) {}
    }

    /// How far the kernel is when it is asked for a device's state, the answer tells.
    fn before_info(&mut self, stream: usize, player: usize) {
        let Some(ring) = self.stage.ring(self.stage.players[player].thread) else { return };
        let asked = self.stage.world.rings[ring.index()].sq.iter().find_map(|entry| match entry {
            Entry::Control(sequence, Command::GetDevInfo(_)) => Some(*sequence),
            _ => None,
        });
        let Some(asked) = asked else { return };
        let mut later = self.ahead(stream).skip_while(
            |event| !matches!(event, Event::Cqe(cqe) if cqe.token == Token::Control(asked)),
        );
        let Some(Event::Reply(Reply::DevInfo(told))) = later.nth(1) else { return };
        let told = self.seen_of(*told, true);
        let differs = |checker: &Self| {
            let world = &checker.stage.world;
            let known = world.device.as_ref().map(|device| world.dev_info(device));
            known.map(|known| checker.seen_of(known, false)) != Some(told)
        };
        while differs(self) && self.advance(None) {}
    }

    fn ends(&mut self, stream: usize, player: usize, ret: Ret) -> Verdict {
        let Some(call) = self.streams[stream].call.take() else {
            return Err(Objection::new("the thread is in no call"));
        };
        let thread = self.stage.players[player].thread;
        match call {
            Call::Enter { .. } => self.returns(player, ret),
            Call::SetupRing(_) | Call::SpawnQueue { .. } => match ret {
                // For want of something.
                Ret::Done | Ret::Failed(_) => Ok(()),
                _ => Err(Objection::new("no such answer")),
            },
            Call::SpawnWorker { .. } => match ret {
                Ret::Spawned(_) | Ret::Failed(_) => Ok(()),
                _ => Err(Objection::new("no such answer")),
            },
            Call::Sleep { .. } => Ok(()),
            Call::Exit(_) => Err(Objection::new("nobody returns from an exit")),
            Call::AttachWorker { .. }
            | Call::KillWorker
            | Call::ReapWorker
            | Call::AttachSupervisor { .. }
            | Call::StopSupervisor
            | Call::AskSupervisor { .. }
            | Call::FitStore { .. }
            | Call::FindNode { .. }
            | Call::OpenChar
            | Call::MapQueue { .. } => {
                if is_scarcity(&call, ret) {
                    self.stage.world.threads[thread.index()].state = ThreadState::Ready(ret);
                    return Ok(());
                }
                self.answers(thread, ret)
            }
        }
    }

    /// A call that the world carries out must answer this.
    fn answers(&mut self, thread: ThreadId, ret: Ret) -> Verdict {
        let mut others = Vec::new();
        loop {
            let before = (self.stage.world.clone(), self.stage.run.get_mut().mark());
            self.stage.act(|world, run| world.thread_step(run, thread));
            match self.stage.world.threads[thread.index()].state {
                ThreadState::Ready(answer) if answer == ret => {
                    self.stage.pump();
                    return Ok(());
                }
                ThreadState::Ready(other) => {
                    let other = format!("{other:?}");
                    if !others.contains(&other) {
                        others.push(other);
                    }
                }
                _ => {}
            }
            self.stage.back_to(before);
            if !self.advance(None) {
                return Err(Objection::but("the call answers something else", others));
            }
        }
    }

    fn returns(&mut self, player: usize, ret: Ret) -> Verdict {
        let thread = self.stage.players[player].thread;
        loop {
            self.stage.pump();
            if !self.stage.players[player].entered {
                break;
            }
            if !self.advance(self.wanted_command(player)) {
                let Player { ref wants, reaped, .. } = self.stage.players[player];
                let ready: Vec<Cqe> = self.stage.ready(thread).copied().collect();
                let missing = wants.get(reaped + ready.len());
                let why = match missing {
                    Some(Want { cqe, desc, told: _ }) => {
                        let of = desc.map_or(String::new(), |desc| format!(" of {desc:?}"));
                        format!("the thread cannot return: the kernel never posts {cqe:?}{of}")
                    }
                    None => "the thread cannot return".to_owned(),
                };
                let mut allowed: Vec<String> = ready.iter().map(|cqe| format!("{cqe:?}")).collect();
                allowed.extend(self.tag_states(player));
                allowed.extend(self.stage.waits());
                return Err(Objection::but(why, allowed));
            }
        }
        match self.stage.world.threads[thread.index()].state {
            ThreadState::Ready(answer) if answer == ret => Ok(()),
            ThreadState::Ready(answer) => {
                Err(Objection::but("`enter` returns something else", [format!("{answer:?}")]))
            }
            _ => Err(Objection::new("the thread is not there")),
        }
    }

    /// The tags that a thread waits for, as the model has them.
    fn tag_states(&self, player: usize) -> Vec<String> {
        let Player { thread, ref wants, .. } = self.stage.players[player];
        let queue = self.stage.world.threads[thread.index()].queue;
        let Some(device) = &self.stage.world.device else { return vec!["no device".into()] };
        let tags = wants.iter().filter_map(|want| match want.cqe.token {
            Token::Io(Tag(tag)) if queue < device.queues && tag < device.depth => Some(tag),
            _ => None,
        });
        tags.take(4)
            .map(|tag| {
                let state = device.tags[device.slot(queue, tag)].state;
                format!("tag {tag} of queue {queue} is {state:?}")
            })
            .collect()
    }

    /// The control command that a thread waits for first.
    fn wanted_command(&self, player: usize) -> Option<u32> {
        let wants = self.stage.players[player].wants.iter();
        wants.clone().find_map(|want| match want.cqe.token {
            Token::Control(sequence) => Some(sequence),
            _ => None,
        })
    }

    fn pushes(&mut self, player: usize, sqe: Sqe) -> Verdict {
        let thread = self.stage.players[player].thread;
        let queue = self.stage.world.threads[thread.index()].queue;
        let sqe = self.stage.commit(queue, sqe);
        self.push(thread, Entry::Plain(sqe))
    }

    fn push(&mut self, thread: ThreadId, entry: Entry) -> Verdict {
        let Some(ring) = self.stage.ring(thread) else {
            return Err(Objection::new("the thread has no ring"));
        };
        self.stage.world.rings[ring.index()].sq.push_back(entry);
        Ok(())
    }

    /// A completion told of this tag.
    fn is_told(&mut self, player: usize, tag: Tag) -> Verdict {
        let thread = self.stage.players[player].thread;
        let Some(ring) = self.stage.ring(thread) else {
            return Err(Objection::new("the thread has no ring"));
        };
        let last = &mut self.stage.world.rings[ring.index()].lists.last;
        match last.as_mut().filter(|tags| !tags.is_empty()).map(|tags| tags.remove(0)) {
            Some(known) if known == tag.0 => Ok(()),
            known => Err(Objection::but("the kernel tells of another tag", [format!("{known:?}")])),
        }
    }

    fn commands(
        &mut self,
        stream: usize,
        player: usize,
        sequence: u32,
        command: &Command,
    ) -> Verdict {
        let thread = self.stage.players[player].thread;
        let command = match command {
            // Which number is free is not the world's to say: it has one device.
            Command::AddDev(info) if info.dev_id == DevId::AUTO => {
                let chosen = self.ahead(stream).find_map(|event| match event {
                    Event::Reply(Reply::DevInfo(info)) => Some(info.dev_id),
                    _ => None,
                });
                Command::AddDev(DevInfo { dev_id: chosen.unwrap_or(DevId::AUTO), ..*info })
            }
            Command::StartDev(id, pid) => Command::StartDev(*id, self.pid(*pid)),
            Command::EndRecovery(id, pid) => Command::EndRecovery(*id, self.pid(*pid)),
            same => same.clone(),
        };
        self.push(thread, Entry::Control(sequence, command))
    }

    fn reaps(&mut self, player: usize, cqe: Cqe) -> Verdict {
        let Player { thread, defers, .. } = self.stage.players[player];
        let Some(ring) = self.stage.ring(thread) else {
            return Err(Objection::new("the thread has no ring"));
        };
        let found = |stage: &Stage<'_>| {
            let mut ready = stage.ready(thread);
            if defers {
                // It posts them by itself: in this order.
                return ready.next().is_some_and(|first| agree(first, &cqe)).then_some(0);
            }
            ready.position(|one| agree(one, &cqe))
        };
        loop {
            self.stage.pump();
            if let Some(at) = found(&self.stage) {
                let ring = &mut self.stage.world.rings[ring.index()];
                ring.cq.remove(at);
                if cqe.token == Token::Tags && cqe.res >= 0 {
                    ring.lists.last = ring.lists.told.pop_front();
                }
                self.stage.players[player].reaped += 1;
                return Ok(());
            }
            if defers {
                break;
            }
            let want = Want { cqe, desc: None, told: None };
            if self.stage.supply(player, want) {
                continue;
            }
            let sequence = match cqe.token {
                Token::Control(sequence) => Some(sequence),
                _ => None,
            };
            if !self.advance(sequence) {
                break;
            }
        }
        let mut allowed: Vec<String> =
            self.stage.ready(thread).map(|one| format!("{one:?}")).collect();
        allowed.extend(self.stage.waits());
        Err(Objection::but("the kernel does not post this completion", allowed))
    }

    fn finds_nothing(&mut self, player: usize) -> Verdict {
        let Player { thread, defers, .. } = self.stage.players[player];
        if !defers || self.stage.ready(thread).len() == 0 {
            return Ok(());
        }
        let there: Vec<String> = self.stage.ready(thread).map(|one| format!("{one:?}")).collect();
        Err(Objection::but("there is something to reap", there))
    }

    fn reads_reply(&mut self, player: usize, reply: Reply) -> Verdict {
        let thread = self.stage.players[player].thread;
        let known = self.stage.ring(thread).map(|ring| self.stage.world.rings[ring.index()].reply);
        match (reply, known) {
            (Reply::Features(features), _) if features == self.recording.header().features => {
                Ok(())
            }
            (Reply::Features(_), _) => {
                let header = self.recording.header().features;
                Err(Objection::but("the header says something else", [header.to_string()]))
            }
            (Reply::DevInfo(info), Some(Reply::DevInfo(known))) => {
                let same = self.seen_of(info, true) == self.seen_of(known, false);
                let known = format!("{known:?}");
                if same { Ok(()) } else { Err(Objection::but("the device is another", [known])) }
            }
            (Reply::Nothing, _) => Ok(()),
            (Reply::Params(told), Some(Reply::Params(known))) => {
                let same = told.dev_sectors == known.dev_sectors;
                let known = format!("{known:?}");
                if same {
                    Ok(())
                } else {
                    Err(Objection::but("the parameters are others", [known]))
                }
            }
            (Reply::DevInfo(_) | Reply::Params(_), _) => {
                Err(Objection::new("no command wrote this"))
            }
        }
    }

    /// What the model has a say on.
    fn seen_of(&self, info: DevInfo, recorded: bool) -> DevInfo {
        const MODELLED: Features = Features::USER_RECOVERY
            .union(Features::USER_RECOVERY_REISSUE)
            .union(Features::USER_RECOVERY_FAIL_IO)
            .union(Features::QUIESCE)
            .union(Features::NEED_GET_DATA)
            .union(Features::USER_COPY)
            .union(Features::SUPPORT_ZERO_COPY)
            .union(Features::AUTO_BUF_REG)
            .union(Features::BATCH_IO);
        let pid = u32::try_from(info.ublksrv_pid).unwrap_or(NOBODY);
        let pid = if recorded && pid != NOBODY { self.pid(pid) } else { pid };
        DevInfo {
            ublksrv_pid: pid.cast_signed(),
            flags: Features(info.flags.0 & MODELLED.0),
            // What a kernel makes of the rest says nothing about the protocol.
            io_desc_size: 0,
            ublksrv_flags: 0,
            owner_uid: 0,
            owner_gid: 0,
            ..info
        }
    }
}

/// A thread that does what a trace says.
fn recorded() -> Program {
    let mut actor = Recorded::default();
    actor.reaps = true;
    Program::Script(actor)
}

/// Whether a completion is the one that was recorded. What a poll found is not the model's to say.
fn agree(model: &Cqe, recorded: &Cqe) -> bool {
    let polled =
        stage::is_outside(model.token) || matches!(model.token, Token::Worker | Token::Supervisor);
    model.token == recorded.token
        && (model.res == recorded.res || polled && model.res > 0 && recorded.res > 0)
}

/// Whether a call failed for want of something, or of a node that udev has yet to make.
fn is_scarcity(call: &Call, ret: Ret) -> bool {
    let Ret::Failed(errno) = ret else { return false };
    let scarce = [Errno::ENOMEM, Errno::EINTR, Errno(errno::EMFILE as u16)].contains(&errno);
    match call {
        Call::OpenChar => scarce || [Errno::ENOENT, Errno::EACCES].contains(&errno),
        Call::MapQueue { .. } => scarce || errno == Errno::EAGAIN,
        _ => false,
    }
}

impl Process {
    /// Its name in a message.
    pub fn role(&self) -> &'static str {
        match self.header.process {
            Role::Supervisor => "supervisor",
            Role::Worker => "worker",
        }
    }
}
