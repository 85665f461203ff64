//! Asking a process what its machines wait for. A thread of its own answers, so the machines' threads may be stuck in the kernel.

use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::thread;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::board::{Board, Name, View};
use crate::process;
use crate::state_file::{Role, RunDir};

/// How long either side waits for the other.
const PATIENCE: Duration = Duration::from_secs(2);
/// The state shown for a process that is not there.
pub const GONE: &str = "Gone";
/// The state shown for a process that does not answer: stopped, or not scheduled.
pub const SILENT: &str = "Silent";

/// A device's machines.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Dump {
    /// The device.
    pub id: u32,
    /// Its machines.
    pub machines: Vec<MachineDump>,
}

/// A machine.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct MachineDump {
    /// Which one: `supervisor`, `worker`, `queue 0`.
    pub name: String,
    /// What it is at.
    pub state: String,
    /// What it waits for.
    pub pending: Vec<PendingDump>,
}

/// One thing a machine waits for.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct PendingDump {
    /// What is awaited.
    pub waits_for: String,
    /// Who owes it.
    pub owner: String,
    /// What happens if it never comes.
    pub otherwise: String,
}

impl MachineDump {
    fn new((name, view): &(Name, View)) -> Self {
        let pending = view.pending().map(|pending| PendingDump {
            waits_for: pending.awaits.to_string(),
            owner: pending.owner.name().to_owned(),
            otherwise: pending.otherwise.to_string(),
        });
        Self { name: name.to_string(), state: view.state.to_string(), pending: pending.collect() }
    }

    fn absent(name: &str, state: &str) -> Self {
        Self { name: name.to_owned(), state: state.to_owned(), pending: Vec::new() }
    }
}

/// Answers at `socket` from now on, from a thread of its own. A process that cannot be asked still serves: failures are only logged.
pub fn serve(socket: &Path, board: Board) {
    let start = || -> io::Result<()> {
        // Left behind by a process that was killed.
        let _ = fs::remove_file(socket);
        let listener = UnixListener::bind(socket)?;
        thread::Builder::new().name("dump".into()).spawn(move || {
            for connection in listener.incoming().flatten() {
                // Whoever asked may have gone.
                let _ = answer(connection, &board);
            }
        })?;
        Ok(())
    };
    if let Err(error) = start() {
        process::report(&format!("blkproof: {} will not answer dump: {error}", socket.display()));
    }
}

fn answer(mut connection: UnixStream, board: &Board) -> io::Result<()> {
    connection.set_write_timeout(Some(PATIENCE))?;
    let machines: Vec<_> = board.views().iter().map(MachineDump::new).collect();
    connection.write_all(&serde_json::to_vec(&machines)?)
}

/// Asks both processes of a device.
pub fn collect(run_dir: &RunDir, id: u32) -> Dump {
    let mut machines = Vec::new();
    for (role, name) in [(Role::Supervisor, "supervisor"), (Role::Worker, "worker")] {
        match ask(&run_dir.socket(id, role)) {
            Ok(answered) => machines.extend(answered),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                machines.push(MachineDump::absent(name, SILENT));
            }
            Err(_) => machines.push(MachineDump::absent(name, GONE)),
        }
    }
    Dump { id, machines }
}

fn ask(socket: &Path) -> io::Result<Vec<MachineDump>> {
    let mut connection = UnixStream::connect(socket)?;
    connection.set_read_timeout(Some(PATIENCE))?;
    let mut answer = Vec::new();
    connection.read_to_end(&mut answer)?;
    Ok(serde_json::from_slice(&answer)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_answers_with_its_machines_and_an_absent_one_is_gone() {
        let temporary = tempfile::tempdir().expect("a directory");
        let socket = temporary.path().join("1.sup.sock");
        let board = Board::default();
        let _publisher = board.publisher(Name::Supervisor);
        serve(&socket, board);
        let machines = ask(&socket).expect("an answer");
        assert_eq!(machines, [MachineDump::absent("supervisor", "Boot")]);
        assert!(ask(&temporary.path().join("1.work.sock")).is_err());
    }
}
