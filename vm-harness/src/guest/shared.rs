//! Clients whose data lies in memory that they share with the server.

use std::fs::{self, File};

use super::blkproof::{self, Device, SHARED, Wanted};
use super::fio::Fio;
use super::program::{Checked, broken, failed, run};
use super::scenario::{Doing, added, deleted, killed};
use crate::plan::{Data, Order, Target};

/// What is shared. A request of a page lies in one page of it; the pages need not be neighbours.
const MEMORY: &str = "/tmp/lent";
const MEMORY_BYTES: u64 = 1 << 20;
const OPTIONS: &[&str] = &[SHARED, MEMORY, "--recovery", "reissue", "--restart"];
const BLOCK_KIB: u32 = 4;
const TOTAL_KIB: u32 = 2048;
/// Requests of one run of fio: each block is written, and read again.
const REQUESTS: u64 = 2 * (TOTAL_KIB / BLOCK_KIB) as u64;

/// What was written is read, by every target, in every mode, and by the next worker; and where the kernel can it is not copied.
pub(super) fn shared_memory(doing: &Doing) -> Checked<String> {
    let shares = blkproof::has("SHMEM_ZC")?;
    let lent = File::create(MEMORY).and_then(|file| file.set_len(MEMORY_BYTES));
    if let Err(error) = lent {
        return broken(format!("create {MEMORY}: {error}"));
    }
    refused(doing)?;
    let mut told = Vec::new();
    for (target, data) in [
        (Target::Mem, Data::UserCopy),
        (Target::Mem, Data::Copy),
        (Target::Loop, Data::Copy),
        (Target::Loop, Data::ZeroCopy),
    ] {
        let wanted = Wanted { target, size_mib: 64, queues: 2, depth: 64, data, options: OPTIONS };
        let device = added(&wanted, doing)?;
        let before = copies(&device)?;
        verified(&device, doing)?;
        let copied = copies(&device)?.saturating_sub(before);
        if data == Data::UserCopy {
            // The server's own reads and writes are those of the character device, and few others.
            if shares && copied > REQUESTS / 10 || !shares && copied < REQUESTS {
                return failed(format!(
                    "{REQUESTS} requests, of which {copied} were copied; shared memory: {shares}"
                ));
            }
            told.push(format!("{copied} of {REQUESTS} requests were copied"));
        }
        // 6.12 may take its time to notice, and does not know the option.
        if shares {
            killed(blkproof::worker(device.id)?, doing);
            verified(&device, doing)?;
            told.push(format!("{} {}: and by the next worker", target.name(), data.name()));
        }
        deleted(&device, doing)?;
    }
    let _ = fs::remove_file(MEMORY);
    Ok(told.join("; "))
}

/// Sizes and modes that make no sense are refused before there is a device.
fn refused(doing: &Doing) -> Checked {
    doing.now("refusals of `add`");
    for more in [["--data", "get-data"], ["--shared", "/init"], ["--shared", "/tmp/nothing"]] {
        let mut arguments = vec!["add", "null", "--size", "1M"];
        if more[0] != SHARED {
            arguments.extend([SHARED, MEMORY]);
        }
        arguments.extend(more);
        if run(blkproof::PROGRAM, &arguments).is_ok() {
            return failed(format!("`blkproof {}` succeeded", arguments.join(" ")));
        }
    }
    blkproof::nothing_left()
}

fn verified(device: &Device, doing: &Doing) -> Checked {
    doing.now(format!("fio on {}, from shared memory", device.path));
    Fio {
        path: &device.path,
        engine: "io_uring",
        order: Order::Random,
        block_kib: BLOCK_KIB,
        depth: 32,
        jobs: 1,
        job_kib: TOTAL_KIB,
        memory: Some(MEMORY),
        verify: true,
    }
    .run()
    .map(drop)
}

/// Reads and writes of the device's worker so far, by system calls.
fn copies(device: &Device) -> Checked<u64> {
    let worker = blkproof::worker(device.id)?;
    let path = format!("/proc/{worker}/io");
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) => return broken(format!("read {path}: {error}")),
    };
    let count = |name| {
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        line.and_then(|count| count.trim().parse::<u64>().ok()).unwrap_or(0)
    };
    Ok(count("syscr:") + count("syscw:"))
}
