//! What `spmd job` is told.

use std::{num::NonZeroUsize, path::PathBuf, time::Duration};

use clap::{Args, Subcommand, ValueEnum};

use super::time;

const EXAMPLES: &str = "\
Examples:
  spmd job slurm --nodes 4 --ranks-per-node 2 --threads 8 --time 2h --out heat.sbatch -- ./heat2d --size 8192,8192
  spmd job slurm --array 1000,2000,4000 --out sizes.sbatch -- ./heat2d --size {},{}
  spmd job slurm --stop-before 5m --out long.sbatch -- ./heat2d --steps 1000000 --checkpoint kept
  spmd job slurm --nodes 16 --restarts 5 --out tough.sbatch -- ./heat2d --checkpoint kept --every 1000
  spmd job slurm --launcher mpirun --module openmpi > any.sbatch     Takes the program: sbatch any.sbatch ./heat2d
  spmd job flux --nodes 4 --queue batch --out heat.flux -- ./heat2d --size 8192,8192
  spmd job kubernetes --nodes 4 --image registry/heat:1 -- heat2d --size 8192,8192 | kubectl apply -f -";

/// Write a batch script for SLURM or Flux, or a job for Kubernetes
#[derive(Args, Clone, Debug)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Options {
    #[command(subcommand)]
    pub(super) system: System,
}

#[derive(Subcommand, Clone, Debug)]
pub(super) enum System {
    /// A script for sbatch
    Slurm(Slurm),
    /// A script for flux batch
    Flux(Flux),
    /// A manifest for Kubeflow's MPI operator, for kubectl apply
    Kubernetes(Kubernetes),
}

/// What all systems are told.
#[derive(Args, Clone, Debug)]
pub(super) struct Common {
    /// Hosts (Kubernetes: worker pods)
    #[arg(short = 'N', long, default_value = "2", value_name = "COUNT")]
    pub(super) nodes: NonZeroUsize,
    /// Ranks on each of them
    #[arg(long, default_value = "2", value_name = "COUNT")]
    pub(super) ranks_per_node: NonZeroUsize,
    /// Rayon threads of each rank, and cores for them
    #[arg(long, default_value = "2", value_name = "COUNT")]
    pub(super) threads: NonZeroUsize,
    /// How long it may take: 90m, 2h, or as SLURM has it (minutes, hours:minutes:seconds,
    /// days-hours)
    #[arg(short, long, default_value = "30m", value_parser = time::parse)]
    pub(super) time: Duration,
    /// What the job is called
    #[arg(short = 'J', long, default_value = "spmd", value_parser = name)]
    pub(super) name: String,
    /// Where the job waits (Kubernetes: a queue of Kueue)
    #[arg(short = 'p', long, visible_alias = "partition", value_name = "NAME", value_parser = word)]
    pub(super) queue: Option<String>,
    /// One task for each of these sizes, which it finds in place of {} in its arguments; 1-3 are
    /// three
    #[arg(long, value_name = "SIZES", value_parser = sizes)]
    array: Option<Sizes>,
    /// Tell the program so long before the end to stop (Kubernetes: when its pod is to go); one that
    /// keeps checkpoints ends with exit code 5 then, and the job goes on later
    #[arg(long, value_name = "TIME", value_parser = time::parse)]
    pub(super) stop_before: Option<Duration>,
    /// Write to this file [default: standard output]
    #[arg(short, long, value_name = "FILE")]
    pub(super) out: Option<PathBuf>,
    /// The program and its arguments; without, the script takes them (not for Kubernetes)
    #[arg(last = true, value_names = ["PROGRAM", "ARGS"], num_args = 0..)]
    pub(super) program: Vec<String>,
}

impl Common {
    pub(super) fn array(&self) -> &[String] {
        self.array.as_ref().map_or(&[], |sizes| &sizes.0)
    }

    pub(super) fn ranks(&self) -> usize {
        self.nodes.get().saturating_mul(self.ranks_per_node.get())
    }

    /// How long before its end the program is told, in seconds.
    pub(super) fn seconds_before(&self) -> Result<Option<u64>, String> {
        match self.stop_before {
            Some(before) if before >= self.time => Err(format!(
                "--stop-before is {} s, but the job has {} s only\n  help: a longer --time",
                before.as_secs(),
                self.time.as_secs()
            )),
            before => Ok(before.map(|before| before.as_secs())),
        }
    }
}

