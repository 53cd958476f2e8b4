//! What the types are and what the compiler infers, mostly without running anything.

mod common;

use std::collections::{BTreeMap, BTreeSet, BinaryHeap, HashMap, HashSet, LinkedList, VecDeque};
use std::error::Error as StdError;
use std::fmt::Debug;
use std::future::Future;
use std::panic::{RefUnwindSafe, UnwindSafe};
use std::time::Duration;

use parpool::{
    AsyncResult, Builder, Collection, Context, Error, Options, Panic, Parallel, Pool, Sequential,
    TryError, WorkerId, WorkerLocal,
};
use rayon::prelude::*;

use common::{Drops, Kind, ON_PURPOSE, all_pools, watchdog};

fn shared<T: Send + Sync>() {}
fn sent<T: Send>() {}
fn unwinds<T: UnwindSafe + RefUnwindSafe>() {}
fn debug<T: Debug>() {}
fn free<T: Unpin>() {}

#[test]
fn every_type_may_go_to_and_be_used_by_any_thread() {
    shared::<Pool>();
    shared::<Options<'static>>();
    shared::<Builder>();
    shared::<Context>();
    shared::<Error>();
    shared::<TryError<Error>>();
    shared::<Panic>();
    shared::<WorkerId>();
    shared::<WorkerLocal<u8>>();
    shared::<AsyncResult<u8>>();
    shared::<Collection>();
    shared::<Sequential>();
    shared::<Parallel>();
    // The value needs to be `Send` only.
    shared::<AsyncResult<std::cell::Cell<u8>>>();
    shared::<WorkerLocal<std::cell::Cell<u8>>>();
    sent::<AsyncResult<Box<dyn FnOnce() + Send>>>();
}

#[test]
fn what_may_cross_a_caught_panic() {
    unwinds::<Pool>();
    unwinds::<Options<'static>>();
    unwinds::<AsyncResult<std::cell::Cell<u8>>>();
    unwinds::<Context>();
    unwinds::<Panic>();
    unwinds::<WorkerId>();
}

#[test]
fn every_type_can_be_printed_whatever_is_in_it() {
    struct Plain;
    debug::<Pool>();
    debug::<Options<'static>>();
    debug::<Builder>();
    debug::<Context>();
    debug::<Error>();
    debug::<TryError<Error>>();
    debug::<Panic>();
    debug::<WorkerId>();
    debug::<WorkerLocal<Plain>>();
    debug::<AsyncResult<Plain>>();
}

#[test]
fn errors_travel_with_a_question_mark() {
    fn is_error<E: StdError + Send + Sync + 'static>() {}
    is_error::<Error>();
    is_error::<TryError<std::num::ParseIntError>>();
    // What can be shown and is no error itself.
    is_error::<TryError<String>>();
    is_error::<TryError<Box<dyn StdError + Send + Sync>>>();
    is_error::<Panic>();

    fn boxed() -> Result<i32, Box<dyn StdError + Send + Sync>> {
        let pool = Pool::new(1)?;
        let value = pool.apply(|x: i32| x + 1, (1,))?;
        let tried = pool.try_map(|s: &str| s.parse::<i32>(), ["1"])?;
        Ok(value + tried[0] + pool.apply_async(|| 1, ()).get()?)
    }
    assert_eq!(boxed().unwrap(), 4);

    fn inside() -> Result<Vec<i32>, TryError<std::num::ParseIntError>> {
        Pool::new(1)?.try_map(|s: &str| s.parse(), ["1", "2"])
    }
    assert_eq!(inside().unwrap(), [1, 2]);

    /// An error of the caller's own, with room for both.
    #[derive(Debug)]
    enum Own {
        Parse(std::num::ParseIntError),
        Pool(Error),
    }
    impl From<std::num::ParseIntError> for Own {
        fn from(error: std::num::ParseIntError) -> Self {
            Own::Parse(error)
        }
    }
    impl From<Error> for Own {
        fn from(error: Error) -> Self {
            Own::Pool(error)
        }
    }
    fn own(pool: &Pool, texts: &[&str]) -> Result<Vec<i32>, Own> {
        let parse = |text: &&str| Ok::<i32, Own>(text.parse()?);
        pool.try_map(parse, texts).map_err(TryError::into_error)
    }
    let pool = Pool::new(1).unwrap();
    assert_eq!(own(&pool, &["1"]).unwrap(), [1]);
    let Err(Own::Parse(error)) = own(&pool, &["1", "x"]) else { panic!("it cannot be parsed") };
    assert_eq!(error.to_string(), "invalid digit found in string");
    pool.close();
    assert!(matches!(own(&pool, &["1"]), Err(Own::Pool(Error::NotRunning))));
}

