//! How far calls are, for people to look at.

use std::fmt;
use std::panic::{RefUnwindSafe, UnwindSafe};
use std::sync::Arc;
#[cfg(feature = "indicatif")]
use std::sync::atomic::AtomicBool;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use crate::panic::run_hook;
use crate::sync::{Instant, Mutex, MutexGuard, lock};

/// How far the calls are that were given it: how many items are *finished*, and of how many.
///
/// Given to a call by [`Pool::progress`](crate::Pool::progress). A handle to be cloned and asked from any thread;
/// it can also tell by itself: a closure ([`new`](Progress::new)), or a bar in the terminal (`Progress::bar`, with
/// the feature `indicatif`).
///
/// Calls that are going on at the same time add up. When it is used again after all of them have ended, it
/// begins anew.
///
/// Costs nothing per item: each worker counts the items of a block when the block is done, or every few microseconds
/// if that is later.
///
/// Python: `tqdm`, which counts what is pulled from an iterator; mpire's `progress_bar=True`.
///
/// ```
/// use parpool::{Pool, Progress};
///
/// let pool = Pool::new(2)?;
/// let progress = Progress::default();
/// let squares = pool.progress(&progress).map(|x| x * x, 0..1000)?;
/// assert_eq!(progress.get(), (1000, Some(1000)));
/// # assert_eq!(squares.len(), 1000);
/// # Ok::<(), parpool::Error>(())
/// ```
#[derive(Clone)]
pub struct Progress(Arc<Figures>);

struct Figures {
    display: Display,
    calls: Mutex<Calls>,
    /// How often the display was to be told since a thread began to tell it; 0 if none does.
    untold: AtomicUsize,
    made: Instant,
    /// When it may be told next, in nanoseconds from when it was `made`.
    next: AtomicU64,
}

/// The calls that were going on at the same time as the last one was.
#[derive(Default)]
struct Calls {
    open: Vec<Arc<Count>>,
    /// How many items those have finished that have ended.
    done: usize,
    /// No more than there are numbers, however many items a call says it has.
    total: usize,
    /// Of some call the length is not known.
    endless: bool,
    /// One of them has failed.
    failed: bool,
    /// There has been one.
    begun: bool,
    /// What the display has not heard.
    news: Vec<Change>,
}

enum Change {
    /// A call begins; `anew` if none was open.
    Begun { anew: bool, total: Option<usize> },
    /// The last call that was open has ended.
    Ended { done: usize, total: Option<usize>, failed: bool },
}

impl Calls {
    fn done(&self) -> usize {
        let open = self.open.iter().map(|count| count.get());
        open.fold(self.done, usize::saturating_add)
    }

    fn total(&self) -> Option<usize> {
        (self.begun && !self.endless).then_some(self.total)
    }
}

/// How many items of one call are finished. Once it has ended it does not change.
#[derive(Default)]
pub(crate) struct Count(AtomicU64);

/// The bit of a count that has ended.
const ENDED: u64 = 1 << 63;

impl Count {
    pub(crate) fn get(&self) -> usize {
        // ORDERING (of this type): a number to look at.
        let done = self.0.load(Ordering::Relaxed) & !ENDED;
        usize::try_from(done).unwrap_or(usize::MAX)
    }

    /// So many more are finished; false if it has ended.
    pub(crate) fn add(&self, items: usize) -> bool {
        let more = |done: u64| (done & ENDED == 0).then(|| done + items as u64);
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_ok()
    }

    /// It ends, with at least as many `items`; with as many as were counted if `None`.
    pub(crate) fn end(&self, items: Option<usize>) -> usize {
        let counted = self.0.fetch_or(ENDED, Ordering::Relaxed) & !ENDED;
        let items = items.map_or(0, |items| items as u64);
        self.0.fetch_max(items | ENDED, Ordering::Relaxed);
        usize::try_from(counted.max(items)).unwrap_or(usize::MAX)
    }
}

/// What is told.
enum Display {
    Nobody,
    Closure(Box<Tell>),
    #[cfg(feature = "indicatif")]
    Bar {
        bar: indicatif::ProgressBar,
        /// What it looks like is up to this crate.
        own: bool,
        /// Its style has panicked. indicatif draws under a lock, which is poisoned by that, so
        /// all that is done with the bar would panic from then on.
        broken: AtomicBool,
    },
}

