//! Gzip in blocks: what the example `pgzip` and its test share.

use std::error::Error;
use std::io::{self, Read, Write};

use flate2::Compression;
use flate2::write::GzEncoder;
use parpool::Pool;

/// How many bytes are compressed at a time. Smaller blocks compress less well: each begins with an
/// empty dictionary.
pub(crate) const BLOCK: usize = 128 * 1024;

/// An input in blocks, the last one shorter. An empty input is one empty block.
pub(crate) struct Blocks<R> {
    input: R,
    begun: bool,
}

impl<R: Read> Blocks<R> {
    pub(crate) fn new(input: R) -> Self {
        Blocks { input, begun: false }
    }
}

impl<R: Read> Iterator for Blocks<R> {
    type Item = io::Result<Vec<u8>>;

    fn next(&mut self) -> Option<io::Result<Vec<u8>>> {
        let first = !std::mem::replace(&mut self.begun, true);
        let mut block = Vec::with_capacity(BLOCK);
        match self.input.by_ref().take(BLOCK as u64).read_to_end(&mut block) {
            Ok(0) if !first => None,
            Ok(_) => Some(Ok(block)),
            Err(error) => Some(Err(error)),
        }
    }
}

/// One block as a gzip member. Members one after the other are a gzip file.
pub(crate) fn compress(block: &[u8]) -> io::Result<Vec<u8>> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(block)?;
    encoder.finish()
}

/// Compresses on the pool. This thread reads the blocks and writes the members, in order, while the
/// workers compress those in between.
///
/// No more than four blocks for each worker are in memory at once: that is the stream's window.
pub(crate) fn on_pool(
    pool: &Pool,
    input: impl Read,
    output: &mut impl Write,
) -> Result<(), Box<dyn Error>> {
    let window = pool.buffersize(4 * pool.processes());
    let members = window.imap(|block: io::Result<_>| compress(&block?), Blocks::new(input));
    for member in members {
        // The first error is of the pool, or of the closure that panicked; the second of the input.
        output.write_all(&member??)?;
    }
    Ok(())
}

/// The same in a plain loop.
pub(crate) fn in_loop(input: impl Read, output: &mut impl Write) -> Result<(), Box<dyn Error>> {
    for block in Blocks::new(input) {
        output.write_all(&compress(&block?)?)?;
    }
    Ok(())
}
