//! Results written in place, by many threads, into the memory of the `Vec` that is returned.
//!
//! A `Vec<Option<R>>` or a `Vec` per chunk costs 2 to 50 times as much for a cheap closure.

use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::ops::Range;
use std::sync::Arc;

/// Places for results in one buffer: exclusive use of the indices `range`, none of them written.
pub(crate) struct OutputSlots<'a, R> {
    /// The buffer's first element.
    base: *mut R,
    /// Within the buffer's capacity; no other `OutputSlots` or `OutputRun` of this buffer overlaps it.
    range: Range<usize>,
    /// Borrows the buffer, or keeps it alive, if it is that of a [`SharedOutput`].
    buffer: PhantomData<&'a mut &'a mut [R]>,
    keeper: Option<Arc<Memory<R>>>,
}

// SAFETY: a `OutputSlots` is exclusive use of places for `R`, like `&mut [MaybeUninit<R>]`, which is `Send`
// where `R` is; so is an `Arc<Memory<R>>`.
unsafe impl<R: Send> Send for OutputSlots<'_, R> {}
// SAFETY: nothing can be done with a shared `OutputSlots` but to ask for its length.
unsafe impl<R> Sync for OutputSlots<'_, R> {}

/// A buffer that is freed with the last `OutputSlots` or `OutputRun` of it. In here it is empty.
struct Memory<R>(Vec<R>);

// SAFETY: nothing can be done with a shared `Memory` but to keep it.
unsafe impl<R> Sync for Memory<R> {}

impl<'a, R> OutputSlots<'a, R> {
    pub(crate) fn len(&self) -> usize {
        self.range.len()
    }

    /// The first `mid` places, and the others.
    pub(crate) fn split_at(self, mid: usize) -> (Self, Self) {
        assert!(mid <= self.len());
        let middle = self.range.start + mid;
        let back =
            OutputSlots { range: middle..self.range.end, keeper: self.keeper.clone(), ..self };
        (OutputSlots { range: self.range.start..middle, ..self }, back)
    }
}

/// A run of results, written into the front of its [`OutputSlots`]. Dropping it drops them.
pub(crate) struct OutputRun<'a, R> {
    slots: OutputSlots<'a, R>,
    /// How many are written, from the front.
    len: usize,
}

// SAFETY: a `OutputRun` owns values of `R` and an exclusive borrow of places for more.
unsafe impl<R: Send> Send for OutputRun<'_, R> {}
// SAFETY: a shared `OutputRun` gives no access to its values.
unsafe impl<R> Sync for OutputRun<'_, R> {}

