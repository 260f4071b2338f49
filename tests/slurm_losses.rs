//! Nodes that a real SLURM loses, drains and gives to a second job, while a supervised run or a farm is at
//! work there: the result is always that of an undisturbed run. On hosts out of namespaces, with
//! Open MPI, as root, on Linux.
#![cfg(feature = "mpi")]

mod support;

use std::{
    fs,
    path::{Path, PathBuf},
    sync::LazyLock,
};

use support::{
    example,
    hosts::{checksum, checksum_of_one},
    program,
    slurm::{LIMIT, Slurm, await_that, is_not_here, shared},
};

/// For all tests, each of which has nodes of its own. Cables are slow, so that there is time to do
/// something to what runs.
static SLURM: LazyLock<Slurm> = LazyLock::new(|| {
    let slurm = Slurm::up(9);
    slurm.script("cluster.sh", &["slow", "all", "3"]);
    slurm
});

const FIELD: [&str; 4] = ["--size", "60,40", "--steps", "1200"];

/// A batch job, in a directory that all nodes share.
struct Job<'a> {
    directory: &'a Path,
    number: String,
}

impl<'a> Job<'a> {
    /// Submits a script, with these words behind it.
    fn submit(directory: &'a Path, nodes: &str, script: &Path, words: &[&str]) -> Self {
        let nodes = format!("--nodelist={nodes}");
        // Ranks of few CPUs give way while they wait.
        let export = "--export=ALL,OMPI_MCA_mpi_yield_when_idle=1";
        let sbatch = ["sbatch", "--parsable", "--output=%j.log", export, &nodes];
        let words = [&sbatch[..], &[script.to_str().unwrap()], words].concat();
        let number = SLURM.login(directory, &words).success().stdout.trim().to_owned();
        Self { directory, number }
    }

    /// The same, of a line of shell.
    fn line(directory: &'a Path, nodes: &str, line: &str) -> Self {
        let script = directory.join(format!("{}.sbatch", nodes.replace(',', "-")));
        let options = "#SBATCH --ntasks-per-node=2 --time=5";
        fs::write(&script, format!("#!/bin/bash\n{options}\n{line}\n")).unwrap();
        Self::submit(directory, nodes, &script, &[])
    }

    fn log(&self) -> String {
        let file = self.directory.join(format!("{}.log", self.number));
        fs::read_to_string(file).unwrap_or_default()
    }

    /// Waits until it says so.
    #[track_caller]
    fn tells(&self, what: &str) {
        await_that(what, || {
            let log = self.log();
            let failed = log.lines().any(|line| line.starts_with("error: "));
            assert!(!failed || log.contains(what), "no `{what}` in {log}");
            log.contains(what)
        });
    }

    /// Its exit code and what it has said, once it is over.
    #[track_caller]
    fn ends(&self) -> (String, String) {
        let end = || SLURM.ok(&["scontrol", "show", "job", "-o", &self.number]);
        await_that("the end of the job", || !end().contains("JobState=RUNNING"));
        let said = end();
        let code = said.split(' ').find_map(|word| word.strip_prefix("ExitCode="));
        (code.unwrap_or("?").to_owned(), self.log())
    }
}

/// A job of heat2d that gets over faults, once it has kept its state.
fn heat<'a>(directory: &'a Path, nodes: &str, count: &str, launcher: &str) -> Job<'a> {
    let script = directory.join("heat.sbatch");
    let mut write = program(env!("CARGO_BIN_EXE_spmd"));
    write.args(["job", "slurm", "--nodes", count, "--ranks-per-node", "2", "--threads", "1"]);
    write.args(["--time", "5m", "--restarts", "3", "--launcher", launcher, "--out"]);
    write.arg(&script).arg("--").arg(example("heat2d")).args(FIELD);
    write.args(["--checkpoint", "kept", "--every", "10"]);
    support::run(&mut write, LIMIT).success();
    let job = Job::submit(directory, nodes, &script, &[]);
    let number = |path: PathBuf| path.file_name()?.to_str()?.parse::<u64>().ok();
    await_that("a second checkpoint", || {
        let kept = fs::read_dir(directory.join("kept")).into_iter().flatten().flatten();
        kept.filter_map(|entry| number(entry.path())).any(|number| number >= 2)
    });
    job
}

