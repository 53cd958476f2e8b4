//! `map`: uniform work, large and small, over slices and iterators, in chunks, and its end.

use std::hint::black_box;
use std::time::{Duration, Instant};

use parpool::{Error, Pool};

use crate::Bench;
use crate::peers::{Output, Peers};
use crate::race::{Pace, Race, Shown, Table};
use crate::work::spin;

const MS: f64 = 1e-3;

pub fn tables(bench: &Bench) -> Vec<Table> {
    let tables = [slices, small, chunks, into, sums, iterators, naps, terminate];
    tables.map(|table| table(bench)).into()
}

fn numbers(len: u32) -> Vec<f64> {
    (0..len).map(f64::from).collect()
}

fn square(x: &f64) -> f64 {
    x * x
}

fn sqrt_sin(x: &f64) -> f64 {
    x.sqrt() * x.sin()
}

/// The contenders that map over a slice, rayon first.
fn slice_race<'a, T: Sync, R: Output + 'a>(
    peers: &'a Peers,
    name: String,
    xs: &'a [T],
    f: impl Fn(&T) -> R + Copy + Send + Sync + 'a,
) -> Race<'a, Vec<R>> {
    Race::new(name, xs.iter().map(f).collect())
        .contender("rayon", move || peers.rayon_map(f, xs))
        .contender("parpool", move || peers.parpool.map(f, xs).unwrap())
        .contender("parpool, pinned", move || peers.pinned.map(f, xs).unwrap())
        .contender("thread::scope", move || peers.scoped_map(f, xs))
        .contender("orx-parallel", move || peers.orx_map(f, xs))
        .contender("paralight", move || peers.paralight_map(f, xs))
}

/// The targets go by how long the reference takes.
fn slices(bench: &Bench) -> Table {
    let mut table = Table::new("map on a slice, workers asleep", Shown::Ratio);
    let peers = &bench.peers;
    for (len, calls) in [(10_000, 20), (100_000, 10), (1_000_000, 3), (10_000_000, 1)] {
        let xs = numbers(len);
        let items = format!("1e{}", len.ilog10());
        let races = [
            slice_race(peers, format!("{items} × `x·x`"), &xs, square),
            slice_race(peers, format!("{items} × `sqrt·sin`"), &xs, sqrt_sin),
        ];
        for race in races {
            let race = race
                .pace(Pace::Asleep(calls))
                .target_if(0.05 * MS..2.0 * MS, "parpool", 0.85)
                .target_if(0.05 * MS..2.0 * MS, "parpool, pinned", 0.65)
                .target_if(5.0 * MS..f64::INFINITY, "parpool", 1.02);
            table.rows.push(race.run(bench.rounds));
        }
    }
    let xs = vec![bench.clock.steps(Duration::from_micros(10)); 10_000];
    let race = slice_race(peers, "1e4 × 10 µs".into(), &xs, |steps| spin(*steps));
    table.rows.push(race.target("parpool", 1.02).run(bench.rounds));
    table
}

fn small(bench: &Bench) -> Table {
    let mut table = Table::new("small maps in a loop", Shown::Ratio);
    for len in [100, 1000] {
        let xs = numbers(len);
        let race = slice_race(&bench.peers, format!("{len} × `x·x`"), &xs, square)
            .pace(Pace::InARow(500))
            .target("parpool", 0.5);
        table.rows.push(race.run(bench.rounds));
    }
    table
}

fn chunks(bench: &Bench) -> Table {
    let mut table = Table::new("map with a set chunk size", Shown::Ratio);
    let (peers, xs) = (&bench.peers, numbers(1_000_000));
    let race = Race::new("1e6 × `sqrt·sin`, chunks of 1000", xs.iter().map(sqrt_sin).collect())
        .contender("rayon par_chunks", || peers.chunked_map(sqrt_sin, &xs, 1000))
        .contender("parpool", || peers.parpool.chunksize(1000).map(sqrt_sin, &xs).unwrap())
        .target("parpool", 1.05);
    table.rows.push(race.run(bench.rounds));
    table
}

fn into(bench: &Bench) -> Table {
    let mut table = Table::new("map_into a used Vec, compared with map", Shown::Ratio);
    let xs = numbers(10_000_000);
    let pool = &bench.peers.parpool;
    let mut used = Vec::new();
    // What is checked is the sum of a few results: most of the time would go into more.
    let probe = |results: &[f64]| results.iter().step_by(99_991).sum::<f64>();
    let race = Race::new("1e7 × `x·x`", probe(&xs.iter().map(square).collect::<Vec<_>>()))
        .contender("map", || probe(&pool.map(square, &xs).unwrap()))
        .contender("map_into", || {
            pool.map_into(square, &xs, &mut used).unwrap();
            probe(&used)
        })
        .target("map_into", 1.0);
    table.rows.push(race.run(bench.rounds));
    table
}

/// What is checked is whether a sum is right but for its last digits, which differ from run to run with
/// rayon.
fn sum_race<'a>(
    peers: &'a Peers,
    name: String,
    xs: &'a [f64],
    f: impl Fn(&f64) -> f64 + Copy + Send + Sync + 'a,
) -> Race<'a, bool> {
    let sum = xs.iter().map(f).sum::<f64>();
    let scale = xs.iter().map(|x| f(x).abs()).sum::<f64>();
    let is_right = move |other: f64| (other - sum).abs() < 1e-9 * scale;
    Race::new(name, true)
        .contender("rayon", move || is_right(peers.rayon_sum(f, xs)))
        .contender("parpool", move || is_right(peers.parpool.sum(f, xs).unwrap()))
        .target("parpool", 1.05)
}

