//! The rows of `benches/python/compare.py`, run here: a name, a tab, and a number.
//!
//! A number is × the ideal, or the seconds of one item.

use std::hint::black_box;
use std::time::{Duration, Instant};

use parpool::Pool;

use crate::Bench;
use crate::work::spin;

pub fn print(bench: &Bench) {
    let pool = &bench.peers.parpool;
    let steps = |micros| bench.clock.steps(Duration::from_micros(micros));
    let work = |name: &str, xs: &[u32]| {
        let took = time(|| pool.map(|steps: &u32| spin(*steps), xs).unwrap());
        println!("{name}\t{}", took / ideal(bench, xs));
    };
    let item = |name: &str, items: u32, took: f64| println!("{name}\t{}", took / f64::from(items));

    work("map, 1e4 × 10 µs", &vec![steps(10); 10_000]);
    work("map, last 1 % of 1e5", &[vec![0; 99_000], vec![steps(100); 1000]].concat());
    work("map, first 8 of 1e5", &[vec![steps(12_500); 8], vec![0; 99_992]].concat());
    let tiny = 100_000;
    item("map, 1e5 × `x·x`", tiny, time(|| pool.map(|x: u64| x * x, 0..u64::from(tiny)).unwrap()));
    let squares = || pool.imap(|x: u64| x * x, 0..10_000).map(Result::unwrap).collect::<Vec<_>>();
    item("imap, 1e4 × `x·x`", 10_000, time(squares));
    let xs = vec![steps(100); 2000];
    let took = time(|| pool.imap(spin, xs.clone()).map(Result::unwrap).collect::<Vec<_>>());
    println!("imap, 2000 × 100 µs\t{}", took / ideal(bench, &xs));
    let tasks = 5000;
    item("apply_async and get, 5000", tasks, time(|| bench.peers.parpool_tasks(tasks, tasks)));
    let workers = bench.peers.workers;
    let start = || Pool::new(workers).unwrap().apply(|| 1, ()).unwrap();
    item("start, one call, join", 1, time(start));
}

/// The seconds of a loop, shared out evenly.
fn ideal(bench: &Bench, xs: &[u32]) -> f64 {
    let looped = time(|| xs.iter().map(|steps| spin(*steps)).collect::<Vec<_>>());
    looped / bench.peers.workers as f64
}

fn time<R>(call: impl FnOnce() -> R) -> f64 {
    let start = Instant::now();
    black_box(call());
    start.elapsed().as_secs_f64()
}
