//! Hosts and how many ranks each may run: lists, hostfiles, and what a batch system has given.

mod environment;
mod file;
mod list;

use std::{collections::HashMap, path::PathBuf};

use clap::Args;

pub(crate) use self::{
    environment::from_environment,
    file::{Format, read_file, write},
    list::parse_list,
};

/// A host that ranks may run on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Host {
    pub(crate) name: String,
    /// How many, if that is said. (Launchers then start one, or one for each core.)
    pub(crate) slots: Option<usize>,
}

/// More hosts than any machine has: a list that says so has a slip in it, and would fill the
/// memory.
const MOST_HOSTS: usize = 100_000;

/// More slots than any machine has.
const MOST_SLOTS: usize = 10_000_000;

/// The same hosts, each once, in the order in which they are first named. A host that is named
/// several times has the slots of all, one where they are not said.
fn merge(named: Vec<Host>) -> Result<Vec<Host>, String> {
    let mut places = HashMap::new();
    let (mut hosts, mut total) = (Vec::<Host>::new(), 0_usize);
    for host in named {
        let count = |host: &Host| host.slots.unwrap_or(1);
        total = total.saturating_add(count(&host));
        if total > MOST_SLOTS {
            return Err(format!(
                "more than {MOST_SLOTS} slots: give each host as many as it has cores"
            ));
        }
        if let Some(&place) = places.get(&host.name) {
            let known: &mut Host = &mut hosts[place];
            known.slots = Some(count(known) + count(&host));
        } else {
            places.insert(host.name.clone(), hosts.len());
            hosts.push(host);
        }
    }
    Ok(hosts)
}

#[derive(Args)]
pub(crate) struct Options {
    /// For which launcher
    #[arg(long, value_enum, default_value = "openmpi")]
    format: Format,
    /// The hosts with their slots, like a[001-003,07]:4,b
    #[arg(long, value_name = "LIST", value_parser = list, conflicts_with = "file")]
    hosts: Option<List>,
    /// A hostfile of any of the forms; else the hosts of the SLURM, PBS or LSF job that this runs in
    file: Option<PathBuf>,
}

/// Hosts for ranks, where they are given.
#[derive(Args)]
pub(crate) struct Chosen {
    /// The hosts with their slots, like a[001-003,07]:4,b
    #[arg(long, value_name = "LIST", value_parser = list, conflicts_with = "hostfile")]
    hosts: Option<List>,
    /// The hosts in a file of any launcher's form
    #[arg(long, value_name = "FILE")]
    hostfile: Option<PathBuf>,
}

impl Chosen {
    /// # Errors
    /// If the file cannot be read, in words.
    pub(crate) fn hosts(&self) -> Result<Option<Vec<Host>>, String> {
        match (&self.hosts, &self.hostfile) {
            (Some(List(hosts)), _) => Ok(Some(hosts.clone())),
            (None, Some(file)) => read_file(file).map(Some),
            (None, None) => Ok(None),
        }
    }
}

/// The hosts of an option: one value, though they are several.
#[derive(Clone)]
struct List(Vec<Host>);

fn list(text: &str) -> Result<List, String> {
    parse_list(text).map(List)
}

/// The text of the hostfile that is asked for.
pub(crate) fn hostfile(options: &Options) -> Result<String, String> {
    let hosts = match (&options.hosts, &options.file) {
        (Some(List(hosts)), _) => hosts.clone(),
        (None, Some(file)) => read_file(file)?,
        (None, None) => from_environment()?.ok_or(
            "no hosts: this is no job of SLURM, PBS or LSF\n  help: give a file, or --hosts a,b:4",
        )?,
    };
    Ok(write(&hosts, options.format))
}
