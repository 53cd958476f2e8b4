//! Who gets the next chunk, and of how many items. Pure.

use std::time::Duration;

/// The work in a chunk, where nobody set its size: some hundred times what it costs to ship one.
const CHUNK: Duration = Duration::from_millis(2);

/// The bytes in a chunk at the most, where nobody set its size: a message of this length is as fast per
/// byte as any.
const BYTES: usize = 1 << 20;

/// Chunks longer than this are not handed out ahead: to wait for one costs less than to have given it to
/// a rank that turns out slow.
const SLOW: Duration = Duration::from_millis(20);

/// One rank, as far as its work goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Seat {
    /// How many chunks it runs at a time; 0 if it does none, or is gone.
    workers: usize,
    /// How many it has.
    has: usize,
}

/// What rank 0 knows of the work of a call.
#[derive(Clone, Debug)]
pub(crate) struct Handout {
    seats: Vec<Seat>,
    /// Rank 0 runs its chunks on the thread that hands out; while it does, nobody gets anything.
    inline: bool,
    set_chunk: Option<usize>,
    /// How many items may be out and not be done with, where somebody set it.
    window: Option<usize>,
    /// Where nobody did: whether there is a window at all.
    stream: bool,
    /// How many items are left to hand out, where that is known.
    left: Option<usize>,
    /// How many are handed out and not done with: running, or waiting for the one who asked.
    open: usize,
    pace: Pace,
    /// Where the last chunk went.
    last: usize,
}

/// What items cost, as far as the last ones tell.
#[derive(Clone, Copy, Debug, Default)]
struct Pace {
    /// Nanoseconds for an item; `None` while nothing is known.
    nanos: Option<u64>,
    /// Bytes of an item, on its way there or back.
    bytes: usize,
    /// How many items the last chunk had that came back.
    chunk: usize,
}

impl Handout {
    /// `workers` of each rank; `len` items, if that is known.
    pub(crate) fn new(
        workers: &[usize],
        inline: bool,
        chunk: Option<usize>,
        window: Option<usize>,
        len: Option<usize>,
        stream: bool,
    ) -> Self {
        let seats = workers.iter().map(|workers| Seat { workers: *workers, has: 0 }).collect();
        let pace = Pace::default();
        let last = workers.len() - 1;
        Handout {
            seats,
            inline,
            set_chunk: chunk,
            window: window.filter(|_| stream),
            stream,
            left: len,
            open: 0,
            pace,
            last,
        }
    }

    /// How many items may be out and not be done with.
    fn window(&self) -> Option<usize> {
        // Twice what the ranks have room for: they go on while the first of a stream is waited for.
        let own = || 2 * self.room() * self.wanted();
        self.window.or_else(|| self.stream.then(own))
    }

    /// How many chunks there is room for at the ranks, with what they have ahead.
    fn room(&self) -> usize {
        self.seats.iter().map(|seat| seat.workers + seat.workers.div_ceil(2)).sum()
    }

    /// The rank that gets the next chunk; `None` while all have enough.
    ///
    /// The other ranks' workers first, then what they get ahead, and rank 0 last if it computes on the
    /// thread that hands out.
    pub(crate) fn seat(&self) -> Option<usize> {
        let ranks = self.seats.len();
        // From the one after the last, so that none is always the first.
        let others = || (1..=ranks).map(|step| (self.last + step) % ranks);
        let inline = |rank: &usize| *rank == 0 && self.inline;
        let room = |rank: &usize, ahead: bool| {
            let Seat { workers, has } = self.seats[*rank];
            has < workers + if ahead { self.ahead(workers) } else { 0 }
        };
        others()
            .find(|rank| !inline(rank) && room(rank, false))
            .or_else(|| others().find(|rank| !inline(rank) && room(rank, true)))
            .or_else(|| Some(0).filter(|rank| inline(rank) && room(rank, false)))
    }

    /// How long a chunk takes, as far as the last ones tell.
    pub(crate) fn time(&self) -> Option<Duration> {
        let nanos = self.pace.nanos?.saturating_mul(self.wanted() as u64);
        Some(Duration::from_nanos(nanos))
    }

