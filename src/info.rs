//! Layer 6: what the job runs on, and what is odd about that.

use std::{collections::BTreeMap, fmt};

use crate::{
    checks::Checks,
    comm::Comm,
    engine::About,
    error::Result,
    launch::{Launcher, places},
    placement::{self, Place},
};

/// What a job runs on: engine, library, launcher, hosts, and every rank's CPUs and threads. Made by
/// [`info`].
///
/// Prints as a table, with advice below it where something is off.
#[derive(Clone, Debug)]
pub struct Info {
    about: About,
    checks: Checks,
    launcher: Option<Launcher>,
    places: Vec<Place>,
}

/// Asks all ranks where they run.
///
/// # Collective
/// The ranks of each host, and an allgather of some bytes per rank.
///
/// # Examples
/// ```
/// let pages = spmd::local(2, |world| Ok(spmd::info(world)?.to_string())).unwrap();
/// assert!(pages[0].contains("engine"));
/// assert_eq!(pages[0], pages[1]);
/// ```
#[track_caller]
pub fn info(world: &Comm) -> Result<Info> {
    let places = places::gather(world, rayon::current_num_threads())?;
    Ok(Info { about: world.about(), checks: world.checks(), launcher: Launcher::detect(), places })
}

impl Info {
    /// What could be better about the placement of the ranks, a sentence or two each; empty if
    /// nothing is.
    pub fn advice(&self) -> Vec<String> {
        let hosts = self.ranks_by_host();
        hosts.values().filter_map(|ranks| self.advice_for(ranks)).collect()
    }

    /// The number of hosts that ranks are on.
    pub fn hosts(&self) -> usize {
        self.ranks_by_host().len()
    }

    /// The number of CPUs that ranks may use, of all hosts together.
    pub fn cpus(&self) -> usize {
        let cpus = |ranks: &Vec<usize>| {
            placement::union(ranks.iter().map(|&rank| &self.places[rank])).len()
        };
        self.ranks_by_host().values().map(cpus).sum()
    }

    /// The ranks of each host.
    fn ranks_by_host(&self) -> BTreeMap<u32, Vec<usize>> {
        let mut hosts = BTreeMap::<_, Vec<usize>>::new();
        for (rank, place) in self.places.iter().enumerate() {
            hosts.entry(place.node).or_default().push(rank);
        }
        hosts
    }

    /// For the ranks of a host.
    fn advice_for(&self, ranks: &[usize]) -> Option<String> {
        let host = &self.places[*ranks.first()?].host;
        let places = || ranks.iter().map(|&rank| &self.places[rank]);
        let cpus = placement::union(places());
        let (count, who) = (ranks.len(), name_ranks(ranks));
        let listed = placement::cpu_list(&cpus);
        if count > 1 && cpus.len() == 1 {
            return Some(format!(
                "{who} take turns on cpu {listed} of {host}: that is the concurrent form. For a cpu each, leave \
                 --share-cpu out{}.",
                self.binding_hint()
            ));
        }
        if count > cpus.len() {
            return Some(format!(
                "{count} ranks share the {} cpus {listed} of {host}: they run in turns. For speed, start at most {} \
                 ranks on it.",
                cpus.len(),
                cpus.len()
            ));
        }
        let quota = places().filter_map(|place| place.quota).min();
        if let Some(quota) = quota.filter(|quota| count > *quota) {
            return Some(format!(
                "{count} ranks have time for {quota} cpus of {host}, by a quota of the container or batch job: they run \
                 in turns."
            ));
        }
        let fair = |place: &Place| place.even_share(count);
        let narrow: Vec<_> = self.ranks_where(ranks, |place| place.cpus.len() < fair(place));
        if let Some(&first) = narrow.first() {
            let place = &self.places[first];
            return Some(format!(
                "{} on {host} may use {} of {} cpus, the fair share is {}{}.",
                name_ranks(&narrow),
                place.cpus.len(),
                place.available,
                fair(place),
                self.binding_hint()
            ));
        }
        let threads: usize = places().map(|place| place.threads).sum();
        if threads > cpus.len() {
            return Some(format!(
                "{threads} threads of {who} share the {} cpus {listed} of {host}: leave --threads out for one thread \
                 per cpu.",
                cpus.len()
            ));
        }
        let neighbours: Vec<_> = places().collect();
        let share = |mine: &Place| mine.fair_threads(&neighbours);
        let idle = self.ranks_where(ranks, |place| place.threads < share(place));
        let place = &self.places[*idle.first()?];
        Some(format!(
            "{} on {host} could have {} threads and use {}: leave --threads out.",
            name_ranks(&idle),
            share(place),
            place.threads
        ))
    }

