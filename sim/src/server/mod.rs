//! The server's threads: the engine's own machines, or a specimen's, resumed one call at a time.

mod calls;
mod io;

use blkproof_engine::launcher::Launcher;
use blkproof_engine::pending::Pending;
use blkproof_engine::query::Query;
use blkproof_engine::queue::Queue;
use blkproof_engine::supervisor::Supervisor;
use blkproof_engine::sys::{Call, Ret};
use blkproof_engine::target::{AnyTarget, File, Mem, Null};
use blkproof_engine::uapi::Errno;
use blkproof_engine::worker::Worker;

use crate::config::TargetKind;
use crate::kernel::errno;
use crate::kernel::process::{ProcessState, ThreadState};
use crate::run::{Run, Sabotage};
use crate::specimens::{Act, Server, Sys};
use crate::world::{DEVICE_SECTORS, ThreadId, TimerKind, World};
use io::{Io, Role};

/// What a thread runs.
#[expect(clippy::large_enum_variant, reason = "a thread has its program in a box")]
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Program {
    /// The engine's launcher.
    Launcher(Launcher),
    /// The engine's question to the driver.
    Query(Query),
    /// The engine's supervisor.
    Supervisor(Supervisor),
    /// The engine's worker.
    Worker(Worker),
    /// The engine's queue.
    Queue(Queue<AnyTarget>),
    /// An actor of a script.
    Script(crate::script::Actor),
    /// The kernel's thread that submits for a ring.
    Poller,
    /// A thread of a specimen.
    Specimen(Server),
}

impl Program {
    /// What an engine machine says it waits for.
    pub(crate) fn pending(&self) -> Vec<Pending> {
        let mut sink = Vec::new();
        match self {
            Self::Launcher(machine) => machine.pending(&mut sink),
            Self::Query(machine) => machine.pending(&mut sink),
            Self::Supervisor(machine) => machine.pending(&mut sink),
            Self::Worker(machine) => machine.pending(&mut sink),
            Self::Queue(machine) => machine.pending(&mut sink),
            Self::Script(_) | Self::Poller | Self::Specimen(_) => {}
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
            ThreadState::Opening => self.opens_disk(thread),
            ThreadState::Sleeping | ThreadState::Dead => {}
        }
    }

    /// Whether a thread can move (apart from task work and death).
    pub(crate) fn thread_can_move(&self, thread: ThreadId) -> bool {
        let state = &self.threads[thread.index()];
        let process = &self.processes[state.process.index()];
        let running = process.state == ProcessState::Running && !process.halted;
        match state.state {
            ThreadState::Submitting { .. } => !self.fetch_blocked(thread),
            ThreadState::Ready(_) | ThreadState::Calling(_) => running,
            ThreadState::Waiting { wait, interrupted, .. } => {
                running && self.can_return(thread, wait, interrupted)
            }
            ThreadState::Awaiting(cell) => running && process.cells[usize::from(cell)] != 0,
            ThreadState::Locking(lock) => running && process.locks[usize::from(lock)].is_none(),
            // A mutex, which no signal ends the wait for.
            ThreadState::Opening => self.open_mutex_free(),
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
                Program::Launcher(machine) => {
                    let mut io = Io { world: self, run, thread, role: Role::Launcher };
                    machine.resume(ret, &mut io)
                }
                Program::Query(machine) => {
                    let mut io = Io { world: self, run, thread, role: Role::Supervisor };
                    machine.resume(ret, &mut io)
                }
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
                Program::Script(actor) => {
                    run.kernel_code();
                    if let Some(result) = actor.returned(ret) {
                        self.script_events.push(result);
                    }
                    self.threads[thread.index()].state = ThreadState::Sleeping;
                    break;
                }
                Program::Poller => {
                    run.kernel_code();
                    self.threads[thread.index()].state = ThreadState::Sleeping;
                    break;
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
                Call::Enter { submit, wait } => {
                    if wait > 0 && run.sabotage == Some(Sabotage::DropIdlePages) {
                        self.drop_idle_pages(thread);
                    }
                    self.enter(run, thread, submit, wait);
                }
                Call::Sleep { ms } => {
                    self.arm(u64::from(ms) * 1000, TimerKind::Sleep(thread));
                    self.threads[thread.index()].state = ThreadState::Sleeping;
                }
                Call::SetupRing(_)
                | Call::SpawnWorker { .. }
                | Call::AttachWorker { .. }
                | Call::KillWorker
                | Call::ReapWorker
                | Call::AttachSupervisor { .. }
                | Call::StopSupervisor
                | Call::AskSupervisor { .. }
                | Call::FitStore { .. }
                | Call::FindNode { .. }
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

    /// A thread that is about to wait gives the pages of its buffers back, whatever is under way on them.
    fn drop_idle_pages(&mut self, thread: ThreadId) {
        for index in 0..self.disk.in_flight.len() {
            let operation = &self.disk.in_flight[index];
            if operation.thread == thread && operation.pages.is_none() {
                let buffer = self.buffer_index(operation.queue, operation.tag);
                self.buffers[buffer].fill(0);
            }
        }
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
            Act::Vanish => ThreadState::Dead,
            Act::Exit => ThreadState::Calling(Call::Exit(blkproof_engine::sys::Exit::Finished)),
        };
    }
}
