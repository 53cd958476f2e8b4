//! Rayon code inside of tasks, which rayon spreads over the pool's threads: what else may run on top of it, where
//! a task begins meanwhile, and that none is forgotten.

mod common;

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use crossbeam_channel::{Receiver, bounded, unbounded};
use parpool::{
    AsyncResult, Context, CurrentTask, Error, Pool, Progress, WorkerId, current_task,
    current_worker, is_cancelled,
};
use rayon::prelude::*;

use common::{
    ALL, Counter, Gate, Kind, LASTING, LONG, ON_PURPOSE, Opener, all_pools, eventually, fewer,
    gate, hold, live_threads, panicked, scaled, thread_names, watchdog,
};

/// What something takes to begin that is not meant to.
const A_WHILE: Duration = Duration::from_millis(20);

/// Pools of few workers, and of workers that are replaced.
#[cfg(miri)]
const KINDS: [Kind; 2] = [Kind::Lasting(2), Kind::Replaced(2, 2)];

#[cfg(not(miri))]
const KINDS: [Kind; 6] = [
    Kind::Lasting(1),
    Kind::Lasting(2),
    Kind::Lasting(3),
    Kind::Lasting(4),
    Kind::Replaced(1, 3),
    Kind::Replaced(2, 2),
];

/// Rayon code on two threads of a pool: one is held at the gate, and the other waits for that one in a `join`.
/// The rest of the task goes on where the first is.
fn spread(gate: &Gate) {
    let ((stolen, is_stolen), (begun, is_begun)) = (bounded(1), bounded(1));
    rayon::join(
        // Each first half is held until another thread has the second.
        || is_stolen.recv().unwrap(),
        || {
            stolen.send(()).unwrap();
            rayon::join(
                || is_begun.recv().unwrap(),
                || {
                    begun.send(()).unwrap();
                    gate.pass();
                },
            )
        },
    );
}

/// A pool of `workers` of which two are in [`spread`], and the others are held too.
struct Spread {
    // In this order: what is held is let go before the pool waits for it.
    opener: Opener,
    others: (Opener, Vec<AsyncResult<()>>),
    call: AsyncResult<()>,
    pool: Arc<Pool>,
}

impl Spread {
    /// The task that has the rayon code does `before` before it, and `after` after it.
    fn new<T: 'static>(
        pool: Pool,
        before: impl FnOnce() -> T + Send + 'static,
        after: impl FnOnce(T) + Send + 'static,
    ) -> Self {
        let others = hold(&pool, pool.processes() - 2);
        let (gate, opener) = gate();
        let task = move || {
            let kept = before();
            spread(&gate);
            after(kept);
        };
        let call = pool.apply_async(task, ());
        opener.wait_for(1);
        Spread { opener, others, call, pool: Arc::new(pool) }
    }

    fn plain(pool: Pool) -> Self {
        Spread::new(pool, || (), |()| ())
    }

    /// Lets the rayon code go on, and waits for all tasks.
    fn end(mut self) {
        self.opener.open();
        self.call.get().unwrap();
        self.others.0.open();
        self.others.1.into_iter().for_each(|other| other.get().unwrap());
    }
}

/// Lasting pools of two and more workers.
fn spreading() -> impl Iterator<Item = Pool> {
    (2..=fewer(4, 3)).map(|workers| Kind::Lasting(workers).pool())
}

// ---- what may run on top of rayon code -----------------------------------------------------------

#[test]
fn a_task_that_waits_for_one_with_rayon_code_does_not_cover_it() {
    watchdog(20, || {
        for pool in spreading() {
            let Spread { mut opener, others, call: first, pool } = Spread::plain(pool);
            let second = pool.apply_async(move || (first.get().unwrap(), 7).1, ());
            // Time for the thread that waits in rayon to begin it, which it is not to do.
            thread::sleep(A_WHILE);
            opener.open();
            assert_eq!(second.get().unwrap(), 7);
            drop(others);
        }
    });
}

#[test]
fn a_lock_may_be_held_around_rayon_code() {
    watchdog(20, || {
        for pool in spreading() {
            let lock = Arc::new(Mutex::new(0));
            let (mine, theirs) = (Arc::clone(&lock), Arc::clone(&lock));
            let leaked: &'static Mutex<i32> = Box::leak(Box::new(Mutex::new(0)));
            // The guard stays where the rayon code began.
            let before = move || (*mine.lock().unwrap() += 1, leaked.lock().unwrap());
            let spread = Spread::new(pool, before, |((), mut guard)| *guard += 1);
            let second = move || {
                *theirs.lock().unwrap() += 1;
                *leaked.lock().unwrap() += 1;
            };
            let second = spread.pool.apply_async(second, ());
            thread::sleep(A_WHILE);
            assert!(!second.ready(), "the lock is held");
            spread.end();
            second.get().unwrap();
            assert_eq!((*lock.lock().unwrap(), *leaked.lock().unwrap()), (2, 2));
        }
    });
}

