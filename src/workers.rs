//! What all handles of a pool share, and what they can have done: work, waits, and the end.

use std::error::Error as StdError;
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::Waker;
use std::thread::JoinHandle;
use std::time::Duration;

use crate::crew::{Crew, Starter};
use crate::drainers::{Drainers, Retired, State};
use crate::error::Error;
use crate::insights::Recorder;
use crate::panic::{Panic, catch, discard};
use crate::queue::TaskRef;
use crate::sync::{Instant, Mutex, lock};
use crate::wait::{self, Event, Sleepers};
use crate::worker::{self, Worker};

/// What runs on each worker before its first task.
pub(crate) type Initializer = dyn Fn() -> Result<(), Arc<dyn StdError + Send + Sync>> + Send + Sync;

pub(crate) struct Workers {
    /// Unique in the process.
    pub(crate) id: usize,
    pub(crate) count: usize,
    /// After how many tasks a worker is replaced.
    pub(crate) life: Option<usize>,
    pub(crate) initializer: Option<Box<Initializer>>,
    /// The worker that callers are, in a pool without threads.
    pub(crate) serial: Option<Arc<Worker>>,
    pub(crate) drainers: Drainers<Crew>,
    /// How many tasks were begun elsewhere since the queue was last swept of them.
    stale: AtomicUsize,
    /// Who waits for a result, for `terminate` to wake.
    pub(crate) sleepers: Sleepers,
    /// Why a worker could not be replaced, which terminated the pool.
    broken: OnceLock<Error>,
    pub(crate) threads: Threads,
    /// Where the times of calls are written down, if that was asked for.
    pub(crate) recorder: Option<Recorder>,
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
            drainers: Drainers::new(count, if serial { Crew::Serial } else { Crew::Retired }),
            stale: AtomicUsize::new(0),
            sleepers: Sleepers::default(),
            broken: OnceLock::new(),
            threads: Threads::default(),
            recorder: None,
        }
    }

    #[inline]
    pub(crate) fn state(&self) -> State {
        self.drainers.state()
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
            _ => Err(self.refusal()),
        }
    }

    /// What those get whose work is not accepted.
    fn refusal(&self) -> Error {
        self.broken().unwrap_or(Error::NotRunning)
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

    /// Runs the initializer on the calling thread, which is a worker already; its thread was asked for
    /// at `asked`.
    pub(crate) fn initialize(&self, asked: Instant) -> Result<(), Error> {
        if let Some(initializer) = &self.initializer {
            match catch(initializer) {
                Ok(result) => result.map_err(Error::Initializer)?,
                Err(payload) => {
                    return Err(Error::Initializer(Arc::new(Panic::new(payload, None))));
                }
            }
        }
        if let (Some(recorder), Some(worker)) = (&self.recorder, worker::of(self.id)) {
            recorder.ready(worker.index, asked);
        }
        Ok(())
    }

    // ---- work ------------------------------------------------------------------------------------

    /// Queues `task`. Refused when the threads are gone: if it has not run by now, it will not.
    pub(crate) fn submit(self: &Arc<Self>, task: TaskRef) -> Result<(), Error> {
        if self.serial.is_some() {
            return self.serially(|_| worker::run(task));
        }
        self.drainers.push(task, worker::is_of(self.id));
        self.rouse()
    }

    /// Runs `f` on the calling thread as the worker of a serial pool, which it is given. Refused when
    /// the pool has ended.
    ///
    /// # Panics
    /// If the pool is not serial.
    pub(crate) fn serially<R>(self: &Arc<Self>, f: impl FnOnce(&Worker) -> R) -> Result<R, Error> {
        let worker = self.serial.as_ref().expect("only a serial pool runs on its caller");
        if worker::is_of(self.id) {
            return Ok(worker::be(Arc::clone(worker), || f(worker)));
        }
        if !self.drainers.enter() {
            return Err(self.refusal());
        }
        let result = worker::be(Arc::clone(worker), || {
            let result = f(worker);
            self.renew_if_spent(worker);
            result
        });
        self.drainers.exit();
        Ok(result)
    }

    /// Replaces the worker of a serial pool by itself, on whose thread this is called.
    pub(crate) fn renew_if_spent(self: &Arc<Self>, worker: &Worker) {
        if worker.is_spent() && !self.is_terminated() {
            let asked = Instant::now();
            worker.renew();
            if let Err(error) = self.initialize(asked) {
                self.break_down(error);
            }
        }
    }

    /// Queues `task` before all that wait from outside.
    pub(crate) fn submit_first(self: &Arc<Self>, task: TaskRef) -> Result<(), Error> {
        self.drainers.push(task, true);
        self.rouse()
    }

    /// Starts a drainer if one is missing.
    fn rouse(self: &Arc<Self>) -> Result<(), Error> {
        match self.drainers.rouse() {
            Ok(missing) => {
                self.start(missing);
                Ok(())
            }
            Err(Retired) => Err(self.refusal()),
        }
    }

    fn start(self: &Arc<Self>, missing: Option<Starter>) {
        if let Some(starter) = missing {
            starter.start(self);
        }
    }

    /// Runs tasks on `worker`, the calling thread, until there are none or it is to be replaced;
    /// then it is no drainer any more, but in the second case its place stays taken.
    pub(crate) fn drain(self: &Arc<Self>, worker: &Worker) {
        let mut turn = Turn::new();
        let run = |task| {
            worker::run(task);
            let spent = worker.is_spent();
            if !spent {
                turn.end();
            }
            spent
        };
        self.drainers.drain(worker.index, |starter| self.start(Some(starter)), run);
    }

    /// A task was begun by somebody who did not take it from the queue.
    pub(crate) fn begun_elsewhere(self: &Arc<Self>) {
        // ORDERING: an estimate; two sweeps at once do no harm.
        let stale = self.stale.fetch_add(1, Ordering::Relaxed) + 1;
        if stale >= 64 && stale > self.drainers.queued() / 2 {
            self.stale.store(0, Ordering::Relaxed);
            self.start(self.drainers.sweep());
        }
    }

    /// The place of worker `index`, a drainer, is empty for good: nobody is needed there any more,
    /// or, which is the end of the pool, nobody could be had.
    pub(crate) fn give_up(self: &Arc<Self>, index: usize, why: Option<Error>) {
        if let Some(error) = why {
            self.break_down(error);
        }
        self.drainers.give_up(index);
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
        let soon = self.drainers.active() > 0;
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

    // ---- end -------------------------------------------------------------------------------------

    /// Closes or terminates.
    pub(crate) fn end(self: &Arc<Self>, state: State) {
        self.drainers.end(state);
        if state == State::Terminated {
            // A waiter registers before it looks at the state; so it saw the state or is woken.
            self.sleepers.wake_all();
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
        if !self.drainers.retired.wait(deadline) {
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
