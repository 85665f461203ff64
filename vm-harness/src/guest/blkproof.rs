//! The program under test, called as a user would call it.

use std::fs;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use serde::Deserialize;

use super::proc;
use super::program::{Checked, Ended, Program, Trouble, failed, run};
use crate::facts::MachineFacts;
use crate::plan::{Data, Target};

/// The program's name.
pub(super) const PROGRAM: &str = "blkproof";
/// Where it keeps its state files.
pub(super) const STATE: &str = "/run/blkproof";
/// Has a device served in batches, where the kernel has them.
pub(super) const BATCH: &str = "--batch";
/// Has a device serve data where clients have it, in the file named behind it, where the kernel can.
pub(super) const SHARED: &str = "--shared";
/// The file behind loop devices.
const BACKING: &str = "/scratch/backing";
/// Releasing a device is finished by kernel work items, shortly after `del` returned.
const SETTLE: Duration = Duration::from_secs(5);

/// What to add.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wanted {
    pub(super) target: Target,
    pub(super) size_mib: u32,
    pub(super) queues: u32,
    pub(super) depth: u32,
    pub(super) data: Data,
    /// Further options of `add`.
    pub(super) options: &'static [&'static str],
}

/// A live device.
#[derive(Debug, Clone)]
pub(super) struct Device {
    pub(super) id: u32,
    pub(super) path: String,
}

/// One entry of `blkproof list --json`.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Listed {
    pub(super) id: u32,
    pub(super) state: String,
    pub(super) target: String,
    pub(super) path: String,
    pub(super) size_bytes: u64,
    pub(super) queues: u32,
    pub(super) depth: u32,
    pub(super) data: Option<String>,
    pub(super) batch: Option<bool>,
    pub(super) worker_pid: Option<i32>,
    pub(super) supervisor_pid: Option<i32>,
}

#[derive(Debug, Deserialize)]
struct Dump {
    #[serde(default)]
    machines: Vec<MachineFacts>,
}

/// Gives the file behind loop devices another size.
pub(super) fn resize_backing(bytes: u64) -> Checked {
    match fs::File::options().write(true).open(BACKING).and_then(|file| file.set_len(bytes)) {
        Ok(()) => Ok(()),
        Err(error) => super::program::broken(format!("resize {BACKING}: {error}")),
    }
}

/// Adds a device and returns when it is live; also returns the finished command, for what it printed.
pub(super) fn add(wanted: &Wanted) -> Checked<Device> {
    add_with(wanted, &[])
}

/// The same with more arguments.
pub(super) fn add_with(wanted: &Wanted, more: &[&str]) -> Checked<Device> {
    let mut arguments = vec!["add".to_owned(), wanted.target.name().to_owned()];
    if wanted.target == Target::Loop {
        let size = u64::from(wanted.size_mib) << 20;
        let backing = fs::File::create(BACKING).and_then(|f| f.set_len(size));
        if let Err(error) = backing {
            return super::program::broken(format!("cannot create {BACKING}: {error}"));
        }
        arguments.push(BACKING.to_owned());
    } else {
        arguments.push("--size".to_owned());
        arguments.push(format!("{}M", wanted.size_mib));
    }
    arguments.extend([
        "-q".to_owned(),
        wanted.queues.to_string(),
        "-d".to_owned(),
        wanted.depth.to_string(),
        "--data".to_owned(),
        wanted.data.name().to_owned(),
    ]);
    arguments.extend(wanted.options.iter().map(|&option| option.to_owned()));
    arguments.extend(more.iter().map(|argument| (*argument).to_owned()));
    let program = Program::start(PROGRAM, &arguments)?;
    let output = program.stdout_file().clone();
    let ended = program.wait()?.success()?;
    let device = parse_added(&ended)?;
    match fs::metadata(&device.path) {
        Ok(node) if node.file_type().is_block_device() => {}
        Ok(_) => return failed(format!("{} is not a block device", device.path)),
        Err(error) => {
            return failed(format!("`add` succeeded and {} cannot be found: {error}", device.path));
        }
    }
    let listed = listed(device.id)?;
    if listed.state != "LIVE" || listed.path != device.path || listed.target != wanted.target.name()
    {
        return failed(format!("`list` reports another device than was added: {listed:?}"));
    }
    if listed.queues != wanted.queues || listed.depth != wanted.depth {
        return failed(format!(
            "asked for {} queues of depth {}, got {} of {}",
            wanted.queues, wanted.depth, listed.queues, listed.depth
        ));
    }
    let granted = granted(wanted.data)?;
    if listed.data.as_deref() != Some(granted.name()) {
        return failed(format!("expected {}, got {:?}", granted.name(), listed.data));
    }
    let batch = wanted.options.contains(&BATCH) && has("BATCH_IO")?;
    if listed.batch != Some(batch) {
        return failed(format!("expected batches: {batch}, got {:?}", listed.batch));
    }
    let none = ended.stderr.contains("there are no batches");
    if none != (wanted.options.contains(&BATCH) && !batch) {
        return failed(format!("batches: {batch}, and `add` says {:?}", ended.stderr));
    }
    let share = wanted.options.contains(&SHARED);
    if ended.stderr.contains("shares no memory") != (share && !has("SHMEM_ZC")?) {
        return failed(format!("shared memory: {share}, and `add` says {:?}", ended.stderr));
    }
    if listed.size_bytes != u64::from(wanted.size_mib) << 20 {
        return failed(format!(
            "asked for {} MiB, got {} bytes",
            wanted.size_mib, listed.size_bytes
        ));
    }
    daemon_let_go(&listed, &output)?;
    Ok(device)
}

