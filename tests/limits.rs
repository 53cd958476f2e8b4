//! How much, how many, how small and how big: what still works at the ends of the scale.

mod common;

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use parpool::{AsyncResult, Context, Error, Pool};

use common::{
    Crowd, Kind, LASTING, ON_PURPOSE, child, eventually, fewer, gate, hold, is_child, scaled,
    square, thread_names, watchdog,
};

/// Fewer where nothing is optimized, and few under Miri.
const fn many(n: usize) -> usize {
    match n {
        _ if cfg!(miri) => n / 50_000,
        _ if cfg!(debug_assertions) => n / 10,
        _ => n,
    }
}

#[test]
fn ten_million_queued_tasks_are_skipped_by_terminate() {
    static ALIVE: AtomicUsize = AtomicUsize::new(0);
    static RAN: AtomicUsize = AtomicUsize::new(0);

    /// Without memory of its own, so that there is room for many.
    struct Token;

    impl Token {
        fn new() -> Self {
            ALIVE.fetch_add(1, Ordering::Relaxed);
            Token
        }
    }

    impl Drop for Token {
        fn drop(&mut self) {
            ALIVE.fetch_sub(1, Ordering::Relaxed);
        }
    }

    watchdog(120, || {
        let pool = Pool::new(2).unwrap();
        let (mut opener, held) = hold(&pool, 2);
        for _ in 0..many(10_000_000) {
            let token = Token::new();
            drop(pool.apply_async(
                move || {
                    RAN.fetch_add(1, Ordering::Relaxed);
                    drop(token);
                },
                (),
            ));
        }
        assert_eq!(ALIVE.load(Ordering::Relaxed), many(10_000_000));
        pool.terminate();
        // It has not waited for the workers, which are held.
        assert_eq!(ALIVE.load(Ordering::Relaxed), many(10_000_000));
        opener.open();
        pool.join().unwrap();
        drop(held);
        assert_eq!((ALIVE.load(Ordering::Relaxed), RAN.load(Ordering::Relaxed)), (0, 0));
    });
}

#[test]
#[cfg_attr(miri, ignore = "two hundred threads take too long")]
fn two_hundred_workers_that_are_replaced() {
    watchdog(60, || {
        let pool = Pool::builder().processes(200).max_tasks_per_child(3).build().unwrap();
        let crowd = Crowd::default();
        let inside = crowd.clone();
        let work = move |i: u64| {
            inside.enter();
            thread::yield_now();
            inside.leave();
            i
        };
        let sum: u64 = pool.chunksize(1).map(work, 0..2000).unwrap().into_iter().sum();
        assert_eq!(sum, 1999 * 1000);
        assert!(crowd.most() <= 200);
    });
}

#[test]
#[cfg_attr(miri, ignore = "two hundred threads take too long")]
fn a_large_pool() {
    watchdog(40, || {
        for kind in [Kind::Lasting(200), Kind::Replaced(200, 2)] {
            let pool = kind.pool();
            let values = pool.map(square, 0..1000).unwrap();
            assert_eq!(values.iter().sum::<u64>(), (0..1000).map(square).sum());
            let later: Vec<_> = (0..1000).map(|i| pool.apply_async(square, (i,))).collect();
            let sum: u64 = later.into_iter().map(|result| result.get().unwrap()).sum();
            assert_eq!(sum, (0..1000).map(square).sum());
        }
    });
}

const CHAIN: usize = fewer(20_000, 30);

#[test]
fn a_chain_of_20_000_each_of_which_waits_for_the_one_before() {
    watchdog(60, || {
        for kind in LASTING {
            let pool = kind.pool();
            let mut last = pool.apply_async(|| 0, ());
            for _ in 0..CHAIN {
                let before = last;
                last = pool.apply_async(move || before.get().unwrap() + 1, ());
            }
            assert_eq!(last.get().unwrap(), CHAIN, "{kind:?}");
        }
    });
}

#[test]
fn a_chain_of_20_000_each_of_which_submits_the_next() {
    fn link(pool: &Arc<Pool>, left: usize) -> AsyncResult<usize> {
        let own = Arc::clone(pool);
        pool.apply_async(
            move || match left {
                0 => 0,
                // It is begun and done before this one goes on, and what it submits likewise; so it hands
                // its handle on instead of waiting for it.
                _ => {
                    drop(link(&own, left - 1));
                    left
                }
            },
            (),
        )
    }

    watchdog(60, || {
        for kind in LASTING {
            let pool = Arc::new(kind.pool());
            assert_eq!(link(&pool, CHAIN).get().unwrap(), CHAIN);
            pool.close();
            pool.join().unwrap();
        }
    });
}