    fn ranks_where(&self, ranks: &[usize], holds: impl Fn(&Place) -> bool) -> Vec<usize> {
        ranks.iter().copied().filter(|&rank| holds(&self.places[rank])).collect()
    }

    /// How the launcher is told to give ranks more CPUs.
    fn binding_hint(&self) -> String {
        let option = |launcher: &Launcher| {
            format!("; the option of {} for more is {}", launcher.name, launcher.binding_option)
        };
        self.launcher.as_ref().map(option).unwrap_or_default()
    }

    /// The design's word for how the ranks run.
    fn form(&self) -> &'static str {
        match (self.ranks_by_host().len(), self.places.len()) {
            (1, 1) => "one rank",
            (1, _) if placement::union(&self.places).len() == 1 => {
                "concurrent (all ranks on one cpu)"
            }
            (1, _) => "parallel (ranks on one host)",
            _ => "distributed (ranks on several hosts)",
        }
    }

    fn facts(&self) -> Vec<(&'static str, String)> {
        let launched = self.launcher.as_ref().map_or("none", |launcher| launcher.name);
        let About { engine, library, thread_level } = &self.about;
        let mut facts = vec![("spmd", env!("CARGO_PKG_VERSION").to_owned())];
        let how = if *engine == "local" { "ranks are threads" } else { "ranks are processes" };
        facts.push(("engine", format!("{engine} ({how})")));
        if library.is_empty() {
            let built = if cfg!(feature = "mpi") { "not in use" } else { NOT_BUILT };
            facts.push(("MPI library", built.to_owned()));
        } else {
            facts.push(("MPI library", library.clone()));
            facts.push(("thread level", thread_level.clone()));
        }
        facts.push(("checks", format!("{:?}", self.checks).to_lowercase()));
        facts.push(("launcher", launched.to_owned()));
        let (ranks, hosts) = (self.places.len(), self.ranks_by_host().len());
        facts.push(("ranks", format!("{ranks} on {}", counted(hosts, "host"))));
        facts.push(("form", self.form().to_owned()));
        facts.push(("HDF5", hdf5()));
        facts.push(("features", features()));
        facts
    }
}

const NOT_BUILT: &str = "not built in";

fn hdf5() -> String {
    #[cfg(feature = "hdf5")]
    {
        let (major, minor, patch) = hdf5::library_version();
        let how = if cfg!(feature = "phdf5") { "parallel" } else { "serial" };
        format!("{major}.{minor}.{patch}, {how}")
    }
    #[cfg(not(feature = "hdf5"))]
    NOT_BUILT.to_owned()
}

fn features() -> String {
    let all = [
        ("mpi", cfg!(feature = "mpi")),
        ("hdf5", cfg!(feature = "hdf5")),
        ("phdf5", cfg!(feature = "phdf5")),
    ];
    let on: Vec<_> = all.iter().filter(|(_, on)| *on).map(|(name, _)| *name).collect();
    if on.is_empty() { "none".to_owned() } else { on.join(", ") }
}

fn counted(count: usize, what: &str) -> String {
    if count == 1 { format!("1 {what}") } else { format!("{count} {what}s") }
}

fn name_ranks(ranks: &[usize]) -> String {
    let list = placement::cpu_list(ranks);
    if ranks.len() == 1 { format!("rank {list}") } else { format!("ranks {list}") }
}

