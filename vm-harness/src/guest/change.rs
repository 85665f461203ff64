//! Devices that are changed while they are in use: their worker, their size; and a deletion that leaves alone what is in use.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use super::blkproof::{self, BATCH, Device, PROGRAM, Wanted};
use super::program::{Checked, Program, Trouble, failed, run};
use super::recovery::Verifying;
use super::scenario::{Doing, added, deleted, read_a_block};
use crate::plan::{Change, Data, Target};

/// How often the worker of one load is replaced.
const HANDOVERS: u32 = 4;
const MIB: u64 = 1 << 20;

/// Carries out one of these steps.
pub(super) fn change(what: Change, doing: &Doing) -> Checked<String> {
    match what {
        Change::Handover => handover(doing),
        Change::Resize => resize(doing),
        Change::Unused => unused(doing),
    }
}

fn wanted(target: Target, options: &'static [&'static str]) -> Wanted {
    Wanted { target, size_mib: 64, queues: 4, depth: 64, data: Data::Copy, options }
}

/// A command must fail, and say this.
fn refused(arguments: &[&str], reason: &str, doing: &Doing) -> Checked {
    doing.now(format!("blkproof {}, which cannot succeed", arguments.join(" ")));
    let owned: Vec<String> = arguments.iter().map(|one| (*one).to_owned()).collect();
    let ended = Program::start(PROGRAM, &owned)?.wait()?;
    if ended.status.code() != Some(1) || !ended.stderr.contains(reason) {
        return Err(Trouble::Failed {
            detail: format!("{arguments:?} ended with {}, without saying {reason:?}", ended.status),
            evidence: ended.evidence(),
        });
    }
    Ok(())
}

/// Replaces the worker. How long that took.
pub(super) fn handed_over(device: &Device, doing: &Doing) -> Checked<Duration> {
    let worker = blkproof::worker(device.id)?;
    let begun = Instant::now();
    doing.now(format!("blkproof handover {}", device.id));
    let ended = run(PROGRAM, &["handover", &device.id.to_string()])?;
    if ended.stdout.trim() != device.path {
        return failed(format!("`handover` printed {:?}, not {}", ended.stdout, device.path));
    }
    if blkproof::worker(device.id)? == worker {
        return failed("the worker is the same after a handover");
    }
    Ok(begun.elapsed())
}

/// Workers are replaced under a load that verifies, and must not notice: also where what a dead worker holds would fail.
fn handover(doing: &Doing) -> Checked<String> {
    let mut slowest = Duration::ZERO;
    let quiesces = blkproof::has("QUIESCE")?;
    for (target, options) in
        [(Target::Mem, &["--recovery", "requeue"]), (Target::Loop, &["--recovery", "reissue"])]
    {
        let device = added(&wanted(target, options), doing)?;
        let id = device.id.to_string();
        if !quiesces {
            refused(&["handover", &id], "requests cannot be held back", doing)?;
            read_a_block(&device)?;
            deleted(&device, doing)?;
            continue;
        }
        let mut load = Verifying::start(&device)?;
        for _ in 0..HANDOVERS {
            load.progress(doing)?;
            slowest = slowest.max(handed_over(&device, doing)?);
        }
        load.ended(doing)?;
        deleted(&device, doing)?;
    }
    let device = added(&wanted(Target::Null, &[]), doing)?;
    refused(&["handover", &device.id.to_string()], "requests cannot be held back", doing)?;
    deleted(&device, doing)?;
    if blkproof::has("BATCH_IO")? {
        let device = added(&wanted(Target::Mem, &["--recovery", "requeue", BATCH]), doing)?;
        refused(&["handover", &device.id.to_string()], "served in batches", doing)?;
        resized(&device, 96, true, doing)?;
        holds(&device, 80)?;
        deleted(&device, doing)?;
    }
    if !quiesces {
        return Ok("this kernel has no QUIESCE_DEV, and `handover` says so".into());
    }
    Ok(format!("{HANDOVERS} handovers under load, {:.2} s at most", slowest.as_secs_f64()))
}

