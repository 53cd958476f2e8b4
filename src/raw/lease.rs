//! Any number of tasks that borrow and have handles: what a scope is made of.

use std::marker::PhantomData;
use std::sync::Arc;
use std::task::Waker;

use crate::call::Pending;
use crate::error::Error;
use crate::panic::{catch, discard};
use crate::queue::{Task, Ticket};
use crate::result::AsyncResult;
use crate::sync::{Instant, Mutex, lock};
use crate::wait;
use crate::worker::Worker;

/// The tasks of a scope, which may borrow from what encloses it. Made by [`scope`].
pub(crate) struct Leases<'scope, 'env: 'scope> {
    /// What was leased and may not be over. Pruned as it grows.
    list: Mutex<Vec<Arc<Lease>>>,
    /// Invariant in both, as `std::thread::Scope` is: neither may be taken for another.
    scope: PhantomData<&'scope mut &'scope ()>,
    env: PhantomData<&'env mut &'env ()>,
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
        let mut list = lock(&self.list);
        if list.len() == list.capacity() {
            list.retain(|lease| !lease.is_over());
            // Room for as many again, so that the next look at all of them is as far off.
            let alive = list.len();
            list.reserve(alive.max(4));
        }
        list.push(Arc::clone(&lease));
        drop(list);
        let ticket = submit(Arc::clone(&lease) as Arc<dyn Task>)?;
        // The end of the scope may wait already, and have found no ticket.
        lease.change(|leased| leased.ticket = Some(ticket));
        Ok(ticket)
    }

    /// Waits for every task, with the help of `attend`: it waits for one until that is over, or until it need not
    /// be waited for, and may run or skip it if nobody has begun it.
    fn finish(&self, attend: &dyn Fn(&Lease)) {
        loop {
            let list = std::mem::take(&mut *lock(&self.list));
            if list.is_empty() {
                // Only tasks lease now, and only while they run; none of those that were seen does.
                return;
            }
            for lease in list {
                if !lease.is_over() {
                    // Whatever happens there, this does not end before the tasks do.
                    let _ = catch(|| attend(&lease)).map_err(discard);
                }
                lease.take_back();
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

    /// Whether it is over, or has a ticket to take; if not, `waker` is woken when that changes.
    pub(crate) fn poll(&self, waker: &Waker, wants_ticket: bool) -> bool {
        let mut leased = lock(&self.state);
        leased.owner = Some(waker.clone());
        leased.task.is_none() && leased.holders == 0 || wants_ticket && leased.ticket.is_some()
    }

    /// Drops the task and waits until nobody has it.
    fn take_back(&self) {
        let task = lock(&self.state).task.take();
        discard(task);
        wait::until(None, |waker| self.poll(waker, false));
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
/// `attend` waits for one.
pub(crate) fn scope<'env, R>(
    attend: &dyn Fn(&Lease),
    body: impl for<'scope> FnOnce(&'scope Leases<'scope, 'env>) -> R,
) -> R {
    let leases = Leases { list: Mutex::default(), scope: PhantomData, env: PhantomData };
    let result = catch(|| body(&leases));
    leases.finish(attend);
    match result {
        Ok(result) => result,
        Err(payload) => std::panic::resume_unwind(payload),
    }
}

/// The handle of a task that may borrow for `'scope`, which it cannot outlive.
pub(crate) struct Bound<'scope, T> {
    handle: AsyncResult<T>,
    scope: PhantomData<&'scope ()>,
}

impl<'scope, T> Bound<'scope, T> {
    pub(crate) fn new(task: Arc<dyn Pending<T> + 'scope>) -> Self {
        // SAFETY: only the lifetime changes. The handle is used and dropped within `'scope`, for it
        // does not leave this struct by value and `Drop` below makes the compiler see to the rest; if
        // it is leaked, so is the task. No method of a handle hands out its task.
        let task = unsafe {
            std::mem::transmute::<Arc<dyn Pending<T> + 'scope>, Arc<dyn Pending<T>>>(task)
        };
        Bound { handle: AsyncResult::new(task), scope: PhantomData }
    }

    pub(crate) fn handle(&self) -> &AsyncResult<T> {
        &self.handle
    }

    /// Not to be swapped for another.
    pub(crate) fn handle_mut(&mut self) -> &mut AsyncResult<T> {
        &mut self.handle
    }
}

impl<T> Drop for Bound<'_, T> {
    /// With a destructor of its own, the type must not outlive `'scope` even unused.
    fn drop(&mut self) {}
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
    }

    impl<'s> Borrower<'s> {
        fn new(stack: &'s Stack) -> Arc<Self> {
            Arc::new(Borrower { stack, begun: Mutex::new(false) })
        }
    }

    impl Task for Borrower<'_> {
        fn run(self: Arc<Self>, _: &Worker) {
            let mut begun = lock(&self.begun);
            if !std::mem::replace(&mut begun, true) {
                // SAFETY: see `Stack`.
                self.stack.runs.with_mut(|runs| unsafe { *runs += 1 });
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

    fn wait_for(lease: &Lease) {
        wait::until(None, |waker| lease.poll(waker, false));
    }

    /// The end of a scope, which waits while another thread runs the task or skips it.
    #[test]
    fn nothing_is_borrowed_after_a_scope() {
        for skips in [false, true] {
            model(move || {
                let (stack, queue) = (Stack::new(), Queue::default());
                let thread = scope(&wait_for, |leases| {
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
            let attend = |lease: &Lease| {
                take_one(&queue, false);
                wait_for(lease);
            };
            let thread = scope(&attend, |leases| {
                let _ = leases.lease(Borrower::new(&stack), None, submit(&queue));
                let queue = Arc::clone(&queue);
                thread::spawn(move || _ = take_one(&queue, false))
            });
            assert_eq!(stack.counts(), (1, 1));
            drop(stack);
            thread.join().unwrap();
        });
    }

    /// An `attend` that does not wait: the task is taken back, and not run by who comes too late.
    #[test]
    fn a_task_that_is_not_waited_for_is_taken_back() {
        model(|| {
            let (stack, queue) = (Stack::new(), Queue::default());
            let thread = scope(&|_: &Lease| (), |leases| {
                let _ = leases.lease(Borrower::new(&stack), None, submit(&queue));
                let queue = Arc::clone(&queue);
                thread::spawn(move || assert!(take_one(&queue, false)))
            });
            let (runs, dropped) = stack.counts();
            assert!(runs <= 1 && dropped == 1);
            drop(stack);
            thread.join().unwrap();
        });
    }

    /// A task of the scope that leases another while the scope ends.
    #[test]
    fn what_a_task_leases_is_waited_for_too() {
        struct Parent<'scope, 'env> {
            leases: &'scope Leases<'scope, 'env>,
            child: Mutex<Option<Arc<Borrower<'scope>>>>,
            queue: Queue,
        }

        impl Task for Parent<'_, '_> {
            fn run(self: Arc<Self>, _: &Worker) {
                let child = lock(&self.child).take();
                child.map(|child| self.leases.lease(child, None, submit(&self.queue)));
            }
            fn skip(self: Arc<Self>, _: Error) {}
        }

        model(|| {
            let (stack, queue) = (Stack::new(), Queue::default());
            let attend = |lease: &Lease| {
                take_one(&queue, false);
                wait_for(lease);
            };
            let thread = scope(&attend, |leases| {
                let child = Mutex::new(Some(Borrower::new(&stack)));
                let parent = Parent { leases, child, queue: Arc::clone(&queue) };
                let _ = leases.lease(Arc::new(parent), None, submit(&queue));
                let queue = Arc::clone(&queue);
                thread::spawn(move || _ = take_one(&queue, false))
            });
            assert_eq!(stack.counts(), (1, 1));
            drop(stack);
            thread.join().unwrap();
        });
    }
}
