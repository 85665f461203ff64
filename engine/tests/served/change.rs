//! Handover and resize of a LIVE device, and deletions of what nobody uses.

use blkproof_engine::cause::{Cause, Problem, Step};
use blkproof_engine::control::Kind;
use blkproof_engine::link::{News, Order, ToWorker};
use blkproof_engine::supervisor::{ERRAND_LOOKS_MAX, Errand, Plan, Recovery, Stage};
use blkproof_engine::sys::Exit;
use blkproof_engine::uapi::{DeviceState, Errno, Features};

use crate::bench::{Bench, Fate, ID, IDENTITY, SECTORS, SUPERVISOR, System, recover, serve};

const LARGER: u64 = 2 * SECTORS;
const SMALLER: u64 = SECTORS / 2;

/// A LIVE device of a kernel that can do everything.
fn live(recovery: Recovery) -> Bench {
    granted(recovery, Features::QUIESCE.union(Features::UPDATE_SIZE))
}

/// A LIVE device for which a kernel granted this besides its recovery.
fn granted(recovery: Recovery, features: Features) -> Bench {
    let flags = recovery.features().union(features);
    let found = System { flags, ..System::quiesced(recovery) };
    let mut bench = Bench::new(recover(), found);
    bench.until(Stage::Live);
    bench.system.commands.clear();
    bench.system.told.clear();
    bench.system.news.clear();
    bench
}

/// Goes on until this was said.
fn until_news(bench: &mut Bench, news: News) {
    for _ in 0..10_000 {
        if bench.system.news.contains(&news) && bench.supervisor.stage() == Stage::Live {
            return;
        }
        assert_eq!(bench.step(), None, "before {news:?}: {:?}", bench.system.news);
    }
    panic!("never {news:?}: {:?}", bench.system.news);
}

fn refused(problem: Problem, step: Step) -> News {
    News::Refused(Cause::new(step, problem))
}

#[test]
fn a_handover_holds_requests_back_and_replaces_the_worker() {
    for recovery in [Recovery::Requeue, Recovery::Reissue, Recovery::FailIo] {
        let mut bench = live(recovery);
        bench.order(Order::Handover);
        until_news(&mut bench, News::Recovered);
        let system = &bench.system;
        assert_eq!(system.news, [News::HandingOver, News::Recovered], "nothing was lost");
        let kinds = system.kinds();
        let looks = [Kind::QuiesceDev, Kind::GetDevInfo];
        assert_eq!(kinds[..2], looks);
        assert_eq!(kinds[kinds.len() - 2..], [Kind::StartRecovery, Kind::EndRecovery]);
        assert_eq!(system.told, [ToWorker::Handover, ToWorker::Finish, ToWorker::Live]);
        assert_eq!((system.workers, system.held_back), (2, false));
    }
}

#[test]
fn a_handover_is_asked_for_as_often_as_one_likes() {
    let mut bench = live(Recovery::Requeue);
    for round in 2..10 {
        bench.order(Order::Handover);
        bench.system.news.clear();
        until_news(&mut bench, News::Recovered);
        assert_eq!(bench.system.workers, round);
    }
}

#[test]
fn what_a_kernel_cannot_do_is_refused_and_nothing_else_happens() {
    let (none, both) = (Recovery::None, Features::QUIESCE.union(Features::UPDATE_SIZE));
    let resize = Order::Resize { sectors: LARGER };
    for (recovery, features, order, news) in [
        (
            Recovery::Requeue,
            Features::UPDATE_SIZE,
            Order::Handover,
            refused(Problem::NoQuiesce, Step::Handover),
        ),
        // Held back, its requests would fail (H45).
        (
            Recovery::Requeue,
            both.union(Features::BATCH_IO),
            Order::Handover,
            refused(Problem::Batched, Step::Handover),
        ),
        (Recovery::Requeue, Features::QUIESCE, resize, refused(Problem::NoResize, Step::Resize)),
        (
            Recovery::Requeue,
            both,
            Order::Resize { sectors: 0 },
            refused(Problem::BadSize, Step::Resize),
        ),
        // 6.18 follows a null pointer if the disk is gone, and without recovery it is as soon as the worker is.
        (none, Features::UPDATE_SIZE, resize, refused(Problem::NoResize, Step::Resize)),
    ] {
        let mut bench = if recovery == none {
            // Nobody can recover it, so it was brought up.
            let mut system = System::new(none);
            system.flags = features;
            let mut bench = Bench::new(serve(none, false), system);
            bench.until(Stage::Live);
            bench
        } else {
            granted(recovery, features)
        };
        bench.system.commands.clear();
        bench.system.news.clear();
        bench.system.told.clear();
        bench.order(order);
        while bench.system.news.is_empty() {
            assert_eq!(bench.step(), None);
        }
        let system = &bench.system;
        assert_eq!(system.news, [news]);
        assert!(system.commands.is_empty() && system.told.is_empty() && system.fitted.is_empty());
        assert_eq!((bench.supervisor.stage(), system.sectors), (Stage::Live, SECTORS));
    }
}

