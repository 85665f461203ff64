//! Going up: what each success leads to, and what the peers say.

use super::{
    INTERRUPTS_MAX, InFlight, Inquiry, Next, Plan, Resident, Stage, Supervisor, Way, WorkerState,
    push,
};
use crate::cause::{Cause, Problem, Step};
use crate::control::{Command, Kind, Reply};
use crate::data::DataMode;
use crate::link::{FromWorker, Link, News, Order, Received, ToWorker, Verdict};
use crate::sys::{Call, DeviceGeometry, Sqe, SupervisorIo, WorkerExit};
use crate::target::{SECTOR_BYTES, SHARED_INDEX};
use crate::uapi::{DevId, DevInfo, DeviceState, Errno, Features, Params};

impl Supervisor {
    /// A control command completed.
    pub(super) fn answered(
        &mut self,
        flight: InFlight,
        res: i32,
        io: &mut impl SupervisorIo,
    ) -> Next {
        if res < 0 {
            return self.refused(flight, Errno::from_result(res), io);
        }
        self.interrupts = 0;
        match flight.op {
            Kind::GetFeatures => {
                let Plan::Serve { info, .. } = &mut self.plan else { return self.descend(io) };
                let Reply::Features(features) = io.reply() else {
                    return self.break_off(Step::GetFeatures, Problem::Protocol, io);
                };
                if self.way != Way::Up {
                    return self.descend(io);
                }
                // A kernel that lacks it would clear the flags and say nothing: 6.12. Any target serves in copy mode.
                let zero_copy = DataMode::ZeroCopy.features();
                // What a device is asked for that this kernel has: to be handed over, and to be resized.
                if info.flags.contains(Features::USER_RECOVERY) {
                    info.flags = info.flags.union(features.intersection(Features::QUIESCE));
                }
                info.flags = info.flags.union(features.intersection(Features::UPDATE_SIZE));
                if !features.contains(zero_copy) {
                    info.flags = info.flags.difference(zero_copy);
                }
                if !features.contains(Features::SHMEM_ZC) {
                    info.flags = info.flags.difference(Features::SHMEM_ZC);
                }
                // The driver keeps a list of tags that cannot have a single entry: ADD_DEV would fail with EINVAL.
                if !features.contains(Features::BATCH_IO) || info.queue_depth < 2 {
                    info.flags = info.flags.difference(Features::BATCH_IO);
                }
                // Without ioctl encoding of its opcodes the driver understands none of our commands.
                if !features.contains(info.flags.union(Features::CMD_IOCTL_ENCODE)) {
                    return self.break_off(Step::GetFeatures, Problem::Unsupported, io);
                }
                let info = *info;
                self.command(&Command::AddDev(info), io)
            }
            Kind::AddDev => {
                let Reply::DevInfo(granted) = io.reply() else {
                    return self.break_off(Step::AddDev, Problem::Protocol, io);
                };
                self.device = Some(granted);
                if self.way != Way::Up {
                    return self.descend(io);
                }
                if !self.can_serve(&granted) {
                    return self.break_off(Step::AddDev, Problem::Unsupported, io);
                }
                let Some(params) = self.params() else { return self.descend(io) };
                if let Some(basic) = &params.basic {
                    self.know_size(basic);
                }
                self.command(&Command::SetParams(granted.dev_id, params), io)
            }
            Kind::SetParams | Kind::RegBuf if self.way != Way::Up => self.descend(io),
            // While there is no disk, whose queue it would have to drain (H12).
            Kind::SetParams => match self.registration() {
                Some(command) => self.command(&command, io),
                None => self.spawn(io),
            },
            Kind::RegBuf if res == i32::from(SHARED_INDEX) => self.spawn(io),
            Kind::RegBuf => self.break_off(Step::ShareMemory, Problem::Protocol, io),
            Kind::StartRecovery if self.way != Way::Up => self.descend(io),
            Kind::StartRecovery => self.spawn(io),
            Kind::GetParams => {
                let Reply::Params(params) = io.reply() else {
                    return self.break_off(Step::GetParams, Problem::Protocol, io);
                };
                self.told_params(&params, io)
            }
            Kind::QuiesceDev => self.quiesced(io),
            Kind::UpdateSize => self.size_updated(io),
            Kind::TryStopDev => self.goes_unused(io),
            Kind::StartDev | Kind::EndRecovery => self.went_live(io),
            Kind::GetDevInfo => {
                let Reply::DevInfo(info) = io.reply() else {
                    return self.break_off(Step::GetDevInfo, Problem::Protocol, io);
                };
                self.informed(info, io)
            }
            Kind::StopDev => {
                self.started = false;
                self.descend(io)
            }
            Kind::DelDev => self.deleted(io),
        }
    }

