//! Starts that go from hand to hand, workers that are in rayon code, and workers that are replaced, in all orders.

use super::*;
use crate::error::Error;
use crate::scheduler::attendant::Attendant;
use crate::scheduler::park::Event;
use crate::scheduler::queue::{Task, TaskRef};
use crate::scheduler::runners::PoolState;
use crate::scheduler::worker;
use crate::scheduler::worker::Worker;
use crate::sync::{Arc, Mutex, lock, model_within};
use loom::sync::Condvar;
use loom::thread::{self, JoinHandle};
use std::cell::Cell;
use std::sync::Arc as Owned;

/// A rayon pool of one thread or of several.
struct Rayon {
    jobs: Mutex<Jobs>,
    changed: Condvar,
}

#[derive(Default)]
struct Jobs {
    /// That nobody has taken.
    starts: VecDeque<Route>,
    /// The rayon code that threads are in at first has ended.
    free: bool,
    /// Its handle was dropped: threads leave when no job is left.
    over: bool,
}

/// Its handle.
struct Handle(Arc<Rayon>);

type Place = Arc<Handle>;

impl Rayon {
    fn new() -> Arc<Self> {
        Arc::new(Rayon { jobs: Mutex::default(), changed: Condvar::new() })
    }

    fn change(&self, change: impl FnOnce(&mut Jobs)) {
        change(&mut lock(&self.jobs));
        self.changed.notify_all();
    }

    fn spawn(&self, start: Route) {
        self.change(|jobs| jobs.starts.push_back(start));
    }

    /// Waits for a job, in the main loop of a thread. `None` when no more can come.
    fn next(&self) -> Option<Route> {
        self.next_until(|jobs| jobs.over, true)
    }

    /// The same in a wait inside of rayon code, where a job may be taken, if it is there: here only if the thread
    /// `takes` some, so that the model is finite. `None` when the wait is over.
    fn next_in_rayon(&self, takes: bool) -> Option<Route> {
        if lock(&self.jobs).free {
            return None;
        }
        self.next_until(|jobs| jobs.free, takes)
    }

    fn next_until(&self, over: impl Fn(&Jobs) -> bool, takes: bool) -> Option<Route> {
        let mut jobs = lock(&self.jobs);
        loop {
            if let Some(start) = if takes { jobs.starts.pop_front() } else { None } {
                return Some(start);
            }
            if over(&jobs) {
                return None;
            }
            jobs = self.changed.wait(jobs).unwrap();
        }
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.0.change(|jobs| jobs.over = true);
    }
}

#[derive(Clone, Copy)]
struct Case {
    workers: usize,
    /// After how many tasks each is replaced; and then each has a rayon pool of its own.
    max_tasks: Option<usize>,
    /// How many are in rayon code at first, the last ones.
    in_rayon: usize,
    /// How many jobs each of these takes there.
    takes: usize,
    /// There is an attendant. Where there is none, no start is refused.
    attended: bool,
}

#[derive(Clone)]
struct Model {
    case: Case,
    runners: Arc<Runners<Places<Place>>>,
    attendant: Arc<Attendant>,
    /// Whose rayon code ends when a start is refused.
    freed: Vec<Arc<Rayon>>,
}

impl Model {
    fn start(case: Case) -> (Self, Vec<Arc<Rayon>>, Vec<JoinHandle<()>>) {
        let count = case.workers;
        let pools = if case.max_tasks.is_some() { count } else { 1 };
        let rayon: Vec<_> = (0..pools).map(|_| Rayon::new()).collect();
        let mut handles = rayon.iter().map(|rayon| Arc::new(Handle(Arc::clone(rayon))));
        let places = match case.max_tasks {
            None => Places::Lasting(handles.next().unwrap()),
            Some(_) => {
                let mut places = Places::replaced(count);
                for (index, handle) in handles.enumerate() {
                    *places.of(index).unwrap() = Some(handle);
                }
                places
            }
        };
        let runners = Arc::new(Runners::new(count, places));
        let freed = if case.takes == usize::MAX { rayon.clone() } else { Vec::new() };
        let model = Model { case, runners, attendant: Arc::default(), freed };
        let mut threads: Vec<_> = (0..count)
            .map(|index| {
                let (model, rayon) = (model.clone(), Arc::clone(&rayon[index % pools]));
                thread::spawn(move || model.serve(index, rayon))
            })
            .collect();
        if case.attended {
            let model = model.clone();
            threads.push(thread::spawn(move || model.attendant.attend(&model.runners, start)));
        }
        (model, rayon, threads)
    }

