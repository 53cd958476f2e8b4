//! What the ranks run.

use std::cell::Cell;
use std::collections::HashSet;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::sleep;
use std::time::Duration;

use parpool_mpi::{MpiError, MpiPool, MpiTasks};

use crate::{Case, End};

const WELL: Case =
    Case { name: "", run: || (), ranks: &[1, 2, 3, 5], workers: &[1], end: End::Well };
const BOTH: &[usize] = &[1, 2];

pub(crate) const CASES: &[Case] = &[
    Case { name: "map_equals_the_loop", run: map_equals_the_loop, workers: BOTH, ..WELL },
    Case { name: "map_of_borrowed", run: map_of_borrowed, workers: BOTH, ..WELL },
    Case { name: "starmap_and_map_all", run: starmap_and_map_all, workers: BOTH, ..WELL },
    Case { name: "imap_equals_the_loop", run: imap_equals_the_loop, workers: BOTH, ..WELL },
    Case { name: "imap_window_is_strict", run: imap_window_is_strict, workers: BOTH, ..WELL },
    Case { name: "imap_dropped_early", run: imap_dropped_early, workers: BOTH, ..WELL },
    Case { name: "imap_errors", run: imap_errors, workers: BOTH, ..WELL },
    Case { name: "panic_is_the_lowest", run: panic_is_the_lowest, workers: BOTH, ..WELL },
    Case { name: "panic_of_the_input", run: panic_of_the_input, workers: BOTH, ..WELL },
    Case { name: "all_ranks_work", run: all_ranks_work, workers: BOTH, ..WELL },
    Case { name: "root_that_does_not_compute", run: root_that_does_not_compute, ..WELL },
    Case { name: "long_messages", run: long_messages, workers: BOTH, ..WELL },
    Case { name: "too_long_messages", run: too_long_messages, ..WELL },
    Case { name: "values_that_do_not_travel", run: values_that_do_not_travel, ..WELL },
    Case { name: "two_pools_in_turn", run: two_pools_in_turn, ..WELL },
    Case { name: "calls_in_calls", run: calls_in_calls, workers: BOTH, ..WELL },
    Case { name: "bad_arguments", run: bad_arguments, ..WELL },
    Case { name: "diverged_branches", run: diverged_branches, ranks: &[2, 3, 5], ..WELL },
    Case { name: "diverged_by_leaving", run: diverged_by_leaving, ranks: &[2, 3, 5], ..WELL },
    Case { name: "diverged_at_the_end", run: diverged_at_the_end, ranks: &[2, 3], ..WELL },
    Case { name: "random_calls", run: random_calls, workers: BOTH, ..WELL },
    Case { name: "master_only", run: master_only, workers: BOTH, ..WELL },
    Case {
        name: "master_diverged",
        run: master_diverged,
        ranks: &[2, 3],
        end: End::Badly("out of step"),
        ..WELL
    },
    Case {
        name: "master_panics",
        run: master_panics,
        ranks: &[2, 3],
        end: End::Badly("rank 0 panics on purpose"),
        ..WELL
    },
    Case { name: "alone", run: alone, ranks: &[0], ..WELL },
    Case {
        name: "large_chunks_of_large_items",
        run: large_chunks_of_large_items,
        ranks: &[0],
        ..WELL
    },
    Case { name: "wrong_launcher", run: wrong_launcher, ranks: &[0], ..WELL },
    Case {
        name: "main_panics",
        run: main_panics,
        ranks: &[2, 3],
        end: End::Badly("rank 1 panics on purpose"),
        ..WELL
    },
    Case {
        name: "root_main_panics",
        run: root_main_panics,
        ranks: &[2, 3],
        end: End::Badly("rank 0 panics on purpose"),
        ..WELL
    },
    Case { name: "exit", run: exit, ranks: &[2, 3], end: End::Badly("exits"), ..WELL },
    Case {
        name: "exit_without_a_word",
        run: exit_without_a_word,
        ranks: &[2, 3],
        end: End::Badly(""),
        ..WELL
    },
    Case { name: "killed", run: killed, ranks: &[2, 3, 5], end: End::Fault, workers: BOTH },
    Case { name: "killed_root", run: killed_root, ranks: &[2, 3], end: End::Anyhow, ..WELL },
];

