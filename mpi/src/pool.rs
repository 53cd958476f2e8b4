//! The pool of ranks as its users see it: signatures and promises. What the verbs do is in `options.rs`.

use std::cell::{RefCell, RefMut};
use std::fmt;
use std::marker::PhantomData;

use parpool::{Pool, Star};

use crate::core::Core;
use crate::error::MpiError;
use crate::launch::{self, Plan};
use crate::options::MpiOptions;
use crate::stream::MpiImap;
use crate::wire::Portable;

/// A pool of the ranks of an MPI job, each with workers of its own.
///
/// Every rank runs the same program and makes the same calls in the same order. So the closure is on
/// every rank already, with all that it captures or borrows, and only items and results travel. The
/// items are those of rank 0, and so are the results; the other ranks' items are not looked at.
///
/// ```
/// use parpool_mpi::MpiPool;
///
/// let pool = MpiPool::init()?; // on each rank
/// let factor = 3; // on each rank too
/// let scaled = pool.map(|x: u64| x * factor, 0..100u64)?;
/// if let Some(scaled) = scaled {
///     println!("{}", scaled.iter().sum::<u64>()); // on rank 0
/// }
/// # Ok::<(), parpool_mpi::MpiError>(())
/// ```
///
/// Started without a launcher it is a pool of one rank, which is this process. How to start it with one,
/// on a laptop and on a cluster, is in `docs/cluster.md`.
///
/// Dropping it waits until every rank drops it. A panic that drops it ends the job, on all ranks, with
/// the exit status 101. So does the end of a rank that has not dropped it: by `exit`, or because it was
/// forgotten (`mem::forget`) or lies in a thread-local.
///
/// It can neither be sent to another thread nor be shared, whichever MPI there is: one thread makes all
/// calls of MPI.
///
/// ```compile_fail,E0277
/// fn shared<T: Sync>() {}
/// shared::<parpool_mpi::MpiPool>();
/// ```
///
/// ```compile_fail,E0277
/// fn sent<T: Send>() {}
/// sent::<parpool_mpi::MpiPool>();
/// ```
///
/// Python: `mpi4py.futures.MPIPoolExecutor` and `schwimmbad.MPIPool`, where rank 0 alone runs the program
/// (for which see [`MpiTasks`](crate::MpiTasks)).
pub struct MpiPool {
    /// Borrowed by the call that is being made.
    core: RefCell<Core>,
    /// This rank's workers.
    pub(crate) local: Pool,
    rank: usize,
    size: usize,
    workers: usize,
    /// For whatever a communicator is in the MPI at hand: not `Send`, not `Sync`.
    one_thread: PhantomData<*const ()>,
}

/// The settings of an [`MpiPool`], all optional. Made by [`MpiPool::builder`].
///
/// ```
/// let pool = parpool_mpi::MpiPool::builder().processes(2).root_computes(false).init()?;
/// // Alone, rank 0 computes all the same.
/// assert_eq!(pool.workers(), 2 * pool.size().max(2) - 2);
/// # Ok::<(), parpool_mpi::MpiError>(())
/// ```
#[derive(Clone, Debug)]
#[must_use = "a builder does nothing until `init`"]
pub struct MpiBuilder {
    plan: Plan,
}

impl MpiBuilder {
    /// How many workers this rank computes with; may differ from rank to rank.
    ///
    /// `None`, which is the default, is one for each core that this rank may use, divided by the number of
    /// ranks on its node that may use the same ones. With one worker, chunks run on the thread that makes
    /// the calls.
    ///
    /// ```
    /// let pool = parpool_mpi::MpiPool::builder().processes(3).init()?;
    /// assert_eq!(pool.workers(), 3 * pool.size());
    /// # Ok::<(), parpool_mpi::MpiError>(())
    /// ```
    pub fn processes(mut self, processes: impl Into<Option<usize>>) -> Self {
        self.plan.processes = processes.into();
        self
    }

    /// Whether rank 0 computes too; it does by default. What the other ranks set is not looked at, and
    /// alone rank 0 always computes.
    ///
    /// Not to compute is worth it where rank 0 has one worker and the chunks are long: while it computes,
    /// nobody gets a new one. It is also what Python's pools over MPI do.
    ///
    /// ```
    /// let pool = parpool_mpi::MpiPool::builder().root_computes(false).init()?;
    /// # Ok::<(), parpool_mpi::MpiError>(())
    /// ```
    pub fn root_computes(mut self, root_computes: bool) -> Self {
        self.plan.root_computes = root_computes;
        self
    }