    /// A control command failed.
    pub(super) fn refused(
        &mut self,
        flight: InFlight,
        errno: Errno,
        io: &mut impl SupervisorIo,
    ) -> Next {
        if errno == Errno::EINTR && !flight.cancelled && self.interrupts < INTERRUPTS_MAX {
            // Without effect, or (DEL_DEV) a wait to be taken up again.
            self.interrupts += 1;
            self.start_in_doubt |= matches!(flight.op, Kind::StartDev | Kind::EndRecovery);
            if let Some(command) = self.again(flight.op) {
                return self.command(&command, io);
            }
        }
        match flight.op {
            Kind::StartDev => {
                if errno == Errno::EEXIST
                    && self.start_in_doubt
                    && let Some(device) = self.device
                {
                    self.inquiry = Inquiry::Doubt;
                    return self.command(&Command::GetDevInfo(device.dev_id), io);
                }
                self.started = false;
                if self.way == Way::Up {
                    self.fail(Cause::errno(Step::StartDev, errno));
                }
                self.descend(io)
            }
            // Somebody else deleted it: that is what we wanted.
            Kind::DelDev if errno == Errno::ENODEV => self.deleted(io),
            // Somebody brought it up meanwhile.
            Kind::DelDev if flight.cancelled && self.looks == 1 => match self.plan {
                Plan::Delete { id, .. } => self.look(id, io),
                Plan::Serve { .. } | Plan::Recover { .. } | Plan::Ask { .. } => {
                    unreachable!("only a deletion looks at its device")
                }
            },
            Kind::DelDev => {
                self.fail(Cause::errno(Step::DelDev, errno));
                self.give_up(Step::DelDev, io)
            }
            Kind::StopDev => {
                // STOP_DEV itself never fails: ENODEV says that the device is gone.
                self.started = false;
                if errno == Errno::ENODEV {
                    self.device = None;
                }
                self.descend(io)
            }
            Kind::StartRecovery | Kind::EndRecovery => self.recovery_refused(flight, errno, io),
            // What it may have begun is not taken back (H10): the worker is replaced all the same.
            Kind::QuiesceDev => self.quiesced(io),
            Kind::UpdateSize => self.size_refused(errno, io),
            Kind::TryStopDev => self.try_stop_refused(errno, io),
            Kind::GetParams => self.break_off_errno(Step::GetParams, errno, io),
            Kind::GetFeatures => self.break_off_errno(Step::GetFeatures, errno, io),
            Kind::AddDev => self.break_off_errno(Step::AddDev, errno, io),
            Kind::SetParams => self.break_off_errno(Step::SetParams, errno, io),
            Kind::RegBuf => self.break_off_errno(Step::ShareMemory, errno, io),
            // Its own supervisor deleted it, as it was asked to; or a DEL_DEV that was given up took effect all the same.
            Kind::GetDevInfo
                if errno == Errno::ENODEV
                    && (self.resident == Resident::Stopped || self.looks > 1) =>
            {
                self.deleted(io)
            }
            // Somebody else deleted it.
            Kind::GetDevInfo
                if errno == Errno::ENODEV
                    && self.announced
                    && self.inquiry == Inquiry::Recovery =>
            {
                self.device = None;
                self.end(io)
            }
            Kind::GetDevInfo => self.break_off_errno(Step::GetDevInfo, errno, io),
        }
    }

