//! The engine mpi under a real launcher: `SPMD_MPIRUN` names it, else it is `mpirun`.

#![cfg(feature = "mpi")]

mod support;

use std::{
    ffi::OsStr,
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::Mutex,
    thread,
    time::{Duration, Instant},
};

use spmd::record::Record;
use support::{Ending, OPEN_MPI, alone, beside_others, example, mpirun, program, side_by_side};

/// No job of these tests needs as long: one that does, hangs.
const LIMIT: Duration = Duration::from_secs(300);

fn run(command: &mut Command) -> Ending {
    let _seat = beside_others();
    support::run(command, LIMIT)
}

fn run_alone(command: &mut Command) -> Ending {
    let _seats = alone();
    support::run(command, LIMIT)
}

fn spmd() -> PathBuf {
    PathBuf::from(env!("CARGO_BIN_EXE_spmd"))
}

/// Every case of the conformance suite holds.
fn selftest(ranks: usize, arguments: &[&str]) {
    let out = run_alone(mpirun(ranks, &spmd()).arg("selftest").args(arguments)).success().stdout;
    let last = out.lines().last().unwrap_or_default();
    assert!(last.ends_with(" passed, 0 failed"), "{ranks} ranks: {out}");
}

fn fault(ranks: usize, arguments: &[&str]) -> Ending {
    run(mpirun(ranks, &example("faults")).args(arguments))
}

#[test]
fn the_conformance_suite_passes_on_any_number_of_ranks() {
    // Five: three rounds of a tree that is not full. Its work grows with the square.
    for ranks in [1, 2, 3, 5] {
        selftest(ranks, &[]);
    }
}

#[test]
fn the_conformance_suite_passes_on_bare_messages() {
    for ranks in [2, 4] {
        selftest(ranks, &["--checks", "arguments"]);
    }
}

#[test]
fn the_conformance_suite_passes_where_all_threads_may_call_mpi() {
    selftest(2, &["--thread-multiple", "--checks", "arguments"]);
}

#[test]
fn info_tells_engine_library_and_ranks() {
    let out = run(mpirun(3, &spmd()).arg("info")).success().stdout;
    let library = if *OPEN_MPI { "Open MPI" } else { "MPICH" };
    assert!(out.contains("mpi") && out.contains(library), "{out}");
    assert!(out.contains("3 on 1 host"), "{out}");
    // What is known of the library does not hang on what is in PATH now.
    let fact = |name: &str| {
        let lines: Vec<_> = out.lines().filter_map(|line| line.strip_prefix(name)).collect();
        assert_eq!(lines.len(), 1, "{name}: {out}");
        lines[0].trim()
    };
    let file = Path::new(fact("library file"));
    assert!(file.is_file() && file.to_str().unwrap().contains("libmpi"), "{out}");
    let transport = fact("transport");
    let expected = if *OPEN_MPI { "ob1 (" } else { "ch" };
    assert!(transport.starts_with(expected), "{out}");
    // Open MPI says which PMIx its launcher has; 5.0 says its own version as well.
    assert_eq!(fact("launcher").contains("PMIx "), *OPEN_MPI);
}

#[test]
fn info_tells_the_ways_that_are_open_and_the_batch_job() {
    if !*OPEN_MPI {
        return;
    }
    let mut command = mpirun(2, &spmd());
    command.env("OMPI_MCA_pml", "ob1").env("OMPI_MCA_btl", "self,tcp").env("PBS_JOBID", "8.server");
    let out = run(command.arg("info")).success().stdout;
    assert!(out.lines().any(|line| line == "transport     ob1 (tcp)"), "{out}");
    assert!(out.lines().any(|line| line == "batch job     PBS 8.server"), "{out}");
}

#[test]
fn a_run_leaves_the_parts_of_all_ranks() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("record.json");
    let small = ["--size", "61,47", "--steps", "50", "--record", file.to_str().unwrap()];
    run(mpirun(3, &example("heat2d")).args(small)).success();
    let record = Record::read(&file).unwrap();
    assert_eq!((&*record.engine, record.ranks, record.exit_code), ("mpi", 3, 0));
    assert!(record.library.contains(if *OPEN_MPI { "Open MPI" } else { "MPICH" }));
    assert!(record.launcher.is_some() && record.verification().unwrap().passed);
    assert_eq!(record.by_rank.iter().map(|part| part.rank).collect::<Vec<_>>(), [0, 1, 2]);
    for part in &record.by_rank {
        let timed = part.timed.as_ref().unwrap();
        assert!(timed.stats.peers.values().all(|peer| peer.messages_sent == 50), "{timed:?}");
        assert!(part.usage.unwrap().cpu_s > 0.0);
    }
    // Who alone was told tells the others.
    fs::remove_file(&file).unwrap();
    let mut command = mpirun(1, &example("heat2d"));
    let told = format!("SPMD_RECORD={}", file.display());
    command.args(&small[..4]).args([":", "-n", "1", "env", &told]).arg(example("heat2d"));
    run(command.args(&small[..4])).success();
    assert_eq!(Record::read(&file).unwrap().by_rank.len(), 2);
}

