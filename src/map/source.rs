//! Where the workers of a map claim their items from: a collection cut into ranges, or an iterator.

use std::iter;
use std::sync::TryLockError;

use crossbeam_utils::{Backoff, CachePadded};
use rayon::iter::plumbing::Producer;

use super::chunk_size::ChunkPolicy;
use super::items::{Batch, Indexed, Items};
use crate::panic::{Payload, catch, discard};
use crate::raw::{OutputRun, OutputSlots};
use crate::sync::{
    Mutex, MutexGuard, atomic::AtomicBool, atomic::AtomicUsize, atomic::Ordering, lock,
};

/// How many bytes of memory are reserved at once for items or results of which it is not known how many
/// come. More is reserved as they do.
const RESERVED: usize = 64 << 10;

/// For how many of `count` values of type `T` to reserve memory.
pub(crate) fn reserved<T>(count: usize) -> usize {
    count.min(RESERVED / size_of::<T>().max(1)).max(1)
}

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
    InPlace(OutputRun<'r, R>),
    /// The length of the input was not known, was not what it said, or is more than there is memory for.
    Grown(Vec<R>),
}

impl<'r, R> Out<'r, R> {
    /// For the results of `count` items, in `slots` if there are such.
    fn new(slots: Option<OutputSlots<'r, R>>, count: usize) -> Self {
        match slots {
            Some(slots) => Out::InPlace(OutputRun::new(slots)),
            None => Out::Grown(Vec::with_capacity(reserved::<R>(count))),
        }
    }

    /// Adds `f` of the next `count` of `items`, of fewer if these end or `f` fails.
    #[inline]
    pub(crate) fn extend<I: Iterator, E>(
        &mut self,
        count: usize,
        items: &mut I,
        f: impl Fn(I::Item) -> Result<R, E>,
    ) -> Result<(), E> {
        match self {
            Out::InPlace(run) => run.extend(count, items, f),
            Out::Grown(vec) => {
                for item in items.take(count) {
                    vec.push(f(item)?);
                }
                Ok(())
            }
        }
    }

    /// The same until `pause`, which is asked now and then, is true: whether it was.
    #[inline]
    pub(crate) fn extend_until<I: Iterator, E>(
        &mut self,
        count: usize,
        items: &mut I,
        f: impl Fn(I::Item) -> Result<R, E>,
        mut pause: impl FnMut() -> bool,
    ) -> Result<bool, E> {
        match self {
            Out::InPlace(run) => run.extend_until(count, items, f, pause),
            Out::Grown(vec) => {
                for item in items.take(count) {
                    vec.push(f(item)?);
                    if pause() {
                        return Ok(true);
                    }
                }
                Ok(false)
            }
        }
    }

    /// The room that is left, which is none afterwards.
    pub(crate) fn take_rest(&mut self) -> Self {
        match self {
            Out::InPlace(run) => Out::InPlace(OutputRun::new(run.split_off_free())),
            Out::Grown(_) => Out::Grown(Vec::new()),
        }
    }