    /// Starts MPI, if it has not been started yet, and returns when all ranks have come here.
    ///
    /// MPI is shut down when the thread that made the pool ends. If the program has started it by itself
    /// (on this thread, with `MPI_THREAD_FUNNELED` or more), it goes on to belong to the program.
    ///
    /// # Errors
    /// [`Mpi`](MpiError::Mpi) if there is something wrong with MPI, above all if the launcher is another
    /// MPI's, which starts so many jobs of one rank; [`Pool`](MpiError::Pool) for 0 workers or threads that
    /// cannot be started; [`Busy`](MpiError::Busy) in a task of any pool.
    ///
    /// ```
    /// use parpool_mpi::{MpiError, MpiPool};
    ///
    /// let pool = MpiPool::builder().init()?;
    /// assert!(matches!(MpiPool::builder().processes(0).init(), Err(MpiError::Pool(_))));
    /// # Ok::<(), MpiError>(())
    /// ```
    pub fn init(self) -> Result<MpiPool, MpiError> {
        let (core, local) = launch::launch(&self.plan)?;
        let (rank, size) = (core.link.rank, core.link.size);
        let (workers, core) = (core.workers.iter().sum(), RefCell::new(core));
        Ok(MpiPool { core, local, rank, size, workers, one_thread: PhantomData })
    }
}

impl MpiPool {
    /// A pool of all ranks, with nothing set; see [`MpiBuilder::init`].
    ///
    /// # Errors
    /// As there.
    ///
    /// Python: `MPIPool()`.
    ///
    /// ```
    /// let pool = parpool_mpi::MpiPool::init()?;
    /// assert!(pool.rank() < pool.size());
    /// # Ok::<(), parpool_mpi::MpiError>(())
    /// ```
    pub fn init() -> Result<Self, MpiError> {
        MpiPool::builder().init()
    }

    /// For what can be set: see [`MpiBuilder`].
    ///
    /// ```
    /// let pool = parpool_mpi::MpiPool::builder().processes(1).init()?;
    /// # Ok::<(), parpool_mpi::MpiError>(())
    /// ```
    pub fn builder() -> MpiBuilder {
        MpiBuilder { plan: Plan { processes: None, root_computes: true } }
    }

    /// Which rank this is, from 0.
    ///
    /// ```
    /// # let pool = parpool_mpi::MpiPool::init()?;
    /// assert_eq!(pool.rank() == 0, pool.is_root());
    /// # Ok::<(), parpool_mpi::MpiError>(())
    /// ```
    pub fn rank(&self) -> usize {
        self.rank
    }

    /// How many ranks there are.
    ///
    /// ```
    /// # let pool = parpool_mpi::MpiPool::init()?;
    /// println!("rank {} of {}", pool.rank(), pool.size());
    /// # Ok::<(), parpool_mpi::MpiError>(())
    /// ```
    pub fn size(&self) -> usize {
        self.size
    }

    /// Whether this is rank 0: the one that reads the input, prints and writes.
    ///
    /// Python: `is_master()`.
    ///
    /// ```
    /// # let pool = parpool_mpi::MpiPool::init()?;
    /// let input = if pool.is_root() { vec![1.0, 2.0] } else { Vec::new() };
    /// let halves = pool.map(|x: f64| x / 2.0, input)?;
    /// assert_eq!(halves.is_some(), pool.is_root());
    /// # Ok::<(), parpool_mpi::MpiError>(())
    /// ```
    pub fn is_root(&self) -> bool {
        self.rank == 0
    }

    /// How many workers compute, over all ranks that the pool began with.
    ///
    /// ```
    /// # let pool = parpool_mpi::MpiPool::init()?;
    /// assert!(pool.workers() >= 1);
    /// # Ok::<(), parpool_mpi::MpiError>(())
    /// ```
    pub fn workers(&self) -> usize {
        self.workers
    }

