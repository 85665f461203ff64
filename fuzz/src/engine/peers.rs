//! What is on the other side of a machine: answers of the driver, messages, memory.

use blkproof_engine::batch::{BatchOp, Element};
use blkproof_engine::control::{Command, Kind, Reply};
use blkproof_engine::data::Place;
use blkproof_engine::link::{
    FromQueue, FromWorker, News, Order, Received, ToQueue, ToWorker, Verdict,
};
use blkproof_engine::sys::{
    ControlIo, LauncherIo, MemoryOp, QueueIo, SqFull, SupervisorIo, Token, WorkerIo,
};
use blkproof_engine::uapi::{BasicParams, DevId, DevInfo, Features, IoDesc, QueueId, Tag};

use super::kernel::{Input, Kernel, Life, Primes, RESULTS};

impl ControlIo for Kernel<'_> {
    fn push_control(&mut self, sequence: u32, command: &Command) -> Result<(), SqFull> {
        assert!(self.sq.len() < self.entries, "I3: a push never fails: {command:?}");
        let control = |token: &Token| matches!(token, Token::Control(_));
        let under_way = self.sq.iter().chain(&self.flight).any(control);
        assert!(!under_way, "I10: one control command at a time: {command:?}");
        self.sq.push_back(Token::Control(sequence));
        self.did.starts += u32::from(command.kind() == Kind::StartDev);
        self.did.deletions += u32::from(command.kind() == Kind::DelDev);
        self.command = Some(command.clone());
        Ok(())
    }

    /// Answers of the command's own kind. A decoder stands between them and the kernel, so it is any value of the type.
    fn reply(&self) -> Reply {
        // This is asked for without leave to move on in the input: what is left of it says what the answer is.
        let rest = &mut Input(self.input.0);
        let Some(command) = &self.command else { return Reply::Nothing };
        match command.kind() {
            Kind::GetFeatures => {
                let some = u64::from(rest.number()) | u64::from(rest.number()) << 32;
                let all = rest.below(4) > 0 || some == 0;
                Reply::Features(Features(if all { u64::MAX } else { some }))
            }
            Kind::GetParams => Reply::Params(BasicParams {
                dev_sectors: u64::from(rest.number()),
                ..BasicParams::default()
            }),
            Kind::AddDev | Kind::GetDevInfo => {
                let mut bytes = match command {
                    Command::AddDev(info) => *info,
                    _ => DevInfo {
                        dev_id: DevId(0),
                        nr_hw_queues: 1,
                        queue_depth: 1,
                        ..DevInfo::default()
                    },
                }
                .encode();
                for _ in 0..rest.below(6).saturating_sub(2) {
                    let at = rest.below(bytes.len());
                    bytes[at] = rest.byte();
                }
                DevInfo::decode(&bytes).map_or(Reply::Nothing, Reply::DevInfo)
            }
            Kind::SetParams
            | Kind::StartDev
            | Kind::StopDev
            | Kind::DelDev
            | Kind::StartRecovery
            | Kind::EndRecovery
            | Kind::QuiesceDev
            | Kind::UpdateSize
            | Kind::TryStopDev
            | Kind::RegBuf => Reply::Nothing,
        }
    }
}

impl SupervisorIo for Kernel<'_> {
    fn hear_operator(&mut self) -> Received<Order> {
        self.order()
    }

    fn hear_worker(&mut self) -> Received<FromWorker> {
        if self.closed {
            return Received::Closed;
        }
        let resizes = std::mem::take(&mut self.resizes);
        let Some(what) = self.input.message(12) else { return Received::Empty };
        match what {
            0..=3 => Received::Message(FromWorker::Primed),
            4 => {
                self.closed = true;
                Received::Message(FromWorker::Failed(self.input.cause()))
            }
            5 => {
                self.closed = true;
                Received::Message(FromWorker::Ended)
            }
            6 => {
                self.closed = true;
                Received::Closed
            }
            7 if resizes => Received::Message(FromWorker::NotResized(self.input.cause())),
            8 | 9 if resizes => {
                Received::Message(FromWorker::Resized { sectors: self.input.number().into() })
            }
            _ => {
                self.resizes = resizes;
                Received::Empty
            }
        }
    }

    fn tell_worker(&mut self, message: ToWorker) {
        self.resizes |= matches!(message, ToWorker::Resize { .. });
    }

    fn tell_launcher(&mut self, _verdict: Verdict) {}

    fn note(&mut self, _news: News) {}
}

impl LauncherIo for Kernel<'_> {
    fn hear_operator(&mut self) -> Received<Order> {
        self.order()
    }

    fn hear_supervisor(&mut self) -> Received<Verdict> {
        if self.closed {
            return Received::Closed;
        }
        let Some(what) = self.input.message(6) else { return Received::Empty };
        match what {
            0 => {
                self.closed = true;
                Received::Closed
            }
            1 => {
                self.closed = true;
                Received::Message(Verdict::Down { cause: self.input.cause(), stuck: None })
            }
            2 | 3 if !self.resizes => {
                // At most one verdict.
                self.resizes = true;
                Received::Message(Verdict::Up(DevId(self.input.byte().into())))
            }
            _ => Received::Empty,
        }
    }
}

