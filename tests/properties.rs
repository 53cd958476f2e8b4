//! Random inputs against the serial map: values, errors, drops and chunks.

mod common;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::{self, ThreadId};
use std::time::{Duration, Instant};

use parpool::{Error, Pool, TryError, WorkerId, current_worker};
use proptest::prelude::*;
use rayon::iter::plumbing::{Consumer, Producer, ProducerCallback, UnindexedConsumer, bridge};
use rayon::prelude::*;

use common::{Counted, Drops, Kind, LONG, Liar, ON_PURPOSE, SLOW, STEP, fewer, shared_pools};

fn config(cases: u32) -> ProptestConfig {
    ProptestConfig {
        cases: fewer(cases as usize, 2) as u32,
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}

/// Mostly short, with the sizes around those of chunks in it.
fn lengths() -> impl Strategy<Value = usize> {
    prop_oneof![
        3 => 0..fewer(50, 8),
        1 => fewer(90, 8)..fewer(110, 16),
        1 => fewer(900, 16)..fewer(1100, 30),
    ]
}

fn chunksizes() -> impl Strategy<Value = Option<usize>> {
    prop::sample::select(vec![None, Some(1), Some(7), Some(20), Some(100), Some(1000)])
}

/// What a thread per chunk costs is too much for large inputs in small chunks.
fn is_cheap(kind: Kind, len: usize, size: Option<usize>) -> bool {
    !matches!(kind, Kind::Replaced(..)) || len / size.unwrap_or(100) < 60
}

fn cube(x: i64) -> i64 {
    x.wrapping_mul(x).wrapping_mul(x).wrapping_sub(1)
}

// ---- values --------------------------------------------------------------------------------------

/// All verbs over one input that may be owned, against the serial result.
macro_rules! owned {
    ($pool:expr, $size:expr, $expected:expr, $input:expr) => {
        let what = stringify!($input);
        let map = with_chunksize!($pool, $size, map(cube, $input));
        prop_assert_eq!(&map.unwrap(), $expected, "map, {}", what);
        let try_map = with_chunksize!($pool, $size, try_map(|x| Ok::<_, ()>(cube(x)), $input));
        prop_assert_eq!(&try_map.unwrap(), $expected, "try_map, {}", what);
        let later = with_chunksize!($pool, $size, map_async(cube, $input));
        prop_assert_eq!(&later.get().unwrap(), $expected, "map_async, {}", what);
    };
}

/// The blocking verbs over one input that borrows.
macro_rules! borrowed {
    ($pool:expr, $size:expr, $expected:expr, $input:expr) => {
        let what = stringify!($input);
        let map = with_chunksize!($pool, $size, map(|x| cube(*x), $input));
        prop_assert_eq!(&map.unwrap(), $expected, "map, {}", what);
        let mut out = vec![0; 7];
        with_chunksize!($pool, $size, map_into(|x| cube(*x), $input, &mut out)).unwrap();
        prop_assert_eq!(&out, $expected, "map_into, {}", what);
        let try_map = with_chunksize!($pool, $size, try_map(|x| Ok::<_, ()>(cube(*x)), $input));
        prop_assert_eq!(&try_map.unwrap(), $expected, "try_map, {}", what);
    };
}

proptest! {
    #![proptest_config(config(60))]

    #[test]
    fn maps_are_the_serial_map(
        xs in lengths().prop_flat_map(|len| prop::collection::vec(any::<i64>(), len)),
        size in chunksizes(),
        split in 0.0..1.0,
        hint in (0..2000_usize, prop::option::of(0..2000_usize)),
    ) {
        let expected: &Vec<i64> = &xs.iter().map(|x| cube(*x)).collect();
        for (kind, pool) in shared_pools() {
            if !is_cheap(kind, xs.len(), size) {
                continue;
            }
            owned!(pool, size, expected, xs.clone());
            owned!(pool, size, expected, xs.clone().into_iter());
            owned!(pool, size, expected, xs.clone().into_boxed_slice());
            owned!(pool, size, expected, VecDeque::from(xs.clone()));
            owned!(pool, size, expected, xs.clone().into_par_iter());
            let keep = |_: &i64| true;
            owned!(pool, size, expected, xs.clone().into_iter().filter(keep));
            #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
            let at = (split * xs.len() as f64) as usize;
            let (front, back) = (xs[..at].to_vec(), xs[at..].to_vec());
            owned!(pool, size, expected, front.clone().into_iter().chain(back.clone()));
            owned!(pool, size, expected, Liar(xs.clone().into_iter(), hint));
            owned!(pool, size, expected, Liar(xs.clone().into_iter(), (hint.0, Some(hint.0))));

            borrowed!(pool, size, expected, &xs);
            borrowed!(pool, size, expected, &xs[..]);
            borrowed!(pool, size, expected, xs.iter());
            borrowed!(pool, size, expected, xs.par_iter());
            borrowed!(pool, size, expected, &VecDeque::from(xs.clone()));
            borrowed!(pool, size, expected, front.iter().chain(&back));

            // A deque that goes round the end of its memory.
            let mut round = VecDeque::from(xs.clone());
            let turn = at.min(round.len());
            round.rotate_left(turn);
            for _ in 0..turn {
                let last = round.pop_back().expect("it was put there");
                round.push_front(last);
            }
            owned!(pool, size, expected, round.clone());
        }
    }

    #[test]
    fn more_inputs_are_the_serial_map(len in lengths(), size in chunksizes()) {
        let xs: Vec<i64> = (0..len as i64).collect();
        let expected: &Vec<i64> = &xs.iter().map(|x| cube(*x)).collect();
        for (kind, pool) in shared_pools() {
            if !is_cheap(kind, len, size) {
                continue;
            }
            owned!(pool, size, expected, 0..len as i64);
            owned!(pool, size, expected, (0..len as i64).rev().rev());

            let numbered = with_chunksize!(pool, size, map(
                |(i, x): (usize, &i64)| cube(*x) - i as i64,
                xs.par_iter().enumerate()
            ));
            let less: Vec<i64> = expected.iter().zip(0..).map(|(x, i)| x - i).collect();
            prop_assert_eq!(&numbered.unwrap(), &less);

            let mut changed = xs.clone();
            let change = |x: &mut i64| { *x = cube(*x); *x };
            let here = with_chunksize!(pool, size, map(change, &mut changed));
            prop_assert_eq!(&here.unwrap(), expected);
            prop_assert_eq!(&changed, expected);
            let mut changed = xs.clone();
            with_chunksize!(pool, size, map(change, &mut changed[..])).unwrap();
            prop_assert_eq!(&changed, expected);
            let mut changed = xs.clone();
            with_chunksize!(pool, size, map(change, changed.iter_mut())).unwrap();
            prop_assert_eq!(&changed, expected);

            let tree: BTreeMap<i64, i64> = xs.iter().map(|x| (*x, x * 3)).collect();
            let sums: Vec<i64> = xs.iter().map(|x| x * 4).collect();
            let here = with_chunksize!(pool, size, map(|(k, v)| k + v, &tree));
            prop_assert_eq!(&here.unwrap(), &sums);
            let later = with_chunksize!(pool, size, map_async(|(k, v)| k + v, tree));
            prop_assert_eq!(&later.get().unwrap(), &sums);
            let hash: HashMap<i64, i64> = xs.iter().map(|x| (*x, x * 3)).collect();
            let mut here = with_chunksize!(pool, size, map(|(k, v)| k + v, hash)).unwrap();
            here.sort_unstable();
            prop_assert_eq!(&here, &sums);

            let pairs: Vec<(i64, i64)> = xs.iter().map(|x| (*x, x + 1)).collect();
            let products: Vec<i64> = pairs.iter().map(|(a, b)| a * b).collect();
            let mul = |a: i64, b: i64| a * b;
            let here = with_chunksize!(pool, size, starmap(mul, pairs.clone()));
            prop_assert_eq!(&here.unwrap(), &products);
            let zipped = with_chunksize!(pool, size, starmap(mul, (0..len as i64).zip(1..)));
            prop_assert_eq!(&zipped.unwrap(), &products);
            let later = with_chunksize!(pool, size, starmap_async(mul, pairs));
            prop_assert_eq!(&later.get().unwrap(), &products);
        }
    }

    #[test]
    fn arrays_and_results_of_every_size(x in any::<u8>(), size in chunksizes()) {
        for (_, pool) in shared_pools() {
            let array: [u8; 33] = std::array::from_fn(|i| x.wrapping_add(i as u8));
            let here = with_chunksize!(pool, size, map(|x| x.wrapping_mul(3), array));
            prop_assert_eq!(here.unwrap(), array.map(|x| x.wrapping_mul(3)));
            let here = with_chunksize!(pool, size, map(|x| x.wrapping_mul(3), &array));
            prop_assert_eq!(here.unwrap(), array.map(|x| x.wrapping_mul(3)));
            // Results of no size, of a large one, and with memory of their own.
            prop_assert_eq!(with_chunksize!(pool, size, map(|_| (), array)).unwrap().len(), 33);
            let large = with_chunksize!(pool, size, map(|x| [x; 200], array)).unwrap();
            prop_assert_eq!(large, array.map(|x| [x; 200]));
            let texts = with_chunksize!(pool, size, map(|x| x.to_string(), &array)).unwrap();
            prop_assert_eq!(texts, array.map(|x| x.to_string()));
        }
    }
}

// ---- errors --------------------------------------------------------------------------------------

proptest! {
    #![proptest_config(config(60))]

    #[test]
    fn of_several_failing_items_the_lowest_wins(
        len in lengths(),
        fails in prop::collection::btree_set(0..fewer(1100, 30), 1..8),
        panics in any::<bool>(),
        size in chunksizes(),
    ) {
        let lowest = fails.first().copied().filter(|lowest| *lowest < len);
        let fail = {
            let fails = fails.clone();
            move |i: usize| {
                let fails = fails.contains(&i);
                assert!(!(fails && panics), "{ON_PURPOSE}");
                if fails { Err(i) } else { Ok(i) }
            }
        };
        for (kind, pool) in shared_pools() {
            if !is_cheap(kind, len, size) {
                continue;
            }
            for (indexed, outcome) in [
                (false, with_chunksize!(pool, size, try_map(&fail, 0..len))),
                (true, with_chunksize!(pool, size, try_map(&fail, (0..len).collect::<Vec<_>>()))),
            ] {
                let found = match outcome {
                    Ok(values) => {
                        prop_assert!(values.into_iter().eq(0..len));
                        None
                    }
                    Err(TryError::Item { index, error }) => {
                        prop_assert_eq!(index, error);
                        prop_assert!(!panics);
                        Some(index)
                    }
                    Err(TryError::Pool(Error::Panicked(panic))) => {
                        prop_assert!(panics);
                        panic.index()
                    }
                    Err(other) => panic!("{other:?}"),
                };
                prop_assert_eq!(found, lowest, "{:?}, indexed: {}", kind, indexed);
            }
            if panics {
                let fail = fail.clone();
                let later = with_chunksize!(pool, size, map_async(fail, 0..len));
                match (later.get(), lowest) {
                    (Ok(values), None) => prop_assert_eq!(values.len(), len),
                    (Err(Error::Panicked(panic)), Some(_)) => {
                        prop_assert_eq!(panic.index(), lowest, "{:?}", kind);
                    }
                    (other, _) => panic!("{other:?}"),
                }
            }
        }
    }
}

/// How many items are enough to be shared again.
const SHARED: usize = fewer(3000, 40);

// ---- drops ---------------------------------------------------------------------------------------

proptest! {
    #![proptest_config(config(60))]

    #[test]
    fn every_input_and_result_is_dropped_once(
        len in lengths(),
        panics_at in prop::option::of(0..fewer(200, 20)),
        size in chunksizes(),
    ) {
        for (kind, pool) in shared_pools() {
            if !is_cheap(kind, len, size) {
                continue;
            }
            for input in 0..4 {
                let drops = Drops::default();
                let items: Vec<Counted> = (0..len).map(|i| drops.make(i)).collect();
                let captured = drops.make(7);
                let make = drops.clone();
                let f = move |x: Counted| {
                    assert!(Some(x.value()) != panics_at, "{ON_PURPOSE}");
                    make.make(x.value() + captured.value())
                };
                let result = match input {
                    0 => with_chunksize!(pool, size, map(f, items)),
                    // Of unknown length.
                    1 => with_chunksize!(pool, size, map(f, items.into_iter().filter(|_| true))),
                    // Fewer than it says.
                    2 => {
                        let liar = Liar(items.into_iter(), (len + 5, Some(len + 5)));
                        with_chunksize!(pool, size, map(f, liar))
                    }
                    _ => with_chunksize!(pool, size, map_async(f, items)).get(),
                };
                let fails = panics_at.is_some_and(|at| at < len);
                prop_assert_eq!(result.is_err(), fails, "{:?}", kind);
                match result {
                    Ok(values) => {
                        prop_assert_eq!(drops.alive(), len, "{:?}, {}: the results", kind, input);
                        let expected = (0..len).map(|i| i + 7);
                        prop_assert!(values.iter().map(Counted::value).eq(expected));
                    }
                    Err(_) => prop_assert_eq!(drops.alive(), 0, "{:?}, {}", kind, input),
                }
                drops.assert_each_once();
            }
        }
    }

    #[test]
    fn a_panicking_input_leaks_nothing(
        len in 1..fewer(300, 20),
        at in 0..fewer(300, 20),
        sized in any::<bool>(),
        size in chunksizes(),
    ) {
        for (kind, pool) in shared_pools() {
            if !is_cheap(kind, len, size) {
                continue;
            }
            for waits in [true, false] {
                let drops = Drops::default();
                let make = drops.clone();
                let input = (0..len).map(move |i| {
                    assert!(i != at, "{ON_PURPOSE}");
                    make.make(i)
                });
                let hint = if sized { (len, Some(len)) } else { (0, None) };
                let input = Liar(input, hint);
                let make = drops.clone();
                let f = move |x: Counted| make.make(x.value());
                let result = match waits {
                    true => with_chunksize!(pool, size, map(f, input)),
                    false => with_chunksize!(pool, size, map_async(f, input)).get(),
                };
                prop_assert_eq!(result.is_err(), at < len, "{:?}", kind);
                drop(result);
                drops.assert_each_once();
            }
        }
    }

    #[test]
    fn a_failing_item_in_try_map_leaks_nothing(
        len in lengths(),
        fails_at in 0..fewer(200, 20),
        size in chunksizes(),
    ) {
        for (kind, pool) in shared_pools() {
            if !is_cheap(kind, len, size) {
                continue;
            }
            let drops = Drops::default();
            let items: VecDeque<Counted> = (0..len).map(|i| drops.make(i)).collect();
            let f = |x: Counted| match x.value() {
                // The error is a value that is dropped once, too.
                value if value % 200 == fails_at => Err(drops.make(value)),
                value => Ok(drops.make(value)),
            };
            match with_chunksize!(pool, size, try_map(f, items)) {
                Ok(_) => prop_assert!(fails_at >= len),
                Err(TryError::Item { index, error }) => {
                    prop_assert_eq!((index, error.value()), (fails_at, fails_at), "{:?}", kind);
                    prop_assert_eq!(drops.alive(), 1);
                }
                Err(other) => panic!("{other:?}"),
            }
            drops.assert_each_once();
        }
    }

    /// Blocks that turn out dear are given back half done, and shared again by all.
    #[test]
    fn what_is_shared_again_is_done_and_dropped_once(
        dear in prop::collection::btree_set(0..SHARED, 1..4),
        neighbours in 1..6_usize,
        panics_at in prop::option::of(0..SHARED),
    ) {
        for (kind, pool) in shared_pools() {
            for known in [true, false] {
                let drops = Drops::default();
                let items: Vec<Counted> = (0..SHARED).map(|i| drops.make(i)).collect();
                let f = |x: Counted| {
                    let i = x.value();
                    if dear.range(..=i).next_back().is_some_and(|first| i < first + neighbours) {
                        thread::sleep(Duration::from_micros(100));
                    }
                    assert!(Some(i) != panics_at, "{ON_PURPOSE}");
                    drops.make(i)
                };
                let result = match known {
                    true => pool.map(f, items),
                    false => pool.map(f, items.into_iter().filter(|_| true)),
                };
                match (result, panics_at) {
                    (Ok(values), None) => {
                        prop_assert!(values.iter().map(Counted::value).eq(0..SHARED), "{:?}", kind);
                    }
                    (Err(Error::Panicked(panic)), Some(_)) => {
                        prop_assert_eq!(panic.index(), panics_at, "{:?}", kind);
                        prop_assert_eq!(drops.alive(), 0);
                    }
                    (other, _) => panic!("{kind:?}: {:?}", other.map(|values| values.len())),
                }
                drops.assert_each_once();
            }
        }
    }

    #[test]
    fn what_times_out_leaks_nothing(len in fewer(50, 21)..fewer(300, 30), size in chunksizes()) {
        for (kind, pool) in shared_pools() {
            if !is_cheap(kind, len, size) {
                continue;
            }
            let drops = Drops::default();
            let items: Vec<Counted> = (0..len).map(|i| drops.make(i)).collect();
            let f = |x: Counted| {
                if x.value() == 20 {
                    thread::sleep(Duration::from_millis(2));
                }
                drops.make(x.value())
            };
            let options = pool.timeout(Duration::from_millis(1));
            let result = with_chunksize!(options, size, map(f, items));
            prop_assert!(matches!(result, Err(Error::DeadlineExceeded)), "{:?}", kind);
            prop_assert_eq!(drops.alive(), 0);
            drops.assert_each_once();
            prop_assert_eq!(pool.timeout(LONG).map(|x| x, 0..3).unwrap(), [0, 1, 2]);
        }
    }
}

// ---- chunks --------------------------------------------------------------------------------------

/// Who ran an item.
type Who = (ThreadId, Option<WorkerId>);

fn who() -> Who {
    // Long enough for others to come and take part.
    std::hint::black_box((0..50).sum::<u32>());
    (thread::current().id(), current_worker())
}

proptest! {
    #![proptest_config(config(60))]

    #[test]
    fn a_chunk_is_run_by_one_worker(len in lengths(), size in 1..50_usize) {
        for (kind, pool) in shared_pools() {
            if !is_cheap(kind, len, Some(size)) {
                continue;
            }
            let options = pool.chunksize(size);
            let xs: Vec<usize> = (0..len).collect();
            for ran in [
                options.map(|_| who(), &xs),
                options.map(|_| who(), 0..len),
                options.map(|_| who(), xs.iter().filter(|_| true)),
                options.map(|_| who(), Liar(xs.iter(), (len.div_ceil(2), Some(len.div_ceil(2))))),
                options.map(|_| who(), Liar(xs.iter(), (len * 2, Some(len * 2)))),
                options.map(|_| who(), xs.par_iter()),
                options.map_async(|_| who(), 0..len).get(),
                options.map_async(|_| who(), xs.clone()).get(),
            ] {
                let ran = ran.unwrap();
                prop_assert_eq!(ran.len(), len);
                for chunk in ran.chunks(size) {
                    prop_assert!(chunk.iter().all(|who| *who == chunk[0]), "{:?}: {:?}", kind, chunk);
                }
            }
        }
    }
}

// ---- parallel inputs -----------------------------------------------------------------------------

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
        let (at, message) = common::panicked(result);
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
                assert!(common::eventually(|| drops.alive() == 0));
                drops.assert_each_once();
            }
        }
        assert_eq!(pool.map(|x| x, 0..3).unwrap(), [0, 1, 2]);
    }
}

