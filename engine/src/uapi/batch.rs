//! Batch I/O: `struct ublk_batch_io` and its elements.

use super::bytes::{DecodeError, Field};
use super::{QueueId, Tag};

/// Most tags that one completion of FETCH_IO_CMDS delivers.
pub const FETCH_BATCH_TAGS_MAX: usize = 128;
/// Bytes of a tag in the buffer of such a completion.
pub const FETCH_BATCH_TAG_BYTES: usize = size_of::<u16>();

/// Flags of a batch (`UBLK_BATCH_F_*`).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct BatchFlags {
    /// Elements carry a sector (zone append).
    pub zone_lba: bool,
    /// Elements carry a buffer address.
    pub buf_addr: bool,
    /// Automatic registration falls back instead of failing.
    pub auto_buf_reg_fallback: bool,
}

impl BatchFlags {
    const ZONE_LBA: u16 = 1;
    const BUF_ADDR: u16 = 2;
    const FALLBACK: u16 = 4;

    /// To the number.
    pub const fn encode(self) -> u16 {
        (if self.zone_lba { Self::ZONE_LBA } else { 0 })
            | (if self.buf_addr { Self::BUF_ADDR } else { 0 })
            | (if self.auto_buf_reg_fallback { Self::FALLBACK } else { 0 })
    }

    /// From the number.
    ///
    /// # Errors
    /// For unknown flags.
    pub const fn decode(flags: u16) -> Result<Self, DecodeError> {
        if flags & !(Self::ZONE_LBA | Self::BUF_ADDR | Self::FALLBACK) != 0 {
            return Err(DecodeError {
                field: "ublk_batch_io.flags",
                expected: "flags 1, 2 and 4 only",
                got: flags as u64,
            });
        }
        Ok(Self {
            zone_lba: flags & Self::ZONE_LBA != 0,
            buf_addr: flags & Self::BUF_ADDR != 0,
            auto_buf_reg_fallback: flags & Self::FALLBACK != 0,
        })
    }

    /// Bytes of an element: 8, and 8 for each optional part.
    pub const fn element_bytes(self) -> u8 {
        8 + 8 * (self.zone_lba as u8 + self.buf_addr as u8)
    }
}

/// `struct ublk_batch_io`: the payload of a batch command.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct BatchIo {
    /// The queue.
    pub queue: QueueId,
    /// What the elements carry.
    pub flags: BatchFlags,
    /// How many elements.
    pub elements: u16,
    /// Bytes of each: [`BatchFlags::element_bytes`], or 2 for FETCH_IO_CMDS.
    pub element_bytes: u8,
}

impl BatchIo {
    /// Bytes.
    pub const SIZE: usize = 16;

    /// To bytes.
    pub fn encode(&self) -> [u8; Self::SIZE] {
        let mut bytes = [0; Self::SIZE];
        self.queue.0.put(&mut bytes, 0);
        self.flags.encode().put(&mut bytes, 2);
        self.elements.put(&mut bytes, 4);
        self.element_bytes.put(&mut bytes, 6);
        bytes
    }

    /// From bytes.
    ///
    /// # Errors
    /// For unknown flags.
    pub fn decode(bytes: &[u8; Self::SIZE]) -> Result<Self, DecodeError> {
        Ok(Self {
            queue: QueueId(u16::get(bytes, 0)),
            flags: BatchFlags::decode(u16::get(bytes, 2))?,
            elements: u16::get(bytes, 4),
            element_bytes: u8::get(bytes, 6),
        })
    }
}

/// An element of PREP_IO_CMDS or COMMIT_IO_CMDS. Which optional parts are there, the batch's flags say.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct BatchElement {
    /// The tag.
    pub tag: Tag,
    /// Automatic registration: the slot.
    pub buf_index: u16,
    /// COMMIT: the result.
    pub result: i32,
    /// Copy mode: the tag's buffer.
    pub buf_addr: u64,
    /// Zone append: the sector written.
    pub zone_lba: u64,
}

impl BatchElement {
    /// Bytes of an element with every part.
    pub const SIZE_MAX: usize = 24;

    /// Writes the element; the first [`BatchFlags::element_bytes`] bytes count.
    pub fn encode(&self, flags: BatchFlags) -> [u8; Self::SIZE_MAX] {
        let mut bytes = [0; Self::SIZE_MAX];
        self.tag.0.put(&mut bytes, 0);
        self.buf_index.put(&mut bytes, 2);
        self.result.put(&mut bytes, 4);
        let mut next = 8;
        if flags.buf_addr {
            self.buf_addr.put(&mut bytes, next);
            next += 8;
        }
        if flags.zone_lba {
            self.zone_lba.put(&mut bytes, next);
        }
        bytes
    }

    /// Reads an element.
    pub fn decode(flags: BatchFlags, bytes: &[u8; Self::SIZE_MAX]) -> Self {
        let mut element = Self {
            tag: Tag(u16::get(bytes, 0)),
            buf_index: u16::get(bytes, 2),
            result: i32::get(bytes, 4),
            buf_addr: 0,
            zone_lba: 0,
        };
        let mut next = 8;
        if flags.buf_addr {
            element.buf_addr = u64::get(bytes, next);
            next += 8;
        }
        if flags.zone_lba {
            element.zone_lba = u64::get(bytes, next);
        }
        element
    }
}
