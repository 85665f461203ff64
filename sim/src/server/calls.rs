//! The calls that others can notice: processes, threads, files.

use std::collections::VecDeque;

use blkproof_engine::data::TagMemory;
use blkproof_engine::link::Order;
use blkproof_engine::queue::{Queue, QueueConfig};
use blkproof_engine::sys::{Call, DeviceGeometry, Ret, WorkerExit};
use blkproof_engine::uapi::KernelSeries;
use blkproof_engine::uapi::{Errno, FETCH_BATCH_TAGS_MAX};
use blkproof_engine::worker::Worker;

use super::{Program, target};
use crate::choices::Site;
use crate::config::TargetKind;
use crate::kernel::errno;
use crate::kernel::process::{ProcessState, SIGKILL, ThreadState};
use crate::kernel::udev::Node;
use crate::run::{Run, Sabotage, actor};
use crate::world::{ProcessId, ThreadId, World};

/// Completions that a batch device's queue may find besides one for each tag: of a commit, of the fetch's end, of the watch on the worker.
const COMPLETIONS_BESIDES: u32 = 3;

impl World {
    /// Whether a process may map the descriptors (`ublk_ch_mmap`).
    fn may_map(&mut self, run: &mut Run<'_>, process: ProcessId) -> bool {
        let Some(device) = &mut self.device else { return false };
        // `ub->mm` is an address that is compared and not held: that of a process which is gone, or is another program, may be another's by now.
        let first = *device.mm.get_or_insert(process);
        let had_it = &self.processes[first.index()];
        let gone = device.kernel < KernelSeries::V7_3
            && (had_it.executed || had_it.state >= ProcessState::Zombie);
        if first != process && gone && run.choose(Site::Address, 2) == 1 {
            device.mm = Some(process);
        }
        device.mm == Some(process)
    }

    /// Whether a fallible call fails for want of something.
    pub(crate) fn refuse(&mut self, run: &mut Run<'_>) -> bool {
        let fails = self.budget.resources > 0 && run.fault(run.config.faults.resource);
        if fails {
            self.budget.resources -= 1;
        }
        fails
    }

