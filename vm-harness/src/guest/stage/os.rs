//! Rings and memory of the actors: all the `unsafe` code of the harness.
//!
//! Actors may do what no sound server would do, so nothing here relies on their good behaviour: *memory that the kernel may write
//! is never given back* (tag buffers, payloads), and what others write is read as volatile bytes.
#![allow(unsafe_code)]

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::os::unix::net::UnixStream;
use std::ptr::{self, NonNull};

use blkproof_engine::control::PAYLOAD_BYTES_MAX;
use blkproof_engine::uapi::{
    AutoBufReg, BatchIo, CtrlCmd, IoCmd, IoDesc, IoOp, QueueId, desc_map_bytes, desc_map_offset,
};
use blkproof_sim::script::{RingAsked, RingKind, ZoneAct};
use io_uring::squeue::EntryMarker;
use io_uring::types::{CancelBuilder, Fd, Fixed};
use io_uring::{IoUring, cqueue, opcode, squeue};
use rustix::mm::{MapFlags, MprotectFlags, ProtFlags};

use super::SECTOR;

const ENTER_GETEVENTS: u32 = 1;
const ENTER_SQ_WAKEUP: u32 = 2;
/// After that the kernel's thread that submits goes to sleep.
const POLLER_IDLE_MS: u32 = 1;
/// More than a script submits at once.
const RING_ENTRIES: u32 = 64;

/// The `user_data` of entries whose completion is of no interest.
pub(super) const UNHEARD: u64 = 0;

/// A ring: one thread submits, and one (another) reads completions.
pub(super) struct Ring<S: EntryMarker>(IoUring<S, cqueue::Entry>, u32);

/// For I/O commands.
pub(super) type IoRing = Ring<squeue::Entry>;

impl<S: EntryMarker> Ring<S> {
    /// With default task work.
    pub(super) fn new() -> io::Result<Self> {
        Self::asked(RingAsked { kind: RingKind::Default, cq: None, all: false })
    }

    /// As a script asks for it.
    pub(super) fn asked(RingAsked { kind, cq, all }: RingAsked) -> io::Result<Self> {
        let mut builder = IoUring::<S, cqueue::Entry>::builder();
        let mut wakes = 0;
        match kind {
            RingKind::Default => {}
            RingKind::Coop => {
                builder.setup_coop_taskrun();
            }
            RingKind::Defer => {
                builder.setup_single_issuer().setup_defer_taskrun();
            }
            RingKind::Sqpoll => {
                builder.setup_sqpoll(POLLER_IDLE_MS);
                wakes = ENTER_SQ_WAKEUP;
            }
        }
        if all {
            builder.setup_submit_all();
        }
        if let Some(cq) = cq {
            builder.setup_cqsize(u32::from(cq));
        }
        builder.build(cq.map_or(RING_ENTRIES, u32::from)).map(|ring| Self(ring, wakes))
    }

    /// Submits one entry, without waiting and without asking for completions.
    ///
    /// # Safety
    /// Only one thread submits. Memory that the entry names is never given back.
    unsafe fn submit(&self, entry: &S) -> io::Result<()> {
        // SAFETY: as the caller promises.
        unsafe { self.push(entry) }?;
        self.take(1).map(drop)
    }

    /// Puts an entry into the submission queue.
    ///
    /// # Safety
    /// As for `submit`.
    unsafe fn push(&self, entry: &S) -> io::Result<()> {
        // SAFETY: no other view of the submission queue exists: only one thread submits, and this view ends here.
        unsafe {
            let mut queue = self.0.submission_shared();
            queue.push(entry).map_err(|_| io::Error::from_raw_os_error(libc_busy()))
        }
    }

    /// Enters for so many entries, without waiting and without asking for completions. How many were taken.
    fn take(&self, entries: u32) -> io::Result<usize> {
        // SAFETY: no argument is passed.
        unsafe { self.0.submitter().enter::<()>(entries, 0, self.1, None) }
    }

    /// Enters the ring for completions without waiting: deferred task work runs.
    pub(super) fn enter(&self) -> io::Result<()> {
        // SAFETY: no argument is passed.
        unsafe { self.0.submitter().enter::<()>(0, 0, ENTER_GETEVENTS, None) }.map(drop)
    }

