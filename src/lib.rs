//! MPI-style message passing in safe Rust: one program that runs on threads, on cores, on hosts.
//!
//! The same binary runs its *ranks*
//! * **concurrently**, all on one CPU (`--share-cpu`),
//! * in **parallel**, as threads on the cores of one machine, with no MPI installed,
//! * **distributed**, as processes on many hosts, started by `mpirun` or `srun`, on a real MPI (feature `mpi`).
//!
//! ```no_run
//! use spmd::prelude::*;
//!
//! fn main() -> std::process::ExitCode {
//!     spmd::run(|world: &Comm| {
//!         let mine = world.rank() as f64;
//!         let sum = world.allreduce(&[mine], Sum)?[0];
//!         if world.rank() == 0 {
//!             println!("{} ranks, sum {sum}", world.size());
//!         }
//!         Ok(())
//!     })
//! }
//! ```
//!
//! | word | meaning |
//! |---|---|
//! | rank | one of the copies of the program, numbered from 0 |
//! | communicator ([`Comm`]) | an ordered group of ranks with a private message space |
//! | engine | what moves the bytes between ranks: `local` or `mpi` |
//! | collective | a call that every rank of a communicator makes |
//! | halo | the copied border cells of a neighbour's block |
//! | placement | which CPUs a rank and its rayon threads may use |
//! | form | concurrent (ranks share one CPU), parallel (they have CPUs of their own), distributed (on several hosts) |

pub mod array;
mod checks;
mod comm;
mod datum;
mod engine;
mod error;
mod info;
pub mod io;
mod launch;
mod placement;
#[allow(unsafe_code)] // calls into C; each block states its reasons
mod process;
mod scalar;

/// Derive [`Datum`]'s traits for your own types with this crate.
pub use bytemuck;
/// The arrays that blocks of fields are.
pub use ndarray;

pub use crate::{
    checks::Checks,
    comm::{
        ANY, And, Any, AtomicOp, Bits, Borrowed, Cart, Comm, Commutative, Comparison, Dest, Epoch,
        ExchangeSparse, Graph, GridAlltoall, Held, Keep, Located, Lock, Max, MaxLoc, Message, Min,
        MinLoc, NULL_RANK, NeighborRequest, NodeArray, Number, OperationStats, Or, OwnedBuf,
        Partition, Passive, PeerStats, Plain, Plan, PlanBuffer, Prod, Ragged, ReduceOp, Replace,
        Request, Rows, Scope, SharedComm, Sort, Src, Stats, Status, Sum, Ticket, View, ViewMut,
        Window, Xor, commutative, test_all, test_any, test_some, wait_all, wait_any, wait_some,
    },
    datum::Datum,
    error::{Error, ErrorKind, Failure, Result},
    info::{Info, info},
    launch::{Color, EngineKind, Progress, RankSet, RunArgs, local, parse, run},
};

/// What most programs need.
pub mod prelude {
    pub use crate::{
        ANY, And, Cart, Comm, Datum, ExchangeSparse, Failure, GridAlltoall, Located, Max, MaxLoc,
        Min, MinLoc, Or, Partition, Prod, Progress, Ragged, RunArgs, Sort, Sum, Xor, commutative,
    };
}

/// The README's program compiles.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
pub struct Readme;

/// The guides' programs run.
#[cfg(doctest)]
pub mod guides {
    #[doc = include_str!("../docs/guide-mpi.md")]
    pub struct ForThoseWhoKnowMpi;
    #[doc = include_str!("../docs/project.md")]
    pub struct ForAProjectOfYourOwn;
    #[doc = include_str!("../docs/guide-first.md")]
    pub struct ForThoseWhoDoNot;
}
