//! Clients of the block device, the partition scan, and the operator.

use blkproof_engine::cause::{Cause, Problem};
use blkproof_engine::control::Command;
use blkproof_engine::launcher::Launcher;
use blkproof_engine::link::{Link, Order};
use blkproof_engine::query::Query;
use blkproof_engine::supervisor::{Errand, Plan, RESTARTS_MAX, Recovery, Stage, Supervisor};
use blkproof_engine::sys::Exit;
use blkproof_engine::uapi::{DevId, KernelSeries, ShmemBufReg};

use crate::choices::Site;
use crate::config::{Config, Memory, TargetKind};
use crate::kernel::block::{BlockOp, Issuer};
use crate::kernel::device::{Device, State};
use crate::kernel::process::ProcessState;
use crate::kernel::udev::Probe;
use crate::run::{IDENTITY, Run, actor};
use crate::server::Program;
use crate::specimens::STOP_CELL;
use crate::world::{PAGE_SECTORS, ProcessId, SECTOR, ThreadId, World};

/// Requests a client has in flight at the most.
const IN_FLIGHT_MAX: u8 = 2;
/// How often the operator tries to delete a device that a supervisor left behind.
const DELETIONS_MAX: u8 = 8;
/// How often the operator has a device recovered: more often than faults can make that fail.
pub(crate) const RECOVERIES_MAX: u8 = 12;
/// The same where processes are also stopped, or killed two at a time.
const RECOVERIES_MAX_ON_A_BAD_DAY: u8 = 24;
/// What clients ask for: what every device can do, then what it can that discards, then what is of use with a volatile cache.
const OPS: [BlockOp; 7] = [
    BlockOp::Write { fua: false },
    BlockOp::Read,
    BlockOp::Discard,
    BlockOp::WriteZeroes { unmap: true },
    BlockOp::WriteZeroes { unmap: false },
    BlockOp::Flush,
    BlockOp::Write { fua: true },
];
const OPS_OF_DATA: usize = 2;
const OPS_WITHOUT_CACHE: usize = 5;
/// The pages of the memory of all processes that the engine registers: the first, and how many. Each client has a page for each request that it has in
/// flight; so there is one before them, and one behind.
const LENT_PAGES: (u16, u16) = (1, 2);
/// Lengths that clients ask for, in sectors.
const LENGTHS: [u16; 3] = [1, 2, 8];

/// What the engine registers of the memory of all processes, whose pages are numbered from 0.
pub(crate) fn lent(config: &Config) -> Option<ShmemBufReg> {
    let (first, count) = LENT_PAGES;
    let page = u64::from(PAGE_SECTORS) * SECTOR;
    let (addr, len) = (u64::from(first) * page, u64::from(count) * page);
    (config.memory == Memory::Shared).then_some(ShmemBufReg { addr, len, read_only: false })
}

/// A program that uses the block device.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Client {
    /// It has the device open.
    pub(crate) open: bool,
    pub(crate) in_flight: u8,
    /// A request failed, or there was no device to open.
    pub(crate) gave_up: bool,
}

/// Whoever gives orders.
#[expect(clippy::struct_excessive_bools, reason = "each is one independent fact")]
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Operator {
    /// The supervisor (or specimen) that brings the device up and looks after it.
    pub(crate) server: Option<ProcessId>,
    /// The last `del`.
    pub(crate) deleter: Option<ProcessId>,
    /// It is `del --if-unused`.
    if_unused: bool,
    /// Interrupted the launcher.
    interrupted: bool,
    /// Told the server to stop.
    pub(crate) stop_sent: bool,
    /// How often `del` was run.
    pub(crate) deletions: u8,
    /// The last `recover`.
    pub(crate) recoverer: Option<ProcessId>,
    /// The last command that changes a device which is served: its worker, or its size.
    pub(crate) changer: Option<ProcessId>,
    /// How often `recover` was run.
    pub(crate) recoveries: u8,
    /// Since the last one was run something happened that may keep it from what it wants.
    pub(crate) recovery_hindered: bool,
    /// How the last of these processes ended, if it ended by itself.
    pub(crate) last_exit: Option<Exit>,
}

