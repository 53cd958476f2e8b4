//! Any number of tasks that borrow and have handles: what a scope is made of.

use std::collections::VecDeque;
use std::marker::PhantomData;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Waker;

use super::borrowed::Borrowed;
use crate::error::Error;
use crate::panic::{catch, discard};
use crate::scheduler::{Task, Ticket, Worker};
use crate::sync::{Instant, Mutex, lock};

/// The tasks of a scope, which may borrow from what encloses it. Made by [`scope`].
pub(crate) struct ScopeTasks<'scope, 'env: 'scope> {
    list: Mutex<List>,
    /// Invariant in both, as `std::thread::Scope` is: neither may be taken for another.
    scope: PhantomData<&'scope mut &'scope ()>,
    env: PhantomData<&'env mut &'env ()>,
}

struct List {
    /// What was lent, may not be over, and was not seen by the end of the scope. Pruned as it grows.
    tasks: Vec<Arc<BorrowedTask>>,
    /// The end of the scope, which waits for the tasks.
    end: Option<Waker>,
}

/// How a scope ends.
pub(crate) trait End {
    /// Takes a task out of the queue if nobody has begun it, and runs or skips it, if it is this thread's to do.
    fn begin(&self, lent: &BorrowedTask);

    /// Blocks until `ready` returns true (then true) or `deadline` has passed (then false). Woken also when
    /// [`has_ended`](End::has_ended) turns true.
    fn wait(&self, deadline: Option<Instant>, ready: &mut dyn FnMut(&Waker) -> bool) -> bool;

    /// Whether no task shall begin any more.
    fn has_ended(&self) -> bool;
}

/// One task of a scope, in a form that may lie in a queue for longer than the scope lives.
pub(crate) struct BorrowedTask {
    /// When the time of its call is up.
    pub(crate) deadline: Option<Instant>,
    /// With its lifetime erased. Taken back as soon as it ran or was skipped.
    task: Borrowed<Arc<dyn Task>>,
    /// Its place in the queue, as [`Ticket::to_bits`], until somebody tries to take it out.
    ticket: AtomicU64,
}

impl<'scope> ScopeTasks<'scope, '_> {
    /// `task` as something that may be queued, which `submit` does: it does nothing once the scope is over.
    pub(crate) fn lend(
        &self,
        task: Arc<dyn Task + 'scope>,
        deadline: Option<Instant>,
        submit: impl FnOnce(Arc<dyn Task>) -> Result<Ticket, Error>,
    ) -> Result<Ticket, Error> {
        // SAFETY: only the lifetime changes. `scope` does not return before each task was taken back and
        // nobody has a reference that was made of it, and `'scope` does not end before.
        let task = unsafe { std::mem::transmute::<Arc<dyn Task + 'scope>, Arc<dyn Task>>(task) };
        let lent = Arc::new(BorrowedTask {
            deadline,
            task: Borrowed::new(task),
            ticket: AtomicU64::new(0),
        });
        // The caller is in the body of the scope or in a task of it, which is in the list: so the scope does not
        // end before this returns, also by a panic, which no code of the user's is the cause of.
        let queued = catch(|| submit(Arc::clone(&lent) as Arc<dyn Task>));
        if let Ok(Ok(ticket)) = &queued {
            // ORDERING: the end of the scope reads it, which finds it in the list that it is put in next.
            lent.ticket.store(ticket.to_bits(), Ordering::Relaxed);
        }
        self.add(lent);
        queued.unwrap_or_else(|payload| std::panic::resume_unwind(payload))
    }

    /// Remembers `lent`, and tells the end of the scope of it.
    fn add(&self, lent: Arc<BorrowedTask>) {
        let waiting = {
            let mut list = lock(&self.list);
            if list.tasks.len() == list.tasks.capacity() {
                list.tasks.retain(|lent| !lent.is_over());
                // Room for as many again, so that the next look at all of them is as far off.
                let alive = list.tasks.len();
                list.tasks.reserve(alive.max(4));
            }
            list.tasks.push(lent);
            list.end.clone()
        };
        if let Some(waiting) = waiting {
            waiting.wake();
        }
    }

    /// Whether tasks were lent that the end of the scope has not seen; if not, `waker` is woken when there are.
    fn poll_new(&self, waker: &Waker) -> bool {
        let mut list = lock(&self.list);
        list.end = Some(waker.clone());
        !list.tasks.is_empty()
    }

    /// Waits for every task, in the way of `end`.
    fn finish(&self, end: &dyn End) {
        // Those that were begun, or are left to the workers.
        let mut pending = VecDeque::new();
        // Whatever happens there, this does not end before the tasks do.
        let try_begin = |lent: &BorrowedTask| _ = catch(|| end.begin(lent)).map_err(discard);
        let mut ended = false;
        loop {
            let new = std::mem::take(&mut lock(&self.list).tasks);
            if new.is_empty() && pending.is_empty() {
                // Only tasks lend more now, and only while they run, and none did when the list was looked at.
                return;
            }
            for lent in new {
                try_begin(&lent);
                pending.push_back(lent);
            }
            while pending.front().is_some_and(|lent: &Arc<BorrowedTask>| lent.is_over()) {
                pending.pop_front();
            }
            let Some(first) = pending.front() else { continue };
            // All calls of a scope have a deadline, or none, and the later ones the later.
            let timed = first.deadline.is_some() && !ended;
            let now = timed.then(Instant::now);
            let deadline = now.and_then(|now| {
                let mut deadlines = pending.iter().filter_map(|lent| lent.deadline);
                deadlines.find(|deadline| *deadline > now)
            });
            let in_time = end.wait(deadline, &mut |waker| {
                // Both are asked, for both are to wake this thread.
                let over = first.task.poll_over(waker) | self.poll_new(waker);
                over || !ended && end.has_ended()
            });
            if !in_time || !ended && end.has_ended() {
                ended |= end.has_ended();
                pending.iter().for_each(|lent| try_begin(lent));
            }
        }
    }
}

