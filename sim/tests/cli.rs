//! The program `sim`, as a user calls it.

use std::path::PathBuf;
use std::process::{Command, Output};

use serde_json::Value;

fn sim(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_sim")).args(args).output().expect("the program starts")
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).expect("UTF-8")
}

fn json(output: &Output) -> Value {
    serde_json::from_str(&stdout(output)).expect("one JSON object and nothing else")
}

/// An empty directory of this test's own.
fn findings(test: &str) -> PathBuf {
    let dir = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(test);
    let _ = std::fs::remove_dir_all(&dir);
    dir
}

#[test]
fn a_hunt_writes_a_finding_that_replays() {
    let dir = findings("a_hunt");
    let path = dir.to_str().expect("UTF-8");
    let hunt =
        sim(&["hunt", "--specimen", "async-init", "--seeds", "2000", "--findings", path, "--json"]);
    assert_eq!(hunt.status.code(), Some(11), "{}", String::from_utf8_lossy(&hunt.stderr));
    let report = json(&hunt);
    assert_eq!(report["verdict"], "deadlock");
    assert!(report["seed"].is_u64() && report["schedules"].as_u64() > Some(0));
    let tape = report["tape"].as_str().expect("a tape");
    let replay = sim(&["replay", tape, "--json"]);
    assert_eq!(replay.status.code(), Some(11));
    let replayed = json(&replay);
    assert_eq!(replayed["same"], true);
    assert_eq!(replayed["hash"], report["findings"][0]["hash"]);
    let text = stdout(&sim(&["replay", tape]));
    assert!(text.contains("the same run") && text.contains("waits for"), "{text}");
}

#[test]
fn the_lowest_seed_counts_whatever_the_jobs() {
    let dir = findings("jobs");
    let path = dir.to_str().expect("UTF-8");
    let hunt = |jobs| {
        let args = ["hunt", "--specimen", "async-init", "--seeds", "3000", "--first-seed", "10"];
        let output = sim(&[&args[..], &["--jobs", jobs, "--findings", path, "--json"]].concat());
        json(&output)
    };
    let one = hunt("1");
    for jobs in ["2", "5"] {
        let other = hunt(jobs);
        for field in ["seed", "schedules", "verdict", "findings"] {
            assert_eq!(one[field], other[field], "{field} with {jobs} jobs");
        }
    }
}

#[test]
fn the_last_line_is_the_command_that_replays() {
    let dir = findings("last_line");
    let path = dir.to_str().expect("UTF-8");
    let hunt = sim(&["hunt", "--specimen", "async-init", "--seeds", "2000", "--findings", path]);
    let text = stdout(&hunt);
    let last = text.lines().last().expect("output");
    let tape = last.strip_prefix("cargo run --release -p sim -- replay ").expect(last);
    assert!(PathBuf::from(tape).is_file(), "{last}");
    for file in ["report.txt", "report.json"] {
        assert!(PathBuf::from(tape).with_file_name(file).is_file(), "{file}");
    }
}

#[test]
fn the_engine_is_clean_and_repeats_itself() {
    let run = || sim(&["run", "--engine", "--seed", "5", "--faults", "all", "--json"]);
    let (one, other) = (run(), run());
    assert_eq!(one.status.code(), Some(0), "{}", stdout(&one));
    assert_eq!(stdout(&one), stdout(&other));
    let hunt = sim(&["hunt", "--engine", "--seeds", "200", "--json"]);
    assert_eq!((hunt.status.code(), json(&hunt)["schedules"].as_u64()), (Some(0), Some(200)));
}

#[test]
fn lists_what_can_be_hunted() {
    let list = json(&sim(&["list", "--json"]));
    assert_eq!(list["specimens"].as_array().map(Vec::len), Some(7));
    assert!(stdout(&sim(&["list"])).contains("async-init"));
}

#[test]
fn wrong_usage_is_explained_with_exit_code_2() {
    let cases: [(&[&str], &str); 9] = [
        (&[], "Usage"),
        (&["run", "--seed", "1"], "--specimen"),
        (&["run", "--specimen", "perfect", "--seed", "1"], "one of async-init"),
        (&["run", "--engine", "--seed", "-1"], "-1"),
        (&["run", "--engine", "--seed", "1", "--queues", "9"], "1 to 4"),
        (&["run", "--engine", "--seed", "1", "--faults", "flood"], "resource"),
        (&["hunt", "--engine", "--time", "soon"], "30s"),
        (&["replay", "/nonexistent/tape"], "Check the path"),
        (&["replay", env!("CARGO_BIN_EXE_sim")], "failed"),
    ];
    for (args, expected) in cases {
        let output = sim(args);
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{args:?}: {text}");
        assert!(text.contains(expected), "{args:?}: {text}");
    }
}

#[test]
fn a_tape_of_other_rules_says_where_it_goes_astray() {
    let dir = findings("astray");
    std::fs::create_dir_all(&dir).expect("a directory");
    let tape = dir.join("tape");
    let text = "blkproof-tape: 1\nsubject: engine\nverdict: deadlock\nhash: 0\n\ns0/250 s1/250\n";
    std::fs::write(&tape, text).expect("a file");
    let output = sim(&["replay", tape.to_str().expect("UTF-8")]);
    assert_eq!(output.status.code(), Some(2));
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(text.contains("misaligned at choice 0") && text.contains("hunt again"), "{text}");
}

#[test]
fn an_unwritable_directory_for_findings_is_explained() {
    let args =
        ["hunt", "--specimen", "async-init", "--seeds", "2000", "--findings", "/proc/nothing"];
    let output = sim(&args);
    assert_eq!(output.status.code(), Some(2));
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(text.contains("/proc/nothing") && text.contains("--findings"), "{text}");
}
