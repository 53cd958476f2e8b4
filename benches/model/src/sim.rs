//! The core: actors that take turns in virtual time, the cores they share, and the locks they wait
//! for. Deterministic.
//!
//! A model is a state machine for each actor. In a step it changes the shared state and says what
//! the step costs; the actor's next step comes when that much time has passed. What is taken at the
//! begin of a step is gone at once, so a step should contain one claim on contended things and not
//! two.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};

use crate::price;

/// Virtual nanoseconds.
pub type Ns = u64;

/// What an actor's time went into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spent {
    /// Items.
    Work,
    /// Claims, splits, clock reads: all that each block costs by itself.
    Claim,
    /// Waiting for a lock or a line that others hold.
    Lock,
    /// Looking at the seats of others.
    Scan,
    /// Calling others.
    Call,
    /// Looking for more without finding it.
    Spin,
}

const KINDS: usize = 6;

/// What an actor does after a step, once the time of the step has passed.
pub enum Then {
    Step,
    /// Leaves its core until it is woken, or until a moment.
    Sleep(Option<Ns>),
    /// The same, but it keeps its core.
    Spin(Ns),
}

pub trait Model {
    fn step(&mut self, who: usize, sim: &mut Sim) -> Then;
    fn is_over(&self) -> bool;
}

#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    /// The actor's own: a segment has ended, or a timer. Void if the actor has had another since.
    Own(u64),
    Wake,
}

#[derive(Default)]
struct Actor {
    serial: u64,
    state: State,
    /// Somebody woke it while it was awake: its next sleep is none.
    token: bool,
    /// What is left of its segment.
    left: Ns,
    after: Option<Then>,
    quantum_end: Ns,
    arrived: Option<Ns>,
    spent: [Ns; KINDS],
}

#[derive(Default, PartialEq)]
enum State {
    #[default]
    Asleep,
    /// Awake, and waiting for a core.
    Waiting,
    Running,
    Spinning(Ns),
}

/// Virtual time, and who does what in it.
pub struct Sim {
    now: Ns,
    /// What the current step costs so far.
    pending: Ns,
    /// When, in which order if at the same moment, who, and what.
    agenda: BinaryHeap<Reverse<(Ns, u64, usize, Event)>>,
    events: u64,
    actors: Vec<Actor>,
    free_cores: usize,
    quantum: Ns,
    waiting: VecDeque<usize>,
    rng: u64,
}

/// A thing that one actor at a time can hold; the others queue up, first come, first served.
#[derive(Clone, Default)]
pub struct Lock {
    free_at: Ns,
    last: Option<usize>,
    busy: Ns,
}

impl Sim {
    /// `actors` that sleep, on `cores`.
    pub fn new(actors: usize, cores: usize) -> Self {
        Sim {
            now: 0,
            pending: 0,
            agenda: BinaryHeap::new(),
            events: 0,
            actors: (0..actors).map(|_| Actor::default()).collect(),
            free_cores: cores,
            quantum: if cores >= actors { Ns::MAX } else { price::QUANTUM },
            waiting: VecDeque::new(),
            rng: 1,
        }
    }

    /// Wakes `first` and goes on until `model` is over; when that was.
    pub fn run(&mut self, first: usize, model: &mut impl Model) -> Ns {
        self.wake(first, 0);
        loop {
            let who = self.next().expect("somebody is awake until all is done");
            let then = model.step(who, self);
            if model.is_over() {
                return self.now();
            }
            let actor = &mut self.actors[who];
            actor.left = std::mem::take(&mut self.pending);
            actor.after = Some(then);
            self.segment(who);
        }
    }

    /// This moment, as the actor sees it whose step it is.
    pub fn now(&self) -> Ns {
        self.now + self.pending
    }

    pub fn spend(&mut self, who: usize, what: Spent, time: Ns) {
        self.pending += time;
        self.actors[who].spent[what as usize] += time;
    }

    /// Takes `lock` when it is free and holds it for `hold`, which is spent on `what`.
    pub fn pass(&mut self, who: usize, lock: &mut Lock, hold: Ns, what: Spent) {
        if self.touch(who, lock, hold, what) > price::MUTEX_SPIN {
            // It has parked meanwhile.
            self.spend(who, Spent::Lock, price::WAKE);
        }
    }

