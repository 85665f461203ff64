//! Scripts from text.

use std::fmt;
use std::str::FromStr;

use blkproof_engine::uapi::{AutoBufReg, DeviceState, Features, KernelSeries, Params};

use super::{
    AddOptions, Addr, CONTROLLER, FLAG_PREFIX, Header, Op, Parameters, RingAsked, RingKind,
    SHARED_PAGES, SHARED_SECTORS, Script, Step, ZONES_MAX, ZoneAct,
};
use crate::world::PAGE_SECTORS;

/// Entries of an actor's ring at most, and if nothing is said.
pub(super) const RING_ENTRIES_MAX: u16 = 64;

/// What is wrong with a text.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ParseError {
    /// The line, from 1.
    pub line: usize,
    /// What is wrong with it.
    pub message: String,
}

impl ParseError {
    pub(super) fn new(line: usize, message: impl Into<String>) -> Self {
        Self { line, message: message.into() }
    }
}

impl fmt::Display for ParseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: {}", self.line, self.message)
    }
}

impl std::error::Error for ParseError {}

impl FromStr for Script {
    type Err = ParseError;

    /// # Errors
    /// The first line that makes no sense: an unknown word, an actor that is not there (any more), a number out of range.
    fn from_str(text: &str) -> Result<Self, ParseError> {
        let mut script =
            Self { title: String::new(), kernels: KernelSeries::ALL.to_vec(), steps: Vec::new() };
        let mut cast = Cast::new();
        for (number, line) in text.lines().enumerate() {
            let at = |message: String| ParseError::new(number + 1, message);
            let (line, comment) = line.split_once('#').unwrap_or((line, ""));
            let words: Vec<&str> = line.split_whitespace().collect();
            match words[..] {
                [] => {
                    if script.steps.is_empty() && !comment.is_empty() {
                        if !script.title.is_empty() {
                            script.title.push('\n');
                        }
                        script.title.push_str(comment.trim());
                    }
                }
                ["kernels", ref names @ ..] if script.steps.is_empty() && !names.is_empty() => {
                    let find = |name: &&str| {
                        KernelSeries::ALL.into_iter().find(|kernel| kernel.to_string() == **name)
                    };
                    script.kernels = names
                        .iter()
                        .map(|name| find(name).ok_or_else(|| at(format!("unknown kernel {name}"))))
                        .collect::<Result<_, _>>()?;
                }
                _ => {
                    let step = step(&words).map_err(at)?;
                    cancels_a_command(&step, &script.steps).map_err(at)?;
                    cast.play(&step).map_err(at)?;
                    script.steps.push(step);
                }
            }
        }
        Ok(script)
    }
}

impl FromStr for Op {
    type Err = String;

    /// # Errors
    /// What makes no sense.
    fn from_str(text: &str) -> Result<Self, String> {
        op(&text.split_whitespace().collect::<Vec<_>>())
    }
}

/// The actors that are there.
struct Cast {
    /// Each with its process, named by its first actor.
    actors: Vec<(String, String)>,
    /// Processes that do nothing but sleep.
    idle: Vec<String>,
    /// Processes that are stopped.
    halted: Vec<String>,
    /// Parameters allow requests that the model has no buffers for.
    large: bool,
}

impl Cast {
    fn new() -> Self {
        let actors = vec![(CONTROLLER.into(), CONTROLLER.into())];
        Self { actors, idle: Vec::new(), halted: Vec::new(), large: false }
    }

    fn process(&self, actor: &str) -> Result<&str, String> {
        let found = self.actors.iter().find(|(name, _)| name == actor);
        found
            .map(|(_, process)| process.as_str())
            .ok_or_else(|| format!("there is no actor {actor}"))
    }

    /// The process of an actor that can do something.
    fn acting(&self, actor: &str) -> Result<String, String> {
        let process = self.process(actor)?.to_owned();
        if self.idle.contains(&process) || self.halted.contains(&process) {
            return Err(format!("the process of {actor} sleeps"));
        }
        Ok(process)
    }

