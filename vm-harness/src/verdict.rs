//! Who owes what: a hang is judged from collected facts by a pure function, and so is a whole run.

use serde::{Deserialize, Serialize};

use crate::facts::{DeviceFacts, HangFacts, Role, TaskFacts};
use crate::protocol::{Outcome, StepRecord};

/// `io_uring_enter`, the one call a serving thread may sleep in.
const IO_URING_ENTER: i64 = 426;

/// Who has to move for the hang to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Owner {
    /// blkproof.
    Engine,
    /// The kernel under test.
    Kernel,
    /// The control experiment failed too, or the guest as a whole stood still.
    Environment,
}

/// The judgement on a hang.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Judgement {
    /// Who owes.
    pub owner: Owner,
    /// The facts it rests on, the decisive one first.
    pub because: Vec<String>,
}

impl Judgement {
    fn new(owner: Owner, because: impl Into<String>) -> Self {
        Self { owner, because: vec![because.into()] }
    }

    fn and(mut self, more: impl IntoIterator<Item = String>) -> Self {
        self.because.extend(more);
        self
    }
}

impl std::fmt::Display for Judgement {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let owner = match self.owner {
            Owner::Engine => "engine owes",
            Owner::Kernel => "kernel owes",
            Owner::Environment => "environment",
        };
        write!(f, "{owner}: {}", self.because.first().map_or("", String::as_str))
    }
}

/// Judges a hang. The rules are tried in order; the first that applies decides.
///
/// 1. The control experiment failed → environment. Nothing measured beside it can be blamed on anybody.
/// 2. The whole guest is silent → kernel, if its console shows that the kernel itself stopped; else environment.
/// 3. An engine process is stopped → engine.
/// 4. A live device has fewer threads in `io_uring_enter` than queues → engine: a serving thread sleeps, spins or died elsewhere.
/// 5. A machine of the engine says that the engine owes something → engine.
/// 6. A task is blocked in the kernel → kernel: every engine machine waits for somebody else.
/// 7. Otherwise → engine: nothing in the kernel is blocked, so what is missing is missing in user space.
pub fn judge(facts: &HangFacts) -> Judgement {
    if facts.canary_before == Some(false) {
        return Judgement::new(
            Owner::Environment,
            "the control experiment had failed before the step",
        );
    }
    if let Some(canary) = facts.canary_now.as_ref().filter(|c| !c.passed) {
        return Judgement::new(
            Owner::Environment,
            format!(
                "the control experiment, repeated during the hang, failed too: {}",
                canary.detail
            ),
        );
    }
    if facts.guest_silent {
        return judge_silence(facts);
    }
    let engine = |t: &&TaskFacts| matches!(t.role, Role::Worker | Role::Supervisor | Role::Command);
    if let Some(task) = facts.tasks.iter().filter(engine).find(|t| matches!(t.state, 'T' | 't')) {
        return Judgement::new(Owner::Engine, task.place()).and(blocked(facts));
    }
    if let Some(reason) = facts.devices.iter().find_map(|d| missing_server(d, facts)) {
        return Judgement::new(Owner::Engine, reason).and(blocked(facts));
    }
    if let Some(reason) = facts.devices.iter().find_map(engine_debt) {
        return Judgement::new(Owner::Engine, reason).and(blocked(facts));
    }
    let mut stuck = blocked(facts);
    if stuck.is_empty() {
        Judgement::new(
            Owner::Engine,
            format!(
                "{} did not come, the control experiment passes, and no task is blocked in the kernel",
                facts.waiting_for
            ),
        )
        .and(silent_engine(facts))
    } else {
        let first = stuck.remove(0);
        Judgement::new(
            Owner::Kernel,
            format!("{first}, and no machine of the engine owes anything"),
        )
        .and(stuck)
        .and(silent_engine(facts))
    }
}

fn judge_silence(facts: &HangFacts) -> Judgement {
    use crate::kmsg::{Complaint, classify};
    let complaint = facts
        .console
        .iter()
        .find(|line| matches!(classify(line), Some(Complaint::Fault | Complaint::BlockedTask)));
    match complaint {
        Some(line) => Judgement::new(
            Owner::Kernel,
            format!("the guest stopped answering, and its console says: {line}"),
        ),
        None => Judgement::new(
            Owner::Environment,
            "the guest stopped answering and its console gives no reason: the emulator or the host starved it",
        ),
    }
}

fn blocked(facts: &HangFacts) -> Vec<String> {
    facts.tasks.iter().filter(|t| t.state == 'D').map(TaskFacts::place).collect()
}

fn missing_server(device: &DeviceFacts, facts: &HangFacts) -> Option<String> {
    let worker = device.worker_pid.filter(|_| device.state == "LIVE")?;
    let threads: Vec<&TaskFacts> = facts
        .tasks
        .iter()
        .filter(|t| t.pid == worker && t.role == Role::Worker && !matches!(t.state, 'Z' | 'X'))
        .collect();
    if threads.is_empty() {
        // The process is gone and the kernel has not let go of the device: not the engine's to mend.
        return None;
    }
    let serving = threads.iter().filter(|t| t.syscall == Some(IO_URING_ENTER)).count();
    if serving >= device.queues {
        return None;
    }
    let elsewhere: Vec<String> =
        threads.iter().filter(|t| t.syscall != Some(IO_URING_ENTER)).map(|t| t.place()).collect();
    Some(format!(
        "device {} has {} queues and {serving} threads in io_uring_enter; {}",
        device.id,
        device.queues,
        elsewhere.join(", ")
    ))
}

