//! A call that goes on by itself: its closure, its outcome, and what its handle can do with it.

use std::ops::Deref;
use std::sync::Arc;
use std::task::Waker;

use crate::cell::{Callback, Cell, Outcome};
use crate::error::Error;
use crate::panic::{Panic, catch, discard};
use crate::queue::{Task, TaskRef};
use crate::terms::{Order, Terms};
use crate::watch::Watch;
use crate::worker::{self, Cancellable};
use crate::workers::Workers;

/// A task as its handle sees it.
pub(crate) trait Pending<T>: Task {
    fn terms(&self) -> &Terms;
    /// Whether the outcome is there; resolves the cell if nobody shall wait for it any more.
    fn poll(&self, waker: Option<&Waker>) -> bool;
    /// The outcome, once, if it is there.
    fn try_take(&self) -> Option<Outcome<T>>;
    fn successful(&self) -> Result<bool, Error>;
    fn on_outcome(&self, callback: Callback<T>);
    fn cancel(&self) -> bool;
    fn detach(&self);
    fn as_task<'a>(self: Arc<Self>) -> Arc<dyn Task + 'a>
    where
        Self: 'a;
}

/// Whether `cell` has its outcome; it gets its error now if nobody shall wait any more.
pub(crate) fn poll<W, T>(terms: &Terms, cell: &Cell<W, T>, waker: Option<&Waker>) -> bool {
    if cell.poll(waker) {
        return true;
    }
    match terms.ended() {
        // If another thread resolves it, its callbacks may still be running.
        Some(error) => {
            if let Some(watch) = &terms.watch {
                watch.end(false, None);
            }
            cell.resolve(Err(error)) || cell.poll(None)
        }
        None => false,
    }
}

/// One submitted call: its closure, then its outcome, in one block of memory.
struct Call<F, T> {
    terms: Held,
    cell: Cell<F, T>,
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
pub(crate) fn submit<F, T>(order: &Order<'_>, work: F) -> Arc<dyn Pending<T>>
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
        kind: Kind::Task,
        signal: |call| Arc::clone(call) as Arc<dyn Cancellable>,
    });
    queue(workers, Arc::clone(&task) as TaskRef, |error| {
        task.cell.resolve(Err(error));
    });
    task
}

/// The same for work that may borrow, queued in a form that may not: what `lease` makes of it.
pub(crate) fn submit_leased<'s, F, T>(
    order: &Order<'_>,
    kind: Kind,
    work: F,
    lease: impl FnOnce(Arc<dyn Task + 's>) -> TaskRef,
) -> Arc<dyn Pending<T> + 's>
where
    F: FnOnce() -> Outcome<T> + Send + 's,
    T: Send + 's,
{
    let task = Arc::new(Call {
        terms: Held::Shared(Arc::new(Terms::new(order))),
        cell: Cell::new(work),
        kind,
        signal: |call| match &call.terms {
            Held::Shared(terms) => Arc::clone(terms) as Arc<dyn Cancellable>,
            Held::Here(_) => unreachable!("what borrows has shared terms"),
        },
    });
    let refuse = |error| {
        task.cell.resolve(Err(error));
    };
    let workers = order.workers;
    match workers.admit() {
        Ok(()) => queue(workers, lease(Arc::clone(&task) as Arc<dyn Task + 's>), refuse),
        Err(error) => refuse(error),
    }
    task
}

/// Queues `task`; `refuse` hears if it will not be run.
pub(crate) fn queue(workers: &Arc<Workers>, task: TaskRef, refuse: impl FnOnce(Error)) {
    if worker::is_of(workers.id) && workers.serial.is_none() {
        worker::adopt(&task);
    }
    if let Err(error) = workers.submit(task) {
        refuse(error);
    }
}

/// A task that has its error.
pub(crate) fn refused<'s, T: Send + 's>(
    workers: &Arc<Workers>,
    error: Error,
) -> Arc<dyn Pending<T> + 's> {
    // Nothing is known of what it was to do.
    let order = Order { watch: Some(Watch::of(workers, None, None)), ..Order::plain(workers) };
    Arc::new(Call::<fn() -> Outcome<T>, T> {
        terms: Held::Here(Terms::new(&order)),
        cell: Cell::ready(Err(error)),
        kind: Kind::Driver,
        signal: |_| unreachable!("it never runs"),
    })
}

impl<F, T> Task for Call<F, T>
where
    F: FnOnce() -> Outcome<T> + Send,
    T: Send,
{
    fn run(self: Arc<Self>) {
        if let Some(error) = self.terms.ended() {
            self.cell.resolve_queued(Err(error));
            return;
        }
        let Some(work) = self.cell.begin() else { return };
        // The callbacks too: what they submit is no business of a task below this one.
        worker::in_task((self.signal)(&self), || {
            let result = catch(|| match self.kind {
                Kind::Task => self.terms.in_task(work),
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

    fn is_stale(&self) -> bool {
        !self.cell.is_queued()
    }
}

impl<F: Send, T: Send> Cancellable for Call<F, T> {
    fn is_cancelled(&self) -> bool {
        self.terms.is_cancelled()
    }
}

impl<F, T> Pending<T> for Call<F, T>
where
    F: FnOnce() -> Outcome<T> + Send,
    T: Send,
{
    fn terms(&self) -> &Terms {
        &self.terms
    }

    fn poll(&self, waker: Option<&Waker>) -> bool {
        poll(&self.terms, &self.cell, waker)
    }

    fn try_take(&self) -> Option<Outcome<T>> {
        self.cell.try_take()
    }

    fn successful(&self) -> Result<bool, Error> {
        self.cell.successful()
    }

    fn on_outcome(&self, callback: Callback<T>) {
        self.cell.on_outcome(callback);
    }

    fn cancel(&self) -> bool {
        self.terms.cancel();
        self.cell.resolve_queued(Err(Error::Cancelled))
    }

    fn detach(&self) {
        self.cell.detach();
    }

    fn as_task<'a>(self: Arc<Self>) -> Arc<dyn Task + 'a>
    where
        Self: 'a,
    {
        self
    }
}
