//! A whole `map_async` over an iterator, with workers that come and go and an owner that waits, helps, cancels
//! or drops the handle, in all orders.

use super::*;
use crate::scheduler::PoolState as End;
use crate::scheduler::Shared;
use crate::sync::model_within;
use loom::sync::Condvar;
use loom::thread::{self, JoinHandle};
use std::sync::Arc as Owned;

/// Threads that run the queue of `workers`, one for each submitted task that is not withdrawn.
#[derive(Clone)]
struct Pool {
    workers: Owned<Shared>,
    /// How many tasks were submitted that no thread was woken for, and whether no more will come.
    calls: crate::sync::Arc<(Mutex<(usize, bool)>, Condvar)>,
}

impl Pool {
    fn new(count: usize, max_tasks: Option<usize>) -> Self {
        // With the queue of a serial pool, which wakes nobody: that is done here.
        let mut workers = Shared::new(1, count, max_tasks, None, String::new(), true);
        workers.is_serial = false;
        let calls = crate::sync::Arc::new((Mutex::new((0, false)), Condvar::new()));
        Pool { workers: Owned::new(workers), calls }
    }

    fn submit(&self, task: TaskRef) -> Result<Ticket, Error> {
        let pushed = self.workers.runners.push(task);
        let (ticket, _) = pushed.map_err(|task| {
            worker::skip(task, self.workers.refusal());
            self.workers.refusal()
        })?;
        let (calls, changed) = &*self.calls;
        lock(calls).0 += 1;
        changed.notify_one();
        Ok(ticket)
    }

    fn end(&self) {
        let (calls, changed) = &*self.calls;
        lock(calls).1 = true;
        changed.notify_all();
    }

    /// Waits for a call; false when none will come.
    fn is_called(&self) -> bool {
        let (calls, changed) = &*self.calls;
        let mut calls = lock(calls);
        loop {
            if calls.0 > 0 {
                calls.0 -= 1;
                return true;
            }
            if calls.1 {
                return false;
            }
            calls = changed.wait(calls).unwrap();
        }
    }

    /// The thread of a worker.
    fn worker(&self, index: usize) -> JoinHandle<()> {
        let pool = self.clone();
        thread::spawn(move || {
            let worker = &pool.workers.places[index];
            let _thread = worker::be_thread(worker);
            while pool.is_called() {
                if !pool.workers.runners.enter_as_runner() {
                    // Terminated, and nothing is left.
                    continue;
                }
                pool.workers.runners.run_queue(
                    index,
                    |_| (),
                    |task| {
                        worker::run(task, worker);
                        if worker.should_retire() {
                            // The successor.
                            worker.begin_to_count();
                        }
                        false
                    },
                );
            }
        })
    }
}

/// Counts the items and results that live.
#[derive(Clone)]
struct Count(crate::sync::Arc<Mutex<usize>>);

struct Item(usize, Count);

impl Count {
    fn make(&self, value: usize) -> Item {
        *lock(&self.0) += 1;
        Item(value, self.clone())
    }
}

impl Drop for Item {
    fn drop(&mut self) {
        *lock(&self.1.0) -= 1;
    }
}

/// What the owner of the handle does.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Owner {
    Get,
    /// As one of the workers, which takes part.
    Help,
    Cancel,
    CancelDrop,
    Drop,
}

#[derive(Clone, Copy)]
struct Case {
    preemptions: usize,
    /// That have threads.
    workers: usize,
    items: usize,
    /// The input says how many there are.
    known: bool,
    /// The last two items wait for each other.
    meet: bool,
    owner: Owner,
    terminated: bool,
    /// After how many blocks a worker is replaced.
    max_tasks: Option<usize>,
}

const CASE: Case = Case {
    preemptions: 2,
    workers: 2,
    items: 2,
    known: true,
    meet: false,
    owner: Owner::Get,
    terminated: false,
    max_tasks: None,
};

