//! How pools end, and what becomes of what they were doing.

mod common;

use std::collections::HashSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{bounded, unbounded};
use parpool::{AsyncResult, Error, Pool, TryError, is_cancelled};

use common::{
    ALL, Counter, Crowd, Drops, Kind, LONG, ON_PURPOSE, THREADS, all_pools, assert_no_threads,
    at_the_end, eventually, fewer, gate, hold, live_threads, message, scaled, square,
    until_cancelled, watchdog,
};

// ---- close ---------------------------------------------------------------------------------------

#[test]
fn close_finishes_what_was_accepted() {
    watchdog(20, || {
        for kind in THREADS {
            let pool = kind.pool();
            let (mut opener, held) = hold(&pool, kind.workers());
            let calls: Vec<_> = (0..20).map(|i| pool.apply_async(move || i, ())).collect();
            let map = pool.map_async(|x| x, 0..20);
            pool.close();
            pool.close();
            assert_matches!(pool.apply_async(|| (), ()).get(), Err(Error::NotRunning));
            opener.open();
            pool.join().unwrap();
            assert!(held.iter().all(AsyncResult::ready));
            assert!(calls.into_iter().zip(0..).all(|(call, i)| call.get().unwrap() == i));
            assert_eq!(map.get().unwrap().len(), 20, "{kind:?}");
        }
    });
}

#[test]
fn a_closed_pool_takes_what_its_own_tasks_submit() {
    watchdog(20, || {
        for kind in ALL {
            let pool = Arc::new(kind.pool());
            let (gate, mut opener) = gate();
            let inner = Arc::clone(&pool);
            let (send, left) = bounded(1);
            let task = move || {
                gate.pass();
                let call = inner.apply_async(|| 1, ()).get().unwrap();
                let map = inner.map(|x| x, 0..4).unwrap().len();
                let later = inner.map_async(|x| x, 0..4).get().unwrap().len();
                let within =
                    inner.apply(|| inner.apply_async(|| 1, ()).get().unwrap(), ()).unwrap();
                // And what outlives the task.
                send.send(inner.apply_async(|| 7, ())).unwrap();
                (call, map, later, within)
            };
            if kind == Kind::Serial {
                // Its caller is its worker while a task runs.
                opener.open();
                let inner = Arc::clone(&pool);
                let done = pool.apply(move || (inner.close(), task()).1, ());
                assert_eq!(done.unwrap(), (1, 4, 4, 1));
            } else {
                let call = pool.apply_async(task, ());
                opener.wait_for(1);
                pool.close();
                opener.open();
                assert_eq!(call.get().unwrap(), (1, 4, 4, 1), "{kind:?}");
            }
            assert_eq!(left.recv().unwrap().get().unwrap(), 7);
            pool.join().unwrap();
        }
    });
}

#[test]
fn a_chain_of_tasks_goes_on_after_close() {
    fn step(pool: &Arc<Pool>, left: usize, ran: &Counter) {
        ran.add();
        if left > 0 {
            let (inner, count) = (Arc::clone(pool), ran.clone());
            drop(pool.apply_async(move || step(&inner, left - 1, &count), ()));
        }
    }

    watchdog(20, || {
        for kind in THREADS {
            let (pool, ran) = (Arc::new(kind.pool()), Counter::default());
            let (inner, count) = (Arc::clone(&pool), ran.clone());
            drop(pool.apply_async(move || step(&inner, 500, &count), ()));
            pool.close();
            pool.join().unwrap();
            assert_eq!(ran.get(), 501, "{kind:?}");
        }
    });
}

#[test]
fn close_while_a_blocking_map_runs_lets_it_finish() {
    watchdog(20, || {
        for kind in THREADS {
            let pool = kind.pool();
            let (gate, mut opener) = gate();
            thread::scope(|scope| {
                let map = scope
                    .spawn(|| pool.chunksize(1).map(|x| (gate.pass(), x).1, 0..20).unwrap().len());
                opener.wait_for(1);
                pool.close();
                opener.open();
                assert_eq!(map.join().unwrap(), 20, "{kind:?}");
            });
            pool.join().unwrap();
        }
    });
}

