//! Results written in place, by many threads, into the memory of the `Vec` that is returned.
//!
//! A `Vec<Option<R>>` or a `Vec` per chunk costs 2 to 50 times as much for a cheap closure.

use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::ops::Range;

/// Places for results in one buffer: exclusive use of the indices `range`, none of them written.
pub(crate) struct Slots<'a, R> {
    /// The buffer's first element.
    base: *mut R,
    /// Within the buffer's capacity; no other `Slots` or `Run` of this buffer overlaps it.
    range: Range<usize>,
    /// Borrows the buffer. Invariant in `'a`, so that runs of two buffers cannot be mixed in [`fill`].
    buffer: PhantomData<&'a mut &'a mut [R]>,
}

// SAFETY: a `Slots` is an exclusive borrow of places for `R`, like `&mut [MaybeUninit<R>]`, which
// is `Send` where `R` is.
unsafe impl<R: Send> Send for Slots<'_, R> {}
// SAFETY: nothing can be done with a shared `Slots` but to ask for its length.
unsafe impl<R> Sync for Slots<'_, R> {}

impl<'a, R> Slots<'a, R> {
    pub(crate) fn len(&self) -> usize {
        self.range.len()
    }

    /// The first `mid` places, and the others.
    pub(crate) fn split_at(self, mid: usize) -> (Self, Self) {
        assert!(mid <= self.len());
        let middle = self.range.start + mid;
        let part = |range| Slots { base: self.base, range, buffer: PhantomData };
        (part(self.range.start..middle), part(middle..self.range.end))
    }
}

/// A run of results, written into the front of its [`Slots`]. Dropping it drops them.
pub(crate) struct Run<'a, R> {
    slots: Slots<'a, R>,
    /// How many are written, from the front.
    len: usize,
}

// SAFETY: a `Run` owns values of `R` and an exclusive borrow of places for more.
unsafe impl<R: Send> Send for Run<'_, R> {}
// SAFETY: a shared `Run` gives no access to its values.
unsafe impl<R> Sync for Run<'_, R> {}

impl<'a, R> Run<'a, R> {
    pub(crate) fn new(slots: Slots<'a, R>) -> Self {
        Run { slots, len: 0 }
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Writes `f` of what `items` yields until it ends, `f` fails or the slots are full.
    ///
    /// When `items` or `f` panics, what was written before is kept and `len` says how much that is.
    #[inline]
    pub(crate) fn extend<I: Iterator, E>(
        &mut self,
        items: I,
        f: impl Fn(I::Item) -> Result<R, E>,
    ) -> Result<(), E> {
        let (free, mut written) = self.free();
        for (place, item) in free.iter_mut().zip(items) {
            place.write(f(item)?);
            written.count += 1;
        }
        Ok(())
    }

    /// The same until `pause`, which is asked after every second item, is true; then those that are left
    /// are `taken` out. (After each one, it costs cheap items twice as much and wins nothing.)
    #[inline]
    pub(crate) fn extend_until<I: Iterator, E>(
        &mut self,
        items: I,
        f: impl Fn(I::Item) -> Result<R, E>,
        mut pause: impl FnMut() -> bool,
        taken: &mut Option<Vec<I::Item>>,
    ) -> Result<(), E> {
        let (free, mut written) = self.free();
        let mut pairs = free.iter_mut().zip(items);
        while let Some((place, item)) = pairs.next() {
            place.write(f(item)?);
            written.count += 1;
            if let Some((place, item)) = pairs.next() {
                place.write(f(item)?);
                written.count += 1;
            }
            if pause() {
                taken.insert(Vec::new()).extend(pairs.map(|(_, item)| item));
                break;
            }
        }
        Ok(())
    }

    /// The places that are not written, and who counts those that come to be.
    fn free(&mut self) -> (&mut [MaybeUninit<R>], Written<'_>) {
        let free = self.slots.range.start + self.len..self.slots.range.end;
        // SAFETY: they are within the buffer's capacity and nobody else's, this run is borrowed for as
        // long as they are, and `MaybeUninit` may be anything. That they were written is believed of
        // `Written` alone, which is told after each one, from the front.
        let places = unsafe {
            std::slice::from_raw_parts_mut(self.slots.base.add(free.start).cast(), free.len())
        };
        (places, Written { count: 0, len: &mut self.len })
    }

    /// Gives up the places that are not written.
    pub(crate) fn split_off_free(&mut self) -> Slots<'a, R> {
        let written = self.slots.range.start + self.len;
        let free = written..self.slots.range.end;
        self.slots.range.end = written;
        Slots { base: self.slots.base, range: free, buffer: PhantomData }
    }

