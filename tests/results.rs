//! The handle: every way that a call can end, seen in every way that a handle can be used.

mod common;

use std::cell::RefCell;
use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex};
use std::task::{Context as TaskContext, Poll, RawWaker, RawWakerVTable, Wake, Waker};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{bounded, unbounded};
use parpool::{AsyncResult, Error, Options, Pool};

use common::{
    ALL, Bomb, Counter, Drops, Gate, Kind, LASTING, LONG, ON_PURPOSE, Opener, THREADS, all_pools,
    counting_waker, eventually, fewer, gate, hold, panicked, poll, scaled, square, watchdog,
};

// ---- the grid ------------------------------------------------------------------------------------

/// How a call ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Done,
    Panicked,
    /// While it ran.
    Terminated,
    /// While it waited.
    TerminatedQueued,
    Cancelled,
    Refused,
    /// While it ran.
    TimedOut,
    /// While it waited.
    TimedOutQueued,
}

use End::*;

const ENDS: [End; 8] =
    [Done, Panicked, Terminated, TerminatedQueued, Cancelled, Refused, TimedOut, TimedOutQueued];

/// What was called.
#[derive(Clone, Copy, Debug)]
enum Verb {
    Apply,
    Map,
}

type Handle = AsyncResult<Vec<u32>>;

/// What a call has that is to time out.
const TIME: Duration = Duration::from_millis(30);

/// A call whose end is still to come, but for one that is refused.
struct Case {
    end: End,
    // In this order: what is held is let go before the pool waits for it.
    held: Opener,
    opener: Opener,
    others: Vec<AsyncResult<()>>,
    pool: Pool,
}

impl Case {
    fn new(kind: Kind, verb: Verb, end: End) -> (Case, Handle) {
        let pool = kind.pool();
        let (gate, opener) = gate();
        let queued = matches!(end, TerminatedQueued | Cancelled | TimedOutQueued);
        let (held, others) = hold(&pool, if queued { kind.workers() } else { 0 });
        if end == Refused {
            pool.close();
        }
        let panics = end == Panicked;
        let handle = match end {
            TimedOut | TimedOutQueued => submit(pool.timeout(TIME), verb, gate, panics),
            _ => submit(pool.chunksize(1), verb, gate, panics),
        };
        // One with a time of its own may be too late on a busy machine, and then never comes.
        if !queued && !matches!(end, Refused | TimedOut) {
            opener.wait_for(1);
        }
        (Case { end, held, opener, others, pool }, handle)
    }

    /// Brings the end about.
    fn finish(&mut self, handle: &Handle) {
        match self.end {
            Done | Panicked => self.opener.open(),
            Terminated | TerminatedQueued => self.pool.terminate(),
            Cancelled => assert!(handle.cancel()),
            // Nothing is to be done but to wait.
            Refused | TimedOut | TimedOutQueued => {}
        }
    }

    #[track_caller]
    fn check(&self, outcome: Result<Vec<u32>, Error>) {
        match (self.end, outcome) {
            (Done, Ok(values)) => assert_eq!(values, [7]),
            (Panicked, Err(Error::Panicked(panic))) => assert_eq!(panic.message(), ON_PURPOSE),
            (Terminated | TerminatedQueued, Err(Error::Terminated))
            | (Cancelled, Err(Error::Cancelled))
            | (Refused, Err(Error::NotRunning))
            | (TimedOut | TimedOutQueued, Err(Error::DeadlineExceeded)) => {}
            (end, outcome) => panic!("{end:?}: {outcome:?}"),
        }
    }

    /// All of the rest works.
    fn leave(mut self) {
        self.opener.open();
        self.held.open();
        let terminated = matches!(self.end, Terminated | TerminatedQueued);
        for other in self.others {
            match other.get() {
                Err(Error::Terminated) if terminated => {}
                other => other.unwrap(),
            }
        }
        if !terminated && self.end != Refused {
            assert_eq!(self.pool.map(|x| x + 1, 0..3).unwrap(), [1, 2, 3]);
        }
        self.pool.close();
        self.pool.join().unwrap();
    }
}

fn submit(options: Options<'_>, verb: Verb, gate: Gate, panics: bool) -> Handle {
    let task = move |value: u32| {
        gate.pass();
        assert!(!panics, "{ON_PURPOSE}");
        value
    };
    match verb {
        Verb::Apply => options.apply_async(move || vec![task(7)], ()),
        Verb::Map => options.map_async(task, vec![7]),
    }
}

/// Under Miri one case of five, so that each end comes with each call.
const GRID: usize = if cfg!(miri) { 5 } else { 1 };

/// Runs `body` for each end and for every kind of pool and call.
fn grid(body: impl Fn(Case, Handle) + Send + 'static) {
    watchdog(30, move || {
        for kind in THREADS {
            for (verb, end) in [Verb::Apply, Verb::Map]
                .into_iter()
                .flat_map(|verb| ENDS.map(|end| (verb, end)))
                .step_by(GRID)
            {
                let (case, handle) = Case::new(kind, verb, end);
                let name = format!("{kind:?}, {verb:?}, {end:?}");
                let told = Told(name);
                body(case, handle);
                drop(told);
            }
        }
    });
}

/// Says where a test of the grid failed.
struct Told(String);

impl Drop for Told {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("failed with {}", self.0);
        }
    }
}

/// Adds callbacks that count: calls with a value, calls with an error.
fn counted(handle: Handle) -> (Handle, Counter, Counter) {
    let (good, bad) = (Counter::default(), Counter::default());
    let (on_good, on_bad) = (good.clone(), bad.clone());
    let handle = handle
        .callback(move |values| {
            assert_eq!(*values, [7]);
            on_good.add();
        })
        .error_callback(move |_| on_bad.add());
    (handle, good, bad)
}

#[test]
fn pending_handles_say_so_and_stay_good() {
    grid(|mut case, mut handle| {
        if matches!(case.end, Done | Panicked | Terminated | TerminatedQueued | Cancelled) {
            assert!(!handle.ready());
            assert_matches!(handle.successful(), Err(Error::NotReady));
            assert!(!handle.wait_timeout(Duration::from_millis(1)));
            assert_matches!(handle.get_timeout(Duration::ZERO), Err(Error::Timeout));
            assert_matches!(handle.get_timeout(Duration::from_millis(1)), Err(Error::Timeout));
            assert_eq!(format!("{handle:?}"), "TaskHandle(pending)");
        }
        case.finish(&handle);
        case.check(handle.get());
        case.leave();
    });
}

#[test]
fn get() {
    grid(|mut case, handle| {
        case.finish(&handle);
        case.check(handle.get());
        case.leave();
    });
}

#[test]
fn get_while_the_end_comes() {
    grid(|mut case, handle| {
        if case.end == Cancelled {
            // Needs the handle that `get` has taken.
            return case.leave();
        }
        let (send, outcome) = bounded(1);
        let (waits, waiting) = bounded(1);
        let waiter = thread::spawn(move || {
            waits.send(()).unwrap();
            send.send(handle.get()).unwrap();
        });
        waiting.recv().unwrap();
        match case.end {
            Terminated | TerminatedQueued => case.pool.terminate(),
            Done | Panicked => case.opener.open(),
            _ => {}
        }
        case.check(outcome.recv_timeout(LONG).expect("`get` returns"));
        waiter.join().unwrap();
        case.leave();
    });
}

