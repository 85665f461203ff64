//! Memory that the kernel shares with us: tag buffers, descriptors, and the store of the mem target; and the copies to and from a request.
//!
//! None of it is ever unmapped: see the module's rule.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicPtr, AtomicU64, Ordering};

use blkproof_engine::uapi::{
    Errno, IoDesc, QueueId, ShmemBufReg, Tag, UserCopyPosition, desc_map_bytes, desc_map_offset,
};
use rustix::fs::FallocateFlags;
use rustix::mm::{MapFlags, ProtFlags};

/// Bytes of a page on every architecture we build for; `mmap` aligns to it.
pub const PAGE_BYTES: u64 = 4096;

/// One pinned buffer for each tag of a queue.
#[derive(Debug)]
pub struct TagBuffers {
    base: NonNull<u8>,
    bytes_each: u32,
    depth: u16,
}

impl TagBuffers {
    /// Obtains `depth` page-aligned, populated buffers of `bytes_each` bytes, a multiple of the page. Locked in memory where that is allowed.
    ///
    /// # Errors
    /// What `mmap` answered.
    pub fn new(depth: u16, bytes_each: u32) -> Result<Self, Errno> {
        let len = usize::from(depth) * bytes_each as usize;
        let base = map_populated(len)?;
        // SAFETY: exactly the range just mapped. Best effort: without the right to lock, the buffers work but can be swapped out.
        let _ = unsafe { rustix::mm::mlock(base.as_ptr().cast(), len) };
        Ok(Self { base, bytes_each, depth })
    }

    /// The range of `len` bytes at `offset` in a tag's buffer.
    pub(super) fn range(&self, tag: Tag, offset: u32, len: u32) -> *mut u8 {
        assert!(tag.0 < self.depth, "I7: a tag below the queue's depth");
        let end = u64::from(offset) + u64::from(len);
        assert!(end <= u64::from(self.bytes_each), "I7: a range inside the tag's buffer");
        let start = usize::from(tag.0) * self.bytes_each as usize + offset as usize;
        // SAFETY: tag < depth and offset <= bytes_each, so the result lies in the mapping or one past its end.
        unsafe { self.base.as_ptr().add(start) }
    }

    /// Fills the beginning of a tag's buffer with zeroes.
    pub fn clear(&mut self, tag: Tag, len: u32) {
        let to = self.range(tag, 0, len);
        // SAFETY: `range` checked the bounds; the engine asks for it only while the server owns the tag, so the kernel does not touch the buffer (I2).
        unsafe { ptr::write_bytes(to, 0, len as usize) }
    }
}

impl TagBuffers {
    /// Copies a write's data to the beginning of a tag's buffer.
    pub fn copy_in(&mut self, request: &RequestData<'_>, tag: Tag, len: u32) -> i32 {
        let to = self.range(tag, 0, len);
        // SAFETY: `range` checked the bounds; the server owns the tag, so nobody else touches the buffer (I2).
        unsafe { request.read(to, len) }
    }

    /// Copies the beginning of a tag's buffer to a read's data.
    pub fn copy_out(&self, request: &RequestData<'_>, tag: Tag, len: u32) -> i32 {
        let from = self.range(tag, 0, len);
        // SAFETY: as for `copy_in`.
        unsafe { request.write(from, len) }
    }
}

/// The data of one request under user copy: a place in the character device.
#[derive(Debug)]
pub struct RequestData<'a> {
    char_device: &'a OwnedFd,
    position: i64,
}

/// What a read is filled with that finds nothing.
static ZEROES: [u8; 64 * 1024] = [0; 64 * 1024];

impl<'a> RequestData<'a> {
    /// The data of the request on a tag.
    pub fn new(char_device: &'a OwnedFd, queue: QueueId, tag: Tag) -> Self {
        let position = UserCopyPosition { queue, tag, byte: 0, integrity: false };
        let position = position.encode().expect("I7: a queue that exists");
        Self { char_device, position: position as i64 }
    }

    /// Copies a write's data: the bytes copied, or a negative errno.
    ///
    /// # Safety
    /// `len` bytes at `to` must be writable, and no reference to them may exist.
    unsafe fn read(&self, to: *mut u8, len: u32) -> i32 {
        let fd = self.char_device.as_raw_fd();
        // SAFETY: the caller's promise.
        result(unsafe { libc::pread(fd, to.cast(), len as usize, self.position) })
    }

    /// Copies to a read's data: the bytes copied, or a negative errno.
    ///
    /// # Safety
    /// `len` bytes at `from` must be readable.
    unsafe fn write(&self, from: *const u8, len: u32) -> i32 {
        let fd = self.char_device.as_raw_fd();
        // SAFETY: the caller's promise.
        result(unsafe { libc::pwrite(fd, from.cast(), len as usize, self.position) })
    }

