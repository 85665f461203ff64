//! The tap: what the processes of a device do at the border to the kernel, written down while they do it.
//!
//! A recorder belongs to one thread. It writes its lines into the process's *spool*, a file in memory, whenever the thread is about to
//! enter the kernel. So a thread that serves never waits for a disk, and what it did before it entered survives its death there.
//! A thread of its own, the *scribe*, moves the spool's contents into the trace's file. A worker's spool belongs to its
//! supervisor too, which moves what a killed worker could not.
//!
//! The format is the engine's ([`blkproof_engine::record`]), a line of JSON for each record. A trace ends with `End`; with `Gap`
//! if something could not be written; with neither if the process was killed. Nothing is ever left out silently.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use blkproof_engine::record::{Event, FORMAT, Header, Mark, Role, Sink, Thread};
use blkproof_engine::uapi::{DevId, Features};
use parking_lot::Mutex;
use rustix::fs::{FallocateFlags, FlockOperation, MemfdFlags, Mode, OFlags};
use rustix::time::ClockId;
use serde::{Deserialize, Serialize};

use crate::process;

/// How long the scribe rests when there is nothing to move.
const REST: Duration = Duration::from_millis(20);
/// Bytes that the scribe moves at a time.
const MOVE_BYTES: usize = 256 * 1024;

/// That a device is to be recorded, and where.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Recording {
    /// The directory of the traces, absolute.
    dir: PathBuf,
    /// What the driver supports.
    features: u64,
    /// The monotonic clock when the recording began.
    origin_ns: u64,
}

/// Where a worker writes its trace.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct WorkerRecording {
    recording: Recording,
    file: PathBuf,
    /// The spool, as the supervisor has it open.
    spool: PathBuf,
}

/// What a trace's header says of the device that was wanted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Shape {
    /// Its number.
    pub device: Option<DevId>,
    /// Hardware queues.
    pub queues: u16,
    /// Tags in each.
    pub depth: u16,
}

impl Recording {
    /// Into this directory, which is created if need be, and must hold no trace yet.
    ///
    /// # Errors
    /// What the system answered.
    pub fn new(dir: &Path, features: Features) -> io::Result<Self> {
        fs::create_dir_all(dir)?;
        let dir = dir.canonicalize()?;
        if supervisor_file(&dir).exists() {
            let text = "there is a trace already; name another directory, or remove it";
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, text));
        }
        Ok(Self { dir, features: features.0, origin_ns: now_ns() })
    }

    fn header(&self, process: Role, shape: Shape) -> Header {
        Header {
            format: FORMAT,
            version: env!("CARGO_PKG_VERSION").into(),
            release: rustix::system::uname().release().to_string_lossy().into_owned(),
            features: Features(self.features),
            cpus: possible_cpus(),
            process,
            pid: std::process::id(),
            queues: shape.queues,
            depth: shape.depth,
            device: shape.device,
        }
    }
}

/// The recording of one process.
#[derive(Debug)]
pub struct Tap {
    spool: Arc<Spool>,
    origin_ns: u64,
    scribe: Mutex<Option<JoinHandle<()>>>,
}

/// A worker's spool, and the file that it goes to.
#[derive(Debug)]
pub struct WorkerSpool {
    spool: Arc<Spool>,
    file: PathBuf,
    order: WorkerRecording,
}

/// Lines that are not in the file yet.
#[derive(Debug)]
struct Spool {
    /// In memory; every write appends.
    memory: OwnedFd,
    /// Something could not be written: nothing is recorded any more.
    broken: AtomicBool,
    /// The process ends.
    closing: AtomicBool,
}

impl Tap {
    /// Begins the trace of a supervisor.
    ///
    /// # Errors
    /// What the system answered.
    pub fn supervisor(recording: &Recording, shape: Shape) -> io::Result<Self> {
        let spool = Spool::create()?;
        let file = create(&supervisor_file(&recording.dir))?;
        Self::begin(recording, spool, file, recording.header(Role::Supervisor, shape))
    }

