//! Ranks on a grid.

use std::{cell::OnceCell, ops::Deref};

use super::cart_neighbors::Faces;
use crate::{
    comm::{Comm, all, lengths},
    engine::Rank,
    error::{ErrorKind, Fault, Result},
};

/// A communicator whose ranks stand on a grid of `D` axes, the last axis running fastest.
///
/// It is a [`Comm`]: all its calls work on it. MPI: a Cartesian topology (MPI 4.1, 8.5).
#[derive(Debug)]
pub struct Cart<const D: usize> {
    comm: Comm,
    dims: [usize; D],
    periodic: [bool; D],
    /// Made by the first collective across the faces.
    pub(super) faces: OnceCell<Faces>,
}

/// # Grids
///
/// Ranks as neighbours on a grid.
impl Comm {
    /// Puts the ranks on a grid: `dims[axis]` ranks along each axis, `None` where the library may
    /// choose; it chooses dimensions as equal as possible that use all ranks. Ranks beyond the grid
    /// get `None`.
    ///
    /// # Collective
    /// All ranks, with the same dimensions. An allgather of 16 bytes per rank. MPI:
    /// `MPI_Dims_create` and `MPI_Cart_create` (MPI 4.1, 8.5.1 and 8.5.2); ranks are not reordered.
    ///
    /// # Errors
    /// On every rank: [`ErrorKind::InvalidArgument`] if the grid needs more ranks than there are,
    /// or a zero is given; [`ErrorKind::CollectiveMismatch`] if the ranks disagree.
    ///
    /// # Examples
    /// ```
    /// let got = spmd::local(6, |world| {
    ///     let grid = world.cart([None, Some(2)], [false, true])?.expect("all ranks are on the grid");
    ///     assert_eq!(grid.dims(), [3, 2]);
    ///     // below the last row there is nobody, right of the last column is the first
    ///     Ok((grid.coords(), grid.neighbor(0, 1), grid.neighbor(1, 1)))
    /// });
    /// assert_eq!(got.unwrap()[5], ([2, 1], None, Some(4)));
    /// ```
    #[track_caller]
    pub fn cart<const D: usize>(
        &self,
        dims: [Option<usize>; D],
        periodic: [bool; D],
    ) -> Result<Option<Cart<D>>> {
        let call = all("cart");
        self.perform(call, || {
            // An axis is whether its length is given, the length, and whether it closes.
            let axis = |(dim, periodic): (Option<usize>, bool)| {
                [usize::from(dim.is_some()), dim.unwrap_or(0), usize::from(periodic)]
            };
            let axes: Vec<usize> = dims.into_iter().zip(periodic).flat_map(axis).collect();
            self.same_list_on_all(call, &axes, describe_axes)?;
            let dims = choose_dims(self.size, dims)?;
            let ranks = lengths::product("the grid", dims)?;
            let members: Vec<Rank> = (0..ranks).map(Rank::from).collect();
            let inside = self.rank < members.len();
            let comm = self.derive(inside.then_some((0, members.as_slice())))?;
            Ok(comm.map(|comm| Cart { comm, dims, periodic, faces: OnceCell::new() }))
        })
    }
}

/// The axes of a grid as `same_list_on_all` compares them.
fn describe_axes(axes: &[usize]) -> String {
    let axes = axes.chunks_exact(3).map(|axis| {
        let length = if axis[0] == 1 { axis[1].to_string() } else { "any".to_owned() };
        if axis[2] == 1 { format!("{length} (periodic)") } else { length }
    });
    format!("cart of {}", axes.collect::<Vec<_>>().join(" × "))
}

impl<const D: usize> Cart<D> {
    /// The number of ranks along each axis.
    pub fn dims(&self) -> [usize; D] {
        self.dims
    }

    /// Which axes have no ends.
    pub fn periodic(&self) -> [bool; D] {
        self.periodic
    }

    /// The place of this rank.
    pub fn coords(&self) -> [usize; D] {
        self.coords_of(self.rank())
    }

