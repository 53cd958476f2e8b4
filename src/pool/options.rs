//! The options of a call, and the verbs themselves: `Pool`'s are these with nothing set.

use std::convert::Infallible;
use std::iter::Sum;
use std::sync::Arc;
use std::time::Duration;

use super::scope;
use super::scope::Scope;
use crate::error::{Error, TryError, only_pool};
use crate::input::{Apply, Iterable, Star};
use crate::map::{Reduce, Total, map, map_async, map_into, reduce};

use crate::observe::{Progress, Record, Recorder, Watch};
use crate::scheduler::{Shared, Task, Ticket, park};
use crate::stream::{Imap, Settings};
use crate::sync::Instant;
use crate::task::{AsyncResult, CallOptions, apply, refused, submit};

/// A pool with options for the next calls, which it has the same verbs for.
///
/// Made by [`Pool::chunksize`](crate::Pool::chunksize), [`Pool::buffersize`](crate::Pool::buffersize) and
/// [`Pool::timeout`](crate::Pool::timeout); a small value to be copied and kept.
///
/// ```
/// use std::time::Duration;
///
/// let pool = parpool::Pool::new(2)?;
/// let careful = pool.chunksize(10).timeout(Duration::from_secs(60));
/// assert_eq!(careful.map(|x| x + 1, 0..3)?, [1, 2, 3]);
/// assert_eq!(careful.map(|x| x - 1, 0..3)?, [-1, 0, 1]);
/// # Ok::<(), parpool::Error>(())
/// ```
#[derive(Clone, Copy, Debug)]
#[must_use = "options do nothing without a call"]
pub struct Options<'p> {
    pub(crate) shared: &'p Arc<Shared>,
    /// `None` is up to the pool.
    pub(crate) chunksize: Option<usize>,
    /// `None` is up to the pool.
    buffersize: Option<usize>,
    /// `None` is forever.
    timeout: Option<Duration>,
    progress: Option<&'p Progress>,
}

impl<'p> Options<'p> {
    pub(crate) fn new(shared: &'p Arc<Shared>) -> Self {
        Options { shared, chunksize: None, buffersize: None, timeout: None, progress: None }
    }

    /// See [`Pool::chunksize`](crate::Pool::chunksize).
    ///
    /// ```
    /// # let pool = parpool::Pool::new(2)?;
    /// assert_eq!(pool.timeout(std::time::Duration::MAX).chunksize(2).map(|x| x + 1, 0..3)?, [1, 2, 3]);
    /// # Ok::<(), parpool::Error>(())
    /// ```
    pub fn chunksize(mut self, items: impl Into<Option<usize>>) -> Self {
        self.chunksize = items.into();
        self
    }

    /// See [`Pool::buffersize`](crate::Pool::buffersize).
    ///
    /// ```
    /// # let pool = parpool::Pool::new(2)?;
    /// let mut stream = pool.chunksize(2).buffersize(8).imap(|x| x + 1, 0..3);
    /// assert_eq!(stream.next().unwrap()?, 1);
    /// # Ok::<(), parpool::Error>(())
    /// ```
    pub fn buffersize(mut self, items: impl Into<Option<usize>>) -> Self {
        self.buffersize = items.into();
        self
    }

    /// See [`Pool::timeout`](crate::Pool::timeout).
    ///
    /// ```
    /// # let pool = parpool::Pool::new(2)?;
    /// let minute = std::time::Duration::from_secs(60);
    /// assert_eq!(pool.chunksize(2).timeout(minute).map(|x| x + 1, 0..3)?, [1, 2, 3]);
    /// # Ok::<(), parpool::Error>(())
    /// ```
    pub fn timeout(mut self, timeout: impl Into<Option<Duration>>) -> Self {
        self.timeout = timeout.into();
        self
    }

    /// See [`Pool::progress`](crate::Pool::progress).
    ///
    /// ```
    /// # let pool = parpool::Pool::new(2)?;
    /// let progress = parpool::Progress::default();
    /// pool.chunksize(2).progress(&progress).map(|x| x + 1, 0..3)?;
    /// assert_eq!(progress.get(), (3, Some(3)));
    /// # Ok::<(), parpool::Error>(())
    /// ```
    pub fn progress(mut self, progress: &'p Progress) -> Self {
        self.progress = Some(progress);
        self
    }

    /// The deadline of a call made now.
    pub(crate) fn deadline(&self) -> Result<Option<Instant>, Error> {
        match (self.chunksize, self.buffersize) {
            (Some(0), _) => Err(Error::InvalidArgument("a chunk has at least 1 item")),
            (_, Some(0)) => Err(Error::InvalidArgument("a buffer has at least 1 item")),
            _ => Ok(self.timeout.and_then(park::deadline)),
        }
    }

