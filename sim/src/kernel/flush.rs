//! The flush machinery of the block layer (`block/blk-flush.c`): one flush at a time in each hardware queue, for all that want one.

use crate::choices::Site;
use crate::kernel::block::{BlockOp, Phase, Request};
use crate::run::Run;
use crate::world::{RequestId, World};

impl Request {
    /// A flush that was handed to the driver, or is about to be.
    fn is_under_way(&self) -> bool {
        self.op == BlockOp::Flush
            && match self.phase {
                Phase::Waiting => self.is_submitted(),
                Phase::Started | Phase::Parked => true,
                Phase::Entering | Phase::Plugged | Phase::Pending | Phase::Riding => false,
            }
    }
}

impl World {
    /// A flush takes its tag. True if it is the one to be handed to the driver now.
    pub(crate) fn begins_flush(&mut self, run: &mut Run<'_>, id: RequestId) -> bool {
        let tag = self.take_tag(run, id);
        let Some(request) = &mut self.requests[id.index()] else { return false };
        (request.tag, request.phase) = (tag, Phase::Pending);
        let queue = request.queue;
        self.kick_flush(run, queue);
        self.requests[id.index()].as_ref().is_some_and(|request| request.phase == Phase::Waiting)
    }

    /// A write is complete whose driver knows no FUA: it is durable after a flush, which has its tag. False: it is another request.
    pub(crate) fn goes_on_to_flush(&mut self, run: &mut Run<'_>, id: RequestId) -> bool {
        let Some(request) = &mut self.requests[id.index()] else { return false };
        if !request.flushes {
            return false;
        }
        request.flushes = false;
        (request.op, request.phase, request.done) = (BlockOp::Flush, Phase::Pending, 0);
        (request.memory, request.in_place) = (None, None);
        let queue = request.queue;
        let tag = request.tag.take_if(|_| request.scheduled);
        if let (Some(_), Some(device)) = (tag, &mut self.device) {
            device.hw[usize::from(queue)].busy -= 1;
        }
        run.progress();
        run.kernel(|| "a write is there, and is to be flushed".into());
        self.kick_flush(run, queue);
        true
    }

    /// Hands a flush to the driver, for all that wait for one: not while another is under way, nor before every write that will want one is
    /// there (`blk_kick_flush`).
    pub(crate) fn kick_flush(&mut self, run: &mut Run<'_>, queue: u16) {
        let mut pending = Vec::new();
        for (index, request) in self.requests.iter().enumerate() {
            let Some(request) = request.as_ref().filter(|request| request.queue == queue) else {
                continue;
            };
            if request.is_under_way() || request.flushes && request.is_submitted() {
                return;
            }
            if request.phase == Phase::Pending {
                pending.push(index);
            }
        }
        if pending.is_empty() {
            return;
        }
        let first = run.choose(Site::Tag, pending.len() as u32) as usize;
        let chosen = pending[first];
        for (nth, index) in pending.into_iter().enumerate() {
            if let Some(request) = &mut self.requests[index] {
                request.phase = if nth == first { Phase::Waiting } else { Phase::Riding };
            }
        }
        // It goes by way of the requeue list.
        self.kick_requeue_list(run);
        self.flush_goes_first(RequestId::from_index(chosen));
    }

    /// A flush is over, and so are those that it was for as well.
    pub(crate) fn end_riders(&mut self, run: &mut Run<'_>, queue: u16, status: Result<(), i32>) {
        for index in 0..self.requests.len() {
            let rider = self.requests[index]
                .take_if(|request| request.phase == Phase::Riding && request.queue == queue);
            if let Some(request) = rider {
                self.conclude(run, RequestId::from_index(index), &request, status);
            }
        }
    }
}
