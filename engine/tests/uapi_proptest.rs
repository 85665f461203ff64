//! Round trips: what is encoded is decoded, and whatever bytes come, decoding does not panic.

use blkproof_engine::link::Link;
use blkproof_engine::sys::Token;
use blkproof_engine::uapi::{
    AutoBufReg, BasicParams, BatchElement, BatchFlags, BatchIo, ControlOp, CtrlCmd, DevId, DevInfo,
    DeviceState, DevtParams, DiscardParams, DmaAlignParams, Features, FetchResult, IntegrityParams,
    IoCmd, IoDesc, IoOp, KernelSeries, ParamAttrs, Params, QueueId, SegmentParams, ShmemAddr,
    ShmemBufReg, Tag, UserCopyPosition, ZonedParams,
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

    /// A kernel with a shorter struct gives back the parts that lie in it whole: 6.12's ends in the middle of `dma`.
    #[test]
    fn parameters_of_an_older_kernel(params in params()) {
        let of_6_18 = Params { integrity: None, ..params };
        let of_6_12 = Params { dma: None, segment: None, ..of_6_18 };
        for (len, expected) in [(136u32, of_6_18), (112, of_6_12)] {
            let mut bytes = params.encode();
            bytes[0..4].copy_from_slice(&len.to_ne_bytes());
            prop_assert_eq!(Params::decode(&bytes), Ok(expected));
        }
    }

    #[test]
    fn parameters_of_any_bytes(len in any::<u32>(), types in any::<u32>(), rest in any::<[[u8; 16]; 9]>()) {
        let mut bytes = [0; Params::SIZE];
        bytes[0..4].copy_from_slice(&len.to_ne_bytes());
        bytes[4..8].copy_from_slice(&types.to_ne_bytes());
        bytes[8..].copy_from_slice(rest.as_flattened());
        prop_assert_eq!(Params::decode(&bytes).is_ok(), (8..=152).contains(&len));
        bytes[0..4].copy_from_slice(&152u32.to_ne_bytes());
        let params = Params::decode(&bytes).unwrap();
        prop_assert_eq!(params.types(), types & 0x7f, "bits that nobody knows are dropped");
        prop_assert_eq!(Params::decode(&params.encode()), Ok(params));
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
    fn shmem_addr(index in any::<u16>(), offset in any::<u32>(), addr in any::<u64>()) {
        let place = ShmemAddr { index, offset };
        prop_assert_eq!(ShmemAddr::decode(place.encode()), Ok(place));
        match ShmemAddr::decode(addr) {
            Ok(place) => prop_assert_eq!(place.encode(), addr),
            Err(error) => prop_assert_eq!(error.got, addr),
        }
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
    fn user_copy_of_any_position(position in any::<u64>()) {
        if let Some(parts) = UserCopyPosition::decode(position) {
            prop_assert_eq!(parts.encode(), Some(position));
        }
    }

    #[test]
    fn commands_and_results_of_any_number(cmd_op in any::<u32>(), res in any::<i32>()) {
        if let Ok(op) = ControlOp::decode(cmd_op) {
            prop_assert_eq!(op.ioctl(), cmd_op);
        }
        if let Ok(op) = IoOp::decode(cmd_op) {
            prop_assert_eq!(op.ioctl(), cmd_op);
        }
        let result = FetchResult::from_result(res);
        prop_assert_eq!(FetchResult::from_result(result.to_result()), result);
    }

    #[test]
    fn tokens(user_data in any::<u64>(), number in any::<u32>(), tag in any::<u16>()) {
        if let Some(token) = Token::decode(user_data) {
            prop_assert_eq!(token.encode(), user_data);
        }
        for token in [
            Token::Io(Tag(tag)), Token::Backend(Tag(tag)), Token::Timer(number), Token::Control(number),
            Token::Worker, Token::Supervisor, Token::Cancel, Token::Link(Link::Queues), Token::Link(Link::Operator),
        ] {
            prop_assert_eq!(Token::decode(token.encode()), Some(token));
        }
    }
}
