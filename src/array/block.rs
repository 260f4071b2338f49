//! A box of global indices, as a value.

use std::{fmt, ops::Range};

use ndarray::{ArrayView, ArrayViewMut, Dim, Dimension};

/// The numbers of axes that arrays can have: 1 to 6.
///
/// `[usize; D]: Axes` holds for them; the traits of `ndarray` say the same in more words.
pub trait Axes: sealed::Sealed + Copy {
    /// `ndarray`'s type of such a shape: `Ix1` to `Ix6`.
    type Dim: Dimension;

    /// The shape for `ndarray`.
    #[doc(hidden)]
    fn dim(self) -> Self::Dim;
}

mod sealed {
    pub trait Sealed {}
}

macro_rules! axes {
    ($($count:literal)*) => {$(
        impl sealed::Sealed for [usize; $count] {}

        impl Axes for [usize; $count] {
            type Dim = Dim<[usize; $count]>;

            fn dim(self) -> Self::Dim {
                Dim(self)
            }
        }
    )*};
}

axes! { 1 2 3 4 5 6 }

/// A box of indices: where it starts, and how far it goes along each axis.
///
/// The global indices of a rank's block, the cells that a neighbour needs, the part of a file that
/// is read: all of them are blocks.
///
/// ```
/// use spmd::array::Block;
/// let (left, right) = (Block::new([0, 0], [4, 3]), Block::new([2, 1], [4, 4]));
/// assert_eq!(left.intersect(&right), Block::new([2, 1], [2, 2]));
/// assert_eq!(left.to_string(), "0..4 x 0..3");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Block<const D: usize> {
    start: [usize; D],
    shape: [usize; D],
}

impl<const D: usize> Block<D> {
    /// The indices from `start` on, so many along each axis.
    ///
    /// # Panics
    /// If it ends beyond the largest number.
    pub fn new(start: [usize; D], shape: [usize; D]) -> Self {
        let ends = (0..D).all(|axis| start[axis].checked_add(shape[axis]).is_some());
        assert!(ends, "a block ends beyond the largest number");
        Self { start, shape }
    }

    /// All indices of an array of this shape.
    pub fn whole(shape: [usize; D]) -> Self {
        Self::new([0; D], shape)
    }

    /// The first index.
    pub fn start(&self) -> [usize; D] {
        self.start
    }

    /// The number of indices along each axis.
    pub fn shape(&self) -> [usize; D] {
        self.shape
    }

    /// Behind the last index along each axis.
    pub fn end(&self) -> [usize; D] {
        std::array::from_fn(|axis| self.start[axis] + self.shape[axis])
    }

    /// The indices along one axis.
    ///
    /// # Panics
    /// If there is no such axis.
    pub fn range(&self, axis: usize) -> Range<usize> {
        self.start[axis]..self.start[axis] + self.shape[axis]
    }

    /// The indices along each axis.
    pub fn ranges(&self) -> [Range<usize>; D] {
        std::array::from_fn(|axis| self.range(axis))
    }

    /// The number of cells; the largest number if there are more.
    pub fn len(&self) -> usize {
        // An empty axis makes the block empty, however long the others are.
        if self.is_empty() {
            return 0;
        }
        self.shape.iter().fold(1, |cells, &len| cells.saturating_mul(len))
    }

    /// Whether there are no indices in it.
    pub fn is_empty(&self) -> bool {
        self.shape.contains(&0)
    }

    /// Whether `index` is one of its.
    pub fn contains(&self, index: [usize; D]) -> bool {
        (0..D).all(|axis| self.range(axis).contains(&index[axis]))
    }

    /// The indices of both.
    #[must_use]
    pub fn intersect(&self, other: &Self) -> Self {
        let (ends, theirs) = (self.end(), other.end());
        let start: [usize; D] = std::array::from_fn(|axis| self.start[axis].max(other.start[axis]));
        let shape =
            std::array::from_fn(|axis| ends[axis].min(theirs[axis]).saturating_sub(start[axis]));
        Self { start, shape }
    }

    /// The same box seen from `origin`: its first index becomes `start - origin`.
    ///
    /// # Panics
    /// If it starts before `origin`.
    #[must_use]
    pub fn relative_to(&self, origin: [usize; D]) -> Self {
        let start = std::array::from_fn(|axis| {
            let place = self.start[axis].checked_sub(origin[axis]);
            place.expect("the block does not start before the origin")
        });
        Self { start, shape: self.shape }
    }

    /// All indices, the last axis fastest.
    pub fn indices(&self) -> impl Iterator<Item = [usize; D]> + use<D> {
        let (start, end, mut next) = (self.start, self.end(), self.start);
        let cells = self.len();
        (0..cells).map(move |_| {
            let index = next;
            for axis in (0..D).rev() {
                next[axis] += 1;
                if next[axis] < end[axis] {
                    break;
                }
                next[axis] = start[axis];
            }
            index
        })
    }
}

impl<const D: usize> Block<D>
where
    [usize; D]: Axes,
{
    /// This block's part of an array.
    ///
    /// # Panics
    /// If the array ends before the block.
    pub fn of<'a, T>(
        &self,
        array: impl Into<ArrayView<'a, T, <[usize; D] as Axes>::Dim>>,
    ) -> ArrayView<'a, T, <[usize; D] as Axes>::Dim> {
        let mut part = array.into();
        part.slice_each_axis_inplace(|axis| self.range(axis.axis.index()).into());
        part
    }

    /// This block's part of an array, to be changed.
    ///
    /// # Panics
    /// If the array ends before the block.
    pub fn of_mut<'a, T>(
        &self,
        array: impl Into<ArrayViewMut<'a, T, <[usize; D] as Axes>::Dim>>,
    ) -> ArrayViewMut<'a, T, <[usize; D] as Axes>::Dim> {
        let mut part = array.into();
        part.slice_each_axis_inplace(|axis| self.range(axis.axis.index()).into());
        part
    }
}

/// As `0..4 x 0..3`.
impl<const D: usize> fmt::Display for Block<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for axis in 0..D {
            let between = if axis > 0 { " x " } else { "" };
            write!(f, "{between}{}..{}", self.start[axis], self.start[axis] + self.shape[axis])?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn indices_are_those_of_the_block_in_order() {
        let block = Block::new([1, 5], [2, 2]);
        let indices: Vec<_> = block.indices().collect();
        assert_eq!(indices, [[1, 5], [1, 6], [2, 5], [2, 6]]);
        assert_eq!(Block::new([1, 5], [2, 0]).indices().count(), 0);
        assert_eq!(Block::new([3], [usize::MAX - 3]).len(), usize::MAX - 3);
        assert_eq!(Block::whole([0, usize::MAX]).len(), 0);
    }

    #[test]
    fn blocks_intersect_in_blocks() {
        let all = Block::whole([5, 4]);
        for start in all.indices() {
            let one = Block::new(start, [2, 3]);
            let both = all.intersect(&one);
            for index in Block::whole([8, 8]).indices() {
                assert_eq!(both.contains(index), all.contains(index) && one.contains(index));
            }
            let apart = Block::new([7, 7], [1, 1]).intersect(&one);
            assert!(apart.is_empty());
        }
    }
}
