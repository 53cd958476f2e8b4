//! The crate's map: who is called when, who claims what, and how late blocks are given back. Over a
//! collection ([`Ranges`](crate::ranges::Ranges)) or an iterator ([`Pulled`](crate::pulled::Pulled)).

use crate::load::Load;
use crate::price;
use crate::sim::{Ledger, Lock, Model, Ns, Sim, Spent, Then};

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
    /// Takes the rest of a block back, if it can.
    fn give_back(&mut self, _who: usize, _rest: Block, _sim: &mut Sim) -> bool {
        false
    }
}

/// What can be changed in the engine. The default is the crate as it is.
#[derive(Clone, Copy, Debug)]
pub struct Engine {
    /// A drainer is started, and the thread woken, under the lock of the crew.
    pub wakes_in_lock: bool,
    /// How many workers one that comes calls before it works.
    pub calls: usize,
    /// Whoever leaves hungry is counted and not only flagged.
    pub counts_hungry: bool,
}

impl Default for Engine {
    fn default() -> Self {
        Engine { wakes_in_lock: true, calls: 1, counts_hungry: false }
    }
}

/// How a run ended.
pub struct Run {
    pub time: Ns,
    pub ledger: Ledger,
    /// How often each item was done.
    #[cfg(test)]
    pub done: Vec<u8>,
}

/// Runs `load` from `source` on `workers`, all asleep, which share `cores`.
pub fn run(load: &Load, source: impl Source, engine: Engine, workers: usize, cores: usize) -> Run {
    let mut map = Map::new(load, source, engine, workers);
    // The caller sleeps nearly always: it is no competitor for a core.
    let cores = if cores < workers { cores } else { workers + 1 };
    let mut sim = Sim::new(workers + 1, cores);
    let time = sim.run(workers, &mut map);
    let ledger = sim.ledger(workers, time);
    Run {
        time,
        ledger,
        #[cfg(test)]
        done: map.done,
    }
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
    /// How many calls nobody has answered yet.
    queued: usize,
    active: usize,
    looking: Vec<usize>,
    inside: usize,
    left: usize,
    caller: Caller,
    queue: Lock,
    crew: Lock,
    loan: Lock,
    #[cfg(test)]
    done: Vec<u8>,
}

struct Worker {
    state: State,
    asleep: bool,
    fit: usize,
    joined: Ns,
    /// When its last slice ended.
    now: Ns,
    block: Block,
}

#[derive(Clone, Copy)]
enum State {
    /// Looks for a call.
    Drain,
    /// Has found none, and looks again.
    LookAgain,
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
            asleep: true,
            fit: 1,
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
            queued: 0,
            active: 0,
            looking: Vec::new(),
            inside: 0,
            left: load.len(),
            caller: Caller::Start,
            queue: Lock::default(),
            crew: Lock::default(),
            loan: Lock::default(),
            #[cfg(test)]
            done: vec![0; load.len()],
        }
    }

    /// Queues a call and starts a drainer if one is missing.
    fn call(&mut self, who: usize, sim: &mut Sim) {
        sim.touch(who, &mut self.queue, price::PUSH, Spent::Call);
        self.queued += 1;
        self.rouse(who, sim);
    }

    fn rouse(&mut self, who: usize, sim: &mut Sim) {
        if let Some(other) = self.looking.pop() {
            return sim.wake(other, price::LINE);
        }
        let asleep = self.workers.iter().position(|worker| worker.asleep);
        let Some(other) = asleep.filter(|_| self.active < self.workers.len()) else { return };
        let held = if self.engine.wakes_in_lock { price::CALL } else { price::LOCK };
        sim.pass(who, &mut self.crew, held, Spent::Call);
        if !self.engine.wakes_in_lock {
            sim.spend(who, Spent::Call, price::CALL);
        }
        self.active += 1;
        self.workers[other].asleep = false;
        sim.wake(other, price::WAKE);
    }

    fn call_next(&mut self, who: usize, sim: &mut Sim) -> bool {
        let call = self.called < self.helpers && self.has_work(who, sim);
        if call {
            self.called += 1;
            self.call(who, sim);
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
            self.call(who, sim);
        }
    }

    fn caller_steps(&mut self, who: usize, sim: &mut Sim) -> Then {
        match self.caller {
            Caller::Start => {
                self.called = 1;
                self.call(who, sim);
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
            State::Drain | State::LookAgain => return self.drain(who, sim),
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
        self.looking.retain(|other| *other != who);
        self.workers[who].asleep = false;
        if self.queued > 0 {
            sim.touch(who, &mut self.queue, price::POP, Spent::Claim);
            sim.pass(who, &mut self.loan, price::LOCK, Spent::Claim);
            self.queued -= 1;
            self.inside += 1;
            self.came += 1;
            let calls = if self.came > 1 { self.engine.calls } else { 0 };
            let worker = &mut self.workers[who];
            (worker.fit, worker.state) = (1, State::Come(calls));
            if self.queued > 0 {
                self.rouse(who, sim);
            }
            return Then::Step;
        }
        if let State::Drain = self.workers[who].state {
            self.workers[who].state = State::LookAgain;
            self.looking.push(who);
            return Then::Spin(sim.now() + price::LOOK_AGAIN);
        }
        sim.pass(who, &mut self.crew, price::LOCK, Spent::Claim);
        self.active -= 1;
        let worker = &mut self.workers[who];
        (worker.state, worker.asleep) = (State::Drain, true);
        Then::Sleep(None)
    }

    fn claim(&mut self, who: usize, sim: &mut Sim) {
        let block = match self.source.claim(who, self.workers[who].fit, sim) {
            Claim::Again => return,
            Claim::Block(block) => Some(block),
            Claim::Empty => self.spare.pop(),
        };
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
        let late = sim.now() - self.workers[who].now >= 2 * price::SLICE;
        if late && done < slice && self.hungry > 0 {
            self.hungry -= 1;
            let rest = self.workers[who].block;
            if !self.source.give_back(who, rest, sim) {
                sim.spend(who, Spent::Claim, price::LOCK);
                self.spare.push(rest);
            }
            self.call(who, sim);
            self.workers[who].block = Block::default();
            self.workers[who].state = State::Claim;
            return;
        }
        let count = (slice / price::LOOKS).max(1).min(slice - done);
        self.work(who, count, sim);
        let done = done + count;
        self.workers[who].state =
            if done == slice { State::Learn(done) } else { State::Late(done, slice) };
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
