//! What control commands tell, in words that both executors use.

use blkproof_engine::uapi::{DevInfo, Features, Params};

use super::{FLAG_PREFIX, Op, Parameters};

/// Flags as a script writes them.
pub fn flags(flags: Features) -> String {
    let names = flags.iter().map(|(bit, name)| {
        let name = name.and_then(|name| name.strip_prefix(FLAG_PREFIX));
        name.map_or_else(|| (1_u64 << bit).to_string(), ToOwned::to_owned)
    });
    names.collect::<Vec<_>>().join("+")
}

/// What ADD_DEV and GET_DEV_INFO tell. Of the server only whether there is one.
pub fn info(info: &DevInfo) -> String {
    format!(
        "id={} queues={} depth={} state={} desc={} buffer={} server={} owner={}:{} flags={}",
        info.dev_id.0,
        info.nr_hw_queues,
        info.queue_depth,
        info.state.name(),
        info.io_desc_size,
        info.max_io_buf_bytes,
        if info.ublksrv_pid > 0 { "yes" } else { "no" },
        info.owner_uid,
        info.owner_gid,
        flags(info.flags),
    )
}

/// What GET_QUEUE_AFFINITY tells of the first 64 CPUs.
pub fn affinity(cpus: u64) -> String {
    format!("cpus={cpus:#x}")
}

/// The requests that a ring brought, in that order.
pub fn order(brought: &[(u64, u32)]) -> String {
    let words = brought.iter().map(|(first, count)| format!("{first}+{count}"));
    words.collect::<Vec<_>>().join(" ")
}

/// What a command that succeeded told, from its memory.
pub fn read(op: &Op, memory: &[u8]) -> String {
    fn at<const N: usize>(memory: &[u8]) -> [u8; N] {
        memory.first_chunk().copied().unwrap_or([0; N])
    }
    match op.bare() {
        Op::Features => flags(Features(u64::from_ne_bytes(at(memory)))),
        Op::Affinity { .. } => affinity(u64::from_ne_bytes(at(memory))),
        Op::Details | Op::Details2 => match DevInfo::decode(&at(memory)) {
            Ok(found) => info(&found),
            Err(error) => error.to_string(),
        },
        Op::GetParams { .. } => Parameters::told(&at::<{ Params::SIZE }>(memory)),
        _ => String::new(),
    }
}
