//! Descriptors handed to a process of ours as its standard input and output.
//!
//! So nothing else needs to be inheritable: every other descriptor stays close-on-exec in parent and child.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{Mode, OFlags};

/// Takes what was handed over, and puts `/dev/null` in its place.
///
/// # Errors
/// What the system answered.
pub fn take() -> io::Result<(OwnedFd, OwnedFd)> {
    let input = duplicate(io::stdin().as_fd())?;
    let output = duplicate(io::stdout().as_fd())?;
    let null = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
    rustix::stdio::dup2_stdin(&null)?;
    rustix::stdio::dup2_stdout(&null)?;
    Ok((input, output))
}

fn duplicate(fd: impl AsFd) -> io::Result<OwnedFd> {
    const FIRST_AFTER_STANDARD: i32 = 3;
    Ok(rustix::io::fcntl_dupfd_cloexec(fd, FIRST_AFTER_STANDARD)?)
}
