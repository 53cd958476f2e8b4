//! Programs of which rank 0 alone runs the body, as Python's do: closures registered beforehand.

use std::fmt;
use std::panic::Location;
use std::process;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::mpsc::channel;

use crate::core::Call;
use crate::error::MpiError;
use crate::options::MpiOptions;
use crate::pool::MpiPool;
use crate::serve::{Serve, Served};
use crate::stream::MpiImap;
use crate::task::{Job, Typed};
use crate::wire::{Header, Portable};

/// The closures of a program of which rank 0 alone runs the body.
///
/// Every rank registers the same closures in the same order, and then calls [`start`](MpiTasks::start),
/// which returns on rank 0 alone. The other ranks serve from there on, and end when rank 0 drops what it
/// got. So all that comes before `start` runs on every rank, and all that comes after it on rank 0.
///
/// Python: `if not pool.is_master(): pool.wait(); sys.exit(0)` of schwimmbad; `python -m mpi4py.futures`.
///
/// ```
/// use parpool_mpi::{MpiPool, MpiTasks};
///
/// let offset = 10; // every rank
/// let mut tasks = MpiTasks::new(MpiPool::init()?);
/// let add = tasks.register(move |x: u64| x + offset);
/// let total = tasks.register(|(a, b): (f64, f64)| a + b);
///
/// let pool = tasks.start(); // from here on rank 0 alone
/// assert_eq!(pool.map(&add, vec![1, 2, 3])?, [11, 12, 13]);
/// assert_eq!(pool.map(&total, [(1.0, 2.0), (3.0, 4.0)])?, [3.0, 7.0]);
/// # Ok::<(), parpool_mpi::MpiError>(())
/// ```
#[derive(Debug)]
pub struct MpiTasks {
    pool: MpiPool,
    /// Two for each closure: one whose chunks end at a panic, for a map, and one whose do not, for a stream.
    jobs: Vec<Registered>,
}

struct Registered {
    /// What the types of the closure are made to, to find out whether two ranks have registered the same.
    what: u64,
    job: Arc<dyn Job>,
}

impl fmt::Debug for Registered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registered").field("what", &self.what).finish_non_exhaustive()
    }
}

/// A closure that every rank has registered. Made by [`MpiTasks::register`].
///
/// ```
/// use parpool_mpi::{MpiPool, MpiTask, MpiTasks};
///
/// let mut tasks = MpiTasks::new(MpiPool::init()?);
/// let root: MpiTask<f64, f64> = tasks.register(f64::sqrt);
/// assert_eq!(tasks.start().map(&root, [4.0, 9.0])?, [2.0, 3.0]);
/// # Ok::<(), parpool_mpi::MpiError>(())
/// ```
pub struct MpiTask<T, R> {
    f: Arc<dyn Fn(T) -> R + Send + Sync>,
    number: usize,
    what: u64,
}

impl<T, R> fmt::Debug for MpiTask<T, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MpiTask").field("number", &self.number).finish_non_exhaustive()
    }
}

impl MpiTasks {
    /// No closures yet, for the ranks of `pool`.
    ///
    /// ```
    /// use parpool_mpi::{MpiPool, MpiTasks};
    ///
    /// let tasks = MpiTasks::new(MpiPool::builder().root_computes(false).init()?);
    /// # Ok::<(), parpool_mpi::MpiError>(())
    /// ```
    pub fn new(pool: MpiPool) -> Self {
        MpiTasks { pool, jobs: Vec::new() }
    }

    /// Registers `f`, which may capture what it owns: the same on every rank, in the same order.
    ///
    /// Ranks whose closures have other types, or that have registered fewer, end the first call that
    /// meets them with [`Diverged`](MpiError::Diverged). What closures of the same type do is not
    /// compared. A panic of `f` is the call's, see [`MpiPool::map`] and [`MpiPool::imap`].
    ///
    /// ```
    /// # let mut tasks = parpool_mpi::MpiTasks::new(parpool_mpi::MpiPool::init()?);
    /// let table = vec![0.0, 0.5, 1.0];
    /// let look_up = tasks.register(move |place: usize| table[place]);
    /// assert_eq!(tasks.start().map(&look_up, [2, 1])?, [1.0, 0.5]);
    /// # Ok::<(), parpool_mpi::MpiError>(())
    /// ```
    #[track_caller]
    pub fn register<T, R, F>(&mut self, f: F) -> MpiTask<T, R>
    where
        T: Portable,
        R: Portable,
        F: Fn(T) -> R + Send + Sync + 'static,
    {
        let f = Arc::new(f);
        let what = Call::new::<(F, T, R)>("register", Location::caller()).what();
        let number = self.jobs.len();
        for each in [false, true] {
            let f = Arc::clone(&f);
            let job = Arc::new(Typed::<_, T, R>::new(move |item| f(item), each));
            self.jobs.push(Registered { what, job });
        }
        MpiTask { f, number, what }
    }