    /// The main function of one worker, and of its successors.
    fn serve(&self, index: usize, mut rayon: Arc<Rayon>) {
        let worker = Worker::new(0, index, self.case.max_tasks);
        if index + self.case.in_rayon >= self.case.workers {
            let left = Cell::new(self.case.takes);
            while let Some(start) = rayon.next_in_rayon(left.get() > 0) {
                left.set(left.get() - 1);
                self.run(start, &worker, false);
            }
        }
        loop {
            while let Some(start) = rayon.next() {
                self.run(start, &worker, true);
            }
            if !worker.has_left() {
                return;
            }
            worker.end_generation();
            if self.runners.leave(index, skip) {
                return;
            }
            rayon = Rayon::new();
            let place = Arc::new(Handle(Arc::clone(&rayon)));
            self.runners.with_idle(|places| {
                if let Some(empty) = places.of(index) {
                    *empty = Some(Arc::clone(&place));
                }
            });
            // It takes the place of a runner.
            start(Starter { place });
        }
    }

    /// The job of a start.
    fn run(&self, route: Route, worker: &Worker, at_bottom: bool) {
        route.arrive();
        if !at_bottom {
            match route.pass_on(worker.index, self.case.workers, &self.runners) {
                Some(Next { place, route, .. }) => place.0.spawn(route),
                None => {
                    assert!(self.case.attended);
                    if self.runners.refuse(worker.index, true) {
                        self.attendant.call();
                    }
                    self.freed.iter().for_each(|rayon| rayon.change(|jobs| jobs.free = true));
                }
            }
            return;
        }
        let retires = self.runners.run_queue(worker.index, start, |task| {
            worker.count();
            worker::run(task, worker);
            worker.should_retire()
        });
        if retires {
            worker.leave();
            let place = |places: &mut Places<Place>| places.of(worker.index).and_then(Option::take);
            drop(self.runners.with_idle(place));
        }
    }

    /// False if it was refused.
    fn submit(&self, task: TaskRef) -> bool {
        let pushed = self.runners.push(task);
        pushed.map(|(_, missing)| missing.map(start)).is_ok()
    }

    /// Closes, and waits for the end as `join` does.
    fn join(self, end: PoolState, threads: Vec<JoinHandle<()>>) {
        self.runners.end(end);
        assert!(self.runners.retired.wait(None));
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        assert_eq!((self.runners.active(), self.runners.queued()), (0, 0));
    }
}

fn start(starter: Starter<Place>) {
    starter.place.0.spawn(Route::default());
}

fn skip(task: TaskRef) {
    worker::skip(task, Error::Terminated);
}

/// Tells that it was run, and waits until all of these have begun.
struct Meets {
    done: Arc<Event>,
    here: Arc<(Mutex<usize>, Condvar)>,
    all: usize,
}

impl Task for Meets {
    fn run(self: Owned<Self>, _: &Worker) {
        let (here, changed) = &*self.here;
        let mut count = lock(here);
        *count += 1;
        changed.notify_all();
        while *count < self.all {
            count = changed.wait(count).unwrap();
        }
        drop(count);
        self.done.set();
    }

    fn skip(self: Owned<Self>, _: Error) {
        unreachable!("the pool is not terminated");
    }
}

impl Model {
    /// Submits so many tasks that need a worker each, and waits for them.
    fn meet(&self, all: usize) {
        let here = Arc::new((Mutex::new(0), Condvar::new()));
        let done: Vec<_> = (0..all).map(|_| Arc::new(Event::default())).collect();
        for done in &done {
            let (done, here) = (Arc::clone(done), Arc::clone(&here));
            assert!(self.submit(Owned::new(Meets { done, here, all })));
        }
        done.iter().for_each(|done| assert!(done.wait(None)));
    }
}