    /// Fills a read's data with zeroes: the bytes filled, or a negative errno.
    pub fn clear(&self, len: u32) -> i32 {
        let mut done = 0;
        while done < len {
            let piece = (len - done).min(ZEROES.len() as u32);
            let at = Self { position: self.position + i64::from(done), ..*self };
            // SAFETY: no more than the array has.
            let res = unsafe { at.write(ZEROES.as_ptr(), piece) };
            if res < 0 {
                return res;
            }
            done += res.unsigned_abs();
            if res.unsigned_abs() != piece {
                break;
            }
        }
        done as i32
    }
}

/// What `pread` and `pwrite` answered; a request is far smaller than 2 GiB.
fn result(moved: isize) -> i32 {
    if moved < 0 {
        return -io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO);
    }
    i32::try_from(moved).unwrap_or(i32::MAX)
}

/// The descriptors of a queue, written by the kernel.
#[derive(Debug)]
pub struct Descriptors {
    base: NonNull<u64>,
    depth: u16,
}

impl Descriptors {
    /// Maps the descriptors of a queue of the open character device.
    ///
    /// # Errors
    /// What `mmap` answered.
    pub fn map(char_device: impl AsFd, queue: QueueId, depth: u16) -> Result<Self, Errno> {
        // SAFETY: a new mapping at an address of the kernel's choice.
        let base = unsafe {
            rustix::mm::mmap(
                ptr::null_mut(),
                desc_map_bytes(depth, IoDesc::SIZE as u16) as usize,
                ProtFlags::READ,
                MapFlags::SHARED | MapFlags::POPULATE,
                char_device,
                desc_map_offset(queue, IoDesc::SIZE as u16),
            )
        }
        .map_err(from_rustix)?;
        Ok(Self { base: non_null(base).cast(), depth })
    }

    /// Reads a tag's descriptor.
    pub fn read(&self, tag: Tag) -> IoDesc {
        const WORDS: usize = IoDesc::SIZE / size_of::<u64>();
        assert!(tag.0 < self.depth, "I7: a tag below the queue's depth");
        let mut bytes = [0; IoDesc::SIZE];
        for (word, chunk) in bytes.chunks_exact_mut(size_of::<u64>()).enumerate() {
            // SAFETY: inside the mapping, aligned to 8 as the mapping is to a page. Volatile, because another party writes this memory;
            // while the server owns the tag (I2) it does not.
            let value = unsafe {
                self.base.as_ptr().add(usize::from(tag.0) * WORDS + word).read_volatile()
            };
            chunk.copy_from_slice(&value.to_ne_bytes());
        }
        IoDesc::decode(&bytes)
    }
}

/// The bytes of the mem target, shared by all queues of a worker and by the workers of one supervisor; or memory that clients share with them.
#[derive(Debug)]
pub struct Store {
    /// The newest mapping. Those before it stay: they show the same memory, and somebody may still use them.
    base: AtomicPtr<u8>,
    /// How much of it there is; never less than before.
    bytes: AtomicU64,
    file: OwnedFd,
}

// What threads share: the mappings belong to the process, not to a thread, and are never unmapped; threads reach them only through the copies
// below. The copies of two threads overlap when clients send requests for the same sectors at the same time, and neither takes a
// lock: a reader then gets some old and some new bytes, and two writers leave a mixture of both. That is what any disk may do, and what a client
// that cares prevents. Rust's memory model has no word for it: a race of plain copies is undefined there. What is relied on is
// that a copy through raw pointers is a `memcpy`, that no reference to these bytes ever exists, and that nothing here looks
// at their values, so that a torn one can mislead nobody but the clients who raced.
impl Store {
    /// Maps the first `bytes` of a memfd.
    ///
    /// # Errors
    /// What `mmap` answered.
    pub fn map(file: OwnedFd, bytes: u64) -> Result<Self, Errno> {
        let base = Self::map_at_all(&file, bytes)?;
        Ok(Self { base: AtomicPtr::new(base.as_ptr()), bytes: AtomicU64::new(bytes), file })
    }

    /// What REG_BUF is told of it.
    pub fn registration(&self) -> ShmemBufReg {
        let addr = self.base.load(Ordering::Relaxed).expose_provenance() as u64;
        ShmemBufReg { addr, len: self.bytes.load(Ordering::Relaxed), read_only: false }
    }

    /// Maps more of the memfd, if that is not mapped yet.
    ///
    /// # Errors
    /// What `mmap` answered.
    pub fn reach(&self, bytes: u64) -> Result<(), Errno> {
        if bytes > self.bytes.load(Ordering::Relaxed) {
            let base = Self::map_at_all(&self.file, bytes)?;
            // Whoever sees the size sees the mapping that has it.
            self.base.store(base.as_ptr(), Ordering::Relaxed);
            self.bytes.store(bytes, Ordering::Release);
        }
        Ok(())
    }

