//! The commands of the program `blkproof`.

mod args;

use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use blkproof_engine::data::DataMode;
use serde::Serialize;

pub use args::{
    Add, AddOptions, Command, Data, DelCommand, DelOptions, ListOptions, RecoveryMode, Refusal,
    understand,
};

use crate::deletion::{self, Deleted};
use crate::devices::{self, Listed};
use crate::dump::PendingDump;
use crate::error::{Attempt, Error, Result};
use crate::state_file::RunDir;
use crate::tap::Recording;
use crate::task::TargetSpec;
use crate::{
    change, control, dump, launcher, query, recovery, shared, store, supervisor_process,
    worker_process,
};

/// Runs the program.
pub fn main() -> ExitCode {
    let command = match understand(std::env::args_os()) {
        Ok(command) => command,
        Err(refusal) => {
            refusal.print();
            return ExitCode::from(refusal.exit_code());
        }
    };
    let result = match command {
        Command::Supervise { task } => return supervisor_process::main(&task),
        Command::Work { order } => return worker_process::main(&order),
        Command::Add(add) => run_add(&add),
        Command::List(options) => run_list(&options),
        Command::Del(options) => run_del(&options),
        Command::Recover { id } => run_recover(id),
        Command::Handover { id } => run_handover(id),
        Command::Resize { id, size } => run_resize(id, size),
        Command::Features { json } => run_features(json),
        Command::Dump { id, json } => run_dump(id, json),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("blkproof: {error}");
            ExitCode::from(error.exit_code())
        }
    }
}

fn run_add(add: &Add) -> Result<()> {
    let (target, store) = match add {
        Add::Null { size, .. } => (TargetSpec::Null { bytes: *size }, None),
        Add::Mem { size, .. } => (TargetSpec::Mem { bytes: *size }, Some(store::memory(*size)?)),
        Add::Loop { file, .. } => {
            let (target, store) = store::backing_file(file, Duration::ZERO)?;
            (target, Some(store))
        }
    };
    let options = add.options();
    let shared = options.shared.as_deref().map(shared::look).transpose()?;
    control::probe()?;
    let record = options.record.as_deref().map(recording).transpose()?;
    let task = options.task(target, random()?, record, shared);
    if options.foreground {
        return launcher::foreground(task, store, announce);
    }
    announce(&launcher::detach(task, store.as_ref())?);
    Ok(())
}

/// Everything that can go wrong with a recording at once, before there is a device.
fn recording(dir: &Path) -> Result<Recording> {
    Recording::new(dir, query::features()?)
        .map_err(|error| Error::new(format!("recording into {}", dir.display()), error))
}

/// A number that no other device has.
fn random() -> Result<u64> {
    let mut bytes = [0; 8];
    let read = File::open("/dev/urandom").and_then(|mut file| file.read_exact(&mut bytes));
    read.attempting(|| "reading /dev/urandom".into())?;
    Ok(u64::from_ne_bytes(bytes))
}

/// The one line of `add`, and of `recover`.
fn announce(path: &Path) {
    // A reader that has gone does not make the device any less LIVE.
    let _ = print(&format!("{}\n", path.display()));
}

fn run_list(options: &ListOptions) -> Result<()> {
    control::probe()?;
    let run_dir = RunDir::from_environment();
    let (mut found, mut failed) = (Vec::new(), Vec::new());
    let ids = options.id.map_or_else(|| devices::ids(&run_dir), |id| [id].into());
    for id in ids {
        match devices::look(&run_dir, id) {
            Ok(device) => found.extend(device),
            // One device that cannot be asked is no reason to keep quiet about the others.
            Err(error) if options.id.is_none() => {
                eprintln!("blkproof: device {id}: {error}");
                failed.push(id.to_string());
            }
            Err(error) => return Err(error),
        }
    }
    if let (Some(id), true) = (options.id, found.is_empty()) {
        return Err(unknown(id));
    }
    if options.json {
        print_json(&found)?;
    } else {
        print(&table(&found))?;
        for Listed { id, error, .. } in &found {
            if let Some(error) = error {
                eprintln!("blkproof: device {id}: {error}");
            }
        }
    }
    if failed.is_empty() {
        return Ok(());
    }
    Err(Error::new(
        "listing every device",
        format!("these could not be asked: {}", failed.join(", ")),
    ))
}

