//! What is recorded of a machine: everything that its driver carried out for it, in one format for every recorder.
//!
//! [`Recorded`] is a driver that tells a [`Sink`] what goes through it and changes nothing. What the sink does with it is its own
//! business: a conformance tap writes all of it down, a flight recorder would keep the last so many. A thread's records are in
//! its own order; between threads only the sink's time stamps tell what happened before what: a call's [`Event::Begin`] is
//! recorded before the kernel can see any of it, its [`Event::End`] and every [`Event::Cqe`] after the kernel was done.
//!
//! | kind | recorded | not recorded |
//! |---|---|---|
//! | calls | each, with its result | |
//! | entries and completions | each, and when there was none to reap | how much room the queue had: it follows |
//! | descriptors | each that was read | |
//! | links | each message told and heard, and the end of a link | that there was none: it follows |
//! | news for the log | | all |
//! | memory | | operations on tag buffers, and all data |

use alloc::string::String;
use alloc::vec::Vec;
use core::cell::{Ref, RefCell};

use crate::batch::{BatchOp, Element};
use crate::control::{Command, Reply};
use crate::data::Place;
use crate::link::{
    FromQueue, FromWorker, Link, News, Order, Received, ToQueue, ToWorker,
    Verdict as LauncherVerdict,
};
use crate::sys::{
    Call, ControlIo, Cqe, LauncherIo, MemoryOp, QueueIo, Ret, Ring, SqFull, Sqe, SupervisorIo,
    WorkerIo,
};
use crate::uapi::{DevId, Features, IoDesc, QueueId, Tag};

/// The version of the format. A reader refuses any other.
pub const FORMAT: u16 = 1;

/// What stands at the beginning of what one process recorded.
#[derive(Clone, PartialEq, Eq, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Header {
    /// [`FORMAT`].
    pub format: u16,
    /// Of blkproof.
    pub version: String,
    /// The kernel, as `uname -r` says it.
    pub release: String,
    /// What its driver supports (GET_FEATURES).
    pub features: Features,
    /// CPUs that it may use: the driver grants no more queues.
    pub cpus: u16,
    /// Which process of a device this is.
    pub process: Role,
    /// Its id.
    pub pid: u32,
    /// Hardware queues that the device was to have.
    pub queues: u16,
    /// Tags that each queue was to have.
    pub depth: u16,
    /// What the device's number was to be.
    pub device: Option<DevId>,
}

/// The processes of a device.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum Role {
    /// Commands the driver.
    Supervisor,
    /// Serves.
    Worker,
}

/// Whose record it is: a thread of the process that the header names.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum Thread {
    /// The first.
    Main,
    /// The one that serves this queue.
    Queue(QueueId),
}

/// One record of a thread. The time is in nanoseconds of the machine's monotonic clock, since the recording began.
#[derive(Clone, PartialEq, Eq, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Record(pub u64, pub Thread, pub Event);

/// What else stands in a recording: a header first, and an end or a gap last. A process that was killed leaves neither.
#[derive(Clone, PartialEq, Eq, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum Mark {
    /// The beginning.
    Header(Header),
    /// Everything was recorded up to this time. The process ends.
    End(u64),
    /// From here on something is missing, and why.
    Gap(String),
}

