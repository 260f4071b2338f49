//! Which rank owns which block.

use std::{fmt, ops::Range, sync::Arc};

use super::Block;

/// The part of `0..len` that belongs to `part` of `parts`: lengths differ by one at most, longer
/// parts come first.
///
/// With more parts than elements the last parts are empty.
///
/// # Panics
/// If there is no such part.
///
/// # Examples
/// ```
/// use spmd::array::block_range;
/// assert_eq!([0, 1, 2].map(|part| block_range(8, 3, part)), [0..3, 3..6, 6..8]);
/// assert_eq!([0, 1, 2].map(|part| block_range(2, 3, part)), [0..1, 1..2, 2..2]);
/// ```
pub fn block_range(len: usize, parts: usize, part: usize) -> Range<usize> {
    assert!(part < parts, "there is no part {part} of {parts}");
    let (short, longer) = (len / parts, len % parts);
    let start = part * short + part.min(longer);
    start..start + short + usize::from(part < longer)
}

/// A global array cut into blocks, one for each rank of a grid.
///
/// A plain value: it knows shapes and owners, holds no elements and sends no messages. Ranks are
/// numbered as [`Cart`](crate::topology::Cart) numbers them, the last axis fastest. Where an axis
/// has more ranks than elements some ranks own nothing, which is no error.
///
/// ```
/// use spmd::array::{Block, Layout};
/// let layout = Layout::new([500, 700], 6);
/// assert_eq!(layout.dims(), [2, 3]);
/// assert_eq!(layout.block(5), Block::new([250, 467], [250, 233]));
/// assert_eq!(layout.owner([499, 0]), 3);
/// assert_eq!(layout.to_string(), "500 x 700 cells on 2 x 3 ranks, blocks of 250 x 233 to 250 x 234");
/// ```
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Layout<const D: usize> {
    /// Along each axis where every block starts, and where the last one ends.
    starts: [Arc<[usize]>; D],
}

impl<const D: usize> Layout<D> {
    /// An array of `shape` on `ranks` ranks, cut so that little is to be exchanged with neighbours.
    ///
    /// Of the grids whose largest block is at most a tenth larger than it must be, it is the one
    /// with the fewest cells on the faces of a block to its neighbours; of equals, the one with more ranks along
    /// the first axes.
    ///
    /// # Panics
    /// If there are no ranks, or no axes.
    pub fn new(shape: [usize; D], ranks: usize) -> Self {
        Self::along(shape, ranks, &std::array::from_fn::<_, D, _>(|axis| axis))
    }

    /// As [`new`](Self::new), cut along these axes only: `&[0]` gives slabs, two of three axes
    /// pencils.
    ///
    /// # Panics
    /// If there are no ranks, or no axes, or not these.
    pub fn along(shape: [usize; D], ranks: usize, axes: &[usize]) -> Self {
        assert!(ranks > 0, "a layout of zero ranks owns nothing");
        assert!(!axes.is_empty(), "a layout is cut along one axis at least");
        assert!(axes.iter().all(|&axis| axis < D), "axes {axes:?} of {D}");
        let grids = grids(ranks, [1; D], axes);
        let largest = |dims: &[usize; D]| {
            (0..D).map(|axis| shape[axis].div_ceil(dims[axis]) as f64).product::<f64>()
        };
        let least = grids.iter().map(largest).fold(f64::INFINITY, f64::min);
        let cut = |dims: &[usize; D]| {
            let lens: [f64; D] =
                std::array::from_fn(|axis| shape[axis].div_ceil(dims[axis]) as f64);
            let face =
                |axis: usize| (0..D).filter(|&a| a != axis).map(|a| lens[a]).product::<f64>();
            (0..D).map(|axis| dims[axis].min(3).saturating_sub(1) as f64 * face(axis)).sum::<f64>()
        };
        let good = grids.into_iter().filter(|dims| largest(dims) <= 1.1 * least);
        let best = good.min_by(|one, other| cut(one).total_cmp(&cut(other)).then(other.cmp(one)));
        Self::on_grid(shape, best.expect("one of them is the best"))
    }

