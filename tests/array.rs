//! Maps over arrays against what the loops of ndarray give.

mod common;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{LazyLock, Mutex};

use common::{Kind, MIXED, ON_PURPOSE, fewer, panicked, quiet, watchdog};
use ndarray::{
    Array, Array0, Array1, Array2, Array3, ArrayD, ArrayRef, ArrayView1, Axis, IxDyn, RemoveAxis,
    ShapeBuilder, array, s,
};
use parpool::{Error, Pool, Progress};

/// Not symmetric in its places.
fn weigh(lane: ArrayView1<'_, i64>) -> i64 {
    lane.iter().zip(1..).map(|(x, weight)| x * weight).sum()
}

/// All three maps over `array`, whatever its layout.
fn check<D: RemoveAxis>(array: &ArrayRef<i64, D>) {
    // Under Miri an array meets one of them, the next one another.
    static CASES: AtomicUsize = AtomicUsize::new(0);
    static POOLS: LazyLock<[Pool; 4]> = LazyLock::new(|| MIXED.map(Kind::pool));
    for pool in &*POOLS {
        for view in [pool.chunksize(1), pool.chunksize(5), pool.buffersize(1)] {
            if CASES.fetch_add(1, Ordering::Relaxed) % fewer(1, 11) > 0 {
                continue;
            }
            for axis in (0..array.ndim()).map(Axis) {
                let expected = array.map_axis(axis, weigh);
                assert_eq!(view.map_lanes(weigh, axis, array).unwrap(), expected, "{axis:?}");
            }
            let last = Axis(array.ndim() - 1);
            assert_eq!(view.map_rows(weigh, array).unwrap(), array.map_axis(last, weigh));
            assert_eq!(view.map_array(|x| x * 3 - 1, array).unwrap(), array.map(|x| x * 3 - 1));
            let mut reversed = Array::zeros(array.raw_dim());
            view.map_rows_into(
                |row, mut out| out.assign(&row.slice(s![..;-1])),
                array,
                &mut reversed,
            )
            .unwrap();
            let mut expected = array.view();
            expected.invert_axis(last);
            assert_eq!(reversed, expected);
        }
    }
}

fn numbers<D, Sh: ShapeBuilder<Dim = D>>(shape: Sh) -> Array<i64, D>
where
    D: ndarray::Dimension,
{
    let mut next = 0;
    Array::from_shape_simple_fn(shape, || {
        next += 1;
        next * 7 % 101
    })
}

#[test]
fn every_shape_and_layout_gives_what_the_loop_gives() {
    watchdog(120, || {
        for n in [0, 1, 2, fewer(100, 12)] {
            check(&numbers(n));
        }
        for shape in [(0, 0), (0, 3), (3, 0), (1, 1), (1, 9), (9, 1), (fewer(13, 5), fewer(7, 3))] {
            check(&numbers(shape));
            check(&numbers(shape.f()));
            check(&numbers(shape).t());
        }
        for shape in [(2, 3, 4), (1, 5, 1), (4, 0, 2)] {
            check(&numbers(shape));
            check(&numbers(shape.f()));
        }
        let whole = numbers((fewer(12, 4), 9));
        check(&whole.slice(s![..;-1, ..]));
        check(&whole.slice(s![.., ..;-1]));
        check(&whole.slice(s![1..;3, 2..8;2]));
        check(&whole.slice(s![.., 4]));
        check(&numbers(6).broadcast((4, 6)).unwrap());
        check(&numbers(IxDyn(&[2, 3, 2, 2])));
        let mut permuted = numbers((2, 3, 4));
        permuted.swap_axes(0, 2);
        check(&permuted);
    });
}

#[test]
fn a_contiguous_array_keeps_its_layout() {
    let pool = Pool::new(2).unwrap();
    let (c, f) = (numbers((3, 4)), numbers((3, 4).f()));
    assert!(pool.map_array(|x| *x, &c).unwrap().is_standard_layout());
    let same = pool.map_array(|x| *x, &f).unwrap();
    assert_eq!(same, f);
    assert_eq!(same.strides(), f.strides());
    assert!(pool.map_array(|x| *x, &c.slice(s![.., ..;2])).unwrap().is_standard_layout());
}