#[test]
fn submitting_races_with_close_and_every_accepted_task_resolves() {
    watchdog(40, || {
        for (kind, terminates) in
            THREADS.into_iter().flat_map(|kind| [false, true].map(|terminates| (kind, terminates)))
        {
            for round in 0..scaled(20) {
                let pool = kind.pool();
                let ran = Counter::default();
                let accepted = thread::scope(|scope| {
                    let submitters: Vec<_> = (0..3)
                        .map(|_| {
                            let (pool, ran) = (&pool, ran.clone());
                            scope.spawn(move || {
                                let submit = |_| {
                                    let ran = ran.clone();
                                    pool.apply_async(move || ran.add(), ())
                                };
                                (0..scaled(100)).map(submit).collect::<Vec<_>>()
                            })
                        })
                        .collect();
                    (0..round).for_each(|_| thread::yield_now());
                    match terminates {
                        false => pool.close(),
                        true => pool.terminate(),
                    }
                    pool.join().unwrap();
                    let mut accepted = 0;
                    for call in submitters.into_iter().flat_map(|thread| thread.join().unwrap()) {
                        match call.get() {
                            Ok(()) => accepted += 1,
                            Err(Error::NotRunning) => {}
                            Err(Error::Terminated) if terminates => {}
                            other => panic!("{other:?}"),
                        }
                    }
                    accepted
                });
                // One that ran when the pool was terminated has run for nothing.
                assert!(ran.get() == accepted || terminates && ran.get() > accepted, "{kind:?}");
            }
        }
    });
}

#[test]
fn maps_race_with_the_end_and_return() {
    const LEN: i32 = fewer(50, 8) as i32;

    watchdog(40, || {
        for (kind, terminates) in
            ALL.into_iter().flat_map(|kind| [false, true].map(|terminates| (kind, terminates)))
        {
            for round in 0..scaled(10) {
                let pool = kind.pool();
                thread::scope(|scope| {
                    for verb in 0..4 {
                        let pool = &pool;
                        scope.spawn(move || {
                            for _ in 0..fewer(5, 2) {
                                let result = match verb {
                                    0 => pool.map(|x| x, 0..LEN),
                                    1 => pool.chunksize(3).map(|x| x, (0..LEN).collect::<Vec<_>>()),
                                    2 => pool.map_async(|x| x, 0..LEN).get(),
                                    _ => pool.apply(|| (0..LEN).collect(), ()),
                                };
                                match result {
                                    Ok(values) => assert!(values.into_iter().eq(0..LEN)),
                                    Err(Error::NotRunning) => {}
                                    Err(Error::Terminated) if terminates => {}
                                    Err(other) => panic!("{kind:?}: {other:?}"),
                                }
                            }
                        });
                    }
                    (0..round).for_each(|_| thread::yield_now());
                    match terminates {
                        false => pool.close(),
                        true => pool.terminate(),
                    }
                });
                pool.join().unwrap();
            }
        }
    });
}

/// Every verb says that the pool is not running, also if there is nothing to do.
fn assert_refuses(pool: &Pool, kind: Kind) {
    for items in [vec![], vec![1_u64, 2]] {
        let pairs: Vec<(u64, u32)> = items.iter().map(|x| (*x, 2)).collect();
        assert_matches!(pool.map(square, items.clone()), Err(Error::NotRunning), "{kind:?}");
        assert_matches!(pool.map(|x| *x, &items), Err(Error::NotRunning), "{kind:?}");
        assert_matches!(pool.map(|x| *x, items.iter()), Err(Error::NotRunning), "{kind:?}");
        assert_matches!(pool.starmap(u64::pow, pairs.clone()), Err(Error::NotRunning), "{kind:?}");
        let tried = pool.try_map(|x| Ok::<u64, ()>(*x), &items);
        assert_matches!(tried, Err(TryError::Pool(Error::NotRunning)), "{kind:?}");
        assert_matches!(pool.map_async(square, items.clone()).get(), Err(Error::NotRunning));
        assert_matches!(pool.starmap_async(u64::pow, pairs).get(), Err(Error::NotRunning));
        let options = pool.chunksize(1).timeout(LONG);
        assert_matches!(options.map(square, items.clone()), Err(Error::NotRunning));
        assert_matches!(options.map_async(square, items).get(), Err(Error::NotRunning));
    }
    assert_matches!(pool.apply(|| (), ()), Err(Error::NotRunning));
    assert_matches!(pool.install(|| ()), Err(Error::NotRunning));
    let refused = pool.apply_async(square, (3,));
    assert!(refused.ready());
    assert!(!refused.successful().unwrap());
    assert_matches!(refused.get(), Err(Error::NotRunning));
}

