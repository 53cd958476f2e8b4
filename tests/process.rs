//! Pools and the ends of what they live in: threads, `main`, the process; and `fork`.
//!
//! Each scenario is a process of its own: this program again, told what to do by a variable. Miri starts no
//! processes; there a scenario is the test itself, and each test wants a run of its own.

mod common;

use std::cell::RefCell;
use std::process::{Command, Stdio};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use parpool::{Error, Pool};

use common::{LONG, ON_PURPOSE, watchdog};

/// Names the scenario, in the process that plays it.
const CHILD: &str = "PARPOOL_TEST_CHILD";

/// Plays `scenario`, which is the test `name`, in a process of its own: its exit code and what it printed.
fn play(name: &'static str, scenario: fn()) -> Option<(Option<i32>, String)> {
    if cfg!(miri) || std::env::var(CHILD).is_ok_and(|child| child == name) {
        scenario();
        return None;
    }
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", name, "--test-threads=1", "--nocapture"]).env(CHILD, name);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let start = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        if start.elapsed() > LONG {
            let _ = child.kill();
            panic!("{name}: the process does not end");
        }
        thread::sleep(Duration::from_millis(5));
    };
    let output = child.wait_with_output().unwrap();
    Some((status.code(), String::from_utf8_lossy(&output.stdout).into_owned()))
}

/// Plays it and checks how it ended.
fn ends_well(name: &'static str, scenario: fn()) {
    watchdog(60, move || {
        if let Some((code, text)) = play(name, scenario) {
            assert_eq!(code, Some(0), "{text}");
            assert!(text.contains("1 passed"), "{text}");
        }
    });
}

static POOL: LazyLock<Pool> = LazyLock::new(|| Pool::new(2).unwrap());

/// More than the workers are done with when the process ends.
fn keep_busy(pool: &Pool) {
    for _ in 0..100 {
        drop(pool.apply_async(|| thread::sleep(LONG), ()));
    }
}

// ---- statics and leaks ---------------------------------------------------------------------------

#[test]
fn a_pool_in_a_static_is_left_to_the_end_of_the_process() {
    ends_well("a_pool_in_a_static_is_left_to_the_end_of_the_process", || {
        assert_eq!(POOL.map(|x| x * 2, [1, 2]).unwrap(), [2, 4]);
        keep_busy(&POOL);
    });
}

#[test]
fn a_pool_that_is_forgotten_is_left_to_the_end_of_the_process() {
    ends_well("a_pool_that_is_forgotten_is_left_to_the_end_of_the_process", || {
        let pool = Pool::new(2).unwrap();
        keep_busy(&pool);
        std::mem::forget(pool);
    });
}

#[test]
#[cfg_attr(miri, ignore = "ends the process")]
fn exit_does_not_wait_for_a_pool() {
    watchdog(60, || {
        let played = play("exit_does_not_wait_for_a_pool", || {
            keep_busy(&POOL);
            let pool = Pool::new(2).unwrap();
            keep_busy(&pool);
            std::process::exit(7);
        });
        if let Some((code, text)) = played {
            assert_eq!(code, Some(7), "{text}");
        }
    });
}

/// Also from a task, whose own pool it does not wait for either.
#[test]
#[cfg_attr(miri, ignore = "ends the process")]
fn a_task_may_exit_the_process() {
    watchdog(60, || {
        let played = play("a_task_may_exit_the_process", || {
            POOL.apply(|| std::process::exit(7), ()).unwrap()
        });
        if let Some((code, text)) = played {
            assert_eq!(code, Some(7), "{text}");
        }
    });
}

#[test]
fn a_panic_above_a_pool_terminates_it() {
    ends_well("a_panic_above_a_pool_terminates_it", || {
        static HANDLE: std::sync::Mutex<Option<parpool::AsyncResult<()>>> =
            std::sync::Mutex::new(None);
        let outcome = std::panic::catch_unwind(|| {
            let pool = Pool::new(1).unwrap();
            let (mut opener, held) = common::hold(&pool, 1);
            *HANDLE.lock().unwrap() = Some(pool.apply_async(|| panic!("it never runs"), ()));
            // Ended by then, and joined when the task in hand is let go.
            let end = thread::spawn(move || {
                assert!(matches!(held.into_iter().next().unwrap().get(), Err(Error::Terminated)));
                opener.open();
            });
            drop(end);
            panic!("{ON_PURPOSE}");
        });
        assert!(outcome.is_err());
        let queued = HANDLE.lock().unwrap().take().unwrap();
        assert!(matches!(queued.get(), Err(Error::Terminated)));
    });
}

// ---- thread-locals -------------------------------------------------------------------------------

