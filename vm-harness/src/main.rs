//! `vm-harness`: see the library's documentation, or `vm-harness --help`.

use std::process::ExitCode;

use blkproof_vm_harness::cli::{Cli, Command};
use blkproof_vm_harness::error::{Error, ErrorKind};
use blkproof_vm_harness::{conformance, guest, qemu, run};
use clap::Parser;

fn main() -> ExitCode {
    // The kernel starts this program as /init, with whatever words its command line left over.
    if std::process::id() == 1 {
        return guest::init();
    }
    let code = match Cli::parse().command {
        Command::Run(args) => run::run(&args),
        Command::Fetch(args) => run::fetch(&args),
        Command::Conformance(args) => conformance::run(&args),
        Command::Selftest(args) => run::selftest(&args),
        Command::Guest => return guest::run(),
        Command::Actor { admin, shared } => return guest::actor(admin, &shared),
        Command::Idle => return guest::idle(),
        Command::Emulate { arguments } => Err(qemu::emulate(&arguments)),
    };
    match code {
        Ok(code) => code.into(),
        Err(error) => {
            eprintln!("vm-harness: {error}");
            exit_code(&error).into()
        }
    }
}

fn exit_code(error: &Error) -> u8 {
    match error.kind() {
        ErrorKind::Usage => 2,
        ErrorKind::Environment => 5,
        ErrorKind::KernelUnavailable => 6,
        ErrorKind::MissingPrograms => 7,
    }
}
