//! One number for an array that lies on many ranks.

use std::panic::Location;

use ndarray::ArrayRef2;

use super::Layout;
use crate::{
    comm::{Comm, Sum},
    error::Result,
};

/// The sum of all ranks' values, compensated (Neumaier 1974): its error is about one rounding,
/// whatever the number of values, unless they all but cancel. The last bit may depend on how the
/// values are distributed. Infinities, NaN, and sums beyond the largest number are those of plain
/// addition.
///
/// # Collective
/// An allgather of 8 bytes per rank.
///
/// # Examples
/// ```
/// let sums = spmd::local(2, |world| Ok(spmd::array::sum(world, [0.1; 10])?));
/// assert_eq!(sums.unwrap(), [2.0; 2]);
/// ```
#[track_caller]
pub fn sum(comm: &Comm, values: impl IntoIterator<Item = f64>) -> Result<f64> {
    let at = Location::caller();
    let mine = compensated_sum(values);
    let all = comm.allgather(&[mine]).map_err(|error| error.called_at(at))?;
    Ok(compensated_sum(all.into_flat()))
}

fn compensated_sum(values: impl IntoIterator<Item = f64>) -> f64 {
    let (mut sum, mut lost) = (0.0_f64, 0.0);
    for value in values {
        let next = sum + value;
        // What the smaller of the two lost in the addition.
        lost += if sum.abs() >= value.abs() { (sum - next) + value } else { (value - next) + sum };
        sum = next;
    }
    // Of infinities the difference is NaN: then the plain sum says what there is to say.
    if sum.is_finite() { sum + lost } else { sum }
}

/// A number that tells whether two distributed arrays are equal in every bit, however each is
/// distributed.
///
/// `block` is this rank's block of `layout`. Each cell's global index and bits are hashed; the
/// hashes are added up, so that their order does not matter.
///
/// # Collective
/// An allreduce of 8 bytes.
///
/// # Panics
/// If `block` has not the shape that `layout` gives this rank.
///
/// # Examples
/// ```
/// use spmd::array::{Layout, checksum};
/// let on = |ranks: usize| {
///     let sums = spmd::local(ranks, |world| {
///         let layout = Layout::on_grid([4, 6], [world.size(), 1]);
///         let [rows, columns] = layout.block(world.rank()).ranges();
///         let shape = (rows.len(), columns.len());
///         let block = ndarray::Array2::from_shape_fn(shape, |(i, j)| (rows.start + i) as f64 * 0.1 + j as f64);
///         Ok(checksum(world, &layout, &block)?)
///     });
///     sums.unwrap()[0]
/// };
/// assert_eq!(on(1), on(3));
/// ```
#[track_caller]
pub fn checksum(comm: &Comm, layout: &Layout<2>, block: &ArrayRef2<f64>) -> Result<u64> {
    let at = Location::caller();
    let [rows, columns] = layout.block(comm.rank()).ranges();
    assert_eq!(block.dim(), (rows.len(), columns.len()), "the block is this rank's");
    let [_, width] = layout.shape();
    let mine = block.indexed_iter().fold(0_u64, |sum, ((row, column), value)| {
        let index = (rows.start + row) * width + columns.start + column;
        sum.wrapping_add(scramble(value.to_bits() ^ scramble(index as u64)))
    });
    let sums = comm.allreduce(&[mine], Sum).map_err(|error| error.called_at(at))?;
    Ok(sums[0])
}

/// The output function of `SplitMix64` (Steele, Lea and Flood 2014): every bit of the result
/// depends on every bit given.
fn scramble(bits: u64) -> u64 {
    let bits = bits.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}

#[cfg(test)]
mod tests {
    use ndarray::array;

    use super::*;

    fn checksum_of(block: &ndarray::Array2<f64>) -> u64 {
        let (rows, columns) = block.dim();
        let sums = crate::local(1, |world| {
            Ok(checksum(world, &Layout::on_grid([rows, columns], [1, 1]), block)?)
        });
        sums.unwrap()[0]
    }

    #[test]
    fn a_checksum_sees_one_bit_and_one_exchange() {
        let original = checksum_of(&array![[1.0, 2.0], [3.0, 4.0]]);
        assert_ne!(original, checksum_of(&array![[1.0, 2.0], [3.0, 4.0_f64.next_up()]]));
        assert_ne!(original, checksum_of(&array![[2.0, 1.0], [3.0, 4.0]]));
        assert_ne!(checksum_of(&array![[0.0]]), checksum_of(&array![[-0.0]]));
    }

    #[test]
    fn a_compensated_sum_keeps_what_plain_addition_loses() {
        let values = || std::iter::once(1e16).chain(std::iter::repeat_n(1.0, 1000)).chain([-1e16]);
        assert!((values().sum::<f64>() - 1000.0).abs() > 100.0);
        assert!((compensated_sum(values()) - 1000.0).abs() < 1e-9);
        assert!(compensated_sum([1.0, f64::NAN]).is_nan());
    }

    #[test]
    fn a_sum_beyond_all_numbers_is_that_of_plain_addition() {
        const INFINITE: f64 = f64::INFINITY;
        for values in [
            &[INFINITE, 1.0][..],
            &[1.0, INFINITE, 2.0, 3.0],
            &[-INFINITE, 1.0],
            &[INFINITE, -INFINITE],
            &[f64::MAX, f64::MAX],
            &[f64::MAX, f64::MAX, -f64::MAX],
            &[f64::MIN, f64::MIN, 1.0],
            &[f64::NAN, 1.0],
            &[1e308, 1e308, -1e308],
            &[f64::MAX, -f64::MAX, f64::MAX],
        ] {
            let plain: f64 = values.iter().sum();
            for ranks in [1, 2] {
                let sums = crate::local(ranks, |world| {
                    let first = world.rank() == 0;
                    Ok(sum(world, values.iter().copied().filter(|_| first))?)
                });
                for sum in sums.unwrap() {
                    let same = sum.to_bits() == plain.to_bits() || (sum.is_nan() && plain.is_nan());
                    assert!(same, "{values:?} on {ranks} ranks: {sum}, not {plain}");
                }
            }
        }
        // Each rank's part is finite; together they are not.
        let sums = crate::local(2, |world| Ok(sum(world, [f64::MAX])?));
        assert_eq!(sums.unwrap(), [INFINITE; 2]);
    }

    #[test]
    fn errors_name_the_callers_line() {
        let places = crate::local(2, |world| {
            if world.rank() == 1 {
                return Ok(world.barrier().map_err(drop).err().map(|()| ""));
            }
            let failed = sum(world, [1.0]).expect_err("the other rank calls something else");
            let line = line!() - 1;
            assert_eq!(failed.location().line(), line, "{failed}");
            Ok(Some(failed.location().file()))
        });
        assert_eq!(places.unwrap()[0], Some(file!()));
    }
}
