//! Random numbers that do not depend on who draws them: a seed for each item.

use std::fmt;
use std::iter::Sum;
#[cfg(test)]
use std::ops::Range;

use rayon::iter::IndexedParallelIterator;

use crate::error::{Error, TryError};
use crate::input::{Iterable, Visitor};
use crate::pool::{Options, Pool};
use crate::stream::Imap;
use crate::task::AsyncResult;

/// What one item's random numbers begin with: made of the call's seed and the item's index, so that it
/// is the same on any number of workers and in every run.
///
/// The closures of [`Pool::seed`](crate::Pool::seed)'s verbs get one with each item. [`Seed::new`] makes one where there are no
/// items.
///
/// ```
/// use parpool::{Pool, Seed};
///
/// let pool = Pool::new(2)?;
/// let numbers = pool.seed(42).map(|seed: Seed, _| seed.number(), 0..3)?;
/// assert_eq!(numbers[1], Seed::new(42, 1).number());
/// assert_eq!(Pool::new(1)?.seed(42).map(|seed, _| seed.number(), 0..3)?, numbers);
/// # Ok::<(), parpool::Error>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Seed {
    seed: u64,
    index: u64,
}

impl Seed {
    /// The seed of item `index` in a call with the seed `seed`.
    ///
    /// ```
    /// use parpool::Seed;
    ///
    /// assert_ne!(Seed::new(1, 0).number(), Seed::new(0, 1).number());
    /// ```
    pub const fn new(seed: u64, index: u64) -> Self {
        Seed { seed, index }
    }

    /// A number for a generator that is seeded with one. No two items of a call have the same.
    ///
    /// ```
    /// use std::collections::HashSet;
    /// use parpool::Seed;
    ///
    /// let numbers: HashSet<u64> = (0..1000).map(|index| Seed::new(7, index).number()).collect();
    /// assert_eq!(numbers.len(), 1000);
    /// ```
    pub const fn number(self) -> u64 {
        // The stream of a SplitMix64: for each seed a permutation of the indices.
        mix(mix(self.seed).wrapping_add(self.index.wrapping_add(1).wrapping_mul(STEP)))
    }

    /// Bytes for a generator that is seeded with some.
    ///
    /// ```
    /// let bytes: [u8; 32] = parpool::Seed::new(7, 0).bytes();
    /// assert_ne!(bytes, parpool::Seed::new(7, 1).bytes());
    /// ```
    pub fn bytes<const N: usize>(self) -> [u8; N] {
        let mut bytes = [0; N];
        self.fill(&mut bytes);
        bytes
    }

    /// A generator, any that implements [`rand_core::SeedableRng`] (feature `rand`).
    ///
    /// ```
    /// use rand::{RngExt, rngs::ChaCha8Rng};
    ///
    /// let mut rng: ChaCha8Rng = parpool::Seed::new(7, 0).rng();
    /// let x: f64 = rng.random();
    /// assert!((0.0..1.0).contains(&x));
    /// ```
    #[cfg(feature = "rand")]
    #[cfg_attr(docsrs, doc(cfg(feature = "rand")))]
    pub fn rng<G: rand_core::SeedableRng>(self) -> G {
        let mut seed = G::Seed::default();
        self.fill(seed.as_mut());
        G::from_seed(seed)
    }

    fn fill(self, bytes: &mut [u8]) {
        // The call's seed goes in by a second way, so that two calls have no stream in common where a
        // number of theirs is.
        let mut state = self.number() ^ mix(!self.seed);
        for chunk in bytes.chunks_mut(8) {
            state = state.wrapping_add(STEP);
            chunk.copy_from_slice(&mix(state).to_le_bytes()[..chunk.len()]);
        }
    }
}

impl fmt::Debug for Seed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Seed").field("seed", &self.seed).field("index", &self.index).finish()
    }
}

/// 2⁶⁴ divided by the golden ratio, made odd: the step of SplitMix64.
const STEP: u64 = 0x9e37_79b9_7f4a_7c15;