fn explore(case: Case) {
    model_within(case.preemptions, move || {
        let helps = case.owner == Owner::Help;
        let count = case.workers + usize::from(helps);
        let pool = Pool::new(count, case.max_tasks);
        let alive = Count(crate::sync::Arc::new(Mutex::new(0)));
        let mut threads: Vec<_> = (0..case.workers).map(|index| pool.worker(index)).collect();
        let options = CallOptions::plain(&pool.workers);
        let submit = {
            let pool = pool.clone();
            move |task: TaskRef| pool.submit(task)
        };
        let here = crate::sync::Arc::new((Mutex::new(0), Condvar::new()));
        let f = move |item: Item| {
            if case.meet && item.0 + 2 >= case.items {
                let (here, changed) = &*here;
                let mut count = lock(here);
                *count += 1;
                changed.notify_all();
                while *count < 2 {
                    count = changed.wait(count).unwrap();
                }
            }
            item
        };
        let made = alive.clone();
        // Of what may be left out, it is not known how many come.
        let items = (0..case.items).map(move |i| made.make(i));
        let handle = match case.known {
            true => map_async(&options, submit, f, items),
            false => map_async(&options, submit, f, items.filter(|_| true)),
        };
        if case.terminated {
            let pool = pool.clone();
            threads.push(thread::spawn(move || pool.workers.end(End::Terminated)));
        }
        let _thread = helps.then(|| worker::be_thread(&pool.workers.places[case.workers]));
        let outcome = match case.owner {
            Owner::Get | Owner::Help => Some(handle.get()),
            Owner::Cancel => {
                let cancelled = handle.cancel();
                let outcome = handle.get();
                assert!(!cancelled || matches!(outcome, Err(Error::Cancelled)));
                Some(outcome)
            }
            Owner::CancelDrop => {
                drop(handle.cancel_on_drop());
                None
            }
            Owner::Drop => {
                drop(handle);
                None
            }
        };
        match &outcome {
            Some(Ok(items)) => {
                assert!(items.iter().map(|item| item.0).eq(0..case.items));
            }
            Some(Err(Error::Terminated)) => assert!(case.terminated),
            Some(Err(Error::Cancelled)) => assert_eq!(case.owner, Owner::Cancel),
            Some(Err(other)) => panic!("{other:?}"),
            None => {}
        }
        drop(outcome);
        pool.end();
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        assert_eq!(*lock(&alive.0), 0, "every item is dropped once");
        assert_eq!((pool.workers.runners.active(), pool.workers.runners.queued()), (0, 0));
    });
}

#[test]
fn the_last_worker_to_go_puts_the_results_together() {
    explore(CASE);
    explore(Case { known: false, items: 3, ..CASE });
}

/// No worker is missing while there is work, whichever worker found the iterator busy.
#[test]
fn all_workers_come_while_there_is_work() {
    explore(Case { meet: true, ..CASE });
    // The second to come may find the first in the iterator, and is called back by it.
    explore(Case { meet: true, items: 3, ..CASE });
}

#[test]
fn a_worker_that_waits_for_the_result_comes_too() {
    explore(Case { workers: 1, owner: Owner::Help, ..CASE });
    explore(Case { workers: 1, owner: Owner::Help, meet: true, items: 3, ..CASE });
}

#[test]
fn a_cancelled_map_that_has_begun_goes_on() {
    explore(Case { owner: Owner::Cancel, ..CASE });
    explore(Case { owner: Owner::CancelDrop, ..CASE });
}

#[test]
fn a_map_without_a_handle_goes_on() {
    explore(Case { owner: Owner::Drop, ..CASE });
}

#[test]
fn a_terminated_map_has_one_outcome() {
    explore(Case { terminated: true, workers: 1, ..CASE });
    explore(Case { terminated: true, workers: 1, owner: Owner::Drop, ..CASE });
    explore(Case { terminated: true, preemptions: 1, ..CASE });
}

/// A worker that is to be replaced leaves the rest to another, which comes.
#[test]
fn workers_that_are_replaced_do_all_of_it() {
    let case = Case { max_tasks: Some(1), ..CASE };
    explore(Case { workers: 1, items: 3, ..case });
    explore(Case { preemptions: 1, items: 3, ..case });
    // Two at once to the end, though the first of each place has gone.
    explore(Case { preemptions: 1, items: 4, meet: true, ..case });
    // It waits for the result, so it cannot be replaced just now.
    explore(Case { preemptions: 1, workers: 1, owner: Owner::Help, ..case });
    explore(Case { workers: 1, owner: Owner::CancelDrop, ..case });
    explore(Case { preemptions: 1, workers: 1, terminated: true, ..case });
    explore(Case { workers: 1, terminated: true, owner: Owner::Drop, ..case });
}
