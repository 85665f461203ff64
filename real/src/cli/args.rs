//! What `blkproof` takes on its command line: reading it does nothing else.

use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;

use blkproof_engine::data::DataMode;
use blkproof_engine::supervisor::Recovery;
use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::error::{Class, Error};
use crate::os::PAGE_BYTES;
use crate::tap::Recording;
use crate::task::{SECTOR, SharedSpec, TargetSpec, Task};
use crate::{supervisor_process, worker_process};

/// Serve Linux block devices from user space (ublk).
///
/// A device is added with a target, which says where its bytes are, and stays until it is deleted. Two processes look after it: a
/// supervisor, which commands the driver, and a worker, which serves the requests.
#[derive(Debug, Parser)]
#[command(name = "blkproof", version, max_term_width = 100, after_help = EXAMPLES)]
struct Cli {
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

/// A command.
#[derive(Clone, PartialEq, Eq, Debug, Subcommand)]
pub enum Command {
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
    Supervise {
        /// A [`Task`] as JSON
        task: String,
    },
    /// Runs a worker. Started by a supervisor
    #[command(name = worker_process::SUBCOMMAND, hide = true)]
    Work {
        /// A [`WorkOrder`](crate::task::WorkOrder) as JSON
        order: String,
    },
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

/// `add`: the target, and what is said of the device.
#[derive(Clone, PartialEq, Eq, Debug, Subcommand)]
pub enum Add {
    /// A device that forgets what is written and reads as zeroes
    #[command(after_help = "Example:\n  blkproof add null --size 1T -q 4 -d 64")]
    Null {
        /// Size of the device: bytes, or with K, M, G, T; a multiple of 512
        #[arg(long, default_value = "250G", value_parser = parse_size)]
        size: u64,
        /// The options of every target
        #[command(flatten)]
        options: AddOptions,
    },
    /// A device in memory; its contents are gone when it is deleted
    #[command(after_help = "Example:\n  blkproof add mem --size 1G")]
    Mem {
        /// Size of the device: bytes, or with K, M, G, T; a multiple of 512
        #[arg(long, value_parser = parse_size)]
        size: u64,
        /// The options of every target
        #[command(flatten)]
        options: AddOptions,
    },
    /// A device kept in a file, or on another block device
    #[command(after_help = "Example:\n  truncate -s 10G disk.img\n  blkproof add loop disk.img")]
    Loop {
        /// The file or block device; it gives the device its size
        file: PathBuf,
        /// The options of every target
        #[command(flatten)]
        options: AddOptions,
    },
}

/// The options of `add`, whatever the target.
#[derive(Clone, PartialEq, Eq, Debug, Args)]
pub struct AddOptions {
    /// The device's number, N in /dev/ublkbN [default: the lowest free one]
    #[arg(short = 'n', long, value_parser = clap::value_parser!(u32).range(0..1 << 20))]
    pub id: Option<u32>,
    /// Hardware queues, each served by a thread of its own; the kernel grants no more than there are CPUs
    #[arg(short, long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=4096))]
    pub queues: u16,
    /// Requests in flight on each queue
    #[arg(short, long, default_value_t = 128, value_parser = clap::value_parser!(u16).range(1..=4096))]
    pub depth: u16,
    /// The largest request, and in copy mode the memory pinned for each one in flight: 4K to 32M, a multiple of 4K
    #[arg(long, value_name = "SIZE", default_value = "128K", value_parser = parse_buffer)]
    pub buffer: u32,
    /// How data gets from the kernel to the server and back
    #[arg(long, value_enum, value_name = "MODE", default_value_t = Data::Copy)]
    pub data: Data,
    /// Fetch and commit many requests by one command: Linux 7.3 or later and a depth of 2; otherwise a command for each, and `add` says so
    #[arg(long)]
    pub batch: bool,
    /// Memory that clients share with the server: a file on tmpfs or hugetlbfs, up to 4G, which they map as well. What they read into it and write from it
    /// nobody copies between kernel and server. Linux 7.3; before it makes no difference, and `add` says so. Not with --data get-data, nor with --record
    #[arg(long, value_name = "FILE", conflicts_with = "record")]
    pub shared: Option<PathBuf>,
    /// What becomes of the device when its worker dies, until it has another one
    #[arg(long, value_name = "MODE", value_enum)]
    pub recovery: Option<RecoveryMode>,
    /// Give the device another worker by itself when its own dies: up to 5 times in quick succession (a minute of service counts
    /// anew); then it waits for `blkproof recover`. With --recovery
    #[arg(long, requires = "recovery")]
    pub restart: bool,
    /// Stay in the foreground; SIGINT and SIGTERM stop and delete the device
    #[arg(long)]
    pub foreground: bool,
    /// Record what the device's processes do at the border to the kernel, in this directory, for `sim check-trace`
    #[arg(long, value_name = "DIR")]
    pub record: Option<PathBuf>,
}

/// `--recovery`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum RecoveryMode {
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
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Data {
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

/// The options of `list`.
#[derive(Clone, PartialEq, Eq, Debug, Args)]
pub struct ListOptions {
    /// Only the device with this number
    #[arg(short = 'n', long)]
    pub id: Option<u32>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// Which devices `del` is about: one, or all.
#[derive(Clone, PartialEq, Eq, Debug, Args)]
#[group(required = true, multiple = false)]
pub struct DelOptions {
    /// The device's number, N in /dev/ublkbN
    pub id: Option<u32>,
    /// Every ublk device of this machine
    #[arg(long)]
    pub all: bool,
}

/// `del`.
#[derive(Clone, PartialEq, Eq, Debug, Args)]
pub struct DelCommand {
    /// Which devices
    #[command(flatten)]
    pub which: DelOptions,
    /// Only if nobody has the block device open: not mounted, no client. Linux 7.3
    #[arg(long)]
    pub if_unused: bool,
}

/// Why a command line is none.
#[derive(Debug)]
pub enum Refusal {
    /// The parser does not know it. `--help` and `--version` end here, too.
    Parser(clap::Error),
    /// Its parts do not go together.
    Senseless(Error),
}

impl Refusal {
    /// What the program exits with: 2, or 0 after `--help` and `--version`.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Parser(error) => u8::from(error.use_stderr()) * 2,
            Self::Senseless(error) => error.exit_code(),
        }
    }

    /// Tells the user: help on standard output, all else on standard error.
    pub fn print(&self) {
        match self {
            // A reader that has gone needs no help.
            Self::Parser(error) => drop(error.print()),
            Self::Senseless(error) => eprintln!("blkproof: {error}"),
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Parser(error) => error.fmt(f),
            Self::Senseless(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for Refusal {}

/// Reads a command line, the program's name first, and does nothing else.
///
/// # Errors
/// Why it is none.
pub fn understand(arguments: impl IntoIterator<Item = OsString>) -> Result<Command, Refusal> {
    let command = Cli::try_parse_from(arguments).map_err(Refusal::Parser)?.command;
    if let Command::Add(add) = &command {
        add.check().map_err(Refusal::Senseless)?;
    }
    Ok(command)
}

impl Add {
    /// The options.
    pub const fn options(&self) -> &AddOptions {
        match self {
            Self::Null { options, .. } | Self::Mem { options, .. } | Self::Loop { options, .. } => {
                options
            }
        }
    }

    /// What the parser cannot say: data modes that something else does not go with.
    fn check(&self) -> Result<(), Error> {
        let options = self.options();
        let senseless = |attempted: &str, answered: &str, advice: &str| {
            Err(Error::new(attempted, answered).advice(advice).class(Class::Usage))
        };
        if matches!(self, Self::Mem { .. }) && options.data == Data::ZeroCopy {
            return senseless(
                "adding a mem device",
                "its bytes have no file that could use a request's pages in place",
                "take --data user-copy, which copies once",
            );
        }
        if options.batch && options.data == Data::GetData {
            return senseless(
                "adding a device",
                "in a batch no write is announced",
                "take --batch without --data get-data",
            );
        }
        if options.shared.is_some() && !DataMode::from(options.data).shares() {
            return senseless(
                "adding a device",
                "the kernel forgets where in shared memory the data of an announced write is",
                "take --shared without --data get-data",
            );
        }
        Ok(())
    }
}

impl AddOptions {
    /// What the supervisor is to do: serve `target`, with a number that no other device has, and with what was found out about the files
    /// that `record` and `shared` name.
    pub fn task(
        &self,
        target: TargetSpec,
        identity: u64,
        record: Option<Recording>,
        shared: Option<SharedSpec>,
    ) -> Task {
        Task {
            id: self.id,
            queues: self.queues,
            depth: self.depth,
            buffer_bytes: self.buffer,
            data: self.data.into(),
            batch: self.batch,
            target,
            recovery: self.recovery.map_or(Recovery::None, Recovery::from),
            restart: self.restart,
            identity,
            log: None,
            comes_back: false,
            record,
            shared,
        }
    }
}

/// A size in bytes, with binary suffixes.
fn parse_size(text: &str) -> Result<u64, String> {
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
fn parse_buffer(text: &str) -> Result<u32, String> {
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
