//! What batch commands refer to: their elements, and the buffers that the kernel writes tags into. None of it is ever unmapped.

use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicU16, Ordering};

use blkproof_engine::batch::{BatchOp, Element};
use blkproof_engine::data::Address;
use blkproof_engine::uapi::{
    BatchElement, BatchFlags, BatchIo, Errno, FETCH_BATCH_TAG_BYTES, FETCH_BATCH_TAGS_MAX, QueueId,
    Tag,
};
use io_uring::types::BufRingEntry;

use super::memory::map_populated;
use super::queue_ring::QueueShape;

/// Bytes of an entry in the ring of buffers.
const ENTRY_BYTES: usize = size_of::<BufRingEntry>();
/// The group that the buffers of a queue's ring are in.
pub(super) const GROUP: u16 = 0;

/// The memory of one queue's batches.
#[derive(Debug)]
pub(super) struct Batches {
    /// A ring of buffers, which the kernel takes from its head.
    ring: NonNull<BufRingEntry>,
    /// Entries of the ring, a power of two.
    entries: u16,
    /// How many buffers were given to the kernel so far, modulo 2^16.
    tail: u16,
    /// The buffers, one after another.
    buffers: NonNull<u16>,
    /// Tags that fit into one of them.
    each: usize,
    count: u16,
    /// The elements of the command in flight.
    elements: NonNull<u8>,
    elements_max: u16,
    /// The buffer of the completion that was reaped last.
    last: Option<u16>,
}

impl Batches {
    /// Obtains memory for a queue of `depth` tags and `count` buffers; none is given to the kernel yet.
    ///
    /// # Errors
    /// What `mmap` answered.
    pub(super) fn new(depth: u16, count: u16) -> Result<Self, Errno> {
        let entries = count.next_power_of_two();
        let each = usize::from(depth).min(FETCH_BATCH_TAGS_MAX);
        let ring = map_populated(usize::from(entries) * ENTRY_BYTES)?;
        let buffers = map_populated(usize::from(count) * each * FETCH_BATCH_TAG_BYTES)?;
        let elements = map_populated(usize::from(depth) * BatchElement::SIZE_MAX)?;
        Ok(Self {
            ring: ring.cast(),
            entries,
            tail: 0,
            buffers: buffers.cast(),
            each,
            count,
            elements,
            elements_max: depth,
            last: None,
        })
    }

    /// Where the ring of buffers is, and how many entries it has.
    pub(super) fn ring(&self) -> (u64, u16) {
        (self.ring.as_ptr().expose_provenance() as u64, self.entries)
    }

    fn buffer(&self, number: u16) -> *mut u16 {
        assert!(number < self.count, "I7: a buffer that there is");
        // SAFETY: below the count, so inside the mapping.
        unsafe { self.buffers.as_ptr().add(usize::from(number) * self.each) }
    }

    /// Gives all buffers to the kernel.
    pub(super) fn provide_all(&mut self) {
        for number in 0..self.count {
            self.provide(number);
        }
    }

    fn provide(&mut self, number: u16) {
        let at = self.buffer(number).expose_provenance() as u64;
        let slot = usize::from(self.tail & (self.entries - 1));
        // SAFETY: inside the mapping, which has a power of two of entries. The kernel reads an entry only below the tail, and has taken the
        // one that was here before: no more buffers are in the ring than there are entries. No other reference to an entry exists.
        let entry = unsafe { &mut *self.ring.as_ptr().add(slot) };
        entry.set_addr(at);
        entry.set_len((self.each * FETCH_BATCH_TAG_BYTES) as u32);
        entry.set_bid(number);
        self.tail = self.tail.wrapping_add(1);
        // SAFETY: the tail lies in the first entry, in a field that `set_…` above leave alone; it is aligned, and valid as long as the mapping.
        let tail =
            unsafe { AtomicU16::from_ptr(BufRingEntry::tail(self.ring.as_ptr()).cast_mut()) };
        // The kernel must see the entry before the tail.
        tail.store(self.tail, Ordering::Release);
    }

    /// A completion was reaped, with this buffer.
    pub(super) const fn told_in(&mut self, buffer: Option<u16>) {
        self.last = buffer;
    }

    /// The `nth` tag in the buffer of the completion that was reaped last.
    pub(super) fn told(&self, nth: u16) -> Tag {
        let number = self.last.expect("I1: tags are read before their buffer is given back");
        assert!(usize::from(nth) < self.each, "I7: inside the buffer");
        // SAFETY: inside the buffer, and aligned as buffers are whole numbers of tags in a page-aligned mapping. The kernel has written it before
        // it posted the completion, and does not write it again before it is given back; volatile, because another party wrote it.
        Tag(unsafe { self.buffer(number).add(usize::from(nth)).read_volatile() })
    }

    /// Gives the buffer of the completion that was reaped last back. A completion without one took none.
    pub(super) fn give_back(&mut self) {
        if let Some(number) = self.last.take() {
            self.provide(number);
        }
    }

    /// Writes the elements of a command. No other is in flight (the engine sends one at a time). The command, and where its elements are.
    pub(super) fn write(
        &mut self,
        queue: QueueId,
        op: BatchOp,
        elements: &[Element],
        buffer: impl Fn(Tag) -> u64,
    ) -> (BatchIo, u64) {
        assert!(elements.len() <= usize::from(self.elements_max), "I7: no more elements than tags");
        let first = elements.first().map_or(Address::Nothing, |element| element.address);
        let flags = BatchFlags {
            zone_lba: false,
            buf_addr: matches!(first, Address::Buffer),
            auto_buf_reg_fallback: matches!(first, Address::Slot(slot) if slot.fallback),
        };
        let each = flags.element_bytes();
        for (nth, element) in elements.iter().enumerate() {
            let (buf_addr, buf_index) = match element.address {
                Address::Buffer => (buffer(element.tag), 0),
                Address::Nothing => (0, 0),
                Address::Slot(slot) => (0, slot.index),
            };
            let result = match op {
                BatchOp::Prep => 0,
                BatchOp::Commit => element.result,
            };
            let encoded =
                BatchElement { tag: element.tag, buf_index, result, buf_addr, zone_lba: 0 };
            let bytes = encoded.encode(flags);
            // SAFETY: the mapping has room for `elements_max` elements of the largest size, and the kernel reads none of them now.
            unsafe {
                let to = self.elements.as_ptr().add(nth * usize::from(each));
                ptr::copy_nonoverlapping(bytes.as_ptr(), to, usize::from(each));
            }
        }
        let io = BatchIo { queue, flags, elements: elements.len() as u16, element_bytes: each };
        (io, self.elements.as_ptr().expose_provenance() as u64)
    }

    /// The command that has the kernel tell of requests.
    pub(super) fn fetch(shape: QueueShape) -> BatchIo {
        let flags = BatchFlags::default();
        BatchIo {
            queue: shape.queue,
            flags,
            elements: 0,
            element_bytes: FETCH_BATCH_TAG_BYTES as u8,
        }
    }
}
