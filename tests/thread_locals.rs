//! Destructors of thread-locals that hold pools, handles and scopes, and that use them: on workers, on workers that
//! are replaced, and on other threads.

mod common;

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded};
use parpool::{AsyncResult, Context, Error, Pool, WorkerId, current_worker};

use common::{Kind, LONG, THREADS, all_pools, assert_no_threads, at_the_end, watchdog};

/// Has `last` run in the destructor of a thread-local of the calling thread. A panic there would abort the process,
/// so it returns what is to be looked at, and the receiver hears of it.
fn tell_at_the_end<T: Send + 'static>(last: impl FnOnce() -> T + 'static, tell: Sender<T>) {
    at_the_end(move || {
        let outcome = last();
        let _ = tell.send(outcome);
    });
}

fn heard<T>(receiver: &Receiver<T>) -> T {
    receiver.recv_timeout(LONG).expect("the destructor is through")
}

/// Pools whose workers are replaced after one task.
const REPLACED: [Kind; 2] = [Kind::Replaced(1, 1), Kind::Replaced(3, 1)];

// ---- what is dropped there -----------------------------------------------------------------------

#[test]
fn the_last_owner_of_a_closed_pool_may_be_a_thread_local_of_its_worker() {
    watchdog(20, || {
        for kind in THREADS {
            let pool = Arc::new(kind.named("tl-last").build().unwrap());
            let (inner, (tell, told)) = (Arc::clone(&pool), bounded(1));
            pool.apply_async(move || tell_at_the_end(move || drop(inner), tell), ()).get().unwrap();
            pool.close();
            drop(pool);
            heard(&told);
            assert_no_threads("tl-last");
        }
    });
}

#[test]
fn the_last_owner_of_a_pool_may_be_a_thread_local_of_a_worker_that_is_replaced() {
    watchdog(20, || {
        for kind in REPLACED {
            let pool = Arc::new(kind.named("tl-repl").build().unwrap());
            let (inner, (tell, told)) = (Arc::clone(&pool), bounded(1));
            let (open, opened) = bounded::<()>(0);
            let task = move || {
                tell_at_the_end(move || drop(inner), tell);
                let _ = opened.recv();
            };
            let first = pool.apply_async(task, ());
            let second = pool.apply_async(|| 2, ());
            drop(pool);
            drop(open);
            first.get().unwrap();
            assert_eq!(second.get().unwrap(), 2, "{kind:?}");
            heard(&told);
            assert_no_threads("tl-repl");
        }
    });
}

#[test]
fn handles_and_streams_may_be_dropped_in_the_destructor_of_a_workers_thread_local() {
    watchdog(20, || {
        for kind in THREADS {
            let pool = Arc::new(kind.pool());
            let (inner, (tell, told)) = (Arc::clone(&pool), bounded(1));
            let task = move || {
                let handle: AsyncResult<u32> = inner.apply_async(|| 1, ());
                let kept = (handle, inner.imap(|x: u32| x, 0..100));
                drop(inner);
                tell_at_the_end(move || drop(kept), tell);
            };
            pool.apply_async(task, ()).get().unwrap();
            assert_eq!(pool.apply_async(|| 2, ()).get().unwrap(), 2, "{kind:?}");
            pool.close();
            pool.join().unwrap();
            heard(&told);
        }
    });
}

// ---- what is called there ------------------------------------------------------------------------

#[test]
fn join_in_the_destructor_of_a_workers_thread_local_would_deadlock() {
    watchdog(20, || {
        for kind in THREADS {
            let pool = Arc::new(kind.pool());
            let (weak, (tell, told)) = (Arc::downgrade(&pool), bounded(1));
            let last = move || {
                let pool = weak.upgrade().expect("it is joined from outside");
                (pool.join(), pool.join_timeout(Duration::from_millis(1)))
            };
            let (set, is_set) = bounded(1);
            let (open, opened) = bounded::<()>(0);
            let task = move || {
                tell_at_the_end(last, tell);
                set.send(()).unwrap();
                let _ = opened.recv();
            };
            let call = pool.apply_async(task, ());
            is_set.recv().unwrap();
            pool.close();
            drop(open);
            pool.join().unwrap();
            call.get().unwrap();
            let outcomes = heard(&told);
            let deadlocks =
                matches!(outcomes, (Err(Error::WouldDeadlock), Err(Error::WouldDeadlock)));
            assert!(deadlocks, "{kind:?}: {outcomes:?}");
        }
    });
}

