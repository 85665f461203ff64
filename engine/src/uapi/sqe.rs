//! Where the fields of an `IORING_OP_URING_CMD` stand in a submission entry.

/// `IORING_OP_URING_CMD`.
pub const OP_URING_CMD: u8 = 46;
/// `IORING_OP_URING_CMD128`: the same in a 128-byte entry of a ring with both sizes.
pub const OP_URING_CMD128: u8 = 64;
/// `IORING_SETUP_SQE128`: every entry of the ring has 128 bytes. Control commands need it.
pub const SETUP_SQE128: u32 = 1 << 10;
/// `IORING_URING_CMD_FIXED`, in [`URING_CMD_FLAGS`]: [`BUF_INDEX`] names a registered buffer.
pub const URING_CMD_FIXED: u32 = 1;
/// `IORING_URING_CMD_MULTISHOT`, in [`URING_CMD_FLAGS`]: with `IOSQE_BUFFER_SELECT`, and never without.
pub const URING_CMD_MULTISHOT: u32 = 2;
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