#[test]
fn get_timeout_hands_over_once() {
    grid(|mut case, mut handle| {
        case.finish(&handle);
        // The call's own time looks like this one's; then the first is the call's too.
        case.check(handle.get_timeout(LONG));
        let good = case.end == Done;
        assert!(handle.ready());
        assert_eq!(handle.successful().unwrap(), good);
        assert_matches!(handle.get_timeout(Duration::ZERO), Err(Error::Taken));
        handle.wait();
        assert!(handle.wait_timeout(Duration::ZERO));
        assert_matches!(handle.get(), Err(Error::Taken));
        case.leave();
    });
}

#[test]
fn wait_ready_and_successful() {
    grid(|mut case, handle| {
        case.finish(&handle);
        handle.wait();
        assert!(handle.ready());
        assert!(handle.wait_timeout(Duration::ZERO));
        assert_eq!(handle.successful().unwrap(), case.end == Done);
        assert_eq!(
            format!("{handle:?}"),
            if case.end == Done { "TaskHandle(value)" } else { "TaskHandle(error)" }
        );
        case.check(handle.get());
        case.leave();
    });
}

#[test]
fn ready_turns_true_by_itself() {
    grid(|mut case, handle| {
        case.finish(&handle);
        assert!(eventually(|| handle.ready()));
        assert_eq!(handle.successful().unwrap(), case.end == Done);
        case.leave();
    });
}

#[test]
fn two_threads_wait_and_both_wake() {
    grid(|mut case, handle| {
        thread::scope(|scope| {
            let (waits, waiting) = bounded(0);
            for timed in [false, true] {
                let (waits, handle) = (waits.clone(), &handle);
                scope.spawn(move || {
                    waits.send(()).unwrap();
                    match timed {
                        false => handle.wait(),
                        true => assert!(handle.wait_timeout(LONG)),
                    }
                    assert!(handle.ready());
                });
            }
            (0..2).for_each(|_| waiting.recv().unwrap());
            case.finish(&handle);
        });
        case.check(handle.get());
        case.leave();
    });
}

#[test]
fn all_who_wait_for_one_handle_wake() {
    watchdog(20, || {
        for kind in THREADS {
            let pool = kind.pool();
            let (gate, mut opener) = gate();
            let result = pool.apply_async(move || (gate.pass(), 5).1, ());
            thread::scope(|scope| {
                let (waits, waiting) = bounded(0);
                let waiters: Vec<_> = (0..fewer(8, 4))
                    .map(|i| {
                        let (waits, result) = (waits.clone(), &result);
                        scope.spawn(move || {
                            waits.send(()).unwrap();
                            if i % 2 == 0 {
                                result.wait()
                            } else {
                                assert!(result.wait_timeout(LONG))
                            }
                            assert!(result.ready());
                        })
                    })
                    .collect();
                waiters.iter().for_each(|_| waiting.recv().unwrap());
                opener.open();
            });
            assert_eq!(result.get().unwrap(), 5);
        }
    });
}

#[test]
fn dropped_handles_harm_nobody() {
    grid(|mut case, handle| {
        case.finish(&handle);
        drop(handle);
        case.leave();
    });
}

#[test]
fn handles_dropped_early_harm_nobody() {
    grid(|mut case, handle| {
        if case.end == Cancelled {
            assert!(handle.cancel());
        }
        drop(handle);
        match case.end {
            Done | Panicked => case.opener.open(),
            Terminated | TerminatedQueued => case.pool.terminate(),
            _ => {}
        }
        case.leave();
    });
}

#[test]
fn early_callbacks_run_once_before_the_end_is_seen() {
    grid(|mut case, handle| {
        let (handle, good, bad) = counted(handle);
        case.finish(&handle);
        assert!(eventually(|| handle.ready()));
        let expected = if case.end == Done { (1, 0) } else { (0, 1) };
        assert_eq!((good.get(), bad.get()), expected);
        case.check(handle.get());
        case.leave();
        assert_eq!((good.get(), bad.get()), expected);
    });
}

#[test]
fn early_callbacks_have_run_when_get_returns() {
    grid(|mut case, handle| {
        let (handle, good, bad) = counted(handle);
        case.finish(&handle);
        case.check(handle.get());
        assert_eq!((good.get(), bad.get()), if case.end == Done { (1, 0) } else { (0, 1) });
        case.leave();
    });
}

#[test]
fn early_callbacks_run_though_the_handle_is_dropped() {
    grid(|mut case, handle| {
        let (handle, good, bad) = counted(handle);
        if matches!(case.end, TimedOut | TimedOutQueued) {
            handle.wait();
        }
        case.finish(&handle);
        drop(handle);
        let expected = if case.end == Done { (1, 0) } else { (0, 1) };
        case.leave();
        assert_eq!((good.get(), bad.get()), expected);
    });
}

#[test]
fn late_callbacks_run_at_once_on_the_caller() {
    grid(|mut case, handle| {
        case.finish(&handle);
        handle.wait();
        let ran_on = Arc::new(Mutex::new(Vec::new()));
        let note = || {
            let ran_on = Arc::clone(&ran_on);
            move || ran_on.lock().unwrap().push(thread::current().id())
        };
        let (on_good, on_bad) = (note(), note());
        let handle = handle.callback(move |_| on_good()).error_callback(move |_| on_bad());
        assert_eq!(*ran_on.lock().unwrap(), [thread::current().id()]);
        let (handle, good, bad) = counted(handle);
        assert_eq!((good.get(), bad.get()), if case.end == Done { (1, 0) } else { (0, 1) });
        assert!(handle.ready());
        case.check(handle.get());
        case.leave();
    });
}

#[test]
fn callbacks_come_too_late_for_what_was_taken() {
    grid(|mut case, mut handle| {
        case.finish(&handle);
        case.check(handle.get_timeout(LONG));
        let (handle, good, bad) = counted(handle);
        assert_eq!((good.get(), bad.get()), (0, 0));
        assert!(handle.ready());
        case.leave();
    });
}

/// Polls as an executor does that was told to poll once: again only after a wake.
#[track_caller]
fn poll_when_woken(handle: &mut Handle, waker: &Waker, wakes: &Counter) -> Result<Vec<u32>, Error> {
    let mut seen = 0;
    loop {
        assert!(eventually(|| wakes.get() > seen), "nobody wakes it");
        // A wake may come before the outcome is to be seen; then there is another.
        seen = wakes.get();
        if let Poll::Ready(outcome) = poll(handle, waker) {
            return outcome;
        }
    }
}

