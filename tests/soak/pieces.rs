//! Rayon code in tasks, what is done around it, and what a thread leaves when it ends.
//!
//! # What a program has to keep to, and this one does
//!
//! A rayon wait (`join`, `scope`, a parallel iterator) may run any piece of rayon code of the same pool on
//! top of the task that waits, and that task goes on when the piece has ended. So:
//!
//! - A lock is held around rayon code only, never around a call or a wait of a pool.
//! - No piece takes a lock, and nothing that a piece waits for does: the lock may be held by the task that
//!   lies under the piece. What a piece calls is therefore *plain* (`Place::plain`), as is all that is called
//!   from there: such tasks take no locks,
//! - use only the pool whose thread they are on, since the workers of another one may all be waiting
//!   for the lock,
//! - and wait for nothing but what they have made themselves: a task that was begun earlier may
//!   lie under a piece that waits for them.
//! - The task of a thread-local's destructor makes no piece that uses the pool: the rayon thread is over
//!   by then, so its pieces go to rayon's global pool, and nobody may be left who runs what they wait for.
//!
//! Otherwise anything goes. A task that waits for another one's handle gets that of a task made before it, so
//! that there is no cycle.

use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::thread;
use std::time::Duration;

use parpool::{AsyncResult, CurrentTask, Error, Options, Pool};
use rayon::prelude::*;

use super::common::{Kind, ON_PURPOSE, scaled};
use super::{Place, Random, Token, Work, World, operation};

/// A task that panicked has left it poisoned, and nothing in it is ever half changed.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether this is a thread of one of the round's pools, which ends with the round.
fn is_worker() -> bool {
    thread::current().name().is_some_and(|name| name.starts_with("parpool-"))
}

/// Panics, in the task itself or in a piece of it.
pub(crate) fn fail(random: &mut Random) -> ! {
    match random.below(6) {
        0 => _ = rayon::join(|| panic!("{ON_PURPOSE}"), || 1),
        1 => _ = rayon::join(|| 1, || panic!("{ON_PURPOSE}")),
        2 => rayon::scope(|s| s.spawn(|_| panic!("{ON_PURPOSE}"))),
        3 => (0..10).into_par_iter().for_each(|i| assert!(i != 7, "{ON_PURPOSE}")),
        _ => {}
    }
    panic!("{ON_PURPOSE}")
}

/// What a task does that has to do with rayon, or with the end of its thread.
pub(crate) fn in_task(work: &Work, random: &mut Random) {
    let plain = work.place.plain;
    match random.below(12) {
        0..=2 if !plain => {
            let mutex = random.pick(&[0, 0, 0, 1]);
            let mut held = lock(&work.world.0.locks[mutex]);
            *held += 1;
            let before = *held;
            let code = Code::new(work, random, false);
            for _ in 0..1 + random.below(3) {
                code.run(random);
            }
            if *held != before {
                work.world.fault("two tasks held one lock");
            }
        }
        3 => serial_pool(work, random),
        4 => leave_something(work, random),
        5 => {
            let code = Code::new(work, random, true);
            let mut inner = Random(random.next());
            match work.place.pool.install(|| code.run(&mut inner)) {
                Ok(()) => {}
                Err(error) if work.world.is_the_end(&error, false) => {}
                other => work.world.fault(format!("install in a task: {other:?}")),
            }
        }
        _ => Code::new(work, random, true).run(random),
    }
}

/// What the pool itself runs by `install`.
pub(crate) fn installed(work: &Work, random: &mut Random) {
    Code::new(work, random, true).run(random);
}

// ---- rayon code ----------------------------------------------------------------------------------

/// Rayon code of one task.
struct Code<'w> {
    work: &'w Work,
    task: CurrentTask,
    seed: u64,
    /// One piece in so many uses the pool.
    calls: usize,
}

impl<'w> Code<'w> {
    fn new(work: &'w Work, random: &mut Random, calls: bool) -> Self {
        let calls = if calls { random.pick(&[usize::MAX, 100, 10, 3]) } else { usize::MAX };
        Code { work, task: parpool::current_task(), seed: random.next(), calls }
    }

    fn value(&self, j: u64) -> u64 {
        self.work.value(j) >> 16
    }

    fn sum(&self, n: u64) -> u64 {
        (0..n).map(|j| self.value(j)).sum()
    }

