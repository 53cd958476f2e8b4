//! Who runs what is queued: the agreement of those who submit, those who run, and those who end it.
//!
//! A pool has `count` workers. At most that many *runners* are active, each a job on a worker's
//! thread that runs tasks until the queue is empty. A runner is started by the thread that submits while
//! one is missing; so the price of a wake-up is paid once per burst and not per task.
//!
//! # Why no task is left lying
//!
//! Everything that the decision depends on (the queue, the number of runners, the idle workers) is
//! changed under one lock. Who pushes a task finds, under that lock, that enough runners are active, or that one
//! looks for work and will look at the queue once more before it leaves, or starts one. A runner that takes a
//! task does the same for what is left.
//!
//! So that who submits from outside does not stand in the way of those who run, that has a lock of its own: the
//! [`Door`]. As long as the pool is *attended* (enough runners are active, or one looks, or the attendant is to
//! try again), a task is left at the door, and one of these takes it in. The pool ceases to be
//! attended under the lock of the door, and in the same moment all that lies there is taken in: so
//! nothing lies at the door of a pool that is not attended, and the decision is made for all that is queued. Who has both
//! locks has taken that of the runners first.
//!
//! # A start that cannot be run
//!
//! The job of a start may come to a thread that is in rayon code of a task, inside of a wait. There no task may
//! run (see `scheduler/worker.rs`). It is *refused*, and from then on a start is *owed*: submitters start nobody, for
//! their jobs would come to the same threads, and the *attendant* (`scheduler/attendant.rs`) tries again now and then until
//! a thread is back at the bottom of its stack, or others have emptied the queue. A runner that is at the bottom
//! already takes what is queued as soon as its task has ended.
//!
//! # The end
//!
//! The last runner of a pool that is closed or terminated *retires* it: the threads are let go. That happens
//! under the same lock, so nobody can submit to threads that are gone: the task is refused instead.
//!
//! Nothing here knows of threads. What there is to wake is an [`IdleSet`]'s: the pool's, or that of the
//! model checker.

use crossbeam_utils::CachePadded;

use super::park;
use super::park::Event;
use super::queue::{Incoming, Queue, TaskRef, Ticket, Tickets};
use crate::sync::{
    Mutex, MutexGuard, atomic::AtomicU8, atomic::AtomicUsize, atomic::Ordering, lock,
};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(crate) enum PoolState {
    Running,
    /// Accepted work is finished, new work refused.
    Closed,
    /// What has not begun is skipped.
    Terminated,
}

/// The workers, as far as it matters which of them are idle.
pub(crate) trait IdleSet {
    /// What wakes a worker, which then runs the queue. Used when the lock is free: a wake-up takes
    /// microseconds, for which nobody else could wake another.
    type Starter;

    /// Finds an idle worker, which counts as busy from now on. `None` if all are busy.
    fn find_idle(&mut self) -> Option<Self::Starter>;

    /// The runner of worker `index` left.
    fn mark_idle(&mut self, index: usize);

    /// Worker `index`, found idle, cannot run tasks now: all others are found before it.
    fn mark_refused(&mut self, index: usize);

    /// Worker `index` is gone and will not be replaced; true if it was the last.
    fn remove(&mut self, index: usize) -> bool;

    /// Lets all workers go. What is left of them is dropped when the lock is free; `None` if they were
    /// let go before.
    fn retire(&mut self) -> Option<Self>
    where
        Self: Sized;

    fn is_retired(&self) -> bool;
}

/// What the attendant is to do next.
pub(crate) enum Retry<S> {
    /// Start this runner.
    Start(S),
    /// Nothing is owed any more.
    Settled,
    Retired,
}

pub(crate) struct Runners<I> {
    count: usize,
    /// A [`PoolState`]; only grows. Changed under the lock, and read by all threads for each task: on a line of its
    /// own, with what never changes.
    state: AtomicU8,
    /// How many runners there are, to be guessed at without the lock.
    active: CachePadded<AtomicUsize>,
    /// By worker: how many waits for handles its tasks are in, one on top of the other.
    waits: Box<[CachePadded<AtomicUsize>]>,
    door: CachePadded<Guarded<Door>>,
    inner: CachePadded<Guarded<RunnersInner<I>>>,
    /// No task is left and none can come.
    pub(crate) retired: Event,
}

/// What a lock guards, and beside it how many tasks are in that, for those who look for one without the lock.
struct Guarded<T> {
    tasks: AtomicUsize,
    lock: Mutex<T>,
}

impl<T> Guarded<T> {
    fn new(inner: T) -> Self {
        Guarded { tasks: AtomicUsize::new(0), lock: Mutex::new(inner) }
    }

    // ORDERING (of both): a guess. Who acts on it takes the lock first.
    fn count(&self) -> usize {
        self.tasks.load(Ordering::Relaxed)
    }

