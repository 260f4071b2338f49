//! One HDF5 file that all ranks write together, through MPI-IO.
//!
//! The safe library opens the file on a communicator, but transfers are independent: the collective
//! transfer is asked for here, by HDF5's own calls.

use std::{
    fs::{self, OpenOptions},
    hash::{BuildHasher, RandomState},
    io::{Read, Write},
    mem::ManuallyDrop,
    path::{Path, PathBuf},
};

use hdf5::{Dataset, Datatype};
use mpi::ffi::MPI_Comm;

use super::{
    super::{Part, Step, agree, strategy::Job, unfinished::within_limit},
    FileError, Unfinished, Writer, begin, complaint, raw,
    series::{self, Extension},
};
use crate::{
    comm::{Comm, Max},
    error::Failure,
};

/// A transfer moves less than so many bytes of a rank: some MPI libraries count them in 31 bits.
const ROUND_BYTES: usize = (1 << 30) - 64;

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
    pub(in crate::io) job: &'a Job<'a>,
    /// The MPI library's own communicator of the job's.
    pub(in crate::io) mpi: MPI_Comm,
}

/// The file, open on all ranks. Never dropped: closing is a call of all ranks.
struct Open(ManuallyDrop<(hdf5::File, Dataset)>);

impl Shared<'_> {
    /// Writes all ranks' blocks into one new dataset.
    ///
    /// # Collective
    pub(in crate::io) fn write(
        &self,
        check: impl FnOnce() -> Result<(), FileError>,
    ) -> Result<(), Failure> {
        let Job { comm, new, .. } = *self.job;
        if let Some(Step { number: 1.., .. }) = new.step {
            return self.extend();
        }
        let made = self.first(|| {
            check()?;
            begin(new)
        })?;
        let temporary = self.show(made.as_ref(), new.size())?;
        // One rank makes the file ready, so that the others need not change more of it than their
        // cells.
        let made = self.first(|| {
            let furnish = |made| Writer::furnish(made, new, &self.job.record())?.close();
            made.map(furnish).transpose()
        })?;
        self.fill(&temporary, &(self.job.part)(comm.rank()))?;
        self.first(|| made.flatten().map_or(Ok(()), Unfinished::finish))?;
        Ok(())
    }

    /// Writes all ranks' blocks into a series that is there, as its next step.
    fn extend(&self) -> Result<(), Failure> {
        let Job { comm, new, .. } = *self.job;
        // A file beside it shows whether all see the same directory.
        let beside = self.first(|| Unfinished::create_named(&new.path))?;
        self.show(beside.as_ref(), 0)?;
        drop(beside);
        self.first(|| Extension::begin(new)?.close())?;
        let path = self
            .first(|| fs::canonicalize(&new.path).map_err(FileError::system(&new.path, "open")))?;
        let path = comm.bcast_obj(0, || path.unwrap_or_default())?;
        self.fill(&path, &(self.job.part)(comm.rank()))?;
        self.first(|| series::note_time(new)).map(drop)
    }

    /// Writes all ranks' blocks into a dataset that is there, in as many rounds as the largest
    /// needs.
    fn fill(&self, path: &Path, mine: &Part) -> Result<(), Failure> {
        let Job { comm, new, bytes, .. } = *self.job;
        let each = new.element.bytes();
        let rounds = mine.rounds(ROUND_BYTES / each);
        let count = comm.allreduce_one(rounds.len(), Max)?;
        let open = self.together(|| Open::new(self.mpi, path, &new.dataset))?;
        let memory = self.together(|| raw::datatype(new.element))?;
        let nothing = (0..0, mine.nothing());
        for number in 0..count {
            let (cells, part) = rounds.get(number).unwrap_or(&nothing);
            let bytes = &bytes[cells.start * each..cells.end * each];
            // What a rank can do by itself comes first: the others would wait in the transfer for
            // one that fails before it.
            let block = self.together(|| open.block(&memory, part, bytes))?;
            self.together(|| block.write())?;
        }
        self.together(|| open.flush())?;
        self.together(|| open.close())
    }

    /// A step that rank 0 does for all; the others get nothing.
    fn first<R>(&self, step: impl FnOnce() -> Result<R, FileError>) -> Result<Option<R>, Failure> {
        let outcome = if self.job.comm.rank() == 0 { step().map(Some) } else { Ok(None) };
        agree(self.job.comm, self.job.at, outcome)
    }

    /// A step of the library's that all ranks do together.
    fn together<R>(&self, step: impl FnOnce() -> hdf5::Result<R>) -> Result<R, Failure> {
        let Job { comm, at, new, .. } = *self.job;
        let outcome = comm.wait_elsewhere("write of an HDF5 file", step);
        agree(comm, at, outcome.map_err(complaint(&new.path)))
    }

    /// Makes sure that what rank 0 has made is the same file for all, and that all may write so
    /// many bytes. Returns its name.
    fn show(&self, made: Option<&Unfinished>, bytes: u64) -> Result<PathBuf, Failure> {
        let Job { comm, at, new, .. } = *self.job;
        let word = RandomState::new().hash_one(&new.path).to_ne_bytes();
        let path = made.map_or(PathBuf::new(), |made| made.path().to_owned());
        self.first(|| {
            let Some(made) = made else { return Ok(()) };
            made.file().write_all(&word).map_err(FileError::system(&new.path, "write"))
        })?;
        // By its whole name: each rank may be in a directory of its own.
        let (path, expected) = comm.bcast_obj(0, || (path, word))?;
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
            None => within_limit(&new.path, bytes),
            Some(reason) => Err(FileError::NotShared {
                path: new.path.clone(),
                directory: path.parent().unwrap_or(Path::new("")).to_owned(),
                reason,
                instead: ", or a .npy file, which rank 0 writes alone",
            }),
        };
        agree(comm, at, seen)?;
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

    /// A block, which may be empty, to be written in one transfer of all ranks.
    fn block<'a>(
        &'a self,
        memory: &'a Datatype,
        part: &Part,
        bytes: &'a [u8],
    ) -> hdf5::Result<raw::Write<'a>> {
        raw::Write::new(&self.0.1, memory, part, bytes, raw::Transfer::together()?)
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
    use crate::{
        array::Layout,
        io::{Format, New, Record, storage::Storage},
        scalar::Element,
    };

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
        for (shape, storage) in [
            ([size + 1, 5], Storage::default()),
            ([size.div_ceil(2), 3], Storage { chunk: Some(vec![2, 2]), deflate: None }),
            ([size + 1, 7], Storage { chunk: Some(vec![2, 3]), deflate: Some(1) }),
        ] {
            let name = format!("spmd-collective-{}-{}.h5", shape[0], shape[1]);
            let path = std::env::temp_dir().join(name);
            let mine = Layout::on_grid(shape, [size, 1]).block(rank);
            let whole = ndarray::Array2::from_shape_fn(shape, |(i, j)| (10 * i + j) as f64);
            let block = mine.of(&whole);
            let new = New {
                path: path.clone(),
                format: Format::Hdf5 { vtk: false },
                dataset: "/a/b".to_owned(),
                shape: shape.to_vec(),
                element: Element::F64,
                storage,
                step: None,
            };
            if rank == 0 {
                Writer::create(&new, &record).unwrap().finish().unwrap();
            }
            meet();
            let open = Open::new(world, &path, "/a/b").unwrap();
            let memory = raw::datatype(Element::F64).unwrap();
            let bytes = bytemuck::cast_slice(block.as_slice().unwrap());
            // In two transfers, of which the second has nothing for some.
            let part = Part::from(&mine);
            let rounds = part.rounds(7);
            for number in 0..2 {
                let (cells, part) = rounds.get(number).cloned().unwrap_or((0..0, part.nothing()));
                let bytes = &bytes[cells.start * 8..cells.end * 8];
                open.block(&memory, &part, bytes).unwrap().write().unwrap();
            }
            open.flush().unwrap();
            open.close().unwrap();
            assert_eq!(super::super::tests::read_block(&path, [0..shape[0], 0..shape[1]]), whole);
            meet(); // all have read before one removes it
            if rank == 0 {
                std::fs::remove_file(&path).unwrap();
            }
        }
    }
}
