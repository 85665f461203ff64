//! Processes, threads, links and death (D1, D2).

use std::collections::VecDeque;

use blkproof_engine::cause::Cause;
use blkproof_engine::link::{FromQueue, FromWorker, Link, Order, ToQueue, ToWorker, Verdict};
use blkproof_engine::sys::{Call, Cqe, DeviceGeometry, Exit, Ret, Token, WorkerExit};
use blkproof_engine::tag::TagState;
use blkproof_engine::uapi::DevId;

use crate::run::{Run, actor};
use crate::server::Program;
use crate::world::{ProcessId, RingId, ThreadId, World};

/// The signal that no process survives.
pub(crate) const SIGKILL: u8 = 9;

/// A process.
#[expect(clippy::struct_excessive_bools, reason = "each is one independent fact")]
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Process {
    pub(crate) pid: u32,
    pub(crate) state: ProcessState,
    /// How it ends, or ended.
    pub(crate) exit: WorkerExit,
    /// Who reaps it; `None` is the launcher, which reaps at once.
    pub(crate) parent: Option<ProcessId>,
    /// What its threads serve, if it is a worker.
    pub(crate) geometry: Option<DeviceGeometry>,
    /// It has the character device open.
    pub(crate) char_open: bool,
    /// And it stays so when it executes another program.
    pub(crate) char_kept: bool,
    /// It executes another program: the address space that it had is gone.
    pub(crate) executed: bool,
    /// It is stopped by a signal.
    pub(crate) halted: bool,
    /// It has CAP_SYS_ADMIN.
    pub(crate) admin: bool,
    /// The process whose exit it watches and which it may kill.
    pub(crate) attached: Option<ProcessId>,
    /// The supervisor whose exit it watches.
    pub(crate) attached_supervisor: Option<ProcessId>,
    /// Shared memory of a specimen's threads.
    pub(crate) cells: Vec<u64>,
    /// Which thread holds each of a specimen's locks.
    pub(crate) locks: Vec<Option<ThreadId>>,
}

/// Where a process is in its life.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub(crate) enum ProcessState {
    /// It runs.
    Running,
    /// Its threads are being killed.
    Dying,
    /// Address space and files are gone; its parent has not collected it.
    Zombie,
    /// Gone.
    Reaped,
}

impl ProcessState {
    /// Its files are closed.
    pub(crate) const fn is_down(self) -> bool {
        matches!(self, Self::Zombie | Self::Reaped)
    }
}

/// A thread.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Thread {
    pub(crate) process: ProcessId,
    /// User and group. 0 may everything; in scripts only, others may nothing special.
    pub(crate) user: u32,
    /// Taken out while it runs.
    pub(crate) program: Option<Box<Program>>,
    /// The ring it enters.
    pub(crate) ring: Option<RingId>,
    /// The queue whose tags its entries name.
    pub(crate) queue: u16,
    /// Its mappings of the descriptors, each of which holds the file.
    pub(crate) mapped: u16,
    pub(crate) state: ThreadState,
    /// Task work, oldest first.
    pub(crate) work: VecDeque<Work>,
}

/// What a thread is at.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum ThreadState {
    /// In user space, about to go on with this result.
    Ready(Ret),
    /// In user space, about to make this call.
    Calling(Call),
    /// In `enter`: so many entries taken, so many to take.
    Submitting { done: u32, left: u32, wait: u32 },
    /// In `enter`: waiting for completions.
    Waiting { done: u32, wait: u32, interrupted: bool },
    /// Until a timer fires.
    Sleeping,
    /// Until a cell is not 0.
    Awaiting(u8),
    /// Until a lock is free.
    Locking(u8),
    /// Until `disk->open_mutex` is free.
    Opening,
    /// Gone.
    Dead,
}

/// A piece of task work.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Work {
    /// The dispatch of a request.
    Dispatch { ring: RingId, queue: u16, tag: u16 },
    /// The delivery of what is listed.
    Drain { ring: RingId, queue: u16 },
    /// A completion to post.
    Complete(RingId, Cqe),
}

/// The channels between the engine's machines.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub(crate) struct Links {
    /// The supervisor that started the worker.
    pub(crate) supervisor: Option<ThreadId>,
    pub(crate) worker: Option<ThreadId>,
    pub(crate) queues: Vec<Option<ThreadId>>,
    /// Supervisor to worker.
    pub(crate) down: VecDeque<ToWorker>,
    /// Worker to supervisor.
    pub(crate) up: VecDeque<FromWorker>,
    /// Worker to each queue.
    pub(crate) mail: Vec<VecDeque<ToQueue>>,
    /// Queues to worker.
    pub(crate) reports: VecDeque<FromQueue>,
    /// The launcher.
    pub(crate) launcher: Option<ThreadId>,
    /// The supervisor that brings the device up: it hears the operator.
    pub(crate) commanded: Option<ThreadId>,
    /// Operator, or launcher, to that supervisor.
    pub(crate) orders: VecDeque<Order>,
    /// Operator to launcher.
    pub(crate) interrupts: VecDeque<Order>,
    /// That supervisor to the launcher.
    pub(crate) verdicts: VecDeque<Verdict>,
    /// The user was told that the device is up.
    pub(crate) up_told: Option<DevId>,
    /// The user was told that it is not, and why.
    pub(crate) down_told: Option<Cause>,
}