/// The user's code in an input: what it throws is the call's error.
#[test]
fn a_parallel_iterator_may_panic_anywhere() {
    for (kind, pool) in shared_pools() {
        for size in [None, Some(1), Some(7)] {
            for place in [Place::Len, Place::Lend, Place::Split, Place::Begin, Place::Next] {
                let input = || Thrower(place, fewer(100, 10));
                let result = with_chunksize!(pool, size, map(|x| x, input()));
                assert_eq!(common::panicked(result).1, ON_PURPOSE, "{kind:?}, {size:?}, {place:?}");
                let result = with_chunksize!(pool, size, sum(|x| x, input()));
                assert_eq!(common::panicked(result).1, ON_PURPOSE, "{kind:?}, {size:?}, {place:?}");
                // Where workers are replaced it is looped over in one piece.
                if !(place == Place::Split && matches!(kind, Kind::Replaced(..))) {
                    let result = with_chunksize!(pool, size, map_async(|x| x, input())).get();
                    let message = common::panicked(result).1;
                    assert_eq!(message, ON_PURPOSE, "{kind:?}, {size:?}, {place:?}");
                }
                let mut out = vec![7];
                let result = with_chunksize!(pool, size, map_into(|x| x, input(), &mut out));
                assert_eq!(common::panicked(result).1, ON_PURPOSE, "{kind:?}, {size:?}, {place:?}");
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
