//! Scopes: tasks and streams that borrow, and that nothing which is leaked outlives what it borrows.

mod common;

use std::cell::Cell;
use std::collections::BTreeSet;
use std::mem::{forget, size_of};
use std::panic::{AssertUnwindSafe, catch_unwind, panic_any};
use std::rc::Rc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Poll, Waker};
use std::thread::{self, sleep};
use std::time::{Duration, Instant};

use parpool::{Error, Pool, Scope, TaskHandle, WorkerLocal, is_cancelled};
use proptest::prelude::*;

use common::{
    ALL, Counted, Counter, Drops, Kind, LASTING, LONG, NO_TIME, ON_PURPOSE, THREADS, all_pools,
    fewer, gate, hold, message, panicked, poll, processor_time, watchdog,
};

/// How often a race is tried; a run under Miri has time for a few.
const OFTEN: usize = if cfg!(miri) { 3 } else { 200 };

/// How many items a stream or a map has.
const SOME: usize = if cfg!(miri) { 12 } else { 200 };

/// A nap that a task takes while its scope ends.
const NAP: Duration = Duration::from_millis(if cfg!(miri) { 1 } else { 5 });

/// Enough to pull a few items; under Miri, where time is made of steps, that takes longer.
const SOON: Duration = Duration::from_millis(if cfg!(miri) { 5000 } else { 50 });

/// A watchdog that has patience with Miri.
fn watched(seconds: u64, body: impl FnOnce() + Send + 'static) {
    watchdog(if cfg!(miri) { 40 * seconds } else { seconds }, body);
}

/// Something on the stack that tasks may borrow, and that is overwritten when it goes.
struct Stack {
    words: Vec<String>,
    /// How many tasks have looked at it.
    looks: AtomicUsize,
    over: bool,
}

impl Stack {
    fn new() -> Self {
        let words = (0..SOME).map(|i| i.to_string()).collect();
        Stack { words, looks: AtomicUsize::new(0), over: false }
    }

    /// A task's look at it, now and a little later.
    fn look(&self, i: usize) -> &str {
        assert!(!self.over);
        thread::yield_now();
        self.looks.fetch_add(1, Ordering::SeqCst);
        let word = &self.words[i % SOME];
        assert_eq!(word.parse(), Ok(i % SOME));
        word
    }

    fn looks(&self) -> usize {
        self.looks.load(Ordering::SeqCst)
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        self.over = true;
        self.words.iter_mut().for_each(|word| word.replace_range(.., "over"));
    }
}

// ---- borrowing -----------------------------------------------------------------------------------

#[test]
fn callbacks_may_borrow_and_have_run_when_the_scope_is_over() {
    watchdog(20, || {
        for (kind, pool) in all_pools() {
            let (values, errors) = (Mutex::new(Vec::new()), Mutex::new(Vec::new()));
            pool.scope(|s| {
                for i in 0..4 {
                    let work = move || if i == 2 { panic!("{ON_PURPOSE}") } else { i };
                    let handle = s.apply_async(work, ());
                    let handle = handle.callback(|value| values.lock().unwrap().push(*value));
                    let note = |error: &Error| errors.lock().unwrap().push(error.to_string());
                    let handle = handle.error_callback(note);
                    // Whatever becomes of the handle.
                    match i {
                        0 => drop(handle),
                        1 => std::mem::forget(handle),
                        _ => handle.wait(),
                    }
                }
            });
            let mut values = values.into_inner().unwrap();
            values.sort();
            assert_eq!(values, [0, 1, 3], "{kind:?}");
            assert_eq!(errors.into_inner().unwrap().len(), 1, "{kind:?}");
        }
    });
}

#[test]
fn every_verb_borrows() {
    watched(60, || {
        for (kind, pool) in all_pools() {
            let stack = Stack::new();
            let lengths: Vec<usize> = stack.words.iter().map(String::len).collect();
            pool.scope(|s| {
                let one = s.apply_async(|| stack.look(7).len(), ());
                let with =
                    s.apply_async(|word: &str, by: usize| word.len() * by, (stack.look(9), 3));
                let by_index = s.map_async(|i| stack.look(i).len(), 0..SOME);
                let by_reference = s.map_async(|word: &String| word.as_str(), &stack.words);
                let ordered = s.imap(|word: &String| word.as_str(), &stack.words);
                let unordered = s.imap_unordered(|i| (i, stack.look(i)), 0..SOME);
                assert!(ordered.map(Result::unwrap).eq(stack.words.iter().map(String::as_str)));
                let seen: BTreeSet<(usize, &str)> = unordered.map(Result::unwrap).collect();
                assert!(seen.into_iter().map(|(_, word)| word.len()).eq(lengths.iter().copied()));
                assert_eq!(by_reference.get().unwrap(), stack.words);
                assert_eq!(by_index.get().unwrap(), lengths);
                assert_eq!(one.get().unwrap(), 1, "{kind:?}");
                assert_eq!(with.get().unwrap(), 3);
            });
        }
    });
}