#[test]
fn whatever_quiesce_dev_says_the_worker_is_replaced() {
    // EINTR while it waited: requests are held back all the same, and only another worker lets them go (H10).
    for errno in [Errno::EINTR, Errno::EBUSY, Errno::EIO] {
        let mut bench = live(Recovery::Requeue);
        bench.system.errnos = vec![(Kind::QuiesceDev, errno); 100].into();
        bench.order(Order::Handover);
        until_news(&mut bench, News::Recovered);
        assert_eq!(bench.system.workers, 2, "{errno:?}");
        assert!(bench.system.told.contains(&ToWorker::Finish), "{errno:?}");
    }
}

#[test]
fn a_quiesce_that_is_never_answered_is_given_up() {
    // The worker was told to end with its supervisor: the device then waits for anybody's `recover`.
    let mut bench = live(Recovery::Requeue);
    bench.system.silent = Some(Kind::QuiesceDev);
    bench.system.orders.push_back(Order::Handover);
    let cause = Cause::new(Step::QuiesceDev, Problem::Deadline);
    assert_eq!(bench.end(), Exit::Stuck { cause, step: Step::QuiesceDev });
    assert_eq!(bench.system.told, [ToWorker::Handover]);
}

#[test]
fn a_worker_that_dies_while_it_is_handed_over_is_replaced_all_the_same() {
    let mut bench = live(Recovery::Reissue);
    bench.order_slowly(Order::Handover, Kind::QuiesceDev, |system| system.worker_dies(0), 0);
    until_news(&mut bench, News::Recovered);
    assert_eq!(bench.system.workers, 2);
    assert!(!bench.system.told.contains(&ToWorker::Finish), "nobody is there to be told");
}

#[test]
fn a_worker_that_does_not_finish_is_killed_and_replaced() {
    let mut bench = live(Recovery::Reissue);
    bench.system.finishes = false;
    bench.order(Order::Handover);
    until_news(&mut bench, News::Recovered);
    assert_eq!(bench.system.workers, 2);
    assert!(bench.system.pauses.contains(&20_000), "{:?}", bench.system.pauses);
}

#[test]
fn a_renewed_program_that_fails_gives_way_to_the_one_before() {
    let failed = News::RecoveryFailed(Cause::errno(Step::OpenChar, Errno::EACCES));
    let mut bench = live(Recovery::Requeue);
    bench.system.fates = [Fate::Fails].into();
    bench.system.renewed.clear();
    bench.order(Order::Handover);
    until_news(&mut bench, News::Recovered);
    assert_eq!(bench.system.news, [News::HandingOver, failed, News::Recovered]);
    assert_eq!(bench.system.renewed, [true, false]);

    // And if that fails, too, the device waits.
    bench.system.fates = [Fate::Fails, Fate::Fails].into();
    bench.system.news.clear();
    bench.order(Order::Handover);
    bench.until(Stage::Unserved);
    assert_eq!(bench.system.news, [News::HandingOver, failed, failed, News::Unserved]);
    bench.order(Order::Recover);
    bench.until(Stage::Live);
}

#[test]
fn a_stop_ends_well_at_every_step_of_a_handover_and_of_a_resize() {
    for order in
        [Order::Handover, Order::Resize { sectors: LARGER }, Order::Resize { sectors: SMALLER }]
    {
        for steps in 0..60 {
            let mut bench = live(Recovery::Reissue);
            bench.system.orders.push_back(order);
            for _ in 0..steps {
                // Nothing is to come but time.
                if bench.system.orders.is_empty() && bench.supervisor.stage() == Stage::Live {
                    break;
                }
                assert_eq!(bench.step(), None, "{order:?}, step {steps}");
            }
            bench.system.orders.push_back(Order::Stop);
            assert_eq!(bench.end(), Exit::Finished, "{order:?} after {steps} steps");
            assert_eq!(bench.system.kinds().last(), Some(&Kind::DelDev));
            assert_eq!(bench.system.worker, None);
        }
    }
}

