//! `schwimmbad.MPIPool` and `mpi4py.futures.MPIPoolExecutor` line by line: each Python line is a comment
//! above its Rust line.
//!
//! ```text
//! cargo build --release -p parpool-mpi --example from_mpi4py
//! mpirun -n 3 --bind-to none target/release/examples/from_mpi4py
//! ```
//!
//! Everything is asserted. Nothing is printed but a last line, and the message of the panic that the part
//! about errors makes on purpose.

use parpool_mpi::{MpiError, MpiPool, MpiTasks};

type Outcome = Result<(), Box<dyn std::error::Error>>;

fn main() -> Outcome {
    every_rank()?;
    rank_0_alone()
}

// def square(x): return x * x
fn square(x: u64) -> u64 {
    x * x
}

/// Every rank runs the program; there is no second function, and nothing is pickled.
fn every_rank() -> Outcome {
    // pool = schwimmbad.MPIPool()
    let pool = MpiPool::init()?;

    // comm.Get_rank(), comm.Get_size()
    assert!(pool.rank() < pool.size());

    // pool.map(square, range(5))                        (None on the ranks that are not rank 0)
    let squares = pool.map(square, 0..5u64)?;
    assert_eq!(squares, pool.is_root().then(|| vec![0, 1, 4, 9, 16]));

    // pool.map(lambda x: x * factor, xs)                (no lambdas in Python: they do not pickle)
    let factor = 3.0;
    let scaled = pool.map(|x: f64| x * factor, vec![1.0, 2.0])?;
    assert_eq!(scaled, pool.is_root().then(|| vec![3.0, 6.0]));

    // executor.map(square, xs, chunksize=10)
    let squares = pool.chunksize(10).map(square, 0..100u64)?;
    assert!(squares.is_none_or(|squares| squares.iter().sum::<u64>() == 328_350));

    // executor.starmap(pow, [(2, 3), (3, 2)])
    let powers = pool.starmap(u64::pow, [(2, 3), (3, 2)])?;
    assert!(powers.is_none_or(|powers| powers == [8, 9]));

    // comm.bcast(pool.map(square, range(3)))
    assert_eq!(pool.map_all(square, 0..3u64)?, [0, 1, 4]);

    // for y in executor.map(square, endless): ...       (Python reads all of the input first)
    let mut sum = 0;
    for y in pool.imap(square, 0..) {
        sum += y?;
        if sum > 1000 {
            break;
        }
    }
    assert_eq!(sum, if pool.is_root() { 1015 } else { 0 });

    // for y in executor.map(square, range(9), unordered=True): ...
    let count = pool.imap_unordered(square, 0..9).count();
    assert_eq!(count, if pool.is_root() { 9 } else { 0 });

    // try: pool.map(inverse, [1, 0])
    // except ZeroDivisionError: ...                     (here on every rank, so all stay in step)
    match pool.map(|x: u64| 10 / x, [1, 0]) {
        Err(MpiError::Panicked { index, message, .. }) => {
            assert_eq!((index, message.as_str()), (1, "attempt to divide by zero"));
        }
        other => unreachable!("{other:?}"),
    }

    // pool.close()                                      (here the end of its scope)
    Ok(())
}

/// Rank 0 alone runs the rest.
fn rank_0_alone() -> Outcome {
    // pool = schwimmbad.MPIPool()
    let mut tasks = MpiTasks::new(MpiPool::init()?);
    let square = tasks.register(square);

    // if not pool.is_master(): pool.wait(); sys.exit(0)
    let pool = tasks.start();

    // pool.map(square, range(5))
    assert_eq!(pool.map(&square, 0..5)?, [0, 1, 4, 9, 16]);

    // list(executor.map(square, range(5)))
    let squares: Result<Vec<u64>, _> = pool.imap(&square, 0..5).collect();
    assert_eq!(squares?, [0, 1, 4, 9, 16]);

    println!("all as in Python, on {} ranks", pool.size());
    Ok(())
}
