//! What is changed of a LIVE device: its worker (a handover), and its size.
//!
//! A handover holds requests back (QUIESCE_DEV), has the worker finish what it holds, and then goes the way of every recovery. The worker is told
//! beforehand, so that it does not outlive a supervisor that dies in the middle: its own end lets somebody else recover the device, where
//! otherwise all requests would wait for ever. It is told again afterwards, because tags that it holds are never aborted (H09).
//!
//! A device grows from behind: first what it is kept in, then what every queue takes for its end, and the disk last. It shrinks the other way (H60).

use super::{Inquiry, Next, Plan, Stage, Supervisor, Way, WorkerState};
use crate::cause::{Cause, Problem, Step};
use crate::control::Command;
use crate::link::{News, ToWorker};
use crate::sys::{Call, Ret, SupervisorIo, WorkerExit, mismatch};
use crate::target::SECTOR_BYTES;
use crate::uapi::{BasicParams, DevId, DevInfo, DeviceState, Errno, Features};

/// Why a device's requests cannot be held back without harm. QUIESCE_DEV has the queues of a batch device fail what comes until they are primed
/// again (H45).
pub(super) const fn unquiet(device: &DevInfo) -> Option<Problem> {
    if device.flags.contains(Features::BATCH_IO) {
        Some(Problem::Batched)
    } else if device.flags.contains(Features::QUIESCE) {
        None
    } else {
        Some(Problem::NoQuiesce)
    }
}

/// Whether a device can be resized without danger. Linux 6.18 follows a null pointer if its disk is gone by then, and without recovery it is as
/// soon as the worker is. A driver that can do without knows TRY_STOP_DEV as well.
pub(super) const fn resizes(device: &DevInfo) -> bool {
    let flags = device.flags;
    flags.contains(Features::UPDATE_SIZE)
        && (flags.contains(Features::USER_RECOVERY) || flags.contains(Features::SAFE_STOP_DEV))
}

impl Supervisor {
    /// Begins what was asked of a LIVE device.
    pub(super) fn take_up(&mut self, io: &mut impl SupervisorIo) -> Next {
        match self.stage {
            Stage::Live if self.worker == WorkerState::Alive => {
                if core::mem::take(&mut self.handover_asked) {
                    return self.hand_over(io);
                }
                match self.size_asked.take() {
                    Some(sectors) => self.resize(sectors, io),
                    None => Next::Park,
                }
            }
            Stage::Resizing if self.size_known && self.worker == WorkerState::Alive => {
                self.size_known = false;
                self.goes_on_resizing(io)
            }
            Stage::Boot
            | Stage::SettingUp
            | Stage::Commanding(_)
            | Stage::Spawning
            | Stage::Attaching
            | Stage::Priming
            | Stage::Live
            | Stage::Fitting
            | Stage::Resizing
            | Stage::Unserved
            | Stage::Pausing
            | Stage::Watching
            | Stage::AskingSupervisor
            | Stage::AwaitingExit
            | Stage::Killing
            | Stage::Reaping
            | Stage::AttachingSupervisor
            | Stage::StoppingSupervisor
            | Stage::AwaitingSupervisor
            | Stage::Ended => Next::Park,
        }
    }

    /// The device is LIVE, and nothing is under way.
    pub(super) fn stay_live(&mut self, io: &mut impl SupervisorIo) -> Next {
        self.resizing = None;
        self.size_known = false;
        if self.worker_ended || self.first.is_some() {
            self.enter_stage(Stage::AwaitingExit, self.deadlines.exit_ms, io);
        } else {
            let steady = if self.restarts > 0 { self.deadlines.steady_ms } else { None };
            self.enter_stage(Stage::Live, steady, io);
        }
        Next::Park
    }

    fn hand_over(&mut self, io: &mut impl SupervisorIo) -> Next {
        let Some(device) = self.device else { return Next::Park };
        if let Some(problem) = unquiet(&device) {
            io.note(News::Refused(Cause::new(Step::Handover, problem)));
            return Next::Park;
        }
        self.handing = true;
        io.note(News::HandingOver);
        io.tell_worker(ToWorker::Handover);
        self.command(&Command::QuiesceDev(device.dev_id), io)
    }

