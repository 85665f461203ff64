//! What is done to one kernel: the steps, their order, and how long each may take.

use serde::{Deserialize, Serialize};

use crate::pairwise;

/// A device's target.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Target {
    /// Stores nothing.
    Null,
    /// Stores in memory.
    Mem,
    /// Stores in a file on the scratch disk's file system.
    Loop,
}

impl Target {
    /// The name on `blkproof add`'s command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Mem => "mem",
            Self::Loop => "loop",
        }
    }
}

/// How data gets from the kernel to the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Data {
    /// Through the tags' buffers.
    Copy,
    /// The same, with writes announced first.
    GetData,
    /// By `pread` and `pwrite` of the character device.
    UserCopy,
    /// Not at all: the backend uses the pages of the request.
    ZeroCopy,
}

impl Data {
    /// The name on `blkproof add`'s command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Copy => "copy",
            Self::GetData => "get-data",
            Self::UserCopy => "user-copy",
            Self::ZeroCopy => "zero-copy",
        }
    }
}

/// The order in which fio visits blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Order {
    /// Ascending.
    Sequential,
    /// Every block once, shuffled.
    Random,
}

/// One fio run on a fresh device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IoCase {
    /// The device's target.
    pub target: Target,
    /// Queues asked for.
    pub queues: u32,
    /// Depth asked for.
    pub depth: u32,
    /// Visiting order.
    pub order: Order,
    /// Request size in KiB.
    pub block_kib: u32,
}

impl IoCase {
    fn name(&self) -> String {
        let order = match self.order {
            Order::Sequential => "seq",
            Order::Random => "rand",
        };
        format!(
            "{}-q{}-d{}-{order}-{}k",
            self.target.name(),
            self.queues,
            self.depth,
            self.block_kib
        )
    }
}

/// Which processes are killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Victim {
    /// The process that serves.
    Worker,
    /// The process that controls.
    Supervisor,
    /// First the supervisor, then at once the worker.
    Both,
}

impl Victim {
    fn name(self) -> &'static str {
        match self {
            Self::Worker => "worker",
            Self::Supervisor => "supervisor",
            Self::Both => "both",
        }
    }
}

/// How a device gets another worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Recovery {
    /// By itself, under a load that must not notice.
    Restart,
    /// By `recover`, under such a load.
    Asked,
    /// Its supervisor is killed as well; then by `recover`.
    Both,
    /// Its requests fail meanwhile.
    FailIo,
    /// Not at all: it is deleted while it waits for one.
    Delete,
    /// By itself and by `recover`, in this data mode.
    UserCopy,
    /// The same, or copy mode where the kernel has no zero copy.
    ZeroCopy,
    /// By itself, served in batches.
    Batch,
}

impl Recovery {
    const ALL: [Self; 8] = [
        Self::Restart,
        Self::Asked,
        Self::Both,
        Self::FailIo,
        Self::Delete,
        Self::UserCopy,
        Self::ZeroCopy,
        Self::Batch,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::Restart => "restart",
            Self::Asked => "asked",
            Self::Both => "both",
            Self::FailIo => "fail-io",
            Self::Delete => "delete",
            Self::UserCopy => "user-copy",
            Self::ZeroCopy => "zero-copy",
            Self::Batch => "batch",
        }
    }
}

/// What is changed of a device in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Change {
    /// Its worker, several times in a row, under a load that must not notice.
    Handover,
    /// Its size: larger, smaller, larger.
    Resize,
    /// It is deleted, but only if nobody has it open.
    Unused,
}

impl Change {
    const ALL: [Self; 3] = [Self::Handover, Self::Resize, Self::Unused];

    fn name(self) -> &'static str {
        match self {
            Self::Handover => "handover",
            Self::Resize => "resize",
            Self::Unused => "unused",
        }
    }
}

/// A device whose processes are recorded, and how it ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordCase {
    /// The device's target.
    pub target: Target,
    /// Queues asked for.
    pub queues: u32,
    /// Depth asked for.
    pub depth: u32,
    /// How its data moves.
    pub data: Data,
    /// In batches, where the kernel has them.
    pub batch: bool,
    /// Its end.
    pub end: RecordEnd,
}

/// How a recorded device ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RecordEnd {
    /// Deleted after a short load.
    Idle,
    /// Deleted under load.
    Loaded,
    /// Its worker is killed under load.
    Killed,
    /// The worker is killed under load and another takes over; then deleted under load.
    Restarted,
    /// Handed over to another worker under load, where the kernel can; then deleted under load.
    HandedOver,
}

impl RecordCase {
    fn name(&self) -> String {
        let end = match self.end {
            RecordEnd::Idle => "idle",
            RecordEnd::Loaded => "loaded",
            RecordEnd::Killed => "killed",
            RecordEnd::Restarted => "restarted",
            RecordEnd::HandedOver => "handed-over",
        };
        let data = match self.data {
            Data::Copy => String::new(),
            data => format!("-{}", data.name()),
        };
        let batch = if self.batch { "-batch" } else { "" };
        format!("{}{data}{batch}-q{}-d{}-{end}", self.target.name(), self.queues, self.depth)
    }
}

