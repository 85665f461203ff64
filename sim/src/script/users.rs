//! Users who are not root: what belongs to them, and what the kernel does to their servers.

use blkproof_engine::sys::WorkerExit;
use blkproof_engine::uapi::KernelSeries;

use crate::kernel::errno;
use crate::kernel::permission;
use crate::kernel::process::SIGKILL;
use crate::world::{ThreadId, World};

/// How late the request timer may be: it is rounded up to a second.
const LATE_MS: u32 = 2_000;

impl World {
    /// A thread becomes a user and a group without capabilities.
    pub(super) fn becomes(&mut self, thread: ThreadId, step: u16, user: u32) {
        let own = &mut self.threads[thread.index()].user;
        let may = *own == 0 || *own == user;
        *own = if may { user } else { *own };
        self.answer(step, if may { 0 } else { -errno::EPERM });
    }

    /// The nodes of the device get another owner.
    pub(super) fn gives_away(&mut self, thread: ThreadId, step: u16, user: u32) {
        let by = self.threads[thread.index()].user;
        let result = match self.device.as_mut().filter(|device| device.cdev) {
            None => -errno::ENOENT,
            Some(_) if by != 0 => -errno::EPERM,
            Some(device) => {
                device.owner = user;
                if let Some(disk) = &mut device.disk {
                    disk.owner = user;
                }
                0
            }
        };
        self.answer(step, result);
    }

    /// A request's time is changed.
    pub(super) fn sets_timeout(&mut self, thread: ThreadId, step: u16, ms: u32) {
        let by = self.threads[thread.index()].user;
        let disk = self.disk_mut();
        let result = match disk.filter(|disk| disk.attached) {
            None => -errno::ENOENT,
            Some(_) if by != 0 => -errno::EACCES,
            Some(_) if ms == 0 => -errno::EINVAL,
            Some(disk) => {
                disk.timeout_ms = ms;
                0
            }
        };
        self.answer(step, result);
    }

    /// Whether the node of the character device is another's.
    pub(super) fn may_not_open(&self, thread: ThreadId) -> bool {
        let user = self.threads[thread.index()].user;
        let device = self.device.as_ref().filter(|device| device.cdev);
        user != 0 && device.is_some_and(|device| device.owner != user)
    }

    /// What keeps a thread from the disk.
    pub(super) fn may_not_open_disk(&self, thread: ThreadId) -> Option<i32> {
        permission::disk_refused(self.device.as_ref()?, self.threads[thread.index()].user)
    }

    /// So much time passes that a request's timer kills the server of an unprivileged device (H50), or nothing happens.
    pub(super) fn sleeps_on(&mut self, ms: u32) {
        let Some(device) = &self.device else { return };
        let Some(disk) = &device.disk else { return };
        if !permission::kills(device) || ms < disk.timeout_ms.saturating_add(LATE_MS) {
            return;
        }
        let queue = device.hw.iter().find(|hw| hw.busy > 0);
        let Some(queue) = queue else { return };
        let server = match device.kernel {
            KernelSeries::V6_12 => queue.daemon.map(|it| self.threads[it.index()].process),
            KernelSeries::V6_18 | KernelSeries::V7_3 => device.tgid,
        };
        if let Some(server) = server {
            self.begin_exit(server, WorkerExit::Signal(SIGKILL));
        }
    }
}