    /// Waits for a completion.
    pub(super) fn wait(&self) -> io::Result<()> {
        // SAFETY: no argument is passed.
        unsafe { self.0.submitter().enter::<()>(0, 1, ENTER_GETEVENTS, None) }.map(drop)
    }

    /// Takes what has completed, as `user_data`, result and the provided buffer that was taken.
    ///
    /// # Safety
    /// Only one thread reads completions.
    unsafe fn completions(&self) -> Vec<(u64, i32, Option<u16>)> {
        // SAFETY: no other view of the completion queue exists: only one thread reads it, and this view ends here.
        let queue = unsafe { self.0.completion_shared() };
        queue
            .map(|entry| (entry.user_data(), entry.result(), cqueue::buffer_select(entry.flags())))
            .collect()
    }
}

/// The end of a ring that one thread submits at.
pub(super) struct Submitter<S: EntryMarker> {
    ring: std::sync::Arc<Ring<S>>,
    /// What is submitted stays in the queue.
    holds: bool,
    /// The character device is registered, and used in place of the descriptor.
    pub(super) fixed: bool,
}

/// The end of a ring that one thread reads at.
pub(super) struct Reader<S: EntryMarker>(std::sync::Arc<Ring<S>>);

/// Both ends of a ring.
pub(super) fn ends<S: EntryMarker>(ring: Ring<S>) -> (Submitter<S>, Reader<S>) {
    let ring = std::sync::Arc::new(ring);
    (Submitter { ring: ring.clone(), holds: false, fixed: false }, Reader(ring))
}

impl<S: EntryMarker> Reader<S> {
    /// Takes what has completed, as `user_data`, result and the provided buffer that was taken.
    pub(super) fn completions(&mut self) -> Vec<(u64, i32, Option<u16>)> {
        // SAFETY: there is one reader for each ring, and it is borrowed exclusively.
        unsafe { self.0.completions() }
    }
}

impl<S: EntryMarker> Submitter<S> {
    /// Submits one entry, or leaves it in the queue.
    ///
    /// # Safety
    /// As for [`Ring::submit`].
    unsafe fn submit(&self, entry: &S) -> io::Result<()> {
        // SAFETY: as the caller promises.
        unsafe { if self.holds { self.ring.push(entry) } else { self.ring.submit(entry) } }
    }

    /// What is submitted stays in the queue.
    pub(super) fn hold(&mut self) {
        self.holds = true;
    }

    /// Enters for so many entries of the queue. How many were taken.
    pub(super) fn take(&mut self, entries: u32) -> io::Result<usize> {
        self.holds = false;
        self.ring.take(entries)
    }
}

impl Submitter<squeue::Entry> {
    /// Registers the character device, or takes it out again.
    pub(super) fn fix(&mut self, device: Option<RawFd>) -> io::Result<()> {
        let submitter = self.ring.0.submitter();
        match device {
            Some(device) => submitter.register_files(&[device])?,
            None => submitter.unregister_files()?,
        }
        self.fixed = device.is_some();
        Ok(())
    }

    /// A command for the character device.
    fn command(&self, device: RawFd, code: u32) -> opcode::UringCmd16 {
        if self.fixed {
            opcode::UringCmd16::new(Fixed(0), code)
        } else {
            opcode::UringCmd16::new(Fd(device), code)
        }
    }

    /// An entry that is none.
    pub(super) fn junk(&mut self, user_data: u64) -> io::Result<()> {
        let mut entry = opcode::Nop::new().build().user_data(user_data);
        const { assert!(size_of::<squeue::Entry>() == 64, "the kernel's layout, and nothing else") };
        // SAFETY: an entry is `repr(C)` around the kernel's 64 bytes; the first one is the opcode, and 255 is none.
        unsafe { ptr::from_mut(&mut entry).cast::<u8>().write(u8::MAX) };
        // SAFETY: there is one submitter for each ring, and it is borrowed exclusively. The entry means nothing.
        unsafe { self.submit(&entry) }
    }

    /// An I/O command, for the character device.
    pub(super) fn io(
        &mut self,
        device: RawFd,
        code: u32,
        command: IoCmd,
        auto: Option<AutoBufReg>,
        user_data: u64,
    ) -> io::Result<()> {
        let entry = self
            .command(device, code)
            .cmd(command.encode())
            .addr(auto.map(AutoBufReg::encode))
            .build()
            .user_data(user_data);
        // SAFETY: there is one submitter for each ring, and it is borrowed exclusively. The address that the command names is that of
        // `Buffers`, which stay for ever.
        unsafe { self.submit(&entry) }
    }

