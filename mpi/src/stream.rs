//! A stream over the ranks, as rank 0 consumes it and the others serve it.

use std::fmt;
use std::iter::FusedIterator;

use crate::error::MpiError;
use crate::root::Root;
use crate::task::Output;
use crate::wire::Portable;

/// The results of [`imap`](crate::MpiPool::imap) or
/// [`imap_unordered`](crate::MpiPool::imap_unordered), as they come, on rank 0. On the other ranks
/// it has no items; its first `next` serves until rank 0's is over.
///
/// Each item of the input gives one `Result`; an error of its own is an item's, and iteration goes on. The
/// stream ends with `None`, forever. Before that, if it could not go on, comes one error that says why, on
/// every rank: so a `?` in the loop keeps the ranks in step when the call as a whole fails. (An error of
/// one item is seen by rank 0 alone; to leave all ranks for it, tell the others, by
/// [`map_all`](crate::MpiPool::map_all) for instance.)
///
/// Dropping it on rank 0 cancels what has not begun and waits for what runs; on another rank it serves, if
/// it has not yet. While there is a stream, the pool makes no other calls:
/// [`Busy`](MpiError::Busy).
///
/// Python: `IMapIterator`.
///
/// ```
/// let pool = parpool_mpi::MpiPool::init()?;
/// let mut squares = pool.imap(|x: u64| x * x, 0..);
/// let first = squares.next().transpose()?;
/// assert_eq!(first, pool.is_root().then_some(0));
/// # Ok::<(), parpool_mpi::MpiError>(())
/// ```
#[must_use = "a stream does nothing until `next`"]
pub struct MpiImap<'p, I: Iterator<Item: Portable>, R: Portable> {
    state: State<'p, I, R>,
}

/// What a rank serves with, once.
type Serving<'p> = dyn FnOnce() -> Result<(), MpiError> + 'p;

enum State<'p, I: Iterator, R> {
    Root(Box<Handing<'p, I, R>>),
    Serving(Box<Serving<'p>>),
    /// Refused, with the error that is still to be said.
    Refused(MpiError),
    Over,
}

/// Rank 0's side.
struct Handing<'p, I: Iterator, R> {
    root: Root<'p, 'p, I, R>,
    ordered: bool,
    /// The chunk whose results are being handed out.
    current: Option<Chunk<R>>,
    /// The index of the item after it.
    next: usize,
}

impl<'p, I, R> MpiImap<'p, I, R>
where
    I: Iterator<Item: Portable>,
    R: Portable,
{
    pub(crate) fn refused(error: MpiError) -> Self {
        MpiImap { state: State::Refused(error) }
    }

    pub(crate) fn serving(serve: Box<Serving<'p>>) -> Self {
        MpiImap { state: State::Serving(serve) }
    }

    pub(crate) fn handing_out(root: Root<'p, 'p, I, R>, ordered: bool) -> Self {
        MpiImap { state: State::Root(Box::new(Handing { root, ordered, current: None, next: 0 })) }
    }
}

impl<I, R> Handing<'_, I, R>
where
    I: Iterator<Item: Portable>,
    R: Portable,
{
    /// The next result; `None` if there are no more.
    fn next(&mut self) -> Option<Result<R, MpiError>> {
        loop {
            let ready = self.is_ready();
            let moved = self.root.step(!ready);
            if let Some(result) = self.take() {
                self.root.out.close(1);
                return Some(result);
            }
            if self.root.is_over() && !self.is_ready() {
                return None;
            }
            if !moved {
                self.root.pause();
            }
        }
    }

    /// Where the chunk lies that can be begun.
    fn place(&self) -> Option<usize> {
        let (ordered, next) = (self.ordered, self.next);
        self.root.ready.iter().position(|(first, _)| !ordered || *first == next)
    }

    /// Whether a result can be handed out.
    fn is_ready(&self) -> bool {
        self.current.is_some() || self.place().is_some()
    }

    fn take(&mut self) -> Option<Result<R, MpiError>> {
        if self.current.is_none() {
            let (first, output) = self.root.ready.remove(self.place()?)?;
            self.next = first + output.len();
            self.current = Some(Chunk::new(first, output));
        }
        let chunk = self.current.as_mut()?;
        let result = chunk.next();
        if chunk.is_empty() {
            self.current = None;
        }
        result
    }

    /// Ends the call on all ranks.
    fn end(&mut self) -> Result<(), MpiError> {
        if !self.root.is_over() {
            self.root.stop(0);
            self.root.run();
        }
        self.root.finish(None)
    }
}

/// The results of a chunk, one after the other.
struct Chunk<R> {
    at: usize,
    first: usize,
    values: std::vec::IntoIter<R>,
    panics: std::iter::Peekable<std::vec::IntoIter<(usize, String)>>,
    rank: usize,
}

impl<R> Chunk<R> {
    fn new(first: usize, output: Output<R>) -> Self {
        let (values, panics) = (output.values.into_iter(), output.panics.into_iter().peekable());
        Chunk { at: 0, first, values, panics, rank: output.rank }
    }

    fn next(&mut self) -> Option<Result<R, MpiError>> {
        let at = self.at;
        self.at += 1;
        if let Some((_, message)) = self.panics.next_if(|(place, _)| *place == at) {
            return Some(Err(MpiError::Panicked {
                index: self.first + at,
                rank: self.rank,
                message,
            }));
        }
        self.values.next().map(Ok)
    }

    fn is_empty(&self) -> bool {
        self.values.len() == 0 && self.panics.len() == 0
    }
}

impl<I, R> Iterator for MpiImap<'_, I, R>
where
    I: Iterator<Item: Portable>,
    R: Portable,
{
    type Item = Result<R, MpiError>;

    fn next(&mut self) -> Option<Result<R, MpiError>> {
        if let State::Root(handing) = &mut self.state {
            if let Some(result) = handing.next() {
                return Some(result);
            }
        }
        let ended = match std::mem::replace(&mut self.state, State::Over) {
            State::Root(mut handing) => handing.end(),
            State::Serving(serve) => serve(),
            State::Refused(error) => Err(error),
            State::Over => Ok(()),
        };
        ended.err().map(Err)
    }
}

impl<I, R> FusedIterator for MpiImap<'_, I, R>
where
    I: Iterator<Item: Portable>,
    R: Portable,
{
}

impl<I, R> Drop for MpiImap<'_, I, R>
where
    I: Iterator<Item: Portable>,
    R: Portable,
{
    fn drop(&mut self) {
        if std::thread::panicking() {
            // The job ends when the pool is dropped.
            return;
        }
        // There is nobody to tell; a rank that is out of step hears it from its next call.
        let _untold = match std::mem::replace(&mut self.state, State::Over) {
            State::Root(mut handing) => handing.end(),
            State::Serving(serve) => serve(),
            State::Refused(_) | State::Over => Ok(()),
        };
    }
}

impl<I, R> fmt::Debug for MpiImap<'_, I, R>
where
    I: Iterator<Item: Portable>,
    R: Portable,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MpiImap").finish_non_exhaustive()
    }
}
