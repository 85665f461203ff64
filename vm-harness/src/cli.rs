//! The command line.

use std::ffi::OsString;
use std::path::PathBuf;

use blkproof_sim::run::Sabotage;
use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::kernel::{KernelChoice, Series};

/// Series that are tested by default.
pub const DEFAULT_SERIES: [&str; 3] = ["6.12", "6.18", "7.3"];

const EXIT_CODES: &str = "\
Exit codes:
  0  everything passed
  1  an assertion failed
  2  the command line is wrong
  3  a hang that the engine owes
  4  a hang that the kernel owes
  5  the environment is broken: the control experiment failed, or nothing could be run
  6  a kernel is not available: gone from the archive and not in the cache, or no network
  7  programs are missing on this host
  130  interrupted
The worst of several kernels decides: 3, 1, 4, 5, 6, 0 from worst to best.";

const EXAMPLES: &str = "\
Examples:
  vm-harness run                            all steps on 6.12, 6.18 and 7.3
  vm-harness run --kernel 7.3 --only kill   one scenario on one kernel
  vm-harness run --kernel host              this host's own kernel, in a guest
  vm-harness run --kernel vmlinuz --modules /lib/modules/6.19.0
  vm-harness run --kernel 7.3 --only io/mem-q1-d1-rand-1024k --keep-console
  vm-harness fetch                          download only, for a machine that goes offline
  vm-harness conformance --scripts 30       is the model the kernel? Written scripts, and 30 made from seeds
  vm-harness conformance --kernel 6.12 --only kill-when-idle
  vm-harness selftest                       show that every alarm rings";

/// Real kernels in QEMU, end-to-end scenarios on real ublk devices, and verdicts that tell code from environment.
#[derive(Debug, Parser)]
#[command(name = "vm-harness", version, after_help = EXIT_CODES, after_long_help = format!("{EXAMPLES}\n\n{EXIT_CODES}"))]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Boot kernels and run scenarios on them.
    Run(RunArgs),
    /// Download kernels, and run nothing.
    Fetch(FetchArgs),
    /// Carry out scripts on real kernels, and hold what is observed against the model.
    Conformance(ConformanceArgs),
    /// Plant faults on purpose and check that each gets its verdict.
    Selftest(SelftestArgs),
    /// The runner inside the guest; of no use anywhere else.
    #[command(hide = true)]
    Guest,
    /// A process of a script's actors inside the guest; of no use anywhere else.
    #[command(hide = true)]
    Actor {
        /// It keeps CAP_SYS_ADMIN when it fetches.
        #[arg(long)]
        admin: bool,
        /// The file that is the memory which all processes share.
        shared: PathBuf,
    },
    /// What an actor's process turns into when a script has it execute another program; of no use anywhere else.
    #[command(hide = true)]
    Idle,
    /// Becomes QEMU; the harness calls this itself.
    #[command(hide = true, disable_help_flag = true)]
    Emulate {
        /// QEMU's arguments.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<OsString>,
    },
}

/// Which kernels, and from where.
#[derive(Debug, Clone, Args)]
pub struct KernelArgs {
    /// A series such as 7.3, `host`, a kernel image, or a directory unpacked from a kernel package. May be repeated.
    #[arg(long, value_name = "SERIES|host|PATH", default_values = DEFAULT_SERIES)]
    pub kernel: Vec<KernelChoice>,
    /// The modules that belong to a kernel given as an image: the directory that holds modules.dep.
    #[arg(long, value_name = "DIR")]
    pub modules: Option<PathBuf>,
    /// Fetch from this Debian mirror instead of the one in /etc/apt.
    #[arg(long, value_name = "URI")]
    pub mirror: Option<String>,
}

/// How guests are run.
#[derive(Debug, Clone, Args)]
pub struct GuestArgs {
    /// The program under test [default: `blkproof` beside this program].
    #[arg(long, value_name = "FILE")]
    pub blkproof: Option<PathBuf>,
    /// How QEMU executes code. `auto` boots a kernel under KVM once to see whether it works here, and remembers.
    #[arg(long, value_enum, default_value_t = AcceleratorChoice::Auto)]
    pub accel: AcceleratorChoice,
    /// Factor on every deadline, for slow or busy hosts.
    #[arg(long, value_name = "FACTOR", default_value_t = 1.0, value_parser = patience)]
    pub patience: f64,
    /// Where results and consoles go [default: vm/results in the target directory].
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
}

/// Arguments of `run`.
#[derive(Debug, Clone, Args)]
pub struct RunArgs {
    /// Which kernels.
    #[command(flatten)]
    pub kernels: KernelArgs,
    /// How.
    #[command(flatten)]
    pub guest: GuestArgs,
    /// Every combination of target, queues, depth, order and block size, instead of a pairwise cover.
    #[arg(long)]
    pub full: bool,
    /// Only this scenario or step, framed by the control experiment. May be repeated; --list shows the names.
    #[arg(long, value_name = "SCENARIO")]
    pub only: Vec<String>,
    /// Print the steps and their deadlines, and run nothing.
    #[arg(long)]
    pub list: bool,
    /// Give me the guest's console, and a shell when the steps are done (one kernel only).
    #[arg(long)]
    pub keep_console: bool,
    /// Write the JSON report here too.
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Write the JUnit XML here too.
    #[arg(long, value_name = "FILE")]
    pub junit: Option<PathBuf>,
}

