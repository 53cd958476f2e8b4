//! `map_async` on a pool that replaces its workers: each chunk is a task of its own, as in Python, so
//! that a worker can be replaced between two of them.
//!
//! (On other pools see `map/background.rs`.)

use std::cmp::Ordering;
use std::collections::VecDeque;
use std::sync::Arc;

use rayon::iter::IndexedParallelIterator;
use rayon::iter::plumbing::{Producer, ProducerCallback};

use super::chunk_size::Cut;
use super::engine::{FEWER, MORE};
use crate::error::Error;
use crate::input::{Iterable, Visitor, gather};
use crate::panic::{Panic, catch, discard};
use crate::scheduler::{Cancellable, Task, TaskRef, Ticket, Tickets, Worker, worker};
use crate::sync::{Instant, Mutex, lock};
use crate::task::{Callback, Cell, Order, Outcome, Pending, Terms, Wake, poll, refused};

/// Submits `f` over `items` in chunks.
///
/// `submit` queues them.
pub(crate) fn map_async<'s, M, I, F, R>(
    order: &Order<'_>,
    submit: impl Fn(Arc<dyn Task + 's>) -> Result<Ticket, Error>,
    f: F,
    items: I,
) -> Arc<dyn Pending<Vec<R>> + 's>
where
    I: Iterable<M>,
    I::Item: 's,
    F: Fn(I::Item) -> R + Send + Sync + 's,
    R: Send + 's,
{
    let workers = order.workers;
    if let Err(error) = workers.admit() {
        return refused(workers, error);
    }
    // The number of chunks must be known, so the input is looped over here, as Python does.
    let mut items = match items.accept(Collect) {
        Ok(items) => items,
        Err(error) => return refused(workers, error),
    };
    order.begin(Some(items.len()));
    let unit = Cut::new(order.chunksize, true, Some(items.len()), workers.count).unit;
    let mut chunks = VecDeque::new();
    while items.len() > unit {
        let start = (items.len() - 1) / unit * unit;
        chunks.push_front((start, items.split_off(start)));
    }
    chunks.push_front((0, items));
    let count = chunks.len();
    let mut results = Vec::new();
    results.resize_with(count, Vec::new);
    let tickets = Tickets::default();
    let state = State { chunks, results, tickets, running: 0, failure: None };
    let map = Arc::new(Chunked {
        terms: Arc::new(Terms::new(order)),
        cell: Cell::new(()),
        unit,
        f: Mutex::new(Some(Arc::new(f))),
        state: Mutex::new(state),
    });
    for _ in 0..count {
        // Refused, it was skipped, and the cell has the error.
        if let Ok(ticket) = submit(Arc::clone(&map) as Arc<dyn Task + 's>) {
            lock(&map.state).tickets.push(ticket, count);
        }
    }
    map
}

struct Chunked<T, F, R> {
    terms: Arc<Terms>,
    cell: Cell<(), Vec<R>>,
    unit: usize,
    /// Gone when the last chunk is done.
    f: Mutex<Option<Arc<F>>>,
    state: Mutex<State<T, R>>,
}

struct State<T, R> {
    /// What nobody has begun, with the index of the first item of each.
    chunks: VecDeque<(usize, Vec<T>)>,
    /// By chunk.
    results: Vec<Vec<R>>,
    /// Of the chunks that were queued and may not have been begun.
    tickets: Tickets,
    running: usize,
    /// The one with the lowest index.
    failure: Option<(usize, Error)>,
}

impl<T, F, R> Chunked<T, F, R>
where
    T: Send,
    F: Fn(T) -> R + Send + Sync,
    R: Send,
{
    /// Runs one chunk: its results, or the index and the panic of the item that failed.
    fn run_chunk(
        &self,
        worker: &Worker,
        start: usize,
        items: Vec<T>,
        f: Arc<F>,
    ) -> Result<Vec<R>, (usize, Error)> {
        let count = items.len();
        let mut results = Vec::with_capacity(count);
        let mut observer = self.terms.observe(worker);
        if let Some(observer) = &mut observer {
            observer.begin(start);
        }
        let signal = Arc::clone(&self.terms) as Arc<dyn Cancellable>;
        let run = || {
            for item in items {
                if self.terms.ended().is_some() {
                    break;
                }
                results.push(f(item));
                if let Some(observer) = &mut observer {
                    observer.look(start + results.len());
                }
            }
        };
        let run = || self.terms.caller.in_chunk(start, count, run);
        let outcome = worker::in_task(signal, || catch(run));
        if let Some(mut observer) = observer {
            observer.reach(start + results.len(), Instant::now());
            observer.end();
        }
        discard(f);
        match outcome {
            Ok(()) => Ok(results),
            Err(payload) => {
                let index = start + results.len();
                discard(results);
                Err((index, Error::Panicked(Panic::new(payload, Some(index)))))
            }
        }
    }

    /// Gives the cell its outcome after the last chunk.
    fn finish(&self) {
        let (results, failure) = {
            let mut state = lock(&self.state);
            (std::mem::take(&mut state.results), state.failure.take())
        };
        let f = lock(&self.f).take();
        discard(f);
        let outcome = match (self.terms.ended(), failure) {
            (Some(error), _) | (None, Some((_, error))) => {
                discard(results);
                Err(error)
            }
            (None, None) => Ok(results.into_iter().flatten().collect()),
        };
        if let Some(watch) = &self.terms.watch {
            watch.end(outcome.is_ok(), None);
        }
        self.cell.resolve(outcome);
    }

    /// A chunk is done with; the last one gives the cell its outcome.
    fn end_chunk(&self, start: usize, result: Result<Vec<R>, (usize, Error)>) {
        let (last, unused) = {
            let mut state = lock(&self.state);
            let unused = match result {
                Ok(results) => {
                    state.results[start / self.unit] = results;
                    None
                }
                Err((index, error)) => match &state.failure {
                    Some((lowest, _)) if *lowest <= index => Some((index, error)),
                    _ => state.failure.replace((index, error)),
                },
            };
            state.running -= 1;
            (state.running == 0 && state.chunks.is_empty(), unused)
        };
        // The payload of a panic is the user's.
        discard(unused);
        if last {
            self.finish();
        }
    }
}