#[test]
fn clones_of_an_error_share_what_was_thrown() {
    common::quiet();
    let pool = Pool::new(1).unwrap();
    let thrown = || -> i32 { std::panic::panic_any(vec![1, 2]) };
    let error = pool.apply(thrown, ()).unwrap_err();
    let copy = error.clone();
    let Error::Panicked(panic) = &error else { panic!("{error:?}") };
    assert_eq!(panic.downcast_ref::<Vec<i32>>().unwrap(), &[1, 2]);
    assert!(panic.downcast_ref::<Vec<u32>>().is_none());
    let Error::Panicked(panic) = error else { unreachable!() };
    assert!(panic.into_payload().is::<String>(), "the other has it");
    let Error::Panicked(panic) = copy else { unreachable!() };
    assert_eq!(*panic.into_payload().downcast::<Vec<i32>>().unwrap(), [1, 2]);
}

#[test]
fn a_pool_ends_with_the_last_of_its_clones() {
    watchdog(20, || {
        for kind in [Kind::Lasting(2), Kind::Serial] {
            let pool = kind.pool();
            let other = pool.clone();
            drop(pool);
            assert!(other.is_running());
            assert_eq!(other.map(|x| x + 1, [1, 2]).unwrap(), [2, 3]);
            let handle = other.apply_async(|| 7, ());
            other.detach();
            assert_eq!(handle.get().unwrap(), 7);
        }
        let pool = Pool::new(1).unwrap();
        let other = pool.clone();
        pool.close();
        assert!(!other.is_running());
        assert!(matches!(other.apply(|| (), ()), Err(Error::NotRunning)));
    });
}

#[test]
fn workers_of_two_pools_differ() {
    let id = |pool: &Pool| pool.apply(parpool::current_worker, ()).unwrap().unwrap();
    let pools = [Pool::new(1).unwrap(), Pool::new(1).unwrap()];
    let [first, second] = [0, 1].map(|i| id(&pools[i]));
    assert_eq!((first.index(), second.index()), (0, 0));
    assert!(first < second && first != second);
}

#[test]
fn errors_say_what_happened_once() {
    let pool = Pool::builder().initializer(|| Err::<(), _>("no luck"), ()).build();
    let error = pool.unwrap_err();
    assert_eq!(error.to_string(), "the initializer failed: no luck");
    assert!(error.source().is_none(), "what it says, it says once");

    common::quiet();
    let pool = Pool::new(1).unwrap();
    let error = pool.map(|i| assert_ne!(i, 1, "on purpose"), 0..3).unwrap_err();
    assert!(error.to_string().starts_with("the closure panicked at item 1: "), "{error}");
    assert!(error.source().is_none(), "what it says, it says once");
    let error = pool.try_map(|s: &str| s.parse::<i32>(), ["x"]).unwrap_err();
    assert_eq!(error.to_string(), "item 0: invalid digit found in string");
    assert!(error.source().is_none(), "what it says, it says once");
    let error = pool.chunksize(0).try_map(|s: &str| s.parse::<i32>(), ["x"]).unwrap_err();
    assert!(matches!(error, TryError::Pool(Error::InvalidArgument(_))) && error.source().is_none());
    for error in [
        Error::NotRunning,
        Error::StillRunning,
        Error::NotReady,
        Error::Timeout,
        Error::DeadlineExceeded,
        Error::Terminated,
        Error::Cancelled,
        Error::Taken,
        Error::WouldDeadlock,
    ] {
        assert!(!error.to_string().is_empty() && error.source().is_none());
    }
}

