//! Round trips: what is encoded is decoded, and whatever bytes come, decoding does not panic.

use blkproof_engine::link::Link;
use blkproof_engine::sys::Token;
use blkproof_engine::uapi::{
    AutoBufReg, BasicParams, BatchElement, BatchFlags, BatchIo, CtrlCmd, DevId, DevInfo,
    DeviceState, DevtParams, DiscardParams, DmaAlignParams, Features, IntegrityParams, IoCmd,
    IoDesc, KernelSeries, ParamAttrs, Params, ParamsRule, QueueId, SegmentParams, ShmemBufReg, Tag,
    UserCopyPosition, ZonedParams,
};
use proptest::option;
use proptest::prelude::*;

fn state() -> impl Strategy<Value = DeviceState> {
    prop_oneof![
        Just(DeviceState::Dead),
        Just(DeviceState::Live),
        Just(DeviceState::Quiesced),
        Just(DeviceState::FailIo)
    ]
}

prop_compose! {
    fn dev_info()(
        small in any::<[u16; 3]>(), words in any::<[u32; 4]>(), pid in any::<i32>(), flags in any::<[u64; 2]>(), state in state(),
    ) -> DevInfo {
        DevInfo {
            nr_hw_queues: small[0], queue_depth: small[1], state, io_desc_size: small[2],
            max_io_buf_bytes: words[0], dev_id: DevId(words[1]), ublksrv_pid: pid, flags: Features(flags[0]),
            ublksrv_flags: flags[1], owner_uid: words[2], owner_gid: words[3],
        }
    }
}

prop_compose! {
    fn basic()(shifts in any::<[u8; 4]>(), words in any::<[u32; 3]>(), longs in any::<[u64; 2]>()) -> BasicParams {
        BasicParams {
            attrs: ParamAttrs(words[0]), logical_bs_shift: shifts[0], physical_bs_shift: shifts[1],
            io_opt_shift: shifts[2], io_min_shift: shifts[3], max_sectors: words[1],
            chunk_sectors: words[2], dev_sectors: longs[0], virt_boundary_mask: longs[1],
        }
    }
}

