//! The copies of the neighbours' border cells.

use std::{mem::take, ops::Range, panic::Location};

use ndarray::{Array2, ArrayView2, ArrayViewMut1, s};

use super::Layout;
use crate::{
    comm::{Cart, Comm, Request, Status},
    datum::Datum,
    error::Result,
};

/// The halo of a rank's 2-D block: one row or column of cells from each of the four neighbours.
///
/// The block lies in an array that is larger by one cell on every side ([`Halo::array`]). Beyond a
/// closed border there is no neighbour: those halo cells belong to the program. Corners are not
/// exchanged.
///
/// Between [`start`](Self::start) and [`finish`](Exchange::finish) the messages travel; meanwhile
/// the cells that need no halo can be computed.
///
/// ```
/// use spmd::array::{Halo, Layout};
/// let seen = spmd::local(3, |world| {
///     let grid = world.cart([None, Some(1)], [false, false])?.expect("all ranks are on the grid");
///     let layout = Layout::on_grid([6, 2], grid.dims());
///     let mut halo = Halo::new(&grid, &layout)?;
///     let mut cells = halo.array(|_row, _column| world.rank());
///     let exchange = halo.start(&cells)?;
///     // ... compute the interior meanwhile ...
///     exchange.finish(&mut cells)?;
///     Ok((cells[[0, 1]], cells[[3, 1]]))
/// });
/// assert_eq!(seen.unwrap()[1], (0, 2));
/// ```
#[derive(Debug)]
pub struct Halo<T> {
    /// A message space of its own: the program's messages are never taken for these.
    comm: Comm,
    block: [Range<usize>; 2],
    sides: Vec<Side<T>>,
}

/// A side of the block with a neighbour.
#[derive(Debug)]
struct Side<T> {
    axis: usize,
    /// Whether the neighbour is the one with the larger indices.
    ahead: bool,
    peer: usize,
    outgoing: Vec<T>,
    incoming: Vec<T>,
}

/// Messages under way between a [`Halo`] and its neighbours.
#[must_use = "the halo is filled by `finish`"]
pub struct Exchange<'h, T> {
    sides: &'h mut [Side<T>],
    incoming: Vec<Request<'h, (Vec<T>, Status)>>,
    outgoing: Vec<Request<'h, Vec<T>>>,
}

impl<T: Datum + Default> Halo<T> {
    /// The halo of this rank's block of `layout`.
    ///
    /// # Collective
    /// All ranks of the grid; one [`dup`](Comm::dup).
    ///
    /// # Panics
    /// If the layout is for another grid.
    #[track_caller]
    pub fn new(grid: &Cart<2>, layout: &Layout<2>) -> Result<Self> {
        assert_eq!(grid.dims(), layout.dims(), "the layout is for another grid");
        let at = Location::caller();
        let rank = grid.rank();
        let mut sides = Vec::new();
        for (axis, ahead) in [(0, false), (0, true), (1, false), (1, true)] {
            // Empty blocks are the last along an axis. A periodic axis leads past them to the first
            // block again.
            let step = if ahead { 1 } else { -1 };
            let peer = (1..=grid.dims()[axis] as isize)
                .map_while(|steps| grid.neighbor(axis, step * steps))
                .find(|&peer| !layout.block(peer).is_empty());
            if let Some(peer) = peer.filter(|_| !layout.block(rank).is_empty()) {
                sides.push(Side { axis, ahead, peer, outgoing: Vec::new(), incoming: Vec::new() });
            }
        }
        let comm = grid.dup().map_err(|error| error.called_at(at))?;
        Ok(Self { comm, block: layout.block(rank).ranges(), sides })
    }

    /// An array for the block and its halo: `value(row, column)`, in global indices, in the block;
    /// zero around it.
    ///
    /// # Panics
    /// If it does not fit into memory.
    #[track_caller]
    pub fn array(&self, value: impl Fn(usize, usize) -> T) -> Array2<T> {
        let [rows, columns] = &self.block;
        let (height, width) = self.shape();
        let mut cells = Vec::new();
        // An allocation that fails ends the process without a word of which rank it was.
        let room = height.checked_mul(width).map(|count| cells.try_reserve_exact(count));
        let fits = matches!(room, Some(Ok(())));
        assert!(fits, "a block of {height} x {width} cells does not fit into this rank's memory");
        for row in 0..height {
            cells.extend((0..width).map(|column| {
                let inside =
                    (1..=rows.len()).contains(&row) && (1..=columns.len()).contains(&column);
                if inside {
                    value(rows.start + row - 1, columns.start + column - 1)
                } else {
                    T::default()
                }
            }));
        }
        let array = Array2::from_shape_vec((height, width), cells);
        array.expect("there are as many cells as the shape says")
    }

