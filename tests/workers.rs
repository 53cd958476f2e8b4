//! The workers: how many there are, how tasks know theirs, initializers, how workers are replaced, and in which order
//! they begin calls. What they keep: `worker_locals.rs`; rayon code on them: `rayon_inside.rs`.

mod common;

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::panic::{AssertUnwindSafe, catch_unwind, panic_any, set_hook, take_hook};
use std::sync::{Arc, Mutex, OnceLock, Weak};
use std::thread::{self, ThreadId};
use std::time::Duration;

use crossbeam_channel::bounded;
use parpool::{AsyncResult, Context, Error, Pool, WorkerId, WorkerLocal, current_worker};

use common::{
    ALL, Bomb, Counter, Crowd, Drops, Kind, ON_PURPOSE, THREADS, all_pools, assert_no_threads,
    eventually, fewer, gate, hold, live_threads, scaled, square, watchdog,
};

// ---- who runs this -------------------------------------------------------------------------------

#[test]
fn the_number_of_workers() {
    watchdog(10, || {
        assert_matches!(Pool::new(0), Err(Error::InvalidArgument(_)));
        assert_matches!(Pool::builder().processes(0).build(), Err(Error::InvalidArgument(_)));
        let pool = Pool::builder().processes(3).context(Context::threads().name("three")).build();
        let pool = pool.unwrap();
        assert_eq!(pool.processes(), 3);
        // A thread takes its name when it comes up.
        assert!(eventually(|| live_threads("three").is_none_or(|live| live == 3)));
        let cores = thread::available_parallelism().unwrap().get();
        assert_eq!(Pool::new(None).unwrap().processes(), cores);
    });
}

#[test]
fn more_workers_than_there_can_be_are_an_invalid_argument() {
    watchdog(20, || {
        let most = rayon::max_num_threads();
        for processes in [most + 1, 1_000_000_000, usize::MAX] {
            for tasks in [None, Some(2)] {
                for insights in [false, true] {
                    let builder = Pool::builder().processes(processes).insights(insights);
                    let built = builder.max_tasks_per_child(tasks).build();
                    assert!(matches!(built, Err(Error::InvalidArgument(_))), "{processes}");
                }
            }
            // It has one in any case.
            let serial = Pool::builder().processes(processes).context(Context::serial());
            assert_eq!(serial.build().unwrap().processes(), 1);
        }
    });
}

#[test]
#[cfg_attr(miri, ignore = "any size of stack is fine there")]
fn a_stack_is_large_enough_or_the_pool_cannot_be_started() {
    watchdog(60, || {
        let sizes =
            [0, 1, 1000, 1 << 20, 1 << 60, isize::MAX as usize, usize::MAX - 4095, usize::MAX];
        for size in sizes {
            for tasks in [None, Some(2)] {
                let context = Context::threads().stack_size(size);
                let builder = Pool::builder().processes(2).max_tasks_per_child(tasks);
                match builder.context(context).build() {
                    Ok(pool) => {
                        assert!(size <= 1 << 20, "{size}");
                        assert_eq!(pool.map(|x| x * x, 0..5).unwrap(), [0, 1, 4, 9, 16]);
                        assert_eq!(pool.map_async(|x| x, 0..3).get().unwrap(), [0, 1, 2]);
                        assert_eq!(pool.imap(|x| x, 0..3).count(), 3);
                        let panics = pool.apply(|| panic!("{ON_PURPOSE}"), ());
                        assert!(matches!(panics, Err::<(), _>(Error::Panicked(_))), "{size}");
                    }
                    Err(error) => {
                        assert!(
                            size > 1 << 20 && matches!(error, Error::Start(_)),
                            "{size}: {error}"
                        );
                    }
                }
            }
        }
    });
}

#[test]
#[cfg_attr(miri, ignore = "any size of stack is fine there")]
fn a_worker_that_cannot_be_started_fails_the_pool() {
    watchdog(20, || {
        // The first few have room in the address space, so there is something to clean up.
        let context = Context::threads().name("large").stack_size(1 << 45);
        for workers in [1, 8] {
            for tasks in [None, Some(1)] {
                let builder = Pool::builder().processes(workers).context(context.clone());
                match builder.max_tasks_per_child(tasks).build() {
                    Err(Error::Start(_)) => {}
                    // A system that gives one thread such a stack.
                    Ok(_) if workers == 1 => {}
                    other => panic!("{other:?}"),
                }
                assert_no_threads("large");
            }
        }
    });
}