    fn enter(&mut self, name: &str, process: &str) -> Result<(), String> {
        let fits = name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
        if !fits || !name.starts_with(|c: char| c.is_ascii_lowercase()) {
            return Err(format!("{name:?} is no name: lower-case letters, then digits"));
        }
        if self.actors.iter().any(|(one, process)| one == name || process == name) {
            return Err(format!("there is, or was, an actor {name} already"));
        }
        self.actors.push((name.to_owned(), process.to_owned()));
        Ok(())
    }

    fn play(&mut self, step: &Step) -> Result<(), String> {
        match step {
            Step::Process { name, .. } => self.enter(name, name),
            Step::Thread { name, of } => {
                let process = self.acting(of)?;
                self.enter(name, &process)
            }
            Step::Kill { actor } => {
                let process = self.process(actor)?.to_owned();
                self.actors.retain(|(_, one)| *one != process);
                Ok(())
            }
            Step::Fork { name, of, map: _ } => {
                self.acting(of)?;
                self.idle.push(name.clone());
                self.enter(name, name)
            }
            Step::Exec { actor } => {
                let process = self.acting(actor)?;
                self.actors.retain(|(name, one)| *one != process || name == actor);
                self.idle.push(process);
                Ok(())
            }
            Step::Halt { actor } => {
                let process = self.acting(actor)?;
                self.halted.push(process);
                Ok(())
            }
            Step::Continue { actor } => {
                let process = self.process(actor)?.to_owned();
                if !self.halted.contains(&process) {
                    return Err(format!("{actor} is not stopped"));
                }
                self.halted.retain(|one| *one != process);
                Ok(())
            }
            Step::Sleep { ms } if *ms > 10_000 => Err("a sleep of up to 10000 ms".into()),
            Step::Sleep { .. } | Step::Scheduler => Ok(()),
            Step::Do { actor, op } => {
                let process = self.acting(actor)?;
                match op.bare() {
                    Op::Exit if *actor == process => {
                        self.actors.retain(|(_, one)| *one != process);
                    }
                    Op::Exit => self.actors.retain(|(one, _)| one != actor),
                    Op::Start { server: Some(server) }
                    | Op::EndRecovery { server: Some(server) } => {
                        drop(self.process(server)?.to_owned());
                    }
                    Op::Params(parameters) => self.large |= parameters.allow_large(),
                    Op::OpenDisk if self.large => {
                        return Err("no I/O where max_sectors is more than 8".into());
                    }
                    _ => {}
                }
                Ok(())
            }
        }
    }
}

pub(super) fn number<T: FromStr>(word: &str, what: &str) -> Result<T, String> {
    word.parse().map_err(|_| format!("{word:?} is no {what}"))
}

/// The value of `key=` among the words.
pub(super) fn value<'a>(words: &[&'a str], key: &str) -> Option<&'a str> {
    words.iter().find_map(|word| word.strip_prefix(key)?.strip_prefix('='))
}

/// Whether every word is `KEY=` and something, with one of these keys.
pub(super) fn known(words: &[&str], keys: &[&str]) -> Result<(), String> {
    let strange = |word: &&&str| !word.split_once('=').is_some_and(|(key, _)| keys.contains(&key));
    match words.iter().find(strange) {
        Some(word) => Err(format!("{word:?} does not belong here")),
        None => Ok(()),
    }
}

/// Whether the value of a key is `yes`; nothing else may stand there.
pub(super) fn yes(words: &[&str], key: &str) -> Result<bool, String> {
    match value(words, key) {
        None => Ok(false),
        Some("yes") => Ok(true),
        Some(word) => Err(format!("{key}={word}: only {key}=yes")),
    }
}

