//! What a pool takes is given back: bytes are counted, all of this process.
//!
//! One at a time: another beside it would be counted too.
#![allow(unsafe_code)]

mod common;

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicIsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crossbeam_channel::bounded;
use parpool::{Pool, WorkerLocal};

use common::{Kind, eventually, gate, hold, watchdog};

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
#[cfg_attr(miri, ignore = "the bytes of twenty thousand calls take too long to count")]
fn a_burst_gives_its_memory_back() {
    // An empty queue keeps room for some thousand tasks, in two lists, and rayon frees what its own queues held by
    // epochs.
    const SLACK: isize = 96 * 1024;

    let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    watchdog(120, || {
        for kind in [Kind::Lasting(2), Kind::Replaced(2, 1000)] {
            let before_all = alive();
            let pool = kind.pool();
            burst(&pool, 1000);
            let before = alive();
            burst(&pool, 50_000);
            // When the last worker has left the queue.
            let given_back = eventually(|| alive() - before < SLACK);
            let left = alive() - before;
            println!("{kind:?}: {left} bytes are left of a burst");
            assert!(given_back, "{kind:?}: {left} bytes are left of a burst");
            drop(pool);
            let left = alive() - before_all;
            println!("{kind:?}: {left} bytes are left of the pool");
            assert!(left < SLACK, "{kind:?}: {left} bytes are left of the pool");
        }
    });
}

/// Tasks that come in while all workers are busy, behind others that were looked for in the queue.
#[test]
#[cfg_attr(miri, ignore = "the bytes of twenty thousand calls take too long to count")]
fn what_came_in_behind_others_gives_its_memory_back() {
    const SLACK: isize = 96 * 1024;

    let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    watchdog(120, || {
        let pool = Pool::new(1).unwrap();
        burst(&pool, 100);
        let before = alive();
        let (opener, held) = hold(&pool, 1);
        let mut handles = Vec::new();
        for _ in 0..2 {
            handles.extend((0..10_000).map(|i| pool.apply_async(move || i, ())));
            assert!(handles.last().unwrap().cancel());
        }
        drop(opener);
        held.into_iter().for_each(|held| held.get().unwrap());
        assert_eq!(handles.into_iter().filter_map(|handle| handle.get().ok()).count(), 19_998);
        // When the worker has left the queue.
        let given_back = eventually(|| alive() - before < SLACK);
        assert!(given_back, "{} bytes are left", alive() - before);
    });
}

#[test]
#[cfg_attr(miri, ignore = "the bytes of twenty thousand calls take too long to count")]
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

// ---- nested calls --------------------------------------------------------------------------------

/// How many bytes more are alive after many calls in one task of a pool, beside workers that are busy.
#[track_caller]
fn assert_leaves_nothing(kind: Kind, name: &str, call: impl Fn(&Pool) + Send + Sync + 'static) {
    const SLACK: isize = 64 * 1024;

    let pool = Arc::new(kind.pool());
    let (mut opener, held) = hold(&pool, kind.workers() - 1);
    let inner = Arc::clone(&pool);
    let many = move || {
        (0..1000).for_each(|_| call(&inner));
        let before = alive();
        (0..20_000).for_each(|_| call(&inner));
        alive() - before
    };
    let left = pool.apply_async(many, ()).get().unwrap();
    println!("{name}, {kind:?}: {left} bytes are left of 20000 calls");
    assert!(left < SLACK, "{name}, {kind:?}: {left} bytes are left of 20000 calls");
    opener.open();
    held.into_iter().for_each(|held| held.get().unwrap());
}

/// The entries that a call has queued for others go with it, though nobody was free to look at them.
#[test]
#[cfg_attr(miri, ignore = "the bytes of twenty thousand calls take too long to count")]
fn nested_calls_beside_busy_workers_leave_nothing_behind() {
    type Call = fn(&Pool);

    let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    let calls: [(&str, Call); 9] = [
        ("map", |pool| drop(pool.map(|x| x, 0..4).unwrap())),
        ("map of a Vec", |pool| drop(pool.map(|x| x, vec![0; 4]).unwrap())),
        ("sum", |pool| assert_eq!(pool.sum(|x: u64| x, 0..4_u64).unwrap(), 6)),
        ("map_async", |pool| drop(pool.map_async(|x| x, 0..4).get().unwrap())),
        ("apply_async", |pool| pool.apply_async(|| (), ()).get().unwrap()),
        ("scope", |pool| {
            pool.scope(|s| {
                drop(s.apply_async(|| (), ()));
                drop(s.map_async(|x| x, 0..4));
            });
        }),
        ("imap", |pool| assert_eq!(pool.imap(|x| x, 0..4).count(), 4)),
        ("a cancelled handle", |pool| _ = pool.apply_async(|| (), ()).cancel()),
        ("a dropped stream", |pool| drop(pool.imap(|x| x, 0..100).next())),
    ];
    watchdog(240, move || {
        for kind in [Kind::Lasting(4), Kind::Replaced(4, 1_000_000)] {
            for (name, call) in calls {
                assert_leaves_nothing(kind, name, call);
            }
        }
    });
}

