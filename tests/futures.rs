//! Streams and handles in async tasks.

mod common;

use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context as Polling, Poll};
use std::time::Duration;

use common::{ON_PURPOSE, counting_waker, fewer, quiet, watchdog};
use crossbeam_channel::unbounded;
use futures::executor::block_on;
use futures::{Stream, StreamExt};
use parpool::{Context, Error, Pool, Progress, is_cancelled};

fn pools() -> [Pool; 5] {
    [
        Pool::builder().processes(1),
        Pool::builder().processes(2),
        Pool::builder().processes(4),
        Pool::builder().processes(2).max_tasks_per_child(3),
        Pool::builder().context(Context::serial()),
    ]
    .map(|builder| builder.build().unwrap())
}

/// One poll, with a waker that does nothing.
fn poll<S: Stream + Unpin>(stream: &mut S) -> Poll<Option<S::Item>> {
    Pin::new(stream).poll_next(&mut Polling::from_waker(std::task::Waker::noop()))
}

#[test]
fn a_stream_gives_what_the_iterator_gives() {
    watchdog(60, || {
        for pool in pools() {
            for n in [0, 1, fewer(10, 4), fewer(3000, 12)] {
                for view in [pool.chunksize(1), pool.chunksize(7), pool.buffersize(3)] {
                    let ordered = view.imap(|x: usize| x * 3, 0..n).into_stream();
                    assert_eq!(ordered.size_hint(), (n.min(1), Some(n + 1)));
                    let ordered: Vec<_> = block_on(ordered.map(Result::unwrap).collect());
                    assert!(ordered.into_iter().eq((0..n).map(|x| x * 3)));
                    let any = view.imap_unordered(|x: usize| x, 0..n).into_stream();
                    let mut any: Vec<_> = block_on(any.map(Result::unwrap).collect());
                    any.sort_unstable();
                    assert!(any.into_iter().eq(0..n));
                }
                let free = pool.imap(|x: usize| x, 0..n).into_stream();
                assert_eq!(block_on(free.count()), n);
            }
        }
    });
}

#[test]
fn an_item_that_panics_is_an_error_in_its_place() {
    quiet();
    const LEN: i32 = fewer(100, 12) as i32;

    watchdog(60, || {
        for pool in pools() {
            let f = |x: i32| if x % 3 == 0 { panic!("{ON_PURPOSE}") } else { x };
            let results: Vec<_> = block_on(pool.imap(f, 0..LEN).into_stream().collect());
            assert_eq!(results.len(), LEN as usize);
            for (x, result) in (0..).zip(results) {
                match result {
                    Ok(value) => assert!(value == x && x % 3 != 0),
                    Err(Error::Panicked(panic)) => assert_eq!(panic.index(), Some(x as usize)),
                    Err(other) => panic!("{other:?}"),
                }
            }
        }
    });
}

#[test]
fn the_window_holds_and_the_thread_that_polls_pulls_the_input() {
    watchdog(60, || {
        let pool = Pool::new(2).unwrap();
        let pulled = Arc::new(AtomicUsize::new(0));
        let me = std::thread::current().id();
        let counter = Arc::clone(&pulled);
        let input = (0..).inspect(move |_| {
            assert_eq!(std::thread::current().id(), me);
            counter.fetch_add(1, Ordering::Relaxed);
        });
        let mut stream = pool.buffersize(5).imap(|x: usize| x, input).into_stream();
        assert_eq!(pulled.load(Ordering::Relaxed), 0);
        for k in 0..fewer(200, 20) {
            assert_eq!(block_on(stream.next()).unwrap().unwrap(), k);
            assert!(pulled.load(Ordering::Relaxed) <= k + 5);
        }
    });
}

#[test]
fn a_pending_stream_is_woken_by_its_result_and_not_before() {
    watchdog(60, || {
        let pool = Pool::new(2).unwrap();
        let (go, gate) = unbounded::<()>();
        let f = move |x: i32| {
            gate.recv().unwrap();
            x
        };
        let mut stream = pool.imap(f, 0..2).into_stream();
        let (waker, woken) = counting_waker();
        let mut polling = Polling::from_waker(&waker);
        assert!(Pin::new(&mut stream).poll_next(&mut polling).is_pending());
        assert_eq!(woken.get(), 0);
        go.send(()).unwrap();
        go.send(()).unwrap();
        assert!(common::eventually(|| woken.get() > 0));
        assert!(matches!(block_on(stream.next()), Some(Ok(0))));
        assert!(matches!(block_on(stream.next()), Some(Ok(1))));
        assert!(block_on(stream.next()).is_none());
        assert!(poll(&mut stream).is_ready(), "it stays at its end");
    });
}