/// A pool of as many workers on each rank as the test is to have.
fn pool() -> MpiPool {
    let workers: usize = std::env::var("PARPOOL_MPI_WORKERS").expect("it is set").parse().unwrap();
    let pool = MpiPool::builder().processes(workers).init().expect("a pool");
    assert_eq!(pool.workers(), workers * pool.size());
    pool
}

/// The `value` of rank 0 on all ranks.
fn of_root(pool: &MpiPool, value: String) -> String {
    pool.map_all(|x: String| x, [value]).expect("nothing fails").remove(0)
}

fn map_equals_the_loop() {
    let pool = pool();
    for len in [0, 1, 2, 3, 7, 100, 1000] {
        for chunk in [None, Some(1), Some(7), Some(5000)] {
            let expected: Vec<u64> = (0..len).map(|x| x * x + 1).collect();
            let f = |x: u64| x * x + 1;
            let got = match chunk {
                None => pool.map(f, 0..len),
                Some(chunk) => pool.chunksize(chunk).map(f, 0..len),
            };
            assert_eq!(got.expect("nothing fails"), pool.is_root().then_some(expected));
        }
    }
    // A window is for streams alone.
    let got = pool.chunksize(5).buffersize(20).map_all(|x: u64| x, 0..200).expect("nothing fails");
    assert_eq!(got, (0..200).collect::<Vec<_>>());
    // Items and values of other kinds, and an input whose length is not known.
    let texts: Vec<String> = (0..50).map(|x| format!("text {x}")).collect();
    let got =
        pool.map(|text: String| (text.len(), Some(text)), texts.clone()).expect("nothing fails");
    let expected: Vec<_> = texts.into_iter().map(|text| (text.len(), Some(text))).collect();
    assert!(got.is_none_or(|got| got == expected));
    let got = pool.map(|x: f64| x.sqrt(), (0..500).filter(|x| x % 3 == 0).map(f64::from));
    let expected: Vec<f64> = (0..500).filter(|x| x % 3 == 0).map(|x| f64::from(x).sqrt()).collect();
    assert!(got.expect("nothing fails").is_none_or(|got| got == expected));
    // The other ranks' items are not looked at.
    let items = if pool.is_root() { vec![1, 2, 3] } else { vec![9; 9] };
    let got = pool.map(|x: i32| -x, items).expect("nothing fails");
    assert_eq!(got, pool.is_root().then(|| vec![-1, -2, -3]));
}

fn map_of_borrowed() {
    let pool = pool();
    let table: Vec<f64> = (0..100).map(f64::from).collect();
    let count = AtomicUsize::new(0);
    let f = |x: usize| {
        count.fetch_add(1, Ordering::Relaxed);
        table[x] * 2.0
    };
    let got = pool.map(f, 0..100).expect("nothing fails");
    assert!(got.is_none_or(|got| got == table.iter().map(|x| x * 2.0).collect::<Vec<_>>()));
    // Each item was run once, somewhere.
    let counts = pool.map_all(|x: usize| x, [0]).expect("nothing fails");
    assert_eq!(counts, [0]);
    println!("rank {} ran {}", pool.rank(), count.into_inner());
}

fn starmap_and_map_all() {
    let pool = pool();
    let pairs: Vec<(f64, f64)> = (0..200).map(|x| (f64::from(x), 2.0)).collect();
    let expected: Vec<f64> = pairs.iter().map(|(a, b)| a.hypot(*b)).collect();
    let got = pool.starmap(f64::hypot, pairs).expect("nothing fails");
    assert!(got.is_none_or(|got| got == expected));
    for len in [0u64, 1, 5, 3000] {
        let got = pool.chunksize(7).map_all(|x: u64| vec![x; 3], 0..len).expect("nothing fails");
        assert_eq!(got, (0..len).map(|x| vec![x; 3]).collect::<Vec<_>>());
    }
    // Some megabytes to everybody.
    let got = pool.map_all(|x: u64| vec![x as f64; 100_000], 0..10).expect("nothing fails");
    assert!(got.iter().enumerate().all(|(x, got)| got.iter().all(|got| *got == x as f64)));
    let error = pool.map_all(|x: u64| assert!(x < 5, "on purpose"), 0..10).unwrap_err();
    assert!(matches!(error, MpiError::Panicked { index: 5, .. }), "{error}");
}

