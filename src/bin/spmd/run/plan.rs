//! What is asked for, as a command line.

use std::{
    env,
    ffi::OsString,
    fs,
    io::Write,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    process,
    time::{Duration, SystemTime},
};

use super::{
    Options,
    agent::Facts,
    choice::choose,
    cores::cores,
    leftovers::MARK,
    way::Way,
    word::{KIND, progress_in, stop_in},
};
use crate::{
    hosts::{self, Format, Host},
    launcher::{self, Family, Kind, Launcher, Layout, Linked, quoted},
};

/// A run before it is started.
#[allow(clippy::struct_excessive_bools, reason = "each is a question of its own")]
pub(super) struct Plan {
    /// None where ranks are threads.
    pub(super) launcher: Option<Launcher>,
    pub(super) program: PathBuf,
    pub(super) arguments: Vec<OsString>,
    /// Hosts that were named; none where the launcher knows them itself.
    pub(super) hosts: Vec<Host>,
    /// How hosts are reached.
    pub(super) way: Way,
    /// What all processes of this run, and no others, have in their environment: `RUN`, and where it
    /// is one of several starts, `RUN.4`.
    pub(super) token: String,
    /// Where the program leaves its record, on the host of rank 0.
    pub(super) directory: PathBuf,
    pub(super) variables: Vec<(String, String)>,
    /// How long it may take.
    pub(super) walltime: Option<Duration>,
    pub(super) ranks: Option<usize>,
    pub(super) threads: Option<usize>,
    share_cpu: bool,
    oversubscribe: bool,
    family: Option<Family>,
    /// Whether ranks go on after the loss of others.
    in_place: bool,
    /// The names of what is handed on to ranks.
    names: Vec<String>,
    launcher_args: Vec<String>,
    /// In an allocation the hosts' CPUs are not those of this host.
    pub(super) in_allocation: bool,
    /// The ranks that it is for, if it says so.
    given: Option<usize>,
    /// The cores of each host, where it has told them.
    cores: Vec<Option<usize>>,
}

/// How many ranks go where, by the launcher's own file.
pub(super) struct Placed {
    pub(super) ranks: usize,
    own_cpus: Option<usize>,
    crowded: bool,
    pub(super) hostfile: Option<PathBuf>,
}

impl Drop for Placed {
    fn drop(&mut self) {
        if let Some(file) = &self.hostfile {
            let _ = fs::remove_file(file); // if it was written
        }
    }
}

impl Plan {
    /// # Errors
    /// What is wrong with what is asked for, in words.
    pub(super) fn new(options: &Options) -> Result<Self, String> {
        let name = options.command.first().ok_or("which program?")?;
        let program = launcher::program(name)?;
        let linked = launcher::linked(&program);
        let mut hosts = options.hosts.hosts()?.unwrap_or_default();
        let in_slurm = env::var_os("SLURM_JOB_ID").is_some();
        let launcher = choose(options.launcher, linked, !hosts.is_empty(), in_slurm)?;
        let in_place = options.supervised.in_place;
        if in_place && !launcher.as_ref().is_some_and(Launcher::survives_losses) {
            let which = launcher.as_ref().map_or("threads", |launcher| &launcher.version);
            return Err(format!(
                "--in-place: with {which} a lost rank ends the others\n  help: build the program with Open MPI 5 and put \
                 its mpirun first in the PATH, or leave --in-place out: the program is started again"
            ));
        }
        // What a batch system says of its hosts counts where nothing else is said.
        let given = if launcher.is_some() && hosts.is_empty() && options.ranks.is_none() {
            hosts::from_environment()?
        } else {
            hosts::from_environment().unwrap_or(None)
        };
        let in_allocation = in_slurm || given.is_some();
        let slots = |host: &Host| host.slots.unwrap_or(1);
        let mut way = Way::Ssh(options.ssh.clone());
        // A launcher that knows the hosts by itself would not go on with those that are left.
        if let (Some(_), Some(nodes), Some(launcher), None) =
            (options.supervised.restarts, &given, &launcher, &options.ssh)
            && hosts.is_empty()
            && in_slurm
        {
            way = Way::in_job(launcher)?;
            hosts.clone_from(nodes);
        }
        let family = match linked {
            Linked::With(family) => Some(family),
            Linked::Without | Linked::Unknown => None,
        };
        let started = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let token = format!("{}-{}", process::id(), started.as_nanos());
        let number = |count: Option<std::num::NonZeroUsize>| count.map(usize::from);
        let mut plan = Self {
            launcher,
            program,
            arguments: options.command[1..].to_vec(),
            hosts,
            way,
            token,
            directory: PathBuf::new(),
            variables: Vec::new(),
            walltime: options.walltime,
            ranks: number(options.ranks),
            threads: number(options.threads),
            share_cpu: options.share_cpu,
            oversubscribe: options.oversubscribe,
            family,
            in_place,
            names: Vec::new(),
            launcher_args: options.launcher_args.split_whitespace().map(str::to_owned).collect(),
            in_allocation,
            given: given.map(|hosts| hosts.iter().map(slots).sum()),
            cores: Vec::new(),
        };
        plan.directory = plan.place_of_its_own();
        plan.set_variables(options);
        Ok(plan)
    }

