//! Starting a pool and joining it; beside rayon with join handles of its threads.
#![allow(missing_docs)] // criterion's macros

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use parpool::Pool;

fn lifecycle(c: &mut Criterion) {
    let mut group = c.benchmark_group("lifecycle");
    group.sample_size(10);
    for workers in [2, 8, 64] {
        group.bench_function(BenchmarkId::new("rayon", workers), |b| {
            b.iter(|| {
                let mut handles = Vec::new();
                let pool = rayon::ThreadPoolBuilder::new()
                    .num_threads(workers)
                    .spawn_handler(|thread| {
                        handles.push(std::thread::spawn(|| thread.run()));
                        Ok(())
                    })
                    .build()
                    .unwrap();
                drop(pool);
                handles.into_iter().for_each(|handle| handle.join().unwrap());
            });
        });
        group.bench_function(BenchmarkId::new("parpool", workers), |b| {
            b.iter(|| drop(Pool::new(workers).unwrap()));
        });
    }
    group.finish();
}

criterion_group!(benches, lifecycle);
criterion_main!(benches);
