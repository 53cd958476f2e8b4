//! Maps: the blocking verbs over items and `map_async`. What they loop over, how they fail, in which chunks and on which
//! workers they run. With random inputs: `properties.rs`; the handle of `map_async`: `results.rs`.

mod common;

use std::collections::{BTreeMap, BTreeSet, BinaryHeap, HashMap, HashSet, LinkedList, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{bounded, unbounded};
use parpool::{AsyncResult, Context, Error, Pool, TryError, current_worker};
use rayon::iter::plumbing::{Consumer, Producer, ProducerCallback, UnindexedConsumer, bridge};
use rayon::prelude::*;

use common::{
    ALL, Bomb, Counted, Counter, Drops, Kind, LASTING, LONG, Liar, ON_PURPOSE, SLOW, STEP, THREADS,
    Uncut, all_pools, eventually, fewer, gate, is_cheap, panicked, scaled, shared_pools, square,
    watchdog,
};

/// Those of [`THREADS`] that replace their workers.
fn replaced() -> impl Iterator<Item = Kind> {
    THREADS.into_iter().filter(|kind| matches!(kind, Kind::Replaced(..)))
}

const CHUNKS: [Option<usize>; 6] = [None, Some(1), Some(7), Some(20), Some(100), Some(1000)];

// ---- the serial map ------------------------------------------------------------------------------

/// Every verb over `input`, which is made anew for each.
macro_rules! check_map {
    ($pool:expr, $size:expr, $expected:expr, $input:expr) => {
        let what = stringify!($input);
        let map = with_chunksize!($pool, $size, map(|x| u64::from(x) * 3, $input));
        assert_eq!(map.unwrap(), $expected, "{what}");
        let try_map =
            with_chunksize!($pool, $size, try_map(|x| Ok::<_, ()>(u64::from(x) * 3), $input));
        assert_eq!(try_map.unwrap(), $expected, "{what}");
        let map_async = with_chunksize!($pool, $size, map_async(|x| u64::from(x) * 3, $input));
        assert_eq!(map_async.get().unwrap(), $expected, "{what}");
    };
}

#[test]
fn map_is_the_serial_map() {
    watchdog(50, || {
        let kinds = [
            Kind::Lasting(1),
            Kind::Lasting(2),
            Kind::Lasting(4),
            Kind::Replaced(2, 40),
            Kind::Serial,
        ];
        for (kind, size, len) in kinds
            .into_iter()
            .flat_map(|kind| {
                let sizes = move |len| CHUNKS.into_iter().map(move |size| (kind, size, len));
                [0_u32, 1, 9, 10, 100, scaled(10_007)].into_iter().flat_map(sizes)
            })
            .step_by(fewer(1, 53))
        {
            // A thread for each item and verb would take its time.
            if matches!(kind, Kind::Replaced(..)) && len > 100 && size.is_some_and(|size| size < 20)
            {
                continue;
            }
            let pool = &kind.pool();
            let expected: Vec<u64> = (0..len).map(|x| u64::from(x) * 3).collect();
            let xs: Vec<u32> = (0..len).collect();
            check_map!(pool, size, expected, xs.clone());
            check_map!(pool, size, expected, 0..len);
            let unknown = |x: &u32| *x < u32::MAX;
            check_map!(pool, size, expected, (0..len).filter(unknown));
            check_map!(pool, size, expected, (0..len / 2).chain(len / 2..len));
            check_map!(pool, size, expected, xs.clone().into_boxed_slice());
            check_map!(pool, size, expected, xs.iter().copied().collect::<VecDeque<_>>());
            check_map!(pool, size, expected, xs.clone().into_par_iter());
            if len <= 100 {
                let keyed = || xs.iter().map(|x| (*x, ()));
                let set: Vec<u64> = with_chunksize!(
                    pool,
                    size,
                    map(|(x, ())| u64::from(x) * 3, keyed().collect::<BTreeMap<_, _>>())
                )
                .unwrap();
                assert_eq!(set, expected);
                let set: HashSet<u64> = with_chunksize!(
                    pool,
                    size,
                    map(|(x, ())| u64::from(x) * 3, keyed().collect::<HashMap<_, _>>())
                )
                .unwrap()
                .into_iter()
                .collect();
                assert_eq!(set, expected.iter().copied().collect());
            }
            // What is borrowed, for the verbs that may.
            let triple = |x: &u32| u64::from(*x) * 3;
            assert_eq!(with_chunksize!(pool, size, map(triple, &xs)).unwrap(), expected);
            assert_eq!(with_chunksize!(pool, size, map(triple, &xs[..])).unwrap(), expected);
            assert_eq!(with_chunksize!(pool, size, map(triple, xs.iter())).unwrap(), expected);
            assert_eq!(with_chunksize!(pool, size, map(triple, xs.par_iter())).unwrap(), expected);
            let mut changed = xs.clone();
            let change = |x: &mut u32| *x += 1;
            with_chunksize!(pool, size, map(change, &mut changed)).unwrap();
            assert!(changed.iter().copied().eq(1..=len));
        }
    });
}

#[test]
fn map_over_a_slow_input_of_unknown_length() {
    const LEN: u64 = fewer(200, 8) as u64;

    watchdog(40, || {
        for kind in
            [Kind::Lasting(fewer(8, 3)), Kind::Lasting(2), Kind::Replaced(3, 50), Kind::Serial]
        {
            let pool = kind.pool();
            for round in 0..fewer(40, 2) {
                // Slow to pull, so that workers come for nothing and blocks change hands unbegun.
                let slow = (0..LEN).filter(|_| {
                    let start = Instant::now();
                    while start.elapsed() < Duration::from_micros(50) {}
                    true
                });
                let squares = match round % 2 {
                    0 => pool.map(square, slow),
                    _ => pool.map_async(square, slow).get(),
                };
                assert!(squares.unwrap().into_iter().eq((0..LEN).map(square)), "{kind:?}");
            }
        }
    });
}

#[test]
fn starmap_is_the_serial_map() {
    watchdog(20, || {
        for (kind, pool) in all_pools() {
            for (size, len) in CHUNKS
                .iter()
                .flat_map(|size| [0, 1, 9, 10, 100].map(|len| (*size, len)))
                .step_by(STEP)
            {
                let pairs: Vec<(i64, i64)> = (0..len).map(|i| (i, i * 7 % 13)).collect();
                let sub = |a: i64, b: i64| a - b;
                let expected: Vec<i64> = pairs.iter().map(|(a, b)| a - b).collect();
                let here = with_chunksize!(pool, size, starmap(sub, pairs.clone()));
                assert_eq!(here.unwrap(), expected, "{kind:?}");
                let later = with_chunksize!(pool, size, starmap_async(sub, pairs.clone()));
                assert_eq!(later.get().unwrap(), expected, "{kind:?}");
                let zipped = (0..len).zip(pairs.iter().map(|(_, b)| *b));
                assert_eq!(with_chunksize!(pool, size, starmap(sub, zipped)).unwrap(), expected);
            }
        }
    });
}

#[test]
fn empty_input_is_an_empty_result() {
    watchdog(10, || {
        for (kind, pool) in all_pools() {
            for size in CHUNKS.into_iter().step_by(fewer(1, 3)) {
                let none = Vec::<u64>::new();
                assert_eq!(with_chunksize!(pool, size, map(|x| *x, &none)).unwrap(), [0; 0]);
                assert_eq!(with_chunksize!(pool, size, map(square, none.clone())).unwrap(), [0; 0]);
                assert_eq!(with_chunksize!(pool, size, map(square, 0..0)).unwrap(), [0; 0]);
                let unknown = (0..9).filter(|x| *x > 9);
                assert_eq!(
                    with_chunksize!(pool, size, map(square, unknown.clone())).unwrap(),
                    [0; 0]
                );
                let fine = |x| Ok::<u64, ()>(x);
                assert_eq!(with_chunksize!(pool, size, try_map(fine, 0..0)).unwrap(), [0; 0]);
                let pairs = Vec::<(u64, u32)>::new();
                let pow = u64::pow;
                assert_eq!(
                    with_chunksize!(pool, size, starmap(pow, pairs.clone())).unwrap(),
                    [0; 0]
                );
                let later = with_chunksize!(pool, size, starmap_async(pow, pairs));
                assert_eq!(later.get().unwrap(), [0; 0]);
                for later in [
                    with_chunksize!(pool, size, map_async(square, none)),
                    with_chunksize!(pool, size, map_async(square, 0..0)),
                    with_chunksize!(pool, size, map_async(square, unknown)),
                ] {
                    assert_eq!(later.get().unwrap(), [0; 0], "{kind:?} {size:?}");
                }
            }
            pool.close();
            pool.join().unwrap();
        }
    });
}

#[test]
fn maps_of_maps() {
    fn deep(pool: &Pool, depth: u32) -> u64 {
        match depth {
            0 => 1,
            _ => pool.map(|_| deep(pool, depth - 1), 0..4).unwrap().into_iter().sum(),
        }
    }

    fn deep_async(pool: &Arc<Pool>, depth: u32) -> u64 {
        match depth {
            0 => 1,
            _ => {
                let inner = Arc::clone(pool);
                let map = pool.map_async(move |_| deep_async(&inner, depth - 1), 0..4);
                map.get().unwrap().into_iter().sum()
            }
        }
    }

    const DEPTH: u32 = fewer(3, 2) as u32;

    watchdog(20, || {
        let kinds =
            [Kind::Lasting(1), Kind::Lasting(2), Kind::Replaced(1, 1), Kind::Replaced(2, 3)];
        for kind in kinds.into_iter().step_by(fewer(1, 3)).chain([Kind::Serial]) {
            let pool = Arc::new(kind.pool());
            assert_eq!(deep(&pool, DEPTH), 4_u64.pow(DEPTH), "{kind:?}");
            assert_eq!(deep_async(&pool, DEPTH), 4_u64.pow(DEPTH), "{kind:?}");
            // A pool in a worker of another.
            let inner = |_| kind.pool().map(square, 0..4).unwrap()[3];
            let inner = pool.map(inner, 0..fewer(4, 2)).unwrap();
            assert_eq!(inner, [9; fewer(4, 2)]);
            // The last owner may be a task that has returned, on a worker; that is no matter here.
            drop(pool);
        }
    });
}

// ---- what there is to loop over ------------------------------------------------------------------

#[test]
fn what_a_map_can_loop_over() {
    watchdog(20, || {
        for (_, pool) in all_pools() {
            collections(&pool);
            iterators(&pool);
            parallel(&pool);
        }
    });
}

fn sorted<T: Ord>(mut values: Vec<T>) -> Vec<T> {
    values.sort();
    values
}

fn collections(pool: &Pool) {
    let xs = vec![1, 2, 3];
    let mut ys = vec![1, 2, 3];
    assert_eq!(pool.map(|x| x + 1, xs.clone()).unwrap(), [2, 3, 4]);
    assert_eq!(pool.map(|x| x + 1, &xs).unwrap(), [2, 3, 4]);
    assert_eq!(pool.map(|x| *x += 1, &mut ys).unwrap(), [(); 3]);
    assert_eq!(pool.map(|x| x + 1, &xs[1..]).unwrap(), [3, 4]);
    assert_eq!(pool.map(|x| *x += 1, &mut ys[1..]).unwrap(), [(); 2]);
    assert_eq!(ys, [2, 4, 5]);
    assert_eq!(pool.map(|x| x + 1, [1, 2, 3]).unwrap(), [2, 3, 4]);
    assert_eq!(pool.map(|x| x + 1, &[1, 2, 3]).unwrap(), [2, 3, 4]);
    let mut array = [1, 2, 3];
    pool.map(|x| *x += 1, &mut array).unwrap();
    assert_eq!(array, [2, 3, 4]);
    let mut boxed = xs.clone().into_boxed_slice();
    assert_eq!(pool.map(|x| x + 1, &boxed).unwrap(), [2, 3, 4]);
    pool.map(|x| *x += 1, &mut boxed).unwrap();
    assert_eq!(pool.map(|x| x + 1, boxed).unwrap(), [3, 4, 5]);
    let mut deque = VecDeque::from(xs.clone());
    assert_eq!(pool.map(|x| x + 1, &deque).unwrap(), [2, 3, 4]);
    pool.map(|x| *x += 1, &mut deque).unwrap();
    assert_eq!(pool.map(|x| x + 1, deque).unwrap(), [3, 4, 5]);

    let mut tree = BTreeMap::from([(1, 10), (2, 20)]);
    assert_eq!(pool.map(|(k, v)| k + v, &tree).unwrap(), [11, 22]);
    pool.map(|(k, v)| *v += k, &mut tree).unwrap();
    assert_eq!(pool.map(|(k, v)| k + v, tree).unwrap(), [12, 24]);
    let mut hash = HashMap::from([(1, 10), (2, 20)]);
    assert_eq!(sorted(pool.map(|(k, v)| k + v, &hash).unwrap()), [11, 22]);
    pool.map(|(k, v)| *v += k, &mut hash).unwrap();
    assert_eq!(sorted(pool.map(|(k, v)| k + v, hash).unwrap()), [12, 24]);
    let tree = BTreeSet::from([1, 2]);
    assert_eq!(pool.map(|x| x + 1, &tree).unwrap(), [2, 3]);
    assert_eq!(pool.map(|x| x + 1, tree).unwrap(), [2, 3]);
    let hash = HashSet::from([1, 2]);
    assert_eq!(sorted(pool.map(|x| x + 1, &hash).unwrap()), [2, 3]);
    assert_eq!(sorted(pool.map(|x| x + 1, hash).unwrap()), [2, 3]);
    let heap = BinaryHeap::from([1, 2]);
    assert_eq!(sorted(pool.map(|x| x + 1, heap).unwrap()), [2, 3]);
    let mut list = LinkedList::from([1, 2]);
    assert_eq!(pool.map(|x| x + 1, &list).unwrap(), [2, 3]);
    pool.map(|x| *x += 1, &mut list).unwrap();
    assert_eq!(pool.map(|x| x + 1, list).unwrap(), [3, 4]);
    assert_eq!(pool.map(|x| x + 1, Some(1)).unwrap(), [2]);
    assert_eq!(pool.map(|x: i32| x + 1, None).unwrap(), [0; 0]);
}

fn iterators(pool: &Pool) {
    let (xs, ys) = (vec![1.0, 2.0], [3.0, 4.0]);
    let text = String::from("one two\nthree");
    fn square(x: i32) -> i32 {
        x * x
    }
    assert_eq!(pool.map(square, 0..4).unwrap(), [0, 1, 4, 9]);
    assert_eq!(pool.map(|x| x * 2.0, xs.iter()).unwrap(), [2.0, 4.0]);
    assert_eq!(pool.map(|(a, b)| a * b, xs.iter().zip(&ys)).unwrap(), [3.0, 8.0]);
    assert_eq!(pool.map(|w| w.len(), text.split(' ')).unwrap(), [3, 9]);
    assert_eq!(pool.map(|l| l.len(), text.lines()).unwrap(), [7, 5]);
    assert_eq!(pool.map(|c| c.len(), [1, 2, 3].chunks(2)).unwrap(), [2, 1]);
    assert_eq!(pool.map(|w| w[0] + w[1], [1, 2, 3].windows(2)).unwrap(), [3, 5]);
    assert_eq!(pool.map(|(i, x)| i + x, [1, 2].into_iter().enumerate()).unwrap(), [1, 3]);
    let boxed: Box<dyn Iterator<Item = i32> + Send> = Box::new(0..3);
    assert_eq!(pool.map(square, boxed).unwrap(), [0, 1, 4]);
    let mut lent = 0..10;
    assert_eq!(pool.map(square, lent.by_ref().take(2)).unwrap(), [0, 1]);
    assert_eq!(lent.next(), Some(2));
    let mut left = 3;
    let unfold = std::iter::from_fn(|| {
        left -= 1;
        (left > 0).then_some(left)
    });
    assert_eq!(pool.map(square, unfold).unwrap(), [4, 1]);
    // An item that borrows what the closure returns into.
    let firsts: Vec<&str> = pool.map(|l| l.split(' ').next().unwrap(), text.lines()).unwrap();
    assert_eq!(firsts, ["one", "three"]);
}

fn parallel(pool: &Pool) {
    let xs = vec![1, 2, 3];
    assert_eq!(pool.map(|x| x + 1, xs.par_iter()).unwrap(), [2, 3, 4]);
    assert_eq!(pool.map(|(i, x)| i + x, xs.par_iter().copied().enumerate()).unwrap(), [1, 3, 5]);
    assert_eq!(pool.map(|(a, b)| a * b, xs.par_iter().zip(&xs)).unwrap(), [1, 4, 9]);
    assert_eq!(pool.map(|c| c.len(), xs.par_chunks(2)).unwrap(), [2, 1]);
    assert_eq!(pool.map(|x| x + 1, (0..3_u32).into_par_iter().rev()).unwrap(), [3, 2, 1]);
    assert_eq!(pool.map(|x| x + 1, xs.into_par_iter().map(|x| x * 2)).unwrap(), [3, 5, 7]);
}

// ---- inputs that are wrong about their length ----------------------------------------------------

#[test]
fn a_lying_size_hint_harms_nobody() {
    watchdog(20, || {
        let mut count = 0;
        for (kind, pool) in all_pools() {
            for (len, said) in
                [(0, 10), (9, 10), (10, 9), (fewer(50, 12), 1), (1, 50), (fewer(200, 20), 10)]
            {
                for hint in [
                    (said, Some(said)),
                    (said, None),
                    (0, Some(said)),
                    (said, Some(0)),
                    (usize::MAX, Some(usize::MAX)),
                    (usize::MAX, None),
                ] {
                    // Collecting it here panics in `Vec` itself, as it would in any program.
                    let collected = hint.0 == usize::MAX && matches!(kind, Kind::Replaced(..));
                    for size in [None, Some(1), Some(7)].into_iter().filter(|_| !collected) {
                        count += 1;
                        if count % fewer(1, STEP) != 0 {
                            continue;
                        }
                        let liar = Liar(0..len as u64, hint);
                        let expected: Vec<u64> = (0..len as u64).map(square).collect();
                        let context = format!("{kind:?}, {len} items, says {hint:?}, {size:?}");
                        let here = with_chunksize!(pool, size, map(square, liar.clone()));
                        assert_eq!(here.unwrap(), expected, "{context}");
                        let later = with_chunksize!(pool, size, map_async(square, liar));
                        assert_eq!(later.get().unwrap(), expected, "{context}");
                    }
                }
            }
            pool.close();
            pool.join().unwrap();
        }
    });
}

#[test]
fn an_input_that_says_it_is_empty_and_is_not_loses_nothing() {
    watchdog(20, || {
        for (kind, pool) in all_pools() {
            for (len, size) in
                [(1, None), (1, Some(1)), (9, None), (9, Some(7)), (fewer(1000, 30) as u64, None)]
            {
                let liar = Liar(0..len, (0, Some(0)));
                let expected: Vec<u64> = (0..len).map(square).collect();
                let later = with_chunksize!(pool, size, map_async(square, liar.clone()));
                assert_eq!(later.get().unwrap(), expected, "{kind:?}, {size:?}");
                let here = with_chunksize!(pool, size, map(square, liar));
                assert_eq!(here.unwrap(), expected, "{kind:?}, {size:?}");
            }
        }
    });
}

#[test]
fn an_absurd_size_hint_is_no_hang_where_workers_are_replaced() {
    watchdog(20, || {
        for kind in replaced() {
            let pool = kind.pool();
            for hint in [(usize::MAX, Some(usize::MAX)), (usize::MAX, None)] {
                for size in [None, Some(1), Some(7)] {
                    let liar = Liar(0..9, hint);
                    let here = with_chunksize!(pool, size, map(square, liar.clone()));
                    assert_matches!(here, Ok(_) | Err(Error::Panicked(_)));
                    let later = with_chunksize!(pool, size, map_async(square, liar));
                    assert_matches!(later.get(), Ok(_) | Err(Error::Panicked(_)));
                }
            }
            pool.close();
            pool.join().unwrap();
        }
    });
}

#[test]
fn a_parallel_range_of_absurd_length_ends_at_the_first_error() {
    watchdog(60, || {
        for (kind, pool) in all_pools() {
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

/// A parallel iterator that says it has so many items. Its parts give `times` as many items as were asked
/// of them, and none from index `has` on; the last part gives all that there are.
#[derive(Clone)]
struct ParLiar {
    says: usize,
    has: usize,
    times: f64,
    drops: Drops,
}

struct ParPart {
    from: usize,
    to: usize,
    liar: ParLiar,
}

impl ParallelIterator for ParLiar {
    type Item = Counted;

    fn drive_unindexed<C: UnindexedConsumer<Counted>>(self, consumer: C) -> C::Result {
        bridge(self, consumer)
    }
}

impl IndexedParallelIterator for ParLiar {
    fn len(&self) -> usize {
        self.says
    }

    fn drive<C: Consumer<Counted>>(self, consumer: C) -> C::Result {
        bridge(self, consumer)
    }

    fn with_producer<B: ProducerCallback<Counted>>(self, callback: B) -> B::Output {
        callback.callback(ParPart { from: 0, to: self.says, liar: self })
    }
}

impl Producer for ParPart {
    type Item = Counted;
    type IntoIter = std::vec::IntoIter<Counted>;

    fn into_iter(self) -> Self::IntoIter {
        let ParPart { from, to, liar } = self;
        let to = if to == liar.says { liar.has } else { to.min(liar.has) };
        let part = to.saturating_sub(from);
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        let count = (part as f64 * liar.times).ceil() as usize;
        (from..from + count).map(|i| liar.drops.make(i)).collect::<Vec<_>>().into_iter()
    }

    fn split_at(self, mid: usize) -> (Self, Self) {
        let mid = self.from + mid;
        let front = ParPart { from: self.from, to: mid, liar: self.liar.clone() };
        (front, ParPart { from: mid, ..self })
    }
}

/// A parallel input that breaks its word never makes a short result, or a long one.
#[test]
fn a_parallel_iterator_that_lies_about_its_length_is_an_error() {
    const LEN: usize = fewer(1000, 20);

    let mut cases = 0;
    let liars = [
        // Where it is not about one place, which part tells the first lie depends on the run.
        (LEN, LEN, 0.0, "fewer", Some(0)),
        (LEN, LEN, 0.4, "fewer", None),
        (LEN, LEN, 2.0, "more", None),
        (LEN, 0, 1.0, "fewer", Some(0)),
        (LEN, LEN - 1, 1.0, "fewer", Some(LEN - 1)),
        (LEN, LEN / 10, 1.0, "fewer", Some(LEN / 10)),
        (LEN, LEN + 1, 1.0, "more", Some(LEN)),
        (LEN, LEN + LEN / 10, 1.0, "more", Some(LEN)),
        (1, 0, 1.0, "fewer", Some(0)),
        (1, 5, 1.0, "more", Some(1)),
    ];
    let slow = |x: Counted| {
        std::hint::black_box((0..200).sum::<usize>());
        x.value()
    };
    let check = |result: Result<(), Error>, kind: &str, index: Option<usize>, what: &str| {
        let (at, message) = panicked(result);
        assert!(message.contains(kind), "{what}: {message}");
        assert!(index.is_none() || at == index, "{what}: {at:?}, not {index:?}");
    };
    for (kind, pool) in shared_pools() {
        for size in [None, Some(1), Some(7), Some(1000), Some(2000)] {
            for (says, has, times, lie, index) in liars {
                cases += 1;
                if cases % fewer(1, STEP) > 0 || !is_cheap(kind, says, size) {
                    continue;
                }
                // A chunk of a part that gives 0.4 of an item is rounded up to what was asked for.
                if times == 0.4 && (size == Some(1) || size.is_none()) {
                    continue;
                }
                let what = format!("{kind:?}, {size:?}, says {says}, has {has}, times {times}");
                let drops = Drops::default();
                let liar = || ParLiar { says, has, times, drops: drops.clone() };
                let result = with_chunksize!(pool, size, map(slow, liar()));
                check(result.map(drop), lie, index, &what);
                let mut out = vec![1, 2, 3];
                let result = with_chunksize!(pool, size, map_into(slow, liar(), &mut out));
                check(result.map(drop), lie, index, &what);
                assert!(out.is_empty());
                match with_chunksize!(pool, size, try_map(|x| Ok::<_, ()>(slow(x)), liar())) {
                    Err(TryError::Pool(error)) => check(Err(error), lie, index, &what),
                    other => panic!("{what}: {other:?}"),
                }
                let result = with_chunksize!(pool, size, reduce(slow, |a, b| a ^ b, liar()));
                check(result.map(drop), lie, index, &what);
                let result = with_chunksize!(pool, size, sum(slow, liar()));
                check(result.map(drop), lie, index, &what);
                let result = with_chunksize!(pool, size, map_async(slow, liar())).get();
                check(result.map(drop), lie, index, &what);
                assert!(eventually(|| drops.alive() == 0));
                drops.assert_each_once();
            }
        }
        assert_eq!(pool.map(|x| x, 0..3).unwrap(), [0, 1, 2]);
    }
}

// ---- inputs that panic ---------------------------------------------------------------------------

/// An iterator that panics in place of item `at`. It says how many items it has, or not.
struct Broken {
    next: usize,
    at: usize,
    sized: bool,
}

fn broken(at: usize, sized: bool) -> Broken {
    Broken { next: 0, at, sized }
}

impl Iterator for Broken {
    type Item = usize;

    fn next(&mut self) -> Option<usize> {
        assert!(self.next != self.at, "{ON_PURPOSE}: item {}", self.at);
        self.next += 1;
        (self.next <= 10).then_some(self.next - 1)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        if self.sized { (10 - self.next, Some(10 - self.next)) } else { (0, None) }
    }
}

/// A map over a [`Broken`] fails, at the place of the item if `placed`, and the pool works after.
fn check_broken(kind: Kind, placed: bool) {
    let pool = kind.pool();
    let cases = [(0, true), (0, false), (3, true), (3, false)].into_iter();
    let cases = cases.flat_map(|case| [None, Some(1), Some(2), Some(20)].map(|size| (case, size)));
    for ((at, sized), size) in cases.step_by(fewer(1, 5)) {
        let context = format!("{kind:?}, item {at}, sized {sized}, chunks of {size:?}");
        let here = with_chunksize!(pool, size, map(|x| x, broken(at, sized)));
        let later = with_chunksize!(pool, size, map_async(|x| x, broken(at, sized)));
        for (result, verb) in [(here, "map"), (later.get(), "map_async")] {
            let (index, message) = panicked(result);
            assert_eq!(message, format!("{ON_PURPOSE}: item {at}"), "{verb}, {context}");
            if placed {
                assert_eq!(index, Some(at), "{verb}, {context}");
            }
        }
        assert_eq!(pool.map(square, 0..4).unwrap(), [0, 1, 4, 9]);
    }
    pool.close();
    pool.join().unwrap();
}

#[test]
fn an_input_that_panics_is_an_error_at_that_place() {
    watchdog(20, || {
        LASTING.into_iter().chain([Kind::Serial]).for_each(|kind| check_broken(kind, true))
    });
}

#[test]
fn an_input_that_panics_is_an_error_where_workers_are_replaced() {
    watchdog(20, || replaced().for_each(|kind| check_broken(kind, false)));
}

#[test]
fn an_input_that_panics_is_an_error_at_that_place_where_workers_are_replaced() {
    watchdog(20, || replaced().for_each(|kind| check_broken(kind, true)));
}

/// Rayon's adaptors run code of the user's before there is an item: `map_init` when a worker begins with
/// its part, `map_with` when the input is cut for the workers.
#[test]
fn a_parallel_input_that_panics_before_its_first_item_is_an_error() {
    watchdog(20, || {
        for kind in ALL {
            for later in [false, true] {
                let pool = kind.pool();
                let xs = || (0..10).collect::<Vec<u64>>().into_par_iter();
                let init = || -> u64 { panic!("{ON_PURPOSE}") };
                let begun = || xs().map_init(init, |_, x| x);
                let cut = || xs().map_with(Uncut, |_, x| x);
                if later {
                    let (index, message) = panicked(pool.map_async(square, begun()).get());
                    assert_eq!((index, &*message), (Some(0), ON_PURPOSE), "{kind:?}");
                    // Where workers are replaced, it is not cut.
                    assert!(pool.map_async(square, cut()).get().map_or(true, |r| r.len() == 10));
                } else {
                    for result in [pool.map(square, begun()), pool.map(square, cut())] {
                        let (index, message) = panicked(result);
                        assert_eq!((index, &*message), (Some(0), ON_PURPOSE), "{kind:?}");
                    }
                }
                assert_eq!(pool.map(square, 0..4).unwrap(), [0, 1, 4, 9], "{kind:?}");
                pool.close();
                pool.join().unwrap();
            }
        }
    });
}

/// The user's code in an input: what it throws is the call's error.
#[test]
fn a_parallel_iterator_may_panic_anywhere() {
    for (kind, pool) in shared_pools() {
        for size in [None, Some(1), Some(7)] {
            for place in [Place::Len, Place::Lend, Place::Split, Place::Begin, Place::Next] {
                let input = || Thrower(place, fewer(100, 10));
                let result = with_chunksize!(pool, size, map(|x| x, input()));
                assert_eq!(panicked(result).1, ON_PURPOSE, "{kind:?}, {size:?}, {place:?}");
                let result = with_chunksize!(pool, size, sum(|x| x, input()));
                assert_eq!(panicked(result).1, ON_PURPOSE, "{kind:?}, {size:?}, {place:?}");
                // Where workers are replaced it is looped over in one piece.
                if !(place == Place::Split && matches!(kind, Kind::Replaced(..))) {
                    let result = with_chunksize!(pool, size, map_async(|x| x, input())).get();
                    let message = panicked(result).1;
                    assert_eq!(message, ON_PURPOSE, "{kind:?}, {size:?}, {place:?}");
                }
                let mut out = vec![7];
                let result = with_chunksize!(pool, size, map_into(|x| x, input(), &mut out));
                assert_eq!(panicked(result).1, ON_PURPOSE, "{kind:?}, {size:?}, {place:?}");
                assert!(out.is_empty());
            }
        }
        assert_eq!(pool.map(|x| x, 0..3).unwrap(), [0, 1, 2]);
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Place {
    Len,
    Lend,
    Split,
    Begin,
    Next,
}

/// A parallel iterator, or a part of one, that panics there.
struct Thrower(Place, usize);

impl Thrower {
    fn at(&self, place: Place) {
        assert!(self.0 != place, "{ON_PURPOSE}");
    }
}

impl ParallelIterator for Thrower {
    type Item = usize;

    fn drive_unindexed<C: UnindexedConsumer<usize>>(self, consumer: C) -> C::Result {
        bridge(self, consumer)
    }
}

impl IndexedParallelIterator for Thrower {
    fn len(&self) -> usize {
        self.at(Place::Len);
        self.1
    }

    fn drive<C: Consumer<usize>>(self, consumer: C) -> C::Result {
        bridge(self, consumer)
    }

    fn with_producer<B: ProducerCallback<usize>>(self, callback: B) -> B::Output {
        self.at(Place::Lend);
        callback.callback(self)
    }
}

impl Producer for Thrower {
    type Item = usize;
    type IntoIter = ThrowerIter;

    fn into_iter(self) -> ThrowerIter {
        self.at(Place::Begin);
        ThrowerIter(self)
    }

    fn split_at(self, mid: usize) -> (Self, Self) {
        self.at(Place::Split);
        (Thrower(self.0, mid), Thrower(self.0, self.1 - mid))
    }
}

struct ThrowerIter(Thrower);

impl Iterator for ThrowerIter {
    type Item = usize;

    fn next(&mut self) -> Option<usize> {
        self.0.at(Place::Next);
        self.0.1 = self.0.1.checked_sub(1)?;
        Some(self.0.1)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.0.1, Some(self.0.1))
    }
}

impl DoubleEndedIterator for ThrowerIter {
    fn next_back(&mut self) -> Option<usize> {
        self.next()
    }
}

impl ExactSizeIterator for ThrowerIter {}

// ---- inputs that block ---------------------------------------------------------------------------

#[test]
fn a_blocked_input_delays_no_other_call() {
    watchdog(20, || {
        for kind in [Kind::Lasting(2), Kind::Lasting(3)] {
            let pool = kind.pool();
            let (gate, mut opener) = gate();
            let source = (0..4_u64).inspect(move |_| gate.pass());
            let blocked = pool.map_async(square, source);
            opener.wait_for(1);
            for i in 0..fewer(20, 4) as u64 {
                assert_eq!(pool.apply(square, (i,)).unwrap(), i * i);
            }
            assert!(!blocked.ready());
            opener.open();
            assert_eq!(blocked.get().unwrap(), [0, 1, 4, 9]);
        }
    });
}

/// The worker that is in the input when that blocks may be another than the one that began the map.
#[test]
fn an_input_that_blocks_later_occupies_one_worker() {
    watchdog(20, || {
        for kind in [Kind::Lasting(2), Kind::Lasting(3)] {
            for scoped in [false, true] {
                let pool = kind.pool();
                let (gate, mut opener) = gate();
                let (in_input, is_in_input) = bounded(1);
                let source = (0..4_u64).inspect(move |i| {
                    if *i == 1 {
                        in_input.send(()).unwrap();
                        gate.pass();
                    }
                });
                // The first item takes until another worker is in the input.
                let slow = move |i: u64| {
                    if i == 0 {
                        is_in_input.recv().unwrap();
                    }
                    square(i)
                };
                let mut others = || {
                    opener.wait_for(1);
                    for i in 0..fewer(20, 4) as u64 {
                        assert_eq!(pool.apply(square, (i,)).unwrap(), i * i);
                    }
                    opener.open();
                };
                let results = if scoped {
                    pool.scope(|s| {
                        let blocked = s.map_async(slow, source);
                        others();
                        blocked.get()
                    })
                } else {
                    let blocked = pool.map_async(slow, source);
                    others();
                    blocked.get()
                };
                assert_eq!(results.unwrap(), [0, 1, 4, 9]);
            }
        }
    });
}

#[test]
fn terminate_waits_for_no_blocked_input() {
    watchdog(20, || {
        for kind in LASTING {
            let pool = kind.pool();
            let (gate, mut opener) = gate();
            let blocked = pool.map_async(square, (0..4_u64).inspect(move |_| gate.pass()));
            opener.wait_for(1);
            pool.terminate();
            assert_matches!(blocked.get(), Err(Error::Terminated));
            opener.open();
            pool.join().unwrap();
        }
    });
}

// ---- failures ------------------------------------------------------------------------------------

#[test]
fn the_lowest_index_wins() {
    watchdog(40, || {
        for kind in [Kind::Lasting(2), Kind::Replaced(2, 3)] {
            let pool = kind.pool();
            for round in 0..scaled(200) {
                // Item 0 fails late, after item 1.
                let (send, failed) = bounded(1);
                let fail = move |i: usize| {
                    if i == 0 {
                        failed.recv_timeout(LONG).expect("item 1 runs beside item 0");
                        thread::yield_now();
                    } else {
                        let _ = send.try_send(());
                    }
                    panic!("{ON_PURPOSE}: {i}");
                };
                let result = match round % 3 {
                    0 => pool.map(fail, 0..2),
                    1 => pool.chunksize(1).map(fail, vec![0, 1]),
                    _ => pool.chunksize(1).map_async(fail, 0..2).get(),
                };
                let (index, message) = panicked::<Vec<()>>(result);
                assert_eq!(
                    (index, &*message),
                    (Some(0), "on purpose: 0"),
                    "{kind:?}, round {round}"
                );
            }
        }
    });
}

#[test]
fn the_lowest_error_of_try_map_wins() {
    watchdog(20, || {
        for kind in ALL {
            let pool = kind.pool();
            for _ in 0..scaled(20) {
                let fail = |i: usize| if i % 10 == 7 { Err(i) } else { Ok(()) };
                let error = pool.try_map(fail, 0..fewer(200, 20)).unwrap_err();
                assert_matches!(error, TryError::Item { index: 7, error: 7 }, "{kind:?}");
            }
        }
    });
}

#[test]
fn an_error_of_the_closure_keeps_its_type() {
    watchdog(20, || {
        for (kind, pool) in all_pools() {
            match pool.try_map(|s: &str| s.parse::<u8>(), ["1", "2", "x", "300"]) {
                Err(TryError::Item { index: 2, error }) => {
                    assert_eq!(error, "x".parse::<u8>().unwrap_err());
                }
                other => panic!("{kind:?}: {other:?}"),
            }
            // An error that is a value is none for the pool.
            let value = pool.apply(|| "x".parse::<u8>(), ()).unwrap();
            assert!(value.is_err());
        }
    });
}

#[test]
fn a_closure_whose_drop_panics_costs_nobody_the_values() {
    watchdog(20, || {
        for (kind, pool) in all_pools() {
            let drops = Drops::default();
            let bomb = || (drops.make(0), Bomb);
            let (own, make) = (bomb(), drops.clone());
            let f = move |x| {
                let _in_the_closure = &own;
                make.make(x)
            };
            assert_eq!(pool.map(f, 0..4).unwrap().len(), 4, "{kind:?}");
            let (own, make) = (bomb(), drops.clone());
            let f = move |x| {
                let _in_the_closure = &own;
                make.make(x)
            };
            assert_eq!(pool.map_async(f, 0..4).get().unwrap().len(), 4, "{kind:?}");
            assert_eq!(pool.apply(square, (5,)).unwrap(), 25);
            drop(pool);
            assert_eq!(drops.made(), 10);
            drops.assert_each_once();
        }
    });
}

#[test]
fn an_input_whose_drop_panics_costs_nobody_the_values() {
    watchdog(20, || {
        for (kind, pool) in all_pools() {
            let input = || {
                let own = Bomb;
                (0..4).inspect(move |_| {
                    let _in_the_iterator = &own;
                })
            };
            assert_eq!(pool.map(square, input()).unwrap(), [0, 1, 4, 9], "{kind:?}");
            assert_eq!(pool.map_async(square, input()).get().unwrap(), [0, 1, 4, 9], "{kind:?}");
        }
    });
}

// ---- chunks --------------------------------------------------------------------------------------

#[test]
fn a_chunk_of_nothing_is_refused_and_nothing_runs() {
    watchdog(10, || {
        for (kind, pool) in all_pools() {
            let ran = Counter::default();
            let task = {
                let ran = ran.clone();
                move |x: u64| (ran.add(), x).1
            };
            let input = {
                let ran = ran.clone();
                move || {
                    let ran = ran.clone();
                    (0..9_u64).inspect(move |_| ran.add())
                }
            };
            let none = pool.chunksize(0);
            assert_matches!(none.map(&task, input()), Err(Error::InvalidArgument(_)), "{kind:?}");
            assert_matches!(none.map(&task, vec![1, 2]), Err(Error::InvalidArgument(_)));
            assert_matches!(none.map(&task, vec![]), Err(Error::InvalidArgument(_)));
            assert_matches!(none.starmap(&task, [(1,)]), Err(Error::InvalidArgument(_)));
            let tried = none.try_map(|x| Ok::<_, ()>(task(x)), input());
            assert_matches!(tried, Err(TryError::Pool(Error::InvalidArgument(_))));
            let later = none.map_async(task.clone(), input());
            assert_matches!(later.get(), Err(Error::InvalidArgument(_)));
            let later = none.starmap_async(task.clone(), [(1,)]);
            assert_matches!(later.get(), Err(Error::InvalidArgument(_)));
            assert_eq!(ran.get(), 0, "{kind:?}");
            // The next option is the one that counts.
            assert_eq!(none.chunksize(2).map(square, 0..3).unwrap(), [0, 1, 4]);
        }
    });
}

#[test]
fn chunks_are_the_same_while_workers_are_replaced() {
    watchdog(40, || {
        let pool = Kind::Replaced(2, 1).pool();
        // Four chunks a worker, rounded up, each of them the one task of a worker.
        let expected = [3, 3, 3, 3, 3, 3, 2];
        for round in 0..scaled(1000) {
            let who = if round % 2 == 0 {
                pool.map(|_| current_worker().unwrap(), 0..20).unwrap()
            } else {
                pool.map_async(|_| current_worker().unwrap(), 0..20).get().unwrap()
            };
            let chunks: Vec<usize> = who.chunk_by(|a, b| a == b).map(<[_]>::len).collect();
            assert_eq!(chunks, expected, "round {round}: {who:?}");
        }
    });
}

/// 64 GiB of address space for three items is what a system refuses, or kills the process for.
#[test]
#[cfg_attr(miri, ignore = "asks the system for more memory than there is")]
fn a_large_chunk_size_reserves_no_memory_for_items_that_do_not_come() {
    const BIG: usize = fewer(1 << 20, 1 << 12);

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
                let liar = Liar(0..3, said);
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

/// Burns about so many nanoseconds.
fn burn(nanos: u128) {
    let begun = Instant::now();
    while begun.elapsed().as_nanos() < nanos {}
}

#[test]
fn the_state_of_a_map_init_is_made_once_for_each_block() {
    const LEN: usize = fewer(20_000, 60);

    let xs: Vec<usize> = (0..LEN).collect();
    let inits = AtomicUsize::new(0);
    let input = |nanos| {
        let init = || inits.fetch_add(1, Ordering::Relaxed);
        xs.par_iter().map_init(init, move |_, x| {
            burn(nanos);
            *x
        })
    };
    for (kind, pool) in shared_pools() {
        for (size, nanos) in
            [(LEN / 20, 0), (LEN / 20, 500), (LEN / 4, 0), (LEN / 20 * 7, 0), (LEN, 0)]
        {
            let values = pool.chunksize(size).map(|x| x, input(nanos)).unwrap();
            assert!(values == xs, "{kind:?}, {size}");
            // Of neighbouring chunks that one worker claims together, one state may do.
            let made = inits.swap(0, Ordering::Relaxed);
            assert!(made <= xs.len().div_ceil(size), "{kind:?}, {size}: {made}");
        }
        // Under a checker an item may take longer than a block shall.
        if SLOW || matches!(kind, Kind::Replaced(..)) {
            continue;
        }
        // A block is about 20 µs.
        let values = pool.map(|x| x, input(2000)).unwrap();
        assert!(values == xs, "{kind:?}");
        let made = inits.swap(0, Ordering::Relaxed);
        assert!(made < xs.len() / 3, "{kind:?}: {made}");
    }
}

// ---- which workers take part ---------------------------------------------------------------------

/// Items that meet need a worker each; the one that found the iterator busy is called back, also when
/// it is the one that waits for the map.
#[test]
fn who_found_the_iterator_busy_is_called_back() {
    watchdog(60, || {
        for round in 0..scaled(300) {
            let pool = Arc::new(Pool::new(2).unwrap());
            let (done, is_done) = bounded(1);
            // The second item takes until the first is done, so that the worker that ran this finds the iterator busy.
            let source = (0..3_usize).inspect(move |i| {
                if *i == 1 {
                    is_done.recv().unwrap();
                    (0..round * 10).for_each(|_| thread::yield_now());
                }
            });
            let (meet, met) = (bounded(1), bounded(1));
            let f = move |i| {
                match i {
                    0 => done.send(()).unwrap(),
                    1 => {
                        meet.0.send(()).unwrap();
                        met.1.recv().unwrap();
                    }
                    _ => {
                        meet.1.recv().unwrap();
                        met.0.send(()).unwrap();
                    }
                }
                i
            };
            let results = match round % 4 {
                0 => pool.map(f, source),
                1 => pool.map_async(f, source).get(),
                2 => {
                    let inner = Arc::clone(&pool);
                    pool.apply(move || inner.map(f, source), ()).unwrap()
                }
                _ => {
                    let inner = Arc::clone(&pool);
                    pool.apply(move || inner.map_async(f, source).get(), ()).unwrap()
                }
            };
            assert_eq!(results.unwrap(), [0, 1, 2]);
        }
    });
}

/// Each item of a map needs a worker of its own, and all workers wait for its handle: each of them comes.
#[test]
fn all_workers_that_wait_for_a_map_take_part_in_it() {
    watchdog(60, || {
        let workers = 6;
        let pool = Kind::Lasting(workers).pool();
        for round in 0..scaled(2000) {
            let (send, receive) = unbounded::<Arc<AsyncResult<Vec<usize>>>>();
            let waits: Vec<_> = (0..workers)
                .map(|_| {
                    let receive = receive.clone();
                    pool.apply_async(move || receive.recv().unwrap().wait(), ())
                })
                .collect();
            let meeting = Arc::new(Barrier::new(workers));
            let meet = move |i| {
                meeting.wait();
                i
            };
            // So that others find the iterator busy, leave, and are called back.
            let items = (0..2 * workers).inspect(|_| thread::yield_now());
            let map = Arc::new(pool.chunksize(1).map_async(meet, items));
            (0..workers).for_each(|_| send.send(Arc::clone(&map)).unwrap());
            for wait in waits {
                assert!(wait.wait_timeout(LONG), "round {round}: a worker sleeps beside a call");
                wait.get().unwrap();
            }
            let map = Arc::into_inner(map).expect("nobody else has it");
            assert_eq!(map.get().unwrap(), (0..2 * workers).collect::<Vec<_>>());
        }
    });
}

/// What the input does for an item is work like that of the closure. Only what is begun, some 16 items of
/// these, stays with its worker.
#[test]
#[cfg_attr(miri, ignore = "looks at how the time is shared out")]
fn expensive_neighbours_in_the_input_are_shared_out() {
    let pool = Pool::new(2).unwrap();
    let costly = 2000..2100;
    let counts = [AtomicUsize::new(0), AtomicUsize::new(0)];
    let input = (0..5000_usize).into_par_iter().map(|x| {
        burn(500);
        if costly.contains(&x) {
            thread::sleep(Duration::from_millis(2));
            counts[current_worker().unwrap().index()].fetch_add(1, Ordering::Relaxed);
        }
        x
    });
    assert!(pool.map(|x| x, input).unwrap().into_iter().eq(0..5000));
    let counts = counts.map(AtomicUsize::into_inner);
    assert_eq!(counts[0] + counts[1], 100);
    assert!(counts[0].abs_diff(counts[1]) < 60, "{counts:?}");
}

// ---- map_into ------------------------------------------------------------------------------------

#[test]
fn map_into_uses_the_memory_that_is_there() {
    watchdog(20, || {
        for (kind, pool) in all_pools() {
            let mut out = Vec::with_capacity(100);
            let memory = out.as_ptr();
            for len in [100, 0, 7, 99] {
                pool.map_into(|x| x + 1, 0..len, &mut out).unwrap();
                assert_eq!(out, (1..=len).collect::<Vec<usize>>(), "{kind:?}");
                // Of an unknown length, too.
                pool.map_into(|x| x * 2, (0..len).filter(|x| x % 2 == 0), &mut out).unwrap();
                assert_eq!(out, (0..len).step_by(2).map(|x| x * 2).collect::<Vec<_>>(), "{kind:?}");
                assert_eq!((out.as_ptr(), out.capacity()), (memory, 100), "{kind:?}");
            }
            pool.map_into(|x| x, 0..1000, &mut out).unwrap();
            assert_eq!(out.len(), 1000);
        }
    });
}

#[test]
fn map_into_drops_what_was_there_and_leaves_nothing_after_an_error() {
    watchdog(20, || {
        for (kind, pool) in all_pools() {
            let drops = Drops::default();
            let mut out: Vec<_> = (0..10).map(|i| drops.make(i)).collect();
            pool.map_into(|i| drops.make(i), 0..5, &mut out).unwrap();
            assert_eq!(drops.alive(), 5, "{kind:?}");
            let failed = pool.map_into(
                |i| if i == 50 { panic!("{ON_PURPOSE}") } else { drops.make(i) },
                0..100,
                &mut out,
            );
            assert!(matches!(failed, Err(Error::Panicked(panic)) if panic.index() == Some(50)));
            assert!(out.is_empty(), "{kind:?}");
            drops.assert_each_once();
            out.push(drops.make(0));
            let refused = pool.chunksize(0).map_into(|i| drops.make(i), 0..5, &mut out);
            assert!(matches!(refused, Err(Error::InvalidArgument(_))));
            assert!(out.is_empty(), "{kind:?}");
            out.push(drops.make(0));
            pool.close();
            let refused = pool.map_into(|i| drops.make(i), 0..5, &mut out);
            assert!(matches!(refused, Err(Error::NotRunning)));
            assert!(out.is_empty(), "{kind:?}");
            drops.assert_each_once();
        }
    });
}

/// One that is to be replaced has another come in its place, also while others are still at the map.
#[test]
fn workers_that_are_replaced_are_as_many_at_a_map_async_to_its_end() {
    watchdog(60, || {
        for (workers, tasks) in [(2, 1), (2, 3), (3, 1), (3, 2)] {
            let pool = Kind::Replaced(workers, tasks).pool();
            let items = workers * fewer(30, 4);
            for collected in [true, false] {
                // So many items wait for one another, and those after them.
                let all = Arc::new(Barrier::new(workers));
                let meet = move |i: usize| {
                    all.wait();
                    i
                };
                let pool = pool.chunksize(1);
                let map = match collected {
                    true => pool.map_async(meet, (0..items).collect::<Vec<_>>()),
                    false => pool.map_async(meet, (0..items).filter(|_| true)),
                };
                assert!(map.get().unwrap().into_iter().eq(0..items), "{workers}, {tasks}");
            }
        }
    });
}
