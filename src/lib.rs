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
//! Rayon makes loops over collections parallel. This crate adds what a pool is besides that:
//! handles for work that goes on by itself, callbacks, timeouts, state for each worker, and an end
//! that one can wait for. The words are those of Python's `Pool`, in snake case.
//!
//! Whatever happens, each accepted call has exactly one outcome: a value, or an [`Error`] that says
//! why there is none. A task, a callback or an initializer that panics, a pool that is terminated,
//! an input that ends early: none of these makes a `get`, `wait` or `join` hang.
//!
//! # The verbs
//!
//! | | returns | |
//! |---|---|---|
//! | [`map`](Pool::map) | `Result<Vec<R>, Error>` | `f` of each item, in order |
//! | [`map_into`](Pool::map_into) | `Result<(), Error>` | the same into a `Vec` that is there |
//! | [`starmap`](Pool::starmap) | `Result<Vec<R>, Error>` | `f(a, b, …)` of each tuple, in order |
//! | [`try_map`](Pool::try_map) | `Result<Vec<R>, TryError<E>>` | `f` may fail; the first error |
//! | [`reduce`](Pool::reduce) | `Result<Option<R>, Error>` | `f` of each item, folded with `op` |
//! | [`sum`](Pool::sum) | `Result<R, Error>` | `f` of each item, added up |
//! | [`apply`](Pool::apply) | `Result<R, Error>` | one call |
//! | [`map_async`](Pool::map_async) | `AsyncResult<Vec<R>>` | at once |
//! | [`starmap_async`](Pool::starmap_async) | `AsyncResult<Vec<R>>` | at once |
//! | [`apply_async`](Pool::apply_async) | `AsyncResult<R>` | at once |
//! | [`imap`](Pool::imap) | [`Imap`], an iterator | one `Result` for each item, in order, as they come |
//! | [`imap_unordered`](Pool::imap_unordered) | [`Imap`] | the same in any order |
//! | [`scope`](Pool::scope) | what its body does | handles and streams that may borrow |
//! | [`install`](Pool::install) | `Result<R, Error>` | rayon code on the pool's workers |
//! | [`as_completed`] | [`AsCompleted`], an iterator | the results of handles, as they come |
//!
//! The blocking verbs may borrow, closure and items both; the others own what they work on. Options
//! of a call go in front of it: [`pool.chunksize(64)`](Pool::chunksize),
//! [`pool.timeout(d)`](Pool::timeout). After [`pool.seed(n)`](Pool::seed) the closures get a [`Seed`] with
//! each item, for random numbers that do not depend on the workers. [`pool.progress(&p)`](Pool::progress) says how far
//! a call is, and [`pool.insights()`](Pool::insights) where the time of the last ones went. The free functions of the same names ([`map`](fn@map),
//! [`apply`], …) run on a [`global`] pool.
//!
//! # Inputs
//!
//! A map loops over any [`Iterable`]: a collection or a reference to one, an iterator that is
//! `Send`, a parallel iterator of rayon's.
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
//! Iterators are not collected first, the workers pull blocks from them; only a pool that replaces
//! its workers may have to know the length before it begins.
//!
//! # Errors and panics
//!
//! A panic of the closure is [`Error::Panicked`], with its message, its payload, and the index of
//! the item. The pool goes on. Of several items that fail, the one with the lowest index is
//! reported, in every run; items above it that have not begun are skipped. A closure that returns a
//! `Result` goes with [`try_map`](Pool::try_map).
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
//! An [`AsyncResult`] can be waited for, with and without a timeout, asked, cancelled, given
//! callbacks, and awaited: it is a [`Future`]. A timeout of the handle leaves
//! it as it was; a [timeout of the call](Pool::timeout) ends the call.
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
//! The package `parpool-mpi` has a pool of the ranks of an MPI job, with the same verbs: `parpool_mpi::MpiPool`.
//! The text `docs/cluster.md` leads there.
//!
//! # Lifecycle
//!
//! [`close`](Pool::close) takes no new work and finishes what was accepted.
//! [`terminate`](Pool::terminate) skips what has not begun and wakes everybody who waits; a task
//! that runs can ask [`is_cancelled`]. [`join`](Pool::join) waits until the threads are gone.
//! Dropping a pool closes and joins it; while unwinding from a panic it terminates and joins.
//!
//! The workers are set up with [`Pool::builder`]: how many, what each runs first, after how many
//! tasks it is replaced, what its thread is like. [`WorkerLocal`] keeps a value for each.
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
//! A task may use its own pool. A map in a task takes part in its work; a wait for a handle runs the task
//! that it waits for if nobody has begun it, and nothing else. So nested calls finish on a pool of one worker
//! too, and no wait makes tasks wait for each other that would not by themselves.
//!
//! Rayon code in a task (`par_iter`, `join`, `scope`) uses the pool's workers. Other tasks never run on top of
//! it: it may be mixed with waits for handles, and a lock held around it may be taken by other tasks. By *rayon code* of
//! other tasks it may not: rayon runs pieces of theirs on top of this one's wait. For the same reason
//! [`is_cancelled`] is for the task's own code; in rayon code ask the handle of [`current_task`].
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
//! All are off by default.
//!
//! * `futures`: `Imap::into_stream`, the results of a stream for async tasks.
//! * `indicatif`: `Progress::bar`, a bar in the terminal.
//! * `ndarray`: `Pool::map_rows` and its siblings, maps over arrays into arrays.
//! * `pin`: [`Context`] gets `pin_to_cores`, which binds each worker to one core.
//! * `rand`: `Seed::rng`, a random generator for each item.
//! * `tracing`: the span that is current where a call is made is entered around its tasks, and each chunk
//!   is in a span of its own, `chunk`, with its `index` and `size`.
//!
//! # When not to use it
//!
//! * All you need is a parallel iterator: use [rayon]. Filters, sorts and chains of adaptors are its trade.
//! * The tasks wait for a network: a worker is a thread, and one that waits is one less. An async
//!   runtime is made for that, and can await the results of a pool.
//! * The tasks must be killed or isolated: a thread can be asked to stop, not forced to, and what
//!   aborts the process takes everything along.
//! * The tasks take much less than a microsecond and are submitted one by one: give them to a map,
//!   which hands them out in blocks.
//!
//! # Where to look in the source
//!
//! `pool/pool.rs` is the signatures and the promises, `pool/options.rs` what the verbs do. `scheduler/shared.rs` has
//! the lifecycle, `scheduler/runners.rs` who runs what is queued, `scheduler/threads.rs` all that touches rayon's threads,
//! `map/engine.rs` the engine of the maps, `task/handle.rs` and `task/state.rs` the handles, `scheduler/park.rs` the one place
//! that blocks, `scheduler/worker.rs` what a wait on a worker may run, `raw/` the only `unsafe`. The reasons are
//! in `docs/design.md`, the tests of it all in `docs/reliability.md`; the other chapters of the book in
//! `docs` are for users.

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
