//! What a pool is on each rank while it lives: the connections, and which call comes next.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::panic::Location;
use std::rc::Rc;

use crate::error::MpiError;
use crate::link::{Event, Link};
use crate::wire::{Header, Kind};

/// The part of a pool that a call has to itself.
pub(crate) struct Core {
    pub(crate) link: Link,
    /// How many workers each rank computes with, those that are gone too.
    pub(crate) workers: Vec<usize>,
    /// This rank computes on the thread that sends and receives.
    pub(crate) inline: bool,
    /// How many calls there were.
    calls: u64,
    /// How the ranks got out of step.
    diverged: Option<String>,
    /// Which ranks have dropped the pool.
    pub(crate) left: Vec<bool>,
    /// Rank 0 has said that a rank was lost.
    crippled: bool,
}

/// A call as it stands in the program: ranks that are in different ones are out of step.
#[derive(Clone, Copy)]
pub(crate) struct Call {
    verb: &'static str,
    place: &'static Location<'static>,
    what: u64,
    /// Which of the registered closures, where there are such.
    task: u64,
}

impl Call {
    /// The call of `verb` at `place`, with a closure, items and results of the types `F`.
    pub(crate) fn new<F>(verb: &'static str, place: &'static Location<'static>) -> Self {
        // Type names and not ids: a closure that borrows has no id. All ranks run the same program.
        let mut what = DefaultHasher::new();
        (verb, std::any::type_name::<F>()).hash(&mut what);
        (place.file(), place.line(), place.column()).hash(&mut what);
        Call { verb, place, what: what.finish(), task: 0 }
    }

    /// The call of `verb` at `place`, with closure number `task` of those that were registered.
    pub(crate) fn of_task(
        verb: &'static str,
        place: &'static Location<'static>,
        what: u64,
        task: u64,
    ) -> Self {
        Call { verb, place, what, task }
    }

    pub(crate) fn what(&self) -> u64 {
        self.what
    }

    pub(crate) fn text(&self) -> String {
        format!("`{}` at {}", self.verb, self.place)
    }
}

impl Core {
    pub(crate) fn new(link: Link, workers: Vec<usize>, inline: bool) -> Self {
        let left = vec![false; link.size];
        Core { link, workers, inline, calls: 0, diverged: None, left, crippled: false }
    }

    /// What the messages of the next call begin with.
    pub(crate) fn begin(&mut self, call: &Call) -> Result<Header, MpiError> {
        if let Some(how) = &self.diverged {
            return Err(MpiError::Diverged(how.clone()));
        }
        if self.link.is_lost(0) {
            return Err(MpiError::RankLost { rank: 0, reason: "it was lost before".to_owned() });
        }
        self.calls += 1;
        Ok(Header { call: self.calls, what: call.what, task: call.task, ..Header::of(Kind::Chunk) })
    }

    /// Remembers an error that no later call can be made after.
    pub(crate) fn remember(&mut self, error: &MpiError) {
        if let MpiError::Diverged(how) = error {
            self.diverged.get_or_insert_with(|| how.clone());
        }
    }

    /// Says goodbye and waits until the others have: the end of a pool is in step too.
    ///
    /// So nothing is under way when MPI is shut down, and a rank that still waits for a call of this one
    /// hears that none will come.
    pub(crate) fn leave(&mut self) {
        let rank = self.link.rank;
        let lost = u64::from(self.link.has_losses());
        let bye = Rc::new(Header { count: lost, ..Header::of(Kind::Bye) }.message(&[]));
        if rank == 0 {
            self.link.send_to_all(&bye);
        } else {
            self.link.send(0, bye);
        }
        while self.is_awaited() {
            if let Event::Message(from, message) = self.link.wait() {
                if let Ok((header @ Header { kind: Kind::Bye, .. }, _)) = Header::read(&message) {
                    self.goodbye(from, header);
                }
            }
        }
        self.link.close(self.is_crippled());
    }

    /// Rank `from` has said goodbye; rank 0 says whether any is lost, for it alone knows.
    pub(crate) fn goodbye(&mut self, from: usize, header: Header) {
        self.left[from] = true;
        self.crippled |= header.count > 0;
    }

    /// Whether a rank was lost, as far as this one knows: MPI cannot be shut down in order any more.
    pub(crate) fn is_crippled(&self) -> bool {
        self.crippled || self.link.has_losses()
    }

    /// Whether a rank has yet to say goodbye.
    fn is_awaited(&self) -> bool {
        let here = |rank: &usize| !self.left[*rank] && !self.link.is_lost(*rank);
        let link = &self.link;
        if link.rank == 0 { (1..link.size).any(|rank| here(&rank)) } else { here(&0) }
    }
}
