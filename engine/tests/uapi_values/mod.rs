//! What our encoders say, under the header's names: `UBLK_...` for a number, `sizeof(struct)`, `offsetof(struct.field)` and
//! `sizeof(struct.field)` for layouts, and `call(...)` for encodings that the header has as functions or arithmetic.
//!
//! No offset is written down here. Each is found by filling one field and looking which bytes of the encoded struct change,
//! so that an encoder that writes to a wrong place cannot agree with the table (`uapi_table.rs`) or the header
//! (`uapi_c_header.rs`), even if its decoder is wrong in the same way.

use std::collections::BTreeMap;
use std::ops::Range;

use blkproof_engine::uapi::{
    AutoBufReg, BasicParams, BatchElement, BatchFlags, BatchIo, ControlOp, CtrlCmd, DEPTH_MAX,
    DecodeError, DevId, DevInfo, DeviceState, DevtParams, DiscardParams, DmaAlignParams, Errno,
    Features, FetchResult, IntegrityParams, IoCmd, IoDesc, IoOp, ParamAttrs, Params, QUEUES_MAX,
    QueueId, RequestFlags, RequestOp, SegmentParams, ShmemAddr, ShmemBufReg, Tag, UserCopyPosition,
    ZonedParams, sqe,
};

pub(crate) type Values = BTreeMap<String, u64>;

/// Fills one field with ones.
type Fill<T> = fn(&mut T);

/// All of them.
pub(crate) fn values() -> Values {
    let mut all = Collector(Values::new());
    commands(&mut all);
    flags(&mut all);
    limits(&mut all);
    control_structs(&mut all);
    io_structs(&mut all);
    params_struct(&mut all);
    submission_entry(&mut all);
    for errno in Errno::ALL {
        all.add(errno.name().unwrap(), u64::from(errno.0));
    }
    all.0
}

struct Collector(Values);

impl Collector {
    fn add(&mut self, name: &str, value: u64) {
        assert_eq!(self.0.insert(name.to_owned(), value), None, "{name} twice");
    }

    fn span(&mut self, name: &str, span: &Range<usize>) {
        self.add(&format!("offsetof({name})"), span.start as u64);
        self.add(&format!("sizeof({name})"), span.len() as u64);
    }

    /// Fields of a struct whose value with no field set encodes to zeroes.
    fn fields<T: Copy, const N: usize>(
        &mut self,
        name: &str,
        zero: T,
        encode: impl Fn(&T) -> [u8; N],
        fields: &[(&str, Fill<T>)],
    ) {
        assert_eq!(encode(&zero), [0; N], "{name} without fields");
        self.add(&format!("sizeof({name})"), N as u64);
        for (field, fill) in fields {
            let mut filled = zero;
            fill(&mut filled);
            let span = ones(&encode(&filled));
            self.span(&format!("{name}.{field}"), &span);
        }
    }

    /// A field that takes few values: where a bit too many is refused.
    fn checked_field<T, const N: usize>(
        &mut self,
        name: &str,
        decode: impl Fn(&[u8; N]) -> Result<T, DecodeError>,
    ) {
        let refused = |at: &usize| {
            let mut bytes = [0; N];
            bytes[*at] = 0x80;
            decode(&bytes).is_err_and(|error| error.field == name)
        };
        let span = contiguous((0..N).filter(refused), name);
        self.span(name, &span);
    }
}

/// Where the ones are.
fn ones(bytes: &[u8]) -> Range<usize> {
    assert!(bytes.iter().all(|byte| matches!(byte, 0 | 0xff)), "{bytes:x?}");
    contiguous((0..bytes.len()).filter(|at| bytes[*at] != 0), "a field")
}

fn contiguous(places: impl Iterator<Item = usize>, what: &str) -> Range<usize> {
    let places: Vec<usize> = places.collect();
    let (Some(first), Some(last)) = (places.first(), places.last()) else {
        panic!("{what} is nowhere");
    };
    assert_eq!(last - first + 1, places.len(), "{what} is in one piece");
    *first..last + 1
}