impl World {
    /// Starts a process with one thread.
    pub(crate) fn spawn_process(
        &mut self,
        run: &mut Run<'_>,
        parent: Option<ProcessId>,
        name: &str,
        program: Program,
    ) -> ProcessId {
        let process = ProcessId::from_index(self.processes.len());
        self.processes.push(Process {
            pid: 100 + u32::from(process.0),
            state: ProcessState::Running,
            exit: WorkerExit::Code(0),
            parent,
            geometry: None,
            char_open: false,
            char_kept: false,
            executed: false,
            halted: false,
            admin: true,
            attached: None,
            attached_supervisor: None,
            cells: Vec::new(),
            locks: Vec::new(),
        });
        self.spawn_thread(run, process, name, 0, program);
        process
    }

    /// Starts a thread.
    pub(crate) fn spawn_thread(
        &mut self,
        run: &mut Run<'_>,
        process: ProcessId,
        name: &str,
        queue: u16,
        program: Program,
    ) -> ThreadId {
        let thread = ThreadId::from_index(self.threads.len());
        self.threads.push(Thread {
            process,
            user: 0,
            program: Some(Box::new(program)),
            ring: None,
            queue,
            mapped: 0,
            state: ThreadState::Ready(Ret::Start),
            work: VecDeque::new(),
        });
        run.add_actor(name);
        thread
    }

    /// The process that a thread belongs to.
    pub(crate) fn process_of(&self, thread: ThreadId) -> &Process {
        &self.processes[self.threads[thread.index()].process.index()]
    }

    /// The process begins to die: every thread stops at its next killable point.
    pub(crate) fn begin_exit(&mut self, process: ProcessId, exit: WorkerExit) {
        let process = &mut self.processes[process.index()];
        if process.state == ProcessState::Running {
            process.state = ProcessState::Dying;
            process.exit = exit;
        }
    }

    /// A thread says that it is finished.
    pub(crate) fn thread_exits(&mut self, run: &mut Run<'_>, thread: ThreadId, exit: Exit) {
        let process = self.threads[thread.index()].process;
        let main = self
            .threads
            .iter()
            .position(|other| other.process == process)
            .is_some_and(|first| first == thread.index());
        let code = match exit {
            Exit::Finished => 0,
            Exit::Failed(_) => 1,
            Exit::Stuck { .. } => 2,
        };
        run.seen(code);
        run.progress();
        run.note(actor::thread(thread), || format!("exits: {}", describe(&exit)));
        if let Some(Program::Supervisor(_)) = self.threads[thread.index()].program.as_deref() {
            self.operator.heard_exit(process, exit);
            self.heard_change(run, process, exit);
            self.heard_recovery(run, process, exit);
            let orphan = self
                .processes
                .iter()
                .any(|child| child.parent == Some(process) && child.state != ProcessState::Reaped);
            if orphan && !matches!(exit, Exit::Stuck { .. }) {
                run.violate("L2", "the supervisor ended before its worker".into());
            }
        }
        if let Some(Program::Launcher(launcher)) = self.threads[thread.index()].program.as_deref() {
            match (launcher.device(), exit) {
                (Some(id), _) => self.announce(id),
                (None, Exit::Failed(cause) | Exit::Stuck { cause, step: _ }) => {
                    self.links.down_told = Some(cause);
                }
                (None, Exit::Finished) => {
                    run.violate("L0", "the launcher ended well without a device".into());
                }
            }
        }
        if let Some(Program::Queue(queue)) = self.threads[thread.index()].program.as_deref() {
            let held = queue.tags().iter().filter(|tag| **tag == TagState::Owned).count();
            if held > 0 && exit == Exit::Finished {
                run.violate("L1", format!("a queue ended in good order holding {held} request(s)"));
            }
        }
        if main {
            self.begin_exit(process, WorkerExit::Code(code as u8));
            return;
        }
        self.threads[thread.index()].state = ThreadState::Dead;
        self.requests_are_forgotten(thread);
        if matches!(
            self.threads[thread.index()].program.as_deref(),
            Some(Program::Queue(_) | Program::Script(_))
        ) {
            // Ring and mapping stay until the process ends: a ring that closes takes the whole device down (H05).
            return;
        }
        // Its own ring and mapping go with it.
        if let Some(ring) = self.threads[thread.index()].ring
            && self.rings[ring.index()].owner == thread
        {
            self.close_ring(ring);
        }
        self.unmap(run, thread);
    }

    /// Drops a thread's mappings of the descriptors.
    pub(crate) fn unmap(&mut self, run: &mut Run<'_>, thread: ThreadId) {
        self.unmap_some(run, thread, self.threads[thread.index()].mapped);
    }

