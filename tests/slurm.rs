//! `scripts/job.sbatch` under a real SLURM, which `scripts/slurm.sh` starts on hosts out of
//! namespaces: with Open MPI, as root, on Linux.
#![cfg(feature = "mpi")]

mod support;

use std::{fs, process::Command, sync::LazyLock, thread};

use support::{
    example,
    hosts::{checksum, checksum_of_one, script},
    slurm::{LIMIT, Slurm, await_that, is_not_here, logs, shared},
};

/// Nodes whose time is limited, and whose cables are slow: not for other jobs.
const LIMITED: &str = "node5,node6";

/// For all tests.
static SLURM: LazyLock<Slurm> = LazyLock::new(|| Slurm::up(6));

#[test]
fn a_job_that_outlives_its_time_limit_is_stopped_requeued_and_resumed() {
    if is_not_here() {
        return;
    }
    let field = ["--size", "64,48", "--steps", "1200"];
    let directory = shared();
    SLURM.script("cluster.sh", &["slow", "node6", "10"]);
    // SLURM looks every half minute whose time is nearly up.
    let limit = ["--time=1", "--signal=B:USR1@55", "--nodes=2", "--ntasks-per-node=1"];
    let nodes = format!("--nodelist={LIMITED}");
    let heat = example("heat2d");
    let job = [&[heat.to_str().unwrap()], &field[..], &["--checkpoint", "kept"]].concat();
    let ending = SLURM.job(directory.path(), &[&limit[..], &[&nodes]].concat(), &job);
    let [log] = &logs(directory.path())[..] else { panic!("one log: {ending:#?}") };
    assert_eq!(ending.code, Some(0), "{log}");
    for part in [
        "start 0: srun ",
        "the time is nearly up, stopping the program",
        "stopped (SIGUSR1), to be continued from kept/0",
        "to be continued\n",
        "start 1: srun ",
        "continued: from kept/0",
    ] {
        assert!(log.contains(part), "no `{part}` in {log}");
    }
    assert_eq!(checksum(log), checksum_of_one(&field));
}

#[test]
fn four_nodes_compute_what_one_rank_does() {
    if is_not_here() {
        return;
    }
    let field = ["--size", "96,80", "--steps", "40"];
    let expected = checksum_of_one(&field);
    for launcher in ["srun", "mpirun"] {
        let directory = shared();
        let exported = format!("--export=ALL,LAUNCHER={launcher}");
        let exclude = format!("--exclude={LIMITED}");
        let options = [&exported, "--nodes=4", "--ntasks-per-node=2", &exclude];
        let heat = example("heat2d");
        let job = [&[heat.to_str().unwrap()], &field[..]].concat();
        let ending = SLURM.job(directory.path(), &options, &job);
        let log = logs(directory.path()).concat();
        assert_eq!(ending.code, Some(0), "{log}");
        assert!(log.contains(&format!("start 0: {launcher} ")), "{log}");
        assert!(log.contains("ranks x threads: 8 x 1"), "{log}");
        assert_eq!(checksum(&log), expected);
    }
}

#[test]
fn spmd_run_knows_the_allocation() {
    if is_not_here() {
        return;
    }
    let field = ["--size", "96,80", "--steps", "40"];
    let expected = checksum_of_one(&field);
    let exclude = format!("--exclude={LIMITED}");
    let heat = example("heat2d");
    for launcher in ["auto", "mpirun"] {
        let directory = shared();
        let salloc = ["salloc", "--nodes=2", "--ntasks-per-node=2", "--time=5", &exclude];
        let run = [env!("CARGO_BIN_EXE_spmd"), "run", "--launcher", launcher];
        let words = [&salloc[..], &run, &[heat.to_str().unwrap()], &field].concat();
        let ending = SLURM.login(directory.path(), &words).success();
        assert!(ending.stdout.contains("ranks x threads: 4 x 1"), "{launcher}: {ending:#?}");
        assert_eq!(checksum(&ending.stdout), expected, "{launcher}");
        let left = fs::read_dir(directory.path()).unwrap().count();
        assert_eq!(left, 0, "the record is taken away");
    }
}