#[test]
fn twenty_thousand_tasks_that_submit_and_wait() {
    watchdog(30, || {
        for kind in LASTING.into_iter().chain([Kind::Lasting(2)]) {
            let pool = Arc::new(kind.pool());
            let results: Vec<_> = (0..scaled(20_000))
                .map(|i| {
                    let inner = Arc::clone(&pool);
                    pool.apply_async(move || inner.apply_async(square, (i,)).get().unwrap(), ())
                })
                .collect();
            for (result, i) in results.into_iter().zip(0..) {
                assert_eq!(result.get().unwrap(), i * i, "{kind:?}");
            }
            pool.close();
            pool.join().unwrap();
        }
    });
}

#[test]
fn one_task_that_submits_twenty_thousand_and_waits_for_the_last_first() {
    watchdog(30, || {
        for kind in LASTING {
            let pool = kind.pool();
            let sum = pool.apply(
                || {
                    let results: Vec<_> =
                        (0..scaled(20_000)).map(|i| pool.apply_async(square, (i % 10,))).collect();
                    results.into_iter().rev().map(|result| result.get().unwrap()).sum::<u64>()
                },
                (),
            );
            assert_eq!(sum.unwrap(), scaled(20_000) / 10 * 285, "{kind:?}");
        }
    });
}

/// What is not optimized needs more of it.
const STACK: usize = if cfg!(debug_assertions) { 256 } else { 64 } * 1024;

#[test]
fn every_verb_on_a_stack_of_64_kib() {
    const MANY: u64 = fewer(10_000, 40) as u64;
    const SOME: u64 = fewer(1000, 10) as u64;

    watchdog(60, || {
        for life in [None, Some(5)] {
            let builder =
                Pool::builder().processes(2).context(Context::threads().stack_size(STACK));
            let builder = match life {
                Some(tasks) => builder.max_tasks_per_child(tasks),
                None => builder,
            };
            let pool = builder.build().unwrap();
            let sum: u64 = (0..MANY).sum();
            let total = |values: Vec<u64>| values.into_iter().sum::<u64>();
            assert_eq!(total(pool.map(|i| i, 0..MANY).unwrap()), sum);
            let ones = vec![1; fewer(700, 70)];
            let counted = total(pool.chunksize(7).map(|i: &u64| *i, &ones).unwrap());
            assert_eq!(counted, ones.len() as u64);
            assert_eq!(total(pool.try_map(Ok::<_, Error>, 0..MANY).unwrap()), sum);
            assert_eq!(total(pool.map_async(|i| i, 0..MANY).get().unwrap()), sum);
            assert_eq!(pool.imap(|i| i, 0..MANY).map(Result::unwrap).sum::<u64>(), sum);
            assert_eq!(pool.imap_unordered(|i| i, 0..MANY).map(Result::unwrap).sum::<u64>(), sum);
            assert_eq!(pool.apply(|i: u64| i + 1, (1,)).unwrap(), 2);
            let handles: Vec<_> = (0..SOME).map(|i| pool.apply_async(move || i, ())).collect();
            assert_eq!(
                handles.into_iter().map(|handle| handle.get().unwrap()).sum::<u64>(),
                SOME * (SOME - 1) / 2
            );
            let borrowed = [1, 2, 3];
            let of_scope = pool.scope(|s| s.apply_async(|| borrowed.iter().sum::<u64>(), ()).get());
            assert_eq!(of_scope.unwrap(), 6);
            // A map in a map, and what a task submits and waits for, again and again.
            let inner = |i: &u64| pool.map(|j| j, 0..*i).unwrap().into_iter().sum::<u64>();
            let tens = vec![10; fewer(100, 4)];
            assert_eq!(total(pool.map(inner, &tens).unwrap()), 45 * tens.len() as u64);
            let one = |i| pool.apply_async(move || i, ()).get().unwrap();
            let nested = pool.apply(|| (0..2 * SOME).map(one).sum::<u64>(), ());
            assert_eq!(nested.unwrap(), SOME * (2 * SOME - 1));
        }
    });
}

/// A mebibyte.
const BIG: usize = fewer(1 << 20, 1 << 12);