    /// So many of a thread's mappings go.
    pub(crate) fn unmap_some(&mut self, run: &mut Run<'_>, thread: ThreadId, count: u16) {
        if count > 0 {
            self.threads[thread.index()].mapped -= count;
            if let Some(device) = &mut self.device {
                device.file_refs -= count;
            }
            self.file_dropped(run);
        }
    }

    /// Whether a thread of a dying process can die now: not in an uninterruptible call, none of its io-wq items running (D1).
    pub(crate) fn can_die(&self, thread: ThreadId) -> bool {
        let state = &self.threads[thread.index()].state;
        !matches!(state, ThreadState::Dead | ThreadState::Submitting { .. } | ThreadState::Opening)
            && !self.controls.iter().flatten().any(|control| control.thread == thread)
            && !self.is_at_the_disk(thread)
    }

    /// D1: a thread of a dying process is gone.
    pub(crate) fn thread_dies(&mut self, run: &mut Run<'_>, thread: ThreadId) {
        if self.is_poller(thread) {
            self.poller_dies(run, thread);
        }
        self.threads[thread.index()].state = ThreadState::Dead;
        run.note(actor::thread(thread), || "D1: dead".into());
        self.requests_are_forgotten(thread);
        let process = self.threads[thread.index()].process;
        for lock in &mut self.processes[process.index()].locks {
            if *lock == Some(thread) {
                *lock = None;
            }
        }
        let all_dead = self
            .threads
            .iter()
            .all(|other| other.process != process || other.state == ThreadState::Dead);
        if all_dead {
            self.process_down(run, process);
        }
    }

    /// D2: the last thread takes the address space and the files with it. The exit becomes visible.
    fn process_down(&mut self, run: &mut Run<'_>, process: ProcessId) {
        for index in 0..self.threads.len() {
            if self.threads[index].process == process {
                self.unmap(run, ThreadId::from_index(index));
                self.leaves_disk(run, ThreadId::from_index(index));
            }
        }
        self.close_char(run, process);
        for index in 0..self.rings.len() {
            self.let_go_of_ring(RingId::from_index(index), process);
        }
        let (parent, pid) =
            (self.processes[process.index()].parent, self.processes[process.index()].pid);
        run.progress();
        run.kernel(|| format!("D2: process {pid} has exited"));
        let orphan = parent.is_none_or(|parent| self.processes[parent.index()].state.is_down());
        self.processes[process.index()].state =
            if orphan { ProcessState::Reaped } else { ProcessState::Zombie };
        for child in &mut self.processes {
            if child.parent == Some(process) && child.state == ProcessState::Zombie {
                child.state = ProcessState::Reaped;
            }
        }
        // Polls on its pidfd, and end-of-file on its links.
        for index in 0..self.rings.len() {
            let watches = &mut self.rings[index].watches_processes;
            let Some(at) = watches.iter().position(|(of, _)| *of == process) else { continue };
            let (_, token) = watches.remove(at);
            let (ring, owner) = (RingId::from_index(index), self.rings[index].owner);
            self.post_by_task_work(owner, ring, Cqe { token, res: 1 });
        }
        let of = |thread: Option<ThreadId>| {
            thread.is_some_and(|thread| self.threads[thread.index()].process == process)
        };
        let (was_supervisor, was_worker, was_commanded) =
            (of(self.links.supervisor), of(self.links.worker), of(self.links.commanded));
        if was_supervisor {
            self.notify(self.links.worker, Link::Supervisor);
        }
        if was_commanded {
            self.notify(self.links.launcher, Link::Supervisor);
        }
        if was_worker {
            self.notify(self.links.supervisor, Link::Worker);
        }
    }

    /// Closes a process's descriptor of the character device.
    pub(crate) fn close_char(&mut self, run: &mut Run<'_>, process: ProcessId) {
        if std::mem::take(&mut self.processes[process.index()].char_open) {
            if let Some(device) = &mut self.device {
                device.file_refs -= 1;
            }
            self.file_dropped(run);
        }
    }

    /// Something happened on a link: a poll on it completes.
    pub(crate) fn notify(&mut self, thread: Option<ThreadId>, link: Link) {
        let Some(thread) = thread else { return };
        let Some(ring) = self.threads[thread.index()].ring else { return };
        let watches = &mut self.rings[ring.index()].watches;
        if let Some(at) = watches.iter().position(|one| *one == link) {
            watches.remove(at);
            self.post_by_task_work(thread, ring, Cqe { token: Token::Link(link), res: 1 });
        }
    }

    /// Whether a process is gone as far as others can see.
    pub(crate) fn process_by_pid(&self, pid: u32) -> Option<ProcessId> {
        let index = self.processes.iter().position(|process| process.pid == pid)?;
        (self.processes[index].state != ProcessState::Reaped).then(|| ProcessId::from_index(index))
    }
}

/// An exit, for the timeline.
pub(crate) fn describe(exit: &Exit) -> String {
    match exit {
        Exit::Finished => "finished".into(),
        Exit::Failed(cause) => format!("failed: {cause}"),
        Exit::Stuck { cause, step } => format!("stuck in {step}: {cause}"),
    }
}
