//! Processes and tasks of the guest, from `/proc`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::thread;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::facts::{DeviceFacts, Role, TaskFacts};

/// The fields of `/proc/…/stat` that are used here.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Stat {
    comm: String,
    state: char,
    parent: i32,
    ticks: u64,
}

impl Stat {
    fn parse(text: &str) -> Option<Self> {
        // The name is in parentheses and may itself contain them.
        let (head, rest) = text.rsplit_once(") ")?;
        let comm = head.split_once('(')?.1.to_owned();
        let fields: Vec<&str> = rest.split_whitespace().collect();
        Some(Self {
            comm,
            state: fields.first()?.chars().next()?,
            parent: fields.get(1)?.parse().ok()?,
            ticks: fields.get(11)?.parse::<u64>().ok()? + fields.get(12)?.parse::<u64>().ok()?,
        })
    }

    fn of(path: &Path) -> Option<Self> {
        Self::parse(&fs::read_to_string(path.join("stat")).ok()?)
    }
}

fn numbers(dir: &Path) -> Vec<i32> {
    fs::read_dir(dir)
        .map(|entries| {
            entries.flatten().filter_map(|e| e.file_name().to_string_lossy().parse().ok()).collect()
        })
        .unwrap_or_default()
}

/// Is the process alive, and not merely waiting to be reaped?
pub(super) fn is_alive(pid: i32) -> bool {
    Stat::of(Path::new(&format!("/proc/{pid}"))).is_some_and(|s| !matches!(s.state, 'Z' | 'X'))
}

/// Are all threads of the process stopped? A signal takes its time to reach them.
pub(super) fn is_stopped(pid: i32) -> bool {
    let dir = format!("/proc/{pid}/task");
    numbers(Path::new(&dir))
        .into_iter()
        .filter_map(|tid| Stat::of(Path::new(&format!("{dir}/{tid}"))))
        .all(|stat| matches!(stat.state, 'T' | 't'))
}

/// Living processes whose program has this name.
pub(super) fn processes_of(program: &str) -> Vec<i32> {
    numbers(Path::new("/proc"))
        .into_iter()
        .filter(|&pid| is_alive(pid) && executable(pid).is_some_and(|name| name == program))
        .collect()
}

fn executable(pid: i32) -> Option<String> {
    let target = fs::read_link(format!("/proc/{pid}/exe")).ok()?;
    let name = target.file_name()?.to_string_lossy().into_owned();
    Some(name.trim_end_matches(" (deleted)").to_owned())
}

/// Sends a signal. A process that is gone already is no error.
pub(super) fn signal(pid: i32, signal: Signal) {
    if let Some(pid) = Pid::from_raw(pid) {
        let _ = kill_process(pid, signal);
    }
}

/// Every task that can bear on a hang: the engine's, the clients', and all that are blocked. Takes a second, to see who uses the CPU.
pub(super) fn tasks(devices: &[DeviceFacts]) -> Vec<TaskFacts> {
    let before = ticks();
    thread::sleep(Duration::from_secs(1));
    let me = i32::try_from(std::process::id()).unwrap_or_default();
    let parents: BTreeMap<i32, i32> = numbers(Path::new("/proc"))
        .into_iter()
        .filter_map(|pid| Some((pid, Stat::of(Path::new(&format!("/proc/{pid}")))?.parent)))
        .collect();
    let clients = descendants(me, &parents);
    let mut found = Vec::new();
    for (&pid, &parent) in &parents {
        let program = executable(pid);
        let role = if devices.iter().any(|d| d.worker_pid == Some(pid)) {
            Role::Worker
        } else if devices.iter().any(|d| d.supervisor_pid == Some(pid)) {
            Role::Supervisor
        } else if program.as_deref() == Some("blkproof") {
            Role::Command
        } else if clients.contains(&pid) || pid == me {
            Role::Client
        } else if pid == 2 || parent == 2 {
            Role::Kernel
        } else {
            Role::Other
        };
        for tid in numbers(Path::new(&format!("/proc/{pid}/task"))) {
            let Some(mut task) = task(pid, tid, role) else {
                continue;
            };
            task.recent_ticks = task
                .recent_ticks
                .saturating_sub(before.get(&tid).copied().unwrap_or(task.recent_ticks));
            let own_idle_thread = pid == me && task.state != 'D';
            let engine_or_client = !matches!(role, Role::Kernel | Role::Other);
            if !own_idle_thread && (engine_or_client || task.state == 'D') {
                found.push(task);
            }
        }
    }
    found
}

fn ticks() -> BTreeMap<i32, u64> {
    let mut ticks = BTreeMap::new();
    for pid in numbers(Path::new("/proc")) {
        let dir = format!("/proc/{pid}/task");
        for tid in numbers(Path::new(&dir)) {
            if let Some(stat) = Stat::of(Path::new(&format!("{dir}/{tid}"))) {
                ticks.insert(tid, stat.ticks);
            }
        }
    }
    ticks
}

/// One task; its total ticks are in `recent_ticks` until the caller subtracts the earlier count.
fn task(pid: i32, tid: i32, role: Role) -> Option<TaskFacts> {
    let dir = format!("/proc/{pid}/task/{tid}");
    let stat = Stat::of(Path::new(&dir))?;
    let read = |name: &str| fs::read_to_string(format!("{dir}/{name}")).unwrap_or_default();
    // io-wq workers belong to a process of the engine, but run in the kernel only.
    let role = if stat.comm.starts_with("iou-") { Role::Kernel } else { role };
    Some(TaskFacts {
        pid,
        tid,
        role,
        comm: stat.comm,
        state: stat.state,
        syscall: read("syscall").split_whitespace().next().and_then(|n| n.parse().ok()),
        wchan: read("wchan").trim().to_owned(),
        recent_ticks: stat.ticks,
        stack: read("stack")
            .lines()
            .map(|l| l.split_once("] ").map_or(l, |(_, f)| f).trim().to_owned())
            .collect(),
    })
}

fn descendants(root: i32, parents: &BTreeMap<i32, i32>) -> BTreeSet<i32> {
    let mut found = BTreeSet::new();
    let mut grew = true;
    while grew {
        grew = false;
        for (&pid, &parent) in parents {
            if (parent == root || found.contains(&parent)) && found.insert(pid) {
                grew = true;
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stat_lines_with_odd_names_are_read() {
        let line = "71 (a) b (c)) D 1 71 71 0 -1 4194560 1 0 0 0 7 5 0 0 20 0 1 0 99 0";
        assert_eq!(
            Stat::parse(line),
            Some(Stat { comm: "a) b (c)".into(), state: 'D', parent: 1, ticks: 12 })
        );
    }

    #[test]
    fn this_process_is_alive_and_its_tasks_are_seen() {
        let me = i32::try_from(std::process::id()).expect("a pid");
        assert!(is_alive(me));
        assert!(!is_alive(0));
        assert!(task(me, me, Role::Client).is_some());
    }

    #[test]
    fn descendants_of_descendants_count() {
        let parents = BTreeMap::from([(2, 1), (3, 2), (4, 3), (9, 8)]);
        assert_eq!(descendants(2, &parents), BTreeSet::from([3, 4]));
    }
}