    /// An array of `shape` on a grid of `dims` ranks: lengths along an axis differ by one at most,
    /// longer blocks come first.
    ///
    /// # Panics
    /// If the grid has no ranks.
    pub fn on_grid(shape: [usize; D], dims: [usize; D]) -> Self {
        assert!(dims.iter().all(|&dim| dim > 0), "a grid of zero ranks owns nothing");
        let starts = std::array::from_fn(|axis| {
            let blocks = (0..dims[axis]).map(|part| block_range(shape[axis], dims[axis], part));
            std::iter::once(0).chain(blocks.map(|block| block.end)).collect()
        });
        Self { starts }
    }

    /// The layout whose blocks start there along each axis, with the end of the last.
    pub(super) fn from_starts(starts: [Arc<[usize]>; D]) -> Self {
        Self { starts }
    }

    /// The same array with other blocks along `axis`: as long as `weights` says, the cost of each
    /// element (in any unit), would give every block the same cost.
    ///
    /// Every rank must give the same weights.
    ///
    /// # Panics
    /// If there are not as many weights as elements along that axis, or one is negative or no
    /// number.
    #[must_use]
    pub fn weighted(&self, axis: usize, weights: &[f64]) -> Self {
        let (len, parts) = (self.shape()[axis], self.dims()[axis]);
        assert_eq!(weights.len(), len, "a weight for each element along axis {axis}");
        let valid = weights.iter().all(|&weight| weight >= 0.0 && weight.is_finite());
        assert!(valid, "weights are finite and not negative");
        let total: f64 = weights.iter().sum();
        if total <= 0.0 {
            return self.clone();
        }
        let (mut ends, mut done, mut next) = (vec![0], 0.0, 0);
        for part in 1..parts {
            let goal = total * part as f64 / parts as f64;
            // An element belongs to the block in which its middle lies.
            while next < len && done + weights[next] / 2.0 < goal {
                done += weights[next];
                next += 1;
            }
            ends.push(next);
        }
        ends.push(len);
        let mut starts = self.starts.clone();
        starts[axis] = ends.into();
        Self { starts }
    }

    /// A finer array on the same ranks: `factor` cells for each cell, blocks stay where they are.
    ///
    /// # Panics
    /// If it has more cells along an axis than can be counted.
    #[must_use]
    pub fn refine(&self, factor: usize) -> Self {
        let finer = |&start: &usize| start.checked_mul(factor).expect("cells can be counted");
        Self { starts: std::array::from_fn(|axis| self.starts[axis].iter().map(finer).collect()) }
    }

    /// A coarser array on the same ranks: one cell for `factor` cells along each axis (for fewer
    /// at the end). It belongs to the rank that owns the first of them; some ranks may own nothing
    /// then.
    ///
    /// # Panics
    /// If `factor` is 0.
    #[must_use]
    pub fn coarsen(&self, factor: usize) -> Self {
        let coarser = |start: &usize| start.div_ceil(factor);
        Self { starts: std::array::from_fn(|axis| self.starts[axis].iter().map(coarser).collect()) }
    }

    /// The same blocks of an array whose axis `axis` is this one's `axes[axis]`.
    ///
    /// # Panics
    /// If `axes` does not name every axis once.
    #[must_use]
    pub fn permuted(&self, axes: [usize; D]) -> Self {
        assert!((0..D).all(|axis| axes.contains(&axis)), "{axes:?} is an order of {D} axes");
        Self { starts: axes.map(|axis| Arc::clone(&self.starts[axis])) }
    }

    /// The shape of the global array.
    pub fn shape(&self) -> [usize; D] {
        std::array::from_fn(|axis| self.starts[axis][self.starts[axis].len() - 1])
    }

    /// The number of ranks along each axis.
    pub fn dims(&self) -> [usize; D] {
        std::array::from_fn(|axis| self.starts[axis].len() - 1)
    }

    /// The number of ranks.
    pub fn ranks(&self) -> usize {
        self.dims().iter().product()
    }

    /// Along `axis`, where each block starts, and where the last one ends.
    pub(super) fn starts(&self, axis: usize) -> &[usize] {
        &self.starts[axis]
    }

