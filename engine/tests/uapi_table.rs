//! The user API against the table of the protocol, as literals: every number, size and offset.

mod uapi_values;

use blkproof_engine::uapi::{
    AutoBufReg, BatchFlags, ControlOp, DeviceState, Errno, Features, FetchResult, IoOp,
    KernelSeries, QueueId, RequestOp, ShmemAddr, Tag, UserCopyPosition, desc_map_bytes,
    desc_map_offset,
};
use uapi_values::{Values, values};

#[test]
fn every_value_is_the_tables() {
    let (ours, table) = (values(), table());
    for (name, value) in &table {
        assert_eq!(ours.get(name), Some(value), "{name}");
    }
    for name in ours.keys() {
        assert!(table.contains_key(name), "{name} is missing in the table");
    }
}

#[test]
fn commands_are_decoded_from_their_values_only() {
    for op in ControlOp::ALL {
        assert_eq!(ControlOp::decode(op.ioctl()), Ok(op));
        assert!(IoOp::decode(op.ioctl()).is_err());
        assert!(ControlOp::decode(u32::from(op.nr())).is_err(), "the legacy form");
    }
    for op in IoOp::ALL {
        assert_eq!(IoOp::decode(op.ioctl()), Ok(op));
        assert!(ControlOp::decode(op.ioctl()).is_err());
    }
    let error = ControlOp::decode(0xc020_751a).unwrap_err();
    assert_eq!(error.to_string(), "sqe.cmd_op: expected UBLK_U_CMD_*, got 0xc020751a");
}

#[test]
fn commands_have_their_series() {
    let control = |series| ControlOp::ALL.into_iter().filter(|op| op.exists_in(series)).count();
    assert_eq!(KernelSeries::ALL.map(control), [13, 15, 18]);
    let io = |series| IoOp::ALL.into_iter().filter(|op| op.exists_in(series)).count();
    assert_eq!(KernelSeries::ALL.map(io), [3, 5, 8]);
    assert_eq!(ControlOp::QuiesceDev.since(), KernelSeries::V6_18);
    assert_eq!(ControlOp::RegBuf.since(), KernelSeries::V7_3);
    assert_eq!(IoOp::PrepIoCmds.since(), KernelSeries::V7_3);
}

#[test]
fn features_have_their_bits_and_series() {
    let bits: Vec<u8> = Features::ALL.iter().map(|(bit, _)| *bit).collect();
    assert_eq!(bits, (0..=20).collect::<Vec<u8>>());
    assert_eq!(KernelSeries::V6_12.features().0, 0x1fe);
    assert_eq!(KernelSeries::V6_18.features().0, 0x7fff);
    assert_eq!(KernelSeries::V7_3.features().0, 0x1f_ffff);
    assert_eq!(
        Features(0b101 | 1 << 40).to_string(),
        "UBLK_F_SUPPORT_ZERO_COPY UBLK_F_NEED_GET_DATA bit 40"
    );
    assert_eq!(Features::NONE.to_string(), "none");
}

#[test]
fn request_operations_have_their_numbers() {
    let numbers = RequestOp::ALL.map(RequestOp::encode);
    assert_eq!(numbers, [0, 1, 2, 3, 4, 5, 10, 11, 12, 13, 14, 15, 18]);
    for op in RequestOp::ALL {
        assert_eq!(RequestOp::decode(op.encode()), Some(op));
    }
    let known: Vec<u8> = (0..=255).filter(|op| RequestOp::decode(*op).is_some()).collect();
    assert_eq!(known, numbers);
}

#[test]
fn descriptor_mappings_have_the_stride_of_the_largest_depth() {
    assert_eq!(desc_map_offset(QueueId(0), 24), 0);
    assert_eq!(desc_map_offset(QueueId(1), 24), 0x18000);
    assert_eq!(desc_map_offset(QueueId(3), 64), 3 * 0x40000);
    assert_eq!(desc_map_bytes(1, 24), 4096);
    assert_eq!(desc_map_bytes(171, 24), 8192);
    assert_eq!(desc_map_bytes(4096, 24), 0x18000);
}

