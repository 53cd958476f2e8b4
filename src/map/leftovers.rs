//! What is left of blocks that turned out expensive, for all workers to share.
//!
//! It is claimed from the front, in the small portions of a worker that knows nothing of the items yet.
//! To hand out halves would not do: expensive neighbours would stay in the one half, with one worker.

use super::chunk_size::ChunkPolicy;
use super::items::{Batch, Items};
use super::source::{Block, Out};
use crate::panic::discard;
use crate::sync::{Mutex, atomic::AtomicBool, atomic::Ordering, lock};

/// The items of a block, or some of them that were taken out and not run.
pub(crate) enum Leftover<I: Items> {
    Items(I),
    Taken(Batch<I::Item>),
}

impl<I: Items> Leftover<I> {
    pub(crate) fn len(&self) -> usize {
        match self {
            Leftover::Items(items) => items.len(),
            Leftover::Taken(items) => items.len(),
        }
    }

    fn split_front(&mut self, count: usize) -> Self {
        match self {
            Leftover::Items(items) => Leftover::Items(items.split_front(count)),
            Leftover::Taken(items) => Leftover::Taken(items.split_front(count)),
        }
    }

    /// Whether to split it is the user's code.
    fn is_foreign(&self) -> bool {
        matches!(self, Leftover::Items(_))
    }
}

pub(crate) struct Leftovers<'r, I: Items, R> {
    /// A hint, so that nobody takes the lock in vain.
    any: AtomicBool,
    state: Mutex<LeftoversState<'r, I, R>>,
}

struct LeftoversState<'r, I: Items, R> {
    /// The last is claimed from first.
    blocks: Vec<Block<'r, Leftover<I>, R>>,
    /// How many blocks were taken out to be split, and will come back.
    out: usize,
}

impl<'r, I: Items, R> Leftovers<'r, I, R> {
    pub(crate) fn new() -> Self {
        let state = LeftoversState { blocks: Vec::new(), out: 0 };
        Leftovers { any: AtomicBool::new(false), state: Mutex::new(state) }
    }

    pub(crate) fn push(&self, block: Block<'r, Leftover<I>, R>) {
        if block.items.len() > 0 {
            let mut state = lock(&self.state);
            state.blocks.push(block);
            // ORDERING: who must not miss it is notified after this; see `map/idle.rs`.
            self.any.store(true, Ordering::Relaxed);
        }
    }

    /// The next items below `stop`, for a worker that does `slice_items` of them in a slice.
    pub(crate) fn claim(
        &self,
        policy: ChunkPolicy,
        slice_items: usize,
        stop: usize,
    ) -> Option<Block<'r, Leftover<I>, R>> {
        if !self.any.load(Ordering::Relaxed) {
            return None;
        }
        let mut unwanted = Vec::new();
        let claimed = {
            let mut state = lock(&self.state);
            while state.blocks.last().is_some_and(|block| block.start >= stop) {
                unwanted.extend(state.blocks.pop());
            }
            let claimed = state.blocks.pop().map(|mut block| {
                let count = policy.claim(block.items.len(), slice_items, 4);
                if count == block.items.len() {
                    return (block, 0);
                }
                if block.items.is_foreign() {
                    state.out += 1;
                    return (block, count);
                }
                let front = split_front(&mut block, count);
                state.blocks.push(block);
                (front, 0)
            });
            self.any.store(!state.blocks.is_empty(), Ordering::Relaxed);
            claimed
        };
        discard(unwanted);
        match claimed? {
            (block, 0) => Some(block),
            // Outside of the lock.
            (mut block, count) => {
                let front = split_front(&mut block, count);
                let mut state = lock(&self.state);
                state.out -= 1;
                if block.items.len() > 0 {
                    state.blocks.push(block);
                    self.any.store(true, Ordering::Relaxed);
                }
                Some(front)
            }
        }
    }

    pub(crate) fn has_more(&self, stop: usize) -> bool {
        let state = lock(&self.state);
        state.out > 0 || state.blocks.iter().any(|block| block.start < stop)
    }
}

/// The first `count` items of `block`, which it loses.
fn split_front<'r, I: Items, R>(
    block: &mut Block<'r, Leftover<I>, R>,
    count: usize,
) -> Block<'r, Leftover<I>, R> {
    let (start, out): (usize, Out<'r, R>) = (block.start, block.out.split_front(count));
    block.start += count;
    Block { start, items: block.items.split_front(count), out }
}

