//! The per-tag protocol, from the server's side.

use crate::uapi::Errno;

/// How often a commit that the kernel refused with EINVAL is sent again. After such an error the request is still ours.
pub const COMMIT_RETRIES_MAX: u8 = 3;

/// Who owns the tag, as far as the server knows.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum TagState {
    /// Not fetched in this round.
    Idle,
    /// The kernel owns it: a command of ours waits for a request.
    Armed(Sent),
    /// The server owns it: a request was delivered and is not committed yet.
    Owned,
    /// The kernel aborted it; nothing may be submitted for it in this round (O11).
    Dead,
}

/// The command that armed a tag.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum Sent {
    /// FETCH_REQ.
    Fetch,
    /// COMMIT_AND_FETCH_REQ.
    Commit {
        /// The result it carried.
        result: i32,
        /// How often it was refused so far.
        refused: u8,
    },
}

/// What can happen to a tag.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum TagEvent {
    /// The queue primes it.
    Prime,
    /// The kernel delivered a request.
    Delivered,
    /// The target finished the request with this result.
    Finished {
        /// Bytes, 0, or a negative errno.
        result: i32,
    },
    /// The kernel aborted the command.
    Aborted,
    /// The kernel refused the command.
    Refused(Errno),
}

/// What the queue must do about it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[must_use = "the tag has moved on: its action must be carried out"]
pub enum TagAction {
    /// Push a FETCH.
    Fetch,
    /// Read the descriptor and serve the request.
    Serve,
    /// Push a COMMIT with this result.
    Commit {
        /// Bytes, 0, or a negative errno.
        result: i32,
    },
    /// The tag is dead: count it.
    Retire,
    /// The kernel will not take this tag's command: the queue cannot go on.
    Fail(Errno),
    /// The event cannot happen in this state: the kernel, or this engine, broke the protocol.
    Violation,
}

impl TagState {
    /// Moves the tag on. Total: every state decides every event.
    pub fn handle(&mut self, event: TagEvent) -> TagAction {
        let (next, action) = match (*self, event) {
            (Self::Idle, TagEvent::Prime) => (Self::Armed(Sent::Fetch), TagAction::Fetch),
            (
                Self::Idle,
                TagEvent::Delivered
                | TagEvent::Finished { .. }
                | TagEvent::Aborted
                | TagEvent::Refused(_),
            ) => (Self::Idle, TagAction::Violation),

            (Self::Armed(_), TagEvent::Delivered) => (Self::Owned, TagAction::Serve),
            (Self::Armed(_), TagEvent::Aborted) => (Self::Dead, TagAction::Retire),
            (Self::Armed(Sent::Fetch), TagEvent::Refused(errno)) => {
                (Self::Idle, TagAction::Fail(errno))
            }
            (Self::Armed(Sent::Commit { result, refused }), TagEvent::Refused(errno)) => {
                // Refused, so the request is still ours: the same commit again, never the same request again.
                if errno == Errno::EINVAL && refused < COMMIT_RETRIES_MAX {
                    let sent = Sent::Commit { result, refused: refused + 1 };
                    (Self::Armed(sent), TagAction::Commit { result })
                } else {
                    (Self::Owned, TagAction::Fail(errno))
                }
            }
            (Self::Armed(sent), TagEvent::Prime | TagEvent::Finished { .. }) => {
                (Self::Armed(sent), TagAction::Violation)
            }

            (Self::Owned, TagEvent::Finished { result }) => {
                (Self::Armed(Sent::Commit { result, refused: 0 }), TagAction::Commit { result })
            }
            (
                Self::Owned,
                TagEvent::Prime | TagEvent::Delivered | TagEvent::Aborted | TagEvent::Refused(_),
            ) => (Self::Owned, TagAction::Violation),

            (
                Self::Dead,
                TagEvent::Prime
                | TagEvent::Delivered
                | TagEvent::Finished { .. }
                | TagEvent::Aborted
                | TagEvent::Refused(_),
            ) => (Self::Dead, TagAction::Violation),
        };
        *self = next;
        action
    }
}
