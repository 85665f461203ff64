//! Real kernels in QEMU, end-to-end scenarios, and verdicts that tell code from environment.
//!
//! One program with two roles. On the host it finds or fetches kernels ([`fetch`], [`kernel`]), builds a guest image from this very program and
//! what it calls ([`modules`], [`image`]), boots it ([`qemu`]) or goes on from one that has booted ([`frozen`]), watches it ([`session`]) and reports
//! ([`report`]). In the guest it is init and
//! runner ([`guest`]): it carries out the steps of the plan ([`plan`], [`pairwise`]) and sends events home ([`protocol`]).
//!
//! Scripts are carried out on real kernels ([`conformance`]) and what is observed is held against the model.
//!
//! What went wrong is judged by pure functions over recorded facts ([`facts`], [`verdict`], [`kmsg`]), tested without any kernel; [`selftest`] plants
//! faults in real guests and checks that every alarm rings.

#![deny(unsafe_code)]

pub mod cli;
pub mod conformance;
pub mod error;
pub mod facts;
pub mod fetch;
pub mod frozen;
pub mod guest;
pub mod image;
pub mod kernel;
pub mod kmsg;
pub mod modules;
pub mod pairwise;
pub mod plan;
pub mod protocol;
pub mod qemu;
pub mod report;
pub mod run;
pub mod selftest;
pub mod session;
pub mod sources;
pub mod tools;
pub mod verdict;
