//! Every decision about how many items to take at a time. Pure.

use std::time::Duration;

/// The work to do between two looks at the clock and at the others.
///
/// Long enough that a claim (about 0.1 µs) is lost in it, short enough that a map of a fraction of a
/// millisecond still has blocks to share.
pub(crate) const SLICE: Duration = Duration::from_micros(20);

/// How often, in a slice, a worker looks whether it shall stop or share.
const LOOKS: usize = 16;

/// How an input is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ChunkPolicy {
    /// Claims are multiples of this many items, counted from the input's first.
    pub(crate) unit: usize,
    /// A claim is one unit, for a unit is a *task* that a worker's life is counted in.
    pub(crate) single: bool,
    /// A unit may be split after it was claimed: nobody asked for its size.
    pub(crate) divisible: bool,
}

impl ChunkPolicy {
    /// The cut of an input of `len` items, if that is known.
    ///
    /// `counted` says that workers are replaced after a number of chunks; then the size must not
    /// depend on the run, and an unset one is Python's.
    pub(crate) fn new(
        set: Option<usize>,
        counted: bool,
        len: Option<usize>,
        workers: usize,
    ) -> Self {
        let unit = match (set, counted, len) {
            (Some(set), _, _) => set,
            (None, true, Some(len)) => python(len, workers),
            (None, _, _) => 1,
        };
        ChunkPolicy { unit, single: counted, divisible: set.is_none() && !counted }
    }

    /// How many of the `left` items at the front of a range to claim, when `slice_items` items fit a slice.
    ///
    /// One of `shares` equal parts of what is left at the most, down to single items, so that there is
    /// something for others until the end, and the last items do not fall to one worker.
    #[inline]
    pub(crate) fn claim(self, left: usize, slice_items: usize, shares: usize) -> usize {
        if self.single {
            return self.unit.min(left);
        }
        let want = slice_items.min(left / shares);
        (want / self.unit).max(1).saturating_mul(self.unit).min(left)
    }

    /// Where to split `left` items so that a thief gets the back half; 0 is: all.
    #[inline]
    pub(crate) fn half(self, left: usize) -> usize {
        left / 2 / self.unit * self.unit
    }
}

/// `Pool.map`'s chunk size: four chunks a worker, rounded up.
fn python(len: usize, workers: usize) -> usize {
    len.div_ceil(workers.saturating_mul(4)).max(1)
}

/// How many items to do between two looks at the flags.
#[inline]
pub(crate) fn look(slice_items: usize) -> usize {
    (slice_items / LOOKS).max(1)
}

/// How many items fit a [`SLICE`], learnt from how long the last ones took.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BatchSizer(usize);

impl BatchSizer {
    /// Nothing is known yet: one item, for it may take a second.
    pub(crate) fn new() -> Self {
        BatchSizer(1)
    }

    #[inline]
    pub(crate) fn slice_items(self) -> usize {
        self.0
    }

    /// Whether items are so cheap, two thirds of a nanosecond, that to look up after each would cost more
    /// than they do: it takes vector instructions from a loop, which it makes as long as that.
    #[inline]
    pub(crate) fn is_tiny(self) -> bool {
        self.0 > SLICE.as_nanos() as usize * 3 / 2
    }

    /// `done` items took `time`. Grows fourfold at the most, for cheap ones say little of those that
    /// follow; shrinks at once.
    #[inline]
    pub(crate) fn learn(&mut self, done: usize, time: Duration) {
        let nanos = (time.as_nanos() as u64).max(1);
        let slice_items = (SLICE.as_nanos() as u64).saturating_mul(done as u64) / nanos;
        let slice_items = usize::try_from(slice_items).unwrap_or(usize::MAX);
        self.0 = slice_items.clamp(1, self.0.saturating_mul(4));
    }
}

/// The work in one chunk of a stream: so little that nobody notices the wait for the items before it,
/// so much that the price of a task is lost in it.
const CHUNK: Duration = Duration::from_micros(200);

/// The work in one chunk for each worker there is, if that is more: what the consumer has to do for a
/// chunk, while the others make theirs.
const SHARE: Duration = Duration::from_micros(4);

/// The work that a stream keeps in front of each worker, so that none runs dry while the consumer
/// sleeps.
const AHEAD: Duration = Duration::from_millis(2);

/// How long a consumer may wait for a result that is there, for the sake of waking it less often.
pub(crate) const MAX_DELAY: Duration = Duration::from_micros(500);