fn imap_equals_the_loop() {
    let pool = pool();
    for len in [0u64, 1, 2, 7, 300] {
        for chunk in [None, Some(1), Some(4), Some(1000)] {
            for buffer in [None, Some(1), Some(3), Some(50)] {
                let mut options = pool.chunksize(1);
                if let Some(chunk) = chunk {
                    options = options.chunksize(chunk);
                }
                if let Some(buffer) = buffer {
                    options = options.buffersize(buffer);
                }
                let f = |x: u64| x * 3;
                let got = match (chunk, buffer) {
                    (None, None) => pool.imap(f, 0..len).collect::<Result<Vec<_>, _>>(),
                    _ => options.imap(f, 0..len).collect(),
                };
                let expected = if pool.is_root() { len } else { 0 };
                assert_eq!(
                    got.expect("nothing fails"),
                    (0..expected).map(|x| x * 3).collect::<Vec<_>>()
                );
                let got: Result<HashSet<_>, _> = options.imap_unordered(f, 0..len).collect();
                let got = got.expect("nothing fails");
                assert_eq!(got, (0..expected).map(|x| x * 3).collect::<HashSet<_>>());
            }
        }
    }
    let sum = pool.imap(|x: u64| x, 0..100_000).sum::<Result<u64, _>>().expect("nothing fails");
    assert_eq!(sum, if pool.is_root() { 100_000 * 99_999 / 2 } else { 0 });
}

fn imap_window_is_strict() {
    let pool = pool();
    for window in [1, 2, 5, 40] {
        for chunk in [None, Some(1), Some(3)] {
            for ordered in [true, false] {
                let pulled = Rc::new(Cell::new(0));
                let handed = Rc::new(Cell::new(0));
                let input = {
                    let (pulled, handed) = (Rc::clone(&pulled), Rc::clone(&handed));
                    (0..300u64).inspect(move |_| {
                        pulled.set(pulled.get() + 1);
                        assert!(pulled.get() - handed.get() <= window, "window of {window}");
                    })
                };
                let mut options = pool.buffersize(window);
                if let Some(chunk) = chunk {
                    options = options.chunksize(chunk);
                }
                // The first is slow: all others are ready behind it.
                let f = |x: u64| {
                    if x == 0 {
                        sleep(Duration::from_millis(20));
                    }
                    x
                };
                let stream = match ordered {
                    true => options.imap(f, input),
                    false => options.imap_unordered(f, input),
                };
                for value in stream {
                    value.expect("nothing fails");
                    handed.set(handed.get() + 1);
                }
                assert_eq!(handed.get(), if pool.is_root() { 300 } else { 0 });
            }
        }
    }
}

fn imap_dropped_early() {
    let pool = pool();
    // Endless inputs, and a stream that nobody asks anything.
    let count = pool.imap(|x: u64| x, 0..).take(10).count();
    assert_eq!(count, if pool.is_root() { 10 } else { 0 });
    drop(pool.imap_unordered(|x: u64| x, 0..));
    let mut stream = pool.imap(|x: u64| x + 1, 0..);
    assert_eq!(
        stream.next().map(|value| value.expect("nothing fails")),
        pool.is_root().then_some(1)
    );
    drop(stream);
    // What has not begun is cancelled: these would take a minute.
    let slow = |_: u64| sleep(Duration::from_millis(10));
    let mut stream = pool.chunksize(1).buffersize(6000).imap(slow, 0..6000);
    stream.next();
    drop(stream);
    let got = pool.map(|x: u64| x, 0..5).expect("the pool goes on");
    assert!(got.is_none_or(|got| got == [0, 1, 2, 3, 4]));
}

