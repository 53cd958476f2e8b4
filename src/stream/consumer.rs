//! The consumer's side of a stream: pulls the input, keeps the window, hands the results out.

use std::collections::VecDeque;
use std::fmt;
use std::iter::FusedIterator;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crossbeam_utils::CachePadded;

use super::chunk::{
    Chunk, ChunkHandle, ConsumerWaker, Control, Expected, Made, News, ResultRequest,
};
use crate::error::Error;
use crate::map::{MAX_DELAY, Window, reserved, time_per_item};
use crate::observe::Record;
use crate::panic::{Panic, catch, discard};
use crate::scheduler::{Task, Ticket, park, worker};
use crate::sync::Instant;
use crate::task::{CallContext, CallOptions};

/// The results of [`imap`](crate::Pool::imap) or [`imap_unordered`](crate::Pool::imap_unordered), as
/// they come.
///
/// Each item of the input gives one `Result`; an error is one item's, and iteration goes on. The input
/// is pulled here, on the thread that calls `next`, and never further than the window: of `b` items
/// ([`buffersize`](crate::Pool::buffersize)), item `k + b` is not pulled before result `k` was handed
/// out. Nothing is pulled before the first `next`, and a result that is there is handed out before more is
/// pulled, unless the input has given hundreds of items in a row without a pause.
///
/// The stream ends with `None`, and stays ended. Before that, if it could not go on, comes one error that says
/// why: [`Terminated`](Error::Terminated), [`NotRunning`](Error::NotRunning) if the pool was closed
/// before all was pulled, [`Panicked`](Error::Panicked) if the input did, with the index of the item it
/// was to make, [`DeadlineExceeded`](Error::DeadlineExceeded) if the time of the call was up.
///
/// Dropping it cancels what has not begun; what runs can ask [`is_cancelled`](crate::is_cancelled).
///
/// On one of the pool's own workers, `next` helps: it runs items of this stream itself.
///
/// Python: `IMapIterator`.
///
/// ```
/// let pool = parpool::Pool::new(2)?;
/// let mut squares = pool.imap(|x: u64| x * x, 0..);
/// assert_eq!(squares.next().unwrap()?, 0);
/// assert_eq!(squares.next().unwrap()?, 1);
/// // The input is endless; no more of it was pulled than the window holds.
/// # Ok::<(), parpool::Error>(())
/// ```
#[must_use = "a stream does nothing until `next`"]
pub struct Imap<'s, I: Iterator, R> {
    control: Arc<Control<'s, R>>,
    /// `None` once it has ended.
    input: Option<I>,
    /// Makes a chunk of items, the first of which has the index given.
    make: Box<Make<'s, I::Item, R>>,
    window: Window,
    /// The results that are to come, by chunk: of an ordered stream all of them, in the order of the items;
    /// else those of the chunks that were begun, in that order.
    expected: VecDeque<Expected<'s, R>>,
    /// Which of them is looked at first: the front one if the stream is ordered.
    at: usize,
    /// The chunks that may not have been begun, in the order of their items.
    parts: VecDeque<Arc<dyn ChunkHandle + 's>>,
    /// How many items were pulled.
    pulled: usize,
    /// How many of these were not handed out.
    in_flight: usize,
    /// How long the last pull took.
    last_pull: Duration,
    /// How many items the input has given since it last took its time.
    in_a_row: usize,
    /// How many it takes until it is trusted not to.
    trusted: usize,
    /// It says that it has more, as collections and ranges do, and channels and readers do not.
    has_more: bool,
    /// While fewer items are in flight than this, the window is filled before a result is handed out.
    ///
    /// That is 0 at first: the input may block, for as long as it likes, so a result that is there is handed out before the
    /// input is asked for more. But where the consumer is slower than the workers, these then have nothing
    /// to do when the last of their results is handed out, until the window is filled again. So an input that
    /// says that it has more items, and has given many in a row without a pause, is trusted, and the window
    /// kept full. If that was an error, it takes twice as many items until it is trusted again: of a stream of `n`
    /// items that happens about `log2(n / TRUSTED)` times at the most.
    full_from: usize,
    /// Nothing has come since the last wait.
    starved: bool,
    /// What is said after the last result, once.
    end: Option<Error>,
}

