//! The boundary between a machine and its driver: the system call.
//!
//! What can block or fail in the kernel is a [`Call`], yielded as a value; its result comes back as
//! a [`Ret`]. What never blocks (filling the submission queue, reaping completions, sending on a
//! link) is a method of a small trait. There is exactly one blocking wait in the whole system,
//! [`Call::Enter`]: links, timers, child exits and the device itself all arrive as completions.

use crate::batch::{BatchOp, Element};
use crate::cause::{Cause, Step};
use crate::data::{Address, DataMode, Place, TagMemory};
use crate::link::{FromQueue, FromWorker, Link, News, Order, Received, ToQueue, ToWorker, Verdict};
use crate::queue::QueueConfig;
use crate::uapi::{DevId, Errno, IoDesc, QueueId, Tag};

/// What a thread asks its driver to do next. The driver carries it out and resumes the machine with
/// the [`Ret`] it produced.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[must_use = "a call that nobody carries out is a hang"]
pub enum Call {
    /// Create this thread's ring. Answers [`Ret::Done`] or [`Ret::Failed`].
    SetupRing(RingSpec),
    /// `io_uring_enter` with `IORING_ENTER_GETEVENTS`: submit up to `submit` entries, then wait until
    /// `wait` completions are there. Answers [`Ret::Submitted`] or [`Ret::Failed`]. The only call that waits.
    Enter {
        /// Entries to submit; the kernel may take fewer.
        submit: u32,
        /// Completions to wait for, 0 or 1.
        wait: u32,
    },
    /// Sleep for `ms` milliseconds: the back-off after the kernel refused an `enter`. Answers [`Ret::Done`].
    Sleep {
        /// Milliseconds.
        ms: u32,
    },
    /// Supervisor: start the worker process for `queues` queues of the device just added. Answers [`Ret::Spawned`] or [`Ret::Failed`].
    SpawnWorker {
        /// The device the worker will serve.
        device: DeviceGeometry,
        /// The worker is to be of the program as it is installed now, not as it was when the last one was started.
        #[cfg_attr(feature = "serde", serde(default))]
        renewed: bool,
    },
    /// Supervisor that adopts a device: get hold of the worker process `pid`, after checking that it still is that worker.
    /// Answers [`Ret::Done`], or [`Ret::Failed`] with `ESRCH` when it is gone.
    AttachWorker {
        /// The process id, in the caller's namespace.
        pid: u32,
    },
    /// Supervisor: send SIGKILL to the worker. Answers [`Ret::Done`], or [`Ret::Failed`] with `ESRCH`.
    KillWorker,
    /// Supervisor: collect the exit status of the worker. Never waits. Answers [`Ret::Exited`], or [`Ret::Running`] while it has not exited.
    ReapWorker,
    /// Supervisor that deletes a device: get hold of the process `pid` that brought it up, after checking that it still is
    /// that supervisor. Answers [`Ret::Done`], or [`Ret::Failed`] with `ESRCH` when it is gone.
    AttachSupervisor {
        /// The process id, in the caller's namespace.
        pid: u32,
    },
    /// Launcher, and a supervisor that deletes a device: ask the device's own supervisor to stop (SIGTERM). Answers [`Ret::Done`], or [`Ret::Failed`] with `ESRCH`.
    StopSupervisor,
    /// Supervisor that has something done by the device's own supervisor: ask that one for it, by a signal. Answers [`Ret::Done`], or [`Ret::Failed`] with `ESRCH`.
    AskSupervisor {
        /// What for.
        order: Order,
    },
    /// Supervisor: make what is behind the device so large, or say that it is; and give back what is beyond. Worker: reach all of it. Answers [`Ret::Done`] or [`Ret::Failed`].
    FitStore {
        /// In 512-byte sectors.
        sectors: u64,
    },
    /// Launcher: look for the node of the block device. Never waits. Answers [`Ret::Done`], or [`Ret::Failed`] with `ENOENT`.
    FindNode {
        /// The device.
        device: DevId,
    },
    /// Worker: open `/dev/ublkcN`. Answers [`Ret::Done`] or [`Ret::Failed`].
    OpenChar,
    /// Worker: start the thread of one queue. Answers [`Ret::Done`] or [`Ret::Failed`].
    SpawnQueue {
        /// What the thread will serve, and how.
        config: QueueConfig,
    },
    /// Queue: map the descriptor array, obtain what the data needs, and have the ring itself hold the character device open
    /// (`IORING_REGISTER_FILES`), so that the kernel takes it for released only after the last operation of this ring (I13).
    /// Answers [`Ret::Done`] or [`Ret::Failed`].
    MapQueue {
        /// The queue.
        queue: QueueId,
        /// What each tag is to have.
        memory: TagMemory,
        /// How many buffers for tags it is to have; 0 unless the device knows batches.
        #[cfg_attr(feature = "serde", serde(default))]
        buffers: u16,
    },
    /// The thread is finished. Never resumed. When the main thread of a process says this, the process exits.
    Exit(Exit),
}

