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

// A loom model needs the mailbox, the board, and nothing that enters the kernel.
#[cfg(not(loom))]
pub mod bell;
#[cfg(not(loom))]
pub mod change;
#[cfg(not(loom))]
pub mod cli;
#[cfg(not(loom))]
pub mod control;
#[cfg(not(loom))]
pub mod deletion;
#[cfg(not(loom))]
pub mod devices;
#[cfg(not(loom))]
pub mod driver;
#[cfg(not(loom))]
pub mod dump;
#[cfg(not(loom))]
pub mod error;
#[cfg(not(loom))]
pub mod inherit;
#[cfg(not(loom))]
pub mod launcher;
#[cfg(not(loom))]
pub mod openers;
#[cfg(not(loom))]
pub mod orders;
#[cfg(not(loom))]
pub mod os;
#[cfg(not(loom))]
pub mod peer;
#[cfg(not(loom))]
pub mod process;
#[cfg(not(loom))]
pub mod query;
#[cfg(not(loom))]
pub mod recovery;
#[cfg(not(loom))]
pub mod shared;
#[cfg(not(loom))]
pub mod state_file;
#[cfg(not(loom))]
pub mod store;
#[cfg(not(loom))]
pub mod supervisor_process;
#[cfg(not(loom))]
pub mod tap;
#[cfg(not(loom))]
pub mod task;
#[cfg(not(loom))]
pub mod worker_process;