    /// For the next calls, a chunk is exactly `items` items, the last one fewer: what travels in one
    /// message and is run by one worker.
    ///
    /// Without it the pool goes by the time that items take, and by their bytes: a chunk is some 2 ms of
    /// work, or one item.
    ///
    /// Python: the argument `chunksize=`.
    ///
    /// ```
    /// # let pool = parpool_mpi::MpiPool::init()?;
    /// let squares = pool.chunksize(10).map(|x: u64| x * x, 0..100u64)?;
    /// # Ok::<(), parpool_mpi::MpiError>(())
    /// ```
    pub fn chunksize(&self, items: usize) -> MpiOptions<'_> {
        MpiOptions::new(self).chunksize(items)
    }

    /// For the next calls, a stream's window is exactly `items` items: what may be pulled from the input
    /// and not be handed out, wherever it is.
    ///
    /// Without it, it is twice what the ranks have room for. It has no meaning for verbs that are no
    /// streams.
    ///
    /// Python: the argument `buffersize=` of `imap` (3.16).
    ///
    /// ```
    /// # let pool = parpool_mpi::MpiPool::init()?;
    /// for square in pool.buffersize(10).imap(|x: u64| x * x, 0..100u64) {
    ///     println!("{}", square?);
    /// }
    /// # Ok::<(), parpool_mpi::MpiError>(())
    /// ```
    pub fn buffersize(&self, items: usize) -> MpiOptions<'_> {
        MpiOptions::new(self).buffersize(items)
    }

    /// Calls `f` with each of rank 0's items, on the workers of all ranks: `Some` results in the order of
    /// the items on rank 0, `None` on the others, which return when rank 0 does.
    ///
    /// `f` may borrow. It is each rank's own: what it captures should be the same everywhere.
    ///
    /// If `f` panics for an item, those above it that have not begun are skipped, and the error is the same
    /// on all ranks: of several that panic, that of the lowest index. The pool goes on.
    ///
    /// # Errors
    /// [`Panicked`](MpiError::Panicked) if `f` or the input does; [`Diverged`](MpiError::Diverged) if
    /// another rank is not in this call; [`TooLarge`](MpiError::TooLarge) and [`Codec`](MpiError::Codec) of
    /// items and results; [`RankLost`](MpiError::RankLost); [`Busy`](MpiError::Busy) in a task or during a
    /// stream; [`Pool`](MpiError::Pool) for a `chunksize` of 0.
    ///
    /// Python: `map`.
    ///
    /// ```
    /// # let pool = parpool_mpi::MpiPool::init()?;
    /// let words = ["a", "bc", "def"].map(String::from);
    /// let lengths = pool.map(|word: String| word.len(), words)?;
    /// if pool.is_root() {
    ///     assert_eq!(lengths, Some(vec![1, 2, 3]));
    /// }
    /// # Ok::<(), parpool_mpi::MpiError>(())
    /// ```
    #[track_caller]
    pub fn map<I, F, R>(&self, f: F, items: I) -> Result<Option<Vec<R>>, MpiError>
    where
        I: IntoIterator<Item: Portable>,
        F: Fn(I::Item) -> R + Sync,
        R: Portable,
    {
        MpiOptions::new(self).map(f, items)
    }

    /// Calls `f(a, b, …)` with each tuple of items; otherwise [`map`](MpiPool::map).
    ///
    /// # Errors
    /// As there, also in what a panic of `f` does.
    ///
    /// Python: `starmap`.
    ///
    /// ```
    /// # let pool = parpool_mpi::MpiPool::init()?;
    /// let sides = pool.starmap(f64::hypot, [(3.0, 4.0), (5.0, 12.0)])?;
    /// assert!(sides.is_none_or(|sides| sides == [5.0, 13.0]));
    /// # Ok::<(), parpool_mpi::MpiError>(())
    /// ```
    #[track_caller]
    pub fn starmap<I, F>(&self, f: F, items: I) -> Result<Option<Vec<F::Output>>, MpiError>
    where
        I: IntoIterator<Item: Portable>,
        F: Star<I::Item, Output: Portable> + Sync,
    {
        MpiOptions::new(self).starmap(f, items)
    }

    /// As [`map`](MpiPool::map), with the results on every rank.
    ///
    /// Rank 0 sends all of them to each other rank, so this costs the bytes of the results times the ranks
    /// on top.
    ///
    /// # Errors
    /// As [`map`](MpiPool::map), also in what a panic of `f` does.
    ///
    /// Python: `comm.bcast(pool.map(f, xs))` of mpi4py.
    ///
    /// ```
    /// # let pool = parpool_mpi::MpiPool::init()?;
    /// let mut state = vec![1.0, 2.0, 3.0];
    /// for _ in 0..10 {
    ///     state = pool.map_all(|x: f64| x / 2.0, state)?; // the same on every rank
    /// }
    /// assert_eq!(state[1], 2.0 / 1024.0);
    /// # Ok::<(), parpool_mpi::MpiError>(())
    /// ```
    #[track_caller]
    pub fn map_all<I, F, R>(&self, f: F, items: I) -> Result<Vec<R>, MpiError>
    where
        I: IntoIterator<Item: Portable>,
        F: Fn(I::Item) -> R + Sync,
        R: Portable,
    {
        MpiOptions::new(self).map_all(f, items)
    }

    /// A stream of results in the order of the items, on rank 0, while the ranks work. On the other ranks
    /// it has no items: the first `next` serves until rank 0's stream is over. So the same loop is right
    /// everywhere.
    ///
    /// The input may be endless or slow, and is pulled on rank 0, in `next`, as far as the window reaches
    /// ([`buffersize`](MpiPool::buffersize)): of `b` items, item `k + b` is not pulled before result `k` was
    /// handed out. All messages are sent and received in `next`: while the body of the loop runs, the
    /// ranks do what they have.
    ///
    /// Each item gives its own `Result`; a panic of `f` is the [`Panicked`](MpiError::Panicked) of its item,
    /// and iteration goes on. What happens to the call as a whole is one last error, on every rank. See
    /// [`MpiImap`].
    ///
    /// # Errors
    /// The items', and at the end those of [`map`](MpiPool::map).
    ///
    /// Python: `imap`.
    ///
    /// ```
    /// # let pool = parpool_mpi::MpiPool::init()?;
    /// let mut sum = 0;
    /// for square in pool.imap(|x: u64| x * x, 0..) {
    ///     sum += square?;
    ///     if sum > 1000 {
    ///         break; // what has not begun is cancelled
    ///     }
    /// }
    /// # Ok::<(), parpool_mpi::MpiError>(())
    /// ```
    #[track_caller]
    pub fn imap<I, F, R>(&self, f: F, items: I) -> MpiImap<'_, I::IntoIter, R>
    where
        I: IntoIterator<Item: Portable>,
        F: Fn(I::Item) -> R + Send + Sync + 'static,
        R: Portable,
    {
        MpiOptions::new(self).imap(f, items)
    }

    /// As [`imap`](MpiPool::imap), but the results come as they are made.
    ///
    /// # Errors
    /// As there, also in what a panic of `f` does.
    ///
    /// Python: `imap_unordered`.
    ///
    /// ```
    /// # let pool = parpool_mpi::MpiPool::init()?;
    /// let sum: u64 = pool.imap_unordered(|x: u64| x * x, 0..4).sum::<Result<_, _>>()?;
    /// assert_eq!(sum, if pool.is_root() { 14 } else { 0 });
    /// # Ok::<(), parpool_mpi::MpiError>(())
    /// ```
    #[track_caller]
    pub fn imap_unordered<I, F, R>(&self, f: F, items: I) -> MpiImap<'_, I::IntoIter, R>
    where
        I: IntoIterator<Item: Portable>,
        F: Fn(I::Item) -> R + Send + Sync + 'static,
        R: Portable,
    {
        MpiOptions::new(self).imap_unordered(f, items)
    }

    /// The pool, for one call.
    pub(crate) fn core(&self) -> Result<RefMut<'_, Core>, MpiError> {
        self.core.try_borrow_mut().map_err(|_| MpiError::Busy)
    }
}

impl Drop for MpiPool {
    fn drop(&mut self) {
        if std::thread::panicking() {
            if self.size > 1 {
                // The others would wait for this rank forever.
                launch::abort();
            }
        } else {
            self.core.get_mut().leave();
        }
        launch::release(self.core.get_mut().is_crippled());
    }
}

/// `MpiPool { rank: 0, size: 3, workers: 12 }`.
impl fmt::Debug for MpiPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MpiPool")
            .field("rank", &self.rank)
            .field("size", &self.size)
            .field("workers", &self.workers())
            .finish()
    }
}
