//! What can go wrong: one [`Error`] for the pool, and [`TryError`] for closures with errors of their own.

use std::convert::Infallible;
use std::error::Error as StdError;
use std::fmt;
use std::io;
use std::sync::Arc;

use crate::panic::Panic;

/// Why a call to the pool has no value.
///
/// `Send + Sync + 'static`, so it travels with `?` into any error type; `Clone`, so it can be kept where a callback sees it by
/// reference. Clones share the payload of a panic and the causes.
///
/// | Python raises | here |
/// |---|---|
/// | `ValueError("Pool not running")` | [`NotRunning`](Error::NotRunning) |
/// | `ValueError("Pool is still running")` | [`StillRunning`](Error::StillRunning) |
/// | `ValueError` of a bad argument | [`InvalidArgument`](Error::InvalidArgument) |
/// | `multiprocessing.TimeoutError` | [`Timeout`](Error::Timeout); of the call's own time, [`DeadlineExceeded`](Error::DeadlineExceeded) |
/// | what the task raised | [`Panicked`](Error::Panicked), or [`TryError::Item`] from `try_map` |
/// | nothing: it hangs | [`Terminated`](Error::Terminated), [`WouldDeadlock`](Error::WouldDeadlock), [`Initializer`](Error::Initializer) |
///
/// ```
/// use parpool::{Error, Pool};
///
/// let pool = Pool::new(2)?;
/// pool.close();
/// assert!(matches!(pool.map(|x| x + 1, [1, 2]), Err(Error::NotRunning)));
/// # Ok::<(), Error>(())
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Error {
    /// An argument that can never work, found before anything ran; the text says which.
    InvalidArgument(&'static str),
    /// The pool was closed or terminated before the call.
    NotRunning,
    /// `join` before `close` or `terminate`.
    StillRunning,
    /// [`successful`](crate::AsyncResult::successful) before the result is there.
    NotReady,
    /// It is not there within the time that this wait was given: wait again.
    Timeout,
    /// The time of the call ([`timeout`](crate::Pool::timeout)) was up before it was done. That is its outcome.
    DeadlineExceeded,
    /// The pool was terminated while the work waited or ran.
    Terminated,
    /// The handle's [`cancel`](crate::AsyncResult::cancel) came before a worker did.
    Cancelled,
    /// The value was handed out by an earlier `get_timeout` or poll.
    Taken,
    /// A wait that could never end: `join` from one of the pool's own tasks, or a wait for a handle in a callback of
    /// it.
    WouldDeadlock,
    /// The closure, or the input while it made an item, panicked; or a parallel input gave fewer or more
    /// items than it said.
    Panicked(Panic),
    /// A worker thread could not be started.
    Start(Arc<io::Error>),
    /// The initializer of a worker panicked or returned this error.
    Initializer(Arc<dyn StdError + Send + Sync>),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::InvalidArgument(what) => write!(f, "invalid argument: {what}"),
            Error::NotRunning => f.write_str("the pool is not running"),
            Error::StillRunning => {
                f.write_str("the pool is still running: close or terminate it first")
            }
            Error::NotReady => f.write_str("the result is not ready"),
            Error::Timeout => f.write_str("not within the time of this wait"),
            Error::DeadlineExceeded => f.write_str("the time of the call was up"),
            Error::Terminated => f.write_str("the pool was terminated"),
            Error::Cancelled => f.write_str("the task was cancelled"),
            Error::Taken => f.write_str("the value was taken before"),
            Error::WouldDeadlock => f.write_str("the wait would never end: a task cannot join the pool it runs on, nor a callback wait for its own result"),
            Error::Panicked(panic) => write!(f, "the closure {panic}"),
            Error::Start(error) => write!(f, "a worker could not be started: {error}"),
            Error::Initializer(error) => write!(f, "the initializer failed: {error}"),
        }
    }
}

/// Without a source: the text says what the cause says, once. The cause itself is in the variant.
impl StdError for Error {}

impl Error {
    pub(crate) fn start(error: io::Error) -> Self {
        Error::Start(Arc::new(error))
    }
}