    /// Sends the block's border cells to the neighbours and lets theirs come.
    ///
    /// # Errors
    /// As [`Comm::isend`] and [`Comm::irecv`].
    ///
    /// # Panics
    /// If `cells` is not as large as [`Halo::array`] makes it.
    #[track_caller]
    pub fn start(&mut self, cells: &Array2<T>) -> Result<Exchange<'_, T>> {
        assert_eq!(cells.dim(), self.shape(), "the array has the shape of the block and its halo");
        let at = Location::caller();
        let (comm, sides) = (&self.comm, &mut self.sides);
        let (mut incoming, mut outgoing) = (Vec::new(), Vec::new());
        // Receives first: what arrives early goes straight to its place.
        for side in sides.iter_mut() {
            let len = self.block[1 - side.axis].len();
            side.incoming.resize(len, T::default());
            let from = (side.peer, side.tag(!side.ahead));
            let request = comm.irecv(take(&mut side.incoming), from);
            incoming.push(request.map_err(|error| error.called_at(at))?);
        }
        for side in sides.iter_mut() {
            let [last, len] = [side.axis, 1 - side.axis].map(|axis| self.block[axis].len());
            let border = if side.ahead { last } else { 1 };
            let line = match side.axis {
                0 => cells.slice(s![border, 1..=len]),
                _ => cells.slice(s![1..=len, border]),
            };
            side.outgoing.clear();
            side.outgoing.extend(line);
            let request = comm.isend(take(&mut side.outgoing), (side.peer, side.tag(side.ahead)));
            outgoing.push(request.map_err(|error| error.called_at(at))?);
        }
        Ok(Exchange { sides, incoming, outgoing })
    }

    fn shape(&self) -> (usize, usize) {
        let [rows, columns] = &self.block;
        (rows.len() + 2, columns.len() + 2)
    }
}

impl<T> Halo<T> {
    /// The block itself, without its halo.
    ///
    /// # Panics
    /// If `cells` is not as large as [`Halo::array`] makes it.
    pub fn block<'a>(&self, cells: &'a Array2<T>) -> ArrayView2<'a, T> {
        let [rows, columns] = self.block.clone().map(|range| range.len());
        cells.slice(s![1..=rows, 1..=columns])
    }

    /// The cells of the block that need no halo, as ranges of the array with halo.
    pub fn interior(&self) -> [Range<usize>; 2] {
        self.block.clone().map(|range| 2..range.len().max(2))
    }

    /// The other cells of the block, each once: first and last row, first and last column. Some may
    /// be empty.
    pub fn edges(&self) -> [[Range<usize>; 2]; 4] {
        let [rows, columns] = self.block.clone().map(|range| range.len());
        let first = |len: usize| 1..1 + len.min(1);
        let last = |len: usize| len.max(1)..if len > 1 { len + 1 } else { 1 };
        let [inner_rows, _] = self.interior();
        [
            [first(rows), 1..columns + 1],
            [last(rows), 1..columns + 1],
            [inner_rows.clone(), first(columns)],
            [inner_rows, last(columns)],
        ]
    }

    /// Copies the block's border cells into the halo beyond closed borders, where the grid has no
    /// neighbour: a wall that nothing flows through.
    pub fn mirror(&self, cells: &mut Array2<T>)
    where
        T: Copy,
    {
        for (axis, ahead) in [(0, false), (0, true), (1, false), (1, true)] {
            if !self.sides.iter().any(|side| (side.axis, side.ahead) == (axis, ahead)) {
                let last = cells.len_of(ndarray::Axis(axis)) - 1;
                let (halo, border) = if ahead { (last, last - 1) } else { (0, 1) };
                let border = match axis {
                    0 => cells.row(border).to_owned(),
                    _ => cells.column(border).to_owned(),
                };
                cells.index_axis_mut(ndarray::Axis(axis), halo).assign(&border);
            }
        }
    }
}

impl<T> Side<T> {
    /// The tag of a message that travels along this side's axis, to larger indices if `ahead`.
    ///
    /// On a periodic axis both neighbours may be the same rank: the tag says from which side a
    /// message comes.
    fn tag(&self, ahead: bool) -> u32 {
        2 * self.axis as u32 + u32::from(ahead)
    }
}

impl<T: Datum> Exchange<'_, T> {
    /// Waits for the neighbours' border cells and writes them into the halo of `cells`.
    ///
    /// # Errors
    /// As [`Request::wait`].
    #[track_caller]
    pub fn finish(self, cells: &mut Array2<T>) -> Result<()> {
        let at = Location::caller();
        let requests = self.incoming.into_iter().zip(self.outgoing);
        for (side, (incoming, outgoing)) in self.sides.iter_mut().zip(requests) {
            let (values, _) = incoming.wait().map_err(|error| error.called_at(at))?;
            for (cell, &value) in halo_line(cells, side.axis, side.ahead).iter_mut().zip(&values) {
                *cell = value;
            }
            side.incoming = values;
            side.outgoing = outgoing.wait().map_err(|error| error.called_at(at))?;
        }
        Ok(())
    }
}

