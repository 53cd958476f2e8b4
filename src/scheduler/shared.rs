//! What all handles of a pool share, and what they can have done: work, waits, and the end.

use std::error::Error as StdError;
use std::fmt;
use std::panic::{RefUnwindSafe, UnwindSafe};
use std::sync::{Arc, OnceLock};
use std::task::Waker;
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam_utils::CachePadded;

use super::attendant::Attendant;
use super::park::{Event, WakerRegistry, Wakers};
use super::queue::{TaskRef, Ticket, Tickets};
use super::runners::{PoolState, Runners};
use super::worker::Worker;
use super::{park, threads, worker};
use crate::error::Error;
use crate::observe::Recorder;
use crate::panic::{Panic, catch, discard};
use crate::sync::{Instant, Mutex, lock};

/// What runs on each worker before its first task.
pub(crate) type Initializer = dyn Fn() -> Result<(), Arc<dyn StdError + Send + Sync>> + Send + Sync;

pub(crate) struct Shared {
    /// Unique in the process.
    pub(crate) id: usize,
    pub(crate) count: usize,
    /// After how many tasks a worker is replaced.
    pub(crate) max_tasks: Option<usize>,
    pub(crate) initializer: Option<Arc<Initializer>>,
    /// What the names of its threads begin with.
    pub(crate) thread_name: String,
    /// By index.
    pub(crate) places: Box<[CachePadded<Worker>]>,
    /// It has no threads, and its one worker is the thread that calls.
    pub(crate) is_serial: bool,
    /// Who is in it, where that worker is replaced.
    occupancy: Mutex<Occupancy>,
    pub(crate) runners: Runners<threads::Threads>,
    /// Who waits for a result, for `terminate` to wake.
    pub(crate) wakers: WakerRegistry,
    /// Why a worker could not be replaced, which terminated the pool.
    broken: OnceLock<Error>,
    pub(crate) threads: ThreadHandles,
    /// Where the times of calls are written down, if that was asked for.
    pub(crate) recorder: Option<Recorder>,
}

/// The threads of a pool, to be joined once.
#[derive(Default)]
pub(crate) struct ThreadHandles {
    /// By worker, and then the attendant. A replaced one's is its successor's to join.
    pub(crate) handles: Mutex<Vec<Option<JoinHandle<()>>>>,
    pub(crate) attendant: Attendant,
    /// Whether it was started, which it is when it is needed.
    pub(crate) has_attendant: Mutex<bool>,
    taken: Mutex<bool>,
    gone: Event,
}

impl Shared {
    pub(crate) fn new(
        id: usize,
        count: usize,
        max_tasks: Option<usize>,
        initializer: Option<Arc<Initializer>>,
        thread_name: String,
        is_serial: bool,
    ) -> Self {
        let threads = if is_serial { threads::Threads::Serial } else { threads::Threads::Retired };
        let place = |index| CachePadded::new(Worker::new(id, index, max_tasks));
        Shared {
            id,
            count,
            max_tasks,
            initializer,
            thread_name,
            places: (0..count).map(place).collect(),
            is_serial,
            occupancy: Mutex::default(),
            runners: Runners::new(count, threads),
            wakers: WakerRegistry::default(),
            broken: OnceLock::new(),
            threads: ThreadHandles::default(),
            recorder: None,
        }
    }

    /// The worker that the calling thread is, if it is one of this pool.
    pub(crate) fn this_worker(&self) -> Option<&Worker> {
        worker::index_in(self.id).map(|index| &*self.places[index])
    }

    #[inline]
    pub(crate) fn state(&self) -> PoolState {
        self.runners.state()
    }

    #[inline]
    pub(crate) fn is_terminated(&self) -> bool {
        self.state() == PoolState::Terminated
    }

    /// Whether new work is taken from the calling thread.
    ///
    /// A closed pool still takes what its own tasks submit: it is part of what was accepted.
    pub(crate) fn admit(&self) -> Result<(), Error> {
        match self.state() {
            PoolState::Running => Ok(()),
            PoolState::Closed if worker::is_of(self.id) && !self.runners.is_retired() => Ok(()),
            _ => Err(self.refusal()),
        }
    }

    /// What those get whose work is not accepted.
    pub(crate) fn refusal(&self) -> Error {
        self.broken().unwrap_or(Error::NotRunning)
    }

    /// What those get whose work was accepted and is skipped.
    pub(crate) fn stop_reason(&self) -> Error {
        self.broken().unwrap_or(Error::Terminated)
    }

