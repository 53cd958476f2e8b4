//! Python's `multiprocessing.Pool` for Rust, on the threads of [rayon].
//!
//! ```
//! use parpool::Pool;
//!
//! let pool = Pool::new(4)?;
//! let xs = vec![1.0, 4.0, 9.0];
//! let roots = pool.map(|x: &f64| x.sqrt(), &xs)?; // was: xs.iter().map(..).collect()
//! assert_eq!(roots, [1.0, 2.0, 3.0]);
//! let answer = pool.apply_async(|a: i32, b: i32| a * b, (6, 7)); // returns at once
//! assert_eq!(answer.get()?, 42);
//! # Ok::<(), parpool::Error>(())
//! ```
//!
//! # Why
//!
//! Rayon makes loops over collections parallel. This crate adds the rest of a pool: handles for work
//! in the background, callbacks, timeouts, state for each worker, and a shutdown that you can wait
//! for. The names are those of Python's `Pool`, in snake case.
//!
//! Each accepted call has exactly one outcome: a value, or an [`Error`] that says why there is none.
//! If a task, a callback or an initializer panics, if the pool is terminated, or if an input ends
//! early, no `get`, `wait` or `join` hangs.
//!
//! The [book](https://docs.rs/crate/parpool/latest/source/docs/README.md), in the folder `docs` of the
//! repository and of the published crate, has a tutorial, recipes, pages for people who come from
//! Python, rayon or MATLAB, and measurements.
//!
//! # The methods
//!
//! | | returns | |
//! |---|---|---|
//! | [`map`](Pool::map) | `Result<Vec<R>, Error>` | `f` of each item, in order |
//! | [`map_into`](Pool::map_into) | `Result<(), Error>` | the same, into an existing `Vec` |
//! | [`starmap`](Pool::starmap) | `Result<Vec<R>, Error>` | `f(a, b, …)` of each tuple, in order |
//! | [`try_map`](Pool::try_map) | `Result<Vec<R>, TryError<E>>` | `f` may fail; the first error |
//! | [`reduce`](Pool::reduce) | `Result<Option<R>, Error>` | `f` of each item, combined with `op` |
//! | [`sum`](Pool::sum) | `Result<R, Error>` | `f` of each item, added up |
//! | [`apply`](Pool::apply) | `Result<R, Error>` | one call |
//! | [`map_async`](Pool::map_async) | `AsyncResult<Vec<R>>` | as `map`, but returns at once |
//! | [`starmap_async`](Pool::starmap_async) | `AsyncResult<Vec<R>>` | as `starmap`, but returns at once |
//! | [`apply_async`](Pool::apply_async) | `AsyncResult<R>` | as `apply`, but returns at once |
//! | [`imap`](Pool::imap) | [`Imap`], an iterator | one `Result` for each item, in order, each when it is ready |
//! | [`imap_unordered`](Pool::imap_unordered) | [`Imap`] | the same, in any order |
//! | [`scope`](Pool::scope) | the value of its body | handles and streams that may borrow |
//! | [`install`](Pool::install) | `Result<R, Error>` | rayon code on the pool's workers |
//! | [`as_completed`] | [`AsCompleted`], an iterator | the results of handles, each when it is ready |
//!
//! In the blocking methods, the closure and the items may borrow; in the others, they must own what
//! they use. Options of a call go in front of it: [`pool.chunksize(64)`](Pool::chunksize),
//! [`pool.timeout(d)`](Pool::timeout). After [`pool.seed(n)`](Pool::seed) the closures get a [`Seed`]
//! with each item, for random numbers that do not depend on the workers.
//! [`pool.progress(&p)`](Pool::progress) reports how far a call has got, and
//! [`pool.insights()`](Pool::insights) where the time of the last calls went. The free functions of the
//! same names ([`map`](fn@map), [`apply`], …) run on a [`global`] pool.
//!
//! # Inputs
//!
//! A map loops over any [`Iterable`]: a collection or a reference to one (also `&mut`), an iterator that
//! is `Send`, or an indexed parallel iterator of rayon 1.x.
//!
//! ```
//! use rayon::prelude::*;
//!
//! let pool = parpool::Pool::new(2)?;
//! let (xs, ys) = (vec![1, 2, 3], [4, 5, 6]);
//! assert_eq!(pool.map(|x| x * 2, &xs)?, [2, 4, 6]);
//! assert_eq!(pool.map(|i| i * i, 0..4)?, [0, 1, 4, 9]);
//! assert_eq!(pool.map(|(x, y)| x * y, xs.iter().zip(&ys))?, [4, 10, 18]);
//! assert_eq!(pool.map(|word| word.len(), "one three".split(' '))?, [3, 5]);
//! assert_eq!(pool.map(|(i, x)| i + x, ys.into_par_iter().enumerate())?, [4, 6, 8]);
//! # Ok::<(), parpool::Error>(())
//! ```
//!
//! Iterators are not collected first: the workers take blocks of items from them. Only a pool that
//! replaces its workers may have to know the length before it begins.
//!
//! # Errors and panics
//!
//! A panic of the closure is [`Error::Panicked`], with its message, its payload, and the index of
//! the item. The pool goes on. If several items fail, the one with the lowest index is reported, in
//! every run; items above it that have not begun are skipped. For a closure that returns a `Result`,
//! use [`try_map`](Pool::try_map).
//!
//! ```
//! use parpool::{Error, Pool};
//!
//! let pool = Pool::new(2)?;
//! let inverse = |x: i32| if x == 0 { panic!("division by zero") } else { 1.0 / f64::from(x) };
//! match pool.map(inverse, [1, 2, 0, 4, 0]) {
//!     Err(Error::Panicked(panic)) => {
//!         assert_eq!(panic.index(), Some(2));
//!         assert_eq!(panic.message(), "division by zero");
//!     }
//!     other => unreachable!("{other:?}"),
//! }
//! assert_eq!(pool.map(inverse, [1, 2])?, [1.0, 0.5]);
//! # Ok::<(), Error>(())
//! ```
//!
//! # Handles
//!
//! You can wait for an [`AsyncResult`] with and without a timeout, ask whether it is ready, cancel it,
//! give it callbacks, and await it: it is a [`Future`]. After a timeout of the handle you can wait
//! again; a [timeout of the call](Pool::timeout) ends the call.
//!
//! ```
//! use std::{sync::mpsc, time::Duration};
//! use parpool::{Error, Pool};
//!
//! let pool = Pool::new(2)?;
//! let (send, receive) = mpsc::channel();
//! let mut result = pool.apply_async(move || receive.recv().unwrap(), ());
//! assert!(matches!(result.get_timeout(Duration::from_millis(5)), Err(Error::Timeout)));
//! send.send("now").unwrap();
//! assert_eq!(result.get()?, "now");
//! # Ok::<(), Error>(())
//! ```
//!
//! # Past one machine
//!
//! The package `parpool-mpi` has a pool over the ranks of an MPI job, with the same methods:
//! `parpool_mpi::MpiPool`. The chapter `docs/cluster.md` of the book is about it.
//!
//! # Lifecycle
//!
//! [`close`](Pool::close) accepts no new work and finishes the accepted work.
//! [`terminate`](Pool::terminate) skips the work that has not begun and ends all waits; a running task
//! can ask [`is_cancelled`]. [`join`](Pool::join) waits until the threads are gone. Dropping a pool
//! closes and joins it; if a panic unwinds, it terminates and joins it.
//!
//! [`Pool::builder`] sets the number of workers, an initializer that each runs first, the number of
//! tasks after which a worker is replaced, and the properties of its thread. A [`WorkerLocal`] is one
//! value for each worker.
//!
//! ```
//! use parpool::{Pool, WorkerLocal};
//!
//! let scratch = WorkerLocal::new(|| Vec::with_capacity(1024));
//! let pool = Pool::builder().processes(2).max_tasks_per_child(100).build()?;
//! let sums = pool.map(|n: u64| scratch.with(|buffer| {
//!     buffer.clear();
//!     buffer.extend(0..n);
//!     buffer.iter().sum::<u64>()
//! }), [10, 100])?;
//! assert_eq!(sums, [45, 4950]);
//! # Ok::<(), parpool::Error>(())
//! ```
//!
//! # Waiting on a worker
//!
//! A task may use its own pool. A map in a task takes part in its own work. A wait for a handle runs
//! the awaited task if it has not begun, and no other task. So nested calls finish even on a pool with
//! one worker, and a wait never makes a task depend on another one that it does not wait for itself.
//!
//! Rayon code in a task (`par_iter`, `join`, `scope`) uses the pool's workers. Other tasks never run on
//! top of it, so it may be mixed with waits for handles, and other tasks may take a lock that is held
//! around it. But the *rayon code* of other tasks must not take that lock, because rayon may run a part
//! of their work on the thread that holds it. For the same reason [`is_cancelled`] is only for the
//! task's own code; in rayon code, ask the handle that [`current_task`] has returned before.
//!
//! ```
//! use std::sync::Arc;
//! use parpool::Pool;
//!
//! let pool = Arc::new(Pool::new(1)?);
//! let inner = Arc::clone(&pool);
//! let rows = pool.apply_async(move || {
//!     let row = |y: u32| inner.map(|x| x * y, 1..4).unwrap();
//!     inner.map(row, 1..3).unwrap()
//! }, ());
//! assert_eq!(rows.get()?, [[1, 2, 3], [2, 4, 6]]);
//! # Ok::<(), parpool::Error>(())
//! ```
//!
//! Two pools whose tasks wait for each other can still block each other, as two locks can.
//!
//! # Features
//!
//! All are off by default. If the compiler does not find one of these methods (error E0599), turn on
//! its feature, with `cargo add parpool --features indicatif` for example. The types of the crates in
//! the last column are part of the interface, so use the same version of them.
//!
//! | missing | feature | types of |
//! |---|---|---|
//! | `Imap::into_stream`, `ImapStream`: a stream for async tasks | `futures` | `futures-core` 0.3 |
//! | `Progress::bar`, `Progress::from(bar)`: a bar in the terminal | `indicatif` | `indicatif` 0.18 |
//! | `map_rows`, `map_rows_into`, `map_lanes`, `map_array`: maps over arrays into arrays | `ndarray` | `ndarray` 0.17 |
//! | `pin_to_cores` of a [`Context`]: each worker is bound to one core | `pin` | |
//! | `Seed::rng`: a random generator for each item | `rand` | `rand_core` 0.10, so `rand` 0.10 |
//! | the caller's span around its tasks, and a span `chunk` for each chunk, with `index` and `size` | `tracing` | |
//!
//! # When not to use it
//!
//! * All you need is a parallel iterator: use [rayon]. It is made for filters, sorts and chains of
//!   adaptors.
//! * The tasks wait for a network: a worker is a thread, and a worker that waits does no other work. An
//!   async runtime is made for that, and can await the results of a pool.
//! * The tasks must be killed or isolated: a thread can be asked to stop but not forced to, and whatever
//!   aborts the process ends all of them.
//! * The tasks take much less than a microsecond and are submitted one by one: give them to a map, which
//!   divides them into blocks.
//!
//! # The source
//!
//! `docs/design.md` has a map of the source and the reasons for it, and `docs/reliability.md` says how
//! it is tested.

// On docs.rs, each item says which feature it needs.
#![cfg_attr(docsrs, feature(doc_cfg))]

mod error;
mod input;
mod map;
mod numeric;
mod observe;
mod panic;
mod pool;
mod raw;
mod scheduler;
mod stream;
mod sync;
mod task;

pub use error::{Error, TryError};
pub use input::{Apply, Collection, Iterable, Parallel, Sequential, Star};
pub use numeric::{Seed, Seeded};
pub use observe::{Bottleneck, CallInsights, Insights, LongItems, Progress, WorkerInsights};
pub use panic::Panic;
pub use pool::{
    Builder, InitializerOutput, Options, Pool, Scope, apply, apply_async, global, imap,
    imap_unordered, install, map, map_async, map_into, reduce, scope, starmap, starmap_async, sum,
    try_map,
};
pub use scheduler::{
    Context, CurrentTask, WorkerId, WorkerLocal, current_task, current_worker, is_cancelled,
};
pub use stream::Imap;
#[cfg(feature = "futures")]
#[cfg_attr(docsrs, doc(cfg(feature = "futures")))]
pub use stream::ImapStream;
pub use task::{AsCompleted, AsyncResult, TaskHandle, as_completed};
