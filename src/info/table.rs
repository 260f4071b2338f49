//! Which ranks run where: a line for each place, or, where that would be more than a screen, one for
//! all hosts that are alike.

use std::collections::{BTreeSet, HashMap};

use super::name_hosts;
use crate::placement::{self, Place};

/// No more lines than a screen has room for.
const SCREEN: usize = 16;

pub(super) fn table(places: &[Place]) -> String {
    let header = ["ranks", "host", "cpus", "threads per rank"].map(str::to_owned);
    let rows = by_place(places);
    let shown: Vec<_> = if rows.len() <= SCREEN {
        rows.iter().map(|(place, ranks)| row(place, ranks)).collect()
    } else {
        folded(&rows)
    };
    align(&std::iter::once(header).chain(shown).collect::<Vec<_>>())
}

/// The ranks at each place, in the order of their first.
fn by_place(places: &[Place]) -> Vec<(&Place, Vec<usize>)> {
    let mut known = HashMap::new();
    let mut rows: Vec<(&Place, Vec<usize>)> = Vec::new();
    for (rank, place) in places.iter().enumerate() {
        let row = *known.entry(place).or_insert(rows.len());
        if row == rows.len() {
            rows.push((place, Vec::new()));
        }
        rows[row].1.push(rank);
    }
    rows
}

fn row(place: &Place, ranks: &[usize]) -> [String; 4] {
    let cpus = placement::cpu_list(&place.cpus);
    let cpus = format!("{cpus} ({} of {})", place.cpus.len(), place.available);
    [placement::cpu_list(ranks), place.host.clone(), cpus, place.threads.to_string()]
}

/// What the ranks of a host that differ in their CPUs only have in common.
#[derive(PartialEq, Eq)]
struct Share {
    /// The CPUs of each, and how many ranks have the same ones.
    cpus: usize,
    sharers: usize,
    available: usize,
    quota: Option<usize>,
    threads: usize,
}

/// Such ranks of a host.
#[derive(PartialEq, Eq)]
struct Part {
    share: Share,
    /// All CPUs of theirs.
    cpus: BTreeSet<usize>,
    ranks: usize,
}

/// Hosts that are alike.
struct Hosts<'a> {
    names: Vec<&'a str>,
    parts: Vec<Part>,
    /// By part, of all these hosts.
    ranks: Vec<Vec<usize>>,
}

impl Hosts<'_> {
    /// Adds ranks at a place to the only host.
    fn add(&mut self, place: &Place, ranks: &[usize]) {
        let share = Share {
            cpus: place.cpus.len(),
            sharers: ranks.len(),
            available: place.available,
            quota: place.quota,
            threads: place.threads,
        };
        let fits = |part: &Part| {
            part.share == share && !place.cpus.iter().any(|cpu| part.cpus.contains(cpu))
        };
        let part = self.parts.iter().position(fits).unwrap_or(self.parts.len());
        if part == self.parts.len() {
            self.parts.push(Part { share, cpus: BTreeSet::new(), ranks: 0 });
            self.ranks.push(Vec::new());
        }
        self.parts[part].cpus.extend(&place.cpus);
        self.parts[part].ranks += ranks.len();
        self.ranks[part].extend(ranks);
    }

    /// Adds hosts that have the same parts.
    fn join(&mut self, others: Self) {
        self.names.extend(others.names);
        for (ranks, more) in self.ranks.iter_mut().zip(others.ranks) {
            ranks.extend(more);
        }
    }

    fn rows(self) -> impl Iterator<Item = [String; 4]> {
        let Self { names, parts, ranks } = self;
        parts.into_iter().zip(ranks).map(move |(part, ranks)| part.row(&names, ranks))
    }
}

/// A line for each part of all hosts whose parts are the same.
fn folded(rows: &[(&Place, Vec<usize>)]) -> Vec<[String; 4]> {
    let mut hosts: Vec<Hosts<'_>> = Vec::new();
    let mut known = HashMap::new();
    for (place, ranks) in rows {
        let host = *known.entry(place.node).or_insert(hosts.len());
        if host == hosts.len() {
            hosts.push(Hosts { names: vec![&place.host], parts: Vec::new(), ranks: Vec::new() });
        }
        hosts[host].add(place, ranks);
    }
    let mut kinds: Vec<Hosts<'_>> = Vec::new();
    for host in hosts {
        match kinds.iter_mut().find(|kind| kind.parts == host.parts) {
            Some(kind) => kind.join(host),
            None => kinds.push(host),
        }
    }
    kinds.into_iter().flat_map(Hosts::rows).collect()
}

