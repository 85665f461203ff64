//! A ring, and the entries that refer to no memory of ours but a timer's.

use std::marker::PhantomData;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use blkproof_engine::sys::{RingMode, RingSpec, SqFull};
use blkproof_engine::uapi::Errno;
use io_uring::squeue::EntryMarker;
use io_uring::types::{CancelBuilder, Fd, Timespec};
use io_uring::{IoUring, cqueue, opcode, squeue};

use super::errno;

/// A 64-byte submission queue entry.
pub type Entry64 = squeue::Entry;
/// A 128-byte submission queue entry.
pub type Entry128 = squeue::Entry128;

/// `IORING_ENTER_GETEVENTS`: also runs deferred task work and flushes the overflow list, whether or not we wait.
const ENTER_GETEVENTS: u32 = 1;

/// A completion as the kernel posted it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Completion {
    /// What the entry carried.
    pub user_data: u64,
    /// The result: non-negative, or a negative errno.
    pub res: i32,
    /// The provided buffer that it took.
    pub buffer: Option<u16>,
    /// Its command goes on (`IORING_CQE_F_MORE`).
    pub more: bool,
}

/// A ring of one thread.
pub struct PlainRing<S: EntryMarker> {
    ring: IoUring<S, cqueue::Entry>,
    /// One for each entry of the submission queue. The kernel reads a timer's when it takes the entry; by the time a slot comes
    /// round again that entry was taken, as there are no more entries than slots.
    timespecs: Box<[Timespec]>,
    next_timespec: usize,
    /// Neither `Send` nor `Sync`: a ring stays on the thread that made it (`IORING_SETUP_SINGLE_ISSUER`, and `sq_ready`).
    thread_bound: PhantomData<*const ()>,
}

impl<S: EntryMarker> PlainRing<S> {
    /// Creates a ring.
    ///
    /// # Errors
    /// What `io_uring_setup` or the mapping of its memory answered.
    pub fn new(spec: RingSpec) -> Result<Self, Errno> {
        let mut builder = IoUring::<S, cqueue::Entry>::builder();
        builder.dontfork();
        match spec.mode {
            RingMode::Control | RingMode::Default => {}
            RingMode::DeferTaskrun => {
                builder.setup_single_issuer().setup_defer_taskrun();
            }
        }
        let entries = spec.entries.next_power_of_two();
        let ring = builder.build(entries).map_err(|error| errno(&error))?;
        let timespecs = vec![Timespec::new(); entries as usize].into_boxed_slice();
        Ok(Self { ring, timespecs, next_timespec: 0, thread_bound: PhantomData })
    }

    /// Makes a table of `slots` registered buffers, all of them empty.
    ///
    /// # Errors
    /// What `io_uring_register` answered.
    pub fn make_slots(&self, slots: u16) -> Result<(), Errno> {
        let made = self.ring.submitter().register_buffers_sparse(u32::from(slots));
        made.map_err(|error| errno(&error))
    }

    /// Submits up to `submit` entries and waits for `wait` completions. The number of entries taken.
    ///
    /// # Errors
    /// What `io_uring_enter` answered.
    pub fn enter(&mut self, submit: u32, wait: u32) -> Result<u32, Errno> {
        // SAFETY: no argument is passed, so there is nothing but numbers here. Every entry in the queue was pushed under
        // the promise of `push`.
        let taken = unsafe {
            self.ring.submitter().enter::<libc::sigset_t>(submit, wait, ENTER_GETEVENTS, None)
        };
        taken.map(|taken| taken as u32).map_err(|error| errno(&error))
    }

    /// Registers a ring of buffers as group `group`.
    ///
    /// # Errors
    /// What `io_uring_register` answered.
    ///
    /// # Safety
    /// The ring's memory, and whatever buffers are ever put into it, must stay valid for ever, and nobody but the kernel may write a buffer while it is in the ring.
    pub(super) unsafe fn register_buffers(
        &self,
        (ring, entries): (u64, u16),
        group: u16,
    ) -> Result<(), Errno> {
        // SAFETY: the caller's promise.
        let made =
            unsafe { self.ring.submitter().register_buf_ring_with_flags(ring, entries, group, 0) };
        made.map_err(|error| errno(&error))
    }

