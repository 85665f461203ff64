//! The ublk protocol as pure state machines: *the engine decides, a driver obeys*.
//!
//! Everything a ublk server decides is here, as values: [`Supervisor`](supervisor::Supervisor) (control commands),
//! [`Worker`](worker::Worker) (the serving process), [`Queue`](queue::Queue) (one serving thread),
//! [`TagState`](tag::TagState) (one request slot), [`Launcher`](launcher::Launcher) and [`Query`](query::Query). Each machine asks for one [`Call`](sys::Call) at a time and is resumed
//! with its [`Ret`](sys::Ret). There is no I/O, no clock, no thread and no randomness in this crate, so that a
//! simulator and a real driver run the very same code.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;
#[cfg(test)]
extern crate std;

pub mod batch;
pub mod cause;
pub mod control;
pub mod data;
pub mod launcher;
pub mod link;
pub mod pending;
pub mod pump;
pub mod query;
pub mod queue;
pub mod record;
pub mod supervisor;
pub mod sys;
pub mod tag;
pub mod target;
pub mod uapi;
pub mod worker;
