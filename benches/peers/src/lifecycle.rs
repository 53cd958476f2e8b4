//! Starting a pool, and ending it until its threads are gone.

use std::thread::JoinHandle;

use parpool::Pool;

use crate::Bench;
use crate::race::{Pace, Race, Shown, Table};

pub fn table(bench: &Bench) -> Table {
    let mut table = Table::new("start a pool and join it", Shown::Ratio);
    for (workers, calls) in [(2, 20), (8, 10), (64, 2)] {
        let race = Race::new(format!("{workers} workers"), ())
            .contender("rayon, handles joined", move || rayon(workers))
            .contender("parpool", move || drop(Pool::new(workers).unwrap()))
            // It has no way to wait for its threads.
            .contender("threadpool, not joined", move || {
                drop(threadpool::ThreadPool::new(workers));
            })
            .contender("bare threads", move || {
                join((0..workers).map(|_| std::thread::spawn(|| ())).collect());
            })
            .pace(Pace::InARow(calls))
            .target("parpool", 1.2);
        table.rows.push(race.run(bench.rounds));
    }
    table
}

fn rayon(workers: usize) {
    let mut threads = Vec::new();
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(workers)
        .spawn_handler(|thread| {
            threads.push(std::thread::spawn(|| thread.run()));
            Ok(())
        })
        .build()
        .unwrap();
    drop(pool);
    join(threads);
}

fn join(threads: Vec<JoinHandle<()>>) {
    threads.into_iter().for_each(|thread| thread.join().unwrap());
}