impl Part {
    fn row(&self, hosts: &[&str], mut ranks: Vec<usize>) -> [String; 4] {
        ranks.sort_unstable();
        let names = name_hosts(hosts);
        let one = hosts.len() == 1;
        let host = if one { names } else { format!("{names}, {} each", self.ranks) };
        let cpus: Vec<usize> = self.cpus.iter().copied().collect();
        let each = if self.share.sharers == self.ranks { "" } else { " each" };
        let cpus = format!(
            "{} ({}{each} of {})",
            placement::cpu_list(&cpus),
            self.share.cpus,
            self.share.available
        );
        [placement::cpu_list(&ranks), host, cpus, self.share.threads.to_string()]
    }
}

/// Rows with their columns aligned; the last column is not padded.
fn align<const N: usize>(rows: &[[String; N]]) -> String {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max();
    let line = |row: &[String; N]| {
        let padded = row.iter().enumerate().map(|(column, cell)| {
            let width = if column + 1 < N { width(column).unwrap_or(0) } else { 0 };
            format!("{cell:<width$}")
        });
        padded.collect::<Vec<_>>().join("   ")
    };
    rows.iter().map(line).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::info::tests::numbered as place;

    /// Each rank on a CPU of its own.
    fn bound() -> Vec<Place> {
        (0..100).flat_map(|node| (0..128).map(move |cpu| place(node, [cpu]))).collect()
    }

    #[test]
    fn many_equal_hosts_are_a_line() {
        let expected = "\
ranks     host                      cpus                  threads per rank
0-12799   node[001-100], 128 each   0-127 (1 each of 128)   1";
        let expected =
            expected.replace("cpus                  threads", "cpus                    threads");
        assert_eq!(table(&bound()), expected);
        let free = (0..100).flat_map(|node| vec![place(node, 0..128); 128]).collect::<Vec<_>>();
        let line = "0-12799   node[001-100], 128 each   0-127 (128 of 128)   1";
        assert!(table(&free).ends_with(line), "{}", table(&free));
        // In turns over the hosts.
        let cyclic: Vec<_> = (0..12_800).map(|rank| free[rank % 100 * 128].clone()).collect();
        assert!(table(&cyclic).ends_with(line), "{}", table(&cyclic));
    }

    #[test]
    fn what_differs_stays_visible() {
        let mut places = bound();
        // Fewer CPUs, more threads, fewer ranks, two ranks on one CPU.
        places[128 * 50..128 * 51].iter_mut().for_each(|place| place.available = 64);
        places[128 * 60 + 5].threads = 2;
        places.truncate(128 * 99 + 7);
        places[128 * 70 + 1].cpus = vec![0];
        let text = table(&places);
        let lines: Vec<Vec<&str>> = text
            .lines()
            .map(|line| line.split("  ").map(str::trim).filter(|cell| !cell.is_empty()).collect())
            .collect();
        let names = "node[001-050,052-060,062-070,072-099], 128 each";
        for (ranks, host, cpus, threads) in [
            ("6400-6527", "node051", "0-127 (1 each of 64)", "1"),
            ("7685", "node061", "5 (1 of 128)", "2"),
            ("7680-7684,7686-7807", "node061", "0-4,6-127 (1 each of 128)", "1"),
            ("8960-8961", "node071", "0 (1 of 128)", "1"),
            ("8962-9087", "node071", "2-127 (1 each of 128)", "1"),
            ("12672-12678", "node100", "0-6 (1 each of 128)", "1"),
        ] {
            assert!(lines.contains(&vec![ranks, host, cpus, threads]), "{host}: {text}");
        }
        assert!(lines.iter().any(|line| line[1] == names), "{text}");
        assert_eq!(lines.len(), 8, "{text}");
    }

    #[test]
    fn few_places_have_a_line_each() {
        let text = table(&(0..16).map(|rank| place(rank / 8, [rank as usize])).collect::<Vec<_>>());
        assert_eq!(text.lines().count(), 17, "{text}");
        assert!(text.contains("\n9       node002   9 (1 of 128)    1\n"), "{text}");
    }

    #[test]
    fn many_hosts_of_one_name_are_counted() {
        let places =
            (0..40).map(|node| Place { host: "localhost".to_owned(), ..place(node, 0..2) });
        let text = table(&places.collect::<Vec<_>>());
        assert!(text.contains("localhost (40 hosts), 1 each"), "{text}");
    }
}
