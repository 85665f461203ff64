//! What was observed after each step, as values and as text.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use blkproof_engine::uapi::ShmemAddr;

use super::{Op, ParseError, Script};

/// Something that finished.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct Event {
    /// The step that it answers.
    pub step: u16,
    /// Its result: 0, a count, or a negative errno.
    pub result: i32,
    /// The request that a FETCH or COMMIT completed with.
    pub request: Option<Delivered>,
    /// The byte that all of the data is: of a write that was delivered, or of a read that is done.
    pub data: Option<u8>,
    /// What a command told, in words; empty if it told nothing.
    pub told: String,
}

/// A request as its descriptor says it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "they are the descriptor's own flags")]
pub struct Delivered {
    /// `UBLK_IO_OP_*`.
    pub op: u8,
    /// First sector.
    pub first: u64,
    /// Sectors.
    pub count: u32,
    /// Its tag, where that is not the command's own.
    pub tag: Option<u16>,
    /// `UBLK_IO_F_NEED_REG_BUF`: the driver could not register its pages.
    pub unregistered: bool,
    /// `UBLK_IO_F_FUA`: a write that is to be durable.
    pub fua: bool,
    /// `UBLK_IO_F_NOUNMAP`: zeroes that are to keep their space.
    pub nounmap: bool,
    /// `UBLK_IO_F_INTEGRITY`: it has integrity metadata.
    pub integrity: bool,
    /// `UBLK_IO_F_SHMEM_ZC`: its data lies in registered memory.
    pub in_place: Option<InPlace>,
}

/// What the address in the descriptor of a request is whose data lies in registered memory.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum InPlace {
    /// `shmem=INDEX@OFFSET`: that place.
    At(ShmemAddr),
    /// `shmem=buffer`: the tag's buffer, although the data is not there.
    Buffer,
    /// `shmem=elsewhere`: neither.
    Elsewhere,
}

impl fmt::Display for InPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::At(ShmemAddr { index, offset }) => write!(f, "{index}@{offset}"),
            Self::Buffer => f.write_str("buffer"),
            Self::Elsewhere => f.write_str("elsewhere"),
        }
    }
}

impl FromStr for InPlace {
    type Err = ();

    fn from_str(word: &str) -> Result<Self, ()> {
        match word {
            "buffer" => Ok(Self::Buffer),
            "elsewhere" => Ok(Self::Elsewhere),
            _ => {
                let (index, offset) = word.split_once('@').ok_or(())?;
                let index = index.parse().map_err(|_| ())?;
                let offset = offset.parse().map_err(|_| ())?;
                Ok(Self::At(ShmemAddr { index, offset }))
            }
        }
    }
}

/// Where something waits in the kernel.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum Site {
    /// START_DEV, END_USER_RECOVERY: for every tag to be fetched.
    Ready,
    /// For `ub->mutex`.
    DeviceMutex,
    /// For `ublk_ctl_mutex`.
    GlobalMutex,
    /// For the requests of the disk to finish.
    Requests,
    /// For `disk->open_mutex`.
    OpenMutex,
    /// START_DEV: for what the partition scan reads.
    Scan,
    /// For what clients left in the page cache to be written back.
    Writeback,
    /// START_DEV: for the server to tell of the zones.
    Zones,
    /// DEL_DEV: for the number to be free.
    Number,
    /// Anywhere else.
    Elsewhere,
}

const SITES: [(Site, &str); 10] = [
    (Site::Ready, "ready"),
    (Site::DeviceMutex, "device-mutex"),
    (Site::GlobalMutex, "global-mutex"),
    (Site::Requests, "requests"),
    (Site::OpenMutex, "open-mutex"),
    (Site::Scan, "scan"),
    (Site::Writeback, "writeback"),
    (Site::Zones, "zones"),
    (Site::Number, "number"),
    (Site::Elsewhere, "elsewhere"),
];

/// The device, as GET_DEV_INFO tells.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Default)]
pub enum State {
    /// No such device.
    #[default]
    None,
    /// `UBLK_S_DEV_DEAD`.
    Dead,
    /// `UBLK_S_DEV_LIVE`.
    Live,
    /// `UBLK_S_DEV_QUIESCED`.
    Quiesced,
    /// `UBLK_S_DEV_FAIL_IO`.
    FailIo,
}

const STATES: [(State, &str); 5] = [
    (State::None, "none"),
    (State::Dead, "DEAD"),
    (State::Live, "LIVE"),
    (State::Quiesced, "QUIESCED"),
    (State::FailIo, "FAIL_IO"),
];

/// What there is to see after a step, once everything has come to rest.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Default)]
pub struct Observation {
    /// What finished since the step before, in order.
    pub events: Vec<Event>,
    /// Control commands, and threads inside a submission, that have not finished: by step, where they wait.
    pub waits: Vec<(u16, Site)>,
    /// The device.
    pub state: State,
}

impl Observation {
    /// Puts the places where equal commands wait into one order: which of them is which, the kernel does not tell.
    pub(super) fn exchange(&mut self, commands: &BTreeMap<u16, Op>) {
        for index in 1..self.waits.len() {
            let command = commands.get(&self.waits[index].0);
            let mut at = index;
            for before in (0..index).rev() {
                let same = command.is_some() && commands.get(&self.waits[before].0) == command;
                if same && self.waits[before].1 > self.waits[at].1 {
                    (self.waits[before].1, self.waits[at].1) =
                        (self.waits[at].1, self.waits[before].1);
                    at = before;
                }
            }
        }
    }

