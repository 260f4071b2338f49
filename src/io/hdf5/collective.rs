//! One HDF5 file that all ranks write together, through MPI-IO.
//!
//! The safe library opens the file on a communicator, but transfers are independent: the collective
//! transfer is asked for here, by HDF5's own calls.

use std::{
    fs::OpenOptions,
    hash::{BuildHasher, RandomState},
    io::{Read, Write},
    mem::ManuallyDrop,
    panic::Location,
    path::{Path, PathBuf},
};

use hdf5::Dataset;
use mpi::ffi::MPI_Comm;
use ndarray::ArrayRef2;

use super::{
    super::{Block, Provenance, agree, unfinished::within_limit},
    DATASET, FileError, Record, Unfinished, Writer, check_replaceable, raw, size,
};
use crate::{array::Layout, comm::Comm, error::Failure};

/// The MPI library's own communicator of `comm`, if there is one: what parallel HDF5 works with.
#[track_caller]
pub(in crate::io) fn mpi_of(comm: &Comm) -> crate::error::Result<Option<MPI_Comm>> {
    let handle = comm.native_handle()?;
    Ok(handle.and_then(|handle| handle.downcast().ok()).map(|comm| *comm))
}

/// A file that all ranks of a communicator write.
///
/// After each step all ranks agree how it has ended. Where it failed on one, none goes on; what is
/// open then stays open, since it can only be closed by all together, which those who failed
/// cannot.
pub(in crate::io) struct Shared<'a> {
    pub(in crate::io) comm: &'a Comm,
    /// The MPI library's own communicator of `comm`.
    pub(in crate::io) mpi: MPI_Comm,
    pub(in crate::io) path: &'a Path,
    /// The call that this is done for.
    pub(in crate::io) at: &'static Location<'static>,
}

/// The file, open on all ranks. Never dropped: closing is a call of all ranks.
struct Open(ManuallyDrop<(hdf5::File, Dataset)>);

impl Shared<'_> {
    /// Writes all ranks' blocks into one dataset.
    ///
    /// # Collective
    pub(in crate::io) fn write(
        &self,
        name: Option<&str>,
        layout: &Layout<2>,
        block: &ArrayRef2<f64>,
        about: &Provenance,
    ) -> Result<(), Failure> {
        let shape = layout.shape();
        let mine = layout.block(self.comm.rank()).ranges();
        let made = self.first(|| {
            check_replaceable(self.path, name)?;
            let unfinished = Unfinished::create_named(self.path)?;
            unfinished.reserve(size(shape))?;
            Ok(unfinished)
        })?;
        let temporary = self.show(made.as_ref(), size(shape))?;
        // One rank makes the file ready, so that the others need not change more of it than their
        // cells.
        let made = self.first(|| {
            let record = Record::new(about, self.comm.size());
            let furnish = |made| Writer::furnish(made, name, shape, &record)?.close();
            made.map(furnish).transpose()
        })?;
        let name = self.comm.bcast_obj(0, || name.unwrap_or(DATASET).to_owned())?;
        let open = self.together(|| Open::new(self.mpi, &temporary, &name))?;
        self.together(|| open.write(&mine, block))?;
        self.together(|| open.flush())?;
        self.together(|| open.close())?;
        self.first(|| made.flatten().map_or(Ok(()), Unfinished::finish))?;
        Ok(())
    }

    /// A step that rank 0 does for all; the others get nothing.
    fn first<R>(&self, step: impl FnOnce() -> Result<R, FileError>) -> Result<Option<R>, Failure> {
        let outcome = if self.comm.rank() == 0 { step().map(Some) } else { Ok(None) };
        agree(self.comm, self.at, outcome)
    }

    /// A step of the library's that all ranks do together.
    fn together<R>(&self, step: impl FnOnce() -> hdf5::Result<R>) -> Result<R, Failure> {
        let outcome = self.comm.wait_elsewhere("write of an HDF5 file", step);
        agree(self.comm, self.at, outcome.map_err(FileError::format(self.path, "write")))
    }

    /// Makes sure that what rank 0 has made is the same file for all, and that all may write so
    /// many bytes. Returns its name.
    fn show(&self, made: Option<&Unfinished>, bytes: u64) -> Result<PathBuf, Failure> {
        let word = RandomState::new().hash_one(self.path).to_ne_bytes();
        let path = made.map_or(PathBuf::new(), |made| made.path().to_owned());
        self.first(|| {
            let Some(made) = made else { return Ok(()) };
            made.file().write_all(&word).map_err(FileError::system(self.path, "write"))
        })?;
        // By its whole name: each rank may be in a directory of its own.
        let (path, expected) = self.comm.bcast_obj(0, || (path, word))?;
        let mut found = word;
        let mut read = || {
            // To write, as the library will.
            let mut file = OpenOptions::new().read(true).write(true).open(&path)?;
            file.read_exact(&mut found)
        };
        let reason = match read() {
            Ok(()) if found == expected => None,
            Ok(()) => Some("another file of this name".to_owned()),
            Err(error) => Some(error.to_string()),
        };
        let seen = match reason {
            None => within_limit(self.path, bytes),
            Some(reason) => Err(FileError::NotShared {
                path: self.path.to_owned(),
                directory: path.parent().unwrap_or(Path::new("")).to_owned(),
                reason,
            }),
        };
        agree(self.comm, self.at, seen)?;
        Ok(path)
    }
}

