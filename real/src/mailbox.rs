//! Mailboxes: the links between the threads of one process.
//!
//! A bounded queue of messages behind a lock, and a doorbell that the receiver's ring watches. The sender pushes, then rings; the
//! receiver silences the doorbell, then looks. In this order, a message that the receiver did not see has rung a doorbell
//! that nobody silenced after it, so a watch on the doorbell always completes: no wake-up is lost (loom model: `tests/loom_links.rs`).

use std::collections::VecDeque;

use blkproof_engine::link::Received;

use crate::sync::Mutex;

/// What wakes the receiver: rung it stays rung until it is silenced.
pub trait Doorbell {
    /// Rings. Never blocks.
    fn ring(&self);
    /// Silences. Never blocks.
    fn silence(&self);
}

/// A link with any number of senders and one receiver, all in one process. It is never closed: its process ends first.
#[derive(Debug)]
pub struct Mailbox<M, D> {
    messages: Mutex<VecDeque<M>>,
    capacity: usize,
    doorbell: D,
}

impl<M, D: Doorbell> Mailbox<M, D> {
    /// An empty mailbox for up to `capacity` messages. Allocates all it will ever need.
    pub fn new(capacity: usize, doorbell: D) -> Self {
        Self { messages: Mutex::new(VecDeque::with_capacity(capacity)), capacity, doorbell }
    }

    /// The doorbell, for a watch.
    pub const fn doorbell(&self) -> &D {
        &self.doorbell
    }

    /// Sends a message.
    ///
    /// # Panics
    /// If it holds its maximum already (I9).
    pub fn tell(&self, message: M) {
        {
            let mut messages = self.messages.lock();
            assert!(
                messages.len() < self.capacity,
                "I9: a mailbox holds all its senders may ever say"
            );
            messages.push_back(message);
        }
        self.doorbell.ring();
    }

    /// Takes the oldest message.
    pub fn hear(&self) -> Received<M> {
        self.doorbell.silence();
        self.messages.lock().pop_front().map_or(Received::Empty, Received::Message)
    }
}
