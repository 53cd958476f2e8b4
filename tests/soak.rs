//! All verbs at once, at random, nested, on pools of all kinds, from several threads; with panics,
//! timeouts, cancels, drops, and ends at any moment; with rayon code in tasks and around them
//! (`soak/pieces.rs`). Each result is compared with what a loop would have made, and each value must be
//! dropped once.
//!
//! A round is a program made from one number, its seed. `PARPOOL_SOAK_SECONDS` is how long to go on
//! (2), `PARPOOL_SOAK_SEED` the seed of the first round; a round that fails prints its own. With
//! `PARPOOL_SOAK_HOLD` set a round that hangs is left as it is, for a debugger.
//!
//! ```text
//! PARPOOL_SOAK_SECONDS=600 cargo test --release --test soak
//! ```

mod common;
#[path = "soak/pieces.rs"]
mod pieces;

use std::collections::VecDeque;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context as Poller, Poll, Waker};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use crossbeam_channel::{RecvTimeoutError, unbounded};
use parpool::{AsyncResult, Error, Imap, Options, Pool, TryError, WorkerLocal};

use common::ON_PURPOSE;
use common::{Kind, LONG, eventually, quiet, scaled};

#[test]
fn soak() {
    quiet();
    // Those of the pool's own code are caught at the bottom of its threads, where no call sees them.
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        if info.location().is_some_and(|place| place.file().starts_with("src/")) {
            PANICS.fetch_add(1, Ordering::SeqCst);
        }
        hook(info);
    }));
    let seconds = from_environment("PARPOOL_SOAK_SECONDS").unwrap_or(2);
    let first = from_environment("PARPOOL_SOAK_SEED").unwrap_or_else(|| {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        now.map_or(0, |now| now.as_nanos() as u64)
    });
    println!("PARPOOL_SOAK_SEED={first}");
    let (send, rounds) = unbounded();
    let runner = thread::spawn(move || {
        let start = Instant::now();
        let mut seeds = Random(first);
        let mut seed = first;
        while start.elapsed() < Duration::from_secs(seconds) {
            if send.send((seed, None)).is_err() {
                return;
            }
            let faults = round(seed);
            let _ = send.send((seed, Some(faults)));
            seed = seeds.next();
        }
    });
    let (mut done, mut current) = (0, first);
    loop {
        match rounds.recv_timeout(2 * LONG) {
            Ok((seed, None)) => current = seed,
            Ok((seed, Some(faults))) => {
                assert!(faults.is_empty(), "PARPOOL_SOAK_SEED={seed}: {faults:#?}");
                done += 1;
            }
            Err(RecvTimeoutError::Disconnected) => break,
            Err(RecvTimeoutError::Timeout) => {
                println!("PARPOOL_SOAK_SEED={current} hangs, process {}", std::process::id());
                while std::env::var_os("PARPOOL_SOAK_HOLD").is_some() {
                    thread::park();
                }
                panic!("PARPOOL_SOAK_SEED={current} hangs");
            }
        }
    }
    runner.join().expect("the panics of a round are its faults");
    println!("{done} rounds");
    assert!(done > 0);
}

/// Panics in the pool's own code.
static PANICS: AtomicUsize = AtomicUsize::new(0);

fn from_environment(name: &str) -> Option<u64> {
    let value = std::env::var(name).ok()?;
    Some(value.parse().unwrap_or_else(|_| panic!("{name} is no number: {value}")))
}

// ---- chance --------------------------------------------------------------------------------------

/// SplitMix64: as good as it needs to be, and the same everywhere.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }

    /// One time in `n`.
    fn once_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    fn pick<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len())]
    }
}

// ---- values --------------------------------------------------------------------------------------

#[derive(Default)]
struct Tally {
    made: AtomicUsize,
    dropped: AtomicUsize,
    twice: AtomicUsize,
}

impl Tally {
    fn make(self: &Arc<Self>, value: u64) -> Token {
        self.made.fetch_add(1, Ordering::Relaxed);
        Token { value, alive: AtomicU64::new(ALIVE), tally: Arc::clone(self) }
    }

    fn is_even(&self) -> bool {
        self.made.load(Ordering::SeqCst) == self.dropped.load(Ordering::SeqCst)
    }
}

