//! `reduce` and `sum`: one value, the same on any number of workers.

mod common;

use std::time::Duration;

use parpool::{Context, Error, Pool};
use proptest::prelude::*;
use rayon::prelude::*;

use common::{Drops, Kind, ON_PURPOSE, all_pools, fewer, scaled, watchdog};

/// Numbers of all sizes. (No sine: Miri gives it other digits each time, as it may.)
fn wave(i: usize) -> f64 {
    ((i * 7919) % 1000) as f64 / (i as f64 + 0.1) - 0.5
}

/// Pools whose results must agree.
fn pools() -> Vec<Pool> {
    let mut pools: Vec<_> =
        [1, 2, 3, 8][..fewer(4, 2)].iter().map(|n| Pool::new(*n).unwrap()).collect();
    pools.push(Pool::builder().context(Context::serial()).build().unwrap());
    pools.push(Kind::Replaced(2, 3).pool());
    pools
}

#[test]
fn a_sum_has_the_same_digits_on_any_number_of_workers() {
    watchdog(60, || {
        for len in [0, 1, 2, 1000, 1023, 1024, 1025, 100_000]
            .into_iter()
            .filter(|len| !cfg!(miri) || *len == 1025)
        {
            let xs: Vec<f64> = (0..len).map(wave).collect();
            let digits = Pool::new(1).unwrap().sum(|x| *x, &xs).unwrap().to_bits();
            for pool in pools() {
                for _ in 0..fewer(20, 1) {
                    assert_eq!(pool.sum(|x| *x, &xs).unwrap().to_bits(), digits);
                    // An iterator that knows its length is cut at the same places.
                    assert_eq!(pool.sum(wave, 0..len).unwrap().to_bits(), digits);
                    let parallel = xs.par_iter().map(|x| *x);
                    assert_eq!(pool.sum(|x| x, parallel).unwrap().to_bits(), digits);
                }
            }
        }
    });
}

#[test]
fn a_sum_over_an_iterator_of_unknown_length_has_the_same_digits_too() {
    watchdog(60, || {
        let some = || (0..fewer(20_000, 120)).filter(|i| i % 3 > 0);
        let digits = Pool::new(1).unwrap().sum(wave, some()).unwrap().to_bits();
        for pool in pools() {
            for _ in 0..fewer(10, 1) {
                assert_eq!(pool.sum(wave, some()).unwrap().to_bits(), digits);
            }
        }
    });
}

#[test]
fn the_values_are_folded_in_order() {
    watchdog(60, || {
        for (kind, pool) in all_pools() {
            let join = |a: String, b: String| a + &b;
            for len in [0, 1, 10, scaled(5000)] {
                let expected = (0..len).map(|i| i.to_string()).reduce(join);
                let folded = pool.reduce(|i: usize| i.to_string(), join, 0..len);
                assert_eq!(folded.unwrap(), expected, "{kind:?}");
                let all: Vec<usize> = (0..len).collect();
                let folded = pool.reduce(|i: &usize| i.to_string(), join, &all);
                assert_eq!(folded.unwrap(), expected, "{kind:?}");
                let folded = pool.chunksize(7).reduce(|i| i.to_string(), join, all);
                assert_eq!(folded.unwrap(), expected, "{kind:?}");
            }
        }
    });
}

#[test]
fn nothing_is_none_and_the_sum_of_nothing_is_zero() {
    let pool = Pool::new(2).unwrap();
    assert_eq!(pool.reduce(|x: i32| x, |a, b| a + b, []).unwrap(), None);
    assert_eq!(pool.reduce(|x: i32| x, |a, b| a + b, std::iter::empty()).unwrap(), None);
    assert_eq!(pool.sum(|x: i32| x, []).unwrap(), 0);
    assert_eq!(pool.sum(|x: i32| x, std::iter::empty()).unwrap(), 0);
}

#[test]
fn a_panic_is_at_its_item_and_the_lowest_wins() {
    watchdog(60, || {
        let len = scaled(10_000);
        let (first, second) = (len / 2 + 1, len / 2 + 2);
        let f = |i: usize| {
            assert!(i != first && i < second, "{ON_PURPOSE}");
            i
        };
        let index = |result: Result<usize, Error>| match result {
            Err(Error::Panicked(panic)) => panic.index(),
            other => panic!("{other:?}"),
        };
        for (kind, pool) in all_pools() {
            let all: Vec<usize> = (0..len).collect();
            for chunk in [None, Some(1), Some(100), Some(len)] {
                let sum = |input: Input<'_>| match (chunk, input) {
                    (None, Input::Slice(all)) => pool.sum(|i| f(*i), all),
                    (None, Input::Range) => pool.sum(f, 0..len),
                    (None, Input::Filter) => pool.sum(f, (0..len).filter(|_| true)),
                    (Some(chunk), Input::Slice(all)) => pool.chunksize(chunk).sum(|i| f(*i), all),
                    (Some(chunk), Input::Range) => pool.chunksize(chunk).sum(f, 0..len),
                    (Some(chunk), Input::Filter) => {
                        pool.chunksize(chunk).sum(f, (0..len).filter(|_| true))
                    }
                };
                for input in [Input::Slice(&all), Input::Range, Input::Filter] {
                    assert_eq!(index(sum(input)), Some(first), "{kind:?} {chunk:?}");
                }
            }
        }
    });
}

