//! Configurations as words: what the command line takes, a tape's header says, and a report repeats.

use blkproof_engine::data::DataMode;
use blkproof_engine::supervisor::{Deadlines, Recovery};
use blkproof_engine::sys::RingMode;
use blkproof_engine::uapi::KernelSeries;

use crate::config::{Commands, Config, Faults, Memory, Subject, TargetKind};
use crate::specimens::Specimen;

/// CPUs of the simulated machine, unless a specimen needs fewer.
const CPUS_MAX: u16 = 4;

/// A word that means nothing here.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Unknown {
    /// What was to be read.
    pub what: &'static str,
    /// What was there.
    pub got: String,
    /// What would have been understood.
    pub expected: String,
}

impl std::fmt::Display for Unknown {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "unknown {} {:?}; expected {}", self.what, self.got, self.expected)
    }
}

impl std::error::Error for Unknown {}

fn unknown(what: &'static str, got: &str, expected: impl Into<String>) -> Unknown {
    Unknown { what, got: got.to_owned(), expected: expected.into() }
}

/// The subject's name.
pub fn subject_name(subject: Subject) -> &'static str {
    match subject {
        Subject::Engine => "engine",
        Subject::Specimen(specimen) => specimen.name(),
    }
}

/// The subject of that name.
///
/// # Errors
/// With the names there are.
pub fn subject(name: &str) -> Result<Subject, Unknown> {
    if name == "engine" {
        return Ok(Subject::Engine);
    }
    specimen(name).map(Subject::Specimen)
}

/// The specimen of that name.
///
/// # Errors
/// With the names there are.
pub fn specimen(name: &str) -> Result<Specimen, Unknown> {
    Specimen::from_name(name).ok_or_else(|| {
        let names: Vec<_> = Specimen::all().map(Specimen::name).collect();
        unknown("specimen", name, format!("one of {}", names.join(", ")))
    })
}

/// The kernel series of that name.
///
/// # Errors
/// With the names there are.
pub fn kernel(name: &str) -> Result<KernelSeries, Unknown> {
    let found = KernelSeries::ALL.into_iter().find(|kernel| kernel.to_string() == name);
    found.ok_or_else(|| unknown("kernel", name, "6.12, 6.18 or 7.3"))
}

/// The name of a ring mode.
pub const fn mode_name(mode: RingMode) -> &'static str {
    match mode {
        RingMode::Control => "control",
        RingMode::Default => "default",
        RingMode::DeferTaskrun => "defer",
    }
}

/// The ring mode of a queue of that name.
///
/// # Errors
/// With the names there are.
pub fn mode(name: &str) -> Result<RingMode, Unknown> {
    match name {
        "default" => Ok(RingMode::Default),
        "defer" => Ok(RingMode::DeferTaskrun),
        _ => Err(unknown("mode", name, "defer or default")),
    }
}

/// The name of a target.
pub const fn target_name(target: TargetKind) -> &'static str {
    match target {
        TargetKind::Null => "null",
        TargetKind::Mem => "mem",
        TargetKind::File => "loop",
    }
}

/// The target of that name.
///
/// # Errors
/// With the names there are.
pub fn target(name: &str) -> Result<TargetKind, Unknown> {
    match name {
        "null" => Ok(TargetKind::Null),
        "mem" => Ok(TargetKind::Mem),
        "loop" => Ok(TargetKind::File),
        _ => Err(unknown("target", name, "null, mem or loop")),
    }
}

/// The kind of recovery of that name.
///
/// # Errors
/// With the names there are.
pub fn recovery(name: &str) -> Result<Recovery, Unknown> {
    let found = Recovery::ALL.into_iter().find(|recovery| recovery.name() == name);
    found.ok_or_else(|| unknown("kind of recovery", name, "none, requeue, reissue or fail-io"))
}

/// The name of a data mode.
pub const fn data_name(data: DataMode) -> &'static str {
    match data {
        DataMode::Copy => "copy",
        DataMode::GetData => "get-data",
        DataMode::UserCopy => "user-copy",
        DataMode::ZeroCopy => "zero-copy",
    }
}