#[test]
fn tasks_that_hold_one_lock_around_rayon_code_all_end() {
    watchdog(60, || {
        for kind in KINDS {
            let pool = kind.pool();
            let data = Arc::new(Mutex::new(vec![0_u32; fewer(200, 10)]));
            let rounds = scaled(400);
            for _ in 0..rounds {
                let calls: Vec<_> = (0..4)
                    .map(|_| {
                        let data = Arc::clone(&data);
                        let task = move || data.lock().unwrap().par_iter_mut().for_each(burn);
                        pool.apply_async(task, ())
                    })
                    .collect();
                calls.into_iter().for_each(|call| call.get().unwrap());
            }
            assert!(data.lock().unwrap().iter().all(|x| *x as usize == 4 * rounds), "{kind:?}");
        }
    });
}

/// Takes a few microseconds.
fn burn(x: &mut u32) {
    for _ in 0..scaled(100) {
        std::hint::spin_loop();
    }
    *x += 1;
}

const PIECES: u32 = fewer(100, 8) as u32;

/// What [`sum_of_100`] gives.
const SUM: u32 = PIECES * (PIECES - 1) / 2;

/// Of fewer under Miri.
fn sum_of_100() -> u32 {
    (0..PIECES).into_par_iter().map(|mut x| (burn(&mut x), x - 1).1).sum()
}

#[test]
fn a_pipeline_of_rayon_code_and_of_waits_goes_on() {
    watchdog(120, || {
        for kind in KINDS {
            let pool = kind.pool();
            for _ in 0..scaled(1000) {
                let first = pool.apply_async(sum_of_100, ());
                let second = pool.apply_async(move || first.get().unwrap() + 1, ());
                assert_eq!(second.get().unwrap(), SUM + 1, "{kind:?}");
            }
        }
    });
}

#[test]
fn items_of_a_map_wait_for_tasks_with_rayon_code() {
    const LEN: u32 = fewer(8, 3) as u32;

    watchdog(120, || {
        for kind in KINDS {
            let pool = kind.pool();
            let expected: Vec<u32> = (0..LEN).map(|x| 2 * SUM + x).collect();
            for _ in 0..scaled(100) {
                let scoped = pool.map(
                    |x| {
                        pool.scope(|s| {
                            let calls = [(); 2].map(|()| s.apply_async(sum_of_100, ()));
                            x + calls.into_iter().map(|call| call.get().unwrap()).sum::<u32>()
                        })
                    },
                    0..LEN,
                );
                assert_eq!(scoped.unwrap(), expected, "{kind:?}");
                let plain = pool.map(
                    |x| {
                        let calls = [(); 2].map(|()| pool.apply_async(sum_of_100, ()));
                        x + calls.into_iter().map(|call| call.get().unwrap()).sum::<u32>()
                    },
                    0..LEN,
                );
                assert_eq!(plain.unwrap(), expected, "{kind:?}");
            }
        }
    });
}

#[test]
fn pieces_of_rayon_code_wait_for_tasks_with_rayon_code() {
    const LEN: u32 = fewer(8, 3) as u32;

    watchdog(120, || {
        for kind in KINDS {
            let pool = kind.pool();
            for _ in 0..scaled(100) {
                let nested = pool.install(|| {
                    let task = current_task();
                    let piece = |x| {
                        let call = task.enter(|| pool.apply_async(sum_of_100, ()));
                        x + call.get().unwrap()
                    };
                    (0..LEN).into_par_iter().map(piece).sum::<u32>()
                });
                assert_eq!(nested.unwrap(), LEN * (LEN - 1) / 2 + LEN * SUM, "{kind:?}");
            }
        }
    });
}

// ---- where and when a task begins ----------------------------------------------------------------

