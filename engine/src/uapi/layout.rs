//! Encodings and layouts: ioctl numbers, the descriptor mapping, user-copy positions.

use super::{QueueId, Tag};

/// Most hardware queues (`UBLK_MAX_NR_QUEUES`).
pub const QUEUES_MAX: u16 = 4096;
/// Most tags in a queue (`UBLK_MAX_QUEUE_DEPTH`).
pub const DEPTH_MAX: u16 = 4096;
/// The page size that descriptor mappings are rounded to (x86-64).
const PAGE: u64 = 4096;

/// `_IOC_READ`.
pub(super) const READ: u32 = 2;
/// `_IOC_READ | _IOC_WRITE`.
pub(super) const READ_WRITE: u32 = 3;

/// `_IOC(direction, 'u', nr, size)`.
pub const fn ioc(direction: u32, nr: u8, size: u32) -> u32 {
    (direction << 30) | (size << 16) | ((b'u' as u32) << 8) | nr as u32
}

/// Where a queue's descriptor array begins in the mapping of the character device (`ublk_ch_mmap`). The stride is that of
/// a queue of the largest depth, whatever the depth is.
pub const fn desc_map_offset(queue: QueueId, desc_bytes: u16) -> u64 {
    let stride = (DEPTH_MAX as u64 * desc_bytes as u64).next_multiple_of(PAGE);
    queue.0 as u64 * stride
}

/// The exact length of a queue's mapping: any other is refused.
pub const fn desc_map_bytes(depth: u16, desc_bytes: u16) -> u64 {
    (depth as u64 * desc_bytes as u64).next_multiple_of(PAGE)
}

/// A position for `pread` and `pwrite` on the character device: which byte of which request.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct UserCopyPosition {
    /// The queue.
    pub queue: QueueId,
    /// The tag.
    pub tag: Tag,
    /// The byte, below 2^25.
    pub byte: u32,
    /// The integrity buffer instead of the data buffer.
    pub integrity: bool,
}

impl UserCopyPosition {
    /// `UBLKSRV_IO_BUF_OFFSET`.
    pub const BASE: u64 = 0x8000_0000;
    /// Bits of the byte offset within a request.
    pub const BYTE_BITS: u32 = 25;
    /// Bits of the tag.
    pub const TAG_BITS: u32 = 16;
    /// Bits of the queue.
    pub const QUEUE_BITS: u32 = 12;
    /// The flag for the integrity buffer.
    pub const INTEGRITY: u64 = 1 << 62;

    /// The position. `None` if a part is out of range.
    pub const fn encode(&self) -> Option<u64> {
        if self.byte >= 1 << Self::BYTE_BITS || self.queue.0 >= 1 << Self::QUEUE_BITS {
            return None;
        }
        let position = Self::BASE
            + ((self.queue.0 as u64) << (Self::BYTE_BITS + Self::TAG_BITS))
            + ((self.tag.0 as u64) << Self::BYTE_BITS)
            + self.byte as u64;
        Some(if self.integrity { position | Self::INTEGRITY } else { position })
    }

    /// The parts. `None` below the base or beyond the last queue.
    pub const fn decode(position: u64) -> Option<Self> {
        let integrity = position & Self::INTEGRITY != 0;
        let Some(rest) = (position & !Self::INTEGRITY).checked_sub(Self::BASE) else {
            return None;
        };
        let queue = rest >> (Self::BYTE_BITS + Self::TAG_BITS);
        if queue >= 1 << Self::QUEUE_BITS {
            return None;
        }
        Some(Self {
            queue: QueueId(queue as u16),
            tag: Tag((rest >> Self::BYTE_BITS) as u16),
            byte: (rest & ((1 << Self::BYTE_BITS) - 1)) as u32,
            integrity,
        })
    }
}
