#![allow(dead_code, unreachable_pub)] // each test uses a part
//! A queue's kernel side in miniature: just enough to put a [`Queue`] through every ordering.

use std::collections::VecDeque;

use blkproof_engine::batch::{BatchOp, Element};
use blkproof_engine::data::{DataMode, Place};
use blkproof_engine::link::{FromQueue, Link, Received, ToQueue};
use blkproof_engine::queue::{Queue, QueueConfig};
use blkproof_engine::sys::{
    BackendOp, Call, Cqe, MemoryOp, QueueIo, Ret, Ring, RingMode, SqFull, Sqe, Token,
};
use blkproof_engine::target::Target;
use blkproof_engine::uapi::{IoDesc, QueueId, RequestFlags, Tag};

/// What the kernel has of a tag.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum KernelTag {
    /// Never fetched.
    Unfetched,
    /// A command waits for a request.
    Armed,
    /// The server owns it, and must ask for a write's data.
    Announced,
    /// The server owns it.
    Served,
    /// Aborted.
    Cancelled,
}

/// What is in a tag's slot of the ring's table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Slot {
    /// Nothing.
    Empty,
    /// The pages of its request, put there by the driver.
    Automatic,
    /// The pages of its request, registered by the server.
    ByHand,
}

/// `UBLK_IO_OP_WRITE`.
const WRITE: u32 = 1;
/// `UBLK_IO_F_NEED_REG_BUF`.
const NEED_REG_BUF: u32 = 1 << 17;

/// The kernel side of one queue.
pub struct Kernel {
    entries: usize,
    pub sq: VecDeque<Sqe>,
    pub cq: VecDeque<Cqe>,
    pub tags: Vec<KernelTag>,
    pub descs: Vec<IoDesc>,
    pub backend: Vec<(Tag, BackendOp)>,
    pub commits: Vec<(Tag, i32)>,
    pub inbox: VecDeque<ToQueue>,
    pub sent: Vec<FromQueue>,
    pub memory: u64,
    pub watched: bool,
    pub sectors: u64,
    pub buffer_bytes: u32,
    pub data: DataMode,
    pub shared_bytes: u64,
    /// What became of the data of the request on each tag.
    pub moved: Vec<Option<MemoryOp>>,
    /// Zero copy: what is in each tag's slot.
    pub slots: Vec<Slot>,
    /// The driver cannot register the next request's pages.
    pub falls_back: bool,
    /// What a batch device has besides.
    pub batch: Batches,
    /// Announced writes: what the next NEED_GET_DATA is refused with.
    pub refuses_data: Option<i32>,
    /// How many sectors of the next announced write cannot be copied.
    pub lost: u32,
    /// What the next REGISTER_IO_BUF or UNREGISTER_IO_BUF is refused with.
    pub refuses_slot: Option<i32>,
    /// What the next memory operations answer instead of their length.
    pub answers: VecDeque<i32>,
}

/// The kernel side of a batch device's queue.
pub struct Batches {
    in_use: bool,
    /// Commands about many tags, in the order of their entries in `sq`, where [`Sqe::Timer`] stands for each.
    pub commands: VecDeque<(BatchOp, Vec<Element>)>,
    /// Emptied lists of elements.
    spare: Vec<Vec<Element>>,
    /// A fetch waits; how many buffers there are for it.
    pub fetching: bool,
    pub buffers: u16,
    /// Tags that nobody was told of.
    pub listed: VecDeque<Tag>,
    /// What each completion of a fetch told of, and whether it went on.
    pub told: VecDeque<(Vec<Tag>, bool)>,
    /// What the completion that was reaped last told of.
    telling: (Vec<Tag>, bool),
    spare_tags: Vec<Vec<Tag>>,
    /// What the next COMMIT_IO_CMDS comes to: so many elements, or an errno.
    pub consumes: Option<Result<u16, i32>>,
    /// How many in a row came to an errno.
    pub refused: u8,
    /// The next delivery ends the fetch.
    pub ends: bool,
}

impl Batches {
    fn new(config: &QueueConfig) -> Self {
        let depth = usize::from(config.depth);
        let lists = |count| (0..count).map(|_| Vec::with_capacity(depth)).collect();
        Self {
            in_use: config.buffers > 0,
            commands: VecDeque::with_capacity(4),
            spare: (0..4).map(|_| Vec::with_capacity(depth)).collect(),
            fetching: false,
            buffers: config.buffers,
            listed: VecDeque::with_capacity(depth),
            told: VecDeque::with_capacity(2 * depth),
            telling: (Vec::new(), true),
            spare_tags: lists(2 * depth),
            consumes: None,
            refused: 0,
            ends: false,
        }
    }
}