    /// Begins the trace of a worker.
    ///
    /// # Errors
    /// What the system answered.
    pub fn worker(order: &WorkerRecording, shape: Shape) -> io::Result<Self> {
        let flags = OFlags::RDWR | OFlags::APPEND | OFlags::CLOEXEC;
        let spool = Spool::new(rustix::fs::open(&order.spool, flags, Mode::empty())?);
        let file = File::options().append(true).open(&order.file)?;
        // Whoever has this moves the spool: until the worker is gone, it alone.
        rustix::fs::flock(&file, FlockOperation::LockExclusive)?;
        Self::begin(&order.recording, spool, file, order.recording.header(Role::Worker, shape))
    }

    fn begin(recording: &Recording, spool: Spool, file: File, header: Header) -> io::Result<Self> {
        spool.mark(&Mark::Header(header))?;
        let spool = Arc::new(spool);
        let scribe = {
            let spool = Arc::clone(&spool);
            thread::Builder::new().name("scribe".into()).spawn(move || transcribe(&spool, &file))?
        };
        Ok(Self { spool, origin_ns: recording.origin_ns, scribe: Mutex::new(Some(scribe)) })
    }

    /// A recorder for one thread.
    pub fn recorder(&self, thread: Thread) -> Recorder {
        let spool = Arc::clone(&self.spool);
        Recorder { thread, spool, lines: Vec::with_capacity(4096), origin_ns: self.origin_ns }
    }

    /// The spool for a worker that is about to be started.
    ///
    /// # Errors
    /// What the system answered.
    pub fn for_worker(recording: &Recording) -> io::Result<WorkerSpool> {
        let spool = Spool::create()?;
        let file = free_worker_file(&recording.dir)?;
        let descriptor = spool.memory.as_raw_fd();
        let path = format!("/proc/{}/fd/{descriptor}", std::process::id());
        let order = WorkerRecording {
            recording: recording.clone(),
            file: file.clone(),
            spool: path.into(),
        };
        Ok(WorkerSpool { spool: Arc::new(spool), file, order })
    }

    /// The process is about to end in good order: everything goes into the file.
    pub fn finish(&self) {
        let _ = self.spool.mark(&Mark::End(now_ns().saturating_sub(self.origin_ns)));
        self.spool.closing.store(true, Ordering::Release);
        if let Some(scribe) = self.scribe.lock().take() {
            let _ = scribe.join();
        }
    }
}

impl WorkerSpool {
    /// What the worker needs to know.
    pub const fn order(&self) -> &WorkerRecording {
        &self.order
    }

    /// Moves what a worker left behind that is gone. Nothing, if it is not.
    pub fn rescue(&self) {
        let Ok(file) = File::options().append(true).open(&self.file) else { return };
        if rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
            return;
        }
        let mut bytes = vec![0; MOVE_BYTES];
        let result =
            file.metadata().and_then(|known| self.spool.empty(&file, &mut known.len(), &mut bytes));
        if let Err(error) = result {
            give_up(&self.spool, &file, &error);
        }
    }
}

impl Spool {
    fn create() -> io::Result<Self> {
        let memory = rustix::fs::memfd_create("blkproof-trace", MemfdFlags::CLOEXEC)?;
        rustix::fs::fcntl_setfl(&memory, OFlags::APPEND)?;
        Ok(Self::new(memory))
    }

    const fn new(memory: OwnedFd) -> Self {
        Self { memory, broken: AtomicBool::new(false), closing: AtomicBool::new(false) }
    }

    fn mark(&self, mark: &Mark) -> io::Result<()> {
        self.append(&line(mark)?)
    }