    /// How many chunks a rank of `workers` has ahead.
    fn ahead(&self, workers: usize) -> usize {
        let slow = self.time().is_some_and(|time| time > SLOW);
        // With rank 0 at work itself, the others may have to wait for it.
        if slow && !(self.inline && self.seats[0].workers > 0) { 0 } else { workers.div_ceil(2) }
    }

    /// How many items a chunk is to have, if there are so many.
    fn wanted(&self) -> usize {
        if let Some(set) = self.set_chunk {
            return set.min(self.window.unwrap_or(set));
        }
        let Some(nanos) = self.pace.nanos else { return 1 };
        let time = (CHUNK.as_nanos() as u64 / nanos.max(1)) as usize;
        let bytes = BYTES / self.pace.bytes.max(1);
        time.min(bytes).min(4 * self.pace.chunk).max(1)
    }

    /// How many items the next chunk has; 0 while the window has no room for it.
    pub(crate) fn size(&self) -> usize {
        let mut size = self.wanted();
        if self.set_chunk.is_none() {
            // Something for each rank until the end.
            let workers: usize = self.seats.iter().map(|seat| seat.workers).sum();
            let share = |items: usize| (items / (2 * workers.max(1))).max(1);
            size = size.min(self.left.map_or(usize::MAX, share));
            size = size.min(self.window.map_or(usize::MAX, share));
        }
        let room = self.window().map_or(usize::MAX, |window| window - self.open.min(window));
        if room < size { 0 } else { size }
    }

    /// Rank `rank` gets a chunk of `items` new items.
    pub(crate) fn give(&mut self, rank: usize, items: usize) {
        self.open += items;
        self.left = self.left.map(|left| left.saturating_sub(items));
        self.give_again(rank);
    }

    /// Rank `rank` gets a chunk that another had.
    pub(crate) fn give_again(&mut self, rank: usize) {
        self.seats[rank].has += 1;
        self.last = rank;
    }

    /// Rank `rank` has done `items` items in `nanos`, which were `bytes` bytes.
    pub(crate) fn done(&mut self, rank: usize, items: usize, nanos: u64, bytes: usize) {
        self.seats[rank].has = self.seats[rank].has.saturating_sub(1);
        if items == 0 {
            return;
        }
        let new = nanos / items as u64;
        // Slow items count at once, cheap ones little by little.
        let nanos = self.pace.nanos.map_or(new, |old| new.max((3 * old + new) / 4));
        self.pace = Pace { nanos: Some(nanos), bytes: bytes / items, chunk: items };
    }

    /// `items` items are done with: the rank that asked has them.
    pub(crate) fn close(&mut self, items: usize) {
        self.open -= items;
    }

    /// Rank `rank` is gone, with all it had.
    pub(crate) fn lose(&mut self, rank: usize) {
        self.seats[rank] = Seat { workers: 0, has: 0 };
    }

    /// How many chunks rank `rank` has.
    pub(crate) fn has(&self, rank: usize) -> usize {
        self.seats[rank].has
    }

