//! The server's threads: the engine's own machines, or a specimen's, resumed one call at a time.

use blkproof_engine::control::{Command, Reply};
use blkproof_engine::link::{Link, Message, Received, SendError};
use blkproof_engine::pending::Pending;
use blkproof_engine::queue::{Queue, QueueConfig};
use blkproof_engine::supervisor::Supervisor;
use blkproof_engine::sys::{
    Call, Cqe, DeviceGeometry, Links, MemoryOp, QueueIo, Ret, Ring, SqFull, Sqe, SupervisorIo,
    Token, WorkerExit,
};
use blkproof_engine::target::{AnyTarget, File, Mem, Null};
use blkproof_engine::uapi::{Errno, IoDesc, QueueId, Tag};
use blkproof_engine::worker::Worker;

use crate::choices::Site;
use crate::config::TargetKind;
use crate::kernel::errno;
use crate::kernel::process::{LINK_MESSAGES_MAX, ProcessState, ThreadState};
use crate::kernel::ring::Entry;
use crate::kernel::udev::Node;
use crate::run::{Run, Sabotage, actor};
use crate::specimens::{Act, Server, Sys};
use crate::world::{DEVICE_SECTORS, ProcessId, RingId, SECTOR, ThreadId, TimerKind, World};

/// SIGKILL.
const SIGKILL: u8 = 9;

/// What a thread runs.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Program {
    /// The engine's supervisor.
    Supervisor(Supervisor),
    /// The engine's worker.
    Worker(Worker),
    /// The engine's queue.
    Queue(Queue<AnyTarget>),
    /// A thread of a specimen.
    Specimen(Server),
}

impl Program {
    /// What an engine machine says it waits for.
    pub(crate) fn pending(&self) -> Vec<Pending> {
        let mut sink = Vec::new();
        match self {
            Self::Supervisor(machine) => machine.pending(&mut sink),
            Self::Worker(machine) => machine.pending(&mut sink),
            Self::Queue(machine) => machine.pending(&mut sink),
            Self::Specimen(_) => {}
        }
        sink
    }
}

/// The target that a run's device has.
pub(crate) fn target(kind: TargetKind) -> AnyTarget {
    let sectors = DEVICE_SECTORS as u64;
    match kind {
        TargetKind::Null => AnyTarget::Null(Null { sectors }),
        TargetKind::Mem => AnyTarget::Mem(Mem { sectors }),
        TargetKind::File => AnyTarget::File(File {
            sectors,
            logical_bs_shift: 9,
            discard: true,
            write_zeroes: true,
        }),
    }
}

/// Which machine a thread is, as far as links are concerned.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Role {
    Supervisor,
    Worker,
    Queue(u16),
}

/// What a machine's driver offers, under the simulator.
struct Io<'w, 'r, 'c> {
    world: &'w mut World,
    run: &'r mut Run<'c>,
    thread: ThreadId,
    role: Role,
}

impl World {
    /// One step of a thread that can move.
    pub(crate) fn thread_step(&mut self, run: &mut Run<'_>, thread: ThreadId) {
        match self.threads[thread.index()].state {
            ThreadState::Ready(ret) => self.resume(run, thread, ret),
            ThreadState::Calling(call) => self.carry_out(run, thread, call),
            ThreadState::Submitting { .. } => self.submit_step(run, thread),
            ThreadState::Waiting { done, wait, .. } => {
                let ret = self.returns(run, thread, done, wait);
                self.resume(run, thread, ret);
            }
            ThreadState::Awaiting(_) => {
                self.threads[thread.index()].state = ThreadState::Ready(Ret::Done);
            }
            ThreadState::Locking(lock) => {
                let process = self.threads[thread.index()].process;
                self.processes[process.index()].locks[usize::from(lock)] = Some(thread);
                self.threads[thread.index()].state = ThreadState::Ready(Ret::Done);
            }
            ThreadState::Sleeping | ThreadState::Dead => {}
        }
    }

