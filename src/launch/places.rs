//! Where all ranks run.

use crate::{
    comm::Comm,
    error::Result,
    placement::{self, Place},
};

/// The places of all ranks, on every rank; `threads` is the size of this rank's rayon pool.
///
/// # Collective
pub(crate) fn gather(world: &Comm, threads: usize) -> Result<Vec<Place>> {
    let here = Place {
        host: placement::host(),
        cpus: placement::cpus(),
        available: placement::available(),
        threads,
    };
    (0..world.size()).map(|rank| world.bcast_obj(rank, || here.clone())).collect()
}
