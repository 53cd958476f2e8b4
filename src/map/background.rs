//! `map_async`: a map that its caller does not wait for.
//!
//! Over an iterator, whose `next` may block, nobody waits for it at all: workers come, do a share and
//! go, and the last to go puts the results together. So an input that blocks occupies the one worker
//! that is in it, and the others are free for other work.
//!
//! Over a collection it is one task that does a whole blocking map on its worker: rayon lends the
//! parts of a collection to a call on the stack only. On a pool that replaces its workers it is a task
//! for each chunk; see `map/chunked.rs`.

use std::convert::Infallible;
use std::sync::Arc;

use rayon::iter::IndexedParallelIterator;

use super::blocking::map;
use super::chunk_size::Cut;
use super::chunked;
use super::engine::{Caller, Engine};
use super::source::Pulled;
use crate::error::{Error, only_pool};
use crate::input::{Iterable, Visitor};
use crate::panic::{Panic, catch, discard};
use crate::raw::Room;
use crate::scheduler::{Cancellable, Task, TaskRef, Ticket, Tickets, Worker, worker};
use crate::sync::{Mutex, lock};
use crate::task::{
    Callback, Cell, Kind, Order, Outcome, Pending, Terms, Wake, poll, refused, submit_by,
};

/// Submits `f` over `items`.
///
/// `submit` queues it, and the shares of other workers later.
pub(crate) fn map_async<'s, M, I, F, R>(
    order: &Order<'_>,
    submit: impl Fn(Arc<dyn Task + 's>) -> Result<Ticket, Error> + Send + Sync + 's,
    f: F,
    items: I,
) -> Arc<dyn Pending<Vec<R>> + 's>
where
    I: Iterable<M> + 's,
    I::Item: 's,
    F: Fn(I::Item) -> R + Send + Sync + 's,
    R: Send + 's,
{
    let workers = order.workers;
    if workers.max_tasks.is_some() && !workers.is_serial {
        return chunked::map_async(order, submit, f, items);
    }
    items.accept(Start { order, submit, f })
}

struct Start<'o, 'w, L, F> {
    order: &'o Order<'w>,
    submit: L,
    f: F,
}

impl<'s, L, F> Start<'_, '_, L, F> {
    /// One task that does all of it, with the others' help.
    fn whole<M, I, R>(self, items: I) -> Arc<dyn Pending<Vec<R>> + 's>
    where
        L: Fn(Arc<dyn Task + 's>) -> Result<Ticket, Error>,
        I: Iterable<M> + Send + 's,
        F: Fn(I::Item) -> R + Send + Sync + 's,
        R: Send + 's,
    {
        let Start { order, submit, f } = self;
        let Order { workers, chunksize, deadline, watch } = order.clone();
        let shared = Arc::clone(workers);
        let work = move || {
            let order = Order { workers: &shared, chunksize, deadline, watch };
            map(&order, move |item| Ok::<R, Infallible>(f(item)), items).map_err(only_pool)
        };
        submit_by(order, Kind::Driver, work, submit)
    }
}

impl<'s, L, F, T, R> Visitor<'s, T> for Start<'_, '_, L, F>
where
    L: Fn(Arc<dyn Task + 's>) -> Result<Ticket, Error> + Send + Sync + 's,
    F: Fn(T) -> R + Send + Sync + 's,
    T: Send + 's,
    R: Send + 's,
{
    type Output = Arc<dyn Pending<Vec<R>> + 's>;

    fn indexed<I: IndexedParallelIterator<Item = T> + 's>(self, items: I) -> Self::Output {
        self.whole(items)
    }

    fn sequential<I: Iterator<Item = T> + Send + 's>(self, items: I) -> Self::Output {
        let workers = self.order.workers;
        if workers.is_serial {
            return self.whole(items);
        }
        if let Err(error) = workers.admit() {
            return refused(workers, error);
        }
        let Start { order, submit, f } = self;
        let terms = Arc::new(Terms::new(order));
        let work = Work { f: move |item| Ok::<R, Infallible>(f(item)), items };
        let state = State { going: None, tickets: Tickets::default(), inside: 0 };
        let map = Arc::new(MapAsync {
            terms,
            chunksize: order.chunksize,
            cell: Cell::new(work),
            submit,
            state: Mutex::new(state),
        });
        // Refused, it was skipped, and the cell has the error.
        let _ = map.queue();
        map
    }
}

