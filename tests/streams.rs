//! Streams: `imap` and `imap_unordered`, the window, how a stream ends, and what it leaves behind.

mod common;

use std::cell::Cell;
use std::collections::BTreeSet;
use std::iter::FusedIterator;
use std::panic::panic_any;
use std::rc::Rc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, sleep};
use std::time::{Duration, Instant};

use crossbeam_channel::unbounded;
use parpool::{Error, Imap, Options, Pool, Progress, is_cancelled};
use proptest::prelude::*;

use common::{
    ALL, Counter, Drops, Kind, LASTING, LONG, Liar, NO_TIME, ON_PURPOSE, STEP, THREADS, all_pools,
    at_most, eventually, fewer, gate, hold, panicked, pools, processor_time, scaled, shared_pools,
    watchdog,
};

// ---- what the tests share ------------------------------------------------------------------------

/// The verbs with these sizes; `None` is up to the pool.
fn options(pool: &Pool, chunk: Option<usize>, window: Option<usize>) -> Options<'_> {
    // So far that it is no deadline: options with nothing set.
    let mut options = pool.timeout(Duration::MAX);
    if let Some(chunk) = chunk {
        options = options.chunksize(chunk);
    }
    if let Some(window) = window {
        options = options.buffersize(window);
    }
    options
}

/// `imap` or `imap_unordered`.
fn stream<I, F, R>(options: Options<'_>, ordered: bool, f: F, items: I) -> Imap<'static, I, R>
where
    I: Iterator<Item: Send + 'static>,
    F: Fn(I::Item) -> R + Send + Sync + 'static,
    R: Send + 'static,
{
    match ordered {
        true => options.imap(f, items),
        false => options.imap_unordered(f, items),
    }
}

/// The window that a stream of `workers` has at the most.
fn widest(workers: usize, chunk: Option<usize>, window: Option<usize>) -> usize {
    window.unwrap_or((2048 * workers).max(2 * workers * chunk.unwrap_or(1)))
}

/// Counts what is pulled from it, and how far that was ahead of what was handed out.
struct Counting<I> {
    items: I,
    seen: Arc<Seen>,
}

#[derive(Default)]
struct Seen {
    pulled: AtomicUsize,
    handed: AtomicUsize,
    /// The most that were pulled and not handed out, the item that is being pulled included.
    most: AtomicUsize,
}

impl Seen {
    fn pulled(&self) -> usize {
        self.pulled.load(Ordering::SeqCst)
    }

    fn most(&self) -> usize {
        self.most.load(Ordering::SeqCst)
    }

    /// To be called for each result that was handed out.
    fn hand(&self) {
        self.handed.fetch_add(1, Ordering::SeqCst);
    }
}

fn counting<I: Iterator>(items: I) -> (Counting<I>, Arc<Seen>) {
    let seen = Arc::new(Seen::default());
    (Counting { items, seen: Arc::clone(&seen) }, seen)
}

impl<I: Iterator> Iterator for Counting<I> {
    type Item = I::Item;

    fn next(&mut self) -> Option<I::Item> {
        let ahead = self.seen.pulled() + 1 - self.seen.handed.load(Ordering::SeqCst);
        let item = self.items.next()?;
        self.seen.most.fetch_max(ahead, Ordering::SeqCst);
        self.seen.pulled.fetch_add(1, Ordering::SeqCst);
        Some(item)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.items.size_hint()
    }
}

/// The value, or the place of the panic.
fn plain<R>(result: Result<R, Error>) -> Result<R, Option<usize>> {
    match result {
        Ok(value) => Ok(value),
        Err(Error::Panicked(panic)) => Err(panic.index()),
        Err(other) => panic!("{other:?}"),
    }
}

// ---- results and errors --------------------------------------------------------------------------

#[test]
fn ten_items_then_none_for_ever() {
    watchdog(20, || {
        for (_, pool) in all_pools() {
            let mut ordered = pool.imap(|x| x * x, 0..10);
            for x in 0..10 {
                assert_eq!(ordered.next().unwrap().unwrap(), x * x);
            }
            let mut unordered = pool.imap_unordered(|x| x * x, 0..10);
            let seen: BTreeSet<i32> = unordered.by_ref().map(Result::unwrap).collect();
            assert!(seen.into_iter().eq((0..10).map(|x| x * x)));
            for _ in 0..5 {
                assert!(ordered.next().is_none());
                assert!(unordered.next().is_none());
                assert!(ordered.next_timeout(Duration::ZERO).unwrap().is_none());
            }
        }
    });
}

#[test]
fn a_thousand_items_in_chunks_of_a_hundred() {
    const LEN: u32 = fewer(1000, 25) as u32;

    watchdog(20, || {
        for (_, pool) in all_pools() {
            for ordered in [true, false] {
                let squares = stream(pool.chunksize(fewer(100, 10)), ordered, |x| x * x, 0..LEN);
                let mut seen: Vec<u32> = squares.map(Result::unwrap).collect();
                if !ordered {
                    seen.sort_unstable();
                }
                assert!(seen.into_iter().eq((0..LEN).map(|x| x * x)));
            }
        }
    });
}

#[test]
fn a_next_that_timed_out_loses_nothing() {
    watchdog(30, || {
        for kind in THREADS {
            for ordered in [true, false] {
                let pool = kind.pool();
                let (gate, mut opener) = gate();
                let wait = move |x: u32| {
                    gate.pass();
                    x + 1
                };
                let mut stream = stream(pool.buffersize(4), ordered, wait, 0..4);
                for _ in 0..3 {
                    let start = Instant::now();
                    let timeout = Duration::from_millis(20);
                    assert_matches!(stream.next_timeout(timeout), Err(Error::Timeout));
                    assert!(start.elapsed() >= timeout);
                }
                opener.open();
                let mut seen = Vec::new();
                while let Some(result) = stream.next_timeout(LONG).unwrap() {
                    seen.push(result.unwrap());
                }
                seen.sort_unstable();
                assert_eq!(seen, [1, 2, 3, 4]);
            }
        }
    });
}

#[test]
fn the_same_results_at_every_chunk_size() {
    const LEN: usize = fewer(100, 13);

    watchdog(60, || {
        let bad = |i: usize| i % 7 == 3 || i % 12 == 0;
        let f = move |i: usize| match bad(i) {
            true => panic_any(ON_PURPOSE),
            false => i * 2,
        };
        let expected: Vec<_> =
            (0..LEN).map(|i| if bad(i) { Err(Some(i)) } else { Ok(i * 2) }).collect();
        for (kind, pool) in all_pools() {
            for chunk in [None, Some(1), Some(2), Some(4), Some(6), Some(1000)]
                .into_iter()
                .step_by(fewer(1, 2))
            {
                let what = format!("{kind:?}, chunk {chunk:?}");
                let ordered = options(&pool, chunk, None).imap(f, 0..LEN);
                assert_eq!(ordered.map(plain).collect::<Vec<_>>(), expected, "{what}");
                let unordered = options(&pool, chunk, None).imap_unordered(f, 0..LEN);
                let mut seen: Vec<_> = unordered.map(plain).collect();
                seen.sort_by_key(|result| result.map_or_else(|i| i.unwrap(), |value| value / 2));
                assert_eq!(seen, expected, "{what}");
            }
        }
    });
}

/// `next` takes `&mut self`: threads that share a stream need a lock of their own, and it is enough.
#[test]
fn threads_that_share_a_stream_get_each_result_once() {
    const LEN: u32 = fewer(500, 25) as u32;

    fn assert_send<T: Send>(_: &T) {}

    watchdog(60, || {
        for kind in THREADS {
            for ordered in [true, false] {
                let pool = kind.pool();
                let stream = stream(options(&pool, None, None), ordered, |x: u32| x, 0..LEN);
                assert_send(&stream);
                let (stream, seen) = (Mutex::new(stream), Mutex::new(BTreeSet::new()));
                thread::scope(|scope| {
                    for _ in 0..fewer(8, 3) {
                        scope.spawn(|| {
                            loop {
                                let next = stream.lock().unwrap().next();
                                let Some(value) = next else { break };
                                assert!(seen.lock().unwrap().insert(value.unwrap()));
                            }
                        });
                    }
                });
                assert!(seen.into_inner().unwrap().into_iter().eq(0..LEN));
            }
        }
    });
}

#[test]
fn a_size_of_zero_is_refused_and_nothing_is_pulled() {
    watchdog(20, || {
        for (_, pool) in all_pools() {
            for options in [pool.buffersize(0), pool.chunksize(0)] {
                for ordered in [true, false] {
                    let (input, seen) = counting(0..10);
                    let ran = Counter::default();
                    let runs = ran.clone();
                    let mut stream = stream(options, ordered, move |_| runs.add(), input);
                    assert_matches!(stream.next(), Some(Err(Error::InvalidArgument(_))));
                    assert!(stream.next().is_none());
                    assert_eq!((seen.pulled(), ran.get()), (0, 0));
                }
            }
        }
    });
}

// ---- the window ----------------------------------------------------------------------------------

#[test]
fn exactly_the_window_is_pulled_when_nothing_gets_done() {
    watchdog(30, || {
        for kind in THREADS {
            for (ordered, window) in [1, 2, 7, fewer(100, 12)]
                .into_iter()
                .flat_map(|window| [(true, window), (false, window)])
            {
                let pool = kind.pool();
                let (gate, opener) = gate();
                let (input, seen) = counting(0..);
                let wait = move |_: u64| gate.pass();
                let mut stream = stream(pool.buffersize(window), ordered, wait, input);
                assert_eq!(seen.pulled(), 0, "nothing is pulled before the first next");
                for _ in 0..3 {
                    let soon = NO_TIME + Duration::from_millis(2);
                    assert_matches!(stream.next_timeout(soon), Err(Error::Timeout));
                    assert_eq!(seen.pulled(), window, "{kind:?}");
                }
                drop(opener);
            }
        }
    });
}

/// Consumes `count` results of a stream over a counting input and returns what was seen.
fn check_window(
    kind: Kind,
    (chunk, window, ordered): (Option<usize>, Option<usize>, bool),
    count: usize,
    f: impl Fn(usize) + Send + Sync + 'static,
    mut consume: impl FnMut(usize),
) {
    let pool = kind.pool();
    let (input, seen) = counting(0..);
    let stream = stream(options(&pool, chunk, window), ordered, f, input);
    for (i, result) in stream.take(count).enumerate() {
        seen.hand();
        result.unwrap();
        consume(i);
    }
    let widest = widest(kind.workers(), chunk, window);
    assert!(
        seen.most() <= widest,
        "{kind:?}, chunk {chunk:?}, window {window:?}, ordered {ordered}: {} ahead",
        seen.most()
    );
}

fn sizes() -> impl Iterator<Item = (Option<usize>, Option<usize>, bool)> {
    [None, Some(1), Some(6), Some(50)]
        .into_iter()
        .flat_map(|chunk| {
            [None, Some(1), Some(2), Some(7), Some(100)]
                .into_iter()
                .flat_map(move |window| [(chunk, window, true), (chunk, window, false)])
        })
        .step_by(STEP)
}

#[test]
fn the_window_is_strict_when_items_are_fast() {
    watchdog(60, || {
        for kind in [Kind::Lasting(1), Kind::Lasting(3), Kind::Replaced(2, 50), Kind::Serial] {
            sizes().for_each(|sizes| check_window(kind, sizes, scaled(2000), |_| {}, |_| {}));
        }
    });
}

#[test]
fn the_window_is_strict_when_the_first_item_is_slow() {
    watchdog(60, || {
        for kind in [Kind::Lasting(1), Kind::Lasting(3)] {
            let slow_first = |i| {
                if i == 0 {
                    sleep(Duration::from_millis(20))
                }
            };
            sizes().for_each(|sizes| check_window(kind, sizes, scaled(500), slow_first, |_| {}));
        }
    });
}

#[test]
fn the_window_is_strict_when_the_consumer_is_slow() {
    watchdog(60, || {
        for kind in [Kind::Lasting(1), Kind::Lasting(3)] {
            let slow = |i| {
                if i % 50 == 0 {
                    sleep(Duration::from_millis(2))
                }
            };
            sizes().for_each(|sizes| check_window(kind, sizes, scaled(500), |_| {}, slow));
        }
    });
}

/// The stream widens its window while items are fast and narrows it when they get slow: then more are
/// in flight than the new one holds.
#[test]
#[cfg_attr(miri, ignore = "a window takes twenty thousand items to get wide")]
fn a_window_that_shrinks_under_what_is_in_flight() {
    watchdog(60, || {
        for pool in [Kind::Lasting(1), Kind::Lasting(2), Kind::Lasting(4)].map(Kind::pool) {
            for ordered in [true, false] {
                let late = |i: usize| {
                    if i > 20_000 && i % 100 == 0 {
                        sleep(Duration::from_millis(3));
                    }
                    i
                };
                let mut seen: Vec<_> = stream(options(&pool, None, None), ordered, late, 0..22_000)
                    .map(Result::unwrap)
                    .collect();
                seen.sort_unstable();
                assert!(seen.into_iter().eq(0..22_000));
            }
        }
    });
}

/// A value that counts how many of its kind live.
struct Live(Arc<(AtomicUsize, AtomicUsize)>);

impl Live {
    fn new(count: &Arc<(AtomicUsize, AtomicUsize)>) -> Self {
        let now = count.0.fetch_add(1, Ordering::SeqCst) + 1;
        count.1.fetch_max(now, Ordering::SeqCst);
        Live(Arc::clone(count))
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::SeqCst);
    }
}

