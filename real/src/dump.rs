//! Asking a process what its machines wait for. A thread of its own answers, so the machines' threads may be stuck in the kernel.

use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::thread;
use std::time::Duration;

use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use serde::{Deserialize, Serialize};

use crate::board::{Board, Name, View};
use crate::process;
use crate::state_file::{Role, RunDir};

/// How long either side waits for the other.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long to leave an error of `accept` alone: one that lasts (too many open files) would keep a CPU busy.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
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
        thread::Builder::new()
            .name("dump".into())
            .spawn(move || answer_all(listener.incoming(), &board))?;
        Ok(())
    };
    if let Err(error) = start() {
        process::report(&format!("blkproof: {} will not answer dump: {error}", socket.display()));
    }
}

fn answer_all(connections: impl Iterator<Item = io::Result<UnixStream>>, board: &Board) {
    for connection in connections {
        match connection {
            // Whoever asked may have gone.
            Ok(connection) => drop(answer(connection, board)),
            Err(_) => thread::sleep(ACCEPT_PAUSE),
        }
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
        match ask(&run_dir.socket(id, role), PATIENCE) {
            Ok(answered) => machines.extend(answered),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                machines.push(MachineDump::absent(name, SILENT));
            }
            Err(_) => machines.push(MachineDump::absent(name, GONE)),
        }
    }
    Dump { id, machines }
}

fn ask(socket: &Path, patience: Duration) -> io::Result<Vec<MachineDump>> {
    let unconnected = rustix::net::socket_with(
        AddressFamily::UNIX,
        SocketType::STREAM,
        SocketFlags::CLOEXEC,
        None,
    )?;
    let mut connection = UnixStream::from(unconnected);
    connection.set_read_timeout(Some(patience))?;
    // For `connect`: it waits while too many that the process has not accepted are ahead of us.
    connection.set_write_timeout(Some(patience))?;
    rustix::net::connect(&connection, &SocketAddrUnix::new(socket)?)?;
    let mut answer = Vec::new();
    connection.read_to_end(&mut answer)?;
    Ok(serde_json::from_slice(&answer)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    #[test]
    fn a_process_answers_with_its_machines_and_an_absent_one_is_gone() {
        let temporary = tempfile::tempdir().expect("a directory");
        let socket = temporary.path().join("1.sup.sock");
        let board = Board::default();
        let _publisher = board.publisher(Name::Supervisor);
        serve(&socket, board);
        let machines = ask(&socket, PATIENCE).expect("an answer");
        assert_eq!(machines, [MachineDump::absent("supervisor", "Boot")]);
        assert!(ask(&temporary.path().join("1.work.sock"), PATIENCE).is_err());
    }

    #[test]
    fn a_process_that_neither_answers_nor_accepts_is_not_awaited_for_ever() {
        let temporary = tempfile::tempdir().expect("a directory");
        let socket = temporary.path().join("1.sup.sock");
        let family = AddressFamily::UNIX;
        let listener =
            rustix::net::socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, None);
        let listener = listener.expect("a socket");
        let address = SocketAddrUnix::new(&socket).expect("an address");
        rustix::net::bind(&listener, &address).expect("bound");
        rustix::net::listen(&listener, 0).expect("it listens");
        let silent = || ask(&socket, Duration::from_millis(50)).expect_err("nobody answers").kind();

        assert_eq!(silent(), io::ErrorKind::WouldBlock, "connected, and nothing to read");
        // Whoever gave up stays in the queue until it is accepted; there is no room for a second one.
        assert_eq!(silent(), io::ErrorKind::WouldBlock, "not even connected");
    }

    #[test]
    fn an_error_of_accept_is_neither_the_end_nor_a_busy_loop() {
        let (mut ours, theirs) = UnixStream::pair().expect("a socket pair");
        let refused = || Err(rustix::io::Errno::MFILE.into());
        let started = Instant::now();
        answer_all([refused(), refused(), Ok(theirs)].into_iter(), &Board::default());
        assert!(started.elapsed() >= 2 * ACCEPT_PAUSE);
        let mut text = String::new();
        ours.read_to_string(&mut text).expect("an answer");
        assert_eq!(text, "[]");
    }
}
