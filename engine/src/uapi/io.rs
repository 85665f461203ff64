//! I/O commands on the character device: `ublksrv_io_cmd`, `ublksrv_io_desc`, results.

use super::bytes::{DecodeError, Field};
use super::layout::{READ_WRITE, ioc};
use super::{Errno, KernelSeries, QueueId, Tag};

/// An I/O command (`UBLK_U_IO_*`).
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum IoOp {
    /// Arm a tag.
    FetchReq,
    /// Complete a tag's request and arm it again.
    CommitAndFetchReq,
    /// Name the buffer of a write and get its data.
    NeedGetData,
    /// Register the request's pages as a ring buffer.
    RegisterIoBuf,
    /// Unregister them.
    UnregisterIoBuf,
    /// Batch: arm many tags.
    PrepIoCmds,
    /// Batch: complete many requests.
    CommitIoCmds,
    /// Batch: deliver requests' tags, multishot.
    FetchIoCmds,
}

impl IoOp {
    /// All of them, by number.
    pub const ALL: [Self; 8] = [
        Self::FetchReq,
        Self::CommitAndFetchReq,
        Self::NeedGetData,
        Self::RegisterIoBuf,
        Self::UnregisterIoBuf,
        Self::PrepIoCmds,
        Self::CommitIoCmds,
        Self::FetchIoCmds,
    ];

    /// The command number.
    pub const fn nr(self) -> u8 {
        match self {
            Self::FetchReq => 0x20,
            Self::CommitAndFetchReq => 0x21,
            Self::NeedGetData => 0x22,
            Self::RegisterIoBuf => 0x23,
            Self::UnregisterIoBuf => 0x24,
            Self::PrepIoCmds => 0x25,
            Self::CommitIoCmds => 0x26,
            Self::FetchIoCmds => 0x27,
        }
    }

    /// The ioctl-encoded value for `cmd_op`.
    pub const fn ioctl(self) -> u32 {
        ioc(READ_WRITE, self.nr(), IoCmd::SIZE as u32)
    }

    /// From the value of `cmd_op`. Direction and size must be right too; the driver checks them for batch commands only.
    ///
    /// # Errors
    /// For any other value, the bare legacy numbers among them.
    pub fn decode(cmd_op: u32) -> Result<Self, DecodeError> {
        Self::ALL.into_iter().find(|op| op.ioctl() == cmd_op).ok_or(DecodeError {
            field: "sqe.cmd_op",
            expected: "UBLK_U_IO_*",
            got: u64::from(cmd_op),
        })
    }

    /// Whether a kernel of this series has it.
    pub fn exists_in(self, series: KernelSeries) -> bool {
        self.since() <= series
    }

    /// The name as the header has it, without the prefix `UBLK_U_IO_`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::FetchReq => "FETCH_REQ",
            Self::CommitAndFetchReq => "COMMIT_AND_FETCH_REQ",
            Self::NeedGetData => "NEED_GET_DATA",
            Self::RegisterIoBuf => "REGISTER_IO_BUF",
            Self::UnregisterIoBuf => "UNREGISTER_IO_BUF",
            Self::PrepIoCmds => "PREP_IO_CMDS",
            Self::CommitIoCmds => "COMMIT_IO_CMDS",
            Self::FetchIoCmds => "FETCH_IO_CMDS",
        }
    }

    /// The first kernel series, of those we know, that has it.
    pub const fn since(self) -> KernelSeries {
        match self {
            Self::FetchReq | Self::CommitAndFetchReq | Self::NeedGetData => KernelSeries::V6_12,
            Self::RegisterIoBuf | Self::UnregisterIoBuf => KernelSeries::V6_18,
            Self::PrepIoCmds | Self::CommitIoCmds | Self::FetchIoCmds => KernelSeries::V7_3,
        }
    }
}

/// `struct ublksrv_io_cmd`: the payload of FETCH, COMMIT and NEED_GET_DATA. Fits a 64-byte submission entry.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct IoCmd {
    /// The queue.
    pub queue: QueueId,
    /// The tag.
    pub tag: Tag,
    /// COMMIT: bytes transferred, 0, or a negative errno.
    pub result: i32,
    /// Copy mode: the tag's buffer. After a zone append: the sector written. Otherwise 0.
    pub addr: u64,
}

