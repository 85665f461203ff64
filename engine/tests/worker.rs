//! The worker against its peers in miniature: in which order it has its queues end.

use std::collections::VecDeque;

use blkproof_engine::cause::{Cause, Problem, Step};
use blkproof_engine::data::DataMode;
use blkproof_engine::link::{FromQueue, FromWorker, Link, Received, ToQueue, ToWorker};
use blkproof_engine::sys::{
    Call, Cqe, DeviceGeometry, Exit, Ret, Ring, RingMode, SqFull, Sqe, Token, WorkerIo,
};
use blkproof_engine::uapi::{DevId, QueueId};
use blkproof_engine::worker::{Phase, Worker};

/// What stands around a worker: nothing happens unless a test says so.
#[derive(Default)]
struct Peers {
    cq: VecDeque<Cqe>,
    from_supervisor: VecDeque<Received<ToWorker>>,
    from_queues: VecDeque<FromQueue>,
    to_queues: Vec<(u16, ToQueue)>,
    to_supervisor: Vec<FromWorker>,
    timers: Vec<u32>,
}

impl Ring for Peers {
    fn sq_space(&self) -> u32 {
        8
    }
    fn sq_ready(&self) -> u32 {
        0
    }
    fn push(&mut self, sqe: Sqe) -> Result<(), SqFull> {
        if let Sqe::Timer { generation, ms: _ } = sqe {
            self.timers.push(generation);
        }
        Ok(())
    }
    fn reap(&mut self) -> Option<Cqe> {
        self.cq.pop_front()
    }
}

impl WorkerIo for Peers {
    fn hear_supervisor(&mut self) -> Received<ToWorker> {
        self.from_supervisor.pop_front().unwrap_or(Received::Empty)
    }
    fn tell_supervisor(&mut self, message: FromWorker) {
        self.to_supervisor.push(message);
    }
    fn hear_queues(&mut self) -> Received<FromQueue> {
        self.from_queues.pop_front().map_or(Received::Empty, Received::Message)
    }
    fn tell_queue(&mut self, queue: QueueId, message: ToQueue) {
        self.to_queues.push((queue.0, message));
    }
}

impl Peers {
    /// The queues say something, and the worker hears it.
    fn queues_say(&mut self, worker: &mut Worker, messages: &[FromQueue]) -> Call {
        self.from_queues.extend(messages);
        self.cq.push_back(Cqe { token: Token::Link(Link::Queues), res: 1 });
        worker.resume(Ret::Submitted(0), self)
    }

    /// The supervisor says something, or is gone.
    fn supervisor_says(&mut self, worker: &mut Worker, what: Received<ToWorker>) -> Call {
        self.from_supervisor.push_back(what);
        self.cq.push_back(Cqe { token: Token::Link(Link::Supervisor), res: 1 });
        worker.resume(Ret::Submitted(0), self)
    }
}

/// A worker whose three queues have started.
fn started() -> (Worker, Peers) {
    let device = DeviceGeometry {
        id: DevId(0),
        queues: 3,
        depth: 2,
        buffer_bytes: 4096,
        sectors: 2048,
        data: DataMode::Copy,
        batch: false,
        shared_bytes: 0,
    };
    let (mut worker, mut peers) = (Worker::new(device, RingMode::DeferTaskrun), Peers::default());
    let mut call = worker.resume(Ret::Start, &mut peers);
    while !matches!(call, Call::Enter { .. }) {
        call = worker.resume(Ret::Done, &mut peers);
    }
    assert_eq!(worker.phase(), Phase::Running);
    let ready = [0, 1, 2].map(|queue| FromQueue::Ready(QueueId(queue)));
    let _ = peers.queues_say(&mut worker, &ready[..2]);
    assert_eq!(peers.to_queues, []);
    (worker, peers)
}

/// The last of the three is ready, and all are told to fetch.
fn told_to_fetch() -> (Worker, Peers) {
    let (mut worker, mut peers) = started();
    let _ = peers.queues_say(&mut worker, &[FromQueue::Ready(QueueId(2))]);
    let told = std::mem::take(&mut peers.to_queues);
    assert_eq!(told, [0, 1, 2].map(|queue| (queue, ToQueue::Prime)));
    (worker, peers)
}

/// All are told to quit, and have a time for it.
fn quits(worker: &Worker, peers: &Peers) {
    assert_eq!(worker.phase(), Phase::Quitting);
    assert_eq!(peers.to_queues, [0, 1, 2].map(|queue| (queue, ToQueue::Quit)));
    assert_eq!(peers.timers.len(), 1);
}

#[test]
fn before_the_first_fetch_queues_quit_at_once() {
    let (mut worker, mut peers) = started();
    let _ = peers.supervisor_says(&mut worker, Received::Closed);
    quits(&worker, &peers);
    let _ = peers.queues_say(&mut worker, &[FromQueue::Ready(QueueId(2))]);
    quits(&worker, &peers);
}

#[test]
fn between_the_first_fetch_and_the_last_no_queue_is_told_to_quit() {
    let (mut worker, mut peers) = told_to_fetch();
    let _ = peers.queues_say(&mut worker, &[FromQueue::Primed(QueueId(0))]);
    let _ = peers.supervisor_says(&mut worker, Received::Closed);
    assert_eq!(worker.phase(), Phase::Settling);
    // One fails by itself, and is no longer waited for.
    let _ = peers.queues_say(&mut worker, &[FromQueue::Ended(QueueId(1))]);
    assert_eq!(peers.to_queues, []);
    assert_eq!(peers.timers.len(), 0, "an exit would not get past a FETCH");
    let _ = peers.queues_say(&mut worker, &[FromQueue::Primed(QueueId(2))]);
    quits(&worker, &peers);
    let ended = [FromQueue::Ended(QueueId(0)), FromQueue::Ended(QueueId(2))];
    let call = peers.queues_say(&mut worker, &ended);
    let Call::Exit(Exit::Failed(cause)) = call else { panic!("{call:?}") };
    assert_eq!(cause.problem, Problem::LinkClosed);
    assert_eq!(peers.to_supervisor, [FromWorker::Failed(cause)]);
}

#[test]
fn where_every_queue_is_primed_all_are_told_to_quit_at_once() {
    let (mut worker, mut peers) = told_to_fetch();
    let primed = [0, 1, 2].map(|queue| FromQueue::Primed(QueueId(queue)));
    let _ = peers.queues_say(&mut worker, &primed);
    let _ = peers.supervisor_says(&mut worker, Received::Message(ToWorker::Quit));
    quits(&worker, &peers);
    let _ = peers.supervisor_says(&mut worker, Received::Message(ToWorker::Quit));
    quits(&worker, &peers);
}

#[test]
fn a_queue_that_fails_when_all_were_told_to_quit_is_reported() {
    let (mut worker, mut peers) = told_to_fetch();
    let primed = [0, 1, 2].map(|queue| FromQueue::Primed(QueueId(queue)));
    let _ = peers.queues_say(&mut worker, &primed);
    // Its tags were aborted: the others are told, and have all the time that they need.
    let _ = peers.queues_say(&mut worker, &[FromQueue::Ended(QueueId(0))]);
    assert_eq!((worker.phase(), peers.timers.len()), (Phase::Quitting, 0));
    let cause = Cause::new(Step::Serve(QueueId(1)), Problem::Protocol);
    let _ = peers.queues_say(&mut worker, &[FromQueue::Failed(QueueId(1), cause)]);
    quits(&worker, &peers);
    let call = peers.queues_say(&mut worker, &[FromQueue::Ended(QueueId(2))]);
    assert_eq!(call, Call::Exit(Exit::Failed(cause)));
}