    fn map_at_all(file: &OwnedFd, bytes: u64) -> Result<NonNull<u8>, Errno> {
        let len = usize::try_from(bytes).map_err(|_| Errno::ENOMEM)?;
        // SAFETY: a new mapping at an address of the kernel's choice.
        let base = unsafe {
            rustix::mm::mmap(
                ptr::null_mut(),
                len,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::SHARED | MapFlags::NORESERVE,
                file,
                0,
            )
        }
        .map_err(from_rustix)?;
        Ok(non_null(base))
    }

    /// The range of `len` bytes at `offset`.
    pub(super) fn range(&self, offset: u64, len: u64) -> *mut u8 {
        let end = offset.checked_add(len).expect("I7: a range inside the store");
        assert!(end <= self.bytes.load(Ordering::Acquire), "I7: a range inside the store");
        // SAFETY: offset <= bytes, and the mapping loaded after it is at least as long.
        unsafe { self.base.load(Ordering::Relaxed).add(offset as usize) }
    }

    /// Copies to the beginning of a tag's buffer.
    pub fn load(&self, offset: u64, buffers: &mut TagBuffers, tag: Tag, len: u32) {
        let (from, to) = (self.range(offset, u64::from(len)), buffers.range(tag, 0, len));
        // SAFETY: both ranges were checked, and are parts of different mappings.
        unsafe { ptr::copy_nonoverlapping(from, to, len as usize) }
    }

    /// Copies from the beginning of a tag's buffer.
    pub fn save(&self, offset: u64, buffers: &TagBuffers, tag: Tag, len: u32) {
        let (to, from) = (self.range(offset, u64::from(len)), buffers.range(tag, 0, len));
        // SAFETY: as for `load`.
        unsafe { ptr::copy_nonoverlapping(from, to, len as usize) }
    }

    /// Copies from here to another file's memory.
    pub fn copy_to(&self, offset: u64, other: &Self, at: u64, len: u32) {
        let (from, to) = (self.range(offset, u64::from(len)), other.range(at, u64::from(len)));
        // SAFETY: both ranges were checked, and are parts of different mappings of different files: the mem target's is its own.
        unsafe { ptr::copy_nonoverlapping(from, to, len as usize) }
    }

    /// Copies to a read's data.
    pub fn load_into(&self, offset: u64, request: &RequestData<'_>, len: u32) -> i32 {
        let from = self.range(offset, u64::from(len));
        // SAFETY: the range was checked. The kernel copies the bytes; no reference to them exists here.
        unsafe { request.write(from, len) }
    }

    /// Copies from a write's data.
    pub fn save_from(&self, offset: u64, request: &RequestData<'_>, len: u32) -> i32 {
        let to = self.range(offset, u64::from(len));
        // SAFETY: as for `load_into`.
        unsafe { request.read(to, len) }
    }

    /// Makes a range read as zeroes, giving whole pages back to the system.
    ///
    /// The serving thread does this itself, and serves nothing else meanwhile: it frees the pages of one request (at most the 64 MiB that the
    /// device's limits allow) in one system call, or fills them where that is refused. Either takes tens of milliseconds at most.
    pub fn zero(&self, offset: u64, len: u64) {
        let end = offset + len;
        let pages = offset.next_multiple_of(PAGE_BYTES)..end / PAGE_BYTES * PAGE_BYTES;
        let punched = pages.start < pages.end
            && rustix::fs::fallocate(
                &self.file,
                FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE,
                pages.start,
                pages.end - pages.start,
            )
            .is_ok();
        if punched {
            self.fill(offset, pages.start - offset);
            self.fill(pages.end, end - pages.end);
        } else {
            self.fill(offset, len);
        }
    }

    /// Fills a range with zeroes.
    pub fn fill(&self, offset: u64, len: u64) {
        let to = self.range(offset, len);
        // SAFETY: the range was checked.
        unsafe { ptr::write_bytes(to, 0, len as usize) }
    }
}

/// New private memory of `bytes` bytes, not 0, page-aligned and populated.
pub(super) fn map_populated(bytes: usize) -> Result<NonNull<u8>, Errno> {
    // SAFETY: a new private mapping at an address of the kernel's choice touches nothing that exists.
    let base = unsafe {
        rustix::mm::mmap_anonymous(
            ptr::null_mut(),
            bytes,
            ProtFlags::READ | ProtFlags::WRITE,
            MapFlags::PRIVATE | MapFlags::POPULATE,
        )
    };
    base.map(non_null).map_err(from_rustix)
}

fn non_null(base: *mut std::ffi::c_void) -> NonNull<u8> {
    NonNull::new(base.cast()).expect("mmap never answers with address 0")
}

fn from_rustix(errno: rustix::io::Errno) -> Errno {
    Errno::from_result(-errno.raw_os_error())
}
