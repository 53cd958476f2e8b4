//! What is written down while calls go on: by whom, when, and how long.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crossbeam_utils::CachePadded;

use crate::sync::{Instant, Mutex, lock};

/// How many calls a pool remembers.
const CALLS: usize = 32;

/// How many bars a worker has in one call at the most; then neighbours are made one.
const BARS: usize = 1024;

/// How many of its longest items a call remembers for each worker.
pub(super) const LONGEST: usize = 3;

/// The name of all calls of single functions together, which have no common begin and end.
pub(super) const APPLY: &str = "apply";

/// What a pool writes down.
pub(crate) struct Recorder {
    pub(super) made: Instant,
    pub(super) workers: Arc<[CachePadded<Mutex<WorkerRecord>>]>,
    /// The last calls, but for those of single functions.
    pub(super) calls: Mutex<VecDeque<Arc<Record>>>,
    /// All calls of single functions together.
    applies: Arc<Record>,
}

/// One worker, with all that came before it in its place.
#[derive(Default)]
pub(super) struct WorkerRecord {
    /// How many chunks and single functions it has begun.
    pub(super) tasks: usize,
    pub(super) busy: Duration,
    /// How many of them it is in: a chunk may wait for others that run on top of it.
    depth: usize,
    /// Since when it is in the outermost.
    since: Option<Instant>,
    /// When it was first ready.
    pub(super) ready: Option<Instant>,
    /// How long it took, each time, to start its thread and run the initializer.
    pub(super) start_up: Duration,
}

impl WorkerRecord {
    /// For how long it has been busy until `now`.
    pub(super) fn busy(&self, now: Instant) -> Duration {
        self.busy + self.since.map_or(Duration::ZERO, |since| now - since)
    }
}

/// One call.
pub(crate) struct Record {
    pub(super) verb: &'static str,
    pub(super) chunksize: Option<usize>,
    pub(super) times: Mutex<Times>,
    /// The most tasks that were waiting in the pool's queue when a chunk was begun.
    pub(super) queued: AtomicUsize,
    pub(super) tracks: Box<[CachePadded<Mutex<Track>>]>,
    workers: Arc<[CachePadded<Mutex<WorkerRecord>>]>,
}

/// The times of a call, and what its consumer or its caller spent them with.
#[derive(Clone, Copy, Default)]
pub(super) struct Times {
    pub(super) begun: Option<Instant>,
    pub(super) ended: Option<Instant>,
    /// How long the input took to give items, while no other worker could have been given one.
    pub(super) input: Duration,
    /// How long a stream's consumer waited for results; `None` if it is no stream.
    pub(super) waited: Option<Duration>,
}

/// What one worker did of a call.
#[derive(Clone, Default)]
pub(super) struct Track {
    pub(super) chunks: usize,
    pub(super) items: usize,
    pub(super) busy: Duration,
    pub(super) bars: Vec<Bar>,
    /// Below this, neighbours are one bar.
    resolution: Duration,
    /// The longest first.
    pub(super) longest: Vec<Long>,
    /// The longest chunk, and how long the longest item in it took.
    pub(super) longest_chunk: Option<(Bar, Duration)>,
}

/// Chunks that a worker ran one after the other.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bar {
    pub(super) begun: Instant,
    pub(super) ended: Instant,
    pub(super) first: usize,
    pub(super) items: usize,
    pub(super) chunks: usize,
}

/// Items that were timed together, most often one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Long {
    pub(super) items: Range<usize>,
    pub(super) time: Duration,
}

impl Recorder {
    pub(crate) fn new(workers: usize) -> Self {
        let workers: Arc<[_]> =
            (0..workers).map(|_| CachePadded::new(Mutex::new(WorkerRecord::default()))).collect();
        let applies = Arc::new(Record::new(&workers, APPLY, None));
        Recorder { made: Instant::now(), workers, calls: Mutex::default(), applies }
    }

    /// A call of `verb`, with the chunk size that was set.
    pub(crate) fn call(&self, verb: &'static str, chunksize: Option<usize>) -> Arc<Record> {
        let record = Arc::new(Record::new(&self.workers, verb, chunksize));
        let mut calls = lock(&self.calls);
        calls.push_back(Arc::clone(&record));
        let old = if calls.len() > CALLS { calls.pop_front() } else { None };
        drop((calls, old));
        record
    }

    /// What calls of single functions are written into.
    pub(crate) fn apply(&self) -> Arc<Record> {
        Arc::clone(&self.applies)
    }

    /// Worker `index`, whose thread was asked for at `begun`, has run its initializer.
    pub(crate) fn ready(&self, index: usize, begun: Instant) {
        let now = Instant::now();
        let mut worker = lock(&self.workers[index]);
        worker.start_up += now - begun;
        worker.ready.get_or_insert(now);
    }

    pub(super) fn all(&self) -> Vec<Arc<Record>> {
        let mut all = vec![Arc::clone(&self.applies)];
        all.extend(lock(&self.calls).iter().map(Arc::clone));
        all
    }
}

impl Record {
    fn new(
        workers: &Arc<[CachePadded<Mutex<WorkerRecord>>]>,
        verb: &'static str,
        chunksize: Option<usize>,
    ) -> Self {
        Record {
            verb,
            chunksize,
            times: Mutex::default(),
            queued: AtomicUsize::new(0),
            tracks: workers.iter().map(|_| CachePadded::new(Mutex::default())).collect(),
            workers: Arc::clone(workers),
        }
    }

    pub(crate) fn begin(&self) {
        if self.verb == APPLY {
            return;
        }
        lock(&self.times).begun.get_or_insert_with(Instant::now);
    }

