//! The worker's main thread: the character device, the queues' threads, and the link to the supervisor.

use std::ops::ControlFlow;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::{io, thread};

use blkproof_engine::link::{
    FromQueue, FromWorker, Link, Received, TO_QUEUE_MESSAGES_MAX, ToQueue, ToWorker,
    from_queues_messages_max,
};
use blkproof_engine::queue::{Queue, QueueConfig};
use blkproof_engine::record::{self, Recorded};
use blkproof_engine::sys::{Call, Cqe, DeviceGeometry, Exit, Ret, Ring, Sqe, WorkerIo};
use blkproof_engine::target::AnyTarget;
use blkproof_engine::uapi::{Errno, QueueId};
use rustix::fs::{Mode, OFlags};

use super::{Driver, Push, QueueDriver, cqe, done, misplaced, run, sleep, submitted};
use crate::bell::{Bell, RingMailbox};
use crate::board::{Board, Name};
use crate::devices;
use crate::os::{self, Backend, Entry64, PlainRing, QueueShape, Store};
use crate::peer::Peer;
use crate::tap::Tap;
use crate::task::SECTOR;

/// Bytes of a queue thread's stack.
const STACK_BYTES: usize = 256 * 1024;

/// Carries out the calls of a [`Worker`](blkproof_engine::worker::Worker).
#[derive(Debug)]
pub struct WorkerDriver {
    ring: Option<PlainRing<Entry64>>,
    device: DeviceGeometry,
    target: AnyTarget,
    backend: Backend,
    shared: Option<Arc<Store>>,
    char_device: Option<Arc<OwnedFd>>,
    supervisor: Peer,
    /// From all queues.
    inbox: Arc<RingMailbox<FromQueue>>,
    /// To each queue.
    outboxes: Vec<Arc<RingMailbox<ToQueue>>>,
    board: Board,
    tap: Option<Arc<Tap>>,
}

impl WorkerDriver {
    /// A driver for the calling thread.
    ///
    /// # Errors
    /// What the creation of the mailboxes answered.
    pub fn new(
        device: DeviceGeometry,
        target: AnyTarget,
        (backend, shared): (Backend, Option<Arc<Store>>),
        supervisor: Peer,
        board: Board,
        tap: Option<Arc<Tap>>,
    ) -> io::Result<Self> {
        Ok(Self {
            ring: None,
            device,
            target,
            backend,
            shared,
            char_device: None,
            supervisor,
            inbox: mailbox(from_queues_messages_max(device.queues))?,
            outboxes: (0..device.queues)
                .map(|_| mailbox(TO_QUEUE_MESSAGES_MAX))
                .collect::<io::Result<_>>()?,
            board,
            tap,
        })
    }

    fn ring(&self) -> &PlainRing<Entry64> {
        self.ring.as_ref().expect("I1: a machine sets its ring up before it uses it")
    }

    fn ring_mut(&mut self) -> &mut PlainRing<Entry64> {
        self.ring.as_mut().expect("I1: a machine sets its ring up before it uses it")
    }

    fn open_char(&mut self) -> Result<(), Errno> {
        let path = devices::char_path(self.device.id);
        let opened = rustix::fs::open(path, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty());
        let file = opened.map_err(|errno| Errno::from_result(-errno.raw_os_error()))?;
        self.char_device = Some(Arc::new(file));
        Ok(())
    }

    /// Reaches a store that has grown. A file is as large as it is.
    fn reach(&self, sectors: u64) -> Result<(), Errno> {
        match &self.backend {
            Backend::Memory(store) => store.reach(sectors * SECTOR),
            Backend::Nothing | Backend::File(_) | Backend::Zeroes(_) => Ok(()),
        }
    }

