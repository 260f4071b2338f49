//! Collectives that are prepared once and started often, where the library has such.

use std::ffi::c_int;

use mpi::ffi::{self, MPI_Comm, MPI_Info, MPI_Request};

use super::{datatype, readable, row_of, writable};
use crate::{
    datum::RawBytes,
    engine::{
        Preparation, Rank, Reduction, ReductionKind,
        mpi::{
            MpiEngine,
            dynamic::dynamic,
            raw::{Extent, made},
        },
    },
    error::Fault,
};

/// Prepares the collective on a communicator of its own; nothing if the library cannot, or if it is
/// no collective.
///
/// # Safety
/// The lent memory stays until the request is freed, and is let alone while it is started.
pub(in crate::engine::mpi) unsafe fn prepare(
    engine: &MpiEngine,
    comm: MPI_Comm,
    what: &Preparation<'_>,
) -> Result<Option<MPI_Request>, Fault> {
    let dynamic = dynamic();
    // SAFETY: a constant of the library.
    let info: MPI_Info = unsafe { ffi::RSMPI_INFO_NULL };
    let read = |bytes: &RawBytes| readable(bytes.start(), bytes.len());
    let write = |bytes: &RawBytes| writable(bytes.start(), bytes.len());
    let _waiting = engine.waiting();
    // SAFETY: the communicators are live; the lent memory holds what is said of it and stays, by
    // this function's contract.
    let request = unsafe {
        match what {
            Preparation::Send { .. } | Preparation::Recv { .. } => return Ok(None),
            Preparation::Barrier(_) => {
                let Some(init) = dynamic.barrier_init else { return Ok(None) };
                made(|made| init(comm, info, made))
            }
            Preparation::Bcast { root, buffer, .. } => {
                let Some(init) = dynamic.bcast_init else { return Ok(None) };
                let extent = Extent::bytes(buffer.len())?;
                let (count, of, root) = (extent.count, extent.unit, root.0 as c_int);
                made(|made| init(write(buffer), count, of, root, comm, info, made))
            }
            Preparation::Allgather { place, mine, out } => {
                let Some(init) = dynamic.allgather_init else { return Ok(None) };
                let extent = row_of(mine.len(), place.size)?;
                let (count, of, send, into) = (extent.count, extent.unit, read(mine), write(out));
                made(|made| init(send, count, of, into, count, of, comm, info, made))
            }
            Preparation::Alltoall { place, rows, out } => {
                let Some(init) = dynamic.alltoall_init else { return Ok(None) };
                let extent = row_of(rows.len() / place.size, place.size)?;
                let (count, of, send, into) = (extent.count, extent.unit, read(rows), write(out));
                made(|made| init(send, count, of, into, count, of, comm, info, made))
            }
            Preparation::Gather { place, root, mine, out } => {
                let Some(init) = dynamic.gather_init else { return Ok(None) };
                let extent = row_of(mine.len(), place.size)?;
                let (count, of, send, into) = (extent.count, extent.unit, read(mine), write(out));
                let root = root.0 as c_int;
                made(|made| init(send, count, of, into, count, of, root, comm, info, made))
            }
            Preparation::Scatter { place, root, rows, out } => {
                let Some(init) = dynamic.scatter_init else { return Ok(None) };
                let extent = row_of(out.len(), place.size)?;
                let (count, of, send, into) = (extent.count, extent.unit, read(rows), write(out));
                let root = root.0 as c_int;
                made(|made| init(send, count, of, into, count, of, root, comm, info, made))
            }
            Preparation::Reduce { kind, mine, out, with, .. } => {
                let Some((count, of, op)) = operands(engine, mine.len(), with) else {
                    return Ok(None);
                };
                let (send, into) = (read(mine), write(out));
                if let ReductionKind::Reduce(Rank(root)) = *kind {
                    let (Some(init), root) = (dynamic.reduce_init, root as c_int) else {
                        return Ok(None);
                    };
                    made(|made| init(send, into, count, of, op, root, comm, info, made))
                } else {
                    let init = match kind {
                        ReductionKind::Scan => dynamic.scan_init,
                        ReductionKind::Exscan => dynamic.exscan_init,
                        ReductionKind::Allreduce | ReductionKind::Reduce(_) => {
                            dynamic.allreduce_init
                        }
                    };
                    let Some(init) = init else { return Ok(None) };
                    made(|made| init(send, into, count, of, op, comm, info, made))
                }
            }
            Preparation::ReduceScatter { place, mine, out, with } => {
                let Some(init) = dynamic.reduce_scatter_init else { return Ok(None) };
                let part = mine.len() / place.size;
                let Some((count, of, op)) = operands(engine, part, with) else { return Ok(None) };
                let (send, into) = (read(mine), write(out));
                made(|made| init(send, into, count, of, op, comm, info, made))
            }
        }
    };
    request.map(Some)
}

/// The operands of a reduction of so many bytes: their number, type and operator, if the library
/// knows them.
fn operands(
    engine: &MpiEngine,
    bytes: usize,
    with: &Reduction<'_>,
) -> Option<(c_int, ffi::MPI_Datatype, ffi::MPI_Op)> {
    let (op, element) = with.native?;
    let (of, size) = datatype(element);
    Some((c_int::try_from(bytes / size).ok()?, of, engine.operators.of(op, element)))
}
