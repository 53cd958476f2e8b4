//! Where the time of a pool's calls went.

mod picture;
mod record;
mod report;
mod trace;

use std::fmt;
use std::ops::Range;
use std::sync::atomic::Ordering;
use std::time::Duration;

pub(crate) use record::{Record, Recorder, Span};

use crate::sync::{Instant, lock};
use record::{APPLY, Bar, LONGEST, Long};

/// Where the time of a pool's calls went: what each worker did, and what became of each call.
///
/// Taken by [`Pool::insights`](crate::Pool::insights) from a pool that was built with
/// [`Builder::insights`](crate::Builder::insights). It is a copy of what is known then; the calls are the last 32, the
/// oldest first, and all `apply`s and `apply_async`s together are one call.
///
/// As text ([`Display`](fmt::Display)) it is two tables, one of the workers and one of the calls;
/// [`to_svg`](Insights::to_svg) is a picture, and [`to_chrome_trace`](Insights::to_chrome_trace) what trace viewers open.
///
/// Python: mpire's `get_insights()`; `multiprocessing` has nothing.
///
/// ```
/// use parpool::Pool;
///
/// let pool = Pool::builder().processes(2).insights(true).build()?;
/// let burn = |n: u64| (0..n).fold(0, |sum: u64, i| sum.wrapping_mul(31) ^ i);
/// pool.chunksize(50).map(|i| burn(i * 100), 0..100)?;
/// let insights = pool.insights().expect("it was asked for");
/// println!("{insights}");
/// assert_eq!(insights.workers().len(), 2);
/// assert_eq!(insights.calls()[0].items(), 100);
/// assert_eq!(insights.calls()[0].chunks(), 2);
/// # Ok::<(), parpool::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Insights {
    workers: Vec<WorkerInsights>,
    calls: Vec<CallInsights>,
}

/// What one worker did, and those before it that it replaced.
///
/// ```
/// let pool = parpool::Pool::builder().processes(1).insights(true).build()?;
/// pool.apply(|| (), ())?;
/// let insights = pool.insights().unwrap();
/// let worker = &insights.workers()[0];
/// assert_eq!((worker.index(), worker.tasks()), (0, 1));
/// # Ok::<(), parpool::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct WorkerInsights {
    index: usize,
    tasks: usize,
    busy: Duration,
    waiting: Duration,
    start_up: Duration,
}

/// What became of one call.
///
/// ```
/// let pool = parpool::Pool::builder().processes(2).insights(true).build()?;
/// pool.map(|x| x * x, 0..1000)?;
/// let insights = pool.insights().unwrap();
/// let call = &insights.calls()[0];
/// assert_eq!((call.verb(), call.items()), ("map", 1000));
/// assert!(call.speed_up() <= 2.0);
/// # Ok::<(), parpool::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct CallInsights {
    verb: &'static str,
    chunksize: Option<usize>,
    workers: usize,
    items: usize,
    chunks: usize,
    /// From the first call of the pool on.
    begun: Duration,
    duration: Duration,
    busy: Duration,
    longest: Vec<LongItems>,
    longest_chunk: Option<(usize, Duration, Duration)>,
    queue_depth: usize,
    input: Duration,
    waited: Option<Duration>,
    /// By worker.
    lanes: Vec<Vec<Stretch>>,
}

/// Items of a call that took long: one where the pool timed it by itself, or neighbours that were too short for that.
///
/// ```
/// use std::{thread, time::Duration};
///
/// let pool = parpool::Pool::builder().processes(2).insights(true).build()?;
/// let nap = |i: u64| thread::sleep(Duration::from_millis(if i == 7 { 20 } else { 1 }));
/// pool.chunksize(1).map(nap, 0..10)?;
/// let insights = pool.insights().unwrap();
/// let longest = &insights.calls()[0].longest()[0];
/// assert_eq!(longest.items(), 7..8);
/// assert!(longest.duration() >= Duration::from_millis(20));
/// # Ok::<(), parpool::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LongItems {
    items: Range<usize>,
    worker: usize,
    duration: Duration,
}

/// Chunks that a worker ran one after the other, from when to when of the call.
#[derive(Clone, Debug)]
struct Stretch {
    begun: Duration,
    ended: Duration,
    first: usize,
    items: usize,
    chunks: usize,
}