/// The finalizer of SplitMix64 (Steele, Lea and Flood 2014, with Stafford's constants): a permutation in
/// which each bit of the input changes half of those of the output.
const fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Random inputs of a test: those of its case, the same in every run.
#[cfg(test)]
pub(crate) struct Draws {
    case: u64,
    drawn: u64,
}

#[cfg(test)]
impl Draws {
    /// Runs `test` on the draws of 256 cases, or of 8 under Miri.
    pub(crate) fn each_case(mut test: impl FnMut(&mut Draws)) {
        for case in 0..if cfg!(miri) { 8 } else { 256 } {
            test(&mut Draws { case, drawn: 0 });
        }
    }

    /// A number in a range.
    pub(crate) fn within(&mut self, range: Range<usize>) -> usize {
        self.drawn += 1;
        let number = Seed::new(self.case, self.drawn).number();
        range.start + (number % range.len() as u64) as usize
    }

    /// So many numbers in `range`: how many is in `len`.
    pub(crate) fn list(&mut self, range: Range<usize>, len: Range<usize>) -> Vec<usize> {
        (0..self.within(len)).map(|_| self.within(range.clone())).collect()
    }

    /// A number in a range; none in one case of four.
    pub(crate) fn maybe(&mut self, range: Range<usize>) -> Option<usize> {
        (self.within(0..4) > 0).then(|| self.within(range))
    }
}

/// A pool whose verbs hand a [`Seed`] to the closure with each item. Made by [`Pool::seed`](crate::Pool::seed).
///
/// ```
/// let pool = parpool::Pool::new(2)?;
/// let seeded = pool.chunksize(10).seed(1);
/// let heads = seeded.sum(|seed, _| seed.number() % 2, 0..1000)?;
/// assert_eq!(heads, seeded.sum(|seed, _| seed.number() % 2, 0..1000)?);
/// # Ok::<(), parpool::Error>(())
/// ```
#[derive(Clone, Copy, Debug)]
#[must_use = "a seed does nothing without a call"]
pub struct Seeded<'p> {
    options: Options<'p>,
    seed: u64,
}

impl<'p> Seeded<'p> {
    pub(crate) fn new(options: Options<'p>, seed: u64) -> Self {
        Seeded { options, seed }
    }

    /// [`Pool::map`](crate::Pool::map) with a seed for each item.
    ///
    /// # Errors
    /// As there, also in what a panic of `f` does.
    ///
    /// ```
    /// let pool = parpool::Pool::new(2)?;
    /// let noisy = pool.seed(1).map(|seed, x| x + seed.number() as f64 / u64::MAX as f64, [1.0, 2.0])?;
    /// assert!(noisy[0] < 2.0 && noisy[1] >= 2.0);
    /// # Ok::<(), parpool::Error>(())
    /// ```
    pub fn map<M, I, F, R>(&self, f: F, items: I) -> Result<Vec<R>, Error>
    where
        I: Iterable<M>,
        F: Fn(Seed, I::Item) -> R + Sync,
        R: Send,
    {
        self.options.map(seeded(self.seed, f), Numbered(items))
    }

    /// [`Pool::map_into`](crate::Pool::map_into) with a seed for each item.
    ///
    /// # Errors
    /// As there, also in what a panic of `f` does.
    ///
    /// ```
    /// let pool = parpool::Pool::new(2)?;
    /// let mut numbers = vec![0; 3];
    /// pool.seed(1).map_into(|seed, _| seed.number(), 0..10, &mut numbers)?;
    /// assert_eq!(numbers[9], parpool::Seed::new(1, 9).number());
    /// # Ok::<(), parpool::Error>(())
    /// ```
    pub fn map_into<M, I, F, R>(&self, f: F, items: I, out: &mut Vec<R>) -> Result<(), Error>
    where
        I: Iterable<M>,
        F: Fn(Seed, I::Item) -> R + Sync,
        R: Send,
    {
        self.options.map_into(seeded(self.seed, f), Numbered(items), out)
    }

