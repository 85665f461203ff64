//! Each kind of adversity really happens, and a configuration without it never shows it.

mod support;

use blkproof_sim::config::{Config, Faults, TargetKind};
use support::{engine, run};

/// How many of the timelines of 300 runs show one of the texts.
fn shown(faults: Faults, texts: &[&str]) -> usize {
    (0..300)
        .filter(|seed| {
            let config = engine(*seed, faults);
            let config = Config { timeline: true, target: TargetKind::File, ..config };
            let outcome = run(&config, *seed);
            outcome
                .timeline
                .iter()
                .any(|record| texts.iter().any(|text| record.text.contains(text)))
        })
        .count()
}

fn strikes(faults: Faults, texts: &[&str]) {
    for text in texts {
        let count = shown(faults, &[text]);
        println!("{text:?}: {count} of 300");
        assert!(count > 0, "no run shows {text:?} under {faults:?}");
    }
    assert_eq!(shown(Faults::NONE, texts), 0, "{texts:?} without a fault");
}

#[test]
fn signals() {
    let texts = ["enter interrupted (EINTR)", "START_DEV completes: -4", "DEL_DEV completes: -4"];
    strikes(Faults { signal: 64, ..Faults::NONE }, &texts);
}

#[test]
fn submissions() {
    let texts = [
        "enter refused (errno 11)",
        "enter refused (errno 16)",
        "enter takes 0 of",
        "gets a ring of 2",
    ];
    strikes(Faults { submit: 64, ..Faults::NONE }, &texts);
}

/// Rings as the engine sizes them never overflow; in smaller ones its tags' aborts do, and it loses none.
#[test]
fn backlogs() {
    let shown = |faults: Faults| {
        (0..200)
            .filter(|seed| {
                let config = Config { depth: 16, timeline: true, ..engine(*seed, faults) };
                let outcome = support::clean(&config, *seed);
                outcome.timeline.iter().any(|record| record.text.contains("leave the backlog"))
            })
            .count()
    };
    let count = shown(Faults { submit: 64, ..Faults::NONE });
    println!("a backlog in {count} of 200");
    assert!(count > 0, "no run shows a backlog");
    assert_eq!(shown(Faults::NONE), 0, "a backlog in a ring of the engine's own size");
}

#[test]
fn resources() {
    let texts = [
        "opens ublkc: EMFILE",
        "maps queue 0: ENOMEM",
        "maps queue 1: ENOMEM",
        "starts the worker: EAGAIN",
        "starts the thread of queue 1: EAGAIN",
        "a watch fails: ENOMEM",
    ];
    strikes(Faults { resource: 48, ..Faults::NONE }, &texts);
}

#[test]
fn kills() {
    let texts = [
        "SIGKILL to process 100",
        "SIGKILL to process 101",
        "SIGKILL to process 102",
        "runs `del`",
        "RWc",
    ];
    strikes(Faults { kill: 3, ..Faults::NONE }, &texts);
}

#[test]
fn disks() {
    let texts = ["= -4", "= -11", "= -5", "failed (EIO)"];
    strikes(Faults { disk: 64, ..Faults::NONE }, &texts);
}

#[test]
fn stops() {
    let texts = ["interrupts the launcher", "ASYNC_CANCEL of START_DEV", "Stopped"];
    strikes(Faults { stop: 4, ..Faults::NONE }, &texts);
}

#[test]
fn rivals() {
    let texts = ["runs `list`", "runs `del`", "takes hold of supervisor 101"];
    strikes(Faults { rival: 8, ..Faults::NONE }, &texts);
}

#[test]
fn udev() {
    let texts = ["opens ublkc: ENOENT", "opens ublkc: EACCES", "creates the node, mode 0600"];
    strikes(Faults { udev: 96, ..Faults::NONE }, &texts);
}

#[test]
fn stalls() {
    strikes(Faults { stall: 3, ..Faults::NONE }, &["Deadline"]);
}

#[test]
fn pauses() {
    let texts = [
        "SIGSTOP to process 101",
        "SIGSTOP to process 102",
        "SIGCONT to process",
        "enter interrupted (EINTR)",
        "START_DEV completes: -4",
        "Deadline",
    ];
    strikes(Faults { pause: 6, ..Faults::NONE }, &texts);
}

#[test]
fn kills_of_both() {
    let texts = ["worker and supervisor are killed at once", "RWc", "runs `del`"];
    strikes(Faults { kill_both: 4, ..Faults::NONE }, &texts);
}

#[test]
fn holds() {
    let texts = [
        "somebody opens ublkb",
        "who kept ublkb lets go of it",
        "DEL_DEV completes: -4",
        "TRY_STOP_DEV completes: -16",
    ];
    strikes(Faults { hold: 16, ..Faults::NONE }, &texts);
}

#[test]
fn crashes() {
    strikes(Faults { crash: 16, ..Faults::NONE }, &["the machine loses power"]);
}
