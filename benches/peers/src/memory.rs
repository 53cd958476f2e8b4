//! What is allocated: by a map, a stream, and tasks with handles.

use std::hint::black_box;
use std::time::{Duration, Instant};

use crate::alloc::{Usage, during};
use crate::peers::Peers;
use crate::stream::{bridge, pariter};

/// A figure for each contender, ours first.
type Figures<const N: usize> = [(&'static str, f64); N];

/// Prints one table; what missed its target is added to `missed`.
pub fn print(peers: &Peers, missed: &mut Vec<String>) {
    eprintln!("memory");
    println!("\n### memory\n\n| what | parpool | peers | target |\n|---|---|---|---|");
    let mut row = |what: &str, figures: &[(&str, f64)], at_most: f64| {
        let own = short(figures[0].1);
        let others = figures[1..].iter().map(|(name, x)| format!("{name} {}", short(*x)));
        let others = others.collect::<Vec<_>>().join(", ");
        let mut limit = format!("≤ {}", short(at_most));
        if figures[0].1 > at_most {
            missed.push(format!("memory, {what}: {own}, target {limit}"));
            limit += " **missed**";
        }
        println!("| {what} | {own} | {others} | {limit} |");
    };
    row("map of 1e7 `f64`, peak × output", &maps(peers), 1.01);
    let few = streams(peers, 100_000);
    let many = streams(peers, 1_000_000);
    row("stream of 1e6, slow consumer, peak bytes", &many, 1e6);
    row("the same × a stream of 1e5", &[("parpool", many[0].1 / few[0].1)], 1.25);
    let (allocations, left) = tasks(peers);
    row("allocations a task with a handle", &allocations, 1.05);
    row("bytes left after 1e6 tasks", &left, 65_536.0);
}

fn maps(peers: &Peers) -> Figures<5> {
    let xs: Vec<f64> = (0..10_000_000).map(f64::from).collect();
    let square = |x: &f64| x * x;
    let peak = |map: &dyn Fn() -> Vec<f64>| during(map).1.peak / size_of_val(&*xs) as f64;
    [
        ("parpool", peak(&|| peers.parpool.map(square, &xs).unwrap())),
        ("rayon", peak(&|| peers.rayon_map(square, &xs))),
        ("thread::scope", peak(&|| peers.scoped_map(square, &xs))),
        ("orx-parallel", peak(&|| peers.orx_map(square, &xs))),
        ("paralight", peak(&|| peers.paralight_map(square, &xs))),
    ]
}

/// The peaks of streams whose consumer takes longer than the work.
fn streams(peers: &Peers, items: u64) -> Figures<3> {
    let f = |x: u64| black_box(x) + 1;
    let peak = |run: &dyn Fn()| during(run).1.peak;
    [
        ("parpool", peak(&|| slowly(peers.parpool.imap(f, 0..items).map(Result::unwrap)))),
        ("pariter, buffer 1024", peak(&|| slowly(pariter(peers.workers, Some(1024), 0..items, f)))),
        ("par_bridge, channel of 1024", peak(&|| slowly(bridge(&peers.rayon, 0..items, f)))),
    ]
}

fn slowly(results: impl Iterator<Item = u64>) {
    for result in results {
        let start = Instant::now();
        while start.elapsed() < Duration::from_nanos(500) {
            black_box(result);
        }
    }
}

/// The allocations of a task, and the bytes that are left of 1e6; after some to warm up.
fn tasks(peers: &Peers) -> (Figures<4>, Figures<4>) {
    const TASKS: u32 = 1_000_000;
    let usage = |run: fn(&Peers, u32, u32) -> u64| {
        run(peers, TASKS / 10, 1000);
        during(|| run(peers, TASKS, 1000)).1
    };
    let usages = [
        ("parpool", usage(Peers::parpool_tasks)),
        ("rayon spawn, mpsc", usage(Peers::rayon_tasks)),
        ("rusty_pool", usage(Peers::rusty_tasks)),
        ("threadpool, mpsc", usage(Peers::threadpool_tasks)),
    ];
    let pick = |figure: fn(Usage) -> f64| usages.map(|(name, usage)| (name, figure(usage)));
    (pick(|usage| usage.count / f64::from(TASKS)), pick(|usage| usage.live))
}

/// Bytes are whole, ratios are not.
fn short(x: f64) -> String {
    let digits = if x.fract() == 0.0 || x >= 1000.0 { 0 } else { 3 };
    format!("{x:.digits$}")
}