    fn spawn_queue(&self, config: QueueConfig) -> Result<(), Errno> {
        let QueueConfig { id, depth, buffer_bytes, .. } = config;
        let char_device =
            Arc::clone(self.char_device.as_ref().expect("I1: a worker opens before it spawns"));
        let (backend, shared) = (self.backend.clone(), self.shared.clone());
        let inbox = Arc::clone(&self.outboxes[usize::from(id.0)]);
        let outbox = Arc::clone(&self.inbox);
        let mut publisher = self.board.publisher(Name::Queue(id));
        let mut queue = Queue::new(config, self.target.clone());
        let recorder = self.tap.as_ref().map(|tap| tap.recorder(record::Thread::Queue(id)));
        let serve = move || {
            let shape = QueueShape { queue: id, depth, buffer_bytes };
            let mut driver = QueueDriver::new(shape, char_device, backend, shared, inbox, outbox);
            // A ring that closes takes the whole device down (H05), and its buffers may still be in use. The process, which
            // was told, ends soon and closes all rings at once.
            match recorder {
                None => {
                    run(&mut queue, &mut driver, &mut publisher);
                    std::mem::forget(driver);
                }
                Some(recorder) => {
                    let mut driver = Recorded::new(driver, recorder);
                    run(&mut queue, &mut driver, &mut publisher);
                    std::mem::forget(driver);
                }
            }
        };
        thread::Builder::new()
            .name(format!("queue {}", id.0))
            .stack_size(STACK_BYTES)
            .spawn(serve)
            .map(drop)
            .map_err(|error| os::errno(&error))
    }
}

impl Driver for WorkerDriver {
    fn call(&mut self, call: Call) -> ControlFlow<Exit, Ret> {
        ControlFlow::Continue(match call {
            Call::SetupRing(spec) => done(PlainRing::new(spec).map(|ring| self.ring = Some(ring))),
            Call::Enter { submit, wait } => submitted(self.ring_mut().enter(submit, wait)),
            Call::Sleep { ms } => sleep(ms),
            Call::OpenChar => done(self.open_char()),
            Call::SpawnQueue { config } => done(self.spawn_queue(config)),
            Call::FitStore { sectors } => done(self.reach(sectors)),
            Call::Exit(exit) => return ControlFlow::Break(exit),
            Call::SpawnWorker { .. }
            | Call::AttachWorker { .. }
            | Call::KillWorker
            | Call::ReapWorker
            | Call::AttachSupervisor { .. }
            | Call::StopSupervisor
            | Call::AskSupervisor { .. }
            | Call::FindNode { .. }
            | Call::MapQueue { .. } => misplaced(&call),
        })
    }
}

impl Ring for WorkerDriver {
    fn sq_space(&self) -> u32 {
        self.ring().sq_space()
    }

    fn sq_ready(&self) -> u32 {
        self.ring().sq_ready()
    }

    fn push(&mut self, sqe: Sqe) -> Push {
        let user_data = sqe.token().encode();
        let ring = self.ring.as_mut().expect("I1: a machine sets its ring up before it uses it");
        match sqe {
            Sqe::Watch { link: Link::Supervisor } => {
                ring.push_poll(self.supervisor.as_fd(), user_data)
            }
            Sqe::Watch { link: Link::Queues } => {
                ring.push_poll(self.inbox.doorbell().as_fd(), user_data)
            }
            Sqe::Timer { generation: _, ms } => ring.push_timer(ms, user_data),
            Sqe::Watch { .. }
            | Sqe::Fetch { .. }
            | Sqe::Commit { .. }
            | Sqe::GetData { .. }
            | Sqe::FetchTags
            | Sqe::Register { .. }
            | Sqe::Unregister { .. }
            | Sqe::Backend { .. }
            | Sqe::WatchWorker
            | Sqe::WatchSupervisor
            | Sqe::CancelControl { .. } => misplaced(&sqe),
        }
    }

    fn reap(&mut self) -> Option<Cqe> {
        self.ring_mut().reap().map(cqe)
    }
}

impl WorkerIo for WorkerDriver {
    fn hear_supervisor(&mut self) -> Received<ToWorker> {
        self.supervisor.hear()
    }

    fn tell_supervisor(&mut self, message: FromWorker) {
        self.supervisor.tell(&message);
    }

    fn hear_queues(&mut self) -> Received<FromQueue> {
        self.inbox.hear()
    }

    fn tell_queue(&mut self, queue: QueueId, message: ToQueue) {
        self.outboxes[usize::from(queue.0)].tell(message);
    }
}

fn mailbox<M>(messages: usize) -> io::Result<Arc<RingMailbox<M>>> {
    Ok(Arc::new(RingMailbox::new(messages, Bell::new()?)))
}
