//! Collectives that are prepared once and started often, where the library has such.

use std::ffi::c_int;

use mpi::ffi::{self, MPI_Info, MPI_Request};

use super::{datatype, readable, row_of, writable};
use crate::{
    engine::{
        Builtin, CollectiveKind, Element, LentCollective, Rank,
        mpi::{
            MpiEngine,
            communicator::Communicator,
            dynamic::dynamic,
            raw::{Extent, made},
        },
    },
    error::Fault,
};

/// Prepares the collective on a communicator of its own; nothing if the library cannot.
///
/// # Safety
/// The lent memory stays until the request is freed, and is let alone while it is started.
pub(in crate::engine::mpi) unsafe fn prepare(
    engine: &MpiEngine,
    comm: &Communicator,
    what: &LentCollective<'_>,
) -> Result<Option<MPI_Request>, Fault> {
    let (comm, dynamic) = (comm.raw(), dynamic());
    // SAFETY: a constant of the library.
    let info: MPI_Info = unsafe { ffi::RSMPI_INFO_NULL };
    let LentCollective { size, kind, mine, out, .. } = what;
    let (send, into) = (readable(mine.start(), mine.len()), writable(out.start(), out.len()));
    let root = kind.root().map_or(0, |Rank(root)| root as c_int);
    let reduced = |bytes| operands(engine, bytes, what.native());
    let _waiting = engine.waiting();
    // SAFETY: the communicators are live; the lent memory holds what is said of it and stays, by
    // this function's contract.
    let request = unsafe {
        match kind {
            CollectiveKind::Barrier => {
                let Some(init) = dynamic.barrier_init else { return Ok(None) };
                made(|made| init(comm, info, made))
            }
            CollectiveKind::Bcast(_) => {
                let Some(init) = dynamic.bcast_init else { return Ok(None) };
                let extent = Extent::bytes(what.bytes())?;
                let (count, of) = (extent.count, extent.unit);
                // The root's is read only.
                let buffer = if mine.len() > 0 { send.cast_mut() } else { into };
                made(|made| init(buffer, count, of, root, comm, info, made))
            }
            CollectiveKind::Allgather | CollectiveKind::Alltoall => {
                let (init, row) = if *kind == CollectiveKind::Allgather {
                    (dynamic.allgather_init, mine.len())
                } else {
                    (dynamic.alltoall_init, mine.len() / size)
                };
                let Some(init) = init else { return Ok(None) };
                let extent = row_of(row, *size)?;
                let (count, of) = (extent.count, extent.unit);
                made(|made| init(send, count, of, into, count, of, comm, info, made))
            }
            CollectiveKind::Gather(_) | CollectiveKind::Scatter(_) => {
                let (init, row) = if matches!(kind, CollectiveKind::Gather(_)) {
                    (dynamic.gather_init, mine.len())
                } else {
                    (dynamic.scatter_init, out.len())
                };
                let Some(init) = init else { return Ok(None) };
                let extent = row_of(row, *size)?;
                let (count, of) = (extent.count, extent.unit);
                made(|made| init(send, count, of, into, count, of, root, comm, info, made))
            }
            CollectiveKind::Reduce(_) => {
                let Some((count, of, op)) = reduced(mine.len()) else { return Ok(None) };
                let Some(init) = dynamic.reduce_init else { return Ok(None) };
                made(|made| init(send, into, count, of, op, root, comm, info, made))
            }
            CollectiveKind::Allreduce
            | CollectiveKind::ReduceScatter
            | CollectiveKind::Scan
            | CollectiveKind::Exscan => {
                let (init, bytes) = match kind {
                    CollectiveKind::Scan => (dynamic.scan_init, mine.len()),
                    CollectiveKind::Exscan => (dynamic.exscan_init, mine.len()),
                    CollectiveKind::Allreduce => (dynamic.allreduce_init, mine.len()),
                    _ => (dynamic.reduce_scatter_init, mine.len() / size),
                };
                let Some((count, of, op)) = reduced(bytes) else { return Ok(None) };
                let Some(init) = init else { return Ok(None) };
                made(|made| init(send, into, count, of, op, comm, info, made))
            }
            CollectiveKind::NeighborAllgather | CollectiveKind::NeighborAlltoall => {
                return Ok(None);
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
    native: Option<(Builtin, Element)>,
) -> Option<(c_int, ffi::MPI_Datatype, ffi::MPI_Op)> {
    let (op, element) = native?;
    let (of, size) = datatype(element);
    Some((c_int::try_from(bytes / size).ok()?, of, engine.basis.operators.of(op, element)))
}