/// How a machine ended.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum Exit {
    /// It did all that was asked of it.
    Finished,
    /// It failed; the first cause. What it had set up is unwound.
    Failed(Cause),
    /// It failed, and the unwinding got stuck: the device was left behind.
    Stuck {
        /// The first cause.
        cause: Cause,
        /// The step that did not finish within its deadline.
        step: Step,
    },
}

/// The result of a [`Call`].
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum Ret {
    /// First resumption of a machine: nothing was called yet.
    Start,
    /// The call succeeded.
    Done,
    /// The kernel took this many entries off the submission queue.
    Submitted(u32),
    /// The worker process runs under this id (in the caller's namespace).
    Spawned(u32),
    /// How the worker ended.
    Exited(WorkerExit),
    /// The worker has not ended.
    Running,
    /// The call failed.
    Failed(Errno),
}

/// How a worker process ended.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum WorkerExit {
    /// It called exit with this code.
    Code(u8),
    /// A signal ended it.
    Signal(u8),
    /// Not our child, so the status is not ours to know.
    Unknown,
}

/// What a worker needs to know of the device, after negotiation.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct DeviceGeometry {
    /// The device number, as in `/dev/ublkbN`.
    pub id: DevId,
    /// Hardware queues granted by the kernel (it clamps to the number of CPUs), 1..=4096.
    pub queues: u16,
    /// Tags in each queue, 1..=4096.
    pub depth: u16,
    /// The largest request in bytes, and the size of a tag's buffer: `max_io_buf_bytes` as the kernel returned it.
    pub buffer_bytes: u32,
    /// Size of the device in 512-byte sectors.
    pub sectors: u64,
    /// How data moves, as the kernel granted it.
    pub data: DataMode,
    /// Whether commands are about many tags at a time (`UBLK_F_BATCH_IO`), as the kernel granted it.
    #[cfg_attr(feature = "serde", serde(default))]
    pub batch: bool,
    /// Bytes of memory that clients share with the server, 0..=2^32; 0: none, or the kernel has none of that.
    #[cfg_attr(feature = "serde", serde(default))]
    pub shared_bytes: u64,
}

/// What kind of ring to create.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct RingSpec {
    /// Submission queue entries; the driver rounds up to a power of two.
    pub entries: u32,
    /// Who may run the ring's task work, and when.
    pub mode: RingMode,
}

/// How a ring runs its task work ("who may" in docs/protocol.md).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum RingMode {
    /// 128-byte entries, default task work: the supervisor's ring, as ublk control commands need it.
    Control,
    /// 64-byte entries, default task work: runs at any kernel exit of the thread.
    Default,
    /// 64-byte entries, `IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN`: runs only inside `enter`.
    DeferTaskrun,
}

