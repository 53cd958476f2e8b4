//! `map_async`: a map that its caller does not wait for.
//!
//! Over an iterator, whose `next` may block, nobody waits for it at all: workers come, do a share and
//! go, and the last to go puts the results together. So an input that blocks occupies the one worker
//! that is in it, and the others are free for other work.
//!
//! Over a collection it is one task that does a whole blocking map on its worker: rayon lends the
//! parts of a collection to a call on the stack only. On a pool that replaces its workers that worker could not
//! be replaced before the end: there the items are taken out of the collection first.

use std::cmp::Ordering;
use std::convert::Infallible;
use std::sync::Arc;

use rayon::iter::IndexedParallelIterator;
use rayon::iter::plumbing::{Producer, ProducerCallback};

use super::blocking::map;
use super::chunk_size::Cut;
use super::engine::{Caller, Engine, FEWER, MORE};
use super::source::Pulled;
use crate::error::{Error, only_pool};
use crate::input::{Iterable, Visitor, gather};
use crate::panic::{Panic, catch, discard};
use crate::raw::Room;
use crate::scheduler::{Cancellable, Task, TaskRef, Ticket, Tickets, Worker, worker};
use crate::sync::{Mutex, lock};
use crate::task::{Cell, Kind, Order, Submitted, TaskHandle, Terms, refused, submit_by};

/// Submits `f` over `items`.
///
/// `submit` queues it, and the shares of other workers later.
pub(crate) fn map_async<'s, M, I, F, R>(
    order: &Order<'_>,
    submit: impl Fn(Arc<dyn Task + 's>) -> Result<Ticket, Error> + Send + Sync + 's,
    f: F,
    items: I,
) -> TaskHandle<'s, Vec<R>>
where
    I: Iterable<M> + 's,
    I::Item: 's,
    F: Fn(I::Item) -> R + Send + Sync + 's,
    R: Send + 's,
{
    items.accept(Start { order, submit, f })
}

struct Start<'o, 'w, L, F> {
    order: &'o Order<'w>,
    submit: L,
    f: F,
}

impl<'s, L, F> Start<'_, '_, L, F> {
    /// One task that does all of it, with the others' help.
    fn whole<M, I, R>(self, items: I) -> TaskHandle<'s, Vec<R>>
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
    type Output = TaskHandle<'s, Vec<R>>;

    fn indexed<I: IndexedParallelIterator<Item = T> + 's>(self, items: I) -> Self::Output {
        let workers = self.order.workers;
        if workers.is_serial || workers.max_tasks.is_none() {
            return self.whole(items);
        }
        match workers.admit().and_then(|()| collect(items)) {
            Ok(items) => self.sequential(items.into_iter()),
            Err(error) => refused(workers, error),
        }
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
        TaskHandle::new(map)
    }
}

/// All items of a collection, in a `Vec`.
fn collect<T: Send, I: IndexedParallelIterator<Item = T>>(items: I) -> Result<Vec<T>, Error> {
    let len =
        catch(|| items.len()).map_err(|thrown| Error::Panicked(Panic::new(thrown, Some(0))))?;
    // To lend its producer is the input's own code.
    let items = catch(|| items.with_producer(CollectUpTo(len.saturating_add(1))))
        .map_err(|thrown| Error::Panicked(Panic::new(thrown, None)))??;
    let lie = match items.len().cmp(&len) {
        Ordering::Less => FEWER,
        Ordering::Equal => return Ok(items),
        Ordering::Greater => MORE,
    };
    let index = items.len().min(len);
    discard(items);
    Err(Error::Panicked(Panic::new(Box::new(lie), Some(index))))
}

/// Takes so many items out of a producer.
struct CollectUpTo(usize);

impl<T: Send> ProducerCallback<T> for CollectUpTo {
    type Output = Result<Vec<T>, Error>;

    fn callback<P: Producer<Item = T>>(self, producer: P) -> Self::Output {
        gather(|| producer.into_iter().take(self.0))
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
    cell: Cell<'s, Work<G, I>, Vec<R>>,
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
        let workers = &self.terms.workers;
        let source = Pulled::new(items, slots, workers.count);
        let cut = Cut::new(self.chunksize, workers.max_tasks.is_some(), len, workers.count);
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

    /// Does a share, and goes.
    fn share(self: &Arc<Self>, worker: &Worker, going: Arc<Going<'s, G, I, R>>) {
        loop {
            going.engine.join(worker, self);
            let mut state = lock(&self.state);
            let alone = state.inside == 1;
            // The last does not go while there is work: those that found the iterator busy were called
            // back by the one that was in it, and that one by nobody.
            let work_left = alone && going.engine.has_work();
            if work_left && !worker.should_retire() {
                continue;
            }
            state.inside -= 1;
            drop(going);
            if !work_left {
                let going = state.going.take_if(|_| alone).and_then(Arc::into_inner);
                drop(state);
                going.into_iter().for_each(|going| self.finish(going, None));
                return;
            }
            drop(state);
            // It is to be replaced, and leaves the rest to another. If that is refused, it is skipped.
            let _ = self.queue();
            return;
        }
    }

    /// Puts the results together, after the last has gone.
    fn finish(&self, going: Going<'s, G, I, R>, refused: Option<Error>) {
        // Nobody need come any more; those who came late find nothing.
        let tickets = std::mem::take(&mut lock(&self.state).tickets);
        self.terms.workers.skip_queued(tickets);
        let (runs, rest) = going.engine.finish(refused);
        let mut results = going.room.map_or_else(Vec::new, |room| room.collect(runs));
        let outcome = rest.finish(&mut results).map(|()| results).map_err(only_pool);
        if let Some(watch) = &self.terms.watch {
            watch.end(outcome.is_ok(), None);
        }
        self.cell.resolve(outcome);
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
        if let Some(going) = going {
            self.share(worker, going);
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
        let going = {
            let mut state = lock(&self.state);
            let nobody = state.inside == 0;
            state.going.take_if(|_| nobody).and_then(Arc::into_inner)
        };
        match going {
            // The last has left the rest to the one that is skipped.
            Some(going) => self.finish(going, Some(why)),
            None => _ = self.cell.resolve_queued(Err(why)),
        }
    }
}

impl<'s, L, G, I, R> Submitted<'s, Vec<R>> for MapAsync<'s, L, G, I, R>
where
    L: Fn(Arc<dyn Task + 's>) -> Result<Ticket, Error> + Send + Sync + 's,
    G: Fn(I::Item) -> Result<R, Infallible> + Send + Sync + 's,
    I: Iterator<Item: Send + 's> + Send + 's,
    R: Send + 's,
{
    type Work = Work<G, I>;

    fn terms(&self) -> &Terms {
        &self.terms
    }

    fn cell(&self) -> &Cell<'s, Work<G, I>, Vec<R>> {
        &self.cell
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
}

#[cfg(all(test, loom))]
mod models;