#[test]
fn a_handle_is_a_future_that_may_be_moved() {
    fn future<T>(handle: AsyncResult<T>) -> impl Future<Output = Result<T, Error>> + Send + Unpin
    where
        T: Send + 'static,
    {
        handle
    }
    free::<AsyncResult<std::marker::PhantomPinned>>();
    let pool = Pool::new(1).unwrap();
    drop(future(pool.apply_async(|| 1, ())));
}

#[test]
fn a_count_of_workers_may_be_a_number_or_none() {
    Pool::new(1).unwrap();
    Pool::new(None).unwrap();
    Pool::new(Some(2)).unwrap();
    Pool::builder().processes(None).build().unwrap();
    Pool::builder().processes(2).max_tasks_per_child(3).build().unwrap();
    Pool::builder().max_tasks_per_child(None).build().unwrap();
    Pool::builder().initializer(|| (), ()).context(Context::default()).build().unwrap();
}

#[test]
fn what_a_map_can_loop_over() {
    watchdog(20, || {
        for (_, pool) in all_pools() {
            collections(&pool);
            iterators(&pool);
            parallel(&pool);
        }
    });
}

fn sorted<T: Ord>(mut values: Vec<T>) -> Vec<T> {
    values.sort();
    values
}

fn collections(pool: &Pool) {
    let xs = vec![1, 2, 3];
    let mut ys = vec![1, 2, 3];
    assert_eq!(pool.map(|x| x + 1, xs.clone()).unwrap(), [2, 3, 4]);
    assert_eq!(pool.map(|x| x + 1, &xs).unwrap(), [2, 3, 4]);
    assert_eq!(pool.map(|x| *x += 1, &mut ys).unwrap(), [(); 3]);
    assert_eq!(pool.map(|x| x + 1, &xs[1..]).unwrap(), [3, 4]);
    assert_eq!(pool.map(|x| *x += 1, &mut ys[1..]).unwrap(), [(); 2]);
    assert_eq!(ys, [2, 4, 5]);
    assert_eq!(pool.map(|x| x + 1, [1, 2, 3]).unwrap(), [2, 3, 4]);
    assert_eq!(pool.map(|x| x + 1, &[1, 2, 3]).unwrap(), [2, 3, 4]);
    let mut array = [1, 2, 3];
    pool.map(|x| *x += 1, &mut array).unwrap();
    assert_eq!(array, [2, 3, 4]);
    let mut boxed = xs.clone().into_boxed_slice();
    assert_eq!(pool.map(|x| x + 1, &boxed).unwrap(), [2, 3, 4]);
    pool.map(|x| *x += 1, &mut boxed).unwrap();
    assert_eq!(pool.map(|x| x + 1, boxed).unwrap(), [3, 4, 5]);
    let mut deque = VecDeque::from(xs.clone());
    assert_eq!(pool.map(|x| x + 1, &deque).unwrap(), [2, 3, 4]);
    pool.map(|x| *x += 1, &mut deque).unwrap();
    assert_eq!(pool.map(|x| x + 1, deque).unwrap(), [3, 4, 5]);

    let mut tree = BTreeMap::from([(1, 10), (2, 20)]);
    assert_eq!(pool.map(|(k, v)| k + v, &tree).unwrap(), [11, 22]);
    pool.map(|(k, v)| *v += k, &mut tree).unwrap();
    assert_eq!(pool.map(|(k, v)| k + v, tree).unwrap(), [12, 24]);
    let mut hash = HashMap::from([(1, 10), (2, 20)]);
    assert_eq!(sorted(pool.map(|(k, v)| k + v, &hash).unwrap()), [11, 22]);
    pool.map(|(k, v)| *v += k, &mut hash).unwrap();
    assert_eq!(sorted(pool.map(|(k, v)| k + v, hash).unwrap()), [12, 24]);
    let tree = BTreeSet::from([1, 2]);
    assert_eq!(pool.map(|x| x + 1, &tree).unwrap(), [2, 3]);
    assert_eq!(pool.map(|x| x + 1, tree).unwrap(), [2, 3]);
    let hash = HashSet::from([1, 2]);
    assert_eq!(sorted(pool.map(|x| x + 1, &hash).unwrap()), [2, 3]);
    assert_eq!(sorted(pool.map(|x| x + 1, hash).unwrap()), [2, 3]);
    let heap = BinaryHeap::from([1, 2]);
    assert_eq!(sorted(pool.map(|x| x + 1, heap).unwrap()), [2, 3]);
    let mut list = LinkedList::from([1, 2]);
    assert_eq!(pool.map(|x| x + 1, &list).unwrap(), [2, 3]);
    pool.map(|x| *x += 1, &mut list).unwrap();
    assert_eq!(pool.map(|x| x + 1, list).unwrap(), [3, 4]);
    assert_eq!(pool.map(|x| x + 1, Some(1)).unwrap(), [2]);
    assert_eq!(pool.map(|x: i32| x + 1, None).unwrap(), [0; 0]);
}

