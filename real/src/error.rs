//! How a failure reaches the user: what was attempted, what the system answered, what to do next.

use std::fmt;

use blkproof_engine::cause::{Cause, Problem, Step};
use blkproof_engine::uapi::Errno;

/// A failure of a command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error {
    attempted: String,
    answered: String,
    advice: Option<String>,
    class: Class,
}

/// The class of a failure: its exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// The command was understood and failed.
    Failed,
    /// The worker was killed by this signal.
    Killed(u8),
    /// Not a sensible command.
    Usage,
}

/// The result of a command.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// A failure of `attempted`, which the system answered with `answered`.
    pub fn new(attempted: impl Into<String>, answered: impl fmt::Display) -> Self {
        Self {
            attempted: attempted.into(),
            answered: answered.to_string(),
            advice: None,
            class: Class::Failed,
        }
    }

    /// A failure whose unwinding got stuck at `step`.
    pub fn stuck(cause: Cause, step: Step) -> Self {
        let stuck = format!("{}; the device is left behind", cause.problem);
        if step == cause.step {
            Self::new(step.to_string(), stuck)
        } else {
            Self::new(
                cause.to_string(),
                format!("and then {step} did not finish; the device is left behind"),
            )
        }
    }

    /// With what to do next.
    #[must_use]
    pub fn advice(mut self, advice: impl Into<String>) -> Self {
        self.advice = Some(advice.into());
        self
    }

    /// Of another class.
    #[must_use]
    pub const fn class(mut self, class: Class) -> Self {
        self.class = class;
        self
    }

    /// The exit code: 1 failed, 2 not a sensible command (the argument parser's too), 128 + signal when the worker was killed.
    pub const fn exit_code(&self) -> u8 {
        match self.class {
            Class::Failed => 1,
            Class::Usage => 2,
            Class::Killed(signal) => 128_u8.wrapping_add(signal),
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.attempted, self.answered)?;
        if let Some(advice) = &self.advice {
            write!(f, "\n  try: {advice}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Error {}

/// What was attempted, for a `Result` of the standard library.
pub trait Attempt<T> {
    /// Names the attempt.
    fn attempting(self, what: impl FnOnce() -> String) -> Result<T>;
}

impl<T, E: fmt::Display> Attempt<T> for std::result::Result<T, E> {
    fn attempting(self, what: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|error| Error::new(what(), error))
    }
}

impl From<Cause> for Error {
    fn from(cause: Cause) -> Self {
        let error = Self::new(cause.step.to_string(), cause.problem);
        match advice(cause) {
            Some(advice) => error.advice(advice),
            None => error,
        }
    }
}

/// What to do about a cause, where that is known.
fn advice(cause: Cause) -> Option<&'static str> {
    let errno = match cause.problem {
        Problem::Errno(errno) => errno,
        Problem::Unsupported => {
            return Some(
                "`blkproof features` shows what this kernel's driver supports; Linux 6.12 or later is needed",
            );
        }
        Problem::NoRecovery => {
            return Some(
                "a device that is to survive its worker is added with --recovery; this one only `blkproof del` helps",
            );
        }
        Problem::Dead => return Some("`blkproof del`, then add it again"),
        Problem::Served => {
            return Some(
                "a device that is served needs no recovery; `blkproof list` names its worker, `blkproof dump` says what that waits for",
            );
        }
        Problem::Foreign => {
            return Some(
                "`blkproof list` shows what has this number; the device that was added here is gone",
            );
        }
        Problem::Unserved => {
            return Some("`blkproof recover` gives it one, if it was added with --recovery");
        }
        Problem::NoQuiesce | Problem::Batched => {
            return Some(
                "with --recovery the worker can be killed instead, and then `blkproof recover`: with reissue no request fails of it",
            );
        }
        Problem::NoResize => {
            return Some(
                "it needs Linux 7.3, or Linux 6.18 and a device added there with --recovery; else `blkproof del`, then add it again",
            );
        }
        Problem::NoTryStop => {
            return Some(
                "make sure by yourself that nobody uses it (fuser -v, findmnt), then `blkproof del` without --if-unused",
            );
        }
        Problem::InUse
        | Problem::BadSize
        | Problem::Busy
        | Problem::Deadline
        | Problem::WorkerExited(_)
        | Problem::LinkClosed
        | Problem::Stopped
        | Problem::Protocol => return None,
    };
    match (cause.step, errno) {
        (Step::ControlRing, Errno::ENOENT) => Some(NO_DRIVER),
        (Step::ControlRing | Step::WorkerRing | Step::QueueRing(_), Errno::EPERM) => {
            Some(NO_IO_URING)
        }
        (Step::ControlRing | Step::WorkerRing | Step::QueueRing(_), Errno::ENOSYS) => {
            Some("this kernel was built without io_uring; use one that has it")
        }
        (Step::QueueRing(_), Errno::EINVAL) => {
            Some("the rings need IORING_SETUP_DEFER_TASKRUN; use Linux 6.1 or later")
        }
        (Step::ControlRing | Step::OpenChar, Errno::EACCES) | (_, Errno::EPERM) => {
            Some(NO_PERMISSION)
        }
        (Step::AddDev, Errno::EEXIST) => Some(
            "`blkproof list` shows which device has this number; choose another one, or leave -n out",
        ),
        (Step::MapQueue(_), Errno::ENOMEM) => {
            Some("use a smaller --depth, fewer --queues or a smaller --buffer")
        }
        (Step::ShareMemory, Errno::ENOMEM | Errno::EFAULT) => {
            Some("is there as much memory (huge pages: /proc/meminfo) as the file is large?")
        }
        (Step::GetDevInfo | Step::StopDev | Step::DelDev, Errno::ENODEV) => {
            Some("`blkproof list` shows the devices that exist")
        }
        _ => None,
    }
}

/// The control device is missing.
pub const NO_DRIVER: &str = "load the driver: modprobe ublk_drv (part of Linux built with CONFIG_BLK_DEV_UBLK; blkproof is tested on 6.12 and later)";
/// The caller may not.
pub const NO_PERMISSION: &str = "run as root, or with the capability CAP_SYS_ADMIN";
/// `io_uring` is switched off.
pub const NO_IO_URING: &str = "allow io_uring: sysctl kernel.io_uring_disabled=0 (a container's seccomp filter may forbid it as well)";