/// A map over an iterator.
struct MapAsync<'s, L, G, I, R>
where
    I: Iterator<Item: Send> + Send,
    R: Send,
{
    terms: Arc<Terms>,
    chunksize: Option<usize>,
    cell: Cell<Work<G, I>, Vec<R>>,
    submit: L,
    state: Mutex<State<Going<'s, G, I, R>>>,
}

/// What nobody has begun.
struct Work<G, I> {
    f: G,
    items: I,
}

/// What is going on: the engine, and the memory of the results if their number is known.
struct Going<'s, G, I, R>
where
    I: Iterator<Item: Send> + Send,
    R: Send,
{
    engine: Engine<'s, Pulled<'s, I, R>, G, R, Infallible>,
    room: Option<Room<R>>,
}

struct State<N> {
    /// Gone when the last worker has left.
    going: Option<Arc<N>>,
    /// The places in the queue of those workers that were called and have not come, and perhaps of some that
    /// have.
    tickets: Tickets,
    /// How many workers are at it, each with a reference to what is going on.
    inside: usize,
}

impl<'s, L, G, I, R> MapAsync<'s, L, G, I, R>
where
    L: Fn(Arc<dyn Task + 's>) -> Result<Ticket, Error> + Send + Sync + 's,
    G: Fn(I::Item) -> Result<R, Infallible> + Send + Sync + 's,
    I: Iterator<Item: Send + 's> + Send + 's,
    R: Send + 's,
{
    /// Calls a worker.
    fn queue(self: &Arc<Self>) -> Result<(), Error> {
        let ticket = (self.submit)(Arc::clone(self) as Arc<dyn Task + 's>)?;
        let most = self.terms.workers.count;
        lock(&self.state).tickets.push(ticket, most);
        Ok(())
    }

    /// Takes out of the queue what nobody has come for.
    fn skip_queued(&self) {
        let tickets = std::mem::take(&mut lock(&self.state).tickets);
        self.terms.workers.skip_queued(tickets);
    }

    /// The first worker comes.
    fn begin(&self, work: Work<G, I>) -> Result<Arc<Going<'s, G, I, R>>, Error> {
        let Work { f, items } = work;
        let len = match catch(|| items.size_hint()) {
            Ok((low, high)) => (Some(low) == high).then_some(low),
            Err(payload) => {
                discard(f);
                discard(items);
                return Err(Error::Panicked(Panic::new(payload, Some(0))));
            }
        };
        if let Some(watch) = &self.terms.watch {
            watch.begin(len);
        }
        let room = len.and_then(|len| {
            let mut buffer = Vec::new();
            // What an iterator says of its length is a hint: an absurd one must not cost the memory.
            buffer.try_reserve_exact(len).ok()?;
            Some(Room::new(buffer, len))
        });
        let (room, slots) = room.unzip();
        let count = self.terms.workers.count;
        let source = Pulled::new(items, slots, count);
        let cut = Cut::new(self.chunksize, false, len, count);
        let engine = Engine::new(f, Arc::clone(&self.terms), source, cut, None);
        let going = Arc::new(Going { engine, room });
        let mut state = lock(&self.state);
        state.inside = 1;
        state.going = Some(Arc::clone(&going));
        Ok(going)
    }

    /// Another worker comes, if it is not over.
    fn enter(&self) -> Option<Arc<Going<'s, G, I, R>>> {
        let mut state = lock(&self.state);
        let going = state.going.clone()?;
        state.inside += 1;
        Some(going)
    }

    /// Does a share; the last to go takes along what was going on.
    fn share(
        self: &Arc<Self>,
        worker: &Worker,
        going: Arc<Going<'s, G, I, R>>,
    ) -> Option<Going<'s, G, I, R>> {
        loop {
            going.engine.join(worker, self);
            let mut state = lock(&self.state);
            // The last does not go while there is work: those that found the iterator busy were called
            // back by the one that was in it, and that one by nobody.
            if state.inside > 1 || !going.engine.has_work() {
                state.inside -= 1;
                drop(going);
                let last = state.inside == 0;
                return state.going.take_if(|_| last).and_then(Arc::into_inner);
            }
        }
    }

    fn work(self: &Arc<Self>, worker: &Worker, work: Option<Work<G, I>>) {
        let going = match work.map(|work| self.begin(work)) {
            Some(Ok(going)) => Some(going),
            Some(Err(error)) => {
                self.cell.resolve(Err(error));
                return;
            }
            None => self.enter(),
        };
        if let Some(Going { engine, room }) = going.and_then(|going| self.share(worker, going)) {
            // Nobody need come any more; those who came late find nothing.
            self.skip_queued();
            let (runs, rest) = engine.finish(None);
            let mut results = room.map_or_else(Vec::new, |room| room.collect(runs));
            let outcome = rest.finish(&mut results).map(|()| results).map_err(only_pool);
            if let Some(watch) = &self.terms.watch {
                watch.end(outcome.is_ok(), None);
            }
            self.cell.resolve(outcome);
        }
    }
}

