//! The program `sim`, as a user calls it.

use std::path::PathBuf;
use std::process::{Command, Output};

use blkproof_sim::specimens::Specimen;
use serde_json::Value;

fn sim(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_sim"))
        .args(args)
        .env_remove("COLUMNS")
        .output()
        .expect("the program starts")
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

/// What the seed alone does not tell, the tape does.
#[test]
fn a_finding_of_a_swarm_by_priorities_replays_and_repeats() {
    let dir = findings("swarm");
    let path = dir.to_str().expect("UTF-8");
    let how = ["--specimen", "eintr-lost", "--faults", "signal=64,udev", "--swarm"];
    let more = ["--driver", "pct=2", "--findings", path, "--json"];
    let hunt = sim(&[&["hunt", "--seeds", "2000"][..], &how, &more].concat());
    assert_eq!(hunt.status.code(), Some(11), "{}", String::from_utf8_lossy(&hunt.stderr));
    let report = json(&hunt);
    assert_eq!((&report["driver"], &report["swarm"]), (&"pct=2".into(), &"faults".into()));
    let drawn = report["findings"][0]["config"]["faults"].as_str().expect("faults");
    assert!(drawn.contains("signal=") && drawn != "signal=64,udev=96", "{drawn}");
    let tape = report["tape"].as_str().expect("a tape");
    let text = std::fs::read_to_string(tape).expect("a tape");
    assert!(text.contains("driver: pct=2, swarm of faults\n"), "{text}");
    assert_eq!(json(&sim(&["replay", tape, "--json"]))["same"], true);
    let seed = report["seed"].to_string();
    let run = json(&sim(&[&["run", "--seed", seed.as_str()][..], &how, &more].concat()));
    assert_eq!(run["hash"], report["findings"][0]["hash"]);
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
    assert_eq!(list["specimens"].as_array().map(Vec::len), Some(Specimen::all().len()));
    assert!(stdout(&sim(&["list"])).contains("async-init"));
}

#[test]
fn help_teaches() {
    let output = sim(&["hunt", "--help"]);
    insta::assert_snapshot!("help_hunt", stdout(&output));
}

#[test]
fn wrong_usage_is_explained_with_exit_code_2() {
    let cases: [(&[&str], &str); 18] = [
        (&[], "Usage"),
        (&["run", "--seed", "1"], "--specimen"),
        (&["run", "--specimen", "perfect", "--seed", "1"], "one of async-init"),
        (&["run", "--engine", "--seed", "-1"], "-1"),
        (&["run", "--engine", "--seed", "1", "--queues", "9"], "1 to 4"),
        (&["run", "--engine", "--seed", "1", "--faults", "flood"], "resource"),
        (&["run", "--engine", "--seed", "1", "--recovery", "perhaps"], "reissue"),
        (&["run", "--engine", "--seed", "1", "--restart"], "a kind of recovery"),
        (&["run", "--specimen", "eintr-lost", "--seed", "1", "--recovery", "requeue"], "none"),
        (&["hunt", "--engine", "--time", "soon"], "30s"),
        (&["hunt", "--engine", "--seeds", "0"], "0"),
        (&["hunt", "--engine", "--driver", "pct=0"], "pct=1"),
        (&["run", "--engine", "--seed", "1", "--driver", "dfs"], "random, pct"),
        (&["demo", "--seeds", "0"], "0"),
        (&["hunt", "--engine", "--first-seed", "18446744073709551614", "--seeds", "3"], "largest"),
        (&["replay", "/nonexistent/tape"], "Check the path"),
        (&["replay", "/dev/zero"], "longer than any tape"),
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

#[test]
fn the_demonstration_shows_it_all_in_thirty_lines() {
    let demo = sim(&["demo", "--seeds", "21"]);
    let text = stdout(&demo);
    assert_eq!(demo.status.code(), Some(0), "{text}");
    let (_, story) = text.split_once("made short:\n\n").expect("a story");
    let (story, after) = story.split_once("\n\n3. Replayed: the same run").expect("a replay");
    assert!(story.lines().count() <= 30, "{story}");
    for part in ["main", "io loop 0", "kernel", "waits for", "in short: main → io loop 0 → "] {
        assert!(story.contains(part), "{part}: {story}");
    }
    assert_eq!(after.matches("survived all 11 schedules").count(), 2, "{after}");
}

#[test]
fn a_replay_with_another_verdict_is_not_the_same_run() {
    let dir = findings("altered");
    let path = dir.to_str().expect("UTF-8");
    let args = ["hunt", "--specimen", "async-init", "--seeds", "2000", "--findings", path];
    let report = json(&sim(&[&args[..], &["--json"]].concat()));
    let tape = report["tape"].as_str().expect("a tape");
    let text = std::fs::read_to_string(tape).expect("a tape");
    assert!(text.contains("recorded-by: blkproof "), "{text}");
    std::fs::write(tape, text.replace("verdict: deadlock", "verdict: livelock")).expect("a file");
    let replay = sim(&["replay", tape]);
    let text = stdout(&replay);
    assert_eq!(replay.status.code(), Some(2), "{text}");
    assert!(text.contains("NOT the same run: recorded livelock"), "{text}");
    assert_eq!(json(&sim(&["replay", tape, "--json"]))["same"], false);
}

#[test]
fn another_configuration_does_not_overwrite_a_finding() {
    let dir = findings("configurations");
    let path = dir.to_str().expect("UTF-8");
    let run = |queues| {
        let args = ["run", "--specimen", "async-init", "--seed", "3", "--findings", path];
        json(&sim(&[&args[..], &["--queues", queues, "--json"]].concat()))["tape"].clone()
    };
    let (one, two) = (run("1"), run("2"));
    assert!(one.is_string() && two.is_string() && one != two, "{one} {two}");
    assert_eq!(run("1"), one, "the same finding replaces itself");
    assert_eq!(std::fs::read_dir(&dir).expect("a directory").count(), 2);
}

#[test]
fn a_path_with_a_space_is_one_word_of_the_command() {
    let dir = findings("two words");
    let path = dir.to_str().expect("UTF-8");
    let run = sim(&["run", "--specimen", "async-init", "--seed", "3", "--findings", path]);
    let text = stdout(&run);
    let last = text.lines().last().expect("output");
    let tape = last.strip_prefix("cargo run --release -p sim -- replay '").expect(last);
    assert!(PathBuf::from(tape.trim_end_matches('\'')).is_file(), "{last}");
}

#[test]
fn a_reader_who_has_seen_enough_is_no_failure() {
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    let output = Command::new(env!("CARGO_BIN_EXE_sim"))
        .arg("list")
        .stdout(writer)
        .output()
        .expect("the program starts");
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!((output.status.code(), text.as_ref()), (Some(0), ""));
}

#[test]
#[cfg(target_os = "linux")]
fn a_full_disk_is_explained() {
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").expect("/dev/full");
    let output = Command::new(env!("CARGO_BIN_EXE_sim"))
        .args(["run", "--engine", "--seed", "1", "--json"])
        .stdout(full)
        .output()
        .expect("the program starts");
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{text}");
    assert!(text.contains("writing to standard output failed"), "{text}");
}

/// Starts the program, interrupts it once it listens for that, and waits for its end.
#[cfg(target_os = "linux")]
fn interrupted(args: &[&str]) -> Output {
    let child = Command::new(env!("CARGO_BIN_EXE_sim"))
        .args(args)
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .expect("the program starts");
    let id = child.id();
    let listens = || {
        let status = std::fs::read_to_string(format!("/proc/{id}/status")).expect("a process");
        let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:")).expect("a mask");
        u64::from_str_radix(caught.trim(), 16).expect("a mask") & 0b10 != 0
    };
    while !listens() {
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    std::thread::sleep(std::time::Duration::from_millis(300));
    let kill = format!("kill -INT {id}");
    assert!(Command::new("sh").args(["-c", &kill]).status().expect("a shell").success());
    child.wait_with_output().expect("an end")
}

#[test]
#[cfg(target_os = "linux")]
fn an_interrupted_hunt_claims_nothing() {
    let output = interrupted(&["hunt", "--engine", "--seeds", "1000000000000", "--json"]);
    assert_eq!(output.status.code(), Some(130), "{}", stdout(&output));
    assert_eq!(json(&output)["interrupted"], true);
    let output = interrupted(&["demo", "--seeds", "1000000000000"]);
    let text = stdout(&output);
    assert_eq!(output.status.code(), Some(130), "{text}");
    assert!(text.contains("Interrupted") && !text.contains("survived all"), "{text}");
}
