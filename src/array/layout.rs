//! Which rank owns which block.

use std::ops::Range;

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
/// A plain value: it knows shapes and ranges, holds no elements and sends no messages. Ranks are
/// numbered as [`Cart`](crate::topology::Cart) numbers them, the last axis fastest.
///
/// ```
/// use spmd::array::Layout;
/// let layout = Layout::new([5, 7], [2, 3]);
/// assert_eq!(layout.block(0), [0..3, 0..3]);
/// assert_eq!(layout.block(5), [3..5, 5..7]);
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout<const D: usize> {
    shape: [usize; D],
    dims: [usize; D],
}

impl<const D: usize> Layout<D> {
    /// An array of `shape` on a grid of `dims` ranks, as
    /// [`Cart::dims`](crate::topology::Cart::dims) gives them.
    ///
    /// Where an axis has more ranks than elements the last ranks along it own nothing.
    ///
    /// # Panics
    /// If the grid has no ranks.
    pub fn new(shape: [usize; D], dims: [usize; D]) -> Self {
        assert!(dims.iter().all(|&dim| dim > 0), "a grid of zero ranks owns nothing");
        Self { shape, dims }
    }

    /// The shape of the global array.
    pub fn shape(&self) -> [usize; D] {
        self.shape
    }

    /// The number of ranks along each axis.
    pub fn dims(&self) -> [usize; D] {
        self.dims
    }

    /// The number of ranks.
    pub fn ranks(&self) -> usize {
        self.dims.iter().product()
    }

    /// The global indices along each axis that `rank` owns.
    ///
    /// # Panics
    /// If there is no such rank.
    pub fn block(&self, rank: usize) -> [Range<usize>; D] {
        assert!(rank < self.ranks(), "there is no rank {rank} among {}", self.ranks());
        let mut behind = self.ranks();
        std::array::from_fn(|axis| {
            let along = behind;
            behind /= self.dims[axis];
            block_range(self.shape[axis], self.dims[axis], rank % along / behind)
        })
    }

    /// The shape of the block that `rank` owns.
    ///
    /// # Panics
    /// If there is no such rank.
    pub fn block_shape(&self, rank: usize) -> [usize; D] {
        self.block(rank).map(|range| range.len())
    }

    /// Whether `rank` owns nothing.
    ///
    /// # Panics
    /// If there is no such rank.
    pub fn is_empty(&self, rank: usize) -> bool {
        self.block_shape(rank).contains(&0)
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

    #[test]
    fn every_cell_has_one_owner() {
        for case in 0..6_usize.pow(3) * 4_usize.pow(3) {
            let (cells, grid) = (case / 64, case % 64);
            let shape = [cells / 36, cells / 6 % 6, cells % 6];
            let layout = Layout::new(shape, [grid / 16 + 1, grid / 4 % 4 + 1, grid % 4 + 1]);
            let mut owners = ndarray::Array3::<u32>::zeros(shape);
            for rank in 0..layout.ranks() {
                let [planes, rows, columns] = layout.block(rank);
                owners
                    .slice_mut(ndarray::s![planes, rows, columns])
                    .mapv_inplace(|count| count + 1);
            }
            assert!(owners.iter().all(|&count| count == 1), "{shape:?} {grid}");
        }
    }

    #[test]
    fn ranks_are_numbered_as_on_the_grid() {
        let blocks = crate::local(6, |world| {
            let grid =
                world.cart([None, None], [false, false])?.expect("all ranks are on the grid");
            let layout = Layout::new([9, 4], grid.dims());
            let [row, column] = grid.coords();
            let [rows, columns] = grid.dims();
            let expected = [block_range(9, rows, row), block_range(4, columns, column)];
            Ok(layout.block(grid.rank()) == expected)
        });
        assert_eq!(blocks.unwrap(), [true; 6]);
    }
}
