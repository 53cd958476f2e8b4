//! Tasks with handles, and one call at a time; beside rayon's `spawn` without any result.
#![allow(missing_docs)] // criterion's macros

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use parpool::Pool;

fn submit(c: &mut Criterion) {
    let pool = Pool::new(None).unwrap();
    let rayon = rayon::ThreadPoolBuilder::new().build().unwrap();
    let mut group = c.benchmark_group("submit");
    group.sample_size(10);
    for tasks in [1_000_u32, 100_000] {
        group.throughput(Throughput::Elements(u64::from(tasks)));
        group.bench_function(BenchmarkId::new("rayon spawn, no result", tasks), |b| {
            b.iter(|| {
                let (done, ended) = crossbeam_channel::bounded(1);
                let left = Arc::new(AtomicU32::new(tasks));
                for _ in 0..tasks {
                    let (done, left) = (done.clone(), Arc::clone(&left));
                    rayon.spawn(move || {
                        if left.fetch_sub(1, Ordering::AcqRel) == 1 {
                            done.send(()).unwrap();
                        }
                    });
                }
                ended.recv().unwrap();
            });
        });
        group.bench_function(BenchmarkId::new("apply_async and get", tasks), |b| {
            b.iter(|| {
                let results: Vec<_> = (0..tasks).map(|i| pool.apply_async(move || i, ())).collect();
                results.into_iter().map(|result| result.get().unwrap()).max()
            });
        });
    }
    group.throughput(Throughput::Elements(1));
    group.bench_function("rayon install", |b| b.iter(|| rayon.install(|| 1)));
    group.bench_function("apply", |b| b.iter(|| pool.apply(|| 1, ()).unwrap()));
    group.finish();
}

criterion_group!(benches, submit);
criterion_main!(benches);