#[test]
fn an_ended_pool_refuses_every_verb() {
    watchdog(20, || {
        for (kind, end) in ALL
            .into_iter()
            .flat_map(|kind| [Pool::close as fn(&Pool), Pool::terminate].map(|end| (kind, end)))
        {
            let pool = kind.pool();
            assert_eq!(pool.map(square, 0..4).unwrap(), [0, 1, 4, 9]);
            end(&pool);
            assert_refuses(&pool, kind);
            pool.join().unwrap();
            assert_refuses(&pool, kind);
        }
    });
}

#[test]
fn an_end_right_after_submitting() {
    const LEN: u64 = fewer(50, 5) as u64;

    watchdog(30, || {
        for kind in ALL {
            for _ in 0..fewer(20, 2) {
                let pool = kind.pool();
                let results: Vec<_> = (0..LEN).map(|i| pool.apply_async(square, (i,))).collect();
                let map = pool.map_async(square, 0..LEN);
                pool.close();
                pool.join().unwrap();
                assert!(results.into_iter().zip(0..).all(|(r, i)| r.get().unwrap() == i * i));
                assert_eq!(map.get().unwrap().len() as u64, LEN);

                let pool = kind.pool();
                let results: Vec<_> = (0..LEN).map(|i| pool.apply_async(square, (i,))).collect();
                let map = pool.map_async(square, 0..LEN);
                pool.terminate();
                pool.join().unwrap();
                for (result, i) in results.into_iter().zip(0..) {
                    assert!(result.ready(), "{kind:?}");
                    match result.get() {
                        Ok(value) => assert_eq!(value, i * i),
                        Err(error) => assert_matches!(error, Error::Terminated),
                    }
                }
                assert_matches!(map.get(), Ok(_) | Err(Error::Terminated));
            }
        }
    });
}

// ---- terminate -----------------------------------------------------------------------------------

#[test]
fn terminate_skips_what_has_not_begun() {
    watchdog(20, || {
        for kind in THREADS {
            let (pool, ran) = (kind.pool(), Counter::default());
            let (gate, mut opener) = gate();
            let submit = |_| {
                let (gate, ran) = (gate.clone(), ran.clone());
                pool.apply_async(move || (ran.add(), gate.pass()).0, ())
            };
            let results: Vec<_> = (0..scaled(10_000)).map(submit).collect();
            opener.wait_for(kind.workers());
            pool.terminate();
            opener.open();
            pool.join().unwrap();
            assert_eq!(ran.get(), kind.workers(), "{kind:?}");
            for result in results {
                assert_matches!(result.get(), Err(Error::Terminated));
            }
        }
    });
}

#[test]
fn terminate_ends_a_map_between_two_items() {
    watchdog(20, || {
        for (kind, size) in
            THREADS.into_iter().flat_map(|kind| [1, 10_000].map(|size| (kind, size)))
        {
            let (pool, ran) = (kind.pool(), Counter::default());
            let (gate, mut opener) = gate();
            let count = ran.clone();
            let nap = move |_| {
                count.add();
                gate.pass();
            };
            let result = pool.chunksize(size).map_async(nap, 0..scaled(10_000));
            opener.wait_for(1);
            pool.terminate();
            assert_matches!(result.get(), Err(Error::Terminated));
            opener.open();
            pool.join().unwrap();
            assert!(ran.get() <= kind.workers(), "{} ran, {kind:?}", ran.get());
        }
    });
}

