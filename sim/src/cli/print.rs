//! Standard output, which may be full, or closed by a reader who has seen enough.

use std::io::{self, ErrorKind, Write};

use super::Failure;

/// Prints. `sim … | head` is no failure: the exit code still says what was found.
pub(super) fn print(text: &str) -> Result<(), Failure> {
    put(&mut io::stdout().lock(), text)
}

fn put(out: &mut impl Write, text: &str) -> Result<(), Failure> {
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(Failure(format!(
            "writing to standard output failed: {error}. Make room there, or send the output elsewhere."
        ))),
        Ok(()) | Err(_) => Ok(()),
    }
}