    fn run(&self, random: &mut Random) {
        let n = random.next() % scaled(random.pick(&[3_u64, 20, 200]));
        let (what, is, expected) = match random.below(8) {
            0 => {
                let (a, b) = rayon::join(|| self.piece(0), || self.piece(1));
                ("join", a + b, self.sum(2))
            }
            1 => ("joins", self.halves(0, n), self.sum(n)),
            2 => {
                let sum = AtomicU64::new(0);
                let add = |j| _ = sum.fetch_add(self.piece(j), Ordering::Relaxed);
                rayon::scope(|s| {
                    let add = &add;
                    for j in 0..n {
                        if j % 3 == 0 {
                            s.spawn(move |s| s.spawn(move |_| add(j)));
                        } else {
                            s.spawn(move |_| add(j));
                        }
                    }
                });
                ("scope", sum.into_inner(), self.sum(n))
            }
            3 => {
                let sum = (0..n).into_par_iter().map(|j| self.piece(j)).sum();
                ("sum", sum, self.sum(n))
            }
            4 => {
                let sum = AtomicU64::new(0);
                (0..n).into_par_iter().for_each(|j| {
                    sum.fetch_add(self.piece(j), Ordering::Relaxed);
                });
                ("for_each", sum.into_inner(), self.sum(n))
            }
            5 => {
                let values: Vec<_> = (0..n).into_par_iter().map(|j| self.piece(j)).collect();
                ("collect", values.iter().sum(), self.sum(n))
            }
            6 => {
                // Rayon sorts up to 2000 by itself.
                let n = scaled(random.pick(&[100_u64, 3000, 6000]));
                let mut values: Vec<_> = (0..n).map(|j| self.value(j * 7919 % n)).collect();
                values.par_sort_unstable();
                if !values.is_sorted() {
                    self.work.world.fault("not sorted");
                }
                let expected = (0..n).map(|j| self.value(j * 7919 % n)).sum();
                ("par_sort_unstable", values.iter().sum(), expected)
            }
            // No broadcast: it waits for all threads, which may be waiting for this task.
            _ => return self.detach(random),
        };
        if is != expected {
            self.work.world.fault(format!("rayon's {what} of {n}: {is}, not {expected}"));
        }
    }

    fn halves(&self, from: u64, to: u64) -> u64 {
        match to - from {
            0 => 0,
            1 => self.piece(from),
            n => {
                let mid = from + n / 2;
                let (a, b) = rayon::join(|| self.halves(from, mid), || self.halves(mid, to));
                a + b
            }
        }
    }

    fn piece(&self, j: u64) -> u64 {
        let mut random = Random(self.seed ^ j.wrapping_mul(0xd6e8_feb8_6659_fd93));
        match random.below(60) {
            0 => thread::yield_now(),
            1 => _ = rayon::yield_now(),
            2 => thread::sleep(Duration::from_micros(random.next() % 200)),
            3 => _ = self.task.is_cancelled() || parpool::is_cancelled(),
            4 => _ = rayon::join(thread::yield_now, || self.value(j)),
            _ => {}
        }
        if random.once_in(self.calls) && self.work.has_fuel() {
            let place = self.work.place.plain();
            let depth = self.work.depth + 1;
            let mut call = || operation(&self.work.world, &place, &mut random, depth);
            if j % 4 == 0 { call() } else { self.task.enter(call) }
        }
        self.value(j)
    }

    /// Rayon code that nobody waits for, which may outlive its pool.
    fn detach(&self, random: &mut Random) {
        let (world, place) = (self.work.world.clone(), self.work.place.plain());
        let (task, value, mut random) = (self.task.clone(), self.value(0), Random(random.next()));
        let calls = self.calls != usize::MAX;
        // In rayon's global pool that ends the process.
        let panics = is_worker() && random.once_in(4);
        rayon::spawn(move || {
            let token = world.make(value);
            if random.once_in(2) {
                rayon::join(thread::yield_now, thread::yield_now);
            }
            if calls {
                let one = || world.make(value);
                let outcome = task.enter(|| match random.below(4) {
                    0 => place.pool.apply(one, ()),
                    1 => place.pool.sum(|i: u64| i, 0..20).map(|_| one()),
                    _ => {
                        let world = world.clone();
                        place.pool.apply_async(move || world.make(value), ()).get()
                    }
                });
                match outcome {
                    Ok(token) if token.value == value => {}
                    // The pool may be over by now.
                    Err(Error::NotRunning | Error::Terminated) => {}
                    other => world.fault(format!("in a detached piece: {other:?}")),
                }
            }
            drop((token, world));
            // The last owner of the pool may be this piece.
            drop(place);
            assert!(!panics, "{ON_PURPOSE}");
        });
    }
}

// ---- tasks that wait for each other --------------------------------------------------------------

/// Each task waits for the one that was made before it.
pub(crate) fn chain(work: &Work, options: &Options<'_>, timed: bool, random: &mut Random) {
    let mut last = Arc::<Mutex<Option<AsyncResult<Token>>>>::default();
    let n = random.next() % 12;
    for i in 0..n {
        let before = std::mem::take(&mut last);
        let (f, late) = (work.clone(), random.once_in(2));
        let handle = options.apply_async(
            move |i: u64| {
                let mut token = late.then(|| f.run(i));
                let handle = before.lock().unwrap().take();
                if let Some(handle) = handle {
                    f.check_one("waited for in a task", i - 1, timed, handle.get());
                }
                token.take().unwrap_or_else(|| f.run(i))
            },
            (i,),
        );
        if random.once_in(6) {
            // Of a task that waits for nobody, the one before is forgotten.
            work.check_one("a task that waits", i, timed, handle.get());
        } else {
            *last.lock().unwrap() = Some(handle);
        }
    }
    let handle = last.lock().unwrap().take();
    if let Some(handle) = handle.filter(|_| !random.once_in(4)) {
        work.check_one("the last task that waits", n - 1, timed, handle.get());
    }
}

