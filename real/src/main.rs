//! The program `blkproof`.

#[cfg(not(loom))]
fn main() -> std::process::ExitCode {
    blkproof::cli::main()
}

// A loom model drives the library's mailbox; there is no program in it.
#[cfg(loom)]
fn main() {}
