//! A closure and an input that borrow from the caller's stack, lent to the workers until none of them
//! can touch them any more; as `std::thread::scope` does.

use std::sync::{Arc, Mutex};
use std::task::Waker;

use crate::sync::lock;
use crate::wait;

/// What [`lend`] hands to the workers: work that several threads may join.
pub(crate) trait Job: Sync {
    /// Does a share of the work on a worker; `loan` is what to submit for another one to join.
    fn work(&self, loan: &Arc<Loan>);
}

/// A job that other threads may use until its owner takes it back.
pub(crate) struct Loan {
    state: Mutex<State>,
}

struct State {
    /// `None` once the owner took it back.
    job: Option<Lent>,
    /// How many threads are using `job` now.
    inside: usize,
    /// The owner, to be woken each time `inside` comes to 0.
    owner: Option<Waker>,
}

/// The job with its lifetime erased.
#[derive(Clone, Copy)]
struct Lent(*const (dyn Job + 'static));

// SAFETY: it is a `&dyn Job`, and `Job` is `Sync`; that it still lives is `lend`'s to see to.
unsafe impl Send for Lent {}

impl Loan {
    /// Lets the calling thread work on the job, unless it was taken back.
    pub(crate) fn join(self: &Arc<Self>) {
        let lent = {
            let mut state = lock(&self.state);
            let Some(lent) = state.job else { return };
            state.inside += 1;
            lent
        };
        // Counts out on a panic too.
        let _leave = Leave(self);
        // SAFETY: `job` was there when `inside` was raised, under one lock. `lend` does not return
        // before it has taken `job` away and seen `inside` at 0 under that lock, so the borrow that
        // it made the pointer of lives until `_leave` is dropped.
        let job = unsafe { &*lent.0 };
        job.work(self);
    }

    /// Makes the owner look again at what it waits for.
    pub(crate) fn wake_owner(&self) {
        let owner = lock(&self.state).owner.clone();
        if let Some(owner) = owner {
            owner.wake();
        }
    }

    /// Whether it was taken back.
    pub(crate) fn is_over(&self) -> bool {
        lock(&self.state).job.is_none()
    }

    /// Whether nobody is using the job now; if somebody is, `waker` is woken when that ends.
    pub(crate) fn poll_idle(&self, waker: &Waker) -> bool {
        let mut state = lock(&self.state);
        state.owner = Some(waker.clone());
        state.inside == 0
    }
}

struct Leave<'l>(&'l Loan);

impl Drop for Leave<'_> {
    fn drop(&mut self) {
        let owner = {
            let mut state = lock(&self.0.state);
            state.inside -= 1;
            // Cloned, not taken: the owner may have to be woken again.
            state.owner.clone().filter(|_| state.inside == 0)
        };
        if let Some(owner) = owner {
            owner.wake();
        }
    }
}

/// Lends `job` to whoever joins the loan that `body` gets, until `body` has returned and the last
/// of them has left.
pub(crate) fn lend<R>(job: &dyn Job, body: impl FnOnce(&Arc<Loan>) -> R) -> R {
    /// Takes the job back, also when `body` panics.
    struct Owner(Arc<Loan>);

    impl Drop for Owner {
        fn drop(&mut self) {
            lock(&self.0.state).job = None;
            wait::until(None, |waker| self.0.poll_idle(waker));
        }
    }

    // SAFETY: only the lifetime changes. The pointer is read in `Loan::join` alone, which says why
    // the borrow is alive there: `Owner::drop`, which nothing can skip, waits for it.
    let erased: *const (dyn Job + 'static) = unsafe { std::mem::transmute(job as *const dyn Job) };
    let owner = Owner(Arc::new(Loan {
        state: Mutex::new(State { job: Some(Lent(erased)), inside: 0, owner: None }),
    }));
    body(&owner.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Count(std::sync::atomic::AtomicUsize);

    impl Job for Count {
        fn work(&self, _: &Arc<Loan>) {
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
                threads.push(std::thread::spawn(move || (0..100).for_each(|_| loan.join())));
            }
            while job.0.load(std::sync::atomic::Ordering::Relaxed) < 50 {
                std::thread::yield_now();
            }
            Arc::clone(loan)
        });
        let at_return = job.0.load(std::sync::atomic::Ordering::Relaxed);
        loan.join();
        for thread in threads {
            thread.join().unwrap();
        }
        assert_eq!(job.0.into_inner(), at_return);
    }
}