#[test]
fn a_failed_run_leaves_why() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("record.json");
    let record = |what| {
        let ending = fault(3, &[what, "barrier", "--record", file.to_str().unwrap()]);
        (ending.code, Record::read(&file).unwrap())
    };
    let (code, failed) = record("error");
    assert_eq!((code, failed.exit_code), (Some(1), 1));
    assert!(failed.failed.as_ref().is_some_and(|failed| failed.rank == 1), "{failed:?}");
    assert_eq!(failed.by_rank.len(), 1, "others cannot be asked");
    let (code, wrong) = record("wrong-result");
    assert_eq!((code, wrong.exit_code), (Some(3), 3));
    assert!(!wrong.verification().unwrap().passed);
}

#[test]
fn a_study_binds_every_rank_to_cpus_of_its_own() {
    let directory = tempfile::tempdir().unwrap();
    let mut study = program(spmd());
    study.arg("scale").arg(example("heat2d")).arg("--out").arg(directory.path());
    study.args(["--launcher", "mpirun", "--ranks", "1,2,4", "--launches", "1"]);
    study.args(["--", "--size", "61,47", "--steps", "20"]);
    // The command looks for mpirun itself.
    let mut path = std::env::var_os("SPMD_MPIRUN")
        .and_then(|launcher| Path::new(&launcher).parent().map(|bin| bin.as_os_str().to_owned()))
        .unwrap_or_default();
    path.push(":");
    path.push(std::env::var_os("PATH").unwrap_or_default());
    study.env("PATH", path);
    study.env("OMPI_ALLOW_RUN_AS_ROOT", "1").env("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1");
    run_alone(&mut study).success();
    let text = fs::read_to_string(directory.path().join("study.json")).unwrap();
    let study: serde_json::Value = serde_json::from_str(&text).unwrap();
    for sample in study["samples"].as_array().unwrap() {
        let (parts, point) = (&sample["run"]["parts"], sample["point"].as_u64().unwrap());
        let parts = parts.as_array().unwrap();
        assert_eq!(parts.len(), [1, 2, 4][point as usize]);
        assert_eq!(
            (&sample["run"]["engine"], &sample["run"]["verified"]),
            (&"mpi".into(), &true.into())
        );
        if sample["binding"] == "not bound" {
            continue; // crowded
        }
        let mut cpus: Vec<&str> = parts.iter().map(|part| part["cpus"].as_str().unwrap()).collect();
        cpus.sort_unstable();
        cpus.dedup();
        assert_eq!(cpus.len(), parts.len(), "{sample}");
    }
}

#[test]
fn the_job_gives_the_same_bits_on_any_number_of_ranks_and_on_local() {
    let heat = example("heat2d");
    let small = ["--size", "61,47", "--steps", "50"];
    let checksum = |ending: Ending| {
        let out = ending.success().stdout;
        assert!(out.contains("verification: passed"), "{out}");
        let line = out.lines().find(|line| line.starts_with("checksum: "));
        line.expect("the checksum is printed").to_owned()
    };
    let local = run(program(&heat).args(small).args(["--engine", "local", "-n", "5"]));
    let expected = checksum(local);
    side_by_side(&[1, 2, 3, 4, 8], |&ranks| {
        assert_eq!(checksum(run(mpirun(ranks, &heat).args(small))), expected, "{ranks} ranks");
    });
    let shared = run(mpirun(4, &heat).args(small).args(["--share-cpu", "--threads", "2"]));
    assert_eq!(checksum(shared), expected);
}

#[test]
fn random_programs_give_the_same_bits_as_on_local_and_as_the_model() {
    let random = example("random");
    side_by_side(&[1, 2, 3, 4, 8], |&ranks| {
        let arguments = ["--programs", "25", "--engine", "local", "-n", &ranks.to_string()];
        let expected = run(program(&random).args(arguments)).success().stdout;
        for checks in ["arguments", "full"] {
            let arguments = ["--programs", "25", "--checks", checks, "--timeout", "30"];
            let digest = run(mpirun(ranks, &random).args(arguments)).success().stdout;
            assert_eq!(digest, expected, "{ranks} ranks, --checks {checks}");
        }
    });
}