#[test]
fn a_polled_handle_wakes_its_task() {
    grid(|mut case, mut handle| {
        let (waker, wakes) = counting_waker();
        if let Poll::Ready(outcome) = poll(&mut handle, &waker) {
            assert!(matches!(case.end, Refused | TimedOut | TimedOutQueued));
            case.check(outcome);
            return case.leave();
        }
        case.finish(&handle);
        if matches!(case.end, TimedOut | TimedOutQueued) {
            // No timer wakes a polled handle; the end of its task does, or of those before it.
            thread::sleep(TIME);
            case.opener.open();
            case.held.open();
        }
        case.check(poll_when_woken(&mut handle, &waker, &wakes));
        case.leave();
    });
}

#[test]
fn a_handle_that_is_ready_when_polled_is_ready_at_once() {
    grid(|mut case, mut handle| {
        case.finish(&handle);
        handle.wait();
        let (waker, _) = counting_waker();
        match poll(&mut handle, &waker) {
            Poll::Ready(outcome) => case.check(outcome),
            Poll::Pending => panic!("it was ready"),
        }
        match poll(&mut handle, &waker) {
            Poll::Ready(outcome) => assert_matches!(outcome, Err(Error::Taken)),
            Poll::Pending => panic!("it was ready"),
        }
        case.leave();
    });
}

#[test]
fn a_polled_handle_may_be_dropped_and_forgets_its_waker() {
    grid(|mut case, mut handle| {
        let (waker, _) = counting_waker();
        let _ = poll(&mut handle, &waker);
        drop(handle);
        case.opener.open();
        case.held.open();
        case.leave();
    });
}

#[test]
fn every_way_to_look_at_every_end() {
    watchdog(30, || {
        for kind in THREADS {
            for (end, late) in (0..3).flat_map(|end| [false, true].map(|late| (end, late))) {
                // One way per handle: got, got in time, dropped, polled.
                for way in (0..4).filter(|way| !cfg!(miri) || (way + end) % 4 == usize::from(late))
                {
                    let pool = kind.pool();
                    let (gate, mut opener) = gate();
                    let (good, bad) = (Counter::default(), Counter::default());
                    let (on_good, on_bad) = (good.clone(), bad.clone());
                    let mut result = pool.apply_async(
                        move || {
                            gate.pass();
                            assert_ne!(end, 1, "{ON_PURPOSE}");
                            5
                        },
                        (),
                    );
                    let call_back = |result: AsyncResult<i32>| {
                        let good = move |value: &i32| assert_eq!((on_good.next(), *value), (0, 5));
                        let bad = move |_: &Error| assert_eq!(on_bad.next(), 0);
                        result.callback(good).error_callback(bad)
                    };
                    opener.wait_for(1);
                    assert_matches!(result.successful(), Err(Error::NotReady));
                    assert_matches!(result.get_timeout(Duration::ZERO), Err(Error::Timeout));
                    assert!(poll(&mut result, &counting_waker().0).is_pending());
                    let mut call_back = Some(call_back);
                    if !late {
                        result = call_back.take().unwrap()(result);
                    }
                    if end == 2 {
                        pool.terminate();
                    }
                    opener.open();
                    if way != 2 || late {
                        result.wait();
                        assert_eq!(result.successful().unwrap(), end == 0);
                    }
                    if let Some(call_back) = call_back {
                        result = call_back(result);
                    }
                    let outcome = match way {
                        0 => Some(result.get()),
                        1 => Some(result.get_timeout(LONG)),
                        2 => {
                            drop(result);
                            None
                        }
                        _ => match poll(&mut result, &counting_waker().0) {
                            Poll::Ready(outcome) => Some(outcome),
                            Poll::Pending => panic!("it was ready"),
                        },
                    };
                    match (end, outcome) {
                        (_, None) | (0, Some(Ok(5))) | (2, Some(Err(Error::Terminated))) => {}
                        (1, Some(error)) => assert_eq!(panicked(error).0, None),
                        (_, other) => panic!("{other:?}"),
                    }
                    drop(pool);
                    let expected = if end == 0 { (1, 0) } else { (0, 1) };
                    assert_eq!((good.get(), bad.get()), expected, "{kind:?} {end} {late} {way}");
                }
            }
        }
    });
}

// ---- awaiting ------------------------------------------------------------------------------------