#[test]
fn the_body_is_on_the_callers_thread_and_may_hold_what_is_not_send() {
    watched(20, || {
        for (_, pool) in all_pools() {
            let here = thread::current().id();
            let (count, mut total) = (Rc::new(Cell::new(0)), 0);
            let result = pool.scope(|s| {
                assert_eq!(thread::current().id(), here);
                let input = (0..10).inspect(|_| count.set(count.get() + 1));
                total = s.imap(|x: u32| x, input).map(Result::unwrap).sum();
                Rc::clone(&count)
            });
            assert_eq!((result.get(), total), (10, 45));
        }
    });
}

#[test]
fn options_hold_for_the_verbs_of_a_scope() {
    watched(20, || {
        for (kind, pool) in all_pools() {
            let xs = [1, 2, 3];
            pool.chunksize(0).scope(|s| {
                assert_matches!(
                    s.apply_async(|| xs.len(), ()).get(),
                    Err(Error::InvalidArgument(_))
                );
                assert_matches!(s.map_async(|x| *x, &xs).get(), Err(Error::InvalidArgument(_)));
                let mut stream = s.imap(|x| *x, &xs);
                assert_matches!(stream.next(), Some(Err(Error::InvalidArgument(_))));
                assert!(stream.next().is_none());
            });
            if kind == Kind::Serial {
                continue;
            }
            let (gate, opener) = gate();
            let pulled = Cell::new(0);
            pool.buffersize(3).timeout(SOON).scope(|s| {
                let input = (0..).inspect(|_| pulled.set(pulled.get() + 1));
                let mut stream = s.imap(|_: u64| gate.pass(), input);
                assert_matches!(stream.next(), Some(Err(Error::DeadlineExceeded)));
                assert_eq!(pulled.get(), 3);
                drop(opener);
            });
        }
    });
}

#[test]
fn a_scope_returns_what_its_body_does_and_waits_for_what_nobody_waits_for() {
    watched(30, || {
        for (kind, pool) in all_pools() {
            let stack = Stack::new();
            let returned = pool.scope(|s| {
                for i in 0..20 {
                    drop(s.apply_async(
                        |i| {
                            sleep(NAP / 5);
                            stack.look(i).len()
                        },
                        (i,),
                    ));
                }
                drop(s.map_async(|i| stack.look(i).len(), 0..20));
                "returned"
            });
            assert_eq!(returned, "returned");
            assert_eq!(stack.looks(), 40, "{kind:?}");
        }
    });
}

#[test]
fn a_panic_in_a_task_is_in_its_handle() {
    watched(30, || {
        for (_, pool) in all_pools() {
            let xs = [1, 2, 3, 4];
            let fail = |x: &i32| if *x == 3 { panic_any(ON_PURPOSE) } else { *x };
            pool.scope(|s| {
                let (index, text) = panicked(s.apply_async(|| fail(&xs[2]), ()).get());
                assert_eq!((index, text.as_str()), (None, ON_PURPOSE));
                let (index, _) = panicked(s.map_async(fail, &xs).get());
                assert_eq!(index, Some(2));
                let results: Vec<_> = s.imap(fail, &xs).collect();
                assert_eq!(results.len(), 4);
                for (i, result) in results.into_iter().enumerate() {
                    match i {
                        2 => assert_eq!(panicked(result).0, Some(2)),
                        _ => assert_eq!(result.unwrap(), xs[i]),
                    }
                }
                // One whose handle nobody looks at.
                drop(s.apply_async(|| fail(&xs[2]), ()));
            });
            assert_eq!(pool.apply(|| 1, ()).unwrap(), 1);
        }
    });
}

#[test]
fn a_body_that_panics_waits_first() {
    watched(30, || {
        for (kind, pool) in all_pools() {
            let stack = Stack::new();
            let caught = catch_unwind(AssertUnwindSafe(|| {
                pool.scope(|s| {
                    for i in 0..10 {
                        forget(s.apply_async(
                            |i| {
                                sleep(NAP);
                                stack.look(i);
                            },
                            (i,),
                        ));
                    }
                    let mut stream = s.imap(|i| stack.look(i).len(), 0..SOME);
                    let _ = stream.next();
                    panic_any(ON_PURPOSE);
                })
            }));
            assert_eq!(message(&*caught.unwrap_err()), ON_PURPOSE);
            assert!(stack.looks() >= 10, "{kind:?}");
            drop(stack);
            assert_eq!(pool.apply(|| 1, ()).unwrap(), 1);
        }
    });
}

