//! What is known about a hang: collected in the guest, judged by [`crate::verdict`], kept in the report.

use serde::{Deserialize, Serialize};

/// Everything known when a step did not end in time.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct HangFacts {
    /// What the step was waiting for.
    pub waiting_for: String,
    /// Did the control experiment pass before the step? `None`: it was not run.
    pub canary_before: Option<bool>,
    /// The control experiment, repeated during the hang. `None`: it could not be run.
    pub canary_now: Option<CanaryResult>,
    /// blkproof's devices.
    pub devices: Vec<DeviceFacts>,
    /// Why `blkproof list` gave no answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub list_error: Option<String>,
    /// Tasks of the engine, of the step's clients, and every blocked task.
    pub tasks: Vec<TaskFacts>,
    /// Kernel messages since the step began, and the kernel's own list of blocked tasks.
    pub kernel_log: Vec<String>,
    /// The guest itself did not answer any more: set by the host.
    #[serde(default)]
    pub guest_silent: bool,
    /// Last lines of the console, when the guest was silent.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub console: Vec<String>,
}

/// One run of the control experiment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CanaryResult {
    /// Did the kernel's own devices behave?
    pub passed: bool,
    /// What was found.
    pub detail: String,
}

/// One device, as the engine reports it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceFacts {
    /// The device number.
    pub id: u32,
    /// LIVE, DEAD, …
    pub state: String,
    /// Serving threads it must have.
    pub queues: usize,
    /// The serving process.
    pub worker_pid: Option<i32>,
    /// The controlling process.
    pub supervisor_pid: Option<i32>,
    /// The engine's machines.
    pub machines: Vec<MachineFacts>,
    /// Why `blkproof dump` gave no answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dump_error: Option<String>,
}

/// One state machine of the engine.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MachineFacts {
    /// Which machine.
    pub name: String,
    /// Its state.
    #[serde(default)]
    pub state: serde_json::Value,
    /// What it waits for.
    #[serde(default)]
    pub pending: Vec<Pending>,
}

/// One thing that a machine waits for.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pending {
    /// What.
    #[serde(default)]
    pub waits_for: serde_json::Value,
    /// Who owes it.
    #[serde(default)]
    pub owner: String,
}

/// What a task is to the test.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// A thread of the serving process.
    Worker,
    /// A thread of the controlling process.
    Supervisor,
    /// Another blkproof process, such as a running `blkproof del`.
    Command,
    /// A program of the step: fio, mkfs, the runner itself.
    Client,
    /// A thread of the kernel, io-wq workers included.
    Kernel,
    /// Anything else.
    Other,
}

/// One task, from `/proc/PID/task/TID`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskFacts {
    /// Process.
    pub pid: i32,
    /// Thread.
    pub tid: i32,
    /// Its name.
    pub comm: String,
    /// What it is to the test.
    pub role: Role,
    /// Scheduler state letter: R, S, D, T, t, Z, I …
    pub state: char,
    /// Number of the system call it is in. `None`: running, or unknown.
    pub syscall: Option<i64>,
    /// The kernel function it waits in.
    pub wchan: String,
    /// CPU ticks it used in the second before this was written.
    pub recent_ticks: u64,
    /// Kernel stack, innermost first.
    pub stack: Vec<String>,
}

impl TaskFacts {
    /// One phrase on what the task is and where it stands.
    pub fn place(&self) -> String {
        let whom = format!("{} {} ({})", role_name(self.role), self.comm, self.tid);
        let frame = self
            .stack
            .iter()
            .map(|f| f.split(['+', ' ']).next().unwrap_or(f))
            .find(|f| !f.contains("schedule"))
            .unwrap_or(&self.wchan);
        match self.state {
            'D' => format!("{whom} is blocked in {frame}"),
            'T' | 't' => format!("{whom} is stopped"),
            'R' => format!("{whom} is running"),
            _ => format!("{whom} sleeps in {frame}"),
        }
    }
}

fn role_name(role: Role) -> &'static str {
    match role {
        Role::Worker => "worker thread",
        Role::Supervisor => "supervisor thread",
        Role::Command => "blkproof command",
        Role::Client => "client",
        Role::Kernel => "kernel thread",
        Role::Other => "task",
    }
}
