//! What the operator changes of a device that is served: its worker (`handover`), and its size (`resize`).

use blkproof_engine::cause::Problem;
use blkproof_engine::supervisor::{Errand, Plan, Recovery, Supervisor};
use blkproof_engine::sys::Exit;
use blkproof_engine::uapi::KernelSeries;

use crate::choices::Site;
use crate::config::{Commands, TargetKind};
use crate::kernel::device::State;
use crate::kernel::process::{ProcessState, describe};
use crate::run::{IDENTITY, Run, actor};
use crate::server::Program;
use crate::world::{DEVICE_SECTORS, ProcessId, SECTORS_MAX, World};

/// Sizes that the operator gives a device: a page, what it had, and more.
const SIZES: [usize; 3] = [8, DEVICE_SECTORS, SECTORS_MAX];

impl World {
    /// Whether the device is one that can be changed, and no other command is changing it.
    pub(crate) fn change_can_be_asked(&self) -> bool {
        let resident = self
            .operator
            .server
            .is_some_and(|server| self.processes[server.index()].state == ProcessState::Running);
        let calm = [self.operator.changer, self.operator.deleter, self.operator.recoverer];
        self.is_up()
            && resident
            && !self.operator.stop_sent
            && calm.into_iter().all(|process| self.is_gone(process))
            && self.device.as_ref().is_some_and(|device| device.state == State::Live)
    }

    /// The operator runs `handover`.
    pub(crate) fn ask_for_handover(&mut self, run: &mut Run<'_>) {
        self.budget.handovers -= 1;
        self.ask_for_change(run, Errand::Handover, "runs `handover`");
    }

    /// The operator runs `resize`; a file is made large enough before.
    pub(crate) fn ask_for_resize(&mut self, run: &mut Run<'_>) {
        self.budget.resizes -= 1;
        let sectors = SIZES[run.choose(Site::Fault, SIZES.len() as u32) as usize];
        if run.config.target == TargetKind::File {
            self.disk.grow(sectors);
        }
        let errand = Errand::Resize { sectors: sectors as u64 };
        self.ask_for_change(run, errand, &format!("runs `resize`, to {sectors} sectors"));
    }

    fn ask_for_change(&mut self, run: &mut Run<'_>, errand: Errand, what: &str) {
        let Some(id) = self.device.as_ref().map(|device| device.id) else { return };
        let Some(supervisor) = self.operator.server else { return };
        let supervisor = self.processes[supervisor.index()].pid;
        let plan = Plan::Ask { errand, id, identity: IDENTITY, supervisor };
        run.note(actor::OPERATOR, || what.into());
        let program = Program::Supervisor(Supervisor::new(plan, run.config.deadlines));
        let name = match errand {
            Errand::Recover => "recover",
            Errand::Handover => "handover",
            Errand::Resize { .. } => "resize",
        };
        self.operator.changer = Some(self.spawn_process(run, None, name, program));
    }

    /// Such a command ended: well, or with a reason.
    pub(crate) fn heard_change(&mut self, run: &Run<'_>, process: ProcessId, exit: Exit) {
        if self.operator.changer != Some(process) {
            return;
        }
        let faults = &run.config.faults;
        let hindered = faults.kills()
            || faults.resource > 0
            || faults.stop > 0
            || run.may_be_late()
            || faults.rival > 0
            || run.rivalled
            || !run.config.subject.is_engine();
        // What a device like this one cannot be asked on this kernel.
        let (kernel, recovers) = (run.config.kernel, run.config.recovery != Recovery::None);
        let cannot = |problem: Problem| match problem {
            Problem::NoQuiesce => kernel == KernelSeries::V6_12 || !recovers,
            Problem::Batched => {
                kernel == KernelSeries::V7_3
                    && run.config.commands == Commands::Batched
                    && run.config.depth > 1
            }
            Problem::NoResize => match kernel {
                KernelSeries::V6_12 => true,
                KernelSeries::V6_18 => !recovers,
                KernelSeries::V7_3 => false,
            },
            _ => false,
        };
        let well = match &exit {
            Exit::Finished => true,
            Exit::Failed(cause) => cannot(cause.problem),
            Exit::Stuck { .. } => false,
        };
        if !well && !hindered {
            let text = format!("a device was not changed as asked: {}", describe(&exit));
            run.violate("L3", text);
        }
    }
}
