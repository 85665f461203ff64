//! Numbers of devices, queues and tags.

/// A device number: the N of `/dev/ublkbN`. Below 2^20, or [`DevId::AUTO`].
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct DevId(pub u32);

impl DevId {
    /// In ADD_DEV: the kernel chooses the number.
    pub const AUTO: Self = Self(u32::MAX);
    /// One more than the largest number (`UBLK_MAX_UBLKS`, 1 << MINORBITS).
    pub const LIMIT: u32 = 1 << 20;
}

impl Default for DevId {
    fn default() -> Self {
        Self::AUTO
    }
}

/// The number of a hardware queue, 0..4096.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct QueueId(pub u16);

/// The number of a request slot in its queue, 0..4096.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Tag(pub u16);
