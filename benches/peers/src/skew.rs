//! `map` over 1e5 items whose costs differ: 40 ms of work, shared out in seven ways.

use std::ops::Range;
use std::time::Duration;

use crate::Bench;
use crate::race::{Race, Shown, Table};
use crate::work::{shuffle, spin};

const LEN: usize = 100_000;
const TOTAL: Duration = Duration::from_millis(40);

pub fn table(bench: &Bench) -> Table {
    let mut table = Table::new("map, skewed work", Shown::Ratio);
    for (name, weights) in skews() {
        let xs = bench.clock.shares(&weights, TOTAL);
        table.rows.push(race(bench, name, &xs).run(bench.rounds));
    }
    table
}

/// Each with the weights of its items.
fn skews() -> [(&'static str, Vec<f64>); 7] {
    let weigh = |weight: &dyn Fn(usize) -> f64| (0..LEN).map(weight).collect::<Vec<_>>();
    let only = |expensive: Range<usize>| weigh(&|i| f64::from(u8::from(expensive.contains(&i))));
    let mut zipf = weigh(&|i| 1.0 / (i + 1) as f64);
    shuffle(&mut zipf, 0);
    [
        ("uniform", weigh(&|_| 1.0)),
        ("zipf, shuffled", zipf),
        ("ramp", weigh(&|i| i as f64)),
        ("last 1 %", only(LEN - LEN / 100..LEN)),
        ("first 8", only(0..8)),
        ("middle 8", only(LEN / 2..LEN / 2 + 8)),
        ("last 8", only(LEN - 8..LEN)),
    ]
}

fn race<'a>(bench: &'a Bench, name: &str, xs: &'a [u32]) -> Race<'a, Vec<u64>> {
    let peers = &bench.peers;
    let f = |steps: &u32| spin(*steps);
    Race::new(name, xs.iter().map(f).collect())
        .ideal(peers.workers)
        .contender("ideal", move || xs.iter().map(f).collect())
        .contender("parpool", move || peers.parpool.map(f, xs).unwrap())
        .contender("rayon", move || peers.rayon_map(f, xs))
        .contender("Python's chunks", move || peers.python_map(f, xs))
        .contender("orx-parallel", move || peers.orx_map(f, xs))
        .contender("paralight", move || peers.paralight_map(f, xs))
        .contender("thread::scope", move || peers.scoped_map(f, xs))
        .target("parpool", 1.1)
}