/// The data mode of that name.
///
/// # Errors
/// With the names there are.
pub fn data(name: &str) -> Result<DataMode, Unknown> {
    match name {
        "copy" => Ok(DataMode::Copy),
        "get-data" => Ok(DataMode::GetData),
        "user-copy" => Ok(DataMode::UserCopy),
        "zero-copy" => Ok(DataMode::ZeroCopy),
        _ => Err(unknown("data mode", name, "copy, get-data, user-copy or zero-copy")),
    }
}

/// The faults and their rates: `none`, `all`, or `signal=16,kill=3`.
pub fn faults_text(faults: &Faults) -> String {
    if *faults == Faults::NONE {
        return "none".to_owned();
    }
    if *faults == Faults::ALL {
        return "all".to_owned();
    }
    let rates = faults.rates().into_iter().filter(|(_, rate)| *rate > 0);
    rates.map(|(name, rate)| format!("{name}={rate}")).collect::<Vec<_>>().join(",")
}

/// The inverse of [`faults_text`]. A kind without a rate gets its rate in [`Faults::ALL`].
///
/// # Errors
/// With the kinds there are.
pub fn faults(text: &str) -> Result<Faults, Unknown> {
    match text {
        "none" => return Ok(Faults::NONE),
        "all" => return Ok(Faults::ALL),
        _ => {}
    }
    let mut faults = Faults::NONE;
    for word in text.split(',') {
        let (name, rate) = match word.split_once('=') {
            Some((name, rate)) => {
                let rate = rate.parse().map_err(|_| unknown("rate", rate, "0 to 255, in 1/256"))?;
                (name, Some(rate))
            }
            None => (word, None),
        };
        let mut all = Faults::ALL;
        let (Some(slot), Some(default)) = (faults.rate_mut(name), all.rate_mut(name)) else {
            let names = all.rates().map(|(name, _)| name).join(", ");
            return Err(unknown("fault", name, format!("none, all, or some of {names}")));
        };
        *slot = rate.unwrap_or(*default);
    }
    Ok(faults)
}

/// The configuration as `key: value` lines, for a tape's header. Everything but whether a timeline is kept.
pub fn config_lines(config: &Config) -> Vec<(&'static str, String)> {
    let deadlines = if config.deadlines == Deadlines::NONE { "none" } else { "default" };
    let mut lines = vec![
        ("subject", subject_name(config.subject).to_owned()),
        ("queues", config.queues.to_string()),
        ("depth", config.depth.to_string()),
        ("requests", config.requests.to_string()),
        ("kernel", config.kernel.to_string()),
        ("mode", mode_name(config.mode).to_owned()),
        ("target", target_name(config.target).to_owned()),
        ("data", data_name(config.data).to_owned()),
        ("batch", (config.commands == Commands::Batched).to_string()),
        ("shared", (config.memory == Memory::Shared).to_string()),
        ("recovery", config.recovery.name().to_owned()),
        ("restart", config.restart.to_string()),
        ("deadlines", deadlines.to_owned()),
        ("faults", faults_text(&config.faults)),
        ("steps-max", config.steps_max.to_string()),
    ];
    if config.cpus != CPUS_MAX {
        lines.push(("cpus", config.cpus.to_string()));
    }
    lines
}

/// Reads one `key: value` into a configuration. `Ok(false)` if the key is not one of a configuration.
///
/// # Errors
/// If the value means nothing.
pub fn read_config_line(config: &mut Config, key: &str, value: &str) -> Result<bool, Unknown> {
    fn number<T: std::str::FromStr>(value: &str) -> Result<T, Unknown> {
        value.parse().map_err(|_| unknown("number", value, "a number that fits"))
    }
    fn flag(what: &'static str, value: &str) -> Result<bool, Unknown> {
        value.parse().map_err(|_| unknown(what, value, "true or false"))
    }
    match key {
        "subject" => config.subject = subject(value)?,
        "queues" => config.queues = number(value)?,
        "depth" => config.depth = number(value)?,
        "requests" => config.requests = number(value)?,
        "kernel" => config.kernel = kernel(value)?,
        "mode" => config.mode = mode(value)?,
        "target" => config.target = target(value)?,
        "data" => config.data = data(value)?,
        "batch" => {
            let batched = flag("word for batch", value)?;
            config.commands = if batched { Commands::Batched } else { Commands::Single };
        }
        "shared" => {
            let shared = flag("word for shared", value)?;
            config.memory = if shared { Memory::Shared } else { Memory::Own };
        }
        "recovery" => config.recovery = recovery(value)?,
        "restart" => config.restart = flag("word for restart", value)?,
        "deadlines" => {
            config.deadlines = match value {
                "none" => Deadlines::NONE,
                "default" => Deadlines::DEFAULT,
                _ => return Err(unknown("deadlines", value, "none or default")),
            }
        }
        "faults" => config.faults = faults(value)?,
        "steps-max" => config.steps_max = number(value)?,
        "cpus" => config.cpus = number(value)?,
        _ => return Ok(false),
    }
    Ok(true)
}