#[test]
fn a_task_with_rayon_code_ends_while_the_load_goes_on() {
    /// Each task of the load submits the next.
    fn load(pool: Arc<Pool>, done: Counter, stop: Arc<AtomicBool>) {
        done.add();
        if !stop.load(Ordering::SeqCst) {
            let inner = Arc::clone(&pool);
            drop(pool.apply_async(move || load(inner, done, stop), ()));
        }
    }

    watchdog(40, || {
        for pool in spreading() {
            let mut spread = Spread::plain(pool);
            let (done, stop) = (Counter::default(), Arc::new(AtomicBool::new(false)));
            for _ in 0..fewer(20, 3) {
                let (pool, done, stop) =
                    (Arc::clone(&spread.pool), done.clone(), Arc::clone(&stop));
                let begin = move || load(pool, done, stop);
                drop(spread.pool.apply_async(begin, ()));
            }
            // The other workers are back, if there are others, and have enough to do.
            spread.others.0.open();
            thread::sleep(A_WHILE);
            spread.opener.open();
            spread.call.wait();
            let before = done.get();
            assert!(eventually(|| done.get() > before), "the load goes on");
            stop.store(true, Ordering::SeqCst);
            spread.end();
        }
    });
}

#[test]
fn a_task_begins_on_a_thread_that_sleeps_though_others_are_in_rayon_code() {
    watchdog(20, || {
        for _ in 0..scaled(100) {
            let mut spread = Spread::plain(Kind::Lasting(3).pool());
            // One worker has nothing to do from now on.
            spread.others.0.open();
            std::mem::take(&mut spread.others.1).into_iter().for_each(|other| other.get().unwrap());
            for _ in 0..fewer(10, 2) {
                assert_eq!(spread.pool.apply_async(|| 1, ()).get().unwrap(), 1);
                assert_eq!(spread.pool.map(|x| x, 0..3).unwrap(), [0, 1, 2]);
                assert_eq!(spread.pool.imap(|x| x, 0..3).count(), 3);
            }
            spread.end();
        }
    });
}

/// Nothing but the thread's return from the rayon code is left to remind anybody of the task.
#[test]
fn a_task_that_no_thread_could_begin_is_begun_when_one_is_back() {
    watchdog(40, || {
        for round in 0..scaled(30) {
            for workers in 2..=fewer(4, 2) {
                let pool = Kind::Lasting(workers).pool();
                let (send, receive) = bounded::<u32>(1);
                let (waits, is_waiting) = bounded(1);
                // The task goes on to wait for the other one, which it keeps a thread from.
                let after = move |()| {
                    waits.send(()).unwrap();
                    assert_eq!(receive.recv_timeout(LONG), Ok(7));
                };
                let mut spread = Spread::new(pool, || (), after);
                let fed = spread.pool.apply_async(move || send.send(7).unwrap(), ());
                if round % 3 > 0 {
                    // The start is refused; sometimes the attendant has tried a few times in vain.
                    thread::sleep(Duration::from_millis(round % 3));
                }
                spread.opener.open();
                is_waiting.recv_timeout(LONG).unwrap();
                assert!(eventually(|| fed.ready()), "{workers} workers");
                spread.end();
            }
        }
    });
}

#[test]
fn many_tasks_that_no_thread_could_begin_are_all_begun() {
    watchdog(40, || {
        for pool in spreading() {
            let (send, receive) = unbounded();
            let after = move |()| {
                for _ in 0..fewer(100, 10) {
                    receive.recv_timeout(LONG).unwrap();
                }
            };
            let spread = Spread::new(pool, || (), after);
            let calls: Vec<_> = (0..fewer(100, 10))
                .map(|i| {
                    let send = send.clone();
                    spread.pool.apply_async(move || send.send(i).unwrap(), ())
                })
                .collect();
            spread.end();
            calls.into_iter().for_each(|call| call.get().unwrap());
        }
    });
}

#[test]
fn what_waits_for_a_thread_in_rayon_code_may_be_cancelled_ended_or_late() {
    watchdog(20, || {
        for pool in spreading() {
            let spread = Spread::plain(pool);
            let pool = Arc::clone(&spread.pool);
            assert!(pool.apply_async(|| panic!("it never runs"), ()).cancel());
            let time = pool.timeout(Duration::from_millis(1));
            assert!(matches!(
                time.apply_async(|| panic!("it never runs"), ()).get(),
                Err::<(), _>(Error::DeadlineExceeded)
            ));
            let queued = pool.apply_async(|| panic!("it never runs"), ());
            pool.terminate();
            assert!(matches!(queued.get(), Err::<(), _>(Error::Terminated)));
            let Spread { mut opener, others, call, .. } = spread;
            opener.open();
            drop((others, call));
            pool.join().unwrap();
        }
        for pool in spreading() {
            // Closed, it does what it has accepted.
            let Spread { mut opener, others, call, pool } = Spread::plain(pool);
            let queued = pool.apply_async(|| 1, ());
            pool.close();
            opener.open();
            drop(others);
            pool.join().unwrap();
            assert_eq!(queued.get().unwrap(), 1);
            call.get().unwrap();
        }
    });
}

