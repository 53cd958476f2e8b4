//! The crate's queue of tasks and those who drain it: at most one drainer for each worker, started by
//! whoever submits while one is missing.

use crate::price;
use crate::sim::{Lock, Ns, Sim, Spent, Then};

/// What can be changed. The default is the crate as it is.
#[derive(Clone, Copy, Debug)]
pub struct Design {
    /// A drainer is started, and its thread woken, under a lock, as in the first commit.
    pub wakes_in_lock: bool,
    pub calls: Calls,
    /// How many tasks a drainer takes at a time.
    pub batch: usize,
    /// What a worker submits goes to a deque of its own.
    pub deques: bool,
}

/// How many drainers may be started that have not come yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Calls {
    Any,
    One,
    /// As many as are awake.
    Doubling,
}

impl Default for Design {
    fn default() -> Self {
        Design { wakes_in_lock: false, calls: Calls::Any, batch: 1, deques: false }
    }
}

pub struct Crew {
    design: Design,
    state: Vec<State>,
    /// How many are not asleep.
    active: usize,
    queued: usize,
    /// What is in the deques.
    own: Vec<usize>,
    pub head: Lock,
    pub tail: Lock,
    pub lock: Lock,
}

#[derive(Clone, Copy, PartialEq)]
enum State {
    Asleep,
    /// Was woken and has not come.
    Called,
    Works,
    /// Has found nothing and looks again.
    Looks,
}

impl Crew {
    pub fn new(workers: usize, design: Design) -> Self {
        Crew {
            design,
            state: vec![State::Asleep; workers],
            active: 0,
            queued: 0,
            own: vec![0; workers],
            head: Lock::default(),
            tail: Lock::default(),
            lock: Lock::default(),
        }
    }

    /// Queues a task and starts a drainer if one is missing.
    pub fn submit(&mut self, who: usize, sim: &mut Sim) {
        if self.design.deques && who < self.own.len() {
            sim.spend(who, Spent::Call, price::DEQUE);
            self.own[who] += 1;
        } else {
            sim.touch(who, &mut self.tail, price::PUSH, Spent::Call);
            self.queued += 1;
        }
        self.rouse(who, sim);
    }

    fn rouse(&mut self, who: usize, sim: &mut Sim) {
        if let Some(other) = self.state.iter().position(|state| *state == State::Looks) {
            self.state[other] = State::Works;
            return sim.wake(other, price::LINE);
        }
        if self.active == self.state.len() {
            return;
        }
        let called = self.state.iter().filter(|state| **state == State::Called).count();
        let enough = match self.design.calls {
            Calls::Any => usize::MAX,
            Calls::One => 1,
            Calls::Doubling => (self.active - called).max(1),
        };
        if called >= enough {
            return;
        }
        let asleep = self.state.iter().position(|state| *state == State::Asleep);
        let other = asleep.expect("who is not active is asleep");
        self.active += 1;
        self.state[other] = State::Called;
        if self.design.wakes_in_lock {
            sim.pass(who, &mut self.lock, price::CALL, Spent::Call);
        } else {
            sim.pass(who, &mut self.lock, price::LOCK, Spent::Call);
            sim.spend(who, Spent::Call, price::CALL);
        }
        sim.wake(other, price::WAKE);
    }

    /// Takes tasks; how many, or what `who` does as there are none.
    pub fn take(&mut self, who: usize, sim: &mut Sim) -> Result<usize, Then> {
        if self.state[who] == State::Asleep {
            // It was called while it was leaving.
            return Err(Then::Sleep(None));
        }
        if self.state[who] == State::Called {
            self.state[who] = State::Works;
        }
        if self.own[who] > 0 {
            sim.spend(who, Spent::Claim, price::DEQUE);
            self.own[who] -= 1;
            return Ok(self.works(who));
        }
        if self.queued > 0 {
            let share = self.queued / self.state.len();
            let count = self.design.batch.min(share).max(1);
            let hold = price::POP + (count as Ns - 1) * price::MOVE;
            sim.touch(who, &mut self.head, hold, Spent::Claim);
            self.queued -= count;
            self.works(who);
            if self.queued > 0 {
                self.rouse(who, sim);
            }
            return Ok(count);
        }
        if let Some(victim) = self.victim(who, sim) {
            self.own[victim] -= 1;
            sim.spend(who, Spent::Lock, price::LINE);
            self.works(who);
            if self.own[victim] > 0 {
                self.rouse(who, sim);
            }
            return Ok(1);
        }
        if self.state[who] == State::Works {
            self.state[who] = State::Looks;
            return Err(Then::Spin(sim.now() + price::LOOK_AGAIN));
        }
        sim.pass(who, &mut self.lock, price::LOCK, Spent::Claim);
        self.active -= 1;
        self.state[who] = State::Asleep;
        Err(Then::Sleep(None))
    }

    fn works(&mut self, who: usize) -> usize {
        self.state[who] = State::Works;
        1
    }

    /// Somebody whose deque has something.
    fn victim(&self, who: usize, sim: &mut Sim) -> Option<usize> {
        if !self.design.deques {
            return None;
        }
        let count = self.own.len();
        let first = sim.random(count);
        let order = (0..count).map(|i| (first + i) % count);
        let found = order.enumerate().find(|(_, victim)| self.own[*victim] > 0);
        let probes = found.map_or(count, |(probes, _)| probes + 1);
        sim.spend(who, Spent::Scan, probes as Ns * price::PROBE);
        found.map(|(_, victim)| victim)
    }
}
