//! An ordered stream: the consumer pulls the input in chunks and hands the results out; the workers
//! put them one by one into the lane of their chunk.

use std::collections::VecDeque;

use crate::crew::{self, Crew};
use crate::price::{self, MS, US};
use crate::sim::{Model, Ns, Sim, Spent, Then};
use crate::table::Outcome;

/// The work in one chunk; code: `chunk::CHUNK`.
const CHUNK: Ns = 200 * US;
/// The work in front of each worker; code: `chunk::AHEAD`.
const AHEAD: Ns = 2 * MS;
/// How long a consumer may wait for what is there; code: `chunk::PROMPT`.
const PROMPT: Ns = 500 * US;
/// Chunks for each worker when items are cheap; code: `chunk::EACH`.
const EACH: usize = 4;
/// Items for each worker at the most; code: `chunk::MOST`.
const MOST: usize = 2048;

/// What can be changed. The default is the crate as it is.
#[derive(Clone, Copy, Debug)]
pub struct Design {
    pub crew: crew::Design,
    /// The price of handing out one result.
    pub hand: Ns,
    /// The price of putting one result into a lane.
    pub post: Ns,
    /// The price of making a chunk.
    pub chunk: Ns,
    /// Chunks grow with the number of workers, since one consumer makes them for all.
    pub wide: bool,
}

impl Default for Design {
    fn default() -> Self {
        Design {
            crew: crew::Design::default(),
            hand: price::HAND,
            post: price::POST,
            chunk: price::CHUNK,
            wide: true,
        }
    }
}

/// Streams `items` of `cost` each through `workers`, all asleep, which share `cores`.
pub fn run(items: usize, cost: Ns, design: Design, workers: usize, cores: usize) -> Outcome {
    let mut stream = Stream {
        design,
        cost,
        flow: Flow { workers, window: EACH * workers, chunk: 1, wide: design.wide },
        crew: Crew::new(workers, design.crew),
        input: items,
        queue: VecDeque::new(),
        running: vec![None; workers],
        chunks: Vec::new(),
        front: 0,
        in_flight: 0,
        ready: 0,
        known: 0,
        asked: None,
        starved: false,
        busy: 0,
        over: false,
    };
    let mut sim = Sim::new(workers + 1, if cores < workers { cores } else { workers + 1 });
    let time = sim.run(workers, &mut stream);
    let serial = vec![
        ("the consumer", stream.busy),
        ("the lock under which workers are woken", stream.crew.lock.busy()),
    ];
    let ideal = items as Ns * cost / workers.min(cores) as Ns;
    Outcome { time, ideal, workers, ledger: sim.ledger(workers, time), serial }
}

/// How far a stream runs ahead, and in what portions: the crate's `chunk::Flow`.
struct Flow {
    workers: usize,
    window: usize,
    chunk: usize,
    wide: bool,
}

impl Flow {
    fn learn(&mut self, nanos: Ns) {
        let fit = |time: Ns| (time / nanos.max(1)) as usize;
        let (few, most) = (EACH * self.workers, MOST * self.workers);
        self.window = (fit(AHEAD) * self.workers).min(2 * self.window).clamp(few, most);
        let work = if self.wide { CHUNK.max(4 * US * self.workers as Ns) } else { CHUNK };
        self.chunk = fit(work).min(2 * self.chunk).clamp(1, (self.window / few).max(1));
    }

    fn ask(&self, nanos: Ns, in_flight: usize) -> usize {
        let Some(wanted) = PROMPT.checked_div(nanos) else { return 1 };
        (wanted as usize * self.workers).clamp(1, (in_flight / 2).max(1))
    }
}

struct Chunk {
    len: usize,
    taken: usize,
    begun: Option<Ns>,
}

struct Stream {
    design: Design,
    cost: Ns,
    flow: Flow,
    crew: Crew,
    /// How many items were not pulled.
    input: usize,
    /// The chunks that nobody has begun.
    queue: VecDeque<usize>,
    /// The chunk that each worker has run.
    running: Vec<Option<usize>>,
    chunks: Vec<Chunk>,
    /// The first chunk of which not all was collected.
    front: usize,
    in_flight: usize,
    ready: usize,
    /// What an item takes, as far as is known.
    known: Ns,
    /// The chunk and its result for which the consumer wants to be woken.
    asked: Option<(usize, usize)>,
    starved: bool,
    /// How long the consumer has worked.
    busy: Ns,
    over: bool,
}

impl Stream {
    /// How long a worker has from one result to the next.
    fn pace(&self) -> Ns {
        self.cost + self.design.post
    }

    fn has_room(&self) -> bool {
        self.input > 0 && self.in_flight + self.flow.chunk <= self.flow.window
    }

