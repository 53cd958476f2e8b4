//! Any number of tasks that borrow and have handles: what a scope is made of.

use std::marker::PhantomData;
use std::sync::Arc;
use std::task::Waker;

use crate::call::Pending;
use crate::panic::{catch, discard};
use crate::queue::Task;
use crate::result::AsyncResult;
use crate::sync::{Mutex, lock};
use crate::wait;
use crate::worker;

/// The tasks of a scope, which may borrow from what encloses it. Made by [`scope`].
pub(crate) struct Leases<'scope, 'env: 'scope> {
    /// What was leased and may not be over. Pruned as it grows.
    list: Mutex<Vec<Arc<Lease>>>,
    /// Invariant in both, as `std::thread::Scope` is: neither may be taken for another.
    scope: PhantomData<&'scope mut &'scope ()>,
    env: PhantomData<&'env mut &'env ()>,
}

/// One task of a scope, in a form that may lie in a queue for longer than the scope lives.
struct Lease(Mutex<Leased>);

struct Leased {
    /// With its lifetime erased. `None` once it ran or was taken back.
    task: Option<Arc<dyn Task>>,
    /// How many threads have a reference that they took from `task`.
    holders: usize,
    /// The end of the scope, waiting for this one.
    owner: Option<Waker>,
}

impl<'scope> Leases<'scope, '_> {
    /// `task` as something that may be queued: it does nothing once the scope is over.
    pub(crate) fn lease(&self, task: Arc<dyn Task + 'scope>) -> Arc<dyn Task> {
        // SAFETY: only the lifetime changes. `scope` does not return before each lease has lost its
        // task and all references that were taken from it, and `'scope` does not end before.
        let task = unsafe { std::mem::transmute::<Arc<dyn Task + 'scope>, Arc<dyn Task>>(task) };
        let lease =
            Arc::new(Lease(Mutex::new(Leased { task: Some(task), holders: 0, owner: None })));
        let mut list = lock(&self.list);
        if list.len() == list.capacity() {
            list.retain(|lease| !lease.is_over());
            // Room for as many again, so that the next look at all of them is as far off.
            let alive = list.len();
            list.reserve(alive.max(4));
        }
        list.push(Arc::clone(&lease));
        lease
    }

    /// Waits for every task; on a worker it runs those that nobody has begun.
    fn finish(&self, is_worker: bool) {
        loop {
            let list = std::mem::take(&mut *lock(&self.list));
            if list.is_empty() {
                // Only tasks lease now, and only while they run; none of those that were seen does.
                return;
            }
            for lease in list {
                if is_worker {
                    worker::run(Arc::clone(&lease) as Arc<dyn Task>);
                }
                wait::until(None, |waker| lease.poll_over(waker) || lease.is_stale());
                lease.take_back();
            }
        }
    }
}

impl Lease {
    /// Lets `f` at the task, if it is still there.
    fn with<R>(&self, f: impl FnOnce(Arc<dyn Task>) -> R) -> Option<R> {
        let task = {
            let mut leased = lock(&self.0);
            let task = leased.task.clone()?;
            leased.holders += 1;
            task
        };
        // A panic must not keep `holders` up. `f` drops its reference before it returns.
        let result = catch(|| f(task));
        let owner = {
            let mut leased = lock(&self.0);
            leased.holders -= 1;
            // Only when it is over: the owner itself comes here to ask whether it is stale, and must
            // not be woken by that.
            leased.owner.clone().filter(|_| leased.holders == 0 && leased.task.is_none())
        };
        if let Some(owner) = owner {
            owner.wake();
        }
        result.map_err(discard).ok()
    }

    fn is_over(&self) -> bool {
        let leased = lock(&self.0);
        leased.task.is_none() && leased.holders == 0
    }

    /// Whether it is over; if not, `waker` is woken when it may be.
    fn poll_over(&self, waker: &Waker) -> bool {
        lock(&self.0).owner = Some(waker.clone());
        self.is_over()
    }

    /// Drops the task and waits until nobody has it.
    fn take_back(&self) {
        let task = lock(&self.0).task.take();
        discard(task);
        wait::until(None, |waker| self.poll_over(waker));
    }
}

impl Task for Lease {
    fn run(self: Arc<Self>) {
        self.with(|task| {
            task.run();
            // Its own reference goes while this thread still counts as a holder.
            let task = lock(&self.0).task.take();
            discard(task);
        });
    }

