//! A queue's ring: FETCH, COMMIT and backend operations, all on the queue's own tag buffers.

use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use blkproof_engine::sys::{BackendOp, MemoryOp, RingSpec, SqFull};
use blkproof_engine::uapi::{Errno, IoCmd, IoDesc, IoOp, QueueId, Tag};
use io_uring::opcode;
use io_uring::types::{Fd, FsyncFlags};

use super::memory::{Descriptors, Store, TagBuffers};
use super::ring::{Completion, Entry64, PlainRing};

/// What the queues of a worker serve from.
#[derive(Clone, Debug)]
pub enum Backend {
    /// Nothing: the null target.
    Nothing,
    /// Memory: the mem target.
    Memory(Arc<Store>),
    /// A file or block device: the loop target.
    File(Arc<OwnedFd>),
}

/// A queue, and how large it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct QueueShape {
    /// The queue.
    pub queue: QueueId,
    /// Its tags.
    pub depth: u16,
    /// Bytes of each tag's buffer.
    pub buffer_bytes: u32,
}

/// The ring of a serving thread, with the memory that its entries refer to.
#[derive(Debug)]
pub struct QueueRing {
    ring: PlainRing<Entry64>,
    shape: QueueShape,
    char_device: Arc<OwnedFd>,
    backend: Backend,
    mapped: Option<Mapped>,
}

/// What `MapQueue` obtains.
#[derive(Debug)]
struct Mapped {
    descriptors: Descriptors,
    buffers: TagBuffers,
}

impl QueueRing {
    /// Creates the ring. Nothing is mapped yet.
    ///
    /// # Errors
    /// What the system answered.
    pub fn new(
        spec: RingSpec,
        shape: QueueShape,
        char_device: Arc<OwnedFd>,
        backend: Backend,
    ) -> Result<Self, Errno> {
        Ok(Self { ring: PlainRing::new(spec)?, shape, char_device, backend, mapped: None })
    }

    /// Maps the descriptors, obtains the tag buffers, and has the ring hold the character device (I13).
    ///
    /// # Errors
    /// What the system answered.
    pub fn map(&mut self) -> Result<(), Errno> {
        let QueueShape { queue, depth, buffer_bytes } = self.shape;
        let descriptors = Descriptors::map(&*self.char_device, queue, depth)?;
        let buffers = TagBuffers::new(depth, buffer_bytes)?;
        // Entries do not use it. A ring is freed after its last operation, also when its process is long gone, and its files with it.
        self.ring.register_file(&*self.char_device)?;
        self.mapped = Some(Mapped { descriptors, buffers });
        Ok(())
    }

    fn mapped(&self) -> &Mapped {
        self.mapped.as_ref().expect("I1: a queue maps before it serves")
    }

    /// Gives a tag to the kernel, with the tag's own buffer: FETCH, or COMMIT with `result`.
    pub fn push_io(&mut self, op: IoOp, tag: Tag, result: i32, user_data: u64) -> Result<(), SqFull> {
        let buffer = self.mapped().buffers.range(tag, 0, self.shape.buffer_bytes);
        let command =
            IoCmd { queue: self.shape.queue, tag, result, addr: buffer.expose_provenance() as u64 };
        let entry = opcode::UringCmd16::new(Fd(self.char_device.as_raw_fd()), op.ioctl())
            .cmd(command.encode())
            .build();
        // SAFETY: the driver copies to and from the tag's buffer, which is never unmapped and which nobody else touches while
        // the kernel owns the tag (I2).
        unsafe { self.ring.push(entry, user_data) }
    }

    /// Queues an operation on the backing file.
    pub fn push_backend(&mut self, op: BackendOp, tag: Tag, user_data: u64) -> Result<(), SqFull> {
        let Backend::File(file) = &self.backend else {
            unreachable!("I6: only the file target asks for backend operations")
        };
        let fd = Fd(file.as_raw_fd());
        let buffers = &self.mapped().buffers;
        let entry = match op {
            BackendOp::Read { offset, buffer, len } => {
                opcode::Read::new(fd, buffers.range(tag, buffer, len), len).offset(offset).build()
            }
            BackendOp::Write { offset, buffer, len, durable } => {
                let flags = if durable { libc::RWF_DSYNC } else { 0 };
                opcode::Write::new(fd, buffers.range(tag, buffer, len), len)
                    .offset(offset)
                    .rw_flags(flags)
                    .build()
            }
            BackendOp::Sync => opcode::Fsync::new(fd).flags(FsyncFlags::DATASYNC).build(),
            BackendOp::PunchHole { offset, len } => opcode::Fallocate::new(fd, len)
                .offset(offset)
                .mode(libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE)
                .build(),
            BackendOp::ZeroRange { offset, len } => opcode::Fallocate::new(fd, len)
                .offset(offset)
                .mode(libc::FALLOC_FL_ZERO_RANGE | libc::FALLOC_FL_KEEP_SIZE)
                .build(),
        };
        // SAFETY: the range lies in the tag's buffer (`range` checks), which is never unmapped; the server owns the tag until the
        // operation's completion, and starts one operation at a time on it (I6).
        unsafe { self.ring.push(entry, user_data) }
    }

    /// Carries out a memory operation.
    pub fn memory(&mut self, tag: Tag, op: MemoryOp) {
        let buffers = &mut self.mapped.as_mut().expect("I1: a queue maps before it serves").buffers;
        if let MemoryOp::Clear { len } = op {
            return buffers.clear(tag, len);
        }
        let Backend::Memory(store) = &self.backend else {
            unreachable!("I6: only the mem target asks for its store")
        };
        match op {
            MemoryOp::Load { offset, len } => store.load(offset, buffers, tag, len),
            MemoryOp::Store { offset, len } => store.save(offset, buffers, tag, len),
            MemoryOp::Zero { offset, len } => store.zero(offset, len),
            MemoryOp::Clear { len } => buffers.clear(tag, len),
        }
    }

    /// Reads a tag's descriptor.
    pub fn descriptor(&self, tag: Tag) -> IoDesc {
        self.mapped().descriptors.read(tag)
    }

    /// See [`PlainRing::push_poll`].
    pub fn push_poll(&mut self, fd: BorrowedFd<'_>, user_data: u64) -> Result<(), SqFull> {
        self.ring.push_poll(fd, user_data)
    }

    /// See [`PlainRing::push_timer`].
    pub fn push_timer(&mut self, ms: u32, user_data: u64) -> Result<(), SqFull> {
        self.ring.push_timer(ms, user_data)
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

    /// See [`PlainRing::reap`].
    pub fn reap(&mut self) -> Option<Completion> {
        self.ring.reap()
    }
}
