//! A process of actors: carries out what the conductor cues, each thread for itself, and tells what has completed.
//!
//! The program's own first thread only listens and looks at completion queues. The first *actor* is a thread like the others, but
//! the process ends with it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, IoSlice, Write};
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::os::unix;
use std::os::unix::fs::{FileExt, OpenOptionsExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command as Program, ExitCode};
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread;

use blkproof_engine::control::{Command, Kind, PAYLOAD_BYTES_MAX, Reply};
use blkproof_engine::uapi::{
    AutoBufReg, BatchElement, BatchFlags, BatchIo, ControlOp, CtrlCmd, DevId, DevInfo, IoCmd, IoOp,
    Params, QueueId, RequestFlags, RequestOp, ShmemBufReg, Tag, UserCopyPosition,
};
use blkproof_sim::script::model::{BUFFER_BYTES, added};
use blkproof_sim::script::{Addr, Header, Op, Place, RingKind, SHARED_SECTORS, told};
use io_uring::squeue;
use rustix::fs::{FallocateFlags, MemfdFlags, OFlags};
use rustix::io::ReadWriteFlags;
use rustix::mm::ProtFlags;
use rustix::process::{Gid, Uid};
use rustix::thread::{
    CapabilitySet, CpuSet, capabilities, sched_setaffinity, set_capabilities, set_thread_groups,
    set_thread_res_gid, set_thread_res_uid,
};

use super::cue::{Answer, Brought, Completion, Cue, Device};
use super::os::{
    Buffers, Descriptors, IoRing, Memory, Payload, Reader, Ring, Submitter, UNHEARD, discard, ends,
    fork_idle, manage_zones, report_zones, zone_records,
};
use super::{PAGE, SECTOR};

const CONTROL: &str = "/dev/ublk-control";
/// Queues and tags that have a buffer of their own; what is beyond shares the last.
const QUEUES: u16 = 4;
const TAGS: u16 = 16;
/// Buffers that a process can provide for batch fetches in all, and the tags in each.
const TAG_LISTS: u16 = 64;
const TAGS_PER_LIST: usize = 32;

/// Listens for cues until the conductor is gone.
pub(in crate::guest) fn run(admin: bool, shared: &Path) -> ExitCode {
    match listen(admin, shared) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("vm-harness actor: {error}");
            ExitCode::FAILURE
        }
    }
}

