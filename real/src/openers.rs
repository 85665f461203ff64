//! Who uses a block device, as far as `/proc` and `/sys` tell.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use blkproof_engine::uapi::DevId;

use crate::devices::block_path;
use crate::process::comm;

/// Everybody who has the device or a partition of it open, in words: processes, mounts, devices on top. What cannot be looked at is left out.
pub fn of(id: DevId) -> Vec<String> {
    let name = block_path(id).file_name().map(PathBuf::from).unwrap_or_default();
    let sys = Path::new("/sys/block").join(&name);
    let mut parts = vec![sys.clone()];
    parts.extend(entries(&sys).into_iter().filter(|path| path.join("partition").exists()));

    let numbers: Vec<String> = parts.iter().filter_map(|part| text(&part.join("dev"))).collect();
    let mut users = processes(&numbers);
    users.extend(mounts(&numbers));
    for part in &parts {
        for holder in entries(&part.join("holders")) {
            users.push(format!("the block device {}", file_name(&holder)));
        }
    }
    users
}

fn processes(numbers: &[String]) -> Vec<String> {
    let mut users = Vec::new();
    for process in entries(Path::new("/proc")) {
        let Ok(pid) = file_name(&process).parse::<u32>() else { continue };
        let uses = |fd: &PathBuf| {
            fs::metadata(fd).is_ok_and(|file| {
                file.file_type().is_block_device() && numbers.contains(&number(file.rdev()))
            })
        };
        if entries(&process.join("fd")).iter().any(uses) {
            users.push(format!("process {pid} ({})", comm(pid).unwrap_or_default()));
        }
    }
    users
}

/// The third field of a line of `mountinfo` is the device, the fifth where it is mounted.
fn mounts(numbers: &[String]) -> Vec<String> {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let mounted = |line: &str| {
        let mut fields = line.split(' ').skip(2);
        let device = fields.next()?.to_owned();
        let place = fields.nth(1)?;
        numbers.contains(&device).then(|| format!("the file system mounted on {place}"))
    };
    table.lines().filter_map(mounted).collect()
}

fn number(device: u64) -> String {
    format!("{}:{}", rustix::fs::major(device), rustix::fs::minor(device))
}

fn entries(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).collect()
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

fn text(path: &Path) -> Option<String> {
    Some(fs::read_to_string(path).ok()?.trim().to_owned())
}
