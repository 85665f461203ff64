//! What people write: tapes, and command lines of `sim`.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt as _;

use blkproof_sim::tape::Tape;

/// Choices of a tape that are written again: a short text with repeats may stand for millions.
const CHOICES_MAX: usize = 100_000;

/// Whatever a file says, reading it as a tape does not panic, an error names a line, and what was read is written and read as the same.
pub fn tape(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    match Tape::from_text(&text) {
        Ok(tape) if tape.choices.len() <= CHOICES_MAX => {
            assert_eq!(Tape::from_text(&tape.to_text()).as_ref(), Ok(&tape));
        }
        Ok(_) => {}
        Err(error) => {
            let lines = text.lines().count().max(1);
            assert!((1..=lines).contains(&error.line), "{error} of {lines}");
            assert!(!error.problem.is_empty());
        }
    }
}

/// Whatever the arguments are (a line each), `sim` understands them or says why not, and does nothing else.
pub fn cli(data: &[u8]) {
    let arguments = std::iter::once(OsString::from("sim")).chain(words(data));
    if let Err(problem) = blkproof_sim::cli::understand(arguments) {
        assert!(!problem.trim().is_empty(), "an error says something");
    }
}

/// The arguments that an input stands for: a line each, of any bytes.
pub fn words(data: &[u8]) -> impl Iterator<Item = OsString> {
    data.split(|byte| *byte == b'\n').map(|word| OsStr::from_bytes(word).to_owned())
}
