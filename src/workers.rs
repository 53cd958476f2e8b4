//! What all handles of a pool share: its state, its queue, and who drains it.
//!
//! A pool has `count` workers. At most that many *drainers* are active, each a job on a worker's
//! thread that runs tasks until the queue is empty. A drainer is started by whoever submits while
//! one is missing; so the price of a wake-up is paid once per burst and not per task.
//!
//! # Why no task is left lying
//!
//! A submitter pushes, then looks whether a drainer is missing. A drainer that found the queue empty
//! says that it leaves, then looks at the queue once more. Between the two steps each of them has a
//! `SeqCst` fence, so at least one sees what the other did.
//!
//! The last drainer of a pool that is closed or terminated *retires* it: the threads are let go.
//! That and the start of a drainer happen under one lock, so nobody can submit to threads that are
//! gone: he is refused instead.

use std::error::Error as StdError;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering, fence};
use std::sync::{Arc, OnceLock};
use std::task::Waker;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_utils::CachePadded;

use crate::crew::{Crew, Start};
use crate::error::Error;
use crate::panic::{Panic, catch, discard};
use crate::queue::{Queue, TaskRef};
use crate::sync::{Mutex, lock};
use crate::wait::{self, Event, Sleepers};
use crate::worker::{self, Worker};

/// What runs on each worker before its first task.
pub(crate) type Initializer = dyn Fn() -> Result<(), Arc<dyn StdError + Send + Sync>> + Send + Sync;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(crate) enum State {
    Running,
    /// Accepted work is finished, new work refused.
    Closed,
    /// What has not begun is skipped.
    Terminated,
}

pub(crate) struct Workers {
    /// Unique in the process.
    pub(crate) id: usize,
    pub(crate) count: usize,
    /// After how many tasks a worker is replaced.
    pub(crate) life: Option<usize>,
    pub(crate) initializer: Option<Box<Initializer>>,
    /// The worker that callers are, in a pool without threads.
    pub(crate) serial: Option<Arc<Worker>>,
    /// A [`State`]; only grows.
    state: AtomicU8,
    queue: Queue,
    /// How many drainers there are, at most `count`. Changed under the lock of `crew` only.
    ///
    /// On lines of their own, these two: all threads read what lies around them for each task.
    active: CachePadded<AtomicUsize>,
    /// How many drainers have found the queue empty and look again before they leave.
    looking: CachePadded<AtomicUsize>,
    /// How many tasks were begun elsewhere since the queue was last swept of them.
    stale: AtomicUsize,
    /// The threads were called to drain and none has answered yet.
    calling: AtomicBool,
    crew: Mutex<Crew>,
    /// Who waits for a result, for `terminate` to wake.
    pub(crate) sleepers: Sleepers,
    /// Why a worker could not be replaced, which terminated the pool.
    broken: OnceLock<Error>,
    /// No task is left and none can come.
    pub(crate) retired: Event,
    pub(crate) threads: Threads,
}

/// The threads of a pool, to be joined once.
#[derive(Default)]
pub(crate) struct Threads {
    /// By worker. A replaced one's is its successor's to join.
    pub(crate) handles: Mutex<Vec<Option<JoinHandle<()>>>>,
    taken: Mutex<bool>,
    gone: Event,
}

impl Workers {
    pub(crate) fn new(
        id: usize,
        count: usize,
        life: Option<usize>,
        initializer: Option<Box<Initializer>>,
        serial: bool,
    ) -> Self {
        Workers {
            serial: serial.then(|| Arc::new(Worker::new(id, 0, 0, life))),
            id,
            count,
            life,
            initializer,
            state: AtomicU8::new(State::Running as u8),
            queue: Queue::new(),
            active: CachePadded::new(AtomicUsize::new(0)),
            looking: CachePadded::new(AtomicUsize::new(0)),
            stale: AtomicUsize::new(0),
            calling: AtomicBool::new(false),
            crew: Mutex::new(if serial { Crew::Serial } else { Crew::Retired }),
            sleepers: Sleepers::default(),
            broken: OnceLock::new(),
            retired: Event::default(),
            threads: Threads::default(),
        }
    }

    /// Lets `change` at the crew, which is `Retired` until the pool with threads is built.
    pub(crate) fn with_crew<R>(&self, change: impl FnOnce(&mut Crew) -> R) -> R {
        change(&mut lock(&self.crew))
    }

    #[inline]
    pub(crate) fn state(&self) -> State {
        // ORDERING: pairs with the release in `end`: who sees `Terminated` sees why.
        match self.state.load(Ordering::Acquire) {
            0 => State::Running,
            1 => State::Closed,
            _ => State::Terminated,
        }
    }

    #[inline]
    pub(crate) fn is_terminated(&self) -> bool {
        self.state() == State::Terminated
    }

