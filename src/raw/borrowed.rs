//! Work that borrows, in the hands of other threads until its owner has it back.

use std::task::Waker;

use crate::sync::{Mutex, lock};

/// Work with its lifetime erased, that any number of threads may use until it is taken back.
///
/// Its owner must not end what the work borrows before [`is_over`](Borrowed::is_over). A thread that has a copy of the work
/// is inside, and none gets one after the work was taken back: so then nobody can touch it any more.
pub(crate) struct Borrowed<W>(Mutex<State<W>>);

struct State<W> {
    /// `None` once it was taken back.
    work: Option<W>,
    /// How many threads are using it now.
    inside: usize,
    /// The owner, to be woken each time `inside` comes to 0.
    owner: Option<Waker>,
}

impl<W: Clone> Borrowed<W> {
    pub(super) fn new(work: W) -> Self {
        Borrowed(Mutex::new(State { work: Some(work), inside: 0, owner: None }))
    }

    /// Lets `f` at the work, unless it was taken back. The thread counts as one that uses it until `f` has returned or
    /// panicked.
    pub(super) fn with(&self, f: impl FnOnce(W)) {
        let work = {
            let mut state = lock(&self.0);
            let Some(work) = state.work.clone() else { return };
            state.inside += 1;
            work
        };
        let _leave = Leave(self);
        f(work);
    }

    /// Takes it back: nobody begins to use it from now on.
    pub(super) fn take(&self) -> Option<W> {
        lock(&self.0).work.take()
    }

    /// Whether nobody is using it now; if somebody is, `waker` is woken when that ends.
    pub(super) fn poll_idle(&self, waker: &Waker) -> bool {
        let mut state = lock(&self.0);
        state.owner = Some(waker.clone());
        state.inside == 0
    }

    /// Whether it was taken back and nobody is using it any more; if not, `waker` is woken when that is so, if it was
    /// taken back by one of those who use it.
    pub(super) fn poll_over(&self, waker: &Waker) -> bool {
        self.poll_idle(waker) && self.is_over()
    }

    pub(super) fn is_over(&self) -> bool {
        let state = lock(&self.0);
        state.work.is_none() && state.inside == 0
    }

    /// Makes the owner look again at what it waits for.
    pub(super) fn wake_owner(&self) {
        let owner = lock(&self.0).owner.clone();
        if let Some(owner) = owner {
            owner.wake();
        }
    }
}

struct Leave<'b, W>(&'b Borrowed<W>);

impl<W> Drop for Leave<'_, W> {
    fn drop(&mut self) {
        let owner = {
            let mut state = lock(&self.0.0);
            state.inside -= 1;
            // Cloned, not taken: the owner may have to be woken again.
            state.owner.clone().filter(|_| state.inside == 0)
        };
        if let Some(owner) = owner {
            owner.wake();
        }
    }
}
