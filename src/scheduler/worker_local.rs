//! State that is built once per worker.

use std::collections::hash_map::{Entry, HashMap};
use std::convert::Infallible;
use std::fmt;
use std::sync::{Arc, Weak};

use crossbeam_utils::CachePadded;

use super::worker;
use super::worker::{Identity, Locals};
use crate::panic::discard;
use crate::sync::{Mutex, lock};

/// Tables that workers share; more than one so that many workers do not queue for one lock.
const SHARDS: usize = 64;

/// A value of type `S` for each worker: a scratch buffer, a random generator, a connection.
///
/// It is built by a closure when a worker first needs it, lent to one task at a time, and dropped
/// when the worker is [replaced](crate::Builder::max_tasks_per_child). It outlives the pool, so that
/// [`into_inner`](WorkerLocal::into_inner) can gather what the workers left in it.
///
/// If a second task starts on top of one that is using the worker's value (it waits, and the worker
/// helps), the second gets another one, which is kept for the next such case. So two tasks never see
/// the same value at a time, and there is nothing to lock; but there may be more values than workers.
///
/// The closure may borrow, as that of `map` may. Its type is a parameter, as in [`LazyLock`](std::sync::LazyLock): in a `struct`
/// or a `static` write `WorkerLocal<S>`, whose closure captures nothing.
///
/// Any number of pools may use one `WorkerLocal`, and so may threads outside of every pool, which
/// share their values in the same way. A `with` costs about 50 nanoseconds.
///
/// Python: a global that the initializer sets in each process.
///
/// ```
/// use parpool::{Pool, WorkerLocal};
///
/// let pool = Pool::new(2)?;
/// let buffers = WorkerLocal::new(String::new);
/// let lengths = pool.map(|i: u32| buffers.with(|buffer| {
///     buffer.clear();
///     buffer.push_str(&"x".repeat(i as usize));
///     buffer.len()
/// }), 0..4)?;
/// assert_eq!(lengths, [0, 1, 2, 3]);
/// assert!((1..=2).contains(&buffers.into_inner().len()));
/// # Ok::<(), parpool::Error>(())
/// ```
pub struct WorkerLocal<S: Send + 'static, F = fn() -> S> {
    init: F,
    values: Arc<Values<S>>,
}

struct Values<S> {
    /// By the worker's index. A value that is lent is not in it.
    shards: Box<[CachePadded<Mutex<Table<S>>>]>,
}

type Table<S> = HashMap<Key, Vec<S>>;

/// A worker, or all threads that are none.
type Key = Option<Identity>;

fn shard(key: Key) -> usize {
    key.map_or(0, |worker| worker.index % SHARDS)
}

impl<S: Send + 'static, F: Fn() -> S> WorkerLocal<S, F> {
    /// Builds nothing yet; `init` is called on the worker that needs a value.
    ///
    /// ```
    /// let names = parpool::WorkerLocal::new(|| String::from("fresh"));
    /// assert_eq!(names.into_inner(), Vec::<String>::new());
    /// ```
    pub fn new(init: F) -> Self {
        WorkerLocal { init, values: Arc::new(Values::new()) }
    }

    /// Lends this worker's value to `f`, building it first if there is none.
    ///
    /// # Panics
    /// If the closure that builds values panics, or `f` does; then the value that `f` had is dropped,
    /// for it may be half changed, and the next use builds another. Inside a task such a panic is the
    /// task's.
    ///
    /// ```
    /// let counts = parpool::WorkerLocal::new(|| 0);
    /// # let pool = parpool::Pool::new(1)?;
    /// let count = || counts.with(|count| { *count += 1; *count });
    /// assert_eq!(pool.apply(count, ())?, 1);
    /// assert_eq!(pool.apply(count, ())?, 2);
    /// # Ok::<(), parpool::Error>(())
    /// ```
    pub fn with<R>(&self, f: impl FnOnce(&mut S) -> R) -> R {
        match self.values.with(|| Ok::<S, Infallible>((self.init)()), f) {
            Ok(result) => result,
            Err(never) => match never {},
        }
    }
}