    pub(crate) fn end(&self) {
        if self.verb == APPLY {
            return;
        }
        lock(&self.times).ended = Some(Instant::now());
    }

    /// The input took so long to give items.
    pub(crate) fn took_input(&self, time: Duration) {
        lock(&self.times).input += time;
    }

    /// A stream's consumer has waited.
    pub(crate) fn waited(&self, time: Duration) {
        *lock(&self.times).waited.get_or_insert_default() += time;
    }

    /// `queued` tasks are waiting.
    pub(crate) fn saw_queue(&self, queued: usize) {
        // ORDERING: a number to look at.
        self.queued.fetch_max(queued, Ordering::Relaxed);
    }

    /// `worker` begins a chunk, with item `first`.
    pub(crate) fn begin_chunk(&self, worker: usize, first: usize) -> Span<'_> {
        let begun = Instant::now();
        let mut record = lock(&self.workers[worker]);
        record.tasks += 1;
        record.depth += 1;
        record.since.get_or_insert(begun);
        drop(record);
        Span { record: self, worker, first, begun, looked: (first, begun), longest: Vec::new() }
    }
}

/// The times of one chunk, while a worker is at it.
pub(crate) struct Span<'w> {
    record: &'w Record,
    worker: usize,
    first: usize,
    begun: Instant,
    /// The item that was next at the last look, and when that was.
    looked: (usize, Instant),
    longest: Vec<Long>,
}

impl Span<'_> {
    /// All items below `next` are finished.
    #[cold]
    pub(crate) fn look(&mut self, next: usize) {
        let now = Instant::now();
        let (from, since) = std::mem::replace(&mut self.looked, (next, now));
        if from < next {
            remember(&mut self.longest, Long { items: from..next, time: now - since });
        }
    }

    /// It has done with all items below `next`.
    pub(crate) fn end(mut self, next: usize) {
        self.look(next);
        let ended = self.looked.1;
        let mut worker = lock(&self.record.workers[self.worker]);
        worker.depth -= 1;
        if worker.depth == 0 {
            worker.busy = worker.busy(ended);
            worker.since = None;
        }
        drop(worker);
        let bar = Bar {
            begun: self.begun,
            ended,
            first: self.first,
            items: next - self.first,
            chunks: 1,
        };
        lock(&self.record.tracks[self.worker]).add(bar, self.longest);
    }
}

/// Keeps `long` among the longest, which come first.
pub(super) fn remember(longest: &mut Vec<Long>, long: Long) {
    let at = longest.partition_point(|other| other.time >= long.time);
    if at < LONGEST {
        longest.insert(at, long);
        longest.truncate(LONGEST);
    }
}

impl Track {
    fn add(&mut self, bar: Bar, longest: Vec<Long>) {
        self.chunks += 1;
        self.items += bar.items;
        let time = bar.ended - bar.begun;
        self.busy += time;
        if self.longest_chunk.is_none_or(|(other, _)| time > other.ended - other.begun) {
            let item = longest.first().filter(|long| long.items.len() == 1);
            self.longest_chunk = Some((bar, item.map_or(Duration::ZERO, |long| long.time)));
        }
        for long in longest {
            remember(&mut self.longest, long);
        }
        self.draw(bar);
        while self.bars.len() > BARS {
            self.resolution = (2 * self.resolution).max(Duration::from_micros(1));
            for bar in std::mem::take(&mut self.bars) {
                self.draw(bar);
            }
        }
    }

    /// Appends `bar`, or makes the last one longer if the two are too short to be told apart.
    fn draw(&mut self, bar: Bar) {
        match self.bars.last_mut() {
            Some(last) if bar.ended - last.begun <= self.resolution => {
                last.ended = bar.ended;
                last.items += bar.items;
                last.chunks += bar.chunks;
            }
            _ => self.bars.push(bar),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_track_of_many_chunks_keeps_their_number_and_few_bars() {
        const MANY: usize = if cfg!(miri) { 4_000 } else { 100_000 };
        let (mut track, zero) = (Track::default(), Instant::now());
        let at = |nanos: u64| zero + Duration::from_nanos(nanos);
        for chunk in 0..MANY {
            let (begun, ended) = (at(100 * chunk as u64), at(100 * chunk as u64 + 80));
            track.add(Bar { begun, ended, first: 7 * chunk, items: 7, chunks: 1 }, Vec::new());
        }
        assert!(track.bars.len() <= BARS && track.bars.len() > BARS / 4, "{}", track.bars.len());
        assert_eq!((track.chunks, track.items), (MANY, 7 * MANY));
        assert_eq!(track.busy, Duration::from_nanos(80 * MANY as u64));
        assert_eq!(track.bars.iter().map(|bar| bar.chunks).sum::<usize>(), MANY);
        assert_eq!(track.bars.iter().map(|bar| bar.items).sum::<usize>(), 7 * MANY);
        assert_eq!(
            (track.bars[0].begun, track.bars.last().unwrap().ended),
            (zero, at(100 * MANY as u64 - 20))
        );
    }

    #[test]
    fn the_longest_items_are_kept_in_their_order() {
        let mut longest = Vec::new();
        for (item, millis) in [3, 9, 1, 7, 9, 2].into_iter().enumerate() {
            remember(
                &mut longest,
                Long { items: item..item + 1, time: Duration::from_millis(millis) },
            );
        }
        let items: Vec<_> = longest.iter().map(|long| long.items.start).collect();
        assert_eq!(items, [1, 4, 3]);
    }
}
