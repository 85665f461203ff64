//! Control commands: what an io-wq worker does for each, step by step (SD, ST1 to ST7).

use blkproof_engine::control::{Command, Reply};
use blkproof_engine::sys::{Cqe, Token};
use blkproof_engine::uapi::{ControlOp, DevId, DevInfo, DeviceState, KernelSeries, Params};

use crate::kernel::cache::{Cache, Writer};
use crate::kernel::deadline::Deadline;
use crate::kernel::device::{Device, Gendisk, Holder, Scan, State};
use crate::kernel::errno;
use crate::kernel::limits::{self, Limits};
use crate::kernel::process::{ProcessState, ThreadState};
use crate::kernel::shmem::Given;
use crate::kernel::tags::TagSlot;
use crate::kernel::udev::{Node, Probe};
use crate::kernel::zones::Zones;
use crate::run::{Run, Sabotage, actor};
use crate::script::{Header, Parameters};
use crate::world::{ControlId, PAGE_SECTORS, RingId, ThreadId, World};

/// A control command as the kernel gets it.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Asked {
    /// One that the engine knows.
    Engine(Command),
    /// Another, of which there is nothing to say but this: the device, and the word `data`.
    Plain(ControlOp, DevId, u64),
    /// SET_PARAMS, with parameters that no sensible controller would give.
    Params(DevId, Box<Parameters>),
}

impl Asked {
    /// Which command it is.
    pub(crate) const fn op(&self) -> ControlOp {
        match self {
            Self::Engine(command) => command.kind().uapi(),
            Self::Plain(op, ..) => *op,
            Self::Params(..) => ControlOp::SetParams,
        }
    }

    /// Its word `data`.
    pub(crate) fn data(&self) -> u64 {
        match self {
            Self::Engine(Command::StartDev(_, pid) | Command::EndRecovery(_, pid)) => {
                u64::from(*pid)
            }
            // How many bytes there is room for.
            Self::Engine(Command::GetParams(_)) => Params::SIZE as u64,
            Self::Engine(_) | Self::Params(..) => 0,
            Self::Plain(_, _, data) => *data,
        }
    }

    /// The parameters that it brings.
    pub(crate) fn params(&self) -> Option<[u8; Params::SIZE]> {
        match self {
            Self::Engine(Command::SetParams(_, params)) => Some(params.encode()),
            Self::Params(_, options) => Some(options.encode()),
            Self::Engine(_) | Self::Plain(..) => None,
        }
    }
}

impl From<Command> for Asked {
    fn from(command: Command) -> Self {
        match command {
            Command::StartRecovery(id) => Self::Plain(ControlOp::StartUserRecovery, id, 0),
            Command::EndRecovery(id, pid) => {
                Self::Plain(ControlOp::EndUserRecovery, id, u64::from(pid))
            }
            Command::QuiesceDev(id) => Self::Plain(ControlOp::QuiesceDev, id, 0),
            Command::UpdateSize(id, sectors) => Self::Plain(ControlOp::UpdateSize, id, sectors),
            Command::TryStopDev(id) => Self::Plain(ControlOp::TryStopDev, id, 0),
            Command::RegBuf(id, memory) => {
                Self::Plain(ControlOp::RegBuf, id, Given::from(memory).word())
            }
            command @ (Command::GetFeatures
            | Command::GetParams(_)
            | Command::AddDev(_)
            | Command::SetParams(..)
            | Command::StartDev(..)
            | Command::StopDev(_)
            | Command::DelDev(_)
            | Command::GetDevInfo(_)) => Self::Engine(command),
        }
    }
}

/// A control command on its io-wq worker.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Control {
    pub(crate) ring: RingId,
    /// Whose io-wq worker it is: that thread cannot die before it (D1).
    pub(crate) thread: ThreadId,
    pub(crate) sequence: u32,
    pub(crate) command: Asked,
    /// Who submitted it.
    pub(crate) user: u32,
    /// What is different in its header; in scripts only.
    pub(crate) header: Option<Box<Header>>,
    pub(crate) pc: Pc,
    /// An interruptible wait is to end with EINTR.
    pub(crate) interrupted: bool,
    /// Somebody asked for that, which a wait for `ublk_ctl_mutex` does not notice.
    pub(crate) cancelled: bool,
    /// Its process was stopped while it was at work: the same, and its worker stops when it is through.
    pub(crate) halted: bool,
}

