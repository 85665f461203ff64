//! Scripts on a real kernel: a conductor, and a process for each process of the script.
//!
//! The conductor cues one step after another. After each it waits until everything has come to rest: nothing completes any more, and all
//! threads of the actors, and the kernel's that work for them, are asleep in several samples. Then it notes what there is to see.

mod actor;
mod cue;
mod ear;
mod os;
mod waits;

use std::collections::BTreeMap;
use std::ffi::CStr;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command as Program, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use blkproof_engine::control::{Command, Kind, PAYLOAD_BYTES_MAX, Reply};
use blkproof_engine::uapi::{ControlOp, CtrlCmd, DevId, DevInfo, DeviceState};
use blkproof_sim::script::{
    CONTROLLER, Event, Observation, Op, PathName, RingKind, SHARED_PAGES, Script, Site, State,
    Step, Trace,
};
use io_uring::squeue;
use rustix::fs::MemfdFlags;
use rustix::process::{Pid, Signal, WaitOptions};
use rustix::system::{delete_module, init_module};
use rustix::thread::{CpuSet, MembarrierCommand, membarrier, sched_setaffinity};

use self::cue::{Answer, Cue, Device};
use self::ear::{Ear, Heard};
use self::os::{Memory, Payload, Reader, Ring, Submitter, ends};
use self::waits::{Births, Sleep, Threads, Workers};
use super::program::{Checked, broken};
use super::scenario::Doing;
use crate::image;

pub(super) use actor::{idle, run as actor};

/// Bytes in a page.
const PAGE: u64 = 4096;
/// Bytes in a sector.
const SECTOR: usize = 512;

/// Between two samples.
const SAMPLE: Duration = Duration::from_millis(10);
/// Samples in which everything must be asleep. Nothing may complete from the first of them to the last.
const SAMPLES: u32 = 3;
/// Longest time that a kernel worker counts as being in the middle of something; the second is for a script that has seen one
/// that goes on for ever.
const WORK: [Duration; 2] = [Duration::from_secs(2), Duration::from_millis(600)];
/// Longest time to come to rest.
const REST: Duration = Duration::from_secs(5);
/// Longest time for a process to answer that has nothing else to do.
const PROMPT: Duration = Duration::from_secs(5);
/// Says to a process of actors that it keeps its privileges.
const ADMIN: &str = "--admin";
/// What is in the page cache is written back when a script says so, and not by itself after so many hundredths of a second. With 0 6.12 does that
/// at once.
const NEVER_CS: &str = "360000";
/// The scheduler that scripts load.
const SCHEDULER: &CStr = c"mq_deadline";
/// Numbers of devices that scripts come by.
const NUMBERS: u32 = 4;
/// Longest time to remove what a script leaves behind.
const SWEEP: Duration = Duration::from_secs(4);

/// A script was carried out.
pub(super) struct Played {
    /// What was observed.
    pub(super) trace: Trace,
    /// What may help to understand it.
    pub(super) notes: Vec<String>,
    /// Nothing of it is left: the next script finds a pristine kernel.
    pub(super) clean: bool,
}

/// Carries out a script.
pub(super) fn play(script: &Script, doing: &Doing) -> Checked<Played> {
    let attempt = || -> io::Result<Played> {
        let mut stage = Stage::new()?;
        let mut trace = Trace::default();
        for (number, step) in (1..).zip(&script.steps) {
            doing.now(format!("step {number}: {step}"));
            let observed = stage.cue(number, step).and_then(|()| stage.rest(number));
            match observed {
                Ok(observation) => trace.observations.push(observation),
                Err(error) => {
                    stage.notes.push(format!("step {number} was not carried out: {error}"));
                    break;
                }
            }
        }
        doing.now("removing what the script left");
        let clean = stage.sweep();
        Ok(Played { trace, notes: stage.notes, clean })
    };
    attempt().or_else(|error| broken(format!("carry out the script: {error}")))
}

/// A process of actors.
#[expect(
    clippy::struct_excessive_bools,
    reason = "each says what the process does not do any more"
)]
struct Company {
    /// None: it was forked by another one.
    child: Option<Child>,
    pid: i32,
    ear: Ear,
    threads: u16,
    /// Its threads, as the kernel shows them.
    sampled: Threads,
    /// It was killed, or its first thread returned.
    leaves: bool,
    /// It is about to execute another program.
    execs: bool,
    /// It does nothing but sleep, and has nothing to say.
    idle: bool,
    /// It is stopped.
    halted: bool,
    /// Nothing is left of it.
    gone: bool,
}

