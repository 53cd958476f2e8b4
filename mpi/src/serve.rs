//! The side of a call that works: on every rank but 0.

use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::Receiver;

use crate::core::Core;
use crate::error::MpiError;
use crate::link::Event;
use crate::wire::{Header, Kind};

/// One call, as far as a rank serves it.
pub(crate) struct Serve<'c> {
    pub(crate) core: &'c mut Core,
    /// Whether a message belongs to the call that this rank is in.
    pub(crate) is_mine: &'c dyn Fn(&Header) -> bool,
    /// What this rank is doing, for those that do something else.
    pub(crate) text: &'c dyn Fn() -> String,
    /// Has a worker answer the message that a chunk came in.
    pub(crate) spawn: &'c dyn Fn(Vec<u8>),
    /// Where the answers come.
    pub(crate) answers: &'c Receiver<Vec<u8>>,
    /// Chunks that begin here or above need not be done.
    pub(crate) limit: &'c AtomicUsize,
    /// Takes some of the results of all ranks.
    pub(crate) part: &'c mut Part<'c>,
}

/// Takes the message with the values of some items.
pub(crate) type Part<'c> = dyn FnMut(Header, &[u8]) -> Result<(), MpiError> + 'c;

/// How serving ended.
pub(crate) enum Served {
    /// The call is over.
    Call,
    /// Rank 0 has dropped the pool.
    Bye,
}

impl Serve<'_> {
    /// Answers until the call is over; its error is that of all ranks.
    pub(crate) fn run(mut self) -> Result<Served, MpiError> {
        let served = self.serve();
        if let Err(error) = &served {
            self.core.remember(error);
        }
        served
    }

    fn serve(&mut self) -> Result<Served, MpiError> {
        let mut backlog = VecDeque::new();
        // How many chunks the workers have.
        let mut running = 0;
        // What a part could not be read for; said at the end of the call, to keep in step until then.
        let mut unread = None;
        loop {
            let mut moved = false;
            while let Some(event) = self.core.link.receive() {
                moved = true;
                let message = match event {
                    Event::Message(_, message) => message,
                    Event::Lost(rank, reason) => return Err(MpiError::RankLost { rank, reason }),
                };
                let (header, body) = Header::read(&message)?;
                match header.kind {
                    Kind::Bye => {
                        self.core.goodbye(0, header);
                        return Ok(Served::Bye);
                    }
                    Kind::Stop if (self.is_mine)(&header) => {
                        // ORDERING: a hint, see `Work::run`.
                        self.limit.store(header.first as usize, Ordering::Relaxed);
                    }
                    Kind::Part if (self.is_mine)(&header) => {
                        if let Err(error) = (self.part)(header, body) {
                            unread.get_or_insert(error);
                        }
                    }
                    Kind::Chunk if (self.is_mine)(&header) => backlog.push_back(message),
                    Kind::End if (self.is_mine)(&header) => {
                        return match (body.is_empty(), unread) {
                            (true, None) => Ok(Served::Call),
                            (true, Some(error)) => Err(error),
                            (false, _) => Err(MpiError::from_bytes(body)),
                        };
                    }
                    kind => return Err(self.diverge(kind == Kind::End)),
                }
            }
            while let Ok(answer) = self.answers.try_recv() {
                moved = true;
                running -= 1;
                self.core.link.send(0, Rc::new(answer));
            }
            // On this thread one after the other, with a look at what has come in between.
            while let Some(message) = backlog.pop_front() {
                moved = true;
                running += 1;
                (self.spawn)(message);
                if self.core.inline {
                    break;
                }
            }
            if moved {
                continue;
            }
            let busy = running >= self.core.workers[self.core.link.rank];
            if let Some(answer) = self.core.link.idle.pause_for(self.answers, busy) {
                running -= 1;
                self.core.link.send(0, Rc::new(answer));
            }
        }
    }

    /// Tells rank 0 that this rank is elsewhere and waits for its last word, if there is one to come.
    fn diverge(&mut self, ended: bool) -> MpiError {
        let here = format!("rank {} is in {}", self.core.link.rank, (self.text)());
        let message = Header::of(Kind::Diverged).message(here.as_bytes());
        self.core.link.send(0, Rc::new(message));
        let elsewhere = MpiError::Diverged(format!("{here}, while rank 0 is in another call"));
        if ended {
            return elsewhere;
        }
        loop {
            let Event::Message(_, message) = self.core.link.wait() else { return elsewhere };
            match Header::read(&message) {
                Ok((Header { kind: Kind::End, .. }, body)) if !body.is_empty() => {
                    return MpiError::from_bytes(body);
                }
                Ok((header @ Header { kind: Kind::Bye, .. }, _)) => {
                    self.core.goodbye(0, header);
                    return elsewhere;
                }
                _ => {}
            }
        }
    }
}
