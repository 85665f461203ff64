//! The control experiment: the same fio on devices that have nothing to do with blkproof.
//!
//! A pass proves that in this guest, now, the block layer, io_uring, fio, the CPUs and the scratch disk's file system move data and keep it.
//! Then whatever goes wrong beside it is due to ublk or to blkproof. A failure proves nothing about either, and says so.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::mount::{MountFlags, mount};

use super::fio::Fio;
use super::program::{Checked, broken};
use crate::plan::Order;

const CONFIG: &str = "/sys/kernel/config";
const NULLB: &str = "/sys/kernel/config/nullb";

/// Runs the control experiment. Every trouble is the environment's. Returns what was measured.
pub(super) fn run() -> Checked<String> {
    if !Path::new("/dev/ublk-control").exists() {
        return broken("ublk_drv is loaded and there is no /dev/ublk-control");
    }
    if let Err(error) = fs::File::options().read(true).write(true).open("/dev/ublk-control") {
        return broken(format!("/dev/ublk-control does not open: {error}"));
    }
    experiment(true).map_err(super::program::Trouble::of_environment)
}

/// The same, on a control device that forgets what is written: it must fail.
pub(super) fn run_on_a_liar() -> Checked<String> {
    experiment(false).map_err(super::program::Trouble::of_environment)
}

fn experiment(honest: bool) -> Checked<String> {
    let mut measured = Vec::new();
    match NullBlk::create(honest)? {
        Some(device) => {
            for (engine, jobs, depth) in [("psync", 1, 1), ("io_uring", 4, 32)] {
                let begun = Instant::now();
                let moved = Fio {
                    path: &device.path,
                    engine,
                    order: Order::Random,
                    block_kib: 16,
                    depth,
                    jobs,
                    job_kib: 2048,
                    memory: None,
                    verify: true,
                }
                .run()?;
                measured.push(format!(
                    "null_blk by {engine}: {} KiB verified in {:.1} s",
                    moved.written_kib,
                    begun.elapsed().as_secs_f64()
                ));
            }
        }
        None => measured.push("this kernel has no null_blk".into()),
    }
    let begun = Instant::now();
    let moved = Fio {
        path: "/scratch/canary",
        engine: "io_uring",
        order: Order::Sequential,
        block_kib: 64,
        depth: 16,
        jobs: 1,
        job_kib: 4096,
        memory: None,
        verify: true,
    }
    .run()?;
    let _ = fs::remove_file("/scratch/canary");
    measured.push(format!(
        "scratch file: {} KiB verified in {:.1} s",
        moved.written_kib,
        begun.elapsed().as_secs_f64()
    ));
    Ok(measured.join("; "))
}

/// A memory-backed device of the kernel's own null_blk driver; gone when dropped.
#[derive(Debug)]
pub(super) struct NullBlk {
    pub(super) path: String,
    directory: String,
}

impl NullBlk {
    /// `None`: the kernel has no null_blk. Without `honest` it stores nothing.
    fn create(honest: bool) -> Checked<Option<Self>> {
        Self::with("canary", &[("memory_backed", if honest { "1" } else { "0" })])
    }

    fn with(name: &str, settings: &[(&str, &str)]) -> Checked<Option<Self>> {
        if !Path::new(NULLB).exists() {
            let _ = mount("configfs", CONFIG, "configfs", MountFlags::empty(), None);
        }
        if !Path::new(NULLB).exists() {
            return Ok(None);
        }
        let directory = format!("{NULLB}/{name}");
        let before = block_devices();
        let created = (|| {
            fs::create_dir(&directory)?;
            let common = [
                ("size", "64"),
                ("submit_queues", "4"),
                ("hw_queue_depth", "64"),
                ("blocksize", "512"),
            ];
            for (attribute, value) in common.iter().chain(settings).chain(&[("power", "1")]) {
                fs::write(format!("{directory}/{attribute}"), value)
                    .map_err(|e| std::io::Error::other(format!("{attribute}={value}: {e}")))?;
            }
            Ok::<(), std::io::Error>(())
        })();
        if let Err(error) = created {
            return broken(format!("null_blk refuses a device: {error}"));
        }
        let Some(name) = block_devices().difference(&before).next().cloned() else {
            return broken("null_blk made no block device");
        };
        let path = format!("/dev/{name}");
        let begun = Instant::now();
        while !Path::new(&path).exists() && begun.elapsed() < Duration::from_secs(5) {
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(Some(Self { path, directory }))
    }
}

impl Drop for NullBlk {
    fn drop(&mut self) {
        let _ = fs::write(format!("{}/power", self.directory), "0");
        let _ = fs::remove_dir(&self.directory);
    }
}

fn block_devices() -> BTreeSet<String> {
    fs::read_dir("/sys/block")
        .map(|entries| {
            entries.flatten().map(|e| e.file_name().to_string_lossy().into_owned()).collect()
        })
        .unwrap_or_default()
}
