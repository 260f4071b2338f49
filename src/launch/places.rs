//! Where all ranks run, known to every rank.

use crate::{
    comm::Comm,
    error::{Call, Result, With},
    placement::{self, Place},
};

/// Every rank's place, in the order of ranks; `threads` is the size of this rank's rayon pool
/// (asking rayon would make one).
///
/// # Collective
/// The ranks of each host, and an allgather of some bytes per rank.
#[track_caller]
pub(crate) fn gather(world: &Comm, threads: usize) -> Result<Vec<Place>> {
    let node = world.node(Call::new("places", With::ALL))?;
    world.allgather_obj(&here(node, threads))
}

/// The place of the calling rank.
fn here(node: u32, threads: usize) -> Place {
    Place {
        node,
        host: placement::host(),
        cpus: placement::cpus(),
        available: placement::available(),
        quota: placement::quota(),
        threads,
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn every_rank_knows_the_places_of_all() {
        let places = crate::local(3, |world| Ok(super::gather(world, 1)?)).unwrap();
        assert_eq!(places[0].len(), 3);
        assert!(places.iter().all(|known| *known == places[0]));
        assert!(places[0].iter().all(|place| place.threads >= 1 && !place.cpus.is_empty()));
    }
}