/// What a control command does next.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub(crate) enum Pc {
    /// No io-wq worker has taken it.
    Queued,
    /// ADD_DEV: take `ublk_ctl_mutex`, create the device.
    Add,
    /// SET_PARAMS: take `ub->mutex`, check, store.
    SetParams,
    /// GET_PARAMS: take `ub->mutex`, copy.
    GetParams,
    /// SD: wait for every tag to be fetched.
    StartWait,
    /// SD: take `ub->mutex`, check again, allocate the disk.
    StartLocked,
    /// SD: the server is asked for the zones.
    StartZones,
    /// SD: 6.12 scans for partitions within `add_disk`.
    StartScan,
    /// SD: `add_disk` is through: uevent, completion.
    StartPublish,
    /// END_USER_RECOVERY: wait for every tag to be fetched.
    RecoverWait,
    /// END_USER_RECOVERY: take `ub->mutex`, check, go LIVE.
    RecoverLocked,
    /// START_USER_RECOVERY: take `ub->mutex`, check.
    RecoverBegin,
    /// UPDATE_SIZE: take `ub->mutex`.
    Resize,
    /// QUIESCE_DEV: take `ub->mutex`, let every queue cancel.
    Quiesce,
    /// TRY_STOP_DEV: take `open_mutex`, count the openers.
    TryStop,
    /// ST1: take `ub->mutex`.
    StopLock,
    /// ST2: requests would wait for a server: none may be started, then all abort.
    StopIdle,
    /// ST3: `del_gendisk` takes `open_mutex`; new requests fail from here on, unless there is something to be written back before.
    StopMark,
    /// ST3: it waits for that (`sync_blockdev`).
    StopSync,
    /// ST3: it takes `open_mutex` again, new requests fail from here on.
    StopDead,
    /// ST3: wait for every request to finish.
    StopDrain,
    /// ST5: wait for the partition scan.
    StopScan,
    /// ST6: mark STOPPING, hold the server's file.
    StopPin,
    /// ST7: abort the armed tags, one by one.
    StopCancel,
    /// DEL phase 1: take `ublk_ctl_mutex`.
    DelLock,
    /// REG_BUF, UNREG_BUF: take `ub->mutex`, and freeze the queue if there is a disk.
    ShmemLock,
    /// Wait until no request is inside (`blk_mq_freeze_queue_wait`); then change the table.
    ShmemFrozen,
    /// DEL phases 2 and 3: the node is removed, references dropped.
    DelRemove,
    /// DEL phase 4: wait until the number is free.
    DelWait,
}

impl Control {
    /// Whether it holds a reference to the device.
    pub(crate) const fn holds_device(&self) -> bool {
        !matches!(self.pc, Pc::Queued | Pc::Add | Pc::DelWait)
    }

    /// 6.12: it is a START_DEV that scans for partitions.
    pub(crate) fn is_scanning(&self) -> bool {
        self.pc == Pc::StartScan
    }

    /// Whether it is in a wait that a signal ends, if only one that kills.
    const fn interruptible(&self) -> bool {
        matches!(self.pc, Pc::Add | Pc::StartWait | Pc::RecoverWait | Pc::DelLock | Pc::DelWait)
    }

    /// The device it names.
    pub(crate) const fn device(&self) -> Option<DevId> {
        match &self.command {
            Asked::Engine(Command::GetFeatures | Command::AddDev(_)) => None,
            Asked::Engine(
                Command::SetParams(id, _)
                | Command::StartDev(id, _)
                | Command::StopDev(id)
                | Command::DelDev(id)
                | Command::GetDevInfo(id)
                | Command::StartRecovery(id)
                | Command::EndRecovery(id, _)
                | Command::GetParams(id)
                | Command::QuiesceDev(id)
                | Command::UpdateSize(id, _)
                | Command::TryStopDev(id)
                | Command::RegBuf(id, _),
            )
            | Asked::Plain(_, id, _)
            | Asked::Params(id, _) => Some(*id),
        }
    }

    /// The same, or the one in its header.
    pub(crate) fn named(&self) -> Option<DevId> {
        self.header().id.map(DevId).or(self.device())
    }