#[test]
fn a_device_grows_from_behind_and_shrinks_from_the_front() {
    let mut bench = live(Recovery::Requeue);
    bench.order(Order::Resize { sectors: LARGER });
    until_news(&mut bench, News::Resized(LARGER));
    assert_eq!(bench.system.fitted, [LARGER]);
    assert_eq!(bench.system.told, [ToWorker::Resize { sectors: LARGER }]);
    assert_eq!((bench.system.kinds(), bench.system.sectors), (vec![Kind::UpdateSize], LARGER));

    bench.order(Order::Resize { sectors: SMALLER });
    while bench.system.fitted.len() < 2 {
        assert_eq!(bench.step(), None);
    }
    assert_eq!(bench.system.news.last(), Some(&News::Resized(SMALLER)));
    assert_eq!(bench.system.fitted, [LARGER, SMALLER]);
    assert_eq!(bench.system.told[1..], [ToWorker::Resize { sectors: SMALLER }]);
    assert_eq!(bench.system.sectors, SMALLER);
    // In a shrinking the disk comes first.
    let mut bench = live(Recovery::Requeue);
    let first = |system: &mut System| assert!(system.told.is_empty() && system.fitted.is_empty());
    bench.order_slowly(Order::Resize { sectors: SMALLER }, Kind::UpdateSize, first, 0);
}

#[test]
fn the_room_behind_a_device_decides_whether_it_grows_and_not_whether_it_shrinks() {
    let full = Cause::errno(Step::FitStore, Errno::ENOSPC);
    let mut bench = live(Recovery::Requeue);
    bench.system.fit_errno = Some(Errno::ENOSPC);
    bench.order(Order::Resize { sectors: LARGER });
    until_news(&mut bench, News::Refused(full));
    assert!(bench.system.commands.is_empty() && bench.system.told.is_empty());
    assert_eq!(bench.system.sectors, SECTORS);

    let mut bench = live(Recovery::Requeue);
    bench.system.fit_errno = Some(Errno::EIO);
    bench.order(Order::Resize { sectors: SMALLER });
    while bench.system.fit_errno.is_some() {
        assert_eq!(bench.step(), None);
    }
    assert_eq!(bench.system.sectors, SMALLER);
    assert!(!bench.system.news.iter().any(|news| matches!(news, News::Refused(_))));
    // And another one finds nothing under way.
    bench.order(Order::Resize { sectors: LARGER });
    until_news(&mut bench, News::Resized(LARGER));
}

#[test]
fn a_worker_that_cannot_serve_a_size_keeps_the_device_at_its_own() {
    let cause = Cause::errno(Step::FitStore, Errno::ENOMEM);
    let mut bench = live(Recovery::Requeue);
    bench.system.on_size = Some(Err(cause));
    bench.order(Order::Resize { sectors: LARGER });
    until_news(&mut bench, News::Refused(cause));
    assert_eq!(bench.system.sectors, SECTORS);
    assert!(bench.system.commands.is_empty(), "the disk was not touched");
}

#[test]
fn a_size_is_told_once_at_a_time() {
    let mut bench = live(Recovery::Requeue);
    bench.system.on_size = None;
    bench.order(Order::Resize { sectors: LARGER });
    let late = News::Refused(Cause::new(Step::Resize, Problem::Deadline));
    until_news(&mut bench, late);
    bench.order(Order::Resize { sectors: 2 * LARGER });
    until_news(&mut bench, refused(Problem::Busy, Step::Resize));
    assert_eq!(bench.system.told.len(), 1, "it has not answered the first one");
    // A worker that is new has been told nothing.
    bench.loses_worker(0);
    bench.until(Stage::Unserved);
    bench.system.on_size = Some(Ok(()));
    bench.order(Order::Recover);
    bench.until(Stage::Live);
    bench.order(Order::Resize { sectors: LARGER });
    until_news(&mut bench, News::Resized(LARGER));
}

#[test]
fn a_worker_that_dies_in_a_resize_is_missed_and_the_device_has_one_size_or_the_other() {
    for sectors in [LARGER, SMALLER] {
        for (res, becomes) in [(0, sectors), (-22, SECTORS)] {
            let mut bench = live(Recovery::Requeue);
            let dies = move |system: &mut System| {
                system.worker_dies(0);
                system.sectors = becomes;
            };
            bench.order_slowly(Order::Resize { sectors }, Kind::UpdateSize, dies, res);
            bench.until(Stage::Unserved);
            bench.order(Order::Recover);
            bench.until(Stage::Live);
            // `Bench` has looked that the next one is told what the device has.
            assert_eq!((bench.system.workers, bench.system.sectors), (2, becomes));
        }
    }
}

