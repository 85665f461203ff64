//! Control commands as the supervisor means them, and what they bring back.

use crate::cause::Step;
use crate::uapi::{BasicParams, ControlOp, CtrlCmd, DevId, DevInfo, Features, Params, ShmemBufReg};

/// Bytes that hold the payload and the reply of every command.
pub const PAYLOAD_BYTES_MAX: usize = 256;

/// A control command with its payload.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum Command {
    /// What the driver supports.
    GetFeatures,
    /// Create the device; `dev_id` [`DevId::AUTO`] lets the kernel choose the number.
    AddDev(DevInfo),
    /// Size, limits and attributes.
    SetParams(DevId, Params),
    /// Bring the block device up; `pid` is the worker's thread group.
    StartDev(DevId, u32),
    /// Take the block device down and cancel every armed tag.
    StopDev(DevId),
    /// Remove the device and wait until its number is free.
    DelDev(DevId),
    /// State, geometry and the worker's pid.
    GetDevInfo(DevId),
    /// Check that a device is without a server, and let it have another one.
    StartRecovery(DevId),
    /// Bring a device up again with another server; `pid` is that worker's thread group.
    EndRecovery(DevId, u32),
    /// What the parameters are now: the size may have changed since they were set.
    GetParams(DevId),
    /// Let no new request reach the server, and abort every armed tag.
    QuiesceDev(DevId),
    /// Give the disk another size, in 512-byte sectors.
    UpdateSize(DevId, u64),
    /// [`Command::StopDev`], unless somebody has the disk open.
    TryStopDev(DevId),
    /// Pin memory of the calling process, and look for requests whose data lies in it. The result is the number of the registration.
    RegBuf(DevId, ShmemBufReg),
}

/// What a control command wrote into its buffer.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum Reply {
    /// The command writes nothing.
    Nothing,
    /// GET_FEATURES.
    Features(Features),
    /// GET_PARAMS, of a device that has parameters: the basic ones.
    Params(BasicParams),
    /// ADD_DEV, GET_DEV_INFO.
    DevInfo(DevInfo),
}

/// The control commands that the engine sends.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum Kind {
    /// GET_FEATURES.
    GetFeatures,
    /// ADD_DEV.
    AddDev,
    /// SET_PARAMS.
    SetParams,
    /// START_DEV.
    StartDev,
    /// STOP_DEV.
    StopDev,
    /// DEL_DEV.
    DelDev,
    /// GET_DEV_INFO.
    GetDevInfo,
    /// START_USER_RECOVERY.
    StartRecovery,
    /// END_USER_RECOVERY.
    EndRecovery,
    /// GET_PARAMS.
    GetParams,
    /// QUIESCE_DEV.
    QuiesceDev,
    /// UPDATE_SIZE.
    UpdateSize,
    /// TRY_STOP_DEV.
    TryStopDev,
    /// REG_BUF.
    RegBuf,
}

impl Command {
    /// Which command it is.
    pub const fn kind(&self) -> Kind {
        match self {
            Self::GetFeatures => Kind::GetFeatures,
            Self::AddDev(_) => Kind::AddDev,
            Self::SetParams(..) => Kind::SetParams,
            Self::StartDev(..) => Kind::StartDev,
            Self::StopDev(_) => Kind::StopDev,
            Self::DelDev(_) => Kind::DelDev,
            Self::GetDevInfo(_) => Kind::GetDevInfo,
            Self::StartRecovery(_) => Kind::StartRecovery,
            Self::EndRecovery(..) => Kind::EndRecovery,
            Self::GetParams(_) => Kind::GetParams,
            Self::QuiesceDev(_) => Kind::QuiesceDev,
            Self::UpdateSize(..) => Kind::UpdateSize,
            Self::TryStopDev(_) => Kind::TryStopDev,
            Self::RegBuf(..) => Kind::RegBuf,
        }
    }
}

