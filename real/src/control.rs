//! Control commands as bytes, on a ring for `/dev/ublk-control`.

use std::os::fd::BorrowedFd;

use blkproof_engine::control::{Command, Kind, PAYLOAD_BYTES_MAX, Reply};
use blkproof_engine::sys::{RingSpec, SqFull, Token};
use blkproof_engine::uapi::Errno;
use rustix::fs::{Mode, OFlags};

use crate::error::{Error, NO_DRIVER, NO_PERMISSION};
use crate::os::{Completion, ControlRing};

/// Where the driver listens.
pub const CONTROL_PATH: &str = "/dev/ublk-control";

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
        let mut payload = [0; PAYLOAD_BYTES_MAX];
        let header = command.encode(&mut payload);
        self.ring.push_command(token.encode(), command.kind().uapi(), header, &payload)?;
        self.last = Some(command.kind());
        Ok(())
    }

    /// What the last completed command wrote.
    pub fn reply(&self) -> Reply {
        let payload = self.ring.payload();
        self.last.map_or(Reply::Nothing, |kind| kind.decode(&payload))
    }

    /// See [`ControlRing::reap`].
    pub fn reap(&mut self) -> Option<Completion> {
        self.ring.reap()
    }

    /// See [`ControlRing::push_poll`].
    pub fn push_poll(&mut self, fd: BorrowedFd<'_>, user_data: u64) -> Result<(), SqFull> {
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