const ALIVE: u64 = 0x5eed_a11e_5eed_a11e;

/// A value that knows whether it was dropped, and is counted.
struct Token {
    value: u64,
    alive: AtomicU64,
    tally: Arc<Tally>,
}

impl Drop for Token {
    fn drop(&mut self) {
        if self.alive.swap(0, Ordering::Relaxed) != ALIVE {
            self.tally.twice.fetch_add(1, Ordering::Relaxed);
        }
        self.tally.dropped.fetch_add(1, Ordering::SeqCst);
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.value)
    }
}

// ---- a round -------------------------------------------------------------------------------------

/// What all threads and tasks of a round share.
#[derive(Clone)]
struct World(Arc<Shared>);

struct Shared {
    tally: Arc<Tally>,
    faults: Mutex<Vec<String>>,
    /// Somebody may end a pool at any moment.
    unsteady: bool,
    /// How many nested operations may still be begun.
    fuel: AtomicUsize,
    local: WorkerLocal<Token, Box<dyn Fn() -> Token + Send + Sync>>,
    /// Held by tasks around rayon code.
    locks: [Mutex<u64>; 2],
    /// Threads may keep their pool, and so the round has to end it.
    keeps: bool,
}

/// A pool, and those that its tasks may use besides it.
#[derive(Clone)]
struct Place {
    pool: Arc<Pool>,
    below: Option<Arc<Pool>>,
    /// Its tasks take no locks and wait for nothing that they have not made; see `pieces`.
    plain: bool,
}

fn round(seed: u64) -> Vec<String> {
    let mut random = Random(seed ^ 0x50a4);
    let tally = Arc::<Tally>::default();
    let makes = Arc::clone(&tally);
    let unsteady = random.once_in(2);
    let below = random.once_in(3).then(|| Arc::new(pool(&mut random)));
    // In a steady round the pool below is ended when that above is over, and not before.
    let keeps = random.once_in(2) && (unsteady || below.is_none());
    let world = World(Arc::new(Shared {
        tally: Arc::clone(&tally),
        faults: Mutex::default(),
        unsteady,
        fuel: AtomicUsize::new(scaled(200)),
        local: WorkerLocal::new(Box::new(move || makes.make(0))),
        locks: Default::default(),
        keeps,
    }));
    let place = Place { pool: Arc::new(pool(&mut random)), below, plain: false };
    let drivers: Vec<_> = (0..1 + random.below(3))
        .map(|_| {
            let (world, place, mut random) = (world.clone(), place.clone(), Random(random.next()));
            thread::spawn(move || {
                for _ in 0..1 + random.below(8) {
                    operation(&world, &place, &mut random, 0);
                    if world.0.unsteady && random.once_in(6) {
                        let pool = place.below.as_ref().filter(|_| random.once_in(3));
                        let pool = pool.unwrap_or(&place.pool);
                        if random.once_in(2) { pool.close() } else { pool.terminate() }
                    }
                }
            })
        })
        .collect();
    let joins = random.once_in(2);
    if !joins {
        // The last of those who have it drops it, which may be a task.
        drop(place.clone());
    }
    for driver in drivers {
        if let Err(payload) = driver.join() {
            world.fault(format!("a thread of the round panicked: {}", common::message(&*payload)));
        }
    }
    let Place { pool, below, .. } = place;
    if joins {
        // From above to below: the tasks of the one use the other.
        for pool in [Some(&pool), below.as_ref()].into_iter().flatten() {
            // What was dropped or timed out may still be running.
            let skips = world.0.unsteady && random.once_in(2);
            if skips {
                pool.terminate()
            } else {
                pool.close()
            }
            if let Err(error) = pool.join() {
                world.fault(format!("join: {error:?}"));
            }
        }
    } else if keeps {
        pool.close();
        below.iter().for_each(|below| below.close());
    }
    drop((pool, below));
    // Whatever outlives the calls is owned by a task that still runs.
    let alone = eventually(|| Arc::strong_count(&world.0) == 1);
    let Some(shared) = Arc::into_inner(world.0).filter(|_| alone) else {
        return vec!["a task that nobody runs has never been dropped".to_owned()];
    };
    let mut faults = shared.faults.into_inner().unwrap();
    drop(shared.local);
    if !eventually(|| tally.is_even()) {
        faults.push(format!("made {:?}, dropped {:?}", tally.made, tally.dropped));
    }
    let panics = PANICS.swap(0, Ordering::SeqCst);
    if panics > 0 {
        faults.push(format!("{panics} panics in the pool's own code"));
    }
    if tally.twice.load(Ordering::SeqCst) > 0 {
        faults.push(format!("{:?} values were dropped twice", tally.twice));
    }
    faults
}

