//! Messages between rank 0 and the others: sent without waiting, received in order.

use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use crate::raw::{Code, Comm, Receiving, Sending};

/// What comes in.
#[derive(Debug)]
pub(crate) enum Event {
    /// A message from a rank.
    Message(usize, Vec<u8>),
    /// A rank cannot be reached any more; MPI's words for it.
    Lost(usize, String),
}

/// This rank's end of the connections of a pool. Only rank 0 is connected to more than one other.
pub(crate) struct Link {
    comm: Comm,
    pub(crate) rank: usize,
    pub(crate) size: usize,
    /// What MPI has not sent yet, with the rank it is for.
    sends: Vec<(usize, Sending)>,
    /// What has begun to arrive, in the order in which it was found.
    receives: VecDeque<Receiving>,
    /// Which ranks are gone.
    lost: Vec<bool>,
    /// Losses that nobody has been told of.
    news: VecDeque<(usize, String)>,
    /// A wildcard receive fails forever once some rank is gone; then each rank is asked by itself.
    one_by_one: bool,
    pub(crate) idle: Idle,
}

impl Link {
    pub(crate) fn new(comm: Comm) -> Self {
        let (rank, size) = (comm.rank(), comm.size());
        Link {
            comm,
            rank,
            size,
            sends: Vec::new(),
            receives: VecDeque::new(),
            lost: vec![false; size],
            news: VecDeque::new(),
            one_by_one: false,
            idle: Idle::default(),
        }
    }

    /// Whether this rank knows of any that is gone.
    pub(crate) fn has_losses(&self) -> bool {
        self.lost.contains(&true)
    }

    pub(crate) fn is_lost(&self, rank: usize) -> bool {
        self.lost[rank]
    }

    /// Begins to send `message`; nothing is sent to a rank that is gone.
    pub(crate) fn send(&mut self, to: usize, message: Rc<Vec<u8>>) {
        if self.lost[to] {
            return;
        }
        match self.comm.send(to, message) {
            Ok(sending) => self.sends.push((to, sending)),
            Err(code) => self.lose(to, code),
        }
    }

    /// The same to every other rank.
    pub(crate) fn send_to_all(&mut self, message: &Rc<Vec<u8>>) {
        for to in 0..self.size {
            if to != self.rank {
                self.send(to, Rc::clone(message));
            }
        }
    }

    /// What has come in next, if anything has. Also what makes sends get on.
    pub(crate) fn receive(&mut self) -> Option<Event> {
        self.get_on();
        self.look();
        let event = self.arrived().or_else(|| {
            let (rank, reason) = self.news.pop_front()?;
            Some(Event::Lost(rank, reason))
        });
        if event.is_some() {
            self.idle.reset();
        }
        event
    }

    /// Whether all that was to be sent was.
    pub(crate) fn is_flushed(&mut self) -> bool {
        self.get_on();
        self.sends.is_empty()
    }

    /// Lets MPI get on with what is being sent.
    fn get_on(&mut self) {
        let mut failed = None;
        self.sends.retain_mut(|(to, sending)| match sending.is_done() {
            Ok(done) => !done,
            Err(code) => {
                failed = Some((*to, code));
                false
            }
        });
        if let Some((to, code)) = failed {
            self.lose(to, code);
        }
    }

    /// Begins to receive what has arrived.
    fn look(&mut self) {
        if self.rank != 0 {
            self.look_at(Some(0));
        } else if !self.one_by_one && self.size > 1 {
            self.look_at(None);
        } else {
            for rank in 1..self.size {
                self.look_at(Some(rank));
            }
        }
    }

    fn look_at(&mut self, from: Option<usize>) {
        if from.is_some_and(|from| from == self.rank || self.lost[from]) {
            return;
        }
        loop {
            match (self.comm.receive(from), from) {
                (Ok(Some(receiving)), _) => self.receives.push_back(receiving),
                (Ok(None), _) => return,
                (Err(code), Some(from)) => return self.lose(from, code),
                (Err(_), None) => {
                    self.one_by_one = true;
                    return;
                }
            }
        }
    }

    /// The first message that is there, behind no other of the same rank: those of one rank come in the
    /// order in which they were sent, and a long one does not hold up the other ranks'.
    fn arrived(&mut self) -> Option<Event> {
        for place in 0..self.receives.len() {
            let from = self.receives[place].from;
            if self.receives.iter().take(place).any(|earlier| earlier.from == from) {
                continue;
            }
            match self.receives[place].take() {
                Ok(Some(message)) => {
                    self.receives.remove(place);
                    return Some(Event::Message(from, message));
                }
                Ok(None) => {}
                Err(code) => {
                    self.lose(from, code);
                    return None;
                }
            }
        }
        None
    }

    fn lose(&mut self, rank: usize, code: Code) {
        if !std::mem::replace(&mut self.lost[rank], true) {
            self.news.push_back((rank, code.text()));
        }
        self.sends.retain(|(to, _)| *to != rank);
        self.receives.retain(|receiving| receiving.from != rank);
    }

    /// Receives until a message comes, and naps meanwhile.
    pub(crate) fn wait(&mut self) -> Event {
        loop {
            if let Some(event) = self.receive() {
                return event;
            }
            self.idle.pause();
        }
    }

    /// Waits until all is sent.
    pub(crate) fn flush(&mut self) {
        while !self.is_flushed() {
            self.idle.pause();
        }
        self.idle.reset();
    }

    /// The same, but not for long: for a thread that has other things to do.
    pub(crate) fn flush_briefly(&mut self) {
        let begun = Instant::now();
        while !self.is_flushed() && begun.elapsed() < 2 * NAP {
            std::thread::yield_now();
        }
    }

    /// Sends what is left.
    pub(crate) fn close(&mut self, crippled: bool) {
        self.flush();
        if crippled {
            self.comm.leave();
        }
    }
}

/// How this thread passes the time while nothing comes.
#[derive(Debug, Default)]
pub(crate) struct Idle {
    /// When it began to wait.
    since: Option<Instant>,
}

/// For how long it looks again and again before it naps: what is on its way comes within this.
const ALERT: Duration = Duration::from_micros(50);

/// A nap: short beside a chunk, long beside what it costs to look.
pub(crate) const NAP: Duration = Duration::from_micros(200);

impl Idle {
    /// Something has come.
    pub(crate) fn reset(&mut self) {
        self.since = None;
    }

    /// Whether it is to look again at once.
    fn is_alert(&mut self) -> bool {
        self.since.get_or_insert_with(Instant::now).elapsed() < ALERT
    }

    pub(crate) fn pause(&mut self) {
        if self.is_alert() {
            std::thread::yield_now();
        } else {
            std::thread::sleep(NAP);
        }
    }

    /// The same, but wakes for what comes through `local`. While this rank's workers have enough to do,
    /// it naps at once: to look costs time of theirs.
    pub(crate) fn pause_for<T>(&mut self, local: &Receiver<T>, busy: bool) -> Option<T> {
        if !busy && self.is_alert() {
            std::thread::yield_now();
            return None;
        }
        match local.recv_timeout(NAP) {
            Ok(value) => {
                self.reset();
                Some(value)
            }
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => {
                self.pause();
                None
            }
        }
    }
}
