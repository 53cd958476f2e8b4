//! How pools end, and what becomes of what they were doing; and calls with a time of their own.

mod common;

use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{bounded, unbounded};
use parpool::{AsyncResult, Error, Pool, TryError, is_cancelled};

use common::{
    ALL, Bomb, Counter, Crowd, Drops, Kind, LONG, ON_PURPOSE, THREADS, all_pools,
    assert_no_threads, eventually, fewer, gate, hold, live_threads, message, scaled, watchdog,
};

/// Waits, as a task, until nobody wants its outcome.
fn until_cancelled() {
    while !is_cancelled() {
        thread::yield_now();
    }
}

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

// ---- terminate -----------------------------------------------------------------------------------

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

thread_local! {
    static LAST: RefCell<Option<Late>> = const { RefCell::new(None) };
}

/// Takes its time to be dropped.
struct Late(Counter);

impl Drop for Late {
    fn drop(&mut self) {
        thread::sleep(Duration::from_millis(30));
        self.0.add();
    }
}

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
                        LAST.with_borrow_mut(|last| *last = Some(Late(dropped)));
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

// ---- calls with a time of their own --------------------------------------------------------------

#[test]
fn a_call_is_over_when_its_time_is() {
    watchdog(20, || {
        let time = Duration::from_millis(30);
        for kind in ALL {
            let pool = kind.pool();
            let options = pool.timeout(time);
            for verb in 0..5 {
                let start = Instant::now();
                let result = match verb {
                    0 => options.apply(until_cancelled, ()),
                    1 => options.map(|_| until_cancelled(), 0..1000).map(drop),
                    2 => options.apply_async(until_cancelled, ()).get(),
                    3 => options.map_async(|_| until_cancelled(), 0..1000).get().map(drop),
                    _ => match options.try_map(|_| (until_cancelled(), Ok::<_, ()>(())).1, 0..1000)
                    {
                        Err(TryError::Pool(error)) => Err(error),
                        other => panic!("{other:?}"),
                    },
                };
                assert_matches!(result, Err(Error::DeadlineExceeded), "{kind:?}, {verb}");
                assert!(start.elapsed() >= time);
            }
            // The pool is as good as before, and so are calls that have time.
            assert_eq!(pool.timeout(LONG).map(|x| x, 0..4).unwrap(), [0, 1, 2, 3]);
            assert_eq!(pool.timeout(LONG).map_async(|x| x, 0..4).get().unwrap(), [0, 1, 2, 3]);
            assert_eq!(pool.timeout(LONG).apply(|| 1, ()).unwrap(), 1);
            assert_eq!(pool.timeout(LONG).apply_async(|| 1, ()).get().unwrap(), 1);
        }
    });
}

#[test]
fn items_after_the_time_are_skipped() {
    watchdog(20, || {
        for kind in ALL {
            let (pool, ran) = (kind.pool(), Counter::default());
            let nap = |_| {
                ran.add();
                thread::sleep(Duration::from_millis(2));
            };
            for size in [None, Some(1), Some(100_000)] {
                let options = pool.timeout(Duration::from_millis(20));
                let result = with_chunksize!(options, size, map(nap, 0..fewer(100_000, 300)));
                assert_matches!(result, Err(Error::DeadlineExceeded), "{kind:?} {size:?}");
            }
            assert!(ran.get() < fewer(10_000, 150), "{} ran", ran.get());
        }
    });
}

#[test]
fn a_call_that_waits_in_the_queue_for_too_long_never_runs() {
    watchdog(20, || {
        for kind in THREADS {
            let (pool, ran) = (kind.pool(), Counter::default());
            let (mut opener, held) = hold(&pool, kind.workers());
            let options = pool.timeout(Duration::from_millis(20));
            let count = ran.clone();
            let call = options.apply_async(move || count.add(), ());
            let count = ran.clone();
            let map = options.map_async(move |_| count.add(), 0..10);
            assert_matches!(
                options.apply(|| ran.add(), ()),
                Err(Error::DeadlineExceeded),
                "{kind:?}"
            );
            assert_matches!(
                options.map(|_| ran.add(), 0..10),
                Err(Error::DeadlineExceeded),
                "{kind:?}"
            );
            assert_matches!(call.get(), Err(Error::DeadlineExceeded), "{kind:?}");
            assert_matches!(map.get(), Err(Error::DeadlineExceeded), "{kind:?}");
            opener.open();
            held.into_iter().for_each(|held| held.get().unwrap());
            pool.close();
            pool.join().unwrap();
            assert_eq!(ran.get(), 0, "{kind:?}");
        }
    });
}

