//! Algorithms over the communicator's public calls: whoever wants another one writes it the same
//! way, outside this crate.
//!
//! Their messages carry the communicator's largest tags, [`Comm::max_tag`] and the one below: do
//! not receive those (nor any tag from anybody) in another call that is under way at the same time.
//! A [`Comm::dup`] is a message space of its own.

mod grid;
mod partition;
mod sort;
mod sparse;

pub use self::{grid::GridAlltoall, partition::Partition, sort::Sort, sparse::ExchangeSparse};
use super::Comm;
use crate::error::{Call, Result};

/// Lets errors of the calls in `body` speak of the call that the program has made.
fn speaking_of<R>(comm: &Comm, call: Call, body: impl FnOnce() -> Result<R>) -> Result<R> {
    body().map_err(|error| comm.failed(error.kind().clone().into(), call))
}
