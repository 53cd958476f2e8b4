//! Counts the words of a text of any size, in bounded memory.
//!
//! ```text
//! cargo run --release --example lines < FILE
//! cargo run --release --example lines -- FILE
//! ```
//!
//! The text is read in blocks of whole lines. The workers count the words of the blocks while this
//! thread reads on and adds up what they found. Only a few blocks are in memory at once, and the
//! words themselves, each once.
//!
//! Standard input can be read only once. A FILE is read a second time, in a plain loop, which must
//! find the same.

use std::collections::HashMap;
use std::error::Error;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::time::{Duration, Instant};

use parpool::Pool;

/// How many bytes are counted at a time, and then up to the end of the line.
const BLOCK: u64 = 64 * 1024;

/// How many blocks are in memory for each worker.
const AHEAD: usize = 4;

fn main() -> Result<(), Box<dyn Error>> {
    let pool = Pool::new(None)?;
    let file = std::env::args().nth(1);
    let start = Instant::now();
    let count = match &file {
        None => on_pool(&pool, io::stdin().lock())?,
        Some(file) => on_pool(&pool, BufReader::new(File::open(file)?))?,
    };
    let pool_time = start.elapsed();

    let mut words: Vec<_> = count.words.iter().collect();
    // The most frequent first, then by the alphabet, so that each run prints the same.
    words.sort_unstable_by(|a, b| b.1.cmp(a.1).then(a.0.cmp(b.0)));
    for (word, times) in words.into_iter().take(10) {
        println!("{times:10} {word}");
    }
    let total: u64 = count.words.values().sum();
    println!("{} lines, {total} words, {} different", count.lines, count.words.len());
    println!("pool, {:2} workers  {:8.1} ms", pool.processes(), millis(pool_time));

    if let Some(file) = file {
        let start = Instant::now();
        let serial = in_loop(BufReader::new(File::open(file)?))?;
        println!("plain loop        {:8.1} ms", millis(start.elapsed()));
        assert!(serial == count, "the pool and the loop disagree");
    }
    Ok(())
}

/// What there is in a text.
#[derive(Default, PartialEq)]
struct Count {
    lines: u64,
    words: HashMap<String, u64>,
}

impl Count {
    /// Of a block of whole lines.
    fn of(block: &[u8]) -> Self {
        let mut count = Count::default();
        for line in String::from_utf8_lossy(block).lines() {
            count.lines += 1;
            for word in line.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty()) {
                *count.words.entry(word.to_lowercase()).or_default() += 1;
            }
        }
        count
    }

    fn add(&mut self, other: Count) {
        self.lines += other.lines;
        for (word, times) in other.words {
            *self.words.entry(word).or_default() += times;
        }
    }
}

fn on_pool(pool: &Pool, input: impl BufRead) -> Result<Count, Box<dyn Error>> {
    let mut total = Count::default();
    let window = pool.buffersize(AHEAD * pool.processes());
    let count = |block: io::Result<Vec<u8>>| block.map(|block| Count::of(&block));
    for count in window.imap(count, Blocks(input)) {
        // The first error is the pool's, the second the input's.
        total.add(count??);
    }
    Ok(total)
}

fn in_loop(input: impl BufRead) -> io::Result<Count> {
    let mut total = Count::default();
    for block in Blocks(input) {
        total.add(Count::of(&block?));
    }
    Ok(total)
}

/// A text in blocks of whole lines.
struct Blocks<R>(R);

impl<R: BufRead> Blocks<R> {
    fn read(&mut self) -> io::Result<Vec<u8>> {
        let mut block = Vec::new();
        self.0.by_ref().take(BLOCK).read_to_end(&mut block)?;
        if block.last().is_some_and(|last| *last != b'\n') {
            self.0.read_until(b'\n', &mut block)?;
        }
        Ok(block)
    }
}

impl<R: BufRead> Iterator for Blocks<R> {
    type Item = io::Result<Vec<u8>>;

    fn next(&mut self) -> Option<io::Result<Vec<u8>>> {
        // Nothing is read at the end only: a block that is not empty ends with a whole line.
        Some(self.read()).filter(|block| !matches!(block, Ok(block) if block.is_empty()))
    }
}

fn millis(time: Duration) -> f64 {
    1e3 * time.as_secs_f64()
}