    /// What a call is watched by, if it is.
    fn watch(&self, record: impl FnOnce(&Recorder) -> Arc<Record>) -> Option<Arc<Watch>> {
        let shared = self.shared;
        Watch::new(shared.count, shared.recorder.as_ref(), self.progress, record)
    }

    /// What `verb` is asked for.
    fn call_options(&self, verb: &'static str) -> Result<CallOptions<'p>, Error> {
        let (deadline, chunksize, shared) = (self.deadline()?, self.chunksize, self.shared);
        let watch = self.watch(|recorder| recorder.call(verb, self.chunksize));
        Ok(CallOptions { shared, chunksize, deadline, watch })
    }

    /// The same of a verb whose handle says how far it is.
    pub(crate) fn async_options(&self, verb: &'static str) -> Result<CallOptions<'p>, Error> {
        let mut call = self.call_options(verb)?;
        call.watch.get_or_insert_with(|| Watch::of(call.shared.count, None, None));
        Ok(call)
    }

    /// The same of a call of a single function.
    pub(crate) fn apply_options(&self) -> Result<CallOptions<'p>, Error> {
        let (deadline, shared) = (self.deadline()?, self.shared);
        let watch = self.watch(|recorder| recorder.apply());
        watch.iter().for_each(|watch| watch.expect(1));
        Ok(CallOptions { shared, chunksize: None, deadline, watch })
    }

    /// See [`Pool::map`](crate::Pool::map).
    ///
    /// # Errors
    /// As [`Pool::map`](crate::Pool::map); [`InvalidArgument`](Error::InvalidArgument) for a chunk size of 0;
    /// [`DeadlineExceeded`](Error::DeadlineExceeded) if it is not done in time.
    ///
    /// ```
    /// # let pool = parpool::Pool::new(2)?;
    /// assert_eq!(pool.chunksize(2).map(|x| x * x, 0..4)?, [0, 1, 4, 9]);
    /// # Ok::<(), parpool::Error>(())
    /// ```
    pub fn map<M, I, F, R>(&self, f: F, items: I) -> Result<Vec<R>, Error>
    where
        I: Iterable<M>,
        F: Fn(I::Item) -> R + Sync,
        R: Send,
    {
        map(&self.call_options("map")?, move |item| Ok::<R, Infallible>(f(item)), items)
            .map_err(only_pool)
    }

    /// See [`Pool::map_into`](crate::Pool::map_into).
    ///
    /// # Errors
    /// As [`map`](Options::map).
    ///
    /// ```
    /// # let pool = parpool::Pool::new(2)?;
    /// let mut squares = Vec::new();
    /// pool.chunksize(2).map_into(|x| x * x, 0..4, &mut squares)?;
    /// assert_eq!(squares, [0, 1, 4, 9]);
    /// # Ok::<(), parpool::Error>(())
    /// ```
    pub fn map_into<M, I, F, R>(&self, f: F, items: I, out: &mut Vec<R>) -> Result<(), Error>
    where
        I: Iterable<M>,
        F: Fn(I::Item) -> R + Sync,
        R: Send,
    {
        let call = self.call_options("map_into").inspect_err(|_| out.clear())?;
        map_into(&call, move |item| Ok::<R, Infallible>(f(item)), items, out).map_err(only_pool)
    }

    /// See [`Pool::starmap`](crate::Pool::starmap).
    ///
    /// # Errors
    /// As [`map`](Options::map).
    ///
    /// ```
    /// # let pool = parpool::Pool::new(2)?;
    /// assert_eq!(pool.chunksize(2).starmap(i32::pow, [(2, 3), (3, 2)])?, [8, 9]);
    /// # Ok::<(), parpool::Error>(())
    /// ```
    pub fn starmap<M, I, F>(&self, f: F, items: I) -> Result<Vec<F::Output>, Error>
    where
        I: Iterable<M>,
        F: Star<I::Item, Output: Send> + Sync,
    {
        self.map(move |args| f.star(args), items)
    }

    /// See [`Pool::try_map`](crate::Pool::try_map).
    ///
    /// # Errors
    /// [`TryError::Item`] with the closure's own error; [`TryError::Pool`] as [`map`](Options::map).
    ///
    /// ```
    /// # let pool = parpool::Pool::new(2)?;
    /// let parsed = pool.chunksize(2).try_map(|s: &str| s.parse::<i32>(), ["1", "x"]);
    /// assert_eq!(parsed.unwrap_err().to_string(), "item 1: invalid digit found in string");
    /// # Ok::<(), parpool::Error>(())
    /// ```
    pub fn try_map<M, I, F, R, E>(&self, f: F, items: I) -> Result<Vec<R>, TryError<E>>
    where
        I: Iterable<M>,
        F: Fn(I::Item) -> Result<R, E> + Sync,
        R: Send,
        E: Send,
    {
        map(&self.call_options("try_map")?, f, items)
    }

    /// See [`Pool::reduce`](crate::Pool::reduce). The chunk size says where the input is cut, and so may change the result
    /// where `op` is not associative.
    ///
    /// # Errors
    /// As [`map`](Options::map).
    ///
    /// ```
    /// # let pool = parpool::Pool::new(2)?;
    /// assert_eq!(pool.chunksize(2).reduce(|x| x, i32::max, [3, 5, 4])?, Some(5));
    /// # Ok::<(), parpool::Error>(())
    /// ```
    pub fn reduce<M, I, F, G, R>(&self, f: F, op: G, items: I) -> Result<Option<R>, Error>
    where
        I: Iterable<M>,
        F: Fn(I::Item) -> R + Sync,
        G: Fn(R, R) -> R + Sync,
        R: Send,
    {
        reduce(&self.call_options("reduce")?, Reduce { f, op }, items)
    }

    /// See [`Pool::sum`](crate::Pool::sum). The chunk size says where the input is cut, and so may change the last
    /// digits.
    ///
    /// # Errors
    /// As [`map`](Options::map).
    ///
    /// ```
    /// # let pool = parpool::Pool::new(2)?;
    /// assert_eq!(pool.chunksize(2).sum(|x| x * x, 0..4)?, 14);
    /// # Ok::<(), parpool::Error>(())
    /// ```
    pub fn sum<M, I, F, R>(&self, f: F, items: I) -> Result<R, Error>
    where
        I: Iterable<M>,
        F: Fn(I::Item) -> R + Sync,
        R: Sum<R> + Send,
    {
        let total = reduce(&self.call_options("sum")?, Total(f), items)?;
        Ok(total.expect("the sum of no items is a value too"))
    }

    /// See [`Pool::apply`](crate::Pool::apply). The chunk size has no effect here, but 0 is an error.
    ///
    /// # Errors
    /// As [`Pool::apply`](crate::Pool::apply); [`DeadlineExceeded`](Error::DeadlineExceeded) if it is not done in time.
    ///
    /// ```
    /// # let pool = parpool::Pool::new(2)?;
    /// let minute = std::time::Duration::from_secs(60);
    /// assert_eq!(pool.timeout(minute).apply(i32::pow, (2, 3))?, 8);
    /// # Ok::<(), parpool::Error>(())
    /// ```
    pub fn apply<F, A>(&self, f: F, args: A) -> Result<F::Output, Error>
    where
        F: Apply<A, Output: Send> + Send,
        A: Send,
    {
        apply(&self.apply_options()?, false, move || f.apply(args))
    }

    /// See [`Pool::map_async`](crate::Pool::map_async). The time runs from this call on.
    ///
    /// A bad chunk size is a handle that is an error.
    ///
    /// ```
    /// # let pool = parpool::Pool::new(2)?;
    /// assert_eq!(pool.chunksize(2).map_async(|x| x * x, 0..4).get()?, [0, 1, 4, 9]);
    /// # Ok::<(), parpool::Error>(())
    /// ```
    pub fn map_async<M, I, F, R>(&self, f: F, items: I) -> AsyncResult<Vec<R>>
    where
        I: Iterable<M> + Send + 'static,
        I::Item: 'static,
        F: Fn(I::Item) -> R + Send + Sync + 'static,
        R: Send + 'static,
    {
        match self.async_options("map_async") {
            Ok(call) => map_async(&call, submitter(call.shared), f, items),
            Err(error) => refused(self.shared, error),
        }
    }

    /// See [`Pool::starmap_async`](crate::Pool::starmap_async).
    ///
    /// ```
    /// # let pool = parpool::Pool::new(2)?;
    /// assert_eq!(pool.chunksize(2).starmap_async(i32::pow, [(2, 3), (3, 2)]).get()?, [8, 9]);
    /// # Ok::<(), parpool::Error>(())
    /// ```
    pub fn starmap_async<M, I, F>(&self, f: F, items: I) -> AsyncResult<Vec<F::Output>>
    where
        I: Iterable<M> + Send + 'static,
        I::Item: 'static,
        F: Star<I::Item, Output: Send + 'static> + Send + Sync + 'static,
    {
        self.map_async(move |args| f.star(args), items)
    }

    /// See [`Pool::apply_async`](crate::Pool::apply_async). The time runs from this call on; the chunk size has no effect
    /// here, but 0 is an error.
    ///
    /// ```
    /// # let pool = parpool::Pool::new(2)?;
    /// let minute = std::time::Duration::from_secs(60);
    /// assert_eq!(pool.timeout(minute).apply_async(i32::pow, (2, 3)).get()?, 8);
    /// # Ok::<(), parpool::Error>(())
    /// ```
    pub fn apply_async<F, A>(&self, f: F, args: A) -> AsyncResult<F::Output>
    where
        F: Apply<A, Output: Send + 'static> + Send + 'static,
        A: Send + 'static,
    {
        match self.apply_options() {
            Ok(call) => submit(&call, move || Ok(f.apply(args))),
            Err(error) => refused(self.shared, error),
        }
    }
}

impl<'p> Options<'p> {
    /// See [`Pool::scope`](crate::Pool::scope). The options hold for the verbs of the scope.
    ///
    /// ```
    /// # let pool = parpool::Pool::new(2)?;
    /// let xs = vec![1, 2, 3];
    /// let sum: i32 = pool.buffersize(2).scope(|s| s.imap(|x| *x, &xs).map(Result::unwrap).sum());
    /// assert_eq!(sum, 6);
    /// # Ok::<(), parpool::Error>(())
    /// ```
    pub fn scope<'env, F, R>(&self, body: F) -> R
    where
        F: for<'scope> FnOnce(Scope<'scope, 'env>) -> R,
        'p: 'env,
    {
        scope::scope(*self, body)
    }

