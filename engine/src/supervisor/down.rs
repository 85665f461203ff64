//! Going down: the next step follows from what exists, whatever failed.

use super::{InFlight, Next, Resident, Stage, Supervisor, Way, WorkerState, push};
use crate::cause::{Cause, Problem, Step};
use crate::control::{Command, Kind};
use crate::link::{ToWorker, Verdict};
use crate::sys::{Call, Exit, Sqe, SupervisorIo};
use crate::uapi::Errno;

impl Supervisor {
    /// Keeps the first cause, and turns round.
    pub(super) fn fail(&mut self, cause: Cause) {
        self.first.get_or_insert(cause);
        if !self.live && self.way == Way::Up {
            let stays = self.recovering || self.leaves_as_it_was();
            self.way = if stays { Way::Back } else { Way::Down };
            self.wanted = false;
        }
    }

    pub(super) fn break_off(
        &mut self,
        step: Step,
        problem: Problem,
        io: &mut impl SupervisorIo,
    ) -> Next {
        self.fail(Cause::new(step, problem));
        self.descend(io)
    }

    pub(super) fn break_off_errno(
        &mut self,
        step: Step,
        errno: Errno,
        io: &mut impl SupervisorIo,
    ) -> Next {
        self.break_off(step, Problem::Errno(errno), io)
    }

    /// The next step down, from what exists.
    pub(super) fn descend(&mut self, io: &mut impl SupervisorIo) -> Next {
        if let Some(flight) = self.flight {
            // These may wait for ever for a worker that will never prime: take them back.
            if matches!(flight.op, Kind::StartDev | Kind::EndRecovery) && !flight.cancelled {
                self.flight = Some(InFlight { cancelled: true, ..flight });
                self.start_in_doubt = true;
                push(io, Sqe::CancelControl { sequence: flight.sequence });
                self.enter_stage(Stage::Commanding(flight.op), self.deadlines.start_ms, io);
            }
            return Next::Park;
        }
        // While it serves nobody yet, the worker goes first: in recovery a stop could wait for a request that a queue was given
        // before another of its threads had fetched (H13).
        if let (Way::Down, true, false, Some(device)) =
            (self.way, self.started, self.recovering, self.device)
        {
            return self.command(&Command::StopDev(device.dev_id), io);
        }
        match self.worker {
            WorkerState::Alive => {
                io.tell_worker(ToWorker::Quit);
                self.worker = WorkerState::Told;
                self.enter_stage(Stage::AwaitingExit, self.deadlines.exit_ms, io);
                return Next::Park;
            }
            WorkerState::Told | WorkerState::Killed => {
                if self.stage != Stage::AwaitingExit {
                    self.enter_stage(Stage::AwaitingExit, self.deadlines.exit_ms, io);
                }
                return Next::Park;
            }
            WorkerState::None | WorkerState::Adopted | WorkerState::Gone => {}
        }
        if self.way == Way::Back {
            return self.without_worker(io);
        }
        if let (true, Some(device)) = (self.started, self.device) {
            return self.command(&Command::StopDev(device.dev_id), io);
        }
        if let Some(device) = self.device {
            return self.command(&Command::DelDev(device.dev_id), io);
        }
        if self.worker == WorkerState::Adopted {
            self.enter_stage(Stage::AwaitingExit, self.deadlines.exit_ms, io);
            return Next::Park;
        }
        if self.resident == Resident::Asked {
            self.enter_stage(Stage::AwaitingSupervisor, self.deadlines.exit_ms, io);
            return Next::Park;
        }
        self.end(io)
    }

