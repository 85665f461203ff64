//! Control commands as the supervisor means them, and what they bring back.

use crate::cause::Step;
use crate::uapi::{ControlOp, DevId, DevInfo, Features, Params};

/// A control command with its payload.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
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
}

/// What a control command wrote into its buffer.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Reply {
    /// The command writes nothing.
    Nothing,
    /// GET_FEATURES.
    Features(Features),
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
        }
    }
}

impl Kind {
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
        }
    }
}