    /// The place of any rank.
    pub fn coords_of(&self, mut rank: usize) -> [usize; D] {
        let mut coords = [0; D];
        for axis in (0..D).rev() {
            coords[axis] = rank % self.dims[axis];
            rank /= self.dims[axis];
        }
        coords
    }

    /// The rank at any place: `None` beyond a closed border; periodic axes wrap around, as often as
    /// needed.
    ///
    /// MPI: `MPI_Cart_rank` (MPI 4.1, 8.5.5).
    pub fn rank_of(&self, coords: [isize; D]) -> Option<usize> {
        let mut inside = [0; D];
        for axis in 0..D {
            let (place, length) = (coords[axis], self.dims[axis] as isize);
            if !self.periodic[axis] && !(0..length).contains(&place) {
                return None;
            }
            inside[axis] = place.rem_euclid(length) as usize;
        }
        Some(self.number(inside))
    }

    fn number(&self, coords: [usize; D]) -> usize {
        coords.iter().zip(self.dims).fold(0, |rank, (coord, dim)| rank * dim + coord)
    }

    /// The rank `steps` further along `axis`: `None` beyond a closed border. As destination or
    /// source, `None` is nobody.
    ///
    /// # Panics
    /// If there is no such axis.
    pub fn neighbor(&self, axis: usize, steps: isize) -> Option<usize> {
        let mut coords = self.coords().map(|coord| coord as isize);
        let steps = if self.periodic[axis] { steps % self.dims[axis] as isize } else { steps };
        coords[axis] = coords[axis].saturating_add(steps);
        self.rank_of(coords)
    }

    /// Whom this rank receives from and whom it sends to when all values move `steps` further along
    /// `axis`: `(source, destination)`, `None` beyond a closed border.
    ///
    /// MPI: `MPI_Cart_shift` (MPI 4.1, 8.5.6).
    ///
    /// # Panics
    /// If there is no such axis.
    ///
    /// # Examples
    /// ```
    /// let got = spmd::local(3, |world| {
    ///     let line = world.cart([None], [false])?.expect("all ranks are on the grid");
    ///     let (source, destination) = line.shift(0, 1);
    ///     let mut from_left = [-1];
    ///     line.sendrecv(&[line.rank() as i32], destination, &mut from_left, source)?;
    ///     Ok(from_left[0])
    /// });
    /// assert_eq!(got.unwrap(), [-1, 0, 1]);
    /// ```
    pub fn shift(&self, axis: usize, steps: isize) -> (Option<usize>, Option<usize>) {
        (self.neighbor(axis, steps.saturating_neg()), self.neighbor(axis, steps))
    }

    /// The grid of the ranks that differ from this one only along `axes`, which become its axes in
    /// this order: `sub([0])` is this rank's column of a grid of rows, `sub([1])` its row.
    ///
    /// # Collective
    /// All ranks of the grid, with the same axes. An allgather of 16 bytes per rank. MPI:
    /// `MPI_Cart_sub` (MPI 4.1, 8.5.7).
    ///
    /// # Errors
    /// On every rank: [`ErrorKind::InvalidArgument`] if there is no such axis or one is named
    /// twice; [`ErrorKind::CollectiveMismatch`] if the ranks disagree.
    ///
    /// # Examples
    /// ```
    /// use spmd::op::Sum;
    /// let sums = spmd::local(6, |world| {
    ///     let grid = world.cart([Some(2), Some(3)], [false; 2])?.expect("all ranks are on the grid");
    ///     let row = grid.sub([1])?;
    ///     Ok(row.allreduce(&[grid.rank()], Sum)?[0])
    /// });
    /// assert_eq!(sums.unwrap(), [3, 3, 3, 12, 12, 12]);
    /// ```
    #[track_caller]
    pub fn sub<const K: usize>(&self, axes: [usize; K]) -> Result<Cart<K>> {
        let call = all("sub");
        self.perform(call, || {
            self.same_list_on_all(call, &axes, |axes| format!("sub of axes {axes:?}"))?;
            let mut kept = [false; D];
            for axis in axes {
                let what = match kept.get(axis) {
                    Some(false) => {
                        kept[axis] = true;
                        continue;
                    }
                    Some(true) => format!("axis {axis} is named twice"),
                    None => format!("there is no axis {axis}, the grid has {D}"),
                };
                return Err(ErrorKind::InvalidArgument { what }.into());
            }
            let (dims, periodic) =
                (axes.map(|axis| self.dims[axis]), axes.map(|axis| self.periodic[axis]));
            let mut coords = self.coords();
            // Groups are numbered by what their members have in common.
            let group = (0..D)
                .filter(|&axis| !kept[axis])
                .fold(0, |group, axis| group * self.dims[axis] + coords[axis]);
            let ranks = 0..lengths::product("the grid", dims)?;
            let members: Vec<Rank> = ranks
                .map(|mut rank| {
                    for &axis in axes.iter().rev() {
                        coords[axis] = rank % self.dims[axis];
                        rank /= self.dims[axis];
                    }
                    Rank::from(self.number(coords))
                })
                .collect();
            let comm = self.derive(Some((group as u32, &members)))?.ok_or(ErrorKind::Closed)?;
            Ok(Cart { comm, dims, periodic, faces: OnceCell::new() })
        })
    }
}