    /// The same command once more.
    pub(super) fn again(&self, op: Kind) -> Option<Command> {
        let id = self.device.map(|device| device.dev_id);
        match op {
            Kind::StopDev => Some(Command::StopDev(id?)),
            Kind::DelDev => Some(Command::DelDev(id?)),
            Kind::QuiesceDev | Kind::UpdateSize | Kind::TryStopDev => None,
            Kind::GetFeatures
            | Kind::AddDev
            | Kind::SetParams
            | Kind::RegBuf
            | Kind::StartDev
            | Kind::GetDevInfo
            | Kind::StartRecovery
            | Kind::EndRecovery
            | Kind::GetParams
                if self.way != Way::Up && !matches!(self.plan, Plan::Delete { .. }) =>
            {
                None
            }
            Kind::GetFeatures => Some(Command::GetFeatures),
            Kind::AddDev => match &self.plan {
                Plan::Serve { info, .. } => Some(Command::AddDev(*info)),
                Plan::Recover { .. } | Plan::Ask { .. } | Plan::Delete { .. } => None,
            },
            Kind::SetParams => Some(Command::SetParams(id?, self.params()?)),
            Kind::RegBuf => self.registration(),
            Kind::StartDev => Some(Command::StartDev(id?, self.worker_pid?)),
            Kind::GetDevInfo => Some(Command::GetDevInfo(self.id()?)),
            Kind::StartRecovery => Some(Command::StartRecovery(id?)),
            Kind::EndRecovery => Some(Command::EndRecovery(id?, self.worker_pid?)),
            Kind::GetParams => Some(Command::GetParams(self.id()?)),
        }
    }

    /// The device's number, as far as it is known.
    pub(super) fn id(&self) -> Option<DevId> {
        match self.plan {
            Plan::Serve { .. } => self.device.map(|device| device.dev_id),
            Plan::Recover { id, .. } | Plan::Ask { id, .. } | Plan::Delete { id, .. } => Some(id),
        }
    }

    /// The worker process is started, for a device that has its parameters.
    pub(super) fn spawn(&mut self, io: &mut impl SupervisorIo) -> Next {
        let Some(device) = self.device else { return self.descend(io) };
        if self.sectors == 0 {
            // Brought up by another supervisor: only the kernel knows how large it is by now.
            return self.command(&Command::GetParams(device.dev_id), io);
        }
        // Its flags say so, whoever added it.
        let Some(data) = DataMode::of(device.flags) else {
            return self.break_off(Step::SpawnWorker, Problem::Unsupported, io);
        };
        self.stage = Stage::Spawning;
        (self.primed, self.worker_ended, self.start_in_doubt) = (false, false, false);
        Next::Call(Call::SpawnWorker {
            device: DeviceGeometry {
                id: device.dev_id,
                queues: device.nr_hw_queues,
                depth: device.queue_depth,
                buffer_bytes: device.max_io_buf_bytes,
                sectors: self.sectors,
                data,
                batch: device.flags.contains(Features::BATCH_IO),
                shared_bytes: if device.flags.contains(Features::SHMEM_ZC) {
                    self.plan.shared_bytes()
                } else {
                    0
                },
            },
            renewed: self.handing,
        })
    }

    /// Whether what was granted is no more than what was asked, and enough to serve at all.
    fn can_serve(&self, granted: &DevInfo) -> bool {
        let Plan::Serve { info, .. } = &self.plan else { return false };
        (1..=info.nr_hw_queues).contains(&granted.nr_hw_queues)
            && (1..=info.queue_depth).contains(&granted.queue_depth)
            && (SECTOR_BYTES..=info.max_io_buf_bytes).contains(&granted.max_io_buf_bytes)
            && DataMode::of(granted.flags).is_some()
            && (info.dev_id == DevId::AUTO || info.dev_id == granted.dev_id)
            // How data moves is the kernel's to say; what becomes of the device is not.
            && granted.flags.contains(info.flags.difference(DataMode::DECISIVE))
    }

    /// Every queue is primed: START_DEV, or END_USER_RECOVERY.
    pub(super) fn start(&mut self, io: &mut impl SupervisorIo) {
        let Some(device) = self.device else { return };
        self.started = true;
        let pid = self.worker_pid.unwrap_or_default();
        let command = if self.recovering {
            Command::EndRecovery(device.dev_id, pid)
        } else {
            Command::StartDev(device.dev_id, pid)
        };
        let Next::Park = self.command(&command, io) else {
            unreachable!("a command is submitted by parking")
        };
    }

