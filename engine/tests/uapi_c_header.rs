//! The user API against the kernel's own header, compiled by a C compiler. `BLKPROOF_UAPI_INCLUDE` names an include
//! directory other than the system's. Says so and passes where there is no compiler or no header.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

use blkproof_engine::uapi::{
    BasicParams, BatchIo, ControlOp, CtrlCmd, DEPTH_MAX, DevInfo, DeviceState, DevtParams,
    DiscardParams, DmaAlignParams, Features, IntegrityParams, IoCmd, IoDesc, IoOp, ParamAttrs,
    Params, QUEUES_MAX, RequestFlags, RequestOp, SegmentParams, ShmemBufReg, UserCopyPosition,
    ZonedParams,
};

/// Our values under the header's names.
fn ours() -> BTreeMap<String, u64> {
    let mut all = BTreeMap::new();
    let mut add = |name: &str, value: u64| assert_eq!(all.insert(name.to_owned(), value), None);
    for op in ControlOp::ALL {
        add(&format!("UBLK_U_CMD_{}", op.name()), u64::from(op.ioctl()));
    }
    for op in IoOp::ALL {
        add(&format!("UBLK_U_IO_{}", op.name()), u64::from(op.ioctl()));
    }
    for (bit, name) in Features::ALL {
        add(name, 1 << bit);
    }
    for (bit, name) in RequestFlags::ALL {
        add(name, 1 << bit);
    }
    for (op, name) in RequestOp::ALL.iter().zip([
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
        add(&format!("UBLK_IO_OP_{name}"), u64::from(op.encode()));
    }
    for (state, name) in [
        (DeviceState::Dead, "DEAD"),
        (DeviceState::Live, "LIVE"),
        (DeviceState::Quiesced, "QUIESCED"),
        (DeviceState::FailIo, "FAIL_IO"),
    ] {
        add(&format!("UBLK_S_DEV_{name}"), u64::from(state.encode()));
    }
    for (attr, name) in [
        (ParamAttrs::READ_ONLY, "READ_ONLY"),
        (ParamAttrs::ROTATIONAL, "ROTATIONAL"),
        (ParamAttrs::VOLATILE_CACHE, "VOLATILE_CACHE"),
        (ParamAttrs::FUA, "FUA"),
    ] {
        add(&format!("UBLK_ATTR_{name}"), u64::from(attr.0));
    }
    for (bit, name) in ["BASIC", "DISCARD", "DEVT", "ZONED", "DMA_ALIGN", "SEGMENT", "INTEGRITY"]
        .iter()
        .enumerate()
    {
        add(&format!("UBLK_PARAM_TYPE_{name}"), 1 << bit);
    }
    add("UBLK_IO_RES_OK", 0);
    add("UBLK_IO_RES_NEED_GET_DATA", 1);
    add("UBLK_IO_RES_ABORT", (-19i64).cast_unsigned());
    add("UBLK_MAX_QUEUE_DEPTH", u64::from(DEPTH_MAX));
    add("UBLK_MAX_NR_QUEUES", u64::from(QUEUES_MAX));
    add("UBLKSRV_IO_BUF_OFFSET", UserCopyPosition::BASE);
    add("UBLK_IO_BUF_BITS", u64::from(UserCopyPosition::BYTE_BITS));
    add("UBLK_TAG_BITS", u64::from(UserCopyPosition::TAG_BITS));
    add("UBLK_QID_BITS", u64::from(UserCopyPosition::QUEUE_BITS));
    add("UBLK_INTEGRITY_FLAG_OFF", 62);
    add("UBLK_AUTO_BUF_REG_FALLBACK", 1);
    add("UBLK_BATCH_F_HAS_ZONE_LBA", 1);
    add("UBLK_BATCH_F_HAS_BUF_ADDR", 2);
    add("UBLK_BATCH_F_AUTO_BUF_REG_FALLBACK", 4);
    add("UBLK_SHMEM_BUF_READ_ONLY", 1);
    for (name, size) in [
        ("ublksrv_ctrl_cmd", CtrlCmd::SIZE),
        ("ublksrv_ctrl_dev_info", DevInfo::SIZE),
        ("ublksrv_io_desc", IoDesc::SIZE),
        ("ublksrv_io_cmd", IoCmd::SIZE),
        ("ublk_param_basic", BasicParams::SIZE),
        ("ublk_param_discard", DiscardParams::SIZE),
        ("ublk_param_devt", DevtParams::SIZE),
        ("ublk_param_zoned", ZonedParams::SIZE),
        ("ublk_param_dma_align", DmaAlignParams::SIZE),
        ("ublk_param_segment", SegmentParams::SIZE),
        ("ublk_param_integrity", IntegrityParams::SIZE),
        ("ublk_params", Params::SIZE),
        ("ublk_batch_io", BatchIo::SIZE),
        ("ublk_shmem_buf_reg", ShmemBufReg::SIZE),
    ] {
        add(&format!("sizeof({name})"), size as u64);
    }
    for (name, offset) in
        ["basic", "discard", "devt", "zoned", "dma", "seg", "integrity"].iter().zip(Params::OFFSETS)
    {
        add(&format!("ublk_params.{name}"), offset as u64);
    }
    // Offsets that `uapi_table.rs` holds the encoders to.
    for (name, offset) in [
        ("ublksrv_ctrl_cmd.dev_id", 0),
        ("ublksrv_ctrl_cmd.queue_id", 4),
        ("ublksrv_ctrl_cmd.len", 6),
        ("ublksrv_ctrl_cmd.addr", 8),
        ("ublksrv_ctrl_cmd.data", 16),
        ("ublksrv_ctrl_cmd.dev_path_len", 24),
        ("ublksrv_ctrl_dev_info.nr_hw_queues", 0),
        ("ublksrv_ctrl_dev_info.queue_depth", 2),
        ("ublksrv_ctrl_dev_info.state", 4),
        ("ublksrv_ctrl_dev_info.io_desc_size", 6),
        ("ublksrv_ctrl_dev_info.max_io_buf_bytes", 8),
        ("ublksrv_ctrl_dev_info.dev_id", 12),
        ("ublksrv_ctrl_dev_info.ublksrv_pid", 16),
        ("ublksrv_ctrl_dev_info.flags", 24),
        ("ublksrv_ctrl_dev_info.ublksrv_flags", 32),
        ("ublksrv_ctrl_dev_info.owner_uid", 40),
        ("ublksrv_ctrl_dev_info.owner_gid", 44),
        ("ublksrv_io_desc.op_flags", 0),
        ("ublksrv_io_desc.nr_sectors", 4),
        ("ublksrv_io_desc.start_sector", 8),
        ("ublksrv_io_desc.addr", 16),
        ("ublksrv_io_cmd.q_id", 0),
        ("ublksrv_io_cmd.tag", 2),
        ("ublksrv_io_cmd.result", 4),
        ("ublksrv_io_cmd.addr", 8),
        ("ublk_param_basic.attrs", 0),
        ("ublk_param_basic.logical_bs_shift", 4),
        ("ublk_param_basic.physical_bs_shift", 5),
        ("ublk_param_basic.io_opt_shift", 6),
        ("ublk_param_basic.io_min_shift", 7),
        ("ublk_param_basic.max_sectors", 8),
        ("ublk_param_basic.chunk_sectors", 12),
        ("ublk_param_basic.dev_sectors", 16),
        ("ublk_param_basic.virt_boundary_mask", 24),
        ("ublk_param_discard.discard_granularity", 4),
        ("ublk_param_discard.max_discard_sectors", 8),
        ("ublk_param_discard.max_write_zeroes_sectors", 12),
        ("ublk_param_discard.max_discard_segments", 16),
        ("ublk_params.len", 0),
        ("ublk_params.types", 4),
        ("ublk_param_zoned.max_zone_append_sectors", 8),
        ("ublk_param_segment.max_segment_size", 8),
        ("ublk_param_segment.max_segments", 12),
        ("ublk_param_integrity.max_integrity_segments", 4),
        ("ublk_param_integrity.interval_exp", 6),
        ("ublk_param_integrity.metadata_size", 7),
        ("ublk_param_integrity.pi_offset", 8),
        ("ublk_param_integrity.csum_type", 9),
        ("ublk_param_integrity.tag_size", 10),
        ("ublk_batch_io.q_id", 0),
        ("ublk_batch_io.flags", 2),
        ("ublk_batch_io.nr_elem", 4),
        ("ublk_batch_io.elem_bytes", 6),
        ("ublk_shmem_buf_reg.addr", 0),
        ("ublk_shmem_buf_reg.len", 8),
        ("ublk_shmem_buf_reg.flags", 16),
    ] {
        add(name, offset);
    }
    all
}

/// Compares what the header said with what we say. Every line of the header must have its counterpart.
fn compare(theirs: &str, ours: &BTreeMap<String, u64>) -> Result<usize, String> {
    let mut compared = 0;
    for line in theirs.lines() {
        let (name, value) = line.split_once(' ').ok_or_else(|| format!("odd line {line:?}"))?;
        let value: u64 = value.parse().map_err(|error| format!("{line:?}: {error}"))?;
        match ours.get(name) {
            None => return Err(format!("{name} is {value} in the header and unknown here")),
            Some(our) if *our != value => {
                return Err(format!("{name} is {value} in the header and {our} here"));
            }
            Some(_) => compared += 1,
        }
    }
    Ok(compared)
}

fn include_dir() -> Option<PathBuf> {
    if let Some(dir) = env::var_os("BLKPROOF_UAPI_INCLUDE") {
        return Some(PathBuf::from(dir));
    }
    let system = PathBuf::from("/usr/include");
    system.join("linux/ublk_cmd.h").exists().then_some(system)
}

#[test]
fn agrees_with_the_kernels_header() {
    let Some(include) = include_dir() else {
        println!(
            "skipped: there is no linux/ublk_cmd.h in /usr/include (install the kernel's headers)"
        );
        return;
    };
    if Command::new("cc").arg("--version").output().is_err() {
        println!("skipped: there is no C compiler `cc`");
        return;
    }
    let ours = ours();
    let mut numbers = String::new();
    for name in ours.keys().filter(|name| name.starts_with("UBLK")) {
        writeln!(numbers, "#ifdef {name}\n\tNUMBER({name});\n#endif").unwrap();
    }
    let source = include_str!("c/uapi_dump.c").replace("@NUMBERS@\n", &numbers);
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let (file, program) = (dir.join("uapi_dump.c"), dir.join("uapi_dump"));
    fs::write(&file, source).unwrap();
    let compiled = Command::new("cc")
        .arg("-Wall")
        .arg("-isystem")
        .arg(&include)
        .arg("-o")
        .args([&program, &file])
        .output()
        .unwrap();
    assert!(compiled.status.success(), "{}", String::from_utf8_lossy(&compiled.stderr));
    let output = Command::new(&program).output().unwrap();
    let compared = compare(&String::from_utf8(output.stdout).unwrap(), &ours).unwrap();
    println!("compared {compared} of {} values; the rest are newer than the header", ours.len());
    assert!(compared >= 60, "even the oldest header has more than {compared} of these");
}

#[test]
fn a_difference_is_noticed() {
    let ours = ours();
    assert_eq!(compare("UBLK_U_CMD_ADD_DEV 3223352580\n", &ours), Ok(1));
    assert!(compare("UBLK_U_CMD_ADD_DEV 3223352581\n", &ours).unwrap_err().contains("ADD_DEV is"));
    assert!(compare("UBLK_F_FLYING 1\n", &ours).unwrap_err().contains("unknown here"));
}
