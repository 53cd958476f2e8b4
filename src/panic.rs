//! What is done with a panic of the user's code.
//!
//! All code of the user's runs in one of three wrappers: [`catch`], where the panic is an outcome; [`discard`], for a
//! value that is dropped where nobody waits for it; [`run_hook`], for code that only watches. And it runs with no lock and
//! no borrow held.

use std::any::Any;
use std::fmt;
use std::panic::{AssertUnwindSafe, RefUnwindSafe, UnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;

use crate::raw;

/// What a `panic!` threw.
pub(crate) type Payload = Box<dyn Any + Send>;

/// Runs `f` and catches its panic.
///
/// The closures of the pool are not `UnwindSafe` by bound, as in rayon and in scoped threads: the
/// panic is not hidden, it comes back as an error, and what the closure broke is its owner's to see.
pub(crate) fn catch<R>(f: impl FnOnce() -> R) -> Result<R, Payload> {
    catch_unwind(AssertUnwindSafe(f))
}

/// Drops `value`; a panic of its `Drop` ends here.
///
/// For values that nobody can receive any more, dropped on a thread that must live on.
pub(crate) fn discard<T>(value: T) {
    if !std::mem::needs_drop::<T>() {
        return;
    }
    if let Err(payload) = catch(|| drop(value)) {
        // The payload may be of a type whose own `Drop` panics, and so may what that throws. A leak is the
        // end of the chain.
        if let Err(payload) = catch(|| drop(payload)) {
            std::mem::forget(payload);
        }
    }
}

/// Runs `f`, code of the user's that watches a call and is no part of it: its panic ends here, and is nobody's.
/// `None` if it panicked.
///
/// For the closure and the bar of a `Progress`, and the subscribers of `tracing`.
pub(crate) fn run_hook<R>(f: impl FnOnce() -> R) -> Option<R> {
    catch(f).map_err(discard).ok()
}

/// A panic of a closure, kept: its payload, its message, and the index of the item it happened at.
///
/// It is what [`Error::Panicked`](crate::Error::Panicked) carries.
///
/// ```
/// use parpool::{Error, Pool};
///
/// let pool = Pool::new(2)?;
/// let error = pool.map(|x: i32| if x == 3 { panic!("no {x}s") } else { x }, 0..9).unwrap_err();
/// let Error::Panicked(panic) = error else { unreachable!() };
/// assert_eq!(panic.index(), Some(3));
/// assert_eq!(panic.message(), "no 3s");
/// assert_eq!(*panic.into_payload().downcast::<String>().unwrap(), "no 3s");
/// # Ok::<(), Error>(())
/// ```
#[derive(Clone)]
pub struct Panic(Arc<PanicInner>);

struct PanicInner {
    payload: raw::SharedPayload,
    message: String,
    index: Option<usize>,
}

impl Panic {
    pub(crate) fn new(payload: Payload, index: Option<usize>) -> Self {
        let text = payload.downcast_ref::<&str>().copied();
        let text = text.or_else(|| payload.downcast_ref::<String>().map(String::as_str));
        let message = text.unwrap_or("a panic without a message").to_owned();
        Panic(Arc::new(PanicInner { payload: raw::SharedPayload::new(payload), message, index }))
    }

    /// The message, where the panic had one (`panic!("…")` has); else a line that says so.
    ///
    /// ```
    /// use parpool::Error;
    /// # let pool = parpool::Pool::new(1)?;
    /// let Err(Error::Panicked(panic)) = pool.apply(|| panic!("{} left", 0), ()) else { unreachable!() };
    /// assert_eq!(panic.message(), "0 left");
    /// # Ok::<(), parpool::Error>(())
    /// ```
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// The index of the item whose closure, or whose making by the input, panicked; `None` where
    /// there are no items, as in `apply`.
    ///
    /// ```
    /// use parpool::Error;
    /// # let pool = parpool::Pool::new(1)?;
    /// let Err(Error::Panicked(panic)) = pool.map(|x| 10 / x, [5, 0]) else { unreachable!() };
    /// assert_eq!(panic.index(), Some(1));
    /// # Ok::<(), parpool::Error>(())
    /// ```
    pub fn index(&self) -> Option<usize> {
        self.0.index
    }

    /// What was thrown, if it is a `T`.
    ///
    /// ```
    /// use parpool::Error;
    /// # let pool = parpool::Pool::new(1)?;
    /// let Err(Error::Panicked(panic)) = pool.apply(|| std::panic::panic_any(42), ()) else { unreachable!() };
    /// assert_eq!(panic.downcast_ref(), Some(&42));
    /// assert_eq!(panic.downcast_ref::<String>(), None);
    /// # Ok::<(), parpool::Error>(())
    /// ```
    pub fn downcast_ref<T: Any + Sync>(&self) -> Option<&T> {
        self.0.payload.downcast_ref()
    }

    /// What was thrown, to be downcast. A clone of a `Panic` shares it: the last of them has it, the others have the
    /// [`message`](Panic::message), as a `String`.
    ///
    /// ```
    /// use parpool::Error;
    /// # let pool = parpool::Pool::new(1)?;
    /// let Err(Error::Panicked(panic)) = pool.apply(|| std::panic::panic_any(42), ()) else { unreachable!() };
    /// assert!(panic.clone().into_payload().is::<String>());
    /// assert_eq!(panic.into_payload().downcast_ref(), Some(&42));
    /// # Ok::<(), parpool::Error>(())
    /// ```
    pub fn into_payload(self) -> Box<dyn Any + Send> {
        let message = self.0.message.clone();
        match Arc::into_inner(self.0) {
            Some(inner) => inner.payload.into_inner(),
            None => Box::new(message),
        }
    }

    /// Goes on panicking, on this thread, with what [`into_payload`](Panic::into_payload) gives. The panic hook is not run again.
    ///
    /// ```
    /// use parpool::{Error, Pool};
    ///
    /// let pool = Pool::new(1)?;
    /// let caught = std::panic::catch_unwind(|| {
    ///     match pool.apply(|| panic!("as if it were here"), ()) {
    ///         Err(Error::Panicked(panic)) => panic.resume(),
    ///         other => other,
    ///     }
    /// });
    /// assert_eq!(caught.unwrap_err().downcast_ref(), Some(&"as if it were here"));
    /// # Ok::<(), Error>(())
    /// ```
    pub fn resume(self) -> ! {
        resume_unwind(self.into_payload())
    }
}

impl fmt::Debug for Panic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_struct("Panic");
        debug.field("message", &self.message());
        debug.field("index", &self.0.index).finish_non_exhaustive()
    }
}