#[test]
fn closures_items_and_results_of_a_mebibyte() {
    type Big = [u8; BIG];

    // What moves by value lies on the stack of each who moves it.
    let body = || {
        let context = Context::threads().stack_size(64 << 20);
        let pool = Pool::builder().processes(2).context(context).build().unwrap();
        let big = |byte: u8| -> Big { [byte; BIG] };
        let check = |value: &Big, byte: u8| assert!(value.iter().all(|each| *each == byte));
        let captured = big(7);
        check(&pool.apply_async(move || captured, ()).get().unwrap(), 7);
        check(&pool.apply(|value: Big| value, (big(8),)).unwrap(), 8);
        let made = pool.map(big, 0..9).unwrap();
        (0..9).zip(&made).for_each(|(byte, value)| check(value, byte));
        let back = pool.map(|value: Big| value, made).unwrap();
        (0..9).zip(&back).for_each(|(byte, value)| check(value, byte));
        for (byte, value) in (0..9).zip(pool.imap(move |i| [i; BIG], 0..9)) {
            check(&value.unwrap(), byte);
        }
    };
    watchdog(60, move || {
        let thread = thread::Builder::new().stack_size(256 << 20).spawn(body).unwrap();
        if let Err(payload) = thread.join() {
            std::panic::resume_unwind(payload);
        }
    });
}

#[test]
fn values_of_no_size_are_all_there_and_all_dropped() {
    static ALIVE: AtomicUsize = AtomicUsize::new(0);

    struct Nothing;

    fn nothing() -> Nothing {
        ALIVE.fetch_add(1, Ordering::SeqCst);
        Nothing
    }

    impl Drop for Nothing {
        fn drop(&mut self) {
            ALIVE.fetch_sub(1, Ordering::SeqCst);
        }
    }

    watchdog(60, || {
        for (kind, pool) in common::all_pools() {
            let count = fewer(1000, 30);
            assert_eq!(pool.map(|()| (), vec![(); count]).unwrap().len(), count);
            let swap = |item: Nothing| {
                drop(item);
                nothing()
            };
            let items = || (0..count).map(|_| nothing()).collect::<Vec<_>>();
            for size in [None, Some(1), Some(7)] {
                let made = with_chunksize!(pool, size, map(swap, items())).unwrap();
                assert_eq!((made.len(), ALIVE.load(Ordering::SeqCst)), (count, count), "{kind:?}");
            }
            let made = pool.map_async(swap, items()).get().unwrap();
            assert_eq!((made.len(), ALIVE.load(Ordering::SeqCst)), (count, count), "{kind:?}");
            drop(made);
            assert_eq!(pool.imap(swap, items()).map(Result::unwrap).count(), count);
            // Left half way.
            assert_eq!(
                pool.imap(swap, items()).take(count / 2).map(Result::unwrap).count(),
                count / 2
            );
            drop(pool.apply_async(nothing, ()));
            pool.close();
            pool.join().unwrap();
            assert_eq!(ALIVE.load(Ordering::SeqCst), 0, "{kind:?}");
        }
    });
}

/// The values are dropped where they are: `terminate` waits for none of them, `join` for all.
#[test]
fn slow_drops_do_not_hold_up_terminate() {
    struct Slow(common::Gate, common::Counter);

    impl Drop for Slow {
        fn drop(&mut self) {
            self.0.pass();
            self.1.add();
        }
    }

    watchdog(60, || {
        for kind in common::THREADS {
            let pool = kind.pool();
            let dropped = common::Counter::default();
            let (opener_of_workers, held) = hold(&pool, kind.workers());
            let (gate, mut opener) = gate();
            for _ in 0..10 {
                let slow = Slow(gate.clone(), dropped.clone());
                drop(pool.apply_async(move || drop(slow), ()));
            }
            pool.terminate();
            drop(opener_of_workers);
            opener.wait_for(1);
            assert!(matches!(pool.join_timeout(Duration::from_millis(1)), Err(Error::Timeout)));
            opener.open();
            pool.join().unwrap();
            assert_eq!(dropped.get(), 10, "{kind:?}");
            drop(held);
        }
    });
}