/// Flags as `NAME+NAME`, or as numbers.
fn flags(word: &str) -> Result<Features, String> {
    word.split('+').try_fold(Features::NONE, |flags, name| {
        let known =
            Features::ALL.iter().find(|(_, one)| one.strip_prefix(FLAG_PREFIX) == Some(name));
        let bits = known.map_or_else(|| number(name, "flag"), |(bit, _)| Ok(1 << bit));
        bits.map(|bits| flags.union(Features(bits)))
    })
}

fn pair<T: FromStr, U: FromStr>(word: &str, by: char, what: &str) -> Result<(T, U), String> {
    let (first, second) = word.split_once(by).ok_or_else(|| format!("{word:?} is no {what}"))?;
    Ok((number(first, what)?, number(second, what)?))
}

/// Whether sectors are within the memory that all processes share.
fn within_shared(first: u16, count: u16) -> Result<(u16, u16), String> {
    let end = u32::from(first) + u32::from(count);
    if first >= SHARED_SECTORS || end > u32::from(SHARED_SECTORS) {
        return Err(format!("{first}+{count}: {SHARED_SECTORS} sectors are shared"));
    }
    Ok((first, count))
}

/// `FIRST+COUNT` of its sectors.
fn shared_range(word: &str) -> Result<(u16, u16), String> {
    let (first, count) = pair(word, '+', "range (FIRST+COUNT)")?;
    within_shared(first, count)
}

/// `shared=SECTOR`: where in it so many sectors of data are.
fn shared(words: &[&str], count: u16) -> Result<Option<u16>, String> {
    let Some(word) = value(words, "shared") else { return Ok(None) };
    let first = number(word, "sector")?;
    within_shared(first, count).map(|(first, _)| Some(first))
}

/// The address of a FETCH or COMMIT, and the words after it.
fn addr<'a, 'w>(words: &'w [&'a str]) -> Result<(Addr, &'w [&'a str]), String> {
    let Some((first, rest)) = words.split_first() else { return Ok((Addr::Buffer, words)) };
    if *first == "bare" {
        return Ok((Addr::Bare, rest));
    }
    let Some(slot) = first.strip_prefix("auto=") else { return Ok((Addr::Buffer, words)) };
    let (index, fallback) = match slot.strip_suffix("+fallback") {
        Some(index) => (index, true),
        None => (slot, false),
    };
    Ok((Addr::Auto(AutoBufReg { index: number(index, "slot")?, fallback }), rest))
}

/// Whether every step makes sense after those before it.
pub(super) fn well_formed(script: &Script) -> bool {
    let mut cast = Cast::new();
    script.steps.iter().enumerate().all(|(index, step)| {
        cancels_a_command(step, &script.steps[..index]).is_ok() && cast.play(step).is_ok()
    })
}

/// What `cancel` names must be a control command that the same actor submitted before.
fn cancels_a_command(step: &Step, before: &[Step]) -> Result<(), String> {
    let Step::Do { actor, op: Op::Cancel { step: of } } = step else { return Ok(()) };
    let index = usize::from(*of).checked_sub(1);
    match index.and_then(|index| before.get(index)) {
        Some(Step::Do { actor: one, op }) if one == actor && op.is_control() => Ok(()),
        Some(_) | None => Err(format!("step {of} is no control command of {actor}")),
    }
}

fn step(words: &[&str]) -> Result<Step, String> {
    match *words {
        ["process", name] => Ok(Step::Process { name: name.into(), admin: false }),
        ["process", name, "admin"] => Ok(Step::Process { name: name.into(), admin: true }),
        ["thread", name, "of", of] => Ok(Step::Thread { name: name.into(), of: of.into() }),
        ["fork", name, "of", of, ref rest @ ..] => {
            let map = match rest {
                [] => None,
                [map] if map.starts_with("map=") => Some(number(&map[4..], "queue")?),
                _ => return Err(format!("{:?} does not belong here", rest.join(" "))),
            };
            Ok(Step::Fork { name: name.into(), of: of.into(), map })
        }
        ["exec", actor] => Ok(Step::Exec { actor: actor.into() }),
        ["halt", actor] => Ok(Step::Halt { actor: actor.into() }),
        ["continue", actor] => Ok(Step::Continue { actor: actor.into() }),
        ["kill", actor] => Ok(Step::Kill { actor: actor.into() }),
        ["sleep", ms] => Ok(Step::Sleep { ms: number(ms, "number of milliseconds")? }),
        ["scheduler", "mq-deadline"] => Ok(Step::Scheduler),
        [actor, ref op @ ..] if actor.ends_with(':') => {
            let op = self::op(op)?;
            Ok(Step::Do { actor: actor.trim_end_matches(':').into(), op })
        }
        _ => Err(format!("{:?} is no step", words.join(" "))),
    }
}