fn engine_debt(device: &DeviceFacts) -> Option<String> {
    device.machines.iter().find_map(|machine| {
        let debt = machine.pending.iter().find(|p| p.owner == "engine")?;
        Some(format!(
            "device {}: {} waits for {}, which the engine owes",
            device.id,
            machine.name,
            plain(&debt.waits_for)
        ))
    })
}

fn silent_engine(facts: &HangFacts) -> Vec<String> {
    let list = facts.list_error.iter().map(|e| format!("blkproof list gave no answer: {e}"));
    let dumps = facts.devices.iter().filter_map(|d| {
        let error = d.dump_error.as_ref()?;
        Some(format!("blkproof dump {} gave no answer: {error}", d.id))
    });
    list.chain(dumps).collect()
}

fn plain(value: &serde_json::Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// The verdict on one kernel, or on a whole run. Ordered from best to worst.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Everything that was run passed.
    Pass,
    /// The kernel could not be had.
    KernelUnavailable,
    /// The environment is broken: the control experiment failed, or the harness could not work.
    Environment,
    /// A hang that the kernel owes.
    HangKernel,
    /// An assertion failed.
    Fail,
    /// A hang that the engine owes.
    HangEngine,
}

impl Verdict {
    /// The process exit code. 2 is bad usage and 7 is missing programs.
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Pass => 0,
            Self::Fail => 1,
            Self::HangEngine => 3,
            Self::HangKernel => 4,
            Self::Environment => 5,
            Self::KernelUnavailable => 6,
        }
    }

    /// A word or two for people.
    pub fn text(self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::Fail => "FAIL",
            Self::HangEngine => "HANG, engine owes",
            Self::HangKernel => "HANG, kernel owes",
            Self::Environment => "ENVIRONMENT broken",
            Self::KernelUnavailable => "kernel not available",
        }
    }
}

/// The verdict on one step.
pub fn of_step(step: &StepRecord) -> Verdict {
    match step.outcome {
        Outcome::Passed | Outcome::Skipped => Verdict::Pass,
        Outcome::Failed => Verdict::Fail,
        Outcome::Environment => Verdict::Environment,
        Outcome::Hung => match step.judgement.as_ref().map(|j| j.owner) {
            Some(Owner::Engine) | None => Verdict::HangEngine,
            Some(Owner::Kernel) => Verdict::HangKernel,
            Some(Owner::Environment) => Verdict::Environment,
        },
    }
}