#[test]
fn outside_of_every_pool_there_is_no_worker() {
    assert_eq!(current_worker(), None);
    let _pool = Pool::new(1).unwrap();
    assert_eq!(current_worker(), None);
    assert!(!parpool::is_cancelled());
}

#[test]
fn every_task_knows_its_worker() {
    watchdog(20, || {
        for (kind, pool) in all_pools() {
            let here = thread::current().id();
            let who = || (current_worker().expect("a worker runs it"), thread::current().id());
            let mut seen = pool.map(|_| who(), 0..fewer(100, 12)).unwrap();
            seen.extend(pool.map_async(move |_| who(), 0..fewer(100, 12)).get().unwrap());
            seen.push(pool.apply(who, ()).unwrap());
            seen.push(pool.apply_async(who, ()).get().unwrap());
            seen.push(pool.install(who).unwrap());
            let mut threads = HashMap::<WorkerId, ThreadId>::new();
            for (worker, thread) in seen {
                assert!(worker.index() < kind.workers(), "{kind:?}: {worker:?}");
                if kind == Kind::Serial {
                    assert_eq!((worker.index(), thread), (0, here));
                }
                // One thread each, as long as it is that worker.
                assert_eq!(*threads.entry(worker).or_insert(thread), thread, "{kind:?}");
            }
            if !matches!(kind, Kind::Replaced(..)) {
                assert!(threads.keys().all(|worker| worker.generation() == 0));
            }
            assert_eq!(current_worker(), None, "{kind:?}: it is over");
        }
    });
}

#[test]
fn all_workers_take_part() {
    watchdog(20, || {
        for kind in THREADS {
            let pool = kind.pool();
            let (gate, mut opener) = gate();
            let calls: Vec<_> = (0..kind.workers())
                .map(|_| {
                    let gate = gate.clone();
                    pool.apply_async(move || (gate.pass(), current_worker().unwrap().index()).1, ())
                })
                .collect();
            opener.wait_for(kind.workers());
            opener.open();
            let workers: HashSet<_> = calls.into_iter().map(|call| call.get().unwrap()).collect();
            assert_eq!(workers.len(), kind.workers());
        }
    });
}

#[test]
fn never_more_tasks_at_once_than_workers() {
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
fn a_pool_in_a_task_of_another_has_workers_of_its_own() {
    watchdog(20, || {
        for (outer, inner) in ALL.into_iter().flat_map(|outer| ALL.map(|inner| (outer, inner))) {
            let (outer, inner) = (outer.pool(), inner.pool());
            let ran = outer.apply(
                || {
                    let before = current_worker();
                    let within = inner.map(|_| current_worker().unwrap(), 0..4).unwrap();
                    assert_eq!(current_worker(), before);
                    within
                },
                (),
            );
            assert!(ran.unwrap().iter().all(|worker| worker.index() < inner.processes()));
        }
    });
}

#[test]
fn callbacks_and_initializers_know_their_worker() {
    watchdog(20, || {
        for kind in ALL {
            let seen = Arc::new(Mutex::new(Vec::new()));
            let note = Arc::clone(&seen);
            let initializer = move || note.lock().unwrap().push(current_worker().unwrap().index());
            let pool = kind.builder().initializer(initializer, ()).build().unwrap();
            let mut indices = seen.lock().unwrap().clone();
            indices.sort();
            assert!(indices.into_iter().eq(0..kind.workers()), "{kind:?}");
            if kind == Kind::Serial {
                continue;
            }
            let (gate, mut opener) = gate();
            let (send, worker) = bounded(1);
            let call = pool
                .apply_async(move || (gate.pass(), current_worker()).1, ())
                .callback(move |_| send.send(current_worker()).unwrap());
            opener.open();
            assert_eq!(call.get().unwrap(), worker.recv().unwrap());
        }
    });
}

// ---- initializers --------------------------------------------------------------------------------

#[test]
fn the_initializer_runs_once_on_each_worker_before_its_tasks() {
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
fn the_initializer_runs_again_on_each_new_worker() {
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
fn an_initializer_gets_a_clone_of_its_arguments() {
    watchdog(20, || {
        for kind in ALL {
            let seen = Arc::new(Mutex::new(Vec::new()));
            let note = Arc::clone(&seen);
            // `Cell` is not `Sync`, and needs not be.
            let initializer = move |name: String, number: Cell<u32>| {
                note.lock().unwrap().push((name, number.replace(0)));
            };
            let initargs = (String::from("x"), Cell::new(7));
            let pool = kind.builder().initializer(initializer, initargs).build().unwrap();
            pool.map(|x| x + 1, 0..fewer(20, 6)).unwrap();
            let seen = seen.lock().unwrap();
            assert!(seen.len() >= kind.workers());
            assert!(seen.iter().all(|seen| *seen == (String::from("x"), 7)), "{kind:?}");
        }
    });
}

#[test]
fn an_initializer_may_return_a_result() {
    watchdog(20, || {
        for kind in ALL {
            let fine = |n: i32| u8::try_from(n).map(|_| "ignored");
            drop(kind.builder().initializer(fine, (200,)).build().unwrap());
            let error = kind.named("init").initializer(fine, (300,)).build().unwrap_err();
            let Error::Initializer(inner) = error else { panic!("{kind:?}: {error:?}") };
            assert!(inner.is::<std::num::TryFromIntError>(), "its own type");
            assert_no_threads("init");
        }
    });
}

#[test]
fn the_panic_of_an_initializer_keeps_its_payload() {
    watchdog(20, || {
        for kind in ALL {
            let initializer = || assert!(parpool::is_cancelled(), "{ON_PURPOSE}");
            let error = kind.builder().initializer(initializer, ()).build().unwrap_err();
            let Error::Initializer(inner) = error else { panic!("{kind:?}: {error:?}") };
            let panic = inner.downcast_ref::<parpool::Panic>().expect("a panic");
            assert_eq!((panic.index(), panic.message()), (None, ON_PURPOSE));
        }
    });
}

#[test]
fn an_initializer_that_fails_is_the_end_of_it() {
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
                let error = kind.named("failing").initializer(initializer, ()).build().unwrap_err();
                let text = if panics { "panicked: on purpose" } else { "no luck" };
                assert_matches!(&error, Error::Initializer(inner) if inner.to_string() == text);
                assert!(
                    (1..=kind.workers()).contains(&runs.get()),
                    "{kind:?}: {} runs",
                    runs.get()
                );
                assert_no_threads("failing");
            }
        }
    });
}