impl Kernel {
    pub fn new(config: &QueueConfig) -> Self {
        let depth = usize::from(config.depth);
        Self {
            entries: config.entries as usize,
            sq: VecDeque::with_capacity(config.entries as usize),
            cq: VecDeque::with_capacity(4 * config.entries as usize),
            tags: vec![KernelTag::Unfetched; depth],
            descs: vec![IoDesc::default(); depth],
            backend: Vec::with_capacity(depth),
            commits: Vec::with_capacity(depth),
            inbox: VecDeque::from([ToQueue::Prime]),
            sent: Vec::with_capacity(4),
            memory: 0,
            watched: false,
            sectors: config.sectors,
            buffer_bytes: config.buffer_bytes,
            data: config.data,
            shared_bytes: config.shared_bytes,
            moved: vec![None; depth],
            slots: vec![Slot::Empty; depth],
            falls_back: false,
            batch: Batches::new(config),
            refuses_data: None,
            lost: 0,
            refuses_slot: None,
            answers: VecDeque::with_capacity(4),
        }
    }

    /// Takes up to `n` entries, as `io_uring_enter` does.
    pub fn submit(&mut self, n: u32) -> u32 {
        let mut taken = 0;
        while taken < n {
            let Some(sqe) = self.sq.pop_front() else { break };
            taken += 1;
            match sqe {
                Sqe::Fetch { tag, address } => {
                    assert_eq!(address, self.data.address(tag), "EINVAL");
                    let state = &mut self.tags[usize::from(tag.0)];
                    assert_eq!(*state, KernelTag::Unfetched, "I4: {tag:?} is fetched once");
                    *state = KernelTag::Armed;
                }
                Sqe::Commit { tag, result, address } => {
                    assert_eq!(address, self.data.address(tag), "EINVAL");
                    self.check_moved(tag, result);
                    let slot = &mut self.slots[usize::from(tag.0)];
                    assert_ne!(
                        *slot,
                        Slot::ByHand,
                        "H11: {tag:?} is committed and still registered"
                    );
                    *slot = Slot::Empty;
                    let state = &mut self.tags[usize::from(tag.0)];
                    assert_eq!(*state, KernelTag::Served, "O1: {tag:?} is committed when owned");
                    *state = KernelTag::Armed;
                    self.commits.push((tag, result));
                }
                Sqe::GetData { tag, address } => {
                    assert_eq!(address, self.data.address(tag), "H19");
                    let at = usize::from(tag.0);
                    assert_eq!(self.tags[at], KernelTag::Announced, "EINVAL or EBUSY: {tag:?}");
                    let res = self.refuses_data.take().unwrap_or(0);
                    if res == 0 {
                        self.tags[at] = KernelTag::Served;
                        self.descs[at].nr_sectors -= self.lost.min(self.descs[at].nr_sectors);
                        self.lost = 0;
                    }
                    self.cq.push_back(Cqe { token: Token::Io(tag), res });
                }
                Sqe::Backend { tag, place, op } => {
                    assert_eq!(self.tags[usize::from(tag.0)], KernelTag::Served);
                    self.check_place(tag, place);
                    self.check_bounds(op);
                    self.check_at_hand(tag, op);
                    self.backend.push((tag, op));
                }
                Sqe::Register { tag } => self.change_slot(tag, Slot::Empty, Slot::ByHand),
                Sqe::Unregister { tag } => self.change_slot(tag, Slot::ByHand, Slot::Empty),
                Sqe::Timer { .. } => self.take_batch(),
                Sqe::FetchTags => {
                    assert!(!self.batch.fetching, "one fetch at a time");
                    let armed = |tag: &KernelTag| *tag != KernelTag::Unfetched;
                    assert!(self.tags.iter().all(armed), "ENODEV in a recovery: prepared first");
                    self.batch.fetching = true;
                    self.tell();
                }
                Sqe::Watch { link: Link::Worker } => {
                    assert!(!self.watched, "one watch at a time");
                    self.watched = true;
                }
                other => panic!("a queue never submits {other:?}"),
            }
        }
        self.ring_doorbell();
        taken
    }

