//! The pump: fill the submission queue, enter, reap. Partial submits, EINTR, refusals, a full queue and
//! a watch that fails meet the same code in every driver because it is written once, here.

use crate::sys::{Call, Cqe, Ret, Ring, Sqe, Token};
use crate::uapi::Errno;

/// The most completions handled before the kernel is entered again: a completion queue that never
/// runs empty must not keep a thread from the kernel.
pub const COMPLETIONS_PER_TURN_MAX: u16 = 256;

/// How often in a row the kernel may refuse an `enter`, or fail a watch, before the thread gives up: with the pauses
/// between, some 30 seconds. A device that is LIVE should outlast a machine that is short of memory.
pub const REFUSALS_MAX: u16 = 300;

/// The longest pause after a refusal, in milliseconds. The first is 1, and each is twice the one before.
pub const REFUSAL_PAUSE_MAX_MS: u32 = 100;

/// The state of one thread's pump.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Pump {
    /// The most entries that handling one completion may push. A completion is only reaped while there is room for
    /// them, so that handling never meets a full submission queue (I3).
    room: u8,
    /// Consecutive refusals of `enter`.
    refusals: u16,
    /// Consecutive failures of watches.
    deaf: u16,
    /// What the next park makes of a refusal.
    pause: Pause,
    /// Completions taken in this turn.
    taken: u16,
    /// The completion queue was seen empty in this turn.
    drained: bool,
    /// This turn began with the return from an `enter` that went well.
    entered: bool,
    /// Watches failed too often.
    broken: Option<Errno>,
}

/// Whether the next park sleeps instead of entering.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum Pause {
    No,
    /// The kernel wants completions to be reaped first: unless some were.
    UnlessReaped,
    Yes,
}

impl Pump {
    /// A pump that has not entered yet, for a thread that pushes up to `room` entries for one completion. A thread that
    /// watches anything has room for at least one: a watch that fails is renewed.
    pub const fn new(room: u8) -> Self {
        Self {
            room,
            refusals: 0,
            deaf: 0,
            pause: Pause::No,
            taken: 0,
            drained: false,
            entered: false,
            broken: None,
        }
    }

    /// Judges what the last park returned.
    ///
    /// # Errors
    /// The errno, when the kernel refuses for good.
    pub fn turn(&mut self, ret: Ret) -> Result<(), Errno> {
        let reaped = self.taken > 0;
        self.taken = 0;
        self.drained = false;
        self.entered = matches!(ret, Ret::Submitted(_));
        self.pause = Pause::No;
        if let Some(errno) = self.broken {
            return Err(errno);
        }
        match ret {
            Ret::Submitted(_) => self.refusals = 0,
            // What was pushed and not taken is still in the queue: sq_ready says so, whatever the count was.
            Ret::Start | Ret::Done | Ret::Failed(Errno::EINTR) => {}
            // EBUSY: the overflow backlog must be reaped first. EAGAIN, ENOMEM: no memory for a request.
            Ret::Failed(errno @ (Errno::EBUSY | Errno::EAGAIN | Errno::ENOMEM)) => {
                self.refusals = if reaped { 1 } else { self.refusals + 1 };
                if self.refusals > REFUSALS_MAX {
                    return Err(errno);
                }
                self.pause = if errno == Errno::EBUSY { Pause::UnlessReaped } else { Pause::Yes };
            }
            Ret::Failed(errno) => return Err(errno),
            Ret::Spawned(_) | Ret::Exited(_) | Ret::Running => {
                crate::sys::mismatch("an enter", ret)
            }
        }
        Ok(())
    }

    /// The next completion, if there is one, room for what it may cause, and the turn is not over.
    pub fn next(&mut self, ring: &mut impl Ring) -> Option<Cqe> {
        while ring.sq_space() >= u32::from(self.room) && self.taken < COMPLETIONS_PER_TURN_MAX {
            let Some(cqe) = ring.reap() else {
                self.drained = true;
                return None;
            };
            self.taken += 1;
            let watch = match cqe.token {
                Token::Link(link) => Sqe::Watch { link },
                Token::Worker => Sqe::WatchWorker,
                Token::Supervisor => Sqe::WatchSupervisor,
                // A timer that failed counts as expired: too early is better than never.
                Token::Io(_)
                | Token::Backend(_)
                | Token::Slot(_)
                | Token::Prep
                | Token::Commits
                | Token::Tags
                | Token::Timer(_)
                | Token::Control(_)
                | Token::Cancel => return Some(cqe),
            };
            if cqe.res >= 0 {
                self.deaf = 0;
                return Some(cqe);
            }
            self.renew(watch, Errno::from_result(cqe.res), ring);
        }
        None
    }

    /// A watch failed, so nobody knows whether there is something to hear: watch again, after a pause.
    fn renew(&mut self, watch: Sqe, errno: Errno, ring: &mut impl Ring) {
        self.deaf += 1;
        if self.deaf > REFUSALS_MAX {
            self.broken = Some(errno);
            return;
        }
        self.pause = Pause::Yes;
        ring.push(watch).expect("I3: a completion is reaped only while there is room");
    }

    /// Whether every completion that the kernel had posted by the beginning of this turn was handled.
    pub const fn drained(&self) -> bool {
        self.drained
    }

    /// Whether the kernel was entered just now and had nothing to say. One `enter` need not run all task work, so that alone an empty
    /// queue does not tell.
    pub const fn is_quiet(&self) -> bool {
        self.entered && self.drained && self.taken == 0
    }

    /// Parks the thread: submits what is there, and waits unless the thread has more to do by itself.
    pub fn park(&self, ring: &impl Ring, more: bool) -> Call {
        let pauses = match self.pause {
            Pause::No => false,
            Pause::UnlessReaped => self.taken == 0,
            Pause::Yes => true,
        };
        if pauses {
            let doublings = self.refusals.max(self.deaf).saturating_sub(1).min(7);
            return Call::Sleep { ms: (1 << doublings).min(REFUSAL_PAUSE_MAX_MS) };
        }
        let idle = self.drained && !more && self.broken.is_none();
        Call::Enter { submit: ring.sq_ready(), wait: u32::from(idle) }
    }
}