    /// Where this run, or this start of it, leaves its words.
    fn place_of_its_own(&self) -> PathBuf {
        let name = format!("{KIND}{}", self.token);
        if !self.hosts.is_empty() {
            // Each has its own.
            Path::new("/tmp").join(name)
        } else if self.in_allocation && self.launcher.is_some() {
            // Where the launcher alone knows the hosts, none of them can be asked: they share this
            // directory.
            let name = PathBuf::from(format!(".{name}"));
            std::path::absolute(&name).unwrap_or(name)
        } else {
            env::temp_dir().join(name)
        }
    }

    /// The next of several starts of `run`: on these hosts, where there are hosts, and with so many ranks.
    pub(super) fn start_again(
        &mut self,
        (run, number): (&str, u64),
        hosts: Vec<Host>,
        ranks: Option<usize>,
        left: Option<Duration>,
    ) {
        self.token = format!("{run}.{number}");
        (self.hosts, self.ranks, self.walltime) = (hosts, ranks, left);
        self.cores.clear();
        self.directory = self.place_of_its_own();
        let path = |path: PathBuf| path.to_string_lossy().into_owned();
        let mut all = vec![
            (MARK, self.token.clone()),
            ("SPMD_PROGRESS", path(progress_in(&self.directory))),
            ("SPMD_STOP_FILE", path(stop_in(&self.directory))),
        ];
        all.extend(left.map(|left| ("SPMD_WALLTIME", left.as_secs_f64().to_string())));
        if self.launcher.is_none() {
            all.extend(ranks.map(|ranks| ("SPMD_RANKS", ranks.to_string())));
        }
        for (name, value) in all {
            self.variables.retain(|(known, _)| known != name);
            self.variables.push((name.to_owned(), value));
            if !self.names.iter().any(|known| known == name) {
                self.names.push(name.to_owned());
            }
        }
    }

    fn set_variables(&mut self, options: &Options) {
        let mut set = |name: &str, value: String| self.variables.push((name.to_owned(), value));
        if let Some(threads) = self.threads {
            set("SPMD_THREADS", threads.to_string());
        }
        if self.share_cpu {
            set("SPMD_SHARE_CPU", "true".to_owned());
        }
        for (name, time) in [("SPMD_WALLTIME", options.walltime), ("SPMD_TIMEOUT", options.timeout)]
        {
            if let Some(time) = time {
                set(name, time.as_secs_f64().to_string());
            }
        }
        if self.launcher.is_none() {
            set("SPMD_ENGINE", "local".to_owned());
            if let Some(ranks) = self.ranks {
                set("SPMD_RANKS", ranks.to_string());
            }
            if let Some(record) = &options.record {
                set("SPMD_RECORD", record.to_string_lossy().into_owned());
            }
            return;
        }
        set(MARK, self.token.clone());
        let of_user =
            env::vars_os().filter_map(|(name, _)| name.into_string().ok()).filter(|name| {
                name.starts_with("SPMD_")
                    || ["RUST_LOG", "RUST_BACKTRACE", "NO_COLOR"].contains(&&**name)
            });
        self.names = of_user.chain(self.variables.iter().map(|(name, _)| name.clone())).collect();
        self.names.push("SPMD_RECORD".to_owned());
        self.names.sort_unstable();
        self.names.dedup();
        if self.in_allocation {
            match self.launcher.as_ref().map(|launcher| launcher.kind) {
                Some(Kind::Srun) | None => {}
                // They start one task on each host by srun, in which all ranks of the host live: it must
                // have all of the job's CPUs there.
                Some(kind) => {
                    self.variables.push(("SLURM_CPU_BIND".to_owned(), "none".to_owned()));
                    if kind == Kind::Hydra {
                        self.variables.push(("SLURM_MPI_TYPE".to_owned(), "none".to_owned()));
                    }
                }
            }
        }
    }

