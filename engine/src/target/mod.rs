//! Targets: pure machines that turn a request into memory and backend operations.
//!
//! A target never touches data. It says which range of the request's data goes where; the driver moves
//! the bytes. [`Null`] and [`Mem`] finish inside the pump, [`File`] needs backend operations.

mod file;
mod mem;
mod null;
mod progress;

pub use file::File;
pub use mem::Mem;
pub use null::Null;
pub use progress::{Progress, RETRIES_MAX};

use core::fmt::Debug;
use core::hash::Hash;

use crate::data::{DataMode, Place, TagMemory};
use crate::sys::{BackendOp, MemoryOp};
use crate::uapi::{
    BasicParams, DiscardParams, Errno, IoDesc, ParamAttrs, Params, RequestFlags, RequestOp,
    ShmemAddr,
};

/// Bytes in a sector, the unit of every block-layer address.
pub const SECTOR_BYTES: u32 = 512;

/// What REG_BUF answers for the first registration of a device, and the only one.
pub const SHARED_INDEX: u16 = 0;

/// A request, checked at the border: it lies inside the device and its data inside the buffer, or inside shared memory.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Request {
    /// What is asked.
    pub op: Op,
    /// First byte on the device. 0 for a flush.
    pub offset: u64,
    /// How many bytes. 0 for a flush.
    pub len: u32,
    /// Where its data is.
    pub place: Place,
}

/// The operations that the engine knows.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum Op {
    /// Device to client.
    Read,
    /// Client to device; with `fua` durable at completion.
    Write {
        /// Force unit access.
        fua: bool,
    },
    /// Make completed writes durable.
    Flush,
    /// The range's contents are no longer needed.
    Discard,
    /// The range shall read as zeroes; `unmap` permits giving its space back.
    WriteZeroes {
        /// Whether deallocation is allowed.
        unmap: bool,
    },
}

impl Op {
    /// Whether it moves data.
    pub const fn carries_data(self) -> bool {
        match self {
            Self::Read | Self::Write { fua: _ } => true,
            Self::Flush | Self::Discard | Self::WriteZeroes { unmap: _ } => false,
        }
    }
}

impl Request {
    /// Parses a descriptor against the device's size, the tag's buffer, and the bytes of shared memory.
    ///
    /// # Errors
    /// The errno to answer the client with: `EOPNOTSUPP` for an operation we never advertised, `EIO` for a
    /// range outside the device (a shrink may race with requests in flight), larger than the buffer, or outside shared memory.
    pub fn parse(
        desc: &IoDesc,
        device_sectors: u64,
        buffer_bytes: u32,
        shared_bytes: u64,
    ) -> Result<Self, Errno> {
        let op = match desc.op() {
            Some(RequestOp::Read) => Op::Read,
            Some(RequestOp::Write) => Op::Write { fua: desc.flags().contains(RequestFlags::FUA) },
            Some(RequestOp::Flush) => {
                return Ok(Self { op: Op::Flush, offset: 0, len: 0, place: Place::Tag });
            }
            Some(RequestOp::Discard) => Op::Discard,
            Some(RequestOp::WriteZeroes) => {
                Op::WriteZeroes { unmap: !desc.flags().contains(RequestFlags::NOUNMAP) }
            }
            Some(
                RequestOp::WriteSame
                | RequestOp::ZoneOpen
                | RequestOp::ZoneClose
                | RequestOp::ZoneFinish
                | RequestOp::ZoneAppend
                | RequestOp::ZoneResetAll
                | RequestOp::ZoneReset
                | RequestOp::ReportZones,
            )
            | None => return Err(Errno::EOPNOTSUPP),
        };
        let sectors = u64::from(desc.nr_sectors);
        let end = desc.start_sector.checked_add(sectors).ok_or(Errno::EIO)?;
        if end > device_sectors || sectors == 0 {
            return Err(Errno::EIO);
        }
        let bytes = sectors * u64::from(SECTOR_BYTES);
        if op.carries_data() && bytes > u64::from(buffer_bytes) {
            return Err(Errno::EIO);
        }
        // A range without data may be up to 2^32 sectors; the limits we set keep it far below 2^32 bytes.
        let len = u32::try_from(bytes).map_err(|_| Errno::EIO)?;
        let shared = op.carries_data() && desc.flags().contains(RequestFlags::SHMEM_ZC);
        let place = if shared { Self::shared(desc, bytes, shared_bytes)? } else { Place::Tag };
        Ok(Self { op, offset: desc.start_sector * u64::from(SECTOR_BYTES), len, place })
    }

    /// Where in shared memory its data is. There is one registration, the first.
    fn shared(desc: &IoDesc, bytes: u64, shared_bytes: u64) -> Result<Place, Errno> {
        let ShmemAddr { index, offset } = ShmemAddr::decode(desc.addr).map_err(|_| Errno::EIO)?;
        let inside = index == SHARED_INDEX && u64::from(offset) + bytes <= shared_bytes;
        if inside { Ok(Place::Shared(offset)) } else { Err(Errno::EIO) }
    }

    /// The result that tells the kernel *all of it*: the only success there is (O3, never a short commit).
    pub const fn complete(&self) -> i32 {
        match self.op {
            Op::Read | Op::Write { .. } => self.len as i32,
            Op::Flush | Op::Discard | Op::WriteZeroes { .. } => 0,
        }
    }
}

/// What a target wants next for one request.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[must_use = "a step that nobody takes leaves the client waiting"]
pub enum Step {
    /// The request is complete, or failed with this errno.
    Done(Result<(), Errno>),
    /// A memory operation, carried out at once; then [`Target::resume`] with its length.
    Memory(MemoryOp),
    /// A backend operation; then [`Target::resume`] with its result.
    Backend(BackendOp),
}