#[test]
fn one_worker_whose_initializer_fails_fails_the_pool() {
    watchdog(10, || {
        for (kind, bad) in [Kind::Lasting(3), Kind::Replaced(3, 1)]
            .into_iter()
            .flat_map(|kind| [0, 1, 2].map(|bad| (kind, bad)))
        {
            let initializer = move || match current_worker() {
                Some(worker) if worker.index() == bad => Err("no luck"),
                _ => Ok(()),
            };
            let built = kind.named("one-fails").initializer(initializer, ()).build();
            assert_matches!(built, Err(Error::Initializer(_)), "{kind:?} {bad}");
            assert_no_threads("one-fails");
        }
    });
}

#[test]
fn an_initializer_that_fails_later_ends_the_pool_and_everybody_hears_why() {
    watchdog(30, || {
        for (kind, panics) in [Kind::Replaced(1, 2), Kind::Replaced(3, 2)]
            .into_iter()
            .flat_map(|kind| [false, true].map(|panics| (kind, panics)))
        {
            let initializer = move || match current_worker() {
                Some(worker) if worker.generation() == 0 => Ok(()),
                _ if panics => panic!("{ON_PURPOSE}"),
                _ => Err("no luck"),
            };
            let pool = kind.named("later").initializer(initializer, ()).build().unwrap();
            let (gate, mut opener) = gate();
            let calls: Vec<_> = (0..fewer(100, 16))
                .map(|_| {
                    let gate = gate.clone();
                    pool.apply_async(move || gate.pass(), ())
                })
                .collect();
            let map = pool.map_async(|x| x, 0..10);
            opener.open();
            let is_why = |error: &Error| matches!(error, Error::Initializer(_));
            let mut done = 0;
            for call in calls {
                match call.get() {
                    Ok(()) => done += 1,
                    Err(error) => assert!(is_why(&error), "{kind:?}: {error:?}"),
                }
            }
            assert!(done <= 2 * kind.workers(), "{done} done by the first workers");
            assert!(is_why(&map.get().unwrap_err()));
            // New calls are refused with it.
            assert!(is_why(&pool.apply(|| (), ()).unwrap_err()), "{kind:?}");
            assert!(is_why(&pool.map(|x| x, 0..3).unwrap_err()), "{kind:?}");
            assert!(is_why(&pool.apply_async(|| (), ()).get().unwrap_err()), "{kind:?}");
            assert!(is_why(&pool.map_async(|x| x, 0..3).get().unwrap_err()), "{kind:?}");
            pool.join().unwrap();
            assert_no_threads("later");
        }
    });
}