    /// Carries out a call that others can notice.
    pub(super) fn carry_out(&mut self, run: &mut Run<'_>, thread: ThreadId, call: Call) {
        let process = self.threads[thread.index()].process;
        let failed = |errno: i32| Ret::Failed(Errno(errno as u16));
        let ret = match call {
            Call::SpawnWorker { device, renewed: _ } => self.spawn_worker(run, thread, device),
            Call::AttachWorker { pid } => match self.process_by_pid(pid) {
                Some(worker) => {
                    self.processes[process.index()].attached = Some(worker);
                    Ret::Done
                }
                None => failed(errno::ESRCH),
            },
            Call::KillWorker => match self.processes[process.index()].attached {
                Some(worker) if self.processes[worker.index()].state != ProcessState::Reaped => {
                    self.begin_exit(worker, WorkerExit::Signal(SIGKILL));
                    Ret::Done
                }
                Some(_) | None => failed(errno::ESRCH),
            },
            Call::ReapWorker => {
                let attached = self.processes[process.index()].attached;
                match attached.map(|worker| &mut self.processes[worker.index()]) {
                    Some(worker) if !worker.state.is_down() => Ret::Running,
                    Some(worker)
                        if worker.state == ProcessState::Zombie
                            && worker.parent == Some(process) =>
                    {
                        worker.state = ProcessState::Reaped;
                        Ret::Exited(worker.exit)
                    }
                    Some(_) | None => Ret::Exited(WorkerExit::Unknown),
                }
            }
            // A state file names it: another process is never taken for it.
            Call::AttachSupervisor { pid } => match self.process_by_pid(pid) {
                Some(supervisor) if !self.processes[supervisor.index()].state.is_down() => {
                    self.processes[process.index()].attached_supervisor = Some(supervisor);
                    Ret::Done
                }
                Some(_) | None => failed(errno::ESRCH),
            },
            Call::StopSupervisor => {
                // A launcher's child, or the supervisor attached to: there is but one that hears it.
                run.abandoned = true;
                self.links.orders.push_back(Order::Stop);
                self.notify(self.links.commanded, blkproof_engine::link::Link::Operator);
                Ret::Done
            }
            Call::AskSupervisor { order } => {
                self.links.orders.push_back(order);
                self.notify(self.links.commanded, blkproof_engine::link::Link::Operator);
                Ret::Done
            }
            Call::FitStore { sectors } => self.fit_store(run, thread, sectors),
            Call::FindNode { device } => {
                let found = self.device.as_ref().is_some_and(|known| {
                    known.id == device && known.disk.as_ref().is_some_and(|disk| disk.attached)
                });
                if found { Ret::Done } else { failed(errno::ENOENT) }
            }
            Call::OpenChar => match self.open_char(run, process) {
                Ok(()) => Ret::Done,
                Err(errno) => failed(errno),
            },
            Call::SpawnQueue { config } => self.spawn_queue(run, thread, config),
            Call::MapQueue { queue, memory, buffers } => {
                if self.refuse(run) {
                    failed(errno::ENOMEM)
                } else {
                    let open = self.processes[process.index()].char_open;
                    let ours = open && self.may_map(run, process);
                    match &mut self.device {
                        Some(device) if ours && queue.0 < device.queues => {
                            device.file_refs += 1;
                            let depth = usize::from(device.depth);
                            self.threads[thread.index()].mapped += 1;
                            self.hold_by_ring(run, thread);
                            if let (TagMemory::Slot, Some(ring)) =
                                (memory, self.threads[thread.index()].ring)
                            {
                                self.rings[ring.index()].table = vec![None; depth];
                            }
                            if let Some(ring) = self.threads[thread.index()].ring {
                                let ring = &mut self.rings[ring.index()];
                                ring.provided += buffers;
                                ring.lists.each = (depth as u16).min(FETCH_BATCH_TAGS_MAX as u16);
                            }
                            Ret::Done
                        }
                        Some(_) | None => failed(errno::EINVAL),
                    }
                }
            }
            Call::Exit(exit) => {
                self.thread_exits(run, thread, exit);
                return;
            }
            Call::SetupRing(_) | Call::Enter { .. } | Call::Sleep { .. } => {
                unreachable!("carried out when they are made")
            }
        };
        run.seen(match ret {
            Ret::Failed(errno) => u64::from(errno.0),
            Ret::Start
            | Ret::Done
            | Ret::Submitted(_)
            | Ret::Spawned(_)
            | Ret::Exited(_)
            | Ret::Running => 0,
        });
        run.note(actor::thread(thread), || describe(call, ret));
        self.threads[thread.index()].state = ThreadState::Ready(ret);
    }

    fn open_char(&mut self, run: &mut Run<'_>, process: ProcessId) -> Result<(), i32> {
        if self.refuse(run) {
            return Err(errno::EMFILE);
        }
        match self.udev.node {
            Node::Absent => return Err(errno::ENOENT),
            Node::Denied => return Err(errno::EACCES),
            Node::Ready => {}
        }
        let device = self.device.as_mut().filter(|device| device.cdev).ok_or(errno::ENOENT)?;
        if device.open {
            return Err(errno::EBUSY);
        }
        device.open = true;
        device.file_refs += 1;
        device.tgid = Some(process);
        self.processes[process.index()].char_open = true;
        if run.sabotage == Some(Sabotage::LeakFile) && run.strikes() {
            device.file_refs += 1;
        }
        run.progress();
        Ok(())
    }

    fn spawn_worker(&mut self, run: &mut Run<'_>, thread: ThreadId, device: DeviceGeometry) -> Ret {
        if self.refuse(run) {
            return Ret::Failed(Errno(errno::EAGAIN as u16));
        }
        let supervisor = self.threads[thread.index()].process;
        let program = Program::Worker(Worker::new(device, run.config.mode));
        let worker = self.spawn_process(run, Some(supervisor), "worker", program);
        self.processes[worker.index()].geometry = Some(device);
        self.processes[supervisor.index()].attached = Some(worker);
        self.links.supervisor = Some(thread);
        if run.sabotage == Some(Sabotage::StoreInProcess) {
            self.store.fill(0);
        }
        // Every worker has links of its own.
        self.links.down.clear();
        self.links.up.clear();
        self.links.reports.clear();
        self.links.worker = Some(ThreadId::from_index(self.threads.len() - 1));
        self.links.queues = vec![None; usize::from(device.queues)];
        self.links.mail = vec![VecDeque::new(); usize::from(device.queues)];
        run.progress();
        Ret::Spawned(self.processes[worker.index()].pid)
    }

