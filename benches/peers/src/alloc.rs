//! Counts what is allocated, while asked to: the races pay one load and a branch.
#![allow(unsafe_code)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicBool, AtomicIsize, AtomicUsize, Ordering::Relaxed};

#[global_allocator]
static COUNTING: Counting = Counting;

static ON: AtomicBool = AtomicBool::new(false);
/// Bytes allocated less bytes freed since it was switched on; what was there before may be freed too.
static LIVE: AtomicIsize = AtomicIsize::new(0);
static PEAK: AtomicIsize = AtomicIsize::new(0);
static COUNT: AtomicUsize = AtomicUsize::new(0);

/// What was allocated meanwhile, by all threads.
#[derive(Clone, Copy)]
pub struct Usage {
    /// The most bytes at a time.
    pub peak: f64,
    /// The bytes that are left.
    pub live: f64,
    /// How often memory was asked for.
    pub count: f64,
}

/// Runs `f`; its result counts as left.
pub fn during<R>(f: impl FnOnce() -> R) -> (R, Usage) {
    LIVE.store(0, Relaxed);
    PEAK.store(0, Relaxed);
    COUNT.store(0, Relaxed);
    ON.store(true, Relaxed);
    let result = f();
    ON.store(false, Relaxed);
    let usage = Usage {
        peak: PEAK.load(Relaxed) as f64,
        live: LIVE.load(Relaxed) as f64,
        count: COUNT.load(Relaxed) as f64,
    };
    (result, usage)
}

struct Counting;

fn asked(layout: Layout) {
    if ON.load(Relaxed) {
        COUNT.fetch_add(1, Relaxed);
        changed(bytes(layout));
    }
}

fn changed(bytes: isize) {
    if ON.load(Relaxed) {
        let live = LIVE.fetch_add(bytes, Relaxed) + bytes;
        PEAK.fetch_max(live, Relaxed);
    }
}

/// No layout exceeds `isize::MAX`.
fn bytes(layout: Layout) -> isize {
    layout.size() as isize
}

// SAFETY: All is passed on to `System` as it comes; counting touches nothing but atomics.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        asked(layout);
        // SAFETY: The caller keeps the contract of `alloc`.
        unsafe { System.alloc(layout) }
    }

    // Not the default, which would touch the pages that `calloc` leaves alone.
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        asked(layout);
        // SAFETY: The caller keeps the contract of `alloc_zeroed`.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        changed(-bytes(layout));
        // SAFETY: The caller keeps the contract of `dealloc`; the memory is from `System`.
        unsafe { System.dealloc(memory, layout) }
    }

    // The default would count both blocks while it copies; `System` may do with one.
    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        if ON.load(Relaxed) {
            COUNT.fetch_add(1, Relaxed);
        }
        changed(size as isize - bytes(layout));
        // SAFETY: The caller keeps the contract of `realloc`; the memory is from `System`.
        unsafe { System.realloc(memory, layout, size) }
    }
}
