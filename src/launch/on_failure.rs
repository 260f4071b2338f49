//! What follows when a rank fails: the job ends, with the first that has failed.
//!
//! That a rank has failed, and why, is a fact: whoever has seen it reports it. What follows is a
//! policy, and this is its one place. A job that goes on with the ranks that are left would be
//! another one.
//!
//! (What ends for another reason than a failed rank is not decided here: a deadlock, which
//! [`local`](crate::engine::local) finds itself, a time limit on `mpi`, a program that ends its
//! process.)

#[cfg(feature = "mpi")]
use super::{Cause, processes};
use crate::engine::local::Job;

/// A rank that is a thread: the others hear of it in the calls that they make or wait in.
pub(super) fn of_a_thread(job: &Job) {
    if let Some(first) = job.failed().into_iter().next() {
        job.end(first);
    }
}

/// A rank that is this process: it says why, and ends the others.
#[cfg(feature = "mpi")]
pub(super) fn of_a_process(cause: &Cause) -> ! {
    cause.print();
    processes::end(cause.code)
}
