//! The handle of work that goes on by itself.

use std::fmt;
use std::future::Future;
use std::panic::{RefUnwindSafe, UnwindSafe};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use super::call::PendingTask;
use super::state::Wake;
use crate::error::Error;
use crate::scheduler::{park, worker};
use crate::sync::Instant;

/// The result of [`apply_async`](crate::Pool::apply_async) and its siblings: a value that is there,
/// or will be.
///
/// `'s` is what the call may borrow from: `'static` for most, for which [`AsyncResult`] is the name, and the scope for
/// those of a [`Scope`](crate::Scope), whose handles cannot leave it.
///
/// Every handle resolves: to a value, or to the [`Error`] that says why there is none. Dropping it
/// does not stop the work, unless it was [asked to](TaskHandle::cancel_on_drop); its value is then dropped as
/// soon as it is made.
///
/// It is a [`Future`] too, for any runtime.
///
/// On one of the pool's own workers a wait *helps*: it runs the awaited task itself if nobody has
/// begun it, and nothing else. So a task may wait for others on a pool of one, to any depth that the stack has room
/// for, and no wait makes two tasks wait for each other that would not by themselves.
///
/// A wait for a handle in a callback of it would never end: there `get` is [`WouldDeadlock`](Error::WouldDeadlock),
/// and `wait` returns at once.
///
/// Python: `multiprocessing.pool.AsyncResult` and `concurrent.futures.Future`.
///
/// ```
/// use parpool::Pool;
///
/// let pool = Pool::new(2)?;
/// let sum = pool.apply_async(|a: i32, b: i32| a + b, (1, 2));
/// let squares = pool.map_async(|x: i32| x * x, 0..4);
/// assert_eq!(sum.get()?, 3);
/// assert_eq!(squares.get()?, [0, 1, 4, 9]);
/// # Ok::<(), parpool::Error>(())
/// ```
#[must_use = "dropping the handle throws the result away; the work is done all the same"]
pub struct TaskHandle<'s, T> {
    task: Arc<dyn PendingTask<'s, T> + 's>,
    /// Where `terminate` finds the waker of the last poll.
    ticket: Option<u64>,
    /// The outcome was taken, so there is none to be dropped with the handle.
    taken: bool,
    cancel_on_drop: bool,
}

/// The handle of a call that borrows nothing, as all are but those of a [`Scope`](crate::Scope).
///
/// Python: `multiprocessing.pool.AsyncResult`.
pub type AsyncResult<T> = TaskHandle<'static, T>;

impl<'s, T> TaskHandle<'s, T> {
    pub(crate) fn new(task: Arc<dyn PendingTask<'s, T> + 's>) -> Self {
        TaskHandle { task, ticket: None, taken: false, cancel_on_drop: false }
    }

    /// Waits and hands the value over.
    ///
    /// # Errors
    /// What became of the call: [`Panicked`](Error::Panicked), [`Terminated`](Error::Terminated),
    /// [`NotRunning`](Error::NotRunning) if it was refused, [`Cancelled`](Error::Cancelled),
    /// [`DeadlineExceeded`](Error::DeadlineExceeded) of the call's own [`timeout`](crate::Pool::timeout); or
    /// [`Taken`](Error::Taken), if an earlier `get_timeout` has handed it over.
    ///
    /// ```
    /// # let pool = parpool::Pool::new(1)?;
    /// assert_eq!(pool.apply_async(|| 7, ()).get()?, 7);
    /// # Ok::<(), parpool::Error>(())
    /// ```
    pub fn get(mut self) -> Result<T, Error> {
        self.wait_and_take()
    }

