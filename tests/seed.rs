//! Random numbers that do not depend on who draws them.

mod common;

use std::collections::{BTreeSet, HashSet};

use parpool::{Pool, Seed, TryError};
use rayon::prelude::*;

use common::{all_pools, fewer, watchdog};

#[test]
fn each_item_has_the_seed_of_its_index_whatever_the_input_and_the_pool() {
    watchdog(60, || {
        let len = fewer(2000, 10);
        let expected: Vec<u64> = (0..len).map(|i| Seed::new(9, i as u64).number()).collect();
        let all: Vec<usize> = (0..len).collect();
        let f = |seed: Seed, _| seed.number();
        for (kind, pool) in all_pools() {
            let pool = pool.chunksize(7).seed(9);
            assert_eq!(pool.map(f, 0..len).unwrap(), expected, "{kind:?}");
            assert_eq!(pool.map(f, (0..len).filter(|_| true)).unwrap(), expected, "{kind:?}");
            assert_eq!(pool.map(|seed, _| seed.number(), &all).unwrap(), expected, "{kind:?}");
            assert_eq!(pool.map(f, all.clone()).unwrap(), expected, "{kind:?}");
            let parallel = all.par_iter().copied();
            assert_eq!(pool.map(f, parallel).unwrap(), expected, "{kind:?}");
            let set: BTreeSet<usize> = all.iter().copied().collect();
            assert_eq!(pool.map(f, set).unwrap(), expected, "{kind:?}");
            assert_eq!(pool.map_async(f, 0..len).get().unwrap(), expected, "{kind:?}");
            assert_eq!(pool.map_async(f, all.clone()).get().unwrap(), expected, "{kind:?}");
            let streamed: Result<Vec<_>, _> = pool.imap(f, 0..len).collect();
            assert_eq!(streamed.unwrap(), expected, "{kind:?}");
            let streamed: Result<HashSet<_>, _> = pool.imap_unordered(f, 0..len).collect();
            assert_eq!(streamed.unwrap(), expected.iter().copied().collect(), "{kind:?}");
            let largest = pool.reduce(f, u64::max, 0..len).unwrap();
            assert_eq!(largest, expected.iter().copied().max(), "{kind:?}");
            let ones = pool.sum(|seed, _| seed.number().count_ones(), &all).unwrap();
            assert_eq!(ones, expected.iter().map(|n| n.count_ones()).sum::<u32>(), "{kind:?}");
            let odd = |seed: Seed, _| match seed.number() % 2 {
                1 => Ok(()),
                _ => Err(seed.number()),
            };
            let first = expected.iter().position(|n| n % 2 == 0).unwrap();
            let Err(TryError::Item { index, error }) = pool.try_map(odd, 0..len) else {
                panic!("{kind:?}: all are odd");
            };
            assert_eq!((index, error), (first, expected[first]), "{kind:?}");
        }
    });
}

/// Somebody has results that were made with them.
#[test]
fn the_numbers_are_the_same_in_every_version() {
    assert_eq!(Seed::new(0, 0).number(), NUMBERS[0]);
    assert_eq!(Seed::new(0, 1).number(), NUMBERS[1]);
    assert_eq!(Seed::new(u64::MAX, 12_345).number(), NUMBERS[2]);
    assert_eq!(Seed::new(1, 2).bytes(), BYTES);
}

const NUMBERS: [u64; 3] = [0xe220a8397b1dcdaf, 0x6e789e6aa1b965f4, 0xe4a35de0820f043f];
const BYTES: [u8; 12] = [18, 35, 143, 240, 80, 204, 192, 61, 31, 240, 33, 92];

#[test]
fn bytes_are_a_longer_piece_of_the_same_stream() {
    let [short, long] =
        [Seed::new(3, 4).bytes::<5>().to_vec(), Seed::new(3, 4).bytes::<64>().to_vec()];
    assert_eq!(long[..5], short);
}

#[test]
fn no_two_items_of_a_call_have_the_same_number_or_bytes() {
    let many = fewer(100_000, 100) as u64;
    let numbers: HashSet<u64> = (0..many).map(|index| Seed::new(5, index).number()).collect();
    assert_eq!(numbers.len() as u64, many);
    let bytes: HashSet<[u8; 16]> = (0..many).map(|index| Seed::new(5, index).bytes()).collect();
    assert_eq!(bytes.len() as u64, many);
}

/// Half of the bits of the one differ from those of the other.
#[test]
fn neighbours_have_nothing_in_common() {
    let count = fewer(20_000, 50) as u64;
    let differ = |pairs: &dyn Fn(u64) -> (Seed, Seed)| {
        let bits = (0..count).map(|i| {
            let (one, other) = pairs(i);
            let pairs = one.bytes::<32>().into_iter().zip(other.bytes::<32>());
            pairs.map(|(a, b)| u64::from((a ^ b).count_ones())).sum::<u64>()
        });
        bits.sum::<u64>() as f64 / (count * 256) as f64
    };
    // Six standard deviations.
    let most = 3.0 / ((count * 256) as f64).sqrt();
    for share in [
        differ(&|i| (Seed::new(1, i), Seed::new(1, i + 1))),
        differ(&|i| (Seed::new(i, 1), Seed::new(i + 1, 1))),
        differ(&|i| (Seed::new(i, i + 1), Seed::new(i + 1, i))),
        differ(&|i| (Seed::new(0, i), Seed::new(0, i ^ (1 << 63)))),
    ] {
        assert!((share - 0.5).abs() < most, "{share}");
    }
}

#[cfg(feature = "rand")]
#[test]
fn a_monte_carlo_run_has_the_same_digits_on_any_number_of_workers() {
    use rand::RngExt;
    use rand::rngs::ChaCha8Rng;

    watchdog(60, || {
        let draws = fewer(2000, 8) as u32;
        let run = |workers| {
            let pool = Pool::new(workers).unwrap();
            let draw = |seed: Seed, _| {
                let mut rng: ChaCha8Rng = seed.rng();
                (0..100).map(|_| rng.random::<f64>()).sum::<f64>()
            };
            pool.seed(1).sum(draw, 0..draws).unwrap()
        };
        let one = run(1);
        assert!((one / f64::from(draws) - 50.0).abs() < 3.0);
        for workers in [2, 3, 8] {
            assert_eq!(run(workers).to_bits(), one.to_bits());
        }
    });
}

#[test]
fn a_seed_does_not_change_what_a_pool_refuses() {
    let pool = Pool::new(1).unwrap();
    pool.close();
    assert!(matches!(pool.seed(1).map(|_, x: i32| x, [1]), Err(parpool::Error::NotRunning)));
}