    /// Whether a thread can move (apart from task work and death).
    pub(crate) fn thread_can_move(&self, thread: ThreadId) -> bool {
        let state = &self.threads[thread.index()];
        let process = &self.processes[state.process.index()];
        let running = process.state == ProcessState::Running;
        match state.state {
            ThreadState::Submitting { .. } => !self.fetch_blocked(thread),
            ThreadState::Ready(_) | ThreadState::Calling(_) => running,
            ThreadState::Waiting { wait, interrupted, .. } => {
                running && self.can_return(thread, wait, interrupted)
            }
            ThreadState::Awaiting(cell) => running && process.cells[usize::from(cell)] != 0,
            ThreadState::Locking(lock) => running && process.locks[usize::from(lock)].is_none(),
            ThreadState::Sleeping | ThreadState::Dead => false,
        }
    }

    /// Resumes a thread's program until it makes a call that others can notice.
    fn resume(&mut self, run: &mut Run<'_>, thread: ThreadId, ret: Ret) {
        let mut ret = ret;
        let Some(mut program) = self.threads[thread.index()].program.take() else { return };
        loop {
            run.user_code(thread);
            let call = match &mut *program {
                Program::Supervisor(machine) => {
                    let mut io = Io { world: self, run, thread, role: Role::Supervisor };
                    machine.resume(ret, &mut io)
                }
                Program::Worker(machine) => {
                    let mut io = Io { world: self, run, thread, role: Role::Worker };
                    machine.resume(ret, &mut io)
                }
                Program::Queue(machine) => {
                    let role = Role::Queue(machine.id().0);
                    let mut io = Io { world: self, run, thread, role };
                    machine.resume(ret, &mut io)
                }
                Program::Specimen(server) => {
                    let act = server.step(ret, &mut Sys { world: self, run, thread });
                    match act {
                        Act::Call(call) => call,
                        other => {
                            run.kernel_code();
                            self.act(thread, other);
                            break;
                        }
                    }
                }
            };
            run.kernel_code();
            if let Call::SetupRing(spec) = call {
                // Nobody else can notice it.
                ret = if self.refuse(run) {
                    Ret::Failed(Errno(errno::ENOMEM as u16))
                } else {
                    self.setup_ring(thread, spec);
                    Ret::Done
                };
                continue;
            }
            match call {
                Call::Enter { submit, wait } => self.enter(run, thread, submit, wait),
                Call::Sleep { ms } => {
                    self.arm(u64::from(ms) * 1000, TimerKind::Sleep(thread));
                    self.threads[thread.index()].state = ThreadState::Sleeping;
                }
                Call::SetupRing(_)
                | Call::SpawnWorker { .. }
                | Call::AttachWorker { .. }
                | Call::KillWorker
                | Call::ReapWorker
                | Call::OpenChar
                | Call::SpawnQueue { .. }
                | Call::MapQueue { .. }
                | Call::Exit(_) => {
                    self.threads[thread.index()].state = ThreadState::Calling(call);
                }
            }
            break;
        }
        self.threads[thread.index()].program = Some(program);
    }

    /// A specimen does something that is not a system call of the engine's.
    fn act(&mut self, thread: ThreadId, act: Act) {
        let process = self.threads[thread.index()].process;
        self.threads[thread.index()].state = match act {
            Act::Call(_) | Act::Yield => ThreadState::Ready(Ret::Done),
            Act::Sleep { ms } => {
                self.arm(u64::from(ms) * 1000, TimerKind::Sleep(thread));
                ThreadState::Sleeping
            }
            Act::Lock(lock) => ThreadState::Locking(lock),
            Act::Unlock(lock) => {
                self.processes[process.index()].locks[usize::from(lock)] = None;
                ThreadState::Ready(Ret::Done)
            }
            Act::Await(cell) => ThreadState::Awaiting(cell),
            Act::Exit => ThreadState::Calling(Call::Exit(blkproof_engine::sys::Exit::Finished)),
        };
    }

    /// Whether a fallible call fails for want of something.
    fn refuse(&mut self, run: &mut Run<'_>) -> bool {
        let fails = self.budget.resources > 0 && run.fault(run.config.faults.resource);
        if fails {
            self.budget.resources -= 1;
        }
        fails
    }