/// An actor.
struct Part {
    company: usize,
    thread: u16,
    tid: i32,
    /// The step that it is at.
    busy: Option<u16>,
}

struct Stage {
    companies: Vec<Company>,
    parts: BTreeMap<String, Part>,
    device: Option<Device>,
    /// The memory that all processes share.
    shared: File,
    /// Control commands that have not finished: by step, who submitted it and what.
    controls: BTreeMap<u16, (usize, i32, Op)>,
    /// The steps of busy actors.
    ops: BTreeMap<u16, Op>,
    events: Vec<Event>,
    inspector: Inspector,
    births: Births,
    workers: Workers,
    /// How long a kernel worker is waited for.
    work: Duration,
    notes: Vec<String>,
    /// A scheduler's module was loaded.
    scheduler: bool,
    /// There is a ring that a thread of the kernel submits for.
    poller: bool,
}

impl Stage {
    fn new() -> io::Result<Self> {
        // Conductor and actors wake each other all the time, which is cheap on one CPU only.
        let mut one = CpuSet::new();
        one.set(0);
        sched_setaffinity(None, &one)?;
        fs::write("/proc/sys/vm/dirty_writeback_centisecs", NEVER_CS)?;
        let shared = File::from(rustix::fs::memfd_create("shared", MemfdFlags::CLOEXEC)?);
        shared.set_len(u64::from(SHARED_PAGES) * PAGE)?;
        let mut stage = Self {
            companies: Vec::new(),
            parts: BTreeMap::new(),
            device: None,
            shared,
            controls: BTreeMap::new(),
            ops: BTreeMap::new(),
            events: Vec::new(),
            inspector: Inspector::new()?,
            births: Births::watch()?,
            workers: Workers::watch()?,
            work: WORK[0],
            notes: Vec::new(),
            scheduler: false,
            poller: false,
        };
        stage.process(CONTROLLER, false)?;
        Ok(stage)
    }

    fn process(&mut self, name: &str, admin: bool) -> io::Result<()> {
        let (ours, theirs) = UnixStream::pair()?;
        let child = Program::new("/init")
            .arg("actor")
            .args(admin.then_some(ADMIN))
            .arg(format!("/proc/{}/fd/{}", std::process::id(), self.shared.as_raw_fd()))
            .env_clear()
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .spawn()?;
        let pid = child.id() as i32;
        self.companies.push(Company::new(Some(child), pid, Ear::new(ours)));
        self.enter(name, self.companies.len() - 1)
    }

    fn enter(&mut self, name: &str, company: usize) -> io::Result<()> {
        let index = company;
        let company = &mut self.companies[index];
        let thread = company.threads;
        company.threads += 1;
        company.send(&Cue::Enter { thread })?;
        match company.ear.listen(PROMPT) {
            Heard::Answer(Answer::Entered { tid, .. }) => {
                let part = Part { company: index, thread, tid, busy: None };
                self.parts.insert(name.to_owned(), part);
                Ok(())
            }
            other => Err(io::Error::other(format!("{name} does not enter: {other:?}"))),
        }
    }