    /// The kernel takes a command about many tags.
    fn take_batch(&mut self) {
        let (op, mut elements) = self.batch.commands.pop_front().expect("an entry for each");
        for element in &elements {
            assert_eq!(element.address, self.data.address(element.tag), "EINVAL");
        }
        match op {
            BatchOp::Prep => {
                for element in &elements {
                    let state = &mut self.tags[usize::from(element.tag.0)];
                    assert_eq!(*state, KernelTag::Unfetched, "I4: prepared once");
                    *state = KernelTag::Armed;
                }
                self.cq.push_back(Cqe { token: Token::Prep, res: 0 });
            }
            BatchOp::Commit => {
                let all = elements.len() as u16;
                let answer =
                    self.batch.consumes.take().unwrap_or(Ok(all)).map(|count| count.min(all));
                self.batch.refused = if answer.is_err() { self.batch.refused + 1 } else { 0 };
                for &Element { tag, result, .. } in &elements[..usize::from(answer.unwrap_or(0))] {
                    self.check_moved(tag, result);
                    let at = usize::from(tag.0);
                    assert_ne!(self.slots[at], Slot::ByHand, "H11: {tag:?} is still registered");
                    self.slots[at] = Slot::Empty;
                    assert_eq!(self.tags[at], KernelTag::Served, "O1: {tag:?}");
                    self.tags[at] = KernelTag::Armed;
                    self.commits.push((tag, result));
                }
                let bytes = elements.first().map_or(8, Element::bytes);
                let res = answer.map_or_else(|errno| errno, |count| i32::from(count * bytes));
                self.cq.push_back(Cqe { token: Token::Commits, res });
            }
        }
        elements.clear();
        self.batch.spare.push(elements);
    }

    /// Tells of what is listed, if there is somebody to tell, and a buffer.
    pub fn tell(&mut self) {
        if !self.batch.fetching || self.batch.listed.is_empty() {
            return;
        }
        if self.batch.buffers == 0 {
            self.batch.fetching = false;
            self.cq.push_back(Cqe { token: Token::Tags, res: -105 });
            return;
        }
        self.batch.buffers -= 1;
        let mut tags = self.batch.spare_tags.pop().unwrap_or_default();
        tags.extend(self.batch.listed.drain(..));
        let res = 2 * tags.len() as i32;
        let goes_on = !std::mem::take(&mut self.batch.ends);
        self.batch.fetching = goes_on;
        self.batch.told.push_back((tags, goes_on));
        self.cq.push_back(Cqe { token: Token::Tags, res });
    }

    /// Aborts the fetch.
    pub fn abort_fetch(&mut self) {
        if std::mem::take(&mut self.batch.fetching) {
            self.cq.push_back(Cqe { token: Token::Tags, res: -19 });
        }
    }

    fn change_slot(&mut self, tag: Tag, from: Slot, to: Slot) {
        assert_eq!(self.tags[usize::from(tag.0)], KernelTag::Served);
        let res = self.refuses_slot.take().unwrap_or(0);
        if res == 0 {
            assert_eq!(self.slots[usize::from(tag.0)], from, "EBUSY or EINVAL: {tag:?}");
            self.slots[usize::from(tag.0)] = to;
        }
        self.cq.push_back(Cqe { token: Token::Slot(tag), res });
    }

    /// Where the data of a tag's request is.
    fn place(&self, tag: Tag) -> Place {
        let desc = &self.descs[usize::from(tag.0)];
        let shared = RequestFlags(desc.op_flags).contains(RequestFlags::SHMEM_ZC);
        if shared { Place::Shared(desc.addr as u32) } else { Place::Tag }
    }

    fn check_place(&self, tag: Tag, place: Place) {
        assert_eq!(place, self.place(tag), "O5: {tag:?}");
        if let Place::Shared(offset) = place {
            let desc = &self.descs[usize::from(tag.0)];
            let end = u64::from(offset) + u64::from(desc.nr_sectors) * 512;
            assert!(end <= self.shared_bytes, "I7: inside shared memory");
        }
    }