    /// Returns on rank 0. The other ranks serve, and end their processes when rank 0 is done with the pool:
    /// with status 0, or 1 if the ranks got out of step or rank 0 was lost.
    ///
    /// What a rank holds on its stack is not dropped then, as at any [`process::exit`].
    ///
    /// Python: `pool.wait()` of schwimmbad.
    ///
    /// ```
    /// # let mut tasks = parpool_mpi::MpiTasks::new(parpool_mpi::MpiPool::init()?);
    /// let pool = tasks.start();
    /// println!("rank 0 of {}", pool.size());
    /// # Ok::<(), parpool_mpi::MpiError>(())
    /// ```
    pub fn start(self) -> MpiMaster {
        if self.pool.is_root() {
            return MpiMaster { pool: self.pool };
        }
        let served = self.serve();
        let rank = self.pool.rank();
        // Before the process ends: it is where the ranks say goodbye.
        drop(self);
        let status = served.map_or_else(
            |error| {
                eprintln!("rank {rank}: {error}");
                1
            },
            |()| 0,
        );
        process::exit(status)
    }

    /// Serves one call after the other, to the end.
    fn serve(&self) -> Result<(), MpiError> {
        let core = &mut *self.pool.core()?;
        let find = |header: &Header| {
            let place = usize::try_from(header.task).ok()?;
            self.jobs.get(place).filter(|registered| registered.what == header.what)
        };
        let is_mine = |header: &Header| find(header).is_some();
        let text = || format!("`start` with {} closures", self.jobs.len() / 2);
        loop {
            let limit = Arc::new(AtomicUsize::new(usize::MAX));
            let (send, answers) = channel();
            let spawn = |message: Vec<u8>| {
                let registered = Header::read(&message).ok().and_then(|(header, _)| find(&header));
                let job = Arc::clone(&registered.expect("it is this rank's").job);
                let (send, limit) = (send.clone(), Arc::clone(&limit));
                let answer = move || {
                    let _gone = send.send(job.answer(message, &limit));
                };
                drop(self.pool.local.apply_async(answer, ()));
            };
            let (is_mine, text) = (&is_mine, &text);
            let (answers, limit, part) = (&answers, &limit, &mut |_, _: &[u8]| Ok(()));
            let core = &mut *core;
            let serve = Serve { core, is_mine, text, spawn: &spawn, answers, limit, part };
            match serve.run() {
                Ok(Served::Bye) => return Ok(()),
                Err(error @ (MpiError::Diverged(_) | MpiError::RankLost { rank: 0, .. })) => {
                    return Err(error);
                }
                // An error of the call is for who made it.
                Ok(Served::Call) | Err(_) => {}
            }
        }
    }
}

/// The pool of ranks as rank 0 has it while the others serve. Made by [`MpiTasks::start`].
///
/// Its verbs are [`MpiPool`]'s, with a registered closure. Dropping it ends the other ranks' processes, and
/// so does a panic, which ends the job.
///
/// Python: `MPIPoolExecutor`.
///
/// ```
/// # use parpool_mpi::{MpiPool, MpiTasks};
/// let mut tasks = MpiTasks::new(MpiPool::init()?);
/// let square = tasks.register(|x: u64| x * x);
/// let pool = tasks.start();
/// assert_eq!(pool.map(&square, 0..4)?, [0, 1, 4, 9]);
/// # Ok::<(), parpool_mpi::MpiError>(())
/// ```
#[derive(Debug)]
pub struct MpiMaster {
    pool: MpiPool,
}

/// An [`MpiMaster`] with options for the next calls, which it has the same verbs for.
///
/// ```
/// # use parpool_mpi::{MpiPool, MpiTasks};
/// # let mut tasks = MpiTasks::new(MpiPool::init()?);
/// # let square = tasks.register(|x: u64| x * x);
/// # let pool = tasks.start();
/// let small = pool.chunksize(2).buffersize(10);
/// assert_eq!(small.map(&square, 0..4)?, [0, 1, 4, 9]);
/// # Ok::<(), parpool_mpi::MpiError>(())
/// ```
#[derive(Clone, Copy, Debug)]
#[must_use = "options do nothing without a call"]
pub struct MpiMasterOptions<'p> {
    options: MpiOptions<'p>,
}

