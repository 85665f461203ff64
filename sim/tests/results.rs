//! Hunts that are spread over machines: parts, results, merging, interruption.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

/// A directory of this test's own, empty.
fn dir(test: &str) -> PathBuf {
    let dir = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("results").join(test);
    let _ = fs::remove_dir_all(&dir);
    fs::create_dir_all(&dir).expect("a directory");
    dir
}

fn sim(dir: &Path, words: &str, variables: &[(&str, &str)]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sim"));
    command.args(words.split_whitespace()).current_dir(dir);
    for name in ["SLURM_ARRAY_TASK_ID", "JOB_COMPLETION_INDEX", "JOB_COMPLETION_COUNT"] {
        command.env_remove(name);
    }
    command.envs(variables.iter().copied()).output().expect("the program starts")
}

fn json(output: &Output) -> Value {
    let text = String::from_utf8_lossy(&output.stdout);
    serde_json::from_str(&text).unwrap_or_else(|error| {
        panic!("{error}: {text} {}", String::from_utf8_lossy(&output.stderr))
    })
}

fn error(output: &Output) -> String {
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

const HUNT: &str = "hunt --specimen async-init --keep-going --seeds 400 --jobs 2 --json";

#[test]
fn three_machines_find_what_one_finds() {
    let dir = dir("three_machines");
    let whole = json(&sim(&dir, HUNT, &[]));
    for shard in ["1/3", "2/3", "3/3"] {
        let part = sim(&dir, &format!("{HUNT} --shard {shard} --results part{}", &shard[..1]), &[]);
        assert_eq!(json(&part)["shard"]["from"], "--shard");
    }
    let output = sim(&dir, "merge part1 part2 part3 --json", &[]);
    assert_eq!(output.status.code(), Some(11));
    let merged = json(&output);
    for field in ["schedules", "found"] {
        assert_eq!(merged[field], whole[field], "{field}");
    }
    assert_eq!(merged["complete"], true);
    assert_eq!(merged["findings"][0]["seed"], whole["findings"][0]["seed"]);
    let tape = merged["findings"][0]["tape"].as_str().expect("a tape");
    assert_eq!(json(&sim(&dir, &format!("replay {tape} --json"), &[]))["same"], true);
    let text = sim(&dir, "merge part1 part2 part3", &[]);
    let text = String::from_utf8_lossy(&text.stdout);
    assert!(text.contains("complete: 400 schedules") && text.contains("tape: "), "{text}");
}

#[test]
fn what_is_missing_doubled_or_cut_off_is_said() {
    let dir = dir("missing");
    let part = |shard: u8, more: &str| {
        let words = format!("hunt --engine --seeds 100 --shard {shard}/4 --results part{shard}");
        assert_eq!(sim(&dir, &format!("{words} {more}"), &[]).status.code(), Some(0));
    };
    let merge = |files: &str| sim(&dir, &format!("merge {files} --json"), &[]);
    part(1, "");
    part(2, "");
    part(2, "");
    part(3, "");
    // The machine of the third part died while it wrote its summary.
    let text = fs::read_to_string(dir.join("part3")).expect("results");
    fs::write(dir.join("part3"), &text[..text.len() - 9]).expect("a file");
    let output = merge("part1 part2 part3");
    assert_eq!(output.status.code(), Some(1), "nothing found, and not complete");
    let merged = json(&output);
    let shards = |merged: &Value| {
        ["missing", "unfinished", "doubled", "interrupted"].map(|field| merged[field].to_string())
    };
    assert_eq!(shards(&merged), ["[4]", "[3]", "[2]", "[]"]);
    assert_eq!((&merged["schedules"], &merged["complete"]), (&50.into(), &false.into()));
    let text = sim(&dir, "merge part1 part2 part3", &[]);
    let text = String::from_utf8_lossy(&text.stdout);
    assert!(text.contains("NOT complete: 50 schedules"), "{text}");
    assert!(text.contains("missing: shard 4\nbegan and did not end: shard 3\n"), "{text}");
    // Once more on the same file: the line that was cut off hinders nobody.
    part(3, "");
    part(4, "");
    let output = merge("part1 part2 part3 part4");
    assert_eq!((output.status.code(), &json(&output)["schedules"]), (Some(0), &100.into()));
}

#[test]
fn files_of_other_hunts_are_refused() {
    let dir = dir("others");
    let hunt = |words: &str, file: &str| {
        let words = format!("hunt --seeds 4 {words} --results {file}");
        sim(&dir, &words, &[]);
    };
    hunt("--engine --shard 1/2", "one");
    for (words, difference) in [
        ("--engine --shard 2/2 --depth 4", "depth: 2 and 4"),
        ("--engine --shard 2/2 --faults kill", "faults: none and kill=3"),
        ("--engine --shard 2/3", "number of shards: 2 and 3"),
        ("--engine --shard 2/2 --driver pct", "driver: random and pct=3"),
        ("--engine --shard 2/2 --swarm", "swarm: none and faults,queues"),
        ("--engine --shard 2/2 --first-seed 9", "first seed: 0 and 9"),
        ("--engine --shard 2/2 --nth-fault 1", "faults: none and all"),
    ] {
        let _ = fs::remove_file(dir.join("two"));
        hunt(words, "two");
        let text = error(&sim(&dir, "merge one two", &[]));
        assert!(text.contains(difference) && text.contains("one hunt"), "{words}: {text}");
    }
    let version = fs::read_to_string(dir.join("one")).expect("results");
    let version = version.replace(env!("CARGO_PKG_VERSION"), "9.9.9");
    fs::write(dir.join("two"), version).expect("a file");
    assert!(error(&sim(&dir, "merge one two", &[])).contains("version: "));
    for (text, problem) in [
        ("", "it is empty"),
        ("hello\n", "line 1"),
        (
            "{\"line\":\"summary\",\"schedules\":1,\"steps\":1,\"found\":0,\"interrupted\":false}\n",
            "no header",
        ),
    ] {
        fs::write(dir.join("two"), text).expect("a file");
        let text = error(&sim(&dir, "merge one two", &[]));
        assert!(text.contains(problem) && text.contains("two failed"), "{text}");
    }
    let one = fs::read_to_string(dir.join("one")).expect("results");
    fs::write(
        dir.join("two"),
        one.replace("\"line\":\"summary\"", "\"line\":\"sum\"")
            + &one[one.rfind("{\"line\":\"summary").expect("a summary")..],
    )
    .expect("a file");
    assert!(error(&sim(&dir, "merge two", &[])).contains("line 2"), "garbage in the middle");
    assert!(error(&sim(&dir, "merge nothing", &[])).contains("nothing failed"));
    assert!(error(&sim(&dir, "merge", &[])).contains("Usage"));
}

#[test]
fn the_cluster_says_which_part() {
    let dir = dir("cluster");
    let hunt = "hunt --engine --seeds 10 --json";
    let slurm = [
        ("SLURM_ARRAY_TASK_ID", "6"),
        ("SLURM_ARRAY_TASK_MIN", "4"),
        ("SLURM_ARRAY_TASK_COUNT", "3"),
    ];
    let output = json(&sim(&dir, hunt, &slurm));
    assert_eq!((&output["shard"]["index"], &output["schedules"]), (&3.into(), &3.into()));
    let text = sim(&dir, "hunt --engine --seeds 10", &slurm);
    let text = String::from_utf8_lossy(&text.stdout);
    assert!(text.starts_with("shard 3/3 (from SLURM_ARRAY_TASK_ID=6, of 3 tasks from 4)\n"));
    let flag = json(&sim(&dir, &format!("{hunt} --shard 1/1"), &slurm));
    assert_eq!((&flag["shard"]["from"], &flag["schedules"]), (&"--shard".into(), &10.into()));
    let job = [("JOB_COMPLETION_INDEX", "0")];
    let output = json(&sim(&dir, &format!("{hunt} --shards 5"), &job));
    assert_eq!((&output["shard"]["index"], &output["schedules"]), (&1.into(), &2.into()));
    assert!(error(&sim(&dir, hunt, &job)).contains("JOB_COMPLETION_COUNT"));
    assert!(error(&sim(&dir, hunt, &slurm[..2])).contains("SLURM_ARRAY_TASK_COUNT is not"));
    assert!(error(&sim(&dir, &format!("{hunt} --shard 4/3"), &[])).contains("2/8"));
    assert!(json(&sim(&dir, hunt, &[]))["shard"].is_null());
}

#[test]
fn every_fault_is_gone_through_and_counted() {
    let dir = dir("nth");
    let small = "--queues 1 --depth 1 --requests 1";
    let words = format!("hunt --engine {small} --faults signal,udev,handover --nth-fault 1");
    let output = json(&sim(&dir, &format!("{words} --json"), &[]));
    assert_eq!((&output["verdict"], &output["complete"]), (&"clean".into(), &true.into()));
    let covered = output["covered"].as_array().expect("parts");
    let kinds: Vec<_> = covered.iter().map(|part| part["first"].as_str()).collect();
    assert_eq!(kinds, [Some("signal"), Some("udev"), Some("handover")]);
    assert!(covered.iter().take(2).all(|part| part["runs"].as_u64() > Some(1)), "{covered:?}");
    let text = sim(&dir, &words.replace("fault 1", "fault 2"), &[]);
    let text = String::from_utf8_lossy(&text.stdout);
    assert!(text.contains("every two faults") && text.contains("complete: every"), "{text}");
    let found = "hunt --specimen eintr-lost --nth-fault 1 --results part --json";
    let found = sim(&dir, found, &[]);
    assert_eq!(found.status.code(), Some(11));
    let tape = json(&found)["findings"][0]["tape"].as_str().expect("a tape").to_owned();
    let text = fs::read_to_string(dir.join(&tape)).expect("a tape");
    assert!(text.contains("driver: fault signal at its opportunity "), "{text}");
    assert_eq!(json(&sim(&dir, &format!("replay {tape} --json"), &[]))["same"], true);
    assert!(error(&sim(&dir, "hunt --engine --nth-fault 3", &[])).contains('2'));
    assert!(error(&sim(&dir, "hunt --engine --nth-fault 1 --swarm", &[])).contains("--swarm"));
}

#[test]
fn results_that_cannot_be_written_are_a_failure() {
    let dir = dir("unwritable");
    let output = sim(&dir, "hunt --engine --seeds 1 --results /nonexistent/file", &[]);
    assert!(error(&output).contains("--results FILE"), "{output:?}");
    if Path::new("/dev/full").exists() {
        let output = sim(&dir, "hunt --engine --seeds 1 --results /dev/full", &[]);
        assert!(error(&output).contains("/dev/full"), "{output:?}");
    }
}

/// What was found before Ctrl-C is kept, and the part is not taken for one that ended.
#[test]
#[cfg(target_os = "linux")]
fn an_interrupted_hunt_keeps_what_it_found() {
    let dir = dir("interrupted");
    let words = "hunt --specimen async-init --keep-going --seeds 1000000000000 --results part";
    let child = Command::new(env!("CARGO_BIN_EXE_sim"))
        .args(words.split_whitespace())
        .current_dir(&dir)
        .stdout(std::process::Stdio::piped())
        .spawn()
        .expect("the program starts");
    let found =
        || fs::read_to_string(dir.join("part")).is_ok_and(|text| text.contains("\"finding\""));
    while !found() {
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    let kill = format!("kill -INT {}", child.id());
    assert!(Command::new("sh").args(["-c", &kill]).status().expect("a shell").success());
    let output = child.wait_with_output().expect("an end");
    let text = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(11), "{text}");
    assert!(text.contains(", interrupted\n") && text.contains("replay findings/"), "{text}");
    let output = sim(&dir, "merge part --json", &[]);
    assert_eq!(output.status.code(), Some(11));
    let merged = json(&output);
    assert_eq!((&merged["complete"], &merged["interrupted"][0]), (&false.into(), &1.into()));
    assert!(merged["schedules"].as_u64() > Some(0) && merged["findings"][0]["tape"].is_string());
}

/// What no server can avoid on 6.12 is no finding, and adds up.
#[test]
fn hazards_are_counted_apart_and_add_up() {
    const HUNT: &str = "hunt --engine --kernel 6.12 --recovery reissue --faults kill=12 --known-hazards --keep-going --seeds 800 --json";
    let dir = dir("hazards");
    let whole = json(&sim(&dir, HUNT, &[]));
    assert!(whole["hazards"]["H67"].as_u64() > Some(0), "{whole}");
    for shard in ["1", "2"] {
        sim(&dir, &format!("{HUNT} --shard {shard}/2 --results part{shard}"), &[]);
    }
    let merged = json(&sim(&dir, "merge part1 part2 --json", &[]));
    assert_eq!((&merged["hazards"], &merged["found"]), (&whole["hazards"], &whole["found"]));
    // Files of a hunt to which they are findings are of another hunt.
    let plain = HUNT.replace(" --known-hazards", "");
    let output = sim(&dir, &format!("{plain} --shard 2/2 --results other"), &[]);
    assert!(json(&output)["found"].as_u64() > Some(0));
    assert!(error(&sim(&dir, "merge part1 other", &[])).contains("known hazards: true and false"));
}