/// With a closure that may fail.
impl<S: Send + 'static, E, F: Fn() -> Result<S, E>> WorkerLocal<S, F> {
    /// As [`new`](WorkerLocal::new), with a closure that returns a `Result`.
    ///
    /// ```
    /// use parpool::WorkerLocal;
    ///
    /// let numbers = WorkerLocal::try_new(|| "7".parse::<u32>());
    /// assert_eq!(numbers.try_with(|number| *number + 1), Ok(8));
    /// let fails = WorkerLocal::try_new(|| "seven".parse::<u32>());
    /// assert!(fails.try_with(|number| *number + 1).is_err());
    /// ```
    pub fn try_new(init: F) -> Self {
        WorkerLocal { init, values: Arc::new(Values::new()) }
    }

    /// As [`with`](WorkerLocal::with).
    ///
    /// # Errors
    /// What the closure that builds values returns, whenever it is called; the next use calls it again.
    ///
    /// # Panics
    /// As `with`.
    ///
    /// ```
    /// let counts = parpool::WorkerLocal::try_new(|| std::fs::read("no such file"));
    /// assert!(counts.try_with(|bytes| bytes.len()).is_err());
    /// ```
    pub fn try_with<R>(&self, f: impl FnOnce(&mut S) -> R) -> Result<R, E> {
        self.values.with(&self.init, f)
    }
}

impl<S: Default + Send + 'static> Default for WorkerLocal<S> {
    /// Its values are built by [`Default::default`].
    fn default() -> Self {
        WorkerLocal::new(S::default)
    }
}

impl<S: Send + 'static, F> WorkerLocal<S, F> {
    /// All values that were built and not dropped, in no particular order. Those that a task is using
    /// at this moment cannot be, for it borrows the `WorkerLocal`.
    ///
    /// ```
    /// use parpool::{Pool, WorkerLocal};
    ///
    /// let pool = Pool::new(2)?;
    /// let counts = WorkerLocal::new(|| 0);
    /// pool.map(|_| counts.with(|count| *count += 1), 0..100)?;
    /// assert_eq!(counts.into_inner().into_iter().sum::<i32>(), 100);
    /// # Ok::<(), parpool::Error>(())
    /// ```
    pub fn into_inner(self) -> Vec<S> {
        self.values.take()
    }
}

/// Not left to the last reference: a worker that is being replaced may have that for a moment.
impl<S: Send + 'static, F> Drop for WorkerLocal<S, F> {
    fn drop(&mut self) {
        drop(self.values.take());
    }
}

impl<S: Send + 'static> Values<S> {
    fn new() -> Self {
        Values { shards: (0..SHARDS).map(|_| CachePadded::new(Mutex::default())).collect() }
    }

    /// Lends the value of the current worker to `f`.
    fn with<R, E>(
        self: &Arc<Self>,
        init: impl FnOnce() -> Result<S, E>,
        f: impl FnOnce(&mut S) -> R,
    ) -> Result<R, E> {
        let key = worker::current();
        let shard = &self.shards[shard(key)];
        let spare = lock(shard).get_mut(&key).and_then(Vec::pop);
        let mut value = match spare {
            Some(value) => value,
            None => init()?,
        };
        let result = f(&mut value);
        let first = {
            let mut table = lock(shard);
            match table.entry(key) {
                Entry::Occupied(mut values) => {
                    values.get_mut().push(value);
                    false
                }
                Entry::Vacant(place) => {
                    place.insert(vec![value]);
                    true
                }
            }
        };
        if first && key.is_some() {
            worker::remember_locals(Arc::downgrade(self) as Weak<dyn Locals>);
        }
        Ok(result)
    }

    fn take(&self) -> Vec<S> {
        let tables = self.shards.iter().map(|shard| std::mem::take(&mut *lock(shard)));
        tables.flat_map(HashMap::into_values).flatten().collect()
    }
}

impl<S: Send + 'static> Locals for Values<S> {
    fn drop_values(&self, worker: Identity) {
        let key = Some(worker);
        // Out of the lock first: the values' `Drop` is the user's code.
        let values = lock(&self.shards[shard(key)]).remove(&key);
        // One by one: a panic of the second on top of that of the first would end the process.
        values.into_iter().flatten().for_each(discard);
    }
}

impl<S: Send + 'static, F> fmt::Debug for WorkerLocal<S, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let spare = |shard: &CachePadded<Mutex<Table<S>>>| {
            let table = lock(shard);
            table.values().map(Vec::len).sum::<usize>()
        };
        let values: usize = self.values.shards.iter().map(spare).sum();
        f.debug_struct("WorkerLocal").field("values", &values).finish_non_exhaustive()
    }
}
