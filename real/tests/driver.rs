//! The drivers on this machine's kernel, as far as that goes without a ublk device: rings, timers, links, backend operations, processes.
#![cfg(not(loom))]

use std::fs::File;
use std::io::Write;
use std::ops::ControlFlow;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::process::Command;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use blkproof::bell::{Bell, RingMailbox};
use blkproof::board::{Board, Name};
use blkproof::driver::{self, Driver, QueueDriver, SupervisorDriver, WorkerDriver};
use blkproof::os::{self, Backend, QueueShape, Store};
use blkproof::peer::Peer;
use blkproof::process::Process;
use blkproof_engine::cause::{Cause, Problem, Step};
use blkproof_engine::data::{DataMode, Place, TagMemory};
use blkproof_engine::link::{FromQueue, FromWorker, Link, Received, ToQueue, ToWorker};
use blkproof_engine::queue::{Queue, QueueConfig};
use blkproof_engine::supervisor::{Deadlines, Plan, Supervisor};
use blkproof_engine::sys::{
    BackendOp, Call, Cqe, DeviceGeometry, Exit, MemoryOp, QueueIo, Ret, Ring, RingMode, RingSpec,
    Sqe, Token, WorkerExit,
};
use blkproof_engine::target::{AnyTarget, Null};
use blkproof_engine::uapi::{DevId, Errno, IoDesc, QueueId, Tag};
use blkproof_engine::worker::Worker;

const PAGE: usize = 4096;
const DEPTH: u16 = 4;
const BUFFER_BYTES: u32 = 64 * 1024;
const MODE: RingMode = RingMode::DeferTaskrun;
/// A device that no machine has.
const NO_DEVICE: DevId = DevId(1_048_575);

fn memfd(bytes: u64) -> File {
    let flags = rustix::fs::MemfdFlags::CLOEXEC;
    let file = File::from(rustix::fs::memfd_create("test", flags).expect("a memfd"));
    file.set_len(bytes).expect("a size");
    file
}

fn mailbox<M>() -> Arc<RingMailbox<M>> {
    Arc::new(RingMailbox::new(4, Bell::new().expect("an eventfd")))
}

fn call(driver: &mut impl Driver, call: Call) -> Ret {
    match driver.call(call) {
        ControlFlow::Continue(ret) => ret,
        ControlFlow::Break(exit) => panic!("{call:?} ended with {exit:?}"),
    }
}

/// A queue's driver with its ring and buffers; a memfd plays the character device. `None` where io_uring is forbidden.
fn queue_driver(
    descriptors: File,
    backend: Backend,
    inbox: &Arc<RingMailbox<ToQueue>>,
) -> Option<QueueDriver> {
    queue_driver_with(TagMemory::Buffer, descriptors, backend, None, inbox)
}

fn queue_driver_with(
    memory: TagMemory,
    descriptors: File,
    backend: Backend,
    shared: Option<Arc<Store>>,
    inbox: &Arc<RingMailbox<ToQueue>>,
) -> Option<QueueDriver> {
    let shape = QueueShape { queue: QueueId(0), depth: DEPTH, buffer_bytes: BUFFER_BYTES };
    let device = Arc::new(OwnedFd::from(descriptors));
    let mut driver = QueueDriver::new(shape, device, backend, shared, Arc::clone(inbox), mailbox());
    match call(&mut driver, Call::SetupRing(RingSpec { entries: 8, mode: MODE })) {
        Ret::Failed(errno @ (Errno::EPERM | Errno::ENOSYS)) => {
            println!("skipped: this machine allows no io_uring ({errno})");
            return None;
        }
        ret => assert_eq!(ret, Ret::Done),
    }
    assert_eq!(
        call(&mut driver, Call::MapQueue { queue: QueueId(0), memory, buffers: 0 }),
        Ret::Done
    );
    Some(driver)
}

/// Submits one entry and waits for its completion.
fn complete(driver: &mut (impl Driver + Ring), sqe: Sqe) -> i32 {
    driver.push(sqe).expect("room");
    assert_eq!((driver.sq_ready(), driver.sq_space()), (1, 7));
    assert_eq!(call(driver, Call::Enter { submit: 1, wait: 1 }), Ret::Submitted(1));
    let Cqe { token, res } = driver.reap().expect("a completion");
    assert_eq!(token, sqe.token());
    assert_eq!(driver.reap(), None);
    res
}

