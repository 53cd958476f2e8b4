//! When a call is over although its work is not.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::error::Error;
use crate::sync::Instant;
use crate::worker::{self, Cancellable};
use crate::workers::Workers;

/// What ends a call besides its own doing.
pub(crate) struct Terms {
    pub(crate) workers: Arc<Workers>,
    pub(crate) deadline: Option<Instant>,
    /// Its owner asked it to stop.
    cancelled: AtomicBool,
    /// What the task is asked that made the call and waits for it.
    outer: Option<Arc<dyn Cancellable>>,
}

impl Terms {
    /// Of a call that goes on by itself.
    pub(crate) fn new(workers: &Arc<Workers>, deadline: Option<Instant>) -> Self {
        let workers = Arc::clone(workers);
        Terms { workers, deadline, cancelled: AtomicBool::new(false), outer: None }
    }

    /// Of a call that the running task waits for.
    pub(crate) fn of_blocking(workers: &Arc<Workers>, deadline: Option<Instant>) -> Arc<Self> {
        Arc::new(Terms { outer: worker::signal(), ..Terms::new(workers, deadline) })
    }

    /// Why nobody shall wait for it any more.
    #[inline]
    pub(crate) fn ended(&self) -> Option<Error> {
        if self.workers.is_terminated() {
            Some(self.workers.ended())
        } else if self.deadline.is_some_and(|deadline| Instant::now() >= deadline) {
            Some(Error::Timeout)
        } else {
            None
        }
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