    /// Over as well, if it is: whoever asks may be about to throw it out of the queue, and then nobody
    /// else would tell the end of the scope.
    fn is_stale(&self) -> bool {
        let stale = self.with(|task| {
            let stale = task.is_stale();
            drop(task);
            let own = if stale { lock(&self.0).task.take() } else { None };
            discard(own);
            stale
        });
        stale.unwrap_or(true)
    }
}

/// Lets `body` lease tasks that borrow from the caller, and waits for all of them, also when it panics.
pub(crate) fn scope<'env, R>(
    is_worker: bool,
    body: impl for<'scope> FnOnce(&'scope Leases<'scope, 'env>) -> R,
) -> R {
    let leases = Leases { list: Mutex::default(), scope: PhantomData, env: PhantomData };
    let result = catch(|| body(&leases));
    leases.finish(is_worker);
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
        fn run(self: Arc<Self>) {
            let mut begun = lock(&self.begun);
            if !std::mem::replace(&mut begun, true) {
                // SAFETY: see `Stack`.
                self.stack.runs.with_mut(|runs| unsafe { *runs += 1 });
            }
        }
        fn is_stale(&self) -> bool {
            *lock(&self.begun)
        }
    }

    impl Drop for Borrower<'_> {
        fn drop(&mut self) {
            // SAFETY: see `Stack`.
            self.stack.dropped.with_mut(|dropped| unsafe { *dropped += 1 });
        }
    }

    /// The end of a scope on a worker or elsewhere, while one thread runs the task and another looks
    /// whether it is stale, as who sweeps the queue does.
    fn nothing_is_borrowed_after(is_worker: bool) {
        model(move || {
            let stack = Stack { runs: UnsafeCell::new(0), dropped: UnsafeCell::new(0) };
            let threads = scope(is_worker, |leases| {
                let lease = leases.lease(Borrower::new(&stack));
                let sweeper = Arc::clone(&lease);
                [thread::spawn(move || lease.run()), thread::spawn(move || _ = sweeper.is_stale())]
            });
            // SAFETY: no task is left.
            assert_eq!(stack.runs.with_mut(|runs| unsafe { *runs }), 1);
            assert_eq!(stack.dropped.with_mut(|dropped| unsafe { *dropped }), 1);
            drop(stack);
            threads.into_iter().for_each(|thread| thread.join().unwrap());
        });
    }

    #[test]
    fn nothing_is_borrowed_after_a_scope() {
        nothing_is_borrowed_after(false);
    }

    #[test]
    fn nothing_is_borrowed_after_a_scope_on_a_worker() {
        nothing_is_borrowed_after(true);
    }

    /// A task that another one of the scope has run, as a wait does, is thrown out of the queue by a
    /// sweep, and the end of the scope hears of it.
    #[test]
    fn what_was_begun_elsewhere_is_waited_for_no_longer() {
        struct Helper<'s>(Mutex<Option<Arc<Borrower<'s>>>>);

        impl Task for Helper<'_> {
            fn run(self: Arc<Self>) {
                let awaited = lock(&self.0).take();
                awaited.map(Task::run);
            }
            fn is_stale(&self) -> bool {
                lock(&self.0).is_none()
            }
        }

        model(|| {
            let stack = Stack { runs: UnsafeCell::new(0), dropped: UnsafeCell::new(0) };
            let thread = scope(false, |leases| {
                let awaited = Borrower::new(&stack);
                let lease = leases.lease(Arc::clone(&awaited) as Arc<dyn Task + '_>);
                let helper = leases.lease(Arc::new(Helper(Mutex::new(Some(awaited)))));
                thread::spawn(move || {
                    helper.run();
                    assert!(lease.is_stale());
                })
            });
            // SAFETY: no task is left.
            assert_eq!(stack.runs.with_mut(|runs| unsafe { *runs }), 1);
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
        }

        impl Task for Parent<'_, '_> {
            fn run(self: Arc<Self>) {
                let child = lock(&self.child).take();
                child.map(|child| self.leases.lease(child));
            }
            fn is_stale(&self) -> bool {
                lock(&self.child).is_none()
            }
        }

        model(|| {
            let stack = Stack { runs: UnsafeCell::new(0), dropped: UnsafeCell::new(0) };
            let thread = scope(true, |leases| {
                let child = Mutex::new(Some(Borrower::new(&stack)));
                let lease = leases.lease(Arc::new(Parent { leases, child }));
                thread::spawn(move || lease.run())
            });
            // SAFETY: no task is left.
            assert_eq!(stack.runs.with_mut(|runs| unsafe { *runs }), 1);
            assert_eq!(stack.dropped.with_mut(|dropped| unsafe { *dropped }), 1);
            drop(stack);
            thread.join().unwrap();
        });
    }
}
