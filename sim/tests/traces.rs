//! What the real program did on real kernels is a run of the model; what it did not do is none.
//!
//! The traces were recorded by `vm-harness run --only record`, on the three kernels.

use std::fs::{self, File};
use std::io::Read as _;
use std::path::{Path, PathBuf};

use blkproof_engine::control::{Kind, Reply};
use blkproof_engine::data::Address;
use blkproof_engine::record::{Event, Record, Thread};
use blkproof_engine::sys::{Call, Cqe, Ret, Sqe, Token, WorkerExit};
use blkproof_engine::uapi::{DeviceState, Errno, KernelSeries, QueueId, Tag};
use blkproof_sim::run::Sabotage;
use blkproof_sim::trace::{Checked, Close, Process, Recording, Refused, check, check_planted};
use flate2::read::GzDecoder;

const TRACES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/traces");
/// Deleted after a short load; two queues of one tag.
const IDLE: &str = "mem-q2-d1-idle";
/// Deleted under load; four queues of 64 tags.
const LOADED: &str = "null-q4-d64-loaded";
/// Killed under load.
const KILLED: &str = "mem-q4-d64-killed";
/// Killed under load, brought back with another worker, deleted under load.
const RESTARTED: &str = "mem-q2-d64-restarted";
/// The same with a file, in zero copy where the kernel has it. The recorded 6.12 took 31 s to notice (H55).
const RESTARTED_ZERO_COPY: &str = "loop-zero-copy-q2-d16-restarted";
/// Handed over to another worker under load, deleted under load; of kernels that have QUIESCE_DEV.
const HANDED_OVER: &str = "mem-q2-d16-handed-over";

fn recording(kernel: KernelSeries, name: &str) -> Recording {
    let dir = Path::new(TRACES).join(kernel.to_string()).join(name);
    let mut texts = Vec::new();
    let mut files: Vec<PathBuf> =
        fs::read_dir(&dir).expect("traces").flatten().map(|entry| entry.path()).collect();
    files.sort();
    for file in files {
        let mut text = String::new();
        let opened = File::open(&file).expect("it opens");
        GzDecoder::new(opened).read_to_string(&mut text).expect("text");
        texts.push((file.file_name().expect("a name").to_string_lossy().into_owned(), text));
    }
    Recording::parse(texts.iter().map(|(name, text)| (name.as_str(), text.as_str())))
        .expect("a recording")
}

fn checked(recording: &Recording) -> Result<Checked, Box<Refused>> {
    let kernel = recording.kernel().expect("a kernel that the model knows");
    check(recording, kernel)
}

/// One of the three, changed: refused, and why.
fn tampered(name: &str, change: impl Fn(&mut Recording)) -> Vec<String> {
    KernelSeries::ALL
        .into_iter()
        .map(|kernel| {
            let mut recording = recording(kernel, name);
            change(&mut recording);
            match checked(&recording) {
                Ok(_) => panic!("a changed trace of {kernel} was accepted"),
                Err(refused) => refused.why,
            }
        })
        .collect()
}

fn worker(recording: &mut Recording) -> &mut Process {
    &mut recording.processes[1]
}

fn supervisor(recording: &mut Recording) -> &mut Vec<(usize, Record)> {
    recording.processes[0].threads.get_mut(&Thread::Main).expect("its main thread")
}

/// The records of a queue's thread.
fn queue(recording: &mut Recording, queue: u16) -> &mut Vec<(usize, Record)> {
    let thread = Thread::Queue(QueueId(queue));
    worker(recording).threads.get_mut(&thread).expect("the queue's thread")
}

/// The queue that served most.
fn busy_queue(recording: &mut Recording) -> &mut Vec<(usize, Record)> {
    let count = |records: &[(usize, Record)]| {
        records.iter().filter(|(_, record)| is_delivery(&record.2)).count()
    };
    let threads = worker(recording).threads.values_mut();
    threads.max_by_key(|records| count(records)).expect("a thread")
}

