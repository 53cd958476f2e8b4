//! A call that goes on by itself: its closure, its outcome, and what its handle can do with it.

use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::context::{Order, Terms};
use super::handle::{AsyncResult, TaskHandle};
use super::state::{Callback, Cell, Outcome, Wake};
use crate::error::Error;
use crate::observe::Watch;
use crate::panic::{Panic, catch, discard};
use crate::scheduler::{Cancellable, Task, TaskRef, Ticket, Worker, Workers, worker};

/// A submitted call: what differs between one closure and a map.
pub(crate) trait Submitted<'s, T>: Task {
    /// What is left of the work while nobody has begun it.
    type Work;

    fn terms(&self) -> &Terms;
    fn cell(&self) -> &Cell<'s, Self::Work, T>;
    /// Takes an entry of it out of the queue, if there is one: the caller's to run, or to skip.
    fn withdraw(&self) -> Option<TaskRef>;
    /// Whether there may be one.
    fn is_queued(&self) -> bool;
}

/// A submitted call as its handle sees it, whatever its work.
pub(crate) trait Pending<'s, T>: Send + Sync {
    fn terms(&self) -> &Terms;
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

impl<'s, T, P: Submitted<'s, T>> Pending<'s, T> for P {
    fn terms(&self) -> &Terms {
        Submitted::terms(self)
    }

    fn poll(&self, wake: Wake<'_>) -> bool {
        let cell = self.cell();
        if cell.poll(wake) {
            return true;
        }
        let terms = Submitted::terms(self);
        let Some(error) = terms.ended() else { return false };
        if let Some(watch) = &terms.watch {
            watch.end(false, None);
        }
        // If another thread resolves it, its callbacks may still be running.
        let done = cell.resolve(Err(error)) || cell.poll(Wake::Nobody);
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
        self.cell().is_calling_here()
    }

    fn try_take(&self) -> Option<Outcome<T>> {
        self.cell().try_take()
    }

    fn successful(&self) -> Result<bool, Error> {
        self.cell().successful()
    }

    fn on_outcome(&self, callback: Callback<'s, T>) {
        self.cell().on_outcome(callback);
    }

    fn cancel(&self) -> bool {
        Submitted::terms(self).cancel();
        let cancelled = self.cell().resolve_queued(Err(Error::Cancelled));
        if cancelled {
            while let Some(entry) = Submitted::withdraw(self) {
                worker::skip(entry, Error::Cancelled);
            }
        }
        cancelled
    }

    fn detach(&self) {
        self.cell().detach();
    }
}

/// One submitted call: its closure, then its outcome, in one block of memory.
struct Call<'s, F, T> {
    terms: Held,
    cell: Cell<'s, F, T>,
    /// Its place in the queue, as [`Ticket::to_bits`], until somebody tries to take it out. Set when it is queued,
    /// before anybody has the handle.
    ticket: AtomicU64,
    kind: Kind,
    /// Itself, or its terms, for [`is_cancelled`](crate::is_cancelled) to ask. A function, because a
    /// call that borrows cannot be made the first.
    signal: fn(&Arc<Self>) -> Arc<dyn Cancellable>,
}

/// What a call is for a worker.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A task in its life.
    Task,
    /// Not one: the chunks of the map that it drives are.
    Driver,
}

/// The terms of a call, in its own block of memory unless it borrows.
enum Held {
    Here(Terms),
    Shared(Arc<Terms>),
}

impl Deref for Held {
    type Target = Terms;

    fn deref(&self) -> &Terms {
        match self {
            Held::Here(terms) => terms,
            Held::Shared(terms) => terms,
        }
    }
}