    /// As much of a control command as fits into an entry of 64 bytes. The address does not.
    pub(super) fn cut_short(
        &mut self,
        device: RawFd,
        code: u32,
        header: CtrlCmd,
        user_data: u64,
    ) -> io::Result<()> {
        let mut bytes = [0; 16];
        bytes.copy_from_slice(&CtrlCmd { addr: 0, ..header }.encode()[..16]);
        let entry =
            opcode::UringCmd16::new(Fd(device), code).cmd(bytes).build().user_data(user_data);
        // SAFETY: there is one submitter for each ring, and it is borrowed exclusively. The entry names no memory.
        unsafe { self.submit(&entry) }
    }

    /// PREP_IO_CMDS or COMMIT_IO_CMDS, with elements in memory that stays for ever.
    pub(super) fn batch(
        &mut self,
        device: RawFd,
        op: IoOp,
        command: BatchIo,
        elements: Vec<u8>,
        user_data: u64,
    ) -> io::Result<()> {
        assert!(
            elements.len() >= usize::from(command.elements) * usize::from(command.element_bytes),
            "as many elements as the command says"
        );
        let addr = Box::leak(elements.into_boxed_slice()).as_ptr().expose_provenance() as u64;
        let entry = self
            .command(device, op.ioctl())
            .cmd(command.encode())
            .addr(Some(addr))
            .build()
            .user_data(user_data);
        // SAFETY: there is one submitter for each ring, and it is borrowed exclusively. The elements were leaked; addresses in them are
        // those of `Buffers`, which stay for ever.
        unsafe { self.submit(&entry) }
    }

    /// FETCH_IO_CMDS, multishot, with buffers of group 0.
    pub(super) fn fetch_tags(
        &mut self,
        device: RawFd,
        command: BatchIo,
        user_data: u64,
    ) -> io::Result<()> {
        const URING_CMD_FLAGS: usize = 28;
        const MULTISHOT: u32 = 2;
        let mut entry = self
            .command(device, IoOp::FetchIoCmds.ioctl())
            .cmd(command.encode())
            .build()
            .flags(squeue::Flags::BUFFER_SELECT)
            .user_data(user_data);
        const { assert!(size_of::<squeue::Entry>() == 64, "the kernel's layout, and nothing else") };
        // SAFETY: an entry is `repr(C)` around the kernel's 64 bytes, and the field of 4 bytes at this offset is aligned.
        unsafe {
            ptr::from_mut(&mut entry).byte_add(URING_CMD_FLAGS).cast::<u32>().write(MULTISHOT);
        };
        // SAFETY: there is one submitter for each ring, and it is borrowed exclusively. What the kernel writes are provided buffers.
        unsafe { self.submit(&entry) }
    }

    /// Gives a buffer to group 0, known by its number.
    pub(super) fn provide(&mut self, buffers: &Buffers, number: u16) -> io::Result<()> {
        let at = buffers.at(usize::from(number));
        let len = buffers.each as i32;
        let entry = opcode::ProvideBuffers::new(at, len, 1, 0, number).build();
        let entry = entry.flags(squeue::Flags::SKIP_SUCCESS).user_data(UNHEARD);
        // SAFETY: there is one submitter for each ring, and it is borrowed exclusively. Buffers stay for ever.
        unsafe { self.submit(&entry) }
    }

    /// An empty table of registered buffers.
    pub(super) fn table(&self, slots: u32) -> io::Result<()> {
        self.ring.0.submitter().register_buffers_sparse(slots)
    }

    /// Moves data between the beginning of a file and a part of a registered buffer, whose pages a driver put there.
    pub(super) fn fixed(
        &mut self,
        file: RawFd,
        into_buffer: bool,
        index: u16,
        (offset, len): (u64, u32),
        step: u16,
    ) -> io::Result<()> {
        // Not an address: where in the registered buffer to begin.
        let at = ptr::without_provenance_mut(offset as usize);
        let entry = if into_buffer {
            opcode::ReadFixed::new(Fd(file), at, len, index).build()
        } else {
            opcode::WriteFixed::new(Fd(file), at, len, index).build()
        };
        // SAFETY: there is one submitter for each ring, and it is borrowed exclusively. Nothing but drivers fills the table, so the entry
        // names no memory of this process.
        unsafe { self.submit(&entry.user_data(u64::from(step))) }
    }

