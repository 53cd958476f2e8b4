//! The example `pi` over the ranks of an MPI job: the same digits whatever the number of ranks, and those
//! of one machine too.
//!
//! ```text
//! cargo build --release -p parpool-mpi --example pi_mpi
//! target/release/examples/pi_mpi
//! mpirun -n 3 --bind-to none target/release/examples/pi_mpi
//! mpirun -n 3 --bind-to none target/release/examples/pi_mpi 1000000000 7
//! ```
//!
//! The arguments are the number of points and the seed. Every rank runs all of this program; what rank 0
//! alone does stands behind `if let Some`.

use std::f64::consts::PI;
use std::time::Instant;

use parpool::Seed;
use parpool_mpi::MpiPool;
use rand::RngExt;
use rand::rngs::ChaCha8Rng;

/// Points in a block: work for a fraction of a millisecond. What travels is the block's number there and
/// a count back.
const BLOCK: u64 = 50_000;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let points: u64 = args.next().map_or(Ok(20_000_000), |points| points.parse())?;
    let seed: u64 = args.next().map_or(Ok(2026), |seed| seed.parse())?;
    let blocks = points.div_ceil(BLOCK);
    let points = blocks * BLOCK;

    let pool = MpiPool::init()?;
    let start = Instant::now();
    let hits = pool.map(
        |block| {
            // Made of the seed and the block's number: it does not matter who draws.
            let mut rng: ChaCha8Rng = Seed::new(seed, block).rng();
            let throw = |_: &u64| rng.random::<f64>().hypot(rng.random()) < 1.0;
            (0..BLOCK).filter(throw).count() as u64
        },
        0..blocks,
    )?;
    if let Some(hits) = hits {
        let share = hits.iter().sum::<u64>() as f64 / points as f64;
        let pi = 4.0 * share;
        // One point is a coin that falls inside with probability `share`.
        let error = 4.0 * (share * (1.0 - share) / points as f64).sqrt();
        println!(
            "π = {pi:.9} ± {error:.9}, which is {:+.2} standard errors off",
            (pi - PI) / error
        );
        eprintln!("{} ranks, {} workers, {:.0?}", pool.size(), pool.workers(), start.elapsed());
        assert!((pi - PI).abs() < 5.0 * error, "that is not π");
    }
    Ok(())
}
