//! What it costs to be watched: the same calls with and without a progress and insights.

use parpool::{Pool, Progress};

use crate::Bench;
use crate::race::{Pace, Race, Shown, Table};

pub fn table(bench: &Bench) -> Table {
    let mut table = Table::new("watched calls, compared with unwatched ones", Shown::Ratio);
    let workers = bench.peers.parpool.processes();
    let recorded = Pool::builder().processes(workers).insights(true).build().unwrap();
    let (pool, recorded) = (&bench.peers.parpool, &recorded);
    let (progress, told) = (&Progress::default(), &Progress::new(|_, _| ()));
    let xs: Vec<f64> = (0..1_000_000).map(f64::from).collect();
    let (square, sqrt_sin) = (|x: &f64| x * x, |x: &f64| x.sqrt() * x.sin());
    let probe = |results: &[f64]| results.iter().step_by(997).sum::<f64>();
    let map = |name: &str, f: fn(&f64) -> f64| {
        let xs = &xs;
        Race::new(name.to_owned(), probe(&xs.iter().map(f).collect::<Vec<_>>()))
            .contender("unwatched", move || probe(&pool.map(f, xs).unwrap()))
            .contender("progress", move || probe(&pool.progress(progress).map(f, xs).unwrap()))
            .contender("told", move || probe(&pool.progress(told).map(f, xs).unwrap()))
            .contender("insights", move || probe(&recorded.map(f, xs).unwrap()))
            .pace(Pace::InARow(5))
            .target("progress", 1.02)
    };
    table.rows.push(map("map, 1e6 × `x·x`", square).run(bench.rounds));
    table.rows.push(map("map, 1e6 × `sqrt·sin`", sqrt_sin).run(bench.rounds));
    let count = |pool: &Pool, progress: Option<&Progress>| match progress {
        Some(progress) => pool.progress(progress).imap(|x: u32| x, 0..1_000_000).count(),
        None => pool.imap(|x: u32| x, 0..1_000_000).count(),
    };
    let stream = Race::new("imap, 1e6 × nothing".to_owned(), 1_000_000)
        .contender("unwatched", move || count(pool, None))
        .contender("progress", move || count(pool, Some(progress)))
        .contender("told", move || count(pool, Some(told)))
        .contender("insights", move || count(recorded, None))
        .pace(Pace::InARow(2));
    table.rows.push(stream.run(bench.rounds));
    table
}
