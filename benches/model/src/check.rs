//! The model beside the real thing, on the machine it runs on.
//!
//! What needs a core is run on 1, 2 and 4 workers; the model hears how many cores there are. What
//! only waits is run on more workers than there are cores, which then do not matter.

use std::hint::black_box;
use std::thread;
use std::time::{Duration, Instant};

use parpool::Pool;

use crate::load::{Load, skews};
use crate::measure::median;
use crate::price::{MS, TINY, US};
use crate::sim::Ns;
use crate::{design, measure, pulled, queue, ranges, stream};

const LEN: usize = 100_000;
const TOTAL: Ns = 20 * MS;
const ROUNDS: usize = 9;
const WORKERS: [usize; 3] = [1, 2, 4];

/// Prints, for each workload, the time relative to `sequential / min(workers, cores)`: as measured,
/// the lowest of some rounds, and as the model has it.
pub fn check() {
    measure::prices();
    let cores = thread::available_parallelism().map_or(1, usize::from);
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    println!("\n{cores} cores; load average {}", load.trim());
    println!("\n| time × min(workers, cores) / sequential | 1 | model | 2 | model | 4 | model |");
    println!("|---|{}", "---:|".repeat(6));
    let pools = WORKERS.map(|workers| Pool::new(workers).expect("the system has threads"));
    let spin = Spin::calibrate();
    // The ratio of a measured time, or of the model's, to the ideal.
    let row = |name: &str,
               total: Ns,
               sequential: &dyn Fn(),
               real: &dyn Fn(&Pool),
               model: &dyn Fn(usize) -> Ns| {
        let ideal = |workers: usize, total: f64| total / workers.min(cores) as f64;
        let mut alone = f64::INFINITY;
        let mut times = [f64::INFINITY; WORKERS.len()];
        for _ in 0..ROUNDS {
            alone = alone.min(time(sequential));
            for (lowest, pool) in times.iter_mut().zip(&pools) {
                *lowest = lowest.min(time(|| real(pool)));
            }
        }
        print!("| {name} |");
        for (workers, time) in WORKERS.into_iter().zip(times) {
            let modelled = model(workers) as f64 / ideal(workers, total as f64);
            print!(" {:.2} | {modelled:.2} |", time / ideal(workers, alone));
        }
        println!();
    };
    for load in skews(LEN, TOTAL) {
        let costs: Vec<Ns> = (0..LEN).map(|i| load.cost(i, 1)).collect();
        let f = |cost: &Ns| spin.run(*cost);
        row(
            &format!("`map`, {}", load.name),
            load.total(),
            &|| drop(black_box(costs.iter().map(f).collect::<Vec<_>>())),
            &|pool| drop(black_box(pool.map(f, &costs).unwrap())),
            &|workers| ranges::run(&load, design::current(), workers, cores).time,
        );
    }
    for (items, cost) in [(100_000, 200), (10_000, 2 * US)] {
        let load = Load::new("", (0..items).map(|_| cost));
        row(
            &format!("`map` over a range, {cost} ns an item"),
            load.total(),
            &|| drop(black_box((0..items).map(|_| spin.run(cost)).collect::<Vec<_>>())),
            &|pool| drop(black_box(pool.map(|_| spin.run(cost), 0..items).unwrap())),
            &|workers| pulled::run(&load, 1, pulled::Design::default(), workers, cores).time,
        );
    }
    for (items, cost) in [(100_000, US), (10_000, 10 * US)] {
        row(
            &format!("`imap`, {cost} ns an item"),
            items as Ns * cost,
            &|| (0..items).for_each(|_| spin.run(cost)),
            &|pool| {
                assert_eq!(pool.imap(move |_| spin.run(cost), 0..items).count(), items);
            },
            &|workers| stream::run(items, cost, stream::Design::default(), workers, cores).time,
        );
    }
    for (items, cost) in [(10_000, US), (2000, 10 * US)] {
        row(
            &format!("`apply_async`, {cost} ns a task"),
            items as Ns * cost,
            &|| (0..items).for_each(|_| spin.run(cost)),
            &|pool| {
                let submit = |_| pool.apply_async(move || spin.run(cost), ());
                let results: Vec<_> = (0..items).map(submit).collect();
                results.into_iter().for_each(|result| result.get().unwrap());
            },
            &|workers| {
                let (from, design) = (queue::From::Outside, Default::default());
                queue::run(items, cost, from, design, workers, cores).time
            },
        );
    }
    naps();
}

/// Items that sleep: any number of workers have a core each.
fn naps() {
    println!("\n| items that sleep: time / ideal | workers | real | model |\n|---|---:|---:|---:|");
    let begun = Instant::now();
    (0..10).for_each(|_| thread::sleep(Duration::from_millis(4)));
    let nap = begun.elapsed().as_nanos() as Ns / 10;
    let cases = [
        ("first 8 of 1e5", 100_000, 0..8),
        ("middle 8 of 1e5", 100_000, 50_000..50_008),
        ("last 8 of 1e5", 100_000, 99_992..100_000),
        ("last 200 of 1e5", 100_000, 99_800..100_000),
        ("middle 200 of 1e5", 100_000, 50_000..50_200),
        ("200 of 200", 200, 0..200),
    ];
    for (name, len, dear) in cases {
        let items: Vec<usize> = (0..len).collect();
        let load = Load::new(name, (0..len).map(|i| if dear.contains(&i) { nap } else { TINY }));
        for workers in [4, 16] {
            let pool = Pool::new(workers).expect("the system has threads");
            let f = |i: &usize| {
                if dear.contains(i) {
                    thread::sleep(Duration::from_millis(4));
                }
            };
            let times = (0..3).map(|_| time(|| drop(pool.map(f, &items).unwrap()))).collect();
            let real = median(times) / load.ideal(workers) as f64;
            let model = ranges::run(&load, design::current(), workers, workers + 1).ratio();
            println!("| {name} | {workers} | {real:.2} | {model:.2} |");
        }
    }
}

fn time(f: impl FnOnce()) -> f64 {
    let begun = Instant::now();
    f();
    begun.elapsed().as_nanos() as f64
}

/// Work of a length that is told.
#[derive(Clone, Copy)]
struct Spin {
    rounds_per_us: u64,
}

impl Spin {
    fn calibrate() -> Self {
        let test = Spin { rounds_per_us: 1000 };
        let times = (0..9).map(|_| time(|| test.run(MS))).collect();
        let per_us = 1000.0 * MS as f64 / median(times);
        Spin { rounds_per_us: (per_us as u64).max(1) }
    }

    #[inline(never)]
    fn run(self, nanos: Ns) {
        let rounds = nanos * self.rounds_per_us / US;
        black_box((0..rounds).fold(0, |sum, round| black_box(sum ^ round)));
    }
}
