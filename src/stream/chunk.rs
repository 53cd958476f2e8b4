//! The workers' side of a stream: chunks of its items.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::task::Waker;

use crossbeam_utils::CachePadded;

use crate::error::Error;
use crate::map::SPLIT_AFTER;
use crate::panic::{Panic, catch, discard};
use crate::raw::{Reader, Writer, channel};
use crate::scheduler::{Cancellable, Task, Ticket, Worker, park, worker};
use crate::sync::{Instant, Mutex, atomic::AtomicBool, atomic::Ordering, lock};
use crate::task::CallContext;

/// What the consumer and the chunks of one stream share.
pub(crate) struct Control<'s, R> {
    pub(crate) context: Arc<CallContext>,
    /// How long the last items took, in nanoseconds each; 0 while nothing is known.
    ///
    /// On a line of its own, as `news` is: workers write these for each chunk, and all threads read what lies
    /// around them.
    pub(crate) cost: CachePadded<AtomicU64>,
    /// A chunk may be split after it was begun: nobody asked for its size.
    pub(crate) divisible: bool,
    /// The results are handed out in the order of the items.
    pub(crate) ordered: bool,
    /// Queues a chunk.
    pub(crate) submit: Box<Submit<'s>>,
    pub(crate) consumer_waker: ConsumerWaker,
    pub(crate) news: CachePadded<News<'s, R>>,
}

type Submit<'s> = dyn Fn(Arc<dyn Task + 's>) -> Result<Ticket, Error> + Send + Sync + 's;

impl<R> Control<'_, R> {
    /// Whether what is not begun shall not begin.
    #[inline]
    fn is_over(&self) -> bool {
        self.context.is_asked_to_stop() || self.context.stop_reason().is_some()
    }

    /// Drops the items of `part` if it was not begun, and takes it out of the queue.
    pub(crate) fn abandon(&self, part: &(dyn ChunkHandle + '_)) {
        part.abandon();
        // In a scope its entry is waited for.
        if let Some(entry) = self.context.shared.withdraw(part.ticket()) {
            worker::skip(entry, Error::Cancelled);
        }
    }
}

/// What wakes the consumer.
#[derive(Default)]
pub(crate) struct ConsumerWaker(Mutex<Option<Waker>>);

impl ConsumerWaker {
    /// Before the consumer asks for anything: then a worker that answers finds it.
    pub(crate) fn set(&self, waker: &Waker) {
        // Cloned before the lock is taken, and the one before dropped after: both may run the user's code.
        let waker = waker.clone();
        let before = lock(&self.0).replace(waker);
        discard(before);
    }

    fn wake(&self) {
        let waker = lock(&self.0).take();
        if let Some(waker) = waker {
            park::wake(waker);
        }
    }
}

/// How many results a channel has room for at the most. A chunk of a size that was set may have any number of
/// items, and no room is made before it is needed.
const CHANNEL_ROOM: usize = if cfg!(loom) { 2 } else { 1 << 16 };

/// A result on its way. The error is rare, and boxed because a stream of tiny items costs what the bytes
/// cost that go from core to core.
pub(crate) type Sent<R> = Result<R, Box<Error>>;

/// The results of one chunk, for the consumer.
///
/// The consumer of an ordered stream has it from when the chunk is queued. That of an unordered stream is
/// given it by the worker that begins the chunk: so it knows of each chunk that may have a result, and of
/// all those it looks through in vain each is running.
pub(crate) struct Expected<'s, R> {
    /// The index of its first item.
    pub(crate) first: usize,
    pub(crate) reader: Reader<Sent<R>>,
    /// How many are to come.
    pub(crate) left: usize,
    /// The chunk they come from, which the consumer's thread has allocated: it is to free it too. Allocators
    /// take a lock where a worker does.
    pub(crate) _part: Option<Arc<dyn ChunkHandle + 's>>,
}