    /// Carries out a call that others can notice.
    fn carry_out(&mut self, run: &mut Run<'_>, thread: ThreadId, call: Call) {
        let process = self.threads[thread.index()].process;
        let failed = |errno: i32| Ret::Failed(Errno(errno as u16));
        let ret = match call {
            Call::SpawnWorker { device } => self.spawn_worker(run, thread, device),
            Call::AttachWorker { pid } => match self.process_by_pid(pid) {
                Some(worker) => {
                    self.processes[process.index()].attached = Some(worker);
                    Ret::Done
                }
                None => failed(errno::ESRCH),
            },
            Call::KillWorker => match self.processes[process.index()].attached {
                Some(worker) if self.processes[worker.index()].state != ProcessState::Reaped => {
                    self.begin_exit(worker, WorkerExit::Signal(SIGKILL));
                    Ret::Done
                }
                Some(_) | None => failed(errno::ESRCH),
            },
            Call::ReapWorker => {
                let attached = self.processes[process.index()].attached;
                match attached.map(|worker| &mut self.processes[worker.index()]) {
                    Some(worker)
                        if worker.state == ProcessState::Zombie
                            && worker.parent == Some(process) =>
                    {
                        worker.state = ProcessState::Reaped;
                        Ret::Exited(worker.exit)
                    }
                    Some(_) | None => Ret::Exited(WorkerExit::Unknown),
                }
            }
            Call::OpenChar => match self.open_char(run, process) {
                Ok(()) => Ret::Done,
                Err(errno) => failed(errno),
            },
            Call::SpawnQueue { queue } => self.spawn_queue(run, thread, queue),
            Call::MapQueue { queue } => {
                if self.refuse(run) {
                    failed(errno::ENOMEM)
                } else {
                    match &mut self.device {
                        Some(device) if queue.0 < device.queues && device.tgid == Some(process) => {
                            device.file_refs += 1;
                            self.threads[thread.index()].mapped += 1;
                            Ret::Done
                        }
                        Some(_) | None => failed(errno::EINVAL),
                    }
                }
            }
            Call::Exit(exit) => {
                self.thread_exits(run, thread, exit);
                return;
            }
            Call::SetupRing(_) | Call::Enter { .. } | Call::Sleep { .. } => {
                unreachable!("carried out when they are made")
            }
        };
        run.seen(match ret {
            Ret::Failed(errno) => u64::from(errno.0),
            Ret::Start | Ret::Done | Ret::Submitted(_) | Ret::Spawned(_) | Ret::Exited(_) => 0,
        });
        run.note(actor::thread(thread), || describe(call, ret));
        self.threads[thread.index()].state = ThreadState::Ready(ret);
    }

    fn open_char(&mut self, run: &mut Run<'_>, process: ProcessId) -> Result<(), i32> {
        if self.refuse(run) {
            return Err(errno::EMFILE);
        }
        match self.udev.node {
            Node::Absent => return Err(errno::ENOENT),
            Node::Denied => return Err(errno::EACCES),
            Node::Ready => {}
        }
        let device = self.device.as_mut().filter(|device| device.cdev).ok_or(errno::ENOENT)?;
        if device.open {
            return Err(errno::EBUSY);
        }
        device.open = true;
        device.file_refs += 1;
        device.tgid = Some(process);
        self.processes[process.index()].char_open = true;
        run.progress();
        Ok(())
    }

    fn spawn_worker(&mut self, run: &mut Run<'_>, thread: ThreadId, device: DeviceGeometry) -> Ret {
        if self.refuse(run) {
            return Ret::Failed(Errno(errno::EAGAIN as u16));
        }
        let supervisor = self.threads[thread.index()].process;
        let program = Program::Worker(Worker::new(device.queues));
        let worker = self.spawn_process(run, Some(supervisor), "worker", program);
        self.processes[worker.index()].geometry = Some(device);
        self.processes[supervisor.index()].attached = Some(worker);
        self.links.supervisor = Some(thread);
        self.links.worker = Some(ThreadId::from_index(self.threads.len() - 1));
        self.links.queues = vec![None; usize::from(device.queues)];
        self.links.mail = vec![std::collections::VecDeque::new(); usize::from(device.queues)];
        run.progress();
        Ret::Spawned(self.processes[worker.index()].pid)
    }

