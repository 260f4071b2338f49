//! The engine mpi under a real launcher: `SPMD_MPIRUN` names it, else it is `mpirun`.

#![cfg(feature = "mpi")]

mod support;

use std::{
    env,
    path::Path,
    process::Command,
    sync::{LazyLock, Mutex, MutexGuard, PoisonError},
};

use support::{Ended, example, run, spmd};

/// One job at a time: ranks of several would only wait for each other's CPUs.
static TURN: Mutex<()> = Mutex::new(());

fn turn() -> MutexGuard<'static, ()> {
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

fn launcher() -> String {
    env::var("SPMD_MPIRUN").unwrap_or_else(|_| "mpirun".to_owned())
}

/// Whether the launcher is Open MPI's.
static OPEN_MPI: LazyLock<bool> = LazyLock::new(|| {
    let said = Command::new(launcher()).arg("--version").output();
    let said = said.unwrap_or_else(|error| panic!("{} does not start: {error}", launcher()));
    String::from_utf8_lossy(&said.stdout).contains("Open MPI")
});

/// The program on so many ranks, more than there are CPUs if need be.
fn mpirun(ranks: usize, program: &Path) -> Command {
    let mut command = Command::new(launcher());
    command.args(["-n", &ranks.to_string()]);
    if *OPEN_MPI {
        command.args(["--oversubscribe", "--bind-to", "none", "--mca", "mpi_yield_when_idle", "1"]);
        command.env("OMPI_ALLOW_RUN_AS_ROOT", "1").env("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1");
    }
    command.arg(program);
    command
}

fn fault(ranks: usize, arguments: &[&str]) -> Ended {
    let _turn = turn();
    run(mpirun(ranks, &example("faults")).args(arguments))
}

#[test]
fn the_conformance_suite_passes_on_any_number_of_ranks() {
    for ranks in [1, 2, 3, 4, 8] {
        let _turn = turn();
        let out = run(mpirun(ranks, &spmd()).arg("selftest")).ok();
        let last = out.lines().last().unwrap_or_default();
        assert!(last.ends_with(" passed, 0 failed"), "{ranks} ranks: {out}");
    }
}

#[test]
fn info_tells_engine_library_and_ranks() {
    let _turn = turn();
    let out = run(mpirun(3, &spmd()).arg("info")).ok();
    let library = if *OPEN_MPI { "Open MPI" } else { "MPICH" };
    assert!(out.contains("mpi") && out.contains(library), "{out}");
    assert!(out.contains("0-2") || out.contains("\n2 "), "all ranks are in the table: {out}");
}

#[test]
fn the_job_gives_the_same_bits_on_any_number_of_ranks_and_on_local() {
    let heat = example("heat2d");
    let small = ["--size", "61,47", "--steps", "50"];
    let checksum = |ended: Ended| {
        assert_eq!(ended.code, Some(0), "{ended:#?}");
        assert!(ended.out.contains("verification: passed"), "{}", ended.out);
        ended.value("checksum")
    };
    let _turn = turn();
    let local = run(Command::new(&heat).args(small).args(["--engine", "local", "-n", "5"]));
    let expected = checksum(local);
    for ranks in [1, 2, 3, 4, 8] {
        assert_eq!(checksum(run(mpirun(ranks, &heat).args(small))), expected, "{ranks} ranks");
    }
    let shared = run(mpirun(4, &heat).args(small).args(["--share-cpu", "--threads", "2"]));
    assert_eq!(checksum(shared), expected);
}

#[test]
fn a_failure_on_one_rank_ends_all_with_its_cause() {
    for (name, code) in [
        ("error", 1),
        ("panic", 1),
        ("panic-in-rayon", 1),
        ("wrong-type", 1),
        ("wrong-length", 1),
        ("invalid-rank", 1),
        ("usage", 2),
        ("verification", 3),
        ("error-while-others-recv", 1),
        ("error-while-others-barrier", 1),
        ("error-while-others-compute", 1),
    ] {
        let ended = fault(4, &[name]);
        assert_eq!(ended.code, Some(code), "{name}: {ended:#?}");
        assert_eq!(ended.causes(), 1, "{name}: {ended:#?}");
        assert!(ended.err.contains("error: rank "), "{name}: {}", ended.err);
        assert!(ended.err.contains("faults.rs:"), "{name} names its place: {}", ended.err);
    }
}

#[test]
fn a_killed_rank_ends_all() {
    let ended = fault(4, &["killed"]);
    assert!(ended.code.is_some_and(|code| code != 0), "{ended:#?}");
}

#[test]
fn a_deadlock_ends_at_the_timeout_and_says_what_ranks_wait_for() {
    let ended = fault(3, &["deadlock", "--timeout", "1"]);
    assert_eq!(ended.code, Some(4), "{ended:#?}");
    assert!(ended.err.contains("longer than --timeout, in recv from rank"), "{}", ended.err);
    assert!(ended.err.contains("faults.rs:"), "{}", ended.err);
}

#[test]
fn messages_that_nobody_receives_do_not_keep_the_job_from_ending() {
    fault(3, &["message-lost"]).ok();
}

#[test]
fn usage_is_told_once() {
    let ended = fault(4, &["--no-such-option"]);
    assert_eq!(ended.code, Some(2), "{ended:#?}");
    assert_eq!(ended.err.matches("--no-such-option").count(), 1, "{}", ended.err);
    let ended = fault(2, &["error", "--ranks", "5"]);
    assert_eq!(ended.code, Some(2), "{ended:#?}");
    assert!(ended.err.contains("--ranks 5"), "{}", ended.err);
}

#[test]
fn ranks_share_one_cpu_on_demand() {
    let _turn = turn();
    let out = run(mpirun(4, &spmd()).args(["info", "--share-cpu"])).ok();
    assert!(out.contains("one CPU") || out.contains("1 thread"), "{out}");
}