    /// [`Pool::try_map`](crate::Pool::try_map) with a seed for each item.
    ///
    /// # Errors
    /// As there, also in what a panic of `f` does.
    ///
    /// ```
    /// let pool = parpool::Pool::new(2)?;
    /// let odd = |seed: parpool::Seed, _| if seed.number() % 2 == 1 { Ok(()) } else { Err("even") };
    /// assert!(pool.seed(1).try_map(odd, 0..100).is_err());
    /// # Ok::<(), parpool::Error>(())
    /// ```
    pub fn try_map<M, I, F, R, E>(&self, f: F, items: I) -> Result<Vec<R>, TryError<E>>
    where
        I: Iterable<M>,
        F: Fn(Seed, I::Item) -> Result<R, E> + Sync,
        R: Send,
        E: Send,
    {
        self.options.try_map(seeded(self.seed, f), Numbered(items))
    }

    /// [`Pool::reduce`](crate::Pool::reduce) with a seed for each item.
    ///
    /// # Errors
    /// As there, also in what a panic does.
    ///
    /// ```
    /// let pool = parpool::Pool::new(2)?;
    /// let largest = pool.seed(1).reduce(|seed, _| seed.number(), u64::max, 0..100)?;
    /// assert!(largest.unwrap() > u64::MAX / 2);
    /// # Ok::<(), parpool::Error>(())
    /// ```
    pub fn reduce<M, I, F, G, R>(&self, f: F, op: G, items: I) -> Result<Option<R>, Error>
    where
        I: Iterable<M>,
        F: Fn(Seed, I::Item) -> R + Sync,
        G: Fn(R, R) -> R + Sync,
        R: Send,
    {
        self.options.reduce(seeded(self.seed, f), op, Numbered(items))
    }

    /// [`Pool::sum`](crate::Pool::sum) with a seed for each item: a Monte Carlo run with the same digits on any number of
    /// workers.
    ///
    /// # Errors
    /// As there, also in what a panic does.
    ///
    /// ```
    /// let pool = parpool::Pool::new(2)?;
    /// let mean = pool.seed(1).sum(|seed, _| seed.number() as f64 / u64::MAX as f64, 0..10_000)? / 1e4;
    /// assert!((mean - 0.5).abs() < 0.01);
    /// # Ok::<(), parpool::Error>(())
    /// ```
    pub fn sum<M, I, F, R>(&self, f: F, items: I) -> Result<R, Error>
    where
        I: Iterable<M>,
        F: Fn(Seed, I::Item) -> R + Sync,
        R: Sum<R> + Send,
    {
        self.options.sum(seeded(self.seed, f), Numbered(items))
    }

    /// [`Pool::map_async`](crate::Pool::map_async) with a seed for each item. A panic of `f` is the handle's.
    ///
    /// ```
    /// let pool = parpool::Pool::new(2)?;
    /// let numbers = pool.seed(1).map_async(|seed, _| seed.number(), 0..10).get()?;
    /// assert_eq!(numbers[9], parpool::Seed::new(1, 9).number());
    /// # Ok::<(), parpool::Error>(())
    /// ```
    pub fn map_async<M, I, F, R>(&self, f: F, items: I) -> AsyncResult<Vec<R>>
    where
        I: Iterable<M> + Send + 'static,
        I::Item: 'static,
        F: Fn(Seed, I::Item) -> R + Send + Sync + 'static,
        R: Send + 'static,
    {
        self.options.map_async(seeded(self.seed, f), Numbered(items))
    }

    /// [`Pool::imap`](crate::Pool::imap) with a seed for each item. A panic of `f` is its item's.
    ///
    /// ```
    /// let pool = parpool::Pool::new(2)?;
    /// let mut stream = pool.seed(1).imap(|seed, _| seed.number(), 0..);
    /// assert_eq!(stream.next().unwrap()?, parpool::Seed::new(1, 0).number());
    /// # Ok::<(), parpool::Error>(())
    /// ```
    pub fn imap<I, F, R>(
        &self,
        f: F,
        items: I,
    ) -> Imap<'static, impl Iterator<Item = (usize, I::Item)> + use<I, F, R>, R>
    where
        I: IntoIterator<Item: Send + 'static>,
        F: Fn(Seed, I::Item) -> R + Send + Sync + 'static,
        R: Send + 'static,
    {
        self.options.imap(seeded(self.seed, f), items.into_iter().enumerate())
    }