// ---- what is leaked ------------------------------------------------------------------------------

#[test]
fn leaked_handles_and_streams_outlive_nothing() {
    watched(120, || {
        for kind in ALL {
            let pool = kind.pool();
            for round in 0..OFTEN / 10 + 1 {
                let stack = Stack::new();
                let counted = Drops::default();
                pool.scope(|s| {
                    for i in 0..3 {
                        let mine = counted.make(i);
                        forget(s.apply_async(
                            || {
                                let mine = mine;
                                if round % 2 == 0 {
                                    sleep(NAP / 5);
                                }
                                (stack.look(mine.value()), &stack)
                            },
                            (),
                        ));
                    }
                    forget(s.map_async(|i| stack.look(i), 0..10));
                    for ordered in [true, false] {
                        let items = (0..).map(|i| counted.make(i));
                        let f = |item: Counted| stack.look(item.value());
                        let mut stream = match ordered {
                            true => s.imap(f, items),
                            false => s.imap_unordered(f, items),
                        };
                        let _ = stream.next_timeout(Duration::from_micros(100 * round as u64));
                        forget(stream);
                    }
                });
                let looks = stack.looks();
                // Every item that was pulled was begun and dropped, for nobody cancelled it.
                assert_eq!(counted.alive(), 0, "{kind:?}");
                counted.assert_each_once();
                drop(stack);
                assert!(looks >= 13);
            }
        }
    });
}

/// The results too borrow, and are leaked with their handles; what holds them must not look at them.
#[test]
fn leaked_results_that_borrow_are_never_touched_again() {
    struct Touchy<'s>(&'s Stack);

    impl Drop for Touchy<'_> {
        fn drop(&mut self) {
            assert!(!self.0.over);
            self.0.looks.fetch_add(1, Ordering::SeqCst);
        }
    }

    watched(60, || {
        for kind in ALL {
            let pool = kind.pool();
            let stack = Stack::new();
            pool.scope(|s| {
                forget(s.apply_async(|| Touchy(&stack), ()));
                forget(s.map_async(|_| Touchy(&stack), 0..10));
                let mut stream = s.imap(|_| Touchy(&stack), 0..SOME);
                drop(stream.next());
                forget(stream);
                let mut stream = s.imap_unordered(|_| Touchy(&stack), 0..SOME);
                drop(stream.next());
                forget(stream);
                // And some that are not leaked but left to the pool.
                drop(s.apply_async(|| Touchy(&stack), ()));
                drop(s.map_async(|_| Touchy(&stack), 0..10));
                drop(s.imap(|_| Touchy(&stack), 0..SOME).next());
            });
            let looks = stack.looks();
            assert!(looks >= 14, "{kind:?}: {looks}");
            pool.close();
            pool.join().unwrap();
            assert_eq!(stack.looks(), looks, "{kind:?}: a result was dropped after its scope");
        }
    });
}

/// A leaked stream is done with what it has pulled when the scope is over.
#[test]
fn the_scope_waits_for_a_leaked_stream_whose_items_wait() {
    watched(30, || {
        for kind in THREADS {
            let pool = kind.pool();
            let stack = Stack::new();
            let (gate, mut opener) = gate();
            let over = AtomicUsize::new(0);
            thread::scope(|threads| {
                let (pool, stack, over) = (&pool, &stack, &over);
                threads.spawn(move || {
                    pool.scope(|s| {
                        let wait = |i: usize| {
                            gate.pass();
                            stack.look(i)
                        };
                        let mut stream = s.imap(wait, 0..4);
                        // Nothing is there before the gate opens.
                        let _ = stream.next_timeout(NO_TIME);
                        forget(stream);
                    });
                    over.store(1, Ordering::SeqCst);
                });
                opener.wait_for(1);
                sleep(NO_TIME + Duration::from_millis(20));
                assert_eq!((over.load(Ordering::SeqCst), stack.looks()), (0, 0));
                opener.open();
            });
            assert_eq!(stack.looks(), 4, "{kind:?}");
        }
    });
}

