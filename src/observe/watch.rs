//! What is watched of a call while it goes on: how far it is, and, where the pool was asked to, its times.
//!
//! A call that nobody watches has none of this, and costs a branch for each block of its items.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering};
use std::time::Duration;

use super::insights::{Record, Recorder, Span};
use super::progress::{Count, Progress};
use crate::panic::discard;
use crate::sync::Instant;

/// What a call is watched by.
pub(crate) struct Watch {
    stage: AtomicU8,
    by_hand: AtomicBool,
    /// How many items are finished.
    done: Arc<Count>,
    /// `UNKNOWN` if the length is not known.
    total: AtomicUsize,
    progress: Option<Progress>,
    record: Option<Arc<Record>>,
    /// How long a worker waits before it counts again: so long that the counter, which all of
    /// them write, is written once in a microsecond at the most.
    pause: Duration,
}

const UNKNOWN: usize = usize::MAX;

/// The stages of a call.
const NEW: u8 = 0;
/// It is being told that it begins.
const BEGINNING: u8 = 1;
const BEGUN: u8 = 2;
const OVER: u8 = 3;

impl Watch {
    /// For a call of a pool of `workers` workers, which writes its times down in `recorder`; `None` if there is nothing to
    /// watch it for.
    pub(crate) fn new(
        workers: usize,
        recorder: Option<&Recorder>,
        progress: Option<&Progress>,
        record: impl FnOnce(&Recorder) -> Arc<Record>,
    ) -> Option<Arc<Self>> {
        let record = recorder.map(record);
        let watched = progress.is_some() || record.is_some();
        watched.then(|| Watch::of(workers, progress, record))
    }

    /// For a call whose handle says how far it is.
    pub(crate) fn of(
        workers: usize,
        progress: Option<&Progress>,
        record: Option<Arc<Record>>,
    ) -> Arc<Self> {
        Arc::new(Watch {
            stage: AtomicU8::new(NEW),
            by_hand: AtomicBool::new(false),
            done: Arc::default(),
            total: AtomicUsize::new(UNKNOWN),
            progress: progress.cloned(),
            record,
            pause: Duration::from_micros(workers as u64),
        })
    }

    /// It will have `total` items once it begins.
    pub(crate) fn expect(&self, total: usize) {
        self.total.store(total, Ordering::Relaxed);
    }

    /// The call begins, with `total` items if that is known. Does nothing the second time, nor once it has ended.
    pub(crate) fn begin(&self, total: Option<usize>) {
        // ORDERING (of the stage): what a thread finds to be BEGUN, it finds as it was begun.
        if !self.advance(NEW, BEGINNING) {
            return;
        }
        self.total.store(total.unwrap_or(UNKNOWN), Ordering::Relaxed);
        if let Some(record) = &self.record {
            record.begin();
        }
        if let Some(progress) = &self.progress {
            progress.begin(&self.done, total);
        }
        if !self.advance(BEGINNING, BEGUN) {
            // Another thread has ended it meanwhile, which only happens to a call that fails.
            self.finish(false, None);
        }
    }

    fn advance(&self, from: u8, to: u8) -> bool {
        self.stage.compare_exchange(from, to, Ordering::AcqRel, Ordering::Relaxed).is_ok()
    }

    /// The call has ended; nothing is counted any more. With at least as many finished `items`, if there may be more
    /// than were counted: of a stream, those that were handed out. Does nothing the second time. A call that ends before it
    /// has begun does not begin.
    ///
    /// To be called before the outcome can be seen: its owner may then give the same `Progress` to the next call.
    pub(crate) fn end(&self, success: bool, items: Option<usize>) {
        if self.stage.swap(OVER, Ordering::AcqRel) == BEGUN {
            self.finish(success, items);
        }
    }

    fn finish(&self, success: bool, items: Option<usize>) {
        if let Some(record) = &self.record {
            record.end();
        }
        let done = match &self.progress {
            Some(progress) => progress.end(&self.done, items, success),
            None => self.done.end(items),
        };
        if success {
            self.total.store(done, Ordering::Relaxed);
        }
    }

