//! The commands of the program `blkproof`.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use blkproof_engine::data::DataMode;
use blkproof_engine::supervisor::Recovery;
use clap::{Args, Parser, Subcommand, ValueEnum};
use serde::Serialize;

use crate::deletion::{self, Deleted};
use crate::devices::{self, Listed};
use crate::dump::PendingDump;
use crate::error::{Attempt, Class, Error, Result};
use crate::os::PAGE_BYTES;
use crate::state_file::RunDir;
use crate::tap::Recording;
use crate::task::{SECTOR, TargetSpec, Task};
use crate::{
    change, control, dump, launcher, query, recovery, shared, store, supervisor_process,
    worker_process,
};

/// Serve Linux block devices from user space (ublk).
///
/// A device is added with a target, which says where its bytes are, and stays until it is deleted. Two processes look after it: a
/// supervisor, which commands the driver, and a worker, which serves the requests.
#[derive(Debug, Parser)]
#[command(name = "blkproof", version, max_term_width = 100, after_help = EXAMPLES)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

const EXAMPLES: &str = "\
Examples:
  blkproof add null                    a device that forgets: prints /dev/ublkb0
  blkproof add mem --size 1G -q 4      one in memory, with four queues
  truncate -s 10G disk.img
  blkproof add loop disk.img           one kept in a file
  blkproof list                        every ublk device, ours and others'
  blkproof dump 0                      what each part of device 0 waits for
  blkproof recover 0                   give it another worker, if it was added with --recovery
  blkproof handover 0                  replace its worker while it is in use
  blkproof resize 0 --size 2G          make it larger or smaller
  blkproof del 0                       stop and delete it, whatever state it is in

Exit codes: 0 done, 1 failed, 2 not a sensible command; 128 + signal when the worker of a foreground
device was killed.

State is kept in /run/blkproof, or in the directory that BLKPROOF_RUN_DIR names.";

