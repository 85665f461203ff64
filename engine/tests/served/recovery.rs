//! A worker that is gone is replaced, and a failure at any step leaves the device as it was.

use blkproof_engine::cause::{Cause, Problem, Step};
use blkproof_engine::control::Kind;
use blkproof_engine::data::DataMode;
use blkproof_engine::link::{Link, News, Order, ToWorker, Verdict};
use blkproof_engine::pending::{Awaits, Otherwise, Owner, Pending};
use blkproof_engine::supervisor::{
    Errand, LOOK_PAUSE_MAX_MS, LOOKS_MAX, Plan, RESTARTS_MAX, Recovery, Stage, WATCH_MS,
};
use blkproof_engine::sys::{Cqe, Exit, Token, WorkerExit};
use blkproof_engine::uapi::{DeviceState, Errno, Features};

use crate::bench::{Bench, Fate, ID, IDENTITY, SUPERVISOR, System, recover, serve_in};

const LOST: News =
    News::WorkerLost(Cause::new(Step::Worker, Problem::WorkerExited(WorkerExit::Signal(9))));

#[test]
fn restart_replaces_a_worker_at_once() {
    for slow in [0, 1, 5] {
        let mut bench = Bench::live(Recovery::Reissue, true);
        let before = bench.system.commands.len();
        bench.loses_worker(slow);
        bench.until(Stage::Live);
        let system = &bench.system;
        let after = &system.kinds()[before..];
        let looks = after.iter().filter(|kind| **kind == Kind::GetDevInfo).count();
        assert_eq!(looks as u32, slow.max(1));
        assert_eq!(after[looks..], [Kind::StartRecovery, Kind::EndRecovery]);
        assert_eq!(system.told, [ToWorker::Live, ToWorker::Live]);
        assert_eq!(system.verdicts, [Verdict::Up(ID)], "said once");
        assert_eq!(system.news, [LOST, News::Recovered]);
        assert_eq!(bench.supervisor.worker_pid(), Some(102));
    }
}

#[test]
fn without_restart_the_device_waits_for_an_operator() {
    let mut bench = Bench::live(Recovery::Requeue, false);
    bench.loses_worker(0);
    bench.until(Stage::Unserved);
    let mut pending = Vec::new();
    bench.supervisor.pending(&mut pending);
    let operator = Pending {
        awaits: Awaits::RecoveryRequest,
        owner: Owner::Operator,
        otherwise: Otherwise::WaitOn,
    };
    assert_eq!(pending, [operator]);
    assert_eq!(bench.system.state, DeviceState::Quiesced);
    bench.order(Order::Recover);
    bench.until(Stage::Live);
    assert_eq!(bench.system.news, [LOST, News::Unserved, News::Recovered]);
}

#[test]
fn who_asks_before_the_supervisor_has_noticed_is_not_forgotten() {
    let mut bench = Bench::live(Recovery::FailIo, false);
    bench.order(Order::Recover);
    assert_eq!(bench.supervisor.stage(), Stage::Live);
    bench.loses_worker(0);
    bench.until(Stage::Live);
    assert_eq!(bench.system.news, [LOST, News::Recovered]);
    // It counted for that one.
    bench.loses_worker(0);
    bench.until(Stage::Unserved);
}

/// One who asks is heard at every step of finding out what became of the device, and once is enough.
#[test]
fn who_asks_while_the_supervisor_looks_is_not_forgotten() {
    for steps in 0.. {
        let mut bench = Bench::live(Recovery::Reissue, false);
        bench.loses_worker(0);
        for _ in 0..steps {
            assert_eq!(bench.step(), None);
        }
        let unserved = bench.supervisor.stage() == Stage::Unserved;
        // Before whatever else has arrived by now is looked at.
        bench.system.orders.push_back(Order::Recover);
        bench.system.links.retain(|link| *link != Link::Operator);
        bench.system.cq.push_front(Cqe { token: Token::Link(Link::Operator), res: 1 });
        bench.until(Stage::Live);
        assert_eq!(bench.system.news.last(), Some(&News::Recovered), "asked after {steps} steps");
        bench.loses_worker(0);
        bench.until(Stage::Unserved);
        if unserved {
            assert!(steps > 0, "it was asked while it looked");
            return;
        }
    }
}

/// Nor is one who asks while a recovery that failed is being cleared away; one who asked before that had his try.
#[test]
fn who_asks_after_a_recovery_failed_gets_another() {
    let mut bench = Bench::live(Recovery::Reissue, false);
    bench.loses_worker(0);
    bench.until(Stage::Unserved);
    bench.system.fates = [Fate::Hangs].into();
    bench.order(Order::Recover);
    bench.until(Stage::Priming);
    bench.order(Order::Recover);
    bench.until(Stage::Unserved);

    bench.system.fates = [Fate::Hangs].into();
    bench.order(Order::Recover);
    bench.until(Stage::AwaitingExit);
    bench.order(Order::Recover);
    bench.until(Stage::Live);
}

