//! Results on their way from one thread to another, each published as soon as it is there.
//!
//! A channel has room for a known number of results. Its [`Writer`] fills it from the front, its
//! [`Reader`] empties it from the front, and neither locks anything: that is what a stream of tiny
//! items costs most by.
//!
//! The reader may ask to hear of the moment at which a number of results are there. Both sides then
//! change `written`, the writer by one and the reader by nothing; so of each two such changes one is
//! the later and sees what went before the other: the writer the question, or the reader the result.

use std::mem::MaybeUninit;

use crossbeam_utils::CachePadded;

use crate::panic::discard;
use crate::sync::{Arc, UnsafeCell, atomic::AtomicBool, atomic::AtomicUsize, atomic::Ordering};

/// A channel for `len` results.
pub(crate) fn channel<T>(len: usize) -> (Writer<T>, Reader<T>) {
    let mut places = Vec::with_capacity(len);
    places.resize_with(len, || UnsafeCell::new(MaybeUninit::uninit()));
    let channel = Arc::new(Lane {
        head: CachePadded::new(Head {
            written: AtomicUsize::new(0),
            asked: AtomicUsize::new(NEVER),
            urgent: AtomicBool::new(false),
        }),
        taken: AtomicUsize::new(0),
        places: places.into_boxed_slice(),
    });
    (Writer { channel: Arc::clone(&channel), written: 0 }, Reader { channel, taken: 0, seen: 0 })
}

struct Lane<T> {
    head: CachePadded<Head>,
    /// How many were taken, left here by the reader when it goes.
    taken: AtomicUsize,
    places: Box<[UnsafeCell<MaybeUninit<T>>]>,
}

struct Head {
    /// How many places are written. Only the writer lets it grow.
    written: AtomicUsize,
    /// At how many the reader wants to hear of it.
    asked: AtomicUsize,
    /// The reader has had nothing for a while.
    urgent: AtomicBool,
}

/// Nothing is asked.
const NEVER: usize = usize::MAX;

// SAFETY: a place is written by the one `Writer` before `written` says so, and read by the one
// `Reader` after; so a channel hands values of `T` from thread to thread and never shares one.
unsafe impl<T: Send> Sync for Lane<T> {}
// SAFETY: as above; it owns values of `T`.
unsafe impl<T: Send> Send for Lane<T> {}

/// The end that results go in at.
pub(crate) struct Writer<T> {
    channel: Arc<Lane<T>>,
    /// `Lane::written`, which nobody else changes.
    written: usize,
}

impl<T> Writer<T> {
    /// Makes `value` available. True if the reader asked to hear of it, and it is to be told.
    ///
    /// # Panics
    /// If the channel is full.
    #[inline]
    pub(crate) fn push(&mut self, value: T) -> bool {
        let place = &self.channel.places[self.written];
        // SAFETY: there is one writer, which is borrowed here. The reader does not look at a place
        // before `written` has passed it, nor does `Lane::drop`.
        place.with_mut(|place| unsafe { (*place).write(value) });
        self.written += 1;
        let head = &self.channel.head;
        // ORDERING: release, so that the reader sees the value; acquire, so that this thread sees
        // what was asked if the reader's `ask` came first.
        head.written.fetch_add(1, Ordering::AcqRel);
        let asked = head.asked.load(Ordering::Relaxed);
        // If something else is asked meanwhile, the answer is the reader's own: it has seen this value.
        self.written >= asked
            && head
                .asked
                .compare_exchange(asked, NEVER, Ordering::Relaxed, Ordering::Relaxed)
                .is_ok()
    }

    /// How many more there is room for.
    #[inline]
    pub(crate) fn room(&self) -> usize {
        self.channel.places.len() - self.written
    }

    /// Does what the reader's [`ask`](Reader::ask) does, in its place: before the reader has the channel.
    pub(crate) fn expect(&mut self, count: usize, urgent: bool) {
        let head = &self.channel.head;
        let wanted = (self.written + count).min(self.channel.places.len());
        // ORDERING: whatever gives the reader its end of the channel orders these before all it does.
        head.urgent.store(urgent, Ordering::Relaxed);
        head.asked.store(wanted, Ordering::Relaxed);
    }

    /// Whether the reader has had nothing for a while.
    #[inline]
    pub(crate) fn is_urgent(&self) -> bool {
        // ORDERING: advice.
        self.channel.head.urgent.load(Ordering::Relaxed)
    }
}

/// The end that results come out of.
pub(crate) struct Reader<T> {
    channel: Arc<Lane<T>>,
    taken: usize,
    /// How many are known to be written.
    seen: usize,
}