/// A submission queue entry, as the engine means it. The driver encodes it into bytes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum Sqe {
    /// `UBLK_IO_FETCH_REQ` for a tag.
    Fetch {
        /// The tag.
        tag: Tag,
        /// Where its data is to be.
        address: Address,
    },
    /// `UBLK_IO_COMMIT_AND_FETCH_REQ` for a tag.
    Commit {
        /// The tag.
        tag: Tag,
        /// Bytes transferred, 0, or a negative errno.
        result: i32,
        /// Where the data is, and that of the next request is to be.
        address: Address,
    },
    /// `UBLK_IO_NEED_GET_DATA` for a tag on which a write was announced.
    GetData {
        /// The tag.
        tag: Tag,
        /// Where its data is to be.
        address: Address,
    },
    /// `UBLK_U_IO_FETCH_IO_CMDS`, multishot: tell of requests, many at a time, in buffers of the queue.
    FetchTags,
    /// `UBLK_U_IO_REGISTER_IO_BUF`: put the pages of a tag's request into the tag's slot. Completes at once.
    Register {
        /// The tag.
        tag: Tag,
    },
    /// `UBLK_U_IO_UNREGISTER_IO_BUF`: empty the tag's slot. Completes at once.
    Unregister {
        /// The tag.
        tag: Tag,
    },
    /// One operation on the backing file on behalf of a tag.
    Backend {
        /// The tag whose request this serves.
        tag: Tag,
        /// Where the request's data is.
        #[cfg_attr(feature = "serde", serde(default))]
        place: Place,
        /// The operation.
        op: BackendOp,
    },
    /// Complete once when `link` has a message or is closed (`POLL_ADD`).
    Watch {
        /// The link.
        link: Link,
    },
    /// Complete once when the worker process has exited (`POLL_ADD` on its pidfd).
    WatchWorker,
    /// Complete once when the attached supervisor process has exited.
    WatchSupervisor,
    /// Complete with `-ETIME` after `ms` milliseconds.
    Timer {
        /// Echoed in the completion, so that the expiry of an abandoned wait is told from a fresh one.
        generation: u32,
        /// Milliseconds.
        ms: u32,
    },
    /// `IORING_OP_ASYNC_CANCEL` of the control command in flight; its own completion carries nothing of interest.
    CancelControl {
        /// The sequence number of the command to cancel.
        sequence: u32,
    },
}

/// An operation on the backing file. Ranges of the tag's buffer (of the request's pages, if the tag has a slot for them; of shared memory, from the request's
/// [`Place`] on) and of the file, in bytes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum BackendOp {
    /// Read into the tag's buffer.
    Read {
        /// First byte in the file.
        offset: u64,
        /// First byte in the tag's buffer.
        buffer: u32,
        /// How many bytes.
        len: u32,
    },
    /// Write from the tag's buffer.
    Write {
        /// First byte in the file.
        offset: u64,
        /// First byte in the tag's buffer.
        buffer: u32,
        /// How many bytes.
        len: u32,
        /// Complete only when the bytes are on stable storage (`RWF_DSYNC`).
        durable: bool,
    },
    /// Bring every completed write to stable storage (`fdatasync`).
    Sync,
    /// Give the range back to the file system; it then reads as zeroes.
    PunchHole {
        /// First byte in the file.
        offset: u64,
        /// How many bytes.
        len: u64,
    },
    /// Make the range read as zeroes and keep it allocated.
    ZeroRange {
        /// First byte in the file.
        offset: u64,
        /// How many bytes.
        len: u64,
    },
}

/// A memory operation: completes inside the pump.
///
/// *The request's data* is in the tag's buffer, from its beginning on. Under [`DataMode::UserCopy`] it is in the kernel, and the driver reaches it by
/// `pread` and `pwrite` of the character device, which never wait for anybody. At [`Place::Shared`] it is in shared memory, whatever the mode.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum MemoryOp {
    /// Copy from the store to the request's data.
    Load {
        /// First byte in the store.
        offset: u64,
        /// How many bytes.
        len: u32,
    },
    /// Copy from the request's data to the store.
    Store {
        /// First byte in the store.
        offset: u64,
        /// How many bytes.
        len: u32,
    },
    /// Fill a range of the store with zeroes.
    Zero {
        /// First byte in the store.
        offset: u64,
        /// How many bytes.
        len: u64,
    },
    /// Fill the request's data with zeroes: a read of a store that holds nothing.
    Clear {
        /// How many bytes.
        len: u32,
    },
    /// [`DataMode::UserCopy`]: copy a write's data to the tag's buffer, from where the backend takes it.
    CopyIn {
        /// How many bytes.
        len: u32,
    },
    /// [`DataMode::UserCopy`]: copy what the backend put into the tag's buffer to a read's data.
    CopyOut {
        /// How many bytes.
        len: u32,
    },
}