#[cfg(debug_assertions)]
const MANY: usize = fewer(100_000, 30);
#[cfg(not(debug_assertions))]
const MANY: usize = 10_000_000;

#[test]
fn memory_is_flat() {
    watchdog(300, || {
        for (workers, window) in [(1, Some(fewer(100, 10))), (2, Some(1000)), (2, None)] {
            let pool = Pool::new(workers).unwrap();
            for ordered in [true, false] {
                let count = Arc::default();
                let makes = Arc::clone(&count);
                let input = (0..MANY).map(move |_| Live::new(&makes));
                let stream = stream(options(&pool, None, window), ordered, |live| live, input);
                assert_eq!(stream.map(|live| drop(live.unwrap())).count(), MANY);
                let most = count.1.load(Ordering::SeqCst);
                assert!(most <= widest(workers, None, window), "{most} of {window:?}");
                assert!(eventually(|| count.0.load(Ordering::SeqCst) == 0));
            }
        }
    });
}

// ---- inputs --------------------------------------------------------------------------------------

#[test]
fn an_endless_input() {
    const FIRST: usize = fewer(1000, 15);

    watchdog(20, || {
        for (_, pool) in all_pools() {
            for window in [None, Some(1), Some(5)] {
                let squares = options(&pool, None, window).imap(|x: u64| x * x, 0..);
                let first: Vec<u64> = squares.take(FIRST).map(Result::unwrap).collect();
                assert!(first.into_iter().eq((0..FIRST as u64).map(|x| x * x)));
            }
        }
    });
}

