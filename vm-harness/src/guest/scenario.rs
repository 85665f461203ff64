//! The steps themselves: what a user does with devices, and what must hold afterwards.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use rustix::process::Signal;
use sha2::{Digest, Sha256};

use super::blkproof::{self, BATCH, Device, Wanted};
use super::canary;
use super::fio::Fio;
use super::proc;
use super::program::{Checked, Program, broken, failed, run};
use super::{record, recovery, shared, stage};
use crate::plan::{Action, Data, IoCase, Order, Plant, Target, Victim};

/// SHA-256 of every file of a tree, by its path inside the tree.
type Checksums = BTreeMap<PathBuf, [u8; 32]>;

const MOUNT_POINT: &str = "/mnt";
/// A number of requests, and the pause between two looks whether they are completed.
pub(super) type Stretch = (u64, Duration);

/// Requests a load must have completed before it counts as a load.
pub(super) const UNDER_WAY: Stretch = (200, Duration::from_millis(20));

/// What a step is doing right now, for the report in case it never ends.
#[derive(Debug, Clone, Default)]
pub(super) struct Doing(Arc<Mutex<String>>);

impl Doing {
    pub(super) fn now(&self, what: impl Into<String>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = what.into();
    }

    pub(super) fn what(&self) -> String {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// What came of a step that passed.
#[derive(Debug, Default)]
pub(super) struct Done {
    /// What was measured.
    pub(super) detail: String,
    /// What may help to understand it.
    pub(super) notes: Vec<String>,
    /// What was observed of a script.
    pub(super) trace: Option<String>,
    /// This guest is not fit for another step.
    pub(super) spoiled: bool,
}

/// Carries out one step. The answer tells what was measured. `KernelLog` is the runner's own.
pub(super) fn perform(action: &Action, doing: &Doing) -> Checked<Done> {
    let detail = match action {
        Action::Script(text) => return script(text, doing),
        Action::Record(case) => return record::record(case, doing),
        Action::Canary => {
            doing.now("the control experiment");
            canary::run()
        }
        Action::Features => features(doing),
        Action::Io(case) => io(case, Data::Copy, &[], doing),
        Action::Data { data, batch } => data_mode(*data, *batch, doing),
        Action::Shared => shared::shared_memory(doing),
        Action::FileSystem(target) => file_system(*target, doing),
        Action::DeleteIdle => delete_idle(doing),
        Action::DeleteLoaded => delete_loaded(doing),
        Action::Kill(victim) => kill(*victim, doing),
        Action::Change(what) => super::change::change(*what, doing),
        Action::Recover(what) => recovery::recovery(*what, doing),
        Action::Cycles(count) => cycles(*count, doing),
        Action::Leftovers => leftovers(doing),
        Action::KernelLog => Ok(String::new()),
        Action::Plant(plant) => planted(*plant, doing),
    }?;
    Ok(Done { detail, ..Done::default() })
}

fn script(text: &str, doing: &Doing) -> Checked<Done> {
    let script = text.parse().or_else(|error| broken(format!("read the script: {error}")))?;
    let stage::Played { trace, notes, clean } = stage::play(&script, doing)?;
    let detail = format!("{} steps", trace.observations.len());
    Ok(Done { detail, notes, trace: Some(trace.to_string()), spoiled: !clean })
}

fn features(doing: &Doing) -> Checked<String> {
    doing.now("blkproof features");
    let ended = run(blkproof::PROGRAM, &["features", "--json"])?;
    let features: serde_json::Value = serde_json::from_str(&ended.stdout)
        .or_else(|error| failed(format!("`features --json` is not JSON: {error}")))?;
    match features.get("bits").and_then(serde_json::Value::as_u64) {
        Some(bits) if bits != 0 => Ok(format!("{bits:#x}")),
        _ => failed("`features --json` gives no bits"),
    }
}

pub(super) fn added(wanted: &Wanted, doing: &Doing) -> Checked<Device> {
    doing.now(format!(
        "blkproof add {} -q {} -d {} --data {}",
        wanted.target.name(),
        wanted.queues,
        wanted.depth,
        wanted.data.name()
    ));
    blkproof::add(wanted)
}

pub(super) fn deleted(device: &Device, doing: &Doing) -> Checked {
    doing.now(format!("blkproof del {}", device.id));
    blkproof::delete(device)
}

fn io(
    case: &IoCase,
    data: Data,
    options: &'static [&'static str],
    doing: &Doing,
) -> Checked<String> {
    let device = added(
        &Wanted {
            target: case.target,
            size_mib: 64,
            queues: case.queues,
            depth: case.depth,
            data,
            options,
        },
        doing,
    )?;
    // Small requests are slow under emulation, and four jobs reach all queues: each CPU submits to its own.
    let total_kib = (case.block_kib * 512).clamp(2048, 16 * 1024);
    doing.now(format!("fio on {}", device.path));
    let begun = Instant::now();
    let moved = Fio {
        path: &device.path,
        engine: "io_uring",
        order: case.order,
        block_kib: case.block_kib,
        depth: case.depth.min(64),
        jobs: case.queues,
        job_kib: total_kib / case.queues,
        memory: None,
        verify: case.target != Target::Null,
    }
    .run()?;
    let seconds = begun.elapsed().as_secs_f64();
    deleted(&device, doing)?;
    Ok(format!("wrote {} KiB, read {} KiB in {seconds:.1} s", moved.written_kib, moved.read_kib))
}

/// Every target that knows the mode serves, and gives back what was written.
fn data_mode(data: Data, batch: bool, doing: &Doing) -> Checked<String> {
    let options: &[&str] = if batch { &[BATCH] } else { &[] };
    if batch && !blkproof::has("BATCH_IO")? {
        let device = added(
            &Wanted { target: Target::Null, size_mib: 64, queues: 2, depth: 64, data, options },
            doing,
        )?;
        read_a_block(&device)?;
        deleted(&device, doing)?;
        return Ok("this kernel has no batches, and `add` says so".into());
    }
    let mut told = Vec::new();
    let targets: &[Target] = match data {
        // It moves nothing, and is nothing new.
        Data::Copy | Data::GetData | Data::UserCopy if batch => &[Target::Mem, Target::Loop],
        Data::ZeroCopy if batch => &[Target::Loop],
        Data::Copy | Data::GetData | Data::UserCopy => &[Target::Null, Target::Mem, Target::Loop],
        // The store of mem is no file whose operations could use a request's pages.
        Data::ZeroCopy => &[Target::Null, Target::Loop],
    };
    for &target in targets {
        let case = IoCase { target, queues: 2, depth: 64, order: Order::Random, block_kib: 16 };
        told.push(format!("{}: {}", target.name(), io(&case, data, options, doing)?));
    }
    if data == Data::ZeroCopy && blkproof::granted(data)? == data {
        killed_with_pages(options, doing)?;
        told.push("loop: killed under load, and deleted".into());
    }
    Ok(told.join("; "))
}

/// A server dies with the pages of requests in its rings' tables: the kernel takes them back, clients end, and the device can be deleted.
fn killed_with_pages(options: &'static [&'static str], doing: &Doing) -> Checked {
    let wanted = Wanted {
        target: Target::Loop,
        size_mib: 64,
        queues: 4,
        depth: 64,
        data: Data::ZeroCopy,
        options,
    };
    let Loaded { device, load } = loaded_on(&wanted, doing)?;
    killed(blkproof::worker(device.id)?, doing);
    load_ended(load, doing)?;
    deleted(&device, doing)
}

