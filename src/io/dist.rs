//! Distributed arrays from and to files.

use std::panic::Location;

use super::{ArrayFile, FileError, Part, PictureFile, Provenance, Stored};
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

    /// As [`read_array`](Self::read_array), into an array that is there, in whatever layout: its
    /// cells are replaced, its halo stays as it is. Elements that are of the type `T` already go
    /// straight to their places from HDF5 files, and from a `.npy` file in C's order if there is no
    /// halo: no memory is taken then, which saves much of the time where the file is in memory.
    ///
    /// Each rank reads its own block, and talks to no other.
    ///
    /// # Errors
    /// As [`read`](Self::read), and if the array in the file has another shape. Which cells have
    /// been replaced then is not defined.
    ///
    /// # Examples
    /// ```
    /// use spmd::{
    ///     array::{DistArray, Halo, Layout},
    ///     io::{ArrayFile, Provenance},
    /// };
    /// # let folder = tempfile::tempdir()?;
    /// # let name = folder.path().join("numbers.npy").display().to_string();
    /// let file: ArrayFile = name.parse()?;
    /// let about = Provenance { title: "numbers".into(), units: "1".into(), version: "1".into() };
    /// let sums = spmd::local(3, |world| {
    ///     let layout = Layout::new([4, 5], world.size());
    ///     let mut field = DistArray::from_fn(world, &layout, Halo::star(1), |[i, j]| i + j)?
    ///         .map(|number| number as f64);
    ///     file.write_array(&field, &about)?;
    ///     field.map_inplace(|_| 0.0);
    ///     file.read_array_into(&mut field)?;
    ///     Ok(field.sum()?)
    /// });
    /// assert_eq!(sums?, [70.0; 3]);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn read_array_into<T: Stored, const D: usize>(
        &self,
        array: &mut DistArray<T, D>,
    ) -> Result<(), FileError>
    where
        [usize; D]: Axes,
    {
        let (block, inner, wanted) = (array.block(), array.inner(), array.shape());
        let mut reader = self.open(Some(D))?;
        let shape: [usize; D] = self.check_axes(&reader)?;
        if shape != wanted {
            let (path, dataset) = (self.path.clone(), reader.dataset());
            let (shape, wanted) = (shape.to_vec(), wanted.to_vec());
            return Err(FileError::WrongShape { path, dataset, shape, wanted });
        }
        if block.is_empty() {
            return Ok(());
        }
        let (part, place) = (Part::from(&block), Part::from(&inner));
        let mut all = array.view_with_halo_mut();
        let room = all.shape().to_vec();
        let values = all.as_slice_mut().unwrap_or_default(); // in this order it is one
        if !self.read_part_into(&mut reader, &part, (values, &room, &place))? {
            array.view_mut().assign(&self.read(&block)?);
        }
        Ok(())
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