/// Submits `work`, whose outcome is the task's. A refused call is a task that has its error.
pub(crate) fn submit<F, T>(order: &Order<'_>, work: F) -> AsyncResult<T>
where
    F: FnOnce() -> Outcome<T> + Send + 'static,
    T: Send + 'static,
{
    let workers = order.workers;
    if let Err(error) = workers.admit() {
        return refused(workers, error);
    }
    let task = Arc::new(Call {
        terms: Held::Here(Terms::new(order)),
        cell: Cell::new(work),
        ticket: AtomicU64::new(0),
        kind: Kind::Task,
        signal: |call| Arc::clone(call) as Arc<dyn Cancellable>,
    });
    task.was_queued(workers.submit(Arc::clone(&task) as TaskRef));
    TaskHandle::new(task)
}

/// The same for work that may borrow: `submit` queues it in a form that may not.
pub(crate) fn submit_by<'s, F, T>(
    order: &Order<'_>,
    kind: Kind,
    work: F,
    submit: impl FnOnce(Arc<dyn Task + 's>) -> Result<Ticket, Error>,
) -> TaskHandle<'s, T>
where
    F: FnOnce() -> Outcome<T> + Send + 's,
    T: Send + 's,
{
    let task = Arc::new(Call {
        terms: Held::Shared(Arc::new(Terms::new(order))),
        cell: Cell::new(work),
        ticket: AtomicU64::new(0),
        kind,
        signal: |call| match &call.terms {
            Held::Shared(terms) => Arc::clone(terms) as Arc<dyn Cancellable>,
            Held::Here(_) => unreachable!("what borrows has shared terms"),
        },
    });
    let workers = order.workers;
    match workers.admit() {
        Ok(()) => task.was_queued(submit(Arc::clone(&task) as Arc<dyn Task + 's>)),
        Err(error) => _ = task.cell.resolve(Err(error)),
    }
    TaskHandle::new(task)
}

/// The handle of a call that has its error.
pub(crate) fn refused<'s, T: Send + 's>(workers: &Arc<Workers>, error: Error) -> TaskHandle<'s, T> {
    // Nothing is known of what it was to do.
    let order =
        Order { watch: Some(Watch::of(workers.count, None, None)), ..Order::plain(workers) };
    TaskHandle::new(Arc::new(Call::<fn() -> Outcome<T>, T> {
        terms: Held::Here(Terms::new(&order)),
        cell: Cell::ready(Err(error)),
        ticket: AtomicU64::new(0),
        kind: Kind::Driver,
        signal: |_| unreachable!("it never runs"),
    }))
}

impl<F, T> Call<'_, F, T> {
    /// It was queued, or refused, which its cell knows.
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
        if let Some(error) = self.terms.ended() {
            return self.skip(error);
        }
        let Some(work) = self.cell.begin() else { return };
        // The callbacks too: they are no code of a task below this one.
        worker::in_task((self.signal)(&self), || {
            let result = catch(|| match self.kind {
                Kind::Task => self.terms.in_task(worker, work),
                Kind::Driver => self.terms.caller.in_task(work),
            });
            let outcome = match (result, self.terms.ended()) {
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
            if let Some(watch) = &self.terms.watch {
                watch.end(false, None);
            }
            self.cell.resolve(outcome);
        });
    }

    fn skip(self: Arc<Self>, why: Error) {
        self.cell.resolve_queued(Err(why));
    }
}

impl<F: Send, T: Send> Cancellable for Call<'_, F, T> {
    fn is_cancelled(&self) -> bool {
        self.terms.is_cancelled()
    }
}

impl<'s, F, T> Submitted<'s, T> for Call<'s, F, T>
where
    F: FnOnce() -> Outcome<T> + Send,
    T: Send,
{
    type Work = F;

    fn terms(&self) -> &Terms {
        &self.terms
    }

    fn cell(&self) -> &Cell<'s, F, T> {
        &self.cell
    }

    fn withdraw(&self) -> Option<TaskRef> {
        // Once: if it is not there, it is being begun.
        let ticket = Ticket::from_bits(self.ticket.swap(0, Ordering::Relaxed));
        self.terms.workers.withdraw(ticket)
    }

    fn is_queued(&self) -> bool {
        self.ticket.load(Ordering::Relaxed) != 0
    }
}