/// Why a call was not as fast as its workers are many.
///
/// ```
/// use std::{thread, time::Duration};
/// use parpool::{Bottleneck, Pool};
///
/// let pool = Pool::builder().processes(2).insights(true).build()?;
/// let nap = |i: u64| thread::sleep(Duration::from_millis(if i == 3 { 40 } else { 1 }));
/// pool.chunksize(1).map(nap, 0..4)?;
/// let insights = pool.insights().unwrap();
/// assert_eq!(insights.calls()[0].bottleneck(), Some(Bottleneck::Straggler(3)));
/// # Ok::<(), parpool::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Bottleneck {
    /// The chunks are too few or too large: what was lost is less than one of them takes. Set a smaller chunk size,
    /// or none.
    FewChunks,
    /// One item, whose index this is, took so long that the others were done before it. No chunk size helps;
    /// begin with it, or make it cheaper.
    Straggler(usize),
    /// The input gave its items more slowly than the workers took them.
    SlowInput,
    /// The consumer of a stream took the results more slowly than the workers made them.
    SlowConsumer,
    /// It was over about as soon as the workers were awake.
    Short,
    /// Nothing of the above: the workers had other things to do, for this pool or for another process.
    Elsewhere,
}

impl Insights {
    pub(crate) fn of(recorder: &Recorder) -> Self {
        let now = Instant::now();
        let worker = |(index, record): (usize, &_)| {
            let record: &record::WorkerRecord = &lock(record);
            let busy = record.busy(now);
            let alive = record.ready.map_or(Duration::ZERO, |ready| now - ready);
            WorkerInsights {
                index,
                tasks: record.tasks,
                busy,
                waiting: alive.saturating_sub(busy),
                start_up: record.start_up,
            }
        };
        let workers = recorder.workers.iter().map(|record| &**record).enumerate().map(worker);
        let calls = recorder.all();
        let calls = calls.iter().filter_map(|record| CallInsights::of(record, recorder.made, now));
        let mut calls: Vec<_> = calls.collect();
        calls.sort_by_key(|call| call.begun);
        Insights { workers: workers.collect(), calls }
    }

    /// By index.
    ///
    /// ```
    /// let pool = parpool::Pool::builder().processes(3).insights(true).build()?;
    /// assert_eq!(pool.insights().unwrap().workers().len(), 3);
    /// # Ok::<(), parpool::Error>(())
    /// ```
    pub fn workers(&self) -> &[WorkerInsights] {
        &self.workers
    }

    /// The last 32 calls, the oldest first.
    ///
    /// ```
    /// let pool = parpool::Pool::builder().processes(2).insights(true).build()?;
    /// assert!(pool.insights().unwrap().calls().is_empty());
    /// # Ok::<(), parpool::Error>(())
    /// ```
    pub fn calls(&self) -> &[CallInsights] {
        &self.calls
    }

    /// A picture, an SVG document: a panel for each call, in it a lane for each worker, on it a bar for each chunk. All
    /// panels have the same scale of time. The longest chunk is marked. Chunks that are too short to be seen
    /// are drawn together. Only the last 12 calls are drawn.
    ///
    /// ```
    /// let pool = parpool::Pool::builder().processes(2).insights(true).build()?;
    /// pool.chunksize(10).map(|x| x * x, 0..100)?;
    /// let svg = pool.insights().unwrap().to_svg();
    /// assert!(svg.starts_with("<svg"));
    /// # let path = std::env::temp_dir().join("parpool-insights.svg");
    /// std::fs::write(path, svg).unwrap();
    /// # Ok::<(), parpool::Error>(())
    /// ```
    pub fn to_svg(&self) -> String {
        picture::draw(self)
    }

    /// All bars with their times as trace events in JSON, the format that Perfetto (ui.perfetto.dev) and
    /// `chrome://tracing` open.
    ///
    /// ```
    /// let pool = parpool::Pool::builder().processes(2).insights(true).build()?;
    /// pool.map(|x| x * x, 0..100)?;
    /// let trace = pool.insights().unwrap().to_chrome_trace();
    /// assert!(trace.contains(r#""name":"map""#));
    /// # Ok::<(), parpool::Error>(())
    /// ```
    pub fn to_chrome_trace(&self) -> String {
        trace::write(self)
    }
}

impl WorkerInsights {
    /// Its place in the pool; see [`WorkerId::index`](crate::WorkerId::index).
    pub fn index(&self) -> usize {
        self.index
    }

    /// How many chunks and single functions it has begun.
    pub fn tasks(&self) -> usize {
        self.tasks
    }

    /// How long it has run chunks and functions. What a task runs in it, or helps with while it
    /// waits, counts once.
    pub fn busy(&self) -> Duration {
        self.busy
    }

    /// How long it was there and not busy.
    pub fn waiting(&self) -> Duration {
        self.waiting
    }

    /// How long it took to start its thread and to run the initializer; of all threads that it has had.
    pub fn start_up(&self) -> Duration {
        self.start_up
    }
}