#[test]
fn terminate_resolves_every_result() {
    // python/cpython#126743, python/cpython#79659
    watchdog(20, || {
        for kind in [Kind::Lasting(1), Kind::Lasting(2), Kind::Replaced(1, 1), Kind::Replaced(2, 2)]
        {
            let pool = kind.pool();
            let (gate, mut opener) = gate();
            let early = pool.apply_async(|| 1, ());
            early.wait();
            let submit = |i| {
                let gate = gate.clone();
                pool.apply_async(move || (gate.pass(), i).1, ())
            };
            let results: Vec<_> = (0..fewer(8, 3)).map(submit).collect();
            let map = pool.map_async(|x| x, 0..fewer(8, 3));
            opener.wait_for(kind.workers());
            thread::scope(|scope| {
                let (waits, waiting) = bounded(0);
                let waiters: Vec<_> = results
                    .iter()
                    .map(|result| {
                        let waits = waits.clone();
                        scope.spawn(move || (waits.send(()).unwrap(), result.wait()))
                    })
                    .collect();
                waiters.iter().for_each(|_| waiting.recv().unwrap());
                pool.terminate();
                // The tasks that run still run; nobody waits for them.
                for waiter in waiters {
                    waiter.join().unwrap();
                }
            });
            for result in results {
                assert_matches!(result.get(), Err(Error::Terminated), "{kind:?}");
            }
            assert_matches!(map.get(), Err(Error::Terminated), "{kind:?}");
            assert_eq!(early.get().unwrap(), 1, "what was done stays done");
            opener.open();
            pool.join().unwrap();
        }
    });
}

#[test]
fn terminate_returns_at_once_and_again() {
    watchdog(20, || {
        for kind in THREADS {
            let pool = kind.pool();
            let (mut opener, held) = hold(&pool, kind.workers());
            pool.terminate();
            pool.terminate();
            pool.close();
            assert!(format!("{pool:?}").contains("Terminated"));
            for held in held {
                assert_matches!(held.get(), Err(Error::Terminated));
            }
            opener.open();
            pool.join().unwrap();
        }
    });
}

#[test]
fn terminate_after_close_skips_what_close_would_have_finished() {
    watchdog(20, || {
        for kind in THREADS {
            let pool = kind.pool();
            let ran = Counter::default();
            let (mut opener, _held) = hold(&pool, kind.workers());
            let count = ran.clone();
            let call = pool.apply_async(move || count.add(), ());
            pool.close();
            pool.terminate();
            assert_matches!(call.get(), Err(Error::Terminated), "{kind:?}");
            opener.open();
            pool.join().unwrap();
            assert_eq!(ran.get(), 0);
        }
    });
}

#[test]
fn terminate_is_noticed_inside_a_large_chunk() {
    watchdog(20, || {
        for (kind, verb) in ALL.into_iter().flat_map(|kind| [0, 1, 2].map(|verb| (kind, verb))) {
            if kind == Kind::Serial && verb == 1 {
                // It is done before there is a handle.
                continue;
            }
            let (pool, ran) = (Arc::new(kind.pool()), Counter::default());
            let (inner, count) = (Arc::clone(&pool), ran.clone());
            let task = move |i: usize| {
                count.add();
                if i == 10 {
                    inner.terminate();
                }
            };
            let all = pool.chunksize(1_000_000);
            let result = match verb {
                0 => all.map(task, 0..fewer(1_000_000, 500)).map(drop),
                1 => all.map_async(task, 0..fewer(1_000_000, 500)).get().map(drop),
                _ => match all
                    .try_map(|i| (task(i), Ok::<_, ()>(())).1, vec![10; fewer(100_000, 500)])
                {
                    Err(TryError::Pool(error)) => Err(error),
                    other => panic!("{other:?}"),
                },
            };
            assert_matches!(result, Err(Error::Terminated), "{kind:?}");
            pool.join().unwrap();
            assert!(ran.get() < fewer(1000, 100), "{kind:?}, {verb}: {} ran", ran.get());
        }
    });
}

