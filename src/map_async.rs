//! `map_async`: a map that its caller does not wait for.
//!
//! Over an iterator, whose `next` may block, nobody waits for it at all: workers come, do a share and
//! go, and the last to go puts the results together. So an input that blocks occupies the one worker
//! that is in it, and the others are free for other work.
//!
//! Over a collection it is one task that does a whole blocking map on its worker: rayon lends the
//! parts of a collection to a call on the stack only. On a pool that replaces its workers it is a task
//! for each chunk; see `chunked.rs`.

use std::convert::Infallible;
use std::sync::Arc;
use std::task::Waker;

use rayon::iter::IndexedParallelIterator;

use crate::call::{Kind, Pending, poll, queue, refused, submit_leased};
use crate::cell::{Callback, Cell, Outcome};
use crate::chunk::Cut;
use crate::chunked;
use crate::engine::{Caller, Engine};
use crate::error::Error;
use crate::iterable::{Iterable, Visitor};
use crate::map::map;
use crate::options::only_pool;
use crate::panic::{Panic, catch, discard};
use crate::queue::{Task, TaskRef};
use crate::raw::Room;
use crate::source::Pulled;
use crate::sync::{Mutex, lock};
use crate::terms::{Order, Terms};
use crate::worker::{self, Cancellable, Worker};

/// Submits `f` over `items`.
///
/// What is queued is queued in the form that `lease` makes of it: what borrows cannot be queued as it is.
pub(crate) fn map_async<'s, M, I, F, R>(
    order: &Order<'_>,
    lease: impl Fn(Arc<dyn Task + 's>) -> TaskRef + Send + Sync + 's,
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
    if workers.life.is_some() && workers.serial.is_none() {
        return chunked::map_async(order, lease, f, items);
    }
    items.accept(Start { order, lease, f })
}

struct Start<'o, 'w, L, F> {
    order: &'o Order<'w>,
    lease: L,
    f: F,
}

impl<'s, L, F> Start<'_, '_, L, F> {
    /// One task that does all of it, with the others' help.
    fn whole<M, I, R>(self, items: I) -> Arc<dyn Pending<Vec<R>> + 's>
    where
        L: Fn(Arc<dyn Task + 's>) -> TaskRef,
        I: Iterable<M> + Send + 's,
        F: Fn(I::Item) -> R + Send + Sync + 's,
        R: Send + 's,
    {
        let Start { order, lease, f } = self;
        let Order { workers, chunksize, deadline, watch } = order.clone();
        let shared = Arc::clone(workers);
        let work = move || {
            let order = Order { workers: &shared, chunksize, deadline, watch };
            map(&order, move |item| Ok::<R, Infallible>(f(item)), items).map_err(only_pool)
        };
        submit_leased(order, Kind::Driver, work, lease)
    }
}

impl<'s, L, F, T, R> Visitor<'s, T> for Start<'_, '_, L, F>
where
    L: Fn(Arc<dyn Task + 's>) -> TaskRef + Send + Sync + 's,
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
        if workers.serial.is_some() {
            return self.whole(items);
        }
        if let Err(error) = workers.admit() {
            return refused(workers, error);
        }
        let Start { order, lease, f } = self;
        let terms = Arc::new(Terms::new(order));
        let work = Work { f: move |item| Ok::<R, Infallible>(f(item)), items };
        let state = State { going: None, calls: 0, inside: 0 };
        let map = Arc::new(MapAsync {
            terms,
            chunksize: order.chunksize,
            cell: Cell::new(work),
            lease,
            state: Mutex::new(state),
        });
        queue(workers, map.leased(), |error| _ = map.cell.resolve(Err(error)));
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
    lease: L,
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
    /// How many workers were called, besides the first, and have not come. In the queue there is an
    /// entry for each, and one more for each time that somebody who waits for the map came in a
    /// worker's place.
    calls: usize,
    /// How many workers are at it, each with a reference to what is going on.
    inside: usize,
}

impl<'s, L, G, I, R> MapAsync<'s, L, G, I, R>
where
    L: Fn(Arc<dyn Task + 's>) -> TaskRef + Send + Sync + 's,
    G: Fn(I::Item) -> Result<R, Infallible> + Send + Sync + 's,
    I: Iterator<Item: Send + 's> + Send + 's,
    R: Send + 's,
{
    fn leased(self: &Arc<Self>) -> TaskRef {
        (self.lease)(Arc::clone(self) as Arc<dyn Task + 's>)
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

    /// Another worker comes, if one is called for.
    fn enter(&self) -> Option<Arc<Going<'s, G, I, R>>> {
        let mut state = lock(&self.state);
        state.calls = state.calls.checked_sub(1)?;
        let going = state.going.clone()?;
        state.inside += 1;
        Some(going)
    }

    /// Does a share; the last to go takes with him what was going on.
    fn share(
        self: &Arc<Self>,
        worker: &Worker,
        going: Arc<Going<'s, G, I, R>>,
    ) -> Option<Going<'s, G, I, R>> {
        loop {
            going.engine.join(worker, self);
            let mut state = lock(&self.state);
            // The last does not go while there is work: those that found the iterator busy were called
            // back by whoever was in it, and he by nobody.
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
    L: Fn(Arc<dyn Task + 's>) -> TaskRef + Send + Sync + 's,
    G: Fn(I::Item) -> Result<R, Infallible> + Send + Sync + 's,
    I: Iterator<Item: Send + 's> + Send + 's,
    R: Send + 's,
{
    fn call(&self) {
        lock(&self.state).calls += 1;
        // Refused only when the threads are gone, and whoever calls is on one of them.
        let _ = self.terms.workers.submit(self.leased());
        // Who waits for the result may be a worker, and come himself.
        self.cell.wake();
    }

    fn call_back(&self, _: bool) {
        self.call();
    }
}

impl<'s, L, G, I, R> Task for MapAsync<'s, L, G, I, R>
where
    L: Fn(Arc<dyn Task + 's>) -> TaskRef + Send + Sync + 's,
    G: Fn(I::Item) -> Result<R, Infallible> + Send + Sync + 's,
    I: Iterator<Item: Send + 's> + Send + 's,
    R: Send + 's,
{
    fn run(self: Arc<Self>) {
        if let Some(error) = self.terms.ended() {
            self.cell.resolve_queued(Err(error));
        }
        let Some(worker) = worker::of(self.terms.workers.id) else { return };
        let work = self.cell.begin();
        let signal = Arc::clone(&self.terms) as Arc<dyn Cancellable>;
        // The callbacks too: what they submit is no business of a task below this one.
        worker::in_task(signal, || {
            if let Err(payload) = catch(|| self.work(&worker, work)) {
                // No fault of the user's ends here, but then somebody is to hear of it.
                self.cell.resolve(Err(Error::Panicked(Panic::new(payload, None))));
            }
        });
    }

    fn is_stale(&self) -> bool {
        let state = lock(&self.state);
        !self.cell.is_queued() && (state.calls == 0 || state.going.is_none())
    }
}

impl<'s, L, G, I, R> Pending<Vec<R>> for MapAsync<'s, L, G, I, R>
where
    L: Fn(Arc<dyn Task + 's>) -> TaskRef + Send + Sync + 's,
    G: Fn(I::Item) -> Result<R, Infallible> + Send + Sync + 's,
    I: Iterator<Item: Send + 's> + Send + 's,
    R: Send + 's,
{
    fn terms(&self) -> &Terms {
        &self.terms
    }

    fn poll(&self, waker: Option<&Waker>) -> bool {
        poll(&self.terms, &self.cell, waker)
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