impl MemoryOp {
    /// How many bytes it is about.
    pub const fn bytes(&self) -> u64 {
        match *self {
            Self::Load { len, .. }
            | Self::Store { len, .. }
            | Self::Clear { len }
            | Self::CopyIn { len }
            | Self::CopyOut { len } => len as u64,
            Self::Zero { len, .. } => len,
        }
    }
}

/// A completion.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Cqe {
    /// Which submission it answers.
    pub token: Token,
    /// The result: non-negative, or a negative errno.
    pub res: i32,
}

/// The identity of a submission, carried through the kernel as `user_data`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum Token {
    /// A FETCH, COMMIT or NEED_GET_DATA of this tag.
    Io(Tag),
    /// A backend operation of this tag.
    Backend(Tag),
    /// A REGISTER_IO_BUF or UNREGISTER_IO_BUF of this tag.
    Slot(Tag),
    /// The command that arms all tags.
    Prep,
    /// The batch of commits in flight.
    Commits,
    /// The command that tells of requests. Its completion takes a buffer unless it failed.
    Tags,
    /// A watch on a link.
    Link(Link),
    /// The watch on the worker process.
    Worker,
    /// The watch on the supervisor process.
    Supervisor,
    /// A timer of this generation.
    Timer(u32),
    /// The control command with this sequence number.
    Control(u32),
    /// The cancellation of a control command.
    Cancel,
}

impl Sqe {
    /// The token its completion will carry.
    pub const fn token(&self) -> Token {
        match *self {
            Self::Fetch { tag, .. } | Self::Commit { tag, .. } | Self::GetData { tag, .. } => {
                Token::Io(tag)
            }
            Self::FetchTags => Token::Tags,
            Self::Backend { tag, .. } => Token::Backend(tag),
            Self::Register { tag } | Self::Unregister { tag } => Token::Slot(tag),
            Self::Watch { link } => Token::Link(link),
            Self::WatchWorker => Token::Worker,
            Self::WatchSupervisor => Token::Supervisor,
            Self::Timer { generation, .. } => Token::Timer(generation),
            Self::CancelControl { .. } => Token::Cancel,
        }
    }
}

impl Token {
    /// Encodes the token as `user_data`: the kind in the top byte, the number below.
    pub const fn encode(self) -> u64 {
        let (kind, number) = match self {
            Self::Io(tag) => (1, tag.0 as u32),
            Self::Backend(tag) => (2, tag.0 as u32),
            Self::Link(link) => (3, link.encode()),
            Self::Worker => (4, 0),
            Self::Timer(generation) => (5, generation),
            Self::Control(sequence) => (6, sequence),
            Self::Cancel => (7, 0),
            Self::Supervisor => (8, 0),
            Self::Slot(tag) => (9, tag.0 as u32),
            Self::Prep => (10, 0),
            Self::Commits => (11, 0),
            Self::Tags => (12, 0),
        };
        (kind << 56) | number as u64
    }

    /// Decodes `user_data`. `None` for a value that [`Token::encode`] never produces.
    pub const fn decode(user_data: u64) -> Option<Self> {
        let number = user_data as u32;
        if user_data & 0x00ff_ffff_0000_0000 != 0 {
            return None;
        }
        match (user_data >> 56, number) {
            (1, 0..=0xffff) => Some(Self::Io(Tag(number as u16))),
            (2, 0..=0xffff) => Some(Self::Backend(Tag(number as u16))),
            (3, _) => match Link::decode(number) {
                Some(link) => Some(Self::Link(link)),
                None => None,
            },
            (4, 0) => Some(Self::Worker),
            (5, _) => Some(Self::Timer(number)),
            (6, _) => Some(Self::Control(number)),
            (7, 0) => Some(Self::Cancel),
            (8, 0) => Some(Self::Supervisor),
            (9, 0..=0xffff) => Some(Self::Slot(Tag(number as u16))),
            (10, 0) => Some(Self::Prep),
            (11, 0) => Some(Self::Commits),
            (12, 0) => Some(Self::Tags),
            _ => None,
        }
    }
}