    /// The hosts have said how many cores they have: that many ranks may run on one of which nothing
    /// else is said.
    pub(super) fn give_slots(&mut self, facts: &[Option<Facts>]) {
        self.cores = facts.iter().map(|facts| Some(facts.as_ref()?.cores)).collect();
        let threads = self.threads.unwrap_or(1);
        for (host, cores) in self.hosts.iter_mut().zip(&self.cores) {
            if let (None, Some(cores)) = (host.slots, cores) {
                host.slots = Some((cores / threads).max(1));
            }
        }
    }

    /// How many ranks go where; `hostfile` is where the launcher reads it.
    pub(super) fn layout(&self, hostfile: Option<PathBuf>) -> Placed {
        let slots: usize = self.hosts.iter().map(|host| host.slots.unwrap_or(1)).sum();
        let own_cores = cores();
        let threads = self.threads.unwrap_or(1);
        let ranks = self.ranks.unwrap_or_else(|| match slots {
            0 if self.in_allocation => self.given.unwrap_or(1),
            0 => (own_cores / threads).max(1),
            slots => slots,
        });
        // The ranks of each host, and its cores.
        let on_hosts: Vec<(usize, usize)> = if self.hosts.is_empty() {
            vec![(ranks, own_cores)]
        } else {
            let of_each = self.ranks_of_each(ranks);
            let cores = self.cores.iter().copied().chain(std::iter::repeat(None));
            of_each
                .into_iter()
                .zip(cores)
                .map(|(ranks, cores)| (ranks, cores.unwrap_or(ranks)))
                .collect()
        };
        // What a batch system has given is as many CPUs as were asked for.
        let too_many = !self.in_allocation && on_hosts.iter().any(|(on, has)| on * threads > *has);
        let crowded = self.oversubscribe || self.share_cpu || too_many;
        let own_cpus = if crowded {
            None
        } else if self.in_allocation {
            let given = env::var("SLURM_CPUS_PER_TASK").ok().and_then(|count| count.parse().ok());
            Some(self.threads.or(given).unwrap_or(1))
        } else {
            let share = on_hosts.iter().filter(|(on, _)| *on > 0).map(|(on, has)| has / on).min();
            Some(self.threads.or(share).unwrap_or(1).max(1))
        };
        let hostfile = hostfile.filter(|_| !self.hosts.is_empty());
        Placed { ranks, own_cpus, crowded, hostfile }
    }

    /// How many of the ranks a launcher puts on each host: as many as there are slots, in order; what
    /// is over goes to all.
    fn ranks_of_each(&self, ranks: usize) -> Vec<usize> {
        let slots: Vec<usize> = self.hosts.iter().map(|host| host.slots.unwrap_or(1)).collect();
        let total: usize = slots.iter().sum();
        let over = ranks.saturating_sub(total).div_ceil(slots.len());
        let mut rest = ranks;
        let of_each = slots.into_iter().map(|slots| {
            let here = (slots + over).min(rest);
            rest -= here;
            here
        });
        of_each.collect()
    }

    /// The hosts that ranks are put on, with their number as slots.
    fn placed_on(&self, ranks: usize) -> Vec<Host> {
        if self.hosts.is_empty() {
            return Vec::new();
        }
        let pairs =
            self.hosts.iter().zip(self.ranks_of_each(ranks)).filter(|(_, ranks)| *ranks > 0);
        pairs.map(|(host, ranks)| Host { name: host.name.clone(), slots: Some(ranks) }).collect()
    }

    /// Writes the hosts for the launcher; the file goes when the layout does.
    ///
    /// # Errors
    /// If it cannot be written, in words.
    pub(super) fn place(&self) -> Result<Placed, String> {
        let file = env::temp_dir().join(format!("spmd-hosts-{}", self.token));
        let placed = self.layout(Some(file));
        if let Some(file) = &placed.hostfile {
            // A file that is there already may be somebody else's.
            let mut options = fs::OpenOptions::new();
            options.write(true).create_new(true).mode(0o600);
            options
                .open(file)
                .and_then(|mut file| file.write_all(self.hostfile_text().as_bytes()))
                .map_err(|error| format!("{}: {error}", file.display()))?;
        }
        Ok(placed)
    }

    fn hostfile_text(&self) -> String {
        let format = match self.launcher.as_ref().map(|launcher| launcher.kind) {
            Some(Kind::Hydra) => Format::Mpich,
            Some(Kind::Srun) => Format::Slurm,
            Some(Kind::OpenMpi(_)) | None => Format::OpenMpi,
        };
        if format == Format::Slurm {
            // As many lines as ranks.
            return hosts::write(&self.placed_on(self.layout(None).ranks), format);
        }
        hosts::write(&self.hosts, format)
    }