impl WorkerIo for Kernel<'_> {
    fn hear_supervisor(&mut self) -> Received<ToWorker> {
        if self.closed {
            return Received::Closed;
        }
        let Some(what) = self.input.message(16) else { return Received::Empty };
        match what {
            0..=2 => Received::Message(ToWorker::Live),
            3 => Received::Message(ToWorker::Quit),
            4 => Received::Message(ToWorker::Handover),
            5 => Received::Message(ToWorker::Finish),
            6 if !self.resizes => {
                self.resizes = true;
                Received::Message(ToWorker::Resize { sectors: self.input.number().into() })
            }
            7 => {
                self.closed = true;
                Received::Closed
            }
            _ => Received::Empty,
        }
    }

    fn tell_supervisor(&mut self, message: FromWorker) {
        if matches!(message, FromWorker::Resized { .. } | FromWorker::NotResized(_)) {
            self.resizes = false;
        }
    }

    fn hear_queues(&mut self) -> Received<FromQueue> {
        let Some(what) = self.input.message(6) else { return Received::Empty };
        let which = self.input.below(self.queues.len());
        let id = QueueId(which as u16);
        let said = &mut self.queues[which];
        if said.life != Life::Runs {
            return Received::Empty;
        }
        Received::Message(match what {
            0 | 1 | 5 if said.primes == Primes::Unready => {
                said.primes = Primes::Ready;
                FromQueue::Ready(id)
            }
            0 | 1 if said.primes == Primes::Told => {
                said.primes = Primes::Primed;
                FromQueue::Primed(id)
            }
            2 if said.resizes => {
                said.resizes = false;
                FromQueue::Resized(id)
            }
            3 => {
                said.life = Life::Over;
                FromQueue::Failed(id, self.input.cause())
            }
            4 => {
                said.life = Life::Over;
                FromQueue::Ended(id)
            }
            _ => return Received::Empty,
        })
    }

    fn tell_queue(&mut self, queue: QueueId, message: ToQueue) {
        let said = &mut self.queues[usize::from(queue.0)];
        said.resizes |= matches!(message, ToQueue::Resize { .. });
        if message == ToQueue::Prime {
            said.primes = Primes::Told;
        }
    }
}

impl QueueIo for Kernel<'_> {
    fn hear_worker(&mut self) -> Received<ToQueue> {
        if self.closed {
            return Received::Closed;
        }
        if !std::mem::replace(&mut self.to_prime, true) {
            return Received::Message(ToQueue::Prime);
        }
        let Some(what) = self.input.message(16) else { return Received::Empty };
        match what {
            0 => Received::Message(ToQueue::Quit),
            1 if !self.resizes => {
                self.resizes = true;
                Received::Message(ToQueue::Resize { sectors: self.input.number().into() })
            }
            2 => {
                self.closed = true;
                Received::Closed
            }
            _ => Received::Empty,
        }
    }

    fn tell_worker(&mut self, message: FromQueue) {
        if matches!(message, FromQueue::Resized(_)) {
            self.resizes = false;
        }
    }

    fn push_batch(&mut self, op: BatchOp, _elements: &[Element]) -> Result<(), SqFull> {
        assert!(self.sq.len() < self.entries, "I3: a push never fails: {op:?}");
        self.sq.push_back(match op {
            BatchOp::Prep => Token::Prep,
            BatchOp::Commit => Token::Commits,
        });
        Ok(())
    }

    fn told(&self, nth: u16) -> Tag {
        let byte = self.input.0.get(usize::from(nth)).copied().unwrap_or(0);
        Tag(u16::from(byte) % self.depth)
    }

    fn give_back(&mut self) {}

    fn goes_on(&self) -> bool {
        self.goes_on
    }

    fn descriptor(&self, tag: Tag) -> IoDesc {
        let rest = &mut Input(self.input.0.get(usize::from(tag.0)..).unwrap_or(&[]));
        let mut bytes = [0; IoDesc::SIZE];
        bytes.fill_with(|| rest.byte());
        // Mostly something that lies inside the device.
        if rest.below(4) > 0 {
            bytes[1..4].fill(0);
            bytes[5..8].fill(0);
            bytes[10..16].fill(0);
        }
        IoDesc::decode(&bytes)
    }

    fn memory(&mut self, _tag: Tag, _place: Place, op: MemoryOp) -> i32 {
        match self.input.below(8) {
            6 => 0,
            7 => RESULTS[self.input.below(RESULTS.len())].min(0),
            _ => i32::try_from(op.bytes()).unwrap_or(i32::MAX),
        }
    }
}
