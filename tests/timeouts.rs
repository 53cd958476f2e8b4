//! Calls with a time of their own, and tasks that notice that nobody wants their outcome.

mod common;

use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use parpool::{Error, TryError, is_cancelled};

use common::{
    ALL, Bomb, Counter, LONG, THREADS, all_pools, fewer, gate, hold, until_cancelled, watchdog,
};

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

/// The items of a call that timed out may lie in the queue until another thread sweeps it.
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