/// Arguments of `conformance`.
#[derive(Debug, Clone, Args)]
pub struct ConformanceArgs {
    /// Which kernels.
    #[command(flatten)]
    pub kernels: KernelArgs,
    /// How.
    #[command(flatten)]
    pub guest: GuestArgs,
    /// How many scripts to make from seeds, for each kernel.
    #[arg(long, value_name = "N", default_value_t = 200)]
    pub scripts: u32,
    /// The first of these seeds.
    #[arg(long, value_name = "SEED", default_value_t = 1)]
    pub seed: u64,
    /// Only this script: a name of the written ones, `seed-7`, or a file that ends in .script. May be repeated.
    #[arg(long, value_name = "NAME")]
    pub only: Vec<String>,
    /// Guests at a time. Each sleeps most of its time: twice as many as CPUs are about twice as fast as one for each.
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=64))]
    pub jobs: u16,
    /// Go on where a campaign with this file left off: scripts that it names are not carried out again, those that agree are added to it. A
    /// script that was changed, or a kernel of another release, begins anew.
    #[arg(long, value_name = "FILE")]
    pub resume: Option<PathBuf>,
    /// Longest time, in seconds, to make the first script that differs on a kernel shorter; 0: leave it as it is.
    #[arg(long, value_name = "SECONDS", default_value_t = 300)]
    pub shrink: u64,
    /// Plant an error in the model, to see it found.
    #[arg(long, value_name = "ERROR", hide = true)]
    pub plant: Option<Plant>,
    /// Write what was observed here: DIR/SERIES/NAME.trace.
    #[arg(long, value_name = "DIR")]
    pub record: Option<PathBuf>,
    /// Write the JSON report here too.
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Write the JUnit XML here too.
    #[arg(long, value_name = "FILE")]
    pub junit: Option<PathBuf>,
}

/// Arguments of `fetch`.
#[derive(Debug, Clone, Args)]
pub struct FetchArgs {
    /// Series to fetch the newest point release of.
    #[arg(value_name = "SERIES", default_values = DEFAULT_SERIES, value_parser = series)]
    pub series: Vec<Series>,
    /// Fetch from this Debian mirror instead of the one in /etc/apt.
    #[arg(long, value_name = "URI")]
    pub mirror: Option<String>,
}

/// Arguments of `selftest`.
#[derive(Debug, Clone, Args)]
pub struct SelftestArgs {
    /// The kernel to plant faults on.
    #[arg(long, value_name = "SERIES|host|PATH", default_value = "7.3")]
    pub kernel: KernelChoice,
    /// The modules that belong to a kernel given as an image.
    #[arg(long, value_name = "DIR")]
    pub modules: Option<PathBuf>,
    /// How.
    #[command(flatten)]
    pub guest: GuestArgs,
}

/// What can be wrong with the model, on purpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Plant {
    /// A FETCH of an armed tag is EBUSY.
    WrongErrno,
    /// Any task may commit.
    AnyoneCommits,
    /// An abort shows on a ring that was not entered.
    EagerAbort,
}

impl From<Plant> for Sabotage {
    fn from(plant: Plant) -> Self {
        match plant {
            Plant::WrongErrno => Self::WrongErrno,
            Plant::AnyoneCommits => Self::AnyoneCommits,
            Plant::EagerAbort => Self::EagerAbort,
        }
    }
}

/// How QEMU shall execute code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum AcceleratorChoice {
    /// KVM where it works, else TCG.
    Auto,
    /// KVM.
    Kvm,
    /// TCG.
    Tcg,
}

fn patience(text: &str) -> Result<f64, String> {
    let factor: f64 = text.parse().map_err(|_| "not a number".to_owned())?;
    if (0.1..=100.0).contains(&factor) { Ok(factor) } else { Err("not between 0.1 and 100".into()) }
}

fn series(text: &str) -> Result<Series, String> {
    text.parse().map_err(|()| "not a series such as 7.3".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_definition_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn help_teaches() {
        let mut command = Cli::command().term_width(100);
        let run = command
            .find_subcommand_mut("run")
            .map(|c| c.clone().term_width(100).render_help().to_string());
        let text = format!("{}\n----\n{}", command.render_long_help(), run.unwrap_or_default());
        insta::assert_snapshot!(text);
    }

    #[test]
    fn three_kernels_by_default() {
        let cli = Cli::parse_from(["vm-harness", "run"]);
        let Command::Run(args) = cli.command else { panic!("`run` was parsed as something else") };
        let names: Vec<String> = args.kernels.kernel.iter().map(ToString::to_string).collect();
        assert_eq!(names, DEFAULT_SERIES);
    }
}