// ---- jobs of rayon's own -------------------------------------------------------------------------

/// A rayon job of no task, which lets other jobs run on top of it until it is told not to.
///
/// Its pool's thread is in it when this returns.
fn yielding_job(pool: &Pool) -> (Opener, Receiver<Option<WorkerId>>) {
    let (gate, opener) = gate();
    let (go_on, goes_on) = bounded::<()>(0);
    let (end, ended) = bounded(1);
    let job = move || {
        thread::spawn(move || {
            gate.pass();
            drop(go_on);
        });
        while goes_on.try_recv() == Err(crossbeam_channel::TryRecvError::Empty) {
            rayon::yield_now();
            thread::yield_now();
        }
        let _ = end.send(current_worker());
    };
    pool.apply(move || rayon::spawn(job), ()).unwrap();
    opener.wait_for(1);
    (opener, ended)
}

#[test]
fn a_task_is_not_begun_on_top_of_a_rayon_job_but_right_after_it() {
    watchdog(20, || {
        for kind in [Kind::Lasting(1), Kind::Replaced(1, 1000)] {
            let pool = kind.pool();
            let (mut opener, ended) = yielding_job(&pool);
            let call = pool.apply_async(|| (), ());
            thread::sleep(A_WHILE);
            assert!(!call.ready(), "{kind:?}");
            opener.open();
            assert!(eventually(|| call.ready()), "{kind:?}");
            assert!(ended.recv_timeout(LONG).unwrap().is_some());
        }
    });
}

#[test]
fn a_task_begins_on_another_worker_while_a_rayon_job_has_one() {
    watchdog(60, || {
        for kind in [Kind::Lasting(2), Kind::Lasting(3)] {
            let pool = kind.pool();
            let (mut opener, _ended) = yielding_job(&pool);
            for _ in 0..fewer(20, 4) {
                let call = pool.apply_async(|| 1, ());
                assert!(eventually(|| call.ready()), "{kind:?}");
            }
            opener.open();
        }
    });
}

#[test]
fn a_task_begins_on_another_place_while_a_rayon_job_has_one() {
    watchdog(60, || {
        for kind in [Kind::Replaced(2, 1000), Kind::Replaced(3, 1000)] {
            let pool = kind.pool();
            let (mut opener, _ended) = yielding_job(&pool);
            for _ in 0..fewer(20, 4) {
                let call = pool.apply_async(|| 1, ());
                assert!(eventually(|| call.ready()), "{kind:?}");
            }
            opener.open();
        }
    });
}

fn jobs_that_wait_end(kinds: &'static [Kind]) {
    watchdog(60, move || {
        for &kind in kinds {
            let pool = Arc::new(kind.pool());
            let (send, results) = unbounded();
            for i in 0..scaled(200_u32) {
                let (inner, send) = (Arc::clone(&pool), send.clone());
                let job = move || {
                    let call = inner.apply_async(sum_of_100, ());
                    let map = inner.map(|x| x + 1, 0..3_u32);
                    // Either is refused when the worker is being replaced by the time.
                    let _ = send.send((i, call.get().map_err(drop), map.map_err(drop)));
                };
                pool.apply(move || rayon::spawn(job), ()).unwrap();
            }
            drop(send);
            let mut count = 0;
            while let Ok((_, call, map)) = results.recv_timeout(LONG) {
                assert_eq!((call, map), (Ok(SUM), Ok(vec![1, 2, 3])), "{kind:?}");
                count += 1;
            }
            assert_eq!(count, scaled(200), "{kind:?}");
        }
    });
}

#[test]
fn rayon_jobs_that_wait_for_tasks_end() {
    jobs_that_wait_end(&KINDS[..fewer(4, 1)]);
}

#[test]
fn rayon_jobs_that_wait_for_tasks_end_on_workers_that_are_replaced() {
    jobs_that_wait_end(&KINDS[fewer(4, 1)..]);
}