fn iterators(pool: &Pool) {
    let (xs, ys) = (vec![1.0, 2.0], [3.0, 4.0]);
    let text = String::from("one two\nthree");
    fn square(x: i32) -> i32 {
        x * x
    }
    assert_eq!(pool.map(square, 0..4).unwrap(), [0, 1, 4, 9]);
    assert_eq!(pool.map(|x| x * 2.0, xs.iter()).unwrap(), [2.0, 4.0]);
    assert_eq!(pool.map(|(a, b)| a * b, xs.iter().zip(&ys)).unwrap(), [3.0, 8.0]);
    assert_eq!(pool.map(|w| w.len(), text.split(' ')).unwrap(), [3, 9]);
    assert_eq!(pool.map(|l| l.len(), text.lines()).unwrap(), [7, 5]);
    assert_eq!(pool.map(|c| c.len(), [1, 2, 3].chunks(2)).unwrap(), [2, 1]);
    assert_eq!(pool.map(|w| w[0] + w[1], [1, 2, 3].windows(2)).unwrap(), [3, 5]);
    assert_eq!(pool.map(|(i, x)| i + x, [1, 2].into_iter().enumerate()).unwrap(), [1, 3]);
    let boxed: Box<dyn Iterator<Item = i32> + Send> = Box::new(0..3);
    assert_eq!(pool.map(square, boxed).unwrap(), [0, 1, 4]);
    let mut lent = 0..10;
    assert_eq!(pool.map(square, lent.by_ref().take(2)).unwrap(), [0, 1]);
    assert_eq!(lent.next(), Some(2));
    let mut left = 3;
    let unfold = std::iter::from_fn(|| {
        left -= 1;
        (left > 0).then_some(left)
    });
    assert_eq!(pool.map(square, unfold).unwrap(), [4, 1]);
    // An item that borrows what the closure returns into.
    let firsts: Vec<&str> = pool.map(|l| l.split(' ').next().unwrap(), text.lines()).unwrap();
    assert_eq!(firsts, ["one", "three"]);
}

fn parallel(pool: &Pool) {
    let xs = vec![1, 2, 3];
    assert_eq!(pool.map(|x| x + 1, xs.par_iter()).unwrap(), [2, 3, 4]);
    assert_eq!(pool.map(|(i, x)| i + x, xs.par_iter().copied().enumerate()).unwrap(), [1, 3, 5]);
    assert_eq!(pool.map(|(a, b)| a * b, xs.par_iter().zip(&xs)).unwrap(), [1, 4, 9]);
    assert_eq!(pool.map(|c| c.len(), xs.par_chunks(2)).unwrap(), [2, 1]);
    assert_eq!(pool.map(|x| x + 1, (0..3_u32).into_par_iter().rev()).unwrap(), [3, 2, 1]);
    assert_eq!(pool.map(|x| x + 1, xs.into_par_iter().map(|x| x * 2)).unwrap(), [3, 5, 7]);
}

