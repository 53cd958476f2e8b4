//! The contenders' pools, and how each of them does the same map over a slice.

use std::cell::RefCell;
use std::time::Duration;

use paralight::threads::{CpuPinningPolicy, RangeStrategy};
use parpool::{Context, Pool};

/// A pool of each kind, all of the same size. Those that do not race are asleep.
pub struct Peers {
    pub workers: usize,
    pub parpool: Pool,
    pub pinned: Pool,
    pub rayon: rayon::ThreadPool,
    paralight: RefCell<paralight::threads::ThreadPool>,
    pub rusty: rusty_pool::ThreadPool,
    pub threadpool: threadpool::ThreadPool,
}

/// What a map makes: `Default` for those that write into a finished `Vec`.
pub trait Output: Clone + Default + PartialEq + Send + Sync {}
impl<R: Clone + Default + PartialEq + Send + Sync> Output for R {}

pub fn rayon_pool(workers: usize) -> rayon::ThreadPool {
    rayon::ThreadPoolBuilder::new().num_threads(workers).build().unwrap()
}

pub fn rusty_pool(workers: usize) -> rusty_pool::ThreadPool {
    rusty_pool::ThreadPool::new(workers, workers, Duration::from_secs(60))
}

impl Peers {
    pub fn new(workers: usize) -> Self {
        let pinned = Pool::builder().processes(workers).context(Context::threads().pin_to_cores());
        let paralight = paralight::threads::ThreadPoolBuilder {
            num_threads: workers.try_into().unwrap(),
            range_strategy: RangeStrategy::WorkStealing,
            cpu_pinning: CpuPinningPolicy::No,
        };
        Peers {
            workers,
            parpool: Pool::new(workers).unwrap(),
            pinned: pinned.build().unwrap(),
            rayon: rayon_pool(workers),
            paralight: RefCell::new(paralight.build()),
            rusty: rusty_pool(workers),
            threadpool: threadpool::ThreadPool::new(workers),
        }
    }

    pub fn rayon_sum<T: Sync>(&self, f: impl Fn(&T) -> f64 + Send + Sync, xs: &[T]) -> f64 {
        use rayon::prelude::*;
        self.rayon.install(|| xs.par_iter().map(f).sum())
    }

    pub fn rayon_map<T: Sync, R: Output>(
        &self,
        f: impl Fn(&T) -> R + Copy + Send + Sync,
        xs: &[T],
    ) -> Vec<R> {
        use rayon::prelude::*;
        let mut results = Vec::new();
        self.rayon.install(|| xs.par_iter().map(f).collect_into_vec(&mut results));
        results
    }

    /// Chunks of a set size, with rayon.
    pub fn chunked_map<T: Sync, R: Output>(
        &self,
        f: impl Fn(&T) -> R + Copy + Send + Sync,
        xs: &[T],
        size: usize,
    ) -> Vec<R> {
        use rayon::prelude::*;
        let mut results = vec![R::default(); xs.len()];
        self.rayon.install(|| {
            let chunks = results.par_chunks_mut(size).zip(xs.par_chunks(size));
            chunks.for_each(|(results, xs)| fill(f, xs, results));
        });
        results
    }

    /// Python's pool has four chunks for each worker, and nobody shares one out again.
    pub fn python_map<T: Sync, R: Output>(
        &self,
        f: impl Fn(&T) -> R + Copy + Send + Sync,
        xs: &[T],
    ) -> Vec<R> {
        self.chunked_map(f, xs, xs.len().div_ceil(4 * self.workers))
    }

    /// A part for each of so many threads, the caller's among them.
    pub fn scoped_map<T: Sync, R: Output>(
        &self,
        f: impl Fn(&T) -> R + Copy + Send + Sync,
        xs: &[T],
    ) -> Vec<R> {
        let mut results = vec![R::default(); xs.len()];
        let size = xs.len().div_ceil(self.workers);
        let mut parts = xs.chunks(size).zip(results.chunks_mut(size));
        std::thread::scope(|s| {
            let own = parts.next();
            for (xs, results) in parts {
                s.spawn(move || fill(f, xs, results));
            }
            if let Some((xs, results)) = own {
                fill(f, xs, results);
            }
        });
        results
    }

    /// It never uses more threads than there are cores.
    pub fn orx_map<T: Sync, R: Output>(
        &self,
        f: impl Fn(&T) -> R + Copy + Send + Sync,
        xs: &[T],
    ) -> Vec<R> {
        use orx_parallel::{IntoParIter, Par};
        xs.into_par().num_threads(self.workers).map(f).collect()
    }

    pub fn paralight_map<T: Sync, R: Output>(
        &self,
        f: impl Fn(&T) -> R + Copy + Send + Sync,
        xs: &[T],
    ) -> Vec<R> {
        use paralight::prelude::*;
        let mut results = vec![R::default(); xs.len()];
        (results.par_iter_mut(), xs.par_iter())
            .zip_eq()
            .with_thread_pool(&mut *self.paralight.borrow_mut())
            .for_each(|(result, x)| *result = f(x));
        results
    }
}

fn fill<T, R>(f: impl Fn(&T) -> R, xs: &[T], results: &mut [R]) {
    for (x, result) in xs.iter().zip(results) {
        *result = f(x);
    }
}
