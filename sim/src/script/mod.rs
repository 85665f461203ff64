//! Scripts: what servers, controllers and clients do to the kernel, one step after another.
//!
//! The same text is executed twice: by the model ([`model`]) and, in a guest, by a small program that makes exactly these
//! system calls. After each step the executor lets everything come to rest and notes what was *observed*: results,
//! completions, the waits that are left, and the device's state. What a real kernel does must be among what the model allows.
//!
//! One step a line, `#` begins a comment:
//!
//! ```text
//! # A FETCH of an armed tag is refused.
//! kernels 6.12 6.18 7.3
//! process a
//! ctl: add queues=1 depth=1
//! ctl: params sectors=16
//! a: open
//! a: map 0
//! a: ring defer
//! a: fetch 0.0
//! a: fetch 0.0
//! ```
//!
//! Steps are numbered from 1. Before a colon stands the *actor*, a thread; `ctl` is there from the beginning. A step that
//! waits keeps its own thread busy and no other; control commands, FETCH and COMMIT are submitted and complete later.

mod clients;
pub mod generate;
mod header;
pub mod model;
mod observation;
mod parameters;
mod parse;
mod rings;
mod shared;
pub mod shrink;
pub mod told;
mod users;

pub(crate) use clients::Job;
pub use header::{Header, PathName, Place};
pub(crate) use model::{Actor, uniform};
pub use observation::{Delivered, Event, InPlace, Observation, Site, State, Trace};
pub use parameters::Parameters;
pub use parse::ParseError;
pub use shared::{SHARED_PAGES, SHARED_SECTORS};

pub use crate::kernel::zones::ZoneAct;

use std::fmt;

use blkproof_engine::data::Address;
use blkproof_engine::uapi::{AutoBufReg, DeviceState, Features, KernelSeries, Params};

/// The actor that every script begins with: a process of its own, for control commands.
pub const CONTROLLER: &str = "ctl";
/// Zones whose records fill a sector.
pub const ZONES_MAX: u16 = 8;

/// What the names of flags begin with, in the kernel's header and not here.
const FLAG_PREFIX: &str = "UBLK_F_";

/// A script.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Script {
    /// What it is about: its leading comment.
    pub title: String,
    /// The kernels that it says something about.
    pub kernels: Vec<KernelSeries>,
    /// What is done, in order. Step *n* is `steps[n - 1]`.
    pub steps: Vec<Step>,
}

/// One step.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Step {
    /// A new process with one thread.
    Process {
        /// The thread's name.
        name: String,
        /// It has CAP_SYS_ADMIN when it fetches. Without, no kernel scans its disks for partitions.
        admin: bool,
    },
    /// A new thread in an actor's process.
    Thread {
        /// The thread's name.
        name: String,
        /// An actor of the same process.
        of: String,
    },
    /// SIGKILL to an actor's process.
    Kill {
        /// An actor of the process.
        actor: String,
    },
    /// A child process of an actor's process, which inherits its files, rings and mappings and does nothing but sleep.
    Fork {
        /// The child's name.
        name: String,
        /// An actor of the process.
        of: String,
        /// `map=QUEUE`: the descriptors that it maps before it sleeps. Result of the step.
        map: Option<u16>,
    },
    /// An actor's process executes a program that does nothing but sleep.
    Exec {
        /// The actor whose thread does it, and the only one of the process that is left.
        actor: String,
    },
    /// SIGSTOP to an actor's process.
    Halt {
        /// An actor of the process.
        actor: String,
    },
    /// SIGCONT to an actor's process.
    Continue {
        /// An actor of the process.
        actor: String,
    },
    /// Nothing for a while.
    Sleep {
        /// Milliseconds.
        ms: u32,
    },
    /// `scheduler mq-deadline`: its module is loaded. A disk with one hardware queue that is started from then on has that scheduler.
    Scheduler,
    /// An actor makes a system call, or submits a command.
    Do {
        /// Who.
        actor: String,
        /// What.
        op: Op,
    },
}