#[test]
fn wrong_programs_damage_nothing_deliver_nothing_wrong_and_end() {
    let random = example("random");
    let (programs, seed) = support::wrong::asked_for(25);
    let failures = Mutex::new(Vec::new());
    let levels = [("off", 2, 0), ("arguments", 3, 1), ("collective", 4, 2), ("full", 2, 3)];
    side_by_side(&levels, |&(checks, ranks, at)| {
        let _seat = beside_others();
        let start = || {
            let mut command = mpirun(ranks, &random);
            command.args(["--checks", checks, "--timeout", "0.5"]);
            command
        };
        let name = format!("{ranks} ranks, --checks {checks}");
        let failed = support::wrong::wrong_programs(&name, seed + at, programs, start);
        failures.lock().unwrap().extend(failed);
    });
    let failures = failures.into_inner().unwrap();
    assert!(failures.is_empty(), "{failures:#?}");
}

#[test]
fn a_failure_on_one_rank_ends_all_with_its_cause() {
    let cases = [
        ("error", "recv", 1),
        ("error", "barrier", 1),
        ("error", "compute", 1),
        ("panic", "recv", 1),
        ("panic", "compute", 1),
        ("panic-in-rayon", "barrier", 1),
        ("wrong-type", "recv", 1),
        ("wrong-length", "recv", 1),
        ("invalid-rank", "recv", 1),
        ("usage", "recv", 2),
        ("verification", "barrier", 3),
    ];
    side_by_side(&cases, |&(name, others, code)| {
        let text = fault(4, &[name, others]).code(code).stderr;
        assert_eq!(text.matches("error: rank ").count(), 1, "{name}, {others}: {text}");
        assert!(text.contains("error: rank 1 on "), "{name}, {others}: {text}");
        assert!(text.contains("faults.rs:"), "{name}, {others} names its place: {text}");
    });
}

#[test]
fn a_job_that_ends_well_is_no_failure_whatever_it_caught() {
    let text = fault(2, &["only-caught-panics"]).success().stderr;
    assert!(text.contains("panicked: expected (tests/programs/faults.rs:"), "{text}");
    let out = fault(2, &["task", "--threads", "1"]).success().stdout;
    assert!(out.contains("the task of rank 0") && out.contains("the task of rank 1"), "{out}");
}

#[test]
fn panics_are_told_before_the_process_can_end_and_their_cause_is_the_last() {
    let cases = [
        ("caught-panic", "panicked: a bug ("),
        ("resumed-panic", "panicked: a bug, resumed"),
        ("panic-in-task", "panicked: a bug in a task ("),
        ("panic-in-drop", "panicked: a bug in Drop ("),
        ("panic-in-extern-c", "panicked: a bug in extern C ("),
        ("panic-with-hook", "panicked: a bug ("),
        ("unspeakable", "it panicked: a bug in Display ("),
        ("undroppable", ": a hostile error ("),
    ];
    side_by_side(&cases, |&(name, why)| {
        let ending = fault(2, &[name]);
        assert_ne!(ending.code, Some(0), "{name}: {ending:#?}");
        let said = |line: &str| line.contains("error: rank 1 on ") && line.contains(why);
        assert!(ending.stderr.lines().any(said), "{name}: {ending:#?}");
    });
    let text = fault(3, &["all-panic"]).code(1).stderr;
    assert_eq!(text.matches("a bug on every rank").count(), 1, "by the first: {text}");
}

#[test]
fn a_rank_that_ends_its_process_is_named_and_never_means_success() {
    let cases = [
        ("exit", "recv", 1),
        ("exit", "compute", 1),
        ("exit-badly", "barrier", 7),
        ("exit-on-thread", "recv", 1),
    ];
    side_by_side(&cases, |&(name, others, code)| {
        let text = fault(2, &[name, others]).code(code).stderr;
        assert!(text.contains("error: rank 1 on "), "{name}: {text}");
        assert!(text.contains(": ended the process, with the job under way"), "{name}: {text}");
    });
}

#[cfg(target_os = "linux")]
#[test]
fn a_limit_on_threads_is_told_as_such() {
    let Some(group) = support::Group::new("pids", ("pids.max", "40"), ("pids.max", "40")) else {
        return;
    };
    let mut command = mpirun(1, Path::new("sh"));
    command.args(["-c", &group.script()]).arg(example("faults")).args(["none", "--threads", "64"]);
    let text = run(&mut command).code(1).stderr;
    assert!(text.contains(": cannot start the 64 threads of its rayon pool"), "{text}");
}

#[test]
fn a_step_of_one_task_around_the_launcher_is_not_the_job() {
    let mut command = mpirun(2, &spmd());
    for (name, value) in [("STEP_ID", "0"), ("PROCID", "0"), ("STEP_NUM_TASKS", "1")] {
        command.env(format!("SLURM_{name}"), value);
    }
    let out = run(command.arg("info")).success().stdout;
    assert!(out.contains("2 on 1 host"), "{out}");
}