fn file_system(target: Target, doing: &Doing) -> Checked<String> {
    let wanted =
        Wanted { target, size_mib: 128, queues: 2, depth: 64, data: Data::Copy, options: &[] };
    let device = added(&wanted, doing)?;
    doing.now("mkfs.ext4");
    run("mkfs.ext4", &["-q", "-F", &device.path])?;
    let source = Path::new("/tmp/tree");
    let expected = plant_tree(source)?;
    mounted(&device, doing)?;
    let copy = Path::new(MOUNT_POINT).join("tree");
    doing.now("copying a tree");
    copy_tree(source, &copy)?;
    unmounted(doing)?;
    doing.now("fsck.ext4");
    run("fsck.ext4", &["-f", "-n", &device.path])?;
    // Mounted afresh, nothing comes from the page cache.
    mounted(&device, doing)?;
    doing.now("reading the tree back");
    let found = checksums(&copy)?;
    unmounted(doing)?;
    let _ = fs::remove_dir_all(source);
    if found != expected {
        let wrong = expected.iter().filter(|(name, sum)| found.get(*name) != Some(sum)).count();
        return failed(format!(
            "{wrong} of {} files came back changed or not at all",
            expected.len()
        ));
    }
    deleted(&device, doing)?;
    Ok(format!("{} files came back unchanged", found.len()))
}

