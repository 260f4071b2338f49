//! One number for an array that lies on many ranks.

use std::{cmp::Ordering, panic::Location};

use super::{
    Axes, DistArray,
    lines::{Line, flat, unflat},
};
use crate::{
    comm::{Located, Number, Sum},
    datum::Datum,
    error::{ErrorKind, Result},
};

/// # One number for all of it
impl<T: Datum + Sync, const D: usize> DistArray<T, D>
where
    [usize; D]: Axes,
{
    /// What a fold of all cells and their global indices comes to: `fold` takes a cell into a
    /// result, `combine` two results into one, on all threads of all ranks. How they are combined
    /// depends on the blocks alone.
    ///
    /// # Collective
    /// An allreduce of one element.
    #[track_caller]
    fn total<R: Datum + Sync>(
        &self,
        start: R,
        fold: impl Fn(R, [usize; D], T) -> R + Sync,
        combine: impl Fn(R, R) -> R + Sync,
    ) -> Result<R> {
        let fold = |sofar: Option<R>, line: Line<'_, T, D>| {
            let mut index = line.index();
            let mut sofar = sofar.unwrap_or(start);
            for &cell in line.at([0; D]) {
                sofar = fold(sofar, index, cell);
                index[D - 1] += 1;
            }
            sofar
        };
        let mine = self.ground().fold(&self.cells, &self.frame.inner, &fold, &combine);
        let all = self.comm().allreduce(&[mine.unwrap_or(start)], combine)?;
        Ok(all[0])
    }

    /// A number that tells whether two arrays are equal in every bit, however each is distributed.
    ///
    /// Each cell's global index and bits are hashed; the hashes are added up, so that their order
    /// does not matter.
    ///
    /// # Collective
    /// An allreduce of 8 bytes.
    #[track_caller]
    pub fn checksum(&self) -> Result<u64> {
        let at = Location::caller();
        let shape = self.shape();
        let hash = |sum: u64, index, cell: T| {
            let words = bytemuck::bytes_of(&cell).chunks(size_of::<u64>()).map(|part| {
                let mut word = [0; size_of::<u64>()];
                word[..part.len()].copy_from_slice(part);
                u64::from_le_bytes(word)
            });
            let start = scramble(flat(shape, index) as u64);
            sum.wrapping_add(words.fold(start, |hash, word| scramble(word ^ hash)))
        };
        self.total(0, hash, u64::wrapping_add).map_err(|error| error.called_at(at))
    }
}

