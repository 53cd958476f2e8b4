//! Who runs what is queued: the handshake of those who submit, those who run, and those who end it.
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
//!
//! Nothing here knows of threads. What there is to wake is a [`Roster`]'s: the pool's, or that of the
//! model checker.

use std::sync::atomic::Ordering;

use crossbeam_utils::CachePadded;

use crate::panic::discard;
use crate::queue::{Queue, TaskRef};
use crate::sync::atomic::{AtomicBool, AtomicU8, AtomicUsize, fence};
use crate::sync::{Mutex, MutexGuard, lock};
use crate::wait::{self, Event};
use crate::worker;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(crate) enum State {
    Running,
    /// Accepted work is finished, new work refused.
    Closed,
    /// What has not begun is skipped.
    Terminated,
}

/// The threads are gone.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Retired;

/// The workers, as far as it matters which of them are idle.
pub(crate) trait Roster {
    /// What wakes a worker, which then drains. Used when the lock is free: a wake-up takes microseconds,
    /// for which nobody else could wake another.
    type Starter;

    /// Finds an idle worker, which counts as busy from now on. `None` if all are busy.
    fn find_idle(&mut self) -> Result<Option<Self::Starter>, Retired>;

    /// The drainer of worker `index` left.
    fn rest(&mut self, index: usize);

    /// Worker `index` is gone and will not be replaced; true if it was the last.
    fn lose(&mut self, index: usize) -> bool;

    /// Lets all workers go. What is left of them is dropped when the lock is free; `None` if they were
    /// let go before.
    fn retire(&mut self) -> Option<Self>
    where
        Self: Sized;

    fn is_retired(&self) -> bool;
}

pub(crate) struct Drainers<R> {
    count: usize,
    /// A [`State`]; only grows.
    state: AtomicU8,
    queue: Queue,
    /// How many drainers there are, and others that keep the pool from being retired. Changed under the
    /// lock of `roster` only.
    ///
    /// On lines of their own, these two: all threads read what lies around them for each task.
    active: CachePadded<AtomicUsize>,
    /// How many drainers have found the queue empty and look again before they leave.
    looking: CachePadded<AtomicUsize>,
    /// The threads were called to drain and none has answered yet.
    calling: AtomicBool,
    roster: Mutex<R>,
    /// No task is left and none can come.
    pub(crate) retired: Event,
}

impl<R: Roster> Drainers<R> {
    pub(crate) fn new(count: usize, roster: R) -> Self {
        Drainers {
            count,
            state: AtomicU8::new(State::Running as u8),
            queue: Queue::new(),
            active: CachePadded::new(AtomicUsize::new(0)),
            looking: CachePadded::new(AtomicUsize::new(0)),
            calling: AtomicBool::new(false),
            roster: Mutex::new(roster),
            retired: Event::default(),
        }
    }

