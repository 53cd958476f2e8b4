//! What the tests share: a watchdog, kinds of pools, gates that hold tasks, counters of drops, inputs and values that
//! misbehave, processes, and a census of threads.

// Each test binary uses its own part of this.
#![allow(dead_code)]

use std::any::Any;
use std::cell::RefCell;
use std::fmt;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::pin::Pin;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, Once, OnceLock};
use std::task::{Context as TaskContext, Poll, Wake, Waker};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded, unbounded};
use parpool::{AsyncResult, Builder, Context, Error, Pool, TaskHandle, is_cancelled};

/// Longer than anything takes that does not hang, also on a busy machine.
pub(crate) const LONG: Duration = Duration::from_secs(20 * PATIENCE);

/// How many times as long things may take: with `PARPOOL_TEST_PATIENCE` set when the tests are built, for
/// checkers that slow them down.
const PATIENCE: u64 = match option_env!("PARPOOL_TEST_PATIENCE") {
    Some(_) => 50,
    None => 1,
};

/// Things take so much longer that what they cost cannot be looked at.
pub(crate) const SLOW: bool = cfg!(miri) || PATIENCE > 1;

/// So long at the most, where things take longer longer.
pub(crate) fn at_most(time: Duration) -> Duration {
    time * PATIENCE as u32
}

// ---- Miri ----------------------------------------------------------------------------------------

/// How often to do a thing that is done `n` times: as often, or a thousandth of it under Miri, which takes
/// about a second for each map. A race that is tried too seldom there is tried elsewhere.
pub(crate) fn scaled<N>(n: N) -> N
where
    N: TryFrom<usize, Error: fmt::Debug> + TryInto<usize, Error: fmt::Debug>,
{
    let often: usize = n.try_into().expect("a count");
    let often = if cfg!(miri) { (often / 1000).max(often.min(4)) } else { often };
    often.try_into().expect("no more than before")
}

/// `n`, or so many under Miri, where an item of a stream takes milliseconds.
pub(crate) const fn fewer(n: usize, under_miri: usize) -> usize {
    if cfg!(miri) { under_miri } else { n }
}

/// The time in which a stream fills its window from an input that costs nothing: none, but under Miri, where time
/// is made of steps and any input is slow.
pub(crate) const NO_TIME: Duration = Duration::from_millis(if cfg!(miri) { 5000 } else { 0 });

/// The step through a table of cases: all of them, or under Miri one of so many. Prime, so that each column
/// is met in all its values.
pub(crate) const STEP: usize = if cfg!(miri) { 17 } else { 1 };

// ---- watchdog ------------------------------------------------------------------------------------

/// Runs `body` on another thread and fails if that takes longer than `seconds`. Its panic is passed on.
pub(crate) fn watchdog(seconds: u64, body: impl FnOnce() + Send + 'static) {
    quiet();
    let name = thread::current().name().unwrap_or("a test").to_owned();
    let (send, outcome) = bounded(1);
    let body = thread::Builder::new().name(name.clone()).spawn(move || {
        let _ = send.send(catch_unwind(AssertUnwindSafe(body)));
    });
    let body = body.expect("a thread can be started");
    match outcome.recv_timeout(Duration::from_secs(seconds * PATIENCE)) {
        Ok(Ok(())) => body.join().expect("its panics were caught"),
        Ok(Err(payload)) => resume_unwind(payload),
        // The thread is left as it is, so that a debugger finds it.
        Err(_) => panic!("{name}: still running after {seconds} s"),
    }
}

/// What tasks panic with that are meant to.
pub(crate) const ON_PURPOSE: &str = "on purpose";

/// Keeps panics that are meant out of the output.
pub(crate) fn quiet() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let hook = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            let meant = match info.payload().downcast_ref::<&str>() {
                Some(message) => message.contains(ON_PURPOSE),
                None => match info.payload().downcast_ref::<String>() {
                    Some(message) => message.contains(ON_PURPOSE),
                    None => true,
                },
            };
            if !meant {
                hook(info);
            }
        }));
    });
}

