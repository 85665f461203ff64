//! The handshakes between the threads of a worker, with the engine's own machines at both ends.
//!
//! Under `--cfg loom` every interleaving of up to four preemptions is tried, and weakened twins of each handshake must fail:
//!
//! ```text
//! RUSTFLAGS="--cfg loom" cargo test -p real --test loom_links --release
//! ```
//!
//! Otherwise the same handshakes run many times with the system's threads.

use blkproof::board::{Board, Name, State, View};
use blkproof::mailbox::{Doorbell, Mailbox};
use blkproof::sync::Arc;
use blkproof::sync::atomic::{AtomicU16, Ordering};
use blkproof_engine::batch::{BatchOp, Element};
use blkproof_engine::cause::{Cause, Problem, Step};
use blkproof_engine::data::{DataMode, Place};
use blkproof_engine::link::{FromQueue, FromWorker, Link, Received, ToQueue, ToWorker};
use blkproof_engine::queue::{Queue, QueueConfig};
use blkproof_engine::sys::{
    Call, Cqe, DeviceGeometry, Exit, MemoryOp, QueueIo, Ret, Ring, RingMode, SqFull, Sqe, Token,
    WorkerIo,
};
use blkproof_engine::target::Null;
use blkproof_engine::uapi::{DevId, IoDesc, QueueId, Tag};
use blkproof_engine::worker::{self, Worker};

#[cfg(loom)]
use loom::{sync, thread};
#[cfg(not(loom))]
use std::{sync, thread};

/// Tries a handshake: in every interleaving, or often.
#[cfg(loom)]
fn model(handshake: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    // `LOOM_MAX_PREEMPTIONS` overrides it. Without any bound the largest model takes minutes, and finds no more.
    builder.preemption_bound = builder.preemption_bound.or(Some(4));
    builder.check(handshake);
}

#[cfg(not(loom))]
fn model(handshake: impl Fn()) {
    for _ in 0..1_000 {
        handshake();
    }
}

/// An eventfd and the watch on it: `wait` is the `enter` that returns when the watch completes.
#[derive(Debug, Default)]
struct Bell {
    rung: sync::Mutex<bool>,
    changed: sync::Condvar,
}

impl Bell {
    fn wait(&self) {
        let mut rung = self.rung.lock().expect("no model panics with it held");
        while !*rung {
            rung = self.changed.wait(rung).expect("no model panics with it held");
        }
    }
}

impl Doorbell for Bell {
    fn ring(&self) {
        *self.rung.lock().expect("no model panics with it held") = true;
        self.changed.notify_one();
    }

    fn silence(&self) {
        *self.rung.lock().expect("no model panics with it held") = false;
    }
}

/// A mailbox as the machines see it: the real one, or a weakened twin.
trait Post<M>: Send + Sync + 'static {
    fn new(capacity: usize) -> Self;
    fn tell(&self, message: M);
    fn hear(&self) -> Received<M>;
    fn bell(&self) -> &Bell;
}

impl<M: Send + 'static> Post<M> for Mailbox<M, Bell> {
    fn new(capacity: usize) -> Self {
        Self::new(capacity, Bell::default())
    }

    fn tell(&self, message: M) {
        self.tell(message);
    }

    fn hear(&self) -> Received<M> {
        self.hear()
    }

    fn bell(&self) -> &Bell {
        self.doorbell()
    }
}

/// Mailboxes of one make, for every kind of message.
trait Make: 'static {
    type Of<M: Send + 'static>: Post<M>;
}

/// The real ones.
struct Sound;

impl Make for Sound {
    type Of<M: Send + 'static> = Mailbox<M, Bell>;
}

type ToWorkerThread<P> = Arc<<P as Make>::Of<FromQueue>>;
type ToQueueThread<P> = Arc<<P as Make>::Of<ToQueue>>;

/// The ring of a modelled thread: it wakes for one mailbox, the commands it submits stay armed, and its timers never expire.
struct Thread<I, O> {
    inbox: Arc<I>,
    outboxes: Vec<Arc<O>>,
    watched: Link,
    /// Entries pushed since the last `enter`; whether one of them watches the inbox.
    pushed: u32,
    pushed_watch: bool,
    armed: bool,
    completion: Option<Cqe>,
    /// What a worker told its supervisor.
    reported: Vec<FromWorker>,
}

const ENTRIES: u32 = 8;

