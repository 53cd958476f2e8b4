//! Random inputs against the serial map: values, errors, drops and chunks.

mod common;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::thread::{self, ThreadId};
use std::time::Duration;

use parpool::{Error, TryError, WorkerId, current_worker};
use proptest::prelude::*;
use rayon::prelude::*;

use common::{Counted, Drops, LONG, Liar, ON_PURPOSE, fewer, is_cheap, shared_pools};

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

    /// Blocks that turn out expensive are given back half done, and shared again by all.
    #[test]
    fn what_is_shared_again_is_done_and_dropped_once(
        expensive in prop::collection::btree_set(0..SHARED, 1..4),
        neighbours in 1..6_usize,
        panics_at in prop::option::of(0..SHARED),
    ) {
        for (kind, pool) in shared_pools() {
            for known in [true, false] {
                let drops = Drops::default();
                let items: Vec<Counted> = (0..SHARED).map(|i| drops.make(i)).collect();
                let f = |x: Counted| {
                    let i = x.value();
                    if expensive.range(..=i).next_back().is_some_and(|first| i < first + neighbours) {
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
