//! The queue machine against its invariants, under every ordering that proptest can think of.

mod support;

use std::collections::BTreeMap;

use blkproof_engine::data::{Address, DataMode, TagMemory};
use blkproof_engine::link::{FromQueue, ToQueue};
use blkproof_engine::queue::{Phase, Queue, QueueConfig};
use blkproof_engine::sys::{Call, Cqe, Exit, MemoryOp, Ret, Token};
use blkproof_engine::tag::COMMIT_RETRIES_MAX;
use blkproof_engine::target::{AnyTarget, File, Mem, Null, Target};
use blkproof_engine::uapi::{Errno, IoDesc, QueueId, RequestFlags, ShmemAddr, Tag};
use proptest::prelude::*;
use support::{Kernel, KernelTag, Slot, config, settle};

const READ: u32 = 0;
const WRITE: u32 = 1;
const FLUSH: u32 = 2;

fn desc(op: u32, start_sector: u64, nr_sectors: u32) -> IoDesc {
    IoDesc { op_flags: op, nr_sectors, start_sector, addr: 0 }
}

fn mem_queue(depth: u16, entries: u32) -> (Queue<AnyTarget>, Kernel) {
    mem_queue_in(DataMode::Copy, depth, entries)
}

fn mem_queue_in(data: DataMode, depth: u16, entries: u32) -> (Queue<AnyTarget>, Kernel) {
    let config = QueueConfig { data, ..config(depth, entries) };
    let target = AnyTarget::Mem(Mem { sectors: config.sectors });
    (Queue::new(config, target), Kernel::new(&config))
}

fn file_queue(depth: u16, entries: u32) -> (Queue<AnyTarget>, Kernel) {
    file_queue_in(DataMode::Copy, depth, entries)
}

fn file_queue_in(data: DataMode, depth: u16, entries: u32) -> (Queue<AnyTarget>, Kernel) {
    let config = QueueConfig { data, ..config(depth, entries) };
    (Queue::new(config, file(config.sectors)), Kernel::new(&config))
}

fn file(sectors: u64) -> AnyTarget {
    AnyTarget::File(File { sectors, logical_bs_shift: 9, discard: true, write_zeroes: true })
}

#[test]
fn primes_every_tag_once_and_reports() {
    let (mut queue, mut kernel) = mem_queue(8, QueueConfig::ring_entries(8));
    let call = settle(&mut queue, &mut kernel, Ret::Start);
    assert_eq!(call, Call::Enter { submit: 0, wait: 1 });
    assert_eq!(kernel.tags, vec![KernelTag::Armed; 8]);
    assert_eq!(kernel.sent, [FromQueue::Ready(QueueId(0)), FromQueue::Primed(QueueId(0))]);
    assert_eq!(queue.phase(), Phase::Serving);
}

#[test]
fn primes_through_a_ring_of_two_entries() {
    let (mut queue, mut kernel) = mem_queue(64, 2);
    let _ = settle(&mut queue, &mut kernel, Ret::Start);
    assert_eq!(kernel.tags, vec![KernelTag::Armed; 64]);
    assert_eq!(kernel.sent, [FromQueue::Ready(QueueId(0)), FromQueue::Primed(QueueId(0))]);
}

#[test]
fn serves_and_commits_the_full_length() {
    let (mut queue, mut kernel) = mem_queue(2, 4);
    let _ = settle(&mut queue, &mut kernel, Ret::Start);
    kernel.deliver(Tag(1), desc(WRITE, 8, 8));
    let _ = settle(&mut queue, &mut kernel, Ret::Submitted(0));
    assert_eq!(kernel.commits, [(Tag(1), 4096)]);
    assert_eq!(kernel.memory, 1);
}

#[test]
fn refuses_what_lies_outside_the_device_or_the_buffer() {
    let (mut queue, mut kernel) = mem_queue(4, 8);
    let _ = settle(&mut queue, &mut kernel, Ret::Start);
    kernel.deliver(Tag(0), desc(READ, 2047, 2));
    kernel.deliver(Tag(1), desc(WRITE, 0, 129));
    kernel.deliver(Tag(2), desc(READ, u64::MAX, 8));
    kernel.deliver(Tag(3), desc(15, 0, 8));
    let _ = settle(&mut queue, &mut kernel, Ret::Submitted(0));
    assert_eq!(kernel.commits, [(Tag(0), -5), (Tag(1), -5), (Tag(2), -5), (Tag(3), -95)]);
    assert_eq!(kernel.memory, 0);
}

#[test]
fn ends_when_every_tag_is_aborted() {
    let (mut queue, mut kernel) = mem_queue(3, 8);
    let _ = settle(&mut queue, &mut kernel, Ret::Start);
    for tag in 0..3 {
        kernel.abort(Tag(tag));
    }
    let call = settle(&mut queue, &mut kernel, Ret::Submitted(0));
    assert_eq!(call, Call::Exit(Exit::Finished));
    assert_eq!(kernel.sent.last(), Some(&FromQueue::Ended(QueueId(0))));
}

#[test]
fn finishes_what_it_holds_after_the_first_abort_and_waits_for_no_other() {
    let (mut queue, mut kernel) = mem_queue(2, 8);
    let _ = settle(&mut queue, &mut kernel, Ret::Start);
    kernel.abort(Tag(0));
    kernel.deliver(Tag(1), desc(WRITE, 0, 1));
    let call = settle(&mut queue, &mut kernel, Ret::Submitted(0));
    assert_eq!(call, Call::Exit(Exit::Finished));
    assert_eq!(kernel.commits, [(Tag(1), 512)]);
    assert_eq!(kernel.tags_in(KernelTag::Armed), [Tag(1)], "H09: nobody will ever abort it");
}