impl<'a, R> OutputRun<'a, R> {
    pub(crate) fn new(slots: OutputSlots<'a, R>) -> Self {
        OutputRun { slots, len: 0 }
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Writes `f` of the next `count` of `items`; of fewer if `items` ends, `f` fails or the slots are full.
    ///
    /// When `items` or `f` panics, what was written before is kept and `len` says how much that is.
    #[inline]
    pub(crate) fn extend<I: Iterator, E>(
        &mut self,
        count: usize,
        items: &mut I,
        f: impl Fn(I::Item) -> Result<R, E>,
    ) -> Result<(), E> {
        let (free, mut written) = self.free(count);
        for (place, item) in free.iter_mut().zip(items) {
            place.write(f(item)?);
            written.count += 1;
        }
        Ok(())
    }

    /// The same until `pause`, which is asked after every second item, is true: whether it was. (After each
    /// one, it costs cheap items twice as much and wins nothing.)
    #[inline]
    pub(crate) fn extend_until<I: Iterator, E>(
        &mut self,
        count: usize,
        items: &mut I,
        f: impl Fn(I::Item) -> Result<R, E>,
        mut pause: impl FnMut() -> bool,
    ) -> Result<bool, E> {
        let (free, mut written) = self.free(count);
        let mut at = 0;
        while at < free.len() {
            let Some(item) = items.next() else { break };
            free[at].write(f(item)?);
            at += 1;
            written.count = at;
            if at < free.len() {
                let Some(item) = items.next() else { break };
                free[at].write(f(item)?);
                at += 1;
                written.count = at;
            }
            if pause() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The next `count` places that are not written, or as many as there are, and what counts those that
    /// come to be.
    fn free(&mut self, count: usize) -> (&mut [MaybeUninit<R>], Written<'_>) {
        let begin = self.slots.range.start + self.len;
        let free = begin..self.slots.range.end.min(begin.saturating_add(count));
        // SAFETY: they are within the buffer's capacity and nobody else's, this run is borrowed for as
        // long as they are, and `MaybeUninit` may be anything. That they were written is believed of
        // `Written` alone, which is told after each one, from the front.
        let places = unsafe {
            std::slice::from_raw_parts_mut(self.slots.base.add(free.start).cast(), free.len())
        };
        (places, Written { count: 0, len: &mut self.len })
    }

    /// Gives up the places that are not written.
    pub(crate) fn split_off_free(&mut self) -> OutputSlots<'a, R> {
        let written = self.slots.range.start + self.len;
        let free = written..self.slots.range.end;
        self.slots.range.end = written;
        let keeper = self.slots.keeper.clone();
        OutputSlots { base: self.slots.base, range: free, buffer: PhantomData, keeper }
    }

    /// Takes `next` in when it begins where this one ends; gives it back otherwise.
    pub(crate) fn append(&mut self, next: Self) -> Result<(), Self> {
        let full = self.len == self.slots.len();
        let neighbours = self.slots.range.end == next.slots.range.start;
        if !(full && neighbours && self.is_of(next.slots.base)) {
            return Err(next);
        }
        self.slots.range.end = next.slots.range.end;
        self.len += next.forget();
        Ok(())
    }

    /// Whether it is of the buffer that begins at `base`; where values take no room, it is of any.
    fn is_of(&self, base: *const R) -> bool {
        std::ptr::eq(self.slots.base, base)
    }

    /// Leaves its values, that many, to somebody else.
    fn forget(mut self) -> usize {
        self.slots.keeper = None;
        std::mem::replace(&mut self.len, 0)
    }
}

/// How many places were written. It may stay in a register until this is dropped, also by a panic: to
/// add to a number in memory takes longer than a cheap item.
struct Written<'w> {
    count: usize,
    len: &'w mut usize,
}

impl Drop for Written<'_> {
    fn drop(&mut self) {
        *self.len += self.count;
    }
}

impl<R> Drop for OutputRun<'_, R> {
    fn drop(&mut self) {
        let written = std::ptr::slice_from_raw_parts_mut(
            self.slots.base.wrapping_add(self.slots.range.start),
            self.len,
        );
        // SAFETY: the first `len` places were written, belong to this run, and are dropped once.
        unsafe { written.drop_in_place() };
    }
}

/// Has the first `len` places of `buffer` written by `write`, in any order and on any thread.
///
/// `write` gets the places and returns the runs that were written, which must join without a gap
/// from index 0; the returned vector holds them. `buffer` is emptied first and keeps its memory.
pub(crate) fn fill<R, T>(
    mut buffer: Vec<R>,
    len: usize,
    write: impl for<'a> FnOnce(OutputSlots<'a, R>) -> (Vec<OutputRun<'a, R>>, T),
) -> (Vec<R>, T) {
    buffer.clear();
    assert!(len <= buffer.capacity());
    let base = buffer.as_mut_ptr();
    let (runs, rest) =
        write(OutputSlots { base, range: 0..len, buffer: PhantomData, keeper: None });
    let end = join(base, runs);
    // SAFETY: all of `0..end` is written, says `join`, and nobody else's.
    unsafe { buffer.set_len(end) };
    (buffer, rest)
}

/// Takes the values of `runs`, which must be of the buffer at `base` and join without a gap from its
/// beginning: how many there are. They belong to the owner of the buffer.
///
/// (Two buffers that both have room for values are at two places; that runs of one do not overlap is
/// the promise of every `OutputSlots`.)
fn join<R>(base: *const R, mut runs: Vec<OutputRun<'_, R>>) -> usize {
    runs.retain(|run| run.len > 0);
    runs.sort_unstable_by_key(|run| run.slots.range.start);
    let mut end = 0;
    for run in &runs {
        assert!(run.is_of(base), "a run of another buffer");
        assert_eq!(run.slots.range.start, end, "a run of results is missing");
        end += run.len;
    }
    runs.into_iter().map(OutputRun::forget).sum()
}

