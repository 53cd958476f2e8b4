//! State that is built once per worker.

use std::collections::hash_map::{Entry, HashMap};
use std::fmt;
use std::sync::{Arc, Weak};

use crossbeam_utils::CachePadded;

use crate::panic::discard;
use crate::sync::{Mutex, lock};
use crate::worker::{self, Identity, Locals};

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
pub struct WorkerLocal<S> {
    inner: Arc<Inner<S>>,
}

struct Inner<S> {
    init: Box<dyn Fn() -> S + Send + Sync>,
    /// By the worker's index. A value that is lent is not in it.
    shards: Box<[CachePadded<Mutex<Table<S>>>]>,
}

type Table<S> = HashMap<Key, Vec<S>>;

/// A worker, or all threads that are none.
type Key = Option<Identity>;

fn shard(key: Key) -> usize {
    key.map_or(0, |worker| worker.index % SHARDS)
}

impl<S: Send + 'static> WorkerLocal<S> {
    /// Builds nothing yet; `init` is called on the worker that needs a value.
    ///
    /// ```
    /// let names = parpool::WorkerLocal::new(|| String::from("fresh"));
    /// assert_eq!(names.into_inner(), Vec::<String>::new());
    /// ```
    pub fn new(init: impl Fn() -> S + Send + Sync + 'static) -> Self {
        let shards = (0..SHARDS).map(|_| CachePadded::new(Mutex::default())).collect();
        WorkerLocal { inner: Arc::new(Inner { init: Box::new(init), shards }) }
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
        let key = worker::current();
        let shard = &self.inner.shards[shard(key)];
        let spare = lock(shard).get_mut(&key).and_then(Vec::pop);
        let mut value = spare.unwrap_or_else(&self.inner.init);
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
            worker::remember_locals(Arc::downgrade(&self.inner) as Weak<dyn Locals>);
        }
        result
    }

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
        self.inner.take()
    }
}

/// Not left to the last reference: a worker that is being replaced may have that for a moment.
impl<S> Drop for WorkerLocal<S> {
    fn drop(&mut self) {
        drop(self.inner.take());
    }
}

impl<S> Inner<S> {
    fn take(&self) -> Vec<S> {
        let tables = self.shards.iter().map(|shard| std::mem::take(&mut *lock(shard)));
        tables.flat_map(HashMap::into_values).flatten().collect()
    }
}

impl<S: Send + 'static> Locals for Inner<S> {
    fn drop_values(&self, worker: Identity) {
        let key = Some(worker);
        // Out of the lock first: the values' `Drop` is the user's code.
        let values = lock(&self.shards[shard(key)]).remove(&key);
        // One by one: a panic of the second on top of that of the first would end the process.
        values.into_iter().flatten().for_each(discard);
    }
}

impl<S> fmt::Debug for WorkerLocal<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let spare = |shard: &CachePadded<Mutex<Table<S>>>| {
            let table = lock(shard);
            table.values().map(Vec::len).sum::<usize>()
        };
        let values: usize = self.inner.shards.iter().map(spare).sum();
        f.debug_struct("WorkerLocal").field("values", &values).finish_non_exhaustive()
    }
}