    /// Takes `next` in when it begins where this one ends; gives it back otherwise.
    pub(crate) fn append(&mut self, next: Self) -> Result<(), Self> {
        let full = self.len == self.slots.len();
        if !(full && self.slots.range.end == next.slots.range.start) {
            return Err(next);
        }
        // Both are of one buffer, for both have its lifetime; so the ranges are neighbours there.
        self.slots.range.end = next.slots.range.end;
        self.len += next.len;
        std::mem::forget(next);
        Ok(())
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

impl<R> Drop for Run<'_, R> {
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
    write: impl for<'a> FnOnce(Slots<'a, R>) -> (Vec<Run<'a, R>>, T),
) -> (Vec<R>, T) {
    buffer.clear();
    assert!(len <= buffer.capacity());
    let (mut runs, rest) =
        write(Slots { base: buffer.as_mut_ptr(), range: 0..len, buffer: PhantomData });
    runs.retain(|run| run.len > 0);
    runs.sort_unstable_by_key(|run| run.slots.range.start);
    let mut end = 0;
    for run in &runs {
        assert_eq!(run.slots.range.start, end, "a run of results is missing");
        end += run.len;
    }
    runs.into_iter().for_each(std::mem::forget);
    // SAFETY: `'a` is any lifetime to `write`, so its runs are of these slots and of no others, and
    // no two of them overlap; they join from 0 to `end` without a gap, so all of `0..end` is
    // written. The runs are forgotten: the vector is the only owner.
    unsafe { buffer.set_len(end) };
    (buffer, rest)
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
            let mut runs = vec![Run::new(back), Run::new(front)];
            runs[0].extend(ok(text(4..10)), |value| value).unwrap();
            runs[1].extend(ok(text(0..4)), |value| value).unwrap();
            (runs, ())
        });
        assert_eq!(filled, text(0..10).collect::<Vec<_>>());
    }

    #[test]
    fn a_run_takes_in_its_neighbour_and_no_other() {
        let (filled, ()) = fill(Vec::with_capacity(6), 6, |slots| {
            let (a, rest) = slots.split_at(2);
            let (b, c) = rest.split_at(2);
            let [mut a, mut b, mut c] = [a, b, c].map(Run::new);
            a.extend(ok(text(0..2)), |value| value).unwrap();
            b.extend(ok(text(2..4)), |value| value).unwrap();
            c.extend(ok(text(4..6)), |value| value).unwrap();
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
            let mut run = Run::new(slots);
            run.extend(ok(text(0..100)), |value| value).unwrap();
            (vec![run], ())
        });
        assert_eq!(filled.len(), 3);
    }

    #[test]
    fn a_short_fill_is_a_short_vector_and_a_dropped_run_drops_its_values() {
        let (filled, ()) = fill(Vec::with_capacity(8), 8, |slots| {
            let (front, back) = slots.split_at(4);
            let mut front = Run::new(front);
            front.extend(ok(text(0..2)), |value| value).unwrap();
            let mut dropped = Run::new(back);
            dropped.extend(ok(text(0..4)), |value| value).unwrap();
            (vec![front], ())
        });
        assert_eq!(filled, ["0", "1"]);
    }

    #[test]
    #[should_panic(expected = "missing")]
    fn a_gap_is_no_vector() {
        fill(Vec::with_capacity(4), 4, |slots| {
            let mut run = Run::new(slots.split_at(2).1);
            run.extend(ok(text(0..2)), |value| value).unwrap();
            (vec![run], ())
        });
    }

    #[test]
    fn zero_sized_results() {
        let (filled, ()) = fill(Vec::new(), 1000, |slots| {
            let (front, back) = slots.split_at(1);
            let mut run = Run::new(front);
            run.extend([Ok::<(), Never>(())].into_iter(), |value| value).unwrap();
            let mut rest = Run::new(back);
            rest.extend((1..1000).map(|_| Ok::<(), Never>(())), |value| value).unwrap();
            assert!(run.append(rest).is_ok());
            (vec![run], ())
        });
        assert_eq!(filled.len(), 1000);
    }
}
