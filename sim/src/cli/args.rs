//! What `sim` takes on its command line.

use std::num::NonZero;
use std::path::PathBuf;
use std::time::Duration;

use blkproof_engine::data::DataMode;
use blkproof_engine::supervisor::{Deadlines, Recovery};
use blkproof_engine::sys::RingMode;
use blkproof_engine::uapi::KernelSeries;
use clap::{Parser, Subcommand, value_parser};

use crate::config::{Commands, Config, Faults, Memory, Subject, TargetKind};
use crate::describe::{self, Unknown};
use crate::shard::Shard;
use crate::specimens::Specimen;
use crate::strategy::Strategy;
use crate::swarm::{Dimension, Swarm};

/// A seeded simulator of ublk servers and the kernel they talk to.
///
/// It runs the very machines that serve real devices, or a known-bad server, over a model of the kernel, and produces
/// orderings and faults from a seed. The same seed gives the same run on any machine, at the same commit.
#[derive(Parser, Debug)]
#[command(
    version,
    after_help = "Examples:
  sim demo                                        find, explain and replay a start-up deadlock
  sim hunt --specimen eintr-lost --seeds 10000    find what is wrong with a known-bad server
  sim hunt --engine --faults all --time 30s       try to break the real engine
  sim hunt --engine --recovery reissue --restart --faults kill=12
                                                  lose workers, and no request
  sim hunt --engine --faults all --swarm --driver pct=3 --time 10m
                                                  by priorities, each run with its own sizes and faults
  sim hunt --engine --nth-fault 1                 every single fault at every opportunity
  sim hunt --engine --faults all --shard 2/8 --results part2
  sim merge part*                                 a hunt on eight machines
  sim museum                                      find what is wrong with every known-bad server
  sim run --engine --seed 7 --queues 2 --depth 4  one schedule
  sim replay findings/…/tape                      a recorded one, with its whole story
  sim script FILE                                 what the model makes of a script of system calls
  sim check-trace DIR                             is what `blkproof add --record DIR` recorded a run of the model?

Exit codes: 0 clean; 1 check-trace: not a run of the model, merge: not complete; 2 usage, or a tape that does not fit; 10 safety violation; 11 deadlock;
12 livelock or missed bound; 13 data loss; 130 interrupted with nothing found."
)]
pub(super) struct Args {
    #[command(subcommand)]
    pub(super) command: Command,
}

#[derive(Subcommand, Debug)]
pub(super) enum Command {
    /// Find a start-up deadlock, explain and replay it, then run the engine through the same adversity
    Demo {
        /// Schedules that the engine must survive
        #[arg(long, default_value_t = 20_000, value_parser = value_parser!(u64).range(1..))]
        seeds: u64,
    },
    /// List the known-bad servers
    List {
        /// Print one JSON object
        #[arg(long)]
        json: bool,
    },
    /// Hunt every known-bad server, and say what it took to find each
    #[command(
        after_help = "Each specimen is hunted five times on the kernel it is at home on, by each driver, and once on every other kernel on which it must
be found. The table gives the schedules that the hunt in the middle of the five needed, and its time.

Exit codes: 0 every one is found, as it states; 1 one is not; 2 usage; 130 interrupted."
    )]
    Museum(MuseumArgs),
    /// Run one schedule
    Run(RunArgs),
    /// Run many schedules, until one is not clean
    Hunt(HuntArgs),
    /// Run a recorded schedule again
    Replay {
        /// The tape, as `run` and `hunt` write them
        tape: PathBuf,
        /// Print one JSON object
        #[arg(long)]
        json: bool,
    },
    /// Merge the results of a hunt that was spread over machines
    #[command(
        after_help = "Exit codes: 0 every part ended, nothing found; 1 a part is missing or did not end, nothing found; 2 usage, or not the files of one hunt; else of what was found, as for `hunt`."
    )]
    Merge {
        /// Files that `sim hunt --results` wrote
        #[arg(required = true, value_name = "FILE")]
        files: Vec<PathBuf>,
        /// Print one JSON object
        #[arg(long)]
        json: bool,
    },
    /// Check that what `blkproof add --record` wrote down is a run of the model of its kernel
    #[command(
        after_help = "Exit codes: 0 it is, consumed to the end; 1 it is not; 2 usage, or no trace."
    )]
    CheckTrace {
        /// The directory of the recording, or its files
        #[arg(required = true, value_name = "FILE|DIR")]
        files: Vec<PathBuf>,
        /// Hold it against the model of this kernel instead of the one that its header names
        #[arg(long, value_parser = describe::kernel)]
        kernel: Option<KernelSeries>,
        /// Print one JSON object
        #[arg(long)]
        json: bool,
    },
    /// Execute a script of system calls in the model, and print what it allows to be observed
    Script {
        /// The script
        #[arg(required_unless_present = "seed")]
        file: Option<PathBuf>,
        /// Make a script from this seed instead, and print it alone
        #[arg(long, conflicts_with = "file")]
        seed: Option<u64>,
        /// The kernel that it is for: 6.12, 6.18 or 7.3
        #[arg(long, default_value = "7.3", requires = "seed", value_parser = describe::kernel)]
        kernel: KernelSeries,
    },
}