/// Whether a run of this configuration makes sense.
///
/// # Errors
/// Says which bound is broken.
pub fn validate(config: &Config) -> Result<(), Unknown> {
    if !(1..=4).contains(&config.queues) {
        let got = config.queues.to_string();
        return Err(unknown("number of queues", &got, "1 to 4: the simulated machine has 4 CPUs"));
    }
    if !(1..=CPUS_MAX).contains(&config.cpus) {
        return Err(unknown("number of CPUs", &config.cpus.to_string(), "1 to 4"));
    }
    if !(1..=128).contains(&config.depth) {
        return Err(unknown("depth", &config.depth.to_string(), "1 to 128"));
    }
    if config.restart && config.recovery == Recovery::None {
        return Err(unknown("restart", "true", "a kind of recovery with it"));
    }
    if config.recovery == Recovery::FailIo && config.kernel == KernelSeries::V6_12 {
        return Err(unknown(
            "kind of recovery",
            "fail-io",
            "another on Linux 6.12, which lacks it",
        ));
    }
    if config.recovery != Recovery::None && !config.subject.is_engine() {
        let got = config.recovery.name();
        return Err(unknown("kind of recovery", got, "none: no known-bad server recovers"));
    }
    if config.data != DataMode::Copy && !config.subject.is_engine() {
        return Err(unknown(
            "data mode",
            data_name(config.data),
            "copy: a specimen knows no other",
        ));
    }
    if config.commands == Commands::Batched && !config.subject.is_engine() {
        return Err(unknown("batch", "true", "false: a specimen knows none"));
    }
    if config.memory == Memory::Shared && !config.subject.is_engine() {
        return Err(unknown("shared", "true", "false: a specimen knows no shared memory"));
    }
    if config.memory == Memory::Shared && !config.data.shares() {
        let why = "another: the kernel forgets where the data of an announced write is";
        return Err(unknown("data mode", data_name(config.data), why));
    }
    if config.commands == Commands::Batched && config.data == DataMode::GetData {
        return Err(unknown("data mode", "get-data", "another: in a batch no write is announced"));
    }
    if config.data == DataMode::ZeroCopy && config.target == TargetKind::Mem {
        let got = data_name(config.data);
        return Err(unknown("data mode", got, "another: mem has no backend to hand pages to"));
    }
    if config.requests > 10_000 {
        return Err(unknown("number of requests", &config.requests.to_string(), "0 to 10000"));
    }
    if !(100..=10_000_000).contains(&config.steps_max) {
        let got = config.steps_max.to_string();
        return Err(unknown("number of steps", &got, "100 to 10000000"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_configuration_reads_back() {
        let mut one = Config::engine();
        one.faults = Faults { signal: 3, kill: 255, ..Faults::NONE };
        one.deadlines = Deadlines::NONE;
        one.target = TargetKind::File;
        one.data = DataMode::UserCopy;
        (one.recovery, one.restart) = (Recovery::Reissue, true);
        one.cpus = 1;
        one.subject = Subject::Specimen(Specimen::named("serial-prime"));
        let mut other = Config::engine();
        for (key, value) in config_lines(&one) {
            assert_eq!(read_config_line(&mut other, key, &value), Ok(true));
        }
        assert_eq!(one, other);
    }

    #[test]
    fn faults_are_named_or_rated() {
        assert_eq!(faults("signal"), Ok(Faults { signal: Faults::ALL.signal, ..Faults::NONE }));
        assert_eq!(faults("kill=7,udev=1"), Ok(Faults { kill: 7, udev: 1, ..Faults::NONE }));
        assert!(faults("flood").unwrap_err().to_string().contains("resource"));
        assert!(faults("kill=many").is_err());
    }
}