    /// See [`Pool::imap`](crate::Pool::imap). The time runs from this call on, for the stream as a whole.
    ///
    /// A bad option is the stream's only result.
    ///
    /// ```
    /// # let pool = parpool::Pool::new(2)?;
    /// let squares = pool.buffersize(16).imap(|x| x * x, 0..4).collect::<Result<Vec<_>, _>>()?;
    /// assert_eq!(squares, [0, 1, 4, 9]);
    /// # Ok::<(), parpool::Error>(())
    /// ```
    pub fn imap<I, F, R>(&self, f: F, items: I) -> Imap<'static, I::IntoIter, R>
    where
        I: IntoIterator<Item: Send + 'static>,
        F: Fn(I::Item) -> R + Send + Sync + 'static,
        R: Send + 'static,
    {
        self.stream(true, f, items.into_iter())
    }

    /// See [`Pool::imap_unordered`](crate::Pool::imap_unordered). As [`imap`](Options::imap) for the rest.
    ///
    /// ```
    /// # let pool = parpool::Pool::new(2)?;
    /// assert_eq!(pool.buffersize(16).imap_unordered(|x| x * x, 0..4).count(), 4);
    /// # Ok::<(), parpool::Error>(())
    /// ```
    pub fn imap_unordered<I, F, R>(&self, f: F, items: I) -> Imap<'static, I::IntoIter, R>
    where
        I: IntoIterator<Item: Send + 'static>,
        F: Fn(I::Item) -> R + Send + Sync + 'static,
        R: Send + 'static,
    {
        self.stream(false, f, items.into_iter())
    }