#[test]
fn a_pool_in_a_thread_local_ends_with_its_thread() {
    static DONE: AtomicUsize = AtomicUsize::new(0);

    thread_local! {
        static MINE: Pool = Pool::new(2).unwrap();
    }

    ends_well("a_pool_in_a_thread_local_ends_with_its_thread", || {
        let thread = thread::spawn(|| {
            MINE.with(|pool| {
                for _ in 0..100 {
                    drop(pool.apply_async(|| DONE.fetch_add(1, Ordering::SeqCst), ()));
                }
            });
        });
        thread.join().unwrap();
        assert_eq!(DONE.load(Ordering::SeqCst), 100, "what it had accepted is done");
    });
}

/// What a pool keeps in thread-locals may be gone there already.
struct AtTheEnd(fn());

impl Drop for AtTheEnd {
    fn drop(&mut self) {
        (self.0)();
    }
}

thread_local! {
    static LAST: RefCell<Option<AtTheEnd>> = const { RefCell::new(None) };
}

fn every_verb() {
    let pool = &*POOL;
    assert_eq!(pool.map(|x| x + 1, 0..4).unwrap(), [1, 2, 3, 4]);
    assert_eq!(pool.apply(|| 5, ()).unwrap(), 5);
    assert_eq!(pool.apply_async(|| 6, ()).get().unwrap(), 6);
    assert_eq!(pool.map_async(|x| x, vec![7]).get().unwrap(), [7]);
    assert_eq!(pool.imap(|x| x, 0..9).map(Result::unwrap).sum::<i32>(), 36);
    assert_eq!(pool.scope(|s| s.apply_async(|| 8, ()).get()).unwrap(), 8);
}

#[test]
fn a_pool_may_be_used_in_the_destructor_of_a_thread_local() {
    static CALLS: AtomicUsize = AtomicUsize::new(0);

    fn verbs() {
        every_verb();
        CALLS.fetch_add(1, Ordering::SeqCst);
    }

    ends_well("a_pool_may_be_used_in_the_destructor_of_a_thread_local", || {
        for used_before in [false, true] {
            let thread = thread::spawn(move || {
                LAST.set(Some(AtTheEnd(verbs)));
                if used_before {
                    // The thread-locals of the pool are made later, so they are gone earlier.
                    every_verb();
                }
            });
            thread.join().unwrap();
        }
        assert_eq!(CALLS.load(Ordering::SeqCst), 2);
    });
}

/// On a worker of the pool that ends with its thread, nothing is accepted any more.
#[test]
fn the_destructor_of_a_workers_thread_local_is_refused_by_its_pool() {
    static REFUSED: AtomicUsize = AtomicUsize::new(0);

    fn refused() {
        let outcome = POOL.apply_async(|| 6, ()).get();
        assert!(matches!(outcome, Err(Error::NotRunning)), "{outcome:?}");
        assert!(matches!(POOL.map(|x: i32| x, vec![1]), Err(Error::NotRunning)));
        REFUSED.fetch_add(1, Ordering::SeqCst);
    }

    ends_well("the_destructor_of_a_workers_thread_local_is_refused_by_its_pool", || {
        POOL.apply(|| LAST.set(Some(AtTheEnd(refused))), ()).unwrap();
        POOL.close();
        POOL.join().unwrap();
        assert_eq!(REFUSED.load(Ordering::SeqCst), 1);
    });
}

// ---- fork ----------------------------------------------------------------------------------------

/// A child has its caller's thread and no other, so no worker; a pool of its own works.
#[cfg(unix)]
#[test]
#[cfg_attr(miri, ignore = "forks")]
fn a_forked_child_makes_its_own_pool() {
    ends_well("a_forked_child_makes_its_own_pool", || {
        assert_eq!(POOL.map(|x| x * 2, [1, 2]).unwrap(), [2, 4]);
        // SAFETY: the child has this thread alone and uses nothing that another might have been changing:
        // the system's own locks are whole in it, and the parent's pool is left alone.
        #[allow(unsafe_code)]
        let child = unsafe { libc::fork() };
        if child == 0 {
            let works = Pool::new(2)
                .is_ok_and(|pool| pool.map(|x| x + 1, [1, 2]).is_ok_and(|values| values == [2, 3]));
            let free = parpool::map(|x| x + 1, [1, 2]).is_ok_and(|values| values == [2, 3]);
            // SAFETY: it ends the process, and runs nothing.
            #[allow(unsafe_code)]
            unsafe {
                libc::_exit(if works && free { 0 } else { 1 })
            }
        }
        let mut status = 0;
        // SAFETY: waits for the child of above; `status` is there to be written.
        #[allow(unsafe_code)]
        let waited = unsafe { libc::waitpid(child, &raw mut status, 0) };
        assert_eq!((waited, status), (child, 0));
        // The parent's pool knows nothing of it.
        assert_eq!(POOL.map(|x| x * 2, [1, 2]).unwrap(), [2, 4]);
    });
}
