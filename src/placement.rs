//! CPUs and hosts: what a rank may run on, and how many threads that is worth.

use std::env;

use nix::{
    sys::resource::{RLIM_INFINITY, Resource, getrlimit},
    unistd::{SysconfVar, sysconf},
};
use serde::{Deserialize, Serialize};

/// Where a rank runs.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) struct Place {
    /// What tells hosts apart: several can have one name.
    pub(crate) node: u32,
    /// The host's name.
    pub(crate) host: String,
    /// The CPUs that the rank may run on.
    pub(crate) cpus: Vec<usize>,
    /// The number of CPUs that it could be allowed on this host.
    pub(crate) available: usize,
    /// For how many CPUs the ranks of the host have time together, where a quota limits it.
    pub(crate) quota: Option<usize>,
    /// The size of its rayon pool.
    pub(crate) threads: usize,
}

impl Place {
    /// The number of CPUs that each of so many ranks of the host could have.
    pub(crate) fn even_share(&self, ranks: usize) -> usize {
        (self.available / ranks).max(1)
    }

    /// The rayon threads of this rank, where `neighbours` are the ranks of the host, itself among
    /// them.
    pub(crate) fn fair_threads(&self, neighbours: &[&Place]) -> usize {
        let fair = fair_threads(&self.cpus, neighbours.iter().map(|place| &*place.cpus));
        let most = self.quota.map_or(fair, |quota| quota / neighbours.len().max(1));
        fair.min(most).max(1)
    }
}

/// This host's name.
pub(crate) fn host() -> String {
    let name = nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok());
    name.unwrap_or_else(|| "localhost".to_owned())
}

/// The rayon threads of a rank that may run on `mine`, where `others` are the CPUs of all ranks of
/// the host, its own among them.
///
/// Ranks that share CPUs share them evenly; every rank has one thread at least.
pub(crate) fn fair_threads<'a>(
    mine: &[usize],
    others: impl IntoIterator<Item = &'a [usize]>,
) -> usize {
    let shares = |theirs: &&[usize]| theirs.iter().any(|cpu| mine.contains(cpu));
    let sharers = others.into_iter().filter(shares).count().max(1);
    (mine.len() / sharers).max(1)
}

/// Whether some host has more ranks than CPUs for them.
#[cfg_attr(not(feature = "mpi"), allow(dead_code, reason = "ranks that are threads are counted"))]
pub(crate) fn is_oversubscribed(places: &[Place]) -> bool {
    places.iter().any(|place| {
        let here = || places.iter().filter(|other| other.node == place.node);
        here().count() > union(here()).len().min(place.quota.unwrap_or(usize::MAX))
    })
}

/// For how many CPUs this process has time: fewer than it may run on where a quota of a container
/// or batch job limits it.
pub(crate) fn quota() -> Option<usize> {
    let time = std::thread::available_parallelism().ok()?.get();
    (time < cpus().len()).then_some(time)
}

/// How many CPUs of this host a batch job was given, as far as it is told.
fn allotted() -> Option<usize> {
    env::var("SLURM_CPUS_ON_NODE").ok()?.parse().ok()
}

/// The bytes of memory that nobody on this host uses, or that this process may have at most, where
/// the system says so: for the words of an error about so many bytes that cannot be had, which are
/// more.
pub(crate) fn free_memory(wanted: u64) -> u64 {
    let limit = getrlimit(Resource::RLIMIT_AS).map_or(u64::MAX, |(limit, _)| limit);
    let ask = |what| sysconf(what).ok().flatten().unwrap_or(0) as u64;
    #[cfg(target_os = "linux")]
    let pages = ask(SysconfVar::_AVPHYS_PAGES);
    #[cfg(not(target_os = "linux"))]
    let pages = 0;
    limit.min(pages * ask(SysconfVar::PAGE_SIZE)).min(wanted.saturating_sub(1))
}

/// The stack of a rank's threads: the largest of what the user has set for threads of Rust programs
/// (`RUST_MIN_STACK`) and for processes (`ulimit -s`), and of what the main thread of a process has
/// on most systems. A program that runs as a process runs as a thread. It is address space, of
/// which a thread uses what it touches.
pub(crate) fn stack_bytes() -> usize {
    let told = told_stack().map(|bytes| bytes as usize);
    let limit = getrlimit(Resource::RLIMIT_STACK).map_or(0, |(limit, _)| limit);
    largest_stack(told, limit)
}

