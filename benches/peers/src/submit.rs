//! Tasks with handles, single calls, and rayon code in a pool that is busy.

use std::hint::black_box;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use parpool::Pool;
use rayon::prelude::*;

use crate::Bench;
use crate::peers::{Peers, rayon_pool, rusty_pool};
use crate::race::{Pace, Race, Shown, Table};
use crate::work::spin;

const TASKS: u32 = 200_000;

pub fn tables(bench: &Bench) -> Vec<Table> {
    vec![handles(bench), calls(bench), installed(bench)]
}

/// How each submits `tasks` tasks and gets their results, `window` at a time; the sum of all.
impl Peers {
    pub fn parpool_tasks(&self, tasks: u32, window: u32) -> u64 {
        let submit = |task| self.parpool.apply_async(move || task, ());
        in_windows(tasks, window, submit, |handle| handle.get().unwrap())
    }

    pub fn rayon_tasks(&self, tasks: u32, window: u32) -> u64 {
        let submit = |task| {
            let (send, receive) = mpsc::channel();
            self.rayon.spawn(move || send.send(task).unwrap());
            receive
        };
        in_windows(tasks, window, submit, |handle| handle.recv().unwrap())
    }

    pub fn rusty_tasks(&self, tasks: u32, window: u32) -> u64 {
        let submit = |task| self.rusty.evaluate(move || task);
        in_windows(tasks, window, submit, |handle| handle.await_complete())
    }

    pub fn threadpool_tasks(&self, tasks: u32, window: u32) -> u64 {
        let submit = |task| {
            let (send, receive) = mpsc::channel();
            self.threadpool.execute(move || send.send(task).unwrap());
            receive
        };
        in_windows(tasks, window, submit, |handle| handle.recv().unwrap())
    }
}

fn in_windows<H>(
    tasks: u32,
    window: u32,
    submit: impl Fn(u32) -> H,
    get: impl Fn(H) -> u32,
) -> u64 {
    let mut handles = Vec::with_capacity(window as usize);
    let mut sum = 0;
    for first in (0..tasks).step_by(window as usize) {
        handles.extend((first..tasks.min(first + window)).map(&submit));
        sum += handles.drain(..).map(|handle| u64::from(get(handle))).sum::<u64>();
    }
    sum
}

/// Tasks without results, which is less than the others do: only the last one reports.
fn bare_spawns(pool: &rayon::ThreadPool, window: u32) -> u64 {
    for first in (0..TASKS).step_by(window as usize) {
        let left = Arc::new((AtomicU32::new(window), std::thread::current()));
        for task in first..first + window {
            let left = Arc::clone(&left);
            pool.spawn(move || {
                black_box(task);
                if left.0.fetch_sub(1, Ordering::AcqRel) == 1 {
                    left.1.unpark();
                }
            });
        }
        while left.0.load(Ordering::Acquire) > 0 {
            std::thread::park();
        }
    }
    (0..u64::from(TASKS)).sum()
}

fn handles(bench: &Bench) -> Table {
    let mut table = Table::new("tasks with handles, time of a task; 200 000 in all", Shown::Ratio);
    let peers = &bench.peers;
    for (window, target) in [(1000, 0.55), (TASKS, 0.7)] {
        let race = Race::new(format!("{window} outstanding"), (0..u64::from(TASKS)).sum())
            .per_item(TASKS)
            .contender("rayon spawn, no result", || bare_spawns(&peers.rayon, window))
            .contender("parpool", || peers.parpool_tasks(TASKS, window))
            .contender("rayon spawn, mpsc", || peers.rayon_tasks(TASKS, window))
            .contender("rusty_pool", || peers.rusty_tasks(TASKS, window))
            .contender("threadpool, mpsc", || peers.threadpool_tasks(TASKS, window))
            .target("parpool", target);
        table.rows.push(race.run(bench.rounds));
    }
    table
}

fn calls(bench: &Bench) -> Table {
    let mut table = Table::new("one call and its result", Shown::Ratio);
    let rows = [
        ("one after another", bench.peers.workers, Pace::InARow(2000), 0.1),
        ("workers asleep, pool of 1", 1, Pace::Asleep(30), 1.1),
        ("workers asleep, pool of 2", 2, Pace::Asleep(30), 1.1),
    ];
    for (name, workers, pace, target) in rows {
        let (pool, rayon) = (Pool::new(workers).unwrap(), rayon_pool(workers));
        let (rusty, threadpool) = (rusty_pool(workers), threadpool::ThreadPool::new(workers));
        let race = Race::new(name, 1)
            .contender("rayon install", || rayon.install(|| black_box(1)))
            .contender("parpool", || pool.apply(|| black_box(1), ()).unwrap())
            .contender("rusty_pool", || rusty.evaluate(|| black_box(1)).await_complete())
            .contender("threadpool, mpsc", || {
                let (send, receive) = mpsc::channel();
                threadpool.execute(move || send.send(black_box(1)).unwrap());
                receive.recv().unwrap()
            })
            .pace(pace)
            .target("parpool", target);
        table.rows.push(race.run(bench.rounds));
    }
    table
}

/// How long rayon code takes in `install` when 1e5 tasks of 1 µs were queued just before.
fn installed(bench: &Bench) -> Table {
    const QUEUED: u32 = 100_000;
    let mut table = Table::new("rayon code in `install` while 1e5 tasks are queued", Shown::Ratio);
    let (pool, rayon) = (&bench.peers.parpool, &bench.peers.rayon);
    let task = bench.clock.steps(Duration::from_micros(1));
    let item = bench.clock.steps(Duration::from_micros(10));
    let code =
        move || (0..2000).into_par_iter().map(|_| spin(item)).reduce(|| 0, u64::wrapping_add);
    let race = Race::new("2000 × 10 µs", ())
        .measured("parpool, nothing queued", || timed(|| pool.install(code).unwrap()))
        .measured("parpool", || {
            let submit = |_| pool.apply_async(move || spin(task), ());
            let queued: Vec<_> = (0..QUEUED).map(submit).collect();
            let time = timed(|| pool.install(code).unwrap());
            queued.into_iter().for_each(|handle| drop(black_box(handle.get())));
            time
        })
        .measured("rayon", || {
            let (send, receive) = mpsc::channel();
            for _ in 0..QUEUED {
                let send = send.clone();
                rayon.spawn(move || send.send(spin(task)).unwrap());
            }
            let time = timed(|| rayon.install(code));
            drop(send);
            assert_eq!(receive.into_iter().count(), QUEUED as usize);
            time
        });
    table.rows.push(race.run(bench.rounds));
    table
}

fn timed<R>(f: impl FnOnce() -> R) -> Duration {
    let start = Instant::now();
    black_box(f());
    start.elapsed()
}
