//! A whole stream with a worker or two, in all orders: the window, the wake-ups, the ends.

use std::collections::VecDeque;
use std::sync::Arc as Owned;
use std::sync::atomic::Ordering;
use std::time::Duration;

use loom::sync::Condvar;
use loom::thread::{self, JoinHandle};

use super::polled::ImapStream;
use super::{Imap, Settings};
use crate::error::Error;
use crate::scheduler::{PoolState, Shared, TaskRef, Ticket, Worker, worker};
use crate::sync::{Arc, Mutex, lock, model_within};
use crate::task::CallOptions;

/// Where chunks wait, and whether no more will come.
#[derive(Clone)]
struct Queue(Arc<(Mutex<(VecDeque<TaskRef>, bool)>, Condvar)>);

impl Queue {
    fn new() -> Self {
        Queue(Arc::new((Mutex::new((VecDeque::new(), false)), Condvar::new())))
    }

    fn push(&self, task: TaskRef) {
        let (state, changed) = &*self.0;
        lock(state).0.push_back(task);
        changed.notify_one();
    }

    fn end(&self) {
        let (state, changed) = &*self.0;
        lock(state).1 = true;
        changed.notify_all();
    }

    fn pop(&self) -> Option<TaskRef> {
        let (state, changed) = &*self.0;
        let mut state = lock(state);
        loop {
            if let Some(task) = state.0.pop_front() {
                return Some(task);
            }
            if state.1 {
                return None;
            }
            state = changed.wait(state).unwrap();
        }
    }

    /// A thread that runs what comes.
    fn worker(&self) -> JoinHandle<()> {
        let queue = self.clone();
        thread::spawn(move || {
            while let Some(task) = queue.pop() {
                worker::run(task, &Worker::new(0, 0, None));
            }
        })
    }
}

/// Counts the items that live.
#[derive(Clone)]
struct Count(Arc<Mutex<usize>>);

struct Item(usize, Count);

impl Count {
    fn new() -> Self {
        Count(Arc::new(Mutex::new(0)))
    }

    fn make(&self, value: usize) -> Item {
        *lock(&self.0) += 1;
        Item(value, self.clone())
    }

    fn now(&self) -> usize {
        *lock(&self.0)
    }
}

impl Drop for Item {
    fn drop(&mut self) {
        *lock(&self.1.0) -= 1;
    }
}

/// What is modelled.
#[derive(Clone, Copy)]
struct Case {
    preemptions: usize,
    workers: usize,
    items: usize,
    /// The consumer drops the stream when it has had so many.
    wanted: usize,
    chunksize: Option<usize>,
    window: usize,
    ordered: bool,
    terminated: bool,
    /// The consumer looks once, and waits then.
    impatient: bool,
    /// The consumer is an async task.
    polled: bool,
}

