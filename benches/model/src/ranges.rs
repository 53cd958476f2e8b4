//! A collection: a range of it in front of each worker, and thieves that take half of another's.

use crate::load::Load;
use crate::map::{self, Block, Claim, Engine, Source};
use crate::price;
use crate::sim::{Lock, Sim, Spent};
use crate::table::Outcome;

/// What can be changed. The default has the engine as it was first committed.
#[derive(Clone, Copy, Debug, Default)]
pub struct Design {
    pub engine: Engine,
    pub victim: Victim,
    /// The rest of a late block goes back in front of its worker, where it can be halved.
    pub rest_to_range: bool,
    /// The input lies in equal parts in front of all from the begin.
    pub dealt_out: bool,
}

/// How a thief finds somebody to rob.
#[derive(Clone, Copy, Debug, Default)]
pub enum Victim {
    /// The fullest of all.
    #[default]
    Fullest,
    /// The fullest of so many at random; of all, if these have nothing.
    FullestOf(usize),
}

pub struct Ranges {
    design: Design,
    seats: Vec<Seat>,
    /// Whom a thief is about to rob.
    chosen: Vec<Option<usize>>,
}

#[derive(Default)]
struct Seat {
    range: Block,
    /// What was given back. It lies before `range`.
    rest: Block,
    lock: Lock,
}

impl Seat {
    /// What can be claimed now.
    fn part(&mut self) -> &mut Block {
        if self.rest.len() > 0 { &mut self.rest } else { &mut self.range }
    }

    fn left(&self) -> usize {
        self.rest.len() + self.range.len()
    }
}

impl Ranges {
    pub fn new(len: usize, seats: usize, design: Design) -> Self {
        let deal = |seat: usize| match design.dealt_out {
            true => Block { start: len * seat / seats, end: len * (seat + 1) / seats },
            false if seat == 0 => Block { start: 0, end: len },
            false => Block::default(),
        };
        let seat = |index| Seat { range: deal(index), ..Seat::default() };
        Ranges { design, seats: (0..seats).map(seat).collect(), chosen: vec![None; seats] }
    }

    fn fullest(&self, seats: impl Iterator<Item = usize>) -> Option<usize> {
        seats
            .max_by_key(|seat| self.seats[*seat].left())
            .filter(|seat| self.seats[*seat].left() > 0)
    }

    fn choose(&self, who: usize, sim: &mut Sim) -> Option<usize> {
        let count = self.seats.len();
        if let Victim::FullestOf(sample) = self.design.victim {
            sim.spend(who, Spent::Scan, sample as u64 * price::SEAT);
            let at_random: Vec<_> = (0..sample).map(|_| sim.random(count)).collect();
            if let Some(victim) = self.fullest(at_random.into_iter()) {
                return Some(victim);
            }
        }
        sim.spend(who, Spent::Scan, count as u64 * price::SEAT);
        self.fullest(0..count)
    }

    /// Takes half of the range of `victim`, if it still has one.
    fn steal(&mut self, who: usize, victim: usize, sim: &mut Sim) {
        let seat = &mut self.seats[victim];
        sim.pass(who, &mut seat.lock, price::LOCK, Spent::Claim);
        let part = if seat.range.len() > 0 { &mut seat.range } else { &mut seat.rest };
        let stolen;
        (*part, stolen) = part.split(part.len() / 2);
        self.seats[who].range = stolen;
    }
}

impl Source for Ranges {
    fn claim(&mut self, who: usize, fit: usize, sim: &mut Sim) -> Claim {
        if let Some(victim) = self.chosen[who].take() {
            self.steal(who, victim, sim);
        }
        let seat = &mut self.seats[who];
        let left = seat.part().len();
        if left > 0 {
            sim.pass(who, &mut seat.lock, price::CLAIM, Spent::Claim);
            let count = fit.min(left / 4).max(1);
            let block;
            (block, *seat.part()) = seat.part().split(count);
            return Claim::Block(block);
        }
        self.chosen[who] = self.choose(who, sim);
        if self.chosen[who].is_some() { Claim::Again } else { Claim::Empty }
    }

    fn has_more(&self, who: usize, sim: &mut Sim) -> bool {
        let first = self.seats.iter().position(|seat| seat.left() > 0);
        let looks = first.unwrap_or(self.seats.len()) as u64;
        sim.spend(who, Spent::Scan, looks * price::SEAT);
        first.is_some()
    }

    fn give_back(&mut self, who: usize, rest: Block, sim: &mut Sim) -> bool {
        let seat = &mut self.seats[who];
        if !self.design.rest_to_range || seat.rest.len() > 0 {
            return false;
        }
        sim.pass(who, &mut seat.lock, price::CLAIM, Spent::Claim);
        seat.rest = rest;
        true
    }
}

/// The map of `load` over a collection.
pub fn run(load: &Load, design: Design, workers: usize, cores: usize) -> Outcome {
    let source = Ranges::new(load.len(), workers, design);
    map::run(load, source, design.engine, workers, cores)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crew;
    use crate::load::skews;
    use crate::map::Look;
    use crate::price::{MS, US};

    #[test]
    fn every_item_is_done_once_in_every_design() {
        let engines = [
            Engine::default(),
            Engine {
                crew: crew::Design { wakes_in_lock: true, ..crew::Design::default() },
                calls: 2,
                counts_hungry: true,
                look: Look::Item(16),
                shares_spares: true,
            },
        ];
        for (engine, rest_to_range) in engines.into_iter().zip([false, true]) {
            for victim in [Victim::Fullest, Victim::FullestOf(4)] {
                let design = Design { engine, victim, rest_to_range, dealt_out: rest_to_range };
                for load in skews(2000, 4 * MS) {
                    for workers in [1, 2, 3, 16, 100] {
                        let run = run(&load, design, workers, workers);
                        assert_eq!(run.ledger.of(Spent::Work), load.total());
                        assert!(run.time >= load.ideal(workers));
                    }
                }
            }
        }
    }

    #[test]
    fn one_worker_takes_the_sequential_time_and_two_wake_ups() {
        for load in skews(10_000, 10 * MS) {
            let time = run(&load, Design::default(), 1, 1).time;
            let price = time - load.total();
            assert!((30 * US..300 * US).contains(&price), "{}: {price}", load.name);
        }
    }

    #[test]
    fn more_workers_than_cores_are_no_faster_than_the_cores() {
        for load in skews(10_000, 40 * MS) {
            let time = run(&load, Design::default(), 4, 2).time;
            assert!(time >= load.ideal(2), "{}", load.name);
        }
    }
}
