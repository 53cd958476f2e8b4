//! Python's `multiprocessing.Pool` line by line: each Python line is a comment above its Rust line.
//!
//! ```text
//! cargo run --release --example from_python
//! ```
//!
//! Everything is asserted. Nothing is printed but a last line, and the messages of the panics that
//! the part about errors makes on purpose.

use std::sync::mpsc;
use std::thread::sleep;
use std::time::Duration;

use parpool::{Context, Error, Pool, TryError, WorkerLocal, current_worker};

type Outcome = Result<(), Box<dyn std::error::Error>>;

fn main() -> Outcome {
    blocking_verbs()?;
    async_verbs()?;
    callbacks()?;
    timeouts()?;
    questions()?;
    lifecycle()?;
    workers()?;
    errors()?;
    println!("all as in Python");
    Ok(())
}

// def square(x): return x * x
fn square(x: i32) -> i32 {
    x * x
}

fn blocking_verbs() -> Outcome {
    // pool = Pool(2)
    let pool = Pool::new(2)?;

    // pool.map(square, range(5))
    assert_eq!(pool.map(square, 0..5)?, [0, 1, 4, 9, 16]);

    // xs = [1, 2, 3]; pool.map(lambda x: x + 1, xs)     (no lambdas in Python: they do not pickle)
    let xs = vec![1, 2, 3];
    assert_eq!(pool.map(|x| x + 1, &xs)?, [2, 3, 4]);

    // pool.map(square, xs, chunksize=2)
    assert_eq!(pool.chunksize(2).map(square, xs)?, [1, 4, 9]);

    // pool.starmap(pow, [(2, 3), (3, 2)])
    assert_eq!(pool.starmap(i32::pow, [(2, 3), (3, 2)])?, [8, 9]);

    // pool.map(lambda ab: ab[0] * ab[1], zip([1, 2], [3, 4]))
    assert_eq!(pool.map(|(a, b)| a * b, [1, 2].into_iter().zip([3, 4]))?, [3, 8]);

    // pool.map(len, "to be or not".split(" "))
    assert_eq!(pool.map(str::len, "to be or not".split(' '))?, [2, 2, 2, 3]);

    // pool.apply(pow, (2, 10))
    assert_eq!(pool.apply(i32::pow, (2, 10))?, 1024);

    // pool.apply(round, (2.567,), {"ndigits": 1})       (keyword arguments are captures)
    let digits = 1;
    let round = |x: f64| format!("{x:.digits$}");
    assert_eq!(pool.apply(round, (2.567,))?, "2.6");
    Ok(())
}

fn async_verbs() -> Outcome {
    let pool = Pool::new(2)?;

    // r = pool.apply_async(square, (5,)); r.get()
    let r = pool.apply_async(square, (5,));
    assert_eq!(r.get()?, 25);

    // r = pool.map_async(square, [1, 2, 3]); r.get()
    let r = pool.map_async(square, [1, 2, 3]);
    assert_eq!(r.get()?, [1, 4, 9]);

    // r = pool.map_async(square, range(100), chunksize=10); sum(r.get())
    let r = pool.chunksize(10).map_async(square, 0..100);
    assert_eq!(r.get()?.iter().sum::<i32>(), 328_350);

    // r = pool.starmap_async(pow, [(2, 3), (3, 2)]); r.get()
    let r = pool.starmap_async(i32::pow, [(2, 3), (3, 2)]);
    assert_eq!(r.get()?, [8, 9]);

    // [r.get() for r in [pool.apply_async(square, (i,)) for i in range(4)]]
    let rs: Vec<_> = (0..4).map(|i| pool.apply_async(square, (i,))).collect();
    let squares: Result<Vec<_>, Error> = rs.into_iter().map(|r| r.get()).collect();
    assert_eq!(squares?, [0, 1, 4, 9]);
    Ok(())
}

fn callbacks() -> Outcome {
    let pool = Pool::new(2)?;
    let (send, seen) = mpsc::channel();

    // r = pool.apply_async(square, (5,), callback=seen.append, error_callback=failed.append)
    let r = pool
        .apply_async(square, (5,))
        .callback(move |value| send.send(*value).expect("the receiver lives"))
        .error_callback(|error| unreachable!("{error}"));

    // r.wait(); seen                                    (here the callback has run by now)
    r.wait();
    assert_eq!(seen.try_recv()?, 25);

    // pool.map_async(square, [], callback=seen.append)  (Python never calls it)
    let (send, seen) = mpsc::channel();
    let empty: Vec<i32> = Vec::new();
    let r = pool
        .map_async(square, empty)
        .callback(move |values| send.send(values.len()).expect("the receiver lives"));
    r.wait();
    assert_eq!(seen.try_recv()?, 0);
    Ok(())
}

fn timeouts() -> Outcome {
    let pool = Pool::new(1)?;
    let (go, wait) = mpsc::channel();

    // r = pool.apply_async(queue.get)
    let mut r = pool.apply_async(move || wait.recv().unwrap_or(0), ());

    // try: r.get(timeout=0.01)
    // except multiprocessing.TimeoutError: pass
    let short = Duration::from_millis(10);
    assert!(matches!(r.get_timeout(short), Err(Error::Timeout)));

    // r.wait(0.01)                                      (Python returns None)
    assert!(!r.wait_timeout(short));

    // queue.put(7); r.get(timeout=10)
    go.send(7)?;
    assert_eq!(r.get_timeout(Duration::from_secs(10))?, 7);

    // A deadline for a whole call; Python has none.
    let late = pool.timeout(short).map(|_| sleep(Duration::from_millis(1)), 0..10_000);
    assert!(matches!(late, Err(Error::DeadlineExceeded)));
    Ok(())
}

