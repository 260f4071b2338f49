//! The border cells that a block needs of others: how far, and whose.

use std::ops::Range;

use super::{Block, Layout};

/// What lies beyond a side of a global array.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Boundary {
    /// Cells that belong to the program: 0 (the type's default) until it sets them.
    Fixed,
    /// A wall that nothing flows through: the cells before it, mirrored.
    Insulated,
    /// The other end of the axis.
    Periodic,
}

/// Which of the cells around a block a stencil reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Stencil {
    /// Those straight along one axis: no corners.
    Star,
    /// All.
    Box,
}

/// The copies of border cells that a rank keeps around its block: how many along each axis, to
/// which side, and what they are where the array ends.
///
/// ```
/// use spmd::array::{Boundary, Halo};
/// let five_point = Halo::star(1);
/// let cells_of_a_channel = Halo::cube(2).periodic(0).with_boundary(1, [Boundary::Insulated; 2]);
/// let upwind = Halo::none().with_width(0, [2, 0]);
/// # let _: [Halo<2>; 3] = [five_point, cells_of_a_channel, upwind];
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Halo<const D: usize> {
    widths: [[usize; 2]; D],
    boundaries: [[Boundary; 2]; D],
    stencil: Stencil,
}

impl<const D: usize> Halo<D> {
    /// No halo at all, fixed boundaries.
    pub fn none() -> Self {
        Self::star(0)
    }

    /// So many cells to every side, none at corners; fixed boundaries.
    pub fn star(width: usize) -> Self {
        let boundaries = [[Boundary::Fixed; 2]; D];
        Self { widths: [[width; 2]; D], boundaries, stencil: Stencil::Star }
    }

    /// So many cells all around, corners too; fixed boundaries.
    pub fn cube(width: usize) -> Self {
        Self { stencil: Stencil::Box, ..Self::star(width) }
    }

    /// With other numbers of cells along `axis`: before the block, behind it.
    ///
    /// # Panics
    /// If there is no such axis.
    #[must_use]
    pub fn with_width(mut self, axis: usize, width: [usize; 2]) -> Self {
        self.widths[axis] = width;
        self
    }

    /// With other boundaries along `axis`: where it begins, where it ends.
    ///
    /// # Panics
    /// If there is no such axis, or one end is periodic and the other is not.
    #[must_use]
    pub fn with_boundary(mut self, axis: usize, ends: [Boundary; 2]) -> Self {
        let periodic = ends.map(|end| end == Boundary::Periodic);
        assert_eq!(periodic[0], periodic[1], "an axis is periodic at both ends or at none");
        self.boundaries[axis] = ends;
        self
    }

    /// With `axis` periodic.
    ///
    /// # Panics
    /// If there is no such axis.
    #[must_use]
    pub fn periodic(self, axis: usize) -> Self {
        self.with_boundary(axis, [Boundary::Periodic; 2])
    }

    /// With this boundary at both ends of every axis.
    #[must_use]
    pub fn all(mut self, boundary: Boundary) -> Self {
        self.boundaries = [[boundary; 2]; D];
        self
    }

    /// The cells before and behind the block, along each axis.
    pub fn widths(&self) -> [[usize; 2]; D] {
        self.widths
    }

    /// What lies beyond both ends of each axis.
    pub fn boundaries(&self) -> [[Boundary; 2]; D] {
        self.boundaries
    }

    /// Which cells are kept.
    pub fn stencil(&self) -> Stencil {
        self.stencil
    }

    /// Whether a stencil may read the cell so far away.
    pub(super) fn reaches(&self, offset: [isize; D]) -> bool {
        let reached = (0..D).all(|axis| {
            let [before, behind] = self.widths[axis];
            let steps = offset[axis];
            steps.unsigned_abs() <= if steps < 0 { before } else { behind }
        });
        let straight = offset.iter().filter(|&&steps| steps != 0).count() <= 1;
        reached && (straight || self.stencil == Stencil::Box)
    }
}

/// Consecutive places along one axis of a block with its halo, and whose they are.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Segment {
    /// Where they lie in the array with halo.
    local: Range<usize>,
    /// Whose block of the axis they are copied from.
    owner: usize,
    /// Where they begin in the owner's array with halo.
    from: usize,
    /// Whether they are the block itself.
    inner: bool,
}