/// Lets the stack of the process's first thread, on which a rank of `mpi` runs, grow to what the
/// user has set for threads of Rust programs, as far as the system allows.
#[cfg(feature = "mpi")]
pub(crate) fn widen_stack() {
    use nix::sys::resource::setrlimit;

    if let (Some(told), Ok((limit, most))) = (told_stack(), getrlimit(Resource::RLIMIT_STACK))
        && limit < told
        && let Err(error) = setrlimit(Resource::RLIMIT_STACK, told.min(most), most)
    {
        log::warn!("the stack stays at {limit} bytes, RUST_MIN_STACK says {told}: {error}");
    }
}

/// What the user has set for threads of Rust programs.
fn told_stack() -> Option<u64> {
    env::var("RUST_MIN_STACK").ok()?.parse().ok()
}

fn largest_stack(told: Option<usize>, limit: u64) -> usize {
    const USUAL: usize = 8 << 20;
    /// Without a limit a stack grows as far as it can; that of a thread cannot grow.
    const UNLIMITED: usize = 256 << 20;
    let limit = if limit == RLIM_INFINITY { UNLIMITED } else { limit as usize };
    limit.max(told.unwrap_or(0)).max(USUAL)
}

/// All CPUs of these places, each once, in ascending order.
pub(crate) fn union<'a>(places: impl IntoIterator<Item = &'a Place>) -> Vec<usize> {
    let cpus = places.into_iter().flat_map(|place| &place.cpus);
    let mut cpus: Vec<usize> = cpus.copied().collect();
    cpus.sort_unstable();
    cpus.dedup();
    cpus
}

/// A list of CPUs as Linux writes it: `0-3,8`.
pub(crate) fn cpu_list(cpus: &[usize]) -> String {
    let mut ranges: Vec<(usize, usize)> = Vec::new();
    for &cpu in cpus {
        match ranges.last_mut() {
            Some((_, last)) if *last + 1 == cpu => *last = cpu,
            _ => ranges.push((cpu, cpu)),
        }
    }
    let show =
        |(first, last)| if first == last { format!("{first}") } else { format!("{first}-{last}") };
    ranges.into_iter().map(show).collect::<Vec<_>>().join(",")
}

#[cfg(target_os = "linux")]
mod affinity {
    use nix::{
        errno::Errno,
        sched::{CpuSet, sched_getaffinity, sched_setaffinity},
        unistd::Pid,
    };

    /// The calling thread.
    const SELF: Pid = Pid::from_raw(0);

    /// The CPUs that the calling thread may run on.
    pub(crate) fn cpus() -> Vec<usize> {
        sched_getaffinity(SELF).map_or_else(|_| super::counted(), |mask| list(&mask))
    }

    /// The CPUs that the calling thread could be allowed: asks for all, sees what it gets, and goes
    /// back.
    pub(crate) fn available() -> usize {
        let widened = || {
            let before = sched_getaffinity(SELF)?;
            let mut all = CpuSet::new();
            (0..CpuSet::count()).try_for_each(|cpu| all.set(cpu))?;
            sched_setaffinity(SELF, &all)?;
            let most = sched_getaffinity(SELF);
            sched_setaffinity(SELF, &before)?;
            most
        };
        let own = cpus().len();
        let most = widened().map_or_else(|_: Errno| own, |mask| list(&mask).len());
        // On a host that is shared with other jobs, what the system allows is not all this one's.
        super::allotted().map_or(most, |allotted| most.min(allotted.max(own)))
    }

    /// Keeps the calling thread, and the threads it starts from now on, on one CPU.
    pub(crate) fn pin(cpu: usize) -> Result<(), String> {
        let mut mask = CpuSet::new();
        mask.set(cpu)
            .and_then(|()| sched_setaffinity(SELF, &mask))
            .map_err(|error| format!("cannot run on cpu {cpu} only: {error}"))
    }