impl BorrowedTask {
    /// Lets `f` at the task, if it is still there; then it is over.
    fn finish_with(&self, f: impl FnOnce(Arc<dyn Task>)) {
        self.task.with(|task| {
            if let Err(payload) = catch(|| f(task)) {
                discard(payload);
            }
            // What it borrows may be dropped with it: while this thread still counts as one that uses it.
            discard(self.task.take());
        });
    }

    /// Its place in the queue, once.
    pub(crate) fn take_ticket(&self) -> Option<Ticket> {
        let ticket = Ticket::from_bits(self.ticket.swap(0, Ordering::Relaxed));
        (ticket != Ticket::NONE).then_some(ticket)
    }

    fn is_over(&self) -> bool {
        self.task.is_over()
    }
}

impl Task for BorrowedTask {
    fn run(self: Arc<Self>, worker: &Worker) {
        self.finish_with(|task| task.run(worker));
    }

    fn skip(self: Arc<Self>, why: Error) {
        self.finish_with(|task| task.skip(why));
    }
}

/// Lets `body` lend tasks that borrow from the caller, and waits for all of them, also when it panics.
pub(crate) fn scope<'env, R>(
    end: &dyn End,
    body: impl for<'scope> FnOnce(&'scope ScopeTasks<'scope, 'env>) -> R,
) -> R {
    let list = Mutex::new(List { tasks: Vec::new(), end: None });
    let tasks = ScopeTasks { list, scope: PhantomData, env: PhantomData };
    let result = catch(|| body(&tasks));
    tasks.finish(end);
    match result {
        Ok(result) => result,
        Err(payload) => std::panic::resume_unwind(payload),
    }
}

#[cfg(all(test, loom))]
mod models {
    use super::*;
    use crate::sync::{UnsafeCell, model};
    use loom::thread;

    /// What the tasks borrow. Its owner uses it again, without a lock, when the scope is over.
    struct Stack {
        runs: UnsafeCell<usize>,
        dropped: UnsafeCell<usize>,
    }

    // SAFETY: tasks use it one at a time, under the lock of `Borrower::begun` or when the last reference
    // goes, and the owner when they are gone; which is what loom looks at.
    unsafe impl Sync for Stack {}

    impl Stack {
        fn new() -> Self {
            Stack { runs: UnsafeCell::new(0), dropped: UnsafeCell::new(0) }
        }

        fn counts(&self) -> (usize, usize) {
            // SAFETY: asked when no task is left.
            let runs = self.runs.with_mut(|runs| unsafe { *runs });
            // SAFETY: as above.
            (runs, self.dropped.with_mut(|dropped| unsafe { *dropped }))
        }
    }