/// # Sums and extremes
impl<T: Number + Sync, const D: usize> DistArray<T, D>
where
    [usize; D]: Axes,
{
    /// The sum of all cells; integers wrap around. The same blocks give the same bits; see
    /// [`sum_reproducible`](DistArray::sum_reproducible) for any blocks.
    ///
    /// # Collective
    /// An allreduce of one element.
    ///
    /// # Examples
    /// ```
    /// use spmd::array::{DistArray, Halo, Layout};
    /// let sums = spmd::local(3, |world| {
    ///     let layout = Layout::new([4, 5], world.size());
    ///     let array = DistArray::from_fn(world, &layout, Halo::none(), |[i, j]| i * 10 + j)?;
    ///     Ok((array.sum()?, array.max()?))
    /// });
    /// assert_eq!(sums.unwrap(), [(340, Some(34)); 3]);
    /// ```
    #[track_caller]
    pub fn sum(&self) -> Result<T> {
        let at = Location::caller();
        let add = |sum: T, _, cell| sum.plus(cell);
        self.total(T::zeroed(), add, T::plus).map_err(|error| error.called_at(at))
    }

    /// The sum of the products of the cells of two arrays; integers wrap around.
    ///
    /// # Collective
    /// An allreduce of one element.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`] if the arrays have other blocks, or halos of another width.
    #[track_caller]
    pub fn dot(&self, other: &Self) -> Result<T> {
        let at = Location::caller();
        let (mine, theirs) = (&self.frame, &other.frame);
        if (mine.block, mine.shape, mine.inner) != (theirs.block, theirs.shape, theirs.inner) {
            let what = "the arrays have other blocks or halos of another width".to_owned();
            return Err(self.comm().refuse("dot", ErrorKind::InvalidArgument { what }, at));
        }
        let (ground, others) = (self.ground(), &other.cells);
        let fold = |sum: Option<T>, line: Line<'_, T, D>| {
            let pairs = line.at([0; D]).iter().zip(&others[line.at..]);
            pairs.fold(sum.unwrap_or(T::zeroed()), |sum, (&one, &other)| sum.plus(one.times(other)))
        };
        let sum = ground.fold(&self.cells, &mine.inner, &fold, &T::plus);
        let sums = self.comm().allreduce(&[sum.unwrap_or(T::zeroed())], Sum);
        Ok(sums.map_err(|error| error.called_at(at))?[0])
    }

    /// The smallest cell, NaN if one is; none if there are no cells.
    ///
    /// # Collective
    /// An allreduce of two elements.
    #[track_caller]
    pub fn min(&self) -> Result<Option<T>> {
        self.extreme(T::least, Location::caller())
    }

    /// The largest cell, NaN if one is; none if there are no cells.
    ///
    /// # Collective
    /// As [`min`](Self::min).
    #[track_caller]
    pub fn max(&self) -> Result<Option<T>> {
        self.extreme(T::greatest, Location::caller())
    }

    fn extreme(
        &self,
        better: impl Fn(T, T) -> T + Sync,
        at: &'static Location<'static>,
    ) -> Result<Option<T>> {
        let fold = |sofar: Option<T>, line: Line<'_, T, D>| {
            let cells = line.at([0; D]);
            cells.iter().fold(sofar.unwrap_or(cells[0]), |best, &cell| better(best, cell))
        };
        let mine = self.ground().fold(&self.cells, &self.frame.inner, &fold, &better);
        // Who has no cells says so by an empty row.
        let all = self.comm().allgather(mine.as_slice()).map_err(|error| error.called_at(at))?;
        Ok(all.into_flat().into_iter().reduce(better))
    }

    /// The smallest cell and its global index, the first one of several; none if there are no
    /// cells. What it is if some are NaN is not specified.
    ///
    /// # Collective
    /// An allgather of one element and its place.
    #[track_caller]
    pub fn min_loc(&self) -> Result<Option<(T, [usize; D])>> {
        let best = self.best(1, T::partial_cmp, Location::caller())?;
        Ok(best.first().copied())
    }

    /// The largest cell and its global index, as [`min_loc`](Self::min_loc).
    ///
    /// # Collective
    /// As [`min_loc`](Self::min_loc).
    #[track_caller]
    pub fn max_loc(&self) -> Result<Option<(T, [usize; D])>> {
        let best = self.best(1, |one, other| other.partial_cmp(one), Location::caller())?;
        Ok(best.first().copied())
    }

    /// The `count` largest cells and their global indices, the largest first, of equals the one
    /// with the lower index; fewer if there are not as many.
    ///
    /// # Collective
    /// An allgather of up to `count` elements and their places from each rank.
    #[track_caller]
    pub fn top(&self, count: usize) -> Result<Vec<(T, [usize; D])>> {
        self.best(count, |one, other| other.partial_cmp(one), Location::caller())
    }

    fn best(
        &self,
        count: usize,
        compare: impl Fn(&T, &T) -> Option<Ordering>,
        at: &'static Location<'static>,
    ) -> Result<Vec<(T, [usize; D])>> {
        let shape = self.shape();
        let order = |one: &Located<T>, other: &Located<T>| {
            let values = compare(&one.value(), &other.value()).unwrap_or(Ordering::Equal);
            values.then(one.index().cmp(&other.index()))
        };
        let first = |mut found: Vec<Located<T>>| {
            if count > 0 && found.len() > count {
                found.select_nth_unstable_by(count - 1, order);
            }
            found.truncate(count);
            found
        };
        let places = self.block().indices().map(|index| flat(shape, index) as u64);
        let cells = self.block_values().zip(places);
        let mine = first(cells.map(|(value, place)| Located::new(value, place)).collect());
        let all = self.comm().allgather(&mine).map_err(|error| error.called_at(at))?;
        let mut best = first(all.into_flat());
        best.sort_by(order);
        Ok(best
            .iter()
            .map(|found| (found.value(), unflat(shape, found.index() as usize)))
            .collect())
    }
}

/// # Sums of `f64`
impl<const D: usize> DistArray<f64, D>
where
    [usize; D]: Axes,
{
    /// The square root of the sum of squares.
    ///
    /// # Collective
    /// An allreduce of one element.
    #[track_caller]
    pub fn norm2(&self) -> Result<f64> {
        let at = Location::caller();
        self.dot(self).map(f64::sqrt).map_err(|error| error.called_at(at))
    }

    /// The exact sum of all cells, rounded once: the same bits for every number of ranks and all
    /// blocks. See [`Comm::sum_reproducible`](crate::Comm::sum_reproducible).
    ///
    /// # Collective
    /// An allreduce of 568 bytes.
    #[track_caller]
    pub fn sum_reproducible(&self) -> Result<f64> {
        let at = Location::caller();
        let values: Vec<f64> = self.block_values().collect();
        self.comm().sum_reproducible(&values).map_err(|error| error.called_at(at))
    }
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
    use crate::array::{Halo, Layout};

    fn checksum_of(block: &ndarray::Array2<f64>) -> u64 {
        let (rows, columns) = block.dim();
        let sums = crate::local(1, |world| {
            let layout = Layout::new([rows, columns], 1);
            let array = DistArray::from_fn(world, &layout, Halo::none(), |index| block[index])?;
            Ok(array.checksum()?)
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
    fn errors_name_the_callers_line() {
        let places = crate::local(2, |world| {
            let array = DistArray::from_fn(world, &Layout::new([2], 2), Halo::none(), |[i]| i)?;
            if world.rank() == 1 {
                return Ok(array.comm().barrier().map_err(drop).err().map(|()| ""));
            }
            let failed = array.sum().expect_err("the other rank calls something else");
            let line = line!() - 1;
            assert_eq!(failed.location().line(), line, "{failed}");
            Ok(Some(failed.location().file()))
        });
        assert_eq!(places.unwrap()[0], Some(file!()));
    }
}
