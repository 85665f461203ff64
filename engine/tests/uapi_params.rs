//! The rules of SET_PARAMS, each from both sides of its bound, on the kernels that have it.

use blkproof_engine::uapi::{
    BasicParams, DevtParams, DiscardParams, DmaAlignParams, Features, IntegrityParams,
    KernelSeries, Params, ParamsRule, SegmentParams, ZonedParams,
};

use KernelSeries::{V6_12, V6_18, V7_3};

const OLD: [KernelSeries; 2] = [V6_12, V6_18];
const SINCE_6_18: [KernelSeries; 2] = [V6_18, V7_3];
const BUFFER_BYTES: u32 = 512 * 1024;

/// Parameters that every kernel takes.
fn good() -> Params {
    Params {
        basic: Some(BasicParams {
            logical_bs_shift: 9,
            physical_bs_shift: 12,
            max_sectors: 1024,
            dev_sectors: 2048,
            ..BasicParams::default()
        }),
        ..Params::default()
    }
}

fn basic(change: impl FnOnce(&mut BasicParams)) -> Params {
    let mut params = good();
    params.basic.as_mut().map(change);
    params
}

/// That these kernels refuse the parameters because of the rule.
#[track_caller]
fn refused(series: &[KernelSeries], params: Params, flags: Features, rule: ParamsRule) {
    for series in series {
        let verdict = params.validate(*series, flags, BUFFER_BYTES);
        assert_eq!(verdict, Err(rule), "{series}");
    }
    assert!(!rule.to_string().is_empty());
}

/// That these kernels take them.
#[track_caller]
fn taken(series: &[KernelSeries], params: Params, flags: Features) {
    for series in series {
        assert_eq!(params.validate(*series, flags, BUFFER_BYTES), Ok(()), "{series}");
    }
}

const ALL: &[KernelSeries] = &KernelSeries::ALL;
const NONE: Features = Features::NONE;

#[test]
fn basic_parameters() {
    taken(ALL, good(), NONE);
    refused(ALL, Params::default(), NONE, ParamsRule::BasicPresent);

    refused(ALL, basic(|it| it.logical_bs_shift = 8), NONE, ParamsRule::LogicalBlock);
    taken(ALL, basic(|it| it.logical_bs_shift = 12), NONE);
    refused(ALL, basic(|it| it.logical_bs_shift = 13), NONE, ParamsRule::LogicalBlock);

    let shifts: [fn(&mut BasicParams, u8); 3] = [
        |it, shift| it.physical_bs_shift = shift,
        |it, shift| it.io_min_shift = shift,
        |it, shift| it.io_opt_shift = shift,
    ];
    for set in shifts {
        taken(ALL, basic(|it| set(it, 28)), NONE);
        taken(&OLD, basic(|it| set(it, 29)), NONE);
        refused(&[V7_3], basic(|it| set(it, 29)), NONE, ParamsRule::Shift);
    }
    taken(ALL, basic(|it| it.physical_bs_shift = 9), NONE);
    refused(ALL, basic(|it| it.physical_bs_shift = 8), NONE, ParamsRule::PhysicalBlock);

    refused(ALL, basic(|it| it.max_sectors = 1025), NONE, ParamsRule::MaxSectorsBuffer);
    taken(ALL, basic(|it| it.max_sectors = 8), NONE);
    refused(&[V6_12, V7_3], basic(|it| it.max_sectors = 7), NONE, ParamsRule::MaxSectorsPage);
    // 6.18 leaves it to START_DEV to fail.
    taken(&[V6_18], basic(|it| it.max_sectors = 7), NONE);
}

#[test]
fn discards() {
    let with = |max_discard_sectors, max_discard_segments, discard_granularity| Params {
        discard: Some(DiscardParams {
            max_discard_sectors,
            max_discard_segments,
            discard_granularity,
            ..DiscardParams::default()
        }),
        ..good()
    };
    taken(ALL, with(1, 1, 512), NONE);
    taken(ALL, with(0, 0, 512), NONE);
    refused(ALL, with(1, 0, 512), NONE, ParamsRule::OneDiscardSegment);
    refused(ALL, with(1, 2, 512), NONE, ParamsRule::OneDiscardSegment);
    refused(ALL, with(0, 0, 0), NONE, ParamsRule::DiscardGranularity);
}

/// GET_PARAMS leaves the device numbers in: they must be taken out before SET_PARAMS.
#[test]
fn device_numbers_cannot_be_set() {
    let read_back = Params { devt: Some(DevtParams::default()), ..good() };
    refused(ALL, read_back, NONE, ParamsRule::DevtReadOnly);
}

