//! How messages travel between processes: one fixed-size datagram each.
//!
//! Both ends are the same program, so the format has no version; a datagram that does not decode is dropped as if the peer had gone.

use blkproof_engine::cause::{Cause, Problem, Step};
use blkproof_engine::link::Message;
use blkproof_engine::sys::WorkerExit;
use blkproof_engine::uapi::{DevId, Errno, QueueId};

/// Bytes of every datagram: kind, stuck step, failed step, problem (a code each), three numbers.
pub const DATAGRAM_BYTES: usize = 16;

/// A message as a datagram.
pub fn encode(message: Message) -> [u8; DATAGRAM_BYTES] {
    let mut out = Writer([0; DATAGRAM_BYTES]);
    match message {
        Message::QueuePrimed(queue) => out.kind(1).number(u32::from(queue.0)),
        Message::QueueFailed(queue, cause) => out.kind(2).queue(queue).cause(cause),
        Message::QueueEnded(queue) => out.kind(3).number(u32::from(queue.0)),
        Message::Primed => out.kind(4),
        Message::Failed(cause) => out.kind(5).cause(cause),
        Message::Ended => out.kind(6),
        Message::Live => out.kind(7),
        Message::Quit => out.kind(8),
        Message::Stop => out.kind(9),
        Message::Up(device) => out.kind(10).number(device.0),
        Message::Down { cause, stuck } => out.kind(11).cause(cause).stuck(stuck),
    };
    out.0
}

/// The inverse of [`encode`]. `None` for bytes that it never produces.
pub fn decode(bytes: [u8; DATAGRAM_BYTES]) -> Option<Message> {
    let input = Reader(bytes);
    let message = match bytes[0] {
        1 => Message::QueuePrimed(QueueId(u16::try_from(input.number()).ok()?)),
        2 => Message::QueueFailed(QueueId(input.short(4)), input.cause()?),
        3 => Message::QueueEnded(QueueId(u16::try_from(input.number()).ok()?)),
        4 => Message::Primed,
        5 => Message::Failed(input.cause()?),
        6 => Message::Ended,
        7 => Message::Live,
        8 => Message::Quit,
        9 => Message::Stop,
        10 => Message::Up(DevId(input.number())),
        11 => Message::Down { cause: input.cause()?, stuck: input.stuck()? },
        _ => return None,
    };
    // Every message has one encoding only.
    (encode(message) == bytes).then_some(message)
}

struct Writer([u8; DATAGRAM_BYTES]);

impl Writer {
    fn kind(&mut self, kind: u8) -> &mut Self {
        self.0[0] = kind;
        self
    }

    fn short(&mut self, at: usize, value: u16) -> &mut Self {
        self.0[at..at + 2].copy_from_slice(&value.to_le_bytes());
        self
    }

    fn queue(&mut self, queue: QueueId) -> &mut Self {
        self.short(4, queue.0)
    }

    fn number(&mut self, number: u32) -> &mut Self {
        self.0[12..16].copy_from_slice(&number.to_le_bytes());
        self
    }

    fn stuck(&mut self, stuck: Option<Step>) -> &mut Self {
        if let Some(step) = stuck {
            let (code, queue) = step_code(step);
            self.0[1] = code;
            self.short(6, queue);
        }
        self
    }

    fn cause(&mut self, cause: Cause) -> &mut Self {
        let (code, queue) = step_code(cause.step);
        self.0[2] = code;
        self.short(8, queue);
        let (code, number) = problem_code(cause.problem);
        self.0[3] = code;
        self.number(number)
    }
}

struct Reader([u8; DATAGRAM_BYTES]);

impl Reader {
    fn short(&self, at: usize) -> u16 {
        u16::from_le_bytes([self.0[at], self.0[at + 1]])
    }

    fn number(&self) -> u32 {
        u32::from_le_bytes([self.0[12], self.0[13], self.0[14], self.0[15]])
    }

    /// `None` when it does not decode, `Some(None)` when there is none.
    #[expect(clippy::option_option, reason = "absent and undecodable are different things here")]
    fn stuck(&self) -> Option<Option<Step>> {
        match self.0[1] {
            0 => Some(None),
            code => step(code, self.short(6)).map(Some),
        }
    }

    fn cause(&self) -> Option<Cause> {
        let step = step(self.0[2], self.short(8))?;
        let problem = problem(self.0[3], self.number())?;
        Some(Cause { step, problem })
    }
}

/// The steps without a queue, by code from 1.
const PLAIN_STEPS: [Step; 15] = [
    Step::ControlRing,
    Step::GetFeatures,
    Step::AddDev,
    Step::SetParams,
    Step::SpawnWorker,
    Step::WorkerRing,
    Step::OpenChar,
    Step::Prime,
    Step::StartDev,
    Step::Worker,
    Step::GetDevInfo,
    Step::AttachWorker,
    Step::StopDev,
    Step::WorkerExit,
    Step::DelDev,
];

/// The steps of one queue, by code from 32.
const QUEUE_STEPS: [fn(QueueId) -> Step; 5] =
    [Step::SpawnQueue, Step::QueueRing, Step::MapQueue, Step::Fetch, Step::Serve];

const ENTER_CODE: u8 = 31;
const FIRST_QUEUE_CODE: u8 = 32;