#[test]
#[cfg_attr(miri, ignore = "starts a process")]
fn a_machine_with_one_core() {
    if is_child("a_machine_with_one_core") {
        let pool = Pool::new(None).unwrap();
        assert_eq!(pool.processes(), 1);
        // More workers than cores, and all wait for one another.
        for pool in [pool, Pool::new(4).unwrap()] {
            let sum = |values: Vec<u64>| values.into_iter().sum::<u64>();
            assert_eq!(sum(pool.map(|i| i, 0..100_000).unwrap()), 4_999_950_000);
            assert_eq!(
                pool.imap(|i| i, 0..100_000).map(Result::unwrap).sum::<u64>(),
                4_999_950_000
            );
            let inner = |i: u64| sum(pool.map(|j| j, 0..i).unwrap());
            assert_eq!(sum(pool.map(inner, vec![100; 100]).unwrap()), 495_000);
            for i in 0..1000 {
                assert_eq!(pool.apply(|| i, ()).unwrap(), i);
                assert_eq!(pool.apply_async(move || i, ()).get().unwrap(), i);
            }
        }
        return;
    }
    watchdog(60, || {
        let test = "a_machine_with_one_core";
        let Ok(output) = child(&["taskset", "-c", "0"], test).output() else {
            return println!("skipped: there is no `taskset` to take cores away");
        };
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && text.contains("1 passed"), "{text}");
    });
}

// ---- threads that cannot be started, in a process of its own --------------------------------------

/// Whether this is the process that `test` is to run in; if not, it is started, and waited for.
fn in_child(test: &str) -> bool {
    if is_child(test) {
        return true;
    }
    let output = child(&[], test).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && text.contains("1 passed"), "{text}{errors}");
    false
}

/// Who takes address space from this process and gives it back: another process, for this one may not be able to
/// start one by then.
struct Limit {
    helper: Child,
    answers: BufReader<ChildStdout>,
}

impl Limit {
    /// `None` where there is no `prlimit`.
    fn new() -> Option<Self> {
        const SCRIPT: &str = "while read bytes; do prlimit --pid $0 --as=$bytes: && echo; done";
        Command::new("prlimit").arg("--version").output().ok()?;
        let mut helper = Command::new("sh");
        helper.args(["-c", SCRIPT, &std::process::id().to_string()]);
        let mut helper = helper.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().ok()?;
        let answers = BufReader::new(helper.stdout.take()?);
        Some(Limit { helper, answers })
    }

    fn set(&mut self, bytes: &str) {
        writeln!(self.helper.stdin.as_ref().unwrap(), "{bytes}").unwrap();
        assert_eq!(self.answers.read_line(&mut String::new()).unwrap(), 1);
    }

    /// From now on there is room for small things only, and not for a stack.
    fn begin(&mut self) {
        self.leave(16 << 20);
        // The stacks of threads that have ended are used again.
        let sleep = || {
            loop {
                thread::park()
            }
        };
        while thread::Builder::new().stack_size(1 << 21).spawn(sleep).is_ok() {}
        self.leave(1 << 20);
    }

    fn leave(&mut self, bytes: usize) {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let size = status.lines().find_map(|line| line.strip_prefix("VmSize:")).unwrap();
        let size: usize = size.trim().strip_suffix(" kB").unwrap().parse().unwrap();
        self.set(&((size << 10) + bytes).to_string());
    }

    fn end(&mut self) {
        self.set("unlimited");
    }
}

impl Drop for Limit {
    fn drop(&mut self) {
        drop(self.helper.stdin.take());
        let _ = self.helper.wait();
    }
}

#[test]
#[cfg_attr(miri, ignore = "starts a process")]
fn join_waits_for_the_thread_of_a_worker_whose_successor_cannot_be_started() {
    static GONE: AtomicUsize = AtomicUsize::new(0);

    struct Late;

    impl Drop for Late {
        fn drop(&mut self) {
            thread::sleep(Duration::from_millis(100));
            GONE.fetch_add(1, Ordering::SeqCst);
        }
    }

    thread_local! {
        static LATE: Late = const { Late };
    }

    if !in_child("join_waits_for_the_thread_of_a_worker_whose_successor_cannot_be_started") {
        return;
    }
    watchdog(20, || {
        let Some(mut limit) = Limit::new() else { return };
        let pool = Kind::Replaced(1, 1).pool();
        let (gate, mut opener) = gate();
        let call = pool.apply_async(move || LATE.with(|_| gate.pass()), ());
        opener.wait_for(1);
        limit.begin();
        opener.open();
        call.get().unwrap();
        assert_matches!(pool.apply_async(|| (), ()).get(), Err(Error::Start(_)));
        pool.join().unwrap();
        assert_eq!(GONE.load(Ordering::SeqCst), 1);
        limit.end();
    });
}

