//! Which workers of a map are idle: those that left it because there was nothing to claim, and that are
//! to be notified when there is something again.
//!
//! Work is published (put where others can claim it) under locks of its own. What is decided here is only
//! that nobody stays idle beside work that is there to be claimed:
//!
//! ```text
//!     a worker that finds nothing            a worker that publishes
//!     claim: count itself, fence,            publish work
//!     look again; leave only if              notify: fence; if anybody is counted,
//!     there is still nothing                 count one out and wake it
//! ```
//!
//! The two fences are ordered one way or the other: either the second look of the one finds the work, or
//! the other sees that somebody is idle.

use super::source::Claim;
use crate::sync::{atomic::AtomicBool, atomic::AtomicUsize, atomic::Ordering, atomic::fence};

/// How many are idle, and whether the owner is one of them: the worker whose task the map is a part of,
/// which waits for all the others.
pub(crate) struct IdleWorkers {
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

impl IdleWorkers {
    pub(crate) fn new() -> Self {
        IdleWorkers { count: AtomicUsize::new(0), owner: AtomicBool::new(false) }
    }

    /// Whether anybody is idle, as a hint: it may be seen late.
    #[inline]
    pub(crate) fn is_any(&self) -> bool {
        // ORDERING: a thread that sees it late gives work away later.
        self.count.load(Ordering::Relaxed) > 0
    }

    /// What `claim` gives, which is told whether to wait a moment for others; `None` if the worker is to
    /// leave, and is counted in.
    pub(crate) fn claim<T>(
        &self,
        owner: bool,
        mut claim: impl FnMut(bool) -> Claim<T>,
    ) -> Option<T> {
        if let Claim::Block(block) = claim(true) {
            return Some(block);
        }
        self.leave(owner);
        // What it has missed was published before it was counted, and is found now, or is published by a
        // worker that sees it counted.
        let Claim::Block(block) = claim(false) else { return None };
        self.stay(owner);
        Some(block)
    }

    fn leave(&self, owner: bool) {
        if owner {
            // ORDERING: told by the count below.
            self.owner.fetch_or(true, Ordering::Relaxed);
        }
        // ORDERING: the thread that counts it out sees whether it is the owner.
        self.count.fetch_add(1, Ordering::Release);
        // ORDERING: pairs with the fence of `notify`.
        fence(Ordering::SeqCst);
    }

    /// Counts out a worker that goes on after all.
    fn stay(&self, owner: bool) {
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

    /// To be called by a worker that has claimed something or has given something back: counts one out that
    /// is idle, if `has_work` says that there is something for it. The caller must wake it.
    pub(crate) fn notify(&self, has_work: impl FnOnce() -> bool) -> Option<Idle> {
        // ORDERING: pairs with the fence of `leave`. What was published before this is found by everybody
        // that is not counted here.
        fence(Ordering::SeqCst);
        let wakes = self.is_any() && has_work() && self.take();
        wakes.then(|| match self.owner.swap(false, Ordering::Relaxed) {
            true => Idle::Owner,
            false => Idle::Other,
        })
    }

    fn take(&self) -> bool {
        let less = |count: usize| count.checked_sub(1);
        // ORDERING: pairs with `leave`, for `owner`. The work itself is handed over under its own locks.
        self.count.fetch_update(Ordering::Acquire, Ordering::Relaxed, less).is_ok()
    }
}

#[cfg(all(test, loom))]
pub(crate) mod models {
    use super::*;
    use crate::map::items::Batch;
    use crate::map::leftovers::{Leftover, Leftovers};
    use crate::map::source::{Block, Out};
    use crate::sync::{Arc, Mutex, lock, model};
    use loom::sync::Condvar;
    use loom::thread;

    /// Two items, neither of which ends before the other has begun: each needs a worker of its own, so that
    /// one that is idle and is not notified is a deadlock.
    pub(crate) struct Pair {
        idle: IdleWorkers,
        state: Mutex<State>,
        changed: Condvar,
    }

    #[derive(Default)]
    struct State {
        begun: usize,
        /// Notifications for workers other than the owner.
        calls: usize,
    }

    impl Pair {
        pub(crate) fn new() -> Self {
            let state = Mutex::new(State::default());
            Pair { idle: IdleWorkers::new(), state, changed: Condvar::new() }
        }

        fn wait(&self, mut over: impl FnMut(&mut State) -> bool) {
            let mut state = lock(&self.state);
            while state.begun < 2 && !over(&mut state) {
                state = self.changed.wait(state).unwrap();
            }
        }

        pub(crate) fn notify(&self, has_work: impl FnOnce() -> bool) {
            if let Some(idle) = self.idle.notify(has_work) {
                lock(&self.state).calls += usize::from(idle == Idle::Other);
                self.changed.notify_all();
            }
        }

        pub(crate) fn run_item(&self) {
            lock(&self.state).begun += 1;
            self.changed.notify_all();
            self.wait(|_| false);
        }

