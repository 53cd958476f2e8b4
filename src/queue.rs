//! Where accepted tasks wait.

use std::sync::Arc;

use crossbeam_deque::Steal;

use crate::sync::Injector;

use crate::panic::discard;

/// Work that was accepted. Running it a second time, or after it was cancelled, does nothing.
pub(crate) trait Task: Send + Sync {
    /// Runs it on the calling thread, which is a worker, unless somebody has begun it.
    fn run(self: Arc<Self>);

    /// Whether running it would do nothing.
    fn is_stale(&self) -> bool;
}

pub(crate) type TaskRef = Arc<dyn Task>;

/// First in, first out, but for what the pool's own tasks submit: that goes first, so that what was
/// begun is finished before the next is.
pub(crate) struct Queue {
    outer: Injector<TaskRef>,
    nested: Injector<TaskRef>,
}

impl Queue {
    pub(crate) fn new() -> Self {
        Queue { outer: Injector::new(), nested: Injector::new() }
    }

    pub(crate) fn push(&self, task: TaskRef, nested: bool) {
        let queue = if nested { &self.nested } else { &self.outer };
        queue.push(task);
    }

    pub(crate) fn pop(&self) -> Option<TaskRef> {
        // A look at an empty injector is cheap, a steal from it has a fence.
        let first = if self.nested.is_empty() { None } else { take(&self.nested) };
        first.or_else(|| take(&self.outer))
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.nested.is_empty() && self.outer.is_empty()
    }

    pub(crate) fn len(&self) -> usize {
        self.nested.len() + self.outer.len()
    }

    /// Throws out what is stale. What is not keeps its order, behind what comes in meanwhile.
    pub(crate) fn sweep(&self) {
        for queue in [&self.nested, &self.outer] {
            for _ in 0..queue.len() {
                match take(queue) {
                    // It may be the last that has what a call has left, of the user's.
                    Some(task) if task.is_stale() => discard(task),
                    Some(task) => queue.push(task),
                    None => break,
                }
            }
        }
    }
}

fn take(queue: &Injector<TaskRef>) -> Option<TaskRef> {
    loop {
        match queue.steal() {
            Steal::Success(task) => return Some(task),
            Steal::Empty => return None,
            Steal::Retry => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sync::{Mutex, lock};

    struct Numbered {
        number: usize,
        runs: Arc<Mutex<Vec<usize>>>,
    }

    impl Task for Numbered {
        fn run(self: Arc<Self>) {
            lock(&self.runs).push(self.number);
        }
        fn is_stale(&self) -> bool {
            self.number % 2 == 1
        }
    }

    #[test]
    fn nested_tasks_come_first_and_a_sweep_throws_out_the_stale_ones() {
        let queue = Queue::new();
        let runs = Arc::default();
        for number in 0..8 {
            queue.push(Arc::new(Numbered { number, runs: Arc::clone(&runs) }), number >= 5);
        }
        queue.sweep();
        while let Some(task) = queue.pop() {
            task.run();
        }
        assert!(queue.is_empty());
        assert_eq!(*lock(&runs), [6, 0, 2, 4]);
    }
}