#[test]
fn user_copy_positions_have_their_bits() {
    let position = UserCopyPosition { queue: QueueId(1), tag: Tag(2), byte: 3, integrity: false };
    assert_eq!(position.encode(), Some(0x8000_0000 + (1 << 41) + (2 << 25) + 3));
    let position = UserCopyPosition { integrity: true, ..position };
    assert_eq!(position.encode().map(|position| position >> 62), Some(1));
    assert_eq!(UserCopyPosition { byte: 1 << 25, ..position }.encode(), None);
    assert_eq!(UserCopyPosition { queue: QueueId(4096), ..position }.encode(), None);
    assert_eq!(UserCopyPosition::decode(0x7fff_ffff), None);
}

#[test]
fn results_are_told_apart() {
    assert_eq!(FetchResult::from_result(0), FetchResult::Request);
    assert_eq!(FetchResult::from_result(1), FetchResult::NeedGetData);
    assert_eq!(FetchResult::from_result(-19), FetchResult::Abort);
    assert_eq!(FetchResult::from_result(-22), FetchResult::Error(Errno::EINVAL));
    assert_eq!(FetchResult::from_result(-125), FetchResult::Error(Errno::ECANCELED));
    assert_eq!(FetchResult::from_result(7), FetchResult::Error(Errno::EIO));
    assert_eq!(FetchResult::from_result(i32::MIN), FetchResult::Error(Errno::EIO));
}

#[test]
fn errnos_say_what_they_are() {
    assert_eq!(Errno::EBUSY.to_string(), "EBUSY (16): device or resource busy");
    assert_eq!(Errno(999).to_string(), "errno 999");
    for errno in Errno::ALL {
        assert_eq!(Errno::from_result(errno.to_result()), *errno);
        #[cfg(target_os = "linux")]
        assert!(
            std::io::Error::from_raw_os_error(i32::from(errno.0)).to_string().contains("os error")
        );
    }
    assert_eq!(Errno::ENOSPC.seen_by_client(), Errno::ENOSPC);
    assert_eq!(Errno::EINTR.seen_by_client(), Errno::EIO);
}

#[test]
fn small_encodings() {
    assert_eq!(AutoBufReg { index: 5, fallback: true }.encode(), 0x1_0005);
    assert!(AutoBufReg::decode(1 << 17).is_err());
    let all = BatchFlags { zone_lba: true, buf_addr: true, auto_buf_reg_fallback: true };
    assert_eq!((all.encode(), all.element_bytes()), (7, 24));
    assert!(BatchFlags::decode(8).is_err());
    assert!(ShmemAddr::decode(1 << 48).is_err());
    let error = DeviceState::decode(9).unwrap_err();
    assert_eq!(error.to_string(), "ublksrv_ctrl_dev_info.state: expected 0..=3, got 0x9");
}

fn table() -> Values {
    let mut table = Values::new();
    let mut add = |name: String, value| {
        assert_eq!(table.insert(name.clone(), value), None, "{name} twice");
    };
    let numbers =
        [COMMANDS, OPERATIONS, FEATURES, BITS, LIMITS, SUBMISSION_ENTRY, OPTIONAL_PARTS, ERRNOS];
    for (name, value) in numbers.concat() {
        add(name.to_owned(), value);
    }
    for (name, size, fields) in STRUCTS {
        add(format!("sizeof({name})"), *size);
        for (field, offset, size) in *fields {
            add(format!("offsetof({name}.{field})"), *offset);
            add(format!("sizeof({name}.{field})"), *size);
        }
    }
    add("sizeof(ublk_params)".to_owned(), 152);
    for (part, member, base, size, fields) in PARAMS {
        add(format!("sizeof({part})"), *size);
        add(format!("offsetof(ublk_params.{member})"), *base);
        for (field, offset, size) in *fields {
            add(format!("offsetof(ublk_params.{member}.{field})"), base + offset);
            add(format!("sizeof(ublk_params.{member}.{field})"), *size);
        }
    }
    table
}

