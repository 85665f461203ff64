//! (placeholder until the full module lands)
#![allow(missing_docs)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Default)]
pub struct DevId(pub u32);
impl DevId {
    pub const AUTO: Self = Self(u32::MAX);
}
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct QueueId(pub u16);
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct Tag(pub u16);
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct Errno(pub u16);
impl Errno {
    pub const ENOENT: Self = Self(2);
    pub const ESRCH: Self = Self(3);
    pub const EINTR: Self = Self(4);
    pub const EIO: Self = Self(5);
    pub const EAGAIN: Self = Self(11);
    pub const ENOMEM: Self = Self(12);
    pub const EACCES: Self = Self(13);
    pub const EBUSY: Self = Self(16);
    pub const EEXIST: Self = Self(17);
    pub const ENODEV: Self = Self(19);
    pub const EINVAL: Self = Self(22);
    pub const EOPNOTSUPP: Self = Self(95);
    pub const fn from_result(res: i32) -> Self {
        Self(res.unsigned_abs() as u16)
    }
}
impl core::fmt::Display for Errno {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "errno {}", self.0)
    }
}
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Features(pub u64);
impl Features {
    pub const fn contains(self, o: Self) -> bool {
        self.0 & o.0 == o.0
    }
}
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord, Default)]
pub enum DeviceState {
    #[default]
    Dead,
    Live,
    Quiesced,
    FailIo,
}
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub enum ControlOp {
    GetFeatures,
    AddDev,
    SetParams,
    StartDev,
    StopDev,
    DelDev,
    GetDevInfo,
}
impl ControlOp {
    pub const fn name(self) -> &'static str {
        match self {
            Self::GetFeatures => "GET_FEATURES",
            Self::AddDev => "ADD_DEV",
            Self::SetParams => "SET_PARAMS",
            Self::StartDev => "START_DEV",
            Self::StopDev => "STOP_DEV",
            Self::DelDev => "DEL_DEV",
            Self::GetDevInfo => "GET_DEV_INFO",
        }
    }
}
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct DevInfo {
    pub nr_hw_queues: u16,
    pub queue_depth: u16,
    pub state: DeviceState,
    pub max_io_buf_bytes: u32,
    pub dev_id: DevId,
    pub ublksrv_pid: i32,
    pub flags: Features,
}
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct BasicParams {
    pub max_sectors: u32,
    pub dev_sectors: u64,
}
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Params {
    pub basic: Option<BasicParams>,
}
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct IoDesc {
    pub op_flags: u32,
    pub nr_sectors: u32,
    pub start_sector: u64,
    pub addr: u64,
}
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub enum RequestOp {
    Read,
    Write,
    Flush,
    Discard,
    WriteSame,
    WriteZeroes,
    ZoneOpen,
    ZoneClose,
    ZoneFinish,
    ZoneAppend,
    ZoneResetAll,
    ZoneReset,
    ReportZones,
}
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct RequestFlags(pub u32);
impl RequestFlags {
    pub const FUA: Self = Self(1 << 13);
    pub const NOUNMAP: Self = Self(1 << 15);
    pub const fn contains(self, o: Self) -> bool {
        self.0 & o.0 == o.0
    }
}
impl IoDesc {
    pub const fn op(&self) -> Option<RequestOp> {
        match self.op_flags & 0xff {
            0 => Some(RequestOp::Read),
            1 => Some(RequestOp::Write),
            2 => Some(RequestOp::Flush),
            3 => Some(RequestOp::Discard),
            5 => Some(RequestOp::WriteZeroes),
            _ => None,
        }
    }
    pub const fn flags(&self) -> RequestFlags {
        RequestFlags(self.op_flags & !0xff)
    }
}
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum FetchResult {
    Request,
    NeedGetData,
    Abort,
    Error(Errno),
}
impl FetchResult {
    pub const fn from_result(res: i32) -> Self {
        match res {
            0 => Self::Request,
            1 => Self::NeedGetData,
            -19 => Self::Abort,
            e => Self::Error(Errno::from_result(e)),
        }
    }
}