impl<I, O> Thread<I, O> {
    fn new(watched: Link, inbox: &Arc<I>, outboxes: &[Arc<O>]) -> Self {
        Self {
            inbox: Arc::clone(inbox),
            outboxes: outboxes.to_vec(),
            watched,
            pushed: 0,
            pushed_watch: false,
            armed: false,
            completion: None,
            reported: Vec::new(),
        }
    }

    /// What a driver does, on modelled memory.
    fn call<M>(&mut self, call: Call) -> Result<Ret, Exit>
    where
        I: Post<M>,
    {
        match call {
            Call::Enter { submit, wait } => {
                assert_eq!(submit, self.pushed, "all that was pushed is submitted");
                self.pushed = 0;
                self.armed |= std::mem::take(&mut self.pushed_watch);
                if wait > 0 && self.completion.is_none() {
                    assert!(self.armed, "nobody waits for what nothing will complete");
                    self.inbox.bell().wait();
                    self.armed = false;
                    self.completion = Some(Cqe { token: Token::Link(self.watched), res: 1 });
                }
                Ok(Ret::Submitted(submit))
            }
            Call::Exit(exit) => Err(exit),
            _ => Ok(Ret::Done),
        }
    }
}

impl<I, O> Ring for Thread<I, O> {
    fn sq_space(&self) -> u32 {
        ENTRIES - self.pushed
    }

    fn sq_ready(&self) -> u32 {
        self.pushed
    }

    fn push(&mut self, sqe: Sqe) -> Result<(), SqFull> {
        assert!(self.pushed < ENTRIES, "I3");
        self.pushed += 1;
        self.pushed_watch |= sqe == Sqe::Watch { link: self.watched };
        Ok(())
    }

    fn reap(&mut self) -> Option<Cqe> {
        self.completion.take()
    }
}

impl<I: Post<FromQueue>, O: Post<ToQueue>> WorkerIo for Thread<I, O> {
    fn hear_supervisor(&mut self) -> Received<ToWorker> {
        Received::Empty
    }

    fn tell_supervisor(&mut self, message: FromWorker) {
        self.reported.push(message);
    }

    fn hear_queues(&mut self) -> Received<FromQueue> {
        self.inbox.hear()
    }

    fn tell_queue(&mut self, queue: QueueId, message: ToQueue) {
        self.outboxes[usize::from(queue.0)].tell(message);
    }
}

impl<I: Post<ToQueue>, O: Post<FromQueue>> QueueIo for Thread<I, O> {
    fn hear_worker(&mut self) -> Received<ToQueue> {
        self.inbox.hear()
    }

    fn tell_worker(&mut self, message: FromQueue) {
        self.outboxes[0].tell(message);
    }

    fn push_batch(&mut self, _op: BatchOp, _elements: &[Element]) -> Result<(), SqFull> {
        unreachable!("no queue of these models has batches")
    }

    fn told(&self, _nth: u16) -> Tag {
        unreachable!("no queue of these models has batches")
    }

    fn give_back(&mut self) {
        unreachable!("no queue of these models has batches")
    }

    fn goes_on(&self) -> bool {
        unreachable!("no queue of these models has batches")
    }

    fn descriptor(&self, _tag: Tag) -> IoDesc {
        unreachable!("no request is delivered in these models")
    }

    fn memory(&mut self, _tag: Tag, _place: Place, _op: MemoryOp) -> i32 {
        unreachable!("no request is delivered in these models")
    }
}

/// A worker of two queues.
fn two_queues() -> Worker {
    let device = DeviceGeometry {
        id: DevId(0),
        queues: 2,
        depth: 1,
        buffer_bytes: 4096,
        sectors: 8,
        data: DataMode::Copy,
        batch: false,
        shared_bytes: 0,
    };
    Worker::new(device, RingMode::DeferTaskrun)
}

/// Runs a worker until `done`, or to its end.
fn work<I: Post<FromQueue>, O: Post<ToQueue>>(
    worker: &mut Worker,
    thread: &mut Thread<I, O>,
    done: impl Fn(&Thread<I, O>) -> bool,
) -> Option<Exit> {
    let mut ret = Ret::Start;
    loop {
        let call = worker.resume(ret, thread);
        if done(thread) {
            return None;
        }
        match thread.call(call) {
            Ok(answer) => ret = answer,
            Err(exit) => return Some(exit),
        }
    }
}

