//! What becomes of a device, and of its requests, while it has no server.

use crate::uapi::Features;

/// What the kernel does with a device whose server is gone.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "kebab-case"))]
pub enum Recovery {
    /// The device is stopped: state DEAD, no disk, every request fails.
    #[default]
    None,
    /// State QUIESCED: requests that the server held fail, all others wait for the next one.
    Requeue,
    /// State QUIESCED: all requests wait for the next server, which is given again what the one before held.
    Reissue,
    /// State `FAIL_IO`: all requests fail until there is another server. Linux 6.18 or later.
    FailIo,
}

impl Recovery {
    /// Every kind.
    pub const ALL: [Self; 4] = [Self::None, Self::Requeue, Self::Reissue, Self::FailIo];

    /// The flags that ADD_DEV is to be given.
    pub const fn features(self) -> Features {
        let recovery = Features::USER_RECOVERY;
        match self {
            Self::None => Features::NONE,
            Self::Requeue => recovery,
            Self::Reissue => recovery.union(Features::USER_RECOVERY_REISSUE),
            Self::FailIo => recovery.union(Features::USER_RECOVERY_FAIL_IO),
        }
    }

    /// The name that users know it by.
    pub const fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Requeue => "requeue",
            Self::Reissue => "reissue",
            Self::FailIo => "fail-io",
        }
    }
}