/// Something that a driver was asked for, or answered.
#[derive(Clone, PartialEq, Eq, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum Event {
    /// A call is about to be made.
    Begin(Call),
    /// It returned.
    End(Ret),
    /// An entry was pushed.
    Sqe(Sqe),
    /// A control command was pushed.
    Control {
        /// What its completion carries.
        sequence: u32,
        /// The command.
        command: Command,
    },
    /// A command about many tags was pushed.
    Batch {
        /// Which.
        op: BatchOp,
        /// About what.
        elements: Vec<Element>,
    },
    /// The completion that was reaped last told of this tag.
    Tag(Tag),
    /// Its buffer was given back.
    GaveBack,
    /// Whether its command goes on.
    GoesOn(bool),
    /// A completion was reaped.
    Cqe(Cqe),
    /// There was none to reap.
    Empty,
    /// What the last completed control command wrote was read.
    Reply(Reply),
    /// A descriptor was read.
    Descriptor {
        /// Of this tag.
        tag: Tag,
        /// What it said.
        desc: IoDesc,
    },
    /// A message was heard; `None`: the link is closed.
    Heard {
        /// Where.
        link: Link,
        /// What.
        message: Option<Message>,
    },
    /// A message was told.
    Told {
        /// Which queue, if it is the worker's to one of several.
        queue: Option<QueueId>,
        /// What.
        message: Message,
    },
}

/// What machines say to each other.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum Message {
    /// Operator to supervisor or launcher.
    Order(Order),
    /// Supervisor to launcher.
    Verdict(LauncherVerdict),
    /// Supervisor to worker.
    ToWorker(ToWorker),
    /// Worker to supervisor.
    FromWorker(FromWorker),
    /// Worker to a queue.
    ToQueue(ToQueue),
    /// A queue to its worker.
    FromQueue(FromQueue),
}

/// Where records go. Nothing here may wait for a disk or for another thread's work.
pub trait Sink {
    /// Takes a record.
    fn record(&mut self, event: &Event);
    /// The thread is about to enter the kernel: what was recorded so far must survive its death there.
    fn settle(&mut self);
}

/// A driver with a recorder in front of it.
#[derive(Debug)]
pub struct Recorded<D, S> {
    driver: D,
    /// Reading a descriptor or a reply borrows the driver only.
    sink: RefCell<S>,
}

impl<D, S: Sink> Recorded<D, S> {
    /// Records what goes through `driver`.
    pub const fn new(driver: D, sink: S) -> Self {
        Self { driver, sink: RefCell::new(sink) }
    }

    /// A call is about to be made.
    pub fn begins(&mut self, call: Call) {
        let sink = self.sink.get_mut();
        sink.record(&Event::Begin(call));
        sink.settle();
    }

    /// A call returned.
    pub fn ends(&mut self, ret: Ret) {
        self.sink.get_mut().record(&Event::End(ret));
    }

    /// The driver itself.
    pub const fn driver(&mut self) -> &mut D {
        &mut self.driver
    }

    /// The sink.
    pub fn sink(&self) -> Ref<'_, S> {
        self.sink.borrow()
    }

    fn record(&self, event: &Event) {
        self.sink.borrow_mut().record(event);
    }

    fn told(&self, message: Message) {
        self.record(&Event::Told { queue: None, message });
    }

    fn heard<M: Copy>(
        &self,
        link: Link,
        received: &Received<M>,
        message: impl FnOnce(M) -> Message,
    ) {
        match received {
            Received::Message(one) => {
                self.record(&Event::Heard { link, message: Some(message(*one)) });
            }
            Received::Closed => self.record(&Event::Heard { link, message: None }),
            Received::Empty => {}
        }
    }
}

impl<D: Ring, S: Sink> Ring for Recorded<D, S> {
    fn sq_space(&self) -> u32 {
        self.driver.sq_space()
    }

    fn sq_ready(&self) -> u32 {
        self.driver.sq_ready()
    }

    fn push(&mut self, sqe: Sqe) -> Result<(), SqFull> {
        self.driver.push(sqe)?;
        self.record(&Event::Sqe(sqe));
        Ok(())
    }

    fn reap(&mut self) -> Option<Cqe> {
        let cqe = self.driver.reap();
        self.record(&cqe.map_or(Event::Empty, Event::Cqe));
        cqe
    }
}

impl<D: ControlIo, S: Sink> ControlIo for Recorded<D, S> {
    fn push_control(&mut self, sequence: u32, command: &Command) -> Result<(), SqFull> {
        self.driver.push_control(sequence, command)?;
        self.record(&Event::Control { sequence, command: command.clone() });
        Ok(())
    }

