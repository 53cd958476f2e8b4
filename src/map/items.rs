//! The items of a block: a part of a parallel iterator, or items that were taken out of the input.
//!
//! What a parallel iterator does when it is cut, begun and iterated over is the user's code. It may panic,
//! take its time, and give another number of items than it said.

use std::panic::resume_unwind;

use rayon::iter::plumbing::Producer;

use crate::panic::{Payload, catch};
use crate::sync::Instant;

/// The items of a block, taken from the front.
pub(crate) trait Items: Send + Sized {
    type Item: Send;
    /// Stays with the worker that has begun it.
    type Iter: Iterator<Item = Self::Item>;

    fn len(&self) -> usize;
    /// Begins to iterate over the next `count` items, at most as many as there are, or over more.
    ///
    /// # Panics
    /// If the input does.
    fn begin(&mut self, count: usize) -> Begun<Self>;
    /// The next `count` items, at most as many as are left.
    fn split_front(&mut self, count: usize) -> Self;
    /// All that are left, which are none afterwards.
    fn take_rest(&mut self) -> Self;
    /// Takes the next `count` items out of `iter`, or fewer if that takes until `deadline`.
    fn drain(iter: &mut Self::Iter, count: usize, deadline: Instant) -> Drained<Self::Item>;
}

/// Items that one worker iterates over.
pub(crate) struct Begun<I: Items> {
    /// Never `None`, but while it is moved to where it is faster.
    pub(crate) iter: Option<I::Iter>,
    /// How many items it has to give.
    pub(crate) left: usize,
}

impl<I: Items> Begun<I> {
    /// Whether it has an item that it ought not to have; to be asked when none is left.
    pub(crate) fn exceeds(&mut self) -> Result<bool, Payload> {
        catch(|| self.iter.as_mut().is_some_and(|iter| iter.next().is_some()))
    }

    /// Takes out all that are left, or those that can be had until `deadline`.
    pub(crate) fn drain(&mut self, deadline: Instant) -> Drained<I::Item> {
        let iter = self.iter.as_mut().expect("an iterator that nobody uses");
        let drained = I::drain(iter, self.left, deadline);
        self.left -= drained.items.len();
        drained
    }
}

/// An iterator that is moved here from its place for the time of a loop and back in the end, also by a
/// panic: one that others could reach is written to memory for each item, and a panicking item that takes
/// its iterator along could abort the process.
pub(crate) struct IterGuard<'s, I> {
    iter: Option<I>,
    place: &'s mut Option<I>,
}

impl<'s, I> IterGuard<'s, I> {
    #[inline]
    pub(crate) fn new(place: &'s mut Option<I>) -> Self {
        IterGuard { iter: place.take(), place }
    }

    #[inline]
    pub(crate) fn get(&mut self) -> Option<&mut I> {
        self.iter.as_mut()
    }
}

impl<I> Drop for IterGuard<'_, I> {
    #[inline]
    fn drop(&mut self) {
        *self.place = self.iter.take();
    }
}

/// Items that were taken out of an iterator, until it may have panicked.
pub(crate) struct Drained<T> {
    pub(crate) items: Batch<T>,
    pub(crate) end: Result<(), Payload>,
}

// ---- a part of a parallel iterator ---------------------------------------------------------------

/// A rayon producer with its length.
pub(crate) struct Indexed<P> {
    /// There while `len` is not 0. What it has thrown when it was cut is thrown again where it is begun.
    producer: Option<Result<P, Payload>>,
    len: usize,
}

impl<P: Producer> Indexed<P> {
    pub(crate) fn new(producer: P, len: usize) -> Self {
        Indexed { producer: Some(Ok(producer)), len }
    }

    /// Runs the user's code; no lock is held.
    pub(crate) fn split_at(self, mid: usize) -> (Self, Self) {
        let (front, back) = match self.producer {
            None => (None, None),
            Some(producer) => {
                match producer.and_then(|producer| catch(|| producer.split_at(mid))) {
                    Ok((front, back)) => (Some(Ok(front)), Some(Ok(back))),
                    Err(payload) => {
                        let front = Indexed { producer: Some(Err(payload)), len: mid };
                        // Nobody will want those behind it.
                        return (front, Indexed { producer: None, len: 0 });
                    }
                }
            }
        };
        (Indexed { producer: front, len: mid }, Indexed { producer: back, len: self.len - mid })
    }
}

/// How many items to take out of an iterator between two looks at the clock.
const DRAIN: usize = 16;

impl<P: Producer> Items for Indexed<P>
where
    P::Item: Send,
{
    type Item = P::Item;
    type Iter = P::IntoIter;

    fn len(&self) -> usize {
        self.len
    }

    fn begin(&mut self, count: usize) -> Begun<Self> {
        let front = self.split_front(count);
        match front.producer.expect("no more items are begun than there are") {
            Ok(producer) => Begun { iter: Some(producer.into_iter()), left: front.len },
            Err(payload) => resume_unwind(payload),
        }
    }

    fn split_front(&mut self, count: usize) -> Self {
        let mut front = self.take_rest();
        if count < front.len {
            (front, *self) = front.split_at(count);
        }
        front
    }

    fn take_rest(&mut self) -> Self {
        std::mem::replace(self, Indexed { producer: None, len: 0 })
    }

    fn drain(iter: &mut P::IntoIter, count: usize, deadline: Instant) -> Drained<P::Item> {
        let mut items = Vec::new();
        let end = catch(|| {
            while items.len() < count {
                let before = items.len();
                items.extend(iter.by_ref().take(DRAIN.min(count - before)));
                // One that ends too early is found out where somebody asks for the next item.
                if items.len() == before || Instant::now() >= deadline {
                    break;
                }
            }
        });
        Drained { items: items.into(), end }
    }
}

// ---- items that were taken out -------------------------------------------------------------------

/// Items that were made before they are needed.
pub(crate) struct Batch<T>(std::vec::IntoIter<T>);

impl<T> Batch<T> {
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }
}

impl<T> From<Vec<T>> for Batch<T> {
    fn from(items: Vec<T>) -> Self {
        Batch(items.into_iter())
    }
}

impl<T: Send> Items for Batch<T> {
    type Item = T;
    type Iter = std::vec::IntoIter<T>;

    fn len(&self) -> usize {
        self.0.len()
    }

    fn begin(&mut self, _: usize) -> Begun<Self> {
        let Batch(iter) = self.take_rest();
        Begun { left: iter.len(), iter: Some(iter) }
    }

    fn split_front(&mut self, count: usize) -> Self {
        match count < self.0.len() {
            true => self.0.by_ref().take(count).collect::<Vec<T>>().into(),
            false => self.take_rest(),
        }
    }

    fn take_rest(&mut self) -> Self {
        Batch(std::mem::take(&mut self.0))
    }

    fn drain(iter: &mut Self::Iter, _: usize, _: Instant) -> Drained<T> {
        Drained { items: Batch(std::mem::take(iter)), end: Ok(()) }
    }
}