type Tell = dyn Fn(usize, Option<usize>) + Send + Sync;

/// How often a display is told at the most: faster than that it cannot be read.
const REPORT_INTERVAL: Duration = Duration::from_millis(50);

impl Progress {
    /// Calls `f(done, total)` as the call goes on: when it begins, about 20 times a second while items are
    /// finished, and when it has ended. `total` is `None` if the length of the input is not known.
    ///
    /// It is called on the pool's workers and on the caller, one at a time, and should be short. A
    /// panic in it is caught and changes nothing about the call.
    ///
    /// ```
    /// use std::sync::Mutex;
    /// use parpool::{Pool, Progress};
    ///
    /// let pool = Pool::new(2)?;
    /// let progress = Progress::new(|done, total| match total {
    ///     Some(total) => println!("{done} of {total}"),
    ///     None => println!("{done}"),
    /// });
    /// pool.progress(&progress).map(|x| x * x, 0..1000)?;
    /// # Ok::<(), parpool::Error>(())
    /// ```
    pub fn new(f: impl Fn(usize, Option<usize>) + Send + Sync + 'static) -> Self {
        Progress::of(Display::Closure(Box::new(f)))
    }

    fn of(display: Display) -> Self {
        Progress(Arc::new(Figures {
            display,
            calls: Mutex::new(Calls::default()),
            untold: AtomicUsize::new(0),
            made: Instant::now(),
            next: AtomicU64::new(0),
        }))
    }

    /// How many items are finished, and of how many, if that is known.
    ///
    /// It may be behind by what a worker does in some microseconds.
    ///
    /// ```
    /// let progress = parpool::Progress::default();
    /// assert_eq!(progress.get(), (0, None));
    /// # let pool = parpool::Pool::new(2)?;
    /// assert_eq!(pool.progress(&progress).imap(|x| x, [1, 2]).count(), 2);
    /// assert_eq!(progress.get(), (2, Some(2)));
    /// # Ok::<(), parpool::Error>(())
    /// ```
    pub fn get(&self) -> (usize, Option<usize>) {
        let calls = lock(&self.0.calls);
        (calls.done(), calls.total())
    }

    /// A call of `total` items, if that is known, begins, whose finished items are those of `count`.
    pub(crate) fn begin(&self, count: &Arc<Count>, total: Option<usize>) {
        let mut calls = lock(&self.0.calls);
        let anew = calls.open.is_empty();
        if anew {
            *calls =
                Calls { begun: true, news: std::mem::take(&mut calls.news), ..Calls::default() };
        }
        calls.open.push(Arc::clone(count));
        match total {
            Some(total) => calls.total = calls.total.saturating_add(total),
            None => calls.endless = true,
        }
        let total = calls.total();
        self.report(calls, Change::Begun { anew, total });
        self.tell();
    }

    /// Items of a call have been counted.
    pub(crate) fn counted(&self, now: Instant) {
        if matches!(self.0.display, Display::Nobody) {
            return;
        }
        let nanos = |time: Duration| time.as_nanos() as u64;
        let at = nanos(now - self.0.made);
        // ORDERING: a number that nothing else hangs on.
        let next = self.0.next.load(Ordering::Relaxed);
        if at >= next || next > at + nanos(REPORT_INTERVAL) {
            self.0.next.store(at + nanos(REPORT_INTERVAL), Ordering::Relaxed);
            self.tell();
        }
    }

    /// A call that has begun has ended, with at least as many `items`, if it is known how many that are. How many
    /// are finished now is returned.
    pub(crate) fn end(&self, count: &Arc<Count>, items: Option<usize>, success: bool) -> usize {
        let mut calls = lock(&self.0.calls);
        calls.open.retain(|open| !Arc::ptr_eq(open, count));
        let finished = count.end(items);
        calls.done = calls.done.saturating_add(finished);
        calls.failed |= !success;
        if calls.open.is_empty() {
            if !calls.failed {
                // Now it is known.
                calls.endless = false;
                calls.total = calls.done;
            }
            let (done, total, failed) = (calls.done, calls.total(), calls.failed);
            self.report(calls, Change::Ended { done, total, failed });
        } else {
            drop(calls);
        }
        self.tell();
        finished
    }

