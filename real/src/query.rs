//! Questions to the ublk driver: commands that change nothing.

use blkproof_engine::cause::{Cause, Problem, Step};
use blkproof_engine::control::{Command, Reply};
use blkproof_engine::query::Query;
use blkproof_engine::sys::Exit;

use crate::board::{Board, Name};
use crate::driver::{self, SupervisorDriver};
use crate::error::{Error, Result};
use crate::os;

/// Asks the driver.
///
/// # Errors
/// The cause.
pub fn ask(command: Command) -> std::result::Result<Reply, Cause> {
    // Nobody interrupts a question.
    let operator = os::signal_fd(&[])
        .map_err(|error| Cause::errno(command.kind().step(), os::errno(&error)))?;
    let mut driver = SupervisorDriver::of_others(operator, None, None);
    let mut query = Query::new(command);
    let mut publisher = Board::default().publisher(Name::Supervisor);
    match driver::run(&mut query, &mut driver, &mut publisher) {
        Exit::Finished => Ok(query.reply().unwrap_or(Reply::Nothing)),
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
        Reply::Nothing | Reply::DevInfo(_) | Reply::Params(_) => {
            Err(Error::from(Cause::new(Step::GetFeatures, Problem::Protocol)))
        }
    }
}
