//! Ranks on a grid.

use std::ops::Deref;

use super::{Comm, all};
use crate::error::{ErrorKind, Result};

/// A communicator whose ranks stand on a grid of `D` axes, the last axis running fastest.
///
/// It is a [`Comm`]: all its calls work on it.
#[derive(Debug)]
pub struct Cart<const D: usize> {
    comm: Comm,
    dims: [usize; D],
    periodic: [bool; D],
}

impl Comm {
    /// Puts the ranks on a grid: `dims[axis]` ranks along each axis, `None` where the library may choose; it chooses
    /// dimensions as equal as possible that use all ranks. Ranks beyond the grid get `None`.
    ///
    /// # Collective
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`] if the grid needs more ranks than there are, or a zero is given.
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
        let fail = self.enter(call);
        let dims = choose_dims(self.size, dims).map_err(fail)?;
        let inside = self.rank < dims.iter().product();
        let comm = self.split_as(call, inside.then_some(0), 0)?;
        Ok(comm.map(|comm| Cart { comm, dims, periodic }))
    }
}

impl<const D: usize> Cart<D> {
    /// The number of ranks along each axis.
    pub fn dims(&self) -> [usize; D] {
        self.dims
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

    /// The rank `steps` further along `axis`: `None` beyond a closed border. As destination or source, `None` is nobody.
    pub fn neighbor(&self, axis: usize, steps: isize) -> Option<usize> {
        let mut coords = self.coords();
        let (place, len) = (coords[axis] as isize + steps, self.dims[axis] as isize);
        if !self.periodic[axis] && !(0..len).contains(&place) {
            return None;
        }
        coords[axis] = place.rem_euclid(len) as usize;
        Some(coords.iter().zip(self.dims).fold(0, |rank, (coord, dim)| rank * dim + coord))
    }
}

impl<const D: usize> Deref for Cart<D> {
    type Target = Comm;

    fn deref(&self) -> &Comm {
        &self.comm
    }
}

/// Fills in the free dimensions so that they are as equal as possible, larger ones first.
fn choose_dims<const D: usize>(
    size: usize,
    dims: [Option<usize>; D],
) -> Result<[usize; D], ErrorKind> {
    let fixed: usize = dims.iter().flatten().product();
    let free = dims.iter().filter(|dim| dim.is_none()).count();
    let invalid = |what: String| Err(ErrorKind::InvalidArgument { what });
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
    }
}