impl Client {
    pub(crate) fn new() -> Self {
        Self { open: false, in_flight: 0, gave_up: false }
    }

    fn is_done(&self, left: u32) -> bool {
        !self.open && self.in_flight == 0 && (left == 0 || self.gave_up)
    }
}

impl Operator {
    pub(crate) fn new() -> Self {
        Self {
            server: None,
            deleter: None,
            if_unused: false,
            interrupted: false,
            stop_sent: false,
            deletions: 0,
            recoverer: None,
            changer: None,
            recoveries: 0,
            recovery_hindered: false,
            last_exit: None,
        }
    }

    /// A supervisor ended.
    pub(crate) fn heard_exit(&mut self, process: ProcessId, exit: Exit) {
        if [self.recoverer, self.changer].contains(&Some(process)) {
            return;
        }
        // `del --if-unused` may fail as it should; and what a supervisor says of a device that a `del` took from under it is of no interest.
        let heard = match self.deleter {
            Some(deleter) if self.if_unused => deleter != process,
            Some(deleter) => deleter == process,
            None => true,
        };
        if heard {
            self.last_exit = Some(exit);
        }
    }
}

impl World {
    /// Whether the device was announced.
    pub(crate) fn is_up(&self) -> bool {
        self.links.up_told.is_some()
    }

    /// Whether every client has finished, or never began.
    pub(crate) fn clients_done(&self) -> bool {
        let begun = self.is_up();
        self.clients
            .iter()
            .all(|client| if begun { client.is_done(self.requests_left) } else { !client.open })
    }

    /// Whether a client can move.
    pub(crate) fn client_can_move(&self, index: usize) -> bool {
        let client = &self.clients[index];
        let wants = self.requests_left > 0 && !client.gave_up;
        if client.open {
            (wants && client.in_flight < IN_FLIGHT_MAX) || (!wants && client.in_flight == 0)
        } else {
            self.is_up() && wants && self.open_mutex_free()
        }
    }

    /// One step of a client: open, issue, or close.
    pub(crate) fn client_step(&mut self, run: &mut Run<'_>, index: usize) {
        if !self.clients[index].open {
            let opened = self.open_block();
            self.clients[index].open = opened;
            self.clients[index].gave_up |= !opened;
            run.note(index, || if opened { "opens ublkb".into() } else { "finds no disk".into() });
            return;
        }
        if self.requests_left == 0 || self.clients[index].gave_up {
            self.clients[index].open = false;
            run.note(index, || "closes ublkb".into());
            self.close_block();
            return;
        }
        let disk = self.disk();
        let discards = disk.is_some_and(|disk| disk.limits.discard > 0);
        let kinds = match disk {
            Some(disk) if disk.write_cache => OPS.len(),
            Some(_) | None if discards => OPS_WITHOUT_CACHE,
            Some(_) | None => OPS_OF_DATA,
        };
        let op = OPS[run.choose(Site::Client, kinds as u32) as usize];
        let mut range = (0, 0);
        if op != BlockOp::Flush {
            let sectors = LENGTHS[run.choose(Site::Client, LENGTHS.len() as u32) as usize];
            let slots = self.capacity() as u32 / u32::from(sectors);
            range = (run.choose(Site::Client, slots) as u16 * sectors, sectors);
        }
        let queues = self.device.as_ref().map_or(1, |device| device.queues);
        let queue = run.choose(Site::Client, u32::from(queues)) as u16;
        self.requests_left -= 1;
        self.clients[index].in_flight += 1;
        if self.issue(run, Issuer::Client(index as u8), op, range, queue).is_err() {
            self.clients[index].in_flight -= 1;
            self.clients[index].gave_up = true;
            run.note(index, || "the disk is gone".into());
        }
    }