impl<const D: usize> Deref for Cart<D> {
    type Target = Comm;

    fn deref(&self) -> &Comm {
        &self.comm
    }
}

/// Fills in the free dimensions so that they are as equal as possible, larger ones first.
fn choose_dims<const D: usize>(size: usize, dims: [Option<usize>; D]) -> Result<[usize; D], Fault> {
    let fixed = lengths::product("the grid", dims.map(|dim| dim.unwrap_or(1)))?;
    let free = D - dims.iter().flatten().fold(0, |given, _| given + 1);
    let invalid = |what: String| Err(ErrorKind::InvalidArgument { what }.into());
    if fixed == 0 {
        return invalid("a grid of zero ranks".to_owned());
    }
    if fixed > size || (free > 0 && !size.is_multiple_of(fixed)) {
        return invalid(format!(
            "{size} ranks do not make a grid with {fixed} ranks along the given axes"
        ));
    }
    let mut chosen = vec![1; free];
    let mut factors = prime_factors(size / fixed);
    while let Some(factor) = factors.pop() {
        if let Some(smallest) = chosen.iter_mut().min() {
            *smallest *= factor;
        }
    }
    chosen.sort_unstable();
    Ok(dims.map(|dim| dim.unwrap_or_else(|| chosen.pop().unwrap_or(1))))
}

/// In ascending order.
fn prime_factors(mut number: usize) -> Vec<usize> {
    let mut factors = Vec::new();
    let mut factor = 2;
    while factor * factor <= number {
        while number.is_multiple_of(factor) {
            factors.push(factor);
            number /= factor;
        }
        factor += 1;
    }
    if number > 1 {
        factors.push(number);
    }
    factors
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn free_dimensions_are_as_equal_as_possible() {
        assert_eq!(choose_dims(8, [None, None]).unwrap(), [4, 2]);
        assert_eq!(choose_dims(12, [None, None]).unwrap(), [4, 3]);
        assert_eq!(choose_dims(7, [None, None]).unwrap(), [7, 1]);
        assert_eq!(choose_dims(24, [None, Some(2), None]).unwrap(), [4, 2, 3]);
        assert_eq!(choose_dims(5, [Some(2), Some(2)]).unwrap(), [2, 2]);
        assert_eq!(choose_dims(1, [None; 3]).unwrap(), [1, 1, 1]);
    }

    #[test]
    fn impossible_grids_are_refused() {
        assert!(choose_dims(4, [Some(3), Some(2)]).is_err());
        assert!(choose_dims(4, [Some(3), None]).is_err());
        assert!(choose_dims(4, [Some(0), None]).is_err());
        // Their product wraps around to 0 and to 4.
        assert!(choose_dims(4, [Some(1 << 32), Some(1 << 32)]).is_err());
        assert!(choose_dims(4, [Some(usize::MAX), Some(usize::MAX - 3)]).is_err());
    }
}