#[test]
fn an_input_that_panics_is_an_error_at_its_place() {
    watchdog(60, || {
        for ((kind, pool), ordered) in all_pools().flat_map(|pool| {
            let pool = Arc::new(pool);
            [true, false].map(move |ordered| ((pool.0, Arc::clone(&pool)), ordered))
        }) {
            let pool = &pool.1;
            for (at, chunk) in [0, 3, fewer(40, 9)]
                .into_iter()
                .flat_map(|at| {
                    [None, Some(1), Some(2), Some(50)].into_iter().map(move |chunk| (at, chunk))
                })
                .step_by(fewer(1, 5))
            {
                let sized = (0..100).inspect(move |i| assert_ne!(*i, at, "{ON_PURPOSE}"));
                let unsized_ = sized.clone().filter(|_| true);
                let check = |results: Vec<Result<usize, Error>>| {
                    let what = format!("{kind:?}, ordered {ordered}, at {at}, chunk {chunk:?}");
                    assert_eq!(results.len(), at + 1, "{what}");
                    let mut results = results.into_iter();
                    let mut values: Vec<_> =
                        results.by_ref().take(at).map(|value| value.unwrap()).collect();
                    if !ordered {
                        values.sort_unstable();
                    }
                    assert!(values.into_iter().eq(0..at), "{what}");
                    let (index, message) = panicked(results.next().unwrap());
                    assert_eq!(index, Some(at), "{what}");
                    assert!(message.contains(ON_PURPOSE), "{what}");
                };
                let options = options(pool, chunk, None);
                check(stream(options, ordered, |x| x, sized).collect());
                check(stream(options, ordered, |x| x, unsized_).collect());
            }
            assert_eq!(pool.apply(|| 1, ()).unwrap(), 1);
        }
    });
}

#[test]
fn a_lying_size_hint_harms_nobody() {
    const LEN: usize = fewer(100, 9);

    watchdog(20, || {
        for (_, pool) in all_pools() {
            for hint in
                [(0, Some(0)), (3, Some(3)), (1000, Some(1000)), (usize::MAX, None), (9, Some(2))]
            {
                for ordered in [true, false] {
                    let start = Instant::now();
                    let input = Liar(0..LEN, hint);
                    let mut stream = stream(pool.chunksize(7), ordered, |x| x, input);
                    let mut seen = Vec::new();
                    // Not `collect`, which would believe it.
                    while let Some(value) = stream.next() {
                        let _ = stream.size_hint();
                        seen.push(value.unwrap());
                    }
                    seen.sort_unstable();
                    assert!(seen.into_iter().eq(0..LEN));
                    assert!(start.elapsed() < at_most(Duration::from_secs(1)));
                }
            }
        }
    });
}

/// Ends, and would go on.
struct Flicker(u32);

impl Iterator for Flicker {
    type Item = u32;

    fn next(&mut self) -> Option<u32> {
        self.0 += 1;
        (self.0 % 4 != 0).then_some(self.0)
    }
}

#[test]
fn an_input_that_is_not_fused_is_not_asked_again() {
    watchdog(20, || {
        for (_, pool) in all_pools() {
            let mut stream = pool.imap(|x| x, Flicker(0));
            assert!(stream.by_ref().map(Result::unwrap).eq([1, 2, 3]));
            assert!((0..10).all(|_| stream.next().is_none()));
        }
    });
}

#[test]
fn a_blocked_input_delays_no_other_call() {
    watchdog(30, || {
        for kind in THREADS {
            let pool = kind.pool();
            let (send, receive) = unbounded::<u32>();
            thread::scope(|scope| {
                let consumer = scope.spawn(|| {
                    // Drawn from a channel: `next` blocks until something comes.
                    pool.imap(|x| x + 1, receive.iter()).map(Result::unwrap).collect::<Vec<_>>()
                });
                send.send(1).unwrap();
                sleep(Duration::from_millis(20));
                let mut times: Vec<_> = (0..5)
                    .map(|_| {
                        let start = Instant::now();
                        assert_eq!(pool.apply(|| 7, ()).unwrap(), 7);
                        start.elapsed()
                    })
                    .collect();
                times.sort_unstable();
                assert!(times[2] < at_most(Duration::from_millis(100)), "{kind:?}: {times:?}");
                send.send(2).unwrap();
                drop(send);
                assert_eq!(consumer.join().unwrap(), [2, 3]);
            });
        }
    });
}

// ---- the end of the pool -------------------------------------------------------------------------

#[test]
fn an_ended_pool_gives_a_stream_of_one_error() {
    watchdog(20, || {
        for kind in ALL {
            for (ordered, terminate) in [(true, true), (true, false), (false, true), (false, false)]
            {
                let pool = kind.pool();
                if terminate {
                    pool.terminate();
                } else {
                    pool.close();
                }
                for len in [0, 1, 100] {
                    let (input, seen) = counting(0..len);
                    let mut stream = stream(options(&pool, None, None), ordered, |x| x, input);
                    assert_matches!(stream.next(), Some(Err(Error::NotRunning)));
                    assert!(stream.next().is_none());
                    assert_eq!(seen.pulled(), 0);
                }
                pool.join().unwrap();
            }
        }
    });
}

#[test]
fn terminate_wakes_who_waits_for_a_result() {
    watchdog(60, || {
        for kind in THREADS {
            for ordered in [true, false] {
                let pool = kind.pool();
                let (gate, opener) = gate();
                let wait = move |_: u64| gate.pass();
                let mut stream = stream(pool.buffersize(50), ordered, wait, 0..);
                thread::scope(|scope| {
                    let waiter = scope.spawn(move || {
                        let first = stream.next();
                        let after = (Instant::now(), stream.next().is_none());
                        (first, after)
                    });
                    opener.wait_for(kind.workers());
                    sleep(Duration::from_millis(20));
                    let start = Instant::now();
                    pool.terminate();
                    let (first, (woken, over)) = waiter.join().unwrap();
                    assert_matches!(first, Some(Err(Error::Terminated)), "{kind:?}");
                    assert!(over);
                    assert!(woken - start < at_most(Duration::from_secs(1)));
                });
                drop(opener);
                pool.join().unwrap();
            }
        }
    });
}

#[test]
fn what_was_done_before_terminate_may_still_come_and_then_one_error() {
    watchdog(20, || {
        for pool in pools() {
            let mut stream = pool.buffersize(8).imap(|x: u32| x, 0..);
            assert_eq!(stream.next().unwrap().unwrap(), 0);
            pool.terminate();
            // Not `collect`, which would have room made for as many as the input says it has.
            let mut rest = Vec::new();
            for result in stream.by_ref() {
                rest.push(result);
            }
            let (last, values) = rest.split_last().unwrap();
            assert_matches!(last, Err(Error::Terminated));
            for (value, expected) in values.iter().zip(1..) {
                assert_matches!(value, Ok(value) if *value == expected);
            }
            assert!(stream.next().is_none());
        }
    });
}

#[test]
fn terminate_waits_for_no_blocked_input() {
    watchdog(30, || {
        for kind in THREADS {
            let pool = kind.pool();
            let (send, receive) = unbounded::<u32>();
            thread::scope(|scope| {
                let consumer = scope.spawn(|| pool.imap(|x| x, receive.iter()).collect::<Vec<_>>());
                sleep(Duration::from_millis(20));
                let start = Instant::now();
                pool.terminate();
                assert!(start.elapsed() < at_most(Duration::from_millis(100)), "{kind:?}");
                pool.join_timeout(LONG).unwrap();
                send.send(1).unwrap();
                let rest = consumer.join().unwrap();
                assert_matches!(rest.last(), Some(Err(Error::Terminated | Error::NotRunning)));
                assert!(rest.len() <= 2);
            });
        }
    });
}