    /// When the call's own time is up.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.task.context().deadline
    }

    fn wait_and_take(&mut self) -> Result<T, Error> {
        loop {
            if let Some(outcome) = self.task.try_take() {
                self.taken = true;
                return outcome;
            }
            if !self.wait_until(None) {
                // Only in a callback of its own.
                return Err(Error::WouldDeadlock);
            }
        }
    }

    /// Waits no longer than `timeout` and hands the value over.
    ///
    /// After an `Err(Timeout)` the handle is as good as before. A call that was made with a
    /// [`timeout`](crate::Pool::timeout) of its own is an `Err(DeadlineExceeded)` once that has passed.
    /// On a worker the wait helps, and what it has begun to run it runs to the end.
    ///
    /// # Errors
    /// As [`get`](TaskHandle::get), and [`Timeout`](Error::Timeout).
    ///
    /// Python: `get(timeout=…)`.
    ///
    /// ```
    /// use std::{sync::mpsc, time::Duration};
    /// use parpool::{Error, Pool};
    ///
    /// let pool = Pool::new(1)?;
    /// let (send, receive) = mpsc::channel();
    /// let mut result = pool.apply_async(move || receive.recv().unwrap(), ());
    /// assert!(matches!(result.get_timeout(Duration::from_millis(1)), Err(Error::Timeout)));
    /// send.send(42).unwrap();
    /// assert_eq!(result.get_timeout(Duration::from_secs(10))?, 42);
    /// assert!(matches!(result.get(), Err(Error::Taken)));
    /// # Ok::<(), Error>(())
    /// ```
    pub fn get_timeout(&mut self, timeout: Duration) -> Result<T, Error> {
        match self.wait_until(park::deadline(timeout)) {
            true => self.wait_and_take(),
            false if self.task.is_calling_here() => Err(Error::WouldDeadlock),
            false => Err(Error::Timeout),
        }
    }

    /// Waits until there is a result, a value or an error.
    ///
    /// ```
    /// # let pool = parpool::Pool::new(1)?;
    /// let result = pool.apply_async(|| (), ());
    /// result.wait();
    /// assert!(result.ready());
    /// # Ok::<(), parpool::Error>(())
    /// ```
    pub fn wait(&self) {
        self.wait_until(None);
    }

    /// Waits no longer than `timeout`; whether there is a result now. On a worker the wait helps, and
    /// what it has begun to run it runs to the end.
    ///
    /// Python: `wait(timeout)`, which does not say.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # let pool = parpool::Pool::new(1)?;
    /// let result = pool.apply_async(|| (), ());
    /// assert!(result.wait_timeout(Duration::from_secs(10)));
    /// # Ok::<(), parpool::Error>(())
    /// ```
    pub fn wait_timeout(&self, timeout: Duration) -> bool {
        self.wait_until(park::deadline(timeout))
    }

    /// Whether there is a result, a value or an error; also after it was taken.
    ///
    /// ```
    /// # let pool = parpool::Pool::new(1)?;
    /// let (send, receive) = std::sync::mpsc::channel::<()>();
    /// let result = pool.apply_async(move || receive.recv().is_ok(), ());
    /// assert!(!result.ready());
    /// drop(send);
    /// assert_eq!(result.get()?, false);
    /// # Ok::<(), parpool::Error>(())
    /// ```
    pub fn ready(&self) -> bool {
        self.task.poll(Wake::Nobody)
    }

    /// Whether the result is a value; also after it was taken.
    ///
    /// # Errors
    /// [`NotReady`](Error::NotReady), where Python raises `ValueError`.
    ///
    /// ```
    /// # let pool = parpool::Pool::new(1)?;
    /// let result = pool.apply_async(|| panic!("on purpose"), ());
    /// result.wait();
    /// assert_eq!(result.successful()?, false);
    /// # Ok::<(), parpool::Error>(())
    /// ```
    pub fn successful(&self) -> Result<bool, Error> {
        self.task.poll(Wake::Nobody);
        self.task.successful()
    }

    /// How many items are finished, and of how many; the second is not known of an iterator before a worker
    /// has begun, and of one that does not say its length, before it has ended. A call of `apply_async` is one item.
    ///
    /// It may be behind by what a worker does in some microseconds. For a bar see [`Progress`](crate::Progress).
    ///
    /// Python has none; of `_number_left`, which people use, it is the other end.
    ///
    /// ```
    /// # let pool = parpool::Pool::new(1)?;
    /// let result = pool.map_async(|x| x * x, vec![1, 2, 3]);
    /// result.wait();
    /// assert_eq!(result.progress(), (3, Some(3)));
    /// # Ok::<(), parpool::Error>(())
    /// ```
    pub fn progress(&self) -> (usize, Option<usize>) {
        match &self.task.context().watch {
            Some(watch) => watch.get(),
            None => (usize::from(matches!(self.successful(), Ok(true))), Some(1)),
        }
    }

    /// Cancels the call if it has not begun: true, and it never will; the result is
    /// [`Cancelled`](Error::Cancelled).
    ///
    /// False if it has: then [`is_cancelled`](crate::is_cancelled) is true for it from now on, and
    /// its result is what it returns.
    ///
    /// Python: `concurrent.futures.Future.cancel`; `multiprocessing` has nothing.
    ///
    /// ```
    /// # use parpool::{Error, Pool};
    /// let pool = Pool::new(1)?;
    /// let (send, receive) = std::sync::mpsc::channel();
    /// let running = pool.apply_async(move || receive.recv().unwrap(), ());
    /// let queued = pool.apply_async(|| unreachable!(), ());
    /// assert!(queued.cancel());
    /// send.send("go on").unwrap();
    /// assert_eq!(running.get()?, "go on");
    /// assert!(matches!(queued.get(), Err::<(), _>(Error::Cancelled)));
    /// # Ok::<(), Error>(())
    /// ```
    pub fn cancel(&self) -> bool {
        self.task.cancel()
    }

    /// Has the call [cancelled](TaskHandle::cancel) when the handle is dropped before its result was taken. Without this the
    /// work goes on. It is no more than `cancel`: of a map that has begun, all items are still called, and each can ask
    /// [`is_cancelled`](crate::is_cancelled).
    ///
    /// For async tasks, where a future that is not wanted any more is dropped: the loser of a `select!`, a request whose
    /// client has gone, a timeout of the runtime's.
    ///
    /// ```
    /// # use parpool::{Error, Pool};
    /// let pool = Pool::new(1)?;
    /// let (send, receive) = std::sync::mpsc::channel::<()>();
    /// let running = pool.apply_async(move || receive.recv(), ());
    /// let unwanted = pool.apply_async(|| unreachable!(), ()).cancel_on_drop();
    /// drop(unwanted);
    /// drop((send, running));
    /// pool.close();
    /// pool.join()?;
    /// # Ok::<(), Error>(())
    /// ```
    pub fn cancel_on_drop(mut self) -> Self {
        self.cancel_on_drop = true;
        self
    }

    /// Waits for the outcome; false if the time was up first, or if it would never come.
    fn wait_until(&self, deadline: Option<Instant>) -> bool {
        let (shared, own) = (&self.task.context().shared, self.task.context().deadline);
        let is_worker = worker::is_of(shared.id);
        let passed = || deadline.is_some_and(|deadline| Instant::now() >= deadline);
        // Up when the call's own time is, too: the look after that makes it an `Err(DeadlineExceeded)`, unless
        // somebody else is just giving it its outcome; for that it waits as long as it was asked to.
        let mut end = [deadline, own].into_iter().flatten().min();
        let _waiting = shared.waiting();
        loop {
            if self.task.poll(Wake::Nobody) {
                return true;
            }
            if self.task.is_calling_here() {
                return false;
            }
            if !passed() && self.help() {
                continue;
            }
            let up = shared.wait(end, |waker| {
                self.task.poll(Wake::Thread(waker))
                    || is_worker && !passed() && self.task.is_queued()
            });
            if !up && end == deadline {
                return self.task.poll(Wake::Nobody);
            }
            if !up {
                end = deadline;
            }
        }
    }

    /// As one of the pool's workers, runs what this thread waits for, if nobody has begun it. See `scheduler/worker.rs` for
    /// why nothing else.
    fn help(&self) -> bool {
        let shared = &self.task.context().shared;
        let Some(worker) = shared.this_worker() else { return false };
        let _open = shared.keep_open(worker);
        match self.task.withdraw() {
            Some(entry) => {
                worker::run(entry, worker);
                true
            }
            None => false,
        }
    }

    /// Has `f` called with the value, once, before [`ready`](TaskHandle::ready) turns true and
    /// before [`get`](TaskHandle::get) returns. Not at all if there is none.
    ///
    /// It runs on the worker that made the value, or at once on this thread if there is one already. (An
    /// error may come from elsewhere: then the callbacks run on the thread that noticed, one that waits
    /// for the handle or asks it, or one that [cancels](TaskHandle::cancel).)
    /// It may use the pool. A panic in it is caught and costs nobody the value. Several callbacks run
    /// in the order they were given.
    ///
    /// In a scope it may borrow what the tasks of the scope may borrow.
    ///
    /// Python: the argument `callback=`.
    ///
    /// ```
    /// # use std::sync::atomic::{AtomicI32, Ordering};
    /// # use std::sync::Arc;
    /// # let pool = parpool::Pool::new(1)?;
    /// let seen = Arc::new(AtomicI32::new(0));
    /// let result = pool.apply_async(|| 42, ()).callback({
    ///     let seen = Arc::clone(&seen);
    ///     move |value| seen.store(*value, Ordering::Relaxed)
    /// });
    /// result.wait();
    /// assert_eq!(seen.load(Ordering::Relaxed), 42);
    /// # Ok::<(), parpool::Error>(())
    /// ```
    pub fn callback<F: FnOnce(&T) + Send + 's>(self, f: F) -> Self {
        self.task.on_outcome(Box::new(|outcome| {
            if let Ok(value) = outcome {
                f(value);
            }
        }));
        self
    }

    /// Has `f` called with the error, if the result is one; else as [`callback`](TaskHandle::callback).
    ///
    /// Python: the argument `error_callback=`.
    ///
    /// ```
    /// # let pool = parpool::Pool::new(1)?;
    /// let (send, receive) = std::sync::mpsc::channel();
    /// let result = pool
    ///     .apply_async(|| panic!("on purpose"), ())
    ///     .error_callback(move |error| send.send(error.to_string()).unwrap());
    /// assert_eq!(receive.recv().unwrap(), "the closure panicked: on purpose");
    /// # drop(result);
    /// # Ok::<(), parpool::Error>(())
    /// ```
    pub fn error_callback<F: FnOnce(&Error) + Send + 's>(self, f: F) -> Self {
        self.task.on_outcome(Box::new(|outcome| {
            if let Err(error) = outcome {
                f(error);
            }
        }));
        self
    }
}