/// What a FETCH or COMMIT says of where the data is.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Addr {
    /// The tag's buffer.
    Buffer,
    /// `bare`: nothing, 0.
    Bare,
    /// `auto=INDEX[+fallback]`: where the driver is to register the request's pages.
    Auto(AutoBufReg),
}

/// When the task work of an actor's ring runs, and who submits to it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum RingKind {
    /// At any kernel exit of the actor's thread, which is made to pass one.
    Default,
    /// `IORING_SETUP_COOP_TASKRUN`: the same, but a thread in user space is not interrupted for it.
    Coop,
    /// `IORING_SETUP_DEFER_TASKRUN | IORING_SETUP_SINGLE_ISSUER`: when the thread enters the ring for completions.
    Defer,
    /// `IORING_SETUP_SQPOLL`: a thread of the kernel submits, and its task work is that thread's.
    Sqpoll,
}

impl RingKind {
    /// Each with its name.
    const ALL: [(Self, &'static str); 4] = [
        (Self::Default, "default"),
        (Self::Coop, "coop"),
        (Self::Defer, "defer"),
        (Self::Sqpoll, "sqpoll"),
    ];
}

/// What a ring is created with.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct RingAsked {
    /// Its kind.
    pub kind: RingKind,
    /// `cq=N`: entries of its completion queue, a power of two, and no more of its submission queue. Without it more than a script
    /// needs.
    pub cq: Option<u16>,
    /// `all`, `IORING_SETUP_SUBMIT_ALL`: an entry that is none does not end a submission.
    pub all: bool,
}

impl From<Address> for Addr {
    fn from(address: Address) -> Self {
        match address {
            Address::Buffer => Self::Buffer,
            Address::Nothing => Self::Bare,
            Address::Slot(register) => Self::Auto(register),
        }
    }
}