fn table(devices: &[Listed]) -> String {
    let number =
        |value: Option<u32>| value.map_or_else(|| "-".to_owned(), |value| value.to_string());
    let mut text = format!(
        "{:>4} {:<8} {:<7} {:>16} {:>6} {:>5} {:<15} {:>8} {:>10} {}\n",
        "ID", "STATE", "TARGET", "BYTES", "QUEUES", "DEPTH", "DATA", "WORKER", "SUPERVISOR", "PATH"
    );
    for device in devices {
        let _ = writeln!(
            text,
            "{:>4} {:<8} {:<7} {:>16} {:>6} {:>5} {:<15} {:>8} {:>10} {}",
            device.id,
            device.state,
            device.target,
            device.size_bytes,
            device.queues,
            device.depth,
            data_of(device),
            number(device.worker_pid),
            number(device.supervisor_pid),
            device.path.display(),
        );
    }
    text
}

/// How a device's data moves: `user-copy+batch`.
fn data_of(device: &Listed) -> String {
    let data = device.data.map_or("-", DataMode::name);
    if device.batch == Some(true) { format!("{data}+batch") } else { data.to_owned() }
}

fn run_del(command: &DelCommand) -> Result<()> {
    control::probe()?;
    let run_dir = RunDir::from_environment();
    let Some(id) = command.which.id else {
        return delete_all(&run_dir, command.if_unused);
    };
    if deletion::delete(&run_dir, id, command.if_unused)? == Deleted::WasGone {
        eprintln!("blkproof: device {id} had gone already; removed what was left of it");
    }
    Ok(())
}

fn delete_all(run_dir: &RunDir, if_unused: bool) -> Result<()> {
    let mut failed = Vec::new();
    for id in devices::ids(run_dir) {
        if let Err(error) = deletion::delete(run_dir, id, if_unused) {
            eprintln!("blkproof: device {id}: {error}");
            failed.push(id.to_string());
        }
    }
    if failed.is_empty() {
        return Ok(());
    }
    Err(Error::new(
        "deleting every device",
        format!("these are still there: {}", failed.join(", ")),
    ))
}

fn run_recover(id: u32) -> Result<()> {
    control::probe()?;
    announce(&recovery::recover(&RunDir::from_environment(), id)?);
    Ok(())
}

fn run_handover(id: u32) -> Result<()> {
    control::probe()?;
    announce(&change::hand_over(&RunDir::from_environment(), id)?);
    Ok(())
}

fn run_resize(id: u32, size: Option<u64>) -> Result<()> {
    control::probe()?;
    let bytes = change::resize(&RunDir::from_environment(), id, size)?;
    // A reader that has gone does not make the device any smaller.
    let _ = print(&format!("{bytes}\n"));
    Ok(())
}

#[derive(Serialize)]
struct FeaturesJson {
    bits: u64,
    features: Vec<String>,
}

fn run_features(json: bool) -> Result<()> {
    control::probe()?;
    let features = query::features()?;
    let name = |(bit, name): (u8, Option<&str>)| {
        name.map_or_else(
            || format!("bit {bit}"),
            |name| name.trim_start_matches("UBLK_F_").to_owned(),
        )
    };
    let names: Vec<_> = features.iter().map(name).collect();
    if json {
        return print_json(&FeaturesJson { bits: features.0, features: names });
    }
    print(&(names.join("\n") + "\n"))
}

fn run_dump(id: u32, json: bool) -> Result<()> {
    let run_dir = RunDir::from_environment();
    let Some(state) = run_dir.read(id) else {
        return Err(Error::new(
            format!("asking the processes of device {id}"),
            format!("{} names none", run_dir.state(id).display()),
        )
        .advice(
            "`blkproof list` shows the devices; only those that blkproof serves can be asked",
        ));
    };
    let dump = dump::collect(&run_dir, id);
    for (name, process) in [("supervisor", state.supervisor), ("worker", state.worker)] {
        if dump.machines.iter().any(|machine| machine.name == name && machine.state == dump::SILENT)
        {
            let pid = process.pid;
            eprintln!(
                "blkproof: the {name}, process {pid}, does not answer: /proc/{pid}/status tells whether it was stopped"
            );
        }
    }
    if json {
        return print_json(&dump);
    }
    let mut text = String::new();
    for machine in &dump.machines {
        let _ = writeln!(text, "{}: {}", machine.name, machine.state);
        for pending in &machine.pending {
            let PendingDump { waits_for, owner, otherwise } = pending;
            let _ =
                writeln!(text, "  waits for {waits_for} ({owner} owes it; otherwise {otherwise})");
        }
    }
    print(&text)
}

/// No device has this number.
pub(crate) fn unknown(id: u32) -> Error {
    Error::new(format!("looking for device {id}"), "there is no such device")
        .advice("`blkproof list` shows the devices that exist")
}

fn print_json(value: &impl Serialize) -> Result<()> {
    let text =
        serde_json::to_string_pretty(value).map_err(|error| Error::new("writing JSON", error))?;
    print(&(text + "\n"))
}

fn print(text: &str) -> Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())
        .and_then(|()| out.flush())
        .map_err(|error| Error::new("writing to standard output", error))
}