/// A serial pool in a task, whose closures use the task's pool.
fn serial_pool(work: &Work, random: &mut Random) {
    let serial = Kind::Serial.pool();
    let seed = random.next();
    let f = |i: u64| {
        let mut random = Random(seed ^ i);
        if i == 1 {
            Code::new(work, &mut random, true).run(&mut random);
        }
        if random.once_in(4) && work.has_fuel() {
            operation(&work.world, &work.place, &mut random, work.depth + 1);
        }
        work.value(i)
    };
    let sum = (0..3).fold(0_u64, |sum, i| sum.wrapping_add(work.value(i)));
    let is = match random.below(3) {
        0 => serial.map(f, 0..3).map(|values| values.into_iter().fold(0, u64::wrapping_add)),
        1 => serial.reduce(f, u64::wrapping_add, 0..3).map(Option::unwrap_or_default),
        _ => serial.scope(|s| {
            let handles: Vec<_> = (0..3).map(|i| s.apply_async(f, (i,))).collect();
            handles.into_iter().try_fold(0_u64, |sum, handle| Ok(sum.wrapping_add(handle.get()?)))
        }),
    };
    if !matches!(is, Ok(is) if is == sum) {
        work.world.fault(format!("a serial pool in a task: {is:?}, not {sum}"));
    }
}

// ---- thread-locals -------------------------------------------------------------------------------

thread_local! {
    /// Destroyed when the thread ends; each of these then uses the pool.
    static LEFT: RefCell<Vec<Left>> = const { RefCell::new(Vec::new()) };
}

/// What a task has left on its thread.
struct Left {
    world: World,
    pool: Weak<Pool>,
    /// Then the round ends its pools, since this may own the last of one.
    kept: Option<Arc<Pool>>,
    handle: Option<AsyncResult<Token>>,
    token: Token,
    seed: u64,
}

fn leave_something(work: &Work, random: &mut Random) {
    if !is_worker() {
        return;
    }
    let world = &work.world;
    let pool = &work.place.pool;
    let handle = random.once_in(3).then(|| {
        let world = world.clone();
        pool.apply_async(move || world.make(3), ())
    });
    let left = Left {
        world: world.clone(),
        pool: Arc::downgrade(pool),
        kept: (world.0.keeps && random.once_in(2)).then(|| Arc::clone(pool)),
        handle,
        token: world.make(4),
        seed: random.next(),
    };
    let fits = LEFT.with(|all| all.borrow().len() < 8);
    if fits {
        LEFT.with(|all| all.borrow_mut().push(left));
    }
}

impl Drop for Left {
    fn drop(&mut self) {
        // A panic here would end the process.
        let outcome = catch_unwind(AssertUnwindSafe(|| self.use_pool()));
        if outcome.is_err() {
            self.world.fault("a panic in the destructor of a thread-local");
        }
    }
}

impl Left {
    fn use_pool(&mut self) {
        let mut random = Random(self.seed);
        if random.once_in(2) {
            drop(self.handle.take());
        }
        let Some(pool) = self.pool.upgrade() else { return };
        let (world, value) = (self.world.clone(), self.token.value);
        let one = move || {
            // Wherever this runs.
            rayon::join(thread::yield_now, thread::yield_now);
            world.make(value)
        };
        let outcome = match random.below(10) {
            0 => pool.apply(one, ()),
            1 | 2 => pool.apply_async(one, ()).get(),
            3 => pool.map(|_: u64| one(), 0..5).map(|mut tokens| tokens.remove(4)),
            4 => {
                let mut stream = pool.imap(move |_: u64| one(), 0..5);
                stream.next().unwrap_or(Err(Error::NotRunning))
            }
            5 => pool.scope(|s| {
                drop(s.apply_async(|| (), ()));
                s.apply_async(one, ()).get()
            }),
            6 => {
                let serial = Kind::Serial.pool();
                let outer = Arc::clone(&pool);
                let outcome = serial.apply(move || outer.apply_async(one, ()).get(), ());
                outcome.and_then(|outcome| outcome)
            }
            7 => {
                let waits = pool.join().map(|()| one());
                match waits {
                    Err(Error::StillRunning | Error::WouldDeadlock) => return,
                    other => other,
                }
            }
            8 => pool.install(one),
            _ => {
                // Taken back, or run by somebody, or refused.
                drop(pool.apply_async(one, ()));
                return;
            }
        };
        drop(self.handle.take());
        // The last owner may be the one or the other, here on a thread that ends.
        drop(self.kept.take());
        drop(pool);
        match outcome {
            Ok(token) if token.value == self.token.value => {}
            Err(Error::NotRunning | Error::Terminated) => {}
            other => self.world.fault(format!("in a destructor: {other:?}")),
        }
    }
}

impl Place {
    /// The same pool, for what is called from a piece.
    fn plain(&self) -> Place {
        Place { pool: Arc::clone(&self.pool), below: None, plain: true }
    }
}