#[test]
fn nothing_is_copied_and_results_need_no_trait() {
    /// Neither `Clone` nor `Default`.
    #[derive(Debug, PartialEq)]
    struct Opaque(usize);

    let pool = Pool::new(2).unwrap();
    let array = Array2::from_shape_fn((5, 3), |(row, column)| Opaque(row * 3 + column));
    let places = Mutex::new(Vec::new());
    let firsts = pool.map_rows(
        |row| {
            places.lock().unwrap().push(row.as_ptr().addr());
            Opaque(row[0].0)
        },
        &array,
    );
    assert!(firsts.unwrap().iter().map(|first| first.0).eq([0, 3, 6, 9, 12]));
    let mut places = places.into_inner().unwrap();
    places.sort();
    assert!(places.into_iter().eq(array.rows().into_iter().map(|row| row.as_ptr().addr())));
    // What is returned may borrow from the array.
    let first = array.slice(s![0, ..]);
    let borrowed: Array1<&Opaque> = pool.map_array(|x| x, &first).unwrap();
    assert!(std::ptr::eq(borrowed[2], &array[(0, 2)]));
}

#[test]
fn a_panic_has_the_number_of_its_lane_and_the_pool_goes_on() {
    quiet();
    watchdog(60, || {
        for pool in MIXED.map(Kind::pool) {
            let array = Array3::from_shape_fn((3, 4, 5), |(i, j, k)| i * 100 + j * 10 + k);
            let fail = |lane: ArrayView1<'_, usize>| assert_ne!(lane[0], 120, "{ON_PURPOSE}");
            assert_eq!(panicked(pool.map_rows(fail, &array)).0, Some(6));
            let along = |lane: ArrayView1<'_, usize>| assert_ne!(lane[0], 102, "{ON_PURPOSE}");
            assert_eq!(panicked(pool.map_lanes(along, Axis(1), &array)).0, Some(7));
            let element = |x: &usize| assert_ne!(*x, 13, "{ON_PURPOSE}");
            assert_eq!(panicked(pool.map_array(element, &array)).0, Some(8));
            assert_eq!(pool.map_rows(|row| row.sum(), &array).unwrap().shape(), [3, 4]);
        }
    });
}

#[test]
fn shapes_that_do_not_fit_are_refused() {
    let pool = Pool::new(1).unwrap();
    let refused =
        |result: Result<(), Error>| assert!(matches!(result, Err(Error::InvalidArgument(_))));
    let matrix = numbers((3, 4));
    refused(pool.map_lanes(weigh, Axis(2), &matrix).map(drop));
    let nothing = |_: ArrayView1<'_, i64>, _: ndarray::ArrayViewMut1<'_, i64>| ();
    refused(pool.map_rows_into(nothing, &matrix, &mut numbers((2, 4))));
    let point = ArrayD::from_elem(IxDyn(&[]), 1);
    refused(pool.map_rows(weigh, &point).map(drop));
    refused(pool.map_rows_into(nothing, &point, &mut ArrayD::from_elem(IxDyn(&[]), 1)));
    // Rows of another length are as good as any.
    pool.map_rows_into(|row, mut out| out[0] = row.sum(), &matrix, &mut numbers((3, 1))).unwrap();
    assert_eq!(pool.map_array(|x| x + 1, &Array0::from_elem((), 1)).unwrap()[()], 2);
}

#[test]
fn options_hold_and_iterators_of_arrays_are_inputs_without_the_feature() {
    watchdog(60, || {
        let pool = Pool::new(2).unwrap();
        let matrix = array![[1, 2], [3, 4], [5, 6]];
        let progress = Progress::default();
        pool.progress(&progress).map_rows(|row| row.sum(), &matrix).unwrap();
        assert_eq!(progress.get(), (3, Some(3)));
        let zero = pool.chunksize(0).map_rows(|row| row.sum(), &matrix);
        assert!(matches!(zero, Err(Error::InvalidArgument(_))));
        let sums = pool.map(|row: ArrayView1<'_, i32>| row.sum(), matrix.rows().into_iter());
        assert_eq!(sums.unwrap(), [3, 7, 11]);
        assert_eq!(pool.sum(|x| *x, matrix.iter()).unwrap(), 21);
        let halves = pool.map(|half| half.sum(), matrix.axis_chunks_iter(Axis(0), 2));
        assert_eq!(halves.unwrap(), [10, 11]);
    });
}
