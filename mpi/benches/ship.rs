//! What it costs to ship work between ranks; one line `name seconds` for each number. Started by
//! `compare.py`, which races it against Python's pools over MPI:
//!
//! ```text
//! mpirun -n 3 --bind-to none target/release/deps/ship-…
//! ```

use std::time::Instant;

use parpool_mpi::{MpiError, MpiPool};

/// Calls whose median is told.
const ROUNDS: usize = 7;

fn main() -> Result<(), MpiError> {
    for workers in [1, 2] {
        let pool = MpiPool::builder().processes(workers).init()?;
        let how = if workers == 1 { "inline" } else { "threads" };

        const CHUNKS: u64 = 2000;
        time(&pool, &format!("empty {how}"), CHUNKS, || {
            pool.chunksize(1).map(|x: u64| x, 0..CHUNKS).map(drop)
        })?;

        let items: Vec<f64> = (0..1_000_000).map(f64::from).collect();
        time(&pool, &format!("numbers {how}"), 1, || {
            pool.chunksize(1000).map(|x: f64| x + 1.0, items.iter().copied()).map(drop)
        })?;
        let arrays: Vec<Vec<f64>> = items.chunks(1000).map(<[f64]>::to_vec).collect();
        let add = |xs: Vec<f64>| xs.into_iter().map(|x| x + 1.0).collect::<Vec<f64>>();
        time(&pool, &format!("arrays {how}"), 1, || {
            pool.chunksize(1).map(add, arrays.iter().cloned()).map(drop)
        })?;
    }
    Ok(())
}

/// Prints the median time of `call`, for each of `count` things.
fn time(
    pool: &MpiPool,
    name: &str,
    count: u64,
    call: impl Fn() -> Result<(), MpiError>,
) -> Result<(), MpiError> {
    call()?;
    let mut times = Vec::new();
    for _ in 0..ROUNDS {
        let begun = Instant::now();
        call()?;
        times.push(begun.elapsed().as_secs_f64());
    }
    times.sort_by(f64::total_cmp);
    if pool.is_root() {
        println!("parpool {name} {:e}", times[ROUNDS / 2] / count as f64);
    }
    Ok(())
}