type Make<'s, T, R> = dyn Fn(usize, Vec<T>) -> Made<'s, R> + Send + 's;

/// What is to be done where there is no result.
enum Step {
    /// There is room in the window.
    Pull,
    /// There is none.
    Wait,
    /// Nothing is in flight, and nothing will be.
    End,
}

/// Before an input slower than this is pulled, a result is waited for, for a part of that time.
const SLOW: Duration = Duration::from_millis(1);

/// After so many items in a row an input is trusted not to block.
const TRUSTED: usize = 256;

/// A portion is cut short when pulling it has taken this long.
const PORTION: Duration = Duration::from_micros(50);

/// What a stream was asked for besides.
pub(crate) struct Settings {
    pub(crate) buffersize: Option<usize>,
    pub(crate) ordered: bool,
}

impl<'s, I, R> Imap<'s, I, R>
where
    I: Iterator,
    I::Item: Send + 's,
    R: Send + 's,
{
    pub(crate) fn new<F>(
        options: &CallOptions<'_>,
        settings: Settings,
        submit: impl Fn(Arc<dyn Task + 's>) -> Result<Ticket, Error> + Send + Sync + 's,
        f: F,
        input: I,
    ) -> Self
    where
        F: Fn(I::Item) -> R + Send + Sync + 's,
    {
        let Settings { buffersize, ordered } = settings;
        let &CallOptions { shared, chunksize, .. } = options;
        let control = Arc::new(Control {
            context: Arc::new(CallContext::new(options)),
            cost: CachePadded::new(AtomicU64::new(0)),
            divisible: chunksize.is_none() && shared.max_tasks.is_none(),
            ordered,
            submit: Box::new(submit),
            consumer_waker: ConsumerWaker::default(),
            news: CachePadded::new(News::default()),
        });
        if let Some(watch) = &options.watch {
            let len = match catch(|| input.size_hint()) {
                Ok((low, high)) => high.filter(|high| *high == low),
                Err(payload) => {
                    discard(payload);
                    None
                }
            };
            watch.begin(len);
            if let Some(record) = watch.record() {
                // It is a stream, also if its consumer never waits.
                record.waited(Duration::ZERO);
            }
        }
        let f = Arc::new(f);
        let of_chunks = Arc::clone(&control);
        let make = move |first, items| Chunk::make(&of_chunks, first, &f, items);
        // A pool without threads runs a chunk where it is submitted: one item for each `next`.
        let window = match shared.is_serial {
            true => Window::new(1, Some(1), None),
            false => Window::new(shared.count, buffersize, chunksize),
        };
        Imap {
            control,
            input: Some(input),
            make: Box::new(make),
            window,
            expected: VecDeque::new(),
            at: 0,
            parts: VecDeque::new(),
            pulled: 0,
            in_flight: 0,
            last_pull: Duration::ZERO,
            in_a_row: 0,
            trusted: TRUSTED,
            has_more: false,
            full_from: 0,
            starved: false,
            end: None,
        }
    }

    /// Ends it before it has begun: a refused call.
    pub(crate) fn refuse(mut self, error: Error) -> Self {
        self.close(error);
        self
    }

    /// The next result, if it is there within `timeout`; else `Err(Timeout)`, which loses
    /// nothing: the next call goes on. `Ok(None)` when there are no more.
    ///
    /// An input that blocks cannot be interrupted: the time is looked at when it has given an item.
    ///
    /// Python: `next(timeout=…)`.
    ///
    /// ```
    /// use std::{sync::mpsc, time::Duration};
    /// use parpool::{Error, Pool};
    ///
    /// let pool = Pool::new(1)?;
    /// let (send, receive) = mpsc::channel();
    /// let receive = std::sync::Mutex::new(receive);
    /// let mut stream = pool.imap(move |_| receive.lock().unwrap().recv().unwrap(), 0..1);
    /// let soon = Duration::from_millis(1);
    /// assert!(matches!(stream.next_timeout(soon), Err(Error::Timeout)));
    /// send.send("late").unwrap();
    /// assert_eq!(stream.next().unwrap()?, "late");
    /// # Ok::<(), Error>(())
    /// ```
    pub fn next_timeout(&mut self, timeout: Duration) -> Result<Option<Result<R, Error>>, Error> {
        let deadline = park::deadline(timeout);
        match self.next_ready() {
            None => self.next_late(deadline),
            result => Ok(result),
        }
    }

    /// The next result, if it is there.
    #[inline]
    fn next_ready(&mut self) -> Option<Result<R, Error>> {
        self.top_up();
        self.take()
    }

    /// Fills the window of an input that is trusted.
    #[inline]
    fn top_up(&mut self) {
        if self.in_flight < self.full_from {
            self.refill(SLOW);
        }
    }

    /// The next result, which is not there yet; `Err` if it is not by the `deadline`.
    #[cold]
    fn next_late(&mut self, deadline: Option<Instant>) -> Result<Option<Result<R, Error>>, Error> {
        // Each call gets on, also one that has no time.
        let mut pulled = false;
        loop {
            if let Some(result) = self.take() {
                return Ok(Some(result));
            }
            let step = self.step();
            let slow = self.in_flight > 0 && self.last_pull >= SLOW;
            let late = || deadline.is_some_and(|deadline| Instant::now() >= deadline);
            match step {
                Step::End => return Ok(self.end.take().map(Err)),
                Step::Pull if !(slow && pulled && late()) => {
                    // A slow input may be slower than the closure; then there is a result in a moment.
                    if !slow || !self.wait(park::deadline(self.last_pull / 16)) {
                        self.refill(PORTION);
                        pulled = true;
                    }
                }
                Step::Pull | Step::Wait => {
                    if !self.wait(deadline) {
                        // Less may be there than was asked for.
                        return self.take().map(Some).ok_or(Error::Timeout);
                    }
                }
            }
        }
    }

    /// What to do about it that there is no result.
    fn step(&mut self) -> Step {
        if let Some(error) = self.control.context.stop_reason().filter(|_| self.is_open()) {
            self.close(error);
        }
        if self.has_room() {
            Step::Pull
        } else if self.in_flight == 0 {
            self.conclude();
            Step::End
        } else {
            Step::Wait
        }
    }

    /// Whether anything may still come from input or workers.
    fn is_open(&self) -> bool {
        self.input.is_some() || self.in_flight > 0
    }

    /// Whether a portion of the input fits the window.
    fn has_room(&self) -> bool {
        self.input.is_some() && self.window.fits(self.in_flight)
    }

    /// Pulls what the window has room for, or less if the input takes as long as `limit`.
    fn refill(&mut self, limit: Duration) {
        let mut spent = Duration::ZERO;
        while self.has_room() && spent < limit {
            spent += self.pull();
        }
        let is_trusted = self.in_a_row >= self.trusted && self.has_more && self.input.is_some();
        self.full_from = if is_trusted { self.window.fits_below() } else { 0 };
    }

    /// Pulls a portion of the input and queues it; says how long the input took.
    fn pull(&mut self) -> Duration {
        let Some(mut input) = self.input.take() else { return Duration::ZERO };
        let shared = &self.control.context.shared;
        if let Err(error) = shared.admit() {
            // What is terminated says so at its place.
            self.end = Some(self.control.context.stop_reason().unwrap_or(error));
            discard(input);
            return Duration::ZERO;
        }
        let cost = self.control.cost.load(Ordering::Relaxed);
        if cost > 0 {
            self.window.learn(cost);
        }
        if !self.window.fits(self.in_flight) {
            // It has just shrunk.
            self.input = Some(input);
            return Duration::ZERO;
        }
        let size = self.window.chunk();
        let free = self.window.is_free();
        let begun = Instant::now();
        // A size that was set may be far more than there are items, and what an input says of its length
        // may be wrong.
        let mut items = Vec::with_capacity(reserved::<I::Item>(size));
        let pulled = catch(|| {
            let mut look = 1;
            while items.len() < size {
                match input.next() {
                    Some(item) => items.push(item),
                    None => return false,
                }
                if free && items.len() == look {
                    if begun.elapsed() > PORTION {
                        return true;
                    }
                    look *= 2;
                }
            }
            true
        });
        let spent = begun.elapsed();
        if let Some(record) = self.record() {
            record.took_input(spent);
        }
        self.last_pull = time_per_item(spent, items.len());
        if spent < SLOW {
            let before = self.in_a_row;
            self.in_a_row = before.saturating_add(items.len());
            if before < self.trusted && self.in_a_row >= self.trusted {
                let hint = catch(|| input.size_hint().0).map_err(discard);
                self.has_more = hint.is_ok_and(|least| least > 0);
            }
        } else if std::mem::take(&mut self.in_a_row) >= self.trusted {
            self.trusted = self.trusted.saturating_mul(2);
        }
        match pulled {
            Ok(true) => self.input = Some(input),
            Ok(false) => discard(input),
            Err(payload) => {
                let panic = Panic::new(payload, Some(self.pulled + items.len()));
                self.end = Some(Error::Panicked(panic));
                discard(input);
            }
        }
        if !items.is_empty() {
            self.queue(items);
        }
        spent
    }

    fn queue(&mut self, items: Vec<I::Item>) {
        let count = items.len();
        let (part, expected) = (self.make)(self.pulled, items);
        self.pulled += count;
        self.in_flight += count;
        while self.parts.front().is_some_and(|part| part.is_begun()) {
            self.parts.pop_front();
        }
        self.parts.push_back(Arc::clone(&part));
        self.expected.extend(expected);
        match (self.control.submit)(Arc::clone(&part) as Arc<dyn Task>) {
            Ok(ticket) => part.set_ticket(ticket),
            Err(error) => self.refused(count, error),
        }
    }

    /// The pool did not take the latest part, of `count` items, and has skipped it.
    fn refused(&mut self, count: usize, error: Error) {
        if let Some(error) = self.control.context.stop_reason() {
            return self.close(error);
        }
        // It was closed. What it took before is still to come, and then it says why there is no more.
        self.parts.pop_back();
        if self.control.ordered {
            self.expected.pop_back();
        }
        self.pulled -= count;
        self.in_flight -= count;
        discard(self.input.take());
        // A panic of the input, perhaps, whose payload is the user's.
        discard(self.end.replace(error));
    }

    /// How many of the expected chunks results are looked for in.
    fn in_sight(&self) -> usize {
        match self.control.ordered {
            true => self.expected.len().min(1),
            false => self.expected.len(),
        }
    }

    /// The next result, if it is there.
    #[inline]
    fn take(&mut self) -> Option<Result<R, Error>> {
        loop {
            if let Some(expected) = self.expected.get_mut(self.at) {
                if let Some(result) = expected.reader.pop() {
                    expected.left -= 1;
                    if expected.left == 0 {
                        self.expected.remove(self.at);
                    }
                    self.in_flight -= 1;
                    if self.starved {
                        self.clear_urgent();
                    }
                    return Some(result.map_err(|error| *error));
                }
            }
            if self.control.news.is_fresh() {
                self.hear(None);
            }
            // Of those that are passed, none has a result: each is running, so they are few.
            let in_sight = self.in_sight();
            let mut expected = self.expected.iter_mut().take(in_sight);
            self.at = expected.position(|expected| expected.reader.has_next())?;
        }
    }

    /// It is not urgent for the workers any more: something has come.
    #[cold]
    fn clear_urgent(&mut self) {
        self.starved = false;
        let in_sight = self.in_sight();
        let urgent = self.expected.iter().take(in_sight);
        urgent.for_each(|expected| expected.reader.clear_urgent());
        self.control.news.clear_urgent();
    }

    /// Hears which chunks were begun and which were split; true if any was split. Those that begin from now
    /// on are asked `ask`.
    fn hear(&mut self, ask: Option<ResultRequest>) -> bool {
        let splits = self.control.news.hear(&mut self.expected, ask);
        let split = !splits.is_empty();
        let mut pieces = 0;
        for split in splits {
            // It is there: what its pieces hold was to come from it until now.
            let place = match self.control.ordered {
                true => self.expected.binary_search_by_key(&split.first, |chunk| chunk.first).ok(),
                false => self.expected.iter().position(|chunk| chunk.first == split.first),
            };
            let Some(mut place) = place else { continue };
            self.expected[place].left -= split.items;
            if self.expected[place].left == 0 {
                self.expected.remove(place);
            } else {
                place += 1;
            }
            for part in split.parts {
                self.parts.insert(pieces, part);
                pieces += 1;
            }
            for expected in split.expected {
                self.expected.insert(place, expected);
                place += 1;
            }
        }
        split
    }

    /// Waits until a result may be there; false if the time was up.
    fn wait(&mut self, deadline: Option<Instant>) -> bool {
        let begun = self.record().map(|_| Instant::now());
        let woken = self.wait_unwatched(deadline);
        if let (Some(record), Some(begun)) = (self.record(), begun) {
            record.waited(begun.elapsed());
        }
        woken
    }

    fn wait_unwatched(&mut self, deadline: Option<Instant>) -> bool {
        let context = Arc::clone(&self.control.context);
        if self.help() {
            return true;
        }
        let cost = self.control.cost.load(Ordering::Relaxed);
        let urgent = self.starved;
        let ask = if urgent { 1 } else { self.window.ask(cost, self.in_flight) };
        // A consumer that asks for more than the next result looks for that one after a while.
        let prompt = if ask > 1 { park::deadline(MAX_DELAY) } else { None };
        let end = [deadline, prompt, context.deadline].into_iter().flatten().min();
        let woken = context.shared.wait(end, |waker| {
            // Woken by the worker that puts the result there or splits its chunk, and by `terminate`.
            self.control.consumer_waker.set(waker);
            self.is_answered(ask, urgent) || context.stop_reason().is_some() || self.may_help()
        });
        // Until something comes: what was asked for may be there and the next one not.
        self.starved = true;
        woken || deadline.is_none_or(|deadline| Instant::now() < deadline)
    }

    /// Whether `ask` results are there, or a chunk was split. If not, the consumer will be woken.
    fn is_answered(&mut self, ask: usize, urgent: bool) -> bool {
        // There may be as many again that are begun before the first of these is done.
        let each = ask.div_ceil(2 * self.control.context.shared.count);
        let split = self.hear(Some(ResultRequest { each, urgent }));
        if self.control.ordered {
            // Asked of the chunk that the last of them is in.
            let mut before = 0;
            let answered = self.expected.iter_mut().find_map(|expected| {
                let here = expected.left.min(ask - before);
                before += here;
                (before == ask).then(|| expected.reader.ask(here, urgent))
            });
            return split || answered != Some(false);
        }
        let mut answered = split;
        for expected in &mut self.expected {
            answered |= expected.reader.ask(expected.left.min(each), urgent);
        }
        answered
    }

    /// As one of the pool's workers, runs a chunk of this stream that nobody has begun.
    fn help(&mut self) -> bool {
        let shared = &self.control.context.shared;
        let Some(worker) = shared.this_worker() else { return false };
        let _open = shared.keep_open(worker);
        let mut place = 0;
        while let Some(part) = self.parts.get(place) {
            let ticket = part.ticket();
            if ticket == Ticket::NONE && !part.is_begun() {
                // Of a chunk that was split just now: it is about to be queued.
                place += 1;
                continue;
            }
            let entry = shared.withdraw(ticket);
            self.parts.remove(place);
            if let Some(entry) = entry {
                worker::run(entry, worker);
                return true;
            }
        }
        false
    }

    /// Whether this thread is a worker and there is a chunk that it may be able to run.
    fn may_help(&self) -> bool {
        let is_worker = worker::is_of(self.control.context.shared.id);
        is_worker && self.parts.iter().any(|part| part.ticket() != Ticket::NONE && !part.is_begun())
    }

    /// Ends the stream: `error` is the last it says.
    fn close(&mut self, error: Error) {
        discard(self.input.take());
        self.abandon();
        discard(self.end.replace(error));
        self.conclude();
        self.in_flight = 0;
    }
}

impl<I: Iterator, R> Imap<'_, I, R> {
    fn record(&self) -> Option<&Record> {
        self.control.context.watch.as_ref()?.record()
    }

    /// Tells who watches it that it has ended. What is in flight, if it is cut short, was not finished as
    /// far as is known here.
    fn conclude(&self) {
        if let Some(watch) = &self.control.context.watch {
            let all = self.input.is_none() && self.in_flight == 0 && self.end.is_none();
            watch.end(all, Some(self.pulled - self.in_flight));
        }
    }

    /// Drops what is not begun and what is not handed out.
    fn abandon(&mut self) {
        self.control.context.cancel();
        self.expected.clear();
        // Pieces that are not yet among the parts.
        let splits = self.control.news.close().splits;
        for part in splits.into_iter().flat_map(|split| split.parts) {
            self.control.abandon(&*part);
        }
        for part in self.parts.drain(..) {
            self.control.abandon(&*part);
        }
    }
}

