//! However a rank fails, the job ends at once, with the first cause, said once, and the right exit
//! code.

use std::{process::Command, time::Duration};

mod support;

/// A job of 4 ranks that must end by itself; the designed 2 s and room for a busy machine.
fn job(arguments: &[&str]) -> support::Ending {
    support::run(local(4).args(arguments), Duration::from_secs(10))
}

/// The command that starts the program on so many ranks.
fn local(ranks: usize) -> Command {
    let mut command = support::program(support::example("faults"));
    command.args(["-n", &ranks.to_string()]);
    command
}

/// The job failed with this code and said so once: which rank, on which host, why, and where in the
/// source.
#[track_caller]
fn fails(arguments: &[&str], code: i32, rank: &str, why: &str) -> support::Ending {
    let ending = job(arguments).code(code);
    let text = &ending.stderr;
    assert_eq!(text.matches("error: ").count(), 1, "one cause: {text}");
    let host = nix::unistd::gethostname().unwrap().into_string().unwrap();
    let (who, place) = (format!("error: {rank}"), format!(" on {host}: "));
    assert!(text.starts_with(&who) && text.contains(&place), "who and on which host: {text}");
    assert!(text.contains(why), "why: {text}");
    assert!(text.contains("(tests/programs/faults.rs:"), "where: {text}");
    assert!(ending.stdout.is_empty(), "{ending:?}");
    ending
}

#[test]
#[cfg(target_os = "linux")]
fn output_that_cannot_be_printed_is_no_panic() {
    let mut command = support::program("bash");
    command.args([
        "-c",
        "exec \"$0\" -n 2 >/dev/full",
        support::example("hello").to_str().unwrap(),
    ]);
    let ending = support::run(command.env("RUST_BACKTRACE", "1"), Duration::from_secs(10)).code(1);
    let text = &ending.stderr;
    assert!(text.contains(": cannot print to standard output: No space left"), "{text}");
    assert!(!text.contains("panicked") && text.lines().count() <= 2, "{text}");
}

#[test]
fn ranks_that_no_machine_has_are_refused() {
    let mut command = support::program(support::example("hello"));
    let ending = support::run(command.args(["-n", "99999999"]), Duration::from_secs(10)).code(2);
    assert!(ending.stderr.contains("at most 10000 ranks"), "{ending:?}");
}

#[test]
fn an_error_ends_the_job() {
    fails(&["error"], 1, "rank 1", "the disk is full");
}

#[test]
fn an_error_ends_the_job_wherever_the_others_are() {
    for place in ["recv", "barrier", "compute"] {
        fails(&["exit-while-others-in", place], 1, "rank 1", "the disk is full");
    }
}

#[test]
fn a_panic_ends_the_job_wherever_the_others_are() {
    for place in ["recv", "barrier", "compute"] {
        fails(&["panic", place], 1, "rank 1", "panicked: a bug (");
    }
}

#[test]
fn a_panic_on_a_rayon_thread_is_the_ranks() {
    fails(&["panic-in-rayon"], 1, "rank 1", "panicked: a bug in step 777");
    fails(&["panic-in-rayon", "--threads", "3"], 1, "rank 1", "panicked: a bug in step 777");
}

#[test]
fn a_deadlock_is_found_and_lists_all_ranks() {
    let ending = fails(&["deadlock"], 4, "rank ", "deadlock, every rank waits (");
    for rank in 0..4 {
        let next = (rank + 1) % 4;
        let line = format!("  rank {rank}: recv from rank {next} tag 7 (tests/programs/faults.rs:");
        assert!(ending.stderr.contains(&line), "{}", ending.stderr);
    }
}

#[test]
fn a_lost_message_is_a_deadlock() {
    let ending = fails(&["message-lost"], 4, "rank 1", "recv from rank 0 tag 42 failed: deadlock");
    assert!(ending.stderr.contains("  rank 0: finished"), "{}", ending.stderr);
}

#[test]
fn an_exchange_that_one_rank_leaves_out_is_a_deadlock() {
    for (others, theirs) in [("compute", "finished"), ("barrier", "barrier (tests/programs/")] {
        let arguments = ["sparse-left-out", others];
        let ending = fails(&arguments, 4, "rank ", "deadlock, every rank waits (");
        let text = &ending.stderr;
        assert!(text.contains("  rank 0: exchange_sparse (tests/programs/faults.rs:"), "{text}");
        assert!(text.contains(&format!("  rank 1: {theirs}")), "{text}");
    }
}

