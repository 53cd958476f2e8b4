//! Insights as text.

use std::fmt::{self, Formatter};
use std::time::Duration;

use super::{CallInsights, Insights};

pub(super) fn write(insights: &Insights, f: &mut Formatter<'_>) -> fmt::Result {
    let mut workers = vec![["worker", "tasks", "busy", "waiting", "start-up"].map(String::from)];
    for worker in &insights.workers {
        workers.push([
            worker.index.to_string(),
            worker.tasks.to_string(),
            time(worker.busy),
            time(worker.waiting),
            time(worker.start_up),
        ]);
    }
    table(f, &workers, 0)?;
    if insights.calls.is_empty() {
        return Ok(());
    }
    let heads = ["call", "items", "chunks", "queue", "took", "speed-up", "longest", "why not more"];
    let mut calls = vec![heads.map(String::from)];
    calls.extend(insights.calls.iter().map(row));
    f.write_str("\n")?;
    table(f, &calls, 2)
}

fn row(call: &CallInsights) -> [String; 8] {
    [
        name(call),
        call.items.to_string(),
        call.chunks.to_string(),
        call.queue_depth.to_string(),
        time(call.duration),
        format!("{:.2} of {}", call.speed_up(), call.workers),
        longest(call),
        call.bottleneck().map_or_else(|| "-".to_owned(), |why| why.to_string()),
    ]
}

/// The verb, with what was set.
pub(super) fn name(call: &CallInsights) -> String {
    match call.chunksize {
        Some(size) => format!("{} by {size}", call.verb),
        None => call.verb.to_owned(),
    }
}

pub(super) fn longest(call: &CallInsights) -> String {
    match call.longest.first() {
        Some(long) => {
            format!("{}: {}", items(long.items.start, long.items.len()), time(long.duration))
        }
        None => "-".to_owned(),
    }
}

/// `item 7` or `items 7–9`.
pub(super) fn items(first: usize, count: usize) -> String {
    match count {
        0 | 1 => format!("item {first}"),
        _ => format!("items {first}–{}", first + count - 1),
    }
}

/// Three digits and a unit.
pub(super) fn time(time: Duration) -> String {
    let nanos = time.as_nanos() as f64;
    let (value, unit) = match nanos {
        n if n < 1e3 => (n, "ns"),
        n if n < 1e6 => (n / 1e3, "µs"),
        n if n < 1e9 => (n / 1e6, "ms"),
        n => (n / 1e9, "s"),
    };
    match value {
        v if v < 10.0 && unit != "ns" => format!("{v:.2} {unit}"),
        v if v < 100.0 && unit != "ns" => format!("{v:.1} {unit}"),
        v => format!("{v:.0} {unit}"),
    }
}

/// Columns as wide as their widest cell, numbers to the right; the last `texts` columns to the left.
fn table<const N: usize>(f: &mut Formatter<'_>, rows: &[[String; N]], texts: usize) -> fmt::Result {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max();
    let widths: [usize; N] = std::array::from_fn(|column| width(column).unwrap_or(0));
    for row in rows {
        for (column, (cell, width)) in row.iter().zip(widths).enumerate() {
            let gap = if column == 0 { "" } else { "  " };
            let last = column + 1 == N;
            match column == 0 || column >= N - texts {
                true if last => write!(f, "{gap}{cell}")?,
                true => write!(f, "{gap}{cell:width$}")?,
                false => write!(f, "{gap}{cell:>width$}")?,
            }
        }
        f.write_str("\n")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_three_digits_and_a_unit() {
        let nanos = [0, 999, 1_500, 15_000, 150_000, 1_500_000, 12_345_678_900];
        let texts = nanos.map(|nanos| time(Duration::from_nanos(nanos)));
        assert_eq!(texts, ["0 ns", "999 ns", "1.50 µs", "15.0 µs", "150 µs", "1.50 ms", "12.3 s"]);
    }
}
