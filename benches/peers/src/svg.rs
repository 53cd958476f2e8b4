//! Plots of a run's own numbers: grouped bars, as SVG that needs nothing else.

use std::fmt::Write;
use std::path::Path;

use crate::race::Table;

const COLOURS: [&str; 7] =
    ["#0b6e99", "#e08e2b", "#5c940d", "#9c36b5", "#868e96", "#c92a2a", "#3b3f44"];
const WIDTH: f64 = 960.0;
const LEFT: f64 = 60.0;
const RIGHT: f64 = WIDTH - 20.0;
/// Of the legend.
const HEAD: f64 = 50.0;
/// Of the highest bar.
const HEIGHT: f64 = 240.0;
/// Of a panel with its title, the names of its groups, and the gap to the next.
const PITCH: f64 = 330.0;

/// Some groups of bars over one axis.
struct Panel<'t> {
    title: &'t str,
    /// Bars show their value in this unit.
    unit: f64,
    log: bool,
    /// A value to compare with.
    line: Option<f64>,
    groups: Vec<(&'t str, Vec<(&'static str, f64)>)>,
}

/// Writes the plot of this group of races, if it has one.
pub fn write(directory: &Path, group: &str, tables: &[Table]) -> std::io::Result<()> {
    let panels = match group {
        "skew" => vec![Panel {
            title: "map over 1e5 items, 40 ms of work: × ideal (less is better)",
            unit: 1.0,
            log: false,
            line: Some(1.0),
            groups: tables[0].medians(),
        }],
        "stream" => vec![
            Panel {
                title: "streams of ~0 ns items: ns an item (log scale, less is better)",
                unit: 1e-9,
                log: true,
                line: None,
                groups: tables[0].medians(),
            },
            Panel {
                title: "streams of dearer items: × ideal (log scale, less is better)",
                unit: 1.0,
                log: true,
                line: Some(1.0),
                groups: tables[1].medians(),
            },
        ],
        _ => return Ok(()),
    };
    std::fs::create_dir_all(directory)?;
    std::fs::write(directory.join(group).with_extension("svg"), plot(&panels))
}

fn plot(panels: &[Panel<'_>]) -> String {
    let mut names = Vec::new();
    for (name, _) in panels.iter().flat_map(|panel| &panel.groups).flat_map(|(_, bars)| bars) {
        if !names.contains(name) {
            names.push(*name);
        }
    }
    let height = HEAD + PITCH * panels.len() as f64;
    let mut svg = format!(
        r##"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" font-family="Helvetica, Arial, sans-serif" font-size="14" fill="#212529">
<rect width="{WIDTH}" height="{height}" rx="8" fill="#ffffff"/>
"##
    );
    let step = (RIGHT - LEFT) / names.len() as f64;
    for (i, name) in names.iter().enumerate() {
        let x = LEFT + step * i as f64;
        let colour = COLOURS[i % COLOURS.len()];
        _ = writeln!(svg, r#"<rect x="{x:.1}" y="18" width="12" height="12" fill="{colour}"/>"#);
        _ = writeln!(svg, r#"<text x="{:.1}" y="28.5" font-size="12">{name}</text>"#, x + 17.0);
    }
    for (i, panel) in panels.iter().enumerate() {
        // Writing into a string cannot fail.
        _ = panel.draw(&mut svg, HEAD + PITCH * i as f64, &names);
    }
    svg + "</svg>\n"
}

impl Panel<'_> {
    fn draw(&self, svg: &mut String, top: f64, names: &[&str]) -> std::fmt::Result {
        let bottom = top + 30.0 + HEIGHT;
        let y = |x| bottom - HEIGHT * self.share(x);
        let title = self.title;
        writeln!(
            svg,
            r#"<text x="{LEFT}" y="{:.1}" font-weight="bold">{title}</text>"#,
            top + 14.0
        )?;
        for tick in self.ticks() {
            let (y, end) = (y(tick), LEFT - 8.0);
            writeln!(svg, r##"<path d="M{LEFT} {y:.1}H{RIGHT}" stroke="#dee2e6"/>"##)?;
            writeln!(svg, r#"<text x="{end}" y="{:.1}" text-anchor="end">{tick}</text>"#, y + 5.0)?;
        }
        let pitch = (RIGHT - LEFT) / self.groups.len() as f64;
        for (i, (name, bars)) in self.groups.iter().enumerate() {
            let start = LEFT + pitch * i as f64;
            let width = (pitch - 14.0) / bars.len() as f64;
            for (k, (contender, value)) in bars.iter().enumerate() {
                let x = start + 7.0 + width * k as f64;
                let colour = names.iter().position(|name| name == contender).unwrap_or(0);
                let (value, colour) = (value / self.unit, COLOURS[colour % COLOURS.len()]);
                let (y, width) = (y(value), width - 1.0);
                writeln!(
                    svg,
                    r#"<rect x="{x:.1}" y="{y:.1}" width="{width:.1}" height="{:.1}" fill="{colour}"><title>{contender}: {value:.2}</title></rect>"#,
                    bottom - y,
                )?;
                let digits = if value < 9.95 { 2 } else { 0 };
                // No wider than the bar.
                let size = (width * 0.5).clamp(7.5, 12.0);
                writeln!(
                    svg,
                    r#"<text x="{:.1}" y="{:.1}" font-size="{size:.1}" text-anchor="middle">{value:.digits$}</text>"#,
                    x + width / 2.0,
                    y - 3.0,
                )?;
            }
            let (middle, below) = (start + pitch / 2.0, bottom + 20.0);
            writeln!(
                svg,
                r#"<text x="{middle:.1}" y="{below:.1}" text-anchor="middle">{name}</text>"#
            )?;
        }
        if let Some(line) = self.line {
            let y = y(line);
            writeln!(
                svg,
                r##"<path d="M{LEFT} {y:.1}H{RIGHT}" stroke="#212529" stroke-dasharray="6 4"/>"##
            )?;
        }
        Ok(())
    }

    /// How high a value is, of 1.
    fn share(&self, x: f64) -> f64 {
        let (low, high) = self.range();
        if self.log { (x / low).ln() / (high / low).ln() } else { x / high }
    }

    /// What the axis covers.
    fn range(&self) -> (f64, f64) {
        let values = self.groups.iter().flat_map(|(_, bars)| bars).map(|(_, x)| x / self.unit);
        let values: Vec<f64> = values.chain(self.line).collect();
        let least = values.iter().copied().fold(f64::INFINITY, f64::min);
        let most = values.iter().copied().fold(0.0, f64::max);
        if self.log { (least / 2.0, most * 1.5) } else { (0.0, most * 1.1) }
    }

    fn ticks(&self) -> Vec<f64> {
        let (low, high) = self.range();
        let ticks = |step: f64| move |tick: u32| step * f64::from(tick);
        if self.log {
            let decades =
                (-3..9).flat_map(|ten| [1.0, 2.0, 5.0].map(|x: f64| x * 10_f64.powi(ten)));
            decades.filter(|tick| (low..high).contains(tick)).collect()
        } else {
            let step = if high > 4.0 { 1.0 } else { 0.5 };
            (0..).map(ticks(step)).take_while(|tick| *tick < high).collect()
        }
    }
}
