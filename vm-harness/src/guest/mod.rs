//! What runs inside the guest: its init, and the runner that carries out the job.

mod blkproof;
mod canary;
mod change;
mod evidence;
mod fio;
mod init;
mod kmsg;
mod proc;
mod program;
mod record;
mod recovery;
mod runner;
mod scenario;
mod shared;
mod stage;

pub use init::init;
pub use runner::run;

/// A process of actors, for scripts. Called in the guest, by the runner.
pub fn actor(admin: bool, shared: &std::path::Path) -> std::process::ExitCode {
    stage::actor(admin, shared)
}

/// What such a process becomes when it executes another program.
pub fn idle() -> std::process::ExitCode {
    stage::idle()
}
