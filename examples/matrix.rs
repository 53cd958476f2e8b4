//! Which points are nearest to each other? Standardised columns, then all distances, row by row in arrays.
//!
//! ```text
//! cargo run --release --features ndarray --example matrix
//! ```

use std::time::Instant;

use ndarray::{Array1, Array2, ArrayView1, Axis};
use parpool::{Error, Pool, Seed};

const POINTS: usize = 1500;
const COLUMNS: usize = 64;

/// Numbers that are the same in every run: around 20 centres, with another scale in each column.
fn points() -> Array2<f64> {
    let number = |item: u64| Seed::new(7, item).number() as f64 / u64::MAX as f64;
    Array2::from_shape_fn((POINTS, COLUMNS), |(row, column)| {
        let centre = number((row % 20 * COLUMNS + column) as u64);
        let own = number((1_000_000 + row * COLUMNS + column) as u64);
        (centre + 0.2 * own) * (column + 1) as f64
    })
}

fn distance(a: ArrayView1<'_, f64>, b: ArrayView1<'_, f64>) -> f64 {
    a.iter().zip(b).map(|(x, y)| (x - y) * (x - y)).sum::<f64>().sqrt()
}

/// The index of the smallest that is not the point itself.
fn nearest((own, distances): (usize, ArrayView1<'_, f64>)) -> usize {
    let others = distances.iter().enumerate().filter(|(other, _)| *other != own);
    others.min_by(|(_, x), (_, y)| x.total_cmp(y)).expect("there are others").0
}

/// Of each point, which is nearest.
fn parallel(pool: &Pool, points: &Array2<f64>) -> Result<Vec<usize>, Error> {
    // A column is a lane along the first axis.
    let means = pool.map_lanes(|column| column.mean().unwrap_or(0.0), Axis(0), points)?;
    let spreads = pool.map_lanes(|column| column.std(0.0), Axis(0), points)?;
    let mut standard = Array2::zeros(points.raw_dim());
    pool.map_rows_into(
        |row, mut out| out.assign(&((&row - &means) / &spreads)),
        points,
        &mut standard,
    )?;
    let mut distances = Array2::zeros((POINTS, POINTS));
    pool.map_rows_into(
        |row, mut out| {
            for (place, other) in out.iter_mut().zip(standard.rows()) {
                *place = distance(row, other);
            }
        },
        &standard,
        &mut distances,
    )?;
    pool.map(nearest, distances.rows().into_iter().enumerate())
}

/// The same in loops.
fn serial(points: &Array2<f64>) -> Vec<usize> {
    let means = points.map_axis(Axis(0), |column| column.mean().unwrap_or(0.0));
    let spreads = points.map_axis(Axis(0), |column| column.std(0.0));
    let standard = (points - &means) / &spreads;
    let distances = standard.rows().into_iter().map(|row| -> Array1<f64> {
        standard.rows().into_iter().map(|other| distance(row, other)).collect()
    });
    distances.enumerate().map(|(own, row)| nearest((own, row.view()))).collect()
}

fn main() -> Result<(), Error> {
    let pool = Pool::new(None)?;
    let points = points();
    let begun = Instant::now();
    let expected = serial(&points);
    let alone = begun.elapsed();
    let begun = Instant::now();
    let found = parallel(&pool, &points)?;
    let together = begun.elapsed();
    assert_eq!(found, expected);
    let same = found.iter().enumerate().filter(|(own, other)| own % 20 == **other % 20).count();
    println!("{same} of {POINTS} points have their neighbour around the same centre");
    println!(
        "loops {alone:.1?}, {} workers {together:.1?}: {:.2} times as fast",
        pool.processes(),
        alone.as_secs_f64() / together.as_secs_f64()
    );
    Ok(())
}
