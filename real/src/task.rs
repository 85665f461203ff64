//! What to serve: handed from the launcher to the supervisor, and from it to the worker.

use std::path::PathBuf;

use blkproof_engine::supervisor::Plan;
use blkproof_engine::sys::DeviceGeometry;
use blkproof_engine::target::{AnyTarget, File, Mem, Null, Target};
use blkproof_engine::uapi::{BasicParams, DevId, DevInfo, DiscardParams, ParamAttrs, Params};
use serde::{Deserialize, Serialize};

/// Bytes in a sector.
pub const SECTOR: u64 = 512;

/// Where the device's bytes are.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum TargetSpec {
    /// Nowhere.
    Null {
        /// Size of the device.
        bytes: u64,
    },
    /// In a memfd.
    Mem {
        /// Size of the device.
        bytes: u64,
    },
    /// In a file or on a block device.
    Loop {
        /// The file, absolute.
        file: PathBuf,
        /// Size of the device: the file's, rounded down to the logical block.
        bytes: u64,
        /// log2 of the logical block size.
        logical_bs_shift: u8,
        /// Whether holes can be punched.
        discard: bool,
        /// Whether ranges can be zeroed in place.
        zeroes: bool,
    },
}

impl TargetSpec {
    /// Its name on the command line.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Null { .. } => "null",
            Self::Mem { .. } => "mem",
            Self::Loop { .. } => "loop",
        }
    }

    /// Size of the device.
    pub const fn bytes(&self) -> u64 {
        match self {
            Self::Null { bytes } | Self::Mem { bytes } | Self::Loop { bytes, .. } => *bytes,
        }
    }

    /// Whether it can be asked to write zeroes; if not, the block layer writes them as data.
    const fn zeroes(&self) -> bool {
        match self {
            Self::Null { .. } | Self::Mem { .. } => true,
            Self::Loop { zeroes, .. } => *zeroes,
        }
    }

    /// The engine's target.
    pub fn target(&self) -> AnyTarget {
        match *self {
            Self::Null { bytes } => AnyTarget::Null(Null { sectors: bytes / SECTOR }),
            Self::Mem { bytes } => AnyTarget::Mem(Mem { sectors: bytes / SECTOR }),
            Self::Loop { file: _, bytes, logical_bs_shift, discard, zeroes: _ } => AnyTarget::File(File {
                sectors: bytes / SECTOR,
                logical_bs_shift,
                discard,
            }),
        }
    }
}

/// What the supervisor is to do.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Task {
    /// The device number wanted; `None` lets the kernel choose.
    pub id: Option<u32>,
    /// Hardware queues wanted.
    pub queues: u16,
    /// Tags of each queue.
    pub depth: u16,
    /// Bytes of each tag's buffer.
    pub buffer_bytes: u32,
    /// Where the bytes are.
    pub target: TargetSpec,
    /// The file that standard error goes to, to be renamed once the device has a number.
    pub log: Option<PathBuf>,
}

impl Task {
    /// The engine's plan.
    pub fn plan(&self) -> Plan {
        let info = DevInfo {
            nr_hw_queues: self.queues,
            queue_depth: self.depth,
            max_io_buf_bytes: self.buffer_bytes,
            dev_id: self.id.map_or(DevId::AUTO, DevId),
            ..DevInfo::default()
        };
        Plan::Serve { info, params: params(&self.target, self.buffer_bytes) }
    }
}

/// The largest discard or write-zeroes, in sectors: a gibibyte, so that one request does not keep a queue for long.
const MAX_DISCARD_SECTORS: u32 = 1 << 21;

/// What SET_PARAMS says of a target.
fn params(target: &TargetSpec, buffer_bytes: u32) -> Params {
    let geometry = target.target().geometry();
    let block_bytes = 1 << geometry.logical_bs_shift;
    let attrs = if geometry.volatile_cache {
        ParamAttrs::VOLATILE_CACHE.union(ParamAttrs::FUA)
    } else {
        ParamAttrs::default()
    };
    let basic = BasicParams {
        attrs,
        logical_bs_shift: geometry.logical_bs_shift,
        physical_bs_shift: geometry.physical_bs_shift,
        io_min_shift: geometry.logical_bs_shift,
        io_opt_shift: geometry.physical_bs_shift,
        max_sectors: buffer_bytes / SECTOR as u32,
        dev_sectors: geometry.sectors,
        ..BasicParams::default()
    };
    let discard = geometry.discard.then(|| DiscardParams {
        discard_granularity: block_bytes,
        max_discard_sectors: MAX_DISCARD_SECTORS,
        max_write_zeroes_sectors: if target.zeroes() { MAX_DISCARD_SECTORS } else { 0 },
        max_discard_segments: 1,
        ..DiscardParams::default()
    });
    Params { basic: Some(basic), discard, ..Params::default() }
}

/// What the worker is to do.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct WorkOrder {
    id: u32,
    queues: u16,
    depth: u16,
    buffer_bytes: u32,
    sectors: u64,
    /// Where the bytes are.
    pub target: TargetSpec,
}

impl WorkOrder {
    /// To serve this device.
    pub const fn new(device: DeviceGeometry, target: TargetSpec) -> Self {
        let DeviceGeometry { id, queues, depth, buffer_bytes, sectors } = device;
        Self { id: id.0, queues, depth, buffer_bytes, sectors, target }
    }

    /// The device.
    pub const fn device(&self) -> DeviceGeometry {
        let Self { id, queues, depth, buffer_bytes, sectors, target: _ } = *self;
        DeviceGeometry { id: DevId(id), queues, depth, buffer_bytes, sectors }
    }
}
