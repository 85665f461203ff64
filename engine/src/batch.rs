//! What a queue of a batch device has besides its tags: one command that arms them all, one that tells of requests for as long as it
//! lasts, and one that commits whatever is finished.

use alloc::boxed::Box;
use alloc::vec;

use crate::data::Address;
use crate::uapi::{Errno, Tag};

/// How often in a row the command that tells of requests may end for want of a buffer without having told of any, before the queue gives up.
pub const STARVED_MAX: u16 = 300;

/// A command about many tags.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum BatchOp {
    /// `UBLK_U_IO_PREP_IO_CMDS`: arms all of them, or none.
    Prep,
    /// `UBLK_U_IO_COMMIT_IO_CMDS`: completes their requests and arms them again, as far as the first one that is refused.
    Commit,
}

/// One tag of such a command.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Element {
    /// The tag.
    pub tag: Tag,
    /// COMMIT: bytes transferred, 0, or a negative errno.
    pub result: i32,
    /// Where the data is, and that of the next request is to be.
    pub address: Address,
}

impl Element {
    const NONE: Self = Self { tag: Tag(0), result: 0, address: Address::Nothing };

    /// Bytes of it, as the kernel counts what it consumed.
    pub const fn bytes(&self) -> u16 {
        match self.address {
            Address::Buffer => 16,
            Address::Nothing | Address::Slot(_) => 8,
        }
    }
}

/// Where the command that tells of requests stands.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum Fetch {
    /// No tag is armed yet.
    Unprepared,
    /// The kernel is asked to arm all of them.
    Preparing,
    /// To be sent: for the first time, or again because it ended (H43).
    Due,
    /// With the kernel.
    Armed,
    /// The kernel aborted it. Nothing is fetched any more in this round (O11).
    Lost,
}

/// A list with room for every tag, made once.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct List {
    elements: Box<[Element]>,
    len: u16,
}

impl List {
    fn new(depth: u16) -> Self {
        Self { elements: vec![Element::NONE; usize::from(depth)].into_boxed_slice(), len: 0 }
    }

    fn push(&mut self, element: Element) {
        self.elements[usize::from(self.len)] = element;
        self.len += 1;
    }

    fn all(&self) -> &[Element] {
        &self.elements[..usize::from(self.len)]
    }
}

/// The batches of one queue.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Batch {
    pub(crate) fetch: Fetch,
    /// How often in a row it ended for want of a buffer.
    starved: u16,
    /// Tags that the kernel told of and that nobody has begun: a ring.
    told: Box<[Tag]>,
    first_told: u16,
    told_len: u16,
    /// What is finished, and not sent.
    ready: List,
    /// What is being committed: the kernel may still read it.
    sent: List,
}

/// What the kernel made of the batch that was sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Consumed {
    /// So many of its elements.
    Elements(u16),
    /// None: the first was refused.
    Refused(Errno),
    /// Nothing that makes sense.
    Nonsense,
}

impl Batch {
    /// For so many tags. Allocates everything it will ever need (I8).
    pub(crate) fn new(depth: u16) -> Self {
        Self {
            fetch: Fetch::Unprepared,
            starved: 0,
            told: vec![Tag(0); usize::from(depth)].into_boxed_slice(),
            first_told: 0,
            told_len: 0,
            ready: List::new(depth),
            sent: List::new(depth),
        }
    }

    /// The kernel told of a request. False if it told of more than there are tags.
    pub(crate) fn tell(&mut self, tag: Tag) -> bool {
        let depth = self.told.len();
        if usize::from(self.told_len) == depth {
            return false;
        }
        let at = (usize::from(self.first_told) + usize::from(self.told_len)) % depth;
        self.told[at] = tag;
        self.told_len += 1;
        self.starved = 0;
        true
    }

    /// The oldest request that nobody has begun.
    pub(crate) fn next_told(&mut self) -> Option<Tag> {
        if self.told_len == 0 {
            return None;
        }
        let tag = self.told[usize::from(self.first_told)];
        self.first_told = (self.first_told + 1) % self.told.len() as u16;
        self.told_len -= 1;
        Some(tag)
    }

    /// The fetch ended for want of a buffer, or without a reason. False: too often.
    pub(crate) const fn renew(&mut self) -> bool {
        self.fetch = Fetch::Due;
        self.starved += 1;
        self.starved <= STARVED_MAX
    }

    /// A request is finished: it goes with the next batch.
    pub(crate) fn finished(&mut self, element: Element) {
        self.ready.push(element);
    }

    /// What can be sent now: one batch at a time, because the kernel reads it where it is.
    pub(crate) fn take(&mut self) -> Option<&[Element]> {
        if self.sent.len > 0 || self.ready.len == 0 {
            return None;
        }
        core::mem::swap(&mut self.sent, &mut self.ready);
        Some(self.sent.all())
    }

    /// Whether there is something that can be sent.
    pub(crate) const fn has_to_send(&self) -> bool {
        self.sent.len == 0 && self.ready.len > 0
    }

    /// What became of what was sent.
    pub(crate) fn consumed(&self, res: i32) -> Consumed {
        let Some(first) = self.sent.all().first() else { return Consumed::Nonsense };
        if res < 0 {
            return Consumed::Refused(Errno::from_result(res));
        }
        let bytes = i32::from(first.bytes());
        let elements = res / bytes;
        if res == 0 || res % bytes != 0 || elements > i32::from(self.sent.len) {
            return Consumed::Nonsense;
        }
        Consumed::Elements(elements as u16)
    }

    /// The elements that were sent, from one on; none is in flight any more.
    pub(crate) fn sent(&self, nth: u16) -> Option<Element> {
        self.sent.all().get(usize::from(nth)).copied()
    }

    /// Nothing is in flight any more.
    pub(crate) const fn answered(&mut self) {
        self.sent.len = 0;
    }

    /// Requests that were told of and not begun.
    pub(crate) const fn told(&self) -> u16 {
        self.told_len
    }

    /// Requests that are finished, and whose commit the kernel has not confirmed.
    pub(crate) const fn uncommitted(&self) -> u16 {
        self.ready.len + self.sent.len
    }
}