/// What an actor does. Tags are written `QUEUE.TAG`, ranges `FIRST+COUNT` in sectors of 512 bytes.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Op {
    /// `ring default|coop|defer|sqpoll [cq=N] [all]`: creates the actor's ring for I/O commands, in place of one that it has. Result 0.
    Ring(RingAsked),
    /// `spare`: puts the actor's ring aside, and takes the one that was put aside before, if any. Result 0.
    Spare,
    /// `hold`: from now on what the actor submits stays in the submission queue.
    Hold,
    /// `junk`: submits an entry that is none. Result: that of its completion.
    Junk,
    /// `submit COUNT`: enters the ring for so many entries of the submission queue; `hold` is over. Result: how many were taken.
    Submit {
        /// How many, at the most.
        count: u16,
    },
    /// `fixfile`: registers the character device in the actor's ring, whose commands use that from now on. Result 0.
    FixFile,
    /// `unfixfile`: takes it out of the ring again. Result 0.
    UnfixFile,
    /// `closering`: closes it. Result 0.
    CloseRing,
    /// `open`: opens `/dev/ublkcN` for the actor's process. Result 0.
    Open,
    /// `open kept`: the same, without O_CLOEXEC.
    OpenKept,
    /// `close`: closes it.
    Close,
    /// `map QUEUE`: maps the descriptors. Result 0.
    Map {
        /// The queue.
        queue: u16,
    },
    /// `unmap QUEUE`.
    Unmap {
        /// The queue.
        queue: u16,
    },
    /// `fetch QUEUE.TAG [bare|auto=INDEX[+fallback]]`: submits FETCH_REQ. Result: that of its completion.
    Fetch {
        /// The queue.
        queue: u16,
        /// The tag.
        tag: u16,
        /// Where the data is to be.
        addr: Addr,
    },
    /// `commit QUEUE.TAG RESULT [data=BYTE|bare|auto=INDEX[+fallback]]`: submits COMMIT_AND_FETCH_REQ. Result: that of its completion,
    /// which is the next request.
    Commit {
        /// The queue.
        queue: u16,
        /// The tag.
        tag: u16,
        /// The result for the client: bytes, or a negative errno.
        result: i32,
        /// The tag's buffer is filled with this byte before.
        data: Option<u8>,
        /// Where the next request's data is to be.
        addr: Addr,
    },
    /// `getdata QUEUE.TAG`: submits NEED_GET_DATA. Result: that of its completion.
    GetData {
        /// The queue.
        queue: u16,
        /// The tag.
        tag: u16,
    },
    /// `pread QUEUE.TAG FIRST+COUNT`: a write's data, by user copy. The range is that of the data, in sectors. Result: bytes, and the byte
    /// that all of them are.
    Pread {
        /// The queue.
        queue: u16,
        /// The tag.
        tag: u16,
        /// First sector.
        first: u16,
        /// Sectors.
        count: u16,
    },
    /// `pwrite QUEUE.TAG FIRST+COUNT BYTE`: a read's data, by user copy. Result: bytes.
    Pwrite {
        /// The queue.
        queue: u16,
        /// The tag.
        tag: u16,
        /// First sector.
        first: u16,
        /// Sectors.
        count: u16,
        /// What every byte is.
        byte: u8,
    },
    /// `zones QUEUE.TAG FIRST+COUNT of=SECTORS [wp=SECTORS]`: by user copy, what a REPORT_ZONES is answered with: at most 8 records of `struct
    /// blk_zone`, of empty zones that are to be written in order. What follows is zeroes. Result: bytes.
    Zones {
        /// The queue.
        queue: u16,
        /// The tag.
        tag: u16,
        /// First zone.
        first: u16,
        /// Zones.
        count: u16,
        /// Sectors of a zone.
        of: u16,
        /// How many of the first zone's are written.
        pointer: u16,
    },
    /// `metaread QUEUE.TAG FIRST+COUNT`: the integrity metadata of a write, by user copy. The range is in bytes. Result: bytes, and the byte that all of
    /// them are.
    MetaRead {
        /// The queue.
        queue: u16,
        /// The tag.
        tag: u16,
        /// First byte.
        first: u16,
        /// Bytes.
        count: u16,
    },
    /// `metawrite QUEUE.TAG FIRST+COUNT BYTE`: the integrity metadata of a read, by user copy. Result: bytes.
    MetaWrite {
        /// The queue.
        queue: u16,
        /// The tag.
        tag: u16,
        /// First byte.
        first: u16,
        /// Bytes.
        count: u16,
        /// What every byte is.
        byte: u8,
    },
    /// `table SLOTS`: gives the actor's ring an empty table of registered buffers. Result 0.
    Table {
        /// How many.
        slots: u16,
    },
    /// `register QUEUE.TAG INDEX`: submits REGISTER_IO_BUF. Result: that of its completion.
    Register {
        /// The queue.
        queue: u16,
        /// The tag.
        tag: u16,
        /// The slot of the ring's table.
        index: u16,
    },
    /// `unregister QUEUE.TAG INDEX`: submits UNREGISTER_IO_BUF. Result: that of its completion.
    Unregister {
        /// The queue.
        queue: u16,
        /// The tag.
        tag: u16,
        /// The slot of the ring's table.
        index: u16,
    },
    /// `bufread INDEX FIRST+COUNT`: submits a WRITE_FIXED of the registered buffer to a file. Result: that of its completion, and the byte
    /// that the file then has.
    BufRead {
        /// The slot of the ring's table.
        index: u16,
        /// First sector.
        first: u16,
        /// Sectors.
        count: u16,
    },
    /// `bufwrite INDEX FIRST+COUNT BYTE`: submits a READ_FIXED from a file into the registered buffer. Result: that of its completion.
    BufWrite {
        /// The slot of the ring's table.
        index: u16,
        /// First sector.
        first: u16,
        /// Sectors.
        count: u16,
        /// What every byte of the file is.
        byte: u8,
    },
    /// `provide COUNT`: gives the actor's ring that many buffers for the tags of a batch fetch, each for 32 of them. Result 0.
    Provide {
        /// How many.
        count: u16,
    },
    /// `prep QUEUE TAG,TAG [bare|auto=FIRST[+fallback]]`: submits PREP_IO_CMDS. The slots of the tags begin with the first. Result: that of its
    /// completion.
    Prep {
        /// The queue.
        queue: u16,
        /// The tags.
        tags: Vec<u16>,
        /// Where the data is to be.
        addr: Addr,
    },
    /// `commits QUEUE TAG=RESULT,TAG=RESULT [data=BYTE|bare|auto=FIRST[+fallback]]`: submits COMMIT_IO_CMDS. Result: that of its completion,
    /// the bytes of the elements that were taken.
    Commits {
        /// The queue.
        queue: u16,
        /// Each tag's result for the client.
        results: Vec<(u16, i32)>,
        /// The tags' buffers are filled with this byte before.
        data: Option<u8>,
        /// Where the next requests' data is to be.
        addr: Addr,
    },
    /// `fetchtags QUEUE`: submits FETCH_IO_CMDS, multishot. Results: those of its completions, one for each tag, all with the bytes of all.
    FetchTags {
        /// The queue.
        queue: u16,
    },
    /// `reap`: enters the ring without waiting, so that deferred task work runs. Result 0.
    Reap,
    /// `order`: from now on the order is remembered in which the actor's ring brings requests. Result: how many it brought since it was last asked,
    /// and which.
    Order,
    /// `exit`: the thread returns; with the first thread of a process, the process exits. No result.
    Exit,
    /// `add queues=N depth=N [id=N] [flags=F+F] [state=N] [desc=N] [buffer=N]`: ADD_DEV. Result: that of its completion, as for every control command.
    Add {
        /// Hardware queues.
        queues: u16,
        /// Tags in each queue.
        depth: u16,
        /// The number wanted.
        id: Option<u32>,
        /// Feature flags.
        flags: Features,
        /// What is seldom said.
        more: AddOptions,
    },
    /// `params sectors=N [KEY=VALUE]...`: SET_PARAMS.
    Params(Box<Parameters>),
    /// `getparams [bytes=N]`: GET_PARAMS, and what it tells.
    GetParams {
        /// How many bytes of them.
        bytes: u32,
    },
    /// `features`: GET_FEATURES, and what it tells.
    Features,
    /// `affinity QUEUE`: GET_QUEUE_AFFINITY, and what it tells.
    Affinity {
        /// The queue.
        queue: u16,
    },
    /// `details`: GET_DEV_INFO, and what it tells.
    Details,
    /// `details2`: GET_DEV_INFO2, and what it tells. It wants a path.
    Details2,
    /// `with KEY=VALUE... OPERATION`: a command whose header is not as it should be.
    With(Box<Header>, Box<Op>),
    /// `start ACTOR`: START_DEV with the process of that actor; `start 0` with pid 0.
    Start {
        /// Whose process serves.
        server: Option<String>,
    },
    /// `startrecovery`: START_USER_RECOVERY.
    StartRecovery,
    /// `endrecovery ACTOR`: END_USER_RECOVERY with the process of that actor; `endrecovery 0` with pid 0.
    EndRecovery {
        /// Whose process serves.
        server: Option<String>,
    },
    /// `delasync`: DEL_DEV_ASYNC.
    DelAsync,
    /// `resize sectors=N`: UPDATE_SIZE.
    Resize {
        /// The new size.
        sectors: u64,
    },
    /// `quiesce MS`: QUIESCE_DEV.
    Quiesce {
        /// How long it may wait, in milliseconds.
        ms: u32,
    },
    /// `regbuf FIRST+COUNT [readonly=yes] [mapping=readonly]`: REG_BUF of so many of the 16 pages that all processes share. Result: the
    /// index.
    RegBuf {
        /// The first page.
        first: u16,
        /// How many.
        count: u16,
        /// `UBLK_SHMEM_BUF_READ_ONLY`.
        read_only: bool,
        /// The address is that of a mapping which cannot be written.
        unwritable: bool,
    },
    /// `memread FIRST+COUNT`: looks at sectors of the memory that all processes share. Result: bytes, and the byte that all of them are.
    MemRead {
        /// First sector.
        first: u16,
        /// Sectors.
        count: u16,
    },
    /// `memwrite FIRST+COUNT BYTE`: fills sectors of that memory. Result: bytes.
    MemWrite {
        /// First sector.
        first: u16,
        /// Sectors.
        count: u16,
        /// What every byte is.
        byte: u8,
    },
    /// `unregbuf INDEX`: UNREG_BUF.
    UnregBuf {
        /// REG_BUF's result.
        index: u32,
    },
    /// `trystop`: TRY_STOP_DEV.
    TryStop,
    /// `stop`: STOP_DEV.
    Stop,
    /// `del`: DEL_DEV.
    Del,
    /// `info`: GET_DEV_INFO.
    Info,
    /// `cancel STEP`: ASYNC_CANCEL of the command that the actor submitted in that step. No result of its own.
    Cancel {
        /// The step's number.
        step: u16,
    },
    /// `user N`: the thread becomes user and group N, with no capabilities. Result 0.
    User {
        /// User and group.
        user: u32,
    },
    /// `own N`: gives `/dev/ublkcN`, and `/dev/ublkbN` if there is a disk, to that user and group. Result 0 or an errno.
    Own {
        /// User and group.
        user: u32,
    },
    /// `timeout MS`: how long a request of the disk may take. Result 0 or an errno.
    Timeout {
        /// Milliseconds.
        ms: u32,
    },
    /// `opendisk`: opens `/dev/ublkbN` for the actor. Result 0.
    OpenDisk,
    /// `closedisk`: closes it.
    CloseDisk,
    /// `read FIRST+COUNT [queue=N] [shared=SECTOR]`: a direct read by way of the open disk. Result: bytes, and the byte that all of them
    /// are. It begins with memory of zeroes; `shared`: with what is in the memory that all processes share, from that sector on.
    Read {
        /// First sector.
        first: u16,
        /// Sectors.
        count: u16,
        /// The hardware queue to use.
        queue: u16,
        /// Where in that memory the data goes.
        shared: Option<u16>,
    },
    /// `sync [queue=N]`: `fsync` of the open disk. Result 0.
    Sync {
        /// The hardware queue to use.
        queue: u16,
    },
    /// `write FIRST+COUNT [queue=N] [shared=SECTOR] [fua=yes]`: a direct write. Every byte is the step's number. `shared`: from the memory that
    /// all processes share, which is filled before. `fua`: with RWF_DSYNC.
    Write {
        /// First sector.
        first: u16,
        /// Sectors.
        count: u16,
        /// The hardware queue to use.
        queue: u16,
        /// Where in that memory the data is.
        shared: Option<u16>,
        /// Durable when it is done.
        fua: bool,
    },
    /// `load FIRST+COUNT [queue=N]`: a buffered read of whole pages, one after another, without readahead. Result: bytes, and the byte that all
    /// of them are.
    Load {
        /// First sector.
        first: u16,
        /// Sectors.
        count: u16,
        /// The hardware queue to use.
        queue: u16,
    },
    /// `store FIRST+COUNT [queue=N]`: a buffered write of whole pages. Every byte is the step's number. Result: bytes.
    Store {
        /// First sector.
        first: u16,
        /// Sectors.
        count: u16,
        /// The hardware queue to use.
        queue: u16,
    },
    /// `discard FIRST+COUNT [queue=N]`: BLKDISCARD of the open disk. Result 0.
    Discard {
        /// First sector.
        first: u16,
        /// Sectors.
        count: u16,
        /// The hardware queue to use.
        queue: u16,
    },
    /// `zeroes FIRST+COUNT [queue=N] [keep=yes]`: `fallocate` of the open disk with FALLOC_FL_PUNCH_HOLE; `keep`: with
    /// FALLOC_FL_ZERO_RANGE. Result 0.
    Zeroes {
        /// First sector.
        first: u16,
        /// Sectors.
        count: u16,
        /// The hardware queue to use.
        queue: u16,
        /// The space is to be kept: UBLK_IO_F_NOUNMAP.
        keep: bool,
    },
    /// `openzone`, `closezone`, `finishzone`, `resetzone FIRST+COUNT [queue=N]`: BLKOPENZONE and so on of the open disk, in sectors. Result 0.
    Zone {
        /// What is done.
        act: ZoneAct,
        /// First sector.
        first: u16,
        /// Sectors.
        count: u16,
        /// The hardware queue to use.
        queue: u16,
    },
    /// `reportzones [queue=N]`: BLKREPORTZONE of the whole open disk. Result: how many zones were told of.
    ReportZones {
        /// The hardware queue to use.
        queue: u16,
    },
}