    fn broken(&self) -> Option<Error> {
        self.broken.get().cloned()
    }

    /// Runs the initializer on the calling thread, which is worker `index` already and was asked for at
    /// `asked`.
    pub(crate) fn initialize(&self, index: usize, asked: Instant) -> Result<(), Error> {
        if let Some(initializer) = &self.initializer {
            match catch(&**initializer) {
                Ok(result) => result.map_err(Error::Initializer)?,
                Err(payload) => {
                    return Err(Error::Initializer(Arc::new(Panic::new(payload, None))));
                }
            }
        }
        self.places[index].begin_to_count();
        if let Some(recorder) = &self.recorder {
            recorder.ready(index, asked);
        }
        Ok(())
    }

    // ---- work ------------------------------------------------------------------------------------

    /// Queues `task`, or, in a pool without threads, runs it. Refused when the pool has ended; then it is skipped.
    pub(crate) fn submit(self: &Arc<Self>, task: TaskRef) -> Result<Ticket, Error> {
        self.submit_from(task, worker::index_in(self.id))
    }

    /// Queues `task` before all that wait from outside.
    pub(crate) fn submit_first(self: &Arc<Self>, task: TaskRef) -> Result<Ticket, Error> {
        self.submit_from(task, Some(usize::MAX))
    }

    /// As worker `source`, if there is one.
    fn submit_from(
        self: &Arc<Self>,
        task: TaskRef,
        source: Option<usize>,
    ) -> Result<Ticket, Error> {
        let refused = if self.is_serial {
            match self.enter_serially() {
                Ok(entered) => {
                    entered.call(|worker| worker::run(task, worker));
                    return Ok(Ticket::NONE);
                }
                Err(_) => task,
            }
        } else {
            let pushed = match source {
                Some(index) => self.runners.push_nested(task, index),
                None => self.runners.push(task),
            };
            match pushed {
                Ok((ticket, missing)) => {
                    if let Some(starter) = missing {
                        starter.start(self);
                    }
                    return Ok(ticket);
                }
                Err(task) => task,
            }
        };
        worker::skip(refused, self.refusal());
        Err(self.refusal())
    }

    /// Runs `f` on the calling thread as the worker of a serial pool, which it is given. Refused when
    /// the pool has ended.
    pub(crate) fn serially<R>(self: &Arc<Self>, f: impl FnOnce(&Worker) -> R) -> Result<R, Error> {
        Ok(self.enter_serially()?.call(f))
    }

