//! The doorbell of a mailbox: an eventfd, which a ring can watch.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::EventfdFlags;

use crate::mailbox::{Doorbell, Mailbox};

/// A mailbox between two threads that wait on rings.
pub type RingMailbox<M> = Mailbox<M, Bell>;

/// An eventfd: readable from the first ring until it is silenced.
#[derive(Debug)]
pub struct Bell(OwnedFd);

impl Bell {
    /// A silent doorbell.
    ///
    /// # Errors
    /// What `eventfd` answered.
    pub fn new() -> io::Result<Self> {
        Ok(Self(rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?))
    }
}

impl Doorbell for Bell {
    fn ring(&self) {
        // Fails only when the counter is at its maximum: then it rings already.
        let _ = rustix::io::write(&self.0, &1_u64.to_ne_bytes());
    }

    fn silence(&self) {
        // Fails only when it is silent already.
        let _ = rustix::io::read(&self.0, &mut [0_u8; 8][..]);
    }
}

impl AsFd for Bell {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
