//! Findings on disk: a directory for each, with the tape, the report as text and as JSON.
//!
//! The directory's name ends with a fingerprint of the tape, so that the same seed in another configuration does not
//! overwrite what was found before, and the same finding found again replaces itself.

use std::path::{Path, PathBuf};
use std::{fs, io};

use siphasher::sip::SipHasher13;

use crate::config::Config;
use crate::describe::subject_name;
use crate::outcome::Outcome;
use crate::report::{self, Layout};
use crate::tape::Tape;

/// Writes a finding below `dir` and returns the tape's path.
///
/// # Errors
/// With the path that could not be written, and what the system answered.
pub fn write(
    dir: &Path,
    tape: &Tape,
    config: &Config,
    outcome: &Outcome,
) -> Result<PathBuf, (PathBuf, io::Error)> {
    let seed = tape.seed.map_or_else(|| "tape".to_owned(), |seed| format!("seed{seed}"));
    let text = tape.to_text();
    let fingerprint = SipHasher13::new().hash(text.as_bytes()) as u32;
    let (subject, verdict) = (subject_name(config.subject), outcome.verdict.name());
    let name = format!("{subject}-{verdict}-{seed}-{fingerprint:08x}");
    let dir = dir.join(name);
    let put = |path: PathBuf, text: &str| -> Result<PathBuf, (PathBuf, io::Error)> {
        fs::write(&path, text).map_err(|error| (path.clone(), error))?;
        Ok(path)
    };
    fs::create_dir_all(&dir).map_err(|error| (dir.clone(), error))?;
    put(dir.join("report.txt"), &report::text(config, outcome, Layout::FILE))?;
    put(dir.join("report.json"), &format!("{:#}\n", report::json(config, outcome)))?;
    put(dir.join("tape"), &text)
}