#[test]
fn close_with_an_endless_input_then_join() {
    watchdog(30, || {
        for kind in ALL {
            for (ordered, keep) in [(true, true), (true, false), (false, true), (false, false)] {
                let pool = kind.pool();
                let mut stream = stream(options(&pool, None, None), ordered, |x: u64| x, 0..);
                stream.next().unwrap().unwrap();
                let kept = keep.then_some(stream);
                let start = Instant::now();
                pool.close();
                pool.join().unwrap();
                assert!(start.elapsed() < at_most(Duration::from_secs(1)), "{kind:?}");
                if let Some(mut stream) = kept {
                    // What was pulled was accepted; then it says why there is no more.
                    let rest: Vec<_> = stream.by_ref().take(100_000).collect();
                    let (last, values) = rest.split_last().unwrap();
                    assert_matches!(last, Err(Error::NotRunning));
                    assert!(values.iter().all(Result::is_ok));
                    assert!(stream.next().is_none());
                }
            }
        }
    });
}

#[test]
fn a_pool_dropped_with_a_live_stream() {
    watchdog(30, || {
        for kind in ALL {
            for len in [10, u64::MAX] {
                let pool = kind.pool();
                let mut stream = pool.imap(|x: u64| x, 0..len);
                assert_eq!(stream.next().unwrap().unwrap(), 0);
                drop(pool);
                let rest: Vec<_> = stream.by_ref().take(100_000).collect();
                let (last, values) = rest.split_last().unwrap();
                assert!(
                    values.iter().map(|value| *value.as_ref().unwrap()).eq(1..rest.len() as u64)
                );
                match last {
                    Ok(value) => assert_eq!(*value, len - 1),
                    Err(error) => assert_matches!(error, Error::NotRunning),
                }
                assert!(stream.next().is_none());
            }
        }
    });
}

/// A portion of the input that is refused takes nothing away from those that were accepted before it.
#[test]
fn a_refused_chunk_loses_no_accepted_results() {
    watchdog(60, || {
        for kind in ALL {
            for ((ordered, chunk), accepted) in
                [(true, Some(1)), (false, Some(1)), (true, Some(2)), (false, Some(2))]
                    .into_iter()
                    .flat_map(|sizes| [0, 2, 4].map(|accepted| (sizes, accepted)))
            {
                let pool = kind.pool();
                let drops = Drops::default();
                let (makes, progress) = (drops.clone(), Progress::default());
                let input = (0..10).map(|i| {
                    if i == accepted {
                        // No thread is left: nothing can be accepted any more.
                        pool.close();
                        pool.join_timeout(LONG).unwrap();
                    }
                    makes.make(i)
                });
                let options = options(&pool, chunk, None).progress(&progress);
                let mut stream = stream(options, ordered, |item| item.value(), input);
                let mut seen = Vec::new();
                let error = loop {
                    match stream.next().unwrap() {
                        Ok(value) => seen.push(value),
                        Err(error) => break error,
                    }
                };
                let what = format!("{kind:?}, ordered {ordered}, chunk {chunk:?}");
                assert_matches!(error, Error::NotRunning, "{what}");
                seen.sort_unstable();
                assert!(seen.into_iter().eq(0..accepted), "{what}");
                assert_eq!(stream.size_hint(), (0, Some(0)));
                assert!(stream.next().is_none());
                assert_eq!(drops.alive(), 0);
                assert_eq!(progress.get(), (accepted, Some(10)), "{what}");
            }
        }
    });
}

#[test]
fn a_chunk_refused_by_a_terminated_pool_ends_the_stream_at_once() {
    watchdog(30, || {
        for kind in ALL {
            for ordered in [true, false] {
                let pool = kind.pool();
                let input = (0..10).inspect(|i| {
                    if *i == 3 {
                        pool.terminate();
                    }
                });
                let mut stream = stream(options(&pool, None, None), ordered, |x| x, input);
                let error = loop {
                    match stream.next().unwrap() {
                        Ok(value) => assert!(value < 3),
                        Err(error) => break error,
                    }
                };
                assert_matches!(error, Error::Terminated, "{kind:?}");
                assert!(stream.next().is_none());
            }
        }
    });
}

// ---- the tutorial --------------------------------------------------------------------------------

/// With a fifth of a second for its second; under Miri, where time is made of steps, more.
#[test]
fn tutorial_imap_prints_as_it_comes() {
    const ROUND: Duration = Duration::from_millis(fewer(200, 20_000) as u64);

    watchdog(30, || {
        let square = |x: u32| {
            sleep(ROUND);
            x * x
        };
        let pool = Pool::new(2).unwrap();
        let start = Instant::now();
        let mut seen = Vec::new();
        for value in pool.imap(square, 0..5) {
            let rounds = start.elapsed().as_secs_f64() / ROUND.as_secs_f64();
            seen.push((value.unwrap(), rounds.floor() as u32));
        }
        assert_eq!(seen, [(0, 1), (1, 1), (4, 2), (9, 2), (16, 3)]);
    });
}

// ---- against the serial iterator -----------------------------------------------------------------

/// What an item does.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Item {
    Fast,
    Slow(u8),
    Bad,
}

fn items() -> impl Strategy<Value = Vec<Item>> {
    let item = prop_oneof![
        30 => Just(Item::Fast),
        1 => (0..100_u8).prop_map(Item::Slow),
        1 => Just(Item::Bad),
    ];
    let len = prop_oneof![
        3 => 0..fewer(50, 6),
        1 => fewer(90, 6)..fewer(110, 9),
        1 => fewer(300, 9)..fewer(600, 12),
    ];
    len.prop_flat_map(move |len| prop::collection::vec(item.clone(), len))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: fewer(60, 2) as u32, failure_persistence: None, ..Default::default() })]

    #[test]
    fn a_stream_is_the_serial_iterator(
        items in items(),
        window in prop::sample::select(vec![None, Some(1), Some(2), Some(7), Some(100)]),
        chunk in prop::sample::select(vec![None, Some(1), Some(6), Some(50)]),
        ordered: bool,
        pauses in prop::collection::vec(0..600_usize, 0..4),
    ) {
        let expected: Vec<_> = items
            .iter()
            .enumerate()
            .map(|(i, item)| if *item == Item::Bad { Err(Some(i)) } else { Ok(i) })
            .collect();
        for (kind, pool) in shared_pools() {
            // A thread for every few items takes its time.
            if matches!(kind, Kind::Replaced(..)) && items.len() > 110 {
                continue;
            }
            let f = |(i, item): (usize, Item)| match item {
                Item::Fast => i,
                Item::Slow(by) => {
                    sleep(Duration::from_micros(20 * u64::from(by)));
                    i
                }
                Item::Bad => panic_any(ON_PURPOSE),
            };
            let (input, seen) = counting(items.clone().into_iter().enumerate());
            let mut stream = stream(options(pool, chunk, window), ordered, f, input);
            let mut results = Vec::new();
            loop {
                let left = items.len() - results.len();
                let (low, high) = stream.size_hint();
                prop_assert_eq!(low, left.min(1));
                prop_assert!(high == Some(left) || high == Some(left + 1));
                let Some(result) = stream.next() else { break };
                seen.hand();
                if pauses.contains(&results.len()) {
                    sleep(Duration::from_millis(1));
                }
                results.push(plain(result));
            }
            prop_assert!(stream.next().is_none());
            if !ordered {
                results.sort_by_key(|result| result.map_or_else(|i| i.unwrap(), |value| value));
            }
            prop_assert_eq!(&results, &expected, "{:?}", kind);
            prop_assert!(seen.most() <= widest(kind.workers(), chunk, window), "{:?}", kind);
        }
    }

    #[test]
    fn a_stream_over_a_stream_is_the_serial_chain(
        len in 0..fewer(300, 9) as u64,
        windows in (1..20_usize, 1..20_usize),
    ) {
        for (kind, pool) in shared_pools() {
            if matches!(kind, Kind::Replaced(..)) && len > 30 {
                continue;
            }
            let inner = pool.buffersize(windows.0).imap(|x: u64| x + 1, 0..len);
            let outer = pool.buffersize(windows.1).imap(|x: Result<u64, _>| x.unwrap() * 2, inner);
            prop_assert!(outer.map(Result::unwrap).eq((0..len).map(|x| (x + 1) * 2)));
        }
    }
}

