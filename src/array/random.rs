//! Random cells.

use super::{Axes, DistArray, lines::flat};
use crate::{
    datum::Datum,
    random::{Generator, Random},
};

/// # Random numbers
impl<T: Datum + Sync, const D: usize> DistArray<T, D>
where
    [usize; D]: Axes,
{
    /// Sets every cell of this rank's block to `value(generator of the cell, global index)`, on all
    /// threads of the rank.
    ///
    /// A cell's generator is that of its number in the global array, the last axis fastest: in an
    /// array of this shape a seed and a stream give the same cells on any number of ranks, with any
    /// layout and halo. A seed by itself is stream 0 of it.
    ///
    /// What it costs is said at [`Random::at`].
    ///
    /// # Examples
    /// ```
    /// use spmd::{array::{DistArray, Halo, Layout}, random::Random};
    /// let heights = |ranks| spmd::local(ranks, |world| {
    ///     let layout = Layout::new([30, 20], world.size());
    ///     let mut heights = DistArray::from_fn(world, &layout, Halo::star(1), |_| 0.0)?;
    ///     heights.fill_random(42, |random, [i, _]| i as f64 + random.uniform());
    ///     let mut other = heights.clone();
    ///     other.fill_random(Random::new(42).stream(1), |random, [i, _]| i as f64 + random.uniform());
    ///     assert_ne!(heights.checksum()?, other.checksum()?);
    ///     Ok(heights.checksum()?)
    /// });
    /// assert_eq!(heights(1).unwrap()[0], heights(5).unwrap()[0]);
    /// ```
    pub fn fill_random(
        &mut self,
        random: impl Into<Random>,
        value: impl Fn(&mut Generator, [usize; D]) -> T + Sync,
    ) {
        let (random, shape) = (random.into(), self.shape());
        self.change(|cells, mut index| {
            for (number, cell) in (flat(shape, index) as u64..).zip(cells) {
                *cell = value(&mut random.at(number), index);
                index[D - 1] += 1;
            }
        });
    }
}