/// The message of a panic that was caught.
pub(crate) fn message(payload: &(dyn Any + Send)) -> String {
    let text = payload.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| payload.downcast_ref::<String>().cloned()).unwrap_or_default()
}

/// Looks again and again until `condition` is true; false if it never is.
pub(crate) fn eventually(mut condition: impl FnMut() -> bool) -> bool {
    let start = Instant::now();
    while !condition() {
        if start.elapsed() > LONG / 2 {
            return false;
        }
        thread::sleep(Duration::from_millis(1));
    }
    true
}

// ---- pools ---------------------------------------------------------------------------------------

/// A kind of pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Of so many workers that live for ever.
    Lasting(usize),
    /// Of so many workers, each replaced after so many tasks.
    Replaced(usize, usize),
    /// Runs everything on its caller.
    Serial,
}

/// Pools of one and of many workers that live for ever.
#[cfg(not(miri))]
pub(crate) const LASTING: [Kind; 2] = [Kind::Lasting(1), Kind::Lasting(3)];

/// Those with threads of their own.
#[cfg(not(miri))]
pub(crate) const THREADS: [Kind; 4] =
    [Kind::Lasting(1), Kind::Lasting(3), Kind::Replaced(1, 1), Kind::Replaced(3, 2)];

/// All kinds.
#[cfg(not(miri))]
pub(crate) const ALL: [Kind; 5] =
    [Kind::Lasting(1), Kind::Lasting(3), Kind::Replaced(1, 1), Kind::Replaced(3, 2), Kind::Serial];

// For Miri, which takes seconds for what takes milliseconds: one of each. A new worker takes it as long as ten items.
#[cfg(miri)]
pub(crate) const LASTING: [Kind; 1] = [Kind::Lasting(2)];
#[cfg(miri)]
pub(crate) const THREADS: [Kind; 2] = [Kind::Lasting(2), Kind::Replaced(2, 3)];
#[cfg(miri)]
pub(crate) const ALL: [Kind; 3] = [Kind::Lasting(2), Kind::Replaced(2, 3), Kind::Serial];

impl Kind {
    pub(crate) fn builder(self) -> Builder {
        self.named("parpool")
    }

    /// With names of threads that begin with `name`.
    pub(crate) fn named(self, name: &str) -> Builder {
        let threads = Context::threads().name(name);
        let builder = Pool::builder().processes(self.workers());
        match self {
            Kind::Lasting(_) => builder.context(threads),
            Kind::Replaced(_, tasks) => builder.max_tasks_per_child(tasks).context(threads),
            Kind::Serial => builder.context(Context::serial()),
        }
    }

    pub(crate) fn pool(self) -> Pool {
        self.builder().build().expect("a pool can be built")
    }

    pub(crate) fn workers(self) -> usize {
        match self {
            Kind::Lasting(workers) | Kind::Replaced(workers, _) => workers,
            Kind::Serial => 1,
        }
    }
}

/// Pools of one and of many workers.
pub(crate) fn pools() -> impl Iterator<Item = Pool> {
    LASTING.into_iter().map(Kind::pool)
}

/// Pools of all kinds.
pub(crate) fn all_pools() -> impl Iterator<Item = (Kind, Pool)> {
    ALL.into_iter().map(|kind| (kind, kind.pool()))
}

/// One of each kind, two with threads that stay.
pub(crate) const MIXED: [Kind; 4] =
    [Kind::Lasting(1), Kind::Lasting(3), Kind::Replaced(2, 3), Kind::Serial];

/// Those of [`shared_pools`].
#[cfg(not(miri))]
const SHARED: [Kind; 6] = [
    Kind::Lasting(1),
    Kind::Lasting(2),
    Kind::Lasting(4),
    Kind::Serial,
    Kind::Replaced(1, 7),
    Kind::Replaced(2, 20),
];
#[cfg(miri)]
const SHARED: [Kind; 3] = [Kind::Lasting(2), Kind::Serial, Kind::Replaced(2, 20)];

