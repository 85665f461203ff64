//! Scripts from a source of choices: sensible beginnings, then anything, legal or not.
//!
//! The model runs along, so that no step is given to an actor that may be blocked: a real executor could not carry it out.

use blkproof_engine::uapi::{AutoBufReg, Features, KernelSeries, ParamAttrs, Params};

use super::model::Model;
use super::{
    AddOptions, Addr, CONTROLLER, Header, Op, Parameters, PathName, Place, RingAsked, RingKind,
    Script, Step,
};
use crate::choices::{Choices, Site};
use crate::drivers::Random;

/// Steps of a script, at the most.
const STEPS_MAX: usize = 30;
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
        mode: Mode::Copy,
        batch: false,
        recovers: false,
        shares: false,
        halted: false,
        child: None,
        pollers: Vec::new(),
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

#[expect(
    clippy::struct_excessive_bools,
    reason = "each says one thing of the device or its server"
)]
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
    mode: Mode,
    /// Tags are armed and committed many at a time.
    batch: bool,
    /// The device outlives its server.
    recovers: bool,
    /// It knows requests whose data lies in registered memory.
    shares: bool,
    /// The process of the servers is stopped.
    halted: bool,
    /// Another process that lives because of it.
    child: Option<&'static str>,
    /// Servers whose entries a thread of the kernel takes.
    pollers: Vec<&'static str>,
}

/// How the data of requests moves.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    Copy,
    GetData,
    UserCopy,
    ZeroCopy,
    Auto,
    AutoAndZeroCopy,
}

impl Mode {
    const ALL: [Self; 6] = [
        Self::Copy,
        Self::GetData,
        Self::UserCopy,
        Self::ZeroCopy,
        Self::Auto,
        Self::AutoAndZeroCopy,
    ];

    const fn flags(self) -> Features {
        match self {
            Self::Copy => Features::NONE,
            Self::GetData => Features::NEED_GET_DATA,
            Self::UserCopy => Features::USER_COPY,
            Self::ZeroCopy => Features::SUPPORT_ZERO_COPY,
            Self::Auto => Features::AUTO_BUF_REG,
            Self::AutoAndZeroCopy => Features::AUTO_BUF_REG.union(Features::SUPPORT_ZERO_COPY),
        }
    }

