//! A ublk engine that can be trusted not to hang: the driver on io_uring and the program blkproof.
//!
//! *The engine decides, a driver obeys.* The machines of `blkproof_engine` yield system calls; this crate carries them out.
//! A thread here is [`driver::run`]: resume the machine, make the call it asks for, resume it with the answer.
//!
//! | module | subject |
//! |---|---|
//! | [`cli`] | the commands of the program `blkproof` |
//! | [`launcher`], [`supervisor_process`], [`worker_process`] | who starts whom, and what each process does before its machine runs |
//! | [`deletion`], [`recovery`] | taking a device down, and bringing it back, whoever had brought it up |
//! | [`driver`] | the system calls of the three kinds of machine |
//! | [`os`] | memory, rings and signals: all the `unsafe` code |
//! | [`mailbox`], [`peer`] | links inside a process and between processes |
//! | [`tap`] | what is recorded with `--record` |
//! | [`board`], [`dump`] | what every machine waits for, readable while it waits |
//! | [`state_file`], [`devices`], [`query`] | what is known of devices, ours and others' |
#![deny(unsafe_code)]

pub mod board;
pub mod mailbox;
pub mod sync;

macro_rules! not_loom {
    ($(pub mod $name:ident;)*) => { $(#[cfg(not(loom))] pub mod $name;)* };
}

// A loom model needs the mailbox, the board, and nothing that enters the kernel.
not_loom! {
    pub mod bell;
    pub mod change;
    pub mod cli;
    pub mod control;
    pub mod deletion;
    pub mod devices;
    pub mod driver;
    pub mod dump;
    pub mod error;
    pub mod inherit;
    pub mod launcher;
    pub mod openers;
    pub mod orders;
    pub mod os;
    pub mod peer;
    pub mod process;
    pub mod query;
    pub mod recovery;
    pub mod state_file;
    pub mod store;
    pub mod supervisor_process;
    pub mod tap;
    pub mod task;
    pub mod worker_process;
}
