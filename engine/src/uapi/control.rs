//! Control commands: `ublksrv_ctrl_cmd` on `/dev/ublk-control`, and `ublksrv_ctrl_dev_info`.

use super::bytes::{DecodeError, Field};
use super::layout::{READ, READ_WRITE, ioc};
use super::{DevId, Features, KernelSeries};

/// A control command (`UBLK_U_CMD_*`).
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum ControlOp {
    /// Which CPUs a queue serves.
    GetQueueAffinity,
    /// The device's state, geometry and flags.
    GetDevInfo,
    /// Create a device.
    AddDev,
    /// Delete a device and wait until its number is free.
    DelDev,
    /// Bring the block device up.
    StartDev,
    /// Take the block device down.
    StopDev,
    /// Set size, limits and attributes.
    SetParams,
    /// Read them back.
    GetParams,
    /// Begin the recovery of a device whose server died.
    StartUserRecovery,
    /// End it: the new server is ready.
    EndUserRecovery,
    /// GET_DEV_INFO with the character device's path, for unprivileged callers.
    GetDevInfo2,
    /// What the driver supports.
    GetFeatures,
    /// Delete a device without waiting.
    DelDevAsync,
    /// Change the device's size.
    UpdateSize,
    /// Detach the server, keeping the disk.
    QuiesceDev,
    /// Stop, unless the disk is open.
    TryStopDev,
    /// Register memory for shared-memory zero copy.
    RegBuf,
    /// Unregister it.
    UnregBuf,
}

impl ControlOp {
    /// All of them, by number.
    pub const ALL: [Self; 18] = [
        Self::GetQueueAffinity,
        Self::GetDevInfo,
        Self::AddDev,
        Self::DelDev,
        Self::StartDev,
        Self::StopDev,
        Self::SetParams,
        Self::GetParams,
        Self::StartUserRecovery,
        Self::EndUserRecovery,
        Self::GetDevInfo2,
        Self::GetFeatures,
        Self::DelDevAsync,
        Self::UpdateSize,
        Self::QuiesceDev,
        Self::TryStopDev,
        Self::RegBuf,
        Self::UnregBuf,
    ];

    /// The command number (`_IOC_NR`).
    pub const fn nr(self) -> u8 {
        match self {
            Self::GetQueueAffinity => 0x01,
            Self::GetDevInfo => 0x02,
            Self::AddDev => 0x04,
            Self::DelDev => 0x05,
            Self::StartDev => 0x06,
            Self::StopDev => 0x07,
            Self::SetParams => 0x08,
            Self::GetParams => 0x09,
            Self::StartUserRecovery => 0x10,
            Self::EndUserRecovery => 0x11,
            Self::GetDevInfo2 => 0x12,
            Self::GetFeatures => 0x13,
            Self::DelDevAsync => 0x14,
            Self::UpdateSize => 0x15,
            Self::QuiesceDev => 0x16,
            Self::TryStopDev => 0x17,
            Self::RegBuf => 0x18,
            Self::UnregBuf => 0x19,
        }
    }

    /// The ioctl-encoded value for `cmd_op`.
    pub const fn ioctl(self) -> u32 {
        let direction = match self {
            Self::GetQueueAffinity
            | Self::GetDevInfo
            | Self::GetParams
            | Self::GetDevInfo2
            | Self::GetFeatures
            | Self::DelDevAsync => READ,
            Self::AddDev
            | Self::DelDev
            | Self::StartDev
            | Self::StopDev
            | Self::SetParams
            | Self::StartUserRecovery
            | Self::EndUserRecovery
            | Self::UpdateSize
            | Self::QuiesceDev
            | Self::TryStopDev
            | Self::RegBuf
            | Self::UnregBuf => READ_WRITE,
        };
        ioc(direction, self.nr(), CtrlCmd::SIZE as u32)
    }

    /// From the value of `cmd_op`. Direction and size must be right too; the driver looks at type and number only.
    ///
    /// # Errors
    /// For any other value, the bare legacy numbers among them.
    pub fn decode(cmd_op: u32) -> Result<Self, DecodeError> {
        Self::ALL.into_iter().find(|op| op.ioctl() == cmd_op).ok_or(DecodeError {
            field: "sqe.cmd_op",
            expected: "UBLK_U_CMD_*",
            got: u64::from(cmd_op),
        })
    }