#[test]
fn a_blocking_verb_returns_when_what_runs_has_returned() {
    watchdog(20, || {
        for (kind, verb) in THREADS.into_iter().flat_map(|kind| [0, 1, 2].map(|verb| (kind, verb)))
        {
            let pool = kind.pool();
            let inside = Crowd::default();
            let (send, began) = unbounded();
            let task = || {
                inside.enter();
                send.send(()).unwrap();
                until_cancelled();
                inside.leave();
            };
            thread::scope(|scope| {
                scope.spawn(|| {
                    let result = match verb {
                        0 => pool.map(|_| task(), 0..100).map(drop),
                        1 => pool.apply(task, ()),
                        _ => pool.install(task),
                    };
                    assert_matches!(result, Err(Error::Terminated), "{kind:?}");
                    assert_eq!(inside.now(), 0, "it lent them what it borrows");
                });
                began.recv().unwrap();
                pool.terminate();
            });
            pool.join().unwrap();
        }
    });
}

#[test]
fn a_wait_in_a_task_ends_with_the_pool() {
    watchdog(20, || {
        for kind in THREADS {
            let pool = Arc::new(kind.pool());
            let other = Pool::new(1).unwrap();
            let (gate, mut opener) = gate();
            let awaited = other.apply_async(move || gate.pass(), ());
            opener.wait_for(1);
            let (send, ended) = bounded(1);
            let call = pool.apply_async(move || send.send(awaited.get()).unwrap(), ());
            other.terminate();
            assert_matches!(ended.recv().unwrap(), Err(Error::Terminated));
            call.get().unwrap();
            opener.open();
            pool.close();
            pool.join().unwrap();
        }
    });
}

#[test]
fn terminate_drops_what_it_skips() {
    watchdog(20, || {
        for kind in THREADS {
            let drops = Drops::default();
            let pool = kind.pool();
            let (mut opener, _held) = hold(&pool, kind.workers());
            let mut calls = Vec::new();
            for i in 0..20 {
                let captured = drops.make(i);
                let add = move |x: common::Counted| captured.value() + x.value();
                calls.push(pool.apply_async(add, (drops.make(i),)));
            }
            let captured = drops.make(0);
            let inputs: Vec<_> = (0..20).map(|i| drops.make(i)).collect();
            let map = pool.chunksize(3).map_async(move |x| captured.value() + x.value(), inputs);
            pool.terminate();
            opener.open();
            pool.join().unwrap();
            drops.assert_each_once();
            drop((calls, map));
        }
    });
}

// ---- join ----------------------------------------------------------------------------------------

#[test]
fn join_waits_for_the_destructors_of_thread_locals() {
    watchdog(20, || {
        for (kind, way) in THREADS.into_iter().flat_map(|kind| [0, 1, 2, 3].map(|way| (kind, way)))
        {
            let pool = kind.named("locals").build().unwrap();
            let dropped = Counter::default();
            let (gate, mut opener) = gate();
            for _ in 0..kind.workers() {
                let (gate, dropped) = (gate.clone(), dropped.clone());
                drop(pool.apply_async(
                    move || {
                        at_the_end(move || {
                            // Takes its time.
                            thread::sleep(Duration::from_millis(30));
                            dropped.add();
                        });
                        gate.pass();
                    },
                    (),
                ));
            }
            opener.wait_for(kind.workers());
            opener.open();
            match way {
                0 => {
                    pool.close();
                    pool.join().unwrap();
                }
                1 => {
                    pool.terminate();
                    pool.join().unwrap();
                }
                2 => {
                    pool.close();
                    pool.join_timeout(LONG).unwrap();
                }
                _ => drop(pool),
            }
            assert_eq!(dropped.get(), kind.workers(), "{kind:?}, {way}");
            assert_no_threads("locals");
        }
    });
}

#[test]
fn many_threads_may_join() {
    watchdog(20, || {
        for kind in ALL {
            let pool = kind.named("joins").build().unwrap();
            let held = match kind {
                Kind::Serial => None,
                _ => Some(hold(&pool, kind.workers())),
            };
            pool.close();
            thread::scope(|scope| {
                let joiners: Vec<_> = (0..6)
                    .map(|i| {
                        let pool = &pool;
                        scope.spawn(move || match i % 2 {
                            0 => pool.join(),
                            _ => pool.join_timeout(LONG),
                        })
                    })
                    .collect();
                drop(held);
                for joiner in joiners {
                    joiner.join().unwrap().unwrap();
                }
            });
            pool.join().unwrap();
            assert_no_threads("joins");
        }
    });
}