/// The submission queue has no free entry.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct SqFull;

/// A thread's ring, seen from its own thread. Nothing here blocks.
pub trait Ring {
    /// Entries that can still be pushed.
    fn sq_space(&self) -> u32;
    /// Entries pushed and not yet taken by the kernel.
    fn sq_ready(&self) -> u32;
    /// Queues an entry; the kernel sees it at the next [`Call::Enter`].
    fn push(&mut self, sqe: Sqe) -> Result<(), SqFull>;
    /// Takes the oldest completion.
    fn reap(&mut self) -> Option<Cqe>;
}

/// What a machine that commands the driver needs beside its ring.
pub trait ControlIo: Ring {
    /// Queues a control command (`IORING_OP_URING_CMD` on `/dev/ublk-control`). Its completion is `Token::Control(sequence)`.
    /// The driver owns the command's memory until that completion is reaped.
    fn push_control(
        &mut self,
        sequence: u32,
        command: &crate::control::Command,
    ) -> Result<(), SqFull>;
    /// What the last completed command wrote. Meaningful after a completion with a non-negative result.
    fn reply(&self) -> crate::control::Reply;
}

/// What the supervisor's driver offers. Nothing here blocks.
pub trait SupervisorIo: ControlIo {
    /// What the operator wants.
    fn hear_operator(&mut self) -> Received<Order>;
    /// What the worker says.
    fn hear_worker(&mut self) -> Received<FromWorker>;
    /// Tells the worker.
    fn tell_worker(&mut self, message: ToWorker);
    /// Tells whoever launched this supervisor.
    fn tell_launcher(&mut self, verdict: Verdict);
    /// Notes something down for whoever reads the log.
    fn note(&mut self, news: News);
}

/// What the worker's driver offers. Nothing here blocks.
pub trait WorkerIo: Ring {
    /// What the supervisor says.
    fn hear_supervisor(&mut self) -> Received<ToWorker>;
    /// Tells the supervisor.
    fn tell_supervisor(&mut self, message: FromWorker);
    /// What the queues say. Never closed: the worker outlives its threads.
    fn hear_queues(&mut self) -> Received<FromQueue>;
    /// Tells a queue.
    fn tell_queue(&mut self, queue: QueueId, message: ToQueue);
}

/// What a queue's driver offers. Nothing here blocks.
pub trait QueueIo: Ring {
    /// What the worker says.
    fn hear_worker(&mut self) -> Received<ToQueue>;
    /// Tells the worker.
    fn tell_worker(&mut self, message: FromQueue);
    /// Queues a command about many tags. Its completion is [`Token::Prep`] or [`Token::Commits`]. The driver keeps the elements where the kernel
    /// reads them until that completion is reaped; the engine sends no other meanwhile.
    fn push_batch(&mut self, op: BatchOp, elements: &[Element]) -> Result<(), SqFull>;
    /// The `nth` tag that the completion of [`Sqe::FetchTags`] told of which was reaped last. Until its buffer is given back.
    fn told(&self, nth: u16) -> Tag;
    /// Gives the buffer of that completion back to the kernel.
    fn give_back(&mut self);
    /// Whether that command goes on (`IORING_CQE_F_MORE`).
    fn goes_on(&self) -> bool;
    /// Reads the tag's descriptor. Only while the server owns the tag (I2).
    fn descriptor(&self, tag: Tag) -> IoDesc;
    /// Carries out a memory operation on behalf of a tag, whose request's data is at `place`: the bytes moved, or a negative errno. Bounds were
    /// checked by the engine (I7).
    fn memory(&mut self, tag: Tag, place: Place, op: MemoryOp) -> i32;
}

/// What the launcher's driver offers. Nothing here blocks.
pub trait LauncherIo: Ring {
    /// What the operator wants.
    fn hear_operator(&mut self) -> Received<Order>;
    /// What the supervisor says.
    fn hear_supervisor(&mut self) -> Received<Verdict>;
}

/// The driver answered `call` with what that call cannot return.
pub(crate) fn mismatch(call: &str, ret: Ret) -> ! {
    unreachable!("I1: the driver answered {ret:?} to {call}")
}
