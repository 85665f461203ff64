//! What to serve: handed from the launcher to the supervisor, and from it to the worker.

use std::path::PathBuf;

use blkproof_engine::data::DataMode;
use blkproof_engine::supervisor::{Plan, Recovery, Wanted};
use blkproof_engine::sys::DeviceGeometry;
use blkproof_engine::target::{AnyTarget, File, Mem, Null};
use blkproof_engine::uapi::{DevId, ShmemBufReg};
use serde::{Deserialize, Serialize};

use crate::tap::{Recording, WorkerRecording};

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

    /// The same of another size.
    #[must_use]
    pub fn resized(&self, to: u64) -> Self {
        let mut spec = self.clone();
        match &mut spec {
            Self::Null { bytes } | Self::Mem { bytes } | Self::Loop { bytes, .. } => *bytes = to,
        }
        spec
    }

    /// The engine's target.
    pub fn target(&self) -> AnyTarget {
        match *self {
            Self::Null { bytes } => AnyTarget::Null(Null { sectors: bytes / SECTOR }),
            Self::Mem { bytes } => AnyTarget::Mem(Mem { sectors: bytes / SECTOR }),
            Self::Loop { file: _, bytes, logical_bs_shift, discard, zeroes } => {
                AnyTarget::File(File {
                    sectors: bytes / SECTOR,
                    logical_bs_shift,
                    discard,
                    write_zeroes: zeroes,
                })
            }
        }
    }
}

/// Memory that clients share with the worker: a file of a file system in memory.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SharedSpec {
    /// The file, absolute.
    pub file: PathBuf,
    /// Its size, a multiple of its pages' and at most 4 GiB.
    pub bytes: u64,
    /// Which file it is: what is registered are pages, and another file of this name has others.
    pub device: u64,
    /// The same.
    pub inode: u64,
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
    /// The largest request in bytes, and the size of a tag's buffer.
    pub buffer_bytes: u32,
    /// How data is to move.
    pub data: DataMode,
    /// Whether commands are to be about many tags at a time.
    pub batch: bool,
    /// Where the bytes are.
    pub target: TargetSpec,
    /// What becomes of the device without a worker.
    pub recovery: Recovery,
    /// Whether a worker that is gone is replaced at once.
    pub restart: bool,
    /// A number that no other device has.
    pub identity: u64,
    /// The file that standard error goes to, to be renamed once the device has a number.
    pub log: Option<PathBuf>,
    /// The device is there, and has lost its worker and its supervisor.
    pub comes_back: bool,
    /// Where to record what supervisor and worker do.
    pub record: Option<Recording>,
    /// What clients share with the worker.
    pub shared: Option<SharedSpec>,
}

impl Task {
    /// The engine's plan. `shared`: the memory shared with clients, as it is mapped here.
    pub fn plan(&self, shared: Option<ShmemBufReg>) -> Plan {
        if let (true, Some(id)) = (self.comes_back, self.id) {
            return Plan::Recover {
                id: DevId(id),
                identity: self.identity,
                restart: self.restart,
                shared_bytes: self.shared.as_ref().map_or(0, |shared| shared.bytes),
            };
        }
        let wanted = Wanted {
            id: self.id.map(DevId),
            queues: self.queues,
            depth: self.depth,
            buffer_bytes: self.buffer_bytes,
            data: self.data,
            batch: self.batch,
            recovery: self.recovery,
            identity: self.identity,
            shared,
        };
        Plan::serve(wanted, self.restart, &self.target.target())
    }
}

/// What the worker is to do. The supervisor may be of an older program than the worker: what it does not say yet has a default.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct WorkOrder {
    /// The device.
    #[serde(flatten)]
    pub device: DeviceGeometry,
    /// Where the bytes are.
    pub target: TargetSpec,
    /// What clients share with it.
    pub shared: Option<SharedSpec>,
    /// Where to record what it does.
    pub record: Option<WorkerRecording>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_of_an_older_supervisor_is_understood() {
        let order = r#"{"id":3,"queues":2,"depth":64,"buffer_bytes":4096,"sectors":8,"data":"zero-copy","batch":true,
            "target":{"kind":"null","bytes":4096},"record":null}"#;
        let order: WorkOrder = serde_json::from_str(order).expect("understood");
        let DeviceGeometry { id, data, batch, shared_bytes, .. } = order.device;
        assert_eq!((id, data, batch), (DevId(3), DataMode::ZeroCopy, true));
        assert_eq!((shared_bytes, order.shared), (0, None));
    }
}