#[test]
fn tasks_of_an_array_have_sizes_of_their_own() {
    if is_not_here() {
        return;
    }
    let directory = shared();
    let exclude = format!("--exclude={LIMITED}");
    let options = ["--array=1-3", "--nodes=2", "--ntasks-per-node=1", &exclude];
    let task = "exec $HEAT --size $((SLURM_ARRAY_TASK_ID * 16)),20 --steps 10";
    let ending = SLURM.job(directory.path(), &options, &["sh", "-c", task]);
    let logs = logs(directory.path());
    assert_eq!(ending.code, Some(0), "{logs:#?}");
    let mut found: Vec<&str> = logs.iter().map(|log| checksum(log)).collect();
    let sizes = ["16,20", "32,20", "48,20"];
    let mut expected = sizes.map(|size| checksum_of_one(&["--size", size, "--steps", "10"]));
    found.sort_unstable();
    expected.sort_unstable();
    assert_eq!(found, expected);
}

#[test]
fn a_drained_node_ends_its_job_well_and_gets_no_other() {
    if is_not_here() {
        return;
    }
    let field = ["--size", "32,32", "--steps", "10"];
    let directory = shared();
    let state = || SLURM.ok(&["sinfo", "-h", "-n", "node3", "-o", "%T"]).trim().to_owned();
    let drain = |state: &str| {
        SLURM.ok(&["scontrol", "update", "nodename=node3", state, "reason=maintenance"]);
    };
    let heat = format!("exec $HEAT {}", field.join(" "));
    thread::scope(|scope| {
        // It is at work until it is told.
        let task = format!("until [ -e go ]; do sleep 0.1; done; {heat}");
        let options =
            ["--job-name=drained", "--nodes=2", "--ntasks-per-node=1", "--nodelist=node2,node3"];
        let job = scope.spawn({
            let directory = directory.path();
            move || SLURM.job(directory, &options, &["sh", "-c", &task])
        });
        let running = ["squeue", "-h", "-n", "drained", "-t", "R", "-o", "%i"];
        await_that("the job", || !SLURM.ok(&running).is_empty());
        drain("state=drain");
        assert_eq!(state(), "draining");

        let other = shared();
        let exclude = format!("--exclude={LIMITED}");
        let options = ["--nodes=3", "--ntasks-per-node=1", &exclude];
        let ending = SLURM.job(other.path(), &options, &["sh", "-c", "hostname"]);
        let log = logs(other.path()).concat();
        assert_eq!(ending.code, Some(0), "{log}");
        assert_eq!(log.lines().filter(|line| line.starts_with("node")).count(), 3, "{log}");
        assert!(!log.contains("\nnode3\n"), "{log}");

        fs::write(directory.path().join("go"), "").unwrap();
        let ending = job.join().unwrap();
        let log = logs(directory.path()).concat();
        assert_eq!(ending.code, Some(0), "{log}");
        assert_eq!(checksum(&log), checksum_of_one(&field));
    });
    await_that("the end of its work", || state() == "drained");
    drain("state=resume");
    await_that("its return", || ["idle", "mixed", "allocated"].contains(&&*state()));
}

#[test]
fn a_node_is_added_and_used() {
    if is_not_here() {
        return;
    }
    SLURM.script("slurm.sh", &["add", "node7"]);
    let field = ["--size", "32,32", "--steps", "10"];
    let directory = shared();
    let options = ["--nodes=2", "--ntasks-per-node=1", "--nodelist=node1,node7"];
    let heat = example("heat2d");
    let job = [&[heat.to_str().unwrap()], &field[..]].concat();
    let ending = SLURM.job(directory.path(), &options, &job);
    let log = logs(directory.path()).concat();
    assert_eq!(ending.code, Some(0), "{log}");
    assert!(log.contains("on node[1,7], start 0"), "{log}");
    assert_eq!(checksum(&log), checksum_of_one(&field));
}

#[test]
fn a_shell_on_a_node_is_interactive() {
    if is_not_here() {
        return;
    }
    // `script` is a terminal, at which somebody types.
    let line = "printf 'tty\\nhostname\\nexit 3\\n' | script -qec \"$CLUSTER exec login srun -w node4 --pty sh\" /dev/null";
    let mut command = Command::new("sh");
    command.args(["-c", line]).env("CLUSTER", script("cluster.sh"));
    command.env("HOSTS_STATE", &SLURM.state);
    let ending = support::run(&mut command, LIMIT);
    assert!(ending.stdout.contains("/dev/pts/"), "{ending:#?}");
    assert!(ending.stdout.contains("node4\r\n"), "{ending:#?}");
    assert_eq!(ending.code, Some(3), "{ending:#?}");
}
