//! `reduce` and `sum`: one value of many items, the same on any number of workers, bit for bit.
//!
//! Floating-point addition is not associative, so the digits of a sum depend on how it is bracketed.
//! Here that depends on the input's length alone: it is cut into chunks at fixed places, each is folded
//! from its first item to its last, and the results of the chunks are folded in their order. The
//! workers share out the chunks as the items of any map.

use std::iter::Sum;
use std::marker::PhantomData;
use std::ops::Range;

use rayon::iter::plumbing::{Consumer, Producer, ProducerCallback, UnindexedConsumer, bridge};
use rayon::iter::{IndexedParallelIterator, ParallelIterator};

use super::blocking::map;
use super::engine::{FEWER, MORE};
use crate::error::{Error, TryError};
use crate::input::{Iterable, Parallel, Visitor};
use crate::observe::Watch;
use crate::panic::{Panic, Payload, catch, discard};
use crate::sync::Instant;
use crate::task::CallOptions;

/// How the items of a chunk become one value, and the values of the chunks as well.
pub(crate) trait Fold<T, R>: Sync {
    /// The value of one chunk or more; `None` if there are no items.
    fn items(&self, items: impl Iterator<Item = T>) -> Option<R>;
    fn values(&self, values: impl Iterator<Item = R>) -> Option<R>;
}

/// `op` of what `f` makes of the items, from the left.
pub(crate) struct Reduce<F, G> {
    pub(crate) f: F,
    pub(crate) op: G,
}

impl<T, R, F, G> Fold<T, R> for Reduce<F, G>
where
    F: Fn(T) -> R + Sync,
    G: Fn(R, R) -> R + Sync,
{
    #[inline]
    fn items(&self, items: impl Iterator<Item = T>) -> Option<R> {
        items.map(&self.f).reduce(&self.op)
    }

    fn values(&self, values: impl Iterator<Item = R>) -> Option<R> {
        values.reduce(&self.op)
    }
}

/// The sum of what `f` makes of the items.
pub(crate) struct Total<F>(pub(crate) F);

impl<T, R, F> Fold<T, R> for Total<F>
where
    F: Fn(T) -> R + Sync,
    R: Sum<R>,
{
    #[inline]
    fn items(&self, items: impl Iterator<Item = T>) -> Option<R> {
        Some(items.map(&self.0).sum())
    }

    fn values(&self, values: impl Iterator<Item = R>) -> Option<R> {
        Some(values.sum())
    }
}

/// Folds `items`.
pub(crate) fn reduce<M, I, R>(
    options: &CallOptions<'_>,
    fold: impl Fold<I::Item, R>,
    items: I,
) -> Result<Option<R>, Error>
where
    I: Iterable<M>,
    R: Send,
{
    let fold = Watched { fold, watch: options.watch.as_deref() };
    let values = items.accept(ReduceVisitor { options, fold: &fold, value: PhantomData })?;
    match catch(|| fold.fold.values(values.into_iter().flatten())) {
        Ok(value) => Ok(value),
        Err(payload) => Err(Error::Panicked(Panic::new(payload, None))),
    }
}

/// The places at which an input is cut.
#[derive(Clone, Copy)]
enum Chunks {
    /// All chunks but the last have this length.
    Even(usize),
    /// The length is not known: they begin with one item and grow.
    Growing,
}

impl Chunks {
    /// So many that any number of workers has enough to share, and so long that a chunk costs little
    /// beside its items: about 50 nanoseconds. Few items are taken to be expensive ones, each of them a chunk.
    fn of(set: Option<usize>, len: Option<usize>) -> Self {
        match (set, len) {
            (Some(set), _) => Chunks::Even(set),
            (None, Some(len)) if len <= 1024 => Chunks::Even(1),
            (None, Some(len)) => {
                let least = (len / 256).min(64);
                Chunks::Even((len / 1024).clamp(least, 4096))
            }
            (None, None) => Chunks::Growing,
        }
    }

    /// The length of chunk `number`, if there are enough items.
    fn len(self, number: usize) -> usize {
        match self {
            Chunks::Even(len) => len,
            Chunks::Growing => 1 << (number / 256).min(12),
        }
    }
}

/// The item of a chunk that panicked, and with what.
type Fault = (usize, Payload);

/// A fold, and who watches it.
struct Watched<'w, D> {
    fold: D,
    watch: Option<&'w Watch>,
}

impl<D> Watched<'_, D> {
    fn begin(&self, len: Option<usize>) {
        if let Some(watch) = self.watch {
            watch.begin_by_hand(len);
        }
    }

    /// Folds the items of the chunk that begins with item `start`.
    #[inline]
    fn chunk<R, I>(&self, start: usize, items: I) -> Result<Folded<R>, Fault>
    where
        I: Iterator,
        D: Fold<I::Item, R>,
    {
        let (mut asked, mut done) = (0, 0);
        let mut items = items;
        let counted = std::iter::from_fn(|| {
            // First, for it may panic as it is made.
            asked += 1;
            let item = items.next()?;
            done += 1;
            Some(item)
        });
        let value = catch(|| self.fold.items(counted));
        discard(items);
        match value {
            Ok(value) => {
                if let Some(watch) = self.watch {
                    watch.count(done, Instant::now());
                }
                Ok(Folded { value, done, ended: asked > done })
            }
            Err(payload) => Err((start + asked.max(1) - 1, payload)),
        }
    }
}

