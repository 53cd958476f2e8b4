//! How much, how many, how small and how big: what still works at the ends of the scale.

mod common;

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use parpool::{AsyncResult, Context, Error, Pool, TryError};
use rayon::prelude::*;

use common::{Crowd, LASTING, ON_PURPOSE, fewer, gate, hold, panicked, watchdog};

/// Fewer where nothing is optimized, and few under Miri.
const fn scaled(n: usize) -> usize {
    match n {
        _ if cfg!(miri) => n / 50_000,
        _ if cfg!(debug_assertions) => n / 10,
        _ => n,
    }
}

#[test]
fn ten_million_queued_tasks_are_skipped_by_terminate() {
    static ALIVE: AtomicUsize = AtomicUsize::new(0);
    static RAN: AtomicUsize = AtomicUsize::new(0);

    /// Without memory of its own, so that there is room for many.
    struct Token;

    impl Token {
        fn new() -> Self {
            ALIVE.fetch_add(1, Ordering::Relaxed);
            Token
        }
    }

    impl Drop for Token {
        fn drop(&mut self) {
            ALIVE.fetch_sub(1, Ordering::Relaxed);
        }
    }

    watchdog(120, || {
        let pool = Pool::new(2).unwrap();
        let (mut opener, held) = hold(&pool, 2);
        for _ in 0..scaled(10_000_000) {
            let token = Token::new();
            drop(pool.apply_async(
                move || {
                    RAN.fetch_add(1, Ordering::Relaxed);
                    drop(token);
                },
                (),
            ));
        }
        assert_eq!(ALIVE.load(Ordering::Relaxed), scaled(10_000_000));
        pool.terminate();
        // It has not waited for the workers, which are held.
        assert_eq!(ALIVE.load(Ordering::Relaxed), scaled(10_000_000));
        opener.open();
        pool.join().unwrap();
        drop(held);
        assert_eq!((ALIVE.load(Ordering::Relaxed), RAN.load(Ordering::Relaxed)), (0, 0));
    });
}

#[test]
#[cfg_attr(miri, ignore = "two hundred threads take too long")]
fn two_hundred_workers_that_are_replaced() {
    watchdog(60, || {
        let pool = Pool::builder().processes(200).max_tasks_per_child(3).build().unwrap();
        let crowd = Crowd::default();
        let inside = crowd.clone();
        let work = move |i: u64| {
            inside.enter();
            thread::yield_now();
            inside.leave();
            i
        };
        let sum: u64 = pool.chunksize(1).map(work, 0..2000).unwrap().into_iter().sum();
        assert_eq!(sum, 1999 * 1000);
        assert!(crowd.most() <= 200);
    });
}

const CHAIN: usize = fewer(20_000, 30);

#[test]
fn a_chain_of_20_000_each_of_which_waits_for_the_one_before() {
    watchdog(60, || {
        for kind in LASTING {
            let pool = kind.pool();
            let mut last = pool.apply_async(|| 0, ());
            for _ in 0..CHAIN {
                let before = last;
                last = pool.apply_async(move || before.get().unwrap() + 1, ());
            }
            assert_eq!(last.get().unwrap(), CHAIN, "{kind:?}");
        }
    });
}

#[test]
fn a_chain_of_20_000_each_of_which_submits_the_next() {
    fn link(pool: &Arc<Pool>, left: usize) -> AsyncResult<usize> {
        let own = Arc::clone(pool);
        pool.apply_async(
            move || match left {
                0 => 0,
                // It is begun and done before this one goes on, and what it submits likewise; so it hands
                // its handle on instead of waiting for it.
                _ => {
                    drop(link(&own, left - 1));
                    left
                }
            },
            (),
        )
    }

    watchdog(60, || {
        for kind in LASTING {
            let pool = Arc::new(kind.pool());
            assert_eq!(link(&pool, CHAIN).get().unwrap(), CHAIN);
            pool.close();
            pool.join().unwrap();
        }
    });
}

/// What is not optimized needs more of it.
const STACK: usize = if cfg!(debug_assertions) { 256 } else { 64 } * 1024;