fn commands(all: &mut Collector) {
    // The header has bare numbers too, for the commands that are older than the encoding.
    for op in ControlOp::ALL {
        all.add(&format!("UBLK_U_CMD_{}", op.name()), u64::from(op.ioctl()));
        if op.nr() <= ControlOp::GetDevInfo2.nr() {
            all.add(&format!("UBLK_CMD_{}", op.name()), u64::from(op.nr()));
        }
    }
    for op in IoOp::ALL {
        all.add(&format!("UBLK_U_IO_{}", op.name()), u64::from(op.ioctl()));
        if op.nr() <= IoOp::NeedGetData.nr() {
            all.add(&format!("UBLK_IO_{}", op.name()), u64::from(op.nr()));
        }
    }
    for (op, name) in RequestOp::ALL.into_iter().zip([
        "READ",
        "WRITE",
        "FLUSH",
        "DISCARD",
        "WRITE_SAME",
        "WRITE_ZEROES",
        "ZONE_OPEN",
        "ZONE_CLOSE",
        "ZONE_FINISH",
        "ZONE_APPEND",
        "ZONE_RESET_ALL",
        "ZONE_RESET",
        "REPORT_ZONES",
    ]) {
        all.add(&format!("UBLK_IO_OP_{name}"), u64::from(op.encode()));
    }
    for (name, result) in [
        ("OK", FetchResult::Request),
        ("NEED_GET_DATA", FetchResult::NeedGetData),
        ("ABORT", FetchResult::Abort),
    ] {
        let number = i64::from(result.to_result());
        all.add(&format!("UBLK_IO_RES_{name}"), number.cast_unsigned());
    }
}

fn flags(all: &mut Collector) {
    for (bit, name) in Features::ALL {
        all.add(name, 1 << bit);
    }
    for (bit, name) in RequestFlags::ALL {
        all.add(name, 1 << bit);
    }
    for state in [DeviceState::Dead, DeviceState::Live, DeviceState::Quiesced, DeviceState::FailIo]
    {
        all.add(&format!("UBLK_S_DEV_{}", state.name()), u64::from(state.encode()));
    }
    for (name, attr) in [
        ("READ_ONLY", ParamAttrs::READ_ONLY),
        ("ROTATIONAL", ParamAttrs::ROTATIONAL),
        ("VOLATILE_CACHE", ParamAttrs::VOLATILE_CACHE),
        ("FUA", ParamAttrs::FUA),
    ] {
        all.add(&format!("UBLK_ATTR_{name}"), u64::from(attr.0));
    }
    let none = Params::default();
    for (name, params) in [
        ("BASIC", Params { basic: Some(BasicParams::default()), ..none }),
        ("DISCARD", Params { discard: Some(DiscardParams::default()), ..none }),
        ("DEVT", Params { devt: Some(DevtParams::default()), ..none }),
        ("ZONED", Params { zoned: Some(ZonedParams::default()), ..none }),
        ("DMA_ALIGN", Params { dma: Some(DmaAlignParams::default()), ..none }),
        ("SEGMENT", Params { segment: Some(SegmentParams::default()), ..none }),
        ("INTEGRITY", Params { integrity: Some(IntegrityParams::default()), ..none }),
    ] {
        all.add(&format!("UBLK_PARAM_TYPE_{name}"), u64::from(params.types()));
    }
    let none = BatchFlags::default();
    for (name, flags) in [
        ("HAS_ZONE_LBA", BatchFlags { zone_lba: true, ..none }),
        ("HAS_BUF_ADDR", BatchFlags { buf_addr: true, ..none }),
        ("AUTO_BUF_REG_FALLBACK", BatchFlags { auto_buf_reg_fallback: true, ..none }),
    ] {
        all.add(&format!("UBLK_BATCH_F_{name}"), u64::from(flags.encode()));
    }
    for (name, value) in [
        ("CAP_INTEGRITY", IntegrityParams::INTEGRITY),
        ("CAP_REFTAG", IntegrityParams::REFTAG),
        ("CSUM_NONE", IntegrityParams::CSUM_NONE.into()),
        ("CSUM_IP", IntegrityParams::CSUM_IP.into()),
        ("CSUM_CRC16_T10DIF", IntegrityParams::CSUM_CRC16_T10DIF.into()),
        ("CSUM_CRC64_NVME", IntegrityParams::CSUM_CRC64_NVME.into()),
    ] {
        all.add(&format!("LBMD_PI_{name}"), u64::from(value));
    }
    let read_only = ShmemBufReg { read_only: true, ..ShmemBufReg::default() }.encode();
    let flag = u32::from_ne_bytes(read_only[16..20].try_into().unwrap());
    all.add("UBLK_SHMEM_BUF_READ_ONLY", u64::from(flag));
}