impl fmt::Display for Panic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.index {
            Some(index) => write!(f, "panicked at item {index}: {}", self.message()),
            None => write!(f, "panicked: {}", self.message()),
        }
    }
}

impl std::error::Error for Panic {}

// What was thrown is given away whole, or looked at.
impl UnwindSafe for Panic {}
impl RefUnwindSafe for Panic {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_discarded_value_may_panic_with_a_payload_that_panics() {
        struct Bomb;
        impl Drop for Bomb {
            fn drop(&mut self) {
                std::panic::panic_any(Bomb);
            }
        }
        discard(Bomb);
    }

    #[test]
    fn the_payload_of_a_panicking_drop_is_not_leaked() {
        struct Bomb(std::sync::Arc<()>);
        impl Drop for Bomb {
            fn drop(&mut self) {
                std::panic::panic_any(std::sync::Arc::clone(&self.0));
            }
        }
        let token = std::sync::Arc::new(());
        discard(Bomb(std::sync::Arc::clone(&token)));
        assert_eq!(std::sync::Arc::strong_count(&token), 1);
    }

    #[test]
    fn the_panic_of_a_hook_ends_in_it_whatever_it_throws() {
        struct Bomb;
        impl Drop for Bomb {
            fn drop(&mut self) {
                panic!("dropped");
            }
        }
        assert_eq!(run_hook(|| 7), Some(7));
        assert_eq!(run_hook(|| -> i32 { std::panic::panic_any(Bomb) }), None);
    }

    #[test]
    fn messages_of_every_kind_of_payload() {
        let message = |payload: Payload| Panic::new(payload, None).message().to_owned();
        assert_eq!(message(Box::new("static")), "static");
        assert_eq!(message(Box::new(String::from("made"))), "made");
        assert_eq!(message(Box::new(7)), "a panic without a message");
    }
}
