//! The inputs that fuzzing begins with, made by this program: `cargo run -p fuzz --bin corpus`.
//!
//! They are committed, a few for each target, so that a fuzzer begins where things are interesting.

use blkproof_engine::uapi::{BatchIo, DevInfo, IoDesc, Params};
use blkproof_sim::choices::{Choices, Site};
use blkproof_sim::config::{Config, Faults};
use blkproof_sim::drivers::{Random, Recorder};
use blkproof_sim::outcome::Verdict;
use blkproof_sim::run::run;
use blkproof_sim::specimens::Specimen;
use blkproof_sim::tape::Tape;

/// Name and contents of each file of a target's corpus; nothing for a target that there is not.
pub fn of(target: &str) -> Vec<(String, Vec<u8>)> {
    let numbered = |inputs: Vec<Vec<u8>>| {
        let name = |(nth, input)| (format!("{nth}"), input);
        (1..).zip(inputs).map(name).collect()
    };
    match target {
        "uapi" => numbered(uapi()),
        "tag" => numbered((0..3).map(|seed| noise(seed, 32)).collect()),
        "engine" => numbered(machines()),
        "simulation" => numbered((0..4).map(schedule).collect()),
        "tape" => numbered(vec![tape(&Specimen::named("eintr-lost").config()), tape(&engine())]),
        "cli" => numbered(lines(&SIM_LINES)),
        "blkproof-cli" => numbered(lines(&BLKPROOF_LINES)),
        "planted" => numbered(vec![b"a bug".to_vec(), b"none!".to_vec()]),
        _ => Vec::new(),
    }
}

/// Bytes from a seed.
fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut random = Random::new(seed);
    (0..length).map(|_| random.choose(Site::Client, 256) as u8).collect()
}

fn uapi() -> Vec<Vec<u8>> {
    let info = DevInfo { nr_hw_queues: 2, queue_depth: 64, ..DevInfo::default() };
    let desc = IoDesc { op_flags: 1, nr_sectors: 8, start_sector: 64, addr: 4_096 };
    let mut inputs = vec![info.encode().to_vec(), desc.encode().to_vec()];
    inputs.push(Params::default().encode().to_vec());
    inputs.extend(BatchIo::decode(&[0; BatchIo::SIZE]).map(|batch| batch.encode().to_vec()));
    inputs
}

/// A run of each machine in which nothing fails, one of noise, and two that start a device.
fn machines() -> Vec<Vec<u8>> {
    let started = (0..).map(|seed| noise(seed, 256)).filter(|input| crate::engine::starts(input));
    let calm = |machine| [vec![machine], vec![0; 15], noise(u64::from(machine), 48)].concat();
    [0, 3, 4, 6, 7].map(calm).into_iter().chain([noise(9, 256)]).chain(started.take(2)).collect()
}

fn engine() -> Config {
    Config { queues: 1, depth: 1, requests: 1, faults: Faults::ALL, ..Config::engine() }
}

/// The choices of a seed as bytes, behind a byte for the configuration.
fn schedule(seed: u64) -> Vec<u8> {
    let shape = [0, 4, 7, 39][seed as usize % 4];
    let mut recorder = Recorder::new(Random::new(seed));
    run(&crate::shape(shape), &mut recorder);
    let bytes = recorder.choices.iter().map(|choice| choice.value as u8);
    std::iter::once(shape).chain(bytes).take(1_024).collect()
}

/// The first seed that is not clean, or else the first.
fn tape(config: &Config) -> Vec<u8> {
    let record = |seed| {
        let mut recorder = Recorder::new(Random::new(seed));
        let outcome = run(config, &mut recorder);
        (seed, recorder.choices, outcome)
    };
    let found = (0..50).map(record).find(|(_, _, outcome)| outcome.verdict != Verdict::Clean);
    let (seed, choices, outcome) = found.unwrap_or_else(|| record(0));
    let tape = Tape {
        config: config.clone(),
        seed: Some(seed),
        driver: String::new(),
        version: "blkproof".to_owned(),
        verdict: outcome.verdict,
        hash: outcome.hash,
        choices,
    };
    tape.to_text().into_bytes()
}

const SIM_LINES: [&str; 5] = [
    "run --engine --seed 7 --queues 2 --depth 4 --faults kill=3,disk",
    "hunt --engine --faults all --swarm --driver pct=3 --time 10m --shard 2/8 --results part",
    "hunt --specimen eintr-lost --nth-fault 1 --json --findings=dir",
    "merge one two --json",
    "script --seed 4 --kernel 6.18",
];

const BLKPROOF_LINES: [&str; 7] = [
    "add null --size 1T -n 3 -q 4 -d 64 --batch",
    "add mem --size=1.5G --buffer 32M --data user-copy --shared lent --recovery reissue --restart",
    "add loop --data zero-copy --foreground --record=dir -- disk.img",
    "del --all --if-unused",
    "resize 0 --size 8K",
    "list -n 4294967295 --json",
    "dump 7 --json",
];

/// Command lines as inputs: a line for each word.
fn lines(commands: &[&str]) -> Vec<Vec<u8>> {
    commands.iter().map(|line| line.replace(' ', "\n").into_bytes()).collect()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    /// What is committed is what the command makes, and every target survives it.
    #[test]
    fn the_committed_corpus_is_this_one() {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
        for (name, target) in crate::TARGETS {
            let files = super::of(name);
            assert!(files.len() >= 2, "{name} has a corpus");
            for (file, input) in files {
                target(&input);
                // Schedules and tapes are those of the rules they were made under; they need not be of today's.
                assert!(
                    dir.join(name).join(&file).is_file(),
                    "{name}/{file} is missing: run cargo run -p fuzz --bin corpus"
                );
            }
        }
    }
}
