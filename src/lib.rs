//! MPI-style message passing in safe Rust: one program that runs on threads, on cores, on hosts.
//!
//! The same binary runs its *ranks*
//! * **concurrently**, all on one CPU (`--share-cpu`),
//! * in **parallel**, as threads on the cores of one machine, with no MPI installed,
//! * **distributed**, as processes on many hosts, started by `mpirun` or `srun`, on a real MPI
//!   (feature `mpi`).
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
#[cfg(feature = "elastic")]
pub mod elastic;
mod engine;
mod error;
pub mod farm;
pub mod hosts;
mod info;
pub mod io;
mod launch;
mod placement;
#[allow(unsafe_code)] // calls into C; each block states its reasons
mod process;
pub mod random;
pub mod recover;
mod scalar;
mod settings;
#[allow(unsafe_code)] // signal handlers; each block states its reasons
mod signals;
mod stop;
mod told;
pub mod trace;
mod usage;

/// Derive [`Datum`]'s traits for your own types with this crate.
pub use bytemuck;
/// The arrays that blocks of fields are.
pub use ndarray;

pub use crate::{
    checks::Checks,
    comm::{
        ANY, Any, Comm, Dest, Message, NULL_RANK, Plan, Ragged, Request, Scope, ScopedRequest,
        SharedComm, Src, Status, View, ViewMut,
    },
    datum::Datum,
    error::{Error, ErrorKind, Failure, Result},
    info::{Info, info},
    launch::{Progress, RunArgs, local, parse, run},
};

/// What reductions and atomic accesses combine values by.
pub mod op {
    pub use crate::comm::{
        And, Bits, Commutative, Located, Max, MaxLoc, Min, MinLoc, Number, Or, Prod, ReduceOp, Sum,
        Xor, commutative,
    };
}

/// Memory that other ranks reach: windows (MPI's one-sided communication) and arrays that the ranks
/// of a host share.
pub mod rma {
    pub use crate::comm::{
        AtomicOp, Epoch, Lock, LockedPart, NoOp, NodeArray, Passive, Plain, Replace, Window,
    };
}

/// Ranks as neighbours: on a grid, or on any graph.
pub mod topology {
    pub use crate::comm::{Cart, Comparison, Graph, NeighborRequest};
}

/// Many operations under way: waiting for all, any, some of them.
pub mod request {
    pub use crate::comm::{Request, test_all, test_any, test_some, wait_all, wait_any, wait_some};
}

/// Collectives that MPI has not: sparse exchanges, on grids, sorting, dealing out.
pub mod ext {
    pub use crate::comm::{ExchangeSparse, GridAlltoall, Partition, Sort};
}

/// Buffers that calls own, or borrow.
pub mod buffer {
    pub use crate::comm::{Borrowed, OwnedBuf, PlanBuffer, Rows};
}

/// What [`Comm::stats`] counts, and [`Comm::span`].
pub mod stats {
    pub use crate::comm::{OperationStats, PeerStats, Span, Stats};
}

/// The record that a run leaves: see [`RunArgs::record`] and [`Record::read`](record::Record::read).
pub mod record {
    pub use crate::{
        comm::{Timed, Verification},
        launch::{Failed, RankRecord, Record},
        usage::Usage,
    };
}

/// The values of [`RunArgs`].
pub mod options {
    pub use crate::launch::{Color, EngineKind, RankSet};
}

/// What most programs need.
pub mod prelude {
    pub use crate::{
        ANY, Comm, Datum, Failure, Progress, Ragged, RunArgs,
        ext::{ExchangeSparse, GridAlltoall, Partition, Sort},
        op::{And, Located, Max, MaxLoc, Min, MinLoc, Or, Prod, Sum, Xor, commutative},
        topology::Cart,
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
    #[doc = include_str!("../docs/arrays.md")]
    pub struct ArraysOverRanks;
    #[cfg(feature = "elastic")]
    #[doc = include_str!("../docs/elastic.md")]
    pub struct ElasticFarms;
    #[doc = include_str!("../docs/guide-first.md")]
    pub struct ForThoseWhoDoNot;
}
