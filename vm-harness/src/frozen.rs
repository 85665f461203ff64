//! A guest that has booted, kept: any number of guests go on from there, each as pristine as if it had booted itself, and at a tenth of the cost.
//!
//! The state is QEMU's own (what it migrates): memory and devices of the moment in which the guest waits for its job. The machine that goes on must be the
//! same in everything but that.

use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::error::{Attempt, Error, Result};
use crate::qemu::quoted;

/// Longest time to write the state.
const FREEZE: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(100);
/// Bytes a second: as fast as it goes.
const BANDWIDTH: u64 = 1 << 40;

/// The files of a guest that has booted. Removed with it.
#[derive(Debug)]
pub struct Frozen {
    /// What it booted from.
    pub initramfs: PathBuf,
    /// What it has become.
    pub state: PathBuf,
}

impl Drop for Frozen {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.initramfs);
        let _ = std::fs::remove_file(&self.state);
    }
}

/// Writes the state of the guest whose emulator listens at `orders`. The guest stands still afterwards.
pub fn freeze(orders: &Path, state: &Path) -> Result<()> {
    let freezing = || "keep a guest that has booted".to_owned();
    let mut emulator = Emulator::connect(orders).attempting(freezing)?;
    let mut order = |name, arguments: Value| emulator.order(name, &arguments).attempting(freezing);
    order("qmp_capabilities", json!({}))?;
    order("migrate-set-parameters", json!({ "max-bandwidth": BANDWIDTH }))?;
    order("migrate", json!({ "uri": format!("exec:cat > {}", quoted(state)) }))?;
    let begun = Instant::now();
    loop {
        let answer = order("query-migrate", json!({}))?;
        match answer["status"].as_str() {
            Some("completed") => return Ok(()),
            Some("failed" | "cancelled") => {
                return Err(Error::environment(freezing()).answer(answer));
            }
            _ if begun.elapsed() > FREEZE => {
                return Err(Error::environment(freezing())
                    .answer(format!("after {} s: {answer}", FREEZE.as_secs())));
            }
            _ => thread::sleep(POLL),
        }
    }
}

/// A conversation with an emulator (QMP).
struct Emulator {
    answers: BufReader<UnixStream>,
    orders: UnixStream,
}

impl Emulator {
    fn connect(socket: &Path) -> io::Result<Self> {
        let orders = UnixStream::connect(socket)?;
        orders.set_read_timeout(Some(FREEZE))?;
        Ok(Self { answers: BufReader::new(orders.try_clone()?), orders })
    }

    fn order(&mut self, name: &str, arguments: &Value) -> io::Result<Value> {
        let order = json!({ "execute": name, "arguments": arguments });
        writeln!(self.orders, "{order}")?;
        answer(&mut self.answers, name)
    }
}

/// The next answer; greeting and events are passed over.
fn answer(lines: &mut impl BufRead, order: &str) -> io::Result<Value> {
    loop {
        let mut line = String::new();
        if lines.read_line(&mut line)? == 0 {
            return Err(io::Error::other(format!(
                "the emulator ended instead of answering {order}"
            )));
        }
        let mut said: Value = serde_json::from_str(&line)?;
        if let Some(error) = said.get("error") {
            return Err(io::Error::other(format!("{order}: {error}")));
        }
        if let Some(answer) = said.get_mut("return") {
            return Ok(answer.take());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn greetings_and_events_are_no_answers() {
        let said = r#"{"QMP": {"version": {}}}
{"event": "STOP"}
{"return": {"status": "active"}}
"#;
        let answer = answer(&mut said.as_bytes(), "query-migrate").expect("an answer");
        assert_eq!(answer["status"], "active");
    }

    #[test]
    fn a_refusal_and_an_end_are_errors() {
        let refused =
            answer(&mut &br#"{"error": {"class": "GenericError", "desc": "no"}}"#[..], "migrate");
        assert!(refused.expect_err("refused").to_string().contains("migrate"));
        assert!(answer(&mut &b""[..], "stop").is_err());
    }
}