    /// The same for a line that nobody parks for; how long the wait was.
    pub fn touch(&mut self, who: usize, lock: &mut Lock, hold: Ns, what: Spent) -> Ns {
        let wait = lock.wait(self.now());
        let comes_over = lock.last.is_some_and(|last| last != who);
        let transfer = if comes_over { price::LINE } else { 0 };
        lock.free_at = self.now() + wait + transfer + hold;
        lock.last = Some(who);
        lock.busy += transfer + hold;
        self.spend(who, Spent::Lock, wait + transfer);
        self.spend(who, what, hold);
        wait
    }

    /// Has `who` step `delay` from now; if it is awake, as soon as it would sleep.
    pub fn wake(&mut self, who: usize, delay: Ns) {
        self.push(who, self.now() + delay, Event::Wake);
    }

    /// A number below `bound`. The same ones in every run.
    pub fn random(&mut self, bound: usize) -> usize {
        (splitmix(&mut self.rng) % bound as u64) as usize
    }

    /// Where the time of the first `workers` actors went, if all was over at `end`.
    pub fn ledger(&self, workers: usize, end: Ns) -> Ledger {
        let mut ledger = Ledger { total: end * workers as Ns, ..Ledger::default() };
        for actor in &self.actors[..workers] {
            ledger.absent += actor.arrived.unwrap_or(end).min(end);
            for (sum, spent) in ledger.spent.iter_mut().zip(actor.spent) {
                *sum += spent;
            }
        }
        ledger
    }

    fn push(&mut self, who: usize, at: Ns, event: Event) {
        self.events += 1;
        self.agenda.push(Reverse((at, self.events, who, event)));
    }

    /// Goes on to the next moment at which somebody steps.
    fn next(&mut self) -> Option<usize> {
        while let Some(Reverse((at, _, who, event))) = self.agenda.pop() {
            self.now = at;
            let steps = match event {
                Event::Wake => self.woken(who),
                Event::Own(serial) => serial == self.actors[who].serial && self.goes_on(who),
            };
            if steps {
                self.actors[who].arrived.get_or_insert(at);
                return Some(who);
            }
        }
        None
    }

    /// Whether `who`, whom somebody woke, steps now.
    fn woken(&mut self, who: usize) -> bool {
        match self.actors[who].state {
            State::Asleep => self.rise(who),
            State::Spinning(since) => {
                self.stop_spinning(who, since);
                true
            }
            State::Waiting | State::Running => {
                self.actors[who].token = true;
                false
            }
        }
    }

    /// Whether `who`, who slept, has a core now.
    fn rise(&mut self, who: usize) -> bool {
        self.actors[who].serial += 1;
        if self.free_cores == 0 {
            self.actors[who].state = State::Waiting;
            self.waiting.push_back(who);
            return false;
        }
        self.free_cores -= 1;
        self.start(who);
        true
    }

    fn start(&mut self, who: usize) {
        self.actors[who].state = State::Running;
        self.actors[who].quantum_end = self.now.saturating_add(self.quantum);
    }

    fn stop_spinning(&mut self, who: usize, since: Ns) {
        let actor = &mut self.actors[who];
        actor.spent[Spent::Spin as usize] += self.now - since;
        actor.state = State::Running;
        actor.serial += 1;
    }

    /// Whether `who` steps now that its segment or its timer is at its end.
    fn goes_on(&mut self, who: usize) -> bool {
        match self.actors[who].state {
            State::Asleep => return self.rise(who),
            State::Spinning(since) => {
                self.stop_spinning(who, since);
                return true;
            }
            State::Waiting | State::Running => {}
        }
        if self.actors[who].left > 0 {
            if let Some(next) = self.waiting.pop_front() {
                self.actors[who].state = State::Waiting;
                self.waiting.push_back(who);
                self.start(next);
                self.segment(next);
            } else {
                self.start(who);
                self.segment(who);
            }
            return false;
        }
        let actor = &mut self.actors[who];
        match actor.after.take() {
            None | Some(Then::Step) => true,
            Some(_) if std::mem::take(&mut actor.token) => true,
            Some(Then::Spin(until)) => {
                actor.state = State::Spinning(self.now);
                self.timer(who, until);
                false
            }
            Some(Then::Sleep(until)) => {
                actor.state = State::Asleep;
                if let Some(next) = self.waiting.pop_front() {
                    self.start(next);
                    self.segment(next);
                } else {
                    self.free_cores += 1;
                }
                match until {
                    Some(until) => self.timer(who, until),
                    None => self.actors[who].serial += 1,
                }
                false
            }
        }
    }

    fn timer(&mut self, who: usize, at: Ns) {
        self.actors[who].serial += 1;
        let serial = self.actors[who].serial;
        self.push(who, at.max(self.now), Event::Own(serial));
    }

