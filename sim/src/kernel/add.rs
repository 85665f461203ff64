//! ADD_DEV: what is refused, what is granted, and what GET_FEATURES says of it.

use blkproof_engine::control::Reply;
use blkproof_engine::uapi::{
    DEPTH_MAX, DevId, DevInfo, DeviceState, Features, IoDesc, KernelSeries, QUEUES_MAX,
};

use crate::kernel::control::{Control, Next};
use crate::kernel::device::{Device, State};
use crate::kernel::errno;
use crate::run::Run;
use crate::script::Place;
use crate::world::{BUFFER_SECTORS, World};

/// Numbers of devices (`UBLK_MAX_UBLKS`).
const DEVICES_MAX: u32 = 1 << 20;
/// Largest descriptor in bytes.
const DESC_BYTES_MAX: u16 = 256;

const RECOVERY: Features = Features::USER_RECOVERY;
const REISSUE: Features = Features::USER_RECOVERY.union(Features::USER_RECOVERY_REISSUE);
const FAIL_IO: Features = Features::USER_RECOVERY.union(Features::USER_RECOVERY_FAIL_IO);
/// The modes in which the server moves data itself, or needs none moved.
const WITHOUT_COPY: Features =
    Features::USER_COPY.union(Features::SUPPORT_ZERO_COPY).union(Features::AUTO_BUF_REG);

/// `UBLK_F_ALL`, less what is always taken away.
pub(crate) const fn supported(kernel: KernelSeries) -> Features {
    match kernel {
        KernelSeries::V6_12 => Features(0x1ff).difference(Features::SUPPORT_ZERO_COPY),
        KernelSeries::V6_18 => Features(0x7fff),
        KernelSeries::V7_3 => Features(0x1f_ffff),
    }
}

/// What every device has.
const fn forced(kernel: KernelSeries) -> Features {
    let old = Features::URING_CMD_COMP_IN_TASK.union(Features::CMD_IOCTL_ENCODE);
    let since_6_18 = old.union(Features::PER_IO_DAEMON).union(Features::BUF_REG_OFF_DAEMON);
    match kernel {
        KernelSeries::V6_12 => old,
        KernelSeries::V6_18 => since_6_18,
        KernelSeries::V7_3 => since_6_18.union(Features::SAFE_STOP_DEV),
    }
}

const fn any(flags: Features, of: Features) -> bool {
    flags.0 & of.0 != 0
}

/// What is wrong with a device that is asked for, before any lock is taken; the flags that are left otherwise.
fn asked(kernel: KernelSeries, info: &DevInfo, privileged: bool) -> Result<Features, i32> {
    let sane = |value: u16, most: u16| (1..=most).contains(&value);
    if !sane(info.nr_hw_queues, QUEUES_MAX) || !sane(info.queue_depth, DEPTH_MAX) {
        return Err(errno::EINVAL);
    }
    let mut flags = info.flags;
    if privileged {
        flags = flags.difference(Features::UNPRIVILEGED_DEV);
    } else if !flags.contains(Features::UNPRIVILEGED_DEV) {
        return Err(errno::EPERM);
    }
    if kernel > KernelSeries::V6_12 {
        let sets = Features(flags.0 & REISSUE.union(FAIL_IO).0);
        if ![Features::NONE, RECOVERY, REISSUE, FAIL_IO].contains(&sets) {
            return Err(errno::EINVAL);
        }
        if flags.contains(Features::QUIESCE) && !flags.contains(RECOVERY) {
            return Err(errno::EINVAL);
        }
    }
    if flags.contains(Features::UNPRIVILEGED_DEV) {
        flags = flags.difference(REISSUE);
        let barred = match kernel {
            KernelSeries::V6_12 => Features::USER_COPY,
            KernelSeries::V6_18 | KernelSeries::V7_3 => WITHOUT_COPY,
        };
        if any(flags, barred) {
            return Err(errno::EINVAL);
        }
    }
    if kernel == KernelSeries::V7_3 {
        if flags.contains(Features::INTEGRITY) && !flags.contains(Features::USER_COPY) {
            return Err(errno::EINVAL);
        }
        let size = info.io_desc_size;
        let fits = (IoDesc::SIZE as u16..=DESC_BYTES_MAX).contains(&size) && size.is_multiple_of(8);
        if flags.contains(Features::IO_DESC_SIZE) && !fits {
            return Err(errno::EINVAL);
        }
    }
    Ok(flags)
}