#[test]
fn a_window_that_does_not_fit_into_memory_is_an_error_on_all_ranks() {
    let why = "140737488355328 bytes of memory are wanted, ";
    let ending = job(&["too-large"]).code(1);
    assert!(ending.stderr.contains(why), "{ending:#?}");
    assert_eq!(ending.stdout.matches(why).count(), 4, "{ending:#?}");
}

#[test]
fn a_wrong_type_names_both_types() {
    let why = "rank 0 sent values of type u32, this rank receives f64";
    fails(&["wrong-type"], 1, "rank 1", why);
    fails(&["wrong-type", "compute"], 1, "rank 1", why);
}

#[test]
fn a_wrong_length_names_both_lengths() {
    let ending = fails(&["wrong-length"], 1, "rank 1", "message holds 12 bytes, buffer 8");
    assert!(ending.stderr.contains("help: `recv` allocates"), "{}", ending.stderr);
}

#[test]
fn an_invalid_rank_is_named_with_those_that_are_valid() {
    let why = "there is no rank 4, the communicator has ranks 0 to 3";
    fails(&["invalid-rank", "barrier"], 1, "rank 1", why);
}

#[test]
fn a_failed_verification_exits_with_3() {
    fails(&["verification", "barrier"], 3, "rank 1", "the energy has changed");
}

#[test]
fn a_usage_error_of_the_program_exits_with_2() {
    fails(&["usage", "barrier"], 2, "rank 1", "the grid is smaller than the ranks");
}

#[test]
fn what_is_left_undone_does_not_keep_the_job_from_ending_and_is_reported() {
    let text = job(&["never-received"]).success().stderr;
    let message =
        "rank 1: a message of 1048576 bytes from rank 0 tag 3 was never received, sent (tests/";
    assert!(text.contains(message), "{text}");
    let request =
        "rank 1: irecv from rank 2 tag 77 was never waited for (tests/programs/faults.rs:";
    assert!(text.contains(request), "{text}");
}

#[test]
fn a_single_rank_fails_like_any_other() {
    // Its own rank 0 waits for itself.
    let ending = support::run(local(1).arg("deadlock"), Duration::from_secs(10)).code(4);
    assert!(ending.stderr.contains("rank 0: recv from rank 0 tag 7"), "{}", ending.stderr);
}

/// The job must have failed, not well nor by a signal that the test sent; what it said on standard
/// error.
#[track_caller]
fn broken(arguments: &[&str]) -> String {
    let ending = job(arguments);
    assert_ne!(ending.code, Some(0), "{ending:#?}");
    assert!(ending.took < Duration::from_secs(10), "{ending:#?}");
    ending.stderr
}

#[test]
fn the_panic_that_was_caught_last_is_the_cause() {
    for threads in ["1", "2"] {
        let text = job(&["caught-panic", "--threads", threads]).code(1).stderr;
        let cause = text.lines().last().unwrap_or_default();
        assert!(cause.starts_with("error: rank 1 on ") && cause.contains(": panicked: a bug ("));
        assert!(text.contains("panicked: expected (tests/programs/faults.rs:"), "{text}");
    }
    job(&["only-caught-panics"]).success();
}

#[test]
fn a_panic_without_a_hook_keeps_its_text() {
    let text = job(&["resumed-panic"]).code(1).stderr;
    assert!(text.starts_with("error: rank 1 on ") && text.contains("panicked: a bug, resumed"));
}

#[test]
fn a_panic_in_a_task_that_nobody_waits_for_ends_the_job() {
    for threads in ["1", "3"] {
        let arguments = ["panic-in-task", "recv", "--threads", threads];
        fails(&arguments, 1, "rank 1", "panicked: a bug in a task (");
    }
}

#[test]
fn a_panic_that_aborts_is_told_before() {
    for (fault, why) in [("panic-in-drop", "a bug in Drop"), ("panic-in-extern-c", "in extern C")] {
        let text = broken(&[fault]);
        assert!(text.starts_with("error: rank 1 on "), "{text}");
        assert!(text.contains(why) && text.contains("(tests/programs/faults.rs:"), "{text}");
    }
}

