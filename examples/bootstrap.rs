//! A confidence interval by the bootstrap, on real measurements, with the same digits on any number of
//! workers.
//!
//! ```text
//! cargo run --release --features rand --example bootstrap
//! ```
//!
//! In 1879 Albert Michelson measured the speed of light a hundred times. How exact is the mean? Draw a
//! hundred of the measurements, with repetition, and take their mean; do that a hundred thousand times;
//! 95 % of these means lie in the interval. It shows how much the measurements scatter, but not whether all
//! of them are wrong in the same way, as these were.

use parpool::Pool;
use rand::RngExt;
use rand::rngs::ChaCha8Rng;

/// Km/s in air, above 299 000: five series of twenty. (A. A. Michelson, "Experimental Determination of the
/// Velocity of Light", 1882.)
const SPEEDS: [f64; 100] = [
    850., 740., 900., 1070., 930., 850., 950., 980., 980., 880., 1000., 980., 930., 650., 760.,
    810., 1000., 1000., 960., 960., 960., 940., 960., 940., 880., 800., 850., 880., 900., 840.,
    830., 790., 810., 880., 880., 830., 800., 790., 760., 800., 880., 880., 880., 860., 720., 720.,
    620., 860., 970., 950., 880., 910., 850., 870., 840., 840., 850., 840., 840., 840., 890., 810.,
    810., 820., 800., 770., 760., 740., 750., 760., 910., 920., 890., 860., 880., 720., 840., 850.,
    850., 780., 890., 840., 780., 810., 760., 810., 790., 810., 820., 850., 870., 870., 810., 740.,
    810., 940., 950., 800., 810., 870.,
];

/// What it is: that in vacuum, divided by the refractive index of air.
const TRUTH: f64 = 299_792.458 / 1.000_277;

const DRAWS: usize = 100_000;

fn mean(xs: impl ExactSizeIterator<Item = f64>) -> f64 {
    let count = xs.len() as f64;
    xs.sum::<f64>() / count
}

fn main() -> Result<(), parpool::Error> {
    println!("mean of the measurements: {:.1} km/s", 299_000.0 + mean(SPEEDS.into_iter()));
    let mut all = Vec::new();
    for workers in [Some(1), Some(2), None] {
        let pool = Pool::new(workers)?;
        let mut means = pool.seed(1879).map(
            |seed, _| {
                let mut rng: ChaCha8Rng = seed.rng();
                mean((0..SPEEDS.len()).map(|_| SPEEDS[rng.random_range(0..SPEEDS.len())]))
            },
            0..DRAWS,
        )?;
        means.sort_unstable_by(f64::total_cmp);
        let [low, high] = [25, 975].map(|per_mille| 299_000.0 + means[DRAWS * per_mille / 1000]);
        println!("{:2} workers: 95 % of the means lie in {low:.3} … {high:.3}", pool.processes());
        all.push((low, high));
    }
    assert!(all.iter().all(|interval| *interval == all[0]), "the digits differ");
    let (low, high) = all[0];
    assert!(!(low..high).contains(&TRUTH));
    println!(
        "the speed of light in air is {TRUTH:.0}: the apparatus of the time was off, and statistics cannot show that"
    );
    Ok(())
}