    fn set_count(&self, tasks: usize) {
        self.tasks.store(tasks, Ordering::Relaxed);
    }
}

/// Where tasks come in from outside.
#[derive(Default)]
struct Door {
    tasks: Incoming,
    /// What is left here is taken in by somebody who is awake.
    attended: bool,
}

struct RunnersInner<I> {
    queue: Queue,
    /// As the door has it.
    attended: bool,
    /// How many runners there are or were started.
    active: usize,
    /// How many keep the pool from being retired besides.
    held: usize,
    /// How many of them have found the queue empty and look once more before they leave.
    looking: usize,
    /// A start was refused.
    owed: bool,
    idle: I,
}

impl<I: IdleSet> RunnersInner<I> {
    /// The runner that is missing for what is queued, to be started by the caller.
    fn missing(&mut self, count: usize) -> Option<I::Starter> {
        let enough = self.queue.is_empty() || self.looking > 0 || self.active >= count;
        if enough || self.owed {
            return None;
        }
        self.start()
    }

    /// Counted before it is there: so the pool is not retired before it has come and gone.
    fn start(&mut self) -> Option<I::Starter> {
        let starter = self.idle.find_idle()?;
        self.active += 1;
        Some(starter)
    }
}

impl<I: IdleSet> Runners<I> {
    pub(crate) fn new(count: usize, idle: I) -> Self {
        Runners {
            count,
            state: AtomicU8::new(PoolState::Running as u8),
            active: CachePadded::new(AtomicUsize::new(0)),
            waits: (0..count).map(|_| CachePadded::new(AtomicUsize::new(0))).collect(),
            door: CachePadded::new(Guarded::new(Door::default())),
            inner: CachePadded::new(Guarded::new(RunnersInner {
                queue: Queue::default(),
                attended: false,
                active: 0,
                held: 0,
                looking: 0,
                owed: false,
                idle,
            })),
            retired: Event::default(),
        }
    }

    /// Lets `change` at the workers.
    pub(crate) fn with_idle<T>(&self, change: impl FnOnce(&mut I) -> T) -> T {
        change(&mut self.lock().idle)
    }

    #[inline]
    pub(crate) fn state(&self) -> PoolState {
        // ORDERING: pairs with the release in `end`: who sees `Terminated` sees why.
        match self.state.load(Ordering::Acquire) {
            0 => PoolState::Running,
            1 => PoolState::Closed,
            _ => PoolState::Terminated,
        }
    }

    pub(crate) fn is_retired(&self) -> bool {
        self.lock().idle.is_retired()
    }

    /// A guess at how many runners there are.
    pub(crate) fn active(&self) -> usize {
        self.active.load(Ordering::Relaxed)
    }

    /// A guess at how many tasks are queued.
    pub(crate) fn queued(&self) -> usize {
        self.inner.count() + self.door.count()
    }

