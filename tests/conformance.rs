//! What CPython's `multiprocessing.Pool` does, what it gets wrong, and what this crate does instead:
//! one test a row. An issue's number is where the row has it from.

mod common;

use std::collections::{BTreeMap, HashSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::task::Poll;
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{bounded, unbounded};
use parpool::{AsyncResult, Context, Error, Pool, TryError, current_worker, is_cancelled};

use common::{
    ALL, Bomb, Counter, Crowd, Drops, Kind, LASTING, LONG, ON_PURPOSE, THREADS, all_pools,
    assert_no_threads, counting_waker, eventually, fewer, gate, hold, live_threads, panicked, poll,
    scaled, square, watchdog,
};

// ---- ported behaviours ---------------------------------------------------------------------------

#[test]
fn p01_apply() {
    watchdog(20, || {
        for (_, pool) in all_pools() {
            assert_eq!(pool.apply(square, (5,)).unwrap(), 25);
            // What is a keyword argument there is a capture here, which may borrow.
            let base = [1, 2, 3];
            let sum = pool.apply(|by: u64| base.iter().sum::<u64>() * by, (10,));
            assert_eq!(sum.unwrap(), 60);
            assert_eq!(pool.apply(|| base.len(), ()).unwrap(), 3);
        }
    });
}

#[test]
fn p03_callbacks_have_run_when_wait_returns() {
    watchdog(20, || {
        for (kind, pool) in all_pools() {
            let seen = Arc::new(Mutex::new(Vec::new()));
            let failures = Counter::default();
            let watch = |result: AsyncResult<Vec<u64>>| {
                let (seen, failures) = (Arc::clone(&seen), failures.clone());
                result
                    .callback(move |values| seen.lock().unwrap().push(values.clone()))
                    .error_callback(move |_| {
                        failures.add();
                    })
            };
            let good = watch(pool.map_async(square, 0..4));
            good.wait();
            assert_eq!(*seen.lock().unwrap(), [[0, 1, 4, 9]], "{kind:?}");
            assert_eq!(failures.get(), 0);
            let bad = watch(pool.map_async(|_| panic!("{ON_PURPOSE}"), 0..4));
            bad.wait();
            assert_eq!(failures.get(), 1, "{kind:?}");
            assert_eq!(seen.lock().unwrap().len(), 1);
            assert_eq!(good.get().unwrap(), [0, 1, 4, 9]);
            panicked(bad.get());
            assert_eq!((seen.lock().unwrap().len(), failures.get()), (1, 1));
        }
    });
}

#[test]
fn p06_get_takes_the_time_of_the_task() {
    watchdog(20, || {
        for kind in THREADS {
            let pool = kind.pool();
            let start = Instant::now();
            let nap = Duration::from_millis(100);
            let value =
                pool.apply_async(move |x: u64| (thread::sleep(nap), square(x)).1, (7,)).get();
            assert_eq!(value.unwrap(), 49);
            assert!(start.elapsed() >= nap);
        }
    });
}

#[test]
fn p06_get_timeout_is_over_in_time_and_loses_nothing() {
    watchdog(20, || {
        for kind in THREADS {
            let pool = kind.pool();
            let (gate, mut opener) = gate();
            let mut result = pool.apply_async(move |x: u64| (gate.pass(), square(x)).1, (7,));
            let (start, timeout) = (Instant::now(), Duration::from_millis(200));
            assert_matches!(result.get_timeout(timeout), Err(Error::Timeout));
            assert!(start.elapsed() >= timeout);
            assert!(start.elapsed() < LONG / 4);
            opener.open();
            assert_eq!(result.get().unwrap(), 49);
        }
    });
}

#[test]
fn p08_the_number_of_workers() {
    watchdog(10, || {
        assert_matches!(Pool::new(0), Err(Error::InvalidArgument(_)));
        assert_matches!(Pool::builder().processes(0).build(), Err(Error::InvalidArgument(_)));
        let pool = Pool::builder().processes(3).context(Context::threads().name("p08")).build();
        let pool = pool.unwrap();
        assert_eq!(pool.processes(), 3);
        // A thread takes its name when it comes up.
        assert!(eventually(|| live_threads("p08").is_none_or(|live| live == 3)));
        let cores = thread::available_parallelism().unwrap().get();
        assert_eq!(Pool::new(None).unwrap().processes(), cores);
    });
}

#[test]
fn p09_terminate_skips_what_has_not_begun() {
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
fn p09_terminate_ends_a_map_between_two_items() {
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
fn p10_an_ended_pool_refuses_every_verb() {
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
fn p11_the_payload_of_a_panic_is_what_was_thrown() {
    #[derive(Debug, PartialEq)]
    struct Thrown(u32);

    watchdog(20, || {
        for (kind, pool) in all_pools() {
            let throw = |x: u32| if x == 3 { std::panic::panic_any(Thrown(x)) } else { x };
            let errors = [
                pool.map(throw, 0..9).unwrap_err(),
                pool.map_async(throw, 0..9).get().unwrap_err(),
                pool.apply(throw, (3,)).unwrap_err(),
                pool.apply_async(throw, (3,)).get().unwrap_err(),
                pool.install(|| throw(3)).unwrap_err(),
            ];
            for (error, index) in errors.into_iter().zip([Some(3), Some(3), None, None, None]) {
                let Error::Panicked(panic) = error else { panic!("{kind:?}: {error:?}") };
                assert_eq!(panic.index(), index, "{kind:?}");
                assert_eq!(panic.into_payload().downcast_ref(), Some(&Thrown(3)));
            }
            let failed: Result<(), _> = pool.apply(|| panic!("{ON_PURPOSE}: {}", 7), ());
            let error = failed.unwrap_err();
            assert_eq!(error.to_string(), "the closure panicked: on purpose: 7");
            let Error::Panicked(panic) = error else { unreachable!() };
            let resumed = catch_unwind(AssertUnwindSafe(|| panic.resume())).unwrap_err();
            assert_eq!(common::message(&*resumed), "on purpose: 7");
        }
    });
}

#[test]
fn p12_nothing_outlives_its_result() {
    const LEN: usize = fewer(100, 10);

    watchdog(20, || {
        for (kind, pool) in all_pools() {
            let drops = Drops::default();
            let (captured, input) = (drops.make(1), drops.make(2));
            let made = drops.clone();
            let add = move |x: common::Counted| made.make(captured.value() + x.value());
            let result = pool.apply_async(add, (input,)).get().unwrap();
            assert_eq!(result.value(), 3);
            assert_eq!(drops.alive(), 1, "{kind:?}: the closure and the argument are gone");
            drop(result);
            drops.assert_each_once();

            let (captured, made) = (drops.make(1), drops.clone());
            let inputs: Vec<_> = (0..LEN).map(|i| drops.make(i)).collect();
            let add = move |x: common::Counted| made.make(captured.value() + x.value());
            let results = pool.map_async(add, inputs).get().unwrap();
            assert_eq!(drops.alive(), LEN, "{kind:?}");
            drop(results);
            drops.assert_each_once();

            let captured = drops.make(1);
            let inputs: Vec<_> = (0..LEN).map(|i| drops.make(i)).collect();
            let add = |x: common::Counted| drops.make(captured.value() + x.value());
            let results = pool.map(add, inputs).unwrap();
            assert_eq!(drops.alive(), LEN + 1, "{kind:?}");
            drop((results, captured));
            drops.assert_each_once();

            // Nobody gets these: the handle is gone before the task has begun.
            if kind != Kind::Serial {
                let (mut opener, held) = hold(&pool, kind.workers());
                let (captured, made) = (drops.make(1), drops.clone());
                drop(pool.apply_async(move || made.make(captured.value()), ()));
                opener.open();
                held.into_iter().for_each(|held| held.get().unwrap());
            }
            drop(pool);
            drops.assert_each_once();
        }
    });
}

#[test]
fn p13_all_results_come_from_workers_that_are_replaced() {
    watchdog(20, || {
        let pool = Kind::Replaced(3, 10).pool();
        let results: Vec<_> =
            (0..fewer(100, 30) as u64).map(|i| pool.apply_async(square, (i,))).collect();
        for (i, result) in (0..).zip(results) {
            assert_eq!(result.get().unwrap(), i * i);
        }
    });
}

#[test]
fn p13_a_generation_is_exactly_so_many_tasks() {
    const CALLS: usize = fewer(100, 12);

    watchdog(20, || {
        for (workers, tasks) in [(1, 1), (1, 3), (3, 1), (3, 10)] {
            let pool = Kind::Replaced(workers, tasks).pool();
            let results: Vec<_> =
                (0..CALLS).map(|_| pool.apply_async(current_worker, ())).collect();
            let mut ran = BTreeMap::<_, usize>::new();
            for result in results {
                let worker = result.get().unwrap().expect("a worker runs it");
                *ran.entry((worker.index(), worker.generation())).or_default() += 1;
            }
            assert_eq!(ran.values().sum::<usize>(), CALLS);
            for ((index, generation), count) in &ran {
                let last = !ran.contains_key(&(*index, generation + 1));
                assert!(*count == tasks || last && *count < tasks, "{workers} x {tasks}: {ran:?}");
                assert!(*generation == 0 || ran.contains_key(&(*index, generation - 1)), "{ran:?}");
            }
        }
    });
}

#[test]
fn p13_a_pool_closed_early_finishes_on_new_workers() {
    watchdog(20, || {
        for (workers, verb) in
            [1, 3].into_iter().flat_map(|workers| [0, 1].map(|verb| (workers, verb)))
        {
            let pool = Kind::Replaced(workers, 1).pool();
            let ran = Counter::default();
            let count = ran.clone();
            let task = move |i: u64| (count.add(), square(i)).1;
            let results: Vec<_> = match verb {
                0 => (0..6).map(|i| pool.apply_async(task.clone(), (i,))).collect(),
                _ => vec![],
            };
            let map = pool.chunksize(1).map_async(task, 0..6 * verb);
            pool.close();
            pool.join().unwrap();
            assert_eq!(ran.get(), 6);
            assert!(results.iter().all(AsyncResult::ready) && map.ready());
            assert!(
                results.into_iter().zip(0..).all(|(result, i)| result.get().unwrap() == square(i))
            );
            assert_eq!(map.get().unwrap().len() as u64, 6 * verb);
        }
    });
}

#[test]
fn p14_a_life_of_no_task_is_refused() {
    let error = Pool::builder().processes(2).max_tasks_per_child(0).build();
    assert_matches!(error, Err(Error::InvalidArgument(_)));
    let error = Pool::builder().context(Context::serial()).max_tasks_per_child(0).build();
    assert_matches!(error, Err(Error::InvalidArgument(_)));
    Pool::builder().processes(1).max_tasks_per_child(None).build().unwrap();
}

#[test]
fn p15_the_initializer_runs_once_on_each_worker_before_its_tasks() {
    thread_local! {
        static RUNS: std::cell::RefCell<Vec<String>> = const { std::cell::RefCell::new(Vec::new()) };
    }

    watchdog(20, || {
        for kind in ALL {
            let (workers, runs) = (kind.workers(), Counter::default());
            let count = runs.clone();
            let initializer = move |name: &str, n: u32| {
                count.add();
                RUNS.with_borrow_mut(|runs| runs.push(format!("{name}{n}")));
            };
            let pool = kind.builder().initializer(initializer, ("init", 7)).build().unwrap();
            assert_eq!(runs.get(), workers, "{kind:?}: each before `build` returns");
            let seen = pool.map(|_| RUNS.with_borrow(Clone::clone), 0..fewer(100, 12)).unwrap();
            for seen in seen {
                assert_eq!(seen, ["init7"], "{kind:?}");
            }
            if !matches!(kind, Kind::Replaced(..)) {
                assert_eq!(runs.get(), workers, "{kind:?}");
            }
            // The test's own thread is the worker of a serial pool.
            RUNS.with_borrow_mut(Vec::clear);
        }
    });
}

#[test]
fn p15_the_initializer_runs_again_on_each_new_worker() {
    const LEN: usize = fewer(20, 8);

    watchdog(20, || {
        for workers in [1, 3] {
            let runs = Arc::new(Mutex::new(Vec::new()));
            let note = Arc::clone(&runs);
            let initializer = move || {
                let worker = current_worker().expect("the initializer knows its worker");
                note.lock().unwrap().push((worker.index(), worker.generation()));
            };
            let builder = Kind::Replaced(workers, 2).builder();
            let pool = builder.initializer(initializer, ()).build().unwrap();
            let ran = pool.chunksize(1).map(|_| current_worker().unwrap(), 0..LEN).unwrap();
            pool.close();
            pool.join().unwrap();
            let runs = runs.lock().unwrap();
            let distinct: HashSet<_> = runs.iter().copied().collect();
            assert_eq!(distinct.len(), runs.len(), "once each: {runs:?}");
            assert!(ran.iter().all(|id| distinct.contains(&(id.index(), id.generation()))));
            assert!(runs.len() >= LEN / 2);
        }
    });
}

#[test]
#[cfg_attr(miri, ignore = "any size of stack is fine there")]
fn p16_a_worker_that_cannot_be_started_fails_the_pool() {
    watchdog(20, || {
        // The first few have room in the address space, so there is something to clean up.
        let context = Context::threads().name("p16").stack_size(1 << 45);
        for workers in [1, 8] {
            for tasks in [None, Some(1)] {
                let builder = Pool::builder().processes(workers).context(context.clone());
                match builder.max_tasks_per_child(tasks).build() {
                    Err(Error::Start(_)) => {}
                    // A system that gives one thread such a stack.
                    Ok(_) if workers == 1 => {}
                    other => panic!("{other:?}"),
                }
                assert_no_threads("p16");
            }
        }
    });
}

#[test]
#[cfg_attr(miri, ignore = "two hundred threads take too long")]
fn p17_a_large_pool() {
    watchdog(40, || {
        for kind in [Kind::Lasting(200), Kind::Replaced(200, 2)] {
            let pool = kind.pool();
            let values = pool.map(square, 0..1000).unwrap();
            assert_eq!(values.iter().sum::<u64>(), (0..1000).map(square).sum());
            let later: Vec<_> = (0..1000).map(|i| pool.apply_async(square, (i,))).collect();
            let sum: u64 = later.into_iter().map(|result| result.get().unwrap()).sum();
            assert_eq!(sum, (0..1000).map(square).sum());
        }
    });
}

#[test]
fn p18_many_threads_make_use_and_drop_a_pool_at_once() {
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

#[test]
fn p19_never_more_tasks_at_once_than_workers() {
    watchdog(30, || {
        for kind in THREADS {
            let (pool, crowd) = (kind.pool(), Crowd::default());
            let task = {
                let crowd = crowd.clone();
                move || {
                    crowd.enter();
                    thread::sleep(Duration::from_micros(200));
                    crowd.leave();
                }
            };
            let results: Vec<_> =
                (0..fewer(100, 8)).map(|_| pool.apply_async(task.clone(), ())).collect();
            let map = {
                let task = task.clone();
                pool.map_async(move |_| task(), 0..fewer(100, 8))
            };
            pool.map(|_| task(), 0..fewer(100, 8)).unwrap();
            results.into_iter().for_each(|result| result.get().unwrap());
            map.get().unwrap();
            assert!(crowd.most() <= kind.workers(), "{} at once, {kind:?}", crowd.most());
            // And not fewer, if there is as much to do.
            drop(hold(&pool, kind.workers()));
        }
    });
}

#[test]
fn p20_an_end_right_after_submitting() {
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

#[test]
fn p21_no_thread_is_left_and_names_tell_whose_they_are() {
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

            for (end, name) in [(0, "p21a"), (1, "p21b"), (2, "p21c")] {
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

/// Says to the test below that it is the child.
const CHILD: &str = "PARPOOL_TEST_CHILD";

#[test]
#[cfg_attr(miri, ignore = "starts a process")]
fn p22_a_process_may_exit_with_a_live_global_pool() {
    if std::env::var_os(CHILD).is_some() {
        assert_eq!(parpool::map(square, 0..4).unwrap(), [0, 1, 4, 9]);
        // The workers are busy and more is queued when `main` returns.
        for _ in 0..100 {
            drop(parpool::apply_async(|| thread::sleep(LONG), ()));
        }
        return;
    }
    watchdog(20, || {
        let mut child = Command::new(std::env::current_exe().unwrap());
        let test = "p22_a_process_may_exit_with_a_live_global_pool";
        let output = child.args(["--exact", test, "--test-threads=1"]).env(CHILD, "1").output();
        let output = output.unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert_eq!(output.status.code(), Some(0), "{text}");
        assert!(text.contains("1 passed"), "{text}");
    });
}

#[test]
fn p23_every_way_to_look_at_every_end() {
    watchdog(30, || {
        for kind in THREADS {
            for (end, late) in (0..3).flat_map(|end| [false, true].map(|late| (end, late))) {
                // One way per handle: got, got in time, dropped, polled.
                for way in (0..4).filter(|way| !cfg!(miri) || (way + end) % 4 == usize::from(late))
                {
                    let pool = kind.pool();
                    let (gate, mut opener) = gate();
                    let (good, bad) = (Counter::default(), Counter::default());
                    let (on_good, on_bad) = (good.clone(), bad.clone());
                    let mut result = pool.apply_async(
                        move || {
                            gate.pass();
                            assert_ne!(end, 1, "{ON_PURPOSE}");
                            5
                        },
                        (),
                    );
                    let call_back = |result: AsyncResult<i32>| {
                        let good = move |value: &i32| assert_eq!((on_good.next(), *value), (0, 5));
                        let bad = move |_: &Error| assert_eq!(on_bad.next(), 0);
                        result.callback(good).error_callback(bad)
                    };
                    opener.wait_for(1);
                    assert_matches!(result.successful(), Err(Error::NotReady));
                    assert_matches!(result.get_timeout(Duration::ZERO), Err(Error::Timeout));
                    assert!(poll(&mut result, &counting_waker().0).is_pending());
                    let mut call_back = Some(call_back);
                    if !late {
                        result = call_back.take().unwrap()(result);
                    }
                    if end == 2 {
                        pool.terminate();
                    }
                    opener.open();
                    if way != 2 || late {
                        result.wait();
                        assert_eq!(result.successful().unwrap(), end == 0);
                    }
                    if let Some(call_back) = call_back {
                        result = call_back(result);
                    }
                    let outcome = match way {
                        0 => Some(result.get()),
                        1 => Some(result.get_timeout(LONG)),
                        2 => {
                            drop(result);
                            None
                        }
                        _ => match poll(&mut result, &counting_waker().0) {
                            Poll::Ready(outcome) => Some(outcome),
                            Poll::Pending => panic!("it was ready"),
                        },
                    };
                    match (end, outcome) {
                        (_, None) | (0, Some(Ok(5))) | (2, Some(Err(Error::Terminated))) => {}
                        (1, Some(error)) => assert_eq!(panicked(error).0, None),
                        (_, other) => panic!("{other:?}"),
                    }
                    drop(pool);
                    let expected = if end == 0 { (1, 0) } else { (0, 1) };
                    assert_eq!((good.get(), bad.get()), expected, "{kind:?} {end} {late} {way}");
                }
            }
        }
    });
}

// ---- defects of the reference --------------------------------------------------------------------

#[test]
fn d01_terminate_resolves_every_result() {
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
fn d02_a_task_that_dies_takes_nothing_along() {
    // python/cpython#66587
    const CALLS: u32 = fewer(100, 10) as u32;

    watchdog(20, || {
        for (kind, pool) in all_pools() {
            let task = |i: u32| assert!(i % 2 == 1, "{ON_PURPOSE}");
            let results: Vec<_> = (0..CALLS).map(|i| pool.apply_async(task, (i,))).collect();
            let good = results.into_iter().filter(|result| {
                result.wait();
                result.successful().unwrap()
            });
            assert_eq!(good.count(), CALLS as usize / 2, "{kind:?}");
            assert_eq!(pool.map(square, 0..4).unwrap(), [0, 1, 4, 9]);
            pool.close();
            pool.join().unwrap();
        }
    });
}

#[test]
fn d03_a_panicking_callback_costs_nobody_a_value() {
    // python/cpython#83371
    watchdog(10, || {
        for (kind, pool) in all_pools() {
            let result = pool.apply_async(square, (3,)).callback(|_| panic!("{ON_PURPOSE}"));
            assert_eq!(result.get().unwrap(), 9, "{kind:?}");
            let later = pool.apply_async(square, (4,));
            later.wait();
            assert_eq!(later.callback(|_| panic!("{ON_PURPOSE}")).get().unwrap(), 16);
            let failed = pool.apply_async(|| panic!("{ON_PURPOSE}: task"), ());
            let failed = failed.error_callback(|_| panic!("{ON_PURPOSE}: callback"));
            assert_eq!(panicked::<()>(failed.get()).1, "on purpose: task");
            let map = pool.map_async(square, 0..3).callback(|_| panic!("{ON_PURPOSE}"));
            assert_eq!(map.get().unwrap(), [0, 1, 4]);
            for i in 0..fewer(10, 2) as u64 {
                assert_eq!(pool.apply_async(square, (i,)).get().unwrap(), i * i);
            }
            pool.close();
            pool.join().unwrap();
        }
    });
}

#[test]
fn d04_a_blocking_callback_delays_no_other_result() {
    watchdog(20, || {
        for kind in [Kind::Lasting(2), Kind::Replaced(2, 2)] {
            let pool = kind.pool();
            let (gate, mut opener) = gate();
            let (start, began) = bounded::<()>(0);
            let task = move || began.recv().map_or(1, |()| 1);
            let slow = pool.apply_async(task, ()).callback(move |_| gate.pass());
            // Only now: a callback that comes after the value runs on this thread.
            drop(start);
            opener.wait_for(1);
            let others: Vec<_> =
                (0..fewer(20, 6) as u64).map(|i| pool.apply_async(square, (i,))).collect();
            for (other, i) in others.into_iter().zip(0..) {
                assert_eq!(other.get().unwrap(), i * i);
            }
            assert!(!slow.ready(), "{kind:?}: its callback is still running");
            opener.open();
            assert_eq!(slow.get().unwrap(), 1);
        }
    });
}

#[test]
fn d04_a_callback_may_use_the_pool_and_cannot_join_it() {
    watchdog(20, || {
        for kind in ALL {
            let pool = Arc::new(kind.pool());
            let (send, seen) = unbounded();
            let inner = Arc::clone(&pool);
            let callback = move |value: &u64| {
                let value = *value;
                send.send(inner.apply(move || value + 1, ()).unwrap()).unwrap();
                send.send(inner.map(square, 0..4).unwrap()[3]).unwrap();
                send.send(inner.apply_async(square, (5,)).get().unwrap()).unwrap();
                inner.close();
                assert_matches!(inner.join(), Err(Error::WouldDeadlock));
                assert_matches!(inner.join_timeout(LONG), Err(Error::WouldDeadlock));
                send.send(0).unwrap();
            };
            let (gate, mut opener) = gate();
            if kind == Kind::Serial {
                // Its tasks run before there is a handle; a callback of the caller's is no task.
                continue;
            }
            let result = pool.apply_async(move || (gate.pass(), 7).1, ()).callback(callback);
            opener.open();
            assert_eq!(result.get().unwrap(), 7);
            assert_eq!(seen.try_iter().collect::<Vec<_>>(), [8, 9, 25, 0], "{kind:?}");
            pool.join().unwrap();
        }
    });
}

#[test]
fn d05_an_initializer_that_fails_is_the_end_of_it() {
    // python/cpython#87472
    watchdog(10, || {
        for kind in ALL {
            for panics in [false, true] {
                let runs = Counter::default();
                let count = runs.clone();
                let initializer = move || {
                    count.add();
                    assert!(!panics, "{ON_PURPOSE}");
                    Err::<(), _>("no luck")
                };
                let error = kind.named("d05").initializer(initializer, ()).build().unwrap_err();
                let text = if panics { "panicked: on purpose" } else { "no luck" };
                assert_matches!(&error, Error::Initializer(inner) if inner.to_string() == text);
                assert!(
                    (1..=kind.workers()).contains(&runs.get()),
                    "{kind:?}: {} runs",
                    runs.get()
                );
                assert_no_threads("d05");
            }
        }
    });
}

#[test]
fn d05_one_worker_whose_initializer_fails_fails_the_pool() {
    watchdog(10, || {
        for (kind, bad) in [Kind::Lasting(3), Kind::Replaced(3, 1)]
            .into_iter()
            .flat_map(|kind| [0, 1, 2].map(|bad| (kind, bad)))
        {
            let initializer = move || match current_worker() {
                Some(worker) if worker.index() == bad => Err("no luck"),
                _ => Ok(()),
            };
            let built = kind.named("d05b").initializer(initializer, ()).build();
            assert_matches!(built, Err(Error::Initializer(_)), "{kind:?} {bad}");
            assert_no_threads("d05b");
        }
    });
}

#[test]
fn d06_an_empty_map_calls_back_once() {
    watchdog(10, || {
        for (kind, pool) in all_pools() {
            for size in [None, Some(1), Some(7)] {
                let seen = Arc::new(Mutex::new(Vec::new()));
                let note = Arc::clone(&seen);
                let empty = Vec::<u64>::new();
                let result = with_chunksize!(pool, size, map_async(square, empty))
                    .callback(move |values| note.lock().unwrap().push(values.clone()));
                assert_eq!(result.get().unwrap(), [0; 0]);
                assert_eq!(*seen.lock().unwrap(), [[0; 0]], "{kind:?}");
            }
        }
    });
}

#[test]
fn d15_all_who_wait_for_one_handle_wake() {
    watchdog(20, || {
        for kind in THREADS {
            let pool = kind.pool();
            let (gate, mut opener) = gate();
            let result = pool.apply_async(move || (gate.pass(), 5).1, ());
            thread::scope(|scope| {
                let (waits, waiting) = bounded(0);
                let waiters: Vec<_> = (0..fewer(8, 4))
                    .map(|i| {
                        let (waits, result) = (waits.clone(), &result);
                        scope.spawn(move || {
                            waits.send(()).unwrap();
                            if i % 2 == 0 {
                                result.wait()
                            } else {
                                assert!(result.wait_timeout(LONG))
                            }
                            assert!(result.ready());
                        })
                    })
                    .collect();
                waiters.iter().for_each(|_| waiting.recv().unwrap());
                opener.open();
            });
            assert_eq!(result.get().unwrap(), 5);
        }
    });
}

#[test]
fn d16_waits_have_timeouts_that_say_what_happened() {
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

#[test]
fn d17_a_task_may_wait_for_a_handle_that_was_made_outside() {
    watchdog(20, || {
        for kind in THREADS {
            let pool = kind.pool();
            let (send, receive) = bounded::<AsyncResult<u64>>(1);
            let waits = pool.apply_async(move || receive.recv().unwrap().get().unwrap() + 1, ());
            // Behind it in the queue, on a pool of one.
            let awaited = pool.apply_async(square, (5,));
            send.send(awaited).unwrap();
            assert_eq!(waits.get().unwrap(), 26, "{kind:?}");
            let (send, receive) = bounded::<AsyncResult<Vec<u64>>>(1);
            let waits = pool.apply_async(move || receive.recv().unwrap().get().unwrap(), ());
            send.send(pool.map_async(square, 0..4)).unwrap();
            assert_eq!(waits.get().unwrap(), [0, 1, 4, 9], "{kind:?}");
        }
    });
}

#[test]
fn d18_a_task_may_end_its_pool_and_cannot_join_it() {
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
fn d20_leaving_without_close_finishes_everything() {
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
fn d20_leaving_by_a_panic_resolves_everything() {
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
fn d21_replacement_loses_and_repeats_no_task() {
    // python/cpython#91315, python/cpython#82980
    watchdog(50, || {
        for (workers, tasks) in
            [1, 2, 4].into_iter().flat_map(|workers| [1, 2, 3].map(|n| (workers, n)))
        {
            let pool = Kind::Replaced(workers, tasks).pool();
            // Each generation is the start of a thread: fewer where generations are short.
            let count = scaled(if tasks == 3 { 10_000 } else { 1000 * tasks });
            let ran: Arc<Vec<Counter>> = Arc::new((0..count).map(|_| Counter::default()).collect());
            let results: Vec<_> = (0..count)
                .map(|i| {
                    let ran = Arc::clone(&ran);
                    pool.apply_async(move || ran[i].add(), ())
                })
                .collect();
            pool.close();
            pool.join().unwrap();
            assert!(results.iter().all(|result| result.successful().unwrap()));
            assert!(ran.iter().all(|ran| ran.get() == 1), "{workers} workers, {tasks} tasks each");
        }
    });
}

#[test]
fn d26_a_queued_task_can_be_cancelled_and_never_runs() {
    watchdog(20, || {
        for kind in THREADS {
            let pool = kind.pool();
            let ran = Counter::default();
            let (mut opener, held) = hold(&pool, kind.workers());
            let count = ran.clone();
            let mut call = pool.apply_async(move || count.add(), ());
            let count = ran.clone();
            let map = pool.chunksize(1).map_async(move |_| count.add(), 0..9);
            assert_matches!(call.get_timeout(Duration::from_millis(1)), Err(Error::Timeout));
            assert!(call.cancel());
            assert!(!call.cancel(), "it is not queued any more");
            assert_matches!(call.get(), Err(Error::Cancelled), "{kind:?}");
            assert!(map.cancel());
            assert_matches!(map.get(), Err(Error::Cancelled), "{kind:?}");
            assert!(!held[0].cancel(), "it runs");
            opener.open();
            held.into_iter().for_each(|held| held.get().unwrap());
            pool.close();
            pool.join().unwrap();
            assert_eq!(ran.get(), 0, "{kind:?}");
        }
    });
}

#[test]
fn d28_callbacks_have_run_when_get_returns() {
    watchdog(30, || {
        for kind in LASTING {
            let pool = kind.pool();
            for i in 0..scaled(10_000) {
                let (ran, count) = (Counter::default(), Counter::default());
                let callback = {
                    let count = count.clone();
                    move |_: &u64| count.add()
                };
                let task = {
                    let ran = ran.clone();
                    move || (ran.add(), i).1
                };
                assert_eq!(pool.apply_async(task, ()).callback(callback).get().unwrap(), i);
                assert_eq!((ran.get(), count.get()), (1, 1), "{kind:?}");
            }
        }
    });
}

#[test]
fn d31_twenty_thousand_tasks_that_submit_and_wait() {
    watchdog(30, || {
        for kind in LASTING.into_iter().chain([Kind::Lasting(2)]) {
            let pool = Arc::new(kind.pool());
            let results: Vec<_> = (0..scaled(20_000))
                .map(|i| {
                    let inner = Arc::clone(&pool);
                    pool.apply_async(move || inner.apply_async(square, (i,)).get().unwrap(), ())
                })
                .collect();
            for (result, i) in results.into_iter().zip(0..) {
                assert_eq!(result.get().unwrap(), i * i, "{kind:?}");
            }
            pool.close();
            pool.join().unwrap();
        }
    });
}

#[test]
fn d31_one_task_that_submits_twenty_thousand_and_waits_for_the_last_first() {
    watchdog(30, || {
        for kind in LASTING {
            let pool = kind.pool();
            let sum = pool.apply(
                || {
                    let results: Vec<_> =
                        (0..scaled(20_000)).map(|i| pool.apply_async(square, (i % 10,))).collect();
                    results.into_iter().rev().map(|result| result.get().unwrap()).sum::<u64>()
                },
                (),
            );
            assert_eq!(sum.unwrap(), scaled(20_000) / 10 * 285, "{kind:?}");
        }
    });
}

#[test]
fn d32_a_value_whose_drop_panics_harms_nobody() {
    watchdog(20, || {
        for kind in THREADS {
            let pool = kind.pool();
            let (gate, mut opener) = gate();
            for _ in 0..4 {
                let gate = gate.clone();
                // The handle is gone before the value is there.
                drop(pool.apply_async(move || (gate.pass(), Bomb).1, ()));
            }
            // And here what the closure holds.
            let bomb = Bomb;
            let result = pool.apply_async(move || drop(bomb), ());
            let unrun = pool.apply_async(move |bomb: Bomb| drop(bomb), (Bomb,));
            opener.open();
            panicked(result.get());
            panicked(unrun.get());
            assert_eq!(pool.map(square, 0..4).unwrap(), [0, 1, 4, 9]);
            // What was cancelled is dropped too.
            let (mut opener, held) = hold(&pool, kind.workers());
            let bomb = Bomb;
            let queued = pool.apply_async(move || drop(bomb), ());
            assert!(queued.cancel());
            opener.open();
            held.into_iter().for_each(|held| held.get().unwrap());
            assert_eq!(pool.apply(square, (5,)).unwrap(), 25, "{kind:?}");
            pool.close();
            pool.join().unwrap();
        }
    });
}