    /// Its name.
    pub(crate) const fn name(&self) -> &'static str {
        self.command.op().name()
    }
}

/// A request's time, unless somebody changes it.
const TIMEOUT_MS: u32 = 30_000;

/// What a step of a command comes to.
pub(super) enum Next {
    Go(Pc),
    Done(i32, Reply),
}

impl Next {
    pub(super) const fn done() -> Self {
        Self::Done(0, Reply::Nothing)
    }
    pub(super) const fn error(errno: i32) -> Self {
        Self::Done(-errno, Reply::Nothing)
    }
}

impl World {
    /// A control command is submitted. Those that cannot sleep complete inline.
    pub(crate) fn submit_control(
        &mut self,
        run: &mut Run<'_>,
        thread: ThreadId,
        ring: RingId,
        sequence: u32,
        command: impl Into<Asked>,
    ) {
        self.submit_bent(run, (thread, ring, sequence), command.into(), None);
    }

    /// The same with a header that is not as usual.
    pub(crate) fn submit_bent(
        &mut self,
        run: &mut Run<'_>,
        (thread, ring, sequence): (ThreadId, RingId, u32),
        command: Asked,
        header: Option<Box<Header>>,
    ) {
        let control = Control {
            ring,
            thread,
            sequence,
            command,
            user: self.threads[thread.index()].user,
            header,
            pc: Pc::Queued,
            interrupted: false,
            cancelled: false,
            halted: false,
        };
        let name = control.name();
        run.note(actor::thread(thread), || format!("submits {name}"));
        match &control.command {
            Asked::Engine(Command::GetFeatures | Command::GetDevInfo(_)) => {
                let begun = self
                    .on_its_device(run, &control, |world, run| world.control_begins(run, &control));
                match begun {
                    Next::Done(res, reply) => self.finish_control(run, &control, res, reply),
                    Next::Go(_) => unreachable!("they neither wait nor lock"),
                }
            }
            Asked::Engine(
                Command::AddDev(_)
                | Command::SetParams(..)
                | Command::StartDev(..)
                | Command::StopDev(_)
                | Command::DelDev(_)
                | Command::StartRecovery(_)
                | Command::EndRecovery(..)
                | Command::GetParams(_)
                | Command::QuiesceDev(_)
                | Command::UpdateSize(..)
                | Command::TryStopDev(_)
                | Command::RegBuf(..),
            )
            | Asked::Plain(..)
            | Asked::Params(..) => match self.controls.iter_mut().find(|slot| slot.is_none()) {
                Some(slot) => *slot = Some(control),
                None => self.controls.push(Some(control)),
            },
        }
    }

    /// GET_DEV_INFO's answer. 6.12 names a server that is gone, too.
    pub(crate) fn dev_info(&self, device: &Device) -> DevInfo {
        let old = device.kernel == KernelSeries::V6_12;
        let pid = device.pid.filter(|pid| old || self.process_by_pid(*pid).is_some());
        DevInfo {
            state: match device.state {
                State::Dead => DeviceState::Dead,
                State::Live => DeviceState::Live,
                State::Quiesced => DeviceState::Quiesced,
                State::FailIo => DeviceState::FailIo,
            },
            ublksrv_pid: pid.map_or(-1, |pid| pid as i32),
            ..device.info
        }
    }

    fn finish_control(&mut self, run: &mut Run<'_>, control: &Control, res: i32, reply: Reply) {
        run.seen(u64::from(control.sequence) << 32 | u64::from(res as u32));
        if res >= 0 {
            run.progress();
        }
        let name = control.name();
        run.kernel(|| format!("{name} completes: {res}"));
        let ring = &mut self.rings[control.ring.index()];
        if res >= 0 {
            ring.reply = reply;
        }
        self.post(control.ring, Cqe { token: Token::Control(control.sequence), res });
    }

    /// `IORING_OP_ASYNC_CANCEL` of a control command.
    pub(crate) fn cancel_control(&mut self, run: &mut Run<'_>, ring: RingId, sequence: u32) -> i32 {
        let found = self
            .controls
            .iter_mut()
            .flatten()
            .find(|control| control.ring == ring && control.sequence == sequence);
        let Some(control) = found else { return -errno::ENOENT };
        let name = control.name();
        run.kernel(|| format!("ASYNC_CANCEL of {name}"));
        // The worker sees it at its next interruptible wait, or never.
        control.cancelled = true;
        if control.pc == Pc::Queued { 0 } else { -errno::EALREADY }
    }