#[test]
fn reports_a_refused_fetch_as_the_first_cause() {
    let (mut queue, mut kernel) = mem_queue(2, 8);
    let _ = settle(&mut queue, &mut kernel, Ret::Start);
    kernel.tags[1] = KernelTag::Unfetched;
    kernel.cq.push_back(Cqe { token: Token::Io(Tag(1)), res: -22 });
    let Call::Exit(Exit::Failed(cause)) = settle(&mut queue, &mut kernel, Ret::Submitted(0)) else {
        panic!("a queue that cannot arm its tags fails")
    };
    assert_eq!(
        cause.to_string(),
        format!("arming the tags of queue 0 (FETCH_REQ): the system answered {}", Errno::EINVAL)
    );
}

#[test]
fn sends_a_refused_commit_again_without_serving_again() {
    let (mut queue, mut kernel) = mem_queue(1, 4);
    let _ = settle(&mut queue, &mut kernel, Ret::Start);
    kernel.deliver(Tag(0), desc(WRITE, 0, 1));
    let _ = settle(&mut queue, &mut kernel, Ret::Submitted(0));
    // The kernel refuses: the request is still the server's.
    kernel.tags[0] = KernelTag::Served;
    kernel.cq.push_back(Cqe { token: Token::Io(Tag(0)), res: -22 });
    let _ = settle(&mut queue, &mut kernel, Ret::Submitted(0));
    assert_eq!(kernel.commits, [(Tag(0), 512), (Tag(0), 512)]);
    assert_eq!(kernel.memory, 1, "executed once");
}

#[test]
fn a_short_write_is_continued_never_committed() {
    let (mut queue, mut kernel) = file_queue(1, 4);
    let _ = settle(&mut queue, &mut kernel, Ret::Start);
    kernel.deliver(Tag(0), desc(WRITE, 0, 8));
    for res in [512, -4, 1024 + 7, -11] {
        let _ = settle(&mut queue, &mut kernel, Ret::Submitted(0));
        assert!(kernel.commits.is_empty());
        kernel.cq.push_back(Cqe { token: Token::Backend(Tag(0)), res });
    }
    let _ = settle(&mut queue, &mut kernel, Ret::Submitted(0));
    kernel.cq.push_back(Cqe { token: Token::Backend(Tag(0)), res: 4096 - 1536 });
    let _ = settle(&mut queue, &mut kernel, Ret::Submitted(0));
    assert_eq!(kernel.commits, [(Tag(0), 4096)]);
}

#[test]
fn nothing_moved_is_an_error() {
    let (mut queue, mut kernel) = file_queue(1, 4);
    let _ = settle(&mut queue, &mut kernel, Ret::Start);
    kernel.deliver(Tag(0), desc(READ, 0, 8));
    let _ = settle(&mut queue, &mut kernel, Ret::Submitted(0));
    kernel.cq.push_back(Cqe { token: Token::Backend(Tag(0)), res: 0 });
    let _ = settle(&mut queue, &mut kernel, Ret::Submitted(0));
    assert_eq!(kernel.commits, [(Tag(0), -5)]);
}

#[test]
fn quits_after_finishing_what_it_holds() {
    let (mut queue, mut kernel) = file_queue(2, 4);
    let _ = settle(&mut queue, &mut kernel, Ret::Start);
    kernel.deliver(Tag(0), desc(FLUSH, u64::MAX, 0));
    let _ = settle(&mut queue, &mut kernel, Ret::Submitted(0));
    kernel.inbox.push_back(ToQueue::Quit);
    kernel.ring_doorbell();
    let call = settle(&mut queue, &mut kernel, Ret::Submitted(0));
    assert_eq!(call, Call::Enter { submit: 0, wait: 1 }, "the flush is still in hand");
    kernel.cq.push_back(Cqe { token: Token::Backend(Tag(0)), res: 0 });
    let call = settle(&mut queue, &mut kernel, Ret::Submitted(0));
    assert_eq!(call, Call::Exit(Exit::Finished));
    assert_eq!(kernel.commits, [(Tag(0), 0)]);
}

#[test]
fn fetches_nothing_before_it_is_told_to() {
    let (mut queue, mut kernel) = mem_queue(2, 4);
    kernel.inbox.clear();
    let call = settle(&mut queue, &mut kernel, Ret::Start);
    assert!(matches!(call, Call::Enter { submit: 0, wait: 1 }), "{call:?}");
    assert_eq!(queue.phase(), Phase::Ready);
    assert_eq!(kernel.sent, [FromQueue::Ready(QueueId(0))]);
    assert_eq!(kernel.tags, [KernelTag::Unfetched; 2]);
    kernel.inbox.push_back(ToQueue::Quit);
    kernel.ring_doorbell();
    let call = settle(&mut queue, &mut kernel, Ret::Submitted(0));
    assert_eq!(call, Call::Exit(Exit::Finished));
}

#[test]
fn a_kernel_that_refuses_for_ever_is_reported() {
    let (mut queue, mut kernel) = mem_queue(1, 4);
    let mut ret = Ret::Start;
    let mut calls = 0;
    let exit = loop {
        calls += 1;
        assert!(calls < 1000, "it must give up");
        match queue.resume(ret, &mut kernel) {
            Call::Enter { .. } => ret = Ret::Failed(Errno::EAGAIN),
            Call::Exit(exit) => break exit,
            _ => ret = Ret::Done,
        }
    };
    assert!(matches!(exit, Exit::Failed(_)));
}