    /// Runs deferred task work.
    pub(super) fn enter(&mut self) -> io::Result<()> {
        self.ring.enter()
    }
}

impl Submitter<squeue::Entry128> {
    /// A control command.
    pub(super) fn control(
        &mut self,
        device: RawFd,
        code: u32,
        header: CtrlCmd,
        memory: Memory,
        user_data: u64,
    ) -> io::Result<()> {
        assert!(usize::from(header.len) <= PAYLOAD_BYTES_MAX, "a command fits into its memory");
        let addr = match memory {
            Memory::Payload(payload) => payload.address(),
            Memory::None => 0,
            Memory::Unmapped => UNMAPPED,
        };
        let mut bytes = [0; 80];
        bytes[..CtrlCmd::SIZE].copy_from_slice(&CtrlCmd { addr, ..header }.encode());
        let entry =
            opcode::UringCmd80::new(Fd(device), code).cmd(bytes).build().user_data(user_data);
        // SAFETY: there is one submitter for each ring, and it is borrowed exclusively. The command names no memory but a payload, as
        // much of it as there is, and pages to be pinned; payloads and those pages stay for ever.
        unsafe { self.submit(&entry) }
    }

    /// Cancels a command.
    pub(super) fn cancel(&mut self, target: u64) -> io::Result<()> {
        let entry = opcode::AsyncCancel2::new(CancelBuilder::user_data(target)).build();
        // SAFETY: there is one submitter for each ring, and it is borrowed exclusively. The entry names no memory.
        unsafe { self.submit(&entry.user_data(UNHEARD).into()) }
    }

    /// Waits for a completion.
    pub(super) fn wait(&mut self) -> io::Result<()> {
        self.ring.wait()
    }
}

/// BLKDISCARD of a range, from where on and how long.
pub(super) fn discard(disk: impl AsFd, (offset, len): (u64, u64)) -> io::Result<()> {
    const BLKDISCARD: rustix::ioctl::Opcode = rustix::ioctl::opcode::none(0x12, 119);
    // SAFETY: what this request reads are two numbers of 64 bits.
    unsafe {
        let range = rustix::ioctl::Setter::<BLKDISCARD, [u64; 2]>::new([offset, len]);
        rustix::ioctl::ioctl(disk, range)?;
    }
    Ok(())
}

/// BLKOPENZONE and so on, of sectors from a first one on.
pub(super) fn manage_zones(
    disk: impl AsFd,
    act: ZoneAct,
    (sector, sectors): (u64, u64),
) -> io::Result<()> {
    use rustix::ioctl::{Opcode, Setter, ioctl, opcode};
    const RESET: Opcode = opcode::write::<[u64; 2]>(0x12, 131);
    const OPEN: Opcode = opcode::write::<[u64; 2]>(0x12, 134);
    const CLOSE: Opcode = opcode::write::<[u64; 2]>(0x12, 135);
    const FINISH: Opcode = opcode::write::<[u64; 2]>(0x12, 136);
    let range = [sector, sectors];
    // SAFETY: what each of these reads is `struct blk_zone_range`, two numbers of 64 bits.
    unsafe {
        match act {
            ZoneAct::Open => ioctl(disk, Setter::<OPEN, [u64; 2]>::new(range))?,
            ZoneAct::Close => ioctl(disk, Setter::<CLOSE, [u64; 2]>::new(range))?,
            ZoneAct::Finish => ioctl(disk, Setter::<FINISH, [u64; 2]>::new(range))?,
            ZoneAct::Reset => ioctl(disk, Setter::<RESET, [u64; 2]>::new(range))?,
        }
    }
    Ok(())
}

/// Bytes of `struct blk_zone`, and of the header before them that BLKREPORTZONE wants.
const ZONE_RECORD: usize = 64;
const ZONE_REPORT: usize = 16;
/// More zones than a script's disk has.
const ZONES_TOLD_MAX: usize = 64;