// ---- a stream as an iterator ---------------------------------------------------------------------

#[test]
fn the_size_hint_is_right_at_each_step() {
    const LEN: u32 = fewer(100, 12) as u32;

    fn assert_fused<T: FusedIterator>(_: &T) {}

    watchdog(20, || {
        for (_, pool) in all_pools() {
            for ordered in [true, false] {
                let mut known = stream(options(&pool, None, Some(7)), ordered, |x| x, 0..LEN);
                assert_fused(&known);
                for left in (0..LEN as usize).rev() {
                    known.next().unwrap().unwrap();
                    let (low, high) = known.size_hint();
                    assert_eq!(low, left.min(1), "a pool that ends cuts it short");
                    assert!((left..=left + 1).contains(&high.unwrap()), "{left}, {high:?}");
                }
                assert!(known.next().is_none());
                assert_eq!(known.size_hint(), (0, Some(0)));

                let half = (0..LEN).filter(|x| x % 2 == 0);
                let mut filtered = stream(options(&pool, None, Some(7)), ordered, |x| x, half);
                assert_eq!(filtered.size_hint(), (0, Some(LEN as usize + 1)));
                for left in (0..LEN as usize / 2).rev() {
                    filtered.next().unwrap().unwrap();
                    let (low, high) = filtered.size_hint();
                    assert!(low <= left && left <= high.unwrap(), "{low}, {left}, {high:?}");
                }
                assert!(filtered.next().is_none());
                assert_eq!(filtered.size_hint(), (0, Some(0)));

                let endless = stream(options(&pool, None, Some(7)), ordered, |x| x, 0..u64::MAX);
                assert_eq!(endless.size_hint(), (1, None));
                let refused = stream(pool.chunksize(0), ordered, |x| x, 0..5);
                assert_eq!(refused.size_hint(), (1, Some(1)));
            }
        }
    });
}

#[test]
fn an_input_that_is_not_send_and_borrows_from_the_stack() {
    watchdog(20, || {
        for (_, pool) in all_pools() {
            for ordered in [true, false] {
                let pulled = Rc::new(Cell::new(0));
                let words = ["a", "bc", "def"].map(String::from);
                let input = words.iter().map(|word| {
                    pulled.set(pulled.get() + 1);
                    word.len()
                });
                let shared = Rc::clone(&pulled);
                let input = input.inspect(move |_| assert!(shared.get() > 0));
                let lengths = stream(options(&pool, None, None), ordered, |n| n * 2, input);
                assert_eq!(lengths.map(Result::unwrap).sum::<usize>(), 12);
                assert_eq!(pulled.get(), 3);
            }
        }
    });
}

/// A result that is there is handed out before an input is asked that may take for ever.
#[test]
fn a_slow_input_holds_no_result_back() {
    watchdog(30, || {
        for kind in THREADS {
            let pool = kind.pool();
            let (gate, mut opener) = gate();
            let done = Counter::default();
            let counts = done.clone();
            let f = move |x: u64| {
                gate.pass();
                counts.add();
                x
            };
            let (input, seen) = counting((0..).inspect(|_| sleep(Duration::from_millis(5))));
            let mut stream = pool.buffersize(4).imap(f, input);
            while seen.pulled() < 4 {
                assert_matches!(stream.next_timeout(Duration::ZERO), Err(Error::Timeout));
            }
            opener.open();
            assert!(eventually(|| done.get() == 4));
            // From the end of the closure to the box.
            sleep(Duration::from_millis(50));
            for x in 0..4 {
                assert_eq!(stream.next().unwrap().unwrap(), x);
                assert_eq!(seen.pulled(), 4, "{kind:?}");
            }
        }
    });
}

/// The same of an input that was fast so far: nobody knows beforehand that it will block.
#[test]
fn after_a_long_burst_too_a_result_comes_before_an_input_that_does_not_know_its_length() {
    watchdog(60, || {
        const WINDOW: usize = fewer(1000, 3);
        for kind in THREADS {
            for ordered in [true, false] {
                let pool = kind.pool();
                // As a channel, it could block at any item.
                let (input, seen) = counting((0..5 * WINDOW).filter(|_| true));
                let mut stream = stream(pool.buffersize(WINDOW), ordered, |x| x, input);
                let (mut opener, held) = hold(&pool, kind.workers());
                while seen.pulled() < WINDOW {
                    assert_matches!(stream.next_timeout(Duration::ZERO), Err(Error::Timeout));
                }
                opener.open();
                held.into_iter().for_each(|held| held.get().unwrap());
                // When all workers are held again, all that was queued before is done.
                let (opener, _held) = hold(&pool, kind.workers());
                for _ in 0..WINDOW {
                    stream.next().unwrap().unwrap();
                    assert_eq!(seen.pulled(), WINDOW, "{kind:?}, ordered {ordered}");
                }
                drop(opener);
                assert_eq!(stream.map(Result::unwrap).count(), 4 * WINDOW);
            }
        }
    });
}

#[test]
fn a_fast_input_is_not_asked_while_there_are_results() {
    const LEN: usize = fewer(1000, 24);

    watchdog(60, || {
        for kind in THREADS {
            for (ordered, window) in
                [(true, 4), (false, 4), (true, 20), (false, 20)].into_iter().step_by(fewer(1, 3))
            {
                let pool = kind.pool();
                let (input, seen) = counting(0..LEN);
                let mut stream = stream(pool.buffersize(window), ordered, |x| x, input);
                let (mut opener, held) = hold(&pool, kind.workers());
                assert_matches!(stream.next_timeout(NO_TIME), Err(Error::Timeout));
                assert_eq!(seen.pulled(), window);
                opener.open();
                held.into_iter().for_each(|held| held.get().unwrap());
                // When all workers are held again, all that was queued before is done.
                let (opener, _held) = hold(&pool, kind.workers());
                let mut values: Vec<_> =
                    (0..window).map(|_| stream.next().unwrap().unwrap()).collect();
                values.sort_unstable();
                assert!(values.into_iter().eq(0..window));
                assert_eq!(seen.pulled(), window, "{kind:?}, ordered {ordered}");
                drop(opener);
                assert_eq!(stream.map(Result::unwrap).count(), LEN - window);
            }
        }
    });
}

/// Whatever older chunks were split into, a result is seen.
#[test]
#[cfg_attr(miri, ignore = "a window takes twenty thousand items to get wide")]
fn no_result_of_an_unordered_stream_is_out_of_sight() {
    const FAST: usize = 20_000;

    watchdog(60, || {
        let pool = Pool::new(2).unwrap();
        // An item that is not fast says which it is, and waits for an answer.
        let (arrive, arrived) = unbounded();
        let f = move |i: usize| {
            let (answer, answered) = unbounded::<()>();
            if i >= FAST && arrive.send((i, answer)).is_ok() {
                let _ = answered.recv();
            }
            i
        };
        // Chunks of 20 items at the most: four for each worker.
        let mut stream = pool.buffersize(160).imap_unordered(f, 0..30_000);
        assert!((0..FAST).all(|_| stream.next().unwrap().unwrap() < FAST));
        let mut nap = || {
            let soon = Duration::from_millis(5);
            assert_matches!(stream.next_timeout(soon), Err(Error::Timeout));
        };
        // A consumer that has waited in vain has a chunk split when its worker is through with an item.
        nap();
        nap();
        let mut first = [(); 2].map(|()| arrived.recv_timeout(LONG).unwrap());
        first.sort_by_key(|(i, _)| *i);
        let [(older, answer), (younger, younger_answer)] = first;
        drop(answer);
        let second = arrived.recv_timeout(LONG).unwrap();
        assert_eq!(stream.next_timeout(LONG).unwrap().unwrap().unwrap(), older);
        // The consumer finds the pieces.
        let soon = Duration::from_millis(5);
        assert_matches!(stream.next_timeout(soon), Err(Error::Timeout));
        drop(younger_answer);
        let third = arrived.recv_timeout(LONG).unwrap();
        assert_eq!(stream.next_timeout(LONG / 4).unwrap().unwrap().unwrap(), younger);
        drop((arrived, second, third));
        assert_eq!(stream.map(Result::unwrap).count(), 10_000 - 2);
    });
}