#[test]
fn no_limit_is_no_limit_and_empty_variables_are_not_set() {
    let mut command = mpirun(2, &example("faults"));
    command.env("SPMD_CHECKS", "").env("SPMD_TIMEOUT", "").env("SPMD_RANKS", "");
    run(command.args(["none", "--timeout", "0"])).success();
}

#[test]
fn a_process_runs_one_job() {
    side_by_side(&["second-job", "nested-job"], |name| {
        let text = fault(2, &[name]).code(2).stderr;
        assert_eq!(text.matches("second job (tests/programs/faults.rs:").count(), 1, "{text}");
    });
}

/// How an attack may end: none may do damage, at any level of checks.
fn attack(name: &str, level: &str, codes: &[i32]) -> String {
    let mut command = mpirun(2, &example("attacks"));
    let ending = run(command.args([name, "--checks", level, "--timeout", "2"]));
    let timed_out = codes.contains(&4) && !*OPEN_MPI && ending.code == Some(9);
    let right = ending.code.is_some_and(|code| codes.contains(&code)) || timed_out;
    assert!(right, "{name} at {level}: {ending:#?}");
    for line in ending.stdout.lines().filter(|line| line.ends_with(" bytes changed")) {
        assert!(line.ends_with(": 0 bytes changed"), "{name} at {level}: {ending:#?}");
    }
    ending.stdout
}

#[test]
fn messages_longer_than_their_buffers_stay_inside() {
    side_by_side(&["off", "arguments", "collective", "full"], |level| {
        let out = attack("longer", level, &[0]);
        assert_eq!(out.matches("bytes changed").count(), 40, "{out}");
    });
}

#[test]
fn whoever_calls_the_library_has_been_compared() {
    let cases: [(&str, &str, &[i32]); 12] = [
        ("dup", "arguments", &[1, 4]),
        ("split", "arguments", &[1, 4]),
        ("split-node", "arguments", &[1, 4]),
        ("graph", "arguments", &[1, 4]),
        ("window", "arguments", &[1, 4]),
        ("node-array", "arguments", &[1, 4]),
        ("dup", "off", &[1, 4]),
        ("go-on", "arguments", &[0]),
        // Of the two that wait for ever in their own plan one may be alone at the end.
        ("plans", "arguments", &[0, 1, 4]),
        ("dropped-plans", "off", &[0]),
        ("dropped-plans", "arguments", &[0]),
        ("dropped-plans", "full", &[0]),
    ];
    side_by_side(&cases, |&(name, level, codes)| drop(attack(name, level, codes)));
}

#[test]
fn views_that_lie_and_windows_that_were_refused_do_no_damage() {
    side_by_side(&["off", "arguments", "full"], |level| {
        attack("lie", level, &[0]);
        attack("refused", level, &[0]);
        attack("counts", level, &[0, 4]);
    });
}

#[test]
fn a_window_that_outlives_the_run_is_closed_and_its_memory_stays() {
    let out = attack("kept", "arguments", &[0]);
    assert_eq!(out.matches("kept: 701").count(), 2, "{out}");
    assert_eq!(out.matches("the run that this communicator belonged to has ended").count(), 4);
}

#[test]
fn a_killed_rank_ends_all() {
    let ending = fault(4, &["killed", "compute"]);
    assert!(ending.took < LIMIT && ending.code != Some(0), "{ending:#?}");
}

#[test]
fn a_deadlock_ends_at_the_timeout_and_says_what_ranks_wait_for() {
    let text = fault(3, &["deadlock", "--timeout", "1"]).timed_out().stderr;
    assert!(text.contains("error: a call waits longer than --timeout (1.0 s)"), "{text}");
    for rank in 0..3 {
        let next = (rank + 1) % 3;
        assert!(text.contains(&format!("\n  rank {rank} on ")), "{text}");
        assert!(text.contains(&format!(" in recv from rank {next} tag 7 (tests/")), "{text}");
    }
    assert_eq!(text.matches("faults.rs:").count(), 3, "{text}");
}

#[test]
fn a_timeout_says_who_computes_and_who_has_finished() {
    let text = fault(3, &["stuck", "--timeout", "1", "--checks", "arguments"]).timed_out().stderr;
    assert!(text.contains(" in recv from rank 2 tag 9 (tests/"), "{text}");
    assert!(text.contains(": computes; it has made no call for "), "{text}");
    assert!(text.contains(": has finished"), "{text}");
}

#[test]
fn waits_outside_of_every_call_end_at_the_timeout() {
    let text = fault(3, &["channel-waits", "--timeout", "1", "--checks", "arguments"]).timed_out();
    let text = text.stderr;
    assert!(text.contains(": waits outside of spmd; it has made no call for "), "{text}");
    assert_eq!(text.matches(" in barrier, with 0 bytes (tests/").count(), 2, "{text}");
    let text = fault(3, &["task-waits", "--timeout", "1", "--threads", "1"]).timed_out().stderr;
    assert!(text.contains("error: nothing moves for longer than --timeout (1.0 s)"), "{text}");
    assert_eq!(
        text.matches(": waits outside of spmd; it has made no call for ").count(),
        2,
        "{text}"
    );
    assert!(text.contains(": has finished") && text.contains("it needs --threads 2"), "{text}");
    fault(3, &["task-waits", "--timeout", "5", "--threads", "2"]).success();
}

