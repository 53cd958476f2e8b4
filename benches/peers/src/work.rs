//! Work of a known length: arithmetic, calibrated once, so that no clock is read while it runs.

use std::hint::black_box;
use std::time::{Duration, Instant};

/// A chain of `steps` multiplications, each of which needs the one before. Never optimized away, nor
/// done once for many calls.
#[inline(never)]
pub fn spin(steps: u32) -> u64 {
    (0..black_box(steps)).fold(1, |x: u64, i| x.wrapping_mul(0x5851_f42d_4c95_7f2d) ^ u64::from(i))
}

/// The shortest time of many tries: the others were disturbed. For calls in a row, for each of them.
fn shortest(tries: u32, calls: u32, steps: u32) -> f64 {
    let time = |_| {
        let start = Instant::now();
        for _ in 0..calls {
            black_box(spin(steps));
        }
        start.elapsed().as_secs_f64() / f64::from(calls)
    };
    (0..tries).map(time).fold(f64::INFINITY, f64::min)
}

/// How long a step of [`spin`] takes here.
#[derive(Clone, Copy)]
pub struct Clock {
    steps_per_second: f64,
}

impl Clock {
    pub fn calibrate() -> Self {
        const STEPS: u32 = 200_000;
        Clock { steps_per_second: f64::from(STEPS) / shortest(100, 1, STEPS) }
    }

    /// The steps that take this long.
    pub fn steps(&self, time: Duration) -> u32 {
        let time = time.as_secs_f64();
        let mut steps = time * self.steps_per_second;
        // The calls to short chains overlap in the processor, so these need more steps.
        let calls = (1e-3 / time) as u32;
        let corrections = if (1e-9..1e-5).contains(&time) { 5 } else { 0 };
        for _ in 0..corrections {
            steps *= time / shortest(20, calls, steps.round() as u32);
        }
        steps.round() as u32
    }

    /// Steps for each item, in proportion to the weights, that take `total` together.
    pub fn shares(&self, weights: &[f64], total: Duration) -> Vec<u32> {
        let one = total.as_secs_f64() * self.steps_per_second / weights.iter().sum::<f64>();
        weights.iter().map(|weight| (weight * one).round() as u32).collect()
    }
}

/// The same order in every run, for each `seed`.
pub fn shuffle<T>(items: &mut [T], seed: usize) {
    let mut state = seed as u64 + 1;
    for last in (1..items.len()).rev() {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        items.swap(last, (state >> 33) as usize % (last + 1));
    }
}