    /// Whether a kernel of this series has it; one that has not answers EOPNOTSUPP.
    pub fn exists_in(self, series: KernelSeries) -> bool {
        self.since() <= series
    }

    /// The name as the header has it, without the prefix `UBLK_U_CMD_`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::GetQueueAffinity => "GET_QUEUE_AFFINITY",
            Self::GetDevInfo => "GET_DEV_INFO",
            Self::AddDev => "ADD_DEV",
            Self::DelDev => "DEL_DEV",
            Self::StartDev => "START_DEV",
            Self::StopDev => "STOP_DEV",
            Self::SetParams => "SET_PARAMS",
            Self::GetParams => "GET_PARAMS",
            Self::StartUserRecovery => "START_USER_RECOVERY",
            Self::EndUserRecovery => "END_USER_RECOVERY",
            Self::GetDevInfo2 => "GET_DEV_INFO2",
            Self::GetFeatures => "GET_FEATURES",
            Self::DelDevAsync => "DEL_DEV_ASYNC",
            Self::UpdateSize => "UPDATE_SIZE",
            Self::QuiesceDev => "QUIESCE_DEV",
            Self::TryStopDev => "TRY_STOP_DEV",
            Self::RegBuf => "REG_BUF",
            Self::UnregBuf => "UNREG_BUF",
        }
    }

    /// The first kernel series, of those we know, that has it.
    pub const fn since(self) -> KernelSeries {
        match self {
            Self::UpdateSize | Self::QuiesceDev => KernelSeries::V6_18,
            Self::TryStopDev | Self::RegBuf | Self::UnregBuf => KernelSeries::V7_3,
            Self::GetQueueAffinity
            | Self::GetDevInfo
            | Self::AddDev
            | Self::DelDev
            | Self::StartDev
            | Self::StopDev
            | Self::SetParams
            | Self::GetParams
            | Self::StartUserRecovery
            | Self::EndUserRecovery
            | Self::GetDevInfo2
            | Self::GetFeatures
            | Self::DelDevAsync => KernelSeries::V6_12,
        }
    }
}

/// `struct ublksrv_ctrl_cmd`: the payload of a control command. Needs a 128-byte submission entry.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct CtrlCmd {
    /// The device.
    pub dev_id: DevId,
    /// Checked by ADD_DEV only, which wants [`CtrlCmd::NO_QUEUE`].
    pub queue_id: u16,
    /// Bytes at `addr`.
    pub len: u16,
    /// The buffer, if the command has one.
    pub addr: u64,
    /// The command's one inline argument: pid, size, timeout, queue or index.
    pub data: u64,
    /// Length of the character device's path at the beginning of the buffer, with its NUL; 0 for privileged devices.
    pub dev_path_len: u16,
}

impl CtrlCmd {
    /// Bytes.
    pub const SIZE: usize = 32;
    /// No queue.
    pub const NO_QUEUE: u16 = u16::MAX;
    /// Bytes of the buffer of GET_FEATURES, exactly (`UBLK_FEATURES_LEN`).
    pub const FEATURES_BYTES: u16 = 8;

    /// To bytes.
    pub fn encode(&self) -> [u8; Self::SIZE] {
        let mut bytes = [0; Self::SIZE];
        self.dev_id.0.put(&mut bytes, 0);
        self.queue_id.put(&mut bytes, 4);
        self.len.put(&mut bytes, 6);
        self.addr.put(&mut bytes, 8);
        self.data.put(&mut bytes, 16);
        self.dev_path_len.put(&mut bytes, 24);
        bytes
    }

    /// From bytes.
    pub fn decode(bytes: &[u8; Self::SIZE]) -> Self {
        Self {
            dev_id: DevId(u32::get(bytes, 0)),
            queue_id: u16::get(bytes, 4),
            len: u16::get(bytes, 6),
            addr: u64::get(bytes, 8),
            data: u64::get(bytes, 16),
            dev_path_len: u16::get(bytes, 24),
        }
    }
}

