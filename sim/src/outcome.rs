//! What a run came to.

/// The verdict on one run.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum Verdict {
    /// Every goal was reached and no rule broken.
    Clean,
    /// A safety rule was broken (protocol, invariant).
    Safety,
    /// Nobody can move, and somebody waits.
    Deadlock,
    /// Steps without progress under fair scheduling, or a bound on virtual time missed.
    Livelock,
    /// A client read what it should not have, or lost what it was promised.
    DataLoss,
}

impl Verdict {
    /// Every verdict.
    pub const ALL: [Self; 5] =
        [Self::Clean, Self::Safety, Self::Deadlock, Self::Livelock, Self::DataLoss];

    /// What is wrong where the rule or condition of that name finds something ([`Outcome::oracle`]).
    pub fn of(oracle: &str) -> Self {
        match oracle {
            "deadlock" | "K12" | "K13" => Self::Deadlock,
            "livelock" | "start-up bound" => Self::Livelock,
            "O5" | "O6" | "O8" => Self::DataLoss,
            _ => Self::Safety,
        }
    }

    /// The verdict of that [`name`](Self::name).
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|verdict| verdict.name() == name)
    }

    /// The exit code of the program `sim`.
    pub const fn exit_code(self) -> u8 {
        match self {
            Self::Clean => 0,
            Self::Safety => 10,
            Self::Deadlock => 11,
            Self::Livelock => 12,
            Self::DataLoss => 13,
        }
    }

    /// The name in reports and JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Clean => "clean",
            Self::Safety => "safety",
            Self::Deadlock => "deadlock",
            Self::Livelock => "livelock",
            Self::DataLoss => "data-loss",
        }
    }
}

/// An actor of the simulated world, in the order in which reports show them.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct Actor {
    /// `client 0`, `kernel`, `supervisor`, `worker`, `queue 1`, `udev`, …
    pub name: String,
}

/// One visible step.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Record {
    /// Ordinal of the step.
    pub step: u64,
    /// Virtual time in microseconds.
    pub time_us: u64,
    /// Index into [`Outcome::actors`].
    pub actor: usize,
    /// What it did, in the field's terms.
    pub text: String,
}

/// Somebody who waits when the run ends.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Wait {
    /// Index into [`Outcome::actors`].
    pub actor: usize,
    /// What it waits for.
    pub awaits: String,
    /// Who owes it: an index into [`Outcome::actors`], if somebody does.
    pub owner: Option<usize>,
    /// Why the owner does not deliver, if that is known.
    pub because: String,
}

/// The result of a run.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Outcome {
    /// The verdict.
    pub verdict: Verdict,
    /// The rule that was broken or the condition that was found, e.g. `O3`, `deadlock`. Empty when clean.
    pub oracle: String,
    /// One sentence that says what was found. Empty when clean.
    pub finding: String,
    /// Steps taken.
    pub steps: u64,
    /// Virtual time at the end, in microseconds.
    pub time_us: u64,
    /// The rolling hash of every step: equal for equal runs.
    pub hash: u64,
    /// The actors.
    pub actors: Vec<Actor>,
    /// The visible steps, in order. Empty unless a timeline was asked for.
    pub timeline: Vec<Record>,
    /// Who waits for whom at the end. Empty when clean.
    pub waits: Vec<Wait>,
}