#[test]
fn a_timer_expires_after_its_time() {
    let Some(mut driver) = queue_driver(memfd(0x18000), Backend::Nothing, &mailbox()) else {
        return;
    };
    let started = Instant::now();
    // More timers than there are slots for their times.
    for generation in 0..20 {
        let res = complete(&mut driver, Sqe::Timer { generation, ms: 10 });
        assert_eq!(res, Errno::ETIME.to_result());
    }
    assert!(started.elapsed() >= Duration::from_millis(200), "{:?}", started.elapsed());
}

#[test]
fn a_message_from_another_thread_completes_the_watch() {
    let inbox = mailbox();
    let Some(mut driver) = queue_driver(memfd(0x18000), Backend::Nothing, &inbox) else { return };
    assert_eq!(driver.hear_worker(), Received::Empty);
    let sender = thread::spawn(move || {
        thread::sleep(Duration::from_millis(20));
        inbox.tell(ToQueue::Quit);
    });
    assert!(complete(&mut driver, Sqe::Watch { link: Link::Worker }) > 0);
    assert_eq!(driver.hear_worker(), Received::Message(ToQueue::Quit));
    assert_eq!(driver.hear_worker(), Received::Empty);
    sender.join().expect("it sends");
}

#[test]
fn a_message_sent_before_the_watch_completes_it_too() {
    let inbox = mailbox();
    let Some(mut driver) = queue_driver(memfd(0x18000), Backend::Nothing, &inbox) else { return };
    inbox.tell(ToQueue::Quit);
    assert!(complete(&mut driver, Sqe::Watch { link: Link::Worker }) > 0);
}

#[test]
fn backend_operations_reach_the_file() {
    let mut file = tempfile::tempfile().expect("a file");
    let pattern: Vec<u8> = (0..4 * PAGE).map(|byte| (byte % 251) as u8).collect();
    file.write_all(&pattern).expect("written");
    let backend = Backend::File(Arc::new(file.try_clone().expect("a descriptor").into()));
    let Some(mut driver) = queue_driver(memfd(0x18000), backend, &mailbox()) else { return };
    let page = PAGE as u32;
    let offset = |pages: usize| (pages * PAGE) as u64;
    let mut run =
        |tag: u16, op| complete(&mut driver, Sqe::Backend { tag: Tag(tag), place: Place::Tag, op });

    let read = BackendOp::Read { offset: offset(1), buffer: page, len: 2 * page };
    assert_eq!(run(3, read), 2 * PAGE as i32);
    for (durable, to) in [(false, 5), (true, 8)] {
        let write = BackendOp::Write { offset: offset(to), buffer: page, len: 2 * page, durable };
        assert_eq!(run(3, write), 2 * PAGE as i32);
        let mut written = vec![0; 2 * PAGE];
        file.read_exact_at(&mut written, offset(to)).expect("read");
        assert_eq!(written, pattern[PAGE..3 * PAGE]);
    }
    assert_eq!(run(0, BackendOp::Sync), 0);
    // A read beyond the end is short, not an error.
    assert_eq!(run(0, BackendOp::Read { offset: offset(100), buffer: 0, len: page }), 0);
    let punched = run(0, BackendOp::PunchHole { offset: 0, len: offset(1) });
    if punched == Errno::EOPNOTSUPP.to_result() {
        println!("the file system cannot punch holes");
    } else {
        assert_eq!(punched, 0);
        let mut zeroed = vec![1; PAGE];
        file.read_exact_at(&mut zeroed, 0).expect("read");
        assert_eq!(zeroed, [0; PAGE]);
    }
}

#[test]
fn memory_operations_move_and_zero_the_bytes_of_the_store() {
    let file = memfd(8 * PAGE as u64);
    let pattern: Vec<u8> = (0..8 * PAGE).map(|byte| (byte % 251) as u8).collect();
    file.write_all_at(&pattern, 0).expect("written");
    let bytes = pattern.len() as u64;
    let store = Store::map(file.try_clone().expect("a descriptor").into(), bytes).expect("mapped");
    let backend = Backend::Memory(Arc::new(store));
    let Some(mut driver) = queue_driver(memfd(0x18000), backend, &mailbox()) else { return };
    let contents = || {
        let mut now = vec![0; pattern.len()];
        file.read_exact_at(&mut now, 0).expect("read");
        now
    };
    let mut expected = pattern.clone();

    assert_eq!(driver.memory(Tag(2), Place::Tag, MemoryOp::Load { offset: 512, len: 1024 }), 1024);
    driver.memory(Tag(2), Place::Tag, MemoryOp::Store { offset: 2560, len: 1024 });
    expected.copy_within(512..1536, 2560);
    assert_eq!(contents(), expected);

    driver.memory(Tag(2), Place::Tag, MemoryOp::Clear { len: 512 });
    driver.memory(Tag(2), Place::Tag, MemoryOp::Store { offset: 0, len: 512 });
    expected[..512].fill(0);
    assert_eq!(contents(), expected);

    // Inside a page; across pages with whole ones between; exactly whole ones.
    for (offset, len) in [(9000, 100), (3 * PAGE - 512, 3 * PAGE), (7 * PAGE, PAGE)] {
        driver.memory(
            Tag(0),
            Place::Tag,
            MemoryOp::Zero { offset: offset as u64, len: len as u64 },
        );
        expected[offset..offset + len].fill(0);
        assert_eq!(contents(), expected, "{offset} {len}");
    }
}

