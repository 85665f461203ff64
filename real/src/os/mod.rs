//! Memory, rings and signals: all the `unsafe` code of this crate, behind safe functions.
//!
//! The rule that makes these functions safe: *memory that the kernel may touch is never given back.* Tag buffers, descriptor arrays
//! and the mem store are mapped once and stay mapped for the process's life; the payload of a control
//! command lives in its ring's own allocation, which is leaked if a command is still in flight when the ring is dropped.
#![allow(unsafe_code)]

mod batches;
mod control_ring;
mod memory;
mod queue_ring;
mod ring;
mod signals;

pub use control_ring::ControlRing;
pub use memory::{Descriptors, PAGE_BYTES, Store, TagBuffers};
pub use queue_ring::{Backend, QueueRing, QueueShape};
pub use ring::{Completion, Entry64, Entry128, PlainRing};
pub use signals::{block, signal_fd, signal_with_value};

use blkproof_engine::uapi::Errno;

/// The errno of an I/O error; one that did not come from the system is EIO.
pub fn errno(error: &std::io::Error) -> Errno {
    error.raw_os_error().map_or(Errno::EIO, |raw| Errno::from_result(-raw))
}