enum Consumer<'s, I: Iterator, R> {
    Waits(Imap<'s, I, R>),
    Polls(ImapStream<'s, I, R>),
}

impl<'s, I: Iterator<Item: Send + 's>, R: Send + 's> Consumer<'s, I, R> {
    fn next(&mut self) -> Option<Result<R, Error>> {
        match self {
            Consumer::Waits(stream) => stream.next(),
            Consumer::Polls(stream) => stream.next_polled(),
        }
    }

    /// `Timeout` if it is not there.
    fn look(&mut self) -> Option<Result<R, Error>> {
        match self {
            Consumer::Waits(stream) => {
                stream.next_timeout(Duration::ZERO).unwrap_or_else(|error| Some(Err(error)))
            }
            Consumer::Polls(_) => Some(Err(Error::Timeout)),
        }
    }
}

const CASE: Case = Case {
    preemptions: 3,
    workers: 1,
    items: 3,
    wanted: usize::MAX,
    chunksize: Some(1),
    window: 2,
    ordered: true,
    terminated: false,
    impatient: false,
    polled: false,
};

/// With no chunk size set: of two items, if the window lets them.
const FREE: Case = Case { chunksize: None, window: 8, preemptions: 2, ..CASE };

fn explore(case: Case) {
    model_within(case.preemptions, move || {
        let workers = Owned::new(Shared::new(0, case.workers, None, None, String::new(), false));
        let (queue, alive, pulled) = (Queue::new(), Count::new(), Arc::new(Mutex::new(0)));
        let mut threads: Vec<_> = (0..case.workers).map(|_| queue.worker()).collect();
        if case.terminated {
            let workers = Owned::clone(&workers);
            threads.push(thread::spawn(move || workers.end(PoolState::Terminated)));
        }
        let options = CallOptions { chunksize: case.chunksize, ..CallOptions::plain(&workers) };
        let settings = Settings { buffersize: Some(case.window), ordered: case.ordered };
        let submit = {
            let queue = queue.clone();
            move |task: TaskRef| {
                queue.push(task);
                Ok(Ticket::NONE)
            }
        };
        let input = {
            let (alive, pulled) = (alive.clone(), Arc::clone(&pulled));
            (0..case.items).map(move |i| {
                *lock(&pulled) += 1;
                alive.make(i)
            })
        };
        let f = |item: Item| item;
        let stream = Imap::new(&options, settings, submit, f, input);
        // As if some had gone before: so the first chunk may hold more than one.
        stream.control.cost.store(1, Ordering::Relaxed);
        let mut stream = match case.polled {
            true => Consumer::Polls(stream.into_stream()),
            false => Consumer::Waits(stream),
        };
        let mut seen = Vec::new();
        while seen.len() < case.wanted {
            let mut next = None;
            if case.impatient {
                next = stream.look();
            }
            if matches!(next, None | Some(Err(Error::Timeout))) {
                next = stream.next();
            }
            assert!(*lock(&pulled) <= seen.len() + case.window, "the window is strict");
            match next {
                Some(Ok(item)) => seen.push(item.0),
                Some(Err(Error::Terminated)) => {
                    assert!(case.terminated);
                    assert!(stream.next().is_none());
                    break;
                }
                Some(Err(other)) => panic!("{other:?}"),
                None => {
                    assert_eq!(seen.len(), case.items);
                    break;
                }
            }
        }
        drop(stream);
        queue.end();
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        if !case.ordered {
            seen.sort_unstable();
        }
        let in_turn = seen.iter().copied().eq(0..seen.len());
        assert!(in_turn || case.wanted < case.items, "{seen:?}");
        assert_eq!(alive.now(), 0, "every item is dropped once");
    });
}

#[test]
fn results_come_in_order_and_wake_their_consumer() {
    explore(CASE);
    explore(Case { chunksize: Some(2), window: 4, items: 4, ..CASE });
}

#[test]
fn two_workers_at_once() {
    explore(Case { workers: 2, preemptions: 2, ..CASE });
    explore(Case { workers: 2, preemptions: 2, ordered: false, ..CASE });
}

/// A channel has room for two here.
#[test]
fn results_go_on_in_another_lane() {
    explore(Case { chunksize: Some(3), window: 3, preemptions: 2, ..CASE });
    explore(Case { chunksize: Some(3), window: 3, preemptions: 2, ordered: false, ..CASE });
    explore(Case { chunksize: Some(3), window: 3, preemptions: 2, polled: true, ..CASE });
    explore(Case { chunksize: Some(3), window: 3, preemptions: 2, wanted: 2, ..CASE });
}

/// A consumer that has waited in vain makes its worker split a chunk.
#[test]
fn a_chunk_that_is_split_loses_nothing() {
    explore(Case { impatient: true, ..FREE });
    explore(Case { impatient: true, ordered: false, ..FREE });
}

#[test]
fn a_stream_that_is_dropped_leaves_nothing_behind() {
    explore(Case { wanted: 1, ..CASE });
    explore(Case { wanted: 1, impatient: true, ..FREE });
}

#[test]
fn terminate_wakes_the_consumer() {
    explore(Case { terminated: true, preemptions: 2, items: 2, ..CASE });
}

#[test]
fn an_async_consumer_is_woken_for_each_result_and_at_the_end() {
    explore(Case { polled: true, ..CASE });
    explore(Case { polled: true, workers: 2, preemptions: 2, ordered: false, ..CASE });
    explore(Case { polled: true, ..FREE });
    explore(Case { polled: true, terminated: true, preemptions: 2, items: 2, ..CASE });
    explore(Case { polled: true, wanted: 1, ..CASE });
}