fn imap_errors() {
    let pool = pool();
    for chunk in [1, 3, 100] {
        let f = |x: u64| if x % 3 == 1 { panic!("no {x}, on purpose") } else { x };
        let got: Vec<_> = pool.chunksize(chunk).imap(f, 0..20).collect();
        assert_eq!(got.len(), if pool.is_root() { 20 } else { 0 });
        for (x, got) in got.into_iter().enumerate() {
            match got {
                Ok(got) => assert_eq!((x % 3 != 1, got), (true, x as u64)),
                Err(MpiError::Panicked { index, rank, message }) => {
                    assert!(index == x && x % 3 == 1 && rank < pool.size());
                    assert_eq!(message, format!("no {x}, on purpose"));
                }
                Err(other) => panic!("{other}"),
            }
        }
    }
    // The input panics: an error at the end of the stream, on every rank.
    let input = (0..10u64).inspect(|x| assert!(*x < 5, "input on purpose"));
    let mut got: Vec<_> = pool.imap(|x: u64| x, input).collect();
    let last = got.pop().expect("the error").expect_err("it is one");
    assert!(matches!(last, MpiError::Panicked { index: 5, rank: 0, .. }), "{last}");
    assert_eq!(got.len(), if pool.is_root() { 5 } else { 0 });
}

fn panic_is_the_lowest() {
    let pool = pool();
    for round in 0..20 {
        for chunk in [None, Some(1), Some(7)] {
            let f = |x: u64| if x >= 13 { panic!("no {x}, on purpose") } else { x };
            let got = match chunk {
                None => pool.map(f, 0..100),
                Some(chunk) => pool.chunksize(chunk).map(f, 0..100),
            };
            let error = got.expect_err("13 and above panic");
            match &error {
                MpiError::Panicked { index: 13, message, .. } => {
                    assert_eq!(message, "no 13, on purpose");
                }
                other => panic!("{other}"),
            }
            // The same words everywhere, the rank's too.
            assert_eq!(of_root(&pool, error.to_string()), error.to_string());
            let got = pool.map(|x: u64| x + round, 0..10).expect("the pool goes on");
            assert!(got.is_none_or(|got| got[9] == 9 + round));
        }
    }
}

fn panic_of_the_input() {
    let pool = pool();
    let input = (0..100u64).inspect(|x| assert!(*x < 40, "input on purpose"));
    let error = pool.chunksize(3).map(|x: u64| x, input).expect_err("the input panics");
    assert!(matches!(error, MpiError::Panicked { index: 40, rank: 0, .. }), "{error}");
    assert!(pool.map(|x: u64| x, 0..5).is_ok());
}

fn all_ranks_work() {
    let pool = pool();
    let rank = pool.rank();
    let work = |_: u64| {
        sleep(Duration::from_millis(2));
        rank
    };
    let ranks = pool.chunksize(1).map_all(work, 0..200).expect("nothing fails");
    let ranks: HashSet<usize> = ranks.into_iter().collect();
    assert_eq!(ranks, (0..pool.size()).collect());
    assert!(format!("{pool:?}").starts_with(&format!("MpiPool {{ rank: {rank}, size: ")));
}

fn root_that_does_not_compute() {
    let pool = MpiPool::builder().processes(1).root_computes(false).init().expect("a pool");
    assert_eq!(pool.workers(), (pool.size() - 1).max(1));
    let rank = pool.rank();
    let ranks = pool.map_all(|_: u64| rank, 0..100).expect("nothing fails");
    assert!(pool.size() == 1 || !ranks.contains(&0));
    let count = pool.imap(|x: u64| x, 0..100).count();
    assert_eq!(count, if pool.is_root() { 100 } else { 0 });
}