    fn cue(&mut self, number: u16, step: &Step) -> io::Result<()> {
        match step {
            Step::Process { name, admin } => self.process(name, *admin),
            Step::Thread { name, of } => {
                let company = self.part(of)?.company;
                self.enter(name, company)
            }
            Step::Kill { actor } => {
                let company = self.part(actor)?.company;
                let company = &mut self.companies[company];
                company.leaves = true;
                company.signal(Signal::KILL)
            }
            Step::Fork { name, of, map } => self.fork(number, name, of, *map),
            Step::Exec { actor } => {
                let Part { company, thread, .. } = *self.part(actor)?;
                self.parts.retain(|name, part| part.company != company || name == actor);
                self.controls.retain(|_, (by, _, _)| *by != company);
                self.companies[company].execs = true;
                self.companies[company].send(&Cue::Exec { thread })
            }
            Step::Halt { actor } => {
                let company = self.part(actor)?.company;
                self.companies[company].halted = true;
                self.companies[company].signal(Signal::STOP)
            }
            Step::Continue { actor } => {
                let company = self.part(actor)?.company;
                self.companies[company].halted = false;
                self.companies[company].signal(Signal::CONT)
            }
            Step::Sleep { ms } => {
                thread::sleep(Duration::from_millis(u64::from(*ms)));
                Ok(())
            }
            Step::Scheduler => {
                let module = fs::read(image::SCHEDULER)?;
                self.scheduler = true;
                Ok(init_module(&module, c"")?)
            }
            Step::Do { actor, op } => {
                let server = match op.bare() {
                    Op::Start { server: Some(server) }
                    | Op::EndRecovery { server: Some(server) } => {
                        self.companies[self.part(server)?.company].pid as u32
                    }
                    _ => 0,
                };
                let device = self.device.unwrap_or_default();
                let part = self.parts.get_mut(actor).ok_or_else(|| nobody(actor))?;
                if let Some(busy) = part.busy {
                    return Err(io::Error::other(format!(
                        "{actor} is still busy with step {busy}"
                    )));
                }
                let company = &mut self.companies[part.company];
                if *op == Op::Exit {
                    company.leaves = part.thread == 0;
                } else {
                    part.busy = Some(number);
                    self.ops.insert(number, op.clone());
                }
                self.poller |= matches!(op, Op::Ring(asked) if asked.kind == RingKind::Sqpoll);
                if op.is_control() {
                    self.controls.insert(number, (part.company, part.tid, op.clone()));
                }
                let (thread, op) = (part.thread, op.to_string());
                company.send(&Cue::Act { thread, step: number, op, device, server })
            }
        }
    }

    /// A process of actors has a child that does nothing.
    fn fork(&mut self, step: u16, name: &str, of: &str, map: Option<u16>) -> io::Result<()> {
        let device = self.device.unwrap_or_default();
        let company = self.part(of)?.company;
        self.companies[company].send(&Cue::Fork { map, device })?;
        match self.companies[company].ear.listen(PROMPT) {
            Heard::Answer(Answer::Forked { pid, result }) => {
                // It never says anything.
                let (ear, _) = UnixStream::pair()?;
                let child = Company { idle: true, ..Company::new(None, pid, Ear::new(ear)) };
                self.companies.push(child);
                let company = self.companies.len() - 1;
                self.parts
                    .insert(name.to_owned(), Part { company, thread: 0, tid: pid, busy: None });
                self.events.push(Event {
                    step,
                    result,
                    request: None,
                    data: None,
                    told: String::new(),
                });
                Ok(())
            }
            other => Err(io::Error::other(format!("{of} does not fork: {other:?}"))),
        }
    }

    fn part(&self, name: &str) -> io::Result<&Part> {
        self.parts.get(name).ok_or_else(|| nobody(name))
    }

    /// Waits until nothing moves any more, and notes what there is to see.
    fn rest(&mut self, number: u16) -> io::Result<Observation> {
        let begun = Instant::now();
        let (mut calm, mut caught_up) = (0, false);
        let waits = loop {
            thread::sleep(SAMPLE);
            let over = begun.elapsed() > REST;
            let mut busy = self.reap()? || self.is_restless(begun.elapsed());
            // To ask everybody takes longer than to look at them. What is heard at the first calm sample came before it.
            if over || !busy && (calm == 0 || calm + 1 >= SAMPLES) {
                busy |= self.hear()? && calm > 0;
            }
            calm = if busy { 0 } else { calm + 1 };
            caught_up &= !busy;
            if over {
                self.notes.push(format!("step {number}: it does not come to rest"));
            }
            if calm < SAMPLES && !over {
                continue;
            }
            if self.workers.are_busy() {
                if begun.elapsed() < self.work {
                    calm = 0;
                    continue;
                }
                self.work = WORK[1];
            }
            // What waits at no place that has a name goes on by itself.
            let waits = self.waits();
            let named = waits.iter().all(|(_, sleep, op)| sleep.site(op) != Site::Elsewhere);
            // Of what waits or was woken some may only be late: a queue is frozen when a grace period is over, and a poller goes on when
            // its CPU gets its turn from the host.
            let may_be_late = !caught_up && (self.poller || !waits.is_empty());
            if over || named && !may_be_late {
                break waits;
            }
            if named {
                // Every CPU has come by the scheduler when it returns (`synchronize_rcu`).
                membarrier(MembarrierCommand::Global)?;
                caught_up = true;
            }
            calm = 0;
        };
        for (step, sleep, op) in &waits {
            let site = sleep.site(op);
            self.notes.push(format!("step {number}: {step} {op} waits {site:?}: {sleep}"));
        }
        let mut observation = Observation {
            events: std::mem::take(&mut self.events),
            waits: waits.iter().map(|(step, sleep, op)| (*step, sleep.site(op))).collect(),
            state: self.state()?,
        };
        observation.sort();
        Ok(observation)
    }

