//! UPDATE_SIZE: the disk gets another end, whatever is under way.

use crate::kernel::device::Gendisk;
use crate::oracle::ANY;
use crate::run::Run;
use crate::world::World;

impl World {
    /// The disk gets another size (`ublk_ctrl_set_size`). False if there is none.
    pub(super) fn resize_disk(&mut self, run: &mut Run<'_>, sectors: u64) -> bool {
        let Some(device) = &mut self.device else { return false };
        let Some(disk) = device.disk.as_mut().filter(|disk| disk.attached) else { return false };
        let before = std::mem::replace(&mut disk.sectors, sectors);
        device.params.resize(sectors);
        run.progress();
        run.kernel(|| format!("the disk has {sectors} sectors, after {before}"));
        if sectors >= before {
            return true;
        }
        // Nobody knows what is found there when it grows again.
        self.register.forget_from(sectors as usize);
        if let Some(promises) = &mut self.promises {
            promises.forget_from(sectors as usize);
        }
        for request in self.requests.iter_mut().flatten() {
            let first = u64::from(request.start);
            request.beyond |= first + u64::from(request.sectors) > sectors;
            for (index, allowed) in request.allowed.iter_mut().enumerate() {
                if first + index as u64 >= sectors {
                    allowed.push(ANY);
                }
            }
        }
        true
    }

    /// Sectors of the disk that is there.
    pub(crate) fn capacity(&self) -> u64 {
        let disk = self.disk();
        disk.filter(|disk: &&Gendisk| !disk.dead).map_or(0, |disk| disk.sectors)
    }

    /// Every armed tag is aborted.
    pub(super) fn cancel_armed(&mut self, run: &mut Run<'_>) {
        let tags = self.device.as_ref().map_or(0, |device| device.tags.len());
        for slot in 0..tags {
            self.cancel(run, slot);
        }
    }
}