#[test]
fn every_verb_on_a_stack_of_64_kib() {
    const MANY: u64 = fewer(10_000, 40) as u64;
    const SOME: u64 = fewer(1000, 10) as u64;

    watchdog(60, || {
        for life in [None, Some(5)] {
            let builder =
                Pool::builder().processes(2).context(Context::threads().stack_size(STACK));
            let builder = match life {
                Some(tasks) => builder.max_tasks_per_child(tasks),
                None => builder,
            };
            let pool = builder.build().unwrap();
            let sum: u64 = (0..MANY).sum();
            let total = |values: Vec<u64>| values.into_iter().sum::<u64>();
            assert_eq!(total(pool.map(|i| i, 0..MANY).unwrap()), sum);
            let ones = vec![1; fewer(700, 70)];
            let counted = total(pool.chunksize(7).map(|i: &u64| *i, &ones).unwrap());
            assert_eq!(counted, ones.len() as u64);
            assert_eq!(total(pool.try_map(Ok::<_, Error>, 0..MANY).unwrap()), sum);
            assert_eq!(total(pool.map_async(|i| i, 0..MANY).get().unwrap()), sum);
            assert_eq!(pool.imap(|i| i, 0..MANY).map(Result::unwrap).sum::<u64>(), sum);
            assert_eq!(pool.imap_unordered(|i| i, 0..MANY).map(Result::unwrap).sum::<u64>(), sum);
            assert_eq!(pool.apply(|i: u64| i + 1, (1,)).unwrap(), 2);
            let handles: Vec<_> = (0..SOME).map(|i| pool.apply_async(move || i, ())).collect();
            assert_eq!(
                handles.into_iter().map(|handle| handle.get().unwrap()).sum::<u64>(),
                SOME * (SOME - 1) / 2
            );
            let borrowed = [1, 2, 3];
            let of_scope = pool.scope(|s| s.apply_async(|| borrowed.iter().sum::<u64>(), ()).get());
            assert_eq!(of_scope.unwrap(), 6);
            // A map in a map, and what a task submits and waits for, again and again.
            let inner = |i: &u64| pool.map(|j| j, 0..*i).unwrap().into_iter().sum::<u64>();
            let tens = vec![10; fewer(100, 4)];
            assert_eq!(total(pool.map(inner, &tens).unwrap()), 45 * tens.len() as u64);
            let one = |i| pool.apply_async(move || i, ()).get().unwrap();
            let nested = pool.apply(|| (0..2 * SOME).map(one).sum::<u64>(), ());
            assert_eq!(nested.unwrap(), SOME * (2 * SOME - 1));
        }
    });
}

/// A mebibyte.
const BIG: usize = fewer(1 << 20, 1 << 12);

#[test]
fn closures_items_and_results_of_a_mebibyte() {
    type Big = [u8; BIG];

    // What moves by value lies on the stack of each who moves it.
    let body = || {
        let context = Context::threads().stack_size(64 << 20);
        let pool = Pool::builder().processes(2).context(context).build().unwrap();
        let big = |byte: u8| -> Big { [byte; BIG] };
        let check = |value: &Big, byte: u8| assert!(value.iter().all(|each| *each == byte));
        let captured = big(7);
        check(&pool.apply_async(move || captured, ()).get().unwrap(), 7);
        check(&pool.apply(|value: Big| value, (big(8),)).unwrap(), 8);
        let made = pool.map(big, 0..9).unwrap();
        (0..9).zip(&made).for_each(|(byte, value)| check(value, byte));
        let back = pool.map(|value: Big| value, made).unwrap();
        (0..9).zip(&back).for_each(|(byte, value)| check(value, byte));
        for (byte, value) in (0..9).zip(pool.imap(move |i| [i; BIG], 0..9)) {
            check(&value.unwrap(), byte);
        }
    };
    watchdog(60, move || {
        let thread = thread::Builder::new().stack_size(256 << 20).spawn(body).unwrap();
        if let Err(payload) = thread.join() {
            std::panic::resume_unwind(payload);
        }
    });
}

