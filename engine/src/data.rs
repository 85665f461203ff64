//! How the bytes of a request get from the kernel to the server, and back.

use crate::uapi::{AutoBufReg, Features, Tag};

/// A device's data mode. It is settled when the device is added, and holds for all of its tags.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "kebab-case"))]
pub enum DataMode {
    /// The driver copies between the request and the tag's buffer: before it delivers a write, and when a read is committed.
    #[default]
    Copy,
    /// As [`DataMode::Copy`], but a write is announced first, and copied when the server asks for it (`UBLK_F_NEED_GET_DATA`). Nothing is gained by
    /// that here, as buffers are pinned for all tags anyway.
    GetData,
    /// The server copies, by `pread` and `pwrite` of the character device, while it owns the tag (`UBLK_F_USER_COPY`).
    UserCopy,
    /// The driver puts each request's pages into the queue ring's table of buffers, in the slot of the tag's number, and the backend's operations
    /// use them in place (`UBLK_F_AUTO_BUF_REG`). What it cannot register the server registers by hand (`UBLK_F_SUPPORT_ZERO_COPY`).
    ZeroCopy,
}

impl DataMode {
    /// The features that decide how data moves.
    pub(crate) const DECISIVE: Features = Features::SUPPORT_ZERO_COPY
        .union(Features::NEED_GET_DATA)
        .union(Features::USER_COPY)
        .union(Features::AUTO_BUF_REG);

    /// Every mode.
    pub const ALL: [Self; 4] = [Self::Copy, Self::GetData, Self::UserCopy, Self::ZeroCopy];

    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Copy => "copy",
            Self::GetData => "get-data",
            Self::UserCopy => "user-copy",
            Self::ZeroCopy => "zero-copy",
        }
    }

    /// The features that make a device one of this mode.
    pub const fn features(self) -> Features {
        match self {
            Self::Copy => Features::NONE,
            Self::GetData => Features::NEED_GET_DATA,
            Self::UserCopy => Features::USER_COPY,
            Self::ZeroCopy => Features::AUTO_BUF_REG.union(Features::SUPPORT_ZERO_COPY),
        }
    }

    /// The mode of a device with these features. `None` if it has some that the engine does not serve.
    pub fn of(granted: Features) -> Option<Self> {
        Self::ALL.into_iter().find(|mode| Features(granted.0 & Self::DECISIVE.0) == mode.features())
    }

    /// Whether memory can be shared with clients as well. Not where writes are announced: NEED_GET_DATA makes the kernel forget where the data is, and
    /// copies nothing.
    pub const fn shares(self) -> bool {
        match self {
            Self::Copy | Self::UserCopy | Self::ZeroCopy => true,
            Self::GetData => false,
        }
    }

    /// What a FETCH or COMMIT says of the data. Anything else is refused with EINVAL.
    pub const fn address(self, tag: Tag) -> Address {
        match self {
            // Where an announced write shall go, could also be said later.
            Self::Copy | Self::GetData => Address::Buffer,
            Self::UserCopy => Address::Nothing,
            // One slot for each tag: two that share one fail each other's requests (H41).
            Self::ZeroCopy => Address::Slot(AutoBufReg { index: tag.0, fallback: true }),
        }
    }

    /// What a queue has for each tag. `backend`: whether its target works with backend operations, whose data must be in memory.
    pub const fn tag_memory(self, backend: bool) -> TagMemory {
        match self {
            Self::Copy | Self::GetData => TagMemory::Buffer,
            Self::UserCopy if backend => TagMemory::Buffer,
            Self::UserCopy => TagMemory::Nothing,
            Self::ZeroCopy => TagMemory::Slot,
        }
    }
}

/// Where the data of a request is.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum Place {
    /// Where the device's mode has it: in the tag's buffer, in the kernel, or in the tag's slot.
    #[default]
    Tag,
    /// In the memory that clients share with the server, from this byte on (`UBLK_F_SHMEM_ZC`). The client put it there, or looks for it there:
    /// nobody copies it.
    Shared(u32),
}

/// What a queue has for each of its tags.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum TagMemory {
    /// Nothing.
    Nothing,
    /// A pinned buffer.
    Buffer,
    /// An empty slot in the ring's table of buffers, of the tag's number.
    Slot,
}

/// What stands in the `addr` of a FETCH or COMMIT.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum Address {
    /// The tag's buffer.
    Buffer,
    /// 0.
    Nothing,
    /// Where the driver is to register the pages.
    Slot(AutoBufReg),
}
