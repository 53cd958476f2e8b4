//! Where the workers of a map claim their items from: a collection cut into ranges, or an iterator.

use std::panic::resume_unwind;
use std::sync::TryLockError;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering, fence};

use crossbeam_utils::{Backoff, CachePadded};
use rayon::iter::plumbing::Producer;

use crate::chunk::Cut;
use crate::panic::{Payload, catch, discard};
use crate::raw::{Run, Slots};
use crate::sync::{Mutex, lock};

/// Neighbouring items that one worker claimed, with the room for their results.
pub(crate) struct Block<'r, I, R> {
    /// The index of the first item that is left.
    pub(crate) start: usize,
    pub(crate) items: I,
    pub(crate) out: Out<'r, R>,
}

/// The results of a block.
pub(crate) enum Out<'r, R> {
    /// Written where they stay.
    InPlace(Run<'r, R>),
    /// The length of the input was not known, or was not what it said.
    Grown(Vec<R>),
}

impl<R> Out<'_, R> {
    /// Adds `f` of what `items` yields.
    #[inline]
    pub(crate) fn extend<I: Iterator, E>(
        &mut self,
        items: I,
        f: impl Fn(I::Item) -> Result<R, E>,
    ) -> Result<(), E> {
        match self {
            Out::InPlace(run) => run.extend(items, f),
            Out::Grown(vec) => {
                for item in items {
                    vec.push(f(item)?);
                }
                Ok(())
            }
        }
    }

    /// The same until `pause`, which is asked now and then, is true; then those that are left are
    /// `taken` out.
    #[inline]
    pub(crate) fn extend_until<I: Iterator, E>(
        &mut self,
        mut items: I,
        f: impl Fn(I::Item) -> Result<R, E>,
        mut pause: impl FnMut() -> bool,
        taken: &mut Option<Vec<I::Item>>,
    ) -> Result<(), E> {
        match self {
            Out::InPlace(run) => run.extend_until(items, f, pause, taken),
            Out::Grown(vec) => {
                while let Some(item) = items.next() {
                    vec.push(f(item)?);
                    if pause() {
                        taken.insert(Vec::new()).extend(items);
                        break;
                    }
                }
                Ok(())
            }
        }
    }

    /// The room that is left, which is none afterwards.
    pub(crate) fn take_rest(&mut self) -> Self {
        match self {
            Out::InPlace(run) => Out::InPlace(Run::new(run.split_off_free())),
            Out::Grown(_) => Out::Grown(Vec::new()),
        }
    }

    /// The room for the next `count` results, of a block that has none yet.
    pub(crate) fn split_front(&mut self, count: usize) -> Self {
        match self {
            Out::InPlace(run) => {
                let (front, back) = run.split_off_free().split_at(count);
                *run = Run::new(back);
                Out::InPlace(Run::new(front))
            }
            Out::Grown(_) => Out::Grown(Vec::new()),
        }
    }

    pub(crate) fn len(&self) -> usize {
        match self {
            Out::InPlace(run) => run.len(),
            Out::Grown(vec) => vec.len(),
        }
    }
}

/// The items of a block, taken from the front.
pub(crate) trait Items: Send {
    type Item: Send;
    fn len(&self) -> usize;
    /// The next `count` items, at most as many as are left. What of them is not iterated over is
    /// dropped.
    fn take(&mut self, count: usize) -> impl Iterator<Item = Self::Item>;
    /// The next `count` items, at most as many as are left.
    fn split_front(&mut self, count: usize) -> Self;
    /// All that are left, which are none afterwards.
    fn take_rest(&mut self) -> Self;
}

/// What a worker says when it claims.
pub(crate) struct Ask<'a> {
    pub(crate) seat: usize,
    pub(crate) cut: Cut,
    /// How many items fit a slice.
    pub(crate) fit: usize,
    /// Items from this index on are not wanted.
    pub(crate) stop: usize,
    /// It waits a moment for who is in the iterator.
    pub(crate) patient: bool,
    /// Who hears that the input panicked while it made the item of this index.
    pub(crate) fault: &'a (dyn Fn(usize, Payload) + 'a),
}

pub(crate) enum Claim<B> {
    Block(B),
    /// Another worker is in the iterator, and has been for a while.
    Busy,
    Empty,
}

/// An input that many workers claim blocks from, each item once.
pub(crate) trait Source<'r, R>: Sync {
    type Items: Items;
    fn claim(&self, ask: &Ask<'_>) -> Claim<Block<'r, Self::Items, R>>;
    /// Whether anything below `stop` may be left to claim.
    fn has_more(&self, stop: usize) -> bool;
}

// ---- collections ---------------------------------------------------------------------------------

/// A splittable input: a range of it in front of each worker.
///
/// A worker claims from the front of its own range; one that has none takes the back half of the
/// fullest. So neighbours that are expensive are shared out, whoever they lie in front of, and the
/// locks are nearly never contended.
pub(crate) struct Ranges<'r, P, R> {
    seats: Box<[CachePadded<Seat<'r, P, R>>]>,
}