    /// All words of the launcher, and the program's.
    pub(super) fn words(&self, placed: &Placed) -> Vec<OsString> {
        let Some(launcher) = &self.launcher else {
            let program = self.program.clone().into_os_string();
            return std::iter::once(program).chain(self.arguments.iter().cloned()).collect();
        };
        let agent = self.way.agent();
        let words = launcher.words(&Layout {
            ranks: placed.ranks,
            own_cpus: placed.own_cpus,
            crowded: placed.crowded,
            hostfile: placed.hostfile.as_deref(),
            agent: agent.as_deref(),
            in_slurm: self.way.is_srun(),
            hosts: self.placed_on(placed.ranks).len(),
            variables: &self.names,
            family: self.family,
            survives: self.in_place,
        });
        let mut all: Vec<OsString> = words.into_iter().map(OsString::from).collect();
        all.extend(self.launcher_args.iter().map(OsString::from));
        all.push(self.program.clone().into_os_string());
        all.extend(self.arguments.iter().cloned());
        all
    }

    /// What `--dry-run` prints: a line for a shell, and what stands in the hostfile.
    pub(super) fn command_line(&self, placed: &Placed) -> String {
        let shown = Placed {
            ranks: placed.ranks,
            own_cpus: placed.own_cpus,
            crowded: placed.crowded,
            hostfile: (!self.hosts.is_empty() && self.launcher.is_some())
                .then(|| PathBuf::from("HOSTFILE")),
        };
        let of_run = |name: &str| name == MARK || name == "SPMD_RECORD";
        let settings = self.variables.iter().filter(|(name, _)| !of_run(name));
        let settings = settings.map(|(name, value)| format!("{name}={} ", quoted(value)));
        let words = self.words(&shown);
        let words = words.iter().map(|word| quoted(&word.to_string_lossy())).collect::<Vec<_>>();
        let mut text = format!("{}{}", settings.collect::<String>(), words.join(" "));
        for name in [MARK, "SPMD_RECORD"] {
            text = text.replace(&format!("-x {name} "), "");
        }
        if shown.hostfile.is_some() {
            text.push_str("\n\nHOSTFILE:\n");
            text.push_str(self.hostfile_text().trim_end());
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(
        hosts: &[(Option<usize>, usize)],
        ranks: Option<usize>,
        threads: Option<usize>,
    ) -> Plan {
        let named = |(index, (slots, _)): (usize, &(Option<usize>, usize))| Host {
            name: format!("n{index}"),
            slots: *slots,
        };
        let mut plan = Plan {
            launcher: None,
            program: PathBuf::new(),
            arguments: Vec::new(),
            hosts: hosts.iter().enumerate().map(named).collect(),
            way: Way::Ssh(None),
            in_place: false,
            token: String::new(),
            directory: PathBuf::new(),
            variables: Vec::new(),
            walltime: None,
            ranks,
            threads,
            share_cpu: false,
            oversubscribe: false,
            family: None,
            names: Vec::new(),
            launcher_args: Vec::new(),
            in_allocation: false,
            given: None,
            cores: Vec::new(),
        };
        let cores = hosts.iter().map(|(_, cores)| Some(Facts::with_cores(*cores)));
        plan.give_slots(&cores.collect::<Vec<_>>());
        plan
    }

    #[test]
    fn ranks_have_cores_of_their_own_where_there_are_enough() {
        for (hosts, ranks, threads, expected) in [
            // Slots as cores, of hosts that are not alike.
            (&[(None, 8), (None, 2)][..], None, None, (10, Some(1))),
            (&[(Some(8), 8), (Some(2), 2)], None, None, (10, Some(1))),
            (&[(Some(1), 8), (Some(1), 2)], None, None, (2, Some(2))),
            (&[(None, 8), (None, 4)], None, Some(2), (6, Some(2))),
            (&[(None, 4), (None, 4)], Some(2), None, (2, Some(2))),
            // More than there are.
            (&[(Some(4), 2), (Some(4), 8)], None, None, (8, None)),
            (&[(None, 2), (None, 2)], Some(8), None, (8, None)),
            (&[(Some(2), 2)], None, Some(2), (2, None)),
        ] {
            let placed = plan(hosts, ranks, threads).layout(None);
            assert_eq!(
                (placed.ranks, placed.own_cpus),
                expected,
                "{hosts:?} {ranks:?} {threads:?}"
            );
            assert_eq!(placed.crowded, expected.1.is_none());
        }
    }
}
