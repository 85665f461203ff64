//! Scripts from a source of choices: sensible beginnings, then anything, legal or not.
//!
//! The model runs along, so that no step is given to an actor that may be blocked: a real executor could not carry it out.

use blkproof_engine::uapi::{Features, KernelSeries};

use super::model::Model;
use super::{CONTROLLER, Op, Script, Step};
use crate::choices::{Choices, Site};
use crate::drivers::Random;

/// Steps of a script, at the most.
const STEPS_MAX: usize = 28;
/// Worlds that the model may carry along; beyond it the script ends.
const WORLDS_MAX: usize = 500;

/// The script of a seed for a kernel.
pub fn generate(kernel: KernelSeries, seed: u64) -> Script {
    let title = format!("generated for {kernel}, seed {seed}");
    from_choices(kernel, title, &mut Random::new(seed))
}

/// A script for a kernel.
pub fn from_choices(kernel: KernelSeries, title: String, choices: &mut dyn Choices) -> Script {
    let mut author = Author {
        script: Script { title, kernels: vec![kernel], steps: Vec::new() },
        choices,
        servers: vec!["a"],
        clients: vec!["c", "d"],
        next: Some("e"),
        queues: 1,
        depth: 1,
        two_steps: false,
    };
    author.begin();
    let mut model = Model::new(kernel);
    for index in 0.. {
        if index == author.script.steps.len() {
            let busy = model.busy();
            if index >= STEPS_MAX || model.worlds() > WORLDS_MAX || !author.next(&busy) {
                break;
            }
        }
        let step = &author.script.steps[index];
        // What was planned ahead may have become impossible.
        if let Step::Do { actor, .. } = step
            && model.busy().contains(actor)
        {
            author.script.steps.truncate(index);
            break;
        }
        model.step_all(index as u16 + 1, step);
        if model.doomed() {
            author.script.steps.truncate(index);
            break;
        }
    }
    author.script
}

struct Author<'c> {
    script: Script,
    choices: &'c mut dyn Choices,
    /// Threads that serve, and that are still there.
    servers: Vec<&'static str>,
    clients: Vec<&'static str>,
    /// Who can serve after them.
    next: Option<&'static str>,
    queues: u16,
    depth: u16,
    /// Writes are announced first: NEED_GET_DATA.
    two_steps: bool,
}