/// The time is looked at after each item that a slow input has given.
#[test]
fn a_next_with_a_timeout_does_not_wait_for_the_whole_window() {
    watchdog(60, || {
        for kind in THREADS {
            let pool = kind.pool();
            let (gate, opener) = gate();
            let input = (0..).inspect(|_| sleep(Duration::from_millis(10)));
            let mut stream = pool.buffersize(200).imap(move |_: u64| gate.pass(), input);
            let start = Instant::now();
            assert_matches!(stream.next_timeout(Duration::from_millis(30)), Err(Error::Timeout));
            let took = start.elapsed();
            assert!(took < Duration::from_secs(1), "{kind:?}: {took:?} of 2 s for the window");
            drop(opener);
        }
    });
}

#[test]
fn the_timeout_of_the_call_ends_the_stream() {
    watchdog(20, || {
        for kind in THREADS {
            let pool = kind.pool();
            let nap = |_: u64| sleep(Duration::from_millis(5));
            let start = Instant::now();
            let mut stream = pool.timeout(Duration::from_millis(50)).imap(nap, 0..);
            // Not `collect`, which would have room made for as many as the input says it has.
            let mut results = Vec::new();
            for result in stream.by_ref() {
                results.push(result);
            }
            let took = start.elapsed();
            assert!(took >= Duration::from_millis(50) && took < at_most(Duration::from_secs(5)));
            let (last, values) = results.split_last().unwrap();
            assert_matches!(last, Err(Error::DeadlineExceeded));
            assert!(values.iter().all(Result::is_ok));
            assert!(stream.next().is_none());
            assert_eq!(pool.apply(|| 1, ()).unwrap(), 1);
        }
    });
}

#[test]
fn next_timeout_at_the_ends_of_its_range() {
    watchdog(20, || {
        for pool in pools() {
            let mut stream = pool.imap(|x| x, 0..3);
            let mut seen = Vec::new();
            loop {
                match stream.next_timeout(Duration::ZERO) {
                    Ok(Some(value)) => seen.push(value.unwrap()),
                    Err(error) => assert_matches!(error, Error::Timeout),
                    Ok(None) => break,
                }
            }
            assert_eq!(seen, [0, 1, 2]);
            let mut stream = pool.imap(|x| x, 0..3);
            assert_eq!(stream.next_timeout(Duration::MAX).unwrap().unwrap().unwrap(), 0);
        }
    });
}

// ---- progress ------------------------------------------------------------------------------------

/// What never began is not finished, however the stream ends.
#[test]
fn the_progress_of_a_stream_that_ended_early_is_what_was_finished() {
    watchdog(60, || {
        for kind in [Kind::Lasting(1), Kind::Lasting(3)] {
            for (ordered, finished) in [(true, 0), (false, 0), (true, 3), (false, 3)] {
                let begin = |deadline| {
                    let pool = kind.pool();
                    let (gate, opener) = gate();
                    let f = move |i: usize| {
                        if i >= finished {
                            gate.pass();
                        }
                    };
                    let progress = Progress::default();
                    let options = pool.buffersize(50).timeout(deadline).progress(&progress);
                    let mut stream = stream(options, ordered, f, 0..100);
                    for _ in 0..finished {
                        stream.next().unwrap().unwrap();
                    }
                    (pool, opener, progress, stream)
                };

                let (pool, opener, progress, mut stream) = begin(Duration::MAX);
                assert_matches!(stream.next_timeout(NO_TIME), Err(Error::Timeout));
                opener.wait_for(kind.workers());
                pool.terminate();
                assert_matches!(stream.next(), Some(Err(Error::Terminated)));
                assert!(stream.next().is_none());
                assert_eq!(progress.get(), (finished, Some(100)), "{kind:?}, terminated");
                drop((opener, pool, stream));
                assert_eq!(progress.get(), (finished, Some(100)), "{kind:?}, dropped");

                let (_pool, _opener, progress, mut stream) =
                    begin(Duration::from_millis(fewer(300, 30_000) as u64));
                assert_matches!(stream.next(), Some(Err(Error::DeadlineExceeded)));
                assert_eq!(progress.get(), (finished, Some(100)), "{kind:?}, timed out");
            }
        }
    });
}

// ---- what is left behind -------------------------------------------------------------------------

#[test]
fn a_stream_dropped_half_way_leaves_nothing() {
    watchdog(60, || {
        for (kind, pool) in all_pools() {
            for (ordered, chunk) in [(true, None), (false, None), (true, Some(3)), (false, Some(3))]
            {
                let drops = Drops::default();
                let (captured, makes) = (drops.make(0), drops.clone());
                let results = drops.clone();
                let f = move |item: common::Counted| results.make(item.value() + captured.value());
                let input = (0..).map(move |i| makes.make(i));
                let mut stream = stream(options(&pool, chunk, Some(20)), ordered, f, input);
                for _ in 0..10 {
                    stream.next().unwrap().unwrap();
                }
                drop(stream);
                assert!(eventually(|| drops.alive() == 0), "{kind:?}: {} live", drops.alive());
                drops.assert_each_once();
            }
        }
    });
}

/// What has not begun is dropped with the stream, also while no worker has time to look.
#[test]
fn what_has_not_begun_is_dropped_with_the_stream() {
    watchdog(60, || {
        for kind in THREADS {
            for ordered in [true, false] {
                let pool = kind.pool();
                let (opener, held) = hold(&pool, kind.workers());
                let drops = Drops::default();
                let (captured, makes) = (drops.make(0), drops.clone());
                let f = move |item: common::Counted| item.value() + captured.value();
                let input = (0..).map(move |i| makes.make(i));
                let mut stream = stream(pool.buffersize(50), ordered, f, input);
                assert_matches!(stream.next_timeout(NO_TIME), Err(Error::Timeout));
                assert_eq!(drops.alive(), 51);
                drop(stream);
                assert_eq!(drops.alive(), 0, "{kind:?}");
                drops.assert_each_once();
                drop(opener);
                held.into_iter().for_each(|held| held.get().unwrap());
            }
        }
    });
}

/// Results that were made and not handed out go with the stream, whatever the workers are at.
#[test]
fn what_is_done_and_not_handed_out_is_dropped_with_the_stream() {
    watchdog(60, || {
        for ordered in [true, false] {
            let pool = Pool::new(1).unwrap();
            let (gate, opener) = gate();
            let drops = Drops::default();
            let makes = drops.clone();
            let f = move |i: usize| {
                if i == 10 {
                    gate.pass();
                }
                makes.make(i)
            };
            let mut stream = stream(pool.buffersize(20).chunksize(1), ordered, f, 0..);
            // Nothing is done, so all that the window holds is pulled.
            let (held, _task) = hold(&pool, 1);
            assert_matches!(stream.next_timeout(NO_TIME), Err(Error::Timeout));
            drop(held);
            stream.next().unwrap().unwrap();
            opener.wait_for(1);
            assert!(drops.made() >= 10);
            drop(stream);
            assert_eq!(drops.alive(), 0, "ordered {ordered}");
            drop(opener);
        }
    });
}

