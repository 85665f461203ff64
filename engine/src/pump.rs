//! The pump: fill the submission queue, enter, reap. Partial submits, EINTR, refusals and a full
//! queue meet the same code in every driver because it is written once, here.

use crate::sys::{Call, Cqe, Ret, Ring};
use crate::uapi::Errno;

/// The most completions handled before the kernel is entered again: a completion queue that never
/// runs empty must not keep a thread from the kernel.
pub const COMPLETIONS_PER_TURN_MAX: u32 = 256;

/// How often in a row the kernel may refuse an `enter` before the thread gives up.
pub const REFUSALS_MAX: u8 = 200;

/// The pause after a refusal, in milliseconds.
pub const REFUSAL_PAUSE_MS: u32 = 1;

/// The state of one thread's pump.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Pump {
    /// The most entries that handling one completion may push. A completion is only reaped while there is room for
    /// them, so that handling never meets a full submission queue (I3).
    room: u8,
    /// Consecutive refusals.
    refusals: u8,
    /// The next park sleeps instead of entering.
    back_off: bool,
    /// Completions taken in this turn.
    taken: u16,
}

impl Pump {
    /// A pump that has not entered yet, for a thread that pushes up to `room` entries for one completion.
    pub const fn new(room: u8) -> Self {
        Self { room, refusals: 0, back_off: false, taken: 0 }
    }

    /// Judges what the last park returned.
    ///
    /// # Errors
    /// The errno, when the kernel refuses for good.
    pub fn turn(&mut self, ret: Ret) -> Result<(), Errno> {
        self.taken = 0;
        self.back_off = false;
        match ret {
            Ret::Submitted(_) => self.refusals = 0,
            // What was pushed and not taken is still in the queue: sq_ready says so, whatever the count was.
            Ret::Start | Ret::Done | Ret::Failed(Errno::EINTR) => {}
            // EBUSY: the overflow backlog must be reaped first. EAGAIN, ENOMEM: no memory for a request.
            Ret::Failed(errno @ (Errno::EBUSY | Errno::EAGAIN | Errno::ENOMEM)) => {
                self.refusals += 1;
                if self.refusals > REFUSALS_MAX {
                    return Err(errno);
                }
                self.back_off = errno != Errno::EBUSY;
            }
            Ret::Failed(errno) => return Err(errno),
            Ret::Spawned(_) | Ret::Exited(_) => {
                unreachable!("I1: the driver answered {ret:?} to an enter")
            }
        }
        Ok(())
    }

    /// The next completion, if there is one, room for what it may cause, and the turn is not over.
    pub fn next(&mut self, ring: &mut impl Ring) -> Option<Cqe> {
        if ring.sq_space() < u32::from(self.room)
            || u32::from(self.taken) == COMPLETIONS_PER_TURN_MAX
        {
            return None;
        }
        let cqe = ring.reap()?;
        self.taken += 1;
        Some(cqe)
    }

    /// Parks the thread: submits what is there, and waits unless the thread has more to do by itself.
    pub fn park(&self, ring: &impl Ring, more: bool) -> Call {
        if self.back_off {
            return Call::Sleep { ms: REFUSAL_PAUSE_MS };
        }
        let cut_short = ring.sq_space() < u32::from(self.room)
            || u32::from(self.taken) == COMPLETIONS_PER_TURN_MAX;
        Call::Enter { submit: ring.sq_ready(), wait: u32::from(!more && !cut_short) }
    }
}
