//! The control ring: commands for `/dev/ublk-control`, one at a time.

use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::ptr::NonNull;

use blkproof_engine::control::PAYLOAD_BYTES_MAX;
use blkproof_engine::sys::{RingSpec, SqFull};
use blkproof_engine::uapi::{ControlOp, CtrlCmd, Errno};
use io_uring::opcode;
use io_uring::types::Fd;

use super::ring::{Completion, Entry64, Entry128, PlainRing};

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

    /// Queues a command. The kernel reads `payload`, with zeroes behind it, and writes the reply there: `header.len` bytes of either. Where
    /// that is, is ours to say: `header.addr` is not looked at.
    pub fn push_command(
        &mut self,
        user_data: u64,
        op: ControlOp,
        header: CtrlCmd,
        payload: &[u8],
    ) -> Result<(), SqFull> {
        assert!(self.in_flight.is_none(), "I10: one control command at a time");
        assert!(
            usize::from(header.len) <= PAYLOAD_BYTES_MAX,
            "I10: a command fits into its memory"
        );
        let mut bytes = [0; PAYLOAD_BYTES_MAX];
        bytes[..payload.len()].copy_from_slice(payload);
        // SAFETY: our own allocation, and no command is in flight.
        unsafe { self.payload.write_volatile(Payload(bytes)) }
        let addr =
            if header.len == 0 { 0 } else { self.payload.as_ptr().expose_provenance() as u64 };
        let mut cmd = [0; 80];
        cmd[..CtrlCmd::SIZE].copy_from_slice(&CtrlCmd { addr, ..header }.encode());
        let entry = opcode::UringCmd80::new(Fd(self.control.as_raw_fd()), op.ioctl())
            .cmd(cmd)
            .build()
            .user_data(user_data);
        // SAFETY: the only memory that the kernel reads or writes for the command is the payload (what REG_BUF names is pinned, and looked at by nobody but
        // clients and server), and no more of it than there is (asserted above). It is a heap
        // block of its own which is not touched here before the command's completion (`in_flight`), and which is leaked if that
        // never comes (`drop`).
        unsafe { self.ring.push_wide(&entry) }?;
        self.in_flight = Some(user_data);
        Ok(())
    }

    /// What the last completed command wrote.
    pub fn payload(&self) -> [u8; PAYLOAD_BYTES_MAX] {
        assert!(
            self.in_flight.is_none(),
            "I10: the payload belongs to the kernel while a command is in flight"
        );
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
    pub fn push_poll(&mut self, fd: BorrowedFd<'_>, user_data: u64) -> Result<(), SqFull> {
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

#[cfg(test)]
mod tests {
    use super::*;
    use blkproof_engine::sys::RingMode;
    use blkproof_engine::uapi::DevId;

    /// A ring whose control device takes any command, or none, and has nothing to say. `None` where io_uring is forbidden.
    fn ring() -> Option<ControlRing> {
        let null = std::fs::File::options().read(true).write(true).open("/dev/null");
        let spec = RingSpec { entries: 4, mode: RingMode::Control };
        match ControlRing::new(spec, null.expect("it opens").into()) {
            Ok(ring) => Some(ring),
            Err(errno) => {
                println!("skipped: this machine allows no io_uring ({errno})");
                None
            }
        }
    }

    const fn header(len: u16) -> CtrlCmd {
        let queue_id = CtrlCmd::NO_QUEUE;
        CtrlCmd { dev_id: DevId(0), queue_id, len, addr: 0, data: 0, dev_path_len: 0 }
    }

    #[test]
    fn a_payload_is_ours_again_once_its_command_completed() {
        let Some(mut ring) = ring() else { return };
        for (user_data, payload) in [(1, &b"a longer one"[..]), (2, &b"short"[..])] {
            let len = payload.len() as u16;
            ring.push_command(user_data, ControlOp::SetParams, header(len), payload).expect("room");
            ring.enter(1, 1).expect("submitted");
            assert_eq!(ring.reap().expect("a completion").user_data, user_data);
            let reply = ring.payload();
            let (head, rest) = reply.split_at(payload.len());
            assert_eq!(head, payload);
            assert!(rest.iter().all(|byte| *byte == 0), "nothing of the last command is left");
        }
    }

    #[test]
    #[should_panic(expected = "I10: a command fits into its memory")]
    fn a_command_is_not_given_more_memory_than_there_is() {
        let Some(mut ring) = ring() else { panic!("I10: a command fits into its memory") };
        let len = PAYLOAD_BYTES_MAX as u16 + 1;
        let _ = ring.push_command(1, ControlOp::GetDevInfo, header(len), &[]);
    }
}
