//! Every number, size and offset of the user API against the table of the protocol, as literals.

use blkproof_engine::uapi::{
    AutoBufReg, BatchFlags, BatchIo, ControlOp, CtrlCmd, DevId, DevInfo, DeviceState, Errno,
    Features, FetchResult, IoCmd, IoDesc, IoOp, KernelSeries, Params, QueueId, RequestOp,
    ShmemBufReg, Tag, UserCopyPosition, desc_map_bytes, desc_map_offset, sqe,
};

#[test]
fn control_commands_have_their_numbers() {
    let table = [
        (0x8020_7501, "GET_QUEUE_AFFINITY"),
        (0x8020_7502, "GET_DEV_INFO"),
        (0xc020_7504, "ADD_DEV"),
        (0xc020_7505, "DEL_DEV"),
        (0xc020_7506, "START_DEV"),
        (0xc020_7507, "STOP_DEV"),
        (0xc020_7508, "SET_PARAMS"),
        (0x8020_7509, "GET_PARAMS"),
        (0xc020_7510, "START_USER_RECOVERY"),
        (0xc020_7511, "END_USER_RECOVERY"),
        (0x8020_7512, "GET_DEV_INFO2"),
        (0x8020_7513, "GET_FEATURES"),
        (0x8020_7514, "DEL_DEV_ASYNC"),
        (0xc020_7515, "UPDATE_SIZE"),
        (0xc020_7516, "QUIESCE_DEV"),
        (0xc020_7517, "TRY_STOP_DEV"),
        (0xc020_7518, "REG_BUF"),
        (0xc020_7519, "UNREG_BUF"),
    ];
    assert_eq!(ControlOp::ALL.map(|op| (op.ioctl(), op.name())), table);
    assert_eq!(ControlOp::QuiesceDev.since(), KernelSeries::V6_18);
    assert_eq!(ControlOp::RegBuf.since(), KernelSeries::V7_3);
}

#[test]
fn io_commands_have_their_numbers() {
    let table = [
        (0xc010_7520, "FETCH_REQ"),
        (0xc010_7521, "COMMIT_AND_FETCH_REQ"),
        (0xc010_7522, "NEED_GET_DATA"),
        (0xc010_7523, "REGISTER_IO_BUF"),
        (0xc010_7524, "UNREGISTER_IO_BUF"),
        (0xc010_7525, "PREP_IO_CMDS"),
        (0xc010_7526, "COMMIT_IO_CMDS"),
        (0xc010_7527, "FETCH_IO_CMDS"),
    ];
    assert_eq!(IoOp::ALL.map(|op| (op.ioctl(), op.name())), table);
}

#[test]
fn structs_have_their_sizes() {
    assert_eq!(CtrlCmd::SIZE, 32);
    assert_eq!(DevInfo::SIZE, 64);
    assert_eq!(Params::SIZE, 152);
    assert_eq!(IoCmd::SIZE, 16);
    assert_eq!(IoDesc::SIZE, 24);
    assert_eq!(BatchIo::SIZE, 16);
    assert_eq!(ShmemBufReg::SIZE, 24);
    assert_eq!(Params::OFFSETS, [8, 40, 60, 76, 108, 120, 136]);
}

/// Offsets of the bytes that are not zero.
fn written(bytes: &[u8]) -> Vec<usize> {
    bytes.iter().enumerate().filter(|(_, byte)| **byte != 0).map(|(at, _)| at).collect()
}

#[test]
fn fields_stand_at_their_offsets() {
    let none = CtrlCmd { dev_id: DevId(0), ..CtrlCmd::default() };
    assert_eq!(written(&CtrlCmd { dev_id: DevId(1), ..none }.encode()), [0]);
    assert_eq!(written(&CtrlCmd { queue_id: 1, ..none }.encode()), [4]);
    assert_eq!(written(&CtrlCmd { len: 1, ..none }.encode()), [6]);
    assert_eq!(written(&CtrlCmd { addr: 1, ..none }.encode()), [8]);
    assert_eq!(written(&CtrlCmd { data: 1, ..none }.encode()), [16]);
    assert_eq!(written(&CtrlCmd { dev_path_len: 1, ..none }.encode()), [24]);

    let none = DevInfo { dev_id: DevId(0), ..DevInfo::default() };
    assert_eq!(written(&DevInfo { nr_hw_queues: 1, ..none }.encode()), [0]);
    assert_eq!(written(&DevInfo { queue_depth: 1, ..none }.encode()), [2]);
    assert_eq!(written(&DevInfo { state: DeviceState::Live, ..none }.encode()), [4]);
    assert_eq!(written(&DevInfo { io_desc_size: 1, ..none }.encode()), [6]);
    assert_eq!(written(&DevInfo { max_io_buf_bytes: 1, ..none }.encode()), [8]);
    assert_eq!(written(&DevInfo { dev_id: DevId(1), ..none }.encode()), [12]);
    assert_eq!(written(&DevInfo { ublksrv_pid: 1, ..none }.encode()), [16]);
    assert_eq!(written(&DevInfo { flags: Features(1), ..none }.encode()), [24]);
    assert_eq!(written(&DevInfo { ublksrv_flags: 1, ..none }.encode()), [32]);
    assert_eq!(written(&DevInfo { owner_uid: 1, ..none }.encode()), [40]);
    assert_eq!(written(&DevInfo { owner_gid: 1, ..none }.encode()), [44]);

    let none = IoCmd::default();
    assert_eq!(written(&IoCmd { queue: QueueId(1), ..none }.encode()), [0]);
    assert_eq!(written(&IoCmd { tag: Tag(1), ..none }.encode()), [2]);
    assert_eq!(written(&IoCmd { result: 1, ..none }.encode()), [4]);
    assert_eq!(written(&IoCmd { addr: 1, ..none }.encode()), [8]);

    let fields = [sqe::OPCODE, sqe::FLAGS, sqe::FD, sqe::CMD_OP, sqe::PAD1, sqe::ADDR];
    assert_eq!(fields, [0, 1, 4, 8, 12, 16]);
    let fields = [sqe::URING_CMD_FLAGS, sqe::USER_DATA, sqe::BUF_INDEX, sqe::CMD];
    assert_eq!(fields, [28, 32, 40, 48]);
}

#[test]
fn features_have_their_bits_and_series() {
    let bits: Vec<u8> = Features::ALL.iter().map(|(bit, _)| *bit).collect();
    assert_eq!(bits, (0..=20).collect::<Vec<u8>>());
    assert_eq!(Features::ALL[0].1, "UBLK_F_SUPPORT_ZERO_COPY");
    assert_eq!(Features::ALL[20].1, "UBLK_F_IO_DESC_SIZE");
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
    let error = DeviceState::decode(9).unwrap_err();
    assert_eq!(error.to_string(), "ublksrv_ctrl_dev_info.state: expected 0..=3, got 0x9");
}