#[test]
#[should_panic(expected = "O1")]
fn the_kernel_in_miniature_notices_a_double_commit() {
    let config = config(1, 4);
    let mut kernel = Kernel::new(&config);
    kernel.tags[0] = KernelTag::Armed;
    kernel.sq.push_back(blkproof_engine::sys::Sqe::Commit {
        tag: Tag(0),
        result: 0,
        address: Address::Buffer,
    });
    kernel.submit(1);
}

#[test]
#[should_panic(expected = "O5")]
fn the_kernel_in_miniature_notices_a_read_without_its_data() {
    let config = QueueConfig { data: DataMode::UserCopy, ..config(1, 4) };
    let mut kernel = Kernel::new(&config);
    kernel.tags[0] = KernelTag::Armed;
    kernel.deliver(Tag(0), desc(READ, 0, 1));
    kernel.sq.push_back(blkproof_engine::sys::Sqe::Commit {
        tag: Tag(0),
        result: 512,
        address: Address::Nothing,
    });
    kernel.submit(1);
}

#[test]
fn user_copy_moves_the_data_before_the_commit() {
    let (mut queue, mut kernel) = mem_queue_in(DataMode::UserCopy, 2, 4);
    let _ = settle(&mut queue, &mut kernel, Ret::Start);
    kernel.deliver(Tag(0), desc(WRITE, 8, 8));
    kernel.deliver(Tag(1), desc(READ, 8, 8));
    let _ = settle(&mut queue, &mut kernel, Ret::Submitted(0));
    assert_eq!(kernel.commits, [(Tag(0), 4096), (Tag(1), 4096)]);
    assert_eq!(kernel.memory, 2, "straight between the store and the request");
}

#[test]
fn user_copy_for_a_backend_goes_by_way_of_the_buffer() {
    let (mut queue, mut kernel) = file_queue_in(DataMode::UserCopy, 2, 4);
    let _ = settle(&mut queue, &mut kernel, Ret::Start);
    kernel.deliver(Tag(0), desc(WRITE, 8, 8));
    kernel.deliver(Tag(1), desc(READ, 8, 8));
    let _ = settle(&mut queue, &mut kernel, Ret::Submitted(0));
    assert_eq!(kernel.moved, [Some(MemoryOp::CopyIn { len: 4096 }), None]);
    // A short result is continued, and the data is copied once.
    for (tag, res) in [(1, 512), (0, 4096), (1, 3584)] {
        kernel.cq.push_back(Cqe { token: Token::Backend(Tag(tag)), res });
        let _ = settle(&mut queue, &mut kernel, Ret::Submitted(0));
    }
    assert_eq!(kernel.moved[1], Some(MemoryOp::CopyOut { len: 4096 }));
    assert_eq!(kernel.commits, [(Tag(0), 4096), (Tag(1), 4096)]);
    assert_eq!(kernel.memory, 2);
}

/// The descriptor of a request whose data lies in shared memory.
fn shared(op: u32, start: u64, sectors: u32, place: ShmemAddr) -> IoDesc {
    let flags = op | RequestFlags::SHMEM_ZC.0;
    IoDesc { op_flags: flags, addr: place.encode(), ..desc(op, start, sectors) }
}

#[test]
fn data_in_shared_memory_is_served_there_in_every_mode() {
    let place = ShmemAddr { index: 0, offset: 8192 };
    for (data, memory) in
        [(DataMode::Copy, true), (DataMode::UserCopy, true), (DataMode::ZeroCopy, false)]
    {
        let sharing = QueueConfig { data, shared_bytes: 16384, ..config(2, 4) };
        let targets: [Option<AnyTarget>; 3] = [
            memory.then_some(AnyTarget::Mem(Mem { sectors: 2048 })),
            Some(AnyTarget::Null(Null { sectors: 2048 })),
            Some(file(2048)),
        ];
        for target in targets.into_iter().flatten() {
            let works = target.has_backend();
            let (mut queue, mut kernel) = (Queue::new(sharing, target), Kernel::new(&sharing));
            let _ = settle(&mut queue, &mut kernel, Ret::Start);
            kernel.deliver(Tag(0), shared(WRITE, 8, 8, place));
            kernel.deliver(Tag(1), shared(READ, 8, 8, place));
            // Neither registered by hand, nor copied to a buffer; the kernel in miniature looks at the place.
            kernel.descs[1].op_flags |= RequestFlags::NEED_REG_BUF.0;
            let _ = settle(&mut queue, &mut kernel, Ret::Submitted(0));
            if works {
                assert_eq!(kernel.backend.len(), 2, "{data:?}");
                for tag in [0, 1] {
                    kernel.cq.push_back(Cqe { token: Token::Backend(Tag(tag)), res: 4096 });
                }
                let _ = settle(&mut queue, &mut kernel, Ret::Submitted(0));
                assert_eq!(kernel.memory, 0, "{data:?}");
            }
            assert_eq!(kernel.commits, [(Tag(0), 4096), (Tag(1), 4096)], "{data:?}");
        }
    }
}

