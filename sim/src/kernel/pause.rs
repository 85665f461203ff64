//! SIGSTOP and SIGCONT of the server's processes (H63).
//!
//! A stopped process takes no step in user space, and its task work waits until it goes on. A system call that sleeps until a signal comes
//! ends: `enter` with EINTR, if nothing was completed by then (`io_cqring_wait`). Workers of io-wq block every signal but
//! SIGKILL and SIGSTOP (`create_io_thread`), so a stop interrupts a command too, wherever it waits interruptibly; apart from that a
//! worker finishes what it is at, and stops before the next. Timers, the disk, clients and everybody's deadlines go on. SIGKILL ends a
//! stopped process like any other.

use crate::choices::Site;
use crate::kernel::process::{ProcessState, Thread, ThreadState};
use crate::run::{Run, actor};
use crate::server::Program;
use crate::world::{ProcessId, ThreadId, TimerKind, World};

/// How long a process is stopped, in milliseconds. What is shorter than a thread may be late by ends at any step; the longest outlast a
/// deadline or two.
const PAUSES_MS: [u64; 5] = [1, 200, 1_000, 10_000, 40_000];

impl World {
    /// SIGSTOP reaches one of the server's processes. SIGCONT follows.
    pub(crate) fn pause_someone(&mut self, run: &mut Run<'_>) {
        let running: Vec<_> =
            self.running().filter(|id| !self.processes[id.index()].halted).collect();
        if running.is_empty() {
            return;
        }
        self.budget.pauses -= 1;
        // Who, and for how long, is one choice: a loop through all ways goes through both.
        let ways = running.len() * PAUSES_MS.len();
        let way = run.choose(Site::Fault, ways as u32) as usize;
        let victim = running[way % running.len()];
        let ms = PAUSES_MS[way / running.len()];
        let pid = self.processes[victim.index()].pid;
        run.note(actor::OPERATOR, || format!("SIGSTOP to process {pid}, for {ms} ms"));
        run.paused_us += ms * 1000;
        self.halt(run, victim);
        self.arm(ms * 1000, TimerKind::Continue(victim));
    }

    fn halt(&mut self, run: &mut Run<'_>, process: ProcessId) {
        self.processes[process.index()].halted = true;
        for thread in (0..self.threads.len()).map(ThreadId::from_index) {
            let Thread { process: of, state, .. } = &self.threads[thread.index()];
            if let (true, ThreadState::Waiting { done, wait, .. }) = (*of == process, *state) {
                // It leaves the call before it stops, whatever task work it has by then.
                let ret = self.returns(run, thread, done, wait);
                self.threads[thread.index()].state = ThreadState::Ready(ret);
            }
        }
        for control in self.controls.iter_mut().flatten() {
            control.halted |= self.threads[control.thread.index()].process == process;
        }
    }

    /// SIGCONT reaches a process.
    pub(crate) fn goes_on(&mut self, run: &mut Run<'_>, process: ProcessId) {
        let process = &mut self.processes[process.index()];
        // One that was killed meanwhile never went on.
        if process.state == ProcessState::Running {
            process.halted = false;
            let pid = process.pid;
            run.note(actor::OPERATOR, || format!("SIGCONT to process {pid}"));
        }
    }

    /// Whether a thread that is about to sleep in the kernel finds that its process was stopped. Scripts have them stopped elsewhere.
    pub(crate) fn is_paused(&self, thread: ThreadId) -> bool {
        let script = matches!(
            self.threads[thread.index()].program.as_deref(),
            Some(Program::Script(_) | Program::Poller)
        );
        self.process_of(thread).halted && !script
    }
}
