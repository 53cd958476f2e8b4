//! The one place that blocks.
//!
//! A waiter polls a condition with a [`Waker`] and parks until it is woken or its time is up; so a
//! blocking `get`, an `.await` and the end of a `map` are one mechanism, and the thread that makes a
//! condition true wakes what was registered for it. (A wait on a worker first *helps*, before it
//! comes here: see `scheduler/worker.rs`.)

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::Arc;
use std::task::{Wake, Waker};
use std::time::Duration;

use crate::panic::{catch, discard};
use crate::sync::{self, Instant, Mutex, Parker, Unparker, lock};

/// The moment `timeout` from now; `None`, forever, where the clock does not reach that far.
pub(crate) fn deadline(timeout: Duration) -> Option<Instant> {
    Instant::now().checked_add(timeout)
}

/// How long a thread looks before it sleeps: about what it costs to be woken.
const SPIN_TIME: Duration = Duration::from_micros(20);

/// Whether `ready` returns true within a moment. The thread does not sleep, but lets others run that
/// want its core: one of them may be the one that makes it true.
///
/// On a machine that has more to do than cores, to let others run takes milliseconds: then it is left out for a
/// while, for a thread that sleeps and is woken comes before those that want to go on.
pub(crate) fn a_moment(mut ready: impl FnMut() -> bool) -> bool {
    if cfg!(loom) {
        // There is no time in a model.
        return ready();
    }
    for _ in 0..16 {
        if ready() {
            return true;
        }
        std::hint::spin_loop();
    }
    let start = Instant::now();
    if crowd::is_known(start) {
        return false;
    }
    let mut before = start;
    loop {
        std::thread::yield_now();
        let now = Instant::now();
        crowd::learn(now, now - before);
        if ready() {
            return true;
        }
        if now - start > SPIN_TIME || crowd::is_known(now) {
            return false;
        }
        before = now;
    }
}

/// Whether others than this program want its cores.
mod crowd {
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::time::Duration;

    use crate::sync::Instant;

    /// A core that was let go for longer than this was taken by somebody who kept it.
    const LONG: Duration = Duration::from_micros(1000);

    /// For how many times as long as that took nobody lets go again: so it costs one part in as many.
    const PAUSE: u32 = 32;

    /// Until when, in nanoseconds from `origin`.
    static KNOWN_UNTIL: AtomicU64 = AtomicU64::new(0);

    fn nanos(moment: Instant) -> u64 {
        static ORIGIN: OnceLock<Instant> = OnceLock::new();
        moment
            .checked_duration_since(*ORIGIN.get_or_init(|| moment))
            .map_or(0, |time| time.as_nanos() as u64)
    }

    // ORDERING (of both): an estimate.
    pub(super) fn is_known(now: Instant) -> bool {
        let until = KNOWN_UNTIL.load(Ordering::Relaxed);
        until > 0 && nanos(now) < until
    }

    /// The core was let go, and was back after `time`.
    pub(super) fn learn(now: Instant, time: Duration) {
        if time > LONG {
            KNOWN_UNTIL.store(nanos(now + PAUSE * time), Ordering::Relaxed);
        }
    }
}

/// Blocks the thread until `ready` returns true (then true) or `deadline` has passed (then false).
///
/// `ready` registers the waker with whatever will change its mind, *before* it looks: then a change
/// after the look wakes this thread. Spurious wakes only cost another look.
pub(crate) fn until(deadline: Option<Instant>, mut ready: impl FnMut(&Waker) -> bool) -> bool {
    with_parker(|parker, waker| {
        loop {
            if ready(waker) {
                return true;
            }
            match deadline {
                None => parker.park(),
                Some(deadline) if Instant::now() >= deadline => return false,
                Some(deadline) => parker.park_deadline(deadline),
            }
        }
    })
}

/// A parker of our own and not `std::thread::park`: a wait must not eat an `unpark` that the user's
/// code is about to wait for.
fn with_parker<R>(f: impl FnOnce(&Parker, &Waker) -> R) -> R {
    struct Unpark(Unparker);

    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
        fn wake_by_ref(self: &Arc<Self>) {
            self.0.unpark();
        }
    }

    fn new() -> (Parker, Waker) {
        let parker = Parker::new();
        let waker = Waker::from(Arc::new(Unpark(parker.unparker().clone())));
        (parker, waker)
    }

    sync::thread_local! {
        /// Kept from wait to wait; taken out while one goes on, so that a wait inside `ready` (a
        /// `Drop` of the user's, say) has another and cannot eat this one's wake-up.
        static SPARE: RefCell<Option<(Parker, Waker)>> = const { RefCell::new(None) };
    }

    // In the destructor of a thread-local the spare may be gone: then one is made for this wait.
    let kept = SPARE.try_with(|spare| spare.borrow_mut().take());
    let (parker, waker) = kept.ok().flatten().unwrap_or_else(new);
    let result = f(&parker, &waker);
    let _ = SPARE.try_with(|spare| *spare.borrow_mut() = Some((parker, waker)));
    result
}

