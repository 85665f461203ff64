//! Shared-memory zero copy: `struct ublk_shmem_buf_reg`.

use super::bytes::{DecodeError, Field};

/// The buffer of REG_BUF.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
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
