//! What some MPI libraries have and others have not, looked up when the program runs.
//!
//! The bindings name what MPI 3.1 has. A binary that was built against one library runs on another,
//! older or dynamic one, so dynamic functions are asked of the dynamic linker: the collectives with
//! large counts of MPI 4 (`_c`; MPICH has them, Open MPI 5.0 has not), persistent collectives
//! (`MPI_Barrier_init`; Open MPI 4 has them as `MPIX_Barrier_init`), and what goes on after the loss
//! of a rank (ULFM; see [`losses`](super::losses)).

use std::{
    ffi::{CStr, c_int, c_void},
    sync::OnceLock,
};

use mpi::ffi::{self, MPI_Comm, MPI_Count, MPI_Datatype, MPI_Group, MPI_Info, MPI_Op, MPI_Request};
use nix::libc;

type In = *const c_void;
type Out = *mut c_void;
type Request = *mut MPI_Request;

/// A table of functions that may be there, each under the first of its names that is found.
macro_rules! table {
    ($($field:ident = $($name:literal)|+: ($($argument:ty),*);)*) => {
        /// The functions that this library has.
        pub(super) struct Dynamic {
            $(pub(super) $field: Option<unsafe extern "C" fn($($argument),*) -> c_int>,)*
        }

        impl Dynamic {
            fn look_up() -> Self {
                // SAFETY: MPI fixes what functions of these names take and return.
                unsafe { Self { $($field: find(&[$($name),+]),)* } }
            }
        }
    };
}

table! {
    reduce_c = c"MPI_Reduce_c": (In, Out, MPI_Count, MPI_Datatype, MPI_Op, c_int, MPI_Comm);
    ireduce_c = c"MPI_Ireduce_c":
        (In, Out, MPI_Count, MPI_Datatype, MPI_Op, c_int, MPI_Comm, Request);
    allreduce_c = c"MPI_Allreduce_c": (In, Out, MPI_Count, MPI_Datatype, MPI_Op, MPI_Comm);
    iallreduce_c = c"MPI_Iallreduce_c":
        (In, Out, MPI_Count, MPI_Datatype, MPI_Op, MPI_Comm, Request);
    scan_c = c"MPI_Scan_c": (In, Out, MPI_Count, MPI_Datatype, MPI_Op, MPI_Comm);
    iscan_c = c"MPI_Iscan_c": (In, Out, MPI_Count, MPI_Datatype, MPI_Op, MPI_Comm, Request);
    exscan_c = c"MPI_Exscan_c": (In, Out, MPI_Count, MPI_Datatype, MPI_Op, MPI_Comm);
    iexscan_c = c"MPI_Iexscan_c": (In, Out, MPI_Count, MPI_Datatype, MPI_Op, MPI_Comm, Request);
    barrier_init = c"MPI_Barrier_init" | c"MPIX_Barrier_init": (MPI_Comm, MPI_Info, Request);
    bcast_init = c"MPI_Bcast_init" | c"MPIX_Bcast_init":
        (Out, c_int, MPI_Datatype, c_int, MPI_Comm, MPI_Info, Request);
    allgather_init = c"MPI_Allgather_init" | c"MPIX_Allgather_init":
        (In, c_int, MPI_Datatype, Out, c_int, MPI_Datatype, MPI_Comm, MPI_Info, Request);
    alltoall_init = c"MPI_Alltoall_init" | c"MPIX_Alltoall_init":
        (In, c_int, MPI_Datatype, Out, c_int, MPI_Datatype, MPI_Comm, MPI_Info, Request);
    gather_init = c"MPI_Gather_init" | c"MPIX_Gather_init":
        (In, c_int, MPI_Datatype, Out, c_int, MPI_Datatype, c_int, MPI_Comm, MPI_Info, Request);
    scatter_init = c"MPI_Scatter_init" | c"MPIX_Scatter_init":
        (In, c_int, MPI_Datatype, Out, c_int, MPI_Datatype, c_int, MPI_Comm, MPI_Info, Request);
    reduce_init = c"MPI_Reduce_init" | c"MPIX_Reduce_init":
        (In, Out, c_int, MPI_Datatype, MPI_Op, c_int, MPI_Comm, MPI_Info, Request);
    scan_init = c"MPI_Scan_init" | c"MPIX_Scan_init":
        (In, Out, c_int, MPI_Datatype, MPI_Op, MPI_Comm, MPI_Info, Request);
    exscan_init = c"MPI_Exscan_init" | c"MPIX_Exscan_init":
        (In, Out, c_int, MPI_Datatype, MPI_Op, MPI_Comm, MPI_Info, Request);
    reduce_scatter_init = c"MPI_Reduce_scatter_block_init" | c"MPIX_Reduce_scatter_block_init":
        (In, Out, c_int, MPI_Datatype, MPI_Op, MPI_Comm, MPI_Info, Request);
    allreduce_init = c"MPI_Allreduce_init" | c"MPIX_Allreduce_init":
        (In, Out, c_int, MPI_Datatype, MPI_Op, MPI_Comm, MPI_Info, Request);
    comm_revoke = c"MPIX_Comm_revoke": (MPI_Comm);
    comm_is_revoked = c"MPIX_Comm_is_revoked": (MPI_Comm, *mut c_int);
    comm_shrink = c"MPIX_Comm_shrink": (MPI_Comm, *mut MPI_Comm);
    comm_agree = c"MPIX_Comm_agree": (MPI_Comm, *mut c_int);
    comm_failure_ack = c"MPIX_Comm_failure_ack": (MPI_Comm);
    comm_get_failed = c"MPIX_Comm_get_failed": (MPI_Comm, *mut MPI_Group);
}