    /// Whether new work is taken from the calling thread.
    ///
    /// A closed pool still takes what its own tasks submit: it is part of what was accepted.
    pub(crate) fn admit(&self) -> Result<(), Error> {
        match self.state() {
            State::Running => Ok(()),
            State::Closed if worker::is_of(self.id) => Ok(()),
            _ => Err(self.broken().unwrap_or(Error::NotRunning)),
        }
    }

    /// What those get whose work was accepted and is skipped.
    pub(crate) fn ended(&self) -> Error {
        self.broken().unwrap_or(Error::Terminated)
    }

    fn broken(&self) -> Option<Error> {
        Some(match self.broken.get()? {
            Error::Start(error) => Error::Start(io::Error::new(error.kind(), error.to_string())),
            Error::Initializer(error) => Error::Initializer(Arc::clone(error)),
            _ => Error::Terminated,
        })
    }

    /// The calling thread, if it is a worker of this pool, does a task of its life.
    pub(crate) fn count_task(&self) {
        if self.life.is_some() {
            if let Some(worker) = worker::of(self.id) {
                worker.count();
            }
        }
    }

    /// Runs the initializer on the calling thread, which is a worker already.
    pub(crate) fn initialize(&self) -> Result<(), Error> {
        let Some(initializer) = &self.initializer else { return Ok(()) };
        match catch(initializer) {
            Ok(result) => result.map_err(Error::Initializer),
            Err(payload) => Err(Error::Initializer(Arc::new(Panic::new(payload, None)))),
        }
    }

    // ---- work ------------------------------------------------------------------------------------

    /// Queues `task`. Refused when the threads are gone; then it was not queued or will do nothing.
    pub(crate) fn submit(self: &Arc<Self>, task: TaskRef) -> Result<(), Error> {
        if self.serial.is_some() {
            self.serially(|_| worker::run(task));
            return Ok(());
        }
        let nested = worker::is_of(self.id);
        self.queue.push(task, nested);
        self.rouse()
    }

    /// Runs `f` on the calling thread as the worker of a serial pool, which it is given.
    ///
    /// # Panics
    /// If the pool is not serial.
    pub(crate) fn serially<R>(self: &Arc<Self>, f: impl FnOnce(&Worker) -> R) -> R {
        let worker = self.serial.as_ref().expect("only a serial pool runs on its caller");
        if worker::is_of(self.id) {
            return worker::be(Arc::clone(worker), || f(worker));
        }
        let enter = |_: &mut Crew| self.active.fetch_add(1, Ordering::Relaxed);
        self.with_crew(enter);
        let result = worker::be(Arc::clone(worker), || {
            let result = f(worker);
            self.renew_if_spent(worker);
            result
        });
        let crew = lock(&self.crew);
        self.active.fetch_sub(1, Ordering::Relaxed);
        self.retire_if_done(crew);
        result
    }

    /// Replaces the worker of a serial pool by itself, on whose thread this is called.
    pub(crate) fn renew_if_spent(self: &Arc<Self>, worker: &Worker) {
        if worker.is_spent() && !self.is_terminated() {
            worker.renew();
            if let Err(error) = self.initialize() {
                self.break_down(error);
            }
        }
    }

    /// Queues `task` before all that wait from outside.
    pub(crate) fn submit_first(self: &Arc<Self>, task: TaskRef) -> Result<(), Error> {
        self.queue.push(task, true);
        self.rouse()
    }

    /// Starts a drainer if one is missing.
    fn rouse(self: &Arc<Self>) -> Result<(), Error> {
        // ORDERING: the submitter's side of the handshake that the module describes; the drainer's
        // is in `leave` and `look_again`.
        fence(Ordering::SeqCst);
        // One that looks takes the task, and starts another if that was not the only one.
        if self.looking.load(Ordering::Relaxed) > 0
            || self.active.load(Ordering::Relaxed) >= self.count
        {
            return Ok(());
        }
        let mut crew = lock(&self.crew);
        if self.active.load(Ordering::Relaxed) >= self.count {
            return Ok(());
        }
        match crew.find_idle() {
            Start::Idle(worker) => {
                // Counted first: so the pool is not retired before the drainer has come and gone.
                self.active.fetch_add(1, Ordering::Relaxed);
                drop(crew);
                worker.start(self);
            }
            // Fewer places than there were; those that are left come to it.
            Start::AllBusy => {}
            Start::Retired => {
                drop(crew);
                // Whatever is in the queue came too late, and each submitter hears that himself. What
                // lies there must not keep the pool alive that it lies in.
                while self.queue.pop().is_some() {}
                return Err(self.broken().unwrap_or(Error::NotRunning));
            }
        }
        Ok(())
    }

