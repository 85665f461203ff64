//! Two ways in which the kernel never lets go of a server that is killed.

use crate::kernel::process::{ProcessState, Thread, ThreadState};
use crate::kernel::ring::RingState;
use crate::kernel::tags::TagState;
use crate::world::{ProcessId, ThreadId, World};

impl World {
    /// The rule of the kernel's that is broken where it keeps a dead server.
    pub(crate) fn unreleased(&self) -> Option<&'static str> {
        if self.a_command_keeps_its_ring() {
            return Some("K12");
        }
        self.a_fetch_keeps_its_process().then_some("K13")
    }

    /// An exiting ring has a command that nothing will ever end (H70).
    fn a_command_keeps_its_ring(&self) -> bool {
        let Some(device) = &self.device else { return false };
        device.tags.iter().enumerate().any(|(slot, tag)| {
            let TagState::Armed(ring) = tag.state else { return false };
            let exits = self.rings[ring.index()].state == RingState::Exiting;
            exits && device.is_deaf_to_cancel(slot)
        })
    }

    /// A FETCH waits for `ub->mutex`, and keeps its process from ending; who holds that waits for a request which only the end of that process would
    /// fail, because the thread that has it is gone (H69).
    fn a_fetch_keeps_its_process(&self) -> bool {
        let Some(device) = &self.device else { return false };
        let is_kept = |process: ProcessId| {
            self.processes[process.index()].state == ProcessState::Dying
                && (0..self.threads.len()).map(ThreadId::from_index).any(|thread| {
                    let Thread { process: of, state, .. } = &self.threads[thread.index()];
                    let submits = matches!(state, ThreadState::Submitting { .. });
                    *of == process && submits && self.fetch_blocked(thread)
                })
        };
        let carrying = device.tags.iter().filter(|slot| slot.carries());
        let mut holders =
            carrying.filter_map(|slot| slot.task).map(|task| &self.threads[task.index()]);
        holders.any(|holder| holder.state == ThreadState::Dead && is_kept(holder.process))
    }
}

#[cfg(test)]
mod tests {
    use crate::script::Script;
    use crate::script::model::keeps_a_dead_server;
    use blkproof_engine::uapi::KernelSeries::{V6_12, V6_18, V7_3};

    /// A device of two queues whose next server `b` has fetched the first, with a request there and a stop that waits for it.
    const HALF_PRIMED: &str = "process a\nprocess b\nthread t of b\nprocess c\n\
        ctl: add queues=2 depth=1 flags=USER_RECOVERY+USER_RECOVERY_FAIL_IO\nctl: params sectors=16\n\
        a: open\na: map 0\na: map 1\na: ring defer\na: fetch 0.0\na: fetch 1.0\nctl: start a\nc: opendisk\nkill a\n\
        ctl: startrecovery\nb: open\nb: map 0\nb: map 1\nb: ring defer\nt: ring defer\nb: fetch 0.0\nc: write 0+8 queue=0\n\
        ctl: stop\nt: fetch 1.0\n";

    fn kept(text: &str) -> [Option<&'static str>; 3] {
        let script: Script = text.parse().expect("a script");
        [V6_12, V6_18, V7_3].map(|kernel| keeps_a_dead_server(&script, kernel))
    }

    #[test]
    fn a_fetch_that_waits_for_a_stop_keeps_a_server_that_is_killed() {
        assert_eq!(kept(HALF_PRIMED)[2], None);
        assert_eq!(kept(&format!("{HALF_PRIMED}kill b\n"))[2], Some("K13"));
    }

    #[test]
    fn commands_that_count_as_cancelled_keep_their_ring() {
        let script = "process a\nprocess b\nctl: add queues=1 depth=2 flags=USER_RECOVERY\nctl: params sectors=16\n\
            a: open\na: map 0\na: ring defer\na: fetch 0.0\na: fetch 0.1\nctl: start a\nkill a\n\
            ctl: startrecovery\nb: open\nb: map 0\nb: ring defer\nb: fetch 0.0\n";
        assert_eq!(kept(script), [None; 3]);
        assert_eq!(kept(&format!("{script}kill b\n")), [Some("K12"), Some("K12"), None]);
        assert_eq!(kept(&format!("{script}b: fetch 0.1\nkill b\n")), [None; 3]);
    }
}