/// What this process's library has.
pub(super) fn dynamic() -> &'static Dynamic {
    static TABLE: OnceLock<Dynamic> = OnceLock::new();
    TABLE.get_or_init(Dynamic::look_up)
}

/// The function that has one of these names.
///
/// # Safety
/// `F` is the type of such a function.
unsafe fn find<F: Copy>(names: &[&CStr]) -> Option<F> {
    const { assert!(size_of::<F>() == size_of::<*mut c_void>(), "F is a function pointer") }
    let symbols = names.iter().map(|name| {
        // SAFETY: asks for a symbol among the libraries that are loaded.
        unsafe { libc::dlsym(libc::RTLD_DEFAULT, name.as_ptr()) }
    });
    let symbol = symbols.into_iter().find(|symbol| !symbol.is_null())?;
    // SAFETY: by this function's contract; the sizes are the same.
    Some(unsafe { std::mem::transmute_copy(&symbol) })
}

/// Operators of one-sided access that the bindings do not name.
#[derive(Clone, Copy)]
pub(super) enum Special {
    /// `MPI_REPLACE`
    Replace,
    /// `MPI_NO_OP`
    NoOp,
}

/// The library's operator, if this is a library whose way of numbering them is known.
pub(super) fn special(which: Special) -> Option<MPI_Op> {
    // The libraries' headers give handles as numbers or as addresses of objects; `MPI_SUM` tells
    // which.
    // SAFETY: a constant of the library.
    let sum = bits(unsafe { ffi::RSMPI_SUM });
    let (replace, object) = match which {
        Special::Replace => (true, c"ompi_mpi_op_replace"),
        Special::NoOp => (false, c"ompi_mpi_op_no_op"),
    };
    let bits = match sum {
        0x5800_0003 => 0x5800_000d + usize::from(!replace), // MPICH and its kin
        0x21 => 0x3c + usize::from(!replace),               // the standard ABI of MPI 5
        _ => {
            // SAFETY: asks for a symbol among the libraries that are loaded.
            let symbol = unsafe { libc::dlsym(libc::RTLD_DEFAULT, object.as_ptr()) };
            (!symbol.is_null()).then(|| symbol.addr())?
        }
    };
    Some(handle(bits))
}

/// A handle as a number: it is a C int or a pointer.
fn bits(op: MPI_Op) -> usize {
    let mut bits = [0; size_of::<usize>()];
    // SAFETY: the handle's own bytes, no more than a pointer has.
    let own = unsafe { std::slice::from_raw_parts((&raw const op).cast::<u8>(), size_of_val(&op)) };
    bits[..own.len()].copy_from_slice(own);
    usize::from_le_bytes(bits)
}

/// The handle of that number.
fn handle(bits: usize) -> MPI_Op {
    const { assert!(size_of::<MPI_Op>() <= size_of::<usize>() && cfg!(target_endian = "little")) }
    // SAFETY: a C int or a pointer, for both of which all bytes will do; its low bytes come first.
    unsafe { std::mem::transmute_copy(&bits) }
}
