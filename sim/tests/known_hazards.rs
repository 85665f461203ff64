//! What no server can avoid on a kernel is counted by name, and nothing else is.

use std::sync::atomic::AtomicBool;

use blkproof_engine::supervisor::Recovery;
use blkproof_engine::uapi::KernelSeries;
use blkproof_sim::config::{Config, Faults};
use blkproof_sim::drivers::Random;
use blkproof_sim::hazards::Hazard;
use blkproof_sim::hunt::{Bag, Extent, Hunt, hunt};
use blkproof_sim::outcome::{Outcome, Record};
use blkproof_sim::run::run;

const KILLS: Faults = Faults { kill: 12, ..Faults::NONE };
const RIVALS: Faults = Faults { rival: 12, ..Faults::NONE };

fn engine(kernel: KernelSeries, recovery: Recovery, faults: Faults) -> Config {
    Config { kernel, recovery, faults, timeline: true, ..Config::engine() }
}

/// What happens to a device on its way up, or to its server.
fn started_too_late() -> [(Hazard, Config); 3] {
    [
        (Hazard::H07, engine(KernelSeries::V6_12, Recovery::None, KILLS)),
        (Hazard::H67, engine(KernelSeries::V6_12, Recovery::Reissue, KILLS)),
        (Hazard::H26, engine(KernelSeries::V6_18, Recovery::None, RIVALS)),
    ]
}

/// Workers that are killed now and then, and replaced.
fn replaced() -> Config {
    let kills = Faults { kill: 3, ..Faults::NONE };
    let config = engine(KernelSeries::V6_18, Recovery::Requeue, kills);
    Config { restart: true, requests: 24, queues: 4, depth: 4, ..config }
}

fn bag(config: Config, known_hazards: bool) -> Bag {
    let what = Hunt { known_hazards, keep_going: true, ..Hunt::new(config, Extent::Seeds(2_000)) };
    hunt(&what, &AtomicBool::new(false), &|_| {})
}

/// The first run that meets it, with its story.
fn meets(hazard: Hazard, config: &Config) -> Outcome {
    let mut outcomes = (0..2_000).map(|seed| run(config, &mut Random::new(seed)));
    let met = outcomes.find(|outcome| Hazard::told(config, outcome) == Some(hazard));
    met.unwrap_or_else(|| panic!("no schedule meets {hazard}"))
}

#[test]
fn each_is_counted_and_is_no_finding() {
    for (hazard, config) in started_too_late().into_iter().chain([(Hazard::H70, replaced())]) {
        let (plain, apart) = (bag(config.clone(), false), bag(config, true));
        assert!(plain.hazards.is_empty() && plain.found > 0);
        let counted: u64 = apart.hazards.values().sum();
        assert!(apart.hazards[&hazard] > 0, "{hazard}: {:?}", apart.hazards);
        assert_eq!(apart.found + counted, plain.found, "nothing is counted twice, or lost");
        let kinds: Vec<_> = apart.findings.iter().map(|one| &one.outcome.oracle).collect();
        println!("{hazard}: {:?} of {}, besides {kinds:?}", apart.hazards, apart.schedules);
    }
}

/// Puts a step of the supervisor before its START_DEV.
fn told_before(outcome: &Outcome, text: &str) -> Outcome {
    let mut outcome = outcome.clone();
    let supervisor = outcome.actors.iter().position(|one| one.name == "supervisor");
    let start = |record: &Record| record.text.starts_with("submits START_DEV");
    let at = outcome.timeline.iter().position(start).expect("a device is started");
    let record = Record {
        actor: supervisor.expect("a supervisor"),
        text: text.to_owned(),
        ..outcome.timeline[at].clone()
    };
    outcome.timeline.insert(at, record);
    outcome
}

/// An engine that starts a device although it has been told that its worker is gone, or that it has itself taken down.
#[test]
fn what_the_engine_could_have_kept_is_a_finding() {
    for (hazard, config) in [
        (Hazard::H07, engine(KernelSeries::V6_12, Recovery::None, KILLS)),
        (Hazard::H26, engine(KernelSeries::V6_18, Recovery::None, RIVALS)),
    ] {
        let outcome = meets(hazard, &config);
        for text in ["reaps the worker: Code(0)", "submits STOP_DEV", "submits DEL_DEV"] {
            assert_eq!(Hazard::told(&config, &told_before(&outcome, text)), None, "{text}");
        }
    }
}

/// The same rules broken, and nobody outside had a hand in it.
#[test]
fn what_happens_by_itself_is_a_finding() {
    for (hazard, config) in started_too_late() {
        let outcome = meets(hazard, &config);
        let mut alone = outcome.clone();
        alone.timeline.retain(|one| outcome.actors[one.actor].name != "operator");
        assert_eq!(Hazard::told(&config, &alone), None, "{hazard}");
        let other = Outcome { oracle: "O5".to_owned(), ..outcome.clone() };
        assert_eq!(Hazard::told(&config, &other), None, "{hazard}: another rule");
        let recent = Config { kernel: KernelSeries::V7_3, ..config.clone() };
        assert_eq!(Hazard::told(&recent, &outcome), None, "{hazard}: 7.3 has none of them");
    }
}

/// H70 where no worker was killed, or on a kernel that has no such thing.
#[test]
fn a_worker_that_leaves_by_itself_half_way_is_a_finding() {
    let config = replaced();
    let outcome = meets(Hazard::H70, &config);
    let mut alone = outcome.clone();
    alone.timeline.retain(|one| one.text != "D1: dead");
    assert_eq!(Hazard::told(&config, &alone), None);
    let recent = Config { kernel: KernelSeries::V7_3, ..config };
    assert_eq!(Hazard::told(&recent, &outcome), None);
}
