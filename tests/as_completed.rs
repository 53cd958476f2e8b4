//! `as_completed`: results in the order in which they come to be.

mod common;

use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::bounded;
use parpool::{Error, Pool, as_completed};

use common::{Drops, LASTING, LONG, ON_PURPOSE, all_pools, fewer, gate, hold, scaled, watchdog};

#[test]
fn results_come_in_the_order_in_which_they_are_made() {
    watchdog(20, || {
        let pool = Pool::new(3).unwrap();
        let (senders, calls): (Vec<_>, Vec<_>) = (0..3)
            .map(|i| {
                let (send, receive) = bounded::<()>(1);
                (send, pool.apply_async(move || receive.recv().map(|()| i).unwrap(), ()))
            })
            .unzip();
        let mut results = as_completed(calls);
        for (left, place) in [(3, 1), (2, 2), (1, 0)] {
            assert_eq!(results.len(), left);
            assert!(matches!(results.next_timeout(Duration::ZERO), Err(Error::Timeout)));
            senders[place].send(()).unwrap();
            let (index, value) = results.next().unwrap();
            assert_eq!((index, value.unwrap()), (place, place));
        }
        assert!(results.next().is_none() && results.next().is_none());
    });
}

#[test]
fn each_result_comes_once_with_its_place() {
    watchdog(60, || {
        for (kind, pool) in all_pools() {
            let count = scaled(5000_usize);
            let calls = (0..count).map(|i| pool.apply_async(move || i * i, ()));
            let mut seen = vec![0; count];
            for (index, value) in as_completed(calls) {
                assert_eq!(value.unwrap(), index * index, "{kind:?}");
                seen[index] += 1;
            }
            assert!(seen.iter().all(|times| *times == 1), "{kind:?}");
        }
    });
}

#[test]
fn none_is_none() {
    assert!(as_completed(Vec::<parpool::AsyncResult<()>>::new()).next().is_none());
}

#[test]
fn a_panic_is_the_result_of_its_call() {
    watchdog(20, || {
        for (kind, pool) in all_pools() {
            let calls =
                (0..10).map(|i| pool.apply_async(move || assert!(i % 3 > 0, "{ON_PURPOSE}"), ()));
            for (index, result) in as_completed(calls) {
                assert_eq!(result.is_ok(), index % 3 > 0, "{kind:?}");
            }
        }
    });
}

#[test]
fn terminate_ends_the_wait() {
    watchdog(20, || {
        for kind in LASTING {
            let pool = Arc::new(kind.pool());
            let (mut opener, held) = hold(&pool, pool.processes());
            let queued: Vec<_> = (0..10).map(|_| pool.apply_async(|| (), ())).collect();
            let mut results = as_completed(held.into_iter().chain(queued));
            assert!(matches!(results.next_timeout(Duration::from_millis(1)), Err(Error::Timeout)));
            let ender = Arc::clone(&pool);
            let thread = std::thread::spawn(move || ender.terminate());
            let ends: Vec<_> = results.collect();
            assert_eq!(ends.len(), pool.processes() + 10);
            assert!(ends.iter().all(|(_, end)| matches!(end, Err(Error::Terminated))), "{kind:?}");
            thread.join().unwrap();
            opener.open();
        }
    });
}

#[test]
fn the_own_time_of_a_call_ends_its_wait() {
    watchdog(20, || {
        let pool = Pool::new(1).unwrap();
        let (mut opener, held) = hold(&pool, 1);
        let soon = |ms| pool.timeout(Duration::from_millis(ms)).apply_async(|| (), ());
        let late = [soon(30), soon(10), soon(20)];
        let mut results = as_completed(held.into_iter().chain(late));
        let mut late = [1, 2, 3].map(|_| {
            let (place, result) = results.next().unwrap();
            assert!(matches!(result, Err(Error::DeadlineExceeded)));
            place
        });
        // In which order depends on how long it took to make them.
        late.sort_unstable();
        assert_eq!(late, [1, 2, 3]);
        opener.open();
        assert!(matches!(results.next(), Some((0, Ok(())))));
        assert!(results.next().is_none());
    });
}

#[test]
fn a_task_on_a_pool_of_one_collects_what_it_has_submitted() {
    const COUNT: usize = fewer(100, 20);

    watchdog(20, || {
        for kind in LASTING {
            let pool = Arc::new(kind.pool());
            let inner = Arc::clone(&pool);
            let sum = pool.apply(
                move || {
                    let calls = (0..COUNT).map(|i| inner.apply_async(move || i, ()));
                    as_completed(calls).map(|(_, value)| value.unwrap()).sum::<usize>()
                },
                (),
            );
            assert_eq!(sum.unwrap(), COUNT * (COUNT - 1) / 2, "{kind:?}");
        }
    });
}

#[test]
fn handles_of_two_pools_and_of_maps() {
    watchdog(20, || {
        let pools = [Pool::new(1).unwrap(), Pool::new(2).unwrap()];
        let calls = (0..fewer(100, 10)).map(|i| pools[i % 2].map_async(|x| x + 1, 0..i));
        for (index, values) in as_completed(calls) {
            assert_eq!(values.unwrap(), (1..=index).collect::<Vec<_>>());
        }
    });
}

#[test]
fn results_of_a_scope_may_borrow() {
    watchdog(20, || {
        let pool = Pool::new(2).unwrap();
        let words = ["a", "bb", "ccc"].map(String::from);
        let lengths = pool.scope(|s| {
            let calls = words.each_ref().map(|word| s.apply_async(|| word.len(), ()));
            let mut lengths: Vec<_> =
                as_completed(calls).map(|(index, length)| (index, length.unwrap())).collect();
            lengths.sort_unstable();
            lengths
        });
        assert_eq!(lengths, [(0, 1), (1, 2), (2, 3)]);
    });
}

#[test]
fn what_is_not_taken_is_dropped() {
    watchdog(20, || {
        let drops = Drops::default();
        let pool = Pool::new(1).unwrap();
        let (gate, mut opener) = gate();
        let first = pool.apply_async(move || gate.pass(), ());
        let (made, make) = (drops.clone(), drops.clone());
        let calls = [
            pool.apply_async(move || Some(made.make(0)), ()),
            pool.apply_async(move || Some(make.make(1)), ()),
        ];
        opener.open();
        first.get().unwrap();
        let mut results = as_completed(calls);
        let (_, value) = results.next().unwrap();
        drop(value);
        drop(results);
        pool.close();
        pool.join_timeout(LONG).unwrap();
        drops.assert_each_once();
    });
}

#[test]
fn it_may_be_sent_to_another_thread() {
    let pool = Pool::new(1).unwrap();
    let results = as_completed([pool.apply_async(|| 1, ())]);
    let thread = std::thread::spawn(move || results.map(|(_, value)| value.unwrap()).sum::<i32>());
    assert_eq!(thread.join().unwrap(), 1);
}
