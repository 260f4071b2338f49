//! What follows when a rank fails: the job ends, with the first that has failed.
//!
//! That a rank has failed, and why, is a fact: whoever has seen it reports it. What follows is a
//! policy, and this is its one place. A program that survives the loss of ranks asks for another
//! one: all ranks hear of the loss, and the program goes on, in another job where they are threads
//! (see [`resilient`](super::resilient)), in the processes that are left where they are processes of
//! an MPI that survives it (`repairs`).
//!
//! (What ends for another reason than a failed rank is not decided here: a deadlock, which
//! [`local`](crate::engine::local) finds itself, a time limit on `mpi`, a program that ends its
//! process.)

#[cfg(feature = "mpi")]
use super::{Cause, processes};
use crate::engine::local::Job;
#[cfg(feature = "mpi")]
use crate::{engine::mpi::MpiEngine, process};

/// What the loss of a rank that is a thread is to the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Policy {
    /// The job ends.
    End,
    /// The program may go on without it.
    Survive,
}

/// A rank that is a thread: the others hear of it in the calls that they make or wait in. `lost` says
/// whether it is lost, other than by what its program has returned.
pub(super) fn of_a_thread(job: &Job, policy: Policy, lost: bool) {
    if let Some(first) = job.failed().into_iter().next() {
        match policy {
            Policy::Survive if lost => job.end_lost(first),
            _ => job.end(first),
        }
    }
}

/// A rank that is this process: it says why, and ends the others.
#[cfg(feature = "mpi")]
pub(super) fn of_a_process(cause: &Cause) -> ! {
    cause.print();
    processes::end(cause.code)
}

/// A rank that is this process has panicked: where losses are survived it dies, so that the others
/// notice; else the job ends.
#[cfg(feature = "mpi")]
pub(super) fn of_a_panicked_process(cause: &Cause) -> ! {
    if !MpiEngine::job_survives_losses() {
        of_a_process(cause)
    }
    cause.print();
    process::die()
}