#[test]
fn terminate_and_deadlines_end_a_pending_stream() {
    watchdog(60, || {
        let pool = Arc::new(Pool::new(1).unwrap());
        let (begun, begin) = unbounded();
        let endless = move |_| {
            begun.send(()).unwrap();
            while !is_cancelled() {
                std::thread::yield_now();
            }
        };
        let mut stream = pool.imap(endless, 0..).into_stream();
        let other = Arc::clone(&pool);
        let ender = std::thread::spawn(move || {
            begin.recv().unwrap();
            other.terminate();
        });
        // What the running item returned may be there before.
        let rest: Vec<_> = block_on(stream.by_ref().collect());
        assert!(matches!(rest.last(), Some(Err(Error::Terminated))), "{rest:?}");
        assert!(rest.len() <= 2 && block_on(stream.next()).is_none());
        ender.join().unwrap();

        // There is no timer: it is noticed when the item has returned, which asks whether it is late.
        let pool = Pool::new(1).unwrap();
        let wait = |_| {
            while !is_cancelled() {
                std::thread::yield_now();
            }
        };
        let timed = pool.timeout(Duration::from_millis(10));
        let mut stream = timed.imap(wait, 0..).into_stream();
        let mut last = None;
        while let Some(result) = block_on(stream.next()) {
            last = Some(result);
        }
        assert!(matches!(last, Some(Err(Error::DeadlineExceeded))), "{last:?}");
    });
}

#[test]
fn a_deadline_that_passes_in_the_queue_wakes_the_task() {
    watchdog(60, || {
        let pool = Pool::new(1).unwrap();
        let (go, gate) = unbounded::<()>();
        let held = pool.apply_async(move || gate.recv().unwrap(), ());
        let mut stream = pool.timeout(Duration::from_millis(5)).imap(|x| x, 0..3).into_stream();
        let (waker, woken) = counting_waker();
        let mut polling = Polling::from_waker(&waker);
        let _ = Pin::new(&mut stream).poll_next(&mut polling);
        std::thread::sleep(Duration::from_millis(10));
        go.send(()).unwrap();
        held.get().unwrap();
        assert!(common::eventually(|| woken.get() > 0));
        assert!(matches!(block_on(stream.next()), Some(Err(Error::DeadlineExceeded))));
        assert!(block_on(stream.next()).is_none());
    });
}

#[test]
fn a_stream_that_is_dropped_while_it_is_pending_runs_nothing_more() {
    watchdog(60, || {
        let pool = Pool::new(1).unwrap();
        let (go, gate) = unbounded::<()>();
        let (ran, runs) = unbounded();
        let f = move |x: usize| {
            ran.send(x).unwrap();
            gate.recv().unwrap();
        };
        let mut stream = pool.imap(f, 0..100).into_stream();
        assert!(poll(&mut stream).is_pending());
        assert_eq!(runs.recv().unwrap(), 0);
        drop(stream);
        go.send(()).unwrap();
        pool.close();
        pool.join().unwrap();
        assert_eq!(runs.try_iter().count(), 0);
    });
}

#[test]
fn many_streams_on_one_thread_all_get_on() {
    const LEN: u64 = fewer(500, 20) as u64;

    watchdog(60, || {
        let pool = Pool::new(3).unwrap();
        let streams = (0..fewer(20, 3) as u64).map(|seed| {
            let stream = pool.imap(move |x: u64| x * seed, 0..LEN).into_stream();
            async move { (seed, stream.map(Result::unwrap).collect::<Vec<_>>().await) }
        });
        for (seed, all) in block_on(futures::future::join_all(streams)) {
            assert!(all.into_iter().eq((0..LEN).map(|x| x * seed)));
        }
    });
}

