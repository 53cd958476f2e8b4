//! The workers' side of a stream: chunks of its items, and the boxes that their results come in.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::task::Waker;
use std::time::Instant;

use crate::chunk::LATE;
use crate::error::Error;
use crate::panic::{Panic, catch, discard};
use crate::queue::Task;
use crate::sync::lock;
use crate::terms::Terms;
use crate::worker::{self, Cancellable};

/// What the consumer and the chunks of one stream share.
pub(crate) struct Control<'s> {
    pub(crate) terms: Arc<Terms>,
    /// How long the last items took, in nanoseconds each; 0 while nothing is known.
    pub(crate) cost: AtomicU64,
    /// Results come in the order of the items.
    pub(crate) ordered: bool,
    /// A chunk may be split after it was begun: nobody asked for its size.
    pub(crate) divisible: bool,
    /// Queues a chunk.
    pub(crate) submit: Box<Submit<'s>>,
}

type Submit<'s> = dyn Fn(Arc<dyn Part + 's>) -> Result<(), Error> + Send + Sync + 's;

impl Control<'_> {
    /// Whether what is not begun shall not begin.
    fn is_over(&self) -> bool {
        self.terms.is_asked_to_stop() || self.terms.ended().is_some()
    }
}

/// Results on their way to the consumer: those of one chunk in an ordered stream, all of them in an
/// unordered one.
pub(crate) struct Outbox<'s, R>(Mutex<Post<'s, R>>);

struct Post<'s, R> {
    /// What the consumer has not collected.
    results: Vec<Result<R, Error>>,
    /// The consumer, to be woken when there are `ask` results.
    consumer: Option<Waker>,
    ask: usize,
    /// The consumer has had nothing for a while, and other workers may have nothing to do.
    hurry: bool,
    /// What a chunk that took too long was split into, to come after it.
    pieces: Vec<Piece<'s, R>>,
}

/// A piece of a chunk that was split, for its consumer.
pub(crate) struct Piece<'s, R> {
    pub(crate) outbox: Arc<Outbox<'s, R>>,
    pub(crate) part: Arc<dyn Part + 's>,
    /// How many items it has.
    pub(crate) len: usize,
}

/// What [`Outbox::collect`] found.
pub(crate) struct Collected<'s, R> {
    pub(crate) results: Vec<Result<R, Error>>,
    pub(crate) pieces: Vec<Piece<'s, R>>,
}

impl<'s, R> Outbox<'s, R> {
    pub(crate) fn new() -> Arc<Self> {
        let (results, pieces) = (Vec::new(), Vec::new());
        Arc::new(Outbox(Mutex::new(Post { results, consumer: None, ask: 1, hurry: false, pieces })))
    }

    /// Makes one result available; whether the next ones are waited for.
    fn push(&self, result: Result<R, Error>) -> bool {
        let mut post = lock(&self.0);
        post.results.push(result);
        let hurry = post.hurry;
        let consumer = if post.results.len() >= post.ask { post.consumer.take() } else { None };
        drop(post);
        if let Some(consumer) = consumer {
            consumer.wake();
        }
        hurry
    }

    /// Says what is to come after the results that are here, and has it looked at.
    fn split(&self, pieces: Vec<Piece<'s, R>>) {
        let mut post = lock(&self.0);
        // In an unordered stream those of another chunk may be there.
        post.pieces.extend(pieces);
        let consumer = post.consumer.take();
        drop(post);
        if let Some(consumer) = consumer {
            consumer.wake();
        }
    }

    /// All that is here.
    pub(crate) fn collect(&self) -> Collected<'s, R> {
        let mut post = lock(&self.0);
        let results = std::mem::take(&mut post.results);
        post.hurry = false;
        Collected { results, pieces: std::mem::take(&mut post.pieces) }
    }

    /// Whether `ask` results are here; if not, `waker` is woken when they are. In a `hurry`, the chunk
    /// that they come from is shared out.
    pub(crate) fn poll(&self, ask: usize, hurry: bool, waker: &Waker) -> bool {
        let mut post = lock(&self.0);
        let ready = post.results.len() >= ask || !post.pieces.is_empty();
        if !ready {
            post.ask = ask;
            post.hurry = hurry;
            post.consumer = Some(waker.clone());
        }
        ready
    }

    /// Drops what is here, and what has not begun of what is to come.
    pub(crate) fn abandon(&self) {
        let Collected { results, pieces } = self.collect();
        discard(results);
        for piece in pieces {
            piece.part.abandon();
            piece.outbox.abandon();
        }
    }
}

