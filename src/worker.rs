//! What a thread knows of itself: which worker it is, and what it is running.
//!
//! A wait on a worker *helps*: it runs the awaited task itself if nobody has begun it; else what the
//! waiting task has submitted besides, oldest first; and only then blocks. It runs nothing else, for
//! what it runs sits on top of the waiting task's stack: an unrelated task there might wait for the very
//! task it covers, and neither could go on.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};

use crate::panic::{catch, discard};
use crate::queue::{Task, TaskRef};
use crate::sync::{Mutex, lock};

/// One worker of one pool, as far as its thread needs to know it.
pub(crate) struct Worker {
    /// The pool's number, unique in the process.
    pub(crate) pool: usize,
    pub(crate) index: usize,
    /// How many came before it in this place. Grows only in a serial pool, whose thread stays.
    generation: AtomicUsize,
    /// After how many tasks it is replaced.
    life: Option<usize>,
    /// How many tasks it has begun to count.
    tasks: AtomicUsize,
    /// Whether a drainer runs on its thread.
    draining: AtomicBool,
    /// Where values of this worker lie that are dropped when it is replaced.
    locals: Mutex<Vec<Weak<dyn Locals>>>,
}

/// What keeps values per worker: a `WorkerLocal`.
pub(crate) trait Locals: Send + Sync {
    /// Drops the values of a worker that is being replaced.
    fn drop_values(&self, worker: &Worker);
}

impl Worker {
    pub(crate) fn new(pool: usize, index: usize, generation: usize, life: Option<usize>) -> Self {
        Worker {
            pool,
            index,
            generation: AtomicUsize::new(generation),
            life,
            tasks: AtomicUsize::new(0),
            draining: AtomicBool::new(false),
            locals: Mutex::default(),
        }
    }

    // ORDERING (all of this type): the counters are touched by the worker's own thread; in a serial
    // pool by its callers, which have nothing to learn from one another but the numbers.
    pub(crate) fn generation(&self) -> usize {
        self.generation.load(Ordering::Relaxed)
    }