#[derive(Clone, Copy)]
enum Input<'a> {
    Slice(&'a [usize]),
    Range,
    Filter,
}

#[test]
fn an_input_that_panics_is_an_error_at_the_item_it_was_about_to_make() {
    watchdog(20, || {
        for (kind, pool) in all_pools() {
            for at in [0, 1, 99] {
                let make = |i: usize| {
                    assert!(i != at, "{ON_PURPOSE}");
                    i
                };
                let (known, parallel) = ((0..100).map(make), (0..100).into_par_iter().map(make));
                for sum in [pool.sum(|i| i, known), pool.sum(|i| i, parallel)] {
                    let Err(Error::Panicked(panic)) = sum else { panic!("{kind:?}: {sum:?}") };
                    assert_eq!(panic.index(), Some(at), "{kind:?}");
                }
            }
        }
    });
}

#[test]
fn an_operation_that_panics_is_an_error() {
    watchdog(20, || {
        for (_, pool) in all_pools() {
            let op = |a: usize, b: usize| if b == 70 { panic!("{ON_PURPOSE}") } else { a + b };
            let folded = pool.chunksize(10).reduce(|i| i, op, 0..100);
            // Item 70 is the first of its chunk: the operation meets it between two chunks, summed up.
            assert!(folded.is_ok());
            let folded = pool.chunksize(8).reduce(|i| i, op, 0..100);
            let Err(Error::Panicked(panic)) = folded else { panic!("{folded:?}") };
            assert_eq!(panic.index(), Some(70));
            let folded = pool.chunksize(1).reduce(|i| i, op, 0..100);
            let Err(Error::Panicked(panic)) = folded else { panic!("{folded:?}") };
            assert_eq!(panic.index(), None);
        }
    });
}

#[test]
fn values_are_dropped_once_whatever_happens() {
    const LEN: usize = fewer(1000, 20);

    watchdog(20, || {
        for (_, pool) in all_pools() {
            for bad in [None, Some(3), Some(LEN / 2)] {
                let drops = Drops::default();
                let f = |i: usize| {
                    assert!(Some(i) != bad, "{ON_PURPOSE}");
                    drops.make(i)
                };
                let folded =
                    pool.reduce(f, |a, b| if a.value() > b.value() { a } else { b }, 0..LEN);
                match folded {
                    Ok(value) => assert_eq!(value.unwrap().value(), LEN - 1),
                    Err(_) => assert!(bad.is_some()),
                }
                drops.assert_each_once();
            }
        }
    });
}

#[test]
fn the_options_hold() {
    watchdog(20, || {
        let pool = Pool::new(2).unwrap();
        assert!(matches!(pool.chunksize(0).sum(|x: i32| x, [1]), Err(Error::InvalidArgument(_))));
        let late = pool.timeout(Duration::ZERO).sum(|x: u64| x, 0..);
        assert!(matches!(late, Err(Error::DeadlineExceeded)));
        pool.close();
        assert!(matches!(pool.sum(|x: i32| x, [1]), Err(Error::NotRunning)));
    });
}

proptest! {
    #[test]
    fn a_sum_of_integers_is_that_of_the_loop(
        xs in prop::collection::vec(any::<i64>(), 0..fewer(100, 8)),
        chunk in 1..50_usize,
        workers in 1..4_usize,
    ) {
        let pool = Pool::new(workers).unwrap();
        let expected = xs.iter().copied().reduce(i64::wrapping_add);
        prop_assert_eq!(pool.reduce(|x| *x, i64::wrapping_add, &xs).unwrap(), expected);
        let pool = pool.chunksize(chunk);
        prop_assert_eq!(pool.reduce(|x| *x, i64::wrapping_add, &xs).unwrap(), expected);
        prop_assert_eq!(pool.reduce(|x| *x, i64::wrapping_add, xs.iter()).unwrap(), expected);
        let some = xs.iter().filter(|_| true);
        prop_assert_eq!(pool.reduce(|x| *x, i64::wrapping_add, some).unwrap(), expected);
    }
}
