//! How the bytes of a request get from the kernel to the server, and back.

use crate::uapi::Features;

/// A device's data mode. It is settled when the device is added, and holds for all of its tags.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "kebab-case"))]
pub enum DataMode {
    /// The driver copies between the request and the tag's buffer: before it delivers a write, and when a read is committed.
    #[default]
    Copy,
    /// The server copies, by `pread` and `pwrite` of the character device, while it owns the tag (`UBLK_F_USER_COPY`).
    UserCopy,
}

impl DataMode {
    /// The features that make a device one of this mode.
    pub const fn features(self) -> Features {
        match self {
            Self::Copy => Features::NONE,
            Self::UserCopy => Features::USER_COPY,
        }
    }

    /// The mode of a device with these features. `None` if it has some that the engine does not serve.
    pub fn of(granted: Features) -> Option<Self> {
        const DECISIVE: Features = Features::SUPPORT_ZERO_COPY
            .union(Features::NEED_GET_DATA)
            .union(Features::USER_COPY)
            .union(Features::AUTO_BUF_REG);
        let modes = [Self::Copy, Self::UserCopy];
        modes.into_iter().find(|mode| Features(granted.0 & DECISIVE.0) == mode.features())
    }

    /// What a FETCH or COMMIT says of the data. Anything else is refused with EINVAL.
    pub const fn address(self) -> Address {
        match self {
            Self::Copy => Address::Buffer,
            Self::UserCopy => Address::Nothing,
        }
    }

    /// Whether a queue has a buffer for each tag. `backend`: whether its target works with backend operations, whose data must be in memory.
    pub const fn needs_buffers(self, backend: bool) -> bool {
        match self {
            Self::Copy => true,
            Self::UserCopy => backend,
        }
    }
}

/// What stands in the `addr` of a FETCH or COMMIT.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum Address {
    /// The tag's buffer.
    Buffer,
    /// 0.
    Nothing,
}
