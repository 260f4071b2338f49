//! Reductions by the library's own operators.

use std::ffi::{c_int, c_void};

use mpi::ffi;

use super::{Caller, Outcome, read, write};
use crate::{
    engine::{
        Builtin, CollectiveKind, Element, Rank, Reduction,
        mpi::{dynamic::dynamic, raw::made},
    },
    error::Fault,
    scalar::{greatest_f32, greatest_f64, least_f32, least_f64},
};

impl Caller<'_> {
    pub(super) fn reduce(
        self,
        kind: CollectiveKind,
        mine: &[u8],
        out: &mut [u8],
        with: &Reduction<'_>,
    ) -> Option<Outcome> {
        let Self { engine, comm } = self;
        let (builtin, element) = with.native?;
        let ((of, size), op) = (datatype(element), engine.basis.operators.of(builtin, element));
        let (send, into) = (read(mine), write(out));
        let Ok(count) = c_int::try_from(mine.len() / size) else {
            // An operator of our own counts in C ints.
            let of_the_library = engine.basis.operators.own(builtin, element).is_none();
            return of_the_library
                .then(|| self.reduce_many(kind, mine, out, (of, size), op))
                .flatten();
        };
        // `send` and, where the library writes there, `into` hold `count` elements of the type.
        Some(match kind {
            CollectiveKind::Reduce(Rank(root)) => {
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
            CollectiveKind::Allreduce => {
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
            CollectiveKind::Scan => {
                call!(engine, ffi::MPI_Scan | ffi::MPI_Iscan, send, into, count, of, op, comm)
            }
            CollectiveKind::Exscan => {
                call!(engine, ffi::MPI_Exscan | ffi::MPI_Iexscan, send, into, count, of, op, comm)
            }
            _ => return None,
        })
    }

    /// More elements than a C int counts, where the library can do that.
    fn reduce_many(
        self,
        kind: CollectiveKind,
        mine: &[u8],
        out: &mut [u8],
        (of, size): (ffi::MPI_Datatype, usize),
        op: ffi::MPI_Op,
    ) -> Option<Outcome> {
        let Self { engine, comm } = self;
        let (send, into, count) = (read(mine), write(out), (mine.len() / size) as ffi::MPI_Count);
        let dynamic = dynamic();
        // As in `reduce`.
        if let CollectiveKind::Reduce(Rank(root)) = kind {
            let (blocking, started, root) = (dynamic.reduce_c?, dynamic.ireduce_c?, root as c_int);
            return Some(call!(engine, blocking | started, send, into, count, of, op, root, comm));
        }
        let (blocking, started) = match kind {
            CollectiveKind::Scan => (dynamic.scan_c?, dynamic.iscan_c?),
            CollectiveKind::Exscan => (dynamic.exscan_c?, dynamic.iexscan_c?),
            CollectiveKind::Allreduce => (dynamic.allreduce_c?, dynamic.iallreduce_c?),
            _ => return None,
        };
        Some(call!(engine, blocking | started, send, into, count, of, op, comm))
    }

    pub(super) fn reduce_scatter(
        self,
        mine: &[u8],
        bytes: usize,
        out: &mut [u8],
        with: &Reduction<'_>,
    ) -> Option<Outcome> {
        let Self { engine, comm } = self;
        let (builtin, element) = with.native?;
        let ((of, size), op) = (datatype(element), engine.basis.operators.of(builtin, element));
        c_int::try_from(mine.len() / size).ok()?; // the same on every rank
        let (send, into) = (read(mine), write(out));
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
}

/// The library's own operator, which is not always what ours is, see [`Operators`].
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

/// The operators of reductions: the library's, but for those that are not what ours are. Handles,
/// which live as long as MPI does.
#[derive(Clone, Copy)]
pub(in crate::engine::mpi) struct Operators {
    /// Of `f32` and `f64`; see [`crate::scalar`].
    min: [ffi::MPI_Op; 2],
    max: [ffi::MPI_Op; 2],
    /// Of 8 and 16 bits, where the library's do not wrap around; see [`saturates`].
    sum: Option<[ffi::MPI_Op; 2]>,
}

/// Whether a library's sums of 8 and 16 bits stay at the largest number instead of wrapping around:
/// those of Open MPI 4.1 and 5.0 do, from some 16 elements on, where the processor has such
/// instructions.
pub(in crate::engine::mpi) fn saturates(library: &str, builtin: Builtin, element: Element) -> bool {
    library.starts_with("Open MPI") && builtin == Builtin::Sum && datatype(element).1 <= 2
}

impl Operators {
    pub(in crate::engine::mpi) fn new(library: &str) -> Result<Self, Fault> {
        let new = |function: Function| {
            // SAFETY: the function is what the library calls an operator's; it commutes. The handle
            // is written on success.
            unsafe { made(|made| ffi::MPI_Op_create(Some(function), 1, made)) }
        };
        let wraps = !saturates(library, Builtin::Sum, Element::U8);
        let sum = if wraps { None } else { Some([new(sum_of_bytes)?, new(sum_of_shorts)?]) };
        Ok(Self {
            min: [new(least_of_singles)?, new(least_of_doubles)?],
            max: [new(greatest_of_singles)?, new(greatest_of_doubles)?],
            sum,
        })
    }

    /// An operator of our own, where there is one.
    fn own(&self, builtin: Builtin, element: Element) -> Option<ffi::MPI_Op> {
        Some(match (builtin, element) {
            (Builtin::Min, Element::F32) => self.min[0],
            (Builtin::Min, Element::F64) => self.min[1],
            (Builtin::Max, Element::F32) => self.max[0],
            (Builtin::Max, Element::F64) => self.max[1],
            (Builtin::Sum, Element::I8 | Element::U8) => self.sum?[0],
            (Builtin::Sum, Element::I16 | Element::U16) => self.sum?[1],
            _ => return None,
        })
    }

    pub(in crate::engine::mpi) fn of(&self, builtin: Builtin, element: Element) -> ffi::MPI_Op {
        self.own(builtin, element).unwrap_or_else(|| operator(builtin))
    }
}

type Function = unsafe extern "C" fn(*mut c_void, *mut c_void, *mut c_int, *mut ffi::MPI_Datatype);

/// What MPI calls to reduce: the second operand becomes the first combined with it, element by
/// element.
macro_rules! functions {
    ($($name:ident: $type:ty, $combine:expr;)*) => {$(
        /// # Safety
        /// Both hold `*len` values of the type.
        unsafe extern "C" fn $name(
            left: *mut c_void,
            right: *mut c_void,
            len: *mut c_int,
            _of: *mut ffi::MPI_Datatype,
        ) {
            let (left, right) = (left.cast::<$type>().cast_const(), right.cast::<$type>());
            // SAFETY: by this function's own contract; libraries' buffers need not be aligned.
            unsafe {
                for at in 0..usize::try_from(*len).unwrap_or(0) {
                    let operands = (left.add(at).read_unaligned(), right.add(at).read_unaligned());
                    right.add(at).write_unaligned($combine(operands.0, operands.1));
                }
            }
        }
    )*};
}

functions! {
    least_of_singles: f32, least_f32;
    least_of_doubles: f64, least_f64;
    greatest_of_singles: f32, greatest_f32;
    greatest_of_doubles: f64, greatest_f64;
    sum_of_bytes: u8, u8::wrapping_add;
    sum_of_shorts: u16, u16::wrapping_add;
}
