//! What could be better: a line for each thing, whatever the number of hosts.

use std::mem::{Discriminant, discriminant};

use super::{Info, name_hosts, name_ranks};
use crate::{
    launch::Launcher,
    placement::{self, Place},
};

/// What is off on a host.
#[derive(PartialEq, Eq)]
enum Problem {
    TakeTurns { cpu: usize },
    TooManyRanks { ranks: usize, cpus: Vec<usize> },
    Quota { ranks: usize, quota: usize },
    Narrow { cpus: usize, available: usize, fair: usize },
    TooManyThreads { threads: usize, cpus: Vec<usize> },
    Idle { share: usize, threads: usize },
}

/// What is off, and whom it is about.
struct Found<'a> {
    problem: Problem,
    ranks: Vec<usize>,
    hosts: Vec<&'a str>,
    /// Ranks and hosts with the same problem in other numbers.
    likewise: (Vec<usize>, Vec<&'a str>),
}

/// The same thing with more different numbers than these is told once.
const FEW: usize = 3;

pub(super) fn advice(info: &Info) -> Vec<String> {
    let mut found: Vec<Found<'_>> = Vec::new();
    for ranks in info.ranks_by_host().into_values() {
        let Some((problem, ranks)) = look(&info.places, ranks) else { continue };
        let host = &*info.places[ranks[0]].host;
        if let Some(known) = found.iter_mut().find(|known| known.problem == problem) {
            known.ranks.extend(ranks);
            known.hosts.push(host);
        } else {
            found.push(Found { problem, ranks, hosts: vec![host], likewise: Default::default() });
        }
    }
    let told = fold(found);
    told.into_iter().map(|found| found.say(info.launcher.as_ref())).collect()
}

/// Leaves one of many that differ in numbers only.
fn fold(found: Vec<Found<'_>>) -> Vec<Found<'_>> {
    let kinds: Vec<Discriminant<Problem>> =
        found.iter().map(|found| discriminant(&found.problem)).collect();
    let mut told: Vec<Found<'_>> = Vec::new();
    for (found, kind) in found.into_iter().zip(&kinds) {
        let are_many = kinds.iter().filter(|other| *other == kind).count() > FEW;
        let first = told.iter_mut().find(|known| discriminant(&known.problem) == *kind);
        match first.filter(|_| are_many) {
            Some(first) => {
                first.likewise.0.extend(found.ranks);
                first.likewise.1.extend(found.hosts);
            }
            None => told.push(found),
        }
    }
    told
}

/// What is off with these ranks of a host, and with which of them.
fn look(all: &[Place], ranks: Vec<usize>) -> Option<(Problem, Vec<usize>)> {
    let places = || ranks.iter().map(|&rank| &all[rank]);
    let having = |holds: &dyn Fn(&Place) -> bool| -> Vec<usize> {
        ranks.iter().copied().filter(|&rank| holds(&all[rank])).collect()
    };
    let cpus = placement::union(places());
    let count = ranks.len();
    if let (&[cpu], true) = (&*cpus, count > 1) {
        return Some((Problem::TakeTurns { cpu }, ranks));
    }
    if count > cpus.len() {
        return Some((Problem::TooManyRanks { ranks: count, cpus }, ranks));
    }
    let quota = places().filter_map(|place| place.quota).min();
    if let Some(quota) = quota.filter(|quota| count > *quota) {
        return Some((Problem::Quota { ranks: count, quota }, ranks));
    }
    let fair = |place: &Place| place.even_share(count);
    let narrow = having(&|place| place.cpus.len() < fair(place));
    if let Some(&first) = narrow.first() {
        let place = &all[first];
        let (cpus, available, fair) = (place.cpus.len(), place.available, fair(place));
        return Some((Problem::Narrow { cpus, available, fair }, narrow));
    }
    let threads: usize = places().map(|place| place.threads).sum();
    if threads > cpus.len() {
        return Some((Problem::TooManyThreads { threads, cpus }, ranks));
    }
    let neighbours: Vec<_> = places().collect();
    let share = |mine: &Place| mine.fair_threads(&neighbours);
    let idle = having(&|place| place.threads < share(place));
    let place = &all[*idle.first()?];
    Some((Problem::Idle { share: share(place), threads: place.threads }, idle))
}

impl Found<'_> {
    fn say(mut self, launcher: Option<&Launcher>) -> String {
        self.ranks.sort_unstable();
        let (who, hosts) = (name_ranks(&self.ranks), name_hosts(&self.hosts));
        let of = if self.hosts.len() == 1 { hosts.clone() } else { format!("each of {hosts}") };
        let hint = hint(launcher);
        let text = match &self.problem {
            Problem::TakeTurns { cpu } => format!(
                "{who} take turns on cpu {cpu} of {of}: that is the concurrent form. For a cpu each, leave --share-cpu \
                 out{hint}."
            ),
            Problem::TooManyRanks { ranks, cpus } => format!(
                "{ranks} ranks share the {count} cpus {} of {of}: they run in turns. For speed, start at most {count} \
                 ranks on it.",
                placement::cpu_list(cpus),
                count = cpus.len(),
            ),
            Problem::Quota { ranks, quota } => format!(
                "{ranks} ranks have time for {quota} cpus of {of}, by a quota of the container or batch job: they run \
                 in turns."
            ),
            Problem::Narrow { cpus, available, fair } => format!(
                "{who} on {hosts} may use {cpus} of {available} cpus, the fair share is {fair}{hint}."
            ),
            Problem::TooManyThreads { threads, cpus } => {
                let whose = if self.hosts.len() == 1 { who } else { "the ranks".to_owned() };
                format!(
                    "{threads} threads of {whose} share the {} cpus {} of {of}: leave --threads out for one thread per \
                     cpu.",
                    cpus.len(),
                    placement::cpu_list(cpus)
                )
            }
            Problem::Idle { share, threads } => format!(
                "{who} on {hosts} could have {share} threads and use {threads}: leave --threads out."
            ),
        };
        let (mut ranks, hosts) = self.likewise;
        if ranks.is_empty() {
            return text;
        }
        ranks.sort_unstable();
        format!("{text} Likewise {} on {}.", name_ranks(&ranks), name_hosts(&hosts))
    }
}