impl<T> Reader<T> {
    /// The next result, if it is there.
    #[inline]
    pub(crate) fn pop(&mut self) -> Option<T> {
        if !self.has_next() {
            return None;
        }
        let place = &self.channel.places[self.taken];
        self.taken += 1;
        // SAFETY: `taken` was below `seen`, which was read from `written` with acquire, so the value
        // is there and this thread sees it. There is one reader, which is borrowed here and has
        // counted the place as taken, so the value is moved out once.
        Some(place.with_mut(|place| unsafe { (*place).assume_init_read() }))
    }

    /// Whether there is a next result.
    #[inline]
    pub(crate) fn has_next(&mut self) -> bool {
        if self.taken == self.seen {
            // ORDERING: pairs with the release in `push`.
            self.seen = self.channel.head.written.load(Ordering::Acquire);
        }
        self.taken < self.seen
    }

    /// Whether `count` more results are there. If not, [`push`](Writer::push) will say so of the last
    /// of them, unless something else is asked before; and `urgent` is what the writer is told.
    pub(crate) fn ask(&mut self, count: usize, urgent: bool) -> bool {
        let head = &self.channel.head;
        let wanted = (self.taken + count).min(self.channel.places.len());
        head.urgent.store(urgent, Ordering::Relaxed);
        head.asked.store(wanted, Ordering::Relaxed);
        // ORDERING: release, so that a writer that changes it later sees what is asked; acquire, so
        // that what an earlier one has written is seen.
        self.seen = head.written.fetch_add(0, Ordering::AcqRel);
        self.seen >= wanted
    }

    /// It is not urgent for the writer any more.
    pub(crate) fn clear_urgent(&self) {
        self.channel.head.urgent.store(false, Ordering::Relaxed);
    }
}

impl<T> Drop for Reader<T> {
    /// Drops what is there; what comes later goes with the writer.
    fn drop(&mut self) {
        while let Some(value) = self.pop() {
            discard(value);
        }
        // ORDERING: read by `Lane::drop` only, which comes after the drop of this `Arc`.
        self.channel.taken.store(self.taken, Ordering::Relaxed);
    }
}

impl<T> Drop for Lane<T> {
    fn drop(&mut self) {
        // ORDERING: this is the last owner, and the drop of the others came before.
        let taken = self.taken.load(Ordering::Relaxed);
        let written = self.head.written.load(Ordering::Relaxed);
        for place in &self.places[taken..written] {
            // SAFETY: both ends are gone. Places below `written` were written, and the reader has left
            // in `taken` how many of them it moved out.
            discard(place.with_mut(|place| unsafe { (*place).assume_init_read() }));
        }
    }
}

#[cfg(all(test, loom))]
mod models {
    use super::*;
    use crate::sync::{Mutex, lock, model};
    use loom::sync::Notify;
    use loom::thread;

    /// Each result is seen once, in order, as it was written.
    #[test]
    fn results_cross_in_order() {
        model(|| {
            let (mut writer, mut reader) = channel(2);
            let thread = thread::spawn(move || {
                writer.push(Box::new(1));
                writer.push(Box::new(2));
            });
            let mut seen = Vec::new();
            while seen.len() < 2 {
                match reader.pop() {
                    Some(value) => seen.push(*value),
                    None => thread::yield_now(),
                }
            }
            assert_eq!(seen, [1, 2]);
            thread.join().unwrap();
        });
    }

    /// Who asks and is told no is told later: the reader sleeps and is always woken.
    #[test]
    fn no_answer_is_lost() {
        for count in 1..=3 {
            model(move || {
                let (mut writer, mut reader) = channel(3);
                let consumer_waker = Arc::new(Notify::new());
                let rings = Arc::clone(&consumer_waker);
                let thread = thread::spawn(move || {
                    for i in 0..3 {
                        if writer.push(Box::new(i)) {
                            rings.notify();
                        }
                    }
                });
                for i in 0..3 {
                    let value = loop {
                        match reader.pop() {
                            Some(value) => break value,
                            None if reader.ask(count, false) => {}
                            None => consumer_waker.wait(),
                        }
                    };
                    assert_eq!(*value, i);
                }
                thread.join().unwrap();
            });
        }
    }