/// What ADD_DEV can be told beside geometry and flags.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct AddOptions {
    /// `state=N`.
    pub state: DeviceState,
    /// `desc=N`: bytes of a descriptor.
    pub desc: u16,
    /// `buffer=N`: bytes of the largest request.
    pub buffer: Option<u32>,
}

impl Op {
    /// Whether it waits for what it asks of the disk, which is told by the absence of its result.
    pub const fn uses_disk(&self) -> bool {
        matches!(
            self,
            Self::Read { .. }
                | Self::Write { .. }
                | Self::Load { .. }
                | Self::Store { .. }
                | Self::Sync { .. }
                | Self::Discard { .. }
                | Self::Zeroes { .. }
                | Self::CloseDisk
                | Self::Zone { .. }
                | Self::ReportZones { .. }
        )
    }

    /// The operation itself, whatever its header says.
    pub fn bare(&self) -> &Self {
        if let Self::With(_, op) = self { op } else { self }
    }

    /// Whether it is a control command.
    pub fn is_control(&self) -> bool {
        matches!(
            self.bare(),
            Self::Add { .. }
                | Self::Params(_)
                | Self::GetParams { .. }
                | Self::Features
                | Self::Affinity { .. }
                | Self::Details
                | Self::Details2
                | Self::Start { .. }
                | Self::StartRecovery
                | Self::EndRecovery { .. }
                | Self::DelAsync
                | Self::Resize { .. }
                | Self::Quiesce { .. }
                | Self::RegBuf { .. }
                | Self::UnregBuf { .. }
                | Self::TryStop
                | Self::Stop
                | Self::Del
                | Self::Info
        )
    }
}