/// Cells that a block has or needs, and of whom.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Piece<const D: usize> {
    pub(super) peer: usize,
    /// In the array with halo of the rank that has them.
    pub(super) from: Block<D>,
    /// In the array with halo of the rank that needs them.
    pub(super) to: Block<D>,
}

impl<const D: usize> Halo<D> {
    /// Before the block itself in the array with halo; nothing surrounds an empty block.
    pub(super) fn before(&self, block: &Block<D>) -> [usize; D] {
        self.widths.map(|[before, _]| if block.is_empty() { 0 } else { before })
    }

    /// The shape of the array with halo around a block.
    pub(super) fn around(&self, block: &Block<D>) -> [usize; D] {
        std::array::from_fn(|axis| {
            let [before, behind] = if block.is_empty() { [0, 0] } else { self.widths[axis] };
            block.shape()[axis].saturating_add(before).saturating_add(behind)
        })
    }

    /// The cells that a rank needs around its block, in the order of their places.
    pub(super) fn needed(&self, layout: &Layout<D>, rank: usize) -> Vec<Piece<D>> {
        if layout.block(rank).is_empty() {
            return Vec::new();
        }
        let coords = layout.coords(rank);
        let along = |axis: usize| self.segments(layout, axis, coords[axis]);
        let along: [Vec<Segment>; D] = std::array::from_fn(along);
        let mut pieces = Vec::new();
        self.combine(&along.each_ref().map(Vec::as_slice), |segments| {
            let peer = layout.rank_at(segments.map(|segment| segment.owner));
            pieces.push(Piece { peer, ..piece(segments) });
        });
        pieces
    }

    /// The cells of a rank's block that others need; those that one rank needs, in its order.
    pub(super) fn given(&self, layout: &Layout<D>, rank: usize) -> Vec<Piece<D>> {
        if layout.block(rank).is_empty() {
            return Vec::new();
        }
        let coords = layout.coords(rank);
        // Along each axis, who needs something of this rank's places, and what.
        let along: [Vec<(usize, Vec<Segment>)>; D] = std::array::from_fn(|axis| {
            let needing = (0..layout.dims()[axis]).map(|other| {
                let mut segments = self.segments(layout, axis, other);
                segments.retain(|segment| segment.owner == coords[axis]);
                (other, segments)
            });
            needing.filter(|(_, segments)| !segments.is_empty()).collect()
        });
        let mut pieces = Vec::new();
        let others = along.each_ref().map(Vec::len);
        for choice in Block::whole(others).indices() {
            let chosen: [&(usize, Vec<Segment>); D] =
                std::array::from_fn(|axis| &along[axis][choice[axis]]);
            let peer = layout.rank_at(chosen.map(|(other, _)| *other));
            self.combine(&chosen.map(|(_, segments)| segments.as_slice()), |segments| {
                pieces.push(Piece { peer, ..piece(segments) });
            });
        }
        pieces
    }

    /// Calls `take` for all combinations of a segment of each axis that are to be copied.
    fn combine(&self, along: &[&[Segment]; D], mut take: impl FnMut([&Segment; D])) {
        for choice in Block::whole(along.map(<[Segment]>::len)).indices() {
            let segments: [&Segment; D] = std::array::from_fn(|axis| &along[axis][choice[axis]]);
            let outer = segments.iter().filter(|segment| !segment.inner).count();
            if outer == 1 || outer > 1 && self.stencil == Stencil::Box {
                take(segments);
            }
        }
    }

    /// The places along `axis` of the block at `coord` with its halo, in order; those that belong
    /// to the program are left out.
    fn segments(&self, layout: &Layout<D>, axis: usize, coord: usize) -> Vec<Segment> {
        let starts = layout.starts(axis);
        let (start, end) = (starts[coord], starts[coord + 1]);
        if start == end {
            return Vec::new();
        }
        let ([before, behind], len) = (self.widths[axis], starts[starts.len() - 1]);
        let mut segments: Vec<Segment> = Vec::new();
        let outer = |places: Range<usize>, segments: &mut Vec<Segment>| {
            for local in places {
                let place = (start + local) as isize - before as isize;
                let Some(source) = self.source(axis, place, len) else { continue };
                let owner = layout.owner_along(axis, source);
                let from = source - starts[owner] + before;
                match segments.last_mut() {
                    Some(last)
                        if !last.inner
                            && last.owner == owner
                            && last.local.end == local
                            && last.from + last.local.len() == from =>
                    {
                        last.local.end += 1;
                    }
                    _ => segments.push(Segment {
                        local: local..local + 1,
                        owner,
                        from,
                        inner: false,
                    }),
                }
            }
        };
        outer(0..before, &mut segments);
        let block = before..before + (end - start);
        segments.push(Segment { local: block.clone(), owner: coord, from: before, inner: true });
        outer(block.end..block.end + behind, &mut segments);
        segments
    }

