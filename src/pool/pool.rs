//! The pool as its users see it: signatures and promises. What the verbs do is in `pool/options.rs`.

use std::fmt;
use std::iter::Sum;
use std::panic::{RefUnwindSafe, UnwindSafe};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::builder::Builder;
use super::options::Options;
use super::scope::Scope;
use crate::error::{Error, TryError};
use crate::input::{Apply, Iterable, Star};

use crate::observe::{Insights, Progress};
use crate::scheduler::{PoolState, Shared, park, worker};
use crate::stream::Imap;
use crate::task::{AsyncResult, CallOptions, apply};

/// A pool of workers.
///
/// The blocking verbs ([`map`](Pool::map), [`starmap`](Pool::starmap), [`try_map`](Pool::try_map),
/// [`apply`](Pool::apply)) may borrow from the caller; the `_async` ones own what they work on and
/// return a handle. All of them may be called from many threads at once, and from the pool's own tasks.
///
/// A `Pool` is a handle: its clones are the same pool. Dropping the last of them [closes](Pool::close) it and waits until
/// all it has accepted is done; while unwinding from a panic it [terminates](Pool::terminate) instead of closing. On one of
/// the pool's own workers it does not wait, nor does [`detach`](Pool::detach).
///
/// # Exit, statics, fork
///
/// The end of the process waits for no pool: not for one in a `static`, one that was forgotten, or the
/// [`global`](crate::global) one. A pool in a thread-local ends with its thread, as if it were dropped.
/// In the destructors of thread-locals a pool works, on its own workers too where these are
/// [replaced](Builder::max_tasks_per_child); otherwise these end when it has ended, and each call is
/// [`NotRunning`](Error::NotRunning) there.
///
/// A process that is made by `fork` has the one thread that called it, so no worker: a thread that uses a pool of
/// before there waits forever. Make pools after the fork. (Python's start method `fork` has the same
/// trap, and is no longer the default.)
///
/// Python: `multiprocessing.Pool`, and its use as a context manager.
///
/// ```
/// use parpool::Pool;
///
/// let pool = Pool::new(4)?;
/// let xs = [1.0, 4.0, 9.0];
/// assert_eq!(pool.map(|x: &f64| x.sqrt(), &xs)?, [1.0, 2.0, 3.0]);
/// # Ok::<(), parpool::Error>(())
/// ```
#[derive(Clone)]
pub struct Pool {
    pub(crate) shared: Arc<Shared>,
    owner: Arc<PoolOwner>,
}

/// What the clones of a pool share: the last of them ends it.
///
/// The second is true when it is not to be waited for.
struct PoolOwner(Arc<Shared>, AtomicBool);

impl Pool {
    /// A pool of `processes` workers, or of one for each core with `None`.
    ///
    /// # Errors
    /// [`InvalidArgument`](Error::InvalidArgument) for 0, [`Start`](Error::Start) if a thread cannot be
    /// started.
    ///
    /// Python: `Pool(4)`, `Pool()`.
    ///
    /// ```
    /// use parpool::{Error, Pool};
    ///
    /// assert_eq!(Pool::new(3)?.processes(), 3);
    /// assert!(Pool::new(None)?.processes() >= 1);
    /// assert!(matches!(Pool::new(0), Err(Error::InvalidArgument(_))));
    /// # Ok::<(), Error>(())
    /// ```
    pub fn new(processes: impl Into<Option<usize>>) -> Result<Self, Error> {
        Pool::builder().processes(processes).build()
    }

    /// For everything else that can be set: see [`Builder`].
    ///
    /// ```
    /// let pool = parpool::Pool::builder().processes(2).max_tasks_per_child(50).build()?;
    /// # Ok::<(), parpool::Error>(())
    /// ```
    pub fn builder() -> Builder {
        Builder::default()
    }

    pub(crate) fn new_from(shared: Arc<Shared>) -> Self {
        let owner = Arc::new(PoolOwner(Arc::clone(&shared), AtomicBool::new(false)));
        Pool { shared, owner }
    }

