//! Measures the prices that can be measured with the standard library alone.

use std::hint::{black_box, spin_loop};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::price;
use crate::sim::Ns;

/// Prints each price beside what it is on this machine. The lowest of some rounds counts: on a busy
/// machine all others are of something else.
pub fn prices() {
    println!("\n| price, ns | in the model | here |\n|---|---:|---:|");
    let row = |name, model: Ns, here: f64| println!("| {name} | {model} | {here:.0} |");
    row("`CLOCK`", price::CLOCK, each(Instant::now));
    let counter = AtomicU64::new(0);
    row("`ATOMIC`", price::ATOMIC, each(|| counter.fetch_add(1, Ordering::Relaxed)));
    let place = Mutex::new([0_u64; 4]);
    row("`LOCK`", price::LOCK, each(|| place.lock().unwrap()[0] += 1));
    row("`LINE`", price::LINE, lowest(line));
    row("`SEAT`", price::SEAT, lowest(seat));
    let (call, wake): (Vec<_>, Vec<_>) = (0..200).map(|_| wake_up()).unzip();
    row("`CALL`, median of 200", price::CALL, median(call));
    row("`WAKE`, median of 200", price::WAKE, median(wake));
}

/// Nanoseconds that one call of `f` takes.
fn each<T>(mut f: impl FnMut() -> T) -> f64 {
    const TIMES: u32 = 20_000;
    lowest(|| {
        let begun = Instant::now();
        (0..TIMES).for_each(|_| drop(black_box(f())));
        begun.elapsed().as_nanos() as f64 / f64::from(TIMES)
    })
}

fn lowest(mut f: impl FnMut() -> f64) -> f64 {
    (0..7).map(|_| f()).fold(f64::INFINITY, f64::min)
}

pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Half of a round in which two threads write to one line in turn.
fn line() -> f64 {
    const ROUNDS: u64 = 5_000;
    let turn = AtomicU64::new(0);
    let play = |odd: u64| {
        for round in 0..ROUNDS {
            let mut spins = 0_u32;
            while turn.load(Ordering::Acquire) != 2 * round + odd {
                spin_loop();
                spins += 1;
                if spins.is_multiple_of(10_000) {
                    thread::yield_now();
                }
            }
            turn.store(2 * round + odd + 1, Ordering::Release);
        }
    };
    let begun = Instant::now();
    thread::scope(|scope| {
        scope.spawn(|| play(1));
        play(0);
    });
    begun.elapsed().as_nanos() as f64 / (2 * ROUNDS) as f64
}

/// A look at one of many counters, each on its own line, that another thread writes to.
fn seat() -> f64 {
    #[repr(align(128))]
    struct Seat(AtomicU64);
    const SCANS: usize = 3000;
    let seats: Vec<_> = (0..256).map(|_| Seat(AtomicU64::new(0))).collect();
    let (begun, over) = (AtomicBool::new(false), AtomicBool::new(false));
    thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                seats.iter().for_each(|seat| seat.0.store(1, Ordering::Relaxed));
                begun.store(true, Ordering::Relaxed);
            }
        });
        while !begun.load(Ordering::Relaxed) {
            thread::yield_now();
        }
        let begun = Instant::now();
        for _ in 0..SCANS {
            black_box(seats.iter().map(|seat| seat.0.load(Ordering::Relaxed)).max());
        }
        let time = begun.elapsed().as_nanos() as f64;
        over.store(true, Ordering::Relaxed);
        time / (SCANS * seats.len()) as f64
    })
}

/// What it costs to wake a parked thread, and how long that takes until it runs.
fn wake_up() -> (f64, f64) {
    let began = Instant::now();
    let woken = AtomicU64::new(0);
    let called = AtomicBool::new(false);
    thread::scope(|scope| {
        let sleeper = scope.spawn(|| {
            while !called.load(Ordering::Acquire) {
                thread::park();
            }
            woken.store(began.elapsed().as_nanos() as u64, Ordering::Release);
        });
        thread::sleep(Duration::from_micros(300));
        called.store(true, Ordering::Release);
        let before = began.elapsed().as_nanos() as u64;
        sleeper.thread().unpark();
        let after = began.elapsed().as_nanos() as u64;
        while woken.load(Ordering::Acquire) == 0 {
            thread::sleep(Duration::from_micros(50));
        }
        let latency = woken.load(Ordering::Acquire).saturating_sub(before);
        ((after - before) as f64, latency as f64)
    })
}
