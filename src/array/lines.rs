//! Lines of cells: how the cells of a block lie in memory, and how all of a rank's threads visit
//! them.
//!
//! An array with halo lies in memory with its last axis fastest. A *line* is what a block has of
//! that axis: consecutive cells. Kernels see whole lines, so that the compiler can use vector
//! instructions; threads share blocks, cut along the first axis that is longer than one.

use super::{Block, Halo, block_range};

/// A block with no more cells is the work of one thread: handing it over must be worth the trouble.
const TOGETHER: usize = 16_384;

/// Where a cell lies in an array of this shape.
#[inline]
pub(super) fn flat<const D: usize>(shape: [usize; D], index: [usize; D]) -> usize {
    (0..D).fold(0, |place, axis| place * shape[axis] + index[axis])
}

/// The cell at a place of an array of this shape.
pub(super) fn unflat<const D: usize>(shape: [usize; D], mut place: usize) -> [usize; D] {
    let mut index = [0; D];
    for axis in (0..D).rev() {
        index[axis] = place % shape[axis];
        place /= shape[axis];
    }
    index
}

/// Where the lines of a block begin in an array of this shape.
pub(super) fn rows<const D: usize>(
    block: &Block<D>,
    shape: [usize; D],
) -> impl Iterator<Item = usize> + use<D> {
    let mut lines = block.shape();
    if !block.is_empty() {
        lines[D - 1] = 1;
    }
    Block::new(block.start(), lines).indices().map(move |index| flat(shape, index))
}

/// The two halves of a block that is worth sharing.
fn halves<const D: usize>(block: &Block<D>) -> Option<[Block<D>; 2]> {
    if block.len() <= TOGETHER {
        return None;
    }
    let axis = (0..D).find(|&axis| block.shape()[axis] > 1)?;
    let (mut start, mut shape) = (block.start(), block.shape());
    let half = shape[axis] / 2;
    shape[axis] = half;
    let first = Block::new(start, shape);
    start[axis] += half;
    shape[axis] = block.shape()[axis] - half;
    Some([first, Block::new(start, shape)])
}

/// A block in parts of about so many cells, cut along its first axis that is longer than one.
pub(super) fn parts<const D: usize>(
    block: &Block<D>,
    cells: usize,
) -> impl Iterator<Item = Block<D>> + use<D> {
    let (start, shape) = (block.start(), block.shape());
    let axis = (0..D).find(|&axis| shape[axis] > 1).unwrap_or(0);
    let count = (block.len() / cells.max(1)).clamp(1, shape[axis].max(1));
    (0..count).map(move |part| {
        let range = block_range(shape[axis], count, part);
        let (mut start, mut shape) = (start, shape);
        start[axis] += range.start;
        shape[axis] = range.len();
        Block::new(start, shape)
    })
}

/// A line of cells, and the cells around it.
///
/// See [`DistArray::update_lines`](super::DistArray::update_lines).
#[derive(Clone, Copy, Debug)]
pub struct Line<'a, T, const D: usize> {
    /// The array with halo.
    pub(super) cells: &'a [T],
    pub(super) shape: [usize; D],
    pub(super) halo: &'a Halo<D>,
    /// Where the line begins in memory.
    pub(super) at: usize,
    pub(super) len: usize,
    /// The global index of its first cell.
    pub(super) index: [usize; D],
}

impl<'a, T, const D: usize> Line<'a, T, D> {
    /// The number of its cells.
    #[inline]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether it has no cells; such lines are not visited.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The global index of the first cell; along the last axis the others follow.
    pub fn index(&self) -> [usize; D] {
        self.index
    }

    /// The cells that lie so many steps away from those of the line, along each axis: as many.
    ///
    /// # Panics
    /// If the halo does not reach so far.
    #[inline]
    pub fn at(&self, offset: [isize; D]) -> &'a [T] {
        assert!(self.halo.reaches(offset), "the halo does not reach the cells at {offset:?}");
        let steps = (0..D).fold(0, |steps, axis| steps * self.shape[axis] as isize + offset[axis]);
        &self.cells[self.at.wrapping_add_signed(steps)..][..self.len]
    }
}

/// What the lines of a block are visited in: an array with halo, and where the block itself begins
/// in it and in the global array.
#[derive(Clone, Copy)]
pub(super) struct Ground<'a, const D: usize> {
    pub(super) shape: [usize; D],
    pub(super) halo: &'a Halo<D>,
    /// The first cell of the block in the array with halo.
    pub(super) inner: [usize; D],
    /// And its global index.
    pub(super) global: [usize; D],
}