/// A fault planted on purpose, to show that the alarm for it rings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Plant {
    /// The worker is stopped (SIGSTOP) and a client reads.
    StoppedWorker,
    /// A client writes to a frozen file system on a device whose engine is idle and sound.
    FrozenFileSystem,
    /// The canary device keeps no data, so its own check must fail.
    LyingCanary,
    /// The device's data is changed behind a verifying reader.
    ForeignWrite,
    /// A warning appears in the kernel log.
    KernelWarning,
    /// A state file stays behind.
    Leftover,
    /// The guest's runner falls silent.
    SilentGuest,
    /// The guest's kernel panics.
    Panic,
}

/// What a step does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// The control experiment: kernel devices only, no blkproof.
    Canary,
    /// The control node opens, and `blkproof features` answers.
    Features,
    /// fio on a fresh device.
    Io(IoCase),
    /// fio on a device of each target that knows this data mode.
    Data {
        /// The mode.
        data: Data,
        /// In batches, where the kernel has them.
        batch: bool,
    },
    /// Clients have their data in memory that they share with the server.
    Shared,
    /// mkfs, mount, copy, checksum, unmount, fsck.
    FileSystem(Target),
    /// Delete a device that nobody uses, for every target.
    DeleteIdle,
    /// Delete a device while fio runs on it.
    DeleteLoaded,
    /// Kill engine processes while fio runs, then delete.
    Kill(Victim),
    /// Kill workers of a device that outlives them.
    Recover(Recovery),
    /// Change a device that is in use.
    Change(Change),
    /// Add and delete again and again.
    Cycles(u32),
    /// Record what a device's processes do, and hold it against the model.
    Record(RecordCase),
    /// Nothing may be left of any device.
    Leftovers,
    /// The kernel may not have complained.
    KernelLog,
    /// A script, to be held against the model.
    Script(String),
    /// A planted fault.
    Plant(Plant),
}

/// One step on one kernel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// Unique within a plan: `scenario` or `scenario/variant`.
    pub name: String,
    /// What to do.
    pub action: Action,
    /// Longest duration under emulation on a slow host, in seconds, before the step counts as hung.
    pub deadline_s: u32,
}

impl Step {
    fn new(name: impl Into<String>, deadline_s: u32, action: Action) -> Self {
        Self { name: name.into(), action, deadline_s }
    }

    /// The scenario the step belongs to: its name up to the slash.
    pub fn scenario(&self) -> &str {
        self.name.split('/').next().unwrap_or_default()
    }
}

const TARGETS: [Target; 3] = [Target::Null, Target::Mem, Target::Loop];
const QUEUES: [u32; 2] = [1, 4];
const DEPTHS: [u32; 3] = [1, 64, 128];
const ORDERS: [Order; 2] = [Order::Sequential, Order::Random];
const BLOCKS_KIB: [u32; 4] = [4, 16, 128, 1024];

const RECORDED: [(Target, Data, u32, u32, RecordEnd); 12] = [
    (Target::Mem, Data::Copy, 2, 1, RecordEnd::Idle),
    (Target::Mem, Data::Copy, 4, 64, RecordEnd::Idle),
    (Target::Loop, Data::Copy, 2, 64, RecordEnd::Idle),
    (Target::Null, Data::Copy, 4, 64, RecordEnd::Loaded),
    (Target::Mem, Data::Copy, 4, 64, RecordEnd::Killed),
    (Target::Mem, Data::Copy, 2, 64, RecordEnd::Restarted),
    (Target::Mem, Data::Copy, 2, 16, RecordEnd::HandedOver),
    (Target::Mem, Data::GetData, 2, 16, RecordEnd::Loaded),
    (Target::Mem, Data::GetData, 2, 64, RecordEnd::Restarted),
    (Target::Mem, Data::UserCopy, 2, 16, RecordEnd::Loaded),
    (Target::Loop, Data::ZeroCopy, 2, 16, RecordEnd::Idle),
    // With more tags than requests: 6.12 notices at once that the server died.
    (Target::Loop, Data::ZeroCopy, 2, 64, RecordEnd::Restarted),
];

/// The fio runs: a pairwise cover of the factors, or with `full` their product.
pub fn io_cases(full: bool) -> Vec<IoCase> {
    let sizes = [TARGETS.len(), QUEUES.len(), DEPTHS.len(), ORDERS.len(), BLOCKS_KIB.len()];
    let rows = if full { pairwise::product(&sizes) } else { pairwise::cover(&sizes) };
    rows.into_iter()
        .map(|row| IoCase {
            target: TARGETS[row[0]],
            queues: QUEUES[row[1]],
            depth: DEPTHS[row[2]],
            order: ORDERS[row[3]],
            block_kib: BLOCKS_KIB[row[4]],
        })
        .collect()
}

