//! SIGKILL of the server's processes: of one, or of worker and supervisor in the same moment.

use blkproof_engine::sys::WorkerExit;

use crate::choices::Site;
use crate::kernel::process::{ProcessState, SIGKILL};
use crate::run::{Run, actor};
use crate::world::{ProcessId, World};

impl World {
    /// SIGKILL strikes one of the server's processes.
    pub(crate) fn kill_someone(&mut self, run: &mut Run<'_>) {
        let running: Vec<_> = self.running().collect();
        if running.is_empty() {
            return;
        }
        self.budget.kills -= 1;
        let victim = running[run.choose(Site::Fault, running.len() as u32) as usize];
        self.kill(run, victim);
    }

    /// The processes that run, or are stopped.
    pub(crate) fn running(&self) -> impl Iterator<Item = ProcessId> {
        let ids = (0..self.processes.len()).map(ProcessId::from_index);
        ids.filter(|id| self.processes[id.index()].state == ProcessState::Running)
    }

    /// The worker and the supervisor that brings the device up, if both run.
    fn worker_and_supervisor(&self) -> Option<[ProcessId; 2]> {
        let supervisor = self.running().find(|id| Some(*id) == self.operator.server)?;
        let serves = |id: &ProcessId| self.processes[id.index()].geometry.is_some();
        let worker = self.running().find(serves).filter(|worker| *worker != supervisor)?;
        Some([worker, supervisor])
    }

    /// Whether a SIGKILL can strike both.
    pub(crate) fn both_can_be_killed(&self) -> bool {
        self.budget.kills_of_both > 0 && self.worker_and_supervisor().is_some()
    }

    /// SIGKILL strikes both, as that of a process group, or of a cgroup without memory.
    pub(crate) fn kill_both(&mut self, run: &mut Run<'_>) {
        self.budget.kills_of_both -= 1;
        run.note(actor::OPERATOR, || "worker and supervisor are killed at once".into());
        for victim in self.worker_and_supervisor().into_iter().flatten() {
            self.kill(run, victim);
        }
    }

    fn kill(&mut self, run: &mut Run<'_>, victim: ProcessId) {
        let process = &self.processes[victim.index()];
        let pid = process.pid;
        run.killed = true;
        // A worker that was told that the device is LIVE outlives its supervisor; any other gives up with it.
        let live = self.is_up();
        run.worker_killed |= process.geometry.is_some() || !live;
        run.killed_early |= !live;
        self.operator.recovery_hindered = true;
        run.note(actor::OPERATOR, || format!("SIGKILL to process {pid}"));
        self.begin_exit(victim, WorkerExit::Signal(SIGKILL));
    }
}
