//! I8: after it was made and primed, a queue allocates nothing, whatever comes.

mod support;

use blkproof_engine::data::DataMode;
use blkproof_engine::queue::{Queue, QueueConfig};
use blkproof_engine::sys::{Cqe, Ret, Token};
use blkproof_engine::target::{AnyTarget, File, Mem};
use blkproof_engine::uapi::{IoDesc, Tag};
use support::{Kernel, config, settle};

const EVENTS: u32 = 1_000_000;

fn allocations(target: AnyTarget) -> u64 {
    allocations_in(DataMode::Copy, target)
}

fn allocations_in(data: DataMode, target: AnyTarget) -> u64 {
    allocations_with(data, 0, target)
}

fn allocations_with(data: DataMode, buffers: u16, target: AnyTarget) -> u64 {
    let depth = 64;
    let config = QueueConfig { data, buffers, ..config(depth, QueueConfig::ring_entries(depth)) };
    let mut queue = Queue::new(config, target);
    let mut kernel = Kernel::new(&config);
    let _ = settle(&mut queue, &mut kernel, Ret::Start);
    let info = allocation_counter::measure(|| {
        let mut events = 0;
        while events < EVENTS {
            for number in 0..depth {
                let desc = IoDesc {
                    op_flags: u32::from(number % 2),
                    nr_sectors: 8,
                    start_sector: u64::from(number) * 8,
                    addr: 0,
                };
                kernel.deliver(Tag(number), desc);
                events += 1;
            }
            let _ = settle(&mut queue, &mut kernel, Ret::Submitted(0));
            while let Some((tag, _)) = kernel.backend.pop() {
                kernel.cq.push_back(Cqe { token: Token::Backend(tag), res: 4096 });
                events += 1;
            }
            let _ = settle(&mut queue, &mut kernel, Ret::Submitted(0));
            assert_eq!(kernel.commits.len(), usize::from(depth));
            kernel.commits.clear();
        }
    });
    info.count_total
}

#[test]
fn mem_allocates_nothing_after_start() {
    assert_eq!(allocations(AnyTarget::Mem(Mem { sectors: 2048 })), 0);
}

#[test]
fn loop_allocates_nothing_after_start() {
    let file = File { sectors: 2048, logical_bs_shift: 9, discard: true, write_zeroes: true };
    assert_eq!(allocations(AnyTarget::File(file)), 0);
}

#[test]
fn other_data_modes_allocate_nothing_after_start() {
    let file = File { sectors: 2048, logical_bs_shift: 9, discard: true, write_zeroes: true };
    assert_eq!(allocations_in(DataMode::ZeroCopy, AnyTarget::File(file.clone())), 0);
    for target in [AnyTarget::Mem(Mem { sectors: 2048 }), AnyTarget::File(file)] {
        assert_eq!(allocations_in(DataMode::GetData, target.clone()), 0);
        assert_eq!(allocations_in(DataMode::UserCopy, target), 0);
    }
}

#[test]
fn batches_allocate_nothing_after_start() {
    let file = File { sectors: 2048, logical_bs_shift: 9, discard: true, write_zeroes: true };
    assert_eq!(allocations_with(DataMode::ZeroCopy, 64, AnyTarget::File(file.clone())), 0);
    for target in [AnyTarget::Mem(Mem { sectors: 2048 }), AnyTarget::File(file)] {
        for data in [DataMode::Copy, DataMode::UserCopy] {
            assert_eq!(allocations_with(data, 64, target.clone()), 0);
        }
    }
}

#[test]
fn the_counter_counts() {
    assert!(allocation_counter::measure(|| drop(std::hint::black_box(vec![1u8]))).count_total > 0);
}
