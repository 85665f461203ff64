//! Fields at offsets, in the machine's byte order.

use core::fmt;

/// Bytes that are not what the header says.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct DecodeError {
    /// The struct and field, as the header names them.
    pub field: &'static str,
    /// What was expected.
    pub expected: &'static str,
    /// What was there.
    pub got: u64,
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: expected {}, got {:#x}", self.field, self.expected, self.got)
    }
}

impl core::error::Error for DecodeError {}

/// A field that can stand in a struct of the header.
pub(super) trait Field: Copy {
    /// Writes it at `offset`.
    fn put(self, bytes: &mut [u8], offset: usize);
    /// Reads it from `offset`.
    fn get(bytes: &[u8], offset: usize) -> Self;
}

macro_rules! field {
    ($($int:ty),*) => {$(
        impl Field for $int {
            fn put(self, bytes: &mut [u8], offset: usize) {
                bytes[offset..offset + size_of::<$int>()].copy_from_slice(&self.to_ne_bytes());
            }
            fn get(bytes: &[u8], offset: usize) -> Self {
                let mut raw = [0; size_of::<$int>()];
                raw.copy_from_slice(&bytes[offset..offset + size_of::<$int>()]);
                Self::from_ne_bytes(raw)
            }
        }
    )*};
}

field!(u8, u16, u32, u64, i32);
