//! Who writes: one rank for all, or all together where the format and the engine can do that.

use std::panic::Location;

use super::{FileError, Format, New, Part, Provenance, agree, npy};
#[cfg(feature = "hdf5")]
use super::{Record, Step, hdf5};
use crate::{
    array::Layout,
    comm::Comm,
    datum::fnv1a,
    error::{Call, Error, ErrorKind, Failure, With},
};

/// An array on its way into a file, on each rank.
pub(super) struct Job<'a> {
    /// A communicator that nobody else uses.
    pub(super) comm: &'a Comm,
    /// The call that this is done for.
    pub(super) at: &'static Location<'static>,
    pub(super) new: &'a New,
    #[cfg_attr(not(feature = "hdf5"), expect(dead_code))]
    pub(super) about: &'a Provenance,
    /// The block of each rank.
    pub(super) part: &'a dyn Fn(usize) -> Part,
    /// The cells of this rank's block, the last axis fastest.
    pub(super) bytes: &'a [u8],
}

/// Makes sure that all ranks do the same, before any of them does it.
pub(super) fn agree_on_call<const D: usize>(
    comm: &Comm,
    at: &'static Location<'static>,
    what: &str,
    layout: &Layout<D>,
) -> Result<(), Failure> {
    // Layouts may differ in what their words leave out.
    let cut = fnv1a(format!("{layout:?}").bytes());
    let mine = [&cut.to_le_bytes(), what.as_bytes()].concat();
    let all = comm.allgather(&mine)?;
    let Some(rank) = (0..comm.size()).find(|&rank| all[rank] != mine) else { return Ok(()) };
    let theirs = String::from_utf8_lossy(&all[rank][size_of_val(&cut)..]).into_owned();
    let theirs = if theirs == what { format!("{theirs}, cut at other places") } else { theirs };
    let kind = ErrorKind::CollectiveMismatch { mine: what.to_owned(), rank, theirs };
    Err(Error::new(kind, comm.rank(), Call { op: "write", with: With::ALL, at }).into())
}

impl Job<'_> {
    /// Writes the file, if `check` on rank 0 has nothing against it.
    ///
    /// # Collective
    /// All ranks.
    pub(super) fn write(
        &self,
        check: impl FnOnce() -> Result<(), FileError>,
    ) -> Result<(), Failure> {
        #[cfg(feature = "phdf5")]
        if let (Format::Hdf5 { .. }, Some(mpi)) = (self.new.format, hdf5::collective::mpi_of(self.comm)?)
            && self.new.step.is_none_or(|step| step.together)
            // Bytes for a pipe are put together where rank 0 is.
            && self.comm.bcast(0, || vec![!super::unfinished::is_pipe(&self.new.path)])?[0]
        {
            return hdf5::collective::Shared { job: self, mpi }.write(check);
        }
        let first = self.comm.rank() == 0;
        let writer = if first { check().and_then(|()| self.create()).map(Some) } else { Ok(None) };
        let written = match agree(self.comm, self.at, writer)? {
            Some(mut writer) => {
                // Blocks come even when none can be written any more: their senders wait.
                let mut written = Ok(());
                self.collect(|part, bytes| {
                    if written.is_ok() {
                        written = writer.write(part, bytes);
                    }
                })?;
                written.and_then(|()| writer.finish())
            }
            None if self.bytes.is_empty() => Ok(()),
            None => {
                self.comm.send(self.bytes, 0)?;
                Ok(())
            }
        };
        agree(self.comm, self.at, written)
    }

    /// Begins the file that one rank writes.
    fn create(&self) -> Result<Writer, FileError> {
        match self.new.format {
            Format::Npy => npy::Writer::create(&self.new.path, &self.new.shape, self.new.element)
                .map(Writer::Npy),
            #[cfg(feature = "hdf5")]
            Format::Hdf5 { .. } => match self.new.step {
                Some(Step { number: 1.., .. }) => {
                    hdf5::series::Extension::begin(self.new).map(Writer::Series)
                }
                _ => hdf5::Writer::create(self.new, &self.record()).map(Writer::Hdf5),
            },
        }
    }

    #[cfg(feature = "hdf5")]
    pub(super) fn record(&self) -> Record {
        Record::new(self.about, self.comm.size())
    }

    /// Hands rank 0 all blocks that are not empty, in the order of ranks, one at a time.
    fn collect(&self, mut take: impl FnMut(&Part, &[u8])) -> Result<(), Failure> {
        for rank in 0..self.comm.size() {
            let part = (self.part)(rank);
            if part.is_empty() {
            } else if rank == self.comm.rank() {
                take(&part, self.bytes);
            } else {
                let (bytes, _) = self.comm.recv::<u8>(rank)?;
                take(&part, &bytes);
            }
        }
        Ok(())
    }
}

/// A file that one rank writes, block by block.
enum Writer {
    Npy(npy::Writer),
    #[cfg(feature = "hdf5")]
    Hdf5(hdf5::Writer),
    #[cfg(feature = "hdf5")]
    Series(hdf5::series::Extension),
}

impl Writer {
    fn write(&mut self, part: &Part, bytes: &[u8]) -> Result<(), FileError> {
        match self {
            Self::Npy(writer) => writer.write(part, bytes),
            #[cfg(feature = "hdf5")]
            Self::Hdf5(writer) => writer.write(part, bytes),
            #[cfg(feature = "hdf5")]
            Self::Series(writer) => writer.write(part, bytes),
        }
    }

    fn finish(self) -> Result<(), FileError> {
        match self {
            Self::Npy(writer) => writer.finish(),
            #[cfg(feature = "hdf5")]
            Self::Hdf5(writer) => writer.finish(),
            #[cfg(feature = "hdf5")]
            Self::Series(writer) => writer.finish(),
        }
    }
}
