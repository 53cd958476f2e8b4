//! Where accepted tasks wait.
//!
//! The thread that puts a task in gets a [`Ticket`], with which it can be taken out again: to be run by a thread
//! that waits for it, or because nobody wants it any more. So the queue alone decides who begins a task,
//! and what is in it is still to be done.

use std::collections::VecDeque;
use std::sync::Arc;

use super::worker::Worker;
use crate::error::Error;

/// Work that was accepted. It leaves the queue once, and then it is either run or skipped.
pub(crate) trait Task: Send + Sync {
    /// Runs it on the calling thread as `worker`.
    fn run(self: Arc<Self>, worker: &Worker);

    /// Ends it unbegun, on any thread: `why` is its outcome.
    fn skip(self: Arc<Self>, why: Error);
}

pub(crate) type TaskRef = Arc<dyn Task>;

/// The place of a task in the queue. It is never given to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ticket(u64);

impl Ticket {
    /// Of a task that is in no queue.
    pub(crate) const NONE: Ticket = Ticket(0);

    fn new(number: u64, nested: bool) -> Self {
        Ticket(number << 1 | u64::from(nested))
    }

    fn number(self) -> u64 {
        self.0 >> 1
    }

    pub(crate) fn is_nested(self) -> bool {
        self.0 & 1 == 1
    }

    pub(crate) fn to_bits(self) -> u64 {
        self.0
    }

    pub(crate) fn from_bits(bits: u64) -> Self {
        Ticket(bits)
    }
}

/// The tickets of those entries of a call that may still be queued: the newest `most`, for there are never
/// more of them, and the oldest leave the queue first.
#[derive(Debug, Default)]
pub(crate) struct Tickets(VecDeque<Ticket>);

impl Tickets {
    pub(crate) fn push(&mut self, ticket: Ticket, most: usize) {
        while self.0.len() >= most.max(1) {
            self.0.pop_front();
        }
        self.0.push_back(ticket);
    }