/// Every step for one kernel, framed by the control experiment.
pub fn steps(full: bool) -> Vec<Step> {
    let mut steps = vec![
        Step::new("canary/before", 90, Action::Canary),
        Step::new("features", 15, Action::Features),
    ];
    for case in io_cases(full) {
        steps.push(Step::new(format!("io/{}", case.name()), 60, Action::Io(case)));
    }
    for target in [Target::Mem, Target::Loop] {
        steps.push(Step::new(
            format!("filesystem/{}", target.name()),
            90,
            Action::FileSystem(target),
        ));
    }
    for data in [Data::GetData, Data::UserCopy, Data::ZeroCopy] {
        let action = Action::Data { data, batch: false };
        steps.push(Step::new(format!("data/{}", data.name()), 60, action));
    }
    // No write is announced in a batch.
    for data in [Data::Copy, Data::UserCopy, Data::ZeroCopy] {
        let action = Action::Data { data, batch: true };
        steps.push(Step::new(format!("data/{}-batch", data.name()), 60, action));
    }
    steps.push(Step::new("data/shared", 120, Action::Shared));
    steps.push(Step::new("delete/idle", 45, Action::DeleteIdle));
    steps.push(Step::new("delete/loaded", 45, Action::DeleteLoaded));
    for victim in [Victim::Worker, Victim::Supervisor, Victim::Both] {
        // 6.12 notices a server that died with all its tags in hand only when the 30 s request timer fires.
        steps.push(Step::new(format!("kill/{}", victim.name()), 90, Action::Kill(victim)));
    }
    for what in Recovery::ALL {
        // Here too 6.12 may take its time to notice.
        steps.push(Step::new(format!("recover/{}", what.name()), 120, Action::Recover(what)));
    }
    for what in Change::ALL {
        steps.push(Step::new(format!("change/{}", what.name()), 120, Action::Change(what)));
    }
    for (target, data, queues, depth, end) in RECORDED {
        let case = RecordCase { target, queues, depth, data, batch: false, end };
        steps.push(Step::new(format!("record/{}", case.name()), 90, Action::Record(case)));
    }
    for end in [RecordEnd::Idle, RecordEnd::Loaded, RecordEnd::Restarted] {
        let (target, data) = (Target::Mem, Data::Copy);
        let case = RecordCase { target, queues: 2, depth: 16, data, batch: true, end };
        steps.push(Step::new(format!("record/{}", case.name()), 90, Action::Record(case)));
    }
    steps.push(Step::new("cycles/50", 180, Action::Cycles(50)));
    steps.push(Step::new("leftovers", 30, Action::Leftovers));
    steps.push(Step::new("kernel-log", 10, Action::KernelLog));
    steps.push(Step::new("canary/after", 90, Action::Canary));
    steps
}

/// Scenarios that frame every selection: without them no verdict could be given.
const FRAME: [&str; 2] = ["canary", "kernel-log"];

/// Keeps the steps whose scenario or full name was asked for, and the frame around them. An empty selection keeps all.
/// The error names what matched nothing.
pub fn select(steps: Vec<Step>, only: &[String]) -> Result<Vec<Step>, String> {
    if only.is_empty() {
        return Ok(steps);
    }
    let matches = |step: &Step, wanted: &String| step.scenario() == wanted || step.name == *wanted;
    if let Some(unknown) = only.iter().find(|wanted| !steps.iter().any(|s| matches(s, wanted))) {
        return Err(unknown.clone());
    }
    Ok(steps
        .into_iter()
        .filter(|s| FRAME.contains(&s.scenario()) || only.iter().any(|wanted| matches(s, wanted)))
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_plan() {
        let text: Vec<String> =
            steps(false).iter().map(|s| format!("{:<34}{:>4} s", s.name, s.deadline_s)).collect();
        insta::assert_snapshot!(text.join("\n"));
    }

    #[test]
    fn names_are_unique() {
        for full in [false, true] {
            let steps = steps(full);
            let names: std::collections::BTreeSet<_> = steps.iter().map(|s| &s.name).collect();
            assert_eq!(names.len(), steps.len());
        }
    }

    #[test]
    fn the_full_plan_is_the_product() {
        assert_eq!(io_cases(true).len(), 3 * 2 * 3 * 2 * 4);
    }

    #[test]
    fn every_target_meets_every_depth_by_default() {
        let cases = io_cases(false);
        for target in TARGETS {
            for depth in DEPTHS {
                assert!(cases.iter().any(|c| c.target == target && c.depth == depth));
            }
        }
    }

    #[test]
    fn a_selection_keeps_its_frame() {
        let chosen = select(steps(false), &["kill".into()]).expect("known");
        let names: Vec<&str> = chosen.iter().map(|s| s.name.as_str()).collect();
        assert_eq!(
            names,
            [
                "canary/before",
                "kill/worker",
                "kill/supervisor",
                "kill/both",
                "kernel-log",
                "canary/after"
            ]
        );
        assert_eq!(select(steps(false), &["nonsense".into()]), Err("nonsense".into()));
    }
}