    /// [`Pool::imap_unordered`](crate::Pool::imap_unordered) with a seed for each item. A panic of `f` is its item's.
    ///
    /// ```
    /// let pool = parpool::Pool::new(2)?;
    /// assert_eq!(pool.seed(1).imap_unordered(|seed, _| seed.number(), 0..9).count(), 9);
    /// # Ok::<(), parpool::Error>(())
    /// ```
    pub fn imap_unordered<I, F, R>(
        &self,
        f: F,
        items: I,
    ) -> Imap<'static, impl Iterator<Item = (usize, I::Item)> + use<I, F, R>, R>
    where
        I: IntoIterator<Item: Send + 'static>,
        F: Fn(Seed, I::Item) -> R + Send + Sync + 'static,
        R: Send + 'static,
    {
        self.options.imap_unordered(seeded(self.seed, f), items.into_iter().enumerate())
    }
}

impl Pool {
    /// The pool with a seed for the next calls: their closures get a [`Seed`] with each item, made of
    /// this seed and the item's index. So random numbers do not depend on which worker draws them, nor
    /// on how many there are.
    ///
    /// Its verbs are those of the pool that have items.
    ///
    /// Python: `SeedSequence(seed).spawn(len(xs))` of NumPy, zipped with the items.
    ///
    /// ```
    /// let pool = parpool::Pool::new(2)?;
    /// let throw = |seed: parpool::Seed, _| 1 + seed.number() % 6;
    /// let dice = pool.seed(2026).map(throw, 0..5)?;
    /// assert_eq!(parpool::Pool::new(1)?.seed(2026).map(throw, 0..5)?, dice);
    /// # Ok::<(), parpool::Error>(())
    /// ```
    pub fn seed(&self, seed: u64) -> Seeded<'_> {
        self.options().seed(seed)
    }
}

impl<'p> Options<'p> {
    /// See [`Pool::seed`].
    ///
    /// ```
    /// # let pool = parpool::Pool::new(2)?;
    /// let numbers = pool.chunksize(2).seed(1).map(|seed, _| seed.number(), 0..3)?;
    /// assert_eq!(numbers, pool.seed(1).map(|seed, _| seed.number(), 0..3)?);
    /// # Ok::<(), parpool::Error>(())
    /// ```
    pub fn seed(self, seed: u64) -> Seeded<'p> {
        Seeded::new(self, seed)
    }
}

fn seeded<T, R>(seed: u64, f: impl Fn(Seed, T) -> R) -> impl Fn((usize, T)) -> R {
    move |(index, item)| f(Seed::new(seed, index as u64), item)
}

/// The items of `I` with their index.
struct Numbered<I>(I);

/// Marks it, for the families of `I`.
struct Mark<M>(M);

impl<M, I: Iterable<M>> Iterable<Mark<M>> for Numbered<I> {
    type Item = (usize, I::Item);

    fn accept<'s, V: Visitor<'s, Self::Item>>(self, visitor: V) -> V::Output
    where
        Self: 's,
    {
        self.0.accept(Numbering(visitor))
    }
}

/// Hands on what it is given, numbered.
struct Numbering<V>(V);

impl<'s, T, V: Visitor<'s, (usize, T)>> Visitor<'s, T> for Numbering<V> {
    type Output = V::Output;

    fn indexed<I: IndexedParallelIterator<Item = T> + 's>(self, items: I) -> V::Output {
        self.0.indexed(items.enumerate())
    }

    fn sequential<I: Iterator<Item = T> + Send + 's>(self, items: I) -> V::Output {
        self.0.sequential(items.enumerate())
    }
}
