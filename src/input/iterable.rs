//! What `map` can loop over.

use std::collections::{BTreeMap, BTreeSet, BinaryHeap, HashMap, HashSet, LinkedList, VecDeque};

use rayon::iter::{IndexedParallelIterator, IntoParallelIterator};

use crate::error::Error;
use crate::panic::{Panic, catch, discard};

/// Anything [`map`](crate::Pool::map) can loop over. `Marker` is inferred and keeps three families
/// of types apart; nobody has to name it.
///
/// | family | examples | how it is shared out |
/// |---|---|---|
/// | [`Collection`] | `Vec<T>`, `&Vec<T>`, `&[T]`, `&mut [T]`, `[T; N]`, `VecDeque<T>`, `&HashMap<K, V>` | split in place, no copies (maps, sets, heaps and lists: item by item) |
/// | [`Sequential`] | any `Iterator + Send`: `0..n`, `xs.iter().zip(&ys)`, `text.lines()` | pulled in blocks by the workers, one at a time in the iterator |
/// | [`Parallel`] | any `rayon` `IndexedParallelIterator`: `xs.par_iter().enumerate()` | split in place by the iterator itself |
///
/// A panic in the iterator itself is [`Error::Panicked`] at the place of
/// the item it was about to make. So is a parallel iterator that gives fewer or more items than it said, with a
/// message that says so, at the first item that is missing or too many in the part that was found out. What
/// a sequential iterator says of its length is a hint: one that is wrong changes nothing.
///
/// A parallel iterator is begun once for each block of items that a worker claims (about 20 µs of work, or a
/// set chunk; large blocks in four parts), and so often the state of a `map_init` is made.
///
/// ```
/// use parpool::Pool;
/// use rayon::prelude::*;
///
/// let pool = Pool::new(2)?;
/// let xs = vec![1, 2, 3];
/// assert_eq!(pool.map(|x| x * 2, &xs)?, [2, 4, 6]);
/// assert_eq!(pool.map(|(a, b)| a * b, xs.iter().zip(4..))?, [4, 10, 18]);
/// assert_eq!(pool.map(|(i, x)| i + x, xs.par_iter().map(|x| *x as usize).enumerate())?, [1, 3, 5]);
/// # Ok::<(), parpool::Error>(())
/// ```
///
/// What is none of these does not compile, and the message says what to do:
///
/// ```compile_fail
/// # let pool = parpool::Pool::new(2).unwrap();
/// pool.map(|x: i32| x, 5);
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` is nothing the pool can map over",
    label = "not a collection, not an `Iterator + Send`, not an indexed parallel iterator",
    note = "pass a collection, `collection.iter()`, a range, or collect into a `Vec` first; its items must be `Send`"
)]
pub trait Iterable<Marker>: Sized {
    /// What the closure is called with.
    type Item: Send;

    /// Hands `self` to the side of `visitor` that fits it.
    #[doc(hidden)]
    fn accept<'s, V: Visitor<'s, Self::Item>>(self, visitor: V) -> V::Output
    where
        Self: 's;
}

/// The two ways the map engine knows to share out an input, which lives for `'s`.
#[doc(hidden)]
pub trait Visitor<'s, T> {
    type Output;
    fn indexed<I: IndexedParallelIterator<Item = T> + 's>(self, items: I) -> Self::Output;
    fn sequential<I: Iterator<Item = T> + Send + 's>(self, items: I) -> Self::Output;
}

/// All of what `items` makes, or the panic of the one that could not be made.
pub(crate) fn gather<I: Iterator>(items: impl FnOnce() -> I) -> Result<Vec<I::Item>, Error> {
    let mut all = Vec::new();
    let looped = catch(|| {
        let mut items = items();
        items.by_ref().for_each(|item| all.push(item));
        items
    });
    match looped {
        Ok(items) => {
            discard(items);
            Ok(all)
        }
        Err(payload) => Err(Error::Panicked(Panic::new(payload, Some(all.len())))),
    }
}

/// Marks the collections of [`Iterable`].
#[derive(Debug)]
pub enum Collection {}

