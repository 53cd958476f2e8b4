//! A race: contenders take turns at one workload, and each is compared with the first, round by round.

use std::fmt::Write;
use std::hint::black_box;
use std::ops::Range;
use std::time::{Duration, Instant};

use crate::work::shuffle;

/// How long it takes until idle workers are surely asleep; passes between any two contenders.
const SETTLE: Duration = Duration::from_millis(1);

/// How a contender is timed.
#[derive(Clone, Copy)]
pub enum Pace {
    /// So many calls in a row, as one time.
    InARow(u32),
    /// So many calls, each after a sleep that is not counted, so that all workers sleep too.
    Asleep(u32),
}

impl Pace {
    /// The time of one call.
    fn time<R>(self, call: &mut impl FnMut() -> R) -> Duration {
        match self {
            Pace::InARow(calls) => in_a_row(calls, call) / calls,
            Pace::Asleep(calls) => {
                let one = |_| {
                    std::thread::sleep(SETTLE);
                    in_a_row(1, call)
                };
                (0..calls).map(one).sum::<Duration>() / calls
            }
        }
    }
}

/// All calls together, without the time to drop the last result.
fn in_a_row<R>(calls: u32, call: &mut impl FnMut() -> R) -> Duration {
    let start = Instant::now();
    for _ in 1..calls {
        black_box(call());
    }
    let last = call();
    let time = start.elapsed();
    black_box(last);
    time
}

/// What a contender is asked to do.
enum Turn<'e, R> {
    /// One call, whose result must be this.
    Check(&'e R),
    Race(Pace),
}

type Run<'a, R> = Box<dyn FnMut(Turn<'_, R>) -> Duration + 'a>;

/// One workload and its contenders, the first of which is the reference.
pub struct Race<'a, R> {
    name: String,
    expected: R,
    pace: Pace,
    cores: f64,
    items: f64,
    contenders: Vec<(&'static str, Run<'a, R>)>,
    targets: Vec<(Range<f64>, Target)>,
}

struct Target {
    contender: &'static str,
    at_most: f64,
}

impl<'a, R: PartialEq> Race<'a, R> {
    /// All contenders must return `expected`.
    pub fn new(name: impl Into<String>, expected: R) -> Self {
        Race {
            name: name.into(),
            expected,
            pace: Pace::InARow(1),
            cores: 1.0,
            items: 1.0,
            contenders: Vec::new(),
            targets: Vec::new(),
        }
    }

    pub fn pace(mut self, pace: Pace) -> Self {
        self.pace = pace;
        self
    }

    /// The first contender is a loop; the reference is its time divided by the cores.
    pub fn ideal(mut self, cores: usize) -> Self {
        self.cores = cores as f64;
        self
    }

    /// Times are shown for one of so many items.
    pub fn per_item(mut self, items: u32) -> Self {
        self.items = f64::from(items);
        self
    }

    pub fn contender(mut self, name: &'static str, mut call: impl FnMut() -> R + 'a) -> Self {
        let run = move |turn: Turn<'_, R>| match turn {
            Turn::Check(expected) => {
                assert!(call() == *expected, "{name}: a wrong result");
                Duration::ZERO
            }
            Turn::Race(pace) => pace.time(&mut call),
        };
        self.contenders.push((name, Box::new(run)));
        self
    }

    /// A contender that measures itself, and checks itself.
    pub fn measured(mut self, name: &'static str, mut time: impl FnMut() -> Duration + 'a) -> Self {
        self.contenders.push((name, Box::new(move |_| time())));
        self
    }

    /// `at_most` is of the unit that the table shows: × the reference, or seconds.
    pub fn target(self, contender: &'static str, at_most: f64) -> Self {
        self.target_if(0.0..f64::INFINITY, contender, at_most)
    }

    /// A target that holds if the reference takes so many seconds.
    pub fn target_if(mut self, seconds: Range<f64>, contender: &'static str, at_most: f64) -> Self {
        self.targets.push((seconds, Target { contender, at_most }));
        self
    }

    pub fn run(mut self, rounds: usize) -> Row {
        eprintln!("  {}", self.name);
        for (_, run) in &mut self.contenders {
            run(Turn::Check(&self.expected));
        }
        let count = self.contenders.len();
        let mut times: Vec<_> = self.contenders.iter().map(|(name, _)| (*name, vec![])).collect();
        for round in 0..rounds {
            // Who comes after a loop that kept one core busy is worse off: so not always the same.
            let mut order: Vec<usize> = (0..count).collect();
            shuffle(&mut order, round);
            for who in order {
                std::thread::sleep(SETTLE);
                let time = (self.contenders[who].1)(Turn::Race(self.pace));
                let cores = if who == 0 { self.cores } else { 1.0 };
                times[who].1.push(time.as_secs_f64() / cores / self.items);
            }
        }
        let reference = Spread::of(times[0].1.clone()).median;
        self.targets.retain(|(seconds, _)| seconds.contains(&reference));
        let targets = self.targets.into_iter().map(|(_, target)| target).collect();
        Row { name: self.name, times, targets }
    }
}

