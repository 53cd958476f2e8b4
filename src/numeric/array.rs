//! Maps over arrays of the crate `ndarray`, with its feature.
//!
//! They are maps over ndarray's own iterators of lanes and elements; the engine asks no more of an input.
//! What is added here is the shape of the result.

use ndarray::{
    Array, ArrayRef, ArrayView1, ArrayViewMut1, Axis, Dimension, RemoveAxis, ShapeBuilder,
};

use crate::error::Error;
use crate::pool::{Options, Pool};

#[cfg_attr(docsrs, doc(cfg(feature = "ndarray")))]
impl Pool {
    /// `f` of each row, which is a lane along the last axis: an array of shape `[a, b, n]` gives one of shape `[a, b]`,
    /// a matrix a vector. With the feature `ndarray`.
    ///
    /// See [`map_lanes`](Pool::map_lanes), also for errors and panics.
    ///
    /// Python: `numpy.apply_along_axis(f, -1, array)`, which is a loop.
    ///
    /// ```
    /// use ndarray::{ArrayView1, array};
    ///
    /// let pool = parpool::Pool::new(2)?;
    /// let matrix = array![[3.0, 4.0], [5.0, 12.0], [8.0, 15.0]];
    /// let norms = pool.map_rows(|row: ArrayView1<f64>| row.dot(&row).sqrt(), &matrix)?;
    /// assert_eq!(norms, array![5.0, 13.0, 17.0]);
    /// # Ok::<(), parpool::Error>(())
    /// ```
    pub fn map_rows<'a, A, D, F, R>(
        &self,
        f: F,
        array: &'a ArrayRef<A, D>,
    ) -> Result<Array<R, D::Smaller>, Error>
    where
        A: Sync,
        D: RemoveAxis,
        F: Fn(ArrayView1<'a, A>) -> R + Sync,
        R: Send,
    {
        self.options().map_rows(f, array)
    }

    /// `f` of each lane along `axis`: that axis is gone in the result, the others are as they were. An array of shape
    /// `[a, n, b]` gives one of shape `[a, b]` for `Axis(1)`. With the feature `ndarray`.
    ///
    /// Nothing is copied: `f` gets views, and results are written where they stay. The array may have any layout,
    /// and be a view itself. It is a [`map`](Pool::map) over the lanes in logical order; to hand one out takes a few
    /// nanoseconds.
    ///
    /// # Errors
    /// As [`map`](Pool::map), also for a panic of `f`, whose index is the number of the lane;
    /// [`InvalidArgument`](Error::InvalidArgument) if there is no such axis.
    ///
    /// Python: `numpy.apply_along_axis(f, axis, array)`, which is a loop.
    ///
    /// ```
    /// use ndarray::{ArrayView1, Axis, array};
    ///
    /// let pool = parpool::Pool::new(2)?;
    /// let matrix = array![[1, 20], [3, 10]];
    /// let largest = |lane: ArrayView1<i32>| *lane.iter().max().unwrap();
    /// assert_eq!(pool.map_lanes(largest, Axis(0), &matrix)?, array![3, 20]);
    /// assert_eq!(pool.map_lanes(largest, Axis(1), &matrix)?, array![20, 10]);
    /// # Ok::<(), parpool::Error>(())
    /// ```
    pub fn map_lanes<'a, A, D, F, R>(
        &self,
        f: F,
        axis: Axis,
        array: &'a ArrayRef<A, D>,
    ) -> Result<Array<R, D::Smaller>, Error>
    where
        A: Sync,
        D: RemoveAxis,
        F: Fn(ArrayView1<'a, A>) -> R + Sync,
        R: Send,
    {
        self.options().map_lanes(f, axis, array)
    }

    /// `f` of each row of `array` and the row of `out` in the same place, which it fills: shape `[a, b, n]` into `[a, b, m]`. With
    /// the feature `ndarray`.
    ///
    /// For results that are rows themselves; none is allocated or copied.
    ///
    /// # Errors
    /// As [`map_lanes`](Pool::map_lanes); then some rows of `out` are filled and others not.
    /// [`InvalidArgument`](Error::InvalidArgument) if the shapes differ in another axis than the last.
    ///
    /// Python has none.
    ///
    /// ```
    /// use ndarray::{Array2, array};
    ///
    /// let pool = parpool::Pool::new(2)?;
    /// let matrix = array![[1.0, 3.0], [5.0, 15.0]];
    /// let mut shares = Array2::zeros((2, 2));
    /// pool.map_rows_into(|row, mut out| out.assign(&(&row / row.sum())), &matrix, &mut shares)?;
    /// assert_eq!(shares, array![[0.25, 0.75], [0.25, 0.75]]);
    /// # Ok::<(), parpool::Error>(())
    /// ```
    pub fn map_rows_into<'a, A, B, D, F>(
        &self,
        f: F,
        array: &'a ArrayRef<A, D>,
        out: &'a mut ArrayRef<B, D>,
    ) -> Result<(), Error>
    where
        A: Sync,
        B: Send,
        D: Dimension,
        F: Fn(ArrayView1<'a, A>, ArrayViewMut1<'a, B>) + Sync,
    {
        self.options().map_rows_into(f, array, out)
    }

    /// `f` of each element, in an array of the same shape. With the feature `ndarray`.
    ///
    /// An array that is contiguous, in C or Fortran order, is mapped as a slice and gives one of the same layout; from
    /// any other the elements are taken one by one, which costs a nanosecond or two each, and the result is in C order.
    ///
    /// # Errors
    /// As [`map`](Pool::map), also for a panic of `f`; its index is the element's place in memory order, or of
    /// an array that is not contiguous in logical order.
    ///
    /// Python: `numpy.vectorize(f)(array)`, which is a loop.
    ///
    /// ```
    /// use ndarray::array;
    ///
    /// let pool = parpool::Pool::new(2)?;
    /// let matrix = array![[1.0_f64, 4.0], [9.0, 16.0]];
    /// assert_eq!(pool.map_array(|x| x.sqrt(), &matrix)?, array![[1.0, 2.0], [3.0, 4.0]]);
    /// # Ok::<(), parpool::Error>(())
    /// ```
    pub fn map_array<'a, A, D, F, R>(
        &self,
        f: F,
        array: &'a ArrayRef<A, D>,
    ) -> Result<Array<R, D>, Error>
    where
        A: Sync,
        D: Dimension,
        F: Fn(&'a A) -> R + Sync,
        R: Send,
    {
        self.options().map_array(f, array)
    }
}