fn mounted(device: &Device, doing: &Doing) -> Checked {
    doing.now(format!("mount {}", device.path));
    match mount(device.path.as_str(), MOUNT_POINT, "ext4", MountFlags::empty(), None) {
        Ok(()) => Ok(()),
        Err(error) => failed(format!("mount {}: {error}", device.path)),
    }
}

fn unmounted(doing: &Doing) -> Checked {
    doing.now(format!("umount {MOUNT_POINT}"));
    match unmount(MOUNT_POINT, UnmountFlags::empty()) {
        Ok(()) => Ok(()),
        Err(error) => failed(format!("umount {MOUNT_POINT}: {error}")),
    }
}

/// Writes a tree of files of many sizes, some of them not multiples of a block. Returns their checksums.
fn plant_tree(root: &Path) -> Checked<Checksums> {
    let written = (|| {
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        for index in 0..120_usize {
            let dir = root.join(format!("d{}/e{}", index % 6, index % 4));
            fs::create_dir_all(&dir)?;
            let length = (index * index * 13 + index) % 150_000;
            let bytes: Vec<u8> = (0..length)
                .map(|_| {
                    state ^= state << 13;
                    state ^= state >> 7;
                    state ^= state << 17;
                    state as u8
                })
                .collect();
            fs::write(dir.join(format!("file-{index}")), bytes)?;
        }
        Ok::<(), std::io::Error>(())
    })();
    match written {
        Ok(()) => checksums(root),
        Err(error) => broken(format!("cannot prepare a tree in {}: {error}", root.display())),
    }
}

fn copy_tree(from: &Path, to: &Path) -> Checked {
    fn copy(from: &Path, to: &Path) -> std::io::Result<()> {
        fs::create_dir_all(to)?;
        for entry in fs::read_dir(from)? {
            let entry = entry?;
            let target = to.join(entry.file_name());
            if entry.file_type()?.is_dir() {
                copy(&entry.path(), &target)?;
            } else {
                fs::copy(entry.path(), target)?;
            }
        }
        Ok(())
    }
    copy(from, to).or_else(|error| failed(format!("copy to {}: {error}", to.display())))
}

fn checksums(root: &Path) -> Checked<Checksums> {
    fn walk(root: &Path, dir: &Path, sums: &mut Checksums) -> std::io::Result<()> {
        for entry in fs::read_dir(dir)? {
            let entry = entry?;
            let path = entry.path();
            if entry.file_type()?.is_dir() {
                walk(root, &path, sums)?;
            } else {
                let digest = Sha256::digest(fs::read(&path)?);
                sums.insert(path.strip_prefix(root).unwrap_or(&path).to_path_buf(), digest.into());
            }
        }
        Ok(())
    }
    let mut sums = BTreeMap::new();
    match walk(root, root, &mut sums) {
        Ok(()) => Ok(sums),
        Err(error) => failed(format!("read {}: {error}", root.display())),
    }
}

fn delete_idle(doing: &Doing) -> Checked<String> {
    for target in [Target::Null, Target::Mem, Target::Loop] {
        let wanted =
            Wanted { target, size_mib: 16, queues: 4, depth: 128, data: Data::Copy, options: &[] };
        let device = added(&wanted, doing)?;
        deleted(&device, doing)?;
    }
    Ok("null, mem and loop".into())
}

/// A device that serves a load.
struct Loaded {
    device: Device,
    load: Program,
}

fn loaded(doing: &Doing) -> Checked<Loaded> {
    let wanted = Wanted {
        target: Target::Mem,
        size_mib: 64,
        queues: 4,
        depth: 64,
        data: Data::Copy,
        options: &[],
    };
    loaded_on(&wanted, doing)
}

