//! How far calls are: what `Progress` and `AsyncResult::progress` say.

mod common;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use common::{ON_PURPOSE, STEP, THREADS, all_pools, fewer, gate, quiet, scaled, watchdog};
use crossbeam_channel::unbounded;
use parpool::{Context, Error, Pool, Progress, current_worker};

type Told = Arc<Mutex<Vec<(usize, Option<usize>)>>>;

/// A progress, and what it tells.
fn told() -> (Progress, Told) {
    let list = Arc::new(Mutex::new(Vec::new()));
    let writer = Arc::clone(&list);
    (Progress::new(move |done, total| writer.lock().unwrap().push((done, total))), list)
}

fn pools() -> Vec<Pool> {
    let builders = [
        Pool::builder().processes(1),
        Pool::builder().processes(3),
        Pool::builder().processes(3).insights(true),
        Pool::builder().processes(2).max_tasks_per_child(3),
        Pool::builder().context(Context::serial()),
    ];
    builders.into_iter().map(|builder| builder.build().unwrap()).collect()
}

/// An iterator that does not say its length.
fn unknown(n: usize) -> impl Iterator<Item = usize> + Send {
    (0..n).filter(|_| true)
}

#[test]
fn every_verb_counts_each_item_once_and_ends_with_all_of_them() {
    watchdog(60, || {
        let mut cases = 0_usize;
        for pool in pools() {
            for n in [0, 1, 7, fewer(1000, 80)] {
                for chunksize in [None, Some(1), Some(64)] {
                    for verb in 0..12 {
                        cases += 1;
                        if cases % fewer(1, 3 * STEP) != 0 {
                            continue;
                        }
                        let (progress, told) = told();
                        let mut view = pool.progress(&progress);
                        if let Some(size) = chunksize {
                            view = view.chunksize(size);
                        }
                        let items: Vec<usize> = (0..n).collect();
                        let f = |x: usize| x;
                        let count = match verb {
                            0 => view.map(f, items).unwrap().len(),
                            1 => view.map(f, 0..n).unwrap().len(),
                            2 => view.map(f, unknown(n)).unwrap().len(),
                            3 => view.try_map(Ok::<_, ()>, items).unwrap().len(),
                            4 => view.map_async(f, items).get().unwrap().len(),
                            5 => view.map_async(f, 0..n).get().unwrap().len(),
                            6 => view.map_async(f, unknown(n)).get().unwrap().len(),
                            7 => view.imap(f, 0..n).count(),
                            8 => view.imap_unordered(f, unknown(n)).count(),
                            9 => view.sum(|_| 1, items).unwrap(),
                            10 => view.sum(|_| 1, unknown(n)).unwrap(),
                            _ => view.seed(1).map(|_, x| x, items).unwrap().len(),
                        };
                        assert_eq!(count, n);
                        let case = format!("{pool:?}, {n} items, {chunksize:?}, verb {verb}");
                        assert_eq!(progress.get(), (n, Some(n)), "{case}");
                        let told = told.lock().unwrap();
                        assert!(told.is_sorted_by_key(|(done, _)| *done), "{case}: {told:?}");
                        assert_eq!(told.first().unwrap().0, 0, "{case}");
                        assert_eq!(told.last(), Some(&(n, Some(n))), "{case}");
                        // A pool of workers that are replaced collects such an input first.
                        let collected = pool.processes() == 2 && verb != 8;
                        if n > 0 && matches!(verb, 2 | 6 | 8 | 10) && !collected {
                            assert_eq!(told[0].1, None, "{case}");
                        }
                    }
                }
            }
        }
    });
}

#[test]
fn what_is_counted_is_finished_not_pulled() {
    watchdog(60, || {
        let pool = Pool::new(2).unwrap();
        let (go, gate) = unbounded::<()>();
        let (begun, begin) = unbounded();
        let result = pool.chunksize(1).map_async(
            move |x| {
                begun.send(x).unwrap();
                gate.recv().unwrap();
                x
            },
            vec![1, 2, 3, 4, 5, 6],
        );
        // Two are running and none is finished.
        begin.recv().unwrap();
        begin.recv().unwrap();
        assert_eq!(result.progress(), (0, Some(6)));
        for finished in 1..=4 {
            go.send(()).unwrap();
            // A worker that finished one begins another; before that it counts.
            begin.recv().unwrap();
            assert_eq!(result.progress(), (finished, Some(6)));
        }
        go.send(()).unwrap();
        go.send(()).unwrap();
        result.wait();
        assert_eq!(result.progress(), (6, Some(6)));
    });
}