/// What a race has measured.
pub struct Row {
    name: String,
    /// The seconds of each contender, round by round; the reference comes first.
    times: Vec<(&'static str, Vec<f64>)>,
    targets: Vec<Target>,
}

impl Row {
    fn times(&self, contender: &str) -> Option<&[f64]> {
        let (_, times) = self.times.iter().find(|(name, _)| *name == contender)?;
        Some(times)
    }

    fn reference(&self) -> (&'static str, &[f64]) {
        let (name, times) = &self.times[0];
        (name, times)
    }
}

/// The quartiles of some numbers.
#[derive(Clone, Copy)]
struct Spread {
    low: f64,
    median: f64,
    high: f64,
}

impl Spread {
    fn of(mut numbers: Vec<f64>) -> Self {
        numbers.sort_by(f64::total_cmp);
        let last = (numbers.len() - 1) as f64;
        let at = |share: f64| {
            let place = last * share;
            let (below, above) = (numbers[place.floor() as usize], numbers[place.ceil() as usize]);
            below + (above - below) * place.fract()
        };
        Spread { low: at(0.25), median: at(0.5), high: at(0.75) }
    }

    fn show(&self, show: fn(f64) -> String) -> String {
        format!("{} ({}–{})", show(self.median), show(self.low), show(self.high))
    }
}

/// What the cells of a table are.
#[derive(Clone, Copy, PartialEq)]
pub enum Shown {
    /// × the reference of the same round; the reference has a column of times.
    Ratio,
    /// Times of all.
    Time,
}

/// The races of one kind.
pub struct Table {
    title: &'static str,
    shown: Shown,
    pub rows: Vec<Row>,
}

impl Table {
    pub fn new(title: &'static str, shown: Shown) -> Self {
        eprintln!("{title}");
        Table { title, shown, rows: Vec::new() }
    }

    /// The contenders of all rows, but not the reference if it is the measure.
    fn contenders(&self) -> Vec<&'static str> {
        let skipped = usize::from(self.shown == Shown::Ratio);
        let mut names = Vec::new();
        for (name, _) in self.rows.iter().flat_map(|row| &row.times[skipped..]) {
            if !names.contains(name) {
                names.push(*name);
            }
        }
        names
    }

    fn cell(&self, row: &Row, contender: &str) -> Option<Spread> {
        let times = row.times(contender)?;
        Some(Spread::of(match self.shown {
            Shown::Ratio => times.iter().zip(row.reference().1).map(|(x, base)| x / base).collect(),
            Shown::Time => times.to_vec(),
        }))
    }

    /// For each row its name, and the median of each contender.
    pub fn medians(&self) -> Vec<(&str, Vec<(&'static str, f64)>)> {
        let names = self.contenders();
        let bars = |row| {
            let bar = |name: &&'static str| Some((*name, self.cell(row, name)?.median));
            names.iter().filter_map(bar).collect()
        };
        self.rows.iter().map(|row| (row.name.as_str(), bars(row))).collect()
    }

    fn show(&self) -> fn(f64) -> String {
        match self.shown {
            Shown::Ratio => ratio,
            Shown::Time => time,
        }
    }

    /// As Markdown; what missed its target is added to `missed`.
    pub fn print(&self, missed: &mut Vec<String>) {
        let names = self.contenders();
        let mut head = String::from("| workload |");
        if self.shown == Shown::Ratio {
            write!(head, " {} |", self.rows[0].reference().0).unwrap();
        }
        for name in &names {
            write!(head, " {name} |").unwrap();
        }
        println!("\n### {}\n\n{head} target |", self.title);
        println!("{}|", "|---".repeat(head.matches('|').count()));
        for row in &self.rows {
            let mut line = format!("| {} |", row.name);
            if self.shown == Shown::Ratio {
                let reference = Spread::of(row.reference().1.to_vec());
                write!(line, " {} |", time(reference.median)).unwrap();
            }
            for name in &names {
                let cell = self.cell(row, name).map_or("–".into(), |cell| cell.show(self.show()));
                write!(line, " {cell} |").unwrap();
            }
            println!("{line} {} |", self.verdicts(row, missed));
        }
    }

    fn verdicts(&self, row: &Row, missed: &mut Vec<String>) -> String {
        let verdict = |target: &Target| {
            let Target { contender, at_most } = *target;
            let (cell, show) = (self.cell(row, contender).expect("it is a contender"), self.show());
            let limit = format!("{contender} ≤ {}", show(at_most));
            // By more than the run's own spread.
            if cell.low <= at_most {
                return limit;
            }
            missed.push(format!(
                "{}, {}: {}, target {limit}",
                self.title,
                row.name,
                cell.show(show)
            ));
            format!("{limit} **missed**")
        };
        row.targets.iter().map(verdict).collect::<Vec<_>>().join(", ")
    }
}

fn ratio(x: f64) -> String {
    let digits = if x < 0.0995 { 3 } else { 1 + usize::from(x < 9.95) };
    format!("{x:.digits$}")
}

fn time(seconds: f64) -> String {
    let (number, unit) = match seconds {
        s if s < 1e-6 => (s * 1e9, "ns"),
        s if s < 1e-3 => (s * 1e6, "µs"),
        s => (s * 1e3, "ms"),
    };
    let digits = if number < 9.95 { 2 } else { usize::from(number < 99.5) };
    format!("{number:.digits$} {unit}")
}
