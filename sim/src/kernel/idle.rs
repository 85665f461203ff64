//! Devices beside the one that is served: scripts add them, ask about them and delete them, and nobody ever opens them.
//!
//! What they have in common with the served one is `ublk_ctl_mutex`: a DEL_DEV that waits holds up every ADD_DEV and DEL_DEV (H31).

use blkproof_engine::uapi::DevId;

use crate::kernel::control::Control;
use crate::kernel::device::Device;
use crate::run::Run;
use crate::world::World;

impl World {
    /// The device with this number.
    pub(crate) fn numbered(&self, id: DevId) -> Option<&Device> {
        self.device.iter().chain(&self.idle).find(|device| device.id == id)
    }

    /// The lowest number that no device has.
    pub(super) fn free_number(&self) -> DevId {
        let devices = self.idle.len() as u32 + 1;
        let free = (0..=devices).map(DevId).find(|id| self.numbered(*id).is_none());
        free.expect("that are more numbers than devices")
    }

    /// Carries out a step of a command with the device that it names in the place of the served one.
    pub(super) fn on_its_device<T>(
        &mut self,
        run: &mut Run<'_>,
        control: &Control,
        step: impl FnOnce(&mut Self, &mut Run<'_>) -> T,
    ) -> T {
        let named = self.idle.iter().position(|device| Some(device.id) == control.named());
        match named {
            Some(at) => self.in_front(run, at, step),
            None => step(self, run),
        }
    }

    /// Frees the numbers that nothing references any more.
    pub(super) fn settle_idle(&mut self, run: &mut Run<'_>) {
        for at in (0..self.idle.len()).rev() {
            self.in_front(run, at, Self::settle_device);
        }
    }

    fn in_front<T>(
        &mut self,
        run: &mut Run<'_>,
        at: usize,
        step: impl FnOnce(&mut Self, &mut Run<'_>) -> T,
    ) -> T {
        let served = self.device.take();
        self.device = Some(self.idle.remove(at));
        let node = self.udev.node;
        let outcome = step(self, run);
        self.udev.node = node;
        if let Some(device) = std::mem::replace(&mut self.device, served) {
            self.idle.insert(at, device);
        }
        outcome
    }
}
