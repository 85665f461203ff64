//! Hashing that gives the same value on every machine.

use std::hash::Hasher;

use siphasher::sip128::SipHasher13;

/// A hasher that feeds integers as little-endian bytes and `usize` as `u64`.
pub(crate) struct StableHasher(pub(crate) SipHasher13);

impl Hasher for StableHasher {
    fn finish(&self) -> u64 {
        self.0.finish()
    }
    fn write(&mut self, bytes: &[u8]) {
        self.0.write(bytes);
    }
    fn write_u8(&mut self, value: u8) {
        self.0.write(&[value]);
    }
    fn write_u16(&mut self, value: u16) {
        self.0.write(&value.to_le_bytes());
    }
    fn write_u32(&mut self, value: u32) {
        self.0.write(&value.to_le_bytes());
    }
    fn write_u64(&mut self, value: u64) {
        self.0.write(&value.to_le_bytes());
    }
    fn write_u128(&mut self, value: u128) {
        self.0.write(&value.to_le_bytes());
    }
    fn write_usize(&mut self, value: usize) {
        self.0.write(&(value as u64).to_le_bytes());
    }
    fn write_i8(&mut self, value: i8) {
        self.0.write(&value.to_le_bytes());
    }
    fn write_i16(&mut self, value: i16) {
        self.0.write(&value.to_le_bytes());
    }
    fn write_i32(&mut self, value: i32) {
        self.0.write(&value.to_le_bytes());
    }
    fn write_i64(&mut self, value: i64) {
        self.0.write(&value.to_le_bytes());
    }
    fn write_i128(&mut self, value: i128) {
        self.0.write(&value.to_le_bytes());
    }
    fn write_isize(&mut self, value: isize) {
        self.0.write(&(value as i64).to_le_bytes());
    }
}
