//! Insights as a picture.

use std::fmt::Write;
use std::time::Duration;

use super::report::{items, longest, name, time};
use super::{CallInsights, Insights};

/// How many calls are drawn at the most.
const PANELS: usize = 12;

const WIDTH: f64 = 960.0;
const LEFT: f64 = 84.0;
const RIGHT: f64 = 24.0;
/// A panel's title, and the axis below its lanes.
const HEAD: f64 = 52.0;
const FOOT: f64 = 34.0;
const LANE: f64 = 22.0;

const STYLE: &str = "\
text { font: 12px system-ui, sans-serif; fill: #333; }
.title { font-size: 14px; font-weight: 600; }
.why { fill: #b3400e; }
.axis { fill: #777; font-size: 11px; }
.lane { fill: #f1f2f4; }
.grid { stroke: #d7d9dd; stroke-width: 1; }
.even { fill: #3b76af; }
.odd { fill: #7fb0d8; }
.longest { fill: #e0752d; }
.end { stroke: #333; stroke-width: 1; stroke-dasharray: 3 3; }
";

pub(super) fn draw(insights: &Insights) -> String {
    let calls = &insights.calls[insights.calls.len().saturating_sub(PANELS)..];
    let scale = calls.iter().map(|call| call.duration).max().unwrap_or_default();
    let scale = scale.max(Duration::from_nanos(1));
    let mut body = String::new();
    let mut top = 12.0;
    for call in calls {
        top = panel(&mut body, call, scale, top);
    }
    let mut svg = String::new();
    // None of these can fail: they write to memory.
    let _ = writeln!(
        svg,
        r#"<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{top}" viewBox="0 0 {WIDTH} {top}">"#
    );
    let _ = writeln!(svg, "<style>\n{STYLE}</style>");
    let _ = writeln!(svg, r##"<rect width="100%" height="100%" fill="#fff"/>"##);
    svg.push_str(&body);
    svg.push_str("</svg>\n");
    svg
}

/// One call, with its upper edge at `top`; the lower one is returned.
fn panel(svg: &mut String, call: &CallInsights, scale: Duration, top: f64) -> f64 {
    let x = |at: Duration| LEFT + at.as_secs_f64() / scale.as_secs_f64() * (WIDTH - LEFT - RIGHT);
    let lanes = call.lanes.len() as f64 * LANE;
    let (upper, lower) = (top + HEAD, top + HEAD + lanes);
    heading(svg, call, top);
    for (worker, y) in (0..call.lanes.len()).map(|worker| (worker, upper + worker as f64 * LANE)) {
        let (height, width) = (LANE - 3.0, WIDTH - LEFT - RIGHT);
        let _ = writeln!(svg, r#"<text x="12" y="{}">worker {worker}</text>"#, y + 14.0);
        let _ = writeln!(
            svg,
            r#"<rect class="lane" x="{LEFT}" y="{y}" width="{width}" height="{height}"/>"#
        );
    }
    for at in ticks(scale) {
        let (x, below) = (x(at), lower + 15.0);
        let _ = writeln!(svg, r#"<path class="grid" d="M{x:.1} {upper}V{lower}"/>"#);
        let label = if at.is_zero() { "0".to_owned() } else { round(at) };
        let _ = writeln!(
            svg,
            r#"<text class="axis" x="{x:.1}" y="{below}" text-anchor="middle">{label}</text>"#
        );
    }
    let longest = call.longest_chunk.map(|(first, ..)| first);
    for (worker, lane) in call.lanes.iter().enumerate() {
        for (number, bar) in lane.iter().enumerate() {
            let (from, to) = (x(bar.begun), x(bar.ended));
            let class = match number % 2 {
                _ if longest == Some(bar.first) && bar.chunks == 1 => "longest",
                0 => "even",
                _ => "odd",
            };
            let what = match bar.chunks {
                1 => items(bar.first, bar.items),
                chunks => format!("{chunks} chunks, {} items", bar.items),
            };
            let _ = writeln!(
                svg,
                r#"<rect class="{class}" x="{from:.2}" y="{}" width="{:.2}" height="{}"><title>{what}: {}</title></rect>"#,
                upper + worker as f64 * LANE,
                (to - from).max(0.3),
                LANE - 3.0,
                time(bar.ended - bar.begun),
            );
        }
    }
    let end = x(call.duration);
    let _ = writeln!(svg, r#"<path class="end" d="M{end:.1} {}V{}"/>"#, upper - 4.0, lower + 2.0);
    lower + FOOT
}

fn heading(svg: &mut String, call: &CallInsights, top: f64) {
    let chunks = if call.chunks == 1 { "chunk" } else { "chunks" };
    let _ = writeln!(
        svg,
        r#"<text class="title" x="12" y="{}">{}: {}, {:.2} of {} workers busy</text>"#,
        top + 18.0,
        name(call),
        time(call.duration),
        call.speed_up(),
        call.workers,
    );
    let why = match call.bottleneck() {
        Some(why) => format!(r#"<tspan class="why">{why}</tspan>; "#),
        None => String::new(),
    };
    let _ = writeln!(
        svg,
        r#"<text x="12" y="{}">{why}{} items in {} {chunks} (the longest is orange); longest {}</text>"#,
        top + 38.0,
        call.items,
        call.chunks,
        longest(call),
    );
}

/// Four to nine round places on a scale.
fn ticks(scale: Duration) -> Vec<Duration> {
    let nanos = scale.as_nanos() as u64;
    let mut step = 10_u64.pow((nanos.max(1)).ilog10());
    if nanos / step < 2 {
        step = (step / 5).max(1);
    } else if nanos / step < 5 {
        step = (step / 2).max(1);
    }
    (0..=nanos / step).map(|tick| Duration::from_nanos(tick * step)).collect()
}

/// A round time without the digits behind it.
fn round(at: Duration) -> String {
    let nanos = at.as_nanos() as u64;
    match [(1_000_000_000, "s"), (1_000_000, "ms"), (1_000, "µs")]
        .into_iter()
        .find(|(unit, _)| nanos >= *unit)
    {
        Some((unit, name)) => format!("{} {name}", nanos as f64 / unit as f64),
        None => format!("{nanos} ns"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_axis_has_a_few_round_ticks() {
        for nanos in [1, 7, 99, 100, 101, 1_234, 999_999_999, 3_600_000_000_000] {
            let ticks = ticks(Duration::from_nanos(nanos));
            assert!((2..=11).contains(&ticks.len()), "{nanos}: {ticks:?}");
            assert!(*ticks.last().unwrap() <= Duration::from_nanos(nanos));
        }
        let labels: Vec<_> = ticks(Duration::from_millis(130)).into_iter().map(round).collect();
        assert_eq!(labels, ["0 ns", "20 ms", "40 ms", "60 ms", "80 ms", "100 ms", "120 ms"]);
    }
}
