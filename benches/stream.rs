//! `imap` and `imap_unordered`, with items of different cost; beside the loop and rayon's own bridge.
#![allow(missing_docs)] // criterion's macros

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use parpool::Pool;
use rayon::prelude::*;

fn work(rounds: u32) -> u32 {
    (0..rounds).fold(0, |sum, i| black_box(sum ^ i))
}

fn stream(c: &mut Criterion) {
    let pool = Pool::new(None).unwrap();
    let rayon = rayon::ThreadPoolBuilder::new().build().unwrap();
    let mut group = c.benchmark_group("stream");
    group.sample_size(10);
    for (rounds, len) in [(0, 100_000_u32), (1_000, 20_000), (10_000, 2_000)] {
        let f = move |x: u32| x ^ work(rounds);
        let id = |name| BenchmarkId::new(name, format!("{rounds} rounds"));
        group.throughput(Throughput::Elements(u64::from(len)));
        group.bench_function(id("serial"), |b| b.iter(|| (0..len).map(f).map(black_box).count()));
        group.bench_function(id("rayon, par_bridge into a channel"), |b| {
            b.iter(|| {
                let (send, receive) = crossbeam_channel::bounded(1024);
                rayon.spawn(move || {
                    (0..len).par_bridge().for_each_with(send, |send, x| send.send(f(x)).unwrap());
                });
                receive.iter().map(black_box).count()
            });
        });
        group.bench_function(id("imap"), |b| {
            b.iter(|| pool.imap(f, 0..len).map(black_box).count());
        });
        group.bench_function(id("imap_unordered"), |b| {
            b.iter(|| pool.imap_unordered(f, 0..len).map(black_box).count());
        });
    }
    group.finish();
}

criterion_group!(benches, stream);
criterion_main!(benches);
