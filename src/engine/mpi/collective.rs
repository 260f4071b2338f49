//! Collectives in the MPI library's own way.

use std::ffi::{c_int, c_void};

use mpi::ffi;

use super::{Space, raw::check};
use crate::{
    engine::{Builtin, Collective, CollectiveCall, Element},
    error::ErrorKind,
};

/// Makes the call with the library's own collective, or declines.
///
/// It declines what the library cannot do on all of them: operators that it does not know, and sizes beyond a C int.
/// Both are the same on every rank.
pub(super) fn run(space: &Space, call: &mut CollectiveCall<'_>) -> Option<Result<(), ErrorKind>> {
    let comm = space.user;
    // SAFETY (of every call below): the communicator is live; buffers are borrowed for the length of these blocking calls
    // and hold the bytes that counts and types say; predefined handles are constants of the library.
    match &mut call.what {
        Collective::Barrier => {
            // SAFETY: as above.
            Some(check(unsafe { ffi::MPI_Barrier(comm) }))
        }
        Collective::Bcast { root, buffer } => {
            let (root, count) = (root.0 as c_int, c_int::try_from(buffer.len()).ok()?);
            let start = buffer.as_mut_ptr().cast::<c_void>();
            // SAFETY: as above.
            Some(check(unsafe { ffi::MPI_Bcast(start, count, ffi::RSMPI_UINT8_T, root, comm) }))
        }
        Collective::Allgather { mine, counts, out } => allgather(comm, mine, counts, out),
        Collective::Reduce { root, buffer, with } => {
            let root = root.0 as c_int;
            reduce(buffer, with.native?, |send, into, count, element, op| {
                // SAFETY: as above; `into` matters on the root only.
                unsafe { ffi::MPI_Reduce(send, into, count, element, op, root, comm) }
            })
        }
        Collective::Allreduce { buffer, with } => {
            reduce(buffer, with.native?, |send, into, count, element, op| {
                // SAFETY: as above.
                unsafe { ffi::MPI_Allreduce(send, into, count, element, op, comm) }
            })
        }
        Collective::Scan { buffer, with } => {
            reduce(buffer, with.native?, |send, into, count, element, op| {
                // SAFETY: as above.
                unsafe { ffi::MPI_Scan(send, into, count, element, op, comm) }
            })
        }
        Collective::Exscan { buffer, with } => {
            reduce(buffer, with.native?, |send, into, count, element, op| {
                // SAFETY: as above.
                unsafe { ffi::MPI_Exscan(send, into, count, element, op, comm) }
            })
        }
    }
}

fn allgather(
    comm: ffi::MPI_Comm,
    mine: &[u8],
    counts: &[usize],
    out: &mut [u8],
) -> Option<Result<(), ErrorKind>> {
    c_int::try_from(out.len()).ok()?; // then every count and place fits too
    // SAFETY: a constant of the library.
    let byte = unsafe { ffi::RSMPI_UINT8_T };
    let (send, count) = (mine.as_ptr().cast::<c_void>(), mine.len() as c_int);
    let into = out.as_mut_ptr().cast::<c_void>();
    if counts.iter().all(|&other| other == mine.len()) {
        // SAFETY: every rank sends `count` bytes and `out` has room for as many from each.
        let code = unsafe { ffi::MPI_Allgather(send, count, byte, into, count, byte, comm) };
        return Some(check(code));
    }
    let counts: Vec<c_int> = counts.iter().map(|&count| count as c_int).collect();
    let places = counts.iter().scan(0, |end, &count| {
        *end += count;
        Some(*end - count)
    });
    let places: Vec<c_int> = places.collect();
    let (counts, places) = (counts.as_ptr(), places.as_ptr());
    // SAFETY: `counts[rank]` bytes from each rank fit into `out` at `places[rank]`, one behind the other.
    let code = unsafe { ffi::MPI_Allgatherv(send, count, byte, into, counts, places, byte, comm) };
    Some(check(code))
}

/// Calls `run(send, into, count, type, operator)` with the buffer's bytes to send and the buffer to write.
fn reduce(
    buffer: &mut [u8],
    (builtin, element): (Builtin, Element),
    run: impl FnOnce(*const c_void, *mut c_void, c_int, ffi::MPI_Datatype, ffi::MPI_Op) -> c_int,
) -> Option<Result<(), ErrorKind>> {
    let (datatype, size) = datatype(element);
    let count = c_int::try_from(buffer.len() / size).ok()?;
    // A copy to send from, aligned for every element (MPI_IN_PLACE is a macro that the bindings lack).
    let mut words = vec![0_u64; buffer.len().div_ceil(8)];
    let send: &mut [u8] = bytemuck::cast_slice_mut(&mut words);
    send[..buffer.len()].copy_from_slice(buffer);
    let (send, into) = (send.as_ptr().cast::<c_void>(), buffer.as_mut_ptr().cast::<c_void>());
    Some(check(run(send, into, count, datatype, operator(builtin))))
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
