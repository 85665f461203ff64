//! A seeded simulator of ublk servers and the kernel they talk to.
//!
//! [`run::run`] drives the very machines that serve real devices (or a known-bad server of the
//! museum, [`specimens`]) over a model of the kernel. Every nondeterministic decision is a call of
//! [`choices::Choices::choose`], so a run is a function of its configuration and its choices.
#![forbid(unsafe_code)]

pub mod choices;
pub mod cli;
pub mod config;
pub mod describe;
pub mod drivers;
pub mod findings;
pub mod hazards;
pub mod hunt;
pub mod minimise;
pub mod museum;
pub mod nth;
pub mod outcome;
pub mod pct;
pub mod report;
pub mod results;
pub mod run;
pub mod script;
pub mod shard;
pub mod specimens;
pub mod strategy;
pub mod swarm;
pub mod tape;
pub mod testing;
pub mod trace;

mod changes;
mod clients;
mod crash;
mod disk;
mod holder;
mod kernel;
mod oracle;
mod server;
mod world;
mod world_hash;

pub use run::run;
