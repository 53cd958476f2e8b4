//! The results of many calls, in the order in which they come to be.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::fmt;
use std::future::Future;
use std::iter::FusedIterator;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use super::handle::TaskHandle;
use crate::error::Error;
use crate::scheduler::park;
use crate::sync::{Instant, Mutex, lock};

/// The results of `handles` as they come to be, each with the place of its handle.
///
/// It takes the handles as they are and waits for nothing; the waiting is done by the iterator.
/// Results that are there already come first, in the order of their handles. Dropping the iterator
/// drops the handles that are left, as dropping each of them would.
///
/// Cost: a small block of memory for each handle that is waited for; a result that comes costs its own
/// wake-up, however many are outstanding.
///
/// Python: `concurrent.futures.as_completed`, without the dictionary that one needs there to find out
/// which call it was.
///
/// ```
/// use parpool::{Pool, as_completed};
///
/// let pool = Pool::new(2)?;
/// let words = ["parallel", "map", "pool"];
/// let calls = words.map(|word| pool.apply_async(str::len, (word,)));
/// for (index, length) in as_completed(calls) {
///     println!("{} has {} letters", words[index], length?);
/// }
/// # Ok::<(), parpool::Error>(())
/// ```
pub fn as_completed<'s, I, T>(handles: I) -> AsCompleted<'s, T>
where
    I: IntoIterator<Item = TaskHandle<'s, T>>,
{
    let handles: Vec<_> = handles.into_iter().map(Some).collect();
    let timed = handles.iter().flatten().enumerate();
    let deadlines =
        timed.filter_map(|(place, handle)| Some(Reverse((handle.deadline()?, place)))).collect();
    AsCompleted { left: handles.len(), handles, looked: 0, deadlines, ready_list: Arc::default() }
}

/// What there is to hand out next, if anything.
type Next<T> = Option<(usize, Result<T, Error>)>;

/// The iterator of [`as_completed`]: the place of a handle, and its result.
///
/// On a worker of the pool it helps, as [`get`](TaskHandle::get) does.
#[must_use = "an iterator does nothing unless it is asked for its items"]
pub struct AsCompleted<'s, T> {
    /// By place; `None` once its result was handed out.
    handles: Vec<Option<TaskHandle<'s, T>>>,
    left: usize,
    /// Those before this place were looked at, and have a waker.
    looked: usize,
    /// When the calls' own times are up, and whose, the next on top.
    deadlines: BinaryHeap<Reverse<(Instant, usize)>>,
    ready_list: Arc<ReadyList>,
}

/// Whose results may be there.
#[derive(Default)]
struct ReadyList(Mutex<ReadyPlaces>);

#[derive(Default)]
struct ReadyPlaces {
    places: VecDeque<usize>,
    /// What waits for the next result.
    waiting: Option<Waker>,
}

/// The waker of one handle.
struct HandleWaker {
    place: usize,
    ready_list: Arc<ReadyList>,
}

impl Wake for HandleWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        let waiting = {
            let mut ready = lock(&self.ready_list.0);
            ready.places.push_back(self.place);
            ready.waiting.take()
        };
        if let Some(waiting) = waiting {
            waiting.wake();
        }
    }
}

impl<T> AsCompleted<'_, T> {
    /// The next result, if it is there within `timeout`; else an `Err`, which loses nothing: the next
    /// call goes on. `None` when there are no more.
    ///
    /// # Errors
    /// [`Timeout`](Error::Timeout).
    ///
    /// Python: the `timeout` of `as_completed`, which is for all of them together.
    ///
    /// ```
    /// use std::{sync::mpsc, time::Duration};
    /// use parpool::{Error, Pool, as_completed};
    ///
    /// let pool = Pool::new(1)?;
    /// let (send, receive) = mpsc::channel();
    /// let mut results = as_completed([pool.apply_async(move || receive.recv().unwrap(), ())]);
    /// let soon = Duration::from_millis(1);
    /// assert!(matches!(results.next_timeout(soon), Err(Error::Timeout)));
    /// send.send("late").unwrap();
    /// let (index, value) = results.next_timeout(Duration::from_secs(60))?.unwrap();
    /// assert_eq!((index, value?), (0, "late"));
    /// assert!(results.next().is_none());
    /// # Ok::<(), Error>(())
    /// ```
    pub fn next_timeout(&mut self, timeout: Duration) -> Result<Next<T>, Error> {
        match self.next_until(park::deadline(timeout)) {
            Poll::Ready(next) => Ok(next),
            Poll::Pending => Err(Error::Timeout),
        }
    }

    fn next_until(&mut self, deadline: Option<Instant>) -> Poll<Next<T>> {
        loop {
            while let Some(Reverse((_, place))) = self.deadlines.peek() {
                if self.handles[*place].is_some() {
                    break;
                }
                self.deadlines.pop();
            }
            let own = self.deadlines.peek().map(|Reverse((own, _))| *own);
            let mut next = Poll::Pending;
            // Woken by the wakers of the handles.
            let end = [deadline, own].into_iter().flatten().min();
            park::until(end, |waker| {
                next = self.poll(waker);
                next.is_ready()
            });
            if next.is_ready() || own.is_none_or(|own| Instant::now() < own) {
                return next;
            }
            // A call's own time wakes nobody. If it is pending all the same, another thread is just giving it
            // its outcome, and will wake this one.
            if let Some(Reverse((_, place))) = self.deadlines.pop() {
                if let Some(result) = self.look(place) {
                    return Poll::Ready(Some((place, result)));
                }
            }
        }
    }

    fn poll(&mut self, waker: &Waker) -> Poll<Next<T>> {
        let mut waker = Some(waker.clone());
        while self.left > 0 {
            let place = {
                let mut ready = lock(&self.ready_list.0);
                if let Some(place) = ready.places.pop_front() {
                    place
                } else if self.looked < self.handles.len() {
                    self.looked += 1;
                    self.looked - 1
                } else {
                    std::mem::swap(&mut ready.waiting, &mut waker);
                    return Poll::Pending;
                }
            };
            if let Some(result) = self.look(place) {
                return Poll::Ready(Some((place, result)));
            }
        }
        Poll::Ready(None)
    }

    /// The result of one handle, if it is there; else its waker is called when it is.
    fn look(&mut self, place: usize) -> Option<Result<T, Error>> {
        let handle = self.handles[place].as_mut()?;
        let waker =
            Waker::from(Arc::new(HandleWaker { place, ready_list: Arc::clone(&self.ready_list) }));
        match Pin::new(handle).poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(result) => {
                self.handles[place] = None;
                self.left -= 1;
                Some(result)
            }
            Poll::Pending => None,
        }
    }
}

impl<T> Iterator for AsCompleted<'_, T> {
    type Item = (usize, Result<T, Error>);

    fn next(&mut self) -> Option<Self::Item> {
        match self.next_until(None) {
            Poll::Ready(next) => next,
            Poll::Pending => unreachable!("it waits without a deadline"),
        }
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left, Some(self.left))
    }
}

impl<T> ExactSizeIterator for AsCompleted<'_, T> {}

impl<T> FusedIterator for AsCompleted<'_, T> {}

impl<T> fmt::Debug for AsCompleted<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AsCompleted").field("left", &self.left).finish_non_exhaustive()
    }
}