    /// Whether the ring's table of buffers is of use.
    const fn registers(self) -> bool {
        matches!(self, Self::ZeroCopy | Self::Auto | Self::AutoAndZeroCopy)
    }
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
            self.script.steps.push(Step::Process { name: name.into(), admin: false });
        }
        if self.one_in(3) {
            self.script.steps.push(Step::Thread { name: "b".into(), of: "a".into() });
            self.servers.push("b");
        }
        let recovery = Features::USER_RECOVERY;
        let flags = match self.choose(8) {
            0 | 1 => recovery,
            2 => recovery.union(Features::USER_RECOVERY_REISSUE),
            3 => recovery.union(Features::USER_RECOVERY_FAIL_IO),
            4 => recovery.union(Features::QUIESCE),
            _ => Features::NONE,
        };
        // What 6.12 does not know it ignores: copy mode then, whatever was asked for.
        let modes = if self.script.kernels == [KernelSeries::V6_12] { 3 } else { Mode::ALL.len() };
        if !self.one_in(3) {
            self.mode = Mode::ALL[self.choose(modes)];
        }
        // It would take NEED_GET_DATA away.
        self.batch = self.script.kernels == [KernelSeries::V7_3]
            && self.mode != Mode::GetData
            && self.one_in(4);
        if self.batch {
            // Of depth 1 it would be refused.
            self.depth = self.depth.max(2);
        }
        let (queues, depth) = (self.queues, self.depth);
        let batch = if self.batch { Features::BATCH_IO } else { Features::NONE };
        self.recovers = flags != Features::NONE;
        self.shares = self.script.kernels == [KernelSeries::V7_3] && self.one_in(3);
        let shares = if self.shares { Features::SHMEM_ZC } else { Features::NONE };
        let flags = flags.union(self.mode.flags()).union(batch).union(shares);
        self.push(
            CONTROLLER,
            Op::Add { queues, depth, id: None, flags, more: AddOptions::default() },
        );
        if !self.one_in(8) {
            let parameters = self.parameters();
            self.push(CONTROLLER, Op::Params(Box::new(parameters)));
        }
        if self.shares {
            let op = self.register_memory();
            self.push(CONTROLLER, op);
        }
        self.push("a", Op::Open);
        for server in self.servers.clone() {
            self.ring(server);
        }
        for queue in 0..queues {
            self.push("a", Op::Map { queue });
        }
        // Either everything is ready, or the rest of the script decides.
        if !self.one_in(3) {
            for queue in 0..queues {
                self.arm("a", queue);
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
        let (mut servers, clients) = (free(&self.servers), free(&self.clients));
        let all_free = servers.len() == self.servers.len();
        if self.halted {
            servers.clear();
        }
        let controls = !busy.iter().any(|name| name == CONTROLLER);
        match self.choose(11) {
            0..=5 if !servers.is_empty() => {
                let server = servers[self.choose(servers.len())];
                if !self.batch && !self.pollers.contains(&server) && self.one_in(20) {
                    self.hold(server);
                    return true;
                }
                let op = self.serve();
                let exits = op == Op::Exit;
                self.push(server, op);
                // The first thread takes its process with it.
                if exits && server != "b" {
                    self.are_gone();
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
                // Where a request waits for the next server, nothing ends what waits for the request (H12).
                let safe = !self.recovers || clients.len() == self.clients.len();
                let registers = self.shares && safe && self.one_in(2);
                let op = if registers { self.register_memory() } else { self.control() };
                self.push(CONTROLLER, op);
            }
            9 if self.one_in(3) && !self.servers.is_empty() => {
                let name = self.servers[0];
                self.script.steps.push(Step::Kill { actor: name.into() });
                self.are_gone();
            }
            10 if all_free && !self.servers.is_empty() && self.one_in(2) => self.process(),
            _ if controls => self.push(CONTROLLER, Op::Info),
            _ => return false,
        }
        true
    }

    /// The servers' process is no more.
    fn are_gone(&mut self) {
        self.servers.clear();
        self.halted = false;
        if let Some(next) = self.next.take() {
            self.take_over(next);
        }
    }

    /// Something happens to the servers' process.
    fn process(&mut self) {
        let actor = self.servers[0].to_owned();
        if std::mem::take(&mut self.halted) {
            self.script.steps.push(Step::Continue { actor });
            return;
        }
        match (self.choose(4), self.child) {
            (0 | 1, None) => {
                let map = self.one_in(2).then_some(0);
                self.child = Some("f");
                self.script.steps.push(Step::Fork { name: "f".into(), of: actor, map });
            }
            (0 | 1, Some(child)) => {
                self.child = None;
                self.script.steps.push(Step::Kill { actor: child.into() });
            }
            (2, _) => {
                self.script.steps.push(Step::Exec { actor });
                self.are_gone();
            }
            (_, _) => {
                self.halted = true;
                self.script.steps.push(Step::Halt { actor });
            }
        }
    }

    /// Entries that are held back, and taken together or not.
    fn hold(&mut self, server: &'static str) {
        self.push(server, Op::Hold);
        for _ in 0..2 {
            let (queue, tag) = self.tag();
            let addr = self.addr((queue, tag));
            let data = (addr == Addr::Buffer).then_some(99);
            self.push(server, Op::Commit { queue, tag, result: 4096, data, addr });
        }
        let count = 1 + self.choose(2) as u16;
        self.push(server, Op::Submit { count });
        if count == 1 {
            self.push(server, Op::Submit { count });
        }
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
        self.ring(name);
        for queue in 0..self.queues {
            self.push(name, Op::Map { queue });
            self.arm(name, queue);
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

    fn ring(&mut self, server: &'static str) {
        let kind = match self.choose(8) {
            0..=3 => RingKind::Defer,
            4 | 5 => RingKind::Default,
            6 => RingKind::Coop,
            _ => RingKind::Sqpoll,
        };
        let polls = kind == RingKind::Sqpoll;
        self.pollers.extend(polls.then_some(server));
        let small = !polls && self.one_in(6);
        let cq = small.then(|| [2, 4][self.choose(2)]);
        self.push(server, Op::Ring(RingAsked { kind, cq, all: false }));
        if self.one_in(5) {
            self.push(server, Op::FixFile);
        }
        if self.mode.registers() && !self.one_in(6) {
            self.push(server, Op::Table { slots: 2 });
        }
        if self.batch {
            let count = self.choose(6) as u16;
            self.push(server, Op::Provide { count });
        }
    }

    /// Every tag of a queue.
    fn arm(&mut self, server: &'static str, queue: u16) {
        if self.batch {
            let tags = (0..self.depth).collect();
            let addr = self.addr((queue, 0));
            self.push(server, Op::Prep { queue, tags, addr });
            if !self.one_in(6) {
                self.push(server, Op::FetchTags { queue });
            }
            return;
        }
        for tag in 0..self.depth {
            let addr = self.addr((queue, tag));
            self.push(server, Op::Fetch { queue, tag, addr });
        }
    }

    /// What serves a batch device.
    fn serve_batch(&mut self) -> Op {
        let (queue, tag) = self.tag();
        match self.choose(16) {
            0..=4 => Op::Reap,
            5..=9 => {
                let addr = self.addr((queue, tag));
                let data = (addr == Addr::Buffer).then(|| 100 + self.choose(100) as u8);
                let mut results = Vec::new();
                for _ in 0..=self.choose(2) {
                    let tag = self.tag().1;
                    results.push((tag, [4096, 4096, 2048, -5][self.choose(4)]));
                }
                Op::Commits { queue, results, data, addr }
            }
            10 => Op::FetchTags { queue },
            11 => Op::Provide { count: 1 },
            12 => {
                let tags = vec![tag; 1 + usize::from(self.one_in(6))];
                Op::Prep { queue, tags, addr: self.addr((queue, tag)) }
            }
            13 => match self.choose(4) {
                0 => Op::Close,
                1 => Op::Exit,
                2 => Op::CloseRing,
                _ => Op::Fetch { queue, tag, addr: self.addr((queue, tag)) },
            },
            _ => self.move_data((queue, tag)),
        }
    }

    /// What goes with a command of the mode; now and then that of another.
    fn addr(&mut self, (queue, tag): (u16, u16)) -> Addr {
        let mode = if self.one_in(16) { Mode::ALL[self.choose(3)] } else { self.mode };
        match mode {
            Mode::Copy | Mode::GetData => Addr::Buffer,
            Mode::UserCopy | Mode::ZeroCopy => Addr::Bare,
            Mode::Auto | Mode::AutoAndZeroCopy => {
                let index = if self.one_in(6) { 0 } else { queue * self.depth + tag };
                Addr::Auto(AutoBufReg { index, fallback: self.one_in(4) })
            }
        }
    }

    /// What is registered with the device, or no longer.
    fn register_memory(&mut self) -> Op {
        if self.one_in(4) {
            return Op::UnregBuf { index: self.choose(3) as u32 };
        }
        let (first, count) = [(0, 1), (1, 1), (0, 2), (2, 2), (0, 4)][self.choose(5)];
        Op::RegBuf { first, count, read_only: self.one_in(4), unwritable: self.one_in(8) }
    }

    fn serve(&mut self) -> Op {
        if self.shares && self.one_in(6) {
            let (first, count) = [(0, 8), (4, 8), (8, 4)][self.choose(3)];
            if self.one_in(2) {
                return Op::MemRead { first, count };
            }
            return Op::MemWrite { first, count, byte: 100 + self.choose(100) as u8 };
        }
        if self.batch {
            return self.serve_batch();
        }
        let (queue, tag) = self.tag();
        match self.choose(16) {
            0..=4 => Op::Reap,
            5..=8 => {
                let result = [4096, 4096, 2048, 512, 0, -5][self.choose(6)];
                let addr = self.addr((queue, tag));
                let data = (addr == Addr::Buffer).then(|| 100 + self.choose(100) as u8);
                Op::Commit { queue, tag, result, data, addr }
            }
            9..=11 => self.move_data((queue, tag)),
            12 => Op::Fetch { queue, tag, addr: self.addr((queue, tag)) },
            13 => match self.choose(7) {
                6 => Op::Spare,
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

    /// What moves data in this mode.
    fn move_data(&mut self, (queue, tag): (u16, u16)) -> Op {
        let (first, count) = [(0, 8), (0, 4), (2, 2), (6, 8)][self.choose(4)];
        let byte = 100 + self.choose(100) as u8;
        let mode = if self.one_in(12) { Mode::ALL[self.choose(6)] } else { self.mode };
        let index = self.choose(3) as u16;
        match (mode, self.choose(4)) {
            (Mode::Copy, _) => Op::Reap,
            (Mode::GetData, _) => Op::GetData { queue, tag },
            (Mode::UserCopy, 0 | 1) => Op::Pread { queue, tag, first, count },
            (Mode::UserCopy, _) => Op::Pwrite { queue, tag, first, count, byte },
            (Mode::ZeroCopy | Mode::AutoAndZeroCopy, 0) => Op::Register { queue, tag, index },
            (Mode::ZeroCopy | Mode::AutoAndZeroCopy, 1) => Op::Unregister { queue, tag, index },
            (_, 0 | 2) => Op::BufRead { index, first, count },
            (_, _) => Op::BufWrite { index, first, count, byte },
        }
    }

    fn parameters(&mut self) -> Parameters {
        let mut parameters = Parameters::new(16);
        for attr in [ParamAttrs::VOLATILE_CACHE, ParamAttrs::FUA] {
            parameters = if self.one_in(3) { parameters.with(attr) } else { parameters };
        }
        let chunk = [0, 0, 0, 4][self.choose(4)];
        let discard = [0, 8, 32][self.choose(3)];
        let zeroes = [0, 8, 32][self.choose(3)];
        parameters.splitting(chunk, discard, zeroes)
    }

    fn use_disk(&mut self) -> Op {
        let queue = self.choose(usize::from(self.queues)) as u16;
        // No two are neighbours: those could be merged while they wait. Parts of one request never are.
        let (first, count) = [(0, 4), (8, 8), (6, 1), (0, 16)][self.choose(4)];
        let shared = (self.shares && self.one_in(2)).then(|| [0, 4, 8, 16][self.choose(4)]);
        let (page, pages) = [(0, 8), (8, 8), (0, 16)][self.choose(3)];
        match self.choose(14) {
            11 => Op::Load { first: page, count: pages, queue },
            12 | 13 => Op::Store { first: page, count: pages, queue },
            6 => Op::Sync { queue },
            0 => Op::OpenDisk,
            1 => Op::CloseDisk,
            2 | 3 => Op::Read { first, count, queue, shared },
            7 => Op::Discard { first, count, queue },
            8 => Op::Zeroes { first, count, queue, keep: self.one_in(2) },
            9 => Op::Write { first, count, queue, shared, fua: true },
            _ => Op::Write { first, count, queue, shared, fua: false },
        }
    }

    fn control(&mut self) -> Op {
        match self.choose(18) {
            12 => Op::GetParams { bytes: Params::SIZE as u32 },
            13 => Op::Details,
            14 => Op::Affinity { queue: self.choose(3) as u16 },
            15 => {
                let header = self.header();
                let op = self.asked();
                Op::With(Box::new(header), Box::new(op))
            }
            16 => self.refused(),
            17 => self.another(),
            8 => Op::Quiesce { ms: 500 },
            9 => Op::TryStop,
            10 => Op::Resize { sectors: 16 },
            0 | 1 => Op::Stop,
            2 if self.one_in(3) => Op::DelAsync,
            2 => Op::Del,
            3 => Op::Params(Box::new(Parameters::new(16))),
            4 => Op::Start { server: None },
            5 if !self.servers.is_empty() => Op::Start { server: Some(self.servers[0].into()) },
            _ => Op::Info,
        }
    }
}

impl Author<'_> {
    /// What is wrong with a header, or only unusual.
    fn header(&mut self) -> Header {
        let usual = Header::USUAL;
        match self.choose(10) {
            0 => Header { nr: Some(48), ..usual },
            1 => Header { kind: Some(0), ..usual },
            2 => Header { kind: Some(118), ..usual },
            3 => Header { small: true, ..usual },
            4 => Header { id: Some(9), ..usual },
            5 => Header { len: Some(63), ..usual },
            6 => Header { place: Some(Place::Null), ..usual },
            7 => Header { place: Some(Place::Bad), ..usual },
            8 => Header { place: Some(Place::ReadOnly), ..usual },
            _ => Header { queue: Some(7), ..usual },
        }
    }

    /// What a command with such a header is.
    fn asked(&mut self) -> Op {
        match self.choose(6) {
            0 => Op::Details,
            1 => Op::GetParams { bytes: Params::SIZE as u32 },
            2 => Op::Stop,
            3 => Op::Features,
            4 => Op::Params(Box::new(Parameters::new(16))),
            _ => Op::StartRecovery,
        }
    }

    /// Parameters that no kernel takes.
    fn refused(&mut self) -> Op {
        let mut parameters = Parameters::new(16);
        let basic = parameters.params.basic.get_or_insert_default();
        match self.choose(3) {
            0 => basic.logical_bs_shift = 8,
            1 => basic.logical_bs_shift = 13,
            _ => parameters.types = Some(2),
        }
        Op::Params(Box::new(parameters))
    }

    /// What is done to another device.
    fn another(&mut self) -> Op {
        let op = match self.choose(5) {
            0 | 1 => {
                let more = AddOptions::default();
                return Op::Add { queues: 1, depth: 1, id: None, flags: Features::NONE, more };
            }
            2 => Op::Details,
            3 => {
                let header = Header { path: Some(PathName::Own), ..Header::USUAL };
                return Op::With(Box::new(header), Box::new(Op::Details2));
            }
            _ => Op::Del,
        };
        let header = Header { id: Some(1), ..Header::USUAL };
        Op::With(Box::new(header), Box::new(op))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generated_scripts_are_scripts_and_repeat() {
        for kernel in KernelSeries::ALL {
            for seed in 0..120 {
                let one = generate(kernel, seed);
                assert_eq!(one.to_string().parse(), Ok(one.clone()), "seed {seed} of {kernel}");
                assert!(seed >= 20 || generate(kernel, seed) == one, "seed {seed} of {kernel}");
            }
        }
    }
}