#[test]
fn zones() {
    let with = |chunk_sectors, max_open_zones, max_active_zones, max_zone_append_sectors| Params {
        zoned: Some(ZonedParams { max_open_zones, max_active_zones, max_zone_append_sectors }),
        ..basic(|it| it.chunk_sectors = chunk_sectors)
    };
    let zoned = Features::ZONED;
    // 2048 sectors in zones of 256 are 8 zones.
    taken(ALL, with(256, 8, 8, 8), zoned);
    refused(ALL, with(256, 9, 0, 8), zoned, ParamsRule::Zoned);
    refused(ALL, with(256, 0, 9, 8), zoned, ParamsRule::Zoned);
    refused(ALL, with(256, 0, 0, 0), zoned, ParamsRule::Zoned);
    refused(ALL, with(256, 0, 0, 8), NONE, ParamsRule::Zoned);
    refused(ALL, basic(|it| it.chunk_sectors = 256), zoned, ParamsRule::Zoned);
    refused(ALL, with(0, 0, 0, 8), zoned, ParamsRule::ZoneSize);
    refused(&[V6_12, V7_3], with(384, 8, 8, 8), zoned, ParamsRule::ZoneSize);
    // With 6.18 any size passes, and is rounded down to a power of two where zones are counted.
    taken(&[V6_18], with(384, 8, 8, 8), zoned);
    refused(&[V6_18], with(384, 9, 0, 8), zoned, ParamsRule::Zoned);

    // With zoned parameters the kernel looks at nothing that stands behind them.
    let behind = Params { segment: Some(SegmentParams::default()), ..with(256, 0, 0, 8) };
    taken(ALL, behind, zoned);
}

#[test]
fn dma_alignment() {
    let with = |alignment| Params { dma: Some(DmaAlignParams { alignment }), ..good() };
    for alignment in [0, 3, 511, 4095] {
        taken(ALL, with(alignment), NONE);
    }
    for alignment in [2, 512, 4096, 8191, u32::MAX] {
        refused(&SINCE_6_18, with(alignment), NONE, ParamsRule::DmaAlignment);
        taken(&[V6_12], with(alignment), NONE);
    }
}

#[test]
fn segments() {
    let with = |seg_boundary_mask, max_segment_size| Params {
        segment: Some(SegmentParams { seg_boundary_mask, max_segment_size, max_segments: 0 }),
        ..good()
    };
    for boundary in [4095, 0xffff_ffff, u64::MAX >> 1] {
        taken(ALL, with(boundary, 4096), NONE);
    }
    // All ones overflows to 0 in the kernel, and 0 is no power of two.
    for boundary in [0, 2047, 4096, 4097, u64::MAX] {
        refused(&SINCE_6_18, with(boundary, 4096), NONE, ParamsRule::Segment);
        taken(&[V6_12], with(boundary, 4096), NONE);
    }
    refused(&SINCE_6_18, with(4095, 4095), NONE, ParamsRule::Segment);
}

#[test]
fn integrity() {
    let good_part = IntegrityParams {
        flags: IntegrityParams::INTEGRITY | IntegrityParams::REFTAG,
        interval_exp: 9,
        metadata_size: 16,
        pi_offset: 8,
        csum_type: IntegrityParams::CSUM_CRC16_T10DIF,
        ..IntegrityParams::default()
    };
    let with = |change: fn(&mut IntegrityParams)| {
        let mut part = good_part;
        change(&mut part);
        Params { integrity: Some(part), ..good() }
    };
    let has = Features::INTEGRITY;
    taken(ALL, with(|_| ()), has);
    let broken: [fn(&mut IntegrityParams); 9] = [
        |it| it.flags = 4,
        |it| it.csum_type = 3,
        |it| it.csum_type = 5,
        |it| it.metadata_size = 0,
        |it| it.csum_type = IntegrityParams::CSUM_NONE,
        |it| it.pi_offset = 9,
        |it| it.csum_type = IntegrityParams::CSUM_CRC64_NVME,
        |it| it.interval_exp = 8,
        |it| it.interval_exp = 10,
    ];
    for change in broken {
        refused(&[V7_3], with(change), has, ParamsRule::Integrity);
        taken(&OLD, with(change), has);
    }
    refused(&[V7_3], with(|_| ()), NONE, ParamsRule::Integrity);
    let no_tuple = with(|it| {
        (it.flags, it.csum_type) = (IntegrityParams::INTEGRITY, IntegrityParams::CSUM_NONE);
        it.pi_offset = 16;
    });
    taken(ALL, no_tuple, has);
    let long_tuple = with(|it| {
        (it.csum_type, it.pi_offset) = (IntegrityParams::CSUM_CRC64_NVME, 0);
    });
    taken(ALL, long_tuple, has);
    taken(ALL, with(|it| it.csum_type = IntegrityParams::CSUM_IP), has);
}
