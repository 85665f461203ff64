//! `serial-prime`: a pause of 250 ms after each FETCH. Nothing is wrong but the time it takes: with 64 tags
//! the start-up needs 16 s.

use crate::specimens::Server;
use crate::specimens::base::Main;
use crate::specimens::queue_thread::{Habits, Spawn};

/// The main thread.
pub(crate) fn main(repaired: bool) -> Server {
    let habits = Habits { pause_ms: if repaired { 0 } else { 250 }, ..Habits::default() };
    Server::Plain(Main::new(Spawn::new(habits)))
}