fn long_messages() {
    let pool = pool();
    // Both ways, many at a time, far above what MPI sends without the other side.
    let items = |n: usize| (0..n).map(|x| vec![x as f64; 300_000]);
    let twice = |xs: Vec<f64>| xs.into_iter().map(|x| 2.0 * x).collect::<Vec<f64>>();
    let got = pool.chunksize(1).map(twice, items(30)).expect("nothing fails");
    assert!(got.is_none_or(|got| got == items(30).map(twice).collect::<Vec<_>>()));
    let texts = |n: usize| (0..n).map(|x| x.to_string().repeat(200_000));
    let got = pool.map(|text: String| text, texts(20)).expect("nothing fails");
    assert!(got.is_none_or(|got| got == texts(20).collect::<Vec<_>>()));
    let sum = pool.imap(twice, items(30)).map(|xs| xs.expect("nothing fails")[0]).sum::<f64>();
    assert_eq!(sum, if pool.is_root() { (0..30).sum::<u32>().into() } else { 0.0 } * 2.0);
    let got = pool.chunksize(1000).map(|x: f64| -x, (0..1_000_000).map(f64::from));
    let got = got.expect("nothing fails");
    assert!(got.is_none_or(|got| got.iter().enumerate().all(|(x, got)| *got == -(x as f64))));
}

fn too_long_messages() {
    let pool = pool();
    if pool.size() == 1 {
        return;
    }
    // Zeroed memory that nobody touches.
    let long = |x: u64| vec![0u8; if x == 3 { 3 << 30 } else { 1 }];
    let items: Vec<Vec<u8>> = if pool.is_root() { (0..6).map(long).collect() } else { Vec::new() };
    let only = MpiPool::builder().root_computes(false).init().expect("a pool");
    let error = only.map(|x: Vec<u8>| x.len(), items).expect_err("one is too long");
    assert!(matches!(error, MpiError::TooLarge { .. }), "{error}");
    assert!(error.to_string().contains("set a smaller chunksize"));
    let error = only.map(long, 0..6).expect_err("one is too long");
    assert!(matches!(error, MpiError::TooLarge { .. }), "{error}");
    assert!(only.map(|x: u64| x, 0..6).is_ok());
}

/// Can be written, but not read.
struct Odd;

impl serde::Serialize for Odd {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_u8(7)
    }
}

impl<'de> serde::Deserialize<'de> for Odd {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        u8::deserialize(from)?;
        Err(serde::de::Error::custom("not today"))
    }
}

fn values_that_do_not_travel() {
    let pool = MpiPool::builder().processes(1).root_computes(false).init().expect("a pool");
    if pool.size() == 1 {
        return;
    }
    let error = pool.map(|_: Odd| 1, [Odd, Odd]).expect_err("it cannot be read");
    assert!(matches!(error, MpiError::Codec(_)), "{error}");
    let error = pool.map(|_: u8| Odd, [1, 2]).map(drop).expect_err("it cannot be read");
    assert!(matches!(error, MpiError::Codec(_)), "{error}");
    assert!(pool.map(|x: u8| x, [1, 2]).is_ok());
}

fn two_pools_in_turn() {
    for round in 0..5u64 {
        let pool = pool();
        let got = pool.map_all(|x: u64| x + round, 0..10).expect("nothing fails");
        assert_eq!(got, (round..round + 10).collect::<Vec<_>>());
    }
    // And two at a time, in turns.
    let (one, two) = (pool(), pool());
    for _ in 0..5 {
        assert_eq!(one.map_all(|x: u64| x, 0..3).expect("nothing fails"), [0, 1, 2]);
        assert_eq!(two.map_all(|x: u64| -(x as i64), 0..3).expect("nothing fails"), [0, -1, -2]);
    }
}

fn calls_in_calls() {
    thread_local! {
        static POOL: std::cell::RefCell<Option<Rc<MpiPool>>> = const { std::cell::RefCell::new(None) };
    }
    let pool = Rc::new(pool());
    POOL.set(Some(Rc::clone(&pool)));
    // In a task: a pool cannot be made, and on the thread that has one it cannot be called.
    let inner = |_: u64| {
        let refused = matches!(MpiPool::init(), Err(MpiError::Busy));
        let called = POOL.with_borrow(|pool| match pool {
            Some(pool) => matches!(pool.map(|x: u8| x, [1]), Err(MpiError::Busy)),
            None => true,
        });
        refused && called
    };
    assert!(pool.map_all(inner, 0..20).expect("nothing fails").iter().all(|well| *well));
    for value in pool.imap(|x: u64| x, 0..10) {
        value.expect("nothing fails");
        assert!(matches!(pool.map(|x: u64| x, 0..10), Err(MpiError::Busy)));
        assert!(matches!(pool.imap(|x: u64| x, 0..10).next(), Some(Err(MpiError::Busy))));
    }
    POOL.set(None);
    assert!(pool.map(|x: u64| x, 0..10).is_ok());
}

