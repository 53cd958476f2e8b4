//! What is left of blocks that turned out dear, for all workers to share.
//!
//! It is claimed from the front, in the small portions of somebody who knows nothing of the items yet.
//! To hand out halves would not do: expensive neighbours would stay in the one half, with one worker.

use std::sync::atomic::{AtomicBool, Ordering};

use crate::chunk::Cut;
use crate::panic::discard;
use crate::source::{Batch, Block, Items};
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
}

pub(crate) struct Spares<'r, I: Items, R> {
    /// A hint, so that nobody takes the lock in vain.
    any: AtomicBool,
    /// The last is claimed from first.
    blocks: Mutex<Vec<Block<'r, Left<I>, R>>>,
}

impl<'r, I: Items, R> Spares<'r, I, R> {
    pub(crate) fn new() -> Self {
        Spares { any: AtomicBool::new(false), blocks: Mutex::default() }
    }

    pub(crate) fn push(&self, block: Block<'r, Left<I>, R>) {
        if block.items.len() > 0 {
            let mut blocks = lock(&self.blocks);
            blocks.push(block);
            // ORDERING: who must not miss it is called through the queue after this.
            self.any.store(true, Ordering::Relaxed);
        }
    }

    /// The next items below `stop`, for somebody who does `fit` of them in a slice.
    pub(crate) fn claim(&self, cut: Cut, fit: usize, stop: usize) -> Option<Block<'r, Left<I>, R>> {
        if !self.any.load(Ordering::Relaxed) {
            return None;
        }
        let mut unwanted = Vec::new();
        let claimed = {
            let mut blocks = lock(&self.blocks);
            while blocks.last().is_some_and(|block| block.start >= stop) {
                unwanted.extend(blocks.pop());
            }
            let claimed = blocks.last_mut().map(|block| {
                let count = cut.claim(block.items.len(), fit, 4);
                let (start, out) = (block.start, block.out.split_front(count));
                block.start += count;
                Block { start, items: block.items.split_front(count), out }
            });
            if blocks.last().is_some_and(|block| block.items.len() == 0) {
                blocks.pop();
            }
            self.any.store(!blocks.is_empty(), Ordering::Relaxed);
            claimed
        };
        discard(unwanted);
        claimed
    }

    pub(crate) fn has_more(&self, stop: usize) -> bool {
        lock(&self.blocks).iter().any(|block| block.start < stop)
    }
}
