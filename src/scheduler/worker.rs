//! What a thread knows of itself: which worker it is, and what it is running.
//!
//! A thread of a pool is one worker from its start to its end, also while its thread-locals are destroyed:
//! what is kept for that here has no destructor. A thread that calls into a serial pool is that pool's
//! worker too, for as long; the one does not hide the other.
//!
//! A wait on a worker *helps*: it runs what it waits for itself if nobody has begun it, and nothing else.
//! For what it runs sits on top of the waiting task's stack: anything else there might wait for the very
//! task that it covers, or for a lock that this one holds, and neither could go on.

use std::cell::{Cell, RefCell};
use std::mem::ManuallyDrop;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};

use super::queue::{Task, TaskRef};
use crate::panic::{catch, discard};
use crate::sync::{Mutex, lock, thread_local};

/// One worker of one pool: a place, which one thread after the other has where they are replaced.
#[derive(Debug)]
pub(crate) struct Worker {
    /// The pool's number, unique in the process.
    pub(crate) pool: usize,
    pub(crate) index: usize,
    /// How many workers had the place before.
    generation: AtomicUsize,
    /// After how many tasks it is replaced.
    max_tasks: Option<usize>,
    /// How many tasks it has begun.
    tasks: AtomicUsize,
    /// A runner is on its thread, below whatever runs there.
    is_runner: AtomicBool,
    /// Its thread is about to end, for a successor.
    leaves: AtomicBool,
    /// Where values of this worker lie that are dropped when it is replaced.
    locals: Arc<LocalsList>,
}

impl Worker {
    pub(crate) fn new(pool: usize, index: usize, max_tasks: Option<usize>) -> Self {
        Worker {
            pool,
            index,
            generation: AtomicUsize::new(0),
            max_tasks,
            tasks: AtomicUsize::new(0),
            is_runner: AtomicBool::new(false),
            leaves: AtomicBool::new(false),
            locals: Arc::default(),
        }
    }

    // ORDERING (all of this type): the counters are touched by the worker's own thread, whose start and end
    // order it with the one before and after; in a serial pool by its callers, which have nothing to learn
    // from one another but the numbers.
    fn identity(&self) -> Identity {
        let generation = self.generation.load(Ordering::Relaxed);
        Identity { pool: self.pool, index: self.index, generation }
    }

    /// Counts a task of this worker: a call or a chunk.
    #[inline]
    pub(crate) fn count(&self) {
        if self.max_tasks.is_some() {
            self.tasks.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Whether it has done what it is to do before it is replaced.
    #[inline]
    pub(crate) fn should_retire(&self) -> bool {
        self.max_tasks.is_some_and(|most| self.tasks.load(Ordering::Relaxed) >= most)
    }

    /// A runner begins or has ended on its thread.
    pub(crate) fn set_runner(&self, is_runner: bool) {
        self.is_runner.store(is_runner, Ordering::Relaxed);
    }

    /// Whether what runs on its thread, which is the calling one, runs on top of a runner. If not, it is in a job of rayon's
    /// or in the destructor of a thread-local.
    #[inline]
    pub(crate) fn is_runner(&self) -> bool {
        self.is_runner.load(Ordering::Relaxed)
    }

    /// It was the runner of its place, and its thread is about to end, for a successor.
    pub(crate) fn leave(&self) {
        self.leaves.store(true, Ordering::Relaxed);
    }

    /// Whether that is so, once.
    pub(crate) fn has_left(&self) -> bool {
        self.leaves.swap(false, Ordering::Relaxed)
    }

    /// Begins to count: what its initializer had it do is not among its tasks.
    pub(crate) fn begin_to_count(&self) {
        self.tasks.store(0, Ordering::Relaxed);
    }

    /// Drops what it hoards; whatever comes next in its place is the next generation. A panic of a value's
    /// `Drop` ends here.
    pub(crate) fn end_generation(&self) {
        let before = self.identity();
        let locals = std::mem::take(&mut *lock(&self.locals.0));
        for locals in locals.iter().filter_map(Weak::upgrade) {
            locals.drop_values(before);
            // It may be the last reference by now, and then drops a closure of the user's.
            discard(locals);
        }
        self.generation.fetch_add(1, Ordering::Relaxed);
        self.begin_to_count();
    }
}

/// The `WorkerLocal`s that have values of one worker.
#[derive(Default)]
struct LocalsList(Mutex<Vec<Weak<dyn Locals>>>);

impl std::fmt::Debug for LocalsList {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("LocalsList")
    }
}

impl LocalsList {
    fn add(&self, locals: Weak<dyn Locals>) {
        let mut list = lock(&self.0);
        if list.len() == list.capacity() {
            list.retain(|locals| locals.strong_count() > 0);
            // Room for as many again, so that the next look at all of them is as far off.
            let alive = list.len();
            list.reserve(alive.max(4));
        }
        list.push(locals);
    }
}

/// What keeps values per worker: a `WorkerLocal`.
pub(crate) trait Locals: Send + Sync {
    /// Drops the values of a worker that is being replaced.
    fn drop_values(&self, worker: Identity);
}

/// Which worker of which pool, and how many came before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Identity {
    pub(crate) pool: usize,
    pub(crate) index: usize,
    pub(crate) generation: usize,
}