    /// The same for a call that says by itself how many items are finished: what its workers finish is
    /// something else.
    pub(crate) fn begin_by_hand(&self, total: Option<usize>) {
        self.by_hand.store(true, Ordering::Relaxed);
        self.begin(total);
    }

    /// How many items are finished, and of how many.
    pub(crate) fn get(&self) -> (usize, Option<usize>) {
        // ORDERING: a number to look at.
        let total = self.total.load(Ordering::Relaxed);
        (self.done.get(), (total != UNKNOWN).then_some(total))
    }

    /// What the worker of this index does in it, from now on.
    pub(crate) fn observe(&self, worker: usize) -> Observer<'_> {
        // ORDERING: set before the call is given to its workers.
        let counts = !self.by_hand.load(Ordering::Relaxed);
        Observer { watch: self, worker, counts, at: 0, fresh: 0, told: None, span: None }
    }

    pub(crate) fn record(&self) -> Option<&Record> {
        self.record.as_deref()
    }

    /// So many more items are finished.
    pub(crate) fn count(&self, items: usize, now: Instant) {
        if let (true, Some(progress)) = (self.done.add(items), &self.progress) {
            progress.counted(now);
        }
    }
}

/// A call that was cancelled or dropped ends here.
impl Drop for Watch {
    fn drop(&mut self) {
        self.end(false, None);
        // It may be the last that has it, and then drops what is the user's.
        discard(self.progress.take());
    }
}

/// One worker's part of a call.
pub(crate) struct Observer<'w> {
    watch: &'w Watch,
    worker: usize,
    /// What it finishes are the call's items.
    counts: bool,
    /// The item that it is at.
    at: usize,
    /// How many were finished and not counted.
    fresh: usize,
    told: Option<Instant>,
    /// The times of the chunk it is at.
    span: Option<Span<'w>>,
}

impl Observer<'_> {
    /// What time it is, where it is to be known how long something takes.
    pub(crate) fn clock(&self) -> Option<Instant> {
        self.watch.record().map(|_| Instant::now())
    }

    /// It was given a chunk, which it had asked for at `asked`.
    pub(crate) fn took_input(&self, asked: Option<Instant>) {
        if let (Some(record), Some(asked)) = (self.watch.record(), asked) {
            record.took_input(asked.elapsed());
        }
    }

    /// It begins a chunk, with item `first`.
    ///
    /// What is finished is counted by then: nobody knows how long the next chunk takes.
    pub(crate) fn begin(&mut self, first: usize) {
        self.end();
        if self.fresh > 0 {
            let now = Instant::now();
            self.told = Some(now);
            self.tell(now);
        }
        self.at = first;
        self.span = self.watch.record().map(|record| record.begin_chunk(self.worker, first));
    }

    /// All items below `next` are finished; for the times only.
    #[inline]
    pub(crate) fn look(&mut self, next: usize) {
        if let Some(span) = &mut self.span {
            span.look(next);
        }
    }

    /// All items below `next` are finished, which is told if it is time to.
    pub(crate) fn reach(&mut self, next: usize, now: Instant) {
        if self.counts {
            self.fresh += next.saturating_sub(self.at);
        }
        self.at = next;
        let due = self.told.is_none_or(|told| now - told >= self.watch.pause);
        if due && self.fresh > 0 {
            self.told = Some(now);
            self.tell(now);
        }
    }

    fn tell(&mut self, now: Instant) {
        self.watch.count(std::mem::take(&mut self.fresh), now);
    }

    /// Others will do what lies below `next`.
    pub(crate) fn skip(&mut self, next: usize) {
        self.at = next;
    }

    /// It has done with the chunk.
    pub(crate) fn end(&mut self) {
        let at = self.at;
        if let Some(span) = self.span.take() {
            span.end(at);
        }
    }
}

impl Drop for Observer<'_> {
    fn drop(&mut self) {
        self.end();
        if self.fresh > 0 {
            self.tell(Instant::now());
        }
    }
}
