//! A closure and an input that borrow from the caller's stack, lent to the workers until none of them
//! can touch them any more; as `std::thread::scope` does.

use std::sync::Arc;
use std::task::Waker;

use super::borrowed::Borrowed;
use crate::scheduler::{Tickets, Worker, park};
use crate::sync::Mutex;

/// What [`lend`] hands to the workers: work that several threads may join.
pub(crate) trait Job: Sync {
    /// Does a share of the work on `worker`; `loan` is what to submit for another one to join.
    fn work(&self, loan: &Arc<BorrowedJob>, worker: &Worker);
}

/// A job that other threads may use until its owner takes it back.
pub(crate) struct BorrowedJob {
    job: Borrowed<Lent>,
    /// Its places in the queue.
    pub(crate) tickets: Mutex<Tickets>,
}

/// The job with its lifetime erased.
#[derive(Clone, Copy)]
struct Lent(*const (dyn Job + 'static));

// SAFETY: it is a `&dyn Job`, and `Job` is `Sync`; that it still lives is `lend`'s to see to.
unsafe impl Send for Lent {}

impl BorrowedJob {
    /// Lets the calling thread work on the job, unless it was taken back.
    pub(crate) fn join(self: &Arc<Self>, worker: &Worker) {
        self.job.with(|lent| {
            // SAFETY: `lend` does not return before it has taken the job back and seen that nobody uses it, and this
            // thread counts as one that does until this closure has returned. So the borrow that `lend` made the
            // pointer of is alive.
            let job = unsafe { &*lent.0 };
            job.work(self, worker);
        });
    }

    /// Makes the owner look again at what it waits for.
    pub(crate) fn wake_owner(&self) {
        self.job.wake_owner();
    }

    /// Whether nobody is using the job now; if somebody is, `waker` is woken when that ends.
    pub(crate) fn poll_idle(&self, waker: &Waker) -> bool {
        self.job.poll_idle(waker)
    }
}

/// Lends `job` to the threads that join the loan that `body` gets, until `body` has returned and the last
/// of them has left.
pub(crate) fn lend<R>(job: &dyn Job, body: impl FnOnce(&Arc<BorrowedJob>) -> R) -> R {
    /// Takes the job back, also when `body` panics.
    struct Owner(Arc<BorrowedJob>);

    impl Drop for Owner {
        fn drop(&mut self) {
            self.0.job.take();
            // Woken by the last that leaves.
            park::until(None, |waker| self.0.poll_idle(waker));
        }
    }

    // SAFETY: only the lifetime changes. The pointer is read in `BorrowedJob::join` alone, which says why
    // the borrow is alive there: `Owner::drop`, which nothing can skip, waits for it.
    let erased: *const (dyn Job + 'static) = unsafe { std::mem::transmute(job as *const dyn Job) };
    let job = Borrowed::new(Lent(erased));
    let owner = Owner(Arc::new(BorrowedJob { job, tickets: Mutex::default() }));
    body(&owner.0)
}

#[cfg(all(test, loom))]
mod models {
    use super::*;
    use crate::sync::{UnsafeCell, lock, model};
    use loom::thread;

    fn worker() -> Worker {
        Worker::new(0, 0, None)
    }

    /// What the owner lends, and uses again without a lock when it has it back.
    struct Lent {
        inside: Mutex<()>,
        used: UnsafeCell<usize>,
    }

    // SAFETY: `work` uses it under the lock, and the owner when nobody is inside; which is what loom
    // looks at.
    unsafe impl Sync for Lent {}

    impl Job for Lent {
        fn work(&self, _: &Arc<BorrowedJob>, _: &Worker) {
            let _inside = lock(&self.inside);
            // SAFETY: as above.
            self.used.with_mut(|used| unsafe { *used += 1 });
        }
    }

    /// Nobody is at the job when `lend` has returned, whenever the others come.
    #[test]
    fn a_loan_is_over_when_lend_returns() {
        model(|| {
            let job = Lent { inside: Mutex::new(()), used: UnsafeCell::new(0) };
            let threads = lend(&job, |loan| {
                [0, 1].map(|_| {
                    let loan = Arc::clone(loan);
                    thread::spawn(move || loan.join(&worker()))
                })
            });
            // SAFETY: the job was taken back.
            let used = job.used.with_mut(|used| unsafe { *used });
            assert!(used <= 2);
            // Gone before the threads are.
            drop(job);
            threads.into_iter().for_each(|thread| thread.join().unwrap());
        });
    }

    /// An owner that waits for somebody to have left is woken.
    #[test]
    fn the_last_to_leave_wakes_the_owner() {
        model(|| {
            let job = Lent { inside: Mutex::new(()), used: UnsafeCell::new(0) };
            let thread = lend(&job, |loan| {
                let other = Arc::clone(loan);
                let thread = thread::spawn(move || other.join(&worker()));
                park::until(None, |waker| {
                    let idle = loan.poll_idle(waker);
                    let _inside = lock(&job.inside);
                    // SAFETY: under the lock.
                    idle && job.used.with_mut(|used| unsafe { *used == 1 })
                });
                thread
            });
            thread.join().unwrap();
        });
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    fn worker() -> Worker {
        Worker::new(0, 0, None)
    }

    struct Count(std::sync::atomic::AtomicUsize);

    impl Job for Count {
        fn work(&self, _: &Arc<BorrowedJob>, _: &Worker) {
            // ORDERING: a counter of a test, read after the threads were joined.
            self.0.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        }
    }

    #[test]
    fn a_loan_is_over_when_lend_returns() {
        let job = Count(0.into());
        let mut threads = Vec::new();
        let loan = lend(&job, |loan| {
            for _ in 0..4 {
                let loan = Arc::clone(loan);
                threads
                    .push(std::thread::spawn(move || (0..100).for_each(|_| loan.join(&worker()))));
            }
            while job.0.load(std::sync::atomic::Ordering::Relaxed) < 50 {
                std::thread::yield_now();
            }
            Arc::clone(loan)
        });
        let at_return = job.0.load(std::sync::atomic::Ordering::Relaxed);
        loan.join(&worker());
        for thread in threads {
            thread.join().unwrap();
        }
        assert_eq!(job.0.into_inner(), at_return);
    }
}
