//! `start-before-fetch`: a queue says that it is ready before its FETCHes are submitted.
//!
//! START_DEV is sent under the device lock, and the serving thread needs that lock to submit. Whoever is
//! first decides: START_DEV waits for the FETCHes, and the FETCHes wait for START_DEV.

use crate::specimens::Server;
use crate::specimens::base::Main;
use crate::specimens::queue_thread::{Habits, Spawn};

/// The main thread.
pub(crate) fn main(repaired: bool) -> Server {
    Server::Plain(Main::new(Spawn::new(Habits { early_word: !repaired, ..Habits::default() })))
}