/// It gets an answer, and does not wait for the worker that waits for its end.
#[test]
fn the_destructor_of_a_replaced_workers_thread_local_may_use_the_pool() {
    watchdog(20, || {
        for kind in REPLACED {
            let pool = Arc::new(kind.pool());
            let (inner, (tell, told)) = (Arc::downgrade(&pool), bounded(1));
            let last = move || {
                let pool = inner.upgrade().expect("the test has it");
                let call = pool.apply_async(|| 6, ()).get();
                let map = pool.map(|x| x, 0..3);
                let scope = pool.scope(|s| s.apply_async(|| 7, ()).get());
                let stream: Result<Vec<_>, _> = pool.imap(|x| x, 0..3).collect();
                (call, map, scope, stream)
            };
            pool.apply_async(move || tell_at_the_end(last, tell), ()).get().unwrap();
            for i in 0..5 {
                assert_eq!(pool.apply_async(move || i, ()).get().unwrap(), i, "{kind:?}");
            }
            let (call, map, scope, stream) = heard(&told);
            let fine = |n: bool, error: Option<&Error>| {
                assert!(n || matches!(error, Some(Error::NotRunning)), "{kind:?}: {error:?}");
            };
            fine(matches!(call, Ok(6)), call.as_ref().err());
            fine(map.as_ref().is_ok_and(|map| map == &[0, 1, 2]), map.as_ref().err());
            fine(matches!(scope, Ok(7)), scope.as_ref().err());
            fine(stream.as_ref().is_ok_and(|all| all == &[0, 1, 2]), stream.as_ref().err());
            pool.close();
            pool.join().unwrap();
        }
    });
}

#[test]
fn any_pool_may_be_used_in_the_destructor_of_another_threads_thread_local() {
    watchdog(20, || {
        for used_before in [false, true] {
            for (kind, pool) in all_pools() {
                let pool = Arc::new(pool);
                let (inner, (tell, told)) = (Arc::clone(&pool), bounded(1));
                let thread = thread::spawn(move || {
                    let own = Arc::clone(&inner);
                    tell_at_the_end(move || verbs(&inner), tell);
                    if used_before {
                        // The thread-locals of the pool are made later, so they are gone earlier.
                        verbs(&own);
                    }
                });
                thread.join().unwrap();
                assert!(heard(&told), "{kind:?}");
            }
        }
    });
}

fn verbs(pool: &Pool) -> bool {
    pool.map(|x| x + 1, [1, 2]).is_ok_and(|all| all == [2, 3])
        && pool.apply(|| 5, ()).is_ok_and(|x| x == 5)
        && pool.apply_async(|| 6, ()).get().is_ok_and(|x| x == 6)
        && pool.imap(|x| x, 0..9).count() == 9
        && pool.scope(|s| s.apply_async(|| 7, ()).get()).is_ok_and(|x| x == 7)
}

/// Of a serial pool, and of one with workers of its own.
#[test]
fn other_pools_work_in_the_destructor_of_a_workers_thread_local() {
    watchdog(20, || {
        for kind in THREADS {
            for other in [Kind::Serial, Kind::Lasting(2), Kind::Replaced(1, 1)] {
                let (pool, other) = (kind.pool(), other.pool());
                let (tell, told) = bounded(1);
                pool.apply_async(move || tell_at_the_end(move || verbs(&other), tell), ())
                    .get()
                    .unwrap();
                pool.close();
                pool.join().unwrap();
                assert!(heard(&told), "{kind:?}");
            }
        }
    });
}

#[test]
fn a_serial_pool_may_be_made_and_used_in_the_destructor_of_a_thread_local() {
    watchdog(20, || {
        let (tell, told) = bounded(1);
        let last = || {
            let serial = Pool::builder().context(Context::serial()).build().unwrap();
            let worker = serial.apply(current_worker, ()).unwrap();
            (verbs(&serial), worker.map(|worker| worker.index()), current_worker())
        };
        thread::spawn(move || tell_at_the_end(last, tell)).join().unwrap();
        assert_eq!(heard(&told), (true, Some(0), None));
    });
}

#[test]
fn the_destructor_of_a_workers_thread_local_is_that_workers_code() {
    watchdog(20, || {
        for kind in THREADS {
            let pool = kind.pool();
            let (tell, told) = bounded::<(Option<WorkerId>, Option<WorkerId>)>(1);
            let task = move || {
                let before = current_worker();
                tell_at_the_end(move || (before, current_worker()), tell);
            };
            pool.apply_async(task, ()).get().unwrap();
            pool.close();
            pool.join().unwrap();
            let (before, at_the_end) = heard(&told);
            assert!(before.is_some() && before == at_the_end, "{kind:?}");
        }
    });
}