/// BLKREPORTZONE of so many zones from the first one on. How many were told of.
pub(super) fn report_zones(disk: impl AsFd, zones: u32) -> io::Result<u32> {
    const WORDS: usize = (ZONE_REPORT + ZONES_TOLD_MAX * ZONE_RECORD) / 8;
    type Report = [u64; WORDS];
    const BLKREPORTZONE: rustix::ioctl::Opcode =
        rustix::ioctl::opcode::read_write::<[u64; 2]>(0x12, 130);
    let mut report: Report = [0; WORDS];
    // sector; nr_zones, flags.
    report[1] = u64::from(zones.min(ZONES_TOLD_MAX as u32));
    // SAFETY: what this request reads is `struct blk_zone_report`, and it writes at most as many records behind it as that says.
    unsafe {
        rustix::ioctl::ioctl(
            disk,
            rustix::ioctl::Updater::<BLKREPORTZONE, Report>::new(&mut report),
        )?;
    }
    Ok(report[1] as u32)
}

/// A sector of `struct blk_zone`: zones that want to be written in order, and zeroes. All are empty but the first, of which so many sectors are written.
pub(super) fn zone_records((first, count): (u16, u16), of: u16, pointer: u16) -> [u8; SECTOR] {
    const SEQWRITE_REQ: u8 = 2;
    const EMPTY: u8 = 1;
    const IMPLICIT_OPEN: u8 = 2;
    const FULL: u8 = 14;
    let mut records = [0; SECTOR];
    for (record, zone) in records.chunks_exact_mut(ZONE_RECORD).zip(first..first + count) {
        let (start, len) = (u64::from(zone) * u64::from(of), u64::from(of));
        // start, len, wp; type, cond; capacity.
        record[..8].copy_from_slice(&start.to_ne_bytes());
        record[8..16].copy_from_slice(&len.to_ne_bytes());
        let written = if zone == first { pointer } else { 0 };
        record[16..24].copy_from_slice(&(start + u64::from(written)).to_ne_bytes());
        let condition = match written {
            0 => EMPTY,
            written if written < of => IMPLICIT_OPEN,
            _ => FULL,
        };
        (record[24], record[25]) = (SEQWRITE_REQ, condition);
        record[32..40].copy_from_slice(&len.to_ne_bytes());
    }
    records
}

const fn libc_busy() -> i32 {
    rustix::io::Errno::BUSY.raw_os_error()
}

/// Below the lowest address that the kernel maps anything at.
const UNMAPPED: u64 = 8;

/// What a control command names as its memory.
#[derive(Clone, Copy)]
pub(super) enum Memory {
    Payload(Payload),
    /// Nothing.
    None,
    /// An address where nothing is mapped.
    Unmapped,
}

/// The memory that a control command reads and writes. It stays for ever.
#[derive(Clone, Copy)]
pub(super) struct Payload(NonNull<[u8; PAYLOAD_BYTES_MAX]>);

// SAFETY: a plain address; what is there is read as volatile bytes.
unsafe impl Send for Payload {}

impl Payload {
    pub(super) fn new(bytes: [u8; PAYLOAD_BYTES_MAX]) -> Self {
        Self(NonNull::from(Box::leak(Box::new(bytes))))
    }

    /// Memory that can only be read.
    pub(super) fn read_only(bytes: [u8; PAYLOAD_BYTES_MAX]) -> io::Result<Self> {
        // SAFETY: a new private mapping at an address of the kernel's choice touches nothing that exists.
        let base = unsafe {
            rustix::mm::mmap_anonymous(
                ptr::null_mut(),
                PAYLOAD_BYTES_MAX,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::PRIVATE,
            )
        }?;
        let place = NonNull::new(base.cast()).ok_or_else(|| io::Error::other("mapped at 0"))?;
        let payload = Self(place);
        // SAFETY: the new mapping is larger than the bytes, aligned to a page, and nobody else knows of it.
        unsafe { payload.0.as_ptr().write_volatile(bytes) };
        // SAFETY: nothing but this mapping, into which no reference exists.
        unsafe { rustix::mm::mprotect(base, PAYLOAD_BYTES_MAX, MprotectFlags::READ) }?;
        Ok(payload)
    }

    fn address(&self) -> u64 {
        self.0.as_ptr().expose_provenance() as u64
    }

