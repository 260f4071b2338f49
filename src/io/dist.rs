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
    /// use spmd::{array::Halo, io::ArrayFile};
    /// # let folder = tempfile::tempdir()?;
    /// # let name = folder.path().join("start.npy");
    /// # let bytes: &[u8] = b"\x93NUMPY\x01\0\x46\0{'descr': '|u1', 'fortran_order': False, 'shape': (3,), }           \n\x01\x02\x03";
    /// # std::fs::write(&name, bytes)?;
    /// # let name = name.display();
    /// let file: ArrayFile = format!("{name}").parse()?;
    /// let sums = spmd::local(2, |world| {
    ///     let array = file.read_array::<f64, 1>(world, Halo::star(1))?;
    ///     Ok(array.sum()?)
    /// });
    /// assert_eq!(sums?, [6.0; 2]);
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