    fn pull(&mut self, who: usize, sim: &mut Sim) {
        if self.known > 0 {
            self.flow.learn(self.known);
        }
        if !self.has_room() {
            return;
        }
        let len = self.flow.chunk.min(self.input);
        sim.spend(who, Spent::Claim, self.design.chunk + len as Ns * price::PULL);
        self.input -= len;
        self.in_flight += len;
        self.queue.push_back(self.chunks.len());
        self.chunks.push(Chunk { len, taken: 0, begun: None });
        self.crew.submit(who, sim);
    }

    /// How many results of a chunk are there.
    fn made(&self, chunk: &Chunk, now: Ns) -> usize {
        let since = chunk.begun.map_or(0, |begun| now.saturating_sub(begun));
        ((since / self.pace()) as usize).min(chunk.len)
    }

    /// Takes what has come in the first box; false if nothing has.
    fn collect(&mut self, who: usize, sim: &mut Sim) -> bool {
        let Some(chunk) = self.chunks.get(self.front) else { return false };
        let made = self.made(chunk, sim.now());
        let come = made - chunk.taken;
        sim.spend(who, Spent::Lock, price::LOCK + price::LINE);
        self.chunks[self.front].taken = made;
        self.front += usize::from(made == self.chunks[self.front].len);
        self.ready += come;
        self.starved &= come == 0;
        come > 0
    }

    fn hand_out(&mut self, who: usize, sim: &mut Sim) {
        let until_room = (self.in_flight + self.flow.chunk).saturating_sub(self.flow.window).max(1);
        let count = if self.input > 0 { until_room.min(self.ready) } else { self.ready };
        sim.spend(who, Spent::Claim, count as Ns * self.design.hand);
        self.ready -= count;
        self.in_flight -= count;
    }

    /// Asks to be woken; for how long the consumer waits at the most, if he does.
    fn wait(&mut self, who: usize, sim: &mut Sim) -> Option<Then> {
        let ask = if self.starved { 1 } else { self.flow.ask(self.known, self.in_flight) };
        self.starved = true;
        let mut before = 0;
        for (index, chunk) in self.chunks.iter().enumerate().skip(self.front) {
            let here = (ask - before).min(chunk.len - chunk.taken);
            before += here;
            if before == ask {
                if self.made(chunk, sim.now()) >= chunk.taken + here {
                    return None;
                }
                self.asked = Some((index, chunk.taken + here));
                break;
            }
        }
        self.promise(sim);
        sim.spend(who, Spent::Claim, price::LOCK);
        Some(Then::Sleep((ask > 1).then(|| sim.now() + PROMPT)))
    }

    /// Has the consumer woken when the result is there that he asked for, if its chunk was begun.
    fn promise(&mut self, sim: &mut Sim) {
        let Some((index, count)) = self.asked else { return };
        let Some(begun) = self.chunks[index].begun else { return };
        let at = begun + count as Ns * self.pace() + price::CALL;
        self.asked = None;
        sim.wake(self.running.len(), at.saturating_sub(sim.now()) + price::WAKE);
    }

    fn consumer_steps(&mut self, who: usize, sim: &mut Sim) -> Then {
        let begun = sim.now();
        if self.has_room() {
            self.pull(who, sim);
        } else if self.ready > 0 {
            self.hand_out(who, sim);
        } else if !self.collect(who, sim) {
            if self.in_flight == 0 {
                self.over = true;
            } else if let Some(then) = self.wait(who, sim) {
                return then;
            }
        }
        self.busy += sim.now() - begun;
        Then::Step
    }

    fn worker_steps(&mut self, who: usize, sim: &mut Sim) -> Then {
        if self.running[who].take().is_some() {
            self.known = self.pace();
        }
        if let Err(then) = self.crew.take(who, sim) {
            return then;
        }
        let index = self.queue.pop_front().expect("the crew counts what is queued");
        self.running[who] = Some(index);
        let len = self.chunks[index].len as Ns;
        self.chunks[index].begun = Some(sim.now());
        if self.asked.is_some_and(|(asked, _)| asked == index) {
            self.promise(sim);
            sim.spend(who, Spent::Call, price::CALL);
        }
        sim.spend(who, Spent::Work, len * self.cost);
        sim.spend(who, Spent::Claim, len * self.design.post + 3 * price::CLOCK);
        Then::Step
    }
}

impl Model for Stream {
    fn step(&mut self, who: usize, sim: &mut Sim) -> Then {
        match who < self.running.len() {
            true => self.worker_steps(who, sim),
            false => self.consumer_steps(who, sim),
        }
    }

    fn is_over(&self) -> bool {
        self.over
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_item_is_worked_on_and_none_faster_than_possible() {
        for (items, cost) in [(1, US), (20_000, 1), (20_000, US), (2000, 10 * US), (20, MS)] {
            for workers in [1, 2, 3, 64] {
                let outcome = run(items, cost, Design::default(), workers, workers);
                assert_eq!(outcome.ledger.of(Spent::Work), items as Ns * cost);
                assert!(outcome.time >= outcome.ideal);
            }
        }
    }
}
