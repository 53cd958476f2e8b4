//! `WorkerLocal`: a value for each worker, when it is made, which code may use it, and where it is dropped.

mod common;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex};
use std::thread::{self, ThreadId};

use parpool::{Pool, WorkerId, WorkerLocal, current_worker};
use rayon::prelude::*;

use common::{
    ALL, Bomb, Counter, Drops, Kind, LASTING, ON_PURPOSE, all_pools, eventually, fewer, message,
    panicked, scaled, watchdog,
};

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
            // True while it is in use.
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