/// What came of a chunk.
struct Folded<R> {
    value: Option<R>,
    /// How many of its items were folded.
    done: usize,
    /// There were no more. A sum may be content with fewer.
    ended: bool,
}

struct ReduceVisitor<'o, 'w, D, R> {
    options: &'o CallOptions<'w>,
    fold: &'o Watched<'o, D>,
    value: PhantomData<fn() -> R>,
}

impl<'s, T, R, D> Visitor<'s, T> for ReduceVisitor<'_, '_, D, R>
where
    T: Send,
    R: Send,
    D: Fold<T, R>,
{
    /// The values of the chunks.
    type Output = Result<Vec<Option<R>>, Error>;

    fn indexed<I: IndexedParallelIterator<Item = T> + 's>(self, items: I) -> Self::Output {
        let len = match catch(|| items.len()) {
            Ok(len) => len,
            Err(payload) => return Err(Error::Panicked(Panic::new(payload, Some(0)))),
        };
        let unit = Chunks::of(self.options.chunksize, Some(len)).len(0);
        self.fold.begin(Some(len));
        // To lend its producer is the input's own code.
        match catch(|| items.with_producer(ReduceProducer { start: self, len, unit })) {
            Ok(values) => values,
            Err(payload) => Err(Error::Panicked(Panic::new(payload, None))),
        }
    }

    fn sequential<I: Iterator<Item = T> + Send + 's>(self, items: I) -> Self::Output {
        let len = match catch(|| items.size_hint()) {
            Ok((low, high)) => (Some(low) == high).then_some(low),
            Err(payload) => return Err(Error::Panicked(Panic::new(payload, Some(0)))),
        };
        let chunks = Chunks::of(self.options.chunksize, len);
        self.fold.begin(len);
        let batches = Batches { items: Some(items), chunks, number: 0, start: 0, left: len };
        let fold = |batch: ReduceBatch<T>| {
            let end = batch.start + batch.items.len();
            let value = self.fold.chunk(batch.start, batch.items.into_iter());
            let value = value.map(|folded| folded.value);
            match batch.fault {
                Some(payload) if value.is_ok() => {
                    discard(value);
                    Err((end, payload))
                }
                fault => {
                    discard(fault);
                    value
                }
            }
        };
        let options = CallOptions { chunksize: None, ..self.options.clone() };
        map(&options, fold, batches).map_err(|error| at(error, |_| 0))
    }
}

/// The error of a reduction; `start` is the first item of a chunk.
fn at(error: TryError<Fault>, start: impl Fn(usize) -> usize) -> Error {
    match error {
        TryError::Item { error: (index, payload), .. } => {
            Error::Panicked(Panic::new(payload, Some(index)))
        }
        // The input panicked as it was cut.
        TryError::Pool(Error::Panicked(panic)) => {
            let index = panic.index().map(start);
            Error::Panicked(Panic::new(panic.into_payload(), index))
        }
        TryError::Pool(error) => error,
    }
}

// ---- collections ---------------------------------------------------------------------------------

/// Rayon lends the producer of an indexed parallel iterator to a callback only.
struct ReduceProducer<'o, 'w, D, R> {
    start: ReduceVisitor<'o, 'w, D, R>,
    len: usize,
    unit: usize,
}

impl<T, R, D> ProducerCallback<T> for ReduceProducer<'_, '_, D, R>
where
    T: Send,
    R: Send,
    D: Fold<T, R>,
{
    type Output = Result<Vec<Option<R>>, Error>;

    fn callback<P: Producer<Item = T>>(self, producer: P) -> Self::Output {
        let ReduceProducer { start: ReduceVisitor { options, fold, .. }, len, unit } = self;
        let chunks = ChunksOf { producer: Some(producer), items: 0..len, unit };
        let options = CallOptions { chunksize: None, ..options.clone() };
        map::<Parallel, _, _, _, _>(&options, |chunk| fold_chunk(fold, chunk), chunks)
            .map_err(|error| at(error, |chunk| chunk.saturating_mul(unit)))
    }
}