#[test]
fn an_exchange_that_one_rank_leaves_out_ends_at_the_timeout() {
    for others in ["compute", "barrier"] {
        let words = ["sparse-left-out", others, "--timeout", "1", "--checks", "arguments"];
        let text = fault(3, &words).timed_out().stderr;
        assert_eq!(text.matches(" in exchange_sparse (tests/").count(), 2, "{text}");
    }
    let text = fault(3, &["sparse-left-out", "barrier", "--checks", "collective"]).code(1).stderr;
    assert!(text.contains(" exchange_sparse of u8 (") && text.contains(" barrier of "), "{text}");
}

#[test]
fn a_timeout_says_what_ranks_give_to_a_collective() {
    let text = fault(3, &["absent", "--timeout", "1", "--checks", "arguments"]).timed_out().stderr;
    assert_eq!(text.matches(" in allreduce(Sum), with 800 bytes (tests/").count(), 2, "{text}");
}

#[test]
fn a_start_that_does_not_come_to_an_end_ends_at_the_timeout() {
    // One process of the launch never comes to MPI.
    let mut command = mpirun(1, &example("faults"));
    command.args(["none", "--timeout", "2", ":", "-n", "1", "sleep", "120"]);
    let text = run(&mut command).timed_out().stderr;
    assert!(text.contains("error: rank 0 on "), "{text}");
    assert!(text.contains("longer than --timeout, waits for "), "{text}");
    assert!(text.contains(" at the start, in "), "{text}");
}

#[test]
fn a_rank_that_is_not_there_any_more_does_not_keep_those_that_have_finished() {
    let text = fault(3, &["stopped", "--timeout", "1"]).timed_out().stderr;
    assert!(text.contains("error: nothing has been heard of rank 1 on "), "{text}");
    assert!(text.contains(": does not answer"), "{text}");
    assert!(text.contains(": has finished"), "{text}");
}

#[test]
fn what_is_left_undone_does_not_keep_the_job_from_ending_and_is_reported() {
    for (level, place) in
        [("full", "sent (tests/"), ("arguments", "sent; --checks full says where")]
    {
        let text = fault(3, &["never-received", "--checks", level]).success().stderr;
        let message = "rank 1: a message of 1048576 bytes from rank 0 tag 3 was never received, ";
        assert!(text.contains(&format!("{message}{place}")), "{text}");
        let request =
            "rank 1: irecv from rank 2 tag 77 was never waited for (tests/programs/faults.rs:";
        assert!(text.contains(request), "{text}");
    }
}

#[test]
fn a_message_on_a_communicator_that_is_gone_is_told() {
    let text = fault(3, &["never-receivable"]).success().stderr;
    assert!(text.contains("was never received"), "{text}");
}

/// Two ranks that are told different things: what ranks 0 and 1 are told.
fn apart(first: (&Path, &[&str]), second: (&Path, &[&str])) -> Ending {
    let mut command = mpirun(1, first.0);
    command.args(first.1).args([":", "-n", "1"]);
    command.arg(second.0).args(second.1);
    run(&mut command)
}

#[test]
fn what_one_rank_was_told_holds_for_all() {
    let faults = example("faults");
    let text = apart((&faults, &["none"]), (&faults, &["none", "--stats"])).success().stderr;
    assert_eq!(text.matches("the calls of all 2 ranks:").count(), 1, "{text}");
    let out = apart((&spmd(), &["info"]), (&spmd(), &["info", "--share-cpu"])).success().stdout;
    assert!(out.contains("concurrent (all ranks on one cpu)"), "{out}");
    // Of threads that call MPI the least that a rank is ready for: no rank waits for one that was
    // refused.
    let (few, all) = ("threads", ["threads", "--thread-multiple"]);
    let text = apart((&faults, &[few]), (&faults, &all)).code(1).stderr;
    assert!(text.contains("start the program with --thread-multiple"), "{text}");
    let text = apart((&faults, &["deadlock", "--timeout", "1"]), (&faults, &["deadlock"]));
    assert!(text.timed_out().stderr.contains("rank 1 on "));
}

