//! `map` over uniform work: the loop, rayon, and this crate.
#![allow(missing_docs)] // criterion's macros

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use parpool::Pool;
use rayon::prelude::*;

fn map(c: &mut Criterion) {
    let pool = Pool::new(None).unwrap();
    let rayon = rayon::ThreadPoolBuilder::new().build().unwrap();
    let f = |x: &f64| x.sqrt() * x.sin();
    let mut group = c.benchmark_group("map");
    group.sample_size(10);
    for len in [1_000_u32, 10_000, 100_000, 1_000_000] {
        let xs: Vec<f64> = (0..len).map(f64::from).collect();
        group.throughput(Throughput::Elements(u64::from(len)));
        group.bench_function(BenchmarkId::new("serial", len), |b| {
            b.iter(|| xs.iter().map(f).collect::<Vec<_>>());
        });
        group.bench_function(BenchmarkId::new("rayon", len), |b| {
            b.iter(|| rayon.install(|| xs.par_iter().map(f).collect::<Vec<_>>()));
        });
        group.bench_function(BenchmarkId::new("parpool", len), |b| {
            b.iter(|| pool.map(f, &xs).unwrap());
        });
        group.bench_function(BenchmarkId::new("parpool, iterator", len), |b| {
            b.iter(|| pool.map(f, xs.iter()).unwrap());
        });
        group.bench_function(BenchmarkId::new("parpool, chunks of 1000", len), |b| {
            b.iter(|| pool.chunksize(1000).map(f, &xs).unwrap());
        });
    }
    group.finish();
}

criterion_group!(benches, map);
criterion_main!(benches);