#[test]
fn a_stream_polled_on_a_worker_helps() {
    watchdog(60, || {
        let pool = Arc::new(Pool::new(1).unwrap());
        let inner = Arc::clone(&pool);
        let sum = move || {
            let stream = inner.imap(|x: u64| x, 0..100).into_stream();
            block_on(stream.map(Result::unwrap).fold(0, |sum, x| async move { sum + x }))
        };
        assert_eq!(pool.apply(sum, ()).unwrap(), 4950);
    });
}

#[test]
fn all_that_watch_a_stream_see_its_end() {
    watchdog(60, || {
        let pool = Pool::new(2).unwrap();
        let progress = Progress::default();
        let stream = pool.progress(&progress).imap(|x| x, 0..100).into_stream();
        assert_eq!(block_on(stream.count()), 100);
        assert_eq!(progress.get(), (100, Some(100)));
    });
}

#[test]
fn a_scopes_stream_may_borrow() {
    watchdog(60, || {
        let pool = Pool::new(2).unwrap();
        let words = vec![String::from("a"), String::from("bc")];
        let lengths: Vec<usize> = pool.scope(|s| {
            block_on(s.imap(|word| word.len(), &words).into_stream().map(Result::unwrap).collect())
        });
        assert_eq!(lengths, [1, 2]);
    });
}

#[test]
fn handles_and_streams_are_selected_between() {
    watchdog(60, || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            let pool = Pool::new(2).unwrap();
            let (go, gate) = unbounded::<()>();
            let mut slow = pool.apply_async(move || gate.recv().is_ok(), ());
            let mut stream = pool.imap(|x: u32| x, 0..100).into_stream();
            let mut seen = 0;
            loop {
                tokio::select! {
                    outcome = &mut slow => {
                        assert!(outcome.unwrap());
                        break;
                    }
                    next = stream.next(), if seen < 100 => {
                        assert_eq!(next.unwrap().unwrap(), seen);
                        seen += 1;
                        if seen == 100 {
                            go.send(()).unwrap();
                        }
                    }
                }
            }
            assert_eq!(seen, 100);
            // A timeout of the runtime's leaves the handle as it was.
            let (go, gate) = unbounded::<()>();
            let mut held = pool.apply_async(move || gate.recv().is_ok(), ());
            assert!(tokio::time::timeout(Duration::from_millis(5), &mut held).await.is_err());
            go.send(()).unwrap();
            assert!(held.await.unwrap());
        });
    });
}

#[test]
fn a_dropped_handle_cancels_its_call_if_it_was_asked_to() {
    watchdog(60, || {
        for asked in [true, false] {
            let pool = Pool::new(1).unwrap();
            let (begun, begin) = unbounded();
            let (go, gate) = unbounded::<()>();
            let (saw, seen) = unbounded();
            let running = pool.apply_async(
                move || {
                    begun.send(()).unwrap();
                    gate.recv().unwrap();
                    saw.send(is_cancelled()).unwrap();
                },
                (),
            );
            let (ran, runs) = unbounded();
            let queued = pool.map_async(move |x| ran.send(x).unwrap(), 0..10);
            begin.recv().unwrap();
            let drop_them = |asked| match asked {
                true => drop((running.cancel_on_drop(), queued.cancel_on_drop())),
                false => drop((running, queued)),
            };
            drop_them(asked);
            go.send(()).unwrap();
            pool.close();
            pool.join().unwrap();
            assert_eq!(seen.recv().unwrap(), asked);
            assert_eq!(runs.try_iter().count(), if asked { 0 } else { 10 });
        }
    });
}

#[test]
fn a_handle_whose_result_was_taken_cancels_nothing() {
    watchdog(60, || {
        let pool = Pool::new(1).unwrap();
        let mut done = pool.apply_async(|| 1, ()).cancel_on_drop();
        assert_eq!(done.get_timeout(common::LONG).unwrap(), 1);
        drop(done);
        let awaited = pool.map_async(|x| x, 0..10).cancel_on_drop();
        assert_eq!(block_on(awaited).unwrap().len(), 10);
        let mut lost = pin!(pool.apply_async(|| 2, ()).cancel_on_drop());
        assert_eq!(block_on(lost.as_mut()).unwrap(), 2);
    });
}