fn loaded_on(wanted: &Wanted, doing: &Doing) -> Checked<Loaded> {
    let device = added(wanted, doing)?;
    doing.now(format!("the load on {}", device.path));
    let mut load = Fio::load(&device.path, 4, 32)?;
    progress(&device, &mut load, UNDER_WAY)?;
    Ok(Loaded { device, load })
}

/// Waits until the device has completed so many further requests.
pub(super) fn progress(device: &Device, load: &mut Program, stretch: Stretch) -> Checked {
    if progresses(device, load, stretch) {
        return Ok(());
    }
    let status = load.child.wait();
    failed(format!("the load ended by itself, with {status:?}"))
}

/// Waits until the device has completed so many further requests, or the load is at its end: whether it was the former.
pub(super) fn progresses(device: &Device, load: &mut Program, stretch: Stretch) -> bool {
    let (requests, pause) = stretch;
    let before = blkproof::completed_requests(device);
    while blkproof::completed_requests(device) < before + requests {
        if let Ok(Some(_)) = load.child.try_wait() {
            return false;
        }
        thread::sleep(pause);
    }
    true
}

pub(super) fn load_ended(load: Program, doing: &Doing) -> Checked {
    doing.now("the load's end, after its device went away");
    let ended = load.wait()?;
    if ended.status.success() {
        return failed("the load ended without an error although its device went away");
    }
    Ok(())
}

fn delete_loaded(doing: &Doing) -> Checked<String> {
    let Loaded { device, load } = loaded(doing)?;
    let begun = Instant::now();
    doing.now(format!("blkproof del {} under load", device.id));
    run(blkproof::PROGRAM, &["del", &device.id.to_string()])?;
    let seconds = begun.elapsed().as_secs_f64();
    load_ended(load, doing)?;
    doing.now("the device's last traces to go");
    blkproof::nothing_left()?;
    Ok(format!("deleted in {seconds:.1} s"))
}

fn kill(victim: Victim, doing: &Doing) -> Checked<String> {
    let Loaded { device, mut load } = loaded(doing)?;
    let worker = blkproof::worker(device.id)?;
    let supervisor = blkproof::supervisor(device.id)?;
    let begun = Instant::now();
    if victim != Victim::Worker {
        killed(supervisor, doing);
    }
    if victim == Victim::Supervisor {
        doing.now("the load to go on without a supervisor");
        progress(&device, &mut load, UNDER_WAY)?;
        if !proc::is_alive(worker) {
            return failed("the worker died with its supervisor");
        }
        let _ = load.child.kill();
        load.wait()?;
        doing.now("fio without a supervisor");
        Fio {
            path: &device.path,
            engine: "io_uring",
            order: Order::Random,
            block_kib: 16,
            depth: 16,
            jobs: 4,
            job_kib: 512,
            memory: None,
            verify: true,
        }
        .run()?;
    } else {
        killed(worker, doing);
        load_ended(load, doing)?;
    }
    let served = begun.elapsed().as_secs_f64();
    let begun = Instant::now();
    deleted(&device, doing)?;
    Ok(format!(
        "clients done after {served:.1} s, deleted in {:.1} s",
        begun.elapsed().as_secs_f64()
    ))
}

pub(super) fn killed(pid: i32, doing: &Doing) {
    proc::signal(pid, Signal::KILL);
    doing.now(format!("process {pid} to die of SIGKILL"));
    while proc::is_alive(pid) {
        thread::sleep(Duration::from_millis(5));
    }
}

fn cycles(count: u32, doing: &Doing) -> Checked<String> {
    let begun = Instant::now();
    for index in 0..count {
        let wanted = Wanted {
            target: if index % 2 == 0 { Target::Mem } else { Target::Null },
            size_mib: 8,
            queues: 1 + index % 4,
            depth: 32,
            data: Data::Copy,
            options: &[],
        };
        let device = added(&wanted, doing)?;
        doing.now(format!("a read from {} in cycle {index}", device.path));
        read_a_block(&device)?;
        deleted(&device, doing)?;
    }
    let each = begun.elapsed().as_secs_f64() / f64::from(count);
    Ok(format!("{count} times, {each:.2} s each"))
}

