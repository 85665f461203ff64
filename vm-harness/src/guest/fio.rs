//! fio in the guest: what is asked of it and what it must have done.

use std::fs;

use super::program::{Checked, Program, Trouble, failed};
use crate::plan::Order;

/// One fio run.
#[derive(Debug, Clone)]
pub(super) struct Fio<'a> {
    /// Device or file.
    pub(super) path: &'a str,
    /// `io_uring`, `psync`, …
    pub(super) engine: &'a str,
    pub(super) order: Order,
    pub(super) block_kib: u32,
    /// Requests in flight per job.
    pub(super) depth: u32,
    /// Parallel jobs, each on its own region.
    pub(super) jobs: u32,
    /// Region of one job in KiB.
    pub(super) job_kib: u32,
    /// The file whose memory holds its data; without it, memory of its own.
    pub(super) memory: Option<&'a str>,
    /// Write, then read back and compare; without it: a mix of reads and writes that nobody compares.
    pub(super) verify: bool,
}

/// What fio did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Moved {
    pub(super) read_kib: u64,
    pub(super) written_kib: u64,
}

impl Fio<'_> {
    /// What is written depends on the round.
    fn arguments(&self, output: &str, round: u32) -> Vec<String> {
        let pattern = match (self.verify, self.order) {
            (true, Order::Sequential) => "write",
            (true, Order::Random) => "randwrite",
            (false, Order::Sequential) => "rw",
            (false, Order::Random) => "randrw",
        };
        let mut arguments = vec![
            "--name=harness".into(),
            "--thread".into(),
            "--direct=1".into(),
            "--group_reporting".into(),
            "--output-format=json".into(),
            "--allow_mounted_write=1".into(),
            format!("--randseed={}", 20_260_923 + round),
            "--end_fsync=1".into(),
            format!("--output={output}"),
            format!("--filename={}", self.path),
            format!("--ioengine={}", self.engine),
            format!("--rw={pattern}"),
            format!("--bs={}k", self.block_kib),
            format!("--iodepth={}", self.depth),
            format!("--numjobs={}", self.jobs),
            format!("--size={}k", self.job_kib),
            format!("--offset_increment={}k", self.job_kib),
        ];
        arguments.extend(self.memory.map(|file| format!("--mem=mmapshared:{file}")));
        if self.verify {
            arguments.extend(
                ["--verify=crc32c", "--do_verify=1", "--verify_fatal=1", "--verify_state_save=0"]
                    .map(str::to_owned),
            );
        }
        arguments
    }

    /// Starts it.
    pub(super) fn start(&self, round: u32) -> Checked<Program> {
        Program::start("fio", &self.arguments("/tmp/fio.json", round))
    }

    /// Runs to the end. Fails unless fio is content and moved everything it was asked to.
    pub(super) fn run(&self) -> Checked<Moved> {
        let output = "/tmp/fio.json";
        let _ = fs::remove_file(output);
        let ended = Program::start("fio", &self.arguments(output, 0))?.wait()?.success()?;
        let text = fs::read_to_string(output).unwrap_or_default();
        let Some(moved) = parse(&text) else {
            return Err(Trouble::Failed {
                detail: "fio's report cannot be read".into(),
                evidence: ended.evidence(),
            });
        };
        let expected = u64::from(self.jobs) * u64::from(self.job_kib);
        let enough = if self.verify {
            moved.written_kib >= expected && moved.read_kib >= expected
        } else {
            moved.written_kib + moved.read_kib >= expected
        };
        if enough {
            Ok(moved)
        } else {
            failed(format!(
                "fio was asked for {expected} KiB and wrote {} KiB, read {} KiB",
                moved.written_kib, moved.read_kib
            ))
        }
    }

    /// Writes, lets `tamper` change the data, and verifies. Fails if fio notices.
    pub(super) fn verified_after(&self, tamper: impl FnOnce() -> Checked) -> Checked {
        let mut arguments = self.arguments("/tmp/fio.json", 0);
        arguments.retain(|a| a != "--do_verify=1");
        arguments.push("--do_verify=0".into());
        Program::start("fio", &arguments)?.wait()?.success()?;
        tamper()?;
        let mut arguments = self.arguments("/tmp/fio.json", 0);
        arguments.push("--verify_only".into());
        Program::start("fio", &arguments)?.wait()?.success()?;
        Ok(())
    }

    /// Starts a load that lasts until it fails or is killed.
    pub(super) fn load(path: &str, jobs: u32, depth: u32) -> Checked<Program> {
        let fio = Fio {
            path,
            engine: "io_uring",
            order: Order::Random,
            block_kib: 16,
            depth,
            jobs,
            job_kib: 4096,
            memory: None,
            verify: false,
        };
        let mut arguments = fio.arguments("/tmp/load.json", 0);
        arguments.extend(["--time_based", "--runtime=3600"].map(str::to_owned));
        Program::start("fio", &arguments)
    }
}

/// Bytes moved, from fio's JSON. Messages may stand before it.
fn parse(text: &str) -> Option<Moved> {
    let json: serde_json::Value = serde_json::from_str(text.get(text.find("{\n")?..)?).ok()?;
    let jobs = json.get("jobs")?.as_array()?;
    let sum = |direction: &str| -> Option<u64> {
        jobs.iter().map(|job| job.get(direction)?.get("io_bytes")?.as_u64()).sum::<Option<u64>>()
    };
    Some(Moved { read_kib: sum("read")? / 1024, written_kib: sum("write")? / 1024 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_behind_messages_is_read() {
        let text = "fio: note\n{\n \"jobs\": [{\"read\": {\"io_bytes\": 2048}, \"write\": {\"io_bytes\": 4096}}]}";
        assert_eq!(parse(text), Some(Moved { read_kib: 2, written_kib: 4 }));
        assert_eq!(parse("fio: failed"), None);
    }
}