    /// Counts a task of this worker: a call or a chunk.
    #[inline]
    pub(crate) fn count(&self) {
        if self.life.is_some() {
            self.tasks.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Whether it has done what it is to do before it is replaced.
    #[inline]
    pub(crate) fn is_spent(&self) -> bool {
        self.life.is_some_and(|life| self.tasks.load(Ordering::Relaxed) >= life)
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    /// Runs `drain`, which does not panic, and is draining while it runs.
    pub(crate) fn draining(&self, drain: impl FnOnce()) {
        self.draining.store(true, Ordering::Relaxed);
        drain();
        self.draining.store(false, Ordering::Relaxed);
    }

    pub(crate) fn keeps(&self, locals: Weak<dyn Locals>) {
        lock(&self.locals).push(locals);
    }

    /// Drops what it hoards. A panic of a value's `Drop` ends here.
    pub(crate) fn drop_values(&self) {
        let locals = std::mem::take(&mut *lock(&self.locals));
        for locals in locals.iter().filter_map(Weak::upgrade) {
            locals.drop_values(self);
            // It may be the last reference by now, and then drops a closure of the user's.
            discard(locals);
        }
    }

    /// Makes it its own successor: a serial pool has no other thread to be replaced by.
    pub(crate) fn renew(&self) {
        self.drop_values();
        self.tasks.store(0, Ordering::Relaxed);
        self.generation.fetch_add(1, Ordering::Relaxed);
    }
}

/// Something that may be asked whether its outcome is still wanted.
pub(crate) trait Cancellable: Send + Sync {
    fn is_cancelled(&self) -> bool;
}

/// What the thread is running.
#[derive(Default)]
struct Frame {
    /// Tasks that were submitted from here, oldest first, as far as they are not known to be done. Most
    /// tasks submit none, and a frame is made for each: so it is small until one does.
    #[expect(clippy::box_collection, reason = "a frame is moved for each task: 8 bytes, not 32")]
    children: Option<Box<VecDeque<TaskRef>>>,
    signal: Option<Arc<dyn Cancellable>>,
}

struct Current {
    worker: Arc<Worker>,
    frame: Frame,
}

thread_local! {
    static CURRENT: RefCell<Option<Current>> = const { RefCell::new(None) };
}

/// Lets `f` see what the thread is; `None` elsewhere, and in the destructors of thread-locals.
fn with<R>(f: impl FnOnce(&mut Current) -> R) -> Option<R> {
    let seen = CURRENT.try_with(|current| current.borrow_mut().as_mut().map(f));
    seen.ok().flatten()
}

/// The calling thread is `worker` while `f` runs.
pub(crate) fn be<R>(worker: Arc<Worker>, f: impl FnOnce() -> R) -> R {
    struct Restore(Option<Current>);

    impl Drop for Restore {
        fn drop(&mut self) {
            let outer = self.0.take();
            // Dropped outside the cell: children may be the last owners of the user's values.
            let _inner = CURRENT.try_with(|current| current.replace(outer));
        }
    }

    let inner = Current { worker, frame: Frame::default() };
    let _restore = Restore(CURRENT.with(|current| current.replace(Some(inner))));
    f()
}

/// Runs `task`. Its panics are its own; this is the net below.
pub(crate) fn run(task: Arc<dyn Task + '_>) {
    if let Err(payload) = catch(|| task.run()) {
        discard(payload);
    }
}

/// The calling thread runs the user's code of one task while `f` runs, and `signal` is what
/// [`is_cancelled`] asks in it.
pub(crate) fn in_task<R>(signal: Arc<dyn Cancellable>, f: impl FnOnce() -> R) -> R {
    in_frame(Frame { children: None, signal: Some(signal) }, f)
}

/// The same for a part of a call that says by itself what is asked.
pub(crate) fn in_own_frame<R>(f: impl FnOnce() -> R) -> R {
    in_frame(Frame::default(), f)
}

/// Makes `signal` what [`is_cancelled`] asks while `f` runs.
pub(crate) fn with_signal<R>(signal: Arc<dyn Cancellable>, f: impl FnOnce() -> R) -> R {
    struct Restore(Option<Arc<dyn Cancellable>>);

    impl Drop for Restore {
        fn drop(&mut self) {
            let outer = self.0.take();
            let _inner = with(|current| std::mem::replace(&mut current.frame.signal, outer));
        }
    }

    let _restore = Restore(with(|current| current.frame.signal.replace(signal)).flatten());
    f()
}

fn in_frame<R>(frame: Frame, f: impl FnOnce() -> R) -> R {
    struct Restore(Option<Frame>);

    impl Drop for Restore {
        fn drop(&mut self) {
            let Some(outer) = self.0.take() else { return };
            let inner = with(|current| std::mem::replace(&mut current.frame, outer));
            if let Some(inner) = inner {
                discard(inner);
            }
        }
    }

    let _restore = Restore(with(|current| std::mem::replace(&mut current.frame, frame)));
    f()
}

/// The worker that the calling thread is, if it is one of pool `pool`.
pub(crate) fn of(pool: usize) -> Option<Arc<Worker>> {
    with(|current| (current.worker.pool == pool).then(|| Arc::clone(&current.worker))).flatten()
}

/// Whether the calling thread is a worker of pool `pool`.
pub(crate) fn is_of(pool: usize) -> bool {
    with(|current| current.worker.pool == pool).unwrap_or(false)
}

pub(crate) fn current() -> Option<Arc<Worker>> {
    with(|current| Arc::clone(&current.worker))
}

/// What the running task would be asked, for calls that it waits for.
pub(crate) fn signal() -> Option<Arc<dyn Cancellable>> {
    with(|current| current.frame.signal.clone()).flatten()
}

/// Remembers `task` as submitted by the running one.
pub(crate) fn adopt(task: &TaskRef) {
    // Two old ones out for each one in: a task that submits for ever keeps what is not done.
    let done = with(|current| {
        let children = current.frame.children.get_or_insert_default();
        let mut done = [None, None];
        for place in &mut done {
            if children.front().is_some_and(|child| child.is_stale()) {
                *place = children.pop_front();
            }
        }
        children.push_back(Arc::clone(task));
        done
    });
    discard(done);
}

/// The oldest task that the running one has submitted and nobody has begun.
pub(crate) fn next_child() -> Option<TaskRef> {
    loop {
        let child = with(|current| current.frame.children.as_mut()?.pop_front()).flatten()?;
        if !child.is_stale() {
            return Some(child);
        }
        discard(child);
    }
}

/// Which worker runs the calling code: its place in the pool and how often that was filled before.
///
/// Python: `multiprocessing.current_process()`, made of numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct WorkerId {
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
    current().map(|worker| WorkerId { index: worker.index, generation: worker.generation() })
}

/// Whether nobody wants the outcome of the running task any more: the pool was terminated, the time
/// of the call is up, the handle was [cancelled](crate::AsyncResult::cancel), or one of these is true
/// of the call this one was made in. `false` outside of every pool.
///
/// A long task asks now and then and returns early; what it returns is thrown away, but for a call that
/// was cancelled while it ran: that one has the last word. A thread cannot be
/// stopped from outside, in Rust as in Python. Asking costs some ten nanoseconds, and a clock read more
/// where there is a deadline.
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
/// assert!(matches!(result, Err(Error::Timeout)));
/// # Ok::<(), Error>(())
/// ```
pub fn is_cancelled() -> bool {
    signal().is_some_and(|signal| signal.is_cancelled())
}