    /// The CPU on which the calling thread is.
    #[inline]
    pub(crate) fn current_cpu() -> Option<usize> {
        nix::sched::sched_getcpu().ok()
    }

    fn list(mask: &CpuSet) -> Vec<usize> {
        (0..CpuSet::count()).filter(|&cpu| mask.is_set(cpu).unwrap_or(false)).collect()
    }
}

#[cfg(not(target_os = "linux"))]
mod affinity {
    /// The CPUs that the calling thread may run on.
    pub(crate) fn cpus() -> Vec<usize> {
        super::counted()
    }

    /// The CPUs that the calling thread could be allowed.
    pub(crate) fn available() -> usize {
        super::counted().len()
    }

    /// The CPU on which the calling thread is, which this system does not tell.
    pub(crate) fn current_cpu() -> Option<usize> {
        None
    }

    /// Keeps the calling thread on one CPU.
    pub(crate) fn pin(_cpu: usize) -> Result<(), String> {
        Err("this system cannot keep a thread on one cpu; leave --share-cpu out".to_owned())
    }
}

pub(crate) use affinity::{available, cpus, current_cpu, pin};

/// As many CPUs as the standard library counts.
fn counted() -> Vec<usize> {
    (0..std::thread::available_parallelism().map_or(1, usize::from)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_share_common_cpus_evenly() {
        let all: &[usize] = &[0, 1, 2, 3];
        assert_eq!(fair_threads(all, [all, all]), 2);
        assert_eq!(fair_threads(all, vec![all; 8]), 1);
        assert_eq!(fair_threads(&[0, 1], [&[0, 1][..], &[2, 3][..]]), 2);
        assert_eq!(fair_threads(all, []), 4);
    }

    #[test]
    fn a_host_is_crowded_by_more_ranks_than_cpus() {
        // Both have the same name.
        let place = |node, cpus: &[usize]| Place {
            node,
            host: "localhost".to_owned(),
            cpus: cpus.to_vec(),
            available: 4,
            quota: None,
            threads: 1,
        };
        assert!(!is_oversubscribed(&[place(0, &[0]), place(0, &[1]), place(2, &[0])]));
        assert!(is_oversubscribed(&[place(0, &[0]), place(1, &[0, 1]), place(0, &[0])]));
    }

    #[test]
    fn a_quota_limits_threads_and_crowds() {
        let place = |quota| Place {
            node: 0,
            host: "a".to_owned(),
            cpus: (0..64).collect(),
            available: 64,
            quota,
            threads: 1,
        };
        for (quota, ranks, threads, oversubscribed) in [
            (None, 4, 16, false),
            (Some(8), 4, 2, false),
            (Some(2), 1, 2, false),
            (Some(2), 4, 1, true),
        ] {
            let places = vec![place(quota); ranks];
            let neighbours: Vec<_> = places.iter().collect();
            assert_eq!(places[0].fair_threads(&neighbours), threads, "{quota:?}, {ranks}");
            assert_eq!(is_oversubscribed(&places), oversubscribed, "{quota:?}, {ranks}");
        }
    }

    #[test]
    fn the_largest_setting_of_a_stack_counts() {
        const MIB: usize = 1 << 20;
        assert_eq!(largest_stack(None, 4 << 20), 8 * MIB);
        assert_eq!(largest_stack(Some(64 * MIB), 8 << 20), 64 * MIB);
        assert_eq!(largest_stack(Some(MIB), 32 << 20), 32 * MIB);
        assert_eq!(largest_stack(None, RLIM_INFINITY), 256 * MIB);
    }

    #[test]
    fn cpus_are_listed_as_linux_does() {
        assert_eq!(cpu_list(&[0, 1, 2, 5, 7, 8]), "0-2,5,7-8");
        assert_eq!(cpu_list(&[]), "");
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_pinned_thread_has_one_cpu_and_could_have_more() {
        std::thread::spawn(|| {
            let (first, most) = (cpus()[0], available());
            pin(first).unwrap();
            assert_eq!(cpus(), [first]);
            assert_eq!(available(), most);
            assert_eq!(cpus(), [first], "looking leaves the mask as it was");
        })
        .join()
        .unwrap();
    }
}
