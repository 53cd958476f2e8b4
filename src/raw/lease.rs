//! Any number of tasks that borrow and have handles: what a scope is made of.

use std::collections::VecDeque;
use std::marker::PhantomData;
use std::sync::Arc;
use std::task::Waker;

use crate::error::Error;
use crate::panic::{catch, discard};
use crate::scheduler::{Task, Ticket, Worker};
use crate::sync::{Instant, Mutex, lock};

/// The tasks of a scope, which may borrow from what encloses it. Made by [`scope`].
pub(crate) struct Leases<'scope, 'env: 'scope> {
    list: Mutex<List>,
    /// Invariant in both, as `std::thread::Scope` is: neither may be taken for another.
    scope: PhantomData<&'scope mut &'scope ()>,
    env: PhantomData<&'env mut &'env ()>,
}

struct List {
    /// What was leased, may not be over, and was not seen by the end of the scope. Pruned as it grows.
    leases: Vec<Arc<Lease>>,
    /// The end of the scope, which waits for the tasks.
    end: Option<Waker>,
}

/// How a scope ends.
pub(crate) trait End {
    /// Takes a task out of the queue if nobody has begun it, and runs or skips it, if it is this thread's to do.
    fn begin(&self, lease: &Lease);

    /// Blocks until `ready` returns true (then true) or `deadline` has passed (then false). Woken also when
    /// [`has_ended`](End::has_ended) turns true.
    fn wait(&self, deadline: Option<Instant>, ready: &mut dyn FnMut(&Waker) -> bool) -> bool;

    /// Whether no task shall begin any more.
    fn has_ended(&self) -> bool;
}

/// One task of a scope, in a form that may lie in a queue for longer than the scope lives.
pub(crate) struct Lease {
    /// When the time of its call is up.
    pub(crate) deadline: Option<Instant>,
    state: Mutex<Leased>,
}

struct Leased {
    /// With its lifetime erased. `None` once it ran, was skipped or was taken back.
    task: Option<Arc<dyn Task>>,
    /// Its place in the queue, until somebody tries to take it out.
    ticket: Option<Ticket>,
    /// How many threads have a reference that they took from `task`.
    holders: usize,
    /// The end of the scope, which waits for this one.
    owner: Option<Waker>,
}

impl<'scope> Leases<'scope, '_> {
    /// `task` as something that may be queued, which `submit` does: it does nothing once the scope is over.
    pub(crate) fn lease(
        &self,
        task: Arc<dyn Task + 'scope>,
        deadline: Option<Instant>,
        submit: impl FnOnce(Arc<dyn Task>) -> Result<Ticket, Error>,
    ) -> Result<Ticket, Error> {
        // SAFETY: only the lifetime changes. `scope` does not return before each lease has lost its
        // task and all references that were taken from it, and `'scope` does not end before.
        let task = unsafe { std::mem::transmute::<Arc<dyn Task + 'scope>, Arc<dyn Task>>(task) };
        let leased = Leased { task: Some(task), ticket: None, holders: 0, owner: None };
        let lease = Arc::new(Lease { deadline, state: Mutex::new(leased) });
        // Who leases is in the body of the scope or in a task of it, which is in the list: so the scope does not
        // end before this returns, also by a panic, which no code of the user's is the cause of.
        let queued = catch(|| submit(Arc::clone(&lease) as Arc<dyn Task>));
        lock(&lease.state).ticket =
            queued.as_ref().ok().and_then(|queued| queued.as_ref().ok()).copied();
        self.add(lease);
        queued.unwrap_or_else(|payload| std::panic::resume_unwind(payload))
    }

    /// Remembers `lease`, and tells the end of the scope of it.
    fn add(&self, lease: Arc<Lease>) {
        let waiting = {
            let mut list = lock(&self.list);
            if list.leases.len() == list.leases.capacity() {
                list.leases.retain(|lease| !lease.is_over());
                // Room for as many again, so that the next look at all of them is as far off.
                let alive = list.leases.len();
                list.leases.reserve(alive.max(4));
            }
            list.leases.push(lease);
            list.end.clone()
        };
        if let Some(waiting) = waiting {
            waiting.wake();
        }
    }

    /// Whether tasks were leased that the end of the scope has not seen; if not, `waker` is woken when there are.
    fn poll_new(&self, waker: &Waker) -> bool {
        let mut list = lock(&self.list);
        list.end = Some(waker.clone());
        !list.leases.is_empty()
    }

    /// Waits for every task, in the way of `end`.
    fn finish(&self, end: &dyn End) {
        // Those that were begun, or are left to the workers.
        let mut pending = VecDeque::new();
        // Whatever happens there, this does not end before the tasks do.
        let try_begin = |lease: &Lease| _ = catch(|| end.begin(lease)).map_err(discard);
        let mut ended = false;
        loop {
            let new = std::mem::take(&mut lock(&self.list).leases);
            if new.is_empty() && pending.is_empty() {
                // Only tasks lease now, and only while they run, and none did when the list was looked at.
                return;
            }
            for lease in new {
                try_begin(&lease);
                pending.push_back(lease);
            }
            while pending.front().is_some_and(|lease: &Arc<Lease>| lease.is_over()) {
                pending.pop_front();
            }
            let Some(first) = pending.front() else { continue };
            // All calls of a scope have a deadline, or none, and the later ones the later.
            let timed = first.deadline.is_some() && !ended;
            let now = timed.then(Instant::now);
            let deadline = now.and_then(|now| {
                let mut deadlines = pending.iter().filter_map(|lease| lease.deadline);
                deadlines.find(|deadline| *deadline > now)
            });
            let in_time = end.wait(deadline, &mut |waker| {
                // Both are asked, for both are to wake this thread.
                let over = first.poll(waker) | self.poll_new(waker);
                over || !ended && end.has_ended()
            });
            if !in_time || !ended && end.has_ended() {
                ended |= end.has_ended();
                pending.iter().for_each(|lease| try_begin(lease));
            }
        }
    }
}