impl Command {
    /// The command's header and, at the beginning of `payload`, what it points to. The address is the driver's to fill in,
    /// unless `len` is 0: then there is none.
    pub fn encode(&self, payload: &mut [u8; PAYLOAD_BYTES_MAX]) -> CtrlCmd {
        let mut fill = |bytes: &[u8]| {
            payload[..bytes.len()].copy_from_slice(bytes);
            bytes.len() as u16
        };
        let (dev_id, len, data) = match self {
            Self::GetFeatures => (DevId::AUTO, CtrlCmd::FEATURES_BYTES, 0),
            Self::AddDev(info) => (info.dev_id, fill(&info.encode()), 0),
            Self::SetParams(id, params) => (*id, fill(&params.encode()), 0),
            Self::StartDev(id, pid) | Self::EndRecovery(id, pid) => (*id, 0, u64::from(*pid)),
            Self::StopDev(id)
            | Self::DelDev(id)
            | Self::StartRecovery(id)
            | Self::TryStopDev(id)
            // A timeout of 0 is none.
            | Self::QuiesceDev(id) => (*id, 0, 0),
            Self::UpdateSize(id, sectors) => (*id, 0, *sectors),
            // The header says how much there is room for.
            Self::GetParams(id) => (*id, fill(&Params::default().encode()), 0),
            Self::GetDevInfo(id) => (*id, DevInfo::SIZE as u16, 0),
            Self::RegBuf(id, memory) => (*id, fill(&memory.encode()), 0),
        };
        CtrlCmd { dev_id, queue_id: CtrlCmd::NO_QUEUE, len, addr: 0, data, dev_path_len: 0 }
    }
}

impl Kind {
    /// What a command of this kind wrote. [`Reply::Nothing`] also for bytes that make no sense.
    pub fn decode(self, payload: &[u8; PAYLOAD_BYTES_MAX]) -> Reply {
        match self {
            Self::GetFeatures => Reply::Features(Features(u64::from_ne_bytes(head(payload)))),
            Self::AddDev | Self::GetDevInfo => {
                DevInfo::decode(&head(payload)).map_or(Reply::Nothing, Reply::DevInfo)
            }
            Self::GetParams => Params::decode(&head(payload))
                .ok()
                .and_then(|params| params.basic)
                .map_or(Reply::Nothing, Reply::Params),
            Self::SetParams
            | Self::StartDev
            | Self::StopDev
            | Self::DelDev
            | Self::StartRecovery
            | Self::EndRecovery
            | Self::QuiesceDev
            | Self::UpdateSize
            | Self::TryStopDev
            | Self::RegBuf => Reply::Nothing,
        }
    }

    /// The step that sending it is.
    pub const fn step(self) -> Step {
        match self {
            Self::GetFeatures => Step::GetFeatures,
            Self::AddDev => Step::AddDev,
            Self::SetParams => Step::SetParams,
            Self::StartDev => Step::StartDev,
            Self::StopDev => Step::StopDev,
            Self::DelDev => Step::DelDev,
            Self::GetDevInfo => Step::GetDevInfo,
            Self::StartRecovery => Step::StartRecovery,
            Self::EndRecovery => Step::EndRecovery,
            Self::GetParams => Step::GetParams,
            Self::QuiesceDev => Step::QuiesceDev,
            Self::UpdateSize => Step::Resize,
            Self::TryStopDev => Step::TryStopDev,
            Self::RegBuf => Step::ShareMemory,
        }
    }

    /// Its number and name in the kernel's header.
    pub const fn uapi(self) -> ControlOp {
        match self {
            Self::GetFeatures => ControlOp::GetFeatures,
            Self::AddDev => ControlOp::AddDev,
            Self::SetParams => ControlOp::SetParams,
            Self::StartDev => ControlOp::StartDev,
            Self::StopDev => ControlOp::StopDev,
            Self::DelDev => ControlOp::DelDev,
            Self::GetDevInfo => ControlOp::GetDevInfo,
            Self::StartRecovery => ControlOp::StartUserRecovery,
            Self::EndRecovery => ControlOp::EndUserRecovery,
            Self::GetParams => ControlOp::GetParams,
            Self::QuiesceDev => ControlOp::QuiesceDev,
            Self::UpdateSize => ControlOp::UpdateSize,
            Self::TryStopDev => ControlOp::TryStopDev,
            Self::RegBuf => ControlOp::RegBuf,
        }
    }
}

fn head<const N: usize>(payload: &[u8; PAYLOAD_BYTES_MAX]) -> [u8; N] {
    *payload.first_chunk().expect("no reply is larger than the payload")
}