#[test]
fn data_in_shared_memory_is_used_where_it_is() {
    let (shared, kept) = (memfd(4 * PAGE as u64), memfd(4 * PAGE as u64));
    let pattern: Vec<u8> = (0..4 * PAGE).map(|byte| (byte % 251) as u8).collect();
    kept.write_all_at(&pattern, 0).expect("written");
    let map = |file: &File| {
        let file = file.try_clone().expect("a descriptor");
        Arc::new(Store::map(file.into(), 4 * PAGE as u64).expect("mapped"))
    };
    let at = |file: &File, offset: usize, len: usize| {
        let mut bytes = vec![0; len];
        file.read_exact_at(&mut bytes, offset as u64).expect("read");
        bytes
    };
    let place = Place::Shared(PAGE as u32 + 512);
    for memory in [TagMemory::Buffer, TagMemory::Nothing] {
        let backend = Backend::Memory(map(&kept));
        let (device, lent) = (memfd(0x18000), Some(map(&shared)));
        let driver = queue_driver_with(memory, device, backend, lent, &mailbox());
        let Some(mut driver) = driver else { return };
        assert_eq!(driver.memory(Tag(1), place, MemoryOp::Load { offset: 512, len: 1024 }), 1024);
        assert_eq!(at(&shared, PAGE + 512, 1024), pattern[512..1536]);
        driver.memory(Tag(1), place, MemoryOp::Store { offset: 2048, len: 1024 });
        assert_eq!(at(&kept, 2048, 1024), pattern[512..1536]);
        driver.memory(Tag(1), place, MemoryOp::Clear { len: 512 });
        assert_eq!(at(&shared, PAGE + 512, 512), [0; 512]);
        kept.write_all_at(&pattern, 0).expect("written");
    }
    for memory in [TagMemory::Buffer, TagMemory::Slot] {
        let backend = Backend::File(Arc::new(kept.try_clone().expect("a descriptor").into()));
        let (device, lent) = (memfd(0x18000), Some(map(&shared)));
        let driver = queue_driver_with(memory, device, backend, lent, &mailbox());
        let Some(mut driver) = driver else { return };
        let mut run = |op| complete(&mut driver, Sqe::Backend { tag: Tag(1), place, op });
        assert_eq!(run(BackendOp::Read { offset: 512, buffer: 256, len: 1024 }), 1024);
        assert_eq!(at(&shared, PAGE + 768, 1024), pattern[512..1536]);
        let write = BackendOp::Write { offset: 0, buffer: 256, len: 1024, durable: false };
        assert_eq!(run(write), 1024);
        assert_eq!(at(&kept, 0, 1024), pattern[512..1536]);
        kept.write_all_at(&pattern, 0).expect("written");
    }
}

#[test]
fn an_operation_on_an_empty_slot_is_an_error_and_moves_nothing() {
    let file = tempfile::tempfile().expect("a file");
    file.write_all_at(&[7; PAGE], 0).expect("written");
    let backend = Backend::File(Arc::new(file.try_clone().expect("a descriptor").into()));
    let device = memfd(0x18000);
    let Some(mut driver) = queue_driver_with(TagMemory::Slot, device, backend, None, &mailbox())
    else {
        return;
    };
    let len = PAGE as u32;
    for op in [
        BackendOp::Read { offset: 0, buffer: 0, len },
        BackendOp::Write { offset: 0, buffer: 0, len, durable: true },
    ] {
        let res =
            complete(&mut driver, Sqe::Backend { tag: Tag(DEPTH - 1), place: Place::Tag, op });
        assert_eq!(res, Errno::EFAULT.to_result(), "{op:?}");
    }
    assert_eq!(
        complete(&mut driver, Sqe::Backend { tag: Tag(0), place: Place::Tag, op: BackendOp::Sync }),
        0
    );
    let mut now = vec![0; PAGE];
    file.read_exact_at(&mut now, 0).expect("read");
    assert_eq!(now, [7; PAGE]);
    // A file that is no ublk device takes no commands, whatever they are about.
    for sqe in [Sqe::Register { tag: Tag(1) }, Sqe::Unregister { tag: Tag(1) }] {
        assert_eq!(complete(&mut driver, sqe), Errno::EOPNOTSUPP.to_result());
    }
}