    /// Notices who is gone, and who is another program now. True if that is anybody.
    fn reap(&mut self) -> io::Result<bool> {
        let mut news = false;
        for company in self.companies.iter_mut().filter(|company| !company.gone) {
            // The kernel kills a server that takes too long.
            if company.reap()? {
                (company.leaves, news) = (true, true);
            } else if company.execs {
                let entered = match company.ear.listen(Duration::ZERO) {
                    Heard::Answer(answer) => matches!(answer, Answer::Entered { .. }),
                    Heard::Nothing | Heard::End => continue,
                };
                (company.execs, company.idle) = (false, entered);
                news = true;
            }
        }
        Ok(news)
    }

    /// Takes what the actors have to say. True if that is anything.
    fn hear(&mut self) -> io::Result<bool> {
        let mut heard = false;
        // All are asked before the first has answered.
        for company in self.companies.iter_mut().filter(|company| !company.gone) {
            if !company.leaves && !company.is_quiet() {
                company.send(&Cue::Peek)?;
            }
        }
        for index in 0..self.companies.len() {
            if self.companies[index].is_quiet() {
                continue;
            }
            let answers = self.companies[index].listen()?;
            for answer in answers {
                heard |= self.take(index, answer);
            }
        }
        Ok(heard)
    }

    fn take(&mut self, company: usize, answer: Answer) -> bool {
        match answer {
            Answer::Entered { .. } | Answer::Forked { .. } => false,
            Answer::Returned { thread, step, result, data, told } => {
                for part in self.parts.values_mut() {
                    if (part.company, part.thread) == (company, thread) && part.busy == Some(step) {
                        part.busy = None;
                    }
                }
                self.ops.remove(&step);
                if let Some(result) = result {
                    self.controls.remove(&step);
                    self.events.push(Event { step, result, request: None, data, told });
                }
                true
            }
            Answer::Completions(completions) => {
                let any = !completions.is_empty();
                for completion in completions {
                    let (step, result, data) =
                        (completion.step, completion.result, completion.data);
                    // Others are named by their number.
                    if let (Some(id), None) = (completion.added, self.device) {
                        self.device = Some(Device { id, queues: 0, depth: 0 });
                    }
                    self.controls.remove(&step);
                    let request = completion.delivered();
                    let told = completion.told;
                    self.events.push(Event { step, result, request, data, told });
                }
                any
            }
        }
    }

    /// Whether anything is in the middle of something, this long after the step.
    fn is_restless(&mut self, after: Duration) -> bool {
        let soon = after < self.work;
        let born = self.births.any();
        let companies = self.companies.iter_mut().filter(|company| !company.gone);
        // All are sampled: one that was born is looked for in each.
        companies.fold(false, |restless, company| {
            // A process that dies is soon gone, or held by something.
            let leaves = (company.leaves || company.execs) && soon;
            company.is_awake(born) || leaves || restless
        })
    }

    /// What has not finished, and where it waits: control commands, and calls that are not a client's wait for its request.
    fn waits(&mut self) -> Vec<(u16, Sleep, Op)> {
        let mut found = Vec::new();
        self.controls.retain(|_, (company, _, _)| !self.companies[*company].gone);
        for (step, (company, submitter, op)) in &self.controls {
            // A command that its submitter could not carry out itself is with a worker of that thread.
            let pid = self.companies[*company].pid;
            let sleep = Sleep::of_command(pid, *submitter, op, &found);
            found.push((*step, sleep, op.clone()));
        }
        for part in self.parts.values() {
            let company = &self.companies[part.company];
            let Some((step, op)) = part.busy.and_then(|step| Some((step, self.ops.get(&step)?)))
            else {
                continue;
            };
            if company.gone || op.uses_disk() {
                continue;
            }
            found.push((step, Sleep::of(company.pid, part.tid), op.clone()));
        }
        found
    }

