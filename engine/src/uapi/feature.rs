//! Feature flags (`UBLK_F_*`).

use core::fmt;

/// A set of feature flags, as in `ublksrv_ctrl_dev_info.flags` and GET_FEATURES.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Features(pub u64);

macro_rules! features {
    ($($bit:literal $name:ident $text:literal;)*) => {
        impl Features {
            $(#[doc = $text] pub const $name: Self = Self(1 << $bit);)*

            /// Every flag this crate knows, with its bit and its name in the header.
            pub const ALL: &'static [(u8, &'static str)] =
                &[$(($bit, concat!("UBLK_F_", stringify!($name)))),*];
        }
    };
}

features! {
    0 SUPPORT_ZERO_COPY "Requests' pages can be registered as io_uring buffers (REGISTER_IO_BUF).";
    1 URING_CMD_COMP_IN_TASK "Forced on by the driver; no effect.";
    2 NEED_GET_DATA "Writes are delivered in two steps; the server names the buffer in the second.";
    3 USER_RECOVERY "The disk outlives its server; I/O is queued until the next one.";
    4 USER_RECOVERY_REISSUE "Requests in flight at a server's death are delivered again.";
    5 UNPRIVILEGED_DEV "The device belongs to a user without CAP_SYS_ADMIN.";
    6 CMD_IOCTL_ENCODE "Commands are ioctl-encoded. Forced on.";
    7 USER_COPY "The server moves data by pread and pwrite on the character device.";
    8 ZONED "A zoned device.";
    9 USER_RECOVERY_FAIL_IO "With USER_RECOVERY: I/O fails while there is no server.";
    10 UPDATE_SIZE "UPDATE_SIZE exists.";
    11 AUTO_BUF_REG "The driver registers each request's pages by itself.";
    12 QUIESCE "QUIESCE_DEV exists; needs USER_RECOVERY.";
    13 PER_IO_DAEMON "Each tag has its own serving task.";
    14 BUF_REG_OFF_DAEMON "Buffers can be registered from any task.";
    15 BATCH_IO "The batch command set.";
    16 INTEGRITY "Integrity metadata; needs USER_COPY.";
    17 SAFE_STOP_DEV "TRY_STOP_DEV exists.";
    18 NO_AUTO_PART_SCAN "START_DEV scans no partitions.";
    19 SHMEM_ZC "Shared-memory zero copy (REG_BUF).";
    20 IO_DESC_SIZE "The size of a descriptor can be chosen.";
}

impl Features {
    /// No flag.
    pub const NONE: Self = Self(0);

    /// Whether all of `other` are in this set.
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Flags in either set.
    #[must_use]
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Flags in both sets.
    #[must_use]
    pub const fn intersection(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// Flags in this set and not in the other.
    #[must_use]
    pub const fn difference(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// The flags in this set, lowest bit first: bit and header name; a bit this crate does not know has no name.
    pub fn iter(self) -> impl Iterator<Item = (u8, Option<&'static str>)> {
        (0..64u8).filter(move |bit| self.0 >> bit & 1 == 1).map(|bit| {
            let known = Self::ALL.iter().find(|(known, _)| *known == bit);
            (bit, known.map(|(_, name)| *name))
        })
    }
}

impl fmt::Display for Features {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut separator = "";
        for (bit, name) in self.iter() {
            match name {
                Some(name) => write!(f, "{separator}{name}")?,
                None => write!(f, "{separator}bit {bit}")?,
            }
            separator = " ";
        }
        if self.0 == 0 { f.write_str("none") } else { Ok(()) }
    }
}