prop_compose! {
    fn params()(
        basic in option::of(basic()),
        discard in option::of(any::<([u32; 4], u16)>()),
        devt in option::of(any::<[u32; 4]>()),
        zoned in option::of(any::<[u32; 3]>()),
        dma in option::of(any::<u32>()),
        segment in option::of(any::<(u64, u32, u16)>()),
        integrity in option::of(any::<(u32, u16, [u8; 5])>()),
    ) -> Params {
        Params {
            basic,
            discard: discard.map(|(words, segments)| DiscardParams {
                discard_alignment: words[0], discard_granularity: words[1], max_discard_sectors: words[2],
                max_write_zeroes_sectors: words[3], max_discard_segments: segments,
            }),
            devt: devt.map(|words| DevtParams {
                char_major: words[0], char_minor: words[1], disk_major: words[2], disk_minor: words[3],
            }),
            zoned: zoned.map(|words| ZonedParams {
                max_open_zones: words[0], max_active_zones: words[1], max_zone_append_sectors: words[2],
            }),
            dma: dma.map(|alignment| DmaAlignParams { alignment }),
            segment: segment.map(|(seg_boundary_mask, max_segment_size, max_segments)| SegmentParams {
                seg_boundary_mask, max_segment_size, max_segments,
            }),
            integrity: integrity.map(|(flags, max_integrity_segments, bytes)| IntegrityParams {
                flags, max_integrity_segments, interval_exp: bytes[0], metadata_size: bytes[1],
                pi_offset: bytes[2], csum_type: bytes[3], tag_size: bytes[4],
            }),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn ctrl_cmd(words in any::<(u32, u16, u16, u64, u64, u16)>()) {
        let (dev_id, queue_id, len, addr, data, dev_path_len) = words;
        let cmd = CtrlCmd { dev_id: DevId(dev_id), queue_id, len, addr, data, dev_path_len };
        prop_assert_eq!(CtrlCmd::decode(&cmd.encode()), cmd);
    }

    #[test]
    fn device_info(info in dev_info()) {
        prop_assert_eq!(DevInfo::decode(&info.encode()), Ok(info));
    }

    #[test]
    fn device_info_of_any_bytes(bytes in any::<[[u8; 32]; 2]>()) {
        let mut raw = [0; 64];
        raw[..32].copy_from_slice(&bytes[0]);
        raw[32..].copy_from_slice(&bytes[1]);
        let _ = DevInfo::decode(&raw);
    }

    #[test]
    fn parameters(params in params()) {
        prop_assert_eq!(Params::decode(&params.encode()), Ok(params));
        for series in KernelSeries::ALL {
            let _ = params.validate(series, Features(u64::MAX), 1 << 20);
        }
    }

    /// A kernel with a shorter struct gives back the parts it has.
    #[test]
    fn parameters_of_an_older_kernel(params in params()) {
        let mut bytes = params.encode();
        bytes[0..4].copy_from_slice(&108u32.to_ne_bytes());
        let decoded = Params::decode(&bytes).unwrap();
        prop_assert_eq!(decoded, Params { dma: None, segment: None, integrity: None, ..params });
    }

    #[test]
    fn io_cmd(words in any::<(u16, u16, i32, u64)>()) {
        let (queue, tag, result, addr) = words;
        let cmd = IoCmd { queue: QueueId(queue), tag: Tag(tag), result, addr };
        prop_assert_eq!(IoCmd::decode(&cmd.encode()), cmd);
    }

    #[test]
    fn io_desc(words in any::<(u32, u32, u64, u64)>()) {
        let (op_flags, nr_sectors, start_sector, addr) = words;
        let desc = IoDesc { op_flags, nr_sectors, start_sector, addr };
        prop_assert_eq!(IoDesc::decode(&desc.encode()), desc);
        prop_assert_eq!(desc.flags().0 | op_flags & 0xff, op_flags);
    }

    #[test]
    fn batch(words in any::<(u16, u16, u8)>(), flags in 0u16..8, element in any::<(u16, u16, i32, u64, u64)>()) {
        let flags = BatchFlags::decode(flags).unwrap();
        let batch = BatchIo { queue: QueueId(words.0), flags, elements: words.1, element_bytes: words.2 };
        prop_assert_eq!(BatchIo::decode(&batch.encode()), Ok(batch));
        let (tag, buf_index, result, buf_addr, zone_lba) = element;
        let element = BatchElement {
            tag: Tag(tag), buf_index, result,
            buf_addr: if flags.buf_addr { buf_addr } else { 0 },
            zone_lba: if flags.zone_lba { zone_lba } else { 0 },
        };
        let bytes = element.encode(flags);
        prop_assert!(bytes[usize::from(flags.element_bytes())..].iter().all(|byte| *byte == 0));
        prop_assert_eq!(BatchElement::decode(flags, &bytes), element);
    }

    #[test]
    fn shmem(addr in any::<u64>(), len in any::<u64>(), read_only in any::<bool>()) {
        let reg = ShmemBufReg { addr, len, read_only };
        prop_assert_eq!(ShmemBufReg::decode(&reg.encode()), Ok(reg));
    }

    #[test]
    fn auto_buf_reg(index in any::<u16>(), fallback in any::<bool>()) {
        let reg = AutoBufReg { index, fallback };
        prop_assert_eq!(AutoBufReg::decode(reg.encode()), Ok(reg));
    }

    #[test]
    fn user_copy(queue in 0u16..4096, tag in any::<u16>(), byte in 0u32..1 << 25, integrity in any::<bool>()) {
        let position = UserCopyPosition { queue: QueueId(queue), tag: Tag(tag), byte, integrity };
        prop_assert_eq!(UserCopyPosition::decode(position.encode().unwrap()), Some(position));
    }

    #[test]
    fn tokens(user_data in any::<u64>(), number in any::<u32>(), tag in any::<u16>()) {
        if let Some(token) = Token::decode(user_data) {
            prop_assert_eq!(token.encode(), user_data);
        }
        for token in [
            Token::Io(Tag(tag)), Token::Backend(Tag(tag)), Token::Timer(number), Token::Control(number),
            Token::Worker, Token::Cancel, Token::Link(Link::Queue(QueueId(tag))), Token::Link(Link::Operator),
        ] {
            prop_assert_eq!(Token::decode(token.encode()), Some(token));
        }
    }
}

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

#[test]
fn each_rule_of_set_params_can_be_broken() {
    let check = |params: Params, series, flags| params.validate(series, flags, 512 * 1024);
    let newest = KernelSeries::V7_3;
    for series in KernelSeries::ALL {
        assert_eq!(check(good(), series, Features::NONE), Ok(()));
    }
    let basic = |change: fn(&mut BasicParams)| {
        let mut params = good();
        params.basic.as_mut().map(change);
        params
    };
    let broken = [
        (Params::default(), ParamsRule::BasicPresent),
        (basic(|basic| basic.logical_bs_shift = 8), ParamsRule::LogicalBlock),
        (basic(|basic| basic.io_opt_shift = 29), ParamsRule::Shift),
        (
            basic(|basic| (basic.logical_bs_shift, basic.physical_bs_shift) = (12, 9)),
            ParamsRule::PhysicalBlock,
        ),
        (basic(|basic| basic.max_sectors = 1025), ParamsRule::MaxSectorsBuffer),
        (basic(|basic| basic.max_sectors = 7), ParamsRule::MaxSectorsPage),
        (
            Params {
                discard: Some(DiscardParams {
                    max_discard_sectors: 1,
                    discard_granularity: 512,
                    ..DiscardParams::default()
                }),
                ..good()
            },
            ParamsRule::OneDiscardSegment,
        ),
        (
            Params { discard: Some(DiscardParams::default()), ..good() },
            ParamsRule::DiscardGranularity,
        ),
        (Params { devt: Some(DevtParams::default()), ..good() }, ParamsRule::DevtReadOnly),
        (Params { zoned: Some(ZonedParams::default()), ..good() }, ParamsRule::Zoned),
        (
            Params { dma: Some(DmaAlignParams { alignment: 4096 }), ..good() },
            ParamsRule::DmaAlignment,
        ),
        (Params { segment: Some(SegmentParams::default()), ..good() }, ParamsRule::Segment),
        (Params { integrity: Some(IntegrityParams::default()), ..good() }, ParamsRule::Integrity),
    ];
    for (params, rule) in broken {
        assert_eq!(check(params, newest, Features::NONE), Err(rule));
        assert!(!rule.to_string().is_empty());
    }
    assert_eq!(check(good(), newest, Features::ZONED), Err(ParamsRule::ZoneSize));
    let small = basic(|basic| basic.max_sectors = 7);
    assert_eq!(
        check(small, KernelSeries::V6_18, Features::NONE),
        Ok(()),
        "6.18 lets START_DEV find out"
    );
}