impl CallInsights {
    /// `None` if it has not begun.
    fn of(record: &Record, made: Instant, now: Instant) -> Option<Self> {
        let times = *lock(&record.times);
        let tracks: Vec<_> = record.tracks.iter().map(|track| lock(track).clone()).collect();
        let bars = || tracks.iter().flat_map(|track| &track.bars);
        // Single functions have no common begin and end.
        let begun = times.begun.or_else(|| bars().map(|bar| bar.begun).min())?;
        let last = || bars().map(|bar| bar.ended).max();
        let ended = times.ended.or_else(|| if times.begun.is_none() { last() } else { None });
        let ended = ended.unwrap_or(now);
        let mut longest: Vec<(Long, usize)> = Vec::new();
        for (worker, track) in tracks.iter().enumerate() {
            longest.extend(track.longest.iter().map(|long| (long.clone(), worker)));
        }
        longest.sort_by_key(|(long, _)| std::cmp::Reverse(long.time));
        longest.truncate(LONGEST);
        let long = |(Long { items, time }, worker)| LongItems { items, worker, duration: time };
        let chunks = tracks.iter().filter_map(|track| track.longest_chunk);
        let longest_chunk = chunks
            .map(|(bar, item)| (bar.first, bar.ended - bar.begun, item))
            .max_by_key(|(_, time, _)| *time);
        let stretch = |bar: &Bar| Stretch {
            begun: bar.begun - begun,
            ended: bar.ended - begun,
            first: bar.first,
            items: bar.items,
            chunks: bar.chunks,
        };
        Some(CallInsights {
            verb: record.verb,
            chunksize: record.chunksize,
            workers: tracks.len(),
            items: tracks.iter().map(|track| track.items).sum(),
            chunks: tracks.iter().map(|track| track.chunks).sum(),
            begun: begun - made,
            duration: ended - begun,
            busy: tracks.iter().map(|track| track.busy).sum(),
            longest: longest.into_iter().map(long).collect(),
            longest_chunk,
            queue_depth: record.queued.load(Ordering::Relaxed),
            input: times.input,
            waited: times.waited,
            lanes: tracks.iter().map(|track| track.bars.iter().map(stretch).collect()).collect(),
        })
    }

    /// The verb's name.
    pub fn verb(&self) -> &str {
        self.verb
    }

    /// The [chunk size](crate::Pool::chunksize) that was set.
    pub fn chunksize(&self) -> Option<usize> {
        self.chunksize
    }

    /// How many items were finished; of `reduce` and `sum`, how many chunks.
    pub fn items(&self) -> usize {
        self.items
    }

    /// In how many chunks they were taken by the workers.
    pub fn chunks(&self) -> usize {
        self.chunks
    }

    /// From its begin to its end, or until now.
    pub fn duration(&self) -> Duration {
        self.duration
    }

    /// How long the workers were busy with it, all of them together.
    pub fn busy(&self) -> Duration {
        self.busy
    }

    /// How many workers were busy with it on average; ideal is all there are.
    ///
    /// That is the speed-up over one worker if the items take as long when they run beside each other:
    /// what they lose to a shared cache, or to another process on their core, counts as busy.
    pub fn speed_up(&self) -> f64 {
        match self.duration.is_zero() {
            true => 0.0,
            false => self.busy.as_secs_f64() / self.duration.as_secs_f64(),
        }
    }

    /// How much of the ideal speed-up was reached, from 0 to 1.
    pub fn efficiency(&self) -> f64 {
        self.speed_up() / self.workers as f64
    }

    /// The items that took longest, the longest first, three at the most.
    pub fn longest(&self) -> &[LongItems] {
        &self.longest
    }

    /// The most tasks that waited in the pool's queue when a chunk of it was begun, those of other calls among them.
    ///
    /// A map takes little room there, however long it is: workers take its chunks from the input.
    pub fn queue_depth(&self) -> usize {
        self.queue_depth
    }

    /// Why it was not as fast as the workers are many; `None` if it was, but for a tenth, and where
    /// there is nothing to say: for single functions.
    pub fn bottleneck(&self) -> Option<Bottleneck> {
        if self.verb == APPLY || self.chunks == 0 || self.efficiency() >= 0.9 {
            return None;
        }
        let half = self.duration / 2;
        if self.input > half {
            return Some(Bottleneck::SlowInput);
        }
        if let Some(waited) = self.waited {
            if self.duration.saturating_sub(waited + self.input) > half {
                return Some(Bottleneck::SlowConsumer);
            }
        }
        // What each worker lost on average. The last chunk may be to blame for as much as it took.
        let lost = self.duration.saturating_sub(self.busy / self.workers as u32);
        if let Some((_, chunk, item)) = self.longest_chunk {
            if lost <= chunk + chunk / 8 {
                let straggler = self.longest.first().filter(|long| {
                    long.items.len() == 1
                        && 2 * item >= chunk
                        && lost <= long.duration + long.duration / 8
                });
                return Some(match straggler {
                    Some(long) if self.chunks >= self.workers => {
                        Bottleneck::Straggler(long.items.start)
                    }
                    _ => Bottleneck::FewChunks,
                });
            }
        }
        match self.duration < Duration::from_millis(1) {
            true => Some(Bottleneck::Short),
            false => Some(Bottleneck::Elsewhere),
        }
    }
}