/// What a range is called.
const RANGE: &str = "range (FIRST+COUNT)";

/// A range of whole pages, in sectors.
fn pages(range: &str) -> Result<(u16, u16), String> {
    let (first, count) = pair(range, '+', RANGE)?;
    if first % PAGE_SECTORS != 0 || count % PAGE_SECTORS != 0 || count == 0 {
        return Err(format!("{range}: the page cache has pages of {PAGE_SECTORS} sectors"));
    }
    Ok((first, count))
}

fn op(words: &[&str]) -> Result<Op, String> {
    const TAG: &str = "tag (QUEUE.TAG)";
    let queue = |words: &[&str]| value(words, "queue").map_or(Ok(0), |word| number(word, "queue"));
    Ok(match *words {
        ["ring", kind, ref rest @ ..] => {
            let find = |name: &str| RingKind::ALL.iter().find(|(_, one)| *one == name);
            let &(kind, _) = find(kind).ok_or_else(|| format!("{kind:?} is no kind of ring"))?;
            let (rest, all) = match rest {
                [rest @ .., "all"] => (rest, true),
                rest => (rest, false),
            };
            known(rest, &["cq"])?;
            let cq = value(rest, "cq").map(|word| number(word, "number of entries")).transpose()?;
            if cq.is_some_and(|cq: u16| !cq.is_power_of_two() || cq > RING_ENTRIES_MAX) {
                return Err(format!("a ring has a power of two of entries, to {RING_ENTRIES_MAX}"));
            }
            Op::Ring(RingAsked { kind, cq, all })
        }
        ["spare"] => Op::Spare,
        ["hold"] => Op::Hold,
        ["junk"] => Op::Junk,
        ["submit", count] => Op::Submit { count: number(count, "number of entries")? },
        ["fixfile"] => Op::FixFile,
        ["unfixfile"] => Op::UnfixFile,
        ["closering"] => Op::CloseRing,
        ["open"] => Op::Open,
        ["open", "kept"] => Op::OpenKept,
        ["close"] => Op::Close,
        ["map", queue] => Op::Map { queue: number(queue, "queue")? },
        ["unmap", queue] => Op::Unmap { queue: number(queue, "queue")? },
        ["fetch", tag, ref rest @ ..] => {
            let (queue, tag) = pair(tag, '.', TAG)?;
            let (addr, rest) = addr(rest)?;
            known(rest, &[])?;
            Op::Fetch { queue, tag, addr }
        }
        ["commit", tag, result, ref rest @ ..] => {
            let (addr, rest) = addr(rest)?;
            known(rest, &["data"])?;
            let (queue, tag) = pair(tag, '.', TAG)?;
            let data = value(rest, "data").map(|word| number(word, "byte")).transpose()?;
            Op::Commit { queue, tag, result: number(result, "result")?, data, addr }
        }
        ["pread", tag, range] => {
            let (queue, tag) = pair(tag, '.', TAG)?;
            let (first, count) = pair(range, '+', RANGE)?;
            Op::Pread { queue, tag, first, count }
        }
        ["pwrite", tag, range, byte] => {
            let (queue, tag) = pair(tag, '.', TAG)?;
            let (first, count) = pair(range, '+', RANGE)?;
            Op::Pwrite { queue, tag, first, count, byte: number(byte, "byte")? }
        }
        ["metaread", tag, range] => {
            let (queue, tag) = pair(tag, '.', TAG)?;
            let (first, count) = pair(range, '+', RANGE)?;
            Op::MetaRead { queue, tag, first, count }
        }
        ["metawrite", tag, range, byte] => {
            let (queue, tag) = pair(tag, '.', TAG)?;
            let (first, count) = pair(range, '+', RANGE)?;
            Op::MetaWrite { queue, tag, first, count, byte: number(byte, "byte")? }
        }
        ["zones", tag, range, ref rest @ ..] => {
            known(rest, &["of", "wp"])?;
            let (queue, tag) = pair(tag, '.', TAG)?;
            let (first, count) = pair(range, '+', RANGE)?;
            if count > ZONES_MAX {
                return Err(format!("{range}: there is room for {ZONES_MAX} zones"));
            }
            let of = value(rest, "of").ok_or("of=SECTORS is missing")?;
            let pointer = value(rest, "wp").map_or(Ok(0), |word| number(word, "sector"))?;
            Op::Zones { queue, tag, first, count, of: number(of, "number of sectors")?, pointer }
        }
        ["table", slots] => Op::Table { slots: number(slots, "number of slots")? },
        ["register", tag, index] => {
            let (queue, tag) = pair(tag, '.', TAG)?;
            Op::Register { queue, tag, index: number(index, "slot")? }
        }
        ["unregister", tag, index] => {
            let (queue, tag) = pair(tag, '.', TAG)?;
            Op::Unregister { queue, tag, index: number(index, "slot")? }
        }
        ["bufread", index, range] => {
            let (first, count) = pair(range, '+', RANGE)?;
            Op::BufRead { index: number(index, "slot")?, first, count }
        }
        ["bufwrite", index, range, byte] => {
            let (first, count) = pair(range, '+', RANGE)?;
            let byte = number(byte, "byte")?;
            Op::BufWrite { index: number(index, "slot")?, first, count, byte }
        }
        ["getdata", tag] => {
            let (queue, tag) = pair(tag, '.', TAG)?;
            Op::GetData { queue, tag }
        }
        ["provide", count] => Op::Provide { count: number(count, "number of buffers")? },
        ["prep", queue, tags, ref rest @ ..] => {
            let (addr, rest) = addr(rest)?;
            known(rest, &[])?;
            let tags = tags.split(',').map(|tag| number(tag, "tag")).collect::<Result<_, _>>()?;
            Op::Prep { queue: number(queue, "queue")?, tags, addr }
        }
        ["commits", queue, results, ref rest @ ..] => {
            let (addr, rest) = addr(rest)?;
            known(rest, &["data"])?;
            let results = results.split(',').map(|one| pair(one, '=', "result (TAG=RESULT)"));
            let results = results.collect::<Result<_, _>>()?;
            let data = value(rest, "data").map(|word| number(word, "byte")).transpose()?;
            Op::Commits { queue: number(queue, "queue")?, results, data, addr }
        }
        ["fetchtags", queue] => Op::FetchTags { queue: number(queue, "queue")? },
        ["reap"] => Op::Reap,
        ["order"] => Op::Order,
        ["exit"] => Op::Exit,
        ["add", ref rest @ ..] => {
            known(rest, &["queues", "depth", "id", "flags", "state", "desc", "buffer"])?;
            let state = value(rest, "state").map_or(Ok(0), |word| number(word, "state"))?;
            let more = AddOptions {
                state: DeviceState::decode(state).map_err(|error| error.to_string())?,
                desc: value(rest, "desc").map_or(Ok(0), |word| number(word, "number"))?,
                buffer: value(rest, "buffer").map(|word| number(word, "number")).transpose()?,
            };
            let of = |key| value(rest, key).map_or(Ok(1), |word| number(word, "number"));
            Op::Add {
                queues: of("queues")?,
                depth: of("depth")?,
                id: value(rest, "id").map(|word| number(word, "number")).transpose()?,
                flags: value(rest, "flags").map_or(Ok(Features::NONE), flags)?,
                more,
            }
        }
        ["params", ref rest @ ..] => Op::Params(Box::new(Parameters::parse(rest)?)),
        ["getparams", ref rest @ ..] => {
            known(rest, &["bytes"])?;
            let all = Ok(Params::SIZE as u32);
            Op::GetParams { bytes: value(rest, "bytes").map_or(all, |it| number(it, "number"))? }
        }
        ["features"] => Op::Features,
        ["affinity", queue] => Op::Affinity { queue: number(queue, "queue")? },
        ["details"] => Op::Details,
        ["details2"] => Op::Details2,
        ["user", user] => Op::User { user: number(user, "user")? },
        ["own", user] => Op::Own { user: number(user, "user")? },
        ["timeout", ms] => Op::Timeout { ms: number(ms, "number of milliseconds")? },
        ["with", ref rest @ ..] => {
            let (header, rest) = Header::parse(rest)?;
            Op::With(Box::new(header), Box::new(op(rest)?))
        }
        ["start", "0"] => Op::Start { server: None },
        ["start", server] => Op::Start { server: Some(server.into()) },
        ["startrecovery"] => Op::StartRecovery,
        ["endrecovery", "0"] => Op::EndRecovery { server: None },
        ["endrecovery", server] => Op::EndRecovery { server: Some(server.into()) },
        ["delasync"] => Op::DelAsync,
        ["resize", ref rest @ ..] => {
            known(rest, &["sectors"])?;
            let sectors = value(rest, "sectors").ok_or("resize needs sectors=N")?;
            Op::Resize { sectors: number(sectors, "number of sectors")? }
        }
        ["quiesce", ms] => Op::Quiesce { ms: number(ms, "number of milliseconds")? },
        ["regbuf", range, ref rest @ ..] => {
            known(rest, &["readonly", "mapping"])?;
            let (first, count) = pair(range, '+', RANGE)?;
            if u32::from(first) + u32::from(count) > u32::from(SHARED_PAGES) {
                return Err(format!("{range}: there are {SHARED_PAGES} pages"));
            }
            let unwritable = match value(rest, "mapping") {
                None => false,
                Some("readonly") => true,
                Some(word) => return Err(format!("mapping={word}: only mapping=readonly")),
            };
            Op::RegBuf { first, count, read_only: yes(rest, "readonly")?, unwritable }
        }
        ["memread", range] => {
            let (first, count) = shared_range(range)?;
            Op::MemRead { first, count }
        }
        ["memwrite", range, byte] => {
            let (first, count) = shared_range(range)?;
            Op::MemWrite { first, count, byte: number(byte, "byte")? }
        }
        ["unregbuf", index] => Op::UnregBuf { index: number(index, "index")? },
        ["trystop"] => Op::TryStop,
        ["stop"] => Op::Stop,
        ["del"] => Op::Del,
        ["info"] => Op::Info,
        ["cancel", step] => Op::Cancel { step: number(step, "step")? },
        ["opendisk"] => Op::OpenDisk,
        ["closedisk"] => Op::CloseDisk,
        ["read", range, ref rest @ ..] => {
            known(rest, &["queue", "shared"])?;
            let (first, count) = pair(range, '+', RANGE)?;
            Op::Read { first, count, queue: queue(rest)?, shared: shared(rest, count)? }
        }
        ["sync", ref rest @ ..] => {
            known(rest, &["queue"])?;
            Op::Sync { queue: queue(rest)? }
        }
        ["write", range, ref rest @ ..] => {
            known(rest, &["queue", "shared", "fua"])?;
            let (first, count) = pair(range, '+', RANGE)?;
            let (queue, shared) = (queue(rest)?, shared(rest, count)?);
            Op::Write { first, count, queue, shared, fua: yes(rest, "fua")? }
        }
        ["load", range, ref rest @ ..] => {
            known(rest, &["queue"])?;
            let (first, count) = pages(range)?;
            Op::Load { first, count, queue: queue(rest)? }
        }
        ["store", range, ref rest @ ..] => {
            known(rest, &["queue"])?;
            let (first, count) = pages(range)?;
            Op::Store { first, count, queue: queue(rest)? }
        }
        ["discard", range, ref rest @ ..] => {
            known(rest, &["queue"])?;
            let (first, count) = pair(range, '+', RANGE)?;
            Op::Discard { first, count, queue: queue(rest)? }
        }
        ["zeroes", range, ref rest @ ..] => {
            known(rest, &["queue", "keep"])?;
            let (first, count) = pair(range, '+', RANGE)?;
            Op::Zeroes { first, count, queue: queue(rest)?, keep: yes(rest, "keep")? }
        }
        ["reportzones", ref rest @ ..] => {
            known(rest, &["queue"])?;
            Op::ReportZones { queue: queue(rest)? }
        }
        [word, range, ref rest @ ..] if word.ends_with(ZONE) => {
            known(rest, &["queue"])?;
            let (first, count) = pair(range, '+', RANGE)?;
            Op::Zone { act: zone_act(word)?, first, count, queue: queue(rest)? }
        }
        _ => return Err(format!("{:?} is nothing an actor does", words.join(" "))),
    })
}