    /// Whether anybody is left to work.
    pub(crate) fn has_workers(&self) -> bool {
        self.seats.iter().any(|seat| seat.workers > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Hands out all that can be handed out now: `(rank, items)`.
    fn deal(handout: &mut Handout, mut left: usize) -> Vec<(usize, usize)> {
        let mut dealt = Vec::new();
        while let Some(rank) = handout.seat() {
            let items = handout.size().min(left);
            if items == 0 {
                break;
            }
            left -= items;
            handout.give(rank, items);
            dealt.push((rank, items));
        }
        dealt
    }

    #[test]
    fn everybody_works_before_anybody_gets_ahead() {
        let mut handout = Handout::new(&[1, 2, 1], false, Some(10), None, Some(1000), false);
        let ranks: Vec<usize> = deal(&mut handout, 1000).iter().map(|(rank, _)| *rank).collect();
        let (first, ahead) = ranks.split_at(4);
        assert_eq!(first.iter().filter(|rank| **rank == 1).count(), 2);
        assert!(first.contains(&0) && first.contains(&2));
        assert_eq!(ahead.len(), 3);
    }

    #[test]
    fn a_root_that_computes_while_it_hands_out_comes_last() {
        let mut handout = Handout::new(&[1, 1, 1], true, Some(1), None, Some(9), false);
        let ranks: Vec<usize> = deal(&mut handout, 9).iter().map(|(rank, _)| *rank).collect();
        assert_eq!(ranks, [1, 2, 1, 2, 0]);
    }

    #[test]
    fn a_root_that_does_not_compute_gets_nothing() {
        let mut handout = Handout::new(&[0, 1], true, None, None, Some(9), false);
        assert!(deal(&mut handout, 9).iter().all(|(rank, _)| *rank == 1));
    }

    #[test]
    fn a_set_chunk_is_exact() {
        let mut handout = Handout::new(&[2, 2], false, Some(7), None, Some(16), false);
        handout.done(0, 7, 1_000_000_000, 1 << 30);
        let sizes: Vec<usize> = deal(&mut handout, 16).iter().map(|(_, items)| *items).collect();
        assert_eq!(sizes, [7, 7, 2]);
    }

    #[test]
    fn cheap_items_travel_in_large_chunks_and_dear_ones_alone() {
        let mut handout = Handout::new(&[1, 1], false, None, None, Some(1_000_000), false);
        assert_eq!(handout.size(), 1);
        for _ in 0..10 {
            let items = handout.size();
            handout.give(1, items);
            handout.done(1, items, 100 * items as u64, 8 * items);
        }
        assert_eq!(handout.size(), 20_000);
        handout.give(1, 1);
        handout.done(1, 1, 1_000_000_000, 8);
        assert_eq!(handout.size(), 1);
    }

    #[test]
    fn a_chunk_is_never_many_bytes() {
        let mut handout = Handout::new(&[1, 1], false, None, None, None, false);
        for _ in 0..10 {
            let items = handout.size();
            handout.give(1, items);
            handout.done(1, items, items as u64, (items * BYTES) / 4);
        }
        assert_eq!(handout.size(), 4);
    }

    #[test]
    fn the_last_items_are_shared() {
        let mut handout = Handout::new(&[2, 2], false, None, None, Some(40), false);
        for _ in 0..5 {
            handout.done(1, 1000, 1000, 8000);
        }
        assert_eq!(handout.size(), 5);
    }

    #[test]
    fn the_window_is_strict() {
        for chunk in [None, Some(1), Some(3), Some(100)] {
            let mut handout = Handout::new(&[1, 3], false, chunk, Some(5), None, true);
            let mut open = 0;
            for _ in 0..100 {
                for (rank, items) in deal(&mut handout, usize::MAX) {
                    open += items;
                    handout.done(rank, items, 10, 10);
                }
                assert!((1..=5).contains(&open), "{open} with {chunk:?}");
                handout.close(1);
                open -= 1;
            }
        }
    }

    #[test]
    fn a_map_has_no_window() {
        let mut handout = Handout::new(&[2, 2], false, Some(3), Some(1), Some(100), false);
        let sizes: Vec<usize> = deal(&mut handout, 100).iter().map(|(_, items)| *items).collect();
        assert_eq!(sizes, [3; 6]);
    }

    #[test]
    fn slow_chunks_are_not_handed_out_ahead() {
        let slow = |inline| {
            let mut handout = Handout::new(&[1, 1, 1], inline, Some(1), None, None, false);
            handout.give(1, 1);
            handout.done(1, 1, 1_000_000_000, 8);
            deal(&mut handout, 100).len()
        };
        assert_eq!(slow(false), 3);
        assert_eq!(slow(true), 5);
    }

    #[test]
    fn a_lost_rank_gets_no_more() {
        let mut handout = Handout::new(&[0, 1, 1], false, Some(1), None, None, false);
        deal(&mut handout, 100);
        handout.lose(1);
        assert_eq!(handout.has(1), 0);
        handout.done(2, 1, 10, 8);
        assert_eq!(handout.seat(), Some(2));
        handout.lose(2);
        assert!(!handout.has_workers());
        assert_eq!(handout.seat(), None);
    }
}