    /// What is there.
    pub(super) fn read(&self) -> [u8; PAYLOAD_BYTES_MAX] {
        // SAFETY: a leaked allocation of this size; the kernel may write it, hence volatile.
        unsafe { self.0.as_ptr().read_volatile() }
    }
}

/// Equal buffers, one for each tag or sector, that stay for ever.
pub(super) struct Buffers {
    base: NonNull<u8>,
    each: usize,
    count: usize,
}

// SAFETY: a plain address; what is there is read and written as volatile bytes.
unsafe impl Send for Buffers {}
// SAFETY: as above.
unsafe impl Sync for Buffers {}

impl Buffers {
    pub(super) fn new(count: usize, each: usize) -> io::Result<Self> {
        // SAFETY: a new private mapping at an address of the kernel's choice touches nothing that exists.
        let base = unsafe {
            rustix::mm::mmap_anonymous(
                ptr::null_mut(),
                count * each,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::PRIVATE,
            )
        }?;
        let base = NonNull::new(base.cast()).ok_or_else(|| io::Error::other("mapped at 0"))?;
        Ok(Self { base, each, count })
    }

    /// The beginning of a file, that others may have mapped too.
    pub(super) fn of_file(
        file: impl AsFd,
        count: usize,
        each: usize,
        access: ProtFlags,
    ) -> io::Result<Self> {
        // SAFETY: a new mapping at an address of the kernel's choice touches nothing that exists.
        let base = unsafe {
            rustix::mm::mmap(ptr::null_mut(), count * each, access, MapFlags::SHARED, file, 0)
        }?;
        let base = NonNull::new(base.cast()).ok_or_else(|| io::Error::other("mapped at 0"))?;
        Ok(Self { base, each, count })
    }

    /// Reads from a file straight into buffers, the first and how many. Bytes.
    pub(super) fn read_into(
        &self,
        into: (usize, usize),
        file: impl AsFd,
        offset: u64,
    ) -> io::Result<usize> {
        self.transfer(libc::SYS_preadv2, into, file, offset, 0)
    }

    /// Writes buffers straight to a file, the first and how many; `durable`: with RWF_DSYNC. Bytes.
    pub(super) fn write_from(
        &self,
        from: (usize, usize),
        file: impl AsFd,
        offset: u64,
        durable: bool,
    ) -> io::Result<usize> {
        let flags = if durable { libc::RWF_DSYNC } else { 0 };
        self.transfer(libc::SYS_pwritev2, from, file, offset, flags)
    }

    fn transfer(
        &self,
        call: libc::c_long,
        (first, count): (usize, usize),
        file: impl AsFd,
        offset: u64,
        flags: libc::c_int,
    ) -> io::Result<usize> {
        assert!(first + count <= self.count, "buffers that there are");
        let memory = libc::iovec { iov_base: self.at(first).cast(), iov_len: count * self.each };
        let (file, memory) = (file.as_fd().as_raw_fd(), ptr::from_ref(&memory));
        // SAFETY: the memory is inside the mapping, by the assertion; it is only ever read and written as volatile bytes. The position's upper half
        // does not count where a word has 64 bits.
        let moved = unsafe { libc::syscall(call, file, memory, 1, offset, 0, flags) };
        usize::try_from(moved).map_err(|_| io::Error::last_os_error())
    }

    fn at(&self, index: usize) -> *mut u8 {
        assert!(index < self.count, "a buffer that there is");
        // SAFETY: inside the mapping, by the assertion.
        unsafe { self.base.as_ptr().add(index * self.each) }
    }

    /// A buffer's address.
    pub(super) fn address(&self, index: usize) -> u64 {
        self.at(index).expose_provenance() as u64
    }

    /// Fills a buffer with a byte.
    pub(super) fn fill(&self, index: usize, byte: u8) {
        let start = self.at(index);
        for offset in 0..self.each {
            // SAFETY: inside the buffer, which is inside the mapping.
            unsafe { start.add(offset).write_volatile(byte) }
        }
    }

    /// The first `len` bytes of a buffer.
    pub(super) fn bytes(&self, index: usize, len: usize) -> Vec<u8> {
        let start = self.at(index);
        // SAFETY: inside the buffer, by `min`, which is inside the mapping.
        (0..len.min(self.each)).map(|at| unsafe { start.add(at).read_volatile() }).collect()
    }

