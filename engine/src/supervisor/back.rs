//! A device without a worker: what becomes of it, and how it gets another one.
//!
//! The kernel lets go of a server in its own time: the exit is seen before the state changes, and the state changes before the
//! character device is free (H33). So the device is looked at, and START_USER_RECOVERY sent, until that succeeds. When it does, nothing
//! of the last worker is left that could still do anything (I13); only then another one is started.

use super::{InFlight, Inquiry, Next, Plan, Stage, Supervisor, Way, WorkerState};
use crate::cause::{Cause, Problem, Step};
use crate::control::{Command, Kind};
use crate::link::News;
use crate::sys::{Call, SupervisorIo, WorkerExit};
use crate::uapi::{DevInfo, DeviceState, Errno, Features};

/// The first pause between two looks at a device whose worker is gone, in milliseconds. Each is twice the one before.
pub const LOOK_PAUSE_MS: u32 = 10;
/// The longest.
pub const LOOK_PAUSE_MAX_MS: u32 = 1_000;
/// How often a device is looked at in one recovery: some 75 s. Linux 6.12 may take 60 to notice that a server is gone (H55).
pub const LOOKS_MAX: u8 = 80;
/// How many recoveries `restart` begins in quick succession, those that fail included. Then the device waits for an operator.
pub const RESTARTS_MAX: u8 = 5;
/// How long a worker that the device names, and whose end was announced by whoever wants a recovery, may take to exit.
pub const WATCH_MS: u32 = 2_000;

impl Supervisor {
    /// Whether the device outlives its worker.
    pub(super) fn recovers(&self) -> bool {
        self.device.is_some_and(|device| device.flags.contains(Features::USER_RECOVERY))
    }

    /// Whether the device was there before this supervisor, which has not brought it up.
    pub(super) fn leaves_as_it_was(&self) -> bool {
        match self.plan {
            Plan::Recover { .. } => !self.announced,
            Plan::Ask { .. } => true,
            Plan::Serve { .. } | Plan::Delete { .. } => false,
        }
    }

    /// The worker of a LIVE device is gone, and the device is one that outlives it.
    pub(super) fn lost(&mut self, exit: WorkerExit, io: &mut impl SupervisorIo) -> Next {
        let cause = self.first.take();
        if self.worker_ended && cause.is_none() {
            if !self.handing {
                io.note(News::WorkerEnded);
            }
        } else {
            let exited = Cause::new(Step::Worker, Problem::WorkerExited(exit));
            io.note(News::WorkerLost(cause.unwrap_or(exited)));
        }
        self.recovering = true;
        self.handing |= core::mem::take(&mut self.handover_asked);
        self.wanted |= self.handing || self.restarts_again();
        self.begin(io)
    }

    /// Whether `restart` goes for another recovery, which then counts.
    fn restarts_again(&mut self) -> bool {
        let again = self.plan.restarts() && self.restarts < RESTARTS_MAX;
        self.restarts += u8::from(again);
        again
    }

    /// The first look at a device without a worker.
    pub(super) fn begin(&mut self, io: &mut impl SupervisorIo) -> Next {
        self.recovering = true;
        self.wanted |= !self.announced;
        self.first = None;
        self.attempts = 0;
        self.inquire(Inquiry::Recovery, io)
    }

    pub(super) fn inquire(&mut self, inquiry: Inquiry, io: &mut impl SupervisorIo) -> Next {
        self.inquiry = inquiry;
        match self.id() {
            Some(id) => self.command(&Command::GetDevInfo(id), io),
            None => self.descend(io),
        }
    }

    /// An operator wants the device to have a worker again. Whoever asks has seen that the worker is gone, and it will be noticed here as
    /// well; what is being found out of the device is found for somebody who wants it; and a recovery that is under way is what was asked for.
    pub(super) fn asked_to_recover(&mut self, io: &mut impl SupervisorIo) -> Next {
        self.wanted = self.recovers();
        if self.stage == Stage::Unserved {
            self.restarts = 0;
            return self.begin(io);
        }
        Next::Park
    }