/// Resizes a device, and looks at its disk.
fn resized(device: &Device, mib: u64, named: bool, doing: &Doing) -> Checked {
    let size = format!("{mib}M");
    doing.now(format!("blkproof resize {} to {size}", device.id));
    let id = device.id.to_string();
    let mut arguments = vec!["resize", &id];
    if named {
        arguments.extend(["--size", &size]);
    }
    run(PROGRAM, &arguments)?;
    let name = device.path.trim_start_matches("/dev/");
    let sysfs = fs::read_to_string(format!("/sys/block/{name}/size")).unwrap_or_default();
    let listed = blkproof::listed(device.id)?.size_bytes;
    if sysfs.trim().parse() != Ok(mib * 2048) || listed != mib * MIB {
        return failed(format!(
            "after a resize to {size}: {sysfs:?} sectors, {listed} bytes listed"
        ));
    }
    Ok(())
}

/// Writes a block, and reads it back past any cache.
fn holds(device: &Device, mib: u64) -> Checked {
    let block = [mib as u8 | 1; 4096];
    let written = File::options().write(true).open(&device.path).and_then(|file| {
        file.write_all_at(&block, mib * MIB)?;
        file.sync_all()
    });
    if let Err(error) = written {
        return failed(format!("a write at {mib} MiB: {error}"));
    }
    let mut found = [0; 4096];
    match File::open(&device.path).and_then(|file| file.read_exact_at(&mut found, mib * MIB)) {
        Ok(()) if found == block => Ok(()),
        other => failed(format!("a read at {mib} MiB of what was written: {other:?}")),
    }
}

fn ends_before(device: &Device, mib: u64) -> Checked {
    let mut block = [0; 4096];
    match File::open(&device.path).and_then(|file| file.read_at(&mut block, mib * MIB)) {
        Ok(0) | Err(_) => Ok(()),
        Ok(_) => failed(format!("a read at {mib} MiB, beyond the end, brought something")),
    }
}

fn resize(doing: &Doing) -> Checked<String> {
    let resizes = blkproof::has("UPDATE_SIZE")?;
    for target in [Target::Mem, Target::Null, Target::Loop] {
        let device = added(&wanted(target, &["--recovery", "reissue"]), doing)?;
        let id = device.id.to_string();
        if !resizes {
            refused(&["resize", &id, "--size", "32M"], "cannot resize this device", doing)?;
            deleted(&device, doing)?;
            continue;
        }
        let named = target != Target::Loop;
        if !named {
            refused(&["resize", &id, "--size", "96M"], "less than", doing)?;
            blkproof::resize_backing(96 * MIB)?;
        }
        resized(&device, 96, named, doing)?;
        if target != Target::Null {
            holds(&device, 80)?;
        }
        resized(&device, 32, true, doing)?;
        ends_before(&device, 48)?;
        if target != Target::Null {
            holds(&device, 16)?;
            resized(&device, 64, true, doing)?;
            holds(&device, 48)?;
        }
        if blkproof::has("QUIESCE")? {
            handed_over(&device, doing)?;
            read_a_block(&device)?;
        }
        deleted(&device, doing)?;
    }
    Ok(if resizes {
        "larger, smaller, and larger again".into()
    } else {
        "this kernel has no UPDATE_SIZE, and `resize` says so".into()
    })
}

fn unused(doing: &Doing) -> Checked<String> {
    let device = added(&wanted(Target::Mem, &[]), doing)?;
    let id = device.id.to_string();
    if !blkproof::has("SAFE_STOP_DEV")? {
        refused(&["del", &id, "--if-unused"], "needs Linux 7.3", doing)?;
        read_a_block(&device)?;
        deleted(&device, doing)?;
        return Ok("this kernel has no TRY_STOP_DEV, and `del --if-unused` says so".into());
    }
    let Ok(client) = File::open(&device.path) else {
        return failed(format!("{} does not open", device.path));
    };
    refused(&["del", &id, "--if-unused"], "it is in use by process", doing)?;
    read_a_block(&device)?;
    drop(client);
    doing.now(format!("blkproof del {id} --if-unused"));
    run(PROGRAM, &["del", &id, "--if-unused"])?;
    blkproof::nothing_left()?;
    Ok("left alone while it was open, deleted when it was not".into())
}
