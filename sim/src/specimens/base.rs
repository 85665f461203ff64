//! What specimens are made of: a thread is a small state machine that does one thing at a time, and shares cells and locks
//! with the other threads of its process.

use blkproof_engine::control::{Command, Reply};
use blkproof_engine::data::{Address, Place, TagMemory};
use blkproof_engine::sys::{Call, Cqe, Ret, RingMode, RingSpec, Sqe, Token};
use blkproof_engine::target::Target;
use blkproof_engine::uapi::{DevId, DevInfo, QueueId, RequestOp, Tag};

use crate::kernel::errno;
use crate::kernel::ring::Entry;
use crate::run::{Run, Sabotage, actor};
use crate::server::{Program, target};
use crate::specimens::Server;
use crate::specimens::queue_thread::Habit;
use crate::world::{BUFFER_SECTORS, RingId, SECTOR, ThreadId, World};

/// The operator asked to stop.
pub(crate) const STOP_CELL: usize = 0;
/// Queues that are primed.
pub(crate) const PRIMED: usize = 1;
/// All of them are.
pub(crate) const READY: usize = 2;
/// Queues whose thread has ended.
pub(crate) const ENDED: usize = 3;
/// All of them have.
pub(crate) const JOINED: usize = 4;
/// START_DEV has returned.
pub(crate) const STARTED: usize = 5;
/// A queue could not be set up.
pub(crate) const FAILED: usize = 6;
/// Threads that are expected to be primed and to end; 0: one for each queue.
const EXPECTED: usize = 7;
/// Nobody ever sets it.
pub(crate) const NEVER: usize = 8;
/// The first cell of a specimen's own.
pub(crate) const OWN: usize = 9;
/// Cells of a process.
const CELLS: usize = 32;
/// Locks of a process.
const LOCKS: usize = 2;

/// What a specimen's thread does next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Act {
    /// A system call that the engine knows.
    Call(Call),
    /// Sleep.
    Sleep {
        /// Milliseconds.
        ms: u32,
    },
    /// Take a lock.
    Lock(u8),
    /// Give it back.
    Unlock(u8),
    /// Wait until a cell is not 0.
    Await(u8),
    /// Nothing: let others move.
    Yield,
    /// End the thread; the main thread ends the process.
    Exit,
    /// End the thread without anything that belongs to its end: its ring stays open.
    Vanish,
}

/// What a specimen's thread can do without waiting.
pub(crate) struct Sys<'w, 'c> {
    pub(crate) world: &'w mut World,
    pub(crate) run: &'w mut Run<'c>,
    pub(crate) thread: ThreadId,
}

impl Sys<'_, '_> {
    /// Reads a shared cell.
    pub(crate) fn get(&self, cell: usize) -> u64 {
        self.world.process_of(self.thread).cells[cell]
    }

    /// Writes a shared cell.
    pub(crate) fn set(&mut self, cell: usize, value: u64) {
        let process = self.world.threads[self.thread.index()].process;
        self.world.processes[process.index()].cells[cell] = value;
    }

    /// Adds to a counter; when all queues have, sets a flag.
    pub(crate) fn count(&mut self, counter: usize, flag: usize) {
        let count = self.get(counter) + 1;
        self.set(counter, count);
        let expected = match self.get(EXPECTED) {
            0 => u64::from(self.queues()),
            threads => threads,
        };
        if count == expected {
            self.set(flag, 1);
        }
    }

    /// So many threads are expected to be primed and to end, not one for each queue.
    pub(crate) fn expect(&mut self, threads: u16) {
        self.set(EXPECTED, u64::from(threads));
    }

    /// Queues that ADD_DEV asked for.
    pub(crate) fn queues_asked(&self) -> u16 {
        self.run.config.queues
    }

    /// Queues of the device.
    pub(crate) fn queues(&self) -> u16 {
        self.world.device.as_ref().map_or(self.run.config.queues, |device| device.queues)
    }

    /// Tags of a queue.
    pub(crate) fn depth(&self) -> u16 {
        self.run.config.depth
    }

    /// The ring mode asked for.
    pub(crate) fn mode(&self) -> RingMode {
        self.run.config.mode
    }

