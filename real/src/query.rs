//! One question to the ublk driver: a machine in the engine's manner, for commands that change nothing.

use blkproof_engine::cause::{Cause, Problem, Step};
use blkproof_engine::control::{Command, Kind, Reply};
use blkproof_engine::pump::Pump;
use blkproof_engine::sys::{
    Call, Cqe, Exit, Ret, RingMode, RingSpec, Sqe, SupervisorIo, Token,
};
use blkproof_engine::uapi::Errno;

use crate::board::{Board, Name, State, View};
use crate::driver::{self, Machine, SupervisorDriver};
use crate::error::{Error, Result};
use crate::os;

/// How long an answer may take, in milliseconds: the driver answers at once, whatever state its devices are in.
const DEADLINE_MS: u32 = 5_000;
const SEQUENCE: u32 = 1;
/// The command and its deadline.
const RING_ENTRIES: u32 = 4;

/// Asks the driver.
///
/// # Errors
/// The cause.
pub fn ask(command: Command) -> std::result::Result<Reply, Cause> {
    // Nobody interrupts a question.
    let operator = os::signal_fd(&[]).map_err(|error| {
        Cause::errno(step(command.kind()), os::errno(&error))
    })?;
    let mut driver = SupervisorDriver::for_deletion(operator, None);
    let mut query = Query { command, stage: Stage::Boot, pump: Pump::new(0), reply: None };
    let mut publisher = Board::default().publisher(Name::Supervisor);
    match driver::run(&mut query, &mut driver, &mut publisher) {
        Exit::Finished => Ok(query.reply.unwrap_or(Reply::Nothing)),
        Exit::Failed(cause) | Exit::Stuck { cause, step: _ } => Err(cause),
    }
}

/// Asks for the features of the driver.
///
/// # Errors
/// The cause, for the user.
pub fn features() -> Result<blkproof_engine::uapi::Features> {
    match ask(Command::GetFeatures)? {
        Reply::Features(features) => Ok(features),
        Reply::Nothing | Reply::DevInfo(_) => {
            Err(Error::from(Cause::new(Step::GetFeatures, Problem::Protocol)))
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    Boot,
    SettingUp,
    Waiting,
}

struct Query {
    command: Command,
    stage: Stage,
    pump: Pump,
    reply: Option<Reply>,
}

const fn step(kind: Kind) -> Step {
    match kind {
        Kind::GetFeatures => Step::GetFeatures,
        Kind::AddDev => Step::AddDev,
        Kind::SetParams => Step::SetParams,
        Kind::StartDev => Step::StartDev,
        Kind::StopDev => Step::StopDev,
        Kind::DelDev => Step::DelDev,
        Kind::GetDevInfo => Step::GetDevInfo,
    }
}

impl Query {
    fn fail(&self, problem: Problem) -> Call {
        Call::Exit(Exit::Failed(Cause::new(step(self.command.kind()), problem)))
    }

    fn resume(&mut self, ret: Ret, io: &mut impl SupervisorIo) -> Call {
        match (self.stage, ret) {
            (Stage::Boot, _) => {
                self.stage = Stage::SettingUp;
                return Call::SetupRing(RingSpec { entries: RING_ENTRIES, mode: RingMode::Control });
            }
            (Stage::SettingUp, Ret::Failed(errno)) => {
                return Call::Exit(Exit::Failed(Cause::errno(Step::ControlRing, errno)));
            }
            (Stage::SettingUp, _) => {
                self.stage = Stage::Waiting;
                let pushed = io.push_control(SEQUENCE, &self.command).and_then(|()| {
                    io.push(Sqe::Timer { generation: SEQUENCE, ms: DEADLINE_MS })
                });
                pushed.expect("I3: the ring has room for a command and its deadline");
            }
            (Stage::Waiting, _) => {
                if let Err(errno) = self.pump.turn(ret) {
                    return self.fail(Problem::Errno(errno));
                }
            }
        }
        match self.pump.next(io) {
            Some(Cqe { token: Token::Control(SEQUENCE), res }) if res < 0 => {
                self.fail(Problem::Errno(Errno::from_result(res)))
            }
            Some(Cqe { token: Token::Control(SEQUENCE), res: _ }) => {
                self.reply = Some(io.reply());
                Call::Exit(Exit::Finished)
            }
            Some(_) => self.fail(Problem::Deadline),
            None => self.pump.park(io, false),
        }
    }
}

impl Machine<SupervisorDriver> for Query {
    fn resume(&mut self, ret: Ret, driver: &mut SupervisorDriver) -> Call {
        self.resume(ret, driver)
    }

    fn view(&self) -> View {
        View::new(State::Boot)
    }
}