/// How long the chunk of a stream may take before the rest of it is shared out again.
pub(crate) const SPLIT_AFTER: Duration = Duration::from_micros(800);

/// How many chunks of a stream there are for each worker when items are cheap, and how many items when
/// they are expensive.
const PER_WORKER: usize = 4;

/// How many items a stream keeps for each worker at the most, when it may choose.
const MAX_PER_WORKER: usize = 2048;

/// How far a stream runs ahead of its consumer, and in what portions.
#[derive(Clone, Debug)]
pub(crate) struct Window {
    workers: usize,
    set_size: Option<usize>,
    set_chunk: Option<usize>,
    /// How many items may be pulled and not handed out.
    size: usize,
    chunk: usize,
}

impl Window {
    /// Nothing is known of the items: a few for each worker, each on its own.
    pub(crate) fn new(workers: usize, size: Option<usize>, chunk: Option<usize>) -> Self {
        let mut window = Window {
            workers,
            set_size: size,
            set_chunk: chunk,
            size: size.unwrap_or(PER_WORKER * workers),
            chunk: 1,
        };
        window.settle(1);
        window
    }

    /// An item takes `nanos`, as far as the last ones tell. Grows by steps and shrinks at once.
    pub(crate) fn learn(&mut self, nanos: u64) {
        let items_in = |time: Duration| (time.as_nanos() as u64 / nanos.max(1)) as usize;
        if self.set_size.is_none() {
            let few = PER_WORKER * self.workers;
            let wanted = items_in(AHEAD).saturating_mul(self.workers);
            let step = self.size.saturating_mul(2);
            self.size = wanted.min(step).clamp(few, MAX_PER_WORKER * self.workers);
        }
        let chunk = CHUNK.max(SHARE.saturating_mul(self.workers as u32));
        self.settle(items_in(chunk).min(self.chunk.saturating_mul(2)));
    }

    /// Fits the chunk and the window to one another.
    fn settle(&mut self, chunk: usize) {
        self.chunk = match self.set_chunk {
            Some(set) => {
                if self.set_size.is_none() {
                    self.size = self.size.max(set.saturating_mul(2 * self.workers));
                }
                set.min(self.size)
            }
            None => chunk.clamp(1, (self.size / (PER_WORKER * self.workers)).max(1)),
        };
    }

    #[cfg(test)]
    fn size(&self) -> usize {
        self.size
    }

    /// Whether another chunk fits the window while so many items are `in_flight`, which may be more than
    /// a window holds that has shrunk.
    #[inline]
    pub(crate) fn fits(&self, in_flight: usize) -> bool {
        self.size.checked_sub(in_flight).is_some_and(|room| room >= self.chunk)
    }

    /// While fewer items than this are in flight, another chunk fits.
    pub(crate) fn fits_below(&self) -> usize {
        self.size.checked_sub(self.chunk).map_or(0, |most| most.saturating_add(1))
    }

    pub(crate) fn chunk(&self) -> usize {
        self.chunk
    }

    /// Whether the size of a chunk is up to the pool.
    pub(crate) fn is_free(&self) -> bool {
        self.set_chunk.is_none()
    }

    /// How many results a starved consumer is woken for, when an item takes `nanos`.
    pub(crate) fn ask(&self, nanos: u64, in_flight: usize) -> usize {
        if nanos == 0 {
            return 1;
        }
        let wanted = (MAX_DELAY.as_nanos() as u64 / nanos) as usize;
        wanted.saturating_mul(self.workers).clamp(1, (in_flight / 2).max(1))
    }
}

