//! Clients of the block device, the partition scan, and the operator.

use blkproof_engine::link::{Link, Message};
use blkproof_engine::supervisor::{Plan, Supervisor};
use blkproof_engine::sys::Exit;
use blkproof_engine::uapi::DevId;

use crate::choices::Site;
use crate::config::Subject;
use crate::kernel::block::{BlockOp, Issuer};
use crate::kernel::device::Scan;
use crate::kernel::process::ProcessState;
use crate::kernel::udev::Probe;
use crate::run::{Run, actor};
use crate::server::Program;
use crate::specimens::STOP_CELL;
use crate::world::{DEVICE_SECTORS, ProcessId, World};

/// Requests a client has in flight at the most.
const IN_FLIGHT_MAX: u8 = 2;
/// How often the operator tries to delete a device that a supervisor left behind.
const DELETIONS_MAX: u8 = 4;
/// Lengths that clients ask for, in sectors.
const LENGTHS: [u16; 3] = [1, 2, 8];

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
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Operator {
    /// The supervisor (or specimen) now in charge.
    pub(crate) server: Option<ProcessId>,
    /// Told it to stop.
    pub(crate) stop_sent: bool,
    /// Supervisors started to delete what was left behind.
    pub(crate) deletions: u8,
    /// How the last supervisor ended, if it ended by itself.
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
        Self { server: None, stop_sent: false, deletions: 0, last_exit: None }
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
        let volatile = Self::volatile_cache(run);
        let kinds = if volatile { 4 } else { 2 };
        let op = match run.choose(Site::Client, kinds) {
            0 => BlockOp::Write { fua: false },
            1 => BlockOp::Read,
            2 => BlockOp::Flush,
            _ => BlockOp::Write { fua: true },
        };
        let mut range = (0, 0);
        if op != BlockOp::Flush {
            let sectors = LENGTHS[run.choose(Site::Client, LENGTHS.len() as u32) as usize];
            let slots = DEVICE_SECTORS as u32 / u32::from(sectors);
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

    /// A request's issuer hears of its completion.
    pub(crate) fn heard(&mut self, run: &mut Run<'_>, issuer: Issuer, ok: bool) {
        match issuer {
            Issuer::Client(index) => {
                let client = &mut self.clients[usize::from(index)];
                client.in_flight -= 1;
                client.gave_up |= !ok;
            }
            Issuer::Udev => self.udev.probe = Probe::Read,
            Issuer::Scan => {
                if let Some(disk) = self.device.as_mut().and_then(|device| device.disk.as_mut()) {
                    disk.scan = Scan::Read;
                } else {
                    run.violate("K4", "a request completed after its disk was gone".into());
                }
            }
        }
    }

    /// Whether the partition scan's kworker can move.
    pub(crate) fn scan_can_move(&self) -> bool {
        let disk = self.device.as_ref().and_then(|device| device.disk.as_ref());
        disk.is_some_and(|disk| match disk.scan {
            Scan::None | Scan::Reading | Scan::Done => false,
            Scan::Scheduled => !disk.open_mutex,
            Scan::Read => true,
        })
    }

    /// One step of the partition scan.
    pub(crate) fn scan_step(&mut self, run: &mut Run<'_>) {
        let Some(disk) = self.device.as_mut().and_then(|device| device.disk.as_mut()) else {
            return;
        };
        if disk.scan == Scan::Read || disk.dead {
            disk.scan = Scan::Done;
            disk.open_mutex = false;
            run.kernel(|| "partition scan is through".into());
            return;
        }
        disk.scan = Scan::Reading;
        disk.open_mutex = true;
        if self.issue(run, Issuer::Scan, BlockOp::Read, (0, 8), 0).is_err() {
            unreachable!("the disk was alive a moment ago");
        }
    }

    fn server_state(&self) -> Option<ProcessState> {
        self.operator.server.map(|server| self.processes[server.index()].state)
    }

    /// Whether the operator wants something.
    pub(crate) fn operator_can_move(&self) -> bool {
        match self.server_state() {
            Some(ProcessState::Running) => {
                !self.operator.stop_sent
                    && self.operator.deletions == 0
                    && self.is_up()
                    && self.clients_done()
            }
            Some(ProcessState::Reaped) => {
                self.device.is_some() && self.operator.deletions < DELETIONS_MAX
            }
            Some(ProcessState::Dying | ProcessState::Zombie) | None => false,
        }
    }

    /// One step of the operator: ask to stop, or delete what was left behind.
    pub(crate) fn operator_step(&mut self, run: &mut Run<'_>) {
        if self.server_state() == Some(ProcessState::Running) {
            self.ask_to_stop(run);
            return;
        }
        let Some(id) = self.device.as_ref().map(|device| device.id) else { return };
        if !run.killed && run.config.faults.stall == 0 && run.config.subject == Subject::Engine {
            run.violate("L2", "the supervisor ended and left the device behind".into());
            return;
        }
        self.operator.deletions += 1;
        let worker = self
            .processes
            .iter()
            .find(|process| process.geometry.is_some() && process.state != ProcessState::Reaped)
            .map(|process| process.pid);
        let plan = Plan::Delete { id, worker };
        let number = self.operator.deletions + 1;
        run.note(actor::OPERATOR, || "runs `del`".into());
        self.start_supervisor(run, &format!("supervisor {number}"), plan);
    }

    /// The operator asks to stop.
    pub(crate) fn ask_to_stop(&mut self, run: &mut Run<'_>) {
        self.operator.stop_sent = true;
        run.note(actor::OPERATOR, || "asks to stop".into());
        match run.config.subject {
            Subject::Engine => {
                self.links.orders.push_back(Message::Stop);
                self.notify(self.links.commanded, Link::Operator);
            }
            Subject::Specimen(_) => {
                if let Some(server) = self.operator.server {
                    let cells = &mut self.processes[server.index()].cells;
                    if let Some(cell) = cells.get_mut(STOP_CELL) {
                        *cell = 1;
                    }
                }
            }
        }
    }

    /// Starts a supervisor process.
    pub(crate) fn start_supervisor(&mut self, run: &mut Run<'_>, name: &str, plan: Plan) {
        let program = Program::Supervisor(Supervisor::new(plan, run.config.deadlines));
        let process = self.spawn_process(run, None, name, program);
        self.links.orders.clear();
        self.links.commanded = Some(crate::world::ThreadId::from_index(self.threads.len() - 1));
        self.operator.server = Some(process);
        self.operator.last_exit = None;
    }

    /// The supervisor tells its launcher.
    pub(crate) fn launcher_hears(&mut self, run: &mut Run<'_>, message: Message) {
        run.progress();
        run.note(actor::OPERATOR, || format!("hears {message:?}"));
        match message {
            Message::Up(id) => self.announce(id),
            other => self.links.down_told = Some(other),
        }
    }

    /// The device is announced: clients come.
    pub(crate) fn announce(&mut self, id: DevId) {
        self.links.up_told = Some(id);
    }
}
