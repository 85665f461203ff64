//! Errors that tell the reader what was attempted, what the system answered, and what to do next.

use std::fmt;

/// What class of trouble stopped the harness itself. Each has its own exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// The command line cannot be carried out as it was written.
    Usage,
    /// The host, the archive index or the guest cannot do what every run needs.
    Environment,
    /// The kernel asked for is neither cached nor to be had.
    KernelUnavailable,
    /// Programs the harness calls are not installed.
    MissingPrograms,
}

/// An error of the harness, never of the engine under test.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error {
    kind: ErrorKind,
    attempted: String,
    answer: String,
    advice: String,
}

/// The harness's own result type.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// Starts an error from what was attempted, in the infinitive: "start QEMU".
    pub fn new(kind: ErrorKind, attempted: impl Into<String>) -> Self {
        Self { kind, attempted: attempted.into(), answer: String::new(), advice: String::new() }
    }

    /// An error of the host or the guest.
    pub fn environment(attempted: impl Into<String>) -> Self {
        Self::new(ErrorKind::Environment, attempted)
    }

    /// An error of the command line.
    pub fn usage(attempted: impl Into<String>) -> Self {
        Self::new(ErrorKind::Usage, attempted)
    }

    /// Adds what the system answered.
    #[must_use]
    pub fn answer(mut self, answer: impl fmt::Display) -> Self {
        answer.to_string().trim().clone_into(&mut self.answer);
        self
    }

    /// Adds what to do next.
    #[must_use]
    pub fn advice(mut self, advice: impl Into<String>) -> Self {
        self.advice = advice.into();
        self
    }

    /// The class of trouble.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot {}", self.attempted)?;
        if !self.answer.is_empty() {
            write!(f, "\n  answer: {}", self.answer.replace('\n', "\n          "))?;
        }
        if !self.advice.is_empty() {
            write!(f, "\n  next:   {}", self.advice.replace('\n', "\n          "))?;
        }
        Ok(())
    }
}

impl std::error::Error for Error {}

/// Turns an answer of the system into an environment error.
pub trait Attempt<T> {
    /// `attempted` says, in the infinitive, what the system refused.
    fn attempting(self, attempted: impl FnOnce() -> String) -> Result<T>;
}

impl<T, E: fmt::Display> Attempt<T> for std::result::Result<T, E> {
    fn attempting(self, attempted: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|e| Error::environment(attempted()).answer(e))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_has_three_parts() {
        let error = Error::environment("start QEMU")
            .answer("No such file\nor directory")
            .advice("install it");
        assert_eq!(
            error.to_string(),
            "cannot start QEMU\n  answer: No such file\n          or directory\n  next:   install it"
        );
    }
}
