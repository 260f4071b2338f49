//! One HDF5 file that all ranks write together, through MPI-IO.
//!
//! The safe library opens the file on a communicator, but transfers are independent: the collective transfer is asked for
//! here, by HDF5's own calls.

use std::{
    ffi::c_void,
    path::{Path, PathBuf},
    ptr,
};

use hdf5::{Dataset, globals::H5T_NATIVE_DOUBLE, sync::sync};
use hdf5_sys::{
    h5::hsize_t,
    h5d::H5Dwrite,
    h5i::hid_t,
    h5p::{H5FD_mpio_xfer_t, H5P_CLS_DATASET_XFER, H5Pclose, H5Pcreate, H5Pset_dxpl_mpio},
    h5s::{H5S_SELECT_SET, H5Sclose, H5Screate_simple, H5Sselect_hyperslab, H5Sselect_none},
};
use mpi::ffi::MPI_Comm;
use ndarray::ArrayRef2;

use super::{super::Block, FileError, Record, Unfinished, furnish};
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
    write_collectively(&dataset, shape, mine, block)?;
    drop(dataset);
    file.flush()?;
    file.close()
}

fn write_collectively(
    dataset: &Dataset,
    shape: [usize; 2],
    mine: &Block,
    block: &ArrayRef2<f64>,
) -> hdf5::Result<()> {
    let values = block.as_standard_layout();
    let lengths = mine.clone().map(|range| range.len());
    assert_eq!(values.dim(), (lengths[0], lengths[1]), "the block is this rank's");
    assert!(mine[0].end <= shape[0] && mine[1].end <= shape[1], "the block is in the array");
    let in_file = Handle::space(shape)?;
    // A space without cells cannot be made on all versions: one cell, of which none is selected.
    let in_memory = Handle::space(lengths.map(|len| len.max(1)))?;
    if values.is_empty() {
        in_file.select_none()?;
        in_memory.select_none()?;
    } else {
        in_file.select(mine)?;
    }
    let transfer = Handle::collective_transfer()?;
    sync(|| {
        // SAFETY:
        // 1. All ids are open: `dataset` and the handles outlive the call.
        // 2. HDF5 reads from the pointer what is selected in `in_memory`: nothing, or as many doubles as `values` holds,
        //    which lie together in the order of rows; checked above.
        // 3. `sync` holds the library's lock.
        check(
            "H5Dwrite",
            i64::from(unsafe {
                H5Dwrite(
                    dataset.id(),
                    *H5T_NATIVE_DOUBLE,
                    in_memory.id,
                    in_file.id,
                    transfer.id,
                    values.as_ptr().cast::<c_void>(),
                )
            }),
        )
    })?;
    Ok(())
}

/// An id of the library's own, closed when dropped.
struct Handle {
    id: hid_t,
    close: unsafe extern "C" fn(hid_t) -> i32,
}

impl Handle {
    /// A data space of this shape.
    fn space(shape: [usize; 2]) -> hdf5::Result<Self> {
        let shape = shape.map(|len| len as hsize_t);
        // SAFETY: HDF5 reads two lengths from `shape`; null stands for the same lengths as the largest.
        let id = sync(|| unsafe { H5Screate_simple(2, shape.as_ptr(), ptr::null()) });
        Ok(Self { id: check("H5Screate_simple", id)?, close: H5Sclose })
    }

    /// The properties of a transfer that all ranks make together.
    fn collective_transfer() -> hdf5::Result<Self> {
        // SAFETY: the class is one of the library's own, which it has set up: `sync` starts it.
        let id = sync(|| unsafe { H5Pcreate(*H5P_CLS_DATASET_XFER) });
        let list = Self { id: check("H5Pcreate", id)?, close: H5Pclose };
        let mode = H5FD_mpio_xfer_t::H5FD_MPIO_COLLECTIVE;
        // SAFETY: the list is open and of the class that has this property.
        let set = sync(|| unsafe { H5Pset_dxpl_mpio(list.id, mode) });
        check("H5Pset_dxpl_mpio", set.into())?;
        Ok(list)
    }

    fn select(&self, block: &Block) -> hdf5::Result<()> {
        let start = block.clone().map(|range| range.start as hsize_t);
        let count = block.clone().map(|range| range.len() as hsize_t);
        // SAFETY: the space is open and has two axes; HDF5 reads two numbers from each pointer that is not null, and null
        // stands for ones.
        let selected = sync(|| unsafe {
            H5Sselect_hyperslab(
                self.id,
                H5S_SELECT_SET,
                start.as_ptr(),
                ptr::null(),
                count.as_ptr(),
                ptr::null(),
            )
        });
        check("H5Sselect_hyperslab", selected.into()).map(drop)
    }

    fn select_none(&self) -> hdf5::Result<()> {
        // SAFETY: the space is open.
        let selected = sync(|| unsafe { H5Sselect_none(self.id) });
        check("H5Sselect_none", selected.into()).map(drop)
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        // SAFETY: the id is open, of the kind that `close` closes, and nobody else's.
        sync(|| unsafe { (self.close)(self.id) });
    }
}

/// Turns the library's "negative is an error" into one.
fn check(call: &str, result: i64) -> hdf5::Result<i64> {
    if result < 0 { Err(format!("{call} failed").into()) } else { Ok(result) }
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