#[test]
fn a_handle_of_a_single_function_is_one_item_and_a_refused_one_nothing() {
    watchdog(60, || {
        for pool in pools() {
            let result = pool.apply_async(|| 7, ());
            result.wait();
            assert_eq!(result.progress(), (1, Some(1)));
            let progress = Progress::default();
            pool.progress(&progress).apply_async(|| 7, ()).get().unwrap();
            assert_eq!(progress.get(), (1, Some(1)));
            pool.progress(&progress).apply(|| 7, ()).unwrap();
            assert_eq!(progress.get(), (1, Some(1)));
            pool.close();
            let refused = pool.map_async(|x| x, vec![1, 2, 3]);
            assert!(matches!(refused.progress(), (0, None)));
            assert!(matches!(refused.get(), Err(Error::NotRunning)));
        }
        let pool = Pool::new(1).unwrap();
        let (go, gate) = unbounded::<()>();
        let held = pool.apply_async(move || gate.recv().unwrap(), ());
        assert_eq!(held.progress(), (0, Some(1)));
        go.send(()).unwrap();
        held.get().unwrap();
    });
}

#[test]
fn it_is_told_at_the_end_of_a_call_that_fails_too() {
    const LEN: usize = fewer(100, 20);

    quiet();
    watchdog(60, || {
        for pool in pools() {
            let (progress, told) = told();
            let fail = |x: usize| if x == LEN / 2 { Err("no") } else { Ok(x) };
            pool.progress(&progress).try_map(fail, 0..LEN).unwrap_err();
            let (done, total) = progress.get();
            assert!(done < LEN && total == Some(LEN));
            assert_eq!(told.lock().unwrap().last(), Some(&(done, total)));
            let panics = |x: usize| assert_ne!(x, LEN / 2, "{ON_PURPOSE}");
            pool.progress(&progress).map_async(panics, 0..LEN).get().unwrap_err();
            assert!(progress.get().0 < LEN);
            // An item of a stream that panics is finished all the same.
            let results =
                pool.progress(&progress).imap(panics, 0..LEN).filter(Result::is_ok).count();
            assert_eq!((results, progress.get()), (LEN - 1, (LEN, Some(LEN))));
        }
    });
}

#[test]
fn calls_at_the_same_time_add_up_and_later_ones_begin_anew() {
    watchdog(60, || {
        let pool = Pool::new(2).unwrap();
        let progress = Progress::default();
        let (go, gate) = unbounded::<()>();
        let (begun, begin) = unbounded();
        let held = pool.progress(&progress).map_async(
            move |()| {
                begun.send(()).unwrap();
                gate.recv().unwrap();
            },
            vec![(); 1],
        );
        begin.recv().unwrap();
        pool.progress(&progress).map(|x| x, 0..10).unwrap();
        assert_eq!(progress.get(), (10, Some(11)));
        go.send(()).unwrap();
        held.get().unwrap();
        assert_eq!(progress.get(), (11, Some(11)));
        pool.progress(&progress).map(|x| x, 0..3).unwrap();
        assert_eq!(progress.get(), (3, Some(3)));
    });
}

#[test]
fn a_call_that_never_begins_or_is_given_up_leaves_nothing_open() {
    watchdog(60, || {
        let pool = Pool::new(1).unwrap();
        let progress = Progress::default();
        let (go, gate) = unbounded::<()>();
        let held = pool.apply_async(move || gate.recv().unwrap(), ());
        let queued = pool.progress(&progress).map_async(|x| x, 0..10);
        assert!(queued.cancel());
        drop(queued);
        go.send(()).unwrap();
        held.get().unwrap();
        let mut stream = pool.progress(&progress).imap(|x| x, 0..1000);
        stream.next().unwrap().unwrap();
        drop(stream);
        assert!(progress.get().0 < 1000);
        // If one were open still, this would be added to it.
        pool.progress(&progress).map(|x| x, 0..3).unwrap();
        assert_eq!(progress.get(), (3, Some(3)));
    });
}

