//! The crate's map: who is called when, who claims what, and how late blocks are given back. Over a
//! collection ([`Ranges`](crate::ranges::Ranges)) or an iterator ([`Pulled`](crate::pulled::Pulled)).

use crate::crew::{self, Crew};
use crate::load::Load;
use crate::price;
use crate::sim::{Lock, Model, Ns, Sim, Spent, Then};
use crate::table::Outcome;

/// Neighbouring items.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Block {
    pub start: usize,
    pub end: usize,
}

impl Block {
    pub fn len(self) -> usize {
        self.end - self.start
    }

    /// Its first `count` items, and the others.
    pub fn split(self, count: usize) -> (Self, Self) {
        let mid = self.start + count;
        (Block { start: self.start, end: mid }, Block { start: mid, end: self.end })
    }
}

/// What came of a part of a claim.
pub enum Claim {
    Block(Block),
    /// There is more to do to get one.
    Again,
    Empty,
}

/// Where blocks are claimed from. Prices are spent in `sim`.
pub trait Source {
    fn claim(&mut self, who: usize, fit: usize, sim: &mut Sim) -> Claim;
    fn has_more(&self, who: usize, sim: &mut Sim) -> bool;
    /// What only one worker at a time can use, with how long it was used.
    fn serial(&self) -> Option<(&'static str, Ns)> {
        None
    }
    /// Takes the rest of a block back, if it can.
    fn give_back(&mut self, _who: usize, _rest: Block, _sim: &mut Sim) -> bool {
        false
    }
}

/// What can be changed in the engine. The default is the crate as it was first committed.
#[derive(Clone, Copy, Debug)]
pub struct Engine {
    pub crew: crew::Design,
    /// How many workers one that comes calls before it works.
    pub calls: usize,
    /// Whoever leaves hungry is counted and not only flagged.
    pub counts_hungry: bool,
    pub look: Look,
    /// What was given back is claimed before all else and in portions; else as a whole, and last.
    pub shares_spares: bool,
}

/// When a worker in a late slice looks whether somebody is hungry.
#[derive(Clone, Copy, Debug)]
pub enum Look {
    /// After each sixteenth of the items.
    Batch,
    /// Before each item; but after the clock said that it is too early, not before so many others.
    Item(usize),
}

impl Default for Engine {
    fn default() -> Self {
        Engine {
            crew: crew::Design::default(),
            calls: 1,
            counts_hungry: false,
            look: Look::Batch,
            shares_spares: false,
        }
    }
}

/// Runs `load` from `source` on `workers`, all asleep, which share `cores`.
pub fn run(
    load: &Load,
    source: impl Source,
    engine: Engine,
    workers: usize,
    cores: usize,
) -> Outcome {
    let mut map = Map::new(load, source, engine, workers);
    // The caller sleeps nearly always: it is no competitor for a core.
    let cores = if cores < workers { cores } else { workers + 1 };
    let mut sim = Sim::new(workers + 1, cores);
    let time = sim.run(workers, &mut map);
    #[cfg(test)]
    assert!(map.done.iter().all(|times| *times == 1), "{} on {workers}", load.name);
    let mut serial = vec![("the lock under which workers are woken", map.crew.lock.busy())];
    serial.extend(map.source.serial());
    let ideal = load.ideal(workers.min(cores));
    Outcome { time, ideal, workers, ledger: sim.ledger(workers, time), serial }
}

struct Map<'l, S> {
    load: &'l Load,
    source: S,
    engine: Engine,
    workers: Vec<Worker>,
    /// How many workers can be of use.
    helpers: usize,
    called: usize,
    came: usize,
    hungry: usize,
    spare: Vec<Block>,
    inside: usize,
    left: usize,
    caller: Caller,
    crew: Crew,
    loan: Lock,
    spares: Lock,
    #[cfg(test)]
    done: Vec<u8>,
}

struct Worker {
    state: State,
    fit: usize,
    /// Its last block was one that had been given back.
    in_spares: bool,
    /// How many items it does before it reads the clock again.
    skip: usize,
    joined: Ns,
    /// When its last slice ended.
    now: Ns,
    block: Block,
}

#[derive(Clone, Copy)]
enum State {
    /// Looks for a call.
    Drain,
    /// Calls so many others before it works.
    Come(usize),
    Claim,
    Run,
    /// In a slice that takes too long: so many items of so many are done.
    Late(usize, usize),
    /// So many items took their time.
    Learn(usize),
}