#[test]
fn without_recovery_nobody_can_ask() {
    let mut bench = Bench::live(Recovery::None, false);
    bench.order(Order::Recover);
    bench.system.worker_dies(0);
    let killed = Problem::WorkerExited(WorkerExit::Signal(9));
    assert_eq!(bench.end(), Exit::Failed(Cause::new(Step::Worker, killed)));
}

#[test]
fn a_kernel_that_is_busy_is_asked_again_with_growing_pauses_and_not_for_ever() {
    let mut bench = Bench::live(Recovery::Reissue, false);
    bench.loses_worker(0);
    bench.until(Stage::Unserved);
    let busy = (Kind::StartRecovery, Errno::EBUSY);
    bench.system.errnos = [busy; 10].into();
    bench.order(Order::Recover);
    bench.until(Stage::Live);
    assert_eq!(bench.system.pauses[..8], [10, 20, 40, 80, 160, 320, 640, LOOK_PAUSE_MAX_MS]);

    bench.loses_worker(0);
    bench.until(Stage::Unserved);
    bench.system.errnos = vec![busy; 2 * usize::from(LOOKS_MAX)].into();
    bench.system.pauses.clear();
    bench.order(Order::Recover);
    bench.until(Stage::Unserved);
    assert_eq!(bench.system.pauses.len(), usize::from(LOOKS_MAX));
    let total: u32 = bench.system.pauses.iter().sum();
    assert!((60_000..90_000).contains(&total), "6.12 takes a minute at most: {total} ms");
    let failed = News::RecoveryFailed(Cause::new(Step::StartRecovery, Problem::Deadline));
    assert_eq!(bench.system.news[bench.system.news.len() - 2..], [failed, News::Unserved]);
}