    /// Runs `who`, who has a core, to the end of its segment or of its quantum.
    fn segment(&mut self, who: usize) {
        let actor = &mut self.actors[who];
        let time = actor.left.min(actor.quantum_end.saturating_sub(self.now).max(1));
        actor.left -= time;
        self.timer(who, self.now + time);
    }
}

impl Lock {
    /// How long somebody who comes at `now` waits.
    pub fn wait(&self, now: Ns) -> Ns {
        self.free_at.saturating_sub(now)
    }

    /// How long it was held, or on its way.
    pub fn busy(&self) -> Ns {
        self.busy
    }
}

/// Where the time of all workers went.
#[derive(Clone, Debug, Default)]
pub struct Ledger {
    /// Workers × time.
    pub total: Ns,
    /// Before a worker's first step.
    absent: Ns,
    spent: [Ns; KINDS],
}

impl Ledger {
    pub fn of(&self, what: Spent) -> Ns {
        self.spent[what as usize]
    }

    /// What most of the time went into that an ideal run, which takes `ideal` on each of `workers`,
    /// would not have spent; with its share of the loss.
    pub fn culprit(&self, workers: usize, ideal: Ns) -> (&'static str, f64) {
        let busy: Ns = self.spent.iter().sum();
        let mut idle = self.total.saturating_sub(busy + self.absent);
        let mut absent = self.absent;
        // Also in an ideal run some have nothing to do.
        let mut fair = (ideal * workers as Ns).saturating_sub(self.of(Spent::Work));
        for loss in [&mut idle, &mut absent] {
            let part = fair.min(*loss);
            *loss -= part;
            fair -= part;
        }
        let losses = [
            ("workers not awake yet", absent),
            ("workers without work", idle),
            ("claims", self.of(Spent::Claim)),
            ("locks", self.of(Spent::Lock)),
            ("scans for a victim", self.of(Spent::Scan)),
            ("calling others", self.of(Spent::Call)),
            ("looking for work", self.of(Spent::Spin)),
        ];
        let sum: Ns = losses.iter().map(|loss| loss.1).sum();
        let (name, loss) = losses.into_iter().max_by_key(|loss| loss.1).unwrap_or_default();
        (name, loss as f64 / sum.max(1) as f64)
    }
}

/// The generator of that name: 64 well-mixed bits from a counter.
pub fn splitmix(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each actor works so many steps of so long and sleeps; the last to end ends it.
    struct Steps {
        left: Vec<usize>,
        time: Ns,
        lock: Option<Lock>,
    }

    impl Model for Steps {
        fn step(&mut self, who: usize, sim: &mut Sim) -> Then {
            if who == 0 && self.left[0] > 0 && sim.now() == 0 {
                (1..self.left.len()).for_each(|other| sim.wake(other, 0));
            }
            let Some(left) = self.left[who].checked_sub(1) else { return Then::Sleep(None) };
            self.left[who] = left;
            match &mut self.lock {
                Some(lock) => sim.pass(who, lock, self.time, Spent::Work),
                None => sim.spend(who, Spent::Work, self.time),
            }
            Then::Step
        }
        fn is_over(&self) -> bool {
            self.left.iter().all(|left| *left == 0)
        }
    }

    #[test]
    fn actors_run_side_by_side_and_a_lock_makes_them_queue() {
        let mut steps = Steps { left: vec![10; 4], time: 100, lock: None };
        let end = Sim::new(4, 4).run(0, &mut steps);
        assert_eq!(end, 1000);
        let mut steps = Steps { left: vec![10; 4], time: 100, lock: Some(Lock::default()) };
        let end = Sim::new(4, 4).run(0, &mut steps);
        assert!(end >= 40 * 100, "{end}");
    }

    #[test]
    fn two_cores_do_the_work_of_two() {
        let time = price::MS;
        let mut steps = Steps { left: vec![20; 4], time, lock: None };
        let end = Sim::new(4, 2).run(0, &mut steps);
        assert!((38 * time..=41 * time).contains(&end), "{end}");
    }

    #[test]
    fn a_wake_up_of_somebody_awake_is_kept() {
        struct Pair(usize);
        impl Model for Pair {
            fn step(&mut self, who: usize, sim: &mut Sim) -> Then {
                self.0 += 1;
                if who == 0 && self.0 == 1 {
                    sim.wake(0, 5);
                    sim.spend(0, Spent::Work, 10);
                }
                Then::Sleep(None)
            }
            fn is_over(&self) -> bool {
                self.0 == 2
            }
        }
        assert_eq!(Sim::new(1, 1).run(0, &mut Pair(0)), 10);
    }
}