    /// Registers a file: it stays open until the ring is freed.
    ///
    /// # Errors
    /// What `io_uring_register` answered.
    pub fn register_file(&self, file: impl AsFd) -> Result<(), Errno> {
        let files = [file.as_fd().as_raw_fd()];
        self.ring.submitter().register_files(&files).map_err(|error| errno(&error))
    }

    /// Entries that can still be pushed.
    pub fn sq_space(&self) -> u32 {
        self.ring.params().sq_entries() - self.sq_ready()
    }

    /// Entries pushed and not yet taken.
    pub fn sq_ready(&self) -> u32 {
        // SAFETY: at most one view of the submission queue exists at a time: this value is bound to one thread (not `Sync`), and every
        // method drops its view before it returns.
        unsafe { self.ring.submission_shared() }.len() as u32
    }

    /// Takes the oldest completion.
    pub fn reap(&mut self) -> Option<Completion> {
        let entry = self.ring.completion().next()?;
        let flags = entry.flags();
        Some(Completion {
            user_data: entry.user_data(),
            res: entry.result(),
            buffer: cqueue::buffer_select(flags),
            more: cqueue::more(flags),
        })
    }

    /// Queues an entry.
    ///
    /// # Safety
    /// Memory that the entry points to must stay valid, and be written by nobody else while the kernel may write it, until its
    /// completion was reaped, or for ever if that never happens.
    pub(super) unsafe fn push(&mut self, entry: Entry64, user_data: u64) -> Result<(), SqFull> {
        // SAFETY: the caller's promise.
        unsafe { self.push_wide(&S::from(entry.user_data(user_data))) }
    }

    /// Queues an entry of the ring's own width.
    ///
    /// # Safety
    /// As for [`PlainRing::push`].
    pub(super) unsafe fn push_wide(&mut self, entry: &S) -> Result<(), SqFull> {
        // SAFETY: the caller's promise.
        unsafe { self.ring.submission().push(entry) }.map_err(|_| SqFull)
    }

    /// Completes once when `fd` is readable or was closed at its other end.
    pub fn push_poll(&mut self, fd: BorrowedFd<'_>, user_data: u64) -> Result<(), SqFull> {
        let entry = opcode::PollAdd::new(Fd(fd.as_raw_fd()), libc::POLLIN as u32).build();
        // SAFETY: the entry points to no memory.
        unsafe { self.push(entry, user_data) }
    }

    /// Completes with `-ETIME` after `ms` milliseconds.
    pub fn push_timer(&mut self, ms: u32, user_data: u64) -> Result<(), SqFull> {
        let slot = self.next_timespec;
        let time = Timespec::new().sec(u64::from(ms / 1000)).nsec(ms % 1000 * 1_000_000);
        // Full: the slot may still belong to an entry that the kernel has not taken.
        if self.sq_space() == 0 {
            return Err(SqFull);
        }
        self.timespecs[slot] = time;
        let entry = opcode::Timeout::new(&raw const self.timespecs[slot]).build();
        self.next_timespec = (slot + 1) % self.timespecs.len();
        // SAFETY: the kernel reads the timespec when it takes the entry. Until then the slot is not written again (see the field), and the
        // boxed slice neither moves nor is freed before the ring, after whose end no entry is taken.
        unsafe { self.push(entry, user_data) }
    }

    /// Cancels the operation that was pushed with `target`.
    pub fn push_cancel(&mut self, target: u64, user_data: u64) -> Result<(), SqFull> {
        let entry = opcode::AsyncCancel2::new(CancelBuilder::user_data(target)).build();
        // SAFETY: the entry points to no memory.
        unsafe { self.push(entry, user_data) }
    }
}

impl<S: EntryMarker> std::fmt::Debug for PlainRing<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PlainRing").field("params", self.ring.params()).finish_non_exhaustive()
    }
}
