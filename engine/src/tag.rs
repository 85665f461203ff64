//! The per-tag protocol, from the server's side.

use crate::uapi::Errno;

/// How often a commit, or a request for data, that the kernel refused with EINVAL is sent again. After such an error the request is still ours.
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
    /// Owned: a write was announced, and the kernel is asked for its data.
    Announced {
        /// The sectors that were announced. Fewer may come (H20).
        sectors: u32,
        /// How often that was refused so far.
        refused: u8,
    },
    /// Owned, and its pages are being registered by hand.
    Registering,
    /// Owned, and its pages are registered by hand.
    Registered,
    /// Owned and finished: the pages must be given back before the commit (H11).
    Unregistering {
        /// What will be committed.
        result: i32,
    },
    /// The kernel aborted it; nothing may be submitted for it in this round (O11).
    Dead,
}

/// The command that armed a tag. In a batch it is one of many, and may still wait to be sent ([`Batch`](crate::batch::Batch)).
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
    /// The kernel announced a write.
    Announced {
        /// Its sectors.
        sectors: u32,
    },
    /// What was delivered says that the driver could not register the pages.
    NotRegistered,
    /// REGISTER_IO_BUF or UNREGISTER_IO_BUF was done.
    SlotDone,
    /// REGISTER_IO_BUF or UNREGISTER_IO_BUF was refused.
    SlotRefused(Errno),
    /// The target finished the request with this result.
    Finished {
        /// Bytes, 0, or a negative errno.
        result: i32,
    },
    /// The kernel aborted the command.
    Aborted,
    /// The kernel refused the command.
    Refused(Errno),
    /// The kernel did not get as far as this tag's element of a batch (H44).
    Unconsumed,
}

/// What the queue must do about it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[must_use = "the tag has moved on: its action must be carried out"]
pub enum TagAction {
    /// Push a FETCH.
    Fetch,
    /// Push a NEED_GET_DATA.
    GetData,
    /// Read the descriptor and serve the request.
    Serve,
    /// Push a REGISTER_IO_BUF.
    Register,
    /// Serve the request: its pages are there now.
    Begin,
    /// Push an UNREGISTER_IO_BUF.
    Unregister,
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
    /// Whether the server owns the tag.
    pub const fn is_owned(self) -> bool {
        match self {
            Self::Owned
            | Self::Announced { .. }
            | Self::Registering
            | Self::Registered
            | Self::Unregistering { .. } => true,
            Self::Idle | Self::Armed(_) | Self::Dead => false,
        }
    }

    /// Whether the kernel owes it the answer to a REGISTER_IO_BUF or UNREGISTER_IO_BUF.
    pub const fn awaits_slot(self) -> bool {
        match self {
            Self::Registering | Self::Unregistering { .. } => true,
            Self::Owned
            | Self::Announced { .. }
            | Self::Registered
            | Self::Idle
            | Self::Armed(_)
            | Self::Dead => false,
        }
    }

    /// Whether the kernel owes it the data of a write.
    pub const fn awaits_data(self) -> bool {
        match self {
            Self::Announced { .. } => true,
            Self::Owned
            | Self::Registering
            | Self::Registered
            | Self::Unregistering { .. }
            | Self::Idle
            | Self::Armed(_)
            | Self::Dead => false,
        }
    }

    /// Moves the tag on. Total: every state decides every event.
    pub fn handle(&mut self, event: TagEvent) -> TagAction {
        let (next, action) = match *self {
            Self::Idle => Self::idle(event),
            Self::Armed(sent) => Self::armed(sent, event),
            Self::Owned => Self::owned(event),
            Self::Announced { sectors, refused } => Self::announced(sectors, refused, event),
            Self::Registering => Self::registering(event),
            Self::Registered => Self::registered(event),
            Self::Unregistering { result } => Self::unregistering(result, event),
            Self::Dead => Self::dead(event),
        };
        *self = next;
        action
    }

    const fn idle(event: TagEvent) -> (Self, TagAction) {
        match event {
            TagEvent::Prime => (Self::Armed(Sent::Fetch), TagAction::Fetch),
            TagEvent::Delivered
            | TagEvent::Announced { .. }
            | TagEvent::NotRegistered
            | TagEvent::SlotDone
            | TagEvent::SlotRefused(_)
            | TagEvent::Finished { .. }
            | TagEvent::Aborted
            | TagEvent::Refused(_)
            | TagEvent::Unconsumed => (Self::Idle, TagAction::Violation),
        }
    }

    const fn dead(event: TagEvent) -> (Self, TagAction) {
        match event {
            TagEvent::Prime
            | TagEvent::Delivered
            | TagEvent::Announced { .. }
            | TagEvent::NotRegistered
            | TagEvent::SlotDone
            | TagEvent::SlotRefused(_)
            | TagEvent::Finished { .. }
            | TagEvent::Aborted
            | TagEvent::Refused(_)
            | TagEvent::Unconsumed => (Self::Dead, TagAction::Violation),
        }
    }

