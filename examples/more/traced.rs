//! Spans and events of tasks in the caller's span, with the crate `tracing`.
//!
//! ```text
//! cargo run --release --features tracing --example traced
//! ```

use parpool::{Error, Pool};
use tracing::{Level, info, info_span, warn};

/// The number in a line, which may be none.
fn parse(line: &str) -> Option<f64> {
    match line.trim().parse() {
        Ok(number) => Some(number),
        Err(error) => {
            // Says in which request and which chunk, though nobody told it.
            warn!(line, %error, "skipped");
            None
        }
    }
}

fn main() -> Result<(), Error> {
    tracing_subscriber::fmt().with_max_level(Level::DEBUG).with_thread_names(true).init();
    let pool = Pool::new(None)?;
    for (request, text) in [(1, "3.5\n2\nx\n8"), (2, "1e3\n\n7")] {
        let span = info_span!("request", request);
        let _entered = span.enter();
        let numbers = pool.chunksize(2).map(parse, text.lines())?;
        info!(total = numbers.iter().flatten().sum::<f64>(), "done");
    }
    Ok(())
}