/// The usual way to meet it: a map over configurations, each of which maps in every step of a loop.
#[test]
#[cfg_attr(miri, ignore = "the bytes of twenty thousand calls take too long to count")]
fn maps_in_the_steps_of_a_map_leave_nothing_behind() {
    const SLACK: isize = 256 * 1024;

    let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    watchdog(120, || {
        let pool = Kind::Lasting(4).pool();
        let samples = pool.map(
            |_| {
                let steps = |count| (0..count).for_each(|_| drop(pool.map(|x| x, 0..4).unwrap()));
                steps(1000);
                let before = alive();
                steps(10_000);
                alive() - before
            },
            0..4,
        );
        let samples = samples.unwrap();
        assert!(samples.iter().all(|left| *left < SLACK), "{samples:?} bytes are left");
    });
}

/// A task that has submitted one call which has not begun, and then calls and waits over and over.
#[test]
#[cfg_attr(miri, ignore = "the bytes of twenty thousand calls take too long to count")]
fn calls_that_are_done_are_not_kept_behind_one_that_waits() {
    let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    watchdog(60, || {
        for kind in [Kind::Lasting(1), Kind::Replaced(1, 1_000_000)] {
            let first = Mutex::new(None);
            assert_leaves_nothing(kind, "behind one that waits", move |pool| {
                first.lock().unwrap().get_or_insert_with(|| pool.apply_async(|| (), ()));
                let work = [0_u8; 1000];
                assert_eq!(pool.apply_async(move || work.len(), ()).get().unwrap(), 1000);
            });
        }
    });
}

#[test]
#[cfg_attr(miri, ignore = "the bytes of twenty thousand calls take too long to count")]
fn what_is_dropped_outside_beside_busy_workers_leaves_nothing_behind() {
    const SLACK: isize = 64 * 1024;
    type Call = fn(&Pool);

    let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    let calls: [(&str, Call); 3] = [
        ("cancelled handles", |pool| assert!(pool.apply_async(|| (), ()).cancel())),
        ("dropped streams", |pool| drop(pool.imap(|x| x, 0..100))),
        ("scopes that cancel", |pool| pool.scope(|s| assert!(s.apply_async(|| (), ()).cancel()))),
    ];
    watchdog(120, move || {
        for kind in [Kind::Lasting(2), Kind::Replaced(2, 1_000_000)] {
            for (name, call) in calls {
                let pool = kind.pool();
                let (mut opener, held) = hold(&pool, 2);
                (0..1000).for_each(|_| call(&pool));
                let before = alive();
                (0..20_000).for_each(|_| call(&pool));
                let left = alive() - before;
                println!("{name}, {kind:?}: {left} bytes are left of 20000 calls");
                assert!(left < SLACK, "{name}, {kind:?}: {left} bytes are left of 20000 calls");
                opener.open();
                held.into_iter().for_each(|held| held.get().unwrap());
            }
        }
    });
}

/// Calls that no thread can begin, because all are in rayon code of a task, cost what others cost.
#[test]
#[cfg_attr(miri, ignore = "the bytes of twenty thousand calls take too long to count")]
fn calls_that_wait_for_threads_in_rayon_code_take_no_more_memory() {
    const EACH: isize = 1000;
    const CALLS: isize = 20_000;

    let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    watchdog(60, || {
        let pool = Kind::Lasting(2).pool();
        let (gate, mut opener) = gate();
        let (stolen, is_stolen) = bounded(1);
        // One thread is held in a piece, and the other waits for it in rayon.
        let task = move || {
            let piece = || {
                stolen.send(()).unwrap();
                gate.pass();
            };
            rayon::join(|| is_stolen.recv().unwrap(), piece);
        };
        let busy = pool.apply_async(task, ());
        opener.wait_for(1);
        let before = alive();
        let handles: Vec<_> = (0..CALLS).map(|_| pool.apply_async(|| (), ())).collect();
        let taken = (alive() - before) / CALLS;
        assert!(taken < EACH, "{taken} bytes for each call");
        opener.open();
        handles.into_iter().for_each(|handle| handle.get().unwrap());
        busy.get().unwrap();
    });
}
