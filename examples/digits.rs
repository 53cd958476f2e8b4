//! Reads handwritten digits: a real data set, classified with one `pool.map`.
//!
//! ```text
//! cargo run --release --example digits
//! ```
//!
//! Each of 1797 digits is compared with all others and gets the label of its nearest neighbour: the
//! one at the smallest squared Euclidean distance, the first of several. The same function runs in
//! a plain loop and on the pool, and both must agree. Each runs 40 times, in turns, which takes about a
//! second on 2 cores; the best time of each is printed.

use std::error::Error;
use std::io::Read;
use std::time::{Duration, Instant};

use flate2::read::GzDecoder;
use parpool::Pool;

/// 8 × 8 grey values from 0 to 16.
const PIXELS: usize = 64;

/// How often each side is timed: about a second in all on 2 cores. The best time counts, because noise only
/// ever adds to it. With few rounds, even the best time of each side varies from run to run.
const ROUNDS: usize = 40;

struct Digit {
    pixels: [i16; PIXELS],
    label: u8,
}

fn main() -> Result<(), Box<dyn Error>> {
    let digits = read(include_bytes!("data/digits.csv.gz"))?;
    let pool = Pool::new(None)?;

    let (mut serial, mut parallel) = (Vec::new(), Vec::new());
    let (mut loop_time, mut pool_time) = (Duration::MAX, Duration::MAX);
    for _ in 0..ROUNDS {
        let start = Instant::now();
        serial = (0..digits.len()).map(|i| classify(&digits, i)).collect::<Vec<_>>();
        loop_time = loop_time.min(start.elapsed());

        let start = Instant::now();
        parallel = pool.map(|i| classify(&digits, i), 0..digits.len())?;
        pool_time = pool_time.min(start.elapsed());
    }
    assert_eq!(serial, parallel);

    let right =
        digits.iter().zip(&parallel).filter(|(digit, label)| digit.label == **label).count();
    let share = 100.0 * right as f64 / digits.len() as f64;
    let (loop_ms, pool_ms) = (millis(loop_time), millis(pool_time));
    println!("{right} of {} right ({share:.2} %)", digits.len());
    println!("plain loop        {loop_ms:8.1} ms");
    println!("pool, {:2} workers  {pool_ms:8.1} ms", pool.processes());
    println!("speed-up          {:8.2}", loop_ms / pool_ms);
    Ok(())
}

/// The label of the digit that is nearest to digit `i`, itself left out.
fn classify(digits: &[Digit], i: usize) -> u8 {
    let others = digits.iter().enumerate().filter(|(j, _)| *j != i);
    let nearest = others.min_by_key(|(_, other)| distance(&digits[i].pixels, &other.pixels));
    nearest.map_or(0, |(_, other)| other.label)
}

/// The squared Euclidean distance. A sum of 64 squares up to 16 × 16 fits.
fn distance(a: &[i16; PIXELS], b: &[i16; PIXELS]) -> i16 {
    a.iter().zip(b).map(|(a, b)| (a - b) * (a - b)).sum()
}

fn read(gz: &[u8]) -> Result<Vec<Digit>, Box<dyn Error>> {
    let mut text = String::new();
    GzDecoder::new(gz).read_to_string(&mut text)?;
    text.lines().map(parse).collect()
}

/// 64 pixels and the label, separated by commas.
fn parse(line: &str) -> Result<Digit, Box<dyn Error>> {
    let numbers = line.split(',').map(|field| field.trim().parse::<i16>());
    let numbers = numbers.collect::<Result<Vec<_>, _>>()?;
    match *numbers.as_slice() {
        [ref pixels @ .., label] => {
            Ok(Digit { pixels: pixels.try_into()?, label: u8::try_from(label)? })
        }
        [] => Err("an empty line".into()),
    }
}

fn millis(time: Duration) -> f64 {
    1e3 * time.as_secs_f64()
}