fn bad_arguments() {
    let pool = pool();
    assert!(matches!(pool.chunksize(0).map(|x: u8| x, [1]), Err(MpiError::Pool(_))));
    assert!(matches!(pool.buffersize(0).imap(|x: u8| x, [1]).next(), Some(Err(MpiError::Pool(_)))));
    assert!(matches!(MpiPool::builder().processes(0).init(), Err(MpiError::Pool(_))));
    assert!(pool.map(|x: u64| x, 0..10).is_ok());
    std::thread::spawn(|| assert!(matches!(MpiPool::init(), Err(MpiError::Mpi(_)))))
        .join()
        .expect("another thread is refused");
}

fn diverged_branches() {
    let pool = pool();
    assert!(pool.map(|x: u64| x, 0..10).is_ok());
    let last = pool.rank() == pool.size() - 1;
    let error = if last {
        pool.map(|x: u64| x + 1, 0..100).map(drop).expect_err("rank 0 is elsewhere")
    } else {
        pool.map(|x: u64| x * 2, 0..100).map(drop).expect_err("the last rank is elsewhere")
    };
    assert!(matches!(error, MpiError::Diverged(_)), "{error}");
    assert!(error.to_string().contains("cases.rs"), "{error}");
    // From then on each call is refused, everywhere.
    assert!(matches!(pool.map(|x: u64| x, 0..10), Err(MpiError::Diverged(_))));
    assert!(matches!(pool.imap(|x: u64| x, 0..10).next(), Some(Err(MpiError::Diverged(_)))));
}

fn diverged_by_leaving() {
    let pool = pool();
    if pool.rank() == 1 {
        return;
    }
    sleep(Duration::from_millis(20));
    let error = pool.map(|x: u64| x, 0..100).expect_err("rank 1 has left");
    assert!(matches!(error, MpiError::Diverged(_)), "{error}");
}

fn diverged_at_the_end() {
    let pool = pool();
    if pool.is_root() {
        return;
    }
    let error = pool.map(|x: u64| x, 0..100).expect_err("rank 0 has left");
    assert!(error.to_string().contains("rank 0 has left"), "{error}");
}

/// Calls at random, the same on every rank.
fn random_calls() {
    let pool = pool();
    let mut state = 88_172_645_463_325_252u64;
    let mut random = |below: u64| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state % below
    };
    for _ in 0..60 {
        let (len, chunk, bad) = (random(300), 1 + random(20) as usize, random(400));
        let f = move |x: u64| {
            if x == bad {
                panic!("{x} on purpose");
            }
            if x % 50 == 0 {
                sleep(Duration::from_micros(300));
            }
            vec![x; (x % 40) as usize]
        };
        let expected = || (0..len).map(|x| vec![x; (x % 40) as usize]);
        match random(4) {
            0 => match pool.chunksize(chunk).map_all(f, 0..len) {
                Ok(got) => assert!(bad >= len && got.into_iter().eq(expected())),
                Err(MpiError::Panicked { index, .. }) => assert_eq!(index as u64, bad),
                Err(other) => panic!("{other}"),
            },
            1 => match pool.map(f, 0..len) {
                Ok(got) => {
                    assert!(bad >= len && got.is_none_or(|got| got.into_iter().eq(expected())))
                }
                Err(MpiError::Panicked { index, .. }) => assert_eq!(index as u64, bad),
                Err(other) => panic!("{other}"),
            },
            2 => {
                let options = pool.chunksize(chunk).buffersize(1 + random(100) as usize);
                let take = random(300) as usize;
                for (x, got) in options.imap(f, 0..len).enumerate().take(take) {
                    match got {
                        Ok(got) => assert!(got == vec![x as u64; x % 40] && x as u64 != bad),
                        Err(error) => {
                            assert!(
                                matches!(error, MpiError::Panicked { index, .. } if index == x)
                            );
                            assert_eq!(x as u64, bad);
                        }
                    }
                }
            }
            _ => {
                let got = pool.imap_unordered(f, 0..len).filter_map(Result::ok).count() as u64;
                assert_eq!(got, if pool.is_root() { len - u64::from(bad < len) } else { 0 });
            }
        }
    }
}