    /// Under user copy, a read's data must be with the kernel before the COMMIT.
    fn check_moved(&self, tag: Tag, result: i32) {
        const READ: u32 = 0;
        let at = usize::from(tag.0);
        if self.data != DataMode::UserCopy || self.descs[at].op_flags != READ || result < 0 {
            return;
        }
        let moved = self.moved[at];
        assert!(
            matches!(
                moved,
                Some(MemoryOp::Load { .. } | MemoryOp::Clear { .. } | MemoryOp::CopyOut { .. })
            ),
            "O5: {tag:?} was committed before its data was there: {moved:?}"
        );
        assert_eq!(moved.map(|op| op.bytes()), Some(u64::from(self.descs[at].nr_sectors) * 512));
    }

    /// Under user copy, a write's data must be in the buffer before the backend takes it from there.
    fn check_at_hand(&self, tag: Tag, op: BackendOp) {
        let moves = matches!(op, BackendOp::Read { .. } | BackendOp::Write { .. });
        if self.place(tag) != Place::Tag {
            return;
        }
        if self.data == DataMode::ZeroCopy && moves {
            assert_ne!(self.slots[usize::from(tag.0)], Slot::Empty, "EFAULT: {tag:?}");
        }
        if self.data == DataMode::UserCopy && matches!(op, BackendOp::Write { .. }) {
            let at = usize::from(tag.0);
            let len = self.descs[at].nr_sectors * 512;
            assert_eq!(self.moved[at], Some(MemoryOp::CopyIn { len }), "O5: {tag:?}");
        }
    }

    fn check_bounds(&self, op: BackendOp) {
        let bytes = self.sectors * 512;
        match op {
            BackendOp::Read { offset, buffer, len }
            | BackendOp::Write { offset, buffer, len, .. } => {
                assert!(offset + u64::from(len) <= bytes, "I7: inside the device");
                assert!(buffer + len <= self.buffer_bytes, "I7: inside the buffer");
                assert_ne!(len, 0, "an operation moves something");
            }
            BackendOp::PunchHole { offset, len } | BackendOp::ZeroRange { offset, len } => {
                assert!(offset + len <= bytes, "I7: inside the device");
            }
            BackendOp::Sync => {}
        }
    }

    /// A message is there and somebody watches: complete the watch.
    pub fn ring_doorbell(&mut self) {
        if self.watched && !self.inbox.is_empty() {
            self.watched = false;
            self.cq.push_back(Cqe { token: Token::Link(Link::Worker), res: 1 });
        }
    }

    /// Delivers a request on an armed tag.
    pub fn deliver(&mut self, tag: Tag, desc: IoDesc) {
        assert_eq!(self.tags[usize::from(tag.0)], KernelTag::Armed);
        self.tags[usize::from(tag.0)] = KernelTag::Served;
        let mut desc = desc;
        let carries_data = desc.op_flags & 0xff < 2;
        if self.data == DataMode::ZeroCopy && carries_data {
            if std::mem::take(&mut self.falls_back) {
                desc.op_flags |= NEED_REG_BUF;
            } else {
                self.slots[usize::from(tag.0)] = Slot::Automatic;
            }
        }
        self.descs[usize::from(tag.0)] = desc;
        self.moved[usize::from(tag.0)] = None;
        if self.batch.in_use {
            self.batch.listed.push_back(tag);
            return;
        }
        if self.data == DataMode::GetData && desc.op_flags & 0xff == WRITE {
            self.tags[usize::from(tag.0)] = KernelTag::Announced;
            self.cq.push_back(Cqe { token: Token::Io(tag), res: 1 });
            return;
        }
        self.cq.push_back(Cqe { token: Token::Io(tag), res: 0 });
    }

    /// Aborts an armed tag.
    pub fn abort(&mut self, tag: Tag) {
        assert_eq!(self.tags[usize::from(tag.0)], KernelTag::Armed);
        self.tags[usize::from(tag.0)] = KernelTag::Cancelled;
        self.cq.push_back(Cqe { token: Token::Io(tag), res: -19 });
    }

    /// The tags in a state.
    pub fn tags_in(&self, state: KernelTag) -> Vec<Tag> {
        (0u16..)
            .zip(&self.tags)
            .filter(|(_, tag)| **tag == state)
            .map(|(number, _)| Tag(number))
            .collect()
    }
}