/// What a late chunk was split into has not begun either.
#[test]
#[cfg_attr(miri, ignore = "a window takes twenty thousand items to get wide")]
fn the_pieces_of_a_late_chunk_are_dropped_with_the_stream() {
    const FAST: usize = 20_000;

    watchdog(60, || {
        for ordered in [true, false] {
            let pool = Pool::new(2).unwrap();
            let (gate, opener) = gate();
            let (count, held) = (Arc::default(), Arc::new(AtomicUsize::new(0)));
            let (makes, holds) = (Arc::clone(&count), Arc::clone(&held));
            let slow = Counter::default();
            let slows = slow.clone();
            let (input, seen) = counting((0..).map(move |i| (i, Live::new(&makes))));
            let f = move |(i, _live): (usize, Live)| {
                if holds.load(Ordering::SeqCst) == 1 {
                    gate.pass();
                } else if i >= FAST {
                    sleep(Duration::from_millis(1));
                    slows.add();
                }
            };
            // Chunks of 20 items at the most: four for each worker.
            let mut stream = stream(pool.buffersize(160), ordered, f, input);
            while seen.pulled() < FAST + 160 {
                stream.next().unwrap().unwrap();
            }
            // Meanwhile the chunks of slow items turn out to be late, and nobody looks.
            assert!(eventually(|| slow.get() >= 50));
            held.store(1, Ordering::SeqCst);
            opener.wait_for(2);
            let before = count.0.load(Ordering::SeqCst);
            drop(stream);
            let after = count.0.load(Ordering::SeqCst);
            // The rest of what two workers are at: pieces by now, or chunks no larger than that.
            assert!(after <= 2 * 20, "ordered {ordered}: {after} live of {before}");
            drop(opener);
            assert!(eventually(|| count.0.load(Ordering::SeqCst) == 0));
        }
    });
}

#[test]
fn many_tiny_streams_dropped_half_way_leave_nothing() {
    watchdog(120, || {
        for kind in [Kind::Lasting(1), Kind::Lasting(3), Kind::Replaced(2, 5000), Kind::Serial] {
            let pool = kind.pool();
            let drops = Drops::default();
            for i in 0..fewer(20_000, 10) {
                let captured = (i % 100 == 0).then(|| drops.make(i));
                let f = move |x: usize| x + captured.as_ref().map_or(0, common::Counted::value);
                let mut stream = stream(options(&pool, None, None), i % 2 == 0, f, 0..10);
                stream.next().unwrap().unwrap();
            }
            assert!(eventually(|| drops.alive() == 0), "{kind:?}");
            drops.assert_each_once();
        }
    });
}

#[test]
fn a_running_item_can_see_that_its_stream_was_dropped() {
    watchdog(30, || {
        for kind in THREADS {
            for ordered in [true, false] {
                let pool = kind.pool();
                let (begun, begins) = unbounded();
                let (said, says) = unbounded();
                let f = move |_: u64| {
                    begun.send(()).unwrap();
                    let start = Instant::now();
                    while !is_cancelled() && start.elapsed() < LONG {
                        thread::yield_now();
                    }
                    said.send(is_cancelled()).unwrap();
                };
                let mut stream = stream(pool.buffersize(1), ordered, f, 0..);
                assert_matches!(stream.next_timeout(Duration::from_millis(5)), Err(Error::Timeout));
                begins.recv_timeout(LONG).unwrap();
                drop(stream);
                assert!(says.recv_timeout(LONG).unwrap(), "{kind:?}");
            }
        }
    });
}

#[test]
fn dropping_a_stream_skips_what_has_not_begun() {
    watchdog(30, || {
        for kind in THREADS {
            let pool = kind.pool();
            let (gate, opener) = gate();
            let ran = Counter::default();
            let runs = ran.clone();
            let f = move |_: u64| {
                runs.add();
                gate.pass();
            };
            let mut stream = pool.buffersize(100).imap(f, 0..);
            assert_matches!(stream.next_timeout(NO_TIME), Err(Error::Timeout));
            opener.wait_for(kind.workers());
            drop(stream);
            drop(opener);
            pool.close();
            pool.join().unwrap();
            assert_eq!(ran.get(), kind.workers());
        }
    });
}

// ---- streams inside of streams and of tasks ------------------------------------------------------

#[test]
fn pipelines_of_streams_on_one_pool() {
    watchdog(60, || {
        for (kind, pool) in all_pools() {
            let len =
                if matches!(kind, Kind::Replaced(..)) { fewer(50, 8) } else { fewer(1000, 10) }
                    as u64;
            let one = pool.imap(|x: u64| x + 1, 0..len);
            let two = pool.imap(|x: Result<u64, Error>| x.unwrap() * 2, one);
            let three = pool.imap_unordered(|x: Result<u64, Error>| x.unwrap() - 1, two);
            let mut seen: Vec<u64> = three.map(Result::unwrap).collect();
            seen.sort_unstable();
            assert!(seen.into_iter().eq((0..len).map(|x| (x + 1) * 2 - 1)));
        }
    });
}

fn nested(pool: &Arc<Pool>, depth: u32, ordered: bool) -> u64 {
    if depth == 0 {
        return 1;
    }
    let inner = Arc::clone(pool);
    let sum = move |x: u64| x + nested(&inner, depth - 1, ordered);
    stream(options(pool, None, None), ordered, sum, 0..4).map(Result::unwrap).sum()
}

#[test]
fn streams_inside_of_the_items_of_streams() {
    const DEPTH: u32 = fewer(3, 2) as u32;

    watchdog(60, || {
        // Of depth 1: 6 and 4; each more: 6 and 4 times the one before.
        let expected = (0..DEPTH).fold(1, |sum, _| 6 + 4 * sum);
        for (kind, pool) in all_pools() {
            let pool = Arc::new(pool);
            for ordered in [true, false] {
                assert_eq!(nested(&pool, DEPTH, ordered), expected, "{kind:?}");
            }
            let inner = Arc::clone(&pool);
            let sum = pool.apply(move || nested(&inner, DEPTH, true), ());
            assert_eq!(sum.unwrap(), expected, "{kind:?}");
        }
    });
}

#[test]
fn a_consumer_inside_of_a_task() {
    watchdog(60, || {
        for (kind, pool) in all_pools() {
            let len =
                if matches!(kind, Kind::Replaced(..)) { fewer(100, 6) } else { fewer(2000, 10) }
                    as u64;
            let pool = Arc::new(pool);
            for (ordered, window) in
                [(true, None), (false, None), (true, Some(1)), (false, Some(7))]
            {
                let inner = Arc::clone(&pool);
                let sums: Vec<_> = (0..kind.workers() + 1)
                    .map(|_| {
                        let inner = Arc::clone(&inner);
                        pool.apply_async(
                            move || {
                                let options = options(&inner, None, window);
                                stream(options, ordered, |x: u64| x, 0..len)
                                    .map(Result::unwrap)
                                    .sum::<u64>()
                            },
                            (),
                        )
                    })
                    .collect();
                for sum in sums {
                    assert_eq!(sum.get().unwrap(), len * (len - 1) / 2);
                }
            }
        }
    });
}

#[test]
fn a_consumer_inside_of_a_task_of_a_closed_pool() {
    const LEN: u64 = fewer(100, 20) as u64;

    watchdog(30, || {
        for kind in THREADS {
            let pool = Arc::new(kind.pool());
            let (gate, opener) = gate();
            let inner = Arc::clone(&pool);
            let sum = pool.apply_async(
                move || {
                    gate.pass();
                    let sum = inner.imap(|x: u64| x, 0..LEN).map(Result::unwrap).sum::<u64>();
                    drop(inner);
                    sum
                },
                (),
            );
            opener.wait_for(1);
            pool.close();
            drop(opener);
            assert_eq!(sum.get().unwrap(), LEN * (LEN - 1) / 2);
            pool.join().unwrap();
        }
    });
}

