//! Device parameters: `struct ublk_params`.

use core::fmt;

use super::bytes::{DecodeError, Field};
use super::{Features, KernelSeries};

/// Attributes of a device (`UBLK_ATTR_*`).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct ParamAttrs(pub u32);

impl ParamAttrs {
    /// No writes.
    pub const READ_ONLY: Self = Self(1);
    /// Seeks cost.
    pub const ROTATIONAL: Self = Self(2);
    /// Completed writes may be lost until a flush. Without it the block layer never sends FLUSH and drops FUA.
    pub const VOLATILE_CACHE: Self = Self(4);
    /// FUA writes are understood; honoured only together with [`ParamAttrs::VOLATILE_CACHE`].
    pub const FUA: Self = Self(8);

    /// Attributes in either set.
    #[must_use]
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether all of `other` are set.
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
}

/// Declares a parameter struct with its fields' offsets.
macro_rules! param_struct {
    ($(#[$meta:meta])* $name:ident[$size:literal] { $($(#[$field_meta:meta])* $field:ident: $type:ty = $offset:literal,)* }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
        #[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
        pub struct $name { $($(#[$field_meta])* pub $field: $type,)* }

        impl $name {
            /// Bytes.
            pub const SIZE: usize = $size;

            fn put(&self, bytes: &mut [u8], base: usize) {
                $(self.$field.put(bytes, base + $offset);)*
            }

            fn get(bytes: &[u8], base: usize) -> Self {
                Self { $($field: <$type>::get(bytes, base + $offset),)* }
            }
        }
    };
}

impl Field for ParamAttrs {
    fn put(self, bytes: &mut [u8], offset: usize) {
        self.0.put(bytes, offset);
    }
    fn get(bytes: &[u8], offset: usize) -> Self {
        Self(u32::get(bytes, offset))
    }
}

param_struct! {
    /// `struct ublk_param_basic`: size and limits. Every SET_PARAMS needs it.
    BasicParams[32] {
        /// Attributes.
        attrs: ParamAttrs = 0,
        /// log2 of the logical block in bytes, 9..=12.
        logical_bs_shift: u8 = 4,
        /// log2 of the physical block in bytes, at least the logical one.
        physical_bs_shift: u8 = 5,
        /// log2 of the optimal request in bytes.
        io_opt_shift: u8 = 6,
        /// log2 of the smallest efficient request in bytes.
        io_min_shift: u8 = 7,
        /// Largest request in sectors: at least 8, at most `max_io_buf_bytes` / 512.
        max_sectors: u32 = 8,
        /// Requests do not cross multiples of this many sectors; 0 for no such limit. Zone size of a zoned device.
        chunk_sectors: u32 = 12,
        /// Size in sectors of 512 bytes.
        dev_sectors: u64 = 16,
        /// Memory segments do not cross this boundary.
        virt_boundary_mask: u64 = 24,
    }
}

param_struct! {
    /// `struct ublk_param_discard`.
    DiscardParams[20] {
        /// Offset of the first whole granule, bytes.
        discard_alignment: u32 = 0,
        /// Granule in bytes, not 0.
        discard_granularity: u32 = 4,
        /// Largest discard in sectors; 0 for none.
        max_discard_sectors: u32 = 8,
        /// Largest write-zeroes in sectors; 0 for none.
        max_write_zeroes_sectors: u32 = 12,
        /// 1 if discards are supported.
        max_discard_segments: u16 = 16,
    }
}

param_struct! {
    /// `struct ublk_param_devt`: device numbers. Read-only: SET_PARAMS refuses it.
    DevtParams[16] {
        /// Of the character device.
        char_major: u32 = 0,
        /// Of the character device.
        char_minor: u32 = 4,
        /// Of the block device.
        disk_major: u32 = 8,
        /// Of the block device.
        disk_minor: u32 = 12,
    }
}

param_struct! {
    /// `struct ublk_param_zoned`.
    ZonedParams[32] {
        /// Most zones open.
        max_open_zones: u32 = 0,
        /// Most zones active.
        max_active_zones: u32 = 4,
        /// Largest append in sectors, not 0.
        max_zone_append_sectors: u32 = 8,
    }
}

param_struct! {
    /// `struct ublk_param_dma_align`.
    DmaAlignParams[8] {
        /// Alignment mask: below 4096, a power of two less 1.
        alignment: u32 = 0,
    }
}

param_struct! {
    /// `struct ublk_param_segment`.
    SegmentParams[16] {
        /// Segments do not cross: a power of two less 1, at least 4095 and at most 2^63 - 1.
        seg_boundary_mask: u64 = 0,
        /// Bytes, at least 4096.
        max_segment_size: u32 = 8,
        /// Segments in a request.
        max_segments: u16 = 12,
    }
}

param_struct! {
    /// `struct ublk_param_integrity`.
    IntegrityParams[16] {
        /// [`IntegrityParams::INTEGRITY`] and [`IntegrityParams::REFTAG`] (`LBMD_PI_CAP_*`).
        flags: u32 = 0,
        /// 0 for no limit.
        max_integrity_segments: u16 = 4,
        /// log2 of the bytes one tuple protects.
        interval_exp: u8 = 6,
        /// Bytes of metadata for each interval, not 0.
        metadata_size: u8 = 7,
        /// Where the tuple stands in the metadata.
        pi_offset: u8 = 8,
        /// One of `CSUM_*` (`LBMD_PI_CSUM_*`).
        csum_type: u8 = 9,
        /// Bytes of application tag.
        tag_size: u8 = 10,
    }
}

/// `struct ublk_params`: which parts are there, the type bits say.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Params {
    /// Bit 0.
    pub basic: Option<BasicParams>,
    /// Bit 1.
    pub discard: Option<DiscardParams>,
    /// Bit 2.
    pub devt: Option<DevtParams>,
    /// Bit 3.
    pub zoned: Option<ZonedParams>,
    /// Bit 4.
    pub dma: Option<DmaAlignParams>,
    /// Bit 5.
    pub segment: Option<SegmentParams>,
    /// Bit 6.
    pub integrity: Option<IntegrityParams>,
}

/// Offsets of the parts.
mod at {
    pub(super) const LEN: usize = 0;
    pub(super) const TYPES: usize = 4;
    pub(super) const BASIC: usize = 8;
    pub(super) const DISCARD: usize = 40;
    pub(super) const DEVT: usize = 60;
    pub(super) const ZONED: usize = 76;
    pub(super) const DMA: usize = 108;
    pub(super) const SEGMENT: usize = 120;
    pub(super) const INTEGRITY: usize = 136;
}

impl Params {
    /// Bytes, in the newest header.
    pub const SIZE: usize = 152;
    /// Offsets of basic, discard, devt, zoned, dma, segment and integrity.
    pub const OFFSETS: [usize; 7] =
        [at::BASIC, at::DISCARD, at::DEVT, at::ZONED, at::DMA, at::SEGMENT, at::INTEGRITY];

    /// The type bits of the parts that are there.
    pub const fn types(&self) -> u32 {
        self.basic.is_some() as u32
            | (self.discard.is_some() as u32) << 1
            | (self.devt.is_some() as u32) << 2
            | (self.zoned.is_some() as u32) << 3
            | (self.dma.is_some() as u32) << 4
            | (self.segment.is_some() as u32) << 5
            | (self.integrity.is_some() as u32) << 6
    }

    /// To bytes. An older kernel takes the beginning and ignores the rest.
    pub fn encode(&self) -> [u8; Self::SIZE] {
        let mut bytes = [0; Self::SIZE];
        (Self::SIZE as u32).put(&mut bytes, at::LEN);
        self.types().put(&mut bytes, at::TYPES);
        if let Some(part) = &self.basic {
            part.put(&mut bytes, at::BASIC);
        }
        if let Some(part) = &self.discard {
            part.put(&mut bytes, at::DISCARD);
        }
        if let Some(part) = &self.devt {
            part.put(&mut bytes, at::DEVT);
        }
        if let Some(part) = &self.zoned {
            part.put(&mut bytes, at::ZONED);
        }
        if let Some(part) = &self.dma {
            part.put(&mut bytes, at::DMA);
        }
        if let Some(part) = &self.segment {
            part.put(&mut bytes, at::SEGMENT);
        }
        if let Some(part) = &self.integrity {
            part.put(&mut bytes, at::INTEGRITY);
        }
        bytes
    }

    /// From bytes. Parts beyond the length that the kernel gives are absent.
    ///
    /// # Errors
    /// For a length that does not hold the header, or is more than [`Params::SIZE`].
    pub fn decode(bytes: &[u8; Self::SIZE]) -> Result<Self, DecodeError> {
        let len = u32::get(bytes, at::LEN);
        if !(8..=Self::SIZE as u32).contains(&len) {
            return Err(DecodeError {
                field: "ublk_params.len",
                expected: "8..=152",
                got: u64::from(len),
            });
        }
        let types = u32::get(bytes, at::TYPES);
        let there = |bit: u32, offset: usize, size: usize| {
            types >> bit & 1 == 1 && offset + size <= len as usize
        };
        macro_rules! part {
            ($bit:literal, $offset:expr, $type:ty) => {
                there($bit, $offset, <$type>::SIZE).then(|| <$type>::get(bytes, $offset))
            };
        }
        Ok(Self {
            basic: part!(0, at::BASIC, BasicParams),
            discard: part!(1, at::DISCARD, DiscardParams),
            devt: part!(2, at::DEVT, DevtParams),
            zoned: part!(3, at::ZONED, ZonedParams),
            dma: part!(4, at::DMA, DmaAlignParams),
            segment: part!(5, at::SEGMENT, SegmentParams),
            integrity: part!(6, at::INTEGRITY, IntegrityParams),
        })
    }

    /// The first rule of the kernel that these parameters break (`ublk_validate_params`), for a device with these
    /// flags and this `max_io_buf_bytes`, on a kernel of this series.
    ///
    /// # Errors
    /// The rule; the kernel answers EINVAL.
    pub fn validate(
        &self,
        series: KernelSeries,
        flags: Features,
        max_io_buf_bytes: u32,
    ) -> Result<(), ParamsRule> {
        let basic = self.basic.as_ref().ok_or(ParamsRule::BasicPresent)?;
        basic.validate(series, flags, max_io_buf_bytes)?;
        if let Some(discard) = &self.discard {
            if discard.max_discard_sectors != 0 && discard.max_discard_segments != 1 {
                return Err(ParamsRule::OneDiscardSegment);
            }
            if discard.discard_granularity == 0 {
                return Err(ParamsRule::DiscardGranularity);
            }
        }
        if self.devt.is_some() {
            return Err(ParamsRule::DevtReadOnly);
        }
        match &self.zoned {
            Some(zoned) => {
                if !flags.contains(Features::ZONED) || zoned.max_zone_append_sectors == 0 {
                    return Err(ParamsRule::Zoned);
                }
                // The kernel shifts by the floor of the logarithm (`ublk_get_nr_zones`); a zoned device's
                // `chunk_sectors` is not 0 here.
                let zones = basic.dev_sectors >> basic.chunk_sectors.max(1).ilog2();
                let most = u64::from(zoned.max_active_zones.max(zoned.max_open_zones));
                // The kernel returns here: later parts are not looked at.
                return if most > zones { Err(ParamsRule::Zoned) } else { Ok(()) };
            }
            None if flags.contains(Features::ZONED) => return Err(ParamsRule::Zoned),
            None => {}
        }
        if series >= KernelSeries::V6_18 {
            if let Some(dma) = &self.dma
                && (dma.alignment >= 4096 || !(dma.alignment + 1).is_power_of_two())
            {
                return Err(ParamsRule::DmaAlignment);
            }
            if let Some(segment) = &self.segment {
                // All ones wraps to 0, which is no power of two: the kernel refuses "no boundary" in that spelling.
                let boundary = segment.seg_boundary_mask.wrapping_add(1);
                if !boundary.is_power_of_two()
                    || boundary < u64::from(SegmentParams::SEGMENT_BYTES_MIN)
                    || segment.max_segment_size < SegmentParams::SEGMENT_BYTES_MIN
                {
                    return Err(ParamsRule::Segment);
                }
            }
        }
        if series >= KernelSeries::V7_3
            && let Some(integrity) = &self.integrity
        {
            return integrity.validate(flags, basic.logical_bs_shift);
        }
        Ok(())
    }
}

impl SegmentParams {
    /// Least size and boundary of a segment in bytes (`UBLK_MIN_SEGMENT_SIZE`).
    pub const SEGMENT_BYTES_MIN: u32 = 4096;
}

impl BasicParams {
    fn validate(
        &self,
        series: KernelSeries,
        flags: Features,
        max_io_buf_bytes: u32,
    ) -> Result<(), ParamsRule> {
        if !(9..=12).contains(&self.logical_bs_shift) {
            return Err(ParamsRule::LogicalBlock);
        }
        let shifts = [self.physical_bs_shift, self.io_min_shift, self.io_opt_shift];
        if series >= KernelSeries::V7_3 && shifts.iter().any(|shift| *shift > 28) {
            return Err(ParamsRule::Shift);
        }
        if self.logical_bs_shift > self.physical_bs_shift {
            return Err(ParamsRule::PhysicalBlock);
        }
        if self.max_sectors > max_io_buf_bytes >> 9 {
            return Err(ParamsRule::MaxSectorsBuffer);
        }
        if series != KernelSeries::V6_18 && self.max_sectors < 8 {
            return Err(ParamsRule::MaxSectorsPage);
        }
        let chunk_bad = if series == KernelSeries::V6_18 {
            self.chunk_sectors == 0
        } else {
            !self.chunk_sectors.is_power_of_two()
        };
        if flags.contains(Features::ZONED) && chunk_bad {
            return Err(ParamsRule::ZoneSize);
        }
        Ok(())
    }
}

impl IntegrityParams {
    /// `LBMD_PI_CAP_INTEGRITY`: the device checks.
    pub const INTEGRITY: u32 = 1;
    /// `LBMD_PI_CAP_REFTAG`: reference tags are checked; needs a checksum.
    pub const REFTAG: u32 = 2;
    /// `LBMD_PI_CSUM_NONE`: no tuple.
    pub const CSUM_NONE: u8 = 0;
    /// `LBMD_PI_CSUM_IP`: a tuple of 8 bytes.
    pub const CSUM_IP: u8 = 1;
    /// `LBMD_PI_CSUM_CRC16_T10DIF`: a tuple of 8 bytes.
    pub const CSUM_CRC16_T10DIF: u8 = 2;
    /// `LBMD_PI_CSUM_CRC64_NVME`: a tuple of 16 bytes.
    pub const CSUM_CRC64_NVME: u8 = 4;

    fn validate(&self, flags: Features, logical_bs_shift: u8) -> Result<(), ParamsRule> {
        let tuple = match self.csum_type {
            Self::CSUM_NONE => 0,
            Self::CSUM_IP | Self::CSUM_CRC16_T10DIF => 8,
            Self::CSUM_CRC64_NVME => 16,
            _ => return Err(ParamsRule::Integrity),
        };
        let reftag_without_csum =
            self.flags & Self::REFTAG != 0 && self.csum_type == Self::CSUM_NONE;
        let fits = u16::from(self.pi_offset) + tuple <= u16::from(self.metadata_size);
        if !flags.contains(Features::INTEGRITY)
            || self.flags & !(Self::INTEGRITY | Self::REFTAG) != 0
            || self.metadata_size == 0
            || reftag_without_csum
            || !fits
            || !(9..=logical_bs_shift).contains(&self.interval_exp)
        {
            return Err(ParamsRule::Integrity);
        }
        Ok(())
    }
}

/// A rule of SET_PARAMS.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum ParamsRule {
    /// The basic part must be there.
    BasicPresent,
    /// The logical block is 512 to 4096 bytes.
    LogicalBlock,
    /// Block shifts are at most 28.
    Shift,
    /// The physical block is at least the logical block.
    PhysicalBlock,
    /// The largest request fits the buffer.
    MaxSectorsBuffer,
    /// The largest request is at least a page.
    MaxSectorsPage,
    /// A zoned device has zones, of a power of two since 7.3.
    ZoneSize,
    /// A device that discards says one segment.
    OneDiscardSegment,
    /// The discard granule is not 0.
    DiscardGranularity,
    /// Device numbers cannot be set.
    DevtReadOnly,
    /// Zoned parameters with a zoned device and only there, with appends, and zones enough.
    Zoned,
    /// The DMA alignment is a mask below a page.
    DmaAlignment,
    /// Segments are at least a page, and so is their boundary, a power of two.
    Segment,
    /// Integrity parameters agree with themselves and the device.
    Integrity,
}

impl fmt::Display for ParamsRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::BasicPresent => "the basic parameters are missing",
            Self::LogicalBlock => "the logical block must be 512 to 4096 bytes",
            Self::Shift => "a block size exceeds 2^28 bytes",
            Self::PhysicalBlock => "the physical block is smaller than the logical block",
            Self::MaxSectorsBuffer => "the largest request exceeds the buffer",
            Self::MaxSectorsPage => "the largest request is smaller than a page",
            Self::ZoneSize => "the zone size must be a power of two",
            Self::OneDiscardSegment => "a discard has exactly one segment",
            Self::DiscardGranularity => "the discard granularity is 0",
            Self::DevtReadOnly => "device numbers cannot be set",
            Self::Zoned => "the zoned parameters do not agree with the device",
            Self::DmaAlignment => "the DMA alignment must be a mask below 4096",
            Self::Segment => "a segment limit is below a page or no power of two",
            Self::Integrity => "the integrity parameters do not agree with the device",
        })
    }
}
