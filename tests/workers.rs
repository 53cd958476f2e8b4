//! The workers: who they are, what they keep, how they are replaced, and rayon code on them.

mod common;

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::panic::{AssertUnwindSafe, catch_unwind, panic_any, set_hook, take_hook};
use std::sync::{Arc, Mutex, OnceLock, Weak};
use std::thread::{self, ThreadId};
use std::time::Duration;

use crossbeam_channel::bounded;
use parpool::{AsyncResult, Context, Error, Pool, WorkerId, WorkerLocal, current_worker};
use rayon::prelude::*;

use common::{
    ALL, Bomb, Counter, Crowd, Drops, Kind, LASTING, ON_PURPOSE, THREADS, all_pools,
    assert_no_threads, eventually, fewer, gate, hold, live_threads, message, panicked, scaled,
    watchdog,
};

// ---- who runs this -------------------------------------------------------------------------------

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

// ---- state of workers ----------------------------------------------------------------------------

#[test]
fn a_worker_local_is_built_once_for_each_worker() {
    const LEN: i32 = fewer(1000, 50) as i32;

    watchdog(20, || {
        for kind in LASTING.into_iter().chain([Kind::Serial]) {
            let pool = kind.pool();
            let built = Counter::default();
            let count = built.clone();
            let local = WorkerLocal::new(move || (count.add(), current_worker(), 0).2);
            assert_eq!(built.get(), 0, "not before it is used");
            pool.map(|_| local.with(|uses| *uses += 1), 0..LEN).unwrap();
            assert!((1..=kind.workers()).contains(&built.get()), "{kind:?}");
            let values = local.into_inner();
            assert_eq!(values.len(), built.get());
            assert_eq!(values.into_iter().sum::<i32>(), LEN, "{kind:?}");
        }
    });
}

#[test]
fn a_worker_local_belongs_to_its_worker() {
    watchdog(20, || {
        for kind in ALL {
            let pool = kind.pool();
            let local = WorkerLocal::new(|| (current_worker(), thread::current().id()));
            let who = || {
                let owner = local.with(|owner| *owner);
                assert_eq!(owner, (current_worker(), thread::current().id()));
            };
            pool.map(|_| who(), 0..fewer(100, 12)).unwrap();
            for _ in 0..fewer(20, 4) {
                pool.apply(who, ()).unwrap();
            }
        }
    });
}

#[test]
fn a_task_on_top_of_another_has_a_value_of_its_own() {
    const CALLS: usize = fewer(20, 3);
    const DEPTH: usize = fewer(3, 2);

    watchdog(20, || {
        for kind in ALL {
            let pool = Arc::new(kind.pool());
            // True while somebody uses it.
            let local: Arc<WorkerLocal<(bool, usize)>> = Arc::new(WorkerLocal::default());
            fn nest(
                pool: &Arc<Pool>,
                local: &Arc<WorkerLocal<(bool, usize)>>,
                depth: usize,
            ) -> usize {
                local.with(|value| {
                    assert!(!value.0, "another task uses it");
                    value.0 = true;
                    value.1 += 1;
                    let below: usize = if depth == 0 {
                        0
                    } else {
                        let (inner, same) = (Arc::clone(pool), Arc::clone(local));
                        let call = pool.apply_async(move || nest(&inner, &same, depth - 1), ());
                        let map = pool.map(|_| nest(pool, local, depth - 1), 0..2).unwrap();
                        call.get().unwrap() + map.into_iter().sum::<usize>()
                    };
                    assert!(value.0);
                    value.0 = false;
                    1 + below
                })
            }
            let (inner, same) = (Arc::clone(&pool), Arc::clone(&local));
            let calls: Vec<_> = (0..CALLS)
                .map(|_| {
                    let (pool, local) = (Arc::clone(&inner), Arc::clone(&same));
                    inner.apply_async(move || nest(&pool, &local, DEPTH), ())
                })
                .collect();
            drop((inner, same));
            let uses: usize = calls.into_iter().map(|call| call.get().unwrap()).sum();
            assert_eq!(
                uses,
                CALLS * (0..=DEPTH as u32).map(|level| 3_usize.pow(level)).sum::<usize>(),
                "{kind:?}"
            );
            pool.close();
            pool.join().unwrap();
            drop(pool);
            assert!(eventually(|| Arc::strong_count(&local) == 1), "{kind:?}");
            let values = Arc::into_inner(local).unwrap().into_inner();
            assert!(values.iter().all(|value| !value.0));
            if !matches!(kind, Kind::Replaced(..)) {
                assert_eq!(values.iter().map(|value| value.1).sum::<usize>(), uses, "{kind:?}");
            }
        }
    });
}