/// The state of a device (`UBLK_S_DEV_*`).
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum DeviceState {
    /// Added and not started, or stopped.
    #[default]
    Dead,
    /// The block device is up.
    Live,
    /// No server; I/O waits for the next one.
    Quiesced,
    /// No server; I/O fails.
    FailIo,
}

impl DeviceState {
    /// The number.
    pub const fn encode(self) -> u16 {
        match self {
            Self::Dead => 0,
            Self::Live => 1,
            Self::Quiesced => 2,
            Self::FailIo => 3,
        }
    }

    /// From the number.
    ///
    /// # Errors
    /// For any other number.
    pub const fn decode(state: u16) -> Result<Self, DecodeError> {
        match state {
            0 => Ok(Self::Dead),
            1 => Ok(Self::Live),
            2 => Ok(Self::Quiesced),
            3 => Ok(Self::FailIo),
            _ => Err(DecodeError {
                field: "ublksrv_ctrl_dev_info.state",
                expected: "0..=3",
                got: state as u64,
            }),
        }
    }

    /// The name in listings.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Dead => "DEAD",
            Self::Live => "LIVE",
            Self::Quiesced => "QUIESCED",
            Self::FailIo => "FAIL_IO",
        }
    }
}

/// `struct ublksrv_ctrl_dev_info`: a device's geometry, state and flags; in and out of ADD_DEV, out of GET_DEV_INFO.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct DevInfo {
    /// Hardware queues, 1..=4096. The kernel lowers it to the number of CPUs.
    pub nr_hw_queues: u16,
    /// Tags in each queue, 1..=4096.
    pub queue_depth: u16,
    /// State. Ignored on input, but 6.18 stores it: leave it [`DeviceState::Dead`].
    pub state: DeviceState,
    /// With `IO_DESC_SIZE`: bytes of a descriptor, 24..=256 and a multiple of 8; otherwise 0 in and 24 or 0 out.
    pub io_desc_size: u16,
    /// Largest request in bytes; rounded down to whole pages.
    pub max_io_buf_bytes: u32,
    /// The number.
    pub dev_id: DevId,
    /// The server's process, -1 when there is none.
    pub ublksrv_pid: i32,
    /// Features asked for, and granted. The kernel clears what it does not support.
    pub flags: Features,
    /// Opaque to the kernel.
    pub ublksrv_flags: u64,
    /// Who created it.
    pub owner_uid: u32,
    /// Their group.
    pub owner_gid: u32,
}

impl DevInfo {
    /// Bytes.
    pub const SIZE: usize = 64;

    /// To bytes.
    pub fn encode(&self) -> [u8; Self::SIZE] {
        let mut bytes = [0; Self::SIZE];
        self.nr_hw_queues.put(&mut bytes, 0);
        self.queue_depth.put(&mut bytes, 2);
        self.state.encode().put(&mut bytes, 4);
        self.io_desc_size.put(&mut bytes, 6);
        self.max_io_buf_bytes.put(&mut bytes, 8);
        self.dev_id.0.put(&mut bytes, 12);
        self.ublksrv_pid.put(&mut bytes, 16);
        self.flags.0.put(&mut bytes, 24);
        self.ublksrv_flags.put(&mut bytes, 32);
        self.owner_uid.put(&mut bytes, 40);
        self.owner_gid.put(&mut bytes, 44);
        bytes
    }

    /// From bytes.
    ///
    /// # Errors
    /// For an unknown state.
    pub fn decode(bytes: &[u8; Self::SIZE]) -> Result<Self, DecodeError> {
        Ok(Self {
            nr_hw_queues: u16::get(bytes, 0),
            queue_depth: u16::get(bytes, 2),
            state: DeviceState::decode(u16::get(bytes, 4))?,
            io_desc_size: u16::get(bytes, 6),
            max_io_buf_bytes: u32::get(bytes, 8),
            dev_id: DevId(u32::get(bytes, 12)),
            ublksrv_pid: i32::get(bytes, 16),
            flags: Features(u64::get(bytes, 24)),
            ublksrv_flags: u64::get(bytes, 32),
            owner_uid: u32::get(bytes, 40),
            owner_gid: u32::get(bytes, 44),
        })
    }
}
