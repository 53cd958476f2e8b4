//! The listings of a tutorial of Python's `multiprocessing.Pool`, on 2 workers, each with its time.
//!
//! ```text
//! cargo run --release --example tutorial
//! ```
//!
//! The tasks only sleep, so the ideal time of each listing is known: it is printed next to the time
//! taken. All of it takes about 18 seconds.

use std::thread::sleep;
use std::time::{Duration, Instant};

use parpool::{Error, Pool};

type Listing = fn(&Pool) -> Result<(), Error>;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let pool = Pool::new(2)?;
    let listings: [(&str, f64, Listing); 7] = [
        ("map(square, range(5))", 3.0, map),
        ("imap, printed as it comes", 3.0, imap),
        ("map_async, then get", 3.0, map_async),
        ("apply, twice", 4.0, apply),
        ("apply_async, twice, then wait for both", 2.0, apply_async),
        ("ready, successful", 1.0, ready_successful),
        ("get with a timeout of 0.5 s on a task of 2 s", 2.0, get_timeout),
    ];
    for (title, ideal, listing) in listings {
        println!("# {title}");
        let start = Instant::now();
        listing(&pool)?;
        println!("took {:.3} s, ideal {ideal:.1} s\n", start.elapsed().as_secs_f64());
    }
    Ok(())
}

/// `def square(x): time.sleep(1); return x * x`
fn square(x: i32) -> i32 {
    sleep(Duration::from_secs(1));
    x * x
}

/// `def test(seconds): time.sleep(seconds); return seconds`
fn test(seconds: u64) -> u64 {
    sleep(Duration::from_secs(seconds));
    seconds
}

/// Five tasks of a second on two workers: three rounds.
fn map(pool: &Pool) -> Result<(), Error> {
    println!("{:?}", pool.map(square, 0..5)?);
    Ok(())
}

/// Ideally 0 and 1 come after a second, 4 and 9 after two, 16 after three.
fn imap(pool: &Pool) -> Result<(), Error> {
    let start = Instant::now();
    for value in pool.imap(square, 0..5) {
        println!("{} at {:.3} s", value?, start.elapsed().as_secs_f64());
    }
    Ok(())
}

/// The main script goes on while the workers work.
fn map_async(pool: &Pool) -> Result<(), Error> {
    let result = pool.map_async(square, 0..5);
    println!("main script");
    println!("{:?}", result.get()?);
    Ok(())
}

/// Each call blocks, so the second begins when the first is done.
fn apply(pool: &Pool) -> Result<(), Error> {
    pool.apply(test, (2,))?;
    pool.apply(test, (2,))?;
    println!("main script");
    Ok(())
}

/// Both calls run at the same time.
fn apply_async(pool: &Pool) -> Result<(), Error> {
    let results = [pool.apply_async(test, (2,)), pool.apply_async(test, (2,))];
    println!("main script");
    for result in results {
        result.wait();
    }
    Ok(())
}

/// Before there is a result, `successful` is an error; Python raises `ValueError` there.
fn ready_successful(pool: &Pool) -> Result<(), Error> {
    let result = pool.apply_async(test, (1,));
    println!("ready: {}, successful: {:?}", result.ready(), result.successful());
    result.wait();
    println!("ready: {}, successful: {:?}", result.ready(), result.successful());

    // `successful` says that there is an error, `get` says which. `resume_unwind` is a panic that
    // prints nothing by itself.
    let failed = pool.apply_async(|| std::panic::resume_unwind(Box::new("no luck")), ());
    failed.wait();
    println!("ready: {}, successful: {:?}", failed.ready(), failed.successful());
    let outcome: Result<(), Error> = failed.get();
    println!("{}", outcome.expect_err("it panicked"));
    Ok(())
}

/// A timeout leaves the task running and the handle good.
fn get_timeout(pool: &Pool) -> Result<(), Error> {
    let start = Instant::now();
    let mut result = pool.apply_async(test, (2,));
    match result.get_timeout(Duration::from_millis(500)) {
        Err(Error::DeadlineExceeded) => {
            println!("timeout after {:.1} s", start.elapsed().as_secs_f64())
        }
        other => println!("{other:?}"),
    }
    println!("{}", result.get()?);
    Ok(())
}