    /// The parameters, with requests no larger than the buffers that were granted.
    pub(super) fn params(&self) -> Option<Params> {
        let (Plan::Serve { params, .. }, Some(device)) = (&self.plan, &self.device) else {
            return None;
        };
        let mut params = *params;
        if let Some(basic) = &mut params.basic {
            basic.max_sectors = basic.max_sectors.min(device.max_io_buf_bytes / SECTOR_BYTES);
        }
        Some(params)
    }

    /// The command that registers the memory shared with clients, if there is to be any and the kernel granted it.
    fn registration(&self) -> Option<Command> {
        let (Plan::Serve { shared, .. }, Some(device)) = (&self.plan, &self.device) else {
            return None;
        };
        let granted = device.flags.contains(Features::SHMEM_ZC);
        shared.filter(|_| granted).map(|memory| Command::RegBuf(device.dev_id, memory))
    }

    /// START_DEV or END_USER_RECOVERY succeeded, whether or not it is still wanted.
    pub(super) fn went_live(&mut self, io: &mut impl SupervisorIo) -> Next {
        let recovered = core::mem::take(&mut self.recovering);
        match self.way {
            Way::Up => {}
            // Given up too early; but not for somebody who wants it stopped: a `del`.
            Way::Back
                if self.worker == WorkerState::Alive
                    && self.first.is_none_or(|cause| cause.problem != Problem::Stopped) =>
            {
                self.way = Way::Up;
            }
            // The worker is gone, or about to go: nobody serves the device that is LIVE for a moment.
            Way::Back => {
                self.recovering = true;
                return self.descend(io);
            }
            Way::Down => return self.descend(io),
        }
        io.tell_worker(ToWorker::Live);
        if recovered {
            io.note(News::Recovered);
        }
        if let (Some(device), false) = (self.device, self.announced) {
            self.announced = true;
            io.tell_launcher(Verdict::Up(device.dev_id));
        }
        self.first = None;
        (self.wanted, self.handing, self.live) = (false, false, true);
        self.stay_live(io)
    }

    /// The device is gone. Who only wanted that has what it wanted, however long it took.
    fn deleted(&mut self, io: &mut impl SupervisorIo) -> Next {
        self.device = None;
        if matches!(self.plan, Plan::Delete { .. }) {
            self.first = None;
        }
        self.descend(io)
    }

    /// GET_DEV_INFO answered.
    pub(super) fn informed(&mut self, info: DevInfo, io: &mut impl SupervisorIo) -> Next {
        match self.inquiry {
            Inquiry::Doubt => {
                let ours = info.state == DeviceState::Live
                    && u32::try_from(info.ublksrv_pid).ok() == self.worker_pid;
                if ours {
                    return self.went_live(io);
                }
                if self.recovering {
                    return self.break_off_errno(Step::EndRecovery, Errno::EBUSY, io);
                }
                self.started = false;
                self.break_off_errno(Step::StartDev, Errno::EEXIST, io)
            }
            Inquiry::Recovery => self.found_for_recovery(info, io),
            Inquiry::Asking => self.found_for_asking(info, io),
            Inquiry::Unused => self.found_for_try_stop(&info, io),
            Inquiry::Deletion => {
                let Plan::Delete { worker, .. } = &self.plan else {
                    return self.descend(io);
                };
                // A deletion that waited in vain stops the device once more, whatever its state is: on 6.12 nothing else ends what a dead server fetched
                // after it (H70).
                self.started = info.state != DeviceState::Dead || self.looks > 1;
                self.device = Some(info);
                let named = u32::try_from(info.ublksrv_pid).ok().filter(|pid| *pid > 0);
                let known = self.worker_pid;
                self.worker_pid = named.or(*worker);
                match self.worker_pid {
                    // Looked at for the second time.
                    Some(_) if self.worker != WorkerState::None && known == self.worker_pid => {
                        self.descend(io)
                    }
                    Some(pid) => {
                        self.stage = Stage::Attaching;
                        Next::Call(Call::AttachWorker { pid })
                    }
                    None => self.descend(io),
                }
            }
        }
    }

    /// Looks at the device that is to be deleted.
    pub(super) fn look(&mut self, id: DevId, io: &mut impl SupervisorIo) -> Next {
        self.looks += 1;
        self.command(&Command::GetDevInfo(id), io)
    }