/// The smallest runtime there is.
fn block_on<F: Future>(future: F) -> F::Output {
    struct Unpark(thread::Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut future = pin!(future);
    loop {
        match future.as_mut().poll(&mut TaskContext::from_waker(&waker)) {
            Poll::Ready(output) => return output,
            Poll::Pending => thread::park(),
        }
    }
}

#[test]
fn handles_can_be_awaited() {
    const LEN: i32 = fewer(100, 10) as i32;

    watchdog(20, || {
        for (kind, pool) in all_pools() {
            let sum = block_on(async {
                let mut sum = 0;
                for i in 0..LEN {
                    sum += pool.apply_async(move || i, ()).await?;
                }
                let all = pool.map_async(|x: i32| x, 0..LEN);
                Ok::<_, Error>(sum + all.await?.into_iter().sum::<i32>())
            });
            assert_eq!(sum.unwrap(), LEN * (LEN - 1), "{kind:?}");
        }
    });
}

#[test]
fn awaiting_ends_with_the_pool() {
    watchdog(20, || {
        for kind in THREADS {
            let pool = kind.pool();
            let (gate, mut opener) = gate();
            let result = pool.apply_async(move || gate.pass(), ());
            opener.wait_for(1);
            thread::scope(|scope| {
                scope.spawn(|| assert_matches!(block_on(result), Err(Error::Terminated)));
                pool.terminate();
            });
            opener.open();
        }
    });
}

#[test]
fn a_task_may_await_on_a_pool_of_one() {
    watchdog(20, || {
        for kind in THREADS {
            let pool = Arc::new(kind.pool());
            let inner = Arc::clone(&pool);
            let task = move || block_on(inner.apply_async(|| 5, ())).unwrap() + 1;
            assert_eq!(pool.apply_async(task, ()).get().unwrap(), 6);
            pool.close();
            pool.join().unwrap();
        }
    });
}

#[test]
fn the_last_waker_is_the_one_that_is_woken() {
    watchdog(20, || {
        for kind in THREADS {
            for terminates in [false, true] {
                let pool = kind.pool();
                let (gate, mut opener) = gate();
                let mut handle = pool.apply_async(move || (gate.pass(), vec![7]).1, ());
                let (old, _) = counting_waker();
                let (new, wakes) = counting_waker();
                assert!(poll(&mut handle, &old).is_pending());
                assert!(poll(&mut handle, &new).is_pending());
                match terminates {
                    true => pool.terminate(),
                    false => opener.open(),
                }
                let outcome = poll_when_woken(&mut handle, &new, &wakes);
                assert_eq!(outcome.is_err(), terminates, "{kind:?}");
                opener.open();
            }
        }
    });
}

#[test]
fn a_panicking_waker_harms_nobody() {
    struct Bomb;
    impl Wake for Bomb {
        fn wake(self: Arc<Self>) {
            panic!("{ON_PURPOSE}");
        }
    }

    watchdog(20, || {
        for kind in THREADS {
            for terminates in [false, true] {
                let pool = kind.pool();
                let (gate, mut opener) = gate();
                let mut handle = pool.apply_async(move || (gate.pass(), vec![7]).1, ());
                assert!(poll(&mut handle, &Waker::from(Arc::new(Bomb))).is_pending());
                opener.wait_for(1);
                if terminates {
                    pool.terminate();
                }
                opener.open();
                assert!(eventually(|| handle.ready()));
                if !terminates {
                    assert_eq!(handle.get().unwrap(), [7], "{kind:?}");
                    assert_eq!(pool.apply(|| 1, ()).unwrap(), 1);
                }
            }
        }
    });
}

#[test]
fn a_waker_whose_drop_panics_costs_nobody_the_value() {
    struct Bomb;
    impl Wake for Bomb {
        fn wake(self: Arc<Self>) {}
    }
    impl Drop for Bomb {
        fn drop(&mut self) {
            panic!("{ON_PURPOSE}");
        }
    }

    watchdog(20, || {
        for kind in THREADS {
            let pool = kind.pool();
            let (gate, mut opener) = gate();
            let mut handle = pool.apply_async(move || (gate.pass(), vec![7]).1, ());
            let waker = Waker::from(Arc::new(Bomb));
            assert!(poll(&mut handle, &waker).is_pending());
            drop(waker);
            opener.open();
            assert_eq!(handle.get().unwrap(), [7], "{kind:?}");
        }
    });
}

/// A `terminate` that panics half way would wake nobody and end nothing.
#[test]
fn terminate_asks_nothing_of_a_waker_but_to_wake() {
    static NEVER: RawWakerVTable =
        RawWakerVTable::new(|_| panic!("{ON_PURPOSE}"), |_| (), |_| (), |_| ());
    static ONCE: RawWakerVTable =
        RawWakerVTable::new(|data| RawWaker::new(data, &NEVER), |_| (), |_| (), |_| ());

    watchdog(20, || {
        for kind in THREADS {
            let pool = kind.pool();
            let (gate, mut opener) = gate();
            let mut handle = pool.apply_async(move || (gate.pass(), vec![7]).1, ());
            // SAFETY: the functions of both tables use no data.
            #[expect(unsafe_code, reason = "no safe waker panics when it is cloned")]
            let waker = unsafe { Waker::new(std::ptr::null(), &ONCE) };
            assert!(poll(&mut handle, &waker).is_pending());
            thread::scope(|scope| {
                let waits = scope.spawn(|| pool.apply(|| (), ()));
                opener.wait_for(1);
                pool.terminate();
                opener.open();
                // It may have been done before, or come too late.
                let _ = waits.join().unwrap();
            });
            assert_matches!(handle.get(), Err(Error::Terminated), "{kind:?}");
            pool.join().unwrap();
        }
    });
}

/// As the waker of an executor does whose task holds the handle of another call.
#[test]
fn a_waker_may_hold_a_handle_of_the_same_pool() {
    struct Task {
        _handle: Mutex<Handle>,
    }
    impl Wake for Task {
        fn wake(self: Arc<Self>) {}
    }

    watchdog(20, || {
        for kind in THREADS {
            let pool = kind.pool();
            let (first, mut opener) = gate();
            let (second, _keep) = gate();
            let mut handle = pool.apply_async(move || (first.pass(), vec![7]).1, ());
            let mut other = pool.apply_async(move || (second.pass(), vec![8]).1, ());
            let (waker, _) = counting_waker();
            assert!(poll(&mut other, &waker).is_pending());
            let task = Waker::from(Arc::new(Task { _handle: Mutex::new(other) }));
            assert!(poll(&mut handle, &task).is_pending());
            drop(task);
            opener.open();
            handle.wait();
            // In the place of the waker before, which goes and takes the other handle along.
            assert!(poll(&mut handle, &waker).is_ready(), "{kind:?}");
        }
    });
}

/// To clone a waker is code of an executor's, which may wait for anything else that goes on in the pool.
#[test]
fn a_waker_may_wait_for_the_call_and_for_others_while_it_is_cloned() {
    /// How many clones to go, and what the last of them does.
    type OnClone = (usize, Box<dyn FnOnce()>);

    thread_local! {
        static ON_CLONE: RefCell<Option<OnClone>> = const { RefCell::new(None) };
    }
    static TABLE: RawWakerVTable = RawWakerVTable::new(clone, |_| (), |_| (), |_| ());
    fn clone(data: *const ()) -> RawWaker {
        match ON_CLONE.take() {
            Some((1, last)) => last(),
            other => ON_CLONE.set(other.map(|(clones, last)| (clones - 1, last))),
        }
        RawWaker::new(data, &TABLE)
    }

    watchdog(60, || {
        // A poll makes two clones: one for the end of the call, and one for the end of the pool.
        for (kind, clones) in THREADS.into_iter().flat_map(|kind| [(kind, 1), (kind, 2)]) {
            let pool = kind.pool();
            let (gate, mut opener) = gate();
            let (tell, told) = bounded(1);
            let held = gate.clone();
            let handle = pool.apply_async(move || (held.pass(), vec![7]).1, ());
            let mut handle = handle.callback(move |value| tell.send(value[0]).unwrap());
            let mut other = pool.apply_async(move || (gate.pass(), vec![8]).1, ());
            let last = move || {
                let (send, pending) = bounded(1);
                let waits = thread::spawn(move || {
                    send.send(poll(&mut other, Waker::noop()).is_pending()).unwrap();
                    other.get().unwrap()
                });
                assert!(pending.recv_timeout(LONG).expect("another handle can be polled"));
                opener.open();
                assert_eq!(told.recv_timeout(LONG), Ok(7), "the call is over");
                assert_eq!(waits.join().unwrap(), [8]);
            };
            ON_CLONE.set(Some((clones, Box::new(last))));
            // SAFETY: the functions of the table use no data.
            #[expect(unsafe_code, reason = "no safe waker runs code when it is cloned")]
            let waker = unsafe { Waker::new(std::ptr::null(), &TABLE) };
            let polled = poll(&mut handle, &waker);
            assert!(ON_CLONE.take().is_none(), "{kind:?}, clone {clones}");
            match polled {
                Poll::Ready(outcome) => assert_eq!(outcome.unwrap(), [7], "{kind:?}"),
                // A callback is called before the outcome can be seen.
                Poll::Pending => assert_eq!(handle.get().unwrap(), [7], "{kind:?}"),
            }
        }
    });
}

// ---- values, times and cancelling ----------------------------------------------------------------

#[test]
fn nothing_outlives_its_result() {
    const LEN: usize = fewer(100, 10);

    watchdog(20, || {
        for (kind, pool) in all_pools() {
            let drops = Drops::default();
            let (captured, input) = (drops.make(1), drops.make(2));
            let made = drops.clone();
            let add = move |x: common::Counted| made.make(captured.value() + x.value());
            let result = pool.apply_async(add, (input,)).get().unwrap();
            assert_eq!(result.value(), 3);
            assert_eq!(drops.alive(), 1, "{kind:?}: the closure and the argument are gone");
            drop(result);
            drops.assert_each_once();

            let (captured, made) = (drops.make(1), drops.clone());
            let inputs: Vec<_> = (0..LEN).map(|i| drops.make(i)).collect();
            let add = move |x: common::Counted| made.make(captured.value() + x.value());
            let results = pool.map_async(add, inputs).get().unwrap();
            assert_eq!(drops.alive(), LEN, "{kind:?}");
            drop(results);
            drops.assert_each_once();

            let captured = drops.make(1);
            let inputs: Vec<_> = (0..LEN).map(|i| drops.make(i)).collect();
            let add = |x: common::Counted| drops.make(captured.value() + x.value());
            let results = pool.map(add, inputs).unwrap();
            assert_eq!(drops.alive(), LEN + 1, "{kind:?}");
            drop((results, captured));
            drops.assert_each_once();

            // Nobody gets these: the handle is gone before the task has begun.
            if kind != Kind::Serial {
                let (mut opener, held) = hold(&pool, kind.workers());
                let (captured, made) = (drops.make(1), drops.clone());
                drop(pool.apply_async(move || made.make(captured.value()), ()));
                opener.open();
                held.into_iter().for_each(|held| held.get().unwrap());
            }
            drop(pool);
            drops.assert_each_once();
        }
    });
}

#[test]
fn a_value_whose_drop_panics_harms_nobody() {
    watchdog(20, || {
        for kind in THREADS {
            let pool = kind.pool();
            let (gate, mut opener) = gate();
            for _ in 0..4 {
                let gate = gate.clone();
                // The handle is gone before the value is there.
                drop(pool.apply_async(move || (gate.pass(), Bomb).1, ()));
            }
            // And here what the closure holds.
            let bomb = Bomb;
            let result = pool.apply_async(move || drop(bomb), ());
            let unrun = pool.apply_async(move |bomb: Bomb| drop(bomb), (Bomb,));
            opener.open();
            panicked(result.get());
            panicked(unrun.get());
            assert_eq!(pool.map(square, 0..4).unwrap(), [0, 1, 4, 9]);
            // What was cancelled is dropped too.
            let (mut opener, held) = hold(&pool, kind.workers());
            let bomb = Bomb;
            let queued = pool.apply_async(move || drop(bomb), ());
            assert!(queued.cancel());
            opener.open();
            held.into_iter().for_each(|held| held.get().unwrap());
            assert_eq!(pool.apply(square, (5,)).unwrap(), 25, "{kind:?}");
            pool.close();
            pool.join().unwrap();
        }
    });
}

#[test]
fn a_value_is_dropped_with_its_handle_or_as_soon_as_it_is_made() {
    watchdog(20, || {
        for kind in THREADS {
            let pool = kind.pool();
            let drops = Drops::default();
            let make = drops.clone();
            let kept = pool.apply_async(move || make.make(1), ());
            kept.wait();
            assert_eq!(drops.alive(), 1);
            drop(kept);
            drops.assert_each_once();

            let (gate, mut opener) = gate();
            let make = drops.clone();
            let gone = pool.apply_async(
                move || {
                    gate.pass();
                    make.make(2)
                },
                (),
            );
            opener.wait_for(1);
            drop(gone);
            opener.open();
            assert!(eventually(|| drops.made() == 2 && drops.alive() == 0), "{kind:?}");
            drops.assert_each_once();
        }
    });
}

#[test]
fn what_a_late_task_returns_is_thrown_away() {
    watchdog(20, || {
        for kind in THREADS {
            for (terminates, verb) in [(true, 0), (true, 1), (false, 0), (false, 1)] {
                let pool = kind.pool();
                let drops = Drops::default();
                let (gate, mut opener) = gate();
                let make = drops.clone();
                let task = move || {
                    gate.pass();
                    make.make(1)
                };
                let options = match terminates {
                    true => pool.chunksize(1),
                    false => pool.timeout(Duration::from_millis(fewer(50, 5000) as u64)),
                };
                let error = match verb {
                    0 => {
                        let handle = options.apply_async(task, ());
                        opener.wait_for(1);
                        if terminates {
                            pool.terminate();
                        }
                        handle.get().unwrap_err()
                    }
                    _ => {
                        let handle = options.map_async(move |()| task(), vec![()]);
                        opener.wait_for(1);
                        if terminates {
                            pool.terminate();
                        }
                        handle.get().unwrap_err()
                    }
                };
                match terminates {
                    true => assert_matches!(error, Error::Terminated),
                    false => assert_matches!(error, Error::DeadlineExceeded),
                }
                assert_eq!(drops.made(), 0, "nobody waited for the task");
                opener.open();
                pool.close();
                pool.join().unwrap();
                assert_eq!(drops.made(), 1);
                drops.assert_each_once();
            }
        }
    });
}

#[test]
fn a_cancelled_call_is_dropped_at_once() {
    watchdog(20, || {
        for kind in THREADS {
            let pool = kind.pool();
            let (mut opener, held) = hold(&pool, kind.workers());
            let drops = Drops::default();
            let (captured, input) = (drops.make(1), drops.make(2));
            let call =
                pool.apply_async(move |x: common::Counted| captured.value() + x.value(), (input,));
            assert!(call.cancel());
            drops.assert_each_once();
            let (captured, inputs) = (drops.make(3), vec![drops.make(4), drops.make(5)]);
            let map = pool.map_async(move |x| captured.value() + x.value(), inputs);
            assert!(map.cancel());
            drops.assert_each_once();
            assert_matches!(call.get(), Err(Error::Cancelled), "{kind:?}");
            assert_matches!(map.get(), Err(Error::Cancelled), "{kind:?}");
            opener.open();
            held.into_iter().for_each(|held| held.get().unwrap());
        }
    });
}

#[test]
fn a_running_task_hears_that_it_was_cancelled() {
    watchdog(20, || {
        for kind in THREADS {
            let pool = kind.pool();
            let (send, began) = unbounded();
            let task = move |x: u32| {
                send.send(()).unwrap();
                while !parpool::is_cancelled() {
                    thread::yield_now();
                }
                x
            };
            let call = pool.apply_async(task.clone(), (5,));
            began.recv().unwrap();
            assert!(!call.cancel(), "it has begun");
            assert_eq!(call.get().unwrap(), 5, "{kind:?}: and its value counts");

            let map = pool.map_async(task, vec![1]);
            began.recv().unwrap();
            assert!(!map.cancel());
            assert_eq!(map.get().unwrap(), [1], "{kind:?}");
        }
    });
}

#[test]
fn a_queued_task_can_be_cancelled_and_never_runs() {
    watchdog(20, || {
        for kind in THREADS {
            let pool = kind.pool();
            let ran = Counter::default();
            let (mut opener, held) = hold(&pool, kind.workers());
            let count = ran.clone();
            let mut call = pool.apply_async(move || count.add(), ());
            let count = ran.clone();
            let map = pool.chunksize(1).map_async(move |_| count.add(), 0..9);
            assert_matches!(call.get_timeout(Duration::from_millis(1)), Err(Error::Timeout));
            assert!(call.cancel());
            assert!(!call.cancel(), "it is not queued any more");
            assert_matches!(call.get(), Err(Error::Cancelled), "{kind:?}");
            assert!(map.cancel());
            assert_matches!(map.get(), Err(Error::Cancelled), "{kind:?}");
            assert!(!held[0].cancel(), "it runs");
            opener.open();
            held.into_iter().for_each(|held| held.get().unwrap());
            pool.close();
            pool.join().unwrap();
            assert_eq!(ran.get(), 0, "{kind:?}");
        }
    });
}

#[test]
fn cancelling_what_has_ended_changes_nothing() {
    watchdog(10, || {
        for (kind, pool) in all_pools() {
            let mut call = pool.apply_async(|| 5, ());
            call.wait();
            assert!(!call.cancel(), "{kind:?}");
            assert_eq!(call.get_timeout(LONG).unwrap(), 5);
            assert!(!call.cancel());
            let map = pool.map_async(|x| x + 1, 0..3);
            map.wait();
            assert!(!map.cancel(), "{kind:?}");
            assert_eq!(map.get().unwrap(), [1, 2, 3]);
            let empty = pool.map_async(|x: i32| x, vec![]);
            empty.wait();
            assert!(!empty.cancel());
            assert_eq!(empty.get().unwrap(), [0; 0]);
        }
    });
}

#[test]
fn far_times_are_for_ever() {
    watchdog(10, || {
        for (_, pool) in all_pools() {
            assert_eq!(pool.timeout(Duration::MAX).apply(|| 1, ()).unwrap(), 1);
            let mut result = pool.timeout(Duration::MAX).apply_async(|| 1, ());
            assert!(result.wait_timeout(Duration::MAX));
            assert_eq!(result.get_timeout(Duration::MAX).unwrap(), 1);
        }
    });
}

#[test]
fn get_takes_the_time_of_the_task() {
    watchdog(20, || {
        for kind in THREADS {
            let pool = kind.pool();
            let start = Instant::now();
            let nap = Duration::from_millis(100);
            let value =
                pool.apply_async(move |x: u64| (thread::sleep(nap), square(x)).1, (7,)).get();
            assert_eq!(value.unwrap(), 49);
            assert!(start.elapsed() >= nap);
        }
    });
}

#[test]
fn get_timeout_is_over_in_time_and_loses_nothing() {
    watchdog(20, || {
        for kind in THREADS {
            let pool = kind.pool();
            let (gate, mut opener) = gate();
            let mut result = pool.apply_async(move |x: u64| (gate.pass(), square(x)).1, (7,));
            let (start, timeout) = (Instant::now(), Duration::from_millis(200));
            assert_matches!(result.get_timeout(timeout), Err(Error::Timeout));
            assert!(start.elapsed() >= timeout);
            assert!(start.elapsed() < LONG / 4);
            opener.open();
            assert_eq!(result.get().unwrap(), 49);
        }
    });
}

#[test]
fn a_wait_in_a_task_is_over_in_time_too() {
    watchdog(20, || {
        for kind in THREADS {
            let pool = kind.pool();
            // The awaited task runs elsewhere, so that there is nothing to help with.
            let other = Pool::new(1).unwrap();
            let (gate, mut opener) = gate();
            let mut awaited = other.apply_async(move || gate.pass(), ());
            opener.wait_for(1);
            let timeout = Duration::from_millis(20);
            let start = Instant::now();
            let timed_out = pool.apply(
                || {
                    assert!(!awaited.wait_timeout(timeout));
                    matches!(awaited.get_timeout(timeout), Err(Error::Timeout))
                },
                (),
            );
            assert!(timed_out.unwrap(), "{kind:?}");
            assert!(start.elapsed() >= 2 * timeout);
            opener.open();
            awaited.get().unwrap();
        }
    });
}

#[test]
fn a_task_may_wait_for_a_handle_that_was_made_outside() {
    watchdog(20, || {
        for kind in THREADS {
            let pool = kind.pool();
            let (send, receive) = bounded::<AsyncResult<u64>>(1);
            let waits = pool.apply_async(move || receive.recv().unwrap().get().unwrap() + 1, ());
            // Behind it in the queue, on a pool of one.
            let awaited = pool.apply_async(square, (5,));
            send.send(awaited).unwrap();
            assert_eq!(waits.get().unwrap(), 26, "{kind:?}");
            let (send, receive) = bounded::<AsyncResult<Vec<u64>>>(1);
            let waits = pool.apply_async(move || receive.recv().unwrap().get().unwrap(), ());
            send.send(pool.map_async(square, 0..4)).unwrap();
            assert_eq!(waits.get().unwrap(), [0, 1, 4, 9], "{kind:?}");
        }
    });
}

// ---- callbacks -----------------------------------------------------------------------------------

#[test]
fn callbacks_have_run_when_wait_returns() {
    watchdog(20, || {
        for (kind, pool) in all_pools() {
            let seen = Arc::new(Mutex::new(Vec::new()));
            let failures = Counter::default();
            let watch = |result: AsyncResult<Vec<u64>>| {
                let (seen, failures) = (Arc::clone(&seen), failures.clone());
                result
                    .callback(move |values| seen.lock().unwrap().push(values.clone()))
                    .error_callback(move |_| {
                        failures.add();
                    })
            };
            let good = watch(pool.map_async(square, 0..4));
            good.wait();
            assert_eq!(*seen.lock().unwrap(), [[0, 1, 4, 9]], "{kind:?}");
            assert_eq!(failures.get(), 0);
            let bad = watch(pool.map_async(|_| panic!("{ON_PURPOSE}"), 0..4));
            bad.wait();
            assert_eq!(failures.get(), 1, "{kind:?}");
            assert_eq!(seen.lock().unwrap().len(), 1);
            assert_eq!(good.get().unwrap(), [0, 1, 4, 9]);
            panicked(bad.get());
            assert_eq!((seen.lock().unwrap().len(), failures.get()), (1, 1));
        }
    });
}

#[test]
fn callbacks_have_run_when_get_returns() {
    watchdog(30, || {
        for kind in LASTING {
            let pool = kind.pool();
            for i in 0..scaled(10_000) {
                let (ran, count) = (Counter::default(), Counter::default());
                let callback = {
                    let count = count.clone();
                    move |_: &u64| count.add()
                };
                let task = {
                    let ran = ran.clone();
                    move || (ran.add(), i).1
                };
                assert_eq!(pool.apply_async(task, ()).callback(callback).get().unwrap(), i);
                assert_eq!((ran.get(), count.get()), (1, 1), "{kind:?}");
            }
        }
    });
}

#[test]
fn an_empty_map_calls_back_once() {
    watchdog(10, || {
        for (kind, pool) in all_pools() {
            for size in [None, Some(1), Some(7)] {
                let seen = Arc::new(Mutex::new(Vec::new()));
                let note = Arc::clone(&seen);
                let empty = Vec::<u64>::new();
                let result = with_chunksize!(pool, size, map_async(square, empty))
                    .callback(move |values| note.lock().unwrap().push(values.clone()));
                assert_eq!(result.get().unwrap(), [0; 0]);
                assert_eq!(*seen.lock().unwrap(), [[0; 0]], "{kind:?}");
            }
        }
    });
}

#[test]
fn a_panicking_callback_costs_nobody_a_value() {
    // python/cpython#83371
    watchdog(10, || {
        for (kind, pool) in all_pools() {
            let result = pool.apply_async(square, (3,)).callback(|_| panic!("{ON_PURPOSE}"));
            assert_eq!(result.get().unwrap(), 9, "{kind:?}");
            let later = pool.apply_async(square, (4,));
            later.wait();
            assert_eq!(later.callback(|_| panic!("{ON_PURPOSE}")).get().unwrap(), 16);
            let failed = pool.apply_async(|| panic!("{ON_PURPOSE}: task"), ());
            let failed = failed.error_callback(|_| panic!("{ON_PURPOSE}: callback"));
            assert_eq!(panicked::<()>(failed.get()).1, "on purpose: task");
            let map = pool.map_async(square, 0..3).callback(|_| panic!("{ON_PURPOSE}"));
            assert_eq!(map.get().unwrap(), [0, 1, 4]);
            for i in 0..fewer(10, 2) as u64 {
                assert_eq!(pool.apply_async(square, (i,)).get().unwrap(), i * i);
            }
            pool.close();
            pool.join().unwrap();
        }
    });
}

#[test]
fn a_blocking_callback_delays_no_other_result() {
    watchdog(20, || {
        for kind in [Kind::Lasting(2), Kind::Replaced(2, 2)] {
            let pool = kind.pool();
            let (gate, mut opener) = gate();
            let (start, began) = bounded::<()>(0);
            let task = move || began.recv().map_or(1, |()| 1);
            let slow = pool.apply_async(task, ()).callback(move |_| gate.pass());
            // Only now: a callback that comes after the value runs on this thread.
            drop(start);
            opener.wait_for(1);
            let others: Vec<_> =
                (0..fewer(20, 6) as u64).map(|i| pool.apply_async(square, (i,))).collect();
            for (other, i) in others.into_iter().zip(0..) {
                assert_eq!(other.get().unwrap(), i * i);
            }
            assert!(!slow.ready(), "{kind:?}: its callback is still running");
            opener.open();
            assert_eq!(slow.get().unwrap(), 1);
        }
    });
}

#[test]
fn a_callback_may_use_the_pool_and_cannot_join_it() {
    watchdog(20, || {
        for kind in ALL {
            let pool = Arc::new(kind.pool());
            let (send, seen) = unbounded();
            let inner = Arc::clone(&pool);
            let callback = move |value: &u64| {
                let value = *value;
                send.send(inner.apply(move || value + 1, ()).unwrap()).unwrap();
                send.send(inner.map(square, 0..4).unwrap()[3]).unwrap();
                send.send(inner.apply_async(square, (5,)).get().unwrap()).unwrap();
                inner.close();
                assert_matches!(inner.join(), Err(Error::WouldDeadlock));
                assert_matches!(inner.join_timeout(LONG), Err(Error::WouldDeadlock));
                send.send(0).unwrap();
            };
            let (gate, mut opener) = gate();
            if kind == Kind::Serial {
                // Its tasks run before there is a handle; a callback of the caller's is no task.
                continue;
            }
            let result = pool.apply_async(move || (gate.pass(), 7).1, ()).callback(callback);
            opener.open();
            assert_eq!(result.get().unwrap(), 7);
            assert_eq!(seen.try_iter().collect::<Vec<_>>(), [8, 9, 25, 0], "{kind:?}");
            pool.join().unwrap();
        }
    });
}

#[test]
fn callbacks_run_in_order_and_one_that_panics_stops_no_other() {
    watchdog(10, || {
        for kind in THREADS {
            let pool = kind.pool();
            let (gate, mut opener) = gate();
            let (send, seen) = unbounded();
            let say = |what: u32| {
                let send = send.clone();
                move |_: &u32| send.send(what).unwrap()
            };
            let result = pool
                .apply_async(move || (gate.pass(), 5).1, ())
                .callback(say(1))
                .callback(|_| panic!("{ON_PURPOSE}"))
                .callback(say(2))
                .error_callback(|_| panic!("there is no error"))
                .callback(say(3));
            opener.open();
            assert_eq!(result.get().unwrap(), 5);
            assert_eq!(seen.try_iter().collect::<Vec<_>>(), [1, 2, 3], "{kind:?}");
        }
    });
}

#[test]
fn an_early_callback_runs_on_the_worker_that_made_the_value() {
    watchdog(10, || {
        for kind in THREADS {
            let pool = kind.pool();
            let (gate, mut opener) = gate();
            let (send, seen) = bounded(1);
            let task = move || {
                gate.pass();
                (thread::current().id(), parpool::current_worker())
            };
            let result = pool.apply_async(task, ()).callback(move |_| {
                send.send((thread::current().id(), parpool::current_worker())).unwrap();
            });
            opener.open();
            assert_eq!(result.get().unwrap(), seen.recv().unwrap(), "{kind:?}");
        }
    });
}

#[test]
fn an_error_callback_may_use_the_pool() {
    watchdog(10, || {
        for kind in THREADS {
            let pool = Arc::new(kind.pool());
            let (gate, mut opener) = gate();
            let (send, seen) = bounded(1);
            let inner = Arc::clone(&pool);
            let result = pool
                .apply_async(
                    move || {
                        gate.pass();
                        panic!("{ON_PURPOSE}")
                    },
                    (),
                )
                .error_callback(move |error| {
                    let again = inner.apply_async(|| 5, ()).get().unwrap();
                    send.send((error.to_string(), again)).unwrap();
                });
            opener.open();
            panicked::<()>(result.get());
            assert_eq!(seen.recv().unwrap(), ("the closure panicked: on purpose".into(), 5));
            pool.close();
            pool.join().unwrap();
        }
    });
}

#[test]
fn a_callback_that_outlasts_the_time_of_the_call_is_waited_for() {
    watchdog(20, || {
        for kind in THREADS {
            let pool = kind.pool();
            let (gate, mut opener) = gate();
            let (start, began) = bounded::<()>(0);
            let quick = pool.timeout(Duration::from_millis(fewer(600, 60_000) as u64));
            let result = quick
                .apply_async(move || began.recv().map_or(5, |()| 5), ())
                .callback(move |_| gate.pass());
            // Only now, so that there is a callback when there is a value.
            drop(start);
            opener.wait_for(1);
            thread::scope(|scope| {
                let waiter = scope.spawn(|| {
                    result.wait();
                    result.ready()
                });
                // Until the time of the call is over.
                thread::sleep(Duration::from_millis(fewer(650, 65_000) as u64));
                assert!(!waiter.is_finished(), "{kind:?}: `wait` returned before the callback");
                opener.open();
                assert!(waiter.join().unwrap(), "{kind:?}: not ready after `wait`");
            });
            assert_eq!(result.get().unwrap(), 5, "the value was there in time");
        }
    });
}

#[test]
fn a_serial_pool_has_its_results_at_once() {
    watchdog(10, || {
        let pool = Kind::Serial.pool();
        let (mut good, on_good, _) = counted(pool.map_async(|x| x, vec![7]));
        assert!(good.ready() && on_good.get() == 1);
        assert!(good.successful().unwrap());
        assert_eq!(good.get_timeout(Duration::ZERO).unwrap(), [7]);
        assert_matches!(good.get(), Err(Error::Taken));

        let (bad, _, on_bad) = counted(pool.map_async(|_| panic!("{ON_PURPOSE}"), vec![7]));
        assert!(bad.ready() && on_bad.get() == 1);
        assert!(!bad.successful().unwrap());
        assert_eq!(panicked(bad.get()), (Some(0), ON_PURPOSE.to_owned()));

        pool.terminate();
        let (refused, _, on_bad) = counted(pool.map_async(|x| x, vec![7]));
        assert!(refused.ready() && on_bad.get() == 1);
        assert_matches!(refused.get(), Err(Error::NotRunning));
    });
}

#[test]
fn handles_outlive_their_pool() {
    watchdog(10, || {
        for kind in LASTING.into_iter().chain([Kind::Replaced(2, 1), Kind::Serial]) {
            let pool = kind.pool();
            let calls: Vec<_> = (0..10).map(|i| pool.apply_async(move || i, ())).collect();
            let map = pool.map_async(|x| x, 0..10);
            drop(pool);
            for (call, i) in calls.into_iter().zip(0..) {
                assert_eq!(call.get().unwrap(), i, "{kind:?}");
            }
            assert_eq!(map.get().unwrap().len(), 10);
        }
    });
}

// ---- a handle in its own callback ----------------------------------------------------------------

#[test]
fn a_callback_that_waits_for_its_own_call_would_deadlock() {
    type Slot = Arc<Mutex<Option<AsyncResult<u32>>>>;

    watchdog(20, || {
        for kind in THREADS {
            for polls in [false, true] {
                let pool = kind.pool();
                let (gate, mut opener) = gate();
                let slot: Slot = Arc::default();
                let (own, (send, outcome)) = (Arc::clone(&slot), bounded(1));
                let callback = move |_: &u32| {
                    let mut handle = own.lock().unwrap().take().expect("it is there");
                    let outcome = match polls {
                        false => handle.get_timeout(LONG),
                        true => {
                            let mut context = TaskContext::from_waker(Waker::noop());
                            match Pin::new(&mut handle).poll(&mut context) {
                                Poll::Ready(outcome) => outcome,
                                Poll::Pending => Ok(0),
                            }
                        }
                    };
                    send.send(outcome).unwrap();
                };
                let call = pool.apply_async(move || (gate.pass(), 7).1, ()).callback(callback);
                *slot.lock().unwrap() = Some(call);
                opener.open();
                let outcome = outcome.recv_timeout(LONG).unwrap();
                assert_matches!(outcome, Err(Error::WouldDeadlock), "{kind:?}, {polls}");
            }
        }
    });
}

/// The handle is shared, so that another thread can wait for it too.
#[test]
fn a_wait_in_a_callback_of_the_same_call_returns_in_vain() {
    type Slot = Arc<Mutex<Option<Arc<Handle>>>>;

    watchdog(20, || {
        for (kind, maps) in THREADS.into_iter().flat_map(|kind| [(kind, false), (kind, true)]) {
            let pool = kind.pool();
            let (gate, mut opener) = gate();
            let slot: Slot = Arc::default();
            let (own, (send, seen)) = (Arc::clone(&slot), bounded(1));
            let callback = move |_: &Vec<u32>| {
                let handle = own.lock().unwrap().take().expect("it is there");
                handle.wait();
                let waited = handle.wait_timeout(LONG);
                send.send((waited, handle.ready(), handle.cancel())).unwrap();
            };
            let call = match maps {
                false => pool.apply_async(move || (gate.pass(), vec![7]).1, ()),
                true => pool.map_async(move |x| (gate.pass(), x).1, vec![7]),
            };
            let handle = Arc::new(call.callback(callback));
            *slot.lock().unwrap() = Some(Arc::clone(&handle));
            opener.open();
            // And so does one that goes on meanwhile, when the callback has returned.
            handle.wait();
            assert_eq!(seen.recv_timeout(LONG), Ok((false, false, false)), "{kind:?}, {maps}");
            assert!(handle.ready());
            // The callback has dropped its own.
            let handle = Arc::into_inner(handle).expect("the last owner");
            assert_eq!(handle.get().unwrap(), [7], "{kind:?}, {maps}");
        }
    });
}

#[test]
fn a_get_in_a_callback_of_the_same_call_would_deadlock() {
    type Slot = Arc<Mutex<Option<Handle>>>;

    watchdog(20, || {
        for (kind, maps) in THREADS.into_iter().flat_map(|kind| [(kind, false), (kind, true)]) {
            let pool = kind.pool();
            let (gate, mut opener) = gate();
            let slot: Slot = Arc::default();
            let (own, (send, outcome)) = (Arc::clone(&slot), bounded(1));
            let callback = move |_: &Vec<u32>| {
                let handle = own.lock().unwrap().take().expect("it is there");
                send.send(handle.get()).unwrap();
            };
            let call = match maps {
                false => pool.apply_async(move || (gate.pass(), vec![7]).1, ()),
                true => pool.map_async(move |x| (gate.pass(), x).1, vec![7]),
            };
            *slot.lock().unwrap() = Some(call.callback(callback));
            opener.open();
            let outcome = outcome.recv_timeout(LONG).unwrap();
            assert_matches!(outcome, Err(Error::WouldDeadlock), "{kind:?}, {maps}");
            assert_eq!(pool.apply(|| 1, ()).unwrap(), 1, "{kind:?}, {maps}");
        }
    });
}

// ---- many wakers ---------------------------------------------------------------------------------

#[test]
fn a_handle_keeps_the_last_of_its_wakers_alone() {
    struct Mine;
    impl Wake for Mine {
        fn wake(self: Arc<Self>) {}
    }

    watchdog(20, || {
        for kind in THREADS {
            let pool = kind.pool();
            let (gate, mut opener) = gate();
            let mut handle = pool.apply_async(move || (gate.pass(), vec![7]).1, ());
            let mut before = None;
            for _ in 0..fewer(100, 20) {
                let mine = Arc::new(Mine);
                let weak = Arc::downgrade(&mine);
                assert!(poll(&mut handle, &Waker::from(mine)).is_pending());
                let old: Option<std::sync::Weak<Mine>> = before.replace(weak);
                assert!(old.is_none_or(|old| old.strong_count() == 0), "{kind:?}");
            }
            opener.open();
            assert_eq!(handle.get().unwrap(), [7]);
        }
    });
}