    /// A supervisor gives the store a size; a worker reaches what there is.
    fn fit_store(&mut self, run: &mut Run<'_>, thread: ThreadId, sectors: u64) -> Ret {
        if self.refuse(run) {
            return Ret::Failed(Errno(errno::ENOMEM as u16));
        }
        let sectors = sectors as usize;
        let serves =
            matches!(self.threads[thread.index()].program.as_deref(), Some(Program::Worker(_)));
        match run.config.target {
            TargetKind::Mem if !serves && run.sabotage != Some(Sabotage::StoreUntold) => {
                self.store.resize(sectors, 0);
            }
            TargetKind::File if self.disk.sectors.len() < sectors => {
                return Ret::Failed(Errno(errno::EINVAL as u16));
            }
            TargetKind::Null | TargetKind::Mem | TargetKind::File => {}
        }
        Ret::Done
    }

    fn spawn_queue(&mut self, run: &mut Run<'_>, thread: ThreadId, config: QueueConfig) -> Ret {
        let process = self.threads[thread.index()].process;
        if self.refuse(run) {
            return Ret::Failed(Errno(errno::EAGAIN as u16));
        }
        let queue = config.id.0;
        // A small ring fills up: the same schedule, in more turns.
        let mut entries = config.entries;
        if run.fault(run.config.faults.submit) {
            entries = [2, 4][run.choose(Site::Submit, 2) as usize];
            if config.buffers > 0 {
                // Every completion has room, as in a ring of the usual size: one that has none costs a buffer.
                let completions = u32::from(config.depth) + COMPLETIONS_BESIDES;
                entries = entries.max(completions.div_ceil(2).next_power_of_two());
            }
            run.kernel(|| format!("queue {queue} gets a ring of {entries} entries"));
        }
        // Fewer buffers than tags run out (H43).
        let mut buffers = config.buffers;
        if buffers > 1 && run.fault(run.config.faults.submit) {
            buffers = 1;
        }
        let config = QueueConfig { entries, buffers, ..config };
        let program = Program::Queue(Queue::new(config, target(run.config.target)));
        let thread = self.spawn_thread(run, process, &format!("queue {queue}"), queue, program);
        self.links.queues[usize::from(queue)] = Some(thread);
        run.progress();
        Ret::Done
    }
}

/// A call and what came of it, for the timeline.
fn describe(call: Call, ret: Ret) -> String {
    let what = match call {
        Call::SetupRing(_) => "io_uring_setup".into(),
        Call::Enter { .. } => "io_uring_enter".into(),
        Call::Sleep { ms } => format!("sleeps {ms} ms"),
        Call::SpawnWorker { .. } => "starts the worker".into(),
        Call::AttachWorker { pid } => format!("takes hold of worker {pid}"),
        Call::KillWorker => "kills the worker".into(),
        Call::ReapWorker => "reaps the worker".into(),
        Call::AttachSupervisor { pid } => format!("takes hold of supervisor {pid}"),
        Call::StopSupervisor => "asks the supervisor to stop".into(),
        Call::AskSupervisor { order } => format!("asks the supervisor: {order:?}"),
        Call::FitStore { sectors } => format!("fits the store to {sectors} sectors"),
        Call::FindNode { .. } => "looks for ublkb".into(),
        Call::OpenChar => "opens ublkc".into(),
        Call::SpawnQueue { config } => format!("starts the thread of queue {}", config.id.0),
        Call::MapQueue { queue, .. } => format!("maps queue {}", queue.0),
        Call::Exit(_) => "exits".into(),
    };
    match ret {
        Ret::Failed(errno) => format!("{what}: {errno}"),
        Ret::Exited(exit) => format!("{what}: {exit:?}"),
        Ret::Running => format!("{what}: it runs"),
        Ret::Start | Ret::Done | Ret::Submitted(_) | Ret::Spawned(_) => what,
    }
}
