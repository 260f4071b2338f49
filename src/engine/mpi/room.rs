//! Whether there is room for a window, asked before the library is.
//!
//! A library whose shared memory does not suffice fails on one rank while the others wait for it
//! (Open MPI), or dies by a signal at the first touch (MPICH). So every rank says beforehand what
//! it wants and what it sees, and all come to the same answer.

use std::{collections::BTreeMap, env, path::PathBuf};

use nix::sys::statvfs::statvfs;

use super::{CommPair, MpiEngine, collective};
use crate::{
    engine::Rank,
    error::{ErrorKind, Fault},
    placement::free_memory,
};

/// What libraries need beside the memory that they are asked for: for each window, and for each
/// rank in it.
const WINDOW_BYTES: u64 = 128 << 10;
const RANK_BYTES: u64 = 16 << 10;

/// What tells where shared memory comes from, in Open MPI. Both Open MPI and MPICH take it from
/// `/dev/shm` otherwise.
const SETTINGS: [&str; 3] = [
    "OMPI_MCA_osc_sm_backing_directory",
    "OMPI_MCA_osc_rdma_backing_directory",
    "OMPI_MCA_osc_ucx_backing_directory",
];

/// The host that this rank is on.
pub(super) struct Host {
    /// The same number for its ranks.
    pub(super) number: u32,
    /// Whether all ranks of the communicator are there; the same on all of them.
    pub(super) has_all: bool,
}

/// Asks MPI which ranks can share memory. Collective.
pub(super) fn host(pair: &CommPair) -> Result<Host, Fault> {
    let host = pair.coll.split_by_host(pair.me.0)?;
    // The smallest of their world ranks.
    let [most] = host.largest([-(pair.ranks[pair.me.index()] as i64)])?;
    Ok(Host { number: -most as u32, has_all: host.size()? == pair.ranks.len() })
}

/// Makes sure that every host has room for what its ranks want, each so many bytes. Collective.
///
/// # Errors
/// If one has not: the same on all ranks.
pub(super) fn ask(
    engine: &MpiEngine,
    pair: &CommPair,
    host: &Host,
    bytes: usize,
) -> Result<(), Fault> {
    let place = place();
    let shared = free_in(&place);
    let own = memory(bytes);
    let mine = [u64::from(host.number), bytes as u64, shared, own];
    let mut all = vec![[0_u64; 4]; pair.ranks.len()];
    collective::allgather(
        engine,
        pair,
        bytemuck::cast_slice(&mine),
        bytemuck::cast_slice_mut(&mut all),
    )?;
    match lacking(&all) {
        None => Ok(()),
        Some(Lack { rank, wanted, free, shared }) => {
            let place = if shared { place.display().to_string() } else { "memory".to_owned() };
            Err(ErrorKind::NoRoom { rank: rank.index(), wanted, free, place }.into())
        }
    }
}

/// A host that has too little.
#[derive(Debug, PartialEq, Eq)]
struct Lack {
    rank: Rank,
    wanted: u64,
    free: u64,
    shared: bool,
}

/// The first host that has too little for what its ranks say: their host, what they want, and what
/// they see in shared memory and in their own.
fn lacking(all: &[[u64; 4]]) -> Option<Lack> {
    let mut hosts = BTreeMap::<u64, (usize, u64, u64, u64)>::new();
    for (rank, &[host, bytes, shared, own]) in all.iter().enumerate() {
        if own < bytes {
            return Some(Lack { rank: rank.into(), wanted: bytes, free: own, shared: false });
        }
        let (_, ranks, wanted, free) = hosts.entry(host).or_insert((rank, 0, 0, u64::MAX));
        *ranks += 1;
        *wanted = wanted.saturating_add(bytes);
        *free = shared.min(*free);
    }
    // A rank that is alone on its host shares nothing.
    let lacks = hosts.into_values().find(|&(_, ranks, wanted, free)| {
        ranks > 1 && wanted.saturating_add(WINDOW_BYTES + ranks * RANK_BYTES) > free
    });
    lacks.map(|(rank, _, wanted, free)| Lack { rank: rank.into(), wanted, free, shared: true })
}

fn place() -> PathBuf {
    let told = SETTINGS.iter().find_map(env::var_os).filter(|told| !told.is_empty());
    told.map_or_else(|| PathBuf::from("/dev/shm"), PathBuf::from)
}

/// The bytes that are free there; without a limit, or where that cannot be asked, as many as can
/// be.
fn free_in(place: &std::path::Path) -> u64 {
    match statvfs(place) {
        Ok(system) if system.blocks() > 0 => system.blocks_available() * system.fragment_size(),
        _ => u64::MAX,
    }
}

/// So many bytes if this process can have them, else what is free.
fn memory(bytes: usize) -> u64 {
    let wanted = bytes as u64;
    if Vec::<u8>::new().try_reserve_exact(bytes).is_ok() {
        return wanted;
    }
    free_memory(wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn what_the_ranks_of_a_host_want_is_added_up() {
        let rank = |host, bytes, free| [host, bytes, free, u64::MAX];
        assert_eq!(lacking(&[rank(0, 5 * MIB, 16 * MIB); 3]), None);
        let lack = Lack { rank: Rank(0), wanted: 20 * MIB, free: 16 * MIB, shared: true };
        assert_eq!(lacking(&[rank(0, 5 * MIB, 16 * MIB); 4]), Some(lack));
        // Each host has its own; and the library needs a little too.
        let two = [rank(0, 9 * MIB, 16 * MIB), rank(1, 8 * MIB, 16 * MIB)];
        assert_eq!(lacking(&two), None);
        let lack = Lack { rank: Rank(1), wanted: 16 * MIB, free: 16 * MIB, shared: true };
        assert_eq!(lacking(&[two[0], two[1], two[1]]), Some(lack));
        let alone = [rank(0, 99 * MIB, 16 * MIB)];
        assert_eq!(lacking(&alone), None, "who is alone shares nothing");
        assert!(lacking(&[rank(0, u64::MAX, 5), rank(0, u64::MAX, 5)]).is_some());
    }

    #[test]
    fn memory_that_a_process_cannot_have_is_refused() {
        assert_eq!(memory(1000), 1000);
        let absurd = isize::MAX as usize;
        assert!(memory(absurd) < absurd as u64);
        let lack = lacking(&[[0, 10, 100, 10], [0, 10, 100, 7]]).unwrap();
        assert_eq!(lack, Lack { rank: Rank(1), wanted: 10, free: 7, shared: false });
    }
}