    fn spawn_queue(&mut self, run: &mut Run<'_>, thread: ThreadId, queue: QueueId) -> Ret {
        let process = self.threads[thread.index()].process;
        let Some(geometry) = self.processes[process.index()].geometry else {
            return Ret::Failed(Errno(errno::EINVAL as u16));
        };
        if self.refuse(run) {
            return Ret::Failed(Errno(errno::EAGAIN as u16));
        }
        // A small ring fills up: the same schedule, in more turns.
        let mut entries = QueueConfig::ring_entries(geometry.depth);
        if run.fault(run.config.faults.submit) {
            entries = [2, 4][run.choose(Site::Submit, 2) as usize];
            run.kernel(|| format!("queue {} gets a ring of {entries} entries", queue.0));
        }
        let config = QueueConfig {
            id: queue,
            depth: geometry.depth,
            buffer_bytes: geometry.buffer_bytes,
            sectors: geometry.sectors,
            entries,
            mode: run.config.mode,
        };
        let program = Program::Queue(Queue::new(config, target(run.config.target)));
        let name = format!("queue {}", queue.0);
        let thread = self.spawn_thread(run, process, &name, queue.0, program);
        self.links.queues[usize::from(queue.0)] = Some(thread);
        run.progress();
        Ret::Done
    }

    /// Whether a poll on a link would find something.
    pub(crate) fn readable(&self, thread: ThreadId, link: Link) -> bool {
        let down = |other: Option<ThreadId>| {
            other.is_some_and(|other| self.process_of(other).state.is_down())
        };
        match link {
            Link::Worker if self.links.supervisor == Some(thread) => {
                !self.links.up.is_empty() || down(self.links.worker)
            }
            Link::Worker => {
                let queue = usize::from(self.threads[thread.index()].queue);
                self.links.mail.get(queue).is_some_and(|mail| !mail.is_empty())
            }
            Link::Supervisor => !self.links.down.is_empty() || down(self.links.supervisor),
            Link::Queues => !self.links.reports.is_empty(),
            Link::Operator => self.links.commanded == Some(thread) && !self.links.orders.is_empty(),
            Link::Launcher | Link::Queue(_) => false,
        }
    }
}

impl Ring for Io<'_, '_, '_> {
    fn sq_space(&self) -> u32 {
        let Some(ring) = self.ring() else { return 0 };
        let ring = &self.world.rings[ring.index()];
        ring.entries - ring.sq.len() as u32
    }

    fn sq_ready(&self) -> u32 {
        self.ring().map_or(0, |ring| self.world.rings[ring.index()].sq.len() as u32)
    }

    fn push(&mut self, sqe: Sqe) -> Result<(), SqFull> {
        let Some(ring) = self.ring() else { return Err(SqFull) };
        if self.sq_space() == 0 {
            return Err(SqFull);
        }
        let mut sqe = sqe;
        if let Sqe::Commit { tag, result } = sqe {
            match self.run.sabotage {
                Some(Sabotage::DropCommit | Sabotage::EndlessWakeUps) if self.run.strikes() => {
                    return Ok(());
                }
                Some(Sabotage::DoubleCommit) if self.run.strikes() => {
                    self.world.rings[ring.index()].sq.push_back(Entry::Plain(sqe));
                }
                Some(Sabotage::ShortCommit) if result > 512 && self.run.strikes() => {
                    sqe = Sqe::Commit { tag, result: result - 512 };
                }
                Some(_) | None => {}
            }
        }
        self.world.rings[ring.index()].sq.push_back(Entry::Plain(sqe));
        Ok(())
    }

    fn reap(&mut self) -> Option<Cqe> {
        let ring = self.ring()?;
        if self.role == Role::Supervisor
            && self.run.sabotage == Some(Sabotage::StrayCompletion)
            && self.run.strikes()
        {
            return Some(Cqe { token: Token::Io(Tag(0)), res: 0 });
        }
        let cqe = self.world.rings[ring.index()].cq.pop_front()?;
        let abort = cqe.res == -errno::ENODEV && matches!(cqe.token, Token::Io(_));
        if abort {
            match self.run.sabotage {
                Some(Sabotage::IgnoreAbort) if self.run.strikes() => return self.reap(),
                Some(Sabotage::CommitAfterAbort) if self.run.strikes() => {
                    if let Token::Io(tag) = cqe.token {
                        let sqe = Sqe::Commit { tag, result: 0 };
                        self.world.rings[ring.index()].sq.push_back(Entry::Plain(sqe));
                    }
                }
                Some(_) | None => {}
            }
        }
        Some(cqe)
    }
}