#[test]
fn data_beyond_shared_memory_fails_the_request() {
    let at = |index, offset| ShmemAddr { index, offset };
    for (bytes, place, fails) in [
        (16384, at(0, 12288), false),
        (16384, at(0, 12800), true),
        (16384, at(0, u32::MAX - 511), true),
        (16384, at(1, 0), true),
        // Never asked for.
        (0, at(0, 0), true),
    ] {
        let sharing = QueueConfig { shared_bytes: bytes, ..config(1, 4) };
        let target = AnyTarget::Mem(Mem { sectors: 2048 });
        let (mut queue, mut kernel) = (Queue::new(sharing, target), Kernel::new(&sharing));
        let _ = settle(&mut queue, &mut kernel, Ret::Start);
        kernel.deliver(Tag(0), shared(READ, 0, 8, place));
        let _ = settle(&mut queue, &mut kernel, Ret::Submitted(0));
        let result = if fails { Errno::EIO.to_result() } else { 4096 };
        assert_eq!(kernel.commits, [(Tag(0), result)], "{bytes} {place:?}");
    }
}

#[test]
fn a_copy_that_is_short_or_fails_fails_the_request() {
    for res in [0, 512, 4095, 4097, Errno::EFAULT.to_result()] {
        let (mut queue, mut kernel) = mem_queue_in(DataMode::UserCopy, 1, 4);
        let _ = settle(&mut queue, &mut kernel, Ret::Start);
        for op in [WRITE, READ] {
            kernel.answers.push_back(res);
            kernel.deliver(Tag(0), desc(op, 0, 8));
            let _ = settle(&mut queue, &mut kernel, Ret::Submitted(0));
        }
        assert_eq!(kernel.commits, [(Tag(0), -5), (Tag(0), -5)], "{res}");

        let (mut queue, mut kernel) = file_queue_in(DataMode::UserCopy, 1, 4);
        let _ = settle(&mut queue, &mut kernel, Ret::Start);
        kernel.answers.push_back(res);
        kernel.deliver(Tag(0), desc(WRITE, 0, 8));
        let _ = settle(&mut queue, &mut kernel, Ret::Submitted(0));
        assert!(kernel.backend.is_empty(), "nothing is written of what was not copied");
        kernel.deliver(Tag(0), desc(READ, 0, 8));
        let _ = settle(&mut queue, &mut kernel, Ret::Submitted(0));
        kernel.answers.push_back(res);
        kernel.cq.push_back(Cqe { token: Token::Backend(Tag(0)), res: 4096 });
        let _ = settle(&mut queue, &mut kernel, Ret::Submitted(0));
        assert_eq!(kernel.commits, [(Tag(0), -5), (Tag(0), -5)], "{res}");
    }
}

#[test]
fn a_tag_has_what_its_data_needs() {
    let memory = |mut queue: Queue<AnyTarget>, mut kernel: Kernel| {
        let _ = queue.resume(Ret::Start, &mut kernel);
        match queue.resume(Ret::Done, &mut kernel) {
            Call::MapQueue { memory, .. } => memory,
            other => panic!("a queue maps first: {other:?}"),
        }
    };
    let (queue, kernel) = mem_queue_in(DataMode::Copy, 1, 4);
    assert_eq!(memory(queue, kernel), TagMemory::Buffer);
    let (queue, kernel) = mem_queue_in(DataMode::UserCopy, 1, 4);
    assert_eq!(memory(queue, kernel), TagMemory::Nothing);
    let (queue, kernel) = file_queue_in(DataMode::UserCopy, 1, 4);
    assert_eq!(memory(queue, kernel), TagMemory::Buffer);
    let (queue, kernel) = file_queue_in(DataMode::ZeroCopy, 1, 4);
    assert_eq!(memory(queue, kernel), TagMemory::Slot);
}

#[test]
fn an_announced_write_is_asked_for_and_a_read_is_not() {
    let (mut queue, mut kernel) = mem_queue_in(DataMode::GetData, 2, 4);
    let _ = settle(&mut queue, &mut kernel, Ret::Start);
    kernel.deliver(Tag(0), desc(WRITE, 8, 8));
    kernel.deliver(Tag(1), desc(READ, 8, 8));
    let _ = settle(&mut queue, &mut kernel, Ret::Submitted(0));
    assert_eq!(kernel.commits, [(Tag(1), 4096), (Tag(0), 4096)]);
}

#[test]
fn a_write_of_which_a_part_did_not_come_fails() {
    for lost in [1, 7, 8] {
        let (mut queue, mut kernel) = mem_queue_in(DataMode::GetData, 1, 4);
        let _ = settle(&mut queue, &mut kernel, Ret::Start);
        kernel.lost = lost;
        kernel.deliver(Tag(0), desc(WRITE, 8, 8));
        let _ = settle(&mut queue, &mut kernel, Ret::Submitted(0));
        assert_eq!((kernel.commits, kernel.memory), (vec![(Tag(0), -5)], 0), "H20: {lost}");
    }
}

#[test]
fn data_that_is_refused_with_einval_is_asked_for_again_and_otherwise_ends_the_queue() {
    let (mut queue, mut kernel) = mem_queue_in(DataMode::GetData, 1, 4);
    let _ = settle(&mut queue, &mut kernel, Ret::Start);
    kernel.refuses_data = Some(-22);
    kernel.deliver(Tag(0), desc(WRITE, 8, 8));
    let _ = settle(&mut queue, &mut kernel, Ret::Submitted(0));
    assert_eq!(kernel.commits, [(Tag(0), 4096)]);
    kernel.refuses_data = Some(-16);
    kernel.deliver(Tag(0), desc(WRITE, 8, 8));
    let call = settle(&mut queue, &mut kernel, Ret::Submitted(0));
    assert!(matches!(call, Call::Exit(Exit::Failed(_))), "{call:?}");
    assert_eq!(kernel.commits.len(), 1, "nothing is committed that did not come");
}

