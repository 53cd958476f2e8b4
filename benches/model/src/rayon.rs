//! Rayon's recursive splitting: a part is halved into a deque before it is run, and halved again
//! when somebody has stolen it. The joins are left out: who waits in one steals meanwhile.

use std::collections::VecDeque;

use crate::load::Load;
use crate::map::Block;
use crate::price;
use crate::sim::{Model, Ns, Sim, Spent, Then};
use crate::table::Outcome;

/// Runs `load` on `workers`, all asleep.
pub fn run(load: &Load, workers: usize) -> Outcome {
    let whole = Part { items: Block { start: 0, end: load.len() }, splits: workers };
    let mut deques = vec![VecDeque::new(); workers];
    deques[0].push_back(whole);
    let mut model = Rayon {
        load,
        deques,
        states: vec![State::Asleep; workers],
        left: load.len(),
        over: false,
        #[cfg(test)]
        done: vec![0; load.len()],
    };
    let mut sim = Sim::new(workers + 1, workers + 1);
    let time = sim.run(workers, &mut model);
    #[cfg(test)]
    assert!(model.done.iter().all(|times| *times == 1), "{} on {workers}", load.name);
    let (ideal, ledger) = (load.ideal(workers), sim.ledger(workers, time));
    Outcome { time, ideal, workers, ledger, serial: Vec::new() }
}

#[derive(Clone, Copy, PartialEq)]
struct Part {
    items: Block,
    /// How often it may still be halved without being stolen.
    splits: usize,
}

#[derive(Clone, Copy, PartialEq)]
enum State {
    Asleep,
    /// Has found nothing, and looks again until it falls asleep.
    Searching,
    Splitting(Part),
    /// Has run so many items, of which nobody knows yet.
    Running(usize),
    Free,
}

struct Rayon<'l> {
    load: &'l Load,
    deques: Vec<VecDeque<Part>>,
    states: Vec<State>,
    left: usize,
    over: bool,
    #[cfg(test)]
    done: Vec<u8>,
}

impl Rayon<'_> {
    /// Says that there is something to steal: to one who searches, else to one who sleeps.
    fn announce(&mut self, who: usize, sim: &mut Sim) {
        let is = |state| move |other: &State| *other == state;
        if let Some(other) = self.states.iter().position(is(State::Searching)) {
            self.states[other] = State::Free;
            sim.wake(other, price::LINE);
        } else if let Some(other) = self.states.iter().position(is(State::Asleep)) {
            self.states[other] = State::Free;
            sim.spend(who, Spent::Call, price::CALL);
            sim.wake(other, price::WAKE);
        }
    }

    /// Looks through the deques of the others, from one at random on.
    fn steal(&mut self, who: usize, sim: &mut Sim) -> Option<Part> {
        let count = self.deques.len();
        let first = sim.random(count);
        let order = (0..count).map(|i| (first + i) % count);
        let found = order.enumerate().find(|(_, victim)| !self.deques[*victim].is_empty());
        let probes = found.map_or(count, |(probes, _)| probes + 1);
        sim.spend(who, Spent::Scan, probes as Ns * price::PROBE);
        let mut part = self.deques[found?.1].pop_front()?;
        sim.spend(who, Spent::Lock, price::LINE);
        part.splits = count.max(part.splits / 2);
        Some(part)
    }

    fn worker_steps(&mut self, who: usize, sim: &mut Sim) -> Then {
        match self.states[who] {
            State::Splitting(mut part) if part.splits > 0 && part.items.len() > 1 => {
                let splits = part.splits / 2;
                let other;
                (part.items, other) = part.items.split(part.items.len() / 2);
                self.deques[who].push_back(Part { items: other, splits });
                self.states[who] = State::Splitting(Part { items: part.items, splits });
                sim.spend(who, Spent::Claim, price::DEQUE);
                self.announce(who, sim);
            }
            State::Splitting(Part { items, .. }) => {
                #[cfg(test)]
                self.done[items.start..items.end].iter_mut().for_each(|times| *times += 1);
                sim.spend(who, Spent::Work, self.load.cost(items.start, items.len()));
                self.states[who] = State::Running(items.len());
            }
            State::Running(done) => {
                self.left -= done;
                if self.left == 0 {
                    // The caller.
                    sim.wake(self.deques.len(), price::WAKE);
                }
                self.states[who] = State::Free;
            }
            State::Free => {
                sim.spend(who, Spent::Claim, price::DEQUE);
                let part = self.deques[who].pop_back().or_else(|| self.steal(who, sim));
                if let Some(part) = part {
                    self.states[who] = State::Splitting(part);
                    return Then::Step;
                }
                self.states[who] = State::Searching;
                return Then::Spin(sim.now() + price::RAYON_SEARCH);
            }
            State::Searching | State::Asleep => {
                self.states[who] = State::Asleep;
                return Then::Sleep(None);
            }
        }
        Then::Step
    }
}

impl Model for Rayon<'_> {
    fn step(&mut self, who: usize, sim: &mut Sim) -> Then {
        if who < self.deques.len() {
            return self.worker_steps(who, sim);
        }
        if self.left == 0 {
            self.over = true;
        } else {
            self.announce(who, sim);
        }
        Then::Sleep(None)
    }

    fn is_over(&self) -> bool {
        self.over
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::skews;
    use crate::price::MS;

    #[test]
    fn every_item_is_done_once() {
        for load in skews(2000, 4 * MS) {
            for workers in [1, 2, 16, 100] {
                let run = run(&load, workers);
                assert!(run.time >= load.ideal(workers));
            }
        }
    }

    #[test]
    fn neighbours_that_hold_all_stay_together() {
        let loads = skews(100_000, 40 * MS);
        let first = loads.iter().find(|load| load.name == "first 8").unwrap();
        assert!(run(first, 2).time > 19 * first.ideal(2) / 10);
    }
}