    /// The place of `rank` on the grid.
    ///
    /// # Panics
    /// If there is no such rank.
    pub fn coords(&self, rank: usize) -> [usize; D] {
        assert!(rank < self.ranks(), "there is no rank {rank} among {}", self.ranks());
        let (dims, mut rest) = (self.dims(), rank);
        let mut coords = [0; D];
        for axis in (0..D).rev() {
            coords[axis] = rest % dims[axis];
            rest /= dims[axis];
        }
        coords
    }

    /// The rank at a place of the grid.
    ///
    /// # Panics
    /// If there is none.
    pub fn rank_at(&self, coords: [usize; D]) -> usize {
        let dims = self.dims();
        assert!((0..D).all(|axis| coords[axis] < dims[axis]), "{coords:?} is on the grid {dims:?}");
        (0..D).fold(0, |rank, axis| rank * dims[axis] + coords[axis])
    }

    /// The global indices that `rank` owns. Ranks beyond those of the grid own none.
    pub fn block(&self, rank: usize) -> Block<D> {
        if rank >= self.ranks() {
            return Block::whole([0; D]);
        }
        let coords = self.coords(rank);
        let range = |axis: usize| &self.starts[axis][coords[axis]..][..2];
        Block::new(
            std::array::from_fn(|axis| range(axis)[0]),
            std::array::from_fn(|axis| range(axis)[1] - range(axis)[0]),
        )
    }

    /// The place along `axis` of the grid whose block has the element `place`.
    pub(super) fn owner_along(&self, axis: usize, place: usize) -> usize {
        self.starts[axis].partition_point(|&start| start <= place) - 1
    }

    /// The rank that owns the cell at a global index.
    ///
    /// # Panics
    /// If the array has no such cell.
    pub fn owner(&self, index: [usize; D]) -> usize {
        let shape = self.shape();
        let inside = (0..D).all(|axis| index[axis] < shape[axis]);
        assert!(inside, "there is no cell {index:?} in an array of {shape:?}");
        self.rank_at(std::array::from_fn(|axis| self.owner_along(axis, index[axis])))
    }

    /// The rank that owns a cell, and where it lies in that rank's block.
    ///
    /// # Panics
    /// If the array has no such cell.
    pub fn to_local(&self, index: [usize; D]) -> (usize, [usize; D]) {
        let rank = self.owner(index);
        let start = self.block(rank).start();
        (rank, std::array::from_fn(|axis| index[axis] - start[axis]))
    }

    /// The global index of a cell of the block of `rank`.
    ///
    /// # Panics
    /// If the block has no such cell.
    pub fn to_global(&self, rank: usize, index: [usize; D]) -> [usize; D] {
        let block = self.block(rank);
        let inside = (0..D).all(|axis| index[axis] < block.shape()[axis]);
        assert!(inside, "there is no cell {index:?} in rank {rank}'s block of {:?}", block.shape());
        std::array::from_fn(|axis| block.start()[axis] + index[axis])
    }
}

/// All grids of so many ranks, cut along `axes` only.
fn grids<const D: usize>(ranks: usize, dims: [usize; D], axes: &[usize]) -> Vec<[usize; D]> {
    let Some((&axis, rest)) = axes.split_first() else {
        return if ranks == 1 { vec![dims] } else { Vec::new() };
    };
    let cuts: Vec<usize> = if rest.is_empty() {
        vec![ranks]
    } else {
        (1..=ranks).filter(|cut| ranks.is_multiple_of(*cut)).collect()
    };
    let with = |cut: usize| {
        let mut dims = dims;
        dims[axis] *= cut;
        grids(ranks / cut, dims, rest)
    };
    cuts.into_iter().flat_map(with).collect()
}

fn times<const D: usize>(lens: [usize; D]) -> String {
    lens.map(|len| len.to_string()).join(" x ")
}

/// As `500 x 700 cells on 2 x 3 ranks, blocks of 250 x 233 to 250 x 234`.
impl<const D: usize> fmt::Display for Layout<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lens = |axis: usize| self.starts[axis].windows(2).map(|pair| pair[1] - pair[0]);
        let least = std::array::from_fn::<_, D, _>(|axis| lens(axis).min().unwrap_or(0));
        let most = std::array::from_fn::<_, D, _>(|axis| lens(axis).max().unwrap_or(0));
        let (shape, dims) = (times(self.shape()), times(self.dims()));
        write!(f, "{shape} cells on {dims} ranks, blocks of {}", times(least))?;
        if least == most { Ok(()) } else { write!(f, " to {}", times(most)) }
    }
}

