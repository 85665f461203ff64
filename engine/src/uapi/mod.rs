//! The kernel's user API of ublk (`linux/ublk_cmd.h`) as safe types.
//!
//! Every struct encodes to and decodes from its bytes, in the machine's byte order, without allocation. What comes from the
//! kernel is parsed at the border: an unknown state or operation is an error here and does not exist inside.
//! The numbers are tested against a table and against the header itself (`tests/uapi_*.rs`).

mod batch;
mod bytes;
mod control;
mod errno;
mod feature;
mod id;
mod io;
mod layout;
mod params;
mod series;
mod shmem;
pub mod sqe;

pub use batch::{BatchElement, BatchFlags, BatchIo, FETCH_BATCH_TAG_BYTES, FETCH_BATCH_TAGS_MAX};
pub use bytes::DecodeError;
pub use control::{ControlOp, CtrlCmd, DevInfo, DeviceState};
pub use errno::Errno;
pub use feature::Features;
pub use id::{DevId, QueueId, Tag};
pub use io::{AutoBufReg, FetchResult, IoCmd, IoDesc, IoOp, RequestFlags, RequestOp};
pub use layout::{DEPTH_MAX, QUEUES_MAX, UserCopyPosition, desc_map_bytes, desc_map_offset, ioc};
pub use params::{
    BasicParams, DevtParams, DiscardParams, DmaAlignParams, IntegrityParams, ParamAttrs, Params,
    ParamsRule, SegmentParams, ZonedParams,
};
pub use series::KernelSeries;
pub use shmem::{ShmemAddr, ShmemBufReg};
