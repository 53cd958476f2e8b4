//! What threads share: the standard library's, or the model checker's with `--cfg loom`.
//!
//! Only what is modelled takes its types from here; see the modules called `models`.

use std::sync::PoisonError;

#[cfg(not(loom))]
pub(crate) use {
    crossbeam_utils::sync::{Parker, Unparker},
    std::sync::{Arc, Mutex, MutexGuard, atomic},
    std::thread_local,
    std::time::Instant,
};

#[cfg(loom)]
pub(crate) use {
    loom::cell::UnsafeCell,
    loom::sync::{Arc, Mutex, MutexGuard, atomic},
    modelled::{Instant, Parker, Unparker, thread_local},
};

/// Locks `mutex`, whatever happened to an earlier holder.
///
/// No user code runs under a lock of this crate but where it says so, and each critical section
/// leaves its data whole before it calls anything that could panic; so there is nothing to poison.
pub(crate) fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// That of `std`, with loom's way in.
#[cfg(not(loom))]
#[derive(Debug)]
pub(crate) struct UnsafeCell<T>(std::cell::UnsafeCell<T>);

#[cfg(not(loom))]
impl<T> UnsafeCell<T> {
    pub(crate) fn new(value: T) -> Self {
        UnsafeCell(std::cell::UnsafeCell::new(value))
    }

    #[inline(always)]
    pub(crate) fn with_mut<R>(&self, f: impl FnOnce(*mut T) -> R) -> R {
        f(self.0.get())
    }
}

/// What loom does not have.
#[cfg(loom)]
mod modelled {
    use super::{Arc, Mutex, lock};
    use loom::sync::Condvar;
    use std::ops::{Add, Sub};
    use std::time::Duration;

    /// Loom's takes no constants.
    macro_rules! local {
        ($($(#[$doc:meta])* static $name:ident: $type:ty = const $value:block;)+) => {
            $(loom::thread_local! { static $name: $type = $value; })+
        };
    }
    pub(crate) use local as thread_local;

    /// Time stands still in a model, as it must: each run of it is to be the same.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
    pub(crate) struct Instant(Duration);

    impl Instant {
        pub(crate) fn now() -> Self {
            Instant(Duration::ZERO)
        }

        pub(crate) fn elapsed(&self) -> Duration {
            Self::now() - *self
        }

        pub(crate) fn checked_add(&self, time: Duration) -> Option<Self> {
            self.0.checked_add(time).map(Instant)
        }

        pub(crate) fn checked_duration_since(&self, earlier: Self) -> Option<Duration> {
            self.0.checked_sub(earlier.0)
        }
    }

    impl Add<Duration> for Instant {
        type Output = Instant;

        fn add(self, time: Duration) -> Instant {
            Instant(self.0 + time)
        }
    }

    impl Sub for Instant {
        type Output = Duration;

        fn sub(self, earlier: Instant) -> Duration {
            self.0 - earlier.0
        }
    }

    type Token = Arc<(Mutex<bool>, Condvar)>;

    pub(crate) struct Parker(Unparker);

    #[derive(Clone)]
    pub(crate) struct Unparker(Token);

    impl Parker {
        pub(crate) fn new() -> Self {
            Parker(Unparker(Arc::new((Mutex::new(false), Condvar::new()))))
        }

        pub(crate) fn unparker(&self) -> &Unparker {
            &self.0
        }

        pub(crate) fn park(&self) {
            let (token, changed) = &*self.0.0;
            let mut token = lock(token);
            while !std::mem::take(&mut *token) {
                token = changed.wait(token).unwrap();
            }
        }

        /// A time that is not up will never be.
        pub(crate) fn park_deadline(&self, _: Instant) {
            self.park();
        }
    }

    impl Unparker {
        pub(crate) fn unpark(&self) {
            let (token, changed) = &*self.0;
            *lock(token) = true;
            changed.notify_one();
        }
    }
}

/// Explores the interleavings of `f` in which no more than three times a thread that could go on is
/// made to wait: what is not found with two or three, is hardly ever found with more.
#[cfg(all(test, loom))]
pub(crate) fn model(f: impl Fn() + Send + Sync + 'static) {
    model_within(3, f);
}

/// The same with another number of times.
#[cfg(all(test, loom))]
pub(crate) fn model_within(preemptions: usize, f: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(preemptions);
    let runs = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let count = std::sync::Arc::clone(&runs);
    builder.check(move || {
        count.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        f();
    });
    println!("{runs:?} interleavings");
}