impl Author<'_> {
    fn choose(&mut self, n: usize) -> usize {
        self.choices.choose(Site::Client, n as u32) as usize
    }

    fn one_in(&mut self, n: usize) -> bool {
        self.choose(n) == n - 1
    }

    fn push(&mut self, actor: &str, op: Op) {
        self.script.steps.push(Step::Do { actor: actor.into(), op });
    }

    /// What nearly every script needs; now and then something is missing.
    fn begin(&mut self) {
        self.queues = 1 + self.choose(2) as u16;
        self.depth = 1 + self.choose(2) as u16;
        for name in ["a", "c", "d", "e"] {
            self.script.steps.push(Step::Process { name: name.into() });
        }
        if self.one_in(3) {
            self.script.steps.push(Step::Thread { name: "b".into(), of: "a".into() });
            self.servers.push("b");
        }
        let (queues, depth) = (self.queues, self.depth);
        let recovery = Features::USER_RECOVERY;
        let flags = match self.choose(8) {
            0 | 1 => recovery,
            2 => recovery.union(Features::USER_RECOVERY_REISSUE),
            3 => recovery.union(Features::USER_RECOVERY_FAIL_IO),
            4 => recovery.union(Features::QUIESCE),
            _ => Features::NONE,
        };
        self.two_steps = self.one_in(4);
        let data = if self.two_steps { Features::NEED_GET_DATA } else { Features::NONE };
        let flags = flags.union(data);
        self.push(CONTROLLER, Op::Add { queues, depth, id: None, flags });
        if !self.one_in(8) {
            self.push(CONTROLLER, Op::Params { sectors: 16 });
        }
        self.push("a", Op::Open);
        for server in self.servers.clone() {
            let defer = self.choose(2) == 0;
            self.push(server, Op::Ring { defer });
        }
        for queue in 0..queues {
            self.push("a", Op::Map { queue });
        }
        // Either everything is ready, or the rest of the script decides.
        if !self.one_in(3) {
            for queue in 0..queues {
                for tag in 0..depth {
                    self.push("a", Op::Fetch { queue, tag });
                }
            }
            if !self.one_in(4) {
                self.push(CONTROLLER, Op::Start { server: Some("a".into()) });
                self.push("c", Op::OpenDisk);
            }
        }
    }

    /// One more step by somebody who is free; false when nobody is.
    fn next(&mut self, busy: &[String]) -> bool {
        let free = |names: &[&'static str]| -> Vec<&'static str> {
            names.iter().copied().filter(|name| !busy.iter().any(|one| one == name)).collect()
        };
        let (servers, clients) = (free(&self.servers), free(&self.clients));
        let controls = !busy.iter().any(|name| name == CONTROLLER);
        match self.choose(10) {
            0..=5 if !servers.is_empty() => {
                let server = servers[self.choose(servers.len())];
                let op = self.serve();
                let exits = op == Op::Exit;
                self.push(server, op);
                // The first thread takes its process with it.
                if exits && server != "b" {
                    self.servers.clear();
                    if let Some(next) = self.next.take() {
                        self.take_over(next);
                    }
                } else if exits {
                    self.servers.retain(|name| *name != server);
                }
            }
            6 | 7 if !clients.is_empty() => {
                let client = clients[self.choose(clients.len())];
                let op = self.use_disk();
                self.push(client, op);
            }
            8 if controls => {
                let op = self.control();
                self.push(CONTROLLER, op);
            }
            9 if self.one_in(3) && !self.servers.is_empty() => {
                let name = self.servers[0];
                self.servers.clear();
                self.script.steps.push(Step::Kill { actor: name.into() });
                if let Some(next) = self.next.take() {
                    self.take_over(next);
                }
            }
            _ if controls => self.push(CONTROLLER, Op::Info),
            _ => return false,
        }
        true
    }

    /// Another server, as a recovery wants it; now and then something is missing.
    fn take_over(&mut self, name: &'static str) {
        self.servers.push(name);
        if self.one_in(6) {
            return;
        }
        if !self.one_in(6) {
            self.push(CONTROLLER, Op::StartRecovery);
        }
        self.push(name, Op::Open);
        let defer = self.choose(2) == 0;
        self.push(name, Op::Ring { defer });
        for queue in 0..self.queues {
            self.push(name, Op::Map { queue });
            for tag in 0..self.depth {
                self.push(name, Op::Fetch { queue, tag });
            }
        }
        if !self.one_in(6) {
            self.push(CONTROLLER, Op::EndRecovery { server: Some(name.into()) });
        }
    }

    fn tag(&mut self) -> (u16, u16) {
        // One queue and one tag too many, now and then.
        let queues = usize::from(self.queues) + usize::from(self.one_in(8));
        let depth = usize::from(self.depth) + usize::from(self.one_in(8));
        let (queue, tag) = (self.choose(queues) as u16, self.choose(depth) as u16);
        (queue, tag)
    }

    fn serve(&mut self) -> Op {
        match self.choose(16) {
            0..=3 if self.two_steps => {
                let (queue, tag) = self.tag();
                Op::GetData { queue, tag }
            }
            0..=4 => Op::Reap,
            5..=10 => {
                let (queue, tag) = self.tag();
                let result = [4096, 4096, 2048, 512, 0, -5][self.choose(6)];
                let data = Some(100 + self.choose(100) as u8);
                Op::Commit { queue, tag, result, data }
            }
            11 | 12 => {
                let (queue, tag) = self.tag();
                Op::Fetch { queue, tag }
            }
            13 => match self.choose(6) {
                0 => Op::Close,
                1 => Op::Unmap { queue: 0 },
                2 => Op::Map { queue: 0 },
                3 => Op::Exit,
                4 => Op::CloseRing,
                _ => Op::Open,
            },
            _ => Op::Reap,
        }
    }

    fn use_disk(&mut self) -> Op {
        let queue = self.choose(usize::from(self.queues)) as u16;
        // No two are neighbours: those could be merged while they wait.
        let (first, count) = [(0, 4), (8, 8), (6, 1)][self.choose(3)];
        match self.choose(6) {
            0 => Op::OpenDisk,
            1 => Op::CloseDisk,
            2 | 3 => Op::Read { first, count, queue },
            _ => Op::Write { first, count, queue },
        }
    }

    fn control(&mut self) -> Op {
        match self.choose(12) {
            8 => Op::Quiesce { ms: 500 },
            9 => Op::TryStop,
            10 => Op::Resize { sectors: 16 },
            0 | 1 => Op::Stop,
            2 if self.one_in(3) => Op::DelAsync,
            2 => Op::Del,
            3 => Op::Params { sectors: 16 },
            4 => Op::Start { server: None },
            5 if !self.servers.is_empty() => Op::Start { server: Some(self.servers[0].into()) },
            _ => Op::Info,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generated_scripts_are_scripts_and_repeat() {
        for seed in 0..60 {
            let one = generate(KernelSeries::V7_3, seed);
            assert_eq!(generate(KernelSeries::V7_3, seed), one);
            assert_eq!(one.to_string().parse(), Ok(one));
        }
    }
}