    /// Puts what has no order of its own into one.
    pub fn sort(&mut self) {
        self.events.sort_unstable();
        self.waits.sort_unstable();
    }
}

/// What was observed after each step of a script; shorter than the script if the executor had to give up.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Trace {
    /// One for each step, in order.
    pub observations: Vec<Observation>,
}

impl Trace {
    /// The trace between the lines of its script.
    pub fn with<'a>(&'a self, script: &'a Script) -> impl fmt::Display + 'a {
        struct With<'a>(&'a Trace, &'a Script);
        impl fmt::Display for With<'_> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                for (index, step) in self.1.steps.iter().enumerate() {
                    writeln!(f, "{:2}. {step}", index + 1)?;
                    if let Some(observation) = self.0.observations.get(index) {
                        write!(f, "{observation}")?;
                    }
                }
                Ok(())
            }
        }
        With(self, script)
    }
}

fn name<T: PartialEq>(table: &[(T, &'static str)], value: &T) -> &'static str {
    table.iter().find(|(one, _)| one == value).map_or("?", |(_, name)| name)
}

fn value<T: Copy>(table: &[(T, &'static str)], name: &str) -> Option<T> {
    table.iter().find(|(_, one)| *one == name).map(|(value, _)| *value)
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} = {}", self.step, self.result)?;
        if let Some(Delivered {
            op,
            first,
            count,
            tag,
            unregistered,
            fua,
            nounmap,
            integrity,
            in_place,
        }) = self.request
        {
            write!(f, " op={op} {first}+{count}")?;
            if let Some(tag) = tag {
                write!(f, " tag={tag}")?;
            }
            for (flag, name) in [
                (unregistered, " unregistered"),
                (fua, " fua"),
                (nounmap, " nounmap"),
                (integrity, " integrity"),
            ] {
                f.write_str(if flag { name } else { "" })?;
            }
            in_place.map_or(Ok(()), |place| write!(f, " shmem={place}"))?;
        }
        self.data.map_or(Ok(()), |data| write!(f, " data={data}"))?;
        if self.told.is_empty() { Ok(()) } else { write!(f, " told {}", self.told) }
    }
}

impl fmt::Display for Observation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for event in &self.events {
            writeln!(f, "    {event}")?;
        }
        for (step, site) in &self.waits {
            writeln!(f, "    {step} waits {}", name(&SITES, site))?;
        }
        writeln!(f, "    state {}", name(&STATES, &self.state))
    }
}

/// A trace as text: what each step's observation prints. The state ends an observation.
impl fmt::Display for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.observations.iter().try_for_each(|observation| write!(f, "{observation}"))
    }
}

/// Reads what [`Trace`] prints; the lines of a script between are skipped.
impl FromStr for Trace {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let mut trace = Self::default();
        let mut current = Observation::default();
        for (number, line) in text.lines().enumerate() {
            if !line.starts_with("    ") {
                continue;
            }
            let error = || ParseError::new(number + 1, format!("not an observation: {line:?}"));
            let words: Vec<&str> = line.split_whitespace().collect();
            match words[..] {
                ["state", state] => {
                    current.state = value(&STATES, state).ok_or_else(error)?;
                    trace.observations.push(std::mem::take(&mut current));
                }
                [step, "waits", site] => {
                    let site = value(&SITES, site).ok_or_else(error)?;
                    current.waits.push((step.parse().map_err(|_| error())?, site));
                }
                [step, "=", result, ref more @ ..] => {
                    let mut event = Event {
                        step: step.parse().map_err(|_| error())?,
                        result: result.parse().map_err(|_| error())?,
                        request: None,
                        data: None,
                        told: String::new(),
                    };
                    let mut more = more.iter();
                    while let Some(word) = more.next() {
                        if *word == "told" {
                            event.told = more.as_slice().join(" ");
                            break;
                        }
                        if let Some(data) = word.strip_prefix("data=") {
                            event.data = Some(data.parse().map_err(|_| error())?);
                        } else if let Some(op) = word.strip_prefix("op=") {
                            let range = more.next().and_then(|range| range.split_once('+'));
                            let (first, count) = range.ok_or_else(error)?;
                            event.request = Some(Delivered {
                                op: op.parse().map_err(|_| error())?,
                                first: first.parse().map_err(|_| error())?,
                                count: count.parse().map_err(|_| error())?,
                                tag: None,
                                unregistered: false,
                                fua: false,
                                nounmap: false,
                                integrity: false,
                                in_place: None,
                            });
                        } else if let (Some(tag), Some(request)) =
                            (word.strip_prefix("tag="), event.request.as_mut())
                        {
                            request.tag = Some(tag.parse().map_err(|_| error())?);
                        } else if let (Some(place), Some(request)) =
                            (word.strip_prefix("shmem="), event.request.as_mut())
                        {
                            request.in_place = Some(place.parse().map_err(|()| error())?);
                        } else if let Some(request) = event.request.as_mut() {
                            match *word {
                                "unregistered" => request.unregistered = true,
                                "fua" => request.fua = true,
                                "nounmap" => request.nounmap = true,
                                "integrity" => request.integrity = true,
                                _ => return Err(error()),
                            }
                        } else {
                            return Err(error());
                        }
                    }
                    current.events.push(event);
                }
                _ => return Err(error()),
            }
        }
        Ok(trace)
    }
}