impl IoCmd {
    /// Bytes.
    pub const SIZE: usize = 16;

    /// To bytes.
    pub fn encode(&self) -> [u8; Self::SIZE] {
        let mut bytes = [0; Self::SIZE];
        self.queue.0.put(&mut bytes, 0);
        self.tag.0.put(&mut bytes, 2);
        self.result.put(&mut bytes, 4);
        self.addr.put(&mut bytes, 8);
        bytes
    }

    /// From bytes.
    pub fn decode(bytes: &[u8; Self::SIZE]) -> Self {
        Self {
            queue: QueueId(u16::get(bytes, 0)),
            tag: Tag(u16::get(bytes, 2)),
            result: i32::get(bytes, 4),
            addr: u64::get(bytes, 8),
        }
    }
}

/// `struct ublksrv_io_desc`: the kernel's description of a request, in the mapped descriptor array.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct IoDesc {
    /// The operation in the low 8 bits, flags above.
    pub op_flags: u32,
    /// Sectors of 512 bytes; zones for REPORT_ZONES.
    pub nr_sectors: u32,
    /// First sector. All ones for a flush.
    pub start_sector: u64,
    /// Copy mode: the tag's buffer. Depends on the mode otherwise.
    pub addr: u64,
}

impl IoDesc {
    /// Bytes.
    pub const SIZE: usize = 24;

    /// The operation, `None` if this crate does not know it.
    pub const fn op(&self) -> Option<RequestOp> {
        RequestOp::decode((self.op_flags & 0xff) as u8)
    }

    /// The flags.
    pub const fn flags(&self) -> RequestFlags {
        RequestFlags(self.op_flags & !0xff)
    }

    /// To bytes.
    pub fn encode(&self) -> [u8; Self::SIZE] {
        let mut bytes = [0; Self::SIZE];
        self.op_flags.put(&mut bytes, 0);
        self.nr_sectors.put(&mut bytes, 4);
        self.start_sector.put(&mut bytes, 8);
        self.addr.put(&mut bytes, 16);
        bytes
    }

    /// From bytes.
    pub fn decode(bytes: &[u8; Self::SIZE]) -> Self {
        Self {
            op_flags: u32::get(bytes, 0),
            nr_sectors: u32::get(bytes, 4),
            start_sector: u64::get(bytes, 8),
            addr: u64::get(bytes, 16),
        }
    }
}

/// What a request asks (`UBLK_IO_OP_*`).
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum RequestOp {
    /// Device to client.
    Read,
    /// Client to device.
    Write,
    /// Make completed writes durable.
    Flush,
    /// The contents are no longer needed.
    Discard,
    /// Never sent.
    WriteSame,
    /// The range shall read as zeroes.
    WriteZeroes,
    /// Open a zone.
    ZoneOpen,
    /// Close a zone.
    ZoneClose,
    /// Finish a zone.
    ZoneFinish,
    /// Append to a zone.
    ZoneAppend,
    /// Reset every zone.
    ZoneResetAll,
    /// Reset a zone.
    ZoneReset,
    /// Describe zones.
    ReportZones,
}

impl RequestOp {
    /// All of them, by number.
    pub const ALL: [Self; 13] = [
        Self::Read,
        Self::Write,
        Self::Flush,
        Self::Discard,
        Self::WriteSame,
        Self::WriteZeroes,
        Self::ZoneOpen,
        Self::ZoneClose,
        Self::ZoneFinish,
        Self::ZoneAppend,
        Self::ZoneResetAll,
        Self::ZoneReset,
        Self::ReportZones,
    ];

    /// The number.
    pub const fn encode(self) -> u8 {
        match self {
            Self::Read => 0,
            Self::Write => 1,
            Self::Flush => 2,
            Self::Discard => 3,
            Self::WriteSame => 4,
            Self::WriteZeroes => 5,
            Self::ZoneOpen => 10,
            Self::ZoneClose => 11,
            Self::ZoneFinish => 12,
            Self::ZoneAppend => 13,
            Self::ZoneResetAll => 14,
            Self::ZoneReset => 15,
            Self::ReportZones => 18,
        }
    }