    /// Lets `change` at the workers.
    pub(crate) fn with_roster<T>(&self, change: impl FnOnce(&mut R) -> T) -> T {
        change(&mut lock(&self.roster))
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

    /// A guess at how many drainers there are.
    pub(crate) fn active(&self) -> usize {
        self.active.load(Ordering::Relaxed)
    }

    /// A guess at how many tasks are queued.
    pub(crate) fn queued(&self) -> usize {
        self.queue.len()
    }

    // ---- submitters ------------------------------------------------------------------------------

    /// To be followed by [`rouse`](Drainers::rouse).
    pub(crate) fn push(&self, task: TaskRef, nested: bool) {
        self.queue.push(task, nested);
    }

    /// The drainer that is missing for what was pushed, to be started by the caller. If the workers are
    /// gone, what was pushed will not be run from now on.
    pub(crate) fn rouse(&self) -> Result<Option<R::Starter>, Retired> {
        // ORDERING: the submitter's side of the handshake that the module describes; the drainer's
        // is in `leave` and `look_again`.
        fence(Ordering::SeqCst);
        // One that looks takes the task, and starts another if that was not the only one.
        if self.looking.load(Ordering::Relaxed) > 0
            || self.active.load(Ordering::Relaxed) >= self.count
        {
            return Ok(None);
        }
        let mut roster = lock(&self.roster);
        if self.active.load(Ordering::Relaxed) >= self.count {
            return Ok(None);
        }
        let found = roster.find_idle();
        match &found {
            // Counted first: so the pool is not retired before the drainer has come and gone.
            Ok(Some(_)) => _ = self.active.fetch_add(1, Ordering::Relaxed),
            // Fewer places than there were; those that are left come to it.
            Ok(None) => {}
            Err(Retired) => {
                drop(roster);
                // Whatever is in the queue came too late, and each submitter hears that himself. What
                // lies there must not keep the pool alive that it lies in.
                while let Some(task) = self.queue.pop() {
                    discard(task);
                }
            }
        }
        found
    }

    // ---- drainers --------------------------------------------------------------------------------

    /// Runs tasks as worker `index`, until there are none, or `run` has returned true: the worker is
    /// spent. Then it is no drainer any more, but in the second case its place stays taken.
    pub(crate) fn drain(
        &self,
        index: usize,
        start: impl Fn(R::Starter),
        mut run: impl FnMut(TaskRef) -> bool,
    ) {
        loop {
            while let Some(task) = self.queue.pop() {
                // ORDERING: who pushed what is left counted on somebody. If it was a drainer that has
                // left since, that one looked at the queue after its fence. If it was this one while it
                // was looking, the fence of `look_again` lies between.
                if self.active.load(Ordering::Relaxed) < self.count && !self.queue.is_empty() {
                    // Somebody else's task too may wait for this one to wake a worker. Refusal
                    // cannot be: this drainer keeps the pool from being retired.
                    let _ = self.rouse().map(|missing| missing.map(&start));
                }
                if run(task) {
                    return;
                }
            }
            if !self.look_again() && self.leave(index) {
                return;
            }
        }
    }

    /// Looks at the empty queue a little longer: whoever waited for the last task may submit the
    /// next at once, and then needs no wake-up. False when nothing came.
    fn look_again(&self) -> bool {
        self.looking.fetch_add(1, Ordering::Relaxed);
        let found = wait::a_moment(|| !self.queue.is_empty());
        self.looking.fetch_sub(1, Ordering::Relaxed);
        // ORDERING: as in `leave`: a submitter who still counted on this drainer is seen by the look
        // that follows, here or there.
        fence(Ordering::SeqCst);
        found || !self.queue.is_empty()
    }

    /// Ends a drainer; false if there is work after all, and it goes on.
    fn leave(&self, index: usize) -> bool {
        let mut roster = lock(&self.roster);
        self.active.fetch_sub(1, Ordering::Relaxed);
        // ORDERING: the drainer's side of the handshake that the module describes.
        fence(Ordering::SeqCst);
        if !self.queue.is_empty() {
            self.active.fetch_add(1, Ordering::Relaxed);
            return false;
        }
        roster.rest(index);
        self.retire_if_done(roster);
        true
    }

    /// Takes back the start of a drainer whose job came to a thread that has one. Another thread
    /// must hear of it: that one may be busy for long, and the queue is not empty.
    pub(crate) fn decline(&self, call_all: impl FnOnce(&mut R)) {
        let mut roster = lock(&self.roster);
        self.active.fetch_sub(1, Ordering::Relaxed);
        // ORDERING: only bounds how many calls are out; an answer that comes between the swap and the
        // call costs one call more.
        if !self.calling.swap(true, Ordering::Relaxed) {
            call_all(&mut roster);
        }
    }

    /// A thread that was called and `can` drain: whether it is a drainer now.
    pub(crate) fn answer(&self, can: bool) -> bool {
        self.calling.store(false, Ordering::Relaxed);
        let roster = lock(&self.roster);
        let needed = can
            && !roster.is_retired()
            && !self.queue.is_empty()
            && self.active.load(Ordering::Relaxed) < self.count;
        if needed {
            self.active.fetch_add(1, Ordering::Relaxed);
        }
        needed
    }

    /// Whether a worker that leaves need not be replaced. In a terminated pool it first skips, on
    /// the calling thread, what it would have left behind.
    pub(crate) fn needs_nobody(&self) -> bool {
        if self.state() == State::Terminated {
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

    /// The place of worker `index`, a drainer, is empty for good.
    pub(crate) fn give_up(&self, index: usize) {
        let last = lock(&self.roster).lose(index);
        loop {
            if last {
                // Nobody else is there to do it.
                self.skip_all();
            }
            let mut roster = lock(&self.roster);
            self.active.fetch_sub(1, Ordering::Relaxed);
            if !last {
                return self.retire_if_done(roster);
            }
            // ORDERING: as in `leave`.
            fence(Ordering::SeqCst);
            if self.queue.is_empty() {
                // What comes from now on is its submitter's, who is refused as soon as the lock is free.
                let gone = roster.retire();
                drop(roster);
                drop(gone);
                return self.retired.set();
            }
            // Its submitter counted on this one.
            self.active.fetch_add(1, Ordering::Relaxed);
        }
    }

    // ---- others ----------------------------------------------------------------------------------

    /// Keeps the pool from being retired, for somebody who has tasks in hand and is no drainer: he may
    /// be one more than there are workers. False if it was retired before.
    pub(crate) fn enter(&self) -> bool {
        let roster = lock(&self.roster);
        let open = !roster.is_retired();
        if open {
            self.active.fetch_add(1, Ordering::Relaxed);
        }
        open
    }

    /// He has no tasks in hand any more.
    pub(crate) fn exit(&self) {
        let roster = lock(&self.roster);
        self.active.fetch_sub(1, Ordering::Relaxed);
        self.retire_if_done(roster);
    }

    /// Throws stale tasks out of the queue. The drainer that may be missing then is the caller's to start.
    pub(crate) fn sweep(&self) -> Option<R::Starter> {
        if !self.enter() {
            return None;
        }
        self.queue.sweep();
        self.exit();
        // While it was swept, the queue looked shorter than it is and this thread like a drainer.
        self.rouse().ok().flatten()
    }

    /// Closes or terminates.
    pub(crate) fn end(&self, state: State) {
        // ORDERING: release, so that the reason is seen by who sees the state.
        self.state.fetch_max(state as u8, Ordering::AcqRel);
        self.retire_if_done(lock(&self.roster));
    }

    /// Lets the threads go if there is nothing to do and nothing can come.
    fn retire_if_done(&self, mut roster: MutexGuard<'_, R>) {
        // ORDERING: after the caller's change of `state` or `active`, before the looks at the
        // others; whoever changes the last of them sees all.
        fence(Ordering::SeqCst);
        let done = self.state() != State::Running
            && self.active.load(Ordering::Relaxed) == 0
            && self.queue.is_empty();
        if let Some(gone) = if done { roster.retire() } else { None } {
            drop(roster);
            // Rayon's threads leave when their pool is dropped; it does not wait for them.
            drop(gone);
            self.retired.set();
        }
    }
}

/// Threads that submit, end and sweep, and workers that drain, in all orders.
#[cfg(all(test, loom))]
mod models {
    use super::*;
    use crate::queue::Task;
    use crate::sync::{Arc, model, model_within};
    use loom::sync::Condvar;
    use loom::thread::{self, JoinHandle};
    use std::sync::Arc as Owned;
    use std::sync::atomic::AtomicUsize as Count;

    /// The threads of a pool: each waits for a job, which is to drain.
    struct Threads {
        jobs: Mutex<Jobs>,
        changed: Condvar,
    }

    struct Jobs {
        /// That nobody has taken.
        open: usize,
        over: bool,
    }

    impl Threads {
        /// Waits for a job; false when no more can come.
        fn next_job(&self) -> bool {
            let mut jobs = lock(&self.jobs);
            loop {
                if jobs.open > 0 {
                    jobs.open -= 1;
                    return true;
                }
                if jobs.over {
                    return false;
                }
                jobs = self.changed.wait(jobs).unwrap();
            }
        }

        fn change(&self, change: impl FnOnce(&mut Jobs)) {
            change(&mut lock(&self.jobs));
            self.changed.notify_all();
        }
    }

    /// The workers of a model.
    struct Hands {
        threads: Option<Arc<Threads>>,
        /// How many are left, and of these, how many have no drainer; where workers are replaced.
        places: Option<(usize, usize)>,
    }

    impl Roster for Hands {
        type Starter = Arc<Threads>;

        fn find_idle(&mut self) -> Result<Option<Arc<Threads>>, Retired> {
            let threads = self.threads.as_ref().ok_or(Retired)?;
            if let Some((_, idle)) = &mut self.places {
                if *idle == 0 {
                    return Ok(None);
                }
                *idle -= 1;
            }
            Ok(Some(Arc::clone(threads)))
        }

        fn rest(&mut self, _: usize) {
            if let Some((_, idle)) = &mut self.places {
                *idle += 1;
            }
        }

        fn lose(&mut self, _: usize) -> bool {
            let (left, _) = self.places.as_mut().expect("only replaced workers are lost");
            *left -= 1;
            *left == 0
        }

        fn retire(&mut self) -> Option<Self> {
            let threads = self.threads.take()?;
            threads.change(|jobs| jobs.over = true);
            Some(Hands { threads: Some(threads), places: None })
        }

        fn is_retired(&self) -> bool {
            self.threads.is_none()
        }
    }

    /// Counts its runs.
    struct Counted {
        runs: Owned<Count>,
        stale: bool,
    }

    impl Task for Counted {
        fn run(self: Owned<Self>) {
            self.runs.fetch_add(1, Ordering::SeqCst);
        }
        fn is_stale(&self) -> bool {
            self.stale
        }
    }

    #[derive(Clone)]
    struct Model {
        drainers: Arc<Drainers<Hands>>,
        threads: Arc<Threads>,
        replaced: bool,
    }

    impl Model {
        /// So many workers; each one replaced after a task, if they are `replaced`.
        fn start(count: usize, replaced: bool) -> (Self, Vec<JoinHandle<()>>) {
            let threads = Arc::new(Threads {
                jobs: Mutex::new(Jobs { open: 0, over: false }),
                changed: Condvar::new(),
            });
            let places = replaced.then_some((count, count));
            let hands = Hands { threads: Some(Arc::clone(&threads)), places };
            let drainers = Arc::new(Drainers::new(count, hands));
            let model = Model { drainers, threads, replaced };
            let workers = (0..count).map(|index| {
                let model = model.clone();
                thread::spawn(move || model.work(index))
            });
            (model.clone(), workers.collect())
        }

        /// The life of one worker, and of its successors.
        fn work(&self, index: usize) {
            while self.threads.next_job() {
                while self.drain(index) {
                    if self.drainers.needs_nobody() {
                        return self.drainers.give_up(index);
                    }
                }
            }
        }

        /// Whether the worker was spent.
        fn drain(&self, index: usize) -> bool {
            let mut spent = false;
            let start = |threads: Arc<Threads>| threads.change(|jobs| jobs.open += 1);
            self.drainers.drain(index, start, |task| {
                worker::run(task);
                spent = self.replaced;
                spent
            });
            spent
        }

        /// Submits a task that counts its runs.
        fn submit(&self, runs: &Owned<Count>) -> Result<(), Retired> {
            self.push(runs, false);
            self.start_missing(self.drainers.rouse()?);
            Ok(())
        }

        fn push(&self, runs: &Owned<Count>, stale: bool) {
            self.drainers.push(Owned::new(Counted { runs: Owned::clone(runs), stale }), false);
        }

        fn start_missing(&self, missing: Option<Arc<Threads>>) {
            if let Some(threads) = missing {
                threads.change(|jobs| jobs.open += 1);
            }
        }

        /// Waits for the end as `join` does.
        fn join(&self, workers: Vec<JoinHandle<()>>) {
            assert!(self.drainers.retired.wait(None));
            workers.into_iter().for_each(|worker| worker.join().unwrap());
            assert_eq!(self.drainers.active(), 0);
            assert!(self.drainers.queue.pop().is_none(), "nothing is left in the queue");
        }
    }

    /// What a submitter was not refused has run once when the pool is joined, whoever submits when.
    fn accepted_is_run(count: usize, replaced: bool, end: State) {
        model(move || {
            let (model, workers) = Model::start(count, replaced);
            let [first, second] = [0, 0].map(|_| Owned::<Count>::default());
            model.submit(&first).expect("the pool is running");
            let other = {
                let (model, second) = (model.clone(), Owned::clone(&second));
                thread::spawn(move || model.submit(&second))
            };
            model.drainers.end(end);
            let accepted = other.join().unwrap();
            model.join(workers);
            assert_eq!(first.load(Ordering::SeqCst), 1);
            let runs = second.load(Ordering::SeqCst);
            assert!(
                runs == 1 || accepted == Err(Retired) && runs == 0,
                "{accepted:?}, {runs} runs"
            );
        });
    }

    #[test]
    fn what_a_closed_pool_has_accepted_is_run() {
        accepted_is_run(1, false, State::Closed);
    }

    #[test]
    fn what_a_terminated_pool_has_accepted_is_run_too_to_be_skipped() {
        accepted_is_run(1, false, State::Terminated);
    }

    #[test]
    fn a_replaced_worker_leaves_nothing_behind() {
        accepted_is_run(1, true, State::Closed);
        accepted_is_run(1, true, State::Terminated);
    }

    /// A sweep has tasks in its hands that are in no queue meanwhile.
    #[test]
    fn nothing_accepted_is_lost_in_a_sweep() {
        model(|| {
            let (model, workers) = Model::start(1, false);
            let runs = Owned::<Count>::default();
            let sweeper = {
                let model = model.clone();
                thread::spawn(move || model.start_missing(model.drainers.sweep()))
            };
            model.submit(&runs).expect("the pool is running");
            model.drainers.end(State::Closed);
            sweeper.join().unwrap();
            model.join(workers);
            assert_eq!(runs.load(Ordering::SeqCst), 1);
        });
    }

    /// While it goes on, a sweep looks like a drainer that others may count on.
    #[test]
    fn who_counts_on_a_sweep_is_not_let_down() {
        model(|| {
            let (model, workers) = Model::start(1, false);
            let runs = Owned::<Count>::default();
            let submitter = {
                let (model, runs) = (model.clone(), Owned::clone(&runs));
                thread::spawn(move || model.submit(&runs))
            };
            model.start_missing(model.drainers.sweep());
            model.drainers.end(State::Closed);
            let accepted = submitter.join().unwrap();
            model.join(workers);
            let runs = runs.load(Ordering::SeqCst);
            assert!(
                runs == 1 || accepted == Err(Retired) && runs == 0,
                "{accepted:?}, {runs} runs"
            );
        });
    }

    /// Two tasks of which each waits for the other: both workers are woken, whoever submits.
    #[test]
    fn no_task_waits_behind_another_while_a_worker_is_idle() {
        struct Meets(Arc<(Mutex<usize>, Condvar)>);

        impl Task for Meets {
            fn run(self: Owned<Self>) {
                let (here, changed) = &*self.0;
                let mut count = lock(here);
                *count += 1;
                changed.notify_all();
                while *count < 2 {
                    count = changed.wait(count).unwrap();
                }
            }
            fn is_stale(&self) -> bool {
                false
            }
        }

        model_within(2, || {
            let (model, workers) = Model::start(2, false);
            // A worker that looks for more is counted on.
            model.submit(&Owned::default()).expect("the pool is running");
            let place = Arc::new((Mutex::new(0), Condvar::new()));
            for _ in 0..2 {
                model.drainers.push(Owned::new(Meets(Arc::clone(&place))), false);
                model.start_missing(model.drainers.rouse().expect("the pool is running"));
            }
            model.drainers.end(State::Closed);
            model.join(workers);
        });
    }
}
