//! Who sees to a start that no thread could run: the attendant, a thread that is started when it is first needed.
//!
//! When every thread of a pool is in rayon code of a task, the job of a start comes to a thread that must not
//! run other tasks on top of what it is in. The next moment at which it could is when some thread is back in
//! rayon's main loop; of that rayon tells nobody, and a job that waited for it inside rayon would be taken
//! by the same thread again and again. So the attendant lets some time pass and starts a runner once more, until a
//! start is not refused or there is nothing to do. The time doubles from try to try: a start is late by no
//! more than the rayon code it had to wait for took, and by [`LONGEST`] at most.
//!
//! It sleeps while nothing is owed, which in most pools is always.

use std::time::Duration;

use super::park;
use super::park::{Event, Wakers};
use super::runners::{IdleSet, Retry, Runners};
use crate::sync::{Instant, Mutex, lock};

/// The time before the first try: what rayon code that is about to end may take.
const SHORTEST: Duration = Duration::from_micros(50);

/// The longest time between two tries. A try costs two wake-ups, so this is less than a hundredth of a core.
pub(crate) const LONGEST: Duration = Duration::from_millis(5);

#[derive(Default)]
pub(crate) struct Attendant(Mutex<Signal>);

#[derive(Default)]
struct Signal {
    /// A start was refused, and the attendant has not heard of it.
    refused: bool,
    sleeper: Wakers,
}

impl Attendant {
    /// A start was refused.
    pub(crate) fn call(&self) {
        let sleeper = {
            let mut signal = lock(&self.0);
            signal.refused = true;
            std::mem::take(&mut signal.sleeper)
        };
        sleeper.wake();
    }

    /// Sleeps until a start was refused; false if the pool has ended instead.
    fn next_call(&self, over: &Event) -> bool {
        let mut refused = false;
        park::until(None, |waker| {
            let mut signal = lock(&self.0);
            signal.sleeper.add(waker);
            refused = std::mem::take(&mut signal.refused);
            drop(signal);
            over.poll(waker) || refused
        });
        refused && !over.is_set()
    }

    /// The main function of its thread.
    pub(crate) fn attend<I: IdleSet>(&self, runners: &Runners<I>, start: impl Fn(I::Starter)) {
        let mut time = SHORTEST;
        let mut tried: Option<Instant> = None;
        while self.next_call(&runners.retired) {
            // Refused at once: the same rayon code goes on.
            let again = tried.is_some_and(|tried| tried.elapsed() < 2 * LONGEST);
            time = if again { (2 * time).min(LONGEST) } else { SHORTEST };
            // There is no time in a model.
            if cfg!(not(loom)) {
                runners.retired.wait(park::deadline(time));
            }
            match runners.retry() {
                Retry::Start(starter) => {
                    tried = Some(Instant::now());
                    start(starter);
                }
                Retry::Settled => tried = None,
                Retry::Retired => return,
            }
        }
    }
}
