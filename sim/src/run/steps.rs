//! The steps that can be taken, in a fixed order, and taking one.

use blkproof_engine::sys::{Cqe, Ret, Token};

use crate::choices::TIME;
use crate::kernel::errno;
use crate::kernel::process::{ProcessState, ThreadState};
use crate::kernel::ring::RingState;
use crate::run::Run;
use crate::world::{ControlId, RequestId, RingId, ThreadId, TimerKind, World};

/// Something that can happen next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Step {
    /// A thread goes on.
    Thread(ThreadId),
    /// TW.
    TaskWork(ThreadId),
    /// TWX.
    Fallback(ThreadId),
    /// D1.
    Die(ThreadId),
    /// An io-wq worker goes on with a control command.
    Control(ControlId),
    /// X1, X2, RE.
    RingExit(RingId),
    /// RWb..RWe.
    Release,
    /// The partition scan.
    Scan,
    /// Q.
    Admit(RequestId),
    /// A backend operation completes.
    Disk(u16),
    /// A client goes on.
    Client(u16),
    /// udev goes on.
    Udev,
    /// The operator goes on.
    Operator,
    /// Time passes until the next timer.
    Clock,
}

impl Step {
    /// A number for the rolling hash.
    pub(crate) const fn code(self) -> u64 {
        let (kind, which) = match self {
            Self::Thread(id) => (1, id.0),
            Self::TaskWork(id) => (2, id.0),
            Self::Fallback(id) => (3, id.0),
            Self::Die(id) => (4, id.0),
            Self::Control(id) => (5, id.0),
            Self::RingExit(id) => (6, id.0),
            Self::Release => (7, 0),
            Self::Scan => (8, 0),
            Self::Admit(id) => (9, id.0),
            Self::Disk(index) => (10, index),
            Self::Client(index) => (11, index),
            Self::Udev => (12, 0),
            Self::Operator => (13, 0),
            Self::Clock => (14, 0),
        };
        kind << 32 | which as u64
    }

    /// The source of the event, for strategies with priorities. `fired` is how often time has passed: each time is a source
    /// of its own, as timers have nothing to do with each other.
    pub(crate) fn source(self, world: &World, fired: u64) -> u64 {
        match self {
            Self::Disk(index) => {
                // Operations move up when one before them is done; whose they are stays.
                let operation = &world.disk.in_flight[usize::from(index)];
                let whose = u64::from(operation.queue) << 16 | u64::from(operation.tag);
                Self::Disk(0).code() | whose
            }
            Self::Clock => TIME | fired,
            step => step.code(),
        }
    }
}

/// Collects what can happen next, apart from time passing.
pub(crate) fn collect(world: &World, enabled: &mut Vec<Step>) {
    enabled.clear();
    for (index, thread) in world.threads.iter().enumerate() {
        let id = ThreadId::from_index(index);
        if !thread.work.is_empty() {
            if world.can_run_fallback(id) {
                enabled.push(Step::Fallback(id));
            } else if world.can_run_task_work(id) {
                enabled.push(Step::TaskWork(id));
            }
        }
        if thread.state == ThreadState::Dead {
            continue;
        }
        if world.thread_can_move(id) {
            enabled.push(Step::Thread(id));
        }
        let process = &world.processes[thread.process.index()];
        if process.state == ProcessState::Dying && world.can_die(id) {
            enabled.push(Step::Die(id));
        }
    }
    for (index, control) in world.controls.iter().enumerate() {
        if control.as_ref().is_some_and(|control| world.control_can_move(control)) {
            enabled.push(Step::Control(ControlId::from_index(index)));
        }
    }
    for (index, ring) in world.rings.iter().enumerate() {
        let id = RingId::from_index(index);
        if ring.state == RingState::Exiting && world.ring_exit_can_move(id) {
            enabled.push(Step::RingExit(id));
        }
    }
    if world.device.is_some() {
        if world.release_can_move() {
            enabled.push(Step::Release);
        }
        if world.scan_can_move() {
            enabled.push(Step::Scan);
        }
        if world.requests_live > 0 {
            for (index, request) in world.requests.iter().enumerate() {
                let id = RequestId::from_index(index);
                if request.as_ref().is_some_and(|request| world.can_admit(id, request)) {
                    enabled.push(Step::Admit(id));
                }
            }
        }
    }
    for (index, operation) in world.disk.in_flight.iter().enumerate() {
        if !operation.late {
            enabled.push(Step::Disk(index as u16));
        }
    }
    for index in 0..world.clients.len() {
        if world.client_can_move(index) {
            enabled.push(Step::Client(index as u16));
        }
    }
    if world.udev_can_move() {
        enabled.push(Step::Udev);
    }
    if world.operator_can_move() {
        enabled.push(Step::Operator);
    }
}

/// Takes a step.
pub(crate) fn take(world: &mut World, run: &mut Run<'_>, step: Step) {
    match step {
        Step::Thread(thread) => world.thread_step(run, thread),
        Step::TaskWork(thread) => world.task_work(run, thread),
        Step::Fallback(thread) => world.fallback(run, thread),
        Step::Die(thread) => world.thread_dies(run, thread),
        Step::Control(control) => world.control_step(run, control),
        Step::RingExit(ring) => world.ring_exit_step(run, ring),
        Step::Release => world.release_step(run),
        Step::Scan => world.scan_step(run),
        Step::Admit(request) => world.admit(run, request),
        Step::Disk(index) => world.disk_step(run, usize::from(index)),
        Step::Client(index) => world.client_step(run, usize::from(index)),
        Step::Udev => world.udev_step(run),
        Step::Operator => world.operator_step(run),
        Step::Clock => unreachable!("time is not a step of the world"),
    }
}

/// Time passes until the next timer, which fires. Returns how much.
pub(crate) fn advance(world: &mut World, run: &mut Run<'_>) -> u64 {
    let timer = world.timers.remove(0);
    for other in &mut world.timers {
        other.left_us -= timer.left_us;
    }
    match timer.what {
        TimerKind::Sleep(thread) => {
            let state = &mut world.threads[thread.index()].state;
            if *state == ThreadState::Sleeping {
                *state = ThreadState::Ready(Ret::Done);
            }
        }
        TimerKind::Ring(ring, generation) => {
            let owner = world.rings[ring.index()].owner;
            let cqe = Cqe { token: Token::Timer(generation), res: -errno::ETIME };
            world.post_by_task_work(owner, ring, cqe);
        }
        TimerKind::Udev => world.udev_timer(run),
        TimerKind::Disk => world.disk_timer(),
        TimerKind::Requests(queue) => world.requests_take_long(run, queue),
        TimerKind::LetGo => world.lets_go(run),
        TimerKind::Continue(process) => world.goes_on(run, process),
    }
    timer.left_us
}