#[test]
fn functions_and_closures_of_many_arguments() {
    watchdog(10, || {
        for (_, pool) in all_pools() {
            let sum =
                |a: u8, b: u16, c: u32, d: u64| u64::from(a) + u64::from(b) + u64::from(c) + d;
            assert_eq!(pool.apply(sum, (1, 2, 3, 4)).unwrap(), 10);
            assert_eq!(pool.apply_async(sum, (1, 2, 3, 4)).get().unwrap(), 10);
            assert_eq!(pool.starmap(sum, [(1, 2, 3, 4), (0, 0, 0, 0)]).unwrap(), [10, 0]);
            assert_eq!(pool.starmap(f64::max, [(3.0, 4.0)]).unwrap(), [4.0]);
            assert_eq!(pool.starmap(i32::pow, (0..3).zip(2..)).unwrap(), [0, 1, 16]);
            assert_eq!(pool.starmap_async(i32::abs, [(-1,), (2,)]).get().unwrap(), [1, 2]);
            assert_eq!(pool.starmap(|| 7, [(), ()]).unwrap(), [7, 7]);
            #[rustfmt::skip]
            let twelve = |a: i32, b: i32, c: i32, d: i32, e: i32, f: i32, g: i32, h: i32, i: i32,
                j: i32, k: i32, l: i32| a + b + c + d + e + f + g + h + i + j + k + l;
            assert_eq!(pool.apply(twelve, (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12)).unwrap(), 78);
        }
    });
}

#[test]
fn blocking_verbs_borrow() {
    watchdog(10, || {
        for (_, pool) in all_pools() {
            let base = vec![String::from("a"), String::from("b")];
            let seen = std::sync::Mutex::new(Vec::new());
            let texts: Vec<&str> = pool
                .map(
                    |s| {
                        seen.lock().unwrap().push(s.len());
                        s.as_str()
                    },
                    &base,
                )
                .unwrap();
            assert_eq!(texts, ["a", "b"]);
            assert_eq!(pool.apply(|i: usize| &base[i], (1,)).unwrap(), "b");
            assert_eq!(
                pool.install(|| base.par_iter().map(String::len).sum::<usize>()).unwrap(),
                2
            );
            let once = vec![1];
            // What runs once may give away what it holds.
            assert_eq!(pool.apply(move || once, ()).unwrap(), [1]);
            assert_eq!(seen.into_inner().unwrap(), [1, 1]);
        }
    });
}

#[test]
fn options_are_a_copy_with_the_same_verbs() {
    watchdog(10, || {
        for (_, pool) in all_pools() {
            let options = pool.chunksize(2).timeout(Duration::from_secs(60));
            let again = options;
            assert_eq!(options.map(|x| x + 1, 0..3).unwrap(), [1, 2, 3]);
            assert_eq!(again.starmap(i32::max, [(1, 2)]).unwrap(), [2]);
            assert_eq!(again.try_map(Ok::<i32, ()>, 0..3).unwrap(), [0, 1, 2]);
            assert_eq!(again.apply(|x: i32| x, (1,)).unwrap(), 1);
            assert_eq!(again.map_async(|x| x + 1, 0..3).get().unwrap(), [1, 2, 3]);
            assert_eq!(again.starmap_async(i32::max, [(1, 2)]).get().unwrap(), [2]);
            assert_eq!(again.apply_async(|x: i32| x, (1,)).get().unwrap(), 1);
        }
    });
}