    /// How many workers there are. A serial pool has one.
    ///
    /// ```
    /// assert_eq!(parpool::Pool::new(2)?.processes(), 2);
    /// # Ok::<(), parpool::Error>(())
    /// ```
    pub fn processes(&self) -> usize {
        self.shared.count
    }

    /// Whether it takes new work: neither [`close`](Pool::close) nor [`terminate`](Pool::terminate) was called, and no worker was
    /// lost that could not be replaced.
    ///
    /// ```
    /// let pool = parpool::Pool::new(1)?;
    /// assert!(pool.is_running());
    /// pool.close();
    /// assert!(!pool.is_running());
    /// # Ok::<(), parpool::Error>(())
    /// ```
    pub fn is_running(&self) -> bool {
        self.shared.state() == PoolState::Running
    }

    /// The options of a call with nothing set, to be set one by one.
    ///
    /// ```
    /// let pool = parpool::Pool::new(2)?;
    /// let large = Some(1000);
    /// let mut options = pool.options();
    /// if let Some(items) = large {
    ///     options = options.chunksize(items);
    /// }
    /// assert_eq!(options.map(|x| x + 1, 0..3)?, [1, 2, 3]);
    /// # Ok::<(), parpool::Error>(())
    /// ```
    pub fn options(&self) -> Options<'_> {
        Options::new(&self.shared)
    }

    /// For the next calls, a chunk is exactly `items` items, the last one fewer: what one worker takes
    /// at least.
    ///
    /// Not needed for speed: without it the pool goes by the time that items take, and can share a
    /// chunk out again that turns out to be expensive.
    ///
    /// A size of 0 is an [`InvalidArgument`](Error::InvalidArgument) of the call, before anything runs.
    ///
    /// Python: the argument `chunksize=`.
    ///
    /// ```
    /// let pool = parpool::Pool::new(2)?;
    /// assert_eq!(pool.chunksize(64).map(|x| x + 1, 0..100)?.len(), 100);
    /// # Ok::<(), parpool::Error>(())
    /// ```
    pub fn chunksize(&self, items: impl Into<Option<usize>>) -> Options<'_> {
        self.options().chunksize(items)
    }

    /// For the next calls, a stream's window is exactly `items` items: what may be pulled from the
    /// input and not be handed out, counting what is queued, what runs and what is done.
    ///
    /// Not needed for speed: without it the pool keeps a few items for each worker where they are
    /// slow, and up to 2048 for each where they are fast. Set it to bound the memory of large items.
    ///
    /// A size of 0 is an [`InvalidArgument`](Error::InvalidArgument) of the call. It has no meaning
    /// for verbs that are no streams.
    ///
    /// Python: the argument `buffersize=` of `imap` (3.16).
    ///
    /// ```
    /// let pool = parpool::Pool::new(2)?;
    /// let mut stream = pool.buffersize(10).imap(|x: u64| x + 1, 0..);
    /// assert_eq!(stream.next().unwrap()?, 1);
    /// # Ok::<(), parpool::Error>(())
    /// ```
    pub fn buffersize(&self, items: impl Into<Option<usize>>) -> Options<'_> {
        self.options().buffersize(items)
    }

    /// For the next calls, a deadline for each as a whole: `timeout` from the call on.
    ///
    /// A call that is not done by then is an [`Err(DeadlineExceeded)`](Error::DeadlineExceeded): what has not begun is
    /// skipped, what runs can ask [`is_cancelled`](crate::is_cancelled) and return early, for its
    /// result is thrown away. A blocking verb returns when what ran has returned, because it lends it
    /// what it borrows (an iterator that blocks in `next` counts as running); a handle is an error at
    /// once.
    ///
    /// ```
    /// use std::time::{Duration, Instant};
    /// use parpool::{Error, Pool};
    ///
    /// let pool = Pool::new(2)?;
    /// let start = Instant::now();
    /// let nap = |_| std::thread::sleep(Duration::from_millis(5));
    /// let result = pool.timeout(Duration::from_millis(20)).map(nap, 0..10_000);
    /// assert!(matches!(result, Err(Error::DeadlineExceeded)));
    /// assert!(start.elapsed() < Duration::from_secs(5));
    /// # Ok::<(), Error>(())
    /// ```
    pub fn timeout(&self, timeout: impl Into<Option<Duration>>) -> Options<'_> {
        self.options().timeout(timeout)
    }

    /// For the next calls, has `progress` say how many items are finished, and of how many: to a thread that asks, to a
    /// closure, or in a bar; see [`Progress`].
    ///
    /// What is counted is what the workers have finished, not what was pulled from the input. Of an input
    /// whose length is not known, there is no total. For `apply` and `apply_async` it is one item each.
    ///
    /// Python: `tqdm` around an iterator; mpire's `progress_bar=True`.
    ///
    /// ```
    /// use parpool::{Pool, Progress};
    ///
    /// let pool = Pool::new(2)?;
    /// let progress = Progress::new(|done, total| eprint!("\r{done} of {}", total.unwrap_or(done)));
    /// let squares = pool.progress(&progress).map(|x| x * x, 0..1000)?;
    /// # assert_eq!(squares.len(), 1000);
    /// # Ok::<(), parpool::Error>(())
    /// ```
    pub fn progress<'p>(&'p self, progress: &'p Progress) -> Options<'p> {
        self.options().progress(progress)
    }

    /// Calls `f` with each item and returns the results in the order of the items.
    ///
    /// `items` is any [`Iterable`]: a collection, an iterator, a rayon parallel iterator. The results
    /// are written where they stay, without a copy.
    ///
    /// If `f` panics for an item, those above it that have not begun are skipped; of several that panic
    /// the one with the lowest index is reported, every time. Items and results that are not returned
    /// are dropped.
    ///
    /// On a worker of this pool the call takes part in the work itself.
    ///
    /// # Errors
    /// [`Panicked`](Error::Panicked), [`NotRunning`](Error::NotRunning),
    /// [`Terminated`](Error::Terminated).
    ///
    /// Python: `map`.
    ///
    /// ```
    /// let pool = parpool::Pool::new(2)?;
    /// let words = vec!["a", "bc", "def"];
    /// assert_eq!(pool.map(|word| word.len(), &words)?, [1, 2, 3]);
    /// assert_eq!(pool.map(|i| i * i, 0..5)?, [0, 1, 4, 9, 16]);
    /// # Ok::<(), parpool::Error>(())
    /// ```
    pub fn map<M, I, F, R>(&self, f: F, items: I) -> Result<Vec<R>, Error>
    where
        I: Iterable<M>,
        F: Fn(I::Item) -> R + Sync,
        R: Send,
    {
        self.options().map(f, items)
    }

    /// [`map`](Pool::map) into a vector that is there: its old items are dropped and its memory is used
    /// again.
    ///
    /// The first use of fresh memory costs some 2 microseconds a page, which is 4 nanoseconds for each
    /// `f64`: a cheap closure over many items runs several times faster into memory that was used
    /// before.
    ///
    /// # Errors
    /// As [`map`](Pool::map), also in what a panic of `f` does. Then `out` is empty; its memory stays.
    ///
    /// # Panics
    /// If the `Drop` of an old item does.
    ///
    /// Python: none; NumPy's argument `out`.
    ///
    /// ```
    /// let pool = parpool::Pool::new(2)?;
    /// let mut state = vec![1.0, 2.0, 3.0];
    /// let mut next = Vec::new();
    /// for _ in 0..10 {
    ///     pool.map_into(|x: &f64| x * 0.5, &state, &mut next)?;
    ///     std::mem::swap(&mut state, &mut next);
    /// }
    /// assert_eq!(state[1], 2.0 / 1024.0);
    /// # Ok::<(), parpool::Error>(())
    /// ```
    pub fn map_into<M, I, F, R>(&self, f: F, items: I, out: &mut Vec<R>) -> Result<(), Error>
    where
        I: Iterable<M>,
        F: Fn(I::Item) -> R + Sync,
        R: Send,
    {
        self.options().map_into(f, items, out)
    }

    /// Calls `f(a, b, …)` with each tuple of items and returns the results in order.
    ///
    /// For functions; a closure may as well take the tuple, `map(|(a, b)| …)`, and then its argument
    /// types need not be written.
    ///
    /// # Errors
    /// As [`map`](Pool::map), also in what a panic of `f` does.
    ///
    /// Python: `starmap`.
    ///
    /// ```
    /// let pool = parpool::Pool::new(2)?;
    /// assert_eq!(pool.starmap(f64::hypot, [(3.0, 4.0), (5.0, 12.0)])?, [5.0, 13.0]);
    /// # Ok::<(), parpool::Error>(())
    /// ```
    pub fn starmap<M, I, F>(&self, f: F, items: I) -> Result<Vec<F::Output>, Error>
    where
        I: Iterable<M>,
        F: Star<I::Item, Output: Send> + Sync,
    {
        self.options().starmap(f, items)
    }

    /// Calls `f` with each item and returns the values in order, or the first error.
    ///
    /// The first is the one with the lowest index, every time. Items above it that have not begun are
    /// skipped. A panic counts as an error does, and is a [`TryError::Pool`].
    ///
    /// # Errors
    /// [`TryError::Item`] with the index and the closure's own error; [`TryError::Pool`] with what
    /// [`map`](Pool::map) fails with.
    ///
    /// Python: a task that raises, in `map`.
    ///
    /// ```
    /// use parpool::{Pool, TryError};
    ///
    /// let pool = Pool::new(2)?;
    /// let half = |x: u32| if x % 2 == 0 { Ok(x / 2) } else { Err(format!("{x} is odd")) };
    /// assert_eq!(pool.try_map(half, [2, 4]).unwrap(), [1, 2]);
    /// let error = pool.try_map(half, [2, 3, 5]).unwrap_err();
    /// assert!(matches!(error, TryError::Item { index: 1, error } if error == "3 is odd"));
    /// # Ok::<(), parpool::Error>(())
    /// ```
    pub fn try_map<M, I, F, R, E>(&self, f: F, items: I) -> Result<Vec<R>, TryError<E>>
    where
        I: Iterable<M>,
        F: Fn(I::Item) -> Result<R, E> + Sync,
        R: Send,
        E: Send,
    {
        self.options().try_map(f, items)
    }

    /// Calls `f` with each item and folds the values with `op`; `None` if there are no items.
    ///
    /// The result is the same on any number of workers, bit for bit, also where `op` is not associative
    /// as the addition of floats is not: the input is cut at places that depend on its length alone,
    /// each chunk is folded from the left, and so are the values of the chunks. It may differ in the
    /// last digits from that of a loop, which has no chunks. (It is usually the more exact of the two.)
    ///
    /// Cost: that of a [`map`](Pool::map) without its results.
    ///
    /// # Errors
    /// As [`map`](Pool::map). A panic of `f` or `op` is [`Panicked`](Error::Panicked) at the item, one
    /// of `op` between two chunks at none.
    ///
    /// Python: `functools.reduce(op, pool.imap(f, xs))`.
    ///
    /// ```
    /// let pool = parpool::Pool::new(2)?;
    /// let words = ["of", "these", "the", "longest"];
    /// let longer = |a: &'static str, b: &'static str| if b.len() > a.len() { b } else { a };
    /// assert_eq!(pool.reduce(|word| *word, longer, &words)?, Some("longest"));
    /// assert_eq!(pool.reduce(|x: i32| x, i32::max, [])?, None);
    /// # Ok::<(), parpool::Error>(())
    /// ```
    pub fn reduce<M, I, F, G, R>(&self, f: F, op: G, items: I) -> Result<Option<R>, Error>
    where
        I: Iterable<M>,
        F: Fn(I::Item) -> R + Sync,
        G: Fn(R, R) -> R + Sync,
        R: Send,
    {
        self.options().reduce(f, op, items)
    }

    /// The sum of what `f` returns for the items: [`reduce`](Pool::reduce) with `+`, and the same digits
    /// on any number of workers. The sum of no items is zero.
    ///
    /// # Errors
    /// As [`reduce`](Pool::reduce), also in what a panic does.
    ///
    /// Python: `sum(pool.imap(f, xs))`.
    ///
    /// ```
    /// let xs: Vec<f64> = (1..=100_000).map(f64::from).collect();
    /// let sum = |workers| parpool::Pool::new(workers)?.sum(|x| 1.0 / x, &xs);
    /// let harmonic = sum(1)?;
    /// assert!((harmonic - 12.090146).abs() < 1e-6);
    /// assert_eq!(sum(3)?.to_bits(), harmonic.to_bits());
    /// # Ok::<(), parpool::Error>(())
    /// ```
    pub fn sum<M, I, F, R>(&self, f: F, items: I) -> Result<R, Error>
    where
        I: Iterable<M>,
        F: Fn(I::Item) -> R + Sync,
        R: Sum<R> + Send,
    {
        self.options().sum(f, items)
    }

    /// Calls `f(a, b, …)` with the tuple of arguments on a worker and waits for its value. What are
    /// keyword arguments in Python are the closure's captures, which may borrow.
    ///
    /// On a worker of this pool, `f` runs there and then.
    ///
    /// # Errors
    /// [`Panicked`](Error::Panicked) if `f` does, [`NotRunning`](Error::NotRunning),
    /// [`Terminated`](Error::Terminated).
    ///
    /// Python: `apply`.
    ///
    /// ```
    /// let pool = parpool::Pool::new(2)?;
    /// assert_eq!(pool.apply(|x: i32| x * x, (5,))?, 25);
    /// let name = String::from("world");
    /// assert_eq!(pool.apply(|| format!("hello {name}"), ())?, "hello world");
    /// # Ok::<(), parpool::Error>(())
    /// ```
    pub fn apply<F, A>(&self, f: F, args: A) -> Result<F::Output, Error>
    where
        F: Apply<A, Output: Send> + Send,
        A: Send,
    {
        self.options().apply(f, args)
    }

    /// As [`map`](Pool::map), but returns at once; what it works on it owns.
    ///
    /// A refused call is a handle that is an error. A panic of `f` is the handle's
    /// [`Panicked`](Error::Panicked).
    ///
    /// Over an iterator, a worker that finds nothing to do in the map is free for other calls, and an
    /// input that blocks occupies one worker. Over a collection, the worker that began the map stays
    /// with it to the end; where that matters, pass `xs.into_iter()`.
    ///
    /// Python: `map_async`.
    ///
    /// ```
    /// let pool = parpool::Pool::new(2)?;
    /// let result = pool.map_async(|x: i32| x * x, vec![1, 2, 3]);
    /// assert_eq!(result.get()?, [1, 4, 9]);
    /// # Ok::<(), parpool::Error>(())
    /// ```
    pub fn map_async<M, I, F, R>(&self, f: F, items: I) -> AsyncResult<Vec<R>>
    where
        I: Iterable<M> + Send + 'static,
        I::Item: 'static,
        F: Fn(I::Item) -> R + Send + Sync + 'static,
        R: Send + 'static,
    {
        self.options().map_async(f, items)
    }

    /// As [`starmap`](Pool::starmap), but returns at once; what it works on it owns.
    ///
    /// Refusals and panics are the handle's, as in [`map_async`](Pool::map_async).
    ///
    /// Python: `starmap_async`.
    ///
    /// ```
    /// let pool = parpool::Pool::new(2)?;
    /// assert_eq!(pool.starmap_async(i32::pow, [(2, 3), (3, 2)]).get()?, [8, 9]);
    /// # Ok::<(), parpool::Error>(())
    /// ```
    pub fn starmap_async<M, I, F>(&self, f: F, items: I) -> AsyncResult<Vec<F::Output>>
    where
        I: Iterable<M> + Send + 'static,
        I::Item: 'static,
        F: Star<I::Item, Output: Send + 'static> + Send + Sync + 'static,
    {
        self.options().starmap_async(f, items)
    }

    /// As [`apply`](Pool::apply), but returns at once; what it works on it owns.
    ///
    /// Refusals and panics are the handle's, as in [`map_async`](Pool::map_async). Calls begin in the
    /// order in which they were made; those made by the pool's own tasks come first, and of those of a task that waits for
    /// them, others take the newest while it takes the oldest.
    ///
    /// Python: `apply_async`.
    ///
    /// ```
    /// let pool = parpool::Pool::new(2)?;
    /// let result = pool.apply_async(|x: i32| x * x, (5,));
    /// assert_eq!(result.get()?, 25);
    /// # Ok::<(), parpool::Error>(())
    /// ```
    pub fn apply_async<F, A>(&self, f: F, args: A) -> AsyncResult<F::Output>
    where
        F: Apply<A, Output: Send + 'static> + Send + 'static,
        A: Send + 'static,
    {
        self.options().apply_async(f, args)
    }

    /// A stream of results in the order of the items: calls `f` with each on the workers while this
    /// thread pulls the input and takes the results, one by one.
    ///
    /// The input may be endless, slow, and need not be `Send` nor `'static`, only its items are. It is
    /// pulled on the thread that calls `next`, and only as far as the window reaches
    /// ([`buffersize`](Pool::buffersize)). Streams compose: the input may itself be a stream of this
    /// pool.
    ///
    /// Each item gives its own `Result`, at every chunk size; a panic of `f` is the
    /// [`Panicked`](Error::Panicked) of its item, with the index, and iteration goes on. A refused call
    /// is a stream with one error. See [`Imap`] for how a stream ends.
    ///
    /// Nothing needs to be tuned: cheap items travel in chunks, which grow as long as nobody could
    /// notice, and a slow one travels alone.
    ///
    /// Python: `imap`.
    ///
    /// ```
    /// use std::io::BufRead;
    ///
    /// let pool = parpool::Pool::new(2)?;
    /// let text = "a\nbc\ndef\n".as_bytes();
    /// let lengths = pool.imap(|line: Result<String, _>| line.unwrap().len(), text.lines());
    /// assert_eq!(lengths.collect::<Result<Vec<_>, _>>()?, [1, 2, 3]);
    /// # Ok::<(), parpool::Error>(())
    /// ```
    pub fn imap<I, F, R>(&self, f: F, items: I) -> Imap<'static, I::IntoIter, R>
    where
        I: IntoIterator<Item: Send + 'static>,
        F: Fn(I::Item) -> R + Send + Sync + 'static,
        R: Send + 'static,
    {
        self.options().imap(f, items)
    }

    /// As [`imap`](Pool::imap), but a result is handed out as soon as it is there, in any order.
    ///
    /// What `f` returns must say which item it is of, if that matters; an error has the index. A panic
    /// of `f` is its item's, as in `imap`.
    ///
    /// Python: `imap_unordered`.
    ///
    /// ```
    /// let pool = parpool::Pool::new(2)?;
    /// let mut squares = pool.imap_unordered(|x| x * x, 0..4).collect::<Result<Vec<_>, _>>()?;
    /// squares.sort();
    /// assert_eq!(squares, [0, 1, 4, 9]);
    /// # Ok::<(), parpool::Error>(())
    /// ```
    pub fn imap_unordered<I, F, R>(&self, f: F, items: I) -> Imap<'static, I::IntoIter, R>
    where
        I: IntoIterator<Item: Send + 'static>,
        F: Fn(I::Item) -> R + Send + Sync + 'static,
        R: Send + 'static,
    {
        self.options().imap_unordered(f, items)
    }

    /// Runs `body` on this thread with a [`Scope`], whose `apply_async`, `map_async`, `imap` and
    /// `imap_unordered` may borrow from the stack; returns what `body` does when all of that is done.
    ///
    /// If `body` panics, the scope waits all the same and then goes on panicking. A panic of a task is
    /// its handle's, or its item's in a stream.
    ///
    /// Rayon: `in_place_scope`; std: `thread::scope`. Python has none, and needs none.
    ///
    /// ```
    /// let pool = parpool::Pool::new(2)?;
    /// let text = String::from("to be or not to be");
    /// let (words, letters) = pool.scope(|s| {
    ///     let words = s.apply_async(|| text.split(' ').count(), ());
    ///     let letters = s.imap(str::len, text.split(' ')).map(Result::unwrap).sum::<usize>();
    ///     (words.get().unwrap(), letters)
    /// });
    /// assert_eq!((words, letters), (6, 13));
    /// # Ok::<(), parpool::Error>(())
    /// ```
    pub fn scope<'env, F, R>(&'env self, body: F) -> R
    where
        F: for<'scope> FnOnce(Scope<'scope, 'env>) -> R,
    {
        self.options().scope(body)
    }

    /// Runs `f` on a worker, before all that waits from outside, and waits for it: rayon code in it
    /// (`par_iter`, `join`, `scope`) uses this pool's workers.
    ///
    /// On a worker of this pool, `f` runs there and then. In a pool that
    /// [replaces its workers](Builder::max_tasks_per_child), rayon code has the one worker that runs
    /// `f`; in a [serial](crate::Context::serial) one it uses rayon's global pool, which serial pools do
    /// not replace.
    ///
    /// # Errors
    /// As [`apply`](Pool::apply), also for a panic.
    ///
    /// Rayon: `ThreadPool::install`.
    ///
    /// ```
    /// use rayon::prelude::*;
    ///
    /// let pool = parpool::Pool::new(2)?;
    /// let xs = vec![1, 2, 3];
    /// assert_eq!(pool.install(|| xs.par_iter().sum::<i32>())?, 6);
    /// # Ok::<(), parpool::Error>(())
    /// ```
    pub fn install<F, R>(&self, f: F) -> Result<R, Error>
    where
        F: FnOnce() -> R + Send,
        R: Send,
    {
        apply(&CallOptions::plain(&self.shared), true, f)
    }

    /// Where the time of the last calls went; `None` if the pool was built without
    /// [`insights`](Builder::insights). Calls that are going on are in it as far as they are.
    ///
    /// Python: mpire's `get_insights()`.
    ///
    /// ```
    /// use parpool::Pool;
    ///
    /// let pool = Pool::builder().processes(2).insights(true).build()?;
    /// pool.map(|x| x * x, 0..1000)?;
    /// let insights = pool.insights().expect("it was asked for");
    /// println!("{insights}");
    /// assert!(Pool::new(2)?.insights().is_none());
    /// # Ok::<(), parpool::Error>(())
    /// ```
    pub fn insights(&self) -> Option<Insights> {
        self.shared.recorder.as_ref().map(Insights::of)
    }

    /// Takes no new work; what was accepted is finished. Then the threads end by themselves.
    ///
    /// What the pool's own tasks submit is part of what was accepted and still taken.
    ///
    /// Python: `close`.
    ///
    /// ```
    /// use parpool::{Error, Pool};
    ///
    /// let pool = Pool::new(1)?;
    /// let accepted = pool.apply_async(|| 1, ());
    /// pool.close();
    /// assert!(matches!(pool.apply_async(|| 2, ()).get(), Err(Error::NotRunning)));
    /// assert_eq!(accepted.get()?, 1);
    /// # Ok::<(), Error>(())
    /// ```
    pub fn close(&self) {
        self.shared.end(PoolState::Closed);
    }

    /// Skips what has not begun and takes no new work. Returns at once.
    ///
    /// Everybody who waits for a handle gets [`Err(Terminated)`](Error::Terminated) at once; a blocking
    /// verb returns it when the items that run have returned. These can ask
    /// [`is_cancelled`](crate::is_cancelled). A map notices between two items, also inside a chunk.
    ///
    /// Python: `terminate`, which kills the processes; threads cannot be.
    ///
    /// ```
    /// use parpool::{Error, Pool, is_cancelled};
    ///
    /// let pool = Pool::new(1)?;
    /// let endless = pool.apply_async(|| while !is_cancelled() { std::thread::yield_now() }, ());
    /// pool.terminate();
    /// assert!(matches!(endless.get(), Err(Error::Terminated)));
    /// pool.join()?;
    /// # Ok::<(), Error>(())
    /// ```
    pub fn terminate(&self) {
        self.shared.end(PoolState::Terminated);
    }

    /// Waits until all work is done and the threads are gone, their thread-locals destroyed.
    ///
    /// Only after [`close`](Pool::close) or [`terminate`](Pool::terminate). May be called again, and by
    /// several threads.
    ///
    /// # Errors
    /// [`StillRunning`](Error::StillRunning) before `close`; [`WouldDeadlock`](Error::WouldDeadlock) on
    /// one of the pool's own workers.
    ///
    /// Python: `join`.
    ///
    /// ```
    /// use parpool::{Error, Pool};
    ///
    /// let pool = Pool::new(2)?;
    /// assert!(matches!(pool.join(), Err(Error::StillRunning)));
    /// pool.close();
    /// pool.join()?;
    /// # Ok::<(), Error>(())
    /// ```
    pub fn join(&self) -> Result<(), Error> {
        self.shared.join(None)
    }

    /// As [`join`](Pool::join), but no longer than `timeout`.
    ///
    /// # Errors
    /// As `join`, [`Timeout`](Error::Timeout), and [`Start`](Error::Start) if the thread that joins the others cannot be
    /// started; then it may be called again.
    ///
    /// Python has none.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # let pool = parpool::Pool::new(2)?;
    /// pool.close();
    /// pool.join_timeout(Duration::from_secs(10))?;
    /// # Ok::<(), parpool::Error>(())
    /// ```
    pub fn join_timeout(&self, timeout: Duration) -> Result<(), Error> {
        self.shared.join(park::deadline(timeout))
    }

    /// [Closes](Pool::close) the pool and drops this handle without waiting: what was accepted is finished, and then
    /// the threads end by themselves. Nobody waits for that at the end of the process.
    ///
    /// Python has none.
    ///
    /// ```
    /// use parpool::Pool;
    ///
    /// let pool = Pool::new(1)?;
    /// let (send, receive) = std::sync::mpsc::channel();
    /// let late = pool.apply_async(move || receive.recv().unwrap(), ());
    /// pool.detach();
    /// send.send("done").unwrap();
    /// assert_eq!(late.get()?, "done");
    /// # Ok::<(), parpool::Error>(())
    /// ```
    pub fn detach(self) {
        self.close();
        // ORDERING: read by who drops the last handle, which comes after the drop of this one.
        self.owner.1.store(true, Ordering::Relaxed);
    }
}

// See `Shared`.
impl UnwindSafe for Pool {}
impl RefUnwindSafe for Pool {}

impl Drop for PoolOwner {
    fn drop(&mut self) {
        let PoolOwner(shared, detached) = self;
        shared.end(if std::thread::panicking() {
            PoolState::Terminated
        } else {
            PoolState::Closed
        });
        if !*detached.get_mut() && !worker::is_of(shared.id) {
            // It was ended and this is no worker of it, so there is nothing to fail with.
            let _ = shared.join(None);
        }
    }
}

/// `Pool { state: Running, shared: 4 }`.
impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool")
            .field("state", &self.shared.state())
            .field("workers", &self.shared.count)
            .finish()
    }
}
