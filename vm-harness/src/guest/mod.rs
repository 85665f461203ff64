//! What runs inside the guest: its init, and the runner that carries out the job.

mod blkproof;
mod canary;
mod evidence;
mod fio;
mod init;
mod kmsg;
mod proc;
mod program;
mod runner;
mod scenario;

pub use init::init;
pub use runner::run;
