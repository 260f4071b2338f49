//! Distributed arrays from and to files.

use std::panic::Location;

use super::{ArrayFile, PictureFile, Provenance, Stored};
use crate::{
    array::{Axes, DistArray, Halo, Layout},
    comm::Comm,
    error::Failure,
};

/// # Distributed arrays
impl ArrayFile {
    /// The array in the file, cut so that little is to be exchanged between the ranks of `comm`:
    /// each reads its own block.
    ///
    /// # Collective
    /// As [`DistArray::from_fn`].
    ///
    /// # Errors
    /// As [`read`](Self::read) and [`DistArray::from_fn`].
    ///
    /// # Examples
    /// ```
    /// use spmd::{
    ///     array::{DistArray, Halo, Layout},
    ///     io::{ArrayFile, Provenance},
    /// };
    /// # let folder = tempfile::tempdir()?;
    /// # let name = folder.path().join("squares.npy").display().to_string();
    /// let file: ArrayFile = name.parse()?;
    /// let about = Provenance { title: "squares".into(), units: "1".into(), version: "1".into() };
    /// let sums = spmd::local(2, |world| {
    ///     let layout = Layout::new([5], world.size());
    ///     let squares = DistArray::from_fn(world, &layout, Halo::none(), |[i]| (i * i) as u32)?;
    ///     file.write_array(&squares, &about)?;
    ///     Ok(file.read_array::<f64, 1>(world, Halo::star(1))?.sum()?)
    /// });
    /// assert_eq!(sums?, [30.0; 2]);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[track_caller]
    pub fn read_array<T: Stored, const D: usize>(
        &self,
        comm: &Comm,
        halo: Halo<D>,
    ) -> Result<DistArray<T, D>, Failure>
    where
        [usize; D]: Axes,
    {
        let at = Location::caller();
        let made = || {
            let layout = Layout::new(self.shape()?, comm.size());
            let mine = self.read::<T, D>(&layout.block(comm.rank()))?;
            let mut cells = mine.iter();
            let next = |_| cells.next().copied().unwrap_or_default();
            Ok(DistArray::from_fn(comm, &layout, halo, next)?)
        };
        made().map_err(|failure: Failure| failure.called_at(at))
    }

    /// Writes an array; see [`write`](Self::write).
    ///
    /// # Collective
    /// As [`write`](Self::write).
    ///
    /// # Errors
    /// As [`write`](Self::write).
    #[track_caller]
    pub fn write_array<T: Stored, const D: usize>(
        &self,
        array: &DistArray<T, D>,
        about: &Provenance,
    ) -> Result<(), Failure>
    where
        [usize; D]: Axes,
    {
        self.write(array.comm(), array.layout(), &array.view(), about)
    }

    /// Appends an array to a series; see [`append`](Self::append).
    ///
    /// # Collective
    /// As [`append`](Self::append).
    ///
    /// # Errors
    /// As [`append`](Self::append).
    #[cfg(feature = "hdf5")]
    #[track_caller]
    pub fn append_array<T: Stored, const D: usize>(
        &self,
        time: f64,
        array: &DistArray<T, D>,
        about: &Provenance,
    ) -> Result<(), Failure>
    where
        [usize; D]: Axes,
    {
        self.append(array.comm(), time, array.layout(), &array.view(), about)
    }
}

impl PictureFile {
    /// Draws an array; see [`write`](Self::write).
    ///
    /// # Collective
    /// As [`write`](Self::write).
    ///
    /// # Errors
    /// As [`write`](Self::write).
    #[track_caller]
    pub fn write_array(&self, array: &DistArray<f64, 2>) -> Result<(), Failure> {
        self.write(array.comm(), array.layout(), &array.view())
    }
}
