//! Which thread a runner is started on, and where a start goes that comes to a thread which may not run it.
//!
//! A start is a job that goes to a *place*: a rayon pool of all threads, or, where workers are replaced, that
//! of one. Rayon may give the job to a thread that is inside rayon code of a task. There it is not run but
//! passed on: to the same pool, where rayon wakes a thread that sleeps, or to the place of another idle worker.
//! A start that came back, or has gone round, is refused; the attendant sees to it (see `scheduler/runners.rs`).
//!
//! A start counts as an active runner from the moment its place was found until it is run or refused, through
//! whatever hands it goes. So it must come to an end of these two, and no more than one.
//!
//! Nothing here knows of rayon: a place is whatever jobs can be given to.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::runners::{IdleSet, Runners};
use crate::sync::Instant;

/// What it takes to wake a thread, on a machine that has a core for it.
const WAKING: Duration = Duration::from_micros(60);

/// The workers of a pool, by where a start finds them.
pub(crate) enum Places<P> {
    /// Gone, or not yet there.
    Retired,
    /// No threads: tasks run where they are submitted.
    Serial,
    /// One for all; rayon picks the thread that a runner runs on.
    Lasting(P),
    /// One for each worker.
    Replaced {
        /// `None` where the worker is being replaced, or was lost.
        places: Vec<Option<P>>,
        /// The places without a runner. The last was busy last, and is taken first.
        idle: VecDeque<usize>,
        /// How many were lost.
        lost: usize,
    },
}

/// An idle worker, to be woken.
pub(crate) struct Starter<P> {
    pub(crate) place: P,
}

impl<P: Clone> IdleSet for Places<P> {
    type Starter = Starter<P>;

    fn find_idle(&mut self) -> Option<Starter<P>> {
        match self {
            Places::Retired | Places::Serial => None,
            Places::Lasting(place) => Some(Starter { place: place.clone() }),
            Places::Replaced { places, idle, .. } => {
                let index = idle.pop_back()?;
                let place = places[index].clone()?;
                Some(Starter { place })
            }
        }
    }

    fn mark_idle(&mut self, index: usize) {
        if let Places::Replaced { idle, .. } = self {
            idle.push_back(index);
        }
    }

    fn mark_refused(&mut self, index: usize) {
        if let Places::Replaced { idle, .. } = self {
            idle.push_front(index);
        }
    }

    fn remove(&mut self, index: usize) -> bool {
        let Places::Replaced { places, lost, .. } = self else { return false };
        places[index] = None;
        *lost += 1;
        *lost == places.len()
    }

    fn retire(&mut self) -> Option<Self> {
        (!self.is_retired()).then(|| std::mem::replace(self, Places::Retired))
    }

    fn is_retired(&self) -> bool {
        matches!(self, Places::Retired)
    }
}

impl<P: Clone> Places<P> {
    /// Of `count` workers that are replaced, none of which is there yet.
    pub(crate) fn replaced(count: usize) -> Self {
        Places::Replaced {
            places: (0..count).map(|_| None).collect(),
            idle: (0..count).collect(),
            lost: 0,
        }
    }

    /// The place of worker `index`, where workers are replaced; `None` inside if it has none. To be dropped when
    /// the lock is free.
    pub(crate) fn of(&mut self, index: usize) -> Option<&mut Option<P>> {
        match self {
            Places::Replaced { places, .. } => Some(&mut places[index]),
            _ => None,
        }
    }

    /// To whom worker `index` passes a start on, and whether it may get it back from there.
    fn next(&mut self, index: usize) -> Option<(P, bool)> {
        match self {
            Places::Lasting(place) => Some((place.clone(), true)),
            Places::Replaced { .. } => {
                let next = self.find_idle()?;
                self.mark_refused(index);
                Some((next.place, false))
            }
            Places::Retired | Places::Serial => None,
        }
    }
}

/// Through whose hands a start has gone.
#[derive(Default)]
pub(crate) struct Route(Option<Pass>);

/// It was passed on.
struct Pass {
    /// By this worker.
    by: usize,
    /// How many have passed it on.
    times: usize,
    /// Somebody has it.
    taken: Arc<AtomicBool>,
}

/// Where a start is passed on to.
pub(crate) struct Next<P> {
    pub(crate) place: P,
    pub(crate) route: Route,
    pub(crate) taken: Taken,
}

/// Whether somebody has a start that was passed on.
pub(crate) struct Taken {
    taken: Arc<AtomicBool>,
    /// This thread might take it back before another is awake.
    is_shared: bool,
}

impl Route {
    /// The start has come to a thread.
    pub(crate) fn arrive(&self) {
        if let Some(pass) = &self.0 {
            // ORDERING: only ends a wait.
            pass.taken.store(true, Ordering::Relaxed);
        }
    }

    /// Where worker `index` passes the start on to; `None` if there is nobody, and it is to be refused.
    pub(crate) fn pass_on<P: Clone>(
        &self,
        index: usize,
        count: usize,
        runners: &Runners<Places<P>>,
    ) -> Option<Next<P>> {
        let (by, times) = self.0.as_ref().map_or((usize::MAX, 0), |pass| (pass.by, pass.times));
        // Nobody took it from this thread before, or it has gone round.
        if by == index || times >= 2 * count {
            return None;
        }
        let (place, is_shared) = runners.with_idle(|places| places.next(index))?;
        let taken = Arc::new(AtomicBool::new(false));
        let pass = Pass { by: index, times: times + 1, taken: Arc::clone(&taken) };
        Some(Next { place, route: Route(Some(pass)), taken: Taken { taken, is_shared } })
    }
}

impl Taken {
    /// Gives a thread that sleeps the time to take the start, where this one would take it back before that is
    /// awake.
    pub(crate) fn wait(self) {
        let begun = Instant::now();
        while self.is_shared && !self.taken.load(Ordering::Relaxed) && begun.elapsed() < WAKING {
            std::thread::yield_now();
        }
    }
}

#[cfg(all(test, loom))]
mod models;