/// Sections 1.3, 1.13 and 1.15, and the bare numbers of the legacy forms.
const COMMANDS: &[(&str, u64)] = &[
    ("UBLK_U_CMD_GET_QUEUE_AFFINITY", 0x8020_7501),
    ("UBLK_U_CMD_GET_DEV_INFO", 0x8020_7502),
    ("UBLK_U_CMD_ADD_DEV", 0xc020_7504),
    ("UBLK_U_CMD_DEL_DEV", 0xc020_7505),
    ("UBLK_U_CMD_START_DEV", 0xc020_7506),
    ("UBLK_U_CMD_STOP_DEV", 0xc020_7507),
    ("UBLK_U_CMD_SET_PARAMS", 0xc020_7508),
    ("UBLK_U_CMD_GET_PARAMS", 0x8020_7509),
    ("UBLK_U_CMD_START_USER_RECOVERY", 0xc020_7510),
    ("UBLK_U_CMD_END_USER_RECOVERY", 0xc020_7511),
    ("UBLK_U_CMD_GET_DEV_INFO2", 0x8020_7512),
    ("UBLK_U_CMD_GET_FEATURES", 0x8020_7513),
    ("UBLK_U_CMD_DEL_DEV_ASYNC", 0x8020_7514),
    ("UBLK_U_CMD_UPDATE_SIZE", 0xc020_7515),
    ("UBLK_U_CMD_QUIESCE_DEV", 0xc020_7516),
    ("UBLK_U_CMD_TRY_STOP_DEV", 0xc020_7517),
    ("UBLK_U_CMD_REG_BUF", 0xc020_7518),
    ("UBLK_U_CMD_UNREG_BUF", 0xc020_7519),
    ("UBLK_U_IO_FETCH_REQ", 0xc010_7520),
    ("UBLK_U_IO_COMMIT_AND_FETCH_REQ", 0xc010_7521),
    ("UBLK_U_IO_NEED_GET_DATA", 0xc010_7522),
    ("UBLK_U_IO_REGISTER_IO_BUF", 0xc010_7523),
    ("UBLK_U_IO_UNREGISTER_IO_BUF", 0xc010_7524),
    ("UBLK_U_IO_PREP_IO_CMDS", 0xc010_7525),
    ("UBLK_U_IO_COMMIT_IO_CMDS", 0xc010_7526),
    ("UBLK_U_IO_FETCH_IO_CMDS", 0xc010_7527),
    ("UBLK_CMD_GET_QUEUE_AFFINITY", 0x01),
    ("UBLK_CMD_GET_DEV_INFO", 0x02),
    ("UBLK_CMD_ADD_DEV", 0x04),
    ("UBLK_CMD_DEL_DEV", 0x05),
    ("UBLK_CMD_START_DEV", 0x06),
    ("UBLK_CMD_STOP_DEV", 0x07),
    ("UBLK_CMD_SET_PARAMS", 0x08),
    ("UBLK_CMD_GET_PARAMS", 0x09),
    ("UBLK_CMD_START_USER_RECOVERY", 0x10),
    ("UBLK_CMD_END_USER_RECOVERY", 0x11),
    ("UBLK_CMD_GET_DEV_INFO2", 0x12),
    ("UBLK_IO_FETCH_REQ", 0x20),
    ("UBLK_IO_COMMIT_AND_FETCH_REQ", 0x21),
    ("UBLK_IO_NEED_GET_DATA", 0x22),
];

/// Operations and flags of a descriptor, results of a FETCH or COMMIT.
const OPERATIONS: &[(&str, u64)] = &[
    ("UBLK_IO_OP_READ", 0),
    ("UBLK_IO_OP_WRITE", 1),
    ("UBLK_IO_OP_FLUSH", 2),
    ("UBLK_IO_OP_DISCARD", 3),
    ("UBLK_IO_OP_WRITE_SAME", 4),
    ("UBLK_IO_OP_WRITE_ZEROES", 5),
    ("UBLK_IO_OP_ZONE_OPEN", 10),
    ("UBLK_IO_OP_ZONE_CLOSE", 11),
    ("UBLK_IO_OP_ZONE_FINISH", 12),
    ("UBLK_IO_OP_ZONE_APPEND", 13),
    ("UBLK_IO_OP_ZONE_RESET_ALL", 14),
    ("UBLK_IO_OP_ZONE_RESET", 15),
    ("UBLK_IO_OP_REPORT_ZONES", 18),
    ("UBLK_IO_RES_OK", 0),
    ("UBLK_IO_RES_NEED_GET_DATA", 1),
    ("UBLK_IO_RES_ABORT", (-19i64).cast_unsigned()),
    ("UBLK_IO_F_FAILFAST_DEV", 1 << 8),
    ("UBLK_IO_F_FAILFAST_TRANSPORT", 1 << 9),
    ("UBLK_IO_F_FAILFAST_DRIVER", 1 << 10),
    ("UBLK_IO_F_META", 1 << 11),
    ("UBLK_IO_F_FUA", 1 << 13),
    ("UBLK_IO_F_NOUNMAP", 1 << 15),
    ("UBLK_IO_F_SWAP", 1 << 16),
    ("UBLK_IO_F_NEED_REG_BUF", 1 << 17),
    ("UBLK_IO_F_INTEGRITY", 1 << 18),
    ("UBLK_IO_F_SHMEM_ZC", 1 << 19),
];