/// Runs a queue to its end.
fn serve<P: Make>(id: QueueId, inbox: &ToQueueThread<P>, worker: &ToWorkerThread<P>) -> Exit {
    let config = QueueConfig {
        id,
        depth: 1,
        buffer_bytes: 4096,
        sectors: 8,
        entries: ENTRIES,
        mode: RingMode::DeferTaskrun,
        data: DataMode::Copy,
        buffers: 0,
        shared_bytes: 0,
    };
    let mut queue = Queue::new(config, Null { sectors: 8 });
    let mut thread = Thread::new(Link::Worker, inbox, std::slice::from_ref(worker));
    let mut ret = Ret::Start;
    loop {
        let call = queue.resume(ret, &mut thread);
        match thread.call(call) {
            Ok(answer) => ret = answer,
            Err(exit) => return exit,
        }
    }
}

fn cause(queue: u16) -> Cause {
    Cause::new(Step::Serve(QueueId(queue)), Problem::Protocol)
}

/// The primed latch: the supervisor hears *primed* when both queues are, and not before.
fn primed_latch<P: Make>(report_first: bool) {
    let inbox: ToWorkerThread<P> = Arc::new(Post::new(4));
    let outboxes: [ToQueueThread<P>; 2] = [Arc::new(Post::new(1)), Arc::new(Post::new(1))];
    let primed = Arc::new(AtomicU16::new(0));
    let queues: Vec<_> = (0..2)
        .map(|queue| {
            let (inbox, primed) = (Arc::clone(&inbox), Arc::clone(&primed));
            thread::spawn(move || {
                let report = || inbox.tell(FromQueue::Primed(QueueId(queue)));
                if report_first {
                    report();
                }
                primed.fetch_add(1, Ordering::Relaxed);
                if !report_first {
                    report();
                }
            })
        })
        .collect();
    let mut thread = Thread::new(Link::Queues, &inbox, &outboxes);
    work(&mut two_queues(), &mut thread, |thread| !thread.reported.is_empty());
    assert_eq!(thread.reported, [FromWorker::Primed]);
    assert_eq!(primed.load(Ordering::Relaxed), 2, "START_DEV only after both queues are primed");
    for queue in queues {
        queue.join().expect("a queue reports and ends");
    }
}

/// Stop: Quit reaches a queue, also one that is about to sleep.
fn stop<P: Make>() {
    let inbox: ToQueueThread<P> = Arc::new(Post::new(1));
    let worker: ToWorkerThread<P> = Arc::new(Post::new(2));
    let queue = {
        let (inbox, worker) = (Arc::clone(&inbox), Arc::clone(&worker));
        thread::spawn(move || serve::<P>(QueueId(0), &inbox, &worker))
    };
    inbox.tell(ToQueue::Quit);
    assert_eq!(queue.join().expect("it ends"), Exit::Finished);
}

/// Report: of two failures the first is reported, once, and before the worker ends.
fn report<P: Make>() {
    let inbox: ToWorkerThread<P> = Arc::new(Post::new(4));
    let outboxes: [ToQueueThread<P>; 2] = [Arc::new(Post::new(1)), Arc::new(Post::new(1))];
    let queues: Vec<_> = (0..2)
        .map(|queue| {
            let inbox = Arc::clone(&inbox);
            thread::spawn(move || {
                inbox.tell(FromQueue::Failed(QueueId(queue), cause(queue)));
            })
        })
        .collect();
    let mut thread = Thread::new(Link::Queues, &inbox, &outboxes);
    let exit = work(&mut two_queues(), &mut thread, |_| false);
    let Some(Exit::Failed(first)) = exit else { panic!("the worker fails: {exit:?}") };
    assert!(first == cause(0) || first == cause(1));
    assert_eq!(thread.reported, [FromWorker::Failed(first)]);
    for queue in queues {
        queue.join().expect("a queue reports and ends");
    }
}

/// The board: what was published last is what a reader finds, though it read meanwhile and the writer never waits.
fn board() {
    let board = Board::default();
    let mut publisher = board.publisher(Name::Worker);
    let view = |phase| View::new(State::Worker(phase));
    let reader = {
        let board = board.clone();
        thread::spawn(move || board.views())
    };
    publisher.publish(view(worker::Phase::Opening));
    publisher.publish(view(worker::Phase::Running));
    reader.join().expect("it reads");
    assert_eq!(board.views(), [(Name::Worker, view(worker::Phase::Running))]);
}

#[test]
fn the_worker_is_primed_when_both_queues_are() {
    model(|| primed_latch::<Sound>(false));
}

#[test]
fn quit_reaches_a_queue_that_is_about_to_sleep() {
    model(stop::<Sound>);
}

#[test]
fn the_first_failure_is_reported_once_and_before_the_end() {
    model(report::<Sound>);
}

#[test]
fn the_last_view_is_never_lost() {
    model(board);
}

