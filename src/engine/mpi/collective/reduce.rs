//! Reductions by the library's own operators.

use std::ffi::c_int;

use mpi::ffi;

use super::{Caller, Outcome, read, write};
use crate::engine::{Builtin, Counts, Element, Rank, Reduction, ReductionKind, mpi::newer::newer};

impl Caller<'_> {
    pub(super) fn reduce(
        self,
        kind: ReductionKind,
        mine: &[u8],
        out: &mut [u8],
        with: &Reduction<'_>,
    ) -> Option<Outcome> {
        let Self { engine, comm } = self;
        let (builtin, element) = with.native?;
        let ((of, size), op) = (datatype(element), operator(builtin));
        let (send, into) = (read(mine), write(out));
        let Ok(count) = c_int::try_from(mine.len() / size) else {
            return self.reduce_many(kind, mine, out, (of, size), op);
        };
        // `send` and, where the library writes there, `into` hold `count` elements of the type.
        Some(match kind {
            ReductionKind::Reduce(Rank(root)) => {
                let root = root as c_int;
                call!(
                    engine,
                    ffi::MPI_Reduce | ffi::MPI_Ireduce,
                    send,
                    into,
                    count,
                    of,
                    op,
                    root,
                    comm
                )
            }
            ReductionKind::Allreduce => {
                call!(
                    engine,
                    ffi::MPI_Allreduce | ffi::MPI_Iallreduce,
                    send,
                    into,
                    count,
                    of,
                    op,
                    comm
                )
            }
            ReductionKind::Scan => {
                call!(engine, ffi::MPI_Scan | ffi::MPI_Iscan, send, into, count, of, op, comm)
            }
            ReductionKind::Exscan => {
                call!(engine, ffi::MPI_Exscan | ffi::MPI_Iexscan, send, into, count, of, op, comm)
            }
        })
    }

    /// More elements than a C int counts, where the library can do that.
    fn reduce_many(
        self,
        kind: ReductionKind,
        mine: &[u8],
        out: &mut [u8],
        (of, size): (ffi::MPI_Datatype, usize),
        op: ffi::MPI_Op,
    ) -> Option<Outcome> {
        let Self { engine, comm } = self;
        let (send, into, count) = (read(mine), write(out), (mine.len() / size) as ffi::MPI_Count);
        let newer = newer();
        // As in `reduce`.
        if let ReductionKind::Reduce(Rank(root)) = kind {
            let (blocking, started, root) = (newer.reduce_c?, newer.ireduce_c?, root as c_int);
            return Some(call!(engine, blocking | started, send, into, count, of, op, root, comm));
        }
        let (blocking, started) = match kind {
            ReductionKind::Scan => (newer.scan_c?, newer.iscan_c?),
            ReductionKind::Exscan => (newer.exscan_c?, newer.iexscan_c?),
            ReductionKind::Allreduce | ReductionKind::Reduce(_) => {
                (newer.allreduce_c?, newer.iallreduce_c?)
            }
        };
        Some(call!(engine, blocking | started, send, into, count, of, op, comm))
    }

    pub(super) fn reduce_scatter(
        self,
        mine: &[u8],
        counts: &Counts<'_>,
        out: &mut [u8],
        with: &Reduction<'_>,
    ) -> Option<Outcome> {
        let Self { engine, comm } = self;
        let (builtin, element) = with.native?;
        let ((of, size), op) = (datatype(element), operator(builtin));
        c_int::try_from(mine.len() / size).ok()?; // the same on every rank
        let (send, into) = (read(mine), write(out));
        match counts {
            Counts::Equal(bytes) => {
                let count = (bytes / size) as c_int;
                // `send` holds `count` elements for every rank, `into` so many.
                Some(call!(
                    engine,
                    ffi::MPI_Reduce_scatter_block | ffi::MPI_Ireduce_scatter_block,
                    send,
                    into,
                    count,
                    of,
                    op,
                    comm
                ))
            }
            Counts::Each(counts) => {
                let counts = counts.iter().map(|bytes| (bytes / size) as c_int);
                let counts: Vec<c_int> = counts.collect();
                let counts = counts.as_ptr();
                // `send` holds the elements of all counts, `into` those of this rank's.
                Some(call!(
                    engine,
                    ffi::MPI_Reduce_scatter | ffi::MPI_Ireduce_scatter,
                    send,
                    into,
                    counts,
                    of,
                    op,
                    comm
                ))
            }
        }
    }
}

pub(in crate::engine::mpi) fn operator(builtin: Builtin) -> ffi::MPI_Op {
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
pub(in crate::engine::mpi) fn datatype(element: Element) -> (ffi::MPI_Datatype, usize) {
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
