//! Having something done by a device's own supervisor: it keeps what the target keeps in memory, and two that command one device get into
//! each other's way. It is asked once; then the device is looked at until it is as it should be.

use super::back::{LOOKS_MAX, recoverable};
use super::change::{resizes, unquiet};
use super::{Inquiry, Next, Plan, Stage, Supervisor, WorkerState};
use crate::cause::{Problem, Step};
use crate::control::Command;
use crate::link::Order;
use crate::sys::{Call, SupervisorIo};
use crate::uapi::{DevInfo, DeviceState};

/// How often a device is looked at that is to have another size: some 24 s.
pub const ERRAND_LOOKS_MAX: u8 = 30;

/// What a device's own supervisor can be asked for.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Errand {
    /// To give a device that has lost its worker another one.
    Recover,
    /// To give a device that is served another worker.
    Handover,
    /// To give a device another size.
    Resize {
        /// In 512-byte sectors.
        sectors: u64,
    },
}

impl Errand {
    const fn order(self) -> Order {
        match self {
            Self::Recover => Order::Recover,
            Self::Handover => Order::Handover,
            Self::Resize { sectors } => Order::Resize { sectors },
        }
    }

    const fn step(self) -> Step {
        match self {
            Self::Recover => Step::Recover,
            Self::Handover => Step::Handover,
            Self::Resize { .. } => Step::Resize,
        }
    }

    const fn looks_max(self) -> u8 {
        match self {
            Self::Recover | Self::Handover => LOOKS_MAX,
            Self::Resize { .. } => ERRAND_LOOKS_MAX,
        }
    }
}

impl Supervisor {
    const fn errand(&self) -> Errand {
        match self.plan {
            Plan::Ask { errand, .. } => errand,
            Plan::Serve { .. } | Plan::Recover { .. } | Plan::Delete { .. } => Errand::Recover,
        }
    }

    /// What is asked for, or done without being asked, as a step for a cause.
    pub(super) const fn errand_step(&self) -> Step {
        self.errand().step()
    }

    /// Asks.
    pub(super) fn ask(&mut self) -> Next {
        self.gone = self.worker_pid;
        self.wanted = true;
        self.stage = Stage::AskingSupervisor;
        Next::Call(Call::AskSupervisor { order: self.errand().order() })
    }

    /// What the device is at, to one that wants something of it.
    pub(super) fn found_for_asking(&mut self, info: DevInfo, io: &mut impl SupervisorIo) -> Next {
        let Plan::Ask { identity, errand, .. } = self.plan else { return self.descend(io) };
        let step = errand.step();
        let possible = match errand {
            Errand::Recover => recoverable(&info, identity),
            Errand::Handover | Errand::Resize { .. } if info.ublksrv_flags != identity => {
                Err(Problem::Foreign)
            }
            Errand::Handover => unquiet(&info).map_or(Ok(()), Err),
            Errand::Resize { .. } if !resizes(&info) => Err(Problem::NoResize),
            Errand::Resize { .. } => Ok(()),
        };
        if let Err(problem) = possible {
            return self.break_off(step, problem, io);
        }
        let server = u32::try_from(info.ublksrv_pid).ok().filter(|pid| *pid > 0);
        match (info.state, errand) {
            (DeviceState::Dead, _) => self.break_off(step, Problem::Dead, io),
            (DeviceState::Live, Errand::Recover | Errand::Handover) if self.wanted => {
                // A server that is gone is named until the kernel has noticed.
                if server.is_some() && server != self.gone {
                    return self.end(io);
                }
                self.look_later(io)
            }
            (DeviceState::Live, Errand::Recover) => match server {
                Some(pid) if self.worker == WorkerState::None => {
                    self.worker_pid = Some(pid);
                    self.stage = Stage::Attaching;
                    Next::Call(Call::AttachWorker { pid })
                }
                Some(_) | None => self.ask(),
            },
            (DeviceState::Live, Errand::Handover | Errand::Resize { .. }) if server.is_some() => {
                self.worker_pid = server;
                self.ask()
            }
            (DeviceState::Quiesced | DeviceState::FailIo, Errand::Recover | Errand::Handover)
                if self.wanted =>
            {
                self.look_later(io)
            }
            (DeviceState::Quiesced | DeviceState::FailIo, Errand::Recover) => self.ask(),
            (
                DeviceState::Live | DeviceState::Quiesced | DeviceState::FailIo,
                Errand::Handover | Errand::Resize { .. },
            ) => self.break_off(step, Problem::Unserved, io),
        }
    }

    /// How large the device is, to one that wants it to be as large as it said.
    pub(super) fn found_size(&mut self, found: u64, io: &mut impl SupervisorIo) -> Next {
        match self.errand() {
            Errand::Resize { sectors } if sectors != found => self.look_later(io),
            Errand::Resize { .. } | Errand::Recover | Errand::Handover => self.end(io),
        }
    }

    /// Looks whether what was asked for has been done.
    pub(super) fn look_again_for_errand(&mut self, io: &mut impl SupervisorIo) -> Next {
        match (self.plan.clone(), self.errand()) {
            (Plan::Ask { id, .. }, Errand::Resize { .. }) => {
                self.command(&Command::GetParams(id), io)
            }
            (
                Plan::Ask { .. } | Plan::Serve { .. } | Plan::Recover { .. } | Plan::Delete { .. },
                Errand::Recover | Errand::Handover | Errand::Resize { .. },
            ) => self.inquire(Inquiry::Asking, io),
        }
    }

    fn look_later(&mut self, io: &mut impl SupervisorIo) -> Next {
        if self.attempts >= self.errand().looks_max() {
            return self.break_off(self.errand_step(), Problem::Deadline, io);
        }
        self.pause(io);
        Next::Park
    }
}