#[test]
fn a_task_waits_for_the_rayon_jobs_of_a_scope_that_wait_for_tasks() {
    watchdog(60, || {
        for kind in KINDS {
            let pool = kind.pool();
            for _ in 0..scaled(100) {
                let done = Counter::default();
                let task = || {
                    rayon::scope(|jobs| {
                        for _ in 0..4 {
                            jobs.spawn(|_| {
                                let call = pool.apply_async(|| 1, ());
                                assert_eq!(call.get().unwrap(), 1);
                                done.add();
                            });
                        }
                    });
                };
                pool.apply(task, ()).unwrap();
                assert_eq!(done.get(), 4, "{kind:?}");
            }
        }
    });
}

// ---- install -------------------------------------------------------------------------------------

#[test]
fn install_waits_for_a_thread_that_is_back_from_rayon_code() {
    watchdog(20, || {
        for pool in spreading() {
            let mut spread = Spread::plain(pool);
            let pool = Arc::clone(&spread.pool);
            let queued = pool.apply_async(|| (), ());
            let installed = thread::spawn(move || pool.install(|| rayon::join(|| 1, || 2)));
            thread::sleep(A_WHILE);
            assert!(!installed.is_finished() && !queued.ready());
            spread.opener.open();
            assert_eq!(installed.join().unwrap().unwrap(), (1, 2));
            queued.get().unwrap();
            spread.end();
        }
    });
}

#[test]
fn installed_code_may_wait_for_tasks_and_hold_locks() {
    watchdog(60, || {
        for kind in KINDS {
            let pool = kind.pool();
            let lock = Mutex::new(0_u32);
            thread::scope(|threads| {
                for _ in 0..3 {
                    threads.spawn(|| {
                        for _ in 0..scaled(100) {
                            let sum = pool.install(|| {
                                let mut sum = lock.lock().unwrap();
                                *sum += sum_of_100() - SUM + 1;
                                drop(sum);
                                pool.apply_async(sum_of_100, ()).get().unwrap()
                            });
                            assert_eq!(sum.unwrap(), SUM, "{kind:?}");
                        }
                    });
                }
            });
            assert_eq!(*lock.lock().unwrap(), 3 * scaled(100_u32));
        }
    });
}

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
fn a_panic_in_a_piece_of_rayon_code_is_the_tasks() {
    watchdog(20, || {
        for pool in spreading() {
            let mut spread = Spread::new(pool, || (), |()| panic!("{ON_PURPOSE}"));
            let next = spread.pool.apply_async(|| 1, ());
            spread.opener.open();
            let (_, message) = common::panicked(spread.call.get());
            assert_eq!(message, ON_PURPOSE);
            assert_eq!(next.get().unwrap(), 1);
            drop(spread.others);
        }
    });
}

// ---- the running task ----------------------------------------------------------------------------

#[test]
fn the_handle_of_a_task_answers_for_it_in_rayon_code_on_any_thread() {
    const LEN: u64 = fewer(1000, 50) as u64;

    watchdog(20, || {
        let (send, tasks) = bounded::<CurrentTask>(1);
        let before = move || send.send(current_task()).unwrap();
        let Spread { opener, mut others, call: cancelled, pool } =
            Spread::new(Pool::new(3).unwrap(), before, |()| ());
        // Two threads have it, and one of them waits in rayon for the other; the third is free from now on.
        others.0.open();
        others.1.into_iter().for_each(|other| other.get().unwrap());
        assert!(!cancelled.cancel(), "it runs");
        let theirs = tasks.recv().unwrap();
        assert!(theirs.is_cancelled());
        let wanted = pool.apply_async(
            move || {
                let task = current_task();
                let (stolen, is_stolen) = bounded(1);
                let piece = || {
                    stolen.send(()).unwrap();
                    // Of another task, on this thread.
                    let inside = task.enter(|| (is_cancelled(), current_task().is_cancelled()));
                    assert_eq!(inside, (false, false));
                    assert!(theirs.is_cancelled() && theirs.enter(is_cancelled));
                    (0..LEN).take_while(|_| !task.is_cancelled()).sum::<u64>()
                };
                rayon::join(|| is_stolen.recv().unwrap(), piece).1
            },
            (),
        );
        assert_eq!(wanted.get().unwrap(), LEN * (LEN - 1) / 2);
        drop(opener);
        drop(cancelled);
    });
}