    /// The room for the next `count` results, of a block that has none yet.
    pub(crate) fn split_front(&mut self, count: usize) -> Self {
        match self {
            Out::InPlace(run) => {
                let (front, back) = run.split_off_free().split_at(count);
                *run = OutputRun::new(back);
                Out::InPlace(OutputRun::new(front))
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

/// What a worker says when it claims.
pub(crate) struct ClaimRequest<'a> {
    pub(crate) slot: usize,
    pub(crate) policy: ChunkPolicy,
    /// How many items fit a slice.
    pub(crate) slice_items: usize,
    /// Items from this index on are not wanted.
    pub(crate) stop: usize,
    /// It waits a moment for another worker that is in the input.
    pub(crate) patient: bool,
    /// Told when the input panicked while it made the item of this index.
    pub(crate) fault: &'a (dyn Fn(usize, Payload) + 'a),
}

pub(crate) enum Claim<B> {
    Block(B),
    /// Another worker is in the input, and has been for a while: in the iterator, or splitting a range.
    Busy,
    Empty,
}

/// An input that many workers claim blocks from, each item once.
pub(crate) trait Source<'r, R>: Sync {
    type Items: Items;
    fn claim(&self, ask: &ClaimRequest<'_>) -> Claim<Block<'r, Self::Items, R>>;
    /// Whether anything below `stop` may be left to claim.
    fn has_more(&self, stop: usize) -> bool;
}

// ---- collections ---------------------------------------------------------------------------------

/// A splittable input: a range of it in front of each worker.
///
/// A worker claims from the front of its own range; one that has none takes the back half of the
/// fullest. So neighbours that are expensive are shared out, whichever worker they lie in front of, and the
/// locks are nearly never contended.
pub(crate) struct Ranges<'r, P, R> {
    range_slots: Box<[CachePadded<RangeSlot<'r, P, R>>]>,
}

struct RangeSlot<'r, P, R> {
    /// How many items `place` holds; for thieves to look at without the lock.
    left: AtomicUsize,
    place: Mutex<RangeState<'r, P, R>>,
}

/// What lies in front of a worker.
enum RangeState<'r, P, R> {
    Empty,
    Here(ItemRange<'r, P, R>),
    /// Somebody has taken a part out to split it, which is the user's code, and will put what is left of it
    /// back. Until then nobody else puts anything here.
    Out,
}

struct ItemRange<'r, P, R> {
    start: usize,
    items: Indexed<P>,
    /// `None` where there is no room for all results.
    slots: Option<OutputSlots<'r, R>>,
}

impl<'r, P: Producer, R> ItemRange<'r, P, R>
where
    P::Item: Send,
{
    /// Its first `count` items, which it loses.
    fn split_front(self, count: usize) -> (Self, Option<Self>) {
        if count == self.items.len() {
            return (self, None);
        }
        let (front, back) = self.items.split_at(count);
        let (slots, others) = self.slots.map(|slots| slots.split_at(count)).unzip();
        let rest = ItemRange { start: self.start + count, items: back, slots: others };
        (ItemRange { start: self.start, items: front, slots }, Some(rest))
    }
}

impl<'r, P, R> RangeSlot<'r, P, R> {
    /// Takes out what is here, for the caller to put something back.
    fn take_out(&self) -> Result<ItemRange<'r, P, R>, Claim<()>> {
        let mut place = lock(&self.place);
        match std::mem::replace(&mut *place, RangeState::Out) {
            RangeState::Here(part) => Ok(part),
            RangeState::Out => Err(Claim::Busy),
            RangeState::Empty => {
                *place = RangeState::Empty;
                Err(Claim::Empty)
            }
        }
    }

    /// Puts `part` where something was taken out.
    fn put_back(&self, part: Option<ItemRange<'r, P, R>>)
    where
        P: Producer<Item: Send>,
    {
        let mut place = lock(&self.place);
        debug_assert!(matches!(*place, RangeState::Out));
        // ORDERING: a hint for thieves, which look again under the lock.
        self.left.store(part.as_ref().map_or(0, |part| part.items.len()), Ordering::Relaxed);
        *place = part.map_or(RangeState::Empty, RangeState::Here);
    }
}

