//! The results of a stream for async tasks.

use std::fmt;
use std::task::{Poll, Waker};

use super::{Imap, PORTION, Step};
use crate::error::Error;

/// An [`Imap`] for async tasks: a [`Stream`](futures_core::Stream). Made by [`Imap::into_stream`].
///
/// The results are the same, in the same order, with the same window, and it ends in the same way.
/// Polling does not wait for a worker. But the input is pulled in it, on the polling thread: an iterator
/// that blocks blocks the runtime.
///
/// The call's own [`timeout`](crate::Pool::timeout) has no timer behind it here: it is noticed when a chunk begins or
/// ends, and at each poll. Dropping the stream cancels what has not begun.
///
/// Polled on one of the pool's own workers it helps, as `next` does.
///
/// It is a type of its own because an iterator and a stream have methods of the same names: with both traits in
/// scope, `next` and `map` of a type that is both are ambiguous.
///
/// ```
/// use futures::StreamExt;
///
/// # futures::executor::block_on(async {
/// let pool = parpool::Pool::new(2)?;
/// let mut squares = pool.imap(|x: u64| x * x, 0..).into_stream();
/// assert_eq!(squares.next().await.unwrap()?, 0);
/// assert_eq!(squares.next().await.unwrap()?, 1);
/// # Ok::<(), parpool::Error>(())
/// # }).unwrap();
/// ```
#[must_use = "a stream does nothing until it is polled"]
pub struct ImapStream<'s, I: Iterator, R> {
    imap: Imap<'s, I, R>,
    /// Where `terminate` finds the waker of the last poll.
    ticket: Option<u64>,
}

impl<'s, I, R> Imap<'s, I, R>
where
    I: Iterator,
    I::Item: Send + 's,
    R: Send + 's,
{
    /// The results for async tasks, as a [`Stream`](futures_core::Stream). With the feature `futures`.
    ///
    /// ```
    /// use futures::TryStreamExt;
    ///
    /// # futures::executor::block_on(async {
    /// let pool = parpool::Pool::new(2)?;
    /// let lengths = pool.imap(str::len, ["one", "three"]).into_stream();
    /// assert_eq!(lengths.try_collect::<Vec<_>>().await?, [3, 5]);
    /// # Ok::<(), parpool::Error>(())
    /// # }).unwrap();
    /// ```
    #[cfg_attr(docsrs, doc(cfg(feature = "futures")))]
    pub fn into_stream(self) -> ImapStream<'s, I, R> {
        ImapStream { imap: self, ticket: None }
    }

    /// The next result, if it is there; else `waker` will be woken.
    fn poll_result(
        &mut self,
        ticket: &mut Option<u64>,
        waker: &Waker,
    ) -> Poll<Option<Result<R, Error>>> {
        self.top_up();
        loop {
            if let Some(result) = self.take() {
                return Poll::Ready(Some(result));
            }
            match self.step() {
                Step::End => return Poll::Ready(self.end.take().map(Err)),
                Step::Pull => {
                    self.refill(PORTION);
                    continue;
                }
                Step::Wait => {}
            }
            if self.help() {
                continue;
            }
            // What comes with something from here on finds the waker: the worker that puts the result
            // there, splits its chunk or skips it, and `terminate`. What came before is seen below.
            self.control.context.shared.wakers.add(ticket, waker);
            self.control.consumer_waker.set(waker);
            // One result is asked for, and no more at a time as a thread would ask: there is no timer to
            // look after what comes late.
            let urgent = self.starved;
            let told = self.is_answered(1, urgent) || self.control.context.stop_reason().is_some();
            if !told && !self.may_help() {
                self.starved = true;
                return Poll::Pending;
            }
        }
    }
}

impl<I: Iterator, R> ImapStream<'_, I, R> {
    fn leave(&mut self) {
        self.imap.control.context.shared.wakers.remove(&mut self.ticket);
    }
}

// The input is not pinned: it is moved when the stream is.
impl<I: Iterator, R> Unpin for ImapStream<'_, I, R> {}

#[cfg(feature = "futures")]
impl<'s, I, R> futures_core::Stream for ImapStream<'s, I, R>
where
    I: Iterator,
    I::Item: Send + 's,
    R: Send + 's,
{
    type Item = Result<R, Error>;

    fn poll_next(
        mut self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        let poll = this.imap.poll_result(&mut this.ticket, context.waker());
        if poll.is_ready() {
            this.leave();
        }
        poll
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.imap.size_hint()
    }
}

#[cfg(all(test, loom))]
impl<'s, I, R> ImapStream<'s, I, R>
where
    I: Iterator,
    I::Item: Send + 's,
    R: Send + 's,
{
    /// Polls until there is a result, and sleeps while there is none.
    pub(super) fn next_polled(&mut self) -> Option<Result<R, Error>> {
        let mut result = None;
        crate::scheduler::park::until(None, |waker| {
            match self.imap.poll_result(&mut self.ticket, waker) {
                Poll::Ready(next) => {
                    result = next;
                    true
                }
                Poll::Pending => false,
            }
        });
        self.leave();
        result
    }
}

impl<I: Iterator, R> Drop for ImapStream<'_, I, R> {
    fn drop(&mut self) {
        self.leave();
    }
}

impl<I: Iterator, R> fmt::Debug for ImapStream<'_, I, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ImapStream").field(&self.imap).finish()
    }
}