    /// Runs tasks on `worker`, the calling thread, until there are none or it is to be replaced;
    /// then it is no drainer any more, but in the second case its place stays taken.
    pub(crate) fn drain(self: &Arc<Self>, worker: &Worker) {
        let mut turn = Turn::new();
        loop {
            while let Some(task) = self.queue.pop() {
                // ORDERING: who pushed what is left counted on somebody. If it was a drainer that has
                // left since, that one looked at the queue after its fence. If it was this one while it
                // was looking, the fence of `look_again` lies between.
                if self.active.load(Ordering::Relaxed) < self.count && !self.queue.is_empty() {
                    // Somebody else's task too may wait for this one to wake a worker. Refusal
                    // cannot be: this drainer keeps the pool from being retired.
                    let _ = self.rouse();
                }
                worker::run(task);
                if worker.is_spent() {
                    return;
                }
                turn.end();
            }
            if !self.look_again() && self.leave(worker.index) {
                return;
            }
        }
    }

    /// Looks at the empty queue a little longer: whoever waited for the last task may submit the
    /// next at once, and then needs no wake-up. False when nothing came.
    fn look_again(&self) -> bool {
        self.looking.fetch_add(1, Ordering::Relaxed);
        let found = wait::a_moment(|| !self.queue.is_empty());
        // ORDERING: `SeqCst`, so that a submitter who still counted on this drainer pushed before
        // this point of the total order and is seen by the look that follows, here or in `leave`.
        self.looking.fetch_sub(1, Ordering::SeqCst);
        fence(Ordering::SeqCst);
        found || !self.queue.is_empty()
    }

    /// Whether a worker that leaves need not be replaced. In a terminated pool it first skips, on
    /// the calling thread, what it would have left behind.
    pub(crate) fn needs_nobody(&self) -> bool {
        if self.is_terminated() {
            self.skip_all();
        }
        self.state() != State::Running && self.queue.is_empty()
    }

    /// Runs what is queued in a terminated pool, which skips it.
    fn skip_all(&self) {
        while let Some(task) = self.queue.pop() {
            worker::run(task);
        }
    }

    /// Takes back the start of a drainer whose job came to a thread that has one. Another thread
    /// must hear of it: that one may be busy for long, and the queue is not empty.
    pub(crate) fn decline(self: &Arc<Self>) {
        let crew = lock(&self.crew);
        self.active.fetch_sub(1, Ordering::Relaxed);
        if let Crew::Lasting(pool) = &*crew {
            // ORDERING: only bounds how many calls are out; an answer that comes between the swap
            // and the call costs one call more.
            if !self.calling.swap(true, Ordering::Relaxed) {
                crate::crew::call_all(pool, self);
            }
        }
    }

    /// A thread that was called: whether it is a drainer now.
    pub(crate) fn answer(&self, worker: &Worker) -> bool {
        self.calling.store(false, Ordering::Relaxed);
        let crew = lock(&self.crew);
        let needed = !worker.is_draining()
            && !matches!(*crew, Crew::Retired)
            && !self.queue.is_empty()
            && self.active.load(Ordering::Relaxed) < self.count;
        if needed {
            self.active.fetch_add(1, Ordering::Relaxed);
        }
        needed
    }

    /// Ends a drainer; false if there is work after all, and it goes on.
    pub(crate) fn leave(&self, index: usize) -> bool {
        let mut crew = lock(&self.crew);
        self.active.fetch_sub(1, Ordering::Relaxed);
        // ORDERING: the drainer's side of the handshake that the module describes.
        fence(Ordering::SeqCst);
        if !self.queue.is_empty() {
            self.active.fetch_add(1, Ordering::Relaxed);
            return false;
        }
        crew.rest(index);
        self.retire_if_done(crew);
        true
    }

