//! What a call was asked for, and when it is over although its work is not.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::error::Error;
use crate::observe::{Caller, Observer, Watch};
use crate::scheduler::{Cancellable, Shared, Worker, worker};
use crate::sync::Instant;

/// What a call was asked for besides its work.
#[derive(Clone)]
pub(crate) struct CallOptions<'w> {
    pub(crate) shared: &'w Arc<Shared>,
    pub(crate) chunksize: Option<usize>,
    pub(crate) deadline: Option<Instant>,
    pub(crate) watch: Option<Arc<Watch>>,
}

impl<'w> CallOptions<'w> {
    /// Of a call that asks for nothing.
    pub(crate) fn plain(shared: &'w Arc<Shared>) -> Self {
        CallOptions { shared, chunksize: None, deadline: None, watch: None }
    }

    /// The call begins, with `len` items if that is known.
    pub(crate) fn begin(&self, len: Option<usize>) {
        if let Some(watch) = &self.watch {
            watch.begin(len);
        }
    }

    /// The call has ended.
    pub(crate) fn end(&self, success: bool) {
        if let Some(watch) = &self.watch {
            watch.end(success, None);
        }
    }
}

/// What ends a call besides its own doing, and who watches it.
pub(crate) struct CallContext {
    pub(crate) shared: Arc<Shared>,
    pub(crate) deadline: Option<Instant>,
    pub(crate) watch: Option<Arc<Watch>>,
    pub(crate) caller: Caller,
    /// Its owner asked it to stop.
    cancelled: AtomicBool,
    /// What the task is asked that made the call and waits for it.
    outer: Option<Arc<dyn Cancellable>>,
}

impl CallContext {
    /// Of a call that goes on by itself.
    pub(crate) fn new(options: &CallOptions<'_>) -> Self {
        CallContext {
            shared: Arc::clone(options.shared),
            deadline: options.deadline,
            watch: options.watch.clone(),
            caller: Caller::current(),
            cancelled: AtomicBool::new(false),
            outer: None,
        }
    }

    /// Of a call that the running task waits for.
    pub(crate) fn of_blocking(options: &CallOptions<'_>) -> Arc<Self> {
        Arc::new(CallContext { outer: worker::running_task(), ..CallContext::new(options) })
    }

    /// Why nobody shall wait for it any more.
    #[inline]
    pub(crate) fn stop_reason(&self) -> Option<Error> {
        if self.shared.is_terminated() {
            Some(self.shared.stop_reason())
        } else if self.deadline.is_some_and(|deadline| Instant::now() >= deadline) {
            Some(Error::DeadlineExceeded)
        } else {
            None
        }
    }

    /// The part that `worker` has in the call, if that is watched.
    #[inline]
    pub(crate) fn observe(&self, worker: &Worker) -> Option<Observer<'_>> {
        let watch = self.watch.as_deref()?;
        if let Some(record) = watch.record() {
            record.saw_queue(self.shared.runners.queued());
        }
        Some(watch.observe(worker.index))
    }

    /// Runs a call of a single function on the calling thread, which is `worker`.
    pub(crate) fn in_task<R>(&self, worker: &Worker, f: impl FnOnce() -> R) -> R {
        worker.count();
        let (Some(watch), Some(mut observer)) = (&self.watch, self.observe(worker)) else {
            return self.caller.in_task(f);
        };
        watch.begin(Some(1));
        observer.begin(0);
        let value = self.caller.in_task(f);
        observer.reach(1, Instant::now());
        drop(observer);
        watch.end(true, None);
        value
    }

    pub(crate) fn cancel(&self) {
        // ORDERING: a request on its own; nothing is read because of it.
        self.cancelled.store(true, Ordering::Relaxed);
    }

    #[inline]
    pub(crate) fn is_asked_to_stop(&self) -> bool {
        self.cancelled.load(Ordering::Relaxed)
    }
}

impl Cancellable for CallContext {
    fn is_cancelled(&self) -> bool {
        self.is_asked_to_stop()
            || self.stop_reason().is_some()
            || self.outer.as_ref().is_some_and(|outer| outer.is_cancelled())
    }
}
