//! The conformance suite on the engine local.

use std::time::Duration;

mod support;

#[test]
fn the_command_reports_and_exits_with_0() {
    // Two ranks are below. Seven have three rounds, and a tree that is not full. Under a sanitizer, where all takes
    // long, the world is enough.
    for ranks in ["1", "3", "4", "7"] {
        let mut command = support::spmd();
        command.args(["selftest", "-n", ranks]);
        if cfg!(any(tsan, asan)) {
            command.arg("--quick");
        }
        let ending = support::run(&mut command, LIMIT).success();
        assert!(
            !ending.stderr.contains("never waited for"),
            "of what cases do on purpose: {ending:?}"
        );
        let passed = ending.stdout.strip_suffix(" passed, 0 failed\n").unwrap_or_default();
        assert!(passed.parse::<u32>().is_ok_and(|passed| passed > 200), "{ending:?}");
    }
}

#[test]
fn verbose_names_every_case() {
    let mut command = support::spmd();
    let ending = support::run(command.args(["selftest", "-n", "2", "--verbose"]), LIMIT).success();
    let passed = ending.stdout.lines().filter(|line| line.starts_with("passed  ")).count();
    assert_eq!(ending.stdout.lines().last(), Some(&*format!("{passed} passed, 0 failed")));
    // On the world, on one rank, on a duplicate and on a split.
    let mut command = support::spmd();
    let ending = support::run(command.args(["selftest", "-n", "2", "--quick"]), LIMIT).success();
    assert_eq!(ending.stdout, format!("{} passed, 0 failed\n", passed / 4));
}

#[test]
fn all_cases_pass_when_ranks_share_one_cpu() {
    let mut command = support::spmd();
    let args = ["selftest", "-n", "4", "--share-cpu"];
    let ending = support::run(command.args(args), LIMIT);
    if cfg!(target_os = "linux") {
        assert!(ending.success().stdout.ends_with(" passed, 0 failed\n"));
    }
}

/// Against hanging only.
const LIMIT: Duration = Duration::from_secs(300);
