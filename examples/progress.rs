//! Bars for a map and for a stream, a count for a handle.
//!
//! ```text
//! cargo run --release --features indicatif --example progress
//! ```

use std::hint::black_box;
use std::time::Duration;

use parpool::{Error, Pool, Progress};

/// A few milliseconds of work.
fn work(n: u64) -> u64 {
    (0..500_000 + n * 5_000).fold(n, |x, i| black_box(x.rotate_left(5) ^ i))
}

fn main() -> Result<(), Error> {
    let pool = Pool::new(None)?;

    println!("a map of 500 items:");
    let all = pool.progress(&Progress::bar()).map(work, 0..500)?;

    println!("a stream that does not know how long it is:");
    let evens = (0..).filter(|n| n % 2 == 0).take_while(|n| *n < 500);
    let view = pool.progress(&Progress::bar()).imap(work, evens).collect::<Result<Vec<_>, _>>()?;
    assert!(view.iter().eq(all.iter().step_by(2)));

    println!("a handle that is asked:");
    let mut handle = pool.map_async(work, 0..500);
    let same = loop {
        match handle.get_timeout(Duration::from_millis(300)) {
            Err(Error::Timeout) => match handle.progress() {
                (done, Some(total)) => println!("  {done} of {total}"),
                (done, None) => println!("  {done}"),
            },
            outcome => break outcome?,
        }
    };
    assert_eq!(same, all);
    Ok(())
}
