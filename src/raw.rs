//! The only `unsafe` code of the crate: results written in place, and work that borrows.
//!
//! Three things have no safe form, or none that costs nothing:
//!
//! * [`fill`] lets many threads write the results of a map straight into the memory of the `Vec`
//!   that is returned. A `Vec<Option<R>>` or a `Vec` per chunk costs 2 to 50 times as much for a
//!   cheap closure.
//! * [`lend`] lets the workers use a closure and an input that borrow from the caller's stack, as
//!   `std::thread::scope` does, and waits until none of them can touch it any more.
//! * [`scope`] does the same for any number of tasks, which have handles.
//!
//! Each block says why it is sound from what stands in this file alone.
#![allow(unsafe_code)]

use std::marker::PhantomData;
use std::ops::Range;
use std::sync::{Arc, Mutex};
use std::task::Waker;

use crate::call::Pending;
use crate::panic::{catch, discard};
use crate::queue::Task;
use crate::result::AsyncResult;
use crate::sync::lock;
use crate::wait;
use crate::worker;

/// Places for results in one buffer: exclusive use of the indices `range`, none of them written.
pub(crate) struct Slots<'a, R> {
    /// The buffer's first element.
    base: *mut R,
    /// Within the buffer's capacity; no other `Slots` or `Run` of this buffer overlaps it.
    range: Range<usize>,
    /// Borrows the buffer. Invariant in `'a`, so that runs of two buffers cannot be mixed in [`fill`].
    buffer: PhantomData<&'a mut &'a mut [R]>,
}

// SAFETY: a `Slots` is an exclusive borrow of places for `R`, like `&mut [MaybeUninit<R>]`, which
// is `Send` where `R` is.
unsafe impl<R: Send> Send for Slots<'_, R> {}
// SAFETY: nothing can be done with a shared `Slots` but to ask for its length.
unsafe impl<R> Sync for Slots<'_, R> {}

impl<'a, R> Slots<'a, R> {
    pub(crate) fn len(&self) -> usize {
        self.range.len()
    }

    /// The first `mid` places, and the others.
    pub(crate) fn split_at(self, mid: usize) -> (Self, Self) {
        assert!(mid <= self.len());
        let middle = self.range.start + mid;
        let part = |range| Slots { base: self.base, range, buffer: PhantomData };
        (part(self.range.start..middle), part(middle..self.range.end))
    }
}

/// A run of results, written into the front of its [`Slots`]. Dropping it drops them.
pub(crate) struct Run<'a, R> {
    slots: Slots<'a, R>,
    /// How many are written, from the front.
    len: usize,
}

// SAFETY: a `Run` owns values of `R` and an exclusive borrow of places for more.
unsafe impl<R: Send> Send for Run<'_, R> {}
// SAFETY: a shared `Run` gives no access to its values.
unsafe impl<R> Sync for Run<'_, R> {}

impl<'a, R> Run<'a, R> {
    pub(crate) fn new(slots: Slots<'a, R>) -> Self {
        Run { slots, len: 0 }
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Writes `f` of what `items` yields until it ends, `f` fails or the slots are full.
    ///
    /// When `items` or `f` panics, what was written before is kept and `len` says how much that is.
    #[inline]
    pub(crate) fn extend<I: Iterator, E>(
        &mut self,
        items: I,
        f: impl Fn(I::Item) -> Result<R, E>,
    ) -> Result<(), E> {
        let free = self.slots.range.start + self.len..self.slots.range.end;
        for (index, item) in free.zip(items) {
            let value = f(item)?;
            // SAFETY: `index` is in the unwritten rest of `slots`: within the buffer's capacity and
            // nobody else's. `len` counts it after it was written.
            unsafe { self.slots.base.add(index).write(value) };
            self.len += 1;
        }
        Ok(())
    }

    /// The same until `pause`, which is asked before each item, is true; then returns those that are
    /// left.
    #[inline]
    pub(crate) fn extend_until<I: Iterator, E>(
        &mut self,
        mut items: I,
        f: impl Fn(I::Item) -> Result<R, E>,
        mut pause: impl FnMut() -> bool,
    ) -> Result<Option<I>, E> {
        for index in self.slots.range.start + self.len..self.slots.range.end {
            if pause() {
                return Ok(Some(items));
            }
            let Some(item) = items.next() else { break };
            let value = f(item)?;
            // SAFETY: as in `extend`.
            unsafe { self.slots.base.add(index).write(value) };
            self.len += 1;
        }
        Ok(None)
    }

    /// Gives up the places that are not written.
    pub(crate) fn split_off_free(&mut self) -> Slots<'a, R> {
        let written = self.slots.range.start + self.len;
        let free = written..self.slots.range.end;
        self.slots.range.end = written;
        Slots { base: self.slots.base, range: free, buffer: PhantomData }
    }

    /// Takes `next` in when it begins where this one ends; gives it back otherwise.
    pub(crate) fn append(&mut self, next: Self) -> Result<(), Self> {
        let full = self.len == self.slots.len();
        if !(full && self.slots.range.end == next.slots.range.start) {
            return Err(next);
        }
        // Both are of one buffer, for both have its lifetime; so the ranges are neighbours there.
        self.slots.range.end = next.slots.range.end;
        self.len += next.len;
        std::mem::forget(next);
        Ok(())
    }
}