    fn state(&mut self) -> io::Result<State> {
        let id = self.device.map_or(0, |device| device.id);
        let info = self.inspector.info(id)?;
        self.device = info.as_ref().map(|info| Device {
            id,
            queues: info.nr_hw_queues,
            depth: info.queue_depth,
        });
        Ok(info.map_or(State::None, |info| match info.state {
            DeviceState::Dead => State::Dead,
            DeviceState::Live => State::Live,
            DeviceState::Quiesced => State::Quiesced,
            DeviceState::FailIo => State::FailIo,
        }))
    }

    /// Ends all processes and removes the device. True if nothing is left.
    fn sweep(&mut self) -> bool {
        for company in &mut self.companies {
            company.leaves = true;
            let _ = company.signal(Signal::KILL);
        }
        let until = Instant::now() + SWEEP;
        self.inspector.remove(&devices());
        loop {
            let left = self.companies.iter_mut().any(|company| {
                let _ = company.reap();
                !company.gone
            });
            let settled = self.inspector.is_idle();
            // A ring that never ends keeps a worker busy, and with it the device: its node is gone, and its number is not.
            let over = !left && settled && nodes().is_empty() && !self.workers.are_busy();
            if over && self.inspector.none_is_left() {
                // No disk of the next script is to have it.
                self.scheduler &= delete_module(SCHEDULER, 0).is_err();
                if !self.scheduler {
                    return true;
                }
            }
            if Instant::now() > until {
                return false;
            }
            thread::sleep(SAMPLE);
        }
    }
}

fn nobody(name: &str) -> io::Error {
    io::Error::other(format!("there is no actor {name}"))
}

/// The nodes of devices.
fn nodes() -> Vec<String> {
    let entries = Path::new("/dev").read_dir().into_iter().flatten().flatten();
    let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
    names.filter(|name| name.starts_with("ublkc") || name.starts_with("ublkb")).collect()
}

/// The numbers of devices.
fn devices() -> Vec<u32> {
    nodes().iter().filter_map(|name| name.strip_prefix("ublkc")?.parse().ok()).collect()
}

impl Company {
    fn new(child: Option<Child>, pid: i32, ear: Ear) -> Self {
        Self {
            child,
            pid,
            ear,
            threads: 0,
            sampled: Threads::of(pid),
            leaves: false,
            execs: false,
            idle: false,
            halted: false,
            gone: false,
        }
    }

    /// Whether it lives and says nothing.
    const fn is_quiet(&self) -> bool {
        !self.leaves && (self.execs || self.idle || self.halted)
    }

    /// Sends it a signal. It was not reaped, so the number is its own.
    fn signal(&self, signal: Signal) -> io::Result<()> {
        let pid = Pid::from_raw(self.pid).filter(|_| !self.gone);
        pid.map_or(Ok(()), |pid| Ok(rustix::process::kill_process(pid, signal)?))
    }

    fn send(&mut self, cue: &Cue) -> io::Result<()> {
        match self.ear.tell(cue) {
            Err(error) if self.leaves || error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            other => other,
        }
    }

    /// What it has to say; after a peek, as far as the answer to that.
    fn listen(&mut self) -> io::Result<Vec<Answer>> {
        let mut answers = Vec::new();
        loop {
            let patience = if self.leaves { Duration::ZERO } else { PROMPT };
            match self.ear.listen(patience) {
                Heard::Answer(answer) => {
                    let last = matches!(answer, Answer::Completions(_)) && !self.leaves;
                    answers.push(answer);
                    if last {
                        return Ok(answers);
                    }
                }
                _ if self.leaves => return Ok(answers),
                Heard::Nothing => {
                    return Err(io::Error::other(format!("process {} is silent", self.pid)));
                }
                Heard::End => {
                    self.leaves = true;
                    return Ok(answers);
                }
            }
        }
    }

    /// Whether one of its threads is in the middle of something. The first only listens.
    fn is_awake(&mut self, born: bool) -> bool {
        let (pid, halted) = (self.pid, self.halted);
        self.sampled.sample(born).any(|task| {
            let asleep = task.sleeps() || halted && task.is_stopped();
            task.tid != pid && !asleep && !task.is_dead()
        })
    }

    /// Notices its end. True if it is news.
    fn reap(&mut self) -> io::Result<bool> {
        let was = self.gone;
        self.gone = was
            || match &mut self.child {
                Some(child) => child.try_wait()?.is_some(),
                None => rustix::process::waitpid(Pid::from_raw(self.pid), WaitOptions::NOHANG)?
                    .is_some(),
            };
        Ok(self.gone != was)
    }
}