#[derive(PartialEq)]
enum Caller {
    Start,
    Patience,
    CallsAll,
    Waits,
    Done,
}

impl<'l, S: Source> Map<'l, S> {
    fn new(load: &'l Load, source: S, engine: Engine, workers: usize) -> Self {
        let worker = || Worker {
            state: State::Drain,
            fit: 1,
            in_spares: false,
            skip: 0,
            joined: 0,
            now: 0,
            block: Block::default(),
        };
        Map {
            load,
            source,
            engine,
            workers: (0..workers).map(|_| worker()).collect(),
            helpers: workers.min(load.len()),
            called: 0,
            came: 0,
            hungry: 0,
            spare: Vec::new(),
            inside: 0,
            left: load.len(),
            caller: Caller::Start,
            crew: Crew::new(workers, engine.crew),
            loan: Lock::default(),
            spares: Lock::default(),
            #[cfg(test)]
            done: vec![0; load.len()],
        }
    }

    fn call_next(&mut self, who: usize, sim: &mut Sim) -> bool {
        let call = self.called < self.helpers && self.has_work(who, sim);
        if call {
            self.called += 1;
            self.crew.submit(who, sim);
        }
        call
    }

    fn has_work(&self, who: usize, sim: &mut Sim) -> bool {
        self.source.has_more(who, sim) || !self.spare.is_empty()
    }

    /// Says that somebody found nothing.
    fn hunger(&mut self) {
        self.hungry = if self.engine.counts_hungry { self.hungry + 1 } else { 1 };
    }

    /// Calls somebody back who left while there was nothing for him and there is now.
    fn feed(&mut self, who: usize, sim: &mut Sim) {
        if self.hungry > 0 && self.has_work(who, sim) {
            self.hungry -= 1;
            self.crew.submit(who, sim);
        }
    }

    fn caller_steps(&mut self, who: usize, sim: &mut Sim) -> Then {
        match self.caller {
            Caller::Start => {
                self.called = 1;
                self.crew.submit(who, sim);
                self.caller = Caller::Patience;
                return Then::Sleep(Some(sim.now() + price::PATIENCE));
            }
            Caller::Patience | Caller::CallsAll if self.left > 0 => {
                self.caller = Caller::CallsAll;
                if self.call_next(who, sim) {
                    return Then::Step;
                }
                self.caller = Caller::Waits;
            }
            _ if self.left == 0 && self.inside == 0 => self.caller = Caller::Done,
            _ => {}
        }
        Then::Sleep(None)
    }

    fn worker_steps(&mut self, who: usize, sim: &mut Sim) -> Then {
        match self.workers[who].state {
            State::Drain => return self.drain(who, sim),
            State::Come(calls) => {
                if calls > 0 && self.call_next(who, sim) {
                    self.workers[who].state = State::Come(calls - 1);
                } else {
                    sim.spend(who, Spent::Claim, price::CLOCK);
                    let worker = &mut self.workers[who];
                    (worker.joined, worker.now) = (sim.now(), sim.now());
                    worker.state = State::Claim;
                }
            }
            State::Claim => self.claim(who, sim),
            State::Run => self.run_slice(who, sim),
            State::Late(done, slice) => self.run_late(who, done, slice, sim),
            State::Learn(done) => self.learn(who, done, sim),
        }
        Then::Step
    }

    fn drain(&mut self, who: usize, sim: &mut Sim) -> Then {
        if let Err(then) = self.crew.take(who, sim) {
            return then;
        }
        sim.pass(who, &mut self.loan, price::LOCK, Spent::Claim);
        self.inside += 1;
        self.came += 1;
        let calls = if self.came > 1 { self.engine.calls } else { 0 };
        let worker = &mut self.workers[who];
        (worker.fit, worker.in_spares, worker.state) = (1, false, State::Come(calls));
        Then::Step
    }

    /// The next of what was given back.
    fn claim_spare(&mut self, who: usize, sim: &mut Sim) -> Option<Block> {
        let last = self.spare.last_mut()?;
        let worker = &mut self.workers[who];
        let count = if self.engine.shares_spares {
            if !std::mem::replace(&mut worker.in_spares, true) {
                worker.fit = 1;
            }
            worker.fit.min(last.len() / 4).max(1)
        } else {
            last.len()
        };
        sim.pass(who, &mut self.spares, price::CLAIM, Spent::Claim);
        let block;
        (block, *last) = last.split(count);
        if last.len() == 0 {
            self.spare.pop();
        }
        Some(block)
    }

