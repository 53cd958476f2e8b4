//! What a call was asked for, and when it is over although its work is not.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::error::Error;
use crate::observe::{Caller, Observer, Watch};
use crate::scheduler::{Cancellable, Worker, Workers, worker};
use crate::sync::Instant;

/// What a call was asked for besides its work.
#[derive(Clone)]
pub(crate) struct Order<'w> {
    pub(crate) workers: &'w Arc<Workers>,
    pub(crate) chunksize: Option<usize>,
    pub(crate) deadline: Option<Instant>,
    pub(crate) watch: Option<Arc<Watch>>,
}

impl<'w> Order<'w> {
    /// Of a call that asks for nothing.
    pub(crate) fn plain(workers: &'w Arc<Workers>) -> Self {
        Order { workers, chunksize: None, deadline: None, watch: None }
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
pub(crate) struct Terms {
    pub(crate) workers: Arc<Workers>,
    pub(crate) deadline: Option<Instant>,
    pub(crate) watch: Option<Arc<Watch>>,
    pub(crate) caller: Caller,
    /// Its owner asked it to stop.
    cancelled: AtomicBool,
    /// What the task is asked that made the call and waits for it.
    outer: Option<Arc<dyn Cancellable>>,
}

impl Terms {
    /// Of a call that goes on by itself.
    pub(crate) fn new(order: &Order<'_>) -> Self {
        Terms {
            workers: Arc::clone(order.workers),
            deadline: order.deadline,
            watch: order.watch.clone(),
            caller: Caller::current(),
            cancelled: AtomicBool::new(false),
            outer: None,
        }
    }

    /// Of a call that the running task waits for.
    pub(crate) fn of_blocking(order: &Order<'_>) -> Arc<Self> {
        Arc::new(Terms { outer: worker::running_task(), ..Terms::new(order) })
    }

    /// Why nobody shall wait for it any more.
    #[inline]
    pub(crate) fn ended(&self) -> Option<Error> {
        if self.workers.is_terminated() {
            Some(self.workers.ended())
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
            record.saw_queue(self.workers.runners.queued());
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

impl Cancellable for Terms {
    fn is_cancelled(&self) -> bool {
        self.is_asked_to_stop()
            || self.ended().is_some()
            || self.outer.as_ref().is_some_and(|outer| outer.is_cancelled())
    }
}