impl<'s, L, G, I, R> Caller for Arc<MapAsync<'s, L, G, I, R>>
where
    L: Fn(Arc<dyn Task + 's>) -> Result<Ticket, Error> + Send + Sync + 's,
    G: Fn(I::Item) -> Result<R, Infallible> + Send + Sync + 's,
    I: Iterator<Item: Send + 's> + Send + 's,
    R: Send + 's,
{
    fn call(&self) {
        // Refused only when the threads are gone, and the caller is on one of them.
        let _ = self.queue();
        // Who waits for the result may be a worker, and come too.
        self.cell.wake();
    }

    fn call_back(&self, _: bool) {
        self.call();
    }
}

impl<'s, L, G, I, R> Task for MapAsync<'s, L, G, I, R>
where
    L: Fn(Arc<dyn Task + 's>) -> Result<Ticket, Error> + Send + Sync + 's,
    G: Fn(I::Item) -> Result<R, Infallible> + Send + Sync + 's,
    I: Iterator<Item: Send + 's> + Send + 's,
    R: Send + 's,
{
    fn run(self: Arc<Self>, worker: &Worker) {
        if let Some(error) = self.terms.ended() {
            self.cell.resolve_queued(Err(error));
        }
        let work = self.cell.begin();
        let task = Arc::clone(&self.terms) as Arc<dyn Cancellable>;
        // The callbacks too: they are no code of a task below this one.
        worker::in_task(task, || {
            if let Err(payload) = catch(|| self.work(worker, work)) {
                // No fault of the user's ends here, but then somebody is to hear of it.
                self.cell.resolve(Err(Error::Panicked(Panic::new(payload, None))));
            }
        });
    }

    fn skip(self: Arc<Self>, why: Error) {
        self.cell.resolve_queued(Err(why));
    }
}

impl<'s, L, G, I, R> Pending<Vec<R>> for MapAsync<'s, L, G, I, R>
where
    L: Fn(Arc<dyn Task + 's>) -> Result<Ticket, Error> + Send + Sync + 's,
    G: Fn(I::Item) -> Result<R, Infallible> + Send + Sync + 's,
    I: Iterator<Item: Send + 's> + Send + 's,
    R: Send + 's,
{
    fn terms(&self) -> &Terms {
        &self.terms
    }

    fn poll(&self, wake: Wake<'_>) -> bool {
        poll(self, &self.cell, wake)
    }

    fn withdraw(&self) -> Option<TaskRef> {
        // One at a time, and under the lock: a worker that finds no ticket here sleeps, and nobody would wake it for one
        // that was only taken out for a moment.
        let mut state = lock(&self.state);
        self.terms.workers.runners.withdraw_one(&mut state.tickets)
    }

    fn is_queued(&self) -> bool {
        !lock(&self.state).tickets.is_empty()
    }

    fn is_calling_here(&self) -> bool {
        self.cell.is_calling_here()
    }

    fn try_take(&self) -> Option<Outcome<Vec<R>>> {
        self.cell.try_take()
    }

    fn successful(&self) -> Result<bool, Error> {
        self.cell.successful()
    }

    fn on_outcome(&self, callback: Callback<Vec<R>>) {
        self.cell.on_outcome(callback);
    }

    fn cancel(&self) -> bool {
        self.terms.cancel();
        let cancelled = self.cell.resolve_queued(Err(Error::Cancelled));
        if cancelled {
            self.skip_queued();
        }
        cancelled
    }

    fn detach(&self) {
        self.cell.detach();
    }
}

#[cfg(all(test, loom))]
mod models;