/// Looks at devices, and removes them, from a ring of its own.
struct Inspector {
    submitter: Submitter<squeue::Entry128>,
    reader: Reader<squeue::Entry128>,
    control: File,
    /// Commands that were submitted, and those that completed.
    submitted: u64,
    completed: Vec<(u64, i32)>,
}

impl Inspector {
    fn new() -> io::Result<Self> {
        let control = File::options().read(true).write(true).open("/dev/ublk-control")?;
        let (submitter, reader) = ends(Ring::new()?);
        Ok(Self { submitter, reader, control, submitted: 0, completed: Vec::new() })
    }

    fn submit(&mut self, command: &Command) -> io::Result<(u64, Payload)> {
        let mut bytes = [0; PAYLOAD_BYTES_MAX];
        let header = command.encode(&mut bytes);
        self.ask(command.kind().uapi(), header, bytes)
    }

    /// A command with a path, as it is needed where the device is not privileged, and does no harm elsewhere.
    fn submit_named(&mut self, op: ControlOp, dev_id: DevId) -> io::Result<(u64, Payload)> {
        let path = PathName::Own.bytes(dev_id.0);
        let mut bytes = [0; PAYLOAD_BYTES_MAX];
        bytes[..path.len()].copy_from_slice(&path);
        let dev_path_len = path.len() as u16;
        let len = dev_path_len + DevInfo::SIZE as u16;
        let queue_id = CtrlCmd::NO_QUEUE;
        let header = CtrlCmd { dev_id, queue_id, len, addr: 0, data: 0, dev_path_len };
        self.ask(op, header, bytes)
    }

    fn ask(
        &mut self,
        op: ControlOp,
        header: CtrlCmd,
        bytes: [u8; PAYLOAD_BYTES_MAX],
    ) -> io::Result<(u64, Payload)> {
        let payload = Payload::new(bytes);
        self.submitted += 1;
        let fd = self.control.as_raw_fd();
        self.submitter.control(fd, op.ioctl(), header, Memory::Payload(payload), self.submitted)?;
        Ok((self.submitted, payload))
    }

    fn info(&mut self, id: u32) -> io::Result<Option<DevInfo>> {
        let (number, payload) = self.submit(&Command::GetDevInfo(DevId(id)))?;
        let result = self.result(number)?;
        if result == -rustix::io::Errno::INVAL.raw_os_error() {
            return self.info_of_unprivileged(DevId(id));
        }
        Ok(match (result, Kind::GetDevInfo.decode(&payload.read())) {
            (0, Reply::DevInfo(info)) => Some(info),
            _ => None,
        })
    }

    /// Without its node nobody can ask about it: it is being deleted.
    fn info_of_unprivileged(&mut self, id: DevId) -> io::Result<Option<DevInfo>> {
        let (number, payload) = self.submit_named(ControlOp::GetDevInfo2, id)?;
        if self.result(number)? != 0 {
            return Ok(Some(DevInfo::default()));
        }
        let bytes = payload.read();
        let info = bytes[PathName::Own.bytes(id.0).len()..].first_chunk();
        Ok(info.and_then(|info| DevInfo::decode(info).ok()))
    }

    /// Whether no script's device has its number any more.
    fn none_is_left(&mut self) -> bool {
        (0..NUMBERS).all(|id| matches!(self.info(id), Ok(None)))
    }

    /// Waits for a command.
    fn result(&mut self, number: u64) -> io::Result<i32> {
        loop {
            self.completed.extend(
                self.reader.completions().into_iter().map(|(data, result, _)| (data, result)),
            );
            if let Some((_, result)) = self.completed.iter().find(|(one, _)| *one == number) {
                return Ok(*result);
            }
            self.submitter.wait()?;
        }
    }

    /// Begins to remove devices.
    fn remove(&mut self, ids: &[u32]) {
        for &id in ids {
            let _ = self.submit_named(ControlOp::StopDev, DevId(id));
            let _ = self.submit_named(ControlOp::DelDev, DevId(id));
        }
    }

    fn is_idle(&mut self) -> bool {
        self.completed
            .extend(self.reader.completions().into_iter().map(|(data, result, _)| (data, result)));
        self.completed.len() as u64 == self.submitted
    }
}