#[test]
fn ranks_that_cannot_run_together_are_named() {
    let faults = example("faults");
    let good: (&Path, &[&str]) = (&faults, &["none"]);
    let log: &[&str] = &["none", "--log-dir", "/proc/none"];
    let cases = [
        (good, (&*faults, log), "error: rank 1 on "),
        (good, (&*faults, log), ": cannot make the log directory /proc/none: "),
        ((&*faults, log), good, "error: rank 0 on "),
        (good, (&*faults, &["none", "--no-such-option"][..]), ": unexpected argument"),
        (good, (&*faults, &["none", "--engine", "local"][..]), "different engines: rank 1 on "),
        ((&*faults, &["none", "--engine", "local"][..]), good, "different engines: rank 0 on "),
        (good, (&*spmd(), &["info"][..]), "do not run the same program: rank 0 on "),
    ];
    side_by_side(&cases, |&(first, second, why)| {
        let text = apart(first, second).code(2).stderr;
        assert_eq!(text.matches("error: ").count(), 1, "{text}");
        assert!(text.contains(why), "{why}: {text}");
    });
}

#[test]
fn processes_that_are_all_told_so_run_jobs_of_their_own() {
    let words = ["info", "--engine", "local", "--ranks", "3"];
    let out = run(mpirun(2, &spmd()).args(words)).success().stdout;
    assert_eq!(out.matches("local (ranks are threads)").count(), 2, "{out}");
}

#[cfg(target_os = "linux")]
#[test]
fn the_stack_of_a_rank_is_what_the_user_has_set_for_rust() {
    let mut command = mpirun(2, &example("faults"));
    command.env("RUST_MIN_STACK", "100000000").env("STACK_KIB", "30000");
    run(command.args(["deep-stack", "--threads", "2"])).success();
}

#[test]
fn what_a_rank_starts_is_no_rank() {
    fault(2, &["child"]).success();
}

#[test]
fn what_does_not_fit_into_memory_is_an_error_on_all_ranks_who_go_on() {
    let ending = fault(2, &["too-large"]).code(1);
    let why = |op: &str| format!(": {op} failed: on the host of rank 0 ");
    assert_eq!(ending.stdout.matches(&why("window")).count(), 2, "{ending:#?}");
    assert!(ending.stderr.contains(&why("node_array")), "{ending:#?}");
    assert!(ending.stderr.contains(" are wanted, "), "{ending:#?}");
}

#[test]
fn an_mpi_that_makes_no_more_communicators_says_how_many_are_alive() {
    // Tens of thousands of communicators.
    let mut command = mpirun(2, &example("faults"));
    let text = run_alone(command.args(["too-many", "--checks", "arguments"])).code(1).stderr;
    let why = ": dup failed: MPI makes no more communicators, ";
    assert!(text.contains(why) && text.contains(" are alive on this rank: "), "{text}");
    assert!(text.contains("help: drop those that are not needed any more"), "{text}");
}

#[test]
fn usage_is_told_once() {
    let text = fault(4, &["--no-such-option"]).code(2).stderr;
    assert_eq!(text.matches("unexpected argument").count(), 1, "{text}");
    let text = fault(2, &["error", "--ranks", "5"]).code(2).stderr;
    assert!(text.contains("--ranks 5"), "{text}");
}

#[test]
fn ranks_share_one_cpu_on_demand() {
    let out = run(mpirun(4, &spmd()).args(["info", "--share-cpu"])).success().stdout;
    assert!(out.contains("concurrent (all ranks on one cpu)"), "{out}");
}

#[test]
fn benchmarks_measure_real_messages() {
    let words =
        ["bench", "latency", "allreduce", "--sizes", "8", "--iterations", "20", "--format", "csv"];
    let out = run(mpirun(2, &spmd()).args(words)).success().stdout;
    let lines: Vec<&str> = out.lines().map(str::trim_end).collect();
    assert_eq!(lines.len(), 3, "{out}");
    assert!(lines[1].starts_with("mpi,2,false,latency,8,20,us,"), "{out}");
    assert!(lines[2].starts_with("mpi,2,false,allreduce,8,20,us,"), "{out}");
}

