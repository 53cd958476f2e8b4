//! An iterator: one worker at a time is in it and pulls a block.

use crate::load::Load;
use crate::map::{self, Block, Claim, Engine, Source};
use crate::price;
use crate::sim::{Lock, Ns, Sim, Spent};
use crate::table::Outcome;

/// What can be changed. The default has the engine as it was first committed.
#[derive(Clone, Copy, Debug)]
pub struct Design {
    pub engine: Engine,
    /// A block is as many slices of work.
    pub slices: usize,
    /// A block is one of so many parts of each worker's share of what is left.
    pub parts: usize,
    /// How long a worker waits for the iterator before it leaves.
    pub patience: Ns,
}

impl Default for Design {
    fn default() -> Self {
        Design { engine: Engine::default(), slices: 1, parts: 2, patience: price::BACKOFF }
    }
}

pub struct Pulled {
    design: Design,
    /// What one item costs to pull.
    next: Ns,
    rest: Block,
    workers: usize,
    lock: Lock,
}

impl Source for Pulled {
    fn claim(&mut self, who: usize, fit: usize, sim: &mut Sim) -> Claim {
        if self.lock.wait(sim.now()) > self.design.patience {
            sim.spend(who, Spent::Lock, self.design.patience);
            return Claim::Empty;
        }
        if self.rest.len() == 0 {
            sim.touch(who, &mut self.lock, price::LOCK, Spent::Claim);
            return Claim::Empty;
        }
        let share = self.rest.len() / (self.design.parts * self.workers);
        let count = (fit * self.design.slices).min(share).max(1);
        let block;
        (block, self.rest) = self.rest.split(count);
        let hold = price::BATCH + count as Ns * (self.next + price::MOVE);
        sim.touch(who, &mut self.lock, hold, Spent::Claim);
        Claim::Block(block)
    }

    fn has_more(&self, _who: usize, _sim: &mut Sim) -> bool {
        self.rest.len() > 0
    }

    fn serial(&self) -> Option<(&'static str, Ns)> {
        Some(("the iterator", self.lock.busy()))
    }
}

/// The map of `load` over an iterator whose `next` takes `next`.
pub fn run(load: &Load, next: Ns, design: Design, workers: usize, cores: usize) -> Outcome {
    let rest = Block { start: 0, end: load.len() };
    let source = Pulled { design, next, rest, workers, lock: Lock::default() };
    let outcome = map::run(load, source, design.engine, workers, cores);
    Outcome { ideal: ideal(load, next, workers.min(cores)), ..outcome }
}

/// No schedule is faster: the iterator is walked through by one at a time.
fn ideal(load: &Load, next: Ns, workers: usize) -> Ns {
    let pull = load.len() as Ns * next;
    load.ideal(workers).max(pull).max((load.total() + pull) / workers as Ns)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::skews;
    use crate::price::MS;

    #[test]
    fn every_item_is_pulled_and_done_once() {
        for load in skews(2000, 4 * MS) {
            for (workers, next) in [(1, 5), (2, 20), (16, 100), (100, 5)] {
                let run = run(&load, next, Design::default(), workers, workers);
                assert!(run.time >= run.ideal, "{}", load.name);
            }
        }
    }
}
