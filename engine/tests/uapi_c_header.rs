//! The user API against the kernel's own headers, as a C compiler reads them.
//!
//! `BLKPROOF_UAPI_INCLUDE` names an include directory to take instead of the system's: that of another kernel. Where there
//! is no compiler or no header the test says so and passes.

mod uapi_values;

use std::env;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use uapi_values::{Values, values};

/// A flag of the newest header that we know: one that has it has everything.
const NEWEST: &str = "UBLK_F_IO_DESC_SIZE";

/// What even the oldest header with ublk has.
const COMPARED_MIN: usize = 130;

#[test]
fn agrees_with_the_kernels_header() {
    let include = match include_dir() {
        Ok(include) => include,
        Err(reason) => return println!("skipped: {reason}"),
    };
    if let Err(error) = Command::new("cc").arg("--version").output() {
        return println!("skipped: no C compiler `cc` ({error})");
    }
    let ours = values();
    let comparison = compare(&dump(&include, &ours), &ours).unwrap();
    println!(
        "{}: {} values agree, {} skipped because this header is older",
        include.display(),
        comparison.agreed,
        comparison.absent.len()
    );
    assert!(comparison.agreed >= COMPARED_MIN, "only {} values compared", comparison.agreed);
    if !comparison.absent.contains(&NEWEST) {
        assert!(comparison.absent.is_empty(), "the header has them all: {:?}", comparison.absent);
    }
}

#[test]
fn a_difference_is_noticed() {
    let ours = values();
    let mut theirs = ours.clone();
    assert_eq!(compare(&lines(&theirs), &ours).map(|it| it.agreed), Ok(ours.len()));

    theirs.remove(NEWEST);
    assert_eq!(compare(&lines(&theirs), &ours).map(|it| it.absent), Ok(vec![NEWEST]));

    for (name, value) in &ours {
        let planted = Values::from([(name.clone(), value ^ 1)]);
        let error = compare(&lines(&planted), &ours).unwrap_err();
        assert_eq!(error, format!("{name} is {} in the header and {value} here", value ^ 1));
    }
    assert!(compare("UBLK_F_FLYING 1\n", &ours).unwrap_err().contains("unknown here"));
    assert!(compare("nonsense\n", &ours).is_err());
    assert!(compare("UBLK_IO_RES_OK 0\nUBLK_IO_RES_OK 0\n", &ours).unwrap_err().contains("twice"));
}

#[derive(PartialEq, Eq, Debug)]
struct Comparison<'a> {
    agreed: usize,
    /// Ours that the header does not have.
    absent: Vec<&'a str>,
}

/// Compares what the header said, "name value" a line, with what we say.
fn compare<'a>(theirs: &str, ours: &'a Values) -> Result<Comparison<'a>, String> {
    let mut absent: Vec<&str> = ours.keys().map(String::as_str).collect();
    for line in theirs.lines() {
        let (name, value) = line.split_once(' ').ok_or_else(|| format!("odd line {line:?}"))?;
        let value: u64 = value.parse().map_err(|error| format!("{line:?}: {error}"))?;
        let our = ours
            .get(name)
            .ok_or_else(|| format!("{name} is {value} in the header and unknown here"))?;
        if *our != value {
            return Err(format!("{name} is {value} in the header and {our} here"));
        }
        let at = absent.iter().position(|absent| *absent == name);
        absent.remove(at.ok_or_else(|| format!("{name} twice"))?);
    }
    Ok(Comparison { agreed: ours.len() - absent.len(), absent })
}

fn lines(values: &Values) -> String {
    let mut lines = String::new();
    for (name, value) in values {
        writeln!(lines, "{name} {value}").unwrap();
    }
    lines
}

fn include_dir() -> Result<PathBuf, String> {
    let include = env::var_os("BLKPROOF_UAPI_INCLUDE")
        .map_or_else(|| PathBuf::from("/usr/include"), PathBuf::from);
    let header = include.join("linux/ublk_cmd.h");
    if header.exists() { Ok(include) } else { Err(format!("there is no {}", header.display())) }
}

/// Compiles `uapi_dump.c` against the headers in `include` and returns what it prints.
fn dump(include: &Path, ours: &Values) -> String {
    let mut numbers = String::new();
    let macros = ours.keys().filter(|name| name.chars().all(|c| c == '_' || c.is_alphanumeric()));
    // These two are in an enumeration: the program has them itself.
    for name in macros.filter(|name| !name.starts_with("IORING_OP_")) {
        writeln!(numbers, "#ifdef {name}\n\tNUMBER({name});\n#endif").unwrap();
    }
    let source = include_str!("c/uapi_dump.c").replace("@NUMBERS@\n", &numbers);
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let (file, program) = (dir.join("uapi_dump.c"), dir.join("uapi_dump"));
    fs::write(&file, source).unwrap();
    let compiled = Command::new("cc")
        .args(["-std=gnu11", "-Wall", "-isystem"])
        .arg(include)
        .arg("-o")
        .args([&program, &file])
        .output()
        .unwrap();
    assert!(compiled.status.success(), "{}", String::from_utf8_lossy(&compiled.stderr));
    let output = Command::new(&program).output().unwrap();
    assert!(output.status.success());
    String::from_utf8(output.stdout).unwrap()
}