#[test]
fn a_closure_may_panic_and_may_use_the_pool_and_its_own_progress() {
    quiet();
    watchdog(60, || {
        let pool = Arc::new(Pool::new(2).unwrap());
        let panics = Progress::new(|_, _| panic!("{ON_PURPOSE}"));
        assert_eq!(pool.progress(&panics).map(|x| x, 0..10).unwrap().len(), 10);
        let own = Arc::new(Mutex::new(None::<Progress>));
        let (inner, mine) = (Arc::clone(&pool), Arc::clone(&own));
        let nested = Progress::new(move |done, _| {
            let progress = mine.lock().unwrap().clone();
            if let (Some(progress), 0) = (progress, done) {
                mine.lock().unwrap().take();
                inner.progress(&progress).map(|x| x, 0..5).unwrap();
            }
        });
        *own.lock().unwrap() = Some(nested.clone());
        pool.progress(&nested).map(|x| x, 0..10).unwrap();
        assert_eq!(nested.get(), (15, Some(15)));
    });
}

#[test]
fn a_long_call_tells_on_the_way() {
    watchdog(60, || {
        let pool = Pool::new(2).unwrap();
        let (tell, told) = unbounded();
        let (go, gate) = unbounded::<()>();
        let progress = Progress::new(move |done, _| tell.send(done).unwrap());
        let work = move |x: usize| {
            if x == 19 {
                gate.recv().unwrap();
            }
            std::thread::sleep(std::time::Duration::from_millis(10));
        };
        let result = pool.progress(&progress).map_async(work, (0..20).collect::<Vec<_>>());
        // The last item is held until something in the middle was told.
        while !(1..20).contains(&told.recv().unwrap()) {}
        go.send(()).unwrap();
        result.get().unwrap();
        assert_eq!(told.try_iter().last(), Some(20));
    });
}

#[test]
fn streams_of_absurd_lengths_do_not_overflow_the_total_of_a_progress_they_share() {
    watchdog(20, || {
        let pool = Pool::new(2).unwrap();
        let progress = Progress::default();
        let mut one = pool.progress(&progress).imap(|x| x, 0..usize::MAX);
        assert_eq!(one.next().unwrap().unwrap(), 0);
        let mut two = pool.progress(&progress).imap(|x| x, 0..usize::MAX);
        assert_eq!(two.next().unwrap().unwrap(), 0);
        assert_eq!(progress.get().1, Some(usize::MAX));
        drop((one, two));
        pool.progress(&progress).map(|x| x, 0..3).unwrap();
        assert_eq!(progress.get(), (3, Some(3)));
    });
}

#[test]
fn a_failed_call_has_ended_when_its_error_is_there() {
    watchdog(60, || {
        for pool in pools() {
            for kept in [false, true] {
                for _ in 0..scaled(200) {
                    let progress = Progress::default();
                    let view = pool.progress(&progress);
                    let panics = || panic!("{ON_PURPOSE}");
                    let handle = view.apply_async(panics, ());
                    handle.wait();
                    let handle = kept.then_some(handle);
                    view.map(|x| x, 0..10).unwrap();
                    assert_eq!(progress.get(), (10, Some(10)), "{pool:?}, handle kept: {kept}");
                    drop(handle);
                    view.apply(panics, ()).unwrap_err();
                    view.map(|x| x, 0..10).unwrap();
                    assert_eq!(progress.get(), (10, Some(10)), "{pool:?}");
                }
            }
        }
    });
}

#[test]
fn a_call_whose_time_is_up_has_ended_when_its_error_is_there() {
    watchdog(60, || {
        for processes in [1, 2] {
            let pool = Pool::new(processes).unwrap();
            let progress = Progress::default();
            let (go, gate) = unbounded::<()>();
            let late = loop {
                let ((begun, begin), gate) = (unbounded(), gate.clone());
                let held = move || {
                    begun.send(()).unwrap();
                    gate.recv().unwrap();
                };
                let soon = pool.timeout(Duration::from_millis(fewer(20, 1000) as u64));
                let late = soon.progress(&progress).apply_async(held, ());
                // On a busy machine its time may be up before it begins.
                if begin.recv().is_ok() {
                    break late;
                }
            };
            assert!(matches!(late.get(), Err(Error::DeadlineExceeded)));
            let view = pool.progress(&progress);
            let next = view.map_async(|x| x, 0..10);
            go.send(()).unwrap();
            next.get().unwrap();
            assert_eq!(progress.get(), (10, Some(10)));
        }
    });
}