    /// What a device that has no worker is at.
    pub(super) fn found_for_recovery(&mut self, info: DevInfo, io: &mut impl SupervisorIo) -> Next {
        if self.way != Way::Up {
            return self.descend(io);
        }
        if let Plan::Recover { identity, .. } = self.plan
            && !self.announced
        {
            if let Err(problem) = recoverable(&info, identity) {
                return self.break_off(Step::Recover, problem, io);
            }
            self.device = Some(info);
            self.started = true;
        }
        match info.state {
            // Stopped by another hand.
            DeviceState::Dead if self.announced => {
                self.recovering = false;
                self.end(io)
            }
            DeviceState::Dead => self.break_off(Step::Recover, Problem::Dead, io),
            DeviceState::Live | DeviceState::Quiesced | DeviceState::FailIo if !self.wanted => {
                self.wait_unserved(io)
            }
            DeviceState::Live => match u32::try_from(info.ublksrv_pid) {
                // Nobody has seen yet that its worker is gone.
                Ok(pid) if pid > 0 && self.worker == WorkerState::None => {
                    self.stage = Stage::Attaching;
                    Next::Call(Call::AttachWorker { pid })
                }
                Ok(_) | Err(_) => self.try_later(io),
            },
            DeviceState::Quiesced | DeviceState::FailIo => {
                self.command(&Command::StartRecovery(info.dev_id), io)
            }
        }
    }

    /// The worker that the device names runs: it may be about to exit.
    pub(super) fn watch(&mut self, io: &mut impl SupervisorIo) -> Next {
        self.enter_stage(Stage::Watching, Some(WATCH_MS), io);
        Next::Park
    }

    /// That worker is gone.
    pub(super) fn unserved_after_all(&mut self, io: &mut impl SupervisorIo) -> Next {
        if self.way != Way::Up {
            return self.descend(io);
        }
        if self.inquiry == Inquiry::Asking {
            return self.ask();
        }
        self.try_later(io)
    }

    /// The kernel has not let go of the last worker.
    fn try_later(&mut self, io: &mut impl SupervisorIo) -> Next {
        if self.attempts >= LOOKS_MAX {
            return self.break_off(Step::StartRecovery, Problem::Deadline, io);
        }
        self.pause(io);
        Next::Park
    }

    /// Waits before the next look.
    pub(super) fn pause(&mut self, io: &mut impl SupervisorIo) {
        let doublings = u32::from(self.attempts).min(7);
        let ms = (LOOK_PAUSE_MS << doublings).min(LOOK_PAUSE_MAX_MS);
        self.attempts += 1;
        self.enter_stage(Stage::Pausing, Some(ms), io);
    }

    /// The pause is over.
    pub(super) fn look_again(&mut self, io: &mut impl SupervisorIo) -> Next {
        if self.inquiry == Inquiry::Asking {
            return self.look_again_for_errand(io);
        }
        self.inquire(self.inquiry, io)
    }

    /// START_USER_RECOVERY or END_USER_RECOVERY failed.
    pub(super) fn recovery_refused(
        &mut self,
        flight: InFlight,
        errno: Errno,
        io: &mut impl SupervisorIo,
    ) -> Next {
        if self.way != Way::Up {
            return self.descend(io);
        }
        if errno == Errno::EBUSY && flight.op == Kind::StartRecovery {
            return self.try_later(io);
        }
        // Linux 6.12 says so if it was sent before, and no worker has fetched since: what it does is done. If the last one still
        // holds the device, the next one's open is refused.
        if errno == Errno::EINVAL && flight.op == Kind::StartRecovery {
            return self.spawn(io);
        }
        // It may have been our own success that left it in the wrong state (H62).
        if errno == Errno::EBUSY && self.start_in_doubt {
            return self.inquire(Inquiry::Doubt, io);
        }
        self.break_off_errno(flight.op.step(), errno, io)
    }

    /// A recovery failed, and nothing of it is left.
    pub(super) fn without_worker(&mut self, io: &mut impl SupervisorIo) -> Next {
        if self.leaves_as_it_was() {
            return self.end(io);
        }
        if let Some(cause) = self.first.take() {
            io.note(News::RecoveryFailed(cause));
        }
        self.way = Way::Up;
        // The program may have been renewed to one that does not work: after it, the one that did.
        // Whoever asked since it failed has not had his recovery yet.
        self.wanted |= core::mem::take(&mut self.handing) || self.restarts_again();
        if self.wanted { self.begin(io) } else { self.wait_unserved(io) }
    }

    /// The device waits for somebody who wants it back.
    fn wait_unserved(&mut self, io: &mut impl SupervisorIo) -> Next {
        io.note(News::Unserved);
        self.enter_stage(Stage::Unserved, None, io);
        Next::Park
    }
}

/// Whether a device is the one that was written down, and can be recovered at all.
pub(super) fn recoverable(info: &DevInfo, identity: u64) -> Result<(), Problem> {
    if info.ublksrv_flags != identity {
        return Err(Problem::Foreign);
    }
    if !info.flags.contains(Features::USER_RECOVERY) {
        return Err(Problem::NoRecovery);
    }
    Ok(())
}