fn questions() -> Outcome {
    let pool = Pool::new(1)?;
    let (go, wait) = mpsc::channel();
    let r = pool.apply_async(move || wait.recv().unwrap_or(0), ());

    // r.ready()
    assert!(!r.ready());

    // try: r.successful()
    // except ValueError: pass
    assert!(matches!(r.successful(), Err(Error::NotReady)));

    // queue.put(7); r.wait(); r.ready(), r.successful()
    go.send(7)?;
    r.wait();
    assert!(r.ready());
    assert!(r.successful()?);
    Ok(())
}

fn lifecycle() -> Outcome {
    // with Pool(2) as pool: pool.map(square, [1, 2])    (Python terminates at the end, this closes)
    {
        let pool = Pool::new(2)?;
        assert_eq!(pool.map(square, [1, 2])?, [1, 4]);
    }

    // pool = Pool(2); r = pool.apply_async(square, (3,))
    let pool = Pool::new(2)?;
    let r = pool.apply_async(square, (3,));

    // try: pool.join()
    // except ValueError: pass
    assert!(matches!(pool.join(), Err(Error::StillRunning)));

    // pool.close()
    pool.close();

    // try: pool.map(square, [1])
    // except ValueError: pass
    assert!(matches!(pool.map(square, [1]), Err(Error::NotRunning)));

    // pool.join(); r.get()
    pool.join()?;
    assert_eq!(r.get()?, 9);

    // pool = Pool(1); rs = [pool.apply_async(time.sleep, (1,)) for _ in range(100)]
    let pool = Pool::new(1)?;
    let nap = Duration::from_millis(1);
    let mut rs: Vec<_> = (0..1000).map(|_| pool.apply_async(sleep, (nap,))).collect();
    let last = rs.pop().ok_or("there are 1000")?;

    // pool.terminate(); pool.join()
    pool.terminate();
    pool.join()?;

    // rs[-1].get()                                      (in Python this never returns)
    assert!(matches!(last.get(), Err(Error::Terminated)));
    Ok(())
}

fn workers() -> Outcome {
    // def init(a, b): ...
    // Pool(2, initializer=init, initargs=("a", 1))
    fn init(name: &str, number: i32) {
        assert_eq!((name, number), ("a", 1));
    }
    let pool = Pool::builder().processes(2).initializer(init, ("a", 1)).build()?;
    assert_eq!(pool.processes(), 2);

    // def init(): global buffer; buffer = []            (state of each worker)
    let buffers = WorkerLocal::new(Vec::new);
    pool.map(|x: i32| buffers.with(|buffer| buffer.push(x)), 0..10)?;
    assert_eq!(buffers.into_inner().concat().len(), 10);

    // Pool(1, maxtasksperchild=2)
    let pool = Pool::builder().processes(1).max_tasks_per_child(2).build()?;
    let generation = || current_worker().map(|worker| worker.generation());
    // [pool.apply(os.getpid) for _ in range(4)]         (two different ones)
    let seen = (0..4).map(|_| pool.apply(generation, ())).collect::<Result<Vec<_>, _>>()?;
    assert_eq!(seen, [Some(0), Some(0), Some(1), Some(1)]);

    // from multiprocessing.pool import ThreadPool; ThreadPool(2)
    // get_context("spawn").Pool(2)
    let context = Context::threads().name("solver");
    let pool = Pool::builder().processes(2).context(context).build()?;

    // multiprocessing.current_process().name
    let name = pool.apply(|| std::thread::current().name().map(str::to_owned), ())?;
    assert!(name.is_some_and(|name| name.starts_with("solver-")));
    Ok(())
}

fn errors() -> Outcome {
    let pool = Pool::new(2)?;

    // try: Pool(0)
    // except ValueError: pass
    assert!(matches!(Pool::new(0), Err(Error::InvalidArgument(_))));

    // def inverse(x): return 1 / x
    // try: pool.map(inverse, [1, 0])
    // except ZeroDivisionError as error: print(error)
    let error = pool.map(|x: i32| 1 / x, [1, 0]).expect_err("1 / 0 panics");
    let Error::Panicked(panic) = error else { return Err("it did not panic".into()) };
    assert_eq!(panic.index(), Some(1));
    assert_eq!(panic.message(), "attempt to divide by zero");

    // try: pool.map(int, ["1", "two"])
    // except ValueError as error: print(error)          (an error that is no panic)
    let error = pool.try_map(str::parse::<i32>, ["1", "two"]).expect_err("two is no number");
    let TryError::Item { index, error } = error else { return Err("the pool failed".into()) };
    assert_eq!((index, error.to_string().as_str()), (1, "invalid digit found in string"));

    // r = pool.apply_async(inverse, (0,)); r.wait(); r.successful()
    let r = pool.apply_async(|x: i32| 1 / x, (0,));
    r.wait();
    assert!(!r.successful()?);

    // try: pool.map(square, [1], chunksize=0)           (Python returns [None])
    assert!(matches!(pool.chunksize(0).map(square, [1]), Err(Error::InvalidArgument(_))));

    // The pool goes on as before.
    assert_eq!(pool.map(square, [2])?, [4]);
    Ok(())
}