    /// From the number.
    pub const fn decode(op: u8) -> Option<Self> {
        Some(match op {
            0 => Self::Read,
            1 => Self::Write,
            2 => Self::Flush,
            3 => Self::Discard,
            4 => Self::WriteSame,
            5 => Self::WriteZeroes,
            10 => Self::ZoneOpen,
            11 => Self::ZoneClose,
            12 => Self::ZoneFinish,
            13 => Self::ZoneAppend,
            14 => Self::ZoneResetAll,
            15 => Self::ZoneReset,
            18 => Self::ReportZones,
            _ => return None,
        })
    }
}

/// Flags of a request (`UBLK_IO_F_*`), at their place in `op_flags`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct RequestFlags(pub u32);

macro_rules! request_flags {
    ($($bit:literal $name:ident $text:literal;)*) => {
        impl RequestFlags {
            $(#[doc = $text] pub const $name: Self = Self(1 << $bit);)*

            /// Every flag this crate knows, with its bit and its name in the header.
            pub const ALL: &'static [(u8, &'static str)] =
                &[$(($bit, concat!("UBLK_IO_F_", stringify!($name)))),*];
        }
    };
}

request_flags! {
    8 FAILFAST_DEV "No retries on device errors.";
    9 FAILFAST_TRANSPORT "No retries on transport errors.";
    10 FAILFAST_DRIVER "No retries on driver errors.";
    11 META "Metadata of a file system.";
    13 FUA "Durable at completion.";
    15 NOUNMAP "WRITE_ZEROES must keep the space allocated.";
    16 SWAP "Swap.";
    17 NEED_REG_BUF "Automatic registration failed: the server must register the buffer.";
    18 INTEGRITY "Carries integrity metadata.";
    19 SHMEM_ZC "`addr` names registered shared memory.";
}

impl RequestFlags {
    /// Whether all of `other` are set.
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
}

/// The result of a FETCH or COMMIT.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum FetchResult {
    /// `UBLK_IO_RES_OK`: a request was delivered; the server owns the tag.
    Request,
    /// `UBLK_IO_RES_NEED_GET_DATA`: a write waits for its buffer.
    NeedGetData,
    /// `UBLK_IO_RES_ABORT`: the command was cancelled; the tag is dead in this round.
    Abort,
    /// The command was refused. After a refused COMMIT the request is still the server's.
    Error(Errno),
}

impl FetchResult {
    /// From a completion's result.
    pub const fn from_result(res: i32) -> Self {
        match res {
            0 => Self::Request,
            1 => Self::NeedGetData,
            -19 => Self::Abort,
            error => Self::Error(Errno::from_result(error)),
        }
    }

    /// As the kernel returns it.
    pub const fn to_result(self) -> i32 {
        match self {
            Self::Request => 0,
            Self::NeedGetData => 1,
            Self::Abort => Errno::ENODEV.to_result(),
            Self::Error(errno) => errno.to_result(),
        }
    }
}

/// `struct ublk_auto_buf_reg`, packed into the entry's `addr`: where the driver registers a request's pages.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct AutoBufReg {
    /// The slot of the ring's buffer table.
    pub index: u16,
    /// If registration fails, deliver with [`RequestFlags::NEED_REG_BUF`] instead of failing the request.
    pub fallback: bool,
}

impl AutoBufReg {
    /// `UBLK_AUTO_BUF_REG_FALLBACK`.
    const FALLBACK: u64 = 1 << 16;

    /// The value for `addr`.
    pub const fn encode(self) -> u64 {
        self.index as u64 | if self.fallback { Self::FALLBACK } else { 0 }
    }

    /// From `addr`.
    ///
    /// # Errors
    /// For unknown flags or reserved bits that are not 0.
    pub const fn decode(addr: u64) -> Result<Self, DecodeError> {
        if addr & !(Self::FALLBACK | 0xffff) != 0 {
            return Err(DecodeError {
                field: "ublk_auto_buf_reg",
                expected: "an index and FALLBACK only",
                got: addr,
            });
        }
        Ok(Self { index: addr as u16, fallback: addr & Self::FALLBACK != 0 })
    }
}
