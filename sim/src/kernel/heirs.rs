//! fork, exec, and who holds what after them.

use crate::choices::Site;
use crate::kernel::process::ThreadState;
use crate::kernel::ring::RingState;
use crate::run::Run;
use crate::script::Actor;
use crate::server::Program;
use crate::world::{ProcessId, RequestId, RingId, ThreadId, World};

impl World {
    /// A child process with one thread, which sleeps. It has the files, the rings and copies of the mappings of its parent, and no
    /// thread of its own has anything to do with them.
    pub(crate) fn fork(&mut self, run: &mut Run<'_>, parent: ThreadId, name: &str) {
        let parent = self.threads[parent.index()].process;
        let own = self.threads.iter().filter(|thread| thread.process == parent);
        let mapped = own.map(|thread| thread.mapped).sum();
        let child = self.spawn_process(run, None, name, Program::Script(Actor::default()));
        let Some(thread) = self.threads.last_mut() else { return };
        (thread.state, thread.mapped) = (ThreadState::Sleeping, mapped);
        let char_open = self.processes[parent.index()].char_open;
        self.processes[child.index()].char_open = char_open;
        if let Some(device) = &mut self.device {
            device.file_refs += mapped + u16::from(char_open);
        }
        for ring in &mut self.rings {
            let holds = ring.process == parent && !ring.left || ring.heirs.contains(&parent);
            if holds && ring.state == RingState::Open {
                ring.heirs.push(child);
            }
        }
    }

    /// A thread executes another program. The other threads of its process return first, then it cancels what it ever submitted
    /// (`io_uring_task_cancel`), then mappings and files go, as they are all closed on exec but a device that was opened to be kept.
    pub(crate) fn exec(&mut self, run: &mut Run<'_>, thread: ThreadId) {
        let process = self.threads[thread.index()].process;
        for other in (0..self.threads.len()).map(ThreadId::from_index) {
            let state = &self.threads[other.index()];
            if other == thread || state.process != process || state.state == ThreadState::Dead {
                continue;
            }
            if self.is_poller(other) {
                self.poller_dies(run, other);
            }
            self.threads[other.index()].state = ThreadState::Dead;
            self.requests_are_forgotten(other);
        }
        self.works_off(run, thread);
        self.others_go_on(run, thread);
        let own = |ring: &RingId| self.rings[ring.index()].owner == thread;
        let rings: Vec<_> = (0..self.rings.len()).map(RingId::from_index).filter(own).collect();
        for ring in rings {
            if self.rings[ring.index()].is_open() {
                while self.cancel_one(run, ring) {}
            }
        }
        self.works_off(run, thread);
        for control in self.controls.iter_mut().flatten() {
            control.cancelled |= control.thread == thread;
        }
        self.close_on_exec(run, process);
    }

    /// Requests that waited for a tag which is free by now may reach the thread before it cancels its commands, or not.
    fn others_go_on(&mut self, run: &mut Run<'_>, thread: ThreadId) {
        let admitted = |world: &Self| {
            let mut requests = (0..world.requests.len()).map(RequestId::from_index);
            requests.find(|id| {
                let request = world.requests[id.index()].as_ref();
                request.is_some_and(|request| world.can_admit(*id, request))
            })
        };
        while let Some(id) = admitted(self) {
            if run.choose(Site::Schedule, 2) == 0 {
                return;
            }
            self.admit(run, id);
            self.works_off(run, thread);
        }
    }

    fn close_on_exec(&mut self, run: &mut Run<'_>, process: ProcessId) {
        self.processes[process.index()].executed = true;
        for index in 0..self.threads.len() {
            if self.threads[index].process != process {
                continue;
            }
            self.unmap(run, ThreadId::from_index(index));
            self.threads[index].ring = None;
            self.leaves_disk(run, ThreadId::from_index(index));
        }
        if !self.processes[process.index()].char_kept {
            self.close_char(run, process);
        }
        for index in 0..self.rings.len() {
            self.let_go_of_ring(RingId::from_index(index), process);
        }
    }

    /// A process has closed a ring's file. With the last that has it open the ring exits (D3).
    pub(crate) fn let_go_of_ring(&mut self, ring: RingId, process: ProcessId) {
        let state = &mut self.rings[ring.index()];
        state.left |= state.process == process;
        state.heirs.retain(|heir| *heir != process);
        if state.left && state.heirs.is_empty() {
            self.close_ring(ring);
        }
    }
}
