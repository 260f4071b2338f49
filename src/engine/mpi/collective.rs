//! Collectives in the MPI library's own way: those whose rows all have the same length.
//!
//! Data are bytes to the library, except in reductions. Rows go as they are and nothing is
//! allocated for them; where all of them together are beyond a C int, each is one element of a type
//! of our own, so that no count comes near the limit.
//!
//! Rows of different lengths, of which a rank may know its own only, go as messages of ours: nobody
//! has compared those lengths, and a library does not say that a row is shorter than was expected
//! (nor do all say that it is longer).

use std::{
    ffi::{c_int, c_void},
    ptr::NonNull,
};

use mpi::ffi;

use super::{
    CommPair, MpiEngine,
    raw::{Datatype, Extent},
};
use crate::{
    engine::{Collective, CollectiveCall, Counts},
    error::Fault,
};

type Outcome = Result<(), Fault>;

/// Makes one of the library's collective calls, blocking or not: the names of both forms, and what
/// both take.
///
/// To be used where all buffers and arrays are borrowed for longer than the statement: the call is
/// complete when it is over.
macro_rules! call {
    ($engine:expr, $blocking:path | $started:path, $($argument:expr),*) => {
        $engine.collectively(|request| {
            // SAFETY: the communicator is live, and by the reasons given where this macro is used
            // the arguments are what the library takes.
            unsafe {
                match request {
                    None => $blocking($($argument),*),
                    Some(request) => $started($($argument,)* request),
                }
            }
        })
    };
}

mod prepared;
mod reduce;

pub(super) use self::{
    prepared::prepare,
    reduce::{Operators, datatype, operator, saturates},
};

/// Makes the call with the library's own collective, or declines for reasons that are the same on
/// every rank.
pub(super) fn run(
    engine: &MpiEngine,
    pair: &CommPair,
    call: &mut CollectiveCall<'_>,
) -> Option<Outcome> {
    let (comm, ranks, kind) = (pair.coll.raw(), call.size, call.what.kind());
    let makes = Caller { engine, comm };
    Some(match &mut call.what {
        // No data.
        Collective::Barrier => call!(engine, ffi::MPI_Barrier | ffi::MPI_Ibarrier, comm),
        Collective::Bcast { root, buffer } => makes.bcast(root.0 as c_int, buffer),
        Collective::Gather { root, mine, counts: Counts::Equal(_), out } => {
            makes.gather(ranks, root.0 as c_int, mine, out)
        }
        Collective::Scatter { root, rows, counts: Counts::Equal(_), out } => {
            makes.scatter(ranks, root.0 as c_int, rows, out)
        }
        Collective::Allgather { mine, counts: Counts::Equal(_), out } => {
            makes.allgather(ranks, mine, out)
        }
        Collective::Alltoall {
            rows,
            send_counts: Counts::Equal(bytes),
            out,
            recv_counts: Counts::Equal(_),
        } => makes.alltoall(ranks, *bytes, rows, out),
        Collective::Reduce { mine, out, with, .. }
        | Collective::Allreduce { mine, out, with }
        | Collective::Scan { mine, out, with }
        | Collective::Exscan { mine, out, with } => return makes.reduce(kind, mine, out, with),
        Collective::ReduceScatter { mine, counts: Counts::Equal(bytes), out, with } => {
            return makes.reduce_scatter(mine, *bytes, out, with);
        }
        _ => return None,
    })
}

/// Gathers equally many bytes of every rank.
pub(super) fn allgather(
    engine: &MpiEngine,
    pair: &CommPair,
    mine: &[u8],
    out: &mut [u8],
) -> Outcome {
    Caller { engine, comm: pair.coll.raw() }.allgather(pair.ranks.len(), mine, out)
}

/// Makes the calls on one communicator.
#[derive(Clone, Copy)]
struct Caller<'e> {
    engine: &'e MpiEngine,
    comm: ffi::MPI_Comm,
}

/// A row of so many bytes, `rows` of which are in a buffer: bytes, or one element of a type if they
/// are too many.
#[inline(always)]
fn row_of(bytes: usize, rows: usize) -> Result<Extent, Fault> {
    match bytes.checked_mul(rows).map(c_int::try_from) {
        Some(Ok(_)) => Extent::bytes(bytes),
        _ => Datatype::head_and_body(0, 0, bytes).map(Extent::one),
    }
}

/// Where a call of the library reads the bytes.
///
/// An empty slice may lie at address 1, which is `MPI_IN_PLACE` in Open MPI; and MPICH refuses a
/// call that reads and writes at the same place, even nothing.
pub(super) fn read(bytes: &[u8]) -> *const c_void {
    readable(bytes.as_ptr(), bytes.len())
}

fn readable(start: *const u8, len: usize) -> *const c_void {
    if len == 0 { NonNull::<u64>::dangling().as_ptr().cast() } else { start.cast() }
}

/// Where a call of the library writes the bytes.
pub(super) fn write(bytes: &mut [u8]) -> *mut c_void {
    writable(bytes.as_mut_ptr(), bytes.len())
}

fn writable(start: *mut u8, len: usize) -> *mut c_void {
    if len == 0 { NonNull::<u128>::dangling().as_ptr().cast() } else { start.cast() }
}

/// Makes a call that reads so many elements at each place and writes as many, of one type, both
/// said by the extent.
macro_rules! move_rows {
    ($caller:ident, $waits:path | $starts:path, $rows:ident, $out:ident, $extent:expr $(, $root:ident)?) => {{
        let Caller { engine, comm } = $caller;
        let (send, into) = (read($rows), write($out));
        let extent = &$extent?;
        let (count, of) = (extent.count, extent.unit);
        call!(engine, $waits | $starts, send, count, of, into, count, of $(, $root)?, comm)
    }};
}

impl Caller<'_> {
    fn bcast(self, root: c_int, buffer: &mut [u8]) -> Outcome {
        let Self { engine, comm } = self;
        let start = write(buffer);
        let extent = &Extent::bytes(buffer.len())?;
        let (count, of) = (extent.count, extent.unit);
        // The buffer holds `count` elements.
        call!(engine, ffi::MPI_Bcast | ffi::MPI_Ibcast, start, count, of, root, comm)
    }

    fn gather(self, ranks: usize, root: c_int, mine: &[u8], out: &mut [u8]) -> Outcome {
        // Every rank sends `count` elements; the root's `out` has room for so many from each.
        move_rows!(
            self,
            ffi::MPI_Gather | ffi::MPI_Igather,
            mine,
            out,
            row_of(mine.len(), ranks),
            root
        )
    }

    fn scatter(self, ranks: usize, root: c_int, rows: &[u8], out: &mut [u8]) -> Outcome {
        // The root's `rows` hold `count` elements for every rank, and `out` has room for so many.
        move_rows!(
            self,
            ffi::MPI_Scatter | ffi::MPI_Iscatter,
            rows,
            out,
            row_of(out.len(), ranks),
            root
        )
    }

    fn allgather(self, ranks: usize, mine: &[u8], out: &mut [u8]) -> Outcome {
        // Every rank sends `count` elements; `out` has room for so many from each.
        move_rows!(
            self,
            ffi::MPI_Allgather | ffi::MPI_Iallgather,
            mine,
            out,
            row_of(mine.len(), ranks)
        )
    }

    fn alltoall(self, ranks: usize, bytes: usize, rows: &[u8], out: &mut [u8]) -> Outcome {
        // `rows` and `out` hold `count` elements for and from every rank.
        move_rows!(self, ffi::MPI_Alltoall | ffi::MPI_Ialltoall, rows, out, row_of(bytes, ranks))
    }
}