impl MpiMaster {
    /// How many ranks there are, with this one.
    ///
    /// ```
    /// # let tasks = parpool_mpi::MpiTasks::new(parpool_mpi::MpiPool::init()?);
    /// assert!(tasks.start().size() >= 1);
    /// # Ok::<(), parpool_mpi::MpiError>(())
    /// ```
    pub fn size(&self) -> usize {
        self.pool.size()
    }

    /// How many workers compute, over all ranks.
    ///
    /// ```
    /// # let tasks = parpool_mpi::MpiTasks::new(parpool_mpi::MpiPool::init()?);
    /// assert!(tasks.start().workers() >= 1);
    /// # Ok::<(), parpool_mpi::MpiError>(())
    /// ```
    pub fn workers(&self) -> usize {
        self.pool.workers()
    }

    fn options(&self) -> MpiMasterOptions<'_> {
        MpiMasterOptions { options: MpiOptions::new(&self.pool) }
    }

    /// See [`MpiPool::chunksize`].
    ///
    /// ```
    /// # let mut tasks = parpool_mpi::MpiTasks::new(parpool_mpi::MpiPool::init()?);
    /// # let square = tasks.register(|x: u64| x * x);
    /// assert_eq!(tasks.start().chunksize(3).map(&square, 0..4)?, [0, 1, 4, 9]);
    /// # Ok::<(), parpool_mpi::MpiError>(())
    /// ```
    pub fn chunksize(&self, items: usize) -> MpiMasterOptions<'_> {
        self.options().chunksize(items)
    }

    /// See [`MpiPool::buffersize`].
    ///
    /// ```
    /// # let mut tasks = parpool_mpi::MpiTasks::new(parpool_mpi::MpiPool::init()?);
    /// # let square = tasks.register(|x: u64| x * x);
    /// assert_eq!(tasks.start().buffersize(3).imap(&square, 0..4).count(), 4);
    /// # Ok::<(), parpool_mpi::MpiError>(())
    /// ```
    pub fn buffersize(&self, items: usize) -> MpiMasterOptions<'_> {
        self.options().buffersize(items)
    }

    /// Calls `task` with each item, on the workers of all ranks, and returns the results in order; see
    /// [`MpiPool::map`].
    ///
    /// # Errors
    /// As there, also in what a panic of the closure does.
    ///
    /// Python: `map`.
    ///
    /// ```
    /// # let mut tasks = parpool_mpi::MpiTasks::new(parpool_mpi::MpiPool::init()?);
    /// # let square = tasks.register(|x: u64| x * x);
    /// assert_eq!(tasks.start().map(&square, 0..4)?, [0, 1, 4, 9]);
    /// # Ok::<(), parpool_mpi::MpiError>(())
    /// ```
    #[track_caller]
    pub fn map<T, R, I>(&self, task: &MpiTask<T, R>, items: I) -> Result<Vec<R>, MpiError>
    where
        T: Portable,
        R: Portable,
        I: IntoIterator<Item = T>,
    {
        self.options().map(task, items)
    }

    /// A stream of results in the order of the items; see [`MpiPool::imap`].
    ///
    /// # Errors
    /// As there, also in what a panic of the closure does.
    ///
    /// Python: `imap`.
    ///
    /// ```
    /// # let mut tasks = parpool_mpi::MpiTasks::new(parpool_mpi::MpiPool::init()?);
    /// # let square = tasks.register(|x: u64| x * x);
    /// let pool = tasks.start();
    /// let mut squares = pool.imap(&square, 0..);
    /// assert_eq!(squares.next().transpose()?, Some(0));
    /// # drop(squares);
    /// # Ok::<(), parpool_mpi::MpiError>(())
    /// ```
    #[track_caller]
    pub fn imap<T, R, I>(&self, task: &MpiTask<T, R>, items: I) -> MpiImap<'_, I::IntoIter, R>
    where
        T: Portable,
        R: Portable,
        I: IntoIterator<Item = T>,
    {
        self.options().imap(task, items)
    }

    /// As [`imap`](MpiMaster::imap), but the results come as they are made.
    ///
    /// # Errors
    /// As there, also in what a panic of the closure does.
    ///
    /// Python: `imap_unordered`.
    ///
    /// ```
    /// # let mut tasks = parpool_mpi::MpiTasks::new(parpool_mpi::MpiPool::init()?);
    /// # let square = tasks.register(|x: u64| x * x);
    /// assert_eq!(tasks.start().imap_unordered(&square, 0..4).count(), 4);
    /// # Ok::<(), parpool_mpi::MpiError>(())
    /// ```
    #[track_caller]
    pub fn imap_unordered<T, R, I>(
        &self,
        task: &MpiTask<T, R>,
        items: I,
    ) -> MpiImap<'_, I::IntoIter, R>
    where
        T: Portable,
        R: Portable,
        I: IntoIterator<Item = T>,
    {
        self.options().imap_unordered(task, items)
    }
}