    /// Whether a command must abandon its interruptible wait: also with the thread that submitted it.
    fn is_interrupted(&self, control: &Control) -> bool {
        let killable = matches!(control.pc, Pc::Add | Pc::DelLock);
        let gone = self.threads[control.thread.index()].state == ThreadState::Dead;
        // A command that no worker has taken is not affected by a stop.
        let stopped = control.halted && control.pc != Pc::Queued;
        control.interrupted
            || !killable && (control.cancelled || gone || stopped)
            || self.process_of(control.thread).state != ProcessState::Running
    }

    /// Whether a command can move.
    pub(crate) fn control_can_move(&self, control: &Control) -> bool {
        if (control.interruptible() || control.pc == Pc::Queued) && self.is_interrupted(control) {
            return true;
        }
        let device = control.named().and_then(|id| self.numbered(id));
        let unlocked = device.is_none_or(|device| device.mutex.is_none());
        match control.pc {
            Pc::Queued | Pc::StartPublish | Pc::StopPin | Pc::StopCancel | Pc::DelRemove => true,
            Pc::Add | Pc::DelLock => self.global_mutex.is_none(),
            Pc::SetParams
            | Pc::GetParams
            | Pc::StartLocked
            | Pc::StopLock
            | Pc::RecoverLocked
            | Pc::RecoverBegin
            | Pc::Resize
            | Pc::Quiesce
            | Pc::ShmemLock => unlocked,
            Pc::ShmemFrozen => self.is_drained(),
            Pc::StartWait | Pc::RecoverWait => device.is_none_or(start_may_go_on),
            Pc::StopIdle => {
                device.is_none_or(|it| it.state != State::Live && it.kernel > KernelSeries::V6_12)
                    || !self.any_started()
            }
            Pc::StopMark | Pc::StopDead | Pc::TryStop => self.open_mutex_free(),
            Pc::StopSync => !self.is_writing_back(Writer::Removal),
            Pc::StopDrain => self.requests_live == 0,
            Pc::StartZones => device
                .and_then(|device| device.disk.as_ref())
                .is_none_or(|disk| !disk.awaits_zones()),
            Pc::StartScan | Pc::StopScan => device
                .and_then(|device| device.disk.as_ref())
                .is_none_or(|disk| matches!(disk.scan, Scan::None | Scan::Done)),
            Pc::DelWait => device.is_none(),
        }
    }

    /// One step of a command.
    pub(crate) fn control_step(&mut self, run: &mut Run<'_>, id: ControlId) {
        let Some(control) = self.controls[id.index()].take() else { return };
        let (pc, interrupted) = (control.pc, self.is_interrupted(&control));
        let next = if interrupted && pc == Pc::Queued {
            Next::error(errno::ECANCELED)
        } else if interrupted && control.interruptible() {
            Next::error(errno::EINTR)
        } else {
            self.on_its_device(run, &control, |world, run| world.control_goes_on(run, id, &control))
        };
        match next {
            Next::Go(pc) => {
                let mut control = Control { pc, ..control };
                // QUIESCE_DEV looks for a signal when it is through (H10).
                if (control.interruptible() || pc == Pc::Quiesce)
                    && self.budget.signals > 0
                    && run.fault(run.config.faults.signal)
                {
                    self.budget.signals -= 1;
                    control.interrupted = true;
                }
                self.controls[id.index()] = Some(control);
            }
            Next::Done(res, reply) => self.finish_control(run, &control, res, reply),
        }
        self.settle_idle(run);
    }