fn pool(random: &mut Random) -> Pool {
    let (workers, tasks) = (1 + random.below(4), 1 + random.below(12));
    let kind = match random.below(6) {
        0 => Kind::Serial,
        1 | 2 => Kind::Replaced(workers, tasks),
        _ => Kind::Lasting(workers),
    };
    kind.pool()
}

impl World {
    fn fault(&self, what: impl Into<String>) {
        self.0.faults.lock().unwrap().push(what.into());
    }

    fn make(&self, value: u64) -> Token {
        self.0.tally.make(value)
    }

    /// Whether `error` is what a call may get because its pool has ended, or its time.
    fn is_the_end(&self, error: &Error, timed: bool) -> bool {
        match error {
            Error::NotRunning | Error::Terminated => self.0.unsteady,
            Error::DeadlineExceeded => timed,
            _ => false,
        }
    }
}

// ---- items ---------------------------------------------------------------------------------------

/// What the closures of one call do with their items.
#[derive(Clone)]
struct Work {
    world: World,
    place: Place,
    seed: u64,
    /// One item in so many panics.
    panics: usize,
    /// One item in so many uses the pool itself.
    nests: usize,
    /// One item in so many runs rayon code.
    rayon: usize,
    depth: usize,
}

impl Work {
    fn new(world: &World, place: &Place, random: &mut Random, depth: usize) -> Self {
        Work {
            world: world.clone(),
            place: place.clone(),
            seed: random.next(),
            panics: random.pick(&[usize::MAX, usize::MAX, 200, 20, 3]),
            nests: random.pick(&[usize::MAX, 100, 10]),
            rayon: random.pick(&[usize::MAX, 50, 5]),
            depth,
        }
    }

    fn chance(&self, i: u64) -> Random {
        Random(self.seed ^ i.wrapping_mul(0xa076_1d64_78bd_642f))
    }

    fn fails(&self, i: u64) -> bool {
        self.chance(i).once_in(self.panics)
    }

    /// The first of `n` items that fails.
    fn first_failing(&self, n: u64) -> Option<u64> {
        (0..n).find(|i| self.fails(*i))
    }

    fn value(&self, i: u64) -> u64 {
        i.wrapping_mul(31) ^ self.seed
    }

    fn run(&self, i: u64) -> Token {
        let mut random = self.chance(i);
        if random.once_in(self.panics) {
            pieces::fail(&mut random);
        }
        match random.below(40) {
            0 => thread::yield_now(),
            1 => thread::sleep(Duration::from_micros(random.next() % 300)),
            2 => self.world.0.local.with(|token| token.value += 1),
            3 => _ = parpool::is_cancelled(),
            _ => {}
        }
        if random.once_in(self.rayon) {
            pieces::in_task(self, &mut random);
        }
        if random.once_in(self.nests) && self.has_fuel() {
            let mut place = self.place.clone();
            if let Some(below) = place.below.take_if(|_| random.once_in(2)) {
                place.pool = below;
            }
            operation(&self.world, &place, &mut random, self.depth + 1);
        }
        self.world.make(self.value(i))
    }

    /// Whether there may be another operation in this one; then it has to be begun.
    fn has_fuel(&self) -> bool {
        let fuel = &self.world.0.fuel;
        // ORDERING: bounds the size of a round, no more.
        let less = |n: usize| n.checked_sub(1);
        let burn = || fuel.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
        self.depth < 3 && burn().is_ok()
    }