/// A task, as far as it can be asked whether its outcome is still wanted.
pub(crate) trait Cancellable: Send + Sync {
    fn is_cancelled(&self) -> bool;
}

/// A call into a serial pool that the thread is in.
struct SerialCall {
    identity: Identity,
    locals: Arc<LocalsList>,
    /// The serial pools whose tasks this one was called from.
    outer: Option<Arc<SerialCall>>,
}

/// What the thread is running.
#[derive(Default)]
struct Running {
    task: Option<Arc<dyn Cancellable>>,
    serial: Option<Arc<SerialCall>>,
}

thread_local! {
    /// The worker that the thread is; from its start to its end.
    static THREAD: Cell<Option<Identity>> = const { Cell::new(None) };

    /// Not dropped with the thread, so that it is there in the destructors of other thread-locals. It is
    /// empty by then: who puts something in takes it out.
    static RUNNING: ManuallyDrop<RefCell<Running>> =
        const { ManuallyDrop::new(RefCell::new(Running { task: None, serial: None })) };

    /// Of the worker that the thread is; the same of this one.
    static LOCALS: ManuallyDrop<RefCell<Option<Arc<LocalsList>>>> =
        const { ManuallyDrop::new(RefCell::new(None)) };
}

/// Looks at what the thread runs. `look` runs no code of the user's: it clones or swaps pointers.
fn running<R>(look: impl FnOnce(&mut Running) -> R) -> R {
    RUNNING.with(|running| look(&mut running.borrow_mut()))
}

/// The calling thread is `worker` from now on, until it has ended, its thread-locals included. What is returned
/// is to be kept as long as its main function runs.
pub(crate) fn be_thread(worker: &Worker) -> impl Drop + use<> {
    struct Main;

    impl Drop for Main {
        fn drop(&mut self) {
            let locals = LOCALS.with(|locals| locals.borrow_mut().take());
            drop(locals);
        }
    }

    THREAD.with(|thread| thread.set(Some(worker.identity())));
    // A pool that does not replace its workers never asks for the values of one.
    if worker.max_tasks.is_some() {
        LOCALS.with(|locals| *locals.borrow_mut() = Some(Arc::clone(&worker.locals)));
    }
    Main
}

/// Runs `f` on the calling thread as `worker`, of a serial pool.
pub(crate) fn in_serial_call<R>(worker: &Worker, f: impl FnOnce() -> R) -> R {
    let outer = running(|running| running.serial.clone());
    let locals = Arc::clone(&worker.locals);
    let call = Arc::new(SerialCall { identity: worker.identity(), locals, outer });
    with_running(|running| Running { task: running.task.clone(), serial: Some(call) }, f)
}

/// The calling thread runs code of `task`, which is what [`is_cancelled`] asks, while `f` runs.
pub(crate) fn in_task<R>(task: Arc<dyn Cancellable>, f: impl FnOnce() -> R) -> R {
    with_running(|running| Running { task: Some(task), serial: running.serial.clone() }, f)
}

/// Puts what `inner` makes in the place of what is running while `f` runs.
fn with_running<R>(inner: impl FnOnce(&Running) -> Running, f: impl FnOnce() -> R) -> R {
    struct Restore(Running);

    impl Drop for Restore {
        fn drop(&mut self) {
            let outer = std::mem::take(&mut self.0);
            let inner = running(|running| std::mem::replace(running, outer));
            // It may be the last owner of what the user's code has left.
            discard(inner);
        }
    }

    let _restore = Restore(running(|running| {
        let inner = inner(running);
        std::mem::replace(running, inner)
    }));
    f()
}

/// Runs `task`. Its panics are its own; this is the net below.
pub(crate) fn run(task: Arc<dyn Task + '_>, worker: &Worker) {
    if let Err(payload) = catch(|| task.run(worker)) {
        discard(payload);
    }
}