impl<R> Drop for Run<'_, R> {
    fn drop(&mut self) {
        let written = std::ptr::slice_from_raw_parts_mut(
            self.slots.base.wrapping_add(self.slots.range.start),
            self.len,
        );
        // SAFETY: the first `len` places were written, belong to this run, and are dropped once.
        unsafe { written.drop_in_place() };
    }
}

/// Has the first `len` places of `buffer` written by `write`, in any order and on any thread.
///
/// `write` gets the places and returns the runs that were written, which must join without a gap
/// from index 0; the returned vector holds them. `buffer` is emptied first and keeps its memory.
pub(crate) fn fill<R, T>(
    mut buffer: Vec<R>,
    len: usize,
    write: impl for<'a> FnOnce(Slots<'a, R>) -> (Vec<Run<'a, R>>, T),
) -> (Vec<R>, T) {
    buffer.clear();
    assert!(len <= buffer.capacity());
    let (mut runs, rest) =
        write(Slots { base: buffer.as_mut_ptr(), range: 0..len, buffer: PhantomData });
    runs.retain(|run| run.len > 0);
    runs.sort_unstable_by_key(|run| run.slots.range.start);
    let mut end = 0;
    for run in &runs {
        assert_eq!(run.slots.range.start, end, "a run of results is missing");
        end += run.len;
    }
    runs.into_iter().for_each(std::mem::forget);
    // SAFETY: `'a` is any lifetime to `write`, so its runs are of these slots and of no others, and
    // no two of them overlap; they join from 0 to `end` without a gap, so all of `0..end` is
    // written. The runs are forgotten: the vector is the only owner.
    unsafe { buffer.set_len(end) };
    (buffer, rest)
}

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

#[cfg(test)]
mod tests {
    use super::*;

    type Never = std::convert::Infallible;

    fn ok(values: impl IntoIterator<Item = String>) -> impl Iterator<Item = Result<String, Never>> {
        values.into_iter().map(Ok)
    }

    fn text(range: Range<usize>) -> impl Iterator<Item = String> {
        range.map(|i| i.to_string())
    }

    #[test]
    fn runs_written_in_any_order_join_in_index_order() {
        let (filled, ()) = fill(Vec::with_capacity(10), 10, |slots| {
            let (front, back) = slots.split_at(4);
            let mut runs = vec![Run::new(back), Run::new(front)];
            runs[0].extend(ok(text(4..10)), |value| value).unwrap();
            runs[1].extend(ok(text(0..4)), |value| value).unwrap();
            (runs, ())
        });
        assert_eq!(filled, text(0..10).collect::<Vec<_>>());
    }

    #[test]
    fn a_run_takes_in_its_neighbour_and_no_other() {
        let (filled, ()) = fill(Vec::with_capacity(6), 6, |slots| {
            let (a, rest) = slots.split_at(2);
            let (b, c) = rest.split_at(2);
            let [mut a, mut b, mut c] = [a, b, c].map(Run::new);
            a.extend(ok(text(0..2)), |value| value).unwrap();
            b.extend(ok(text(2..4)), |value| value).unwrap();
            c.extend(ok(text(4..6)), |value| value).unwrap();
            let c = a.append(c).unwrap_err();
            assert!(a.append(b).is_ok());
            assert!(a.append(c).is_ok());
            (vec![a], ())
        });
        assert_eq!(filled.len(), 6);
    }

    #[test]
    fn a_run_writes_no_further_than_its_slots() {
        let (filled, ()) = fill(Vec::with_capacity(3), 3, |slots| {
            let mut run = Run::new(slots);
            run.extend(ok(text(0..100)), |value| value).unwrap();
            (vec![run], ())
        });
        assert_eq!(filled.len(), 3);
    }

    #[test]
    fn a_short_fill_is_a_short_vector_and_a_dropped_run_drops_its_values() {
        let (filled, ()) = fill(Vec::with_capacity(8), 8, |slots| {
            let (front, back) = slots.split_at(4);
            let mut front = Run::new(front);
            front.extend(ok(text(0..2)), |value| value).unwrap();
            let mut dropped = Run::new(back);
            dropped.extend(ok(text(0..4)), |value| value).unwrap();
            (vec![front], ())
        });
        assert_eq!(filled, ["0", "1"]);
    }

    #[test]
    #[should_panic(expected = "missing")]
    fn a_gap_is_no_vector() {
        fill(Vec::with_capacity(4), 4, |slots| {
            let mut run = Run::new(slots.split_at(2).1);
            run.extend(ok(text(0..2)), |value| value).unwrap();
            (vec![run], ())
        });
    }

    #[test]
    fn zero_sized_results() {
        let (filled, ()) = fill(Vec::new(), 1000, |slots| {
            let (front, back) = slots.split_at(1);
            let mut run = Run::new(front);
            run.extend([Ok::<(), Never>(())].into_iter(), |value| value).unwrap();
            let mut rest = Run::new(back);
            rest.extend((1..1000).map(|_| Ok::<(), Never>(())), |value| value).unwrap();
            assert!(run.append(rest).is_ok());
            (vec![run], ())
        });
        assert_eq!(filled.len(), 1000);
    }

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