    /// Compares the outcome of a map of `n` items with that of a loop.
    fn check_map(&self, what: &str, n: u64, timed: bool, outcome: Result<Vec<Token>, Error>) {
        let failing = self.first_failing(n);
        match (&outcome, failing) {
            (Ok(values), None) if self.are_all(values, n) => {}
            (Err(Error::Panicked(panic)), Some(i))
                if panic.index() == Some(i as usize) && panic.message() == ON_PURPOSE => {}
            (Err(error), _) if self.world.is_the_end(error, timed) => {}
            _ => self.world.fault(format!("{what} of {n}, {failing:?} fails: {outcome:?}")),
        }
    }

    fn are_all(&self, values: &[Token], n: u64) -> bool {
        values.iter().map(|token| token.value).eq((0..n).map(|i| self.value(i)))
    }

    /// Compares the outcome of one call.
    fn check_one(&self, what: &str, i: u64, timed: bool, outcome: Result<Token, Error>) {
        match &outcome {
            Ok(token) if !self.fails(i) && token.value == self.value(i) => {}
            Err(Error::Panicked(panic)) if self.fails(i) && panic.message() == ON_PURPOSE => {}
            Err(error) if self.world.is_the_end(error, timed) => {}
            _ => self.world.fault(format!("{what}, fails {}: {outcome:?}", self.fails(i))),
        }
    }
}

// ---- operations ----------------------------------------------------------------------------------

/// Options of a call; whether it has a time.
fn options<'p>(pool: &'p Pool, random: &mut Random) -> (Options<'p>, bool) {
    let mut options = pool.timeout(100 * LONG);
    if random.once_in(3) {
        options = options.chunksize(1 + random.below(40));
    }
    if random.once_in(3) {
        options = options.buffersize(1 + random.below(50));
    }
    let timed = random.once_in(8);
    if timed {
        options = options.timeout(Duration::from_micros(random.next() % 1500));
    }
    (options, timed)
}

fn operation(world: &World, place: &Place, random: &mut Random, depth: usize) {
    let work = Work::new(world, place, random, depth);
    let (options, timed) = options(&place.pool, random);
    let n = random.pick(&[0, 1, 2, 7, 30, 100, 400]) >> depth;
    let n = random.next() % (n + 1);
    match random.below(12) {
        0 => blocking_map(&work, &options, timed, n, random),
        1 => try_map(&work, &options, timed, n),
        2 => {
            let f = |i: u64, token: Token| (drop(token), work.run(i)).1;
            let pairs: Vec<_> = (0..n).map(|i| (i, world.make(i))).collect();
            work.check_map("starmap", n, timed, options.starmap(f, pairs));
        }
        3 => work.check_one("apply", 5, timed, options.apply(|| work.run(5), ())),
        4 | 5 => handles(&work, &options, timed, random),
        6 => {
            let (f, items) = (work.clone(), (0..n).map(|i| world.make(i)).collect::<Vec<_>>());
            let handle = options.map_async(move |token: Token| f.run(token.value), items);
            if random.once_in(3) {
                handle.wait_timeout(Duration::from_micros(random.next() % 500));
                return;
            }
            work.check_map("map_async", n, timed, handle.get());
        }
        7 => {
            let f = work.clone();
            let items = (0..n).map(|i| world.make(i));
            let ordered = random.once_in(2);
            let stream = if ordered {
                options.imap(move |token: Token| f.run(token.value), items)
            } else {
                options.imap_unordered(move |token: Token| f.run(token.value), items)
            };
            consume(&work, stream, ordered, timed, n, random);
        }
        8 => scope(&work, &options, timed, n, random),
        9 | 10 if !place.plain => pieces::chain(&work, &options, timed, random),
        _ => {
            let mut inner = Random(random.next());
            let value = || (pieces::installed(&work, &mut inner), work.value(1)).1;
            match place.pool.install(value) {
                Ok(value) if value == work.value(1) => {}
                Err(error) if world.is_the_end(&error, false) => {}
                other => world.fault(format!("install: {other:?}")),
            }
        }
    }
}

