//! One HDF5 file that all ranks write together, through MPI-IO.
//!
//! The safe library opens the file on a communicator, but transfers are independent: the collective transfer is asked for
//! here, by HDF5's own calls.

use std::path::{Path, PathBuf};

use mpi::ffi::MPI_Comm;
use ndarray::ArrayRef2;

use super::{super::Block, FileError, Record, Unfinished, furnish, raw};
use crate::{array::Layout, comm::Comm, error::Failure};

/// Writes all ranks' blocks into one dataset. `mpi` is the MPI library's communicator of `comm`.
///
/// # Collective
pub(in crate::io) fn write(
    comm: &Comm,
    mpi: MPI_Comm,
    path: &Path,
    name: Option<&str>,
    layout: &Layout<2>,
    block: &ArrayRef2<f64>,
    record: &Record,
) -> Result<(), Failure> {
    let first = comm.rank() == 0;
    // All ranks open the same name and write the same words, whatever each was started with.
    let unfinished = Unfinished::new(path);
    let (temporary, record) =
        comm.bcast_obj(0, || (unfinished.path().to_owned(), record.clone()))?;
    let mine = layout.block(comm.rank());
    let transfer = || transfer(mpi, &temporary, name, layout.shape(), &mine, block, &record);
    comm.wait_elsewhere("write of an HDF5 file", transfer)
        .map_err(FileError::format(path, "write"))?;
    comm.barrier()?;
    if first {
        unfinished.finish()?;
    }
    Ok(comm.barrier()?)
}

fn transfer(
    mpi: MPI_Comm,
    path: &PathBuf,
    name: Option<&str>,
    shape: [usize; 2],
    mine: &Block,
    block: &ArrayRef2<f64>,
    record: &Record,
) -> hdf5::Result<()> {
    let file =
        hdf5::File::with_options().with_fapl(|access| access.mpio(mpi, None)).create(path)?;
    let dataset = furnish(&file, name, shape, record)?;
    raw::write_collectively(&dataset, mine, block)?;
    drop(dataset);
    file.flush()?;
    file.close()
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
        // SAFETY: MPI has been started; the constant is MPI's own, and the results are written to two integers.
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
        // One row more than ranks, and fewer: some have nothing to write.
        for shape in [[size + 1, 5], [size.div_ceil(2), 3]] {
            let name = format!("spmd-collective-{}.h5", shape[0]);
            let path = std::env::temp_dir().join(name);
            let mine = Layout::new(shape, [size, 1]).block(rank);
            let whole = ndarray::Array2::from_shape_fn(shape, |(i, j)| (10 * i + j) as f64);
            let [rows, columns] = mine.clone();
            let block = whole.slice(ndarray::s![rows, columns]);
            transfer(world, &path, Some("/a/b"), shape, &mine, &block, &record).unwrap();
            let written = super::super::Reader::open(&path, None).unwrap();
            assert_eq!(written.read(&[0..shape[0], 0..shape[1]]).unwrap(), whole);
            // All have read before one removes it.
            // SAFETY: MPI is running, and all processes make this call.
            unsafe { MPI_Barrier(world) };
            if rank == 0 {
                drop(written);
                std::fs::remove_file(&path).unwrap();
            }
        }
    }
}