impl Script {
    /// The step with this number, from 1.
    pub fn step(&self, number: u16) -> Option<&Step> {
        self.steps.get(usize::from(number).checked_sub(1)?)
    }
}

impl fmt::Display for Script {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for line in self.title.lines() {
            writeln!(f, "# {line}")?;
        }
        let names: Vec<_> = self.kernels.iter().map(ToString::to_string).collect();
        writeln!(f, "kernels {}", names.join(" "))?;
        self.steps.iter().try_for_each(|step| writeln!(f, "{step}"))
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Process { name, admin } => {
                write!(f, "process {name}{}", if *admin { " admin" } else { "" })
            }
            Self::Thread { name, of } => write!(f, "thread {name} of {of}"),
            Self::Kill { actor } => write!(f, "kill {actor}"),
            Self::Fork { name, of, map } => {
                write!(f, "fork {name} of {of}")?;
                map.map_or(Ok(()), |queue| write!(f, " map={queue}"))
            }
            Self::Exec { actor } => write!(f, "exec {actor}"),
            Self::Halt { actor } => write!(f, "halt {actor}"),
            Self::Continue { actor } => write!(f, "continue {actor}"),
            Self::Sleep { ms } => write!(f, "sleep {ms}"),
            Self::Scheduler => f.write_str("scheduler mq-deadline"),
            Self::Do { actor, op } => write!(f, "{actor}: {op}"),
        }
    }
}