#[test]
fn the_global_pool_has_the_same_verbs() {
    watchdog(10, || {
        assert_eq!(parpool::map(|x| x + 1, 0..3).unwrap(), [1, 2, 3]);
        assert_eq!(parpool::starmap(i32::max, [(1, 2)]).unwrap(), [2]);
        assert_eq!(parpool::try_map(Ok::<i32, ()>, 0..3).unwrap(), [0, 1, 2]);
        assert_eq!(parpool::apply(|x: i32| x, (1,)).unwrap(), 1);
        assert_eq!(parpool::map_async(|x| x + 1, 0..3).get().unwrap(), [1, 2, 3]);
        assert_eq!(parpool::starmap_async(i32::max, [(1, 2)]).get().unwrap(), [2]);
        assert_eq!(parpool::apply_async(|x: i32| x, (1,)).get().unwrap(), 1);
        assert!(std::ptr::eq(parpool::global().unwrap(), parpool::global().unwrap()));
        assert_eq!(parpool::current_worker(), None);
        assert!(!parpool::is_cancelled());
    });
}

#[test]
fn debug_says_what_there_is() {
    let pool = Pool::new(2).unwrap();
    assert_eq!(format!("{pool:?}"), "Pool { state: Running, workers: 2 }");
    pool.close();
    assert_eq!(format!("{pool:?}"), "Pool { state: Closed, workers: 2 }");
    pool.terminate();
    pool.close();
    assert_eq!(format!("{pool:?}"), "Pool { state: Terminated, workers: 2 }");

    let pool = Kind::Serial.pool();
    let done = pool.apply_async(|| 1, ());
    assert_eq!(format!("{done:?}"), "TaskHandle(value)");
    let local = WorkerLocal::new(|| 1);
    local.with(|_| ());
    assert_eq!(format!("{local:?}"), "WorkerLocal { values: 1, .. }");
}

// ---- map_into ------------------------------------------------------------------------------------

#[test]
fn map_into_uses_the_memory_that_is_there() {
    watchdog(20, || {
        for (kind, pool) in all_pools() {
            let mut out = Vec::with_capacity(100);
            let memory = out.as_ptr();
            for len in [100, 0, 7, 99] {
                pool.map_into(|x| x + 1, 0..len, &mut out).unwrap();
                assert_eq!(out, (1..=len).collect::<Vec<usize>>(), "{kind:?}");
                // Of an unknown length, too.
                pool.map_into(|x| x * 2, (0..len).filter(|x| x % 2 == 0), &mut out).unwrap();
                assert_eq!(out, (0..len).step_by(2).map(|x| x * 2).collect::<Vec<_>>(), "{kind:?}");
                assert_eq!((out.as_ptr(), out.capacity()), (memory, 100), "{kind:?}");
            }
            pool.map_into(|x| x, 0..1000, &mut out).unwrap();
            assert_eq!(out.len(), 1000);
        }
    });
}

#[test]
fn map_into_drops_what_was_there_and_leaves_nothing_after_an_error() {
    watchdog(20, || {
        for (kind, pool) in all_pools() {
            let drops = Drops::default();
            let mut out: Vec<_> = (0..10).map(|i| drops.make(i)).collect();
            pool.map_into(|i| drops.make(i), 0..5, &mut out).unwrap();
            assert_eq!(drops.alive(), 5, "{kind:?}");
            let failed = pool.map_into(
                |i| if i == 50 { panic!("{ON_PURPOSE}") } else { drops.make(i) },
                0..100,
                &mut out,
            );
            assert!(matches!(failed, Err(Error::Panicked(panic)) if panic.index() == Some(50)));
            assert!(out.is_empty(), "{kind:?}");
            drops.assert_each_once();
            out.push(drops.make(0));
            let refused = pool.chunksize(0).map_into(|i| drops.make(i), 0..5, &mut out);
            assert!(matches!(refused, Err(Error::InvalidArgument(_))));
            assert!(out.is_empty(), "{kind:?}");
            out.push(drops.make(0));
            pool.close();
            let refused = pool.map_into(|i| drops.make(i), 0..5, &mut out);
            assert!(matches!(refused, Err(Error::NotRunning)));
            assert!(out.is_empty(), "{kind:?}");
            drops.assert_each_once();
        }
    });
}