/// Pools that all cases of random tests share: they must survive whatever a case does.
pub(crate) fn shared_pools() -> impl Iterator<Item = (Kind, &'static Pool)> {
    static POOLS: OnceLock<Vec<Pool>> = OnceLock::new();
    let pools = POOLS.get_or_init(|| {
        quiet();
        SHARED.map(Kind::pool).into()
    });
    SHARED.into_iter().zip(pools)
}

/// What a thread per chunk costs is too much for large inputs in small chunks.
pub(crate) fn is_cheap(kind: Kind, len: usize, size: Option<usize>) -> bool {
    !matches!(kind, Kind::Replaced(..)) || len / size.unwrap_or(100) < 60
}

/// Calls a verb with a chunk size, or with none set.
#[macro_export]
macro_rules! with_chunksize {
    ($pool:expr, $size:expr, $verb:ident($($arg:expr),*)) => {
        match $size {
            Some(size) => $pool.chunksize(size).$verb($($arg),*),
            None => $pool.$verb($($arg),*),
        }
    };
}

// ---- gates ---------------------------------------------------------------------------------------

/// Where tasks are held until the [`Opener`] opens it or is dropped.
#[derive(Clone)]
pub(crate) struct Gate {
    arrived: Sender<()>,
    opened: Receiver<()>,
}

/// The other side of a [`Gate`].
///
/// Made after the pool, it is dropped before: a failing test does not wait for what it holds.
pub(crate) struct Opener {
    arrived: Receiver<()>,
    closed: Option<Sender<()>>,
}

pub(crate) fn gate() -> (Gate, Opener) {
    let ((arrive, arrived), (closed, opened)) = (unbounded(), bounded(0));
    (Gate { arrived: arrive, opened }, Opener { arrived, closed: Some(closed) })
}

impl Gate {
    /// Says that it is here and waits until the gate is open.
    pub(crate) fn pass(&self) {
        let _ = self.arrived.send(());
        let _ = self.opened.recv();
    }
}

impl Opener {
    /// Waits until `count` more tasks have come to the gate.
    pub(crate) fn wait_for(&self, count: usize) {
        for _ in 0..count {
            self.arrived.recv_timeout(LONG).expect("a task comes to the gate");
        }
    }

    /// How many have come and were not waited for.
    pub(crate) fn waiting(&self) -> usize {
        self.arrived.len()
    }

    pub(crate) fn open(&mut self) {
        self.closed = None;
    }
}

/// Holds all workers of `pool`, which are `workers`.
pub(crate) fn hold(pool: &Pool, workers: usize) -> (Opener, Vec<AsyncResult<()>>) {
    let (gate, opener) = gate();
    let held = (0..workers)
        .map(|_| {
            let gate = gate.clone();
            pool.apply_async(move || gate.pass(), ())
        })
        .collect();
    opener.wait_for(workers);
    (opener, held)
}

// ---- counters ------------------------------------------------------------------------------------

/// Counts calls.
#[derive(Clone, Default)]
pub(crate) struct Counter(Arc<AtomicUsize>);

impl Counter {
    pub(crate) fn add(&self) {
        self.next();
    }

    /// How many there were before this one.
    pub(crate) fn next(&self) -> usize {
        self.0.fetch_add(1, Ordering::SeqCst)
    }

    pub(crate) fn get(&self) -> usize {
        self.0.load(Ordering::SeqCst)
    }
}

/// How many are inside something, and how many were at most.
#[derive(Clone, Default)]
pub(crate) struct Crowd(Arc<(AtomicUsize, AtomicUsize)>);

impl Crowd {
    pub(crate) fn enter(&self) {
        let now = self.0.0.fetch_add(1, Ordering::SeqCst) + 1;
        self.0.1.fetch_max(now, Ordering::SeqCst);
    }

    pub(crate) fn leave(&self) {
        self.0.0.fetch_sub(1, Ordering::SeqCst);
    }

    pub(crate) fn now(&self) -> usize {
        self.0.0.load(Ordering::SeqCst)
    }

    pub(crate) fn most(&self) -> usize {
        self.0.1.load(Ordering::SeqCst)
    }
}

