//! What a pool takes is given back: bytes are counted, all of this process.
//!
//! One at a time: another beside it would be counted too.
#![allow(unsafe_code)]

mod common;

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicIsize, Ordering};
use std::sync::{Mutex, PoisonError};

use parpool::{Pool, WorkerLocal};

use common::{Kind, watchdog};

struct Counting;

static ALIVE: AtomicIsize = AtomicIsize::new(0);

// SAFETY: it hands everything on to the system's allocator and counts.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALIVE.fetch_add(layout.size() as isize, Ordering::Relaxed);
        // SAFETY: the caller's promise is handed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, place: *mut u8, layout: Layout) {
        ALIVE.fetch_sub(layout.size() as isize, Ordering::Relaxed);
        // SAFETY: the caller's promise is handed on.
        unsafe { System.dealloc(place, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn alive() -> isize {
    ALIVE.load(Ordering::SeqCst)
}

static ONE: Mutex<()> = Mutex::new(());

/// All verbs, `count` tasks or items each, everything dropped again.
fn burst(pool: &Pool, count: usize) {
    let handles: Vec<_> = (0..count).map(|i| pool.apply_async(move || i, ())).collect();
    assert_eq!(handles.into_iter().map(|handle| handle.get().unwrap()).max(), Some(count - 1));
    for i in 0..count {
        drop(pool.apply_async(move || i, ()));
    }
    assert_eq!(pool.map(|i| i, 0..count).unwrap().len(), count);
    assert_eq!(pool.map_async(|i| i, 0..count).get().unwrap().len(), count);
    assert_eq!(pool.imap(|i| i, 0..count).map(Result::unwrap).count(), count);
    assert_eq!(pool.imap_unordered(|i| i, 0..count).take(count / 2).count(), count / 2);
    pool.scope(|s| {
        for i in 0..count {
            drop(s.apply_async(move || i, ()));
        }
    });
    // Behind all that was dropped.
    pool.apply_async(|| (), ()).get().unwrap();
}

#[test]
fn a_burst_gives_its_memory_back() {
    // The queue's blocks are freed by epochs: what the last ones hold stays until there are others.
    const SLACK: isize = 64 * 1024;

    let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    watchdog(120, || {
        for kind in [Kind::Lasting(2), Kind::Replaced(2, 1000)] {
            let before_all = alive();
            let pool = kind.pool();
            burst(&pool, 1000);
            let before = alive();
            burst(&pool, 50_000);
            let left = alive() - before;
            println!("{kind:?}: {left} bytes are left of a burst");
            assert!(left < SLACK, "{kind:?}: {left} bytes are left of a burst");
            drop(pool);
            let left = alive() - before_all;
            println!("{kind:?}: {left} bytes are left of the pool");
            assert!(left < SLACK, "{kind:?}: {left} bytes are left of the pool");
        }
    });
}

#[test]
fn worker_locals_that_are_made_for_each_call_leave_nothing_behind() {
    const SLACK: isize = 64 * 1024;

    let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    watchdog(120, || {
        for kind in [Kind::Lasting(2), Kind::Replaced(2, 1_000_000), Kind::Serial] {
            let pool = kind.pool();
            let call = || {
                let scratch = WorkerLocal::new(Vec::<u8>::new);
                pool.map(|i| scratch.with(|v| v.push(i)), 0..4_u8).unwrap();
            };
            (0..1000).for_each(|_| call());
            let before = alive();
            (0..20_000).for_each(|_| call());
            let left = alive() - before;
            println!("{kind:?}: {left} bytes are left of 20000 calls");
            assert!(left < SLACK, "{kind:?}: {left} bytes are left of 20000 calls");
        }
    });
}