    /// QUIESCE_DEV was answered. Whatever it says, the worker is replaced: after a failure, too, requests may be held back, and
    /// only another worker lets them go (H10).
    pub(super) fn quiesced(&mut self, io: &mut impl SupervisorIo) -> Next {
        if self.way != Way::Up {
            return self.descend(io);
        }
        if self.worker == WorkerState::Gone {
            return self.gone_meanwhile(io);
        }
        io.tell_worker(ToWorker::Finish);
        self.worker = WorkerState::Told;
        self.enter_stage(Stage::AwaitingExit, self.deadlines.finish_ms, io);
        Next::Park
    }

    /// The worker of a LIVE device went while a command was in flight, which now is answered.
    fn gone_meanwhile(&mut self, io: &mut impl SupervisorIo) -> Next {
        self.worker_gone(self.worker_exit.unwrap_or(WorkerExit::Unknown), io)
    }

    /// The size and block of a device, as its parameters say.
    pub(super) const fn know_size(&mut self, params: &BasicParams) {
        (self.sectors, self.block_shift) = (params.dev_sectors, params.logical_bs_shift);
    }

    /// GET_PARAMS answered.
    pub(super) fn told_params(&mut self, params: &BasicParams, io: &mut impl SupervisorIo) -> Next {
        if self.way != Way::Up {
            return self.descend(io);
        }
        if let Plan::Ask { .. } = self.plan {
            return self.found_size(params.dev_sectors, io);
        }
        if params.dev_sectors == 0 {
            return self.break_off(Step::GetParams, Problem::Unsupported, io);
        }
        self.know_size(params);
        self.spawn(io)
    }

    fn resize(&mut self, sectors: u64, io: &mut impl SupervisorIo) -> Next {
        let Some(device) = self.device else { return Next::Park };
        let block_sectors = (1_u64 << self.block_shift) / u64::from(SECTOR_BYTES);
        let problem = if !resizes(&device) {
            Some(Problem::NoResize)
        } else if self.size_told {
            Some(Problem::Busy)
        } else if sectors == 0 || !sectors.is_multiple_of(block_sectors) {
            Some(Problem::BadSize)
        } else {
            None
        };
        if let Some(problem) = problem {
            io.note(News::Refused(Cause::new(Step::Resize, problem)));
            return Next::Park;
        }
        self.resizing = Some(sectors);
        if self.grows() {
            self.stage = Stage::Fitting;
            return Next::Call(Call::FitStore { sectors });
        }
        self.command(&Command::UpdateSize(device.dev_id, sectors), io)
    }

    /// Whether the device is to become larger than it is.
    fn grows(&self) -> bool {
        self.resizing.is_some_and(|sectors| sectors > self.sectors)
    }

    /// What is behind the device has its size, or not.
    pub(super) fn fitted(&mut self, ret: Ret, io: &mut impl SupervisorIo) -> Next {
        match ret {
            Ret::Done if self.grows() => self.tell_size(io),
            // A device that shrank has done so, whatever became of the room behind it.
            Ret::Failed(errno) if self.grows() => {
                io.note(News::Refused(Cause::errno(Step::FitStore, errno)));
                self.stay_live(io)
            }
            Ret::Done | Ret::Failed(_) => self.stay_live(io),
            Ret::Start | Ret::Submitted(_) | Ret::Spawned(_) | Ret::Exited(_) | Ret::Running => {
                mismatch("the fitting of a store", ret)
            }
        }
    }

    fn tell_size(&mut self, io: &mut impl SupervisorIo) -> Next {
        let Some(sectors) = self.resizing else { return self.stay_live(io) };
        (self.size_told, self.size_known) = (true, false);
        io.tell_worker(ToWorker::Resize { sectors });
        self.enter_stage(Stage::Resizing, self.deadlines.command_ms, io);
        Next::Park
    }

    /// Every queue knows the size.
    fn goes_on_resizing(&mut self, io: &mut impl SupervisorIo) -> Next {
        let (Some(device), Some(sectors)) = (self.device, self.resizing) else {
            return self.stay_live(io);
        };
        if self.grows() {
            return self.command(&Command::UpdateSize(device.dev_id, sectors), io);
        }
        self.stage = Stage::Fitting;
        Next::Call(Call::FitStore { sectors })
    }

