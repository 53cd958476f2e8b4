//! The caller's span around its tasks, with the feature `tracing`; nothing without it.
//!
//! A subscriber is the user's code, and all that is done with a span calls it: making, cloning, entering, leaving, dropping
//! it, and asking for the current one. So each of these is a hook of its own ([`run_hook`](crate::panic::run_hook)), and the
//! task runs between them. Whatever a subscriber does, the task runs once and its outcome is its own; where the subscriber
//! panics, that panic is dropped, and the task runs without the span that could not be made or entered.

#[cfg(feature = "tracing")]
mod on {
    use std::mem;

    use tracing::span::Entered;
    use tracing::{Span, debug_span};

    use crate::panic::{discard, run_hook};

    /// The span that was current where a call was made.
    pub(crate) struct Caller(Span);

    impl Caller {
        pub(crate) fn current() -> Self {
            Caller(run_hook(Span::current).unwrap_or_else(Span::none))
        }

        /// Runs a single function, in the caller's span.
        pub(crate) fn in_task<R>(&self, f: impl FnOnce() -> R) -> R {
            within(&self.0, f)
        }

        /// Runs a chunk, in a span of its own in the caller's.
        pub(crate) fn in_chunk<R>(&self, index: usize, size: usize, f: impl FnOnce() -> R) -> R {
            self.in_task(|| {
                let make = || debug_span!(parent: self.0.id(), "chunk", index, size);
                let chunk = Caller(run_hook(make).unwrap_or_else(Span::none));
                within(&chunk.0, f)
            })
        }
    }

    impl Drop for Caller {
        fn drop(&mut self) {
            discard(mem::replace(&mut self.0, Span::none()));
        }
    }

    /// Runs `f` in `span`, or outside of it if the subscriber panics as it is entered. A panic of `f` is its own.
    fn within<R>(span: &Span, f: impl FnOnce() -> R) -> R {
        struct Exit<'s>(Option<Entered<'s>>);

        impl Drop for Exit<'_> {
            fn drop(&mut self) {
                discard(self.0.take());
            }
        }

        let _exit = Exit(run_hook(|| span.enter()));
        f()
    }
}

#[cfg(not(feature = "tracing"))]
mod off {
    pub(crate) struct Caller;

    impl Caller {
        #[inline(always)]
        pub(crate) fn current() -> Self {
            Caller
        }

        #[inline(always)]
        pub(crate) fn in_task<R>(&self, f: impl FnOnce() -> R) -> R {
            f()
        }

        #[inline(always)]
        pub(crate) fn in_chunk<R>(&self, _index: usize, _size: usize, f: impl FnOnce() -> R) -> R {
            f()
        }
    }
}

#[cfg(not(feature = "tracing"))]
pub(crate) use off::Caller;
#[cfg(feature = "tracing")]
pub(crate) use on::Caller;
