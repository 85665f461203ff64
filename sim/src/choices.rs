//! The one seam: every nondeterministic decision of the simulator is a call of [`Choices::choose`].

/// Where a decision is taken. The name is part of every tape, so that a replay that went astray is
/// noticed at the first choice that does not match.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum Site {
    /// Which enabled step runs next.
    Schedule,
    /// How many entries an `enter` takes.
    Submit,
    /// Whether a signal interrupts a wait.
    Signal,
    /// How long something of the environment takes, in steps of the site's own unit.
    Delay,
    /// Which fault, if any, strikes a fallible call.
    Fault,
    /// What a client asks for next.
    Client,
    /// Which armed tag takes a request.
    Tag,
    /// Whether freed memory is used again at the same address.
    Address,
}

/// The bit of a source's number that says: this is not somebody who moves, but time that passes.
pub const TIME: u64 = 1 << 63;

/// A source of decisions.
pub trait Choices {
    /// A number in `0..n`. `n` is at least 1; with `n == 1` nothing is decided, drawn or recorded.
    fn choose(&mut self, site: Site, n: u32) -> u32;

    /// As [`choose`](Self::choose) at [`Site::Schedule`], with what stands behind each of the `n` steps: the source of an event
    /// keeps its number as long as it is the same thread, ring, command or operation; time, marked by [`TIME`], has another one
    /// each time that it passes. For strategies with priorities; who has none ignores it.
    fn schedule(&mut self, n: u32, _source: &dyn Fn(u32) -> u64) -> u32 {
        self.choose(Site::Schedule, n)
    }

    /// As [`choose`](Self::choose) among 256 at [`Site::Fault`], with the rate at which this kind of fault strikes, in 1/256: the last `rate`
    /// alternatives. For who goes through all opportunities of a kind; anybody else ignores it.
    fn fault(&mut self, _rate: u8) -> u32 {
        self.choose(Site::Fault, 256)
    }
}