    /// Where a client has the data of a request that it issues: in its own memory, or at the beginning or the end of a page of its own that others see.
    pub(crate) fn client_memory(
        &self,
        run: &mut Run<'_>,
        index: usize,
        sectors: u16,
    ) -> Option<u16> {
        if run.config.memory == Memory::Own {
            return None;
        }
        let within = match run.choose(Site::Client, 3) {
            0 => return None,
            1 => 0,
            _ => PAGE_SECTORS - sectors,
        };
        let each = u16::from(IN_FLIGHT_MAX);
        let used = |page: u16| {
            let mut requests = self.requests.iter().flatten();
            requests.any(|one| one.memory.is_some_and(|memory| memory / PAGE_SECTORS == page))
        };
        let mut pages = index as u16 * each..(index as u16 + 1) * each;
        pages.find(|page| !used(*page)).map(|page| page * PAGE_SECTORS + within)
    }

    /// A request's issuer hears of its completion.
    pub(crate) fn heard(&mut self, run: &mut Run<'_>, issuer: Issuer, ok: bool) {
        match issuer {
            Issuer::Client(index) => {
                let client = &mut self.clients[usize::from(index)];
                client.in_flight -= 1;
                client.gave_up |= !ok;
            }
            Issuer::Script(_) | Issuer::Cache | Issuer::Zones => {}
            Issuer::Udev => self.udev.probe = Probe::Read,
            Issuer::Scan => self.scan_heard(run, ok),
        }
    }

    fn state_of(&self, process: Option<ProcessId>) -> Option<ProcessState> {
        process.map(|process| self.processes[process.index()].state)
    }

    /// Whether a command was never run, or has ended.
    pub(crate) fn is_gone(&self, process: Option<ProcessId>) -> bool {
        matches!(self.state_of(process), None | Some(ProcessState::Reaped))
    }

    /// Whether the operator has not asked to stop yet.
    pub(crate) fn stop_can_be_asked(&self) -> bool {
        !self.operator.stop_sent && (self.verdict_is_in() || !self.operator.interrupted)
    }

    /// Whether nobody waits for the verdict any more.
    fn verdict_is_in(&self) -> bool {
        self.links
            .launcher
            .is_none_or(|launcher| self.process_of(launcher).state == ProcessState::Reaped)
    }

    /// Whether the operator wants something.
    pub(crate) fn operator_can_move(&self) -> bool {
        let busy = |process| !self.is_gone(process);
        // A `del` that has given up may be kept from its end by a command that it left behind (D1, H56): another one helps it.
        let deletes = self.state_of(self.operator.deleter) == Some(ProcessState::Running);
        if deletes || [self.operator.recoverer, self.operator.changer].into_iter().any(busy) {
            return false;
        }
        match self.state_of(self.operator.server) {
            Some(ProcessState::Running) if self.is_unserved() => {
                // A launcher that is stopped hears of an interrupt when it goes on, and of no more than one.
                let halted = |launcher| {
                    let launcher = self.process_of(launcher);
                    launcher.halted && launcher.state == ProcessState::Running
                };
                let deaf = self.operator.interrupted && self.links.launcher.is_some_and(halted);
                let recovers = !self.clients_done() && !self.is_deleted();
                !self.operator.stop_sent && (recovers || !deaf)
            }
            Some(ProcessState::Running) => {
                let told = match self.links.launcher {
                    Some(_) => self.verdict_is_in(),
                    None => self.is_up(),
                };
                !self.operator.stop_sent && told && self.clients_done()
            }
            // Clients that are served are left alone: the device can still be recovered when its worker goes.
            Some(ProcessState::Reaped) if self.is_served_alone() && !self.clients_done() => false,
            Some(ProcessState::Reaped) => {
                self.device.is_some() && self.operator.deletions < DELETIONS_MAX
            }
            Some(ProcessState::Dying | ProcessState::Zombie) | None => false,
        }
    }