/// Features, and the states of a device.
const FEATURES: &[(&str, u64)] = &[
    ("UBLK_S_DEV_DEAD", 0),
    ("UBLK_S_DEV_LIVE", 1),
    ("UBLK_S_DEV_QUIESCED", 2),
    ("UBLK_S_DEV_FAIL_IO", 3),
    ("UBLK_F_SUPPORT_ZERO_COPY", 1 << 0),
    ("UBLK_F_URING_CMD_COMP_IN_TASK", 1 << 1),
    ("UBLK_F_NEED_GET_DATA", 1 << 2),
    ("UBLK_F_USER_RECOVERY", 1 << 3),
    ("UBLK_F_USER_RECOVERY_REISSUE", 1 << 4),
    ("UBLK_F_UNPRIVILEGED_DEV", 1 << 5),
    ("UBLK_F_CMD_IOCTL_ENCODE", 1 << 6),
    ("UBLK_F_USER_COPY", 1 << 7),
    ("UBLK_F_ZONED", 1 << 8),
    ("UBLK_F_USER_RECOVERY_FAIL_IO", 1 << 9),
    ("UBLK_F_UPDATE_SIZE", 1 << 10),
    ("UBLK_F_AUTO_BUF_REG", 1 << 11),
    ("UBLK_F_QUIESCE", 1 << 12),
    ("UBLK_F_PER_IO_DAEMON", 1 << 13),
    ("UBLK_F_BUF_REG_OFF_DAEMON", 1 << 14),
    ("UBLK_F_BATCH_IO", 1 << 15),
    ("UBLK_F_INTEGRITY", 1 << 16),
    ("UBLK_F_SAFE_STOP_DEV", 1 << 17),
    ("UBLK_F_NO_AUTO_PART_SCAN", 1 << 18),
    ("UBLK_F_SHMEM_ZC", 1 << 19),
    ("UBLK_F_IO_DESC_SIZE", 1 << 20),
];

/// Flags and types of sections 1.8, 1.15 and 1.16.
const BITS: &[(&str, u64)] = &[
    ("UBLK_ATTR_READ_ONLY", 1),
    ("UBLK_ATTR_ROTATIONAL", 2),
    ("UBLK_ATTR_VOLATILE_CACHE", 4),
    ("UBLK_ATTR_FUA", 8),
    ("UBLK_PARAM_TYPE_BASIC", 1),
    ("UBLK_PARAM_TYPE_DISCARD", 2),
    ("UBLK_PARAM_TYPE_DEVT", 4),
    ("UBLK_PARAM_TYPE_ZONED", 8),
    ("UBLK_PARAM_TYPE_DMA_ALIGN", 16),
    ("UBLK_PARAM_TYPE_SEGMENT", 32),
    ("UBLK_PARAM_TYPE_INTEGRITY", 64),
    ("UBLK_BATCH_F_HAS_ZONE_LBA", 1),
    ("UBLK_BATCH_F_HAS_BUF_ADDR", 2),
    ("UBLK_BATCH_F_AUTO_BUF_REG_FALLBACK", 4),
    ("UBLK_SHMEM_BUF_READ_ONLY", 1),
    ("LBMD_PI_CSUM_NONE", 0),
    ("LBMD_PI_CAP_INTEGRITY", 1),
    ("LBMD_PI_CSUM_IP", 1),
    ("LBMD_PI_CAP_REFTAG", 2),
    ("LBMD_PI_CSUM_CRC16_T10DIF", 2),
    ("LBMD_PI_CSUM_CRC64_NVME", 4),
];