    fn report(&self, mut calls: MutexGuard<'_, Calls>, news: Change) {
        if !matches!(self.0.display, Display::Nobody) {
            calls.news.push(news);
        }
    }

    /// Tells the display, or leaves it to the thread that is at it. No thread waits here, and no lock is held: the
    /// closure may use the pool, and be called in a call of its own.
    fn tell(&self) {
        let Figures { display, calls, untold, .. } = &*self.0;
        if matches!(display, Display::Nobody) {
            return;
        }
        // ORDERING: a thread makes its change before it adds to the number, and what is told is read after the number.
        let mut seen = untold.fetch_add(1, Ordering::SeqCst) + 1;
        if seen > 1 {
            return;
        }
        loop {
            let (news, done, total) = {
                let mut calls = lock(calls);
                (std::mem::take(&mut calls.news), calls.done(), calls.total())
            };
            let ended = matches!(news.last(), Some(Change::Ended { .. }));
            news.into_iter().for_each(|news| display.hear(news));
            if !ended {
                display.tell(done, total);
            }
            match untold.compare_exchange(seen, 0, Ordering::SeqCst, Ordering::SeqCst) {
                Ok(_) => return,
                Err(more) => seen = more,
            }
        }
    }
}

// Its own numbers are atomic, and the panics of its closure end in it.
impl UnwindSafe for Progress {}
impl RefUnwindSafe for Progress {}

/// Tells nobody, but can be asked.
impl Default for Progress {
    fn default() -> Self {
        Progress::of(Display::Nobody)
    }
}

/// What is done here runs the user's code, and its panics end here.
impl Display {
    fn hear(&self, news: Change) {
        match news {
            Change::Begun { anew, total } => self.begin(anew, total),
            Change::Ended { done, total, failed } => {
                self.tell(done, total);
                self.end(failed);
            }
        }
    }

    fn begin(&self, anew: bool, total: Option<usize>) {
        #[cfg(feature = "indicatif")]
        self.on_bar(|bar, own| {
            if anew && bar.is_finished() {
                bar.reset();
            }
            if own {
                bar.set_style(bar::style(total.is_some()));
                bar.enable_steady_tick(bar::TICK);
            }
            if let Some(total) = total {
                bar.set_length(total as u64);
            }
        });
        #[cfg(not(feature = "indicatif"))]
        let _ = (self, anew, total);
    }

    fn tell(&self, done: usize, total: Option<usize>) {
        if let Display::Closure(f) = self {
            run_hook(|| f(done, total));
        }
        #[cfg(feature = "indicatif")]
        self.on_bar(|bar, _| bar.set_position(done as u64));
    }

    fn end(&self, failed: bool) {
        #[cfg(feature = "indicatif")]
        self.on_bar(|bar, _| {
            if failed {
                bar.abandon();
            } else {
                // At its length, which is what was done.
                bar.set_length(bar.position());
                bar.finish();
            }
        });
        #[cfg(not(feature = "indicatif"))]
        let _ = (self, failed);
    }

    /// Lets `f` at the bar, and at whether it is of this crate's making, if it is one and its style has not panicked.
    #[cfg(feature = "indicatif")]
    fn on_bar(&self, f: impl FnOnce(&indicatif::ProgressBar, bool)) {
        let Display::Bar { bar, own, broken } = self else { return };
        // ORDERING: one panic more would be caught too.
        if !broken.load(Ordering::Relaxed) && run_hook(|| f(bar, *own)).is_none() {
            broken.store(true, Ordering::Relaxed);
        }
    }
}