#[test]
fn join_of_a_running_pool_is_refused() {
    watchdog(10, || {
        for (kind, pool) in all_pools() {
            assert_matches!(pool.join(), Err(Error::StillRunning), "{kind:?}");
            assert_matches!(pool.join_timeout(Duration::ZERO), Err(Error::StillRunning));
            assert_eq!(pool.apply(|| 1, ()).unwrap(), 1);
        }
    });
}

#[test]
fn a_join_that_timed_out_may_be_tried_again() {
    watchdog(20, || {
        for kind in THREADS {
            let pool = kind.pool();
            let (mut opener, _held) = hold(&pool, kind.workers());
            pool.close();
            for _ in 0..3 {
                let start = Instant::now();
                let timeout = Duration::from_millis(10);
                assert_matches!(pool.join_timeout(timeout), Err(Error::Timeout));
                assert!(start.elapsed() >= timeout);
            }
            assert_matches!(pool.join_timeout(Duration::ZERO), Err(Error::Timeout));
            opener.open();
            pool.join().unwrap();
            pool.join_timeout(Duration::ZERO).unwrap();
        }
    });
}

#[test]
fn join_from_a_task_of_another_pool_is_fine() {
    watchdog(20, || {
        for (kind, pool) in all_pools() {
            let other = Pool::new(1).unwrap();
            pool.apply_async(|| (), ()).get().unwrap();
            pool.close();
            assert_matches!(other.apply(|| pool.join(), ()), Ok(Ok(())), "{kind:?}");
        }
    });
}

#[test]
fn a_task_may_end_its_pool_and_cannot_join_it() {
    watchdog(20, || {
        for kind in ALL {
            let pool = kind.pool();
            let ends = pool.apply(
                || {
                    assert_matches!(pool.join(), Err(Error::StillRunning));
                    pool.close();
                    assert_matches!(pool.join(), Err(Error::WouldDeadlock));
                    assert_matches!(pool.join_timeout(LONG), Err(Error::WouldDeadlock));
                    7
                },
                (),
            );
            assert_eq!(ends.unwrap(), 7, "{kind:?}");
            pool.join().unwrap();

            let pool = kind.pool();
            let ends = pool.apply(
                || {
                    pool.terminate();
                    assert!(is_cancelled());
                    assert_matches!(pool.join(), Err(Error::WouldDeadlock));
                },
                (),
            );
            assert_matches!(ends, Err(Error::Terminated), "{kind:?}");
            pool.join().unwrap();
        }
    });
}

#[test]
fn waits_have_timeouts_that_say_what_happened() {
    watchdog(20, || {
        for kind in THREADS {
            let pool = kind.pool();
            assert_matches!(pool.join_timeout(LONG), Err(Error::StillRunning));
            let (mut opener, held) = hold(&pool, kind.workers());
            let short = Duration::from_millis(20);
            let start = Instant::now();
            assert!(!held[0].wait_timeout(short));
            assert!(start.elapsed() >= short);
            pool.close();
            let start = Instant::now();
            assert_matches!(pool.join_timeout(short), Err(Error::Timeout));
            assert!(start.elapsed() >= short);
            opener.open();
            assert!(held[0].wait_timeout(LONG));
            pool.join_timeout(LONG).unwrap();
            pool.join().unwrap();
        }
    });
}

// ---- drop ----------------------------------------------------------------------------------------

#[test]
fn drop_finishes_and_joins() {
    const LEN: usize = fewer(100, 10);

    watchdog(20, || {
        for kind in THREADS {
            let (ran, pool) = (Counter::default(), kind.named("drops").build().unwrap());
            for _ in 0..LEN {
                let ran = ran.clone();
                drop(pool.apply_async(move || ran.add(), ()));
            }
            drop(pool);
            assert_eq!(ran.get(), LEN, "{kind:?}");
            assert_no_threads("drops");
        }
    });
}