#[test]
fn a_queue_that_waits_for_data_says_who_owes_it() {
    let (mut queue, mut kernel) = mem_queue_in(DataMode::GetData, 1, 4);
    let _ = settle(&mut queue, &mut kernel, Ret::Start);
    kernel.deliver(Tag(0), desc(WRITE, 0, 8));
    let _ = queue.resume(Ret::Submitted(0), &mut kernel);
    let mut waits = Vec::new();
    queue.pending(&mut waits);
    let waits: Vec<_> = waits.iter().map(ToString::to_string).collect();
    let expected =
        "waits for the data of 1 announced write(s) (kernel owes it; otherwise waits on)";
    assert_eq!(waits, [expected]);
}

#[test]
fn an_announcement_that_was_not_negotiated_ends_the_queue() {
    let (mut queue, mut kernel) = mem_queue(1, 4);
    let _ = settle(&mut queue, &mut kernel, Ret::Start);
    kernel.cq.push_back(Cqe { token: Token::Io(Tag(0)), res: 1 });
    let call = settle(&mut queue, &mut kernel, Ret::Submitted(0));
    assert!(matches!(call, Call::Exit(Exit::Failed(_))), "{call:?}");
}

fn zero_copy_queue(depth: u16) -> (Queue<AnyTarget>, Kernel) {
    file_queue_in(DataMode::ZeroCopy, depth, 2 * u32::from(depth))
}

#[test]
fn zero_copy_works_on_the_slot_and_copies_nothing() {
    let (mut queue, mut kernel) = zero_copy_queue(2);
    let _ = settle(&mut queue, &mut kernel, Ret::Start);
    kernel.deliver(Tag(0), desc(WRITE, 8, 8));
    kernel.deliver(Tag(1), desc(READ, 8, 8));
    let _ = settle(&mut queue, &mut kernel, Ret::Submitted(0));
    assert_eq!(kernel.backend.len(), 2);
    for (tag, res) in [(1, 512), (0, 4096), (1, 3584)] {
        kernel.cq.push_back(Cqe { token: Token::Backend(Tag(tag)), res });
        let _ = settle(&mut queue, &mut kernel, Ret::Submitted(0));
    }
    assert_eq!(kernel.commits, [(Tag(0), 4096), (Tag(1), 4096)]);
    assert_eq!((kernel.memory, &kernel.slots), (0, &vec![Slot::Empty; 2]));
}

#[test]
fn what_was_not_registered_is_registered_by_hand_and_given_back_before_the_commit() {
    let (mut queue, mut kernel) = zero_copy_queue(1);
    let _ = settle(&mut queue, &mut kernel, Ret::Start);
    for res in [4096, -5] {
        kernel.falls_back = true;
        kernel.deliver(Tag(0), desc(WRITE, 0, 8));
        let _ = settle(&mut queue, &mut kernel, Ret::Submitted(0));
        assert_eq!(kernel.slots, [Slot::ByHand]);
        assert_eq!(kernel.backend.pop().map(|(tag, _)| tag), Some(Tag(0)));
        kernel.cq.push_back(Cqe { token: Token::Backend(Tag(0)), res });
        let _ = settle(&mut queue, &mut kernel, Ret::Submitted(0));
    }
    assert_eq!(kernel.commits, [(Tag(0), 4096), (Tag(0), -5)]);
    assert_eq!(kernel.slots, [Slot::Empty]);
}

#[test]
fn what_cannot_be_registered_by_hand_either_is_an_error_of_the_request() {
    let (mut queue, mut kernel) = zero_copy_queue(1);
    let _ = settle(&mut queue, &mut kernel, Ret::Start);
    (kernel.falls_back, kernel.refuses_slot) = (true, Some(-16));
    kernel.deliver(Tag(0), desc(READ, 0, 8));
    let call = settle(&mut queue, &mut kernel, Ret::Submitted(0));
    assert_eq!(call, Call::Enter { submit: 0, wait: 1 });
    assert_eq!((kernel.commits, kernel.backend.len()), (vec![(Tag(0), -5)], 0));
}

#[test]
fn pages_that_cannot_be_given_back_end_the_queue_without_a_commit() {
    let (mut queue, mut kernel) = zero_copy_queue(1);
    let _ = settle(&mut queue, &mut kernel, Ret::Start);
    kernel.falls_back = true;
    kernel.deliver(Tag(0), desc(READ, 0, 8));
    let _ = settle(&mut queue, &mut kernel, Ret::Submitted(0));
    kernel.refuses_slot = Some(-22);
    kernel.cq.push_back(Cqe { token: Token::Backend(Tag(0)), res: 4096 });
    let call = settle(&mut queue, &mut kernel, Ret::Submitted(0));
    assert!(matches!(call, Call::Exit(Exit::Failed(_))), "{call:?}");
    assert_eq!(kernel.commits, []);
}