#[test]
fn two_pools_in_one_pipeline() {
    watchdog(30, || {
        let (a, b) = (Pool::new(1).unwrap(), Pool::new(2).unwrap());
        let front = a.imap(|x: u64| x + 1, 0..fewer(1000, 20) as u64);
        let back = b.imap(|x: Result<u64, Error>| x.unwrap() * 2, front);
        assert!(back.map(Result::unwrap).eq((0..fewer(1000, 20) as u64).map(|x| (x + 1) * 2)));
    });
}

// ---- chunks --------------------------------------------------------------------------------------

#[test]
fn a_chunk_size_is_exact() {
    watchdog(30, || {
        // In a pool that replaces its worker after each task, the generation tells the tasks apart.
        let pool = Kind::Replaced(1, 1).pool();
        let generation = |_: u32| parpool::current_worker().unwrap().generation();
        let seen: Vec<_> = pool.chunksize(10).imap(generation, 0..35).map(Result::unwrap).collect();
        let expected: Vec<usize> = (0..35).map(|i| i / 10).collect();
        assert_eq!(seen, expected);
    });
}

/// Room is made for the items there are, not for those there might be.
#[test]
fn a_chunk_size_or_a_window_without_end() {
    const LEN: u64 = fewer(3000, 8) as u64;

    watchdog(60, || {
        for (kind, pool) in all_pools() {
            for (chunk, window) in [
                (Some(usize::MAX), None),
                (Some(usize::MAX), Some(usize::MAX)),
                (None, Some(usize::MAX)),
                (Some(3), Some(usize::MAX)),
                (Some(usize::MAX / 2), None),
                (Some(1 << 40), None),
                (Some(1 << 40), Some(1 << 50)),
            ]
            .into_iter()
            .step_by(fewer(1, 3))
            {
                for ordered in [true, false] {
                    let stream = stream(options(&pool, chunk, window), ordered, |x| x, 0..LEN);
                    let mut seen: Vec<_> = stream.map(Result::unwrap).collect();
                    if !ordered {
                        seen.sort_unstable();
                    }
                    assert!(seen.into_iter().eq(0..LEN), "{kind:?}, {chunk:?}, {window:?}");
                }
            }
        }
    });
}

/// The results of a chunk have room in pieces, of some ten thousand each.
#[test]
fn a_chunk_of_very_many_items() {
    const MANY: usize = fewer(300_000, 20);

    watchdog(60, || {
        for (kind, pool) in
            [Kind::Lasting(1), Kind::Lasting(3), Kind::Serial].map(|kind| (kind, kind.pool()))
        {
            for (ordered, window) in
                [(true, None), (false, None), (true, Some(MANY)), (false, Some(MANY))]
            {
                let f = |i: usize| match i % 50_000 {
                    49_999 => panic_any(ON_PURPOSE),
                    _ => i,
                };
                let stream =
                    stream(options(&pool, Some(MANY / 2 + 1), window), ordered, f, 0..MANY);
                let mut seen: Vec<_> =
                    stream.map(|result| plain(result).unwrap_or_else(Option::unwrap)).collect();
                if !ordered {
                    seen.sort_unstable();
                }
                assert!(seen.into_iter().eq(0..MANY), "{kind:?}, ordered {ordered}, {window:?}");
            }
            // Most of it is not begun, or not taken.
            let drops = Drops::default();
            let makes = drops.clone();
            let f = move |i: usize| makes.make(i);
            let mut half = pool.chunksize(MANY).imap_unordered(f, 0..MANY);
            assert!(half.by_ref().take(MANY / 2).all(|result| result.is_ok()));
            drop(half);
            assert!(eventually(|| drops.alive() == 0));
        }
    });
}

/// Of items that take no room. Where nothing is optimized it takes minutes to count so far.
#[cfg(not(debug_assertions))]
#[test]
fn a_chunk_of_more_items_than_a_u32_counts() {
    const MANY: usize = 1 << 32;

    watchdog(120, || {
        let pool = Pool::new(1).unwrap();
        let (go, gate) = unbounded();
        go.send(()).unwrap();
        // The results of the others would take room.
        let first = move |()| gate.recv().unwrap_or_default();
        let mut stream = pool.chunksize(MANY).imap(first, std::iter::repeat_n((), MANY));
        assert_matches!(stream.next(), Some(Ok(())));
        assert_eq!(stream.len(), MANY - 1);
        drop(stream);
        drop(go);
    });
}

/// Expensive neighbours among cheap items: the chunk that they are in is shared out again.
#[test]
#[cfg_attr(miri, ignore = "looks at the clock for speed")]
fn expensive_neighbours_are_shared_out() {
    watchdog(60, || {
        for (ordered, at) in [(true, 3000), (false, 3000), (true, 1003), (false, 4990)] {
            let pool = Pool::new(4).unwrap();
            let run = || {
                let f = move |i: usize| {
                    if (at..at + 8).contains(&i) {
                        sleep(Duration::from_millis(30));
                    }
                    i
                };
                let start = Instant::now();
                let stream = stream(options(&pool, None, None), ordered, f, 0..5000);
                let mut seen: Vec<_> = stream.map(Result::unwrap).collect();
                let took = start.elapsed();
                seen.sort_unstable();
                assert!(seen.into_iter().eq(0..5000));
                took
            };
            // The machine may be busy with something else; nothing makes it faster than it is.
            let best = (0..5).map(|_| run()).min().unwrap();
            assert!(best < Duration::from_millis(180), "item {at}: {best:?} of 240 ms");
        }
    });
}

/// While an item is slow and those after it are done, the consumer has nothing to do but sleep.
#[test]
#[cfg_attr(miri, ignore = "reads what the system says of threads")]
fn a_consumer_that_waits_for_a_slow_item_sleeps() {
    watchdog(60, || {
        for ordered in [true, false] {
            let pool = Pool::new(2).unwrap();
            let f = |i: usize| {
                if i == 5000 {
                    sleep(Duration::from_millis(400));
                }
            };
            let mut stream = stream(pool.buffersize(2000), ordered, f, 0..9000);
            let mut spent = Duration::ZERO;
            loop {
                let (start, Some(before)) = (Instant::now(), processor_time()) else { return };
                let Some(result) = stream.next() else { break };
                result.unwrap();
                if start.elapsed() > Duration::from_millis(200) {
                    spent = spent.max(processor_time().unwrap() - before);
                }
            }
            assert!(spent < Duration::from_millis(40), "ordered {ordered}: {spent:?} of 400 ms");
        }
    });
}

// ---- results that panic, threads that come and go ------------------------------------------------

#[test]
fn a_consumer_that_moves_from_thread_to_thread() {
    const LEN: u32 = fewer(100, 20) as u32;

    watchdog(30, || {
        for pool in pools() {
            let mut stream = pool.imap(|x: u32| x, 0..LEN);
            for x in 0..LEN {
                stream = thread::spawn(move || {
                    assert_eq!(stream.next().unwrap().unwrap(), x);
                    stream
                })
                .join()
                .unwrap();
            }
            assert!(stream.next().is_none());
        }
    });
}

#[test]
fn items_and_results_whose_drop_panics() {
    struct Bomb;

    impl Drop for Bomb {
        fn drop(&mut self) {
            if !thread::panicking() {
                panic_any(ON_PURPOSE);
            }
        }
    }

    watchdog(30, || {
        for kind in LASTING {
            let pool = kind.pool();
            let (opener, held) = hold(&pool, kind.workers());
            let mut stream = pool.buffersize(10).imap(|bomb| bomb, (0..10).map(|_| Bomb));
            assert_matches!(
                stream.next_timeout(NO_TIME).map(std::mem::forget),
                Err(Error::Timeout)
            );
            drop(stream);
            drop(opener);
            held.into_iter().for_each(|held| held.get().unwrap());
            assert_eq!(pool.apply(|| 1, ()).unwrap(), 1);
        }
    });
}
