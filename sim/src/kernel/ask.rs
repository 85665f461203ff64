//! How a control command begins (`ublk_ctrl_uring_cmd`): what its header must say, in the kernel's order; and the commands that only tell.

use blkproof_engine::control::{Command, Reply};
use blkproof_engine::uapi::{ControlOp, DevInfo, Features, KernelSeries, Params};

use crate::kernel::add::supported;
use crate::kernel::control::{Asked, Control, Next, Pc};
use crate::kernel::device::Device;
use crate::kernel::errno;
use crate::kernel::permission;
use crate::run::{Run, Sabotage};
use crate::script::{Header, Parameters, Place, told};
use crate::world::World;

/// Header of `struct ublk_params` in bytes: length and types.
const PARAMS_HEADER: u16 = 8;
/// What the kernel writes masks of CPUs in.
const LONG_BITS: u16 = 64;

impl Control {
    /// What is different in its header.
    pub(crate) fn header(&self) -> &Header {
        static AS_USUAL: Header = Header::USUAL;
        self.header.as_deref().unwrap_or(&AS_USUAL)
    }

    /// The bytes of its memory, where it usually has so many. A path has bytes of its own.
    pub(super) fn bytes(&self, usual: u16) -> u16 {
        let header = self.header();
        let path = match header.path {
            Some(path) => path.bytes(self.device().map_or(0, |id| id.0)).len() as u16,
            None => 0,
        };
        header.len.map_or(usual, |len| len.saturating_sub(header.path_len.unwrap_or(path)))
    }

    pub(super) fn has_memory(&self) -> bool {
        self.header().place != Some(Place::Null)
    }

    pub(super) fn readable(&self) -> bool {
        self.header().place != Some(Place::Bad)
    }

    fn writable(&self) -> bool {
        self.header().place.is_none()
    }
}

impl World {
    /// Everything that a command is asked before it takes a lock or waits.
    pub(super) fn control_begins(&mut self, run: &mut Run<'_>, control: &Control) -> Next {
        let kernel = run.config.kernel;
        let header = control.header();
        if header.small {
            return Next::error(errno::EINVAL);
        }
        if header.kind.is_some_and(|kind| kind != 0 && kind != b'u') {
            return Next::error(errno::EOPNOTSUPP);
        }
        let op = control.command.op();
        // It is the one command that is recognised by its whole number.
        if op == ControlOp::GetFeatures && header.nr.is_none() && header.kind != Some(0) {
            return self.tell_features(run, control);
        }
        if op == ControlOp::AddDev && header.nr.is_none() {
            return Self::may_add(kernel, control);
        }
        let named = control.named();
        let Some(device) = self.device.as_ref().filter(|device| Some(device.id) == named) else {
            return Next::error(errno::ENODEV);
        };
        if let Some(errno) = permission::refused(kernel, control, device) {
            return Next::error(errno);
        }
        if header.nr.is_some() || !op.exists_in(kernel) {
            return Next::error(errno::EOPNOTSUPP);
        }
        let data = control.command.data();
        match op {
            ControlOp::GetFeatures | ControlOp::AddDev => Next::error(errno::EOPNOTSUPP),
            ControlOp::GetQueueAffinity => self.tell_affinity(run, control, data),
            ControlOp::GetDevInfo | ControlOp::GetDevInfo2 => self.tell_info(control),
            ControlOp::SetParams => Self::may_set_params(control),
            ControlOp::GetParams => Self::may_get_params(control, data),
            ControlOp::StartDev => {
                if data == 0 || !device.params.has_basic() {
                    return Next::error(errno::EINVAL);
                }
                if let Some(device) = &mut self.device {
                    device.started_with = device.params;
                }
                Next::Go(Pc::StartWait)
            }
            ControlOp::StopDev => Next::Go(Pc::StopLock),
            ControlOp::DelDev | ControlOp::DelDevAsync => Next::Go(Pc::DelLock),
            ControlOp::StartUserRecovery => Next::Go(Pc::RecoverBegin),
            ControlOp::EndUserRecovery => Next::Go(Pc::RecoverWait),
            ControlOp::UpdateSize => Next::Go(Pc::Resize),
            ControlOp::TryStopDev => Next::Go(Pc::TryStop),
            ControlOp::QuiesceDev => {
                let quiesces = device.info.flags.contains(Features::QUIESCE);
                if quiesces { Next::Go(Pc::Quiesce) } else { Next::error(errno::EOPNOTSUPP) }
            }
            ControlOp::RegBuf | ControlOp::UnregBuf => {
                if !device.info.flags.contains(Features::SHMEM_ZC) {
                    return Next::error(errno::EOPNOTSUPP);
                }
                let refused = Self::shmem_refused(control);
                refused.map_or(Next::Go(Pc::ShmemLock), Next::error)
            }
        }
    }

    fn may_add(kernel: KernelSeries, control: &Control) -> Next {
        let Asked::Engine(Command::AddDev(info)) = &control.command else {
            return Next::error(errno::EINVAL);
        };
        if control.bytes(DevInfo::SIZE as u16) < DevInfo::SIZE as u16 || !control.has_memory() {
            return Next::error(errno::EINVAL);
        }
        match Self::add_begins(kernel, control, info) {
            0 => Next::Go(Pc::Add),
            errno => Next::error(errno),
        }
    }