/// A file of that layout plays the character device: what is at a request's position is the request's data.
fn requests() -> (File, impl Fn(u16, usize) -> Vec<u8>) {
    let device = memfd(1 << 33);
    let file = device.try_clone().expect("a descriptor");
    let data = move |tag: u16, len: usize| {
        let mut now = vec![0; len];
        let at = 0x8000_0000 + (u64::from(tag) << 25);
        file.read_exact_at(&mut now, at).expect("read");
        now
    };
    (device, data)
}

#[test]
fn user_copy_moves_between_the_store_and_the_request() {
    let store_file = memfd(8 * PAGE as u64);
    let pattern: Vec<u8> = (0..8 * PAGE).map(|byte| (byte % 251) as u8).collect();
    store_file.write_all_at(&pattern, 0).expect("written");
    let store = store_file.try_clone().expect("a descriptor").into();
    let store = Store::map(store, pattern.len() as u64).expect("mapped");
    let backend = Backend::Memory(Arc::new(store));
    let (device, data) = requests();
    let Some(mut driver) = queue_driver_with(TagMemory::Nothing, device, backend, None, &mailbox())
    else {
        return;
    };

    assert_eq!(driver.memory(Tag(2), Place::Tag, MemoryOp::Load { offset: 512, len: 1024 }), 1024);
    assert_eq!(data(2, 1024), pattern[512..1536]);
    assert_eq!((data(1, 512), data(3, 512)), (vec![0; 512], vec![0; 512]), "no other's");

    assert_eq!(
        driver.memory(Tag(2), Place::Tag, MemoryOp::Store { offset: 4096, len: 1024 }),
        1024
    );
    let mut now = vec![0; 1024];
    store_file.read_exact_at(&mut now, 4096).expect("read");
    assert_eq!(now, pattern[512..1536]);

    // More than one piece of zeroes.
    let len = 200 * 1024;
    assert_eq!(driver.memory(Tag(2), Place::Tag, MemoryOp::Clear { len }), len as i32);
    assert_eq!(data(2, 1024), vec![0; 1024]);
}

#[test]
fn user_copy_moves_between_the_buffer_and_the_request() {
    let file = tempfile::tempfile().expect("a file");
    file.write_all_at(&[7; 2 * PAGE], 0).expect("written");
    let backend = Backend::File(Arc::new(file.try_clone().expect("a descriptor").into()));
    let (device, data) = requests();
    let Some(mut driver) = queue_driver(device, backend, &mailbox()) else { return };
    let read = BackendOp::Read { offset: 0, buffer: 0, len: PAGE as u32 };
    assert_eq!(
        complete(&mut driver, Sqe::Backend { tag: Tag(3), place: Place::Tag, op: read }),
        PAGE as i32
    );
    assert_eq!(
        driver.memory(Tag(3), Place::Tag, MemoryOp::CopyOut { len: PAGE as u32 }),
        PAGE as i32
    );
    assert_eq!(data(3, PAGE), [7; PAGE]);
    // Tag 1's data is nothing but zeroes.
    assert_eq!(driver.memory(Tag(1), Place::Tag, MemoryOp::CopyIn { len: 512 }), 512);
    let write = BackendOp::Write { offset: PAGE as u64, buffer: 0, len: 512, durable: false };
    assert_eq!(
        complete(&mut driver, Sqe::Backend { tag: Tag(1), place: Place::Tag, op: write }),
        512
    );
    let mut now = vec![1; 1024];
    file.read_exact_at(&mut now, PAGE as u64).expect("read");
    assert_eq!((&now[..512], &now[512..]), (&[0; 512][..], &[7; 512][..]));
}

