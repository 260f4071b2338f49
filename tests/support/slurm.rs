//! A real SLURM on hosts out of namespaces (`scripts/slurm.sh`): with Open MPI, as root, on Linux.

use std::{
    env, fs,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Stdio},
    thread,
    time::{Duration, Instant},
};

use super::{
    Ending, OPEN_MPI, example,
    hosts::{are_missing, cluster, is_missing, script},
    program,
};

/// Nothing of these tests needs as long.
pub(crate) const LIMIT: Duration = Duration::from_secs(240);

/// A SLURM, which ends with this process.
pub(crate) struct Slurm {
    /// Where it is noted how its hosts are reached.
    pub(crate) state: PathBuf,
    /// As long as its standard input is open.
    _hosts: Child,
}

/// Whether there is no SLURM, which is said.
pub(crate) fn is_not_here() -> bool {
    if !*OPEN_MPI {
        println!("skipped: SLURM is tried with Open MPI");
        return true;
    }
    let there = |name: &str| {
        let path = env::var("PATH").unwrap_or_default() + ":/usr/sbin";
        env::split_paths(&path).any(|directory| directory.join(name).exists())
    };
    are_missing()
        || (!["munged", "slurmctld", "slurmd", "srun"].iter().all(|name| there(name))
            && is_missing("slurm", "SLURM is not installed (scripts/setup.sh --tests)"))
}

impl Slurm {
    /// On so many nodes.
    pub(crate) fn up(nodes: usize) -> Self {
        let name = format!("slurm-{}", std::process::id());
        let state = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        let line = "\"$SLURM_SCRIPT\" up >&2 && echo up && exec cat";
        let mut command = cluster();
        command.args(["with", &nodes.to_string(), "sh", "-c", line]);
        command.env("SLURM_SCRIPT", script("slurm.sh")).env("HOSTS_STATE", &state);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut hosts = command.spawn().expect("bash is there");
        let mut said = String::new();
        let mut out = BufReader::new(hosts.stdout.take().expect("it is a pipe"));
        out.read_line(&mut said).expect("it can be read");
        assert_eq!(said, "up\n", "SLURM does not come up");
        Self { state, _hosts: hosts }
    }

    /// Runs a command on the login host, in a directory.
    pub(crate) fn login(&self, directory: &Path, words: &[&str]) -> Ending {
        let spmd = Path::new(env!("CARGO_BIN_EXE_spmd")).parent().expect("it is in a directory");
        let path = format!("{}:{}", spmd.display(), env::var("PATH").unwrap_or_default());
        let mut command = cluster();
        command.env("HOSTS_STATE", &self.state).current_dir(directory);
        command.env("HEAT", example("heat2d")).env("PATH", path).env_remove("XDG_RUNTIME_DIR");
        command.args(["exec", "login"]).args(words);
        super::run(&mut command, LIMIT)
    }

    /// What a command says that must succeed.
    pub(crate) fn ok(&self, words: &[&str]) -> String {
        self.login(Path::new("/"), words).success().stdout
    }

    /// What `scripts/NAME` does here.
    pub(crate) fn script(&self, name: &str, words: &[&str]) {
        let mut command = if name == "cluster.sh" { cluster() } else { program(script(name)) };
        command.env("HOSTS_STATE", &self.state).args(words);
        super::run(&mut command, LIMIT).success();
    }

    /// Submits a job in a directory of its own, and awaits its end.
    pub(crate) fn job(&self, directory: &Path, options: &[&str], job: &[&str]) -> Ending {
        let script = script("job.sbatch");
        let mut words = vec!["sbatch", "--wait", "--cpus-per-task=1", "--time=5"];
        words.extend(options);
        words.push(script.to_str().unwrap());
        self.login(directory, &[&words, job].concat())
    }
}

/// A directory that all nodes share.
pub(crate) fn shared() -> tempfile::TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

/// What the jobs of a directory have written.
pub(crate) fn logs(directory: &Path) -> Vec<String> {
    let mut files: Vec<PathBuf> =
        fs::read_dir(directory).unwrap().map(|it| it.unwrap().path()).collect();
    files.retain(|it| it.extension().is_some_and(|it| it == "log"));
    files.sort();
    files.iter().map(|it| fs::read_to_string(it).unwrap()).collect()
}

#[track_caller]
pub(crate) fn await_that(what: &str, it: impl Fn() -> bool) {
    let started = Instant::now();
    while !it() {
        assert!(started.elapsed() < LIMIT, "{what} does not come about");
        thread::sleep(Duration::from_millis(200));
    }
}