/// Results that do not come from where they were expected: their chunk was split, or they go on in another
/// channel.
pub(crate) struct Split<'s, R> {
    /// The index of the first item of those that were expected together.
    pub(crate) first: usize,
    /// How many of them it is about, the last.
    pub(crate) items: usize,
    /// The chunks that they are in now.
    pub(crate) parts: Vec<Arc<dyn ChunkHandle + 's>>,
    /// Where they are to be expected, as far as that is not told when a chunk begins.
    pub(crate) expected: Vec<Expected<'s, R>>,
}

/// A chunk, and what is to come of it if the stream is ordered.
pub(crate) type Made<'s, R> = (Arc<dyn ChunkHandle + 's>, Option<Expected<'s, R>>);

/// What a consumer that waits asks of each chunk: to hear of so many results.
#[derive(Clone, Copy)]
pub(crate) struct ResultRequest {
    pub(crate) each: usize,
    /// It has had nothing for a while.
    pub(crate) urgent: bool,
}

/// What the workers tell the consumer besides results.
pub(crate) struct News<'s, R> {
    /// Whether there are any. The consumer looks each time that a channel is empty.
    fresh: AtomicBool,
    told: Mutex<Told<'s, R>>,
}

/// What was told since the consumer last heard.
pub(crate) struct Told<'s, R> {
    /// The chunks of an unordered stream that were begun.
    pub(crate) begun: Vec<Expected<'s, R>>,
    /// After those they are made of, if these are among the begun.
    pub(crate) splits: Vec<Split<'s, R>>,
    /// What is asked of the chunks that begin from now on.
    ask: Option<ResultRequest>,
    /// The consumer is gone.
    closed: bool,
}

impl<R> Default for Told<'_, R> {
    fn default() -> Self {
        Told { begun: Vec::new(), splits: Vec::new(), ask: None, closed: false }
    }
}

impl<R> Default for News<'_, R> {
    fn default() -> Self {
        News { fresh: AtomicBool::new(false), told: Mutex::new(Told::default()) }
    }
}

impl<'s, R> News<'s, R> {
    /// A chunk is begun that will write into `results`.
    fn begin(&self, expected: Expected<'s, R>, results: &mut Writer<Sent<R>>) {
        let mut told = lock(&self.told);
        if told.closed {
            return;
        }
        // Of this chunk and the consumer's question one comes later, and sees the other.
        if let Some(ResultRequest { each, urgent }) = told.ask {
            results.expect(each, urgent);
        }
        told.begun.push(expected);
        self.fresh.store(true, Ordering::Relaxed);
    }

    /// Results come from elsewhere. Gives it back if nobody hears of it.
    fn split(&self, split: Split<'s, R>) -> Result<(), Split<'s, R>> {
        let mut told = lock(&self.told);
        if told.closed {
            return Err(split);
        }
        told.splits.push(split);
        self.fresh.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// Whether there are any.
    #[inline]
    pub(crate) fn is_fresh(&self) -> bool {
        // ORDERING: who knows of a result knows of all that came before it. The rest is heard of by those
        // who are about to wait: they hear whatever this says.
        self.fresh.load(Ordering::Relaxed)
    }

    /// Adds the chunks that were begun to `begun`, and returns what was split. `ask` is what the consumer asks
    /// of the chunks of which it has not heard.
    pub(crate) fn hear(
        &self,
        begun: &mut VecDeque<Expected<'s, R>>,
        ask: Option<ResultRequest>,
    ) -> Vec<Split<'s, R>> {
        let mut told = lock(&self.told);
        self.fresh.store(false, Ordering::Relaxed);
        told.ask = ask;
        begun.extend(told.begun.drain(..));
        std::mem::take(&mut told.splits)
    }

    /// There is nobody to tell any more.
    pub(crate) fn close(&self) -> Told<'s, R> {
        let mut told = lock(&self.told);
        std::mem::replace(&mut told, Told { closed: true, ..Told::default() })
    }

