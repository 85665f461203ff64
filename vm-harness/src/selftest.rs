//! Planted faults: what each must be called. A harness whose alarms were never heard proves nothing by silence.

use crate::plan::{Action, Plant, Step};
use crate::verdict::Verdict;

/// Steps for one guest after another, and what must come of the planted ones.
#[derive(Debug, Clone)]
pub struct Case {
    /// The steps.
    pub steps: Vec<Step>,
    /// The verdict that each named step must get.
    pub expected: Vec<(String, Verdict)>,
}

/// Every planted fault.
pub fn cases() -> Vec<Case> {
    let hang = 10;
    vec![
        case(
            true,
            &[
                ("foreign-write", 60, Action::Plant(Plant::ForeignWrite), Verdict::Fail),
                ("leftover", 30, Action::Plant(Plant::Leftover), Verdict::Fail),
                ("kernel-warning", 10, Action::Plant(Plant::KernelWarning), Verdict::Pass),
                ("kernel-log", 10, Action::KernelLog, Verdict::Fail),
                ("stopped-worker", hang, Action::Plant(Plant::StoppedWorker), Verdict::HangEngine),
            ],
        ),
        case(
            true,
            &[(
                "frozen-file-system",
                hang,
                Action::Plant(Plant::FrozenFileSystem),
                Verdict::HangKernel,
            )],
        ),
        case(
            false,
            &[("lying-canary", 60, Action::Plant(Plant::LyingCanary), Verdict::Environment)],
        ),
        case(
            false,
            &[("silent-guest", hang, Action::Plant(Plant::SilentGuest), Verdict::Environment)],
        ),
        case(false, &[("panic", hang, Action::Plant(Plant::Panic), Verdict::HangKernel)]),
    ]
}

fn case(with_canary: bool, plants: &[(&str, u32, Action, Verdict)]) -> Case {
    let mut steps = Vec::new();
    if with_canary {
        steps.push(Step { name: "canary/before".into(), action: Action::Canary, deadline_s: 90 });
    }
    let mut expected = Vec::new();
    for (name, deadline_s, action, verdict) in plants {
        let name = format!("plant/{name}");
        steps.push(Step { name: name.clone(), action: action.clone(), deadline_s: *deadline_s });
        expected.push((name, *verdict));
    }
    Case { steps, expected }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_alarm_is_rung_by_some_plant() {
        let verdicts: BTreeSet<Verdict> =
            cases().iter().flat_map(|c| c.expected.iter().map(|(_, v)| *v)).collect();
        for verdict in
            [Verdict::Fail, Verdict::HangEngine, Verdict::HangKernel, Verdict::Environment]
        {
            assert!(verdicts.contains(&verdict), "{verdict:?}");
        }
    }
}