impl<'p> MpiMasterOptions<'p> {
    /// See [`MpiPool::chunksize`].
    ///
    /// ```
    /// # let mut tasks = parpool_mpi::MpiTasks::new(parpool_mpi::MpiPool::init()?);
    /// # let square = tasks.register(|x: u64| x * x);
    /// assert_eq!(tasks.start().buffersize(9).chunksize(3).imap(&square, 0..4).count(), 4);
    /// # Ok::<(), parpool_mpi::MpiError>(())
    /// ```
    pub fn chunksize(self, items: usize) -> Self {
        MpiMasterOptions { options: self.options.chunksize(items) }
    }

    /// See [`MpiPool::buffersize`].
    ///
    /// ```
    /// # let mut tasks = parpool_mpi::MpiTasks::new(parpool_mpi::MpiPool::init()?);
    /// # let square = tasks.register(|x: u64| x * x);
    /// assert_eq!(tasks.start().chunksize(3).buffersize(9).imap(&square, 0..4).count(), 4);
    /// # Ok::<(), parpool_mpi::MpiError>(())
    /// ```
    pub fn buffersize(self, items: usize) -> Self {
        MpiMasterOptions { options: self.options.buffersize(items) }
    }

    /// See [`MpiMaster::map`].
    ///
    /// # Errors
    /// As there, also in what a panic of the closure does.
    ///
    /// ```
    /// # let mut tasks = parpool_mpi::MpiTasks::new(parpool_mpi::MpiPool::init()?);
    /// # let square = tasks.register(|x: u64| x * x);
    /// assert_eq!(tasks.start().chunksize(3).map(&square, 0..4)?, [0, 1, 4, 9]);
    /// # Ok::<(), parpool_mpi::MpiError>(())
    /// ```
    #[track_caller]
    pub fn map<T, R, I>(&self, task: &MpiTask<T, R>, items: I) -> Result<Vec<R>, MpiError>
    where
        T: Portable,
        R: Portable,
        I: IntoIterator<Item = T>,
    {
        self.options.call(task.call("map", false), |item| (task.f)(item), items, false)
    }

    /// See [`MpiMaster::imap`].
    ///
    /// # Errors
    /// As there, also in what a panic of the closure does.
    ///
    /// ```
    /// # let mut tasks = parpool_mpi::MpiTasks::new(parpool_mpi::MpiPool::init()?);
    /// # let square = tasks.register(|x: u64| x * x);
    /// assert_eq!(tasks.start().chunksize(3).imap(&square, 0..4).count(), 4);
    /// # Ok::<(), parpool_mpi::MpiError>(())
    /// ```
    #[track_caller]
    pub fn imap<T, R, I>(&self, task: &MpiTask<T, R>, items: I) -> MpiImap<'p, I::IntoIter, R>
    where
        T: Portable,
        R: Portable,
        I: IntoIterator<Item = T>,
    {
        let f = Arc::clone(&task.f);
        self.options.stream(task.call("imap", true), move |item| f(item), items, true)
    }

    /// See [`MpiMaster::imap_unordered`].
    ///
    /// # Errors
    /// As there, also in what a panic of the closure does.
    ///
    /// ```
    /// # let mut tasks = parpool_mpi::MpiTasks::new(parpool_mpi::MpiPool::init()?);
    /// # let square = tasks.register(|x: u64| x * x);
    /// assert_eq!(tasks.start().chunksize(3).imap_unordered(&square, 0..4).count(), 4);
    /// # Ok::<(), parpool_mpi::MpiError>(())
    /// ```
    #[track_caller]
    pub fn imap_unordered<T, R, I>(
        &self,
        task: &MpiTask<T, R>,
        items: I,
    ) -> MpiImap<'p, I::IntoIter, R>
    where
        T: Portable,
        R: Portable,
        I: IntoIterator<Item = T>,
    {
        let f = Arc::clone(&task.f);
        self.options.stream(task.call("imap_unordered", true), move |item| f(item), items, false)
    }
}

impl<T, R> MpiTask<T, R> {
    /// The call of `verb` with this closure, in the form whose items are done `each` for itself or not.
    #[track_caller]
    fn call(&self, verb: &'static str, each: bool) -> Call {
        let number = (self.number + usize::from(each)) as u64;
        Call::of_task(verb, Location::caller(), self.what, number)
    }
}
