//! Compresses files with gzip, block by block, on all cores.
//!
//! ```text
//! cargo run --release --example pgzip -- FILE...
//! cat FILE | cargo run --release --example pgzip > FILE.gz
//! ```
//!
//! Each FILE is compressed to FILE.gz, which must not exist yet, and is kept. Without arguments
//! standard input goes to standard output. The results are gzip files that `gunzip` restores.
//!
//! Each block of 128 KiB is a gzip member of its own, so the blocks can be compressed at the same
//! time. They are written in their order while later ones are being compressed, and a file of any
//! size takes no more memory than a few blocks for each worker.
//!
//! A file is compressed a second time, in a plain loop on one thread, to compare the times; the output
//! must be the same as that of the pool. The throughput of both goes to standard error.

#[path = "pgzip/blocks.rs"]
mod blocks;

use std::error::Error;
use std::fs::{self, File};
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::time::{Duration, Instant};

use parpool::Pool;

fn main() -> Result<(), Box<dyn Error>> {
    let pool = Pool::new(None)?;
    let files: Vec<String> = std::env::args().skip(1).collect();
    if files.is_empty() {
        let mut output = io::stdout().lock();
        blocks::on_pool(&pool, io::stdin().lock(), &mut output)?;
        return Ok(output.flush()?);
    }
    for file in files {
        compress(&pool, &file).map_err(|error| format!("{file}: {error}"))?;
    }
    Ok(())
}

fn compress(pool: &Pool, file: &str) -> Result<(), Box<dyn Error>> {
    let target = format!("{file}.gz");
    let start = Instant::now();
    let input = File::open(file)?;
    let output = File::create_new(&target).map_err(|error| format!("{target}: {error}"))?;
    if let Err(error) = write(pool, input, output) {
        // Half a file is no use to anybody.
        let _ = fs::remove_file(&target);
        return Err(error);
    }
    let pool_time = start.elapsed();

    let start = Instant::now();
    let mut same = Same(BufReader::new(File::open(&target)?));
    blocks::in_loop(File::open(file)?, &mut same)?;
    let loop_time = start.elapsed();

    let bytes = fs::metadata(file)?.len();
    let rate = |time: Duration| bytes as f64 / 1e6 / time.as_secs_f64();
    let (loop_rate, pool_rate) = (rate(loop_time), rate(pool_time));
    eprintln!("{file}: {bytes} bytes to {}", fs::metadata(&target)?.len());
    eprintln!("one thread        {loop_rate:8.1} MB/s");
    eprintln!("pool, {:2} workers  {pool_rate:8.1} MB/s", pool.processes());
    Ok(())
}

fn write(pool: &Pool, input: File, output: File) -> Result<(), Box<dyn Error>> {
    let mut output = BufWriter::new(output);
    blocks::on_pool(pool, input, &mut output)?;
    Ok(output.flush()?)
}

/// Takes what is written only if it is what the other has.
struct Same<R>(R);

impl<R: Read> Write for Same<R> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut other = vec![0; bytes.len()];
        self.0.read_exact(&mut other)?;
        match other == bytes {
            true => Ok(bytes.len()),
            false => Err(io::Error::other("the pool and the loop disagree")),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