impl fmt::Display for Addr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Buffer => Ok(()),
            Self::Bare => f.write_str(" bare"),
            Self::Auto(AutoBufReg { index, fallback }) => {
                write!(f, " auto={index}{}", if *fallback { "+fallback" } else { "" })
            }
        }
    }
}

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ring(RingAsked { kind, cq, all }) => {
                let name = RingKind::ALL.iter().find(|(one, _)| one == kind);
                write!(f, "ring {}", name.map_or("", |(_, name)| name))?;
                cq.map_or(Ok(()), |cq| write!(f, " cq={cq}"))?;
                f.write_str(if *all { " all" } else { "" })
            }
            Self::Spare => f.write_str("spare"),
            Self::Hold => f.write_str("hold"),
            Self::Junk => f.write_str("junk"),
            Self::Submit { count } => write!(f, "submit {count}"),
            Self::FixFile => f.write_str("fixfile"),
            Self::UnfixFile => f.write_str("unfixfile"),
            Self::CloseRing => f.write_str("closering"),
            Self::Open => f.write_str("open"),
            Self::OpenKept => f.write_str("open kept"),
            Self::Close => f.write_str("close"),
            Self::Map { queue } => write!(f, "map {queue}"),
            Self::Unmap { queue } => write!(f, "unmap {queue}"),
            Self::Fetch { queue, tag, addr } => write!(f, "fetch {queue}.{tag}{addr}"),
            Self::Commit { queue, tag, result, data, addr } => {
                write!(f, "commit {queue}.{tag} {result}{addr}")?;
                data.map_or(Ok(()), |data| write!(f, " data={data}"))
            }
            Self::Pread { queue, tag, first, count } => {
                write!(f, "pread {queue}.{tag} {first}+{count}")
            }
            Self::Pwrite { queue, tag, first, count, byte } => {
                write!(f, "pwrite {queue}.{tag} {first}+{count} {byte}")
            }
            Self::Zones { queue, tag, first, count, of, pointer } => {
                write!(f, "zones {queue}.{tag} {first}+{count} of={of}")?;
                if *pointer > 0 { write!(f, " wp={pointer}") } else { Ok(()) }
            }
            Self::MetaRead { queue, tag, first, count } => {
                write!(f, "metaread {queue}.{tag} {first}+{count}")
            }
            Self::MetaWrite { queue, tag, first, count, byte } => {
                write!(f, "metawrite {queue}.{tag} {first}+{count} {byte}")
            }
            Self::Table { slots } => write!(f, "table {slots}"),
            Self::Register { queue, tag, index } => write!(f, "register {queue}.{tag} {index}"),
            Self::Unregister { queue, tag, index } => {
                write!(f, "unregister {queue}.{tag} {index}")
            }
            Self::BufRead { index, first, count } => {
                write!(f, "bufread {index} {first}+{count}")
            }
            Self::BufWrite { index, first, count, byte } => {
                write!(f, "bufwrite {index} {first}+{count} {byte}")
            }
            Self::GetData { queue, tag } => write!(f, "getdata {queue}.{tag}"),
            Self::Provide { count } => write!(f, "provide {count}"),
            Self::Prep { queue, tags, addr } => {
                let tags: Vec<String> = tags.iter().map(ToString::to_string).collect();
                write!(f, "prep {queue} {}{addr}", tags.join(","))
            }
            Self::Commits { queue, results, data, addr } => {
                let results: Vec<String> =
                    results.iter().map(|(tag, result)| format!("{tag}={result}")).collect();
                write!(f, "commits {queue} {}{addr}", results.join(","))?;
                data.map_or(Ok(()), |data| write!(f, " data={data}"))
            }
            Self::FetchTags { queue } => write!(f, "fetchtags {queue}"),
            Self::Reap => f.write_str("reap"),
            Self::Order => f.write_str("order"),
            Self::Exit => f.write_str("exit"),
            Self::Add { queues, depth, id, flags, more } => {
                write!(f, "add queues={queues} depth={depth}")?;
                if let Some(id) = id {
                    write!(f, " id={id}")?;
                }
                if *flags != Features::NONE {
                    write!(f, " flags={}", told::flags(*flags))?;
                }
                let AddOptions { state, desc, buffer } = more;
                if *state != DeviceState::Dead {
                    write!(f, " state={}", state.encode())?;
                }
                if *desc != 0 {
                    write!(f, " desc={desc}")?;
                }
                buffer.map_or(Ok(()), |buffer| write!(f, " buffer={buffer}"))
            }
            Self::Params(parameters) => write!(f, "params {parameters}"),
            Self::GetParams { bytes } if *bytes == Params::SIZE as u32 => f.write_str("getparams"),
            Self::GetParams { bytes } => write!(f, "getparams bytes={bytes}"),
            Self::Features => f.write_str("features"),
            Self::Affinity { queue } => write!(f, "affinity {queue}"),
            Self::Details => f.write_str("details"),
            Self::Details2 => f.write_str("details2"),
            Self::With(header, op) => write!(f, "{header} {op}"),
            Self::Start { server } => write!(f, "start {}", server.as_deref().unwrap_or("0")),
            Self::StartRecovery => f.write_str("startrecovery"),
            Self::EndRecovery { server } => {
                write!(f, "endrecovery {}", server.as_deref().unwrap_or("0"))
            }
            Self::DelAsync => f.write_str("delasync"),
            Self::Resize { sectors } => write!(f, "resize sectors={sectors}"),
            Self::Quiesce { ms } => write!(f, "quiesce {ms}"),
            Self::RegBuf { first, count, read_only, unwritable } => {
                write!(f, "regbuf {first}+{count}")?;
                f.write_str(if *read_only { " readonly=yes" } else { "" })?;
                f.write_str(if *unwritable { " mapping=readonly" } else { "" })
            }
            Self::MemRead { first, count } => write!(f, "memread {first}+{count}"),
            Self::MemWrite { first, count, byte } => write!(f, "memwrite {first}+{count} {byte}"),
            Self::UnregBuf { index } => write!(f, "unregbuf {index}"),
            Self::TryStop => f.write_str("trystop"),
            Self::Stop => f.write_str("stop"),
            Self::Del => f.write_str("del"),
            Self::Info => f.write_str("info"),
            Self::Cancel { step } => write!(f, "cancel {step}"),
            Self::OpenDisk => f.write_str("opendisk"),
            Self::CloseDisk => f.write_str("closedisk"),
            Self::User { user } => write!(f, "user {user}"),
            Self::Own { user } => write!(f, "own {user}"),
            Self::Timeout { ms } => write!(f, "timeout {ms}"),
            Self::Read { first, count, queue, shared } => {
                write!(f, "read {first}+{count} queue={queue}")?;
                shared.map_or(Ok(()), |sector| write!(f, " shared={sector}"))
            }
            Self::Sync { queue } => write!(f, "sync queue={queue}"),
            Self::Write { first, count, queue, shared, fua } => {
                write!(f, "write {first}+{count} queue={queue}")?;
                shared.map_or(Ok(()), |sector| write!(f, " shared={sector}"))?;
                f.write_str(if *fua { " fua=yes" } else { "" })
            }
            Self::Load { first, count, queue } => write!(f, "load {first}+{count} queue={queue}"),
            Self::Store { first, count, queue } => {
                write!(f, "store {first}+{count} queue={queue}")
            }
            Self::Discard { first, count, queue } => {
                write!(f, "discard {first}+{count} queue={queue}")
            }
            Self::Zeroes { first, count, queue, keep } => {
                let keep = if *keep { " keep=yes" } else { "" };
                write!(f, "zeroes {first}+{count} queue={queue}{keep}")
            }
            Self::Zone { act, first, count, queue } => {
                write!(f, "{}zone {first}+{count} queue={queue}", act.word())
            }
            Self::ReportZones { queue } => write!(f, "reportzones queue={queue}"),
        }
    }
}