    /// Whole lines, which nobody else's lines get between.
    fn append(&self, lines: &[u8]) -> io::Result<()> {
        match rustix::io::retry_on_intr(|| rustix::io::write(&self.memory, lines)) {
            Ok(written) if written == lines.len() => Ok(()),
            Ok(_) => Err(io::ErrorKind::WriteZero.into()),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Moves everything from `at` on into `file`, and gives its memory back.
    fn empty(&self, mut file: &File, at: &mut u64, bytes: &mut [u8]) -> io::Result<()> {
        loop {
            let count =
                rustix::io::retry_on_intr(|| rustix::io::pread(&self.memory, &mut *bytes, *at))?;
            if count == 0 {
                return Ok(());
            }
            file.write_all(&bytes[..count])?;
            let hole = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
            let _ = rustix::fs::fallocate(&self.memory, hole, *at, count as u64);
            *at += count as u64;
        }
    }
}

/// Moves lines until the process ends, or until they cannot be written.
fn transcribe(spool: &Spool, file: &File) {
    let (mut at, mut bytes) = (0, vec![0; MOVE_BYTES]);
    loop {
        let closing = spool.closing.load(Ordering::Acquire);
        if let Err(error) = spool.empty(file, &mut at, &mut bytes) {
            give_up(spool, file, &error);
            return;
        }
        if spool.broken.load(Ordering::Acquire) {
            give_up(spool, file, &io::Error::other("the spool could not be written"));
            return;
        }
        if closing {
            return;
        }
        thread::sleep(REST);
    }
}

/// Says that the trace is no longer complete, where that can be said.
fn give_up(spool: &Spool, mut file: &File, error: &io::Error) {
    spool.broken.store(true, Ordering::Release);
    process::report(&format!("blkproof: the trace is incomplete from here on: {error}"));
    // On a line of its own, whatever was cut before it.
    if let Ok(line) = line(&Mark::Gap(error.to_string())) {
        let _ = file.write_all(b"\n").and_then(|()| file.write_all(&line));
    }
}

/// Writes down what one thread does.
#[derive(Debug)]
pub struct Recorder {
    thread: Thread,
    spool: Arc<Spool>,
    /// What is not in the spool yet.
    lines: Vec<u8>,
    origin_ns: u64,
}

impl Sink for Recorder {
    fn record(&mut self, event: &Event) {
        let at = now_ns().saturating_sub(self.origin_ns);
        if serde_json::to_writer(&mut self.lines, &(at, self.thread, event)).is_err() {
            self.spool.broken.store(true, Ordering::Release);
        }
        self.lines.push(b'\n');
    }

    fn settle(&mut self) {
        if !self.spool.broken.load(Ordering::Relaxed) && self.spool.append(&self.lines).is_err() {
            self.spool.broken.store(true, Ordering::Release);
        }
        self.lines.clear();
    }
}

fn line(mark: &Mark) -> io::Result<Vec<u8>> {
    let mut line = serde_json::to_vec(mark)?;
    line.push(b'\n');
    Ok(line)
}

fn supervisor_file(dir: &Path) -> PathBuf {
    dir.join("supervisor.jsonl")
}

/// The first worker's file, or the next one's.
fn free_worker_file(dir: &Path) -> io::Result<PathBuf> {
    for number in 1_u32.. {
        let path = dir.join(format!("worker-{number}.jsonl"));
        match create(&path) {
            Ok(_) => return Ok(path),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
    }
    Err(io::ErrorKind::AlreadyExists.into())
}

fn create(path: &Path) -> io::Result<File> {
    File::options().append(true).create_new(true).open(path)
}

/// The monotonic clock: the same in every process of the machine.
fn now_ns() -> u64 {
    let now = rustix::time::clock_gettime(ClockId::Monotonic);
    now.tv_sec.cast_unsigned() * 1_000_000_000 + now.tv_nsec.cast_unsigned()
}

/// As many as the driver counts (`nr_cpu_ids`); 0 where that cannot be known.
fn possible_cpus() -> u16 {
    let text = fs::read_to_string("/sys/devices/system/cpu/possible").unwrap_or_default();
    let last = text.trim().rsplit([',', '-']).next().and_then(|last| last.parse::<u16>().ok());
    last.map_or(0, |last| last.saturating_add(1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use blkproof_engine::record::Record;
    use blkproof_engine::sys::{Call, Ret};
    use blkproof_engine::uapi::QueueId;

    const SHAPE: Shape = Shape { device: None, queues: 2, depth: 1 };

    fn recording(dir: &Path) -> Recording {
        Recording::new(dir, Features::USER_RECOVERY).expect("a directory without a trace")
    }

    fn lines(file: &Path) -> Vec<String> {
        let text = fs::read_to_string(file).expect("a trace");
        text.lines().map(str::to_owned).collect()
    }

    fn record(line: &str) -> Record {
        serde_json::from_str(line).expect("a record")
    }

    fn mark(line: &str) -> Mark {
        serde_json::from_str(line).expect("a mark")
    }

    #[test]
    fn every_thread_s_records_are_there_between_a_header_and_an_end() {
        let dir = tempfile::tempdir().expect("a directory");
        let recording = recording(dir.path());
        let tap = Tap::supervisor(&recording, SHAPE).expect("a trace");
        thread::scope(|scope| {
            for queue in 0..4 {
                let mut recorder = tap.recorder(Thread::Queue(QueueId(queue)));
                scope.spawn(move || {
                    for _ in 0..5_000 {
                        recorder.record(&Event::Begin(Call::Enter { submit: 1, wait: 1 }));
                        recorder.settle();
                        recorder.record(&Event::End(Ret::Submitted(1)));
                    }
                    recorder.settle();
                });
            }
        });
        tap.finish();
        let lines = lines(&supervisor_file(&recording.dir));
        assert_eq!(lines.len(), 4 * 10_000 + 2);
        let Mark::Header(header) = mark(&lines[0]) else { panic!("{}", lines[0]) };
        assert_eq!((header.format, header.queues, header.depth), (FORMAT, 2, 1));
        assert!(matches!(mark(&lines[lines.len() - 1]), Mark::End(_)));
        for queue in 0..4 {
            let own = Thread::Queue(QueueId(queue));
            let mut last = 0;
            let records = lines[1..lines.len() - 1].iter().map(|line| record(line));
            for (nth, Record(at, _, event)) in records.filter(|one| one.1 == own).enumerate() {
                assert!(at >= last, "time runs forward");
                assert_eq!(nth % 2 == 0, matches!(event, Event::Begin(_)), "and nothing is lost");
                last = at;
            }
        }
        let again = Recording::new(dir.path(), Features::NONE).expect_err("a trace is there");
        assert_eq!(again.kind(), io::ErrorKind::AlreadyExists);
    }

    #[test]
    fn what_a_killed_worker_left_in_memory_is_rescued_and_has_no_end() {
        let dir = tempfile::tempdir().expect("a directory");
        let recording = recording(dir.path());
        let worker = Tap::for_worker(&recording).expect("a spool");
        // Another descriptor of the same spool, as the worker has it, and no scribe that would empty it.
        let flags = OFlags::RDWR | OFlags::APPEND | OFlags::CLOEXEC;
        let memory = rustix::fs::open(&worker.order.spool, flags, Mode::empty()).expect("it opens");
        let spool = Arc::new(Spool::new(memory));
        let mut recorder =
            Recorder { thread: Thread::Main, spool, lines: Vec::new(), origin_ns: 0 };
        recorder.record(&Event::Begin(Call::OpenChar));
        recorder.settle();
        recorder.record(&Event::End(Ret::Done));
        drop(recorder);

        worker.rescue();
        worker.rescue();
        let lines = lines(&worker.file);
        assert_eq!(lines.len(), 1, "once, and only what was settled");
        assert_eq!(record(&lines[0]).2, Event::Begin(Call::OpenChar));
    }

    #[test]
    fn a_file_that_takes_no_more_stops_the_recording_and_no_thread() {
        let spool = Arc::new(Spool::create().expect("a spool"));
        let full = File::options().append(true).open("/dev/full").expect("it opens");
        let mut recorder = Recorder {
            thread: Thread::Main,
            spool: Arc::clone(&spool),
            lines: Vec::new(),
            origin_ns: 0,
        };
        recorder.record(&Event::Empty);
        recorder.settle();
        transcribe(&spool, &full);
        assert!(spool.broken.load(Ordering::Relaxed), "no record is lost silently");
        recorder.record(&Event::Empty);
        recorder.settle();
        assert!(recorder.lines.is_empty(), "nothing piles up");
    }

    #[test]
    fn what_follows_a_failure_is_marked_as_missing() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("trace");
        let file = create(&path).expect("a file");
        let spool = Spool::create().expect("a spool");
        give_up(&spool, &file, &io::Error::from_raw_os_error(libc::ENOSPC));
        let lines = lines(&path);
        assert!(matches!(mark(lines.last().expect("a line")), Mark::Gap(_)));
    }
}
