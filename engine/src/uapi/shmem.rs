//! Shared-memory zero copy: `struct ublk_shmem_buf_reg`, and the address that names a place in registered memory.

use super::bytes::{DecodeError, Field};

/// The buffer of REG_BUF.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct ShmemBufReg {
    /// First byte, page aligned.
    pub addr: u64,
    /// Bytes, page aligned, 1 page to 4 GiB.
    pub len: u64,
    /// The server only reads it.
    pub read_only: bool,
}

impl ShmemBufReg {
    /// Bytes.
    pub const SIZE: usize = 24;
    /// Most bytes of one registration.
    pub const LEN_MAX: u64 = 1 << 32;
    /// `UBLK_SHMEM_BUF_READ_ONLY`.
    const READ_ONLY: u32 = 1;

    /// To bytes.
    pub fn encode(&self) -> [u8; Self::SIZE] {
        let mut bytes = [0; Self::SIZE];
        self.addr.put(&mut bytes, 0);
        self.len.put(&mut bytes, 8);
        (if self.read_only { Self::READ_ONLY } else { 0 }).put(&mut bytes, 16);
        bytes
    }

    /// From bytes.
    ///
    /// # Errors
    /// For unknown flags or a reserved field that is not 0.
    pub fn decode(bytes: &[u8; Self::SIZE]) -> Result<Self, DecodeError> {
        let error = |field, got| Err(DecodeError { field, expected: "0 or READ_ONLY", got });
        let flags = u32::get(bytes, 16);
        if flags & !Self::READ_ONLY != 0 {
            return error("ublk_shmem_buf_reg.flags", u64::from(flags));
        }
        let reserved = u32::get(bytes, 20);
        if reserved != 0 {
            return error("ublk_shmem_buf_reg.reserved", u64::from(reserved));
        }
        Ok(Self {
            addr: u64::get(bytes, 0),
            len: u64::get(bytes, 8),
            read_only: flags & Self::READ_ONLY != 0,
        })
    }
}

/// What [`IoDesc::addr`](super::IoDesc::addr) is under [`RequestFlags::SHMEM_ZC`](super::RequestFlags::SHMEM_ZC): a
/// place in registered memory (`ublk_shmem_zc_addr`).
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Default)]
pub struct ShmemAddr {
    /// The registration: REG_BUF's result.
    pub index: u16,
    /// The byte in it.
    pub offset: u32,
}

impl ShmemAddr {
    /// `UBLK_SHMEM_ZC_IDX_OFF`.
    const INDEX_SHIFT: u32 = 32;

    /// The value of `addr`.
    pub const fn encode(self) -> u64 {
        (self.index as u64) << Self::INDEX_SHIFT | self.offset as u64
    }

    /// From the value of `addr`.
    ///
    /// # Errors
    /// If the reserved bits above the index are not 0.
    pub const fn decode(addr: u64) -> Result<Self, DecodeError> {
        let index = addr >> Self::INDEX_SHIFT;
        if index > u16::MAX as u64 {
            return Err(DecodeError {
                field: "ublksrv_io_desc.addr",
                expected: "an index below 2^16 above an offset of 32 bits",
                got: addr,
            });
        }
        Ok(Self { index: index as u16, offset: addr as u32 })
    }
}
