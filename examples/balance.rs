//! A picture of three chunk sizes for the same work: which items each worker ran, and when.
//!
//! ```text
//! cargo run --release --example balance balance.svg
//! ```
//!
//! The work: 600 items, of which the last tenth take twenty times as long as the others. In chunks that are too
//! large, one worker gets all of these; in smaller chunks, both get some. With no chunk size set, the pool chooses
//! how many items to take by the time that they take.

use std::error::Error;
use std::hint::black_box;

use parpool::Pool;

/// As many steps as `weight` says, of a kind that no compiler does away with.
fn work(weight: u64) -> u64 {
    (0..weight * 10_000).fold(1, |x: u64, i| black_box(x.wrapping_mul(6364136223846793005) ^ i))
}

/// The last tenth of 600 items costs twenty times as much as the others.
fn weight(item: u64) -> u64 {
    if item < 540 { 5 } else { 100 }
}

fn main() -> Result<(), Box<dyn Error>> {
    let Some(path) = std::env::args().nth(1) else {
        return Err("usage: balance OUT.svg".into());
    };
    let workers = std::thread::available_parallelism()?.get().clamp(2, 8);
    let pool = Pool::builder().processes(workers).insights(true).build()?;
    let expected: Vec<u64> = (0..600).map(|item| work(weight(item))).collect();
    // Too large, small enough, and the pool's own choice.
    let calls = [Some(150), Some(10), None];
    for chunksize in calls {
        let f = |item| work(weight(item));
        let results = match chunksize {
            Some(size) => pool.chunksize(size).map(f, 0..600)?,
            None => pool.map(f, 0..600)?,
        };
        assert_eq!(results, expected);
    }
    let insights = pool.insights().expect("the pool was built with them");
    print!("{insights}");
    std::fs::write(&path, insights.to_svg())?;
    std::fs::write(format!("{path}.json"), insights.to_chrome_trace())?;
    println!("\nthe picture is in {path}; {path}.json is for a trace viewer, as ui.perfetto.dev");
    Ok(())
}