#[cfg_attr(docsrs, doc(cfg(feature = "ndarray")))]
impl Options<'_> {
    /// See [`Pool::map_rows`].
    ///
    /// # Errors
    /// As there, and as [`map`](Options::map).
    ///
    /// ```
    /// # let pool = parpool::Pool::new(2)?;
    /// let sums = pool.chunksize(2).map_rows(|row| row.sum(), &ndarray::array![[1, 2], [3, 4]])?;
    /// assert_eq!(sums, ndarray::array![3, 7]);
    /// # Ok::<(), parpool::Error>(())
    /// ```
    pub fn map_rows<'a, A, D, F, R>(
        &self,
        f: F,
        array: &'a ArrayRef<A, D>,
    ) -> Result<Array<R, D::Smaller>, Error>
    where
        A: Sync,
        D: RemoveAxis,
        F: Fn(ArrayView1<'a, A>) -> R + Sync,
        R: Send,
    {
        self.map_lanes(f, Axis(array.ndim().saturating_sub(1)), array)
    }

    /// See [`Pool::map_lanes`].
    ///
    /// # Errors
    /// As there, and as [`map`](Options::map).
    ///
    /// ```
    /// # let pool = parpool::Pool::new(2)?;
    /// let matrix = ndarray::array![[1, 2], [3, 4]];
    /// let sums = pool.chunksize(2).map_lanes(|lane| lane.sum(), ndarray::Axis(0), &matrix)?;
    /// assert_eq!(sums, ndarray::array![4, 6]);
    /// # Ok::<(), parpool::Error>(())
    /// ```
    pub fn map_lanes<'a, A, D, F, R>(
        &self,
        f: F,
        axis: Axis,
        array: &'a ArrayRef<A, D>,
    ) -> Result<Array<R, D::Smaller>, Error>
    where
        A: Sync,
        D: RemoveAxis,
        F: Fn(ArrayView1<'a, A>) -> R + Sync,
        R: Send,
    {
        if axis.index() >= array.ndim() {
            return Err(Error::InvalidArgument("the array has no such axis"));
        }
        let shape = array.raw_dim().remove_axis(axis);
        let results = self.map(f, array.lanes(axis).into_iter())?;
        Ok(in_shape(shape, results))
    }

    /// See [`Pool::map_rows_into`].
    ///
    /// # Errors
    /// As there, and as [`map`](Options::map).
    ///
    /// ```
    /// # let pool = parpool::Pool::new(2)?;
    /// let (matrix, mut twice) = (ndarray::array![[1, 2], [3, 4]], ndarray::Array2::zeros((2, 2)));
    /// pool.chunksize(2).map_rows_into(|row, mut out| out.assign(&(&row * 2)), &matrix, &mut twice)?;
    /// assert_eq!(twice, ndarray::array![[2, 4], [6, 8]]);
    /// # Ok::<(), parpool::Error>(())
    /// ```
    pub fn map_rows_into<'a, A, B, D, F>(
        &self,
        f: F,
        array: &'a ArrayRef<A, D>,
        out: &'a mut ArrayRef<B, D>,
    ) -> Result<(), Error>
    where
        A: Sync,
        B: Send,
        D: Dimension,
        F: Fn(ArrayView1<'a, A>, ArrayViewMut1<'a, B>) + Sync,
    {
        match (array.shape().split_last(), out.shape().split_last()) {
            (Some((_, rows)), Some((_, places))) if rows == places => {}
            (None, _) => return Err(Error::InvalidArgument("the array has no such axis")),
            _ => return Err(Error::InvalidArgument("there must be a row of `out` for each row")),
        }
        let rows = array.rows().into_iter().zip(out.rows_mut());
        self.map(|(row, out)| f(row, out), rows).map(drop)
    }

    /// See [`Pool::map_array`].
    ///
    /// # Errors
    /// As there, and as [`map`](Options::map).
    ///
    /// ```
    /// # let pool = parpool::Pool::new(2)?;
    /// let squares = pool.chunksize(2).map_array(|x| x * x, &ndarray::array![[1, 2], [3, 4]])?;
    /// assert_eq!(squares, ndarray::array![[1, 4], [9, 16]]);
    /// # Ok::<(), parpool::Error>(())
    /// ```
    pub fn map_array<'a, A, D, F, R>(
        &self,
        f: F,
        array: &'a ArrayRef<A, D>,
    ) -> Result<Array<R, D>, Error>
    where
        A: Sync,
        D: Dimension,
        F: Fn(&'a A) -> R + Sync,
        R: Send,
    {
        if let Some(elements) = array.as_slice() {
            return Ok(in_shape(array.raw_dim(), self.map(f, elements)?));
        }
        let transposed = array.t();
        match transposed.to_slice() {
            Some(elements) => Ok(in_shape(array.raw_dim().f(), self.map(f, elements)?)),
            None => Ok(in_shape(array.raw_dim(), self.map(f, array.iter())?)),
        }
    }
}

fn in_shape<R, D: Dimension>(
    shape: impl Into<ndarray::StrideShape<D>>,
    results: Vec<R>,
) -> Array<R, D> {
    Array::from_shape_vec(shape, results).expect("there is a result for each place")
}