impl Open {
    /// Opens a file that is complete but for the cells.
    fn new(mpi: MPI_Comm, path: &Path, name: &str) -> hdf5::Result<Self> {
        let mut options = hdf5::File::with_options();
        let file = options.with_fapl(|access| access.mpio(mpi, None)).open_rw(path)?;
        let file = ManuallyDrop::new(file);
        let dataset = file.dataset(name)?;
        Ok(Self(ManuallyDrop::new((ManuallyDrop::into_inner(file), dataset))))
    }

    fn write(&self, mine: &Block, block: &ArrayRef2<f64>) -> hdf5::Result<()> {
        raw::write_collectively(&self.0.1, mine, block)
    }

    /// Closing would not tell whether the last bytes reached the file.
    fn flush(&self) -> hdf5::Result<()> {
        self.0.0.flush()
    }

    fn close(self) -> hdf5::Result<()> {
        let (file, dataset) = ManuallyDrop::into_inner(self.0);
        drop(dataset);
        file.close()
    }
}

#[cfg(test)]
mod tests {
    use mpi::ffi::{MPI_Barrier, MPI_Comm_rank, MPI_Comm_size, RSMPI_COMM_WORLD};

    use super::*;

    /// Under `mpirun` all its processes write together; in a plain test run there is one.
    #[test]
    fn ranks_write_one_dataset_together() {
        let _universe = mpi::initialize();
        let (mut rank, mut size) = (0, 0);
        // SAFETY: MPI has been started; the constant is MPI's own, and the results are written to
        // two integers.
        let world = unsafe {
            let world = RSMPI_COMM_WORLD;
            MPI_Comm_rank(world, &raw mut rank);
            MPI_Comm_size(world, &raw mut size);
            world
        };
        let (rank, size) = (rank as usize, size as usize);
        let record = Record {
            title: "a test".to_owned(),
            units: "m".to_owned(),
            version: "tests".to_owned(),
            command_line: "none".to_owned(),
            ranks: size as u64,
        };
        // SAFETY: MPI is running, and all processes make this call.
        let meet = || unsafe { MPI_Barrier(world) };
        // One row more than ranks, and fewer: some have nothing to write.
        for shape in [[size + 1, 5], [size.div_ceil(2), 3]] {
            let name = format!("spmd-collective-{}.h5", shape[0]);
            let path = std::env::temp_dir().join(name);
            let mine = Layout::on_grid(shape, [size, 1]).block(rank).ranges();
            let whole = ndarray::Array2::from_shape_fn(shape, |(i, j)| (10 * i + j) as f64);
            let [rows, columns] = mine.clone();
            let block = whole.slice(ndarray::s![rows, columns]);
            if rank == 0 {
                Writer::create(&path, Some("/a/b"), shape, &record).unwrap().finish().unwrap();
            }
            meet();
            let open = Open::new(world, &path, "/a/b").unwrap();
            open.write(&mine, &block).unwrap();
            open.flush().unwrap();
            open.close().unwrap();
            let written = super::super::Reader::open(&path, None).unwrap();
            assert_eq!(written.read(&[0..shape[0], 0..shape[1]]).unwrap(), whole);
            meet(); // all have read before one removes it
            if rank == 0 {
                drop(written);
                std::fs::remove_file(&path).unwrap();
            }
        }
    }
}