#[test]
fn a_call_made_in_rayon_code_belongs_to_the_task_it_was_entered_for() {
    watchdog(20, || {
        for kind in KINDS {
            let pool = Arc::new(kind.pool());
            let inner = Arc::clone(&pool);
            let (up, is_up) = bounded(1);
            let outer = pool.apply_async(
                move || {
                    let task = current_task();
                    let search = |_| {
                        task.enter(|| {
                            inner.apply(
                                || {
                                    let _ = up.try_send(());
                                    while !is_cancelled() {
                                        thread::yield_now();
                                    }
                                },
                                (),
                            )
                        })
                    };
                    (0..4).into_par_iter().map(search).for_each(drop);
                },
                (),
            );
            is_up.recv().unwrap();
            assert!(!outer.cancel(), "it runs");
            let _ = outer.get();
        }
        assert!(!current_task().is_cancelled(), "of no task");
    });
}

// ---- where a job runs ----------------------------------------------------------------------------

/// Contexts whose threads differ in where their stacks are, and in how large.
fn contexts() -> Vec<Context> {
    let plain = || Context::threads().name("at");
    let mut contexts = vec![plain()];
    // Miri has no stacks of any size.
    let sizes = [64 << 10, 100_000, 1 << 20, 64 << 20];
    for size in sizes.into_iter().take(fewer(4, 0)) {
        contexts.push(plain().stack_size(size));
    }
    #[cfg(feature = "pin")]
    contexts.push(plain().pin_to_cores());
    #[cfg(feature = "pin")]
    contexts.push(plain().pin_to_cores().stack_size(64 << 10));
    contexts
}

/// The attendant is started when a start was refused, and so at the bottom of a stack never.
#[test]
fn a_thread_without_rayon_code_takes_every_start() {
    watchdog(60, || {
        for context in contexts() {
            for kind in [Kind::Lasting(1), Kind::Lasting(3), Kind::Replaced(2, 3)] {
                // A runner lets rayon code in every few milliseconds, and a start that comes to it then is passed on: on
                // a slow machine now and then in vain. A thread that takes no start at all has one in each pool.
                let takes_all = (0..5).any(|_| {
                    let builder = kind.builder().context(context.clone().name("bot"));
                    let pool = builder.build().unwrap();
                    for round in 0..scaled(50) {
                        assert_eq!(pool.apply(|| 1, ()).unwrap(), 1);
                        let calls: Vec<_> =
                            (0..round % 8).map(|i| pool.apply_async(move || i, ())).collect();
                        assert!(
                            calls.into_iter().zip(0..).all(|(call, i)| call.get().unwrap() == i)
                        );
                        pool.map(|x| pool.map(|y| x + y, 0..2).unwrap(), 0..3).unwrap();
                    }
                    live_threads("bot").is_none() || attendants() == 0
                });
                assert!(takes_all, "{context:?}, {kind:?}");
            }
        }
    });
}

/// How many attendants of pools named `bot`, which only the test above makes, there are.
fn attendants() -> usize {
    let names = thread_names().expect("the system tells");
    names.iter().filter(|name| name.starts_with("bot-") && name.contains("-atte")).count()
}

#[test]
fn a_thread_in_rayon_code_takes_no_start() {
    watchdog(60, || {
        for context in contexts() {
            for workers in [2, 3] {
                let builder = Pool::builder().processes(workers).context(context.clone());
                let spread = Spread::plain(builder.build().unwrap());
                let call = spread.pool.apply_async(|| (), ());
                thread::sleep(A_WHILE);
                assert!(!call.ready(), "{context:?}");
                spread.end();
                call.get().unwrap();
            }
            for kind in [Kind::Lasting(1), Kind::Replaced(1, 1000)] {
                let pool = kind.builder().context(context.clone()).build().unwrap();
                let (mut opener, _ended) = yielding_job(&pool);
                let call = pool.apply_async(|| (), ());
                thread::sleep(A_WHILE);
                assert!(!call.ready(), "{context:?}, {kind:?}");
                opener.open();
                call.get().unwrap();
            }
        }
    });
}