    /// One step of the operator: ask to stop, or delete what was left behind.
    pub(crate) fn operator_step(&mut self, run: &mut Run<'_>) {
        let tried = self.operator.recoveries == recoveries_max(run);
        let hopeless = self.is_deleted() || tried && is_past_recovery(run);
        if self.is_unserved() && !self.clients_done() && !hopeless {
            self.ask_to_recover(run);
            return;
        }
        if self.state_of(self.operator.server) == Some(ProcessState::Running) {
            self.ask_to_stop(run);
            return;
        }
        if self.can_be_brought_back(run) && !self.clients_done() {
            self.bring_back(run);
            return;
        }
        let excused = run.killed || run.rivalled || run.may_be_late() || run.held_too_long();
        if !excused && run.config.subject.is_engine() {
            run.violate("L2", "the supervisor ended and left the device behind".into());
            return;
        }
        self.delete(run, false);
    }

    /// Whether a `del` has removed the device's node: nobody can open it any more.
    fn is_deleted(&self) -> bool {
        self.device.as_ref().is_some_and(|device| !device.cdev)
    }

    /// Whether the supervisor says that its device has no worker, and waits for somebody who wants it to have one.
    fn is_unserved(&self) -> bool {
        self.supervisor().is_some_and(|supervisor| supervisor.stage() == Stage::Unserved)
    }

    /// The supervisor that an operator would speak to, while it runs.
    fn supervisor(&self) -> Option<&Supervisor> {
        let thread = self.links.commanded?;
        match self.threads[thread.index()].program.as_deref() {
            Some(Program::Supervisor(supervisor))
                if self.process_of(thread).state == ProcessState::Running =>
            {
                Some(supervisor)
            }
            Some(_) | None => None,
        }
    }

    /// Whether a device that recovers has a worker and no supervisor.
    fn is_served_alone(&self) -> bool {
        self.device.as_ref().is_some_and(Device::recovers) && self.has_worker()
    }

    fn has_worker(&self) -> bool {
        self.processes
            .iter()
            .any(|process| process.geometry.is_some() && process.state == ProcessState::Running)
    }

    /// Whether `recover` may succeed for a device without a supervisor: not what only the supervisor kept.
    fn can_be_brought_back(&self, run: &Run<'_>) -> bool {
        run.config.recovery != Recovery::None
            && run.config.target != TargetKind::Mem
            && self.operator.deletions == 0
            && self.is_up()
            && self.device.as_ref().is_some_and(|device| device.cdev && device.state != State::Dead)
    }

    /// The operator runs `recover`, and the device's own supervisor is there.
    fn ask_to_recover(&mut self, run: &mut Run<'_>) {
        let faults = run.config.faults;
        // On 6.12 workers that come too early for a slow kernel count, too.
        let restarts = self.supervisor().is_some_and(|one| one.restarts() < RESTARTS_MAX);
        if run.config.restart && restarts && faults.resource == 0 && !run.may_be_late() {
            run.violate(
                "L3",
                "the supervisor was to restart the worker, and left the device without one".into(),
            );
        }
        self.ask_for_recovery(run);
    }

    /// Whether anybody can see that a device has lost its worker, which its supervisor may or may not have noticed.
    pub(crate) fn recovery_can_be_asked(&self) -> bool {
        self.is_up()
            && self.device.as_ref().is_some_and(Device::recovers)
            && self.supervisor().is_some()
            && !self.has_worker()
            && !self.operator.stop_sent
            && self.is_gone(self.operator.recoverer)
    }

    /// The operator does not wait until the supervisor says that the device has no worker.
    pub(crate) fn recover_in_haste(&mut self, run: &mut Run<'_>) {
        self.budget.hastes -= 1;
        self.ask_for_recovery(run);
    }

    /// A `recover` that asks the device's own supervisor.
    fn ask_for_recovery(&mut self, run: &mut Run<'_>) {
        let Some(id) = self.device.as_ref().map(|device| device.id) else { return };
        let Some(supervisor) = self.operator.server else { return };
        if !self.counts_recovery(run) {
            return;
        }
        let supervisor = self.processes[supervisor.index()].pid;
        let plan = Plan::Ask { errand: Errand::Recover, id, identity: IDENTITY, supervisor };
        run.note(actor::OPERATOR, || "runs `recover`, which asks the supervisor".into());
        let program = Program::Supervisor(Supervisor::new(plan, run.config.deadlines));
        let name = format!("recover {}", self.operator.recoveries);
        self.operator.recoverer = Some(self.spawn_process(run, None, &name, program));
    }