/// Knows each value that it made and how often that was dropped.
#[derive(Clone, Default)]
pub(crate) struct Drops(Arc<Mutex<Vec<usize>>>);

/// A value whose drops are counted.
pub(crate) struct Counted {
    value: usize,
    id: usize,
    drops: Drops,
}

impl Drops {
    pub(crate) fn make(&self, value: usize) -> Counted {
        let mut drops = self.0.lock().unwrap();
        drops.push(0);
        Counted { value, id: drops.len() - 1, drops: self.clone() }
    }

    pub(crate) fn made(&self) -> usize {
        self.0.lock().unwrap().len()
    }

    /// How many live.
    pub(crate) fn alive(&self) -> usize {
        self.0.lock().unwrap().iter().filter(|drops| **drops == 0).count()
    }

    /// Each value was dropped, once.
    #[track_caller]
    pub(crate) fn assert_each_once(&self) {
        // Not under the lock: a failure must not fail the values that are still to be dropped.
        let drops = self.0.lock().unwrap().clone();
        let wrong: Vec<_> = drops.iter().enumerate().filter(|(_, drops)| **drops != 1).collect();
        assert!(wrong.is_empty(), "of {} values, (which, drops): {wrong:?}", drops.len());
    }
}

impl Counted {
    /// A method, so that a closure that calls it captures all of the value.
    pub(crate) fn value(&self) -> usize {
        self.value
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.drops.0.lock().unwrap()[self.id] += 1;
    }
}

impl fmt::Debug for Counted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Counted({})", self.value)
    }
}

// ---- functions, inputs and values ----------------------------------------------------------------

pub(crate) fn square(x: u64) -> u64 {
    x * x
}

/// Waits, as a task, until nobody wants its outcome.
pub(crate) fn until_cancelled() {
    while !is_cancelled() {
        thread::yield_now();
    }
}

/// Says that it has so many items, whatever it has.
#[derive(Clone, Debug)]
pub(crate) struct Liar<I>(pub(crate) I, pub(crate) (usize, Option<usize>));

impl<I: Iterator> Iterator for Liar<I> {
    type Item = I::Item;

    fn next(&mut self) -> Option<I::Item> {
        self.0.next()
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.1
    }
}

impl<I: Iterator> ExactSizeIterator for Liar<I> {}

/// Panics when it is dropped.
#[derive(Debug)]
pub(crate) struct Bomb;

impl Drop for Bomb {
    fn drop(&mut self) {
        panic!("{ON_PURPOSE}: dropped");
    }
}

/// Panics when it is cloned, as rayon's `map_with` does where it cuts its input.
pub(crate) struct Uncut;

impl Clone for Uncut {
    fn clone(&self) -> Self {
        panic!("{ON_PURPOSE}");
    }
}

// ---- polling -------------------------------------------------------------------------------------

/// One poll of a handle.
pub(crate) fn poll<T>(handle: &mut TaskHandle<'_, T>, waker: &Waker) -> Poll<Result<T, Error>> {
    Pin::new(handle).poll(&mut TaskContext::from_waker(waker))
}

/// A waker that counts.
pub(crate) fn counting_waker() -> (Waker, Counter) {
    struct Count(Counter);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.add();
        }
    }

    let counter = Counter::default();
    (Waker::from(Arc::new(Count(counter.clone()))), counter)
}

// ---- terminals -----------------------------------------------------------------------------------

/// A terminal that nobody sees.
#[cfg(feature = "indicatif")]
#[derive(Debug)]
pub(crate) struct Nowhere;

#[cfg(feature = "indicatif")]
impl indicatif::TermLike for Nowhere {
    fn width(&self) -> u16 {
        80
    }

    fn move_cursor_up(&self, _: usize) -> std::io::Result<()> {
        Ok(())
    }

    fn move_cursor_down(&self, _: usize) -> std::io::Result<()> {
        Ok(())
    }

    fn move_cursor_right(&self, _: usize) -> std::io::Result<()> {
        Ok(())
    }

    fn move_cursor_left(&self, _: usize) -> std::io::Result<()> {
        Ok(())
    }

    fn write_line(&self, _: &str) -> std::io::Result<()> {
        Ok(())
    }

