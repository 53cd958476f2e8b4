//! Ordered and unordered streams: throughput, and how long a finished result waits for its consumer.

use std::hint::black_box;
use std::time::{Duration, Instant};

use pariter::{IteratorExt, ParallelMap};
use parpool::Pool;
use rayon::prelude::*;

use crate::Bench;
use crate::peers::rayon_pool;
use crate::race::{Race, Shown, Table};
use crate::work::spin;

pub fn tables(bench: &Bench) -> Vec<Table> {
    vec![free(bench), expensive(bench), handover(bench)]
}

/// Each item is its own index and stays it, after some work.
fn work(steps: u32) -> impl Fn(u32) -> u32 + Copy + Send + Sync + 'static {
    move |index| {
        if steps > 0 {
            black_box(spin(steps));
        }
        index
    }
}

/// Takes all results, which must be in order; how many there were.
fn in_order(results: impl Iterator<Item = u32>) -> u32 {
    let mut next = 0;
    for index in results {
        assert_eq!(index, next, "out of order");
        next += 1;
    }
    next
}

/// Takes all results, which must be complete; how many there were.
fn in_any_order(results: impl Iterator<Item = u32>) -> u32 {
    let (count, sum) = results.fold((0, 0), |(count, sum), x| (count + 1, sum + u64::from(x)));
    assert_eq!(sum, (0..u64::from(count)).sum(), "not all results");
    count
}

/// Rayon's way from an iterator into a channel: in any order.
pub fn bridge<I, R>(
    pool: &rayon::ThreadPool,
    items: I,
    f: impl Fn(I::Item) -> R + Send + Sync + 'static,
) -> crossbeam_channel::IntoIter<R>
where
    I: Iterator<Item: Send> + Send + 'static,
    R: Send + 'static,
{
    let (send, receive) = crossbeam_channel::bounded(1024);
    pool.spawn(move || {
        items.par_bridge().for_each_with(send, |send, x| send.send(f(x)).unwrap());
    });
    receive.into_iter()
}

/// With a buffer of its own choice, or a set one.
pub fn pariter<I, R>(
    threads: usize,
    buffer: Option<usize>,
    items: I,
    f: impl Fn(I::Item) -> R + Copy + Send + 'static,
) -> ParallelMap<I, R>
where
    I: Iterator<Item: Send + 'static>,
    R: Send + 'static,
{
    items.parallel_map_custom(
        |settings| match buffer {
            Some(buffer) => settings.threads(threads).buffer_size(buffer),
            None => settings.threads(threads),
        },
        f,
    )
}

/// What one would write by hand with rayon: a block is read, mapped, and handed out.
fn blocks<R: Send>(
    pool: &rayon::ThreadPool,
    mut items: impl Iterator<Item = u32>,
    f: impl Fn(u32) -> R + Sync + Send,
) -> impl Iterator<Item = R> {
    let mut results = Vec::new().into_iter();
    std::iter::from_fn(move || {
        if results.len() == 0 {
            let block: Vec<u32> = items.by_ref().take(1024).collect();
            let block: Vec<R> = pool.install(|| block.into_par_iter().map(&f).collect());
            results = block.into_iter();
        }
        results.next()
    })
}

/// Adds all contenders. Those that are slow get so many `times` fewer items, and are charged for all.
fn contenders<'a>(
    race: Race<'a, u32>,
    bench: &'a Bench,
    items: u32,
    steps: u32,
    times: u32,
) -> Race<'a, u32> {
    let (peers, f) = (&bench.peers, work(steps));
    let (pool, rayon, workers) = (&peers.parpool, &peers.rayon, peers.workers);
    let few = 0..items / times;
    let pariter = {
        let few = few.clone();
        move |buffer| charged(times, || in_order(pariter(workers, buffer, few.clone(), f)))
    };
    race.contender("imap", move || in_order(pool.imap(f, 0..items).map(Result::unwrap)))
        .contender("imap_unordered", move || {
            in_any_order(pool.imap_unordered(f, 0..items).map(Result::unwrap))
        })
        .measured("pariter", {
            let pariter = pariter.clone();
            move || pariter(None)
        })
        .measured("pariter, buffer 1024", move || pariter(Some(1024)))
        .measured("par_bridge, channel", move || {
            charged(times, || in_any_order(bridge(rayon, few.clone(), f)))
        })
        .contender("blocks by hand", move || in_order(blocks(rayon, 0..items, f)))
}

fn charged(times: u32, run: impl FnOnce() -> u32) -> Duration {
    let start = Instant::now();
    black_box(run());
    start.elapsed() * times
}

fn free(bench: &Bench) -> Table {
    const ITEMS: u32 = 1_000_000;
    let mut table = Table::new("streams of ~0 ns items, time of an item", Shown::Time);
    let race = Race::new("1e6 × ~0", ITEMS).per_item(ITEMS);
    let race = contenders(race, bench, ITEMS, 0, 10).target("imap", 10e-9);
    table.rows.push(race.run(bench.rounds));
    table
}

fn expensive(bench: &Bench) -> Table {
    let mut table = Table::new("streams of dearer items", Shown::Ratio);
    for (name, micros, items) in [("2e4 × 1 µs", 1, 20_000), ("4000 × 10 µs", 10, 4_000)] {
        let steps = bench.clock.steps(Duration::from_micros(micros));
        let race = Race::new(name, items)
            .ideal(bench.peers.workers)
            .contender("ideal", move || in_order((0..items).map(work(steps))));
        let race = contenders(race, bench, items, steps, 1).target("imap", 1.06);
        table.rows.push(race.run(bench.rounds));
    }
    table
}

/// The consumer has a core of its own, and does nothing but wait.
fn handover(bench: &Bench) -> Table {
    let mut table = Table::new("from the end of an item until its consumer has it", Shown::Time);
    let workers = (bench.peers.workers - 1).max(1);
    let (pool, rayon) = (Pool::new(workers).unwrap(), rayon_pool(workers));
    let rows = [
        ("the first of tiny items", 0, 100, First),
        ("the first of 1 ms items", 1000, 3, First),
        ("20 µs items, on average", 20, 1000, Average),
        ("1 ms items, on average", 1000, 20, Average),
    ];
    for (name, micros, items, which) in rows {
        let steps = bench.clock.steps(Duration::from_micros(micros));
        let f = move |_| {
            black_box(spin(steps));
            Instant::now()
        };
        let race = Race::new(name, ())
            .measured("imap", || which.delay(pool.imap(f, 0..items).map(Result::unwrap)))
            .measured("pariter", || which.delay(pariter(workers, None, 0..items, f)))
            .measured("par_bridge, channel", || which.delay(bridge(&rayon, 0..items, f)))
            .target("imap", 0.5e-3);
        table.rows.push(race.run(bench.rounds));
    }
    table
}

/// Whose delay it is.
#[derive(Clone, Copy)]
enum Which {
    First,
    Average,
}
use Which::{Average, First};

impl Which {
    /// How long results were ready before they came. In order, one is ready when those before it are.
    fn delay(self, results: impl Iterator<Item = Instant>) -> Duration {
        let mut ready = None;
        let mut delays = results.map(|end| {
            let now = Instant::now();
            ready = ready.max(Some(end));
            ready.map_or(Duration::ZERO, |ready| now.duration_since(ready))
        });
        let first = delays.next().expect("a result");
        let (count, sum) = delays.fold((1, first), |(count, sum), delay| (count + 1, sum + delay));
        match self {
            First => first,
            Average => sum / count,
        }
    }
}
