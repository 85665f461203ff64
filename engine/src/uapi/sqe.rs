//! Where the fields of an `IORING_OP_URING_CMD` stand in a submission entry.

/// `IORING_OP_URING_CMD`.
pub const OP_URING_CMD: u8 = 46;
/// The opcode.
pub const OPCODE: usize = 0;
/// Flags (`IOSQE_*`).
pub const FLAGS: usize = 1;
/// The file.
pub const FD: usize = 4;
/// The command code, u32.
pub const CMD_OP: usize = 8;
/// Padding behind the command code; the kernel refuses anything but 0.
pub const PAD1: usize = 12;
/// The address, u64: automatic buffer registration, or a batch's elements.
pub const ADDR: usize = 16;
/// `IORING_URING_CMD_*`.
pub const URING_CMD_FLAGS: usize = 28;
/// Echoed in the completion.
pub const USER_DATA: usize = 32;
/// Buffer index or group.
pub const BUF_INDEX: usize = 40;
/// The payload.
pub const CMD: usize = 48;
/// Payload bytes in a 64-byte entry.
pub const CMD_BYTES_64: usize = 16;
/// Payload bytes in a 128-byte entry.
pub const CMD_BYTES_128: usize = 80;
