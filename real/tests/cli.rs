//! The program's behaviour on a machine without a ublk driver: clear errors, at once, and nothing left behind.
#![cfg(not(loom))]

use std::fs;
use std::path::Path;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

/// No failure may keep a user waiting longer. (Generous: the tests share their machine with compilers.)
const PATIENCE: Duration = Duration::from_secs(5);

struct Run {
    code: Option<i32>,
    out: String,
    err: String,
}

fn run_in(run_dir: &Path, arguments: &[&str]) -> Run {
    let started = Instant::now();
    let output: Output = Command::new(env!("CARGO_BIN_EXE_blkproof"))
        .args(arguments)
        .env("BLKPROOF_RUN_DIR", run_dir)
        .env_remove("COLUMNS")
        .output()
        .expect("the program starts");
    assert!(started.elapsed() < PATIENCE, "{arguments:?} took {:?}", started.elapsed());
    Run {
        code: output.status.code(),
        out: String::from_utf8(output.stdout).expect("text"),
        err: String::from_utf8(output.stderr).expect("text"),
    }
}

fn run(arguments: &[&str]) -> Run {
    let temporary = tempfile::tempdir().expect("a directory");
    let run_dir = temporary.path().join("run");
    let result = run_in(&run_dir, arguments);
    let left = fs::read_dir(&run_dir).map(|entries| entries.flatten().collect::<Vec<_>>());
    assert!(
        left.is_err() || left.is_ok_and(|left| left.is_empty()),
        "{arguments:?} left something"
    );
    result
}

/// What these tests are about; a machine that has the driver has its own tests (`vm-harness`).
fn has_driver() -> bool {
    let has = Path::new("/dev/ublk-control").exists();
    if has {
        println!("skipped: this machine has a ublk driver");
    }
    has
}

#[test]
fn without_the_driver_every_command_says_what_to_do() {
    if has_driver() {
        return;
    }
    let file = tempfile::NamedTempFile::new().expect("a file");
    file.as_file().set_len(1 << 20).expect("a size");
    let path = file.path().to_str().expect("a path");
    let commands: [&[&str]; 10] = [
        &["add", "null"],
        &["add", "null", "--foreground"],
        &["add", "mem", "--size", "1M"],
        &["add", "loop", path],
        &["list"],
        &["list", "--json"],
        &["del", "0"],
        &["del", "--all"],
        &["recover", "0"],
        &["features"],
    ];
    for arguments in commands {
        let Run { code, out, err } = run(arguments);
        assert_eq!(code, Some(1), "{arguments:?}: {err}");
        assert_eq!(out, "", "{arguments:?}");
        assert!(err.contains("opening /dev/ublk-control: No such file"), "{arguments:?}: {err}");
        assert!(err.contains("try: load the driver: modprobe ublk_drv"), "{arguments:?}: {err}");
    }
}

#[test]
fn a_file_that_cannot_be_served_is_refused_with_the_reason() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = |name: &str| directory.path().join(name).to_str().expect("a path").to_owned();
    fs::write(path("empty"), "").expect("written");
    fs::write(path("short"), "x").expect("written");
    let cases = [
        (path("missing"), "No such file or directory"),
        (path("."), "neither a regular file nor a block device"),
        ("/dev/null".to_owned(), "neither a regular file nor a block device"),
        (path("empty"), "it holds 0 bytes, less than one block"),
        (path("short"), "it holds 1 bytes, less than one block"),
    ];
    for (file, reason) in cases {
        let Run { code, out, err } = run(&["add", "loop", &file]);
        assert_eq!((code, out.as_str()), (Some(1), ""), "{file}");
        assert!(err.contains(&format!("opening {file}: ")), "{file}: {err}");
        assert!(err.contains(reason), "{file}: {err}");
    }
}

#[test]
fn a_file_locked_by_another_process_is_refused() {
    let file = tempfile::NamedTempFile::new().expect("a file");
    file.as_file().set_len(1 << 20).expect("a size");
    let exclusive = rustix::fs::FlockOperation::LockExclusive;
    rustix::fs::flock(file.as_file(), exclusive).expect("a lock");
    let Run { code, err, .. } = run(&["add", "loop", file.path().to_str().expect("a path")]);
    assert_eq!(code, Some(1));
    assert!(err.contains("another process holds a lock on it"), "{err}");
}

