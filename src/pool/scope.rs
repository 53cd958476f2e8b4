//! Work that goes on by itself and borrows from the stack.

use std::fmt;
use std::sync::Arc;
use std::task::Waker;

use super::options::Options;
use crate::error::Error;
use crate::input::{Apply, Iterable, Star};
use crate::map::map_async;
use crate::raw::{self, BorrowedTask, ScopeTasks};
use crate::scheduler::{Shared, Task, Ticket, Worker, worker};
use crate::stream::Imap;
use crate::sync::Instant;
use crate::task::{CallKind, TaskHandle, refused, submit_by};

/// What [`Pool::scope`](crate::Pool::scope) gives its body: the verbs that return before they are done,
/// with closures and items that may borrow what lives longer than the scope.
///
/// Not even leaking the handles and streams lets anything outlive what it borrows: the scope waits for
/// its tasks and not for its handles. (A stream that is leaked is done with what it has pulled.)
///
/// A small value to be copied, also into its own tasks, which may submit more.
///
/// ```
/// let pool = parpool::Pool::new(2)?;
/// let xs = vec![1, 2, 3, 4];
/// let (left, right) = xs.split_at(2);
/// let sums = pool.scope(|s| {
///     let left = s.apply_async(|| left.iter().sum::<i32>(), ());
///     let right = s.apply_async(|| right.iter().sum::<i32>(), ());
///     (left.get().unwrap(), right.get().unwrap())
/// });
/// assert_eq!(sums, (3, 7));
/// # Ok::<(), parpool::Error>(())
/// ```
///
/// What does not live long enough does not compile:
///
/// ```compile_fail,E0597
/// # let pool = parpool::Pool::new(2).unwrap();
/// pool.scope(|s| {
///     let short = vec![1, 2, 3];
///     let _ = s.apply_async(|| short.len(), ());
/// });
/// ```
///
/// neither for a task nor for a callback:
///
/// ```compile_fail,E0597
/// # let pool = parpool::Pool::new(2).unwrap();
/// pool.scope(|s| {
///     let short = vec![1, 2, 3];
///     let _ = s.apply_async(|| 1, ()).callback(|_| drop(short.len()));
/// });
/// ```
///
/// nor do handles and streams leave the scope:
///
/// ```compile_fail
/// # let pool = parpool::Pool::new(2).unwrap();
/// let text = String::from("borrowed");
/// let handle = pool.scope(|s| s.apply_async(|| text.len(), ()));
/// ```
///
/// ```compile_fail
/// # let pool = parpool::Pool::new(2).unwrap();
/// let text = String::from("borrowed");
/// let stream = pool.scope(|s| s.imap(|i| i + text.len(), 0..10));
/// ```
#[derive(Clone, Copy)]
pub struct Scope<'scope, 'env: 'scope> {
    options: Options<'env>,
    tasks: &'scope ScopeTasks<'scope, 'env>,
}

pub(crate) fn scope<'env, F, R>(options: Options<'env>, body: F) -> R
where
    F: for<'scope> FnOnce(Scope<'scope, 'env>) -> R,
{
    let shared = options.shared;
    let end = ScopeEnd { shared, this_worker: shared.this_worker() };
    raw::scope(&end, |tasks| body(Scope { options, tasks }))
}

/// The end of a scope. A task that nobody has begun is run here, if this is a worker, and skipped as soon as nobody
/// shall wait for it any more.
struct ScopeEnd<'w> {
    shared: &'w Arc<Shared>,
    this_worker: Option<&'w Worker>,
}

impl raw::End for ScopeEnd<'_> {
    fn begin(&self, lent: &BorrowedTask) {
        let shared = self.shared;
        let late = || lent.deadline.is_some_and(|deadline| Instant::now() >= deadline);
        if self.this_worker.is_none() && !self.has_ended() && !late() {
            return;
        }
        let _open = self.this_worker.map(|worker| shared.keep_open(worker));
        let Some(entry) = lent.take_ticket().and_then(|ticket| shared.withdraw(ticket)) else {
            return;
        };
        match self.this_worker {
            // Which skips it by itself, if it is to be.
            Some(worker) => worker::run(entry, worker),
            None if self.has_ended() => worker::skip(entry, shared.stop_reason()),
            None => worker::skip(entry, Error::DeadlineExceeded),
        }
    }

    fn wait(&self, deadline: Option<Instant>, ready: &mut dyn FnMut(&Waker) -> bool) -> bool {
        let _waiting = self.shared.waiting();
        self.shared.wait(deadline, ready)
    }

    fn has_ended(&self) -> bool {
        self.shared.is_terminated()
    }
}

impl<'scope, 'env> Scope<'scope, 'env> {
    /// As [`Pool::apply_async`](crate::Pool::apply_async); may borrow. A panic of `f` is the handle's.
    ///
    /// ```
    /// let pool = parpool::Pool::new(2)?;
    /// let name = String::from("world");
    /// let greeting = pool.scope(|s| s.apply_async(|| format!("hello {name}"), ()).get());
    /// assert_eq!(greeting?, "hello world");
    /// # Ok::<(), parpool::Error>(())
    /// ```
    pub fn apply_async<F, A>(&self, f: F, args: A) -> TaskHandle<'scope, F::Output>
    where
        F: Apply<A, Output: Send + 'scope> + Send + 'scope,
        A: Send + 'scope,
    {
        match self.options.apply_options() {
            Ok(call) => {
                let work = move || Ok(f.apply(args));
                submit_by(&call, CallKind::Task, work, |task| self.submit(task))
            }
            Err(error) => refused(self.options.shared, error),
        }
    }