/// Sections 1.10, 1.12, 1.14 and 1.16: limits, and encodings in 64 bits.
const LIMITS: &[(&str, u64)] = &[
    ("UBLK_IO_BUF_OFF", 0),
    ("UBLK_FEATURES_LEN", 8),
    ("UBLK_QID_BITS", 12),
    ("UBLK_TAG_BITS", 16),
    ("UBLK_IO_BUF_BITS", 25),
    ("UBLK_TAG_OFF", 25),
    ("UBLK_QID_OFF", 41),
    ("UBLK_MAX_NR_QUEUES", 4096),
    ("UBLK_MAX_QUEUE_DEPTH", 4096),
    ("UBLK_MIN_SEGMENT_SIZE", 4096),
    ("UBLKSRV_IO_BUF_OFFSET", 0x8000_0000),
    ("UBLKSRV_IO_INTEGRITY_FLAG", 0x4000_0000_0000_0000),
    ("auto_buf_reg(65535,0)", 0xffff),
    ("auto_buf_reg(4660,1)", 0x1_1234),
    ("position(1,2,3)", 0x200_8400_0003),
    ("position(4095,65535,33554431)", 0x20_0000_7fff_ffff),
    ("shmem_zc_addr(4660,4294967295)", 0x1234_ffff_ffff),
    ("shmem_zc_addr(65535,0)", 0xffff_0000_0000),
];

/// The entry that carries a command.
const SUBMISSION_ENTRY: &[(&str, u64)] = &[
    ("IORING_URING_CMD_FIXED", 1),
    ("IORING_URING_CMD_MULTISHOT", 2),
    ("IORING_OP_URING_CMD", 46),
    ("IORING_OP_URING_CMD128", 64),
    ("IORING_SETUP_SQE128", 1024),
    ("offsetof(io_uring_sqe.opcode)", 0),
    ("offsetof(io_uring_sqe.flags)", 1),
    ("offsetof(io_uring_sqe.fd)", 4),
    ("offsetof(io_uring_sqe.cmd_op)", 8),
    ("offsetof(io_uring_sqe.__pad1)", 12),
    ("offsetof(io_uring_sqe.addr)", 16),
    ("offsetof(io_uring_sqe.uring_cmd_flags)", 28),
    ("offsetof(io_uring_sqe.user_data)", 32),
    ("offsetof(io_uring_sqe.buf_index)", 40),
    ("offsetof(io_uring_sqe.cmd)", 48),
    ("sizeof(io_uring_sqe)", 64),
];

/// What may follow `ublk_elem_header`.
const OPTIONAL_PARTS: &[(&str, u64)] = &[
    ("offsetof(element(both).buf_addr)", 8),
    ("sizeof(element(both).buf_addr)", 8),
    ("offsetof(element(both).zone_lba)", 16),
    ("sizeof(element(both).zone_lba)", 8),
    ("offsetof(element(zone_lba).zone_lba)", 8),
    ("sizeof(element(zone_lba).zone_lba)", 8),
];

/// Linux on x86 and Arm.
const ERRNOS: &[(&str, u64)] = &[
    ("EPERM", 1),
    ("ENOENT", 2),
    ("ESRCH", 3),
    ("EINTR", 4),
    ("EIO", 5),
    ("ENXIO", 6),
    ("E2BIG", 7),
    ("EBADF", 9),
    ("EAGAIN", 11),
    ("ENOMEM", 12),
    ("EACCES", 13),
    ("EFAULT", 14),
    ("EBUSY", 16),
    ("EEXIST", 17),
    ("ENODEV", 19),
    ("ENOTDIR", 20),
    ("EISDIR", 21),
    ("EINVAL", 22),
    ("ENFILE", 23),
    ("EMFILE", 24),
    ("EFBIG", 27),
    ("ENOSPC", 28),
    ("EROFS", 30),
    ("ENOSYS", 38),
    ("EBADE", 52),
    ("ENODATA", 61),
    ("ETIME", 62),
    ("ENOLINK", 67),
    ("EOVERFLOW", 75),
    ("EILSEQ", 84),
    ("EOPNOTSUPP", 95),
    ("ENOBUFS", 105),
    ("ETOOMANYREFS", 109),
    ("ETIMEDOUT", 110),
    ("EALREADY", 114),
    ("EREMOTEIO", 121),
    ("ECANCELED", 125),
];