/// What is left in the queue of a pool whose workers have no time is nothing that borrows.
#[test]
fn a_stale_entry_in_the_queue_holds_nothing() {
    watched(60, || {
        for kind in THREADS {
            let pool = kind.pool();
            let (opener, held) = hold(&pool, kind.workers());
            let drops = Drops::default();
            let stack = Stack::new();
            pool.scope(|s| {
                for i in 0..10 {
                    let mine = drops.make(i);
                    let task = s.apply_async(
                        || {
                            let mine = mine;
                            stack.look(mine.value())
                        },
                        (),
                    );
                    assert!(task.cancel());
                    if i % 2 == 0 {
                        forget(task);
                    }
                }
                let items = (0..).map(|i| drops.make(i));
                let mut stream = s.imap(|item: Counted| stack.look(item.value()), items);
                assert_matches!(stream.next_timeout(NO_TIME), Err(Error::Timeout));
            });
            assert_eq!(stack.looks(), 0);
            drop(stack);
            assert_eq!(drops.alive(), 0, "{kind:?}");
            drops.assert_each_once();
            // Now the entries of above come to their turn.
            drop(opener);
            held.into_iter().for_each(|held| held.get().unwrap());
            pool.close();
            pool.join().unwrap();
        }
    });
}

/// `cancel`, the worker and the end of the scope race for one task.
#[test]
fn a_task_that_is_cancelled_as_its_scope_ends() {
    watched(120, || {
        for kind in LASTING {
            let pool = kind.pool();
            for round in 0..OFTEN {
                let stack = Stack::new();
                pool.scope(|s| {
                    for i in 0..4 {
                        let task = s.apply_async(|i| stack.look(i), (i,));
                        for _ in 0..round % 20 {
                            std::hint::spin_loop();
                        }
                        let cancelled = task.cancel();
                        if round % 3 == 0 {
                            forget(task);
                        } else if round % 3 == 1 {
                            match task.get() {
                                Ok(word) => assert!(!cancelled && word == stack.words[i]),
                                Err(error) => assert_matches!(error, Error::Cancelled),
                            }
                        }
                    }
                });
            }
        }
    });
}

/// Sweeps of the queue look at tasks while their scopes end.
#[test]
fn scopes_that_end_while_the_queue_is_swept() {
    watched(120, || {
        let pool = &Kind::Lasting(2).pool();
        thread::scope(|threads| {
            for _ in 0..2 {
                threads.spawn(move || {
                    for _ in 0..OFTEN / 4 + 1 {
                        let stack = Stack::new();
                        pool.scope(|s| {
                            for i in 0..10 {
                                forget(s.apply_async(|i| stack.look(i), (i,)));
                            }
                        });
                        assert_eq!(stack.looks(), 10);
                    }
                });
                threads.spawn(move || {
                    // What it drops unbegun is what the queue is swept of.
                    for _ in 0..OFTEN / 4 + 1 {
                        let stack = Stack::new();
                        pool.scope(|s| {
                            let mut stream = s.imap(|i| stack.look(i), 0..SOME);
                            let _ = stream.next_timeout(Duration::ZERO);
                        });
                    }
                });
            }
        });
    });
}

/// The scope waits for tasks that are cancelled meanwhile, and swept out of the queue before a worker
/// comes to them.
#[test]
fn what_is_swept_out_of_the_queue_is_not_waited_for() {
    watched(30, || {
        let pool = &Kind::Lasting(1).pool();
        let (gate, mut opener) = gate();
        let ran = Counter::default();
        pool.scope(|s| {
            let (send, handles) = crossbeam_channel::unbounded::<TaskHandle<'_, ()>>();
            // It holds the only worker, and what it submits goes before what waits from outside.
            let sweeper = move || {
                gate.pass();
                let cancel = move || {
                    // The scope waits for the first of the handles by now.
                    sleep(Duration::from_millis(50));
                    assert!(handles.iter().all(|handle| handle.cancel()));
                    // A queue is swept when most of it was begun or dropped elsewhere.
                    let mut stream = pool.buffersize(400).chunksize(1).imap(|x: u32| x, 0..);
                    stream.next().unwrap().unwrap();
                };
                drop(s.apply_async(cancel, ()));
            };
            drop(s.apply_async(sweeper, ()));
            opener.wait_for(1);
            for _ in 0..100 {
                send.send(s.apply_async(|| ran.add(), ())).unwrap();
            }
            opener.open();
        });
        assert_eq!(ran.get(), 0);
    });
}