    pub(crate) fn pop(&mut self) -> Option<Ticket> {
        self.0.pop_front()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// How often the oldest task is taken where the newest would be.
const OLDEST_EVERY: usize = 64;

/// Tasks from outside that no runner has seen yet. They are kept apart so that those who submit and those who
/// run do not need the same lock for each task.
#[derive(Default)]
pub(crate) struct Incoming {
    entries: VecDeque<Entry>,
    /// The number of the last that came in.
    last: u64,
}

impl Incoming {
    pub(crate) fn push(&mut self, task: TaskRef) -> Ticket {
        self.last += 1;
        self.entries.push_back(Entry { number: self.last, source: 0, task: Some(task) });
        Ticket::new(self.last, false)
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Gives back the memory of a burst. Not after each look at it, or the next tasks would pay for it again.
    pub(crate) fn give_back(&mut self) {
        give_back(&mut self.entries);
    }
}

/// First in, first out, but for what the pool's own tasks submit: that goes first, so that what was
/// begun is finished before the next is.
///
/// A task that has submitted many others and waits for one after the other takes the oldest out itself. If the
/// other workers took the oldest too, it would find each one just begun, and would sleep while they do them all:
/// so from what the worker of such a task has submitted they take the newest.
#[derive(Default)]
pub(crate) struct Queue {
    outer: Line,
    nested: Line,
    /// How many were popped of the second, for now and then the oldest is taken all the same: it is not left
    /// lying while others come in.
    pops: usize,
}

impl Queue {
    /// Queues what a task of the worker `source` submits.
    pub(crate) fn push(&mut self, task: TaskRef, source: usize) -> Ticket {
        Ticket::new(self.nested.push(task, source), true)
    }

    /// Queues all that has come in from outside.
    pub(crate) fn take_in(&mut self, incoming: &mut Incoming) {
        self.outer.append(&mut incoming.entries);
    }

    /// The next task to run. `waits` says whether a task on a worker waits for others.
    pub(crate) fn pop(&mut self, waits: impl Fn(usize) -> bool) -> Option<TaskRef> {
        let Some((first, last)) = self.nested.ends() else { return self.outer.pop_front() };
        self.pops = self.pops.wrapping_add(1);
        match first == last && self.pops % OLDEST_EVERY != 0 && waits(first) {
            true => self.nested.pop_back(),
            false => self.nested.pop_front(),
        }
    }

    /// Takes out the task of `ticket`, if it is still there.
    pub(crate) fn withdraw(&mut self, ticket: Ticket) -> Option<TaskRef> {
        self.line(ticket.is_nested()).withdraw(ticket.number())
    }

    pub(crate) fn len(&self) -> usize {
        self.nested.live + self.outer.live
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn line(&mut self, nested: bool) -> &mut Line {
        if nested { &mut self.nested } else { &mut self.outer }
    }
}

/// A line of tasks, from which any can be taken out.
#[derive(Default)]
struct Line {
    /// By number. Those at both ends have a task.
    entries: VecDeque<Entry>,
    /// The number of the last that came in.
    last: u64,
    /// How many have a task.
    live: usize,
}

struct Entry {
    number: u64,
    /// The worker whose task has submitted it.
    source: u32,
    /// `None` if it was taken out of the middle.
    task: Option<TaskRef>,
}

impl Line {
    fn push(&mut self, task: TaskRef, source: usize) -> u64 {
        self.last += 1;
        self.live += 1;
        // More workers than that are never told apart.
        let source = u32::try_from(source).unwrap_or(u32::MAX);
        self.entries.push_back(Entry { number: self.last, source, task: Some(task) });
        self.last
    }

    /// Puts all of `entries`, whose numbers are higher, at the end.
    fn append(&mut self, entries: &mut VecDeque<Entry>) {
        self.live += entries.len();
        // Their memory too, where that costs nothing.
        match self.entries.is_empty() && !entries.is_empty() {
            true => std::mem::swap(&mut self.entries, entries),
            false => self.entries.append(entries),
        }
    }

    /// Who has submitted the oldest and the newest task.
    fn ends(&self) -> Option<(usize, usize)> {
        Some((self.entries.front()?.source as usize, self.entries.back()?.source as usize))
    }

    fn pop_front(&mut self) -> Option<TaskRef> {
        let entry = self.entries.pop_front()?;
        self.live -= 1;
        self.trim();
        entry.task
    }

    fn pop_back(&mut self) -> Option<TaskRef> {
        let entry = self.entries.pop_back()?;
        self.live -= 1;
        self.trim();
        entry.task
    }

    fn withdraw(&mut self, number: u64) -> Option<TaskRef> {
        let place = self.entries.binary_search_by_key(&number, |entry| entry.number).ok()?;
        let task = self.entries[place].task.take()?;
        self.live -= 1;
        self.trim();
        // As many again, so that the next look at all of them is as far off.
        if self.entries.len() > 2 * self.live + 16 {
            self.entries.retain(|entry| entry.task.is_some());
        }
        Some(task)
    }

    /// Keeps a task at both ends.
    fn trim(&mut self) {
        if self.live == self.entries.len() && self.live > 0 {
            return;
        }
        while self.entries.front().is_some_and(|entry| entry.task.is_none()) {
            self.entries.pop_front();
        }
        while self.entries.back().is_some_and(|entry| entry.task.is_none()) {
            self.entries.pop_back();
        }
        give_back(&mut self.entries);
    }
}

/// Gives back the memory of more entries than a few, if there are none.
fn give_back(entries: &mut VecDeque<Entry>) {
    const KEPT: usize = 1024;

    if entries.is_empty() && entries.capacity() > KEPT {
        *entries = VecDeque::new();
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::numeric::Draws;
    use crate::sync::{Mutex, lock};

    struct Numbered {
        number: usize,
        runs: Arc<Mutex<Vec<usize>>>,
    }

    impl Task for Numbered {
        fn run(self: Arc<Self>, _: &Worker) {
            lock(&self.runs).push(self.number);
        }
        fn skip(self: Arc<Self>, _: Error) {}
    }

    /// A queue with its door.
    #[derive(Default)]
    struct Both(Queue, Incoming);

    impl Both {
        fn push(&mut self, task: TaskRef, nested: bool) -> Ticket {
            if nested { self.0.push(task, 0) } else { self.1.push(task) }
        }

        fn pop(&mut self) -> Option<TaskRef> {
            self.0.take_in(&mut self.1);
            self.0.pop(|_| false)
        }

        fn withdraw(&mut self, ticket: Ticket) -> Option<TaskRef> {
            self.0.take_in(&mut self.1);
            self.0.withdraw(ticket)
        }

        fn len(&self) -> usize {
            self.0.len() + self.1.len()
        }
    }

    fn numbered(number: usize, runs: &Arc<Mutex<Vec<usize>>>) -> TaskRef {
        Arc::new(Numbered { number, runs: Arc::clone(runs) })
    }

    fn run_all(queue: &mut Both) {
        let worker = Worker::new(0, 0, None);
        while let Some(task) = queue.pop() {
            task.run(&worker);
        }
    }

    #[test]
    fn nested_tasks_come_first_and_what_was_withdrawn_does_not_come() {
        let mut queue = Both::default();
        let runs = Arc::default();
        let tickets: Vec<Ticket> =
            (0..8).map(|number| queue.push(numbered(number, &runs), number >= 5)).collect();
        for number in [1, 3, 5, 7] {
            assert!(queue.withdraw(tickets[number]).is_some());
            assert!(queue.withdraw(tickets[number]).is_none(), "it is gone");
        }
        assert_eq!(queue.len(), 4);
        run_all(&mut queue);
        assert_eq!(queue.len(), 0);
        assert!(queue.withdraw(tickets[0]).is_none() && queue.withdraw(Ticket::NONE).is_none());
        assert_eq!(*lock(&runs), [6, 0, 2, 4]);
    }

    #[test]
    fn what_was_withdrawn_behind_a_task_that_stays_takes_no_room() {
        let mut queue = Queue::default();
        let runs = Arc::default();
        queue.push(numbered(0, &runs), 0);
        for number in 1..if cfg!(miri) { 300 } else { 10_000 } {
            let ticket = queue.push(numbered(number, &runs), 0);
            assert!(queue.withdraw(ticket).is_some());
        }
        assert!(queue.nested.entries.len() < 32);
    }

    #[test]
    fn what_came_in_at_once_keeps_no_memory() {
        let (mut queue, mut incoming, runs) =
            (Queue::default(), Incoming::default(), Arc::default());
        for _ in 0..3 {
            // Into an empty line, and behind others.
            for _ in 0..2 {
                (0..3000).for_each(|number| _ = incoming.push(numbered(number, &runs)));
                queue.take_in(&mut incoming);
            }
            while queue.pop(|_| false).is_some() {}
            queue.take_in(&mut incoming);
            incoming.give_back();
            assert!(queue.outer.entries.capacity() + incoming.entries.capacity() <= 2048);
        }
    }

    #[test]
    fn of_a_task_that_waits_the_others_take_the_newest_but_now_and_then() {
        let (mut queue, runs, worker) = (Queue::default(), Arc::default(), Worker::new(0, 0, None));
        let pop = |queue: &mut Queue| queue.pop(|by| by == 0).map(|task| task.run(&worker));
        for number in 0..100 {
            queue.push(numbered(number, &runs), 0);
        }
        while pop(&mut queue).is_some() {}
        let newest = (37..100).rev();
        assert_eq!(lock(&runs)[..OLDEST_EVERY], newest.chain([0]).collect::<Vec<_>>());
        assert_eq!(lock(&runs).len(), 100);
        lock(&runs).clear();
        // Those of several workers, and of one that does not wait, in their order.
        for number in 0..4 {
            queue.push(numbered(number, &runs), number % 2);
        }
        for _ in 0..3 {
            pop(&mut queue);
        }
        assert_eq!(lock(&runs)[..], [0, 1, 2]);
    }

    /// Against a list: pushes (0 and 1), pops (2), and withdrawals of the one that was pushed so many
    /// pushes ago.
    #[test]
    fn a_queue_is_two_lists() {
        Draws::each_case(|draws| {
            let steps = draws.list(0..40, 0..400);
            let mut queue = Both::default();
            let (mut nested, mut outer) = (VecDeque::new(), VecDeque::new());
            let mut tickets = Vec::new();
            let (runs, mut seen) = (Arc::default(), Vec::new());
            let worker = Worker::new(0, 0, None);
            let mut number = 0;
            for step in steps {
                match step {
                    0 | 1 => {
                        let list = if step == 1 { &mut nested } else { &mut outer };
                        list.push_back(number);
                        tickets.push((queue.push(numbered(number, &runs), step == 1), number));
                        number += 1;
                    }
                    2 => {
                        let expected = nested.pop_front().or_else(|| outer.pop_front());
                        let task = queue.pop();
                        assert_eq!(task.is_some(), expected.is_some());
                        task.into_iter().for_each(|task| task.run(&worker));
                        seen.extend(expected);
                    }
                    back => {
                        let Some((ticket, number)) = tickets.iter().rev().nth(back) else {
                            continue;
                        };
                        let before = nested.len() + outer.len();
                        nested.retain(|other| other != number);
                        outer.retain(|other| other != number);
                        let there = nested.len() + outer.len() < before;
                        assert_eq!(queue.withdraw(*ticket).is_some(), there);
                    }
                }
                assert_eq!(queue.len(), nested.len() + outer.len());
            }
            assert_eq!(*lock(&runs), seen);
        });
    }
}