    fn write_str(&self, _: &str) -> std::io::Result<()> {
        Ok(())
    }

    fn clear_line(&self) -> std::io::Result<()> {
        Ok(())
    }

    fn flush(&self) -> std::io::Result<()> {
        Ok(())
    }
}

// ---- threads -------------------------------------------------------------------------------------

/// Runs it when it is dropped.
struct AtTheEnd(Option<Box<dyn FnOnce()>>);

impl Drop for AtTheEnd {
    fn drop(&mut self) {
        if let Some(last) = self.0.take() {
            last();
        }
    }
}

/// Has `last` run in the destructor of a thread-local of the calling thread, where the thread-locals of a pool may be
/// gone already.
pub(crate) fn at_the_end(last: impl FnOnce() + 'static) {
    thread_local! {
        static LAST: RefCell<Option<AtTheEnd>> = const { RefCell::new(None) };
    }

    LAST.set(Some(AtTheEnd(Some(Box::new(last)))));
}

/// What the thread has spent on a processor so far; `None` where the system does not tell.
pub(crate) fn processor_time() -> Option<Duration> {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").ok()?;
    Some(Duration::from_nanos(text.split(' ').next()?.parse().ok()?))
}

/// The names of the threads of this process; `None` where the system does not tell.
pub(crate) fn thread_names() -> Option<Vec<String>> {
    if cfg!(miri) {
        return None;
    }
    let tasks = std::fs::read_dir("/proc/self/task").ok()?;
    let names = tasks.flatten().filter_map(|task| {
        // It may have ended since.
        std::fs::read_to_string(task.path().join("comm")).ok()
    });
    Some(names.collect())
}

/// How many threads of this process have a name that begins with `name-`; `None` where the system
/// does not tell.
pub(crate) fn live_threads(name: &str) -> Option<usize> {
    let prefix = format!("{name}-");
    assert!(prefix.len() < 12, "the system shows 15 bytes, and the numbers need some");
    Some(thread_names()?.iter().filter(|name| name.starts_with(&prefix)).count())
}

/// No thread with this name is left. One that was joined is still listed for some microseconds.
#[track_caller]
pub(crate) fn assert_no_threads(name: &str) {
    let gone = eventually(|| live_threads(name).unwrap_or(0) == 0);
    assert!(gone, "{:?} threads {name}-* are left", live_threads(name));
}

// ---- processes -----------------------------------------------------------------------------------

/// Names the test, in a process that was started for it.
const CHILD: &str = "PARPOOL_TEST_CHILD";

/// Whether this is the process that was started for the test `name`.
pub(crate) fn is_child(name: &str) -> bool {
    std::env::var(CHILD).is_ok_and(|child| child == name)
}

/// This program again, run by `launcher` if that is not empty, to run the test `name` alone.
pub(crate) fn child(launcher: &[&str], name: &str) -> Command {
    let program = std::env::current_exe().expect("this program has a path");
    let mut command = match launcher {
        [] => Command::new(program),
        [launcher, arguments @ ..] => {
            let mut command = Command::new(launcher);
            command.args(arguments).arg(program);
            command
        }
    };
    command.args(["--exact", name, "--test-threads=1"]).env(CHILD, name);
    command
}

// ---- errors --------------------------------------------------------------------------------------

/// The index and the message of a panic.
#[track_caller]
pub(crate) fn panicked<T: fmt::Debug>(result: Result<T, Error>) -> (Option<usize>, String) {
    match result {
        Err(Error::Panicked(panic)) => (panic.index(), panic.message().to_owned()),
        other => panic!("not a panic: {other:?}"),
    }
}

/// Fails unless `$result` matches.
#[macro_export]
macro_rules! assert_matches {
    ($result:expr, $pattern:pat $(if $guard:expr)? $(, $($context:tt)+)?) => {
        match $result {
            $pattern $(if $guard)? => {}
            ref other => {
                let context = String::new() $(+ ", " + &format!($($context)+))?;
                panic!("{other:?} is no {}{context}", stringify!($pattern))
            }
        }
    };
}
