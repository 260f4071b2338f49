//! How a program is started on a host: by ssh, or in a job of SLURM by srun.

use std::{
    env,
    os::unix::process::CommandExt,
    path::Path,
    process::{Command, ExitCode, Stdio},
};

use clap::Args;

use super::say;
use crate::launcher::{Kind, Launcher, quoted};

/// How hosts are reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// By ssh, or by what is named in its place: `PROGRAM HOST COMMAND`.
    Ssh(Option<String>),
    /// By srun, in the job of this user that has the host.
    Srun {
        /// In this job alone.
        own_job: bool,
    },
}

impl Way {
    /// In a job of SLURM, for ranks that this starts.
    ///
    /// # Errors
    /// If it cannot start them on some of the nodes, in words.
    pub(super) fn in_job(launcher: &Launcher) -> Result<Self, String> {
        match launcher.kind {
            Kind::Srun => Ok(Self::Srun { own_job: true }),
            Kind::OpenMpi(_) => Ok(Self::Srun { own_job: false }),
            Kind::Hydra => Err(format!(
                "--restarts in a job of SLURM: {} cannot go on without a node\n  help: --launcher srun",
                launcher.program
            )),
        }
    }

    /// What has the shell of a host do a line.
    pub(super) fn command(&self, own: &Path, host: &str, line: &str) -> Command {
        match self {
            Self::Ssh(program) => {
                let mut command = Command::new(program.as_deref().unwrap_or("ssh"));
                if program.is_none() {
                    command.args(["-o", "BatchMode=yes", "-o", "ConnectTimeout=10"]);
                }
                command.args([host, line]);
                command
            }
            Self::Srun { own_job } => {
                let mut command = Command::new(own);
                command.arg("on-node").args(own_job.then_some("--own-job")).args([host, line]);
                // It would hear the signals of a terminal, which are for the one that watches.
                command.process_group(0);
                command
            }
        }
    }

    /// What a launcher starts its daemons with, where that is not its own way.
    pub(super) fn agent(&self) -> Option<String> {
        match self {
            Self::Ssh(program) => program.clone(),
            Self::Srun { .. } => {
                let own = env::current_exe().unwrap_or_else(|_| "spmd".into());
                Some(format!("{} on-node", own.display()))
            }
        }
    }

    pub(super) fn is_srun(&self) -> bool {
        matches!(self, Self::Srun { .. })
    }
}

/// A line for the shell of a node of SLURM.
#[derive(Args)]
pub(crate) struct OnNode {
    /// In this job alone
    #[arg(long)]
    own_job: bool,
    host: String,
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    line: Vec<String>,
}

/// Becomes the srun that does a line on a node, beside whatever runs there.
pub(crate) fn become_srun(OnNode { own_job, host, line }: &OnNode) -> ExitCode {
    const NOT_STARTED: u8 = 1;
    let own = env::var("SLURM_JOB_ID").ok();
    let why = match job_of(host, own.as_deref(), *own_job) {
        Ok(job) => {
            let mut srun = srun(&job, host);
            format!("srun: {}", srun.args(["sh", "-c", &line.join(" ")]).exec())
        }
        Err(why) => why,
    };
    say(&why);
    NOT_STARTED.into()
}

/// The job of this user that has a node: the one that this process is in, else the newest.
fn job_of(host: &str, own: Option<&str>, own_job: bool) -> Result<String, String> {
    let words = ["--noheader", "--me", "--states=RUNNING", "--format=%A", "--nodelist", host];
    let jobs = ask("squeue", &words)?;
    let jobs: Vec<&str> = jobs.lines().map(str::trim).filter(|job| !job.is_empty()).collect();
    if let Some(own) = own.filter(|own| jobs.contains(own)) {
        return Ok(own.to_owned());
    }
    let newest = jobs.into_iter().max_by_key(|job| job.parse::<u64>().unwrap_or(0));
    match newest {
        Some(job) if own_job => Err(format!(
            "{host} is in job {job}, and srun starts ranks in one job only: start the run with --launcher mpirun"
        )),
        Some(job) => Ok(job.to_owned()),
        None => Err(format!("{host} is in no running job of this user")),
    }
}

/// Starts one process on a node of a job. It takes no CPUs away from others, and may use all that the job
/// has there.
fn srun(job: &str, host: &str) -> Command {
    let mut command = Command::new("srun");
    // What batch systems tell srun of the job is for its ranks.
    for (name, _) in env::vars_os() {
        let name = name.to_string_lossy();
        if name.starts_with("SRUN_") || (name.starts_with("SLURM_") && name != "SLURM_CONF") {
            command.env_remove(&*name);
        }
    }
    command.args(["--jobid", job, "--overlap", "--nodes=1", "--ntasks=1", "--nodelist", host]);
    command.args(["--cpu-bind=none", "--mpi=none", "--quiet", "--unbuffered"]);
    command
}

/// What a command of SLURM prints.
///
/// # Errors
/// What it complains of, in words.
pub(super) fn ask(program: &str, words: &[&str]) -> Result<String, String> {
    let asked = Command::new(program).args(words).stdin(Stdio::null()).output();
    let output = asked.map_err(|error| format!("{program}: {error}"))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let complaint = String::from_utf8_lossy(&output.stderr);
    let last = complaint.lines().rfind(|line| !line.trim().is_empty());
    Err(last.map_or_else(|| format!("{program}: {}", output.status), str::to_owned))
}

/// Says this command, with these words, in another job of this user: where its batch script runs, and with it what
/// watches a run there. It becomes that, and so returns only what went wrong, in words.
pub(super) fn become_said_in(job: &str, words: &[&str]) -> String {
    let asked = ask("squeue", &["--noheader", "--jobs", job, "--states=RUNNING", "--format=%B %N"]);
    let asked = match asked {
        Ok(asked) => asked,
        Err(why) => return format!("job {job}: {why}"),
    };
    let Some((host, nodes)) = asked.lines().next().and_then(|line| line.trim().split_once(' '))
    else {
        return format!("job {job} does not run");
    };
    let nodes = crate::hosts::parse_list(nodes).unwrap_or_default();
    if !nodes.iter().any(|node| node.name == host) {
        return format!(
            "job {job} is no batch job: what watches its run is on {host}\n  help: say it there"
        );
    }
    let own = env::current_exe().unwrap_or_else(|_| "spmd".into());
    let own = own.to_string_lossy();
    let line: Vec<String> =
        std::iter::once(&*own).chain(words.iter().copied()).map(quoted).collect();
    format!("srun: {}", srun(job, host).args(["sh", "-c", &line.join(" ")]).exec())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(command: &Command) -> String {
        let words = std::iter::once(command.get_program()).chain(command.get_args());
        words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn each_way_has_its_own_words() {
        let own = Path::new("/bin/spmd");
        let of = |way: Way| words(&way.command(own, "n1", "ls -l"));
        assert_eq!(of(Way::Ssh(None)), "ssh -o BatchMode=yes -o ConnectTimeout=10 n1 ls -l");
        assert_eq!(of(Way::Ssh(Some("enter".to_owned()))), "enter n1 ls -l");
        assert_eq!(of(Way::Srun { own_job: false }), "/bin/spmd on-node n1 ls -l");
        assert_eq!(of(Way::Srun { own_job: true }), "/bin/spmd on-node --own-job n1 ls -l");
        assert!(words(&srun("7", "n1")).starts_with("srun --jobid 7 --overlap --nodes=1 "));
    }
}