/// Pieces of rayon code whose frames are as small as can be, on a thread that has nothing else on its stack.
#[test]
fn a_thread_in_a_small_piece_of_rayon_code_takes_no_start() {
    /// Lets other jobs of rayon's run on top of it until it is told to end.
    fn piece(begun: &AtomicBool, over: &AtomicBool) {
        begun.store(true, Ordering::SeqCst);
        while !over.load(Ordering::SeqCst) {
            rayon::yield_now();
        }
    }

    fn wait(until: &AtomicBool) {
        while !until.load(Ordering::SeqCst) {
            thread::yield_now();
        }
    }

    type Code = fn(&'static AtomicBool, &'static AtomicBool);
    // The first thread waits and lets nothing run, so the other is the one that takes the piece.
    let codes: [(&str, Code); 5] = [
        ("scope", |begun, over| {
            rayon::scope(|s| {
                s.spawn(move |_| piece(begun, over));
                wait(over);
            })
        }),
        ("scope, in the closure", |begun, over| {
            rayon::scope(|s| {
                s.spawn(move |_| {
                    begun.store(true, Ordering::SeqCst);
                    while !over.load(Ordering::SeqCst) {
                        rayon::yield_now();
                    }
                });
                wait(over);
            })
        }),
        ("join", |begun, over| {
            rayon::join(|| wait(over), || piece(begun, over));
        }),
        ("spawn", |begun, over| {
            rayon::spawn(move || piece(begun, over));
            wait(over);
        }),
        ("yield_local", |begun, over| {
            rayon::scope(|s| {
                s.spawn(move |_| {
                    rayon::spawn(move || piece(begun, over));
                    rayon::yield_local();
                });
                wait(over);
            })
        }),
    ];
    watchdog(60, move || {
        for context in contexts() {
            for (name, code) in codes {
                let pool = Kind::Lasting(2).builder().context(context.clone()).build().unwrap();
                let [begun, over]: [&'static AtomicBool; 2] =
                    std::array::from_fn(|_| &*Box::leak(Box::default()));
                let task = pool.apply_async(move || code(begun, over), ());
                wait(begun);
                let call = pool.apply_async(|| (), ());
                thread::sleep(A_WHILE);
                let ran = call.ready();
                over.store(true, Ordering::SeqCst);
                task.get().unwrap();
                call.get().unwrap();
                assert!(!ran, "it ran on top of a piece: {name}, {context:?}");
            }
        }
    });
}

#[test]
fn a_new_worker_that_takes_the_place_of_one_knows_where_its_jobs_run() {
    watchdog(60, || {
        for context in contexts() {
            for tasks in [1, 2, 5] {
                let kind = Kind::Replaced(1, tasks);
                let pool = kind.builder().context(context.clone()).build().unwrap();
                for i in 0..2 * tasks {
                    let generation = || current_worker().unwrap().generation();
                    assert_eq!(pool.apply(generation, ()).unwrap(), i / tasks, "{context:?}");
                }
            }
        }
    });
}

/// The thread is the worker, whatever it runs.
#[test]
fn the_current_worker_is_known_in_all_places() {
    fn index() -> usize {
        current_worker().expect("a worker runs it").index()
    }

    watchdog(60, || {
        for context in contexts() {
            for kind in [Kind::Lasting(2), Kind::Replaced(2, 2)] {
                let builder = kind.builder().context(context.clone());
                let pool = Arc::new(builder.initializer(|| _ = index(), ()).build().unwrap());
                let thread_of: Arc<Mutex<Vec<(usize, thread::ThreadId)>>> = Arc::default();
                let seen = Arc::clone(&thread_of);
                let look = move || {
                    let here = thread::current().id();
                    seen.lock().unwrap().push((index(), here));
                };
                pool.apply(&look, ()).unwrap();
                pool.map(|_| look(), 0..4).unwrap();
                pool.install(|| (0..8).into_par_iter().for_each(|_| look())).unwrap();
                pool.install(|| rayon::join(&look, &look)).unwrap();
                pool.install(|| rayon::scope(|s| s.spawn(|_| look()))).unwrap();
                let inner = Arc::clone(&pool);
                let nested = look.clone();
                pool.apply(
                    move || {
                        inner.map(|_| nested(), 0..3).unwrap();
                        inner.apply_async(nested.clone(), ()).get().unwrap();
                        inner.scope(|s| s.apply_async(&nested, ()).get()).unwrap();
                        let item = nested.clone();
                        inner.imap(move |_| item(), 0..3).for_each(|item| item.unwrap());
                        nested();
                    },
                    (),
                )
                .unwrap();
                let (send, receive) = bounded(1);
                let job = look.clone();
                let job = move || {
                    job();
                    send.send(()).unwrap();
                };
                pool.apply(move || rayon::spawn(job), ()).unwrap();
                receive.recv_timeout(LONG).unwrap();
                let (gate, mut opener) = gate();
                let callback = look.clone();
                let held =
                    pool.apply_async(move || gate.pass(), ()).callback(move |_: &()| callback());
                opener.open();
                held.get().unwrap();
                let progress = Progress::new(|_, _| _ = current_worker());
                pool.progress(&progress).map(|_| look(), 0..4).unwrap();
                pool.close();
                pool.join().unwrap();
                let mut known = std::collections::HashMap::new();
                for (index, thread) in thread_of.lock().unwrap().drain(..) {
                    let first = *known.entry(thread).or_insert(index);
                    assert!(index < 2 && first == index, "{context:?}, {kind:?}, {thread:?}");
                }
                assert_eq!(current_worker(), None);
            }
        }
    });
}

// ---- accepted work in the hands of a rayon job ---------------------------------------------------

/// A pool of two, one of whose threads is in `job`, a rayon job of no task, and the other is held.
fn with_job(job: impl FnOnce() + Send + 'static) -> (Pool, Opener) {
    let pool = Kind::Lasting(2).pool();
    let (started, starts) = bounded::<()>(0);
    let job = move || {
        let _ = starts.recv();
        job();
    };
    pool.apply(move || rayon::spawn(job), ()).unwrap();
    let (gate, opener) = gate();
    // It comes where the job is not.
    drop(pool.apply_async(move || gate.pass(), ()));
    opener.wait_for(1);
    drop(started);
    (pool, opener)
}

/// Lets the other worker go, waits until it has nothing to do, and closes the pool.
fn close_while_idle(pool: &Pool, opener: &Mutex<Opener>) {
    opener.lock().unwrap().open();
    thread::sleep(A_WHILE);
    pool.close();
    thread::sleep(Duration::from_millis(2));
}

/// What is in the job's hands was accepted, and so is what comes of it.
#[test]
fn a_chunk_that_a_rayon_job_runs_while_the_pool_is_closed_is_delivered() {
    watchdog(60, || {
        for ordered in [true, false] {
            for _ in 0..scaled(10_usize) {
                let (send, receive) = bounded::<(Arc<Pool>, Arc<Mutex<Opener>>)>(1);
                let (done, outcome) = bounded(1);
                let job = move || {
                    let (pool, opener) = receive.recv().unwrap();
                    let here = thread::current().id();
                    let closed = AtomicBool::new(false);
                    let owner = Arc::clone(&pool);
                    let f = move |i: u32| {
                        // Chunks have grown by now, and this one is late from here on.
                        let expensive = i > 2000 && thread::current().id() == here;
                        if expensive && !closed.swap(true, Ordering::SeqCst) {
                            close_while_idle(&owner, &opener);
                        }
                        i
                    };
                    let mut results: Vec<u32> = match ordered {
                        true => pool.imap(f, 0..50_000).map_while(Result::ok).collect(),
                        false => pool.imap_unordered(f, 0..50_000).map_while(Result::ok).collect(),
                    };
                    results.sort_unstable();
                    let all = results.len() as u32;
                    done.send((all, results == (0..all).collect::<Vec<_>>())).unwrap();
                };
                let (pool, opener) = with_job(job);
                let pool = Arc::new(pool);
                send.send((Arc::clone(&pool), Arc::new(Mutex::new(opener)))).unwrap();
                let (all, complete) = outcome.recv_timeout(LONG).expect("the stream ends");
                assert!(all > 2000 && complete, "{all} results");
                pool.join().unwrap();
            }
        }
    });
}

#[test]
fn what_an_accepted_task_submits_is_taken_also_if_a_rayon_job_runs_it() {
    watchdog(60, || {
        for verb in 0..3 {
            let (send, receive) = bounded::<(Arc<Pool>, Arc<Mutex<Opener>>)>(1);
            let (done, outcome) = bounded(1);
            let job = move || {
                let (pool, opener) = receive.recv().unwrap();
                let owner = Arc::clone(&pool);
                let task = move || {
                    close_while_idle(&owner, &opener);
                    let call = owner.apply_async(sum_of_100, ());
                    let map = owner.map(|x| x + 1, 0..3_u32);
                    (call.get().map_err(drop), map.map_err(drop))
                };
                let result = match verb {
                    0 => pool.apply_async(task, ()).get(),
                    1 => pool.apply(task, ()),
                    _ => pool
                        .map(|task| Mutex::into_inner(task).unwrap()(), [Mutex::new(task)])
                        .map(|mut results| results.remove(0)),
                };
                done.send(result.map_err(drop)).unwrap();
            };
            let (pool, opener) = with_job(job);
            let pool = Arc::new(pool);
            send.send((Arc::clone(&pool), Arc::new(Mutex::new(opener)))).unwrap();
            let result = outcome.recv_timeout(LONG).expect("the task ends");
            assert_eq!(result, Ok((Ok(4950), Ok(vec![1, 2, 3]))), "verb {verb}");
            pool.join().unwrap();
        }
    });
}