#[test]
fn a_user_copy_that_fails_or_ends_early_says_so() {
    // Read-only: like a copy in the wrong direction. And a device that ends in the middle of the data.
    let device = memfd(0x8000_0000 + 512);
    let path = format!("/proc/self/fd/{}", device.as_raw_fd());
    let read_only = File::open(path).expect("opened");
    let inbox = mailbox();
    let Some(mut driver) =
        queue_driver_with(TagMemory::Nothing, read_only, Backend::Nothing, None, &inbox)
    else {
        return;
    };
    let clear = MemoryOp::Clear { len: 1024 };
    assert_eq!(driver.memory(Tag(0), Place::Tag, clear), -libc::EBADF);
    let store = Store::map(memfd(4096).into(), 4096).expect("mapped");
    let backend = Backend::Memory(Arc::new(store));
    let Some(mut driver) = queue_driver_with(TagMemory::Nothing, device, backend, None, &inbox)
    else {
        return;
    };
    assert_eq!(driver.memory(Tag(0), Place::Tag, MemoryOp::Store { offset: 0, len: 1024 }), 512);
}

#[test]
fn a_descriptor_is_read_where_the_kernel_writes_it() {
    let device = memfd(0x18000);
    let desc = IoDesc { op_flags: 1, nr_sectors: 8, start_sector: 0x1234_5678_9abc, addr: 7 };
    device.write_all_at(&desc.encode(), 3 * IoDesc::SIZE as u64).expect("written");
    let Some(driver) = queue_driver(device, Backend::Nothing, &mailbox()) else { return };
    assert_eq!(driver.descriptor(Tag(3)), desc);
    assert_eq!(driver.descriptor(Tag(2)), IoDesc::default());
}

#[test]
fn a_queue_whose_fetch_is_refused_says_so_and_ends() {
    let (inbox, outbox) = (mailbox(), mailbox());
    let shape = QueueShape { queue: QueueId(0), depth: DEPTH, buffer_bytes: BUFFER_BYTES };
    let device = Arc::new(OwnedFd::from(memfd(0x18000)));
    let mut driver = QueueDriver::new(
        shape,
        device,
        Backend::Nothing,
        None,
        Arc::clone(&inbox),
        Arc::clone(&outbox),
    );
    let config = QueueConfig {
        id: QueueId(0),
        depth: DEPTH,
        buffer_bytes: BUFFER_BYTES,
        sectors: 8,
        entries: QueueConfig::ring_entries(DEPTH),
        mode: MODE,
        data: DataMode::Copy,
        buffers: 0,
        shared_bytes: 0,
    };
    let mut queue = Queue::new(config, AnyTarget::Null(Null { sectors: 8 }));
    let mut publisher = Board::default().publisher(Name::Queue(QueueId(0)));
    inbox.tell(ToQueue::Prime);
    let exit = driver::run(&mut queue, &mut driver, &mut publisher);
    let Exit::Failed(cause) = exit else { panic!("{exit:?}") };
    if !matches!(cause.step, Step::QueueRing(_)) {
        assert_eq!(outbox.hear(), Received::Message(FromQueue::Ready(QueueId(0))));
    }
    assert_eq!(outbox.hear(), Received::Message(FromQueue::Failed(QueueId(0), cause)));
    assert_eq!(outbox.hear(), Received::Empty);
    // A memfd takes no commands; where io_uring is forbidden, there is no ring to send one.
    assert!(matches!(cause.step, Step::Fetch(_) | Step::QueueRing(_)), "{cause}");
}

const DEVICE: DeviceGeometry = DeviceGeometry {
    id: NO_DEVICE,
    queues: 1,
    depth: DEPTH,
    buffer_bytes: BUFFER_BYTES,
    sectors: 8,
    data: DataMode::Copy,
    batch: false,
    shared_bytes: 0,
};

fn worker_driver(supervisor: Peer) -> WorkerDriver {
    let target = AnyTarget::Null(Null { sectors: 8 });
    WorkerDriver::new(DEVICE, target, (Backend::Nothing, None), supervisor, Board::default(), None)
        .expect("mailboxes")
}

/// Runs a worker whose device does not appear, and what its supervisor does meanwhile.
fn worker_and(supervise: impl FnOnce(Peer) + Send + 'static) -> Exit {
    let (ours, theirs) = Peer::pair().expect("a socket pair");
    let supervisor = thread::spawn(move || {
        thread::sleep(Duration::from_millis(150));
        supervise(ours);
    });
    let mut publisher = Board::default().publisher(Name::Worker);
    let started = Instant::now();
    let exit =
        driver::run(&mut Worker::new(DEVICE, MODE), &mut worker_driver(theirs), &mut publisher);
    assert!(started.elapsed() < Duration::from_secs(3), "it did not hear its supervisor");
    supervisor.join().expect("it supervises");
    exit
}

