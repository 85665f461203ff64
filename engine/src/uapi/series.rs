//! The kernel series that the project is tested on.

use core::fmt;

use super::Features;

/// A kernel series.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum KernelSeries {
    /// 6.12.
    V6_12,
    /// 6.18.
    V6_18,
    /// 7.3.
    V7_3,
}

impl KernelSeries {
    /// All of them, oldest first.
    pub const ALL: [Self; 3] = [Self::V6_12, Self::V6_18, Self::V7_3];

    /// What GET_FEATURES answers.
    pub const fn features(self) -> Features {
        match self {
            // 6.12 knows zero copy's bit and masks it out.
            Self::V6_12 => Features((1 << 9) - 1).difference(Features::SUPPORT_ZERO_COPY),
            Self::V6_18 => Features((1 << 15) - 1),
            Self::V7_3 => Features((1 << 21) - 1),
        }
    }
}

impl fmt::Display for KernelSeries {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V6_12 => "6.12",
            Self::V6_18 => "6.18",
            Self::V7_3 => "7.3",
        })
    }
}
