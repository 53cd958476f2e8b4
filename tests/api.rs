//! What the types are and what the compiler infers, mostly without running anything.

mod common;

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

use common::{Kind, all_pools, square, watchdog};

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
fn apply() {
    watchdog(20, || {
        for (_, pool) in all_pools() {
            assert_eq!(pool.apply(square, (5,)).unwrap(), 25);
            // What is a keyword argument there is a capture here, which may borrow.
            let base = [1, 2, 3];
            let sum = pool.apply(|by: u64| base.iter().sum::<u64>() * by, (10,));
            assert_eq!(sum.unwrap(), 60);
            assert_eq!(pool.apply(|| base.len(), ()).unwrap(), 3);
        }
    });
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