    /// UPDATE_SIZE succeeded.
    pub(super) fn size_updated(&mut self, io: &mut impl SupervisorIo) -> Next {
        let grew = self.grows();
        if let Some(sectors) = self.resizing {
            self.sectors = sectors;
            io.note(News::Resized(sectors));
        }
        if self.way != Way::Up {
            return self.descend(io);
        }
        if self.worker == WorkerState::Gone {
            return self.gone_meanwhile(io);
        }
        if grew || self.worker_ended { self.stay_live(io) } else { self.tell_size(io) }
    }

    /// UPDATE_SIZE failed. A worker that knows a larger size by now is no worse for it.
    pub(super) fn size_refused(&mut self, errno: Errno, io: &mut impl SupervisorIo) -> Next {
        io.note(News::Refused(Cause::errno(Step::Resize, errno)));
        if self.way != Way::Up {
            return self.descend(io);
        }
        if self.worker == WorkerState::Gone {
            return self.gone_meanwhile(io);
        }
        self.stay_live(io)
    }

    /// The worker cannot serve the new size, or does not say so in time.
    pub(super) fn not_resized(&mut self, cause: Cause, io: &mut impl SupervisorIo) {
        if self.stage == Stage::Resizing {
            if self.grows() {
                io.note(News::Refused(cause));
            }
            let Next::Park = self.stay_live(io) else { unreachable!("nothing is called for") };
        }
    }

    /// The worker is gone, and with it what it was told.
    pub(super) fn forget_size(&mut self, exit: WorkerExit, io: &mut impl SupervisorIo) {
        if self.grows() {
            io.note(News::Refused(Cause::new(Step::Resize, Problem::WorkerExited(exit))));
        }
        (self.resizing, self.size_asked) = (None, None);
        (self.size_told, self.size_known) = (false, false);
    }

    /// A device is deleted: its own supervisor is asked first.
    pub(super) fn delete(
        &mut self,
        id: DevId,
        supervisor: Option<u32>,
        io: &mut impl SupervisorIo,
    ) -> Next {
        match supervisor {
            Some(pid) => self.attach_supervisor(pid),
            None => self.look(id, io),
        }
    }

    pub(super) fn attach_supervisor(&mut self, pid: u32) -> Next {
        self.stage = Stage::AttachingSupervisor;
        Next::Call(Call::AttachSupervisor { pid })
    }

    /// Nobody uses the device, or it has no disk that somebody could: it goes.
    pub(super) fn goes_unused(&mut self, io: &mut impl SupervisorIo) -> Next {
        self.inquiry = Inquiry::Deletion;
        match self.plan {
            Plan::Delete { id, supervisor, .. } => self.delete(id, supervisor, io),
            Plan::Serve { .. } | Plan::Recover { .. } | Plan::Ask { .. } => self.descend(io),
        }
    }

    /// What the device is at, to one that deletes it if it is unused.
    pub(super) fn found_for_try_stop(
        &mut self,
        info: &DevInfo,
        io: &mut impl SupervisorIo,
    ) -> Next {
        match info.state {
            DeviceState::Live => self.command(&Command::TryStopDev(info.dev_id), io),
            DeviceState::Dead => self.goes_unused(io),
            // TRY_STOP_DEV takes `open_mutex`, and a partition scan that waits for the next server keeps that (H56).
            DeviceState::Quiesced | DeviceState::FailIo => {
                self.break_off(Step::TryStopDev, Problem::Unserved, io)
            }
        }
    }

    /// TRY_STOP_DEV failed, and has done nothing.
    pub(super) fn try_stop_refused(&mut self, errno: Errno, io: &mut impl SupervisorIo) -> Next {
        match errno {
            Errno::ENODEV => self.goes_unused(io),
            Errno::EBUSY => self.break_off(Step::TryStopDev, Problem::InUse, io),
            Errno::EOPNOTSUPP => self.break_off(Step::TryStopDev, Problem::NoTryStop, io),
            errno => self.break_off_errno(Step::TryStopDev, errno, io),
        }
    }
}