impl fmt::Display for Info {
    /// Lines without an end of line after the last.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, value) in self.facts() {
            writeln!(f, "{name:<13} {value}")?;
        }
        // Ranks at the same place share a line.
        let mut groups: Vec<(&Place, Vec<usize>)> = Vec::new();
        for (rank, place) in self.places.iter().enumerate() {
            match groups.iter_mut().find(|(known, _)| *known == place) {
                Some((_, ranks)) => ranks.push(rank),
                None => groups.push((place, vec![rank])),
            }
        }
        let rows = groups.iter().map(|(place, ranks)| {
            let cpus = format!(
                "{} ({} of {})",
                placement::cpu_list(&place.cpus),
                place.cpus.len(),
                place.available
            );
            let threads = place.threads.to_string();
            [placement::cpu_list(ranks), place.host.clone(), cpus, threads]
        });
        let header = ["ranks", "host", "cpus", "threads per rank"].map(str::to_owned);
        write!(
            f,
            "\n{}",
            table(std::iter::once(header).chain(rows).collect::<Vec<_>>().as_slice())
        )?;
        let advice = self.advice();
        if !advice.is_empty() {
            write!(f, "\n\nadvice")?;
        }
        advice.iter().try_for_each(|advice| write!(f, "\n  * {advice}"))
    }
}

/// Rows with their columns aligned; the last column is not padded.
fn table<const N: usize>(rows: &[[String; N]]) -> String {
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

    fn job(places: Vec<Place>) -> Info {
        let about =
            About { engine: "mpi", library: "Open MPI".to_owned(), thread_level: String::new() };
        let launcher =
            Launcher { name: "mpirun", rank: 0, size: None, binding_option: "--bind-to none" };
        Info { about, checks: Checks::Arguments, launcher: Some(launcher), places }
    }

    fn place(host: &str, cpus: impl IntoIterator<Item = usize>, threads: usize) -> Place {
        let node = host.len() as u32; // no two hosts here have names of one length
        Place {
            node,
            host: host.to_owned(),
            cpus: cpus.into_iter().collect(),
            available: 8,
            quota: None,
            threads,
        }
    }

    #[test]
    fn good_placement_needs_no_advice() {
        assert!(job(vec![place("a", 0..8, 8)]).advice().is_empty());
        assert!(job(vec![place("a", 0..4, 4), place("a", 4..8, 4)]).advice().is_empty());
        assert!(job(vec![place("a", 0..8, 4), place("a", 0..8, 4)]).advice().is_empty());
    }

    #[test]
    fn advice_names_ranks_and_the_launchers_option() {
        let advice = job(vec![place("a", 0..1, 1), place("a", 1..2, 1)]).advice().join("");
        assert!(advice.contains("ranks 0-1 on a may use 1 of 8 cpus"), "{advice}");
        assert!(advice.contains("--bind-to none"), "{advice}");
    }

    #[test]
    fn hosts_of_one_name_are_several() {
        let two = [0, 1].map(|node| Place { node, ..place("localhost", 0..8, 8) });
        let job = job(two.to_vec());
        assert!(job.to_string().contains("2 on 2 hosts"), "{job}");
        assert!(job.advice().is_empty(), "{job}");
    }

    #[test]
    fn shared_and_idle_cpus_are_noticed() {
        let advice = |places| job(places).advice().join("");
        assert!(advice(vec![place("a", 3..4, 1); 2]).contains("take turns on cpu 3"));
        assert!(advice(vec![place("a", 0..8, 1); 9]).contains("9 ranks share the 8 cpus 0-7"));
        assert!(advice(vec![place("a", 0..8, 8); 2]).contains("16 threads"));
        assert!(advice(vec![place("a", 0..8, 2)]).contains("could have 8 threads and use 2"));
        let limited = |ranks| vec![Place { quota: Some(2), ..place("a", 0..8, 2) }; ranks];
        assert_eq!(advice(limited(1)), "", "no more than the quota");
        assert!(advice(limited(3)).contains("3 ranks have time for 2 cpus of a"));
    }

    #[test]
    fn ranks_at_the_same_place_share_a_line() {
        let mut places = vec![place("a", 0..8, 1); 32];
        places.extend(vec![place("node-with-a-long-name", 0..8, 1); 32]);
        let text = job(places).to_string();
        assert!(text.contains("64 on 2 hosts") && text.contains("distributed"), "{text}");
        assert!(text.contains("0-31    a                       0-7 (8 of 8)   1\n"), "{text}");
        assert!(text.contains("32-63   node-with-a-long-name   0-7 (8 of 8)   1\n"), "{text}");
    }
}