/// A chunk, whatever its closure.
pub(crate) trait Part: Task {
    /// Drops its items if it was not begun.
    fn abandon(&self);

    fn as_task<'a>(self: Arc<Self>) -> Arc<dyn Task + 'a>
    where
        Self: 'a;
}

/// Neighbouring items of a stream: one task.
pub(crate) struct Chunk<'s, F, T, R> {
    control: Arc<Control<'s>>,
    outbox: Arc<Outbox<'s, R>>,
    /// The index of its first item.
    first: usize,
    /// Gone once it was begun or abandoned; the closure goes with the items, so that neither is held
    /// by what is left in the queue.
    work: Mutex<Option<(Arc<F>, Vec<T>)>>,
}

impl<'s, F, T, R> Chunk<'s, F, T, R>
where
    F: Fn(T) -> R + Send + Sync + 's,
    T: Send + 's,
    R: Send + 's,
{
    pub(crate) fn new(
        control: &Arc<Control<'s>>,
        outbox: Arc<Outbox<'s, R>>,
        first: usize,
        f: &Arc<F>,
        items: Vec<T>,
    ) -> Arc<Self> {
        Arc::new(Chunk {
            control: Arc::clone(control),
            outbox,
            first,
            work: Mutex::new(Some((Arc::clone(f), items))),
        })
    }

    fn run_items(&self, f: &Arc<F>, items: Vec<T>) {
        let len = items.len();
        let look = (len / 8).max(1);
        let begun = Instant::now();
        let mut items = items.into_iter();
        let mut done = 0;
        while let Some(item) = items.next() {
            let result = catch(|| f(item))
                .map_err(|payload| Error::Panicked(Panic::new(payload, Some(self.first + done))));
            let hurry = self.outbox.push(result);
            done += 1;
            if self.control.is_over() {
                break;
            }
            let late = || hurry || (done % look == 0 && begun.elapsed() > LATE);
            if self.control.divisible && items.len() > 0 && late() {
                self.split(f, self.first + done, items.by_ref().collect());
            }
        }
        discard(items);
        let cost = begun.elapsed().as_nanos() / done.max(1) as u128;
        // ORDERING: a measurement, for the next sizes.
        self.control.cost.store((cost as u64).max(1), Ordering::Relaxed);
    }

    /// Queues the rest of a chunk that turned out to be expensive, in pieces for all workers.
    fn split(&self, f: &Arc<F>, first: usize, mut rest: Vec<T>) {
        let size = rest.len().div_ceil(4 * self.control.terms.workers.count);
        let mut pieces = Vec::new();
        while !rest.is_empty() {
            let start = (rest.len() - 1) / size * size;
            let items = rest.split_off(start);
            let len = items.len();
            let outbox = match self.control.ordered {
                true => Outbox::new(),
                false => Arc::clone(&self.outbox),
            };
            let part = Chunk::new(&self.control, Arc::clone(&outbox), first + start, f, items);
            pieces.push(Piece { outbox, part: part as Arc<dyn Part + 's>, len });
        }
        pieces.reverse();
        let parts: Vec<_> = pieces.iter().map(|piece| Arc::clone(&piece.part)).collect();
        self.outbox.split(pieces);
        for part in parts {
            // Refused only by a pool that is terminated, which ends the stream.
            if (self.control.submit)(Arc::clone(&part)).is_err() {
                part.abandon();
            }
        }
    }
}

impl<'s, F, T, R> Task for Chunk<'s, F, T, R>
where
    F: Fn(T) -> R + Send + Sync + 's,
    T: Send + 's,
    R: Send + 's,
{
    fn run(self: Arc<Self>) {
        let Some((f, items)) = lock(&self.work).take() else { return };
        if self.control.is_over() {
            discard((f, items));
            return;
        }
        self.control.terms.workers.count_task();
        let signal = Arc::clone(&self.control.terms) as Arc<dyn Cancellable>;
        worker::in_task(signal, || self.run_items(&f, items));
        discard(f);
    }

    fn is_stale(&self) -> bool {
        lock(&self.work).is_none()
    }
}

impl<'s, F, T, R> Part for Chunk<'s, F, T, R>
where
    F: Fn(T) -> R + Send + Sync + 's,
    T: Send + 's,
    R: Send + 's,
{
    fn abandon(&self) {
        let work = lock(&self.work).take();
        discard(work);
    }

    fn as_task<'a>(self: Arc<Self>) -> Arc<dyn Task + 'a>
    where
        Self: 'a,
    {
        self
    }
}
