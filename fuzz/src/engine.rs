//! The engine's machines over a kernel that answers whatever it likes.
//!
//! Only the border itself is kept (I1): a call gets a result that it can have, a submission completes once, links carry their own messages and no
//! more of them than they may, an answer is that of the command. Results, errors, descriptors, and the order of everything come from
//! the input. No machine may panic, whatever that is.

mod kernel;
mod peers;

use blkproof_engine::control::Command;
use blkproof_engine::data::DataMode;
use blkproof_engine::launcher::Launcher;
use blkproof_engine::pending::Pending;
use blkproof_engine::query::Query;
use blkproof_engine::queue::{Queue, QueueConfig};
use blkproof_engine::supervisor::{Deadlines, Errand, Plan, Recovery, Supervisor, Wanted};
use blkproof_engine::sys::{Call, DeviceGeometry, Ret, RingMode};
use blkproof_engine::target::{AnyTarget, File, Mem, Null, Target};
use blkproof_engine::uapi::{DevId, QueueId};
use blkproof_engine::worker::Worker;

use kernel::{Did, Input, Kernel};

/// Resumptions of one machine; inputs that go on are cut here.
const RESUMPTIONS_MAX: u32 = 4_000;
/// Sectors of the device.
const SECTORS: u64 = 2_048;
/// Resumes a machine until it ends, or waits for what never comes.
fn drive(
    kernel: &mut Kernel<'_>,
    mut resume: impl FnMut(Ret, &mut Kernel<'_>) -> (Call, Vec<Pending>),
) {
    let mut ret = Ret::Start;
    for _ in 0..RESUMPTIONS_MAX {
        let (call, pending) = resume(ret, kernel);
        for one in &pending {
            assert!(!one.awaits.to_string().is_empty(), "a wait has a name");
        }
        let Some(next) = kernel.call(call) else { return };
        ret = next;
    }
}

fn target(kind: usize) -> AnyTarget {
    match kind {
        0 => AnyTarget::Null(Null { sectors: SECTORS }),
        1 => AnyTarget::Mem(Mem { sectors: SECTORS }),
        _ => AnyTarget::File(File {
            sectors: SECTORS,
            logical_bs_shift: 9,
            discard: true,
            write_zeroes: true,
        }),
    }
}

fn mode(input: &mut Input<'_>, target: &AnyTarget) -> DataMode {
    let modes = [DataMode::Copy, DataMode::GetData, DataMode::UserCopy, DataMode::ZeroCopy];
    let mode = modes[input.below(modes.len())];
    if target.serves_in(mode) { mode } else { DataMode::Copy }
}

fn queue(mut input: Input<'_>) -> Did {
    let target = target(input.below(3));
    let data = mode(&mut input, &target);
    let depth = 1 + input.below(4) as u16;
    let batched = data != DataMode::GetData && input.below(2) == 1;
    let config = QueueConfig {
        id: QueueId(0),
        depth,
        buffer_bytes: 64 << 10,
        sectors: SECTORS,
        entries: [2, QueueConfig::ring_entries(depth)][input.below(2)],
        mode: [RingMode::Default, RingMode::DeferTaskrun][input.below(2)],
        data,
        buffers: if batched { depth } else { 0 },
        shared_bytes: if data.shares() && input.below(2) == 1 { 1 << 20 } else { 0 },
    };
    let mut kernel = Kernel::new(input, config.entries, 1, depth);
    let mut queue = Queue::new(config, target);
    drive(&mut kernel, |ret, io| {
        let call = queue.resume(ret, io);
        let mut waits = Vec::new();
        queue.pending(&mut waits);
        (call, waits)
    });
    kernel.did
}

fn worker(mut input: Input<'_>) -> Did {
    let device = DeviceGeometry {
        id: DevId(0),
        queues: 1 + input.below(4) as u16,
        depth: 1 + input.below(4) as u16,
        buffer_bytes: 64 << 10,
        sectors: SECTORS,
        data: DataMode::Copy,
        batch: input.below(2) == 1,
        shared_bytes: 0,
    };
    let mut kernel = Kernel::new(input, 2, device.queues, device.depth);
    let mut worker = Worker::new(device, RingMode::DeferTaskrun);
    drive(&mut kernel, |ret, io| {
        let call = worker.resume(ret, io);
        let mut waits = Vec::new();
        worker.pending(&mut waits);
        (call, waits)
    });
    kernel.did
}

fn deadlines(input: &mut Input<'_>) -> Deadlines {
    if input.below(2) == 0 { Deadlines::DEFAULT } else { Deadlines::NONE }
}

fn supervisor(mut input: Input<'_>) -> Did {
    let target = target(input.below(3));
    let data = mode(&mut input, &target);
    let id = DevId(0);
    let plan = match input.below(8) {
        0 => Plan::Recover { id, identity: 7, restart: input.below(2) == 1, shared_bytes: 0 },
        1 => {
            let worker = (input.below(2) == 1).then_some(5);
            let supervisor = (input.below(2) == 1).then_some(6);
            Plan::Delete { id, worker, supervisor, if_unused: input.below(2) == 1 }
        }
        2 => {
            let sectors = input.number().into();
            let errand = [Errand::Recover, Errand::Handover, Errand::Resize { sectors }];
            Plan::Ask { errand: errand[input.below(3)], id, identity: 0, supervisor: 6 }
        }
        _ => {
            let recovery = Recovery::ALL[input.below(Recovery::ALL.len())];
            let wanted = Wanted {
                id: None,
                queues: 1 + input.below(4) as u16,
                depth: 1 + input.below(4) as u16,
                buffer_bytes: 64 << 10,
                data,
                batch: data != DataMode::GetData && input.below(2) == 1,
                recovery,
                identity: 7,
                shared: None,
            };
            Plan::serve(wanted, recovery != Recovery::None && input.below(2) == 1, &target)
        }
    };
    let mut supervisor = Supervisor::new(plan, deadlines(&mut input));
    let mut kernel = Kernel::new(input, 2, 4, 4);
    drive(&mut kernel, |ret, io| {
        let call = supervisor.resume(ret, io);
        let mut waits = Vec::new();
        supervisor.pending(&mut waits);
        (call, waits)
    });
    kernel.did
}

fn launcher(mut input: Input<'_>) -> Did {
    let deadlines = deadlines(&mut input);
    let recovers = input.below(2) == 1;
    let mut launcher =
        if recovers { Launcher::of_recovery(deadlines) } else { Launcher::new(deadlines) };
    let mut kernel = Kernel::new(input, 2, 1, 1);
    drive(&mut kernel, |ret, io| {
        let call = launcher.resume(ret, io);
        let mut waits = Vec::new();
        launcher.pending(&mut waits);
        (call, waits)
    });
    kernel.did
}

fn query(mut input: Input<'_>) -> Did {
    let commands =
        [Command::GetFeatures, Command::GetDevInfo(DevId(0)), Command::GetParams(DevId(0))];
    let mut query = Query::new(commands[input.below(3)].clone());
    let mut kernel = Kernel::new(input, 2, 1, 1);
    drive(&mut kernel, |ret, io| {
        let call = query.resume(ret, io);
        let mut waits = Vec::new();
        query.pending(&mut waits);
        (call, waits)
    });
    kernel.did
}

/// One machine, which the first byte chooses, under arbitrary events: it never panics, its invariants hold, and errors are values.
pub fn engine(data: &[u8]) {
    any_machine(data);
}

/// Whether this input brings a supervisor as far as START_DEV.
pub(crate) fn starts(data: &[u8]) -> bool {
    any_machine(data).starts > 0
}

fn any_machine(data: &[u8]) -> Did {
    let mut input = Input(data);
    match input.below(8) {
        0..=2 => queue(input),
        3 => worker(input),
        4 | 5 => supervisor(input),
        6 => launcher(input),
        _ => query(input),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand_chacha::ChaCha8Rng;
    use rand_chacha::rand_core::{Rng, SeedableRng};

    /// Noise takes every machine to what it is for, often enough that what breaks on the way is found.
    #[test]
    fn inputs_get_somewhere() {
        let mut generator = ChaCha8Rng::seed_from_u64(1);
        let mut all = Did::default();
        for _ in 0..4_000 {
            let mut input = [0; 256];
            generator.fill_bytes(&mut input);
            let did = any_machine(&input);
            all.commits += did.commits;
            all.starts += did.starts;
            all.deletions += did.deletions;
            all.queues += did.queues;
        }
        println!("{all:?}");
        assert!(all.commits > 100 && all.queues > 100 && all.deletions > 50, "{all:?}");
        assert!(all.starts > 10, "{all:?}");
    }
}