    /// As [`Pool::map_async`](crate::Pool::map_async); may borrow. A panic of `f` is the handle's.
    ///
    /// ```
    /// let pool = parpool::Pool::new(2)?;
    /// let (xs, factor) = (vec![1, 2, 3], 10);
    /// let scaled = pool.scope(|s| s.map_async(|x| x * factor, &xs).get());
    /// assert_eq!(scaled?, [10, 20, 30]);
    /// # Ok::<(), parpool::Error>(())
    /// ```
    pub fn map_async<M, I, F, R>(&self, f: F, items: I) -> TaskHandle<'scope, Vec<R>>
    where
        I: Iterable<M> + Send + 'scope,
        I::Item: 'scope,
        F: Fn(I::Item) -> R + Send + Sync + 'scope,
        R: Send + 'scope,
    {
        match self.options.async_options("map_async") {
            Ok(call) => map_async(&call, self.submitter(), f, items),
            Err(error) => refused(self.options.shared, error),
        }
    }

    /// As [`Pool::starmap_async`](crate::Pool::starmap_async); may borrow. A panic of `f` is the handle's.
    ///
    /// ```
    /// let pool = parpool::Pool::new(2)?;
    /// let (bases, scale) = (vec![2.0, 3.0], 10.0);
    /// let scaled = pool.scope(|s| {
    ///     s.starmap_async(|base: &f64, power| base.powi(power) * scale, bases.iter().zip([3, 2])).get()
    /// });
    /// assert_eq!(scaled?, [80.0, 90.0]);
    /// # Ok::<(), parpool::Error>(())
    /// ```
    pub fn starmap_async<M, I, F>(&self, f: F, items: I) -> TaskHandle<'scope, Vec<F::Output>>
    where
        I: Iterable<M> + Send + 'scope,
        I::Item: 'scope,
        F: Star<I::Item, Output: Send + 'scope> + Send + Sync + 'scope,
    {
        self.map_async(move |args| f.star(args), items)
    }

    /// As [`Pool::imap`](crate::Pool::imap); closure and items may borrow. A panic of `f` is its item's.
    ///
    /// ```
    /// use std::io::BufRead;
    ///
    /// let pool = parpool::Pool::new(2)?;
    /// let stop_words = ["the", "a"];
    /// let input = "the cat\na dog\n".as_bytes();
    /// let counts: Vec<usize> = pool.scope(|s| {
    ///     let count = |line: String| line.split(' ').filter(|w| !stop_words.contains(w)).count();
    ///     s.imap(count, input.lines().map_while(Result::ok)).map(Result::unwrap).collect()
    /// });
    /// assert_eq!(counts, [1, 1]);
    /// # Ok::<(), parpool::Error>(())
    /// ```
    pub fn imap<I, F, R>(&self, f: F, items: I) -> Imap<'scope, I::IntoIter, R>
    where
        I: IntoIterator<Item: Send + 'scope>,
        F: Fn(I::Item) -> R + Send + Sync + 'scope,
        R: Send + 'scope,
    {
        self.stream(true, f, items.into_iter())
    }

    /// As [`Pool::imap_unordered`](crate::Pool::imap_unordered); closure and items may borrow. A panic
    /// of `f` is its item's.
    ///
    /// ```
    /// let pool = parpool::Pool::new(2)?;
    /// let words = vec![String::from("a"), String::from("bc")];
    /// let total = pool.scope(|s| s.imap_unordered(|w| w.len(), &words).map(Result::unwrap).sum::<usize>());
    /// assert_eq!(total, 3);
    /// # Ok::<(), parpool::Error>(())
    /// ```
    pub fn imap_unordered<I, F, R>(&self, f: F, items: I) -> Imap<'scope, I::IntoIter, R>
    where
        I: IntoIterator<Item: Send + 'scope>,
        F: Fn(I::Item) -> R + Send + Sync + 'scope,
        R: Send + 'scope,
    {
        self.stream(false, f, items.into_iter())
    }

    fn stream<I, F, R>(&self, ordered: bool, f: F, items: I) -> Imap<'scope, I, R>
    where
        I: Iterator<Item: Send + 'scope>,
        F: Fn(I::Item) -> R + Send + Sync + 'scope,
        R: Send + 'scope,
    {
        self.options.stream_by(ordered, self.submitter(), f, items)
    }

    fn submit(&self, task: Arc<dyn Task + 'scope>) -> Result<Ticket, Error> {
        self.submitter()(task)
    }

    /// The same for calls that submit more tasks later.
    fn submitter(
        &self,
    ) -> impl Fn(Arc<dyn Task + 'scope>) -> Result<Ticket, Error> + Send + Sync + use<'scope, 'env>
    {
        let (shared, tasks) = (Arc::clone(self.options.shared), self.tasks);
        let deadline = self.options.deadline().ok().flatten();
        move |task| tasks.lend(task, deadline, |lent| shared.submit(lent))
    }
}

impl fmt::Debug for Scope<'_, '_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scope").field("options", &self.options).finish_non_exhaustive()
    }
}