fn sums(bench: &Bench) -> Table {
    let mut table = Table::new("sum of a slice", Shown::Ratio);
    for (len, calls) in [(10_000, 200), (100_000, 50), (1_000_000, 5), (10_000_000, 1)] {
        let xs = numbers(len);
        let items = format!("1e{}", len.ilog10());
        let races = [
            sum_race(&bench.peers, format!("{items} × `x·x`"), &xs, square),
            sum_race(&bench.peers, format!("{items} × `sqrt·sin`"), &xs, sqrt_sin),
        ];
        for race in races {
            table.rows.push(race.pace(Pace::InARow(calls)).run(bench.rounds));
        }
    }
    table
}

/// An iterator that does not know its length.
fn unmeasured<T: Sync>(xs: &[T]) -> impl Iterator<Item = &T> + Send {
    let mut xs = xs.iter();
    std::iter::from_fn(move || xs.next())
}

fn iterators(bench: &Bench) -> Table {
    let title = "map over an iterator, compared with the same on a slice";
    let mut table = Table::new(title, Shown::Ratio);
    let peers = &bench.peers;
    let (pool, f) = (&peers.parpool, |steps: &u32| spin(*steps));
    for (cost, len) in [(10, 1_000_000), (100, 100_000), (1000, 20_000)] {
        let xs = vec![bench.clock.steps(Duration::from_nanos(cost)); len];
        let race = |length| {
            let name = format!("{len} × {cost} ns, {length} length");
            Race::new(name, xs.iter().map(f).collect::<Vec<_>>())
                .contender("parpool on a slice", || pool.map(f, &xs).unwrap())
                .target("parpool", 1.1)
        };
        let known = race("known")
            .contender("parpool", || pool.map(f, xs.iter()).unwrap())
            .contender("rayon, collected first", || collected(peers, xs.iter()))
            .contender("orx-parallel", || orx_iterator(peers, xs.iter()));
        table.rows.push(known.run(bench.rounds));
        let unknown = race("unknown")
            .contender("parpool", || pool.map(f, unmeasured(&xs)).unwrap())
            .contender("rayon, collected first", || collected(peers, unmeasured(&xs)))
            .contender("orx-parallel", || orx_iterator(peers, unmeasured(&xs)));
        table.rows.push(unknown.run(bench.rounds));
    }
    table
}

/// What one does with rayon if the results are to be in order.
fn collected<'x>(peers: &Peers, items: impl Iterator<Item = &'x u32>) -> Vec<u64> {
    let items: Vec<&u32> = items.collect();
    peers.rayon_map(|steps| spin(**steps), &items)
}

fn orx_iterator<'x>(peers: &Peers, items: impl Iterator<Item = &'x u32> + Send) -> Vec<u64> {
    use orx_parallel::{IterIntoParIter, Par};
    items.iter_into_par().num_threads(peers.workers).map(|steps| spin(*steps)).collect()
}

/// Ideal is a loop over as many naps as some worker has to take.
fn naps(bench: &Bench) -> Table {
    const WORKERS: usize = 16;
    const NAPS: usize = 200;
    let mut table = Table::new("tasks that sleep, on a pool of 16", Shown::Ratio);
    let nap = |_: &u32| std::thread::sleep(Duration::from_millis(5));
    let xs = vec![0_u32; NAPS];
    let peers = Peers::new(WORKERS);
    let race = Race::new("200 × 5 ms", ())
        .contender("ideal", || xs[..NAPS.div_ceil(WORKERS)].iter().for_each(nap))
        .contender("parpool", || drop(peers.parpool.map(nap, &xs).unwrap()))
        .contender("rayon", || drop(peers.rayon_map(nap, &xs)))
        .contender("Python's chunks", || drop(peers.python_map(nap, &xs)))
        .contender("orx-parallel", || drop(peers.orx_map(nap, &xs)))
        .contender("paralight", || drop(peers.paralight_map(nap, &xs)))
        .target("parpool", 1.0 / 0.97);
    table.rows.push(race.run(bench.rounds));
    table
}

/// From `terminate` until the map has returned.
fn terminate(bench: &Bench) -> Table {
    let mut table = Table::new("terminate on a running map of cheap items", Shown::Time);
    let workers = bench.peers.workers;
    // Results without a size need no memory, so there may be many.
    let slice = vec![(); 1 << 31];
    let race = Race::new("slice", ())
        .measured("parpool", || latency(workers, |pool| pool.map(cheap, &slice)))
        .target("parpool", MS);
    table.rows.push(race.run(bench.rounds));
    let endless = std::iter::repeat(());
    let race = Race::new("iterator", ())
        .measured("parpool", || latency(workers, |pool| pool.map(cheap, endless.clone())))
        .target("parpool", MS);
    table.rows.push(race.run(bench.rounds));
    table
}

/// About a nanosecond.
fn cheap<T>(_: T) {
    black_box(0);
}

fn latency(workers: usize, map: impl Fn(&Pool) -> Result<Vec<()>, Error> + Sync) -> Duration {
    let pool = Pool::new(workers).unwrap();
    std::thread::scope(|s| {
        let mapping = s.spawn(|| {
            let result = map(&pool);
            (Instant::now(), result)
        });
        std::thread::sleep(Duration::from_millis(3));
        let start = Instant::now();
        pool.terminate();
        let (end, result) = mapping.join().unwrap();
        assert!(matches!(result, Err(Error::Terminated)), "the map was over before");
        end - start
    })
}
