//! Who waits for what, who owes it, and why.

use blkproof_engine::pending::{Otherwise, Owner};

use crate::kernel::block::{Issuer, Phase};
use crate::kernel::control::Pc;
use crate::kernel::process::{ProcessState, ThreadState};
use crate::kernel::tags::TagState;
use crate::outcome::Wait;
use crate::run::{Run, actor};
use crate::server::Program;
use crate::world::{ThreadId, World};

/// Everybody who waits, those first whose wait is somebody's debt.
pub(super) fn collect(world: &World, run: &Run<'_>) -> Vec<Wait> {
    let mut waits = Vec::new();
    controls(world, &mut waits);
    requests(world, &mut waits);
    for index in 0..world.threads.len() {
        thread(world, run, ThreadId::from_index(index), &mut waits);
    }
    waits
}

/// The thread that serves a queue.
fn server_of(world: &World, queue: u16) -> Option<usize> {
    world
        .threads
        .iter()
        .position(|thread| {
            thread.queue == queue
                && matches!(
                    thread.program.as_deref(),
                    Some(Program::Queue(_) | Program::Specimen(_))
                )
                && serves(thread.program.as_deref())
        })
        .map(|index| actor::THREADS + index)
}

fn serves(program: Option<&Program>) -> bool {
    match program {
        Some(Program::Specimen(server)) => server.serves(),
        Some(Program::Queue(_)) => true,
        Some(
            Program::Launcher(_)
            | Program::Query(_)
            | Program::Script(_)
            | Program::Poller
            | Program::Supervisor(_)
            | Program::Worker(_),
        )
        | None => false,
    }
}

fn controls(world: &World, waits: &mut Vec<Wait>) {
    for control in world.controls.iter().flatten() {
        let device = world.device.as_ref();
        let queue = device.and_then(|device| {
            (0..device.queues).find(|queue| match control.pc {
                Pc::StartWait | Pc::StartLocked => device.missing(*queue) > 0,
                _ => device.tags.iter().enumerate().any(|(slot, tag)| {
                    slot / usize::from(device.depth) == usize::from(*queue) && tag.carries()
                }),
            })
        });
        let owner = queue.and_then(|queue| server_of(world, queue));
        waits.push(Wait {
            actor: actor::KERNEL,
            awaits: world.control_awaits(control),
            owner,
            because: owner.map_or(String::new(), |owner| {
                state_of(world, ThreadId::from_index(owner - actor::THREADS))
            }),
        });
    }
}

fn requests(world: &World, waits: &mut Vec<Wait>) {
    for (index, request) in world.requests.iter().enumerate() {
        let Some(request) = request else { continue };
        let actor = match request.issuer {
            Issuer::Client(client) => usize::from(client),
            Issuer::Udev => actor::UDEV,
            Issuer::Scan | Issuer::Zones | Issuer::Script(_) | Issuer::Cache => actor::KERNEL,
        };
        let what = request.op.name();
        let held = world.device.as_ref().and_then(|device| {
            device.tags.iter().find_map(|slot| match slot.state {
                TagState::Served(id) | TagState::Announced(id) | TagState::Lingering(_, id, _)
                    if id.index() == index =>
                {
                    Some((slot.task, true))
                }
                TagState::Queued(_, id) | TagState::Listed(id) if id.index() == index => {
                    Some((slot.task, false))
                }
                TagState::Served(_)
                | TagState::Announced(_)
                | TagState::Lingering(..)
                | TagState::Queued(..)
                | TagState::Listed(_)
                | TagState::Prepared
                | TagState::Unfetched
                | TagState::Armed(_)
                | TagState::Cancelled => None,
            })
        });
        let owner = held.and_then(|(task, _)| task).map(|task| actor::THREADS + task.index());
        let because = match held {
            Some((_, true)) => "it was delivered and is not committed".into(),
            Some((_, false)) => "its dispatch waits for the thread to run its task work".into(),
            None if request.phase == Phase::Waiting => "no tag is free".into(),
            None => String::new(),
        };
        let awaits = format!("waits for its {what}");
        waits.push(Wait { actor, awaits, owner: owner.or(Some(actor::KERNEL)), because });
    }
}