    fn control_goes_on(&mut self, run: &mut Run<'_>, id: ControlId, control: &Control) -> Next {
        let name = control.name();
        match control.pc {
            Pc::Queued => self.control_begins(run, control),
            Pc::Add => match &control.command {
                Asked::Engine(Command::AddDev(info)) => self.add_dev(run, control, info),
                _ => Next::error(errno::EINVAL),
            },
            Pc::SetParams => self.set_params(run.config.kernel, control),
            Pc::GetParams => self.get_params(run.config.kernel, control),
            // 6.18 asks who serves before it takes the mutex.
            Pc::StartWait | Pc::RecoverWait
                if run.config.kernel == KernelSeries::V6_18 && self.names_another(control) =>
            {
                Next::error(errno::EINVAL)
            }
            Pc::StartWait => Next::Go(Pc::StartLocked),
            Pc::StartLocked => self.start_locked(run, id, control),
            Pc::StartZones => self.start_zones(run),
            Pc::StartScan => Next::Go(Pc::StartPublish),
            Pc::StartPublish => {
                if let Some(device) = &mut self.device {
                    device.mutex = None;
                    if device.kernel > KernelSeries::V6_12 {
                        device.schedule_scan();
                    }
                }
                self.udev.probe = if run.config.quiet { Probe::Idle } else { Probe::Called };
                Next::done()
            }
            Pc::StopLock => {
                let Some(device) = &mut self.device else { return Next::error(errno::ENODEV) };
                device.mutex = Some(Holder::Control(id));
                run.progress();
                run.kernel(|| format!("ST1: {name} holds ub->mutex"));
                // 6.12 asks whether the device recovers at all, later kernels whether requests would wait.
                Next::Go(match device.state {
                    State::Dead => Pc::StopScan,
                    State::Live | State::Quiesced | State::FailIo if device.queues_io() => {
                        device.quiesced = true;
                        Pc::StopIdle
                    }
                    State::Live | State::Quiesced | State::FailIo => Pc::StopMark,
                })
            }
            Pc::StopIdle => {
                if let Some(device) = &mut self.device {
                    device.quiesced = false;
                    for hw in &mut device.hw {
                        hw.force_abort = true;
                    }
                }
                self.kick_requeue_list(run);
                run.progress();
                run.kernel(|| "ST2: whatever waits for a server aborts".into());
                Next::Go(Pc::StopMark)
            }
            Pc::RecoverWait => {
                if run.sabotage == Some(Sabotage::QuiesceUnserved) && run.strikes() {
                    self.cancel_armed(run);
                }
                Next::Go(Pc::RecoverLocked)
            }
            Pc::RecoverLocked => self.end_recovery(run, control),
            Pc::RecoverBegin => self.start_recovery(run),
            Pc::Resize => {
                if self.resize_disk(run, control.command.data()) {
                    return Next::done();
                }
                // 6.18 does not look, and follows the null pointer.
                if run.config.kernel == KernelSeries::V6_18 {
                    self.doomed = true;
                    run.violate("K5", "UPDATE_SIZE of a device without a disk".into());
                }
                Next::error(errno::ENODEV)
            }
            Pc::Quiesce => {
                let Some(device) = &mut self.device else { return Next::error(errno::ENODEV) };
                if device.state == State::Dead {
                    return Next::error(errno::ENODEV);
                }
                let live = device.state == State::Live;
                if live {
                    for hw in &mut device.hw {
                        hw.canceling = true;
                    }
                    run.quiesced = true;
                    run.kernel(|| "every queue is canceling".into());
                }
                run.progress();
                // Nothing is taken back then, and nothing is aborted (`ublk_wait_for_idle_io`).
                if live && self.is_interrupted(control) {
                    return Next::error(errno::EINTR);
                }
                Next::Go(Pc::StopCancel)
            }
            Pc::ShmemLock => Next::Go(self.shmem_locked(run, id)),
            Pc::ShmemFrozen => Next::Done(self.shmem_done(run, &control.command), Reply::Nothing),
            Pc::TryStop => {
                let disk = self.disk();
                match disk.filter(|disk| disk.attached) {
                    None => Next::error(errno::ENODEV),
                    Some(disk) if disk.openers > 0 => Next::error(errno::EBUSY),
                    Some(_) => {
                        // From here on it is a STOP_DEV.
                        (run.rivalled, run.abandoned) = (true, true);
                        if let Some(device) = &mut self.device {
                            device.block_open = true;
                        }
                        Next::Go(Pc::StopLock)
                    }
                }
            }
            Pc::StopMark if self.disk_mut().is_some_and(Gendisk::hides_what_is_to_be_written) => {
                let queue = self.queue_of_any_worker(run);
                self.write_back(run, Writer::Removal, (0, u16::MAX), queue);
                run.progress();
                run.kernel(|| format!("ST3: {name} writes back what clients wrote"));
                Next::Go(Pc::StopSync)
            }
            Pc::StopSync => {
                if let Some(cache) = self.cache() {
                    cache.drop_clean();
                }
                run.progress();
                Next::Go(Pc::StopDead)
            }
            Pc::StopMark | Pc::StopDead => {
                match self.disk_mut() {
                    Some(disk) => disk.dead = true,
                    // It was believed to be up, and has none (H57).
                    None => self.doomed |= run.config.kernel == KernelSeries::V6_18,
                }
                let left = self.requests_live;
                run.progress();
                run.kernel(|| format!("ST3: {name} waits for {left} request(s)"));
                Next::Go(Pc::StopDrain)
            }
            Pc::StopDrain => {
                self.detach_disk();
                run.progress();
                run.kernel(|| "ST4: no disk, state DEAD".into());
                Next::Go(Pc::StopScan)
            }
            Pc::StopScan => Next::Go(Pc::StopPin),
            Pc::StopPin => {
                let Some(device) = &mut self.device else { return Next::error(errno::ENODEV) };
                device.mutex = None;
                if device.kernel < KernelSeries::V7_3 {
                    // Whether or not there is a server.
                    Next::Go(Pc::StopCancel)
                } else if device.file_open() {
                    device.stopping = true;
                    device.file_refs += 1;
                    run.kernel(|| "ST6: STOPPING".into());
                    Next::Go(Pc::StopCancel)
                } else {
                    Self::after_stop(control)
                }
            }
            Pc::StopCancel => {
                let armed = self
                    .device
                    .as_ref()
                    .and_then(|device| device.tags.iter().position(TagSlot::can_be_aborted));
                if let Some(slot) = armed {
                    self.cancel(run, slot);
                    return Next::Go(Pc::StopCancel);
                }
                if self.cancel_first_fetcher(run) {
                    return Next::Go(Pc::StopCancel);
                }
                // A command that is cancelled twice is freed memory.
                self.doomed |= self.device.as_ref().is_some_and(|device| device.forgot);
                let stops = !matches!(control.command, Asked::Plain(ControlOp::QuiesceDev, ..));
                if let Some(device) = self
                    .device
                    .as_mut()
                    .filter(|device| device.kernel == KernelSeries::V7_3 && stops)
                {
                    device.file_refs -= 1;
                }
                self.file_dropped(run);
                Self::after_stop(control)
            }
            Pc::DelLock if run.sabotage == Some(Sabotage::RefuseDelete) && run.strikes() => {
                Next::error(errno::EBUSY)
            }
            Pc::DelLock => {
                self.global_mutex = Some(id);
                let first = self.device.as_ref().is_some_and(|device| device.cdev);
                Next::Go(if first { Pc::StopLock } else { Pc::DelRemove })
            }
            Pc::DelRemove => {
                let waits = !matches!(control.command, Asked::Plain(ControlOp::DelDevAsync, ..));
                self.global_mutex = None;
                if let Some(device) = &mut self.device {
                    device.cdev = false;
                }
                self.udev.node = Node::Absent;
                run.progress();
                run.kernel(|| format!("{name}: the node is gone"));
                if waits { Next::Go(Pc::DelWait) } else { Next::done() }
            }
            Pc::DelWait => Next::done(),
        }
    }