    /// The device's own supervisor has ended, or is not waited for any longer.
    pub(super) fn go_on(&mut self, io: &mut impl SupervisorIo) -> Next {
        match self.plan {
            Plan::Delete { id, .. } if self.looks == 0 => self.look(id, io),
            Plan::Delete { .. } | Plan::Serve { .. } | Plan::Recover { .. } | Plan::Ask { .. } => {
                self.end(io)
            }
        }
    }

    /// Reads what the worker said.
    pub(super) fn hear_worker(&mut self, watch: bool, io: &mut impl SupervisorIo) -> Next {
        if watch {
            self.hearing = false;
        }
        loop {
            match io.hear_worker() {
                Received::Message(FromWorker::Primed) => self.primed = true,
                Received::Message(FromWorker::Failed(cause)) => {
                    let descends = self.way == Way::Up && !self.live;
                    self.fail(cause);
                    if descends {
                        if let Next::Call(call) = self.descend(io) {
                            return Next::Call(call);
                        }
                    } else {
                        self.await_end(io);
                    }
                }
                Received::Message(FromWorker::Ended) => {
                    self.worker_ended = true;
                    self.await_end(io);
                }
                Received::Message(FromWorker::Resized { sectors }) => {
                    self.size_told = false;
                    self.size_known = self.resizing == Some(sectors);
                }
                Received::Message(FromWorker::NotResized(cause)) => {
                    self.size_told = false;
                    self.not_resized(cause, io);
                }
                Received::Empty => {
                    if watch {
                        self.hearing = true;
                        push(io, Sqe::Watch { link: Link::Worker });
                    }
                    return Next::Park;
                }
                // Its exit is reported by the watch on the process.
                Received::Closed => return Next::Park,
            }
        }
    }

    /// The worker of a LIVE device said its last word: its exit is due.
    fn await_end(&mut self, io: &mut impl SupervisorIo) {
        if matches!(self.stage, Stage::Live | Stage::Resizing) {
            self.enter_stage(Stage::AwaitingExit, self.deadlines.exit_ms, io);
        }
    }

    pub(super) fn hear_operator(&mut self, io: &mut impl SupervisorIo) -> Next {
        let (mut stop, mut recover, mut handover, mut size) = (false, false, false, None);
        loop {
            match io.hear_operator() {
                Received::Message(Order::Stop) => stop = true,
                Received::Message(Order::Recover) => recover = true,
                Received::Message(Order::Handover) => handover = true,
                Received::Message(Order::Resize { sectors }) => size = Some(sectors),
                Received::Empty => {
                    push(io, Sqe::Watch { link: Link::Operator });
                    break;
                }
                Received::Closed => break,
            }
        }
        if self.way == Way::Down {
            return Next::Park;
        }
        if !stop {
            self.size_asked = if self.live { size.or(self.size_asked) } else { None };
            // A device that lost its worker meanwhile gets another one by the same way.
            self.handover_asked |= handover && self.live;
            let recover = recover || handover && !self.live;
            return if recover { self.asked_to_recover(io) } else { Next::Park };
        }
        if self.leaves_as_it_was() {
            return self.break_off(self.step(), Problem::Stopped, io);
        }
        if !self.announced {
            self.fail(Cause::new(self.step(), Problem::Stopped));
        }
        if self.recovering {
            self.first = None;
        }
        self.way = Way::Down;
        self.descend(io)
    }

    /// The worker process is gone.
    pub(super) fn worker_gone(&mut self, exit: WorkerExit, io: &mut impl SupervisorIo) -> Next {
        match self.way {
            Way::Up => {}
            Way::Back | Way::Down => return self.descend(io),
        }
        if self.stage == Stage::Watching {
            return self.unserved_after_all(io);
        }
        if self.live {
            // What is in flight is answered first (I10).
            if self.flight.is_some() {
                return Next::Park;
            }
            self.live = false;
            self.forget_size(exit, io);
            if self.recovers() {
                return self.lost(exit, io);
            }
            // Stopped by another hand, or dead: the device stays as the kernel leaves it, for `del` or `recover`.
            if !(self.worker_ended && self.first.is_none()) {
                self.fail(Cause::new(Step::Worker, Problem::WorkerExited(exit)));
            }
            return self.end(io);
        }
        self.fail(Cause::new(self.step(), Problem::WorkerExited(exit)));
        self.descend(io)
    }
}