/// What batch systems on hosts are told.
#[derive(Args, Clone, Debug)]
pub(super) struct Site {
    /// Who pays
    #[arg(short = 'A', long, visible_alias = "bank", value_name = "NAME", value_parser = word)]
    pub(super) account: Option<String>,
    /// A module to load first; more than once for more modules
    #[arg(long = "module", value_name = "MODULE", value_parser = word)]
    pub(super) modules: Vec<String>,
}

#[derive(Args, Clone, Debug)]
pub(super) struct Slurm {
    #[command(flatten)]
    pub(super) common: Common,
    #[command(flatten)]
    pub(super) site: Site,
    /// What starts the ranks
    #[arg(long, value_enum, default_value = "srun")]
    pub(super) launcher: Launcher,
    /// Get over lost ranks and nodes inside the job, so many times at most (`spmd run --restarts`): the job
    /// outlives nodes (--no-kill), and `spmd` has to be in the PATH
    #[arg(long, value_name = "TIMES")]
    pub(super) restarts: Option<u32>,
}

/// What starts the ranks of a job under SLURM.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Launcher {
    /// SLURM's own
    Srun,
    /// The MPI library's
    Mpirun,
}

#[derive(Args, Clone, Debug)]
pub(super) struct Flux {
    #[command(flatten)]
    pub(super) common: Common,
    #[command(flatten)]
    pub(super) site: Site,
}

#[derive(Args, Clone, Debug)]
pub(super) struct Kubernetes {
    #[command(flatten)]
    pub(super) common: Common,
    /// The image that has the program, its MPI and sshd, as that of scripts/Dockerfile
    #[arg(long, default_value = "spmd", value_parser = word)]
    pub(super) image: String,
    /// The MPI library of the image
    #[arg(long, value_enum, default_value = "openmpi")]
    pub(super) mpi: Mpi,
    /// Memory of each worker
    #[arg(long, value_name = "QUANTITY", value_parser = word)]
    pub(super) memory: Option<String>,
    /// A volume claim that all pods share, for input, results and checkpoints: the program works in it
    #[arg(long, value_name = "NAME", value_parser = word)]
    pub(super) claim: Option<String>,
}

/// The MPI libraries that the operator knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Mpi {
    /// Open MPI
    #[value(name = "openmpi")]
    Open,
    /// MPICH
    Mpich,
    /// Intel MPI
    Intel,
}

/// A name that every system reads as it is.
fn word(text: &str) -> Result<String, String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./,:=+@".contains(c);
    if text.is_empty() || text.starts_with('-') || !text.chars().all(plain) {
        return Err("a name consists of letters, digits and - _ . / , : = + @".to_owned());
    }
    Ok(text.to_owned())
}

/// A name of a job, which is also part of that of a file.
fn name(text: &str) -> Result<String, String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    if !text.starts_with(|c: char| c.is_ascii_alphanumeric()) || !text.chars().all(plain) {
        return Err("a job's name begins with a letter or digit and has - _ . besides".to_owned());
    }
    Ok(text.to_owned())
}

/// The sizes of an array.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Sizes(Vec<String>);

/// More tasks than any site allows in one array are a slip of the pen.
const MOST_TASKS: usize = 10_000;

fn sizes(text: &str) -> Result<Sizes, String> {
    let mut sizes = Vec::new();
    for size in text.split(',') {
        let range = size.split_once('-').and_then(|(first, last)| {
            Some((first.parse::<usize>().ok()?, last.parse::<usize>().ok()?))
        });
        match range {
            Some((first, last)) if first > last => return Err(format!("{size} is an empty range")),
            Some((first, last)) if last - first >= MOST_TASKS => {
                return Err(format!("{size} is more than {MOST_TASKS} tasks"));
            }
            Some((first, last)) => sizes.extend((first..=last).map(|size| size.to_string())),
            None if size.is_empty() => return Err("a size is empty".to_owned()),
            None => sizes.push(size.to_owned()),
        }
    }
    Ok(Sizes(sizes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_words_and_ranges() {
        let read = |text| sizes(text).map(|sizes| sizes.0.join(" "));
        assert_eq!(read("1000,2000").unwrap(), "1000 2000");
        assert_eq!(read("0-3,8,a-b,-1").unwrap(), "0 1 2 3 8 a-b -1");
        for wrong in ["", "1,,2", "3-1", "0-10000"] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn names_are_plain() {
        for name in ["spmd", "openmpi/4.1.4-gcc", "ghcr.io/a/b@sha256:0", "4Gi"] {
            assert_eq!(word(name), Ok(name.to_owned()));
        }
        for wrong in ["", "-x", "two words", "a\nb", "a$b", "a'b", "a\"b", "a#b", "é"] {
            assert!(word(wrong).is_err(), "{wrong}");
        }
    }
}