fn find(records: &[(usize, Record)], want: impl Fn(&Event) -> bool) -> usize {
    records.iter().position(|(_, record)| want(&record.2)).expect("such a record")
}

fn is_delivery(event: &Event) -> bool {
    matches!(event, Event::Cqe(Cqe { token: Token::Io(_), res: 0 }))
}

fn is_abort(event: &Event) -> bool {
    matches!(event, Event::Cqe(Cqe { token: Token::Io(_), res }) if *res == -19)
}

/// The completion of the `nth` control command, from 0.
fn is_command(event: &Event, nth: u32) -> bool {
    matches!(event, Event::Cqe(Cqe { token: Token::Control(sequence), .. }) if *sequence == nth + 1)
}

#[test]
fn what_real_kernels_did_is_a_run_of_the_model() {
    for kernel in KernelSeries::ALL {
        for name in [IDLE, LOADED, KILLED, RESTARTED, RESTARTED_ZERO_COPY] {
            let recording = recording(kernel, name);
            assert_eq!(recording.kernel(), Some(kernel));
            let checked = match checked(&recording) {
                Ok(checked) => checked,
                Err(refused) => panic!("{kernel}, {name}: {refused}"),
            };
            assert_eq!(checked.records, recording.records());
            assert!(checked.requests > 40, "{kernel}, {name}: {} requests", checked.requests);
            let killed = [KILLED, RESTARTED, RESTARTED_ZERO_COPY].contains(&name);
            assert_eq!(checked.cut.len(), usize::from(killed), "{kernel}, {name}");
        }
    }
}

#[test]
fn a_handover_is_a_run_of_the_model_and_brings_nothing_after_an_abort() {
    for kernel in [KernelSeries::V6_18, KernelSeries::V7_3] {
        let mut recording = recording(kernel, HANDED_OVER);
        let checked = match checked(&recording) {
            Ok(checked) => checked,
            Err(refused) => panic!("{kernel}: {refused}"),
        };
        assert!(checked.requests > 40, "{kernel}: {} requests", checked.requests);
        assert_eq!(checked.cut.len(), 0, "{kernel}");
        let mut queues = worker(&mut recording).threads.values_mut();
        let told =
            |records: &&mut Vec<_>| records.iter().any(|(_, one): &(_, Record)| is_abort(&one.2));
        let records = queues.find(told).expect("a queue that was told");
        let at = find(records, is_abort);
        let mut late = records[at].clone();
        let Event::Cqe(cqe) = &mut late.1.2 else { unreachable!() };
        cqe.res = 0;
        records.insert(at + 1, late);
        check(&recording, kernel).expect_err("what QUIESCE_DEV held back cannot be delivered");
    }
}

#[test]
fn a_changed_result_of_a_command_is_refused() {
    // GET_FEATURES, ADD_DEV, SET_PARAMS, START_DEV, STOP_DEV, DEL_DEV.
    for nth in 1..6 {
        for res in [-22, -16] {
            tampered(IDLE, |recording| {
                let records = supervisor(recording);
                let at = find(records, |event| is_command(event, nth));
                let Event::Cqe(cqe) = &mut records[at].1.2 else { unreachable!() };
                cqe.res = res;
            });
        }
    }
}

/// Where a command of a kind completes well.
fn success_of(records: &[(usize, Record)], kind: Kind) -> usize {
    let asked: Vec<Token> = records
        .iter()
        .filter_map(|(_, record)| match &record.2 {
            Event::Control { sequence, command } if command.kind() == kind => {
                Some(Token::Control(*sequence))
            }
            _ => None,
        })
        .collect();
    let well = |cqe: &Cqe| cqe.res == 0 && asked.contains(&cqe.token);
    find(records, |event| matches!(event, Event::Cqe(cqe) if well(cqe)))
}