    pub(crate) fn stream<I, F, R>(&self, ordered: bool, f: F, items: I) -> Imap<'static, I, R>
    where
        I: Iterator<Item: Send + 'static>,
        F: Fn(I::Item) -> R + Send + Sync + 'static,
        R: Send + 'static,
    {
        self.stream_by(ordered, submitter(self.shared), f, items)
    }

    /// A stream whose chunks are queued by `submit`.
    pub(crate) fn stream_by<'s, I, F, R>(
        &self,
        ordered: bool,
        submit: impl Fn(Arc<dyn Task + 's>) -> Result<Ticket, Error> + Send + Sync + 's,
        f: F,
        items: I,
    ) -> Imap<'s, I, R>
    where
        I: Iterator<Item: Send + 's>,
        F: Fn(I::Item) -> R + Send + Sync + 's,
        R: Send + 's,
    {
        let shared = self.shared;
        let (call, refused) =
            match self.call_options(if ordered { "imap" } else { "imap_unordered" }) {
                Ok(call) => (call, shared.admit().err()),
                Err(error) => (CallOptions::plain(shared), Some(error)),
            };
        let settings = Settings { buffersize: self.buffersize, ordered };
        let stream = Imap::new(&call, settings, submit, f, items);
        match refused {
            Some(error) => stream.refuse(error),
            None => stream,
        }
    }
}

/// What queues tasks that borrow nothing.
fn submitter(
    shared: &Arc<Shared>,
) -> impl Fn(Arc<dyn Task>) -> Result<Ticket, Error> + Send + Sync + 'static {
    let shared = Arc::clone(shared);
    move |task| shared.submit(task)
}
