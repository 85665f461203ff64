//! Traces of the real program, held against the model: is what a real kernel did a run of it?
//!
//! `blkproof add … --record DIR` writes down what a device's processes did at the border to the kernel
//! ([`blkproof_engine::record`]). [`check`] replays it: the recorded threads are the actors of a world, their calls and entries are
//! taken from the trace, and what they were answered must be what the model answers. What the kernel did by itself, and what its
//! clients asked for, is not in the trace: it is found, guided by the next thing that was observed.
//!
//! * *Time.* Records are taken in the order of their stamps, a beginning before an end at the same stamp: whatever
//!   took effect lies between its two stamps, so this order has everything that happened before something else before it.
//! * *Clients* act just in time: a request is issued when the trace delivers one, with what its descriptor says.
//! * *The kernel* is lazy: work of its own (control commands, aborts, ring exit, the release) is done when the next
//!   observation needs it, and no further.
//! * *Data* is left out: a request of the model has two sectors, whatever its size, and nobody looks at its bytes.
//!
//! Whatever is accepted is a run of the model, for every step that is taken is one of it. What is refused may in principle be one
//! all the same, if the kernel's own steps would have to be taken in another order than the lazy one.

mod check;
mod read;
mod stage;

pub use check::{Checked, Refused, check, check_planted};
pub use read::{Close, Process, ReadError, Recording};