    /// Whichever end goes first, what was not taken is dropped, once.
    #[test]
    fn what_is_left_is_dropped_once() {
        struct Counted(Arc<Mutex<usize>>);
        impl Drop for Counted {
            fn drop(&mut self) {
                *lock(&self.0) += 1;
            }
        }
        model(|| {
            let drops = Arc::new(Mutex::new(0));
            let (mut writer, mut reader) = channel(2);
            let thread = thread::spawn({
                let drops = Arc::clone(&drops);
                move || {
                    writer.push(Counted(Arc::clone(&drops)));
                    writer.push(Counted(drops));
                }
            });
            drop(reader.pop());
            drop(reader);
            thread.join().unwrap();
            assert_eq!(*lock(&drops), 2);
        });
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicUsize;
    use std::thread;

    #[test]
    fn results_come_in_order_while_they_are_written() {
        const LEN: usize = if cfg!(miri) { 50 } else { 10_000 };
        let (mut writer, mut reader) = channel(LEN);
        thread::scope(|scope| {
            scope.spawn(move || (0..LEN).for_each(|i| _ = writer.push(i.to_string())));
            for i in 0..LEN {
                let value = loop {
                    match reader.pop() {
                        Some(value) => break value,
                        None => thread::yield_now(),
                    }
                };
                assert_eq!(value, i.to_string());
            }
        });
        assert!(reader.pop().is_none());
    }

    #[test]
    fn what_is_asked_is_answered_once() {
        let (mut writer, mut reader) = channel(10);
        assert!(!writer.push(0));
        assert!(!reader.ask(3, false));
        assert_eq!([writer.push(1), writer.push(2), writer.push(3)], [false, true, false]);
        assert!(reader.ask(3, true));
        assert!(writer.is_urgent());
        assert_eq!(std::iter::from_fn(|| reader.pop()).collect::<Vec<_>>(), [0, 1, 2, 3]);
        // More than there will be.
        assert!(!reader.ask(100, false));
        assert!(!writer.is_urgent());
        let told: Vec<bool> = (4..10).map(|i| writer.push(i)).collect();
        assert_eq!(told, [false, false, false, false, false, true]);
    }

    #[test]
    fn what_the_writer_expects_is_answered_as_if_it_was_asked() {
        let (mut writer, mut reader) = channel(3);
        writer.expect(2, true);
        assert!(writer.is_urgent());
        assert_eq!([writer.push(0), writer.push(1)], [false, true]);
        assert_eq!(writer.room(), 1);
        assert!(!writer.push(2));
        assert_eq!(writer.room(), 0);
        reader.clear_urgent();
        assert!(!writer.is_urgent());
        assert_eq!(std::iter::from_fn(|| reader.pop()).collect::<Vec<_>>(), [0, 1, 2]);
    }

    /// Each wait ends: who asks and is told no is told later.
    #[test]
    fn no_answer_is_lost() {
        const LEN: usize = if cfg!(miri) { 30 } else { 20_000 };
        let (mut writer, mut reader) = channel(LEN);
        let main = thread::current();
        thread::scope(|scope| {
            scope.spawn(move || {
                for i in 0..LEN {
                    if writer.push(i) {
                        main.unpark();
                    }
                }
            });
            for i in 0..LEN {
                let value = loop {
                    if let Some(value) = reader.pop() {
                        break value;
                    }
                    if !reader.ask(1 + i % 3, false) {
                        thread::park();
                    }
                };
                assert_eq!(value, i);
            }
        });
    }

    #[test]
    fn what_is_not_taken_is_dropped_once() {
        static DROPS: AtomicUsize = AtomicUsize::new(0);
        struct Counted;
        impl Drop for Counted {
            fn drop(&mut self) {
                // ORDERING: a counter of a test, on one thread.
                DROPS.fetch_add(1, Ordering::Relaxed);
            }
        }
        let (mut writer, mut reader) = channel(10);
        for _ in 0..5 {
            writer.push(Counted);
        }
        drop(reader.pop());
        assert_eq!(DROPS.load(Ordering::Relaxed), 1);
        drop(reader);
        assert_eq!(DROPS.load(Ordering::Relaxed), 5);
        writer.push(Counted);
        assert_eq!(DROPS.load(Ordering::Relaxed), 5);
        drop(writer);
        assert_eq!(DROPS.load(Ordering::Relaxed), 6);

        let (mut writer, reader) = channel(10);
        writer.push(Counted);
        drop(writer);
        drop(reader);
        assert_eq!(DROPS.load(Ordering::Relaxed), 7);
    }

    #[test]
    #[should_panic(expected = "index out of bounds")]
    fn a_full_lane_takes_no_more() {
        let (mut writer, _reader) = channel(1);
        writer.push(1);
        writer.push(2);
    }
}