fn step_code(step: Step) -> (u8, u16) {
    let plain = PLAIN_STEPS.iter().position(|plain| *plain == step);
    if let Some(index) = plain {
        return (index as u8 + 1, 0);
    }
    match step {
        Step::SpawnQueue(queue) => (FIRST_QUEUE_CODE, queue.0),
        Step::QueueRing(queue) => (FIRST_QUEUE_CODE + 1, queue.0),
        Step::MapQueue(queue) => (FIRST_QUEUE_CODE + 2, queue.0),
        Step::Fetch(queue) => (FIRST_QUEUE_CODE + 3, queue.0),
        Step::Serve(queue) => (FIRST_QUEUE_CODE + 4, queue.0),
        Step::Enter => (ENTER_CODE, 0),
        Step::ControlRing
        | Step::GetFeatures
        | Step::AddDev
        | Step::SetParams
        | Step::SpawnWorker
        | Step::WorkerRing
        | Step::OpenChar
        | Step::Prime
        | Step::StartDev
        | Step::Worker
        | Step::GetDevInfo
        | Step::AttachWorker
        | Step::StopDev
        | Step::WorkerExit
        | Step::DelDev => unreachable!("every step without a queue is in the table"),
    }
}

fn step(code: u8, queue: u16) -> Option<Step> {
    if code == ENTER_CODE {
        return Some(Step::Enter);
    }
    if let Some(index) = code.checked_sub(FIRST_QUEUE_CODE) {
        return QUEUE_STEPS.get(usize::from(index)).map(|make| make(QueueId(queue)));
    }
    PLAIN_STEPS.get(usize::from(code.checked_sub(1)?)).copied()
}

fn problem_code(problem: Problem) -> (u8, u32) {
    match problem {
        Problem::Errno(errno) => (1, u32::from(errno.0)),
        Problem::Deadline => (2, 0),
        Problem::WorkerExited(WorkerExit::Code(code)) => (3, u32::from(code)),
        Problem::WorkerExited(WorkerExit::Signal(signal)) => (4, u32::from(signal)),
        Problem::WorkerExited(WorkerExit::Unknown) => (5, 0),
        Problem::LinkClosed => (6, 0),
        Problem::Stopped => (7, 0),
        Problem::Protocol => (8, 0),
        Problem::Unsupported => (9, 0),
    }
}

fn problem(code: u8, number: u32) -> Option<Problem> {
    Some(match code {
        1 => Problem::Errno(Errno(u16::try_from(number).ok()?)),
        2 => Problem::Deadline,
        3 => Problem::WorkerExited(WorkerExit::Code(u8::try_from(number).ok()?)),
        4 => Problem::WorkerExited(WorkerExit::Signal(u8::try_from(number).ok()?)),
        5 => Problem::WorkerExited(WorkerExit::Unknown),
        6 => Problem::LinkClosed,
        7 => Problem::Stopped,
        8 => Problem::Protocol,
        9 => Problem::Unsupported,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn any_step() -> impl Strategy<Value = Step> {
        let queue = any::<u16>().prop_map(QueueId);
        prop_oneof![
            Just(Step::Enter),
            proptest::sample::select(PLAIN_STEPS.to_vec()),
            (queue, proptest::sample::select(QUEUE_STEPS.to_vec())).prop_map(|(q, make)| make(q)),
        ]
    }

    fn any_problem() -> impl Strategy<Value = Problem> {
        prop_oneof![
            any::<u16>().prop_map(|raw| Problem::Errno(Errno(raw))),
            any::<u8>().prop_map(|code| Problem::WorkerExited(WorkerExit::Code(code))),
            any::<u8>().prop_map(|signal| Problem::WorkerExited(WorkerExit::Signal(signal))),
            Just(Problem::WorkerExited(WorkerExit::Unknown)),
            Just(Problem::Deadline),
            Just(Problem::LinkClosed),
            Just(Problem::Stopped),
            Just(Problem::Protocol),
            Just(Problem::Unsupported),
        ]
    }

    fn any_cause() -> impl Strategy<Value = Cause> {
        (any_step(), any_problem()).prop_map(|(step, problem)| Cause { step, problem })
    }

    fn any_message() -> impl Strategy<Value = Message> {
        let queue = any::<u16>().prop_map(QueueId);
        prop_oneof![
            queue.clone().prop_map(Message::QueuePrimed),
            (queue.clone(), any_cause()).prop_map(|(q, cause)| Message::QueueFailed(q, cause)),
            queue.prop_map(Message::QueueEnded),
            any_cause().prop_map(Message::Failed),
            any::<u32>().prop_map(|id| Message::Up(DevId(id))),
            (any_cause(), proptest::option::of(any_step()))
                .prop_map(|(cause, stuck)| Message::Down { cause, stuck }),
            Just(Message::Primed),
            Just(Message::Ended),
            Just(Message::Live),
            Just(Message::Quit),
            Just(Message::Stop),
        ]
    }

    proptest! {
        #[test]
        fn a_message_survives_the_wire(message in any_message()) {
            prop_assert_eq!(decode(encode(message)), Some(message));
        }

        #[test]
        fn foreign_bytes_never_panic_and_have_one_meaning(bytes in any::<[u8; DATAGRAM_BYTES]>()) {
            if let Some(message) = decode(bytes) {
                prop_assert_eq!(encode(message), bytes);
            }
        }
    }
}
