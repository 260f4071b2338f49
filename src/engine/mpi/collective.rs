//! Collectives in the MPI library's own way.

use std::ffi::{c_int, c_void};

use mpi::ffi;

use super::{MpiEngine, Space};
use crate::{
    engine::{Builtin, Collective, CollectiveCall, Context, Counts, Element, Rank, Reduction},
    error::ErrorKind,
};

/// Makes the call with the library's own collective, or declines.
///
/// It declines what the library cannot do on all of them: operators that it does not know, and sizes beyond a C int.
/// Both are the same on every rank.
pub(super) fn run(
    engine: &MpiEngine,
    space: &Space,
    call: &mut CollectiveCall<'_>,
) -> Option<Result<(), ErrorKind>> {
    let comm = space.user;
    match &mut call.what {
        Collective::Barrier => Some(engine.collectively(|request| {
            // SAFETY: the communicator is live.
            unsafe {
                match request {
                    None => ffi::MPI_Barrier(comm),
                    Some(request) => ffi::MPI_Ibarrier(comm, request),
                }
            }
        })),
        Collective::Bcast { root, buffer } => {
            let (root, count) = (root.0 as c_int, c_int::try_from(buffer.len()).ok()?);
            let start = buffer.as_mut_ptr().cast::<c_void>();
            Some(engine.collectively(|request| {
                // SAFETY: the communicator is live; the buffer holds `count` bytes and is borrowed until the call is
                // complete, when `collectively` returns.
                unsafe {
                    let byte = ffi::RSMPI_UINT8_T;
                    match request {
                        None => ffi::MPI_Bcast(start, count, byte, root, comm),
                        Some(request) => ffi::MPI_Ibcast(start, count, byte, root, comm, request),
                    }
                }
            }))
        }
        Collective::Allgather { mine, counts, out } => allgather(engine, comm, mine, counts, out),
        Collective::Reduce { root, mine, out, with } => {
            reduce(engine, comm, Kind::Reduce(root.0 as c_int), mine, out, with)
        }
        Collective::Allreduce { mine, out, with } => {
            reduce(engine, comm, Kind::Allreduce, mine, out, with)
        }
        Collective::Scan { mine, out, with } => reduce(engine, comm, Kind::Scan, mine, out, with),
        Collective::Exscan { mine, out, with } => {
            reduce(engine, comm, Kind::Exscan, mine, out, with)
        }
        _ => None,
    }
}

fn allgather(
    engine: &MpiEngine,
    comm: ffi::MPI_Comm,
    mine: &[u8],
    counts: &Counts<'_>,
    out: &mut [u8],
) -> Option<Result<(), ErrorKind>> {
    c_int::try_from(out.len()).ok()?; // then every count and place fits too
    // SAFETY: a constant of the library.
    let byte = unsafe { ffi::RSMPI_UINT8_T };
    let (send, count) = (mine.as_ptr().cast::<c_void>(), mine.len() as c_int);
    let into = out.as_mut_ptr().cast::<c_void>();
    if let Counts::Equal(_) = counts {
        return Some(engine.collectively(|request| {
            // SAFETY: every rank sends `count` bytes and `out` has room for as many from each, until the call is complete.
            unsafe {
                match request {
                    None => ffi::MPI_Allgather(send, count, byte, into, count, byte, comm),
                    Some(request) => {
                        ffi::MPI_Iallgather(send, count, byte, into, count, byte, comm, request)
                    }
                }
            }
        }));
    }
    let Counts::Each(counts) = counts else { return None };
    let lengths: Vec<c_int> = counts.iter().map(|&count| count as c_int).collect();
    let places = lengths.iter().scan(0, |end, &count| {
        *end += count;
        Some(*end - count)
    });
    let places: Vec<c_int> = places.collect();
    let (counts, at) = (lengths.as_ptr(), places.as_ptr());
    Some(engine.collectively(|request| {
        // SAFETY: `counts[rank]` bytes from each rank fit into `out` at `places[rank]`, one behind the other; all of them
        // stay until the call is complete.
        unsafe {
            match request {
                None => ffi::MPI_Allgatherv(send, count, byte, into, counts, at, byte, comm),
                Some(request) => {
                    ffi::MPI_Iallgatherv(send, count, byte, into, counts, at, byte, comm, request)
                }
            }
        }
    }))
}