    /// The thread's ring.
    pub(crate) fn ring(&self) -> RingId {
        self.world.threads[self.thread.index()].ring.expect("a specimen sets its ring up first")
    }

    /// Whether the thread has one.
    pub(crate) fn has_ring(&self) -> bool {
        self.world.threads[self.thread.index()].ring.is_some()
    }

    /// Registers the character device in the thread's ring, which holds it from then on.
    pub(crate) fn register_file(&mut self) {
        let ring = self.ring();
        if let Some(device) = &mut self.world.device {
            device.file_refs += 1;
            self.world.rings[ring.index()].holds_file = true;
        }
    }

    /// Makes another thread's ring the one that this thread enters.
    pub(crate) fn use_ring(&mut self, ring: RingId) {
        self.world.threads[self.thread.index()].ring = Some(ring);
    }

    /// Sets the queue that entries name.
    pub(crate) fn use_queue(&mut self, queue: u16) {
        self.world.threads[self.thread.index()].queue = queue;
    }

    /// Starts a thread.
    pub(crate) fn spawn(&mut self, name: &str, queue: u16, server: Server) {
        let process = self.world.threads[self.thread.index()].process;
        self.world.spawn_thread(self.run, process, name, queue, Program::Specimen(server));
    }

    /// Writes an entry, then moves the tail.
    pub(crate) fn push(&mut self, entry: Entry) {
        let ring = self.ring();
        self.world.rings[ring.index()].sq.push_back(entry);
    }

    /// Moves the tail without having written the entry.
    pub(crate) fn publish(&mut self) {
        self.push(Entry::Unwritten);
    }

    /// Writes the entry that was published last, if the kernel has not taken the slot yet.
    pub(crate) fn write_published(&mut self, entry: Entry) {
        let ring = self.ring();
        let slots = &mut self.world.rings[ring.index()].sq;
        if let Some(slot) = slots.iter_mut().rev().find(|slot| **slot == Entry::Unwritten) {
            *slot = entry;
        }
    }

    /// Entries that the kernel has not taken.
    pub(crate) fn unsubmitted(&self) -> u32 {
        self.world.rings[self.ring().index()].sq.len() as u32
    }

    /// Takes a completion.
    pub(crate) fn reap(&mut self) -> Option<Cqe> {
        let ring = self.ring();
        let cqe = self.world.rings[ring.index()].cq.pop_front()?;
        let abort = matches!(cqe.token, Token::Io(_)) && cqe.res == -errno::ENODEV;
        if abort && self.run.sabotage == Some(Sabotage::IgnoreAbort) && self.run.strikes() {
            return self.reap();
        }
        Some(cqe)
    }

    /// What the last control command wrote.
    fn reply(&self) -> Reply {
        self.world.rings[self.ring().index()].reply
    }

    /// Closes the character device and gives up every mapping of this thread.
    pub(crate) fn close_char(&mut self) {
        let process = self.world.threads[self.thread.index()].process;
        self.unmap();
        self.world.close_char(self.run, process);
    }

    /// Gives up every mapping of this thread.
    pub(crate) fn unmap(&mut self) {
        self.world.unmap(self.run, self.thread);
    }

    /// Whether a tag that this thread was given is a write.
    pub(crate) fn is_write(&self, queue: u16, tag: Tag) -> bool {
        self.world.descriptor(self.run, queue, tag.0).op() == Some(RequestOp::Write)
    }

    /// Says that the device is up.
    pub(crate) fn announce(&mut self, id: DevId) {
        self.run.progress();
        self.run.note(actor::OPERATOR, || "hears that the device is up".into());
        self.world.announce(id);
    }

    /// Process id.
    fn pid(&self) -> u32 {
        self.world.process_of(self.thread).pid
    }

    /// Says something in the timeline.
    pub(crate) fn say(&mut self, text: &'static str) {
        let actor = actor::thread(self.thread);
        self.run.note(actor, || text.into());
    }