#[test]
fn a_worker_that_waits_for_its_device_hears_quit() {
    let exit = worker_and(|worker| {
        worker.tell(&ToWorker::Quit);
        let deadline = Instant::now() + Duration::from_secs(3);
        while worker.hear::<FromWorker>() == Received::Empty {
            assert!(Instant::now() < deadline, "the worker said nothing");
            thread::sleep(Duration::from_millis(5));
        }
    });
    let no_ring = matches!(exit, Exit::Failed(Cause { step: Step::WorkerRing, .. }));
    assert!(exit == Exit::Finished || no_ring, "{exit:?}");
}

#[test]
fn a_worker_that_is_not_live_ends_with_its_supervisor() {
    let exit = worker_and(drop);
    let Exit::Failed(cause) = exit else { panic!("{exit:?}") };
    assert!(cause.problem == Problem::LinkClosed || cause.step == Step::WorkerRing, "{cause}");
}

#[test]
fn a_supervisor_attaches_to_the_process_that_was_written_down_and_to_no_other() {
    let mut child = Command::new("sleep").arg("60").spawn().expect("a process");
    let process = Process::find(child.id()).expect("it runs");
    let driver = |known| {
        SupervisorDriver::of_others(os::signal_fd(&[]).expect("a descriptor"), known, known)
    };
    let attach = Call::AttachWorker { pid: process.pid };
    let gone = Ret::Failed(Errno::ESRCH);

    // Not a worker by name; one that started at another time; none at all.
    assert_eq!(call(&mut driver(None), attach), gone);
    let earlier = Process { started: process.started - 1, ..process };
    assert_eq!(call(&mut driver(Some(earlier)), attach), gone);
    assert_eq!(call(&mut driver(None), Call::AttachWorker { pid: u32::MAX }), gone);
    let attach_supervisor = Call::AttachSupervisor { pid: process.pid };
    assert_eq!(call(&mut driver(None), attach_supervisor), gone);
    assert_eq!(call(&mut driver(Some(earlier)), attach_supervisor), gone);
    assert_eq!(call(&mut driver(Some(process)), attach_supervisor), Ret::Done);

    let mut driver = driver(Some(process));
    assert_eq!(call(&mut driver, attach), Ret::Done);
    assert_eq!(call(&mut driver, Call::ReapWorker), Ret::Running);
    assert_eq!(call(&mut driver, Call::KillWorker), Ret::Done);
    // It is our child here, so its status is ours to know.
    let deadline = Instant::now() + Duration::from_secs(3);
    let mut reaped = call(&mut driver, Call::ReapWorker);
    while reaped == Ret::Running && Instant::now() < deadline {
        thread::sleep(Duration::from_millis(5));
        reaped = call(&mut driver, Call::ReapWorker);
    }
    assert_eq!(reaped, Ret::Exited(WorkerExit::Signal(9)));
    let _ = child.wait();
}

#[test]
fn a_supervisor_without_a_driver_fails_at_its_first_step() {
    if std::path::Path::new("/dev/ublk-control").exists() {
        println!("skipped: this machine has a ublk driver");
        return;
    }
    let operator = os::signal_fd(&[]).expect("a descriptor");
    let mut driver = SupervisorDriver::of_others(operator, None, None);
    let plan = Plan::Delete { id: NO_DEVICE, worker: None, supervisor: None, if_unused: false };
    let mut supervisor = Supervisor::new(plan, Deadlines::DEFAULT);
    let mut publisher = Board::default().publisher(Name::Supervisor);
    let exit = driver::run(&mut supervisor, &mut driver, &mut publisher);
    assert_eq!(exit, Exit::Failed(Cause::errno(Step::ControlRing, Errno::ENOENT)));
}

#[test]
fn a_token_survives_the_ring() {
    let Some(mut driver) = queue_driver(memfd(0x18000), Backend::Nothing, &mailbox()) else {
        return;
    };
    driver.push(Sqe::Timer { generation: u32::MAX, ms: 0 }).expect("room");
    assert_eq!(call(&mut driver, Call::Enter { submit: 1, wait: 1 }), Ret::Submitted(1));
    let completion = driver.reap().expect("a completion");
    assert_eq!(completion.token, Token::Timer(u32::MAX));
}