    fn reply(&self) -> Reply {
        let reply = self.driver.reply();
        self.record(&Event::Reply(reply));
        reply
    }
}

impl<D: SupervisorIo, S: Sink> SupervisorIo for Recorded<D, S> {
    fn hear_operator(&mut self) -> Received<Order> {
        let received = self.driver.hear_operator();
        self.heard(Link::Operator, &received, Message::Order);
        received
    }

    fn hear_worker(&mut self) -> Received<FromWorker> {
        let received = self.driver.hear_worker();
        self.heard(Link::Worker, &received, Message::FromWorker);
        received
    }

    fn tell_worker(&mut self, message: ToWorker) {
        self.told(Message::ToWorker(message));
        self.driver.tell_worker(message);
    }

    fn tell_launcher(&mut self, verdict: LauncherVerdict) {
        self.told(Message::Verdict(verdict));
        self.driver.tell_launcher(verdict);
    }

    fn note(&mut self, news: News) {
        self.driver.note(news);
    }
}

impl<D: WorkerIo, S: Sink> WorkerIo for Recorded<D, S> {
    fn hear_supervisor(&mut self) -> Received<ToWorker> {
        let received = self.driver.hear_supervisor();
        self.heard(Link::Supervisor, &received, Message::ToWorker);
        received
    }

    fn tell_supervisor(&mut self, message: FromWorker) {
        self.told(Message::FromWorker(message));
        self.driver.tell_supervisor(message);
    }

    fn hear_queues(&mut self) -> Received<FromQueue> {
        let received = self.driver.hear_queues();
        self.heard(Link::Queues, &received, Message::FromQueue);
        received
    }

    fn tell_queue(&mut self, queue: QueueId, message: ToQueue) {
        self.record(&Event::Told { queue: Some(queue), message: Message::ToQueue(message) });
        self.driver.tell_queue(queue, message);
    }
}

impl<D: QueueIo, S: Sink> QueueIo for Recorded<D, S> {
    fn hear_worker(&mut self) -> Received<ToQueue> {
        let received = self.driver.hear_worker();
        self.heard(Link::Worker, &received, Message::ToQueue);
        received
    }

    fn tell_worker(&mut self, message: FromQueue) {
        self.told(Message::FromQueue(message));
        self.driver.tell_worker(message);
    }

    fn push_batch(&mut self, op: BatchOp, elements: &[Element]) -> Result<(), SqFull> {
        self.driver.push_batch(op, elements)?;
        self.record(&Event::Batch { op, elements: elements.into() });
        Ok(())
    }

    fn told(&self, nth: u16) -> Tag {
        let tag = self.driver.told(nth);
        self.record(&Event::Tag(tag));
        tag
    }

    fn give_back(&mut self) {
        self.driver.give_back();
        self.record(&Event::GaveBack);
    }

    fn goes_on(&self) -> bool {
        let goes_on = self.driver.goes_on();
        self.record(&Event::GoesOn(goes_on));
        goes_on
    }

    fn descriptor(&self, tag: Tag) -> IoDesc {
        let desc = self.driver.descriptor(tag);
        self.record(&Event::Descriptor { tag, desc });
        desc
    }

    fn memory(&mut self, tag: Tag, place: Place, op: MemoryOp) -> i32 {
        self.driver.memory(tag, place, op)
    }
}

impl<D: LauncherIo, S: Sink> LauncherIo for Recorded<D, S> {
    fn hear_operator(&mut self) -> Received<Order> {
        let received = self.driver.hear_operator();
        self.heard(Link::Operator, &received, Message::Order);
        received
    }

    fn hear_supervisor(&mut self) -> Received<LauncherVerdict> {
        let received = self.driver.hear_supervisor();
        self.heard(Link::Supervisor, &received, Message::Verdict);
        received
    }
}