fn master_only() {
    let mut tasks = MpiTasks::new(pool());
    let (size, offset) = (tasks_size(), 7);
    let add = tasks.register(move |x: u64| x + offset);
    let odd = tasks.register(|x: u64| if x % 2 == 0 { panic!("{x} on purpose") } else { x });
    let join = tasks.register(|(a, b): (String, u8)| format!("{a}{b}"));
    let pool = tasks.start();
    // Rank 0 alone.
    assert!(pool.size() >= 1 && size == pool.size());
    for _ in 0..20 {
        assert_eq!(pool.map(&add, 0..100).expect("nothing fails"), (7..107).collect::<Vec<_>>());
        let error = pool.chunksize(3).map(&odd, 5..50).expect_err("6 is even");
        assert!(matches!(error, MpiError::Panicked { index: 1, .. }), "{error}");
        let texts = pool.map(&join, [("a".to_owned(), 1), ("b".to_owned(), 2)]);
        assert_eq!(texts.expect("nothing fails"), ["a1", "b2"]);
        let odds: Vec<u64> = pool.imap(&odd, 0..50).filter_map(Result::ok).collect();
        assert_eq!(odds, (0..50).filter(|x| x % 2 == 1).collect::<Vec<_>>());
        let sum = pool.buffersize(9).imap_unordered(&add, 0..50).map(Result::unwrap).sum::<u64>();
        assert_eq!(sum, 50 * 7 + 49 * 25);
        drop(pool.imap(&add, 0..));
    }
    println!("rank 0 goes last");
}

/// How many ranks there are, told by another pool.
fn tasks_size() -> usize {
    pool().size()
}

fn master_diverged() {
    let pool = pool();
    let last = pool.rank() == pool.size() - 1;
    let mut tasks = MpiTasks::new(pool);
    let add = tasks.register(|x: u64| x + 1);
    let pool = if last {
        tasks.register(|x: u64| x + 3);
        MpiTasks::start(tasks)
    } else {
        let more = tasks.register(|x: u64| x + 2);
        let pool = tasks.start();
        assert!(pool.map(&add, 0..10).is_ok());
        let error = pool.map(&more, 0..10).expect_err("the last rank has another");
        assert!(matches!(error, MpiError::Diverged(_)), "{error}");
        pool
    };
    drop(pool);
}

fn master_panics() {
    let mut tasks = MpiTasks::new(pool());
    let add = tasks.register(|x: u64| x + 1);
    let pool = tasks.start();
    assert!(pool.map(&add, 0..10).is_err(), "rank 0 panics on purpose");
}

fn alone() {
    let pool = MpiPool::init().expect("a pool of one");
    assert_eq!((pool.rank(), pool.size(), pool.is_root()), (0, 1, true));
    let got = pool.map(|x: u64| x + 1, 0..1000).expect("nothing fails");
    assert_eq!(got, Some((1..1001).collect()));
    let got: Result<Vec<_>, _> = pool.imap(|x: u64| x + 1, 0..1000).collect();
    assert_eq!(got.expect("nothing fails"), (1..1001).collect::<Vec<_>>());
    // A panic is this process's own.
    let caught = std::panic::catch_unwind(|| {
        let _pool = MpiPool::init();
        panic!("on purpose");
    });
    assert!(caught.is_err());
    assert!(pool.map(|x: u64| x + 1, 0..10).is_ok());
}