fn limits(all: &mut Collector) {
    all.add("UBLK_FEATURES_LEN", u64::from(CtrlCmd::FEATURES_BYTES));
    all.add("UBLK_MAX_QUEUE_DEPTH", u64::from(DEPTH_MAX));
    all.add("UBLK_MAX_NR_QUEUES", u64::from(QUEUES_MAX));
    all.add("UBLK_MIN_SEGMENT_SIZE", u64::from(SegmentParams::SEGMENT_BYTES_MIN));

    let at = |queue, tag, byte, integrity| {
        UserCopyPosition { queue: QueueId(queue), tag: Tag(tag), byte, integrity }.encode().unwrap()
    };
    let base = at(0, 0, 0, false);
    all.add("UBLKSRV_IO_BUF_OFFSET", base);
    all.add("UBLK_IO_BUF_OFF", u64::from((at(0, 0, 1, false) - base).trailing_zeros()));
    all.add("UBLK_TAG_OFF", u64::from((at(0, 1, 0, false) - base).trailing_zeros()));
    all.add("UBLK_QID_OFF", u64::from((at(1, 0, 0, false) - base).trailing_zeros()));
    all.add("UBLKSRV_IO_INTEGRITY_FLAG", at(0, 0, 0, true) - base);
    all.add("UBLK_IO_BUF_BITS", u64::from(UserCopyPosition::BYTE_BITS));
    all.add("UBLK_TAG_BITS", u64::from(UserCopyPosition::TAG_BITS));
    all.add("UBLK_QID_BITS", u64::from(UserCopyPosition::QUEUE_BITS));
    all.add("position(1,2,3)", at(1, 2, 3, false));
    all.add("position(4095,65535,33554431)", at(4095, 65535, 33_554_431, false));

    all.add("auto_buf_reg(65535,0)", AutoBufReg { index: 65535, fallback: false }.encode());
    all.add("auto_buf_reg(4660,1)", AutoBufReg { index: 4660, fallback: true }.encode());
    all.add("shmem_zc_addr(65535,0)", ShmemAddr { index: 65535, offset: 0 }.encode());
    all.add("shmem_zc_addr(4660,4294967295)", ShmemAddr { index: 4660, offset: u32::MAX }.encode());
}

fn control_structs(all: &mut Collector) {
    all.fields(
        "ublksrv_ctrl_cmd",
        CtrlCmd { dev_id: DevId(0), ..CtrlCmd::default() },
        CtrlCmd::encode,
        &[
            ("dev_id", |cmd| cmd.dev_id = DevId(u32::MAX)),
            ("queue_id", |cmd| cmd.queue_id = u16::MAX),
            ("len", |cmd| cmd.len = u16::MAX),
            ("addr", |cmd| cmd.addr = u64::MAX),
            ("data", |cmd| cmd.data = u64::MAX),
            ("dev_path_len", |cmd| cmd.dev_path_len = u16::MAX),
        ],
    );
    all.fields(
        "ublksrv_ctrl_dev_info",
        DevInfo { dev_id: DevId(0), ..DevInfo::default() },
        DevInfo::encode,
        &[
            ("nr_hw_queues", |info| info.nr_hw_queues = u16::MAX),
            ("queue_depth", |info| info.queue_depth = u16::MAX),
            ("io_desc_size", |info| info.io_desc_size = u16::MAX),
            ("max_io_buf_bytes", |info| info.max_io_buf_bytes = u32::MAX),
            ("dev_id", |info| info.dev_id = DevId(u32::MAX)),
            ("ublksrv_pid", |info| info.ublksrv_pid = -1),
            ("flags", |info| info.flags = Features(u64::MAX)),
            ("ublksrv_flags", |info| info.ublksrv_flags = u64::MAX),
            ("owner_uid", |info| info.owner_uid = u32::MAX),
            ("owner_gid", |info| info.owner_gid = u32::MAX),
        ],
    );
    all.checked_field("ublksrv_ctrl_dev_info.state", DevInfo::decode);
    all.fields(
        "ublk_shmem_buf_reg",
        ShmemBufReg::default(),
        ShmemBufReg::encode,
        &[("addr", |reg| reg.addr = u64::MAX), ("len", |reg| reg.len = u64::MAX)],
    );
    all.checked_field("ublk_shmem_buf_reg.flags", ShmemBufReg::decode);
    all.checked_field("ublk_shmem_buf_reg.reserved", ShmemBufReg::decode);
}

