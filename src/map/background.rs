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
use super::chunk_size::ChunkPolicy;
use super::engine::{Engine, FEWER, MORE, Recruit};
use super::source::Pulled;
use crate::error::{Error, only_pool};
use crate::input::{Iterable, Visitor, gather};
use crate::panic::{Panic, catch, discard};
use crate::raw::SharedOutput;
use crate::scheduler::{Cancellable, Task, TaskRef, Ticket, Tickets, Worker, worker};
use crate::sync::{Mutex, lock};
use crate::task::{
    CallContext, CallKind, CallOptions, Submitted, TaskHandle, TaskState, refused, submit_by,
};

/// Submits `f` over `items`.
///
/// `submit` queues it, and the shares of other workers later.
pub(crate) fn map_async<'s, M, I, F, R>(
    options: &CallOptions<'_>,
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
    items.accept(MapAsyncVisitor { options, submit, f })
}

struct MapAsyncVisitor<'o, 'w, L, F> {
    options: &'o CallOptions<'w>,
    submit: L,
    f: F,
}

impl<'s, L, F> MapAsyncVisitor<'_, '_, L, F> {
    /// One task that does all of it, with the others' help.
    fn whole<M, I, R>(self, items: I) -> TaskHandle<'s, Vec<R>>
    where
        L: Fn(Arc<dyn Task + 's>) -> Result<Ticket, Error>,
        I: Iterable<M> + Send + 's,
        F: Fn(I::Item) -> R + Send + Sync + 's,
        R: Send + 's,
    {
        let MapAsyncVisitor { options, submit, f } = self;
        let CallOptions { shared, chunksize, deadline, watch } = options.clone();
        let shared = Arc::clone(shared);
        let work = move || {
            let options = CallOptions { shared: &shared, chunksize, deadline, watch };
            map(&options, move |item| Ok::<R, Infallible>(f(item)), items).map_err(only_pool)
        };
        submit_by(options, CallKind::Driver, work, submit)
    }
}

impl<'s, L, F, T, R> Visitor<'s, T> for MapAsyncVisitor<'_, '_, L, F>
where
    L: Fn(Arc<dyn Task + 's>) -> Result<Ticket, Error> + Send + Sync + 's,
    F: Fn(T) -> R + Send + Sync + 's,
    T: Send + 's,
    R: Send + 's,
{
    type Output = TaskHandle<'s, Vec<R>>;

    fn indexed<I: IndexedParallelIterator<Item = T> + 's>(self, items: I) -> Self::Output {
        let shared = self.options.shared;
        if shared.is_serial || shared.max_tasks.is_none() {
            return self.whole(items);
        }
        match shared.admit().and_then(|()| collect(items)) {
            Ok(items) => self.sequential(items.into_iter()),
            Err(error) => refused(shared, error),
        }
    }

    fn sequential<I: Iterator<Item = T> + Send + 's>(self, items: I) -> Self::Output {
        let shared = self.options.shared;
        if shared.is_serial {
            return self.whole(items);
        }
        if let Err(error) = shared.admit() {
            return refused(shared, error);
        }
        let MapAsyncVisitor { options, submit, f } = self;
        let context = Arc::new(CallContext::new(options));
        let work = MapWork { f: move |item| Ok::<R, Infallible>(f(item)), items };
        let sharing = Sharing { going: None, tickets: Tickets::default(), inside: 0 };
        let map = Arc::new(MapAsync {
            context,
            chunksize: options.chunksize,
            state: TaskState::new(work),
            submit,
            sharing: Mutex::new(sharing),
        });
        // Refused, it was skipped, and its state has the error.
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
    context: Arc<CallContext>,
    chunksize: Option<usize>,
    state: TaskState<'s, MapWork<G, I>, Vec<R>>,
    submit: L,
    sharing: Mutex<Sharing<Going<'s, G, I, R>>>,
}

/// What nobody has begun.
struct MapWork<G, I> {
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
    room: Option<SharedOutput<R>>,
}

