//! A block of an array whose number of axes is known to the file only.

use crate::array::Block;

/// Where a block starts and how far it goes along each axis.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Part {
    pub(super) start: Vec<usize>,
    pub(super) lens: Vec<usize>,
}

impl<const D: usize> From<&Block<D>> for Part {
    fn from(block: &Block<D>) -> Self {
        Self { start: block.start().to_vec(), lens: block.shape().to_vec() }
    }
}

impl Part {
    /// The same cells in a series whose first axis is time.
    #[cfg(feature = "hdf5")]
    pub(super) fn at_step(mut self, step: usize) -> Self {
        self.start.insert(0, step);
        self.lens.insert(0, 1);
        self
    }

    /// All of an array.
    pub(super) fn whole(shape: &[usize]) -> Self {
        Self { start: vec![0; shape.len()], lens: shape.to_vec() }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.lens.contains(&0)
    }

    /// Whether an array of this shape has all of it.
    pub(super) fn is_within(&self, shape: &[usize]) -> bool {
        self.lens.len() == shape.len()
            && (0..shape.len()).all(|axis| {
                let end = self.start[axis].checked_add(self.lens[axis]);
                end.is_some_and(|end| end <= shape[axis])
            })
    }

    /// None of its cells.
    #[cfg(feature = "phdf5")]
    pub(super) fn nothing(&self) -> Self {
        Self { start: vec![0; self.lens.len()], lens: vec![0; self.lens.len()] }
    }

    /// The same cells where the axes are counted from behind, as in Fortran.
    pub(super) fn reversed(mut self) -> Self {
        self.start.reverse();
        self.lens.reverse();
        self
    }

    /// The block in rounds of at most so many cells, one where it is smaller: each a block whose
    /// cells lie together where those of the whole do, and which of these cells they are.
    #[cfg(feature = "phdf5")]
    pub(super) fn rounds(&self, most: usize) -> Vec<(std::ops::Range<usize>, Self)> {
        if self.is_empty() {
            return Vec::new();
        }
        // The axis that is cut: of those before it each index is a round of its own.
        let below = |axis: usize| self.lens[axis + 1..].iter().product::<usize>();
        let axis = (0..self.lens.len()).find(|&axis| below(axis) <= most);
        let Some(axis) = axis else { return vec![(0..1, self.clone())] };
        let each = (most / below(axis)).max(1);
        let mut rounds = Vec::new();
        let mut first = 0;
        let outer: usize = self.lens[..axis].iter().product();
        for number in 0..outer {
            for along in (0..self.lens[axis]).step_by(each) {
                let (mut round, mut rest) = (self.clone(), number);
                for above in (0..axis).rev() {
                    round.start[above] += rest % self.lens[above];
                    round.lens[above] = 1;
                    rest /= self.lens[above];
                }
                round.start[axis] += along;
                round.lens[axis] = each.min(self.lens[axis] - along);
                let cells = round.lens.iter().product::<usize>();
                rounds.push((first..first + cells, round));
                first += cells;
            }
        }
        rounds
    }

    /// The pieces of which it consists in an array of this shape whose last axis lies together: how
    /// many cells each has, and at which cell each begins. A block of whole rows is one piece.
    pub(super) fn pieces(&self, shape: &[usize]) -> (usize, impl Iterator<Item = usize> + use<>) {
        let (mut piece, mut outer) = (1, shape.len());
        while outer > 0 {
            outer -= 1;
            piece *= self.lens[outer];
            if self.lens[outer] < shape[outer] {
                break;
            }
        }
        let pieces = if self.is_empty() { 0 } else { self.lens[..outer].iter().product() };
        let mut strides = vec![1; shape.len()];
        for axis in (1..shape.len()).rev() {
            strides[axis - 1] = strides[axis] * shape[axis];
        }
        let first: usize =
            self.start.iter().zip(&strides).map(|(start, stride)| start * stride).sum();
        strides.truncate(outer);
        let lens = self.lens[..outer].to_vec();
        let starts = (0..pieces).map(move |number| {
            let (mut rest, mut start) = (number, first);
            for (len, stride) in lens.iter().zip(&strides).rev() {
                start += rest % len * stride;
                rest /= len;
            }
            start
        });
        (piece, starts)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_the_cells_of_the_block_in_order() {
        let shape = [3, 4, 2];
        for start in Block::whole(shape).indices() {
            let room = std::array::from_fn(|axis| shape[axis] - start[axis] + 1);
            for lens in Block::whole(room).indices() {
                let block = Block::new(start, lens);
                let (piece, starts) = Part::from(&block).pieces(&shape);
                let cells: Vec<_> = starts.flat_map(|start| start..start + piece).collect();
                let wanted: Vec<_> = block.indices().map(|[i, j, k]| (i * 4 + j) * 2 + k).collect();
                assert_eq!(cells, wanted, "{block}");
            }
        }
    }

    #[cfg(feature = "phdf5")]
    #[test]
    fn rounds_are_the_cells_of_the_block_in_order() {
        let block = Block::new([2, 0, 1], [4, 3, 5]);
        for most in 1..=61 {
            let mut cells = Vec::new();
            for (range, round) in Part::from(&block).rounds(most) {
                assert!(range.len() <= most && range.start == cells.len(), "{most}: {round:?}");
                let array = |of: &[usize]| <[usize; 3]>::try_from(of).unwrap();
                let round = Block::new(array(&round.start), array(&round.lens));
                cells.extend(round.indices());
                assert_eq!(range.end, cells.len());
            }
            assert_eq!(cells, block.indices().collect::<Vec<_>>(), "{most}");
        }
        assert!(Part::whole(&[3, 0]).rounds(5).is_empty());
    }

    #[test]
    fn what_lies_together_is_one_piece() {
        let count = |start, lens| {
            let (piece, starts) = Part::from(&Block::new(start, lens)).pieces(&[5, 4, 6]);
            (piece, starts.count())
        };
        assert_eq!(count([0, 0, 0], [5, 4, 6]), (120, 1));
        assert_eq!(count([1, 0, 0], [3, 4, 6]), (72, 1));
        assert_eq!(count([1, 1, 0], [3, 2, 6]), (12, 3));
        assert_eq!(count([1, 1, 2], [3, 2, 3]), (3, 6));
        assert_eq!(Part::whole(&[]).pieces(&[]).1.collect::<Vec<_>>(), [0]);
    }
}