#[test]
fn a_result_may_be_awaited_and_its_future_leaked() {
    watched(30, || {
        for kind in ALL {
            let pool = kind.pool();
            let stack = Stack::new();
            pool.scope(|s| {
                let mut one = s.apply_async(|| stack.look(3), ());
                let mut two = s.apply_async(|| stack.look(4), ());
                let _ = poll(&mut two, Waker::noop());
                forget(two);
                one.wait();
                assert!(one.ready() && one.successful().unwrap());
                assert_matches!(poll(&mut one, Waker::noop()), Poll::Ready(Ok("3")));
                let mut three = s.apply_async(|| stack.look(5), ());
                assert_eq!(three.get_timeout(LONG).unwrap(), "5");
                assert_matches!(three.get(), Err(Error::Taken));
            });
            assert_eq!(stack.looks(), 3, "{kind:?}");
        }
    });
}

// ---- tasks that submit more ----------------------------------------------------------------------

fn tree<'scope>(s: Scope<'scope, '_>, stack: &'scope Stack, depth: usize) {
    stack.look(depth);
    if depth > 0 {
        for _ in 0..2 {
            drop(s.apply_async(move || tree(s, stack, depth - 1), ()));
        }
    }
}

#[test]
fn tasks_submit_more_through_a_copy_of_the_scope() {
    watched(60, || {
        for (kind, pool) in all_pools() {
            let stack = Stack::new();
            pool.scope(|s| tree(s, &stack, 5));
            assert_eq!(stack.looks(), 63, "{kind:?}");
        }
    });
}

/// The scope's end on a worker must run what nobody else can.
#[test]
fn a_scope_inside_of_a_task_on_a_pool_of_one() {
    watched(60, || {
        for (kind, pool) in all_pools() {
            let inside = || {
                let stack = Stack::new();
                pool.scope(|s| {
                    tree(s, &stack, 5);
                    forget(s.map_async(|i| stack.look(i).len(), 0..10));
                    let mut stream = s.imap(|i| stack.look(i), 0..);
                    assert_eq!(stream.next().unwrap().unwrap(), "0");
                    forget(stream);
                });
                assert!(stack.looks() > 63 + 10, "{kind:?}");
            };
            pool.apply(inside, ()).unwrap();
        }
    });
}

#[test]
fn scopes_inside_of_the_tasks_of_scopes() {
    fn sum(pool: &Pool, xs: &[u64]) -> u64 {
        if xs.len() <= 2 {
            return xs.iter().sum();
        }
        let (left, right) = xs.split_at(xs.len() / 2);
        pool.scope(|s| {
            let right = s.apply_async(|| sum(pool, right), ());
            sum(pool, left) + right.get().unwrap()
        })
    }

    watched(60, || {
        for (kind, pool) in all_pools() {
            let xs: Vec<u64> = (0..64).collect();
            assert_eq!(sum(&pool, &xs), 2016, "{kind:?}");
            assert_eq!(pool.apply(|| sum(&pool, &xs), ()).unwrap(), 2016, "{kind:?}");
        }
    });
}

#[test]
fn a_stream_is_consumed_in_another_task_of_its_scope() {
    watched(60, || {
        for (kind, pool) in all_pools() {
            let stack = Stack::new();
            let sum = Mutex::new(0);
            pool.scope(|s| {
                let stream = s.imap(|i| stack.look(i).len(), 0..SOME);
                let sum = &sum;
                drop(s.apply_async(
                    move || *sum.lock().unwrap() += stream.map(Result::unwrap).sum::<usize>(),
                    (),
                ));
            });
            let expected: usize = stack.words.iter().map(String::len).sum();
            assert_eq!(sum.into_inner().unwrap(), expected, "{kind:?}");
        }
    });
}