#[derive(Debug, Subcommand)]
enum Command {
    /// Add a device, and print the path of its block device once it is LIVE
    #[command(subcommand)]
    Add(Add),
    /// List every ublk device of this machine
    List(ListOptions),
    /// Stop and delete devices, whatever state they and their processes are in
    #[command(after_help = DEL_EXAMPLES)]
    Del(DelCommand),
    /// Give a device whose worker is gone another one, if it was added with --recovery
    #[command(after_help = RECOVER_HELP)]
    Recover {
        /// The device's number, N in /dev/ublkbN
        id: u32,
    },
    /// Replace the worker of a device that is in use, without an error for its clients; it must have been added with --recovery
    #[command(after_help = HANDOVER_HELP)]
    Handover {
        /// The device's number, N in /dev/ublkbN
        id: u32,
    },
    /// Give a device another size while it is in use
    #[command(after_help = RESIZE_HELP)]
    Resize {
        /// The device's number, N in /dev/ublkbN
        id: u32,
        /// Its new size: bytes, or with K, M, G, T; a multiple of its logical block [default: that of its file]
        #[arg(long, value_parser = parse_size)]
        size: Option<u64>,
    },
    /// Show what the ublk driver of this kernel supports
    Features {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Show what each part of a device is at, what it waits for, and who owes it
    #[command(after_help = DUMP_HELP)]
    Dump {
        /// The device's number, N in /dev/ublkbN
        id: u32,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Runs a supervisor. Started by `add`
    #[command(name = supervisor_process::SUBCOMMAND, hide = true)]
    Supervise { task: String },
    /// Runs a worker. Started by a supervisor
    #[command(name = worker_process::SUBCOMMAND, hide = true)]
    Work { order: String },
}

const DEL_EXAMPLES: &str = "\
Examples:
  blkproof del 0
  blkproof del --all       every ublk device of this machine, also those of other servers

A device that a client holds open (mounted, for example) cannot go; del then says so after its deadlines.";

const RECOVER_HELP: &str = "\
Examples:
  blkproof add loop disk.img --recovery reissue
  blkproof recover 0                    after its worker has died: list shows QUIESCED or FAIL_IO

Clients keep the device open all the while. The device's own supervisor is asked, if it runs; else another one is started, and keeps
looking after the device. What is in memory (mem) dies with its supervisor: such a device can then only be deleted.";

const HANDOVER_HELP: &str = "\
Example:
  blkproof handover 0                   the next worker is of the program as it is installed now

Requests are held back while the worker finishes what it has and the next one starts; with --recovery fail-io they fail meanwhile. The
supervisor stays the process, and the program, that it is. Linux 6.18 or later.";

const RESIZE_HELP: &str = "\
Examples:
  truncate -s 20G disk.img && blkproof resize 0     a device in a file follows its file
  blkproof resize 1 --size 2G                       null and mem are as large as they are told

A device that shrinks answers requests beyond its new end with an error, whoever still uses what was there. Linux 7.3; or 6.18 for a
device that was added with --recovery.";

const DUMP_HELP: &str = "\
Asks the supervisor and the worker of a device; they answer even while they are stuck in the kernel.
A process that is not there is shown as Gone, one that does not answer as Silent.";

#[derive(Debug, Subcommand)]
enum Add {
    /// A device that forgets what is written and reads as zeroes
    #[command(after_help = "Example:\n  blkproof add null --size 1T -q 4 -d 64")]
    Null {
        /// Size of the device: bytes, or with K, M, G, T; a multiple of 512
        #[arg(long, default_value = "250G", value_parser = parse_size)]
        size: u64,
        #[command(flatten)]
        options: AddOptions,
    },
    /// A device in memory; its contents are gone when it is deleted
    #[command(after_help = "Example:\n  blkproof add mem --size 1G")]
    Mem {
        /// Size of the device: bytes, or with K, M, G, T; a multiple of 512
        #[arg(long, value_parser = parse_size)]
        size: u64,
        #[command(flatten)]
        options: AddOptions,
    },
    /// A device kept in a file, or on another block device
    #[command(after_help = "Example:\n  truncate -s 10G disk.img\n  blkproof add loop disk.img")]
    Loop {
        /// The file or block device; it gives the device its size
        file: PathBuf,
        #[command(flatten)]
        options: AddOptions,
    },
}

#[derive(Debug, Clone, Args)]
struct AddOptions {
    /// The device's number, N in /dev/ublkbN [default: the lowest free one]
    #[arg(short = 'n', long, value_parser = clap::value_parser!(u32).range(0..1 << 20))]
    id: Option<u32>,
    /// Hardware queues, each served by a thread of its own; the kernel grants no more than there are CPUs
    #[arg(short, long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=4096))]
    queues: u16,
    /// Requests in flight on each queue
    #[arg(short, long, default_value_t = 128, value_parser = clap::value_parser!(u16).range(1..=4096))]
    depth: u16,
    /// The largest request, and in copy mode the memory pinned for each one in flight: 4K to 32M, a multiple of 4K
    #[arg(long, value_name = "SIZE", default_value = "128K", value_parser = parse_buffer)]
    buffer: u32,
    /// How data gets from the kernel to the server and back
    #[arg(long, value_enum, value_name = "MODE", default_value_t = Data::Copy)]
    data: Data,
    /// Fetch and commit many requests by one command: Linux 7.3 or later and a depth of 2; otherwise a command for each, and `add` says so
    #[arg(long)]
    batch: bool,
    /// Memory that clients share with the server: a file on tmpfs or hugetlbfs, up to 4G, which they map as well. What they read into it and write from it
    /// nobody copies between kernel and server. Linux 7.3; before it makes no difference, and `add` says so. Not with --data get-data, nor with --record
    #[arg(long, value_name = "FILE", conflicts_with = "record")]
    shared: Option<PathBuf>,
    /// What becomes of the device when its worker dies, until it has another one
    #[arg(long, value_name = "MODE", value_enum)]
    recovery: Option<RecoveryMode>,
    /// Give the device another worker by itself when its own dies: up to 5 times in quick succession (a minute of service counts
    /// anew); then it waits for `blkproof recover`. With --recovery
    #[arg(long, requires = "recovery")]
    restart: bool,
    /// Stay in the foreground; SIGINT and SIGTERM stop and delete the device
    #[arg(long)]
    foreground: bool,
    /// Record what the device's processes do at the border to the kernel, in this directory, for `sim check-trace`
    #[arg(long, value_name = "DIR")]
    record: Option<PathBuf>,
}

/// `--recovery`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum RecoveryMode {
    /// Requests that the worker held fail, all others wait for the next one
    Requeue,
    /// All requests wait, and the next worker is given again what the last one held: none fails
    Reissue,
    /// All requests fail (EIO) until there is another worker; Linux 6.18 or later
    FailIo,
}

impl From<RecoveryMode> for Recovery {
    fn from(mode: RecoveryMode) -> Self {
        match mode {
            RecoveryMode::Requeue => Self::Requeue,
            RecoveryMode::Reissue => Self::Reissue,
            RecoveryMode::FailIo => Self::FailIo,
        }
    }
}

/// `--data`.
#[expect(clippy::enum_variant_names, reason = "the modes' own names")]
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Data {
    /// The driver copies it to and from buffers of the server. Every kernel and target
    Copy,
    /// As copy, but the driver announces each write and copies it when the server asks: an exercise of the protocol that only costs,
    /// because the server's buffers are pinned anyway. Every kernel and target
    GetData,
    /// The server copies it, for null and mem straight to its place, without buffers. Every kernel and target; loop gains nothing by it
    UserCopy,
    /// Nobody copies: loop's file is read into and written from the pages of the request, and null's zeroes. Linux 6.18 or later, and copy mode before; not mem
    ZeroCopy,
}

impl From<Data> for DataMode {
    fn from(data: Data) -> Self {
        match data {
            Data::Copy => Self::Copy,
            Data::GetData => Self::GetData,
            Data::UserCopy => Self::UserCopy,
            Data::ZeroCopy => Self::ZeroCopy,
        }
    }
}

#[derive(Debug, Args)]
struct ListOptions {
    /// Only the device with this number
    #[arg(short = 'n', long)]
    id: Option<u32>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct DelOptions {
    /// The device's number, N in /dev/ublkbN
    id: Option<u32>,
    /// Every ublk device of this machine
    #[arg(long)]
    all: bool,
}

#[derive(Debug, Args)]
struct DelCommand {
    #[command(flatten)]
    which: DelOptions,
    /// Only if nobody has the block device open: not mounted, no client. Linux 7.3
    #[arg(long)]
    if_unused: bool,
}

/// Runs the program.
pub fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Supervise { task } => return supervisor_process::main(&task),
        Command::Work { order } => return worker_process::main(&order),
        Command::Add(add) => run_add(add),
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

fn run_add(add: Add) -> Result<()> {
    let (target, store, options) = match add {
        Add::Null { size, options } => (TargetSpec::Null { bytes: size }, None, options),
        Add::Mem { size: _, options } if options.data == Data::ZeroCopy => {
            return Err(Error::new(
                "adding a mem device",
                "its bytes have no file that could use a request's pages in place",
            )
            .advice("take --data user-copy, which copies once")
            .class(Class::Usage));
        }
        Add::Mem { size, options } => {
            (TargetSpec::Mem { bytes: size }, Some(store::memory(size)?), options)
        }
        Add::Loop { file, options } => {
            let (target, store) = store::backing_file(&file, Duration::ZERO)?;
            (target, Some(store), options)
        }
    };
    if options.batch && options.data == Data::GetData {
        return Err(Error::new("adding a device", "in a batch no write is announced")
            .advice("take --batch without --data get-data")
            .class(Class::Usage));
    }
    if options.shared.is_some() && !DataMode::from(options.data).shares() {
        return Err(Error::new(
            "adding a device",
            "the kernel forgets where in shared memory the data of an announced write is",
        )
        .advice("take --shared without --data get-data")
        .class(Class::Usage));
    }
    let shared = options.shared.as_deref().map(shared::look).transpose()?;
    control::probe()?;
    let AddOptions {
        id,
        queues,
        depth,
        buffer,
        data,
        batch,
        shared: _,
        recovery,
        restart,
        foreground,
        record,
    } = options;
    let record = record.as_deref().map(recording).transpose()?;
    let task = Task {
        id,
        queues,
        depth,
        buffer_bytes: buffer,
        data: data.into(),
        batch,
        target,
        recovery: recovery.map_or(Recovery::None, Recovery::from),
        restart,
        identity: random()?,
        log: None,
        comes_back: false,
        record,
        shared,
    };
    if foreground {
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

/// A size in bytes, with binary suffixes.
fn parse_size(text: &str) -> std::result::Result<u64, String> {
    let bytes = parse_size::Config::new()
        .with_binary()
        .parse_size(text)
        .map_err(|error| format!("{error}; write a number with K, M, G or T, such as 64M"))?;
    if bytes == 0 || bytes % SECTOR != 0 {
        return Err(format!("{bytes} bytes is not a positive multiple of {SECTOR}"));
    }
    // The kernel's file offsets are signed.
    if i64::try_from(bytes).is_err() {
        return Err("larger than any block device can be".into());
    }
    Ok(bytes)
}

/// The size of a tag's buffer.
fn parse_buffer(text: &str) -> std::result::Result<u32, String> {
    const MAX: u64 = 32 << 20;
    let bytes = parse_size(text)?;
    if bytes % PAGE_BYTES != 0 || bytes > MAX {
        return Err(format!("{bytes} bytes is not a multiple of 4K from 4K to 32M"));
    }
    Ok(bytes as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
    }

    #[test]
    fn sizes_are_positive_multiples_of_a_sector() {
        assert_eq!(parse_size("64M"), Ok(64 << 20));
        assert_eq!(parse_size("1G"), Ok(1 << 30));
        assert_eq!(parse_size("2T"), Ok(2 << 40));
        assert_eq!(parse_size("1024"), Ok(1024));
        for bad in ["", "0", "511", "1000", "-1", "x", "1X", "8E", "99999999999999999999"] {
            assert!(parse_size(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn buffers_are_whole_pages_up_to_32m() {
        assert_eq!(parse_buffer("128K"), Ok(128 << 10));
        for bad in ["0", "512", "6K", "33M"] {
            assert!(parse_buffer(bad).is_err(), "{bad}");
        }
    }
}
