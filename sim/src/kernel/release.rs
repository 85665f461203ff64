//! The release work (D5): what the driver does after the last reference to the character device is gone.

use blkproof_engine::uapi::{Features, KernelSeries};

use crate::kernel::cache::Writer;
use crate::kernel::device::{Device, Gendisk, Holder, State};
use crate::kernel::tags::{TagSlot, TagState};
use crate::run::Run;
use crate::world::World;

/// Where the release work is.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub(crate) enum ReleaseStep {
    /// RWb, RWc: abort what the server held. Not under `ub->mutex`.
    Abort,
    /// RWd: take `ub->mutex`.
    Lock,
    /// 6.12, with recovery: wait until no request is started, and quiesce.
    Idle,
    /// RWd: `del_gendisk`, which needs `open_mutex`.
    Mark,
    /// RWd: it writes back what clients wrote, needs `open_mutex` again.
    Sync,
    /// RWd: wait for every request.
    Drain,
    /// RWe: reset the round.
    Reset,
}

/// Whether a kernel older than 7.3 has no disk to remove.
fn device_is_bare(device: Option<&Device>) -> bool {
    device.is_some_and(|device| {
        device.kernel == KernelSeries::V6_18
            && !device.disk.as_ref().is_some_and(|disk| disk.attached)
    })
}

impl World {
    /// Whether the release work can move.
    pub(crate) fn release_can_move(&self) -> bool {
        let Some(device) = &self.device else { return false };
        match device.release {
            None => false,
            Some(ReleaseStep::Abort) => !self.any_held(),
            Some(ReleaseStep::Reset) => true,
            Some(ReleaseStep::Lock) => device.mutex.is_none(),
            Some(ReleaseStep::Idle) => !self.any_started(),
            Some(ReleaseStep::Sync) => {
                !self.is_writing_back(Writer::Removal) && self.open_mutex_free()
            }
            Some(ReleaseStep::Mark) => !device.disk.as_ref().is_some_and(|disk| disk.open_mutex),
            Some(ReleaseStep::Drain) => self.requests_live == 0,
        }
    }

    /// A device that recovers has lost its server.
    fn without_server(run: &mut Run<'_>, device: &mut Device) {
        if device.queues_io() {
            device.state = State::Quiesced;
        } else {
            device.state = State::FailIo;
            for hw in &mut device.hw {
                hw.fail_io = true;
            }
        }
        run.kernel(|| "RWd: the disk stays, and waits for another server".into());
    }

    /// One step of the release work.
    pub(crate) fn release_step(&mut self, run: &mut Run<'_>) {
        let Some(device) = &mut self.device else { return };
        let Some(step) = device.release else { return };
        let next = match step {
            ReleaseStep::Abort => {
                if device.disk.as_ref().is_some_and(|disk| disk.attached) {
                    for hw in &mut device.hw {
                        hw.canceling = true;
                    }
                    let mut held = Vec::new();
                    for hw in &mut device.hw {
                        hw.batch.fifo.clear();
                    }
                    for slot in &mut device.tags {
                        let listed = match slot.state {
                            TagState::Listed(request) => Some(request),
                            _ => None,
                        };
                        if let Some(request) = slot.served().or(listed) {
                            // Nobody's any more, until the round is reset.
                            slot.state = TagState::Cancelled;
                            held.push(request);
                        }
                    }
                    run.kernel(|| format!("RWc: release work aborts {} request(s)", held.len()));
                    let waits = device.reissues();
                    for request in held {
                        self.abort_request(run, request, waits);
                    }
                    self.kick_requeue_list(run);
                }
                // Before 7.3 there is nothing more to do without a disk, not even a reset.
                let bare = device_is_bare(self.device.as_ref());
                if bare {
                    if let Some(device) = &mut self.device {
                        device.open = false;
                        device.release = None;
                    }
                    run.progress();
                    return;
                }
                ReleaseStep::Lock
            }
            ReleaseStep::Lock => {
                device.mutex = Some(Holder::Release);
                let old = device.kernel == KernelSeries::V6_12;
                let disk = device.disk.as_ref().is_some_and(|disk| disk.attached);
                if !device.recovers() && device.state == State::Live {
                    ReleaseStep::Mark
                } else if old && device.recovers() && device.state == State::Live {
                    device.quiesced = true;
                    ReleaseStep::Idle
                } else {
                    if !old && disk && device.recovers() {
                        Self::without_server(run, device);
                    }
                    ReleaseStep::Reset
                }
            }
            ReleaseStep::Idle => {
                Self::without_server(run, device);
                ReleaseStep::Reset
            }
            ReleaseStep::Mark
                if device.disk.as_mut().is_some_and(Gendisk::hides_what_is_to_be_written) =>
            {
                let queue = self.queue_of_any_worker(run);
                self.write_back(run, Writer::Removal, (0, u16::MAX), queue);
                ReleaseStep::Sync
            }
            ReleaseStep::Mark | ReleaseStep::Sync => {
                if let Some(disk) = &mut device.disk {
                    disk.cache.drop_clean();
                    disk.dead = true;
                }
                ReleaseStep::Drain
            }
            ReleaseStep::Drain => {
                self.detach_disk();
                run.kernel(|| "RWd: release work removed the disk".into());
                ReleaseStep::Reset
            }
            // 6.12: not a release, but the work that stops a device whose server is gone.
            ReleaseStep::Reset if device.kernel == KernelSeries::V6_12 => {
                device.mutex = None;
                let armed =
                    device.tags.iter().position(|slot| matches!(slot.state, TagState::Armed(_)));
                match armed {
                    Some(slot) => self.cancel(run, slot),
                    None => device.release = None,
                }
                return;
            }
            ReleaseStep::Reset => {
                for slot in &mut device.tags {
                    *slot = TagSlot { marked: slot.marked, ..TagSlot::UNFETCHED };
                }
                // A queue of batches is left as it is: it may never have been canceling.
                let cancels = !device.info.flags.contains(Features::BATCH_IO);
                for hw in &mut device.hw {
                    hw.ready = 0;
                    hw.canceling |= cancels;
                    hw.batch.aborted = false;
                }
                (device.poisoned, device.forgot) = (false, false);
                device.unprivileged = false;
                device.stopping = false;
                (device.tgid, device.mm) = (None, None);
                device.mutex = None;
                device.open = false;
                device.release = None;
                run.progress();
                run.kernel(|| "RWe: round reset, ublkc can be opened again".into());
                return;
            }
        };
        if let Some(device) = &mut self.device {
            device.release = Some(next);
        }
        run.progress();
    }

    /// The end of `del_gendisk`: no disk, state DEAD (ST4, RWd).
    pub(crate) fn detach_disk(&mut self) {
        if let Some(device) = &mut self.device {
            device.state = State::Dead;
            device.pid = None;
            if let Some(disk) = &mut device.disk {
                disk.attached = false;
            }
        }
    }
}
