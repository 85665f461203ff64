//! Devices that outlive their workers.

use std::fs::File;
use std::mem;
use std::os::unix::fs::FileExt;
use std::thread;
use std::time::{Duration, Instant};

use super::blkproof::{self, BATCH, Device, PROGRAM, Wanted};
use super::fio::Fio;
use super::program::{Checked, Program, Trouble, failed, run};
use super::scenario::{
    Doing, UNDER_WAY, added, deleted, killed, progress, progresses, read_a_block,
};
use crate::facts::MachineFacts;
use crate::plan::{Data, Order, Recovery, Target};

/// How often the worker of one load is killed.
const KILLS: u32 = 2;
/// Between two looks at a device.
const PAUSE: Duration = Duration::from_millis(30);

/// Carries out one of these steps.
pub(super) fn recovery(what: Recovery, doing: &Doing) -> Checked<String> {
    match what {
        Recovery::Restart => restart(doing),
        Recovery::Asked => asked(doing),
        Recovery::Both => both(doing),
        Recovery::FailIo => fail_io(doing),
        Recovery::Delete => delete(doing),
        Recovery::UserCopy => in_mode(Data::UserCopy, doing),
        Recovery::ZeroCopy => in_mode(Data::ZeroCopy, doing),
        Recovery::Batch => in_batches(doing),
    }
}

fn wanted(target: Target, options: &'static [&'static str]) -> Wanted {
    Wanted { target, size_mib: 64, queues: 4, depth: 64, data: Data::Copy, options }
}

/// A load that writes, reads back and compares, round by round, for as long as it is needed; it must not notice what happens to workers.
///
/// A round's length is the machine's affair: one that has come to its end, content, is followed by another.
pub(super) struct Verifying<'a> {
    device: &'a Device,
    round: u32,
    load: Program,
}

impl<'a> Verifying<'a> {
    pub(super) fn start(device: &'a Device) -> Checked<Self> {
        Ok(Self { device, round: 0, load: verifying(device, 0)? })
    }

    /// Waits until the device has completed a good number of further requests.
    pub(super) fn progress(&mut self, doing: &Doing) -> Checked {
        doing.now(format!("the load on {}", self.device.path));
        while !progresses(self.device, &mut self.load, UNDER_WAY) {
            self.round += 1;
            let next = verifying(self.device, self.round)?;
            mem::replace(&mut self.load, next).wait()?.success()?;
        }
        Ok(())
    }

    pub(super) fn ended(self, doing: &Doing) -> Checked {
        doing.now("the load to end, and to have noticed nothing");
        self.load.wait()?.success()?;
        Ok(())
    }
}

/// Every round writes other data than the one before: what a lost write leaves behind is never what is expected.
fn verifying(device: &Device, round: u32) -> Checked<Program> {
    let fio = Fio {
        path: &device.path,
        engine: "io_uring",
        order: Order::Random,
        block_kib: 4,
        depth: 16,
        jobs: 4,
        job_kib: 1024,
        memory: None,
        verify: true,
    };
    fio.start(round)
}

/// Kills the worker under a load, brings the device back, again and again, and lets the load come to its end.
fn survives(
    device: &Device,
    doing: &Doing,
    bring_back: impl Fn(&Device) -> Checked,
) -> Checked<String> {
    let mut load = Verifying::start(device)?;
    let mut slowest = Duration::ZERO;
    for _ in 0..KILLS {
        load.progress(doing)?;
        let worker = blkproof::worker(device.id)?;
        killed(worker, doing);
        let begun = Instant::now();
        bring_back(device)?;
        doing.now("another worker to serve");
        until_served(device, worker)?;
        slowest = slowest.max(begun.elapsed());
    }
    load.ended(doing)?;
    deleted(device, doing)?;
    Ok(format!("{KILLS} workers killed, LIVE again after {:.2} s at most", slowest.as_secs_f64()))
}

/// Waits until the device is LIVE with another worker.
pub(super) fn until_served(device: &Device, before: i32) -> Checked {
    loop {
        let listed = blkproof::listed(device.id)?;
        if listed.state == "LIVE" && listed.worker_pid.is_some_and(|pid| pid != before) {
            return Ok(());
        }
        thread::sleep(PAUSE);
    }
}

/// Waits until the kernel has noticed that the device has no worker.
fn until_state(device: &Device, state: &str, doing: &Doing) -> Checked {
    doing.now(format!("device {} to be {state}", device.id));
    while blkproof::listed(device.id)?.state != state {
        thread::sleep(PAUSE);
    }
    Ok(())
}

fn recovered(device: &Device, doing: &Doing) -> Checked {
    doing.now(format!("blkproof recover {}", device.id));
    let ended = run(PROGRAM, &["recover", &device.id.to_string()])?;
    if ended.stdout.trim() != device.path {
        return failed(format!("`recover` printed {:?}, not {}", ended.stdout, device.path));
    }
    Ok(())
}

/// `recover` must fail, and say this.
fn refused(id: u32, reason: &str, doing: &Doing) -> Checked {
    doing.now(format!("blkproof recover {id}, which cannot succeed"));
    let ended = Program::start(PROGRAM, &["recover".into(), id.to_string()])?.wait()?;
    if ended.status.code() != Some(1) || !ended.stderr.contains(reason) {
        return Err(Trouble::Failed {
            detail: format!(
                "`recover {id}` ended with {}, without saying {reason:?}",
                ended.status
            ),
            evidence: ended.evidence(),
        });
    }
    Ok(())
}

fn restart(doing: &Doing) -> Checked<String> {
    let device = added(&wanted(Target::Mem, &["--recovery", "reissue", "--restart"]), doing)?;
    survives(&device, doing, |_| Ok(()))
}

