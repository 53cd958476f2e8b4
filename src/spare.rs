//! What is left of blocks that turned out expensive, for all workers to share.
//!
//! It is claimed from the front, in the small portions of a worker that knows nothing of the items yet.
//! To hand out halves would not do: expensive neighbours would stay in the one half, with one worker.

use crate::chunk::Cut;
use crate::items::{Batch, Items};
use crate::panic::discard;
use crate::source::{Block, Out};
use crate::sync::atomic::{AtomicBool, Ordering};
use crate::sync::{Mutex, lock};

/// The items of a block, or some of them that were taken out and not run.
pub(crate) enum Left<I: Items> {
    Items(I),
    Taken(Batch<I::Item>),
}

impl<I: Items> Left<I> {
    pub(crate) fn len(&self) -> usize {
        match self {
            Left::Items(items) => items.len(),
            Left::Taken(items) => items.len(),
        }
    }

    fn split_front(&mut self, count: usize) -> Self {
        match self {
            Left::Items(items) => Left::Items(items.split_front(count)),
            Left::Taken(items) => Left::Taken(items.split_front(count)),
        }
    }

    /// Whether to split it is the user's code.
    fn is_foreign(&self) -> bool {
        matches!(self, Left::Items(_))
    }
}

pub(crate) struct Spares<'r, I: Items, R> {
    /// A hint, so that nobody takes the lock in vain.
    any: AtomicBool,
    state: Mutex<State<'r, I, R>>,
}

struct State<'r, I: Items, R> {
    /// The last is claimed from first.
    blocks: Vec<Block<'r, Left<I>, R>>,
    /// How many blocks were taken out to be split, and will come back.
    out: usize,
}

impl<'r, I: Items, R> Spares<'r, I, R> {
    pub(crate) fn new() -> Self {
        let state = State { blocks: Vec::new(), out: 0 };
        Spares { any: AtomicBool::new(false), state: Mutex::new(state) }
    }

    pub(crate) fn push(&self, block: Block<'r, Left<I>, R>) {
        if block.items.len() > 0 {
            let mut state = lock(&self.state);
            state.blocks.push(block);
            // ORDERING: who must not miss it is notified after this; see `idle.rs`.
            self.any.store(true, Ordering::Relaxed);
        }
    }

    /// The next items below `stop`, for a worker that does `fit` of them in a slice.
    pub(crate) fn claim(&self, cut: Cut, fit: usize, stop: usize) -> Option<Block<'r, Left<I>, R>> {
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
                let count = cut.claim(block.items.len(), fit, 4);
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
    block: &mut Block<'r, Left<I>, R>,
    count: usize,
) -> Block<'r, Left<I>, R> {
    let (start, out): (usize, Out<'r, R>) = (block.start, block.out.split_front(count));
    block.start += count;
    Block { start, items: block.items.split_front(count), out }
}
