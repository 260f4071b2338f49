//! Transposed arrays, packed and unpacked in tiles.
//!
//! Where the elements of a row lie far apart and those of a column side by side, a row after the
//! other touches a cache line for each element and comes back for the next one in it when it is
//! gone. In tiles a line is used up while it is there.

use ndarray::{ArrayViewD, ArrayViewMut2, ArrayViewMutD, Axis, Dimension, Ix2, s};

use super::ArrayRef;
use crate::datum::Datum;

/// The sides of a tile: a row of it is a line of the cache where the elements lie packed, a column
/// some lines where they come from.
const ROWS: usize = 64;
const COLUMNS: usize = 8;

/// Rows that are put together at a time.
const PANEL: usize = 16;

/// Below so many bytes, which the first cache holds, there is nothing to gain.
const WORTHWHILE: usize = 64 * 1024;

/// The axis along which neighbours lie side by side, if that is not the last one and there is
/// something to gain.
pub(super) fn axis_across<T, D: Dimension>(array: &ArrayRef<T, D>) -> Option<usize> {
    let (lens, strides) = (array.shape(), array.strides());
    let last = lens.len().checked_sub(1)?;
    let is_worthwhile = |axis: usize| {
        lens[axis] >= 16 && lens[last] >= 16 && array.len() >= WORTHWHILE / size_of::<T>().max(1)
    };
    if strides[last].unsigned_abs() == 1 {
        return None;
    }
    (0..last).find(|&axis| strides[axis].unsigned_abs() == 1 && is_worthwhile(axis))
}

/// The distance of neighbours along each axis where all elements lie in row-major order.
fn packed_strides(lens: &[usize]) -> Vec<usize> {
    let mut strides = vec![1; lens.len()];
    for axis in (1..lens.len()).rev() {
        strides[axis - 1] = strides[axis] * lens[axis];
    }
    strides
}

/// Appends all elements, in row-major order; [`axis_across`] is the last axis but one.
///
/// Some rows at a time are put together in memory that stays in the cache, so that what is appended
/// is written once and in order.
pub(super) fn pack<T: Datum>(array: &ArrayViewD<'_, T>, onto: &mut Vec<T>) {
    let lens = array.shape();
    let (Some(&any), Some(&columns)) = (array.first(), lens.last()) else { return };
    // A row more than there is room for keeps rows of a power of two from falling into the same
    // places of the cache.
    let stride = columns + COLUMNS;
    let mut panel = vec![any; PANEL * stride];
    onto.reserve(array.len());
    pack_planes(array, &mut panel, stride, onto);
}

fn pack_planes<T: Datum>(
    array: &ArrayViewD<'_, T>,
    panel: &mut [T],
    stride: usize,
    onto: &mut Vec<T>,
) {
    let Ok(plane) = array.view().into_dimensionality::<Ix2>() else {
        for part in array.outer_iter() {
            pack_planes(&part, panel, stride, onto);
        }
        return;
    };
    for rows in plane.axis_chunks_iter(Axis(0), PANEL) {
        for (at, column) in rows.columns().into_iter().enumerate() {
            let places = panel[at..].iter_mut().step_by(stride);
            match column.to_slice() {
                Some(values) => places.zip(values).for_each(|(place, value)| *place = *value),
                None => places.zip(column).for_each(|(place, value)| *place = *value),
            }
        }
        for row in 0..rows.nrows() {
            onto.extend_from_slice(&panel[row * stride..][..rows.ncols()]);
        }
    }
}

/// Overwrites all elements with values in row-major order; `across` is of [`axis_across`].
pub(super) fn unpack<T: Datum>(array: ArrayViewMutD<'_, T>, across: usize, values: &[T]) {
    let strides = packed_strides(array.shape());
    unpack_planes(array, across, &strides, values);
}

fn unpack_planes<T: Datum>(
    mut array: ArrayViewMutD<'_, T>,
    across: usize,
    strides: &[usize],
    values: &[T],
) {
    if let Ok(plane) = array.view_mut().into_dimensionality::<Ix2>() {
        return unpack_plane(plane, strides[0], values);
    }
    let outer = usize::from(across == 0);
    let (stride, rest) = without(strides, outer);
    for (at, part) in array.axis_iter_mut(Axis(outer)).enumerate() {
        unpack_planes(part, across - usize::from(outer < across), &rest, &values[at * stride..]);
    }
}

fn unpack_plane<T: Datum>(mut plane: ArrayViewMut2<'_, T>, stride: usize, values: &[T]) {
    for (rows, columns) in tiles(plane.dim()) {
        let values = &values[rows.start * stride..];
        for column in columns {
            let values = values.iter().skip(column).step_by(stride);
            let mut places = plane.slice_mut(s![rows.clone(), column]);
            match places.as_slice_mut() {
                Some(places) => {
                    places.iter_mut().zip(values).for_each(|(place, value)| *place = *value);
                }
                None => places.iter_mut().zip(values).for_each(|(place, value)| *place = *value),
            }
        }
    }
}

type Tile = (std::ops::Range<usize>, std::ops::Range<usize>);

fn tiles((rows, columns): (usize, usize)) -> impl Iterator<Item = Tile> {
    let parts =
        |len: usize, side: usize| (0..len).step_by(side).map(move |at| at..(at + side).min(len));
    parts(rows, ROWS)
        .flat_map(move |rows| parts(columns, COLUMNS).map(move |columns| (rows.clone(), columns)))
}

/// The stride of an axis, and those of the others.
fn without(strides: &[usize], axis: usize) -> (usize, Vec<usize>) {
    let mut rest = strides.to_vec();
    (rest.remove(axis), rest)
}