    fn claim(&mut self, who: usize, sim: &mut Sim) {
        let mut block = None;
        if self.engine.shares_spares {
            block = self.claim_spare(who, sim);
            self.workers[who].in_spares = block.is_some();
        }
        if block.is_none() {
            block = match self.source.claim(who, self.workers[who].fit, sim) {
                Claim::Again => return,
                Claim::Block(block) => Some(block),
                Claim::Empty => self.claim_spare(who, sim),
            };
        }
        if let Some(block) = block {
            self.workers[who].block = block;
            self.workers[who].state = State::Run;
            self.feed(who, sim);
            return;
        }
        self.hunger();
        sim.pass(who, &mut self.loan, price::LOCK, Spent::Claim);
        self.inside -= 1;
        if self.inside == 0 {
            // The caller.
            sim.wake(self.workers.len(), price::WAKE);
        }
        self.workers[who].state = State::Drain;
    }

    /// Begins a slice: all of it in one step, if it is over before anybody may ask for its rest.
    fn run_slice(&mut self, who: usize, sim: &mut Sim) {
        let worker = &mut self.workers[who];
        let slice = worker.fit.min(worker.block.len());
        let cost = self.load.cost(worker.block.start, slice);
        if cost <= 2 * price::SLICE {
            self.work(who, slice, sim);
            self.workers[who].state = State::Learn(slice);
        } else {
            worker.state = State::Late(0, slice);
        }
    }

    fn work(&mut self, who: usize, count: usize, sim: &mut Sim) {
        let (done, rest) = self.workers[who].block.split(count);
        #[cfg(test)]
        self.done[done.start..done.end].iter_mut().for_each(|times| *times += 1);
        self.workers[who].block = rest;
        self.left -= count;
        sim.spend(who, Spent::Work, self.load.cost(done.start, count));
    }

    /// From look to look.
    fn run_late(&mut self, who: usize, done: usize, slice: usize, sim: &mut Sim) {
        let batch = (slice / price::LOOKS).max(1);
        let worker = &mut self.workers[who];
        let (count, looks, skip) = match self.engine.look {
            Look::Batch => (batch.min(slice - done), true, 0),
            Look::Item(skip) => {
                let skipped = if done.is_multiple_of(batch) { 0 } else { worker.skip };
                worker.skip = skipped.saturating_sub(1);
                (1, skipped == 0, skip)
            }
        };
        if looks && self.hungry > 0 {
            sim.spend(who, Spent::Claim, price::CLOCK);
            if sim.now() - worker.now >= 2 * price::SLICE {
                return self.leave_rest(who, sim);
            }
            worker.skip = skip;
        }
        self.work(who, count, sim);
        let done = done + count;
        self.workers[who].state =
            if done == slice { State::Learn(done) } else { State::Late(done, slice) };
    }

    /// Gives the rest of a block to somebody hungry.
    fn leave_rest(&mut self, who: usize, sim: &mut Sim) {
        self.hungry -= 1;
        let rest = std::mem::take(&mut self.workers[who].block);
        if !self.source.give_back(who, rest, sim) {
            sim.pass(who, &mut self.spares, price::CLAIM, Spent::Claim);
            self.spare.push(rest);
        }
        self.crew.submit(who, sim);
        // Else its next slice would be late before it begins, and it could go on so for ever.
        self.workers[who].now = sim.now();
        self.workers[who].state = State::Claim;
    }

    fn learn(&mut self, who: usize, done: usize, sim: &mut Sim) {
        sim.spend(who, Spent::Claim, price::CLOCK);
        let worker = &mut self.workers[who];
        let time = (sim.now() - worker.now).max(1);
        worker.now = sim.now();
        let fit = (price::SLICE as u128 * done as u128 / u128::from(time)) as usize;
        worker.fit = fit.clamp(1, 4 * worker.fit);
        worker.state = if worker.block.len() > 0 { State::Run } else { State::Claim };
        if worker.now - worker.joined >= price::WORTH {
            self.call_next(who, sim);
        }
    }
}

impl<S: Source> Model for Map<'_, S> {
    fn step(&mut self, who: usize, sim: &mut Sim) -> Then {
        if who == self.workers.len() {
            self.caller_steps(who, sim)
        } else {
            self.worker_steps(who, sim)
        }
    }

    fn is_over(&self) -> bool {
        self.caller == Caller::Done
    }
}
