//! The program `sim`.

use std::process::ExitCode;

fn main() -> ExitCode {
    blkproof_sim::cli::main()
}