#[test]
#[cfg_attr(miri, ignore = "an input that is so slow is not pulled ahead")]
fn a_stream_that_was_ended_counts_what_was_finished() {
    watchdog(60, || {
        for ends_by_itself in [false, true] {
            let (pool, (gate, mut opener)) = (Pool::new(1).unwrap(), gate());
            let progress = Progress::default();
            let mut view = pool.progress(&progress).buffersize(50).chunksize(1);
            if ends_by_itself {
                view = view.timeout(Duration::from_secs(1));
            }
            let held = move |x| {
                if x == 3 {
                    gate.pass();
                }
            };
            let mut stream = view.imap(held, 0..100);
            assert_eq!(stream.by_ref().take(3).map(Result::unwrap).count(), 3);
            if !ends_by_itself {
                opener.wait_for(1);
                pool.terminate();
            }
            stream.next().unwrap().unwrap_err();
            assert_eq!(progress.get(), (3, Some(100)), "by itself: {ends_by_itself}");
            // What is finished after the end is not counted.
            opener.open();
            drop(pool);
            assert_eq!(progress.get(), (3, Some(100)), "by itself: {ends_by_itself}");
        }
    });
}

#[test]
fn what_a_worker_finishes_after_the_end_of_its_call_is_not_counted_for_the_next() {
    watchdog(60, || {
        let pool = Pool::new(3).unwrap();
        let progress = Progress::default();
        for _ in 0..scaled(2000) {
            let mut stream = pool.progress(&progress).buffersize(64).imap(|x| x, 0..1000);
            stream.next().unwrap().unwrap();
            drop(stream);
            pool.progress(&progress).map(|x| x, 0..10).unwrap();
            assert_eq!(progress.get(), (10, Some(10)));
        }
    });
}

#[test]
fn a_closure_may_ask_which_worker_it_is_on_also_where_calls_fail() {
    watchdog(20, || {
        for pool in pools() {
            let pool = Arc::new(pool);
            let asked = Arc::new(AtomicUsize::new(0));
            let count = Arc::clone(&asked);
            let progress = Progress::new(move |_, _| {
                current_worker();
                count.fetch_add(1, Ordering::SeqCst);
            });
            let inner = Arc::clone(&pool);
            let nested = move || {
                inner.progress(&progress).scope(|s| {
                    let failed = s.apply_async(|| panic!("{ON_PURPOSE}"), ());
                    assert!(matches!(failed.get(), Err::<(), _>(Error::Panicked(_))));
                    s.apply_async(|| (), ()).get().unwrap();
                });
            };
            pool.apply(nested, ()).unwrap();
            // Each call is told when it begins and when it has ended.
            assert!(asked.load(Ordering::SeqCst) >= 4, "{pool:?}");
        }
    });
}

#[test]
fn what_a_closure_holds_may_panic_when_it_is_dropped() {
    struct Bomb;

    impl Drop for Bomb {
        fn drop(&mut self) {
            panic!("{ON_PURPOSE}: dropped");
        }
    }

    /// A method, so that a closure that calls it captures all of the value.
    impl Bomb {
        fn look(&self) {}
    }

    watchdog(20, || {
        for (kind, pool) in all_pools() {
            let bomb = Bomb;
            let progress = Progress::new(move |_, _| bomb.look());
            let stream = pool.progress(&progress).imap(|x| x, 0..3);
            // From here on the call is the last that has it.
            drop(progress);
            assert_eq!(stream.map(Result::unwrap).count(), 3, "{kind:?}");
        }
        for kind in THREADS {
            let (pool, bomb) = (kind.pool(), Bomb);
            let (gate, opener) = gate();
            let progress = Progress::new(move |_, _| bomb.look());
            let handle = pool.progress(&progress).map_async(move |_| gate.pass(), 0..3);
            drop(progress);
            drop(opener);
            assert_eq!(handle.get().unwrap().len(), 3, "{kind:?}");
            assert_eq!(pool.apply(|| 7, ()).unwrap(), 7, "{kind:?}");
        }
    });
}