#[test]
fn drop_while_unwinding_terminates_and_joins() {
    watchdog(20, || {
        for kind in THREADS {
            let ran = Counter::default();
            let caught = catch_unwind(AssertUnwindSafe(|| {
                let pool = kind.named("unwind").build().unwrap();
                let (send, began) = unbounded();
                for _ in 0..kind.workers() {
                    let send = send.clone();
                    drop(pool.apply_async(move || (send.send(()).unwrap(), until_cancelled()), ()));
                }
                (0..kind.workers()).for_each(|_| began.recv().unwrap());
                for _ in 0..fewer(50, 10) {
                    let ran = ran.clone();
                    drop(pool.apply_async(move || ran.add(), ()));
                }
                panic!("{ON_PURPOSE}");
            }));
            assert_eq!(message(&*caught.unwrap_err()), ON_PURPOSE);
            assert_eq!(ran.get(), 0, "{kind:?}");
            assert_no_threads("unwind");
        }
    });
}

#[test]
fn leaving_without_close_finishes_everything() {
    const LEN: u64 = fewer(50, 10) as u64;

    watchdog(20, || {
        for kind in ALL {
            let ran = Counter::default();
            let pool = kind.pool();
            for _ in 0..LEN {
                let ran = ran.clone();
                drop(pool.apply_async(move || ran.add(), ()));
            }
            let kept = pool.map_async(square, 0..LEN);
            drop(pool);
            assert_eq!(ran.get(), LEN as usize, "{kind:?}");
            assert!(kept.ready());
            assert_eq!(kept.get().unwrap().len(), LEN as usize);
        }
    });
}

#[test]
fn leaving_by_a_panic_resolves_everything() {
    watchdog(20, || {
        for kind in THREADS {
            let (mut results, ran) = (Vec::new(), Counter::default());
            let caught = catch_unwind(AssertUnwindSafe(|| {
                let pool = kind.pool();
                let (send, began) = unbounded();
                for _ in 0..kind.workers() {
                    let send = send.clone();
                    let until_cancelled = move || {
                        send.send(()).unwrap();
                        while !is_cancelled() {
                            thread::yield_now();
                        }
                    };
                    results.push(pool.apply_async(until_cancelled, ()));
                }
                (0..kind.workers()).for_each(|_| began.recv().unwrap());
                for _ in 0..fewer(50, 10) {
                    let ran = ran.clone();
                    results.push(pool.apply_async(move || ran.add(), ()));
                }
                panic!("{ON_PURPOSE}");
            }));
            assert_eq!(common::message(&*caught.unwrap_err()), ON_PURPOSE);
            for result in results {
                assert!(result.ready(), "{kind:?}");
                assert_matches!(result.get(), Err(Error::Terminated));
            }
            assert_eq!(ran.get(), 0, "{kind:?}");
        }
    });
}

#[test]
fn drop_on_its_own_worker_does_not_wait() {
    watchdog(20, || {
        for kind in ALL {
            for _ in 0..fewer(20, 3) {
                let pool = Arc::new(kind.named("own").build().unwrap());
                let (send, receive) = bounded::<Arc<Pool>>(1);
                let (gone, is_gone) = bounded(1);
                let task = move || {
                    let pool = receive.recv().unwrap();
                    assert_eq!(Arc::strong_count(&pool), 1, "the last owner");
                    let behind = pool.apply_async(|| 5, ());
                    drop(pool);
                    gone.send(()).unwrap();
                    behind
                };
                if kind == Kind::Serial {
                    send.send(Arc::new(kind.pool())).unwrap();
                    let behind = pool.apply(task, ()).unwrap();
                    assert_eq!(behind.get().unwrap(), 5);
                    continue;
                }
                let call = pool.apply_async(task, ());
                send.send(pool).unwrap();
                is_gone.recv().unwrap();
                // What it had accepted is done all the same.
                assert_eq!(call.get().unwrap().get().unwrap(), 5, "{kind:?}");
            }
            assert_no_threads("own");
        }
    });
}

#[test]
fn a_pool_captured_by_its_own_task_goes_with_it() {
    watchdog(20, || {
        for kind in THREADS {
            for _ in 0..fewer(20, 3) {
                let pool = Arc::new(kind.named("cycle").build().unwrap());
                let inner = Arc::clone(&pool);
                let call = pool.apply_async(move || inner.apply(|| 5, ()).unwrap(), ());
                drop(pool);
                assert_eq!(call.get().unwrap(), 5, "{kind:?}");
            }
            assert_no_threads("cycle");
        }
    });
}

