//! How a pool is set up.

use std::error::Error as StdError;
use std::fmt;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::pool::Pool;
use crate::error::Error;
use crate::input::Star;
use crate::observe::Recorder;
use crate::scheduler::{Context, Initializer, Shared, threads, worker};
use crate::sync::{Instant, Mutex, lock};

/// The settings of a [`Pool`], all optional. Made by [`Pool::builder`].
///
/// Python: the arguments of `Pool(processes, initializer, initargs, maxtasksperchild, context)`.
///
/// ```
/// use parpool::{Context, Pool};
///
/// fn greet(name: &str, times: u32) {
///     assert_eq!((name, times), ("worker", 3));
/// }
///
/// let pool = Pool::builder()
///     .processes(2)
///     .initializer(greet, ("worker", 3))
///     .max_tasks_per_child(100)
///     .context(Context::threads().name("example"))
///     .build()?;
/// assert_eq!(pool.map(|x| x + 1, [1, 2, 3])?, [2, 3, 4]);
/// # Ok::<(), parpool::Error>(())
/// ```
#[must_use = "a builder does nothing until `build`"]
#[derive(Clone, Default)]
pub struct Builder {
    /// `None` is one for each core.
    processes: Option<usize>,
    initializer: Option<Arc<Initializer>>,
    /// `None` is as long as the pool.
    max_tasks_per_child: Option<usize>,
    context: Context,
    insights: bool,
}

/// What an initializer may return: nothing, or a `Result` whose error fails the pool.
///
/// It is implemented for `()` and for `Result<T, E>` where `E` turns into a boxed error, as `?` turns
/// it: any error type, `String`, `&str`.
///
/// ```
/// use parpool::Pool;
///
/// fn nothing() {}
/// fn number() -> Result<i32, std::num::ParseIntError> {
///     "7".parse()
/// }
///
/// Pool::builder().processes(1).initializer(nothing, ()).build()?;
/// Pool::builder().processes(1).initializer(number, ()).build()?;
/// # Ok::<(), parpool::Error>(())
/// ```
#[diagnostic::on_unimplemented(
    message = "an initializer returns nothing or a `Result`, not `{Self}`",
    note = "end it with a `;`"
)]
pub trait InitializerOutput: sealed::InitializerOutput {
    /// The error, if it is one.
    fn into_result(self) -> Result<(), Box<dyn StdError + Send + Sync>>;
}

mod sealed {
    pub trait InitializerOutput {}

    impl InitializerOutput for () {}
    impl<T, E> InitializerOutput for Result<T, E> {}
    impl InitializerOutput for Never {}

    /// The output of a function of any type.
    pub trait Output {
        type Type;
    }

    impl<R> Output for fn() -> R {
        type Type = R;
    }

    /// What a closure returns that does not, such as one that ends in `panic!`: `!`, which has no name yet.
    pub(super) type Never = <fn() -> ! as Output>::Type;
}

impl InitializerOutput for sealed::Never {
    fn into_result(self) -> Result<(), Box<dyn StdError + Send + Sync>> {
        self
    }
}

impl InitializerOutput for () {
    fn into_result(self) -> Result<(), Box<dyn StdError + Send + Sync>> {
        Ok(())
    }
}

impl<T, E: Into<Box<dyn StdError + Send + Sync>>> InitializerOutput for Result<T, E> {
    fn into_result(self) -> Result<(), Box<dyn StdError + Send + Sync>> {
        self.map(drop).map_err(Into::into)
    }
}

impl Builder {
    /// How many workers: a number, or `None` for one for each core this process may use
    /// (`std::thread::available_parallelism`), which is the default.
    ///
    /// ```
    /// use parpool::Pool;
    ///
    /// assert_eq!(Pool::builder().processes(3).build()?.processes(), 3);
    /// assert!(Pool::builder().processes(None).build()?.processes() >= 1);
    /// # Ok::<(), parpool::Error>(())
    /// ```
    pub fn processes(mut self, processes: impl Into<Option<usize>>) -> Self {
        self.processes = processes.into();
        self
    }

    /// Calls `f(*initargs)` on each worker before its first task, with a clone of the arguments; again
    /// on each worker that replaces another. None by default.
    ///
    /// If it panics or returns an error, [`build`](Builder::build) fails. If that happens to a worker
    /// that replaces another, the pool cannot go on: it is terminated, and the error is what all open
    /// and all new calls get.
    ///
    /// Python: `initializer` and `initargs`. There a raising initializer is started again and again.
    ///
    /// ```
    /// use parpool::{Error, Pool};
    ///
    /// let connect = |host: &str| Err::<(), _>(format!("{host} does not answer"));
    /// let error = Pool::builder().processes(2).initializer(connect, ("db",)).build().unwrap_err();
    /// assert_eq!(error.to_string(), "the initializer failed: db does not answer");
    /// ```
    pub fn initializer<F, A>(mut self, f: F, initargs: A) -> Self
    where
        F: Star<A, Output: InitializerOutput> + Send + Sync + 'static,
        A: Clone + Send + 'static,
    {
        // In a mutex so that the arguments need not be `Sync`.
        let initargs = Mutex::new(initargs);
        self.initializer = Some(Arc::new(move || {
            let args = lock(&initargs).clone();
            f.star(args).into_result().map_err(Arc::from)
        }));
        self
    }

