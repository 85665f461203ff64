//! What a queue does where commands are about many tags: arms all of them by one, is told of requests by another that goes on, and commits whatever
//! is finished by a third.

use super::{PUSHES_PER_COMPLETION_MAX, Phase, Queue, push};
use crate::batch::{Batch, BatchOp, Consumed, Element, Fetch};
use crate::cause::{Cause, Step as Attempt};
use crate::sys::{QueueIo, Sqe};
use crate::tag::{TagAction, TagEvent};
use crate::target::Target;
use crate::uapi::{Errno, FETCH_BATCH_TAG_BYTES, FetchResult, Tag};

impl<T: Target> Queue<T> {
    /// Arms all tags by one command, then has the kernel tell of requests. Says whether there is more to do without waiting.
    pub(super) fn prepare(&mut self, io: &mut impl QueueIo) -> bool {
        let violation = "a queue prepares in batches if it has batches";
        let depth = self.config.depth;
        match self.batch.as_ref().expect(violation).fetch {
            Fetch::Unprepared if io.sq_space() == 0 => true,
            Fetch::Unprepared => {
                for number in 0..depth {
                    let tag = Tag(number);
                    let action = self.tags[usize::from(number)].handle(TagEvent::Prime);
                    assert_eq!(action, TagAction::Fetch, "I4: every tag is primed once, when idle");
                    let address = self.config.data.address(tag);
                    let element = Element { tag, result: 0, address };
                    self.batch.as_mut().expect(violation).finished(element);
                }
                let batch = self.batch.as_mut().expect(violation);
                batch.fetch = Fetch::Preparing;
                if let Some(elements) = batch.take() {
                    let pushed = io.push_batch(BatchOp::Prep, elements);
                    pushed.expect("I3: there is room for it");
                }
                self.phase = Phase::Priming { armed: depth };
                false
            }
            Fetch::Preparing | Fetch::Lost => false,
            Fetch::Due => true,
            Fetch::Armed => self.primed(depth, io),
        }
    }

    /// The command that arms all tags was answered.
    pub(super) fn prepared(&mut self, res: i32) -> Result<(), Cause> {
        let violation = self.violation();
        let queue = self.config.id;
        let Some(batch) = self.batch.as_mut().filter(|batch| batch.fetch == Fetch::Preparing)
        else {
            return Err(violation);
        };
        batch.answered();
        match FetchResult::from_result(res) {
            FetchResult::Request => batch.fetch = Fetch::Due,
            FetchResult::Abort => {
                batch.fetch = Fetch::Lost;
                self.quitting = true;
            }
            FetchResult::NeedGetData => return Err(violation),
            FetchResult::Error(errno) => {
                return Err(Cause::errno(Attempt::Prepare(queue), errno));
            }
        }
        Ok(())
    }

    /// The kernel tells of requests, or ended the command that does.
    pub(super) fn hear_of(&mut self, res: i32, io: &mut impl QueueIo) -> Result<(), Cause> {
        const TAG_BYTES: i32 = FETCH_BATCH_TAG_BYTES as i32;
        let violation = self.violation();
        let queue = self.config.id;
        let depth = self.config.depth;
        let Some(batch) = self.batch.as_mut().filter(|batch| batch.fetch == Fetch::Armed) else {
            return Err(violation);
        };
        if res >= 0 {
            for nth in 0..(res / TAG_BYTES) as u16 {
                let tag = io.told(nth);
                if tag.0 >= depth || !batch.tell(tag) {
                    return Err(violation);
                }
            }
            // Before the command is sent again, if it ended: it might find none (H43).
            io.give_back();
            if res % TAG_BYTES != 0 {
                return Err(violation);
            }
            if io.goes_on() || batch.renew() {
                return Ok(());
            }
            return Err(violation);
        }
        match Errno::from_result(res) {
            Errno::ENODEV => {
                batch.fetch = Fetch::Lost;
                self.quitting = true;
            }
            // No buffer, or no room for a completion. What the kernel was to tell of waits there.
            Errno::ENOBUFS if batch.renew() => {}
            errno => return Err(Cause::errno(Attempt::Serve(queue), errno)),
        }
        Ok(())
    }

    /// What became of the commits that were sent.
    pub(super) fn committed(&mut self, res: i32, io: &mut impl QueueIo) -> Result<(), Cause> {
        let violation = self.violation();
        let Some(batch) = self.batch.as_mut().filter(|batch| batch.fetch != Fetch::Preparing)
        else {
            return Err(violation);
        };
        let consumed = batch.consumed(res);
        let mut left = match consumed {
            Consumed::Elements(count) => count,
            Consumed::Refused(_) => 0,
            Consumed::Nonsense => return Err(violation),
        };
        // Whatever was not consumed is committed again (H44), and never carried out again (H15).
        while let Some(element) = self.batch.as_ref().and_then(|batch| batch.sent(left)) {
            let event = match consumed {
                Consumed::Refused(errno) if left == 0 => TagEvent::Refused(errno),
                Consumed::Refused(_) | Consumed::Elements(_) | Consumed::Nonsense => {
                    TagEvent::Unconsumed
                }
            };
            self.advance(element.tag, event, io)?;
            left += 1;
        }
        if let Some(batch) = &mut self.batch {
            batch.answered();
        }
        Ok(())
    }

    /// Begins what the kernel told of, sends what is finished, and has the kernel tell again, while there is room. Says whether there is more of
    /// that. O(1) for each of them.
    pub(super) fn work_off(&mut self, io: &mut impl QueueIo) -> Result<bool, Cause> {
        if self.batch.is_none() {
            return Ok(false);
        }
        while io.sq_space() >= u32::from(PUSHES_PER_COMPLETION_MAX) {
            let Some(tag) = self.batch.as_mut().and_then(Batch::next_told) else { break };
            self.advance(tag, TagEvent::Delivered, io)?;
        }
        let Some(batch) = &mut self.batch else { return Ok(false) };
        if io.sq_space() > 0
            && batch.fetch != Fetch::Preparing
            && let Some(elements) = batch.take()
        {
            let pushed = io.push_batch(BatchOp::Commit, elements);
            pushed.expect("I3: there is room for it");
        }
        if io.sq_space() > 0 && batch.fetch == Fetch::Due && !self.quitting {
            batch.fetch = Fetch::Armed;
            push(io, Sqe::FetchTags);
        }
        let due = batch.fetch == Fetch::Due && !self.quitting;
        Ok(batch.told() > 0 || batch.has_to_send() && batch.fetch != Fetch::Preparing || due)
    }
}