#[cfg(feature = "indicatif")]
mod bars {
    use std::fmt::Write;
    use std::mem::ManuallyDrop;
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use indicatif::{ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};

    use super::*;

    fn hidden() -> ProgressBar {
        ProgressBar::with_draw_target(None, ProgressDrawTarget::hidden())
            .with_style(ProgressStyle::default_bar())
    }

    #[test]
    fn a_bar_is_at_its_end_after_a_call() {
        watchdog(60, || {
            for pool in pools() {
                let bar = hidden();
                let progress = Progress::from(bar.clone());
                for n in [10, 1000] {
                    pool.progress(&progress).map(|x| x, 0..n).unwrap();
                    let (position, length) = (bar.position(), bar.length());
                    assert_eq!((bar.is_finished(), position, length), (true, n, Some(n)));
                }
                assert_eq!(pool.progress(&progress).imap(|x| x, unknown(77)).count(), 77);
                assert_eq!((bar.is_finished(), bar.position()), (true, 77));
            }
        });
    }

    #[test]
    fn a_bar_finishes_where_a_call_fails() {
        watchdog(60, || {
            let pool = Pool::new(2).unwrap();
            let bar = hidden();
            let fail = |x: usize| if x == 500 { Err(()) } else { Ok(x) };
            pool.progress(&Progress::from(bar.clone())).try_map(fail, 0..1000).unwrap_err();
            assert!(bar.is_finished() && bar.position() < 1000);
            assert_eq!(bar.length(), Some(1000));
        });
    }

    #[test]
    fn the_pools_own_bar_works_without_a_terminal() {
        watchdog(60, || {
            let pool = Pool::new(2).unwrap();
            let bar = Progress::bar();
            pool.progress(&bar).map(|x| x, 0..1000).unwrap();
            pool.progress(&bar).map(|x| x, unknown(10)).unwrap();
            assert_eq!(bar.get(), (10, Some(10)));
        });
    }

    #[test]
    fn a_bar_whose_style_panics_costs_no_handle_and_no_value() {
        /// With a style that panics when it is drawn; or when it is drawn for the last time.
        fn bar(at_the_end: bool) -> Progress {
            let style = ProgressStyle::with_template("{mine} {pos}").unwrap();
            let style = style.with_key("mine", move |state: &ProgressState, _: &mut dyn Write| {
                assert!(at_the_end && !state.is_finished(), "{ON_PURPOSE}: the style");
            });
            let target = ProgressDrawTarget::term_like(Box::new(common::Nowhere));
            Progress::from(ProgressBar::with_draw_target(None, target).with_style(style))
        }

        watchdog(60, || {
            for (kind, pool) in all_pools() {
                for at_the_end in [false, true] {
                    let case = format!("{kind:?}, at the end: {at_the_end}");
                    let bars = [(); 7].map(|()| ManuallyDrop::new(bar(at_the_end)));
                    let views = bars.each_ref().map(|bar| pool.progress(bar));
                    let expected = [0, 1, 2];
                    assert_eq!(views[0].map(|x| x, 0..3).unwrap(), expected, "{case}");
                    assert_eq!(views[1].map(|x| x, vec![0, 1, 2]).unwrap(), expected, "{case}");
                    assert_eq!(views[2].apply(|| 7, ()).unwrap(), 7, "{case}");
                    let patience = Duration::from_secs(10);
                    let mut handle = views[3].map_async(|x| x, 0..3);
                    assert_eq!(handle.get_timeout(patience).unwrap(), expected, "{case}");
                    let mut handle = views[4].map_async(|x| x, vec![0, 1, 2]);
                    assert_eq!(handle.get_timeout(patience).unwrap(), expected, "{case}");
                    let mut handle = views[5].apply_async(|| 7, ());
                    assert_eq!(handle.get_timeout(patience).unwrap(), 7, "{case}");
                    assert_eq!(views[6].imap(|x| x, 0..3).map(Result::unwrap).count(), 3, "{case}");
                    for bar in bars {
                        // The last owner's: indicatif draws a bar for the last time when it is dropped.
                        let _ = catch_unwind(AssertUnwindSafe(|| ManuallyDrop::into_inner(bar)));
                    }
                    assert_eq!(pool.map(|x| x, 0..3).unwrap(), expected, "{case}");
                }
            }
        });
    }
}
