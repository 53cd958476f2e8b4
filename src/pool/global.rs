//! The pool that is there without being made: one worker for each core, started on first use.

use std::iter::Sum;
use std::sync::Arc;

use once_cell::sync::OnceCell;

use super::options::Options;
use super::pool::Pool;
use super::scope::Scope;
use crate::error::{Error, TryError};
use crate::input::{Apply, Iterable, Star};
use crate::scheduler::Shared;
use crate::stream::Imap;
use crate::task::{AsyncResult, refused};

/// The global pool, made on first use; the free functions of this crate run on it.
///
/// It is never dropped: when the process exits, its threads end as they are. What must be finished
/// has to be waited for.
///
/// # Errors
/// [`Start`](Error::Start) if its threads cannot be started; the next call tries again.
///
/// ```
/// let pool = parpool::global()?;
/// assert!(pool.processes() >= 1);
/// # Ok::<(), parpool::Error>(())
/// ```
pub fn global() -> Result<&'static Pool, Error> {
    // Of once_cell, for std's `OnceLock` has no fallible initialization yet.
    static POOL: OnceCell<Pool> = OnceCell::new();
    POOL.get_or_try_init(|| Pool::new(None))
}

/// The handle of a call that found no pool.
fn no_pool<T: Send + 'static>(error: Error) -> AsyncResult<T> {
    refused(&no_workers(), error)
}

fn no_workers() -> Arc<Shared> {
    Arc::new(Shared::new(usize::MAX, 1, None, None, String::new(), true))
}

fn stream<I, F, R>(ordered: bool, f: F, items: I) -> Imap<'static, I::IntoIter, R>
where
    I: IntoIterator<Item: Send + 'static>,
    F: Fn(I::Item) -> R + Send + Sync + 'static,
    R: Send + 'static,
{
    let items = items.into_iter();
    match global() {
        Ok(pool) => pool.options().stream(ordered, f, items),
        Err(error) => Options::new(&no_workers()).stream(ordered, f, items).refuse(error),
    }
}

/// [`Pool::map`] on the [`global`] pool.
///
/// # Errors
/// As [`Pool::map`] and [`global`].
///
/// ```
/// assert_eq!(parpool::map(|x| x * x, 0..4)?, [0, 1, 4, 9]);
/// # Ok::<(), parpool::Error>(())
/// ```
pub fn map<M, I, F, R>(f: F, items: I) -> Result<Vec<R>, Error>
where
    I: Iterable<M>,
    F: Fn(I::Item) -> R + Sync,
    R: Send,
{
    global()?.map(f, items)
}

/// [`Pool::map_into`] on the [`global`] pool.
///
/// # Errors
/// As [`Pool::map_into`] and [`global`].
///
/// ```
/// let mut squares = Vec::new();
/// parpool::map_into(|x| x * x, 0..4, &mut squares)?;
/// assert_eq!(squares, [0, 1, 4, 9]);
/// # Ok::<(), parpool::Error>(())
/// ```
pub fn map_into<M, I, F, R>(f: F, items: I, out: &mut Vec<R>) -> Result<(), Error>
where
    I: Iterable<M>,
    F: Fn(I::Item) -> R + Sync,
    R: Send,
{
    global().inspect_err(|_| out.clear())?.map_into(f, items, out)
}

/// [`Pool::starmap`] on the [`global`] pool.
///
/// # Errors
/// As [`Pool::starmap`] and [`global`].
///
/// ```
/// assert_eq!(parpool::starmap(i32::max, [(1, 2), (4, 3)])?, [2, 4]);
/// # Ok::<(), parpool::Error>(())
/// ```
pub fn starmap<M, I, F>(f: F, items: I) -> Result<Vec<F::Output>, Error>
where
    I: Iterable<M>,
    F: Star<I::Item, Output: Send> + Sync,
{
    global()?.starmap(f, items)
}

/// [`Pool::try_map`] on the [`global`] pool.
///
/// # Errors
/// As [`Pool::try_map`] and [`global`].
///
/// ```
/// let numbers = parpool::try_map(|s: &str| s.parse::<i32>(), ["1", "2"])?;
/// assert_eq!(numbers, [1, 2]);
/// # Ok::<(), parpool::TryError<std::num::ParseIntError>>(())
/// ```
pub fn try_map<M, I, F, R, E>(f: F, items: I) -> Result<Vec<R>, TryError<E>>
where
    I: Iterable<M>,
    F: Fn(I::Item) -> Result<R, E> + Sync,
    R: Send,
    E: Send,
{
    global()?.try_map(f, items)
}

/// [`Pool::reduce`] on the [`global`] pool.
///
/// # Errors
/// As [`Pool::reduce`] and [`global`].
///
/// ```
/// assert_eq!(parpool::reduce(|x| x, i32::max, [3, 5, 4])?, Some(5));
/// # Ok::<(), parpool::Error>(())
/// ```
pub fn reduce<M, I, F, G, R>(f: F, op: G, items: I) -> Result<Option<R>, Error>
where
    I: Iterable<M>,
    F: Fn(I::Item) -> R + Sync,
    G: Fn(R, R) -> R + Sync,
    R: Send,
{
    global()?.reduce(f, op, items)
}

