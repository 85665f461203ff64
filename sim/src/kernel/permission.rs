//! Who may give a command (`ublk_ctrl_uring_cmd_permission`), and who may open what.

use blkproof_engine::uapi::{ControlOp, DevInfo, Features, KernelSeries, Params, ShmemBufReg};

use crate::kernel::control::Control;
use crate::kernel::device::Device;
use crate::kernel::errno;
use crate::script::{PathName, Place};

/// Longest path (`PATH_MAX`).
const PATH_MAX: u16 = 4096;

/// Bytes of memory that a command usually has, apart from a path.
fn usual_bytes(op: ControlOp) -> u16 {
    let bytes = match op {
        ControlOp::AddDev | ControlOp::GetDevInfo | ControlOp::GetDevInfo2 => DevInfo::SIZE,
        ControlOp::SetParams | ControlOp::GetParams => Params::SIZE,
        ControlOp::GetFeatures | ControlOp::GetQueueAffinity => 8,
        ControlOp::RegBuf => ShmemBufReg::SIZE,
        ControlOp::StartDev
        | ControlOp::StopDev
        | ControlOp::DelDev
        | ControlOp::DelDevAsync
        | ControlOp::StartUserRecovery
        | ControlOp::EndUserRecovery
        | ControlOp::UpdateSize
        | ControlOp::QuiesceDev
        | ControlOp::TryStopDev
        | ControlOp::UnregBuf => 0,
    };
    bytes as u16
}

/// Whether the device belongs to a user: then commands are for those who may open its character device, and name that.
const fn is_unprivileged(device: &Device) -> bool {
    device.info.flags.contains(Features::UNPRIVILEGED_DEV)
}

/// The commands that there are on unprivileged devices: all but one, which was forgotten.
const fn is_for_users(op: ControlOp) -> bool {
    match op {
        ControlOp::GetFeatures
        | ControlOp::AddDev
        | ControlOp::GetDevInfo
        | ControlOp::GetDevInfo2
        | ControlOp::GetQueueAffinity
        | ControlOp::SetParams
        | ControlOp::GetParams
        | ControlOp::StartDev
        | ControlOp::StopDev
        | ControlOp::DelDev
        | ControlOp::StartUserRecovery
        | ControlOp::EndUserRecovery
        | ControlOp::UpdateSize
        | ControlOp::QuiesceDev
        | ControlOp::TryStopDev
        | ControlOp::RegBuf
        | ControlOp::UnregBuf => true,
        ControlOp::DelDevAsync => false,
    }
}

/// What keeps a command away from a device. The memory that is left to it begins behind the path.
pub(super) fn refused(kernel: KernelSeries, control: &Control, device: &Device) -> Option<i32> {
    let op = control.command.op();
    let header = control.header();
    if !is_unprivileged(device) {
        if control.user != 0 {
            return Some(errno::EPERM);
        }
        if op != ControlOp::GetDevInfo2 || header.nr.is_some() {
            return None;
        }
    }
    let id = device.id.0;
    let given = header.path.map_or(0, |path| path.bytes(id).len() as u16);
    let said = header.path_len.unwrap_or(given);
    if said == 0 || said > PATH_MAX {
        return Some(errno::EINVAL);
    }
    if header.len.unwrap_or(given + usual_bytes(op)) < said {
        return Some(errno::EINVAL);
    }
    if matches!(header.place, Some(Place::Null | Place::Bad)) {
        return Some(errno::EFAULT);
    }
    if header.nr.is_some() || !is_for_users(op) || !op.exists_in(kernel) {
        return Some(errno::EINVAL);
    }
    match header.path {
        // Cut short, it names nothing.
        Some(_) if said + 1 < given => Some(errno::ENOENT),
        Some(PathName::Own) if device.cdev => {
            let may = control.user == 0 || control.user == device.owner;
            (!may).then_some(errno::EACCES)
        }
        Some(PathName::Own | PathName::Missing) => Some(errno::ENOENT),
        Some(PathName::Null) | None => Some(errno::EPERM),
    }
}

/// What keeps a user from opening the disk: its node, then `ublk_open`.
pub(crate) fn disk_refused(device: &Device, user: u32) -> Option<i32> {
    let disk = device.disk.as_ref().filter(|disk| disk.attached && user != 0)?;
    if disk.owner != user {
        Some(errno::EACCES)
    } else if is_unprivileged(device) && device.info.owner_uid != user {
        Some(errno::EPERM)
    } else if device.block_open {
        Some(errno::ENXIO)
    } else {
        None
    }
}

/// Whether the request timer kills the server of this device (H50).
pub(crate) fn kills(device: &Device) -> bool {
    is_unprivileged(device)
}