impl<'a, const D: usize> Ground<'a, D> {
    fn line<T>(&self, cells: &'a [T], at: usize, index: [usize; D], len: usize) -> Line<'a, T, D> {
        let Self { shape, halo, inner, global } = *self;
        let index = std::array::from_fn(|axis| index[axis] - inner[axis] + global[axis]);
        Line { cells, shape, halo, at, len, index }
    }

    /// Calls `kernel` for every line of `block` (places in the array with halo) with the cells of
    /// `out` there and the line of `cells`, on all threads of this rank.
    ///
    /// `out` is the part of an array of the same shape from place `base` on.
    pub(super) fn write<T: Sync, U: Send>(
        &self,
        cells: &'a [T],
        (out, base): (&mut [U], usize),
        block: &Block<D>,
        kernel: &(impl Fn(&mut [U], Line<'a, T, D>) + Sync),
    ) {
        if block.is_empty() {
            return;
        }
        if let Some([first, second]) = halves(block) {
            // All cells of the second half lie behind those of the first: it is cut along the first
            // axis that is longer than one.
            let cut = flat(self.shape, second.start());
            let (left, right) = out.split_at_mut(cut - base);
            rayon::join(
                || self.write(cells, (left, base), &first, kernel),
                || self.write(cells, (right, cut), &second, kernel),
            );
            return;
        }
        let len = block.shape()[D - 1];
        let mut lines = block.shape();
        lines[D - 1] = 1;
        for index in Block::new(block.start(), lines).indices() {
            let at = flat(self.shape, index);
            kernel(&mut out[at - base..][..len], self.line(cells, at, index, len));
        }
    }

    /// Folds every line of `block` and combines the results, on all threads of this rank. How they
    /// are combined depends on the block alone, so that the same bits come each time.
    pub(super) fn fold<T: Sync, R: Send>(
        &self,
        cells: &'a [T],
        block: &Block<D>,
        fold: &(impl Fn(Option<R>, Line<'a, T, D>) -> R + Sync),
        combine: &(impl Fn(R, R) -> R + Sync),
    ) -> Option<R> {
        if block.is_empty() {
            return None;
        }
        if let Some([first, second]) = halves(block) {
            let (left, right) = rayon::join(
                || self.fold(cells, &first, fold, combine),
                || self.fold(cells, &second, fold, combine),
            );
            return match (left, right) {
                (Some(left), Some(right)) => Some(combine(left, right)),
                (one, other) => one.or(other),
            };
        }
        let len = block.shape()[D - 1];
        let mut lines = block.shape();
        lines[D - 1] = 1;
        Block::new(block.start(), lines).indices().fold(None, |sofar, index| {
            let at = flat(self.shape, index);
            Some(fold(sofar, self.line(cells, at, index, len)))
        })
    }
}

/// What a block has beyond a part of it, as blocks: two for each axis, some of them empty.
pub(super) fn shell<const D: usize>(block: &Block<D>, part: &Block<D>) -> Vec<Block<D>> {
    if part.is_empty() {
        return vec![*block];
    }
    let mut rest = *block;
    let mut pieces = Vec::with_capacity(2 * D);
    for axis in 0..D {
        let (mut start, mut shape) = (rest.start(), rest.shape());
        let (first, last) = (part.range(axis).start, part.range(axis).end);
        let end = rest.range(axis).end;
        shape[axis] = first - start[axis];
        pieces.push(Block::new(start, shape));
        start[axis] = last;
        shape[axis] = end - last;
        pieces.push(Block::new(start, shape));
        start[axis] = first;
        shape[axis] = last - first;
        rest = Block::new(start, shape);
    }
    pieces
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shell_and_its_core_are_the_block_once() {
        let block = Block::new([1, 2, 3], [4, 5, 3]);
        for start in block.indices() {
            for shape in Block::whole([4, 5, 3]).indices() {
                let part = block.intersect(&Block::new(start, shape));
                let pieces = shell(&block, &part);
                let count = |index| {
                    pieces.iter().chain([&part]).filter(|piece| piece.contains(index)).count()
                };
                assert!(block.indices().all(|index| count(index) == 1), "{part}");
                assert_eq!(pieces.iter().map(Block::len).sum::<usize>() + part.len(), block.len());
            }
        }
    }

    #[test]
    fn parts_are_the_block_in_order() {
        for shape in Block::whole([3, 7, 6]).indices() {
            let block = Block::new([1, 2, 3], shape);
            for cells in [0, 1, 5, 40, 1000] {
                let all: Vec<_> = parts(&block, cells)
                    .flat_map(|part| part.indices().collect::<Vec<_>>())
                    .collect();
                assert_eq!(all, block.indices().collect::<Vec<_>>(), "{block} by {cells}");
            }
        }
    }

    #[test]
    fn every_line_is_visited_once_with_its_own_cells() {
        // On a pool of its own threads, as a rank is: they hand work to each other by what
        // ThreadSanitizer sees, a thread from outside by a lock of std.
        let pool = rayon::ThreadPoolBuilder::new().num_threads(2).use_current_thread();
        let _pool = pool.build().expect("two threads");
        let (shape, halo) = ([70, 80, 90], Halo::star(1));
        let ground = Ground { shape, halo: &halo, inner: [1; 3], global: [10, 20, 30] };
        let block = Block::new([1, 1, 1], [68, 78, 88]);
        let cells: Vec<usize> = (0..shape.iter().product()).collect();
        let mut out = vec![0; cells.len()];
        ground.write(&cells, (&mut out, 0), &block, &|out: &mut [usize], line| {
            assert_eq!(flat(shape, [9, 19, 29].map(|_: usize| 0)), 0);
            let behind = line.at([0, 0, 1]);
            for (out, &cell) in out.iter_mut().zip(behind) {
                *out += cell;
            }
        });
        for index in Block::whole(shape).indices() {
            let at = flat(shape, index);
            assert_eq!(out[at], if block.contains(index) { at + 1 } else { 0 });
        }
        let lines =
            ground.fold(&cells, &block, &|n, line| n.unwrap_or(0) + line.len(), &|a, b| a + b);
        assert_eq!(lines, Some(block.len()));
    }
}