impl fmt::Debug for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (done, total) = self.get();
        f.debug_struct("Progress")
            .field("done", &done)
            .field("total", &total)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_count_that_has_ended_does_not_change() {
        let count = Count::default();
        assert!(count.add(3) && count.add(4));
        assert_eq!(count.end(None), 7);
        assert!(!count.add(1));
        assert_eq!(count.get(), 7);
    }

    #[test]
    fn a_count_ends_with_what_was_counted_or_with_more_if_that_is_known() {
        for (at_least, end) in [(None, 7), (Some(5), 7), (Some(9), 9)] {
            let count = Count::default();
            assert!(count.add(7));
            assert_eq!((count.end(at_least), count.get()), (end, end));
        }
    }

    #[test]
    fn calls_of_one_progress_add_up_as_far_as_there_are_numbers() {
        let progress = Progress::default();
        let [one, two, three] = std::array::from_fn(|_| Arc::new(Count::default()));
        progress.begin(&one, Some(usize::MAX));
        progress.begin(&two, Some(2));
        assert_eq!(progress.get(), (0, Some(usize::MAX)));
        assert!(one.add(5) && two.add(1));
        assert_eq!(progress.end(&two, None, false), 1);
        assert!(!two.add(1));
        assert_eq!(progress.get(), (6, Some(usize::MAX)));
        assert_eq!(progress.end(&one, Some(6), true), 6);
        // One has failed, so not all were finished.
        assert_eq!(progress.get(), (7, Some(usize::MAX)));
        progress.begin(&three, None);
        assert_eq!(progress.get(), (0, None));
    }
}

/// A bar in the terminal.
#[cfg(feature = "indicatif")]
mod bar {
    use std::fmt;
    use std::time::Duration;

    use indicatif::{ProgressBar, ProgressState, ProgressStyle};

    use super::{AtomicBool, Display, Progress};

    fn of(bar: ProgressBar, own: bool) -> Progress {
        Progress::of(Display::Bar { bar, own, broken: AtomicBool::new(false) })
    }

    /// How often a bar of this crate's is drawn, also when nothing is finished.
    pub(super) const TICK: Duration = Duration::from_millis(200);

    pub(super) fn style(known: bool) -> ProgressStyle {
        let template = match known {
            true => "{percent:>3}% {wide_bar} {human_pos}/{human_len} [{elapsed}<{eta}, {rate}]",
            false => "{spinner} {human_pos} [{elapsed}, {rate}]",
        };
        let style = ProgressStyle::with_template(template).expect("the template is right");
        style.with_key("rate", |state: &ProgressState, out: &mut dyn fmt::Write| {
            let rate = state.per_sec();
            let digits = if rate < 10.0 { 2 } else { 0 };
            // Of no consequence: what cannot be written is not shown.
            let _ = write!(out, "{rate:.digits$}/s");
        })
    }

    impl Progress {
        /// A bar in the terminal, on standard error: how much is done, the time taken and the time that remains,
        /// the rate. A spinner where the length of the input is not known. Nothing if standard error is no terminal.
        ///
        /// It stays when the call has ended, also with an error: then it says how far it came.
        ///
        /// For another look, make the bar yourself: [`Progress::from`].
        ///
        /// Python: `tqdm(…)`.
        ///
        /// ```
        /// use parpool::{Pool, Progress};
        ///
        /// let pool = Pool::new(2)?;
        /// let squares = pool.progress(&Progress::bar()).map(|x| x * x, 0..1000)?;
        /// # assert_eq!(squares.len(), 1000);
        /// # Ok::<(), parpool::Error>(())
        /// ```
        #[cfg_attr(docsrs, doc(cfg(feature = "indicatif")))]
        pub fn bar() -> Self {
            of(ProgressBar::no_length(), true)
        }
    }

    /// A bar that looks as you like. Its length is set where that of the input is known.
    ///
    /// ```
    /// use indicatif::{ProgressBar, ProgressStyle};
    /// use parpool::{Pool, Progress};
    ///
    /// let pool = Pool::new(2)?;
    /// let bar = ProgressBar::hidden().with_style(ProgressStyle::default_spinner());
    /// pool.progress(&Progress::from(bar.clone())).map(|x| x * x, 0..1000)?;
    /// assert!(bar.is_finished());
    /// assert_eq!(bar.position(), 1000);
    /// # Ok::<(), parpool::Error>(())
    /// ```
    #[cfg_attr(docsrs, doc(cfg(feature = "indicatif")))]
    impl From<ProgressBar> for Progress {
        fn from(bar: ProgressBar) -> Self {
            of(bar, false)
        }
    }
}
