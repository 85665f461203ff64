//! A queue's thread: one ring, the tag buffers, and two mailboxes.

use std::ops::ControlFlow;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use blkproof_engine::batch::{BatchOp, Element};
use blkproof_engine::data::Place;
use blkproof_engine::link::{FromQueue, Link, Received, ToQueue};
use blkproof_engine::sys::{Call, Cqe, Exit, MemoryOp, QueueIo, Ret, Ring, Sqe, Token};
use blkproof_engine::uapi::{IoDesc, IoOp, Tag};

use super::{Driver, Push, cqe, done, misplaced, sleep, submitted};
use crate::bell::RingMailbox;
use crate::os::{Backend, QueueRing, QueueShape, Store};

/// Carries out the calls of a [`Queue`](blkproof_engine::queue::Queue).
#[derive(Debug)]
pub struct QueueDriver {
    ring: Option<QueueRing>,
    shape: QueueShape,
    char_device: Arc<OwnedFd>,
    backend: Backend,
    shared: Option<Arc<Store>>,
    /// From the worker.
    inbox: Arc<RingMailbox<ToQueue>>,
    /// To the worker.
    outbox: Arc<RingMailbox<FromQueue>>,
}

impl QueueDriver {
    /// A driver for the calling thread.
    pub const fn new(
        shape: QueueShape,
        char_device: Arc<OwnedFd>,
        backend: Backend,
        shared: Option<Arc<Store>>,
        inbox: Arc<RingMailbox<ToQueue>>,
        outbox: Arc<RingMailbox<FromQueue>>,
    ) -> Self {
        Self { ring: None, shape, char_device, backend, shared, inbox, outbox }
    }

    fn ring(&self) -> &QueueRing {
        self.ring.as_ref().expect("I1: a machine sets its ring up before it uses it")
    }

    fn ring_mut(&mut self) -> &mut QueueRing {
        self.ring.as_mut().expect("I1: a machine sets its ring up before it uses it")
    }
}

impl Driver for QueueDriver {
    fn call(&mut self, call: Call) -> ControlFlow<Exit, Ret> {
        ControlFlow::Continue(match call {
            Call::Enter { submit, wait } => submitted(self.ring_mut().enter(submit, wait)),
            Call::Sleep { ms } => sleep(ms),
            Call::SetupRing(spec) => {
                let (device, backend) = (Arc::clone(&self.char_device), self.backend.clone());
                let shared = self.shared.clone();
                done(
                    QueueRing::new(spec, self.shape, device, backend, shared)
                        .map(|ring| self.ring = Some(ring)),
                )
            }
            Call::MapQueue { queue, memory, buffers } => {
                assert_eq!(queue, self.shape.queue, "I1: a queue maps its own descriptors");
                done(self.ring_mut().map(memory, buffers))
            }
            Call::Exit(exit) => return ControlFlow::Break(exit),
            Call::SpawnWorker { .. }
            | Call::AttachWorker { .. }
            | Call::KillWorker
            | Call::ReapWorker
            | Call::AttachSupervisor { .. }
            | Call::StopSupervisor
            | Call::AskSupervisor { .. }
            | Call::FitStore { .. }
            | Call::FindNode { .. }
            | Call::OpenChar
            | Call::SpawnQueue { .. } => misplaced(&call),
        })
    }
}

impl Ring for QueueDriver {
    fn sq_space(&self) -> u32 {
        self.ring().sq_space()
    }

    fn sq_ready(&self) -> u32 {
        self.ring().sq_ready()
    }

    fn push(&mut self, sqe: Sqe) -> Push {
        let user_data = sqe.token().encode();
        let watched = self.inbox.doorbell().as_fd();
        let ring = self.ring.as_mut().expect("I1: a machine sets its ring up before it uses it");
        match sqe {
            Sqe::Fetch { tag, address } => {
                ring.push_io(IoOp::FetchReq, (tag, address), 0, user_data)
            }
            Sqe::Commit { tag, result, address } => {
                ring.push_io(IoOp::CommitAndFetchReq, (tag, address), result, user_data)
            }
            Sqe::GetData { tag, address } => {
                ring.push_io(IoOp::NeedGetData, (tag, address), 0, user_data)
            }
            Sqe::FetchTags => ring.push_fetch_tags(user_data),
            Sqe::Register { tag } => ring.push_slot(IoOp::RegisterIoBuf, tag, user_data),
            Sqe::Unregister { tag } => ring.push_slot(IoOp::UnregisterIoBuf, tag, user_data),
            Sqe::Backend { tag, place, op } => ring.push_backend(op, tag, place, user_data),
            Sqe::Watch { link: Link::Worker } => ring.push_poll(watched, user_data),
            Sqe::Timer { generation: _, ms } => ring.push_timer(ms, user_data),
            Sqe::Watch { .. }
            | Sqe::WatchWorker
            | Sqe::WatchSupervisor
            | Sqe::CancelControl { .. } => misplaced(&sqe),
        }
    }

    fn reap(&mut self) -> Option<Cqe> {
        self.ring_mut().reap().map(cqe)
    }
}

impl QueueIo for QueueDriver {
    fn hear_worker(&mut self) -> Received<ToQueue> {
        self.inbox.hear()
    }

    fn tell_worker(&mut self, message: FromQueue) {
        self.outbox.tell(message);
    }

    fn push_batch(&mut self, op: BatchOp, elements: &[Element]) -> Push {
        let token = match op {
            BatchOp::Prep => Token::Prep,
            BatchOp::Commit => Token::Commits,
        };
        self.ring_mut().push_batch(op, elements, token.encode())
    }

    fn told(&self, nth: u16) -> Tag {
        self.ring().told(nth)
    }

    fn give_back(&mut self) {
        self.ring_mut().give_back();
    }

    fn goes_on(&self) -> bool {
        self.ring().goes_on()
    }

    fn descriptor(&self, tag: Tag) -> IoDesc {
        self.ring().descriptor(tag)
    }

    fn memory(&mut self, tag: Tag, place: Place, op: MemoryOp) -> i32 {
        self.ring_mut().memory(tag, place, op)
    }
}