/// `.await` under any runtime. The call's own [`timeout`](crate::Pool::timeout) has no timer behind
/// it here: it is noticed when the task begins or ends, and at each poll.
///
/// Polled on one of the pool's workers it helps, as a blocking wait does.
///
/// ```
/// use std::{future::Future, pin::pin, task::{Context, Poll, Waker}};
///
/// let pool = parpool::Pool::new(1)?;
/// let result = pool.apply_async(|| 42, ());
/// result.wait();
/// let polled = pin!(result).poll(&mut Context::from_waker(Waker::noop()));
/// assert!(matches!(polled, Poll::Ready(Ok(42))));
/// # Ok::<(), parpool::Error>(())
/// ```
impl<T> Future for TaskHandle<'_, T> {
    type Output = Result<T, Error>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        while !self.task.poll(Wake::Nobody) && self.help() {}
        let this = &mut *self;
        if this.task.is_calling_here() {
            return Poll::Ready(Err(Error::WouldDeadlock));
        }
        let wakers = &this.task.context().shared.wakers;
        wakers.add(&mut this.ticket, context.waker());
        if !this.task.poll(Wake::Future(context.waker())) {
            return Poll::Pending;
        }
        wakers.remove(&mut this.ticket);
        Poll::Ready(this.wait_and_take())
    }
}

// Nobody sees the value before it is whole.
impl<T> UnwindSafe for TaskHandle<'_, T> {}
impl<T> RefUnwindSafe for TaskHandle<'_, T> {}

impl<T> Drop for TaskHandle<'_, T> {
    fn drop(&mut self) {
        if self.ticket.is_some() {
            self.task.context().shared.wakers.remove(&mut self.ticket);
        }
        if !self.taken {
            if self.cancel_on_drop {
                self.task.cancel();
            }
            self.task.detach();
        }
    }
}

impl<T> fmt::Debug for TaskHandle<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = match self.successful() {
            Ok(true) => "value",
            Ok(false) => "error",
            Err(_) => "pending",
        };
        f.debug_tuple("TaskHandle").field(&format_args!("{state}")).finish()
    }
}