/// Of several failures one is the error. The others are nobody's, and so is what their `Drop` does.
#[test]
fn initializers_that_fail_with_what_panics_when_dropped_end_the_pool() {
    watchdog(30, || {
        for kind in [Kind::Lasting(3), Kind::Replaced(3, 1)] {
            for _ in 0..fewer(10, 2) {
                let initializer = || -> () { panic_any(Bomb) };
                let error = kind.named("bombs").initializer(initializer, ()).build().unwrap_err();
                assert_matches!(error, Error::Initializer(_), "{kind:?}");
                let _ = catch_unwind(AssertUnwindSafe(|| drop(error)));
                assert_no_threads("bombs");
            }
        }
        for _ in 0..fewer(10, 2) {
            let kind = Kind::Replaced(3, 1);
            let initializer = || match current_worker() {
                Some(worker) if worker.generation() == 0 => {}
                _ => panic_any(Bomb),
            };
            let pool = kind.named("bombs").initializer(initializer, ()).build().unwrap();
            let (mut opener, held) = hold(&pool, kind.workers());
            let late = pool.apply_async(|| (), ());
            opener.open();
            held.into_iter().for_each(|held| drop(held.get()));
            assert_matches!(late.get(), Err(Error::Initializer(_)));
            pool.close();
            pool.join().unwrap();
            assert_no_threads("bombs");
            // The pool has the error to the end.
            let _ = catch_unwind(AssertUnwindSafe(|| drop(pool)));
        }
    });
}

#[test]
fn an_initializer_that_fails_later_wakes_who_waits() {
    watchdog(30, || {
        for _ in 0..fewer(20, 2) {
            let initializer = || match current_worker() {
                Some(worker) if worker.generation() < 3 => Ok(()),
                _ => Err("no luck"),
            };
            let pool = Kind::Replaced(2, 1).builder().initializer(initializer, ()).build();
            let pool = pool.unwrap();
            thread::scope(|scope| {
                for i in 0..4 {
                    let pool = &pool;
                    scope.spawn(move || {
                        let error = loop {
                            let result = match i {
                                0 => pool.apply(|| (), ()),
                                1 => pool.map(|x| x, 0..10).map(drop),
                                2 => pool.map_async(|x| x, 0..10).get().map(drop),
                                _ => pool.apply_async(|| (), ()).get(),
                            };
                            if let Err(error) = result {
                                break error;
                            }
                        };
                        assert_matches!(error, Error::Initializer(_));
                    });
                }
            });
            pool.join().unwrap();
        }
    });
}

#[test]
fn an_initializer_that_fails_later_ends_a_serial_pool_too() {
    watchdog(10, || {
        let initializer = || match current_worker() {
            Some(worker) if worker.generation() == 0 => Ok(()),
            _ => Err("no luck"),
        };
        let builder = Kind::Serial.builder().max_tasks_per_child(2);
        let pool = builder.initializer(initializer, ()).build().unwrap();
        assert_eq!(pool.apply(|| 1, ()).unwrap(), 1);
        let second = pool.apply_async(|| 2, ());
        assert_matches!(pool.apply(|| 3, ()), Err(Error::Initializer(_)));
        assert_matches!(second.get(), Ok(2) | Err(Error::Initializer(_)));
        pool.join().unwrap();
    });
}

/// Counts the panics on threads whose names begin with `name-`.
fn panics_on_threads(name: &'static str) -> Counter {
    let (panics, hook) = (Counter::default(), take_hook());
    let count = panics.clone();
    set_hook(Box::new(move |info| {
        let thread = thread::current();
        if thread
            .name()
            .and_then(|own| own.strip_prefix(name))
            .is_some_and(|end| end.starts_with('-'))
        {
            count.add();
        }
        hook(info);
    }));
    panics
}