struct Sharing<N> {
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
        let most = self.context.shared.count;
        lock(&self.sharing).tickets.push(ticket, most);
        Ok(())
    }

    /// The first worker comes.
    fn begin(&self, work: MapWork<G, I>) -> Result<Arc<Going<'s, G, I, R>>, Error> {
        let MapWork { f, items } = work;
        let len = match catch(|| items.size_hint()) {
            Ok((low, high)) => (Some(low) == high).then_some(low),
            Err(payload) => {
                discard(f);
                discard(items);
                return Err(Error::Panicked(Panic::new(payload, Some(0))));
            }
        };
        if let Some(watch) = &self.context.watch {
            watch.begin(len);
        }
        let room = len.and_then(|len| {
            let mut buffer = Vec::new();
            // What an iterator says of its length is a hint: an absurd one must not cost the memory.
            buffer.try_reserve_exact(len).ok()?;
            Some(SharedOutput::new(buffer, len))
        });
        let (room, slots) = room.unzip();
        let shared = &self.context.shared;
        let source = Pulled::new(items, slots, shared.count);
        let policy =
            ChunkPolicy::new(self.chunksize, shared.max_tasks.is_some(), len, shared.count);
        let engine = Engine::new(f, Arc::clone(&self.context), source, policy, None);
        let going = Arc::new(Going { engine, room });
        let mut sharing = lock(&self.sharing);
        sharing.inside = 1;
        sharing.going = Some(Arc::clone(&going));
        Ok(going)
    }

    /// Another worker comes, if it is not over.
    fn enter(&self) -> Option<Arc<Going<'s, G, I, R>>> {
        let mut sharing = lock(&self.sharing);
        let going = sharing.going.clone()?;
        sharing.inside += 1;
        Some(going)
    }

    /// Does a share, and goes.
    fn share(self: &Arc<Self>, worker: &Worker, going: Arc<Going<'s, G, I, R>>) {
        loop {
            going.engine.join(worker, self);
            let mut sharing = lock(&self.sharing);
            let last = sharing.inside == 1;
            let (work_left, retires) = (going.engine.has_work(), worker.should_retire());
            // The last does not go while there is work: those that found the iterator busy were called
            // back by the one that was in it, and that one by nobody.
            if last && work_left && !retires {
                continue;
            }
            sharing.inside -= 1;
            drop(going);
            if work_left {
                drop(sharing);
                if retires {
                    // Another comes in its place. If that is refused, it is skipped.
                    self.call();
                }
            } else if last {
                let going = sharing.going.take().and_then(Arc::into_inner);
                drop(sharing);
                going.into_iter().for_each(|going| self.finish(going, None));
            }
            return;
        }
    }

    /// Puts the results together, after the last has gone.
    fn finish(&self, going: Going<'s, G, I, R>, refused: Option<Error>) {
        // Nobody need come any more; those who came late find nothing.
        let tickets = std::mem::take(&mut lock(&self.sharing).tickets);
        self.context.shared.skip_queued(tickets);
        let (runs, rest) = going.engine.finish(refused);
        let mut results = going.room.map_or_else(Vec::new, |room| room.collect(runs));
        let outcome = rest.finish(&mut results).map(|()| results).map_err(only_pool);
        if let Some(watch) = &self.context.watch {
            watch.end(outcome.is_ok(), None);
        }
        self.state.resolve(outcome);
    }

    fn work(self: &Arc<Self>, worker: &Worker, work: Option<MapWork<G, I>>) {
        let going = match work.map(|work| self.begin(work)) {
            Some(Ok(going)) => Some(going),
            Some(Err(error)) => {
                self.state.resolve(Err(error));
                return;
            }
            None => self.enter(),
        };
        if let Some(going) = going {
            self.share(worker, going);
        }
    }
}

impl<'s, L, G, I, R> Recruit for Arc<MapAsync<'s, L, G, I, R>>
where
    L: Fn(Arc<dyn Task + 's>) -> Result<Ticket, Error> + Send + Sync + 's,
    G: Fn(I::Item) -> Result<R, Infallible> + Send + Sync + 's,
    I: Iterator<Item: Send + 's> + Send + 's,
    R: Send + 's,
{
    fn call(&self) {
        // Refused only when the threads are gone, and the caller is on one of them.
        let _ = self.queue();
        // The one that waits for the result may be a worker, and come too.
        self.state.wake();
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
        if let Some(error) = self.context.stop_reason() {
            self.state.resolve_queued(Err(error));
        }
        let work = self.state.begin();
        let task = Arc::clone(&self.context) as Arc<dyn Cancellable>;
        // The callbacks too: they are no code of a task below this one.
        worker::in_task(task, || {
            if let Err(payload) = catch(|| self.work(worker, work)) {
                // No fault of the user's ends here, but then somebody is to hear of it.
                self.state.resolve(Err(Error::Panicked(Panic::new(payload, None))));
            }
        });
    }

    fn skip(self: Arc<Self>, why: Error) {
        let going = {
            let mut sharing = lock(&self.sharing);
            let nobody = sharing.inside == 0;
            sharing.going.take_if(|_| nobody).and_then(Arc::into_inner)
        };
        match going {
            // The last has left the rest to the one that is skipped.
            Some(going) => self.finish(going, Some(why)),
            None => _ = self.state.resolve_queued(Err(why)),
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
    type Work = MapWork<G, I>;

    fn context(&self) -> &CallContext {
        &self.context
    }

    fn state(&self) -> &TaskState<'s, MapWork<G, I>, Vec<R>> {
        &self.state
    }

    fn withdraw(&self) -> Option<TaskRef> {
        // One at a time, and under the lock: a worker that finds no ticket here sleeps, and nobody would wake it for one
        // that was only taken out for a moment.
        let mut sharing = lock(&self.sharing);
        self.context.shared.runners.withdraw_one(&mut sharing.tickets)
    }

    fn is_queued(&self) -> bool {
        !lock(&self.sharing).tickets.is_empty()
    }
}

#[cfg(all(test, loom))]
mod models;