    /// The place along `axis` whose cells lie at `place`, which may be outside of the `len` that
    /// there are; none if they belong to the program.
    fn source(&self, axis: usize, mut place: isize, len: usize) -> Option<usize> {
        let len = len as isize;
        while !(0..len).contains(&place) {
            let end = usize::from(place >= len);
            match (self.boundaries[axis][end], end) {
                (Boundary::Fixed, _) => return None,
                (Boundary::Periodic, _) => place = place.rem_euclid(len),
                // The cell before the wall lies at its mirror image, the last at the first beyond.
                (Boundary::Insulated, 0) => place = -1 - place,
                (Boundary::Insulated, _) => place = 2 * len - 1 - place,
            }
        }
        Some(place as usize)
    }
}

/// Where the cells of these segments are and go.
fn piece<const D: usize>(segments: [&Segment; D]) -> Piece<D> {
    let shape = segments.map(|segment| segment.local.len());
    let from = Block::new(segments.map(|segment| segment.from), shape);
    let to = Block::new(segments.map(|segment| segment.local.start), shape);
    Piece { peer: 0, from, to }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_beyond_the_end_is_found_by_the_rule_of_that_end() {
        use Boundary::{Fixed, Insulated, Periodic};
        let source = |ends, place| Halo::<1>::star(9).with_boundary(0, ends).source(0, place, 3);
        assert_eq!(
            [-1, -3, -4, 3, 7].map(|at| source([Periodic; 2], at)),
            [Some(2), Some(0), Some(2), Some(0), Some(1)]
        );
        let mirrored = [0, 1, 2, 2, 1, 0, 0, 1, 2].map(Some);
        let places: Vec<_> = (-6..3).map(|at| source([Insulated; 2], at)).collect();
        assert_eq!(places, mirrored);
        assert_eq!([-1, -3, -4].map(|at| source([Insulated, Fixed], at)), [Some(0), Some(2), None]);
        assert_eq!(source([Insulated, Fixed], 3), None);
    }

    #[test]
    fn a_stencil_reaches_no_farther_than_the_halo() {
        let star = Halo::<2>::star(2).with_width(0, [1, 0]);
        assert!(star.reaches([-1, 0]) && star.reaches([0, 2]) && star.reaches([0, 0]));
        assert!(!star.reaches([1, 0]) && !star.reaches([-1, 1]) && !star.reaches([0, -3]));
        assert!(Halo::<2>::cube(1).reaches([1, -1]));
    }

    /// What one rank gives is what another needs, in the same order.
    #[test]
    fn given_and_needed_agree() {
        for ranks in 1..7 {
            for shape in [[5, 7], [2, 3], [1, 9], [7, 1]] {
                for halo in [Halo::star(1), Halo::cube(2), Halo::cube(4).with_width(0, [0, 3])] {
                    for boundary in [Boundary::Fixed, Boundary::Insulated, Boundary::Periodic] {
                        let (halo, layout) = (halo.all(boundary), Layout::new(shape, ranks));
                        for (one, other) in Block::whole([ranks, ranks]).indices().map(Into::into) {
                            let mut needed = halo.needed(&layout, one);
                            needed.retain(|piece| piece.peer == other);
                            let mut given = halo.given(&layout, other);
                            given.retain(|piece| piece.peer == one);
                            let both = needed.iter().zip(&given);
                            assert_eq!(needed.len(), given.len());
                            assert!(both.clone().all(|(a, b)| (a.from, a.to) == (b.from, b.to)));
                        }
                    }
                }
            }
        }
    }
}