#[test]
fn a_hook_of_the_programs_own_is_called() {
    let text = job(&["panic-with-hook"]).code(1).stderr;
    assert!(text.starts_with("the hook: panicked at tests/programs/faults.rs:"), "{text}");
    assert_eq!(text.matches("error: rank 1 on ").count(), 1, "{text}");
    assert!(text.contains(": panicked: a bug (tests/programs/faults.rs:"), "{text}");
}

#[test]
fn what_all_ranks_say_is_said_by_one() {
    let text = job(&["all-panic"]).code(1).stderr;
    assert!(text.starts_with("error: rank ") && text.contains("a bug on every rank"), "{text}");
    assert!(text.lines().count() <= 2, "by the first, and by the one whose end was heard: {text}");
}

#[test]
fn an_error_that_panics_ends_the_job_all_the_same() {
    let text = job(&["unspeakable"]).code(1).stderr;
    let what = "returned an error that cannot be displayed: it panicked: a bug in Display (tests/";
    assert!(text.contains(what), "{text}");
    let text = job(&["undroppable"]).code(1).stderr;
    assert!(text.contains("rank 1 on ") && text.contains(": a hostile error (tests/"), "{text}");
}

#[test]
fn an_error_that_wraps_ours_keeps_its_exit_code_and_its_list() {
    let ending = job(&["wrapped-deadlock"]).code(4);
    let text = &ending.stderr;
    assert!(text.contains(": the halos were not exchanged (tests/programs/faults.rs:"), "{text}");
    assert!(text.contains("\n  caused by: rank "), "{text}");
    for rank in 0..4 {
        let next = (rank + 1) % 4;
        assert!(text.contains(&format!("\n  rank {rank}: recv from rank {next} tag 7 (tests/")));
    }
}

#[test]
fn a_rank_that_ends_the_process_is_named_and_never_means_success() {
    for others in ["recv", "barrier", "compute"] {
        for (fault, code) in [("exit", 1), ("exit-badly", 7)] {
            let text = job(&[fault, others]).code(code).stderr;
            assert!(text.starts_with("error: rank 1 on "), "{text}");
            assert!(text.contains(": ended the process, with the job under way"), "{text}");
        }
    }
}

#[test]
fn a_thread_of_a_rank_that_ends_the_process_never_means_success() {
    let text = job(&["exit-on-thread"]).code(1).stderr;
    assert!(text.starts_with("error: a thread on "), "{text}");
    assert!(text.contains(": ended the process, with the job under way"), "{text}");
}

#[test]
fn a_process_runs_one_job() {
    let ending = job(&["second-job"]).code(2);
    assert_eq!(ending.stdout, "the first job\n");
    let text = ending.stderr;
    assert!(text.contains("second job (tests/programs/faults.rs:"), "{text}");
    assert_eq!(text.matches("error: ").count(), 1, "{text}");
    let ending = job(&["nested-job"]).code(2);
    assert!(ending.stdout.is_empty(), "{ending:#?}");
    assert_eq!(ending.stderr.matches("error: ").count(), 1, "{ending:#?}");
}

#[test]
fn a_task_is_run_before_the_job_ends_where_a_rank_has_one_thread() {
    let out = job(&["task", "--threads", "1"]).success().stdout;
    for rank in 0..4 {
        assert!(out.contains(&format!("the task of rank {rank}\n")), "{out}");
    }
}