    /// Nothing is asked any more.
    pub(crate) fn clear_urgent(&self) {
        lock(&self.told).ask = None;
    }
}

/// A chunk, whatever its closure, its items and its results.
pub(crate) trait ChunkHandle: Task {
    /// Drops its items if it was not begun.
    fn abandon(&self);

    /// Whether it was begun or abandoned.
    fn is_begun(&self) -> bool;

    /// Its place in the queue.
    fn ticket(&self) -> Ticket;

    /// It was queued there.
    fn set_ticket(&self, ticket: Ticket);
}

/// Neighbouring items of a stream: one task.
pub(crate) struct Chunk<'s, F, T, R> {
    control: Arc<Control<'s, R>>,
    /// The index of its first item.
    first: usize,
    /// Gone once it was begun or abandoned; the closure goes with the items, so that neither is held
    /// by what is left in the queue.
    work: Mutex<Option<ChunkWork<F, T, R>>>,
    /// Its place in the queue, as [`Ticket::to_bits`].
    ticket: AtomicU64,
}

struct ChunkWork<F, T, R> {
    f: Arc<F>,
    items: Vec<T>,
    results: Writer<Sent<R>>,
    /// For the consumer of an unordered stream, when it begins.
    reader: Option<Reader<Sent<R>>>,
}