impl Lease {
    /// Lets `f` at the task, if it is still there; then it is over.
    fn finish_with(&self, f: impl FnOnce(Arc<dyn Task>)) {
        let task = {
            let mut leased = lock(&self.state);
            let Some(task) = leased.task.clone() else { return };
            leased.holders += 1;
            task
        };
        // A panic must not keep `holders` up. `f` drops its reference before it returns.
        if let Err(payload) = catch(|| f(task)) {
            discard(payload);
        }
        // Its own reference goes while this thread still counts as a holder.
        let task = lock(&self.state).task.take();
        discard(task);
        self.change(|leased| leased.holders -= 1);
    }

    /// Makes a change that the end of the scope may wait for.
    fn change(&self, change: impl FnOnce(&mut Leased)) {
        let owner = {
            let mut leased = lock(&self.state);
            change(&mut leased);
            leased.owner.clone()
        };
        if let Some(owner) = owner {
            owner.wake();
        }
    }

    /// Its place in the queue, once.
    pub(crate) fn take_ticket(&self) -> Option<Ticket> {
        lock(&self.state).ticket.take()
    }

    pub(crate) fn is_over(&self) -> bool {
        let leased = lock(&self.state);
        leased.task.is_none() && leased.holders == 0
    }

    /// Whether it is over; if not, `waker` is woken when it is.
    fn poll(&self, waker: &Waker) -> bool {
        let mut leased = lock(&self.state);
        leased.owner = Some(waker.clone());
        leased.task.is_none() && leased.holders == 0
    }
}

impl Task for Lease {
    fn run(self: Arc<Self>, worker: &Worker) {
        self.finish_with(|task| task.run(worker));
    }

    fn skip(self: Arc<Self>, why: Error) {
        self.finish_with(|task| task.skip(why));
    }
}

/// Lets `body` lease tasks that borrow from the caller, and waits for all of them, also when it panics.
pub(crate) fn scope<'env, R>(
    end: &dyn End,
    body: impl for<'scope> FnOnce(&'scope Leases<'scope, 'env>) -> R,
) -> R {
    let list = Mutex::new(List { leases: Vec::new(), end: None });
    let leases = Leases { list, scope: PhantomData, env: PhantomData };
    let result = catch(|| body(&leases));
    leases.finish(end);
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
        move |lease| {
            lock(&queue).push(lease);
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
        fn begin(&self, _: &Lease) {
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
                let thread = scope(&Ending(None), |leases| {
                    let _ = leases.lease(Borrower::new(&stack), None, submit(&queue));
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
            let thread = scope(&Ending(Some(&queue)), |leases| {
                let _ = leases.lease(Borrower::new(&stack), None, submit(&queue));
                let queue = Arc::clone(&queue);
                thread::spawn(move || _ = take_one(&queue, false))
            });
            assert_eq!(stack.counts(), (1, 1));
            drop(stack);
            thread.join().unwrap();
        });
    }

    /// A task of the scope that leases another while the scope ends, and waits for that.
    #[test]
    fn what_a_task_leases_is_begun_by_the_end_of_the_scope() {
        struct Parent<'scope, 'env> {
            leases: &'scope Leases<'scope, 'env>,
            child: Mutex<Option<Arc<Borrower<'scope>>>>,
            queue: Queue,
        }

        impl Task for Parent<'_, '_> {
            fn run(self: Arc<Self>, _: &Worker) {
                let Some(child) = lock(&self.child).take() else { return };
                let begun = Arc::clone(&child.told);
                let _ = self.leases.lease(child, None, submit(&self.queue));
                assert!(begun.wait(None));
            }
            fn skip(self: Arc<Self>, _: Error) {}
        }

        model(|| {
            let (stack, queue) = (Stack::new(), Queue::default());
            let thread = scope(&Ending(Some(&queue)), |leases| {
                let child = Mutex::new(Some(Borrower::new(&stack)));
                let parent = Parent { leases, child, queue: Arc::clone(&queue) };
                let task = Queue::default();
                let _ = leases.lease(Arc::new(parent), None, submit(&task));
                // Begun by another thread than the one that ends the scope.
                thread::spawn(move || assert!(take_one(&task, false)))
            });
            assert_eq!(stack.counts(), (1, 1));
            drop(stack);
            thread.join().unwrap();
        });
    }
}