#[test]
fn a_job_goes_on_without_a_lost_node_and_leaves_a_drained_one() {
    if is_not_here() {
        return;
    }
    let directory = shared();
    let job = heat(directory.path(), "node[1-3]", "3", "srun");
    SLURM.script("cluster.sh", &["crash", "node3"]);
    job.tells("restart 1 of 3: node3 is lost; 4 ranks on node[1-2] go on from ");
    SLURM.ok(&["scontrol", "update", "nodename=node2", "state=drain", "reason=maintenance"]);
    job.tells("SLURM drains node2 (maintenance): it stops at its next step and goes on with 2 ranks on node1");
    job.tells("planned stop; 2 ranks on node1 go on from step ");
    let (code, log) = job.ends();
    assert_eq!(code, "0:0", "{log}");
    assert_eq!(checksum(&log), checksum_of_one(&FIELD), "{log}");
}

#[test]
fn a_job_grows_onto_the_node_of_a_second_one_and_goes_on_when_that_is_cancelled() {
    if is_not_here() {
        return;
    }
    let directory = shared();
    let first = heat(directory.path(), "node[4-5]", "2", "mpirun");
    let number = &first.number;
    let line = format!(
        "for host in $(scontrol show hostnames); do spmd add --job {number} $host:2; done
        spmd status --job {number}; exec sleep 300"
    );
    let second = Job::line(directory.path(), "node6", &line);
    first.tells("planned stop; 6 ranks on node[4-6] go on from step ");
    let said = second.log();
    assert!(said.contains("noted; ") && said.contains("run         heat2d-"), "{said}");
    SLURM.ok(&["scancel", &second.number]);
    first.tells("restart 1 of 3: node6 is lost; 4 ranks on node[4-5] go on from ");
    // It has worked long enough; the rest is done by threads.
    SLURM.ok(&["scancel", "--batch", "--signal=TERM", number]);
    let (code, log) = first.ends();
    assert_eq!(code, "5:0", "{log}");
    let mut rest = program(example("heat2d"));
    rest.args(["--engine", "local", "-n", "2"]).args(FIELD).args(["--checkpoint", "kept"]);
    let ending = support::run(rest.current_dir(directory.path()), LIMIT).success();
    assert_eq!(checksum(&ending.stdout), checksum_of_one(&FIELD), "{ending:#?}");
}

#[cfg(feature = "elastic")]
#[test]
fn a_farm_has_workers_of_other_jobs_that_are_cancelled_and_lost() {
    use std::{thread, time::Duration};

    if is_not_here() {
        return;
    }
    let directory = shared();
    let (farm, spmd) = (example("elastic_farm"), env!("CARGO_BIN_EXE_spmd"));
    let (farm, file) = (farm.display(), "--token-file token");
    // Its own worker comes when the others are gone.
    let line = format!(
        "{farm} --size 14 --depth 4 --serve 10.77.0.7:4000 {file} --lease 5 & farm=$!
        until [ -e go ]; do sleep 0.1; done
        srun --overlap -n1 {spmd} join 10.77.0.7:4000 {file} --slots 1 {farm}
        wait $farm"
    );
    let first = Job::line(directory.path(), "node7", &line);
    first.tells("workers join: 10.77.0.7:4000");
    let join = format!(
        "exec srun --mpi=pmix {spmd} join 10.77.0.7:4000 {file} --slots 1 {farm} --engine local"
    );
    let worked = |log: &str| -> Vec<u64> {
        let told = log.lines().filter_map(|line| line.strip_prefix("this worker has done "));
        told.map(|text| text.trim_end_matches(" tasks").parse().unwrap()).collect()
    };
    let second = Job::line(directory.path(), "node8", &join);
    let third = Job::line(directory.path(), "node9", &join);
    for job in [&second, &third] {
        let state = ["squeue", "-h", "-t", "R", "-j", &job.number, "-o", "%i"];
        await_that("the job of workers", || !SLURM.ok(&state).is_empty());
    }
    // They do many tasks a second.
    thread::sleep(Duration::from_secs(3));
    SLURM.script("cluster.sh", &["crash", "node9"]);
    SLURM.ok(&["scancel", &second.number]);
    let (_, log) = second.ends();
    let done = worked(&log);
    assert!(done.len() == 2 && done.iter().all(|done| *done > 0), "two workers leave: {log}");
    fs::write(directory.path().join("go"), "").unwrap();
    let (code, log) = first.ends();
    assert_eq!(code, "0:0", "{log}");
    assert!(worked(&log).iter().all(|done| *done > 0), "{log}");
    assert!(log.contains("verification: passed (365596 ways as known)"), "{log}");
    assert!(log.contains(" 5 workers, 2 lost; "), "{log}");
}