/// Skips `task`, in the same way.
pub(crate) fn skip(task: TaskRef, why: crate::error::Error) {
    if let Err(payload) = catch(|| task.skip(why)) {
        discard(payload);
    }
}

/// The index of the worker of pool `pool` that the calling thread is, if it is one.
pub(crate) fn index_in(pool: usize) -> Option<usize> {
    if let Some(thread) = THREAD.with(Cell::get).filter(|thread| thread.pool == pool) {
        return Some(thread.index);
    }
    running(|running| {
        let mut call = running.serial.as_ref();
        while let Some(serial) = call {
            if serial.identity.pool == pool {
                return Some(serial.identity.index);
            }
            call = serial.outer.as_ref();
        }
        None
    })
}

/// Whether the calling thread is a worker of pool `pool`.
pub(crate) fn is_of(pool: usize) -> bool {
    index_in(pool).is_some()
}

/// The worker that the calling code runs on: that of the serial pool it was called by last, or the thread.
pub(crate) fn current() -> Option<Identity> {
    running(|running| running.serial.as_ref().map(|serial| serial.identity))
        .or_else(|| THREAD.with(Cell::get))
}

/// Has the values of `locals` dropped when the current worker is replaced.
pub(crate) fn remember_locals(locals: Weak<dyn Locals>) {
    let list = running(|running| running.serial.as_ref().map(|serial| Arc::clone(&serial.locals)))
        .or_else(|| LOCALS.with(|locals| locals.borrow().clone()));
    if let Some(list) = list {
        list.add(locals);
    }
}

/// What the running task would be asked, for calls that it waits for.
pub(crate) fn running_task() -> Option<Arc<dyn Cancellable>> {
    running(|running| running.task.clone())
}

/// A number that is this thread's alone as long as it lives.
pub(crate) fn thread_number() -> usize {
    thread_local! {
        static MINE: Cell<u8> = const { Cell::new(0) };
    }
    MINE.with(|mine| std::ptr::from_ref(mine).addr())
}

/// Which worker runs the calling code: its place in the pool and how often that was filled before.
///
/// Python: `multiprocessing.current_process()`, made of numbers.
///
/// Ids of workers of two pools differ, also where index and generation are the same; they are ordered by pool, index, generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WorkerId {
    pool: usize,
    index: usize,
    generation: usize,
}

impl WorkerId {
    /// The worker's place: from 0 to one less than the pool's [`processes`](crate::Pool::processes).
    ///
    /// ```
    /// # let pool = parpool::Pool::new(2)?;
    /// let worker = pool.apply(parpool::current_worker, ())?.unwrap();
    /// assert!(worker.index() < pool.processes());
    /// # Ok::<(), parpool::Error>(())
    /// ```
    pub fn index(&self) -> usize {
        self.index
    }

    /// How many workers had this place before: grows by one each time it is
    /// [replaced](crate::Builder::max_tasks_per_child).
    ///
    /// ```
    /// let pool = parpool::Pool::builder().processes(1).max_tasks_per_child(1).build()?;
    /// let generation = || parpool::current_worker().unwrap().generation();
    /// assert_eq!([pool.apply(generation, ())?, pool.apply(generation, ())?], [0, 1]);
    /// # Ok::<(), parpool::Error>(())
    /// ```
    pub fn generation(&self) -> usize {
        self.generation
    }
}

/// The worker that runs the calling code; `None` outside of every pool.
///
/// Known in tasks, initializers and callbacks that run on a worker. In a pool of
/// [`Context::serial`](crate::Context::serial) it is worker 0, which is the caller's thread.
///
/// Python: `multiprocessing.current_process()`.
///
/// ```
/// use parpool::{Pool, current_worker};
///
/// let pool = Pool::new(2)?;
/// let worker = pool.apply(current_worker, ())?.expect("a worker runs it");
/// assert!(worker.index() < 2);
/// assert_eq!(worker.generation(), 0);
/// assert_eq!(current_worker(), None);
/// # Ok::<(), parpool::Error>(())
/// ```
pub fn current_worker() -> Option<WorkerId> {
    let id = |Identity { pool, index, generation }| WorkerId { pool, index, generation };
    current().map(id)
}