/// What the driver makes of flags that it did not refuse. None: zones without a way to say where an append went.
fn granted(kernel: KernelSeries, flags: Features) -> Option<Features> {
    let mut flags = Features(flags.0 & supported(kernel).0).union(forced(kernel));
    let mut elsewhere = match kernel {
        KernelSeries::V6_12 => Features::USER_COPY,
        KernelSeries::V6_18 | KernelSeries::V7_3 => WITHOUT_COPY,
    };
    if kernel == KernelSeries::V7_3 {
        elsewhere = elsewhere.union(Features::BATCH_IO);
        if flags.contains(Features::BATCH_IO) {
            flags = flags.difference(Features::PER_IO_DAEMON);
        }
    }
    if any(flags, elsewhere) {
        flags = flags.difference(Features::NEED_GET_DATA);
    }
    let appends = Features::USER_COPY.union(Features::SUPPORT_ZERO_COPY);
    (!flags.contains(Features::ZONED) || any(flags, appends)).then_some(flags)
}

impl World {
    /// What ADD_DEV looks at before it takes `ublk_ctl_mutex`.
    pub(super) fn add_begins(kernel: KernelSeries, control: &Control, info: &DevInfo) -> i32 {
        let header = control.header();
        if header.queue.is_some_and(|queue| queue != u16::MAX) {
            return errno::EINVAL;
        }
        if header.place == Some(Place::Bad) {
            return errno::EFAULT;
        }
        if let Err(errno) = asked(kernel, info, control.user == 0) {
            return errno;
        }
        let id = info.dev_id;
        if header.id.is_some_and(|other| other != id.0) || id != DevId::AUTO && id.0 >= DEVICES_MAX
        {
            return errno::EINVAL;
        }
        0
    }

    /// ADD_DEV, under `ublk_ctl_mutex`.
    pub(super) fn add_dev(&mut self, run: &mut Run<'_>, control: &Control, info: &DevInfo) -> Next {
        let kernel = run.config.kernel;
        let Ok(flags) = asked(kernel, info, control.user == 0) else {
            return Next::error(errno::EINVAL);
        };
        let free = if run.config.quiet { self.free_number() } else { DevId(0) };
        let id = if info.dev_id == DevId::AUTO { free } else { info.dev_id };
        // In runs of the engine there is one device.
        if self.numbered(id).is_some() || self.device.is_some() && !run.config.quiet {
            return Next::error(errno::EEXIST);
        }
        let Some(flags) = granted(kernel, flags) else { return Next::error(errno::EINVAL) };
        if flags.contains(Features::BATCH_IO) && info.queue_depth == 1 {
            // `__kfifo_alloc` makes no queue of one event (`ublk_init_queue`).
            return Next::error(errno::EINVAL);
        }
        if control.header().place == Some(Place::ReadOnly) {
            // The answer cannot be written: the device goes again.
            return Next::error(errno::EFAULT);
        }
        let chosen = flags.contains(Features::IO_DESC_SIZE);
        let granted = DevInfo {
            nr_hw_queues: info.nr_hw_queues.min(run.config.cpus),
            io_desc_size: match kernel {
                KernelSeries::V6_12 | KernelSeries::V6_18 => info.io_desc_size,
                KernelSeries::V7_3 if chosen => info.io_desc_size,
                KernelSeries::V7_3 => IoDesc::SIZE as u16,
            },
            max_io_buf_bytes: info.max_io_buf_bytes & !4095,
            dev_id: id,
            ublksrv_pid: -1,
            flags,
            owner_uid: control.user,
            owner_gid: control.user,
            ..*info
        };
        let mut device = Device::new(kernel, granted);
        if kernel == KernelSeries::V6_18 {
            // It is believed (H57).
            device.state = match info.state {
                DeviceState::Dead => State::Dead,
                DeviceState::Live => State::Live,
                DeviceState::Quiesced => State::Quiesced,
                DeviceState::FailIo => State::FailIo,
            };
        }
        let told = self.dev_info(&device);
        if self.device.is_some() {
            self.idle.push(device);
            return Next::Done(0, Reply::DevInfo(told));
        }
        self.buffers = vec![[0; BUFFER_SECTORS]; device.tags.len()];
        self.device = Some(device);
        self.udev_sees_char(run);
        Next::Done(0, Reply::DevInfo(told))
    }
}