        /// Works as the engine has its workers work, until both items have begun.
        pub(crate) fn work(
            &self,
            owner: bool,
            mut claim: impl FnMut() -> Claim<()>,
            has_work: impl Fn() -> bool,
        ) {
            while lock(&self.state).begun < 2 {
                if owner {
                    self.idle.return_owner();
                }
                while self.idle.claim(owner, |_| claim()).is_some() {
                    self.notify(&has_work);
                    self.run_item();
                }
                self.wait(|state| match owner {
                    true => !self.idle.is_owner_idle(),
                    false => {
                        let called = state.calls > 0;
                        state.calls -= usize::from(called);
                        called
                    }
                });
            }
        }
    }

    /// A worker that finds another one in the iterator, and leaves, is called back by it.
    #[test]
    fn a_worker_that_found_the_iterator_busy_is_called_back() {
        for owner in [false, true] {
            model(move || {
                let shared = Arc::new((Pair::new(), Mutex::new(2)));
                let claim = |input: &Mutex<usize>| match input.try_lock() {
                    Err(_) => Claim::Busy,
                    Ok(mut left) if *left > 0 => {
                        *left -= 1;
                        Claim::Block(())
                    }
                    Ok(_) => Claim::Empty,
                };
                let work = move |(pair, input): &(Pair, Mutex<usize>), owner| {
                    pair.work(owner, || claim(input), || *lock(input) > 0);
                };
                let other = Arc::clone(&shared);
                let thread = thread::spawn(move || work(&other, false));
                work(&shared, owner);
                thread.join().unwrap();
            });
        }
    }

    /// A worker that finds nothing is called back by the one that gives something back, whether it is the owner or
    /// not.
    #[test]
    fn a_worker_that_found_nothing_is_called_back_to_what_is_given_back() {
        for owner in [false, true] {
            model(move || {
                let leftovers = Leftovers::<'static, Batch<u8>, ()>::new();
                let shared = Arc::new((Pair::new(), leftovers));
                let other = Arc::clone(&shared);
                let thread = thread::spawn(move || {
                    let (pair, leftovers) = &*other;
                    let claim = || match leftovers.claim(
                        crate::map::chunk_size::ChunkPolicy::new(None, false, None, 2),
                        1,
                        9,
                    ) {
                        Some(_) => Claim::Block(()),
                        None => Claim::Empty,
                    };
                    pair.work(owner, claim, || leftovers.has_more(9));
                });
                let (pair, leftovers) = &*shared;
                let items = Leftover::Taken(Batch::from(vec![0]));
                leftovers.push(Block { start: 1, items, out: Out::Grown(Vec::new()) });
                pair.notify(|| true);
                pair.run_item();
                thread.join().unwrap();
            });
        }
    }

    /// One notification is one worker: nobody is counted out twice, the owner least of all.
    #[test]
    fn whoever_is_notified_is_counted_out_once() {
        model(|| {
            let idle = Arc::new(IdleWorkers::new());
            let threads = [true, false].map(|owner| {
                let idle = Arc::clone(&idle);
                thread::spawn(move || assert!(idle.claim(owner, |_| Claim::<()>::Empty).is_none()))
            });
            let first = idle.notify(|| true);
            threads.into_iter().for_each(|thread| thread.join().unwrap());
            let rest = [idle.notify(|| true), idle.notify(|| true), idle.notify(|| true)];
            let all = || rest.into_iter().chain([first]).flatten();
            assert_eq!(all().count(), 2);
            // Another may be woken in the owner's place, never the owner twice; at the last it is told.
            assert_eq!(all().filter(|idle| *idle == Idle::Owner).count(), 1);
            assert!(!idle.is_owner_idle() && !idle.is_any());
        });
    }

    /// An owner that goes on after all is counted out once, whether it was notified meanwhile or not: so the other
    /// worker stays counted. The owner goes on because it finds something, or because it comes back by itself.
    #[test]
    fn an_owner_that_goes_on_is_counted_out_once() {
        for comes_back in [false, true] {
            model(move || {
                let idle = Arc::new(IdleWorkers::new());
                let owner = {
                    let idle = Arc::clone(&idle);
                    thread::spawn(move || {
                        let found = idle.claim(true, |first| match first || comes_back {
                            true => Claim::Empty,
                            false => Claim::Block(()),
                        });
                        assert_eq!(found.is_none(), comes_back);
                        if comes_back {
                            idle.return_owner();
                        }
                    })
                };
                let other = {
                    let idle = Arc::clone(&idle);
                    thread::spawn(move || {
                        assert!(idle.claim(false, |_| Claim::<()>::Empty).is_none());
                    })
                };
                let first = idle.notify(|| true);
                owner.join().unwrap();
                other.join().unwrap();
                let rest: Vec<_> = (0..3).filter_map(|_| idle.notify(|| true)).collect();
                match first {
                    // In the place of either: of the owner too, if that has gone on in the middle of it.
                    Some(Idle::Other) => assert!(rest.is_empty() || rest == [Idle::Other]),
                    Some(Idle::Owner) | None => assert_eq!(rest, [Idle::Other]),
                }
                assert!(!idle.is_owner_idle() && !idle.is_any());
            });
        }
    }
}