#[test]
fn rayon_code_in_a_task_does_not_see_values_that_are_lent() {
    watchdog(20, || {
        for kind in ALL {
            let pool = kind.pool();
            let local = WorkerLocal::new(|| false);
            thread::scope(|scope| {
                for _ in 0..fewer(4, 2) {
                    scope.spawn(|| {
                        pool.map(
                            |_| {
                                local.with(|used| {
                                    assert!(!std::mem::replace(used, true));
                                    (0..fewer(64, 4)).into_par_iter().for_each(|_| {
                                        std::hint::black_box(0);
                                    });
                                    *used = false;
                                });
                            },
                            0..fewer(50, 3),
                        )
                        .unwrap();
                    });
                }
            });
        }
    });
}

#[test]
fn worker_locals_are_dropped_by_their_worker_when_it_is_replaced() {
    struct Owned(WorkerId, ThreadId, Arc<Mutex<Vec<(WorkerId, bool)>>>);
    impl Drop for Owned {
        fn drop(&mut self) {
            let same = thread::current().id() == self.1 && current_worker() == Some(self.0);
            self.2.lock().unwrap().push((self.0, same));
        }
    }

    const CALLS: usize = fewer(20, 4);

    watchdog(20, || {
        for workers in [1, 3] {
            let pool = Kind::Replaced(workers, 1).pool();
            let dropped = Arc::new(Mutex::new(Vec::new()));
            let note = Arc::clone(&dropped);
            let local = WorkerLocal::new(move || {
                Owned(current_worker().unwrap(), thread::current().id(), Arc::clone(&note))
            });
            let used: Vec<_> = (0..CALLS)
                .map(|_| pool.apply(|| local.with(|owned| owned.0), ()).unwrap())
                .collect();
            pool.close();
            pool.join().unwrap();
            let dropped = dropped.lock().unwrap();
            assert_eq!(dropped.len(), CALLS);
            for (owner, same) in &*dropped {
                assert!(same, "{owner:?}: dropped elsewhere");
                assert!(used.contains(owner));
            }
        }
    });
}

/// And so does its worker's successor when that has had its tasks: none is left to the end of the `WorkerLocal`.
#[test]
fn a_value_that_is_lent_while_its_task_maps_goes_with_its_worker() {
    watchdog(60, || {
        for kind in [Kind::Replaced(1, 2), Kind::Serial] {
            let pool = kind.builder().max_tasks_per_child(2).build().unwrap();
            let drops = Drops::default();
            let makes = drops.clone();
            let local = WorkerLocal::new(move || makes.make(0));
            let maps = || local.with(|_| pool.chunksize(1).map(|x| x, 0..5).unwrap());
            for _ in 0..scaled(100) {
                assert_eq!(pool.apply(maps, ()).unwrap().len(), 5);
                assert!(drops.alive() <= 1, "{kind:?}: {} values", drops.alive());
            }
            // Two workers' lives.
            for _ in 0..4 {
                pool.apply(|| (), ()).unwrap();
            }
            assert_eq!((drops.made(), drops.alive()), (scaled(100), 0), "{kind:?}");
            drops.assert_each_once();
        }
    });
}

#[test]
fn worker_locals_outlive_a_pool_that_keeps_its_workers() {
    watchdog(20, || {
        for kind in LASTING {
            let drops = Drops::default();
            let make = drops.clone();
            let local = WorkerLocal::new(move || make.make(1));
            let pool = kind.pool();
            pool.map(|_| local.with(|_| ()), 0..fewer(100, 12)).unwrap();
            drop(pool);
            assert_eq!(drops.alive(), drops.made());
            let values = local.into_inner();
            assert_eq!(values.len(), drops.made());
            drop(values);
            drops.assert_each_once();
        }
    });
}

#[test]
fn a_panicking_use_drops_its_value_and_the_next_builds_another() {
    watchdog(20, || {
        for kind in ALL {
            let drops = Drops::default();
            let make = drops.clone();
            let local = WorkerLocal::new(move || (make.make(0), 0));
            let pool = kind.pool();
            let use_it = |panics: bool| {
                pool.apply(
                    || {
                        local.with(|(_, uses)| {
                            assert_eq!(*uses, 0);
                            *uses += 1;
                            assert!(!panics, "{ON_PURPOSE}");
                            *uses -= 1;
                        });
                    },
                    (),
                )
            };
            for i in 0..fewer(20, 6) {
                let panics = i % 3 == 1;
                assert_eq!(use_it(panics).is_err(), panics, "{kind:?}");
            }
            assert!(drops.made() >= 2);
            drop(pool);
            drop(local);
            drops.assert_each_once();
        }
    });
}