/// How the launcher is told to give ranks more CPUs.
fn hint(launcher: Option<&Launcher>) -> String {
    let option = |launcher: &Launcher| {
        format!("; the option of {} for more is {}", launcher.name, launcher.binding_option)
    };
    launcher.map(option).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::super::tests::{job, numbered as place};
    use crate::placement::Place;

    #[test]
    fn the_same_thing_on_many_hosts_is_told_once() {
        let bound = (0..200).map(|rank| place(rank / 2, [rank as usize % 2])).collect();
        let advice = job(bound).advice();
        let expected = "ranks 0-199 on node[001-100] may use 1 of 128 cpus, the fair share is 64; ";
        assert!(advice.len() == 1 && advice[0].starts_with(expected), "{advice:?}");
        let crowded = (0..300).map(|rank| place(rank % 100, [0, 1])).collect();
        let expected = "3 ranks share the 2 cpus 0-1 of each of node[001-100]: they run in turns. ";
        let advice = job(crowded).advice();
        assert!(advice.len() == 1 && advice[0].starts_with(expected), "{advice:?}");
        let threads = |rank: u32| Place { available: 2, threads: 3, ..place(rank / 2, [0, 1]) };
        let expected = "6 threads of the ranks share the 2 cpus 0-1 of each of node[001-002]: ";
        let advice = job((0..4).map(threads).collect()).advice();
        assert!(advice.len() == 1 && advice[0].starts_with(expected), "{advice:?}");
    }

    #[test]
    fn different_numbers_are_told_if_they_are_few() {
        // Each host has another CPU for its two ranks.
        let hosts = |count: u32| {
            job((0..2 * count).map(|rank| place(rank / 2, [rank as usize / 2])).collect()).advice()
        };
        let few = hosts(3);
        assert_eq!(few.len(), 3);
        assert!(few[2].starts_with("ranks 4-5 take turns on cpu 2 of node003: "), "{few:?}");
        let many = hosts(100);
        assert_eq!(many.len(), 1);
        assert!(many[0].starts_with("ranks 0-1 take turns on cpu 0 of node001: "), "{many:?}");
        assert!(many[0].ends_with(". Likewise ranks 2-199 on node[002-100]."), "{many:?}");
    }
}
