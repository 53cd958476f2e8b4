//! A call that goes on by itself: its closure, its outcome, and what its handle can do with it.

use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::context::{CallContext, CallOptions};
use super::handle::{AsyncResult, TaskHandle};
use super::state::{Callback, Outcome, TaskState, Wake};
use crate::error::Error;
use crate::observe::Watch;
use crate::panic::{Panic, catch, discard};
use crate::scheduler::{Cancellable, Shared, Task, TaskRef, Ticket, Worker, worker};

/// A submitted call: what differs between one closure and a map.
pub(crate) trait Submitted<'s, T>: Task {
    /// What is left of the work while nobody has begun it.
    type Work;

    fn context(&self) -> &CallContext;
    fn state(&self) -> &TaskState<'s, Self::Work, T>;
    /// Takes an entry of it out of the queue, if there is one: the caller's to run, or to skip.
    fn withdraw(&self) -> Option<TaskRef>;
    /// Whether there may be one.
    fn is_queued(&self) -> bool;
}

/// A submitted call as its handle sees it, whatever its work.
pub(crate) trait PendingTask<'s, T>: Send + Sync {
    fn context(&self) -> &CallContext;
    /// Whether the outcome is there; it is an error from now on if nobody shall wait any more.
    fn poll(&self, wake: Wake<'_>) -> bool;
    /// See [`Submitted::withdraw`].
    fn withdraw(&self) -> Option<TaskRef>;
    /// See [`Submitted::is_queued`].
    fn is_queued(&self) -> bool;
    /// Whether the calling thread is in a callback of it.
    fn is_calling_here(&self) -> bool;
    /// The outcome, once, if it is there.
    fn try_take(&self) -> Option<Outcome<T>>;
    fn successful(&self) -> Result<bool, Error>;
    fn on_outcome(&self, callback: Callback<'s, T>);
    /// Whether it had not begun, and now never will.
    fn cancel(&self) -> bool;
    fn detach(&self);
}

impl<'s, T, P: Submitted<'s, T>> PendingTask<'s, T> for P {
    fn context(&self) -> &CallContext {
        Submitted::context(self)
    }

    fn poll(&self, wake: Wake<'_>) -> bool {
        let state = self.state();
        if state.poll(wake) {
            return true;
        }
        let context = Submitted::context(self);
        let Some(error) = context.stop_reason() else { return false };
        if let Some(watch) = &context.watch {
            watch.end(false, None);
        }
        // If another thread resolves it, its callbacks may still be running.
        let done = state.resolve(Err(error)) || state.poll(Wake::Nobody);
        if let Some(entry) = Submitted::withdraw(self) {
            worker::skip(entry, Error::Cancelled);
        }
        done
    }

    fn withdraw(&self) -> Option<TaskRef> {
        Submitted::withdraw(self)
    }

    fn is_queued(&self) -> bool {
        Submitted::is_queued(self)
    }

    fn is_calling_here(&self) -> bool {
        self.state().is_calling_here()
    }

    fn try_take(&self) -> Option<Outcome<T>> {
        self.state().try_take()
    }

    fn successful(&self) -> Result<bool, Error> {
        self.state().successful()
    }

    fn on_outcome(&self, callback: Callback<'s, T>) {
        self.state().on_outcome(callback);
    }

    fn cancel(&self) -> bool {
        Submitted::context(self).cancel();
        let cancelled = self.state().resolve_queued(Err(Error::Cancelled));
        if cancelled {
            while let Some(entry) = Submitted::withdraw(self) {
                worker::skip(entry, Error::Cancelled);
            }
        }
        cancelled
    }

    fn detach(&self) {
        self.state().detach();
    }
}

/// One submitted call: its closure, then its outcome, in one block of memory.
struct Call<'s, F, T> {
    context: ContextPlace,
    state: TaskState<'s, F, T>,
    /// Its place in the queue, as [`Ticket::to_bits`], until somebody tries to take it out. Set when it is queued,
    /// before anybody has the handle.
    ticket: AtomicU64,
    kind: CallKind,
    /// Itself, or its context, for [`is_cancelled`](crate::is_cancelled) to ask. A function, because a
    /// call that borrows cannot be made the first.
    signal: fn(&Arc<Self>) -> Arc<dyn Cancellable>,
}

/// What a call is for a worker.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum CallKind {
    /// A task in its life.
    Task,
    /// Not one: the chunks of the map that it drives are.
    Driver,
}

/// The context of a call, in its own block of memory unless it borrows.
enum ContextPlace {
    Here(CallContext),
    Shared(Arc<CallContext>),
}

impl Deref for ContextPlace {
    type Target = CallContext;

    fn deref(&self) -> &CallContext {
        match self {
            ContextPlace::Here(context) => context,
            ContextPlace::Shared(context) => context,
        }
    }
}