/// What [`fill`] is for somebody who does not wait: room for results that lives as long as anybody has
/// a part of it.
pub(crate) struct SharedOutput<R>(Arc<Memory<R>>);

impl<R> SharedOutput<R> {
    /// The memory of `buffer`, which is emptied first, with its first `len` places.
    pub(crate) fn new<'a>(mut buffer: Vec<R>, len: usize) -> (Self, OutputSlots<'a, R>)
    where
        R: 'a,
    {
        buffer.clear();
        assert!(len <= buffer.capacity());
        let base = buffer.as_mut_ptr();
        let memory = Arc::new(Memory(buffer));
        let keeper = Some(Arc::clone(&memory));
        (SharedOutput(memory), OutputSlots { base, range: 0..len, buffer: PhantomData, keeper })
    }

    /// The vector of all that was written: the values of `runs`, which must be of this room and join
    /// without a gap from index 0.
    ///
    /// # Panics
    /// If they are not, or if anybody has a part of the room left.
    pub(crate) fn collect(self, runs: Vec<OutputRun<'_, R>>) -> Vec<R> {
        let SharedOutput(memory) = self;
        let end = join(memory.0.as_ptr(), runs);
        let Memory(mut buffer) = Arc::into_inner(memory).expect("all places were given back");
        // SAFETY: all of `0..end` is written, says `join`, and nobody else's. Moving the vector has
        // not moved what it points to.
        unsafe { buffer.set_len(end) };
        buffer
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Never = std::convert::Infallible;

    fn ok(values: impl IntoIterator<Item = String>) -> impl Iterator<Item = Result<String, Never>> {
        values.into_iter().map(Ok)
    }

    fn text(range: Range<usize>) -> impl Iterator<Item = String> {
        range.map(|i| i.to_string())
    }

    #[test]
    fn runs_written_in_any_order_join_in_index_order() {
        let (filled, ()) = fill(Vec::with_capacity(10), 10, |slots| {
            let (front, back) = slots.split_at(4);
            let mut runs = vec![OutputRun::new(back), OutputRun::new(front)];
            runs[0].extend(usize::MAX, &mut ok(text(4..10)), |value| value).unwrap();
            runs[1].extend(usize::MAX, &mut ok(text(0..4)), |value| value).unwrap();
            (runs, ())
        });
        assert_eq!(filled, text(0..10).collect::<Vec<_>>());
    }

    #[test]
    fn a_run_takes_in_its_neighbour_and_no_other() {
        let (filled, ()) = fill(Vec::with_capacity(6), 6, |slots| {
            let (a, rest) = slots.split_at(2);
            let (b, c) = rest.split_at(2);
            let [mut a, mut b, mut c] = [a, b, c].map(OutputRun::new);
            a.extend(usize::MAX, &mut ok(text(0..2)), |value| value).unwrap();
            b.extend(usize::MAX, &mut ok(text(2..4)), |value| value).unwrap();
            c.extend(usize::MAX, &mut ok(text(4..6)), |value| value).unwrap();
            let c = a.append(c).unwrap_err();
            assert!(a.append(b).is_ok());
            assert!(a.append(c).is_ok());
            (vec![a], ())
        });
        assert_eq!(filled.len(), 6);
    }

    #[test]
    fn a_run_writes_no_further_than_its_slots() {
        let (filled, ()) = fill(Vec::with_capacity(3), 3, |slots| {
            let mut run = OutputRun::new(slots);
            run.extend(usize::MAX, &mut ok(text(0..100)), |value| value).unwrap();
            (vec![run], ())
        });
        assert_eq!(filled.len(), 3);
    }

    #[test]
    fn a_short_fill_is_a_short_vector_and_a_dropped_run_drops_its_values() {
        let (filled, ()) = fill(Vec::with_capacity(8), 8, |slots| {
            let (front, back) = slots.split_at(4);
            let mut front = OutputRun::new(front);
            front.extend(usize::MAX, &mut ok(text(0..2)), |value| value).unwrap();
            let mut dropped = OutputRun::new(back);
            dropped.extend(usize::MAX, &mut ok(text(0..4)), |value| value).unwrap();
            (vec![front], ())
        });
        assert_eq!(filled, ["0", "1"]);
    }

    #[test]
    fn a_room_is_collected_by_the_last_to_have_a_part_of_it() {
        let (room, slots) = SharedOutput::new(Vec::with_capacity(10), 9);
        let (front, back) = slots.split_at(4);
        let threads = [(front, 0..4), (back, 4..8)].map(|(slots, range)| {
            std::thread::spawn(move || {
                let mut run = OutputRun::new(slots);
                run.extend(usize::MAX, &mut ok(text(range)), |value| value).unwrap();
                drop(run.split_off_free());
                run
            })
        });
        let runs = threads.map(|thread| thread.join().unwrap()).into();
        assert_eq!(room.collect(runs), text(0..8).collect::<Vec<_>>());
    }

    #[test]
    fn a_room_may_go_before_its_runs() {
        let (room, slots) = SharedOutput::<String>::new(Vec::new(), 0);
        assert_eq!(room.collect(vec![OutputRun::new(slots)]), [""; 0]);
        let (room, slots) = SharedOutput::new(Vec::with_capacity(2), 2);
        let mut run = OutputRun::new(slots);
        run.extend(usize::MAX, &mut ok(text(0..1)), |value| value).unwrap();
        drop(room);
        run.extend(usize::MAX, &mut ok(text(1..2)), |value| value).unwrap();
        assert_eq!(run.len(), 2);
    }

    #[test]
    fn neighbours_by_number_in_two_rooms_do_not_join() {
        let (room, slots) = SharedOutput::new(Vec::with_capacity(1), 1);
        let (_other, others) = SharedOutput::new(Vec::with_capacity(2), 2);
        let (mut run, mut stranger) = (OutputRun::new(slots), OutputRun::new(others.split_at(1).1));
        run.extend(usize::MAX, &mut ok(text(0..1)), |value| value).unwrap();
        stranger.extend(usize::MAX, &mut ok(text(1..2)), |value| value).unwrap();
        let stranger = run.append(stranger).unwrap_err();
        assert_eq!(stranger.len(), 1);
        assert_eq!(room.collect(vec![run]), ["0"]);
    }

    #[test]
    #[should_panic(expected = "another")]
    fn the_run_of_another_room_is_not_collected() {
        let (room, _slots) = SharedOutput::new(Vec::with_capacity(1), 1);
        let (_other, others) = SharedOutput::new(Vec::with_capacity(1), 1);
        let mut run = OutputRun::new(others);
        run.extend(usize::MAX, &mut ok(text(0..1)), |value| value).unwrap();
        room.collect(vec![run]);
    }

    #[test]
    #[should_panic(expected = "given back")]
    fn a_room_that_somebody_is_in_is_not_collected() {
        let (room, slots) = SharedOutput::<String>::new(Vec::with_capacity(1), 1);
        room.collect(Vec::new());
        drop(slots);
    }

    #[test]
    #[should_panic(expected = "missing")]
    fn a_gap_is_no_vector() {
        fill(Vec::with_capacity(4), 4, |slots| {
            let mut run = OutputRun::new(slots.split_at(2).1);
            run.extend(usize::MAX, &mut ok(text(0..2)), |value| value).unwrap();
            (vec![run], ())
        });
    }

    #[test]
    fn zero_sized_results() {
        let (filled, ()) = fill(Vec::new(), 1000, |slots| {
            let (front, back) = slots.split_at(1);
            let mut run = OutputRun::new(front);
            run.extend(1, &mut [Ok::<(), Never>(())].into_iter(), |value| value).unwrap();
            let mut rest = OutputRun::new(back);
            rest.extend(999, &mut (1..1000).map(|_| Ok::<(), Never>(())), |value| value).unwrap();
            assert!(run.append(rest).is_ok());
            (vec![run], ())
        });
        assert_eq!(filled.len(), 1000);
    }
}