const LASTING: Case = Case { workers: 2, max_tasks: None, in_rayon: 1, takes: 1, attended: false };

const REPLACED: Case = Case { max_tasks: Some(9), ..LASTING };

/// A task comes while a thread is in rayon code that ends no sooner than that: a thread that sleeps runs it.
/// And no worker is lost by that: later there are all of them.
fn a_thread_that_sleeps_runs_it(preemptions: usize, case: Case) {
    model_within(preemptions, move || {
        let (model, rayon, threads) = Model::start(case);
        model.meet(1);
        rayon.iter().for_each(|rayon| rayon.change(|jobs| jobs.free = true));
        if !case.attended {
            model.meet(case.workers);
        }
        drop(rayon);
        model.join(PoolState::Closed, threads);
    });
}

#[test]
fn a_start_goes_to_a_thread_that_sleeps() {
    a_thread_that_sleeps_runs_it(2, LASTING);
    // The thread in rayon code may take it back, and then refuses it.
    a_thread_that_sleeps_runs_it(2, Case { takes: 2, attended: true, ..LASTING });
}

#[test]
fn a_start_goes_to_the_place_of_another_worker() {
    a_thread_that_sleeps_runs_it(2, REPLACED);
}

/// All threads are in rayon code when a task comes, and pass its start round: it is run when one is back.
#[test]
fn a_start_that_goes_round_is_not_lost() {
    let lasting = Case { in_rayon: 2, takes: 2, attended: true, ..LASTING };
    let replaced = Case { in_rayon: 2, takes: 3, attended: true, ..REPLACED };
    for case in [lasting, replaced] {
        model_within(1, move || {
            let (model, rayon, threads) = Model::start(case);
            let done = Arc::new(Event::default());
            let here = Arc::new((Mutex::new(0), Condvar::new()));
            assert!(model.submit(Owned::new(Meets { done: Arc::clone(&done), here, all: 1 })));
            rayon.iter().for_each(|rayon| rayon.change(|jobs| jobs.free = true));
            assert!(done.wait(None));
            drop(rayon);
            model.join(PoolState::Closed, threads);
        });
    }
}

/// Threads in rayon code that take every job there is: a start does not go round forever, but is refused.
#[test]
fn a_start_that_goes_round_is_refused() {
    let case = Case { in_rayon: 2, takes: usize::MAX, attended: true, ..LASTING };
    for max_tasks in [None, Some(9)] {
        model_within(1, move || {
            let (model, _, threads) = Model::start(Case { max_tasks, ..case });
            model.meet(1);
            model.join(PoolState::Closed, threads);
        });
    }
}

/// Counts its runs.
struct Counted(Arc<Mutex<usize>>);

impl Task for Counted {
    fn run(self: Owned<Self>, _: &Worker) {
        *lock(&self.0) += 1;
    }

    fn skip(self: Owned<Self>, _: Error) {
        *lock(&self.0) += 1;
    }
}

/// What was not refused has run once when the pool is joined, although each worker is replaced after a task,
/// and a submitter may find the place of one that is just leaving.
#[test]
fn submitting_while_workers_are_replaced() {
    for (workers, end) in
        [(1, PoolState::Closed), (1, PoolState::Terminated), (2, PoolState::Closed)]
    {
        let preemptions = if workers == 1 { 3 } else { 2 };
        model_within(preemptions, move || {
            let case = Case { workers, max_tasks: Some(1), in_rayon: 0, ..LASTING };
            let (model, rayon, threads) = Model::start(case);
            drop(rayon);
            let runs = Arc::new(Mutex::new(0));
            assert!(model.submit(Owned::new(Counted(Arc::clone(&runs)))));
            let other = {
                let (model, runs) = (model.clone(), Arc::clone(&runs));
                thread::spawn(move || model.submit(Owned::new(Counted(runs))))
            };
            model.runners.end(end);
            let accepted = other.join().unwrap();
            model.join(end, threads);
            assert_eq!(*lock(&runs), 1 + usize::from(accepted));
        });
    }
}