/// Though it has had as many tasks by then as a worker has: it never was a runner.
#[test]
fn an_initializer_that_uses_its_pool_and_then_fails_gives_up_its_place_once() {
    watchdog(30, || {
        // To give it up twice is to count below zero, on a thread whose panics are nobody's.
        let panics = panics_on_threads("spent");
        for count in 1..=3 {
            let slot: Arc<OnceLock<Weak<Pool>>> = Arc::default();
            let own = Arc::clone(&slot);
            let initializer = move || match own.get().and_then(Weak::upgrade) {
                Some(pool) => pool.apply(|| (), ()).map_err(|_| "ended").and(Err("later")),
                None => Ok(()),
            };
            let builder = Kind::Replaced(count, 1).named("spent").initializer(initializer, ());
            let pool = Arc::new(builder.build().unwrap());
            slot.set(Arc::downgrade(&pool)).unwrap();
            let (opener, held) = hold(&pool, count);
            let queued: Vec<_> = (0..5).map(|i| pool.apply_async(move || i, ())).collect();
            drop(opener);
            let is_why = |error: &Error| matches!(error, Error::Initializer(_));
            for held in held {
                // Done, unless the pool had ended by then.
                assert!(held.get().map_or_else(|error| is_why(&error), |()| true), "{count}");
            }
            for queued in queued {
                assert!(is_why(&queued.get().unwrap_err()), "{count}");
            }
            assert!(is_why(&pool.apply(|| (), ()).unwrap_err()), "{count}");
            pool.join().unwrap();
            drop(pool);
            assert_no_threads("spent");
            assert_eq!(panics.get(), 0, "{count}");
        }
    });
}

/// A worker that was spent by its initializer would do one task and leave more than that behind.
#[test]
fn an_initializer_that_maps_with_its_pool_leaves_the_worker_fresh() {
    watchdog(60, || {
        for kind in [Kind::Replaced(1, 3), Kind::Replaced(2, 3), Kind::Replaced(3, 1)] {
            let slot: Arc<OnceLock<Weak<Pool>>> = Arc::default();
            let own = Arc::clone(&slot);
            let initializer = move || match own.get().and_then(Weak::upgrade) {
                Some(pool) => pool.map(|x| x, 0..3).map(drop),
                None => Ok(()),
            };
            let pool = kind.builder().initializer(initializer, ()).build().unwrap();
            let pool = Arc::new(pool);
            slot.set(Arc::downgrade(&pool)).unwrap();
            let generation = || current_worker().unwrap().generation();
            let calls: Vec<_> = (0..30).map(|_| pool.apply_async(generation, ())).collect();
            let generations = calls.into_iter().map(|call| call.get().unwrap());
            let generations: Vec<usize> = generations.collect();
            if kind == Kind::Replaced(1, 3) {
                // Nobody else counts a part of such a map as its own.
                assert!(generations.iter().copied().eq((0..30).map(|i| i / 3)), "{generations:?}");
            }
        }
    });
}

// ---- replacement ---------------------------------------------------------------------------------

/// Counts threads from the first task that touches it until the thread's end.
struct Alive(Crowd);

impl Drop for Alive {
    fn drop(&mut self) {
        // A moment in which the successor would be seen, were it there.
        thread::sleep(Duration::from_millis(1));
        self.0.leave();
    }
}

thread_local! {
    static ALIVE: RefCell<Option<Alive>> = const { RefCell::new(None) };
}

fn touch(crowd: &Crowd) -> ThreadId {
    ALIVE.with_borrow_mut(|alive| {
        alive.get_or_insert_with(|| {
            crowd.enter();
            Alive(crowd.clone())
        });
    });
    thread::current().id()
}

#[test]
fn a_life_of_no_task_is_refused() {
    let error = Pool::builder().processes(2).max_tasks_per_child(0).build();
    assert_matches!(error, Err(Error::InvalidArgument(_)));
    let error = Pool::builder().context(Context::serial()).max_tasks_per_child(0).build();
    assert_matches!(error, Err(Error::InvalidArgument(_)));
    Pool::builder().processes(1).max_tasks_per_child(None).build().unwrap();
}

