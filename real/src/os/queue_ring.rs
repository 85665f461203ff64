//! A queue's ring: FETCH, COMMIT and backend operations, all on the queue's own tag buffers.

use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::ptr;
use std::sync::Arc;

use blkproof_engine::batch::{BatchOp, Element};
use blkproof_engine::data::{Address, Place, TagMemory};
use blkproof_engine::sys::{BackendOp, MemoryOp, RingSpec, SqFull};
use blkproof_engine::uapi::{Errno, IoCmd, IoDesc, IoOp, QueueId, Tag, sqe};
use io_uring::types::{Fd, FsyncFlags};
use io_uring::{opcode, squeue};

use super::batches::{Batches, GROUP};
use super::memory::{Descriptors, RequestData, Store, TagBuffers};
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
    /// A file that reads as zeroes: the null target, where zeroes must come from a file.
    Zeroes(Arc<OwnedFd>),
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
    /// Memory that clients share with us.
    shared: Option<Arc<Store>>,
    mapped: Option<Mapped>,
    /// Whether the command of the completion that was reaped last goes on.
    goes_on: bool,
}

/// What `MapQueue` obtains.
#[derive(Debug)]
struct Mapped {
    descriptors: Descriptors,
    /// None where the data does not pass through them.
    buffers: Option<TagBuffers>,
    /// None without batches.
    batches: Option<Batches>,
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
        shared: Option<Arc<Store>>,
    ) -> Result<Self, Errno> {
        Ok(Self {
            ring: PlainRing::new(spec)?,
            shape,
            char_device,
            backend,
            shared,
            mapped: None,
            goes_on: false,
        })
    }

    /// Maps the descriptors, obtains what each tag is to have, and has the ring hold the character device (I13).
    ///
    /// # Errors
    /// What the system answered.
    pub fn map(&mut self, memory: TagMemory, tag_lists: u16) -> Result<(), Errno> {
        let QueueShape { queue, depth, buffer_bytes } = self.shape;
        let descriptors = Descriptors::map(&*self.char_device, queue, depth)?;
        let buffers = match memory {
            TagMemory::Nothing => None,
            TagMemory::Buffer => Some(TagBuffers::new(depth, buffer_bytes)?),
            TagMemory::Slot => {
                self.ring.make_slots(depth)?;
                None
            }
        };
        let batches = if tag_lists > 0 { Some(self.batches(tag_lists)?) } else { None };
        // Entries do not use it. A ring is freed after its last operation, also when its process is long gone, and its files with it.
        self.ring.register_file(&*self.char_device)?;
        self.mapped = Some(Mapped { descriptors, buffers, batches });
        Ok(())
    }

    /// Memory for batches, and its buffers in the kernel's hands.
    fn batches(&self, tag_lists: u16) -> Result<Batches, Errno> {
        let mut batches = Batches::new(self.shape.depth, tag_lists)?;
        // SAFETY: what `Batches` obtains is never unmapped, and it writes no buffer.
        unsafe { self.ring.register_buffers(batches.ring(), GROUP)? };
        batches.provide_all();
        Ok(batches)
    }

    fn mapped(&self) -> &Mapped {
        self.mapped.as_ref().expect("I1: a queue maps before it serves")
    }

    fn buffers(&self) -> &TagBuffers {
        self.mapped().buffers.as_ref().expect("I1: a queue obtains the buffers that it uses")
    }

    fn shared(&self) -> &Store {
        self.shared.as_ref().expect("I7: only what lies in shared memory is looked for there")
    }

    /// Gives a tag to the kernel: FETCH, or COMMIT with `result`.
    pub fn push_io(
        &mut self,
        op: IoOp,
        (tag, address): (Tag, Address),
        result: i32,
        user_data: u64,
    ) -> Result<(), SqFull> {
        let (addr, slot) = match address {
            Address::Buffer => {
                let buffer = self.buffers().range(tag, 0, self.shape.buffer_bytes);
                (buffer.expose_provenance() as u64, None)
            }
            Address::Nothing => (0, None),
            Address::Slot(register) => (0, Some(register.encode())),
        };
        let command = IoCmd { queue: self.shape.queue, tag, result, addr };
        let entry = opcode::UringCmd16::new(Fd(self.char_device.as_raw_fd()), op.ioctl())
            .cmd(command.encode())
            .addr(slot)
            .build();
        // SAFETY: the driver copies to and from the tag's buffer, if one was named, which is never unmapped and which nobody else touches while
        // the kernel owns the tag (I2).
        unsafe { self.ring.push(entry, user_data) }
    }

    /// Gives many tags to the kernel: PREP, or COMMIT.
    pub fn push_batch(
        &mut self,
        op: BatchOp,
        elements: &[Element],
        user_data: u64,
    ) -> Result<(), SqFull> {
        if self.ring.sq_space() == 0 {
            return Err(SqFull);
        }
        let QueueShape { queue, buffer_bytes, .. } = self.shape;
        let mapped = self.mapped.as_mut().expect("I1: a queue maps before it serves");
        let Mapped { buffers, batches, .. } = mapped;
        let batches = batches.as_mut().expect("I1: a queue obtains what its batches need");
        let address = |tag| {
            let buffers = buffers.as_ref().expect("I1: a queue obtains the buffers that it uses");
            buffers.range(tag, 0, buffer_bytes).expose_provenance() as u64
        };
        let (command, addr) = batches.write(queue, op, elements, address);
        let op = match op {
            BatchOp::Prep => IoOp::PrepIoCmds,
            BatchOp::Commit => IoOp::CommitIoCmds,
        };
        let entry = opcode::UringCmd16::new(Fd(self.char_device.as_raw_fd()), op.ioctl())
            .cmd(command.encode())
            .addr(Some(addr))
            .build();
        // SAFETY: the elements stay where they are, and are not written before the command's completion: one is in flight at a time. Of the tags' buffers
        // in them the same is true as in `push_io`.
        unsafe { self.ring.push(entry, user_data) }
    }

    /// Has the kernel tell of requests, in buffers of the ring.
    pub fn push_fetch_tags(&mut self, user_data: u64) -> Result<(), SqFull> {
        let command = Batches::fetch(self.shape);
        let mut entry =
            opcode::UringCmd16::new(Fd(self.char_device.as_raw_fd()), IoOp::FetchIoCmds.ioctl())
                .cmd(command.encode())
                .build()
                .flags(squeue::Flags::BUFFER_SELECT);
        const { assert!(size_of::<Entry64>() == 64, "the kernel's layout, and nothing else") };
        // SAFETY: an entry is `repr(C)` around the kernel's 64 bytes, and these fields are aligned.
        unsafe {
            let entry = ptr::from_mut(&mut entry);
            entry.byte_add(sqe::URING_CMD_FLAGS).cast::<u32>().write(sqe::URING_CMD_MULTISHOT);
            entry.byte_add(sqe::BUF_INDEX).cast::<u16>().write(GROUP);
        }
        // SAFETY: what the kernel writes are buffers that were given to it.
        unsafe { self.ring.push(entry, user_data) }
    }

    /// The `nth` tag in the buffer of the completion that was reaped last.
    pub fn told(&self, nth: u16) -> Tag {
        self.mapped().batches.as_ref().expect("I1: only a batch device tells of tags").told(nth)
    }

    /// Gives the buffer of the completion that was reaped last back. A completion without one took none.
    pub fn give_back(&mut self) {
        let batches = self.mapped.as_mut().and_then(|mapped| mapped.batches.as_mut());
        batches.expect("I1: only a batch device takes buffers").give_back();
    }

    /// Whether the command of the completion that was reaped last goes on.
    pub const fn goes_on(&self) -> bool {
        self.goes_on
    }

    /// Registers the pages of a tag's request in the tag's slot, or gives them back.
    pub fn push_slot(&mut self, op: IoOp, tag: Tag, user_data: u64) -> Result<(), SqFull> {
        let addr = u64::from(tag.0);
        let command = IoCmd { queue: self.shape.queue, tag, result: 0, addr };
        let entry = opcode::UringCmd16::new(Fd(self.char_device.as_raw_fd()), op.ioctl())
            .cmd(command.encode())
            .build();
        // SAFETY: the entry points to no memory of ours.
        unsafe { self.ring.push(entry, user_data) }
    }

    /// Queues an operation on the backing file.
    pub fn push_backend(
        &mut self,
        op: BackendOp,
        tag: Tag,
        place: Place,
        user_data: u64,
    ) -> Result<(), SqFull> {
        let file = match &self.backend {
            Backend::File(file) | Backend::Zeroes(file) => file,
            Backend::Nothing | Backend::Memory(_) => {
                unreachable!("I6: only a target with a file asks for backend operations")
            }
        };
        let slots = self.mapped().buffers.is_none() && place == Place::Tag;
        let range = |buffer: u32, len: u32| match place {
            Place::Tag => self.buffers().range(tag, buffer, len),
            Place::Shared(at) => {
                self.shared().range(u64::from(at) + u64::from(buffer), u64::from(len))
            }
        };
        let fd = Fd(file.as_raw_fd());
        let entry = match op {
            // The address of pages in a slot is an offset from their beginning.
            BackendOp::Read { offset, buffer, len } if slots => {
                let to = ptr::without_provenance_mut(buffer as usize);
                opcode::ReadFixed::new(fd, to, len, tag.0).offset(offset).build()
            }
            BackendOp::Write { offset, buffer, len, durable } if slots => {
                let flags = if durable { libc::RWF_DSYNC } else { 0 };
                let from = ptr::without_provenance(buffer as usize);
                opcode::WriteFixed::new(fd, from, len, tag.0).offset(offset).rw_flags(flags).build()
            }
            BackendOp::Read { offset, buffer, len } => {
                let to = range(buffer, len);
                opcode::Read::new(fd, to, len).offset(offset).build()
            }
            BackendOp::Write { offset, buffer, len, durable } => {
                let flags = if durable { libc::RWF_DSYNC } else { 0 };
                let from = range(buffer, len);
                opcode::Write::new(fd, from, len).offset(offset).rw_flags(flags).build()
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
        // SAFETY: the range lies in the pages of a slot, which are the kernel's to check, or in the tag's buffer or shared memory (`range` checks), neither of which is ever unmapped; the server
        // owns the tag until the operation's completion, and starts one operation at a time on it (I6). Of what clients do to their memory meanwhile, see `Store`.
        unsafe { self.ring.push(entry, user_data) }
    }

    /// Carries out a memory operation: the bytes moved, or a negative errno. Never waits for anybody.
    pub fn memory(&mut self, tag: Tag, place: Place, op: MemoryOp) -> i32 {
        if let Place::Shared(at) = place {
            return self.memory_shared(u64::from(at), op);
        }
        let Self { shape, char_device, backend, mapped, shared: _, ring: _, goes_on: _ } = self;
        let backend: &Backend = backend;
        let buffers = mapped.as_mut().and_then(|mapped| mapped.buffers.as_mut());
        let request = RequestData::new(char_device, shape.queue, tag);
        let store = || store_of(backend);
        match (op, buffers) {
            (MemoryOp::Load { offset, len }, Some(buffers)) => {
                store().load(offset, buffers, tag, len);
            }
            (MemoryOp::Store { offset, len }, Some(buffers)) => {
                store().save(offset, buffers, tag, len);
            }
            (MemoryOp::Clear { len }, Some(buffers)) => buffers.clear(tag, len),
            (MemoryOp::Zero { offset, len }, _) => store().zero(offset, len),
            (MemoryOp::Load { offset, len }, None) => {
                return store().load_into(offset, &request, len);
            }
            (MemoryOp::Store { offset, len }, None) => {
                return store().save_from(offset, &request, len);
            }
            (MemoryOp::Clear { len }, None) => return request.clear(len),
            (MemoryOp::CopyIn { len }, Some(buffers)) => {
                return buffers.copy_in(&request, tag, len);
            }
            (MemoryOp::CopyOut { len }, Some(buffers)) => {
                return buffers.copy_out(&request, tag, len);
            }
            (MemoryOp::CopyIn { .. } | MemoryOp::CopyOut { .. }, None) => {
                unreachable!("I1: a queue obtains the buffers that it uses")
            }
        }
        op.bytes() as i32
    }

    /// The same for a request whose data lies in shared memory.
    fn memory_shared(&self, at: u64, op: MemoryOp) -> i32 {
        let (shared, store) = (self.shared(), || store_of(&self.backend));
        match op {
            MemoryOp::Load { offset, len } => store().copy_to(offset, shared, at, len),
            MemoryOp::Store { offset, len } => shared.copy_to(at, store(), offset, len),
            MemoryOp::Clear { len } => shared.fill(at, u64::from(len)),
            MemoryOp::Zero { .. } | MemoryOp::CopyIn { .. } | MemoryOp::CopyOut { .. } => {
                unreachable!("I7: {op:?} is of no data in shared memory")
            }
        }
        op.bytes() as i32
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
        let completion = self.ring.reap()?;
        if let Some(batches) = self.mapped.as_mut().and_then(|mapped| mapped.batches.as_mut()) {
            batches.told_in(completion.buffer);
        }
        self.goes_on = completion.more;
        Some(completion)
    }
}

fn store_of(backend: &Backend) -> &Store {
    match backend {
        Backend::Memory(store) => store,
        Backend::Nothing | Backend::File(_) | Backend::Zeroes(_) => {
            unreachable!("I6: only the mem target asks for its store")
        }
    }
}