impl<const D: usize> fmt::Debug for Layout<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Layout").field("starts", &self.starts).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_make_up_the_whole_and_differ_by_one_at_most() {
        for (len, parts) in
            (0..120).chain([997, 1000]).flat_map(|len| (1..40).map(move |parts| (len, parts)))
        {
            let ranges: Vec<_> = (0..parts).map(|part| block_range(len, parts, part)).collect();
            assert_eq!((ranges[0].start, ranges[parts - 1].end), (0, len));
            assert!(ranges.windows(2).all(|pair| pair[0].end == pair[1].start));
            assert!(ranges.windows(2).all(|pair| pair[0].len() >= pair[1].len()));
            assert!(ranges[0].len() - ranges[parts - 1].len() <= 1);
        }
    }

    /// Every cell is in one block, and the layout knows in whose and where.
    fn check<const D: usize>(layout: &Layout<D>) {
        let mut cells = 0;
        for rank in 0..=layout.ranks() {
            let block = layout.block(rank);
            cells += block.len();
            for (local, index) in Block::whole(block.shape()).indices().zip(block.indices()) {
                assert_eq!(layout.owner(index), rank, "{layout:?} {index:?}");
                assert_eq!(layout.to_local(index), (rank, local));
                assert_eq!(layout.to_global(rank, local), index);
            }
        }
        assert_eq!(cells, Block::whole(layout.shape()).len(), "{layout:?}");
    }

    #[test]
    fn every_cell_has_one_owner() {
        for case in 0..5_usize.pow(3) * 3_usize.pow(3) {
            let (cells, grid) = (case / 27, case % 27);
            let shape = [cells / 25, cells / 5 % 5, cells % 5];
            let layout = Layout::on_grid(shape, [grid / 9 + 1, grid / 3 % 3 + 1, grid % 3 + 1]);
            check(&layout);
            check(&layout.coarsen(2));
            check(&layout.permuted([2, 0, 1]));
        }
        for ranks in 1..9 {
            check(&Layout::new([7, 5], ranks));
            check(&Layout::along([7, 5], ranks, &[1]));
            check(&Layout::new([3], ranks).refine(3));
            check(&Layout::new([9], ranks).weighted(0, &[5., 0., 0., 1., 1., 9., 1., 1., 1.]));
        }
    }

    #[test]
    fn grids_have_short_cuts_and_even_blocks() {
        assert_eq!(Layout::new([1000, 1000], 4).dims(), [2, 2]);
        assert_eq!(Layout::new([1000, 1000], 8).dims(), [4, 2]);
        assert_eq!(Layout::new([1000, 10], 8).dims(), [8, 1]);
        assert_eq!(Layout::new([10, 1000], 7).dims(), [1, 7]);
        assert_eq!(Layout::new([64, 64, 64], 8).dims(), [2, 2, 2]);
        assert_eq!(Layout::along([64, 64, 64], 8, &[0, 2]).dims(), [4, 1, 2]);
        assert_eq!(Layout::new([3, 3], 7).ranks(), 7);
    }

    #[test]
    fn weights_even_out_the_cost() {
        let weights: Vec<f64> =
            (0..1000).map(|place| if place < 100 { 9.0 } else { 1.0 }).collect();
        let layout = Layout::new([1000], 3).weighted(0, &weights);
        for rank in 0..3 {
            let cost: f64 = weights[layout.block(rank).range(0)].iter().sum();
            assert!((cost - 600.0).abs() <= 9.0, "{rank}: {cost}");
        }
    }

    #[test]
    fn ranks_are_numbered_as_on_the_grid() {
        let same = crate::local(6, |world| {
            let grid =
                world.cart([None, None], [false, false])?.expect("all ranks are on the grid");
            let layout = Layout::on_grid([9, 4], grid.dims());
            Ok(layout.coords(grid.rank()) == grid.coords()
                && layout.rank_at(grid.coords()) == grid.rank())
        });
        assert_eq!(same.unwrap(), [true; 6]);
    }
}