impl Io<'_, '_, '_> {
    fn ring(&self) -> Option<RingId> {
        self.world.threads[self.thread.index()].ring
    }

    fn is_down(&self, thread: Option<ThreadId>) -> bool {
        thread.is_none_or(|thread| self.world.process_of(thread).state.is_down())
    }

    /// Wakes who polls a link, unless the wake-up is lost.
    fn notify(&mut self, thread: Option<ThreadId>, link: Link) {
        let watched = thread
            .and_then(|thread| self.world.threads[thread.index()].ring)
            .is_some_and(|ring| self.world.rings[ring.index()].watches.contains(&link));
        if watched && self.run.sabotage == Some(Sabotage::DropWakeUp) && self.run.strikes() {
            return;
        }
        self.world.notify(thread, link);
    }
}

impl Links for Io<'_, '_, '_> {
    fn send(&mut self, link: Link, message: Message) -> Result<(), SendError> {
        let actor = actor::thread(self.thread);
        self.run.note(actor, || format!("tells {link:?}: {message:?}"));
        let (links, peer) = (&mut self.world.links, link);
        let (channel, receiver, poll) = match (self.role, peer) {
            (Role::Supervisor, Link::Worker) => {
                if links.supervisor != Some(self.thread) {
                    return Err(SendError::Closed);
                }
                (&mut links.down, links.worker, Link::Supervisor)
            }
            (Role::Worker, Link::Supervisor) => (&mut links.up, links.supervisor, Link::Worker),
            (Role::Worker, Link::Queue(queue)) => {
                let index = usize::from(queue.0);
                let receiver = links.queues.get(index).copied().flatten();
                let Some(mail) = links.mail.get_mut(index) else { return Err(SendError::Closed) };
                (mail, receiver, Link::Worker)
            }
            (Role::Queue(_), Link::Worker) => (&mut links.reports, links.worker, Link::Queues),
            (Role::Supervisor, Link::Launcher) => {
                self.world.launcher_hears(self.run, message);
                return Ok(());
            }
            (
                Role::Supervisor,
                Link::Supervisor | Link::Queues | Link::Queue(_) | Link::Operator,
            )
            | (Role::Worker, Link::Worker | Link::Queues | Link::Operator | Link::Launcher)
            | (
                Role::Queue(_),
                Link::Supervisor | Link::Queues | Link::Queue(_) | Link::Operator | Link::Launcher,
            ) => return Err(SendError::Closed),
        };
        if channel.len() == LINK_MESSAGES_MAX {
            return Err(SendError::Full);
        }
        channel.push_back(message);
        if self.is_down(receiver) {
            return Err(SendError::Closed);
        }
        self.run.progress();
        self.notify(receiver, poll);
        Ok(())
    }

    fn receive(&mut self, link: Link) -> Received {
        let down = |world: &World, thread: Option<ThreadId>| {
            thread.is_none_or(|thread| world.process_of(thread).state.is_down())
        };
        let (message, closed) = match (self.role, link) {
            (Role::Supervisor, Link::Worker)
                if self.world.links.supervisor == Some(self.thread) =>
            {
                (self.world.links.up.pop_front(), down(self.world, self.world.links.worker))
            }
            (Role::Supervisor, Link::Operator) => (self.world.links.orders.pop_front(), false),
            (Role::Worker, Link::Supervisor) => {
                (self.world.links.down.pop_front(), down(self.world, self.world.links.supervisor))
            }
            (Role::Worker, Link::Queues) => (self.world.links.reports.pop_front(), false),
            (Role::Queue(queue), Link::Worker) => {
                (self.world.links.mail[usize::from(queue)].pop_front(), false)
            }
            (Role::Supervisor | Role::Worker | Role::Queue(_), _) => (None, true),
        };
        match message {
            Some(message) => Received::Message(message),
            None if closed => Received::Closed,
            None => Received::Empty,
        }
    }
}

impl SupervisorIo for Io<'_, '_, '_> {
    fn push_control(&mut self, sequence: u32, command: &Command) -> Result<(), SqFull> {
        let Some(ring) = self.ring() else { return Err(SqFull) };
        if self.sq_space() == 0 {
            return Err(SqFull);
        }
        let entry = Entry::Control(sequence, command.clone());
        self.world.rings[ring.index()].sq.push_back(entry);
        Ok(())
    }

    fn reply(&self) -> Reply {
        self.ring().map_or(Reply::Nothing, |ring| self.world.rings[ring.index()].reply)
    }
}