/// Whether nobody wants the outcome of the running task any more: the pool was terminated, the time
/// of the call is up, the handle was [cancelled](crate::AsyncResult::cancel), or one of these is true
/// of the call this one was made in. `false` outside of every pool.
///
/// A long task asks now and then and returns early; what it returns is thrown away, but for a call that
/// was cancelled while it ran: that one has the last word. A thread cannot be
/// stopped from outside, in Rust as in Python. Asking costs about ten nanoseconds, and a clock read more
/// where there is a deadline.
///
/// It answers for the task that this thread has begun last and not ended: ask it in the task's own code. In
/// rayon code (`par_iter`, `join`, `scope`) of a task it may answer for another one, since rayon runs
/// a piece of it on any worker, also on top of the wait of another task, and tells nobody whose it is. There,
/// ask the handle of [`current_task`], taken before the rayon code begins.
///
/// The other items of a `map` in which one has failed are not cancelled: those that have not begun are
/// skipped, those that run are not told.
///
/// ```
/// use std::time::Duration;
/// use parpool::{Error, Pool, is_cancelled};
///
/// let pool = Pool::new(1)?;
/// let result = pool.timeout(Duration::from_millis(20)).apply(
///     || while !is_cancelled() { std::thread::yield_now() }, ());
/// assert!(matches!(result, Err(Error::DeadlineExceeded)));
/// # Ok::<(), Error>(())
/// ```
pub fn is_cancelled() -> bool {
    running_task().is_some_and(|task| task.is_cancelled())
}

/// The running task, as a handle that can be asked on any thread whether its outcome is still wanted.
///
/// To be taken in the task's own code, before rayon code or a thread of one's own begins. Outside of every
/// task it is the handle of no task, which is never cancelled.
///
/// Python has none.
///
/// ```
/// use std::time::Duration;
/// use parpool::{Error, Pool, current_task};
/// use rayon::prelude::*;
///
/// let pool = Pool::new(2)?;
/// let search = || {
///     let task = current_task();
///     // Any worker may run a piece of this.
///     (0_u64..u64::MAX).into_par_iter().find_any(|_| task.is_cancelled())
/// };
/// let result = pool.timeout(Duration::from_millis(20)).apply(search, ());
/// assert!(matches!(result, Err(Error::DeadlineExceeded)));
/// assert!(!current_task().is_cancelled());
/// # Ok::<(), Error>(())
/// ```
pub fn current_task() -> CurrentTask {
    CurrentTask(running_task())
}

/// A handle of the task that called [`current_task`].
///
/// It keeps a little memory of the call, and neither its closure nor its result.
///
/// ```
/// # let pool = parpool::Pool::new(1)?;
/// let wanted = pool.apply(|| {
///     let task = parpool::current_task();
///     std::thread::spawn(move || !task.is_cancelled()).join().unwrap()
/// }, ())?;
/// assert!(wanted);
/// # Ok::<(), parpool::Error>(())
/// ```
#[derive(Clone)]
pub struct CurrentTask(Option<Arc<dyn Cancellable>>);

impl CurrentTask {
    /// Whether nobody wants the outcome of this task any more; see [`is_cancelled`] for when that is.
    ///
    /// ```
    /// let pool = parpool::Pool::new(1)?;
    /// let (send, tasks) = std::sync::mpsc::channel();
    /// let call = pool.apply_async(move || {
    ///     let task = parpool::current_task();
    ///     send.send(task.clone()).unwrap();
    ///     while !task.is_cancelled() { std::thread::yield_now() }
    /// }, ());
    /// let task = tasks.recv().unwrap();
    /// assert!(!task.is_cancelled());
    /// call.cancel();
    /// assert!(task.is_cancelled());
    /// # Ok::<(), parpool::Error>(())
    /// ```
    pub fn is_cancelled(&self) -> bool {
        self.0.as_ref().is_some_and(|task| task.is_cancelled())
    }

    /// Runs `f` as code of this task: the calls that it makes, and [`is_cancelled`], know which task they
    /// belong to. For rayon code that calls the pool. A panic of `f` is passed on.
    ///
    /// ```
    /// use rayon::prelude::*;
    ///
    /// let pool = parpool::Pool::new(2)?;
    /// let rows = vec![vec![1, 2], vec![3]];
    /// let sums = pool.install(|| {
    ///     let task = parpool::current_task();
    ///     rows.par_iter().map(|row| task.enter(|| pool.sum(|x: &i32| *x, row).unwrap())).collect::<Vec<_>>()
    /// })?;
    /// assert_eq!(sums, [3, 3]);
    /// # Ok::<(), parpool::Error>(())
    /// ```
    pub fn enter<R>(&self, f: impl FnOnce() -> R) -> R {
        let task = self.0.clone();
        with_running(|running| Running { task, serial: running.serial.clone() }, f)
    }
}

impl std::fmt::Debug for CurrentTask {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CurrentTask").field("cancelled", &self.is_cancelled()).finish()
    }
}
