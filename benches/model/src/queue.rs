//! `apply_async`: many small tasks, from one thread outside or from the tasks themselves.

use crate::crew::{Crew, Design};
use crate::price;
use crate::sim::{Model, Ns, Sim, Spent, Then};
use crate::table::Outcome;

/// Who submits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum From {
    /// One thread outside, which then waits for all.
    Outside,
    /// Each task submits two more, until there are enough.
    Tasks,
}

/// Runs `tasks` that take `cost` each on `workers`, all asleep.
pub fn run(
    tasks: usize,
    cost: Ns,
    from: From,
    design: Design,
    workers: usize,
    cores: usize,
) -> Outcome {
    let mut queue = Queue {
        crew: Crew::new(workers, design),
        cost,
        from,
        tasks,
        unsubmitted: tasks,
        undone: tasks,
        taken: vec![0; workers],
        runs: vec![false; workers],
        got: 0,
        waits: false,
        busy: 0,
        caller: Caller::Submits,
    };
    let mut sim = Sim::new(workers + 1, if cores < workers { cores } else { workers + 1 });
    let time = sim.run(workers, &mut queue);
    let serial = vec![
        ("the thread that submits", queue.busy),
        ("the head of the queue", queue.crew.head.busy()),
        ("the tail of the queue", queue.crew.tail.busy()),
        ("the lock under which workers are woken", queue.crew.lock.busy()),
    ];
    let ideal = tasks as Ns * cost / workers as Ns;
    Outcome { time, ideal, workers, ledger: sim.ledger(workers, time), serial }
}

struct Queue {
    crew: Crew,
    cost: Ns,
    from: From,
    tasks: usize,
    unsubmitted: usize,
    undone: usize,
    /// How many tasks each worker took and has not begun.
    taken: Vec<usize>,
    /// Who has run a task of which nobody knows yet.
    runs: Vec<bool>,
    /// How many results the caller has.
    got: usize,
    /// He waits for the next one, or the last.
    waits: bool,
    /// How long the caller has worked.
    busy: Ns,
    caller: Caller,
}

#[derive(PartialEq)]
enum Caller {
    Submits,
    Gets,
    Done,
}

impl Queue {
    fn submit(&mut self, who: usize, sim: &mut Sim) {
        self.unsubmitted -= 1;
        sim.spend(who, Spent::Call, price::SUBMIT - price::PUSH);
        self.crew.submit(who, sim);
    }

    fn caller_steps(&mut self, who: usize, sim: &mut Sim) -> Then {
        let begun = sim.now();
        match self.caller {
            Caller::Submits => {
                self.submit(who, sim);
                if self.unsubmitted == 0 || self.from == From::Tasks {
                    self.caller = Caller::Gets;
                }
            }
            Caller::Gets if self.got == self.tasks => self.caller = Caller::Done,
            Caller::Gets => {
                // In the order in which they were submitted, which is nearly that of their ends.
                let done = self.tasks - self.undone - self.got;
                let all_or_none = self.from == From::Tasks && self.undone > 0;
                if done == 0 || all_or_none {
                    self.waits = true;
                    return Then::Sleep(None);
                }
                sim.spend(who, Spent::Call, done as Ns * price::GET);
                self.got += done;
            }
            Caller::Done => return Then::Sleep(None),
        }
        self.busy += sim.now() - begun;
        Then::Step
    }

    fn worker_steps(&mut self, who: usize, sim: &mut Sim) -> Then {
        if std::mem::take(&mut self.runs[who]) {
            self.undone -= 1;
            let wanted = self.from == From::Outside || self.undone == 0;
            if wanted && std::mem::take(&mut self.waits) {
                sim.wake(self.runs.len(), price::WAKE);
                sim.spend(who, Spent::Call, price::CALL);
                return Then::Step;
            }
        }
        if self.taken[who] == 0 {
            match self.crew.take(who, sim) {
                Ok(count) => self.taken[who] = count,
                Err(then) => return then,
            }
        }
        for _ in 0..2 {
            if self.from == From::Tasks && self.unsubmitted > 0 {
                self.submit(who, sim);
            }
        }
        sim.spend(who, Spent::Work, self.cost);
        self.taken[who] -= 1;
        self.runs[who] = true;
        Then::Step
    }
}

impl Model for Queue {
    fn step(&mut self, who: usize, sim: &mut Sim) -> Then {
        match who < self.runs.len() {
            true => self.worker_steps(who, sim),
            false => self.caller_steps(who, sim),
        }
    }

    fn is_over(&self) -> bool {
        self.caller == Caller::Done
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::price::US;

    #[test]
    fn all_the_work_is_done_and_no_faster_than_possible() {
        for design in [
            Design::default(),
            Design { batch: 16, wakes_in_lock: true, ..Design::default() },
            Design { deques: true, ..Design::default() },
        ] {
            for (from, workers) in [(From::Outside, 1), (From::Tasks, 3), (From::Tasks, 64)] {
                let outcome = run(5000, US, from, design, workers, workers);
                assert_eq!(outcome.ledger.of(Spent::Work), 5000 * US, "{design:?}");
                assert!(outcome.time >= outcome.ideal);
            }
        }
    }
}