/// The library's reductions.
#[derive(Clone, Copy)]
enum Kind {
    /// To this root.
    Reduce(c_int),
    Allreduce,
    Scan,
    Exscan,
}

fn reduce(
    engine: &MpiEngine,
    comm: ffi::MPI_Comm,
    kind: Kind,
    mine: &[u8],
    out: &mut [u8],
    with: &Reduction<'_>,
) -> Option<Result<(), ErrorKind>> {
    let (builtin, element) = with.native?;
    let (unit, size) = datatype(element);
    let count = c_int::try_from(mine.len() / size).ok()?;
    let (send, into) = (mine.as_ptr().cast::<c_void>(), out.as_mut_ptr().cast::<c_void>());
    let op = operator(builtin);
    let done = engine.collectively(|request| {
        // SAFETY: the communicator is live; `send` and `into` hold `count` elements of the type and stay until the call is
        // complete, when `collectively` returns. `into` matters on a reduction's root only.
        unsafe {
            match (kind, request) {
                (Kind::Reduce(root), None) => {
                    ffi::MPI_Reduce(send, into, count, unit, op, root, comm)
                }
                (Kind::Reduce(root), Some(request)) => {
                    ffi::MPI_Ireduce(send, into, count, unit, op, root, comm, request)
                }
                (Kind::Allreduce, None) => ffi::MPI_Allreduce(send, into, count, unit, op, comm),
                (Kind::Allreduce, Some(request)) => {
                    ffi::MPI_Iallreduce(send, into, count, unit, op, comm, request)
                }
                (Kind::Scan, None) => ffi::MPI_Scan(send, into, count, unit, op, comm),
                (Kind::Scan, Some(request)) => {
                    ffi::MPI_Iscan(send, into, count, unit, op, comm, request)
                }
                (Kind::Exscan, None) => ffi::MPI_Exscan(send, into, count, unit, op, comm),
                (Kind::Exscan, Some(request)) => {
                    ffi::MPI_Iexscan(send, into, count, unit, op, comm, request)
                }
            }
        }
    });
    Some(done)
}

fn operator(builtin: Builtin) -> ffi::MPI_Op {
    // SAFETY: constants of the library.
    unsafe {
        match builtin {
            Builtin::Sum => ffi::RSMPI_SUM,
            Builtin::Prod => ffi::RSMPI_PROD,
            Builtin::Min => ffi::RSMPI_MIN,
            Builtin::Max => ffi::RSMPI_MAX,
            Builtin::And => ffi::RSMPI_BAND,
            Builtin::Or => ffi::RSMPI_BOR,
            Builtin::Xor => ffi::RSMPI_BXOR,
        }
    }
}

/// The library's type for an element, and its size.
fn datatype(element: Element) -> (ffi::MPI_Datatype, usize) {
    // SAFETY: constants of the library.
    unsafe {
        match element {
            Element::I8 => (ffi::RSMPI_INT8_T, 1),
            Element::I16 => (ffi::RSMPI_INT16_T, 2),
            Element::I32 => (ffi::RSMPI_INT32_T, 4),
            Element::I64 => (ffi::RSMPI_INT64_T, 8),
            Element::U8 => (ffi::RSMPI_UINT8_T, 1),
            Element::U16 => (ffi::RSMPI_UINT16_T, 2),
            Element::U32 => (ffi::RSMPI_UINT32_T, 4),
            Element::U64 => (ffi::RSMPI_UINT64_T, 8),
            Element::F32 => (ffi::RSMPI_FLOAT, 4),
            Element::F64 => (ffi::RSMPI_DOUBLE, 8),
        }
    }
}

/// A context that knows this rank's neighbours.
pub(super) fn derive_graph(
    _engine: &MpiEngine,
    _parent: Context,
    _turn: u64,
    _sources: &[Rank],
    _destinations: &[Rank],
) -> Result<Context, ErrorKind> {
    Err(ErrorKind::Unsupported { what: "not built yet", how: "" })
}