/// Twins that must fail: each shows that the order it breaks is what the handshake rests on.
#[cfg(loom)]
mod weakened {
    use std::collections::VecDeque;

    use blkproof::sync::Mutex;

    use super::*;

    struct Parts<M> {
        messages: Mutex<VecDeque<M>>,
        bell: Bell,
    }

    impl<M> Parts<M> {
        fn new() -> Self {
            Self { messages: Mutex::new(VecDeque::new()), bell: Bell::default() }
        }

        fn push(&self, message: M) {
            self.messages.lock().push_back(message);
        }

        fn pop(&self) -> Received<M> {
            self.messages.lock().pop_front().map_or(Received::Empty, Received::Message)
        }
    }

    /// Looks, then silences: what arrives in between is silenced unseen.
    struct PopsFirst;

    impl Make for PopsFirst {
        type Of<M: Send + 'static> = PopsFirstOf<M>;
    }

    struct PopsFirstOf<M>(Parts<M>);

    impl<M: Send + 'static> Post<M> for PopsFirstOf<M> {
        fn new(_capacity: usize) -> Self {
            Self(Parts::new())
        }

        fn tell(&self, message: M) {
            self.0.push(message);
            self.0.bell.ring();
        }

        fn hear(&self) -> Received<M> {
            let found = self.0.pop();
            self.0.bell.silence();
            found
        }

        fn bell(&self) -> &Bell {
            &self.0.bell
        }
    }

    /// Rings, then pushes: the receiver may have come and gone in between.
    struct RingsFirst;

    impl Make for RingsFirst {
        type Of<M: Send + 'static> = RingsFirstOf<M>;
    }

    struct RingsFirstOf<M>(Parts<M>);

    impl<M: Send + 'static> Post<M> for RingsFirstOf<M> {
        fn new(_capacity: usize) -> Self {
            Self(Parts::new())
        }

        fn tell(&self, message: M) {
            self.0.bell.ring();
            self.0.push(message);
        }

        fn hear(&self) -> Received<M> {
            self.0.bell.silence();
            self.0.pop()
        }

        fn bell(&self) -> &Bell {
            &self.0.bell
        }
    }

    /// Names the twin that a child process is to run.
    const TWIN: &str = "BLKPROOF_LOOM_TWIN";

    /// Runs a twin, which must fail in this way. In a process of its own: a deadlock that loom finds ends its process.
    fn fails(name: &str, how: &str, twin: fn()) {
        if std::env::var_os(TWIN).is_some_and(|wanted| wanted == name) {
            twin();
            return;
        }
        let this_test = format!("weakened::{name}");
        let output = std::process::Command::new(std::env::current_exe().expect("this program"))
            .args(["--exact", &this_test, "--nocapture"])
            .env(TWIN, name)
            .output()
            .expect("this program starts");
        let said =
            String::from_utf8_lossy(&output.stderr) + String::from_utf8_lossy(&output.stdout);
        assert!(!output.status.success(), "{name} was not found:\n{said}");
        assert!(said.contains(how), "{name} failed in another way:\n{said}");
    }

    macro_rules! twins {
        ($($name:ident: $how:literal, $twin:expr;)*) => {$(
            #[test]
            fn $name() {
                fails(stringify!($name), $how, || model($twin));
            }
        )*};
    }

    twins! {
        a_queue_that_reports_before_it_is_primed_is_found:
            "START_DEV only after both queues are primed", || primed_latch::<Sound>(true);
        a_latch_that_looks_before_it_silences_is_found:
            "deadlock", || primed_latch::<PopsFirst>(false);
        a_latch_rung_before_it_is_pushed_is_found:
            "deadlock", || primed_latch::<RingsFirst>(false);
        a_quit_rung_before_it_is_pushed_is_found:
            "deadlock", stop::<RingsFirst>;
        a_report_silenced_unseen_is_found:
            "deadlock", report::<PopsFirst>;
        a_report_rung_before_it_is_pushed_is_found:
            "deadlock", report::<RingsFirst>;
        a_board_of_one_copy_that_skips_is_found:
            "the last view was lost", skipping_board;
    }

    /// One copy of the view, and a writer that does without when the reader holds it.
    fn skipping_board() {
        let copy = Arc::new(Mutex::new(0));
        let reader = {
            let copy = Arc::clone(&copy);
            thread::spawn(move || *copy.lock())
        };
        if let Some(mut copy) = copy.try_lock() {
            *copy = 1;
        }
        reader.join().expect("it reads");
        assert_eq!(*copy.lock(), 1, "the last view was lost");
    }
}