#[test]
fn a_recovery_that_was_refused_brings_no_worker_back() {
    for (kind, res) in
        [(Kind::StartRecovery, -22), (Kind::EndRecovery, -22), (Kind::EndRecovery, -16)]
    {
        tampered(RESTARTED, |recording| {
            let records = supervisor(recording);
            let at = success_of(records, kind);
            let Event::Cqe(cqe) = &mut records[at].1.2 else { unreachable!() };
            cqe.res = res;
        });
    }
}

#[test]
fn what_a_dead_worker_held_is_given_to_the_next_one() {
    tampered(RESTARTED, |recording| {
        // Its successor is told of something else.
        let threads = recording.processes[2].threads.values_mut();
        let records = threads.max_by_key(|records| records.len()).expect("a thread");
        let at = find(records, is_delivery);
        let Event::Descriptor { desc, .. } = &mut records[at + 1].1.2 else { unreachable!() };
        assert_ne!(desc.nr_sectors, 0);
        *desc = blkproof_engine::uapi::IoDesc::default();
    });
}

#[test]
fn a_device_without_a_worker_names_none_but_on_6_12() {
    tampered(RESTARTED, |recording| {
        let worker = recording.processes[1].header.pid;
        let records = supervisor(recording);
        let quiesced = |event: &Event| matches!(event, Event::Reply(Reply::DevInfo(info)) if info.state == DeviceState::Quiesced);
        let at = find(records, quiesced);
        let Event::Reply(Reply::DevInfo(info)) = &mut records[at].1.2 else { unreachable!() };
        let named = info.ublksrv_pid == worker.cast_signed();
        info.ublksrv_pid = if named { -1 } else { worker.cast_signed() };
    });
}

#[test]
fn a_dropped_delivery_is_refused() {
    let why = tampered(LOADED, |recording| {
        let records = busy_queue(recording);
        let at = find(records, is_delivery);
        assert!(matches!(records[at + 1].1.2, Event::Descriptor { .. }));
        records.drain(at..at + 2);
    });
    // The commit that follows is of a tag that the kernel never gave away; or what ended the wait is not there.
    let reasons = ["O1: COMMIT", "does not post", "the thread cannot return"];
    for why in why {
        assert!(reasons.iter().any(|reason| why.contains(reason)), "{why}");
    }
}

#[test]
fn a_dropped_abort_is_refused() {
    tampered(LOADED, |recording| {
        let records = queue(recording, 2);
        let at = find(records, is_abort);
        records.remove(at);
    });
}

#[test]
fn an_abort_of_a_tag_that_holds_a_request_is_refused() {
    tampered(LOADED, |recording| {
        let records = busy_queue(recording);
        let at = find(records, is_delivery);
        let Event::Cqe(cqe) = &mut records[at].1.2 else { unreachable!() };
        cqe.res = -19;
    });
}

#[test]
fn a_request_that_is_delivered_twice_is_refused() {
    for name in [IDLE, LOADED] {
        let why = tampered(name, |recording| {
            let records = busy_queue(recording);
            let at = find(records, is_delivery);
            let again: Vec<_> = records[at..at + 2].to_vec();
            records.splice(at + 2..at + 2, again);
        });
        for why in why {
            assert!(why.contains("the kernel never posts"), "{why}");
        }
    }
}

#[test]
fn a_commit_on_another_tag_is_refused() {
    let why = tampered(LOADED, |recording| {
        let records = busy_queue(recording);
        let at = find(records, |event| matches!(event, Event::Sqe(Sqe::Commit { .. })));
        let Event::Sqe(Sqe::Commit { tag, .. }) = &mut records[at].1.2 else { unreachable!() };
        *tag = Tag(63 - tag.0);
    });
    // 6.12 answers EBUSY, and nobody saw that.
    for why in why {
        assert!(why.starts_with("O1: COMMIT") || why.contains("does not post"), "{why}");
    }
}

#[test]
fn a_commit_of_less_than_was_asked_for_is_refused() {
    let short = |event: &Event| matches!(event, Event::Sqe(Sqe::Commit { result: 1024.., .. }));
    let why = tampered(IDLE, |recording| {
        let records = queue(recording, 0);
        let at = find(records, short);
        let Event::Sqe(Sqe::Commit { result, .. }) = &mut records[at].1.2 else { unreachable!() };
        *result -= 512;
    });
    for why in why {
        assert!(why.starts_with("O3"), "{why}");
    }
}

