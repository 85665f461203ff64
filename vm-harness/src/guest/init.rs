//! Process 1 of the guest: mounts, loads modules, starts the runner, reaps orphans.

use std::ffi::CString;
use std::fs;
use std::io;
use std::path::Path;
use std::process::{Command, ExitCode};
use std::time::Duration;

use rustix::mount::{MountFlags, mount};
use rustix::process::{Pid, WaitOptions, wait};
use rustix::system::{RebootCommand, init_module, reboot};

use crate::image;
use crate::protocol::Job;

/// Seconds a task may be blocked before the kernel reports it.
const HUNG_TASK_SECONDS: &str = "60";

/// Runs as process 1. Does not return while the guest lives.
pub fn init() -> ExitCode {
    if let Err(error) = prepare() {
        eprintln!("vm-harness init: {error}");
    }
    let runner = Command::new("/init")
        .arg("guest")
        .env_clear()
        .env("PATH", image::PROGRAMS)
        .env("HOME", "/tmp")
        .env("LC_ALL", "C")
        .env("RUST_BACKTRACE", "1")
        .spawn();
    match runner {
        Ok(child) => reap_until(Pid::from_child(&child)),
        Err(error) => eprintln!("vm-harness init: cannot start the runner: {error}"),
    }
    if job().is_some_and(|job| job.shell) {
        shell();
    }
    power_off();
    ExitCode::FAILURE
}

/// The job inside the image of an interactive guest.
pub(super) fn job() -> Option<Job> {
    serde_json::from_slice(&fs::read(image::JOB).ok()?).ok()
}

/// Ends the guest at once.
pub(super) fn power_off() {
    let _ = reboot(RebootCommand::PowerOff);
    let _ = reboot(RebootCommand::Restart);
}

fn prepare() -> io::Result<()> {
    for (kind, place) in [
        ("devtmpfs", "/dev"),
        ("proc", "/proc"),
        ("sysfs", "/sys"),
        ("tmpfs", "/run"),
        ("tmpfs", "/tmp"),
    ] {
        fs::create_dir_all(place)?;
        mount(kind, place, kind, MountFlags::empty(), None)
            .map_err(|e| io::Error::other(format!("mount {kind} on {place}: {e}")))?;
    }
    for (setting, value) in [
        ("kernel/printk", "1"),
        ("kernel/hung_task_timeout_secs", HUNG_TASK_SECONDS),
        ("kernel/hung_task_warnings", "-1"),
        ("kernel/sysrq", "1"),
    ] {
        // A kernel without the setting is none the worse for it.
        let _ = fs::write(Path::new("/proc/sys").join(setting), value);
    }
    load_modules()?;
    Ok(())
}

fn load_modules() -> io::Result<()> {
    let Ok(entries) = fs::read_dir(image::MODULES) else {
        return Ok(());
    };
    let mut files: Vec<_> = entries.flatten().map(|e| e.path()).collect();
    files.sort();
    for file in files {
        let name = file.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        // Loaded without a device of its own: the control experiment makes the one it needs.
        let parameters = if name.ends_with("-null_blk") { "nr_devices=0" } else { "" };
        let parameters = CString::new(parameters)?;
        match init_module(&fs::read(&file)?, &parameters) {
            Ok(()) | Err(rustix::io::Errno::EXIST) => {}
            Err(error) => eprintln!("vm-harness init: module {name}: {error}"),
        }
        let _ = fs::remove_file(&file);
    }
    Ok(())
}

/// Waits for the runner, and for every orphan that daemons leave to process 1.
fn reap_until(runner: Pid) {
    loop {
        match wait(WaitOptions::empty()) {
            Ok(Some((pid, status))) if pid == runner => {
                if status.exit_status() != Some(0) {
                    eprintln!("vm-harness init: the runner ended with {status:?}");
                }
                return;
            }
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => {
                eprintln!("vm-harness init: wait: {error}");
                return;
            }
        }
    }
}

fn shell() {
    eprintln!(
        "\nvm-harness: a shell in the guest; `exit` powers it off. Programs are in {}.",
        image::PROGRAMS
    );
    let _ = fs::write("/proc/sys/kernel/printk", "7");
    let status = Command::new(Path::new(image::PROGRAMS).join("busybox"))
        .args(["sh", "-i"])
        .env("PATH", image::PROGRAMS)
        .env("PS1", "guest# ")
        .status();
    if let Err(error) = status {
        eprintln!("vm-harness init: no shell: {error}");
        std::thread::sleep(Duration::from_secs(1));
    }
}
