//! Programs that the runner calls.

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

/// Why a step did not pass. A hang is not among them: the runner sees it from outside.
#[derive(Debug, Clone)]
pub(super) enum Trouble {
    /// An assertion about the engine does not hold.
    Failed { detail: String, evidence: Vec<String> },
    /// Something that is not the engine does not work.
    Environment { detail: String, evidence: Vec<String> },
}

pub(super) type Checked<T = ()> = Result<T, Trouble>;

/// A failed assertion.
pub(super) fn failed<T>(detail: impl Into<String>) -> Checked<T> {
    Err(Trouble::Failed { detail: detail.into(), evidence: Vec::new() })
}

/// Something of the environment that does not work.
pub(super) fn broken<T>(detail: impl Into<String>) -> Checked<T> {
    Err(Trouble::Environment { detail: detail.into(), evidence: Vec::new() })
}

impl Trouble {
    /// The same trouble, blamed on the environment: for what happens on the control device.
    pub(super) fn of_environment(self) -> Self {
        match self {
            Self::Failed { detail, evidence } | Self::Environment { detail, evidence } => {
                Self::Environment { detail, evidence }
            }
        }
    }

    /// What a program printed, if one did.
    pub(super) fn evidence(&self) -> String {
        match self {
            Self::Failed { evidence, .. } | Self::Environment { evidence, .. } => {
                evidence.join("\n")
            }
        }
    }

    pub(super) fn detail(&self) -> &str {
        match self {
            Self::Failed { detail, .. } | Self::Environment { detail, .. } => detail,
        }
    }
}

/// A started program. Its output goes to files: a daemon that keeps them open cannot hold up the runner.
#[derive(Debug)]
pub(super) struct Program {
    pub(super) line: String,
    pub(super) child: Child,
    stdout: PathBuf,
    stderr: PathBuf,
}

/// What a program left behind.
#[derive(Debug)]
pub(super) struct Ended {
    pub(super) line: String,
    pub(super) status: ExitStatus,
    pub(super) stdout: String,
    pub(super) stderr: String,
}

impl Program {
    pub(super) fn start(program: &str, arguments: &[String]) -> Checked<Self> {
        static COUNTER: AtomicU32 = AtomicU32::new(0);
        let number = COUNTER.fetch_add(1, Ordering::Relaxed);
        let line = format!("{program} {}", arguments.join(" "));
        let stdout = PathBuf::from(format!("/tmp/out-{number}"));
        let stderr = PathBuf::from(format!("/tmp/err-{number}"));
        let files = File::create(&stdout).and_then(|out| Ok((out, File::create(&stderr)?)));
        let started = files.and_then(|(out, err)| {
            Command::new(program)
                .args(arguments)
                .stdin(Stdio::null())
                .stdout(out)
                .stderr(err)
                .spawn()
        });
        match started {
            Ok(child) => Ok(Self { line, child, stdout, stderr }),
            Err(error) => broken(format!("cannot start `{line}`: {error}")),
        }
    }

    /// Waits for the end, however long it takes.
    pub(super) fn wait(mut self) -> Checked<Ended> {
        let status = match self.child.wait() {
            Ok(status) => status,
            Err(error) => return broken(format!("cannot wait for `{}`: {error}", self.line)),
        };
        let read = |path: &PathBuf| {
            let text = fs::read(path)
                .map(|b| String::from_utf8_lossy(&b).into_owned())
                .unwrap_or_default();
            let _ = fs::remove_file(path);
            text
        };
        Ok(Ended {
            stdout: read(&self.stdout),
            stderr: read(&self.stderr),
            line: self.line,
            status,
        })
    }

    pub(super) fn stdout_file(&self) -> &PathBuf {
        &self.stdout
    }
}

impl Ended {
    /// Fails unless the program succeeded.
    pub(super) fn success(self) -> Checked<Self> {
        if self.status.success() {
            return Ok(self);
        }
        let (program, arguments) = self.line.split_once(' ').unwrap_or((&self.line, ""));
        if arguments.len() <= 60 {
            return Err(Trouble::Failed {
                detail: format!("`{}` ended with {}", self.line, self.status),
                evidence: self.evidence(),
            });
        }
        let mut evidence = vec![self.line.clone()];
        evidence.extend(self.evidence());
        Err(Trouble::Failed { detail: format!("{program} ended with {}", self.status), evidence })
    }

    /// What it printed, as lines.
    pub(super) fn evidence(&self) -> Vec<String> {
        self.stderr
            .lines()
            .chain(self.stdout.lines())
            .filter(|l| !l.trim().is_empty())
            .take(40)
            .map(str::to_owned)
            .collect()
    }
}

/// Runs a program to its end and insists on success.
pub(super) fn run(program: &str, arguments: &[&str]) -> Checked<Ended> {
    let arguments: Vec<String> = arguments.iter().map(|&a| a.to_owned()).collect();
    Program::start(program, &arguments)?.wait()?.success()
}

/// Does `work` on a thread of its own and gives it up after `limit`: the thread may be stuck in the kernel for good.
pub(super) fn bounded<T: Send + 'static>(
    limit: Duration,
    work: impl FnOnce() -> T + Send + 'static,
) -> Option<T> {
    let (done, result) = mpsc::channel();
    thread::spawn(move || {
        let _ = done.send(work());
    });
    result.recv_timeout(limit).ok()
}