#[test]
fn a_descriptor_of_another_size_is_refused() {
    let data =
        |event: &Event| matches!(event, Event::Descriptor { desc, .. } if desc.nr_sectors > 0);
    let why = tampered(IDLE, |recording| {
        let records = queue(recording, 1);
        let at = find(records, data);
        let Event::Descriptor { desc, .. } = &mut records[at].1.2 else { unreachable!() };
        desc.nr_sectors += 1;
    });
    for why in why {
        assert!(why.starts_with("O3"), "{why}");
    }
}

#[test]
fn an_enter_that_takes_more_than_it_was_offered_is_refused() {
    tampered(IDLE, |recording| {
        let records = queue(recording, 1);
        let at = find(records, |event| matches!(event, Event::End(Ret::Submitted(_))));
        let Event::End(Ret::Submitted(taken)) = &mut records[at].1.2 else { unreachable!() };
        *taken += 1;
    });
}

#[test]
fn an_open_of_a_device_that_nobody_holds_is_not_refused_with_ebusy() {
    let why = tampered(IDLE, |recording| {
        let main = worker(recording).threads.get_mut(&Thread::Main).expect("its main thread");
        let at = find(main, |event| matches!(event, Event::Begin(Call::OpenChar)));
        main[at + 1].1.2 = Event::End(Ret::Failed(Errno::EBUSY));
    });
    for why in why {
        assert!(why.contains("answers something else"), "{why}");
    }
}

#[test]
fn a_start_before_the_last_fetch_is_refused() {
    tampered(IDLE, |recording| {
        // As if this queue had been late by an hour.
        for (_, record) in queue(recording, 1) {
            record.0 += 3_600_000_000_000;
        }
        // The others end with it.
        let main = worker(recording).threads.get_mut(&Thread::Main).expect("its main thread");
        main.last_mut().expect("an exit").1.0 += 3_600_000_000_000;
    });
}

#[test]
fn a_worker_that_ended_well_was_not_killed() {
    tampered(IDLE, |recording| {
        let records = supervisor(recording);
        let exited = Event::End(Ret::Exited(WorkerExit::Code(0)));
        let at = find(records, |event| *event == exited);
        records[at].1.2 = Event::End(Ret::Exited(WorkerExit::Signal(9)));
    });
}

#[test]
fn what_was_cut_off_is_missed() {
    // A process that its supervisor saw end in good order left a whole trace.
    tampered(IDLE, |recording| {
        for records in worker(recording).threads.values_mut() {
            records.truncate(records.len() / 2);
        }
        worker(recording).close = Close::Cut;
    });
}

#[test]
fn a_gap_is_refused() {
    let why = tampered(IDLE, |recording| {
        worker(recording).close = Close::Gap("no space left".into());
    });
    for why in why {
        assert_eq!(why, "the trace is incomplete: no space left");
    }
}

#[test]
fn a_trace_of_one_kernel_is_none_of_another() {
    // 6.12 does all of its task work in one `enter`.
    let recording = recording(KernelSeries::V7_3, LOADED);
    check(&recording, KernelSeries::V6_12).expect_err("it leaves some of it to the next");
}

#[test]
fn a_model_that_is_wrong_refuses_what_real_kernels_did() {
    let planted = [
        Sabotage::RefuseStart,
        Sabotage::RefuseDelete,
        Sabotage::FailRequest,
        Sabotage::EagerAbort,
    ];
    for planted in planted {
        for kernel in [KernelSeries::V6_18, KernelSeries::V7_3] {
            let recording = recording(kernel, LOADED);
            let wrong = check_planted(&recording, kernel, Some(planted));
            assert!(wrong.is_err(), "{planted:?} on {kernel}");
        }
    }
}

