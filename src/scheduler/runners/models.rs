//! Threads that submit, withdraw and end, and workers that run the queue, in all orders.

use super::*;
use crate::error::Error;
use crate::scheduler::attendant::Attendant;
use crate::scheduler::queue::Task;
use crate::scheduler::worker;
use crate::scheduler::worker::Worker;
use crate::sync::{Arc, model, model_within};
use loom::sync::Condvar;
use loom::thread::{self, JoinHandle};
use std::sync::Arc as Owned;
use std::sync::atomic::AtomicUsize as Count;

/// The threads of a pool: each waits for a job, which is a start.
struct Threads {
    jobs: Mutex<Jobs>,
    changed: Condvar,
}

struct Jobs {
    /// That nobody has taken.
    open: usize,
    /// The rayon code that threads are in at first has ended.
    free: bool,
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

    /// The same for a thread that is in rayon code, which takes jobs too while it waits: here as long as `takes`,
    /// so that the model is finite. False when it need not wait any longer.
    fn next_job_in_rayon(&self, takes: bool) -> bool {
        let mut jobs = lock(&self.jobs);
        loop {
            if jobs.free {
                return false;
            }
            if takes && jobs.open > 0 {
                jobs.open -= 1;
                return true;
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
    /// How many are left, and of these, how many have no runner; where workers are replaced.
    places: Option<(usize, usize)>,
}

impl IdleSet for Hands {
    type Starter = Arc<Threads>;

    fn find_idle(&mut self) -> Option<Arc<Threads>> {
        let threads = self.threads.as_ref()?;
        if let Some((_, idle)) = &mut self.places {
            *idle = idle.checked_sub(1)?;
        }
        Some(Arc::clone(threads))
    }

    fn mark_idle(&mut self, _: usize) {
        if let Some((_, idle)) = &mut self.places {
            *idle += 1;
        }
    }

    fn mark_refused(&mut self, index: usize) {
        self.mark_idle(index);
    }

    fn remove(&mut self, _: usize) -> bool {
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
struct Counted(Owned<Count>);

impl Task for Counted {
    fn run(self: Owned<Self>, _: &Worker) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }

    fn skip(self: Owned<Self>, _: Error) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

#[derive(Clone)]
struct Model {
    runners: Arc<Runners<Hands>>,
    threads: Arc<Threads>,
    attendant: Arc<Attendant>,
    replaced: bool,
    /// How many jobs a thread takes while it is in rayon code.
    takes: usize,
}

/// The pool was closed before.
#[derive(Debug, PartialEq, Eq)]
struct Refused;

impl Model {
    /// So many workers; each one replaced after a task, if they are `replaced`. The first `in_rayon` are in rayon
    /// code until [`Jobs::free`], and then there is an attendant.
    fn start(count: usize, in_rayon: usize, replaced: bool) -> (Self, Vec<JoinHandle<()>>) {
        Self::start_taking(1, count, in_rayon, replaced)
    }

    fn start_taking(
        takes: usize,
        count: usize,
        in_rayon: usize,
        replaced: bool,
    ) -> (Self, Vec<JoinHandle<()>>) {
        let threads = Arc::new(Threads {
            jobs: Mutex::new(Jobs { open: 0, free: false, over: false }),
            changed: Condvar::new(),
        });
        let places = replaced.then_some((count, count));
        let hands = Hands { threads: Some(Arc::clone(&threads)), places };
        let runners = Arc::new(Runners::new(count, hands));
        let model = Model { runners, threads, attendant: Arc::default(), replaced, takes };
        let mut handles: Vec<_> = (0..count)
            .map(|index| {
                let model = model.clone();
                thread::spawn(move || model.work(index, index < in_rayon))
            })
            .collect();
        if in_rayon > 0 {
            let model = model.clone();
            handles.push(thread::spawn(move || {
                let start = |threads: Arc<Threads>| threads.change(|jobs| jobs.open += 1);
                model.attendant.attend(&model.runners, start);
            }));
        }
        (model, handles)
    }

    /// The main function of one worker, and of its successors.
    fn work(&self, index: usize, in_rayon: bool) {
        let mut takes = self.takes;
        while in_rayon && self.threads.next_job_in_rayon(takes > 0) {
            if self.runners.refuse(index, true) {
                self.attendant.call();
            }
            takes -= 1;
        }
        while self.threads.next_job() {
            while self.run_queue(index) {
                if self.runners.leave(index, skip) {
                    return;
                }
            }
        }
    }

    /// Whether the worker is to be replaced.
    fn run_queue(&self, index: usize) -> bool {
        let worker = Worker::new(0, index, None);
        let mut retires = false;
        let start = |threads: Arc<Threads>| threads.change(|jobs| jobs.open += 1);
        self.runners.run_queue(index, start, |task| {
            worker::run(task, &worker);
            retires = self.replaced;
            retires
        });
        retires
    }

    /// Submits `task`.
    fn submit(&self, task: Owned<dyn Task>) -> Result<Ticket, Refused> {
        let (ticket, missing) = self.runners.push(task).map_err(|_| Refused)?;
        if let Some(threads) = missing {
            threads.change(|jobs| jobs.open += 1);
        }
        Ok(ticket)
    }

    /// Submits a task that counts its runs.
    fn count(&self, runs: &Owned<Count>) -> Result<Ticket, Refused> {
        self.submit(Owned::new(Counted(Owned::clone(runs))))
    }

    /// Waits for the end as `join` does.
    fn join(&self, workers: Vec<JoinHandle<()>>) {
        assert!(self.runners.retired.wait(None));
        workers.into_iter().for_each(|worker| worker.join().unwrap());
        let inner = lock(&self.runners.inner.lock);
        assert_eq!(inner.active, 0);
        assert!(inner.queue.is_empty(), "nothing is left in the queue");
        assert_eq!(self.runners.queued(), 0, "nor at the door");
    }
}

fn skip(task: TaskRef) {
    worker::skip(task, Error::Terminated);
}

/// What a submitter was not refused has run once when the pool is joined, whichever thread submits when.
fn accepted_is_run(count: usize, replaced: bool, end: PoolState) {
    model(move || {
        let (model, workers) = Model::start(count, 0, replaced);
        let [first, second] = [0, 0].map(|_| Owned::<Count>::default());
        model.count(&first).expect("the pool is running");
        let other = {
            let (model, second) = (model.clone(), Owned::clone(&second));
            thread::spawn(move || model.count(&second))
        };
        model.runners.end(end);
        let accepted = other.join().unwrap();
        model.join(workers);
        assert_eq!(first.load(Ordering::SeqCst), 1);
        let runs = second.load(Ordering::SeqCst);
        assert!(runs == 1 || accepted == Err(Refused) && runs == 0, "{accepted:?}, {runs} runs");
    });
}

#[test]
fn what_a_closed_pool_has_accepted_is_run() {
    accepted_is_run(1, false, PoolState::Closed);
}

#[test]
fn what_a_terminated_pool_has_accepted_is_run_too_to_be_skipped() {
    accepted_is_run(1, false, PoolState::Terminated);
}

#[test]
fn a_replaced_worker_leaves_nothing_behind() {
    accepted_is_run(1, true, PoolState::Closed);
    accepted_is_run(1, true, PoolState::Terminated);
}

/// In a pool that is closed and not terminated that means run, also if it comes as the last worker leaves.
#[test]
fn what_a_closed_pool_has_accepted_as_its_last_worker_leaves_is_not_skipped() {
    struct Runs(Owned<Count>);

    impl Task for Runs {
        fn run(self: Owned<Self>, _: &Worker) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
        fn skip(self: Owned<Self>, _: Error) {}
    }

    for count in [1, 2] {
        model_within(if count == 1 { 3 } else { 2 }, move || {
            let (model, workers) = Model::start(count, 0, true);
            let runs = Owned::<Count>::default();
            let submit = |model: &Model, runs: &Owned<Count>| {
                model.submit(Owned::new(Runs(Owned::clone(runs))))
            };
            submit(&model, &runs).expect("the pool is running");
            let other = {
                let (model, runs) = (model.clone(), Owned::clone(&runs));
                thread::spawn(move || submit(&model, &runs).is_ok())
            };
            model.runners.end(PoolState::Closed);
            let accepted = other.join().unwrap();
            model.join(workers);
            assert_eq!(runs.load(Ordering::SeqCst), 1 + usize::from(accepted));
        });
    }
}

/// A thread that waits for its task takes it out of the queue and runs it, or a runner has.
#[test]
fn a_task_is_run_by_a_runner_or_by_who_withdraws_it() {
    model(|| {
        let (model, workers) = Model::start(1, 0, false);
        let [first, second] = [0, 0].map(|_| Owned::<Count>::default());
        model.count(&first).expect("the pool is running");
        let ticket = model.count(&second).expect("the pool is running");
        let waiting = {
            let model = model.clone();
            thread::spawn(move || model.runners.withdraw(ticket).map(skip))
        };
        model.runners.end(PoolState::Closed);
        waiting.join().unwrap();
        model.join(workers);
        assert_eq!([first, second].map(|runs| runs.load(Ordering::SeqCst)), [1, 1]);
    });
}

/// The same while all threads are in rayon code, and nobody has come for the start that is owed.
#[test]
fn a_pool_ends_whose_last_task_was_withdrawn() {
    model_within(2, || {
        let (model, workers) = Model::start(1, 1, false);
        let runs = Owned::<Count>::default();
        let ticket = model.count(&runs).expect("the pool is running");
        model.runners.end(PoolState::Closed);
        model.runners.withdraw(ticket).map(skip);
        model.threads.change(|jobs| jobs.free = true);
        model.join(workers);
        assert_eq!(runs.load(Ordering::SeqCst), 1);
    });
}

/// Tells that it was run.
struct Tells(Arc<Event>);

impl Task for Tells {
    fn run(self: Owned<Self>, _: &Worker) {
        self.0.set();
    }
    fn skip(self: Owned<Self>, _: Error) {}
}

/// All threads are in rayon code when a task is submitted: it is run when one of them is back.
#[test]
fn a_start_that_is_refused_is_not_lost() {
    for count in [1, 2] {
        model_within(2, move || {
            let (model, workers) = Model::start(count, count, false);
            let done = Arc::new(Event::default());
            model.submit(Owned::new(Tells(Arc::clone(&done)))).expect("the pool is running");
            model.threads.change(|jobs| jobs.free = true);
            // Not closed before: nothing else comes that wakes a worker.
            assert!(done.wait(None));
            model.runners.end(PoolState::Closed);
            model.join(workers);
        });
    }
}

/// While a start is owed, a task is left at the door, and what was queued before it is gone.
#[test]
fn what_is_left_at_the_door_for_the_attendant_is_run() {
    for closed_first in [false, true] {
        model_within(2, move || {
            let (model, workers) = Model::start_taking(2, 1, 1, false);
            let done = Arc::new(Event::default());
            let runs = Owned::<Count>::default();
            let first = model.count(&runs).expect("the pool is running");
            model.runners.withdraw(first).map(skip);
            model.submit(Owned::new(Tells(Arc::clone(&done)))).expect("the pool is running");
            if closed_first {
                model.runners.end(PoolState::Closed);
            }
            model.threads.change(|jobs| jobs.free = true);
            assert!(done.wait(None));
            model.runners.end(PoolState::Closed);
            model.join(workers);
            assert_eq!(runs.load(Ordering::SeqCst), 1);
        });
    }
}

/// Two tasks of which each waits for the other: both workers are woken, whichever thread submits.
#[test]
fn no_task_waits_behind_another_while_a_worker_is_idle() {
    struct Meets(Arc<(Mutex<usize>, Condvar)>);

    impl Task for Meets {
        fn run(self: Owned<Self>, _: &Worker) {
            let (here, changed) = &*self.0;
            let mut count = lock(here);
            *count += 1;
            changed.notify_all();
            while *count < 2 {
                count = changed.wait(count).unwrap();
            }
        }
        fn skip(self: Owned<Self>, _: Error) {}
    }

    model_within(2, || {
        let (model, workers) = Model::start(2, 0, false);
        // A worker that looks for more is counted on.
        model.count(&Owned::default()).expect("the pool is running");
        let place = Arc::new((Mutex::new(0), Condvar::new()));
        for _ in 0..2 {
            model.submit(Owned::new(Meets(Arc::clone(&place)))).expect("the pool is running");
        }
        model.runners.end(PoolState::Closed);
        model.join(workers);
    });
}