/// The names in a directory.
fn names(directory: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(directory).unwrap();
    let mut names: Vec<_> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn a_job_that_fails_while_a_file_is_written_leaves_nothing_of_it() {
    let directory = tempfile::tempdir().unwrap();
    nix::unistd::mkfifo(&directory.path().join("pipe.npy"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    let mut command = mpirun(2, &example("faults"));
    command.arg("while-writing").current_dir(&directory).env("TMPDIR", directory.path());
    let text = run(&mut command).code(1).stderr;
    assert!(text.contains("error: rank 1 on ") && text.contains("the disk is full"), "{text}");
    let left: Vec<_> =
        names(directory.path()).into_iter().filter(|name| name.starts_with('.')).collect();
    // Though MPICH's launcher may end the others by SIGKILL.
    assert!(left.is_empty(), "{left:?}");
}

/// Two ranks that write a file together, the second one started by `how`, in a directory of the
/// test.
#[cfg(feature = "phdf5")]
fn write_together(directory: &Path, how: &[&str], first: &str, second: &str) -> Ending {
    let heat = example("heat2d");
    let small = ["--size", "30,20", "--steps", "1", "--timeout", "60", "--output"];
    let mut command = mpirun(1, &heat);
    command.args(small).arg(first).args([":", "-n", "1"]).args(how).arg(&heat);
    run(command.args(small).arg(second).current_dir(directory))
}

#[cfg(feature = "phdf5")]
#[test]
fn ranks_in_directories_of_their_own_write_one_hdf5_file() {
    let directory = tempfile::tempdir().unwrap();
    let [first, second] = ["a", "b"].map(|name| directory.path().join(name));
    for each in [&first, &second] {
        std::fs::create_dir(each).unwrap();
    }
    // The launcher changes to a directory for the first program and for the second.
    let heat = example("heat2d");
    let arguments = ["--size", "30,20", "--steps", "1", "--output", "field.h5"];
    let mut command = mpirun(1, Path::new("--wdir"));
    command.arg(&first).arg(&heat).args(arguments).args([":", "-n", "1", "--wdir"]).arg(&second);
    run(command.arg(&heat).args(arguments)).success();
    assert_eq!((names(&first), names(&second).len()), (vec!["field.h5".to_owned()], 0));
}

#[cfg(feature = "phdf5")]
#[test]
fn arrays_of_every_kind_go_round_through_files_that_all_ranks_write() {
    for ranks in [1, 2, 3, 5] {
        let directory = tempfile::tempdir().unwrap();
        let ending = run_alone(mpirun(ranks, &example("files")).arg(directory.path())).success();
        assert_eq!(ending.stdout, "files: ok\n");
        assert!(!names(directory.path()).iter().any(|name| name.starts_with('.')), "{ranks}");
    }
}

/// Beyond what MPI libraries count in 31 bits: only on demand, it needs 5 GB of memory and 2 GB of
/// disk.
#[cfg(feature = "phdf5")]
#[test]
fn a_rank_writes_more_than_31_bits_can_count_and_the_others_nothing() {
    let required = std::env::var("SPMD_REQUIRE").unwrap_or_default();
    if !required.split(',').any(|it| it == "large") {
        println!("skipped: needs 5 GB of memory (SPMD_REQUIRE=large runs it)");
        return;
    }
    for bytes in [(1_u64 << 31) - 8, 1 << 31, (1 << 31) + 8] {
        let directory = tempfile::tempdir().unwrap();
        let mut command = mpirun(3, &example("files"));
        command.arg(directory.path()).args(["--bytes", &bytes.to_string()]);
        run_alone(&mut command).success();
    }
}

#[cfg(feature = "phdf5")]
#[test]
fn an_hdf5_file_that_one_rank_cannot_write_ends_the_job() {
    let directory = tempfile::tempdir().unwrap();
    let shared = directory.path().join("shared");
    std::fs::create_dir(&shared).unwrap();
    let apart = Command::new("unshare").args(["-m", "true"]).status();
    if !apart.is_ok_and(|status| status.success()) {
        println!("skipped: directories that ranks do not share need the right to make them");
        return;
    }
    let own = "mount -t tmpfs none shared && exec \"$@\"";
    let read_only = "mount --bind shared shared && mount -o remount,ro,bind shared && exec \"$@\"";
    for (mount, why) in [(own, "No such file"), (read_only, "Read-only")] {
        let how = ["unshare", "-m", "sh", "-c", mount, "sh"];
        let ending = write_together(directory.path(), &how, "shared/x.h5", "shared/x.h5").code(1);
        let text = &ending.stderr;
        assert_eq!(text.matches("error: ").count(), 1, "{text}");
        for words in ["rank 1", "shared/x.h5", why, "all hosts share"] {
            assert!(text.contains(words), "{words}: {text}");
        }
        assert!(names(&shared).is_empty(), "nothing is left");
    }
    // A disk that is full, for all ranks.
    let heat = example("heat2d");
    let job = mpirun(2, &heat);
    let mut command = program("unshare");
    command.args(["-m", "sh", "-c"]);
    command.arg(
        "mount -t tmpfs -o size=900k none shared && \"$@\"; code=$?; ls -A shared; exit $code",
    );
    command.args(["sh"]).arg(job.get_program()).args(job.get_args()).current_dir(&directory);
    for (name, value) in job.get_envs() {
        value.map(|value| command.env(name, value));
    }
    command.args(["--size", "1000,1000", "--steps", "1", "--output", "shared/x.h5"]);
    let ending = run(&mut command).code(1);
    assert!(ending.stderr.contains("x.h5: needs 8.0 MB, "), "{ending:?}");
    assert!(!ending.stdout.contains("x.h5"), "{ending:?}");
}

/// A signal to a rank, or one that the launcher hands on, stops the job with its state kept; it goes
/// on without a launcher.
#[test]
fn a_job_that_is_asked_to_stop_goes_on_on_another_engine() {
    let directory = tempfile::tempdir().unwrap();
    let (kept, processes) = (directory.path().join("kept"), directory.path().join("processes"));
    // Each rank says which process it is.
    let mut command = mpirun(3, "sh".as_ref());
    command.args(["-c", "echo $$ >> processes && exec \"$0\" \"$@\""]).arg(example("heat2d"));
    command.args(["--size", "24,31", "--steps", "4000000000", "--every", "0.1s", "--checkpoint"]);
    command.arg(&kept).current_dir(&directory);
    let asked = thread::spawn(move || {
        let limit = Instant::now() + Duration::from_secs(60);
        while !kept.join("000002").exists() && Instant::now() < limit {
            thread::sleep(Duration::from_millis(20));
        }
        let processes = std::fs::read_to_string(processes).unwrap_or_default();
        let last = processes.lines().last().unwrap_or_default().to_owned();
        Command::new("kill").args(["-TERM", &last]).status().expect("kill starts");
        kept
    });
    let text = run(&mut command).code(5).stderr;
    let kept = asked.join().expect("the signal was sent");
    assert!(text.contains(", to be continued from "), "{text}");
    let on_local = |ranks: &str, steps: &str, arguments: &[&OsStr]| {
        let mut command = program(example("heat2d"));
        command.args(["--engine", "local", "--size", "24,31", "-n", ranks, "--steps", steps]);
        support::run(command.args(arguments), Duration::from_secs(120))
    };
    let continued = ["--checkpoint".as_ref(), kept.as_os_str()];
    let told = on_local("1", "0", &continued).code(2).stderr;
    let (_, step) = told.split_once("is at step ").expect("it is too far");
    let step: String = step.chars().take_while(char::is_ascii_digit).collect();
    let steps = (step.parse::<u64>().expect("a number") + 10).to_string();
    let checksum = |ending: Ending| {
        let text = ending.success().stdout;
        let line = text.lines().find(|line| line.starts_with("checksum: "));
        line.unwrap_or_default().to_owned()
    };
    let (here, undisturbed) = (on_local("5", &steps, &continued), on_local("1", &steps, &[]));
    assert_eq!(checksum(here), checksum(undisturbed));
}

#[test]
fn a_trace_is_made_of_processes_too() {
    let directory = tempfile::tempdir().unwrap();
    let trace = directory.path().join("trace.json");
    let mut command = mpirun(3, &example("heat2d"));
    command.args(["--size", "64,48", "--steps", "10", "--trace"]).arg(&trace);
    run(&mut command).success();
    assert!(!directory.path().join("trace.json.parts").exists(), "the parts are gone");
    let view = |path: &std::path::Path| {
        let mut command = program(spmd());
        support::run(command.arg("view").arg(path), Duration::from_secs(60)).success().stdout
    };
    let told = view(&trace);
    assert!(told.contains("\n3 ranks, "), "{told}");
    // Ten steps between three ranks in a row.
    let row = |rank: &str| {
        let messages = told.lines().skip_while(|line| !line.starts_with("messages from"));
        let line = messages.skip(2).find(|line| line.split(' ').next() == Some(rank));
        line.unwrap_or_default().split_whitespace().skip(1).collect::<Vec<_>>().join(" ")
    };
    assert_eq!([row("0"), row("1"), row("2")], [". 10 .", "10 . 10", ". 10 ."], "{told}");

    // Of a job that is ended there is what was noted until then, with the late sender's line.
    let mut command = mpirun(2, &example("faults"));
    command.args(["error", "--trace"]).arg(&trace);
    let ended = run(&mut command).code(1).stderr;
    assert!(ended.contains("trace.json.parts"), "{ended}");
    assert!(view(&directory.path().join("trace.json.parts")).contains("ranks, "));
}

#[cfg(feature = "elastic")]
#[test]
fn a_world_is_one_worker_of_an_elastic_farm() {
    use support::farms::{Farm, fact};

    let mut farm = Farm::new();
    let (mut coordinator, address) = farm.serve(&["--tasks", "50", "--lease", "100"]);
    let _seat = beside_others();
    let mut command = mpirun(2, &example("elastic"));
    command.arg("--token-file").arg(farm.file("token")).arg("--notes").arg(farm.file("notes"));
    let mut world = farm.start(command.args(["--together", "--join", &address]));
    let said = coordinator.ends_with(0);
    assert_eq!((fact(&said, "done"), fact(&said, "workers")), (50, 1), "{said}");
    assert!(world.ends_with(0).contains("worked 50 failed 0"), "{}", world.said());
}