impl LongItems {
    /// Their indices in the input.
    pub fn items(&self) -> Range<usize> {
        self.items.clone()
    }

    /// The index of the worker that ran them.
    pub fn worker(&self) -> usize {
        self.worker
    }

    /// How long they took together.
    pub fn duration(&self) -> Duration {
        self.duration
    }
}

/// `one straggler, item 7`, for a table.
impl fmt::Display for Bottleneck {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Bottleneck::FewChunks => f.write_str("too few chunks"),
            Bottleneck::Straggler(item) => write!(f, "one straggler, item {item}"),
            Bottleneck::SlowInput => f.write_str("the input is slow"),
            Bottleneck::SlowConsumer => f.write_str("the consumer is slow"),
            Bottleneck::Short => f.write_str("over too soon"),
            Bottleneck::Elsewhere => f.write_str("workers were elsewhere"),
        }
    }
}

/// The two tables.
impl fmt::Display for Insights {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        report::write(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two workers for 100 ms, of which they were busy for 160 together; the longest chunk of 20 ms.
    fn call() -> CallInsights {
        let ms = Duration::from_millis;
        CallInsights {
            verb: "map",
            chunksize: None,
            workers: 2,
            items: 100,
            chunks: 10,
            begun: ms(0),
            duration: ms(100),
            busy: ms(160),
            longest: vec![LongItems { items: 7..8, worker: 0, duration: ms(2) }],
            longest_chunk: Some((0, ms(20), ms(2))),
            queue_depth: 0,
            input: ms(0),
            waited: None,
            lanes: vec![Vec::new(), Vec::new()],
        }
    }

    #[test]
    fn what_was_lost_is_blamed_on_the_chunk_or_the_item_that_took_as_long() {
        let ms = Duration::from_millis;
        let long =
            |item, time| vec![LongItems { items: item..item + 1, worker: 0, duration: ms(time) }];
        let (few, straggler) = (Some(Bottleneck::FewChunks), Some(Bottleneck::Straggler(7)));
        assert_eq!(call().bottleneck(), few);
        // The chunk is that one item, or nearly.
        let one = CallInsights {
            longest: long(7, 20),
            longest_chunk: Some((7, ms(20), ms(20))),
            ..call()
        };
        assert_eq!(one.bottleneck(), straggler);
        let nearly = CallInsights {
            longest: long(7, 19),
            longest_chunk: Some((0, ms(20), ms(19))),
            ..call()
        };
        assert_eq!(nearly.bottleneck(), straggler);
        // A worker that had no chunk at all.
        let single = CallInsights {
            chunks: 1,
            busy: ms(100),
            longest_chunk: Some((0, ms(100), ms(2))),
            ..call()
        };
        assert_eq!(single.bottleneck(), few);
    }

    #[test]
    fn what_no_chunk_accounts_for_is_the_inputs_the_consumers_or_somebody_elses() {
        let ms = Duration::from_millis;
        let short = |call| CallInsights { longest_chunk: Some((0, ms(1), ms(1))), ..call };
        assert_eq!(short(call()).bottleneck(), Some(Bottleneck::Elsewhere));
        let input = CallInsights { input: ms(60), ..call() };
        assert_eq!(short(input).bottleneck(), Some(Bottleneck::SlowInput));
        let consumer = CallInsights { waited: Some(ms(30)), input: ms(5), ..call() };
        assert_eq!(short(consumer).bottleneck(), Some(Bottleneck::SlowConsumer));
        let waiting = CallInsights { waited: Some(ms(90)), input: ms(5), ..call() };
        assert_eq!(short(waiting).bottleneck(), Some(Bottleneck::Elsewhere));
        let soon = CallInsights {
            duration: Duration::from_micros(100),
            busy: Duration::from_micros(100),
            longest_chunk: Some((0, Duration::from_micros(20), Duration::ZERO)),
            ..call()
        };
        assert_eq!(soon.bottleneck(), Some(Bottleneck::Short));
    }

    #[test]
    fn what_was_fast_enough_needs_no_excuse() {
        let fast = CallInsights { busy: Duration::from_millis(181), ..call() };
        assert_eq!(fast.bottleneck(), None);
        assert_eq!(CallInsights { chunks: 0, busy: Duration::ZERO, ..call() }.bottleneck(), None);
    }
}