impl<'s, F, T, R> Chunk<'s, F, T, R>
where
    F: Fn(T) -> R + Send + Sync + 's,
    T: Send + 's,
    R: Send + 's,
{
    /// A chunk of `items`, the first of which has the index given.
    pub(crate) fn make(
        control: &Arc<Control<'s, R>>,
        first: usize,
        f: &Arc<F>,
        items: Vec<T>,
    ) -> Made<'s, R> {
        let left = items.len();
        let (results, reader) = channel(left.min(CHANNEL_ROOM));
        let (reader, known) = match control.ordered {
            true => (None, Some(reader)),
            false => (Some(reader), None),
        };
        let part: Arc<dyn ChunkHandle + 's> = Arc::new(Chunk {
            control: Arc::clone(control),
            first,
            work: Mutex::new(Some(ChunkWork { f: Arc::clone(f), items, results, reader })),
            ticket: AtomicU64::new(0),
        });
        let _part = Some(Arc::clone(&part));
        let expected = known.map(|reader| Expected { first, reader, left, _part });
        (part, expected)
    }

    fn run_items(&self, worker: &Worker, f: &Arc<F>, items: Vec<T>, results: &mut Writer<Sent<R>>) {
        let look = (items.len() / 8).max(1);
        let mut observer = self.control.context.observe(worker);
        if let Some(observer) = &mut observer {
            observer.begin(self.first);
        }
        let begun = Instant::now();
        let mut items = items.into_iter();
        // `channel`: how many were done when the channel was new; `last`: how many when the channel has room for one more and
        // that is not the last.
        let (mut done, mut until_look, mut channel) = (0, look, 0);
        let last_in = |channel: usize, room: usize, items: usize| match items > room {
            true => channel + room,
            false => usize::MAX,
        };
        let mut last = last_in(0, results.room(), items.len());
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
            let rings = if done < last {
                results.push(result)
            } else {
                // Told before the channel is full: the consumer of its last result knows where the next one comes.
                let more = self.go_on(self.first + channel, self.first + done, items.len());
                channel = done;
                last = last_in(channel, more.room(), items.len());
                std::mem::replace(results, more).push(result)
            };
            if rings {
                self.control.consumer_waker.wake();
            }
            if self.control.is_over() {
                break;
            }
            let mut late = results.is_urgent();
            if until_look == 0 {
                until_look = look;
                late |= begun.elapsed() > SPLIT_AFTER;
            }
            if late && self.control.divisible && items.len() > 0 {
                let rest = items.by_ref().collect();
                self.split(f, self.first + channel, self.first + done, rest);
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

    /// Where the results of `items` items go, the first of which is `first`, that were expected together with
    /// item `with`: there is no room there.
    #[cold]
    fn go_on(&self, with: usize, first: usize, items: usize) -> Writer<Sent<R>> {
        let (results, reader) = channel(items.min(CHANNEL_ROOM));
        let expected = vec![Expected { first, reader, left: items, _part: None }];
        let split = Split { first: with, items, parts: Vec::new(), expected };
        // If the consumer is gone, nobody hears of it.
        let _ = self.control.news.split(split);
        results
    }

    /// Queues the rest of a chunk that turned out to be expensive, in pieces for all workers.
    /// They were expected together with item `with`.
    fn split(&self, f: &Arc<F>, with: usize, first: usize, mut rest: Vec<T>) {
        let items = rest.len();
        let size = items.div_ceil(4 * self.control.context.shared.count);
        let (mut parts, mut expected) = (Vec::new(), Vec::new());
        while !rest.is_empty() {
            let start = (rest.len() - 1) / size * size;
            let piece = rest.split_off(start);
            let (part, known) = Self::make(&self.control, first + start, f, piece);
            parts.push(part);
            expected.extend(known);
        }
        parts.reverse();
        expected.reverse();
        let split = Split { first: with, items, parts: parts.clone(), expected };
        if self.control.news.split(split).is_err() {
            parts.iter().for_each(|part| part.abandon());
            return;
        }
        self.control.consumer_waker.wake();
        for part in parts {
            // Refused only by a pool that is terminated, which ends the stream: who runs this chunk keeps a closed
            // one open.
            match (self.control.submit)(Arc::clone(&part) as Arc<dyn Task>) {
                Ok(ticket) => part.set_ticket(ticket),
                Err(_) => part.abandon(),
            }
        }
        // A consumer that is a worker may help with them now.
        self.control.consumer_waker.wake();
    }
}

impl<'s, F, T, R> Task for Chunk<'s, F, T, R>
where
    F: Fn(T) -> R + Send + Sync + 's,
    T: Send + 's,
    R: Send + 's,
{
    fn run(self: Arc<Self>, worker: &Worker) {
        let Some(work) = lock(&self.work).take() else { return };
        let ChunkWork { f, items, mut results, reader } = work;
        if self.control.is_over() {
            discard(f);
            discard(items);
            discard(results);
            // A consumer without a timer shall hear of a deadline that has passed.
            self.control.consumer_waker.wake();
            return;
        }
        if let Some(reader) = reader {
            let part = Some(Arc::clone(&self) as Arc<dyn ChunkHandle + 's>);
            let expected = Expected { first: self.first, reader, left: items.len(), _part: part };
            self.control.news.begin(expected, &mut results);
        }
        worker.count();
        let signal = Arc::clone(&self.control.context) as Arc<dyn Cancellable>;
        let caller = &self.control.context.caller;
        let (first, count) = (self.first, items.len());
        let run = || self.run_items(worker, &f, items, &mut results);
        worker::in_task(signal, || caller.in_chunk(first, count, run));
        discard(f);
        discard(results);
        if self.control.is_over() {
            self.control.consumer_waker.wake();
        }
    }

    fn skip(self: Arc<Self>, _: Error) {
        self.abandon();
    }
}

impl<'s, F, T, R> ChunkHandle for Chunk<'s, F, T, R>
where
    F: Fn(T) -> R + Send + Sync + 's,
    T: Send + 's,
    R: Send + 's,
{
    fn abandon(&self) {
        let work = lock(&self.work).take();
        discard(work);
    }

    fn is_begun(&self) -> bool {
        lock(&self.work).is_none()
    }

    fn ticket(&self) -> Ticket {
        // ORDERING (of both): a consumer that does not see it yet leaves the part to the workers.
        Ticket::from_bits(self.ticket.load(Ordering::Relaxed))
    }

    fn set_ticket(&self, ticket: Ticket) {
        self.ticket.store(ticket.to_bits(), Ordering::Relaxed);
    }
}
