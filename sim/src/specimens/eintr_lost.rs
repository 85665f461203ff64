//! `eintr-lost`: a signal interrupts the wait, and the serving thread takes EINTR for the end of its work.
//!
//! Its ring stays open, so the kernel goes on delivering requests to it; nobody commits them.

use crate::specimens::Server;
use crate::specimens::base::Main;
use crate::specimens::queue_thread::{Habits, Spawn};

/// The main thread.
pub(crate) fn main(repaired: bool) -> Server {
    let habits = Habits { gives_up_on_eintr: !repaired, ..Habits::default() };
    Server::Plain(Main::new(Spawn::new(habits)))
}