#[test]
fn a_refused_size_leaves_everything_as_it_was() {
    for sectors in [LARGER, SMALLER] {
        let mut bench = live(Recovery::Requeue);
        bench.system.errnos = [(Kind::UpdateSize, Errno::EOPNOTSUPP)].into();
        bench.order(Order::Resize { sectors });
        until_news(&mut bench, News::Refused(Cause::errno(Step::Resize, Errno::EOPNOTSUPP)));
        assert_eq!(bench.system.sectors, SECTORS);
        bench.order(Order::Resize { sectors });
        until_news(&mut bench, News::Resized(sectors));
    }
}

fn ask(errand: Errand) -> Plan {
    Plan::Ask { errand, id: ID, identity: IDENTITY, supervisor: SUPERVISOR }
}

/// A LIVE device of another supervisor.
fn of_another(features: Features) -> System {
    System {
        state: DeviceState::Live,
        server: Some(7),
        worker: Some(7),
        flags: Recovery::Requeue.features().union(features),
        ..System::new(Recovery::Requeue)
    }
}

#[test]
fn the_supervisor_of_a_device_is_asked_once_and_the_device_looked_at_until_it_has_changed() {
    let features = Features::QUIESCE.union(Features::UPDATE_SIZE);
    let resize = Errand::Resize { sectors: LARGER };
    for (errand, order) in
        [(Errand::Handover, Order::Handover), (resize, Order::Resize { sectors: LARGER })]
    {
        let mut bench = Bench::new(ask(errand), of_another(features));
        bench.until(Stage::Pausing);
        bench.until(Stage::Pausing);
        (bench.system.server, bench.system.worker) = (Some(8), Some(8));
        bench.system.sectors = LARGER;
        assert_eq!(bench.end(), Exit::Finished);
        assert_eq!((bench.system.asked, bench.system.asked_for), (1, Some(order)));

        let mut bench = Bench::new(ask(errand), of_another(features));
        let step = if errand == Errand::Handover { Step::Handover } else { Step::Resize };
        let deadline = Exit::Failed(Cause::new(step, Problem::Deadline));
        assert_eq!(bench.end(), deadline);
        if errand != Errand::Handover {
            assert_eq!(bench.system.pauses.len(), usize::from(ERRAND_LOOKS_MAX));
        }
    }
}

#[test]
fn what_cannot_be_changed_is_not_asked_for() {
    let (quiesce, size) = (Features::QUIESCE, Features::UPDATE_SIZE);
    let resize = Errand::Resize { sectors: LARGER };
    let unserved = || System {
        flags: Recovery::Requeue.features().union(quiesce).union(size),
        ..System::quiesced(Recovery::Requeue)
    };
    for (errand, system, problem) in [
        (Errand::Handover, of_another(size), Problem::NoQuiesce),
        (Errand::Handover, of_another(quiesce.union(Features::BATCH_IO)), Problem::Batched),
        (resize, of_another(quiesce), Problem::NoResize),
        (Errand::Handover, unserved(), Problem::Unserved),
        (resize, unserved(), Problem::Unserved),
        (Errand::Handover, System { identity: 7, ..unserved() }, Problem::Foreign),
        (resize, System { state: DeviceState::Dead, ..unserved() }, Problem::Dead),
    ] {
        let mut bench = Bench::new(ask(errand), system);
        let step = if errand == Errand::Handover { Step::Handover } else { Step::Resize };
        assert_eq!(bench.end(), Exit::Failed(Cause::new(step, problem)), "{errand:?}");
        assert_eq!(bench.system.asked, 0);
    }
}

#[test]
fn a_device_that_waits_for_a_worker_is_not_tried_to_be_stopped() {
    // A partition scan that waits for the next server keeps what TRY_STOP_DEV takes (H56).
    for state in [DeviceState::Quiesced, DeviceState::FailIo] {
        let system = System { state, ..System::quiesced(Recovery::FailIo) };
        let plan = Plan::Delete { id: ID, worker: None, supervisor: None, if_unused: true };
        let mut bench = Bench::new(plan, system);
        let cause = Cause::new(Step::TryStopDev, Problem::Unserved);
        assert_eq!(bench.end(), Exit::Failed(cause));
        assert_eq!(bench.system.kinds(), [Kind::GetDevInfo]);
    }
}