impl<T, F, R> Task for Chunked<T, F, R>
where
    T: Send,
    F: Fn(T) -> R + Send + Sync,
    R: Send,
{
    /// Runs the next chunk.
    fn run(self: Arc<Self>, worker: &Worker) {
        let skip = self.cell.poll(Wake::Nobody) || self.terms.ended().is_some();
        let (start, items, wanted) = {
            let mut state = lock(&self.state);
            let Some((start, items)) = state.chunks.pop_front() else { return };
            state.running += 1;
            let above = state.failure.as_ref().is_some_and(|(index, _)| *index < start);
            (start, items, !(skip || above))
        };
        let f = lock(&self.f).clone();
        let result = match f.filter(|_| wanted) {
            Some(f) => {
                worker.count();
                self.run_chunk(worker, start, items, f)
            }
            None => {
                discard(items);
                Ok(Vec::new())
            }
        };
        // `f` went with the run: when the last chunk counts as done, no closure is left but one.
        self.end_chunk(start, result);
    }

    /// The next chunk is not run, so there is no value.
    fn skip(self: Arc<Self>, why: Error) {
        let (start, items) = {
            let mut state = lock(&self.state);
            let Some(chunk) = state.chunks.pop_front() else { return };
            state.running += 1;
            chunk
        };
        discard(items);
        self.end_chunk(start, Err((start, why)));
    }
}

impl<T, F, R> Pending<Vec<R>> for Chunked<T, F, R>
where
    T: Send,
    F: Fn(T) -> R + Send + Sync,
    R: Send,
{
    fn terms(&self) -> &Terms {
        &self.terms
    }

    fn poll(&self, wake: Wake<'_>) -> bool {
        poll(self, &self.cell, wake)
    }

    fn withdraw(&self) -> Option<TaskRef> {
        let ticket = lock(&self.state).tickets.pop();
        let mut next = ticket;
        while let Some(ticket) = next {
            if let Some(entry) = self.terms.workers.withdraw(ticket) {
                return Some(entry);
            }
            next = lock(&self.state).tickets.pop();
        }
        None
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

    /// Not begun means: no chunk of it.
    fn cancel(&self) -> bool {
        self.terms.cancel();
        let chunks = {
            let mut state = lock(&self.state);
            let begun = state.running > 0 || state.chunks.len() < state.results.len();
            if begun {
                return false;
            }
            std::mem::take(&mut state.chunks)
        };
        discard(chunks);
        let f = lock(&self.f).take();
        discard(f);
        let cancelled = self.cell.resolve(Err(Error::Cancelled));
        let tickets = std::mem::take(&mut lock(&self.state).tickets);
        self.terms.workers.skip_queued(tickets);
        cancelled
    }

    fn detach(&self) {
        self.cell.detach();
    }
}

/// Loops over an input here and now.
struct Collect;

impl<'s, T: Send> Visitor<'s, T> for Collect {
    type Output = Result<Vec<T>, Error>;

    fn indexed<I: IndexedParallelIterator<Item = T> + 's>(self, items: I) -> Self::Output {
        let len = match catch(|| items.len()) {
            Ok(len) => len,
            Err(payload) => return Err(Error::Panicked(Panic::new(payload, Some(0)))),
        };
        // To lend its producer is the input's own code.
        let items = match catch(|| items.with_producer(CollectUpTo(len.saturating_add(1)))) {
            Ok(items) => items?,
            Err(payload) => return Err(Error::Panicked(Panic::new(payload, None))),
        };
        let lie = match items.len().cmp(&len) {
            Ordering::Less => FEWER,
            Ordering::Equal => return Ok(items),
            Ordering::Greater => MORE,
        };
        let index = items.len().min(len);
        discard(items);
        Err(Error::Panicked(Panic::new(Box::new(lie), Some(index))))
    }

    fn sequential<I: Iterator<Item = T> + Send + 's>(self, items: I) -> Self::Output {
        gather(|| items)
    }
}

/// The same for so many items of a producer.
struct CollectUpTo(usize);

impl<T: Send> ProducerCallback<T> for CollectUpTo {
    type Output = Result<Vec<T>, Error>;

    fn callback<P: Producer<Item = T>>(self, producer: P) -> Self::Output {
        gather(|| producer.into_iter().take(self.0))
    }
}
