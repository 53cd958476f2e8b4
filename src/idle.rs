//! Which workers of a map are idle: those that left it because there was nothing to claim, and that are
//! to be notified when there is something again.
//!
//! Work is published (put where others can claim it) under locks of its own. What is decided here is only
//! that nobody stays idle beside work that is there to be claimed:
//!
//! ```text
//!     a worker that finds nothing            a worker that publishes
//!     leave: count itself, fence             publish work
//!     look again; leave only if              publish: fence, is anybody counted?
//!     there is still nothing                 if so, notify: count one out and wake it
//! ```
//!
//! The two fences are ordered one way or the other: either the second look of the one finds the work, or
//! the other sees that somebody is idle.

use crate::sync::atomic::{AtomicBool, AtomicUsize, Ordering, fence};

/// How many are idle, and whether the owner is one of them: the worker whose task the map is a part of,
/// which waits for all the others.
pub(crate) struct IdleSet {
    /// How many left and were not notified since.
    count: AtomicUsize,
    owner: AtomicBool,
}

/// Whom to notify.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Idle {
    Owner,
    /// Any worker.
    Other,
}

impl IdleSet {
    pub(crate) fn new() -> Self {
        IdleSet { count: AtomicUsize::new(0), owner: AtomicBool::new(false) }
    }

    /// Whether anybody is idle, as a hint: it may be seen late.
    #[inline]
    pub(crate) fn is_any(&self) -> bool {
        // ORDERING: whoever sees it late, gives work away later.
        self.count.load(Ordering::Relaxed) > 0
    }

    /// Counts in a worker that found nothing to claim. It must look once more before it goes.
    pub(crate) fn leave(&self, owner: bool) {
        if owner {
            self.owner.store(true, Ordering::Relaxed);
        }
        self.count.fetch_add(1, Ordering::Relaxed);
        // ORDERING: pairs with the fence of `publish`.
        fence(Ordering::SeqCst);
    }

    /// Counts out a worker that found something when it looked once more.
    pub(crate) fn stay(&self, owner: bool) {
        // An owner that was notified meanwhile is counted out. Of others it is not known which: the one that
        // comes in answer to that notification comes in place of this one.
        if !owner || self.owner.swap(false, Ordering::Relaxed) {
            self.take();
        }
    }

    /// Counts out an owner that comes back, unless it was notified.
    pub(crate) fn return_owner(&self) {
        self.stay(true);
    }

    /// Whether the owner has left and was not notified since.
    pub(crate) fn is_owner_idle(&self) -> bool {
        // ORDERING: the owner asks, which has set it, and is woken after it was unset.
        self.owner.load(Ordering::Relaxed)
    }

    /// Whether anybody is idle that could do what the caller has just published.
    pub(crate) fn publish(&self) -> bool {
        // ORDERING: pairs with the fence of `leave`. What is published before this is found by everybody
        // that is not yet counted here.
        fence(Ordering::SeqCst);
        self.is_any()
    }

    /// Counts one out, which the caller must wake; `None` if nobody is idle.
    pub(crate) fn notify(&self) -> Option<Idle> {
        self.take().then(|| match self.owner.swap(false, Ordering::Relaxed) {
            true => Idle::Owner,
            false => Idle::Other,
        })
    }

    fn take(&self) -> bool {
        // ORDERING (here and of `owner`): the work is handed over under its own locks. Who comes in vain,
        // leaves again.
        let less = |count: usize| count.checked_sub(1);
        self.count.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less).is_ok()
    }
}