/// The wakers of the threads that wait for one thing. The first takes no allocation.
///
/// Of this module's own wakers, which may be cloned under a lock; one of a future is the user's code.
#[derive(Default)]
pub(crate) struct Wakers {
    first: Option<Waker>,
    more: Vec<Waker>,
}

impl Wakers {
    pub(crate) fn add(&mut self, waker: &Waker) {
        let known = |other: &Waker| other.will_wake(waker);
        if self.first.as_ref().is_some_and(known) || self.more.iter().any(known) {
            return;
        }
        if self.first.is_none() {
            self.first = Some(waker.clone());
        } else {
            self.more.push(waker.clone());
        }
    }

    /// Wakes everybody, once. Take the wakers out of their lock first: the woken need that lock.
    pub(crate) fn wake(self) {
        self.first.into_iter().chain(self.more).for_each(wake);
    }
}

/// A waker may be the user's, of some runtime of theirs; a panic of it is not ours.
pub(crate) fn wake(waker: Waker) {
    let _ = catch(|| waker.wake()).map_err(discard);
}

/// Something that happens once.
#[derive(Default)]
pub(crate) struct Event(Mutex<(bool, Wakers)>);

impl Event {
    pub(crate) fn set(&self) {
        let wakers = {
            let mut state = lock(&self.0);
            state.0 = true;
            std::mem::take(&mut state.1)
        };
        wakers.wake();
    }

    /// Whether it has happened; if not, `waker` is woken when it does.
    pub(crate) fn poll(&self, waker: &Waker) -> bool {
        let mut state = lock(&self.0);
        if !state.0 {
            state.1.add(waker);
        }
        state.0
    }

    pub(crate) fn is_set(&self) -> bool {
        lock(&self.0).0
    }

    /// Woken by [`set`](Event::set); false when the time was up first.
    pub(crate) fn wait(&self, deadline: Option<Instant>) -> bool {
        until(deadline, |waker| self.poll(waker))
    }
}

/// Everybody who waits for a result of one pool, so that `terminate` can wake them all.
#[derive(Default)]
pub(crate) struct WakerRegistry(Mutex<Table>);

#[derive(Default)]
struct Table {
    next: u64,
    wakers: HashMap<u64, Waker>,
}

impl WakerRegistry {
    /// Registers `waker`, in the place of the one that `ticket` stands for if there is one.
    pub(crate) fn add(&self, ticket: &mut Option<u64>, waker: &Waker) {
        if let Some(number) = *ticket {
            let table = lock(&self.0);
            if table.wakers.get(&number).is_some_and(|known| known.will_wake(waker)) {
                return;
            }
        }
        // Cloned before the lock is taken, and the one before dropped after: both may run the user's code.
        let waker = waker.clone();
        let before = {
            let mut table = lock(&self.0);
            let number = *ticket.get_or_insert_with(|| {
                table.next += 1;
                table.next
            });
            table.wakers.insert(number, waker)
        };
        discard(before);
    }

    pub(crate) fn remove(&self, ticket: &mut Option<u64>) {
        if let Some(number) = ticket.take() {
            let waker = lock(&self.0).wakers.remove(&number);
            discard(waker);
        }
    }

    /// A thread that goes on waiting registers again.
    pub(crate) fn wake_all(&self) {
        let wakers = std::mem::take(&mut lock(&self.0).wakers);
        wakers.into_values().for_each(wake);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_inside_a_condition_does_not_eat_the_outer_wake() {
        let (outer, inner) = (Event::default(), Event::default());
        std::thread::scope(|scope| {
            scope.spawn(|| {
                outer.set();
                inner.set();
            });
            until(None, |waker| {
                inner.wait(None);
                let mut state = lock(&outer.0);
                state.1.add(waker);
                state.0
            });
        });
    }

    #[test]
    fn a_stray_unpark_of_the_thread_is_left_alone() {
        std::thread::current().unpark();
        assert!(!Event::default().wait(deadline(Duration::from_millis(1))));
        // Returns at once, for the token of above is still there.
        std::thread::park();
    }

    #[test]
    fn a_far_deadline_is_no_deadline() {
        assert_eq!(deadline(Duration::MAX), None);
    }
}