    /// A thread reads the descriptor of a tag it was given, does what a null target does, and says what to commit.
    pub(crate) fn serve(&mut self, queue: u16, tag: Tag) -> Entry {
        let desc = self.world.descriptor(self.run, queue, tag.0);
        let bytes = desc.nr_sectors * SECTOR as u32;
        if desc.op() == Some(RequestOp::Read) {
            let clear = blkproof_engine::sys::MemoryOp::Clear { len: bytes };
            self.world.memory(self.run, self.thread, (queue, tag.0), Place::Tag, clear);
        }
        Entry::Plain(Sqe::Commit { tag, result: bytes as i32, address: Address::Buffer })
    }
}

/// Creates the process of a specimen.
pub(crate) fn start_process(world: &mut World, run: &mut Run<'_>, main: Server) {
    let process = world.spawn_process(run, None, "main", Program::Specimen(main));
    world.processes[process.index()].cells = vec![0; CELLS];
    world.processes[process.index()].locks = vec![None; LOCKS];
    world.operator.server = Some(process);
}

/// One control command at a time on the thread's own ring, waited for whatever interrupts.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub(crate) struct Lane {
    sequence: u32,
    waiting: bool,
}

impl Lane {
    /// Sends a command, or goes on waiting for it. `Err` is the call to make.
    fn exchange(
        &mut self,
        sys: &mut Sys<'_, '_>,
        command: impl FnOnce() -> Command,
    ) -> Result<i32, Act> {
        if !self.waiting {
            self.waiting = true;
            self.sequence += 1;
            sys.push(Entry::Control(self.sequence, command()));
        }
        while let Some(cqe) = sys.reap() {
            if cqe.token == Token::Control(self.sequence) {
                self.waiting = false;
                return Ok(cqe.res);
            }
        }
        Err(Act::Call(Call::Enter { submit: sys.unsubmitted(), wait: 1 }))
    }
}

impl Lane {
    /// Whatever is under way is not waited for any more.
    fn forget(&mut self) {
        self.waiting = false;
    }
}

/// How a part of the start-up stands.
pub(crate) enum Prepared {
    /// Not there yet.
    Act(Act),
    /// START_DEV may be sent.
    Done,
}

/// What a specimen does between SET_PARAMS and START_DEV.
pub(crate) trait Prepare {
    /// One step.
    fn step(&mut self, ret: Ret, sys: &mut Sys<'_, '_>) -> Prepared;
    /// Whether a lock is held around START_DEV.
    fn start_lock(&self) -> Option<u8> {
        None
    }
    /// What the main thread may do wrong.
    fn habit(&self) -> Habit {
        Habit::Right
    }
}

/// The main thread of a specimen: the control commands of one device, in one process with everything else.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Main<P> {
    stage: Stage,
    lane: Lane,
    id: DevId,
    pub(crate) prepare: P,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum Stage {
    Boot,
    Adding,
    Setting,
    Preparing,
    LockingStart,
    Starting,
    UnlockingStart,
    Serving,
    Stopping,
    Joining,
    Closing,
    Deleting,
}

impl<P: Prepare> Main<P> {
    pub(crate) fn new(prepare: P) -> Self {
        Self { stage: Stage::Boot, lane: Lane::default(), id: DevId(0), prepare }
    }

