//! The caller's span around its tasks, with the feature `tracing`; nothing without it.

#[cfg(feature = "tracing")]
mod on {
    use tracing::{Span, debug_span};

    /// The span that was current where a call was made.
    pub(crate) struct Caller(Span);

    impl Caller {
        pub(crate) fn current() -> Self {
            Caller(Span::current())
        }

        /// Runs a single function, in the caller's span.
        pub(crate) fn in_task<R>(&self, f: impl FnOnce() -> R) -> R {
            self.0.in_scope(f)
        }

        /// Runs a chunk, in a span of its own in the caller's.
        pub(crate) fn in_chunk<R>(&self, index: usize, size: usize, f: impl FnOnce() -> R) -> R {
            let parent = self.0.id();
            self.in_task(|| debug_span!(parent: parent, "chunk", index, size).in_scope(f))
        }
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