/// Folds a chunk of a parallel iterator, which must have as many items as it says.
fn fold_chunk<P, D, R>(fold: &Watched<'_, D>, chunk: ChunksOf<P>) -> Result<Option<R>, Fault>
where
    P: Producer,
    D: Fold<P::Item, R>,
{
    let ChunksOf { producer, items: Range { start, end }, .. } = chunk;
    let Some(producer) = producer else { return Ok(None) };
    let len = end - start;
    let begin = || {
        let iter = producer.into_iter();
        let exact = iter.size_hint() == (len, Some(len));
        (iter, exact)
    };
    let (mut iter, exact) = catch(begin).map_err(|payload| (start, payload))?;
    let (folded, more) = match exact {
        true => {
            // All that come, for a loop with one end is faster. It may still not keep its word.
            let folded = fold.chunk(start, iter)?;
            let more = folded.done > len;
            (folded, Ok(more))
        }
        false => {
            let folded = fold.chunk(start, iter.by_ref().take(len))?;
            let more = match folded.done == len {
                true => catch(|| iter.next().is_some()),
                false => Ok(false),
            };
            discard(iter);
            (folded, more)
        }
    };
    let fault: Payload = match more {
        Err(payload) => payload,
        Ok(true) => Box::new(MORE),
        Ok(false) if folded.ended && folded.done < len => Box::new(FEWER),
        Ok(false) => return Ok(folded.value),
    };
    discard(folded.value);
    Err((start + folded.done.min(len), fault))
}

/// The items of a producer that has `items.len()` of them, in chunks of `unit`; as an item of itself, one
/// such chunk. It is folded where it is mapped, for to iterate ought to be cheap: who is idle gets what was
/// iterated over.
struct ChunksOf<P> {
    /// There while `items` is not empty.
    producer: Option<P>,
    /// The places of its items in the input.
    items: Range<usize>,
    unit: usize,
}

impl<P: Producer> ChunksOf<P> {
    /// Its first `count` items, at most as many as there are, which it loses.
    fn split_front(&mut self, count: usize) -> Self {
        let mut front = ChunksOf { producer: None, items: self.items.clone(), unit: self.unit };
        if count < self.items.len() {
            let middle = self.items.start + count;
            let (own, rest) = self.producer.take().map(|all| all.split_at(count)).unzip();
            (front.producer, front.items.end) = (own, middle);
            (self.producer, self.items.start) = (rest, middle);
        } else {
            front.producer = self.producer.take();
            self.items.start = self.items.end;
        }
        front
    }
}

impl<P: Producer> ParallelIterator for ChunksOf<P> {
    type Item = Self;

    fn drive_unindexed<C: UnindexedConsumer<Self>>(self, consumer: C) -> C::Result {
        bridge(self, consumer)
    }
}

impl<P: Producer> IndexedParallelIterator for ChunksOf<P> {
    fn len(&self) -> usize {
        ExactSizeIterator::len(self)
    }

    fn drive<C: Consumer<Self>>(self, consumer: C) -> C::Result {
        bridge(self, consumer)
    }

    fn with_producer<B: ProducerCallback<Self>>(self, callback: B) -> B::Output {
        callback.callback(self)
    }
}

impl<P: Producer> Producer for ChunksOf<P> {
    type Item = Self;
    type IntoIter = Self;

    fn into_iter(self) -> Self {
        self
    }

    fn split_at(mut self, chunks: usize) -> (Self, Self) {
        let front = self.split_front(chunks.saturating_mul(self.unit));
        (front, self)
    }
}

impl<P: Producer> Iterator for ChunksOf<P> {
    type Item = Self;

    fn next(&mut self) -> Option<Self> {
        (!self.items.is_empty()).then(|| self.split_front(self.unit))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let chunks = self.items.len().div_ceil(self.unit);
        (chunks, Some(chunks))
    }
}

impl<P: Producer> DoubleEndedIterator for ChunksOf<P> {
    fn next_back(&mut self) -> Option<Self> {
        let chunks = ExactSizeIterator::len(self).checked_sub(1)?;
        let front = self.split_front(chunks * self.unit);
        Some(std::mem::replace(self, front))
    }
}

impl<P: Producer> ExactSizeIterator for ChunksOf<P> {}

// ---- iterators -----------------------------------------------------------------------------------

/// The chunks of an iterator.
struct Batches<I> {
    /// `None` once it has ended.
    items: Option<I>,
    chunks: Chunks,
    number: usize,
    /// How many items were pulled.
    start: usize,
    /// How many are left, if that is known.
    left: Option<usize>,
}

struct ReduceBatch<T> {
    start: usize,
    items: Vec<T>,
    /// The input panicked as it made the next item.
    fault: Option<Payload>,
}

impl<I: Iterator> Iterator for Batches<I> {
    type Item = ReduceBatch<I::Item>;

    fn next(&mut self) -> Option<Self::Item> {
        let source = self.items.as_mut()?;
        let len = self.chunks.len(self.number);
        let mut items = Vec::new();
        let fault = catch(|| items.extend(source.by_ref().take(len))).err();
        let start = self.start;
        self.start += items.len();
        self.number += 1;
        self.left = self.left.map(|left| left.saturating_sub(items.len()));
        if items.len() < len {
            discard(self.items.take());
        }
        (!items.is_empty() || fault.is_some()).then_some(ReduceBatch { start, items, fault })
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        match (self.left, self.chunks) {
            (Some(left), Chunks::Even(len)) => {
                let chunks = left.div_ceil(len);
                (chunks, Some(chunks))
            }
            _ => (0, None),
        }
    }
}