    fn start_locked(&mut self, run: &mut Run<'_>, id: ControlId, control: &Control) -> Next {
        let Asked::Engine(Command::StartDev(_, pid)) = control.command else {
            return Next::error(errno::EINVAL);
        };
        let server = self.process_by_pid(pid);
        let Some(device) = &mut self.device else { return Next::error(errno::ENODEV) };
        if !start_may_go_on(device) {
            // The round was reset meanwhile.
            return Next::Go(Pc::StartWait);
        }
        let refused = run.sabotage == Some(Sabotage::RefuseStart) && run.strikes();
        // 6.12 stores the number unseen.
        let unchecked = device.kernel == KernelSeries::V6_12;
        if refused || !unchecked && (server.is_none() || server != device.tgid) {
            return Next::error(errno::EINVAL);
        }
        if device.state != State::Dead || device.disk.is_some() {
            return Next::error(errno::EEXIST);
        }
        if device.stopping {
            return Next::error(errno::EBUSY);
        }
        let params = device.started_with.parts();
        let basic = params.basic.unwrap_or_default();
        if basic.max_sectors < u32::from(PAGE_SECTORS) {
            // The block layer takes no requests smaller than a page. Only 6.18 lets them get this far.
            return Next::error(errno::EINVAL);
        }
        device.mutex = Some(Holder::Control(id));
        device.state = State::Live;
        device.pid = Some(pid);
        let (write_cache, fua) = limits::cache(&params);
        // `elevator_set_default`
        let scheduler = (self.deadline && device.queues == 1).then(Deadline::default);
        device.disk = Some(Gendisk {
            attached: true,
            hidden: false,
            dead: false,
            write_cache,
            fua,
            limits: Limits::new(&params),
            scheduler,
            owner: 0,
            timeout_ms: TIMEOUT_MS,
            openers: 0,
            open_mutex: false,
            scan: Scan::None,
            scanned: 0,
            sectors: device.params.sectors(),
            cache: Cache::default(),
            zones: Zones::default(),
        });
        run.progress();
        run.kernel(|| "SD: every tag is fetched, device LIVE".into());
        if device.is_zoned() {
            return Next::Go(Pc::StartZones);
        }
        self.adds_disk()
    }

