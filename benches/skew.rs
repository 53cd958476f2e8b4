//! `map` where a few neighbours hold all the work.
#![allow(missing_docs)] // criterion's macros

use std::hint::black_box;
use std::ops::Range;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use parpool::Pool;
use rayon::prelude::*;

const LEN: usize = 100_000;

/// Some arithmetic, `rounds` times.
fn work(rounds: u32) -> f64 {
    (0..rounds).fold(1.0, |sum, i| black_box(sum + f64::from(i).sqrt()))
}

fn skew(c: &mut Criterion) {
    let pool = Pool::new(None).unwrap();
    let rayon = rayon::ThreadPoolBuilder::new().build().unwrap();
    let items: Vec<usize> = (0..LEN).collect();
    let mut group = c.benchmark_group("skew");
    group.sample_size(10).throughput(Throughput::Elements(LEN as u64));
    let cases: [(&str, Range<usize>, u32); 4] = [
        ("first 8", 0..8, 500_000),
        ("middle 8", LEN / 2..LEN / 2 + 8, 500_000),
        ("last 8", LEN - 8..LEN, 500_000),
        ("last 1 %", LEN - LEN / 100..LEN, 4_000),
    ];
    for (name, expensive, rounds) in cases {
        let f = |i: &usize| work(if expensive.contains(i) { rounds } else { 0 });
        group.bench_function(BenchmarkId::new("serial", name), |b| {
            b.iter(|| items.iter().map(f).collect::<Vec<_>>());
        });
        group.bench_function(BenchmarkId::new("rayon", name), |b| {
            b.iter(|| rayon.install(|| items.par_iter().map(f).collect::<Vec<_>>()));
        });
        group.bench_function(BenchmarkId::new("parpool", name), |b| {
            b.iter(|| pool.map(f, &items).unwrap());
        });
    }
    group.finish();
}

criterion_group!(benches, skew);
criterion_main!(benches);