#[test]
fn values_of_no_size_are_all_there_and_all_dropped() {
    static ALIVE: AtomicUsize = AtomicUsize::new(0);

    struct Nothing;

    fn nothing() -> Nothing {
        ALIVE.fetch_add(1, Ordering::SeqCst);
        Nothing
    }

    impl Drop for Nothing {
        fn drop(&mut self) {
            ALIVE.fetch_sub(1, Ordering::SeqCst);
        }
    }

    watchdog(60, || {
        for (kind, pool) in common::all_pools() {
            let count = fewer(1000, 30);
            assert_eq!(pool.map(|()| (), vec![(); count]).unwrap().len(), count);
            let swap = |item: Nothing| {
                drop(item);
                nothing()
            };
            let items = || (0..count).map(|_| nothing()).collect::<Vec<_>>();
            for size in [None, Some(1), Some(7)] {
                let made = with_chunksize!(pool, size, map(swap, items())).unwrap();
                assert_eq!((made.len(), ALIVE.load(Ordering::SeqCst)), (count, count), "{kind:?}");
            }
            let made = pool.map_async(swap, items()).get().unwrap();
            assert_eq!((made.len(), ALIVE.load(Ordering::SeqCst)), (count, count), "{kind:?}");
            drop(made);
            assert_eq!(pool.imap(swap, items()).map(Result::unwrap).count(), count);
            // Left half way.
            assert_eq!(
                pool.imap(swap, items()).take(count / 2).map(Result::unwrap).count(),
                count / 2
            );
            drop(pool.apply_async(nothing, ()));
            pool.close();
            pool.join().unwrap();
            assert_eq!(ALIVE.load(Ordering::SeqCst), 0, "{kind:?}");
        }
    });
}

/// The values are dropped where they are: `terminate` waits for none of them, `join` for all.
#[test]
fn slow_drops_do_not_hold_up_terminate() {
    struct Slow(common::Gate, common::Counter);

    impl Drop for Slow {
        fn drop(&mut self) {
            self.0.pass();
            self.1.add();
        }
    }

    watchdog(60, || {
        for kind in common::THREADS {
            let pool = kind.pool();
            let dropped = common::Counter::default();
            let (opener_of_workers, held) = hold(&pool, kind.workers());
            let (gate, mut opener) = gate();
            for _ in 0..10 {
                let slow = Slow(gate.clone(), dropped.clone());
                drop(pool.apply_async(move || drop(slow), ()));
            }
            pool.terminate();
            drop(opener_of_workers);
            opener.wait_for(1);
            assert!(matches!(pool.join_timeout(Duration::from_millis(1)), Err(Error::Timeout)));
            opener.open();
            pool.join().unwrap();
            assert_eq!(dropped.get(), 10, "{kind:?}");
            drop(held);
        }
    });
}

/// Set in the process that this one starts.
const CHILD: &str = "PARPOOL_TEST_CHILD";

#[test]
#[cfg_attr(miri, ignore = "starts a process")]
fn a_machine_with_one_core() {
    if std::env::var_os(CHILD).is_some() {
        let pool = Pool::new(None).unwrap();
        assert_eq!(pool.processes(), 1);
        // More workers than cores, and all wait for one another.
        for pool in [pool, Pool::new(4).unwrap()] {
            let sum = |values: Vec<u64>| values.into_iter().sum::<u64>();
            assert_eq!(sum(pool.map(|i| i, 0..100_000).unwrap()), 4_999_950_000);
            assert_eq!(
                pool.imap(|i| i, 0..100_000).map(Result::unwrap).sum::<u64>(),
                4_999_950_000
            );
            let inner = |i: u64| sum(pool.map(|j| j, 0..i).unwrap());
            assert_eq!(sum(pool.map(inner, vec![100; 100]).unwrap()), 495_000);
            for i in 0..1000 {
                assert_eq!(pool.apply(|| i, ()).unwrap(), i);
                assert_eq!(pool.apply_async(move || i, ()).get().unwrap(), i);
            }
        }
        return;
    }
    watchdog(60, || {
        let test = "a_machine_with_one_core";
        let program = std::env::current_exe().unwrap();
        let mut child = Command::new("taskset");
        child.args(["-c", "0"]).arg(program).args(["--exact", test, "--test-threads=1"]);
        let Ok(output) = child.env(CHILD, "1").output() else {
            return println!("skipped: there is no `taskset` to take cores away");
        };
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && text.contains("1 passed"), "{text}");
    });
}