fn io_structs(all: &mut Collector) {
    all.fields(
        "ublksrv_io_cmd",
        IoCmd::default(),
        IoCmd::encode,
        &[
            ("q_id", |cmd| cmd.queue = QueueId(u16::MAX)),
            ("tag", |cmd| cmd.tag = Tag(u16::MAX)),
            ("result", |cmd| cmd.result = -1),
            ("addr", |cmd| cmd.addr = u64::MAX),
        ],
    );
    all.fields(
        "ublksrv_io_desc",
        IoDesc::default(),
        IoDesc::encode,
        &[
            ("op_flags", |desc| desc.op_flags = u32::MAX),
            ("nr_sectors", |desc| desc.nr_sectors = u32::MAX),
            ("start_sector", |desc| desc.start_sector = u64::MAX),
            ("addr", |desc| desc.addr = u64::MAX),
        ],
    );
    all.fields(
        "ublk_batch_io",
        BatchIo::default(),
        BatchIo::encode,
        &[
            ("q_id", |batch| batch.queue = QueueId(u16::MAX)),
            ("nr_elem", |batch| batch.elements = u16::MAX),
            ("elem_bytes", |batch| batch.element_bytes = u8::MAX),
        ],
    );
    all.checked_field("ublk_batch_io.flags", BatchIo::decode);

    // The header has the fixed part of an element as a struct, and the optional parts in a comment.
    all.fields(
        "ublk_elem_header",
        BatchElement::default(),
        |element| -> [u8; 8] {
            let bytes = element.encode(BatchFlags::default());
            let fixed = usize::from(BatchFlags::default().element_bytes());
            assert!(bytes[fixed..].iter().all(|byte| *byte == 0));
            bytes[..8].try_into().unwrap()
        },
        &[
            ("tag", |element| element.tag = Tag(u16::MAX)),
            ("buf_index", |element| element.buf_index = u16::MAX),
            ("result", |element| element.result = -1),
        ],
    );
    let addr = BatchElement { buf_addr: u64::MAX, ..BatchElement::default() };
    let lba = BatchElement { zone_lba: u64::MAX, ..BatchElement::default() };
    let (zone_lba, auto_buf_reg_fallback) = (true, false);
    let both = BatchFlags { zone_lba, buf_addr: true, auto_buf_reg_fallback };
    let only_lba = BatchFlags { buf_addr: false, ..both };
    all.span("element(both).buf_addr", &ones(&addr.encode(both)));
    all.span("element(both).zone_lba", &ones(&lba.encode(both)));
    all.span("element(zone_lba).zone_lba", &ones(&lba.encode(only_lba)));
}

/// A part of `ublk_params`: like [`Collector::fields`], but the part stands in the middle.
fn part<T: Copy + Default>(
    all: &mut Collector,
    (part, member, size): (&str, &str, usize),
    wrap: fn(T) -> Params,
    fields: &[(&str, Fill<T>)],
) {
    all.add(&format!("sizeof({part})"), size as u64);
    let none = wrap(T::default()).encode();
    for (field, fill) in fields {
        let mut filled = T::default();
        fill(&mut filled);
        let mut bytes = wrap(filled).encode();
        for (byte, before) in bytes.iter_mut().zip(none) {
            *byte ^= before;
        }
        all.span(&format!("ublk_params.{member}.{field}"), &ones(&bytes));
    }
}