/// No memory is reserved for items that do not come.
fn large_chunks_of_large_items() {
    type Large = [[[[u8; 32]; 32]; 32]; 16];

    let most = || {
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let peak = status.lines().find_map(|line| line.strip_prefix("VmPeak:"));
        peak.map_or(0, |size| {
            size.trim().trim_end_matches(" kB").parse::<usize>().expect("a number")
        })
    };
    let pool = pool();
    let (root, before) = (pool.is_root(), most());
    for size in [100_000, usize::MAX] {
        let pool = pool.chunksize(size);
        let items = (0..3).map(|i| -> Large { [[[[i; 32]; 32]; 32]; 16] });
        let got = pool.map(|item: Large| item[0][0][0][0], items).expect("nothing fails");
        assert_eq!(got, root.then(|| vec![0, 1, 2]));
    }
    assert!(most() - before < 1 << 20, "{} kB", most() - before);
}

fn wrong_launcher() {
    // What the ranks of another MPI's launcher see: its variables, and nobody else. Set by a child's
    // environment, for this one cannot be changed any more.
    let program = std::env::current_exe().expect("this program has a path");
    if std::env::var("PMI_SIZE").is_err() && std::env::var("OMPI_COMM_WORLD_SIZE").is_err() {
        let open = mpi::environment::library_version().expect("a text").contains("Open MPI");
        let variable = if open { "PMI_SIZE" } else { "OMPI_COMM_WORLD_SIZE" };
        let status = std::process::Command::new(program).env(variable, "3").status();
        assert!(status.expect("it starts").success());
        return;
    }
    match MpiPool::init() {
        Err(MpiError::Mpi(why)) => assert!(why.contains("=3") && why.contains("launcher"), "{why}"),
        other => panic!("{other:?}"),
    }
}

fn main_panics() {
    let pool = pool();
    assert!(pool.map(|x: u64| x, 0..10).is_ok());
    if pool.rank() == 1 {
        panic!("rank 1 panics on purpose");
    }
    drop(pool.map(|x: u64| x, 0..10));
}

fn root_main_panics() {
    let pool = pool();
    for (count, value) in pool.imap(|x: u64| x, 0..).enumerate() {
        assert!(value.is_ok() && count < 10, "rank 0 panics on purpose");
    }
}

fn exit() {
    let pool = pool();
    if pool.rank() == 1 {
        eprintln!("rank 1 exits");
        std::process::exit(3);
    }
    drop(pool.map(|x: u64| x, 0..10));
}

fn exit_without_a_word() {
    let pool = pool();
    if pool.rank() == 1 {
        std::process::exit(0);
    }
    drop(pool.map(|x: u64| x, 0..10));
}

/// Kills this process as a node that fails does.
fn kill() -> ! {
    let id = std::process::id().to_string();
    let _ = std::process::Command::new("kill").args(["-9", &id]).status();
    loop {
        sleep(Duration::from_secs(1));
    }
}

fn killed() {
    let pool = pool();
    let rank = pool.rank();
    let done = Arc::new(AtomicUsize::new(0));
    let f = |x: u64| {
        if rank == 1 && done.fetch_add(1, Ordering::Relaxed) == 3 {
            kill();
        }
        sleep(Duration::from_millis(5));
        x * 2
    };
    let got = pool.chunksize(2).map(f, 0..100).expect("the others do the rest");
    assert!(got.is_none_or(|got| got == (0..100).map(|x| x * 2).collect::<Vec<_>>()));
    // The pool goes on with those that are left, also in streams.
    let sum = pool.imap(|x: u64| x, 0..100).sum::<Result<u64, _>>().expect("nothing fails");
    assert_eq!(sum, if pool.is_root() { 4950 } else { 0 });
    if pool.is_root() {
        println!("completed");
    }
}

fn killed_root() {
    let pool = pool();
    if pool.is_root() {
        kill();
    }
    let error = pool.map(|x: u64| x, 0..100).expect_err("rank 0 is gone");
    assert!(matches!(error, MpiError::RankLost { rank: 0, .. }), "{error}");
}
