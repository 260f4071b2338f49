//! Layer 6: what the job runs on, and what is odd about that.

mod advice;
mod table;

use std::{collections::BTreeMap, fmt};

use serde::{Deserialize, Serialize};

use crate::{
    checks::Checks,
    comm::Comm,
    engine::{About, Installed},
    error::Result,
    hosts::compress,
    launch::{Launcher, batch_job, places},
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
    started: Started,
    places: Vec<Place>,
    /// What each rank has found.
    installed: Vec<Installed>,
}

/// How the job was started, as far as rank 0 was told.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Started {
    /// The version of the launcher.
    version: Option<String>,
    /// The batch job.
    job: Option<String>,
}

/// Asks all ranks where they run, and on what.
///
/// # Collective
/// The ranks of each host, a broadcast, and two allgathers of some bytes per rank.
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
    let installed = world.allgather_obj(&world.installed())?;
    let launcher = Launcher::detect();
    let started = world.bcast_obj(0, || Started {
        version: launcher.as_ref().and_then(Launcher::version),
        job: batch_job(),
    })?;
    let (about, checks) = (world.about(), world.checks());
    Ok(Info { about, checks, launcher, started, places, installed })
}

impl Info {
    /// What could be better about the placement of the ranks, a sentence or two for each thing and
    /// the hosts that it is about; empty if nothing is.
    pub fn advice(&self) -> Vec<String> {
        advice::advice(self)
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
        let version = self.started.version.as_ref().map(|version| format!(" ({version})"));
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
        facts.extend(self.found("library file", |installed| installed.library.as_deref()));
        facts.extend(self.found("transport", |installed| installed.transport.as_deref()));
        facts.push(("checks", format!("{:?}", self.checks).to_lowercase()));
        facts.push(("launcher", format!("{launched}{}", version.unwrap_or_default())));
        facts.extend(self.started.job.clone().map(|job| ("batch job", job)));
        let (ranks, hosts) = (self.places.len(), self.ranks_by_host().len());
        facts.push(("ranks", format!("{ranks} on {}", counted(hosts, "host"))));
        facts.push(("form", self.form().to_owned()));
        facts.push(("HDF5", hdf5()));
        facts.push(("features", features()));
        facts
    }

    /// What the ranks have found, with their hosts where that differs; nothing where nobody knows.
    fn found(
        &self,
        name: &'static str,
        what: impl Fn(&Installed) -> Option<&str>,
    ) -> Vec<(&'static str, String)> {
        let mut hosts_by_value = BTreeMap::<&str, BTreeMap<u32, &str>>::new();
        for (installed, place) in self.installed.iter().zip(&self.places) {
            if let Some(value) = what(installed) {
                hosts_by_value.entry(value).or_default().insert(place.node, &place.host);
            }
        }
        let differs = hosts_by_value.len() > 1;
        let show = |(value, hosts): (&str, BTreeMap<u32, &str>)| {
            let hosts: Vec<_> = hosts.into_values().collect();
            let on = if differs { format!(" (on {})", name_hosts(&hosts)) } else { String::new() };
            (name, format!("{value}{on}"))
        };
        hosts_by_value.into_iter().map(show).collect()
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

/// Hosts by their names; those of one name are counted.
fn name_hosts(hosts: &[&str]) -> String {
    let mut names = hosts.to_vec();
    names.dedup();
    let listed = compress(&names);
    if names.len() == hosts.len() { listed } else { format!("{listed} ({} hosts)", hosts.len()) }
}

impl fmt::Display for Info {
    /// Lines without an end of line after the last.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, value) in self.facts() {
            writeln!(f, "{name:<13} {value}")?;
        }
        write!(f, "\n{}", table::table(&self.places))?;
        let advice = self.advice();
        if !advice.is_empty() {
            write!(f, "\n\nadvice")?;
        }
        advice.iter().try_for_each(|advice| write!(f, "\n  * {advice}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) fn job(places: Vec<Place>) -> Info {
        let about =
            About { engine: "mpi", library: "Open MPI".to_owned(), thread_level: String::new() };
        let launcher =
            Launcher { name: "mpirun", rank: 0, size: None, binding_option: "--bind-to none" };
        let installed = vec![Installed::default(); places.len()];
        let (checks, started) = (Checks::Arguments, Started::default());
        Info { about, checks, launcher: Some(launcher), started, places, installed }
    }

    /// A rank of one of many hosts of 128 CPUs.
    pub(super) fn numbered(node: u32, cpus: impl IntoIterator<Item = usize>) -> Place {
        Place {
            node,
            host: format!("node{:03}", node + 1),
            cpus: cpus.into_iter().collect(),
            available: 128,
            quota: None,
            threads: 1,
        }
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
    fn a_large_job_is_a_screen() {
        let places = (0..12_800_u32).map(|rank| Place {
            node: rank / 128,
            host: format!("node{:03}", rank / 128 + 1),
            cpus: vec![rank as usize % 128],
            available: 128,
            quota: None,
            threads: 1,
        });
        let text = job(places.collect()).to_string();
        assert!(text.lines().count() < 24, "{text}");
        assert!(text.contains("12800 on 100 hosts") && text.contains(" node[001-100], "), "{text}");
    }

    #[test]
    fn the_installation_and_the_launch_are_told_as_far_as_they_are_known() {
        let mut job = job(vec![place("a", 0..4, 4), place("bb", 4..8, 4), place("ccc", 0..8, 8)]);
        let lines = |job: &Info, name: &str| {
            let text = job.to_string();
            let lines = text.lines().filter_map(|line| line.strip_prefix(name));
            lines.map(|line| line.trim().to_owned()).collect::<Vec<_>>()
        };
        for name in ["library file", "transport", "batch job"] {
            assert!(lines(&job, name).is_empty(), "{job}");
        }
        assert_eq!(lines(&job, "launcher"), ["mpirun"]);
        for (installed, path) in job.installed.iter_mut().zip(["/x", "/x", "/y"]) {
            installed.library = Some(path.to_owned());
            installed.transport = Some("ob1".to_owned());
        }
        job.started = Started { version: Some("9.9".to_owned()), job: Some("SLURM 1".to_owned()) };
        assert_eq!(lines(&job, "library file"), ["/x (on a,bb)", "/y (on ccc)"]);
        assert_eq!(lines(&job, "transport"), ["ob1"]);
        assert_eq!(lines(&job, "launcher"), ["mpirun (9.9)"]);
        assert_eq!(lines(&job, "batch job"), ["SLURM 1"]);
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