#[test]
fn drop_in_a_task_of_another_pool_waits() {
    watchdog(20, || {
        for kind in ALL {
            let (outer, ran) = (Pool::new(1).unwrap(), Counter::default());
            let count = ran.clone();
            outer
                .apply(
                    move || {
                        let pool = kind.pool();
                        for _ in 0..fewer(20, 5) {
                            let count = count.clone();
                            drop(pool.apply_async(move || count.add(), ()));
                        }
                    },
                    (),
                )
                .unwrap();
            assert_eq!(ran.get(), fewer(20, 5), "{kind:?}");
        }
    });
}

#[test]
fn an_unused_pool_ends_like_any_other() {
    watchdog(20, || {
        for kind in THREADS {
            for end in 0..3 {
                let pool = kind.named("idle").build().unwrap();
                match end {
                    0 => pool.close(),
                    1 => pool.terminate(),
                    _ => {}
                }
                drop(pool);
                assert_no_threads("idle");
            }
        }
    });
}

#[test]
fn a_pool_has_as_many_threads_as_workers() {
    watchdog(20, || {
        for kind in [Kind::Lasting(1), Kind::Lasting(5), Kind::Replaced(5, 100)] {
            let pool = kind.named("count").build().unwrap();
            // A thread takes its name when it comes up.
            let all = || live_threads("count").is_none_or(|live| live == kind.workers());
            assert!(eventually(all), "{kind:?}");
            let (mut opener, held) = hold(&pool, kind.workers());
            if let Some(live) = live_threads("count") {
                assert_eq!(live, kind.workers(), "{kind:?}");
            }
            opener.open();
            held.into_iter().for_each(|held| held.get().unwrap());
            pool.close();
            // They leave by themselves, before anybody joins them.
            assert!(eventually(|| live_threads("count").unwrap_or(0) == 0), "{kind:?}");
        }
    });
}

#[test]
fn no_thread_is_left_and_names_tell_whose_they_are() {
    watchdog(20, || {
        for kind in THREADS {
            let pool = kind.pool();
            let names = (0..fewer(20, 5))
                .map(|_| pool.apply(|| thread::current().name().map(str::to_owned), ()));
            let names: HashSet<String> = names.map(|name| name.unwrap().unwrap()).collect();
            let mut numbers = HashSet::new();
            for name in names {
                let parts: Vec<_> = name.split('-').collect();
                assert_eq!(parts.len(), 3, "{name}");
                assert_eq!(parts[0], "parpool");
                numbers.insert(parts[1].parse::<usize>().unwrap());
                assert!(parts[2].parse::<usize>().unwrap() < kind.workers());
            }
            assert_eq!(numbers.len(), 1, "one pool has one number");

            for (end, name) in [(0, "by-close"), (1, "by-term"), (2, "by-drop")] {
                let pool = kind.named(name).build().unwrap();
                pool.map(square, 0..fewer(100, 10) as u64).unwrap();
                match end {
                    0 => pool.close(),
                    1 => pool.terminate(),
                    _ => {}
                }
                if end < 2 {
                    pool.join().unwrap();
                } else {
                    drop(pool);
                }
                assert_no_threads(name);
            }
        }
    });
}

#[test]
fn many_threads_make_use_and_drop_a_pool_at_once() {
    watchdog(30, || {
        let one = Arc::new(Pool::new(2).unwrap());
        thread::scope(|scope| {
            for i in 0..fewer(20, 3) {
                let one = Arc::clone(&one);
                scope.spawn(move || {
                    let pool = ALL[i % ALL.len()].pool();
                    assert_eq!(pool.map(square, 0..10).unwrap()[9], 81);
                    assert_eq!(pool.apply_async(square, (3,)).get().unwrap(), 9);
                    assert_eq!(one.map(square, 0..10).unwrap()[9], 81);
                    assert_eq!(one.map_async(square, 0..10).get().unwrap()[9], 81);
                });
            }
        });
    });
}