/// A value whose `Drop` submits to the scope: what it submits is waited for as well.
#[test]
fn a_drop_that_submits() {
    struct Submits<'scope, 'env>(Scope<'scope, 'env>, &'env Stack);

    impl Drop for Submits<'_, '_> {
        fn drop(&mut self) {
            let stack = self.1;
            drop(self.0.apply_async(move || stack.look(1).len(), ()));
        }
    }

    watched(60, || {
        for kind in THREADS {
            let pool = kind.pool();
            for _ in 0..OFTEN / 20 + 1 {
                let stack = Stack::new();
                pool.scope(|s| {
                    // In what the closure captured, in its result, and in one that never runs.
                    let captured = Submits(s, &stack);
                    drop(s.apply_async(move || drop(captured), ()));
                    let stack = &stack;
                    drop(s.apply_async(move || Submits(s, stack), ()));
                    let captured = Submits(s, stack);
                    let cancelled = s.apply_async(move || drop(captured), ());
                    cancelled.cancel();
                    forget(cancelled);
                });
                assert_eq!(stack.looks(), 3, "{kind:?}");
            }
        }
    });
}

// ---- the end of the pool -------------------------------------------------------------------------

#[test]
fn a_pool_that_is_ended_during_a_scope() {
    watched(60, || {
        for (kind, terminate) in THREADS.into_iter().flat_map(|kind| [(kind, true), (kind, false)])
        {
            let pool = kind.pool();
            let stack = Stack::new();
            let drops = Drops::default();
            let (gate, opener) = gate();
            pool.scope(|s| {
                let wait = || {
                    gate.pass();
                    stack.look(0)
                };
                let running: Vec<_> =
                    (0..kind.workers()).map(|_| s.apply_async(wait, ())).collect();
                opener.wait_for(kind.workers());
                let queued: Vec<_> = (0..20)
                    .map(|i| {
                        let mine = drops.make(i);
                        s.apply_async(
                            || {
                                let mine = mine;
                                stack.look(mine.value())
                            },
                            (),
                        )
                    })
                    .collect();
                let mut stream = s.imap(|i| stack.look(i), 0..);
                assert_matches!(stream.next_timeout(NO_TIME), Err(Error::Timeout));
                if terminate {
                    pool.terminate();
                } else {
                    pool.close();
                }
                assert_matches!(s.apply_async(|| stack.look(1), ()).get(), Err(Error::NotRunning));
                assert_matches!(s.map_async(|_| (), 0..3).get(), Err(Error::NotRunning));
                assert_matches!(s.imap(|_| (), 0..3).next(), Some(Err(Error::NotRunning)));
                if terminate {
                    assert_matches!(stream.next(), Some(Err(Error::Terminated)));
                    for task in queued.into_iter().chain(running) {
                        assert_matches!(task.get(), Err(Error::Terminated));
                    }
                    drop(opener);
                } else {
                    drop(opener);
                    assert_eq!(stream.next().unwrap().unwrap(), "0");
                    for task in queued.into_iter().chain(running) {
                        task.get().unwrap();
                    }
                }
                forget(stream);
            });
            assert_eq!(drops.alive(), 0, "{kind:?}");
            drop(stack);
            pool.join().unwrap();
        }
    });
}

#[test]
fn terminate_from_another_thread_races_with_the_end_of_a_scope() {
    watched(120, || {
        for kind in [Kind::Lasting(2), Kind::Replaced(2, 2)] {
            for round in 0..OFTEN / 4 + 1 {
                let pool = &kind.pool();
                let stack = Stack::new();
                let drops = Drops::default();
                thread::scope(|threads| {
                    threads.spawn(move || {
                        sleep(Duration::from_micros(10 * round as u64));
                        pool.terminate();
                    });
                    pool.scope(|s| {
                        for i in 0..10 {
                            let mine = drops.make(i);
                            forget(s.apply_async(
                                || {
                                    let mine = mine;
                                    stack.look(mine.value())
                                },
                                (),
                            ));
                        }
                        let items = (0..).map(|i| drops.make(i));
                        let mut stream = s.imap(|item: Counted| stack.look(item.value()), items);
                        let _ = stream.next();
                        forget(stream);
                    });
                    assert_eq!(drops.alive(), 0, "{kind:?}, round {round}");
                });
                drops.assert_each_once();
                drop(stack);
                pool.join().unwrap();
            }
        }
    });
}

#[test]
fn a_cancelled_task_of_a_scope_can_see_it() {
    watched(30, || {
        for kind in THREADS {
            let pool = kind.pool();
            let (begun, begins) = crossbeam_channel::unbounded();
            let seen = Counter::default();
            pool.scope(|s| {
                let task = s.apply_async(
                    || {
                        begun.send(()).unwrap();
                        let start = Instant::now();
                        while !is_cancelled() && start.elapsed() < LONG {
                            thread::yield_now();
                        }
                        if is_cancelled() {
                            seen.add();
                        }
                    },
                    (),
                );
                begins.recv_timeout(LONG).unwrap();
                assert!(!task.cancel(), "it has begun");
                forget(task);
            });
            assert_eq!(seen.get(), 1, "{kind:?}");
        }
    });
}

/// While the workers are held by others, the end of a scope has nothing to do but sleep.
#[test]
#[cfg_attr(miri, ignore = "reads what the system says of threads")]
fn a_scope_that_waits_for_a_queued_task_sleeps() {
    watched(30, || {
        for kind in LASTING {
            let pool = kind.pool();
            let (opener, held) = hold(&pool, kind.workers());
            let opens = thread::spawn(move || {
                sleep(Duration::from_millis(400));
                drop(opener);
            });
            let Some(before) = processor_time() else { return };
            pool.scope(|s| drop(s.apply_async(|| (), ())));
            let spent = processor_time().unwrap() - before;
            assert!(spent < Duration::from_millis(40), "{kind:?}: {spent:?} of 400 ms");
            opens.join().unwrap();
            held.into_iter().for_each(|held| held.get().unwrap());
        }
    });
}

// ---- against the serial program ------------------------------------------------------------------

#[derive(Clone, Copy, Debug)]
enum Verb {
    Apply,
    Map(usize),
    Imap(usize, usize),
    Unordered(usize, usize),
}

fn verbs() -> impl Strategy<Value = Vec<(Verb, u8)>> {
    let verb = prop_oneof![
        Just(Verb::Apply),
        (0..fewer(30, 5)).prop_map(Verb::Map),
        (0..fewer(30, 5), 0..fewer(30, 5)).prop_map(|(len, take)| Verb::Imap(len, take)),
        (0..fewer(30, 5), 0..fewer(30, 5)).prop_map(|(len, take)| Verb::Unordered(len, take)),
    ];
    prop::collection::vec((verb, 0..3_u8), 0..fewer(12, 5))
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: if cfg!(miri) { 2 } else { 60 },
        failure_persistence: None,
        ..Default::default()
    })]

    /// Each verb waited for, dropped, or leaked; all of it is done and dropped when the scope is over.
    #[test]
    fn whatever_becomes_of_the_handles(verbs in verbs(), kind in prop::sample::select(&ALL[..])) {
        let pool = kind.pool();
        let stack = Stack::new();
        let drops = Drops::default();
        let leaked = pool.scope(|s| {
            let mut leaked = 0;
            for (verb, fate) in verbs {
                let f = |item: Counted| {
                    stack.look(item.value());
                    item
                };
                let items = |len| (0..len).map(|i| drops.make(i)).collect::<Vec<_>>();
                match verb {
                    Verb::Apply => {
                        let task = s.apply_async(f, (drops.make(3),));
                        match fate {
                            0 => assert_eq!(task.get().unwrap().value(), 3),
                            1 => drop(task),
                            _ => {
                                forget(task);
                                leaked += 1;
                            }
                        }
                    }
                    Verb::Map(len) => {
                        let task = s.map_async(f, items(len));
                        match fate {
                            0 => assert_eq!(task.get().unwrap().len(), len),
                            1 => drop(task),
                            _ => {
                                forget(task);
                                leaked += len;
                            }
                        }
                    }
                    Verb::Imap(len, take) | Verb::Unordered(len, take) => {
                        let input = items(len);
                        let mut stream = match verb {
                            Verb::Imap(..) => s.imap(f, input),
                            _ => s.imap_unordered(f, input),
                        };
                        let taken = stream.by_ref().take(take).map(Result::unwrap).count();
                        assert_eq!(taken, len.min(take));
                        if fate == 2 {
                            forget(stream);
                            leaked += len - taken;
                        }
                    }
                }
            }
            leaked
        });
        // A result that nobody can drop any more is leaked, as was asked for; all else is gone.
        prop_assert!(drops.alive() <= leaked, "{} alive, {leaked} leaked", drops.alive());
        drop(stack);
    }
}

