//! A model of the crate's schedulers and of others, for 2 to 256 workers: where each stops scaling.
//!
//! `cargo run --release -p parpool-model -- [map|iter|queue|stream|check|all]` prints Markdown tables
//! of `time / ideal`. `check` measures some prices and the crate itself on this machine.

mod check;
mod crew;
mod design;
mod flat;
mod load;
mod map;
mod measure;
mod price;
mod pulled;
mod queue;
mod ranges;
mod rayon;
mod sim;
mod stream;
mod table;

use std::process::ExitCode;

use crate::crew::Calls;
use crate::flat::Deal;
use crate::load::{Load, skews};
use crate::price::{MS, US};
use crate::sim::Ns;
use crate::table::{Outcome, WORKERS, print, print_end};

const ITEMS: usize = 100_000;
const TOTALS: [Ns; 2] = [40 * MS, 1000 * MS];

fn main() -> ExitCode {
    let parts: [(&str, fn()); 5] = [
        ("map", maps),
        ("iter", iterators),
        ("queue", queues),
        ("stream", streams),
        ("check", check::check),
    ];
    let asked = std::env::args().nth(1).unwrap_or_else(|| "all".to_owned());
    let chosen: Vec<_> =
        parts.into_iter().filter(|(name, _)| asked == "all" || asked == *name).collect();
    for (name, part) in &chosen {
        println!("\n## {name}");
        part();
    }
    if chosen.is_empty() {
        eprintln!("usage: parpool-model [map|iter|queue|stream|check|all]");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

/// A table, and where its design stops scaling.
fn print_all(title: &str, rows: impl IntoIterator<Item = (String, Vec<Outcome>)>) {
    let rows: Vec<_> = rows.into_iter().collect();
    print(title, &rows);
    print_end(&rows);
}

/// One table: a row for each of `loads`.
fn by_load(title: &str, loads: &[Load], run: impl Fn(&Load, usize) -> Outcome) {
    let row = |load: &Load| (load.name.to_owned(), WORKERS.map(|n| run(load, n)).into());
    print_all(title, loads.iter().map(row));
}

fn maps() {
    for total in TOTALS {
        let loads = skews(ITEMS, total);
        let title = |name: &str| format!("{name}; {ITEMS} items, {} ms of work", total / MS);
        let designs = [
            ("parpool, first commit", design::first()),
            ("parpool, as it is", design::current()),
            ("parpool, mended", design::mended()),
        ];
        for (name, design) in designs {
            by_load(&title(name), &loads, |load, n| ranges::run(load, design, n, n));
        }
        by_load(&title("rayon"), &loads, rayon::run);
        for (name, deal) in [
            ("static", Deal::Static),
            ("Python's chunks", Deal::Python),
            ("shared counter, blocks of 1", Deal::Counter(1)),
            ("shared counter, blocks of 64", Deal::Counter(64)),
        ] {
            by_load(&title(name), &loads, |load, n| flat::run(load, deal, n));
        }
    }
    for total in [2 * MS, 40 * MS] {
        for load in skews(ITEMS, total) {
            let row = |(name, design): (&str, _)| {
                let run = |n| ranges::run(&load, design, n, n);
                (name.to_owned(), WORKERS.map(run).into())
            };
            let title = format!("{}: change by change; {} ms of work", load.name, total / MS);
            print(&title, &design::changes().into_iter().map(row).collect::<Vec<_>>());
        }
    }
}

fn iterators() {
    let engine = design::mended().engine;
    let is = pulled::Design { engine: design::current().engine, ..pulled::Design::default() };
    let mended = pulled::Design { engine, ..is };
    let patient = pulled::Design { patience: 30 * US, ..mended };
    let larger = pulled::Design { slices: 5, ..patient };
    for total in TOTALS {
        let loads = skews(ITEMS, total);
        for next in [5, 20, 100] {
            for (name, design) in [("as it is", is), ("mended engine", mended)] {
                let title = format!("{name}; `next` takes {next} ns, {} ms of work", total / MS);
                by_load(&title, &loads, |load, n| pulled::run(load, next, design, n, n));
            }
        }
        let designs = [
            ("as it is", is),
            ("mended engine", mended),
            ("+ waits 30 µs for the iterator", patient),
            ("+ blocks of 100 µs", larger),
        ];
        for next in [5, 100] {
            let row = |(name, design): (&str, _)| {
                let run = |n| pulled::run(&loads[0], next, design, n, n);
                (name.to_owned(), WORKERS.map(run).into())
            };
            let title =
                format!("uniform: change by change; `next` takes {next} ns, {} ms", total / MS);
            print(&title, &designs.map(row));
        }
    }
}

fn queues() {
    let base = crew::Design::default();
    let one = crew::Design { calls: Calls::One, ..base };
    let doubling = crew::Design { calls: Calls::Doubling, ..base };
    let designs = [
        ("first commit", crew::Design { wakes_in_lock: true, ..base }),
        ("as it is", base),
        ("+ at most one call on its way", one),
        ("+ calls on their way bounded by those awake", doubling),
        ("+ tasks taken 16 at a time", crew::Design { batch: 16, ..doubling }),
        ("+ what tasks submit in deques", crew::Design { batch: 16, deques: true, ..doubling }),
    ];
    for (from, who) in [(queue::From::Outside, "one thread"), (queue::From::Tasks, "the tasks")] {
        for (name, design) in designs {
            let row = |cost| {
                let run = |n| queue::run(50_000, cost, from, design, n, n);
                (format!("{} µs", cost as f64 / US as f64), WORKERS.map(run).into())
            };
            print_all(
                &format!("submitted by {who}; {name}"),
                [100, US, 10 * US, 100 * US].map(row),
            );
        }
    }
}

fn streams() {
    let base = stream::Design::default();
    let locked = price::LOCKED;
    let first = stream::Design {
        crew: design::first().engine.crew,
        hand: locked,
        post: locked,
        wide: false,
        ..base
    };
    let crew = crew::Design { calls: Calls::Doubling, ..base.crew };
    let designs = [
        ("first commit", first),
        ("as it is", base),
        ("+ calls on their way bounded by those awake", stream::Design { crew, ..base }),
        ("+ chunks at 0.3 µs", stream::Design { crew, chunk: 300, ..base }),
    ];
    for (name, design) in designs {
        let row = |(cost, items): (Ns, usize)| {
            let run = |n| stream::run(items, cost, design, n, n);
            (format!("{} µs", cost as f64 / US as f64), WORKERS.map(run).into())
        };
        let items = [(100, 2_000_000), (US, 1_000_000), (10 * US, 200_000), (100 * US, 40_000)];
        print_all(name, items.map(row));
    }
}