/// A target. One value serves all tags of a queue; what one request needs to remember is its `Job`.
pub trait Target: Clone + Eq + Hash + Debug {
    /// The progress of one request.
    type Job: Copy + Eq + Hash + Debug;

    /// Size, attributes and limits, for SET_PARAMS.
    fn geometry(&self) -> Geometry;
    /// Whether it asks for backend operations, which find the request's data in memory of the server.
    fn has_backend(&self) -> bool;
    /// Whether it can serve a device whose data moves like this.
    fn serves_in(&self, data: DataMode) -> bool {
        match data {
            DataMode::Copy | DataMode::GetData | DataMode::UserCopy => true,
            DataMode::ZeroCopy => self.reaches_slots(),
        }
    }
    /// Whether its backend can use the pages of a request in place.
    fn reaches_slots(&self) -> bool;
    /// Begins a request, whose data is where `memory` says. O(1).
    fn begin(&self, request: &Request, memory: TagMemory) -> (Self::Job, Step);
    /// The last operation of this request gave `res` (bytes, 0, or a negative errno). O(1).
    fn resume(&self, request: &Request, job: &mut Self::Job, res: i32) -> Step;
}

/// What a target says of its device.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Geometry {
    /// Size in 512-byte sectors, a multiple of the logical block.
    pub sectors: u64,
    /// log2 of the logical block size in bytes, 9..=12.
    pub logical_bs_shift: u8,
    /// log2 of the physical block size in bytes.
    pub physical_bs_shift: u8,
    /// Completed writes may be lost until a flush: advertise a volatile cache, honour FLUSH and FUA.
    pub volatile_cache: bool,
    /// Discard is supported.
    pub discard: bool,
    /// Write-zeroes is supported, with and without unmapping. Only with discard.
    pub write_zeroes: bool,
}

/// Largest discard or write-zeroes in sectors (64 MiB): zeroing memory happens inside the pump and must stay short.
const RANGE_SECTORS_MAX: u32 = 1 << 17;

impl Geometry {
    /// A device that is as durable as it will ever be when a write completes, and whose ranges can be zeroed.
    pub const fn in_memory(sectors: u64) -> Self {
        Self {
            sectors,
            logical_bs_shift: 9,
            physical_bs_shift: 12,
            volatile_cache: false,
            discard: true,
            write_zeroes: true,
        }
    }

    /// The parameters for SET_PARAMS, with requests of up to `max_io_bytes`.
    pub fn params(&self, max_io_bytes: u32) -> Params {
        let cache = if self.volatile_cache {
            ParamAttrs::VOLATILE_CACHE.union(ParamAttrs::FUA)
        } else {
            ParamAttrs::default()
        };
        Params {
            basic: Some(BasicParams {
                attrs: cache,
                logical_bs_shift: self.logical_bs_shift,
                physical_bs_shift: self.physical_bs_shift,
                io_opt_shift: self.physical_bs_shift,
                io_min_shift: self.logical_bs_shift,
                max_sectors: max_io_bytes / SECTOR_BYTES,
                chunk_sectors: 0,
                dev_sectors: self.sectors,
                virt_boundary_mask: 0,
            }),
            discard: self.discard.then_some(DiscardParams {
                discard_alignment: 0,
                discard_granularity: 1 << self.physical_bs_shift,
                max_discard_sectors: RANGE_SECTORS_MAX,
                max_write_zeroes_sectors: if self.write_zeroes { RANGE_SECTORS_MAX } else { 0 },
                max_discard_segments: 1,
            }),
            ..Params::default()
        }
    }
}

/// The targets that `blkproof add` knows, as one type.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum AnyTarget {
    /// [`Null`].
    Null(Null),
    /// [`Mem`].
    Mem(Mem),
    /// [`File`].
    File(File),
}

/// The progress of one request of an [`AnyTarget`].
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum AnyJob {
    /// Mem remembers nothing.
    Immediate,
    /// Null and file.
    Backend(Progress),
}

impl Target for AnyTarget {
    type Job = AnyJob;

    fn geometry(&self) -> Geometry {
        match self {
            Self::Null(target) => target.geometry(),
            Self::Mem(target) => target.geometry(),
            Self::File(target) => target.geometry(),
        }
    }

    fn has_backend(&self) -> bool {
        match self {
            Self::Null(target) => target.has_backend(),
            Self::Mem(target) => target.has_backend(),
            Self::File(target) => target.has_backend(),
        }
    }

    fn reaches_slots(&self) -> bool {
        match self {
            Self::Null(target) => target.reaches_slots(),
            Self::Mem(target) => target.reaches_slots(),
            Self::File(target) => target.reaches_slots(),
        }
    }

    fn begin(&self, request: &Request, memory: TagMemory) -> (AnyJob, Step) {
        match self {
            Self::Null(target) => {
                let (job, step) = target.begin(request, memory);
                (AnyJob::Backend(job), step)
            }
            Self::Mem(target) => (AnyJob::Immediate, target.begin(request, memory).1),
            Self::File(target) => {
                let (job, step) = target.begin(request, memory);
                (AnyJob::Backend(job), step)
            }
        }
    }

    fn resume(&self, request: &Request, job: &mut AnyJob, res: i32) -> Step {
        match (self, job) {
            (Self::Null(target), AnyJob::Backend(job)) => target.resume(request, job, res),
            (Self::Mem(target), AnyJob::Immediate) => target.resume(request, &mut (), res),
            (Self::File(target), AnyJob::Backend(job)) => target.resume(request, job, res),
            (Self::Mem(_), AnyJob::Backend(_))
            | (Self::Null(_) | Self::File(_), AnyJob::Immediate) => {
                unreachable!("I6: a job is resumed by the target that began it")
            }
        }
    }
}