    /// What it waits for.
    pub(crate) const fn awaits(&self) -> &'static str {
        match self.stage {
            Stage::Boot => "is about to begin",
            Stage::Adding => "waits for ADD_DEV",
            Stage::Setting => "waits for SET_PARAMS",
            Stage::Preparing => "waits for every queue to be ready",
            Stage::LockingStart => "waits for the device lock",
            Stage::Starting => "waits for START_DEV",
            Stage::UnlockingStart | Stage::Serving => "waits for a request to stop",
            Stage::Stopping => "waits for STOP_DEV",
            Stage::Joining => "waits for the queues' threads to end",
            Stage::Closing | Stage::Deleting => "waits for DEL_DEV",
        }
    }

    /// Whether it is still waiting for the data plane.
    pub(crate) const fn is_preparing(&self) -> bool {
        matches!(self.stage, Stage::Preparing)
    }

    pub(crate) fn step(&mut self, ret: Ret, sys: &mut Sys<'_, '_>) -> Act {
        let max_io_buf_bytes = (BUFFER_SECTORS as u64 * SECTOR) as u32;
        let (id, pid, habit) = (self.id, sys.pid(), self.prepare.habit());
        let mut ret = ret;
        loop {
            let exchanged = match self.stage {
                Stage::Boot => {
                    self.stage = Stage::Adding;
                    return Act::Call(Call::SetupRing(RingSpec {
                        entries: 8,
                        mode: RingMode::Control,
                    }));
                }
                Stage::Adding if !sys.has_ring() => {
                    self.stage = Stage::Boot;
                    return Act::Sleep { ms: 10 };
                }
                Stage::Adding => {
                    let info = DevInfo {
                        nr_hw_queues: sys.run.config.queues,
                        queue_depth: sys.run.config.depth,
                        max_io_buf_bytes,
                        ..DevInfo::default()
                    };
                    self.lane.exchange(sys, || Command::AddDev(info))
                }
                Stage::Setting => {
                    let params = target(sys.run.config.target).geometry().params(max_io_buf_bytes);
                    self.lane.exchange(sys, || Command::SetParams(id, params))
                }
                Stage::Preparing => match self.prepare.step(ret, sys) {
                    Prepared::Act(act) => return act,
                    Prepared::Done => Ok(0),
                },
                Stage::LockingStart => Ok(0),
                Stage::Starting => {
                    let pid = if habit == Habit::WrongPid { pid + 1 } else { pid };
                    if habit == Habit::StartsTwice && matches!(ret, Ret::Failed(_)) {
                        sys.say("was interrupted, and sends START_DEV again");
                        self.lane.forget();
                    }
                    self.lane.exchange(sys, || Command::StartDev(id, pid))
                }
                Stage::UnlockingStart => Ok(0),
                Stage::Serving => {
                    if sys.get(STOP_CELL) == 0 {
                        return Act::Await(STOP_CELL as u8);
                    }
                    Ok(0)
                }
                Stage::Stopping => self.lane.exchange(sys, || Command::StopDev(id)),
                Stage::Joining => {
                    if sys.get(JOINED) == 0 {
                        return Act::Await(JOINED as u8);
                    }
                    Ok(0)
                }
                Stage::Closing => {
                    if habit != Habit::DeletesItsOwn {
                        sys.close_char();
                    }
                    Ok(0)
                }
                Stage::Deleting => self.lane.exchange(sys, || Command::DelDev(id)),
            };
            let res = match exchanged {
                Ok(res) => res,
                Err(act) => return act,
            };
            let interrupted = res == -errno::EINTR;
            self.stage = match self.stage {
                _ if interrupted => self.stage,
                Stage::Boot | Stage::Adding => {
                    if let Reply::DevInfo(info) = sys.reply() {
                        self.id = info.dev_id;
                    }
                    Stage::Setting
                }
                Stage::Setting => Stage::Preparing,
                Stage::Preparing => {
                    self.stage = Stage::LockingStart;
                    match self.prepare.start_lock() {
                        Some(lock) => return Act::Lock(lock),
                        None => Stage::Starting,
                    }
                }
                Stage::LockingStart => Stage::Starting,
                Stage::Starting if res < 0 => {
                    sys.say("START_DEV failed: takes the device down");
                    Stage::Stopping
                }
                Stage::Starting => {
                    sys.set(STARTED, 1);
                    self.stage = Stage::UnlockingStart;
                    match self.prepare.start_lock() {
                        Some(lock) => return Act::Unlock(lock),
                        None => self.stage,
                    }
                }
                Stage::UnlockingStart => {
                    sys.announce(self.id);
                    Stage::Serving
                }
                Stage::Serving => Stage::Stopping,
                Stage::Stopping => Stage::Joining,
                Stage::Joining => Stage::Closing,
                Stage::Closing => Stage::Deleting,
                Stage::Deleting => return Act::Exit,
            };
            ret = Ret::Done;
        }
    }
}

/// Opens the character device, and starts a thread for each queue.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) struct OpenAndSpawn {
    open: bool,
    asked: bool,
}

impl OpenAndSpawn {
    pub(crate) const fn new() -> Self {
        Self { open: false, asked: false }
    }