/// What the words for what is done with zones end with.
const ZONE: &str = "zone";

/// What is done with zones, by its word.
fn zone_act(word: &str) -> Result<ZoneAct, String> {
    let acts = [ZoneAct::Open, ZoneAct::Close, ZoneAct::Finish, ZoneAct::Reset];
    let act = acts.into_iter().find(|act| word.strip_suffix(ZONE) == Some(act.word()));
    act.ok_or_else(|| format!("{word} is nothing that is done with zones"))
}

#[cfg(test)]
mod tests {
    use super::super::Trace;
    use super::*;

    const TEXT: &str = "\
# A request is served.
# In copy mode.
kernels 6.18 7.3
scheduler mq-deadline
process a
thread b of a
process c
ctl: add queues=2 depth=1 id=3 flags=USER_RECOVERY+USER_RECOVERY_REISSUE
ctl: params sectors=16
a: ring defer
b: ring default
b: ring coop
b: ring sqpoll cq=4 all
b: spare
b: fixfile
b: unfixfile
b: hold
b: junk
b: submit 1
a: open
a: map 0
a: fetch 0.0
ctl: start a
c: opendisk
c: write 0+8 queue=1
c: write 0+8 queue=1 shared=8 fua=yes
c: read 0+8 queue=1 shared=120
ctl: regbuf 0+4
ctl: regbuf 4+1 readonly=yes mapping=readonly
ctl: unregbuf 65536
a: memread 8+16
a: memwrite 0+128 7
a: reap
a: order
a: getdata 0.0
a: table 4
a: fetch 0.1 bare
a: fetch 0.1 auto=3
a: commit 0.0 4096 auto=2+fallback
a: commit 0.0 4096 bare
a: pread 0.0 1+7
a: pwrite 0.0 0+8 5
a: metaread 0.0 8+56
a: metawrite 0.0 0+64 255
a: register 0.0 1
a: bufread 1 0+8
a: bufwrite 1 0+4 9
a: unregister 0.0 1
c: sync queue=1
c: write 0+20 queue=0 fua=yes
c: discard 4+12 queue=0
c: store 8+16 queue=0
c: load 0+8 queue=1
c: zeroes 0+8 queue=1
c: zeroes 0+8 queue=1 keep=yes
ctl: params sectors=16 cache=yes
ctl: params sectors=64 cache=yes fua=yes chunk_sectors=16
ctl: params sectors=16 discard_alignment=0 discard_granularity=512 max_discard_sectors=0 max_write_zeroes_sectors=0 max_discard_segments=1
ctl: add queues=1 depth=1 state=1 desc=32 buffer=4096
ctl: with nr=48 type=0 len=63 addr=bad details
ctl: with entry=64 id=7 queue=0 getparams
ctl: features
ctl: affinity 0
ctl: with path=own pathlen=4097 details2
ctl: own 1000
ctl: timeout 5000
a: user 1000
a: with type=0 fetch 0.0
a: provide 2
a: prep 0 0,1
a: prep 1 0 auto=0+fallback
a: fetchtags 0
a: commits 0 0=4096,1=-5 data=3
a: commits 1 0=512 bare
a: commit 0.0 -5 data=7
b: zones 0.0 3+5 of=256
b: zones 0.0 0+8 of=16 wp=8
c: reportzones queue=0
c: openzone 0+8 queue=1
c: closezone 0+8 queue=0
c: finishzone 0+8 queue=0
c: resetzone 0+8 queue=0
ctl: cancel 20
ctl: resize sectors=32
ctl: quiesce 500
ctl: trystop
ctl: delasync
ctl: startrecovery
ctl: endrecovery a
ctl: start 0
sleep 10
b: exit
c: open kept
fork d of c
fork e of c map=1
halt c
continue c
exec c
kill d
kill a
";