struct Seat<'r, P, R> {
    /// How many items `part` holds; for thieves to look at without the lock.
    left: AtomicUsize,
    /// To cut a parallel iterator of the user's is the user's code, and runs under this lock.
    part: Mutex<Option<Part<'r, P, R>>>,
}

struct Part<'r, P, R> {
    start: usize,
    items: Indexed<P>,
    slots: Slots<'r, R>,
}

impl<'r, P: Producer, R> Part<'r, P, R> {
    /// Its first `count` items, which it loses.
    fn split_front(self, count: usize) -> (Self, Option<Self>) {
        if count == self.items.len {
            return (self, None);
        }
        let (front, back) = self.items.split_at(count);
        let (slots, others) = self.slots.split_at(count);
        let rest = Part { start: self.start + count, items: back, slots: others };
        (Part { start: self.start, items: front, slots }, Some(rest))
    }
}

/// A rayon producer with its length.
pub(crate) struct Indexed<P> {
    /// There while `len` is not 0. To cut it may run code of the user's: what that has thrown is thrown
    /// again where the first item is taken.
    producer: Option<Result<P, Payload>>,
    len: usize,
}

impl<P: Producer> Indexed<P> {
    fn split_at(self, mid: usize) -> (Self, Self) {
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

impl<P: Producer> Items for Indexed<P>
where
    P::Item: Send,
{
    type Item = P::Item;

    fn len(&self) -> usize {
        self.len
    }

    fn take(&mut self, count: usize) -> impl Iterator<Item = P::Item> {
        let front = self.split_front(count);
        match front.producer.expect("no more items are taken than there are") {
            Ok(producer) => producer.into_iter(),
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
}

impl<'r, P: Producer, R> Ranges<'r, P, R> {
    /// All of `producer`'s `slots.len()` items lie in front of the first worker to come to `seat`.
    pub(crate) fn new(producer: P, slots: Slots<'r, R>, seats: usize, seat: usize) -> Self {
        let len = slots.len();
        let mut whole =
            Some(Part { start: 0, items: Indexed { producer: Some(Ok(producer)), len }, slots });
        let make = |index| {
            let part = if index == seat { whole.take() } else { None };
            let left = part.as_ref().map_or(0, |part| part.items.len);
            CachePadded::new(Seat { left: left.into(), part: Mutex::new(part) })
        };
        Ranges { seats: (0..seats).map(make).collect() }
    }

    fn claim_own(&self, ask: &Ask<'_>) -> Option<Block<'r, Indexed<P>, R>> {
        let seat = &self.seats[ask.seat];
        let mut place = lock(&seat.part);
        let part = place.take()?;
        let wanted = ask.stop.saturating_sub(part.start).min(part.items.len);
        if wanted == 0 {
            seat.left.store(0, Ordering::Relaxed);
            drop(place);
            discard(part);
            return None;
        }
        let count = ask.cut.claim(part.items.len, ask.fit, 4);
        let (front, rest) = part.split_front(count);
        // ORDERING: a hint for thieves, who look again under the lock.
        let left = rest.as_ref().map_or(0, |rest| rest.items.len);
        seat.left.store(left, Ordering::Relaxed);
        *place = rest;
        drop(place);
        let out = Out::InPlace(Run::new(front.slots));
        Some(Block { start: front.start, items: front.items, out })
    }

    /// Moves half of the fullest range in front of `ask.seat`; false if there is nothing to move.
    fn steal(&self, ask: &Ask<'_>) -> bool {
        loop {
            let left = |seat: &Seat<'r, P, R>| seat.left.load(Ordering::Relaxed);
            let Some(victim) = self.seats.iter().max_by_key(|seat| left(seat)) else {
                return false;
            };
            if left(victim) == 0 {
                return false;
            }
            let mut place = lock(&victim.part);
            let Some(part) = place.take() else { continue };
            let half = ask.cut.half(part.items.len);
            let stolen = if half == 0 {
                victim.left.store(0, Ordering::Relaxed);
                part
            } else {
                let (front, back) = part.split_front(half);
                victim.left.store(half, Ordering::Relaxed);
                *place = Some(front);
                match back {
                    Some(back) => back,
                    None => continue,
                }
            };
            drop(place);
            let seat = &self.seats[ask.seat];
            let mut place = lock(&seat.part);
            seat.left.store(stolen.items.len, Ordering::Relaxed);
            let before = place.replace(stolen);
            drop(place);
            // The seat is this worker's alone and was empty when it came here to steal.
            debug_assert!(before.is_none());
            return true;
        }
    }
}

impl<'r, P: Producer, R: Send> Source<'r, R> for Ranges<'r, P, R>
where
    P::Item: Send,
{
    type Items = Indexed<P>;

    fn claim(&self, ask: &Ask<'_>) -> Claim<Block<'r, Indexed<P>, R>> {
        loop {
            if let Some(block) = self.claim_own(ask) {
                return Claim::Block(block);
            }
            if !self.steal(ask) {
                return Claim::Empty;
            }
        }
    }

    fn has_more(&self, stop: usize) -> bool {
        self.seats.iter().any(|seat| {
            seat.left.load(Ordering::Relaxed) > 0
                && lock(&seat.part).as_ref().is_some_and(|part| part.start < stop)
        })
    }
}

// ---- iterators -----------------------------------------------------------------------------------

/// Any iterator: one worker at a time is in it and pulls a block.
pub(crate) struct Pulled<'r, I, R> {
    state: Mutex<Pull<'r, I, R>>,
    workers: usize,
    /// The iterator has ended, or panicked.
    ended: AtomicBool,
    /// How many items were pulled.
    pulled: AtomicUsize,
}

struct Pull<'r, I, R> {
    /// `None` once it has ended.
    items: Option<I>,
    /// Room for the results of the next items, as many as the iterator said there are. `None` if it
    /// did not say, or there were more.
    slots: Option<Slots<'r, R>>,
}

/// Items that were made before they are needed.
pub(crate) struct Batch<T>(std::vec::IntoIter<T>);

impl<T> From<Vec<T>> for Batch<T> {
    fn from(items: Vec<T>) -> Self {
        Batch(items.into_iter())
    }
}

impl<T: Send> Items for Batch<T> {
    type Item = T;

    fn len(&self) -> usize {
        self.0.len()
    }

    fn take(&mut self, count: usize) -> impl Iterator<Item = T> {
        self.0.by_ref().take(count)
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
}

impl<'r, I: Iterator, R> Pulled<'r, I, R> {
    /// `slots` is the room for results, if the length of `items` is known.
    pub(crate) fn new(items: I, slots: Option<Slots<'r, R>>, workers: usize) -> Self {
        Pulled {
            state: Mutex::new(Pull { items: Some(items), slots }),
            workers,
            ended: AtomicBool::new(false),
            pulled: AtomicUsize::new(0),
        }
    }

    /// How many to pull of `items`, when there is room for the results of `room` more, if that is known.
    fn count(&self, items: &I, room: Option<usize>, ask: &Ask<'_>) -> usize {
        let left = room.or_else(|| items.size_hint().1).unwrap_or(usize::MAX).max(1);
        // Blocks shrink towards the end: half of each worker's share of what is left.
        let count = ask.cut.claim(left, ask.fit, 2 * self.workers);
        // A set size holds also where the iterator has more than it said.
        if ask.cut.divisible { count } else { count.max(ask.cut.unit) }
    }
}

impl<'r, I, R> Source<'r, R> for Pulled<'r, I, R>
where
    I: Iterator + Send,
    I::Item: Send,
    R: Send,
{
    type Items = Batch<I::Item>;

    fn claim(&self, ask: &Ask<'_>) -> Claim<Block<'r, Self::Items, R>> {
        let backoff = Backoff::new();
        let mut pull = loop {
            match self.state.try_lock() {
                Ok(pull) => break pull,
                Err(TryLockError::Poisoned(poisoned)) => break poisoned.into_inner(),
                // Its `next` may block; one worker at a time is enough for that.
                Err(TryLockError::WouldBlock) if backoff.is_completed() || !ask.patient => {
                    return Claim::Busy;
                }
                Err(TryLockError::WouldBlock) => backoff.snooze(),
            }
        };
        // ORDERING: written under the lock and read there; elsewhere it is a hint.
        let start = self.pulled.load(Ordering::Relaxed);
        let wanted = ask.stop.saturating_sub(start);
        let room = pull.slots.as_ref().map(Slots::len);
        let Some(items) = pull.items.as_mut().filter(|_| wanted > 0) else {
            let unwanted = pull.items.take();
            // ORDERING: as above; a late reader tries one claim more.
            self.ended.store(true, Ordering::Relaxed);
            drop(pull);
            discard(unwanted);
            return Claim::Empty;
        };
        let mut batch = Vec::new();
        // The user's `next` runs under this lock: that is what the lock is for.
        let pulled = catch(|| {
            let count = self.count(items, room, ask).min(wanted);
            batch.reserve_exact(count.min(1 << 16));
            batch.extend(items.by_ref().take(count));
            batch.len() == count
        });
        let mut unwanted = None;
        if !matches!(pulled, Ok(true)) {
            unwanted = pull.items.take();
            self.ended.store(true, Ordering::Relaxed);
        }
        let end = start + batch.len();
        self.pulled.store(end, Ordering::Relaxed);
        let out = match pull.slots.take() {
            Some(slots) if batch.len() <= slots.len() => {
                let (mine, rest) = slots.split_at(batch.len());
                pull.slots = Some(rest);
                Out::InPlace(Run::new(mine))
            }
            _ => Out::Grown(Vec::with_capacity(batch.len())),
        };
        drop(pull);
        // ORDERING: pairs with the fence of `Engine::claim_at_last`: who found the iterator busy is
        // seen to be hungry after this, or sees the lock free.
        fence(Ordering::SeqCst);
        discard(unwanted);
        if let Err(payload) = pulled {
            (ask.fault)(end, payload);
        }
        if batch.is_empty() {
            return Claim::Empty;
        }
        Claim::Block(Block { start, items: Batch(batch.into_iter()), out })
    }

    fn has_more(&self, stop: usize) -> bool {
        !self.ended.load(Ordering::Relaxed) && self.pulled.load(Ordering::Relaxed) < stop
    }
}