#[cfg(all(test, loom))]
mod models {
    use super::*;
    use crate::map::idle::models::Pair;
    use crate::map::items::{Begun, Drained};
    use crate::map::source::Claim;
    use crate::sync::{Arc, Instant, model, model_within};
    use loom::thread;
    use std::ops::Range;

    /// Items that the user's code cuts.
    struct Numbers(Range<usize>);

    impl Items for Numbers {
        type Item = usize;
        type Iter = Range<usize>;

        fn len(&self) -> usize {
            self.0.len()
        }

        fn begin(&mut self, count: usize) -> Begun<Self> {
            Begun { iter: Some(self.split_front(count).0), left: count }
        }

        fn split_front(&mut self, count: usize) -> Self {
            // Another worker may come in between.
            thread::yield_now();
            let Range { start, end } = self.0;
            self.0 = start + count..end;
            Numbers(start..start + count)
        }

        fn take_rest(&mut self) -> Self {
            self.split_front(self.len())
        }

        fn drain(_: &mut Self::Iter, _: usize, _: Instant) -> Drained<usize> {
            unreachable!("nobody gives anything back here")
        }
    }

    type Shared = Leftovers<'static, Numbers, ()>;

    /// Some that can be cut under the lock, and some that cannot.
    fn given_back(foreign: bool, numbers: Range<usize>) -> Block<'static, Leftover<Numbers>, ()> {
        let start = numbers.start;
        let items = match foreign {
            true => Leftover::Items(Numbers(numbers)),
            false => Leftover::Taken(Batch::from(numbers.collect::<Vec<_>>())),
        };
        Block { start, items, out: Out::Grown(Vec::new()) }
    }

    fn claim(leftovers: &Shared) -> Option<Range<usize>> {
        let block = leftovers.claim(ChunkPolicy::new(None, false, None, 2), 1, 9)?;
        let (start, count) = (block.start, block.items.len());
        match block.items {
            Leftover::Items(items) => assert_eq!(items.0, start..start + count),
            Leftover::Taken(mut items) => {
                assert!(items.begin(count).iter.unwrap().eq(start..start + count));
            }
        }
        Some(start..start + count)
    }

    /// A worker that looks while something is there finds it, unless another has it in hand.
    #[test]
    fn each_item_that_is_given_back_is_claimed_once() {
        for foreign in [false, true] {
            model_within(2, move || {
                let leftovers = Arc::new(Shared::new());
                let claim_all = |leftovers: &Shared| {
                    std::iter::from_fn(|| claim(leftovers)).collect::<Vec<_>>()
                };
                let threads = [0, 1].map(|_| {
                    let leftovers = Arc::clone(&leftovers);
                    thread::spawn(move || claim_all(&leftovers))
                });
                leftovers.push(given_back(foreign, 2..4));
                leftovers.push(given_back(!foreign, 0..2));
                let mut claimed = claim_all(&leftovers);
                threads.into_iter().for_each(|thread| claimed.extend(thread.join().unwrap()));
                // Of those that came too early, or while others had it in hand, nobody is left.
                claimed.extend(claim_all(&leftovers));
                let mut claimed: Vec<usize> = claimed.into_iter().flatten().collect();
                claimed.sort_unstable();
                assert!(claimed.into_iter().eq(0..4));
                assert!(!leftovers.has_more(9));
            });
        }
    }

    /// A worker that comes while what was given back is being cut, and leaves, is called back.
    #[test]
    fn a_worker_that_found_a_block_out_is_called_back() {
        for owner in [false, true] {
            model(move || {
                let shared = Arc::new((Pair::new(), Shared::new()));
                shared.1.push(given_back(true, 0..2));
                let work = |(pair, leftovers): &(Pair, Shared), owner| {
                    let claim = || claim(leftovers).map_or(Claim::Empty, |_| Claim::Block(()));
                    pair.work(owner, claim, || leftovers.has_more(9));
                };
                let other = Arc::clone(&shared);
                let thread = thread::spawn(move || work(&other, owner));
                work(&shared, false);
                thread.join().unwrap();
            });
        }
    }
}