    /// Replaces a worker after `tasks` tasks by a new one, which is a new thread; by default a worker
    /// stays as long as the pool.
    ///
    /// A task is a call of `apply` or `apply_async`, or a chunk of a map. What the old thread had
    /// hoarded is let go: its thread-locals, its [`WorkerLocal`](crate::WorkerLocal)s, what a C
    /// library keeps per thread. The initializer runs again. Never do more threads work than the pool
    /// has workers. Starting one costs about 50 µs, so give it enough to do.
    ///
    /// With this set, an unset chunk size of a map is Python's: four chunks for each worker. Rayon
    /// code inside a task runs on that task's worker alone.
    ///
    /// Python: `maxtasksperchild`; `max_tasks_per_child` in `concurrent.futures`.
    ///
    /// ```
    /// use parpool::{Pool, current_worker};
    ///
    /// let pool = Pool::builder().processes(1).max_tasks_per_child(2).build()?;
    /// let generations = (0..6)
    ///     .map(|_| pool.apply(|| current_worker().unwrap().generation(), ()))
    ///     .collect::<Result<Vec<_>, _>>()?;
    /// assert_eq!(generations, [0, 0, 1, 1, 2, 2]);
    /// # Ok::<(), parpool::Error>(())
    /// ```
    pub fn max_tasks_per_child(mut self, tasks: impl Into<Option<usize>>) -> Self {
        self.max_tasks_per_child = tasks.into();
        self
    }

    /// What kind of workers; [`Context::threads`] by default.
    ///
    /// ```
    /// use parpool::{Context, Pool};
    ///
    /// let pool = Pool::builder().context(Context::serial()).build()?;
    /// assert_eq!(pool.processes(), 1);
    /// # Ok::<(), parpool::Error>(())
    /// ```
    pub fn context(mut self, context: Context) -> Self {
        self.context = context;
        self
    }

    /// Has the pool write down where the time of its calls goes, for [`Pool::insights`]. Off by default.
    ///
    /// It costs about 250 ns for each chunk, of the pool's own making or of a set size, and memory for the
    /// last 32 calls: up to 60 kB for each of them and each worker.
    ///
    /// Python: mpire's `enable_insights=True`.
    ///
    /// ```
    /// use parpool::Pool;
    ///
    /// let pool = Pool::builder().processes(2).insights(true).build()?;
    /// pool.map(|x| x * x, 0..1000)?;
    /// println!("{}", pool.insights().unwrap());
    /// # Ok::<(), parpool::Error>(())
    /// ```
    pub fn insights(mut self, insights: bool) -> Self {
        self.insights = insights;
        self
    }

    /// Starts the workers and returns when each has run the initializer.
    ///
    /// # Errors
    /// [`InvalidArgument`](Error::InvalidArgument) for 0 workers or more than
    /// [`rayon::max_num_threads`], 0 tasks or a name with a NUL; [`Start`](Error::Start) if a thread
    /// cannot be started; [`Initializer`](Error::Initializer) if that fails. No thread is left behind then.
    ///
    /// ```
    /// use parpool::{Error, Pool};
    ///
    /// let error = Pool::builder().initializer(|| Err::<(), _>("no licence"), ()).build().unwrap_err();
    /// assert!(matches!(error, Error::Initializer(_)));
    /// assert!(matches!(Pool::builder().max_tasks_per_child(0).build(), Err(Error::InvalidArgument(_))));
    /// ```
    pub fn build(self) -> Result<Pool, Error> {
        let processes = match self.processes {
            Some(0) => return Err(Error::InvalidArgument("a pool needs at least 1 worker")),
            Some(processes) => processes,
            None => std::thread::available_parallelism().map_or(1, usize::from),
        };
        if self.max_tasks_per_child == Some(0) {
            return Err(Error::InvalidArgument("max_tasks_per_child must be at least 1"));
        }
        let serial = self.context.serial;
        let count = if serial { 1 } else { processes };
        // Rayon would start fewer and not say so.
        if count > rayon::max_num_threads() {
            return Err(Error::InvalidArgument(
                "a pool has no more workers than `rayon::max_num_threads()`",
            ));
        }
        if self.context.name.contains('\0') {
            return Err(Error::InvalidArgument("a thread's name cannot contain a NUL"));
        }
        // More than there are addresses: before `std` rounds it up to whole pages, which could overflow.
        if self.context.stack_size.is_some_and(|bytes| bytes > isize::MAX as usize) && !serial {
            return Err(Error::start(io::Error::new(
                io::ErrorKind::InvalidInput,
                "no stack is so large",
            )));
        }
        static POOLS: AtomicUsize = AtomicUsize::new(0);
        // ORDERING: only the numbers must differ.
        let id = POOLS.fetch_add(1, Ordering::Relaxed);
        let name = format!("{}-{id}", self.context.name);
        let mut workers =
            Shared::new(id, count, self.max_tasks_per_child, self.initializer, name, serial);
        workers.recorder = self.insights.then(|| Recorder::new(count));
        let workers = Arc::new(workers);
        if serial {
            let asked = Instant::now();
            worker::in_serial_call(&workers.places[0], || workers.initialize(0, asked))?;
        } else {
            threads::build(&workers, &self.context)?;
        }
        Ok(Pool::new_from(workers))
    }
}

impl fmt::Debug for Builder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Builder")
            .field("processes", &self.processes)
            .field("initializer", &self.initializer.is_some())
            .field("max_tasks_per_child", &self.max_tasks_per_child)
            .field("context", &self.context)
            .field("insights", &self.insights)
            .finish()
    }
}