#[test]
fn no_time_at_all_is_a_timeout() {
    watchdog(10, || {
        for (kind, pool) in all_pools() {
            let ran = Counter::default();
            let options = pool.timeout(Duration::ZERO);
            assert_matches!(
                options.apply(|| ran.add(), ()),
                Err(Error::DeadlineExceeded),
                "{kind:?}"
            );
            assert_matches!(
                options.map(|_| ran.add(), 0..10),
                Err(Error::DeadlineExceeded),
                "{kind:?}"
            );
            let count = ran.clone();
            assert_matches!(
                options.apply_async(move || count.add(), ()).get(),
                Err(Error::DeadlineExceeded)
            );
            let count = ran.clone();
            let map = options.map_async(move |_| count.add(), 0..10);
            assert_matches!(map.get(), Err(Error::DeadlineExceeded));
            assert_eq!(ran.get(), 0, "{kind:?}");
        }
    });
}

#[test]
fn a_handle_with_a_time_is_an_error_at_once_though_its_task_runs() {
    watchdog(20, || {
        for kind in THREADS {
            let pool = kind.pool();
            let (gate, mut opener) = gate();
            let pass = gate.clone();
            let options = pool.timeout(Duration::from_millis(20));
            assert_matches!(
                options.apply_async(move || gate.pass(), ()).get(),
                Err(Error::DeadlineExceeded)
            );
            let map = options.map_async(move |_| pass.pass(), 0..3);
            assert!(map.wait_timeout(LONG));
            assert!(!map.successful().unwrap(), "{kind:?}");
            assert_matches!(map.get(), Err(Error::DeadlineExceeded), "{kind:?}");
            opener.open();
        }
    });
}

#[test]
fn what_a_task_calls_is_cancelled_with_it() {
    watchdog(20, || {
        for kind in ALL {
            let pool = kind.pool();
            let seen = Mutex::new(Vec::new());
            let note = |what| seen.lock().unwrap().push((what, is_cancelled()));
            let result = pool.timeout(Duration::from_millis(fewer(30, 500) as u64)).apply(
                || {
                    note("outer");
                    until_cancelled();
                    note("outer, late");
                    // A time of its own makes it no longer than the outer one's.
                    let _ = pool.timeout(LONG).apply(|| note("inner"), ());
                },
                (),
            );
            assert_matches!(result, Err(Error::DeadlineExceeded), "{kind:?}");
            let seen = seen.lock().unwrap();
            assert_eq!(seen[..2], [("outer", false), ("outer, late", true)], "{kind:?}");
            assert!(seen[2..].iter().all(|(_, cancelled)| *cancelled));
        }
    });
}

#[test]
fn a_map_in_a_task_hears_of_the_end_of_the_task() {
    watchdog(20, || {
        for kind in ALL {
            let pool = kind.pool();
            let result = pool.timeout(Duration::from_millis(30)).apply(
                || {
                    let inner = pool.map(|_| until_cancelled(), 0..4);
                    assert!(is_cancelled());
                    inner.is_ok()
                },
                (),
            );
            assert_matches!(result, Err(Error::DeadlineExceeded), "{kind:?}");
        }
    });
}

#[test]
fn is_cancelled_is_about_the_running_task_only() {
    watchdog(20, || {
        for kind in ALL {
            let pool = kind.pool();
            assert!(!pool.apply(is_cancelled, ()).unwrap());
            assert!(!pool.timeout(LONG).apply(is_cancelled, ()).unwrap());
            assert!(!pool.map(|_| is_cancelled(), 0..fewer(100, 10)).unwrap().contains(&true));
            let timed_out = pool.timeout(Duration::from_millis(5)).apply(until_cancelled, ());
            assert_matches!(timed_out, Err(Error::DeadlineExceeded), "{kind:?}");
            assert!(!pool.apply(is_cancelled, ()).unwrap(), "{kind:?}: it was another's");
            pool.close();
            assert!(!is_cancelled());
        }
    });
}

/// The items of a call that timed out may lie in the queue until somebody else sweeps it.
#[test]
fn what_a_late_call_leaves_behind_panics_at_nobody_when_it_is_dropped() {
    watchdog(20, || {
        for kind in THREADS {
            let pool = kind.pool();
            let (mut opener, held) = hold(&pool, kind.workers());
            let late = pool.timeout(Duration::from_millis(1)).map_async(drop, vec![Bomb]);
            assert_matches!(late.get(), Err(Error::DeadlineExceeded), "{kind:?}");
            // Many tasks that are dropped unbegun make the queue be swept.
            let mut stream =
                pool.chunksize(1).buffersize(fewer(200, 20)).imap(|x| x, 0..fewer(200, 20));
            let asked = stream.next_timeout(Duration::from_millis(1));
            assert_matches!(asked, Err(Error::Timeout));
            drop(stream);
            opener.open();
            held.into_iter().for_each(|held| held.get().unwrap());
            assert_eq!(pool.apply(|| 7, ()).unwrap(), 7, "{kind:?}");
        }
    });
}