#[test]
#[cfg_attr(miri, ignore = "any size of stack is fine there")]
fn a_stack_that_the_system_refuses_fails_the_pool() {
    watchdog(20, || {
        let context = Context::threads().name("huge").stack_size(1 << 46);
        for life in [usize::MAX, 10] {
            let builder = Pool::builder().processes(3).context(context.clone());
            let pool = match life {
                usize::MAX => builder.build(),
                tasks => builder.max_tasks_per_child(tasks).build(),
            };
            assert!(matches!(pool, Err(Error::Start(_))), "{pool:?}");
        }
        common::assert_no_threads("huge");
    });
}

/// 64 GiB of address space for three items is what a system refuses, or kills the process for.
#[test]
fn a_large_chunk_size_reserves_no_memory_for_items_that_do_not_come() {
    type Big = [u8; BIG];

    let body = || {
        let context = Context::threads().stack_size(64 << 20);
        let pool = Pool::builder().processes(2).context(context).build().unwrap();
        let pools = [pool, Pool::builder().context(Context::serial()).build().unwrap()];
        for pool in &pools {
            for size in [100_000, 1 << 40, usize::MAX] {
                let pool = pool.chunksize(size);
                // Large items, of a number that is known or not.
                let items = || (0..3u8).map(|i| -> Big { [i; BIG] });
                assert_eq!(pool.map(|item: Big| item[5], items()).unwrap(), [0, 1, 2]);
                let some = items().filter(|item| item[0] > 0);
                assert_eq!(pool.map(|item: Big| item[5], some).unwrap(), [1, 2]);
                // Large results of items that are there, of which few are wanted.
                let f = |i: usize| if i == 2 { Err(i) } else { Ok([0u8; BIG]) };
                assert!(pool.try_map(f, (0..fewer(200_000, 200)).filter(|_| true)).is_err());
                // An iterator that says it has more than there is memory for.
                let said = (usize::MAX >> 8, Some(usize::MAX >> 8));
                let liar = Says(0..3, said);
                assert_eq!(pool.map(|i| i, liar).unwrap(), [0, 1, 2]);
            }
        }
    };
    watchdog(60, move || {
        let thread = thread::Builder::new().stack_size(256 << 20).spawn(body).unwrap();
        if let Err(payload) = thread.join() {
            std::panic::resume_unwind(payload);
        }
    });
}

/// An iterator that says it has so many items.
struct Says<I>(I, (usize, Option<usize>));

impl<I: Iterator> Iterator for Says<I> {
    type Item = I::Item;

    fn next(&mut self) -> Option<I::Item> {
        self.0.next()
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.1
    }
}

#[test]
fn a_parallel_range_of_absurd_length_ends_at_the_first_error() {
    watchdog(60, || {
        for (kind, pool) in common::all_pools() {
            for len in [1 << 40, usize::MAX >> 4, usize::MAX] {
                for size in [None, Some(7)] {
                    // Without a set size, a pool that replaces its workers has chunks of 2^38 items.
                    let fails = |x: usize| if x == 5 { Err(x) } else { Ok(x) };
                    let range = || (0..len).into_par_iter();
                    let result = with_chunksize!(pool, size, try_map(fails, range()));
                    assert_matches!(result, Err(TryError::Item { index: 5, error: 5 }), "{kind:?}");
                    let panics = |x: usize| if x == 5 { panic!("{ON_PURPOSE}") } else { x };
                    let result = with_chunksize!(pool, size, reduce(panics, |a, b| a ^ b, range()));
                    assert_eq!(panicked(result), (Some(5), ON_PURPOSE.into()), "{kind:?}");
                    let mut out = vec![0; 3];
                    let result = with_chunksize!(pool, size, map_into(panics, range(), &mut out));
                    assert_eq!(panicked(result), (Some(5), ON_PURPOSE.into()), "{kind:?}");
                    assert_eq!(pool.map(|x| x + 1, 0..3).unwrap(), [1, 2, 3]);
                }
            }
        }
    });
}