#[test]
fn a_value_that_cannot_be_built_is_the_panic_of_the_task() {
    watchdog(20, || {
        for kind in ALL {
            let tries = Counter::default();
            let count = tries.clone();
            let local = WorkerLocal::new(move || {
                assert!(count.next() >= 3, "{ON_PURPOSE}");
                7
            });
            let pool = kind.pool();
            for _ in 0..3 {
                let error = pool.map(|_| local.with(|value| *value), 0..1);
                assert_eq!(panicked(error), (Some(0), ON_PURPOSE.to_owned()));
            }
            assert_eq!(pool.map(|_| local.with(|value| *value), 0..3).unwrap(), [7; 3], "{kind:?}");
        }
    });
}

#[test]
fn a_value_whose_drop_panics_does_not_stop_replacement() {
    watchdog(20, || {
        let pool = Kind::Replaced(2, 1).pool();
        let local = WorkerLocal::new(|| Bomb);
        for i in 0..fewer(20, 4) {
            assert_eq!(pool.apply(|| local.with(|_| i), ()).unwrap(), i);
        }
        pool.close();
        pool.join().unwrap();
        assert_eq!(local.into_inner().len(), 0);
    });
}

#[test]
fn two_values_of_a_worker_may_both_panic_when_they_are_dropped() {
    watchdog(20, || {
        for kind in [Kind::Replaced(1, 1), Kind::Serial] {
            let pool = kind.builder().max_tasks_per_child(1).build().unwrap();
            let local = Arc::new(WorkerLocal::new(|| Bomb));
            let inner = Arc::clone(&local);
            pool.apply(move || inner.with(|_| inner.with(|_| ())), ()).unwrap();
            // Behind the replacement.
            assert_eq!(pool.apply(|| 7, ()).unwrap(), 7, "{kind:?}");
            pool.close();
            pool.join().unwrap();
            assert_eq!(Arc::into_inner(local).unwrap().into_inner().len(), 0, "{kind:?}");
        }
    });
}

#[test]
fn threads_outside_and_many_pools_may_share_one() {
    watchdog(20, || {
        let local = WorkerLocal::new(|| 0);
        local.with(|uses| *uses += 1);
        for (_, pool) in all_pools() {
            pool.map(|_| local.with(|uses| *uses += 1), 0..10).unwrap();
        }
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| local.with(|uses| *uses += 1));
            }
        });
        let caught = catch_unwind(AssertUnwindSafe(|| local.with(|_| panic!("{ON_PURPOSE}"))));
        assert_eq!(message(&*caught.unwrap_err()), ON_PURPOSE);
        local.with(|uses| *uses += 1);
        // Uses by workers that were replaced, and those before the panic, may be lost.
        let kept = 10 * (LASTING.len() + 1) + 1;
        assert!(local.into_inner().into_iter().sum::<usize>() >= kept);
    });
}

#[test]
fn a_worker_local_may_go_before_the_pool() {
    watchdog(20, || {
        for (kind, pool) in all_pools() {
            let drops = Drops::default();
            for _ in 0..fewer(10, 2) {
                let make = drops.clone();
                let local = WorkerLocal::new(move || make.make(1));
                pool.map(|_| local.with(|_| ()), 0..fewer(10, 4)).unwrap();
                drop(local);
                if !matches!(kind, Kind::Replaced(..)) {
                    drops.assert_each_once();
                }
            }
            assert_eq!(pool.apply(|| 1, ()).unwrap(), 1);
            // A worker that is being replaced drops its values itself, maybe later than the local.
            pool.close();
            pool.join().unwrap();
            drops.assert_each_once();
        }
    });
}

/// A worker that drops its values has a reference to what made them, and it may be the last.
#[test]
fn a_worker_local_whose_maker_panics_when_dropped_harms_no_worker() {
    struct Bomb;

    impl Drop for Bomb {
        fn drop(&mut self) {
            // On the worker only: what the owner drops is the owner's panic.
            assert!(current_worker().is_none(), "{ON_PURPOSE}");
        }
    }

    watchdog(60, || {
        let pool = Kind::Replaced(2, 3).pool();
        for _ in 0..scaled(200) {
            let bomb = Bomb;
            let local = WorkerLocal::new(move || {
                let _in_the_closure = &bomb;
            });
            pool.map(|_| local.with(|()| ()), 0..10).unwrap();
        }
        assert_eq!(pool.apply(|| 1, ()).unwrap(), 1);
    });
}

// ---- rayon ---------------------------------------------------------------------------------------