/// What a thread is at, in a phrase.
fn state_of(world: &World, thread: ThreadId) -> String {
    let state = &world.threads[thread.index()];
    if state.state == ThreadState::Dead {
        return "the thread is gone".into();
    }
    if world.process_of(thread).halted {
        return "its process is stopped (SIGSTOP)".into();
    }
    if let Some(Program::Specimen(server)) = state.program.as_deref() {
        return server.waits().what.into();
    }
    match state.state {
        ThreadState::Dead => "the thread is gone".into(),
        ThreadState::Waiting { .. } => "it waits in io_uring_enter".into(),
        ThreadState::Submitting { .. } => "it is blocked submitting a FETCH".into(),
        ThreadState::Sleeping => "it sleeps".into(),
        ThreadState::Opening => "it waits for disk->open_mutex".into(),
        ThreadState::Awaiting(_) | ThreadState::Locking(_) => "it waits for another thread".into(),
        ThreadState::Ready(_) | ThreadState::Calling(_) => String::new(),
    }
}

fn thread(world: &World, run: &Run<'_>, id: ThreadId, waits: &mut Vec<Wait>) {
    let thread = &world.threads[id.index()];
    let process = &world.processes[thread.process.index()];
    if thread.state == ThreadState::Dead || process.state == ProcessState::Reaped {
        return;
    }
    let actor = actor::thread(id);
    if process.state == ProcessState::Dying {
        let control = world.controls.iter().flatten().find(|control| control.thread == id);
        waits.push(Wait {
            actor,
            awaits: "is to die".into(),
            owner: Some(actor::KERNEL),
            because: match control {
                Some(control) => format!("its io-wq worker: {}", world.control_awaits(control)),
                None => state_of(world, id),
            },
        });
        return;
    }
    let Some(program) = thread.program.as_deref() else { return };
    if let Program::Specimen(server) = program {
        let said = server.waits();
        let named =
            said.owner.and_then(|name| run.actors.iter().position(|actor| actor.name == name));
        // A control command in flight is the kernel's to complete, whatever the kernel waits for itself.
        let commands = world.controls.iter().flatten().any(|control| control.thread == id);
        let owner = named.or(commands.then_some(actor::KERNEL));
        waits.push(Wait { actor, awaits: said.what.into(), owner, because: said.because.into() });
        return;
    }
    for pending in program.pending() {
        let owner = match pending.owner {
            Owner::Kernel | Owner::Backend => Some(actor::KERNEL),
            Owner::Client => Some(0),
            Owner::Operator => Some(actor::OPERATOR),
            Owner::Engine => peer(world, program),
        };
        let because = match pending.otherwise {
            Otherwise::WaitOn => String::new(),
            other => format!("{other}"),
        };
        let awaits = format!("waits for {}", pending.awaits);
        // A wait that is its normal state is nobody's debt.
        let owner = owner.filter(|_| !matches!(pending.owner, Owner::Client | Owner::Operator));
        waits.push(Wait { actor, awaits, owner, because });
    }
}

/// The other machine that an engine machine waits for.
fn peer(world: &World, program: &Program) -> Option<usize> {
    let peer = match program {
        Program::Supervisor(_) => world.links.worker,
        Program::Worker(_) => world
            .links
            .queues
            .iter()
            .copied()
            .flatten()
            .find(|queue| world.threads[queue.index()].state != ThreadState::Dead)
            .or(world.links.supervisor),
        Program::Queue(_) => world.links.worker,
        Program::Launcher(_) => world.links.commanded,
        Program::Query(_) | Program::Script(_) | Program::Poller | Program::Specimen(_) => None,
    };
    peer.map(|thread| actor::THREADS + thread.index())
}
