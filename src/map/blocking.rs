//! `map`: sets up the engine for either kind of input and puts the results together.

use std::sync::Arc;

use rayon::iter::plumbing::{Producer, ProducerCallback};
use rayon::iter::{IndexedParallelIterator, IntoParallelIterator};

use super::chunk_size::ChunkPolicy;
use super::engine::{Engine, Overflow};
use super::source::{Pulled, Ranges};
use crate::error::{Error, TryError};
use crate::input::{Iterable, Visitor, gather};
use crate::panic::{Panic, catch, discard};
use crate::raw::{self, OutputRun, OutputSlots};
use crate::task::{CallContext, CallOptions};

/// Maps `f` over `items`, in order.
pub(crate) fn map<M, I, F, R, E>(
    options: &CallOptions<'_>,
    f: F,
    items: I,
) -> Result<Vec<R>, TryError<E>>
where
    I: Iterable<M>,
    F: Fn(I::Item) -> Result<R, E> + Sync,
    R: Send,
    E: Send,
{
    let mut out = Vec::new();
    map_into(options, f, items, &mut out)?;
    Ok(out)
}

/// The same into the memory of `out`, which is empty after an error.
pub(crate) fn map_into<M, I, F, R, E>(
    options: &CallOptions<'_>,
    f: F,
    items: I,
    out: &mut Vec<R>,
) -> Result<(), TryError<E>>
where
    I: Iterable<M>,
    F: Fn(I::Item) -> Result<R, E> + Sync,
    R: Send,
    E: Send,
{
    out.clear();
    options.shared.admit()?;
    let context = CallContext::of_blocking(options);
    let outcome = items.accept(MapVisitor { options, f, context, out });
    options.end(outcome.is_ok());
    outcome
}

/// Sets up the engine for either kind of input.
struct MapVisitor<'o, 'w, F, R> {
    options: &'o CallOptions<'w>,
    f: F,
    context: Arc<CallContext>,
    out: &'o mut Vec<R>,
}

impl<'s, T, R, E, F> Visitor<'s, T> for MapVisitor<'_, '_, F, R>
where
    T: Send,
    R: Send,
    E: Send,
    F: Fn(T) -> Result<R, E> + Sync,
{
    type Output = Result<(), TryError<E>>;

    fn indexed<I: IndexedParallelIterator<Item = T> + 's>(self, items: I) -> Self::Output {
        let len = match catch(|| items.len()) {
            Ok(len) => len,
            Err(payload) => return Err(Error::Panicked(Panic::new(payload, Some(0))).into()),
        };
        self.options.begin(Some(len));
        let policy = self.policy(Some(len));
        let MapVisitor { f, context, out, .. } = self;
        let mut buffer = std::mem::take(out);
        // One with more items than there is memory for may end early all the same.
        let room = buffer.try_reserve_exact(len).is_ok();
        // To lend its producer is the input's own code.
        let filled = catch(|| {
            raw::fill(buffer, if room { len } else { 0 }, |slots| {
                let slots = room.then_some(slots);
                items.with_producer(MapProducer { f, context, policy, len, slots })
            })
        });
        match filled {
            Ok((results, rest)) => {
                *out = results;
                rest.finish(out)
            }
            Err(payload) => Err(Error::Panicked(Panic::new(payload, None)).into()),
        }
    }

    fn sequential<I: Iterator<Item = T> + Send + 's>(self, items: I) -> Self::Output {
        let counted = self.options.shared.max_tasks.is_some();
        let len = match catch(|| items.size_hint()) {
            Ok((low, high)) => (Some(low) == high).then_some(low),
            Err(payload) => return Err(Error::Panicked(Panic::new(payload, Some(0))).into()),
        };
        if counted && self.options.chunksize.is_none() && len.is_none() {
            // Python's chunk size needs the length.
            return self.indexed(gather(|| items)?.into_par_iter());
        }
        self.options.begin(len);
        let policy = self.policy(len);
        let MapVisitor { options, f, context, out } = self;
        let mut buffer = std::mem::take(out);
        // What an iterator says of its length is a hint: an absurd one must not cost the memory.
        let room = len.filter(|len| buffer.try_reserve_exact(*len).is_ok());
        let (results, rest) = raw::fill(buffer, room.unwrap_or(0), |slots| {
            let source = Pulled::new(items, room.map(|_| slots), options.shared.count);
            // How many items there are is not known for sure, whatever the iterator says.
            Engine::new(f, context, source, policy, None).run()
        });
        *out = results;
        rest.finish(out)
    }
}

impl<F, R> MapVisitor<'_, '_, F, R> {
    fn policy(&self, len: Option<usize>) -> ChunkPolicy {
        let shared = self.options.shared;
        ChunkPolicy::new(self.options.chunksize, shared.max_tasks.is_some(), len, shared.count)
    }
}

/// Rayon lends the producer of an indexed parallel iterator to a callback only.
struct MapProducer<'r, F, R> {
    f: F,
    context: Arc<CallContext>,
    policy: ChunkPolicy,
    len: usize,
    /// `None` where there is no memory for all results.
    slots: Option<OutputSlots<'r, R>>,
}

impl<'r, T, R, E, F> ProducerCallback<T> for MapProducer<'r, F, R>
where
    T: Send,
    R: Send,
    E: Send,
    F: Fn(T) -> Result<R, E> + Sync,
{
    type Output = (Vec<OutputRun<'r, R>>, Overflow<R, E>);

    fn callback<P: Producer<Item = T>>(self, producer: P) -> Self::Output {
        let MapProducer { f, context, policy, len, slots } = self;
        let shared = &context.shared;
        // In front of the caller, if that is a worker and takes part.
        let slot = shared.this_worker().map_or(0, |worker| worker.index);
        let source = Ranges::new(producer, len, slots, shared.count, slot);
        Engine::new(f, context, source, policy, Some(len)).run()
    }
}

impl<R, E> Overflow<R, E> {
    /// Puts the results together; `results` are those of the first items, and none on an error.
    pub(crate) fn finish(mut self, results: &mut Vec<R>) -> Result<(), TryError<E>> {
        if let Err(error) = self.outcome {
            discard(self.grown);
            return Err(error);
        }
        self.grown.sort_unstable_by_key(|(start, _)| *start);
        results.reserve_exact(self.grown.iter().map(|(_, part)| part.len()).sum());
        for (start, mut part) in self.grown {
            debug_assert_eq!(start, results.len());
            results.append(&mut part);
        }
        Ok(())
    }
}