impl Ring for Kernel {
    fn sq_space(&self) -> u32 {
        (self.entries - self.sq.len()) as u32
    }
    fn sq_ready(&self) -> u32 {
        self.sq.len() as u32
    }
    fn push(&mut self, sqe: Sqe) -> Result<(), SqFull> {
        if self.sq.len() == self.entries {
            return Err(SqFull);
        }
        self.sq.push_back(sqe);
        Ok(())
    }
    fn reap(&mut self) -> Option<Cqe> {
        let cqe = self.cq.pop_front()?;
        if cqe.token == Token::Tags && cqe.res >= 0 {
            self.batch.telling = self.batch.told.pop_front().expect("a list for each");
        }
        Some(cqe)
    }
}

impl QueueIo for Kernel {
    fn hear_worker(&mut self) -> Received<ToQueue> {
        self.inbox.pop_front().map_or(Received::Empty, Received::Message)
    }
    fn tell_worker(&mut self, message: FromQueue) {
        self.sent.push(message);
    }
    fn push_batch(&mut self, op: BatchOp, elements: &[Element]) -> Result<(), SqFull> {
        let mut list = self.batch.spare.pop().expect("one command at a time");
        list.extend_from_slice(elements);
        self.push(Sqe::Timer { generation: 0, ms: 0 })?;
        self.batch.commands.push_back((op, list));
        Ok(())
    }
    fn told(&self, nth: u16) -> Tag {
        self.batch.telling.0[usize::from(nth)]
    }
    fn give_back(&mut self) {
        let mut tags = std::mem::take(&mut self.batch.telling.0);
        assert!(!tags.is_empty(), "a buffer is given back once");
        tags.clear();
        self.batch.spare_tags.push(tags);
        self.batch.buffers += 1;
    }
    fn goes_on(&self) -> bool {
        self.batch.telling.1
    }
    fn descriptor(&self, tag: Tag) -> IoDesc {
        let state = self.tags[usize::from(tag.0)];
        assert!(matches!(state, KernelTag::Served | KernelTag::Announced), "I2: {tag:?}");
        self.descs[usize::from(tag.0)]
    }
    fn memory(&mut self, tag: Tag, place: Place, op: MemoryOp) -> i32 {
        assert_eq!(self.tags[usize::from(tag.0)], KernelTag::Served, "I2: {tag:?}");
        self.check_place(tag, place);
        match op {
            MemoryOp::Load { offset, len } | MemoryOp::Store { offset, len } => {
                assert!(offset + u64::from(len) <= self.sectors * 512, "I7: inside the device");
                assert!(len <= self.buffer_bytes, "I7: inside the buffer");
            }
            MemoryOp::Zero { offset, len } => assert!(offset + len <= self.sectors * 512, "I7"),
            MemoryOp::Clear { len } => assert!(len <= self.buffer_bytes, "I7"),
            MemoryOp::CopyIn { len } | MemoryOp::CopyOut { len } => {
                assert_eq!(self.data, DataMode::UserCopy, "refused with EACCES");
                let asked = u64::from(self.descs[usize::from(tag.0)].nr_sectors) * 512;
                assert_eq!(u64::from(len), asked, "no more than the descriptor says");
            }
        }
        self.memory += 1;
        let answer = self.answers.pop_front().unwrap_or(op.bytes() as i32);
        if i64::from(answer) == op.bytes() as i64 {
            self.moved[usize::from(tag.0)] = Some(op);
        }
        answer
    }
}

/// A configuration for tests.
pub fn config(depth: u16, entries: u32) -> QueueConfig {
    QueueConfig {
        id: QueueId(0),
        depth,
        buffer_bytes: 64 * 1024,
        sectors: 2048,
        entries,
        mode: RingMode::DeferTaskrun,
        data: DataMode::Copy,
        buffers: 0,
        shared_bytes: 0,
    }
}

/// Resumes until the queue waits or exits, taking everything it submits.
pub fn settle<T: Target>(queue: &mut Queue<T>, kernel: &mut Kernel, mut ret: Ret) -> Call {
    loop {
        match queue.resume(ret, kernel) {
            Call::Enter { submit, wait } => {
                let taken = kernel.submit(submit);
                kernel.tell();
                if wait > 0 && kernel.cq.is_empty() {
                    return Call::Enter { submit: 0, wait };
                }
                ret = Ret::Submitted(taken);
            }
            exit @ Call::Exit(_) => return exit,
            Call::SetupRing(_) | Call::MapQueue { .. } | Call::Sleep { .. } => ret = Ret::Done,
            other => panic!("a queue never asks for {other:?}"),
        }
    }
}