    /// The place of worker `index`, a drainer, is empty for good: nobody is needed there any more,
    /// or, which is the end of the pool, nobody could be had.
    pub(crate) fn give_up(self: &Arc<Self>, index: usize, why: Option<Error>) {
        if let Some(error) = why {
            self.break_down(error);
        }
        let last = lock(&self.crew).lose(index);
        loop {
            if last {
                // Nobody else is there to do it.
                self.skip_all();
            }
            let mut crew = lock(&self.crew);
            self.active.fetch_sub(1, Ordering::Relaxed);
            if !last {
                return self.retire_if_done(crew);
            }
            // ORDERING: as in `leave`.
            fence(Ordering::SeqCst);
            if self.queue.is_empty() {
                // What comes from now on is its submitter's, who is refused as soon as the lock is free.
                *crew = Crew::Retired;
                drop(crew);
                return self.retired.set();
            }
            // Its submitter counted on this one.
            self.active.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// A worker cannot be replaced, which terminates the pool.
    fn break_down(self: &Arc<Self>, why: Error) {
        // Another may have failed first. An error may hold what panics when it is dropped.
        discard(self.broken.set(why));
        self.end(State::Terminated);
    }

    /// Blocks as [`wait::until`] does, and is woken by `terminate` too.
    pub(crate) fn wait(
        &self,
        deadline: Option<Instant>,
        mut ready: impl FnMut(&Waker) -> bool,
    ) -> bool {
        // ORDERING: a guess. A worker that is up may be done sooner than a park and a wake-up take.
        let soon = self.active.load(Ordering::Relaxed) > 0;
        if soon && wait::a_moment(|| ready(Waker::noop())) {
            return true;
        }
        let mut ticket = None;
        let done = wait::until(deadline, |waker| {
            self.sleepers.add(&mut ticket, waker);
            ready(waker)
        });
        self.sleepers.remove(&mut ticket);
        done
    }

    /// A task was begun by somebody who did not take it from the queue.
    pub(crate) fn begun_elsewhere(self: &Arc<Self>) {
        // ORDERING: an estimate; two sweeps at once do no harm.
        let stale = self.stale.fetch_add(1, Ordering::Relaxed) + 1;
        if stale >= 64 && stale > self.queue.len() / 2 {
            self.stale.store(0, Ordering::Relaxed);
            self.queue.sweep();
            // While it was swept the queue looked shorter than it is.
            let _ = self.rouse();
        }
    }

    // ---- end -------------------------------------------------------------------------------------

    /// Closes or terminates.
    pub(crate) fn end(self: &Arc<Self>, state: State) {
        // ORDERING: release, so that the reason (`broken`) is seen by who sees the state.
        self.state.fetch_max(state as u8, Ordering::AcqRel);
        if state == State::Terminated {
            // A waiter registers before it looks at the state; so it saw the state or is woken.
            self.sleepers.wake_all();
        }
        self.retire_if_done(lock(&self.crew));
    }

    /// Lets the threads go if there is nothing to do and nothing can come.
    fn retire_if_done(&self, mut crew: crate::sync::MutexGuard<'_, Crew>) {
        // ORDERING: after the caller's change of `state` or `active`, before the looks at the
        // others; whoever changes the last of them sees all.
        fence(Ordering::SeqCst);
        let done = self.state() != State::Running
            && self.active.load(Ordering::Relaxed) == 0
            && self.queue.is_empty();
        if done && !matches!(*crew, Crew::Retired) {
            let crew_before = std::mem::replace(&mut *crew, Crew::Retired);
            drop(crew);
            // Rayon's threads leave when their pool is dropped; it does not wait for them.
            drop(crew_before);
            self.retired.set();
        }
    }

    /// Waits for the end of all work and of all threads.
    pub(crate) fn join(self: &Arc<Self>, deadline: Option<Instant>) -> Result<(), Error> {
        if self.state() == State::Running {
            return Err(Error::StillRunning);
        }
        if worker::is_of(self.id) {
            return Err(Error::WouldDeadlock);
        }
        if !self.retired.wait(deadline) {
            return Err(Error::Timeout);
        }
        let first = !std::mem::replace(&mut *lock(&self.threads.taken), true);
        if first {
            let handles = std::mem::take(&mut *lock(&self.threads.handles));
            let shared = Arc::clone(self);
            let join = move || {
                for handle in handles.into_iter().flatten() {
                    // The thread's own panic is nobody's: what ran on it was caught.
                    let _ = handle.join().map_err(discard);
                }
                shared.threads.gone.set();
            };
            // A thread has no join with a deadline, and its thread-locals' destructors may take
            // their time; so with a deadline another thread waits for them.
            match deadline {
                None => join(),
                Some(_) => drop(std::thread::spawn(join)),
            }
        }
        match self.threads.gone.wait(deadline) {
            true => Ok(()),
            false => Err(Error::Timeout),
        }
    }
}

/// A drainer's turn at its thread: every few milliseconds it lets rayon code of the same pool in.
struct Turn {
    start: Instant,
    /// Tasks to go before the clock is read again; reading it costs as much as a small task.
    left: u32,
    stride: u32,
}

impl Turn {
    const LENGTH: Duration = Duration::from_millis(2);

    fn new() -> Self {
        Turn { start: Instant::now(), left: 1, stride: 1 }
    }

    /// A task was run.
    fn end(&mut self) {
        self.left -= 1;
        if self.left > 0 {
            return;
        }
        if self.start.elapsed() >= Self::LENGTH {
            crate::crew::give_way();
            // The next tasks may be as long as these were.
            *self = Turn::new();
        } else {
            self.stride = (self.stride * 2).min(32);
            self.left = self.stride;
        }
    }
}