#[test]
fn install_runs_rayon_code_on_the_workers() {
    const PIECES: u64 = fewer(100, 10) as u64;
    const LEN: u64 = fewer(10_000, 50) as u64;

    watchdog(20, || {
        for kind in LASTING {
            let pool = kind.pool();
            let xs: Vec<u64> = (0..LEN).collect();
            let workers = pool
                .install(|| {
                    assert_eq!(rayon::current_num_threads(), kind.workers());
                    let workers = xs.par_iter().map(|_| current_worker().unwrap().index());
                    workers.collect::<HashSet<_>>()
                })
                .unwrap();
            assert!(workers.iter().all(|index| *index < kind.workers()));
            let (a, b) = pool.install(|| rayon::join(|| 1, || 2)).unwrap();
            assert_eq!((a, b), (1, 2));
            assert_eq!(pool.install(|| xs.par_iter().sum::<u64>()).unwrap(), LEN * (LEN - 1) / 2);
        }
        for kind in [Kind::Replaced(3, 2), Kind::Serial] {
            let pool = kind.pool();
            assert_eq!(
                pool.install(|| (0..PIECES).into_par_iter().sum::<u64>()).unwrap(),
                PIECES * (PIECES - 1) / 2
            );
        }
    });
}

#[test]
fn install_comes_before_what_waits_from_outside() {
    watchdog(20, || {
        let pool = Pool::new(1).unwrap();
        let (mut opener, held) = hold(&pool, 1);
        let order = Arc::new(Mutex::new(Vec::new()));
        let note = Arc::clone(&order);
        let calls: Vec<_> = (0..5)
            .map(|i| {
                let note = Arc::clone(&note);
                pool.apply_async(move || note.lock().unwrap().push(i), ())
            })
            .collect();
        thread::scope(|scope| {
            scope.spawn(|| pool.install(|| order.lock().unwrap().push(99)).unwrap());
            // It is queued for sure only when it has had the time for it.
            thread::sleep(Duration::from_millis(100));
            opener.open();
        });
        calls.into_iter().for_each(|call| call.get().unwrap());
        held.into_iter().for_each(|held| held.get().unwrap());
        assert_eq!(*order.lock().unwrap(), [99, 0, 1, 2, 3, 4]);
    });
}

#[test]
fn install_in_a_task_runs_there_and_then() {
    watchdog(20, || {
        for kind in ALL {
            let pool = kind.pool();
            let same = pool.apply(
                || {
                    let here = thread::current().id();
                    pool.install(|| thread::current().id()).unwrap() == here
                },
                (),
            );
            assert!(same.unwrap(), "{kind:?}");
        }
    });
}

#[test]
fn a_panic_in_install_is_an_error() {
    watchdog(20, || {
        for (kind, pool) in all_pools() {
            let result = pool.install(|| {
                (0..fewer(100, 10))
                    .into_par_iter()
                    .for_each(|i| assert_ne!(i, fewer(50, 5), "{ON_PURPOSE}"));
            });
            assert!(panicked(result).1.contains(ON_PURPOSE), "{kind:?}");
            // One that nobody waits for aborts the process on a pool of bare rayon.
            let quiet = pool.install(|| {
                if kind != Kind::Serial {
                    rayon::spawn(|| panic!("{ON_PURPOSE}"));
                }
            });
            quiet.unwrap();
            assert_eq!(pool.apply(|| 5, ()).unwrap(), 5);
        }
    });
}

#[test]
fn rayon_code_in_tasks_while_many_handles_are_queued() {
    const ITEMS: u64 = fewer(1000, 20) as u64;

    watchdog(40, || {
        for kind in LASTING.into_iter().chain([Kind::Lasting(2), Kind::Replaced(2, 50)]) {
            let pool = Arc::new(kind.pool());
            let calls: Vec<AsyncResult<u64>> = (0..fewer(2000, 6) as u64)
                .map(|i| {
                    let inner = Arc::clone(&pool);
                    let task = move || match i % 20 {
                        0 => (0..ITEMS).into_par_iter().map(|x| x % 7).sum(),
                        1 => inner.map(|x| x % 7, 0..ITEMS).unwrap().into_iter().sum(),
                        2 => inner.install(|| rayon::join(|| 1, || 2)).map(|(a, b)| a + b).unwrap(),
                        _ => i,
                    };
                    pool.apply_async(task, ())
                })
                .collect();
            let serial = (0..ITEMS).map(|x| x % 7).sum::<u64>();
            for (call, i) in calls.into_iter().zip(0..) {
                let expected = match i % 20 {
                    0 | 1 => serial,
                    2 => 3,
                    _ => i,
                };
                assert_eq!(call.get().unwrap(), expected, "{kind:?}");
            }
            pool.close();
            pool.join().unwrap();
        }
    });
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