/// What an actor's process executes: it says that it is there, and sleeps until the conductor is gone.
pub(in crate::guest) fn idle() -> ExitCode {
    let told = || -> io::Result<()> {
        let mut stream = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
        let tid = rustix::thread::gettid().as_raw_nonzero().get();
        let mut line = serde_json::to_vec(&Answer::Entered { thread: 0, tid })?;
        line.push(b'\n');
        stream.write_all(&line)?;
        io::copy(&mut stream, &mut io::sink()).map(drop)
    };
    if told().is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn listen(admin: bool, shared: &Path) -> io::Result<()> {
    let memory = File::options().read(true).write(true).open(shared)?;
    let sectors = |access| Buffers::of_file(&memory, usize::from(SHARED_SECTORS), SECTOR, access);
    let stream = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
    let company = Arc::new(Company {
        answers: Mutex::new(stream.try_clone()?),
        device: Mutex::new(None),
        rings: Mutex::default(),
        maps: Mutex::default(),
        submitted: Mutex::default(),
        buffers: Buffers::new(usize::from(QUEUES * TAGS), BUFFER_BYTES as usize)?,
        tag_lists: Buffers::new(usize::from(TAG_LISTS), TAGS_PER_LIST * size_of::<u16>())?,
        tag_lists_used: AtomicU16::new(0),
        shared: sectors(ProtFlags::READ | ProtFlags::WRITE)?,
        unwritable: sectors(ProtFlags::READ)?,
        brought: Mutex::default(),
        bufferless: Mutex::default(),
        admin,
    });
    let mut actors: BTreeMap<u16, mpsc::Sender<Cued>> = BTreeMap::new();
    for line in BufReader::new(stream).lines() {
        match serde_json::from_str(&line?).map_err(io::Error::other)? {
            Cue::Enter { thread: number } => {
                let (cue, cues) = mpsc::channel();
                actors.insert(number, cue);
                let company = company.clone();
                thread::Builder::new()
                    .name(format!("actor-{number}"))
                    .spawn(move || Actor::new(number, company).play(&cues))?;
            }
            Cue::Act { thread, step, op, device, server } => {
                let op = op.parse().map_err(|error| io::Error::other(format!("{op}: {error}")))?;
                if let Some(actor) = actors.get(&thread) {
                    let _ = actor.send(Cued::Act(Act { step, op, device, server }));
                }
            }
            Cue::Fork { map, device } => {
                let file = lock(&company.device);
                let queue = file.as_ref().zip(map).map(|(file, queue)| (file, queue, device.depth));
                let unopened = map.is_some() && queue.is_none();
                let answer = match fork_idle(queue) {
                    Ok((pid, _)) if unopened => {
                        Answer::Forked { pid, result: -rustix::io::Errno::BADF.raw_os_error() }
                    }
                    Ok((pid, result)) => Answer::Forked { pid, result },
                    Err(error) => return Err(error),
                };
                drop(file);
                company.answer(&answer);
            }
            Cue::Exec { thread } => {
                if let Some(actor) = actors.get(&thread) {
                    let _ = actor.send(Cued::Exec);
                }
            }
            Cue::Peek => company.answer(&Answer::Completions(company.completions())),
        }
    }
    Ok(())
}

/// What a thread is cued to do.
enum Cued {
    Act(Act),
    /// Execute a program that does nothing.
    Exec,
}

struct Act {
    step: u16,
    op: Op,
    device: Device,
    server: u32,
}

/// What was submitted in a step.
enum Submitted {
    /// FETCH, COMMIT, NEED_GET_DATA; with the tag's buffer or without.
    Io { queue: u16, tag: u16, buffer: bool },
    /// A registered buffer is written to this file, or filled from it. A thread of the kernel may do that, and later: the file is kept.
    Fixed { file: File, filled: bool },
    /// PREP_IO_CMDS; with buffers or without.
    Prep { queue: u16, buffers: bool },
    /// FETCH_IO_CMDS.
    FetchTags { queue: u16 },
    /// Something that only has a result.
    Plain,
    Control {
        op: Op,
        payload: Payload,
        /// Where what it tells begins: behind a path.
        at: usize,
    },
}

/// What the threads of the process share.
struct Company {
    answers: Mutex<UnixStream>,
    /// The character device.
    device: Mutex<Option<File>>,
    rings: Mutex<BTreeMap<u16, Readers>>,
    /// Mapped descriptors, by actor and queue.
    maps: Mutex<Vec<(u16, u16, Descriptors)>>,
    submitted: Mutex<BTreeMap<u16, Submitted>>,
    buffers: Buffers,
    /// Where batch fetches write tags, and how many of them are in use.
    tag_lists: Buffers,
    tag_lists_used: AtomicU16,
    /// The memory that all processes share, by sector, and the same where it cannot be written.
    shared: Buffers,
    unwritable: Buffers,
    /// Which requests the rings of actors that asked for it have brought, in that order.
    brought: Mutex<BTreeMap<u16, Vec<(u64, u32)>>>,
    /// Queues that were prepared without buffers.
    bufferless: Mutex<BTreeSet<u16>>,
    /// It has CAP_SYS_ADMIN when it fetches.
    admin: bool,
}

/// Where the completions of an actor are read.
#[derive(Default)]
struct Readers {
    io: Option<Reader<squeue::Entry>>,
    spare: Option<Reader<squeue::Entry>>,
    control: Option<Reader<squeue::Entry128>>,
    narrow: Option<Reader<squeue::Entry>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The byte that all of them are.
fn uniform(bytes: &[u8]) -> Option<u8> {
    let first = *bytes.first()?;
    bytes.iter().all(|byte| *byte == first).then_some(first)
}

/// Where user copy finds a tag's data.
const fn user_copy_position(queue: u16, tag: u16, first_sector: u16) -> u64 {
    0x8000_0000
        + ((queue as u64) << 41)
        + ((tag as u64) << 25)
        + first_sector as u64 * SECTOR as u64
}

/// The same of its integrity metadata.
const fn metadata_position(queue: u16, tag: u16, first_byte: u16) -> u64 {
    UserCopyPosition::INTEGRITY | (user_copy_position(queue, tag, 0) + first_byte as u64)
}

fn buffer(queue: u16, tag: u16) -> usize {
    usize::from(queue.min(QUEUES - 1) * TAGS + tag.min(TAGS - 1))
}

impl Company {
    fn answer(&self, answer: &Answer) {
        if let Ok(mut line) = serde_json::to_vec(answer) {
            line.push(b'\n');
            // Without a conductor there is nobody to tell.
            let _ = lock(&self.answers).write_all(&line);
        }
    }

    /// Fills sectors of the memory that all processes share.
    fn fill_shared(&self, (first, count): (u16, u16), byte: u8) {
        for sector in first..first + count {
            self.shared.fill(usize::from(sector), byte);
        }
    }

    /// The byte that sectors of that memory are.
    fn shared_data(&self, first: u16, count: u16) -> Option<u8> {
        let mut sectors = first..first + count;
        let data = |sector| self.shared.uniform(usize::from(sector), SECTOR);
        let byte = data(sectors.next()?)?;
        sectors.all(|sector| data(sector) == Some(byte)).then_some(byte)
    }

    /// The character device's descriptor.
    fn device(&self) -> io::Result<RawFd> {
        lock(&self.device).as_ref().map(File::as_raw_fd).ok_or_else(closed)
    }

    /// The character device, for as long as a call on it takes.
    fn opened(&self) -> io::Result<File> {
        lock(&self.device).as_ref().ok_or_else(closed)?.try_clone()
    }

    fn completions(&self) -> Vec<Completion> {
        let mut completions = Vec::new();
        for (actor, readers) in lock(&self.rings).iter_mut() {
            let mut found = Vec::new();
            found.extend(readers.io.iter_mut().flat_map(Reader::completions));
            found.extend(readers.spare.iter_mut().flat_map(Reader::completions));
            found.extend(readers.control.iter_mut().flat_map(Reader::completions));
            found.extend(readers.narrow.iter_mut().flat_map(Reader::completions));
            found.retain(|(user_data, ..)| *user_data != UNHEARD);
            let first = completions.len();
            for (step, result, buffer) in found {
                let batch = buffer.map(|buffer| self.told(step as u16, result, buffer));
                match batch.filter(|batch| !batch.is_empty()) {
                    Some(batch) => completions.extend(batch),
                    None => completions.push(self.completion(step as u16, result)),
                }
            }
            if let Some(brought) = lock(&self.brought).get_mut(actor) {
                let requests = completions[first..].iter().filter_map(|one| one.request.as_ref());
                brought.extend(requests.map(|request| (request.first, request.count)));
            }
        }
        completions
    }

    /// One completion for each tag that a batch fetch names.
    fn told(&self, step: u16, result: i32, buffer: u16) -> Vec<Completion> {
        let bytes = self.tag_lists.bytes(usize::from(buffer), result.max(0) as usize);
        let tags = bytes.chunks_exact(2).map(|two| u16::from_le_bytes([two[0], two[1]]));
        let Some(&Submitted::FetchTags { queue }) = lock(&self.submitted).get(&step) else {
            return Vec::new();
        };
        tags.map(|tag| {
            let mut completion = Completion { step, result, ..Completion::default() };
            self.describe(&mut completion, (queue, tag), !lock(&self.bufferless).contains(&queue));
            if let Some(request) = &mut completion.request {
                request.tag = Some(tag);
            }
            completion
        })
        .collect()
    }

    /// Reads a tag's descriptor, and its buffer if the kernel copies into it.
    fn describe(&self, completion: &mut Completion, (queue, tag): (u16, u16), copied: bool) {
        let maps = lock(&self.maps);
        let map = maps.iter().find(|(_, of, _)| *of == queue);
        let Some(desc) = map.and_then(|(_, _, map)| map.read(tag)) else { return };
        let flags = desc.flags();
        completion.request = Some(Brought {
            op: desc.op().map_or(u8::MAX, RequestOp::encode),
            first: desc.start_sector,
            count: desc.nr_sectors,
            tag: None,
            flags: flags.0,
            addr: desc.addr,
            buffer: self.buffers.address(buffer(queue, tag)),
        });
        let copied = copied && !flags.contains(RequestFlags::SHMEM_ZC);
        if copied && desc.op() == Some(RequestOp::Write) {
            let len = desc.nr_sectors as usize * SECTOR;
            completion.data = self.buffers.uniform(buffer(queue, tag), len);
        }
    }

    fn completion(&self, step: u16, result: i32) -> Completion {
        let mut completion = Completion { step, result, ..Completion::default() };
        match lock(&self.submitted).get(&step) {
            // 0: delivered. 1: a write was announced, its data is not there yet.
            Some(Submitted::Io { queue, tag, buffer }) if result == 0 || result == 1 => {
                self.describe(&mut completion, (*queue, *tag), *buffer && result == 0);
            }
            Some(Submitted::Prep { queue, buffers: false }) if result == 0 => {
                lock(&self.bufferless).insert(*queue);
            }
            Some(Submitted::Fixed { file, filled: false }) if result > 0 => {
                let mut bytes = vec![0; result as usize];
                let read = file.read_at(&mut bytes, 0).unwrap_or(0);
                completion.data = uniform(&bytes[..read]);
            }
            Some(Submitted::Control { op, payload, at }) if result == 0 => {
                completion.told = told::read(op, &payload.read()[*at..]);
                if let (Op::Add { .. }, Reply::DevInfo(info)) =
                    (op.bare(), Kind::AddDev.decode(&payload.read()))
                {
                    completion.added = Some(info.dev_id.0);
                }
            }
            Some(_) | None => {}
        }
        completion
    }
}

/// A thread that does what a script says.
struct Actor {
    number: u16,
    company: Arc<Company>,
    ring: Option<Submitter<squeue::Entry>>,
    /// A ring that it put aside.
    spare: Option<Submitter<squeue::Entry>>,
    control: Option<(Submitter<squeue::Entry128>, File)>,
    /// A ring for control commands in entries that are too small.
    narrow: Option<(Submitter<squeue::Entry>, File)>,
    disk: Option<Disk>,
    /// What is different in the header of the command of this step.
    header: Header,
    /// What this step told.
    told: String,
}

struct Disk {
    file: File,
    /// A CPU of each hardware queue.
    cpus: Vec<CpuSet>,
}

/// How a step went: its result now, or later, or never.
type Outcome = io::Result<Option<(i32, Option<u8>)>>;

const LATER: Outcome = Ok(None);
const DONE: Outcome = Ok(Some((0, None)));

impl Actor {
    fn new(number: u16, company: Arc<Company>) -> Self {
        let (ring, spare, control, narrow, disk) = (None, None, None, None, None);
        let (header, told) = (Header::default(), String::new());
        Self { number, company, ring, spare, control, narrow, disk, header, told }
    }

    fn play(mut self, cues: &mpsc::Receiver<Cued>) {
        // The process listens on one CPU; an actor may run on any.
        let mut any = CpuSet::new();
        (0..CpuSet::MAX_CPU).for_each(|cpu| any.set(cpu));
        let _ = sched_setaffinity(None, &any);
        let tid = rustix::thread::gettid().as_raw_nonzero().get();
        self.company.answer(&Answer::Entered { thread: self.number, tid });
        for cued in cues {
            let act = match cued {
                Cued::Act(act) => act,
                Cued::Exec => {
                    let error = Program::new("/init").arg("idle").env_clear().exec();
                    eprintln!("vm-harness actor: exec: {error}");
                    continue;
                }
            };
            if act.op == Op::Exit {
                if self.number == 0 {
                    std::process::exit(0);
                }
                // What the thread opened stays with its process.
                std::mem::forget(self);
                return;
            }
            let (result, data) = match self.perform(&act) {
                Ok(None) => (None, None),
                Ok(Some((result, data))) => (Some(result), data),
                Err(error) => (Some(errno(&error)), None),
            };
            let (thread, step) = (self.number, act.step);
            let told = std::mem::take(&mut self.told);
            self.company.answer(&Answer::Returned { thread, step, result, data, told });
        }
    }

    fn perform(&mut self, act: &Act) -> Outcome {
        let Act { step, ref op, device, server } = *act;
        let id = DevId(device.id);
        match *op {
            Op::Ring(asked) => {
                self.leave_ring();
                // The kernel's own thread submits with what its creator may.
                let ring = if asked.kind == RingKind::Sqpoll {
                    self.without_privilege(|_| IoRing::asked(asked))
                } else {
                    IoRing::asked(asked)
                };
                let (submitter, reader) = ends(ring?);
                lock(&self.company.rings).entry(self.number).or_default().io = Some(reader);
                self.ring = Some(submitter);
                DONE
            }
            Op::CloseRing => {
                if self.leave_ring() {
                    DONE
                } else {
                    bad_file()
                }
            }
            Op::Spare => {
                std::mem::swap(&mut self.ring, &mut self.spare);
                let mut rings = lock(&self.company.rings);
                let readers = rings.entry(self.number).or_default();
                std::mem::swap(&mut readers.io, &mut readers.spare);
                DONE
            }
            Op::Hold => {
                self.ring.as_mut().ok_or_else(closed)?.hold();
                DONE
            }
            Op::Submit { count } => self.without_privilege(|actor| {
                let ring = actor.ring.as_mut().ok_or_else(closed)?;
                Ok(Some((ring.take(u32::from(count))? as i32, None)))
            }),
            Op::Junk => {
                lock(&self.company.submitted).insert(step, Submitted::Plain);
                self.ring.as_mut().ok_or_else(closed)?.junk(u64::from(step))?;
                LATER
            }
            Op::FixFile => {
                let device = self.company.device()?;
                self.ring.as_mut().ok_or_else(closed)?.fix(Some(device))?;
                DONE
            }
            Op::UnfixFile => {
                self.ring.as_mut().ok_or_else(closed)?.fix(None)?;
                DONE
            }
            Op::Open => {
                let path = format!("/dev/ublkc{}", device.id);
                let file = File::options().read(true).write(true).open(path)?;
                *lock(&self.company.device) = Some(file);
                DONE
            }
            Op::OpenKept => {
                let path = format!("/dev/ublkc{}", device.id);
                let file = File::options().read(true).write(true).open(path)?;
                rustix::io::fcntl_setfd(&file, rustix::io::FdFlags::empty())?;
                *lock(&self.company.device) = Some(file);
                DONE
            }
            Op::Close => {
                let file = lock(&self.company.device).take();
                file.map_or_else(bad_file, |_| DONE)
            }
            Op::Map { queue } => {
                let file = lock(&self.company.device);
                let file = file.as_ref().map_or_else(|| Err(closed()), Ok)?;
                let map = Descriptors::map(file, queue, device.depth)?;
                lock(&self.company.maps).push((self.number, queue, map));
                DONE
            }
            Op::Unmap { queue } => {
                let mut maps = lock(&self.company.maps);
                let own = maps.iter().position(|(by, of, _)| (*by, *of) == (self.number, queue));
                let map = own.map(|index| maps.remove(index));
                drop(maps);
                map.map_or_else(|| Err(io::ErrorKind::InvalidInput.into()), |_| DONE)
            }
            Op::Fetch { queue, tag, addr } => self
                .without_privilege(|actor| actor.io(step, IoOp::FetchReq, (queue, tag), -1, addr)),
            Op::Commit { queue, tag, result, data, addr } => {
                if let Some(byte) = data
                    && queue < device.queues
                    && tag < device.depth
                {
                    self.company.buffers.fill(buffer(queue, tag), byte);
                }
                self.io(step, IoOp::CommitAndFetchReq, (queue, tag), result, addr)
            }
            Op::GetData { queue, tag } => {
                self.io(step, IoOp::NeedGetData, (queue, tag), 0, Addr::Buffer)
            }
            Op::Pread { queue, tag, first, count } => {
                let mut bytes = vec![0; usize::from(count) * SECTOR];
                let position = user_copy_position(queue, tag, first);
                let copied = self.company.opened()?.read_at(&mut bytes, position)?;
                Ok(Some((copied as i32, uniform(&bytes[..copied]))))
            }
            Op::Pwrite { queue, tag, first, count, byte } => {
                let bytes = vec![byte; usize::from(count) * SECTOR];
                let position = user_copy_position(queue, tag, first);
                let copied = self.company.opened()?.write_at(&bytes, position)?;
                Ok(Some((copied as i32, None)))
            }
            Op::MetaRead { queue, tag, first, count } => {
                let mut bytes = vec![0; usize::from(count)];
                let position = metadata_position(queue, tag, first);
                let copied = self.company.opened()?.read_at(&mut bytes, position)?;
                Ok(Some((copied as i32, uniform(&bytes[..copied]))))
            }
            Op::MetaWrite { queue, tag, first, count, byte } => {
                let bytes = vec![byte; usize::from(count)];
                let position = metadata_position(queue, tag, first);
                Ok(Some((self.company.opened()?.write_at(&bytes, position)? as i32, None)))
            }
            Op::Zones { queue, tag, first, count, of, pointer } => {
                let records = zone_records((first, count), of, pointer);
                let position = user_copy_position(queue, tag, 0);
                Ok(Some((self.company.opened()?.write_at(&records, position)? as i32, None)))
            }
            Op::Provide { count } => {
                let ring = self.ring.as_mut().ok_or_else(closed)?;
                for _ in 0..count {
                    let number = self.company.tag_lists_used.fetch_add(1, Ordering::Relaxed);
                    if number >= TAG_LISTS {
                        return Err(io::ErrorKind::OutOfMemory.into());
                    }
                    ring.provide(&self.company.tag_lists, number)?;
                }
                DONE
            }
            Op::Prep { queue, ref tags, addr } => {
                let elements: Vec<_> = tags.iter().map(|tag| (*tag, 0)).collect();
                self.without_privilege(|actor| {
                    actor.batch(step, IoOp::PrepIoCmds, queue, &elements, addr)
                })
            }
            Op::Commits { queue, ref results, data, addr } => {
                if let Some(byte) = data {
                    for (tag, _) in results {
                        if queue < device.queues && *tag < device.depth {
                            self.company.buffers.fill(buffer(queue, *tag), byte);
                        }
                    }
                }
                self.batch(step, IoOp::CommitIoCmds, queue, results, addr)
            }
            Op::FetchTags { queue } => {
                let device = self.target()?;
                let ring = self.ring.as_mut().ok_or_else(closed)?;
                lock(&self.company.submitted).insert(step, Submitted::FetchTags { queue });
                let queue = QueueId(queue);
                let element_bytes = size_of::<u16>() as u8;
                let command = BatchIo { queue, element_bytes, ..BatchIo::default() };
                ring.fetch_tags(device, command, u64::from(step))?;
                LATER
            }
            Op::Table { slots } => {
                self.ring.as_ref().ok_or_else(closed)?.table(u32::from(slots))?;
                DONE
            }
            Op::Register { queue, tag, index } => {
                self.registration(step, IoOp::RegisterIoBuf, (queue, tag), index)
            }
            Op::Unregister { queue, tag, index } => {
                self.registration(step, IoOp::UnregisterIoBuf, (queue, tag), index)
            }
            Op::BufRead { index, first, count } => self.fixed(step, index, (first, count), None),
            Op::BufWrite { index, first, count, byte } => {
                self.fixed(step, index, (first, count), Some(byte))
            }
            Op::Reap => {
                self.ring.as_mut().map_or_else(|| Err(closed()), Submitter::enter)?;
                DONE
            }
            Op::Order if self.ring.is_none() => bad_file(),
            Op::Order => {
                let brought = lock(&self.company.brought).insert(self.number, Vec::new());
                let brought = brought.unwrap_or_default();
                self.told = told::order(&brought);
                Ok(Some((brought.len() as i32, None)))
            }
            Op::Exit => LATER,
            Op::With(ref header, ref op) => {
                self.header = (**header).clone();
                let outcome = self.perform(&Act { step, op: (**op).clone(), device, server });
                self.header = Header::default();
                outcome
            }
            Op::Add { .. } => {
                let info = added(op).unwrap_or_default();
                self.command(act, &Command::AddDev(info))
            }
            Op::Params(ref parameters) => {
                self.asks(act, ControlOp::SetParams, (id, 0), &parameters.encode())
            }
            Op::GetParams { bytes } => {
                let mut memory = [0; Params::SIZE];
                memory[..4].copy_from_slice(&bytes.to_ne_bytes());
                self.asks(act, ControlOp::GetParams, (id, 0), &memory)
            }
            Op::Features => self.asks(act, ControlOp::GetFeatures, (DevId::AUTO, 0), &[0; 8]),
            Op::Affinity { queue } => {
                self.asks(act, ControlOp::GetQueueAffinity, (id, u64::from(queue)), &[0; 8])
            }
            Op::Details => self.asks(act, ControlOp::GetDevInfo, (id, 0), &[0; DevInfo::SIZE]),
            Op::Details2 => self.asks(act, ControlOp::GetDevInfo2, (id, 0), &[0; DevInfo::SIZE]),
            Op::Start { .. } => self.command(act, &Command::StartDev(id, server)),
            Op::StartRecovery => self.plain(act, ControlOp::StartUserRecovery, id, 0),
            Op::EndRecovery { .. } => {
                self.plain(act, ControlOp::EndUserRecovery, id, u64::from(server))
            }
            Op::Resize { sectors } => self.plain(act, ControlOp::UpdateSize, id, sectors),
            Op::Quiesce { ms } => self.plain(act, ControlOp::QuiesceDev, id, u64::from(ms)),
            Op::RegBuf { first, count, read_only, unwritable } => {
                let company = &self.company;
                let memory = if unwritable { &company.unwritable } else { &company.shared };
                let addr = memory.address(0) + u64::from(first) * PAGE;
                let buffer = ShmemBufReg { addr, len: u64::from(count) * PAGE, read_only };
                self.asks(act, ControlOp::RegBuf, (id, 0), &buffer.encode())
            }
            Op::MemRead { first, count } => {
                let data = self.company.shared_data(first, count);
                Ok(Some((bytes_of((first, count)).1 as i32, data)))
            }
            Op::MemWrite { first, count, byte } => {
                self.company.fill_shared((first, count), byte);
                Ok(Some((bytes_of((first, count)).1 as i32, None)))
            }
            Op::UnregBuf { index } => self.plain(act, ControlOp::UnregBuf, id, u64::from(index)),
            Op::TryStop => self.plain(act, ControlOp::TryStopDev, id, 0),
            Op::DelAsync => self.plain(act, ControlOp::DelDevAsync, id, 0),
            Op::Stop => self.command(act, &Command::StopDev(id)),
            Op::Del => self.command(act, &Command::DelDev(id)),
            Op::Info => self.command(act, &Command::GetDevInfo(id)),
            Op::Cancel { step: of } => {
                if let Some((ring, _)) = &mut self.control {
                    ring.cancel(u64::from(of))?;
                }
                LATER
            }
            Op::User { user } => {
                become_user(user)?;
                DONE
            }
            Op::Own { user } => {
                unix::fs::chown(format!("/dev/ublkc{}", device.id), Some(user), Some(user))?;
                match unix::fs::chown(format!("/dev/ublkb{}", device.id), Some(user), Some(user)) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
                    Ok(()) | Err(_) => DONE,
                }
            }
            Op::Timeout { ms } => {
                let file = format!("/sys/block/ublkb{}/queue/io_timeout", device.id);
                let mut file = File::options().write(true).open(file)?;
                file.write_all(ms.to_string().as_bytes())?;
                DONE
            }
            Op::OpenDisk => {
                self.disk = Some(Disk::open(device)?);
                DONE
            }
            Op::CloseDisk => self.disk.take().map_or_else(bad_file, |_| DONE),
            Op::Sync { queue } => {
                let disk = self.disk.as_ref().ok_or_else(closed)?;
                disk.use_queue(queue)?;
                rustix::fs::fsync(&disk.file)?;
                DONE
            }
            Op::Read { first, count, queue, shared: None } => self.read((first, count), queue),
            Op::Read { first, count, queue, shared: Some(shared) } => {
                self.read_shared((first, count), queue, shared)
            }
            Op::Write { first, count, queue, shared: None, fua } => {
                self.write((first, count), queue, step as u8, fua)
            }
            Op::Load { first, count, queue } => self.buffered(queue, |disk| {
                let mut bytes = vec![0; usize::from(count) * SECTOR];
                disk.load(bytes_of((first, count)).0, &mut bytes)
            }),
            Op::Store { first, count, queue } => self.buffered(queue, |disk| {
                let (offset, len) = bytes_of((first, count));
                Ok((disk.file.write_at(&vec![step as u8; len as usize], offset)?, None))
            }),
            Op::Write { first, count, queue, shared: Some(shared), fua } => {
                self.write_shared((first, count), queue, (shared, step as u8), fua)
            }
            Op::Discard { first, count, queue } => {
                let disk = self.disk.as_ref().ok_or_else(closed)?;
                disk.use_queue(queue)?;
                discard(&disk.file, bytes_of((first, count)))?;
                DONE
            }
            Op::Zeroes { first, count, queue, keep } => {
                let disk = self.disk.as_ref().ok_or_else(closed)?;
                disk.use_queue(queue)?;
                let punch = FallocateFlags::PUNCH_HOLE.union(FallocateFlags::KEEP_SIZE);
                let mode = if keep { FallocateFlags::ZERO_RANGE } else { punch };
                let (offset, len) = bytes_of((first, count));
                rustix::fs::fallocate(&disk.file, mode, offset, len)?;
                DONE
            }
            Op::Zone { act, first, count, queue } => {
                let disk = self.disk.as_ref().ok_or_else(closed)?;
                disk.use_queue(queue)?;
                manage_zones(&disk.file, act, (first.into(), count.into()))?;
                DONE
            }
            Op::ReportZones { queue } => {
                let disk = self.disk.as_ref().ok_or_else(closed)?;
                disk.use_queue(queue)?;
                Ok(Some((report_zones(&disk.file, u32::MAX)? as i32, None)))
            }
        }
    }

    /// Gives up its ring. False: it has none.
    fn leave_ring(&mut self) -> bool {
        let reader = lock(&self.company.rings).get_mut(&self.number).and_then(|r| r.io.take());
        drop(reader);
        self.ring.take().is_some()
    }

    /// The character device, as the actor's ring reaches it.
    fn target(&self) -> io::Result<RawFd> {
        let fixed = self.ring.as_ref().is_some_and(|ring| ring.fixed);
        if fixed { Ok(-1) } else { self.company.device() }
    }

    /// Without CAP_SYS_ADMIN, unless the process has it: no kernel scans the disk for partitions then.
    fn without_privilege<T>(
        &mut self,
        act: impl FnOnce(&mut Self) -> io::Result<T>,
    ) -> io::Result<T> {
        if self.company.admin {
            return act(self);
        }
        let all = capabilities(None)?;
        let mut some = all;
        some.effective.remove(CapabilitySet::SYS_ADMIN);
        set_capabilities(None, some)?;
        let outcome = act(self);
        set_capabilities(None, all)?;
        outcome
    }

    fn io(
        &mut self,
        step: u16,
        op: IoOp,
        (queue, tag): (u16, u16),
        result: i32,
        addr: Addr,
    ) -> Outcome {
        let device = self.target()?;
        let code = self.header.code(op.ioctl());
        let ring = self.ring.as_mut().ok_or_else(closed)?;
        let buffer_addr = self.company.buffers.address(buffer(queue, tag));
        let (addr, auto) = match addr {
            Addr::Buffer => (buffer_addr, None),
            Addr::Bare => (0, None),
            Addr::Auto(register) => (0, Some(register)),
        };
        let submitted = Submitted::Io { queue, tag, buffer: addr != 0 };
        lock(&self.company.submitted).insert(step, submitted);
        let command = IoCmd { queue: QueueId(queue), tag: Tag(tag), result, addr };
        ring.io(device, code, command, auto, u64::from(step))?;
        LATER
    }

    /// PREP_IO_CMDS or COMMIT_IO_CMDS.
    fn batch(
        &mut self,
        step: u16,
        op: IoOp,
        queue: u16,
        elements: &[(u16, i32)],
        addr: Addr,
    ) -> Outcome {
        let device = self.target()?;
        let ring = self.ring.as_mut().ok_or_else(closed)?;
        let (first, fallback) = match addr {
            Addr::Auto(AutoBufReg { index, fallback }) => (index, fallback),
            Addr::Buffer | Addr::Bare => (0, false),
        };
        let buf_addr = addr == Addr::Buffer;
        let flags = BatchFlags { zone_lba: false, buf_addr, auto_buf_reg_fallback: fallback };
        let element_bytes = flags.element_bytes();
        let mut bytes = Vec::new();
        for (nth, (tag, result)) in elements.iter().enumerate() {
            let element = BatchElement {
                tag: Tag(*tag),
                buf_index: if matches!(addr, Addr::Auto(_)) { first + nth as u16 } else { 0 },
                result: *result,
                buf_addr: self.company.buffers.address(buffer(queue, *tag)),
                zone_lba: 0,
            };
            bytes.extend_from_slice(&element.encode(flags)[..usize::from(element_bytes)]);
        }
        let elements = elements.len() as u16;
        let command = BatchIo { queue: QueueId(queue), flags, elements, element_bytes };
        let submitted = match op {
            IoOp::PrepIoCmds => Submitted::Prep { queue, buffers: buf_addr },
            _ => Submitted::Plain,
        };
        lock(&self.company.submitted).insert(step, submitted);
        ring.batch(device, op, command, bytes, u64::from(step))?;
        LATER
    }

    /// REGISTER_IO_BUF or UNREGISTER_IO_BUF.
    fn registration(
        &mut self,
        step: u16,
        op: IoOp,
        (queue, tag): (u16, u16),
        index: u16,
    ) -> Outcome {
        let device = self.target()?;
        let code = self.header.code(op.ioctl());
        let ring = self.ring.as_mut().ok_or_else(closed)?;
        lock(&self.company.submitted).insert(step, Submitted::Plain);
        let addr = u64::from(index);
        let command = IoCmd { queue: QueueId(queue), tag: Tag(tag), result: 0, addr };
        ring.io(device, code, command, None, u64::from(step))?;
        LATER
    }

    /// Moves data between a registered buffer and a file of its own; with a byte, the file is full of it and the buffer the target.
    fn fixed(
        &mut self,
        step: u16,
        index: u16,
        (first, count): (u16, u16),
        byte: Option<u8>,
    ) -> Outcome {
        let ring = self.ring.as_mut().ok_or_else(closed)?;
        let file = File::from(rustix::fs::memfd_create("blkproof", MemfdFlags::CLOEXEC)?);
        let len = usize::from(count) * SECTOR;
        if let Some(byte) = byte {
            file.write_all_at(&vec![byte; len], 0)?;
        }
        let offset = u64::from(first) * SECTOR as u64;
        let filled = byte.is_some();
        let fd = file.as_raw_fd();
        lock(&self.company.submitted).insert(step, Submitted::Fixed { file, filled });
        ring.fixed(fd, filled, index, (offset, len as u32), step)?;
        LATER
    }

    /// A control command of which there is nothing to say but the device and a word.
    fn plain(&mut self, act: &Act, op: ControlOp, dev_id: DevId, data: u64) -> Outcome {
        self.asks(act, op, (dev_id, data), &[])
    }

    /// A control command with memory.
    fn asks(
        &mut self,
        act: &Act,
        op: ControlOp,
        (dev_id, data): (DevId, u64),
        memory: &[u8],
    ) -> Outcome {
        let mut bytes = [0; PAYLOAD_BYTES_MAX];
        bytes[..memory.len()].copy_from_slice(memory);
        let (queue_id, len) = (CtrlCmd::NO_QUEUE, memory.len() as u16);
        let header = CtrlCmd { dev_id, queue_id, len, addr: 0, data, dev_path_len: 0 };
        self.control(act, op, header, bytes)
    }

    fn command(&mut self, act: &Act, command: &Command) -> Outcome {
        let mut bytes = [0; PAYLOAD_BYTES_MAX];
        let header = command.encode(&mut bytes);
        self.control(act, command.kind().uapi(), header, bytes)
    }

    fn control(
        &mut self,
        act: &Act,
        op: ControlOp,
        usual: CtrlCmd,
        mut bytes: [u8; PAYLOAD_BYTES_MAX],
    ) -> Outcome {
        let special = self.header.clone();
        let path = special.path.map_or_else(Vec::new, |path| path.bytes(act.device.id));
        bytes.copy_within(..PAYLOAD_BYTES_MAX - path.len(), path.len());
        bytes[..path.len()].copy_from_slice(&path);
        let header = CtrlCmd {
            dev_id: special.id.map_or(usual.dev_id, DevId),
            queue_id: special.queue.unwrap_or(usual.queue_id),
            len: special.len.unwrap_or(usual.len + path.len() as u16),
            dev_path_len: special.path_len.unwrap_or(path.len() as u16),
            ..usual
        };
        let payload = match special.place {
            Some(Place::ReadOnly) => Payload::read_only(bytes)?,
            Some(Place::Null | Place::Bad) | None => Payload::new(bytes),
        };
        let memory = match special.place {
            Some(Place::Null) => Memory::None,
            None if header.len == 0 => Memory::None,
            Some(Place::Bad) => Memory::Unmapped,
            Some(Place::ReadOnly) | None => Memory::Payload(payload),
        };
        let code = special.code(op.ioctl());
        let user_data = u64::from(act.step);
        let submitted = Submitted::Control { op: act.op.clone(), payload, at: path.len() };
        lock(&self.company.submitted).insert(act.step, submitted);
        if special.small {
            if self.narrow.is_none() {
                let file = File::options().read(true).write(true).open(CONTROL)?;
                let (submitter, reader) = ends(IoRing::new()?);
                lock(&self.company.rings).entry(self.number).or_default().narrow = Some(reader);
                self.narrow = Some((submitter, file));
            }
            let (ring, file) = self.narrow.as_mut().ok_or_else(closed)?;
            ring.cut_short(file.as_raw_fd(), code, header, user_data)?;
            return LATER;
        }
        if self.control.is_none() {
            let file = File::options().read(true).write(true).open(CONTROL)?;
            let (submitter, reader) = ends(Ring::new()?);
            lock(&self.company.rings).entry(self.number).or_default().control = Some(reader);
            self.control = Some((submitter, file));
        }
        let (ring, file) = self.control.as_mut().ok_or_else(closed)?;
        ring.control(file.as_raw_fd(), code, header, memory, user_data)?;
        LATER
    }

    fn read(&mut self, range: (u16, u16), queue: u16) -> Outcome {
        let disk = self.disk.as_ref().ok_or_else(closed)?;
        disk.use_queue(queue)?;
        let (offset, len) = bytes_of(range);
        let mut memory = Aligned::new(len as usize, 0);
        let moved = disk.file.read_at(memory.bytes(), offset)?;
        Ok(Some((moved as i32, uniform(&memory.bytes()[..moved]))))
    }

    /// By way of the page cache.
    fn buffered(
        &mut self,
        queue: u16,
        act: impl FnOnce(&Disk) -> io::Result<(usize, Option<u8>)>,
    ) -> Outcome {
        let disk = self.disk.as_ref().ok_or_else(closed)?;
        disk.use_queue(queue)?;
        rustix::fs::fcntl_setfl(&disk.file, OFlags::empty())?;
        let moved = act(disk);
        rustix::fs::fcntl_setfl(&disk.file, OFlags::DIRECT)?;
        moved.map(|(moved, data)| Some((moved as i32, data)))
    }

    fn write(&mut self, range: (u16, u16), queue: u16, byte: u8, fua: bool) -> Outcome {
        let disk = self.disk.as_ref().ok_or_else(closed)?;
        disk.use_queue(queue)?;
        let (offset, len) = bytes_of(range);
        let mut memory = Aligned::new(len as usize, byte);
        let flags = if fua { ReadWriteFlags::DSYNC } else { ReadWriteFlags::empty() };
        let data = [IoSlice::new(memory.bytes())];
        let moved = rustix::io::pwritev2(&disk.file, &data, offset, flags)?;
        Ok(Some((moved as i32, None)))
    }

    /// Straight into the memory that all processes share.
    fn read_shared(&mut self, range: (u16, u16), queue: u16, shared: u16) -> Outcome {
        let disk = self.disk.as_ref().ok_or_else(closed)?;
        disk.use_queue(queue)?;
        let into = (usize::from(shared), usize::from(range.1));
        let moved = self.company.shared.read_into(into, &disk.file, bytes_of(range).0)?;
        Ok(Some((moved as i32, self.company.shared_data(shared, (moved / SECTOR) as u16))))
    }

    /// Straight from the memory that all processes share, which is filled before.
    fn write_shared(
        &mut self,
        range: (u16, u16),
        queue: u16,
        (shared, byte): (u16, u8),
        fua: bool,
    ) -> Outcome {
        let disk = self.disk.as_ref().ok_or_else(closed)?;
        disk.use_queue(queue)?;
        self.company.fill_shared((shared, range.1), byte);
        let from = (usize::from(shared), usize::from(range.1));
        let offset = bytes_of(range).0;
        let moved = self.company.shared.write_from(from, &disk.file, offset, fua)?;
        Ok(Some((moved as i32, None)))
    }
}

/// The calling thread becomes a user and a group without capabilities. Everybody may give control commands from then on.
fn become_user(user: u32) -> io::Result<()> {
    if rustix::process::geteuid().is_root() {
        fs::set_permissions(CONTROL, fs::Permissions::from_mode(0o666))?;
        set_thread_groups(&[])?;
    }
    let (gid, uid) = (Gid::from_raw(user), Uid::from_raw(user));
    set_thread_res_gid(gid, gid, gid)?;
    set_thread_res_uid(uid, uid, uid)?;
    Ok(())
}

/// Where a range of sectors begins, and how long it is, in bytes.
fn bytes_of((first, count): (u16, u16)) -> (u64, u64) {
    (u64::from(first) * SECTOR as u64, u64::from(count) * SECTOR as u64)
}

/// Memory as direct I/O wants it.
struct Aligned {
    memory: Vec<u8>,
    start: usize,
    len: usize,
}

impl Aligned {
    fn new(len: usize, byte: u8) -> Self {
        let memory = vec![byte; len + PAGE as usize];
        let start = memory.as_ptr().align_offset(PAGE as usize);
        Self { memory, start, len }
    }

    fn bytes(&mut self) -> &mut [u8] {
        &mut self.memory[self.start..][..self.len]
    }
}

impl Disk {
    /// What the thread asks next goes to this hardware queue.
    fn use_queue(&self, queue: u16) -> io::Result<()> {
        if let Some(cpus) = self.cpus.get(usize::from(queue)).or(self.cpus.last()) {
            sched_setaffinity(None, cpus)?;
        }
        Ok(())
    }

    /// Reads page by page: what is not there yet is one request for each. With an error as with the end, what was read before counts.
    fn load(&self, offset: u64, bytes: &mut [u8]) -> io::Result<(usize, Option<u8>)> {
        let mut read = 0;
        for page in bytes.chunks_exact_mut(PAGE as usize) {
            match self.file.read_at(page, offset + read as u64) {
                Err(error) if read == 0 => return Err(error),
                Err(_) => break,
                Ok(moved) => read += moved,
            }
            if read % PAGE as usize != 0 || read == 0 {
                break;
            }
        }
        Ok((read, uniform(&bytes[..read])))
    }

    fn open(device: Device) -> io::Result<Self> {
        let flags = OFlags::DIRECT.bits() as i32;
        let path = format!("/dev/ublkb{}", device.id);
        let file = File::options().read(true).write(true).custom_flags(flags).open(path)?;
        // No readahead.
        rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::Random)?;
        let mut cpus = Vec::new();
        for queue in 0..device.queues {
            let path = format!("/sys/block/ublkb{}/mq/{queue}/cpu_list", device.id);
            let Ok(list) = fs::read_to_string(path) else { break };
            // The first one for all: what they ask is in one software queue then.
            let mut set = CpuSet::new();
            if let Some(cpu) = list.split(',').find_map(|cpu| cpu.trim().parse().ok()) {
                set.set(cpu);
            }
            cpus.push(set);
        }
        Ok(Self { file, cpus })
    }
}

fn closed() -> io::Error {
    rustix::io::Errno::BADF.into()
}

fn bad_file() -> Outcome {
    Err(closed())
}

fn errno(error: &io::Error) -> i32 {
    match error.kind() {
        io::ErrorKind::InvalidInput => -rustix::io::Errno::INVAL.raw_os_error(),
        _ => -error.raw_os_error().unwrap_or(rustix::io::Errno::IO.raw_os_error()),
    }
}
