//! How far calls are, for people to look at.

use std::fmt;
use std::panic::{RefUnwindSafe, UnwindSafe};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use crate::panic::{catch, discard};
use crate::sync::{Instant, Mutex, lock};

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
pub struct Progress(Arc<Shared>);

struct Shared {
    display: Display,
    done: AtomicUsize,
    calls: Mutex<Calls>,
    /// Somebody is at the display, one at a time.
    telling: Mutex<()>,
    /// It shall be told again: the last was too late for what it says.
    again: AtomicBool,
    made: Instant,
    /// When it may be told next, in nanoseconds from when it was `made`.
    next: AtomicU64,
}

#[derive(Default)]
struct Calls {
    open: usize,
    total: usize,
    /// Of some call the length is not known.
    endless: bool,
    /// One of them has failed.
    failed: bool,
    /// There has been one.
    begun: bool,
}

/// Who is told.
enum Display {
    Nobody,
    Closure(Box<Tell>),
    #[cfg(feature = "indicatif")]
    Bar {
        bar: indicatif::ProgressBar,
        /// What it looks like is up to this crate.
        own: bool,
    },
}

type Tell = dyn Fn(usize, Option<usize>) + Send + Sync;

/// How often a display is told at the most: faster than that nobody reads.
const EVERY: Duration = Duration::from_millis(50);

impl Progress {
    /// Calls `f(done, total)` as the call goes on: when it begins, some 20 times a second while items are
    /// finished, and when it has ended. `total` is `None` if the length of the input is not known.
    ///
    /// It is called on the pool's workers and on the caller, one at a time, and should be short. A
    /// panic in it is caught and costs nobody anything.
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
        Progress(Arc::new(Shared {
            display,
            done: AtomicUsize::new(0),
            calls: Mutex::new(Calls::default()),
            telling: Mutex::new(()),
            again: AtomicBool::new(false),
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
        let total = (calls.begun && !calls.endless).then_some(calls.total);
        // ORDERING: a number to look at.
        (self.0.done.load(Ordering::Relaxed), total)
    }

    /// A call of `total` items, if that is known, begins.
    pub(crate) fn begin(&self, total: Option<usize>) {
        let mut calls = lock(&self.0.calls);
        let anew = calls.open == 0;
        if anew {
            *calls = Calls { begun: true, ..Calls::default() };
            self.0.done.store(0, Ordering::Relaxed);
        }
        calls.open += 1;
        match total {
            Some(total) => calls.total += total,
            None => calls.endless = true,
        }
        let total = (!calls.endless).then_some(calls.total);
        drop(calls);
        self.0.display.begin(anew, total);
        self.tell();
    }

    /// So many more items are finished.
    pub(crate) fn add(&self, items: usize, now: Instant) {
        // ORDERING (here and in `tell_if_due`): numbers to look at.
        self.0.done.fetch_add(items, Ordering::Relaxed);
        self.tell_if_due(now);
    }

    /// A call has ended, with as many more `items` as had not been counted.
    pub(crate) fn end(&self, items: usize, success: bool) {
        self.0.done.fetch_add(items, Ordering::Relaxed);
        let mut calls = lock(&self.0.calls);
        calls.open -= 1;
        calls.failed |= !success;
        let (last, failed) = (calls.open == 0, calls.failed);
        if last && !failed {
            // Now it is known.
            calls.endless = false;
            calls.total = self.0.done.load(Ordering::Relaxed);
        }
        drop(calls);
        self.tell();
        if last {
            self.0.display.end(failed);
        }
    }

    fn tell_if_due(&self, now: Instant) {
        if matches!(self.0.display, Display::Nobody) {
            return;
        }
        let nanos = |time: Duration| time.as_nanos() as u64;
        let at = nanos(now - self.0.made);
        let next = self.0.next.load(Ordering::Relaxed);
        if at >= next || next > at + nanos(EVERY) {
            self.0.next.store(at + nanos(EVERY), Ordering::Relaxed);
            self.tell();
        }
    }

    /// Tells the display, or has him do it who is at it. Nobody waits here: the closure may use the
    /// pool, and be called in a call of its own.
    fn tell(&self) {
        let shared = &*self.0;
        // ORDERING: what is told is read after it was taken back, and a number that is late is told
        // by whoever set it.
        shared.again.store(true, Ordering::SeqCst);
        while shared.again.load(Ordering::SeqCst) {
            let Ok(telling) = shared.telling.try_lock() else { return };
            while shared.again.swap(false, Ordering::SeqCst) {
                let (done, total) = self.get();
                if let Err(payload) = catch(|| shared.display.tell(done, total)) {
                    discard(payload);
                }
            }
            drop(telling);
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

impl Display {
    fn begin(&self, anew: bool, total: Option<usize>) {
        match self {
            #[cfg(feature = "indicatif")]
            Display::Bar { bar, own } => {
                if anew && bar.is_finished() {
                    bar.reset();
                }
                if *own {
                    bar.set_style(bar::style(total.is_some()));
                    bar.enable_steady_tick(bar::TICK);
                }
                if let Some(total) = total {
                    bar.set_length(total as u64);
                }
            }
            Display::Nobody | Display::Closure(_) => _ = (anew, total),
        }
    }

    fn tell(&self, done: usize, total: Option<usize>) {
        match self {
            Display::Nobody => _ = (done, total),
            Display::Closure(f) => f(done, total),
            #[cfg(feature = "indicatif")]
            Display::Bar { bar, .. } => bar.set_position(done as u64),
        }
    }

    fn end(&self, failed: bool) {
        match self {
            #[cfg(feature = "indicatif")]
            Display::Bar { bar, .. } => match failed {
                true => bar.abandon(),
                // At its length, which is what was done.
                false => {
                    bar.set_length(bar.position());
                    bar.finish();
                }
            },
            Display::Nobody | Display::Closure(_) => _ = failed,
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

/// A bar in the terminal.
#[cfg(feature = "indicatif")]
mod bar {
    use std::fmt;
    use std::time::Duration;

    use indicatif::{ProgressBar, ProgressState, ProgressStyle};

    use super::{Display, Progress};

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
            Progress::of(Display::Bar { bar: ProgressBar::no_length(), own: true })
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
            Progress::of(Display::Bar { bar, own: false })
        }
    }
}