impl<'r, P: Producer, R> Ranges<'r, P, R>
where
    P::Item: Send,
{
    /// All of `producer`'s `len` items lie in front of the first worker to come to `slot`. There is room
    /// for all of their results, or for none.
    pub(crate) fn new(
        producer: P,
        len: usize,
        slots: Option<OutputSlots<'r, R>>,
        range_slots: usize,
        slot: usize,
    ) -> Self {
        debug_assert!(slots.as_ref().is_none_or(|slots| slots.len() == len));
        let mut whole = Some(ItemRange { start: 0, items: Indexed::new(producer, len), slots });
        let make = |index| {
            let part = if index == slot { whole.take() } else { None };
            let left = AtomicUsize::new(part.as_ref().map_or(0, |part| part.items.len()));
            let place = Mutex::new(part.map_or(RangeState::Empty, RangeState::Here));
            CachePadded::new(RangeSlot { left, place })
        };
        Ranges { range_slots: (0..range_slots).map(make).collect() }
    }

    fn claim_own(&self, ask: &ClaimRequest<'_>) -> Claim<Block<'r, Indexed<P>, R>> {
        let slot = &self.range_slots[ask.slot];
        let part = match slot.take_out() {
            Ok(part) => part,
            Err(Claim::Busy) => return Claim::Busy,
            Err(_) => return Claim::Empty,
        };
        let wanted = ask.stop.saturating_sub(part.start).min(part.items.len());
        if wanted == 0 {
            slot.put_back(None);
            discard(part);
            return Claim::Empty;
        }
        let count = ask.policy.claim(part.items.len(), ask.slice_items, 4);
        let (front, rest) = part.split_front(count);
        slot.put_back(rest);
        let out = Out::new(front.slots, count);
        Claim::Block(Block { start: front.start, items: front.items, out })
    }

    /// Moves half of the fullest range in front of `ask.slot`, which is empty.
    fn steal(&self, ask: &ClaimRequest<'_>) -> Claim<()> {
        let left = |slot: &RangeSlot<'r, P, R>| slot.left.load(Ordering::Relaxed);
        let Some(fullest) = self.range_slots.iter().max_by_key(|slot| left(slot)) else {
            return Claim::Empty;
        };
        let mut outcome = Claim::Empty;
        // The others too, where the fullest is being split: that may take the user's code long.
        for victim in iter::once(fullest).chain(&self.range_slots) {
            if left(victim) > 0 {
                match self.steal_from(victim, ask) {
                    Claim::Block(()) => return Claim::Block(()),
                    Claim::Busy => outcome = Claim::Busy,
                    Claim::Empty => {}
                }
            }
        }
        outcome
    }

    fn steal_from(&self, victim: &RangeSlot<'r, P, R>, ask: &ClaimRequest<'_>) -> Claim<()> {
        let part = match victim.take_out() {
            Ok(part) => part,
            Err(other) => return other,
        };
        let half = ask.policy.half(part.items.len());
        // Before the victim's are fewer: a worker that looks meanwhile sees that there is something.
        let slot = &self.range_slots[ask.slot];
        {
            let mut place = lock(&slot.place);
            debug_assert!(
                matches!(*place, RangeState::Empty),
                "a worker steals where it has nothing"
            );
            *place = RangeState::Out;
            slot.left.store(part.items.len() - half, Ordering::Relaxed);
        }
        let (kept, stolen) = match half {
            0 => (None, Some(part)),
            _ => {
                let (front, back) = part.split_front(half);
                (Some(front), back)
            }
        };
        slot.put_back(stolen);
        victim.put_back(kept);
        Claim::Block(())
    }
}

impl<'r, P: Producer, R: Send> Source<'r, R> for Ranges<'r, P, R>
where
    P::Item: Send,
{
    type Items = Indexed<P>;

    fn claim(&self, ask: &ClaimRequest<'_>) -> Claim<Block<'r, Indexed<P>, R>> {
        let backoff = Backoff::new();
        loop {
            let claim = self.claim_own(ask);
            let busy = match claim {
                Claim::Block(_) => return claim,
                Claim::Busy => true,
                Claim::Empty => match self.steal(ask) {
                    Claim::Block(()) => false,
                    Claim::Busy => true,
                    Claim::Empty => return Claim::Empty,
                },
            };
            if busy {
                if backoff.is_completed() || !ask.patient {
                    return Claim::Busy;
                }
                backoff.snooze();
            }
        }
    }

    fn has_more(&self, stop: usize) -> bool {
        self.range_slots.iter().any(|slot| {
            slot.left.load(Ordering::Relaxed) > 0
                && match &*lock(&slot.place) {
                    RangeState::Here(part) => part.start < stop,
                    RangeState::Out => true,
                    RangeState::Empty => false,
                }
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
    slots: Option<OutputSlots<'r, R>>,
}

impl<'r, I: Iterator, R> Pulled<'r, I, R> {
    /// `slots` is the room for results, if the length of `items` is known.
    pub(crate) fn new(items: I, slots: Option<OutputSlots<'r, R>>, workers: usize) -> Self {
        Pulled {
            state: Mutex::new(Pull { items: Some(items), slots }),
            workers,
            ended: AtomicBool::new(false),
            pulled: AtomicUsize::new(0),
        }
    }

    /// How many to pull of `items`, and how many to expect, when there is room for the results of `room`
    /// more, if that is known.
    fn count(&self, items: &I, room: Option<usize>, ask: &ClaimRequest<'_>) -> (usize, usize) {
        let left = room.or_else(|| items.size_hint().1).unwrap_or(usize::MAX).max(1);
        // Blocks shrink towards the end: half of each worker's share of what is left.
        let count = ask.policy.claim(left, ask.slice_items, 2 * self.workers);
        // A set size holds also where the iterator has more than it said.
        (if ask.policy.divisible { count } else { count.max(ask.policy.unit) }, left)
    }
}

/// Pulls `count` items into `batch`, or all that come; `expected` is how many more than none it may reserve
/// memory for. Whatever the iterator says of its length, it reserves no more than [`RESERVED`], or than
/// have come.
fn pull<I: Iterator>(
    items: &mut I,
    batch: &mut Vec<I::Item>,
    count: usize,
    expected: usize,
) -> bool {
    batch.reserve_exact(reserved::<I::Item>(count.min(expected)));
    while batch.len() < count {
        if batch.len() == batch.capacity() {
            // Doubles it.
            batch.reserve(1);
        }
        let part = (batch.capacity() - batch.len()).min(count - batch.len());
        let before = batch.len();
        batch.extend(items.by_ref().take(part));
        if batch.len() - before < part {
            return false;
        }
    }
    true
}

impl<'r, I, R> Source<'r, R> for Pulled<'r, I, R>
where
    I: Iterator + Send,
    I::Item: Send,
    R: Send,
{
    type Items = Batch<I::Item>;

    fn claim(&self, ask: &ClaimRequest<'_>) -> Claim<Block<'r, Self::Items, R>> {
        let backoff = Backoff::new();
        let mut state: MutexGuard<'_, Pull<'r, I, R>> = loop {
            match self.state.try_lock() {
                Ok(state) => break state,
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
        let room = state.slots.as_ref().map(OutputSlots::len);
        let Some(items) = state.items.as_mut().filter(|_| wanted > 0) else {
            let unwanted = state.items.take();
            // ORDERING: as above; a late reader tries one claim more.
            self.ended.store(true, Ordering::Relaxed);
            drop(state);
            discard(unwanted);
            return Claim::Empty;
        };
        let mut batch = Vec::new();
        // The user's `next` and `size_hint` run under this lock: that is what the lock is for. No worker
        // waits for it; see `Claim::Busy`.
        let pulled = catch(|| {
            let (count, expected) = self.count(items, room, ask);
            pull(items, &mut batch, count.min(wanted), expected)
        });
        let mut unwanted = None;
        if !matches!(pulled, Ok(true)) {
            unwanted = state.items.take();
            self.ended.store(true, Ordering::Relaxed);
        }
        let end = start + batch.len();
        self.pulled.store(end, Ordering::Relaxed);
        let slots = state.slots.take().filter(|slots| batch.len() <= slots.len());
        let mine = slots.map(|slots| {
            let (mine, rest) = slots.split_at(batch.len());
            state.slots = Some(rest);
            mine
        });
        drop(state);
        discard(unwanted);
        if let Err(payload) = pulled {
            (ask.fault)(end, payload);
        }
        if batch.is_empty() {
            return Claim::Empty;
        }
        let out = Out::new(mine, batch.len());
        Claim::Block(Block { start, items: batch.into(), out })
    }

    fn has_more(&self, stop: usize) -> bool {
        !self.ended.load(Ordering::Relaxed) && self.pulled.load(Ordering::Relaxed) < stop
    }
}

#[cfg(all(test, loom))]
mod models {
    use super::*;
    use crate::map::idle::models::Pair;
    use crate::sync::{Arc, model, model_within};
    use loom::thread;
    use std::ops::Range;

    struct Numbers(Range<usize>);

    impl Producer for Numbers {
        type Item = usize;
        type IntoIter = Range<usize>;

        fn into_iter(self) -> Range<usize> {
            self.0
        }

        fn split_at(self, mid: usize) -> (Self, Self) {
            // Another worker may come in between.
            thread::yield_now();
            let Range { start, end } = self.0;
            (Numbers(start..start + mid), Numbers(start + mid..end))
        }
    }

    type Input = Ranges<'static, Numbers, ()>;

    fn claim(input: &Input, slot: usize) -> Claim<Block<'static, Indexed<Numbers>, ()>> {
        let policy = ChunkPolicy::new(None, false, Some(4), 2);
        input.claim(&ClaimRequest {
            slot,
            policy,
            slice_items: 1,
            stop: 9,
            patient: false,
            fault: &|_, _| unreachable!(),
        })
    }

    /// What a worker claims until there is nothing, or another one has it in hand.
    fn claim_all(input: &Input, slot: usize) -> Vec<usize> {
        let mut claimed = Vec::new();
        loop {
            match claim(input, slot) {
                Claim::Block(Block { start, mut items, .. }) => {
                    let count = items.len();
                    let begun = items.begin(count).iter.unwrap();
                    assert_eq!(begun, start..start + count);
                    claimed.extend(begun);
                }
                Claim::Busy | Claim::Empty => return claimed,
            }
        }
    }

    fn each_is_claimed_once(workers: usize, len: usize, preemptions: usize) {
        model_within(preemptions, move || {
            let input = Arc::new(Input::new(Numbers(0..len), len, None, workers, 0));
            let threads: Vec<_> = (1..workers)
                .map(|slot| {
                    let input = Arc::clone(&input);
                    thread::spawn(move || claim_all(&input, slot))
                })
                .collect();
            let mut claimed = claim_all(&input, 0);
            threads.into_iter().for_each(|thread| claimed.extend(thread.join().unwrap()));
            claimed.sort_unstable();
            assert!(claimed.into_iter().eq(0..len));
            assert!(!input.has_more(9));
        });
    }

    #[test]
    fn each_item_is_claimed_once_by_two_workers_that_steal() {
        each_is_claimed_once(2, 3, 3);
    }

    #[test]
    fn each_item_is_claimed_once_by_three_workers_that_steal() {
        each_is_claimed_once(3, 3, 2);
    }

    /// A worker that comes while a range is cut or moved, and leaves, is called back.
    #[test]
    fn a_worker_that_found_a_range_out_is_called_back() {
        model(|| {
            let shared = Arc::new((Pair::new(), Input::new(Numbers(0..2), 2, None, 2, 0)));
            let work = |(pair, input): &(Pair, Input), slot| {
                let claim = || match claim(input, slot) {
                    Claim::Block(_) => Claim::Block(()),
                    Claim::Busy => Claim::Busy,
                    Claim::Empty => Claim::Empty,
                };
                pair.work(false, claim, || input.has_more(9));
            };
            let other = Arc::clone(&shared);
            let thread = thread::spawn(move || work(&other, 1));
            work(&shared, 0);
            thread.join().unwrap();
        });
    }
}
