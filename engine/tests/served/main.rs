//! The supervisor of a device that outlives its workers: it replaces them, and changes the device.

mod bench;
mod change;
mod recovery;