#[test]
fn all_results_come_from_workers_that_are_replaced() {
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
fn a_generation_is_exactly_so_many_tasks() {
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
fn a_pool_closed_early_finishes_on_new_workers() {
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
fn replacement_loses_and_repeats_no_task() {
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
fn a_new_worker_is_a_new_thread_and_comes_after_the_old_one_is_gone() {
    const CALLS: usize = fewer(60, 8);

    watchdog(30, || {
        for workers in [1, 3] {
            let pool = Kind::Replaced(workers, 2).named("fresh").build().unwrap();
            let crowd = Crowd::default();
            let calls: Vec<_> = (0..CALLS)
                .map(|_| {
                    let crowd = crowd.clone();
                    pool.apply_async(move || (touch(&crowd), current_worker().unwrap()), ())
                })
                .collect();
            let mut threads = BTreeMap::new();
            for call in calls {
                let (thread, worker) = call.get().unwrap();
                let key = (worker.index(), worker.generation());
                assert_eq!(*threads.entry(key).or_insert(thread), thread);
            }
            let distinct: HashSet<_> = threads.values().collect();
            assert_eq!(distinct.len(), threads.len(), "each is a thread of its own");
            assert!(threads.len() >= CALLS / 2);
            pool.close();
            pool.join().unwrap();
            assert_eq!(crowd.now(), 0, "the thread-locals of all are destroyed");
            assert!(crowd.most() <= workers, "{} at once", crowd.most());
            assert_no_threads("fresh");
        }
    });
}

#[test]
fn chunks_of_maps_are_tasks_too() {
    watchdog(30, || {
        for (workers, tasks) in [(1, 1), (1, 3), (3, 2)] {
            for verb in ["map", "try_map", "starmap", "map_async", "starmap_async"] {
                let pool = Kind::Replaced(workers, tasks).pool();
                let options = pool.chunksize(5);
                let who = |_: usize| current_worker().unwrap();
                let items = 0..fewer(63, 18);
                let ran = match verb {
                    "map" => options.map(who, items),
                    "try_map" => Ok(options.try_map(|i| Ok::<_, ()>(who(i)), items).unwrap()),
                    "starmap" => options.starmap(who, items.map(|i| (i,))),
                    "map_async" => options.map_async(who, items).get(),
                    _ => options.starmap_async(who, items.map(|i| (i,))).get(),
                };
                let mut chunks = BTreeMap::<_, usize>::new();
                for chunk in ran.unwrap().chunks(5) {
                    assert!(chunk.iter().all(|worker| *worker == chunk[0]), "{verb}: {chunk:?}");
                    *chunks.entry((chunk[0].index(), chunk[0].generation())).or_default() += 1;
                }
                for ((index, generation), count) in &chunks {
                    let last = !chunks.contains_key(&(*index, generation + 1));
                    assert!(*count == tasks || last && *count < tasks, "{verb}: {chunks:?}");
                }
            }
        }
    });
}

#[test]
fn thread_locals_and_worker_locals_start_anew() {
    thread_local! {
        static HOARD: RefCell<Vec<usize>> = const { RefCell::new(Vec::new()) };
    }

    watchdog(20, || {
        for workers in [1, 3] {
            let pool = Kind::Replaced(workers, 3).pool();
            let local = Arc::new(WorkerLocal::new(Vec::new));
            let calls: Vec<_> = (0..fewer(90, 10))
                .map(|i| {
                    let local = Arc::clone(&local);
                    let task = move || {
                        let hoarded = HOARD.with_borrow_mut(|hoard| {
                            hoard.push(i);
                            hoard.len()
                        });
                        let kept = local.with(|kept: &mut Vec<usize>| {
                            kept.push(i);
                            kept.len()
                        });
                        (hoarded, kept)
                    };
                    pool.apply_async(task, ())
                })
                .collect();
            for call in calls {
                let (hoarded, kept) = call.get().unwrap();
                assert!((1..=3).contains(&hoarded));
                assert_eq!(kept, hoarded);
            }
        }
    });
}

#[test]
fn a_task_that_panics_counts_and_is_replaced_like_any_other() {
    watchdog(20, || {
        let pool = Kind::Replaced(1, 2).pool();
        let generations: Vec<_> = (0..6)
            .map(|i| {
                let seen = Counter::default();
                let note = seen.clone();
                let result = pool.apply(
                    move || {
                        (0..current_worker().unwrap().generation()).for_each(|_| note.add());
                        assert!(i % 2 == 0, "{ON_PURPOSE}");
                    },
                    (),
                );
                assert_eq!(result.is_ok(), i % 2 == 0);
                seen.get()
            })
            .collect();
        assert_eq!(generations, [0, 0, 1, 1, 2, 2]);
    });
}

#[test]
fn a_serial_pool_replaces_its_state() {
    watchdog(10, || {
        let runs = Counter::default();
        let count = runs.clone();
        let builder = Kind::Serial.builder().max_tasks_per_child(2);
        let pool = builder.initializer(move || count.add(), ()).build().unwrap();
        let local = WorkerLocal::new(|| 0);
        let uses = (0..6).map(|_| {
            pool.apply(
                || {
                    local.with(|uses| *uses += 1);
                    (current_worker().unwrap().generation(), local.with(|uses| *uses))
                },
                (),
            )
        });
        let uses: Vec<_> = uses.map(Result::unwrap).collect();
        assert_eq!(uses, [(0, 1), (0, 2), (1, 1), (1, 2), (2, 1), (2, 2)]);
        assert_eq!(runs.get(), 4);
        let generations = pool.chunksize(1).map(|_| current_worker().unwrap().generation(), 0..4);
        assert_eq!(generations.unwrap(), [3, 3, 4, 4]);
    });
}

#[test]
fn the_census_finds_threads_by_name() {
    if live_threads("census").is_none() {
        return;
    }
    let named = || Pool::builder().processes(2).context(Context::threads().name("census")).build();
    let (one, two) = (named().unwrap(), named().unwrap());
    assert!(eventually(|| live_threads("census") == Some(4)));
    drop(one);
    assert!(eventually(|| live_threads("census") == Some(2)));
    drop(two);
    assert_no_threads("census");
}

#[test]
fn a_task_that_owns_its_pool_may_be_skipped_by_the_last_worker() {
    // On a thread that was no worker any more the drop of the pool waited for that thread.
    watchdog(20, || {
        for terminates in [true, false] {
            let pool = Arc::new(Kind::Replaced(1, 1).named("skip").build().unwrap());
            let (opener, held) = hold(&pool, 1);
            let owner = Arc::clone(&pool);
            drop(pool.apply_async(move || owner.processes(), ()));
            if terminates {
                pool.terminate()
            } else {
                pool.close()
            }
            drop((pool, opener, held));
            assert_no_threads("skip");
        }
    });
}

#[test]
fn what_comes_as_the_last_worker_gives_up_is_refused_or_run() {
    watchdog(60, || {
        for round in 0..scaled(1000_u64) {
            let pool = Arc::new(Kind::Replaced(1, 1).pool());
            let drops = Drops::default();
            let submits = {
                let (pool, drops) = (Arc::clone(&pool), drops.clone());
                thread::spawn(move || {
                    let submit = || {
                        let token = drops.make(0);
                        pool.apply_async(move || token.value(), ())
                    };
                    let calls: Vec<_> = (0..fewer(20, 4)).map(|_| submit()).collect();
                    calls.into_iter().map(AsyncResult::get).collect::<Vec<_>>()
                })
            };
            // At any moment of it.
            thread::sleep(Duration::from_micros(round % 100));
            if round % 2 == 0 {
                pool.close()
            } else {
                pool.terminate()
            }
            pool.join().unwrap();
            for outcome in submits.join().unwrap() {
                match outcome {
                    // Closed, it skips nothing that it has accepted.
                    Err(Error::Terminated) => assert!(round % 2 == 1, "round {round}"),
                    outcome => assert_matches!(outcome, Ok(_) | Err(Error::NotRunning)),
                }
            }
            drop(pool);
            assert!(
                eventually(|| drops.alive() == 0),
                "round {round}: a task was left in the queue"
            );
            drops.assert_each_once();
        }
    });
}

#[test]
fn a_serial_worker_is_not_replaced_under_a_task() {
    watchdog(20, || {
        let pool = Kind::Serial.builder().max_tasks_per_child(2).build().unwrap();
        let generation = || current_worker().unwrap().generation();
        let task = || (generation(), pool.chunksize(1).map(|x| x, 0..5).unwrap(), generation());
        let (before, _, after) = pool.apply(task, ()).unwrap();
        assert_eq!(before, after);
        assert_eq!(pool.apply(generation, ()).unwrap(), before + 1);
    });
}

// ---- a serial pool in a task ---------------------------------------------------------------------

#[test]
fn a_worker_is_known_as_one_inside_of_a_serial_pool() {
    watchdog(20, || {
        for kind in THREADS {
            let (pool, serial) = (Arc::new(kind.pool()), Arc::new(Kind::Serial.pool()));
            let (inner, inside) = (Arc::clone(&pool), Arc::clone(&serial));
            let maps = move || inside.apply(|| inner.map(|x| x, [1, 2]).unwrap(), ()).unwrap();
            assert_eq!(pool.apply_async(maps, ()).get().unwrap(), [1, 2], "{kind:?}");
            let (inner, inside) = (Arc::clone(&pool), Arc::clone(&serial));
            let joins = move || inside.apply(|| (inner.close(), inner.join()).1, ()).unwrap();
            let joined = pool.apply_async(joins, ()).get().unwrap();
            assert_matches!(joined, Err(Error::WouldDeadlock), "{kind:?}");
            pool.join().unwrap();
            // The last owner goes there.
            let pool = Arc::new(kind.pool());
            let (send, receive) = bounded::<Arc<Pool>>(1);
            let drops = move || {
                let last = receive.recv().unwrap();
                serial.apply(move || drop(last), ()).unwrap();
                3
            };
            let call = pool.apply_async(drops, ());
            send.send(pool).unwrap();
            assert_eq!(call.get().unwrap(), 3, "{kind:?}");
        }
    });
}

// ---- the order of calls --------------------------------------------------------------------------

/// Step by step: one worker begins all calls from outside. When it has begun one, and before it ends that, the task of
/// the other worker submits more, which it does itself, and cancels one that would have begun later.
#[test]
fn calls_begin_in_their_order_whatever_leaves_the_queue_between_two_of_them() {
    const CALLS: usize = 400;

    watchdog(60, || {
        let pool = Arc::new(Pool::new(2).unwrap());
        let (begin, begun) = bounded(0);
        let (go, gone) = bounded::<()>(0);
        let (give, handles) = bounded::<AsyncResult<()>>(CALLS);
        let inner = Arc::clone(&pool);
        let steps = move || {
            let mut order = Vec::new();
            for i in begun {
                order.push(i);
                for j in 0..20 {
                    assert_eq!(inner.apply_async(move || j, ()).get().unwrap(), j);
                }
                if let Ok(handle) = handles.try_recv() {
                    assert!(handle.cancel());
                }
                go.send(()).unwrap();
            }
            order
        };
        let order = pool.apply_async(steps, ());
        let (opener, held) = hold(&pool, 1);
        let mut early = Vec::new();
        for i in 0..CALLS {
            let (begin, gone) = (begin.clone(), gone.clone());
            let call = pool.apply_async(
                move || {
                    begin.send(i).unwrap();
                    gone.recv().unwrap();
                },
                (),
            );
            match i % 4 {
                // Between two of them, ahead of what begins.
                1 => give.send(call).unwrap(),
                3 => early.push(call),
                _ => drop(call),
            }
        }
        drop(begin);
        // Out of the middle, from the back.
        assert!(early.iter().rev().all(AsyncResult::cancel));
        drop(early);
        drop(opener);
        let order = order.get().unwrap();
        let left = |i: &usize| matches!(i % 4, 0 | 2);
        assert!(order.iter().copied().eq((0..CALLS).filter(left)), "{order:?}");
        held.into_iter().for_each(|held| held.get().unwrap());
    });
}

/// The same at any moment.
#[test]
fn calls_begin_in_their_order_while_others_leave_the_queue() {
    const CALLS: usize = 200;

    watchdog(60, || {
        for _ in 0..scaled(20) {
            let pool = Arc::new(Pool::new(2).unwrap());
            let (mut opener, held) = hold(&pool, 1);
            let (inner, (gate, mut start)) = (Arc::clone(&pool), gate());
            let others = pool.apply_async(
                move || {
                    gate.pass();
                    for j in 0..2 * CALLS {
                        assert_eq!(inner.apply_async(move || j, ()).get().unwrap(), j);
                    }
                },
                (),
            );
            start.wait_for(1);
            let order = Arc::new(Mutex::new(Vec::new()));
            let calls: Vec<_> = (0..CALLS)
                .map(|i| {
                    let order = Arc::clone(&order);
                    let note = move || {
                        let worker = current_worker().unwrap().index();
                        order.lock().unwrap().push((worker, i));
                    };
                    pool.apply_async(note, ())
                })
                .collect();
            start.open();
            opener.open();
            calls.into_iter().for_each(|call| call.get().unwrap());
            others.get().unwrap();
            held.into_iter().for_each(|held| held.get().unwrap());
            let order = order.lock().unwrap();
            assert_eq!(order.len(), CALLS);
            for worker in 0..2 {
                let of: Vec<_> = order.iter().filter(|(who, _)| *who == worker).collect();
                assert!(of.is_sorted(), "worker {worker} began {of:?}");
            }
        }
    });
}
