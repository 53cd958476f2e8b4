//! The workers' side of a stream: chunks of its items.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Waker;

use crate::chunk::LATE;
use crate::error::Error;
use crate::panic::{Panic, catch, discard};
use crate::queue::Task;
use crate::raw::{Reader, Writer, lane};
use crate::sync::{Instant, Mutex, lock};
use crate::terms::Terms;
use crate::wait;
use crate::worker::{self, Cancellable};

/// What the consumer and the chunks of one stream share.
pub(crate) struct Control<'s> {
    pub(crate) terms: Arc<Terms>,
    /// How long the last items took, in nanoseconds each; 0 while nothing is known.
    pub(crate) cost: AtomicU64,
    /// A chunk may be split after it was begun: nobody asked for its size.
    pub(crate) divisible: bool,
    /// Queues a chunk.
    pub(crate) submit: Box<Submit<'s>>,
    pub(crate) bell: Bell,
}

type Submit<'s> = dyn Fn(Arc<dyn Task + 's>) -> Result<(), Error> + Send + Sync + 's;

impl Control<'_> {
    /// Whether what is not begun shall not begin.
    #[inline]
    fn is_over(&self) -> bool {
        self.terms.is_asked_to_stop() || self.terms.ended().is_some()
    }
}

/// What wakes the consumer.
#[derive(Default)]
pub(crate) struct Bell(Mutex<Option<Waker>>);

impl Bell {
    /// Before the consumer asks for anything: then who answers finds him.
    pub(crate) fn set(&self, waker: &Waker) {
        // Cloned before the lock is taken, and the one before dropped after: both may run the user's code.
        let waker = waker.clone();
        let before = lock(&self.0).replace(waker);
        discard(before);
    }

    fn ring(&self) {
        let waker = lock(&self.0).take();
        if let Some(waker) = waker {
            wait::wake(waker);
        }
    }
}

/// A result on its way. The error is rare, and boxed because a stream of tiny items costs what the bytes
/// cost that go from core to core.
pub(crate) type Sent<R> = Result<R, Box<Error>>;

/// The results of one chunk, for the consumer.
pub(crate) struct Expected<'s, R> {
    pub(crate) reader: Reader<Sent<R>>,
    /// How many are to come.
    pub(crate) left: usize,
    pub(crate) part: Arc<dyn Part<R> + 's>,
}

/// A chunk, whatever its closure and its items.
pub(crate) trait Part<R>: Task {
    /// What is to come in the place of its last results, if it was split.
    fn take_pieces<'a>(&self) -> Vec<Expected<'a, R>>
    where
        Self: 'a;

    /// Whether there are pieces to take.
    fn is_split(&self) -> bool;

    /// Drops its items if it was not begun, and says whether that is so.
    fn abandon(&self) -> bool;

    fn as_task<'a>(self: Arc<Self>) -> Arc<dyn Task + 'a>
    where
        Self: 'a;
}

/// Neighbouring items of a stream: one task.
pub(crate) struct Chunk<'s, F, T, R> {
    control: Arc<Control<'s>>,
    /// The index of its first item.
    first: usize,
    /// Gone once it was begun or abandoned; the closure goes with the items, so that neither is held
    /// by what is left in the queue.
    work: Mutex<Option<Work<F, T, R>>>,
    pieces: Mutex<Vec<Expected<'s, R>>>,
}

struct Work<F, T, R> {
    f: Arc<F>,
    items: Vec<T>,
    results: Writer<Sent<R>>,
}

impl<'s, F, T, R> Chunk<'s, F, T, R>
where
    F: Fn(T) -> R + Send + Sync + 's,
    T: Send + 's,
    R: Send + 's,
{
    /// A chunk of `items`, and what is to come of it.
    pub(crate) fn make(
        control: &Arc<Control<'s>>,
        first: usize,
        f: &Arc<F>,
        items: Vec<T>,
    ) -> Expected<'s, R> {
        let left = items.len();
        let (results, reader) = lane(left);
        let part = Arc::new(Chunk {
            control: Arc::clone(control),
            first,
            work: Mutex::new(Some(Work { f: Arc::clone(f), items, results })),
            pieces: Mutex::default(),
        });
        Expected { reader, left, part }
    }

    fn run_items(&self, f: &Arc<F>, items: Vec<T>, results: &mut Writer<Sent<R>>) {
        let look = (items.len() / 8).max(1);
        let mut observer = self.control.terms.observe();
        if let Some(observer) = &mut observer {
            observer.begin(self.first);
        }
        let begun = Instant::now();
        let mut items = items.into_iter();
        let (mut done, mut until_look) = (0, look);
        while let Some(item) = items.next() {
            let result = catch(|| f(item)).map_err(|payload| {
                Box::new(Error::Panicked(Panic::new(payload, Some(self.first + done))))
            });
            done += 1;
            until_look -= 1;
            if let Some(observer) = &mut observer {
                // Before the consumer can have the result.
                if until_look == 0 || items.len() == 0 {
                    observer.look(self.first + done);
                    observer.reach(self.first + done, Instant::now());
                }
            }
            if results.push(result) {
                self.control.bell.ring();
            }
            if self.control.is_over() {
                break;
            }
            let mut late = results.is_hurried();
            if until_look == 0 {
                until_look = look;
                late |= begun.elapsed() > LATE;
            }
            if late && self.control.divisible && items.len() > 0 {
                self.split(f, self.first + done, items.by_ref().collect());
            }
        }
        if let Some(mut observer) = observer {
            observer.reach(self.first + done, Instant::now());
            observer.end();
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
            pieces.push(Self::make(&self.control, first + start, f, items));
        }
        pieces.reverse();
        let parts: Vec<_> = pieces.iter().map(|piece| Arc::clone(&piece.part)).collect();
        lock(&self.pieces).extend(pieces);
        self.control.bell.ring();
        for part in parts {
            // Refused only by a pool that is terminated, which ends the stream.
            if (self.control.submit)(Arc::clone(&part).as_task()).is_err() {
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
        let Some(Work { f, items, mut results }) = lock(&self.work).take() else { return };
        if self.control.is_over() {
            discard(f);
            discard(items);
            discard(results);
            // A consumer without a timer shall hear of a deadline that has passed.
            self.control.bell.ring();
            return;
        }
        self.control.terms.workers.count_task();
        let signal = Arc::clone(&self.control.terms) as Arc<dyn Cancellable>;
        let caller = &self.control.terms.caller;
        let (first, count) = (self.first, items.len());
        let run = || self.run_items(&f, items, &mut results);
        worker::in_task(signal, || caller.in_chunk(first, count, run));
        discard(f);
        discard(results);
        if self.control.is_over() {
            self.control.bell.ring();
        }
    }

    fn is_stale(&self) -> bool {
        lock(&self.work).is_none()
    }
}

impl<'s, F, T, R> Part<R> for Chunk<'s, F, T, R>
where
    F: Fn(T) -> R + Send + Sync + 's,
    T: Send + 's,
    R: Send + 's,
{
    fn take_pieces<'a>(&self) -> Vec<Expected<'a, R>>
    where
        Self: 'a,
    {
        std::mem::take(&mut *lock(&self.pieces))
    }

    fn is_split(&self) -> bool {
        !lock(&self.pieces).is_empty()
    }

    fn abandon(&self) -> bool {
        let work = lock(&self.work).take();
        let found = work.is_some();
        discard(work);
        found
    }

    fn as_task<'a>(self: Arc<Self>) -> Arc<dyn Task + 'a>
    where
        Self: 'a,
    {
        self
    }
}
