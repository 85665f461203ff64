//! Having a device recovered by its own supervisor: it keeps what the target keeps in memory, and two that command one device get into
//! each other's way. It is asked once; then the device is looked at until it is LIVE with another worker.

use super::back::{LOOKS_MAX, recoverable};
use super::{Next, Plan, Stage, Supervisor, WorkerState};
use crate::cause::{Problem, Step};
use crate::sys::{Call, SupervisorIo};
use crate::uapi::{DevInfo, DeviceState};

impl Supervisor {
    /// Asks.
    pub(super) fn ask(&mut self) -> Next {
        self.gone = self.worker_pid;
        self.wanted = true;
        self.stage = Stage::AskingSupervisor;
        Next::Call(Call::AskSupervisor)
    }

    /// What the device is at, to one that wants it recovered.
    pub(super) fn found_for_asking(&mut self, info: DevInfo, io: &mut impl SupervisorIo) -> Next {
        let Plan::Ask { identity, .. } = self.plan else { return self.descend(io) };
        if let Err(problem) = recoverable(&info, identity) {
            return self.break_off(Step::Recover, problem, io);
        }
        let server = u32::try_from(info.ublksrv_pid).ok().filter(|pid| *pid > 0);
        match info.state {
            DeviceState::Dead => self.break_off(Step::Recover, Problem::Dead, io),
            DeviceState::Live if self.wanted => {
                // A server that is gone is named until the kernel has noticed.
                if server.is_some() && server != self.gone {
                    return self.end(io);
                }
                self.look_later(io)
            }
            DeviceState::Live => match server {
                Some(pid) if self.worker == WorkerState::None => {
                    self.worker_pid = Some(pid);
                    self.stage = Stage::Attaching;
                    Next::Call(Call::AttachWorker { pid })
                }
                Some(_) | None => self.ask(),
            },
            DeviceState::Quiesced | DeviceState::FailIo if self.wanted => self.look_later(io),
            DeviceState::Quiesced | DeviceState::FailIo => self.ask(),
        }
    }

    fn look_later(&mut self, io: &mut impl SupervisorIo) -> Next {
        if self.attempts >= LOOKS_MAX {
            return self.break_off(Step::Recover, Problem::Deadline, io);
        }
        self.pause(io);
        Next::Park
    }
}