/// The time of each of `count` items that took `time`; all of it if there was none.
pub(crate) fn time_per_item(time: Duration, count: usize) -> Duration {
    // No `Duration / u32`: there may be more items than a `u32` counts.
    let nanos = time.as_nanos() / count.max(1) as u128;
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::numeric::Draws;

    #[test]
    fn python_makes_four_chunks_a_worker() {
        assert_eq!([0, 1, 8, 9, 100].map(|len| python(len, 2)), [1, 1, 1, 2, 13]);
    }

    #[test]
    fn a_pace_grows_fourfold_and_shrinks_at_once() {
        let mut sizer = BatchSizer::new();
        let mut seen = Vec::new();
        for _ in 0..5 {
            sizer.learn(sizer.slice_items(), Duration::from_nanos(sizer.slice_items() as u64));
            seen.push(sizer.slice_items());
        }
        assert_eq!(seen, [4, 16, 64, 256, 1024]);
        sizer.learn(1024, Duration::from_millis(100));
        assert_eq!(sizer.slice_items(), 1);
        sizer.learn(1, Duration::ZERO);
        assert_eq!(sizer.slice_items(), 4);
    }

    #[test]
    fn a_stream_starts_small_grows_when_items_are_cheap_and_shrinks_at_once() {
        let mut window = Window::new(2, None, None);
        assert_eq!((window.size(), window.chunk()), (8, 1));
        for _ in 0..20 {
            window.learn(1);
        }
        assert_eq!((window.size(), window.chunk()), (4096, 512));
        window.learn(5_000_000);
        assert_eq!((window.size(), window.chunk()), (8, 1));
    }

    #[test]
    fn a_set_window_and_a_set_chunk_stay() {
        let mut window = Window::new(2, Some(10), None);
        let mut exact = Window::new(2, None, Some(100));
        for nanos in [1, 1000, 1, 1_000_000_000] {
            window.learn(nanos);
            exact.learn(nanos);
            assert_eq!((window.size(), window.chunk()), (10, 1));
            assert_eq!(exact.chunk(), 100);
            assert!(exact.size() >= 400);
        }
        assert_eq!(Window::new(2, Some(10), Some(100)).chunk(), 10);
        assert_eq!(Window::new(2, Some(10), Some(usize::MAX)).chunk(), 10);
    }

    #[test]
    fn a_size_without_end_fits_a_window_without_end() {
        const ALL: usize = usize::MAX;
        for (window, chunk) in [(Some(ALL), Some(ALL)), (None, Some(ALL)), (Some(ALL), None)] {
            let mut window = Window::new(3, window, chunk);
            for nanos in [1, 1, 1_000_000_000] {
                window.learn(nanos);
                assert_eq!(window.size(), ALL);
                assert!(window.fits(0));
                assert_eq!(window.fits(1), chunk.is_none());
                assert!(!window.fits(ALL));
            }
        }
    }

    #[test]
    fn more_items_than_a_u32_counts_have_a_time_each() {
        let second = Duration::from_secs(1);
        for (count, nanos) in [(0, 1_000_000_000), (1, 1_000_000_000), (1000, 1_000_000)] {
            assert_eq!(time_per_item(second, count), Duration::from_nanos(nanos));
        }
        assert_eq!(time_per_item(100 * second, 1 << 32), Duration::from_nanos(23));
        assert_eq!(time_per_item(second, usize::MAX), Duration::ZERO);
        assert_eq!(time_per_item(Duration::MAX, 1), Duration::from_nanos(u64::MAX));
    }

    #[test]
    fn a_chunk_always_fits_the_window() {
        Draws::each_case(|draws| {
            let (workers, size) = (draws.within(1..300), draws.maybe(1..5000));
            let mut window = Window::new(workers, size, draws.maybe(1..5000));
            for nanos in draws.list(0..10_000_000, 0..20) {
                let nanos = nanos as u64;
                window.learn(nanos);
                assert!(1 <= window.chunk() && window.chunk() <= window.size());
                let room = window.size() - window.chunk();
                assert!(window.fits(0) && window.fits(room) && !window.fits(room + 1));
                assert!(size.is_none_or(|set| window.size() == set));
                let ask = window.ask(nanos, window.size());
                assert!(1 <= ask && ask <= window.size());
            }
        });
    }

    #[test]
    fn a_claim_is_whole_units_and_never_nothing() {
        Draws::each_case(|draws| {
            let (unit, left) = (draws.within(1..50), draws.within(1..5000));
            let policy = ChunkPolicy { unit, single: draws.within(0..2) == 1, divisible: false };
            let claim = policy.claim(left, draws.within(1..10_000), 4);
            assert!(claim >= 1 && claim <= left);
            assert!(claim % unit == 0 || claim == left);
            assert!(!policy.single || claim <= unit);
        });
    }

    #[test]
    fn a_thief_leaves_whole_units() {
        Draws::each_case(|draws| {
            let (unit, left) = (draws.within(1..50), draws.within(1..5000));
            let policy = ChunkPolicy { unit, single: false, divisible: false };
            assert!(policy.half(left) % unit == 0 && policy.half(left) <= left / 2);
        });
    }
}