    /// What a script's command told.
    fn tells(&mut self, control: &Control, words: impl FnOnce() -> String) -> Next {
        if matches!(control.command, Asked::Plain(..)) {
            self.script_told.push((control.sequence as u16, words()));
        }
        Next::done()
    }

    fn tell_features(&mut self, run: &Run<'_>, control: &Control) -> Next {
        if control.bytes(8) != 8 || !control.has_memory() {
            return Next::error(errno::EINVAL);
        }
        if !control.writable() {
            return Next::error(errno::EFAULT);
        }
        let mut features = supported(run.config.kernel);
        if run.sabotage == Some(Sabotage::NoQuiesce) {
            features = features.difference(Features::QUIESCE);
        }
        if matches!(control.command, Asked::Engine(_)) {
            return Next::Done(0, Reply::Features(features));
        }
        self.tells(control, || told::flags(features))
    }

    fn tell_info(&mut self, control: &Control) -> Next {
        let Some(device) = &self.device else { return Next::error(errno::ENODEV) };
        if control.bytes(DevInfo::SIZE as u16) < DevInfo::SIZE as u16 || !control.has_memory() {
            return Next::error(errno::EINVAL);
        }
        if !control.writable() {
            return Next::error(errno::EFAULT);
        }
        let info = self.dev_info(device);
        if matches!(control.command, Asked::Engine(_)) {
            return Next::Done(0, Reply::DevInfo(info));
        }
        self.tells(control, || told::info(&info))
    }

    fn tell_affinity(&mut self, run: &Run<'_>, control: &Control, queue: u64) -> Next {
        let Some(device) = &self.device else { return Next::error(errno::ENODEV) };
        let len = control.bytes(LONG_BITS / 8);
        let holds = u32::from(len) * 8 >= u32::from(run.config.cpus);
        let whole = len.is_multiple_of(LONG_BITS / 8);
        if !holds || !whole || !control.has_memory() || queue >= u64::from(device.queues) {
            return Next::error(errno::EINVAL);
        }
        if !control.writable() {
            return Next::error(errno::EFAULT);
        }
        let cpus = cpus_of(run.config.kernel, queue as u16, device.queues, run.config.cpus);
        self.tells(control, || told::affinity(cpus))
    }

    fn may_set_params(control: &Control) -> Next {
        let Some(given) = control.command.params() else { return Next::error(errno::EINVAL) };
        Self::params_header(control, &given, true).unwrap_or(Next::Go(Pc::SetParams))
    }

    fn may_get_params(control: &Control, bytes: u64) -> Next {
        let mut given = [0; Params::SIZE];
        given[..4].copy_from_slice(&(bytes as u32).to_ne_bytes());
        Self::params_header(control, &given, false).unwrap_or(Next::Go(Pc::GetParams))
    }

    /// What is wrong with the lengths of parameters.
    fn params_header(control: &Control, given: &[u8; Params::SIZE], types: bool) -> Option<Next> {
        let len = control.bytes(Params::SIZE as u16);
        if len <= PARAMS_HEADER || !control.has_memory() {
            return Some(Next::error(errno::EINVAL));
        }
        if !control.readable() {
            return Some(Next::error(errno::EFAULT));
        }
        let word = |at: usize| {
            u32::from_ne_bytes(*given[at..].first_chunk().expect("there are more bytes"))
        };
        let bad = word(0) > u32::from(len) || word(0) == 0 || types && word(4) == 0;
        bad.then_some(Next::error(errno::EINVAL))
    }

    /// SET_PARAMS, under `ub->mutex`.
    pub(super) fn set_params(&mut self, kernel: KernelSeries, control: &Control) -> Next {
        let (Some(given), Some(device)) = (control.command.params(), &mut self.device) else {
            return Next::error(errno::EINVAL);
        };
        if device.disk.is_some() {
            return Next::error(errno::EACCES);
        }
        let Device { params, info, .. } = device;
        match params.set(&given, kernel, info.flags, info.max_io_buf_bytes) {
            Ok(()) => Next::done(),
            Err(errno) => Next::error(errno),
        }
    }

    /// GET_PARAMS, under `ub->mutex`.
    pub(super) fn get_params(&mut self, kernel: KernelSeries, control: &Control) -> Next {
        let Some(device) = &mut self.device else { return Next::error(errno::ENODEV) };
        let bytes = device.params.get(kernel, control.command.data() as usize);
        let basic = device.params.parts().basic;
        if !control.writable() {
            return Next::error(errno::EFAULT);
        }
        if matches!(control.command, Asked::Engine(_)) {
            return Next::Done(0, basic.map_or(Reply::Nothing, Reply::Params));
        }
        self.tells(control, || Parameters::told(&bytes))
    }
}

/// The CPUs of a hardware queue: neighbours, as many for each queue as there are. Where each of four has one, 7.3 hands them out in the order that
/// its sort leaves equals in (`group_cpus_evenly`).
fn cpus_of(kernel: KernelSeries, queue: u16, queues: u16, cpus: u16) -> u64 {
    const SORTED: [u64; 4] = [1, 3, 2, 0];
    if let (KernelSeries::V7_3, 4, 4) = (kernel, queues, cpus) {
        return 1 << SORTED[usize::from(queue)];
    }
    let of = |cpu: u16| cpu * queues / cpus;
    (0..cpus).filter(|cpu| of(*cpu) == queue).fold(0, |mask, cpu| mask | 1 << cpu)
}
