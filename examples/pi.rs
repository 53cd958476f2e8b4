//! π by Monte Carlo, with its error bar, and the same digits on any number of workers.
//!
//! ```text
//! cargo run --release --features rand --example pi
//! cargo run --release --features rand --example pi -- 1000000000 7
//! ```
//!
//! The arguments are the number of points and the seed. Points are thrown into the unit square; the
//! part that falls into the quarter circle is π/4. They are drawn in blocks, and each block has
//! its own generator, made from the seed and the number of the block: so it does not matter which worker draws it.

use std::f64::consts::PI;
use std::time::Instant;

use parpool::Pool;
use rand::RngExt;
use rand::rngs::ChaCha8Rng;

/// Points in a block: work for a fraction of a millisecond.
const BLOCK: u64 = 50_000;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let points: u64 = args.next().map_or(Ok(20_000_000), |points| points.parse())?;
    let seed: u64 = args.next().map_or(Ok(2026), |seed| seed.parse())?;
    let blocks = points.div_ceil(BLOCK);
    let points = blocks * BLOCK;

    let mut all = Vec::new();
    for workers in [Some(1), Some(2), None] {
        let pool = Pool::new(workers)?;
        let start = Instant::now();
        let hits = pool.seed(seed).sum(
            |seed, _| {
                let mut rng: ChaCha8Rng = seed.rng();
                let throw = |_: &u64| rng.random::<f64>().hypot(rng.random()) < 1.0;
                (0..BLOCK).filter(throw).count() as u64
            },
            0..blocks,
        )?;
        let share = hits as f64 / points as f64;
        let pi = 4.0 * share;
        // One point is a coin that falls inside with probability `share`.
        let error = 4.0 * (share * (1.0 - share) / points as f64).sqrt();
        println!(
            "{:2} workers: π = {pi:.9} ± {error:.9}, which is {:+.2} standard errors off, in {:.0?}",
            pool.processes(),
            (pi - PI) / error,
            start.elapsed(),
        );
        all.push((pi, error));
    }
    assert!(all.iter().all(|(pi, _)| pi.to_bits() == all[0].0.to_bits()), "the digits differ");
    let (pi, error) = all[0];
    assert!((pi - PI).abs() < 5.0 * error, "that is not π");
    Ok(())
}