/// The halo cells of one side, without the corners.
fn halo_line<T>(cells: &mut Array2<T>, axis: usize, ahead: bool) -> ArrayViewMut1<'_, T> {
    let (rows, columns) = cells.dim();
    match (axis, ahead) {
        (0, false) => cells.slice_mut(s![0, 1..columns - 1]),
        (0, true) => cells.slice_mut(s![rows - 1, 1..columns - 1]),
        (_, false) => cells.slice_mut(s![1..rows - 1, 0]),
        (_, true) => cells.slice_mut(s![1..rows - 1, columns - 1]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_that_does_not_fit_into_memory_is_told() {
        for len in [1 << 28, 1 << 40, usize::MAX / 4] {
            let failed = crate::local(1, |world| {
                let grid = world.cart([None, None], [false, false])?.expect("all are on the grid");
                let halo = Halo::<f64>::new(&grid, &Layout::on_grid([len, len], grid.dims()))?;
                Ok(halo.array(|_, _| 1.0).len())
            });
            let words = failed.unwrap_err().to_string();
            assert!(words.contains("does not fit") && words.contains("halo.rs"), "{words}");
        }
    }

    /// Every halo cell that the grid can fill holds its global neighbour's number, and no other is
    /// touched.
    fn check(ranks: usize, shape: [usize; 2], periodic: [bool; 2]) {
        let done = crate::local(ranks, |world| {
            let grid = world.cart([None, None], periodic)?.expect("all ranks are on the grid");
            let layout = Layout::on_grid(shape, grid.dims());
            let mut halo = Halo::new(&grid, &layout)?;
            let number = |row: usize, column: usize| 1 + (row * shape[1] + column) as i64;
            let mut cells = halo.array(number);
            for _round in 0..3 {
                halo.start(&cells)?.finish(&mut cells)?;
            }
            let global = |axis: usize, local: usize| {
                let len = shape[axis] as isize;
                let place =
                    layout.block(grid.rank()).ranges()[axis].start as isize + local as isize - 1;
                let inside = periodic[axis] || (0..len).contains(&place);
                inside.then(|| place.rem_euclid(len) as usize)
            };
            let (rows, columns) = cells.dim();
            for ((row, column), &cell) in cells.indexed_iter() {
                let corner = [0, rows - 1].contains(&row) && [0, columns - 1].contains(&column);
                let known = global(0, row).zip(global(1, column)).filter(|_| !corner);
                let empty = layout.block(grid.rank()).is_empty();
                let expected =
                    known.filter(|_| !empty).map_or(0, |(row, column)| number(row, column));
                assert_eq!(cell, expected, "{ranks} ranks, {shape:?}, row {row}, column {column}");
            }
            Ok(())
        });
        done.unwrap();
    }

    #[test]
    fn halos_hold_the_neighbours_cells() {
        for ranks in [1, 2, 3, 4, 6, 8] {
            for shape in [[7, 9], [3, 3], [1, 5], [5, 1], [1, 1], [16, 2]] {
                for periodic in [[false, false], [true, false], [false, true], [true, true]] {
                    check(ranks, shape, periodic);
                }
            }
        }
    }

    #[test]
    fn interior_and_edges_are_the_block_once() {
        for shape in [[0, 4], [1, 1], [1, 6], [2, 2], [3, 1], [3, 5], [6, 2]] {
            crate::local(1, |world| {
                let grid = world.cart([None, None], [false, false])?.expect("one rank is on it");
                let halo = Halo::<u32>::new(&grid, &Layout::on_grid(shape, [1, 1]))?;
                let mut visits = halo.array(|_, _| 0);
                for [rows, columns] in halo.edges().into_iter().chain([halo.interior()]) {
                    visits.slice_mut(s![rows, columns]).mapv_inplace(|count| count + 1);
                }
                assert_eq!(visits, halo.array(|_, _| 1), "{shape:?}");
                assert_eq!(halo.block(&visits), Array2::<u32>::ones(shape), "{shape:?}");
                Ok(())
            })
            .unwrap();
        }
    }

    #[test]
    fn a_wall_mirrors_the_border_cells() {
        let cells = crate::local(2, |world| {
            let grid = world.cart([Some(1), Some(2)], [false, false])?.expect("both are on it");
            let mut halo = Halo::new(&grid, &Layout::on_grid([1, 4], grid.dims()))?;
            let mut cells = halo.array(|_, column| column + 1);
            halo.start(&cells)?.finish(&mut cells)?;
            halo.mirror(&mut cells);
            Ok(cells)
        });
        let cells = cells.unwrap();
        assert_eq!(cells[0], ndarray::array![[1, 1, 2, 3], [1, 1, 2, 3], [1, 1, 2, 3]]);
        assert_eq!(cells[1], ndarray::array![[2, 3, 4, 4], [2, 3, 4, 4], [2, 3, 4, 4]]);
    }
}