    /// The operator runs `recover`, which becomes the supervisor.
    fn bring_back(&mut self, run: &mut Run<'_>) {
        let Some(id) = self.device.as_ref().map(|device| device.id) else { return };
        if !self.counts_recovery(run) {
            return;
        }
        let restart = run.config.restart;
        run.note(actor::OPERATOR, || "runs `recover`".into());
        let shared_bytes = lent(run.config).map_or(0, |memory| memory.len);
        self.bring(run, Plan::Recover { id, identity: IDENTITY, restart, shared_bytes });
        self.operator.recoverer =
            self.links.launcher.map(|thread| self.threads[thread.index()].process);
    }

    /// A `recover` that asked the device's own supervisor ended. It may give up only for a reason.
    pub(crate) fn heard_recovery(&mut self, run: &Run<'_>, process: ProcessId, exit: Exit) {
        let faults = &run.config.faults;
        let hindered = self.operator.recovery_hindered
            || is_past_recovery(run)
            || run.abandoned
            || run.rivalled
            || faults.resource > 0
            || run.may_be_late();
        let gave_up = matches!(exit, Exit::Failed(Cause { problem: Problem::Deadline, .. }));
        if self.operator.recoverer == Some(process) && gave_up && !hindered {
            let text = "the supervisor was asked to recover the device, and did not".into();
            run.violate("L3", text);
        }
    }

    fn counts_recovery(&mut self, run: &Run<'_>) -> bool {
        if self.operator.recoveries == recoveries_max(run) {
            run.violate(
                "L3",
                "the device did not come back, however often that was asked for".into(),
            );
            return false;
        }
        self.operator.recoveries += 1;
        self.operator.recovery_hindered = false;
        true
    }

    /// The operator asks to stop: an interrupt of `add` while it waits, a signal to the supervisor otherwise.
    pub(crate) fn ask_to_stop(&mut self, run: &mut Run<'_>) {
        if !self.verdict_is_in() {
            // Too late, if the device is up by then.
            self.operator.interrupted = true;
            let launcher = self.links.launcher.map(|thread| self.threads[thread.index()].process);
            run.abandoned |= self.operator.recoverer != launcher;
            run.note(actor::OPERATOR, || "interrupts the launcher".into());
            self.links.interrupts.push_back(Order::Stop);
            self.notify(self.links.launcher, Link::Operator);
            return;
        }
        self.operator.stop_sent = true;
        run.abandoned = true;
        run.note(actor::OPERATOR, || "asks to stop".into());
        if self.links.commanded.is_some() {
            self.links.orders.push_back(Order::Stop);
            self.notify(self.links.commanded, Link::Operator);
        } else if let Some(server) = self.operator.server {
            let cells = &mut self.processes[server.index()].cells;
            if let Some(cell) = cells.get_mut(STOP_CELL) {
                *cell = 1;
            }
        }
    }

    /// Whether another command can be run beside the device's own supervisor.
    pub(crate) fn rival_can_come(&self) -> bool {
        self.budget.rivals > 0 && self.device.is_some() && self.is_gone(self.operator.deleter)
    }

    /// Another command is run: `list` or `del`.
    pub(crate) fn rival_comes(&mut self, run: &mut Run<'_>) {
        self.budget.rivals -= 1;
        let Some(id) = self.device.as_ref().map(|device| device.id) else { return };
        let recovers = run.config.recovery != Recovery::None;
        let resident = self.state_of(self.operator.server) == Some(ProcessState::Running);
        let free = self.is_gone(self.operator.recoverer);
        if recovers && resident && free && run.choose(Site::Fault, 2) == 1 {
            self.ask_for_recovery(run);
            return;
        }
        // A `del` that knows of no supervisor to ask may lose to it, and notices only when its deadline passes.
        let may_delete = self.state_is_written() || run.config.deadlines.delete_ms.is_some();
        if self.may_try_stop(run) && run.choose(Site::Fault, 2) == 1 {
            self.delete(run, true);
            return;
        }
        if !may_delete || run.choose(Site::Fault, 2) == 0 {
            run.note(actor::OPERATOR, || "runs `list`".into());
            let program = Program::Query(Query::new(Command::GetDevInfo(id)));
            self.spawn_process(run, None, "list", program);
        } else {
            run.rivalled = true;
            self.delete(run, false);
        }
    }