/// What goes wrong, how that is planted, and the cause that is noted.
type Failure = (&'static str, fn(&mut System), Cause);

/// Everything that can go wrong with a recovery.
fn failures() -> Vec<Failure> {
    let exited = Problem::WorkerExited(WorkerExit::Signal(9));
    vec![
        (
            "the worker cannot be started",
            |system| system.fates = [Fate::NotStarted].into(),
            Cause::errno(Step::SpawnWorker, Errno::EAGAIN),
        ),
        (
            "the worker dies before it is primed",
            |system| system.fates = [Fate::Dies].into(),
            Cause::new(Step::Prime, exited),
        ),
        (
            "the worker fails",
            |system| system.fates = [Fate::Fails].into(),
            Cause::errno(Step::OpenChar, Errno::EACCES),
        ),
        (
            "the worker hangs",
            |system| system.fates = [Fate::Hangs].into(),
            Cause::new(Step::Prime, Problem::Deadline),
        ),
        (
            "the kernel refuses the end",
            |system| {
                system.fates = [Fate::Serves].into();
                system.errnos = [(Kind::EndRecovery, Errno::EINVAL)].into();
            },
            Cause::errno(Step::EndRecovery, Errno::EINVAL),
        ),
        (
            "the end never comes",
            |system| system.silent = Some(Kind::EndRecovery),
            Cause::new(Step::EndRecovery, Problem::Deadline),
        ),
        (
            "the kernel does not tell",
            |system| system.errnos = [(Kind::GetDevInfo, Errno::EIO)].into(),
            Cause::errno(Step::GetDevInfo, Errno::EIO),
        ),
    ]
}

#[test]
fn a_recovery_that_fails_leaves_the_device_waiting_and_can_be_repeated() {
    for (what, plant, cause) in failures() {
        let mut bench = Bench::live(Recovery::Reissue, false);
        bench.loses_worker(0);
        bench.until(Stage::Unserved);
        plant(&mut bench.system);
        bench.order(Order::Recover);
        // A worker that did not die is told to quit, and killed if it does not.
        bench.until(Stage::Unserved);
        let news = &bench.system.news;
        assert_eq!(news[2..], [News::RecoveryFailed(cause), News::Unserved], "{what}");
        assert_eq!(bench.system.worker, None, "{what}");
        assert_eq!(bench.system.state, DeviceState::Quiesced, "{what}");
        bench.order(Order::Recover);
        bench.until(Stage::Live);
        let sent = bench.system.kinds();
        assert!(!sent.contains(&Kind::StopDev) && !sent.contains(&Kind::DelDev), "{what}");
    }
}

#[test]
fn restarts_in_quick_succession_are_bounded() {
    let mut bench = Bench::live(Recovery::Reissue, true);
    bench.system.fates = [Fate::Dies; 100].into();
    bench.loses_worker(0);
    bench.until(Stage::Unserved);
    assert_eq!(bench.system.workers, 1 + u32::from(RESTARTS_MAX));
    // Asked for, they count anew.
    bench.order(Order::Recover);
    bench.until(Stage::Unserved);
    assert_eq!(bench.system.workers, 2 + 2 * u32::from(RESTARTS_MAX));
    bench.system.fates.clear();
    bench.order(Order::Recover);
    bench.until(Stage::Live);
}

#[test]
fn a_minute_of_service_makes_up_for_restarts() {
    let mut bench = Bench::live(Recovery::Reissue, true);
    for _ in 0..3 * RESTARTS_MAX {
        bench.loses_worker(0);
        bench.until(Stage::Live);
        // The timer is the only thing that can happen.
        let before = bench.system.pauses.len();
        while bench.system.pauses.len() == before {
            assert_eq!(bench.step(), None);
        }
        assert_eq!(bench.system.pauses.last(), Some(&60_000));
    }
    for _ in 0..RESTARTS_MAX {
        bench.loses_worker(0);
        bench.until(Stage::Live);
    }
    bench.loses_worker(0);
    bench.until(Stage::Unserved);
}

#[test]
fn a_stop_ends_well_at_every_step_of_a_recovery() {
    for steps in 0..40 {
        let mut bench = Bench::live(Recovery::Reissue, true);
        bench.system.worker_dies(2);
        for _ in 0..steps {
            if bench.system.news.contains(&News::Recovered) {
                break;
            }
            assert_eq!(bench.step(), None);
        }
        bench.system.orders.push_back(Order::Stop);
        let exit = bench.end();
        assert_eq!(exit, Exit::Finished, "after {steps} steps: {:?}", bench.system.news);
        assert_eq!(bench.system.kinds().last(), Some(&Kind::DelDev), "after {steps} steps");
        assert_eq!(bench.system.worker, None, "after {steps} steps");
    }
}

#[test]
fn a_recovery_whose_end_was_interrupted_may_have_succeeded() {
    let mut bench = Bench::live(Recovery::Reissue, true);
    bench.system.errnos =
        [(Kind::EndRecovery, Errno::EINTR), (Kind::EndRecovery, Errno::EBUSY)].into();
    bench.system.worker_dies(0);
    bench.until(Stage::Priming);
    // It took effect, and said EINTR all the same.
    (bench.system.state, bench.system.server) = (DeviceState::Live, Some(102));
    bench.until(Stage::Live);
    assert_eq!(bench.system.news, [LOST, News::Recovered]);
}

#[test]
fn what_another_hand_stopped_is_not_recovered() {
    let mut bench = Bench::live(Recovery::Reissue, true);
    bench.system.state = DeviceState::Dead;
    bench.system.worker_dies(0);
    assert_eq!(bench.end(), Exit::Finished);
    assert_eq!(bench.system.workers, 1);
}

fn ask() -> Plan {
    Plan::Ask { errand: Errand::Recover, id: ID, identity: IDENTITY, supervisor: SUPERVISOR }
}

#[test]
fn a_device_without_supervisor_is_brought_back_and_looked_after() {
    let mut bench = Bench::new(recover(), System::quiesced(Recovery::Requeue));
    bench.until(Stage::Live);
    let expected = [Kind::GetDevInfo, Kind::StartRecovery, Kind::GetParams, Kind::EndRecovery];
    assert_eq!(bench.system.kinds(), expected);
    assert_eq!(bench.system.verdicts, [Verdict::Up(ID)]);
    bench.loses_worker(0);
    bench.until(Stage::Unserved);
    bench.order(Order::Stop);
    assert_eq!(bench.end(), Exit::Finished);
    assert_eq!(bench.system.kinds().last(), Some(&Kind::DelDev));
}

#[test]
fn the_next_worker_serves_in_the_mode_that_the_device_has() {
    for data in [DataMode::Copy, DataMode::UserCopy, DataMode::ZeroCopy] {
        let mut bench = Bench::new(recover(), System::quiesced(Recovery::Reissue));
        bench.system.flags = bench.system.flags.union(data.features());
        bench.until(Stage::Live);
        assert_eq!(bench.system.workers, 1);
    }
}

#[test]
fn a_device_in_an_unknown_mode_is_left_as_it_was() {
    let mut bench = Bench::new(recover(), System::quiesced(Recovery::Reissue));
    bench.system.flags = bench.system.flags.union(Features::SUPPORT_ZERO_COPY);
    let cause = Cause::new(Step::SpawnWorker, Problem::Unsupported);
    assert_eq!(bench.end(), Exit::Failed(cause));
    assert_eq!((bench.system.state, bench.system.workers), (DeviceState::Quiesced, 0));
}

#[test]
fn a_device_is_asked_for_with_its_mode_and_its_recovery() {
    for data in [DataMode::Copy, DataMode::UserCopy, DataMode::ZeroCopy] {
        let Plan::Serve { info, .. } = serve_in(data, Recovery::Reissue, false) else {
            unreachable!("a plan to serve")
        };
        assert_eq!(info.flags, data.features().union(Recovery::Reissue.features()));
    }
}

#[test]
fn linux_6_12_says_einval_when_it_was_told_before() {
    let mut bench = Bench::new(recover(), System::quiesced(Recovery::Requeue));
    bench.system.errnos = [(Kind::StartRecovery, Errno::EINVAL)].into();
    bench.until(Stage::Live);
}

#[test]
fn a_device_that_cannot_be_brought_back_is_left_as_it_was() {
    for (what, plant, cause) in failures() {
        let mut bench = Bench::new(recover(), System::quiesced(Recovery::Reissue));
        plant(&mut bench.system);
        assert_eq!(bench.end(), Exit::Failed(cause), "{what}");
        assert_eq!(bench.system.verdicts, [Verdict::Down { cause, stuck: None }], "{what}");
        assert_eq!(bench.system.worker, None, "{what}");
        let sent = bench.system.kinds();
        assert!(!sent.contains(&Kind::StopDev) && !sent.contains(&Kind::DelDev), "{what}");
    }
}

#[test]
fn what_is_not_to_be_recovered_is_told_apart() {
    let quiesced = || System::quiesced(Recovery::Reissue);
    let served = System {
        state: DeviceState::Live,
        server: Some(7),
        worker: Some(7),
        ..System::new(Recovery::Reissue)
    };
    for (mut system, problem) in [
        (System::quiesced(Recovery::None), Problem::NoRecovery),
        (System { identity: 7, ..quiesced() }, Problem::Foreign),
        (System::new(Recovery::Reissue), Problem::Dead),
        (served, Problem::Served),
    ] {
        for plan in [recover(), ask()] {
            let mut bench = Bench::new(plan, system);
            assert_eq!(bench.end(), Exit::Failed(Cause::new(Step::Recover, problem)));
            assert_eq!((bench.system.asked, bench.system.workers), (0, 0));
            if problem == Problem::Served {
                assert_eq!(bench.system.pauses, [WATCH_MS]);
            }
            system = bench.system;
            system.cq.clear();
            system.sq.clear();
            system.timers.clear();
            system.pauses.clear();
            system.links.clear();
        }
    }
}

#[test]
fn a_worker_that_is_about_to_exit_is_waited_for() {
    for plan in [recover(), ask()] {
        let asks = matches!(plan, Plan::Ask { .. });
        let live = System {
            state: DeviceState::Live,
            server: Some(7),
            worker: Some(7),
            ..System::new(Recovery::Reissue)
        };
        let mut bench = Bench::new(plan, live);
        bench.until(Stage::Watching);
        bench.system.worker_dies(3);
        if asks {
            bench.until(Stage::AskingSupervisor);
            (bench.system.state, bench.system.server) = (DeviceState::Live, Some(8));
            bench.system.worker = Some(8);
            assert_eq!(bench.end(), Exit::Finished);
            assert_eq!(bench.system.asked, 1);
        } else {
            bench.until(Stage::Live);
        }
    }
}

#[test]
fn the_supervisor_of_a_device_is_asked_once_and_the_device_looked_at_until_it_is_live() {
    let mut bench = Bench::new(ask(), System::quiesced(Recovery::Reissue));
    for _ in 0..3 {
        bench.until(Stage::Pausing);
        bench.until(Stage::Commanding(Kind::GetDevInfo));
    }
    (bench.system.state, bench.system.server) = (DeviceState::Live, Some(8));
    bench.system.worker = Some(8);
    assert_eq!(bench.end(), Exit::Finished);
    assert_eq!((bench.system.asked, bench.system.asked_for), (1, Some(Order::Recover)));
    assert!(bench.system.kinds().iter().all(|kind| *kind == Kind::GetDevInfo));

    let mut bench = Bench::new(ask(), System::quiesced(Recovery::Reissue));
    assert_eq!(bench.end(), Exit::Failed(Cause::new(Step::Recover, Problem::Deadline)));

    let mut bench = Bench::new(ask(), System::quiesced(Recovery::Reissue));
    bench.until(Stage::Pausing);
    bench.system.resident = false;
    assert_eq!(bench.end(), Exit::Failed(Cause::new(Step::Recover, Problem::LinkClosed)));

    let gone = System { resident: false, ..System::quiesced(Recovery::Reissue) };
    let exit = Bench::new(ask(), gone).end();
    assert_eq!(exit, Exit::Failed(Cause::errno(Step::AttachSupervisor, Errno::ESRCH)));
}