/// Submits `work`, whose outcome is the task's. A refused call is a task that has its error.
pub(crate) fn submit<F, T>(options: &CallOptions<'_>, work: F) -> AsyncResult<T>
where
    F: FnOnce() -> Outcome<T> + Send + 'static,
    T: Send + 'static,
{
    let shared = options.shared;
    if let Err(error) = shared.admit() {
        return refused(shared, error);
    }
    let task = Arc::new(Call {
        context: ContextPlace::Here(CallContext::new(options)),
        state: TaskState::new(work),
        ticket: AtomicU64::new(0),
        kind: CallKind::Task,
        signal: |call| Arc::clone(call) as Arc<dyn Cancellable>,
    });
    task.was_queued(shared.submit(Arc::clone(&task) as TaskRef));
    TaskHandle::new(task)
}

/// The same for work that may borrow: `submit` queues it in a form that may not.
pub(crate) fn submit_by<'s, F, T>(
    options: &CallOptions<'_>,
    kind: CallKind,
    work: F,
    submit: impl FnOnce(Arc<dyn Task + 's>) -> Result<Ticket, Error>,
) -> TaskHandle<'s, T>
where
    F: FnOnce() -> Outcome<T> + Send + 's,
    T: Send + 's,
{
    let task = Arc::new(Call {
        context: ContextPlace::Shared(Arc::new(CallContext::new(options))),
        state: TaskState::new(work),
        ticket: AtomicU64::new(0),
        kind,
        signal: |call| match &call.context {
            ContextPlace::Shared(context) => Arc::clone(context) as Arc<dyn Cancellable>,
            ContextPlace::Here(_) => unreachable!("what borrows has shared context"),
        },
    });
    let shared = options.shared;
    match shared.admit() {
        Ok(()) => task.was_queued(submit(Arc::clone(&task) as Arc<dyn Task + 's>)),
        Err(error) => _ = task.state.resolve(Err(error)),
    }
    TaskHandle::new(task)
}

/// The handle of a call that has its error.
pub(crate) fn refused<'s, T: Send + 's>(shared: &Arc<Shared>, error: Error) -> TaskHandle<'s, T> {
    // Nothing is known of what it was to do.
    let options = CallOptions {
        watch: Some(Watch::of(shared.count, None, None)),
        ..CallOptions::plain(shared)
    };
    TaskHandle::new(Arc::new(Call::<fn() -> Outcome<T>, T> {
        context: ContextPlace::Here(CallContext::new(&options)),
        state: TaskState::ready(Err(error)),
        ticket: AtomicU64::new(0),
        kind: CallKind::Driver,
        signal: |_| unreachable!("it never runs"),
    }))
}

impl<F, T> Call<'_, F, T> {
    /// It was queued, or refused, which its state knows.
    fn was_queued(&self, queued: Result<Ticket, Error>) {
        if let Ok(ticket) = queued {
            // ORDERING: who reads it has the handle, which was handed over after this.
            self.ticket.store(ticket.to_bits(), Ordering::Relaxed);
        }
    }
}

impl<F, T> Task for Call<'_, F, T>
where
    F: FnOnce() -> Outcome<T> + Send,
    T: Send,
{
    fn run(self: Arc<Self>, worker: &Worker) {
        if let Some(error) = self.context.stop_reason() {
            return self.skip(error);
        }
        let Some(work) = self.state.begin() else { return };
        // The callbacks too: they are no code of a task below this one.
        worker::in_task((self.signal)(&self), || {
            let result = catch(|| match self.kind {
                CallKind::Task => self.context.in_task(worker, work),
                CallKind::Driver => self.context.caller.in_task(work),
            });
            let outcome = match (result, self.context.stop_reason()) {
                // It may have been told to stop, and then have returned anything: a value, or, as
                // the driver of a map that found the pool terminated, an error that is not what
                // happened.
                (Ok(outcome), Some(error)) => {
                    discard(outcome);
                    Err(error)
                }
                (Ok(outcome), None) => outcome,
                (Err(payload), _) => Err(Error::Panicked(Panic::new(payload, None))),
            };
            // Of work that returned, this was done.
            if let Some(watch) = &self.context.watch {
                watch.end(false, None);
            }
            self.state.resolve(outcome);
        });
    }

    fn skip(self: Arc<Self>, why: Error) {
        self.state.resolve_queued(Err(why));
    }
}

impl<F: Send, T: Send> Cancellable for Call<'_, F, T> {
    fn is_cancelled(&self) -> bool {
        self.context.is_cancelled()
    }
}

impl<'s, F, T> Submitted<'s, T> for Call<'s, F, T>
where
    F: FnOnce() -> Outcome<T> + Send,
    T: Send,
{
    type Work = F;

    fn context(&self) -> &CallContext {
        &self.context
    }

    fn state(&self) -> &TaskState<'s, F, T> {
        &self.state
    }

    fn withdraw(&self) -> Option<TaskRef> {
        // Once: if it is not there, it is being begun.
        let ticket = Ticket::from_bits(self.ticket.swap(0, Ordering::Relaxed));
        self.context.shared.withdraw(ticket)
    }

    fn is_queued(&self) -> bool {
        self.ticket.load(Ordering::Relaxed) != 0
    }
}
