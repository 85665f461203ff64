//! What the processes of a device do is recorded, and must be a run of the model.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use blkproof_sim::trace::{self, Recording};

use super::blkproof::{self, BATCH, Device, Wanted};
use super::fio::Fio;
use super::proc;
use super::program::{Checked, Program, Trouble, broken, failed, run};
use super::recovery::until_served;
use super::scenario::{Doing, Done, Stretch, deleted, killed, load_ended, progress};
use crate::plan::{Order, RecordCase, RecordEnd, Target};

const DIR: &str = "/tmp/record";
/// Requests that make a load.
const UNDER_WAY: Stretch = (50, Duration::from_millis(1));
/// Bytes of a trace that is worth to be handed to the host.
const HANDED_MAX: usize = 512 << 10;

pub(super) fn record(case: &RecordCase, doing: &Doing) -> Checked<Done> {
    let RecordCase { target, queues, depth, data, batch, end } = *case;
    let _ = fs::remove_dir_all(DIR);
    let options: &[&str] = match (end, batch) {
        (RecordEnd::Restarted, false) => &["--recovery", "reissue", "--restart"],
        (RecordEnd::Restarted, true) => &["--recovery", "reissue", "--restart", BATCH],
        (RecordEnd::HandedOver, _) => &["--recovery", "requeue"],
        (RecordEnd::Idle | RecordEnd::Loaded | RecordEnd::Killed, false) => &[],
        (RecordEnd::Idle | RecordEnd::Loaded | RecordEnd::Killed, true) => &[BATCH],
    };
    let wanted = Wanted { target, size_mib: 16, queues, depth, data, options };
    doing.now(format!("blkproof add {} --record", target.name()));
    let device = blkproof::add_with(&wanted, &["--record", DIR])?;
    match end {
        RecordEnd::Idle => {
            doing.now(format!("fio on {}", device.path));
            Fio {
                path: &device.path,
                engine: "io_uring",
                order: Order::Random,
                block_kib: 4,
                depth: depth.min(16),
                jobs: queues,
                job_kib: 64,
                memory: None,
                verify: target != Target::Null,
            }
            .run()?;
            deleted(&device, doing)?;
        }
        RecordEnd::Loaded => {
            let load = loaded(&device, queues, doing)?;
            deleted_under(load, &device, doing)?;
        }
        RecordEnd::Restarted => {
            let load = loaded(&device, queues, doing)?;
            let worker = blkproof::worker(device.id)?;
            killed(worker, doing);
            doing.now("another worker to serve");
            until_served(&device, worker)?;
            deleted_under(load, &device, doing)?;
        }
        RecordEnd::HandedOver => {
            let load = loaded(&device, queues, doing)?;
            if run(blkproof::PROGRAM, &["features"])?.stdout.contains("QUIESCE") {
                super::change::handed_over(&device, doing)?;
            }
            deleted_under(load, &device, doing)?;
        }
        RecordEnd::Killed => {
            let load = loaded(&device, queues, doing)?;
            killed(blkproof::worker(device.id)?, doing);
            load_ended(load, doing)?;
            supervisor_ended(&device, doing)?;
            deleted(&device, doing)?;
        }
    }
    doing.now("the check of what was recorded");
    let begun = Instant::now();
    let text = read(Path::new(DIR))?;
    let detail = checked(&text)?;
    let seconds = begun.elapsed().as_secs_f64();
    let trace = (text.len() <= HANDED_MAX).then_some(text);
    Ok(Done { detail: format!("{detail} in {seconds:.1} s"), trace, ..Done::default() })
}

/// Holds it against the model of the kernel that runs.
fn checked(text: &str) -> Checked<String> {
    let files = text.split("== ").filter_map(|file| file.split_once('\n'));
    let recording = match Recording::parse(files) {
        Ok(recording) => recording,
        Err(error) => return failed(format!("what was recorded is no trace: {error}")),
    };
    let records = recording.records();
    let Some(kernel) = recording.kernel() else {
        return Ok(format!("{records} records, and no model of this kernel to hold them against"));
    };
    match trace::check(&recording, kernel) {
        Ok(checked) => Ok(format!(
            "{records} records of {} requests are a run of the model of {kernel}, checked",
            checked.requests
        )),
        Err(refused) => Err(Trouble::Failed {
            detail: format!("what the kernel did is not a run of the model: {}", refused.why),
            evidence: vec![refused.to_string(), text.to_owned()],
        }),
    }
}

/// A load under way; what it does is recorded, so not for long.
fn loaded(device: &Device, queues: u32, doing: &Doing) -> Checked<Program> {
    doing.now(format!("the load on {}", device.path));
    let mut load = Fio::load(&device.path, queues, 16)?;
    progress(device, &mut load, UNDER_WAY)?;
    Ok(load)
}

fn deleted_under(load: Program, device: &Device, doing: &Doing) -> Checked {
    doing.now(format!("blkproof del {} under load", device.id));
    run(blkproof::PROGRAM, &["del", &device.id.to_string()])?;
    load_ended(load, doing)?;
    blkproof::nothing_left()
}

/// A supervisor without a worker ends by itself, and only then its trace is complete.
fn supervisor_ended(device: &Device, doing: &Doing) -> Checked {
    doing.now(format!("the supervisor of device {} to end", device.id));
    while let Some(pid) = blkproof::listed(device.id)?.supervisor_pid {
        if !proc::is_alive(pid) {
            break;
        }
        thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// The traces of all processes, one after the other.
fn read(dir: &Path) -> Checked<String> {
    let mut text = String::new();
    let workers = (1..).map(|number| format!("worker-{number}.jsonl"));
    for name in ["supervisor.jsonl".to_owned()].into_iter().chain(workers) {
        match fs::read_to_string(dir.join(&name)) {
            Ok(one) => text.extend(["== ", &name, "\n", &one]),
            Err(error) if error.kind() == ErrorKind::NotFound => break,
            Err(error) => return broken(format!("read {name}: {error}")),
        }
    }
    if text.is_empty() { failed("nothing was recorded") } else { Ok(text) }
}
