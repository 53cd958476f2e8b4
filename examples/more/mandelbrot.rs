//! The Mandelbrot set as a picture: rows of very different cost, each written as soon as it is ready.
//!
//! ```text
//! cargo run --release --example mandelbrot mandelbrot.png
//! ```
//!
//! A row through the set takes many times the steps of a row next to it, and the pool does not know this in advance.
//! `imap` returns the rows in order, at most a window ahead of the file, so the whole picture is never in memory.

use std::error::Error;
use std::fs::File;
use std::io::BufWriter;

use parpool::Pool;

const WIDTH: u32 = 1600;
const HEIGHT: u32 = 1000;
/// Points in each pixel, in both directions.
const SAMPLES: u32 = 2;
const STEPS: u32 = 2000;

/// The valley between head and body: its centre, and the width of the picture.
const CENTRE: (f64, f64) = (-0.743_644, 0.131_827);
const SPAN: f64 = 0.0065;

/// What is drawn, and in how many pixels.
#[derive(Clone, Copy)]
struct View {
    width: u32,
    height: u32,
}

/// How many steps a point takes to leave, smoothed between whole numbers; `None` if it stays.
fn escape(cx: f64, cy: f64) -> Option<f64> {
    let (mut x, mut y) = (0.0_f64, 0.0_f64);
    for step in 0..STEPS {
        let (xx, yy) = (x * x, y * y);
        // A large radius, for the sake of the smoothing.
        if xx + yy > 256.0 {
            let smooth = (xx + yy).ln().log2() - 3.0;
            return Some(f64::from(step) - smooth);
        }
        (x, y) = (xx - yy + cx, 2.0 * x * y + cy);
    }
    None
}

/// A cycle of colours: night blue, white, gold, brown, and back.
fn colour(steps: f64) -> [f64; 3] {
    const STOPS: [(f64, [f64; 3]); 6] = [
        (0.0, [0.0, 7.0, 100.0]),
        (0.16, [32.0, 107.0, 203.0]),
        (0.42, [237.0, 255.0, 255.0]),
        (0.6425, [255.0, 170.0, 0.0]),
        (0.8575, [60.0, 12.0, 0.0]),
        (1.0, [0.0, 7.0, 100.0]),
    ];
    let place = ((steps.max(0.0) + 1.0).ln() * 0.55).fract();
    let next = STOPS.iter().position(|(at, _)| *at > place).unwrap_or(STOPS.len() - 1);
    let ((from, a), (to, b)) = (STOPS[next - 1], STOPS[next]);
    let share = (place - from) / (to - from);
    // Without corners between the stops.
    let share = share * share * (3.0 - 2.0 * share);
    std::array::from_fn(|channel| a[channel] + (b[channel] - a[channel]) * share)
}

/// The bytes of one row of pixels.
fn row(view: View, y: u32) -> Vec<u8> {
    let scale = SPAN / f64::from(view.width * SAMPLES);
    let at = |pixel: u32, sample: u32, size: u32| {
        (f64::from(pixel * SAMPLES + sample) - f64::from(size * SAMPLES) / 2.0) * scale
    };
    let mut bytes = Vec::with_capacity(3 * view.width as usize);
    for x in 0..view.width {
        let mut sum = [0.0; 3];
        for (i, j) in (0..SAMPLES).flat_map(|i| (0..SAMPLES).map(move |j| (i, j))) {
            let (dx, dy) = (at(x, i, view.width), at(y, j, view.height));
            let steps = escape(CENTRE.0 + dx, CENTRE.1 - dy);
            let point = steps.map_or([0.0; 3], colour);
            sum.iter_mut().zip(point).for_each(|(sum, channel)| *sum += channel);
        }
        let samples = f64::from(SAMPLES * SAMPLES);
        bytes.extend(sum.map(|channel| (channel / samples).round() as u8));
    }
    bytes
}

fn main() -> Result<(), Box<dyn Error>> {
    let Some(path) = std::env::args().nth(1) else {
        return Err("usage: mandelbrot OUT.png".into());
    };
    let pool = Pool::new(None)?;
    let small = View { width: 32, height: 20 };
    assert!(pool.map(|y| row(small, y), 0..20)?.into_iter().eq((0..20).map(|y| row(small, y))));

    let view = View { width: WIDTH, height: HEIGHT };
    let mut encoder = png::Encoder::new(BufWriter::new(File::create(&path)?), WIDTH, HEIGHT);
    encoder.set_color(png::ColorType::Rgb);
    let mut writer = encoder.write_header()?;
    let mut image = writer.stream_writer()?;
    for bytes in pool.imap(move |y| row(view, y), 0..HEIGHT) {
        std::io::Write::write_all(&mut image, &bytes?)?;
    }
    image.finish()?;
    writer.finish()?;
    println!("{path}: {WIDTH} × {HEIGHT} pixels of {} points each", SAMPLES * SAMPLES);
    Ok(())
}