/// Has `pool`'s thread in a job of rayon's that takes the starts of runners until the flag is set.
fn yielding_job(pool: &Pool) -> Arc<AtomicBool> {
    let ends = Arc::new(AtomicBool::new(false));
    let is_over = Arc::clone(&ends);
    let (send, begun) = crossbeam_channel::bounded(1);
    let job = move || {
        send.send(()).unwrap();
        while !is_over.load(Ordering::SeqCst) {
            rayon::yield_now();
            thread::yield_now();
        }
    };
    pool.apply(move || rayon::spawn(job), ()).unwrap();
    begun.recv().unwrap();
    ends
}

/// Whether a pool of this process has an attendant, or gets one in a moment: not if the runner that was to let a job of
/// rayon's in is below that, for then no start comes to it.
fn is_attended() -> bool {
    let begun = Instant::now();
    loop {
        let names = thread_names().expect("the system tells");
        if names.iter().any(|name| name.contains("-att")) {
            return true;
        }
        if begun.elapsed() > Duration::from_millis(100) {
            return false;
        }
        thread::sleep(Duration::from_millis(1));
    }
}

#[test]
#[cfg_attr(miri, ignore = "starts a process")]
fn an_attendant_that_could_not_be_started_is_started_later() {
    if !in_child("an_attendant_that_could_not_be_started_is_started_later") {
        return;
    }
    watchdog(20, || {
        let Some(mut limit) = Limit::new() else { return };
        let pool = Kind::Lasting(1).named("pool").build().unwrap();
        let attended = (0..10).any(|_| {
            let ends = yielding_job(&pool);
            limit.begin();
            let first = pool.apply_async(|| 1, ());
            assert!(!is_attended());
            limit.end();
            let second = pool.apply_async(|| 2, ());
            let attended = is_attended();
            ends.store(true, Ordering::SeqCst);
            assert_eq!((first.get().unwrap(), second.get().unwrap()), (1, 2));
            attended
        });
        assert!(attended);
    });
}

/// It may be the last that has the pool, and so the initializer, if the pool goes on one of its own workers.
#[test]
#[cfg_attr(miri, ignore = "starts a process")]
fn what_an_initializer_owns_may_need_stack_and_panic_where_it_is_dropped() {
    static DROPPED: AtomicUsize = AtomicUsize::new(0);
    static BY_ATTENDANTS: AtomicUsize = AtomicUsize::new(0);

    struct Deep;

    impl Drop for Deep {
        fn drop(&mut self) {
            fn deep(levels: usize) -> usize {
                let frame = std::hint::black_box([levels; 1 << 13]);
                frame[levels] + if levels == 0 { 0 } else { deep(levels - 1) }
            }
            deep(10);
            let thread = thread::current();
            if thread.name().is_some_and(|name| name.contains("attendant")) {
                BY_ATTENDANTS.fetch_add(1, Ordering::SeqCst);
            }
            DROPPED.fetch_add(1, Ordering::SeqCst);
            panic!("{ON_PURPOSE}");
        }
    }

    if !in_child("what_an_initializer_owns_may_need_stack_and_panic_where_it_is_dropped") {
        return;
    }
    watchdog(60, || {
        for round in 1..=30 {
            let deep = Deep;
            let builder = Kind::Lasting(1).named("pool").initializer(move || _ = &deep, ());
            let pool = Arc::new(builder.build().unwrap());
            let ends = yielding_job(&pool);
            let (send, receive) = crossbeam_channel::bounded::<Arc<Pool>>(1);
            let call = pool.apply_async(move || drop(receive.recv()), ());
            is_attended();
            ends.store(true, Ordering::SeqCst);
            send.send(pool).unwrap();
            drop(call);
            assert!(eventually(|| DROPPED.load(Ordering::SeqCst) == round));
        }
        println!("{BY_ATTENDANTS:?} of them by attendants");
    });
}

#[test]
#[cfg_attr(miri, ignore = "any size of stack is fine there")]
fn a_stack_that_the_system_refuses_fails_the_pool() {
    watchdog(20, || {
        let context = Context::threads().name("huge").stack_size(1 << 46);
        for life in [usize::MAX, 10] {
            let builder = Pool::builder().processes(3).context(context.clone());
            let pool = match life {
                usize::MAX => builder.build(),
                tasks => builder.max_tasks_per_child(tasks).build(),
            };
            assert!(matches!(pool, Err(Error::Start(_))), "{pool:?}");
        }
        common::assert_no_threads("huge");
    });
}
