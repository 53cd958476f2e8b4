//! Where accepted tasks wait.
//!
//! Whoever puts a task in gets a [`Ticket`], with which it can be taken out again: to be run by a thread
//! that waits for it, or because nobody wants it any more. So the queue alone decides who begins a task,
//! and what is in it is still to be done.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::error::Error;
use crate::worker::Worker;

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

    fn is_nested(self) -> bool {
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

/// First in, first out, but for what the pool's own tasks submit: that goes first, so that what was
/// begun is finished before the next is.
#[derive(Default)]
pub(crate) struct Queue {
    outer: Line,
    nested: Line,
}

impl Queue {
    pub(crate) fn push(&mut self, task: TaskRef, nested: bool) -> Ticket {
        Ticket::new(self.line(nested).push(task), nested)
    }

    pub(crate) fn pop(&mut self) -> Option<TaskRef> {
        self.nested.pop().or_else(|| self.outer.pop())
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
    /// By number. `None` where a task was taken out of the middle; never in front.
    entries: VecDeque<(u64, Option<TaskRef>)>,
    /// The number of the last that came in.
    last: u64,
    /// How many are not `None`.
    live: usize,
}

impl Line {
    /// The memory of more entries than these is given back when the line is empty.
    const KEPT: usize = 1024;

    fn push(&mut self, task: TaskRef) -> u64 {
        self.last += 1;
        self.live += 1;
        self.entries.push_back((self.last, Some(task)));
        self.last
    }

    fn pop(&mut self) -> Option<TaskRef> {
        let (_, task) = self.entries.pop_front()?;
        self.live -= 1;
        self.trim();
        task
    }

    fn withdraw(&mut self, number: u64) -> Option<TaskRef> {
        let place = self.entries.binary_search_by_key(&number, |(number, _)| *number).ok()?;
        let task = self.entries[place].1.take()?;
        self.live -= 1;
        self.trim();
        // As many again, so that the next look at all of them is as far off.
        if self.entries.len() > 2 * self.live + 16 {
            self.entries.retain(|(_, task)| task.is_some());
        }
        Some(task)
    }

    /// Keeps a task in front.
    fn trim(&mut self) {
        while self.entries.front().is_some_and(|(_, task)| task.is_none()) {
            self.entries.pop_front();
        }
        if self.entries.is_empty() && self.entries.capacity() > Self::KEPT {
            self.entries = VecDeque::new();
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::sync::{Mutex, lock};
    use proptest::prelude::*;

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

    fn numbered(number: usize, runs: &Arc<Mutex<Vec<usize>>>) -> TaskRef {
        Arc::new(Numbered { number, runs: Arc::clone(runs) })
    }

    fn run_all(queue: &mut Queue) {
        let worker = Worker::new(0, 0, None);
        while let Some(task) = queue.pop() {
            task.run(&worker);
        }
    }

    #[test]
    fn nested_tasks_come_first_and_what_was_withdrawn_does_not_come() {
        let mut queue = Queue::default();
        let runs = Arc::default();
        let tickets: Vec<Ticket> =
            (0..8).map(|number| queue.push(numbered(number, &runs), number >= 5)).collect();
        for number in [1, 3, 5, 7] {
            assert!(queue.withdraw(tickets[number]).is_some());
            assert!(queue.withdraw(tickets[number]).is_none(), "it is gone");
        }
        assert_eq!(queue.len(), 4);
        run_all(&mut queue);
        assert!(queue.is_empty());
        assert!(queue.withdraw(tickets[0]).is_none() && queue.withdraw(Ticket::NONE).is_none());
        assert_eq!(*lock(&runs), [6, 0, 2, 4]);
    }

    #[test]
    fn what_was_withdrawn_behind_a_task_that_stays_takes_no_room() {
        let mut queue = Queue::default();
        let runs = Arc::default();
        queue.push(numbered(0, &runs), true);
        for number in 1..10_000 {
            let ticket = queue.push(numbered(number, &runs), true);
            assert!(queue.withdraw(ticket).is_some());
        }
        assert!(queue.nested.entries.len() < 32);
    }

    proptest! {
        /// Against a list: pushes (0 and 1), pops (2), and withdrawals of the one that was pushed so many
        /// pushes ago.
        #[test]
        fn a_queue_is_two_lists(steps in proptest::collection::vec(0usize..40, 0..400)) {
            let mut queue = Queue::default();
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
                        prop_assert_eq!(task.is_some(), expected.is_some());
                        task.into_iter().for_each(|task| task.run(&worker));
                        seen.extend(expected);
                    }
                    back => {
                        let Some((ticket, number)) = tickets.iter().rev().nth(back) else { continue };
                        let before = nested.len() + outer.len();
                        nested.retain(|other| other != number);
                        outer.retain(|other| other != number);
                        let there = nested.len() + outer.len() < before;
                        prop_assert_eq!(queue.withdraw(*ticket).is_some(), there);
                    }
                }
                prop_assert_eq!(queue.len(), nested.len() + outer.len());
            }
            prop_assert_eq!(&*lock(&runs), &seen);
        }
    }
}
