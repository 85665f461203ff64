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

/// A source of decisions.
pub trait Choices {
    /// A number in `0..n`. `n` is at least 1; with `n == 1` nothing is decided, drawn or recorded.
    fn choose(&mut self, site: Site, n: u32) -> u32;
}