/// [`Pool::sum`] on the [`global`] pool.
///
/// # Errors
/// As [`Pool::sum`] and [`global`].
///
/// ```
/// assert_eq!(parpool::sum(|x| x * x, 0..4)?, 14);
/// # Ok::<(), parpool::Error>(())
/// ```
pub fn sum<M, I, F, R>(f: F, items: I) -> Result<R, Error>
where
    I: Iterable<M>,
    F: Fn(I::Item) -> R + Sync,
    R: Sum<R> + Send,
{
    global()?.sum(f, items)
}

/// [`Pool::apply`] on the [`global`] pool.
///
/// # Errors
/// As [`Pool::apply`] and [`global`].
///
/// ```
/// assert_eq!(parpool::apply(i32::pow, (2, 10))?, 1024);
/// # Ok::<(), parpool::Error>(())
/// ```
pub fn apply<F, A>(f: F, args: A) -> Result<F::Output, Error>
where
    F: Apply<A, Output: Send> + Send,
    A: Send,
{
    global()?.apply(f, args)
}

/// [`Pool::map_async`] on the [`global`] pool; if that cannot be made, a handle that is the error.
///
/// ```
/// assert_eq!(parpool::map_async(|x| x + 1, 0..3).get()?, [1, 2, 3]);
/// # Ok::<(), parpool::Error>(())
/// ```
pub fn map_async<M, I, F, R>(f: F, items: I) -> AsyncResult<Vec<R>>
where
    I: Iterable<M> + Send + 'static,
    I::Item: 'static,
    F: Fn(I::Item) -> R + Send + Sync + 'static,
    R: Send + 'static,
{
    match global() {
        Ok(pool) => pool.map_async(f, items),
        Err(error) => no_pool(error),
    }
}

/// [`Pool::starmap_async`] on the [`global`] pool; if that cannot be made, a handle that is the error.
///
/// ```
/// assert_eq!(parpool::starmap_async(i32::min, [(1, 2), (4, 3)]).get()?, [1, 3]);
/// # Ok::<(), parpool::Error>(())
/// ```
pub fn starmap_async<M, I, F>(f: F, items: I) -> AsyncResult<Vec<F::Output>>
where
    I: Iterable<M> + Send + 'static,
    I::Item: 'static,
    F: Star<I::Item, Output: Send + 'static> + Send + Sync + 'static,
{
    match global() {
        Ok(pool) => pool.starmap_async(f, items),
        Err(error) => no_pool(error),
    }
}

/// [`Pool::apply_async`] on the [`global`] pool; if that cannot be made, a handle that is the error.
///
/// ```
/// assert_eq!(parpool::apply_async(i32::abs, (-5,)).get()?, 5);
/// # Ok::<(), parpool::Error>(())
/// ```
pub fn apply_async<F, A>(f: F, args: A) -> AsyncResult<F::Output>
where
    F: Apply<A, Output: Send + 'static> + Send + 'static,
    A: Send + 'static,
{
    match global() {
        Ok(pool) => pool.apply_async(f, args),
        Err(error) => no_pool(error),
    }
}

/// [`Pool::imap`] on the [`global`] pool. If that cannot be started, the stream is one error.
///
/// ```
/// let squares = parpool::imap(|x: u64| x * x, 0..4);
/// assert_eq!(squares.collect::<Result<Vec<_>, _>>()?, [0, 1, 4, 9]);
/// # Ok::<(), parpool::Error>(())
/// ```
pub fn imap<I, F, R>(f: F, items: I) -> Imap<'static, I::IntoIter, R>
where
    I: IntoIterator<Item: Send + 'static>,
    F: Fn(I::Item) -> R + Send + Sync + 'static,
    R: Send + 'static,
{
    stream(true, f, items)
}

/// [`Pool::imap_unordered`] on the [`global`] pool. If that cannot be started, the stream is one error.
///
/// ```
/// let mut squares = parpool::imap_unordered(|x: u64| x * x, 0..4).collect::<Result<Vec<_>, _>>()?;
/// squares.sort();
/// assert_eq!(squares, [0, 1, 4, 9]);
/// # Ok::<(), parpool::Error>(())
/// ```
pub fn imap_unordered<I, F, R>(f: F, items: I) -> Imap<'static, I::IntoIter, R>
where
    I: IntoIterator<Item: Send + 'static>,
    F: Fn(I::Item) -> R + Send + Sync + 'static,
    R: Send + 'static,
{
    stream(false, f, items)
}

/// [`Pool::scope`] on the [`global`] pool.
///
/// # Errors
/// [`Start`](Error::Start) if that cannot be started. The body's own outcome is its own.
///
/// ```
/// let lengths = parpool::scope(|s| s.map_async(|w: &str| w.len(), ["a", "bc"]).get())??;
/// assert_eq!(lengths, [1, 2]);
/// # Ok::<(), parpool::Error>(())
/// ```
pub fn scope<'env, F, R>(body: F) -> Result<R, Error>
where
    F: for<'scope> FnOnce(Scope<'scope, 'env>) -> R,
{
    Ok(global()?.scope(body))
}

/// [`Pool::install`] on the [`global`] pool.
///
/// # Errors
/// As there, and [`Start`](Error::Start).
///
/// ```
/// use rayon::prelude::*;
///
/// assert_eq!(parpool::install(|| (1..=4).into_par_iter().sum::<i32>())?, 10);
/// # Ok::<(), parpool::Error>(())
/// ```
pub fn install<F, R>(f: F) -> Result<R, Error>
where
    F: FnOnce() -> R + Send,
    R: Send,
{
    global()?.install(f)
}