    /// Keeps a serial pool open for the calling thread.
    ///
    /// # Panics
    /// If the pool is not serial.
    pub(crate) fn enter_serially(self: &Arc<Self>) -> Result<SerialEntry<'_>, Error> {
        assert!(self.is_serial, "only a serial pool runs on its caller");
        // From a task of its own, which keeps it open and its worker in its place.
        let nested = worker::is_of(self.id);
        if !nested {
            if !self.runners.enter() {
                return Err(self.refusal());
            }
            self.occupy();
        }
        Ok(SerialEntry { shared: self, nested })
    }

    /// Counts the calling thread in, so that the worker is not replaced under it. While it is being replaced, waits for
    /// that, as a task waits for the initializer of a new worker.
    fn occupy(&self) {
        if self.max_tasks.is_none() {
            return;
        }
        let enter = |waker: Option<&Waker>| {
            let mut occupancy = lock(&self.occupancy);
            // In a terminated pool no task begins, so there is nothing to wait for.
            let enters = !occupancy.replacing || self.is_terminated();
            if enters {
                occupancy.inside += 1;
            } else if let Some(waker) = waker {
                occupancy.waiting.add(waker);
            }
            enters
        };
        if !enter(None) {
            self.wait(None, |waker| enter(Some(waker)));
        }
    }

    /// Runs tasks on `worker`, the calling thread, until there are none or it is to be replaced;
    /// the latter is what this returns.
    pub(crate) fn run_queue(self: &Arc<Self>, worker: &Worker) -> bool {
        let mut turn = Turn::new();
        let run = |task| {
            worker::run(task, worker);
            let retires = worker.should_retire();
            if !retires {
                turn.end();
            }
            retires
        };
        worker.set_runner(true);
        let retires = self.runners.run_queue(worker.index, |starter| starter.start(self), run);
        worker.set_runner(false);
        retires
    }

    /// Keeps the pool open, while what is returned is there, for accepted work that the calling thread, which is
    /// `worker`, is about to run: what that submits is accepted too. `None` if the pool has ended.
    ///
    /// To be called before the work is taken out of the queue.
    pub(crate) fn keep_open(&self, worker: &Worker) -> Option<impl Drop + use<'_>> {
        struct Open<'w>(Option<&'w Shared>);

        impl Drop for Open<'_> {
            fn drop(&mut self) {
                if let Some(shared) = self.0 {
                    shared.runners.exit();
                }
            }
        }

        // A runner does so itself.
        if worker.is_runner() {
            return Some(Open(None));
        }
        self.runners.enter().then(|| Open(Some(self)))
    }

    /// A start came to worker `index`, which cannot run the queue now.
    pub(crate) fn refuse_start(self: &Arc<Self>, index: usize) {
        // While the start still counts, for until then the pool is not over.
        let attended = threads::start_attendant(self);
        if self.runners.refuse(index, attended) {
            self.threads.attendant.call();
        }
    }

    /// Takes a task out of the queue, if it is still there. It is the caller's to run or to skip.
    pub(crate) fn withdraw(&self, ticket: Ticket) -> Option<TaskRef> {
        self.runners.withdraw(ticket)
    }

    /// Skips what is still queued of `tickets`: nobody wants it any more.
    pub(crate) fn skip_queued(&self, mut tickets: Tickets) {
        while let Some(task) = self.runners.withdraw_one(&mut tickets) {
            worker::skip(task, Error::Cancelled);
        }
    }

    /// Worker `index`, a runner, leaves. True if nobody is needed in its place, which is empty for good then.
    pub(crate) fn leave(&self, index: usize) -> bool {
        self.runners.leave(index, |task| worker::skip(task, self.stop_reason()))
    }

    /// The place of worker `index`, a runner, is empty for good, for nobody could be had: that is the end of the
    /// pool.
    pub(crate) fn give_up(self: &Arc<Self>, index: usize, why: Error) {
        self.break_down(why);
        let left = self.leave(index);
        debug_assert!(left, "nobody is needed in a terminated pool");
    }

    /// A worker cannot be replaced, which terminates the pool.
    fn break_down(self: &Arc<Self>, why: Error) {
        // Another may have failed first. An error may hold what panics when it is dropped.
        discard(self.broken.set(why));
        self.end(PoolState::Terminated);
    }

    /// Tells the runners that the calling thread, if it is a worker, waits for tasks, until what is returned is dropped.
    pub(crate) fn waiting(&self) -> impl Drop + use<'_> {
        struct Waiting<'w>(&'w Shared, Option<usize>);

        impl Drop for Waiting<'_> {
            fn drop(&mut self) {
                if let Some(index) = self.1 {
                    self.0.runners.note_wait(index, false);
                }
            }
        }

        let index = worker::index_in(self.id);
        if let Some(index) = index {
            self.runners.note_wait(index, true);
        }
        Waiting(self, index)
    }

    /// Blocks as [`park::until`] does, and is woken by `terminate` too.
    pub(crate) fn wait(
        &self,
        deadline: Option<Instant>,
        mut ready: impl FnMut(&Waker) -> bool,
    ) -> bool {
        // ORDERING: a guess. A worker that is up may be done sooner than a park and a wake-up take.
        let soon = self.runners.active() > 0;
        if soon && park::a_moment(|| ready(Waker::noop())) {
            return true;
        }
        let mut ticket = None;
        let done = park::until(deadline, |waker| {
            self.wakers.add(&mut ticket, waker);
            ready(waker)
        });
        self.wakers.remove(&mut ticket);
        done
    }

    // ---- end -------------------------------------------------------------------------------------

    /// Closes or terminates.
    pub(crate) fn end(self: &Arc<Self>, state: PoolState) {
        self.runners.end(state);
        if state == PoolState::Terminated {
            // A waiter registers before it looks at the state; so it saw the state or is woken.
            self.wakers.wake_all();
        }
    }

    /// Waits for the end of all work and of all threads.
    pub(crate) fn join(self: &Arc<Self>, deadline: Option<Instant>) -> Result<(), Error> {
        if self.state() == PoolState::Running {
            return Err(Error::StillRunning);
        }
        if worker::is_of(self.id) {
            return Err(Error::WouldDeadlock);
        }
        if !self.runners.retired.wait(deadline) {
            return Err(Error::Timeout);
        }
        if !std::mem::replace(&mut *lock(&self.threads.taken), true) {
            self.join_threads(deadline.is_some())?;
        }
        match self.threads.gone.wait(deadline) {
            true => Ok(()),
            false => Err(Error::Timeout),
        }
    }

    /// Joins the threads, which are let go by now; on a thread made for that, if the caller has a `deadline`: a
    /// thread has no join with a deadline, and the destructors of its thread-locals may take their time.
    fn join_threads(self: &Arc<Self>, deadline: bool) -> Result<(), Error> {
        let join = |shared: &Self| {
            let handles = std::mem::take(&mut *lock(&shared.threads.handles));
            for handle in handles.into_iter().flatten() {
                // The thread's own panic is nobody's: what ran on it was caught.
                let _ = handle.join().map_err(discard);
            }
            shared.threads.gone.set();
        };
        if !deadline {
            join(self);
            return Ok(());
        }
        let shared = Arc::clone(self);
        let main = move || {
            join(&shared);
            // It may be the last owner, and then drops what the initializer owns.
            discard(shared);
        };
        let started = std::thread::Builder::new().spawn(main);
        started.map(drop).map_err(|error| {
            // For the next who joins.
            *lock(&self.threads.taken) = false;
            Error::start(error)
        })
    }
}

