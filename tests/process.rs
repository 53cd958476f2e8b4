//! Pools and the ends of what they live in: threads, `main`, the process; and `fork`.
//!
//! Each scenario is a process of its own: this program again, told what to do by a variable. Miri starts no
//! processes; there a scenario is the test itself, and each test wants a run of its own.

mod common;

use std::collections::BTreeMap;
use std::process::Stdio;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use parpool::{Error, Pool, Progress, current_task, current_worker, is_cancelled};

use common::{Kind, LONG, ON_PURPOSE, at_the_end, child, is_child, message, square, watchdog};

/// Plays `scenario`, which is the test `name`, in a process of its own: its exit code and what it printed.
fn play(name: &'static str, scenario: fn()) -> Option<(Option<i32>, String)> {
    play_with(&[], name, scenario)
}

/// The same with more variables in its environment.
fn play_with(
    variables: &[(&str, &str)],
    name: &'static str,
    scenario: fn(),
) -> Option<(Option<i32>, String)> {
    if cfg!(miri) || is_child(name) {
        scenario();
        return None;
    }
    let mut command = child(&[], name);
    command.arg("--nocapture").envs(variables.iter().copied());
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
        check(play(name, scenario));
    });
}

fn check(played: Option<(Option<i32>, String)>) {
    if let Some((code, text)) = played {
        assert_eq!(code, Some(0), "{text}");
        assert!(text.contains("1 passed"), "{text}");
    }
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
#[cfg_attr(miri, ignore = "starts a process")]
fn a_process_may_exit_with_a_live_global_pool() {
    ends_well("a_process_may_exit_with_a_live_global_pool", || {
        assert_eq!(parpool::map(square, 0..4).unwrap(), [0, 1, 4, 9]);
        // The workers are busy and more is queued when `main` returns.
        for _ in 0..100 {
            drop(parpool::apply_async(|| thread::sleep(LONG), ()));
        }
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

/// A thread whose stack has the usual size cannot be started in this process, and `join_timeout` needs one.
#[cfg(target_os = "linux")]
#[test]
#[cfg_attr(miri, ignore = "starts a process")]
fn a_join_with_a_timeout_that_finds_no_thread_is_an_error_and_the_pool_can_still_be_joined() {
    const NAME: &str =
        "a_join_with_a_timeout_that_finds_no_thread_is_an_error_and_the_pool_can_still_be_joined";

    fn scenario() {
        assert!(thread::Builder::new().spawn(|| ()).is_err());
        for life in [None, Some(2)] {
            for joins in [true, false] {
                let context = parpool::Context::threads().stack_size(1 << 20);
                let builder = Pool::builder().processes(2).max_tasks_per_child(life);
                let pool = builder.context(context).build().unwrap();
                assert_eq!(pool.map(|x| x + 1, [1, 2]).unwrap(), [2, 3]);
                pool.close();
                for _ in 0..2 {
                    assert!(matches!(pool.join_timeout(LONG), Err(Error::Start(_))));
                }
                if joins {
                    pool.join().unwrap();
                    // There is nothing left to join.
                    pool.join_timeout(LONG).unwrap();
                }
                // The drop of the pool joins, too.
            }
        }
    }

    match is_child(NAME) {
        // The watchdog is a thread of that kind. Who started this process ends it if it hangs.
        true => scenario(),
        false => watchdog(60, || {
            let size = (1_u64 << 46).to_string();
            check(play_with(&[("RUST_MIN_STACK", &size)], NAME, scenario));
        }),
    }
}

/// It is called by the panic, on the worker, and may not find anything of the pool's in the middle of a change:
/// a panic of a hook ends the process.
#[test]
fn a_panic_hook_may_ask_which_worker_it_is_on() {
    /// What the panics said, and on which worker.
    static ASKED: Mutex<BTreeMap<(String, Option<usize>), usize>> = Mutex::new(BTreeMap::new());

    struct Bomb(&'static str);
    impl Drop for Bomb {
        fn drop(&mut self) {
            if !thread::panicking() {
                panic!("{}", self.0);
            }
        }
    }

    ends_well("a_panic_hook_may_ask_which_worker_it_is_on", || {
        std::panic::set_hook(Box::new(|info| {
            let worker = current_worker().map(|worker| worker.index());
            println!("{worker:?}, {:?}: {info}", (is_cancelled(), current_task()));
            *ASKED.lock().unwrap().entry((message(info.payload()), worker)).or_default() += 1;
        }));
        for kind in [Kind::Lasting(1), Kind::Replaced(1, 100)] {
            let pool = Arc::new(kind.pool());
            let (inner, progress) = (Arc::clone(&pool), Progress::new(|_, _| panic!("progress")));
            let task = move || {
                inner.progress(&progress).scope(|s| {
                    let failed = s.apply_async(|| panic!("task"), ());
                    assert!(matches!(failed.get(), Err::<(), _>(Error::Panicked(_))));
                    // Nobody takes its result.
                    drop(s.apply_async(|| Bomb("result"), ()));
                    let failed = s.map_async(drop, vec![Bomb("item")]);
                    assert!(matches!(failed.get(), Err(Error::Panicked(_))));
                });
                // Its time is up before it has begun.
                inner.timeout(Duration::from_millis(1)).scope(|s| {
                    let late = s.map_async(std::mem::forget, vec![Bomb("late")]);
                    thread::sleep(Duration::from_millis(5));
                    let _ = late.get();
                });
                let callback = |_: &i32| panic!("callback");
                assert_eq!(inner.apply_async(|| 7, ()).callback(callback).get().unwrap(), 7);
            };
            pool.apply(task, ()).unwrap();
        }
        let asked = ASKED.lock().unwrap();
        for what in ["task", "progress", "result", "item", "late", "callback"] {
            let times = asked.get(&(what.to_owned(), Some(0)));
            assert!(times.is_some_and(|times| *times >= 2), "{what} in {asked:?}");
        }
        assert_eq!(asked.len(), 6, "{asked:?}");
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
                at_the_end(verbs);
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
        POOL.apply(|| at_the_end(refused), ()).unwrap();
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