/// A field: its name, offset and size.
type Field = (&'static str, u64, u64);

/// Sections 1.3, 1.5, 1.11, 1.13, 1.15 and 1.16: name, size, fields.
const STRUCTS: &[(&str, u64, &[Field])] = &[
    (
        "ublksrv_ctrl_cmd",
        32,
        &[
            ("dev_id", 0, 4),
            ("queue_id", 4, 2),
            ("len", 6, 2),
            ("addr", 8, 8),
            ("data", 16, 8),
            ("dev_path_len", 24, 2),
        ],
    ),
    (
        "ublksrv_ctrl_dev_info",
        64,
        &[
            ("nr_hw_queues", 0, 2),
            ("queue_depth", 2, 2),
            ("state", 4, 2),
            ("io_desc_size", 6, 2),
            ("max_io_buf_bytes", 8, 4),
            ("dev_id", 12, 4),
            ("ublksrv_pid", 16, 4),
            ("flags", 24, 8),
            ("ublksrv_flags", 32, 8),
            ("owner_uid", 40, 4),
            ("owner_gid", 44, 4),
        ],
    ),
    ("ublksrv_io_cmd", 16, &[("q_id", 0, 2), ("tag", 2, 2), ("result", 4, 4), ("addr", 8, 8)]),
    (
        "ublksrv_io_desc",
        24,
        &[("op_flags", 0, 4), ("nr_sectors", 4, 4), ("start_sector", 8, 8), ("addr", 16, 8)],
    ),
    (
        "ublk_batch_io",
        16,
        &[("q_id", 0, 2), ("flags", 2, 2), ("nr_elem", 4, 2), ("elem_bytes", 6, 1)],
    ),
    ("ublk_elem_header", 8, &[("tag", 0, 2), ("buf_index", 2, 2), ("result", 4, 4)]),
    (
        "ublk_shmem_buf_reg",
        24,
        &[("addr", 0, 8), ("len", 8, 8), ("flags", 16, 4), ("reserved", 20, 4)],
    ),
];

/// Struct, member of `ublk_params`, its offset there, its size, fields with their offsets in the part.
const PARAMS: &[(&str, &str, u64, u64, &[Field])] = &[
    (
        "ublk_param_basic",
        "basic",
        8,
        32,
        &[
            ("attrs", 0, 4),
            ("logical_bs_shift", 4, 1),
            ("physical_bs_shift", 5, 1),
            ("io_opt_shift", 6, 1),
            ("io_min_shift", 7, 1),
            ("max_sectors", 8, 4),
            ("chunk_sectors", 12, 4),
            ("dev_sectors", 16, 8),
            ("virt_boundary_mask", 24, 8),
        ],
    ),
    (
        "ublk_param_discard",
        "discard",
        40,
        20,
        &[
            ("discard_alignment", 0, 4),
            ("discard_granularity", 4, 4),
            ("max_discard_sectors", 8, 4),
            ("max_write_zeroes_sectors", 12, 4),
            ("max_discard_segments", 16, 2),
        ],
    ),
    (
        "ublk_param_devt",
        "devt",
        60,
        16,
        &[("char_major", 0, 4), ("char_minor", 4, 4), ("disk_major", 8, 4), ("disk_minor", 12, 4)],
    ),
    (
        "ublk_param_zoned",
        "zoned",
        76,
        32,
        &[("max_open_zones", 0, 4), ("max_active_zones", 4, 4), ("max_zone_append_sectors", 8, 4)],
    ),
    ("ublk_param_dma_align", "dma", 108, 8, &[("alignment", 0, 4)]),
    (
        "ublk_param_segment",
        "seg",
        120,
        16,
        &[("seg_boundary_mask", 0, 8), ("max_segment_size", 8, 4), ("max_segments", 12, 2)],
    ),
    (
        "ublk_param_integrity",
        "integrity",
        136,
        16,
        &[
            ("flags", 0, 4),
            ("max_integrity_segments", 4, 2),
            ("interval_exp", 6, 1),
            ("metadata_size", 7, 1),
            ("pi_offset", 8, 1),
            ("csum_type", 9, 1),
            ("tag_size", 10, 1),
        ],
    ),
];