#[test]
fn a_handle_is_no_larger_for_being_in_a_scope() {
    assert_eq!(size_of::<TaskHandle<'_, u64>>(), size_of::<parpool::AsyncResult<u64>>());
    fn assert_send_sync<T: Send + Sync + Copy>() {}
    assert_send_sync::<Scope<'_, '_>>();
}

/// What has not begun is skipped, and what others run is not waited for.
#[test]
fn a_scope_waits_for_no_task_of_others() {
    watched(20, || {
        for way in 0..3 {
            for kind in THREADS {
                let pool = &kind.pool();
                let (opener, held) = hold(pool, kind.workers());
                match way {
                    0 => pool.scope(|s| {
                        drop(s.apply_async(|| 1, ()));
                        pool.terminate();
                    }),
                    1 => {
                        let timed = pool.timeout(Duration::from_millis(1));
                        timed.scope(|s| drop(s.apply_async(|| 1, ())));
                    }
                    _ => thread::scope(|threads| {
                        threads.spawn(|| {
                            sleep(NAP);
                            pool.terminate();
                        });
                        assert_matches!(pool.map(|x| x, 0..3), Err(Error::Terminated));
                        pool.scope(|s| drop(s.apply_async(|| 1, ())));
                    }),
                }
                drop((opener, held));
            }
        }
    });
}

/// One task of the scope goes before all that waits from outside, and takes the last one out from behind it.
#[test]
fn a_scope_whose_tasks_are_done_is_over_whatever_else_is_queued() {
    watched(20, || {
        for kind in [Kind::Lasting(1), Kind::Replaced(1, 100)] {
            let pool = &kind.pool();
            let (first, held) = hold(pool, 1);
            let (gate, opener) = gate();
            let ran = Counter::default();
            let strangers: Vec<_> = pool.scope(|s| {
                let (send, handles) = crossbeam_channel::unbounded::<TaskHandle<'_, ()>>();
                let waits = || {
                    handles.into_iter().for_each(|last| last.get().unwrap());
                    ran.add();
                };
                drop(s.apply_async(move || drop(s.apply_async(waits, ())), ()));
                let stranger = || {
                    let gate = gate.clone();
                    pool.apply_async(move || gate.pass(), ())
                };
                let strangers = (0..10).map(|_| stranger()).collect();
                send.send(s.apply_async(|| ran.add(), ())).unwrap();
                drop(first);
                strangers
            });
            assert_eq!(ran.get(), 2, "{kind:?}");
            assert!(strangers.iter().all(|stranger| !stranger.ready()), "{kind:?}");
            drop((opener, held));
        }
    });
}

/// They go where nobody shall wait for them any more, on the worker whose value they want.
#[test]
fn items_that_are_given_up_may_use_a_worker_local_when_they_are_dropped() {
    type Spare = WorkerLocal<Vec<usize>>;

    /// Gives something back to the worker.
    struct Item(usize, Arc<Spare>);
    impl Drop for Item {
        fn drop(&mut self) {
            self.1.with(|spare| spare.push(self.0));
        }
    }

    watched(20, || {
        for kind in [Kind::Lasting(1), Kind::Replaced(1, 1), Kind::Replaced(1, 100)] {
            let (pool, spare) = (Arc::new(kind.pool()), Arc::new(Spare::new(Vec::new)));
            let (inner, given) = (Arc::clone(&pool), Arc::clone(&spare));
            let task = move || {
                let items = || (0..3).map(|i| Item(i, Arc::clone(&given))).collect::<Vec<_>>();
                inner.timeout(Duration::from_millis(1)).chunksize(10).scope(|s| {
                    let late = s.map_async(|item: Item| item.0, items());
                    let other = s.apply_async(move |items: Vec<Item>| items.len(), (items(),));
                    sleep(NAP);
                    assert_matches!(late.get(), Err(Error::DeadlineExceeded));
                    assert_matches!(other.get(), Err(Error::DeadlineExceeded));
                });
                given.with(std::mem::take)
            };
            let mut given = pool.apply_async(task, ()).get().unwrap();
            given.sort_unstable();
            assert_eq!(given, [0, 0, 1, 1, 2, 2], "{kind:?}");
            assert_eq!(pool.apply(|| 7, ()).unwrap(), 7, "{kind:?}");
        }
    });
}

/// A scope on a worker whose first task waits for the second, by a channel: the end of the scope begins the second
/// while it waits for the first, also if that was submitted by the first.
#[test]
fn the_end_of_a_scope_on_a_worker_waits_for_no_task_while_another_is_queued() {
    watchdog(30, || {
        for nested in [false, true] {
            let pool = std::sync::Arc::new(Pool::new(2).unwrap());
            let inner = std::sync::Arc::clone(&pool);
            let done = pool.apply_async(
                move || {
                    inner.scope(|s| {
                        let (send, receive) = crossbeam_channel::unbounded::<()>();
                        let (begun, begin) = crossbeam_channel::unbounded::<()>();
                        let (ended, end) = crossbeam_channel::unbounded::<()>();
                        let later = send.clone();
                        drop(s.apply_async(
                            move || {
                                begun.send(()).unwrap();
                                // The body has ended, or is about to.
                                end.recv().unwrap();
                                if nested {
                                    drop(s.apply_async(move || later.send(()).unwrap(), ()));
                                }
                                receive.recv().unwrap();
                            },
                            (),
                        ));
                        begin.recv().unwrap();
                        if !nested {
                            drop(s.apply_async(move || send.send(()).unwrap(), ()));
                        }
                        ended.send(()).unwrap();
                    });
                },
                (),
            );
            done.get().unwrap();
        }
    });
}