    /// SD: `add_disk`.
    pub(super) fn adds_disk(&mut self) -> Next {
        match &mut self.device {
            Some(device) if device.kernel == KernelSeries::V6_12 => {
                device.schedule_scan();
                Next::Go(Pc::StartScan)
            }
            Some(_) | None => Next::Go(Pc::StartPublish),
        }
    }

    /// Whether START_DEV or END_USER_RECOVERY names a process that is not the one that opened the device.
    fn names_another(&self, control: &Control) -> bool {
        let pid = match control.command {
            Asked::Engine(Command::StartDev(_, pid)) => pid,
            Asked::Plain(ControlOp::EndUserRecovery, _, pid) => pid as u32,
            Asked::Engine(_) | Asked::Plain(..) | Asked::Params(..) => return false,
        };
        let server = self.process_by_pid(pid);
        self.device.as_ref().is_some_and(|device| server.is_none() || server != device.tgid)
    }

    /// START_USER_RECOVERY, under the mutex (`ublk_ctrl_start_recovery`).
    fn start_recovery(&mut self, run: &mut Run<'_>) -> Next {
        let Some(device) = &mut self.device else { return Next::error(errno::ENODEV) };
        let old = device.kernel == KernelSeries::V6_12;
        let untouched = device.hw.iter().all(|hw| hw.ready < device.depth);
        if !device.recovers() || old && untouched {
            return Next::error(errno::EINVAL);
        }
        let waits = device.state == State::Quiesced || !old && device.state == State::FailIo;
        if device.open || !waits {
            return Next::error(errno::EBUSY);
        }
        // 7.3 only checks. 6.18 will wait for the tags again; 6.12 forgets everything.
        device.completed &= device.kernel == KernelSeries::V7_3;
        if old {
            device.tags.fill(TagSlot::UNFETCHED);
            device.mm = None;
            for hw in &mut device.hw {
                (hw.ready, hw.daemon) = (0, None);
            }
        }
        run.progress();
        Next::done()
    }

    /// END_USER_RECOVERY, once every tag is fetched (`ublk_ctrl_end_recovery`).
    fn end_recovery(&mut self, run: &mut Run<'_>, control: &Control) -> Next {
        let Asked::Plain(_, _, pid) = control.command else { return Next::error(errno::EINVAL) };
        let mut server = self.process_by_pid(pid as u32);
        if run.sabotage == Some(Sabotage::EndForFirstWorker) {
            let first = self.processes.iter().position(|process| process.geometry.is_some());
            server = first.map(crate::world::ProcessId::from_index);
        }
        let Some(device) = &mut self.device else { return Next::error(errno::ENODEV) };
        let old = device.kernel == KernelSeries::V6_12;
        if !old && (server.is_none() || server != device.tgid) || !device.recovers() {
            return Next::error(errno::EINVAL);
        }
        if !matches!(device.state, State::Quiesced | State::FailIo) {
            return Next::error(errno::EBUSY);
        }
        device.state = State::Live;
        device.pid = Some(pid as u32);
        device.quiesced = false;
        if old {
            for hw in &mut device.hw {
                hw.canceling = false;
            }
        }
        self.kick_requeue_list(run);
        run.progress();
        run.kernel(|| "the device has another server".into());
        Next::done()
    }