#[test]
fn a_second_fetch_has_its_errno() {
    for kernel in [KernelSeries::V6_18, KernelSeries::V7_3] {
        let mut recording = recording(kernel, KILLED);
        let records = queue(&mut recording, 0);
        let at = find(records, |event| matches!(event, Event::End(Ret::Submitted(1..)))) + 1;
        let (line, Record(when, thread, _)) = records[at - 1].clone();
        let fetched =
            |(_, record): &(usize, Record)| matches!(record.2, Event::Sqe(Sqe::Fetch { .. }));
        assert!(records[..at].iter().any(fetched), "it is armed");
        let more = [
            Event::Sqe(Sqe::Fetch { tag: Tag(0), address: Address::Buffer }),
            Event::Begin(Call::Enter { submit: 1, wait: 1 }),
            Event::End(Ret::Submitted(1)),
            Event::Cqe(Cqe { token: Token::Io(Tag(0)), res: -22 }),
        ];
        let more = more.map(|event| (line, Record(when, thread, event)));
        records.splice(at..at, more);
        if let Err(refused) = checked(&recording) {
            panic!("{kernel}: {refused}");
        }
        check_planted(&recording, kernel, Some(Sabotage::WrongErrno)).expect_err("EBUSY");
    }
}

/// A long trace, made from a short one: each queue serves so many more turns of 64 requests.
fn lengthened(recording: &mut Recording, turns: usize) {
    for number in 0..4 {
        let records = queue(recording, number);
        // Where it waits for its first request.
        let waits =
            |event: &Event| matches!(event, Event::Begin(Call::Enter { submit: 0, wait: 1 }));
        let at = find(records, waits);
        let (line, Record(when, thread, _)) = records[at].clone();
        let mut events = Vec::new();
        for turn in 0..turns {
            let submit = if turn == 0 { 0 } else { 64 };
            events.push(Event::Begin(Call::Enter { submit, wait: 1 }));
            events.push(Event::End(Ret::Submitted(submit)));
            for tag in (0..64).map(Tag) {
                let desc = blkproof_engine::uapi::IoDesc {
                    nr_sectors: 8,
                    start_sector: u64::from(tag.0) * 8,
                    ..Default::default()
                };
                events.push(Event::Cqe(Cqe { token: Token::Io(tag), res: 0 }));
                events.push(Event::Descriptor { tag, desc });
                events.push(Event::Sqe(Sqe::Commit {
                    tag,
                    result: 4096,
                    address: Address::Buffer,
                }));
            }
            events.push(Event::Empty);
        }
        records[at].1.2 = Event::Begin(Call::Enter { submit: 64, wait: 1 });
        records[at + 1].1.2 = Event::End(Ret::Submitted(64));
        let more = events.into_iter().map(|event| (line, Record(when, thread, event)));
        records.splice(at..at, more);
    }
    // Nobody asks for anything before the device is LIVE.
    let started = supervisor(recording);
    let at = find(started, |event| is_command(event, 3));
    let live = started[at].1.0;
    for number in 0..4 {
        let records = queue(recording, number);
        let waits =
            |event: &Event| matches!(event, Event::Begin(Call::Enter { submit: 0, wait: 1 }));
        let at = find(records, waits);
        for (_, record) in &mut records[at + 1..] {
            record.0 = record.0.max(live);
        }
    }
}

#[test]
fn a_long_trace_costs_no_more_for_each_record() {
    let mut recording = recording(KernelSeries::V7_3, LOADED);
    lengthened(&mut recording, 130);
    assert!(recording.records() > 100_000);
    let begun = std::time::Instant::now();
    let checked = match checked(&recording) {
        Ok(checked) => checked,
        Err(refused) => panic!("{refused}"),
    };
    println!("{} records in {:?}", checked.records, begun.elapsed());
    assert!(checked.requests > 4 * 64 * 130);
    // A minute for a hundred thousand is what it may take on a slow machine, unoptimised.
    assert!(begun.elapsed().as_secs() < 60);
}