#[test]
fn a_queue_that_waits_for_a_registration_says_who_owes_it() {
    let (mut queue, mut kernel) = zero_copy_queue(1);
    let _ = settle(&mut queue, &mut kernel, Ret::Start);
    kernel.falls_back = true;
    kernel.deliver(Tag(0), desc(READ, 0, 8));
    let _ = queue.resume(Ret::Submitted(0), &mut kernel);
    let mut waits = Vec::new();
    queue.pending(&mut waits);
    let waits: Vec<_> = waits.iter().map(ToString::to_string).collect();
    assert_eq!(
        waits,
        ["waits for 1 registration(s) of pages (kernel owes it; otherwise waits on)"]
    );
}

#[test]
#[should_panic(expected = "H11")]
fn the_kernel_in_miniature_notices_a_commit_of_registered_pages() {
    let config = QueueConfig { data: DataMode::ZeroCopy, ..config(1, 4) };
    let mut kernel = Kernel::new(&config);
    kernel.tags[0] = KernelTag::Served;
    kernel.slots[0] = Slot::ByHand;
    kernel.sq.push_back(blkproof_engine::sys::Sqe::Commit {
        tag: Tag(0),
        result: 0,
        address: config.data.address(Tag(0)),
    });
    kernel.submit(1);
}

/// What the environment does next.
#[derive(Clone, Copy, Debug)]
enum Event {
    Run {
        take: u32,
    },
    Interrupt,
    Refuse,
    Deliver {
        tag: usize,
        op: u32,
        start: u64,
        len: u32,
    },
    Backend {
        index: usize,
        kind: u8,
    },
    /// The next COMMIT_IO_CMDS consumes no more elements than that, or is refused.
    Consume(Option<u16>),
    /// The next delivery ends the fetch.
    EndFetch,
    /// The next automatic registration fails.
    FallBack,
    /// So many sectors of the next announced write cannot be copied.
    Lose(u32),
    /// The next registration by hand is refused.
    RefuseSlot,
    /// The next memory operation ends like this.
    Memory(i32),
    Stop,
    Quit,
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        6 => (0u32..6).prop_map(|take| Event::Run { take }),
        1 => Just(Event::Interrupt),
        1 => Just(Event::Refuse),
        5 => (0usize..8, prop_oneof![Just(0u32), Just(1), Just(2), Just(3), Just(5), Just(9)], 0u64..2100, 0u32..200)
            .prop_map(|(tag, op, start, len)| Event::Deliver { tag, op, start, len }),
        4 => (0usize..8, 0u8..6).prop_map(|(index, kind)| Event::Backend { index, kind }),
        1 => prop_oneof![Just(-14), Just(0), Just(512), Just(i32::MAX)].prop_map(Event::Memory),
        2 => Just(Event::FallBack),
        2 => proptest::option::of(1u16..4).prop_map(Event::Consume),
        1 => Just(Event::EndFetch),
        1 => (1u32..8).prop_map(Event::Lose),
        1 => Just(Event::RefuseSlot),
        1 => Just(Event::Stop),
        1 => Just(Event::Quit),
    ]
}

fn batch_queue(
    data: DataMode,
    depth: u16,
    buffers: u16,
    entries: u32,
) -> (Queue<AnyTarget>, Kernel) {
    let config = QueueConfig { data, buffers, ..config(depth, entries) };
    let target = if data == DataMode::ZeroCopy {
        AnyTarget::File(File {
            sectors: config.sectors,
            logical_bs_shift: 9,
            discard: true,
            write_zeroes: true,
        })
    } else {
        AnyTarget::Mem(Mem { sectors: config.sectors })
    };
    (Queue::new(config, target), Kernel::new(&config))
}

fn all_of(queue: &mut Queue<AnyTarget>, kernel: &mut Kernel, tags: u16) -> Call {
    for number in 0..tags {
        kernel.deliver(Tag(number), desc(WRITE, 8 * u64::from(number), 8));
    }
    settle(queue, kernel, Ret::Submitted(0))
}

#[test]
fn a_batch_arms_tells_and_commits_many_tags_at_a_time() {
    for entries in [2, 4, 16] {
        let (mut queue, mut kernel) = batch_queue(DataMode::Copy, 4, 4, entries);
        let _ = settle(&mut queue, &mut kernel, Ret::Start);
        assert_eq!(kernel.tags, vec![KernelTag::Armed; 4]);
        assert_eq!(
            (kernel.batch.fetching, &kernel.sent),
            (true, &vec![FromQueue::Ready(QueueId(0)), FromQueue::Primed(QueueId(0))])
        );
        for _ in 0..3 {
            let _ = all_of(&mut queue, &mut kernel, 4);
            let tags: Vec<_> = kernel.commits.drain(..).map(|(tag, res)| (tag.0, res)).collect();
            assert_eq!(tags, [(0, 4096), (1, 4096), (2, 4096), (3, 4096)]);
            assert_eq!(kernel.batch.buffers, 4, "buffers go back");
        }
        kernel.abort_fetch();
        let call = settle(&mut queue, &mut kernel, Ret::Submitted(0));
        assert_eq!(call, Call::Exit(Exit::Finished), "no abort of any tag comes");
    }
}

#[test]
fn what_a_commit_did_not_consume_is_committed_again_and_never_carried_out_again() {
    for answer in [Ok(1), Ok(3), Err(-22)] {
        let (mut queue, mut kernel) = batch_queue(DataMode::Copy, 4, 4, 8);
        let _ = settle(&mut queue, &mut kernel, Ret::Start);
        kernel.batch.consumes = Some(answer);
        let _ = all_of(&mut queue, &mut kernel, 4);
        let mut tags: Vec<_> = kernel.commits.iter().map(|(tag, _)| tag.0).collect();
        tags.sort_unstable();
        assert_eq!((tags, kernel.memory), (vec![0, 1, 2, 3], 4), "H44: {answer:?}");
    }
}