/// The verdict on one kernel. A failed control experiment takes the weight from everything else: then nothing can be blamed on the engine.
pub fn of_steps(steps: &[StepRecord]) -> Verdict {
    let verdicts = || steps.iter().map(of_step);
    if verdicts().any(|v| v == Verdict::Environment) {
        return Verdict::Environment;
    }
    verdicts().max().unwrap_or(Verdict::Pass)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::facts::{CanaryResult, MachineFacts, Pending};

    fn task(pid: i32, tid: i32, role: Role, state: char, syscall: Option<i64>) -> TaskFacts {
        TaskFacts {
            pid,
            tid,
            comm: format!("t{tid}"),
            role,
            state,
            syscall,
            wchan: "somewhere".into(),
            recent_ticks: 0,
            stack: vec!["schedule+0x1/0x2".into(), "blk_mq_get_tag+0x10/0x20".into()],
        }
    }

    fn server(tid: i32) -> TaskFacts {
        task(100, tid, Role::Worker, 'S', Some(IO_URING_ENTER))
    }

    /// A sound device with two queues, a client that waits, and a control experiment that passes.
    fn sound() -> HangFacts {
        HangFacts {
            waiting_for: "fio".into(),
            canary_before: Some(true),
            canary_now: Some(CanaryResult { passed: true, detail: "ok".into() }),
            devices: vec![DeviceFacts {
                id: 0,
                state: "LIVE".into(),
                queues: 2,
                worker_pid: Some(100),
                supervisor_pid: Some(99),
                machines: vec![MachineFacts {
                    name: "queue 0".into(),
                    pending: vec![Pending {
                        waits_for: "a request".into(),
                        owner: "kernel".into(),
                    }],
                    ..Default::default()
                }],
                dump_error: None,
            }],
            tasks: vec![task(100, 100, Role::Worker, 'S', Some(0)), server(101), server(102)],
            ..Default::default()
        }
    }

    fn client_blocked() -> TaskFacts {
        task(200, 200, Role::Client, 'D', Some(0))
    }

    #[test]
    fn a_failed_canary_outweighs_everything() {
        let mut facts = sound();
        facts.tasks.push(task(100, 103, Role::Worker, 'T', None));
        facts.canary_before = Some(false);
        assert_eq!(judge(&facts).owner, Owner::Environment);
        facts.canary_before = Some(true);
        facts.canary_now =
            Some(CanaryResult { passed: false, detail: "fio: no end within 30 s".into() });
        let judgement = judge(&facts);
        assert_eq!(judgement.owner, Owner::Environment);
        assert!(judgement.because[0].contains("no end within 30 s"));
    }

    #[test]
    fn a_stopped_worker_is_the_engines() {
        let mut facts = sound();
        facts.tasks[1].state = 'T';
        facts.tasks.push(client_blocked());
        let judgement = judge(&facts);
        assert_eq!(judgement.owner, Owner::Engine);
        assert_eq!(judgement.because[0], "worker thread t101 (101) is stopped");
        assert_eq!(judgement.because[1], "client t200 (200) is blocked in blk_mq_get_tag");
    }

    #[test]
    fn a_serving_thread_outside_the_ring_is_the_engines() {
        let mut facts = sound();
        facts.tasks[2].syscall = Some(202);
        facts.tasks.push(client_blocked());
        let judgement = judge(&facts);
        assert_eq!(judgement.owner, Owner::Engine);
        assert!(
            judgement.because[0].contains("2 queues and 1 threads in io_uring_enter"),
            "{judgement}"
        );
    }

    #[test]
    fn a_spinning_thread_is_the_engines() {
        let mut facts = sound();
        facts.tasks[2].syscall = None;
        facts.tasks[2].state = 'R';
        assert_eq!(judge(&facts).owner, Owner::Engine);
    }

    #[test]
    fn a_lost_thread_is_the_engines() {
        let mut facts = sound();
        facts.tasks.remove(2);
        assert_eq!(judge(&facts).owner, Owner::Engine);
    }

    #[test]
    fn an_admitted_debt_is_the_engines() {
        let mut facts = sound();
        facts.devices[0].machines[0].pending[0].owner = "engine".into();
        facts.tasks.push(client_blocked());
        let judgement = judge(&facts);
        assert_eq!(judgement.owner, Owner::Engine);
        assert_eq!(
            judgement.because[0],
            "device 0: queue 0 waits for a request, which the engine owes"
        );
    }

    #[test]
    fn a_blocked_task_beside_a_sound_engine_is_the_kernels() {
        let mut facts = sound();
        facts.tasks.push(client_blocked());
        let judgement = judge(&facts);
        assert_eq!(judgement.owner, Owner::Kernel);
        assert!(judgement.because[0].starts_with("client t200 (200) is blocked in blk_mq_get_tag"));
    }

    #[test]
    fn a_device_that_outlives_its_killed_worker_is_the_kernels() {
        let mut facts = sound();
        facts.tasks = vec![task(300, 300, Role::Command, 'D', Some(IO_URING_ENTER))];
        assert_eq!(judge(&facts).owner, Owner::Kernel);
    }

    #[test]
    fn nothing_blocked_means_user_space_forgot() {
        let judgement = judge(&sound());
        assert_eq!(judgement.owner, Owner::Engine);
        assert!(judgement.because[0].contains("no task is blocked in the kernel"));
    }

    #[test]
    fn a_silent_guest_is_the_kernels_only_if_its_console_says_so() {
        let mut facts = sound();
        facts.guest_silent = true;
        assert_eq!(judge(&facts).owner, Owner::Environment);
        facts.console = vec!["Kernel panic - not syncing: Fatal exception".into()];
        assert_eq!(judge(&facts).owner, Owner::Kernel);
        facts.console = vec!["watchdog: BUG: soft lockup - CPU#1 stuck".into()];
        assert_eq!(
            judge(&facts).owner,
            Owner::Environment,
            "under emulation a lock-up is starvation"
        );
    }

    #[test]
    fn the_worst_step_decides_unless_the_environment_is_broken() {
        use Outcome::{Environment, Failed, Hung, Passed, Skipped};
        let step = |outcome, owner: Option<Owner>| StepRecord {
            judgement: owner.map(|owner| Judgement::new(owner, "test")),
            ..StepRecord::new("x", outcome, 0.0, "")
        };
        let table = [
            (vec![], Verdict::Pass, 0),
            (vec![step(Passed, None), step(Skipped, None)], Verdict::Pass, 0),
            (vec![step(Passed, None), step(Failed, None)], Verdict::Fail, 1),
            (vec![step(Failed, None), step(Hung, Some(Owner::Engine))], Verdict::HangEngine, 3),
            (vec![step(Hung, Some(Owner::Kernel))], Verdict::HangKernel, 4),
            (vec![step(Failed, None), step(Hung, Some(Owner::Kernel))], Verdict::Fail, 1),
            (vec![step(Failed, None), step(Environment, None)], Verdict::Environment, 5),
            (
                vec![step(Hung, Some(Owner::Environment)), step(Hung, Some(Owner::Engine))],
                Verdict::Environment,
                5,
            ),
        ];
        for (steps, verdict, code) in table {
            assert_eq!(of_steps(&steps), verdict);
            assert_eq!(verdict.exit_code(), code);
        }
    }
}
