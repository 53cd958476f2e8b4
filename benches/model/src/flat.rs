//! The designs in which the caller wakes all workers, one after another, and nobody steals.

use crate::load::Load;
use crate::map::Block;
use crate::price;
use crate::sim::{Lock, Model, Sim, Spent, Then};
use crate::table::Outcome;

/// Where the workers get their blocks from.
#[derive(Clone, Copy, Debug)]
pub enum Deal {
    /// One equal part each.
    Static,
    /// A shared atomic counter, so many items at a time.
    Counter(usize),
    /// A queue with Python's four chunks for each worker.
    Python,
}

/// Runs `load` on `workers`, all asleep.
pub fn run(load: &Load, deal: Deal, workers: usize) -> Outcome {
    let len = load.len();
    let block = match deal {
        Deal::Static => len.div_ceil(workers),
        Deal::Counter(block) => block,
        Deal::Python => len.div_ceil(4 * workers),
    };
    let mut model = Flat {
        load,
        deal,
        block,
        workers,
        called: 0,
        next: 0,
        inside: vec![false; workers],
        over: false,
        shared: Lock::default(),
        #[cfg(test)]
        done: vec![0; len],
    };
    let mut sim = Sim::new(workers + 1, workers + 1);
    let time = sim.run(workers, &mut model);
    #[cfg(test)]
    assert!(model.done.iter().all(|times| *times == 1), "{} on {workers}", load.name);
    let (ideal, ledger) = (load.ideal(workers), sim.ledger(workers, time));
    Outcome {
        time,
        ideal,
        workers,
        ledger,
        serial: vec![("the shared counter or queue", model.shared.busy())],
    }
}

struct Flat<'l> {
    load: &'l Load,
    deal: Deal,
    block: usize,
    workers: usize,
    called: usize,
    /// The first item that nobody has claimed.
    next: usize,
    inside: Vec<bool>,
    over: bool,
    shared: Lock,
    #[cfg(test)]
    done: Vec<u8>,
}

impl Flat<'_> {
    fn caller_steps(&mut self, who: usize, sim: &mut Sim) -> Then {
        if self.called == self.workers {
            self.over = self.next == self.load.len() && !self.inside.contains(&true);
            return Then::Sleep(None);
        }
        if let Deal::Python = self.deal {
            sim.touch(who, &mut self.shared, 4 * price::SUBMIT, Spent::Call);
        }
        sim.spend(who, Spent::Call, price::CALL);
        sim.wake(self.called, price::WAKE);
        self.called += 1;
        Then::Step
    }
}

impl Model for Flat<'_> {
    fn step(&mut self, who: usize, sim: &mut Sim) -> Then {
        if who == self.workers {
            return self.caller_steps(who, sim);
        }
        let hold = if let Deal::Python = self.deal { price::POP } else { price::ATOMIC };
        sim.touch(who, &mut self.shared, hold, Spent::Claim);
        let count = self.block.min(self.load.len() - self.next);
        let block = Block { start: self.next, end: self.next + count };
        self.next = block.end;
        #[cfg(test)]
        self.done[block.start..block.end].iter_mut().for_each(|times| *times += 1);
        sim.spend(who, Spent::Work, self.load.cost(block.start, count));
        self.inside[who] = count > 0;
        if count > 0 {
            return Then::Step;
        }
        if !self.inside.contains(&true) {
            sim.wake(self.workers, price::WAKE);
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
            for deal in [Deal::Static, Deal::Python, Deal::Counter(1), Deal::Counter(64)] {
                for workers in [1, 2, 16, 100] {
                    let run = run(&load, deal, workers);
                    assert_eq!(run.ledger.of(Spent::Work), load.total());
                    assert!(run.time >= load.ideal(workers));
                }
            }
        }
    }
}