    #[test]
    fn a_script_survives_print_and_parse() {
        let script: Script = TEXT.parse().expect("it parses");
        assert_eq!(script.to_string(), TEXT);
        assert_eq!(script.title, "A request is served.\nIn copy mode.");
    }

    #[test]
    fn what_makes_no_sense_is_refused_with_its_line() {
        for (text, line) in [
            ("a: open", 1),
            ("process a\nprocess a", 2),
            ("process A", 1),
            ("process a\nkill a\na: open", 3),
            ("process a\nthread b of a\na: exit\nb: open", 4),
            ("ctl: fetch 0", 1),
            ("ctl: fetch 0.0 fast", 1),
            ("process a\nfork b of a\nb: open", 3),
            ("process a\nexec a\na: open", 3),
            ("process a\nhalt a\na: open", 3),
            ("process a\ncontinue a", 2),
            ("ctl: add size=3", 1),
            ("ctl: ring fast", 1),
            ("ctl: ring defer cq=3", 1),
            ("ctl: cancel 1", 1),
            ("ctl: del\nctl: cancel 2", 2),
            ("process a\nctl: cancel 1", 2),
            ("ctl: commit 0.0 x", 1),
            ("ctl: write 0-8", 1),
            ("ctl: store 4+8", 1),
            ("ctl: load 0+0", 1),
            ("ctl: shutzone 0+8", 1),
            ("ctl: write 0+8 shared=121", 1),
            ("ctl: memread 120+9", 1),
            ("ctl: regbuf 0+17", 1),
            ("ctl: regbuf 0+1 mapping=none", 1),
            ("ctl: start nobody", 1),
            ("ctl: params sectors=64 max_sectors=16\nctl: opendisk", 2),
            ("kernels 5.4", 1),
            ("sleep 99999", 1),
            ("scheduler kyber", 1),
            ("hello", 1),
        ] {
            let error = text.parse::<Script>().expect_err(text);
            assert_eq!(error.line, line, "{text}: {error}");
        }
    }

    #[test]
    fn a_trace_survives_print_and_parse() {
        let text = "    1 = 0\n    state DEAD\n    state DEAD\n    2 = 0 op=1 0+8 data=9\n    \
                    2 = 0 op=1 0+8 tag=1 fua integrity shmem=1@4096\n    2 = 0 op=1 0+8 shmem=buffer\n    \
                    3 = -22\n    4 waits ready\n    state LIVE\n";
        let trace: Trace = text.parse().expect("it parses");
        assert_eq!(trace.observations.len(), 3);
        assert_eq!(trace.to_string(), text);
        assert!("    1 = x\n".parse::<Trace>().is_err());
        let script: Script = "process a\nprocess b\nsleep 1".parse().expect("it parses");
        let printed = trace.with(&script).to_string();
        assert_eq!(printed.parse(), Ok(trace));
    }
}