impl QueueIo for Io<'_, '_, '_> {
    fn descriptor(&self, tag: Tag) -> IoDesc {
        let Role::Queue(queue) = self.role else { return IoDesc::default() };
        self.world.descriptor(self.run, queue, tag.0)
    }

    fn memory(&mut self, tag: Tag, op: MemoryOp) {
        let Role::Queue(queue) = self.role else { return };
        self.world.memory(self.run, queue, tag.0, op);
        if matches!(self.run.sabotage, Some(Sabotage::LateDescriptor | Sabotage::LateBuffer)) {
            self.run.late = Some((queue, tag.0));
        }
    }
}

impl World {
    /// A server reads a descriptor: only while it owns the tag.
    pub(crate) fn descriptor(&self, run: &Run<'_>, queue: u16, tag: u16) -> IoDesc {
        let request = self.request_of(queue, tag);
        if let Some(request) = request.and_then(|request| self.requests[request.index()].as_ref()) {
            Self::describe_request(request)
        } else {
            run.violate(
                "O1",
                format!(
                    "the descriptor of queue {queue} tag {tag} is read while the kernel owns it"
                ),
            );
            IoDesc::default()
        }
    }

    /// A server touches a tag's buffer: only while it owns the tag.
    pub(crate) fn memory(&mut self, run: &Run<'_>, queue: u16, tag: u16, op: MemoryOp) {
        if !self.server_owns(queue, tag) {
            run.violate(
                "O4",
                format!(
                    "the buffer of queue {queue} tag {tag} is touched while the kernel owns it"
                ),
            );
            return;
        }
        let index = self.buffer_index(queue, tag);
        let sectors = |bytes: u64| (bytes / SECTOR) as usize;
        let buffer = &mut self.buffers[index];
        match op {
            MemoryOp::Load { offset, len } => {
                let (from, n) = (sectors(offset), sectors(u64::from(len)));
                buffer[..n].copy_from_slice(&self.store[from..from + n]);
            }
            MemoryOp::Store { offset, len } => {
                if run.sabotage == Some(Sabotage::LoseWrite) && run.strikes() {
                    return;
                }
                let (to, n) = (sectors(offset), sectors(u64::from(len)));
                self.store[to..to + n].copy_from_slice(&buffer[..n]);
            }
            MemoryOp::Zero { offset, len } => {
                self.store[sectors(offset)..sectors(offset + len)].fill(0);
            }
            MemoryOp::Clear { len } => buffer[..sectors(u64::from(len))].fill(0),
        }
    }

    /// SIGKILL strikes one of the server's processes.
    pub(crate) fn kill_someone(&mut self, run: &mut Run<'_>) {
        let running: Vec<usize> = (0..self.processes.len())
            .filter(|index| self.processes[*index].state == ProcessState::Running)
            .collect();
        if running.is_empty() {
            return;
        }
        self.budget.kills -= 1;
        let victim = running[run.choose(Site::Fault, running.len() as u32) as usize];
        let pid = self.processes[victim].pid;
        run.killed = true;
        // A worker that was told that the device is LIVE outlives its supervisor; any other gives up with it.
        let live = self.is_up();
        run.worker_killed |= self.processes[victim].geometry.is_some() || !live;
        run.note(actor::OPERATOR, || format!("SIGKILL to process {pid}"));
        self.begin_exit(ProcessId::from_index(victim), WorkerExit::Signal(SIGKILL));
    }
}

/// A call and what came of it, for the timeline.
fn describe(call: Call, ret: Ret) -> String {
    let what = match call {
        Call::SetupRing(_) => "io_uring_setup".into(),
        Call::Enter { .. } => "io_uring_enter".into(),
        Call::Sleep { ms } => format!("sleeps {ms} ms"),
        Call::SpawnWorker { .. } => "starts the worker".into(),
        Call::AttachWorker { pid } => format!("takes hold of worker {pid}"),
        Call::KillWorker => "kills the worker".into(),
        Call::ReapWorker => "reaps the worker".into(),
        Call::OpenChar => "opens ublkc".into(),
        Call::SpawnQueue { queue } => format!("starts the thread of queue {}", queue.0),
        Call::MapQueue { queue } => format!("maps queue {}", queue.0),
        Call::Exit(_) => "exits".into(),
    };
    match ret {
        Ret::Failed(errno) => format!("{what}: {errno}"),
        Ret::Exited(exit) => format!("{what}: {exit:?}"),
        Ret::Start | Ret::Done | Ret::Submitted(_) | Ret::Spawned(_) => what,
    }
}