#[derive(clap::Args, Debug)]
pub(super) struct MuseumArgs {
    /// Only these; `sim list` names them
    #[arg(value_name = "SPECIMEN", value_parser = describe::specimen)]
    pub(super) only: Vec<Specimen>,
    /// Seconds that one hunt may take
    #[arg(long, default_value_t = 10, value_parser = value_parser!(u16).range(1..=3600))]
    pub(super) seconds: u16,
    /// Specimens hunted at a time; one for each CPU if not given
    #[arg(long)]
    pub(super) jobs: Option<NonZero<u8>>,
    /// Print one JSON object
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(clap::Args, Debug)]
pub(super) struct RunArgs {
    #[command(flatten)]
    pub(super) what: What,
    #[command(flatten)]
    pub(super) how: How,
    /// The seed
    #[arg(long)]
    pub(super) seed: u64,
    #[command(flatten)]
    pub(super) output: Output,
}

#[derive(clap::Args, Debug)]
pub(super) struct HuntArgs {
    #[command(flatten)]
    pub(super) what: What,
    #[command(flatten)]
    pub(super) how: How,
    /// Let the n-th opportunity of each kind of fault strike, for every n: 1 fault in a run, or every 2 of them (all kinds, unless --faults names some)
    #[arg(long, value_name = "1|2", conflicts_with_all = ["driver", "swarm"], value_parser = value_parser!(u8).range(1..=2))]
    pub(super) nth_fault: Option<u8>,
    /// How many seeds; 10000 if not given, and 1 with --nth-fault
    #[arg(long, conflicts_with = "time", value_parser = value_parser!(u64).range(1..))]
    pub(super) seeds: Option<u64>,
    /// How long, e.g. 30s, 5m, 1h
    #[arg(long, value_parser = duration)]
    pub(super) time: Option<Duration>,
    /// The first seed
    #[arg(long, default_value_t = 0)]
    pub(super) first_seed: u64,
    /// Threads; one for each CPU if not given
    #[arg(long)]
    pub(super) jobs: Option<NonZero<u8>>,
    /// Count apart, by name, the runs of the engine that meet a hazard of the kernel which no server can avoid: H07, H26, H67, H69, H70. They are no findings
    #[arg(long, conflicts_with_all = ["nth_fault", "specimen"])]
    pub(super) known_hazards: bool,
    /// Go on after the first finding; keep one of each kind
    #[arg(long)]
    pub(super) keep_going: bool,
    #[command(flatten)]
    pub(super) part: Part,
    #[command(flatten)]
    pub(super) output: Output,
}

/// A hunt of many machines.
#[derive(clap::Args, Debug)]
pub(super) struct Part {
    /// Hunt the i-th of n parts only, e.g. 2/8. Without it a Slurm array (SLURM_ARRAY_TASK_ID) or an Indexed Job of Kubernetes (JOB_COMPLETION_INDEX) says which
    #[arg(long, value_name = "i/n")]
    pub(super) shard: Option<Shard>,
    /// How many parts there are, where JOB_COMPLETION_INDEX says which one this is: the job's `completions` (or set JOB_COMPLETION_COUNT)
    #[arg(long, value_name = "N", conflicts_with = "shard", value_parser = value_parser!(u64).range(1..))]
    pub(super) shards: Option<u64>,
    /// Append results to this file as JSON lines, each as soon as it is known; `sim merge` merges such files
    #[arg(long, value_name = "FILE")]
    pub(super) results: Option<PathBuf>,
}

/// What a seed stands for.
#[derive(clap::Args, Debug)]
pub(super) struct How {
    /// How schedules are chosen: random, or pct=D, priorities that change D-1 times in a run (pct alone: 3)
    #[arg(long, value_name = "random|pct[=D]", default_value_t)]
    pub(super) driver: Strategy,
    /// Give each run a random part of the faults with random rates, and (for --engine) random sizes, modes, targets and recovery wherever no option says what
    #[arg(long)]
    pub(super) swarm: bool,
}

#[derive(clap::Args, Debug)]
pub(super) struct Output {
    /// Print one JSON object
    #[arg(long)]
    pub(super) json: bool,
    /// Where findings are written
    #[arg(long, default_value = "findings", value_name = "DIR")]
    pub(super) findings: PathBuf,
}