fn blocking_map(work: &Work, options: &Options<'_>, timed: bool, n: u64, random: &mut Random) {
    let world = &work.world;
    let f = |token: Token| work.run(token.value);
    let tokens = (0..n).map(|i| world.make(i));
    match random.below(4) {
        0 => work.check_map("map of a range", n, timed, options.map(|i| work.run(i), 0..n)),
        1 => work.check_map("map", n, timed, options.map(f, tokens.collect::<Vec<_>>())),
        2 => {
            let unknown = tokens.filter(|token| token.value < n);
            work.check_map("map of a filter", n, timed, options.map(f, unknown));
        }
        _ => {
            let mut out = vec![world.make(0), world.make(1)];
            let outcome = options.map_into(f, tokens.collect::<VecDeque<_>>(), &mut out);
            if outcome.is_err() && !out.is_empty() {
                world.fault(format!("map_into left {out:?}"));
            }
            work.check_map("map_into", n, timed, outcome.map(|()| out));
        }
    }
}

/// Items that do not panic fail with a value, or not at all.
fn try_map(work: &Work, options: &Options<'_>, timed: bool, n: u64) {
    let world = &work.world;
    let errs = |i: u64| Random(work.seed ^ i).once_in(50);
    let f = |i: u64| {
        let token = work.run(i);
        if errs(i) { Err(token) } else { Ok(token) }
    };
    let failing = (0..n).find(|i| errs(*i) || work.fails(*i));
    match (options.try_map(f, 0..n), failing) {
        (Ok(values), None) if work.are_all(&values, n) => {}
        (Err(TryError::Item { index, error }), Some(i))
            if index as u64 == i && error.value == work.value(i) && !work.fails(i) => {}
        (Err(TryError::Pool(Error::Panicked(panic))), Some(i))
            if panic.index() == Some(i as usize) && work.fails(i) => {}
        (Err(TryError::Pool(error)), _) if world.is_the_end(&error, timed) => {}
        (other, _) => world.fault(format!("try_map of {n}, {failing:?} fails: {other:?}")),
    }
}

/// Many calls that go on by themselves, and what their owners may do with them.
fn handles(work: &Work, options: &Options<'_>, timed: bool, random: &mut Random) {
    let world = &work.world;
    let mut handles: Vec<(u64, AsyncResult<Token>)> = (0..random.next() % 12)
        .map(|i| {
            let f = work.clone();
            (i, options.apply_async(move |i: u64| f.run(i), (i,)))
        })
        .collect();
    while !handles.is_empty() {
        let (i, mut handle) = handles.swap_remove(random.below(handles.len()));
        match random.below(8) {
            0 => drop(handle),
            1 => {
                let cancelled = handle.cancel();
                match (handle.get(), cancelled) {
                    (Err(Error::Cancelled), true) => {}
                    (outcome, false) => work.check_one("not cancelled", i, timed, outcome),
                    (other, true) => world.fault(format!("cancelled: {other:?}")),
                }
            }
            2 => {
                let calls = Arc::new((AtomicUsize::new(0), AtomicUsize::new(0)));
                let (good, bad) = (Arc::clone(&calls), Arc::clone(&calls));
                let outcome = handle
                    .callback(move |_| _ = good.0.fetch_add(1, Ordering::SeqCst))
                    .error_callback(move |_| _ = bad.1.fetch_add(1, Ordering::SeqCst))
                    .get();
                let counted = (calls.0.load(Ordering::SeqCst), calls.1.load(Ordering::SeqCst));
                let expected = if outcome.is_ok() { (1, 0) } else { (0, 1) };
                if counted != expected {
                    world.fault(format!("callbacks were called {counted:?} times: {outcome:?}"));
                }
                work.check_one("apply_async with callbacks", i, timed, outcome);
            }
            3 => {
                let time = Duration::from_micros(random.next() % 200);
                match handle.get_timeout(time) {
                    Err(Error::Timeout) => work.check_one("later", i, timed, handle.get()),
                    outcome => work.check_one("get_timeout", i, timed, outcome),
                }
            }
            4 => {
                handle.wait();
                if !handle.ready() {
                    world.fault("not ready after `wait`");
                }
                let successful = handle.successful();
                let outcome = handle.get();
                match &successful {
                    Ok(successful) if *successful == outcome.is_ok() => {}
                    _ => world.fault(format!("{successful:?}, but {outcome:?}")),
                }
                work.check_one("apply_async, waited for", i, timed, outcome);
            }
            5 => {
                let mut poller = Poller::from_waker(Waker::noop());
                match Pin::new(&mut handle).poll(&mut poller) {
                    Poll::Ready(outcome) => work.check_one("polled", i, timed, outcome),
                    Poll::Pending => work.check_one("polled once", i, timed, handle.get()),
                }
            }
            _ => work.check_one("apply_async", i, timed, handle.get()),
        }
    }
}