    fn lock(&self) -> MutexGuard<'_, RunnersInner<I>> {
        lock(&self.inner.lock)
    }

    /// Tells those who have not the lock what has changed under it; to be called after each change. If the pool
    /// ceases to be attended by that, what lies at the door is queued.
    fn publish(&self, inner: &mut RunnersInner<I>) {
        let attended = inner.looking > 0 || inner.active >= self.count || inner.owed;
        if inner.attended != attended {
            inner.attended = attended;
            let mut door = lock(&self.door.lock);
            door.attended = attended;
            if !attended {
                self.take_in_from(&mut door, inner);
                door.tasks.give_back();
            }
        }
        self.inner.set_count(inner.queue.len());
        // ORDERING: a guess. Seldom another: what is not written stays in the caches of those who read it.
        if self.active.load(Ordering::Relaxed) != inner.active {
            self.active.store(inner.active, Ordering::Relaxed);
        }
    }

    /// Queues what lies at the door.
    fn take_in(&self, inner: &mut RunnersInner<I>) {
        // Who has left something there since is seen when the pool ceases to be attended.
        if self.door.count() > 0 {
            self.take_in_from(&mut lock(&self.door.lock), inner);
        }
    }

    fn take_in_from(&self, door: &mut Door, inner: &mut RunnersInner<I>) {
        inner.queue.take_in(&mut door.tasks);
        self.door.set_count(0);
    }

    // ---- submitters ------------------------------------------------------------------------------

    /// Queues `task`; what it returns besides the ticket is to be started by the caller. Gives the task back if
    /// the workers are gone.
    pub(crate) fn push(&self, task: TaskRef) -> Result<(Ticket, Option<I::Starter>), TaskRef> {
        let mut door = lock(&self.door.lock);
        if door.attended {
            let ticket = door.tasks.push(task);
            self.door.set_count(door.tasks.len());
            return Ok((ticket, None));
        }
        drop(door);
        let mut inner = self.lock();
        if inner.idle.is_retired() {
            return Err(task);
        }
        let mut door = lock(&self.door.lock);
        let ticket = door.tasks.push(task);
        self.take_in_from(&mut door, &mut inner);
        drop(door);
        Ok((ticket, self.start_missing(&mut inner)))
    }

    /// The same for what a task of worker `source` submits, which goes before all that comes from outside.
    pub(crate) fn push_nested(
        &self,
        task: TaskRef,
        source: usize,
    ) -> Result<(Ticket, Option<I::Starter>), TaskRef> {
        let mut inner = self.lock();
        if inner.idle.is_retired() {
            return Err(task);
        }
        let ticket = inner.queue.push(task, source);
        Ok((ticket, self.start_missing(&mut inner)))
    }

    fn start_missing(&self, inner: &mut RunnersInner<I>) -> Option<I::Starter> {
        let missing = inner.missing(self.count);
        self.publish(inner);
        missing
    }

    /// Takes a task out of the queue, if it is still there. It is the caller's to run or to skip.
    pub(crate) fn withdraw(&self, ticket: Ticket) -> Option<TaskRef> {
        if ticket == Ticket::NONE {
            return None;
        }
        let mut inner = self.lock();
        if !ticket.is_nested() {
            self.take_in(&mut inner);
        }
        let task = inner.queue.withdraw(ticket);
        self.publish(&mut inner);
        if task.is_some() {
            self.retire_if_done(inner);
        }
        task
    }

    /// A task on worker `index` begins or has ended to wait for others.
    pub(crate) fn note_wait(&self, index: usize, begins: bool) {
        // ORDERING (here and in `waits`): advice for the order of tasks.
        match begins {
            true => self.waits[index].fetch_add(1, Ordering::Relaxed),
            false => self.waits[index].fetch_sub(1, Ordering::Relaxed),
        };
    }

    fn waits(&self, index: usize) -> bool {
        self.waits.get(index).is_some_and(|waits| waits.load(Ordering::Relaxed) > 0)
    }

    /// The oldest of `tickets` that is still queued.
    pub(crate) fn withdraw_one(&self, tickets: &mut Tickets) -> Option<TaskRef> {
        std::iter::from_fn(|| tickets.pop()).find_map(|ticket| self.withdraw(ticket))
    }

    // ---- runners ---------------------------------------------------------------------------------

    /// Runs tasks as worker `index`, until there are none, or `run` has returned true: the worker is to
    /// be replaced, which is what this returns. Then it is no runner any more, but in the second case its place stays
    /// taken, and it counts as one until its successor goes on.
    pub(crate) fn run_queue(
        &self,
        index: usize,
        start: impl Fn(I::Starter),
        mut run: impl FnMut(TaskRef) -> bool,
    ) -> bool {
        let mut inner = self.lock();
        // This start at least was not refused.
        inner.owed = false;
        loop {
            if inner.queue.is_empty() {
                self.take_in(&mut inner);
            }
            let Some(task) = inner.queue.pop(|index| self.waits(index)) else {
                inner = self.look_again(inner);
                if !inner.queue.is_empty() {
                    continue;
                }
                inner.active -= 1;
                self.publish(&mut inner);
                if !inner.queue.is_empty() {
                    // It was left at the door, and its submitter counted on this one.
                    inner.active += 1;
                    continue;
                }
                inner.idle.mark_idle(index);
                self.retire_if_done(inner);
                return false;
            };
            let missing = self.start_missing(&mut inner);
            drop(inner);
            // The task may wait for another one, so first somebody is woken for that.
            if let Some(starter) = missing {
                start(starter);
            }
            if run(task) {
                return true;
            }
            inner = self.lock();
        }
    }

    /// Looks at the empty queue a little longer: the thread that waited for the last task may submit the
    /// next at once, and then needs no wake-up. The queue is still empty when nothing came.
    fn look_again<'a>(
        &'a self,
        mut inner: MutexGuard<'a, RunnersInner<I>>,
    ) -> MutexGuard<'a, RunnersInner<I>> {
        if self.state() != PoolState::Running {
            return inner;
        }
        inner.looking += 1;
        self.publish(&mut inner);
        drop(inner);
        park::a_moment(|| self.queued() > 0);
        let mut inner = self.lock();
        inner.looking -= 1;
        // What was pushed meanwhile counted on this one.
        self.take_in(&mut inner);
        self.publish(&mut inner);
        inner
    }

    /// Takes back a start whose job came to a thread that may not run tasks now. True if it is owed from now on, by
    /// the attendant; where there is none, the next submitter starts somebody.
    pub(crate) fn refuse(&self, index: usize, attended: bool) -> bool {
        let mut inner = self.lock();
        inner.active -= 1;
        inner.idle.mark_refused(index);
        // Decided anew, with all in sight that counted on the attendant.
        inner.owed = false;
        self.publish(&mut inner);
        inner.owed = attended && !inner.queue.is_empty();
        let owed = inner.owed;
        self.publish(&mut inner);
        self.retire_if_done(inner);
        owed
    }

    /// What the attendant does for a start that is owed.
    pub(crate) fn retry(&self) -> Retry<I::Starter> {
        let mut inner = self.lock();
        if inner.idle.is_retired() {
            return Retry::Retired;
        }
        let was_owed = std::mem::replace(&mut inner.owed, false);
        // From now on nobody counts on the attendant.
        self.publish(&mut inner);
        let wanted = was_owed && !inner.queue.is_empty() && inner.active < self.count;
        let starter = if wanted { inner.start() } else { None };
        inner.owed = starter.is_some();
        self.publish(&mut inner);
        match starter {
            Some(starter) => Retry::Start(starter),
            None => Retry::Settled,
        }
    }

    /// Worker `index`, a runner, leaves. True if nobody is needed in its place, which is empty for good then: the pool is
    /// not running, and nothing is queued. In a terminated pool it first skips, on the calling thread, what it would have
    /// left behind.
    pub(crate) fn leave(&self, index: usize, mut skip: impl FnMut(TaskRef)) -> bool {
        loop {
            let mut inner = self.lock();
            self.take_in(&mut inner);
            match self.state() {
                PoolState::Running => return false,
                // What a closed pool has accepted is run.
                PoolState::Closed if !inner.queue.is_empty() => return false,
                PoolState::Closed | PoolState::Terminated => {}
            }
            if let Some(task) = inner.queue.pop(|_| false) {
                self.publish(&mut inner);
                drop(inner);
                skip(task);
                continue;
            }
            inner.active -= 1;
            let owed = std::mem::replace(&mut inner.owed, false);
            self.publish(&mut inner);
            if !inner.queue.is_empty() {
                // It was left at the door, and its submitter counted on this one.
                inner.active += 1;
                inner.owed = owed;
                self.publish(&mut inner);
                continue;
            }
            if inner.idle.remove(index) {
                // What comes from now on is refused: nobody would be there to run it.
                self.retire(inner);
            } else {
                inner.owed = owed;
                self.publish(&mut inner);
                self.retire_if_done(inner);
            }
            return true;
        }
    }

    // ---- others ----------------------------------------------------------------------------------

    /// Keeps the pool from being retired, for somebody who works for it and is no runner. False if it was
    /// retired before.
    pub(crate) fn enter(&self) -> bool {
        let mut inner = self.lock();
        let open = !inner.idle.is_retired();
        inner.held += usize::from(open);
        open
    }

    /// The work is done.
    pub(crate) fn exit(&self) {
        let mut inner = self.lock();
        inner.held -= 1;
        self.retire_if_done(inner);
    }

    /// Counts a runner that nobody has started, in models without threads to wake. False if the pool was retired before.
    #[cfg(all(test, loom))]
    pub(crate) fn enter_as_runner(&self) -> bool {
        let mut inner = self.lock();
        let open = !inner.idle.is_retired();
        inner.active += usize::from(open);
        self.publish(&mut inner);
        open
    }

    /// Closes or terminates.
    pub(crate) fn end(&self, state: PoolState) {
        let inner = self.lock();
        // ORDERING: release, so that the reason is seen by who sees the state.
        self.state.fetch_max(state as u8, Ordering::AcqRel);
        self.retire_if_done(inner);
    }

    /// Lets the threads go if there is nothing to do and nothing can come.
    fn retire_if_done(&self, mut inner: MutexGuard<'_, RunnersInner<I>>) {
        let busy = inner.active > 0 || inner.held > 0 || !inner.queue.is_empty();
        if self.state() == PoolState::Running || busy {
            return;
        }
        let owed = std::mem::replace(&mut inner.owed, false);
        self.publish(&mut inner);
        if inner.queue.is_empty() {
            return self.retire(inner);
        }
        // It was left at the door for the attendant.
        inner.owed = owed;
        self.publish(&mut inner);
    }

    /// Lets the threads go. Nothing is queued, and the pool is not attended: what comes from now on is refused.
    fn retire(&self, mut inner: MutexGuard<'_, RunnersInner<I>>) {
        debug_assert!(!inner.attended && inner.queue.is_empty());
        let gone = inner.idle.retire();
        drop(inner);
        if gone.is_some() {
            // Rayon's threads leave when their pool is dropped; it does not wait for them.
            drop(gone);
            self.retired.set();
        }
    }
}

#[cfg(all(test, loom))]
mod models;
