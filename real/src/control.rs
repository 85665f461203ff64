//! Control commands as bytes, on a ring for `/dev/ublk-control`.

use std::os::fd::RawFd;

use blkproof_engine::control::{Command, Kind, Reply};
use blkproof_engine::sys::{RingSpec, SqFull, Token};
use blkproof_engine::uapi::{CtrlCmd, DevId, DevInfo, Errno, Features};
use rustix::fs::{Mode, OFlags};

use crate::error::{Error, NO_DRIVER, NO_PERMISSION};
use crate::os::{Completion, ControlRing, PAYLOAD_BYTES_MAX};

/// Where the driver listens.
pub const CONTROL_PATH: &str = "/dev/ublk-control";

/// Bytes of the features that GET_FEATURES writes.
const FEATURES_BYTES: usize = 8;

/// The control device, and a ring to command it.
#[derive(Debug)]
pub struct Control {
    ring: ControlRing,
    /// The last command pushed.
    last: Option<Kind>,
}

impl Control {
    /// Opens the control device, and creates a ring.
    ///
    /// # Errors
    /// What the system answered.
    pub fn open(spec: RingSpec) -> Result<Self, Errno> {
        let opened = rustix::fs::open(CONTROL_PATH, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty());
        let control = opened.map_err(|errno| Errno::from_result(-errno.raw_os_error()))?;
        Ok(Self { ring: ControlRing::new(spec, control)?, last: None })
    }

    /// Queues a command.
    pub fn push(&mut self, token: Token, command: &Command) -> Result<(), SqFull> {
        self.ring.push_command(token.encode(), |addr, payload| encode(command, addr, payload))?;
        self.last = Some(command.kind());
        Ok(())
    }

    /// What the last completed command wrote.
    pub fn reply(&self) -> Reply {
        let payload = self.ring.payload();
        match self.last {
            Some(Kind::GetFeatures) => {
                Reply::Features(Features(u64::from_ne_bytes(head(&payload))))
            }
            Some(Kind::AddDev | Kind::GetDevInfo) => {
                DevInfo::decode(&head(&payload)).map_or(Reply::Nothing, Reply::DevInfo)
            }
            Some(Kind::SetParams | Kind::StartDev | Kind::StopDev | Kind::DelDev) | None => {
                Reply::Nothing
            }
        }
    }

    /// See [`ControlRing::reap`].
    pub fn reap(&mut self) -> Option<Completion> {
        self.ring.reap()
    }

    /// See [`ControlRing::push_poll`].
    pub fn push_poll(&mut self, fd: RawFd, user_data: u64) -> Result<(), SqFull> {
        self.ring.push_poll(fd, user_data)
    }

    /// See [`ControlRing::push_timer`].
    pub fn push_timer(&mut self, ms: u32, user_data: u64) -> Result<(), SqFull> {
        self.ring.push_timer(ms, user_data)
    }

    /// See [`ControlRing::push_cancel`].
    pub fn push_cancel(&mut self, target: u64, user_data: u64) -> Result<(), SqFull> {
        self.ring.push_cancel(target, user_data)
    }

    /// See [`ControlRing::enter`].
    pub fn enter(&mut self, submit: u32, wait: u32) -> Result<u32, Errno> {
        self.ring.enter(submit, wait)
    }

    /// See [`ControlRing::sq_space`].
    pub fn sq_space(&self) -> u32 {
        self.ring.sq_space()
    }

    /// See [`ControlRing::sq_ready`].
    pub fn sq_ready(&self) -> u32 {
        self.ring.sq_ready()
    }
}

/// A command's opcode and header, with its payload filled in.
fn encode(
    command: &Command,
    addr: u64,
    payload: &mut [u8; PAYLOAD_BYTES_MAX],
) -> (u32, [u8; 80]) {
    let mut fill = |bytes: &[u8]| {
        payload[..bytes.len()].copy_from_slice(bytes);
        bytes.len()
    };
    let (dev_id, len, data) = match command {
        Command::GetFeatures => (DevId::AUTO, FEATURES_BYTES, 0),
        Command::AddDev(info) => (info.dev_id, fill(&info.encode()), 0),
        Command::SetParams(id, params) => (*id, fill(&params.encode()), 0),
        Command::StartDev(id, pid) => (*id, 0, u64::from(*pid)),
        Command::StopDev(id) | Command::DelDev(id) => (*id, 0, 0),
        Command::GetDevInfo(id) => (*id, DevInfo::SIZE, 0),
    };
    let header = CtrlCmd {
        dev_id,
        queue_id: CtrlCmd::NO_QUEUE,
        len: len as u16,
        addr: if len == 0 { 0 } else { addr },
        data,
        dev_path_len: 0,
    };
    let mut cmd = [0; 80];
    cmd[..CtrlCmd::SIZE].copy_from_slice(&header.encode());
    (command.kind().uapi().ioctl(), cmd)
}

fn head<const N: usize>(payload: &[u8; PAYLOAD_BYTES_MAX]) -> [u8; N] {
    *payload.first_chunk().expect("no reply is larger than the payload")
}

/// Whether the control device can be opened: the errors that every command has in common, told at once.
///
/// # Errors
/// What to do about it.
pub fn probe() -> crate::error::Result<()> {
    let opened = rustix::fs::open(CONTROL_PATH, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty());
    opened.map(drop).map_err(|errno| {
        let error = Error::new(format!("opening {CONTROL_PATH}"), std::io::Error::from(errno));
        match errno {
            rustix::io::Errno::NOENT | rustix::io::Errno::NODEV | rustix::io::Errno::NXIO => {
                error.advice(NO_DRIVER)
            }
            rustix::io::Errno::ACCESS | rustix::io::Errno::PERM => error.advice(NO_PERMISSION),
            _ => error,
        }
    })
}