    /// TRY_STOP_DEV waits for a partition scan, which may wait for the next server (H56): only a deadline ends that.
    fn may_try_stop(&self, run: &Run<'_>) -> bool {
        run.config.deadlines.stop_ms.is_some() && self.is_up()
    }

    /// Whether `del --if-unused` can be run, and no other `del` is.
    pub(crate) fn unused_can_be_deleted(&self, run: &Run<'_>) -> bool {
        let engine = run.config.subject.is_engine();
        engine && self.may_try_stop(run) && self.is_gone(self.operator.deleter)
    }

    /// Whether there is a state file: it is written when there is a worker to name.
    fn state_is_written(&self) -> bool {
        self.processes.iter().any(|process| process.geometry.is_some())
    }

    /// The operator runs `del`; `if_unused`: only if no client has the disk open.
    pub(crate) fn delete(&mut self, run: &mut Run<'_>, if_unused: bool) {
        let Some(id) = self.device.as_ref().map(|device| device.id) else { return };
        self.operator.deletions += u8::from(!if_unused);
        run.abandoned |= !if_unused;
        let worker = self
            .processes
            .iter()
            .find(|process| process.geometry.is_some() && process.state != ProcessState::Reaped)
            .map(|process| process.pid);
        let supervisor = self.operator.server.map(|server| self.processes[server.index()].pid);
        let supervisor = supervisor.filter(|_| self.state_is_written());
        let plan = Plan::Delete { id, worker, supervisor, if_unused };
        run.note(actor::OPERATOR, || {
            if if_unused { "runs `del --if-unused`".into() } else { "runs `del`".into() }
        });
        let program = Program::Supervisor(Supervisor::new(plan, run.config.deadlines));
        let name = format!("del {}", self.operator.deletions);
        let process = self.spawn_process(run, None, &name, program);
        self.operator.deleter = Some(process);
        self.operator.if_unused = if_unused;
        self.operator.last_exit = None;
    }

    /// The operator runs `add`, or `recover`: a launcher, and the supervisor that it starts.
    pub(crate) fn bring(&mut self, run: &mut Run<'_>, plan: Plan) {
        // Whatever was said to the supervisor before is lost with it.
        self.links.orders.clear();
        self.links.interrupts.clear();
        self.links.verdicts.clear();
        self.operator.interrupted = false;
        self.operator.stop_sent = false;
        let launcher = match plan {
            Plan::Recover { .. } => Launcher::of_recovery,
            Plan::Serve { .. } | Plan::Ask { .. } | Plan::Delete { .. } => Launcher::new,
        };
        let program = Program::Launcher(launcher(run.config.deadlines));
        self.spawn_process(run, None, "launcher", program);
        self.links.launcher = Some(ThreadId::from_index(self.threads.len() - 1));
        let program = Program::Supervisor(Supervisor::new(plan, run.config.deadlines));
        let process = self.spawn_process(run, None, "supervisor", program);
        self.links.commanded = Some(ThreadId::from_index(self.threads.len() - 1));
        self.operator.server = Some(process);
    }

    /// The device is announced: clients come.
    pub(crate) fn announce(&mut self, id: DevId) {
        self.links.up_told = Some(id);
    }
}

/// How often the operator has a device recovered.
const fn recoveries_max(run: &Run<'_>) -> u8 {
    let faults = &run.config.faults;
    let bad = faults.pause > 0 || faults.kill_both > 0;
    if bad { RECOVERIES_MAX_ON_A_BAD_DAY } else { RECOVERIES_MAX }
}

/// Before 7.3 a device may be started whose worker is gone for good: it stays LIVE, and no other gets hold of it (H07).
fn is_past_recovery(run: &Run<'_>) -> bool {
    run.killed_early && run.config.kernel < KernelSeries::V7_3
}