/// Reads a block that nobody has read before: what was read once comes from the page cache, and asks nobody.
pub(super) fn read_a_block(device: &Device) -> Checked {
    let mut block = [0_u8; 4096];
    let read = File::open(&device.path).and_then(|f| f.read_exact_at(&mut block, 5 << 20));
    match read {
        Ok(()) => Ok(()),
        Err(error) => failed(format!("read from {}: {error}", device.path)),
    }
}

fn leftovers(doing: &Doing) -> Checked<String> {
    doing.now("blkproof list");
    let devices = blkproof::list()?;
    if !devices.is_empty() {
        return failed(format!("`list` still knows {} devices", devices.len()));
    }
    blkproof::nothing_left()?;
    Ok("no node, no process, no state file".into())
}

fn small() -> Wanted {
    Wanted {
        target: Target::Mem,
        size_mib: 16,
        queues: 2,
        depth: 32,
        data: Data::Copy,
        options: &[],
    }
}

fn planted(plant: Plant, doing: &Doing) -> Checked<String> {
    match plant {
        Plant::StoppedWorker => {
            let device = added(&small(), doing)?;
            let worker = blkproof::worker(device.id)?;
            proc::signal(worker, Signal::STOP);
            doing.now(format!("process {worker} to stop"));
            while !proc::is_stopped(worker) {
                thread::sleep(Duration::from_millis(5));
            }
            doing.now(format!("a read from {}", device.path));
            read_a_block(&device)?;
            failed("a stopped worker answered")
        }
        Plant::FrozenFileSystem => {
            let device = added(&small(), doing)?;
            run("mkfs.ext4", &["-q", "-F", &device.path])?;
            mounted(&device, doing)?;
            if let Err(trouble) = run("fsfreeze", &["--freeze", MOUNT_POINT]) {
                return broken(format!("cannot plant the fault: {}", trouble.detail()));
            }
            doing.now("a write to a frozen file system");
            let written = fs::write(Path::new(MOUNT_POINT).join("file"), "never");
            failed(format!("a frozen file system answered: {written:?}"))
        }
        Plant::LyingCanary => {
            doing.now("the control experiment on a device that forgets");
            canary::run_on_a_liar()
        }
        Plant::ForeignWrite => {
            let device = added(&small(), doing)?;
            doing.now(format!("fio on {}", device.path));
            let fio = Fio {
                path: &device.path,
                engine: "io_uring",
                order: Order::Random,
                block_kib: 16,
                depth: 8,
                jobs: 1,
                job_kib: 1024,
                memory: None,
                verify: true,
            };
            let verified = fio.verified_after(|| {
                let foreign = File::options().write(true).open(&device.path);
                let written = foreign.and_then(|f| {
                    f.write_all_at(&[0x5a; 512], 40 * 1024)?;
                    f.sync_all()
                });
                written.or_else(|error| broken(format!("cannot plant the fault: {error}")))
            });
            deleted(&device, doing)?;
            verified.map(|()| "the change went unnoticed".into())
        }
        Plant::KernelWarning => {
            let line = "<4>WARNING: CPU: 0 PID: 1 at planted by the self-test\n";
            fs::write("/dev/kmsg", line)
                .or_else(|error| broken(format!("cannot write to the kernel log: {error}")))?;
            Ok("planted".into())
        }
        Plant::Leftover => {
            fs::create_dir_all(blkproof::STATE)
                .and_then(|()| fs::write(Path::new(blkproof::STATE).join("planted.json"), "{}"))
                .or_else(|error| broken(format!("cannot plant the fault: {error}")))?;
            doing.now("a planted state file to be noticed");
            let found = blkproof::nothing_left();
            let _ = fs::remove_file(Path::new(blkproof::STATE).join("planted.json"));
            found.map(|()| "the state file went unnoticed".into())
        }
        Plant::SilentGuest => {
            let me = i32::try_from(std::process::id()).unwrap_or_default();
            proc::signal(me, Signal::STOP);
            Ok("the runner went on".into())
        }
        Plant::Panic => {
            let _ = fs::write("/proc/sysrq-trigger", "c");
            Ok("the kernel went on".into())
        }
    }
}
