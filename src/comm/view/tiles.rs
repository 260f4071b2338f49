//! Transposed arrays, packed and unpacked in tiles.
//!
//! Where the elements of a row lie far apart and those of a column side by side, a row after the other touches a cache line for each
//! element and comes back for the next one in it when it is gone. In tiles a line is used up while it is there.

use ndarray::{ArrayView2, ArrayViewD, ArrayViewMut2, ArrayViewMutD, Axis, Dimension, Ix2, s};

use super::ArrayRef;
use crate::datum::Datum;

/// Elements along each side of a tile.
const SIDE: usize = 16;

/// The axis along which neighbours lie side by side, if that is not the last one and there is something to gain.
pub(super) fn axis_across<T, D: Dimension>(array: &ArrayRef<T, D>) -> Option<usize> {
    let (lens, strides) = (array.shape(), array.strides());
    let last = lens.len().checked_sub(1)?;
    let is_long = |axis: usize| lens[axis] >= SIDE;
    if strides[last].unsigned_abs() == 1 || !is_long(last) {
        return None;
    }
    (0..last).find(|&axis| strides[axis].unsigned_abs() == 1 && is_long(axis))
}

/// The distance of neighbours along each axis where all elements lie in row-major order.
fn packed_strides(lens: &[usize]) -> Vec<usize> {
    let mut strides = vec![1; lens.len()];
    for axis in (1..lens.len()).rev() {
        strides[axis - 1] = strides[axis] * lens[axis];
    }
    strides
}

/// Copies all elements, in row-major order; `across` is of [`axis_across`].
pub(super) fn pack<T: Datum>(array: &ArrayViewD<'_, T>, across: usize, out: &mut [T]) {
    let strides = packed_strides(array.shape());
    pack_planes(array, across, &strides, out);
}

fn pack_planes<T: Datum>(
    array: &ArrayViewD<'_, T>,
    across: usize,
    strides: &[usize],
    out: &mut [T],
) {
    if let Ok(plane) = array.view().into_dimensionality::<Ix2>() {
        return pack_plane(&plane, strides[0], out);
    }
    let outer = usize::from(across == 0);
    let (stride, rest) = without(strides, outer);
    for (at, part) in array.axis_iter(Axis(outer)).enumerate() {
        pack_planes(&part, across - usize::from(outer < across), &rest, &mut out[at * stride..]);
    }
}

fn pack_plane<T: Datum>(plane: &ArrayView2<'_, T>, stride: usize, out: &mut [T]) {
    for (rows, columns) in tiles(plane.dim()) {
        let tile = plane.slice(s![rows.clone(), columns.clone()]);
        for (row, values) in rows.zip(tile.rows()) {
            let place = &mut out[row * stride..][columns.clone()];
            place.iter_mut().zip(values).for_each(|(place, value)| *place = *value);
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
        let mut tile = plane.slice_mut(s![rows.clone(), columns.clone()]);
        for (row, places) in rows.zip(tile.rows_mut()) {
            let values = &values[row * stride..][columns.clone()];
            places.into_iter().zip(values).for_each(|(place, value)| *place = *value);
        }
    }
}

type Tile = (std::ops::Range<usize>, std::ops::Range<usize>);

fn tiles((rows, columns): (usize, usize)) -> impl Iterator<Item = Tile> {
    let parts = |len: usize| (0..len).step_by(SIDE).map(move |at| at..(at + SIDE).min(len));
    parts(rows).flat_map(move |rows| parts(columns).map(move |columns| (rows.clone(), columns)))
}

/// The stride of an axis, and those of the others.
fn without(strides: &[usize], axis: usize) -> (usize, Vec<usize>) {
    let mut rest = strides.to_vec();
    (rest.remove(axis), rest)
}