impl<'s, I, R> Iterator for Imap<'s, I, R>
where
    I: Iterator,
    I::Item: Send + 's,
    R: Send + 's,
{
    type Item = Result<R, Error>;

    fn next(&mut self) -> Option<Result<R, Error>> {
        let result = self.next_ready();
        if result.is_some() {
            return result;
        }
        // Without a deadline there is no `Timeout`.
        self.next_late(None).unwrap_or_else(|error| Some(Err(error)))
    }

    /// At the most what is in flight and what the input says, and one error. Nothing but one result or error is sure to
    /// come: a pool that ends takes with it what has not begun.
    fn size_hint(&self) -> (usize, Option<usize>) {
        let pulled = self.in_flight + usize::from(self.end.is_some());
        let Some(input) = &self.input else { return (pulled.min(1), Some(pulled)) };
        let (low, high) = input.size_hint();
        let high = high.and_then(|high| high.checked_add(pulled)?.checked_add(1));
        (low.saturating_add(pulled).min(1), high)
    }
}

impl<'s, I, R> FusedIterator for Imap<'s, I, R>
where
    I: Iterator,
    I::Item: Send + 's,
    R: Send + 's,
{
}

impl<I: Iterator, R> Drop for Imap<'_, I, R> {
    fn drop(&mut self) {
        self.conclude();
        self.abandon();
    }
}

impl<I: Iterator, R> fmt::Debug for Imap<'_, I, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Imap")
            .field("pulled", &self.pulled)
            .field("in_flight", &self.in_flight)
            .finish_non_exhaustive()
    }
}

#[cfg(all(test, loom))]
mod models;
#[cfg(any(feature = "futures", all(test, loom)))]
mod polled;

#[cfg(feature = "futures")]
pub use polled::ImapStream;