    struct Borrower<'s> {
        stack: &'s Stack,
        begun: Mutex<bool>,
        told: Arc<crate::scheduler::park::Event>,
    }

    impl<'s> Borrower<'s> {
        fn new(stack: &'s Stack) -> Arc<Self> {
            Arc::new(Borrower { stack, begun: Mutex::new(false), told: Arc::default() })
        }
    }

    impl Task for Borrower<'_> {
        fn run(self: Arc<Self>, _: &Worker) {
            let mut begun = lock(&self.begun);
            if !std::mem::replace(&mut begun, true) {
                // SAFETY: see `Stack`.
                self.stack.runs.with_mut(|runs| unsafe { *runs += 1 });
                self.told.set();
            }
        }
        fn skip(self: Arc<Self>, _: Error) {}
    }

    impl Drop for Borrower<'_> {
        fn drop(&mut self) {
            // SAFETY: see `Stack`.
            self.stack.dropped.with_mut(|dropped| unsafe { *dropped += 1 });
        }
    }

    /// The queue of a model.
    type Queue = Arc<Mutex<Vec<Arc<dyn Task>>>>;

    fn submit(queue: &Queue) -> impl FnOnce(Arc<dyn Task>) -> Result<Ticket, Error> {
        let queue = Arc::clone(queue);
        move |lent| {
            lock(&queue).push(lent);
            Ok(Ticket::NONE)
        }
    }

    /// Runs or skips a task of the queue; false if there is none.
    fn take_one(queue: &Queue, skips: bool) -> bool {
        let Some(task) = lock(queue).pop() else { return false };
        match skips {
            true => task.skip(Error::Terminated),
            false => task.run(&Worker::new(0, 0, None)),
        }
        true
    }

    /// An end that waits, and as a worker takes what is queued.
    struct Ending<'q>(Option<&'q Queue>);

    impl End for Ending<'_> {
        fn begin(&self, _: &BorrowedTask) {
            self.0.map(|queue| take_one(queue, false));
        }
        fn wait(&self, _: Option<Instant>, ready: &mut dyn FnMut(&Waker) -> bool) -> bool {
            crate::scheduler::park::until(None, ready)
        }
        fn has_ended(&self) -> bool {
            false
        }
    }

    /// The end of a scope, which waits while another thread runs the task or skips it.
    #[test]
    fn nothing_is_borrowed_after_a_scope() {
        for skips in [false, true] {
            model(move || {
                let (stack, queue) = (Stack::new(), Queue::default());
                let thread = scope(&Ending(None), |tasks| {
                    let _ = tasks.lend(Borrower::new(&stack), None, submit(&queue));
                    let queue = Arc::clone(&queue);
                    thread::spawn(move || assert!(take_one(&queue, skips)))
                });
                assert_eq!(stack.counts(), (usize::from(!skips), 1));
                drop(stack);
                thread.join().unwrap();
            });
        }
    }

    /// The end of a scope on a worker: it takes the task out of the queue if no other thread has.
    #[test]
    fn nothing_is_borrowed_after_a_scope_on_a_worker() {
        model(|| {
            let (stack, queue) = (Stack::new(), Queue::default());
            let thread = scope(&Ending(Some(&queue)), |tasks| {
                let _ = tasks.lend(Borrower::new(&stack), None, submit(&queue));
                let queue = Arc::clone(&queue);
                thread::spawn(move || _ = take_one(&queue, false))
            });
            assert_eq!(stack.counts(), (1, 1));
            drop(stack);
            thread.join().unwrap();
        });
    }

    /// A task of the scope that tasks another while the scope ends, and waits for that.
    #[test]
    fn what_a_task_lends_is_begun_by_the_end_of_the_scope() {
        struct Parent<'scope, 'env> {
            tasks: &'scope ScopeTasks<'scope, 'env>,
            child: Mutex<Option<Arc<Borrower<'scope>>>>,
            queue: Queue,
        }

        impl Task for Parent<'_, '_> {
            fn run(self: Arc<Self>, _: &Worker) {
                let Some(child) = lock(&self.child).take() else { return };
                let begun = Arc::clone(&child.told);
                let _ = self.tasks.lend(child, None, submit(&self.queue));
                assert!(begun.wait(None));
            }
            fn skip(self: Arc<Self>, _: Error) {}
        }

        model(|| {
            let (stack, queue) = (Stack::new(), Queue::default());
            let thread = scope(&Ending(Some(&queue)), |tasks| {
                let child = Mutex::new(Some(Borrower::new(&stack)));
                let parent = Parent { tasks, child, queue: Arc::clone(&queue) };
                let task = Queue::default();
                let _ = tasks.lend(Arc::new(parent), None, submit(&task));
                // Begun by another thread than the one that ends the scope.
                thread::spawn(move || assert!(take_one(&task, false)))
            });
            assert_eq!(stack.counts(), (1, 1));
            drop(stack);
            thread.join().unwrap();
        });
    }
}
