//! The control ring: commands for `/dev/ublk-control`, one at a time.

use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::ptr::NonNull;

use blkproof_engine::sys::{RingSpec, SqFull};
use blkproof_engine::uapi::Errno;
use io_uring::opcode;
use io_uring::types::Fd;

use super::ring::{Completion, Entry64, Entry128, PlainRing};

/// Bytes of the largest payload that a command has.
pub const PAYLOAD_BYTES_MAX: usize = 256;

/// The memory that a command reads and writes.
#[repr(align(8))]
#[derive(Debug)]
struct Payload([u8; PAYLOAD_BYTES_MAX]);

/// A ring for control commands.
#[derive(Debug)]
pub struct ControlRing {
    ring: PlainRing<Entry128>,
    control: OwnedFd,
    /// From a `Box`. A plain pointer, because the kernel writes there while we own it.
    payload: NonNull<Payload>,
    /// The `user_data` of the command in flight; at most one (I10).
    in_flight: Option<u64>,
}

impl ControlRing {
    /// Creates the ring, for the open control device.
    ///
    /// # Errors
    /// What the system answered.
    pub fn new(spec: RingSpec, control: OwnedFd) -> Result<Self, Errno> {
        Ok(Self {
            ring: PlainRing::new(spec)?,
            control,
            payload: NonNull::from(Box::leak(Box::new(Payload([0; PAYLOAD_BYTES_MAX])))),
            in_flight: None,
        })
    }

    /// Queues a command. `encode` is given the payload's address, fills the payload, and returns the command's opcode and header.
    pub fn push_command(
        &mut self,
        user_data: u64,
        encode: impl FnOnce(u64, &mut [u8; PAYLOAD_BYTES_MAX]) -> (u32, [u8; 80]),
    ) -> Result<(), SqFull> {
        assert!(self.in_flight.is_none(), "I10: one control command at a time");
        let mut payload = [0; PAYLOAD_BYTES_MAX];
        let (cmd_op, header) = encode(self.payload.as_ptr().expose_provenance() as u64, &mut payload);
        // SAFETY: our own allocation, and no command is in flight.
        unsafe { self.payload.write_volatile(Payload(payload)) }
        let entry = opcode::UringCmd80::new(Fd(self.control.as_raw_fd()), cmd_op)
            .cmd(header)
            .build()
            .user_data(user_data);
        // SAFETY: the only address that a header holds is the payload's, in a heap block of its own which is not touched here
        // before the command's completion (`in_flight`), and which is leaked if that never comes (`drop`).
        unsafe { self.ring.push_wide(&entry) }?;
        self.in_flight = Some(user_data);
        Ok(())
    }

    /// What the last completed command wrote.
    pub fn payload(&self) -> [u8; PAYLOAD_BYTES_MAX] {
        assert!(self.in_flight.is_none(), "I10: the payload belongs to the kernel while a command is in flight");
        // SAFETY: our own allocation, initialised in `new`, and no command is in flight.
        unsafe { self.payload.read_volatile() }.0
    }

    /// Takes the oldest completion.
    pub fn reap(&mut self) -> Option<Completion> {
        let completion = self.ring.reap()?;
        if self.in_flight == Some(completion.user_data) {
            self.in_flight = None;
        }
        Some(completion)
    }

    /// See [`PlainRing::push_poll`].
    pub fn push_poll(&mut self, fd: RawFd, user_data: u64) -> Result<(), SqFull> {
        self.ring.push_poll(fd, user_data)
    }

    /// See [`PlainRing::push_timer`].
    pub fn push_timer(&mut self, ms: u32, user_data: u64) -> Result<(), SqFull> {
        self.ring.push_timer(ms, user_data)
    }

    /// See [`PlainRing::push_cancel`].
    pub fn push_cancel(&mut self, target: u64, user_data: u64) -> Result<(), SqFull> {
        self.ring.push_cancel(target, user_data)
    }

    /// See [`PlainRing::enter`].
    pub fn enter(&mut self, submit: u32, wait: u32) -> Result<u32, Errno> {
        self.ring.enter(submit, wait)
    }

    /// See [`PlainRing::sq_space`].
    pub fn sq_space(&self) -> u32 {
        self.ring.sq_space()
    }

    /// See [`PlainRing::sq_ready`].
    pub fn sq_ready(&self) -> u32 {
        self.ring.sq_ready()
    }
}

impl Drop for ControlRing {
    fn drop(&mut self) {
        if self.in_flight.is_none() {
            // SAFETY: it came from a box, is freed once, and with no command in flight the kernel does not know its address any more.
            drop(unsafe { Box::from_raw(self.payload.as_ptr()) });
        }
    }
}

// Both widths exist: control commands are 128 bytes, everything else fits into 64.
const _: () = assert!(size_of::<Entry128>() == 2 * size_of::<Entry64>());