    /// The deadline of the current stage passed.
    pub(super) fn expired(&mut self, io: &mut impl SupervisorIo) -> Next {
        let step = self.step();
        match self.stage {
            Stage::Commanding(Kind::StartDev | Kind::EndRecovery) if self.way == Way::Up => {
                self.break_off(step, Problem::Deadline, io)
            }
            Stage::Commanding(Kind::StartDev | Kind::StopDev | Kind::EndRecovery)
            | Stage::AwaitingExit => {
                // A request of a client, or a thread, keeps the kernel waiting: without the worker it fails and lets go.
                if self.worker_lives() && !self.overdue {
                    return self.kill(io);
                }
                self.fail(Cause::new(step, Problem::Deadline));
                self.give_up(step, io)
            }
            // It keeps the character device open.
            Stage::Commanding(Kind::DelDev) if self.worker_lives() && !self.overdue => {
                self.kill(io)
            }
            Stage::Commanding(Kind::DelDev) => match self.flight {
                Some(flight) if !flight.cancelled => {
                    self.flight = Some(InFlight { cancelled: true, ..flight });
                    push(io, Sqe::CancelControl { sequence: flight.sequence });
                    self.fail(Cause::new(step, Problem::Deadline));
                    self.arm(self.deadlines.command_ms, io);
                    Next::Park
                }
                Some(_) | None => self.give_up(step, io),
            },
            Stage::Commanding(_) => {
                // The kernel owes the completion of a command that waits for nobody: nothing we do can help (H61).
                self.fail(Cause::new(step, Problem::Deadline));
                self.give_up(step, io)
            }
            Stage::Priming => self.break_off(step, Problem::Deadline, io),
            Stage::Live => {
                self.restarts = 0;
                self.wanted = false;
                Next::Park
            }
            Stage::Resizing => {
                self.not_resized(Cause::new(step, Problem::Deadline), io);
                Next::Park
            }
            Stage::Pausing => self.look_again(io),
            // It does not exit: then it serves.
            Stage::Watching => self.break_off(step, Problem::Served, io),
            // It does not answer: without it, then.
            Stage::AwaitingSupervisor if self.looks == 0 => self.go_on(io),
            Stage::AwaitingSupervisor => {
                // The device is gone all the same.
                self.fail(Cause::new(step, Problem::Deadline));
                self.end(io)
            }
            Stage::Boot
            | Stage::SettingUp
            | Stage::Spawning
            | Stage::Attaching
            | Stage::Fitting
            | Stage::Unserved
            | Stage::Killing
            | Stage::Reaping
            | Stage::AttachingSupervisor
            | Stage::AskingSupervisor
            | Stage::StoppingSupervisor
            | Stage::Ended => Next::Park,
        }
    }

    pub(super) const fn worker_lives(&self) -> bool {
        matches!(self.worker, WorkerState::Alive | WorkerState::Adopted | WorkerState::Told)
    }

    pub(super) fn kill(&mut self, io: &mut impl SupervisorIo) -> Next {
        // Only a stage whose deadline passed gets here: the exit, or a command that the worker holds up.
        let deadline = match self.stage {
            Stage::AwaitingExit => self.deadlines.exit_ms,
            Stage::Commanding(Kind::DelDev) => self.deadlines.delete_ms,
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
            | Stage::Killing
            | Stage::Reaping
            | Stage::AttachingSupervisor
            | Stage::AskingSupervisor
            | Stage::StoppingSupervisor
            | Stage::AwaitingSupervisor
            | Stage::Ended => self.deadlines.stop_ms,
        };
        self.arm(deadline, io);
        self.overdue = true;
        self.resume_at = self.stage;
        self.stage = Stage::Killing;
        Next::Call(Call::KillWorker)
    }

    /// Nothing is left, or the device stays as the kernel left it.
    pub(super) fn end(&mut self, io: &mut impl SupervisorIo) -> Next {
        self.stage = Stage::Ended;
        let exit = match self.first {
            Some(cause) => {
                if !self.announced {
                    io.tell_launcher(Verdict::Down { cause, stuck: None });
                }
                Exit::Failed(cause)
            }
            None => Exit::Finished,
        };
        Next::Call(Call::Exit(exit))
    }

    /// The unwinding itself is stuck: say so, and leave.
    pub(super) fn give_up(&mut self, step: Step, io: &mut impl SupervisorIo) -> Next {
        self.stage = Stage::Ended;
        let cause = self.first.unwrap_or(Cause::new(step, Problem::Deadline));
        if !self.announced {
            io.tell_launcher(Verdict::Down { cause, stuck: Some(step) });
        }
        Next::Call(Call::Exit(Exit::Stuck { cause, step }))
    }

    /// The supervisor cannot wait any more. Its exit closes the worker's link: a worker that is not LIVE then quits.
    pub(super) fn stuck_in_enter(&mut self, errno: Errno, io: &mut impl SupervisorIo) -> Call {
        self.fail(Cause::errno(Step::Enter, errno));
        match self.give_up(self.step(), io) {
            Next::Call(call) => call,
            Next::Park => unreachable!("giving up exits"),
        }
    }
}