/// The mode that a device is served in: a kernel without automatic buffers grants copy mode instead of zero copy.
pub(super) fn granted(wanted: Data) -> Checked<Data> {
    match wanted {
        Data::ZeroCopy if !has("AUTO_BUF_REG")? => Ok(Data::Copy),
        Data::Copy | Data::GetData | Data::UserCopy | Data::ZeroCopy => Ok(wanted),
    }
}

/// Whether the kernel names this feature.
pub(super) fn has(feature: &str) -> Checked<bool> {
    Ok(run(PROGRAM, &["features"])?.stdout.contains(feature))
}

fn parse_added(ended: &Ended) -> Checked<Device> {
    let path = ended.stdout.trim();
    let id = path.strip_prefix("/dev/ublkb").and_then(|n| n.parse().ok());
    match id {
        Some(id) => Ok(Device { id, path: path.to_owned() }),
        None => Err(Trouble::Failed {
            detail: format!("`{}` did not print one device path alone", ended.line),
            evidence: ended.evidence(),
        }),
    }
}

/// A daemon that keeps its caller's standard output open hangs `$(blkproof add …)`.
fn daemon_let_go(listed: &Listed, output: &Path) -> Checked {
    for pid in [listed.worker_pid, listed.supervisor_pid].into_iter().flatten() {
        for descriptor in 0..3 {
            let target = fs::read_link(format!("/proc/{pid}/fd/{descriptor}")).unwrap_or_default();
            if target.to_string_lossy().starts_with(&*output.to_string_lossy()) {
                return failed(format!(
                    "process {pid} still holds the output of the `add` that started it"
                ));
            }
        }
    }
    Ok(())
}

/// `blkproof list --json`.
pub(super) fn list() -> Checked<Vec<Listed>> {
    let ended = run(PROGRAM, &["list", "--json"])?;
    serde_json::from_str(&ended.stdout).map_err(|error| Trouble::Failed {
        detail: format!("`list --json` is not what it should be: {error}"),
        evidence: ended.evidence(),
    })
}

/// One device of the list.
pub(super) fn listed(id: u32) -> Checked<Listed> {
    match list()?.into_iter().find(|d| d.id == id) {
        Some(listed) => Ok(listed),
        None => failed(format!("`list` does not know device {id}")),
    }
}

/// The process that serves a device.
pub(super) fn worker(id: u32) -> Checked<i32> {
    match listed(id)?.worker_pid {
        Some(pid) if proc::is_alive(pid) => Ok(pid),
        other => failed(format!(
            "device {id}: `list` names {other:?} as worker, and there is no such process"
        )),
    }
}

/// The process that controls a device.
pub(super) fn supervisor(id: u32) -> Checked<i32> {
    match listed(id)?.supervisor_pid {
        Some(pid) if proc::is_alive(pid) => Ok(pid),
        other => failed(format!(
            "device {id}: `list` names {other:?} as supervisor, and there is no such process"
        )),
    }
}

/// `blkproof dump ID --json`.
pub(super) fn dump(id: u32) -> Checked<Vec<MachineFacts>> {
    let ended = run(PROGRAM, &["dump", &id.to_string(), "--json"])?;
    match serde_json::from_str::<Dump>(&ended.stdout) {
        Ok(dump) => Ok(dump.machines),
        Err(error) => Err(Trouble::Failed {
            detail: format!("`dump --json` is not what it should be: {error}"),
            evidence: ended.evidence(),
        }),
    }
}

/// Deletes a device and insists that nothing of it is left.
pub(super) fn delete(device: &Device) -> Checked {
    run(PROGRAM, &["del", &device.id.to_string()])?;
    nothing_left()
}

/// Nothing of any device may be left: nodes, processes, state files.
pub(super) fn nothing_left() -> Checked {
    let begun = Instant::now();
    loop {
        let left = leftovers();
        if left.is_empty() {
            return Ok(());
        }
        if begun.elapsed() > SETTLE {
            return Err(Trouble::Failed {
                detail: format!("left over after `del`: {}", left.join(", ")),
                evidence: Vec::new(),
            });
        }
        thread::sleep(Duration::from_millis(20));
    }
}

fn leftovers() -> Vec<String> {
    let below = |dir: &str, wanted: fn(&str) -> bool| -> Vec<String> {
        fs::read_dir(dir)
            .map(|entries| {
                entries
                    .flatten()
                    .map(|e| e.file_name().to_string_lossy().into_owned())
                    .filter(|name| wanted(name))
                    .map(|name| format!("{dir}/{name}"))
                    .collect()
            })
            .unwrap_or_default()
    };
    let mut left = below("/dev", |name| name.starts_with("ublkb") || name.starts_with("ublkc"));
    left.extend(below("/sys/block", |name| name.starts_with("ublkb")));
    left.extend(below("/sys/class/ublk-char", |_| true));
    // Empty directories and lock files that belong to no device may stay.
    left.extend(below(STATE, |name| Path::new(name).extension().is_none_or(|e| e != "lock")));
    left.extend(proc::processes_of(PROGRAM).into_iter().map(|pid| format!("process {pid}")));
    left
}

/// Deletes everything, by force if need be. For after a failure.
pub(super) fn clean_up() -> Checked {
    for pid in proc::processes_of("fio") {
        proc::signal(pid, rustix::process::Signal::KILL);
    }
    run(PROGRAM, &["del", "--all"])?;
    nothing_left()
}

/// Read and write requests that the block layer completed on a device so far.
pub(super) fn completed_requests(device: &Device) -> u64 {
    let name = device.path.trim_start_matches("/dev/");
    let text = fs::read_to_string(format!("/sys/block/{name}/stat")).unwrap_or_default();
    let fields: Vec<u64> = text.split_whitespace().filter_map(|f| f.parse().ok()).collect();
    fields.first().unwrap_or(&0) + fields.get(4).unwrap_or(&0)
}