    /// Where a stop leads: STOP_DEV is through, DEL_DEV goes on.
    fn after_stop(control: &Control) -> Next {
        match control.command {
            Asked::Engine(Command::DelDev(_)) | Asked::Plain(ControlOp::DelDevAsync, ..) => {
                Next::Go(Pc::DelRemove)
            }
            Asked::Engine(
                Command::GetFeatures
                | Command::AddDev(_)
                | Command::SetParams(..)
                | Command::StartDev(..)
                | Command::StopDev(_)
                | Command::GetDevInfo(_)
                | Command::StartRecovery(_)
                | Command::EndRecovery(..)
                | Command::GetParams(_)
                | Command::QuiesceDev(_)
                | Command::UpdateSize(..)
                | Command::TryStopDev(_)
                | Command::RegBuf(..),
            )
            | Asked::Plain(..)
            | Asked::Params(..) => Next::done(),
        }
    }

    /// What a command waits for, for the report.
    pub(crate) fn control_awaits(&self, control: &Control) -> String {
        let name = control.name();
        let Some(device) = &self.device else { return format!("{name} waits to be run") };
        let mutex = || match device.mutex {
            Some(Holder::Control(id)) => {
                self.controls[id.index()].as_ref().map_or("a control command", Control::name)
            }
            Some(Holder::Release) => "the release work",
            None => "nobody",
        };
        match control.pc {
            Pc::StartWait | Pc::StartLocked | Pc::RecoverWait if !start_may_go_on(device) => {
                let missing: Vec<String> = (0..device.queues)
                    .filter(|queue| device.missing(*queue) > 0)
                    .map(|queue| {
                        format!("{} more FETCH(es) on queue {queue}", device.missing(queue))
                    })
                    .collect();
                format!("{name} waits for {}", missing.join(", "))
            }
            Pc::SetParams
            | Pc::GetParams
            | Pc::StopLock
            | Pc::StartLocked
            | Pc::RecoverLocked
            | Pc::RecoverBegin
            | Pc::Resize
            | Pc::Quiesce
            | Pc::ShmemLock => {
                format!("{name} waits for ub->mutex, held by {}", mutex())
            }
            Pc::Add | Pc::DelLock => format!("{name} waits for ublk_ctl_mutex"),
            Pc::StopSync => format!("{name} waits for what clients wrote to be written back"),
            Pc::StopMark | Pc::StopDead | Pc::TryStop => {
                format!("{name} waits for disk->open_mutex, held by the partition scan")
            }
            Pc::ShmemFrozen => format!("{name} waits until no request is inside"),
            Pc::StopIdle => format!("{name} waits for the requests that are started"),
            Pc::StopDrain => format!("{name} waits for {} request(s)", self.requests_live),
            Pc::StartZones => format!("{name} waits for the server to tell of zones"),
            Pc::StartScan | Pc::StopScan => format!("{name} waits for the partition scan"),
            Pc::DelWait => format!("{name} waits for {}", device_references(device)),
            Pc::Queued
            | Pc::StartWait
            | Pc::RecoverWait
            | Pc::StartPublish
            | Pc::StopPin
            | Pc::StopCancel
            | Pc::DelRemove => format!("{name} waits to be run"),
        }
    }
}

/// Who still references a device that is to be freed.
fn device_references(device: &Device) -> String {
    let mut references = Vec::new();
    if device.file_refs > 0 {
        references.push(format!("{} reference(s) to ublkc", device.file_refs));
    }
    if device.armed > 0 {
        references.push(format!("{} armed command(s)", device.armed));
    }
    if device.release.is_some() {
        references.push("the release work".into());
    }
    if let Some(disk) = &device.disk {
        references.push(format!("{} opener(s) of ublkb", disk.openers));
    }
    if references.is_empty() { "the last reference".into() } else { references.join(", ") }
}

/// START_DEV's condition: every tag fetched, or a stop under way.
fn start_may_go_on(device: &Device) -> bool {
    match device.kernel {
        KernelSeries::V7_3 => device.stopping || device.ready(),
        KernelSeries::V6_12 | KernelSeries::V6_18 => device.completed,
    }
}