    fn armed(sent: Sent, event: TagEvent) -> (Self, TagAction) {
        match (sent, event) {
            (_, TagEvent::Delivered) => (Self::Owned, TagAction::Serve),
            (_, TagEvent::Announced { sectors }) => {
                (Self::Announced { sectors, refused: 0 }, TagAction::GetData)
            }
            (_, TagEvent::Aborted) => (Self::Dead, TagAction::Retire),
            (Sent::Commit { result, refused }, TagEvent::Unconsumed) => {
                (Self::Armed(Sent::Commit { result, refused }), TagAction::Commit { result })
            }
            (Sent::Fetch, TagEvent::Unconsumed) => (Self::Armed(Sent::Fetch), TagAction::Violation),
            (Sent::Fetch, TagEvent::Refused(errno)) => (Self::Idle, TagAction::Fail(errno)),
            (Sent::Commit { result, refused }, TagEvent::Refused(errno)) => {
                // Refused, so the request is still ours: the same commit again, never the same request again.
                if errno == Errno::EINVAL && refused < COMMIT_RETRIES_MAX {
                    let sent = Sent::Commit { result, refused: refused + 1 };
                    (Self::Armed(sent), TagAction::Commit { result })
                } else {
                    (Self::Owned, TagAction::Fail(errno))
                }
            }
            (
                sent,
                TagEvent::Prime
                | TagEvent::NotRegistered
                | TagEvent::SlotDone
                | TagEvent::SlotRefused(_)
                | TagEvent::Finished { .. },
            ) => (Self::Armed(sent), TagAction::Violation),
        }
    }

    const fn commit(result: i32) -> (Self, TagAction) {
        (Self::Armed(Sent::Commit { result, refused: 0 }), TagAction::Commit { result })
    }

    const fn owned(event: TagEvent) -> (Self, TagAction) {
        match event {
            TagEvent::Finished { result } => Self::commit(result),
            TagEvent::NotRegistered => (Self::Registering, TagAction::Register),
            TagEvent::Prime
            | TagEvent::Delivered
            | TagEvent::Announced { .. }
            | TagEvent::SlotDone
            | TagEvent::SlotRefused(_)
            | TagEvent::Aborted
            | TagEvent::Refused(_)
            | TagEvent::Unconsumed => (Self::Owned, TagAction::Violation),
        }
    }

    fn announced(sectors: u32, refused: u8, event: TagEvent) -> (Self, TagAction) {
        match event {
            TagEvent::Delivered => (Self::Owned, TagAction::Serve),
            // Nothing could be copied. The kernel has queued the request anew, and the tag was armed like after a FETCH (H19).
            TagEvent::Announced { sectors } => {
                (Self::Announced { sectors, refused: 0 }, TagAction::GetData)
            }
            TagEvent::Aborted => (Self::Dead, TagAction::Retire),
            TagEvent::Refused(errno) if errno == Errno::EINVAL && refused < COMMIT_RETRIES_MAX => {
                (Self::Announced { sectors, refused: refused + 1 }, TagAction::GetData)
            }
            TagEvent::Refused(errno) => {
                (Self::Announced { sectors, refused }, TagAction::Fail(errno))
            }
            TagEvent::Prime
            | TagEvent::NotRegistered
            | TagEvent::SlotDone
            | TagEvent::SlotRefused(_)
            | TagEvent::Finished { .. }
            | TagEvent::Unconsumed => (Self::Announced { sectors, refused }, TagAction::Violation),
        }
    }

    const fn registering(event: TagEvent) -> (Self, TagAction) {
        match event {
            TagEvent::SlotDone => (Self::Registered, TagAction::Begin),
            // Nothing is held, so nothing must be given back.
            TagEvent::SlotRefused(_) => Self::commit(Errno::EIO.to_result()),
            TagEvent::Prime
            | TagEvent::Delivered
            | TagEvent::Announced { .. }
            | TagEvent::NotRegistered
            | TagEvent::Finished { .. }
            | TagEvent::Aborted
            | TagEvent::Refused(_)
            | TagEvent::Unconsumed => (Self::Registering, TagAction::Violation),
        }
    }

    const fn registered(event: TagEvent) -> (Self, TagAction) {
        match event {
            TagEvent::Finished { result } => {
                (Self::Unregistering { result }, TagAction::Unregister)
            }
            TagEvent::Prime
            | TagEvent::Delivered
            | TagEvent::Announced { .. }
            | TagEvent::NotRegistered
            | TagEvent::SlotDone
            | TagEvent::SlotRefused(_)
            | TagEvent::Aborted
            | TagEvent::Refused(_)
            | TagEvent::Unconsumed => (Self::Registered, TagAction::Violation),
        }
    }

    const fn unregistering(result: i32, event: TagEvent) -> (Self, TagAction) {
        match event {
            TagEvent::SlotDone => Self::commit(result),
            // A commit now would leave the request with nobody (H11). The process ends, and the kernel takes both back.
            TagEvent::SlotRefused(errno) => {
                (Self::Unregistering { result }, TagAction::Fail(errno))
            }
            TagEvent::Prime
            | TagEvent::Delivered
            | TagEvent::Announced { .. }
            | TagEvent::NotRegistered
            | TagEvent::Finished { .. }
            | TagEvent::Aborted
            | TagEvent::Refused(_)
            | TagEvent::Unconsumed => (Self::Unregistering { result }, TagAction::Violation),
        }
    }
}