#[test]
fn a_commit_of_what_is_not_ours_or_nonsense_ends_the_queue() {
    for answer in [Err(-16), Err(-14), Ok(0), Err(7), Err(5 * 16)] {
        let (mut queue, mut kernel) = batch_queue(DataMode::Copy, 4, 4, 8);
        let _ = settle(&mut queue, &mut kernel, Ret::Start);
        kernel.batch.consumes = Some(answer);
        let call = all_of(&mut queue, &mut kernel, 4);
        assert!(matches!(call, Call::Exit(Exit::Failed(_))), "{answer:?}: {call:?}");
    }
}

#[test]
fn a_batch_that_is_refused_again_and_again_ends_the_queue() {
    for refusals in [COMMIT_RETRIES_MAX, COMMIT_RETRIES_MAX + 1] {
        let (mut queue, mut kernel) = batch_queue(DataMode::Copy, 1, 1, 8);
        let mut call = settle(&mut queue, &mut kernel, Ret::Start);
        kernel.deliver(Tag(0), desc(WRITE, 0, 8));
        kernel.tell();
        kernel.batch.consumes = Some(Err(-22));
        while kernel.commits.is_empty() && !matches!(call, Call::Exit(_)) {
            let Call::Enter { submit, .. } = call else { panic!("{call:?}") };
            kernel.submit(submit);
            if kernel.batch.refused > 0 && kernel.batch.refused < refusals {
                kernel.batch.consumes = Some(Err(-22));
            }
            call = queue.resume(Ret::Submitted(submit), &mut kernel);
        }
        let ends = refusals > COMMIT_RETRIES_MAX;
        assert_eq!(matches!(call, Call::Exit(Exit::Failed(_))), ends, "{refusals}: {call:?}");
        assert_eq!(kernel.commits.is_empty(), ends, "{refusals}");
    }
}

#[test]
fn a_fetch_that_ended_is_renewed_when_its_buffers_are_back() {
    let (mut queue, mut kernel) = batch_queue(DataMode::Copy, 4, 1, 8);
    let _ = settle(&mut queue, &mut kernel, Ret::Start);
    kernel.deliver(Tag(0), desc(WRITE, 0, 8));
    kernel.tell();
    kernel.deliver(Tag(1), desc(WRITE, 8, 8));
    kernel.tell();
    assert_eq!((kernel.batch.fetching, kernel.batch.buffers), (false, 0), "H43");
    let _ = settle(&mut queue, &mut kernel, Ret::Submitted(0));
    assert_eq!((kernel.commits.len(), kernel.batch.fetching, kernel.batch.buffers), (2, true, 1));
    kernel.batch.ends = true;
    kernel.deliver(Tag(2), desc(WRITE, 8, 8));
    let _ = settle(&mut queue, &mut kernel, Ret::Submitted(0));
    assert_eq!((kernel.commits.len(), kernel.batch.fetching), (3, true));
}

#[test]
fn a_fetch_that_always_lacks_a_buffer_ends_the_queue() {
    let (mut queue, mut kernel) = batch_queue(DataMode::Copy, 2, 1, 8);
    let _ = settle(&mut queue, &mut kernel, Ret::Start);
    kernel.batch.buffers = 0;
    kernel.deliver(Tag(0), desc(WRITE, 0, 8));
    let call = settle(&mut queue, &mut kernel, Ret::Submitted(0));
    assert!(matches!(call, Call::Exit(Exit::Failed(_))), "{call:?}");
}