/// Takes results from a stream until something else is more interesting.
fn consume(
    work: &Work,
    mut stream: Imap<'_, impl Iterator<Item = Token>, Token>,
    ordered: bool,
    timed: bool,
    n: u64,
    random: &mut Random,
) {
    let world = &work.world;
    let mut seen = vec![false; n as usize];
    let mut count = 0;
    let leaves_at = if random.once_in(3) { random.next() % (n + 1) } else { u64::MAX };
    loop {
        if count == leaves_at {
            return;
        }
        if random.once_in(50) {
            thread::sleep(Duration::from_micros(random.next() % 400));
        }
        let next = if random.once_in(10) {
            match stream.next_timeout(Duration::from_micros(random.next() % 300)) {
                // The call's own time ends the stream; then the next look shows it.
                Err(Error::Timeout) => continue,
                Ok(next) => next,
                Err(error) => panic!("{error:?}"),
            }
        } else {
            stream.next()
        };
        let index = match next {
            None => break,
            Some(Ok(token)) => {
                let index = (0..n).find(|i| work.value(*i) == token.value);
                index.filter(|i| !work.fails(*i))
            }
            Some(Err(Error::Panicked(panic))) => {
                panic.index().map(|i| i as u64).filter(|i| *i < n && work.fails(*i))
            }
            Some(Err(Error::DeadlineExceeded)) if timed => continue,
            Some(Err(error)) if world.is_the_end(&error, timed) => {
                if let Some(more) = stream.next() {
                    world.fault(format!("after {error:?} a stream went on with {more:?}"));
                }
                return;
            }
            Some(Err(error)) => return world.fault(format!("a stream of {n}: {error:?}")),
        };
        match index {
            Some(i) if ordered && i != count => {
                return world.fault(format!("result {i} came in the place of {count}"));
            }
            Some(i) if !std::mem::replace(&mut seen[i as usize], true) => {}
            other => return world.fault(format!("a stream of {n} gave {other:?}")),
        }
        count += 1;
    }
    if count != n && !timed {
        world.fault(format!("a stream of {n} ended after {count}"));
    }
    if stream.next().is_some() {
        world.fault("a stream went on after its end");
    }
}

/// Verbs that borrow from this frame.
fn scope(work: &Work, options: &Options<'_>, timed: bool, n: u64, random: &mut Random) {
    let world = &work.world;
    let base = [world.make(7), world.make(9)];
    let leaks = random.once_in(4);
    let checks = options.scope(|s| {
        let one = s.apply_async(|| (work.run(3), &base[0]), ());
        let many = s.map_async(|i: u64| (work.run(i), &base[1]), 0..n);
        let mut stream = s.imap(|i: u64| (work.run(i), &base[0]), 0..n);
        let first = stream.next();
        if leaks {
            // The scope waits all the same. What is leaked is not dropped, so nothing is made.
            let nothing = s.apply_async(|| (), ());
            std::mem::forget(nothing);
        }
        if random.once_in(2) {
            drop(stream);
        }
        (one.get(), many.get(), first)
    });
    let (one, many, first) = checks;
    work.check_one("scoped call", 3, timed, one.map(|(token, _)| token));
    let many = many.map(|pairs| pairs.into_iter().map(|(token, _)| token).collect());
    work.check_map("scoped map", n, timed, many);
    match first {
        None if n == 0 => {}
        Some(outcome) if n > 0 => {
            work.check_one("scoped stream", 0, timed, outcome.map(|(token, _)| token));
        }
        // It ended before anything was pulled.
        Some(Err(error)) if world.is_the_end(&error, timed) => {}
        other => world.fault(format!("a scoped stream of {n} began with {other:?}")),
    }
}