/// Marks the iterators of [`Iterable`].
#[derive(Debug)]
pub enum Sequential {}

/// Marks rayon's parallel iterators of [`Iterable`].
#[derive(Debug)]
pub enum Parallel {}

impl<I> Iterable<Sequential> for I
where
    I: Iterator + Send,
    I::Item: Send,
{
    type Item = I::Item;
    fn accept<'s, V: Visitor<'s, I::Item>>(self, visitor: V) -> V::Output
    where
        Self: 's,
    {
        visitor.sequential(self)
    }
}

impl<I: IndexedParallelIterator> Iterable<Parallel> for I {
    type Item = I::Item;
    fn accept<'s, V: Visitor<'s, I::Item>>(self, visitor: V) -> V::Output
    where
        Self: 's,
    {
        visitor.indexed(self)
    }
}

/// Collections that rayon can split at an index.
macro_rules! split {
    ($([$($generics:tt)*] $collection:ty => $item:ty;)*) => {$(
        impl<$($generics)*> Iterable<Collection> for $collection {
            type Item = $item;
            fn accept<'s, V: Visitor<'s, $item>>(self, visitor: V) -> V::Output
            where
                Self: 's,
            {
                visitor.indexed(self.into_par_iter())
            }
        }
    )*};
}

split! {
    [T: Send] Vec<T> => T;
    ['a, T: Sync] &'a Vec<T> => &'a T;
    ['a, T: Send] &'a mut Vec<T> => &'a mut T;
    ['a, T: Sync] &'a [T] => &'a T;
    ['a, T: Send] &'a mut [T] => &'a mut T;
    [T: Send] Box<[T]> => T;
    ['a, T: Sync] &'a Box<[T]> => &'a T;
    ['a, T: Send] &'a mut Box<[T]> => &'a mut T;
    [T: Send, const N: usize] [T; N] => T;
    ['a, T: Sync, const N: usize] &'a [T; N] => &'a T;
    ['a, T: Send, const N: usize] &'a mut [T; N] => &'a mut T;
    [T: Send] VecDeque<T> => T;
    ['a, T: Sync] &'a VecDeque<T> => &'a T;
    ['a, T: Send] &'a mut VecDeque<T> => &'a mut T;
}

/// Collections without an order by index: their own iterator is pulled, nothing is copied first.
macro_rules! pull {
    ($([$($generics:tt)*] $collection:ty => $item:ty;)*) => {$(
        impl<$($generics)*> Iterable<Collection> for $collection {
            type Item = $item;
            fn accept<'s, V: Visitor<'s, $item>>(self, visitor: V) -> V::Output
            where
                Self: 's,
            {
                visitor.sequential(self.into_iter())
            }
        }
    )*};
}

pull! {
    [K: Send, T: Send] BTreeMap<K, T> => (K, T);
    ['a, K: Sync, T: Sync] &'a BTreeMap<K, T> => (&'a K, &'a T);
    ['a, K: Send + Sync, T: Send] &'a mut BTreeMap<K, T> => (&'a K, &'a mut T);
    [K: Send, T: Send, S] HashMap<K, T, S> => (K, T);
    ['a, K: Sync, T: Sync, S] &'a HashMap<K, T, S> => (&'a K, &'a T);
    ['a, K: Send + Sync, T: Send, S] &'a mut HashMap<K, T, S> => (&'a K, &'a mut T);
    [T: Send] BTreeSet<T> => T;
    ['a, T: Sync] &'a BTreeSet<T> => &'a T;
    [T: Send, S] HashSet<T, S> => T;
    ['a, T: Sync, S] &'a HashSet<T, S> => &'a T;
    [T: Send] BinaryHeap<T> => T;
    ['a, T: Sync] &'a BinaryHeap<T> => &'a T;
    [T: Send] LinkedList<T> => T;
    ['a, T: Sync] &'a LinkedList<T> => &'a T;
    ['a, T: Send] &'a mut LinkedList<T> => &'a mut T;
    [T: Send] Option<T> => T;
}