/// A call into a serial pool, which it keeps open.
pub(crate) struct SerialEntry<'w> {
    shared: &'w Arc<Shared>,
    /// The thread is in a task of the pool.
    nested: bool,
}

impl SerialEntry<'_> {
    pub(crate) fn is_nested(&self) -> bool {
        self.nested
    }

    /// Runs `f` as the pool's worker.
    pub(crate) fn call<R>(&self, f: impl FnOnce(&Worker) -> R) -> R {
        let worker = &self.shared.places[0];
        worker::in_serial_call(worker, || f(worker))
    }

    /// Replaces the worker by itself, if it is time to and no other thread is in a task of it: a serial pool has no
    /// other worker. To be called between two tasks; true if there is a new one.
    pub(crate) fn replace_worker(&self) -> bool {
        self.replace(false)
    }

    /// The same for a thread that `leaves`. Of several the last does it: nobody waits for the others, which may be
    /// waiting for this one.
    fn replace(&self, leaves: bool) -> bool {
        let (shared, worker) = (self.shared, &self.shared.places[0]);
        if self.nested || shared.max_tasks.is_none() {
            return false;
        }
        {
            let mut occupancy = lock(&shared.occupancy);
            let alone = occupancy.inside == 1 && !occupancy.replacing;
            if !alone || !worker.should_retire() || shared.is_terminated() {
                occupancy.inside -= usize::from(leaves);
                return false;
            }
            occupancy.replacing = true;
        }
        let asked = Instant::now();
        // As the worker: what values do when they are dropped may be calls into the pool.
        self.call(Worker::end_generation);
        if let Err(error) = self.call(|worker| shared.initialize(worker.index, asked)) {
            shared.break_down(error);
        }
        let waiting = {
            let mut occupancy = lock(&shared.occupancy);
            occupancy.replacing = false;
            occupancy.inside -= usize::from(leaves);
            std::mem::take(&mut occupancy.waiting)
        };
        waiting.wake();
        true
    }
}

/// Also by a panic.
impl Drop for SerialEntry<'_> {
    fn drop(&mut self) {
        self.replace(true);
        if !self.nested {
            self.shared.runners.exit();
        }
    }
}

/// The threads that are in a serial pool whose worker is replaced.
#[derive(Default)]
struct Occupancy {
    /// How many are in a call into it, those not counted that have called from a task of it.
    inside: usize,
    /// The worker is being replaced, by one of them; no other thread runs anything meanwhile.
    replacing: bool,
    /// Who waits for that.
    waiting: Wakers,
}

/// A runner's turn at its thread: every few milliseconds it lets rayon code of the same pool in.
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
            threads::give_way();
            // The next tasks may be as long as these were.
            *self = Turn::new();
        } else {
            self.stride = (self.stride * 2).min(32);
            self.left = self.stride;
        }
    }
}

// A panic of the user's code is caught at the task; no state of the pool is ever half changed.
impl UnwindSafe for Shared {}
impl RefUnwindSafe for Shared {}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared")
            .field("state", &self.state())
            .field("count", &self.count)
            .finish_non_exhaustive()
    }
}