fn params_struct(all: &mut Collector) {
    all.add("sizeof(ublk_params)", Params::SIZE as u64);
    let none = Params::default().encode();
    assert_eq!(none[..4], 152u32.to_ne_bytes(), "`len` comes first and is the size");
    for (member, offset) in
        ["basic", "discard", "devt", "zoned", "dma", "seg", "integrity"].iter().zip(Params::OFFSETS)
    {
        all.add(&format!("offsetof(ublk_params.{member})"), offset as u64);
    }
    part::<BasicParams>(
        all,
        ("ublk_param_basic", "basic", BasicParams::SIZE),
        |basic| Params { basic: Some(basic), ..Params::default() },
        &[
            ("attrs", |basic| basic.attrs = ParamAttrs(u32::MAX)),
            ("logical_bs_shift", |basic| basic.logical_bs_shift = u8::MAX),
            ("physical_bs_shift", |basic| basic.physical_bs_shift = u8::MAX),
            ("io_opt_shift", |basic| basic.io_opt_shift = u8::MAX),
            ("io_min_shift", |basic| basic.io_min_shift = u8::MAX),
            ("max_sectors", |basic| basic.max_sectors = u32::MAX),
            ("chunk_sectors", |basic| basic.chunk_sectors = u32::MAX),
            ("dev_sectors", |basic| basic.dev_sectors = u64::MAX),
            ("virt_boundary_mask", |basic| basic.virt_boundary_mask = u64::MAX),
        ],
    );
    part::<DiscardParams>(
        all,
        ("ublk_param_discard", "discard", DiscardParams::SIZE),
        |discard| Params { discard: Some(discard), ..Params::default() },
        &[
            ("discard_alignment", |discard| discard.discard_alignment = u32::MAX),
            ("discard_granularity", |discard| discard.discard_granularity = u32::MAX),
            ("max_discard_sectors", |discard| discard.max_discard_sectors = u32::MAX),
            ("max_write_zeroes_sectors", |discard| discard.max_write_zeroes_sectors = u32::MAX),
            ("max_discard_segments", |discard| discard.max_discard_segments = u16::MAX),
        ],
    );
    part::<DevtParams>(
        all,
        ("ublk_param_devt", "devt", DevtParams::SIZE),
        |devt| Params { devt: Some(devt), ..Params::default() },
        &[
            ("char_major", |devt| devt.char_major = u32::MAX),
            ("char_minor", |devt| devt.char_minor = u32::MAX),
            ("disk_major", |devt| devt.disk_major = u32::MAX),
            ("disk_minor", |devt| devt.disk_minor = u32::MAX),
        ],
    );
    part::<ZonedParams>(
        all,
        ("ublk_param_zoned", "zoned", ZonedParams::SIZE),
        |zoned| Params { zoned: Some(zoned), ..Params::default() },
        &[
            ("max_open_zones", |zoned| zoned.max_open_zones = u32::MAX),
            ("max_active_zones", |zoned| zoned.max_active_zones = u32::MAX),
            ("max_zone_append_sectors", |zoned| zoned.max_zone_append_sectors = u32::MAX),
        ],
    );
    part::<DmaAlignParams>(
        all,
        ("ublk_param_dma_align", "dma", DmaAlignParams::SIZE),
        |dma| Params { dma: Some(dma), ..Params::default() },
        &[("alignment", |dma| dma.alignment = u32::MAX)],
    );
    part::<SegmentParams>(
        all,
        ("ublk_param_segment", "seg", SegmentParams::SIZE),
        |segment| Params { segment: Some(segment), ..Params::default() },
        &[
            ("seg_boundary_mask", |segment| segment.seg_boundary_mask = u64::MAX),
            ("max_segment_size", |segment| segment.max_segment_size = u32::MAX),
            ("max_segments", |segment| segment.max_segments = u16::MAX),
        ],
    );
    part::<IntegrityParams>(
        all,
        ("ublk_param_integrity", "integrity", IntegrityParams::SIZE),
        |integrity| Params { integrity: Some(integrity), ..Params::default() },
        &[
            ("flags", |integrity| integrity.flags = u32::MAX),
            ("max_integrity_segments", |integrity| integrity.max_integrity_segments = u16::MAX),
            ("interval_exp", |integrity| integrity.interval_exp = u8::MAX),
            ("metadata_size", |integrity| integrity.metadata_size = u8::MAX),
            ("pi_offset", |integrity| integrity.pi_offset = u8::MAX),
            ("csum_type", |integrity| integrity.csum_type = u8::MAX),
            ("tag_size", |integrity| integrity.tag_size = u8::MAX),
        ],
    );
}

fn submission_entry(all: &mut Collector) {
    all.add("IORING_OP_URING_CMD", u64::from(sqe::OP_URING_CMD));
    all.add("IORING_OP_URING_CMD128", u64::from(sqe::OP_URING_CMD128));
    all.add("IORING_SETUP_SQE128", u64::from(sqe::SETUP_SQE128));
    all.add("IORING_URING_CMD_FIXED", u64::from(sqe::URING_CMD_FIXED));
    all.add("IORING_URING_CMD_MULTISHOT", u64::from(sqe::URING_CMD_MULTISHOT));
    for (field, offset) in [
        ("opcode", sqe::OPCODE),
        ("flags", sqe::FLAGS),
        ("fd", sqe::FD),
        ("cmd_op", sqe::CMD_OP),
        ("__pad1", sqe::PAD1),
        ("addr", sqe::ADDR),
        ("uring_cmd_flags", sqe::URING_CMD_FLAGS),
        ("user_data", sqe::USER_DATA),
        ("buf_index", sqe::BUF_INDEX),
        ("cmd", sqe::CMD),
    ] {
        all.add(&format!("offsetof(io_uring_sqe.{field})"), offset as u64);
    }
    all.add("sizeof(io_uring_sqe)", (sqe::CMD + sqe::CMD_BYTES_64) as u64);
}