    /// One step: `None` when the device is open and the threads run.
    pub(crate) fn step(
        &mut self,
        ret: Ret,
        sys: &mut Sys<'_, '_>,
        threads: impl FnOnce(&mut Sys<'_, '_>),
    ) -> Option<Act> {
        if self.open {
            return None;
        }
        if !self.asked {
            self.asked = true;
            return Some(Act::Call(Call::OpenChar));
        }
        if matches!(ret, Ret::Failed(_)) {
            self.asked = false;
            return Some(Act::Sleep { ms: 100 });
        }
        self.open = true;
        threads(sys);
        None
    }
}

/// A thread for each queue.
pub(crate) fn one_for_each(sys: &mut Sys<'_, '_>, thread: impl Fn(u16) -> Server) {
    for queue in 0..sys.queues() {
        sys.spawn(&format!("queue {queue}"), queue, thread(queue));
    }
}

/// Waits until every queue says that it is primed.
pub(crate) fn await_ready(sys: &Sys<'_, '_>) -> Prepared {
    if sys.get(READY) == 0 { Prepared::Act(Act::Await(READY as u8)) } else { Prepared::Done }
}

/// The beginning of a queue's thread: ring, mapping.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum SetUp {
    Ring,
    Map,
    Mapped,
    Done,
}

impl SetUp {
    /// Whether the call before did not succeed.
    pub(crate) const fn has_failed(self, ret: Ret) -> bool {
        matches!(self, Self::Map | Self::Mapped) && matches!(ret, Ret::Failed(_))
    }

    /// The next call, or `None` when all is set up.
    pub(crate) fn step(&mut self, sys: &Sys<'_, '_>, queue: u16) -> Option<Act> {
        match self {
            Self::Ring => {
                *self = Self::Map;
                let entries = u32::from(sys.depth()) + 2;
                Some(Act::Call(Call::SetupRing(RingSpec { entries, mode: sys.mode() })))
            }
            Self::Map => {
                *self = Self::Mapped;
                Some(Act::Call(Call::MapQueue {
                    queue: QueueId(queue),
                    memory: TagMemory::Buffer,
                    buffers: 0,
                }))
            }
            Self::Mapped | Self::Done => {
                *self = Self::Done;
                None
            }
        }
    }
}

/// A tag's FETCH.
pub(crate) const fn fetch(tag: u16) -> Entry {
    Entry::Plain(Sqe::Fetch { tag: Tag(tag), address: Address::Buffer })
}

/// The serving loop: commits what it is given, until every tag is aborted.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Loop {
    dead: u16,
    /// Aborts that a habit has not seen yet.
    news: Vec<u16>,
}

impl Loop {
    pub(crate) const fn new() -> Self {
        Self { dead: 0, news: Vec::new() }
    }

    /// Takes one completion of a request; counts aborts.
    pub(crate) fn next(&mut self, sys: &mut Sys<'_, '_>) -> Option<Tag> {
        while let Some(cqe) = sys.reap() {
            if let Token::Io(tag) = cqe.token {
                if cqe.res == 0 {
                    return Some(tag);
                }
                if cqe.res == -errno::ENODEV {
                    self.dead += 1;
                    self.news.push(tag.0);
                }
                // Any other result is an error that nobody thought of.
            }
        }
        None
    }

    /// Aborted tags.
    pub(crate) const fn dead(&self) -> u16 {
        self.dead
    }

    /// A tag whose command failed, which is to count as new again.
    pub(crate) fn failed_tag(&mut self) -> Option<u16> {
        let tag = self.news.pop()?;
        self.dead -= 1;
        Some(tag)
    }

    /// Whether every tag was aborted.
    pub(crate) fn is_over(&self, sys: &Sys<'_, '_>) -> bool {
        self.dead == sys.depth()
    }
}

/// Submits what there is and waits.
pub(crate) fn enter(sys: &Sys<'_, '_>) -> Act {
    Act::Call(Call::Enter { submit: sys.unsubmitted(), wait: 1 })
}

/// The end of a queue's thread.
pub(crate) fn end(sys: &mut Sys<'_, '_>) -> Act {
    sys.count(ENDED, JOINED);
    Act::Exit
}