#[test]
fn a_queue_whose_fetch_is_aborted_commits_what_it_holds_and_ends() {
    let (mut queue, mut kernel) = batch_queue(DataMode::ZeroCopy, 2, 2, 8);
    let _ = settle(&mut queue, &mut kernel, Ret::Start);
    let _ = all_of(&mut queue, &mut kernel, 2);
    kernel.abort_fetch();
    let call = settle(&mut queue, &mut kernel, Ret::Submitted(0));
    assert_eq!(call, Call::Enter { submit: 0, wait: 1 });
    for tag in [0, 1] {
        kernel.cq.push_back(Cqe { token: Token::Backend(Tag(tag)), res: 4096 });
    }
    let call = settle(&mut queue, &mut kernel, Ret::Submitted(0));
    assert_eq!((call, kernel.commits.len()), (Call::Exit(Exit::Finished), 2));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever the kernel, the backend and the worker do, each delivered request is committed exactly once
    /// and completely, nothing is pushed into a full ring, and at the end the queue ends.
    #[test]
    fn every_request_is_committed_exactly_once(
        depth in 1u16..6,
        entries in prop_oneof![Just(2u32), Just(4), Just(8)],
        target in 0u8..3,
        data in proptest::sample::select(&DataMode::ALL[..]),
        buffers in 0u16..4,
        events in proptest::collection::vec(event(), 0..120),
    ) {
        let data = if buffers > 0 && data == DataMode::GetData { DataMode::Copy } else { data };
        let config = QueueConfig { data, buffers, ..config(depth, entries) };
        let target = match target {
            0 => AnyTarget::Null(Null { sectors: config.sectors }),
            1 if data != DataMode::ZeroCopy => AnyTarget::Mem(Mem { sectors: config.sectors }),
            _ => AnyTarget::File(File { sectors: config.sectors, logical_bs_shift: 9, discard: true, write_zeroes: true }),
        };
        let mut queue = Queue::new(config, target);
        let mut kernel = Kernel::new(&config);
        let mut call = queue.resume(Ret::Start, &mut kernel);
        let mut expected: BTreeMap<u16, Vec<IoDesc>> = BTreeMap::new();
        let mut stopping = false;
        let mut quit = false;
        for event in events {
            match event {
                Event::Run { take } => {
                    let ret = match call {
                        Call::Enter { submit, wait } => {
                            let taken = kernel.submit(submit.min(take));
                            kernel.tell();
                            if taken == submit && wait > 0 && kernel.cq.is_empty() {
                                // It would sleep on: nothing to run. What it submitted is submitted.
                                call = Call::Enter { submit: 0, wait };
                                continue;
                            }
                            Ret::Submitted(taken)
                        }
                        Call::Exit(_) => break,
                        _ => Ret::Done,
                    };
                    call = queue.resume(ret, &mut kernel);
                }
                Event::Interrupt | Event::Refuse => {
                    if let Call::Enter { .. } = call {
                        let errno = if matches!(event, Event::Interrupt) { Errno::EINTR } else { Errno::EBUSY };
                        call = queue.resume(Ret::Failed(errno), &mut kernel);
                    }
                }
                Event::Deliver { tag, op, start, len } => {
                    let armed = kernel.tags_in(KernelTag::Armed);
                    if !armed.is_empty() && !stopping {
                        let tag = armed[tag % armed.len()];
                        let desc = desc(op, start, len);
                        expected.entry(tag.0).or_default().push(desc);
                        kernel.deliver(tag, desc);
                    }
                }
                Event::Backend { index, kind } => answer(&mut kernel, index, kind),
                // A commit that is refused once more than that ends the queue.
                Event::Consume(None) if kernel.batch.refused == COMMIT_RETRIES_MAX => {}
                Event::Consume(count) => kernel.batch.consumes = Some(count.ok_or(-22)),
                Event::EndFetch => kernel.batch.ends = true,
                Event::FallBack => kernel.falls_back = true,
                Event::Lose(sectors) => kernel.lost = sectors,
                Event::RefuseSlot => {
                    if !kernel.slots.contains(&Slot::ByHand) {
                        kernel.refuses_slot = Some(-12);
                    }
                }
                Event::Memory(res) => kernel.answers.push_back(res),
                Event::Stop => stopping = true,
                Event::Quit => {
                    if !quit {
                        quit = true;
                        kernel.inbox.push_back(ToQueue::Quit);
                        kernel.ring_doorbell();
                    }
                }
            }
        }
        // Now everybody delivers what he owes.
        let mut turns = 0;
        while !matches!(call, Call::Exit(_)) {
            turns += 1;
            prop_assert!(turns < 10_000, "the queue ends: {:?}", queue);
            while !kernel.backend.is_empty() {
                answer(&mut kernel, 0, 0);
            }
            if kernel.tags_in(KernelTag::Served).is_empty()
                && kernel.tags_in(KernelTag::Announced).is_empty()
            {
                if buffers > 0 {
                    kernel.abort_fetch();
                } else {
                    for tag in kernel.tags_in(KernelTag::Armed) {
                        kernel.abort(tag);
                    }
                }
            }
            let ret = match call {
                Call::Enter { submit, .. } => {
                    let taken = kernel.submit(submit);
                    kernel.tell();
                    Ret::Submitted(taken)
                }
                _ => Ret::Done,
            };
            call = queue.resume(ret, &mut kernel);
        }
        prop_assert_eq!(call, Call::Exit(Exit::Finished));
        let mut committed: BTreeMap<u16, Vec<i32>> = BTreeMap::new();
        for (tag, result) in &kernel.commits {
            committed.entry(tag.0).or_default().push(*result);
        }
        for (tag, descs) in &expected {
            let results = committed.remove(tag).unwrap_or_default();
            if quit {
                // What the kernel delivers behind the back of a queue that has quit, the kernel fails when the process exits.
                prop_assert!(results.len() <= descs.len(), "O1: no second commit on tag {}", tag);
            } else {
                prop_assert_eq!(results.len(), descs.len(), "O1: one commit for each request of tag {}", tag);
            }
            for (desc, result) in descs.iter().zip(results) {
                let bytes = (desc.nr_sectors * 512) as i32;
                let data = desc.op_flags & 0xff < 2;
                prop_assert!(
                    result < 0 || result == if data { bytes } else { 0 },
                    "O3: {:?} was committed with {}", desc, result
                );
            }
        }
        prop_assert!(committed.is_empty(), "O1: no commit without a request");
    }
}

/// Completes one backend operation.
fn answer(kernel: &mut Kernel, index: usize, kind: u8) {
    use blkproof_engine::sys::BackendOp;
    if kernel.backend.is_empty() {
        return;
    }
    let (tag, op) = kernel.backend.swap_remove(index % kernel.backend.len());
    let full = match op {
        BackendOp::Read { len, .. } | BackendOp::Write { len, .. } => len as i32,
        BackendOp::Sync | BackendOp::PunchHole { .. } | BackendOp::ZeroRange { .. } => 0,
    };
    let res = match kind {
        1 => full / 2,
        2 => -4,
        3 => -11,
        4 => -5,
        5 => 0,
        _ => full,
    };
    kernel.cq.push_back(Cqe { token: Token::Backend(tag), res });
}