    /// The byte that the first `len` of a buffer are.
    pub(super) fn uniform(&self, index: usize, len: usize) -> Option<u8> {
        let start = self.at(index);
        // SAFETY: inside the buffer, by `min`, which is inside the mapping.
        let byte = |offset: usize| unsafe { start.add(offset).read_volatile() };
        let first = byte(0);
        (0..len.min(self.each)).all(|offset| byte(offset) == first).then_some(first)
    }
}

/// A child of this process's parent that has all that this process has, and sleeps for ever. Before that it maps the descriptors of a
/// queue of that depth, if it is told to. Its process id, and what mapping came to.
pub(super) fn fork_idle(map: Option<(&File, u16, u16)>) -> io::Result<(i32, i32)> {
    let map = map.map(|(device, queue, depth)| {
        let bytes = desc_map_bytes(depth.max(1), IoDesc::SIZE as u16) as usize;
        (device.as_raw_fd(), bytes, desc_map_offset(QueueId(queue), IoDesc::SIZE as u16))
    });
    let (mut hears, tells) = UnixStream::pair()?;
    let flags = i64::from(libc::CLONE_PARENT | libc::SIGCHLD);
    // SAFETY: the new process shares no memory with this one. Its one thread goes on here with a copy of the stack, and makes system
    // calls and nothing else: no lock, no allocation, no return.
    let pid = unsafe { libc::syscall(libc::SYS_clone, flags, 0, 0, 0, 0) };
    if pid == 0 {
        let mut result = 0_i32;
        // SAFETY: a new mapping at an address of the kernel's choice, and system calls with memory that is there.
        unsafe {
            if let Some((device, bytes, offset)) = map {
                let (read, shared) = (libc::PROT_READ, libc::MAP_SHARED);
                if libc::mmap(ptr::null_mut(), bytes, read, shared, device, offset as i64)
                    == libc::MAP_FAILED
                {
                    result = -*libc::__errno_location();
                }
            }
            libc::write(tells.as_raw_fd(), ptr::from_ref(&result).cast(), size_of::<i32>());
            loop {
                libc::poll(ptr::null_mut(), 0, -1);
            }
        }
    }
    if pid < 0 {
        return Err(io::Error::last_os_error());
    }
    let mut result = [0; size_of::<i32>()];
    hears.read_exact(&mut result)?;
    Ok((pid as i32, i32::from_ne_bytes(result)))
}

/// The mapped descriptors of a queue.
pub(super) struct Descriptors {
    base: NonNull<u8>,
    bytes: usize,
}

// SAFETY: a plain address; what is there is read as volatile bytes.
unsafe impl Send for Descriptors {}

impl Descriptors {
    pub(super) fn map(device: impl AsFd, queue: u16, depth: u16) -> io::Result<Self> {
        let bytes = desc_map_bytes(depth.max(1), IoDesc::SIZE as u16) as usize;
        // SAFETY: a new mapping at an address of the kernel's choice.
        let base = unsafe {
            rustix::mm::mmap(
                ptr::null_mut(),
                bytes,
                ProtFlags::READ,
                MapFlags::SHARED | MapFlags::POPULATE,
                device,
                desc_map_offset(QueueId(queue), IoDesc::SIZE as u16),
            )
        }?;
        let base = NonNull::new(base.cast()).ok_or_else(|| io::Error::other("mapped at 0"))?;
        Ok(Self { base, bytes })
    }

    /// The descriptor of a tag.
    pub(super) fn read(&self, tag: u16) -> Option<IoDesc> {
        let start = usize::from(tag) * IoDesc::SIZE;
        if start + IoDesc::SIZE > self.bytes {
            return None;
        }
        let mut bytes = [0; IoDesc::SIZE];
        for (offset, byte) in bytes.iter_mut().enumerate() {
            // SAFETY: inside the mapping, as was just checked.
            *byte = unsafe { self.base.as_ptr().add(start + offset).read_volatile() };
        }
        Some(IoDesc::decode(&bytes))
    }
}

impl Drop for Descriptors {
    fn drop(&mut self) {
        // SAFETY: exactly the range that was mapped, and nothing points into it any more.
        let _ = unsafe { rustix::mm::munmap(self.base.as_ptr().cast(), self.bytes) };
    }
}
