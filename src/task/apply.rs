//! One call that the caller waits for, and may lend what is on its stack.

use std::sync::Arc;

use super::context::{CallContext, CallOptions};
use crate::error::Error;
use crate::panic::{Panic, catch, discard};
use crate::raw::{self, BorrowedJob, Job};
use crate::scheduler::{Cancellable, Task, Worker, worker};
use crate::sync::{Mutex, lock};

/// Runs `f` on a worker and waits for it: on this thread, if it is one. `first` goes before all
/// that waits from outside.
pub(crate) fn apply<F, R>(options: &CallOptions<'_>, first: bool, f: F) -> Result<R, Error>
where
    F: FnOnce() -> R + Send,
    R: Send,
{
    let shared = options.shared;
    shared.admit()?;
    let call = BlockingCall {
        context: CallContext::of_blocking(options),
        work: Mutex::new(Some(f)),
        outcome: Mutex::new(None),
    };
    let accepted = if shared.is_serial {
        shared.serially(|worker| call.run(worker))
    } else if let Some(worker) = shared.this_worker() {
        let open = shared.keep_open(worker);
        open.map(|_open| call.run(worker)).ok_or_else(|| shared.refusal())
    } else {
        let queued = raw::lend(&call, |loan| {
            let task = Arc::clone(loan) as Arc<dyn Task>;
            let ticket = if first { shared.submit_first(task)? } else { shared.submit(task)? };
            // Woken by the worker that leaves, and by `terminate`.
            shared.wait(options.deadline, |waker| {
                loan.poll_idle(waker) && (call.is_done() || shared.is_terminated())
            });
            Ok(ticket)
        });
        // Still there if the time was up, or the pool was terminated.
        queued.map(|ticket| drop(shared.withdraw(ticket)))
    };
    call.finish(accepted.err())
}

struct BlockingCall<F, R> {
    context: Arc<CallContext>,
    work: Mutex<Option<F>>,
    outcome: Mutex<Option<Result<R, Error>>>,
}

impl<F: FnOnce() -> R, R> BlockingCall<F, R> {
    fn run(&self, worker: &Worker) {
        // The caller hears of it by itself; see `finish`.
        if self.context.stop_reason().is_some() {
            return;
        }
        let Some(work) = lock(&self.work).take() else { return };
        let task = Arc::clone(&self.context) as Arc<dyn Cancellable>;
        let outcome = worker::in_task(task, || catch(|| self.context.in_task(worker, work)));
        let outcome = outcome.map_err(|payload| Error::Panicked(Panic::new(payload, None)));
        *lock(&self.outcome) = Some(outcome);
    }

    fn is_done(&self) -> bool {
        lock(&self.outcome).is_some()
    }

    /// A call that was told to stop may have returned anything, so it does not count as done.
    fn finish(self, refused: Option<Error>) -> Result<R, Error> {
        let outcome = lock(&self.outcome).take();
        match (self.context.stop_reason(), outcome) {
            (None, Some(outcome)) => outcome,
            (ended, outcome) => {
                discard(outcome);
                discard(self.work);
                // It does not end unless it ran, was refused, or was ended.
                Err(ended.or(refused).unwrap_or(Error::Terminated))
            }
        }
    }
}

impl<F: FnOnce() -> R + Send, R: Send> Job for BlockingCall<F, R> {
    fn work(&self, _: &Arc<BorrowedJob>, worker: &Worker) {
        self.run(worker);
    }
}