/// Why [`try_map`](crate::Pool::try_map) has no values: an item's own error, or the pool's.
///
/// With `?` it becomes an `anyhow::Error` or a `Box<dyn Error + Send + Sync>`, whose text shows the item's error. Where the
/// function's own error can be made of the pool's, [`into_error`](TryError::into_error) makes it that.
///
/// ```
/// use parpool::{Pool, TryError};
///
/// let pool = Pool::new(2)?;
/// match pool.try_map(|s: &str| s.parse::<u8>(), ["1", "2", "three"]) {
///     Err(TryError::Item { index, error }) => {
///         assert_eq!(index, 2);
///         assert_eq!(error.to_string(), "invalid digit found in string");
///     }
///     other => unreachable!("{other:?}"),
/// }
/// # Ok::<(), parpool::Error>(())
/// ```
#[derive(Clone, Debug)]
pub enum TryError<E> {
    /// The closure returned `Err(error)` for the item at `index`, and for no item below it.
    Item {
        /// The place of the item in the input, from 0.
        index: usize,
        /// What the closure returned.
        error: E,
    },
    /// The pool itself failed, or an item below every failing one panicked.
    Pool(Error),
}

impl<E> TryError<E> {
    /// The index of the item that failed or panicked; `None` if it was the pool that failed.
    ///
    /// ```
    /// let pool = parpool::Pool::new(2)?;
    /// let error = pool.try_map(|x: i32| if x < 3 { Ok(x) } else { Err("too much") }, 0..9).unwrap_err();
    /// assert_eq!(error.index(), Some(3));
    /// # Ok::<(), parpool::Error>(())
    /// ```
    pub fn index(&self) -> Option<usize> {
        match self {
            TryError::Item { index, .. } => Some(*index),
            TryError::Pool(Error::Panicked(panic)) => panic.index(),
            TryError::Pool(_) => None,
        }
    }

    /// The item's error, or the pool's as one of the same type: for `?` in a function whose own error has room for it.
    ///
    /// ```
    /// use std::{io, fs};
    /// use parpool::{Error, Pool, TryError};
    ///
    /// #[derive(Debug)]
    /// enum Failure {
    ///     Io(io::Error),
    ///     Pool(Error),
    /// }
    ///
    /// impl From<io::Error> for Failure {
    ///     fn from(error: io::Error) -> Self { Failure::Io(error) }
    /// }
    ///
    /// impl From<Error> for Failure {
    ///     fn from(error: Error) -> Self { Failure::Pool(error) }
    /// }
    ///
    /// fn sizes(pool: &Pool, paths: &[&str]) -> Result<Vec<usize>, Failure> {
    ///     let size = |path: &&str| Ok::<_, Failure>(fs::read(path)?.len());
    ///     pool.try_map(size, paths).map_err(TryError::into_error)
    /// }
    ///
    /// # let pool = Pool::new(2)?;
    /// assert!(matches!(sizes(&pool, &["no such file"]), Err(Failure::Io(_))));
    /// # Ok::<(), Error>(())
    /// ```
    pub fn into_error(self) -> E
    where
        E: From<Error>,
    {
        match self {
            TryError::Item { error, .. } => error,
            TryError::Pool(error) => error.into(),
        }
    }
}

impl<E> From<Error> for TryError<E> {
    fn from(error: Error) -> Self {
        TryError::Pool(error)
    }
}

impl<E: fmt::Display> fmt::Display for TryError<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TryError::Item { index, error } => {
                write!(f, "item {index}: ")?;
                // With the flags: `{:#}` of an `anyhow::Error` shows its causes.
                error.fmt(f)
            }
            TryError::Pool(error) => error.fmt(f),
        }
    }
}

/// For every `E` that can be shown, as `anyhow::Error` and `String` can, which are no errors themselves. Without a source: what
/// the item's error says is in the text, and its causes are had from `error` itself.
impl<E: fmt::Debug + fmt::Display> StdError for TryError<E> {}

/// The error of a map whose items cannot fail by themselves.
pub(crate) fn only_pool(error: TryError<Infallible>) -> Error {
    match error {
        TryError::Pool(error) => error,
        TryError::Item { error, .. } => match error {},
    }
}