#[test]
fn a_job_that_fails_while_a_file_is_written_leaves_nothing_of_it() {
    let directory = tempfile::tempdir().unwrap();
    let pipe = directory.path().join("pipe.npy");
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let mut command = local(2);
    command.arg("while-writing").current_dir(&directory).env("TMPDIR", directory.path());
    let ending = support::run(&mut command, Duration::from_secs(10)).code(1);
    assert!(ending.stderr.contains("rank 1") && ending.stderr.contains("the disk is full"));
    let left: Vec<_> =
        std::fs::read_dir(&directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert_eq!(left, [pipe]);
}

/// The job must have ended at its time limit, with what every rank did; what it said.
#[track_caller]
fn overdue(arguments: &[&str]) -> String {
    let text = job(&[arguments, &["--timeout", "1"]].concat()).code(4).stderr;
    assert!(text.starts_with("error: "), "{text}");
    assert!(text.contains(" longer than --timeout (1.0 s)\n"), "{text}");
    let host = nix::unistd::gethostname().unwrap().into_string().unwrap();
    for rank in 0..4 {
        assert!(text.contains(&format!("\n  rank {rank} on {host}: ")), "{text}");
    }
    assert_eq!(text.matches("error: ").count(), 1, "{text}");
    text
}

#[test]
fn waits_outside_of_the_ranks_own_calls_end_at_the_timeout() {
    let text = overdue(&["thread-waits"]);
    for rank in 0..4 {
        let next = (rank + 1) % 4;
        let wait = format!(" s in shared recv from rank {next} tag 5 (tests/programs/faults.rs:");
        assert!(text.contains(&wait), "{text}");
    }
    let text = overdue(&["join-waits"]);
    assert!(text.contains("; a thread waits for "), "{text}");
    assert!(text.contains(" s in barrier (tests/programs/faults.rs:"), "{text}");
    let text = overdue(&["channel-waits"]);
    assert!(text.contains(" s in barrier (tests/programs/faults.rs:"), "{text}");
    assert!(text.contains("; it has made no call for "), "{text}");
    let text = overdue(&["locks-wait"]);
    assert!(text.starts_with("error: nothing moves for longer"), "{text}");
    assert!(text.contains(" ago, sendrecv ") && text.contains(": has finished"), "{text}");
    let text = overdue(&["task-waits", "--threads", "1"]);
    assert!(text.starts_with("error: nothing moves for longer"), "{text}");
    assert!(text.contains("it needs --threads 2"), "{text}");
}

#[test]
fn no_limit_is_no_limit() {
    let ending = job(&["deadlock", "--timeout", "0"]).code(4);
    assert!(ending.stderr.contains("deadlock, every rank waits"), "{ending:#?}");
    let long = ["error", "compute", "--timeout", "0"];
    fails(&long, 1, "rank 1", "the disk is full");
}

#[test]
fn variables_that_are_empty_are_not_set() {
    let mut command = local(2);
    for name in ["ENGINE", "RANKS", "THREADS", "SHARE_CPU", "TIMEOUT", "STATS", "CHECKS", "COLOR"] {
        command.env(format!("SPMD_{name}"), "");
    }
    for name in ["THREAD_MULTIPLE", "LOG_RANKS", "LOG_DIR"] {
        command.env(format!("SPMD_{name}"), "");
    }
    let ending = support::run(command.arg("task"), Duration::from_secs(10)).success();
    assert_eq!(ending.stdout.lines().count(), 2, "{ending:#?}");
}

#[cfg(target_os = "linux")]
#[test]
fn a_limit_on_threads_is_told_as_such() {
    let Some(group) = support::Group::new("pids", ("pids.max", "25"), ("pids.max", "25")) else {
        return;
    };
    let few = |arguments: &[&str]| {
        let mut command = group.program(support::example("faults"));
        support::run(command.args(arguments).arg("recv"), Duration::from_secs(20)).code(1).stderr
    };
    let text = few(&["-n", "1", "--threads", "64", "error"]);
    assert!(text.starts_with("error: rank 0 on "), "{text}");
    assert!(text.contains(": cannot start the 64 threads of its rayon pool: "), "{text}");
    assert!(text.contains("\n  help: raise the limit on threads (ulimit -u"), "{text}");
    let text = few(&["-n", "64", "--threads", "1", "deadlock"]);
    assert!(text.contains(": its thread cannot be started: "), "{text}");
}

#[cfg(target_os = "linux")]
#[test]
fn the_stack_of_a_rank_follows_the_users_settings() {
    use std::process::Command;

    let deep = |kib: &str, command: &mut Command| {
        let command = command.args(["-n", "2", "--threads", "2", "deep-stack"]);
        support::run(command.env("STACK_KIB", kib), Duration::from_secs(20))
    };
    let program = || support::program(support::example("faults"));
    assert_ne!(deep("30000", program().env_remove("RUST_MIN_STACK")).code, Some(0));
    deep("30000", program().env("RUST_MIN_STACK", "100000000")).success();
    let mut shell = support::program("sh");
    shell.env_remove("RUST_MIN_STACK").args(["-c", "ulimit -s 100000 && exec \"$0\" \"$@\""]);
    deep("30000", shell.arg(support::example("faults"))).success();
}

#[test]
fn wrong_programs_damage_nothing_and_deliver_nothing_wrong() {
    let (programs, seed) = support::wrong::asked_for(400);
    let failures = support::wrong::wrong_programs("local", seed, programs, || {
        let mut command = support::program(support::example("random"));
        command.args(["--engine", "local"]);
        command
    });
    assert!(failures.is_empty(), "{failures:#?}");
}