#[test]
fn a_command_that_makes_no_sense_is_a_usage_error() {
    let cases: [(&[&str], &str); 17] = [
        (&[], "Usage: blkproof"),
        (&["nonsense"], "unrecognized subcommand"),
        (&["add"], "Usage: blkproof add"),
        (&["add", "mem"], "--size <SIZE>"),
        (&["add", "mem", "--size", "0"], "0 bytes is not a positive multiple of 512"),
        (&["add", "mem", "--size", "1000"], "1000 bytes is not a positive multiple of 512"),
        (&["add", "mem", "--size", "much"], "such as 64M"),
        (&["add", "null", "-q", "0"], "0 is not in 1..=4096"),
        (&["add", "null", "-d", "4097"], "4097 is not in 1..=4096"),
        (&["add", "null", "-n", "1048576"], "is not in 0..1048576"),
        (&["add", "null", "--buffer", "5K"], "not a multiple of 4K"),
        (
            &["add", "null", "--data", "none"],
            "[possible values: copy, get-data, user-copy, zero-copy]",
        ),
        (&["add", "mem", "--size", "1M", "--data", "zero-copy"], "take --data user-copy"),
        (
            &["add", "null", "--shared", "/dev/shm/none", "--data", "get-data"],
            "take --shared without --data get-data",
        ),
        (&["add", "null", "--shared", "/dev/shm/none", "--record", "x"], "cannot be used with"),
        (&["del"], "<ID|--all>"),
        (&["del", "0", "--all"], "cannot be used with"),
    ];
    for (arguments, reason) in cases {
        let Run { code, out, err } = run(arguments);
        assert_eq!(code, Some(2), "{arguments:?}: {err}");
        assert_eq!(out, "", "{arguments:?}");
        assert!(err.contains(reason), "{arguments:?}: {err}");
    }
}

#[test]
fn state_files_that_make_no_sense_never_panic_a_command() {
    let directory = tempfile::tempdir().expect("a directory");
    for (name, text) in [("0.json", "{"), ("1.json", "[1,2]"), ("2.json", "\u{0}"), ("x.json", "")]
    {
        fs::write(directory.path().join(name), text).expect("written");
    }
    for arguments in [&["list"][..], &["del", "0"], &["del", "--all"], &["dump", "1"]] {
        let Run { code, err, .. } = run_in(directory.path(), arguments);
        assert!(matches!(code, Some(0 | 1)), "{arguments:?}: {code:?} {err}");
        assert!(!err.contains("panicked"), "{arguments:?}: {err}");
    }
}

#[test]
fn asking_for_a_device_that_nobody_serves_is_an_error() {
    let Run { code, err, .. } = run(&["dump", "7"]);
    assert_eq!(code, Some(1));
    assert!(err.contains("7.json names none"), "{err}");
}

#[test]
fn hidden_commands_given_by_hand_fail_and_say_so() {
    for arguments in [["__supervise", "x"], ["__work", "{}"]] {
        let Run { code, err, .. } = run(&arguments);
        assert_eq!(code, Some(1), "{arguments:?}");
        assert!(err.starts_with("blkproof"), "{arguments:?}: {err}");
    }
}

#[test]
fn help_teaches() {
    let commands: [(&str, &[&str]); 10] = [
        ("blkproof", &["--help"]),
        ("add", &["add", "--help"]),
        ("add_null", &["add", "null", "--help"]),
        ("add_mem", &["add", "mem", "--help"]),
        ("add_loop", &["add", "loop", "--help"]),
        ("list", &["list", "--help"]),
        ("del", &["del", "--help"]),
        ("recover", &["recover", "--help"]),
        ("features", &["features", "--help"]),
        ("dump", &["dump", "--help"]),
    ];
    for (name, arguments) in commands {
        let Run { code, out, err } = run(arguments);
        assert_eq!((code, err.as_str()), (Some(0), ""), "{name}");
        insta::assert_snapshot!(format!("help_{name}"), out);
    }
}