fn asked(doing: &Doing) -> Checked<String> {
    let device = added(&wanted(Target::Loop, &["--recovery", "reissue"]), doing)?;
    refused(device.id, "its worker runs", doing)?;
    refused(device.id + 1, "no such device", doing)?;
    // At once after the kill: the kernel may not have noticed yet.
    survives(&device, doing, |device| recovered(device, doing))
}

/// Supervisor and worker are killed.
fn both(doing: &Doing) -> Checked<String> {
    let mem = added(&wanted(Target::Mem, &["--recovery", "reissue"]), doing)?;
    killed(blkproof::supervisor(mem.id)?, doing);
    killed(blkproof::worker(mem.id)?, doing);
    refused(mem.id, "its contents were kept by its supervisor", doing)?;
    deleted(&mem, doing)?;

    let device = added(&wanted(Target::Loop, &["--recovery", "reissue"]), doing)?;
    survives_alone(&device, doing)
}

/// As [`survives`], with the supervisor killed before each worker.
fn survives_alone(device: &Device, doing: &Doing) -> Checked<String> {
    killed(blkproof::supervisor(device.id)?, doing);
    survives(device, doing, |device| {
        // The second time it is the one that `recover` had started.
        if blkproof::listed(device.id)?.supervisor_pid.is_some() {
            killed(blkproof::supervisor(device.id)?, doing);
        }
        recovered(device, doing)
    })
}

/// Workers die that copy themselves, or have the pages of requests in their rings' tables; the next ones serve in the same mode.
fn in_mode(data: Data, doing: &Doing) -> Checked<String> {
    let granted = blkproof::granted(data)?;
    let keeps_mode = |device: &Device| match blkproof::listed(device.id)?.data.as_deref() {
        Some(name) if name == granted.name() => Ok(()),
        other => failed(format!("a device in {} is listed with {other:?}", granted.name())),
    };
    let mode = |options| Wanted { data, ..wanted(Target::Loop, options) };
    let device = added(&mode(&["--recovery", "reissue", "--restart"]), doing)?;
    let restarted = survives(&device, doing, keeps_mode)?;
    let device = added(&mode(&["--recovery", "reissue"]), doing)?;
    keeps_mode(&device)?;
    let recovered = survives_alone(&device, doing)?;
    Ok(format!("{}: by itself: {restarted}; by `recover`: {recovered}", granted.name()))
}

/// The next worker is told of what the last one held, and of what waited, in batches as well.
fn in_batches(doing: &Doing) -> Checked<String> {
    if !blkproof::has("BATCH_IO")? {
        return Ok("this kernel has no batches".into());
    }
    let options = wanted(Target::Loop, &["--recovery", "reissue", "--restart", BATCH]);
    let device = added(&options, doing)?;
    survives(&device, doing, |device| match blkproof::listed(device.id)?.batch {
        Some(true) => Ok(()),
        other => failed(format!("a device in batches is listed with {other:?}")),
    })
}

fn fail_io(doing: &Doing) -> Checked<String> {
    let options = wanted(Target::Mem, &["--recovery", "fail-io"]);
    let features = run(PROGRAM, &["features"])?;
    if !features.stdout.contains("USER_RECOVERY_FAIL_IO") {
        return match added(&options, doing) {
            Ok(_) => failed("a kernel without fail-io added a device with it"),
            Err(trouble) if trouble.evidence().contains("does not offer what is needed") => {
                Ok("this kernel has no fail-io, and `add` says so".into())
            }
            Err(trouble) => Err(trouble),
        };
    }
    let device = added(&options, doing)?;
    killed(blkproof::worker(device.id)?, doing);
    until_state(&device, "FAIL_IO", doing)?;
    doing.now("`dump` to say that the supervisor waits for somebody who asks");
    let waits =
        |machine: &MachineFacts| machine.name == "supervisor" && machine.state == "Unserved";
    while !blkproof::dump(device.id)?.iter().any(waits) {
        thread::sleep(PAUSE);
    }
    doing.now(format!("a read from {}, which nobody serves", device.path));
    let mut block = [0_u8; 4096];
    let read = File::open(&device.path).and_then(|file| file.read_exact_at(&mut block, 9 << 20));
    match read {
        Err(error) if error.raw_os_error() == Some(EIO) => {}
        other => return failed(format!("without a worker a read came to {other:?}, not to EIO")),
    }
    recovered(&device, doing)?;
    read_a_block(&device)?;
    deleted(&device, doing)?;
    Ok("EIO while it was down, data afterwards".into())
}

/// A device that waits for a worker is deleted; so are the clients' hopes.
fn delete(doing: &Doing) -> Checked<String> {
    let device = added(&wanted(Target::Null, &["--recovery", "requeue"]), doing)?;
    let mut load = Fio::load(&device.path, 4, 8)?;
    progress(&device, &mut load, UNDER_WAY)?;
    killed(blkproof::worker(device.id)?, doing);
    until_state(&device, "QUIESCED", doing)?;
    let begun = Instant::now();
    doing.now(format!("blkproof del {} without a worker", device.id));
    run(PROGRAM, &["del", &device.id.to_string()])?;
    let seconds = begun.elapsed().as_secs_f64();
    doing.now("the load's end, after its device went away");
    if load.wait()?.status.success() {
        return failed("the load ended without an error although its device went away");
    }
    blkproof::nothing_left()?;
    Ok(format!("deleted in {seconds:.1} s"))
}

/// The errno, as Linux numbers it.
const EIO: i32 = 5;