#[derive(clap::Args, Debug)]
pub(super) struct What {
    /// A known-bad server; `sim list` names them
    #[arg(long, value_parser = describe::specimen, required_unless_present = "engine", conflicts_with = "engine")]
    specimen: Option<Specimen>,
    /// The real engine
    #[arg(long)]
    engine: bool,
    /// Which kernel the model is of: 6.12, 6.18 or 7.3
    #[arg(long, value_parser = describe::kernel)]
    kernel: Option<KernelSeries>,
    /// Queues, 1 to 4
    #[arg(long)]
    queues: Option<u16>,
    /// Tags in each queue, 1 to 128
    #[arg(long)]
    depth: Option<u16>,
    /// Requests that clients issue
    #[arg(long)]
    requests: Option<u32>,
    /// What stands behind the device: null, mem or loop
    #[arg(long, value_parser = describe::target)]
    target: Option<TargetKind>,
    /// How the engine asks data to move: copy, get-data, user-copy, or (null and loop) zero-copy
    #[arg(long, value_parser = describe::data)]
    data: Option<DataMode>,
    #[command(flatten)]
    asked: Asked,
    /// How the queues' rings run task work: defer or default
    #[arg(long, value_parser = describe::mode)]
    mode: Option<RingMode>,
    /// Adversity: none, all, or some of signal, submit, resource, kill, disk, stop, udev, stall, rival, haste, handover, resize, pause, kill-both, hold, crash (with a rate in 1/256: kill=3)
    #[arg(long, value_parser = describe::faults)]
    faults: Option<Faults>,
    /// Let the engine wait for ever
    #[arg(long)]
    no_deadlines: bool,
}

/// What the engine is asked for.
#[derive(clap::Args, Debug)]
struct Asked {
    /// Let the engine ask for commands about many tags (7.3, depth 2 or more; otherwise it gets one for each)
    #[arg(long)]
    batch: bool,
    /// Let clients have data in memory that they share with the server, and the engine serve it there (7.3; not with get-data)
    #[arg(long)]
    shared: bool,
    /// What becomes of the device without a worker: none, requeue, reissue or fail-io
    #[arg(long, value_parser = describe::recovery)]
    recovery: Option<Recovery>,
    /// Let the supervisor replace a worker that is gone; without it an operator asks for that
    #[arg(long)]
    restart: bool,
}

impl What {
    /// What a swarm may vary: what no option says. A known-bad server keeps its own configuration, but for the faults.
    pub(super) fn swarm(&self) -> Swarm {
        let free = |dimension: &Dimension| match dimension {
            Dimension::Queues => self.queues.is_none(),
            Dimension::Depth => self.depth.is_none(),
            Dimension::Requests => self.requests.is_none(),
            Dimension::Target => self.target.is_none(),
            Dimension::Data => self.data.is_none(),
            Dimension::Batch => !self.asked.batch,
            Dimension::Shared => !self.asked.shared,
            Dimension::Recovery => self.asked.recovery.is_none(),
            Dimension::Mode => self.mode.is_none(),
        };
        let engine = self.specimen.is_none();
        Swarm { free: Dimension::ALL.into_iter().filter(|one| engine && free(one)).collect() }
    }

    /// The configuration: the subject's own, changed as asked.
    pub(super) fn config(&self) -> Result<Config, Unknown> {
        let mut config = self.specimen.map_or_else(Config::engine, Specimen::config);
        if let Some(specimen) = self.specimen {
            config.subject = Subject::Specimen(specimen);
        }
        config.kernel = self.kernel.unwrap_or(config.kernel);
        config.queues = self.queues.unwrap_or(config.queues);
        config.depth = self.depth.unwrap_or(config.depth);
        config.requests = self.requests.unwrap_or(config.requests);
        config.target = self.target.unwrap_or(config.target);
        config.data = self.data.unwrap_or(config.data);
        config.recovery = self.asked.recovery.unwrap_or(config.recovery);
        if self.asked.batch {
            config.commands = Commands::Batched;
        }
        if self.asked.shared {
            config.memory = Memory::Shared;
        }
        config.restart |= self.asked.restart;
        config.mode = self.mode.unwrap_or(config.mode);
        config.faults = self.faults.unwrap_or(config.faults);
        if self.no_deadlines {
            config.deadlines = Deadlines::NONE;
        }
        describe::validate(&config)?;
        Ok(config)
    }
}

/// Reads `30s`, `5m`, `1h`, or a number of seconds.
fn duration(text: &str) -> Result<Duration, String> {
    let (number, unit) = match text.char_indices().last() {
        Some((at, 's')) => (&text[..at], 1),
        Some((at, 'm')) => (&text[..at], 60),
        Some((at, 'h')) => (&text[..at], 3600),
        Some(_) | None => (text, 1),
    };
    let seconds: u64 = number
        .parse()
        .map_err(|_| "expected a number with s, m or h behind it, e.g. 30s".to_owned())?;
    seconds
        .checked_mul(unit)
        .filter(|seconds| (1..=7 * 24 * 3600).contains(seconds))
        .map(Duration::from_secs)
        .ok_or_else(|| "expected a time between 1s and 168h".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        use clap::CommandFactory as _;
        Args::command().debug_assert();
    }

    #[test]
    fn durations_have_units() {
        assert_eq!(duration("30s"), Ok(Duration::from_secs(30)));
        assert_eq!(duration("5m"), Ok(Duration::from_secs(300)));
        assert_eq!(duration("7"), Ok(Duration::from_secs(7)));
        for wrong in ["", "s", "0s", "-1s", "1d", "99999999999999999999h", "200h"] {
            assert!(duration(wrong).is_err(), "{wrong}");
        }
    }
}
