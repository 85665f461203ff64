//! Evidence, collected while a step hangs. Everything that asks the engine or the kernel is given up after a while: it may hang too.

use std::time::Duration;

use super::blkproof;
use super::canary;
use super::kmsg::KernelLog;
use super::proc;
use super::program::bounded;
use crate::facts::{CanaryResult, DeviceFacts, HangFacts};

const ANSWER: Duration = Duration::from_secs(10);
const CANARY: Duration = Duration::from_secs(45);

/// Looks at everything that can tell who owes what.
pub(super) fn collect(
    waiting_for: String,
    canary_before: Option<bool>,
    messages: Vec<String>,
    log: &mut KernelLog,
) -> HangFacts {
    let mut facts =
        HangFacts { waiting_for, canary_before, kernel_log: messages, ..HangFacts::default() };
    match bounded(ANSWER, blkproof::list) {
        Some(Ok(devices)) => {
            facts.devices = devices
                .into_iter()
                .map(|d| DeviceFacts {
                    id: d.id,
                    state: d.state,
                    queues: d.queues as usize,
                    worker_pid: d.worker_pid,
                    supervisor_pid: d.supervisor_pid,
                    machines: Vec::new(),
                    dump_error: None,
                })
                .collect();
        }
        Some(Err(trouble)) => facts.list_error = Some(trouble.detail().to_owned()),
        None => facts.list_error = Some(format!("none within {} s", ANSWER.as_secs())),
    }
    for device in &mut facts.devices {
        let id = device.id;
        match bounded(ANSWER, move || blkproof::dump(id)) {
            Some(Ok(machines)) => device.machines = machines,
            Some(Err(trouble)) => device.dump_error = Some(trouble.detail().to_owned()),
            None => device.dump_error = Some(format!("none within {} s", ANSWER.as_secs())),
        }
    }
    facts.tasks = proc::tasks(&facts.devices);
    facts.kernel_log.extend(log.with_blocked_tasks());
    facts.kernel_log.truncate(400);
    facts.canary_now = Some(match bounded(CANARY, canary::run) {
        Some(Ok(detail)) => CanaryResult { passed: true, detail },
        Some(Err(trouble)) => CanaryResult { passed: false, detail: trouble.detail().to_owned() },
        None => {
            CanaryResult { passed: false, detail: format!("no end within {} s", CANARY.as_secs()) }
        }
    });
    facts
}
